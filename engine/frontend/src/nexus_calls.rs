//! Makes the calls to Nexus services that runs ask for whose partitions are led here, and tells the runs what was said.
//!
//! ```text
//!   run ──NexusCall──▶ endpoint ──▶ the home of its task queue ──▶ worker
//!   run ◀──SettleNexusCall──────────────── answer ◀─────────────────┘
//! ```
//!
//! Nothing here is durable: a call that is lost with its node is asked for again by its run.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use everlog_kernel::RunCommand;
use everlog_kernel::nexus::{NexusAnswer, NexusCall, NexusEnd, NexusOutcome, NexusRequest, call_failure, null};
use everlog_kernel::outbox::{CallbackToken, SYSTEM_CALLBACK, TOKEN_HEADER};
use everlog_matching::nexus::{NexusQueue, NexusReply, NotAnswered};
use everlog_meta::{EndpointId, EndpointTarget, NexusEndpoint};
use everlog_model::{CallError, WorkflowRef, limits};
use everlog_partition::Route;
use everlog_proto::api::common::v1::link::workflow_event::{EventReference, Reference};
use everlog_proto::api::common::v1::{Link, link};
use everlog_proto::api::enums::v1::EventType;
use everlog_proto::api::failure::v1::Failure;
use everlog_proto::api::failure::v1::failure::FailureInfo;
use everlog_proto::api::nexus::v1::{
    CancelOperationRequest, Request, Response, StartOperationRequest, request, response, start_operation_response,
};
use everlog_proto::wkt;
use prost::Message;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::nexus_failures::{from_handler_error, from_nexus, handler_failure, is_retryable, travelled};
use super::{Services, check_not_deleted, nexus_links};

/// The header that names an operation, in lower case.
const REQUEST_ID: &str = "nexus-request-id";

/// The header that tells a service how long an operation may take, in lower case.
const OPERATION_TIMEOUT: &str = "operation-timeout";

/// What is kept back of the time of a call, so that its end is still told as the service's.
const DISPATCH_RESERVE: Duration = Duration::from_secs(1);

/// How often the answer to a call is told a run that cannot be reached, with a pause in between: until the run asks anew in any case.
const TELL_TRIES: u32 = 20;
const TELL_AGAIN_WAIT: Duration = Duration::from_millis(500);

/// Makes whatever calls are asked for here, until it is aborted.
pub(super) async fn make_calls(services: Services) {
    let places = Arc::new(Semaphore::new(limits::NEXUS_CALLS_MAX));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let (address, call) = services.nexus_calls.next().await;
        let services = services.clone();
        tokio::spawn(async move {
            let outcome = make(&services, &address, &call).await;
            drop(place);
            tell(&services, address, &call, outcome).await;
        });
    }
}

/// Tells the run what became of a call. One that is gone, or does not wait for it any more, need not hear of it.
async fn tell(services: &Services, address: WorkflowRef, call: &NexusCall, outcome: NexusOutcome) {
    let NexusCall { run_id, scheduled_event_id, attempt, .. } = *call;
    let answer = NexusAnswer { scheduled_event_id, attempt, outcome };
    for _ in 0..TELL_TRIES {
        let command = RunCommand::SettleNexusCall(Box::new(answer.clone()));
        match services.router.execute(address.clone(), Some(run_id), command).await {
            Ok(_) | Err(CallError::Rejected(_)) => return,
            // The next lead has it called again.
            Err(_) if services.router.is_elsewhere(&address) => return,
            Err(error) => tracing::debug!(%error, "the answer of a Nexus service has to be told again"),
        }
        tokio::time::sleep(TELL_AGAIN_WAIT).await;
    }
}

/// Makes a call.
async fn make(services: &Services, address: &WorkflowRef, call: &NexusCall) -> NexusOutcome {
    let answered = async {
        let queue = queue_of(services, endpoint(services, call).as_deref())?;
        let time = call.time_max.saturating_sub(DISPATCH_RESERVE);
        dispatch(services, queue, request_of(address, call), time).await
    };
    match (answered.await, &call.request) {
        (Ok(response), NexusRequest::Start { .. }) => started(services, address, response),
        (Ok(_), NexusRequest::Cancel { .. }) => NexusOutcome::CancelTaken,
        (Err(failure), request) => {
            let is_retryable = is_retryable(&failure);
            match request {
                NexusRequest::Start { .. } => NexusOutcome::NotStarted { failure, is_retryable },
                NexusRequest::Cancel { .. } => NexusOutcome::CancelNotTaken { failure, is_retryable },
            }
        }
    }
}

/// The endpoint that a run means: the one that had the name when the operation was scheduled, or else the one that has it now.
fn endpoint(services: &Services, call: &NexusCall) -> Option<Arc<NexusEndpoint>> {
    let by_id = call.endpoint_id.parse().ok().and_then(|id| services.namespaces.nexus_endpoint(EndpointId(id)));
    by_id.or_else(|| services.namespaces.nexus_endpoint_named(&call.endpoint))
}

/// The queue of the workers to which an endpoint leads.
fn queue_of(services: &Services, endpoint: Option<&NexusEndpoint>) -> Result<NexusQueue, Box<Failure>> {
    let endpoint = endpoint.ok_or_else(|| Box::new(handler_failure("NOT_FOUND", "endpoint not registered")))?;
    let EndpointTarget::Worker { namespace_id, task_queue } = &endpoint.spec.target else {
        let message = "endpoints with a URL cannot be called by this server yet".to_owned();
        return Err(Box::new(handler_failure("NOT_IMPLEMENTED", message)));
    };
    let namespace = services.namespaces.record_by_id(*namespace_id);
    if namespace.is_none_or(|record| check_not_deleted(record).is_err()) {
        return Err(Box::new(handler_failure("NOT_FOUND", format!("namespace not found: \"{namespace_id}\""))));
    }
    Ok(NexusQueue { namespace_id: *namespace_id, name: task_queue.clone() })
}

/// Has a worker answer a request, wherever its queue is at home.
async fn dispatch(
    services: &Services,
    queue: NexusQueue,
    request: Request,
    time: Duration,
) -> Result<Response, Box<Failure>> {
    let answer = match (services.router.queue(&queue.home()), &services.nodes) {
        (Route::There(node), Some(nodes)) => nodes.dispatch_nexus(node, &queue, request, time).await,
        (Route::Nowhere, Some(_)) => Err(CallError::Unavailable("nobody has the queue at the moment".to_owned())),
        _ => Ok(services.matching.local().nexus().dispatch(queue, request, Instant::now() + time).await),
    };
    let failure = match answer {
        Ok(Ok(NexusReply::Response(response))) => return Ok(*response),
        Ok(Ok(NexusReply::Failure(failure))) => travelled(*failure),
        Ok(Ok(NexusReply::HandlerError(error))) => from_handler_error(*error),
        Ok(Err(NotAnswered::TimedOut)) => handler_failure("UPSTREAM_TIMEOUT", "upstream timeout"),
        Ok(Err(NotAnswered::Full)) => handler_failure("RESOURCE_EXHAUSTED", "too many requests wait for workers"),
        Err(error) => handler_failure("UNAVAILABLE", error.to_string()),
    };
    Err(Box::new(failure))
}

/// The request as a worker gets it.
fn request_of(address: &WorkflowRef, call: &NexusCall) -> Request {
    let mut header = call.header.clone();
    let is_start = matches!(call.request, NexusRequest::Start { .. });
    if is_start {
        header.insert(REQUEST_ID.to_owned(), call.request_id.clone());
    }
    if let Some(time) = call.operation_time_max {
        header.entry(OPERATION_TIMEOUT.to_owned()).or_insert_with(|| format!("{}ms", time.as_millis()));
    }
    let variant = match &call.request {
        NexusRequest::Start { input } => request::Variant::StartOperation(start(address, call, input.clone())),
        NexusRequest::Cancel { operation_token } => request::Variant::CancelOperation(cancel(call, operation_token)),
    };
    Request {
        header,
        scheduled_time: Some(wkt::Timestamp::from(SystemTime::now())),
        // A service that was asked to cancel says failures in the old way.
        capabilities: Some(request::Capabilities { temporal_failure_responses: is_start }),
        endpoint: call.endpoint.clone(),
        variant: Some(variant),
    }
}

fn start(
    address: &WorkflowRef,
    call: &NexusCall,
    payload: Option<everlog_proto::api::common::v1::Payload>,
) -> StartOperationRequest {
    let token = CallbackToken {
        namespace_id: address.namespace.id,
        workflow_id: address.workflow_id.to_string(),
        run_id: call.run_id,
        scheduled_event_id: call.scheduled_event_id,
        request_id: call.request_id.clone(),
    };
    StartOperationRequest {
        service: call.service.clone(),
        operation: call.operation.clone(),
        request_id: call.request_id.clone(),
        callback: SYSTEM_CALLBACK.to_owned(),
        payload: Some(payload.unwrap_or_else(null)),
        callback_header: [(TOKEN_HEADER.to_owned(), token.encode())].into(),
        links: nexus_links::to_nexus(&scheduled_link(address, call)).into_iter().collect(),
    }
}

#[expect(deprecated, reason = "old workers read the token there")]
fn cancel(call: &NexusCall, operation_token: &str) -> CancelOperationRequest {
    CancelOperationRequest {
        service: call.service.clone(),
        operation: call.operation.clone(),
        operation_id: operation_token.to_owned(),
        operation_token: operation_token.to_owned(),
    }
}

/// To the event with which the run has asked for the operation.
fn scheduled_link(address: &WorkflowRef, call: &NexusCall) -> Link {
    let event_type = EventType::NexusOperationScheduled as i32;
    let reference = EventReference { event_id: call.scheduled_event_id, event_type };
    let to = link::WorkflowEvent {
        namespace: address.namespace.name.clone(),
        workflow_id: address.workflow_id.to_string(),
        run_id: call.run_id.to_string(),
        reference: Some(Reference::EventRef(reference)),
    };
    Link { variant: Some(link::Variant::WorkflowEvent(to)) }
}

/// What a service has answered to the request to start an operation.
#[expect(deprecated, reason = "old workers send some of it")]
fn started(services: &Services, address: &WorkflowRef, response: Response) -> NexusOutcome {
    use start_operation_response::Variant;
    let variant = match response.variant {
        Some(response::Variant::StartOperation(start)) => start.variant,
        _ => None,
    };
    let not_started = |failure: Failure| NexusOutcome::NotStarted {
        is_retryable: is_retryable(&failure),
        failure: Box::new(failure),
    };
    let bytes_max = services.config.of(&address.namespace.name).limits.blob_bytes_max;
    let is_too_large = |bytes: usize| bytes > bytes_max;
    let too_large = || NexusOutcome::NotStarted {
        failure: Box::new(call_failure("http: response body too large".to_owned(), false)),
        is_retryable: false,
    };
    let without_links = |end| NexusOutcome::Ended { end, links: Vec::new() };
    match variant {
        Some(Variant::SyncSuccess(done)) if is_too_large(done.payload.as_ref().map_or(0, Message::encoded_len)) => {
            too_large()
        }
        Some(Variant::SyncSuccess(done)) => NexusOutcome::Ended {
            end: NexusEnd::Completed(Some(done.payload.unwrap_or_else(null))),
            links: nexus_links::from_nexus(done.links),
        },
        Some(Variant::AsyncSuccess(goes_on)) => NexusOutcome::Started {
            operation_token: if goes_on.operation_token.is_empty() {
                goes_on.operation_id
            } else {
                goes_on.operation_token
            },
            links: nexus_links::from_nexus(goes_on.links),
        },
        Some(Variant::OperationError(error)) => {
            let failure = Box::new(from_nexus(error.failure.unwrap_or_default()));
            match error.operation_state.as_str() {
                "canceled" => without_links(NexusEnd::Canceled(failure)),
                _ => without_links(NexusEnd::Failed(failure)),
            }
        }
        Some(Variant::Failure(failure)) if is_too_large(failure.encoded_len()) => too_large(),
        Some(Variant::Failure(failure)) => {
            let is_canceled = matches!(failure.failure_info, Some(FailureInfo::CanceledFailureInfo(_)));
            let failure = Box::new(failure);
            without_links(if is_canceled { NexusEnd::Canceled(failure) } else { NexusEnd::Failed(failure) })
        }
        None => not_started(handler_failure("INTERNAL", "empty outcome")),
    }
}
