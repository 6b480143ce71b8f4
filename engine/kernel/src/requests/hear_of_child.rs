//! A parent hears of its children: that one was started or could not be, and how it has ended.

use everlog_proto::api::common::v1::WorkflowExecution;
use everlog_proto::api::enums::v1::{StartChildWorkflowExecutionFailedCause, WorkflowExecutionStatus};
use everlog_proto::api::history::v1::history_event::Attributes;
use everlog_proto::api::history::v1::{
    ChildWorkflowExecutionCanceledEventAttributes, ChildWorkflowExecutionCompletedEventAttributes,
    ChildWorkflowExecutionFailedEventAttributes, ChildWorkflowExecutionStartedEventAttributes,
    ChildWorkflowExecutionTerminatedEventAttributes, ChildWorkflowExecutionTimedOutEventAttributes,
    StartChildWorkflowExecutionFailedEventAttributes,
};

use crate::command::Reply;
use crate::outbox::{ChildClosed, Outcome, child_run_id};
use crate::state::PendingChild;
use crate::txn::Txn;
use crate::workflow_task;

/// Records the end of a child that the run still waits for. That it was started may not be known yet; its end says so.
pub(super) fn apply(txn: &mut Txn<'_>, source: WorkflowExecution, closed: ChildClosed) -> Reply {
    let id = closed.initiated_event_id;
    let child = txn.run.children.get(&id).filter(|child| child.workflow_id == source.workflow_id);
    let Some(child) = child.filter(|_| txn.run.is_open()).cloned() else { return Reply::Done };
    // Another run of this workflow may have started another child with an event of that id.
    let first_run_id = child_run_id(txn.run.owner_of(id), id);
    if !closed.first_run_id.is_empty() && closed.first_run_id != first_run_id.to_string() {
        return Reply::Done;
    }
    if child.started_event_id.is_none() {
        record_started(txn, id, &child);
    }
    // While that event waits for its place in the history, this one does, too, and is given its id there.
    let started_event_id = txn.run.children.get(&id).and_then(|child| child.started_event_id).unwrap_or_default();
    let end = end(txn, (id, started_event_id), &child, source, closed);
    txn.record(end);
    workflow_task::ensure_scheduled(txn);
    Reply::Done
}

/// Records what became of the start of a child, if that is not known yet.
pub(super) fn settle_start(txn: &mut Txn<'_>, initiated_event_id: i64, child: &PendingChild, outcome: Outcome) {
    if child.started_event_id.is_some() {
        return;
    }
    match outcome {
        Outcome::Delivered => record_started(txn, initiated_event_id, child),
        Outcome::AlreadyExists => {
            record_failed(
                txn,
                initiated_event_id,
                child,
                StartChildWorkflowExecutionFailedCause::WorkflowAlreadyExists,
            );
        }
        Outcome::NotFound | Outcome::TooManySignals => {
            record_failed(txn, initiated_event_id, child, StartChildWorkflowExecutionFailedCause::NamespaceNotFound);
        }
    }
    workflow_task::ensure_scheduled(txn);
}

fn record_started(txn: &mut Txn<'_>, initiated_event_id: i64, child: &PendingChild) {
    let run_id = child_run_id(txn.run.owner_of(initiated_event_id), initiated_event_id).to_string();
    txn.record(Attributes::ChildWorkflowExecutionStartedEventAttributes(
        ChildWorkflowExecutionStartedEventAttributes {
            namespace: txn.ctx.namespace.name.clone(),
            namespace_id: txn.ctx.namespace.id.to_string(),
            initiated_event_id,
            workflow_execution: Some(WorkflowExecution { workflow_id: child.workflow_id.clone(), run_id }),
            workflow_type: child.workflow_type(),
            header: child.header.clone(),
        },
    ));
}

#[expect(deprecated, reason = "old workflows want back what they have sent")]
fn record_failed(
    txn: &mut Txn<'_>,
    initiated_event_id: i64,
    child: &PendingChild,
    cause: StartChildWorkflowExecutionFailedCause,
) {
    txn.record(Attributes::StartChildWorkflowExecutionFailedEventAttributes(
        StartChildWorkflowExecutionFailedEventAttributes {
            namespace: txn.ctx.namespace.name.clone(),
            namespace_id: txn.ctx.namespace.id.to_string(),
            workflow_id: child.workflow_id.clone(),
            workflow_type: child.workflow_type(),
            cause: cause.into(),
            control: child.control.clone(),
            initiated_event_id,
            ..StartChildWorkflowExecutionFailedEventAttributes::default()
        },
    ));
}

/// The event that tells how a child has ended.
fn end(
    txn: &Txn<'_>,
    (initiated_event_id, started_event_id): (i64, i64),
    child: &PendingChild,
    execution: WorkflowExecution,
    closed: ChildClosed,
) -> Attributes {
    let (namespace, namespace_id) = (txn.ctx.namespace.name.clone(), txn.ctx.namespace.id.to_string());
    let (workflow_execution, workflow_type) = (Some(execution), child.workflow_type());
    match closed.status() {
        WorkflowExecutionStatus::Completed => {
            Attributes::ChildWorkflowExecutionCompletedEventAttributes(ChildWorkflowExecutionCompletedEventAttributes {
                result: closed.payloads,
                namespace,
                namespace_id,
                workflow_execution,
                workflow_type,
                initiated_event_id,
                started_event_id,
            })
        }
        WorkflowExecutionStatus::Failed => {
            Attributes::ChildWorkflowExecutionFailedEventAttributes(ChildWorkflowExecutionFailedEventAttributes {
                failure: closed.failure,
                namespace,
                namespace_id,
                workflow_execution,
                workflow_type,
                initiated_event_id,
                started_event_id,
                retry_state: closed.retry_state,
            })
        }
        WorkflowExecutionStatus::Canceled => {
            Attributes::ChildWorkflowExecutionCanceledEventAttributes(ChildWorkflowExecutionCanceledEventAttributes {
                details: closed.payloads,
                namespace,
                namespace_id,
                workflow_execution,
                workflow_type,
                initiated_event_id,
                started_event_id,
            })
        }
        WorkflowExecutionStatus::TimedOut => {
            Attributes::ChildWorkflowExecutionTimedOutEventAttributes(ChildWorkflowExecutionTimedOutEventAttributes {
                namespace,
                namespace_id,
                workflow_execution,
                workflow_type,
                initiated_event_id,
                started_event_id,
                retry_state: closed.retry_state,
            })
        }
        // What else there may be is not read from a message.
        _ => Attributes::ChildWorkflowExecutionTerminatedEventAttributes(
            ChildWorkflowExecutionTerminatedEventAttributes {
                namespace,
                namespace_id,
                workflow_execution,
                workflow_type,
                initiated_event_id,
                started_event_id,
            },
        ),
    }
}
