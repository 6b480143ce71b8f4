//! The worker's side of Nexus: polls for requests to services, and the answers of workers.

use everlog_kernel::token::{self, NexusTaskToken};
use everlog_matching::nexus::{NexusMatched, NexusPoll, NexusQueue, NexusReply, NexusTask};
use everlog_proto::api::enums::v1::TaskQueueType;
use everlog_proto::api::failure::v1::failure::FailureInfo;
use everlog_proto::api::nexus::v1::{HandlerError, Response, response, start_operation_response};
use everlog_proto::api::workflowservice::v1::{
    PollNexusTaskQueueRequest, PollNexusTaskQueueResponse, RespondNexusTaskCompletedRequest,
    RespondNexusTaskCompletedResponse, RespondNexusTaskFailedRequest, RespondNexusTaskFailedResponse,
};
use tokio::time::Instant;

use super::call::Call;
use super::deployments::version_of;
use super::errors::Error;
use super::polls::{self, PollKind, scaling_decision, scaling_rules, worker_version};
use super::unbuilt::WorkerVersion;
use super::{Frontend, validate};

/// The longest token that a service may give an operation, bytes.
pub(super) const OPERATION_TOKEN_BYTES_MAX: usize = 4096;

/// Waits for a request to a service.
pub(super) async fn poll_nexus_task_queue(
    frontend: &Frontend,
    call: Call,
    request: PollNexusTaskQueueRequest,
) -> Result<PollNexusTaskQueueResponse, Error> {
    let namespace = frontend.namespace(&request.namespace)?;
    let namespace_id = namespace.namespace.id;
    let config = frontend.config(&request.namespace);
    let until = call.poll_until(config.frontend.poll_wait_max)?;
    #[expect(deprecated, reason = "old workers are versioned by it")]
    let capabilities = request.worker_version_capabilities.as_ref();
    let version = WorkerVersion::of_poll(capabilities, request.deployment_options.as_ref());
    version.check(request.task_queue.as_ref(), &config)?;
    let id_bytes_max = config.limits.id_bytes_max;
    let name = validate::task_queue(request.task_queue.as_ref(), id_bytes_max)?.to_owned();
    validate::length(&request.identity, id_bytes_max, "Identity length exceeds limit.")?;
    let _poll = frontend.polls.open(namespace_id, PollKind::Nexus, config.frontend.polls_max)?;
    let of = version_of(request.deployment_options.as_ref());
    frontend.register_poll(namespace_id, of.as_ref(), TaskQueueType::Nexus, &name).await?;
    #[expect(deprecated, reason = "old workers say so what they are")]
    let version = worker_version(request.worker_version_capabilities, request.deployment_options);
    let queue = NexusQueue { namespace_id, name };
    let poll = NexusPoll {
        queue: queue.clone(),
        identity: request.identity,
        worker_instance_key: request.worker_instance_key.clone(),
        version,
        scaling: scaling_rules(&config.frontend),
    };
    let matching = frontend.matching.local();
    let matched = tokio::select! {
        matched = matching.nexus().poll(poll, until) => matched,
        () = matching.until_shut_down(&request.worker_instance_key) => NexusMatched::Nothing,
    };
    match matched {
        NexusMatched::Task(task, hint) => {
            let response = handed_out(queue, *task);
            Ok(PollNexusTaskQueueResponse { poller_scaling_decision: scaling_decision(hint), ..response })
        }
        NexusMatched::Nothing => Ok(PollNexusTaskQueueResponse::default()),
        NexusMatched::Full => Err(Error::TooManyPolls),
        NexusMatched::Elsewhere => Err(polls::elsewhere()),
    }
}

/// A request as a worker gets it: with how long there is to answer it.
fn handed_out(queue: NexusQueue, task: NexusTask) -> PollNexusTaskQueueResponse {
    let NexusTask { id, mut request, deadline } = task;
    let left = deadline.saturating_duration_since(Instant::now());
    // In both ways: SDKs look for either.
    for name in ["request-timeout", "Request-Timeout"] {
        request.header.insert(name.to_owned(), format!("{}ms", left.as_millis()));
    }
    let token = NexusTaskToken { namespace_id: queue.namespace_id, task_queue: queue.name, id };
    PollNexusTaskQueueResponse {
        task_token: token::encode(&token),
        request: Some(request),
        ..PollNexusTaskQueueResponse::default()
    }
}

/// A worker has the answer of a service.
pub(super) async fn respond_nexus_task_completed(
    frontend: &Frontend,
    _call: Call,
    request: RespondNexusTaskCompletedRequest,
) -> Result<RespondNexusTaskCompletedResponse, Error> {
    check_token_length(request.response.as_ref())?;
    let token = read_token(frontend, &request.namespace, &request.task_token)?;
    if let Some(error) = operation_error(request.response.as_ref()) {
        check_details(error.failure.as_ref().map(|failure| &*failure.details))?;
    }
    let response = request.response.unwrap_or_default();
    answer(frontend, &token, NexusReply::Response(Box::new(response)))?;
    Ok(RespondNexusTaskCompletedResponse::default())
}

/// A worker could not have a service answer.
#[expect(deprecated, reason = "old workers send `error`")]
pub(super) async fn respond_nexus_task_failed(
    frontend: &Frontend,
    _call: Call,
    mut request: RespondNexusTaskFailedRequest,
) -> Result<RespondNexusTaskFailedResponse, Error> {
    let token = read_token(frontend, &request.namespace, &request.task_token)?;
    if request.error.is_none() && request.failure.is_none() {
        return Err(Error::invalid("request must contain error or failure"));
    }
    if let Some(HandlerError { failure: Some(failure), .. }) = &request.error {
        check_details(Some(&failure.details))?;
    }
    validate::cut_causes(&mut request.failure);
    let is_of_handler = |failure: &everlog_proto::api::failure::v1::Failure| {
        matches!(failure.failure_info, Some(FailureInfo::NexusHandlerFailureInfo(_)))
    };
    if request.failure.as_ref().is_some_and(|failure| !is_of_handler(failure)) {
        return Err(Error::invalid("request Failure must contain error or failure with NexusHandlerFailureInfo"));
    }
    let reply = match (request.error, request.failure) {
        (Some(error), _) => NexusReply::HandlerError(Box::new(error)),
        (None, failure) => NexusReply::Failure(Box::new(failure.unwrap_or_default())),
    };
    answer(frontend, &token, reply)?;
    Ok(RespondNexusTaskFailedResponse::default())
}

fn read_token(frontend: &Frontend, namespace: &str, task_token: &[u8]) -> Result<NexusTaskToken, Error> {
    let token: NexusTaskToken = frontend.decode_token(namespace, task_token)?;
    frontend.token_namespace(namespace, token.namespace_id)?;
    Ok(token)
}

fn answer(frontend: &Frontend, token: &NexusTaskToken, reply: NexusReply) -> Result<(), Error> {
    if frontend.matching.local().nexus().answer(token.id, reply) {
        Ok(())
    } else {
        Err(Error::not_found("Nexus task not found or already expired"))
    }
}

fn start_variant(response: Option<&Response>) -> Option<&start_operation_response::Variant> {
    match response?.variant.as_ref()? {
        response::Variant::StartOperation(start) => start.variant.as_ref(),
        response::Variant::CancelOperation(_) => None,
    }
}

#[expect(deprecated, reason = "old workers send it")]
fn operation_error(response: Option<&Response>) -> Option<&everlog_proto::api::nexus::v1::UnsuccessfulOperationError> {
    match start_variant(response)? {
        start_operation_response::Variant::OperationError(error) => Some(error),
        _ => None,
    }
}

#[expect(deprecated, reason = "old workers send the token there")]
fn check_token_length(response: Option<&Response>) -> Result<(), Error> {
    let Some(start_operation_response::Variant::AsyncSuccess(started)) = start_variant(response) else {
        return Ok(());
    };
    let token = if started.operation_token.is_empty() { &started.operation_id } else { &started.operation_token };
    if token.is_empty() {
        // As Temporal spells it.
        return Err(Error::invalid("missing opration token in response"));
    }
    if token.len() > OPERATION_TOKEN_BYTES_MAX {
        return Err(Error::invalid(format!(
            "operation token length exceeds allowed limit ({}/{OPERATION_TOKEN_BYTES_MAX})",
            token.len()
        )));
    }
    Ok(())
}

fn check_details(details: Option<&[u8]>) -> Result<(), Error> {
    let is_json = |details: &[u8]| serde_json::from_slice::<serde::de::IgnoredAny>(details).is_ok();
    match details {
        Some(details) if !details.is_empty() && !is_json(details) => {
            Err(Error::invalid("failure details must be JSON serializable"))
        }
        _ => Ok(()),
    }
}
