//! Commits that would wait for the disk.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use bytes::Bytes;
use everlog_storage::state::{Attempt, RowBatch, StateEngine};
use everlog_storage::{GroupId, RocksState, StateOptions};

const GROUP: GroupId = GroupId(1);
/// Memory is filled faster than disks are: far fewer are needed.
const WRITES_MAX: u32 = 10_000;

#[test]
fn a_commit_that_would_stall_says_so_and_does_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let options = StateOptions { memtable_bytes: 64 << 10, memtables_max: 2, ..StateOptions::default() };
    let state = RocksState::open(dir.path(), options).unwrap();
    let batch = |number: u32| {
        let mut batch = RowBatch::new();
        batch.put(&b"number"[..], number.to_be_bytes().to_vec());
        batch.put(&b"weight"[..], vec![7; 1 << 20]);
        [batch]
    };
    let try_commit = |number: u32| state.try_commit(GROUP, &number.to_be_bytes(), &batch(number)).unwrap();
    let refused = (1..WRITES_MAX).find(|number| try_commit(*number) == Attempt::WouldBlock).unwrap();
    let found = |number: u32| {
        let number = Some(Bytes::copy_from_slice(&number.to_be_bytes()));
        assert_eq!((state.applied(GROUP).unwrap(), state.get(GROUP, b"number").unwrap()), (number.clone(), number));
    };
    found(refused - 1);
    state.commit(GROUP, &refused.to_be_bytes(), &batch(refused)).unwrap();
    found(refused);
}
