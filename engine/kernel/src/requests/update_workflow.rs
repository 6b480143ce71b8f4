//! UpdateWorkflowExecution and PollWorkflowExecutionUpdate: an update is taken, or looked at.

use everlog_proto::api::update::v1::Request;
use everlog_proto::api::workflowservice::v1::UpdateWorkflowExecutionRequest;

use crate::command::{Reply, UpdateReply, UpdateStatus};
use crate::txn::Txn;
use crate::{Rejection, updates, workflow_task};

/// From this attempt of a workflow task on an update is refused: the worker could not answer it either.
const FAILING_ATTEMPT: i32 = 3;

/// Takes an update, once for each id, and sees to it that a worker gets it.
pub(crate) fn update(txn: &mut Txn<'_>, request: UpdateWorkflowExecutionRequest) -> Result<Reply, Rejection> {
    super::check_chain(&txn.run, &request.first_execution_run_id)?;
    let update = request.request.unwrap_or_default();
    let id = update.meta.as_ref().map(|meta| meta.update_id.clone()).unwrap_or_default();
    let status = admit(txn, &id, update)?;
    Ok(Reply::Update(UpdateReply { run_id: txn.run.id, update_id: id, status, started: None }))
}

/// The same with the id at hand. Returns how far the update has come.
pub(super) fn admit(txn: &mut Txn<'_>, id: &str, request: Request) -> Result<UpdateStatus, Rejection> {
    let known = updates::status(&txn.run, id);
    if !txn.run.is_open() {
        return known.ok_or_else(Rejection::workflow_completed);
    }
    let state = &txn.run.state;
    let attempt = state.workflow_task.as_ref().map_or(state.next_workflow_task_attempt, |task| task.attempt);
    if attempt >= FAILING_ATTEMPT {
        let text = "Unable to perform workflow execution update due to Workflow Task in failed state.";
        return Err(Rejection::WorkflowNotReady(text.into()));
    }
    if state.close_attempted && txn.run.workflow_task_started() {
        return Err(Rejection::workflow_closing());
    }
    if let Some(known) = known {
        updates::asked(txn, id);
        return Ok(known);
    }
    updates::check_limits(&txn.run, &request, txn.ctx.limits)?;
    updates::admit(txn, id.to_owned(), request);
    if txn.run.state.workflow_task.is_none() {
        workflow_task::schedule_speculative(txn);
        workflow_task::offer_if_speculative(txn);
    }
    Ok(UpdateStatus::Admitted)
}

/// Tells how far an update has come.
pub(crate) fn poll(txn: &mut Txn<'_>, update_id: String) -> Result<Reply, Rejection> {
    let Some(status) = updates::status(&txn.run, &update_id) else {
        return Err(Rejection::NotFound(format!("update {update_id:?} not found").into()));
    };
    updates::asked(txn, &update_id);
    Ok(Reply::Update(UpdateReply { run_id: txn.run.id, update_id, status, started: None }))
}
