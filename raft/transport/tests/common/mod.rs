//! Nodes on this machine that echo what they are sent.

#![allow(dead_code, unreachable_pub, missing_docs, reason = "no test uses all of it")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use everlog_storage::NodeId;
use everlog_transport::{
    Abilities, Answer, ConnectionId, Identity, Incoming, KnownNode, Links as _, Mesh, MeshOptions, NodeTls, Receiver,
    Stranger, StrangerCalls, Timing, Transport,
};
use parking_lot::Mutex;
use tokio::net::TcpListener;

pub const ECHO: u8 = 20;
pub const KEEP: u8 = 21;
pub const DROP: u8 = 22;
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Echoes, keeps, or drops what comes, and remembers it.
#[derive(Default)]
pub struct Recorder {
    pub bodies: Mutex<Vec<(NodeId, Bytes)>>,
    pub cancelled: Arc<AtomicU32>,
    pub disconnected: AtomicU32,
}

impl Receiver for Recorder {
    fn receive(&self, incoming: Incoming) {
        self.bodies.lock().push((incoming.from, incoming.body.clone()));
        match incoming.kind {
            ECHO => incoming.answer.send(incoming.body),
            DROP => drop(incoming.answer),
            _ => {
                let cancelled = Arc::clone(&self.cancelled);
                let mut answer = incoming.answer;
                tokio::spawn(async move {
                    answer.cancelled().await;
                    cancelled.fetch_add(1, Ordering::Relaxed);
                });
            }
        }
    }

    fn disconnected(&self, _: ConnectionId) {
        self.disconnected.fetch_add(1, Ordering::Relaxed);
    }
}

pub struct Member {
    pub mesh: Mesh,
    pub recorder: Arc<Recorder>,
    pub address: String,
    pub directory_id: uuid::Uuid,
}

pub fn timing() -> Timing {
    let again = (Duration::from_millis(10), Duration::from_millis(100));
    Timing {
        ping_interval: Duration::from_millis(100),
        silence_max: Duration::from_secs(2),
        again,
        ..Timing::default()
    }
}

pub const CLUSTER: uuid::Uuid = uuid::Uuid::from_u128(7);

pub fn directory_of(node: u32) -> uuid::Uuid {
    uuid::Uuid::from_u128(100 + u128::from(node))
}

pub async fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

pub fn start(listener: TcpListener, address: &str, directory_id: uuid::Uuid) -> Member {
    start_with(listener, address, directory_id, None)
}

pub fn start_with(listener: TcpListener, address: &str, directory_id: uuid::Uuid, tls: Option<Arc<NodeTls>>) -> Member {
    start_able(listener, address, directory_id, tls, Abilities::default())
}

/// The same of a release that can so much.
pub fn start_able(
    listener: TcpListener,
    address: &str,
    directory_id: uuid::Uuid,
    tls: Option<Arc<NodeTls>>,
    abilities: Abilities,
) -> Member {
    let options = MeshOptions { directory_id, address: address.to_owned(), timing: timing(), tls, abilities };
    let mesh = Mesh::start(options, listener);
    Member { mesh, recorder: Arc::default(), address: address.to_owned(), directory_id }
}

impl Member {
    pub fn join(&self, node: u32, start_count: u32, others: Vec<KnownNode>) {
        let identity = Identity { cluster_id: CLUSTER, node_id: NodeId(node), start_count };
        self.mesh.join(identity, others, Arc::clone(&self.recorder) as _);
    }
}

/// Nodes 1 to `count`, each of which knows where the others are.
pub async fn members(count: u32) -> Vec<Member> {
    members_with(count, |_| None).await
}

/// The same, with what they prove with who they are.
pub async fn members_with(count: u32, tls: impl Fn(u32) -> Option<NodeTls>) -> Vec<Member> {
    let mut all = Vec::new();
    for node in 1..=count {
        let (listener, address) = listen().await;
        all.push(start_with(listener, &address, directory_of(node), tls(node).map(Arc::new)));
    }
    for node in 1..=count {
        all[node as usize - 1].join(node, 1, known(&all));
    }
    for member in &all {
        until(|| member.mesh.nodes().iter().all(|node| member.mesh.is_up(*node))).await;
    }
    all
}

pub fn known(all: &[Member]) -> Vec<KnownNode> {
    (1..)
        .zip(all)
        .map(|(node_id, member)| KnownNode { node_id, start_count: 1, address: member.address.clone() })
        .collect()
}

pub async fn until(mut is: impl FnMut() -> bool) {
    let waited = async {
        while !is() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waited).await.expect("in time");
}

pub fn body(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

pub struct SaysItsKind;

impl StrangerCalls for SaysItsKind {
    fn answer(&self, from: &Stranger, kind: u8, body: Bytes, answer: Answer) {
        answer.send(Bytes::from(format!("{kind} {} {}", from.hello.node_id, body.len())));
    }
}

/// Answers strangers with what they say.
pub struct Echoes;

impl StrangerCalls for Echoes {
    fn answer(&self, _from: &Stranger, _kind: u8, body: Bytes, answer: Answer) {
        answer.send(body);
    }
}
