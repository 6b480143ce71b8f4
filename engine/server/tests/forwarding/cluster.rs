//! Two nodes in one process, and what may happen to the calls between them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use everlog_cluster::{Entry, Peers, not_done};
use everlog_config::DynamicConfig;
use everlog_kernel::NamespaceId;
use everlog_model::{NodeId, slot_of};
use everlog_partition::Leaders;
use everlog_server::node::Neighbours;
use everlog_storage::GroupId;
use everlog_storage::keys::SLOTS;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use parking_lot::Mutex;
use tonic::Status;
use tonic::body::Body;

use super::harness::{Client, Server};

/// A namespace that has the same id on both nodes.
pub(crate) const NAMESPACE: &str = "temporal-system";

pub(crate) const NODES: [NodeId; 2] = [NodeId(1), NodeId(2)];

/// Who leads which partition, as one node sees it. It may be changed.
#[derive(Clone)]
pub(crate) struct View {
    me: NodeId,
    leaders: Arc<Mutex<HashMap<GroupId, NodeId>>>,
}

impl View {
    fn of(me: NodeId, leaders: [NodeId; 2]) -> View {
        let view = View { me, leaders: Arc::default() };
        view.change(leaders);
        view
    }

    pub(crate) fn change(&self, [first, second]: [NodeId; 2]) {
        *self.leaders.lock() = [(GroupId(1), first), (GroupId(2), second)].into();
    }
}

impl Leaders for View {
    fn leads_elsewhere(&self, partition: GroupId) -> Option<NodeId> {
        self.leaders.lock().get(&partition).copied().filter(|leader| *leader != self.me)
    }
}

/// What happens to a call from one node to the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Arrives,
    /// It does not get there, and that is known.
    Refused,
    /// It does not get there, and nobody knows.
    Lost,
    /// It gets there, but its answer gets lost.
    AnswerLost,
}

type Fates = dyn Fn(NodeId, &str) -> Fate + Send + Sync;

/// The calls between the nodes.
#[derive(Clone)]
pub(crate) struct Links {
    entries: Arc<Mutex<HashMap<NodeId, Entry>>>,
    fates: Arc<Mutex<Arc<Fates>>>,
    carried: Arc<Mutex<Vec<Carried>>>,
}

/// A call from one node to the other.
#[derive(Clone)]
pub(crate) struct Carried {
    from: NodeId,
    pub(crate) method: String,
    /// The request as it is sent: a message behind five bytes.
    pub(crate) body: Bytes,
}

impl Links {
    fn new() -> Links {
        let arrives: Arc<Fates> = Arc::new(|_, _| Fate::Arrives);
        Links { entries: Arc::default(), fates: Arc::new(Mutex::new(arrives)), carried: Arc::default() }
    }

    /// From now on this decides over calls, by their sender and method.
    pub(crate) fn decide(&self, fates: impl Fn(NodeId, &str) -> Fate + Send + Sync + 'static) {
        *self.fates.lock() = Arc::new(fates);
    }

    /// All calls arrive, from now on.
    pub(crate) fn mend(&self) {
        self.decide(|_, _| Fate::Arrives);
    }

    /// Calls of a node so far whose method is so called.
    pub(crate) fn calls(&self, from: NodeId, method: &str) -> usize {
        self.carried.lock().iter().filter(|call| call.from == from && call.method == method).count()
    }

    /// All calls so far.
    pub(crate) fn carried(&self) -> Vec<Carried> {
        self.carried.lock().clone()
    }

    /// Waits until a node can be reached by the other one.
    pub(crate) async fn until_attached(&self, node: NodeId) {
        let attached = async {
            while !self.entries.lock().contains_key(&node) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), attached).await.unwrap();
    }

    pub(crate) fn entry(&self, node: NodeId) -> Entry {
        self.entries.lock()[&node].clone()
    }
}

struct Neighbour {
    me: NodeId,
    links: Links,
}

impl Peers for Neighbour {
    fn attach(&self, entry: Entry) {
        self.links.entries.lock().insert(self.me, entry);
    }

    fn nodes(&self) -> Vec<NodeId> {
        NODES.into_iter().filter(|node| *node != self.me).collect()
    }

    fn call(&self, node: NodeId, request: Request<Body>) -> BoxFuture<'static, Response<Body>> {
        let method = request.uri().path().rsplit('/').next().unwrap_or("").to_owned();
        let fates = Arc::clone(&self.links.fates.lock());
        let fate = fates(self.me, &method);
        let entry = self.links.entries.lock().get(&node).cloned();
        let (from, carried) = (self.me, Arc::clone(&self.links.carried));
        async move {
            let (parts, body) = request.into_parts();
            let body = match body.collect().await {
                Ok(body) => body.to_bytes(),
                Err(status) => return status.into_http(),
            };
            carried.lock().push(Carried { from, method, body: body.clone() });
            let request = Request::from_parts(parts, Body::new(Full::new(body)));
            match (fate, entry) {
                (Fate::Arrives, Some(entry)) => entry.call(request).await,
                (Fate::AnswerLost, Some(entry)) => {
                    drop(entry.call(request).await);
                    Status::unavailable("the answer was lost").into_http()
                }
                (Fate::Lost, _) => Status::unavailable("the call was lost").into_http(),
                (Fate::Refused, _) | (_, None) => not_done(Status::unavailable("no such node")),
            }
        }
        .boxed()
    }
}

pub(crate) struct Cluster {
    pub(crate) servers: Vec<Server>,
    pub(crate) clients: Vec<Client>,
    pub(crate) links: Links,
    pub(crate) views: Vec<View>,
    namespace_id: NamespaceId,
}

impl Cluster {
    /// The first node leads the first partition, the second node the second one.
    pub(crate) async fn start() -> Cluster {
        Cluster::with_views([NODES; 2]).await
    }

    /// Each node believes that these lead its partitions.
    pub(crate) async fn with_views(views: [[NodeId; 2]; 2]) -> Cluster {
        let links = Links::new();
        let (mut servers, mut clients, mut all_views) = (Vec::new(), Vec::new(), Vec::new());
        for (me, leaders) in NODES.into_iter().zip(views) {
            let view = View::of(me, leaders);
            let peers = Arc::new(Neighbour { me, links: links.clone() });
            let neighbours = Neighbours { me, leaders: Arc::new(view.clone()), peers };
            let server = Server::among(2, DynamicConfig::default(), 1 << 20, Some(neighbours)).await;
            clients.push(server.client().await);
            servers.push(server);
            all_views.push(view);
        }
        let namespace_id = servers[0].node.parts.namespaces.by_name(NAMESPACE).unwrap().namespace.id;
        Cluster { servers, clients, links, views: all_views, namespace_id }
    }

    /// Which node leads what has that id.
    pub(crate) fn node_of(&self, id: &str) -> usize {
        usize::from(slot_of(self.namespace_id, id) >= SLOTS / 2)
    }

    /// An id that begins so and is at a node.
    pub(crate) fn id_at(&self, node: usize, prefix: &str) -> String {
        (0..).map(|number| format!("{prefix}-{number}")).find(|id| self.node_of(id) == node).unwrap()
    }

    pub(crate) async fn stop(self) {
        self.links.mend();
        for server in self.servers {
            server.stopped().await;
        }
        // Nodes reach each other, and so would never be dropped.
        self.links.entries.lock().clear();
    }
}
