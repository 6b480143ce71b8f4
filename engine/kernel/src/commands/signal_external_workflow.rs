//! SignalExternalWorkflowExecution.

use everlog_proto::api::command::v1::SignalExternalWorkflowExecutionCommandAttributes;
use everlog_proto::api::enums::v1::WorkflowTaskFailedCause as Cause;
use everlog_proto::api::history::v1::SignalExternalWorkflowExecutionInitiatedEventAttributes;
use everlog_proto::api::history::v1::history_event::Attributes;

use super::{CommandContext, Invalid, check_size};
use crate::RunId;
use crate::outbox::MessageBody;
use crate::txn::Txn;

/// Sends the signal on its way. The workflow hears what became of it by an event.
#[expect(deprecated, reason = "old workers send `control`, and want it back")]
pub(crate) fn apply(
    txn: &mut Txn<'_>,
    command: &mut CommandContext,
    attributes: SignalExternalWorkflowExecutionCommandAttributes,
) -> Result<(), Invalid> {
    let target_run_id = check(txn, &attributes)?;
    let execution = attributes.execution.clone().unwrap_or_default();
    let event_id = command.append(
        txn,
        Attributes::SignalExternalWorkflowExecutionInitiatedEventAttributes(
            SignalExternalWorkflowExecutionInitiatedEventAttributes {
                workflow_task_completed_event_id: command.completed_event_id,
                namespace: attributes.namespace.clone(),
                namespace_id: txn.ctx.namespace.id.to_string(),
                workflow_execution: Some(execution.clone()),
                signal_name: attributes.signal_name.clone(),
                input: attributes.input.clone(),
                control: attributes.control.clone(),
                child_workflow_only: attributes.child_workflow_only,
                header: attributes.header.clone(),
            },
        ),
    );
    super::send(txn, event_id, execution.workflow_id, target_run_id, MessageBody::SignalExternal(attributes));
    Ok(())
}

/// Sends a signal on its way once more that an event has initiated.
#[expect(deprecated, reason = "old workers send `control`, and want it back")]
pub(crate) fn send_again(
    txn: &mut Txn<'_>,
    event_id: i64,
    initiated: SignalExternalWorkflowExecutionInitiatedEventAttributes,
) {
    let execution = initiated.workflow_execution.clone().unwrap_or_default();
    let (workflow_id, run_id) = (execution.workflow_id, execution.run_id.parse().ok());
    let signal = SignalExternalWorkflowExecutionCommandAttributes {
        namespace: initiated.namespace,
        execution: initiated.workflow_execution,
        signal_name: initiated.signal_name,
        input: initiated.input,
        control: initiated.control,
        child_workflow_only: initiated.child_workflow_only,
        header: initiated.header,
    };
    super::send(txn, event_id, workflow_id, run_id, MessageBody::SignalExternal(signal));
}

/// Says what is wrong with the command; the run that it names, if it names one.
#[expect(deprecated, reason = "old workers name the namespace")]
fn check(
    txn: &Txn<'_>,
    attributes: &SignalExternalWorkflowExecutionCommandAttributes,
) -> Result<Option<RunId>, Invalid> {
    let bad = |message: String| Invalid::new(Cause::BadSignalWorkflowExecutionAttributes, message);
    let limits = txn.ctx.limits;
    let Some(execution) = &attributes.execution else {
        return Err(bad("Execution is not set on SignalExternalWorkflowExecutionCommand.".into()));
    };
    let (namespace, signal) = (&attributes.namespace, &attributes.signal_name);
    super::check_namespace(txn, namespace).map_err(bad)?;
    let (workflow_id, run_id) = (&execution.workflow_id, &execution.run_id);
    if workflow_id.is_empty() {
        return Err(bad(format!(
            "WorkflowId is not set on SignalExternalWorkflowExecutionCommand. Namespace={namespace} RunId={run_id} \
             SignalName={signal}"
        )));
    }
    if workflow_id.len() > limits.id_bytes_max {
        return Err(bad(format!(
            "WorkflowId on SignalExternalWorkflowExecutionCommand exceeds length limit. WorkflowId={workflow_id} \
             Length={} Limit={} Namespace={namespace} RunId={run_id} SignalName={signal}",
            workflow_id.len(),
            limits.id_bytes_max
        )));
    }
    let target_run_id = super::target_run_id(run_id).ok_or_else(|| {
        bad(format!(
            "Invalid RunId set on SignalExternalWorkflowExecutionCommand. WorkflowId={workflow_id} \
             Namespace={namespace} RunId={run_id} SignalName={signal}"
        ))
    })?;
    if signal.is_empty() {
        return Err(bad(format!(
            "SignalName is not set on SignalExternalWorkflowExecutionCommand. WorkflowId={workflow_id} \
             Namespace={namespace} RunId={run_id}"
        )));
    }
    check_size(
        txn,
        attributes.input.as_ref(),
        Cause::BadSignalWorkflowExecutionAttributes,
        "SignalExternalWorkflowExecutionCommandAttributes.Input exceeds size limit.",
    )?;
    let pending = txn.run.external_signals.len();
    if pending >= limits.pending_signals_max {
        return Err(Invalid::new(
            Cause::PendingSignalsLimitExceeded,
            format!(
                "the number of pending signals to external workflows, {pending}, has reached the per-workflow limit of {}",
                limits.pending_signals_max
            ),
        ));
    }
    Ok(target_run_id)
}
