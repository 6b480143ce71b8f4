//! A log that runs out of space or of descriptors: it waits, nothing fails, and nothing is lost.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use bytes::Bytes;
use everlog_storage::log::{LogEngine, LogError, LogRecord};
use everlog_storage::{GroupId, LogOptions, SegmentLog};

const GROUP: GroupId = GroupId(1);
const SEGMENT_BYTES: u64 = 256 << 10;
const ENTRY_BYTES: usize = 10_000;

fn open(directory: &Path) -> SegmentLog {
    let retry_interval = Duration::from_millis(1);
    let options = LogOptions { segment_bytes: SEGMENT_BYTES, retry_interval, ..LogOptions::default() };
    SegmentLog::open(&directory.join("log"), options).unwrap()
}

fn entry(index: u64) -> Bytes {
    // Nothing that could be compressed.
    let mut state = index;
    let bytes = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    });
    bytes.take(ENTRY_BYTES).collect()
}

fn submit(log: &SegmentLog, record: LogRecord) -> Receiver<Result<(), LogError>> {
    let (sender, receiver) = mpsc::channel();
    log.submit(record, Some(Box::new(move |result| sender.send(result).unwrap())));
    receiver
}

fn append(log: &SegmentLog, index: u64) -> Receiver<Result<(), LogError>> {
    submit(log, LogRecord::Append { group: GROUP, first_index: index, entries: vec![entry(index)] })
}

/// Appends from `next` on until one has to wait. Returns its index, and what it will hear.
fn append_until_held(log: &SegmentLog, next: u64) -> (u64, Receiver<Result<(), LogError>>) {
    for index in next.. {
        let heard = append(log, index);
        loop {
            match heard.recv_timeout(Duration::from_millis(1)) {
                Ok(result) => break result.unwrap(),
                Err(_) if log.room().unwrap().is_held => return (index, heard),
                Err(_) => {}
            }
        }
    }
    unreachable!("there is an end of indexes")
}

fn check(log: &SegmentLog, first: u64, last: u64) {
    let found = log.recover(GROUP).unwrap();
    assert_eq!((found.first_index, found.last_index), (Some(first), Some(last)));
    assert!(log.read(GROUP, first..last + 1, usize::MAX).unwrap().into_iter().eq((first..=last).map(entry)));
}

/// A file system of a few MiB. It needs root; elsewhere the histories of `segment_log/simulation.rs` must do, which fill their disk, too.
struct SmallDisk(PathBuf, #[allow(dead_code, reason = "removed when dropped")] tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Option<SmallDisk> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().to_owned();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=3m", "tmpfs"]).arg(&path);
        mount.output().ok()?.status.success().then(|| SmallDisk(path, directory))
    }

    /// Takes all the space that is left.
    fn fill(&self) -> PathBuf {
        use std::io::Write;
        let path = self.0.join("filler");
        let mut file = File::create(&path).unwrap();
        while file.write_all(&[1; 4096]).is_ok() {}
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_makes_appends_wait() {
    let Some(disk) = SmallDisk::mount() else {
        eprintln!("no tmpfs can be mounted here: only the simulated disk is filled");
        return;
    };
    let log = open(&disk.0);
    (1..=10).for_each(|index| append(&log, index).recv().unwrap().unwrap());
    let filler = disk.fill();
    let room = log.room().unwrap();
    assert_eq!(room.free_bytes, 0);
    assert!(room.reserve_bytes > SEGMENT_BYTES && !room.is_held, "{room:?}");
    // What was kept ahead takes a segment's worth.
    let (held, heard) = append_until_held(&log, 11);
    assert!(held * ENTRY_BYTES as u64 > SEGMENT_BYTES, "{held}");
    check(&log, 1, held - 1);
    // Others wait behind it, and nothing has failed.
    let next = append(&log, held + 1);
    std::fs::remove_file(filler).unwrap();
    heard.recv().unwrap().unwrap();
    next.recv().unwrap().unwrap();
    assert!(!log.room().unwrap().is_held);
    log.close().unwrap();
    drop(log);
    check(&open(&disk.0), 1, held + 1);
}

#[test]
fn a_log_on_a_full_disk_is_opened_and_can_be_purged() {
    let Some(disk) = SmallDisk::mount() else {
        eprintln!("no tmpfs can be mounted here: only the simulated disk is filled");
        return;
    };
    let mut log = open(&disk.0);
    (1..=30).for_each(|index| append(&log, index).recv().unwrap().unwrap());
    disk.fill();
    // However often: a start takes no space.
    for index in 31..=40 {
        drop(log);
        log = open(&disk.0);
        check(&log, 1, index - 1);
        append(&log, index).recv().unwrap().unwrap();
    }
    // What is purged is written to again, so that a log which is purged goes on for ever.
    for index in 41..=400 {
        append(&log, index).recv().unwrap().unwrap();
        if index % 5 == 0 {
            let log_id = Bytes::from_static(b"purged");
            submit(&log, LogRecord::Purge { group: GROUP, upto: index - 1, log_id }).recv().unwrap().unwrap();
        }
    }
    log.compact().unwrap();
    drop(log);
    check(&open(&disk.0), 400, 400);
}

#[test]
fn a_log_that_waits_for_space_can_be_closed() {
    let Some(disk) = SmallDisk::mount() else {
        eprintln!("no tmpfs can be mounted here: only the simulated disk is filled");
        return;
    };
    let log = open(&disk.0);
    let filler = disk.fill();
    let (held, heard) = append_until_held(&log, 1);
    assert!(log.close().is_err());
    assert!(heard.recv().unwrap().is_err());
    drop(log);
    std::fs::remove_file(filler).unwrap();
    check(&open(&disk.0), 1, held - 1);
}

const CHILD: &str = "EVERLOG_TEST_DESCRIPTORS";

/// In a process of its own, since all its threads share the descriptors.
#[test]
fn a_process_without_descriptors_makes_appends_wait() {
    if let Some(directory) = std::env::var_os(CHILD) {
        return append_without_descriptors(&PathBuf::from(directory));
    }
    let directory = tempfile::tempdir().unwrap();
    let limited = "ulimit -n 64; exec \"$0\" --exact a_process_without_descriptors_makes_appends_wait --nocapture";
    let output = Command::new("sh")
        .args(["-c", limited])
        .arg(std::env::current_exe().unwrap())
        .env(CHILD, directory.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

fn append_without_descriptors(directory: &Path) {
    let log = open(directory);
    append(&log, 1).recv().unwrap().unwrap();
    let mut others: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    assert!(others.len() > 10);
    // The file that was kept open is written to, and its directory synced.
    let (held, heard) = append_until_held(&log, 2);
    assert!(held * ENTRY_BYTES as u64 > SEGMENT_BYTES, "{held}");
    others.clear();
    heard.recv().unwrap().unwrap();
    log.close().unwrap();
    drop(log);
    check(&open(directory), 1, held);
}
