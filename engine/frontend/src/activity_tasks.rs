//! Activity tasks: polls for them, heartbeats, and how they ended, by token or by id.

use std::sync::Arc;

use everlog_config::DynamicConfig;
use everlog_kernel::command::{ActivityRef, Heartbeat, Reply, StartActivityTask};
use everlog_kernel::token::ActivityTaskToken;
use everlog_kernel::transition::TaskKind;
use everlog_kernel::{ActivityExecutionCommand, EntityKind, Rejection, RunCommand, RunId};
use everlog_matching::{Matched, Poll, TaskLease};
use everlog_meta::NamespaceRecord;
use everlog_model::{CallError, QueueId, WorkflowRef};
use everlog_proto::api::common::v1::WorkerVersionStamp;
use everlog_proto::api::deployment::v1::WorkerDeploymentOptions;
use everlog_proto::api::enums::v1::TaskQueueType;
use everlog_proto::api::failure::v1::{Failure, failure};
use everlog_proto::api::workflowservice::v1::{
    PollActivityTaskQueueRequest, PollActivityTaskQueueResponse, RecordActivityTaskHeartbeatByIdRequest,
    RecordActivityTaskHeartbeatByIdResponse, RecordActivityTaskHeartbeatRequest, RecordActivityTaskHeartbeatResponse,
    RespondActivityTaskCanceledByIdRequest, RespondActivityTaskCanceledByIdResponse,
    RespondActivityTaskCanceledRequest, RespondActivityTaskCanceledResponse, RespondActivityTaskCompletedByIdRequest,
    RespondActivityTaskCompletedByIdResponse, RespondActivityTaskCompletedRequest,
    RespondActivityTaskCompletedResponse, RespondActivityTaskFailedByIdRequest, RespondActivityTaskFailedByIdResponse,
    RespondActivityTaskFailedRequest, RespondActivityTaskFailedResponse,
};
use tokio::time::Instant;

use super::call::Call;
use super::deployments::{poll_version, version_of};
use super::errors::{Error, UNAVAILABLE_PAUSE};
use super::execute::unexpected;
use super::polls::{self, PollKind, scaling_decision, scaling_rules, worker_version};
use super::unbuilt::WorkerVersion;
use super::workflow_tasks::as_it_is;
use super::{Frontend, activity_executions, address, validate};

/// Waits for an activity task.
pub(super) async fn poll_activity_task_queue(
    frontend: &Frontend,
    call: Call,
    request: PollActivityTaskQueueRequest,
) -> Result<PollActivityTaskQueueResponse, Error> {
    let namespace = frontend.namespace(&request.namespace)?;
    let config = frontend.config(&request.namespace);
    let queue = request.task_queue.as_ref().map_or("", |queue| &queue.name);
    let until = call.poll_until(config.frontend.poll_wait_of(queue, TaskKind::Activity))?;
    let _poll = frontend.polls.open(namespace.namespace.id, PollKind::Activity, config.frontend.polls_max)?;
    let poll = read_poll(frontend, &namespace, request)?;
    let version = poll.queue.version.as_deref();
    frontend.register_poll(namespace.namespace.id, version, TaskQueueType::Activity, &poll.queue.name).await?;
    loop {
        match frontend.matching.local().poll(poll.clone(), until).await {
            Matched::Nothing => return Ok(PollActivityTaskQueueResponse::default()),
            Matched::Full => return Err(Error::TooManyPolls),
            Matched::Elsewhere => return Err(polls::elsewhere()),
            // Queries go to workflow workers only.
            Matched::Query(lease) => drop(lease),
            Matched::Task(lease) => {
                if let Some(response) = start_task(frontend, &call, &poll, lease).await? {
                    return Ok(response);
                }
            }
        }
        if Instant::now() >= until {
            return Ok(PollActivityTaskQueueResponse::default());
        }
    }
}

#[expect(deprecated, reason = "workers still say so what they are")]
fn read_poll(
    frontend: &Frontend,
    namespace: &NamespaceRecord,
    request: PollActivityTaskQueueRequest,
) -> Result<Poll, Error> {
    let id_bytes_max = frontend.config(namespace.name()).limits.id_bytes_max;
    validate::length(&request.identity, id_bytes_max, "Identity length exceeds limit.")?;
    check_version(&request, &frontend.config(namespace.name()))?;
    let name = validate::task_queue(request.task_queue.as_ref(), id_bytes_max)?.to_owned();
    let version = version_of(request.deployment_options.as_ref()).map(Box::new);
    Ok(Poll {
        queue: QueueId { version, ..QueueId::new(namespace.namespace.id, TaskKind::Activity, name) },
        normal_name: None,
        identity: request.identity,
        tasks_per_second_max: request.task_queue_metadata.and_then(|metadata| metadata.max_tasks_per_second),
        worker_instance_key: request.worker_instance_key,
        version: worker_version(request.worker_version_capabilities, request.deployment_options),
        scaling: scaling_rules(&frontend.config(namespace.name()).frontend),
    })
}

#[expect(deprecated, reason = "old workers are versioned by it")]
fn check_version(request: &PollActivityTaskQueueRequest, config: &DynamicConfig) -> Result<(), Error> {
    let (capabilities, options) = (request.worker_version_capabilities.as_ref(), request.deployment_options.as_ref());
    WorkerVersion::of_poll(capabilities, options).check(request.task_queue.as_ref(), config)
}

/// Starts the task for the worker; `None` if it is not there any more, or cannot be started now and is offered again.
async fn start_task(
    frontend: &Frontend,
    call: &Call,
    poll: &Poll,
    lease: TaskLease,
) -> Result<Option<PollActivityTaskQueueResponse>, Error> {
    let start = StartActivityTask {
        scheduled_event_id: lease.task.key.position.scheduled_event_id,
        attempt: lease.task.attempt,
        key: Some(Box::new(lease.task.key.clone())),
        identity: poll.identity.clone(),
        request_id: uuid::Uuid::new_v4().to_string(),
        sdk: call.sdk.clone(),
        deployment_version: poll_version(poll),
    };
    let (kind, run_id) = (lease.task.entity, lease.task.key.position.run_id);
    let address = as_it_is(frontend, &lease.address);
    match frontend.router.start_activity_task(kind, address, run_id, start).await {
        Ok(mut response) => {
            response.poller_scaling_decision = scaling_decision(lease.scaling);
            lease.done();
            Ok(Some(*response))
        }
        Err(CallError::Rejected(_)) => {
            lease.done();
            Ok(None)
        }
        Err(_) if frontend.router.is_elsewhere(&lease.address) => {
            lease.put_aside();
            Ok(None)
        }
        Err(_) => {
            drop(lease);
            tokio::time::sleep(UNAVAILABLE_PAUSE).await;
            Ok(None)
        }
    }
}

/// An activity that a request names, and where it lives.
struct Target {
    /// A workflow, or an activity that is none's.
    kind: EntityKind,
    address: WorkflowRef,
    run_id: Option<RunId>,
    activity: ActivityRef,
}

impl Target {
    fn by_token(frontend: &Frontend, namespace: &str, task_token: &[u8]) -> Result<Target, Error> {
        let token: ActivityTaskToken = frontend.decode_token(namespace, task_token)?;
        let namespace = frontend.token_namespace(namespace, token.namespace_id)?;
        let address = match token.entity {
            EntityKind::Workflow | EntityKind::Activity => address(&namespace, &token.workflow_id),
            // They have none.
            EntityKind::Schedule | EntityKind::BatchJob => return Err(Rejection::activity_not_found().into()),
        };
        let (kind, run_id) = (token.entity, Some(token.run_id));
        Ok(Target { kind, address, run_id, activity: ActivityRef::Token(token) })
    }

    fn by_id(
        frontend: &Frontend,
        namespace: &str,
        workflow_id: &str,
        run_id: &str,
        activity_id: String,
    ) -> Result<Target, Error> {
        let namespace: Arc<NamespaceRecord> = frontend.namespace(namespace)?;
        if activity_id.is_empty() {
            return Err(Error::invalid("ActivityId is not set on request."));
        }
        let run_id = validate::run_id(run_id, "RunId is not valid UUID.")?;
        // Without a workflow it is an activity of its own.
        let (kind, id) = match workflow_id.is_empty() {
            true => (EntityKind::Activity, &*activity_id),
            false => (EntityKind::Workflow, workflow_id),
        };
        Ok(Target { kind, address: address(&namespace, id), run_id, activity: ActivityRef::Id(activity_id) })
    }

    /// Carries out the command that `command` makes of the activity.
    async fn execute(
        self,
        frontend: &Frontend,
        command: impl FnOnce(ActivityRef) -> RunCommand,
    ) -> Result<Reply, Error> {
        let command = command(self.activity);
        match self.kind {
            EntityKind::Activity => {
                let command = ActivityExecutionCommand::OfWorker(Box::new(command));
                activity_executions::execute(frontend, &self.address, self.run_id, command).await
            }
            _ => frontend.execute(self.address, self.run_id, command).await,
        }
    }

    async fn execute_done(
        self,
        frontend: &Frontend,
        command: impl FnOnce(ActivityRef) -> RunCommand,
    ) -> Result<(), Error> {
        match self.execute(frontend, command).await? {
            Reply::Done => Ok(()),
            reply => Err(unexpected(&reply)),
        }
    }
}

/// The activity is alive. The answer says whether it is to stop.
pub(super) async fn record_activity_task_heartbeat(
    frontend: &Frontend,
    _call: Call,
    request: RecordActivityTaskHeartbeatRequest,
) -> Result<RecordActivityTaskHeartbeatResponse, Error> {
    let target = Target::by_token(frontend, &request.namespace, &request.task_token)?;
    let (details, identity) = (request.details, request.identity);
    let reply =
        target.execute(frontend, |activity| RunCommand::HeartbeatActivity { activity, details, identity }).await?;
    let Heartbeat { cancel_requested, activity_paused, activity_reset } = heartbeat(&reply)?;
    Ok(RecordActivityTaskHeartbeatResponse { cancel_requested, activity_paused, activity_reset })
}

/// The same for an activity that is named by its id.
pub(super) async fn record_activity_task_heartbeat_by_id(
    frontend: &Frontend,
    _call: Call,
    request: RecordActivityTaskHeartbeatByIdRequest,
) -> Result<RecordActivityTaskHeartbeatByIdResponse, Error> {
    let target =
        Target::by_id(frontend, &request.namespace, &request.workflow_id, &request.run_id, request.activity_id)?;
    let (details, identity) = (request.details, request.identity);
    let reply =
        target.execute(frontend, |activity| RunCommand::HeartbeatActivity { activity, details, identity }).await?;
    let Heartbeat { cancel_requested, activity_paused, activity_reset } = heartbeat(&reply)?;
    Ok(RecordActivityTaskHeartbeatByIdResponse { cancel_requested, activity_paused, activity_reset })
}

fn heartbeat(reply: &Reply) -> Result<Heartbeat, Error> {
    match reply {
        Reply::Heartbeat(asked) => Ok(*asked),
        reply => Err(unexpected(reply)),
    }
}

/// The activity has a result.
#[expect(deprecated, reason = "workers still say so of which build they are")]
pub(super) async fn respond_activity_task_completed(
    frontend: &Frontend,
    _call: Call,
    request: RespondActivityTaskCompletedRequest,
) -> Result<RespondActivityTaskCompletedResponse, Error> {
    let target = Target::by_token(frontend, &request.namespace, &request.task_token)?;
    check_identity(frontend, &request.namespace, &request.identity)?;
    let stamp = request.worker_version.as_ref();
    check_worker(frontend, &request.namespace, stamp, request.deployment_options.as_ref())?;
    let (result, identity, worker_version) = (request.result, request.identity, request.worker_version);
    let command = |activity| RunCommand::CompleteActivity { activity, result, identity, worker_version };
    target.execute_done(frontend, command).await?;
    Ok(RespondActivityTaskCompletedResponse::default())
}

/// The same for an activity that is named by its id.
pub(super) async fn respond_activity_task_completed_by_id(
    frontend: &Frontend,
    _call: Call,
    request: RespondActivityTaskCompletedByIdRequest,
) -> Result<RespondActivityTaskCompletedByIdResponse, Error> {
    let target =
        Target::by_id(frontend, &request.namespace, &request.workflow_id, &request.run_id, request.activity_id)?;
    check_identity(frontend, &request.namespace, &request.identity)?;
    let (result, identity) = (request.result, request.identity);
    let command = |activity| RunCommand::CompleteActivity { activity, result, identity, worker_version: None };
    target.execute_done(frontend, command).await?;
    Ok(RespondActivityTaskCompletedByIdResponse::default())
}

/// The activity's attempt has failed.
#[expect(deprecated, reason = "workers still say so of which build they are")]
pub(super) async fn respond_activity_task_failed(
    frontend: &Frontend,
    _call: Call,
    mut request: RespondActivityTaskFailedRequest,
) -> Result<RespondActivityTaskFailedResponse, Error> {
    let target = Target::by_token(frontend, &request.namespace, &request.task_token)?;
    check_failure(request.failure.as_ref())?;
    check_identity(frontend, &request.namespace, &request.identity)?;
    let stamp = request.worker_version.as_ref();
    check_worker(frontend, &request.namespace, stamp, request.deployment_options.as_ref())?;
    let (identity, last_heartbeat_details) = (request.identity, request.last_heartbeat_details);
    validate::cut_causes(&mut request.failure);
    let failure = request.failure.map(Box::new);
    let worker_version = request.worker_version;
    let command =
        |activity| RunCommand::FailActivity { activity, failure, last_heartbeat_details, identity, worker_version };
    target.execute_done(frontend, command).await?;
    Ok(RespondActivityTaskFailedResponse::default())
}

/// The same for an activity that is named by its id.
pub(super) async fn respond_activity_task_failed_by_id(
    frontend: &Frontend,
    _call: Call,
    mut request: RespondActivityTaskFailedByIdRequest,
) -> Result<RespondActivityTaskFailedByIdResponse, Error> {
    let target =
        Target::by_id(frontend, &request.namespace, &request.workflow_id, &request.run_id, request.activity_id)?;
    check_identity(frontend, &request.namespace, &request.identity)?;
    let (identity, last_heartbeat_details) = (request.identity, request.last_heartbeat_details);
    validate::cut_causes(&mut request.failure);
    let failure = request.failure.map(Box::new);
    let command = |activity| RunCommand::FailActivity {
        activity,
        failure,
        last_heartbeat_details,
        identity,
        worker_version: None,
    };
    target.execute_done(frontend, command).await?;
    Ok(RespondActivityTaskFailedByIdResponse::default())
}

/// The activity has stopped because it was asked to.
#[expect(deprecated, reason = "workers still say so of which build they are")]
pub(super) async fn respond_activity_task_canceled(
    frontend: &Frontend,
    _call: Call,
    request: RespondActivityTaskCanceledRequest,
) -> Result<RespondActivityTaskCanceledResponse, Error> {
    let target = Target::by_token(frontend, &request.namespace, &request.task_token)?;
    check_identity(frontend, &request.namespace, &request.identity)?;
    let stamp = request.worker_version.as_ref();
    check_worker(frontend, &request.namespace, stamp, request.deployment_options.as_ref())?;
    let (details, identity, worker_version) = (request.details, request.identity, request.worker_version);
    let command = |activity| RunCommand::CancelActivity { activity, details, identity, worker_version };
    target.execute_done(frontend, command).await?;
    Ok(RespondActivityTaskCanceledResponse::default())
}

/// The same for an activity that is named by its id.
pub(super) async fn respond_activity_task_canceled_by_id(
    frontend: &Frontend,
    _call: Call,
    request: RespondActivityTaskCanceledByIdRequest,
) -> Result<RespondActivityTaskCanceledByIdResponse, Error> {
    let target =
        Target::by_id(frontend, &request.namespace, &request.workflow_id, &request.run_id, request.activity_id)?;
    check_identity(frontend, &request.namespace, &request.identity)?;
    check_worker(frontend, &request.namespace, None, request.deployment_options.as_ref())?;
    let (details, identity) = (request.details, request.identity);
    let command = |activity| RunCommand::CancelActivity { activity, details, identity, worker_version: None };
    target.execute_done(frontend, command).await?;
    Ok(RespondActivityTaskCanceledByIdResponse::default())
}

fn check_worker(
    frontend: &Frontend,
    namespace: &str,
    stamp: Option<&WorkerVersionStamp>,
    options: Option<&WorkerDeploymentOptions>,
) -> Result<(), Error> {
    WorkerVersion::of_answer(stamp, options).check(None, &frontend.config(namespace))
}

fn check_identity(frontend: &Frontend, namespace: &str, identity: &str) -> Result<(), Error> {
    validate::length(identity, frontend.config(namespace).limits.id_bytes_max, "Identity length exceeds limit.")
}

/// Workers report failures of application code; the other kinds are the server's.
fn check_failure(failure: Option<&Failure>) -> Result<(), Error> {
    match failure.map(|failure| &failure.failure_info) {
        None | Some(Some(failure::FailureInfo::ApplicationFailureInfo(_))) => Ok(()),
        Some(_) => Err(Error::invalid("Failure must have ApplicationFailureInfo.")),
    }
}
