//! How the log shares its fsyncs, and how it fails.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use bytes::Bytes;
use everlog_storage::log::{LogEngine, LogError, LogRecord};
use everlog_storage::segment_log::RECORD_BYTES_MAX;
use everlog_storage::{GroupId, LogOptions, SegmentLog};

fn append(group: u32, index: u64, bytes: usize) -> LogRecord {
    // Cannot be compressed.
    let mut state = index;
    let noise = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    });
    LogRecord::Append { group: GroupId(group), first_index: index, entries: vec![noise.take(bytes).collect()] }
}

fn write(log: &SegmentLog, record: LogRecord) -> Result<(), LogError> {
    let (sender, receiver) = mpsc::channel();
    log.submit(record, Some(Box::new(move |result| sender.send(result).unwrap())));
    receiver.recv().unwrap()
}

/// Occupies the writer thread until the returned sender is dropped.
fn hold_writer(log: &SegmentLog) -> mpsc::Sender<()> {
    let (release, released) = mpsc::channel::<()>();
    let (started, has_started) = mpsc::channel();
    let hold = move |_| {
        started.send(()).unwrap();
        let _ = released.recv();
    };
    log.submit(append(0, 1, 1), Some(Box::new(hold)));
    has_started.recv().unwrap();
    release
}

#[test]
fn all_that_waits_shares_one_fsync() {
    let directory = tempfile::tempdir().unwrap();
    let log = SegmentLog::open(directory.path(), LogOptions::default()).unwrap();
    let held = hold_writer(&log);
    let before = log.stats();
    for index in 1..=1000 {
        for group in 1..=4 {
            log.submit(append(group, index, 100), Some(Box::new(|result| result.unwrap())));
        }
    }
    assert!(log.stats().queued_bytes > 4000 * 100);
    drop(held);
    log.close().unwrap();
    let after = log.stats();
    assert_eq!(after.records - before.records, 4000);
    assert_eq!(after.fsyncs - before.fsyncs, 1);
    assert!(after.bytes - before.bytes > 4000 * 100);
    assert_eq!(after.queued_bytes, 0);
    assert_eq!(log.recover(GroupId(4)).unwrap().last_index, Some(1000));
}

#[test]
fn a_write_waits_for_appends_that_were_announced() {
    let directory = tempfile::tempdir().unwrap();
    let options = LogOptions { announced_wait_max: Duration::from_secs(60), ..LogOptions::default() };
    let log = SegmentLog::open(directory.path(), options).unwrap();
    let before = log.stats();
    for group in 1..=4 {
        log.announce(GroupId(group));
    }
    let (sender, receiver) = mpsc::channel();
    for group in 1..=4 {
        assert_eq!(log.stats().fsyncs, before.fsyncs);
        let sender = sender.clone();
        log.submit(append(group, 1, 100), Some(Box::new(move |result| sender.send(result).unwrap())));
        if group == 1 {
            // The writer has seen it, and does not take it alone.
            assert!(receiver.recv_timeout(Duration::from_millis(50)).is_err());
        }
    }
    for _ in 1..=4 {
        receiver.recv().unwrap().unwrap();
    }
    assert_eq!(log.stats().fsyncs - before.fsyncs, 1);
    // What was not announced has nobody to wait for.
    write(&log, append(1, 2, 100)).unwrap();
    assert_eq!(log.stats().fsyncs - before.fsyncs, 2);
}

#[test]
fn an_append_that_never_comes_is_waited_for_once() {
    let directory = tempfile::tempdir().unwrap();
    let log = SegmentLog::open(directory.path(), LogOptions::default()).unwrap();
    log.announce(GroupId(9));
    write(&log, append(1, 1, 100)).unwrap();
    log.close().unwrap();
    let patient = LogOptions { announced_wait_max: Duration::from_secs(60), ..LogOptions::default() };
    drop(log);
    let log = SegmentLog::open(directory.path(), patient).unwrap();
    log.announce(GroupId(9));
    let (sender, receiver) = mpsc::channel();
    log.submit(append(1, 2, 100), Some(Box::new(move |result| sender.send(result).unwrap())));
    // Closing is no reason to wait.
    log.close().unwrap();
    receiver.recv().unwrap().unwrap();
}

#[test]
fn one_write_gathers_no_more_than_its_limit() {
    let directory = tempfile::tempdir().unwrap();
    let options = LogOptions { gather_bytes_max: 10_000, ..LogOptions::default() };
    let log = SegmentLog::open(directory.path(), options).unwrap();
    let held = hold_writer(&log);
    let before = log.stats();
    // Ten fit into a write with their overhead, and one that is larger than a write still gets through.
    for index in 1..=100 {
        log.submit(append(1, index, 900), None);
    }
    log.submit(append(2, 1, 50_000), None);
    drop(held);
    log.close().unwrap();
    assert_eq!(log.stats().fsyncs - before.fsyncs, 11);
    assert_eq!(log.recover(GroupId(2)).unwrap().last_index, Some(1));
}

#[test]
fn committed_ids_alone_cause_no_fsync() {
    let directory = tempfile::tempdir().unwrap();
    let log = SegmentLog::open(directory.path(), LogOptions::default()).unwrap();
    write(&log, append(1, 1, 10)).unwrap();
    let before = log.stats();
    for _ in 0..100 {
        log.submit(LogRecord::Committed { group: GroupId(1), log_id: Bytes::from_static(b"id") }, None);
    }
    // Any of them may have been taken alone or together with others; only this one syncs.
    write(&log, append(1, 2, 10)).unwrap();
    assert_eq!(log.stats().fsyncs - before.fsyncs, 1);
    assert_eq!(log.stats().records - before.records, 101);
}

#[test]
fn whoever_submits_too_much_waits_and_nothing_fails() {
    let directory = tempfile::tempdir().unwrap();
    let options = LogOptions { queued_bytes_max: 10_000, ..LogOptions::default() };
    let log = SegmentLog::open(directory.path(), options).unwrap();
    let held = hold_writer(&log);
    let (resumed, has_resumed) = mpsc::channel();
    let wait = |log: &SegmentLog| {
        let resumed = resumed.clone();
        log.when_room(Box::new(move || resumed.send(()).unwrap()));
    };
    log.submit(append(1, 1, 5_000), None);
    assert!(log.has_room());
    wait(&log);
    assert_eq!(has_resumed.try_recv(), Ok(()));
    // It is taken although it is too much, and the next one is to wait.
    log.submit(append(1, 2, 5_000), None);
    assert!(!log.has_room());
    wait(&log);
    wait(&log);
    assert_eq!(has_resumed.try_recv(), Err(mpsc::TryRecvError::Empty));
    drop(held);
    has_resumed.recv().unwrap();
    has_resumed.recv().unwrap();
    assert!(log.has_room());
    write(&log, append(1, 3, 1)).unwrap();
    log.close().unwrap();
    assert_eq!(log.recover(GroupId(1)).unwrap().last_index, Some(3));
}

#[test]
fn whoever_waits_for_room_hears_of_the_end() {
    let directory = tempfile::tempdir().unwrap();
    let options = LogOptions { queued_bytes_max: 10, gather_bytes_max: 10, ..LogOptions::default() };
    let log = SegmentLog::open(directory.path(), options).unwrap();
    let held = hold_writer(&log);
    for index in 1..=3 {
        log.submit(append(1, index, 100), None);
    }
    let (resumed, has_resumed) = mpsc::channel();
    log.when_room(Box::new(move || resumed.send(()).unwrap()));
    drop(held);
    log.close().unwrap();
    has_resumed.recv().unwrap();
}

/// The record and what would leave a gap behind it; nobody else.
#[test]
fn a_record_that_is_too_large_is_refused_where_it_is_handed_in() {
    let directory = tempfile::tempdir().unwrap();
    let log = SegmentLog::open(directory.path(), LogOptions::default()).unwrap();
    write(&log, append(1, 1, 1)).unwrap();
    // Shares its bytes, and takes hardly any memory.
    let entries = vec![Bytes::from(vec![7; 1 << 20]); RECORD_BYTES_MAX >> 20];
    let large = LogRecord::Append { group: GroupId(1), first_index: 2, entries };
    let refused = write(&log, large).unwrap_err().0;
    assert!(refused.contains("larger than the log takes"), "{refused}");
    let refused = write(&log, append(1, 1026, 1)).unwrap_err().0;
    assert!(refused.contains("was refused before this one"), "{refused}");
    write(&log, append(2, 1, 1)).unwrap();
    log.close().unwrap();
    assert_eq!(log.recover(GroupId(1)).unwrap().last_index, Some(1));
}

#[test]
fn a_completion_may_drop_the_log() {
    let directory = tempfile::tempdir().unwrap();
    let log = Arc::new(SegmentLog::open(directory.path(), LogOptions::default()).unwrap());
    let slot = Arc::new(Mutex::new(None));
    let (sender, receiver) = mpsc::channel();
    let last = Arc::clone(&slot);
    let held = hold_writer(&log);
    log.submit(
        append(1, 1, 1),
        Some(Box::new(move |_| {
            drop(last.lock().unwrap().take());
            sender.send(()).unwrap();
        })),
    );
    *slot.lock().unwrap() = Some(log);
    drop(held);
    receiver.recv().unwrap();
}

#[test]
fn a_panicking_completion_fails_the_log_and_hangs_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let log = SegmentLog::open(directory.path(), LogOptions::default()).unwrap();
    let held = hold_writer(&log);
    log.submit(append(1, 1, 1), Some(Box::new(|_| panic!("a bug, on purpose"))));
    // Durable together with the first.
    let (sender, receiver) = mpsc::channel();
    log.submit(append(2, 1, 1), Some(Box::new(move |result| sender.send(result).unwrap())));
    drop(held);
    assert!(receiver.recv().unwrap().is_ok());
    assert_eq!(write(&log, append(1, 2, 1)).unwrap_err().0, "a completion panicked");
    assert!(log.close().is_err());
}

const CHILD: &str = "EVERLOG_TEST_FULL_DISK";

/// A disk that fails: the file size limit makes the system refuse a large write in the middle of the run.
#[test]
#[cfg(unix)]
fn a_failed_write_fails_everything_after_it() {
    if let Some(directory) = std::env::var_os(CHILD) {
        return write_until_it_fails(&PathBuf::from(directory));
    }
    let directory = tempfile::tempdir().unwrap();
    let limited = "trap '' XFSZ; ulimit -f 4096; exec \"$0\" --exact a_failed_write_fails_everything_after_it";
    let status = Command::new("sh")
        .args(["-c", limited])
        .arg(std::env::current_exe().unwrap())
        .env(CHILD, directory.path())
        .status()
        .unwrap();
    assert!(status.success());
}

fn write_until_it_fails(directory: &Path) {
    let options = LogOptions { segment_bytes: 1 << 20, ..LogOptions::default() };
    let log = SegmentLog::open(directory, options).unwrap();
    let failed = (1..1000).find(|index| write(&log, append(1, *index, 100_000 * *index as usize)).is_err());
    let failed = failed.expect("the limit was not reached");
    assert!(failed > 1);
    let fsyncs = log.stats().fsyncs;
    // Small enough to fit, but nobody may try: order would be lost.
    assert!(write(&log, append(2, 1, 1)).is_err());
    assert!(log.close().is_err());
    assert_eq!(log.stats().fsyncs, fsyncs);
    assert_eq!(log.recover(GroupId(1)).unwrap().last_index, Some(failed - 1));
    assert_eq!(log.recover(GroupId(2)).unwrap().last_index, None);
}
