//! Workflow tasks: polls for them, and workers' answers to them.

use std::sync::Arc;
use std::time::Duration;

use everlog_config::DynamicConfig;
use everlog_kernel::command::{Objections, StartWorkflowTask};
use everlog_kernel::token::{self, WorkflowTaskToken};
use everlog_kernel::transition::TaskKind;
use everlog_kernel::{RunCommand, RunId};
use everlog_matching::{Matched, Poll, QueryLease, TaskLease};
use everlog_meta::NamespaceRecord;
use everlog_model::{CallError, NamespaceSource, QueueId, WorkflowRef, limits};
use everlog_partition::{StartQuery, StartedWorkflowTask};
use everlog_proto::api::common::v1::WorkerVersionStamp;
use everlog_proto::api::enums::v1::{TaskQueueKind, TaskQueueType};
use everlog_proto::api::workflowservice::v1 as plain;
use everlog_proto::api::workflowservice::v1::{
    PollWorkflowTaskQueueRequest, RespondWorkflowTaskCompletedRequest, RespondWorkflowTaskFailedRequest,
    RespondWorkflowTaskFailedResponse,
};
use everlog_proto::encoded::{PollWorkflowTaskQueueResponse, RespondWorkflowTaskCompletedResponse};
use tokio::time::Instant;

use super::call::Call;
use super::deployments::{poll_version, version_of};
use super::errors::{Error, UNAVAILABLE_PAUSE};
use super::execute::explain;
use super::history_token::HistoryToken;
use super::polls::{self, PollKind, scaling_decision, scaling_rules, worker_version};
use super::unbuilt::{self, WorkerVersion};
use super::{Frontend, address, nexus_endpoints, search_attributes, validate};

/// Waits for a workflow task, or for a query that needs a worker.
pub(super) async fn poll_workflow_task_queue(
    frontend: &Frontend,
    call: Call,
    request: PollWorkflowTaskQueueRequest,
) -> Result<PollWorkflowTaskQueueResponse, Error> {
    let namespace = frontend.namespace(&request.namespace)?;
    let config = frontend.config(&request.namespace);
    let queue = request.task_queue.as_ref().map_or("", |queue| &queue.name);
    let until = call.poll_until(config.frontend.poll_wait_of(queue, TaskKind::Workflow))?;
    let _poll = frontend.polls.open(namespace.namespace.id, PollKind::Workflow, config.frontend.polls_max)?;
    let poll = read_poll(frontend, &namespace, request)?;
    if poll.normal_name.is_none() {
        let version = poll.queue.version.as_deref();
        frontend.register_poll(namespace.namespace.id, version, TaskQueueType::Workflow, &poll.queue.name).await?;
    }
    loop {
        match frontend.matching.local().poll(poll.clone(), until).await {
            Matched::Nothing => return Ok(PollWorkflowTaskQueueResponse::default()),
            Matched::Full => return Err(Error::TooManyPolls),
            Matched::Elsewhere => return Err(polls::elsewhere()),
            Matched::Task(lease) => match start_task(frontend, &poll, lease).await {
                Outcome::Started(response) => return Ok(*response),
                Outcome::Gone => {}
                Outcome::NotNow(pause) => tokio::time::sleep(pause).await,
            },
            Matched::Query(lease) => match start_query(frontend, lease).await {
                Outcome::Started(response) => return Ok(*response),
                Outcome::Gone => {}
                Outcome::NotNow(pause) => tokio::time::sleep(pause).await,
            },
        }
        if Instant::now() >= until {
            return Ok(PollWorkflowTaskQueueResponse::default());
        }
    }
}

#[expect(deprecated, reason = "workers still say so what they are")]
fn read_poll(
    frontend: &Frontend,
    namespace: &NamespaceRecord,
    request: PollWorkflowTaskQueueRequest,
) -> Result<Poll, Error> {
    let id_bytes_max = frontend.config(namespace.name()).limits.id_bytes_max;
    validate::length(&request.identity, id_bytes_max, "Identity length exceeds limit.")?;
    check_version(&request, &frontend.config(namespace.name()))?;
    let name = validate::task_queue(request.task_queue.as_ref(), id_bytes_max)?.to_owned();
    if namespace.bad_binaries.contains_key(&request.binary_checksum) {
        let message = format!("Binary {} already marked as bad deployment.", request.binary_checksum);
        return Err(Error::invalid(message));
    }
    let queue = request.task_queue.unwrap_or_default();
    let is_sticky = queue.kind() == TaskQueueKind::Sticky;
    let version = version_of(request.deployment_options.as_ref()).map(Box::new);
    Ok(Poll {
        queue: QueueId { version, ..QueueId::new(namespace.namespace.id, TaskKind::Workflow, name) },
        normal_name: is_sticky.then_some(queue.normal_name),
        identity: request.identity,
        tasks_per_second_max: None,
        worker_instance_key: request.worker_instance_key,
        version: worker_version(request.worker_version_capabilities, request.deployment_options),
        scaling: scaling_rules(&frontend.config(namespace.name()).frontend),
    })
}

#[expect(deprecated, reason = "old workers are versioned by it")]
fn check_version(request: &PollWorkflowTaskQueueRequest, config: &DynamicConfig) -> Result<(), Error> {
    let (capabilities, options) = (request.worker_version_capabilities.as_ref(), request.deployment_options.as_ref());
    WorkerVersion::of_poll(capabilities, options).check(request.task_queue.as_ref(), config)
}

/// What became of something that matching handed over.
enum Outcome {
    /// It goes to the worker.
    Started(Box<PollWorkflowTaskQueueResponse>),
    /// It is not there any more.
    Gone,
    /// It is offered again; another try makes sense after a pause.
    NotNow(Duration),
}

/// The build of the worker that polls.
fn stamp(poll: &Poll) -> Option<WorkerVersionStamp> {
    let capabilities = poll.version.as_ref()?.capabilities.as_ref()?;
    Some(WorkerVersionStamp { build_id: capabilities.build_id.clone(), use_versioning: capabilities.use_versioning })
}

/// A workflow with what is known of its namespace by now: its task may have waited for long.
pub(super) fn as_it_is(frontend: &Frontend, address: &WorkflowRef) -> WorkflowRef {
    let known = frontend.namespaces.by_id(address.namespace.id);
    WorkflowRef {
        namespace: known.unwrap_or_else(|| Arc::clone(&address.namespace)),
        workflow_id: Arc::clone(&address.workflow_id),
    }
}

async fn start_task(frontend: &Frontend, poll: &Poll, lease: TaskLease) -> Outcome {
    let start = StartWorkflowTask {
        scheduled_event_id: lease.task.key.position.scheduled_event_id,
        attempt: lease.task.attempt,
        task_queue: lease.queue_name.clone(),
        identity: poll.identity.clone(),
        request_id: uuid::Uuid::new_v4().to_string(),
        worker_version: stamp(poll),
        deployment_version: poll_version(poll),
    };
    let (address, run_id) = (as_it_is(frontend, &lease.address), lease.task.key.position.run_id);
    match frontend.router.start_workflow_task(address, run_id, start).await {
        Ok(started) => {
            let (backlog, scaling) = (lease.backlog, lease.scaling);
            lease.done();
            let mut response = with_page_token(started, run_id);
            response.message.backlog_count_hint = i64::try_from(backlog).unwrap_or(i64::MAX);
            response.message.poller_scaling_decision = scaling_decision(scaling);
            Outcome::Started(Box::new(response))
        }
        Err(CallError::Rejected(_)) => {
            lease.done();
            Outcome::Gone
        }
        Err(_) if frontend.router.is_elsewhere(&lease.address) => {
            lease.put_aside();
            Outcome::Gone
        }
        Err(_) => Outcome::NotNow(UNAVAILABLE_PAUSE),
    }
}

async fn start_query(frontend: &Frontend, lease: QueryLease) -> Outcome {
    let start = StartQuery { query_id: lease.query.query_id, task_queue: lease.queue_name.clone() };
    let (address, run_id) = (lease.address.clone(), lease.run_id());
    match frontend.router.start_query(&frontend.queries, address, run_id, start).await {
        Ok(started) => {
            let (query, scaling) = (lease.query.query.clone(), lease.scaling);
            lease.done();
            let mut response = with_page_token(started, run_id);
            response.message.query = Some(query);
            response.message.poller_scaling_decision = scaling_decision(scaling);
            Outcome::Started(Box::new(response))
        }
        Err(CallError::Rejected(_)) => {
            lease.done();
            Outcome::Gone
        }
        Err(_) if frontend.router.is_elsewhere(&lease.address) => {
            // Whoever polls meanwhile gets something else.
            tokio::spawn(async move {
                tokio::time::sleep(limits::QUERY_AGAIN_WAIT).await;
                drop(lease);
            });
            Outcome::Gone
        }
        Err(_) => Outcome::NotNow(UNAVAILABLE_PAUSE),
    }
}

/// A history that does not fit into the response goes on with `GetWorkflowExecutionHistory`.
pub(super) fn with_page_token(started: StartedWorkflowTask, run_id: RunId) -> PollWorkflowTaskQueueResponse {
    let StartedWorkflowTask { mut response, next_page_from, history_to } = started;
    if let Some(from) = next_page_from {
        response.message.next_page_token = HistoryToken::for_task(run_id, from, history_to).encode();
    }
    response
}

/// Takes a worker's commands; hands out the next workflow task of the run if there is one and the worker wants it, and the activities
/// that it wants of those that it has scheduled.
pub(super) async fn respond_workflow_task_completed(
    frontend: &Frontend,
    _call: Call,
    mut request: RespondWorkflowTaskCompletedRequest,
) -> Result<RespondWorkflowTaskCompletedResponse, Error> {
    let (namespace, token) = read_token(frontend, &request.namespace, &request.task_token)?;
    let config = frontend.config(namespace.name());
    validate::length(&request.identity, config.limits.id_bytes_max, "Identity length exceeds limit.")?;
    check_answer(&request, &config)?;
    unbuilt::completion(&request)?;
    validate::cut_causes_of_task(&mut request);
    let objections = Objections {
        #[expect(deprecated, reason = "old workers are known by it")]
        bad_binary: namespace.bad_binaries.contains_key(&request.binary_checksum),
        search_attributes: search_attributes::prepare_commands(&mut request.commands, &namespace, &config),
        nexus_endpoints: nexus_endpoints::named_by(&request.commands, &frontend.namespaces),
    };
    let (address, run_id) = (address(&namespace, &token.workflow_id), token.run_id);
    let command = RunCommand::CompleteWorkflowTask(token, Box::new(request), objections);
    let completed = frontend
        .router
        .partition_of(&address)?
        .complete_workflow_task(address.clone(), run_id, command)
        .await
        .map_err(|error| explain(error, &address, Some(run_id)))?;
    Ok(RespondWorkflowTaskCompletedResponse {
        workflow_task: completed.next.map(|started| with_page_token(started, run_id)),
        message: plain::RespondWorkflowTaskCompletedResponse {
            activity_tasks: completed.activities,
            reset_history_event_id: completed.reset_history_event_id.unwrap_or_default(),
            ..plain::RespondWorkflowTaskCompletedResponse::default()
        },
    })
}

#[expect(deprecated, reason = "old workers are versioned by it")]
fn check_answer(request: &RespondWorkflowTaskCompletedRequest, config: &DynamicConfig) -> Result<(), Error> {
    let (stamp, options) = (request.worker_version_stamp.as_ref(), request.deployment_options.as_ref());
    let sticky = request.sticky_attributes.as_ref().and_then(|sticky| sticky.worker_task_queue.as_ref());
    WorkerVersion::of_answer(stamp, options).check(sticky, config)
}

/// A worker could not do a workflow task.
pub(super) async fn respond_workflow_task_failed(
    frontend: &Frontend,
    _call: Call,
    mut request: RespondWorkflowTaskFailedRequest,
) -> Result<RespondWorkflowTaskFailedResponse, Error> {
    let (namespace, token) = read_token(frontend, &request.namespace, &request.task_token)?;
    let config = frontend.config(namespace.name());
    validate::length(&request.identity, config.limits.id_bytes_max, "Identity length exceeds limit.")?;
    #[expect(deprecated, reason = "old workers are versioned by it")]
    let stamp = request.worker_version.as_ref();
    WorkerVersion::of_answer(stamp, request.deployment_options.as_ref()).check(None, &config)?;
    validate::cut_causes(&mut request.failure);
    let (address, run_id) = (address(&namespace, &token.workflow_id), token.run_id);
    let command = RunCommand::FailWorkflowTask(token, Box::new(request));
    frontend.execute_done(address, Some(run_id), command).await?;
    Ok(RespondWorkflowTaskFailedResponse::default())
}

fn read_token(
    frontend: &Frontend,
    namespace: &str,
    task_token: &[u8],
) -> Result<(Arc<NamespaceRecord>, WorkflowTaskToken), Error> {
    let token: WorkflowTaskToken = frontend.decode_token(namespace, task_token)?;
    Ok((frontend.token_namespace(namespace, token.namespace_id)?, token))
}

impl Frontend {
    /// Reads a task token. A namespace that the request names must exist before its token is looked at.
    pub(super) fn decode_token<T: serde::de::DeserializeOwned>(
        &self,
        namespace: &str,
        task_token: &[u8],
    ) -> Result<T, Error> {
        if !namespace.is_empty() {
            self.namespace(namespace)?;
        }
        if task_token.is_empty() {
            return Err(Error::invalid("Task token not set on request."));
        }
        token::decode(task_token).ok_or_else(|| Error::invalid("Error deserializing task token."))
    }
}
