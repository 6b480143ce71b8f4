//! A message from another workflow. It may come more than once, and counts once.

use everlog_proto::api::common::v1::WorkflowExecution;
use everlog_proto::api::enums::v1::ResourceExhaustedCause;
use everlog_proto::api::history::v1::history_event::Attributes;
use everlog_proto::api::history::v1::{
    HistoryEvent, WorkflowExecutionCancelRequestedEventAttributes, WorkflowExecutionSignaledEventAttributes,
};

use super::signal_workflow::{is_delayed, is_known};
use crate::command::Reply;
use crate::outbox::{MessageBody, OutboxMessage};
use crate::txn::Txn;
use crate::workflow_task::{self, SERVER_IDENTITY};
use crate::{Rejection, Run};

/// Takes the message. A refusal is its outcome, unless it says that it is to come again.
pub(crate) fn apply(txn: &mut Txn<'_>, message: OutboxMessage) -> Result<Reply, Rejection> {
    let request_id = message.id();
    if is_known(&txn.run, &request_id) {
        return Ok(Reply::Done);
    }
    // Temporal: a workflow is not found from within itself.
    if message.source_workflow_id == txn.workflow_id {
        return Err(Rejection::workflow_not_found());
    }
    let external_initiated_event_id = message.event_id;
    let source =
        WorkflowExecution { workflow_id: message.source_workflow_id, run_id: message.source_run_id.to_string() };
    match message.body {
        MessageBody::SignalExternal(signal) => {
            if !txn.run.is_open() {
                return Err(Rejection::workflow_completed());
            }
            check_parent(&txn.run, signal.child_workflow_only, &source)?;
            check_room(&txn.run, txn.ctx.limits.signals_max)?;
            txn.record(Attributes::WorkflowExecutionSignaledEventAttributes(
                WorkflowExecutionSignaledEventAttributes {
                    signal_name: signal.signal_name,
                    input: signal.input,
                    identity: SERVER_IDENTITY.to_owned(),
                    header: signal.header,
                    external_workflow_execution: Some(source),
                    request_id,
                    ..WorkflowExecutionSignaledEventAttributes::default()
                },
            ));
            if is_delayed(&txn.run) {
                return Ok(Reply::Done);
            }
        }
        // Once is enough, and a closed run has nothing to cancel: as with requests of clients.
        MessageBody::CancelExternal(_) if !txn.run.is_open() || txn.run.state.cancel_requested => {
            return Ok(Reply::Done);
        }
        MessageBody::CancelExternal(cancel) => {
            check_parent(&txn.run, cancel.child_workflow_only, &source)?;
            let attributes = WorkflowExecutionCancelRequestedEventAttributes {
                cause: cancel.reason,
                external_initiated_event_id,
                external_workflow_execution: Some(source),
                identity: SERVER_IDENTITY.to_owned(),
            };
            txn.record_event(HistoryEvent {
                attributes: Some(Attributes::WorkflowExecutionCancelRequestedEventAttributes(attributes)),
                ..HistoryEvent::default()
            });
        }
    }
    workflow_task::ensure_scheduled(txn);
    Ok(Reply::Done)
}

/// Refuses a message that is for children of its sender only.
fn check_parent(run: &Run, child_workflow_only: bool, source: &WorkflowExecution) -> Result<(), Rejection> {
    let is_parent = || run.info.started.decode().parent_workflow_execution.as_ref() == Some(source);
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
