//! StartTimer.

use everlog_proto::api::command::v1::StartTimerCommandAttributes;
use everlog_proto::api::enums::v1::WorkflowTaskFailedCause;
use everlog_proto::api::history::v1::TimerStartedEventAttributes;
use everlog_proto::api::history::v1::history_event::Attributes;

use super::{CommandContext, Invalid};
use crate::state::UserTimer;
use crate::time;
use crate::txn::Txn;

/// Starts a timer. One of zero length fires at once, like any other that is due.
pub(crate) fn apply(
    txn: &mut Txn<'_>,
    command: &mut CommandContext,
    attributes: StartTimerCommandAttributes,
) -> Result<(), Invalid> {
    let bad = |message: String| Invalid::new(WorkflowTaskFailedCause::BadStartTimerAttributes, message);
    let timer_id = attributes.timer_id;
    if timer_id.is_empty() {
        return Err(bad("TimerId is not set on StartTimerCommand.".into()));
    }
    let limit = txn.ctx.limits.id_bytes_max;
    if timer_id.len() > limit {
        return Err(bad(format!(
            "TimerId on StartTimerCommand exceeds length limit. TimerId={timer_id} Length={} Limit={limit}",
            timer_id.len()
        )));
    }
    let duration = time::positive(attributes.start_to_fire_timeout.as_ref())
        .map_err(|time::Negative| {
            bad(format!(
                "An invalid StartToFireTimeout is set on StartTimerCommand: negative duration. TimerId={timer_id}"
            ))
        })?
        .unwrap_or_default();
    if txn.run.timer_ids.contains_key(&timer_id) {
        return Err(Invalid::new(
            WorkflowTaskFailedCause::StartTimerDuplicateId,
            format!("invalid history builder state for action: add-timer-started-event, TimerID: {timer_id}"),
        ));
    }
    let started_event_id = command.append(
        txn,
        Attributes::TimerStartedEventAttributes(TimerStartedEventAttributes {
            timer_id: timer_id.clone(),
            start_to_fire_timeout: Some(time::to_proto(duration)),
            workflow_task_completed_event_id: command.completed_event_id,
        }),
    );
    let expiry_time = txn.now().plus(duration);
    txn.add_timer(UserTimer { timer_id, started_event_id, expiry_time });
    Ok(())
}
