//! The tasks of one lane, queue and partition, as far as they are in memory.

use std::collections::BTreeMap;

use everlog_kernel::Lane;
use everlog_model::limits;
use tokio::time::Instant;

use super::{Fetch, Position, WaitingTask};

/// The tasks of one lane in a partition.
#[derive(Default)]
pub(super) struct LaneTasks {
    pub(super) waiting: BTreeMap<Position, WaitingTask>,
    pub(super) behind: Option<Behind>,
    /// The page request in flight.
    pub(super) fetch: Option<Fetch>,
    /// Whether a task was left to its row since the last page was asked for.
    left_out_since_fetch: bool,
    /// When to read the rows behind a position again.
    recheck: Option<(Instant, Position)>,
    /// Tasks that are done with, by their attempt, while rows are read: the start of a task is written late, and until then it has its
    /// row.
    settled: BTreeMap<Position, i32>,
}

/// Some rows are not in memory.
pub(super) struct Behind {
    /// They stand behind this position.
    pub(super) after: Position,
    /// Least `after` since the lane fell behind.
    lowest: Position,
    /// Whether offers behind `after` are kept while there is room.
    accepting: bool,
    /// Whether any task was left to its row.
    left_out: bool,
}

impl LaneTasks {
    /// Rows alone tell of its tasks so far. With `left_out` one may have been offered whose row is not there yet.
    pub(super) fn unread(lane: Lane, left_out: bool) -> LaneTasks {
        let mut tasks = LaneTasks::default();
        tasks.read_from_the_start(lane, left_out);
        tasks
    }

    /// A page has told of the first of its tasks, up to that one.
    pub(super) fn read_up_to(last: Position, left_out: bool) -> LaneTasks {
        let behind = Behind { after: last, lowest: Position::first_of(last.lane), accepting: true, left_out };
        LaneTasks { behind: Some(behind), ..LaneTasks::default() }
    }

    /// Its rows are to be read, whatever was known of them.
    pub(super) fn read_from_the_start(&mut self, lane: Lane, left_out: bool) {
        self.recheck = None;
        self.settled.clear();
        let first = Position::first_of(lane);
        self.behind = Some(Behind { after: first, lowest: first, accepting: true, left_out });
    }

    /// Whether no page of its rows was read.
    pub(super) fn is_unread(&self) -> bool {
        self.behind.as_ref().is_some_and(|behind| behind.after == Position::first_of(behind.after.lane))
    }

    /// Whether nothing of it needs to be kept.
    pub(super) fn is_done(&self) -> bool {
        self.waiting.is_empty() && self.behind.is_none() && self.fetch.is_none() && self.recheck.is_none()
    }

    /// Whether a new task is to be kept. If not, it is left to its row.
    pub(super) fn accepts(&mut self, position: &Position) -> bool {
        let last = self.waiting.last_key_value().map(|(last, _)| *last);
        if let Some(behind) = &mut self.behind
            && !behind.accepting
            && *position > last.map_or(behind.after, |last| last.max(behind.after))
        {
            behind.left_out = true;
            self.left_out_since_fetch = true;
            return false;
        }
        true
    }

    /// Leaves the last task to its row.
    pub(super) fn leave_last(&mut self) {
        let Some((left, _)) = self.waiting.pop_last() else { return };
        self.left_out_since_fetch = true;
        // Of those that are left the last one is read on from.
        let last = self.waiting.last_key_value().map_or(Position::first_of(left.lane), |(last, _)| *last);
        let (after, lowest) = match &self.behind {
            Some(behind) => (behind.after.min(last), behind.lowest.min(last)),
            None => (last, last),
        };
        self.behind = Some(Behind { after, lowest, accepting: false, left_out: true });
    }

    /// A task was started, or is not there any more: a row that still tells of it is overlooked.
    pub(super) fn settle(&mut self, position: Position, attempt: i32, max: usize) {
        if self.behind.is_none() && self.recheck.is_none() {
            return;
        }
        if self.settled.len() >= max {
            self.settled.clear();
        }
        self.settled.insert(position, attempt);
    }

    /// Whether a row tells of nothing new.
    pub(super) fn knows(&self, position: &Position, attempt: i32) -> bool {
        self.waiting.get(position).is_some_and(|known| known.attempt >= attempt)
            || self.settled.get(position).is_some_and(|settled| *settled >= attempt)
    }

    /// A page of its rows is asked for.
    pub(super) fn ask(&mut self, fetch: Fetch) {
        self.fetch = Some(fetch);
        self.left_out_since_fetch = false;
    }

    /// A page that was asked for is there, up to the row `last`. Returns whether it joins on to what is in memory: when room had to be
    /// made in the meantime it does not.
    pub(super) fn take(&mut self, fetch: &Fetch, last: Position) -> bool {
        self.fetch = None;
        let Some(behind) = self.behind.as_mut().filter(|behind| behind.after == fetch.after) else { return false };
        behind.after = last;
        true
    }

    /// Nothing stands behind the last page, up to that row.
    pub(super) fn reached_the_end(&mut self, last: Position, now: Instant) {
        if self.behind.as_ref().is_none_or(|behind| behind.after != last) {
            // The page had no room.
            return;
        }
        if !self.left_out_since_fetch {
            self.caught_up(now);
        } else if let Some(behind) = &mut self.behind {
            behind.accepting = true;
        }
    }

    /// All rows are in memory.
    fn caught_up(&mut self, now: Instant) {
        let Some(behind) = self.behind.take() else { return };
        if behind.left_out {
            let from = self.recheck.map_or(behind.lowest, |(_, from)| from.min(behind.lowest));
            self.recheck = Some((now + limits::BACKLOG_SETTLE, from));
        }
        if self.recheck.is_none() {
            self.settled.clear();
        }
    }

    /// Its first task in memory.
    pub(super) fn first(&self) -> Option<Position> {
        self.waiting.first_key_value().map(|(first, _)| *first)
    }

    /// Whether more of its rows are to be read when it has so few tasks in memory.
    pub(super) fn is_low(&self, tasks: usize) -> bool {
        self.behind.is_some() && self.fetch.is_none() && self.waiting.len() <= tasks
    }

    /// All that may have been overlooked of it is read once more.
    pub(super) fn read_again(&mut self, lane: Lane) {
        if self.behind.is_none() {
            self.read_from_the_start(lane, false);
        }
    }

    /// Starts the second reading, if it is due.
    pub(super) fn sweep(&mut self, now: Instant) {
        if let Some((at, from)) = self.recheck
            && at <= now
            && self.behind.is_none()
        {
            self.recheck = None;
            self.behind = Some(Behind { after: from, lowest: from, accepting: true, left_out: false });
        }
    }
}
