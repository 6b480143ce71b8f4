"""Work that a worker is given with the answer to the call that causes it."""

from datetime import timedelta

from temporalio import activity, workflow
from temporalio.api.workflowservice.v1 import GetSystemInfoRequest
from temporalio.client import Client
from temporalio.common import RetryPolicy
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from history import check, events
from running import unique, worker

calls: dict[str, int] = {}


@activity.defn
async def count(key: str) -> int:
    """Counts how often it is called."""
    calls[key] = calls.get(key, 0) + 1
    return calls[key]


@workflow.defn
class ThreeActivities:
    """Schedules three activities at once."""

    @workflow.run
    async def run(self, key: str) -> list[int]:
        handles = [
            workflow.start_activity(
                count,
                f"{key}-{number}",
                start_to_close_timeout=timedelta(seconds=10),
                retry_policy=RetryPolicy(maximum_attempts=1),
            )
            for number in range(3)
        ]
        return [await handle for handle in handles]


@workflow.defn
class OneActivity:
    """Schedules an activity."""

    @workflow.run
    async def run(self, key: str) -> int:
        return await workflow.execute_activity(count, key, start_to_close_timeout=timedelta(seconds=10))


async def test_eager_activities_run_once_each(client: Client):
    key = unique("eager")
    async with worker(client, [ThreeActivities], [count]) as queue:
        assert await client.execute_workflow(ThreeActivities.run, key, id=key, task_queue=queue) == [1, 1, 1]
    assert [calls[f"{key}-{number}"] for number in range(3)] == [1, 1, 1]


async def test_eager_activities_are_not_left_when_the_worker_has_no_room(client: Client):
    key = unique("narrow")
    async with worker(client, [ThreeActivities], [count], max_concurrent_activities=1) as queue:
        assert await client.execute_workflow(ThreeActivities.run, key, id=key, task_queue=queue) == [1, 1, 1]


async def test_a_worker_starts_a_workflow_for_itself(client: Client):
    id = unique("eager-start")
    assert (await client.workflow_service.get_system_info(GetSystemInfoRequest())).capabilities.eager_workflow_start
    async with Worker(
        client,
        task_queue=unique("tq"),
        workflows=[OneActivity],
        activities=[count],
        workflow_runner=UnsandboxedWorkflowRunner(),
    ) as running:
        handle = await client.start_workflow(
            OneActivity.run, id, id=id, task_queue=running.task_queue, request_eager_start=True
        )
        assert await handle.result() == 1
    history = await events(handle)
    check(history)
    assert history[0].workflow_execution_started_event_attributes.eager_execution_accepted


async def test_an_eager_start_without_a_worker_at_hand_waits_for_one(client: Client):
    id, queue = unique("eager-late"), unique("tq")
    handle = await client.start_workflow(OneActivity.run, id, id=id, task_queue=queue, request_eager_start=True)
    async with worker(client, [OneActivity], [count], task_queue=queue):
        assert await handle.result() == 1
