"""Workflows that begin again and again by a cron schedule."""

from datetime import timedelta

import pytest
from temporalio import workflow
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.common import RetryPolicy
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode

from history import check, events
from running import unique, until, worker


@workflow.defn
class Counting:
    """Adds one to what the run before came to. Fails once, in the second run."""

    @workflow.run
    async def run(self, start: int) -> int:
        before = workflow.get_last_completion_result(int)
        if before is not None and before == start + 1 and workflow.get_last_failure() is None:
            raise ApplicationError("the second run fails")
        return (before if before is not None else start) + 1


async def runs(client: Client, id: str):
    """The runs of a workflow, from the first."""
    found = [run async for run in client.list_workflows(f"WorkflowId = '{id}'")]
    return sorted(found, key=lambda run: run.start_time)


async def test_each_run_goes_on_from_the_one_before(client: Client):
    id = unique("cron")
    async with worker(client, [Counting]) as queue:
        handle = await client.start_workflow(Counting.run, 10, id=id, task_queue=queue, cron_schedule="@every 1s")

        async def has_five():
            found = await runs(client, id)
            return found if len(found) > 4 else None

        found = await until(has_five, "five runs")
        await handle.terminate()
    statuses = [run.status for run in found[:4]]
    completed, failed = WorkflowExecutionStatus.COMPLETED, WorkflowExecutionStatus.FAILED
    assert statuses == [completed, failed, completed, completed]
    results = []
    for run in found[:4]:
        history = await events(client.get_workflow_handle(id, run_id=run.run_id))
        check(history)
        close = history[-1]
        assert close.workflow_execution_completed_event_attributes.new_execution_run_id or (
            close.workflow_execution_failed_event_attributes.new_execution_run_id
        )
        results += [int(payload.data) for payload in close.workflow_execution_completed_event_attributes.result.payloads]
        started = history[0].workflow_execution_started_event_attributes
        assert started.cron_schedule == "@every 1s"
        assert [int(payload.data) for payload in started.input.payloads] == [10]
        # Each waited for its turn.
        waited = history[1].event_time.ToNanoseconds() - history[0].event_time.ToNanoseconds()
        assert waited >= started.first_workflow_task_backoff.ToNanoseconds()
    assert results == [11, 12, 13]


async def test_a_schedule_that_cannot_be_read_is_refused(client: Client):
    for schedule in ["daily", "0 0 0 * * *", "0 0 30 2 *", "TZ=Mars/Base @daily"]:
        with pytest.raises(RPCError) as raised:
            await client.start_workflow("W", id=unique("bad"), task_queue=unique("tq"), cron_schedule=schedule)
        assert raised.value.status == RPCStatusCode.INVALID_ARGUMENT
        assert raised.value.message.startswith("invalid CronSchedule")


async def test_a_waiting_run_can_be_terminated_and_leaves_the_id_free(client: Client):
    id, queue = unique("waiting"), unique("tq")
    handle = await client.start_workflow("W", id=id, task_queue=queue, cron_schedule="CRON_TZ=Europe/Berlin @yearly")
    description = await handle.describe()
    assert description.execution_time > description.start_time + timedelta(seconds=1)
    await handle.terminate()
    assert (await handle.describe()).status == WorkflowExecutionStatus.TERMINATED
    again = await client.start_workflow("W", id=id, task_queue=queue)
    await again.terminate()


@workflow.defn
class AlwaysFails:
    """Fails, each time."""

    @workflow.run
    async def run(self) -> None:
        raise ApplicationError(f"attempt {workflow.info().attempt}")


async def test_a_failed_run_is_retried_before_it_is_the_schedules_turn(client: Client):
    id = unique("retried")
    async with worker(client, [AlwaysFails]) as queue:
        handle = await client.start_workflow(
            AlwaysFails.run,
            id=id,
            task_queue=queue,
            cron_schedule="@every 1s",
            retry_policy=RetryPolicy(initial_interval=timedelta(seconds=1), maximum_attempts=2),
        )

        async def has_three():
            found = await runs(client, id)
            return found if len(found) > 2 else None

        found = await until(has_three, "three runs")
        await handle.terminate()
    attempts = []
    for run in found[:3]:
        history = await events(client.get_workflow_handle(id, run_id=run.run_id))
        check(history)
        attempts.append(history[0].workflow_execution_started_event_attributes.attempt)
    assert attempts == [1, 2, 1]
