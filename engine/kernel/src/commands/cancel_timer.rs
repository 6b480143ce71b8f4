//! CancelTimer.

use everlog_proto::api::command::v1::CancelTimerCommandAttributes;
use everlog_proto::api::enums::v1::WorkflowTaskFailedCause;
use everlog_proto::api::history::v1::TimerCanceledEventAttributes;
use everlog_proto::api::history::v1::history_event::Attributes;

use super::{CommandContext, Invalid};
use crate::txn::Txn;

/// Cancels a pending timer. One that has fired while the workflow task was in progress counts as pending: the workflow has not
/// seen its TimerFired event, which is still buffered and is taken back.
pub(crate) fn apply(
    txn: &mut Txn<'_>,
    command: &mut CommandContext,
    attributes: CancelTimerCommandAttributes,
) -> Result<(), Invalid> {
    let bad = |message: String| Invalid::new(WorkflowTaskFailedCause::BadCancelTimerAttributes, message);
    let timer_id = attributes.timer_id;
    if timer_id.is_empty() {
        return Err(bad("TimerId is not set on CancelTimerCommand.".into()));
    }
    let limit = txn.ctx.limits.id_bytes_max;
    if timer_id.len() > limit {
        return Err(bad(format!(
            "TimerId on CancelTimerCommand exceeds length limit. TimerId={timer_id} Length={} Limit={limit}",
            timer_id.len()
        )));
    }
    let started_event_id = match txn.run.timers.by_name(&timer_id).copied() {
        Some(started_event_id) => started_event_id,
        None => take_fired(txn, &timer_id).ok_or_else(|| {
            bad(format!("invalid history builder state for action: add-timer-canceled-event, TimerID: {timer_id}"))
        })?,
    };
    command.append(
        txn,
        Attributes::TimerCanceledEventAttributes(TimerCanceledEventAttributes {
            timer_id,
            started_event_id,
            workflow_task_completed_event_id: command.completed_event_id,
            identity: command.identity.clone(),
        }),
    );
    Ok(())
}

/// Takes the timer's buffered TimerFired event back. Returns the started event that it names.
fn take_fired(txn: &mut Txn<'_>, timer_id: &str) -> Option<i64> {
    let event = txn.take_buffered(|event| match &event.attributes {
        Some(Attributes::TimerFiredEventAttributes(fired)) => fired.timer_id == timer_id,
        _ => false,
    })?;
    match &event.attributes {
        Some(Attributes::TimerFiredEventAttributes(fired)) => Some(fired.started_event_id),
        _ => None,
    }
}
