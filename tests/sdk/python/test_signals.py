"""Signals: order, buffering, signal-with-start, and signals nobody can receive."""

import asyncio
from datetime import timedelta

import pytest
from temporalio import activity, workflow
from temporalio.api.enums.v1 import WorkflowTaskFailedCause
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from history import of_kind, verified
from running import unique, worker


@workflow.defn
class Collects:
    """Returns the first `count` values signalled to it, in order."""

    def __init__(self) -> None:
        self.values: list = []

    @workflow.signal
    def add(self, value) -> None:
        self.values.append(value)

    @workflow.run
    async def run(self, count: int) -> list:
        await workflow.wait_condition(lambda: len(self.values) >= count)
        return self.values


async def test_many_signals_arrive_in_order(client: Client):
    async with worker(client, [Collects]) as queue:
        handle = await client.start_workflow(Collects.run, 200, id=unique("signals"), task_queue=queue)
        for i in range(200):
            await handle.signal(Collects.add, i)
        assert await handle.result() == list(range(200))
    assert len(of_kind(await verified(handle, Collects), "WORKFLOW_EXECUTION_SIGNALED")) == 200


async def test_concurrent_signals_arrive_once_each(client: Client):
    async with worker(client, [Collects]) as queue:
        handle = await client.start_workflow(Collects.run, 200, id=unique("signals"), task_queue=queue)
        await asyncio.gather(*(handle.signal(Collects.add, i) for i in range(200)))
        assert sorted(await handle.result()) == list(range(200))
    assert len(of_kind(await verified(handle, Collects), "WORKFLOW_EXECUTION_SIGNALED")) == 200


async def test_signals_before_there_is_a_worker(client: Client):
    queue = unique("tq")
    handle = await client.start_workflow(Collects.run, 3, id=unique("signals"), task_queue=queue)
    for value in ["a", "b", "c"]:
        await handle.signal(Collects.add, value)
    async with worker(client, [Collects], task_queue=queue):
        assert await handle.result() == ["a", "b", "c"]
    history = await verified(handle, Collects)
    # All of them find the one workflow task that is scheduled and not started.
    assert len(of_kind(history, "WORKFLOW_TASK_SCHEDULED")) == 1


async def test_signal_carries_input_name_and_identity(client: Client):
    async with worker(client, [Collects]) as queue:
        handle = await client.start_workflow(Collects.run, 1, id=unique("signals"), task_queue=queue)
        await handle.signal("add", "by name")
        assert await handle.result() == ["by name"]
    (event,) = of_kind(await verified(handle, Collects), "WORKFLOW_EXECUTION_SIGNALED")
    attributes = event.workflow_execution_signaled_event_attributes
    assert attributes.signal_name == "add"
    assert attributes.input.payloads[0].data == b'"by name"'
    assert attributes.identity == client.identity


@workflow.defn
class CompletesWhileSignalled:
    """Wants to complete in the very workflow task during which a signal arrives."""

    def __init__(self) -> None:
        self.values: list[str] = []

    @workflow.signal
    def add(self, value: str) -> None:
        self.values.append(value)

    @workflow.run
    async def run(self) -> list[str]:
        await workflow.execute_local_activity("signals_once", start_to_close_timeout=timedelta(seconds=10))
        return self.values


async def test_completion_does_not_lose_a_buffered_signal(client: Client):
    sent = []

    @activity.defn
    async def signals_once() -> None:
        if not sent:
            sent.append("x")
            await client.get_workflow_handle(activity.info().workflow_id).signal(CompletesWhileSignalled.add, "x")

    async with worker(client, [CompletesWhileSignalled], [signals_once]) as queue:
        handle = await client.start_workflow(CompletesWhileSignalled.run, id=unique("buffered"), task_queue=queue)
        assert await handle.result() == ["x"]
    history = await verified(handle, CompletesWhileSignalled)
    (failed,) = of_kind(history, "WORKFLOW_TASK_FAILED")
    cause = failed.workflow_task_failed_event_attributes.cause
    assert cause == WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_UNHANDLED_COMMAND
    assert len(of_kind(history, "WORKFLOW_EXECUTION_SIGNALED")) == 1


async def test_signal_with_start_starts(client: Client):
    async with worker(client, [Collects]) as queue:
        handle = await client.start_workflow(
            Collects.run,
            1,
            id=unique("signal-start"),
            task_queue=queue,
            start_signal="add",
            start_signal_args=["first"],
        )
        assert await handle.result() == ["first"]
    history = await verified(handle, Collects)
    assert of_kind(history, "WORKFLOW_EXECUTION_SIGNALED")[0].event_id == 2


async def test_signal_with_start_signals_the_running_workflow(client: Client):
    async with worker(client, [Collects]) as queue:
        options = dict(id=unique("signal-start"), task_queue=queue, start_signal="add")
        first = await client.start_workflow(Collects.run, 2, start_signal_args=["first"], **options)
        second = await client.start_workflow(Collects.run, 2, start_signal_args=["second"], **options)
        assert second.first_execution_run_id == first.first_execution_run_id
        assert await first.result() == ["first", "second"]
        # The workflow is closed now: the next one starts a new run.
        third = await client.start_workflow(Collects.run, 1, start_signal_args=["third"], **options)
        assert third.first_execution_run_id != first.first_execution_run_id
        assert await third.result() == ["third"]


async def test_signal_to_a_closed_or_unknown_workflow(client: Client):
    async with worker(client, [Collects]) as queue:
        handle = await client.start_workflow(Collects.run, 0, id=unique("signals"), task_queue=queue)
        await handle.result()
        for target in [handle, client.get_workflow_handle(unique("unknown"))]:
            with pytest.raises(RPCError) as raised:
                await target.signal(Collects.add, 1)
            assert raised.value.status == RPCStatusCode.NOT_FOUND
