//! Where nothing but deleted rows lies.
//!
//! RocksDB steps over the remains of a deleted row for as long as they are in a memtable or in the upper levels. Where rows are deleted
//! all the time and readers begin at the same place every time, they would step over the same thousands each time. What a visit
//! found empty is remembered here, and the next one reads around it.
//!
//! ```text
//!   range to read   |--------------------------------------------|
//!   known gaps             [xxxxxxxxxxxxx)        [xxxxx)
//!   parts to read   |------|             |--------|     |--------|
//! ```
//!
//! **Invariant: no row lies in a gap**, unless its commit has not returned yet. A put into a gap leaves only what lies behind
//! it. All of this is in memory: after a restart, the first visit steps over what there is.

use std::collections::HashMap;
use std::ops::Range;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::GroupId;
use crate::keys::KeyRange;
use crate::state::{RowBatch, RowChange};
use crate::watch::{Watch, cut};

/// Deleted rows from which on a gap is worth an iterator of its own: making one takes as long as stepping over about so many.
pub(super) const GAP_ROWS_MIN: u64 = 128;

/// Gaps that are remembered for a group; those with the fewest deleted rows are forgotten first.
const GAPS_MAX: usize = 64;

/// The known gaps of every group.
#[derive(Default)]
pub(super) struct Gaps(Mutex<HashMap<GroupId, Vec<Gap>>>);

/// A range without rows.
pub(super) struct Gap {
    pub(super) range: KeyRange,
    /// Deleted rows that were stepped over in it.
    pub(super) deleted_rows: u64,
}

impl Gaps {
    /// The parts of `range` that are not known to be empty, in order.
    pub(super) fn around(&self, group: GroupId, range: Range<&[u8]>) -> Vec<KeyRange> {
        let mut rest = Bytes::copy_from_slice(range.start)..Bytes::copy_from_slice(range.end);
        let mut parts = Vec::new();
        for gap in self.0.lock().get(&group).into_iter().flatten() {
            if gap.range.end <= rest.start || gap.range.start >= rest.end {
                continue;
            }
            if rest.start < gap.range.start {
                parts.push(rest.start.clone()..gap.range.start.clone());
            }
            rest.start = gap.range.end.clone();
        }
        if rest.start < rest.end {
            parts.push(rest);
        }
        parts
    }

    /// Remembers what a visit has found, as far as nothing was written there since `watch` was set, which was before the visit.
    pub(super) fn found(&self, group: GroupId, watch: &Watch, found: Vec<Gap>) {
        if found.is_empty() {
            return;
        }
        let mut gaps = self.0.lock();
        // Under the lock: a commit is reported to the watches first. Either the watch knows of it, or the gaps will be told.
        let unchanged = watch.unchanged();
        let known = gaps.entry(group).or_default();
        for gap in found {
            let start = gap.range.start.max(unchanged.start.clone());
            let end = gap.range.end.min(unchanged.end.clone());
            if start < end {
                add(known, Gap { range: start..end, deleted_rows: gap.deleted_rows });
            }
        }
        if known.is_empty() {
            gaps.remove(&group);
        }
    }

    /// To be called after a commit, and after the watches were told.
    pub(super) fn changed(&self, group: GroupId, batches: &[RowBatch]) {
        let mut gaps = self.0.lock();
        let Some(known) = gaps.get_mut(&group) else { return };
        for change in batches.iter().flat_map(|batch| &batch.changes) {
            let RowChange::Put { key, .. } = change else { continue };
            let at = known.partition_point(|gap| gap.range.end <= *key);
            if let Some(gap) = known.get_mut(at)
                && cut(&mut gap.range, change)
                && gap.range.is_empty()
            {
                known.remove(at);
            }
        }
    }

    /// To be called after all rows of a group were replaced, and after the watches were told.
    pub(super) fn replaced(&self, group: GroupId) {
        self.0.lock().remove(&group);
    }
}

/// What `range` has of parts that lie in order.
pub(super) fn within<'a>(parts: &'a [KeyRange], range: Range<&'a [u8]>) -> impl Iterator<Item = KeyRange> + 'a {
    let first = parts.partition_point(|part| part.end <= range.start);
    let clipped = move |part: &KeyRange| {
        let start = if part.start < range.start { Bytes::copy_from_slice(range.start) } else { part.start.clone() };
        let end = if part.end > range.end { Bytes::copy_from_slice(range.end) } else { part.end.clone() };
        (start < end).then_some(start..end)
    };
    parts[first..].iter().map_while(clipped)
}

/// Adds a gap to those that are known, which lie in order and apart from each other. One that touches others becomes one with them.
fn add(known: &mut Vec<Gap>, mut gap: Gap) {
    let first = known.partition_point(|other| other.range.end < gap.range.start);
    let behind = known.partition_point(|other| other.range.start <= gap.range.end);
    if first == behind && gap.deleted_rows < GAP_ROWS_MIN {
        return;
    }
    for other in known.drain(first..behind) {
        gap.range.start = gap.range.start.min(other.range.start);
        gap.range.end = gap.range.end.max(other.range.end);
        gap.deleted_rows += other.deleted_rows;
    }
    known.insert(first, gap);
    if known.len() > GAPS_MAX
        && let Some((smallest, _)) = known.iter().enumerate().min_by_key(|(_, gap)| gap.deleted_rows)
    {
        known.remove(smallest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::Watches;

    const A: GroupId = GroupId(1);

    fn gap(range: &str, deleted_rows: u64) -> Gap {
        let (start, end) = range.split_once("..").unwrap();
        Gap { range: Bytes::from(start.to_owned())..Bytes::from(end.to_owned()), deleted_rows }
    }

    fn put(gaps: &Gaps, watches: &Watches, key: &'static str) {
        let mut batch = RowBatch::new();
        batch.put(key, "value");
        watches.changed(A, std::slice::from_ref(&batch));
        gaps.changed(A, &[batch]);
    }

    fn parts(gaps: &Gaps, start: &str, end: &str) -> String {
        let text = |key: &Bytes| String::from_utf8(key.to_vec()).unwrap().replace('\0', "+");
        let parts = gaps.around(A, start.as_bytes()..end.as_bytes());
        parts.iter().map(|part| format!("{}..{} ", text(&part.start), text(&part.end))).collect::<String>()
    }

    #[test]
    fn gaps_are_read_around() {
        let (gaps, watches) = (Gaps::default(), Watches::default());
        let watch = watches.watch(A, b"a"..b"z");
        assert_eq!(parts(&gaps, "a", "z"), "a..z ");
        gaps.found(A, &watch, vec![gap("f..h", 1000), gap("c..d", 1000), gap("m..n", GAP_ROWS_MIN - 1)]);
        assert_eq!(parts(&gaps, "a", "z"), "a..c d..f h..z ");
        assert_eq!(parts(&gaps, "c", "g"), "d..f ");
        assert_eq!(parts(&gaps, "cc", "d"), "");
        assert_eq!(parts(&gaps, "g", "i"), "h..i ");
        assert_eq!(parts(&gaps, "d", "f"), "d..f ");
        // However small, one that touches others makes them longer.
        gaps.found(A, &watch, vec![gap("d..e", 0), gap("b..c", 1)]);
        assert_eq!(parts(&gaps, "a", "z"), "a..b e..f h..z ");
        gaps.found(A, &watch, vec![gap("d..g", 0)]);
        assert_eq!(parts(&gaps, "a", "z"), "a..b h..z ");
        gaps.replaced(A);
        assert_eq!(parts(&gaps, "a", "z"), "a..z ");
    }

    #[test]
    fn a_range_has_its_share_of_the_parts() {
        let part = |range: &str| gap(range, 0).range;
        let parts = ["b..d", "f..h", "m..n"].map(part);
        let found = |start: &str, end: &str| -> Vec<_> { within(&parts, start.as_bytes()..end.as_bytes()).collect() };
        assert_eq!(found("a", "z"), parts);
        assert_eq!(found("c", "g"), [part("c..d"), part("f..g")]);
        assert_eq!(found("d", "f"), []);
        assert_eq!(found("h", "mm"), [part("m..mm")]);
        assert_eq!(found("n", "z"), []);
        assert_eq!(found("c", "c"), []);
    }

    #[test]
    fn a_put_leaves_only_what_lies_behind_it() {
        let (gaps, watches) = (Gaps::default(), Watches::default());
        let watch = watches.watch(A, b"a"..b"z");
        gaps.found(A, &watch, vec![gap("c..e", 1000), gap("f..h", 1000)]);
        for (key, expected) in [
            ("b", "a..c e..f h..z "),
            ("e", "a..c e..f h..z "),
            ("d", "a..d+ e..f h..z "),
            ("dd", "a..dd+ e..f h..z "),
            ("f", "a..dd+ e..f+ h..z "),
        ] {
            put(&gaps, &watches, key);
            assert_eq!(parts(&gaps, "a", "z"), expected, "put {key}");
        }
    }

    #[test]
    fn what_was_written_during_the_visit_is_no_gap() {
        let (gaps, watches) = (Gaps::default(), Watches::default());
        let watch = watches.watch(A, b"a"..b"z");
        put(&gaps, &watches, "d");
        gaps.found(A, &watch, vec![gap("b..c", 1000), gap("c..f", 1000)]);
        assert_eq!(parts(&gaps, "a", "z"), "a..d+ f..z ");
    }

    #[test]
    fn the_smallest_gaps_are_forgotten() {
        let (gaps, watches) = (Gaps::default(), Watches::default());
        let watch = watches.watch(A, b"a"..b"z");
        let found = (0..GAPS_MAX + 5).map(|n| gap(&format!("m{n:03}..m{n:03}x"), 1000 - n as u64)).collect();
        gaps.found(A, &watch, found);
        assert_eq!(gaps.around(A, b"a"..b"z").len(), GAPS_MAX + 1);
        assert!(parts(&gaps, "m000", "m001").starts_with("m000x.."));
    }
}
