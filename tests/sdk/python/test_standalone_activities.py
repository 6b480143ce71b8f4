"""Activities without a workflow, as clients start them and workers do them."""

import asyncio
from datetime import timedelta

import pytest
from temporalio import activity
from temporalio.api.batch.v1 import BatchOperationTerminateActivities
from temporalio.api.enums.v1 import BatchOperationState
from temporalio.api.workflowservice.v1 import (
    DescribeBatchOperationRequest,
    PauseActivityExecutionRequest,
    ResetActivityExecutionRequest,
    StartBatchOperationRequest,
    UnpauseActivityExecutionRequest,
)
from temporalio.client import ActivityExecutionStatus, ActivityFailureError, ActivityHandle, Client
from temporalio.common import ActivityIDConflictPolicy, ActivityIDReusePolicy, RetryPolicy
from temporalio.exceptions import (
    ActivityAlreadyStartedError,
    ApplicationError,
    CancelledError,
    TerminatedError,
    TimeoutError,
)
from temporalio.service import RPCError, RPCStatusCode

from running import unique, until, worker

MINUTE = timedelta(minutes=1)


@activity.defn
async def greets(name: str) -> str:
    return f"hello {name}"


@activity.defn
async def fails_twice(_: str) -> int:
    attempt = activity.info().attempt
    if attempt < 3:
        raise ApplicationError(f"attempt {attempt}")
    return attempt


@activity.defn
async def refuses(_: str) -> None:
    raise ApplicationError("never", type="Refused", non_retryable=True)


@activity.defn
async def waits(_: str) -> str:
    """Is busy until it is canceled, or told otherwise, and says how far it has come."""
    before = activity.info().heartbeat_details
    while True:
        activity.heartbeat("busy", *before[1:])
        await asyncio.sleep(0.1)


@activity.defn
async def left_open(_: str) -> str:
    activity.raise_complete_async()


ACTIVITIES = [greets, fails_twice, refuses, waits, left_open]


async def started(client: Client, what, queue: str, **options) -> ActivityHandle:
    options = dict(start_to_close_timeout=MINUTE, id=unique("activity")) | options
    return await client.start_activity(what, "you", task_queue=queue, **options)


async def is_running(handle: ActivityHandle) -> bool:
    return (await handle.describe()).last_heartbeat_time is not None


async def failure(handle: ActivityHandle) -> BaseException:
    with pytest.raises(ActivityFailureError) as failed:
        await handle.result()
    return failed.value.cause


async def test_one_is_done(client: Client) -> None:
    async with worker(client, activities=ACTIVITIES) as queue:
        handle = await started(client, greets, queue, summary="a greeting")
        assert await handle.result() == "hello you"
        described = await handle.describe()
        assert described.status == ActivityExecutionStatus.COMPLETED
        assert (described.attempt, described.task_queue) == (1, queue)
        # Who asks later is told, too.
        again = client.get_activity_handle(handle.id, run_id=handle.run_id)
        assert await again.result() == "hello you"


async def test_whoever_waits_is_told(client: Client) -> None:
    queue = unique("tq")
    handle = await started(client, greets, queue)
    waiting = [asyncio.create_task(handle.result()) for _ in range(10)]
    await asyncio.sleep(0.5)
    async with worker(client, activities=ACTIVITIES, task_queue=queue):
        assert await asyncio.gather(*waiting) == ["hello you"] * 10


async def test_attempts(client: Client) -> None:
    async with worker(client, activities=ACTIVITIES) as queue:
        quickly = RetryPolicy(initial_interval=timedelta(milliseconds=50))
        handle = await started(client, fails_twice, queue, retry_policy=quickly)
        assert await handle.result() == 3
        cause = await failure(await started(client, refuses, queue))
        assert isinstance(cause, ApplicationError) and cause.type == "Refused"
        twice = RetryPolicy(initial_interval=timedelta(milliseconds=50), maximum_attempts=2)
        cause = await failure(await started(client, fails_twice, queue, retry_policy=twice))
        assert isinstance(cause, ApplicationError) and "attempt 2" in str(cause)


async def test_timeouts(client: Client) -> None:
    second = timedelta(seconds=1)
    nobody = await started(client, greets, unique("tq"), schedule_to_start_timeout=second)
    late = await started(client, greets, unique("tq"), schedule_to_close_timeout=second)
    async with worker(client, activities=ACTIVITIES) as queue:
        once = RetryPolicy(maximum_attempts=1)
        slow = await started(client, left_open, queue, start_to_close_timeout=second, retry_policy=once)
        silent = await started(client, left_open, queue, heartbeat_timeout=second, retry_policy=once)
        for handle in (nobody, late, slow, silent):
            assert isinstance(await failure(handle), TimeoutError), handle.id
            assert (await handle.describe()).status == ActivityExecutionStatus.TIMED_OUT


async def test_canceled(client: Client) -> None:
    async with worker(client, activities=ACTIVITIES) as queue:
        handle = await started(client, waits, queue, heartbeat_timeout=timedelta(seconds=1))
        await until(lambda: is_running(handle), "it is busy")
        await handle.cancel(reason="enough")
        assert isinstance(await failure(handle), CancelledError)
        described = await handle.describe()
        assert (described.status, described.canceled_reason) == (ActivityExecutionStatus.CANCELED, "enough")
    nobody = await started(client, greets, unique("tq"))
    await nobody.cancel()
    assert isinstance(await failure(nobody), CancelledError)


async def test_terminated(client: Client) -> None:
    async with worker(client, activities=ACTIVITIES) as queue:
        handle = await started(client, waits, queue, heartbeat_timeout=timedelta(seconds=1))
        await until(lambda: is_running(handle), "it is busy")
        await handle.terminate(reason="enough")
        assert isinstance(await failure(handle), TerminatedError)


async def test_completed_from_elsewhere(client: Client) -> None:
    async with worker(client, activities=ACTIVITIES) as queue:
        handle = await started(client, left_open, queue)
        by_id = client.get_async_activity_handle(activity_id=handle.id, run_id=handle.run_id)

        async def beats() -> bool:
            try:
                await by_id.heartbeat("on its way")
                return True
            except RPCError as error:
                assert error.status == RPCStatusCode.NOT_FOUND
                return False

        await until(beats, "the worker has it")
        await by_id.complete("from elsewhere")
        assert await handle.result() == "from elsewhere"


async def test_ids(client: Client) -> None:
    async with worker(client, activities=ACTIVITIES) as queue:
        first = await started(client, left_open, queue)
        with pytest.raises(ActivityAlreadyStartedError) as refused:
            await started(client, left_open, queue, id=first.id)
        assert refused.value.run_id == first.run_id
        use = ActivityIDConflictPolicy.USE_EXISTING
        assert (await started(client, left_open, queue, id=first.id, id_conflict_policy=use)).run_id == first.run_id
        await first.terminate()
        again = await started(client, greets, queue, id=first.id)
        assert await again.result() == "hello you" and again.run_id != first.run_id
        only_failed = ActivityIDReusePolicy.ALLOW_DUPLICATE_FAILED_ONLY
        with pytest.raises(ActivityAlreadyStartedError):
            await started(client, greets, queue, id=first.id, id_reuse_policy=only_failed)
        # The first one is still known.
        assert (await first.describe()).status == ActivityExecutionStatus.TERMINATED


async def test_start_delay(client: Client) -> None:
    async with worker(client, activities=ACTIVITIES) as queue:
        handle = await started(client, greets, queue, start_delay=timedelta(seconds=1))
        assert await handle.result() == "hello you"
        info = (await handle.describe()).raw_info
        waited = info.last_started_time.ToNanoseconds() - info.schedule_time.ToNanoseconds()
        assert waited >= 1_000_000_000


async def test_operators(client: Client) -> None:
    queue = unique("tq")
    handle = await started(client, fails_twice, queue, retry_policy=RetryPolicy(initial_interval=timedelta(hours=1)))
    named = dict(namespace=client.namespace, activity_id=handle.id)
    await client.workflow_service.pause_activity_execution(PauseActivityExecutionRequest(**named, reason="why"))
    assert (await handle.describe()).status == ActivityExecutionStatus.PAUSED
    async with worker(client, activities=ACTIVITIES, task_queue=queue):
        await asyncio.sleep(0.5)
        assert (await handle.describe()).attempt == 1
        await client.workflow_service.unpause_activity_execution(UnpauseActivityExecutionRequest(**named))

        async def backs_off() -> bool:
            return (await handle.describe()).attempt == 2

        await until(backs_off, "the first attempt has failed")
        before = (await handle.describe()).raw_info.last_started_time
        await client.workflow_service.reset_activity_execution(ResetActivityExecutionRequest(**named))

        async def is_attempted_anew() -> bool:
            info = (await handle.describe()).raw_info
            return info.attempt == 2 and info.last_started_time != before

        await until(is_attempted_anew, "it is attempted at once, as for the first time")
    await handle.terminate()


async def test_lists_and_a_batch(client: Client) -> None:
    queue = unique("tq")
    handles = [await started(client, greets, queue) for _ in range(5)]
    query = f"TaskQueue = '{queue}'"
    assert {found.activity_id async for found in client.list_activities(query)} == {h.id for h in handles}
    await handles[0].cancel()
    running = f"{query} AND ExecutionStatus = 'Running'"
    assert (await client.count_activities(running)).count == 4
    request = StartBatchOperationRequest(
        namespace=client.namespace,
        job_id=unique("job"),
        reason="enough",
        visibility_query=query,
        terminate_activities_operation=BatchOperationTerminateActivities(identity="operator", reason="enough"),
    )
    await client.workflow_service.start_batch_operation(request)
    asked = DescribeBatchOperationRequest(namespace=client.namespace, job_id=request.job_id)

    async def is_over() -> bool:
        described = await client.workflow_service.describe_batch_operation(asked)
        return described.state == BatchOperationState.BATCH_OPERATION_STATE_COMPLETED

    await until(is_over, "the job is completed")
    assert (await client.count_activities(running)).count == 0
    assert (await client.count_activities(f"{query} AND ExecutionStatus = 'Terminated'")).count == 4
