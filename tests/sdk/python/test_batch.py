"""Batch operations: one thing that is done to many workflows."""

import asyncio
from datetime import timedelta

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from temporalio import activity, workflow
from temporalio.api.activity.v1 import ActivityOptions
from temporalio.api.batch.v1 import (
    BatchOperationCancellation,
    BatchOperationDeletion,
    BatchOperationReset,
    BatchOperationResetActivities,
    BatchOperationSignal,
    BatchOperationTermination,
    BatchOperationUnpauseActivities,
    BatchOperationUpdateActivityOptions,
    BatchOperationUpdateWorkflowExecutionOptions,
)
from temporalio.api.common.v1 import Priority, ResetOptions, RetryPolicy as RetryPolicyMessage, WorkflowExecution
from temporalio.api.enums.v1 import BatchOperationState, BatchOperationType
from temporalio.api.workflowservice.v1 import (
    DescribeBatchOperationRequest,
    DescribeBatchOperationResponse,
    ListBatchOperationsRequest,
    PauseActivityRequest,
    StartBatchOperationRequest,
    StopBatchOperationRequest,
)
from temporalio.api.workflow.v1 import PendingActivityInfo, WorkflowExecutionOptions
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowHandle
from temporalio.common import RetryPolicy
from temporalio.service import RPCError, RPCStatusCode

from history import verified
from running import unique, until, worker


@workflow.defn
class Waits:
    """Ends once it has had the signals that it wants, and returns them."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    @workflow.run
    async def run(self, wanted: int) -> list[str]:
        await workflow.wait_condition(lambda: len(self.notes) >= wanted)
        return self.notes

    @workflow.signal
    def note(self, text: str) -> None:
        self.notes.append(text)


@activity.defn
async def fails_first() -> int:
    attempt = activity.info().attempt
    if attempt == 1:
        raise RuntimeError("not yet")
    return attempt


@workflow.defn
class Retries:
    """Runs an activity that is attempted again after an hour, unless somebody has it attempted earlier."""

    @workflow.run
    async def run(self) -> int:
        hour = timedelta(hours=1)
        retry = RetryPolicy(initial_interval=hour)
        return await workflow.execute_activity(fails_first, start_to_close_timeout=hour, retry_policy=retry)


async def start(client: Client, job_id: str, **request) -> None:
    """Starts a job as soon as there is none that runs."""

    async def started() -> bool:
        try:
            await client.workflow_service.start_batch_operation(
                StartBatchOperationRequest(namespace=client.namespace, job_id=job_id, reason="a test", **request)
            )
            return True
        except RPCError as error:
            if error.status != RPCStatusCode.RESOURCE_EXHAUSTED:
                raise
            return False

    await until(started, "the job starts")


async def describe(client: Client, job_id: str) -> DescribeBatchOperationResponse:
    return await client.workflow_service.describe_batch_operation(
        DescribeBatchOperationRequest(namespace=client.namespace, job_id=job_id)
    )


async def closed(client: Client, job_id: str) -> DescribeBatchOperationResponse:
    async def is_closed() -> DescribeBatchOperationResponse | None:
        job = await describe(client, job_id)
        return job if job.HasField("close_time") else None

    return await until(is_closed, f"the job {job_id} ends")


def counts(job: DescribeBatchOperationResponse) -> tuple[int, int, int]:
    return job.total_operation_count, job.complete_operation_count, job.failure_operation_count


async def test_workflows_are_terminated_by_a_query(client: Client):
    prefix, queue, job_id = unique("batch"), unique("tq"), unique("job")
    ids = [f"{prefix}-{number}" for number in range(200)]
    await asyncio.gather(*(client.start_workflow(Waits.run, 1, id=id, task_queue=queue) for id in ids))
    query = f"WorkflowId STARTS_WITH '{prefix}'"
    terminate = BatchOperationTermination(identity="operator")
    await start(client, job_id, visibility_query=query, termination_operation=terminate)
    job = await describe(client, job_id)
    assert job.state == BatchOperationState.BATCH_OPERATION_STATE_RUNNING
    assert job.operation_type == BatchOperationType.BATCH_OPERATION_TYPE_TERMINATE_WORKFLOW
    assert (job.job_id, job.identity, job.reason, job.query) == (job_id, "operator", "a test", query)
    with pytest.raises(RPCError) as raised:
        await client.workflow_service.start_batch_operation(
            StartBatchOperationRequest(
                namespace=client.namespace,
                job_id=unique("job"),
                reason="a test",
                visibility_query=query,
                termination_operation=terminate,
            )
        )
    assert raised.value.status == RPCStatusCode.RESOURCE_EXHAUSTED

    job = await closed(client, job_id)
    assert job.state == BatchOperationState.BATCH_OPERATION_STATE_COMPLETED
    assert counts(job) == (200, 200, 0)
    assert (await client.count_workflows(f"{query} AND ExecutionStatus = 'Terminated'")).count == 200
    listed = await client.workflow_service.list_batch_operations(ListBatchOperationsRequest(namespace=client.namespace))
    [info] = [info for info in listed.operation_info if info.job_id == job_id]
    assert info.state == job.state and info.close_time == job.close_time and info.start_time == job.start_time


async def test_workflows_are_signaled_by_a_list(client: Client):
    async with worker(client, [Waits]) as queue:
        handles = [await client.start_workflow(Waits.run, 1, id=unique("w"), task_queue=queue) for _ in range(5)]
        job_id = unique("job")
        named = [WorkflowExecution(workflow_id=handle.id) for handle in handles]
        named += [WorkflowExecution(workflow_id=unique("none")), WorkflowExecution(workflow_id=handles[0].id, run_id="none")]
        [payload] = await client.data_converter.encode(["hello"])
        signal = BatchOperationSignal(signal="note", identity="operator")
        signal.input.payloads.append(payload)
        await start(client, job_id, executions=named, signal_operation=signal)
        for handle in handles:
            assert await handle.result() == ["hello"]
            await verified(handle, Waits)
        job = await closed(client, job_id)
        assert counts(job) == (7, 6, 1)
        assert [execution.business_id for execution in job.executions] == [execution.workflow_id for execution in named]


async def test_workflows_are_canceled_and_deleted(client: Client):
    prefix, queue = unique("batch"), unique("tq")
    handles = [await client.start_workflow(Waits.run, 1, id=f"{prefix}-{n}", task_queue=queue) for n in range(3)]
    query = f"WorkflowId STARTS_WITH '{prefix}'"
    cancel, delete = unique("job"), unique("job")
    await start(client, cancel, visibility_query=query, cancellation_operation=BatchOperationCancellation(identity="me"))
    assert counts(await closed(client, cancel)) == (3, 3, 0)
    for handle in handles:
        events = [event async for event in handle.fetch_history_events()]
        assert events[-1].HasField("workflow_execution_cancel_requested_event_attributes")
    await start(client, delete, visibility_query=query, deletion_operation=BatchOperationDeletion(identity="me"))
    assert counts(await closed(client, delete)) == (3, 3, 0)

    async def are_gone() -> bool:
        return (await client.count_workflows(query)).count == 0

    await until(are_gone, "they are deleted")


async def test_workflows_are_reset(client: Client):
    prefix = unique("batch")
    async with worker(client, [Waits]) as queue:
        handles = [await client.start_workflow(Waits.run, 2, id=f"{prefix}-{n}", task_queue=queue) for n in range(3)]
        for handle in handles:
            await handle.signal(Waits.note, "first")
        job_id = unique("job")
        options = ResetOptions()
        options.first_workflow_task.SetInParent()
        reset = BatchOperationReset(identity="operator", options=options)

        async def are_at_rest() -> bool:
            descriptions = [await handle.describe() for handle in handles]
            return all(not description.raw_description.HasField("pending_workflow_task") for description in descriptions)

        await until(are_at_rest, "they have had their signals")
        await start(client, job_id, visibility_query=f"WorkflowId STARTS_WITH '{prefix}'", reset_operation=reset)
        assert counts(await closed(client, job_id)) == (3, 3, 0)
        for handle in handles:
            again = client.get_workflow_handle(handle.id)
            assert (await handle.describe()).run_id != handle.first_execution_run_id
            await again.signal(Waits.note, "second")
            assert await again.result() == ["first", "second"]
            first = client.get_workflow_handle(handle.id, run_id=handle.first_execution_run_id)
            assert (await first.describe()).status == WorkflowExecutionStatus.TERMINATED


async def test_a_job_goes_as_fast_as_it_is_told_until_it_is_stopped(client: Client):
    prefix, queue, job_id = unique("batch"), unique("tq"), unique("job")
    for number in range(8):
        await client.start_workflow(Waits.run, 1, id=f"{prefix}-{number}", task_queue=queue)
    query = f"WorkflowId STARTS_WITH '{prefix}'"
    terminate = BatchOperationTermination()
    await start(client, job_id, visibility_query=query, max_operations_per_second=1, termination_operation=terminate)

    async def some_are_terminated() -> bool:
        return (await client.count_workflows(f"{query} AND ExecutionStatus = 'Terminated'")).count >= 2

    await until(some_are_terminated, "the job has begun")
    await client.workflow_service.stop_batch_operation(
        StopBatchOperationRequest(namespace=client.namespace, job_id=job_id, reason="enough", identity="operator")
    )
    job = await describe(client, job_id)
    assert job.state == BatchOperationState.BATCH_OPERATION_STATE_FAILED and job.total_operation_count == 8
    left = (await client.count_workflows(f"{query} AND ExecutionStatus = 'Running'")).count
    assert left > 0
    await asyncio.sleep(2.5)
    # One may have been on its way when it was stopped.
    assert left - (await client.count_workflows(f"{query} AND ExecutionStatus = 'Running'")).count <= 1
    with pytest.raises(RPCError) as raised:
        await client.workflow_service.stop_batch_operation(
            StopBatchOperationRequest(namespace=client.namespace, job_id=job_id, reason="enough")
        )
    assert raised.value.status == RPCStatusCode.NOT_FOUND


async def test_activities_and_options_are_changed(client: Client):
    async with worker(client, [Retries], [fails_first]) as queue:
        prefix = unique("batch")
        handles = [await client.start_workflow(Retries.run, id=f"{prefix}-{n}", task_queue=queue) for n in range(3)]
        query = f"WorkflowId STARTS_WITH '{prefix}'"

        async def pending(handle: WorkflowHandle) -> PendingActivityInfo | None:
            activities = (await handle.describe()).raw_description.pending_activities
            return activities[0] if activities else None

        async def job(**operation) -> None:
            job_id = unique("job")
            await start(client, job_id, visibility_query=query, **operation)
            assert counts(await closed(client, job_id)) == (3, 3, 0)

        async def has_failed(handle: WorkflowHandle) -> bool:
            found = await pending(handle)
            return found is not None and found.attempt == 2

        for handle in handles:
            await until(lambda: has_failed(handle), "it has failed once")
            await client.workflow_service.pause_activity(
                PauseActivityRequest(
                    namespace=client.namespace, execution=WorkflowExecution(workflow_id=handle.id), type="fails_first"
                )
            )
            assert (await pending(handle)).paused
        await job(reset_activities_operation=BatchOperationResetActivities(match_all=True, keep_paused=True))
        for handle in handles:
            found = await pending(handle)
            assert found.paused and found.attempt == 1
        await job(unpause_activities_operation=BatchOperationUnpauseActivities(type="fails_first"))
        for handle in handles:
            assert not (await pending(handle)).paused
            await until(lambda: has_failed(handle), "it has failed again")
        await job(
            update_workflow_options_operation=BatchOperationUpdateWorkflowExecutionOptions(
                workflow_execution_options=WorkflowExecutionOptions(priority=Priority(priority_key=2)),
                update_mask=FieldMask(paths=["priority"]),
            )
        )
        for handle in handles:
            assert (await handle.describe()).raw_description.workflow_execution_info.priority.priority_key == 2
        soon = ActivityOptions(retry_policy=RetryPolicyMessage(initial_interval=Duration(nanos=1_000_000)))
        await job(
            update_activity_options_operation=BatchOperationUpdateActivityOptions(
                match_all=True,
                activity_options=soon,
                update_mask=FieldMask(paths=["retry_policy.initial_interval"]),
            )
        )
        for handle in handles:
            assert await handle.result() == 2
            await verified(handle, Retries)
