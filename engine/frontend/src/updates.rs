//! UpdateWorkflowExecution and PollWorkflowExecutionUpdate: an update is handed to its workflow, and waited for.
//!
//! The kernel takes the update and tells of its steps; here is waited for the step that the caller wants, not longer than Temporal
//! would. What was admitted and is lost with the lead, or with a run that continues as a new one, is handed in again.

use std::time::Duration;

use everlog_config::DynamicConfig;
use everlog_kernel::command::{Started, UpdateStatus};
use everlog_kernel::{Command, Rejection, RunCommand, RunId};
use everlog_meta::NamespaceRecord;
use everlog_model::{CallError, WorkflowRef};
use everlog_partition::PageSize;
use everlog_proto::api::common::v1::{Link, WorkflowExecution};
use everlog_proto::api::enums::v1::UpdateWorkflowExecutionLifecycleStage as Stage;
use everlog_proto::api::history::v1::History;
use everlog_proto::api::history::v1::history_event::Attributes;
use everlog_proto::api::update::v1::{Outcome, UpdateRef, WaitPolicy, outcome};
use everlog_proto::api::workflowservice::v1::{
    PollWorkflowExecutionUpdateRequest, PollWorkflowExecutionUpdateResponse, UpdateWorkflowExecutionRequest,
    UpdateWorkflowExecutionResponse,
};
use prost::Message;
use tokio::time::Instant;

use super::call::{Call, own_request_id};
use super::errors::{Error, UNAVAILABLE_PAUSE};
use super::execute::explain;
use super::{Frontend, address, links, validate};

/// The longest pause between two tries to hand an update in.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Hands an update to a run, and waits until it is accepted or completed, as the caller wishes.
pub(super) async fn update_workflow_execution(
    frontend: &Frontend,
    call: Call,
    mut request: UpdateWorkflowExecutionRequest,
) -> Result<UpdateWorkflowExecutionResponse, Error> {
    let namespace = frontend.namespace(&request.namespace)?;
    let config = frontend.config(&request.namespace);
    let run_id = prepare(&mut request, &config)?;
    frontend.check_room()?;
    let named = Named::of(&request);
    let follow = Follow::new(frontend, &call, &config, address(&namespace, &named.workflow_id), run_id);
    let stage = stage_of(request.wait_policy.as_ref());
    let command = RunCommand::UpdateWorkflow(Box::new(request));
    let reached = follow.until(stage, &command.into()).await?;
    Ok(named.response(&namespace, reached))
}

/// Waits for an update that was handed in before.
pub(super) async fn poll_workflow_execution_update(
    frontend: &Frontend,
    call: Call,
    request: PollWorkflowExecutionUpdateRequest,
) -> Result<PollWorkflowExecutionUpdateResponse, Error> {
    let namespace = frontend.namespace(&request.namespace)?;
    let update_ref = request.update_ref.ok_or_else(|| Error::invalid("UpdateRef is not set on request."))?;
    let execution = update_ref.workflow_execution.unwrap_or_default();
    let workflow_id = &execution.workflow_id;
    if workflow_id.is_empty() {
        return Err(Error::invalid("Can't load workflow execution.  WorkflowId not set."));
    }
    let run_id = validate::run_id(&execution.run_id, "RunId is not valid UUID.")?;
    let config = frontend.config(&request.namespace);
    let stage = request.wait_policy.map_or(Stage::Unspecified, |policy| policy.lifecycle_stage());
    let follow = Follow::new(frontend, &call, &config, address(&namespace, workflow_id), run_id);
    let command = RunCommand::PollUpdate { update_id: update_ref.update_id.clone() };
    let Reached { run_id, stage, outcome, .. } = follow.until(stage, &command.into()).await?;
    Ok(PollWorkflowExecutionUpdateResponse {
        outcome,
        stage: stage as i32,
        update_ref: Some(update_ref_to(execution.workflow_id, run_id, update_ref.update_id)),
    })
}

/// Checks a request, and fills in what it leaves open. Returns the run that it names.
pub(super) fn prepare(
    request: &mut UpdateWorkflowExecutionRequest,
    config: &DynamicConfig,
) -> Result<Option<RunId>, Error> {
    let (_, run_id) = validate::execution(request.workflow_execution.as_ref())?;
    let update = request.request.get_or_insert_default();
    let meta = update.meta.as_mut().ok_or_else(|| Error::invalid("Update meta is not set on request."))?;
    validate::length(&meta.update_id, config.limits.id_bytes_max, "UpdateId length exceeds limit.")?;
    if meta.update_id.is_empty() {
        meta.update_id = own_request_id();
    }
    let input = update.input.as_ref().ok_or_else(|| Error::invalid("Update input is not set on request."))?;
    if input.name.is_empty() {
        return Err(Error::invalid("Update name is not set on request."));
    }
    if !config.frontend.updates {
        return Err(Error::PermissionDenied("UpdateWorkflowExecution operation is disabled on this namespace."));
    }
    match stage_of(request.wait_policy.as_ref()) {
        Stage::Admitted => {
            return Err(Error::PermissionDenied(
                "UpdateWorkflowExecution issued asynchronously and waiting on update admitted is not supported.",
            ));
        }
        Stage::Accepted if !config.frontend.updates_async_accepted => {
            return Err(Error::PermissionDenied(
                "UpdateWorkflowExecution issued asynchronously and waiting on update accepted is disabled on this namespace.",
            ));
        }
        _ => {}
    }
    if !update.completion_callbacks.is_empty() {
        let message = "completion_callbacks of updates are not supported by this server";
        return Err(Error::Rejected(Rejection::Unimplemented(message.into())));
    }
    validate::links(&update.links, config)?;
    validate::payloads(input.args.as_ref(), config)?;
    Ok(run_id)
}

/// The stage that a new update is waited for.
pub(super) fn stage_of(policy: Option<&WaitPolicy>) -> Stage {
    match policy.map_or(Stage::Unspecified, WaitPolicy::lifecycle_stage) {
        Stage::Unspecified => Stage::Completed,
        stage => stage,
    }
}

/// How far an update has come when its caller is told.
pub(super) struct Reached {
    pub(super) run_id: RunId,
    pub(super) stage: Stage,
    pub(super) outcome: Option<Outcome>,
    /// What became of the start that came with it.
    pub(super) started: Option<Box<Started>>,
}

/// A caller that waits for an update.
pub(super) struct Follow<'a> {
    frontend: &'a Frontend,
    address: WorkflowRef,
    run_id: Option<RunId>,
    /// When the caller is told how far the update has come, as far as that may be.
    until: Instant,
    /// When the caller gives up.
    deadline: Option<Instant>,
}

impl<'a> Follow<'a> {
    pub(super) fn new(
        frontend: &'a Frontend,
        call: &Call,
        config: &DynamicConfig,
        address: WorkflowRef,
        run_id: Option<RunId>,
    ) -> Follow<'a> {
        let until = Instant::now() + config.frontend.history_wait_max;
        Follow { frontend, address, run_id, until, deadline: call.deadline }
    }

    /// Carries out `command`, which hands the update in or finds it, and waits until it has reached `stage`.
    ///
    /// # Errors
    ///
    /// Those of the command, and of an update that is given up.
    pub(super) async fn until(&self, stage: Stage, command: &Command) -> Result<Reached, Error> {
        let mut pause = UNAVAILABLE_PAUSE;
        loop {
            // Boxed: few calls come this far, and all would be as large.
            let error = match Box::pin(self.once(stage, command)).await {
                Ok(Some(reached)) => return Ok(reached),
                Ok(None) => Error::Unavailable("workflow update was aborted".to_owned()),
                Err(error) => error,
            };
            let next_try = Instant::now() + pause;
            let is_late = next_try >= self.until || self.deadline.is_some_and(|deadline| next_try >= deadline);
            if is_late || !passes_by_itself(&error) {
                return Err(error);
            }
            tokio::time::sleep_until(next_try).await;
            pause = (2 * pause).min(PAUSE_MAX);
        }
    }

    /// One try. `None` if the update is lost with the lead.
    async fn once(&self, stage: Stage, command: &Command) -> Result<Option<Reached>, Error> {
        let explained = |error: CallError| explain(error, &self.address, self.run_id);
        let partition = self.frontend.router.partition_of(&self.address)?;
        let followed = partition.follow_update(self.address.clone(), self.run_id, command.clone()).await;
        let mut followed = followed.map_err(|error| match error {
            CallError::Rejected(Rejection::OfUpdate(rejection)) => Error::Rejected(*rejection),
            error => explained(error),
        })?;
        let mut status = followed.now.status.clone();
        let until = self.deadline.map_or(self.until, |deadline| deadline.min(self.until));
        while !has_reached(&status, stage) {
            tokio::select! {
                step = followed.next() => match step {
                    Some(step) => status = step.map_err(explained)?,
                    None => return Ok(None),
                },
                () = self.frontend.drained() => return Err(Error::Unavailable("the server is stopping".to_owned())),
                () = tokio::time::sleep_until(until) => {
                    if until < self.until {
                        return Err(Error::DeadlineExceeded("context deadline exceeded"));
                    }
                    break;
                }
            }
        }
        let run_id = followed.now.run_id;
        let (stage, outcome) = match status {
            UpdateStatus::Admitted => (Stage::Admitted, None),
            UpdateStatus::Accepted => (Stage::Accepted, None),
            UpdateStatus::Ended(outcome) => (Stage::Completed, Some(*outcome)),
            UpdateStatus::Completed { event_id } => (Stage::Completed, Some(self.outcome(run_id, event_id).await?)),
        };
        Ok(Some(Reached { run_id, stage, outcome, started: followed.now.started }))
    }

    /// The outcome that an event of the run tells.
    async fn outcome(&self, run_id: RunId, event_id: i64) -> Result<Outcome, Error> {
        let partition = self.frontend.router.partition_of(&self.address)?;
        let size = PageSize::batches(1);
        let page = partition.read_history(&self.address, run_id, event_id, event_id + 1, size).await?;
        for batch in page.batches {
            let history = History::decode(batch).map_err(|error| Error::Corrupt(error.to_string()))?;
            let event = history.events.into_iter().find(|event| event.event_id == event_id);
            if let Some(Attributes::WorkflowExecutionUpdateCompletedEventAttributes(completed)) =
                event.and_then(|event| event.attributes)
            {
                return Ok(completed.outcome.unwrap_or_default());
            }
        }
        Err(Error::Corrupt(format!("event {event_id} of run {run_id} has no outcome of an update")))
    }
}

fn has_reached(status: &UpdateStatus, stage: Stage) -> bool {
    match status {
        UpdateStatus::Completed { .. } | UpdateStatus::Ended(_) => true,
        UpdateStatus::Accepted => stage != Stage::Completed,
        UpdateStatus::Admitted => !matches!(stage, Stage::Accepted | Stage::Completed),
    }
}

/// Whether to try again is worth while: the lead is lost, or the run closes and another one follows. To hand an update in twice does no
/// harm.
fn passes_by_itself(error: &Error) -> bool {
    matches!(error, Error::Unavailable(_)) || *error == Error::Rejected(Rejection::workflow_closing())
}

// ---- Responses -----------------------------------------------------------------------------------------------------------

/// What a response repeats of its request.
pub(super) struct Named {
    pub(super) workflow_id: String,
    update_id: String,
    request_id: String,
}

impl Named {
    /// Of a request that was checked.
    pub(super) fn of(request: &UpdateWorkflowExecutionRequest) -> Named {
        let update = request.request.as_ref();
        Named {
            workflow_id: request.workflow_execution.as_ref().map(|it| it.workflow_id.clone()).unwrap_or_default(),
            update_id: update.and_then(|it| it.meta.as_ref()).map(|meta| meta.update_id.clone()).unwrap_or_default(),
            request_id: update.map(|update| update.request_id.clone()).unwrap_or_default(),
        }
    }

    /// The response to it.
    pub(super) fn response(self, namespace: &NamespaceRecord, reached: Reached) -> UpdateWorkflowExecutionResponse {
        let Named { workflow_id, update_id, request_id } = self;
        let Reached { run_id, stage, outcome, .. } = reached;
        let link = link(namespace, workflow_id.clone(), run_id, request_id, stage, outcome.as_ref());
        UpdateWorkflowExecutionResponse {
            update_ref: Some(update_ref_to(workflow_id, run_id, update_id)),
            outcome,
            stage: stage as i32,
            link,
        }
    }
}

fn update_ref_to(workflow_id: String, run_id: RunId, update_id: String) -> UpdateRef {
    let workflow_execution = Some(WorkflowExecution { workflow_id, run_id: run_id.to_string() });
    UpdateRef { workflow_execution, update_id }
}

/// To the event that says that the update was accepted. One that failed is taken for rejected, as in Temporal: that leaves no event.
fn link(
    namespace: &NamespaceRecord,
    workflow_id: String,
    run_id: RunId,
    request_id: String,
    stage: Stage,
    outcome: Option<&Outcome>,
) -> Option<Link> {
    match (stage, outcome.and_then(|outcome| outcome.value.as_ref())) {
        (Stage::Completed, Some(outcome::Value::Failure(_))) => {
            Some(links::to_workflow(namespace, workflow_id, run_id, "Update rejected"))
        }
        (Stage::Completed | Stage::Accepted, _) => Some(links::to_update(namespace, workflow_id, run_id, request_id)),
        _ => None,
    }
}
