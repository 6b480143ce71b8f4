//! Nodes that are connected without sockets, and what may go wrong between them. For tests; runs on tokio's clock, which may be paused.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use everlog_storage::NodeId;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::{
    Abilities, Answer, Call, Cancel, ConnectionId, Failed, Identity, Incoming, KnownNode, Lane, Links, Receiver,
    Transport,
};

/// How long it takes until a node notices that another one has gone silent.
const SILENCE_MAX: Duration = Duration::from_secs(1);

/// Connects nodes.
#[derive(Clone, Default)]
pub struct TwinNetwork(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    next_connection: AtomicU64,
    next_call: AtomicU64,
    next_transport: AtomicU64,
}

#[derive(Default)]
struct State {
    receivers: BTreeMap<NodeId, Arc<dyn Receiver>>,
    /// Transports up to these are of nodes that are gone: what is left of their processes is not heard.
    gone: BTreeMap<NodeId, u64>,
    /// Directions in which nothing gets through, and since when.
    cut: BTreeMap<(NodeId, NodeId), Instant>,
    /// Those that are members no more, each with those that have removed it.
    removed: BTreeMap<NodeId, BTreeSet<NodeId>>,
    delay: Delay,
    breaks: Breaks,
    lines: HashMap<(NodeId, NodeId, Lane), Line>,
}

/// How long a message takes.
type Delay = Option<Arc<dyn Fn(NodeId, NodeId) -> Duration + Send + Sync>>;

/// Whether a message is lost, and its connection with it.
type Breaks = Option<Arc<dyn Fn(NodeId, NodeId) -> bool + Send + Sync>>;

/// One lane in one direction. It is made anew when either end was away, or a message was lost: then all that wait for answers hear of it.
#[derive(Clone)]
struct Line {
    connection: ConnectionId,
    calls: mpsc::UnboundedSender<Sent>,
    /// Whoever waits for an answer; forgotten with the line.
    pending: Pending,
}

type Pending = Arc<Mutex<HashMap<u64, oneshot::Sender<Result<Bytes, Failed>>>>>;

struct Sent {
    kind: u8,
    body: Bytes,
    id: u64,
    cancelled: oneshot::Receiver<()>,
}

impl TwinNetwork {
    /// A network with no nodes yet.
    pub fn new() -> TwinNetwork {
        TwinNetwork::default()
    }

    /// The way from a node to the others, whether it is there yet or not.
    pub fn transport(&self, me: NodeId) -> Arc<dyn Transport> {
        self.links(me)
    }

    /// The same, with what members know of each other.
    pub fn links(&self, me: NodeId) -> Arc<dyn Links> {
        let number = self.0.next_transport.fetch_add(1, Ordering::Relaxed) + 1;
        let (members, down) = Default::default();
        Arc::new(TwinTransport { me, number, network: self.clone(), members, down })
    }

    /// Adds a node, or one that comes back.
    pub fn join(&self, node: NodeId, receiver: Arc<dyn Receiver>) {
        self.0.state.lock().receivers.insert(node, receiver);
    }

    /// A node is gone: whoever waits for it hears of that at once. Transports that it was given so far are of no use any more.
    pub fn leave(&self, node: NodeId) {
        let mut state = self.0.state.lock();
        state.receivers.remove(&node);
        state.gone.insert(node, self.0.next_transport.load(Ordering::Relaxed));
        drop(state);
        self.end_lines(|(from, to, _)| *from == node || *to == node);
    }

    /// Nothing gets from one node to the other any more, and nobody is told. After a while nothing gets the other way, either: a node that
    /// cannot be dialled is not listened to.
    pub fn cut(&self, from: NodeId, to: NodeId) {
        self.0.state.lock().cut.entry((from, to)).or_insert_with(Instant::now);
    }

    /// Messages get from one node to the other again.
    pub fn join_ends(&self, from: NodeId, to: NodeId) {
        self.0.state.lock().cut.remove(&(from, to));
    }

    /// Everything gets through again.
    pub fn mend(&self) {
        self.0.state.lock().cut.clear();
    }

    /// Messages take as long as this says.
    pub fn delay(&self, delay: impl Fn(NodeId, NodeId) -> Duration + Send + Sync + 'static) {
        self.0.state.lock().delay = Some(Arc::new(delay));
    }

    /// From now on this says which messages are lost, with all that is on their way on the same connection.
    pub fn lose(&self, breaks: impl Fn(NodeId, NodeId) -> bool + Send + Sync + 'static) {
        self.0.state.lock().breaks = Some(Arc::new(breaks));
    }

    fn breaks(&self, from: NodeId, to: NodeId) -> bool {
        let breaks = self.0.state.lock().breaks.clone();
        breaks.is_some_and(|breaks| breaks(from, to))
    }

    fn is_cut(&self, from: NodeId, to: NodeId) -> bool {
        let state = self.0.state.lock();
        let is_known = state.cut.get(&(to, from)).is_some_and(|since| since.elapsed() >= SILENCE_MAX);
        is_known || state.cut.contains_key(&(from, to))
    }

    /// Whether `node` takes `other` for a member no more.
    fn has_removed(&self, node: NodeId, other: NodeId) -> bool {
        self.0.state.lock().removed.get(&other).is_some_and(|by| by.contains(&node))
    }

    async fn travel(&self, from: NodeId, to: NodeId) {
        let delay = self.0.state.lock().delay.clone();
        if let Some(delay) = delay {
            tokio::time::sleep(delay(from, to)).await;
        }
    }

    fn receiver(&self, node: NodeId) -> Option<Arc<dyn Receiver>> {
        self.0.state.lock().receivers.get(&node).cloned()
    }

    fn end_lines(&self, ends: impl Fn(&(NodeId, NodeId, Lane)) -> bool) {
        let ended: Vec<_> = self.0.state.lock().lines.extract_if(|line, _| ends(line)).collect();
        for ((_, to, _), line) in ended {
            line.pending.lock().clear();
            if let Some(receiver) = self.receiver(to) {
                receiver.disconnected(line.connection);
            }
        }
    }

    /// Whether a line is what it was made as: what was sent on one that has ended never arrives.
    fn is_current(&self, line: &(NodeId, NodeId, Lane), connection: ConnectionId) -> bool {
        self.0.state.lock().lines.get(line).is_some_and(|line| line.connection == connection)
    }

    fn line(&self, from: NodeId, to: NodeId, lane: Lane) -> Line {
        let mut state = self.0.state.lock();
        let key = (from, to, lane);
        state
            .lines
            .entry(key)
            .or_insert_with(|| {
                let (calls, queue) = mpsc::unbounded_channel();
                let connection = ConnectionId(self.0.next_connection.fetch_add(1, Ordering::Relaxed));
                let pending = Pending::default();
                tokio::spawn(self.clone().carry(key, connection, queue, Arc::clone(&pending)));
                Line { connection, calls, pending }
            })
            .clone()
    }

    async fn carry(
        self,
        key: (NodeId, NodeId, Lane),
        connection: ConnectionId,
        mut queue: mpsc::UnboundedReceiver<Sent>,
        pending: Pending,
    ) {
        let (from, to, _) = key;
        while let Some(Sent { kind, body, id, cancelled }) = queue.recv().await {
            self.travel(from, to).await;
            if self.breaks(from, to) {
                self.end_lines(|line| *line == key);
                return;
            }
            if !self.is_current(&key, connection) {
                return;
            }
            let receiver = self.receiver(to);
            let is_cut = self.is_cut(from, to) || self.has_removed(to, from);
            let (false, Some(receiver)) = (is_cut, receiver) else {
                // All that is on the line is lost with it.
                tokio::time::sleep(SILENCE_MAX).await;
                self.end_lines(|line| *line == key);
                return;
            };
            let (network, pending) = (self.clone(), Arc::clone(&pending));
            let send = move |body: Option<Bytes>| {
                tokio::spawn(async move {
                    network.travel(to, from).await;
                    if network.breaks(to, from) {
                        return network.end_lines(|line| *line == key);
                    }
                    if network.is_cut(to, from) {
                        tokio::time::sleep(SILENCE_MAX).await;
                        network.end_lines(|line| *line == key);
                        return;
                    }
                    let answer = pending.lock().remove(&id);
                    // A caller that went away does not care.
                    let _ = answer.zip(body).map(|(answer, body)| answer.send(Ok(body)));
                });
            };
            let answer = Answer::new(send, cancelled);
            receiver.receive(Incoming { from, connection, kind, body, answer });
        }
    }
}

struct TwinTransport {
    me: NodeId,
    number: u64,
    network: TwinNetwork,
    /// Once it is a member, the other ones.
    members: Mutex<Option<BTreeMap<NodeId, KnownNode>>>,
    /// Members that could not be reached when somebody asked, and since when.
    down: Mutex<BTreeMap<NodeId, std::time::Instant>>,
}

impl TwinTransport {
    fn is_known(&self, node: NodeId) -> bool {
        self.members.lock().as_ref().is_none_or(|members| members.contains_key(&node))
    }

    fn is_gone(&self) -> bool {
        self.network.0.state.lock().gone.get(&self.me).is_some_and(|gone| self.number <= *gone)
    }
}

impl Transport for TwinTransport {
    fn call(&self, node: NodeId, lane: Lane, kind: u8, body: Bytes) -> Call {
        if self.is_gone() || self.network.receiver(node).is_none() || !self.is_known(node) {
            return Call::not_sent(node, format!("there is no connection to node {node}"));
        }
        let (sender, answer) = oneshot::channel();
        let (cancel, cancelled) = oneshot::channel::<()>();
        let line = self.network.line(self.me, node, lane);
        let id = self.network.0.next_call.fetch_add(1, Ordering::Relaxed);
        line.pending.lock().insert(id, sender);
        let sent = Sent { kind, body, id, cancelled };
        if line.calls.send(sent).is_err() {
            self.network.end_lines(|key| *key == (self.me, node, lane));
            return Call::not_sent(node, format!("there is no connection to node {node}"));
        }
        Call { node, answer, cancel: Some(Cancel::new(move || drop(cancel))) }
    }

    fn is_up(&self, node: NodeId) -> bool {
        let is_cut = self.network.is_cut(self.me, node) || self.network.is_cut(node, self.me);
        !is_cut && !self.is_gone() && self.is_known(node) && self.network.receiver(node).is_some()
    }

    fn nodes(&self) -> Vec<NodeId> {
        match &*self.members.lock() {
            Some(members) => members.keys().copied().collect(),
            None => self.network.0.state.lock().receivers.keys().copied().filter(|node| *node != self.me).collect(),
        }
    }
}

impl Links for TwinTransport {
    fn join(&self, _: Identity, others: Vec<KnownNode>, receiver: Arc<dyn Receiver>) {
        let others = others.into_iter().map(|known| (NodeId(known.node_id), known));
        *self.members.lock() = Some(others.filter(|(node, _)| *node != self.me).collect());
        if !self.is_gone() {
            self.network.join(self.me, receiver);
        }
    }

    /// No disk that is lost comes back here.
    fn set_directory(&self, _: NodeId, _: uuid::Uuid) {}

    fn add(&self, known: KnownNode, _: uuid::Uuid) {
        let node = NodeId(known.node_id);
        let is_removed = self.network.has_removed(self.me, node);
        if let Some(members) = self.members.lock().as_mut().filter(|_| node != self.me && !is_removed) {
            members.entry(node).or_insert(known);
        }
    }

    fn remove(&self, node: NodeId) {
        self.network.0.state.lock().removed.entry(node).or_default().insert(self.me);
        if let Some(members) = &mut *self.members.lock() {
            members.remove(&node);
        }
        self.network.end_lines(|(from, to, _)| (*from, *to) == (self.me, node) || (*from, *to) == (node, self.me));
    }

    fn removed(&self) -> Pin<Box<dyn Future<Output = String> + Send>> {
        let (network, me) = (self.network.clone(), self.me);
        Box::pin(async move {
            loop {
                let by = network.0.state.lock().removed.get(&me).cloned().unwrap_or_default();
                if by.into_iter().any(|by| by == me || !network.is_cut(by, me) && network.receiver(by).is_some()) {
                    return format!("node {me} was removed");
                }
                tokio::time::sleep(SILENCE_MAX).await;
            }
        })
    }

    /// All nodes here are of one release.
    fn require_format(&self, _: u32) {}

    fn outdated(&self) -> Pin<Box<dyn Future<Output = String> + Send>> {
        Box::pin(std::future::pending())
    }

    fn abilities(&self, node: NodeId) -> Option<Abilities> {
        (self.is_known(node) && self.is_up(node)).then_some(Abilities { formats: (1, u32::MAX), features: u64::MAX })
    }

    fn down_since(&self, node: NodeId) -> Option<std::time::Instant> {
        let mut down = self.down.lock();
        if self.is_up(node) || !self.is_known(node) {
            down.remove(&node);
            return None;
        }
        Some(*down.entry(node).or_insert_with(std::time::Instant::now))
    }

    fn known(&self) -> Vec<KnownNode> {
        self.members.lock().iter().flat_map(|members| members.values().cloned()).collect()
    }

    fn shutdown(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        self.network.leave(self.me);
        Box::pin(std::future::ready(()))
    }
}
