//! What a commit becomes in RocksDB.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use rocksdb::{ErrorKind, WriteBatch, WriteOptions};

use super::reads::bounded;
use super::{APPLIED, RocksState, prefixed, rows_within, state_error};
use crate::GroupId;
use crate::state::{Attempt, RowBatch, RowChange, StateError, check_row_key};

/// Most rows of a deleted range that are deleted one by one. RocksDB sorts the range deletes of a memtable anew for the first read after each
/// of them, which with thousands of runs that expire makes every read slow; a delete of a row costs others nothing.
const SINGLE_DELETES_MAX: usize = 256;

impl RocksState {
    pub(super) fn commit_with(
        &self,
        options: &WriteOptions,
        group: GroupId,
        applied: &[u8],
        batches: &[RowBatch],
    ) -> Result<Attempt, StateError> {
        let (batch, rows) = self.write_batch(group, applied, batches)?;
        let _committing = self.memory.commits.begin(group);
        match self.write(batch, rows, options) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::Incomplete => return Ok(Attempt::WouldBlock),
            Err(error) => return Err(state_error(error)),
        }
        // Once the rows can be read, and watches first: both are what `gaps` and `watch` rely on.
        self.memory.watches.changed(group, batches);
        self.memory.gaps.changed(group, batches);
        Ok(Attempt::Done)
    }

    /// What a commit writes, and how many rows that changes.
    fn write_batch(
        &self,
        group: GroupId,
        applied: &[u8],
        batches: &[RowBatch],
    ) -> Result<(WriteBatch, usize), StateError> {
        let mut batch = WriteBatch::default();
        let mut key_buffer = group.0.to_be_bytes().to_vec();
        let mut rows = 0;
        // What the commit itself puts, where it also deletes ranges: that cannot be read yet.
        let mut put_before = has_ranges(batches).then(BTreeSet::new);
        for change in batches.iter().flat_map(|batch| &batch.changes) {
            match change {
                RowChange::Put { key, value } => {
                    check_row_key(key)?;
                    batch.put(prefixed(&mut key_buffer, key), value);
                    if let Some(put_before) = &mut put_before {
                        put_before.insert(key);
                    }
                }
                RowChange::Delete { key } => {
                    check_row_key(key)?;
                    batch.delete(prefixed(&mut key_buffer, key));
                }
                RowChange::DeleteRange { start, end } if start < end => {
                    let range = rows_within(group, start, end);
                    match self.keys_if_few(range.clone())? {
                        Some(keys) => {
                            keys.iter().for_each(|key| batch.delete(key));
                            for key in put_before.iter().flat_map(|keys| keys.range::<Bytes, _>(start..end)) {
                                batch.delete(prefixed(&mut key_buffer, key));
                            }
                        }
                        None => batch.delete_range(range.start, range.end),
                    }
                }
                RowChange::DeleteRange { .. } => {}
            }
            rows += 1;
        }
        batch.put(prefixed(&mut key_buffer, APPLIED), applied);
        Ok((batch, rows))
    }

    /// The keys in `range` as the engine has them, if there are no more than are deleted one by one.
    fn keys_if_few(&self, range: Range<Vec<u8>>) -> Result<Option<Vec<Vec<u8>>>, StateError> {
        if range.is_empty() {
            return Ok(Some(Vec::new()));
        }
        let mut options = bounded(range);
        // What is about to be deleted must not push out what is in use.
        options.fill_cache(false);
        let mut rows = self.db.raw_iterator_opt(options);
        let mut keys = Vec::new();
        rows.seek_to_first();
        while let Some(key) = rows.key() {
            if keys.len() == SINGLE_DELETES_MAX {
                return Ok(None);
            }
            keys.push(key.to_vec());
            rows.next();
        }
        rows.status().map_err(state_error)?;
        Ok(Some(keys))
    }

    pub(super) fn write(&self, batch: WriteBatch, rows: usize, options: &WriteOptions) -> Result<(), rocksdb::Error> {
        let bytes = batch.size_in_bytes() as u64;
        self.db.write_opt(batch, options)?;
        let rows = rows as u64;
        self.counters.commits.fetch_add(1, Ordering::Relaxed);
        self.counters.rows.fetch_add(rows, Ordering::Relaxed);
        self.counters.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.metrics.rows.increment(rows);
        self.metrics.bytes.increment(bytes);
        Ok(())
    }
}

/// Whether any change deletes a range.
pub(super) fn has_ranges(batches: &[RowBatch]) -> bool {
    let mut changes = batches.iter().flat_map(|batch| &batch.changes);
    changes.any(|change| matches!(change, RowChange::DeleteRange { .. }))
}
