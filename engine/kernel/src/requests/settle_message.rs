//! What became of a message that the run has sent: the workflow hears of it.

use everlog_proto::api::history::v1::history_event::Attributes;
use everlog_proto::api::history::v1::{
    ExternalWorkflowExecutionCancelRequestedEventAttributes, ExternalWorkflowExecutionSignaledEventAttributes,
    RequestCancelExternalWorkflowExecutionFailedEventAttributes, SignalExternalWorkflowExecutionFailedEventAttributes,
};

use super::hear_of_child;
use crate::command::Reply;
use crate::outbox::Outcome;
use crate::state::{ExternalCancel, ExternalSignal, ExternalTarget};
use crate::txn::Txn;
use crate::{Namespace, Rejection, family, workflow_task};

/// Records the outcome, if the run still waits for it: it may come again, and the run may have closed.
pub(crate) fn apply(txn: &mut Txn<'_>, event_id: i64, outcome: Outcome) -> Result<Reply, Rejection> {
    if !txn.run.is_open() {
        family::settle_callback(txn, event_id, outcome);
        return Ok(Reply::Done);
    }
    let run = &txn.run;
    let event = if let Some(ExternalSignal(target)) = run.external_signals.get(&event_id) {
        signaled(event_id, target.clone(), outcome, txn.ctx.namespace)
    } else if let Some(ExternalCancel(target)) = run.external_cancels.get(&event_id) {
        cancel_requested(event_id, target.clone(), outcome, txn.ctx.namespace)
    } else if let Some(child) = run.children.get(&event_id).cloned() {
        hear_of_child::settle_start(txn, event_id, &child, outcome);
        return Ok(Reply::Done);
    } else {
        return Ok(Reply::Done);
    };
    txn.record(event);
    workflow_task::ensure_scheduled(txn);
    Ok(Reply::Done)
}

#[expect(deprecated, reason = "old workflows want back what they have sent")]
fn signaled(initiated_event_id: i64, target: ExternalTarget, outcome: Outcome, namespace: &Namespace) -> Attributes {
    let ExternalTarget { execution, control, .. } = target;
    // The command need not name it.
    let (namespace, namespace_id) = (namespace.name.clone(), namespace.id.to_string());
    let workflow_execution = Some(execution);
    match outcome {
        Outcome::Delivered => Attributes::ExternalWorkflowExecutionSignaledEventAttributes(
            ExternalWorkflowExecutionSignaledEventAttributes {
                initiated_event_id,
                namespace,
                namespace_id,
                workflow_execution,
                control,
            },
        ),
        Outcome::NotFound | Outcome::TooManySignals | Outcome::AlreadyExists => {
            Attributes::SignalExternalWorkflowExecutionFailedEventAttributes(
                SignalExternalWorkflowExecutionFailedEventAttributes {
                    cause: outcome.cause(),
                    namespace,
                    namespace_id,
                    workflow_execution,
                    initiated_event_id,
                    control,
                    ..SignalExternalWorkflowExecutionFailedEventAttributes::default()
                },
            )
        }
    }
}

#[expect(deprecated, reason = "old workflows want back what they have sent")]
fn cancel_requested(
    initiated_event_id: i64,
    target: ExternalTarget,
    outcome: Outcome,
    namespace: &Namespace,
) -> Attributes {
    let ExternalTarget { execution, control, .. } = target;
    let (namespace, namespace_id) = (namespace.name.clone(), namespace.id.to_string());
    let workflow_execution = Some(execution);
    match outcome {
        Outcome::Delivered => Attributes::ExternalWorkflowExecutionCancelRequestedEventAttributes(
            ExternalWorkflowExecutionCancelRequestedEventAttributes {
                initiated_event_id,
                namespace,
                namespace_id,
                workflow_execution,
            },
        ),
        Outcome::NotFound | Outcome::TooManySignals | Outcome::AlreadyExists => {
            Attributes::RequestCancelExternalWorkflowExecutionFailedEventAttributes(
                RequestCancelExternalWorkflowExecutionFailedEventAttributes {
                    cause: outcome.cause(),
                    namespace,
                    namespace_id,
                    workflow_execution,
                    initiated_event_id,
                    control,
                    ..RequestCancelExternalWorkflowExecutionFailedEventAttributes::default()
                },
            )
        }
    }
}
