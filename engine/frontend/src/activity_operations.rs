//! What operators do to pending activities of a workflow: pause them, have them go on, reset them, change how they are attempted.

use everlog_kernel::command::Reply;
use everlog_kernel::{RunCommand, RunId, check_priority};
use everlog_model::WorkflowRef;
use everlog_proto::api::common::v1::WorkflowExecution;
use everlog_proto::api::workflowservice::v1::{
    PauseActivityRequest, PauseActivityResponse, ResetActivityRequest, ResetActivityResponse, UnpauseActivityRequest,
    UnpauseActivityResponse, UpdateActivityOptionsRequest, UpdateActivityOptionsResponse,
};

use super::call::Call;
use super::errors::Error;
use super::execute::unexpected;
use super::{Frontend, address, validate};

/// Has no attempt of activities handed out.
pub(super) async fn pause_activity(
    frontend: &Frontend,
    _call: Call,
    request: PauseActivityRequest,
) -> Result<PauseActivityResponse, Error> {
    let (address, run_id) =
        workflow(frontend, &request.namespace, request.execution.as_ref(), request.activity.is_some())?;
    frontend.execute_done(address, run_id, RunCommand::PauseActivity(Box::new(request))).await?;
    Ok(PauseActivityResponse::default())
}

/// Has activities go on that were paused.
pub(super) async fn unpause_activity(
    frontend: &Frontend,
    _call: Call,
    request: UnpauseActivityRequest,
) -> Result<UnpauseActivityResponse, Error> {
    let (address, run_id) =
        workflow(frontend, &request.namespace, request.execution.as_ref(), request.activity.is_some())?;
    frontend.execute_done(address, run_id, RunCommand::UnpauseActivity(Box::new(request))).await?;
    Ok(UnpauseActivityResponse::default())
}

/// Has the attempts of activities counted anew.
pub(super) async fn reset_activity(
    frontend: &Frontend,
    _call: Call,
    request: ResetActivityRequest,
) -> Result<ResetActivityResponse, Error> {
    let (address, run_id) =
        workflow(frontend, &request.namespace, request.execution.as_ref(), request.activity.is_some())?;
    frontend.execute_done(address, run_id, RunCommand::ResetActivity(Box::new(request))).await?;
    Ok(ResetActivityResponse::default())
}

/// Changes how activities are attempted.
pub(super) async fn update_activity_options(
    frontend: &Frontend,
    _call: Call,
    request: UpdateActivityOptionsRequest,
) -> Result<UpdateActivityOptionsResponse, Error> {
    let (address, run_id) =
        workflow(frontend, &request.namespace, request.execution.as_ref(), request.activity.is_some())?;
    check_priority(request.activity_options.as_ref().and_then(|options| options.priority.as_ref()))?;
    let has_paths = request.update_mask.as_ref().is_some_and(|mask| !mask.paths.is_empty());
    if request.restore_original && has_paths {
        return Err(Error::invalid("Both UpdateMask and RestoreOriginal are provided"));
    }
    match frontend.execute(address, run_id, RunCommand::UpdateActivityOptions(Box::new(request))).await? {
        Reply::ActivityOptions(options) => Ok(UpdateActivityOptionsResponse { activity_options: Some(*options) }),
        reply => Err(unexpected(&reply)),
    }
}

/// The workflow whose activities a request is about. `names_activities` says whether it says which ones.
fn workflow(
    frontend: &Frontend,
    namespace: &str,
    execution: Option<&WorkflowExecution>,
    names_activities: bool,
) -> Result<(WorkflowRef, Option<RunId>), Error> {
    let namespace = frontend.namespace(namespace)?;
    let (workflow_id, run_id) = validate::named_execution(execution)?;
    if !names_activities {
        return Err(Error::invalid("Either Activity.Id or Activity.Type should be set on request."));
    }
    Ok((address(&namespace, workflow_id), run_id))
}
