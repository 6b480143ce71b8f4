//! The files of the log: what crashes and damage leave of them, that they are used again, and that they are few.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use bytes::Bytes;
use everlog_random::Random;
use everlog_storage::log::{LogEngine, LogError, LogRecord};
use everlog_storage::twin::CrashLog;
use everlog_storage::{GroupId, LogOptions, SegmentLog};

const BUSY: GroupId = GroupId(1);
const IDLE: GroupId = GroupId(2);
const ALL: usize = usize::MAX;
const SEGMENT_BYTES: u64 = 16 << 10;

fn open(directory: &Path) -> Result<SegmentLog, LogError> {
    SegmentLog::open(directory, LogOptions { segment_bytes: SEGMENT_BYTES, ..LogOptions::default() })
}

/// Bytes that cannot be compressed.
fn entry(group: GroupId, index: u64, bytes: usize) -> Bytes {
    let mut random = Random::new((u64::from(group.0) << 40) + index);
    [format!("{group}/{index} ").into_bytes(), random.bytes(bytes)].concat().into()
}

fn append(group: GroupId, index: u64, bytes: usize) -> LogRecord {
    LogRecord::Append { group, first_index: index, entries: vec![entry(group, index, bytes)] }
}

fn purge(group: GroupId, upto: u64) -> LogRecord {
    LogRecord::Purge { group, upto, log_id: Bytes::from(format!("purged {upto}")) }
}

fn write(log: &impl LogEngine, record: LogRecord) {
    let (sender, receiver) = mpsc::channel();
    log.submit(record, Some(Box::new(move |result| sender.send(result).unwrap())));
    receiver.recv().unwrap().unwrap();
}

/// Files by the end of their names, ascending.
fn files(directory: &Path, ending: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = entries.filter(|path| path.to_string_lossy().contains(ending)).collect();
    files.sort();
    files
}

fn check(log: &impl LogEngine, group: GroupId, range: std::ops::Range<u64>, bytes: usize) {
    let recovered = log.recover(group).unwrap();
    assert_eq!((recovered.first_index, recovered.last_index), (Some(range.start), Some(range.end - 1)));
    let expected: Vec<Bytes> = range.clone().map(|index| entry(group, index, bytes)).collect();
    assert_eq!(log.read(group, range, ALL).unwrap(), expected);
}

#[test]
fn segments_follow_each_other() {
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path()).unwrap();
    for index in 1..=100 {
        write(&log, append(BUSY, index, 1000));
    }
    check(&log, BUSY, 1..101, 1000);
    let before = files(directory.path(), ".seg").len();
    assert!((6..10).contains(&before), "{before}");
    drop(log);
    let log = open(directory.path()).unwrap();
    check(&log, BUSY, 1..101, 1000);
    // A start needs no new one.
    assert_eq!(files(directory.path(), ".seg").len(), before);
}

#[test]
fn a_write_larger_than_a_segment_gets_one_for_itself() {
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path()).unwrap();
    for index in 1..=3 {
        write(&log, append(BUSY, index, 100_000));
        write(&log, append(IDLE, index, 10));
    }
    drop(log);
    let log = open(directory.path()).unwrap();
    check(&log, BUSY, 1..4, 100_000);
    check(&log, IDLE, 1..4, 10);
}

/// Files are used again, and what they held before never comes back.
#[test]
fn a_log_that_is_purged_stays_small() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = open(directory.path()).unwrap();
    write(&log, LogRecord::Vote { group: BUSY, vote: Bytes::from_static(b"vote") });
    write(&log, LogRecord::Replica { group: BUSY, replica: Bytes::from_static(b"replica") });
    for index in 1..=3000 {
        write(&log, append(BUSY, index, 700));
        if index % 20 == 0 {
            write(&log, purge(BUSY, index - 3));
        }
        if index % 500 == 0 {
            drop(log);
            log = open(directory.path()).unwrap();
            check(&log, BUSY, index - 2..index + 1, 700);
            let recovered = log.recover(BUSY).unwrap();
            assert_eq!(recovered.vote, Some(Bytes::from_static(b"vote")));
            assert_eq!(recovered.replica, Some(Bytes::from_static(b"replica")));
        }
        let (segments, spares) = (files(directory.path(), ".seg").len(), files(directory.path(), "spare-").len());
        assert!(segments <= 7 && spares <= 4, "{segments} segments and {spares} spare files at {index}");
    }
    log.compact().unwrap();
    assert_eq!((files(directory.path(), ".seg").len(), files(directory.path(), "spare-").len()), (1, 1));
    check(&log, BUSY, 2998..3001, 700);
}

/// A group that is at rest with a few entries does not keep what others wrote behind them.
#[test]
fn entries_of_an_idle_group_are_rewritten() {
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path()).unwrap();
    write(&log, LogRecord::Vote { group: IDLE, vote: Bytes::from_static(b"idle") });
    for index in 1..=10 {
        write(&log, append(IDLE, index, 300));
    }
    // What was replaced must not come back with them.
    write(&log, LogRecord::Truncate { group: IDLE, from: 9 });
    write(&log, append(IDLE, 9, 300));
    for index in 1..=2000 {
        write(&log, append(BUSY, index, 700));
        write(&log, purge(BUSY, index));
        let segments = files(directory.path(), ".seg").len();
        assert!(segments <= 7, "{segments} segments at {index}");
    }
    check(&log, IDLE, 1..10, 300);
    drop(log);
    let log = open(directory.path()).unwrap();
    check(&log, IDLE, 1..10, 300);
    assert_eq!(log.recover(IDLE).unwrap().vote, Some(Bytes::from_static(b"idle")));
    assert_eq!(log.recover(BUSY).unwrap().purged, Some(Bytes::from_static(b"purged 2000")));
}

/// Many groups at rest keep the oldest segments full of entries that are needed. An append waits for a part of the moving only.
#[test]
fn an_append_waits_for_few_entries_to_be_moved() {
    const MOVE_BYTES: u64 = 4096;
    const ENTRY_BYTES: u64 = 1100;
    let directory = tempfile::tempdir().unwrap();
    let options = LogOptions {
        segment_bytes: SEGMENT_BYTES,
        move_bytes_max: usize::try_from(MOVE_BYTES).unwrap(),
        ..LogOptions::default()
    };
    let log = SegmentLog::open(directory.path(), options).unwrap();
    for group in 100..300 {
        write(&log, append(GroupId(group), 1, 1000));
    }
    let mut moved = 0;
    for index in 1..=3000 {
        write(&log, append(BUSY, index, 700));
        write(&log, purge(BUSY, index));
        let now = log.stats().moved_bytes;
        // The step behind each of the two writes, and that of the write before.
        assert!(now - moved <= 3 * (MOVE_BYTES + ENTRY_BYTES), "{} bytes at {index}", now - moved);
        moved = now;
        let segments = files(directory.path(), ".seg").len();
        assert!(segments <= 40, "{segments} segments at {index}");
    }
    assert!(moved > 200 * 1000, "{moved}");
    for group in 100..300 {
        check(&log, GroupId(group), 1..2, 1000);
    }
    // Moving what is needed frees nothing, and is not done over and over.
    (0..5).for_each(|_| log.compact().unwrap());
    let moved = log.stats().moved_bytes;
    (0..5).for_each(|_| log.compact().unwrap());
    assert_eq!(log.stats().moved_bytes, moved);
}

/// Copies the files of a log, the last segment cut down or changed by `damage`.
fn damaged(directory: &Path, segment: &Path, damage: impl FnOnce(&mut Vec<u8>)) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(directory).unwrap() {
        let path = file.unwrap().path();
        std::fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
    }
    let damaged = copy.path().join(segment.file_name().unwrap());
    let mut bytes = std::fs::read(&damaged).unwrap();
    damage(&mut bytes);
    std::fs::write(&damaged, bytes).unwrap();
    copy
}

/// Where the bytes of the last entry of `BUSY` with this index are in a segment.
fn find(segment: &Path, index: u64) -> usize {
    let (bytes, entry) = (std::fs::read(segment).unwrap(), entry(BUSY, index, 100));
    bytes.windows(entry.len()).position(|window| window == entry).unwrap()
}

/// Twenty entries in one segment, as a crash leaves them: not ended.
fn twenty() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path()).unwrap();
    for index in 1..=20 {
        write(&log, append(BUSY, index, 100));
    }
    let segment = files(directory.path(), ".seg").pop().unwrap();
    drop(log);
    (directory, segment)
}

#[test]
fn a_write_that_a_crash_cut_off_is_dropped() {
    let (directory, segment) = twenty();
    let last = find(&segment, 20);
    let frame = last - 16 - 17 - 12;
    let whole = last + entry(BUSY, 20, 100).len();
    // The frame counts as cut off too where only its padding is missing.
    let copy = damaged(directory.path(), &segment, |bytes| bytes.truncate(whole));
    assert!(!whole.is_multiple_of(8));
    check(&open(copy.path()).unwrap(), BUSY, 1..20, 100);
    for cut in (frame..whole).step_by(7) {
        // The disk has what is before, and zeros, or what an earlier life of the file left.
        for left in [0, 0xa5] {
            let copy = damaged(directory.path(), &segment, |bytes| bytes[cut..].fill(left));
            let log = open(copy.path()).unwrap();
            check(&log, BUSY, 1..20, 100);
            // And it goes on from there, however often.
            write(&log, append(BUSY, 20, 50));
            drop(log);
            let log = open(copy.path()).unwrap();
            assert_eq!(log.read(BUSY, 20..21, ALL).unwrap(), [entry(BUSY, 20, 50)]);
        }
        let copy = damaged(directory.path(), &segment, |bytes| bytes.truncate(cut));
        check(&open(copy.path()).unwrap(), BUSY, 1..20, 100);
    }
    // What was written, though nobody was told, may stay.
    check(&open(directory.path()).unwrap(), BUSY, 1..21, 100);
}

fn refusal(directory: &Path) -> String {
    open(directory).map(|_| ()).unwrap_err().to_string()
}

#[test]
fn damage_to_what_was_acknowledged_is_refused() {
    let (directory, segment) = twenty();
    for index in [1, 10, 19] {
        let at = find(&segment, index) + 5;
        let copy = damaged(directory.path(), &segment, |bytes| bytes[at] ^= 1);
        let refused = refusal(copy.path());
        assert!(refused.contains("damaged at byte") && refused.contains("goes on at byte"), "{refused}");
    }
    let copy = damaged(directory.path(), &segment, |bytes| bytes[40] ^= 1);
    assert!(refusal(copy.path()).contains("first frame is damaged"), "{}", refusal(copy.path()));
    let copy = damaged(directory.path(), &segment, |bytes| bytes[9] ^= 1);
    assert!(refusal(copy.path()).contains("does not begin like a segment"), "{}", refusal(copy.path()));
    // The last frame of a segment that has a successor was acknowledged.
    let log = open(directory.path()).unwrap();
    let last = (21..).find(|index| {
        write(&log, append(BUSY, *index, 100));
        files(directory.path(), ".seg").len() > 1
    });
    drop(log);
    let at = find(&segment, last.unwrap() - 1) + 5;
    let copy = damaged(directory.path(), &segment, |bytes| bytes[at] ^= 1);
    let refused = refusal(copy.path());
    assert!(refused.contains("does not end there"), "{refused}");
}

#[test]
fn a_missing_segment_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path()).unwrap();
    for index in 1..=60 {
        write(&log, append(BUSY, index, 1000));
    }
    drop(log);
    std::fs::remove_file(&files(directory.path(), ".seg")[1]).unwrap();
    assert!(refusal(directory.path()).contains("0000000000000002.seg is missing"), "{}", refusal(directory.path()));
}

/// However a segment is damaged, the log is opened or refused.
#[test]
fn any_damage_is_found_or_does_no_harm() {
    let (directory, segment) = twenty();
    let length = usize::try_from(std::fs::metadata(&segment).unwrap().len()).unwrap();
    let mut random = Random::new(7);
    let mut opened = 0;
    for _ in 0..300 {
        let copy = damaged(directory.path(), &segment, |bytes| {
            for _ in 0..1 + random.below_u64(3) {
                let at = usize::try_from(random.below_u64(4096.min(length as u64))).unwrap();
                let end = (at + 1 + usize::try_from(random.below_u64(20)).unwrap()).min(length);
                bytes[at..end].fill(u8::try_from(random.below_u64(256)).unwrap());
            }
            if random.below_u64(4) == 0 {
                bytes.truncate(usize::try_from(random.below_u64(length as u64)).unwrap());
            }
        });
        let Ok(log) = open(copy.path()) else { continue };
        opened += 1;
        // What is found is what was written, up to the damage.
        let last = log.recover(BUSY).unwrap().last_index.unwrap_or(0);
        let read = log.read(BUSY, 1..last + 1, ALL).unwrap();
        assert!(read.into_iter().eq((1..=last).map(|index| entry(BUSY, index, 100))));
    }
    assert!((1..300).contains(&opened), "{opened}");
}

/// What repeats itself takes less disk, and comes back as it was.
#[test]
fn entries_are_compressed() {
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path()).unwrap();
    let entry = |index: u64| Bytes::from(format!("entry {index} of a busy partition, ").repeat(100));
    for index in 1..=100 {
        write(&log, LogRecord::Append { group: BUSY, first_index: index, entries: vec![entry(index)] });
    }
    let whole: usize = (1..=100).map(|index| entry(index).len()).sum();
    assert!(log.stats().bytes < whole as u64 / 8, "{} of {whole}", log.stats().bytes);
    drop(log);
    let log = open(directory.path()).unwrap();
    assert!(log.read(BUSY, 1..101, ALL).unwrap().into_iter().eq((1..=100).map(entry)));
    // A limit counts what is read, not what it takes on the disk.
    let limit = 10 * entry(10).len();
    let read = log.read(BUSY, 10..101, limit).unwrap();
    assert_eq!(read.len(), 10);
}

/// Damage that comes later is noticed when the entry is read.
#[test]
fn a_damaged_entry_is_not_read() {
    let (directory, segment) = twenty();
    let log = open(directory.path()).unwrap();
    let at = find(&segment, 7) + 3;
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[at] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    assert_eq!(log.read(BUSY, 1..7, ALL).unwrap().len(), 6);
    let refused = log.read(BUSY, 1..21, ALL).unwrap_err().to_string();
    assert!(refused.contains("an entry is damaged"), "{refused}");
}

/// Whatever is done to it, the log holds what its twin in memory holds, also after a restart.
#[test]
fn a_log_and_its_twin_hold_the_same() {
    const GROUPS: u32 = 4;
    const STEPS: u64 = 1500;
    for seed in 1..=4u64 {
        let mut random = Random::new(seed);
        let directory = tempfile::tempdir().unwrap();
        let (mut log, twin) = (open(directory.path()).unwrap(), CrashLog::new(seed));
        // First and last index of each group.
        let mut bounds: BTreeMap<GroupId, (u64, u64)> = (0..GROUPS).map(|group| (GroupId(group), (1, 0))).collect();
        for step in 0..STEPS {
            let group = GroupId(u32::try_from(random.below_u64(u64::from(GROUPS))).unwrap());
            let (first, last) = bounds[&group];
            let record = match random.below_u64(100) {
                0..70 => {
                    let count = 1 + random.below_u64(4);
                    let entry = |index| entry(group, index + 1000 * step, 10 + usize::try_from(step % 900).unwrap());
                    bounds.insert(group, (first, last + count));
                    LogRecord::Append { group, first_index: last + 1, entries: (0..count).map(entry).collect() }
                }
                70..80 if last >= first => {
                    let from = first + random.below_u64(last + 1 - first);
                    bounds.insert(group, (first, from - 1));
                    LogRecord::Truncate { group, from }
                }
                80..92 => {
                    let upto = first + random.below_u64(last + 3 - first.min(last + 2));
                    bounds.insert(group, (upto + 1, last.max(upto)));
                    purge(group, upto)
                }
                92..96 => LogRecord::Vote { group, vote: Bytes::from(format!("vote {step}")) },
                96..99 => LogRecord::Committed { group, log_id: Bytes::from(format!("committed {step}")) },
                _ => {
                    bounds.insert(group, (1, 0));
                    LogRecord::Destroy { group }
                }
            };
            write(&log, record.clone());
            write(&twin, record);
            if random.below_u64(100) == 0 {
                log.compact().unwrap();
            }
            if random.below_u64(60) == 0 {
                drop(log);
                log = open(directory.path()).unwrap();
            }
            if step % 10 == 0 || step + 1 == STEPS {
                for group in (0..GROUPS).map(GroupId) {
                    let context = format!("seed {seed}, step {step}, group {group}");
                    assert_eq!(log.recover(group).unwrap(), twin.recover(group).unwrap(), "{context}");
                    let (first, last) = bounds[&group];
                    let read = |log: &dyn LogEngine| log.read(group, first..last + 1, ALL).unwrap();
                    assert_eq!(read(&log), read(&twin), "{context}");
                }
            }
        }
    }
}
