//! What operators do to pending activities of a workflow: pause them, have them go on, reset them, change how they are attempted.
//!
//! Each of it has two methods: an older one for activities by id or type, or all of them, and one that names an activity by its id, as the
//! command line does. Without a workflow, that is an activity of its own.

use everlog_kernel::command::Reply;
use everlog_kernel::{
    ActivityExecutionCommand, Rejection, RunCommand, RunId, check_activity_options, check_priority, time,
};
use everlog_model::WorkflowRef;
use everlog_proto::api::common::v1::WorkflowExecution;
use everlog_proto::api::workflowservice::v1::{
    PauseActivityExecutionRequest, PauseActivityExecutionResponse, PauseActivityRequest, PauseActivityResponse,
    ResetActivityExecutionRequest, ResetActivityExecutionResponse, ResetActivityRequest, ResetActivityResponse,
    UnpauseActivityExecutionRequest, UnpauseActivityExecutionResponse, UnpauseActivityRequest, UnpauseActivityResponse,
    UpdateActivityExecutionOptionsRequest, UpdateActivityExecutionOptionsResponse, UpdateActivityOptionsRequest,
    UpdateActivityOptionsResponse, pause_activity_request, reset_activity_request, unpause_activity_request,
    update_activity_options_request,
};
use everlog_proto::wkt;

use super::activity_executions::{self, done};
use super::call::{Call, own_request_id};
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
    check_mask(request.update_mask.as_ref(), request.restore_original)?;
    match frontend.execute(address, run_id, RunCommand::UpdateActivityOptions(Box::new(request))).await? {
        Reply::ActivityOptions(options) => Ok(UpdateActivityOptionsResponse { activity_options: Some(*options) }),
        reply => Err(unexpected(&reply)),
    }
}

/// Has no attempt of an activity handed out.
pub(super) async fn pause_activity_execution(
    frontend: &Frontend,
    call: Call,
    request: PauseActivityExecutionRequest,
) -> Result<PauseActivityExecutionResponse, Error> {
    let PauseActivityExecutionRequest { namespace, workflow_id, activity_id, run_id, identity, reason, .. } = request;
    let named = Named { namespace, workflow_id, run_id, activity_id, identity, request_id: request.request_id };
    named.check(frontend)?;
    if reason.len() > frontend.config(&named.namespace).limits.blob_bytes_max {
        return Err(Error::invalid("reason exceeds length limit"));
    }
    let named = named.with_request_id();
    if named.is_of_its_own() {
        let request = PauseActivityExecutionRequest {
            identity: named.identity.clone(),
            request_id: named.request_id.clone(),
            reason,
            ..PauseActivityExecutionRequest::default()
        };
        done(named.execute(frontend, ActivityExecutionCommand::Pause(Box::new(request))).await?)?;
        return Ok(PauseActivityExecutionResponse::default());
    }
    let request = PauseActivityRequest {
        execution: named.execution(),
        activity: Some(pause_activity_request::Activity::Id(named.activity_id)),
        request_id: named.request_id,
        namespace: named.namespace,
        identity: named.identity,
        reason,
    };
    pause_activity(frontend, call, request).await?;
    Ok(PauseActivityExecutionResponse::default())
}

/// Has an activity go on that was paused.
pub(super) async fn unpause_activity_execution(
    frontend: &Frontend,
    call: Call,
    request: UnpauseActivityExecutionRequest,
) -> Result<UnpauseActivityExecutionResponse, Error> {
    let UnpauseActivityExecutionRequest { namespace, workflow_id, activity_id, run_id, identity, request_id, .. } =
        request;
    let named = Named { namespace, workflow_id, run_id, activity_id, identity, request_id };
    named.check(frontend)?;
    check_jitter(request.jitter.as_ref())?;
    if named.is_of_its_own() {
        let request = UnpauseActivityExecutionRequest {
            request_id: named.request_id.clone(),
            jitter: request.jitter,
            ..UnpauseActivityExecutionRequest::default()
        };
        done(named.execute(frontend, ActivityExecutionCommand::Unpause(Box::new(request))).await?)?;
        return Ok(UnpauseActivityExecutionResponse::default());
    }
    let request = UnpauseActivityRequest {
        execution: named.execution(),
        activity: Some(unpause_activity_request::Activity::Id(named.activity_id)),
        namespace: named.namespace,
        identity: named.identity,
        jitter: request.jitter,
        ..UnpauseActivityRequest::default()
    };
    unpause_activity(frontend, call, request).await?;
    Ok(UnpauseActivityExecutionResponse::default())
}

/// Has the attempts of an activity counted anew.
pub(super) async fn reset_activity_execution(
    frontend: &Frontend,
    call: Call,
    request: ResetActivityExecutionRequest,
) -> Result<ResetActivityExecutionResponse, Error> {
    let ResetActivityExecutionRequest { namespace, workflow_id, activity_id, run_id, identity, request_id, .. } =
        request;
    let named = Named { namespace, workflow_id, run_id, activity_id, identity, request_id };
    named.check(frontend)?;
    check_jitter(request.jitter.as_ref())?;
    if named.is_of_its_own() {
        let request = ResetActivityExecutionRequest {
            request_id: named.request_id.clone(),
            keep_paused: request.keep_paused,
            jitter: request.jitter,
            restore_original_options: request.restore_original_options,
            reset_heartbeat: request.reset_heartbeat,
            ..ResetActivityExecutionRequest::default()
        };
        done(named.execute(frontend, ActivityExecutionCommand::Reset(Box::new(request))).await?)?;
        return Ok(ResetActivityExecutionResponse::default());
    }
    let request = ResetActivityRequest {
        execution: named.execution(),
        activity: Some(reset_activity_request::Activity::Id(named.activity_id)),
        namespace: named.namespace,
        identity: named.identity,
        reset_heartbeat: request.reset_heartbeat,
        keep_paused: request.keep_paused,
        jitter: request.jitter,
        restore_original_options: request.restore_original_options,
    };
    reset_activity(frontend, call, request).await?;
    Ok(ResetActivityExecutionResponse::default())
}

/// Changes how an activity is attempted.
pub(super) async fn update_activity_execution_options(
    frontend: &Frontend,
    call: Call,
    request: UpdateActivityExecutionOptionsRequest,
) -> Result<UpdateActivityExecutionOptionsResponse, Error> {
    let UpdateActivityExecutionOptionsRequest { namespace, workflow_id, activity_id, run_id, identity, .. } = request;
    let named = Named { namespace, workflow_id, run_id, activity_id, identity, request_id: request.request_id };
    named.check(frontend)?;
    let (options, mask) = (request.activity_options, request.update_mask);
    check_mask(mask.as_ref(), request.restore_original)?;
    let activity_options = match request.restore_original {
        true => options,
        false => {
            let limits = &frontend.config(&named.namespace).limits;
            Some(check_activity_options(options, mask.as_ref(), limits)?)
        }
    };
    if named.is_of_its_own() {
        let request = UpdateActivityExecutionOptionsRequest {
            request_id: named.request_id.clone(),
            activity_options,
            update_mask: mask,
            restore_original: request.restore_original,
            ..UpdateActivityExecutionOptionsRequest::default()
        };
        let command = ActivityExecutionCommand::UpdateOptions(Box::new(request));
        return match named.execute(frontend, command).await? {
            Reply::ActivityOptions(options) => {
                Ok(UpdateActivityExecutionOptionsResponse { activity_options: Some(*options) })
            }
            reply => Err(unexpected(&reply)),
        };
    }
    let request = UpdateActivityOptionsRequest {
        execution: named.execution(),
        activity: Some(update_activity_options_request::Activity::Id(named.activity_id)),
        namespace: named.namespace,
        identity: named.identity,
        activity_options,
        update_mask: mask,
        restore_original: request.restore_original,
    };
    let UpdateActivityOptionsResponse { activity_options } = update_activity_options(frontend, call, request).await?;
    Ok(UpdateActivityExecutionOptionsResponse { activity_options })
}

/// An activity that an operator names by its id.
struct Named {
    namespace: String,
    workflow_id: String,
    run_id: String,
    activity_id: String,
    identity: String,
    request_id: String,
}

impl Named {
    fn check(&self, frontend: &Frontend) -> Result<(), Error> {
        if self.is_of_its_own() {
            let (_, config) = activity_executions::open(frontend, &self.namespace)?;
            if !config.frontend.activity_operations {
                let message = "Standalone activity operator commands are disabled";
                return Err(Error::Rejected(Rejection::Unimplemented(message.into())));
            }
        }
        frontend.namespace(&self.namespace)?;
        let limit = frontend.config(&self.namespace).limits.id_bytes_max;
        let length = |what: &str, text: &str| match text.len() {
            length if length > limit => {
                Err(Error::invalid(format!("{what} exceeds length limit. Length={length} Limit={limit}")))
            }
            _ => Ok(()),
        };
        length("request ID", &self.request_id)?;
        if self.activity_id.is_empty() {
            return Err(Error::invalid("activity ID is required"));
        }
        length("activity ID", &self.activity_id)?;
        length("identity", &self.identity)?;
        validate::run_id(&self.run_id, "invalid run id: must be a valid UUID").map(drop)
    }

    /// Whether it is no workflow's.
    fn is_of_its_own(&self) -> bool {
        self.workflow_id.is_empty()
    }

    /// Without an id of its own it is another request each time.
    fn with_request_id(self) -> Named {
        Named { request_id: if self.request_id.is_empty() { own_request_id() } else { self.request_id }, ..self }
    }

    /// The run of the workflow that has scheduled it.
    fn execution(&self) -> Option<WorkflowExecution> {
        Some(WorkflowExecution { workflow_id: self.workflow_id.clone(), run_id: self.run_id.clone() })
    }

    /// Carries out a command to one that is no workflow's.
    async fn execute(&self, frontend: &Frontend, command: ActivityExecutionCommand) -> Result<Reply, Error> {
        let namespace = frontend.namespace(&self.namespace)?;
        let run_id = validate::run_id(&self.run_id, "invalid run id: must be a valid UUID")?;
        activity_executions::execute(frontend, &address(&namespace, &self.activity_id), run_id, command).await
    }
}

/// Options are changed, or those that the workflow asked for are given back.
fn check_mask(mask: Option<&wkt::FieldMask>, restores: bool) -> Result<(), Error> {
    if restores && mask.is_some_and(|mask| !mask.paths.is_empty()) {
        return Err(Error::invalid("Both UpdateMask and RestoreOriginal are provided"));
    }
    Ok(())
}

fn check_jitter(jitter: Option<&wkt::Duration>) -> Result<(), Error> {
    time::positive(jitter).map(drop).map_err(|wrong| Error::invalid(format!("invalid jitter: {wrong}")))
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
