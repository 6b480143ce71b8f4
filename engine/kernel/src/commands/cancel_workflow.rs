//! CancelWorkflowExecution: the workflow has obeyed a request to cancel, or cancels by itself.

use everlog_proto::api::command::v1::CancelWorkflowExecutionCommandAttributes;
use everlog_proto::api::history::v1::WorkflowExecutionCanceledEventAttributes;
use everlog_proto::api::history::v1::history_event::Attributes;

use super::{CommandContext, Invalid};
use crate::txn::Txn;

/// Closes the run as canceled. As in Temporal, the size of the details has no limit of its own.
pub(super) fn apply(
    txn: &mut Txn<'_>,
    command: &mut CommandContext,
    attributes: CancelWorkflowExecutionCommandAttributes,
) -> Result<(), Invalid> {
    command.append(
        txn,
        Attributes::WorkflowExecutionCanceledEventAttributes(WorkflowExecutionCanceledEventAttributes {
            workflow_task_completed_event_id: command.completed_event_id,
            details: attributes.details,
        }),
    );
    txn.close();
    Ok(())
}
