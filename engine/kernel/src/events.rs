//! History events: their encoding, their types, and the order in which buffered ones are appended.

use std::collections::HashMap;
use std::sync::Arc;

use everlog_proto::api::enums::v1::EventType;
use everlog_proto::api::history::v1::HistoryEvent;
use everlog_proto::api::history::v1::history_event::Attributes;
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};

use crate::Time;

/// Fills in id, type and, where the event has none yet, time.
pub(crate) fn complete(event: &mut HistoryEvent, id: i64, now: Time) {
    event.event_id = id;
    if event.event_time.is_none() {
        event.event_time = Some(now.to_proto());
    }
    let event_type = event.attributes.as_ref().map_or(EventType::Unspecified, event_type);
    event.event_type = event_type as i32;
    // Workers that do not know the type go on without it.
    event.worker_may_ignore = matches!(
        event_type,
        EventType::WorkflowExecutionOptionsUpdated
            | EventType::NexusOperationCancelRequestCompleted
            | EventType::NexusOperationCancelRequestFailed
    );
}

/// Appends an event to an encoded `History`: field 1 of that message.
pub(crate) fn encode_into(event: &HistoryEvent, history: &mut Vec<u8>) {
    // The length stands in front. To know it beforehand costs nearly as much as to encode, so room is made for it afterwards.
    let start = history.len();
    event.encode_raw(history);
    let event_bytes = history.len() - start;
    encode_key(1, WireType::LengthDelimited, history);
    encode_varint(event_bytes as u64, history);
    let event_with_prefix = &mut history[start..];
    event_with_prefix.rotate_left(event_bytes);
}

/// What [`encode_into`] writes for an event, bytes.
pub(crate) fn encoded_len(event: &HistoryEvent) -> usize {
    let len = event.encoded_len();
    key_len(1) + encoded_len_varint(len as u64) + len
}

/// The buffered events in the order in which they get their ids, the first of which is `next_event_id`: the ends of activities,
/// operations and children after everything else, each group in the order of arrival. An end refers to the started event that is flushed with it by
/// the id that it gets here. (Temporal: `event_store.go`, `reorderBuffer` and `wireEventIDs`.)
pub(crate) fn in_flush_order(buffered: Vec<Arc<HistoryEvent>>, next_event_id: i64) -> Vec<HistoryEvent> {
    let (mut buffered, ends): (Vec<_>, Vec<_>) = buffered.into_iter().partition(|event| !is_end(event));
    buffered.extend(ends);
    let mut events: Vec<_> = buffered.into_iter().map(Arc::unwrap_or_clone).collect();
    let mut started: HashMap<i64, i64> = HashMap::new();
    for (id, event) in (next_event_id..).zip(&mut events) {
        match event.attributes.as_mut() {
            Some(Attributes::ActivityTaskStartedEventAttributes(attributes)) => {
                started.insert(attributes.scheduled_event_id, id);
            }
            Some(Attributes::ChildWorkflowExecutionStartedEventAttributes(attributes)) => {
                started.insert(attributes.initiated_event_id, id);
            }
            Some(attributes) => {
                if let Some((begun, started_event_id)) = end_ids_mut(attributes)
                    && let Some(id) = started.get(&begun)
                {
                    *started_event_id = *id;
                }
            }
            None => {}
        }
    }
    events
}

fn is_end(event: &HistoryEvent) -> bool {
    let ended = |event: &Attributes| ended_activity(event).or(ended_child(event)).or(ended_nexus_operation(event));
    event.attributes.as_ref().is_some_and(|event| ended(event).is_some())
}

/// The scheduled event of the activity that the event ends, if it ends one.
pub(crate) fn ended_activity(attributes: &Attributes) -> Option<i64> {
    match attributes {
        Attributes::ActivityTaskCompletedEventAttributes(a) => Some(a.scheduled_event_id),
        Attributes::ActivityTaskFailedEventAttributes(a) => Some(a.scheduled_event_id),
        Attributes::ActivityTaskTimedOutEventAttributes(a) => Some(a.scheduled_event_id),
        Attributes::ActivityTaskCanceledEventAttributes(a) => Some(a.scheduled_event_id),
        _ => None,
    }
}

/// The scheduled event of the Nexus operation that the event ends, if it ends one.
pub(crate) fn ended_nexus_operation(attributes: &Attributes) -> Option<i64> {
    match attributes {
        Attributes::NexusOperationCompletedEventAttributes(a) => Some(a.scheduled_event_id),
        Attributes::NexusOperationFailedEventAttributes(a) => Some(a.scheduled_event_id),
        Attributes::NexusOperationCanceledEventAttributes(a) => Some(a.scheduled_event_id),
        Attributes::NexusOperationTimedOutEventAttributes(a) => Some(a.scheduled_event_id),
        _ => None,
    }
}

/// The scheduled event and the request id of the Nexus operation of which the event tells that it has started or ended.
pub(crate) fn nexus_request_id(attributes: &Attributes) -> Option<(i64, &str)> {
    match attributes {
        Attributes::NexusOperationStartedEventAttributes(a) => Some((a.scheduled_event_id, &a.request_id)),
        Attributes::NexusOperationCompletedEventAttributes(a) => Some((a.scheduled_event_id, &a.request_id)),
        Attributes::NexusOperationFailedEventAttributes(a) => Some((a.scheduled_event_id, &a.request_id)),
        Attributes::NexusOperationCanceledEventAttributes(a) => Some((a.scheduled_event_id, &a.request_id)),
        Attributes::NexusOperationTimedOutEventAttributes(a) => Some((a.scheduled_event_id, &a.request_id)),
        _ => None,
    }
}

/// The event with which an activity or a child began that the event ends, and its reference to the started one.
fn end_ids_mut(attributes: &mut Attributes) -> Option<(i64, &mut i64)> {
    match attributes {
        Attributes::ActivityTaskCompletedEventAttributes(a) => Some((a.scheduled_event_id, &mut a.started_event_id)),
        Attributes::ActivityTaskFailedEventAttributes(a) => Some((a.scheduled_event_id, &mut a.started_event_id)),
        Attributes::ActivityTaskTimedOutEventAttributes(a) => Some((a.scheduled_event_id, &mut a.started_event_id)),
        Attributes::ActivityTaskCanceledEventAttributes(a) => Some((a.scheduled_event_id, &mut a.started_event_id)),
        Attributes::ChildWorkflowExecutionCompletedEventAttributes(a) => {
            Some((a.initiated_event_id, &mut a.started_event_id))
        }
        Attributes::ChildWorkflowExecutionFailedEventAttributes(a) => {
            Some((a.initiated_event_id, &mut a.started_event_id))
        }
        Attributes::ChildWorkflowExecutionCanceledEventAttributes(a) => {
            Some((a.initiated_event_id, &mut a.started_event_id))
        }
        Attributes::ChildWorkflowExecutionTimedOutEventAttributes(a) => {
            Some((a.initiated_event_id, &mut a.started_event_id))
        }
        Attributes::ChildWorkflowExecutionTerminatedEventAttributes(a) => {
            Some((a.initiated_event_id, &mut a.started_event_id))
        }
        _ => None,
    }
}

/// The Initiated event of the child that the event ends, if it ends one, and its reference to the started one.
pub(crate) fn end_of_child_mut(attributes: &mut Attributes) -> Option<(i64, &mut i64)> {
    ended_child(attributes)?;
    end_ids_mut(attributes)
}

/// The Initiated event of the child that the event ends, if it ends one.
pub(crate) fn ended_child(attributes: &Attributes) -> Option<i64> {
    match attributes {
        Attributes::ChildWorkflowExecutionCompletedEventAttributes(a) => Some(a.initiated_event_id),
        Attributes::ChildWorkflowExecutionFailedEventAttributes(a) => Some(a.initiated_event_id),
        Attributes::ChildWorkflowExecutionCanceledEventAttributes(a) => Some(a.initiated_event_id),
        Attributes::ChildWorkflowExecutionTimedOutEventAttributes(a) => Some(a.initiated_event_id),
        Attributes::ChildWorkflowExecutionTerminatedEventAttributes(a) => Some(a.initiated_event_id),
        _ => None,
    }
}

/// The type that goes with an event's attributes.
pub(crate) fn event_type(attributes: &Attributes) -> EventType {
    match attributes {
        Attributes::WorkflowExecutionStartedEventAttributes(_) => EventType::WorkflowExecutionStarted,
        Attributes::WorkflowExecutionCompletedEventAttributes(_) => EventType::WorkflowExecutionCompleted,
        Attributes::WorkflowExecutionFailedEventAttributes(_) => EventType::WorkflowExecutionFailed,
        Attributes::WorkflowExecutionTimedOutEventAttributes(_) => EventType::WorkflowExecutionTimedOut,
        Attributes::WorkflowTaskScheduledEventAttributes(_) => EventType::WorkflowTaskScheduled,
        Attributes::WorkflowTaskStartedEventAttributes(_) => EventType::WorkflowTaskStarted,
        Attributes::WorkflowTaskCompletedEventAttributes(_) => EventType::WorkflowTaskCompleted,
        Attributes::WorkflowTaskTimedOutEventAttributes(_) => EventType::WorkflowTaskTimedOut,
        Attributes::WorkflowTaskFailedEventAttributes(_) => EventType::WorkflowTaskFailed,
        Attributes::ActivityTaskScheduledEventAttributes(_) => EventType::ActivityTaskScheduled,
        Attributes::ActivityTaskStartedEventAttributes(_) => EventType::ActivityTaskStarted,
        Attributes::ActivityTaskCompletedEventAttributes(_) => EventType::ActivityTaskCompleted,
        Attributes::ActivityTaskFailedEventAttributes(_) => EventType::ActivityTaskFailed,
        Attributes::ActivityTaskTimedOutEventAttributes(_) => EventType::ActivityTaskTimedOut,
        Attributes::TimerStartedEventAttributes(_) => EventType::TimerStarted,
        Attributes::TimerFiredEventAttributes(_) => EventType::TimerFired,
        Attributes::ActivityTaskCancelRequestedEventAttributes(_) => EventType::ActivityTaskCancelRequested,
        Attributes::ActivityTaskCanceledEventAttributes(_) => EventType::ActivityTaskCanceled,
        Attributes::TimerCanceledEventAttributes(_) => EventType::TimerCanceled,
        Attributes::MarkerRecordedEventAttributes(_) => EventType::MarkerRecorded,
        Attributes::WorkflowExecutionSignaledEventAttributes(_) => EventType::WorkflowExecutionSignaled,
        Attributes::WorkflowExecutionTerminatedEventAttributes(_) => EventType::WorkflowExecutionTerminated,
        Attributes::WorkflowExecutionCancelRequestedEventAttributes(_) => EventType::WorkflowExecutionCancelRequested,
        Attributes::WorkflowExecutionCanceledEventAttributes(_) => EventType::WorkflowExecutionCanceled,
        Attributes::RequestCancelExternalWorkflowExecutionInitiatedEventAttributes(_) => {
            EventType::RequestCancelExternalWorkflowExecutionInitiated
        }
        Attributes::RequestCancelExternalWorkflowExecutionFailedEventAttributes(_) => {
            EventType::RequestCancelExternalWorkflowExecutionFailed
        }
        Attributes::ExternalWorkflowExecutionCancelRequestedEventAttributes(_) => {
            EventType::ExternalWorkflowExecutionCancelRequested
        }
        Attributes::WorkflowExecutionContinuedAsNewEventAttributes(_) => EventType::WorkflowExecutionContinuedAsNew,
        Attributes::StartChildWorkflowExecutionInitiatedEventAttributes(_) => {
            EventType::StartChildWorkflowExecutionInitiated
        }
        Attributes::StartChildWorkflowExecutionFailedEventAttributes(_) => EventType::StartChildWorkflowExecutionFailed,
        Attributes::ChildWorkflowExecutionStartedEventAttributes(_) => EventType::ChildWorkflowExecutionStarted,
        Attributes::ChildWorkflowExecutionCompletedEventAttributes(_) => EventType::ChildWorkflowExecutionCompleted,
        Attributes::ChildWorkflowExecutionFailedEventAttributes(_) => EventType::ChildWorkflowExecutionFailed,
        Attributes::ChildWorkflowExecutionCanceledEventAttributes(_) => EventType::ChildWorkflowExecutionCanceled,
        Attributes::ChildWorkflowExecutionTimedOutEventAttributes(_) => EventType::ChildWorkflowExecutionTimedOut,
        Attributes::ChildWorkflowExecutionTerminatedEventAttributes(_) => EventType::ChildWorkflowExecutionTerminated,
        Attributes::SignalExternalWorkflowExecutionInitiatedEventAttributes(_) => {
            EventType::SignalExternalWorkflowExecutionInitiated
        }
        Attributes::SignalExternalWorkflowExecutionFailedEventAttributes(_) => {
            EventType::SignalExternalWorkflowExecutionFailed
        }
        Attributes::ExternalWorkflowExecutionSignaledEventAttributes(_) => EventType::ExternalWorkflowExecutionSignaled,
        Attributes::UpsertWorkflowSearchAttributesEventAttributes(_) => EventType::UpsertWorkflowSearchAttributes,
        Attributes::WorkflowExecutionUpdateAcceptedEventAttributes(_) => EventType::WorkflowExecutionUpdateAccepted,
        Attributes::WorkflowExecutionUpdateRejectedEventAttributes(_) => EventType::WorkflowExecutionUpdateRejected,
        Attributes::WorkflowExecutionUpdateCompletedEventAttributes(_) => EventType::WorkflowExecutionUpdateCompleted,
        Attributes::WorkflowPropertiesModifiedExternallyEventAttributes(_) => {
            EventType::WorkflowPropertiesModifiedExternally
        }
        Attributes::ActivityPropertiesModifiedExternallyEventAttributes(_) => {
            EventType::ActivityPropertiesModifiedExternally
        }
        Attributes::WorkflowPropertiesModifiedEventAttributes(_) => EventType::WorkflowPropertiesModified,
        Attributes::WorkflowExecutionUpdateAdmittedEventAttributes(_) => EventType::WorkflowExecutionUpdateAdmitted,
        Attributes::NexusOperationScheduledEventAttributes(_) => EventType::NexusOperationScheduled,
        Attributes::NexusOperationStartedEventAttributes(_) => EventType::NexusOperationStarted,
        Attributes::NexusOperationCompletedEventAttributes(_) => EventType::NexusOperationCompleted,
        Attributes::NexusOperationFailedEventAttributes(_) => EventType::NexusOperationFailed,
        Attributes::NexusOperationCanceledEventAttributes(_) => EventType::NexusOperationCanceled,
        Attributes::NexusOperationTimedOutEventAttributes(_) => EventType::NexusOperationTimedOut,
        Attributes::NexusOperationCancelRequestedEventAttributes(_) => EventType::NexusOperationCancelRequested,
        Attributes::WorkflowExecutionOptionsUpdatedEventAttributes(_) => EventType::WorkflowExecutionOptionsUpdated,
        Attributes::NexusOperationCancelRequestCompletedEventAttributes(_) => {
            EventType::NexusOperationCancelRequestCompleted
        }
        Attributes::NexusOperationCancelRequestFailedEventAttributes(_) => EventType::NexusOperationCancelRequestFailed,
        Attributes::WorkflowExecutionPausedEventAttributes(_) => EventType::WorkflowExecutionPaused,
        Attributes::WorkflowExecutionUnpausedEventAttributes(_) => EventType::WorkflowExecutionUnpaused,
        Attributes::WorkflowExecutionTimeSkippingTransitionedEventAttributes(_) => {
            EventType::WorkflowExecutionTimeSkippingTransitioned
        }
    }
}
