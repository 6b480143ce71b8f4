//! Whether a worker should have more polls open, or fewer: told with what a poll gets, for SDKs that choose by themselves how often
//! they poll. The rules are those of Temporal's matching service (`makePollerScalingDecision`).
//!
//! ```text
//!   waited long for a task that had not waited   ─▶ fewer
//!   told a short while ago                       ─▶ nothing
//!   the rate of the queue holds tasks back       ─▶ nothing: more polls would not help
//!   a task has waited long                       ─▶ more
//!   more tasks come than go                      ─▶ more
//! ```

use std::time::Duration;

use tokio::time::Instant;

use super::rates::TokenBucket;

/// Polls more or fewer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScalingHint {
    /// One more.
    More,
    /// One fewer.
    Fewer,
}

/// When hints are given.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ScalingRules {
    /// A poll that waits this long was not needed.
    pub idle_wait: Duration,
    /// A task that waits longer than this wants more polls.
    pub backlog_age: Duration,
    /// Hints to each worker that polls a queue, and second. Those to poll less are not counted.
    pub per_second_and_poller: f64,
    /// More polls are wanted where this many times as many tasks come as go.
    pub added_to_dispatched: f64,
}

impl Default for ScalingRules {
    /// Those that hold for a Temporal server that is not told otherwise.
    fn default() -> ScalingRules {
        ScalingRules {
            idle_wait: Duration::from_secs(1),
            backlog_age: Duration::from_millis(200),
            per_second_and_poller: 10.0,
            added_to_dispatched: 1.2,
        }
    }
}

/// How long a poll has waited, and for what.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waited {
    pub(super) poll: Duration,
    /// Whether the task had waited, too: then it was not for want of tasks that the poll did.
    pub(super) task: bool,
}

/// How a queue stands, as far as hints depend on it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Standing {
    /// Its rate holds tasks back.
    pub(super) is_limited: bool,
    /// A task has waited for longer than [`ScalingRules::backlog_age`].
    pub(super) has_backlog: bool,
    /// Tasks per second that come.
    pub(super) added: f64,
    /// Tasks per second that go.
    pub(super) dispatched: f64,
}

/// How often the workers of a line may be told.
#[derive(Debug, Default)]
pub(super) struct Hints(Option<TokenBucket>);

impl Hints {
    /// What is told with something that a poll gets, in a line that has `pollers`.
    pub(super) fn hint(
        &mut self,
        rules: &ScalingRules,
        waited: Waited,
        pollers: usize,
        now: Instant,
        standing: impl FnOnce() -> Standing,
    ) -> Option<ScalingHint> {
        if waited.poll >= rules.idle_wait && !waited.task {
            return Some(ScalingHint::Fewer);
        }
        let bucket = self.0.get_or_insert_with(|| TokenBucket::new(rules.per_second_and_poller, now));
        bucket.set_rate(rules.per_second_and_poller, now);
        if !bucket.take_part(1.0 / pollers.max(1) as f64, now) {
            return None;
        }
        let Standing { is_limited, has_backlog, added, dispatched } = standing();
        let wants_more = has_backlog || added > rules.added_to_dispatched * dispatched;
        (wants_more && !is_limited).then_some(ScalingHint::More)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT_ONCE: Waited = Waited { poll: Duration::ZERO, task: true };

    fn hint(waited: Waited, standing: Standing) -> Option<ScalingHint> {
        Hints::default().hint(&ScalingRules::default(), waited, 1, Instant::now(), || standing)
    }

    #[test]
    fn idle_polls_are_too_many_and_a_backlog_wants_more() {
        let long = |task| Waited { poll: Duration::from_secs(1), task };
        let none = Standing::default();
        let backlog = Standing { has_backlog: true, ..none };
        let of_rates = |added, dispatched| Standing { added, dispatched, ..none };
        let cases = [
            (long(false), backlog, Some(ScalingHint::Fewer)),
            (long(true), backlog, Some(ScalingHint::More)),
            (long(true), none, None),
            (Waited { poll: Duration::from_millis(999), task: false }, none, None),
            (AT_ONCE, none, None),
            (AT_ONCE, backlog, Some(ScalingHint::More)),
            (AT_ONCE, Standing { is_limited: true, ..backlog }, None),
            (AT_ONCE, of_rates(1.2, 1.0), None),
            (AT_ONCE, of_rates(1.3, 1.0), Some(ScalingHint::More)),
            (AT_ONCE, of_rates(0.1, 0.0), Some(ScalingHint::More)),
        ];
        for (waited, standing, expected) in cases {
            assert_eq!(hint(waited, standing), expected, "{waited:?} {standing:?}");
        }
    }

    #[test]
    fn hints_are_limited_by_poller() {
        let now = Instant::now();
        let backlog = || Standing { has_backlog: true, ..Standing::default() };
        let given = |hints: &mut Hints, pollers, now| {
            let given =
                (0..100).filter(|_| hints.hint(&ScalingRules::default(), AT_ONCE, pollers, now, backlog).is_some());
            given.count()
        };
        let (mut one, mut four) = (Hints::default(), Hints::default());
        assert_eq!((given(&mut one, 1, now), given(&mut four, 4, now)), (10, 40));
        let later = now + Duration::from_millis(500);
        assert_eq!((given(&mut one, 1, later), given(&mut four, 4, later)), (5, 20));
    }
}
