//! How nodes of a cluster talk to each other: calls with answers, on connections of their own.
//!
//! ```text
//!   Transport::call ──▶ queue of a lane ──▶ packet ──▶ TCP ──▶ Receiver::receive, in the order of the calls
//!        Call ◀──────────────────────────── packet ◀── TCP ◀── Answer::send, in any order
//! ```
//!
//! Each node dials every other one, once for each [`Lane`]; a connection carries the calls of whoever dialled it, and their answers. So
//! nothing has to be agreed between two nodes that dial each other at the same time, and each of them notices by itself when the other
//! one is gone: calls that wait are then [`Failed::Lost`], and later ones [`Failed::NotSent`] until it is back. A connection on which
//! nothing arrives for [`Timing::silence_max`] is closed. One that only works in one direction is no good to anybody, so a node that
//! cannot be dialled is not listened to either.
//!
//! With [`NodeTls`] both ends of a connection prove first that they are nodes of the cluster; without it they are believed.
//!
//! What the bytes of a call mean is no matter of this crate. [`Mesh`] is the real thing, [`twin`] one without sockets for tests.

mod connection;
mod handshake;
mod mesh;
mod packet;
pub mod pem;
mod tls;
pub mod twin;
mod validity;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use everlog_storage::NodeId;
use tokio::sync::oneshot;

pub use handshake::{Hello, KnownNode, Refusal};
pub use mesh::{Identity, Mesh, MeshOptions, Stranger, StrangerCalls};
pub use tls::{
    Authority, Contact, ContactKey, Credential, Fingerprint, FirstContact, JoinToken, KnownToken, NodeTls, Proof,
    SigningRequest, TlsError, TlsFiles, TokenId, Tokens, certificate_names, certificate_of_authority,
    certificate_of_node, node_name,
};
pub use validity::certificate_expiry;

/// The first kind of call that is free to be used; those before it are the transport's own.
pub const KIND_MIN: u8 = 16;

/// Calls on one lane arrive in order and wait for each other; those on different lanes do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Small messages that must not wait: votes, heartbeats.
    Fast,
    /// Everything else.
    Bulk,
}

/// Both lanes.
pub const LANES: [Lane; 2] = [Lane::Fast, Lane::Bulk];

/// When a connection counts as dead, and how often it is tried.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// How often whoever dialled says something.
    pub ping_interval: Duration,
    /// A connection on which nothing arrives for so long is closed.
    pub silence_max: Duration,
    /// How long dialling may take, with the handshake.
    pub dial_max: Duration,
    /// The first and the longest wait until an address is dialled again.
    pub again: (Duration, Duration),
}

impl Default for Timing {
    fn default() -> Timing {
        Timing {
            ping_interval: Duration::from_millis(200),
            silence_max: Duration::from_secs(1),
            dial_max: Duration::from_secs(2),
            again: (Duration::from_millis(50), Duration::from_secs(1)),
        }
    }
}

/// Why a call has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failed {
    /// It surely did not arrive.
    #[error("{0}")]
    NotSent(String),
    /// It may have arrived.
    #[error("node {0} did not answer, or the connection to it was lost")]
    Lost(NodeId),
}

/// The way to the other nodes.
pub trait Transport: Send + Sync + 'static {
    /// Calls a node. The call is queued when this returns, behind those before it on the lane; it is cancelled when what is returned is
    /// dropped.
    fn call(&self, node: NodeId, lane: Lane, kind: u8, body: Bytes) -> Call;

    /// Whether a call would be sent now, on either lane.
    fn is_up(&self, node: NodeId) -> bool;

    /// All other nodes that are known, up or not.
    fn nodes(&self) -> Vec<NodeId>;
}

/// The connections of a node to the other members of its cluster, whichever these are.
pub trait Links: Transport {
    /// This node is a member of a cluster from now on, with these other members. Their calls go to `receiver`.
    fn join(&self, identity: Identity, others: Vec<KnownNode>, receiver: Arc<dyn Receiver>);

    /// The data directory that a member has from now on, whatever it had before. Connections with another one of that node end.
    fn set_directory(&self, node: NodeId, directory_id: uuid::Uuid);

    /// There is another member, with this data directory. One that is known or was removed is left as it is.
    fn add(&self, known: KnownNode, directory_id: uuid::Uuid);

    /// A member is one no more, for good: it is not dialled, and is told so when it dials. It may be this node.
    fn remove(&self, node: NodeId);

    /// Resolves when this node was removed, or a member refuses it because it was, with what that says.
    fn removed(&self) -> Pin<Box<dyn Future<Output = String> + Send>>;

    /// Members that do not read this version of formats are refused from now on, and told so. It never becomes an older one.
    fn require_format(&self, version: u32);

    /// Resolves when a member refuses this node because it does not read the formats that the cluster has, with what that says.
    fn outdated(&self) -> Pin<Box<dyn Future<Output = String> + Send>>;

    /// What a member that is connected says that it can; nothing of one that is not, or that is not known.
    fn abilities(&self, node: NodeId) -> Option<Abilities>;

    /// Since when a member cannot be reached; none if it can be, or is no member.
    fn down_since(&self, node: NodeId) -> Option<Instant>;

    /// Where the other members were last.
    fn known(&self) -> Vec<KnownNode>;

    /// Ends all connections, and waits until nothing runs any more.
    fn shutdown(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;
}

/// What a node says when it is greeted that its release can.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Abilities {
    /// The oldest and the newest version of formats that it reads; 0 of releases that do not say so.
    pub formats: (u32, u32),
    /// What it takes that not all releases do: a bit a kind of message. Whoever sends such a message looks here first.
    pub features: u64,
}

impl Abilities {
    /// Whether it reads a version of formats. Releases that do not say so read the first one.
    pub fn reads(&self, version: u32) -> bool {
        let (oldest, newest) = self.formats;
        (oldest.max(1)..=newest.max(1)).contains(&version)
    }
}

/// A call that waits for its answer.
#[derive(Debug)]
pub struct Call {
    node: NodeId,
    answer: oneshot::Receiver<Result<Bytes, Failed>>,
    cancel: Option<Cancel>,
}

impl Call {
    /// A call that failed before it was sent.
    pub fn not_sent(node: NodeId, why: impl Into<String>) -> Call {
        let (sender, answer) = oneshot::channel();
        // The receiver is here.
        let _ = sender.send(Err(Failed::NotSent(why.into())));
        Call { node, answer, cancel: None }
    }
}

impl Future for Call {
    type Output = Result<Bytes, Failed>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = ready!(Pin::new(&mut self.answer).poll(context));
        if let Some(cancel) = &mut self.cancel {
            cancel.0 = None;
        }
        Poll::Ready(answer.unwrap_or(Err(Failed::Lost(self.node))))
    }
}

/// Tells the other side that nobody waits any more.
struct Cancel(Option<Box<dyn FnOnce() + Send>>);

impl Cancel {
    fn new(cancel: impl FnOnce() + Send + 'static) -> Cancel {
        Cancel(Some(Box::new(cancel)))
    }
}

impl Drop for Cancel {
    fn drop(&mut self) {
        if let Some(cancel) = self.0.take() {
            cancel();
        }
    }
}

impl std::fmt::Debug for Cancel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Cancel")
    }
}

/// Takes the calls of other nodes.
pub trait Receiver: Send + Sync + 'static {
    /// A call has come. Those of a connection come one after the other, in order; this must not block, and answers whenever it can.
    fn receive(&self, incoming: Incoming);

    /// Nothing comes on this connection any more, and answers to it go nowhere.
    fn disconnected(&self, connection: ConnectionId) {
        let _ = connection;
    }
}

/// Tells connections apart; never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

/// A call of another node.
#[derive(Debug)]
pub struct Incoming {
    /// Who calls.
    pub from: NodeId,
    /// The connection that it came on.
    pub connection: ConnectionId,
    /// What it is; from [`KIND_MIN`].
    pub kind: u8,
    /// The rest of it.
    pub body: Bytes,
    /// The way back.
    pub answer: Answer,
}

/// The way back to whoever called. Dropped, it says that there is no answer: to the caller that is [`Failed::Lost`].
pub struct Answer {
    send: Option<Box<dyn FnOnce(Option<Bytes>) + Send>>,
    cancelled: oneshot::Receiver<()>,
}

impl Answer {
    fn new(send: impl FnOnce(Option<Bytes>) + Send + 'static, cancelled: oneshot::Receiver<()>) -> Answer {
        Answer { send: Some(Box::new(send)), cancelled }
    }

    /// Answers.
    pub fn send(mut self, body: Bytes) {
        if let Some(send) = self.send.take() {
            send(Some(body));
        }
    }

    /// Resolves when nobody waits for the answer any more.
    pub async fn cancelled(&mut self) {
        // Cancelled by word, or with the connection.
        let _ = (&mut self.cancelled).await;
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let Some(send) = self.send.take() {
            send(None);
        }
    }
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Answer")
    }
}
