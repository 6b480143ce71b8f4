//! Connections to all other nodes over TCP.

mod accept;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use everlog_storage::NodeId;
use parking_lot::{Mutex, RwLock};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinSet;

use crate::connection::{Connection, Io, Role};
use crate::handshake::{self, Hello, KnownNode, PROTOCOL, Refusal, Reply};
use crate::tls::{self, Complaints, NodeTls, Proof, Whom, Why};
use crate::{Abilities, Answer, Call, ConnectionId, LANES, Lane, Links, Receiver, Timing, Transport};

/// Connections that may be in their handshakes at a time.
const HANDSHAKES_MAX: usize = 64;

/// Calls of those who are in no cluster yet: how large they may be, and how long they may take.
const STRANGER_CALL_TIME_MAX: Duration = Duration::from_secs(5);

/// The purpose of a connection of somebody who is in no cluster yet.
const PURPOSE_STRANGER: u32 = 3;

/// Who this node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its cluster.
    pub cluster_id: uuid::Uuid,
    /// Its id there.
    pub node_id: NodeId,
    /// How often it was started.
    pub start_count: u32,
}

/// What a mesh is started with.
#[derive(Clone, Debug)]
pub struct MeshOptions {
    /// The data directory of this node.
    pub directory_id: uuid::Uuid,
    /// Where the others dial it, `host:port`.
    pub address: String,
    /// When connections count as dead.
    pub timing: Timing,
    /// What nodes prove to each other who they are with. Without it they talk in the clear, and are believed.
    pub tls: Option<Arc<NodeTls>>,
    /// What this node says that it can.
    pub abilities: Abilities,
}

/// A connection's bytes, encrypted or not, and what the other side has proven.
type Stream = (Box<dyn Io>, Proof);

/// Somebody who is in no cluster, or whose cluster is not known yet.
#[derive(Clone, Debug)]
pub struct Stranger {
    /// What it says of itself.
    pub hello: Hello,
    /// What it has proven. Its data directory is the one that it says if it has proven that it knows a secret.
    pub proof: Proof,
}

/// Answers the calls of strangers.
pub trait StrangerCalls: Send + Sync + 'static {
    /// Answers a call of a node that may be in no cluster.
    fn answer(&self, from: &Stranger, kind: u8, body: Bytes, answer: Answer);
}

/// The connections of a node. Cheap to clone; they end when [`Links::shutdown`] is called.
#[derive(Clone)]
pub struct Mesh(Arc<Shared>);

struct Shared {
    options: MeshOptions,
    state: RwLock<State>,
    receiver: RwLock<Option<Arc<dyn Receiver>>>,
    strangers: RwLock<Option<Arc<dyn StrangerCalls>>>,
    next_connection: AtomicU64,
    handshakes: Semaphore,
    complaints: Complaints,
    /// Why this node is no member any more, once it is none.
    removed: watch::Sender<Option<String>>,
    /// Why it is of no use to the cluster as long as it reads no other formats, once a member has said so.
    outdated: watch::Sender<Option<String>>,
    /// True once everything is to end.
    stop: watch::Sender<bool>,
    tasks: Mutex<JoinSet<()>>,
}

#[derive(Default)]
struct State {
    identity: Option<Identity>,
    peers: BTreeMap<NodeId, Peer>,
    /// Those that are members no more.
    removed: BTreeSet<NodeId>,
    /// The clusters that this one was made of what was left of.
    former: Vec<uuid::Uuid>,
    /// The version of formats that members must read; 0: any.
    format: u32,
}

struct Peer {
    known: KnownNode,
    directory_id: Option<uuid::Uuid>,
    /// What it said when it was dialled last.
    abilities: Abilities,
    lanes: HashMap<Lane, Outgoing>,
    /// Makes the diallers try at once.
    dial: Arc<Notify>,
    /// Since when neither lane was up.
    down_since: Option<Instant>,
}

struct Outgoing {
    connection: Connection,
}

impl Peer {
    fn is_up(&self) -> bool {
        LANES.iter().all(|lane| self.lanes.contains_key(lane))
    }
}

impl Mesh {
    /// Accepts on `listener`, and dials nobody before [`Links::join`].
    pub fn start(options: MeshOptions, listener: TcpListener) -> Mesh {
        let mesh = Mesh(Arc::new(Shared {
            options,
            state: RwLock::default(),
            receiver: RwLock::default(),
            strangers: RwLock::default(),
            next_connection: AtomicU64::new(1),
            handshakes: Semaphore::new(HANDSHAKES_MAX),
            complaints: Complaints::default(),
            removed: watch::Sender::new(None),
            outdated: watch::Sender::new(None),
            stop: watch::Sender::new(false),
            tasks: Mutex::default(),
        }));
        let accepting = mesh.clone();
        mesh.spawn(async move { accepting.accept(listener).await });
        mesh
    }

    /// Strangers are answered by this from now on.
    pub fn answer_strangers(&self, calls: Arc<dyn StrangerCalls>) {
        *self.0.strangers.write() = Some(calls);
    }

    /// Nodes that are still in one of these clusters are told that they were removed: this one was made of what was left of them.
    pub fn set_former(&self, clusters: Vec<uuid::Uuid>) {
        self.0.state.write().former = clusters;
    }

    /// Calls whoever is at an address, as a stranger. Returns what it says of itself with its answer.
    ///
    /// # Errors
    ///
    /// When nobody answers there, or not in time.
    pub async fn call_stranger(&self, address: &str, kind: u8, body: Bytes) -> io::Result<(Hello, Bytes)> {
        let call = async {
            let (io, hello) = self.greet(address, NodeId(0), PURPOSE_STRANGER).await?;
            self.note_outdated(&hello);
            let hello = welcome(hello)?;
            let connection = Connection::new(self.next_connection(), NodeId(hello.node_id));
            let answer = connection.call(kind, body);
            tokio::select! {
                error = connection.run(io, Role::Dialler, self.0.options.timing) => Err(error),
                answer = answer => Ok((hello, answer.map_err(io::Error::other)?)),
            }
        };
        let called = tokio::time::timeout(STRANGER_CALL_TIME_MAX, call).await;
        let called = called.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        if let Err(error) = &called {
            self.complain_of(address, error);
        }
        called
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.0.tasks.lock();
        if !*self.0.stop.borrow() {
            tasks.spawn(task);
            // Those that have ended are forgotten now and then.
            while tasks.try_join_next().is_some() {}
        }
    }

    fn next_connection(&self) -> ConnectionId {
        ConnectionId(self.0.next_connection.fetch_add(1, Ordering::Relaxed))
    }

    fn hello(&self, expected: NodeId, purpose: u32) -> Hello {
        let state = self.0.state.read();
        let MeshOptions { directory_id, address, abilities, .. } = &self.0.options;
        let mut hello = Hello {
            protocol_min: PROTOCOL,
            protocol_max: PROTOCOL,
            directory_id: directory_id.as_bytes().to_vec(),
            expected_node: expected.0,
            purpose,
            address: address.clone(),
            known: state.peers.values().map(|peer| peer.known.clone()).collect(),
            formats_oldest: abilities.formats.0,
            formats_newest: abilities.formats.1,
            features: abilities.features,
            ..Hello::default()
        };
        if let Some(Identity { cluster_id, node_id, start_count }) = &state.identity {
            hello.cluster_id = cluster_id.as_bytes().to_vec();
            hello.node_id = node_id.0;
            hello.start_count = *start_count;
            hello.former_clusters = state.former.iter().map(|id| id.as_bytes().to_vec()).collect();
        }
        hello
    }

    /// Takes in where a member is. A member that is not known is taken in only `if_new`.
    fn learn(&self, known: KnownNode, if_new: bool) {
        let node = NodeId(known.node_id);
        let mut state = self.0.state.write();
        match state.peers.get_mut(&node) {
            Some(peer) => {
                let is_newer = known.start_count > peer.known.start_count && !known.address.is_empty();
                if is_newer {
                    if peer.known.address != known.address {
                        tracing::info!(%node, address = known.address, "a node has another address");
                    }
                    peer.known = known;
                    peer.dial.notify_waiters();
                }
            }
            None if if_new => {
                let dial = Arc::new(Notify::new());
                let (lanes, down_since) = (HashMap::new(), Some(Instant::now()));
                let abilities = Abilities::default();
                state.peers.insert(node, Peer { known, directory_id: None, abilities, lanes, dial, down_since });
                drop(state);
                for lane in LANES {
                    let mesh = self.clone();
                    self.spawn(async move { mesh.keep_connected(node, lane).await });
                }
            }
            None => {}
        }
    }

    fn learn_all(&self, hello: &Hello) {
        for known in &hello.known {
            self.learn(known.clone(), false);
        }
        let Hello { node_id, start_count, address, .. } = hello;
        self.learn(KnownNode { node_id: *node_id, start_count: *start_count, address: address.clone() }, false);
    }

    /// Dials a node for as long as the mesh runs.
    async fn keep_connected(&self, node: NodeId, lane: Lane) {
        let Timing { again: (first, longest), dial_max, .. } = self.0.options.timing;
        let (mut wait, mut last_said) = (first, None);
        loop {
            let Some((address, dial)) =
                self.0.state.read().peers.get(&node).map(|peer| (peer.known.address.clone(), Arc::clone(&peer.dial)))
            else {
                return;
            };
            let connected = tokio::time::timeout(dial_max, self.connect(node, lane, &address)).await;
            let error = match connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok((connection, io)) => {
                    wait = first;
                    last_said = None;
                    self.set_lane(node, lane, Some(&connection));
                    let error = connection.run(io, Role::Dialler, self.0.options.timing).await;
                    self.set_lane(node, lane, None);
                    error
                }
                Err(error) => error,
            };
            // Not each of a thousand attempts.
            let said = error.to_string();
            if last_said.as_ref() != Some(&said) {
                self.complain_of(&address, &error);
                tracing::info!(%node, ?lane, address, error = said, "no connection to a node");
                last_said = Some(said);
            }
            // Both lanes at once, if the other side has dialled; not in step with everybody else, if not.
            let jitter = wait.mul_f64(f64::from(random_byte()) / 512.0);
            // An error means that it is time to try, too.
            let _ = tokio::time::timeout(wait + jitter, dial.notified()).await;
            wait = (2 * wait).min(longest);
        }
    }

    fn set_lane(&self, node: NodeId, lane: Lane, connection: Option<&Connection>) {
        let mut state = self.0.state.write();
        let Some(peer) = state.peers.get_mut(&node) else { return };
        let was_up = peer.is_up();
        match connection {
            Some(connection) => drop(peer.lanes.insert(lane, Outgoing { connection: connection.clone() })),
            None => {
                peer.lanes.remove(&lane);
            }
        }
        let is_up = peer.is_up();
        if was_up != is_up {
            tracing::info!(%node, is_up, "connection to a node");
            peer.down_since = (!is_up).then(Instant::now);
            metrics::gauge!("everlog_peer_up", "peer" => node.to_string()).set(f64::from(u8::from(is_up)));
        }
        // A node that is not heard on one lane is not to be taken for whole on the other one.
        if was_up && !is_up {
            for outgoing in peer.lanes.values() {
                outgoing.connection.close();
            }
        }
    }

    async fn connect(&self, node: NodeId, lane: Lane, address: &str) -> io::Result<(Connection, Box<dyn Io>)> {
        let purpose = match lane {
            Lane::Fast => 1,
            Lane::Bulk => 2,
        };
        let (io, reply) = self.greet(address, node, purpose).await?;
        if reply.refusal() == Refusal::Removed && self.is_of_my_cluster(&reply, node) {
            self.0.removed.send_replace(Some(reply.detail.clone()));
        }
        if self.is_of_my_cluster(&reply, node) {
            self.note_outdated(&reply);
        }
        if let Some(hello) = &reply.hello {
            self.learn_all(hello);
        }
        let hello = welcome(reply)?;
        let known = self.0.state.read().peers.get(&node).and_then(|peer| peer.directory_id);
        if known.is_some_and(|known| known.as_bytes() != &hello.directory_id[..]) {
            return Err(io::Error::other(format!("node {node} has another data directory there")));
        }
        if let Some(peer) = self.0.state.write().peers.get_mut(&node) {
            peer.abilities = hello.abilities();
        }
        Ok((Connection::new(self.next_connection(), node), io))
    }

    /// Takes in that a member refuses this node because of the formats that it reads.
    fn note_outdated(&self, reply: &Reply) {
        if reply.refusal() == Refusal::Formats {
            self.0.outdated.send_replace(Some(reply.detail.clone()));
        }
    }

    /// Whether a member answers, be it of what was made of this cluster since.
    fn is_of_my_cluster(&self, reply: &Reply, node: NodeId) -> bool {
        let state = self.0.state.read();
        state.identity.as_ref().zip(reply.hello.as_ref()).is_some_and(|(me, hello)| {
            let mut theirs = hello.former_clusters.iter().chain([&hello.cluster_id]);
            theirs.any(|theirs| theirs == me.cluster_id.as_bytes()) && hello.node_id == node.0
        })
    }

    /// Dials an address and says who this node is. What is answered is of whoever it says that it is of, as far as that can be proven.
    async fn greet(&self, address: &str, expected: NodeId, purpose: u32) -> io::Result<(Box<dyn Io>, Reply)> {
        let io = TcpStream::connect(address).await?;
        io.set_nodelay(true)?;
        let (mut io, proof): Stream = match &self.0.options.tls {
            Some(tls) if purpose == PURPOSE_STRANGER => {
                let (io, proof) = tls.connect_as_stranger(io, self.0.options.directory_id).await?;
                (Box::new(io), proof)
            }
            Some(tls) => {
                let (io, proof) = tls.connect(io).await?;
                (Box::new(io), proof)
            }
            None => (Box::new(io), Proof::None),
        };
        let greeted = async {
            handshake::write(&mut io, &self.hello(expected, purpose)).await?;
            handshake::read::<Reply>(&mut io).await
        };
        // Whoever does not take this node's certificate says so only now.
        let reply = match &self.0.options.tls {
            Some(_) => greeted.await.map_err(tls::said)?,
            None => greeted.await?,
        };
        if let Some(hello) = &reply.hello {
            proof.check(hello.node_id).map_err(|(why, text)| tls::distrust(why, text))?;
        }
        Ok((io, reply))
    }

    /// Says that whoever is at an address is not trusted or does not trust this node, now and then. Each time counts, if it is for this node to say.
    fn complain_of(&self, address: &str, error: &io::Error) {
        let Some(reason) = tls::distrusted(error) else { return };
        if reason != Why::OnTheOtherSide {
            metrics::counter!("everlog_peer_refused_total", "reason" => format!("{reason:?}")).increment(1);
        }
        let why = error.to_string();
        if self.0.complaints.is_due(Whom::At(address.to_owned()), &why) {
            tracing::warn!(address, why, "a node that was dialled and this one do not trust each other");
        }
    }
}

impl Links for Mesh {
    fn join(&self, identity: Identity, others: Vec<KnownNode>, receiver: Arc<dyn Receiver>) {
        *self.0.receiver.write() = Some(receiver);
        let me = identity.node_id;
        self.0.state.write().identity = Some(identity);
        for known in others.into_iter().filter(|known| known.node_id != me.0) {
            self.learn(known, true);
        }
    }

    fn set_directory(&self, node: NodeId, directory_id: uuid::Uuid) {
        let mut state = self.0.state.write();
        let Some(peer) = state.peers.get_mut(&node) else { return };
        let before = peer.directory_id.replace(directory_id);
        if before.is_some_and(|before| before != directory_id) {
            peer.lanes.values().for_each(|outgoing| outgoing.connection.close());
        }
    }

    fn add(&self, known: KnownNode, directory_id: uuid::Uuid) {
        let node = NodeId(known.node_id);
        {
            let state = self.0.state.read();
            let is_me = state.identity.as_ref().is_none_or(|me| me.node_id == node);
            if is_me || state.removed.contains(&node) || state.peers.contains_key(&node) {
                return;
            }
        }
        self.learn(known, true);
        self.set_directory(node, directory_id);
    }

    fn remove(&self, node: NodeId) {
        let mut state = self.0.state.write();
        if state.identity.as_ref().is_some_and(|me| me.node_id == node) {
            self.0.removed.send_replace(Some(was_removed(node)));
            return;
        }
        if state.removed.insert(node)
            && let Some(peer) = state.peers.remove(&node)
        {
            peer.lanes.values().for_each(|outgoing| outgoing.connection.close());
            peer.dial.notify_waiters();
        }
    }

    fn removed(&self) -> Pin<Box<dyn Future<Output = String> + Send>> {
        Box::pin(said(self.0.removed.subscribe()))
    }

    fn require_format(&self, version: u32) {
        let mut state = self.0.state.write();
        state.format = state.format.max(version);
    }

    fn outdated(&self) -> Pin<Box<dyn Future<Output = String> + Send>> {
        Box::pin(said(self.0.outdated.subscribe()))
    }

    fn abilities(&self, node: NodeId) -> Option<Abilities> {
        self.0.state.read().peers.get(&node).filter(|peer| peer.is_up()).map(|peer| peer.abilities)
    }

    fn down_since(&self, node: NodeId) -> Option<Instant> {
        self.0.state.read().peers.get(&node).and_then(|peer| peer.down_since)
    }

    fn known(&self) -> Vec<KnownNode> {
        self.0.state.read().peers.values().map(|peer| peer.known.clone()).collect()
    }

    fn shutdown(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async {
            self.0.stop.send_replace(true);
            let mut tasks = std::mem::take(&mut *self.0.tasks.lock());
            tasks.abort_all();
            while tasks.join_next().await.is_some() {}
            // What is cyclic ends here.
            *self.0.receiver.write() = None;
            *self.0.strangers.write() = None;
            self.0.state.write().peers.clear();
        })
    }
}

impl Transport for Mesh {
    fn call(&self, node: NodeId, lane: Lane, kind: u8, body: Bytes) -> Call {
        let connection = {
            let state = self.0.state.read();
            let peer = state.peers.get(&node).filter(|peer| peer.is_up());
            peer.and_then(|peer| peer.lanes.get(&lane)).map(|outgoing| outgoing.connection.clone())
        };
        match connection {
            Some(connection) => connection.call(kind, body),
            None => Call::not_sent(node, format!("there is no connection to node {node}")),
        }
    }

    fn is_up(&self, node: NodeId) -> bool {
        self.0.state.read().peers.get(&node).is_some_and(Peer::is_up)
    }

    fn nodes(&self) -> Vec<NodeId> {
        self.0.state.read().peers.keys().copied().collect()
    }
}

/// Waits until something is said.
async fn said(mut what: watch::Receiver<Option<String>>) -> String {
    match what.wait_for(Option::is_some).await.ok().and_then(|why| why.clone()) {
        Some(why) => why,
        // The mesh is gone.
        None => std::future::pending().await,
    }
}

/// What is said of a node that was removed.
fn was_removed(node: NodeId) -> String {
    format!("node {node} was removed from the cluster")
}

fn welcome(reply: Reply) -> io::Result<Hello> {
    match (reply.refusal(), reply.hello) {
        (Refusal::None, Some(hello)) => Ok(hello),
        (Refusal::Untrusted, _) => {
            Err(tls::distrust(Why::OnTheOtherSide, format!("it refuses this node: {}", reply.detail)))
        }
        (refusal, _) => Err(io::Error::other(format!("refused ({refusal:?}): {}", reply.detail))),
    }
}

fn random_byte() -> u8 {
    let mut byte = [0];
    // Without it nodes try in step, which is all.
    let _ = getrandom::fill(&mut byte);
    byte[0]
}
