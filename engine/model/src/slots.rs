//! The slot table of a pool: which of its partitions holds the workflows of which hash slot.

use std::collections::BTreeSet;

use everlog_kernel::NamespaceId;
use everlog_storage::GroupId;
use everlog_storage::keys::{self, SLOTS};

use super::SlotSet;

/// Which partition holds a hash slot of a namespace: each namespace is in a pool of partitions, and each pool has a table of its own.
pub trait SlotSource: Send + Sync + 'static {
    /// The partition, if the namespace and its pool are known here.
    fn partition_of(&self, namespace_id: NamespaceId, slot: u16) -> Option<GroupId>;

    /// Every partition that a namespace may have something in, by id, with what it has there; none if the namespace or its pool is not known here.
    fn shares_of(&self, namespace_id: NamespaceId) -> Vec<Share>;

    /// Every partition that a namespace may have something in, by id.
    fn partitions_of(&self, namespace_id: NamespaceId) -> Vec<GroupId> {
        self.shares_of(namespace_id).into_iter().map(|share| share.partition).collect()
    }

    /// Every partition of the pool that namespaces are in which choose none, by id; none if its table is not known here.
    fn default_partitions(&self) -> Vec<GroupId>;
}

/// What of a namespace a partition has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// The partition.
    pub partition: GroupId,
    /// Its slots, if the namespace is moving; otherwise all that the partition has any of.
    pub slots: Option<SlotSet>,
}

/// The hash slot of a workflow, of any other entity, or of the home of a task queue.
pub fn slot_of(namespace_id: NamespaceId, id: &str) -> u16 {
    keys::slot(&namespace_id.0, id)
}

/// Neighbouring slots of one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotRange {
    /// How many slots.
    pub slots: u16,
    /// The partition that holds them.
    pub partition: GroupId,
    /// Counts the moves of these slots from one partition to another.
    pub epoch: u32,
}

/// Which partition holds which slot. Every slot has one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotTable {
    /// First slot of each range, ascending from 0.
    firsts: Vec<u16>,
    ranges: Vec<SlotRange>,
}

impl SlotTable {
    /// Spreads the slots over `partitions` evenly. `None` if there are none, or more than slots.
    pub fn even(partitions: &[GroupId]) -> Option<SlotTable> {
        let count = u32::try_from(partitions.len()).ok()?;
        let begin = |index: u32| u16::try_from(u32::from(SLOTS) * index / count).ok();
        if count == 0 {
            return None;
        }
        let range = |(index, partition): (u32, &GroupId)| {
            Some(SlotRange { slots: begin(index + 1)? - begin(index)?, partition: *partition, epoch: 1 })
        };
        SlotTable::from_ranges((0..count).zip(partitions).map(range).collect::<Option<_>>()?)
    }

    /// The table with these ranges, in order. `None` unless they cover every slot once.
    pub fn from_ranges(ranges: Vec<SlotRange>) -> Option<SlotTable> {
        let mut next = 0_u16;
        let mut firsts = Vec::with_capacity(ranges.len());
        for range in &ranges {
            firsts.push(next);
            next = next.checked_add(range.slots).filter(|next| *next <= SLOTS && range.slots > 0)?;
        }
        (next == SLOTS).then_some(SlotTable { firsts, ranges })
    }

    /// The ranges, in the order of their slots.
    pub fn ranges(&self) -> &[SlotRange] {
        &self.ranges
    }

    /// Every partition that holds a slot, once, by id.
    pub fn partitions(&self) -> BTreeSet<GroupId> {
        self.ranges.iter().map(|range| range.partition).collect()
    }

    /// The range that `slot` is in. Numbers beyond the last slot count as the last one.
    pub fn owner(&self, slot: u16) -> &SlotRange {
        let behind = self.firsts.partition_point(|first| *first <= slot);
        // The first range begins with slot 0.
        &self.ranges[behind.saturating_sub(1)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(ranges: &[(u16, u32)]) -> Option<SlotTable> {
        let range =
            |(slots, partition): &(u16, u32)| SlotRange { slots: *slots, partition: GroupId(*partition), epoch: 1 };
        SlotTable::from_ranges(ranges.iter().map(range).collect())
    }

    #[test]
    fn every_slot_has_one_owner() {
        let table = table(&[(1, 7), (4000, 2), (95, 7)]).expect("it covers all slots");
        let owners = [(0, 7), (1, 2), (4000, 2), (4001, 7), (4095, 7), (u16::MAX, 7)];
        for (slot, partition) in owners {
            assert_eq!(table.owner(slot).partition, GroupId(partition), "{slot}");
        }
    }

    #[test]
    fn tables_with_gaps_or_too_many_slots_are_none() {
        for ranges in [&[][..], &[(4095, 1)], &[(4096, 1), (1, 2)], &[(4096, 1), (0, 2)], &[(u16::MAX, 1), (9, 2)]] {
            assert_eq!(table(ranges), None, "{ranges:?}");
        }
    }

    #[test]
    fn slots_are_spread_evenly() {
        assert_eq!(SlotTable::even(&[]), None);
        for count in [1, 3, 4, 7, 4096] {
            let partitions: Vec<_> = (1..=count).map(GroupId).collect();
            let table = SlotTable::even(&partitions).expect("there are slots enough");
            let slots = table.ranges().iter().map(|range| u32::from(range.slots));
            assert!(slots.clone().all(|slots| slots == 4096 / count || slots == 4096 / count + 1), "{count}");
            assert_eq!(slots.sum::<u32>(), 4096);
        }
        let too_many: Vec<_> = (1..=4097).map(GroupId).collect();
        assert_eq!(SlotTable::even(&too_many), None);
    }
}
