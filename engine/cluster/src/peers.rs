//! The way to the other nodes, and in from them.

use std::sync::Arc;

use everlog_model::NodeId;
use futures::future::BoxFuture;
use http::{HeaderValue, Request, Response};
use tonic::Status;
use tonic::body::Body;

/// The header of an answer that says: surely nothing was done, so the call may be tried again wherever it belongs now. Clients never
/// see it.
pub const NOT_DONE: &str = "everlog-not-done";

/// The other nodes.
pub trait Peers: Send + Sync + 'static {
    /// Calls come from other nodes to `entry` from now on.
    fn attach(&self, entry: Entry);

    /// All other nodes of the cluster, reachable or not.
    fn nodes(&self) -> Vec<NodeId>;

    /// Sends a gRPC call to the [`Entry`] of a node. An error is a response, too: one for a call that surely did not get there is
    /// [`not_done`].
    fn call(&self, node: NodeId, request: Request<Body>) -> BoxFuture<'static, Response<Body>>;
}

type Answer = dyn Fn(Request<Body>) -> BoxFuture<'static, Response<Body>> + Send + Sync;

/// Where calls from other nodes come in: those of clients, which are for this node, and those of the internal service. Cheap to clone.
#[derive(Clone)]
pub struct Entry(Arc<Answer>);

impl Entry {
    /// An entry that answers in this way.
    pub fn new(answer: impl Fn(Request<Body>) -> BoxFuture<'static, Response<Body>> + Send + Sync + 'static) -> Entry {
        Entry(Arc::new(answer))
    }

    /// Answers a call. Whoever sends it is a node of the cluster and has checked the caller.
    pub fn call(&self, request: Request<Body>) -> BoxFuture<'static, Response<Body>> {
        (self.0)(request)
    }
}

/// The answer to a call of which surely nothing was done.
pub fn not_done(status: Status) -> Response<Body> {
    let mut response = status.into_http();
    response.headers_mut().insert(NOT_DONE, HeaderValue::from_static("1"));
    response
}

/// Whether an answer says that surely nothing was done.
pub fn is_not_done<T>(response: &Response<T>) -> bool {
    response.headers().contains_key(NOT_DONE)
}
