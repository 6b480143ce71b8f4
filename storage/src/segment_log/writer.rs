//! The writer thread: one frame and one fsync for everything that is waiting, then the completions in order.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use super::format::Frame;
use super::queue::{Queue, Submission};
use super::segments::{Segments, Slack, WriteError};
use super::{Counters, Failure};
use crate::GroupId;
use crate::log::{LogError, LogRecord};

pub(super) struct Writer {
    pub(super) segments: Arc<Mutex<Segments>>,
    pub(super) queue: Arc<Queue>,
    pub(super) counters: Arc<Counters>,
    pub(super) failure: Arc<Failure>,
    pub(super) gather_bytes_max: usize,
    pub(super) retry_interval: Duration,
    /// A frame waits for space.
    pub(super) is_held: Arc<AtomicBool>,
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
        // After the completions, so that nobody waits for it.
        if result.is_ok() {
            self.tidy();
        }
        true
    }

    /// A completion that panics has left its group in an unknown state, but the rest of the batch must still be completed.
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
        let mut frame = if must_sync { self.segments.lock().frame() } else { Frame::new() };
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
        let syncs = self.append(frame)?;
        self.counters.count_write(submissions.len(), bytes, syncs);
        Ok(())
    }

    /// Makes a frame durable, and returns how many syncs it took. On a full disk it waits for space: a frame that was handed in cannot be
    /// refused, because what follows it in its groups would leave a gap, and nothing is lost as long as it waits.
    fn append(&self, mut frame: Frame) -> Result<u64, LogError> {
        loop {
            let mut segments = self.segments.lock();
            let written = segments.append(&mut frame);
            let syncs = segments.take_syncs();
            drop(segments);
            match written {
                Ok(()) => {
                    if self.is_held.swap(false, Ordering::Relaxed) {
                        tracing::info!("the raft log has room again");
                    }
                    return Ok(syncs);
                }
                Err(WriteError::Failed(error)) => return Err(self.failure.set(error.to_string())),
                Err(WriteError::Exhausted(error)) => {
                    self.counters.count_syncs(syncs);
                    self.hold(&error)?;
                }
            }
        }
    }

    fn hold(&self, error: &io::Error) -> Result<(), LogError> {
        if !self.is_held.swap(true, Ordering::Relaxed) {
            tracing::warn!(%error, "the raft log waits for room");
        }
        metrics::counter!("everlog_log_held_total").increment(1);
        if self.queue.wait_for_close(self.retry_interval) {
            // Part of the frame may be written: nothing may follow.
            return Err(self.failure.set(format!("closed while it waited for room: {error}")));
        }
        self.failure.check()?;
        // Purged segments can be written to.
        self.tidy();
        self.failure.check()
    }

    /// What is left at close.
    fn write_committed(&mut self) -> Result<(), LogError> {
        self.failure.check()?;
        if self.committed.is_empty() {
            return Ok(());
        }
        let mut frame = self.segments.lock().frame();
        add_committed(&mut self.committed, &mut frame);
        self.append(frame).map(|syncs| self.counters.count_syncs(syncs))
    }

    fn tidy(&self) {
        let mut segments = self.segments.lock();
        match segments.tidy(Slack::Usual) {
            Ok(_) | Err(WriteError::Exhausted(_)) => {}
            Err(WriteError::Failed(error)) => {
                self.failure.set(format!("old segments cannot be removed: {error}"));
            }
        }
        self.counters.count_tidied(&mut segments);
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

    pub(super) fn count_tidied(&self, segments: &mut Segments) {
        self.count_syncs(segments.take_syncs());
        let moved = segments.take_moved_bytes();
        self.moved_bytes.fetch_add(moved, Ordering::Relaxed);
        self.moved_bytes_total.increment(moved);
    }

    fn count_write(&self, records: usize, bytes: usize, syncs: u64) {
        self.count_syncs(syncs);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.bytes_total.increment(bytes as u64);
        self.batch_records.record(records as f64);
        self.batch_bytes.record(bytes as f64);
    }
}

/// However the writer ends, those who still wait must be told.
struct StopOnDrop(Arc<Queue>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        let stopped = Err(LogError("the writer has stopped".to_owned()));
        for submission in self.0.stop() {
            submission.complete(&stopped);
        }
    }
}
