//! How far a group has come: applied, and applied durably. Written by its state machine and the flusher, read by everybody.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::chain::{AppliedChain, Chain, ChainPosition};
use crate::types::{LogId, Membership, ReplicaId, SnapshotMeta, StoredMembership, is_sole_voter};

/// The last applied entry, and membership and chain as of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AppliedPosition {
    pub(crate) log_id: LogId,
    pub(crate) membership: Arc<StoredMembership>,
    pub(crate) chain: Chain,
}

impl AppliedPosition {
    /// A position at which nothing was proposed yet.
    #[cfg(test)]
    pub(crate) fn new(log_id: LogId, membership: StoredMembership) -> AppliedPosition {
        AppliedPosition { log_id, membership: Arc::new(membership), chain: Chain::default() }
    }

    pub(crate) fn snapshot_meta(&self) -> SnapshotMeta {
        SnapshotMeta { last_log_id: Some(self.log_id), last_membership: (*self.membership).clone() }
    }
}

/// The progress of one group.
pub(crate) struct GroupProgress {
    replica: ReplicaId,
    applied: Mutex<Option<AppliedPosition>>,
    /// What a crash cannot take back. The log may be purged up to here and not beyond.
    durable: Mutex<Option<AppliedPosition>>,
    applied_index: AtomicU64,
    applied_term: watch::Sender<u64>,
    /// One more than the index of the applied membership if it has this replica as its only voter, else 0.
    alone_since: AtomicU64,
    /// One more than the index of the last membership that was appended and has other voters.
    shared_since: AtomicU64,
}

impl GroupProgress {
    /// The progress of a group whose rows on disk, all of them durable, are as of `position`.
    pub(crate) fn new(replica: ReplicaId, position: Option<AppliedPosition>) -> GroupProgress {
        let (term, index) = position.as_ref().map_or((0, 0), |p| (p.log_id.leader_id.term, p.log_id.index));
        let alone_since = position.as_ref().map_or(0, |p| alone_since(p, replica));
        GroupProgress {
            replica,
            applied: Mutex::new(position.clone()),
            durable: Mutex::new(position),
            applied_index: AtomicU64::new(index),
            applied_term: watch::Sender::new(term),
            alone_since: AtomicU64::new(alone_since),
            shared_since: AtomicU64::new(0),
        }
    }

    pub(crate) fn applied(&self) -> Option<AppliedPosition> {
        self.applied.lock().clone()
    }

    /// The end of the applied chain.
    pub(crate) fn applied_chain(&self) -> AppliedChain {
        self.applied.lock().as_ref().map(|position| position.chain.end).unwrap_or_default()
    }

    /// See [`Chain::was_applied`].
    pub(crate) fn was_applied(&self, position: ChainPosition) -> bool {
        self.applied.lock().as_ref().is_some_and(|applied| applied.chain.was_applied(position))
    }

    pub(crate) fn applied_index(&self) -> u64 {
        self.applied_index.load(Ordering::Acquire)
    }

    /// The term of the last applied entry. The first entry of a term is its leader's blank one, so a leader has applied
    /// everything of the terms before once this is its own term.
    pub(crate) fn applied_term(&self) -> watch::Receiver<u64> {
        self.applied_term.subscribe()
    }

    pub(crate) fn set_applied(&self, position: AppliedPosition) {
        self.alone_since.store(alone_since(&position, self.replica), Ordering::Release);
        let term = position.log_id.leader_id.term;
        self.applied_index.store(position.log_id.index, Ordering::Release);
        *self.applied.lock() = Some(position);
        self.applied_term.send_if_modified(|applied| std::mem::replace(applied, term) != term);
    }

    pub(crate) fn durable(&self) -> Option<AppliedPosition> {
        self.durable.lock().clone()
    }

    pub(crate) fn durable_index(&self) -> Option<u64> {
        self.durable.lock().as_ref().map(|position| position.log_id.index)
    }

    /// Records that a flush that began after `position` was applied has ended.
    pub(crate) fn set_durable(&self, position: AppliedPosition) {
        let mut durable = self.durable.lock();
        if durable.as_ref().is_none_or(|known| known.log_id < position.log_id) {
            *durable = Some(position);
        }
    }

    /// Whether this replica alone makes up every quorum, so that no other leader can exist. Becomes false before a membership
    /// with other voters can reach any of them, and true again only once a later one without them is applied. Says nothing
    /// about entries that are recovered and not applied yet; a leader that is announced has none.
    pub(crate) fn is_sole_voter(&self) -> bool {
        self.alone_since.load(Ordering::Acquire) > self.shared_since.load(Ordering::Acquire)
    }

    /// To be called with a membership's entry before it leaves this replica.
    pub(crate) fn membership_appended(&self, index: u64, membership: &Membership) {
        if !is_sole_voter(membership, self.replica) {
            self.shared_since.store(index + 1, Ordering::Release);
        }
    }
}

fn alone_since(position: &AppliedPosition, replica: ReplicaId) -> u64 {
    match position.membership.log_id() {
        Some(log_id) if is_sole_voter(position.membership.membership(), replica) => log_id.index + 1,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::types::{NodeInfo, log_id};

    fn membership(voters: &[ReplicaId]) -> Membership {
        let nodes: BTreeMap<_, _> = voters.iter().map(|voter| (*voter, NodeInfo::default())).collect();
        Membership::new(vec![BTreeSet::from_iter(voters.iter().copied())], nodes).unwrap()
    }

    fn applied(progress: &GroupProgress, index: u64, since: u64, voters: &[ReplicaId]) -> bool {
        let membership = StoredMembership::new(Some(log_id(1, since)), membership(voters));
        progress.set_applied(AppliedPosition::new(log_id(1, index), membership));
        progress.is_sole_voter()
    }

    #[test]
    fn a_replica_is_alone_only_while_nobody_else_can_vote() {
        let progress = GroupProgress::new(1, None);
        assert!(!progress.is_sole_voter());
        assert!(applied(&progress, 0, 0, &[1]));
        progress.membership_appended(5, &membership(&[1, 2]));
        assert!(!progress.is_sole_voter());
        assert!(!applied(&progress, 4, 0, &[1]), "the other voter may have the entry already");
        assert!(!applied(&progress, 5, 5, &[1, 2]));
        progress.membership_appended(6, &membership(&[1]));
        assert!(!progress.is_sole_voter());
        assert!(applied(&progress, 6, 6, &[1]));
        assert!(!applied(&progress, 7, 7, &[2]));
    }

    #[test]
    fn what_is_durable_never_goes_back() {
        let progress = GroupProgress::new(1, None);
        let position = |index| AppliedPosition::new(log_id(1, index), StoredMembership::default());
        progress.set_durable(position(5));
        progress.set_durable(position(3));
        assert_eq!(progress.durable_index(), Some(5));
    }
}
