//! A run whose history has grown too long is terminated: no worker could replay it any more.

use crate::Rejection;
use crate::command::{Reply, WorkflowTaskCompleted};
use crate::terminate::terminate;
use crate::txn::Txn;
use crate::workflow_task::SERVER_IDENTITY;

/// Terminates the run if the change has made its history too long, and returns the reply that is true then: a workflow task
/// that was started in the same transition is not there any more. (Temporal: `limit.historySize.error`,
/// `limit.historyCount.error`.)
pub(crate) fn enforce(txn: &mut Txn<'_>, reply: Result<Reply, Rejection>) -> Result<Reply, Rejection> {
    let (state, limits) = (&txn.run.state, txn.ctx.limits);
    let reason = if state.history_bytes > limits.history_bytes_max {
        "Workflow history size exceeds limit."
    } else if state.next_event_id - 1 > limits.history_events_max {
        "Workflow history count exceeds limit."
    } else {
        return reply;
    };
    if !txn.run.is_open() {
        return reply;
    }
    terminate(txn, reason.to_owned(), None, SERVER_IDENTITY.to_owned(), Vec::new());
    match reply {
        Ok(Reply::WorkflowTaskStarted(_)) => Err(Rejection::workflow_task_not_found()),
        Ok(Reply::WorkflowTaskCompleted(_)) => Ok(Reply::WorkflowTaskCompleted(WorkflowTaskCompleted::default())),
        reply => reply,
    }
}
