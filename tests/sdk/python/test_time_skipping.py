"""The SDK's time-skipping test environment, with Everlog in the place of Temporal's test server.

Each test has a server of its own, which the SDK starts by deploy/test-server.sh.
"""

import os
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import AsyncIterator

import pytest
import pytest_asyncio
from temporalio import activity, workflow
from temporalio.client import WorkflowFailureError
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, TimeoutError, TimeoutType
from temporalio.testing import WorkflowEnvironment

from running import unique, worker

TEST_SERVER = Path(__file__).parents[3] / "deploy" / "test-server.sh"
YEAR_S = 365 * 24 * 3600

pytestmark = pytest.mark.skipif(
    "EVERLOG_BIN" not in os.environ, reason="EVERLOG_BIN does not name the binary to start"
)


@pytest_asyncio.fixture
async def environment() -> AsyncIterator[WorkflowEnvironment]:
    """An environment whose time is skipped."""
    async with await WorkflowEnvironment.start_time_skipping(
        test_server_existing_path=str(TEST_SERVER)
    ) as environment:
        assert environment.supports_time_skipping
        yield environment


async def passed_s(environment: WorkflowEnvironment, begun: datetime) -> float:
    return (await environment.get_current_time() - begun).total_seconds()


def near(seconds: float) -> object:
    return pytest.approx(seconds, abs=30)


@workflow.defn
class SleepsEachDay:
    @workflow.run
    async def run(self, days: int) -> float:
        begun = workflow.now()
        for _ in range(days):
            await workflow.sleep(timedelta(days=1))
        return (workflow.now() - begun).total_seconds()


@workflow.defn
class Waits:
    def __init__(self) -> None:
        self.signals = 0

    @workflow.signal
    def go(self) -> None:
        self.signals += 1

    @workflow.query
    def now(self) -> float:
        return workflow.now().timestamp()

    @workflow.run
    async def run(self, seconds: float) -> str:
        await workflow.sleep(seconds)
        return "awake"


@workflow.defn
class ParentOfSleeper:
    @workflow.run
    async def run(self) -> str:
        return await workflow.execute_child_workflow(Waits.run, float(YEAR_S), id=unique("child"))


@activity.defn
async def fails_twice() -> int:
    if activity.info().attempt < 3:
        raise RuntimeError("not yet")
    return activity.info().attempt


@workflow.defn
class Retries:
    @workflow.run
    async def run(self) -> int:
        return await workflow.execute_activity(
            fails_twice,
            start_to_close_timeout=timedelta(minutes=1),
            retry_policy=RetryPolicy(
                initial_interval=timedelta(days=1), backoff_coefficient=10, maximum_interval=timedelta(days=10)
            ),
        )


@workflow.defn
class MissesHeartbeats:
    @workflow.run
    async def run(self) -> None:
        await workflow.execute_activity(
            "sleeps_by_the_service",
            schedule_to_close_timeout=timedelta(hours=1),
            heartbeat_timeout=timedelta(seconds=20),
            retry_policy=RetryPolicy(maximum_attempts=1),
        )


async def test_a_year_of_timers_takes_no_time(environment: WorkflowEnvironment) -> None:
    begun = await environment.get_current_time()
    assert abs(begun - datetime.now(timezone.utc)) < timedelta(seconds=30)
    async with worker(environment.client, [SleepsEachDay]) as task_queue:
        began = time.monotonic()
        slept = await environment.client.execute_workflow(
            SleepsEachDay.run, 365, id=unique("sleeps"), task_queue=task_queue
        )
        assert time.monotonic() - began < 15
    assert slept == near(YEAR_S)
    assert await passed_s(environment, begun) == near(YEAR_S)


async def test_time_is_skipped_by_hand(environment: WorkflowEnvironment) -> None:
    begun = await environment.get_current_time()
    async with worker(environment.client, [Waits]) as task_queue:
        handle = await environment.client.start_workflow(
            Waits.run, 100_000.0, id=unique("waits"), task_queue=task_queue
        )

        async def workflow_time_s() -> float:
            await handle.signal(Waits.go)
            return await handle.query(Waits.now) - begun.timestamp()

        assert await workflow_time_s() == near(0)
        await environment.sleep(1000)
        assert await workflow_time_s() == near(1000)
        await environment.sleep(timedelta(hours=2))
        assert await workflow_time_s() == near(8200)
        assert await handle.result() == "awake"
    assert await passed_s(environment, begun) == near(100_000)


async def test_time_that_is_locked_passes_as_it_always_does(environment: WorkflowEnvironment) -> None:
    async with worker(environment.client, [Waits]) as task_queue:
        with environment.auto_time_skipping_disabled():
            began = time.monotonic()
            result = await environment.client.execute_workflow(
                Waits.run, 1.5, id=unique("waits"), task_queue=task_queue
            )
            assert result == "awake" and time.monotonic() - began >= 1.4


async def test_children_and_retries_are_skipped_to(environment: WorkflowEnvironment) -> None:
    begun = await environment.get_current_time()
    async with worker(environment.client, [ParentOfSleeper, Waits, Retries], [fails_twice]) as task_queue:
        result = await environment.client.execute_workflow(
            ParentOfSleeper.run, id=unique("parent"), task_queue=task_queue
        )
        assert result == "awake"
        assert await passed_s(environment, begun) == near(YEAR_S)
        begun = await environment.get_current_time()
        attempts = await environment.client.execute_workflow(Retries.run, id=unique("retries"), task_queue=task_queue)
        assert attempts == 3
        assert await passed_s(environment, begun) == near(11 * 24 * 3600)


async def test_an_activity_that_sleeps_misses_its_heartbeats(environment: WorkflowEnvironment) -> None:
    @activity.defn
    async def sleeps_by_the_service() -> None:
        await environment.sleep(40)

    async with worker(environment.client, [MissesHeartbeats], [sleeps_by_the_service]) as task_queue:
        with pytest.raises(WorkflowFailureError) as failed:
            await environment.client.execute_workflow(
                MissesHeartbeats.run, id=unique("misses"), task_queue=task_queue
            )
    assert isinstance(failed.value.cause, ActivityError)
    assert isinstance(failed.value.cause.cause, TimeoutError)
    assert failed.value.cause.cause.type == TimeoutType.HEARTBEAT


async def test_several_workflows_at_a_time(environment: WorkflowEnvironment) -> None:
    begun = await environment.get_current_time()
    async with worker(environment.client, [Waits]) as task_queue:
        handles = [
            await environment.client.start_workflow(
                Waits.run, float(hour * 3600), id=unique("waits"), task_queue=task_queue
            )
            for hour in range(1, 6)
        ]
        for handle in handles:
            assert await handle.result() == "awake"
    assert await passed_s(environment, begun) == near(5 * 3600)
