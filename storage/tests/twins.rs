//! What only the twins can do: crash at a chosen moment, hold an fsync, fail one.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::mpsc;

use bytes::Bytes;
use everlog_storage::GroupId;
use everlog_storage::log::{Completion, LogEngine, LogError, LogRecord};
use everlog_storage::state::{Direction, RowBatch, StateEngine};
use everlog_storage::twin::{CrashLog, CrashState};

const A: GroupId = GroupId(1);

fn append(index: u64) -> LogRecord {
    LogRecord::Append { group: A, first_index: index, entries: vec![Bytes::from_static(b"entry")] }
}

fn last(log: &CrashLog) -> Option<u64> {
    log.recover(A).unwrap().last_index
}

/// A completion, and what it will have heard.
fn completion() -> (Option<Completion>, mpsc::Receiver<Result<(), LogError>>) {
    let (sender, receiver) = mpsc::channel();
    (Some(Box::new(move |result| sender.send(result).unwrap())), receiver)
}

#[test]
fn without_a_hold_records_are_durable_at_once() {
    let log = CrashLog::new(1);
    let (done, heard) = completion();
    log.submit(append(1), done);
    assert!(heard.try_recv().unwrap().is_ok());
    assert_eq!((log.unsynced(), log.stats().fsyncs), (0, 1));
    assert_eq!(last(&log.crash()), Some(1));
}

#[test]
fn held_records_wait_and_share_one_fsync() {
    let log = CrashLog::new(1);
    log.hold_sync();
    let heard: Vec<_> = (1..=10)
        .map(|index| {
            let (done, heard) = completion();
            log.submit(append(index), done);
            heard
        })
        .collect();
    assert!(heard.iter().all(|heard| heard.try_recv().is_err()));
    assert_eq!((log.unsynced(), last(&log), log.stats().queued_bytes), (10, None, 50));
    log.release_sync();
    assert!(heard.iter().all(|heard| heard.try_recv().unwrap().is_ok()));
    assert_eq!((log.unsynced(), last(&log), log.stats().fsyncs), (0, Some(10), 1));
}

#[test]
fn a_crash_leaves_a_prefix_of_what_was_held() {
    let mut lengths = std::collections::BTreeSet::new();
    for seed in 0..100 {
        let log = CrashLog::new(seed);
        log.submit(append(1), None);
        log.hold_sync();
        let (done, heard) = completion();
        log.submit(append(2), done);
        log.submit(append(3), None);
        let after = log.crash();
        assert_eq!(heard.try_recv().unwrap().unwrap_err().0, "crashed");
        let length = last(&after).unwrap();
        assert_eq!(after.read(A, 1..9, usize::MAX).unwrap().len() as u64, length);
        lengths.insert(length);
        // The old log is dead, the new one works.
        let (done, heard) = completion();
        log.submit(append(4), done);
        assert!(heard.try_recv().unwrap().is_err());
        after.submit(append(length + 1), None);
        assert_eq!(last(&after), Some(length + 1));
    }
    assert_eq!(lengths, [1, 2, 3].into());
}

#[test]
fn a_lazy_record_is_lost_in_a_crash() {
    let log = CrashLog::new(1);
    log.submit(append(1), None);
    log.submit(LogRecord::Committed { group: A, log_id: Bytes::from_static(b"1") }, None);
    assert_eq!((log.unsynced(), log.stats().fsyncs), (1, 1));
    assert_eq!(log.crash_keeping(0).recover(A).unwrap().committed, None);
}

#[test]
fn a_failed_fsync_is_for_ever() {
    let log = CrashLog::new(1);
    log.submit(append(1), None);
    log.fail_sync();
    for index in [2, 3] {
        let (done, heard) = completion();
        log.submit(append(index), done);
        assert_eq!(heard.try_recv().unwrap().unwrap_err().0, "injected fsync failure");
    }
    assert_eq!(last(&log), Some(1));
    assert!(log.close().is_err());
    assert_eq!(last(&log.crash()), Some(1));
}

fn commit(state: &CrashState, number: u64) {
    let mut batch = RowBatch::new();
    batch.put(format!("row {number}"), "value");
    state.commit(A, &number.to_be_bytes(), &[batch]).unwrap();
}

/// Number of rows, which must be the applied position.
fn rows(state: &CrashState) -> usize {
    let rows = state.scan(A, b"a"..b"z", Direction::Ascending, usize::MAX).unwrap().len();
    let applied = state.applied(A).unwrap().map_or(0, |applied| u64::from_be_bytes(applied[..].try_into().unwrap()));
    assert_eq!(rows as u64, applied);
    rows
}

#[test]
fn a_crash_rolls_rows_back_to_the_last_flush() {
    let state = CrashState::new(1);
    (1..=3).for_each(|number| commit(&state, number));
    state.flush().unwrap();
    (4..=5).for_each(|number| commit(&state, number));
    assert_eq!((rows(&state), state.unflushed()), (5, 2));
    let after = state.crash();
    assert_eq!(rows(&after), 3);
    assert!(state.applied(A).is_err() && state.flush().is_err());
    commit(&after, 4);
    assert_eq!(rows(&after.crash_keeping(1)), 4);
}

#[test]
fn a_crash_anywhere_leaves_whole_commits() {
    let mut lengths = std::collections::BTreeSet::new();
    for seed in 0..100 {
        let state = CrashState::new(seed);
        commit(&state, 1);
        state.flush().unwrap();
        (2..=4).for_each(|number| commit(&state, number));
        lengths.insert(rows(&state.crash_anywhere()));
    }
    assert_eq!(lengths, [1, 2, 3, 4].into());
}

#[test]
fn replaced_and_dropped_groups_come_back_in_a_crash() {
    let state = CrashState::new(1);
    commit(&state, 1);
    state.flush().unwrap();
    state.drop_group(A).unwrap();
    assert_eq!(rows(&state), 0);
    let state = state.crash();
    assert_eq!(rows(&state), 1);
    let row = (Bytes::from_static(b"row"), Bytes::new());
    state.replace_group(A, &1u64.to_be_bytes(), &mut [row].into_iter()).unwrap();
    state.flush().unwrap();
    let state = state.crash();
    assert!(state.get(A, b"row").unwrap().is_some());
}

#[test]
fn a_failed_flush_is_for_ever() {
    let state = CrashState::new(1);
    commit(&state, 1);
    state.fail_flush();
    assert!(state.flush().is_err() && state.flush().is_err());
    assert_eq!(rows(&state.crash()), 0);
}
