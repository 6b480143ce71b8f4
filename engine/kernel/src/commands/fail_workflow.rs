//! FailWorkflowExecution.

use everlog_proto::api::command::v1::FailWorkflowExecutionCommandAttributes;
use everlog_proto::api::enums::v1::WorkflowTaskFailedCause;
use everlog_proto::api::history::v1::WorkflowExecutionFailedEventAttributes;
use everlog_proto::api::history::v1::history_event::Attributes;

use super::{CommandContext, Invalid};
use crate::successor;
use crate::txn::Txn;

/// Closes the run with a failure, and starts the next one if the run's retry policy or cron schedule has one.
pub(super) fn apply(
    txn: &mut Txn<'_>,
    command: &mut CommandContext,
    attributes: FailWorkflowExecutionCommandAttributes,
) -> Result<(), Invalid> {
    const CAUSE: WorkflowTaskFailedCause = WorkflowTaskFailedCause::BadFailWorkflowExecutionAttributes;
    let Some(failure) = attributes.failure else {
        return Err(Invalid::new(CAUSE, "Failure is not set on FailWorkflowExecutionCommand."));
    };
    super::check_size(
        txn,
        Some(&failure),
        CAUSE,
        "FailWorkflowExecutionCommandAttributes.Failure exceeds size limit.",
    )?;
    let after = successor::after_failure(txn, &failure);
    command.append(
        txn,
        Attributes::WorkflowExecutionFailedEventAttributes(WorkflowExecutionFailedEventAttributes {
            failure: Some(failure),
            retry_state: after.retry_state.into(),
            workflow_task_completed_event_id: command.completed_event_id,
            new_execution_run_id: after.next_run_id(),
        }),
    );
    txn.close();
    txn.successor = after.next;
    Ok(())
}
