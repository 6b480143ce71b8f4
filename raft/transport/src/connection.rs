//! One connection, after the handshake: calls go one way, answers the other, and both ends say now and then that they live.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use everlog_storage::NodeId;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::sync::{Notify, oneshot};

use crate::packet::{self, MESSAGE_BYTES_MAX, Message, kind};
use crate::{Answer, Call, Cancel, ConnectionId, Failed, Incoming, KIND_MIN, Receiver, Timing};

/// Bytes that may wait on a connection. A call beyond is not sent; answers beyond end the connection, because whoever should read them
/// does not.
const WAITING_BYTES_MAX: usize = 64 << 20;

/// Bytes of messages after which a packet is not added to.
const PACKET_BYTES: usize = 256 << 10;

/// A stream of bytes between two nodes.
pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// The end of a connection that calls and answers are given to. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Connection(Arc<Shared>);

struct Shared {
    id: ConnectionId,
    peer: NodeId,
    state: Mutex<State>,
    wake: Notify,
    close: Notify,
}

#[derive(Default)]
struct State {
    is_closed: bool,
    waiting: VecDeque<Message>,
    waiting_bytes: usize,
    next_call: u64,
    /// Calls of this side that wait for their answers.
    calls: HashMap<u64, oneshot::Sender<Result<Bytes, Failed>>>,
    /// Calls of the other side that are being answered.
    answering: HashMap<u64, oneshot::Sender<()>>,
    pinged: Option<Instant>,
}

/// What a side of a connection does.
pub(crate) enum Role {
    /// It has dialled: it calls, and pings.
    Dialler,
    /// It answers.
    Acceptor(Arc<dyn Receiver>),
}

impl Connection {
    pub(crate) fn new(id: ConnectionId, peer: NodeId) -> Connection {
        let (wake, close) = (Notify::new(), Notify::new());
        Connection(Arc::new(Shared { id, peer, state: Mutex::default(), wake, close }))
    }

    /// Queues a call.
    pub(crate) fn call(&self, kind: u8, body: Bytes) -> Call {
        debug_assert!(kind >= KIND_MIN, "the others are the transport's own");
        let peer = self.0.peer;
        if body.len() > MESSAGE_BYTES_MAX {
            return Call::not_sent(peer, format!("a call of {} bytes is too large", body.len()));
        }
        let (sender, answer) = oneshot::channel();
        let mut state = self.0.state.lock();
        if state.is_closed {
            return Call::not_sent(peer, format!("there is no connection to node {peer}"));
        }
        if state.waiting_bytes > WAITING_BYTES_MAX {
            return Call::not_sent(peer, format!("too much waits to be sent to node {peer}"));
        }
        let id = state.next_call;
        state.next_call += 1;
        state.calls.insert(id, sender);
        state.push(Message { kind, id, body });
        drop(state);
        self.0.wake.notify_one();
        let this = self.clone();
        Call { node: peer, answer, cancel: Some(Cancel::new(move || this.cancel(id))) }
    }

    fn cancel(&self, id: u64) {
        let mut state = self.0.state.lock();
        if state.calls.remove(&id).is_none() {
            return;
        }
        // One that has not left yet does not need to.
        let before = state.waiting.len();
        state.waiting.retain(|message| message.id != id || message.kind < KIND_MIN);
        if state.waiting.len() == before && !state.is_closed {
            state.push(Message { kind: kind::CANCEL, id, body: Bytes::new() });
            drop(state);
            self.0.wake.notify_one();
        } else {
            state.waiting_bytes = state.waiting.iter().map(Message::size).sum();
        }
    }

    fn answer(&self, id: u64, body: Option<Bytes>) {
        let mut state = self.0.state.lock();
        // Nobody waits for the answer to a call that was cancelled.
        if state.answering.remove(&id).is_none() || state.is_closed {
            return;
        }
        let (kind, body) = match body {
            Some(body) if body.len() <= MESSAGE_BYTES_MAX => (kind::ANSWER, body),
            // Also one that is too large to be sent.
            _ => (kind::UNANSWERED, Bytes::new()),
        };
        if state.waiting_bytes > WAITING_BYTES_MAX {
            drop(state);
            tracing::warn!(peer = %self.0.peer, "answers are not read: the connection is closed");
            return self.close();
        }
        state.push(Message { kind, id, body });
        drop(state);
        self.0.wake.notify_one();
    }

    /// Ends the connection.
    pub(crate) fn close(&self) {
        self.0.state.lock().is_closed = true;
        self.0.close.notify_one();
    }

    /// Carries messages until the connection ends, and says why.
    pub(crate) async fn run(&self, io: impl Io, role: Role, timing: Timing) -> io::Error {
        let (read, write) = tokio::io::split(io);
        let pings = matches!(role, Role::Dialler);
        // Also if this future is dropped: nobody must wait for a connection that is gone.
        let _ending = Ending { connection: self, role: &role };
        tokio::select! {
            end = self.read(BufReader::with_capacity(64 << 10, read), &role, timing) => end,
            end = self.write(write, pings, timing) => end,
            () = self.0.close.notified() => io::Error::other("it was closed on this side"),
        }
    }

    fn ended(&self) {
        let (calls, answering) = {
            let mut state = self.0.state.lock();
            state.is_closed = true;
            state.waiting.clear();
            state.waiting_bytes = 0;
            (std::mem::take(&mut state.calls), std::mem::take(&mut state.answering))
        };
        // Whoever waits is told by the drop, outside of the lock.
        drop((calls, answering));
    }

    async fn write(&self, mut io: impl AsyncWrite + Unpin, pings: bool, timing: Timing) -> io::Error {
        let (mut messages, mut packet) = (Vec::new(), BytesMut::new());
        let mut ping = tokio::time::interval(timing.ping_interval);
        ping.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            self.0.state.lock().take(&mut messages);
            if messages.is_empty() {
                tokio::select! {
                    () = self.0.wake.notified() => {}
                    _ = ping.tick(), if pings => {
                        let mut state = self.0.state.lock();
                        state.pinged.get_or_insert_with(Instant::now);
                        state.push(Message { kind: kind::PING, id: 0, body: Bytes::new() });
                    }
                }
                continue;
            }
            packet::encode(&messages, &mut packet);
            messages.clear();
            if let Err(error) = io.write_all(&packet).await {
                return error;
            }
            if let Err(error) = io.flush().await {
                return error;
            }
            if packet.capacity() > 4 * PACKET_BYTES {
                packet = BytesMut::new();
            }
        }
    }

    async fn read(&self, mut io: impl AsyncRead + Unpin, role: &Role, timing: Timing) -> io::Error {
        loop {
            let read = match tokio::time::timeout(timing.silence_max, packet::read(&mut io)).await {
                Ok(read) => read,
                Err(_) => return io::Error::new(io::ErrorKind::TimedOut, "nothing has come for too long"),
            };
            let mut packet = match read {
                Ok(Some(packet)) => packet,
                Ok(None) => return io::Error::new(io::ErrorKind::UnexpectedEof, "the other side has closed it"),
                Err(error) => return error,
            };
            loop {
                match packet::next(&mut packet) {
                    Ok(Some(message)) => self.take_in(message, role),
                    Ok(None) => break,
                    Err(error) => return error,
                }
            }
        }
    }

    fn take_in(&self, Message { kind, id, body }: Message, role: &Role) {
        match kind {
            kind::ANSWER => {
                let call = self.0.state.lock().calls.remove(&id);
                // A caller that went away does not care.
                let _ = call.map(|call| call.send(Ok(body)));
            }
            kind::UNANSWERED => drop(self.0.state.lock().calls.remove(&id)),
            kind::CANCEL => drop(self.0.state.lock().answering.remove(&id)),
            kind::PING => {
                self.0.state.lock().push(Message { kind: kind::PONG, id, body: Bytes::new() });
                self.0.wake.notify_one();
            }
            kind::PONG => {
                if let Some(pinged) = self.0.state.lock().pinged.take() {
                    metrics::histogram!("everlog_peer_rtt_seconds", "peer" => self.0.peer.to_string())
                        .record(pinged.elapsed().as_secs_f64());
                }
            }
            // What a later version has of its own is for none of this one's receivers.
            _ if kind < KIND_MIN => {}
            _ => {
                let Role::Acceptor(receiver) = role else { return };
                let (sender, cancelled) = oneshot::channel();
                self.0.state.lock().answering.insert(id, sender);
                let this = self.clone();
                let answer = Answer::new(move |body| this.answer(id, body), cancelled);
                receiver.receive(Incoming { from: self.0.peer, connection: self.0.id, kind, body, answer });
            }
        }
    }
}

/// Tells everybody who waits when a connection ends, however it does.
struct Ending<'a> {
    connection: &'a Connection,
    role: &'a Role,
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.connection.ended();
        if let Role::Acceptor(receiver) = self.role {
            receiver.disconnected(self.connection.0.id);
        }
    }
}

impl State {
    fn push(&mut self, message: Message) {
        self.waiting_bytes += message.size();
        self.waiting.push_back(message);
    }

    /// The messages of the next packet.
    fn take(&mut self, messages: &mut Vec<Message>) {
        let mut bytes = 0;
        while let Some(message) = self.waiting.front()
            && (messages.is_empty() || bytes + message.size() <= PACKET_BYTES)
        {
            bytes += message.size();
            messages.extend(self.waiting.pop_front());
        }
        self.waiting_bytes -= bytes;
    }
}
