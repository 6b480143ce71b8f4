"""Queries: of running, busy and closed workflows, and queries that fail."""

import asyncio
from datetime import timedelta

import pytest
from temporalio import workflow
from temporalio.client import Client, WorkflowQueryFailedError, WorkflowQueryRejectedError
from temporalio.common import QueryRejectCondition
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError

from history import events, kinds, verified
from running import unique, worker


@workflow.defn
class Counter:
    """Adds what is signalled until told to stop; the sum can be queried."""

    def __init__(self) -> None:
        self.sum = 0
        self.stopped = False

    @workflow.signal
    def add(self, value: int) -> None:
        self.sum += value

    @workflow.signal
    def stop(self) -> None:
        self.stopped = True

    @workflow.query
    def sum_plus(self, value: int) -> int:
        return self.sum + value

    @workflow.query
    def fails(self) -> None:
        raise ApplicationError("no answer", type="NoAnswer")

    @workflow.run
    async def run(self) -> int:
        await workflow.wait_condition(lambda: self.stopped)
        return self.sum


async def started(client: Client, queue: str):
    return await client.start_workflow(Counter.run, id=unique("query"), task_queue=queue)


async def test_query_sees_every_acknowledged_signal(client: Client):
    async with worker(client, [Counter]) as queue:
        handle = await started(client, queue)
        assert await handle.query(Counter.sum_plus, 100) == 100
        for i in range(1, 21):
            await handle.signal(Counter.add, 1)
            assert await handle.query(Counter.sum_plus, 100) == 100 + i
        await handle.signal(Counter.stop)
        assert await handle.result() == 20
    await verified(handle, Counter)


async def test_query_leaves_no_trace(client: Client):
    async with worker(client, [Counter]) as queue:
        handle = await started(client, queue)
        await handle.query(Counter.sum_plus, 0)
        before = kinds(await events(handle))
        for _ in range(5):
            await handle.query(Counter.sum_plus, 0)
        assert kinds(await events(handle)) == before
        await handle.terminate()


async def test_many_queries_at_once(client: Client):
    async with worker(client, [Counter]) as queue:
        handle = await started(client, queue)
        answers = await asyncio.gather(*(handle.query(Counter.sum_plus, i) for i in range(50)))
        assert answers == list(range(50))
        await handle.terminate()


async def test_query_waits_for_a_worker(client: Client):
    queue = unique("tq")
    handle = await started(client, queue)
    await handle.signal(Counter.add, 5)
    query = asyncio.create_task(handle.query(Counter.sum_plus, 0))
    await asyncio.sleep(0.3)
    assert not query.done()
    async with worker(client, [Counter], task_queue=queue):
        assert await query == 5
        await handle.terminate()


async def test_query_with_signals_in_flight(client: Client):
    async with worker(client, [Counter]) as queue:
        handle = await started(client, queue)
        signals = asyncio.gather(*(handle.signal(Counter.add, 1) for _ in range(50)))
        answers = await asyncio.gather(*(handle.query(Counter.sum_plus, 0) for _ in range(20)))
        assert all(0 <= answer <= 50 for answer in answers)
        await signals
        assert await handle.query(Counter.sum_plus, 0) == 50
        await handle.terminate()


@pytest.mark.parametrize("cached", [True, False])
async def test_query_of_a_closed_workflow(client: Client, cached: bool):
    async with worker(client, [Counter], max_cached_workflows=100 if cached else 0) as queue:
        handle = await started(client, queue)
        await handle.signal(Counter.add, 3)
        await handle.signal(Counter.stop)
        await handle.result()
        assert await handle.query(Counter.sum_plus, 0) == 3
    # A worker that has never seen the workflow answers from its history.
    async with worker(client, [Counter], task_queue=queue):
        assert await handle.query(Counter.sum_plus, 1) == 4


async def test_failing_and_unknown_query(client: Client):
    async with worker(client, [Counter]) as queue:
        handle = await started(client, queue)
        with pytest.raises(WorkflowQueryFailedError, match="no answer"):
            await handle.query(Counter.fails)
        with pytest.raises(WorkflowQueryFailedError, match="unheard_of"):
            await handle.query("unheard_of")
        # The workflow is none the worse for it.
        assert await handle.query(Counter.sum_plus, 1) == 1
        await handle.terminate()


async def test_reject_condition(client: Client):
    async with worker(client, [Counter]) as queue:
        handle = await started(client, queue)
        not_open = QueryRejectCondition.NOT_OPEN
        assert await handle.query(Counter.sum_plus, 1, reject_condition=not_open) == 1
        await handle.terminate()
        with pytest.raises(WorkflowQueryRejectedError):
            await handle.query(Counter.sum_plus, 1, reject_condition=not_open)


async def test_stack_trace_query(client: Client):
    async with worker(client, [Counter]) as queue:
        handle = await started(client, queue)
        assert "workflow: Counter" in await handle.query("__stack_trace")
        await handle.terminate()


async def test_query_of_an_unknown_workflow(client: Client):
    with pytest.raises(RPCError, match="not found"):
        await client.get_workflow_handle(unique("unknown")).query("any", rpc_timeout=timedelta(seconds=5))
