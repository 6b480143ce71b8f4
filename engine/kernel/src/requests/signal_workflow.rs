//! A signal.

use everlog_proto::api::enums::v1::ResourceExhaustedCause;
use everlog_proto::api::history::v1::history_event::Attributes;
use everlog_proto::api::history::v1::{HistoryEvent, WorkflowExecutionSignaledEventAttributes};
use everlog_proto::api::workflowservice::v1::SignalWorkflowExecutionRequest;
use prost::Message;

use crate::command::Reply;
use crate::state::Run;
use crate::txn::Txn;
use crate::{Limits, Rejection, validation, workflow_task};

/// Records the signal, once for each request id. It starts no workflow task while the run's first one is delayed.
pub(crate) fn apply(txn: &mut Txn<'_>, request: SignalWorkflowExecutionRequest) -> Result<Reply, Rejection> {
    if is_known(&txn.run, &request.request_id) {
        return Ok(Reply::Signaled(txn.run.id));
    }
    if !txn.run.is_open() {
        return Err(Rejection::workflow_completed());
    }
    check(&txn.run, &request, txn.ctx.limits)?;
    record(txn, request);
    if !is_delayed(&txn.run) {
        workflow_task::ensure_scheduled(txn);
    }
    Ok(Reply::Signaled(txn.run.id))
}

/// Whether the run has taken the signal with this request id.
pub(super) fn is_known(run: &Run, request_id: &str) -> bool {
    !request_id.is_empty() && run.signal_requests.contains(request_id)
}

/// Whether the run waits for the time of its first workflow task.
pub(super) fn is_delayed(run: &Run) -> bool {
    !run.state.had_workflow_task && run.info.execution_time > run.info.start_time
}

/// Refuses a signal that is malformed or too large, or that an open run cannot take now.
pub(super) fn check(run: &Run, request: &SignalWorkflowExecutionRequest, limits: &Limits) -> Result<(), Rejection> {
    if request.signal_name.is_empty() {
        return Err(Rejection::invalid("SignalName is not set on request."));
    }
    if request.signal_name.len() > limits.id_bytes_max {
        return Err(Rejection::invalid("SignalName length exceeds limit."));
    }
    if request.request_id.len() > limits.id_bytes_max {
        return Err(Rejection::invalid("RequestId length exceeds limit."));
    }
    validation::check_links(&request.links, limits)?;
    if request.input.as_ref().map_or(0, Message::encoded_len) > limits.blob_bytes_max {
        return Err(Rejection::invalid("Blob data size exceeds limit."));
    }
    if run.has_signals(limits.signals_max as usize) {
        return Err(Rejection::invalid("exceeded workflow execution limit for signal events"));
    }
    // The workflow wanted to close and could not because of an event like this one. Let it close.
    if run.state.close_attempted && run.workflow_task_started() {
        return Err(Rejection::ResourceExhausted {
            cause: ResourceExhaustedCause::BusyWorkflow,
            message: "workflow operation can not be applied because workflow is closing".into(),
        });
    }
    Ok(())
}

/// Records a signal that was checked.
pub(super) fn record(txn: &mut Txn<'_>, request: SignalWorkflowExecutionRequest) {
    txn.record_event(HistoryEvent {
        attributes: Some(Attributes::WorkflowExecutionSignaledEventAttributes(
            WorkflowExecutionSignaledEventAttributes {
                signal_name: request.signal_name,
                input: request.input,
                identity: request.identity,
                header: request.header,
                request_id: request.request_id,
                ..WorkflowExecutionSignaledEventAttributes::default()
            },
        )),
        links: request.links,
        ..HistoryEvent::default()
    });
}
