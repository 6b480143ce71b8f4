//! Connections that other nodes have dialled: who they are, and whether they are listened to.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use everlog_storage::NodeId;
use tokio::net::{TcpListener, TcpStream};

use super::{Mesh, PURPOSE_STRANGER, Stranger, StrangerCalls, was_removed};
use crate::connection::{Connection, Io, Role};
use crate::handshake::{self, Hello, PROTOCOL, Refusal, Reply};
use crate::tls::{self, Proof, Whom, Why};
use crate::{Abilities, Incoming, Receiver};

impl Mesh {
    pub(super) async fn accept(&self, listener: TcpListener) {
        loop {
            match listener.accept().await {
                Ok((io, from)) => {
                    let mesh = self.clone();
                    self.spawn(async move {
                        let Err(error) = mesh.serve(io, from).await else { return };
                        match tls::distrusted(&error) {
                            Some(why) => mesh.refused(from, NodeId(0), format!("{why:?}"), &error.to_string()),
                            None => tracing::debug!(%from, %error, "a connection of a node has ended"),
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
        let (mut io, proof): (Box<dyn Io>, _) = match &self.0.options.tls {
            Some(tls) => {
                let (io, proof) = tls.accept(self.encrypted(io).await?).await?;
                (Box::new(io), proof)
            }
            None => (Box::new(io), Ok(Proof::None)),
        };
        let hello: Hello = handshake::read(&mut io).await?;
        let (why, refusal, detail) = match proof.and_then(|proof| trust(proof, &hello).map(|()| proof)) {
            Ok(proof) => match self.judge(&hello, proof) {
                Ok(role) => {
                    let welcome = self.hello(NodeId(hello.node_id), hello.purpose);
                    handshake::write(&mut io, &Reply { hello: Some(welcome), ..Reply::default() }).await?;
                    return Ok(Some((io, hello, role)));
                }
                Err((refusal, detail)) => (format!("{refusal:?}"), refusal, detail),
            },
            Err((why, detail)) => (format!("{why:?}"), Refusal::Untrusted, detail),
        };
        self.refused(from, NodeId(hello.node_id), why, &detail);
        let me = (refusal != Refusal::Untrusted).then(|| self.hello(NodeId(0), 0));
        handshake::write(&mut io, &Reply { hello: me, refusal: refusal as i32, detail }).await?;
        Ok(None)
    }

    /// Refuses whoever begins to talk in the clear, in words that it understands.
    async fn encrypted(&self, mut io: TcpStream) -> io::Result<TcpStream> {
        let mut first = [0];
        if io.peek(&mut first).await? == 1 && first[0] == handshake::MAGIC[0] {
            tls::read_greeting_unheard(&mut io).await?;
            let detail = "nodes of this cluster talk TLS: cluster.tls is not \"off\" here".to_owned();
            refuse(&mut io, Refusal::Untrusted, detail).await?;
            return Err(tls::untrusted("it does not speak TLS: is cluster.tls \"off\" there?"));
        }
        Ok(io)
    }

    /// Counts somebody who was refused, and says so now and then.
    fn refused(&self, from: SocketAddr, node: NodeId, reason: String, why: &str) {
        metrics::counter!("everlog_peer_refused_total", "reason" => reason.clone()).increment(1);
        if self.0.complaints.is_due(Whom::From(from.ip()), why) {
            tracing::warn!(%from, %node, reason, why, "a connection is refused");
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
    fn judge(&self, hello: &Hello, proof: Proof) -> Result<Arc<dyn Receiver>, (Refusal, String)> {
        if hello.protocol_min > PROTOCOL || hello.protocol_max < PROTOCOL {
            let Hello { protocol_min, protocol_max, .. } = hello;
            let detail = format!("it speaks protocols {protocol_min} to {protocol_max}, this node {PROTOCOL}");
            return Err((Refusal::Protocol, detail));
        }
        let format = self.0.state.read().format;
        if format > 0 && !hello.abilities().reads(format) {
            return Err((Refusal::Formats, outdated(format, &hello.abilities())));
        }
        if hello.purpose == PURPOSE_STRANGER {
            let calls = self.0.strangers.read().clone();
            let calls = calls.ok_or_else(|| (Refusal::NotAMember, "nobody answers strangers here".to_owned()))?;
            return Ok(Arc::new(Strange { stranger: Stranger { hello: hello.clone(), proof }, calls }));
        }
        let mut state = self.0.state.write();
        let Some(me) = state.identity.clone() else {
            return Err((Refusal::NotAMember, "this node is in no cluster yet".to_owned()));
        };
        if hello.cluster_id != me.cluster_id.as_bytes() {
            let theirs = uuid::Uuid::from_slice(&hello.cluster_id);
            if theirs.as_ref().is_ok_and(|theirs| state.former.contains(theirs)) {
                let detail = format!("the cluster was recovered without node {}", hello.node_id);
                return Err((Refusal::Removed, detail));
            }
            let theirs = theirs.map_or("none".to_owned(), |id| id.to_string());
            return Err((Refusal::WrongCluster, format!("its cluster is {theirs}, this one is {}", me.cluster_id)));
        }
        if hello.expected_node != me.node_id.0 {
            return Err((Refusal::WrongNode, format!("this is node {}, not {}", me.node_id, hello.expected_node)));
        }
        let directory_id = uuid::Uuid::from_slice(&hello.directory_id).ok();
        let node = NodeId(hello.node_id);
        if state.removed.contains(&node) {
            return Err((Refusal::Removed, was_removed(node)));
        }
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

/// What is said to a node that does not read what the cluster has.
fn outdated(format: u32, abilities: &Abilities) -> String {
    let (oldest, newest) = (abilities.formats.0.max(1), abilities.formats.1.max(1));
    let reads = if oldest == newest { format!("format {newest}") } else { format!("formats {oldest} to {newest}") };
    format!(
        "the cluster has format {format}, and this release reads {reads}: start a release that reads format {format}"
    )
}

/// The calls of one stranger.
struct Strange {
    stranger: Stranger,
    calls: Arc<dyn StrangerCalls>,
}

impl Receiver for Strange {
    fn receive(&self, incoming: Incoming) {
        self.calls.answer(&self.stranger, incoming.kind, incoming.body, incoming.answer);
    }
}

/// Whether somebody who has proven this may say that of itself.
fn trust(proof: Proof, hello: &Hello) -> Result<(), (Why, String)> {
    if let Proof::Contact(_, directory_id) = proof
        && directory_id.as_bytes() != &hello.directory_id[..]
    {
        return Err((Why::Untrusted, "it names two data directories".to_owned()));
    }
    if !proof.is_of_a_node() && hello.purpose != PURPOSE_STRANGER {
        return Err((Why::Untrusted, "only a node with a certificate is more than a stranger".to_owned()));
    }
    proof.check(hello.node_id)
}

async fn refuse(io: &mut TcpStream, refusal: Refusal, detail: String) -> io::Result<()> {
    handshake::write(io, &Reply { hello: None, refusal: refusal as i32, detail }).await
}
