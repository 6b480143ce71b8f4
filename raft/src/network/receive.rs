//! What other nodes ask of the replicas of this one.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use everlog_storage::GroupId;
use everlog_transport::{Answer, ConnectionId, Incoming, Receiver};
use futures::{StreamExt, stream};
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, StreamAppendError, StreamAppendResult};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::kind;
use super::seeding::SeedHost;
use super::wire::{self, Address, Addressed};
use crate::group::{Group, RaftGroup};
use crate::node::OpenGroups;
use crate::sabotage::{self, Sabotage};
use crate::types::{ReplicaId, TypeConfig};

/// Takes Raft's messages of other nodes: the calls of the kinds in [`kind`].
pub struct RaftReceiver {
    groups: OpenGroups,
    seeds: Option<Arc<SeedHost>>,
    streams: Mutex<HashMap<StreamKey, AppendStream>>,
    runtime: Handle,
}

/// A leader has one stream of appends to a follower at a time.
type StreamKey = (ConnectionId, GroupId, ReplicaId);

struct AppendStream {
    number: u64,
    appends: mpsc::UnboundedSender<Append>,
}

struct Append {
    request: AppendEntriesRequest<TypeConfig>,
    answer: Answer,
}

impl RaftReceiver {
    /// Must be called within a tokio runtime, which then carries the calls.
    pub(crate) fn new(groups: OpenGroups, seeds: Option<SeedHost>) -> RaftReceiver {
        RaftReceiver { groups, seeds: seeds.map(Arc::new), streams: Mutex::default(), runtime: Handle::current() }
    }

    /// Takes messages for no group at all. For tests of what else a node takes.
    pub fn of_nothing() -> RaftReceiver {
        RaftReceiver::new(OpenGroups::default(), None)
    }

    /// The replica that a message is for, if it is the one that is here.
    fn addressed(&self, address: &Address) -> Option<Group> {
        let (replica, group) = self.groups.get(address.group())?;
        let is_meant = replica.group_epoch == address.group_epoch && replica.replica == address.to;
        if !is_meant {
            tracing::debug!(group = %address.group(), to = address.to, "a message is for another replica");
        }
        (is_meant || sabotage::is(Sabotage::MessageForAnyReplica)).then_some(group)
    }

    fn append(&self, incoming: Incoming) {
        let Incoming { connection, body, answer, .. } = incoming;
        let Some(Addressed { address, message: (number, request) }) = read(wire::decode_append(&body)) else {
            return answer.send(wire::encode_append_answer(None));
        };
        let Some(group) = self.addressed(&address) else {
            return answer.send(wire::encode_append_answer(None));
        };
        let mut streams = self.streams.lock();
        let stream = match streams.entry((connection, address.group(), address.from)) {
            Entry::Occupied(known) if known.get().number >= number => known.into_mut(),
            entry => {
                let (appends, queue) = mpsc::unbounded_channel();
                self.runtime.spawn(take_in(group.raft().clone(), queue));
                entry.insert_entry(AppendStream { number, appends }).into_mut()
            }
        };
        // One of a stream that is over, or that another one has replaced.
        let refused = if stream.number == number {
            stream.appends.send(Append { request, answer }).err().map(|refused| refused.0.answer)
        } else {
            Some(answer)
        };
        if let Some(answer) = refused {
            answer.send(wire::encode_append_answer(None));
        }
    }

    fn heartbeat(&self, incoming: Incoming) {
        let Incoming { body, answer, .. } = incoming;
        let read = read(wire::decode_append(&body));
        let group = read.as_ref().and_then(|read| self.addressed(&read.address));
        let (Some(Addressed { message: (_, request), .. }), Some(group)) = (read, group) else {
            return answer.send(wire::encode_append_answer(None));
        };
        self.runtime.spawn(async move {
            let previous = request.prev_log_id;
            let last = request.entries.last().map(|entry| entry.log_id).or(previous);
            let result = match group.raft().append_entries(request).await {
                Ok(AppendEntriesResponse::Success) => Some(Ok(last)),
                Ok(AppendEntriesResponse::PartialSuccess(matching)) => Some(Ok(matching)),
                Ok(AppendEntriesResponse::Conflict) => {
                    previous.map(|previous| Err(StreamAppendError::Conflict(previous)))
                }
                Ok(AppendEntriesResponse::HigherVote(vote)) => Some(Err(StreamAppendError::HigherVote(vote))),
                Err(_) => None,
            };
            answer.send(wire::encode_append_answer(result.as_ref()));
        });
    }

    fn vote(&self, incoming: Incoming) {
        let Incoming { kind, body, answer, .. } = incoming;
        let read = read(wire::decode_vote(&body));
        let group = read.as_ref().and_then(|read| self.addressed(&read.address));
        let (Some(Addressed { message: request, .. }), Some(group)) = (read, group) else {
            return answer.send(wire::encode_vote_answer(None));
        };
        if !group.may_grant_vote(Instant::now(), request.leadership_transfer) {
            return answer.send(wire::encode_vote_answer(None));
        }
        self.runtime.spawn(async move {
            let raft = group.raft();
            let voted = if kind == kind::VOTE { raft.vote(request).await } else { raft.pre_vote(request).await };
            answer.send(wire::encode_vote_answer(voted.ok().as_ref()));
        });
    }

    fn transfer(&self, incoming: Incoming) {
        let Incoming { body, answer, .. } = incoming;
        let read = read(wire::decode_transfer(&body));
        let group = read.as_ref().and_then(|read| self.addressed(&read.address));
        let (Some(Addressed { message: request, .. }), Some(group)) = (read, group) else {
            return answer.send(wire::encode_transfer_answer(None));
        };
        self.runtime.spawn(async move {
            let taken = group.raft().handle_transfer_leader(request).await;
            answer.send(wire::encode_transfer_answer(taken.ok().as_ref()));
        });
    }
}

impl Receiver for RaftReceiver {
    fn receive(&self, incoming: Incoming) {
        match incoming.kind {
            kind::APPEND => self.append(incoming),
            kind::HEARTBEAT => self.heartbeat(incoming),
            kind::VOTE | kind::PRE_VOTE => self.vote(incoming),
            kind::TRANSFER => self.transfer(incoming),
            kind::SEED | kind::SEED_ROWS => {
                if let Some(seeds) = &self.seeds {
                    seeds.receive(&self.runtime, incoming);
                }
            }
            // Of a later version: whoever sends it gives up in its own time.
            unknown => tracing::debug!(from = %incoming.from, unknown, "a message that this version does not know"),
        }
    }

    fn disconnected(&self, connection: ConnectionId) {
        self.streams.lock().retain(|(known, ..), _| *known != connection);
    }
}

/// A message that cannot be read is answered as one that came to nobody.
pub(super) fn read<T>(message: io::Result<T>) -> Option<T> {
    message.inspect_err(|error| tracing::warn!(%error, "a message of another node cannot be read")).ok()
}

/// Gives the appends of one stream to the core, and answers them in order, until one is no success.
async fn take_in(raft: RaftGroup, queue: mpsc::UnboundedReceiver<Append>) {
    let (given, mut answers) = mpsc::unbounded_channel();
    let requests = stream::unfold((queue, given), |(mut queue, given)| async move {
        let Append { request, answer } = queue.recv().await?;
        // Whoever answers may have given up. An answer that is dropped tells the leader, too.
        given.send(answer).ok()?;
        Some((request, (queue, given)))
    });
    let results = raft.stream_append(requests);
    futures::pin_mut!(results);
    while let Some(result) = results.next().await {
        let Some(answer) = answers.recv().await else { return };
        let result: Option<StreamAppendResult<TypeConfig>> = result.ok();
        answer.send(wire::encode_append_answer(result.as_ref()));
        if !matches!(result, Some(Ok(_))) {
            break;
        }
    }
    // What was sent behind is in vain, and is answered by being dropped.
}
