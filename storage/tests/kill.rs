//! Both engines of a disk in a process that is killed: what was promised is there, and rows match their applied position.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use bytes::Bytes;
use everlog_storage::log::{LogEngine, LogRecord};
use everlog_storage::state::{Direction, RowBatch, StateEngine};
use everlog_storage::{GroupId, LogOptions, RocksState, SegmentLog, StateOptions};

const CHILD: &str = "EVERLOG_TEST_KILLED";
const GROUPS: u32 = 5;

/// Runs the named test of this file in a process of its own, which is to abort, and returns the directory that it left.
fn run_and_kill(test: &str, directory: &Path) {
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(CHILD, directory)
        .output()
        .unwrap()
        .status;
    assert!(!status.success(), "the child was to abort");
    assert_eq!(status.code(), None, "the child failed instead of being killed");
}

fn child_directory() -> Option<PathBuf> {
    std::env::var_os(CHILD).map(PathBuf::from)
}

fn small() -> StateOptions {
    // RocksDB flushes by itself all the time.
    StateOptions { memtable_bytes: 64 << 10, ..StateOptions::default() }
}

/// The `number`th commit of a group: rows that come, change and go, alone and in ranges.
fn nth_batch(number: u64) -> RowBatch {
    let mut batch = RowBatch::new();
    batch.put(format!("row {:02}", number % 50), format!("{number} {}", "x".repeat(100)));
    batch.put(format!("tmp {:03}", number % 200), format!("{number}"));
    batch.delete(format!("row {:02}", (number * 7) % 50));
    if number.is_multiple_of(97) {
        batch.delete_range("tmp 050", "tmp 150");
    }
    batch
}

/// What a group must hold after its `number`th commit.
fn content_after(number: u64) -> BTreeMap<Bytes, Bytes> {
    use everlog_storage::state::RowChange::{Delete, DeleteRange, Put};
    let mut rows = BTreeMap::new();
    for change in (1..=number).flat_map(|number| nth_batch(number).changes) {
        match change {
            Put { key, value } => drop(rows.insert(key, value)),
            Delete { key } => drop(rows.remove(&key)),
            DeleteRange { start, end } => rows.retain(|key, _| *key < start || *key >= end),
        }
    }
    rows
}

#[test]
fn rows_match_the_applied_position_after_a_kill() {
    if let Some(directory) = child_directory() {
        return commit_until_killed(&directory);
    }
    let temporary = tempfile::tempdir().unwrap();
    // Each round goes on from what the one before it left.
    let mut flushed_before = 0;
    for _ in 0..3 {
        run_and_kill("rows_match_the_applied_position_after_a_kill", temporary.path());
        let state = RocksState::open(temporary.path(), small()).unwrap();
        let mut total = 0;
        for group in (1..=GROUPS).map(GroupId) {
            let number = applied(&state, group);
            let rows = state.scan(group, b"a"..b"z", Direction::Ascending, usize::MAX).unwrap();
            assert_eq!(BTreeMap::from_iter(rows), content_after(number), "group {group} at {number}");
            total += number;
        }
        // Half of each round was flushed.
        assert!(total >= flushed_before + 1500, "{total} after {flushed_before}");
        flushed_before = total;
    }
}

fn applied(state: &RocksState, group: GroupId) -> u64 {
    let applied = state.applied(group).unwrap();
    applied.map_or(0, |applied| u64::from_be_bytes(applied[..].try_into().unwrap()))
}

fn commit_until_killed(directory: &Path) {
    let state = RocksState::open(directory, small()).unwrap();
    for round in 1..=3000 {
        let group = GroupId(1 + round % GROUPS);
        let number = applied(&state, group) + 1;
        state.commit(group, &number.to_be_bytes(), &[nth_batch(number)]).unwrap();
        if round == 1500 {
            state.flush().unwrap();
        }
    }
    std::process::abort();
}

#[test]
fn acknowledged_records_are_there_after_a_kill() {
    if let Some(directory) = child_directory() {
        return append_until_killed(&directory);
    }
    let temporary = tempfile::tempdir().unwrap();
    run_and_kill("acknowledged_records_are_there_after_a_kill", temporary.path());
    let acknowledged = std::fs::read(temporary.path().join("acknowledged")).unwrap();
    let log = SegmentLog::open(&temporary.path().join("log"), LogOptions::default()).unwrap();
    let mut last = BTreeMap::new();
    for line in acknowledged.chunks_exact(12) {
        let (group, index) = line.split_at(4);
        let group = GroupId(u32::from_be_bytes(group.try_into().unwrap()));
        last.insert(group, u64::from_be_bytes(index.try_into().unwrap()));
    }
    assert_eq!(last.len(), GROUPS as usize);
    for (group, index) in last {
        let recovered = log.recover(group).unwrap();
        assert!(recovered.last_index >= Some(index));
        let first = recovered.first_index.unwrap();
        assert_eq!(first, 51);
        assert_eq!(recovered.purged, Some(Bytes::from_static(b"50")));
        let entries = log.read(group, first..index + 1, usize::MAX).unwrap();
        assert!(entries.iter().zip(first..=index).all(|(entry, index)| *entry == nth_entry(index)));
        assert_eq!(entries.len() as u64, index + 1 - first);
    }
}

fn nth_entry(index: u64) -> Bytes {
    Bytes::from(format!("{index:0500}"))
}

fn append_until_killed(directory: &Path) {
    // Small segments: files are used again many times.
    let options = LogOptions { segment_bytes: 64 << 10, ..LogOptions::default() };
    let log = SegmentLog::open(&directory.join("log"), options).unwrap();
    let acknowledged = Arc::new(File::create(directory.join("acknowledged")).unwrap());
    for index in 1..=2000u64 {
        for group in 1..=GROUPS {
            let file = Arc::clone(&acknowledged);
            let entries = vec![nth_entry(index)];
            let record = LogRecord::Append { group: GroupId(group), first_index: index, entries };
            let acknowledge = move |result: Result<(), _>| {
                result.unwrap();
                let line = [&group.to_be_bytes()[..], &index.to_be_bytes()].concat();
                file.as_ref().write_all(&line).unwrap();
                if index == 1000 && group == 3 {
                    std::process::abort();
                }
            };
            log.submit(record, Some(Box::new(acknowledge)));
            if index == 100 {
                let log_id = Bytes::from_static(b"50");
                log.submit(LogRecord::Purge { group: GroupId(group), upto: 50, log_id }, None);
            }
        }
    }
    log.close().unwrap();
}
