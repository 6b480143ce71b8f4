"""Schedules: what they start and when, what becomes of overlaps, and what a client can do with them and see of them."""

import asyncio
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest
from temporalio import workflow
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest
from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleAlreadyRunningError,
    ScheduleBackfill,
    ScheduleCalendarSpec,
    ScheduleHandle,
    ScheduleIntervalSpec,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleRange,
    ScheduleSpec,
    ScheduleState,
    ScheduleUpdate,
    ScheduleUpdateInput,
    WorkflowExecutionStatus,
)
from temporalio.common import SearchAttributeKey, SearchAttributePair, TypedSearchAttributes
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode

from history import verified
from running import unique, until, worker

SECOND = timedelta(seconds=1)
SCHEDULED_BY = SearchAttributeKey.for_keyword("TemporalScheduledById")
SCHEDULED_START = SearchAttributeKey.for_datetime("TemporalScheduledStartTime")


@workflow.defn
class Scheduled:
    """Ends as it is told to; counts on from what the one before has returned."""

    @workflow.run
    async def run(self, what: str) -> int:
        last = workflow.get_last_completion_result(int) if workflow.has_last_completion_result() else 0
        match what:
            case "counts":
                return last + 1
            case "fails":
                raise ApplicationError("did not work", non_retryable=True)
            case "remembers":
                failure = workflow.get_last_failure()
                if failure is None:
                    raise ApplicationError("first", non_retryable=True)
                assert "first" in str(failure), failure
                return 7
        await workflow.wait_condition(lambda: False)
        raise AssertionError("it waits for ever")


def action(queue: str, what: str, **more) -> ScheduleActionStartWorkflow:
    return ScheduleActionStartWorkflow(Scheduled.run, what, id=unique("scheduled"), task_queue=queue, **more)


def every(interval: timedelta) -> ScheduleSpec:
    return ScheduleSpec(intervals=[ScheduleIntervalSpec(every=interval)])


def never() -> ScheduleSpec:
    return every(timedelta(days=300))


async def described(handle: ScheduleHandle, holds):
    async def ask():
        description = await handle.describe()
        return description if holds(description) else None

    return await until(ask, f"what is wanted of schedule {handle.id}")


def actions(number: int):
    return lambda description: description.info.num_actions >= number and not description.info.running_actions


@pytest.mark.asyncio
async def test_it_starts_a_workflow_at_each_time(client: Client):
    async with worker(client, workflows=[Scheduled]) as queue:
        schedule = Schedule(action=action(queue, "counts"), spec=every(SECOND))
        handle = await client.create_schedule(unique("schedule"), schedule)
        description = await described(handle, lambda d: d.info.num_actions >= 3)
        await handle.delete()
        for done in description.info.recent_actions[:2]:
            run = client.get_workflow_handle(done.action.workflow_id, run_id=done.action.first_execution_run_id)
            assert await run.result() >= 1
            told = await run.describe()
            assert told.typed_search_attributes[SCHEDULED_BY] == handle.id
            assert told.typed_search_attributes[SCHEDULED_START] == done.scheduled_at
            assert done.action.workflow_id.endswith(done.scheduled_at.strftime("-%Y-%m-%dT%H:%M:%SZ"))
            await verified(run, Scheduled)


@pytest.mark.asyncio
async def test_results_are_handed_on(client: Client):
    async with worker(client, workflows=[Scheduled]) as queue:
        handle = await client.create_schedule(unique("schedule"), Schedule(action=action(queue, "counts"), spec=never()))
        for number in range(1, 4):
            await handle.trigger()
            description = await described(handle, actions(number))
            last = description.info.recent_actions[-1].action
            assert await client.get_workflow_handle(last.workflow_id).result() == number
            await asyncio.sleep(1.1)  # its id has the second
        await handle.delete()


@pytest.mark.asyncio
async def test_failures_are_handed_on(client: Client):
    async with worker(client, workflows=[Scheduled]) as queue:
        handle = await client.create_schedule(
            unique("schedule"), Schedule(action=action(queue, "remembers"), spec=never())
        )
        for number in (1, 2):
            await handle.trigger()
            await described(handle, actions(number))
            await asyncio.sleep(1.1)
        description = await handle.describe()
        last = description.info.recent_actions[-1].action
        assert await client.get_workflow_handle(last.workflow_id).result() == 7
        await handle.delete()


@pytest.mark.asyncio
async def test_what_is_described_is_what_was_created(client: Client):
    spec = ScheduleSpec(
        calendars=[ScheduleCalendarSpec(hour=[ScheduleRange(9, 17, 4)], day_of_week=[ScheduleRange(1, 5)])],
        intervals=[ScheduleIntervalSpec(every=timedelta(hours=10), offset=timedelta(minutes=5))],
        cron_expressions=["0 12 * * MON # lunch"],
        jitter=timedelta(seconds=30),
        time_zone_name="Europe/Berlin",
        end_at=datetime(2090, 1, 1, tzinfo=timezone.utc),
    )
    start = action("nobody", "counts", memo={"of": "workflow"}, execution_timeout=timedelta(hours=1))
    policy = SchedulePolicy(
        overlap=ScheduleOverlapPolicy.BUFFER_ONE, catchup_window=timedelta(minutes=5), pause_on_failure=True
    )
    state = ScheduleState(note="note", paused=True, limited_actions=True, remaining_actions=5)
    schedule = Schedule(action=start, spec=spec, policy=policy, state=state)
    handle = await client.create_schedule(unique("schedule"), schedule, memo={"of": "schedule"})
    description = await handle.describe()
    assert (description.schedule.policy, description.schedule.state) == (policy, state)
    told = description.schedule.spec
    assert [calendar.comment for calendar in told.calendars] == [None, "lunch"]
    assert told.calendars[1].hour == (ScheduleRange(12),) or list(told.calendars[1].hour) == [ScheduleRange(12, 12, 1)]
    assert (told.intervals[0].every, told.jitter, told.cron_expressions) == (timedelta(hours=10), spec.jitter, [])
    assert await description.memo_value("of") == "schedule"
    assert len(description.info.next_action_times) == 5
    assert description.info.next_action_times == sorted(description.info.next_action_times)
    with pytest.raises(ScheduleAlreadyRunningError):
        await client.create_schedule(handle.id, schedule)
    await handle.delete()
    with pytest.raises(RPCError) as error:
        await handle.describe()
    assert error.value.status == RPCStatusCode.NOT_FOUND


@pytest.mark.asyncio
async def test_pause_update_and_trigger(client: Client):
    async with worker(client, workflows=[Scheduled]) as queue:
        schedule = Schedule(action=action(queue, "counts"), spec=never())
        handle = await client.create_schedule(unique("schedule"), schedule, trigger_immediately=True)
        await described(handle, actions(1))
        await handle.pause(note="a pause")
        state = (await handle.describe()).schedule.state
        assert (state.paused, state.note) == (True, "a pause")

        def often(update: ScheduleUpdateInput) -> ScheduleUpdate:
            schedule = update.description.schedule
            return ScheduleUpdate(schedule=replace(schedule, spec=every(SECOND)))

        await handle.update(often)
        await asyncio.sleep(1.5)
        description = await handle.describe()
        assert (description.info.num_actions, description.schedule.state.note) == (1, "a pause")
        assert description.info.last_updated_at
        await handle.unpause(note="on")
        await described(handle, lambda d: d.info.num_actions >= 2)
        await handle.delete()


@pytest.mark.asyncio
async def test_overlap(client: Client):
    async with worker(client, workflows=[Scheduled]) as queue:
        handle = await client.create_schedule(unique("schedule"), Schedule(action=action(queue, "waits"), spec=never()))

        async def trigger(policy: ScheduleOverlapPolicy, holds):
            await asyncio.sleep(1.1)
            await handle.trigger(overlap=policy)
            return await described(handle, holds)

        def running(number: int):
            return lambda d: d.info.num_actions == number and len(d.info.running_actions) == 1

        first = (await trigger(ScheduleOverlapPolicy.SKIP, running(1))).info.running_actions[0]
        await trigger(ScheduleOverlapPolicy.SKIP, lambda d: d.info.num_actions_skipped_overlap == 1)
        await trigger(ScheduleOverlapPolicy.ALLOW_ALL, lambda d: d.info.num_actions == 2)
        second = (await trigger(ScheduleOverlapPolicy.CANCEL_OTHER, running(3))).info.running_actions[0]
        third = (await trigger(ScheduleOverlapPolicy.TERMINATE_OTHER, running(4))).info.running_actions[0]
        await trigger(ScheduleOverlapPolicy.BUFFER_ONE, lambda d: True)
        for run, status in [
            (first, WorkflowExecutionStatus.CANCELED),
            (second, WorkflowExecutionStatus.TERMINATED),
            (third, WorkflowExecutionStatus.RUNNING),
        ]:
            assert (await client.get_workflow_handle(run.workflow_id).describe()).status == status
        await client.get_workflow_handle(third.workflow_id).terminate()
        await described(handle, running(5))
        await handle.delete()


@pytest.mark.asyncio
async def test_backfill(client: Client):
    async with worker(client, workflows=[Scheduled]) as queue:
        schedule = Schedule(action=action(queue, "counts"), spec=every(timedelta(hours=1)), state=ScheduleState(paused=True))
        handle = await client.create_schedule(unique("schedule"), schedule)
        end = datetime(2026, 1, 2, tzinfo=timezone.utc)
        backfill = ScheduleBackfill(
            start_at=end - timedelta(hours=24), end_at=end, overlap=ScheduleOverlapPolicy.ALLOW_ALL
        )
        await handle.backfill(backfill)
        description = await described(handle, lambda d: d.info.num_actions == 25)
        assert description.info.recent_actions[-1].scheduled_at == end
        await handle.delete()


@pytest.mark.asyncio
async def test_it_pauses_on_failure(client: Client):
    async with worker(client, workflows=[Scheduled]) as queue:
        start = action(queue, "fails")
        schedule = Schedule(action=start, spec=every(SECOND), policy=SchedulePolicy(pause_on_failure=True))
        handle = await client.create_schedule(unique("schedule"), schedule)
        description = await described(handle, lambda d: d.schedule.state.paused)
        note = description.schedule.state.note
        assert note.startswith(f"paused due to workflow failure: {start.id}-") and note.endswith(": did not work")
        await handle.delete()


@pytest.mark.asyncio
async def test_it_takes_as_many_actions_as_it_may(client: Client):
    async with worker(client, workflows=[Scheduled]) as queue:
        state = ScheduleState(limited_actions=True, remaining_actions=2)
        schedule = Schedule(action=action(queue, "counts"), spec=every(SECOND), state=state)
        handle = await client.create_schedule(unique("schedule"), schedule)
        description = await described(handle, actions(2))
        assert (description.schedule.state.remaining_actions, list(description.info.next_action_times)) == (0, [])
        await asyncio.sleep(1.5)
        assert (await handle.describe()).info.num_actions == 2
        await handle.delete()


@pytest.mark.asyncio
async def test_lists_show_what_was_acknowledged(client: Client):
    keyword = SearchAttributeKey.for_keyword("ScheduleTests")
    request = AddSearchAttributesRequest(namespace="default", search_attributes={keyword.name: keyword.indexed_value_type})
    await client.operator_service.add_search_attributes(request)
    value = unique("value")
    attributes = TypedSearchAttributes([SearchAttributePair(keyword, value)])
    schedule = Schedule(action=action("nobody", "counts"), spec=never())
    handles = []
    for number in range(3):
        handle = await client.create_schedule(
            unique("schedule"), schedule, memo={"number": number}, search_attributes=attributes
        )
        handles.append(handle)
        listed = [entry async for entry in await client.list_schedules(f"ScheduleTests = '{value}'")]
        assert {entry.id for entry in listed} == {handle.id for handle in handles}
    await handles[1].pause(note="quiet")
    query = f"ScheduleTests = '{value}' AND TemporalSchedulePaused = true"
    (entry,) = [entry async for entry in await client.list_schedules(query)]
    assert entry.id == handles[1].id and entry.schedule and entry.schedule.state.note == "quiet"
    assert await entry.memo_value("number") == 1
    assert entry.info and len(entry.info.next_action_times) == 5
    one = [entry.id async for entry in await client.list_schedules(f"ScheduleId = '{handles[2].id}'")]
    assert one == [handles[2].id]
    paged = [entry.id async for entry in await client.list_schedules(f"ScheduleTests = '{value}'", page_size=1)]
    assert sorted(paged) == sorted(handle.id for handle in handles)
    assert handles[0].id not in [run.id async for run in client.list_workflows()]
    for handle in handles:
        await handle.delete()
    assert [entry async for entry in await client.list_schedules(f"ScheduleTests = '{value}'")] == []
