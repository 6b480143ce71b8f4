//! Segments of the Raft log as a disk may give them back. A log is opened or refused. One that is opened can be read, written to, and
//! opened again with the same content.

use std::path::Path;
use std::sync::mpsc;

use bytes::Bytes;
use everlog_storage::log::{LogEngine, LogRecord, RecoveredGroup};
use everlog_storage::{GroupId, LogOptions, SegmentLog};

use super::{Target, kind_of};
use everlog_random::Random;
use everlog_random::mutate;

/// Groups that are looked at.
const GROUPS: u32 = 4;
/// Entries that are read of each.
const ENTRIES_MAX: u64 = 64;
/// Where frames begin, and the bytes of a frame's header: see `storage/src/segment_log/format.rs`.
const HEADER_BYTES: usize = 32;
const FRAME_HEADER_BYTES: usize = 16;
const FRAME_ALIGNMENT: usize = 8;

#[derive(Default)]
pub(super) struct LogSegments {
    random: Option<Random>,
}

impl Target for LogSegments {
    fn name(&self) -> &'static str {
        "log-segments"
    }

    /// The files of logs that were written to in several ways.
    fn seeds(&mut self) -> Result<Vec<Vec<u8>>, String> {
        let scripts: [&[LogRecord]; 3] = [
            &[append(1, 1, 3), append(2, 1, 1), append(1, 4, 2)],
            &[append(1, 1, 5), truncate(1, 4), append(1, 4, 1), purge(1, 2), vote(2), committed(1)],
            &[vote(1), append(3, 7, 2), LogRecord::Destroy { group: GroupId(3) }, append(1, 1, 30)],
        ];
        scripts.iter().map(|script| written(script)).collect()
    }

    fn change(&mut self, random: &mut Random, input: &mut Vec<u8>, other: &[u8]) {
        mutate::bytes(random, input, other);
        if !random.one_in(4) {
            sign(input);
        }
        self.random = Some(random.clone());
    }

    fn run(&mut self, input: &[u8]) -> Result<String, String> {
        let directory = directory()?;
        let path = directory.path().join(format!("{:016x}.seg", 1));
        std::fs::write(&path, input).map_err(|error| error.to_string())?;
        let log = match open(directory.path()) {
            Ok(log) => log,
            Err(why) => {
                let why = why.replace(&directory.path().display().to_string(), "");
                return Ok(kind_of(&why).chars().take(60).collect());
            }
        };
        let before = content(&log);
        let readable = before.iter().filter(|(_, entries)| entries.is_ok()).count();
        log.close().map_err(|error| format!("a log that was opened cannot be closed: {error}"))?;
        drop(log);
        let log = open(directory.path()).map_err(|error| format!("a log that was opened once is refused: {error}"))?;
        if content(&log) != before {
            return Err(format!("a log has other content when it is opened again: {before:?}"));
        }
        let (sender, receiver) = mpsc::channel();
        let told = Box::new(move |result| drop(sender.send(result)));
        log.submit(append(9, 1, 1), Some(told));
        let written = receiver.recv().map_err(|_| "an append is not answered".to_owned())?;
        written.map_err(|error| format!("a log that was opened does not take an append: {error}"))?;
        let indexes: Vec<_> = before.iter().map(|(group, _)| group.first_index.zip(group.last_index)).collect();
        let lengths = indexes.iter().map(|range| range.map_or(0, |(first, last)| last.wrapping_sub(first) + 1).min(9));
        Ok(format!("opened, {readable} readable, {:?}", lengths.collect::<Vec<_>>()))
    }
}

type Content = Vec<(RecoveredGroup, Result<Vec<Bytes>, ()>)>;

fn content(log: &SegmentLog) -> Content {
    let group = |group| {
        let group = GroupId(group);
        let recovered = log.recover(group).ok()?;
        let entries = match recovered.first_index.zip(recovered.last_index) {
            Some((first, last)) => {
                let end = last.min(first.saturating_add(ENTRIES_MAX)).saturating_add(1);
                log.read(group, first..end, 1 << 20).map_err(|_| ())
            }
            None => Ok(Vec::new()),
        };
        Some((recovered, entries))
    };
    (0..GROUPS).filter_map(group).collect()
}

fn open(directory: &Path) -> Result<SegmentLog, String> {
    let options = LogOptions { segment_bytes: 64 << 10, ..LogOptions::default() };
    SegmentLog::open(directory, options).map_err(|error| error.to_string())
}

/// In memory, where the system has a place for that: a log syncs all the time.
fn directory() -> Result<tempfile::TempDir, String> {
    let shared_memory = Path::new("/dev/shm");
    let made = match shared_memory.is_dir() {
        true => tempfile::tempdir_in(shared_memory).or_else(|_| tempfile::tempdir()),
        false => tempfile::tempdir(),
    };
    made.map_err(|error| error.to_string())
}

/// The largest segment that a log with these records consists of, without what it was only filled with.
fn written(records: &[LogRecord]) -> Result<Vec<u8>, String> {
    let directory = directory()?;
    let log = open(directory.path())?;
    for record in records {
        let (sender, receiver) = mpsc::channel();
        log.submit(record.clone(), Some(Box::new(move |result| drop(sender.send(result)))));
        receiver.recv().map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
    }
    log.close().map_err(|error| error.to_string())?;
    let mut bytes =
        std::fs::read(directory.path().join(format!("{:016x}.seg", 1))).map_err(|error| error.to_string())?;
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    bytes.truncate(end.next_multiple_of(FRAME_ALIGNMENT));
    Ok(bytes)
}

/// Makes the checksums of the header and of all frames right, as far as their lengths make sense: what is read behind them is what
/// matters.
fn sign(segment: &mut [u8]) {
    if segment.len() < HEADER_BYTES {
        return;
    }
    let crc = crc32c::crc32c(&segment[..HEADER_BYTES - 4]);
    segment[HEADER_BYTES - 4..HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
    let stamp: [u8; 8] = std::array::from_fn(|byte| segment[16 + byte]);
    let mut at = HEADER_BYTES;
    while let Some(frame) = segment.get_mut(at..).filter(|frame| frame.len() >= FRAME_HEADER_BYTES) {
        let length: [u8; 4] = std::array::from_fn(|byte| frame[4 + byte]);
        let Some(end) = FRAME_HEADER_BYTES.checked_add(u32::from_le_bytes(length) as usize) else { return };
        if frame.len() < end || end == FRAME_HEADER_BYTES {
            return;
        }
        frame[8..16].copy_from_slice(&stamp);
        let crc = crc32c::crc32c(&frame[4..end]);
        frame[..4].copy_from_slice(&crc.to_le_bytes());
        at += end.next_multiple_of(FRAME_ALIGNMENT);
    }
}

fn append(group: u32, first_index: u64, entries: u8) -> LogRecord {
    let entry = |number: u8| Bytes::from(vec![number; 5 + usize::from(number)]);
    LogRecord::Append { group: GroupId(group), first_index, entries: (0..entries).map(entry).collect() }
}

fn truncate(group: u32, from: u64) -> LogRecord {
    LogRecord::Truncate { group: GroupId(group), from }
}

fn purge(group: u32, upto: u64) -> LogRecord {
    LogRecord::Purge { group: GroupId(group), upto, log_id: Bytes::from_static(b"an id") }
}

fn vote(group: u32) -> LogRecord {
    LogRecord::Vote { group: GroupId(group), vote: Bytes::from_static(b"a vote") }
}

fn committed(group: u32) -> LogRecord {
    LogRecord::Committed { group: GroupId(group), log_id: Bytes::from_static(b"a committed id") }
}
