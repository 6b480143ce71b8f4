//! openraft's view of the other replicas of one group.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use everlog_storage::NodeId;
use everlog_transport::{Call, Lane, Transport};
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, Stream};
use metrics::Counter;
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{Backoff, RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError, StreamAppendResult,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::storage::Snapshot;

use super::kind;
use super::wire::{self, Address};
use crate::entry_cache::payload_bytes;
use crate::pins::LogPins;
use crate::seed::SeedSources;
use crate::snapshot::GroupSnapshot;
use crate::types::{CommittedLeaderId, GroupReplica, NodeInfo, ReplicaId, TypeConfig, Vote};

/// Appends that are on their way to one follower at a time. openraft itself knows no bound.
const WINDOW_CALLS: usize = 16;
/// Bytes of entries on their way to one follower at a time; one call may go beyond.
const WINDOW_BYTES: usize = 4 << 20;

/// The first and the longest wait after a follower could not be reached.
const AGAIN_WAIT: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// How long a replica may take to be seeded, during which the log is kept for it.
const SEED_TIME_MAX: Duration = Duration::from_secs(15 * 60);

/// Numbers the streams of this process, whatever their group: a later one has a greater number.
static STREAMS: AtomicU64 = AtomicU64::new(1);

/// Makes the connections of one group to its peers.
#[derive(Clone)]
pub(crate) struct GroupNetwork {
    me: GroupReplica,
    transport: Option<Arc<dyn Transport>>,
    pub(super) seed_sources: SeedSources,
    pub(super) pins: LogPins,
    beyond_log: Counter,
}

/// The connection to one peer.
pub(crate) struct PeerConnection {
    pub(super) network: GroupNetwork,
    target: ReplicaId,
    node: NodeId,
    /// Heartbeats go by themselves on the fast lane.
    is_for_heartbeats: bool,
}

/// An append that waits for its answer.
struct Waiting {
    call: Call,
    bytes: usize,
}

impl GroupNetwork {
    /// The network of a replica. Without a transport its peers are unreachable.
    pub(crate) fn new(
        me: GroupReplica,
        transport: Option<Arc<dyn Transport>>,
        seed_sources: SeedSources,
        pins: LogPins,
    ) -> GroupNetwork {
        let label = me.group.to_string();
        metrics::describe_counter!(
            "everlog_raft_followers_beyond_log_total",
            "How often a follower needed entries that are gone, and was asked to seed itself with rows."
        );
        let beyond_log = metrics::counter!("everlog_raft_followers_beyond_log_total", "group" => label);
        GroupNetwork { me, transport, seed_sources, pins, beyond_log }
    }

    fn connection(&self, target: ReplicaId, node: &NodeInfo, is_for_heartbeats: bool) -> PeerConnection {
        // Node ids are below 2^32.
        let node = NodeId(u32::try_from(node.node_id).unwrap_or(0));
        PeerConnection { network: self.clone(), target, node, is_for_heartbeats }
    }
}

impl PeerConnection {
    pub(super) fn address(&self) -> Address {
        let GroupReplica { group, group_epoch, replica } = self.network.me;
        Address::new(group, group_epoch, replica, self.target)
    }

    pub(super) fn call(&self, lane: Lane, kind: u8, body: Bytes) -> Call {
        match &self.network.transport {
            Some(transport) => transport.call(self.node, lane, kind, body),
            None => Call::not_sent(self.node, "no transport configured"),
        }
    }

    /// Asks on the fast lane and waits for at most `wait`.
    async fn ask<T>(
        &self,
        kind: u8,
        body: Bytes,
        wait: Duration,
        read: impl FnOnce(&[u8]) -> io::Result<Option<T>>,
    ) -> Result<T, Unreachable<TypeConfig>> {
        match tokio::time::timeout(wait, self.call(Lane::Fast, kind, body)).await {
            Ok(Ok(answer)) => match read(&answer) {
                Ok(Some(answer)) => Ok(answer),
                Ok(None) => Err(self.unreachable("the replica is not there, or does not answer now")),
                Err(error) => Err(self.unreachable(error)),
            },
            Ok(Err(failed)) => Err(self.unreachable(failed)),
            Err(_) => Err(self.unreachable("no answer in time")),
        }
    }

    pub(super) fn unreachable(&self, why: impl std::fmt::Display) -> Unreachable<TypeConfig> {
        Unreachable::from_string(format!("replica {} on node {}: {why}", self.target, self.node))
    }

    async fn heartbeat(
        &self,
        request: AppendEntriesRequest<TypeConfig>,
        wait: Duration,
    ) -> Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>> {
        let body = wire::encode_append(self.address(), 0, request);
        Ok(self.ask(kind::HEARTBEAT, body, wait, wire::decode_append_answer).await?)
    }

    fn send(&self, stream: u64, request: AppendEntriesRequest<TypeConfig>) -> Waiting {
        let bytes = request.entries.iter().map(payload_bytes).sum();
        let body = wire::encode_append(self.address(), stream, request);
        Waiting { call: self.call(Lane::Bulk, kind::APPEND, body), bytes }
    }

    fn appended(
        &self,
        answer: Result<Bytes, everlog_transport::Failed>,
    ) -> Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>> {
        let answer = answer.map_err(|failed| self.unreachable(failed))?;
        match wire::decode_append_answer(&answer) {
            Ok(Some(result)) => Ok(result),
            Ok(None) => Err(self.unreachable("the replica is not there, or has stopped").into()),
            Err(error) => Err(self.unreachable(error).into()),
        }
    }

    /// Sends what comes as long as the window has room, and yields answers in order. Ends with the first that is none, or no success:
    /// what was sent behind it is in vain.
    fn append_all<'s>(
        &'s self,
        input: impl Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static,
    ) -> BoxStream<'s, Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>> {
        struct State<S> {
            input: Option<S>,
            waiting: VecDeque<Waiting>,
            bytes: usize,
        }
        let number = STREAMS.fetch_add(1, Ordering::Relaxed);
        let state = State { input: Some(input), waiting: VecDeque::new(), bytes: 0 };
        stream::unfold(Some(state), move |state| async move {
            let mut state = state?;
            loop {
                let has_room = state.waiting.len() < WINDOW_CALLS && state.bytes < WINDOW_BYTES;
                let mut next_input = None;
                let answer = match (state.input.as_mut().filter(|_| has_room), state.waiting.front_mut()) {
                    (None, None) => return None,
                    (Some(input), None) => {
                        next_input = Some(input.next().await);
                        None
                    }
                    (None, Some(front)) => Some((&mut front.call).await),
                    (Some(input), Some(front)) => tokio::select! {
                        biased;
                        answer = &mut front.call => Some(answer),
                        next = input.next() => {
                            next_input = Some(next);
                            None
                        }
                    },
                };
                match next_input {
                    Some(Some(request)) => {
                        let sent = self.send(number, request);
                        state.bytes += sent.bytes;
                        state.waiting.push_back(sent);
                    }
                    Some(None) => state.input = None,
                    None => {}
                }
                if let Some(answer) = answer {
                    state.bytes -= state.waiting.pop_front().map_or(0, |answered| answered.bytes);
                    let result = self.appended(answer);
                    let goes_on = matches!(result, Ok(Ok(_)));
                    return Some((result, goes_on.then_some(state)));
                }
            }
        })
        .boxed()
    }
}

impl RaftNetworkFactory<TypeConfig> for GroupNetwork {
    type Network = PeerConnection;

    async fn new_client(&mut self, target: ReplicaId, node: &NodeInfo) -> PeerConnection {
        self.connection(target, node, false)
    }

    async fn new_heartbeat_client(&mut self, target: ReplicaId, node: &NodeInfo) -> PeerConnection {
        self.connection(target, node, true)
    }
}

impl RaftNetworkV2<TypeConfig> for PeerConnection {
    type SnapshotData = GroupSnapshot;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        Ok(match self.heartbeat(request, option.hard_ttl()).await? {
            Ok(matching) => AppendEntriesResponse::PartialSuccess(matching),
            Err(StreamAppendError::Conflict(_)) => AppendEntriesResponse::Conflict,
            Err(StreamAppendError::HigherVote(vote)) => AppendEntriesResponse::HigherVote(vote),
        })
    }

    fn stream_append<'s, S>(
        &'s mut self,
        mut input: S,
        option: RPCOption,
    ) -> BoxFuture<
        's,
        Result<BoxStream<'s, Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>>, RPCError<TypeConfig>>,
    >
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static,
    {
        Box::pin(async move {
            if !self.is_for_heartbeats {
                return Ok(self.append_all(input));
            }
            // A heartbeat is a stream of one.
            let Some(request) = input.next().await else { return Ok(stream::empty().boxed()) };
            let result = self.heartbeat(request, option.hard_ttl()).await;
            Ok(stream::iter([result]).boxed())
        })
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let body = wire::encode_vote(self.address(), &request);
        Ok(self.ask(kind::VOTE, body, option.hard_ttl(), wire::decode_vote_answer).await?)
    }

    // Not left to openraft's default, which would grant the pre-vote in the peer's name.
    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let body = wire::encode_vote(self.address(), &request);
        Ok(self.ask(kind::PRE_VOTE, body, option.hard_ttl(), wire::decode_vote_answer).await?)
    }

    /// A follower that needs entries which are gone seeds itself, from the rows as of this snapshot.
    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot<CommittedLeaderId, ReplicaId, NodeInfo, GroupSnapshot>,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        self.network.beyond_log.increment(1);
        tokio::select! {
            closed = cancel => Err(closed.into()),
            seeded = tokio::time::timeout(SEED_TIME_MAX, self.seed(vote, snapshot)) => match seeded {
                // Never as a timeout: those are tried again without a pause.
                Err(_) => Err(self.unreachable("it took too long to seed the replica").into()),
                Ok(Err(failed)) => Err(failed.into()),
                Ok(Ok(vote)) => Ok(SnapshotResponse::new(vote)),
            },
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        let body = wire::encode_transfer(self.address(), &request);
        Ok(self.ask(kind::TRANSFER, body, option.hard_ttl(), wire::decode_transfer_answer).await?)
    }

    fn backoff(&self) -> Option<Backoff> {
        let (first, longest) = AGAIN_WAIT;
        Some(Backoff::new((0_u32..).map(move |times| first.saturating_mul(1 << times.min(16)).min(longest))))
    }
}
