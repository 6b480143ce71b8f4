"""Workers that fail, vanish, cache nothing, are two, or come back with other code."""

import asyncio
import time
from datetime import timedelta

from temporalio import activity, workflow
from temporalio.api.enums.v1 import WorkerStatus, WorkflowTaskFailedCause
from temporalio.api.workflowservice.v1 import ListWorkersRequest
from temporalio.client import Client
from temporalio.runtime import Runtime, TelemetryConfig

from history import events, kinds, of_kind, verified
from running import unique, until, worker


@workflow.defn(name="Fixed")
class Broken:
    @workflow.run
    async def run(self) -> str:
        raise RuntimeError("a bug, not a failure of the workflow")


@workflow.defn(name="Fixed")
class Fixed:
    @workflow.run
    async def run(self) -> str:
        return "fixed"


async def test_bug_in_workflow_code_is_survived(client: Client):
    async with worker(client, [Broken]) as queue:
        handle = await client.start_workflow(
            "Fixed", id=unique("bug"), task_queue=queue, task_timeout=timedelta(seconds=2)
        )
        await until(lambda: has_event(handle, "WORKFLOW_TASK_FAILED"), "the workflow task fails")
        # The failing attempts after the first leave no events.
        await asyncio.sleep(0.5)
        assert kinds(await events(handle)).count("WORKFLOW_TASK_FAILED") == 1
        pending = (await handle.describe()).raw_description.pending_workflow_task
        assert pending.attempt >= 2
    async with worker(client, [Fixed], task_queue=queue):
        assert await handle.result() == "fixed"
    history = await verified(handle, Fixed)
    (failed,) = of_kind(history, "WORKFLOW_TASK_FAILED")
    attributes = failed.workflow_task_failed_event_attributes
    assert attributes.failure.message == "a bug, not a failure of the workflow"
    assert attributes.cause == WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_WORKFLOW_WORKER_UNHANDLED_FAILURE


async def has_event(handle, wanted: str) -> bool:
    return wanted in kinds(await events(handle))


@workflow.defn(name="Changes")
class SleepsThenWaits:
    def __init__(self) -> None:
        self.go = False

    @workflow.signal
    def proceed(self) -> None:
        self.go = True

    @workflow.run
    async def run(self) -> str:
        await workflow.sleep(0.1)
        await workflow.wait_condition(lambda: self.go)
        return "original"


@workflow.defn(name="Changes")
class ActivityInsteadOfSleep:
    @workflow.signal
    def proceed(self) -> None:
        pass

    @workflow.run
    async def run(self) -> str:
        await workflow.execute_activity("never_registered", start_to_close_timeout=timedelta(seconds=1))
        return "changed"


async def test_changed_code_is_found_non_deterministic(client: Client):
    async with worker(client, [SleepsThenWaits]) as queue:
        handle = await client.start_workflow(
            "Changes", id=unique("changed"), task_queue=queue, task_timeout=timedelta(seconds=2)
        )
        await until(lambda: has_event(handle, "TIMER_FIRED"), "the timer fires")
    async with worker(client, [ActivityInsteadOfSleep], task_queue=queue):
        await handle.signal("proceed")
        await until(lambda: has_event(handle, "WORKFLOW_TASK_FAILED"), "the workflow task fails")
    async with worker(client, [SleepsThenWaits], task_queue=queue):
        assert await handle.result() == "original"
    (failed,) = of_kind(await verified(handle, SleepsThenWaits), "WORKFLOW_TASK_FAILED")
    cause = failed.workflow_task_failed_event_attributes.cause
    assert cause == WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_NON_DETERMINISTIC_ERROR


blocked: list[str] = []


@workflow.defn
class BlocksOnce:
    """Takes longer over its first workflow task than the task may take."""

    @workflow.run
    async def run(self) -> str:
        if workflow.info().workflow_id not in blocked:
            blocked.append(workflow.info().workflow_id)
            time.sleep(1.7)
        return "done"


async def test_workflow_task_times_out_and_is_tried_again(client: Client):
    async with worker(client, [BlocksOnce], debug_mode=True) as queue:
        handle = await client.start_workflow(
            BlocksOnce.run, id=unique("blocks"), task_queue=queue, task_timeout=timedelta(seconds=1)
        )
        assert await handle.result() == "done"
    history = await verified(handle, BlocksOnce)
    assert len(of_kind(history, "WORKFLOW_TASK_TIMED_OUT")) == 1
    assert of_kind(history, "WORKFLOW_TASK_SCHEDULED")[-1].workflow_task_scheduled_event_attributes.attempt == 2


@workflow.defn
class Steps:
    """Alternates activities, timers and signals, so that it needs many workflow tasks."""

    def __init__(self) -> None:
        self.signals = 0

    @workflow.signal
    def step(self) -> None:
        self.signals += 1

    @workflow.query
    def signalled(self) -> int:
        return self.signals

    @workflow.run
    async def run(self, steps: int) -> list[str]:
        workers = []
        for i in range(steps):
            workers.append(await workflow.execute_activity(who, start_to_close_timeout=timedelta(seconds=10)))
            await workflow.sleep(0.05)
            await workflow.wait_condition(lambda: self.signals > i)
        return workers


@activity.defn
async def who() -> str:
    return activity.info().task_queue


async def test_worker_without_cache(client: Client):
    async with worker(client, [Steps], [who], max_cached_workflows=0) as queue:
        handle = await client.start_workflow(Steps.run, 4, id=unique("uncached"), task_queue=queue)
        for i in range(4):
            await handle.signal(Steps.step)
            assert await handle.query(Steps.signalled) == i + 1
        assert await handle.result() == [queue] * 4
    await verified(handle, Steps)


async def test_tiny_cache_evicts(client: Client):
    """More workflows than the worker caches: evicted ones come back with their full history."""
    async with worker(client, [Steps], [who], max_cached_workflows=2) as queue:
        handles = [await client.start_workflow(Steps.run, 2, id=unique("evicted"), task_queue=queue) for _ in range(8)]
        for _ in range(2):
            await asyncio.gather(*(handle.signal(Steps.step) for handle in handles))
        for handle in handles:
            assert await handle.result() == [queue] * 2
    for handle in handles:
        await verified(handle, Steps)


async def test_two_workers_share_a_task_queue(client: Client):
    other = await Client.connect(client.service_client.config.target_host, identity="the-other")
    async with worker(client, [Steps], [who]) as queue, worker(other, [Steps], [who], task_queue=queue):
        handles = [await client.start_workflow(Steps.run, 3, id=unique("two"), task_queue=queue) for _ in range(20)]
        for _ in range(3):
            await asyncio.gather(*(handle.signal(Steps.step) for handle in handles))
        for handle in handles:
            await handle.result()
    identities = set()
    for handle in handles:
        for event in of_kind(await verified(handle, Steps), "WORKFLOW_TASK_COMPLETED"):
            identities.add(event.workflow_task_completed_event_attributes.identity)
    assert identities == {client.identity, "the-other"}


async def test_another_worker_takes_over(client: Client):
    """The sticky task queue of a worker that is gone does not hold the workflow up."""
    other = await Client.connect(client.service_client.config.target_host, identity="the-other")
    sticky = task_timeout = timedelta(seconds=1)
    async with worker(client, [Steps], [who], sticky_queue_schedule_to_start_timeout=sticky) as queue:
        handle = await client.start_workflow(
            Steps.run, 2, id=unique("takeover"), task_queue=queue, task_timeout=task_timeout
        )
        await handle.signal(Steps.step)
        await until(lambda: has_event(handle, "TIMER_FIRED"), "the first step is done")
    await handle.signal(Steps.step)
    async with worker(other, [Steps], [who], task_queue=queue):
        assert await asyncio.wait_for(handle.result(), 15) == [queue] * 2
    await verified(handle, Steps)


async def test_restarted_worker_goes_on(client: Client):
    queue = unique("tq")
    handle = await client.start_workflow(
        Steps.run, 3, id=unique("restart"), task_queue=queue, task_timeout=timedelta(seconds=2)
    )
    for step in range(1, 4):
        async with worker(client, [Steps], [who], task_queue=queue):
            await handle.signal(Steps.step)
            wanted = step

            async def stepped() -> bool:
                return kinds(await events(handle)).count("TIMER_FIRED") >= wanted

            await until(stepped, f"step {step} is done")
    async with worker(client, [Steps], [who], task_queue=queue):
        assert await handle.result() == [queue] * 3
    await verified(handle, Steps)


async def test_workers_are_listed_while_they_run(client: Client):
    async def listed(queue: str) -> list:
        request = ListWorkersRequest(namespace=client.namespace, query=f"TaskQueue = '{queue}'")
        return list((await client.workflow_service.list_workers(request)).workers)

    async def stopped(queue: str) -> bool:
        return all(known.status != WorkerStatus.WORKER_STATUS_RUNNING for known in await listed(queue))

    runtime = Runtime(telemetry=TelemetryConfig(), worker_heartbeat_interval=timedelta(seconds=1))
    speaking = await Client.connect(client.service_client.config.target_host, runtime=runtime)
    async with worker(speaking, [Fixed]) as queue:
        assert await speaking.execute_workflow("Fixed", id=unique("listed"), task_queue=queue) == "fixed"
        [known] = await until(lambda: listed(queue), "the worker is listed")
        assert known.status == WorkerStatus.WORKER_STATUS_RUNNING
        assert (known.sdk_name, known.worker_identity) == ("temporal-python", speaking.identity)
    await until(lambda: stopped(queue), "the worker says that it stops")
