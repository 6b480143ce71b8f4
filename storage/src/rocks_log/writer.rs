//! The writer thread: one batch and one fsync for everything that is waiting, then the completions in order.

use std::collections::{HashMap, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use rocksdb::{DB, WriteBatch, WriteOptions};

use super::queue::{Queue, Submission};
use super::{Counters, Failure, log_keys};
use crate::GroupId;
use crate::log::{LogError, LogRecord};

/// Purges of up to this many entries delete them one by one; a range tombstone, which every later read has to look at, is
/// worth it only beyond.
const POINT_DELETES_MAX: u64 = 64;

pub(super) struct Writer {
    db: Arc<DB>,
    queue: Arc<Queue>,
    counters: Arc<Counters>,
    failure: Arc<Failure>,
    gather_bytes_max: usize,
    /// Committed log ids that wait for a write that happens anyway. One per group: a later one replaces an earlier one.
    committed: HashMap<GroupId, Bytes>,
    /// Index up to which each group was purged, read from the log on first use, so that a range tombstone covers only what
    /// the ones before it did not.
    purged: HashMap<GroupId, Option<u64>>,
    synced: WriteOptions,
}

impl Writer {
    pub(super) fn new(
        db: Arc<DB>,
        queue: Arc<Queue>,
        counters: Arc<Counters>,
        failure: Arc<Failure>,
        gather_bytes_max: usize,
    ) -> Writer {
        let mut synced = WriteOptions::default();
        synced.set_sync(true);
        Writer {
            db,
            queue,
            counters,
            failure,
            gather_bytes_max,
            committed: HashMap::new(),
            purged: HashMap::new(),
            synced,
        }
    }

    /// Runs until the queue is closed and empty.
    pub(super) fn run(mut self) {
        let _stop = StopOnDrop(Arc::clone(&self.queue));
        while let Some(taken) = self.queue.take(self.gather_bytes_max) {
            if taken.overflowed {
                self.failure.set("more bytes are waiting for the disk than queued_bytes_max allows".to_owned());
            }
            let result = self.write(&taken.submissions);
            for submission in taken.submissions {
                self.complete(submission, &result);
            }
        }
        if let Err(error) = self.write_committed() {
            tracing::error!(%error, "could not write committed indexes at close");
        }
    }

    /// A completion that panics has left its group in a state that nobody knows, but the others in the batch must still hear of theirs.
    fn complete(&self, submission: Submission, result: &Result<(), LogError>) {
        let completing = AssertUnwindSafe(|| submission.complete(result));
        if std::panic::catch_unwind(completing).is_err() {
            self.failure.set("a completion panicked".to_owned());
        }
    }

    fn write(&mut self, submissions: &VecDeque<Submission>) -> Result<(), LogError> {
        self.failure.check()?;
        let mut batch = WriteBatch::default();
        let mut must_sync = false;
        for submission in submissions {
            must_sync |= submission.completion.is_some() || !matches!(submission.record, LogRecord::Committed { .. });
            self.add(&mut batch, &submission.record)?;
        }
        self.counters.count_records(submissions.len());
        if !must_sync {
            return Ok(());
        }
        self.write_synced(batch, submissions.len())
    }

    /// What is left at close.
    fn write_committed(&mut self) -> Result<(), LogError> {
        self.failure.check()?;
        if self.committed.is_empty() {
            return Ok(());
        }
        self.write_synced(WriteBatch::default(), 0)
    }

    fn write_synced(&mut self, mut batch: WriteBatch, records: usize) -> Result<(), LogError> {
        for (group, log_id) in self.committed.drain() {
            batch.put(log_keys::committed(group), log_id);
        }
        let bytes = batch.size_in_bytes();
        self.db.write_opt(batch, &self.synced).map_err(|error| self.failure.set(error.to_string()))?;
        self.counters.count_write(records, bytes);
        Ok(())
    }

    fn add(&mut self, batch: &mut WriteBatch, record: &LogRecord) -> Result<(), LogError> {
        match record {
            LogRecord::Append { group, first_index, entries } => {
                for (index, entry) in (*first_index..).zip(entries) {
                    batch.put(log_keys::entry(*group, index), entry);
                }
            }
            LogRecord::Truncate { group, from } => {
                // Rare (a follower that had heard another leader), and the end is not known here: a range it is.
                let end = log_keys::entries_end(*group);
                batch.delete_range(log_keys::entry(*group, *from).as_slice(), end.as_slice());
            }
            LogRecord::Purge { group, upto, log_id } => self.add_purge(batch, *group, *upto, log_id)?,
            LogRecord::Vote { group, vote } => batch.put(log_keys::vote(*group), vote),
            LogRecord::Committed { group, log_id } => {
                self.committed.insert(*group, log_id.clone());
            }
            LogRecord::Destroy { group } => {
                let range = log_keys::group_range(*group);
                batch.delete_range(range.start, range.end);
                self.committed.remove(group);
                self.purged.insert(*group, None);
            }
        }
        Ok(())
    }

    fn add_purge(&mut self, batch: &mut WriteBatch, group: GroupId, upto: u64, log_id: &Bytes) -> Result<(), LogError> {
        let purged = match self.purged.get(&group) {
            Some(purged) => *purged,
            None => super::purged(&self.db, group).map_err(|error| self.failure.set(error.0))?.map(|(upto, _)| upto),
        };
        if purged.is_some_and(|purged| upto < purged) {
            return Ok(());
        }
        let from = purged.map_or(0, |purged| purged + 1);
        if upto.saturating_sub(from) < POINT_DELETES_MAX {
            for index in from..=upto {
                batch.delete(log_keys::entry(group, index));
            }
        } else {
            let end = match upto.checked_add(1) {
                Some(end) => log_keys::entry(group, end).to_vec(),
                None => log_keys::entries_end(group).to_vec(),
            };
            batch.delete_range(log_keys::entry(group, from).to_vec(), end);
        }
        let mut row = upto.to_be_bytes().to_vec();
        row.extend_from_slice(log_id);
        batch.put(log_keys::purged(group), row);
        self.purged.insert(group, Some(upto));
        Ok(())
    }
}

impl Counters {
    fn count_records(&self, records: usize) {
        self.records.fetch_add(records as u64, Ordering::Relaxed);
        metrics::counter!("everlog_log_records_total").increment(records as u64);
    }

    fn count_write(&self, records: usize, bytes: usize) {
        self.fsyncs.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        metrics::counter!("everlog_log_fsyncs_total").increment(1);
        metrics::counter!("everlog_log_bytes_total").increment(bytes as u64);
        metrics::histogram!("everlog_log_batch_records").record(records as f64);
        metrics::histogram!("everlog_log_batch_bytes").record(bytes as f64);
    }
}

/// Whatever ends the writer, whoever still waits must hear that nobody writes any more.
struct StopOnDrop(Arc<Queue>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        let stopped = Err(LogError("the writer has stopped".to_owned()));
        for submission in self.0.stop() {
            submission.complete(&stopped);
        }
    }
}
