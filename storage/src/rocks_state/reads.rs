//! Iterators over rows.

use std::ops::{ControlFlow, Range};

use bytes::Bytes;
use rocksdb::perf::{PerfContext, PerfMetric, PerfStatsLevel, set_perf_stats};
use rocksdb::{DBRawIterator, ReadOptions};

use super::gaps::{GAP_ROWS_MIN, Gap};
use super::{GROUP_BYTES, state_error};
use crate::keys::{KeyRange, after};
use crate::state::{Direction, Row, StateError, Visitor};

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
