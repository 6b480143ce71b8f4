//! RequestCancelActivityTask.

use everlog_proto::api::command::v1::RequestCancelActivityTaskCommandAttributes;
use everlog_proto::api::enums::v1::WorkflowTaskFailedCause;
use everlog_proto::api::history::v1::history_event::Attributes;
use everlog_proto::api::history::v1::{
    ActivityTaskCancelRequestedEventAttributes, ActivityTaskCanceledEventAttributes, HistoryEvent,
};

use super::{CommandContext, Invalid};
use crate::txn::Txn;
use crate::{activity_task, events};

/// Asks an activity to cancel.
///
/// A worker that has the activity learns of it with its next heartbeat. An activity that no worker has is cancelled here and
/// now; the workflow hears of that with its next workflow task. One that has ended in the meantime only leaves the request in
/// the history.
pub(crate) fn apply(
    txn: &mut Txn<'_>,
    command: &mut CommandContext,
    attributes: RequestCancelActivityTaskCommandAttributes,
) -> Result<(), Invalid> {
    let bad = |message: String| Invalid::new(WorkflowTaskFailedCause::BadRequestCancelActivityAttributes, message);
    let scheduled_event_id = attributes.scheduled_event_id;
    if scheduled_event_id <= 0 {
        return Err(bad("ScheduledEventId is not set on RequestCancelActivityTaskCommand.".into()));
    }
    let known = match txn.run.activities.get(&scheduled_event_id) {
        Some(activity) => activity.cancel_requested_event_id.is_none(),
        None => txn
            .run
            .buffered
            .values()
            .any(|event| event.attributes.as_ref().and_then(events::ended_activity) == Some(scheduled_event_id)),
    };
    if !known {
        return Err(bad(format!(
            "invalid history builder state for action: add-activitytask-cancel-requested-event, \
             ScheduledEventID: {scheduled_event_id}"
        )));
    }
    let cancel_requested_event_id = command.append(
        txn,
        Attributes::ActivityTaskCancelRequestedEventAttributes(ActivityTaskCancelRequestedEventAttributes {
            scheduled_event_id,
            workflow_task_completed_event_id: command.completed_event_id,
        }),
    );
    if txn.run.activities.get(&scheduled_event_id).is_none_or(|activity| activity.started.is_some()) {
        return Ok(());
    }
    txn.buffer_event(HistoryEvent {
        attributes: Some(Attributes::ActivityTaskCanceledEventAttributes(ActivityTaskCanceledEventAttributes {
            details: Some(activity_task::text_payloads("ACTIVITY_ID_NOT_STARTED")),
            latest_cancel_requested_event_id: cancel_requested_event_id,
            scheduled_event_id,
            identity: command.identity.clone(),
            ..ActivityTaskCanceledEventAttributes::default()
        })),
        ..HistoryEvent::default()
    });
    Ok(())
}
