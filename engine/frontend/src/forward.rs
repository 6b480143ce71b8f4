//! Calls for what another node leads: they go there as the bytes they came as, and so do the answers.
//!
//! ```text
//!   client ──call──▶ layer ──where? (locate)──▶ here: handler
//!                                           └─▶ there: Peers::call ──▶ that node's Entry (`inside`) ──▶ handler
//! ```
//!
//! A call is forwarded once: the node that it comes to answers it or says that it cannot, and never sends it on. Of a call that a node
//! could not answer surely nothing was done ([`NOT_DONE`]), so the called node tries again, wherever the call belongs by then, until
//! the caller's time is up or a failover should long be over.

use std::convert::Infallible;
use std::io::Read;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use everlog_cluster::{NOT_DONE, Peers, is_not_done, not_done};
use everlog_meta::Namespaces;
use everlog_model::{NodeId, QueueId, limits, slot_of};
use everlog_partition::{Route, Router};
use http::request::Parts;
use http::{HeaderValue, Request, Response};
use http_body::Frame;
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::Status;
use tonic::body::Body;
use tower::Service;

use super::Services;
use super::call::parse_timeout;
use super::locate::{Location, locate};
use super::request_body::{Frames, waits_for_something};

const TIMEOUT: &str = "grpc-timeout";

/// What is kept back of a caller's time, so that the answer arrives: this share of it, or at least so much.
const ANSWER_SHARE: u32 = 10;
const ANSWER_TIME_MIN: Duration = Duration::from_millis(50);

/// Finds out which calls are for other nodes, and has them answered there.
pub(super) struct Forward {
    router: Router,
    namespaces: Arc<Namespaces>,
    peers: Arc<dyn Peers>,
    request_bytes_max: usize,
    draining: watch::Receiver<bool>,
}

impl Forward {
    /// `None` if there are no other nodes.
    pub(super) fn new(services: &Services, draining: watch::Receiver<bool>) -> Option<Arc<Forward>> {
        Some(Arc::new(Forward {
            router: services.router.clone(),
            namespaces: Arc::clone(&services.namespaces),
            peers: Arc::clone(services.nodes.as_ref()?.peers()),
            request_bytes_max: services.request_bytes_max,
            draining,
        }))
    }

    /// Answers a client's call with `service`, or has it answered by the node that it is for.
    pub(super) async fn answer<S>(&self, method: &str, request: Request<Frames>, mut service: S) -> Response<Body>
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    {
        let slot = self.slot(method, request.body());
        let kept = Kept::new(request);
        let mut pause = limits::FORWARD_AGAIN_WAIT.0;
        loop {
            // What any node answers is answered here.
            let route = slot.map(|slot| self.router.slot(slot));
            let mut response = match route {
                Some(Route::There(node)) => self.send(node, method, &kept).await,
                Some(Route::Nowhere) => not_done(Status::unavailable("no node is known to lead the partition")),
                Some(Route::Here(_)) | None => match service.call(kept.request()).await {
                    Ok(response) => response,
                    Err(never) => match never {},
                },
            };
            if !is_not_done(&response) {
                return response;
            }
            if Instant::now() + pause >= kept.until {
                response.headers_mut().remove(NOT_DONE);
                return response;
            }
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
        let slot = self.slot(method, request.body());
        match slot.map(|slot| self.router.slot(slot)) {
            Some(Route::There(_) | Route::Nowhere) => {
                not_done(Status::unavailable("the called node does not lead the partition"))
            }
            Some(Route::Here(_)) | None => match service.call(request.map(Body::new)).await {
                Ok(response) => response,
                Err(never) => match never {},
            },
        }
    }

    /// The hash slot that a call of `method` with this body is about; `None` if any node answers it. That includes everything that cannot
    /// be read: the handler says what is wrong with it.
    fn slot(&self, method: &str, body: &Frames) -> Option<u16> {
        let (is_compressed, message) = body.message()?;
        if !is_compressed {
            return self.slot_of(method, &message);
        }
        let mut decompressed = Vec::new();
        let mut reader = flate2::read::GzDecoder::new(&*message).take(self.request_bytes_max as u64);
        reader.read_to_end(&mut decompressed).ok()?;
        self.slot_of(method, &decompressed)
    }

    fn slot_of(&self, method: &str, message: &[u8]) -> Option<u16> {
        let id_of = |name: &str| self.namespaces.by_name(name).map(|namespace| namespace.namespace.id);
        Some(match locate(method, message)? {
            Location::Workflow { namespace, workflow_id } => slot_of(id_of(namespace)?, workflow_id),
            Location::Token { namespace_id, workflow_id } => slot_of(namespace_id, &workflow_id),
            Location::Queue { namespace, kind, name } => QueueId::new(id_of(namespace)?, kind, name).slot(),
        })
    }

    /// Sends a call to a node. One that waits for something to happen ends when this node stops.
    async fn send(&self, node: NodeId, method: &str, kept: &Kept) -> Response<Body> {
        let answer = self.peers.call(node, kept.request());
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

/// A call that may be made more than once.
struct Kept {
    parts: Parts,
    body: [Bytes; 2],
    /// When the caller gives up, if it says so.
    deadline: Option<Instant>,
    /// Until when it makes sense to try again.
    until: Instant,
}

impl Kept {
    fn new(request: Request<Frames>) -> Kept {
        let now = Instant::now();
        let (parts, body) = request.into_parts();
        let timeout = parts.headers.get(TIMEOUT).and_then(|value| parse_timeout(value.to_str().ok()?));
        let wait = timeout.map_or(limits::FORWARD_WAIT_MAX, |timeout| {
            let for_answer = (timeout / ANSWER_SHARE).max(ANSWER_TIME_MIN);
            timeout.saturating_sub(for_answer).min(limits::FORWARD_WAIT_MAX)
        });
        let deadline = timeout.and_then(|timeout| now.checked_add(timeout));
        Kept { parts, body: body.into_bytes(), deadline, until: now + wait }
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
