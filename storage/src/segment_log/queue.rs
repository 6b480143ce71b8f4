//! The queue between those who submit records and the one writer thread.
//!
//! It is here that "gather" happens: while the writer waits for the disk, records of all groups collect, and the writer then
//! takes everything that is waiting at once.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::GroupId;
use crate::log::{Completion, LogError, LogRecord};

/// What a record costs beside its payload: keys, vector and bookkeeping, roughly.
const RECORD_OVERHEAD_BYTES: usize = 64;
/// The same for each entry of an append.
const ENTRY_OVERHEAD_BYTES: usize = 32;

/// A record, and who wants to hear about it.
pub(super) struct Submission {
    pub(super) record: LogRecord,
    pub(super) completion: Option<Completion>,
    bytes: usize,
}

impl Submission {
    pub(super) fn new(record: LogRecord, completion: Option<Completion>) -> Submission {
        let payload = match &record {
            LogRecord::Append { entries, .. } => entries.iter().map(|entry| entry.len() + ENTRY_OVERHEAD_BYTES).sum(),
            LogRecord::Vote { vote, .. } => vote.len(),
            LogRecord::Replica { replica, .. } => replica.len(),
            LogRecord::Committed { log_id, .. } | LogRecord::Purge { log_id, .. } => log_id.len(),
            LogRecord::Truncate { .. } | LogRecord::Destroy { .. } => 0,
        };
        Submission { record, completion, bytes: payload + RECORD_OVERHEAD_BYTES }
    }

    pub(super) fn complete(self, result: &Result<(), LogError>) {
        if let Some(completion) = self.completion {
            completion(result.clone());
        }
    }
}

/// What became of a push.
pub(super) enum Pushed {
    /// The writer will take it.
    Queued,
    /// There is no writer any more; the caller completes it.
    Stopped(Submission),
}

pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
    bytes_max: usize,
    announced_wait_max: Duration,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Submission>,
    /// Groups whose appends are on their way. A handful: a list is as fast as anything.
    announced: Vec<GroupId>,
    bytes: usize,
    /// Some push found more than `bytes_max` waiting. Dropping that one record would break the order of the log, so the log
    /// as a whole fails.
    overflowed: bool,
    closing: bool,
    stopped: bool,
}

impl State {
    /// Notes that a record is there. Whether it was the last one that had been announced.
    fn arrived(&mut self, record: &LogRecord) -> bool {
        let LogRecord::Append { group, .. } = record else { return false };
        let Some(position) = self.announced.iter().position(|announced| announced == group) else { return false };
        self.announced.swap_remove(position);
        self.announced.is_empty()
    }
}

/// What the writer takes in one go.
pub(super) struct Taken {
    pub(super) submissions: VecDeque<Submission>,
    pub(super) overflowed: bool,
}

impl Queue {
    pub(super) fn new(bytes_max: usize, announced_wait_max: Duration) -> Queue {
        Queue { state: Mutex::default(), changed: Condvar::new(), bytes_max, announced_wait_max }
    }

    /// An append of `group` is on its way: whoever takes may wait for it.
    pub(super) fn announce(&self, group: GroupId) {
        let mut state = self.state.lock();
        if !state.announced.contains(&group) {
            state.announced.push(group);
        }
    }

    pub(super) fn push(&self, submission: Submission) -> Pushed {
        let mut state = self.state.lock();
        if state.stopped || state.closing {
            return Pushed::Stopped(submission);
        }
        if state.bytes + submission.bytes > self.bytes_max {
            state.overflowed = true;
        }
        state.bytes += submission.bytes;
        let was_last_announced = state.arrived(&submission.record);
        state.waiting.push_back(submission);
        // The writer sleeps on an empty queue, or until all that was announced is there.
        let wanted = state.waiting.len() == 1 || was_last_announced;
        // Whoever wakes up needs the lock at once.
        drop(state);
        if wanted {
            self.changed.notify_one();
        }
        Pushed::Queued
    }

    /// Waits for submissions, and for those that were announced, and takes them in order: all of them, or as many as make up
    /// `bytes_max`, but at least one. `None` once the queue is closed and empty.
    pub(super) fn take(&self, bytes_max: usize) -> Option<Taken> {
        let mut state = self.state.lock();
        while state.waiting.is_empty() {
            if state.closing {
                return None;
            }
            self.changed.wait(&mut state);
        }
        self.wait_for_announced(&mut state, bytes_max);
        let overflowed = state.overflowed;
        if state.bytes <= bytes_max {
            state.bytes = 0;
            let submissions = std::mem::take(&mut state.waiting);
            return Some(Taken { submissions, overflowed });
        }
        let mut submissions = VecDeque::new();
        let mut bytes = 0;
        while let Some(next) = state.waiting.front() {
            if bytes > 0 && bytes + next.bytes > bytes_max {
                break;
            }
            bytes += next.bytes;
            submissions.extend(state.waiting.pop_front());
        }
        state.bytes -= bytes;
        Some(Taken { submissions, overflowed })
    }

    fn wait_for_announced(&self, state: &mut MutexGuard<'_, State>, bytes_max: usize) {
        if state.announced.is_empty() {
            return;
        }
        let deadline = Instant::now() + self.announced_wait_max;
        while !state.announced.is_empty() && !state.closing && state.bytes < bytes_max {
            if self.changed.wait_until(state, deadline).timed_out() {
                // Whatever keeps them, it is not worth another wait.
                state.announced.clear();
            }
        }
    }

    /// Bytes waiting, for back-pressure upstream.
    pub(super) fn bytes(&self) -> usize {
        self.state.lock().bytes
    }

    /// No submission is taken from here on; the writer finishes what is waiting.
    pub(super) fn close(&self) {
        self.state.lock().closing = true;
        self.changed.notify_all();
    }

    /// The writer is gone: hands back what it did not take.
    pub(super) fn stop(&self) -> VecDeque<Submission> {
        let mut state = self.state.lock();
        state.stopped = true;
        state.bytes = 0;
        std::mem::take(&mut state.waiting)
    }
}
