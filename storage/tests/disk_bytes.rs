//! What small appends write to the disk. By itself, because the system counts for the whole process.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::{Arc, mpsc};

use everlog_storage::log::{LogEngine, LogRecord};
use everlog_storage::segment_log::{Disk, FileDisk};
use everlog_storage::{GroupId, LogOptions, SegmentLog};

const APPENDS: u64 = 200;
const ENTRY_BYTES: usize = 400;
/// What a new file is filled with ahead of the appends.
const FILL_BYTES: u64 = 128 << 10;

/// Bytes that this process has sent to disks.
fn written_bytes() -> u64 {
    let io = std::fs::read_to_string("/proc/self/io").unwrap();
    io.lines().find_map(|line| line.strip_prefix("write_bytes: ")).unwrap().parse().unwrap()
}

#[test]
fn a_small_append_writes_blocks_and_not_pages() {
    let directory = tempfile::tempdir().unwrap();
    let mut random = everlog_random::Random::new(1);
    for (disk, is_cached) in [
        (FileDisk::new(&directory.path().join("any")), false),
        (FileDisk::cached(&directory.path().join("cached")), true),
    ] {
        let disk = Arc::new(disk);
        let log = SegmentLog::open_on(disk.clone(), LogOptions::default()).unwrap();
        let block_bytes = disk.open_or_create("other").unwrap().block_bytes() as u64;
        let before = written_bytes();
        for index in 0..APPENDS {
            let (sender, durable) = mpsc::channel();
            let entries = vec![random.bytes(ENTRY_BYTES).into()];
            let append = LogRecord::Append { group: GroupId(1), first_index: index, entries };
            log.submit(append, Some(Box::new(move |result| sender.send(result).unwrap())));
            durable.recv().unwrap().unwrap();
        }
        let written = written_bytes() - before;
        log.close().unwrap();
        // A file system without storage of its own counts nothing.
        let frames = APPENDS * (ENTRY_BYTES as u64 + 64 + block_bytes) + FILL_BYTES;
        assert!(written <= frames, "cached: {is_cached}, blocks of {block_bytes}: {written} bytes, {frames} expected");
    }
}
