//! The contract of the state engine: rows of many groups, written in batches that carry the group's applied index.

use std::ops::{ControlFlow, Range};

use bytes::Bytes;

use crate::keys::KeyRange;
use crate::{Follow, GroupId, Wake, Watch};

/// A batch of row changes of one group, in order; a later change to a key wins over an earlier one.
///
/// Keys are relative to the group: the engine adds the group's prefix. Their first byte is the table, from 01 to FE; 00 and FF
/// belong to the engine. The batch has a stable encoding ([`RowBatch::encode`]) because it is what Raft replicates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RowBatch {
    /// The changes.
    pub changes: Vec<RowChange>,
}

/// One change to one row (or, for a range, to several).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RowChange {
    /// Sets a row.
    Put {
        /// Key, relative to the group.
        key: Bytes,
        /// Value.
        value: Bytes,
    },
    /// Removes a row, if it is there.
    Delete {
        /// Key, relative to the group.
        key: Bytes,
    },
    /// Removes the rows in `[start, end)`. Costs readers more than point deletes do: for histories and dropped ranges only.
    DeleteRange {
        /// First key of the range.
        start: Bytes,
        /// First key beyond it.
        end: Bytes,
    },
}

/// A row as a scan returns it.
pub type Row = (Bytes, Bytes);

/// What a visit calls with the key and value of each row.
pub type Visitor<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>;

/// The rows of every group on a node.
///
/// `commit` makes changes visible at once and durable with the next flush; the applied index goes with them atomically, so
/// after a crash every group's rows are exactly those of the applied index found beside them.
pub trait StateEngine: Send + Sync + 'static {
    /// Applies `batches` and the encoded applied position of `group` as one atomic write.
    fn commit(&self, group: GroupId, applied: &[u8], batches: &[RowBatch]) -> Result<(), StateError>;

    /// [`StateEngine::commit`] for a caller that must not block: where that would wait for the disk, it does nothing and says so.
    fn try_commit(&self, group: GroupId, applied: &[u8], batches: &[RowBatch]) -> Result<Attempt, StateError> {
        self.commit(group, applied, batches).map(|()| Attempt::Done)
    }

    /// The encoded applied position of `group` that `commit` was last given.
    fn applied(&self, group: GroupId) -> Result<Option<Bytes>, StateError>;

    /// The value of a row.
    fn get(&self, group: GroupId, key: &[u8]) -> Result<Option<Bytes>, StateError>;

    /// Whether a row may be there. Told from memory alone; `false` is certain.
    fn may_exist(&self, group: GroupId, key: &[u8]) -> bool;

    /// Up to `limit` rows in `range`, which may reach beyond the tables on both sides, ascending, or descending from the range's end when `direction` says so.
    fn scan(
        &self,
        group: GroupId,
        range: Range<&[u8]>,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<Row>, StateError>;

    /// A view of the rows in `ranges` that later commits do not change, for reads in several parts that must fit together. Where nothing
    /// but deleted rows lay is remembered: for ranges that are read again and again while rows come and go at their front.
    fn view(&self, group: GroupId, ranges: &[KeyRange]) -> Result<Box<dyn RowsView>, StateError>;

    /// Shows the rows in `range`, as [`RowsView::visit`] does, as they are now.
    fn visit(&self, group: GroupId, range: Range<&[u8]>, visit: Visitor<'_>) -> Result<(), StateError> {
        let viewed = Bytes::copy_from_slice(range.start)..Bytes::copy_from_slice(range.end);
        self.view(group, &[viewed])?.visit(range, visit)
    }

    /// Watches `range` for changes from now on.
    fn watch(&self, group: GroupId, range: Range<&[u8]>) -> Watch;

    /// Has `wake` called whenever rows in `range` change, and tells which ones.
    fn follow(&self, group: GroupId, range: Range<&[u8]>, wake: Wake) -> Follow;

    /// A view of the group's rows and applied position that later commits do not change.
    fn snapshot(&self, group: GroupId) -> Result<Box<dyn StateSnapshot>, StateError>;

    /// Replaces all rows of `group` by those of `rows`, atomically with `applied`. Durable with the next flush.
    fn replace_group(
        &self,
        group: GroupId,
        applied: &[u8],
        rows: &mut dyn Iterator<Item = Row>,
    ) -> Result<(), StateError>;

    /// Begins to gather rows that are to take the place of all rows of `group`, with the applied position `applied`. The group is as it was
    /// until they are installed.
    fn stage(&self, group: GroupId, applied: &[u8]) -> Result<Box<dyn StagedRows>, StateError>;

    /// Removes all rows of `group` and its applied position. Durable with the next flush: who also destroys the group's log flushes
    /// in between, or a crash brings the rows back without their log.
    fn drop_group(&self, group: GroupId) -> Result<(), StateError>;

    /// Makes everything committed before the call durable. Blocks while it writes.
    fn flush(&self) -> Result<(), StateError>;
}

/// Rows of a group that are gathered apart from those that it has; gone when dropped.
pub trait StagedRows: Send {
    /// Adds rows, whose keys are greater than all before. Blocks on the disk. After an error, what was gathered is of no use.
    fn add(&mut self, rows: Vec<Row>) -> Result<(), StateError>;

    /// Replaces all rows of the group by those gathered, atomically with their position. Durable when it returns, and not done at all
    /// after an error that says so ([`StateError::is_exhausted`]). Nothing may write to the group meanwhile. Blocks on the disk.
    fn install(self: Box<Self>) -> Result<(), StateError>;
}

/// The first rows that `show` shows, `limit` at most.
fn copied(limit: usize, show: impl FnOnce(Visitor<'_>) -> Result<(), StateError>) -> Result<Vec<Row>, StateError> {
    let mut rows = Vec::new();
    if limit > 0 {
        show(&mut |key, value| {
            rows.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
            if rows.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
    }
    Ok(rows)
}

/// A fixed view of ranges of one group's rows.
pub trait RowsView: Send + Sync {
    /// Shows the rows in `range`, which is one of the view's or a part of one, to `visit`, ascending, until it breaks or there are no more. Nothing is copied.
    fn visit(&self, range: Range<&[u8]>, visit: Visitor<'_>) -> Result<(), StateError>;

    /// Up to `limit` rows of such a range, ascending.
    fn rows(&self, range: Range<&[u8]>, limit: usize) -> Result<Vec<Row>, StateError> {
        copied(limit, |visit| self.visit(range, visit))
    }
}

/// A fixed view of one group's rows.
pub trait StateSnapshot: Send + Sync {
    /// The applied position that the view was taken at.
    fn applied(&self) -> Option<Bytes>;

    /// Up to `limit` rows with keys greater than `after` (all, if `None`), ascending.
    fn rows(&self, after: Option<&[u8]>, limit: usize) -> Result<Vec<Row>, StateError> {
        copied(limit, |visit| self.visit(after, visit))
    }

    /// Shows the rows with keys greater than `after` (all, if `None`) to `visit`, ascending, until it breaks or there are no more.
    fn visit(&self, after: Option<&[u8]>, visit: Visitor<'_>) -> Result<(), StateError>;
}

/// What became of a commit that must not block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// It is done.
    Done,
    /// Nothing was done; [`StateEngine::commit`] would wait for the disk.
    WouldBlock,
}

/// Which way a scan goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the first key of the range up.
    Ascending,
    /// From the last key of the range down.
    Descending,
}

/// What a state engine has done since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StateStats {
    /// Atomic writes.
    pub commits: u64,
    /// Row changes in those writes.
    pub rows: u64,
    /// Bytes of keys and values in those writes.
    pub bytes: u64,
    /// Flushes that were asked for.
    pub flushes: u64,
    /// Deleted rows that visits had to step over.
    pub deleted_rows_visited: u64,
}

/// The rows cannot be read or written; the node must stop, unless all that is wanting is space.
#[derive(Clone, Debug, thiserror::Error)]
#[error("state store: {0}")]
pub struct StateError(pub String);

impl StateError {
    /// Whether a write found no space, and may be tried again: the engine takes writes again by itself some seconds after there is room.
    pub fn is_exhausted(&self) -> bool {
        // The system's own words, which is all that the engine hands on.
        self.0.contains("No space left on device")
    }
}

/// Refuses keys that belong to the engine.
pub fn check_row_key(key: &[u8]) -> Result<(), StateError> {
    match key.first() {
        Some(0x01..=0xfe) => Ok(()),
        _ => Err(StateError(format!("not the key of a row: {key:02x?}"))),
    }
}

/// Refuses rows that are gathered in another order than they are to be.
pub(crate) fn out_of_order() -> StateError {
    StateError("rows that are gathered are not in order".to_owned())
}
