//! Queries: asked of a worker, answered by it, never written.
//!
//! An answer must reflect every event that was acknowledged before the query. While a workflow task is pending, the query
//! therefore goes along with it (the next one to be started), and is answered with its completion. Otherwise there is nothing
//! that the workflow has not seen, and the query is put to a worker by itself.

use everlog_proto::api::enums::v1::{QueryRejectCondition, ResourceExhaustedCause, WorkflowExecutionStatus};
use everlog_proto::api::query::v1::WorkflowQuery;
use everlog_proto::api::workflowservice::v1::PollWorkflowTaskQueueResponse;

use super::start_workflow_task;
use crate::command::{QueryReply, Reply, WorkflowTaskStart};
use crate::state::BufferedQuery;
use crate::txn::Txn;
use crate::{Rejection, workflow_task};

/// From this attempt of a workflow task on a query is refused: the worker could not answer it either.
const FAILING_ATTEMPT: i32 = 3;

/// Asks a query.
pub(crate) fn ask(
    txn: &mut Txn<'_>,
    query_id: u64,
    query: WorkflowQuery,
    reject_condition: i32,
) -> Result<Reply, Rejection> {
    let run = &mut txn.run;
    let status = run.status();
    if is_rejected(status, reject_condition) {
        return Ok(Reply::Query(QueryReply::Rejected(status)));
    }
    if !run.is_open() && run.state.last_completed_started_event_id == 0 {
        return Err(Rejection::WorkflowNotReady("Workflow execution closed before WorkflowTaskStarted event".into()));
    }
    if run.is_open() && !run.state.had_workflow_task {
        return Err(Rejection::WorkflowNotReady("Workflow task is not scheduled yet.".into()));
    }
    let query = BufferedQuery { query_id, query };
    // A closed run's task is described on, but no worker gets it.
    let Some(task) = run.state.workflow_task.as_ref().filter(|_| run.is_open()) else {
        txn.effects.push(workflow_task::offer_query(run, query));
        let sticky_timeout = run.sticky.as_ref().and_then(|sticky| sticky.schedule_to_start_timeout);
        return Ok(Reply::Query(QueryReply::Asked { sticky_timeout }));
    };
    if task.attempt >= FAILING_ATTEMPT {
        return Err(Rejection::WorkflowNotReady(
            "Unable to query workflow due to Workflow Task in failed state.".into(),
        ));
    }
    if run.queries.len() >= txn.ctx.limits.buffered_queries_max {
        return Err(Rejection::ResourceExhausted {
            cause: ResourceExhaustedCause::BusyWorkflow,
            message:
                "consistent query buffer is full, this may be caused by too many queries and workflow not able to \
                      process query fast enough"
                    .into(),
        });
    }
    run.queries.push(query);
    Ok(Reply::Query(QueryReply::Asked { sticky_timeout: None }))
}

fn is_rejected(status: WorkflowExecutionStatus, reject_condition: i32) -> bool {
    match QueryRejectCondition::try_from(reject_condition) {
        Ok(QueryRejectCondition::NotOpen) => status != WorkflowExecutionStatus::Running,
        Ok(QueryRejectCondition::NotCompletedCleanly) => {
            !matches!(status, WorkflowExecutionStatus::Running | WorkflowExecutionStatus::Completed)
        }
        Ok(QueryRejectCondition::None | QueryRejectCondition::Unspecified) | Err(_) => false,
    }
}

/// The asker has given up: the query is not sent any more, and an answer that still comes finds nobody.
pub(crate) fn abandon(txn: &mut Txn<'_>, query_id: u64) -> Result<Reply, Rejection> {
    txn.run.queries.retain(|query| query.query_id != query_id);
    Ok(Reply::Done)
}

/// A poller of `task_queue` takes a query of its own. It is sent the whole history, unless it has the run cached.
pub(crate) fn start_task(txn: &mut Txn<'_>, task_queue: &str) -> Result<Reply, Rejection> {
    let run = &txn.run;
    let next_event_id = run.state.next_event_id;
    let cached = run.sticky.as_ref().is_some_and(|sticky| sticky.task_queue == task_queue);
    Ok(Reply::QueryTask(Box::new(WorkflowTaskStart {
        response: PollWorkflowTaskQueueResponse { attempt: 1, ..start_workflow_task::response(run, txn.workflow_id) },
        token: None,
        history_from: if cached { next_event_id } else { 1 },
        history_to: next_event_id,
        tail: bytes::Bytes::new(),
    })))
}
