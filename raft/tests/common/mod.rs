//! What the tests of this crate share.

#![allow(dead_code, reason = "each test binary uses its part")]

use bytes::Bytes;
use everlog_raft::{ChainPosition, EntryStamp, Group, Hlc, Leadership, ProposalOutcome, ProposeError};
use everlog_storage::state::{RowBatch, RowChange};

/// Waits until `group` leads and returns its term.
pub(crate) async fn leads(group: &Group) -> u64 {
    let mut leadership = group.leadership();
    let leader = leadership.wait_for(|now| matches!(now, Leadership::Leader { .. })).await.expect("the group runs");
    match *leader {
        Leadership::Leader { term } => term,
        _ => unreachable!("waited for a leader"),
    }
}

/// A batch that sets one row.
pub(crate) fn put(key: &str, value: impl Into<Bytes>) -> RowBatch {
    RowBatch { changes: vec![RowChange::Put { key: Bytes::copy_from_slice(key.as_bytes()), value: value.into() }] }
}

/// Proposes to a group that leads, in the order of its chain.
pub(crate) struct Lead {
    pub(crate) group: Group,
    pub(crate) next: ChainPosition,
}

impl Lead {
    pub(crate) fn propose(&mut self, batch: RowBatch) -> Result<ProposalOutcome, ProposeError> {
        let stamp = EntryStamp { chain: self.next, hlc: Hlc(self.group.applied_chain().hlc.0 + 1) };
        let outcome = self.group.propose(stamp, batch)?;
        self.next = self.next.next();
        Ok(outcome)
    }

    pub(crate) async fn write(&mut self, batch: RowBatch) -> u64 {
        self.propose(batch).expect("proposed").await.expect("answered").expect("applied")
    }
}

/// Waits until `group` leads, and begins a new epoch.
pub(crate) async fn lead(group: &Group) -> Lead {
    let term = leads(group).await;
    Lead { group: group.clone(), next: group.applied_chain().next_epoch(term).start() }
}
