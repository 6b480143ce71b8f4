//! What the log holds for each group, and where. In memory; rebuilt from the segments at every start.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use bytes::Bytes;

use super::format::{Change, Span};
use crate::GroupId;
use crate::log::{LogRecord, RecoveredGroup};

/// Where the bytes of an entry are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Location {
    /// Sequence number of the segment.
    pub(super) segment: u64,
    /// Where its span begins in the segment.
    pub(super) offset: u32,
    /// Length of the span.
    pub(super) bytes: u32,
}

/// All groups.
#[derive(Debug, Default)]
pub(super) struct Index {
    groups: HashMap<GroupId, GroupIndex>,
    /// Bytes of entries by segment; a segment that is not here has none.
    live: HashMap<u64, u64>,
}

#[derive(Debug, Default)]
struct GroupIndex {
    replica: Option<Bytes>,
    vote: Option<Bytes>,
    committed: Option<Bytes>,
    purged: Option<(u64, Bytes)>,
    entries: BTreeMap<u64, Location>,
    /// Bytes of `entries`.
    bytes: u64,
}

impl Index {
    /// Takes note of what a frame that begins at `frame` in `segment` holds.
    pub(super) fn apply(&mut self, change: Change, segment: u64, frame: u32) {
        match change {
            Change::Append { group, first_index, entries } => {
                let known = self.groups.entry(group).or_default();
                for (Span { offset, bytes }, index) in entries.into_iter().zip(first_index..) {
                    let replaced = known.entries.insert(index, Location { segment, offset: frame + offset, bytes });
                    known.bytes += u64::from(bytes);
                    *self.live.entry(segment).or_default() += u64::from(bytes);
                    known.bytes -= let_go(&mut self.live, replaced);
                }
            }
            Change::Truncate { group, from } => {
                let Some(group) = self.groups.get_mut(&group) else { return };
                group.bytes -= let_go(&mut self.live, group.entries.split_off(&from).into_values());
            }
            Change::Purge { group, upto, log_id } => {
                let group = self.groups.entry(group).or_default();
                if group.purged.as_ref().is_some_and(|(purged, _)| *purged > upto) {
                    return;
                }
                let kept = upto.checked_add(1).map(|next| group.entries.split_off(&next)).unwrap_or_default();
                let gone = std::mem::replace(&mut group.entries, kept);
                group.bytes -= let_go(&mut self.live, gone.into_values());
                group.purged = Some((upto, log_id));
            }
            Change::Vote { group, vote } => self.groups.entry(group).or_default().vote = Some(vote),
            Change::Replica { group, replica } => self.groups.entry(group).or_default().replica = Some(replica),
            Change::Committed { group, log_id } => self.groups.entry(group).or_default().committed = Some(log_id),
            Change::Destroy { group } => {
                let Some(group) = self.groups.remove(&group) else { return };
                let_go(&mut self.live, group.entries.into_values());
            }
            Change::End => {}
        }
    }

    pub(super) fn recovered(&self, group: GroupId) -> RecoveredGroup {
        let Some(group) = self.groups.get(&group) else { return RecoveredGroup::default() };
        RecoveredGroup {
            replica: group.replica.clone(),
            vote: group.vote.clone(),
            committed: group.committed.clone(),
            purged: group.purged.as_ref().map(|(_, log_id)| log_id.clone()),
            first_index: group.entries.first_key_value().map(|(index, _)| *index),
            last_index: group.entries.last_key_value().map(|(index, _)| *index),
        }
    }

    /// Where the entries of a group are from `range.start` on, up to the first gap.
    pub(super) fn locations(&self, group: GroupId, range: Range<u64>) -> impl Iterator<Item = Location> + '_ {
        let entries = self.groups.get(&group).filter(|_| !range.is_empty()).map(|group| &group.entries);
        let found = entries.into_iter().flat_map({
            let range = range.clone();
            move |entries| entries.range(range.clone())
        });
        range.zip(found).take_while(|(expected, (index, _))| expected == *index).map(|(_, (_, location))| *location)
    }

    /// Whether the entry with this index is the one at this location.
    pub(super) fn is_at(&self, group: GroupId, index: u64, location: Location) -> bool {
        self.groups.get(&group).and_then(|group| group.entries.get(&index)) == Some(&location)
    }

    /// Bytes of a group's entries.
    pub(super) fn entries_bytes(&self, group: GroupId) -> u64 {
        self.groups.get(&group).map_or(0, |group| group.bytes)
    }

    /// Where the entries begin that take no more than `bytes_max` at the end of a group's log. Looks at those in front of them, which
    /// whoever asks is about to purge.
    pub(super) fn tail_start(&self, group: GroupId, bytes_max: u64) -> Option<u64> {
        let group = self.groups.get(&group)?;
        let (last, _) = group.entries.last_key_value()?;
        let mut bytes = group.bytes;
        let mut entries = group.entries.iter();
        while bytes > bytes_max {
            bytes -= entries.next().map_or(bytes, |(_, location)| u64::from(location.bytes));
        }
        Some(entries.next().map_or(last + 1, |(index, _)| *index))
    }

    /// Bytes of entries in a segment.
    pub(super) fn live_bytes(&self, segment: u64) -> u64 {
        self.live.get(&segment).copied().unwrap_or(0)
    }

    /// Bytes of all entries.
    pub(super) fn live_bytes_total(&self) -> u64 {
        self.live.values().sum()
    }

    /// Forgets a segment that has no entries.
    pub(super) fn forget(&mut self, segment: u64) {
        self.live.remove(&segment);
    }

    /// What a new segment must begin with so that older ones can go: everything except entries.
    pub(super) fn hard_state(&self) -> Vec<LogRecord> {
        let mut records = Vec::new();
        for (group, known) in &self.groups {
            let group = *group;
            records.extend(known.replica.clone().map(|replica| LogRecord::Replica { group, replica }));
            records.extend(known.vote.clone().map(|vote| LogRecord::Vote { group, vote }));
            records.extend(known.committed.clone().map(|log_id| LogRecord::Committed { group, log_id }));
            records.extend(known.purged.clone().map(|(upto, log_id)| LogRecord::Purge { group, upto, log_id }));
        }
        records
    }
}

/// Takes entries out of what lives in segments; their bytes.
fn let_go(live: &mut HashMap<u64, u64>, entries: impl IntoIterator<Item = Location>) -> u64 {
    let mut bytes_total = 0;
    for Location { segment, bytes, .. } in entries {
        bytes_total += u64::from(bytes);
        if let Some(live) = live.get_mut(&segment) {
            *live = live.saturating_sub(u64::from(bytes));
        }
    }
    bytes_total
}
