//! Answers requests.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::header::{
    ACCEPT, CONTENT_ENCODING, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, VARY, X_CONTENT_TYPE_OPTIONS,
};
use http::request::Parts;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use prost::Message;
use prost_reflect::{DynamicMessage, MessageDescriptor, ReflectMessage};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;
use tower::{BoxError, Service, ServiceExt};

use crate::call::{Grpc, call};
use crate::encoding::{Encoder, Encoding};
use crate::json::{Payloads, indented, read, write};
use crate::origins::{Origins, Sender, host};
use crate::pages::Page;
use crate::path::{check_escapes, pairs};
use crate::routes::{Found, Route, find};
use crate::{errors, fields, openapi, pages};

const BINARY: &str = "application/x-protobuf";
const JSON: &str = "application/json";
/// OpenAPI documents, of either version: as Temporal sends them.
const DOCUMENT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
/// A form of an HTML page, or of `curl -d`.
const FORM: &str = "application/x-www-form-urlencoded";
const METHOD_OVERRIDE: HeaderName = HeaderName::from_static("x-http-method-override");
const WHOLE_PAYLOADS: &str = "no-payload-shorthand";
const PRETTY: &str = "pretty";

/// How long a request's body may take to arrive.
const BODY_WAIT_MAX: Duration = Duration::from_secs(30);

/// What the bodies of requests may take until they are there and read, bytes. From then on the services keep their own bound.
const BODIES_BYTES_MAX: usize = 64 << 20;
const BODY_UNIT_BYTES: usize = 1 << 10;

/// What answers may take that nobody has read yet, bytes.
const ANSWERS_BYTES_MAX: usize = 256 << 20;

/// Smaller answers are not compressed: it would cost more than it saves, bytes.
const COMPRESSED_BYTES_MIN: usize = 1024;

/// Work on so many bytes is done where it keeps no other requests waiting.
const LONG_WORK_BYTES_MIN: usize = 32 << 10;

/// Names of fields in a query or form: more than any request has.
const NAMES_MAX: usize = 1000;

/// Seconds after which a caller may try again that has asked too often.
const RETRY_AFTER_S: HeaderValue = HeaderValue::from_static("1");

const TOO_MANY_ANSWERS: &str = "the server has as many answers in memory as it may that were not read";

/// What an [`Api`] allows.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The largest body of a request, bytes.
    pub request_bytes_max: usize,
    /// Names by which the server may be called, `*` in one for anything; empty for all. It keeps web pages out that have made their own
    /// name point here.
    pub hosts: Vec<String>,
    /// Origins whose pages may call, as browsers write them. Those of others only read, and their browsers do not let them have what they read.
    pub origins: Vec<String>,
    /// Whether only this machine reaches it.
    pub is_local: bool,
}

/// The API in front of gRPC services.
#[derive(Clone)]
pub struct Api {
    grpc: Grpc,
    settings: Settings,
    origins: Origins,
    /// What bodies may take that are not there as a whole, in units of [`BODY_UNIT_BYTES`].
    bodies: Arc<Semaphore>,
    /// What answers may take, in the same units.
    answers: Arc<Semaphore>,
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
        let bytes = |max: usize| Arc::new(Semaphore::new(max / BODY_UNIT_BYTES));
        let (bodies, answers) = (bytes(BODIES_BYTES_MAX), bytes(ANSWERS_BYTES_MAX));
        // Names that are allowed are looked at before.
        let origins = Origins::new(&settings.origins, settings.is_local && settings.hosts.is_empty());
        Api { grpc: Grpc::new(grpc.map_err(Into::into)), settings, origins, bodies, answers }
    }

    /// Answers a request.
    pub async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let sender = self.origins.sender(&parts);
        let mut answer = match Origins::preflight(&parts, &sender) {
            Some(answer) => answer,
            None => self.answer_to(&sender, &parts, body).await,
        };
        self.origins.mark(&mut answer, sender);
        answer
    }

    async fn answer_to(&self, sender: &Sender, parts: &Parts, body: Body) -> Response<Body> {
        let (form, encoding) = (Form::of(parts), Encoding::of(&parts.headers));
        if let Err(refusal) = self.check_host(parts) {
            return self.refused(refusal, form, encoding).await;
        }
        if sender.is_refused(&parts.method) {
            let refusal = Status::permission_denied("Origin not allowed").into();
            return self.refused(refusal, form, encoding).await;
        }
        if parts.method == Method::GET
            && let Some(answer) = self.beside(parts, encoding).await
        {
            return answer;
        }
        match self.response(sender, parts, body, form).await {
            Ok(answer) => self.responded(StatusCode::OK, form.content_type(), answer, encoding).await,
            Err(refusal) => self.refused(refusal, form, encoding).await,
        }
    }

    /// What there is beside the methods.
    async fn beside(&self, parts: &Parts, encoding: Encoding) -> Option<Response<Body>> {
        let path = parts.uri.path();
        if let Some(version) = openapi::at(path) {
            // The first time it is made.
            let document = tokio::task::spawn_blocking(move || openapi::document(version)).await;
            return Some(match document.unwrap_or(Err("the document could not be made")) {
                Ok(document) => self.responded(StatusCode::OK, DOCUMENT, document, encoding).await,
                Err(problem) => self.refused(Status::internal(problem).into(), Form::JSON, encoding).await,
            });
        }
        let json = Form::JSON.content_type();
        Some(match pages::at(path)? {
            Page::Settings => self.responded(StatusCode::OK, json, pages::settings(), encoding).await,
            Page::History(run) => match Encoder::new(encoding) {
                Ok(encoder) => {
                    let events = pages::history(self.grpc.clone(), parts.headers.clone(), run, encoder);
                    response(StatusCode::OK, json, events, encoding)
                }
                Err(error) => {
                    self.refused(Status::internal(error.to_string()).into(), Form::JSON, Encoding::Identity).await
                }
            },
        })
    }

    async fn response(&self, sender: &Sender, parts: &Parts, body: Body, form: Form) -> Result<Bytes, Refusal> {
        let route = match route(parts) {
            Found::Route(route) => route,
            Found::NoPath => return Err(Status::not_found("Not Found").into()),
            Found::NoVerb => return Err(Status::unimplemented("Method Not Allowed").into()),
        };
        let request = self.request(sender, parts, body, route).await?;
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
    async fn request(
        &self,
        sender: &Sender,
        parts: &Parts,
        body: Body,
        route: &Route,
    ) -> Result<DynamicMessage, Refusal> {
        let descriptor = route.method.input();
        let mut request = if route.has_body() {
            let (body, _held) = self.body(body).await?;
            let content_type = text(&parts.headers, &CONTENT_TYPE).to_ascii_lowercase();
            if sender.is_page() && !body.is_empty() {
                check_of_page(&content_type)?;
            }
            on_bytes(body.len(), move || message_of(&content_type, body, descriptor)).await??
        } else {
            let (form, _held) = if is_form(parts) {
                if sender.is_page() {
                    check_of_page(FORM)?;
                }
                let (form, held) = self.body(body).await?;
                (form, Some(held))
            } else {
                (Bytes::new(), None)
            };
            let form = std::str::from_utf8(&form).map_err(|_| invalid("the body of the request is not UTF-8"))?;
            of_names(descriptor, [form, parts.uri.query().unwrap_or_default()])?
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
        let (hosts, host) = (&self.settings.hosts, host(parts));
        if hosts.is_empty() || hosts.iter().any(|pattern| matches(pattern.as_bytes(), host.as_bytes())) {
            return Ok(());
        }
        Err(Status::permission_denied("Host not allowed").into())
    }

    async fn refused(&self, refusal: Refusal, form: Form, encoding: Encoding) -> Response<Body> {
        let Refusal { http, status } = refusal;
        let form = if form == Form::Binary { Form::JSON } else { form };
        let json = form.text(errors::json(&status));
        let mut response = self.responded(http, form.content_type(), json, encoding).await;
        if response.status() == StatusCode::TOO_MANY_REQUESTS {
            response.headers_mut().insert(RETRY_AFTER, RETRY_AFTER_S);
        }
        response
    }

    async fn responded(
        &self,
        http: StatusCode,
        content_type: HeaderValue,
        answer: Bytes,
        encoding: Encoding,
    ) -> Response<Body> {
        if answer.len() < COMPRESSED_BYTES_MIN {
            return response(http, content_type, Body::from(answer), Encoding::Identity);
        }
        let compressed = match encoding {
            Encoding::Identity => None,
            encoding => {
                let whole = answer.clone();
                on_bytes(answer.len(), move || encoding.encoded(&whole).ok()).await.ok().flatten()
            }
        };
        let encoding = if compressed.is_some() { encoding } else { Encoding::Identity };
        let answer = compressed.map_or(answer, Bytes::from);
        let units = u32::try_from(answer.len() / BODY_UNIT_BYTES + 1).unwrap_or(u32::MAX);
        let Ok(share) = Arc::clone(&self.answers).try_acquire_many_owned(units) else {
            let status = Status::resource_exhausted(TOO_MANY_ANSWERS);
            let mut refused = response(
                errors::http_status(status.code()),
                Form::JSON.content_type(),
                errors::json(&status).into(),
                Encoding::Identity,
            );
            refused.headers_mut().insert(RETRY_AFTER, RETRY_AFTER_S);
            return refused;
        };
        response(http, content_type, Body::from(Bytes::from_owner(Held { bytes: answer, _share: share })), encoding)
    }
}

/// Bytes of an answer, which have their share for as long as any of them are in memory.
struct Held {
    bytes: Bytes,
    _share: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
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

/// What a request is for. A form may say that it is sent by another verb, and is also taken where only GET is: then it is a query.
fn route(parts: &Parts) -> Found {
    let path = parts.uri.path();
    if !is_form(parts) {
        return find(parts.method.as_str(), path);
    }
    let verb = match text(&parts.headers, &METHOD_OVERRIDE) {
        "" => parts.method.as_str().to_owned(),
        verb => verb.to_ascii_uppercase(),
    };
    match find(&verb, path) {
        Found::NoVerb if verb == Method::POST.as_str() => find(Method::GET.as_str(), path),
        found => found,
    }
}

fn is_form(parts: &Parts) -> bool {
    parts.method == Method::POST && text(&parts.headers, &CONTENT_TYPE) == FORM
}

/// A request of names and values, in the order in which they count. Temporal takes no notice of names that it does not know; among them are
/// those that are for this server.
fn of_names(descriptor: MessageDescriptor, texts: [&str; 2]) -> Result<DynamicMessage, Refusal> {
    texts.into_iter().try_for_each(check_escapes).map_err(invalid)?;
    let mut request = DynamicMessage::new(descriptor);
    let mut given: Vec<(Cow<'_, str>, Vec<Cow<'_, str>>)> = Vec::new();
    for (name, value) in texts.into_iter().flat_map(pairs) {
        match given.iter().position(|(known, _)| *known == name) {
            Some(at) => given[at].1.push(value),
            None if given.len() == NAMES_MAX => return Err(invalid(format!("more than {NAMES_MAX} names of fields"))),
            None => given.push((name, vec![value])),
        }
    }
    for (name, values) in &given {
        let Some(field) = fields::find(&request.descriptor(), name) else { continue };
        if values.len() > 1 && !field.is_list() {
            let text = format!("too many values for field {:?}: {}", field.name(), values.join(", "));
            return Err(invalid(text));
        }
        for value in values {
            fields::set(&mut request, name, value).map_err(invalid)?;
        }
    }
    Ok(request)
}

/// Does work on so many bytes.
async fn on_bytes<T: Send + 'static>(bytes: usize, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Status> {
    if bytes < LONG_WORK_BYTES_MIN {
        return Ok(work());
    }
    // A panic in there is logged by its thread.
    tokio::task::spawn_blocking(work).await.map_err(|_| Status::internal("the message could not be converted"))
}

/// What a page sends must be of a kind that no page can send without its browser's having asked here: a form is none.
fn check_of_page(content_type: &str) -> Result<(), Refusal> {
    if content_type.starts_with(JSON) || content_type.starts_with(BINARY) {
        return Ok(());
    }
    let status = Status::invalid_argument(format!("pages send {JSON} or {BINARY}, and not {content_type:?}"));
    Err(Refusal { http: StatusCode::UNSUPPORTED_MEDIA_TYPE, status })
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

fn response(http: StatusCode, content_type: HeaderValue, body: Body, encoding: Encoding) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = http;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, content_type);
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // Caches on the way are not to hand one caller's form to another.
    headers.insert(VARY, HeaderValue::from_static("accept, accept-encoding"));
    if let Some(name) = encoding.name() {
        headers.insert(CONTENT_ENCODING, name);
    }
    response
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
