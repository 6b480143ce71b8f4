//! What every Raft log promises, checked on segments and on the twin.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::{Arc, Mutex, mpsc};

use bytes::Bytes;
use everlog_storage::log::{LogEngine, LogError, LogRecord, RecoveredGroup};
use everlog_storage::segment_log::FileDisk;
use everlog_storage::twin::CrashLog;
use everlog_storage::{GroupId, LogOptions, SegmentLog};

const A: GroupId = GroupId(1);
const B: GroupId = GroupId(2);
/// Nothing comes behind it in the key space.
const LAST: GroupId = GroupId(u32::MAX);
const ALL: usize = usize::MAX;

/// Where a log lies, so that it can be stopped and started.
trait Disk {
    type Log: LogEngine;
    fn new() -> Self;
    fn start(&mut self) -> Self::Log;
    /// Stops cleanly and starts again.
    fn restart(&mut self, log: Self::Log) -> Self::Log;
}

/// A directory, written past the system's cache where that is possible, or never.
struct SegmentDisk<const IS_CACHED: bool>(tempfile::TempDir);

impl<const IS_CACHED: bool> Disk for SegmentDisk<IS_CACHED> {
    type Log = SegmentLog;

    fn new() -> Self {
        SegmentDisk(tempfile::tempdir().unwrap())
    }

    fn start(&mut self) -> SegmentLog {
        let path = self.0.path().join("log");
        let disk = if IS_CACHED { FileDisk::cached(&path) } else { FileDisk::new(&path) };
        SegmentLog::open_on(Arc::new(disk), LogOptions::default()).unwrap()
    }

    fn restart(&mut self, log: SegmentLog) -> SegmentLog {
        log.close().unwrap();
        drop(log);
        self.start()
    }
}

struct TwinDisk;

impl Disk for TwinDisk {
    type Log = CrashLog;

    fn new() -> TwinDisk {
        TwinDisk
    }

    fn start(&mut self) -> CrashLog {
        CrashLog::new(1)
    }

    fn restart(&mut self, log: CrashLog) -> CrashLog {
        log.close().unwrap();
        log.crash_keeping(0)
    }
}

macro_rules! on_all {
    ($($test:ident),* $(,)?) => {
        mod segments { $(#[test] fn $test() { super::$test::<super::SegmentDisk<false>>(); })* }
        mod cached_segments { $(#[test] fn $test() { super::$test::<super::SegmentDisk<true>>(); })* }
        mod twin { $(#[test] fn $test() { super::$test::<super::TwinDisk>(); })* }
    };
}

on_all!(
    an_unknown_group_is_empty,
    entries_are_read_back_and_survive_a_restart,
    reads_stop_at_the_byte_limit_but_return_one_entry,
    reads_stop_at_a_gap,
    groups_do_not_see_each_other,
    truncated_entries_are_gone_and_can_be_replaced,
    overwritten_entries_are_the_new_ones,
    purged_entries_are_gone,
    a_purge_beyond_the_end_moves_the_start,
    an_older_purge_changes_nothing,
    a_long_log_is_purged_in_steps,
    a_tail_is_found_by_its_bytes,
    compaction_changes_nothing_that_can_be_read,
    votes_are_replaced,
    the_replica_is_remembered,
    a_committed_id_comes_with_the_next_record,
    a_committed_id_is_written_at_close,
    a_destroyed_group_leaves_nothing,
    a_destroyed_group_can_start_again,
    completions_run_in_order_across_groups,
    a_completion_may_submit,
    a_closed_log_refuses,
);

fn entry(index: u64) -> Bytes {
    Bytes::from(format!("entry {index}"))
}

fn entries(indexes: std::ops::Range<u64>) -> Vec<Bytes> {
    indexes.map(entry).collect()
}

fn append(group: GroupId, indexes: std::ops::Range<u64>) -> LogRecord {
    LogRecord::Append { group, first_index: indexes.start, entries: entries(indexes) }
}

fn purge(group: GroupId, upto: u64) -> LogRecord {
    LogRecord::Purge { group, upto, log_id: Bytes::from(format!("purged {upto}")) }
}

fn vote(group: GroupId, vote: &'static str) -> LogRecord {
    LogRecord::Vote { group, vote: Bytes::from_static(vote.as_bytes()) }
}

fn committed(group: GroupId, log_id: &'static str) -> LogRecord {
    LogRecord::Committed { group, log_id: Bytes::from_static(log_id.as_bytes()) }
}

/// Submits, and waits until it is durable.
fn write(log: &impl LogEngine, record: LogRecord) {
    try_write(log, record).unwrap();
}

fn try_write(log: &impl LogEngine, record: LogRecord) -> Result<(), LogError> {
    let (sender, receiver) = mpsc::channel();
    log.submit(record, Some(Box::new(move |result| sender.send(result).unwrap())));
    receiver.recv().unwrap()
}

fn range(log: &impl LogEngine, group: GroupId) -> (Option<u64>, Option<u64>) {
    let recovered = log.recover(group).unwrap();
    (recovered.first_index, recovered.last_index)
}

fn an_unknown_group_is_empty<D: Disk>() {
    let mut disk = D::new();
    let log = disk.start();
    assert_eq!(log.recover(A).unwrap(), RecoveredGroup::default());
    assert_eq!(log.read(A, 0..10, ALL).unwrap(), entries(0..0));
}

fn entries_are_read_back_and_survive_a_restart<D: Disk>() {
    let mut disk = D::new();
    let log = disk.start();
    write(&log, append(A, 1..6));
    write(&log, append(A, 6..11));
    let log = disk.restart(log);
    assert_eq!(range(&log, A), (Some(1), Some(10)));
    assert_eq!(log.read(A, 1..11, ALL).unwrap(), entries(1..11));
    assert_eq!(log.read(A, 4..7, ALL).unwrap(), entries(4..7));
    assert_eq!(log.read(A, 9..100, ALL).unwrap(), entries(9..11));
    #[expect(clippy::reversed_empty_ranges, reason = "an empty answer, not a panic")]
    let backwards = 7..4;
    assert_eq!(log.read(A, backwards, ALL).unwrap(), entries(0..0));
}

fn reads_stop_at_the_byte_limit_but_return_one_entry<D: Disk>() {
    let mut disk = D::new();
    let log = disk.start();
    write(&log, append(A, 1..6));
    let one = entry(1).len();
    assert_eq!(log.read(A, 1..6, 0).unwrap(), entries(1..2));
    assert_eq!(log.read(A, 1..6, 2 * one).unwrap(), entries(1..3));
    assert_eq!(log.read(A, 1..6, 3 * one - 1).unwrap(), entries(1..3));
}

fn reads_stop_at_a_gap<D: Disk>() {
    let mut disk = D::new();
    let log = disk.start();
    write(&log, append(A, 1..3));
    write(&log, append(A, 5..7));
    assert_eq!(log.read(A, 1..7, ALL).unwrap(), entries(1..3));
    assert_eq!(log.read(A, 3..7, ALL).unwrap(), entries(0..0));
}

fn groups_do_not_see_each_other<D: Disk>() {
    let mut disk = D::new();
    let log = disk.start();
    for group in [A, B, LAST] {
        write(&log, append(group, 1..4));
        write(&log, vote(group, "vote"));
    }
    write(&log, LogRecord::Truncate { group: A, from: 0 });
    write(&log, purge(B, 1));
    assert_eq!(range(&log, A), (None, None));
    assert_eq!(range(&log, B), (Some(2), Some(3)));
    assert_eq!(range(&log, LAST), (Some(1), Some(3)));
    assert_eq!(log.read(A, 0..9, ALL).unwrap(), entries(0..0));
    assert_eq!(log.read(LAST, 1..u64::MAX, ALL).unwrap(), entries(1..4));
    assert!(log.recover(A).unwrap().vote.is_some());
}

fn truncated_entries_are_gone_and_can_be_replaced<D: Disk>() {
    let mut disk = D::new();
    let log = disk.start();
    write(&log, append(A, 1..9));
    // Truncate and append may well be gathered into one write.
    log.submit(LogRecord::Truncate { group: A, from: 4 }, None);
    let replaced = vec![Bytes::from_static(b"replaced")];
    write(&log, LogRecord::Append { group: A, first_index: 4, entries: replaced.clone() });
    let log = disk.restart(log);
    assert_eq!(range(&log, A), (Some(1), Some(4)));
    assert_eq!(log.read(A, 1..9, ALL).unwrap(), [entries(1..4), replaced.clone()].concat());
}

fn overwritten_entries_are_the_new_ones<D: Disk>() {
    let mut disk = D::new();
    let log = disk.start();
    write(&log, append(A, 1..4));
    let replaced = vec![Bytes::from_static(b"replaced")];
    write(&log, LogRecord::Append { group: A, first_index: 2, entries: replaced.clone() });
    assert_eq!(log.read(A, 2..3, ALL).unwrap(), replaced);
}

fn purged_entries_are_gone<D: Disk>() {
    let mut disk = D::new();
    let log = disk.start();
    write(&log, append(A, 1..11));
    write(&log, purge(A, 3));
    let log = disk.restart(log);
    assert_eq!(range(&log, A), (Some(4), Some(10)));
    assert_eq!(log.recover(A).unwrap().purged, Some(Bytes::from_static(b"purged 3")));
    assert_eq!(log.read(A, 3..11, ALL).unwrap(), entries(0..0));
    assert_eq!(log.read(A, 4..11, ALL).unwrap(), entries(4..11));
    // The purge point is known again after the restart.
    write(&log, purge(A, 10));
    assert_eq!(range(&log, A), (None, None));
}

fn a_purge_beyond_the_end_moves_the_start<D: Disk>() {
    let mut disk = D::new();
    let log = disk.start();
    write(&log, append(A, 1..5));
    write(&log, purge(A, 1000));
    assert_eq!(range(&log, A), (None, None));
    write(&log, append(A, 1001..1003));
    let log = disk.restart(log);
    assert_eq!(range(&log, A), (Some(1001), Some(1002)));
    assert_eq!(log.recover(A).unwrap().purged, Some(Bytes::from_static(b"purged 1000")));
    write(&log, purge(A, u64::MAX));
    assert_eq!(range(&log, A), (None, None));
}

fn an_older_purge_changes_nothing<D: Disk>() {
    let mut disk = D::new();
    let log = disk.start();
    write(&log, append(A, 1..9));
    write(&log, purge(A, 5));
    write(&log, purge(A, 2));
    assert_eq!(log.recover(A).unwrap().purged, Some(Bytes::from_static(b"purged 5")));
    assert_eq!(range(&log, A), (Some(6), Some(8)));
}

fn a_long_log_is_purged_in_steps<D: Disk>() {
    let mut disk = D::new();
    let log = disk.start();
    write(&log, append(A, 1..2001));
    write(&log, append(B, 1..2001));
    // Both short and long steps: they are deleted in different ways.
    for upto in [1, 2, 10, 64, 129, 1000, 1063, 1999] {
        write(&log, purge(A, upto));
        assert_eq!(range(&log, A), (Some(upto + 1), Some(2000)));
        assert_eq!(log.read(A, upto..upto + 1, ALL).unwrap(), entries(0..0));
    }
    assert_eq!(log.read(A, 2000..2001, ALL).unwrap(), entries(2000..2001));
    assert_eq!(range(&log, B), (Some(1), Some(2000)));
}

fn a_tail_is_found_by_its_bytes<D: Disk>() {
    let mut disk = D::new();
    let mut log = disk.start();
    assert_eq!((log.entries_bytes(A), log.tail_start(A, 100)), (0, None));
    write(&log, append(B, 0..5));
    write(&log, purge(A, 9));
    // All of the same length.
    write(&log, append(A, 10..95));
    write(&log, LogRecord::Truncate { group: A, from: 90 });
    write(&log, append(A, 85..95));
    write(&log, append(A, 95..100));
    write(&log, purge(A, 19));
    for _ in 0..2 {
        let each = log.entries_bytes(A) / 80;
        assert_eq!(log.entries_bytes(A), 80 * each);
        for kept in 0..=80 {
            assert_eq!(log.tail_start(A, kept * each), Some(100 - kept));
            assert_eq!(log.tail_start(A, kept * each + each - 1), Some(100 - kept));
        }
        assert_eq!(log.tail_start(A, u64::MAX), Some(20));
        log = disk.restart(log);
    }
    write(&log, purge(A, 99));
    assert_eq!((log.entries_bytes(A), log.tail_start(A, 100)), (0, None));
    write(&log, LogRecord::Destroy { group: B });
    assert_eq!(log.entries_bytes(B), 0);
}

fn compaction_changes_nothing_that_can_be_read<D: Disk>() {
    /// Enough for there to be something to compact.
    const ENTRIES: u64 = 200;
    let large = |index: u64| Bytes::from(vec![index as u8; 64 << 10]);
    let mut disk = D::new();
    let log = disk.start();
    write(&log, vote(A, "vote"));
    let all: Vec<_> = (1..=ENTRIES).map(large).collect();
    write(&log, LogRecord::Append { group: A, first_index: 1, entries: all.clone() });
    write(&log, purge(A, ENTRIES - 10));
    for _ in 0..2 {
        log.compact().unwrap();
        let recovered = log.recover(A).unwrap();
        assert_eq!((recovered.first_index, recovered.last_index), (Some(ENTRIES - 9), Some(ENTRIES)));
        assert_eq!(recovered.vote, Some(Bytes::from_static(b"vote")));
        assert_eq!(log.read(A, ENTRIES - 9..ENTRIES + 1, ALL).unwrap(), all[all.len() - 10..]);
    }
    let log = disk.restart(log);
    assert_eq!(range(&log, A), (Some(ENTRIES - 9), Some(ENTRIES)));
}

fn the_replica_is_remembered<D: Disk>() {
    let mut disk = D::new();
    let log = disk.start();
    assert_eq!(log.recover(A).unwrap().replica, None);
    let replica = Bytes::from_static(b"replica");
    write(&log, LogRecord::Replica { group: A, replica: replica.clone() });
    write(&log, vote(A, "vote"));
    write(&log, append(A, 1..4));
    let log = disk.restart(log);
    let recovered = log.recover(A).unwrap();
    assert_eq!((recovered.replica, recovered.vote), (Some(replica), Some(Bytes::from_static(b"vote"))));
    assert_eq!(log.recover(B).unwrap().replica, None);
    write(&log, LogRecord::Destroy { group: A });
    assert_eq!(log.recover(A).unwrap(), RecoveredGroup::default());
}

fn votes_are_replaced<D: Disk>() {
    let mut disk = D::new();
    let log = disk.start();
    write(&log, vote(A, "first"));
    write(&log, vote(A, "second"));
    let log = disk.restart(log);
    assert_eq!(log.recover(A).unwrap().vote, Some(Bytes::from_static(b"second")));
    assert_eq!(log.recover(B).unwrap().vote, None);
}

fn a_committed_id_comes_with_the_next_record<D: Disk>() {
    let mut disk = D::new();
    let log = disk.start();
    log.submit(committed(A, "older"), None);
    log.submit(committed(A, "newer"), None);
    write(&log, append(B, 1..2));
    assert_eq!(log.recover(A).unwrap().committed, Some(Bytes::from_static(b"newer")));
    // With a completion it does not wait for another record.
    write(&log, committed(A, "awaited"));
    assert_eq!(log.recover(A).unwrap().committed, Some(Bytes::from_static(b"awaited")));
}

fn a_committed_id_is_written_at_close<D: Disk>() {
    let mut disk = D::new();
    let log = disk.start();
    log.submit(committed(A, "last"), None);
    let log = disk.restart(log);
    assert_eq!(log.recover(A).unwrap().committed, Some(Bytes::from_static(b"last")));
}

fn a_destroyed_group_leaves_nothing<D: Disk>() {
    let mut disk = D::new();
    let log = disk.start();
    for group in [A, B, LAST] {
        log.submit(append(group, 1..4), None);
        log.submit(vote(group, "vote"), None);
        log.submit(committed(group, "committed"), None);
        write(&log, purge(group, 1));
    }
    log.submit(committed(A, "later"), None);
    write(&log, LogRecord::Destroy { group: A });
    write(&log, LogRecord::Destroy { group: LAST });
    let log = disk.restart(log);
    assert_eq!(log.recover(A).unwrap(), RecoveredGroup::default());
    assert_eq!(log.recover(LAST).unwrap(), RecoveredGroup::default());
    assert_eq!(range(&log, B), (Some(2), Some(3)));
}

fn a_destroyed_group_can_start_again<D: Disk>() {
    let mut disk = D::new();
    let log = disk.start();
    write(&log, append(A, 1..101));
    write(&log, purge(A, 90));
    log.submit(LogRecord::Destroy { group: A }, None);
    write(&log, append(A, 1..6));
    assert_eq!(range(&log, A), (Some(1), Some(5)));
    write(&log, purge(A, 2));
    assert_eq!(range(&log, A), (Some(3), Some(5)));
}

fn completions_run_in_order_across_groups<D: Disk>() {
    let mut disk = D::new();
    let log = disk.start();
    let seen = Arc::new(Mutex::new(Vec::new()));
    for number in 0..500u64 {
        let seen = Arc::clone(&seen);
        let group = GroupId(number as u32 % 7);
        let completion = Box::new(move |result: Result<(), LogError>| {
            result.unwrap();
            seen.lock().unwrap().push(number);
        });
        log.submit(append(group, number..number + 1), Some(completion));
    }
    log.close().unwrap();
    assert_eq!(*seen.lock().unwrap(), (0..500).collect::<Vec<_>>());
}

fn a_completion_may_submit<D: Disk>() {
    let mut disk = D::new();
    let log = Arc::new(disk.start());
    let (sender, receiver) = mpsc::channel();
    let next = Arc::clone(&log);
    log.submit(
        append(A, 1..2),
        Some(Box::new(move |result| {
            result.unwrap();
            next.submit(append(A, 2..3), Some(Box::new(move |result| sender.send(result).unwrap())));
        })),
    );
    receiver.recv().unwrap().unwrap();
    assert_eq!(range(log.as_ref(), A), (Some(1), Some(2)));
}

fn a_closed_log_refuses<D: Disk>() {
    let mut disk = D::new();
    let log = disk.start();
    write(&log, append(A, 1..2));
    log.close().unwrap();
    log.close().unwrap();
    assert_eq!(try_write(&log, append(A, 2..3)).unwrap_err().0, "closed");
    assert_eq!(range(&log, A), (Some(1), Some(1)));
}
