"""Reads workflow histories and checks what must hold for every one of them."""

from typing import Sequence

from google.protobuf.internal.well_known_types import Duration, Timestamp
from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import WorkflowHandle
from temporalio.worker import Replayer, UnsandboxedWorkflowRunner

STARTED = EventType.EVENT_TYPE_WORKFLOW_TASK_STARTED
TASK_ENDS = (
    EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED,
    EventType.EVENT_TYPE_WORKFLOW_TASK_FAILED,
    EventType.EVENT_TYPE_WORKFLOW_TASK_TIMED_OUT,
)


async def events(handle: WorkflowHandle) -> list[HistoryEvent]:
    """The whole history of the handle's run, as far as it has got."""
    return [event async for event in handle.fetch_history_events()]


def kinds(history: Sequence[HistoryEvent]) -> list[str]:
    """Event types without their prefix, e.g. `WORKFLOW_TASK_SCHEDULED`."""
    return [kind(event) for event in history]


def kind(event: HistoryEvent) -> str:
    """The event's type without its prefix."""
    return EventType.Name(event.event_type).removeprefix("EVENT_TYPE_")


def of_kind(history: Sequence[HistoryEvent], wanted: str) -> list[HistoryEvent]:
    """The events of one type, in order."""
    return [event for event in history if kind(event) == wanted]


def check(history: Sequence[HistoryEvent]) -> None:
    """Fails unless the history is one that a correct server can have written."""
    ids = [event.event_id for event in history]
    assert ids == list(range(1, len(ids) + 1)), f"event ids are not contiguous from 1: {ids}"
    assert kind(history[0]) == "WORKFLOW_EXECUTION_STARTED", kinds(history)

    for event, following in zip(history, history[1:]):
        if event.event_type == STARTED:
            assert following.event_type in TASK_ENDS, (
                f"event {event.event_id} WORKFLOW_TASK_STARTED is followed by {kind(following)}: {kinds(history)}"
            )
    check_timers(history)
    check_references(history)
    check_children(history)


def check_timers(history: Sequence[HistoryEvent]) -> None:
    """No timer fires early, twice, or after its cancellation."""
    over: set[int] = set()
    for event in history:
        if kind(event) == "TIMER_FIRED":
            started = history[event.timer_fired_event_attributes.started_event_id - 1]
            assert kind(started) == "TIMER_STARTED"
            duration = nanoseconds(started.timer_started_event_attributes.start_to_fire_timeout)
            late_ns = nanoseconds(event.event_time) - nanoseconds(started.event_time) - duration
            assert late_ns >= 0, f"timer of event {started.event_id} fired {-late_ns} ns early"
        elif kind(event) == "TIMER_CANCELED":
            started = history[event.timer_canceled_event_attributes.started_event_id - 1]
        else:
            continue
        assert started.event_id not in over, f"timer of event {started.event_id} ended twice"
        over.add(started.event_id)


def check_references(history: Sequence[HistoryEvent]) -> None:
    """Events point at the events they answer, and no activity ends twice."""
    over: set[int] = set()
    for event in history:
        attributes = getattr(event, event.WhichOneof("attributes"))
        for field, wanted in (
            (
                "scheduled_event_id",
                ("WORKFLOW_TASK_SCHEDULED", "ACTIVITY_TASK_SCHEDULED", "NEXUS_OPERATION_SCHEDULED"),
            ),
            (
                "started_event_id",
                ("WORKFLOW_TASK_STARTED", "ACTIVITY_TASK_STARTED", "TIMER_STARTED", "CHILD_WORKFLOW_EXECUTION_STARTED"),
            ),
            (
                "initiated_event_id",
                (
                    "START_CHILD_WORKFLOW_EXECUTION_INITIATED",
                    "SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED",
                    "REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED",
                ),
            ),
            ("workflow_task_completed_event_id", ("WORKFLOW_TASK_COMPLETED",)),
        ):
            target = getattr(attributes, field, 0)
            if target > 0:
                assert target < event.event_id, f"event {event.event_id} {field}={target} is not in its past"
                assert kind(history[target - 1]) in wanted, f"event {event.event_id} {kind(event)} {field}={target}"
        if kind(event) in (
            "ACTIVITY_TASK_COMPLETED",
            "ACTIVITY_TASK_FAILED",
            "ACTIVITY_TASK_TIMED_OUT",
            "ACTIVITY_TASK_CANCELED",
        ):
            assert attributes.scheduled_event_id not in over, (
                f"activity of event {attributes.scheduled_event_id} ended twice"
            )
            over.add(attributes.scheduled_event_id)


def check_children(history: Sequence[HistoryEvent]) -> None:
    """A child is told of in order: that it was started, or could not be, and then how it has ended; nothing twice."""
    told: dict[int, str] = {}
    for event in history:
        attributes = getattr(event, event.WhichOneof("attributes"))
        if kind(event) == "START_CHILD_WORKFLOW_EXECUTION_INITIATED":
            told[event.event_id] = "initiated"
        elif kind(event) in ("CHILD_WORKFLOW_EXECUTION_STARTED", "START_CHILD_WORKFLOW_EXECUTION_FAILED"):
            assert told[attributes.initiated_event_id] == "initiated", f"event {event.event_id}: {told}"
            told[attributes.initiated_event_id] = "started" if kind(event).endswith("STARTED") else "refused"
        elif kind(event).startswith("CHILD_WORKFLOW_EXECUTION_"):
            assert told[attributes.initiated_event_id] == "started", f"event {event.event_id}: {told}"
            told[attributes.initiated_event_id] = "ended"
            assert attributes.started_event_id > attributes.initiated_event_id


def nanoseconds(value: Timestamp | Duration) -> int:
    """A protobuf time or duration as one number."""
    return value.seconds * 1_000_000_000 + value.nanos


async def verified(handle: WorkflowHandle, *workflows: type) -> list[HistoryEvent]:
    """Fetches the run's history, checks it, replays it with the SDK, and returns its events."""
    history = await handle.fetch_history()
    check(history.events)
    await Replayer(workflows=list(workflows), workflow_runner=UnsandboxedWorkflowRunner()).replay_workflow(history)
    return list(history.events)
