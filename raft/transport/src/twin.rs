//! Nodes that are connected without sockets, and what may go wrong between them. For tests; runs on tokio's clock, which may be paused.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use everlog_storage::NodeId;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use crate::{Answer, Call, Cancel, ConnectionId, Failed, Incoming, Lane, Receiver, Transport};

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
}

#[derive(Default)]
struct State {
    receivers: BTreeMap<NodeId, Arc<dyn Receiver>>,
    /// Directions in which nothing gets through.
    cut: Vec<(NodeId, NodeId)>,
    delay: Delay,
    lines: HashMap<(NodeId, NodeId, Lane), Line>,
}

/// How long a message takes.
type Delay = Option<Arc<dyn Fn(NodeId, NodeId) -> Duration + Send + Sync>>;

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
        Arc::new(TwinTransport { me, network: self.clone() })
    }

    /// Adds a node, or one that comes back.
    pub fn join(&self, node: NodeId, receiver: Arc<dyn Receiver>) {
        self.0.state.lock().receivers.insert(node, receiver);
    }

    /// A node is gone: whoever waits for it hears of that at once.
    pub fn leave(&self, node: NodeId) {
        self.0.state.lock().receivers.remove(&node);
        self.end_lines(|(from, to, _)| *from == node || *to == node);
    }

    /// Nothing gets from one node to the other any more, and nobody is told.
    pub fn cut(&self, from: NodeId, to: NodeId) {
        self.0.state.lock().cut.push((from, to));
    }

    /// Everything gets through again.
    pub fn mend(&self) {
        self.0.state.lock().cut.clear();
    }

    /// Messages take as long as this says.
    pub fn delay(&self, delay: impl Fn(NodeId, NodeId) -> Duration + Send + Sync + 'static) {
        self.0.state.lock().delay = Some(Arc::new(delay));
    }

    fn is_cut(&self, from: NodeId, to: NodeId) -> bool {
        self.0.state.lock().cut.contains(&(from, to))
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
            let receiver = self.receiver(to);
            let (false, Some(receiver)) = (self.is_cut(from, to), receiver) else {
                // All that is on the line is lost with it.
                tokio::time::sleep(SILENCE_MAX).await;
                self.end_lines(|line| *line == key);
                return;
            };
            let (network, pending) = (self.clone(), Arc::clone(&pending));
            let send = move |body: Option<Bytes>| {
                tokio::spawn(async move {
                    network.travel(to, from).await;
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
    network: TwinNetwork,
}

impl Transport for TwinTransport {
    fn call(&self, node: NodeId, lane: Lane, kind: u8, body: Bytes) -> Call {
        if self.network.receiver(node).is_none() {
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
        self.network.receiver(node).is_some()
    }

    fn nodes(&self) -> Vec<NodeId> {
        self.network.0.state.lock().receivers.keys().copied().filter(|node| *node != self.me).collect()
    }
}
