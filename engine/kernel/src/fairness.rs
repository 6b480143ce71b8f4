//! Fairness: the lane in which a task waits, and the share of its queue that this lane is to have.
//!
//! A task may have a *fairness key*. Those of one key and queue are a lane: within it they stand by priority and age, and between lanes
//! a queue chooses by their weights. A lane is known by the hash of its key, which has a fixed length and is a part of where the task
//! stands, so that the rows of a lane lie next to each other, however many those of others are.

use everlog_proto::api::common::v1::Priority;

/// The tasks of one fairness key in a queue. Two keys with the same hash, of 64 bits, would share their lane.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lane(pub u64);

impl Lane {
    /// That of tasks without a key.
    pub const NONE: Lane = Lane(0);

    /// That of a key. It is in keys of rows, so it is for ever.
    pub fn of(key: &str) -> Lane {
        const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
        const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;
        if key.is_empty() {
            return Lane::NONE;
        }
        let hash = key.bytes().fold(FNV_OFFSET, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(FNV_PRIME));
        Lane(hash.max(1))
    }

    pub(crate) fn of_priority(priority: Option<&Priority>) -> Lane {
        priority.map_or(Lane::NONE, |priority| Lane::of(&priority.fairness_key))
    }
}

/// The weight of a lane, in thousandths. A task says it for its lane; 0 stands for "not said".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Weight(pub u32);

impl Weight {
    /// What a lane weighs of which nothing is said.
    pub const ONE: Weight = Weight(1_000);
    /// The least, a thousandth.
    pub const MIN: Weight = Weight(1);
    /// The most, a thousand.
    pub const MAX: Weight = Weight(1_000_000);

    /// What was given, within the bounds. 0 and less are as nothing, in Temporal as well.
    pub fn of(given: f32) -> Weight {
        if given.is_nan() || given <= 0.0 {
            return Weight::default();
        }
        // Beyond the bounds it saturates.
        Weight((f64::from(given) * 1_000.0).round() as u32).clamp(Weight::MIN, Weight::MAX)
    }

    pub(crate) fn of_priority(priority: Option<&Priority>) -> Weight {
        priority.map_or(Weight::default(), |priority| Weight::of(priority.fairness_weight))
    }

    /// As a factor.
    pub fn factor(self) -> f64 {
        let given = if self.0 == 0 { Weight::ONE } else { self };
        f64::from(given.0.min(Weight::MAX.0)) / 1_000.0
    }
}

/// What of a priority is left open is as in another one: of an activity as in its workflow, of a child as in its parent.
pub(crate) fn filled_in(given: &Priority, other: &Priority) -> Priority {
    let mut priority = given.clone();
    if priority.priority_key == 0 {
        priority.priority_key = other.priority_key;
    }
    if priority.fairness_key.is_empty() {
        priority.fairness_key.clone_from(&other.fairness_key);
    }
    if priority.fairness_weight == 0.0 {
        priority.fairness_weight = other.fairness_weight;
    }
    priority
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_are_what_they_always_were() {
        assert_eq!(Lane::of(""), Lane::NONE);
        assert_eq!(Lane::of("a"), Lane(0xaf63_dc4c_8601_ec8c));
        assert_eq!(Lane::of("tenant-1"), Lane(0xc2ef_b128_e3eb_f08b));
    }

    #[test]
    fn weights_stay_within_their_bounds() {
        let table = [
            (0.0, 0),
            (-1.0, 0),
            (f32::NAN, 0),
            (f32::MIN_POSITIVE, 1),
            (0.001, 1),
            (0.1, 100),
            (1.0, 1_000),
            (2.5, 2_500),
            (1_000.0, 1_000_000),
            (f32::INFINITY, 1_000_000),
        ];
        for (given, thousandths) in table {
            assert_eq!(Weight::of(given), Weight(thousandths), "{given}");
        }
        assert_eq!((Weight::default().factor(), Weight::of(2.5).factor()), (1.0, 2.5));
    }
}
