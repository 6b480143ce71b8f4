//! RequestCancelExternalWorkflowExecution.

use everlog_proto::api::command::v1::RequestCancelExternalWorkflowExecutionCommandAttributes;
use everlog_proto::api::common::v1::WorkflowExecution;
use everlog_proto::api::enums::v1::WorkflowTaskFailedCause as Cause;
use everlog_proto::api::history::v1::RequestCancelExternalWorkflowExecutionInitiatedEventAttributes;
use everlog_proto::api::history::v1::history_event::Attributes;

use super::{CommandContext, Invalid};
use crate::RunId;
use crate::outbox::MessageBody;
use crate::state::PendingChild;
use crate::txn::Txn;

/// Sends the request on its way. The workflow hears what became of it by an event.
#[expect(deprecated, reason = "old workers send `control`, and want it back")]
pub(crate) fn apply(
    txn: &mut Txn<'_>,
    command: &mut CommandContext,
    attributes: RequestCancelExternalWorkflowExecutionCommandAttributes,
) -> Result<(), Invalid> {
    let target_run_id = check(txn, command, &attributes)?;
    let (workflow_id, run_id) = (attributes.workflow_id.clone(), attributes.run_id.clone());
    let event_id = command.append(
        txn,
        Attributes::RequestCancelExternalWorkflowExecutionInitiatedEventAttributes(
            RequestCancelExternalWorkflowExecutionInitiatedEventAttributes {
                workflow_task_completed_event_id: command.completed_event_id,
                namespace: attributes.namespace.clone(),
                namespace_id: txn.ctx.namespace.id.to_string(),
                workflow_execution: Some(WorkflowExecution { workflow_id, run_id }),
                control: attributes.control.clone(),
                child_workflow_only: attributes.child_workflow_only,
                reason: attributes.reason.clone(),
            },
        ),
    );
    let target = attributes.workflow_id.clone();
    super::send(txn, event_id, target, target_run_id, MessageBody::CancelExternal(attributes));
    Ok(())
}

/// Sends a request on its way once more that an event has initiated.
#[expect(deprecated, reason = "old workers send `control`, and want it back")]
pub(crate) fn send_again(
    txn: &mut Txn<'_>,
    event_id: i64,
    initiated: RequestCancelExternalWorkflowExecutionInitiatedEventAttributes,
) {
    let WorkflowExecution { workflow_id, run_id } = initiated.workflow_execution.unwrap_or_default();
    let (target, target_run_id) = (workflow_id.clone(), run_id.parse().ok());
    let cancel = RequestCancelExternalWorkflowExecutionCommandAttributes {
        namespace: initiated.namespace,
        workflow_id,
        run_id,
        control: initiated.control,
        child_workflow_only: initiated.child_workflow_only,
        reason: initiated.reason,
    };
    super::send(txn, event_id, target, target_run_id, MessageBody::CancelExternal(cancel));
}

/// Says what is wrong with the command; the run that it names, if it names one.
#[expect(deprecated, reason = "old workers name the namespace")]
fn check(
    txn: &Txn<'_>,
    command: &CommandContext,
    attributes: &RequestCancelExternalWorkflowExecutionCommandAttributes,
) -> Result<Option<RunId>, Invalid> {
    let bad = |message: String| Invalid::new(Cause::BadRequestCancelExternalWorkflowExecutionAttributes, message);
    let limits = txn.ctx.limits;
    let RequestCancelExternalWorkflowExecutionCommandAttributes { namespace, workflow_id, run_id, .. } = attributes;
    super::check_namespace(txn, namespace).map_err(bad)?;
    if workflow_id.is_empty() {
        return Err(bad(format!(
            "WorkflowId is not set on RequestCancelExternalWorkflowExecutionCommand. Namespace={namespace} RunId={run_id}"
        )));
    }
    if workflow_id.len() > limits.id_bytes_max {
        return Err(bad(format!(
            "WorkflowId on RequestCancelExternalWorkflowExecutionCommand exceeds length limit. WorkflowId={workflow_id} \
             Length={} Limit={} RunId={run_id} Namespace={namespace}",
            workflow_id.len(),
            limits.id_bytes_max
        )));
    }
    let target_run_id = super::target_run_id(run_id).ok_or_else(|| {
        bad(format!(
            "Invalid RunId set on RequestCancelExternalWorkflowExecutionCommand. WorkflowId={workflow_id} \
             RunId={run_id} Namespace={namespace}"
        ))
    })?;
    let begun = |(event_id, child): (&i64, &PendingChild)| {
        *event_id > command.completed_event_id && child.workflow_id == *workflow_id
    };
    if txn.run.children.iter().any(begun) {
        return Err(bad(format!(
            "Start and RequestCancel for child workflow is not allowed in same workflow task. WorkflowId={workflow_id} \
             RunId={run_id} Namespace={namespace}"
        )));
    }
    let pending = txn.run.external_cancels.len();
    if pending >= limits.pending_cancel_requests_max {
        return Err(Invalid::new(
            Cause::PendingRequestCancelLimitExceeded,
            format!(
                "the number of pending requests to cancel external workflows, {pending}, has reached the per-workflow \
                 limit of {}",
                limits.pending_cancel_requests_max
            ),
        ));
    }
    Ok(target_run_id)
}
