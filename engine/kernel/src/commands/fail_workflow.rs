//! FailWorkflowExecution.

use everlog_proto::api::command::v1::FailWorkflowExecutionCommandAttributes;
use everlog_proto::api::enums::v1::{RetryState, WorkflowTaskFailedCause};
use everlog_proto::api::history::v1::WorkflowExecutionFailedEventAttributes;
use everlog_proto::api::history::v1::history_event::Attributes;

use super::{CommandContext, Invalid};
use crate::successor;
use crate::txn::Txn;

/// Closes the run with a failure, and starts the next attempt if the run's retry policy has one.
pub(super) fn apply(
    txn: &mut Txn<'_>,
    command: &mut CommandContext,
    attributes: FailWorkflowExecutionCommandAttributes,
) -> Result<(), Invalid> {
    const CAUSE: WorkflowTaskFailedCause = WorkflowTaskFailedCause::BadFailWorkflowExecutionAttributes;
    if attributes.failure.is_none() {
        return Err(Invalid::new(CAUSE, "Failure is not set on FailWorkflowExecutionCommand."));
    }
    super::check_size(
        txn,
        attributes.failure.as_ref(),
        CAUSE,
        "FailWorkflowExecutionCommandAttributes.Failure exceeds size limit.",
    )?;
    let retried = successor::retried(txn, attributes.failure.as_ref());
    command.append(
        txn,
        Attributes::WorkflowExecutionFailedEventAttributes(WorkflowExecutionFailedEventAttributes {
            failure: attributes.failure,
            retry_state: retried.as_ref().map_or_else(|reason| *reason, |_| RetryState::InProgress).into(),
            workflow_task_completed_event_id: command.completed_event_id,
            new_execution_run_id: retried.as_ref().map(|run| run.run_id.to_string()).unwrap_or_default(),
        }),
    );
    txn.close();
    txn.successor = retried.ok();
    Ok(())
}
