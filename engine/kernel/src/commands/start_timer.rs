//! StartTimer.

use everlog_proto::api::command::v1::StartTimerCommandAttributes;
use everlog_proto::api::enums::v1::WorkflowTaskFailedCause;
use everlog_proto::api::history::v1::TimerStartedEventAttributes;
use everlog_proto::api::history::v1::history_event::Attributes;

use super::{CommandContext, Invalid};
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
        .map_err(|wrong| {
            bad(format!("An invalid StartToFireTimeout is set on StartTimerCommand: {wrong}. TimerId={timer_id}"))
        })?
        .unwrap_or_default();
    if txn.run.timers.by_name(&timer_id).is_some() {
        return Err(Invalid::new(
            WorkflowTaskFailedCause::StartTimerDuplicateId,
            format!("invalid history builder state for action: add-timer-started-event, TimerID: {timer_id}"),
        ));
    }
    command.append(
        txn,
        Attributes::TimerStartedEventAttributes(TimerStartedEventAttributes {
            timer_id,
            start_to_fire_timeout: Some(time::to_proto(duration)),
            workflow_task_completed_event_id: command.completed_event_id,
        }),
    );
    Ok(())
}
