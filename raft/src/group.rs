//! The handle to one Raft group: propose row batches, watch leadership, read rows.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use everlog_storage::keys::KeyRange;
use everlog_storage::state::{
    Direction, Row, RowBatch, RowChange, RowsView, StateEngine, StateError, Visitor, check_row_key,
};
use everlog_storage::{Follow, GroupId, NodeId, Wake, Watch};
use futures::FutureExt;
use metrics::Counter;
use openraft::async_runtime::{Instant as _, WatchReceiver};
use openraft::errors::{ClientWriteError, InitializeError, RaftError};
use openraft::metrics::RaftDataMetrics;
use openraft::raft::ClientWriteResult;
use openraft::type_config::alias::{InstantOf, WatchReceiverOf};
use openraft::{ChangeMembers, LinearizerOption, Raft, ReadPolicy};
use parking_lot::RwLock;
use tokio::sync::{oneshot, watch};

use crate::chain::{AppliedChain, ChainPosition, ChainStep, EntryStamp};
use crate::hold_off::VoteHoldOff;
use crate::log_store::GroupLog;
use crate::node::NodeError;
use crate::pins::{LogPin, LogPins};
use crate::progress::GroupProgress;
use crate::rows::EncodedRows;
use crate::sabotage::{self, Sabotage};
use crate::state_machine::GroupStateMachine;
use crate::types::{CallbackResponder, CommittedLeaderId, NodeInfo, ReplicaId, StoredMembership, TypeConfig};

pub(crate) type RaftGroup = Raft<TypeConfig, GroupStateMachine>;

/// Entries that a learner may lack to become a voter: it has those in a moment.
const NEW_VOTER_LAG_MAX: u64 = 128;

/// A Raft group on this node. Cheap to clone.
#[derive(Clone)]
pub struct Group(Arc<GroupParts>);

/// Where the handle of a group is found that may die and be opened again: it is another one then, so it is not to be kept.
pub type GroupSlot = Arc<RwLock<Group>>;

/// Groups of a node, which come and go. Clones share them.
#[derive(Clone, Default)]
pub struct GroupSlots(Arc<RwLock<BTreeMap<GroupId, GroupSlot>>>);

impl GroupSlots {
    /// There is another one.
    pub fn add(&self, group: GroupSlot) {
        let id = group.read().id();
        self.0.write().insert(id, group);
    }

    /// One is gone.
    pub fn remove(&self, group: GroupId) {
        self.0.write().remove(&group);
    }

    /// Where each of them is found.
    pub fn slots(&self) -> Vec<GroupSlot> {
        self.0.read().values().cloned().collect()
    }

    /// Where one of them is found, if it is there.
    pub fn slot(&self, group: GroupId) -> Option<GroupSlot> {
        self.0.read().get(&group).cloned()
    }

    /// One of them, if it is there.
    pub fn get(&self, group: GroupId) -> Option<Group> {
        self.0.read().get(&group).map(|slot| slot.read().clone())
    }

    /// All of them, by their ids.
    pub fn all(&self) -> Vec<Group> {
        self.0.read().values().map(|slot| slot.read().clone()).collect()
    }
}

impl FromIterator<GroupSlot> for GroupSlots {
    fn from_iter<T: IntoIterator<Item = GroupSlot>>(groups: T) -> GroupSlots {
        let all = GroupSlots::default();
        groups.into_iter().for_each(|group| all.add(group));
        all
    }
}

/// What a group consists of.
pub(crate) struct GroupParts {
    pub(crate) id: GroupId,
    pub(crate) raft: RaftGroup,
    pub(crate) log: GroupLog,
    pub(crate) state: Arc<dyn StateEngine>,
    pub(crate) progress: Arc<GroupProgress>,
    pub(crate) leadership: watch::Receiver<Leadership>,
    /// The node that leads, by its id; 0 while none is known.
    pub(crate) leader: Arc<AtomicU32>,
    /// openraft's view of the log and of who acknowledged what; read for the lease.
    pub(crate) data_metrics: WatchReceiverOf<TypeConfig, RaftDataMetrics<TypeConfig>>,
    /// How old a quorum's acknowledgement may be for a lease read.
    pub(crate) lease: Duration,
    /// Whether a quorum is asked before each read, lease or not.
    pub(crate) confirms_reads: AtomicBool,
    pub(crate) hold_off: VoteHoldOff,
    pub(crate) handovers: Handovers,
    /// Largest batch that is proposed, in bytes as encoded.
    pub(crate) entry_bytes_max: usize,
    /// Where a proposal waits for room, which takes a queue that is full.
    pub(crate) runtime: tokio::runtime::Handle,
    pub(crate) pins: LogPins,
    pub(crate) proposals: Counter,
}

/// In which terms a replica has handed its lead over: others may be elected then although it has a lease.
#[derive(Debug, Default)]
pub(crate) struct Handovers {
    /// Those of which it is not known yet in which term they are.
    under_way: AtomicU32,
    /// The last term in which there was one.
    term: AtomicU64,
}

impl Handovers {
    fn begin(&self) {
        self.under_way.fetch_add(1, Ordering::SeqCst);
    }

    /// The one that was begun is in `term`, or an earlier one.
    fn was_in(&self, term: u64) {
        self.term.fetch_max(term, Ordering::SeqCst);
        self.under_way.fetch_sub(1, Ordering::SeqCst);
    }

    /// Whether the lead of `term` may have been handed over.
    fn include(&self, term: u64) -> bool {
        self.under_way.load(Ordering::SeqCst) > 0 || self.term.load(Ordering::SeqCst) >= term
    }
}

/// Who leads a group, as far as this replica knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leadership {
    /// Another replica leads, or none that is known; or this one does, but a majority has not answered it for too long.
    Follower,
    /// This replica leads in `term`, and has applied every entry of earlier terms: its rows are complete.
    Leader {
        /// The term that proposals are fenced with.
        term: u64,
    },
    /// The group has stopped, and this handle is of no use any more but for reads.
    Stopped {
        /// Why.
        reason: StopReason,
    },
}

/// Why a group has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// It was told to.
    Shutdown,
    /// An engine failed. The process must end: [`Node::fatal`](crate::Node::fatal) resolves, too.
    EngineFailed,
    /// Its Raft core died, and nothing else: [`Node::reopen_group`](crate::Node::reopen_group) makes it anew from what is on disk.
    Died,
    /// It fell behind the log, and its rows are to be replaced by the leader's: [`Node::reopen_group`](crate::Node::reopen_group) does that.
    Seeding,
}

/// What a read must have seen. See the reads of a placement in ARCHITECTURE.md.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadConsistency {
    /// Confirms leadership with a quorum (read index).
    Linearizable,
    /// Trusts the leader's lease.
    Lease,
    /// Whatever is applied here.
    Stale,
}

/// Why a proposal was not applied. All but [`ProposeError::Unknown`] are certain: the rows will never be there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// This replica does not lead in the term of the stamp, or may not write at the moment. The proposal is in no log. A later
    /// proposal of the same epoch may be accepted all the same, and will then be skipped.
    #[error("not the leader of group {0}")]
    NotLeader(GroupId),
    /// The proposal is in the log, but an entry that it was decided on is not, so its rows were not applied and never will be.
    #[error("a proposal to group {0} was skipped: one before it is missing")]
    Skipped(GroupId),
    /// The proposal was lost on its way: it may or may not be applied. [`Group::was_applied`] tells, once a later epoch is open.
    #[error("the outcome of a proposal to group {0} is unknown")]
    Unknown(GroupId),
    /// The group has stopped.
    #[error("group {0} has stopped")]
    Stopped(GroupId),
    /// The state engine would refuse a row of the batch. It must not reach the log: once committed, it could be applied on no
    /// replica, and the group would stop for ever.
    #[error("a proposal to group {0} cannot be applied: {1}")]
    Invalid(GroupId, String),
    /// The batch is larger than an entry may be. It would be held in memory several times, here and on every other replica.
    #[error("a proposal to group {group} has {bytes} bytes, at most {bytes_max} are allowed")]
    TooLarge {
        /// The group.
        group: GroupId,
        /// What the batch takes, encoded.
        bytes: usize,
        /// See [`NodeOptions::entry_bytes_max`](crate::NodeOptions::entry_bytes_max).
        bytes_max: usize,
    },
}

/// How far a group is, as one of its replicas sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupStatus {
    /// The latest term that it knows of.
    pub term: u64,
    /// The last entry in its log.
    pub last_index: u64,
    /// The nodes with a replica, and whether that is a voter.
    pub replicas: Vec<(NodeId, bool)>,
}

/// The replicas that a group should have, and on which nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupReplicas {
    /// Those that count in elections and acknowledgements.
    pub voters: BTreeMap<ReplicaId, NodeId>,
    /// Those that have all entries and do not count.
    pub learners: BTreeMap<ReplicaId, NodeId>,
}

/// Why a read barrier failed.
#[derive(Clone, Debug, thiserror::Error)]
#[error("group {group} cannot confirm a read: {reason}")]
pub struct ReadError {
    /// The group.
    pub group: GroupId,
    /// What openraft said.
    pub reason: String,
}

/// The outcome of a proposal: the index it was applied at. Always resolves with a value: a proposal that was dropped on the
/// way, because its group died, resolves to [`ProposeError::Unknown`].
pub type ProposalOutcome = oneshot::Receiver<Result<u64, ProposeError>>;

impl Group {
    pub(crate) fn new(parts: GroupParts) -> Group {
        Group(Arc::new(parts))
    }

    /// The group's id.
    pub fn id(&self) -> GroupId {
        self.0.id
    }

    /// Who leads. Only the latest value is kept, so changes in between may be missed; but a replica that leads again after another one did
    /// does so in another term, which is never missed.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.0.leadership.clone()
    }

    /// The node whose replica leads, as far as this replica knows; it may be this one.
    pub fn leader(&self) -> Option<NodeId> {
        match self.0.leader.load(Ordering::Relaxed) {
            0 => None,
            node => Some(NodeId(node)),
        }
    }

    /// Founds the group with these voters, unless it has been founded: nothing was ever in its log. Every one of the voters may do so; they
    /// must name the same ones.
    ///
    /// # Errors
    ///
    /// When the group has stopped.
    pub async fn found(&self, voters: &BTreeMap<ReplicaId, NodeId>) -> Result<(), NodeError> {
        let nodes: BTreeMap<_, _> = voters.iter().map(|(replica, node)| (*replica, NodeInfo::of(*node))).collect();
        match self.0.raft.initialize(nodes).await {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(error) => Err(NodeError(format!("group {}: {error}", self.0.id))),
        }
    }

    /// Which replica of the group this one is.
    pub fn replica_id(&self) -> ReplicaId {
        *self.0.raft.node_id()
    }

    /// Whether the group was founded, as far as this replica has heard.
    pub fn is_founded(&self) -> bool {
        self.0.log.has_entries()
    }

    /// How far the group is, as this replica sees it.
    pub fn status(&self) -> GroupStatus {
        let metrics = self.0.raft.metrics();
        let metrics = metrics.borrow_watched();
        let voters: BTreeSet<_> = metrics.membership_config.voter_ids().collect();
        let replica = |(replica, info): (&ReplicaId, &NodeInfo)| {
            Some((NodeId(u32::try_from(info.node_id).ok()?), voters.contains(replica)))
        };
        GroupStatus {
            term: metrics.current_term,
            last_index: metrics.last_log_index.unwrap_or_default(),
            replicas: metrics.membership_config.nodes().filter_map(replica).collect(),
        }
    }

    /// Brings the group a step nearer to having exactly these replicas, if this one leads. Replicas that are missing learn first; those that are
    /// to vote do so once they have what the leader has, in one change with those that leave. A leader that is to leave, or to vote no more, hands the lead over
    /// before. Whether the group has these replicas and no others, for good: whoever leads next knows of no others, either.
    ///
    /// # Errors
    ///
    /// When the step was not made, or nobody knows whether it was. It may be tried again at any time, by whoever leads then.
    pub async fn bring_to(&self, replicas: &GroupReplicas) -> Result<bool, NodeError> {
        let raft = &self.0.raft;
        let failed = |error: &dyn std::fmt::Display| NodeError(format!("group {}: {error}", self.0.id));
        let (members, last_index, applied, replication) = {
            let metrics = raft.metrics();
            let metrics = metrics.borrow_watched();
            let Some(replication) = metrics.replication.clone() else { return Ok(false) };
            (
                metrics.membership_config.clone(),
                metrics.last_log_index.unwrap_or_default(),
                metrics.last_applied,
                replication,
            )
        };
        let GroupReplicas { voters, learners } = replicas;
        let me = *raft.node_id();
        let wanted: BTreeSet<_> = voters.keys().copied().collect();
        let is_wanted = |replica: &ReplicaId| voters.contains_key(replica) || learners.contains_key(replica);
        let is_joint = members.membership().get_joint_config().len() > 1;
        let now: BTreeSet<_> = members.voter_ids().collect();
        let known: BTreeSet<_> = members.nodes().map(|(replica, _)| *replica).collect();
        let unwanted: BTreeSet<_> = known.iter().copied().filter(|id| !is_wanted(id) && !now.contains(id)).collect();
        let missing = voters.iter().chain(learners).find(|(replica, _)| !known.contains(replica));
        if !is_joint && now == wanted && unwanted.is_empty() && missing.is_none() {
            // One that is not committed may be lost with its leader, and those that have left would be needed again.
            return Ok(*members.log_id() <= applied);
        }
        if !is_joint && !unwanted.is_empty() {
            // Those that have stopped to vote, or were to and were given up before.
            let change = ChangeMembers::RemoveNodes(unwanted);
            raft.change_membership(change, false).await.map_err(|error| failed(&error))?;
            return Ok(false);
        }
        if let Some((replica, node)) = missing.filter(|_| !is_joint) {
            raft.add_learner(*replica, NodeInfo::of(*node), false).await.map_err(|error| failed(&error))?;
            return Ok(false);
        }
        // What openraft calls caught up may be thousands of entries away, and a replica that hears nothing would count, too.
        let lag = |replica: &ReplicaId| match *replica == me {
            true => Some(0),
            false => Some(last_index.saturating_sub(replication.get(replica)?.as_ref()?.index)),
        };
        let is_near = |replica: &&ReplicaId| lag(replica).is_some_and(|lag| lag <= NEW_VOTER_LAG_MAX);
        if !wanted.difference(&now).all(|replica| is_near(&replica))
            || 2 * wanted.iter().filter(is_near).count() <= wanted.len()
        {
            return Ok(false);
        }
        let staying: BTreeSet<_> = wanted.intersection(&now).copied().collect();
        if !is_joint && !wanted.contains(&me) && !staying.is_empty() {
            // A leader that leaves with the change would go on for a while without being one of those that it leads.
            if let Some(next) = staying.iter().filter(is_near).min_by_key(|replica| lag(replica)) {
                tracing::info!(group = %self.0.id, to = next, "a leader that is to leave its group hands the lead over");
                self.hand_over(*next).await;
            }
            return Ok(false);
        }
        // If none of them stays, the new ones vote beside the old ones first, and then lead.
        let next = if staying.is_empty() { wanted.union(&now).copied().collect() } else { wanted };
        let stay_to_learn = now.iter().any(|replica| learners.contains_key(replica));
        tracing::info!(group = %self.0.id, ?voters, "a group is given other voters");
        raft.change_membership(next, stay_to_learn).await.map_err(|error| failed(&error))?;
        Ok(false)
    }

    /// Whether the group has these replicas and no others, and that is certain, as far as this one knows.
    pub fn has_replicas(&self, GroupReplicas { voters, learners }: &GroupReplicas) -> bool {
        let metrics = self.0.raft.metrics();
        let metrics = metrics.borrow_watched();
        let members = &metrics.membership_config;
        let known: BTreeSet<_> = members.nodes().map(|(replica, _)| *replica).collect();
        let is_applied = *members.log_id() <= metrics.last_applied;
        let is_joint = members.membership().get_joint_config().len() > 1;
        is_applied
            && !is_joint
            && members.voter_ids().collect::<BTreeSet<_>>() == voters.keys().copied().collect()
            && known == voters.keys().chain(learners.keys()).copied().collect()
    }

    /// How many entries the replica on `node` lacks, if this one leads and has heard of it.
    pub fn lag(&self, node: NodeId) -> Option<u64> {
        let metrics = self.0.raft.metrics();
        let metrics = metrics.borrow_watched();
        let replica = replica_on(&metrics.membership_config, node)?;
        let matching = metrics.replication.as_ref()?.get(&replica)?.as_ref()?.index;
        Some(metrics.last_log_index?.saturating_sub(matching))
    }

    /// Hands the lead over to the replica on `node`, which should have all of the log. Whether that led to anything is seen by who leads.
    pub async fn transfer(&self, node: NodeId) {
        let target = replica_on(&self.0.raft.metrics().borrow_watched().membership_config, node);
        if let Some(target) = target {
            self.hand_over(target).await;
        }
    }

    /// Hands the lead over to a replica.
    ///
    /// Whoever votes for the other one does not mind this one's lease: it ends before anybody is asked, and does not begin again in this
    /// term, in which openraft takes no more writes, either.
    async fn hand_over(&self, target: ReplicaId) {
        self.0.handovers.begin();
        let parts = Arc::clone(&self.0);
        // A task of its own, since whoever calls may go away.
        let handed_over = self.0.runtime.spawn(async move {
            // A core that has stopped hands nothing over. One that has not does what it is told in order.
            let _ = parts.raft.trigger().transfer_leader(target).await;
            let term = parts.raft.with_raft_state(|state| state.vote_ref().leader_id.term).await;
            parts.handovers.was_in(term.unwrap_or(u64::MAX));
        });
        // An error says that the runtime ends.
        let _ = handed_over.await;
    }

    /// Hands `batch` to the log of a leader in the term of `stamp`, without waiting for anything. Proposals reach the log in the order
    /// of the calls; the receiver resolves when the entry is durable on a quorum and applied here (its rows can be read), or never
    /// will be by this leader. [`crate::chain`] says which rows are applied.
    ///
    /// Never blocks and needs no task of the runtime, so a synchronous core may call it. Whoever calls bounds what it has in flight.
    pub fn propose(&self, stamp: EntryStamp, batch: RowBatch) -> Result<ProposalOutcome, ProposeError> {
        let parts = &self.0;
        self.check(&batch)?;
        let (bytes, bytes_max) = (batch.encoded_len(), parts.entry_bytes_max);
        if bytes > bytes_max {
            return Err(ProposeError::TooLarge { group: parts.id, bytes, bytes_max });
        }
        if matches!(*parts.leadership.borrow(), Leadership::Stopped { .. }) {
            return Err(ProposeError::Stopped(parts.id));
        }
        let rows = EncodedRows::encode(stamp, &batch, bytes);
        let (sender, outcome) = oneshot::channel();
        let pending = PendingProposal { group: parts.id, sender: Some(sender) };
        let responder = CallbackResponder::new(move |result| pending.complete(result));
        let leader = CommittedLeaderId::new(stamp.chain.epoch.term);
        parts.proposals.increment(1);
        parts.log.announce_append();
        let raft = parts.raft.clone();
        // A core that has stopped drops the responder, and the proposer hears of it that way.
        let mut write = Box::pin(async move { drop(raft.write(rows).with_leader(leader).responder(responder).await) });
        // The core's queue has room for thousands. Only when it is full, or the core is gone, the rest is left to a task; whoever comes
        // later still queues behind. Unconstrained, because a caller that has used up its turn would be kept waiting for nothing.
        if tokio::task::unconstrained(write.as_mut()).now_or_never().is_none() {
            parts.runtime.spawn(write);
        }
        Ok(outcome)
    }

    fn check(&self, batch: &RowBatch) -> Result<(), ProposeError> {
        for change in &batch.changes {
            if let RowChange::Put { key, .. } | RowChange::Delete { key } = change {
                check_row_key(key).map_err(|error| ProposeError::Invalid(self.0.id, error.to_string()))?;
            }
        }
        Ok(())
    }

    /// The end of the chain of entries whose rows are applied here.
    pub fn applied_chain(&self) -> AppliedChain {
        self.0.progress.applied_chain()
    }

    /// Whether the rows of the proposal at `position` were applied. Certain in both ways once a later epoch is open, for the 16 epochs before
    /// it; of older ones, and of a proposal that is still on its way, nothing but `false` is said.
    pub fn was_applied(&self, position: ChainPosition) -> bool {
        self.0.progress.was_applied(position)
    }

    /// Has a quorum asked before each read, or not: a lease is not believed then, so that a clock that runs wrong can do no harm.
    pub fn confirm_reads(&self, always: bool) {
        self.0.confirms_reads.store(always, Ordering::Relaxed);
    }

    /// Whether a quorum is asked before each read.
    pub fn confirms_reads(&self) -> bool {
        self.0.confirms_reads.load(Ordering::Relaxed)
    }

    /// Whether no other replica can have been elected at `now`, so that what this one has applied or decided is the latest there is. A few
    /// atomic reads; a replica that does not lead has no lease, and neither has one that [confirms](Group::confirm_reads) each read.
    pub fn lease_valid(&self, now: Instant) -> bool {
        let Leadership::Leader { term } = *self.0.leadership.borrow() else { return false };
        if self.0.progress.is_sole_voter() {
            return true;
        }
        if self.confirms_reads() {
            return false;
        }
        if self.0.handovers.include(term) && !sabotage::is(Sabotage::LeaseAfterHandover) {
            return false;
        }
        let lease = if sabotage::is(Sabotage::StaleLease) { 8 * self.0.lease } else { self.0.lease };
        let Some(acknowledged) = self.0.data_metrics.borrow_watched().last_quorum_acked else { return false };
        // openraft's instants cannot be turned into the standard library's; how old one is can. In this order it comes out older, never younger.
        let present = Instant::now();
        let age = InstantOf::<TypeConfig>::now() - acknowledged.into_inner();
        present.checked_sub(age).is_some_and(|acknowledged| lease_covers(acknowledged, lease, now))
    }

    /// Whether this replica may grant a Vote or PreVote at `now`. Asked for each of them before openraft sees it: openraft forgets in a restart
    /// what it promised to a leader's lease.
    pub fn may_grant_vote(&self, now: Instant, is_leadership_transfer: bool) -> bool {
        self.0.hold_off.permits(now, is_leadership_transfer)
    }

    /// Waits until rows read here satisfy `consistency`.
    pub async fn read_barrier(&self, consistency: ReadConsistency) -> Result<(), ReadError> {
        let option = match consistency {
            ReadConsistency::Stale => return Ok(()),
            ReadConsistency::Linearizable => LinearizerOption::from(ReadPolicy::ReadIndex),
            ReadConsistency::Lease if self.confirms_reads() => LinearizerOption::from(ReadPolicy::ReadIndex),
            ReadConsistency::Lease => LinearizerOption::new(Some(self.0.lease), true),
        };
        // A sole voter that leads has applied all that was ever acknowledged, and nobody else can acknowledge anything.
        let leads = matches!(*self.0.leadership.borrow(), Leadership::Leader { .. });
        if leads && (self.0.progress.is_sole_voter() || sabotage::is(Sabotage::SkippedBarrier)) {
            return Ok(());
        }
        let failed = |reason: String| ReadError { group: self.0.id, reason };
        let linearizer = self.0.raft.get_read_linearizer(option).await.map_err(|error| failed(error.to_string()))?;
        linearizer.await_ready(&self.0.raft).await.map_err(|error| failed(error.to_string()))?;
        Ok(())
    }

    /// The value of an applied row. Blocks on the disk when the row is not cached.
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StateError> {
        self.0.state.get(self.0.id, key)
    }

    /// Whether an applied row may be there. Never blocks on the disk; `false` is certain.
    pub fn may_exist(&self, key: &[u8]) -> bool {
        self.0.state.may_exist(self.0.id, key)
    }

    /// Applied rows in `range`. Blocks on the disk when they are not cached.
    pub fn scan(&self, range: Range<&[u8]>, direction: Direction, limit: usize) -> Result<Vec<Row>, StateError> {
        self.0.state.scan(self.0.id, range, direction, limit)
    }

    /// Shows the applied rows in `range` to `visit`, ascending, until it breaks; see [`everlog_storage::state::StateEngine::visit`].
    /// Blocks on the disk when they are not cached.
    pub fn visit(&self, range: Range<&[u8]>, visit: Visitor<'_>) -> Result<(), StateError> {
        self.0.state.visit(self.0.id, range, visit)
    }

    /// A view of the applied rows in `ranges` that does not change.
    pub fn view(&self, ranges: &[KeyRange]) -> Result<Box<dyn RowsView>, StateError> {
        self.0.state.view(self.0.id, ranges)
    }

    /// Watches the applied rows in `range` for changes from now on.
    pub fn watch_rows(&self, range: Range<&[u8]>) -> Watch {
        self.0.state.watch(self.0.id, range)
    }

    /// Has `wake` called whenever applied rows in `range` change, and tells which ones: for a view that keeps up with them.
    pub fn follow_rows(&self, range: Range<&[u8]>, wake: Wake) -> Follow {
        self.0.state.follow(self.0.id, range, wake)
    }

    /// Index of the last applied entry.
    pub fn applied_index(&self) -> u64 {
        self.0.progress.applied_index()
    }

    /// Index of the last entry whose rows a crash cannot take back; `None` before the first flush.
    pub fn durable_index(&self) -> Option<u64> {
        self.0.progress.durable_index()
    }

    /// Index of the last entry that was purged from the log here; never beyond [`Group::durable_index`].
    pub fn purged_index(&self) -> Option<u64> {
        self.0.log.purged().map(|purged| purged.index)
    }

    /// Keeps the entries from `from` on in the log, as far as they are there, until the pin is dropped.
    pub fn pin_log(&self, from: u64) -> LogPin {
        self.0.pins.pin(from)
    }

    pub(crate) fn pins(&self) -> &LogPins {
        &self.0.pins
    }

    pub(crate) fn raft(&self) -> &RaftGroup {
        &self.0.raft
    }

    pub(crate) fn log(&self) -> &GroupLog {
        &self.0.log
    }

    pub(crate) fn progress(&self) -> &GroupProgress {
        &self.0.progress
    }
}

/// The replica on a node: the newest, while it takes the place of another one.
fn replica_on(members: &StoredMembership, node: NodeId) -> Option<ReplicaId> {
    let there = members.nodes().filter(|(_, info)| info.node_id == u64::from(node.0));
    there.map(|(replica, _)| *replica).max()
}

/// Whether a lease holds at `now` that a quorum's acknowledgement of a message sent at `acknowledged` gives.
fn lease_covers(acknowledged: Instant, lease: Duration, now: Instant) -> bool {
    now < acknowledged + lease
}

/// A proposal whose outcome is awaited. Dropped without one, which happens when the Raft core dies, it says Unknown.
struct PendingProposal {
    group: GroupId,
    sender: Option<oneshot::Sender<Result<u64, ProposeError>>>,
}

impl PendingProposal {
    fn complete(mut self, result: ClientWriteResult<TypeConfig>) {
        self.resolve(match result {
            Ok(written) if written.data == ChainStep::Skipped => Err(ProposeError::Skipped(self.group)),
            Ok(written) => Ok(written.log_id.index),
            Err(ClientWriteError::ForwardToLeader(_)) => Err(ProposeError::NotLeader(self.group)),
            Err(_) => Err(ProposeError::Unknown(self.group)),
        });
    }

    fn resolve(&mut self, outcome: Result<u64, ProposeError>) {
        if let Some(sender) = self.sender.take() {
            // A proposer that went away does not care.
            let _ = sender.send(outcome);
        }
    }
}

impl Drop for PendingProposal {
    fn drop(&mut self) {
        self.resolve(Err(ProposeError::Unknown(self.group)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_lasts_from_when_the_acknowledged_message_was_sent() {
        let sent = Instant::now();
        let lease = Duration::from_millis(400);
        assert!(lease_covers(sent, lease, sent));
        assert!(lease_covers(sent, lease, sent + lease - Duration::from_nanos(1)));
        assert!(!lease_covers(sent, lease, sent + lease));
    }
}
