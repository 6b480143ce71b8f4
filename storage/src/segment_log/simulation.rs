//! Random histories of the log on a disk that loses what was not synced.
//!
//! A history is a few lives of one log. In each, groups append, truncate, purge, vote and go; the log is compacted; and then the process
//! ends, is killed, loses its power at some call, or meets a disk that fails. The next life must find what was acknowledged, and beyond
//! that at most the one write that was on its way: nothing else, and nothing that a former life had found may be gone.
//!
//! One thread plays the writer, so a seed is always the same history. A failing seed is printed with the line that runs it again. To run
//! others: `EVERLOG_SEEDS=20000..90000 cargo test -p everlog-storage random_histories`.
//!
//! Each of the log's syncs is needed: `NOTICED` names a seed that notices when it is not done.
//! The histories have found two faults, both of a start that took the last frame for durable although it was in the system's cache only: of
//! a process that was killed, and after a sync that had failed.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use everlog_random::Random;
use parking_lot::Mutex;

use super::writer::Writer;
use super::{LogOptions, SegmentLog};
use crate::GroupId;
use crate::log::{LogEngine, LogError, LogRecord};
use crate::twin::{CrashDisk, GroupLog, SyncKind, apply_record};

const HISTORIES: u64 = 10_000;
const GROUPS: u32 = 4;

/// The first seed that notices that a kind of sync does nothing.
const NOTICED: [(SyncKind, u64); 5] = [
    // A frame that was acknowledged, and the end of a segment that has a successor.
    (SyncKind::Segment, 0),
    // What a segment begins with.
    (SyncKind::Unnamed, 3),
    // The segment that acknowledged frames are in.
    (SyncKind::NewName, 0),
    // A segment goes while an older one comes back.
    (SyncKind::OldName, 5),
    // A process that was killed had renamed a segment; its successor overwrites the file, and then the old name comes back.
    (SyncKind::Names, 1167),
];

type Model = BTreeMap<GroupId, GroupLog>;

#[test]
fn random_histories() {
    let seeds = match std::env::var("EVERLOG_SEEDS") {
        Ok(seeds) => parse(&seeds).unwrap_or_else(|| panic!("EVERLOG_SEEDS is {seeds:?}, and must be like 5..8")),
        Err(_) => 0..HISTORIES,
    };
    let threads = std::thread::available_parallelism().map_or(1, |threads| threads.get() as u64).min(8);
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let seeds = seeds.clone();
            scope.spawn(move || {
                for seed in seeds.filter(|seed| seed % threads == thread) {
                    if let Err(why) = History::new(seed, None).run() {
                        panic!(
                            "seed {seed}: {why}\nagain: EVERLOG_SEEDS={seed}..{} cargo test -p everlog-storage --lib \
                             random_histories",
                            seed + 1
                        );
                    }
                }
            });
        }
    });
}

fn parse(seeds: &str) -> Option<Range<u64>> {
    let (start, end) = seeds.split_once("..")?;
    Some(start.parse().ok()?..end.parse().ok()?)
}

/// A history in which a kind of sync does nothing goes wrong: the histories can tell.
#[test]
fn every_sync_is_missed() {
    for (kind, seed) in NOTICED {
        let fails = |seed: u64| History::new(seed, Some(kind)).run().is_err();
        assert!(
            fails(seed),
            "a missing {kind:?} is noticed by seed {:?} now",
            (0..HISTORIES).find(|seed| fails(*seed))
        );
    }
}

struct History {
    random: Random,
    disk: CrashDisk,
    options: LogOptions,
    /// What must be there.
    model: Model,
    /// Committed log ids that need not be there.
    lazy: Vec<LogRecord>,
    /// Makes the bytes of each entry different.
    appended: u64,
}

/// How a life ended.
enum End {
    /// What the next one must find is known.
    Known,
    /// These may be found on top, or not.
    Open(Vec<LogRecord>),
}

impl History {
    fn new(seed: u64, ignored: Option<SyncKind>) -> History {
        let mut random = Random::new(seed);
        let disk = CrashDisk::new(random.any());
        if let Some(kind) = ignored {
            disk.ignore(kind);
        }
        let options = LogOptions {
            segment_bytes: [6 << 10, 12 << 10, 24 << 10][random.below(3)],
            move_bytes_max: [1, 500, 5000][random.below(3)],
            retry_interval: Duration::ZERO,
            ..LogOptions::default()
        };
        History { random, disk, options, model: Model::new(), lazy: Vec::new(), appended: 0 }
    }

    fn run(mut self) -> Result<(), String> {
        let mut end = End::Known;
        for life in 0..2 + self.random.below(3) {
            end = self.live(end).map_err(|why| format!("life {life}: {why}"))?;
            self.disk = if self.random.one_in(3) { self.disk.kill() } else { self.disk.lose_power() };
        }
        let (log, _) = SegmentLog::begin(Arc::new(self.disk.clone()), self.options.clone())
            .map_err(|error| format!("at last: {error}"))?;
        self.find(&log, &end).map_err(|why| format!("at last: {why}"))
    }

    /// From one opening to the end of a process.
    fn live(&mut self, before: End) -> Result<End, String> {
        if self.random.one_in(3) {
            let (calls, length) = (1 + self.random.below(200) as u64, 1 + self.random.below(20) as u64);
            self.disk.fill_after(calls, length);
        }
        match self.random.below(5) {
            0..3 => self.disk.stop_after(1 + self.random.below(200) as u64),
            3 => self.disk.fail_after(1 + self.random.below(200) as u64),
            _ => {}
        }
        let (log, mut writer) = match SegmentLog::begin(Arc::new(self.disk.clone()), self.options.clone()) {
            Ok(opened) => opened,
            Err(_) if self.disk.has_failed() => return Ok(before),
            // Only the first file of all cannot be made on a full disk.
            Err(error) if error.0.contains("no storage space") && self.model.is_empty() => return Ok(before),
            Err(error) => return Err(error.to_string()),
        };
        let found = self.find(&log, &before);
        if self.disk.has_failed() {
            // It may be that not everything could be read. The next life looks again.
            return Ok(before);
        }
        found?;
        for _ in 0..self.random.below(40) {
            let records = self.records();
            let result = write(&log, &mut writer, &records);
            let has_synced = records.iter().any(|record| !matches!(record, LogRecord::Committed { .. }));
            self.lazy.extend(records);
            if has_synced || result.is_err() {
                let written = std::mem::take(&mut self.lazy);
                match result {
                    Ok(()) => written.iter().for_each(|record| apply_record(&mut self.model, record)),
                    Err(_) if self.disk.has_failed() => return Ok(End::Open(written)),
                    Err(error) => return Err(error.to_string()),
                }
            }
            if self.random.one_in(8)
                && let Err(error) = log.compact()
            {
                if self.disk.has_failed() {
                    return Ok(End::Known);
                }
                return Err(error.to_string());
            }
            if self.random.one_in(8)
                && let Err(why) = same(&log, &self.model)
                && !self.disk.has_failed()
            {
                return Err(format!("while it runs, {why}"));
            }
        }
        if self.random.one_in(2) {
            log.queue.close();
            writer.run();
            let written = std::mem::take(&mut self.lazy);
            if log.close().is_err() || self.disk.has_failed() {
                return Ok(End::Open(written));
            }
            written.iter().for_each(|record| apply_record(&mut self.model, record));
        }
        Ok(End::Known)
    }

    /// Compares what is found with what must be there, and takes it for what must be there from now on.
    fn find(&mut self, log: &SegmentLog, before: &End) -> Result<(), String> {
        self.lazy.clear();
        let known = same(log, &self.model);
        let (Err(why), End::Open(records)) = (&known, before) else { return known };
        let mut other = self.model.clone();
        records.iter().for_each(|record| apply_record(&mut other, record));
        same(log, &other).map_err(|other| format!("without the last write: {why}; with it: {other}"))?;
        self.model = other;
        Ok(())
    }

    /// Records that are submitted together.
    fn records(&mut self) -> Vec<LogRecord> {
        let mut after = self.model.clone();
        self.lazy.iter().for_each(|record| apply_record(&mut after, record));
        (0..1 + self.random.below(3))
            .map(|_| {
                let record = self.record(&after);
                apply_record(&mut after, &record);
                record
            })
            .collect()
    }

    fn record(&mut self, now: &Model) -> LogRecord {
        let group = GroupId(self.random.below(GROUPS as usize) as u32);
        let known = now.get(&group).cloned().unwrap_or_default();
        let purged = known.purged.as_ref().map_or(0, |(upto, _)| *upto);
        let last = known.entries.last_key_value().map_or(purged, |(index, _)| *index);
        self.appended += 1;
        let text = |what: &str| Bytes::from(format!("{what} {} of {group}", self.appended));
        match self.random.below(100) {
            0..64 => {
                let entries = (0..1 + self.random.below(3)).map(|_| self.entry(group)).collect();
                LogRecord::Append { group, first_index: last + 1, entries }
            }
            64..72 if last > purged => {
                let from = purged + 1 + self.random.below((last - purged) as usize) as u64;
                LogRecord::Truncate { group, from }
            }
            64..88 => {
                let upto = purged + self.random.below((last - purged) as usize + 2) as u64;
                LogRecord::Purge { group, upto, log_id: text("purge") }
            }
            88..93 => LogRecord::Vote { group, vote: text("vote") },
            93..99 => LogRecord::Committed { group, log_id: text("committed") },
            _ => LogRecord::Destroy { group },
        }
    }

    /// Mostly small; some larger than a page, a few larger than a segment. Half of them repeat themselves.
    fn entry(&mut self, group: GroupId) -> Bytes {
        self.appended += 1;
        let length = match self.random.below(100) {
            0..80 => self.random.below(300),
            80..98 => self.random.below(6000),
            _ => self.random.below(30_000),
        };
        let name = format!("entry {} of {group} ", self.appended);
        let mut bytes = name.clone().into_bytes();
        if self.random.one_in(2) {
            bytes.extend(name.bytes().cycle().take(length));
        } else {
            bytes.extend(std::iter::repeat_with(|| self.random.any().to_le_bytes()).flatten().take(length));
        }
        bytes.into()
    }
}

/// Submits records so that they share a write.
fn write(log: &SegmentLog, writer: &mut Writer, records: &[LogRecord]) -> Result<(), LogError> {
    let results = Arc::new(Mutex::new(Vec::new()));
    for record in records {
        let heard = Arc::clone(&results);
        let is_lazy = matches!(record, LogRecord::Committed { .. });
        let completion = move |result| heard.lock().push(result);
        log.submit(record.clone(), (!is_lazy).then(|| Box::new(completion) as _));
    }
    writer.turn();
    let results = std::mem::take(&mut *results.lock());
    results.into_iter().collect()
}

/// Compares what a log holds with a model.
fn same(log: &SegmentLog, model: &Model) -> Result<(), String> {
    for group in (0..GROUPS).map(GroupId) {
        let expected = model.get(&group).cloned().unwrap_or_default();
        let found = log.recover(group).map_err(|error| error.to_string())?;
        let (first, last) = (expected.entries.keys().next().copied(), expected.entries.keys().next_back().copied());
        let purged = expected.purged.map(|(_, log_id)| log_id);
        for (what, found, expected) in [
            ("vote", &found.vote, &expected.vote),
            ("committed", &found.committed, &expected.committed),
            ("purged", &found.purged, &purged),
        ] {
            if found != expected {
                return Err(format!("{what} of group {group} is {found:?} instead of {expected:?}"));
            }
        }
        if (found.first_index, found.last_index) != (first, last) {
            let found = (found.first_index, found.last_index);
            return Err(format!("entries of group {group} are {found:?} instead of {:?}", (first, last)));
        }
        let (Some(first), Some(last)) = (first, last) else { continue };
        let read = log.read(group, first..last + 1, usize::MAX).map_err(|error| error.to_string())?;
        if !read.iter().eq(expected.entries.values()) {
            return Err(format!("entries {first} to {last} of group {group} are other ones"));
        }
    }
    Ok(())
}
