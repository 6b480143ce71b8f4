"""Reading histories, replaying them, and code that is patched while workflows run."""

import asyncio
from datetime import timedelta

from temporalio import activity, workflow
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import (
    GetWorkflowExecutionHistoryRequest,
    GetWorkflowExecutionHistoryReverseRequest,
)
from temporalio.client import Client, WorkflowHandle
from temporalio.worker import Replayer, UnsandboxedWorkflowRunner

from history import check, events, kind, kinds, of_kind, verified
from running import unique, until, worker


@activity.defn
async def double(value: int) -> int:
    return value * 2


@workflow.defn
class Mixed:
    """A little of everything, with a random number and a clock that replay must repeat."""

    def __init__(self) -> None:
        self.values: list[int] = []

    @workflow.signal
    async def add(self, value: int) -> None:
        # A handler that waits: its activity interleaves with those of the main loop.
        self.values.append(await workflow.execute_activity(double, value, start_to_close_timeout=timedelta(seconds=10)))

    @workflow.run
    async def run(self, count: int) -> list[int]:
        if workflow.random().random() < 0.5:
            await workflow.sleep(0.05)
        results = []
        for i in range(count):
            results.append(await workflow.execute_activity(double, i, start_to_close_timeout=timedelta(seconds=10)))
            results.append(
                await workflow.execute_local_activity(double, i, start_to_close_timeout=timedelta(seconds=10))
            )
            await workflow.sleep(0.02)
        await workflow.wait_condition(lambda: len(self.values) == count)
        workflow.uuid4()
        return results


async def test_replay_of_many_interleavings(client: Client):
    async with worker(client, [Mixed], [double]) as queue:
        handles = [await client.start_workflow(Mixed.run, 4, id=unique("mixed"), task_queue=queue) for _ in range(10)]
        for i in range(4):
            await asyncio.gather(*(handle.signal(Mixed.add, i) for handle in handles))
            await asyncio.sleep(0.05)
        for handle in handles:
            assert await handle.result() == [0, 0, 2, 2, 4, 4, 6, 6]
    for handle in handles:
        await verified(handle, Mixed)


@workflow.defn
class Long:
    @workflow.run
    async def run(self, timers: int) -> None:
        for _ in range(timers):
            await asyncio.gather(*(workflow.sleep(0.01) for _ in range(100)))


async def test_history_of_many_pages(client: Client):
    # An uncached worker must fetch, for each task, the pages that do not come with it.
    async with worker(client, [Long], max_cached_workflows=0) as queue:
        handle = await client.start_workflow(Long.run, 4, id=unique("long"), task_queue=queue)
        await handle.result()
    history = await verified(handle, Long)
    assert len(history) > 800

    for page_size in [7, 300]:
        paged = [event async for event in handle.fetch_history_events(page_size=page_size)]
        assert [event.event_id for event in paged] == list(range(1, len(history) + 1))
    backwards = await reversed_history(client, handle)
    assert [event.event_id for event in backwards] == list(range(len(history), 0, -1))


async def reversed_history(client: Client, handle: WorkflowHandle) -> list:
    request = GetWorkflowExecutionHistoryReverseRequest(
        namespace="default",
        execution=WorkflowExecution(workflow_id=handle.id, run_id=handle.result_run_id),
        maximum_page_size=100,
    )
    found = []
    while True:
        response = await client.workflow_service.get_workflow_execution_history_reverse(request)
        found.extend(response.history.events)
        if not response.next_page_token:
            return found
        request.next_page_token = response.next_page_token


async def test_history_of_a_running_workflow_can_be_followed(client: Client):
    async with worker(client, [Mixed], [double]) as queue:
        handle = await client.start_workflow(Mixed.run, 1, id=unique("followed"), task_queue=queue)
        seen = []

        async def follow() -> None:
            async for event in handle.fetch_history_events(wait_new_event=True):
                seen.append(event)

        following = asyncio.create_task(follow())
        await until(lambda: is_true(len(seen) >= 5), "the first events are seen")
        assert not following.done()
        await handle.signal(Mixed.add, 1)
        await asyncio.wait_for(following, 15)
    check(seen)
    assert kind(seen[-1]) == "WORKFLOW_EXECUTION_COMPLETED"
    assert kinds(seen) == kinds(await events(handle))


async def is_true(value: bool) -> bool:
    return value


async def test_long_poll_for_a_new_event_answers_before_the_deadline(client: Client):
    """Nothing happens: the long poll comes back empty-handed and with a token, not with an error."""
    handle = await client.start_workflow(Mixed.run, 1, id=unique("quiet"), task_queue=unique("nobody"))
    request = GetWorkflowExecutionHistoryRequest(
        namespace="default", execution=WorkflowExecution(workflow_id=handle.id), wait_new_event=True
    )
    first = await client.workflow_service.get_workflow_execution_history(request)
    assert len(first.history.events) == 2 and first.next_page_token
    request.next_page_token = first.next_page_token
    second = await client.workflow_service.get_workflow_execution_history(request, timeout=timedelta(seconds=3))
    assert not second.history.events and second.next_page_token
    await handle.terminate()


@workflow.defn(name="Patched")
class BeforePatch:
    def __init__(self) -> None:
        self.go = False

    @workflow.signal
    def proceed(self) -> None:
        self.go = True

    @workflow.run
    async def run(self) -> str:
        await workflow.sleep(0.05)
        await workflow.wait_condition(lambda: self.go)
        return "old way"


@workflow.defn(name="Patched")
class AfterPatch:
    def __init__(self) -> None:
        self.go = False

    @workflow.signal
    def proceed(self) -> None:
        self.go = True

    @workflow.run
    async def run(self) -> str:
        if workflow.patched("activity-instead-of-timer"):
            await workflow.execute_activity(double, 1, start_to_close_timeout=timedelta(seconds=10))
            way = "new way"
        else:
            await workflow.sleep(0.05)
            way = "old way"
        await workflow.wait_condition(lambda: self.go)
        return way


@workflow.defn(name="Patched")
class CarelesslyChanged:
    @workflow.run
    async def run(self) -> None:
        await workflow.execute_activity(double, 1, start_to_close_timeout=timedelta(seconds=10))


async def test_patched_workflow(client: Client):
    sticky = task_timeout = timedelta(seconds=1)
    async with worker(client, [BeforePatch], sticky_queue_schedule_to_start_timeout=sticky) as queue:
        old = await client.start_workflow("Patched", id=unique("patched"), task_queue=queue, task_timeout=task_timeout)

        async def timer_fired() -> bool:
            return "TIMER_FIRED" in kinds(await events(old))

        await until(timer_fired, "the unpatched workflow has used its timer")
    async with worker(client, [AfterPatch], [double], task_queue=queue):
        new = await client.start_workflow("Patched", id=unique("patched"), task_queue=queue)
        await new.signal("proceed")
        await old.signal("proceed")
        assert await old.result() == "old way"
        assert await new.result() == "new way"
    await verified(old, AfterPatch)
    (marker,) = of_kind(await verified(new, AfterPatch), "MARKER_RECORDED")
    assert marker.marker_recorded_event_attributes.marker_name == "core_patch"


async def test_replayer_notices_changed_code(client: Client):
    """The check that all other tests rely on does fail when it should."""
    async with worker(client, [BeforePatch]) as queue:
        handle = await client.start_workflow("Patched", id=unique("replayed"), task_queue=queue, start_signal="proceed")
        await handle.result()

    replayer = Replayer(workflows=[CarelesslyChanged], workflow_runner=UnsandboxedWorkflowRunner())
    result = await replayer.replay_workflow(await handle.fetch_history(), raise_on_replay_failure=False)
    assert result.replay_failure is not None
