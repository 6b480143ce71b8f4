//! What the tests of this crate share.

#![allow(dead_code, reason = "each test binary uses its part")]

use bytes::Bytes;
use everlog_raft::{Group, Leadership};
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
