//! Answers requests.

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{
    ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, HOST, HeaderName, HeaderValue, RETRY_AFTER, VARY,
    X_CONTENT_TYPE_OPTIONS,
};
use http::request::Parts;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use prost::Message;
use prost_reflect::{DynamicMessage, MessageDescriptor};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;
use tower::{BoxError, Service, ServiceExt};

use crate::call::{Grpc, call};
use crate::json::{Payloads, indented, read, write};
use crate::pages::Page;
use crate::path::pairs;
use crate::routes::{Found, Route, find};
use crate::{errors, fields, openapi, pages};

const BINARY: &str = "application/x-protobuf";
const JSON: &str = "application/json";
/// OpenAPI documents, of either version: as Temporal sends them.
const DOCUMENT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const WHOLE_PAYLOADS: &str = "no-payload-shorthand";
const PRETTY: &str = "pretty";

/// How long a request's body may take to arrive.
const BODY_WAIT_MAX: Duration = Duration::from_secs(30);

/// What the bodies of requests may take until they are there and read, bytes. From then on the services keep their own bound.
const BODIES_BYTES_MAX: usize = 64 << 20;
const BODY_UNIT_BYTES: usize = 1 << 10;

/// Smaller answers are not compressed: it would cost more than it saves, bytes.
const COMPRESSED_BYTES_MIN: usize = 1024;

/// Work on so many bytes is done where it keeps no other requests waiting.
const LONG_WORK_BYTES_MIN: usize = 32 << 10;

/// Seconds after which a caller may try again that has asked too often.
const RETRY_AFTER_S: HeaderValue = HeaderValue::from_static("1");

/// What an [`Api`] allows.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The largest body of a request, bytes.
    pub request_bytes_max: usize,
    /// Names by which the server may be called, `*` in one for anything; empty for all. It keeps web pages out that have made their own
    /// name point here.
    pub hosts: Vec<String>,
}

/// The API in front of gRPC services.
#[derive(Clone)]
pub struct Api {
    grpc: Grpc,
    settings: Settings,
    /// What bodies may take that are not there as a whole, in units of [`BODY_UNIT_BYTES`].
    bodies: Arc<Semaphore>,
}

/// How an answer is to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Json { payloads: Payloads, pretty: bool },
    Binary,
}

impl Api {
    /// Calls go to `grpc`, which answers requests of gRPC at their paths.
    pub fn new<S>(grpc: S, settings: Settings) -> Api
    where
        S: Service<Request<tonic::body::Body>, Response = Response<tonic::body::Body>> + Clone + Send + Sync + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send + 'static,
    {
        let bodies = Arc::new(Semaphore::new(BODIES_BYTES_MAX / BODY_UNIT_BYTES));
        Api { grpc: Grpc::new(grpc.map_err(Into::into)), settings, bodies }
    }

    /// Answers a request.
    pub async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let form = Form::of(&parts);
        let gzip = takes_gzip(&parts.headers);
        if let Err(refusal) = self.check_host(&parts) {
            return refused(refusal, form, gzip).await;
        }
        if parts.method == Method::GET
            && let Some(answer) = self.beside(&parts, gzip).await
        {
            return answer;
        }
        match self.response(&parts, body, form).await {
            Ok(answer) => responded(StatusCode::OK, form.content_type(), answer, gzip).await,
            Err(refusal) => refused(refusal, form, gzip).await,
        }
    }

    /// What there is beside the methods.
    async fn beside(&self, parts: &Parts, gzip: bool) -> Option<Response<Body>> {
        let path = parts.uri.path();
        if let Some(version) = openapi::at(path) {
            // The first time it is made.
            let document = tokio::task::spawn_blocking(move || openapi::document(version)).await;
            return Some(match document.unwrap_or(Err("the document could not be made")) {
                Ok(document) => responded(StatusCode::OK, DOCUMENT, document, gzip).await,
                Err(problem) => refused(Status::internal(problem).into(), Form::JSON, gzip).await,
            });
        }
        Some(match pages::at(path)? {
            Page::Settings => responded(StatusCode::OK, Form::JSON.content_type(), pages::settings(), gzip).await,
            Page::History(run) => {
                let events = pages::history(self.grpc.clone(), parts.headers.clone(), run, gzip);
                response(StatusCode::OK, Form::JSON.content_type(), events, gzip)
            }
        })
    }

    async fn response(&self, parts: &Parts, body: Body, form: Form) -> Result<Bytes, Refusal> {
        let route = match find(parts.method.as_str(), parts.uri.path()) {
            Found::Route(route) => route,
            Found::NoPath => return Err(Status::not_found("Not Found").into()),
            Found::NoVerb => return Err(Status::unimplemented("Method Not Allowed").into()),
        };
        let request = self.request(parts, body, route).await?;
        let method = &route.method;
        let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
        let answer = call(&self.grpc, &path, &parts.headers, &request.encode_to_vec()).await?;
        match form {
            Form::Binary => Ok(answer),
            Form::Json { payloads, .. } => {
                let output = method.output();
                let text = on_bytes(answer.len(), move || {
                    decoded(output, answer).map(|answer| form.text(write(&answer, payloads)))
                });
                Ok(text.await?.map_err(|error| Status::internal(format!("the answer is no {error}")))?)
            }
        }
    }

    /// What the path, the query or the body, say.
    async fn request(&self, parts: &Parts, body: Body, route: &Route) -> Result<DynamicMessage, Refusal> {
        let descriptor = route.method.input();
        let mut request = if route.has_body() {
            let (body, _held) = self.body(body).await?;
            let content_type = text(&parts.headers, &CONTENT_TYPE).to_owned();
            on_bytes(body.len(), move || message_of(&content_type, body, descriptor)).await??
        } else {
            let mut request = DynamicMessage::new(descriptor);
            for (name, value) in pairs(parts.uri.query().unwrap_or_default()) {
                // Temporal takes no notice of names that it does not know; among them are those that are for this server.
                fields::set(&mut request, &name, &value).map_err(invalid)?;
            }
            request
        };
        for (name, value) in route.variables(parts.uri.path()) {
            fields::set(&mut request, name, &value).map_err(invalid)?;
        }
        Ok(request)
    }

    /// The body, once it is there, and its share of what bodies may take.
    async fn body(&self, body: Body) -> Result<(Bytes, OwnedSemaphorePermit), Refusal> {
        tokio::time::timeout(BODY_WAIT_MAX, self.whole(body))
            .await
            .map_err(|_| Status::deadline_exceeded("the body of the request did not arrive in time"))?
    }

    async fn whole(&self, mut body: Body) -> Result<(Bytes, OwnedSemaphorePermit), Refusal> {
        let max = self.settings.request_bytes_max;
        let full = || Status::resource_exhausted("the bodies of all requests together take too much memory");
        let mut held = Arc::clone(&self.bodies).try_acquire_owned().map_err(|_| full())?;
        let mut bytes = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| invalid(format!("the body of the request is broken: {error}")))?;
            let Ok(data) = frame.into_data() else { continue };
            let length = bytes.len() + data.len();
            if length > max {
                let text = format!("grpc: received message larger than max ({length} vs. {max})");
                return Err(Status::resource_exhausted(text).into());
            }
            let more = (length / BODY_UNIT_BYTES + 1).saturating_sub(held.num_permits());
            let more = u32::try_from(more).unwrap_or(u32::MAX);
            held.merge(Arc::clone(&self.bodies).try_acquire_many_owned(more).map_err(|_| full())?);
            bytes.extend_from_slice(&data);
        }
        Ok((bytes.freeze(), held))
    }

    fn check_host(&self, parts: &Parts) -> Result<(), Refusal> {
        let hosts = &self.settings.hosts;
        let host = parts.headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        if hosts.is_empty() || hosts.iter().any(|pattern| matches(pattern.as_bytes(), host.as_bytes())) {
            return Ok(());
        }
        Err(Status::permission_denied("Host not allowed").into())
    }
}

/// Why a request is not answered.
struct Refusal {
    http: StatusCode,
    status: Status,
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Refusal {
        Refusal { http: errors::http_status(status.code()), status }
    }
}

fn invalid(problem: impl ToString) -> Refusal {
    Status::invalid_argument(problem.to_string()).into()
}

/// Does work on so many bytes.
async fn on_bytes<T: Send + 'static>(bytes: usize, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Status> {
    if bytes < LONG_WORK_BYTES_MIN {
        return Ok(work());
    }
    // A panic in there is logged by its thread.
    tokio::task::spawn_blocking(work).await.map_err(|_| Status::internal("the message could not be converted"))
}

fn message_of(content_type: &str, body: Bytes, descriptor: MessageDescriptor) -> Result<DynamicMessage, Refusal> {
    if content_type.starts_with(BINARY) {
        return decoded(descriptor, body).map_err(|error| invalid(format!("the body of the request is no {error}")));
    }
    if body.trim_ascii().is_empty() {
        return Ok(DynamicMessage::new(descriptor));
    }
    let payloads = if content_type.contains(WHOLE_PAYLOADS) { Payloads::Whole } else { Payloads::Shorthand };
    let json = std::str::from_utf8(&body).map_err(|_| invalid("the body of the request is not UTF-8"))?;
    read(json, &descriptor, payloads).map_err(|problem| invalid(format!("the body of the request: {problem}")))
}

fn decoded(descriptor: MessageDescriptor, bytes: Bytes) -> Result<DynamicMessage, String> {
    let name = descriptor.full_name().to_owned();
    DynamicMessage::decode(descriptor, bytes).map_err(|error| format!("{name}: {error}"))
}

impl Form {
    const JSON: Form = Form::Json { payloads: Payloads::Shorthand, pretty: false };

    /// By the query's `pretty` and `noPayloadShorthand`, and by the `Accept` header.
    fn of(parts: &Parts) -> Form {
        let accept = text(&parts.headers, &ACCEPT);
        if accept.starts_with(BINARY) {
            return Form::Binary;
        }
        let asked = |name: &str| pairs(parts.uri.query().unwrap_or_default()).any(|(key, _)| key == name);
        let payloads = if accept.contains(WHOLE_PAYLOADS) || asked("noPayloadShorthand") {
            Payloads::Whole
        } else {
            Payloads::Shorthand
        };
        Form::Json { payloads, pretty: accept.contains(PRETTY) || asked(PRETTY) }
    }

    fn text(self, json: String) -> Bytes {
        match self {
            Form::Json { pretty: true, .. } => indented(&json).into(),
            _ => json.into(),
        }
    }

    fn content_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Form::Binary => BINARY,
            Form::Json { payloads: Payloads::Shorthand, pretty: false } => JSON,
            Form::Json { payloads: Payloads::Shorthand, pretty: true } => "application/json+pretty",
            Form::Json { payloads: Payloads::Whole, pretty: false } => "application/json+no-payload-shorthand",
            Form::Json { payloads: Payloads::Whole, pretty: true } => "application/json+pretty+no-payload-shorthand",
        })
    }
}

async fn refused(Refusal { http, status }: Refusal, form: Form, gzip: bool) -> Response<Body> {
    let form = if form == Form::Binary { Form::JSON } else { form };
    let json = form.text(errors::json(&status));
    let mut response = responded(http, form.content_type(), json, gzip).await;
    if http == StatusCode::TOO_MANY_REQUESTS {
        response.headers_mut().insert(RETRY_AFTER, RETRY_AFTER_S);
    }
    response
}

async fn responded(http: StatusCode, content_type: HeaderValue, answer: Bytes, gzip: bool) -> Response<Body> {
    let compressed = if gzip && answer.len() >= COMPRESSED_BYTES_MIN {
        let answer = answer.clone();
        on_bytes(answer.len(), move || gzipped(&answer)).await
    } else {
        Ok(None)
    };
    match compressed {
        Ok(Some(compressed)) => response(http, content_type, Body::from(compressed), true),
        _ => response(http, content_type, Body::from(answer), false),
    }
}

fn response(http: StatusCode, content_type: HeaderValue, body: Body, is_compressed: bool) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = http;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, content_type);
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // Caches on the way are not to hand one caller's form to another.
    headers.insert(VARY, HeaderValue::from_static("accept, accept-encoding"));
    if is_compressed {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}

fn gzipped(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 4), Compression::fast());
    encoder.write_all(bytes).ok()?;
    encoder.finish().ok()
}

fn takes_gzip(headers: &HeaderMap) -> bool {
    text(headers, &ACCEPT_ENCODING).split(',').any(|encoding| {
        let (name, quality) = encoding.trim().split_once(';').unwrap_or((encoding.trim(), ""));
        let is_refused =
            quality.trim().strip_prefix("q=").is_some_and(|quality| quality.trim().parse::<f64>() == Ok(0.0));
        name.trim().eq_ignore_ascii_case("gzip") && !is_refused
    })
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// Whether `pattern`, in which `*` stands for anything, is `text`, whatever the case of its letters.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut seen) = (0, 0);
    // Behind the last star, and how much of the text it stands for up to there.
    let mut star = None;
    while seen < text.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at + 1, seen));
                at += 1;
            }
            Some(byte) if byte.eq_ignore_ascii_case(&text[seen]) => {
                at += 1;
                seen += 1;
            }
            _ => {
                let Some((behind, begins)) = star else { return false };
                star = Some((behind, begins + 1));
                at = behind;
                seen = begins + 1;
            }
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests;
