"""Activities: results, retries, the four timeouts, heartbeats, cancellation, asynchronous completion."""

import asyncio
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from temporalio import activity, workflow
from temporalio.api.enums.v1 import PendingActivityState, RetryState
from temporalio.client import Client, WorkflowFailureError
from temporalio.common import Priority, RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError, CancelledError, TimeoutError, TimeoutType

from history import events, kinds, nanoseconds, of_kind, verified
from running import unique, until, worker


@dataclass
class Plan:
    """What the workflow `RunsActivity` shall run, and under which options (times in seconds)."""

    activity: str
    args: list = field(default_factory=list)
    task_queue: str | None = None
    schedule_to_close_s: float | None = None
    schedule_to_start_s: float | None = None
    start_to_close_s: float | None = None
    heartbeat_s: float | None = None
    attempts_max: int = 0
    retry_initial_s: float = 0.05
    retry_coefficient: float = 1.0
    non_retryable: list[str] = field(default_factory=list)

    def options(self) -> dict:
        def seconds(value: float | None) -> timedelta | None:
            return None if value is None else timedelta(seconds=value)

        return dict(
            task_queue=self.task_queue,
            schedule_to_close_timeout=seconds(self.schedule_to_close_s),
            schedule_to_start_timeout=seconds(self.schedule_to_start_s),
            start_to_close_timeout=seconds(self.start_to_close_s),
            heartbeat_timeout=seconds(self.heartbeat_s),
            retry_policy=RetryPolicy(
                initial_interval=timedelta(seconds=self.retry_initial_s),
                backoff_coefficient=self.retry_coefficient,
                maximum_attempts=self.attempts_max,
                non_retryable_error_types=self.non_retryable,
            ),
        )


@workflow.defn
class RunsActivity:
    @workflow.run
    async def run(self, plan: Plan) -> Any:
        return await workflow.execute_activity(plan.activity, args=plan.args, **plan.options())


async def run(client: Client, queue: str, plan: Plan):
    return await client.start_workflow(RunsActivity.run, plan, id=unique("activity"), task_queue=queue)


async def failure_of(handle) -> ActivityError:
    with pytest.raises(WorkflowFailureError) as raised:
        await handle.result()
    assert isinstance(raised.value.cause, ActivityError)
    return raised.value.cause


@activity.defn
async def echo(value: Any) -> Any:
    return value


async def test_result_and_history(client: Client):
    async with worker(client, [RunsActivity], [echo]) as queue:
        handle = await run(client, queue, Plan("echo", [{"a": [1, "zwei", None]}], start_to_close_s=5))
        assert await handle.result() == {"a": [1, "zwei", None]}
    history = await verified(handle, RunsActivity)
    assert kinds(history) == [
        "WORKFLOW_EXECUTION_STARTED",
        "WORKFLOW_TASK_SCHEDULED",
        "WORKFLOW_TASK_STARTED",
        "WORKFLOW_TASK_COMPLETED",
        "ACTIVITY_TASK_SCHEDULED",
        "ACTIVITY_TASK_STARTED",
        "ACTIVITY_TASK_COMPLETED",
        "WORKFLOW_TASK_SCHEDULED",
        "WORKFLOW_TASK_STARTED",
        "WORKFLOW_TASK_COMPLETED",
        "WORKFLOW_EXECUTION_COMPLETED",
    ]
    assert history[5].activity_task_started_event_attributes.attempt == 1


async def test_activity_info(client: Client):
    infos = []

    @activity.defn
    async def note_info() -> None:
        infos.append(activity.info())

    async with worker(client, [RunsActivity], [note_info]) as queue:
        plan = Plan("note_info", start_to_close_s=5, schedule_to_close_s=7, heartbeat_s=3)
        handle = await run(client, queue, plan)
        await handle.result()
    (info,) = infos
    assert (info.workflow_id, info.workflow_run_id) == (handle.id, handle.result_run_id)
    assert (info.workflow_type, info.activity_type) == ("RunsActivity", "note_info")
    assert (info.task_queue, info.workflow_namespace, info.attempt) == (queue, "default", 1)
    assert info.start_to_close_timeout == timedelta(seconds=5)
    assert info.schedule_to_close_timeout == timedelta(seconds=7)
    assert info.heartbeat_timeout == timedelta(seconds=3)
    assert info.scheduled_time <= info.started_time


async def test_retries_with_backoff_until_success(client: Client):
    attempts: list[tuple[int, float]] = []

    @activity.defn
    async def succeeds_at_third() -> str:
        attempts.append((activity.info().attempt, asyncio.get_running_loop().time()))
        if activity.info().attempt < 3:
            raise ApplicationError("not yet", {"attempt": activity.info().attempt}, type="NotYet")
        return "done"

    async with worker(client, [RunsActivity], [succeeds_at_third]) as queue:
        plan = Plan("succeeds_at_third", start_to_close_s=5, retry_initial_s=0.2, retry_coefficient=2)
        handle = await run(client, queue, plan)
        assert await handle.result() == "done"
    assert [attempt for attempt, _ in attempts] == [1, 2, 3]
    times = [at for _, at in attempts]
    assert times[1] - times[0] >= 0.2 and times[2] - times[1] >= 0.4

    history = await verified(handle, RunsActivity)
    # Only the last attempt is written, with the failure of the one before it.
    (started,) = of_kind(history, "ACTIVITY_TASK_STARTED")
    assert started.activity_task_started_event_attributes.attempt == 3
    last_failure = started.activity_task_started_event_attributes.last_failure
    assert last_failure.message == "not yet"
    assert last_failure.application_failure_info.type == "NotYet"


async def test_attempts_are_used_up(client: Client):
    attempts = []

    @activity.defn
    async def always_fails() -> None:
        attempts.append(activity.info().attempt)
        raise ApplicationError("broken", "detail", 7, type="Broken")

    async with worker(client, [RunsActivity], [always_fails]) as queue:
        handle = await run(client, queue, Plan("always_fails", start_to_close_s=5, attempts_max=3))
        error = await failure_of(handle)
    assert attempts == [1, 2, 3]
    assert error.retry_state == RetryState.RETRY_STATE_MAXIMUM_ATTEMPTS_REACHED
    assert error.activity_type == "always_fails"
    assert isinstance(error.cause, ApplicationError)
    assert (error.cause.message, error.cause.type, error.cause.details) == ("broken", "Broken", ("detail", 7))
    await verified(handle, RunsActivity)


@pytest.mark.parametrize("declared_by", ["failure", "policy"])
async def test_non_retryable(client: Client, declared_by: str):
    attempts = []

    @activity.defn
    async def fails_for_good() -> None:
        attempts.append(activity.info().attempt)
        raise ApplicationError("for good", type="Final", non_retryable=declared_by == "failure")

    async with worker(client, [RunsActivity], [fails_for_good]) as queue:
        non_retryable = ["Final"] if declared_by == "policy" else []
        handle = await run(client, queue, Plan("fails_for_good", start_to_close_s=5, non_retryable=non_retryable))
        error = await failure_of(handle)
    assert attempts == [1]
    assert error.retry_state == RetryState.RETRY_STATE_NON_RETRYABLE_FAILURE
    assert error.cause.non_retryable == (declared_by == "failure")


async def test_next_retry_delay_overrides_the_policy(client: Client):
    @activity.defn
    async def retries_soon() -> int:
        if activity.info().attempt == 1:
            raise ApplicationError("soon", next_retry_delay=timedelta(seconds=0.1))
        return activity.info().attempt

    async with worker(client, [RunsActivity], [retries_soon]) as queue:
        # With the policy's interval the second attempt would come after the schedule-to-close timeout.
        plan = Plan("retries_soon", schedule_to_close_s=30, retry_initial_s=60)
        handle = await run(client, queue, plan)
        assert await asyncio.wait_for(handle.result(), 15) == 2


async def test_start_to_close_timeout(client: Client):
    @activity.defn
    async def sleeps() -> None:
        await asyncio.sleep(30)

    async with worker(client, [RunsActivity], [sleeps]) as queue:
        handle = await run(client, queue, Plan("sleeps", start_to_close_s=0.5, attempts_max=1))
        error = await failure_of(handle)
    assert isinstance(error.cause, TimeoutError)
    assert error.cause.type == TimeoutType.START_TO_CLOSE
    assert error.retry_state == RetryState.RETRY_STATE_MAXIMUM_ATTEMPTS_REACHED
    history = await verified(handle, RunsActivity)
    assert len(of_kind(history, "ACTIVITY_TASK_TIMED_OUT")) == 1


async def test_start_to_close_timeout_is_retried(client: Client):
    @activity.defn
    async def first_attempt_sleeps() -> int:
        if activity.info().attempt == 1:
            await asyncio.sleep(30)
        return activity.info().attempt

    async with worker(client, [RunsActivity], [first_attempt_sleeps]) as queue:
        handle = await run(client, queue, Plan("first_attempt_sleeps", start_to_close_s=0.5))
        assert await handle.result() == 2
    history = await verified(handle, RunsActivity)
    (started,) = of_kind(history, "ACTIVITY_TASK_STARTED")
    assert started.activity_task_started_event_attributes.last_failure.HasField("timeout_failure_info")


async def test_schedule_to_close_timeout_ends_a_running_attempt(client: Client):
    @activity.defn
    async def sleeps() -> None:
        await asyncio.sleep(30)

    async with worker(client, [RunsActivity], [sleeps]) as queue:
        handle = await run(client, queue, Plan("sleeps", schedule_to_close_s=0.6))
        error = await failure_of(handle)
    # With no start-to-close timeout of its own an attempt gets the schedule-to-close one, and the two fall due together.
    assert isinstance(error.cause, TimeoutError)
    assert error.cause.type in (TimeoutType.SCHEDULE_TO_CLOSE, TimeoutType.START_TO_CLOSE)
    await verified(handle, RunsActivity)


async def test_schedule_to_close_timeout_stops_retries(client: Client):
    @activity.defn
    async def always_fails() -> None:
        raise ApplicationError("again")

    async with worker(client, [RunsActivity], [always_fails]) as queue:
        # The third attempt would come 5 s after the second: too late, and known at once.
        plan = Plan("always_fails", schedule_to_close_s=5, retry_initial_s=0.1, retry_coefficient=50)
        handle = await run(client, queue, plan)
        error = await failure_of(handle)
    assert error.retry_state == RetryState.RETRY_STATE_TIMEOUT
    history = await verified(handle, RunsActivity)
    (started,) = of_kind(history, "ACTIVITY_TASK_STARTED")
    assert started.activity_task_started_event_attributes.attempt == 2


async def test_schedule_to_start_timeout(client: Client):
    async with worker(client, [RunsActivity]) as queue:
        plan = Plan("echo", [0], task_queue=unique("nobody"), schedule_to_start_s=0.5, start_to_close_s=5)
        handle = await run(client, queue, plan)
        error = await failure_of(handle)
    assert isinstance(error.cause, TimeoutError)
    assert error.cause.type == TimeoutType.SCHEDULE_TO_START
    assert error.retry_state == RetryState.RETRY_STATE_TIMEOUT
    history = await verified(handle, RunsActivity)
    assert not of_kind(history, "ACTIVITY_TASK_STARTED")


async def test_heartbeat_timeout_carries_the_last_details(client: Client):
    @activity.defn
    async def beats_once() -> None:
        activity.heartbeat("progress", 42)
        await asyncio.sleep(30)

    async with worker(client, [RunsActivity], [beats_once]) as queue:
        handle = await run(client, queue, Plan("beats_once", start_to_close_s=20, heartbeat_s=0.6, attempts_max=1))
        error = await failure_of(handle)
    assert isinstance(error.cause, TimeoutError)
    assert error.cause.type == TimeoutType.HEARTBEAT
    assert list(error.cause.last_heartbeat_details) == ["progress", 42]


async def test_heartbeats_keep_an_activity_alive(client: Client):
    @activity.defn
    async def beats() -> int:
        for _ in range(15):
            activity.heartbeat()
            await asyncio.sleep(0.1)
        return activity.info().attempt

    async with worker(client, [RunsActivity], [beats]) as queue:
        handle = await run(client, queue, Plan("beats", start_to_close_s=20, heartbeat_s=0.8))
        assert await handle.result() == 1


async def test_heartbeat_details_reach_the_next_attempt(client: Client):
    @activity.defn
    async def resumes() -> list:
        if activity.info().attempt == 1:
            activity.heartbeat("item", 17)
            raise ApplicationError("crashed after 17")
        return list(activity.info().heartbeat_details)

    async with worker(client, [RunsActivity], [resumes]) as queue:
        handle = await run(client, queue, Plan("resumes", start_to_close_s=5, heartbeat_s=5))
        assert await handle.result() == ["item", 17]


async def test_describe_shows_a_retrying_activity(client: Client):
    @activity.defn
    async def always_fails() -> None:
        raise ApplicationError("not today", type="Weather")

    async with worker(client, [RunsActivity], [always_fails]) as queue:
        handle = await run(client, queue, Plan("always_fails", start_to_close_s=5, attempts_max=9, retry_initial_s=30))

        async def waiting_for_second():
            pending = (await handle.describe()).raw_description.pending_activities
            return pending[0] if pending and pending[0].attempt == 2 else None

        pending = await until(waiting_for_second, "the activity waits for its second attempt")
        assert pending.state == PendingActivityState.PENDING_ACTIVITY_STATE_SCHEDULED
        assert pending.activity_type.name == "always_fails"
        assert pending.maximum_attempts == 9
        assert pending.last_failure.message == "not today"
        assert pending.last_failure.application_failure_info.type == "Weather"
        assert nanoseconds(pending.current_retry_interval) // 10**9 == 30
        # Nothing is written about failed attempts while there are attempts left.
        assert kinds(await events(handle))[-1] == "ACTIVITY_TASK_SCHEDULED"
        await handle.terminate()


@workflow.defn
class FansOut:
    @workflow.run
    async def run(self, count: int) -> list[int]:
        timeout = timedelta(seconds=30)
        return list(
            await asyncio.gather(
                *(workflow.execute_activity(echo, i, start_to_close_timeout=timeout) for i in range(count))
            )
        )


async def test_activities_run_side_by_side(client: Client):
    async with worker(client, [FansOut], [echo]) as queue:
        handle = await client.start_workflow(FansOut.run, 50, id=unique("fan-out"), task_queue=queue)
        assert await handle.result() == list(range(50))
    history = await verified(handle, FansOut)
    assert len(of_kind(history, "ACTIVITY_TASK_COMPLETED")) == 50


async def test_activity_on_another_task_queue(client: Client):
    async with worker(client, [RunsActivity]) as queue, worker(client, activities=[echo]) as activity_queue:
        handle = await run(client, queue, Plan("echo", ["there"], task_queue=activity_queue, start_to_close_s=5))
        assert await handle.result() == "there"


async def test_payload_of_one_megabyte(client: Client):
    text = "0123456789abcdef" * 65536
    async with worker(client, [RunsActivity], [echo]) as queue:
        handle = await run(client, queue, Plan("echo", [text], start_to_close_s=20))
        assert await handle.result() == text
    await verified(handle, RunsActivity)


@workflow.defn
class CancelsItsActivity:
    """Cancels the activity once it is told that it runs, and reports how the activity ended."""

    def __init__(self) -> None:
        self.running = False

    @workflow.signal
    def activity_runs(self) -> None:
        self.running = True

    @workflow.run
    async def run(self, cancellation: int) -> str:
        task = workflow.start_activity(
            "beats_until_cancelled",
            start_to_close_timeout=timedelta(seconds=30),
            heartbeat_timeout=timedelta(seconds=5),
            cancellation_type=workflow.ActivityCancellationType(cancellation),
        )
        await workflow.wait_condition(lambda: self.running)
        task.cancel()
        try:
            return await task
        except ActivityError as error:
            return type(error.cause).__name__


def beats_until_cancelled(client: Client, seen: asyncio.Event, then_return: str | None = None):
    @activity.defn(name="beats_until_cancelled")
    async def beats() -> str:
        info = activity.info()
        await client.get_workflow_handle(info.workflow_id).signal(CancelsItsActivity.activity_runs)
        try:
            while True:
                activity.heartbeat()
                await asyncio.sleep(0.05)
        except asyncio.CancelledError:
            seen.set()
            if then_return is not None:
                return then_return
            raise

    return beats


async def cancels(client: Client, cancellation: workflow.ActivityCancellationType, then_return: str | None = None):
    seen = asyncio.Event()
    options = dict(
        max_heartbeat_throttle_interval=timedelta(seconds=0.2),
        default_heartbeat_throttle_interval=timedelta(seconds=0.2),
    )
    async with worker(
        client, [CancelsItsActivity], [beats_until_cancelled(client, seen, then_return)], **options
    ) as queue:
        handle = await client.start_workflow(
            CancelsItsActivity.run, int(cancellation), id=unique("cancel"), task_queue=queue
        )
        result = await handle.result()
        if cancellation != workflow.ActivityCancellationType.ABANDON:
            # The activity learns of its cancellation, or of the end of its workflow, by a heartbeat.
            await asyncio.wait_for(seen.wait(), 10)
    return result, await verified(handle, CancelsItsActivity)


async def test_cancel_and_wait_for_the_activity(client: Client):
    result, history = await cancels(client, workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED)
    assert result == CancelledError.__name__
    (requested,) = of_kind(history, "ACTIVITY_TASK_CANCEL_REQUESTED")
    (canceled,) = of_kind(history, "ACTIVITY_TASK_CANCELED")
    assert canceled.activity_task_canceled_event_attributes.latest_cancel_requested_event_id == requested.event_id


async def test_cancelled_activity_may_still_complete(client: Client):
    result, history = await cancels(client, workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED, "cleaned up")
    assert result == "cleaned up"
    assert of_kind(history, "ACTIVITY_TASK_CANCEL_REQUESTED") and of_kind(history, "ACTIVITY_TASK_COMPLETED")


async def test_cancel_without_waiting(client: Client):
    result, history = await cancels(client, workflow.ActivityCancellationType.TRY_CANCEL)
    assert result == CancelledError.__name__
    assert of_kind(history, "ACTIVITY_TASK_CANCEL_REQUESTED")


async def test_abandon(client: Client):
    result, history = await cancels(client, workflow.ActivityCancellationType.ABANDON)
    assert result == CancelledError.__name__
    assert not of_kind(history, "ACTIVITY_TASK_CANCEL_REQUESTED")


@workflow.defn
class CancelsUnstarted:
    @workflow.run
    async def run(self) -> str:
        task = workflow.start_activity(
            echo,
            0,
            task_queue=f"nobody-{workflow.info().workflow_id}",
            start_to_close_timeout=timedelta(seconds=30),
            cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
        )
        await workflow.sleep(0.1)
        task.cancel()
        try:
            await task
        except ActivityError as error:
            return type(error.cause).__name__
        return "no error"


async def test_cancel_before_any_worker_took_the_activity(client: Client):
    async with worker(client, [CancelsUnstarted]) as queue:
        handle = await client.start_workflow(CancelsUnstarted.run, id=unique("cancel"), task_queue=queue)
        assert await handle.result() == CancelledError.__name__
    history = await verified(handle, CancelsUnstarted)
    assert not of_kind(history, "ACTIVITY_TASK_STARTED")
    assert len(of_kind(history, "ACTIVITY_TASK_CANCELED")) == 1


def completes_elsewhere(taken: "asyncio.Queue[activity.Info]"):
    @activity.defn(name="completes_elsewhere")
    async def hands_over() -> str:
        await taken.put(activity.info())
        activity.raise_complete_async()

    return hands_over


@pytest.mark.parametrize("by", ["token", "id"])
async def test_completed_from_elsewhere(client: Client, by: str):
    taken: asyncio.Queue[activity.Info] = asyncio.Queue()
    async with worker(client, [RunsActivity], [completes_elsewhere(taken)]) as queue:
        handle = await run(client, queue, Plan("completes_elsewhere", start_to_close_s=20, heartbeat_s=10))
        elsewhere = async_handle(client, await taken.get(), by)
        await elsewhere.heartbeat("half way")
        described = (await handle.describe()).raw_description.pending_activities[0]
        assert described.state == PendingActivityState.PENDING_ACTIVITY_STATE_STARTED
        assert described.heartbeat_details.payloads[0].data == b'"half way"'
        await elsewhere.complete("from elsewhere")
        assert await handle.result() == "from elsewhere"
    await verified(handle, RunsActivity)


@pytest.mark.parametrize("by", ["token", "id"])
async def test_failed_from_elsewhere(client: Client, by: str):
    taken: asyncio.Queue[activity.Info] = asyncio.Queue()
    async with worker(client, [RunsActivity], [completes_elsewhere(taken)]) as queue:
        handle = await run(client, queue, Plan("completes_elsewhere", start_to_close_s=20, attempts_max=1))
        await async_handle(client, await taken.get(), by).fail(ApplicationError("elsewhere", type="Far"))
        error = await failure_of(handle)
    assert (error.cause.message, error.cause.type) == ("elsewhere", "Far")


def async_handle(client: Client, info: activity.Info, by: str):
    if by == "token":
        return client.get_async_activity_handle(task_token=info.task_token)
    return client.get_async_activity_handle(
        workflow_id=info.workflow_id, run_id=info.workflow_run_id, activity_id=info.activity_id
    )


@workflow.defn
class RunsByPriority:
    """Schedules an activity for each priority key in one workflow task; 0 stands for none."""

    @workflow.run
    async def run(self, keys: list[int], task_queue: str) -> list[str]:
        running = [
            workflow.start_activity(
                "note",
                key,
                task_queue=task_queue,
                start_to_close_timeout=timedelta(seconds=60),
                priority=Priority(priority_key=key or None),
            )
            for key in keys
        ]
        return [await activity for activity in running]


async def test_activities_run_by_priority(client: Client):
    order = []

    @activity.defn(name="note")
    async def note(key: int) -> str:
        order.append(key)
        return str(key)

    activities = unique("priorities")
    async with worker(client, [RunsByPriority]) as queue:
        keys = [5, 0, 1, 4, 2, 5, 3, 1]
        handle = await client.start_workflow(
            RunsByPriority.run, args=[keys, activities], id=unique("priority"), task_queue=queue
        )

        async def all_are_scheduled() -> bool:
            return len((await handle.describe()).raw_description.pending_activities) == len(keys)

        await until(all_are_scheduled, "all activities are scheduled")
        # One at a time, so that the order is the server's.
        one = dict(max_concurrent_activities=1, max_concurrent_activity_task_polls=1)
        async with worker(client, activities=[note], task_queue=activities, **one):
            assert await handle.result() == [str(key) for key in keys]
    # Without a key an activity is in the middle; among equals the one that came first is first.
    assert order == [1, 1, 2, 0, 3, 4, 5, 5]
    scheduled = of_kind(await events(handle), "ACTIVITY_TASK_SCHEDULED")
    assert [event.activity_task_scheduled_event_attributes.priority.priority_key for event in scheduled] == keys
