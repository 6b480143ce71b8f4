//! Calls for what another node leads: they go there as the bytes they came as, and so do the answers.
//!
//! ```text
//!   client ──call──▶ layer ──where? (locate)──▶ here: handler
//!                                           └─▶ there: Peers::call ──▶ that node's Entry ──▶ handler
//! ```
//!
//! A call is forwarded once: the node that it comes to answers it or says that it cannot, and never sends it on.

use std::convert::Infallible;
use std::io::Read;
use std::sync::Arc;

use everlog_meta::Namespaces;
use everlog_model::{NodeId, QueueId};
use everlog_partition::{Route, Router};
use everlog_proto::workflow_service::WorkflowServiceServer;
use futures::future::BoxFuture;
use http::{Request, Response};
use tonic::body::Body;
use tower::Service;

use super::Services;
use super::locate::{Location, locate};
use super::request_body::Frames;
use super::services::WorkflowApi;

/// The other nodes.
pub trait Peers: Send + Sync + 'static {
    /// Calls come from other nodes to `entry` from now on.
    fn attach(&self, entry: Entry);

    /// Sends a gRPC call to the [`Entry`] of a node. An error is a response, too.
    fn call(&self, node: NodeId, request: Request<Body>) -> BoxFuture<'static, Response<Body>>;
}

/// Where calls come in that other nodes forward. Cheap to clone.
#[derive(Clone)]
pub struct Entry(WorkflowServiceServer<WorkflowApi>);

impl Entry {
    pub(super) fn new(workflow: WorkflowServiceServer<WorkflowApi>) -> Entry {
        Entry(workflow)
    }

    /// Answers a call to the workflow service. Whoever sends it is a node of the cluster and has checked the caller.
    pub async fn call(mut self, request: Request<Body>) -> Response<Body> {
        let answered: Result<_, Infallible> = self.0.call(request).await;
        match answered {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}

/// Finds out which calls are for other nodes.
pub(super) struct Forward {
    router: Router,
    namespaces: Arc<Namespaces>,
    peers: Arc<dyn Peers>,
    request_bytes_max: usize,
}

impl Forward {
    /// `None` if there are no other nodes.
    pub(super) fn new(services: &Services) -> Option<Arc<Forward>> {
        Some(Arc::new(Forward {
            router: services.router.clone(),
            namespaces: Arc::clone(&services.namespaces),
            peers: Arc::clone(services.peers.as_ref()?),
            request_bytes_max: services.request_bytes_max,
        }))
    }

    /// The other node that a call of `method` with this body is for; `None` if it is answered here. That includes everything that
    /// cannot be read: the handler says what is wrong with it.
    pub(super) fn destination(&self, method: &str, body: &Frames) -> Option<NodeId> {
        let (is_compressed, message) = body.message()?;
        if !is_compressed {
            return self.route(method, &message);
        }
        let mut decompressed = Vec::new();
        let mut reader = flate2::read::GzDecoder::new(&*message).take(self.request_bytes_max as u64);
        reader.read_to_end(&mut decompressed).ok()?;
        self.route(method, &decompressed)
    }

    fn route(&self, method: &str, message: &[u8]) -> Option<NodeId> {
        let id_of = |name: &str| self.namespaces.by_name(name).map(|namespace| namespace.namespace.id);
        let route = match locate(method, message)? {
            Location::Workflow { namespace, workflow_id } => self.router.workflow(id_of(namespace)?, workflow_id),
            Location::Token { namespace_id, workflow_id } => self.router.workflow(namespace_id, &workflow_id),
            Location::Queue { namespace, kind, name } => {
                self.router.queue(&QueueId::new(id_of(namespace)?, kind, name.to_owned()))
            }
        };
        match route {
            Route::There(node) => Some(node),
            Route::Here(_) | Route::Nowhere => None,
        }
    }

    /// Sends a call to a node.
    pub(super) fn call(&self, node: NodeId, request: Request<Frames>) -> BoxFuture<'static, Response<Body>> {
        self.peers.call(node, request.map(Body::new))
    }
}
