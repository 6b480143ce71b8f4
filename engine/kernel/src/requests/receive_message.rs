//! A message from another workflow. It may come more than once, and counts once.

use everlog_proto::api::command::v1::{
    RequestCancelExternalWorkflowExecutionCommandAttributes, SignalExternalWorkflowExecutionCommandAttributes,
};
use everlog_proto::api::common::v1::WorkflowExecution;
use everlog_proto::api::enums::v1::ResourceExhaustedCause;
use everlog_proto::api::history::v1::history_event::Attributes;
use everlog_proto::api::history::v1::{
    WorkflowExecutionCancelRequestedEventAttributes, WorkflowExecutionSignaledEventAttributes,
};

use super::signal_workflow::{is_delayed, is_known};
use super::{hear_of_child, parent_closed};
use crate::command::Reply;
use crate::outbox::{EndScheduled, MessageBody, OutboxMessage};
use crate::terminate::terminate;
use crate::txn::Txn;
use crate::workflow_task::{self, SERVER_IDENTITY};
use crate::{Rejection, Run, RunId, nexus};

/// Takes the message. A refusal is its outcome, unless it says that it is to come again.
pub(crate) fn apply(txn: &mut Txn<'_>, message: OutboxMessage) -> Result<Reply, Rejection> {
    let request_id = message.id();
    if is_known(&txn.run, &request_id) {
        return Ok(Reply::Done);
    }
    let origin = message.origin();
    let OutboxMessage { source_workflow_id, source_run_id, event_id, body, .. } = message;
    let source = WorkflowExecution { workflow_id: source_workflow_id, run_id: source_run_id.to_string() };
    match body {
        MessageBody::SignalExternal(signal) => take_signal(txn, signal, source, origin, request_id),
        MessageBody::CancelExternal(cancel) => take_cancel(txn, cancel, source, origin, event_id),
        MessageBody::ChildClosed(closed) => Ok(hear_of_child::apply(txn, source, *closed)),
        MessageBody::ParentClosed(closed) => Ok(parent_closed::apply(txn, source, origin, closed)),
        MessageBody::EndScheduled(end) => Ok(end_scheduled(txn, end)),
        MessageBody::NexusCompleted(completed) => nexus::completed(txn, *completed),
        MessageBody::StartChild(_) | MessageBody::StartScheduled(_) | MessageBody::ScheduledClosed(_) => {
            Err(Rejection::Unavailable("this is for no run that is there".into()))
        }
    }
}

fn take_signal(
    txn: &mut Txn<'_>,
    signal: SignalExternalWorkflowExecutionCommandAttributes,
    source: WorkflowExecution,
    origin: RunId,
    request_id: String,
) -> Result<Reply, Rejection> {
    check_other(txn, &source)?;
    if !txn.run.is_open() {
        return Err(Rejection::workflow_completed());
    }
    check_parent(&txn.run, signal.child_workflow_only, &source, origin)?;
    check_room(&txn.run, txn.ctx.limits.signals_max)?;
    txn.record(Attributes::WorkflowExecutionSignaledEventAttributes(WorkflowExecutionSignaledEventAttributes {
        signal_name: signal.signal_name,
        input: signal.input,
        identity: SERVER_IDENTITY.to_owned(),
        header: signal.header,
        external_workflow_execution: Some(source),
        request_id,
        ..WorkflowExecutionSignaledEventAttributes::default()
    }));
    if !is_delayed(&txn.run) {
        workflow_task::ensure_scheduled(txn);
    }
    Ok(Reply::Done)
}

fn take_cancel(
    txn: &mut Txn<'_>,
    cancel: RequestCancelExternalWorkflowExecutionCommandAttributes,
    source: WorkflowExecution,
    origin: RunId,
    external_initiated_event_id: i64,
) -> Result<Reply, Rejection> {
    check_other(txn, &source)?;
    // Once is enough, and a closed run has nothing to cancel: as with requests of clients.
    if !txn.run.is_open() || txn.run.state.cancel_requested {
        return Ok(Reply::Done);
    }
    check_parent(&txn.run, cancel.child_workflow_only, &source, origin)?;
    // By whom and which event the message is known again.
    let source = WorkflowExecution { run_id: origin.to_string(), ..source };
    txn.record(Attributes::WorkflowExecutionCancelRequestedEventAttributes(
        WorkflowExecutionCancelRequestedEventAttributes {
            cause: cancel.reason,
            external_initiated_event_id,
            external_workflow_execution: Some(source),
            identity: SERVER_IDENTITY.to_owned(),
        },
    ));
    workflow_task::ensure_scheduled(txn);
    Ok(Reply::Done)
}

/// Ends the run for a schedule, or asks it to end, if it is one of the chain that the schedule has started. Once is enough.
fn end_scheduled(txn: &mut Txn<'_>, end: EndScheduled) -> Reply {
    let EndScheduled { first_run_id, terminates, reason, identity } = end;
    if !txn.run.is_open() || txn.run.first_run_id().to_string() != first_run_id {
        return Reply::Done;
    }
    if terminates {
        terminate(txn, reason, None, identity, Vec::new());
    } else if !txn.run.state.cancel_requested {
        txn.record(Attributes::WorkflowExecutionCancelRequestedEventAttributes(
            WorkflowExecutionCancelRequestedEventAttributes {
                cause: reason,
                identity,
                ..WorkflowExecutionCancelRequestedEventAttributes::default()
            },
        ));
        workflow_task::ensure_scheduled(txn);
    }
    Reply::Done
}

/// Temporal: a workflow is not found from within itself.
fn check_other(txn: &Txn<'_>, source: &WorkflowExecution) -> Result<(), Rejection> {
    if source.workflow_id == txn.workflow_id { Err(Rejection::workflow_not_found()) } else { Ok(()) }
}

/// Refuses a message that is for children of its sender only: of the run that sends it, or of the one that has sent it first.
fn check_parent(
    run: &Run,
    child_workflow_only: bool,
    source: &WorkflowExecution,
    origin: RunId,
) -> Result<(), Rejection> {
    let is_parent = || {
        run.info.started.decode().parent_workflow_execution.is_some_and(|parent| {
            parent.workflow_id == source.workflow_id
                && (parent.run_id == source.run_id || parent.run_id == origin.to_string())
        })
    };
    if !child_workflow_only || is_parent() { Ok(()) } else { Err(Rejection::workflow_not_found()) }
}

/// Refuses a signal that is one too many, or that has to wait until the run had its chance to close.
fn check_room(run: &Run, signals_max: u32) -> Result<(), Rejection> {
    if run.has_signals(signals_max as usize) {
        return Err(Rejection::FailedPrecondition("exceeded workflow execution limit for signal events".into()));
    }
    if run.state.close_attempted && run.workflow_task_started() {
        return Err(Rejection::ResourceExhausted {
            cause: ResourceExhaustedCause::BusyWorkflow,
            message: "workflow operation can not be applied because workflow is closing".into(),
        });
    }
    Ok(())
}
