//! How old the rows of replicas may be that do not lead.
//!
//! ```text
//!   follower, at t ──announce──▶ leader: "as long as I have the lease, all up to entry 70 is applied"
//!            ◀──────────────────┘
//!   once entry 70 is applied here: these rows have all that anybody was told of before t
//! ```
//!
//! A node asks each other one once a second, when it announces its own leads. Both times are its own monotonic clock's: what counts is when it
//! asked, and no clocks are compared. A leader that has lost its lease says nothing, so what is known of its group grows old.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use everlog_raft::Group;
use everlog_storage::GroupId;
use parking_lot::Mutex;

/// Answers of a group's leaders that are kept while their entries are not applied here. Of more the newest but one goes.
const WAITING_MAX: usize = 8;

/// How a read may be answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReadBound {
    /// By a leader that has its lease, or asks a majority if not.
    #[default]
    Lease,
    /// By a leader that asks a majority.
    Quorum,
    /// By any replica whose rows have all that was acknowledged so long ago.
    Stale(Duration),
}

/// What is known of the rows of the replicas here.
#[derive(Default)]
pub(crate) struct Freshness(Mutex<BTreeMap<GroupId, Known>>);

#[derive(Default)]
struct Known {
    /// When a leader was asked, and what was applied there, oldest first.
    waiting: VecDeque<(Instant, u64)>,
    /// The newest of them that was applied here, too.
    reached: Option<(Instant, u64)>,
}

impl Freshness {
    /// A leader that was asked at `asked` says that everything up to an entry is applied there, and that nobody else can lead.
    pub(crate) fn told(&self, group: GroupId, asked: Instant, applied_index: u64) {
        let mut all = self.0.lock();
        let waiting = &mut all.entry(group).or_default().waiting;
        if waiting.len() >= WAITING_MAX {
            waiting.pop_back();
        }
        waiting.push_back((asked, applied_index));
    }

    /// How old the rows of a replica are at most that has applied so much; `None` if that is not known.
    fn age(&self, group: GroupId, applied_index: u64, now: Instant) -> Option<Duration> {
        let mut all = self.0.lock();
        let Known { waiting, reached } = all.get_mut(&group)?;
        while let Some(front) = waiting.front().copied().filter(|(_, index)| *index <= applied_index) {
            waiting.pop_front();
            // Answers of two leaders may come in any order.
            *reached = (*reached).max(Some(front));
        }
        // A replica that was made anew has less than the one before it had.
        reached.filter(|(_, index)| *index <= applied_index).map(|(asked, _)| now.saturating_duration_since(asked))
    }

    /// Notes how far those of these groups are that are led here: what is known of them once they are not.
    pub(crate) fn note_led(&self, groups: &[Group]) {
        for (group, index) in led(groups) {
            self.told(group, Instant::now(), index);
        }
    }

    /// Whether rows of a replica here may be read as they are, within a bound.
    pub(crate) fn may_read(&self, group: &Group, bound: Duration) -> bool {
        // In this order: the rows are at least as new as what is known of them.
        group.lease_valid(Instant::now())
            || self.age(group.id(), group.applied_index(), Instant::now()).is_some_and(|age| age <= bound)
    }
}

/// Those of these groups that nobody else can lead now, and what is applied of them.
pub(crate) fn led(groups: &[Group]) -> Vec<(GroupId, u64)> {
    let led = groups.iter().filter_map(|group| {
        let index = group.applied_index();
        group.lease_valid(Instant::now()).then_some((group.id(), index))
    });
    led.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: GroupId = GroupId(3);

    #[test]
    fn rows_are_as_old_as_the_newest_answer_that_they_have() {
        let (fresh, begin) = (Freshness::default(), Instant::now());
        let at = |seconds| begin + Duration::from_secs(seconds);
        let age = |applied, now| fresh.age(GROUP, applied, at(now)).map(|age| age.as_secs());
        assert_eq!(age(100, 0), None, "nobody was asked");
        fresh.told(GROUP, at(1), 70);
        fresh.told(GROUP, at(2), 80);
        assert_eq!(age(69, 3), None, "it lacks an entry");
        assert_eq!((age(70, 3), age(79, 4)), (Some(2), Some(3)));
        assert_eq!((age(80, 4), age(80, 9)), (Some(2), Some(7)), "nobody says more");
        assert_eq!(age(79, 9), None, "a replica that was made anew");
        fresh.told(GROUP, at(10), 80);
        assert_eq!(age(80, 10), Some(0));
        assert_eq!(fresh.age(GroupId(4), 80, at(10)), None);
    }

    #[test]
    fn a_replica_that_is_far_behind_is_told_of_as_soon_as_it_can_be() {
        let (fresh, begin) = (Freshness::default(), Instant::now());
        for seconds in 1..=100_u64 {
            fresh.told(GROUP, begin + Duration::from_secs(seconds), 10 * seconds);
        }
        let age = |applied| fresh.age(GROUP, applied, begin + Duration::from_secs(100)).map(|age| age.as_secs());
        assert_eq!((age(9), age(10), age(70)), (None, Some(99), Some(93)));
        assert_eq!((age(999), age(1000)), (Some(93), Some(0)));
    }
}
