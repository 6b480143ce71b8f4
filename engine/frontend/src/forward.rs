//! Calls for what another node leads: they go there as the bytes they came as, and so do the answers.
//!
//! ```text
//!   client ──call──▶ layer ──where? (locate)──▶ here: handler
//!                                           └─▶ there: Peers::call ──▶ that node's Entry (`inside`) ──▶ handler
//! ```
//!
//! A call is forwarded once: the node that it comes to answers it or says that it cannot, and never sends it on. Of a call that a node
//! could not answer surely nothing was done ([`NOT_DONE`]), so the called node tries again, wherever the call belongs by then, until
//! the caller's time is up or a failover should long be over. It does the same when nobody knows what became of a call: either that can be
//! made twice without harm, or the called node gives it an [id](OperationId) under which it is done once.
//!
//! Calls that change metadata go to the node that leads those, and are answered once all nodes that can be reached have seen the change. A
//! node that was away may not: it asks there for a namespace that it does not know before it tells a caller that there is none.

use std::borrow::Cow;
use std::convert::Infallible;
use std::io::Read;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use everlog_cluster::{NOT_DONE, Nodes, ReadBound, is_not_done, not_done};
use everlog_kernel::NamespaceId;
use everlog_meta::Namespaces;
use everlog_model::{NodeId, OperationId, QueueId, limits, slot_of};
use everlog_partition::{Route, Router, confirm_by_quorum};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body::Frame;
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::Status;
use tonic::body::Body;
use tower::Service;

use super::Services;
use super::call::parse_timeout;
use super::locate::{Location, is_repeatable, locate, namespace_of, reads_metadata};
use super::reads::{AskedReads, asks_quorum, readable_replica, reads_replicas};
use super::request_body::{Frames, waits_for_something};

const TIMEOUT: &str = "grpc-timeout";

/// The header that says under which id a call is done, however often it is made. Only nodes say so to each other.
const OPERATION: &str = "everlog-operation";

/// What is kept back of a caller's time, so that the answer arrives: this share of it, but at least and at most so much.
const ANSWER_SHARE: u32 = 10;
const ANSWER_TIME_MIN: Duration = Duration::from_millis(50);
const ANSWER_TIME_MAX: Duration = Duration::from_secs(1);

/// Finds out which calls are for other nodes, and has them answered there.
pub(super) struct Forward {
    router: Router,
    namespaces: Arc<Namespaces>,
    nodes: Arc<Nodes>,
    request_bytes_max: usize,
    draining: watch::Receiver<bool>,
}

impl Forward {
    /// `None` if there are no other nodes.
    pub(super) fn new(services: &Services, draining: watch::Receiver<bool>) -> Option<Arc<Forward>> {
        Some(Arc::new(Forward {
            router: services.router.clone(),
            namespaces: Arc::clone(&services.namespaces),
            nodes: Arc::clone(services.nodes.as_ref()?),
            request_bytes_max: services.request_bytes_max,
            draining,
        }))
    }

    /// Answers a client's call with `service`, or has it answered by the node that it is for.
    pub(super) async fn answer<S>(&self, method: &str, request: Request<Frames>, mut service: S) -> Response<Body>
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    {
        let message = self.message(request.body());
        let about = self.about(method, message.as_deref()).await;
        let repeatable = message.as_deref().is_some_and(|message| is_repeatable(method, message));
        drop(message);
        let operation = (about != About::Nothing && !repeatable).then(OperationId::random);
        let mut is_read_here = self.is_readable_here(method, &request, about);
        let kept = Kept::new(request, operation);
        let mut pause = limits::FORWARD_AGAIN_WAIT.0;
        // From the first failure on: a poll may have waited for long before.
        let mut until = None;
        let mut failed = None;
        loop {
            // Whoever leads it answers what the replica here cannot.
            let way = if std::mem::take(&mut is_read_here) { Way::Here } else { self.way(about) };
            let attempt = async {
                match way {
                    Way::There(node) => self.send(node, method, &kept).await,
                    Way::Nowhere => not_done(Status::unavailable("no node is known to lead the partition")),
                    Way::Here => match self.confirmed(about, &kept.parts.headers).await {
                        Ok(()) => match done_under(operation, service.call(kept.request())).await {
                            Ok(response) => response,
                            Err(never) => match never {},
                        },
                        Err(response) => response,
                    },
                }
            };
            // What failed before is told in time, also if it takes too long to fail again.
            let mut response = match (failed.take(), kept.answer_by) {
                (Some(before), Some(answer_by)) => tokio::time::timeout_at(answer_by, attempt).await.unwrap_or(before),
                _ => attempt.await,
            };
            if about == About::Metadata && Status::from_header_map(response.headers()).is_none() {
                // Whoever made the change is to find it, here and everywhere.
                self.catch_up().await;
                self.nodes.await_metadata(self.namespaces.seen()).await;
            }
            let may_be_made_twice = repeatable || operation.is_some();
            let may_be_tried_again = is_not_done(&response) || (may_be_made_twice && is_unavailable(&response));
            // Whoever calls a node that stops is better off at another one.
            if !may_be_tried_again || *self.draining.borrow() {
                response.headers_mut().remove(NOT_DONE);
                return response;
            }
            let next = Instant::now() + pause;
            let until = *until.get_or_insert_with(|| kept.until(Instant::now()));
            if next >= until {
                response.headers_mut().remove(NOT_DONE);
                return response;
            }
            failed = Some(response);
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(limits::FORWARD_AGAIN_WAIT.1);
        }
    }

    /// Answers a call that another node has sent on, if it is right here.
    pub(super) async fn answer_here<S>(&self, method: &str, request: Request<Frames>, mut service: S) -> Response<Body>
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    {
        if waits_for_something(method) && *self.draining.borrow() {
            return not_done(Status::unavailable("the called node is stopping"));
        }
        let message = self.message(request.body());
        let about = self.about(method, message.as_deref()).await;
        match self.way(about) {
            Way::There(_) | Way::Nowhere => {
                not_done(Status::unavailable("the called node does not lead the partition"))
            }
            Way::Here => {
                if let Err(response) = self.confirmed(about, request.headers()).await {
                    return response;
                }
                let operation = request.headers().get(OPERATION).and_then(|id| id.to_str().ok()?.parse().ok());
                match done_under(operation, service.call(request.map(Body::new))).await {
                    Ok(response) => response,
                    Err(never) => match never {},
                }
            }
        }
    }

    /// Has a majority confirm that this node leads what a call is about, if the call wants that: whatever was acknowledged before it came is known here then.
    async fn confirmed(&self, about: About, headers: &HeaderMap) -> Result<(), Response<Body>> {
        let About::Slot(namespace_id, slot) = about else { return Ok(()) };
        if !asks_quorum(headers) {
            return Ok(());
        }
        let Route::Here(partition) = self.router.slot(namespace_id, slot) else { return Ok(()) };
        let confirmed = confirm_by_quorum(&[partition.group()]).await;
        confirmed.map_err(|error| not_done(Status::unavailable(error.to_string())))
    }

    /// Whether the replica of this node may answer a call: it only looks at a workflow, and may see it as it was a while ago.
    fn is_readable_here(&self, method: &str, request: &Request<Frames>, about: About) -> bool {
        let About::Slot(namespace_id, slot) = about else { return false };
        if !reads_replicas(method) {
            return false;
        }
        let Some(namespace) = self.namespaces.record_by_id(namespace_id) else { return false };
        let Ok(ReadBound::Stale(age)) = AskedReads::of(request.headers()).bound(&self.namespaces, &namespace) else {
            return false;
        };
        readable_replica(&self.router, &self.nodes, &self.namespaces, (namespace_id, slot), age).is_some()
    }

    fn way(&self, about: About) -> Way {
        match about {
            About::Nothing => Way::Here,
            About::Metadata => self.namespaces.leader().map_or(Way::Here, Way::There),
            About::Slot(namespace_id, slot) => match self.router.slot(namespace_id, slot) {
                Route::Here(_) => Way::Here,
                Route::There(node) => Way::There(node),
                Route::Nowhere => Way::Nowhere,
            },
        }
    }

    /// What a call is about. A namespace that is not known here may be known where the metadata is led.
    async fn about(&self, method: &str, message: Option<&[u8]>) -> About {
        if reads_metadata(method) {
            self.catch_up().await;
            return About::Nothing;
        }
        let Some(message) = message else { return About::Nothing };
        let location = locate(method, message);
        let namespace = match location {
            Some(Location::Token { .. } | Location::QueueOfToken(_) | Location::Metadata) => None,
            _ => namespace_of(message),
        };
        let of_token = match &location {
            Some(Location::Token { namespace_id, .. }) => Some(*namespace_id),
            Some(Location::QueueOfToken(queue)) => Some(queue.namespace_id),
            _ => None,
        };
        if namespace.is_some_and(|name| !name.is_empty() && self.namespaces.by_name(name).is_none())
            || of_token.is_some_and(|id| self.namespaces.record_by_id(id).is_none())
        {
            self.catch_up().await;
        }
        match location {
            Some(Location::Metadata) => About::Metadata,
            Some(location) => self.slot_of(location).unwrap_or(About::Nothing),
            None => About::Nothing,
        }
    }

    /// Waits until this node knows what is known where the metadata is led, but not for long: without that, it goes on with what it knows.
    async fn catch_up(&self) {
        let caught_up = self.namespaces.catch_up_with(async |leader| self.nodes.metadata_position(leader).await);
        match tokio::time::timeout(limits::METADATA_WAIT_MAX, caught_up).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "this node may not know the latest of the metadata"),
            Err(_) => tracing::debug!("this node may not know the latest of the metadata: no answer in time"),
        }
    }

    /// The message in a body, decompressed; `None` if it cannot be read: the handler says what is wrong with it.
    fn message<'a>(&self, body: &'a Frames) -> Option<Cow<'a, [u8]>> {
        let (is_compressed, message) = body.message()?;
        if !is_compressed {
            return Some(message);
        }
        let mut decompressed = Vec::new();
        let mut reader = flate2::read::GzDecoder::new(&*message).take(self.request_bytes_max as u64);
        reader.read_to_end(&mut decompressed).ok()?;
        Some(Cow::Owned(decompressed))
    }

    /// The hash slot that a call is about; `None` if its namespace is not known.
    fn slot_of(&self, location: Location<'_>) -> Option<About> {
        let id_of = |name: &str| self.namespaces.by_name(name).map(|namespace| namespace.namespace.id);
        let workflow = |id: NamespaceId, workflow_id: &str| About::Slot(id, slot_of(id, workflow_id));
        let queue = |queue: &QueueId| About::Slot(queue.namespace_id, queue.slot());
        match location {
            Location::Workflow { namespace, workflow_id } => Some(workflow(id_of(namespace)?, workflow_id)),
            Location::Token { namespace_id, workflow_id } => {
                self.namespaces.record_by_id(namespace_id).map(|_| workflow(namespace_id, &workflow_id))
            }
            Location::Queue { namespace, kind, name } => Some(queue(&QueueId::new(id_of(namespace)?, kind, name))),
            Location::QueueOfToken(of) => self.namespaces.record_by_id(of.namespace_id).map(|_| queue(&of)),
            Location::Metadata => None,
        }
    }

    /// Sends a call to a node. One that waits for something to happen ends when this node stops.
    async fn send(&self, node: NodeId, method: &str, kept: &Kept) -> Response<Body> {
        let answer = self.nodes.peers().call(node, kept.request());
        if !waits_for_something(method) {
            return answer.await;
        }
        let mut draining = self.draining.clone();
        tokio::select! {
            answer = answer => answer,
            // An error means that the server is gone, which is as good.
            _ = draining.wait_for(|draining| *draining) => Status::unavailable("the server is stopping").into_http(),
        }
    }
}

/// What a call is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum About {
    /// Whatever of that namespace has that hash slot.
    Slot(NamespaceId, u16),
    /// The metadata, which it changes.
    Metadata,
    /// Nothing that one node has: any node answers it.
    Nothing,
}

/// Where a call is answered.
enum Way {
    Here,
    There(NodeId),
    Nowhere,
}

/// What a call comes to that is done once under an id, if it has one.
async fn done_under<F: Future>(operation: Option<OperationId>, call: F) -> F::Output {
    match operation {
        Some(operation) => operation.scope(call).await,
        None => call.await,
    }
}

fn is_unavailable(response: &Response<Body>) -> bool {
    response.headers().get(Status::GRPC_STATUS).is_some_and(|status| status == "14")
}

/// A call that may be made more than once.
struct Kept {
    parts: Parts,
    body: [Bytes; 2],
    /// When the caller gives up, if it says so.
    deadline: Option<Instant>,
    /// When an answer is still in time for that.
    answer_by: Option<Instant>,
}

impl Kept {
    fn new(request: Request<Frames>, operation: Option<OperationId>) -> Kept {
        let now = Instant::now();
        let (mut parts, body) = request.into_parts();
        // A client that knows the header does not choose its ids.
        parts.headers.remove(OPERATION);
        let id = operation.and_then(|operation| HeaderValue::from_str(&operation.to_string()).ok());
        parts.headers.extend(id.map(|id| (HeaderName::from_static(OPERATION), id)));
        let timeout = parts.headers.get(TIMEOUT).and_then(|value| parse_timeout(value.to_str().ok()?));
        let for_answer = |timeout: Duration| (timeout / ANSWER_SHARE).max(ANSWER_TIME_MIN).min(ANSWER_TIME_MAX);
        let after = |timeout: Duration| now.checked_add(timeout);
        let deadline = timeout.and_then(after);
        let answer_by = timeout.and_then(|timeout| after(timeout.saturating_sub(for_answer(timeout))));
        Kept { parts, body: body.into_bytes(), deadline, answer_by }
    }

    /// Until when it makes sense to try again what failed at `failed`.
    fn until(&self, failed: Instant) -> Instant {
        let until = failed + limits::FORWARD_WAIT_MAX;
        self.answer_by.map_or(until, |answer_by| answer_by.min(until))
    }

    /// The call with what is left of its time.
    fn request(&self) -> Request<Body> {
        let mut parts = self.parts.clone();
        if let Some(deadline) = self.deadline {
            let left = deadline.saturating_duration_since(Instant::now()).as_millis();
            // Eight digits at most.
            if let Ok(left) = HeaderValue::from_str(&format!("{}m", left.min(99_999_999))) {
                parts.headers.insert(TIMEOUT, left);
            }
        }
        Request::from_parts(parts, Body::new(Again(self.body.clone())))
    }
}

/// A body that was read before.
struct Again([Bytes; 2]);

impl http_body::Body for Again {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let next = self.0.iter_mut().find(|part| !part.is_empty()).map(std::mem::take);
        Poll::Ready(next.map(|part| Ok(Frame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.iter().all(Bytes::is_empty)
    }
}
