"""Timers: firing, order, cancellation, and the delay before a first workflow task."""

import asyncio
from datetime import timedelta

from temporalio import workflow
from temporalio.client import Client

from history import kinds, nanoseconds, of_kind, verified
from running import unique, worker


@workflow.defn
class Sleeps:
    @workflow.run
    async def run(self, seconds: float) -> float:
        before = workflow.now()
        await workflow.sleep(seconds)
        return (workflow.now() - before).total_seconds()


@workflow.defn
class SleepsInParallel:
    """Starts one timer per duration and returns the indices in the order in which they fired."""

    @workflow.run
    async def run(self, durations_s: list[float]) -> list[int]:
        fired: list[int] = []

        async def sleeps(index: int, duration_s: float) -> None:
            await workflow.sleep(duration_s)
            fired.append(index)

        await asyncio.gather(*(sleeps(i, duration_s) for i, duration_s in enumerate(durations_s)))
        return fired


@workflow.defn
class CancelsTimer:
    @workflow.run
    async def run(self) -> str:
        long_timer = asyncio.create_task(workflow.sleep(3600))
        await workflow.sleep(0.2)
        long_timer.cancel()
        try:
            await long_timer
        except asyncio.CancelledError:
            # A workflow task after the cancellation: the cancelled timer must stay silent.
            await workflow.sleep(0.2)
            return "cancelled"
        return "fired"


@workflow.defn
class WaitsWithTimeout:
    """Waits for a signal or a timeout, whichever comes first."""

    def __init__(self) -> None:
        self.signalled = False

    @workflow.signal
    def go(self) -> None:
        self.signalled = True

    @workflow.run
    async def run(self, timeout_s: float) -> str:
        try:
            await workflow.wait_condition(lambda: self.signalled, timeout=timedelta(seconds=timeout_s))
            return "signalled"
        except asyncio.TimeoutError:
            return "timed out"


async def test_fires_and_not_early(client: Client):
    async with worker(client, [Sleeps]) as queue:
        handle = await client.start_workflow(Sleeps.run, 0.5, id=unique("timer"), task_queue=queue)
        assert await handle.result() >= 0.5
    history = await verified(handle, Sleeps)
    assert kinds(history) == [
        "WORKFLOW_EXECUTION_STARTED",
        "WORKFLOW_TASK_SCHEDULED",
        "WORKFLOW_TASK_STARTED",
        "WORKFLOW_TASK_COMPLETED",
        "TIMER_STARTED",
        "TIMER_FIRED",
        "WORKFLOW_TASK_SCHEDULED",
        "WORKFLOW_TASK_STARTED",
        "WORKFLOW_TASK_COMPLETED",
        "WORKFLOW_EXECUTION_COMPLETED",
    ]


async def test_fire_in_order_of_due_time(client: Client):
    async with worker(client, [SleepsInParallel]) as queue:
        handle = await client.start_workflow(
            SleepsInParallel.run, [1.2, 0.4, 0.8, 0.1], id=unique("timers"), task_queue=queue
        )
        assert await handle.result() == [3, 1, 2, 0]
    await verified(handle, SleepsInParallel)


async def test_many_timers_due_together(client: Client):
    async with worker(client, [SleepsInParallel]) as queue:
        handle = await client.start_workflow(SleepsInParallel.run, [0.3] * 100, id=unique("timers"), task_queue=queue)
        assert sorted(await handle.result()) == list(range(100))
    assert len(of_kind(await verified(handle, SleepsInParallel), "TIMER_FIRED")) == 100


async def test_cancelled_timer_does_not_fire(client: Client):
    async with worker(client, [CancelsTimer]) as queue:
        handle = await client.start_workflow(CancelsTimer.run, id=unique("timer"), task_queue=queue)
        assert await handle.result() == "cancelled"
    history = await verified(handle, CancelsTimer)
    assert len(of_kind(history, "TIMER_STARTED")) == 3
    assert len(of_kind(history, "TIMER_CANCELED")) == 1
    assert len(of_kind(history, "TIMER_FIRED")) == 2


async def test_signal_or_timeout(client: Client):
    async with worker(client, [WaitsWithTimeout]) as queue:
        signalled = await client.start_workflow(WaitsWithTimeout.run, 3600, id=unique("wait"), task_queue=queue)
        silent = await client.start_workflow(WaitsWithTimeout.run, 0.3, id=unique("wait"), task_queue=queue)
        await signalled.signal(WaitsWithTimeout.go)
        assert await signalled.result() == "signalled"
        assert await silent.result() == "timed out"
    await verified(signalled, WaitsWithTimeout)
    await verified(silent, WaitsWithTimeout)


async def test_start_delay(client: Client):
    async with worker(client, [Sleeps]) as queue:
        handle = await client.start_workflow(
            Sleeps.run, 0, id=unique("delayed"), task_queue=queue, start_delay=timedelta(seconds=1)
        )
        await handle.result()
    history = await verified(handle, Sleeps)
    started, scheduled = history[0], of_kind(history, "WORKFLOW_TASK_SCHEDULED")[0]
    assert nanoseconds(started.workflow_execution_started_event_attributes.first_workflow_task_backoff) == 10**9
    assert nanoseconds(scheduled.event_time) - nanoseconds(started.event_time) >= 10**9
