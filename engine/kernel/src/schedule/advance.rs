//! A schedule looks at the time: what has come due is buffered, what may start is started, and it is known when to look again.

use std::time::Duration;

use everlog_proto::api::schedule::v1::BackfillRequest;
use everlog_proto::wkt;

use super::decide::Change;
use super::overlap;
use super::state::Start;
use crate::Time;

/// Starts that can wait.
pub(super) const BUFFER_MAX: usize = 1000;
/// Those of backfills take no more than half of it.
const BACKFILL_BUFFER_MAX: usize = BUFFER_MAX / 2;
/// Actions of backfills at a look.
const BACKFILLED_AT_ONCE: usize = 10;
/// How long until the next ones.
const BACKFILL_PAUSE: Duration = Duration::from_secs(1);
/// Times that are looked at in one go. Behind a long absence there may be many more.
const TIMES_AT_ONCE: usize = 500;
/// How long a schedule is kept that has nothing more to do.
const IDLE_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// How far a range of times was gone through.
struct Gone {
    /// Up to here.
    to: Time,
    /// The first time behind that.
    next: Option<Time>,
    /// It goes on within the range.
    has_more: bool,
}

impl Change<'_, '_> {
    /// Does what is due by now.
    pub(super) fn advance(&mut self) {
        let now = self.ctx.now;
        let gone = self.go_through(Time(self.live.progress.dealt_with), now, 0, false, TIMES_AT_ONCE);
        self.live.progress.dealt_with = gone.to.0;
        self.backfill();
        while self.start_buffered() {}
        self.plan(&gone);
    }

    /// Buffers an action for each time behind `from`, up to `to`.
    fn go_through(&mut self, from: Time, to: Time, overlap: i32, is_manual: bool, limit: usize) -> Gone {
        let Some(compiled) = self.live.compiled.clone() else {
            return Gone { to, next: None, has_more: false };
        };
        // A search that finds nothing but exclusions is at its end.
        let seed = self.seed();
        let next = |after: Time| compiled.next(&seed, after).ok().flatten();
        if !is_manual && !self.live.can_act() {
            // Times that pass now are not made up for.
            let next = next(to).map(|due| due.actual);
            return Gone { to: to.max(from), next, has_more: false };
        }
        let window = self.live.catchup_window();
        let mut gone = Gone { to: from, next: None, has_more: false };
        for count in 0.. {
            let Some(due) = next(gone.to) else { break };
            gone.next = Some(due.actual);
            if due.actual > to {
                break;
            }
            if count == limit {
                gone.has_more = true;
                break;
            }
            gone.to = due.actual;
            if !is_manual && due.actual.0 < self.live.progress.updated {
                // The schedule was another one then.
            } else if !is_manual && to.since(due.actual) > window {
                self.live.progress.missed_catchup_window += 1;
            } else {
                self.buffer(Start { nominal: due.nominal.0, actual: due.actual.0, overlap, is_manual });
            }
        }
        gone
    }

    pub(super) fn buffer(&mut self, start: Start) {
        let progress = &mut self.live.progress;
        if progress.buffered.len() < BUFFER_MAX {
            progress.buffered.push(start);
        } else {
            progress.buffer_dropped += 1;
        }
    }

    /// Goes on with backfills, in their order.
    fn backfill(&mut self) {
        let mut left = BACKFILLED_AT_ONCE;
        while left > 0
            && self.live.progress.buffered.len() < BACKFILL_BUFFER_MAX
            && let Some(backfill) = self.live.progress.backfills.first().copied()
        {
            let time = |time: Option<wkt::Timestamp>| time.map_or(Time(0), |time| Time::from_proto(&time));
            let before = self.live.progress.buffered.len();
            let dropped = self.live.progress.buffer_dropped;
            let (from, to) = (time(backfill.start_time), time(backfill.end_time));
            let gone = self.go_through(from, to, backfill.overlap_policy, true, left);
            let taken = self.live.progress.buffered.len() - before;
            left = left.saturating_sub(taken.max(usize::from(self.live.progress.buffer_dropped > dropped)));
            if gone.has_more {
                let start_time = Some(gone.to.to_proto());
                self.live.progress.backfills[0] = BackfillRequest { start_time, ..backfill };
                break;
            }
            self.live.progress.backfills.remove(0);
        }
    }

    /// Starts what may start of the buffer. Returns whether there may be more to do.
    fn start_buffered(&mut self) -> bool {
        let buffer = std::mem::take(&mut self.live.progress.buffered);
        if buffer.is_empty() || self.live.action().is_none() {
            return false;
        }
        let live = &self.live;
        let sorted = overlap::sort(buffer, live.is_running(), |start| live.overlap(start.overlap));
        self.live.progress.buffered = sorted.buffered;
        self.live.progress.overlap_skipped += sorted.skipped;
        let mut again = false;
        let overlapping = sorted.overlapping.into_iter().map(|start| (start, true));
        for (start, overlaps) in overlapping.chain(sorted.next.map(|start| (start, false))) {
            if self.take_action(start.is_manual) {
                self.start_workflow(start, overlaps);
            } else {
                // It is paused, or has no actions left: what waits is dropped in its turn.
                again = true;
            }
        }
        self.end_running(sorted.end_running);
        again
    }

    /// Whether an action may be taken, which counts if it may.
    fn take_action(&mut self, is_manual: bool) -> bool {
        if is_manual {
            return true;
        }
        if !self.live.can_act() {
            return false;
        }
        if self.live.actions_left().is_some() {
            self.live.state().remaining_actions -= 1;
            self.live.progress.conflict_token += 1;
        }
        true
    }

    /// Decides when to look again.
    fn plan(&mut self, gone: &Gone) {
        let now = self.ctx.now;
        let live = &self.live;
        let backfills = !live.progress.backfills.is_empty();
        let next = gone.next.filter(|_| live.can_act());
        let look = if gone.has_more {
            Some(now)
        } else if backfills && live.progress.buffered.len() < BACKFILL_BUFFER_MAX {
            Some(now.plus(BACKFILL_PAUSE).min(next.unwrap_or(Time::MAX)))
        } else {
            next
        };
        let is_over = look.is_none() && !live.is_paused() && !backfills;
        let end = is_over.then(|| live.last_event().plus(IDLE_MAX));
        self.is_over = end.is_some_and(|end| end <= now) && !live.is_running();
        self.live.progress.next_look = look.or(end.map(|end| end.max(now.plus(BACKFILL_PAUSE)))).map(|time| time.0);
    }
}
