"""How workflows end: completion, failure, cancellation, termination, timeouts, retries, continue-as-new."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from temporalio import activity, workflow
from temporalio.client import Client, WorkflowContinuedAsNewError, WorkflowExecutionStatus, WorkflowFailureError
from temporalio.common import RetryPolicy
from temporalio.exceptions import ApplicationError, CancelledError, TerminatedError, TimeoutError
from temporalio.service import RPCError, RPCStatusCode

from history import events, kinds, of_kind, verified
from running import unique, worker


@workflow.defn
class Returns:
    @workflow.run
    async def run(self, value: Any) -> Any:
        return value


@workflow.defn
class Fails:
    """Fails until `succeeding_attempt` of the workflow, if any."""

    @workflow.run
    async def run(self, succeeding_attempt: int) -> int:
        attempt = workflow.info().attempt
        if attempt == succeeding_attempt:
            return attempt
        raise ApplicationError("did not work", {"attempt": attempt}, type="Unfit") from ValueError("the reason")


@workflow.defn
class Waits:
    """Waits for ever; cleans up with an activity when cancelled."""

    @workflow.run
    async def run(self) -> None:
        try:
            await workflow.wait_condition(lambda: False)
        except asyncio.CancelledError:
            await workflow.execute_activity(clean_up, start_to_close_timeout=timedelta(seconds=10))
            raise


@workflow.defn
class SwallowsCancellation:
    @workflow.run
    async def run(self) -> str:
        try:
            await workflow.sleep(3600)
        except asyncio.CancelledError:
            pass
        return "went on"


@workflow.defn
class CountsDown:
    """Continues as new until `left` is 0; returns the run ids on the way."""

    @workflow.run
    async def run(self, left: int, runs: list[str]) -> list[str]:
        runs.append(workflow.info().run_id)
        if left > 0:
            workflow.continue_as_new(args=[left - 1, runs], memo={"left": left - 1})
        return runs


@activity.defn
async def clean_up() -> None:
    pass


async def test_completion(client: Client):
    async with worker(client, [Returns]) as queue:
        handle = await client.start_workflow(Returns.run, {"x": [1, 2]}, id=unique("returns"), task_queue=queue)
        assert await handle.result() == {"x": [1, 2]}
    assert kinds(await verified(handle, Returns))[-1] == "WORKFLOW_EXECUTION_COMPLETED"
    assert (await handle.describe()).status == WorkflowExecutionStatus.COMPLETED


async def test_failure_carries_details_and_cause(client: Client):
    async with worker(client, [Fails]) as queue:
        handle = await client.start_workflow(Fails.run, 0, id=unique("fails"), task_queue=queue)
        with pytest.raises(WorkflowFailureError) as raised:
            await handle.result()
    error = raised.value.cause
    assert isinstance(error, ApplicationError)
    assert (error.message, error.type, error.details) == ("did not work", "Unfit", ({"attempt": 1},))
    assert isinstance(error.cause, ApplicationError) and error.cause.message == "the reason"
    assert kinds(await verified(handle, Fails))[-1] == "WORKFLOW_EXECUTION_FAILED"
    assert (await handle.describe()).status == WorkflowExecutionStatus.FAILED


async def test_retry_policy_starts_new_runs(client: Client):
    async with worker(client, [Fails]) as queue:
        handle = await client.start_workflow(
            Fails.run,
            3,
            id=unique("retried"),
            task_queue=queue,
            retry_policy=RetryPolicy(initial_interval=timedelta(seconds=0.1), maximum_attempts=5),
        )
        assert await handle.result() == 3
    first = client.get_workflow_handle(handle.id, run_id=handle.first_execution_run_id)
    last = await client.get_workflow_handle(handle.id).describe()
    assert last.run_id != handle.first_execution_run_id
    assert last.raw_info.first_run_id == handle.first_execution_run_id
    failed = (await events(first))[-1]
    assert failed.workflow_execution_failed_event_attributes.new_execution_run_id


async def test_cancellation_with_clean_up(client: Client):
    async with worker(client, [Waits], [clean_up]) as queue:
        handle = await client.start_workflow(Waits.run, id=unique("cancelled"), task_queue=queue)
        await handle.cancel()
        await handle.cancel()
        with pytest.raises(WorkflowFailureError) as raised:
            await handle.result()
        assert isinstance(raised.value.cause, CancelledError)
        # To cancel what is closed is no error.
        await handle.cancel()
    history = await verified(handle, Waits)
    assert len(of_kind(history, "WORKFLOW_EXECUTION_CANCEL_REQUESTED")) == 1
    assert len(of_kind(history, "ACTIVITY_TASK_COMPLETED")) == 1
    assert kinds(history)[-1] == "WORKFLOW_EXECUTION_CANCELED"
    assert (await handle.describe()).status == WorkflowExecutionStatus.CANCELED


async def test_cancellation_may_be_declined(client: Client):
    async with worker(client, [SwallowsCancellation]) as queue:
        handle = await client.start_workflow(SwallowsCancellation.run, id=unique("declines"), task_queue=queue)
        await handle.cancel()
        assert await handle.result() == "went on"
    await verified(handle, SwallowsCancellation)


@workflow.defn
class WaitsForActivity:
    @workflow.run
    async def run(self) -> None:
        await workflow.execute_activity(
            "beats_for_ever",
            start_to_close_timeout=timedelta(seconds=30),
            heartbeat_timeout=timedelta(seconds=5),
            cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
        )


async def test_cancellation_reaches_the_activity(client: Client):
    running, cancelled = asyncio.Event(), asyncio.Event()

    @activity.defn
    async def beats_for_ever() -> None:
        running.set()
        try:
            while True:
                activity.heartbeat()
                await asyncio.sleep(0.05)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    throttle = timedelta(seconds=0.2)
    options = dict(max_heartbeat_throttle_interval=throttle, default_heartbeat_throttle_interval=throttle)
    async with worker(client, [WaitsForActivity], [beats_for_ever], **options) as queue:
        handle = await client.start_workflow(WaitsForActivity.run, id=unique("cancelled"), task_queue=queue)
        await running.wait()
        await handle.cancel()
        with pytest.raises(WorkflowFailureError) as raised:
            await handle.result()
    assert isinstance(raised.value.cause, CancelledError)
    assert cancelled.is_set()
    history = await verified(handle, WaitsForActivity)
    assert kinds(history)[-1] == "WORKFLOW_EXECUTION_CANCELED"
    assert len(of_kind(history, "ACTIVITY_TASK_CANCELED")) == 1


async def test_termination(client: Client):
    async with worker(client, [Waits], [clean_up]) as queue:
        handle = await client.start_workflow(Waits.run, id=unique("terminated"), task_queue=queue)
        await handle.terminate("detail", 7, reason="no longer needed")
        with pytest.raises(WorkflowFailureError) as raised:
            await handle.result()
        assert isinstance(raised.value.cause, TerminatedError)
        assert "no longer needed" in str(raised.value.cause)
        with pytest.raises(RPCError) as again:
            await handle.terminate()
        assert again.value.status == RPCStatusCode.NOT_FOUND
    last = (await events(handle))[-1]
    attributes = last.workflow_execution_terminated_event_attributes
    assert attributes.reason == "no longer needed"
    assert [payload.data for payload in attributes.details.payloads] == [b'"detail"', b"7"]
    assert (await handle.describe()).status == WorkflowExecutionStatus.TERMINATED


async def test_termination_during_an_activity(client: Client):
    """The worker's late answer is dropped, and the workflow stays terminated."""
    running, told = asyncio.Event(), asyncio.Event()

    @activity.defn
    async def beats_for_ever() -> None:
        running.set()
        await told.wait()

    async with worker(client, [WaitsForActivity], [beats_for_ever]) as queue:
        handle = await client.start_workflow(WaitsForActivity.run, id=unique("terminated"), task_queue=queue)
        await running.wait()
        await handle.terminate()
        before = kinds(await events(handle))
        told.set()
    assert kinds(await events(handle)) == before
    assert before[-1] == "WORKFLOW_EXECUTION_TERMINATED"


@pytest.mark.parametrize("which", ["run_timeout", "execution_timeout"])
async def test_timeout(client: Client, which: str):
    async with worker(client, [Waits], [clean_up]) as queue:
        handle = await client.start_workflow(
            Waits.run, id=unique("timeout"), task_queue=queue, **{which: timedelta(seconds=1)}
        )
        with pytest.raises(WorkflowFailureError) as raised:
            await handle.result()
    assert isinstance(raised.value.cause, TimeoutError)
    assert kinds(await verified(handle, Waits))[-1] == "WORKFLOW_EXECUTION_TIMED_OUT"
    assert (await handle.describe()).status == WorkflowExecutionStatus.TIMED_OUT


async def test_timeout_without_any_worker(client: Client):
    handle = await client.start_workflow(
        Waits.run, id=unique("timeout"), task_queue=unique("nobody"), run_timeout=timedelta(seconds=1)
    )
    with pytest.raises(WorkflowFailureError) as raised:
        await handle.result()
    assert isinstance(raised.value.cause, TimeoutError)


async def test_continue_as_new(client: Client):
    async with worker(client, [CountsDown]) as queue:
        handle = await client.start_workflow(CountsDown.run, args=[2, []], id=unique("chain"), task_queue=queue)
        runs = await handle.result()
        assert len(set(runs)) == 3 and runs[0] == handle.first_execution_run_id

        first = client.get_workflow_handle(handle.id, run_id=runs[0])
        with pytest.raises(WorkflowContinuedAsNewError) as continued:
            await first.result(follow_runs=False)
        assert continued.value.new_execution_run_id == runs[1]
    for run, status in zip(runs, ["CONTINUED_AS_NEW", "CONTINUED_AS_NEW", "COMPLETED"]):
        of_run = client.get_workflow_handle(handle.id, run_id=run)
        history = await verified(of_run, CountsDown)
        attributes = history[0].workflow_execution_started_event_attributes
        assert attributes.first_execution_run_id == runs[0]
        assert (await of_run.describe()).status == WorkflowExecutionStatus[status]
    second = (await events(client.get_workflow_handle(handle.id, run_id=runs[1])))[0]
    assert second.workflow_execution_started_event_attributes.continued_execution_run_id == runs[0]
    assert await (await client.get_workflow_handle(handle.id).describe()).memo_value("left") == 0


async def test_result_long_poll_waits(client: Client):
    """A result asked for early arrives when the workflow closes."""
    async with worker(client, [Waits], [clean_up]) as queue:
        handle = await client.start_workflow(Waits.run, id=unique("long-poll"), task_queue=queue)
        waiting = [asyncio.create_task(handle.result()) for _ in range(3)]
        await asyncio.sleep(0.5)
        assert not any(task.done() for task in waiting)
        await handle.terminate()
        for task in waiting:
            with pytest.raises(WorkflowFailureError):
                await task
