//! One file per request: how it changes a run.
//!
//! Each has an `apply(txn, ...)` that either changes the run through the [`crate::txn::Txn`] and returns the reply, or returns a
//! rejection and has changed nothing. Those that need more than one run have a `decide(workflow, ...)`.

pub(crate) mod cancel_activity;
pub(crate) mod complete_activity;
pub(crate) mod complete_workflow_task;
pub(crate) mod delete_workflow;
pub(crate) mod fail_activity;
pub(crate) mod fail_workflow_task;
pub(crate) mod fire_timers;
pub(crate) mod hear_of_child;
pub(crate) mod heartbeat_activity;
pub(crate) mod parent_closed;
pub(crate) mod pause_activity;
pub(crate) mod query_workflow;
pub(crate) mod receive_message;
pub(crate) mod request_cancel_workflow;
pub(crate) mod reset_activity;
pub(crate) mod reset_sticky;
pub(crate) mod reset_workflow;
pub(crate) mod settle_message;
pub(crate) mod signal_with_start;
pub(crate) mod signal_workflow;
pub(crate) mod start_activity_task;
pub(crate) mod start_child;
pub(crate) mod start_scheduled;
pub(crate) mod start_workflow;
pub(crate) mod start_workflow_task;
pub(crate) mod terminate_workflow;
pub(crate) mod unpause_activity;
pub(crate) mod update_activity_options;
pub(crate) mod update_with_start;
pub(crate) mod update_workflow;
pub(crate) mod update_workflow_options;

use crate::Rejection;
use crate::state::Run;

/// Refuses a request that names another chain of runs than this one's, by its first run. Empty for any.
fn check_chain(run: &Run, first_execution_run_id: &str) -> Result<(), Rejection> {
    if first_execution_run_id.is_empty() || run.first_run_id().to_string() == first_execution_run_id {
        Ok(())
    } else {
        Err(Rejection::OtherChain)
    }
}
