//! What stands in front of every method: the way to its service, metrics, a trace line, and the texts of errors that tonic gives
//! itself.
//!
//! SDKs tell a server that lacks a method from one that is broken by the text of UNIMPLEMENTED, and a request that is too large
//! from a bad one by code and text; both are grpc-go's here.

use std::convert::Infallible;
use std::future::ready;
use std::pin::Pin;
use std::sync::{Arc, LazyLock, OnceLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use everlog_cluster::NOT_DONE;
use everlog_model::FastMap;
use everlog_proto::operator_service::operator_service_server;
use everlog_proto::workflow_service::{WorkflowServiceServer, workflow_service_server};
use http::{HeaderMap, HeaderValue, Request, Response, Uri};
use metrics::{Counter, Histogram};
use percent_encoding::percent_decode;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, Service};

use super::call::parse_timeout;
use super::errors::{Error, cut};
use super::forward::Forward;
use super::protocol;
use super::request_body::{self, Budget, Frames};
use super::response_body;
use super::services::{WorkflowApi, served};

/// The text of the generated stubs of methods that are not implemented.
const STUB_TEXT: &str = "Not yet implemented";

/// What a caller is told that has given up before it was listened to.
const DEADLINE_TEXT: &str = "context deadline exceeded";

/// How tonic begins when a request is larger than allowed.
const TOO_LARGE_TEXT: &str = "Error, decoded message length too large";

/// How tonic begins when a compressed request is larger than allowed once it is decompressed.
const TOO_LARGE_DECOMPRESSED_TEXT: &str = "Error decompressing: size limit";

/// How tonic begins when a request cannot be decompressed, for whatever other reason.
const DECOMPRESSION_TEXT: &str = "Error decompressing: ";

/// How tonic begins when a request says of itself that it is compressed, and not how.
const NO_ENCODING_TEXT: &str = "protocol error: received message with compressed-flag but no grpc-encoding";

/// How tonic begins when it is neither compressed nor not, with the flag behind it.
const FLAG_TEXT: &str = "protocol error: received message with invalid compression flag: ";

/// How tonic begins when a request is compressed in a way that is not known here, with the name of that in backquotes behind it.
const ENCODING_TEXT: &str = "Content is compressed with `";

/// How prost begins when the bytes of a request are no message of its kind.
const UNDECODABLE_TEXT: &str = "failed to decode Protobuf message:";

/// How it ends when a string is not UTF-8.
const NOT_UTF8_TEXT: &str = "data is not UTF-8 encoded";

/// How the text of prost ends when messages are nested too deeply in a request.
const TOO_DEEP_TEXT: &str = "recursion limit reached";

/// What is told then.
const TOO_DEEP_MESSAGE: &str =
    "messages in the request are nested more than 100 deep: causes of a failure, for example";

/// What metrics call the methods that are not served: their names are the caller's, and any number of them.
const OTHER_OPERATION: &str = "other";

/// The services that every server has.
const SERVICES: [&str; 6] = [
    workflow_service_server::SERVICE_NAME,
    operator_service_server::SERVICE_NAME,
    everlog_proto::cluster::SERVICE_NAME,
    tonic_health::pb::health_server::SERVICE_NAME,
    tonic_reflection::pb::v1::server_reflection_server::SERVICE_NAME,
    tonic_reflection::pb::v1alpha::server_reflection_server::SERVICE_NAME,
];

/// Longest part of a path that is repeated in a message, bytes.
const NAME_BYTES_MAX: usize = 200;

/// Puts [`Observed`] in front of the other services.
#[derive(Clone)]
pub(super) struct ObserveLayer {
    /// The workflow service, which is not among those that are routed: finding the way through a router costs a tenth of a call.
    pub(super) workflow: WorkflowServiceServer<WorkflowApi>,
    /// What the requests of both services may take.
    pub(super) budget: Arc<Budget>,
    /// Knows which calls are for other nodes, if there are any.
    pub(super) forward: Option<Arc<Forward>>,
}

impl<S> Layer<S> for ObserveLayer {
    type Service = Observed<S>;

    fn layer(&self, others: S) -> Observed<S> {
        Observed {
            workflow: self.workflow.clone(),
            budget: Arc::clone(&self.budget),
            forward: self.forward.clone(),
            others,
        }
    }
}

/// The services, whose calls are counted, and whose errors speak as clients expect.
#[derive(Clone)]
pub(super) struct Observed<S> {
    workflow: WorkflowServiceServer<WorkflowApi>,
    budget: Arc<Budget>,
    forward: Option<Arc<Forward>>,
    others: S,
}

impl<S> Service<Request<Body>> for Observed<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // The workflow service is always ready.
        self.others.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let uri = request.uri().clone();
        if let Some(refusal) = protocol::refusal(&request) {
            return Box::pin(observe(Timed::new(OTHER_OPERATION), uri, ready(Ok(refusal))));
        }
        let budget = Arc::clone(&self.budget);
        if let Some(method) = method_of(uri.path(), workflow_service_server::SERVICE_NAME) {
            let (timed, forward) = (Timed::new(method), self.forward.clone());
            let method = timed.operation.name;
            Box::pin(observe(timed, uri, call(budget, forward, method, request, self.workflow.clone())))
        } else if let Some(method) = method_of(uri.path(), operator_service_server::SERVICE_NAME) {
            let (timed, forward) = (Timed::new(method), self.forward.clone());
            let method = timed.operation.name;
            Box::pin(observe(timed, uri, call(budget, forward, method, request, self.others.clone())))
        } else {
            // Health, reflection and the cluster service take small requests only, and reflection a stream of them.
            Box::pin(observe(Timed::new(OTHER_OPERATION), uri, self.others.call(request)))
        }
    }
}

/// The method that a path names, if it is one of `service`.
pub(super) fn method_of<'a>(path: &'a str, service: &str) -> Option<&'a str> {
    path.strip_prefix('/')?.strip_prefix(service)?.strip_prefix('/')
}

/// Calls a service, which is always ready, or the node that the call is for, once the body of the request is there. Its share of the
/// budget is held until the answer.
pub(super) async fn call<S>(
    budget: Arc<Budget>,
    forward: Option<Arc<Forward>>,
    method: &'static str,
    request: Request<Body>,
    mut service: S,
) -> Result<Response<Body>, Infallible>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    let answer = async |request: Request<Frames>| match forward {
        // Boxed: a call of a cluster of one node has no room for it.
        Some(forward) => Box::pin(forward.answer(method, request, service)).await,
        None => match service.call(request.map(Body::new)).await {
            Ok(response) => response,
            Err(never) => match never {},
        },
    };
    Ok(bounded(&budget, method, request, answer, Status::into_http).await)
}

/// Answers a call once the body of its request is there, within the bounds of `budget`. `no_place` is what is told when as many calls are
/// answered as may be.
pub(super) async fn bounded(
    budget: &Arc<Budget>,
    method: &str,
    request: Request<Body>,
    answer: impl AsyncFnOnce(Request<Frames>) -> Response<Body>,
    no_place: impl FnOnce(Status) -> Response<Body>,
) -> Response<Body> {
    let arrived = Instant::now();
    let (request, _held) = match request_body::read(budget, request).await {
        Ok(read) => read,
        Err(status) => return status.into_http(),
    };
    if is_over(request.headers(), arrived.elapsed()) {
        return Status::from(Error::DeadlineExceeded(DEADLINE_TEXT)).into_http();
    }
    let takes_gzip = response_body::takes_gzip(request.headers());
    // Not before: a request that does not arrive has what it takes of the bytes' budget, and keeps nobody out.
    let _place = match budget.begin(method) {
        Ok(place) => place,
        Err(status) => return no_place(status),
    };
    let response = budget.answers.hold(answer(request).await).await;
    if !takes_gzip {
        return response;
    }
    budget.answers.hold(response_body::compress(response).await).await
}

/// Whether the caller has given up, `waited` after its call has arrived.
fn is_over(headers: &HeaderMap, waited: Duration) -> bool {
    let timeout = headers.get("grpc-timeout").and_then(|timeout| parse_timeout(timeout.to_str().ok()?));
    timeout.is_some_and(|timeout| timeout <= waited)
}

async fn observe(
    mut timed: Timed,
    uri: Uri,
    answer: impl Future<Output = Result<Response<Body>, Infallible>>,
) -> Result<Response<Body>, Infallible> {
    let mut response = answer.await?;
    let code = correct(&mut response, uri.path());
    timed.end(code);
    Ok(response)
}

/// What is counted of an operation. To look metrics up by their labels costs more than to count.
struct Operation {
    name: &'static str,
    answered: Counter,
    seconds: Histogram,
}

impl Operation {
    fn new(name: &'static str) -> Operation {
        Operation {
            name,
            answered: requests_total(name, Code::Ok),
            seconds: metrics::histogram!("everlog_request_seconds", "operation" => name),
        }
    }
}

/// The operations by name; what was never called is not shown.
static OPERATIONS: LazyLock<FastMap<&'static str, OnceLock<Operation>>> =
    LazyLock::new(|| served().chain([OTHER_OPERATION]).map(|name| (name, OnceLock::new())).collect());

fn requests_total(operation: &'static str, code: Code) -> Counter {
    metrics::counter!("everlog_requests_total", "operation" => operation, "code" => code_name(code))
}

/// A call that is being counted. Dropped without an end, the caller has gone away.
struct Timed {
    operation: &'static Operation,
    started: Instant,
    ended: bool,
}

impl Timed {
    fn new(method: &str) -> Timed {
        let (name, operation) =
            OPERATIONS.get_key_value(method).unwrap_or_else(|| (&OTHER_OPERATION, &OPERATIONS[OTHER_OPERATION]));
        let operation = operation.get_or_init(|| Operation::new(name));
        Timed { operation, started: Instant::now(), ended: false }
    }

    fn end(&mut self, code: Code) {
        self.ended = true;
        let elapsed = self.started.elapsed();
        match code {
            Code::Ok => self.operation.answered.increment(1),
            code => requests_total(self.operation.name, code).increment(1),
        }
        self.operation.seconds.record(elapsed.as_secs_f64());
        tracing::debug!(operation = self.operation.name, ?code, ?elapsed, "request");
    }
}

impl Drop for Timed {
    fn drop(&mut self) {
        if !self.ended {
            self.end(Code::Cancelled);
        }
    }
}

/// Reads the code of a response, and puts the right text in where tonic has one of its own.
fn correct<R>(response: &mut Response<R>, path: &str) -> Code {
    // An error has its status in the headers; a response with a message has it in the trailers, where it says OK.
    let Some(code) = response.headers().get(Status::GRPC_STATUS) else { return Code::Ok };
    let code = Code::from_bytes(code.as_bytes());
    if code == Code::Unavailable {
        // That is for nodes.
        response.headers_mut().remove(NOT_DONE);
    }
    let message = response.headers().get(Status::GRPC_MESSAGE).map_or(b"".as_slice(), HeaderValue::as_bytes);
    let message = percent_decode(message).decode_utf8_lossy();
    let (code, message) = match code {
        Code::Unimplemented if message.is_empty() || message == STUB_TEXT => (code, unknown_method(path)),
        Code::OutOfRange if message.starts_with(TOO_LARGE_TEXT) => (Code::ResourceExhausted, too_large(&message)),
        Code::OutOfRange | Code::ResourceExhausted if message.starts_with(TOO_LARGE_DECOMPRESSED_TEXT) => {
            (Code::ResourceExhausted, too_large_decompressed(&message))
        }
        Code::Unimplemented if message.starts_with(ENCODING_TEXT) => (code, unknown_encoding(&message)),
        Code::Internal if message.starts_with(NO_ENCODING_TEXT) => {
            (code, "grpc: compressed flag set with identity or empty encoding".to_owned())
        }
        Code::Internal if message.starts_with(FLAG_TEXT) => (code, unknown_flag(&message)),
        Code::Internal if message.starts_with(DECOMPRESSION_TEXT) => (code, not_decompressed(&message)),
        Code::Internal if message.ends_with(TOO_DEEP_TEXT) => (Code::InvalidArgument, TOO_DEEP_MESSAGE.to_owned()),
        Code::Internal if message.starts_with(UNDECODABLE_TEXT) => (code, undecodable(&message).to_owned()),
        _ => return code,
    };
    let headers = response.headers_mut();
    headers.insert(Status::GRPC_STATUS, HeaderValue::from(code as i32));
    if let Ok(message) = HeaderValue::from_str(&message) {
        headers.insert(Status::GRPC_MESSAGE, message);
    }
    code
}

fn unknown_method(path: &str) -> String {
    let Some((service, method)) = path.strip_prefix('/').unwrap_or(path).rsplit_once('/') else {
        return format!("malformed method name: {:?}", cut(path, NAME_BYTES_MAX));
    };
    let service_shown = cut(service, NAME_BYTES_MAX);
    if !SERVICES.contains(&service) {
        return format!("unknown service {service_shown}");
    }
    format!("unknown method {} for service {service_shown}", cut(method, NAME_BYTES_MAX))
}

fn unknown_encoding(message: &str) -> String {
    let name = message.strip_prefix(ENCODING_TEXT).and_then(|rest| rest.split('`').next()).unwrap_or_default();
    format!("grpc: Decompressor is not installed for grpc-encoding {:?}", cut(name, NAME_BYTES_MAX))
}

fn unknown_flag(message: &str) -> String {
    let flag = message.strip_prefix(FLAG_TEXT).unwrap_or_default();
    let flag = &flag[..flag.find(|c: char| !c.is_ascii_digit()).unwrap_or(flag.len())];
    format!("grpc: received unexpected payload format {flag}")
}

fn not_decompressed(message: &str) -> String {
    let problem = message.strip_prefix(DECOMPRESSION_TEXT).and_then(|rest| rest.split(", while").next());
    format!("grpc: failed to decompress the message: {}", problem.unwrap_or_default())
}

/// The first two numbers in tonic's text are the size and the limit.
fn too_large(message: &str) -> String {
    let mut numbers = message.split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty());
    match (numbers.next(), numbers.next()) {
        (Some(size), Some(limit)) => format!("grpc: received message larger than max ({size} vs. {limit})"),
        _ => "grpc: received message larger than max".to_owned(),
    }
}

/// The number in tonic's text is the limit.
fn too_large_decompressed(message: &str) -> String {
    let limit: String = message.chars().filter(char::is_ascii_digit).collect();
    format!("grpc: received message after decompression larger than max {limit}")
}

fn undecodable(message: &str) -> &'static str {
    if message.ends_with(NOT_UTF8_TEXT) {
        "grpc: error unmarshalling request: string field contains invalid UTF-8"
    } else {
        "grpc: error unmarshalling request: proto: cannot parse invalid wire-format data"
    }
}

fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_over_once_its_time_has_passed() {
        for (timeout, waited_ms, expected) in
            [("", 10_000, false), ("0m", 0, true), ("5m", 4, false), ("5m", 5, true), ("70S", 5, false)]
        {
            let mut headers = HeaderMap::new();
            if !timeout.is_empty() {
                headers.insert("grpc-timeout", HeaderValue::from_static(timeout));
            }
            assert_eq!(is_over(&headers, Duration::from_millis(waited_ms)), expected, "{timeout}");
        }
    }

    const PATH: &str = "/temporal.api.workflowservice.v1.WorkflowService/NoSuchMethod";

    fn corrected(code: Code, message: &str) -> (Code, String) {
        let (mut parts, ()) = Status::new(code, message).into_http::<()>().into_parts();
        parts.headers.insert("x", HeaderValue::from_static("kept"));
        let mut response = Response::from_parts(parts, ());
        let code = correct(&mut response, PATH);
        let status = Status::from_header_map(response.headers()).unwrap();
        assert_eq!(status.code(), code);
        (code, status.message().to_owned())
    }

    #[test]
    fn errors_of_tonic_speak_as_grpc_go_does() {
        let unknown = "unknown method NoSuchMethod for service temporal.api.workflowservice.v1.WorkflowService";
        let decompressed = "Error decompressing: size limit, of 4194304 bytes, exceeded while decompressing message";
        assert_eq!(
            corrected(Code::ResourceExhausted, decompressed),
            (Code::ResourceExhausted, "grpc: received message after decompression larger than max 4194304".to_owned())
        );
        let too_large = "Error, decoded message length too large: found 5242926 bytes, the limit is: 4194304 bytes";
        let cases = [
            (Code::Unimplemented, "", Code::Unimplemented, unknown),
            (Code::Unimplemented, STUB_TEXT, Code::Unimplemented, unknown),
            (
                Code::Unimplemented,
                "cron schedules are not supported",
                Code::Unimplemented,
                "cron schedules are not supported",
            ),
            (
                Code::OutOfRange,
                too_large,
                Code::ResourceExhausted,
                "grpc: received message larger than max (5242926 vs. 4194304)",
            ),
            (Code::NotFound, "Namespace ü is not found.", Code::NotFound, "Namespace ü is not found."),
            (
                Code::Internal,
                "failed to decode Protobuf message: Failure.cause: recursion limit reached",
                Code::InvalidArgument,
                TOO_DEEP_MESSAGE,
            ),
        ];
        let cases = cases.into_iter().chain([
            (
                Code::Internal,
                "failed to decode Protobuf message: Request.namespace: invalid string value: data is not UTF-8 encoded",
                Code::Internal,
                "grpc: error unmarshalling request: string field contains invalid UTF-8",
            ),
            (
                Code::Internal,
                "failed to decode Protobuf message: Request.namespace: buffer underflow",
                Code::Internal,
                "grpc: error unmarshalling request: proto: cannot parse invalid wire-format data",
            ),
            (Code::Internal, "a row is not readable", Code::Internal, "a row is not readable"),
        ]);
        for (code, message, expected_code, expected_message) in cases {
            assert_eq!(corrected(code, message), (expected_code, expected_message.to_owned()));
        }
    }

    #[test]
    fn a_response_without_status_in_its_headers_is_ok() {
        assert_eq!(correct(&mut Response::new(()), PATH), Code::Ok);
    }

    #[test]
    fn only_methods_that_are_served_name_metrics() {
        assert_eq!(Timed::new("StartWorkflowExecution").operation.name, "StartWorkflowExecution");
        let method = method_of(PATH, workflow_service_server::SERVICE_NAME).unwrap();
        assert_eq!((method, Timed::new(method).operation.name), ("NoSuchMethod", "other"));
        for path in ["", "/", "/a.B/StartWorkflowExecution", "/temporal.api.workflowservice.v1.WorkflowService"] {
            assert_eq!(method_of(path, workflow_service_server::SERVICE_NAME), None, "{path:?}");
        }
    }
}
