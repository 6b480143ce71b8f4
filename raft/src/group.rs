//! The handle to one Raft group: propose row batches, watch leadership, read rows.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use everlog_storage::state::{Direction, Row, RowBatch, RowChange, StateEngine, StateError, Visitor, check_row_key};
use everlog_storage::{GroupId, Watch};
use metrics::Counter;
use openraft::errors::ClientWriteError;
use openraft::raft::ClientWriteResult;
use openraft::{LinearizerOption, Raft, ReadPolicy};
use tokio::sync::{oneshot, watch};

use crate::log_store::GroupLog;
use crate::progress::GroupProgress;
use crate::state_machine::GroupStateMachine;
use crate::types::{CallbackResponder, CommittedLeaderId, EncodedRows, TypeConfig};

pub(crate) type RaftGroup = Raft<TypeConfig, GroupStateMachine>;

/// A Raft group on this node. Cheap to clone.
#[derive(Clone)]
pub struct Group(Arc<GroupParts>);

/// What a group consists of.
pub(crate) struct GroupParts {
    pub(crate) id: GroupId,
    pub(crate) raft: RaftGroup,
    pub(crate) log: GroupLog,
    pub(crate) state: Arc<dyn StateEngine>,
    pub(crate) progress: Arc<GroupProgress>,
    pub(crate) leadership: watch::Receiver<Leadership>,
    /// How old a quorum's acknowledgement may be for a lease read.
    pub(crate) lease: Duration,
    pub(crate) proposals: Counter,
}

/// Who leads a group, as far as this replica knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leadership {
    /// Another replica leads, or none that is known.
    Follower,
    /// This replica leads in `term`, and has applied every entry of earlier terms: its rows are complete.
    Leader {
        /// The term that proposals are fenced with.
        term: u64,
    },
    /// The group has stopped (shutdown, or a fatal error that the node's supervisor reports).
    Stopped,
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

/// Why a proposal was not applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// This replica does not lead in the term that was given. The proposal is in no log and will never be applied.
    #[error("not the leader of group {0}")]
    NotLeader(GroupId),
    /// Leadership was lost with the proposal in flight: it may or may not be applied by the next leader.
    #[error("the outcome of a proposal to group {0} is unknown")]
    Unknown(GroupId),
    /// The group has stopped.
    #[error("group {0} has stopped")]
    Stopped(GroupId),
    /// The state engine would refuse a row of the batch. It must not reach the log: once committed, it could be applied on no
    /// replica, and the group would stop for ever.
    #[error("a proposal to group {0} cannot be applied: {1}")]
    Invalid(GroupId, String),
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

    /// Who leads; changes are seen in order and none of leader, not leader, leader is skipped over without a term change.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.0.leadership.clone()
    }

    /// Hands `batch` to the log of a leader in `term`. Returns once it is queued, in the order of the calls; the receiver
    /// resolves when the entry is durable on a quorum and applied here (its rows can be read), or never will be by this leader.
    pub async fn propose(&self, term: u64, batch: RowBatch) -> Result<ProposalOutcome, ProposeError> {
        self.check(&batch)?;
        let (sender, outcome) = oneshot::channel();
        let pending = PendingProposal { group: self.0.id, sender: Some(sender) };
        let responder = CallbackResponder::new(move |result| pending.complete(result));
        let write = self.0.raft.write(EncodedRows(batch.encode()));
        self.0.proposals.increment(1);
        self.0.log.announce_append();
        match write.with_leader(CommittedLeaderId::new(term)).responder(responder).await {
            Ok(()) => Ok(outcome),
            Err(_) => Err(ProposeError::Stopped(self.0.id)),
        }
    }

    fn check(&self, batch: &RowBatch) -> Result<(), ProposeError> {
        for change in &batch.changes {
            if let RowChange::Put { key, .. } | RowChange::Delete { key } = change {
                check_row_key(key).map_err(|error| ProposeError::Invalid(self.0.id, error.to_string()))?;
            }
        }
        Ok(())
    }

    /// Waits until rows read here satisfy `consistency`.
    pub async fn read_barrier(&self, consistency: ReadConsistency) -> Result<(), ReadError> {
        let option = match consistency {
            ReadConsistency::Stale => return Ok(()),
            ReadConsistency::Linearizable => LinearizerOption::from(ReadPolicy::ReadIndex),
            ReadConsistency::Lease => LinearizerOption::new(Some(self.0.lease), true),
        };
        // A sole voter that leads has applied all that was ever acknowledged, and nobody else can acknowledge anything.
        let leads = matches!(*self.0.leadership.borrow(), Leadership::Leader { .. });
        if leads && self.0.progress.is_sole_voter() {
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

    /// Watches the applied rows in `range` for changes from now on.
    pub fn watch_rows(&self, range: Range<&[u8]>) -> Watch {
        self.0.state.watch(self.0.id, range)
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

/// A proposal whose outcome is awaited. Dropped without one, which happens when the Raft core dies, it says Unknown.
struct PendingProposal {
    group: GroupId,
    sender: Option<oneshot::Sender<Result<u64, ProposeError>>>,
}

impl PendingProposal {
    fn complete(mut self, result: ClientWriteResult<TypeConfig>) {
        self.resolve(match result {
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
