//! Rows that a disk cannot take for the moment: whoever else runs on the same thread goes on.

#![allow(clippy::unwrap_used, reason = "helpers of tests, too")]

mod common;

use std::sync::Arc;

use bytes::Bytes;
use common::{lead, put};
use everlog_raft::{GroupReplica, Node, NodeOptions};
use everlog_storage::twin::{CrashLog, CrashState};
use everlog_storage::{GroupId, LogOptions, RocksState, SegmentLog, StateOptions};
use tokio::sync::oneshot::error::TryRecvError;

/// The runtime has this one thread.
#[tokio::test]
async fn a_stalled_write_keeps_nobody_else_waiting() {
    let state = Arc::new(CrashState::new(1));
    let node = Node::new(NodeOptions::default(), Arc::new(CrashLog::new(1)), state.clone());
    let group = node.create_group(GroupReplica::founding(GroupId(1))).await.unwrap();
    let mut lead = lead(&group).await;
    let before = lead.write(put("key", "0")).await;
    state.hold_writes();
    let mut outcomes: Vec<_> = (1..4).map(|i| lead.propose(put("key", format!("{i}"))).unwrap()).collect();
    // The entries are in the log long before a hundred turns are over.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(outcomes.iter_mut().all(|outcome| outcome.try_recv() == Err(TryRecvError::Empty)));
    assert_eq!(group.applied_index(), before);
    state.release_writes();
    for (index, outcome) in (before + 1..).zip(outcomes) {
        assert_eq!(outcome.await.unwrap(), Ok(index));
    }
    assert_eq!(group.get(b"key").unwrap(), Some(Bytes::from_static(b"3")));
    node.shutdown().await.unwrap();
}

/// A memtable that every write fills.
#[tokio::test]
async fn what_stalls_is_applied_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let log = SegmentLog::open(&dir.path().join("log"), LogOptions::default()).unwrap();
    let options = StateOptions { memtable_bytes: 64 << 10, memtables_max: 2, ..StateOptions::default() };
    let state = RocksState::open(&dir.path().join("state"), options).unwrap();
    let node = Node::new(NodeOptions::default(), Arc::new(log), Arc::new(state));
    let group = node.create_group(GroupReplica::founding(GroupId(1))).await.unwrap();
    let mut lead = lead(&group).await;
    for round in 0..10_u8 {
        let outcomes: Vec<_> =
            (0..8).map(|i| lead.propose(put("key", vec![round * 8 + i; 1 << 20])).unwrap()).collect();
        for outcome in outcomes {
            outcome.await.unwrap().unwrap();
        }
        assert_eq!(group.get(b"key").unwrap().unwrap()[0], round * 8 + 7);
    }
    node.shutdown().await.unwrap();
}
