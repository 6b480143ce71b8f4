//! The queue between those who submit records and the one writer thread.
//!
//! It is here that "gather" happens: while the writer waits for the disk, records of all groups collect, and the writer then
//! takes everything that is waiting at once.
//!
//! A record is never turned away for want of room, because the next record of its group would leave a gap. Submitters wait before they
//! submit instead ([`Queue::when_room`]), so what waits is at most the bound and one submission of each group.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::GroupId;
use crate::log::{Completion, LogError, LogRecord, Resume};

/// What a record costs beside its payload: keys, vector and bookkeeping, roughly.
const RECORD_OVERHEAD_BYTES: usize = 64;
/// The same for each entry of an append.
const ENTRY_OVERHEAD_BYTES: usize = 32;

/// The most that one record may hold, bytes. A record is written in one frame, and a frame and its segment are to stay well below the
/// 4 GiB that their format can tell.
pub const RECORD_BYTES_MAX: usize = 1 << 30;

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
    /// The log does not take it; the caller completes it with this error.
    Refused(Submission, LogError),
}

pub(super) struct Queue {
    state: Mutex<State>,
    /// More is waiting than `bytes_max`.
    is_full: AtomicBool,
    changed: Condvar,
    bytes_max: usize,
    announced_wait_max: Duration,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Submission>,
    /// Groups whose appends are on their way. Few enough for a list.
    announced: Vec<GroupId>,
    bytes: usize,
    /// Who wants to submit once there is room.
    resumes: Vec<Resume>,
    /// Groups that had a record refused: what follows it would leave a gap.
    refused: Vec<GroupId>,
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

    /// Everything, or as many as make up `bytes_max`, but at least one.
    fn take(&mut self, bytes_max: usize) -> VecDeque<Submission> {
        if self.bytes <= bytes_max {
            self.bytes = 0;
            return std::mem::take(&mut self.waiting);
        }
        let mut submissions = VecDeque::new();
        let mut bytes = 0;
        while let Some(next) = self.waiting.front() {
            if bytes > 0 && bytes + next.bytes > bytes_max {
                break;
            }
            bytes += next.bytes;
            submissions.extend(self.waiting.pop_front());
        }
        self.bytes -= bytes;
        submissions
    }
}

impl Queue {
    pub(super) fn new(bytes_max: usize, announced_wait_max: Duration) -> Queue {
        let is_full = AtomicBool::new(false);
        Queue { state: Mutex::default(), is_full, changed: Condvar::new(), bytes_max, announced_wait_max }
    }

    /// An append of `group` is on its way: whoever takes may wait for it.
    pub(super) fn announce(&self, group: GroupId) {
        let mut state = self.state.lock();
        if !state.announced.contains(&group) {
            state.announced.push(group);
        }
    }

    /// Whether what waits is within its bound.
    pub(super) fn has_room(&self) -> bool {
        !self.is_full.load(Ordering::Relaxed)
    }

    /// Calls `resume` once what waits is within its bound, or will never be taken.
    pub(super) fn when_room(&self, resume: Resume) {
        {
            let mut state = self.state.lock();
            if state.bytes > self.bytes_max && !state.stopped {
                return state.resumes.push(resume);
            }
        }
        resume();
    }

    pub(super) fn push(&self, submission: Submission) -> Pushed {
        let mut state = self.state.lock();
        if state.stopped || state.closing {
            return Pushed::Refused(submission, LogError("closed".to_owned()));
        }
        let group = submission.record.group();
        if submission.bytes > RECORD_BYTES_MAX {
            let error =
                format!("a record of {} bytes is larger than the log takes, {RECORD_BYTES_MAX}", submission.bytes);
            state.refused.push(group);
            return Pushed::Refused(submission, LogError(error));
        }
        if !state.refused.is_empty() && state.refused.contains(&group) {
            let error = format!("a record of group {group} was refused before this one");
            return Pushed::Refused(submission, LogError(error));
        }
        state.bytes += submission.bytes;
        if state.bytes > self.bytes_max {
            self.is_full.store(true, Ordering::Relaxed);
        }
        let was_last_announced = state.arrived(&submission.record);
        state.waiting.push_back(submission);
        // The writer sleeps on an empty queue, or until all that was announced is there.
        let wanted = state.waiting.len() == 1 || was_last_announced;
        // The thread that wakes up needs the lock at once.
        drop(state);
        if wanted {
            self.changed.notify_one();
        }
        Pushed::Queued
    }

    /// Waits for submissions, and for those that were announced, and takes them in order: all of them, or as many as make up
    /// `bytes_max`, but at least one. `None` once the queue is closed and empty.
    pub(super) fn take(&self, bytes_max: usize) -> Option<VecDeque<Submission>> {
        let mut state = self.state.lock();
        while state.waiting.is_empty() {
            if state.closing {
                return None;
            }
            self.changed.wait(&mut state);
        }
        self.wait_for_announced(&mut state, bytes_max);
        let submissions = state.take(bytes_max);
        let resumes = if state.bytes <= self.bytes_max { self.make_room(&mut state) } else { Vec::new() };
        drop(state);
        resumes.into_iter().for_each(|resume| resume());
        Some(submissions)
    }

    fn make_room(&self, state: &mut State) -> Vec<Resume> {
        self.is_full.store(false, Ordering::Relaxed);
        std::mem::take(&mut state.resumes)
    }

    fn wait_for_announced(&self, state: &mut MutexGuard<'_, State>, bytes_max: usize) {
        if state.announced.is_empty() {
            return;
        }
        let deadline = Instant::now() + self.announced_wait_max;
        while !state.announced.is_empty() && !state.closing && state.bytes < bytes_max {
            if self.changed.wait_until(state, deadline).timed_out() {
                // They are late. They are not waited for again.
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

    /// Waits until the queue is closed, or for `timeout`. Whether it is closed.
    pub(super) fn wait_for_close(&self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        let mut state = self.state.lock();
        while !state.closing {
            if self.changed.wait_until(&mut state, deadline).timed_out() {
                break;
            }
        }
        state.closing
    }

    /// The writer is gone: hands back what it did not take.
    pub(super) fn stop(&self) -> VecDeque<Submission> {
        let mut state = self.state.lock();
        state.stopped = true;
        state.bytes = 0;
        let waiting = std::mem::take(&mut state.waiting);
        let resumes = self.make_room(&mut state);
        drop(state);
        resumes.into_iter().for_each(|resume| resume());
        waiting
    }
}
