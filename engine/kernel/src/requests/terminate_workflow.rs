//! A request to end a run without its workflow being asked.

use everlog_proto::api::workflowservice::v1::TerminateWorkflowExecutionRequest;

use crate::command::Reply;
use crate::terminate::terminate;
use crate::txn::Txn;
use crate::{Rejection, validation};

/// Terminates an open run.
pub(crate) fn apply(txn: &mut Txn<'_>, request: TerminateWorkflowExecutionRequest) -> Result<Reply, Rejection> {
    if !txn.run.is_open() {
        return Err(Rejection::workflow_completed());
    }
    super::check_chain(&txn.run, &request.first_execution_run_id)?;
    validation::check_links(&request.links, txn.ctx.limits)?;
    let or = |given: String, default: &str| if given.is_empty() { default.to_owned() } else { given };
    let reason = or(request.reason, "terminated by user via frontend");
    let identity = or(request.identity, "frontend-service");
    terminate(txn, reason, request.details, identity, request.links);
    Ok(Reply::Done)
}
