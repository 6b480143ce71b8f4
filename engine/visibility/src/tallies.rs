//! Counts that are remembered for as long as the rows that they were made of stay as they are.
//!
//! Who counts runs does it again and again: a dashboard, a scaler, the head of a page. Most runs are closed and change no more, so
//! a count is kept in segments of the key space, each under a watch; the next count of the same filter adds up the
//! segments that still hold and reads what lies between them, which is the runs that closed since.
//!
//! ```text
//!   range to count  |---------------------------------------|
//!   segments              [ 16,000 rows ][ 16,000 rows ][ 900 ]
//!   rows to read    |----|
//! ```
//!
//! **Invariant: a segment counts exactly the rows that match in its range**, unless its watch tells of a change, or the commit of that
//! change has not returned yet. The watch is set before the rows are read. All of this is in memory.

use std::collections::{BTreeMap, HashMap};

use everlog_kernel::NamespaceId;
use everlog_model::limits;
use everlog_storage::keys::KeyRange;
use everlog_storage::{GroupId, Watch};
use parking_lot::Mutex;

use super::scan::Rows;

/// Matching rows by status.
pub type ByStatus = BTreeMap<i64, i64>;

/// The counts that a node remembers.
#[derive(Default)]
pub(super) struct Tallies(Mutex<Remembered>);

#[derive(Default)]
struct Remembered {
    tallies: HashMap<TallyKey, Tally>,
    /// Segments of all tallies.
    segments: usize,
    /// Counts so far: tells which tally was used last.
    uses: u64,
}

/// What was counted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct TallyKey {
    /// The partition.
    pub(super) group: GroupId,
    /// The namespace.
    pub(super) namespace: NamespaceId,
    /// The filter, written out.
    pub(super) filter: String,
}

#[derive(Default)]
struct Tally {
    /// In order, apart from each other.
    segments: Vec<Segment>,
    last_use: u64,
}

/// The count of a range.
pub(super) struct Segment {
    pub(super) range: KeyRange,
    /// Over all of the range, since before it was read.
    pub(super) watch: Watch,
    /// Rows in the range, matching or not.
    pub(super) rows: usize,
    pub(super) by_status: ByStatus,
}

impl Tallies {
    /// What is known of `ranges`, and what has to be read.
    pub(super) fn known(&self, key: &TallyKey, ranges: Vec<KeyRange>) -> (ByStatus, Vec<KeyRange>) {
        let mut remembered = self.0.lock();
        let remembered = &mut *remembered;
        remembered.uses += 1;
        let Some(tally) = remembered.tallies.get_mut(key) else { return (ByStatus::new(), ranges) };
        tally.last_use = remembered.uses;
        let before = tally.segments.len();
        tally.segments.retain(|segment| !segment.watch.is_changed());
        remembered.segments -= before - tally.segments.len();
        let mut by_status = ByStatus::new();
        let mut unknown = Vec::new();
        for mut range in ranges {
            for segment in &tally.segments {
                if segment.range.start < range.start || range.end < segment.range.end {
                    continue;
                }
                add(&mut by_status, &segment.by_status);
                if range.start < segment.range.start {
                    unknown.push(range.start..segment.range.start.clone());
                }
                range.start = segment.range.end.clone();
            }
            if range.start < range.end {
                unknown.push(range);
            }
        }
        (by_status, unknown)
    }

    /// Remembers a segment. It becomes one with its neighbours as long as it does not get too large.
    pub(super) fn remember(&self, key: &TallyKey, mut segment: Segment, rows: &Rows) {
        if segment.watch.is_changed() || key.filter.len() > limits::VISIBILITY_TALLY_FILTER_BYTES_MAX {
            return;
        }
        let mut remembered = self.0.lock();
        let remembered = &mut *remembered;
        let tally = remembered.tallies.entry(key.clone()).or_default();
        tally.last_use = remembered.uses;
        let before = tally.segments.len();
        let at = tally.segments.partition_point(|other| other.range.end <= segment.range.start);
        let is_known = tally.segments.get(at).is_some_and(|other| other.range.start < segment.range.end);
        if is_known {
            // Another count was faster.
            return;
        }
        let behind = tally.segments.get(at).and_then(|next| joined(&segment, next, rows));
        if let Some(joined) = behind {
            tally.segments.remove(at);
            segment = joined;
        }
        match at.checked_sub(1).and_then(|previous| joined(&tally.segments[previous], &segment, rows)) {
            Some(joined) => tally.segments[at - 1] = joined,
            None => tally.segments.insert(at, segment),
        }
        remembered.segments = remembered.segments + tally.segments.len() - before;
        remembered.forget_oldest();
    }
}

impl Remembered {
    /// Forgets the tallies that were not used for longest, until there are no more than there may be.
    fn forget_oldest(&mut self) {
        while self.segments.max(self.tallies.len()) > limits::VISIBILITY_TALLY_SEGMENTS_MAX {
            let oldest = self.tallies.iter().min_by_key(|(_, tally)| tally.last_use).map(|(key, _)| key.clone());
            let Some(tally) = oldest.and_then(|key| self.tallies.remove(&key)) else { return };
            self.segments -= tally.segments.len();
        }
    }
}

/// Two segments as one, if the second begins where the first ends and they are small enough.
fn joined(first: &Segment, second: &Segment, rows: &Rows) -> Option<Segment> {
    let rows_in_both = first.rows + second.rows;
    if first.range.end != second.range.start || rows_in_both > limits::VISIBILITY_TALLY_SEGMENT_ROWS {
        return None;
    }
    let range = first.range.start.clone()..second.range.end.clone();
    // Set before the other two are asked: no change falls between them and it.
    let watch = (rows.watch)(&range);
    if first.watch.is_changed() || second.watch.is_changed() {
        return None;
    }
    let mut by_status = first.by_status.clone();
    add(&mut by_status, &second.by_status);
    Some(Segment { range, watch, rows: rows_in_both, by_status })
}

/// Adds `more` to `total`.
pub fn add(total: &mut ByStatus, more: &ByStatus) {
    for (status, count) in more {
        *total.entry(*status).or_default() += count;
    }
}
