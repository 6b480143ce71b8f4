//! A schedule asks for a workflow to be started. It may ask more than once, and gets one.

use std::sync::Arc;

use super::start_workflow::{self, Resolution};
use crate::command::Reply;
use crate::outbox::{MessageBody, OutboxMessage};
use crate::state::Workflow;
use crate::transition::Transition;
use crate::txn::NewRun;
use crate::valid_start::ValidStart;
use crate::{Context, Rejection};

/// Starts the workflow, unless it was started before: its first run, which must be in memory if it exists, or the current one tells.
pub(crate) fn decide(
    workflow: &mut Workflow,
    message: OutboxMessage,
    ctx: &mut Context<'_>,
) -> Result<Transition, Rejection> {
    let OutboxMessage { source_workflow_id, target_run_id, body, .. } = message;
    let (MessageBody::StartScheduled(start), Some(run_id)) = (body, target_run_id) else {
        return Err(Rejection::workflow_not_found());
    };
    let goes_on = workflow.current_run().is_some_and(|run| run.first_run_id() == run_id);
    if goes_on || workflow.runs.contains_key(&run_id) {
        return Ok(Transition::reply(Reply::Done));
    }
    let start = ValidStart::new(start.request.unwrap_or_default(), ctx.limits)?;
    let (reuse, conflict) = (start.reuse, start.conflict);
    let new_run = start.into_new_run(ctx);
    start_workflow::check_version(&new_run, ctx)?;
    match start_workflow::resolve(workflow, &new_run.start_request_id, reuse, conflict)? {
        Resolution::Found(_) | Resolution::UseExisting(_) => Ok(Transition::reply(Reply::Done)),
        Resolution::Start { terminate } => {
            let scheduled_by = Some(Arc::from(source_workflow_id));
            let new_run = NewRun { run_id, scheduled_by, ..new_run };
            start_workflow::begin(workflow, new_run, terminate, ctx, |_| {})
        }
    }
}
