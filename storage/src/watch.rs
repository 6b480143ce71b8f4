//! Key ranges that are watched for changes: what was read there holds for as long as nobody writes there; and followed ones, whose
//! reader reads again what changes.
//!
//! A watch is set before the read and asked after it. Engines report a commit once its rows can be read, and before they return: so
//! who begins to read after a commit has returned either sees the rows or is told of the change.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::GroupId;
use crate::keys::{KeyRange, after};
use crate::state::{RowBatch, RowChange};

/// Every watch on the rows of an engine.
#[derive(Clone, Default)]
pub(crate) struct Watches(Arc<Mutex<Registry>>);

#[derive(Default)]
struct Registry {
    watched: HashMap<GroupId, Vec<Watched>>,
    followed: HashMap<GroupId, Vec<Followed>>,
    next_id: u64,
}

struct Followed {
    id: u64,
    range: KeyRange,
    changed: ChangedRows,
    wake: Wake,
}

/// Tells whoever follows a range that there is something to take. Called under a lock: it must do no more than that.
pub type Wake = Box<dyn Fn() + Send + Sync>;

/// What was written to in a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangedRows {
    /// These rows.
    Keys(BTreeSet<Bytes>),
    /// All of them, or more than are counted.
    All,
}

/// Changes of one range that are remembered one by one.
const CHANGES_REMEMBERED_MAX: usize = 1024;

/// A range whose changes are told, until it is dropped.
pub struct Follow {
    watches: Watches,
    group: GroupId,
    id: u64,
}

struct Watched {
    id: u64,
    unchanged: KeyRange,
    is_changed: bool,
}

/// A watch on a range of rows, until it is dropped.
///
/// A change takes away what lies before it too: rows come newest first in the tables that are worth watching, so that the changes
/// come at the front.
pub struct Watch {
    watches: Watches,
    group: GroupId,
    id: u64,
}

impl Watches {
    /// Sets a watch.
    pub(crate) fn watch(&self, group: GroupId, range: Range<&[u8]>) -> Watch {
        let unchanged = Bytes::copy_from_slice(range.start)..Bytes::copy_from_slice(range.end);
        let mut registry = self.0.lock();
        let id = registry.next_id;
        registry.next_id += 1;
        registry.watched.entry(group).or_default().push(Watched { id, unchanged, is_changed: false });
        Watch { watches: self.clone(), group, id }
    }

    /// Follows a range.
    pub(crate) fn follow(&self, group: GroupId, range: Range<&[u8]>, wake: Wake) -> Follow {
        let range = Bytes::copy_from_slice(range.start)..Bytes::copy_from_slice(range.end);
        let mut registry = self.0.lock();
        let id = registry.next_id;
        registry.next_id += 1;
        let changed = ChangedRows::Keys(BTreeSet::new());
        registry.followed.entry(group).or_default().push(Followed { id, range, changed, wake });
        Follow { watches: self.clone(), group, id }
    }

    /// To be called after a commit.
    pub(crate) fn changed(&self, group: GroupId, batches: &[RowBatch]) {
        let mut registry = self.0.lock();
        if !registry.followed.is_empty() {
            for followed in registry.followed.get_mut(&group).into_iter().flatten() {
                followed.note(batches);
            }
        }
        let Some(watched) = registry.watched.get_mut(&group) else { return };
        // Most changes are to tables that nobody watches.
        let start = watched.iter().map(|watch| &watch.unchanged.start).min().cloned().unwrap_or_default();
        let end = watched.iter().map(|watch| &watch.unchanged.end).max().cloned().unwrap_or_default();
        let may_be_watched = |change: &&RowChange| match change {
            RowChange::Put { key, .. } | RowChange::Delete { key } => start <= *key && *key < end,
            RowChange::DeleteRange { .. } => true,
        };
        for change in batches.iter().flat_map(|batch| &batch.changes).filter(may_be_watched) {
            for watch in watched.iter_mut() {
                watch.is_changed |= cut(&mut watch.unchanged, change);
            }
        }
    }

    /// To be called after all rows of a group were replaced.
    pub(crate) fn replaced(&self, group: GroupId) {
        let mut registry = self.0.lock();
        for watch in registry.watched.get_mut(&group).into_iter().flatten() {
            watch.unchanged.start = watch.unchanged.end.clone();
            watch.is_changed = true;
        }
        for followed in registry.followed.get_mut(&group).into_iter().flatten() {
            followed.changed = ChangedRows::All;
            (followed.wake)();
        }
    }
}

impl Followed {
    fn note(&mut self, batches: &[RowBatch]) {
        let mut is_changed = false;
        for change in batches.iter().flat_map(|batch| &batch.changes) {
            let key = match change {
                RowChange::Put { key, .. } | RowChange::Delete { key } if self.range.contains(key) => Some(key),
                RowChange::DeleteRange { start, end } if *start < self.range.end && self.range.start < *end => None,
                _ => continue,
            };
            is_changed = true;
            match (&mut self.changed, key) {
                (ChangedRows::Keys(keys), Some(key)) if keys.len() < CHANGES_REMEMBERED_MAX => {
                    // A copy: the key is a slice of a whole log entry.
                    keys.insert(Bytes::copy_from_slice(key));
                }
                (changed, _) => *changed = ChangedRows::All,
            }
        }
        if is_changed {
            (self.wake)();
        }
    }
}

impl Follow {
    /// What was written to since the last call. A row that is read after this call is read with all that is told.
    pub fn take(&self) -> ChangedRows {
        let nothing = || ChangedRows::Keys(BTreeSet::new());
        let mut registry = self.watches.0.lock();
        let followed =
            registry.followed.get_mut(&self.group).and_then(|all| all.iter_mut().find(|one| one.id == self.id));
        followed.map_or_else(nothing, |followed| std::mem::replace(&mut followed.changed, nothing()))
    }
}

impl Drop for Follow {
    fn drop(&mut self) {
        let mut registry = self.watches.0.lock();
        if let Some(followed) = registry.followed.get_mut(&self.group) {
            followed.retain(|one| one.id != self.id);
            if followed.is_empty() {
                registry.followed.remove(&self.group);
            }
        }
    }
}

impl Watch {
    /// What lies behind the last change that there was since the watch was set; empty, if nothing is left.
    pub fn unchanged(&self) -> KeyRange {
        self.with(|watched| watched.unchanged.clone())
    }

    /// Whether there was a change in the watched range.
    pub fn is_changed(&self) -> bool {
        self.with(|watched| watched.is_changed)
    }

    /// Watches only what lies before `end` from now on.
    pub fn end_at(&self, end: &Bytes) {
        self.with(|watched| watched.unchanged.end = (&watched.unchanged.end).min(end).clone());
    }

    fn with<T>(&self, look: impl FnOnce(&mut Watched) -> T) -> T {
        let mut registry = self.watches.0.lock();
        let watched =
            registry.watched.get_mut(&self.group).and_then(|all| all.iter_mut().find(|one| one.id == self.id));
        look(watched.expect("a watch is taken off the list only when it is dropped"))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut registry = self.watches.0.lock();
        if let Some(watched) = registry.watched.get_mut(&self.group) {
            watched.retain(|one| one.id != self.id);
            if watched.is_empty() {
                registry.watched.remove(&self.group);
            }
        }
    }
}

/// Takes a change and what lies before it out of a range. Whether there was anything to take.
pub(crate) fn cut(range: &mut KeyRange, change: &RowChange) -> bool {
    match change {
        RowChange::Put { key, .. } | RowChange::Delete { key } => {
            let is_within = range.contains(key);
            if is_within {
                range.start = after(key);
            }
            is_within
        }
        RowChange::DeleteRange { start, end } => {
            let overlaps = start < end && *start < range.end && range.start < *end;
            if overlaps {
                // A copy: the change is a slice of a whole log entry.
                range.start = Bytes::copy_from_slice(end);
            }
            overlaps
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: GroupId = GroupId(1);

    fn changed(watches: &Watches, change: impl FnOnce(&mut RowBatch)) {
        let mut batch = RowBatch::new();
        change(&mut batch);
        watches.changed(A, &[batch]);
    }

    fn range(start: &'static str, end: &'static str) -> KeyRange {
        Bytes::from(start)..Bytes::from(end)
    }

    #[test]
    fn only_what_lies_behind_a_change_is_unchanged() {
        let watches = Watches::default();
        let watch = watches.watch(A, b"b"..b"y");
        changed(&watches, |batch| {
            batch.put("a", "1");
            batch.delete("y");
            batch.delete_range("y", "z");
            batch.delete_range("a", "b");
            batch.delete_range("d", "c");
        });
        watches.changed(GroupId(2), &[]);
        watches.replaced(GroupId(2));
        assert!(!watch.is_changed());
        assert_eq!(watch.unchanged(), range("b", "y"));
        changed(&watches, |batch| batch.put("d", "1"));
        assert!(watch.is_changed());
        assert_eq!(watch.unchanged(), range("d\0", "y"));
        changed(&watches, |batch| batch.delete("f"));
        changed(&watches, |batch| batch.delete("e"));
        assert_eq!(watch.unchanged(), range("f\0", "y"));
        changed(&watches, |batch| batch.delete_range("g", "i"));
        assert_eq!(watch.unchanged(), range("i", "y"));
        watches.replaced(A);
        assert!(watch.unchanged().is_empty());
    }

    #[test]
    fn a_range_that_ends_earlier_is_not_changed_by_what_lies_behind() {
        let watches = Watches::default();
        let watch = watches.watch(A, b"b"..b"y");
        watch.end_at(&Bytes::from("e"));
        changed(&watches, |batch| batch.put("e", "1"));
        assert!(!watch.is_changed());
        changed(&watches, |batch| batch.put("d", "1"));
        assert!(watch.is_changed());
    }

    #[test]
    fn who_follows_a_range_is_told_which_rows_changed() {
        use std::sync::atomic::{AtomicUsize, Ordering};
        let watches = Watches::default();
        let wakes = Arc::new(AtomicUsize::new(0));
        let wake = Arc::clone(&wakes);
        let follow = watches.follow(
            A,
            b"b"..b"y",
            Box::new(move || {
                wake.fetch_add(1, Ordering::Relaxed);
            }),
        );
        let keys = |keys: &[&'static str]| ChangedRows::Keys(keys.iter().map(|key| Bytes::from(*key)).collect());
        changed(&watches, |batch| {
            batch.put("a", "1");
            batch.delete("y");
        });
        watches.changed(GroupId(2), &[]);
        assert_eq!((follow.take(), wakes.load(Ordering::Relaxed)), (keys(&[]), 0));
        changed(&watches, |batch| {
            batch.put("d", "1");
            batch.delete("c");
        });
        changed(&watches, |batch| batch.put("d", "2"));
        assert_eq!((follow.take(), wakes.load(Ordering::Relaxed)), (keys(&["c", "d"]), 2));
        assert_eq!(follow.take(), keys(&[]));
        changed(&watches, |batch| batch.delete_range("x", "z"));
        changed(&watches, |batch| batch.put("d", "3"));
        assert_eq!(follow.take(), ChangedRows::All);
        changed(&watches, |batch| {
            (0..=CHANGES_REMEMBERED_MAX).for_each(|row| batch.put(format!("c{row}"), "1"));
        });
        assert_eq!(follow.take(), ChangedRows::All);
        watches.replaced(A);
        assert_eq!(follow.take(), ChangedRows::All);
        drop(follow);
        assert!(watches.0.lock().followed.is_empty());
    }

    #[test]
    fn dropped_watches_are_forgotten() {
        let watches = Watches::default();
        let (first, second) = (watches.watch(A, b"b"..b"y"), watches.watch(A, b"b"..b"y"));
        drop(first);
        changed(&watches, |batch| batch.put("d", "1"));
        assert!(second.is_changed());
        drop(second);
        assert!(watches.0.lock().watched.is_empty());
    }
}
