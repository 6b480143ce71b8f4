//! Why a replica that was just started does not vote at once.
//!
//! A voter that acknowledges a leader promises not to vote for another one for as long as the leader's lease may last. The promise
//! is kept in memory: a voter that restarts has forgotten it, and could elect a second leader while the first one still answers
//! reads by its lease. So it grants no vote until any promise that it can have given has run out.

use std::time::{Duration, Instant};

/// Until when a replica grants no votes. Whatever receives Vote and PreVote asks before it passes them on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct VoteHoldOff {
    until: Option<Instant>,
}

impl VoteHoldOff {
    /// For a replica that started at `started`. One whose log was new then has promised nothing to anybody.
    pub(crate) fn new(started: Instant, log_was_new: bool, election_timeout_max: Duration) -> VoteHoldOff {
        VoteHoldOff { until: (!log_was_new).then(|| started + election_timeout_max) }
    }

    /// Whether a vote may be granted at `now`. A leader that hands its lead over has ended its lease itself.
    pub(crate) fn permits(&self, now: Instant, is_leadership_transfer: bool) -> bool {
        is_leadership_transfer || self.until.is_none_or(|until| now >= until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vote_waits_until_every_promise_has_run_out() {
        let started = Instant::now();
        let max = Duration::from_millis(800);
        let just_before = started + max - Duration::from_nanos(1);
        //  log was new, when, transfer, permitted
        for (log_was_new, now, transfer, permitted) in [
            (false, started, false, false),
            (false, just_before, false, false),
            (false, started + max, false, true),
            (false, started, true, true),
            (true, started, false, true),
        ] {
            let hold_off = VoteHoldOff::new(started, log_was_new, max);
            assert_eq!(hold_off.permits(now, transfer), permitted, "{log_was_new} {transfer} {:?}", now - started);
        }
    }
}
