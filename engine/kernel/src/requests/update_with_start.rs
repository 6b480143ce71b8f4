//! Update-with-start: the open run gets the update, or a new one is started that gets it with its first workflow task.
//! (Temporal: `service/history/api/multioperation`.)

use everlog_proto::api::enums::v1::WorkflowIdConflictPolicy;
use everlog_proto::api::update::v1::Request;
use everlog_proto::api::workflowservice::v1::UpdateWorkflowExecutionRequest;

use super::start_workflow::{self, Resolution};
use super::update_workflow;
use crate::command::{Reply, Started, UpdateReply, UpdateStatus};
use crate::runs::on_run;
use crate::state::{Run, RunInfo, Workflow};
use crate::transition::Transition;
use crate::valid_start::ValidStart;
use crate::{Context, Rejection, updates};

/// Hands the update to the current run if that knows it, or is open and is the one that the start is about; starts a run with it
/// otherwise, if the start's policies have it so.
///
/// # Errors
///
/// A [`Rejection::OfUpdate`] is about the update, any other one about the start.
pub(crate) fn decide(
    workflow: &mut Workflow,
    start: ValidStart,
    update: UpdateWorkflowExecutionRequest,
    ctx: &mut Context<'_>,
) -> Result<Transition, Rejection> {
    let (reuse, conflict) = (start.reuse, start.conflict);
    let new_run = start.into_new_run(ctx);
    start_workflow::check_version(&new_run, ctx)?;
    let update = update.request.unwrap_or_default();
    let id = update.meta.as_ref().map(|meta| meta.update_id.clone()).unwrap_or_default();
    if let Some(current) = workflow.current_run() {
        let known = updates::status(current, &id);
        let started = start_workflow::found(current, false);
        if let Some(status @ UpdateStatus::Completed { .. }) = known {
            return Ok(Transition::reply(reply(id, status, started)));
        }
        let is_meant = known.is_some()
            || current.info.start_request_id == new_run.start_request_id
            || conflict == WorkflowIdConflictPolicy::UseExisting;
        if current.is_open() && is_meant {
            return update_open_run(workflow, started, id, update, ctx);
        }
    }
    match start_workflow::resolve(workflow, &new_run.start_request_id, reuse, conflict)? {
        Resolution::Found(_) | Resolution::UseExisting(_) => {
            Err(Rejection::Unavailable("Workflow was not started: StartDeduped".into()))
        }
        Resolution::Start { terminate } => {
            let of_update = |rejection| Rejection::OfUpdate(Box::new(rejection));
            updates::check_limits(&Run::new(new_run.run_id, RunInfo::default()), &update, ctx.limits)
                .map_err(of_update)?;
            let update_id = id.clone();
            let mut transition = start_workflow::begin(workflow, new_run, terminate, ctx, |txn| {
                updates::admit(txn, update_id, update);
            })?;
            transition.reply = transition.reply.map(|started| match started {
                Reply::Started(started) => reply(id, UpdateStatus::Admitted, started),
                other => other,
            });
            Ok(transition)
        }
    }
}

fn update_open_run(
    workflow: &mut Workflow,
    started: Started,
    id: String,
    update: Request,
    ctx: &mut Context<'_>,
) -> Result<Transition, Rejection> {
    on_run(workflow, started.run_id, ctx, |txn| {
        let admitted = update_workflow::admit(txn, &id, update);
        let status = admitted.map_err(|rejection| Rejection::OfUpdate(Box::new(rejection)))?;
        Ok(Ok(reply(id, status, started)))
    })
}

fn reply(update_id: String, status: UpdateStatus, started: Started) -> Reply {
    Reply::Update(UpdateReply { run_id: started.run_id, update_id, status, started: Some(Box::new(started)) })
}
