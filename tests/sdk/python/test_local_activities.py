"""Local activities, which leave nothing but markers and may outlive several workflow tasks."""

import asyncio
from datetime import timedelta

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.common import RetryPolicy
from temporalio.exceptions import ApplicationError

from history import kinds, of_kind, verified
from running import unique, worker


@workflow.defn
class RunsLocally:
    @workflow.run
    async def run(self, name: str) -> int:
        return await workflow.execute_local_activity(
            name,
            start_to_close_timeout=timedelta(seconds=20),
            retry_policy=RetryPolicy(initial_interval=timedelta(milliseconds=50), maximum_attempts=3),
            result_type=int,
        )


async def test_result_is_a_marker(client: Client):
    @activity.defn
    async def answers() -> int:
        return 42

    async with worker(client, [RunsLocally], [answers]) as queue:
        handle = await client.start_workflow(RunsLocally.run, "answers", id=unique("local"), task_queue=queue)
        assert await handle.result() == 42
    assert kinds(await verified(handle, RunsLocally)) == [
        "WORKFLOW_EXECUTION_STARTED",
        "WORKFLOW_TASK_SCHEDULED",
        "WORKFLOW_TASK_STARTED",
        "WORKFLOW_TASK_COMPLETED",
        "MARKER_RECORDED",
        "WORKFLOW_EXECUTION_COMPLETED",
    ]


async def test_retries_stay_local(client: Client):
    @activity.defn
    async def third_time_lucky() -> int:
        if activity.info().attempt < 3:
            raise ApplicationError("not yet")
        return activity.info().attempt

    async with worker(client, [RunsLocally], [third_time_lucky]) as queue:
        handle = await client.start_workflow(RunsLocally.run, "third_time_lucky", id=unique("local"), task_queue=queue)
        assert await handle.result() == 3
    assert len(of_kind(await verified(handle, RunsLocally), "MARKER_RECORDED")) == 1


async def test_long_local_activity_heartbeats_the_workflow_task(client: Client):
    executions = []

    @activity.defn
    async def takes_longer_than_a_task() -> int:
        executions.append(1)
        await asyncio.sleep(5)
        return 7

    async with worker(client, [RunsLocally], [takes_longer_than_a_task]) as queue:
        handle = await client.start_workflow(
            RunsLocally.run,
            "takes_longer_than_a_task",
            id=unique("local"),
            task_queue=queue,
            task_timeout=timedelta(seconds=4),
        )
        assert await handle.result() == 7
    assert executions == [1]
    history = await verified(handle, RunsLocally)
    assert not of_kind(history, "WORKFLOW_TASK_TIMED_OUT")
    assert len(of_kind(history, "WORKFLOW_TASK_COMPLETED")) >= 2
