//! Iterators over rows, and snapshots.

use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use bytes::Bytes;
use rocksdb::perf::{PerfContext, PerfMetric, PerfStatsLevel, set_perf_stats};
use rocksdb::{DB, DBRawIterator, ReadOptions, Snapshot};

use super::gaps::{GAP_ROWS_MIN, Gap};
use super::{APPLIED, GROUP_BYTES, ROWS_END, engine_key, rows_within, state_error};
use crate::GroupId;
use crate::keys::{KeyRange, after};
use crate::state::{Direction, Row, StateError, StateSnapshot, Visitor};

/// A RocksDB snapshot that keeps its database open.
pub(super) struct RocksSnapshot {
    // Before `_db`: fields are dropped in the order of their declaration.
    snapshot: Snapshot<'static>,
    _db: Arc<DB>,
    group: GroupId,
    applied: Option<Bytes>,
}

impl RocksSnapshot {
    #[allow(unsafe_code)]
    pub(super) fn take(db: Arc<DB>, group: GroupId) -> Result<RocksSnapshot, StateError> {
        // SAFETY: the snapshot borrows the `DB` behind the `Arc`, which does not move and which lives until `_db` is dropped,
        // after the snapshot. The borrow never leaves this struct: `snapshot` is private and handed out only for the lifetime
        // of `&self`.
        let borrowed: &'static DB = unsafe { &*Arc::as_ptr(&db) };
        let snapshot = borrowed.snapshot();
        let applied = snapshot.get(engine_key(group, APPLIED)).map_err(state_error)?.map(Bytes::from);
        Ok(RocksSnapshot { snapshot, _db: db, group, applied })
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
        let mut rows = self.snapshot.raw_iterator_opt(options);
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

/// Shows the rows between the iterator's bounds, which are those of `part`, to `visit`, and notes in `gaps` what lay between them: at the
/// front and at the end in any case, since it may make a gap longer that is known already.
pub(super) fn visit_part(
    mut rows: DBRawIterator<'_>,
    part: &KeyRange,
    deleted_rows: &DeletedRows,
    gaps: &mut Vec<Gap>,
    visit: Visitor<'_>,
) -> Result<ControlFlow<()>, StateError> {
    let behind = |last: &[u8]| if last.is_empty() { part.start.clone() } else { after(last) };
    let mut last = Vec::new();
    let mut stepped_over = deleted_rows.stepped_over();
    rows.seek_to_first();
    while let Some((key, value)) = rows.item() {
        let key = &key[GROUP_BYTES..];
        let so_far = deleted_rows.stepped_over();
        if last.is_empty() || so_far - stepped_over >= GAP_ROWS_MIN {
            let range = behind(&last)..Bytes::copy_from_slice(key);
            gaps.push(Gap { range, deleted_rows: so_far - stepped_over });
        }
        stepped_over = so_far;
        if visit(key, value).is_break() {
            return Ok(ControlFlow::Break(()));
        }
        last.clear();
        last.extend_from_slice(key);
        rows.next();
    }
    rows.status().map_err(state_error)?;
    let deleted_rows = deleted_rows.stepped_over() - stepped_over;
    gaps.push(Gap { range: behind(&last)..part.end.clone(), deleted_rows });
    Ok(ControlFlow::Continue(()))
}

/// Counts the deleted rows that iterators of this thread step over, while it lives.
pub(super) struct DeletedRows {
    context: PerfContext,
    before: u64,
}

impl DeletedRows {
    pub(super) fn start() -> DeletedRows {
        set_perf_stats(PerfStatsLevel::EnableCount);
        let context = PerfContext::default();
        let before = context.metric(PerfMetric::InternalDeleteSkippedCount);
        DeletedRows { context, before }
    }

    pub(super) fn stepped_over(&self) -> u64 {
        self.context.metric(PerfMetric::InternalDeleteSkippedCount) - self.before
    }
}

impl Drop for DeletedRows {
    fn drop(&mut self) {
        set_perf_stats(PerfStatsLevel::Disable);
    }
}

/// Reads rows from one end of the iterator's bounds.
pub(super) fn collect(mut rows: DBRawIterator<'_>, direction: Direction, limit: usize) -> Result<Vec<Row>, StateError> {
    match direction {
        Direction::Ascending => rows.seek_to_first(),
        Direction::Descending => rows.seek_to_last(),
    }
    let mut collected = Vec::new();
    while collected.len() < limit {
        let Some((key, value)) = rows.item() else {
            break;
        };
        let key = &key[GROUP_BYTES..];
        collected.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
        match direction {
            Direction::Ascending => rows.next(),
            Direction::Descending => rows.prev(),
        }
    }
    rows.status().map_err(state_error)?;
    Ok(collected)
}

pub(super) fn bounded(range: Range<Vec<u8>>) -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_iterate_lower_bound(range.start);
    options.set_iterate_upper_bound(range.end);
    options
}
