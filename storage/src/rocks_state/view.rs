//! Views of rows that later commits do not change.
//!
//! A view of ranges is a RocksDB snapshot and the gaps that hold for it. Gaps are those of the rows as they are, which the snapshot's are
//! only while nothing is being committed; so commits are counted as they begin and end, and a view that one of them came between is taken
//! again.
//!
//! ```text
//!   commit   begins ── written ── gaps and watches are told ── ends
//!   view     none on its way? ── gaps ── snapshot ── none has begun?
//! ```

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use rocksdb::{DB, DBRawIterator, ReadOptions, Snapshot};

use super::gaps::within;
use super::reads::{DeletedRows, bounded, visit_part};
use super::{APPLIED, Counters, GROUP_BYTES, ROWS_END, Remembered, engine_key, rows_within, state_error};
use crate::GroupId;
use crate::keys::KeyRange;
use crate::state::{RowsView, StateError, StateSnapshot, Visitor};
use crate::watch::Watch;

/// How often a view is taken again until it is taken without gaps, which is right at any time and may take longer to read.
const TIMES_MAX: usize = 16;

/// A RocksDB snapshot that keeps its database open.
struct OwnedSnapshot {
    // Before `_db`: fields are dropped in the order of their declaration.
    snapshot: Snapshot<'static>,
    _db: Arc<DB>,
}

impl OwnedSnapshot {
    #[allow(unsafe_code)]
    fn take(db: Arc<DB>) -> OwnedSnapshot {
        // SAFETY: the snapshot borrows the `DB` behind the `Arc`, which does not move and which lives until `_db` is dropped,
        // after the snapshot. The borrow never leaves this struct: `snapshot` is private and handed out only for the lifetime
        // of `&self`.
        let borrowed: &'static DB = unsafe { &*Arc::as_ptr(&db) };
        OwnedSnapshot { snapshot: borrowed.snapshot(), _db: db }
    }

    fn rows(&self, options: ReadOptions) -> DBRawIterator<'_> {
        self.snapshot.raw_iterator_opt(options)
    }
}

/// All rows of a group, and its applied position.
pub(super) struct RocksSnapshot {
    snapshot: OwnedSnapshot,
    group: GroupId,
    applied: Option<Bytes>,
}

impl RocksSnapshot {
    pub(super) fn take(db: Arc<DB>, group: GroupId) -> Result<RocksSnapshot, StateError> {
        let snapshot = OwnedSnapshot::take(db);
        let applied = snapshot.snapshot.get(engine_key(group, APPLIED)).map_err(state_error)?.map(Bytes::from);
        Ok(RocksSnapshot { snapshot, group, applied })
    }
}

impl StateSnapshot for RocksSnapshot {
    fn applied(&self) -> Option<Bytes> {
        self.applied.clone()
    }

    fn visit(&self, after: Option<&[u8]>, visit: Visitor<'_>) -> Result<(), StateError> {
        let after = after.unwrap_or(&[]);
        let range = rows_within(self.group, after, &[ROWS_END]);
        if range.is_empty() {
            return Ok(());
        }
        let mut options = bounded(range);
        // A snapshot is read once, front to back: it must not push the working set out of the cache.
        options.fill_cache(false);
        options.set_readahead_size(2 << 20);
        let mut rows = self.snapshot.rows(options);
        rows.seek_to_first();
        while let Some((key, value)) = rows.item() {
            let key = &key[GROUP_BYTES..];
            if key > after && visit(key, value).is_break() {
                return Ok(());
            }
            rows.next();
        }
        rows.status().map_err(state_error)
    }
}

/// Ranges of a group's rows.
pub(super) struct RocksView {
    snapshot: OwnedSnapshot,
    group: GroupId,
    ranges: Vec<Viewed>,
    memory: Arc<Remembered>,
    counters: Arc<Counters>,
}

/// One of the ranges.
struct Viewed {
    range: KeyRange,
    /// Where there are rows, as far as is known, in order.
    parts: Vec<KeyRange>,
    /// Over all of it, since before the view was taken.
    watch: Watch,
}

impl RocksView {
    pub(super) fn take(
        db: &Arc<DB>,
        group: GroupId,
        ranges: &[KeyRange],
        memory: &Arc<Remembered>,
        counters: &Arc<Counters>,
    ) -> RocksView {
        let viewed = |range: &KeyRange| {
            let watch = memory.watches.watch(group, &range.start..&range.end);
            Viewed { range: range.clone(), parts: Vec::new(), watch }
        };
        let mut ranges: Vec<_> = ranges.iter().map(viewed).collect();
        let snapshot = Self::snapshot_between_commits(db, group, &mut ranges, memory);
        RocksView { snapshot, group, ranges, memory: Arc::clone(memory), counters: Arc::clone(counters) }
    }

    fn snapshot_between_commits(
        db: &Arc<DB>,
        group: GroupId,
        ranges: &mut [Viewed],
        memory: &Remembered,
    ) -> OwnedSnapshot {
        let commits = memory.commits.of(group);
        for _ in 0..TIMES_MAX {
            let Some(before) = commits.at_rest() else {
                std::thread::yield_now();
                continue;
            };
            for viewed in &mut *ranges {
                viewed.parts = memory.gaps.around(group, &viewed.range.start..&viewed.range.end);
            }
            let snapshot = OwnedSnapshot::take(Arc::clone(db));
            if commits.are_still(before) {
                return snapshot;
            }
        }
        for viewed in ranges {
            viewed.parts = vec![viewed.range.clone()];
        }
        OwnedSnapshot::take(Arc::clone(db))
    }
}

impl RowsView for RocksView {
    fn visit(&self, range: Range<&[u8]>, visit: Visitor<'_>) -> Result<(), StateError> {
        let is_it = |viewed: &&Viewed| *viewed.range.start <= *range.start && *range.end <= *viewed.range.end;
        let viewed = self.ranges.iter().find(is_it);
        let viewed = viewed.ok_or_else(|| StateError("a view was asked for what it was not taken of".to_owned()))?;
        let deleted_rows = DeletedRows::start();
        let mut gaps = Vec::new();
        for part in within(&viewed.parts, range) {
            let keys = rows_within(self.group, &part.start, &part.end);
            if keys.is_empty() {
                continue;
            }
            let rows = self.snapshot.rows(bounded(keys));
            if visit_part(rows, &part, &deleted_rows, &mut gaps, visit)?.is_break() {
                break;
            }
        }
        self.counters.deleted_rows_visited.fetch_add(deleted_rows.stepped_over(), Ordering::Relaxed);
        self.memory.gaps.found(self.group, &viewed.watch, gaps);
        Ok(())
    }
}

/// How many commits of each group have begun and ended.
#[derive(Default)]
pub(super) struct Commits(Mutex<HashMap<GroupId, Arc<GroupCommits>>>);

#[derive(Default)]
pub(super) struct GroupCommits {
    begun: AtomicU64,
    ended: AtomicU64,
}

/// A commit on its way, until it is dropped.
pub(super) struct Committing(Arc<GroupCommits>);

impl Commits {
    fn of(&self, group: GroupId) -> Arc<GroupCommits> {
        Arc::clone(self.0.lock().entry(group).or_default())
    }

    /// To be called before anything is written, and kept until gaps and watches were told.
    pub(super) fn begin(&self, group: GroupId) -> Committing {
        let commits = self.of(group);
        commits.begun.fetch_add(1, Ordering::SeqCst);
        Committing(commits)
    }
}

impl Drop for Committing {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Ordering::SeqCst);
    }
}

impl GroupCommits {
    /// How many there were, if none is on its way.
    fn at_rest(&self) -> Option<u64> {
        let ended = self.ended.load(Ordering::SeqCst);
        self.are_still(ended).then_some(ended)
    }

    /// Whether no more than `before` have begun.
    fn are_still(&self, before: u64) -> bool {
        self.begun.load(Ordering::SeqCst) == before
    }
}
