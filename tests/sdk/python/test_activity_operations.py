"""What operators do to activities: pause, unpause, reset, other options; and the priority of a workflow."""

import asyncio
from datetime import timedelta
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from temporalio import activity, workflow
from temporalio.api.activity.v1 import ActivityOptions
from temporalio.api.common.v1 import Priority, RetryPolicy as RetryPolicyMessage, WorkflowExecution
from temporalio.api.enums.v1 import PendingActivityState
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflow.v1 import PendingActivityInfo, WorkflowExecutionOptions
from temporalio.api.workflowservice.v1 import (
    PauseActivityRequest,
    ResetActivityRequest,
    UnpauseActivityRequest,
    UpdateActivityOptionsRequest,
    UpdateWorkflowExecutionOptionsRequest,
)
from temporalio.client import Client, WorkflowHandle
from temporalio.common import RetryPolicy

from history import kinds, of_kind, verified
from running import unique, until, worker

PAUSED = PendingActivityState.PENDING_ACTIVITY_STATE_PAUSED
HOUR = timedelta(hours=1)


@workflow.defn
class RunsOne:
    """Runs an activity, which waits for an hour before it is attempted again."""

    @workflow.run
    async def run(self, name: str, queue: str | None) -> Any:
        return await workflow.execute_activity(
            name,
            task_queue=queue,
            start_to_close_timeout=HOUR,
            heartbeat_timeout=timedelta(seconds=30),
            retry_policy=RetryPolicy(initial_interval=HOUR),
        )


def named(client: Client, handle: WorkflowHandle) -> dict[str, Any]:
    """What a request says of the workflow whose activities it is about."""
    return dict(namespace=client.namespace, execution=WorkflowExecution(workflow_id=handle.id))


async def pending(handle: WorkflowHandle) -> PendingActivityInfo | None:
    """The one pending activity."""
    activities = (await handle.describe()).raw_description.pending_activities
    return activities[0] if activities else None


async def once(handle: WorkflowHandle, what: str, condition: Any) -> PendingActivityInfo:
    """The activity, once `condition` holds of it."""

    async def look() -> PendingActivityInfo | None:
        found = await pending(handle)
        return found if found and condition(found) else None

    return await until(look, what)


async def test_a_retrying_activity_is_paused_changed_and_goes_on_elsewhere(client: Client) -> None:
    broken = True
    seen: list[tuple[int, str]] = []

    @activity.defn(name="fragile")
    async def fragile() -> str:
        info = activity.info()
        seen.append((info.attempt, info.task_queue))
        if broken:
            raise RuntimeError("broken")
        return "done"

    other = unique("tq")
    async with worker(client, [RunsOne], [fragile]) as queue, worker(client, [], [fragile], task_queue=other):
        handle = await client.start_workflow(RunsOne.run, args=["fragile", None], id=unique("wf"), task_queue=queue)
        await once(handle, "the first attempt has failed", lambda found: found.attempt == 2)
        await client.workflow_service.pause_activity(
            PauseActivityRequest(**named(client, handle), type="fragile", identity="operator", reason="broken")
        )
        paused = await once(handle, "it is paused", lambda found: found.state == PAUSED)
        assert (paused.pause_info.manual.identity, paused.pause_info.manual.reason) == ("operator", "broken")
        attributes = (await handle.describe()).raw_description.workflow_execution_info.search_attributes
        assert b"property:activityType=fragile" in attributes.indexed_fields["TemporalPauseInfo"].data

        response = await client.workflow_service.update_activity_options(
            UpdateActivityOptionsRequest(
                **named(client, handle),
                type="fragile",
                activity_options=ActivityOptions(
                    task_queue=TaskQueue(name=other),
                    retry_policy=RetryPolicyMessage(initial_interval=Duration(nanos=50_000_000)),
                ),
                update_mask=FieldMask(paths=["task_queue.name", "retry_policy.initial_interval"]),
            )
        )
        assert response.activity_options.task_queue.name == other
        await asyncio.sleep(0.5)
        assert len(seen) == 1, "nobody has it while it is paused"

        broken = False
        await client.workflow_service.unpause_activity(
            UnpauseActivityRequest(**named(client, handle), type="fragile", identity="operator")
        )
        assert await handle.result() == "done"
        assert seen == [(1, queue), (2, other)]
        completed = of_kind(await verified(handle, RunsOne), "ACTIVITY_TASK_STARTED")
        assert [event.activity_task_started_event_attributes.attempt for event in completed] == [2]


async def test_a_running_attempt_is_told_that_it_is_paused(client: Client) -> None:
    told: list[tuple[int, bool]] = []

    @activity.defn(name="patient")
    async def patient() -> str:
        attempt = activity.info().attempt
        if attempt > 1:
            return f"attempt {attempt} after {activity.info().heartbeat_details}"
        try:
            while True:
                activity.heartbeat("half")
                await asyncio.sleep(0.1)
        except asyncio.CancelledError:
            details = activity.cancellation_details()
            told.append((attempt, bool(details and details.paused)))
            raise

    async with worker(
        client,
        [RunsOne],
        [patient],
        default_heartbeat_throttle_interval=timedelta(seconds=0.1),
        max_heartbeat_throttle_interval=timedelta(seconds=0.1),
    ) as queue:
        handle = await client.start_workflow(RunsOne.run, args=["patient", None], id=unique("wf"), task_queue=queue)
        await once(handle, "it says how far it is", lambda found: found.heartbeat_details.payloads)
        request = PauseActivityRequest(**named(client, handle), id="1", identity="operator")
        await client.workflow_service.pause_activity(request)
        await once(handle, "its attempt has ended", lambda found: found.state == PAUSED)
        assert told == [(1, True)]
        await client.workflow_service.unpause_activity(UnpauseActivityRequest(**named(client, handle), id="1"))
        assert await handle.result() == "attempt 2 after ['half']"


async def test_attempts_are_counted_anew(client: Client) -> None:
    attempts: list[int] = []

    @activity.defn(name="counted")
    async def counted() -> int:
        attempts.append(activity.info().attempt)
        if len(attempts) < 3:
            raise RuntimeError("broken")
        return attempts[-1]

    async with worker(client, [RunsOne], [counted]) as queue:
        handle = await client.start_workflow(RunsOne.run, args=["counted", None], id=unique("wf"), task_queue=queue)
        for failed in (1, 2):

            async def has_failed() -> bool:
                found = await pending(handle)
                return bool(found and found.attempt == 2 and len(attempts) == failed)

            await until(has_failed, f"attempt {failed} has failed")
            await client.workflow_service.reset_activity(
                ResetActivityRequest(**named(client, handle), id="1", jitter=Duration(nanos=50_000_000))
            )
        assert await handle.result() == 1
        assert attempts == [1, 1, 1]


async def test_a_workflow_is_given_another_priority(client: Client) -> None:
    @activity.defn(name="prioritized")
    async def prioritized() -> int:
        return activity.info().priority.priority_key or 0

    queue = unique("tq")
    handle = await client.start_workflow(RunsOne.run, args=["prioritized", None], id=unique("wf"), task_queue=queue)
    response = await client.workflow_service.update_workflow_execution_options(
        UpdateWorkflowExecutionOptionsRequest(
            namespace=client.namespace,
            workflow_execution=WorkflowExecution(workflow_id=handle.id),
            workflow_execution_options=WorkflowExecutionOptions(priority=Priority(priority_key=2)),
            update_mask=FieldMask(paths=["priority"]),
        )
    )
    assert response.workflow_execution_options.priority.priority_key == 2
    async with worker(client, [RunsOne], [prioritized], task_queue=queue, disable_eager_activity_execution=True):
        assert await handle.result() == 2
    assert "WORKFLOW_EXECUTION_OPTIONS_UPDATED" in kinds(await verified(handle, RunsOne))
