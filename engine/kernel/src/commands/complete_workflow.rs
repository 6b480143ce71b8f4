//! CompleteWorkflowExecution.

use everlog_proto::api::command::v1::CompleteWorkflowExecutionCommandAttributes;
use everlog_proto::api::enums::v1::WorkflowTaskFailedCause;
use everlog_proto::api::history::v1::WorkflowExecutionCompletedEventAttributes;
use everlog_proto::api::history::v1::history_event::Attributes;

use super::{CommandContext, Invalid};
use crate::successor;
use crate::txn::Txn;

/// Closes the run with a result, and starts the next one if the run has a cron schedule.
pub(super) fn apply(
    txn: &mut Txn<'_>,
    command: &mut CommandContext,
    attributes: CompleteWorkflowExecutionCommandAttributes,
) -> Result<(), Invalid> {
    super::check_size(
        txn,
        attributes.result.as_ref(),
        // Temporal's cause for it, which workers may look at.
        WorkflowTaskFailedCause::BadScheduleActivityAttributes,
        "CompleteWorkflowExecutionCommandAttributes.Result exceeds size limit.",
    )?;
    let next = successor::after_completion(txn, attributes.result.as_ref());
    command.append(
        txn,
        Attributes::WorkflowExecutionCompletedEventAttributes(WorkflowExecutionCompletedEventAttributes {
            result: attributes.result,
            workflow_task_completed_event_id: command.completed_event_id,
            new_execution_run_id: successor::next_run_id(next.as_ref()),
        }),
    );
    txn.close();
    txn.successor = next;
    Ok(())
}
