//! Connections to all other nodes over TCP.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::SocketAddr;
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
use crate::tls::{self, Complaints, NodeTls, Proven, Whom};
use crate::{Answer, Call, ConnectionId, Incoming, LANES, Lane, Receiver, Timing, Transport};

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
}

/// A connection's bytes, encrypted or not, and what the other side has proven, if it had to.
type Stream = (Box<dyn Io>, Option<Proven>);

/// Somebody who is in no cluster, or whose cluster is not known yet, and what it says of itself.
pub type Stranger = Hello;

/// Answers the calls of strangers.
pub trait StrangerCalls: Send + Sync + 'static {
    /// Answers a call of a node that may be in no cluster.
    fn answer(&self, from: &Stranger, kind: u8, body: Bytes, answer: Answer);
}

/// The connections of a node. Cheap to clone; they end when [`Mesh::shutdown`] is called.
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
    /// True once everything is to end.
    stop: watch::Sender<bool>,
    tasks: Mutex<JoinSet<()>>,
}

#[derive(Default)]
struct State {
    identity: Option<Identity>,
    peers: BTreeMap<NodeId, Peer>,
}

struct Peer {
    known: KnownNode,
    directory_id: Option<uuid::Uuid>,
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
    /// Accepts on `listener`, and dials nobody before [`Mesh::join`].
    pub fn start(options: MeshOptions, listener: TcpListener) -> Mesh {
        let mesh = Mesh(Arc::new(Shared {
            options,
            state: RwLock::default(),
            receiver: RwLock::default(),
            strangers: RwLock::default(),
            next_connection: AtomicU64::new(1),
            handshakes: Semaphore::new(HANDSHAKES_MAX),
            complaints: Complaints::default(),
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

    /// This node is a member of a cluster from now on, with these other members. Their calls go to `receiver`.
    pub fn join(&self, identity: Identity, others: impl IntoIterator<Item = KnownNode>, receiver: Arc<dyn Receiver>) {
        *self.0.receiver.write() = Some(receiver);
        let me = identity.node_id;
        self.0.state.write().identity = Some(identity);
        for known in others.into_iter().filter(|known| known.node_id != me.0) {
            self.learn(known, true);
        }
    }

    /// Where the other members were last.
    pub fn known(&self) -> Vec<KnownNode> {
        self.0.state.read().peers.values().map(|peer| peer.known.clone()).collect()
    }

    /// Ends all connections, and waits until nothing runs any more.
    pub async fn shutdown(&self) {
        self.0.stop.send_replace(true);
        let mut tasks = std::mem::take(&mut *self.0.tasks.lock());
        tasks.abort_all();
        while tasks.join_next().await.is_some() {}
        // What is cyclic ends here.
        *self.0.receiver.write() = None;
        *self.0.strangers.write() = None;
        self.0.state.write().peers.clear();
    }

    /// Calls whoever is at an address, as a stranger. Returns what it says of itself with its answer.
    ///
    /// # Errors
    ///
    /// When nobody answers there, or not in time.
    pub async fn call_stranger(&self, address: &str, kind: u8, body: Bytes) -> io::Result<(Hello, Bytes)> {
        let call = async {
            let (io, hello) = self.greet(address, NodeId(0), PURPOSE_STRANGER).await?;
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
        let MeshOptions { directory_id, address, .. } = &self.0.options;
        let mut hello = Hello {
            protocol_min: PROTOCOL,
            protocol_max: PROTOCOL,
            directory_id: directory_id.as_bytes().to_vec(),
            expected_node: expected.0,
            purpose,
            address: address.clone(),
            known: state.peers.values().map(|peer| peer.known.clone()).collect(),
            ..Hello::default()
        };
        if let Some(Identity { cluster_id, node_id, start_count }) = &state.identity {
            hello.cluster_id = cluster_id.as_bytes().to_vec();
            hello.node_id = node_id.0;
            hello.start_count = *start_count;
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
                state.peers.insert(node, Peer { known, directory_id: None, lanes, dial, down_since });
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
        if let Some(hello) = &reply.hello {
            self.learn_all(hello);
        }
        welcome(reply)?;
        Ok((Connection::new(self.next_connection(), node), io))
    }

    /// Dials an address and says who this node is. What is answered is of whoever it says that it is of, as far as that can be proven.
    async fn greet(&self, address: &str, expected: NodeId, purpose: u32) -> io::Result<(Box<dyn Io>, Reply)> {
        let io = TcpStream::connect(address).await?;
        io.set_nodelay(true)?;
        let (mut io, proven): Stream = match &self.0.options.tls {
            Some(tls) => {
                let (io, proven) = tls.connect(io).await?;
                (Box::new(io), Some(proven))
            }
            None => (Box::new(io), None),
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
        if let (Some(proven), Some(hello)) = (proven, &reply.hello) {
            proven.check(hello.node_id).map_err(tls::untrusted)?;
        }
        Ok((io, reply))
    }

    /// Says that whoever is at an address is not trusted or does not trust this node, now and then.
    fn complain_of(&self, address: &str, error: &io::Error) {
        let why = error.to_string();
        if tls::is_untrusted(error) && self.0.complaints.is_due(Whom::At(address.to_owned()), &why) {
            tracing::warn!(address, why, "a node that was dialled and this one do not trust each other");
        }
    }

    async fn accept(&self, listener: TcpListener) {
        loop {
            match listener.accept().await {
                Ok((io, from)) => {
                    let mesh = self.clone();
                    self.spawn(async move {
                        match mesh.serve(io, from).await {
                            Err(error) if tls::is_untrusted(&error) => {
                                mesh.refused(from, NodeId(0), Refusal::Untrusted, &error.to_string());
                            }
                            Err(error) => tracing::debug!(%from, %error, "a connection of a node has ended"),
                            Ok(()) => {}
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "no connection of a node can be accepted");
                    tokio::time::sleep(self.0.options.timing.again.0).await;
                }
            }
        }
    }

    async fn serve(&self, mut io: TcpStream, from: SocketAddr) -> io::Result<()> {
        io.set_nodelay(true)?;
        let (io, hello, role) = {
            let Ok(_place) = self.0.handshakes.try_acquire() else {
                return match &self.0.options.tls {
                    // It could not read why.
                    Some(_) => Ok(()),
                    None => refuse(&mut io, Refusal::Busy, "too many are connecting".to_owned()).await,
                };
            };
            let greeted = tokio::time::timeout(self.0.options.timing.dial_max, self.greeted(io, from)).await;
            match greeted.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))? {
                Some(greeted) => greeted,
                None => return Ok(()),
            }
        };
        let node = NodeId(hello.node_id);
        let connection = Connection::new(self.next_connection(), node);
        let is_member = hello.purpose != PURPOSE_STRANGER;
        if is_member {
            self.learn_all(&hello);
            // It lives, so this is the time to dial it.
            if let Some(peer) = self.0.state.read().peers.get(&node) {
                peer.dial.notify_waiters();
            }
        }
        tokio::select! {
            error = connection.run(io, Role::Acceptor(role), self.0.options.timing) => Err(error),
            () = self.until_deaf(node), if is_member => {
                connection.close();
                Err(io::Error::other("it cannot be dialled itself"))
            }
        }
    }

    /// Listens to what somebody says who has dialled, and answers it. `None` if it was refused.
    async fn greeted(
        &self,
        io: TcpStream,
        from: SocketAddr,
    ) -> io::Result<Option<(Box<dyn Io>, Hello, Arc<dyn Receiver>)>> {
        let (mut io, proven): (Box<dyn Io>, _) = match &self.0.options.tls {
            Some(tls) => {
                let (io, proven) = tls.accept(self.encrypted(io).await?).await?;
                (Box::new(io), Some(proven))
            }
            None => (Box::new(io), None),
        };
        let hello: Hello = handshake::read(&mut io).await?;
        let trusted = match proven {
            Some(proven) => proven.and_then(|proven| proven.check(hello.node_id)),
            None => Ok(()),
        };
        let judged = trusted.map_err(|why| (Refusal::Untrusted, why)).and_then(|()| self.judge(&hello));
        match judged {
            Ok(role) => {
                let welcome = self.hello(NodeId(hello.node_id), hello.purpose);
                handshake::write(&mut io, &Reply { hello: Some(welcome), ..Reply::default() }).await?;
                Ok(Some((io, hello, role)))
            }
            Err((refusal, detail)) => {
                self.refused(from, NodeId(hello.node_id), refusal, &detail);
                let me = (refusal != Refusal::Untrusted).then(|| self.hello(NodeId(0), 0));
                handshake::write(&mut io, &Reply { hello: me, refusal: refusal as i32, detail }).await?;
                Ok(None)
            }
        }
    }

    /// Refuses whoever begins to talk in the clear, in words that it understands.
    async fn encrypted(&self, mut io: TcpStream) -> io::Result<TcpStream> {
        let mut first = [0];
        if io.peek(&mut first).await? == 1 && first[0] == handshake::MAGIC[0] {
            tls::read_greeting_unheard(&mut io).await?;
            let detail = "nodes of this cluster talk TLS: cluster.tls is \"files\" here".to_owned();
            refuse(&mut io, Refusal::Untrusted, detail).await?;
            return Err(tls::untrusted("it does not speak TLS: is cluster.tls \"off\" there?"));
        }
        Ok(io)
    }

    /// Counts somebody who was refused, and says so now and then.
    fn refused(&self, from: SocketAddr, node: NodeId, refusal: Refusal, why: &str) {
        metrics::counter!("everlog_peer_refused_total", "reason" => format!("{refusal:?}")).increment(1);
        if self.0.complaints.is_due(Whom::From(from.ip()), why) {
            tracing::warn!(%from, %node, ?refusal, why, "a connection is refused");
        }
    }

    /// Resolves when a node that dials this one could not be dialled itself for too long.
    async fn until_deaf(&self, node: NodeId) {
        let grace = 2 * self.0.options.timing.silence_max + self.0.options.timing.dial_max;
        let mut tick = tokio::time::interval(self.0.options.timing.silence_max);
        let since = Instant::now();
        loop {
            tick.tick().await;
            let down_since = self.0.state.read().peers.get(&node).map_or(Some(since), |peer| peer.down_since);
            if down_since.is_some_and(|down_since| down_since.max(since).elapsed() > grace) {
                return;
            }
        }
    }

    /// Who may call what.
    fn judge(&self, hello: &Hello) -> Result<Arc<dyn Receiver>, (Refusal, String)> {
        if hello.protocol_min > PROTOCOL || hello.protocol_max < PROTOCOL {
            let Hello { protocol_min, protocol_max, .. } = hello;
            let detail = format!("it speaks protocols {protocol_min} to {protocol_max}, this node {PROTOCOL}");
            return Err((Refusal::Protocol, detail));
        }
        if hello.purpose == PURPOSE_STRANGER {
            let calls = self.0.strangers.read().clone();
            let calls = calls.ok_or_else(|| (Refusal::NotAMember, "nobody answers strangers here".to_owned()))?;
            return Ok(Arc::new(Strange { hello: hello.clone(), calls }));
        }
        let mut state = self.0.state.write();
        let Some(me) = state.identity.clone() else {
            return Err((Refusal::NotAMember, "this node is in no cluster yet".to_owned()));
        };
        if hello.cluster_id != me.cluster_id.as_bytes() {
            let theirs = uuid::Uuid::from_slice(&hello.cluster_id).map_or("none".to_owned(), |id| id.to_string());
            return Err((Refusal::WrongCluster, format!("its cluster is {theirs}, this one is {}", me.cluster_id)));
        }
        if hello.expected_node != me.node_id.0 {
            return Err((Refusal::WrongNode, format!("this is node {}, not {}", me.node_id, hello.expected_node)));
        }
        let directory_id = uuid::Uuid::from_slice(&hello.directory_id).ok();
        let node = NodeId(hello.node_id);
        let Some(peer) = state.peers.get_mut(&node) else {
            return Err((Refusal::NotAMember, format!("node {node} is not a member")));
        };
        if directory_id.is_none() || peer.directory_id.is_some_and(|known| Some(known) != directory_id) {
            return Err((Refusal::DuplicateNode, format!("node {node} has another data directory")));
        }
        peer.directory_id = directory_id;
        drop(state);
        let receiver = self.0.receiver.read().clone();
        receiver.ok_or_else(|| (Refusal::NotAMember, "this node is stopping".to_owned()))
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

/// The calls of one stranger.
struct Strange {
    hello: Hello,
    calls: Arc<dyn StrangerCalls>,
}

impl Receiver for Strange {
    fn receive(&self, incoming: Incoming) {
        self.calls.answer(&self.hello, incoming.kind, incoming.body, incoming.answer);
    }
}

async fn refuse(io: &mut TcpStream, refusal: Refusal, detail: String) -> io::Result<()> {
    handshake::write(io, &Reply { hello: None, refusal: refusal as i32, detail }).await
}

fn welcome(reply: Reply) -> io::Result<Hello> {
    match (reply.refusal(), reply.hello) {
        (Refusal::None, Some(hello)) => Ok(hello),
        (Refusal::Untrusted, _) => Err(tls::untrusted(format!("it refuses this node: {}", reply.detail))),
        (refusal, _) => Err(io::Error::other(format!("refused ({refusal:?}): {}", reply.detail))),
    }
}

fn random_byte() -> u8 {
    let mut byte = [0];
    // Without it nodes try in step, which is all.
    let _ = getrandom::fill(&mut byte);
    byte[0]
}
