//! The writer thread: one frame and one fsync for everything that is waiting, then the completions in order.

use std::collections::{HashMap, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use parking_lot::Mutex;

use super::format::Frame;
use super::queue::{Queue, Submission};
use super::segments::{Segments, Slack};
use super::{Counters, Failure};
use crate::GroupId;
use crate::log::{LogError, LogRecord};

pub(super) struct Writer {
    pub(super) segments: Arc<Mutex<Segments>>,
    pub(super) queue: Arc<Queue>,
    pub(super) counters: Arc<Counters>,
    pub(super) failure: Arc<Failure>,
    pub(super) gather_bytes_max: usize,
    /// Committed log ids that wait for a write that happens anyway. One per group: a later one replaces an earlier one.
    pub(super) committed: HashMap<GroupId, Bytes>,
}

impl Writer {
    /// Runs until the queue is closed and empty.
    pub(super) fn run(mut self) {
        let _stop = StopOnDrop(Arc::clone(&self.queue));
        while self.turn() {}
        if let Err(error) = self.write_committed() {
            tracing::error!(%error, "could not write committed indexes at close");
        }
    }

    /// Waits for submissions, writes them, and completes them. False once the queue is closed and empty.
    pub(super) fn turn(&mut self) -> bool {
        let Some(taken) = self.queue.take(self.gather_bytes_max) else { return false };
        let result = self.write(&taken);
        for submission in taken {
            self.complete(submission, &result);
        }
        // Once nobody waits for it.
        if result.is_ok() {
            self.tidy();
        }
        true
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
        self.counters.count_records(submissions.len());
        let must_sync = |submission: &Submission| {
            submission.completion.is_some() || !matches!(submission.record, LogRecord::Committed { .. })
        };
        let must_sync = submissions.iter().any(must_sync);
        let mut segments = self.segments.lock();
        let mut frame = if must_sync { segments.frame() } else { Frame::new() };
        for submission in submissions {
            match &submission.record {
                LogRecord::Committed { group, log_id } => {
                    self.committed.insert(*group, log_id.clone());
                }
                LogRecord::Destroy { group } => {
                    self.committed.remove(group);
                    frame.push(&submission.record);
                }
                record => frame.push(record),
            }
        }
        if !must_sync {
            return Ok(());
        }
        add_committed(&mut self.committed, &mut frame);
        let bytes = frame.len();
        let written = segments.append(frame);
        self.counters.count_write(submissions.len(), bytes, segments.take_syncs());
        written.map_err(|error| self.failure.set(error.to_string()))
    }

    /// What is left at close.
    fn write_committed(&mut self) -> Result<(), LogError> {
        self.failure.check()?;
        if self.committed.is_empty() {
            return Ok(());
        }
        let mut segments = self.segments.lock();
        let mut frame = segments.frame();
        add_committed(&mut self.committed, &mut frame);
        segments.append(frame).map_err(|error| self.failure.set(error.to_string()))
    }

    fn tidy(&self) {
        let mut segments = self.segments.lock();
        if let Err(error) = segments.tidy(Slack::Usual) {
            self.failure.set(format!("old segments cannot be removed: {error}"));
        }
        self.counters.count_syncs(segments.take_syncs());
    }
}

/// Puts the committed log ids that wait for a write into this one.
fn add_committed(committed: &mut HashMap<GroupId, Bytes>, frame: &mut Frame) {
    for (group, log_id) in committed.drain() {
        frame.push(&LogRecord::Committed { group, log_id });
    }
}

impl Counters {
    fn count_records(&self, records: usize) {
        self.records.fetch_add(records as u64, Ordering::Relaxed);
        self.records_total.increment(records as u64);
    }

    pub(super) fn count_syncs(&self, syncs: u64) {
        self.fsyncs.fetch_add(syncs, Ordering::Relaxed);
        self.fsyncs_total.increment(syncs);
    }

    fn count_write(&self, records: usize, bytes: usize, syncs: u64) {
        self.count_syncs(syncs);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.bytes_total.increment(bytes as u64);
        self.batch_records.record(records as f64);
        self.batch_bytes.record(bytes as f64);
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
