//! The rows of every group in one RocksDB without a write-ahead log.
//!
//! ```text
//! group u32 BE | 00 "applied"    the group's applied position
//! group u32 BE | key             a row; its first byte is 01..fe
//! group u32 BE | ff              end of the group, never a row
//! ```
//!
//! **Invariant: exactly one column family.** The rows of a commit and its applied position go into one write batch, a batch goes into
//! one memtable, and memtables reach the disk whole and in order. So after a crash the rows are those of the applied position found
//! beside them, though nothing was logged. With a second column family this would no longer hold (their memtables are flushed apart
//! from each other) unless `atomic_flush` were on.

mod gaps;

use std::collections::BTreeSet;
use std::ops::{ControlFlow, Range};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use rocksdb::perf::{PerfContext, PerfMetric, PerfStatsLevel, set_perf_stats};
use rocksdb::{
    BlockBasedOptions, Cache, DB, DBCompressionType, DBRawIterator, ErrorKind, FlushOptions, Options, ReadOptions,
    Snapshot, WriteBatch, WriteOptions,
};

use self::gaps::{GAP_ROWS_MIN, Gap, Gaps};
use crate::keys::{KeyRange, after};
use crate::state::{
    Attempt, Direction, Row, RowBatch, RowChange, StateEngine, StateError, StateSnapshot, StateStats, Visitor,
    check_row_key,
};
use crate::watch::{Follow, Wake, Watch, Watches};
use crate::{EngineMemory, GroupId};

const GROUP_BYTES: usize = 4;
/// First key byte that a row may have; below is the engine's own.
const ROWS_START: u8 = 0x01;
/// First key byte that a row cannot have any more.
const ROWS_END: u8 = 0xff;
const APPLIED: &[u8] = b"\x00applied";

/// Most rows of a deleted range that are deleted one by one. RocksDB sorts the range deletes of a memtable anew for the first read after each
/// of them, which with thousands of runs that expire makes every read slow; a delete of a row costs others nothing.
const SINGLE_DELETES_MAX: usize = 256;

/// Reads between two calls of [`RocksState::rest`] up to which the block cache is not worth its memory: pages of timers that an idle
/// node reads ahead, and somebody who looks at it now and then. The system's own cache still serves them, at the cost of unpacking.
const REST_READS_MAX: u64 = 256;

/// Sizes of a [`RocksState`].
#[derive(Clone, Debug)]
pub struct StateOptions {
    /// Size of a memtable, in bytes. What is in memory is replayed from the Raft log after a crash.
    pub memtable_bytes: usize,
    /// Memtables that may exist before commits stall.
    pub memtables_max: i32,
    /// Cache of table blocks, indexes and filters, in bytes.
    pub block_cache_bytes: usize,
    /// Threads for flushes and compactions.
    pub background_jobs: i32,
    /// Files of the store that are open at a time; a table beyond them is opened when it is read.
    pub tables_open_max: usize,
}

impl Default for StateOptions {
    fn default() -> StateOptions {
        StateOptions {
            memtable_bytes: 64 << 20,
            memtables_max: 4,
            block_cache_bytes: 128 << 20,
            background_jobs: 2,
            tables_open_max: 1024,
        }
    }
}

#[derive(Default)]
struct Counters {
    commits: AtomicU64,
    rows: AtomicU64,
    bytes: AtomicU64,
    flushes: AtomicU64,
    deleted_rows_visited: AtomicU64,
    reads: AtomicU64,
}

/// Handles of the metrics: to look one up takes longer than to count.
struct Metrics {
    rows: metrics::Counter,
    bytes: metrics::Counter,
    flushes: metrics::Counter,
}

impl Metrics {
    fn new() -> Metrics {
        describe_metrics();
        Metrics {
            rows: metrics::counter!("everlog_state_rows_total"),
            bytes: metrics::counter!("everlog_state_bytes_total"),
            flushes: metrics::counter!("everlog_state_flushes_total"),
        }
    }
}

/// The rows of every group on a node.
pub struct RocksState {
    db: Arc<DB>,
    block_cache: Cache,
    block_cache_bytes: usize,
    /// What `reads` was when the engine was last asked to rest.
    reads_at_rest: AtomicU64,
    counters: Counters,
    metrics: Metrics,
    unlogged: WriteOptions,
    /// The same for writes that fail where they would wait for flushes or compactions.
    impatient: WriteOptions,
    watches: Watches,
    gaps: Gaps,
}

impl RocksState {
    /// Opens the rows in `path`, or creates an empty store.
    pub fn open(path: &Path, options: StateOptions) -> Result<RocksState, StateError> {
        let block_cache = Cache::new_lru_cache(options.block_cache_bytes);
        let db = DB::open(&rocksdb_options(&options, &block_cache), path).map_err(state_error)?;
        let mut unlogged = WriteOptions::default();
        unlogged.disable_wal(true);
        let mut impatient = WriteOptions::default();
        impatient.disable_wal(true);
        impatient.set_no_slowdown(true);
        Ok(RocksState {
            db: Arc::new(db),
            block_cache,
            block_cache_bytes: options.block_cache_bytes,
            reads_at_rest: AtomicU64::new(0),
            counters: Counters::default(),
            metrics: Metrics::new(),
            unlogged,
            impatient,
            watches: Watches::default(),
            gaps: Gaps::default(),
        })
    }

    /// What the engine has done since it was opened.
    pub fn stats(&self) -> StateStats {
        StateStats {
            commits: self.counters.commits.load(Ordering::Relaxed),
            rows: self.counters.rows.load(Ordering::Relaxed),
            bytes: self.counters.bytes.load(Ordering::Relaxed),
            flushes: self.counters.flushes.load(Ordering::Relaxed),
            deleted_rows_visited: self.counters.deleted_rows_visited.load(Ordering::Relaxed),
        }
    }

    /// Memory in use at this moment.
    pub fn memory(&self) -> EngineMemory {
        EngineMemory::of(&self.db)
    }

    /// Gives the block cache's memory back if hardly anything was read since the last call. To be called from time to time: an idle
    /// node is then as small as what its workflows wait for. Takes some milliseconds.
    pub fn rest(&self) {
        let reads = self.counters.reads.load(Ordering::Relaxed);
        if reads - self.reads_at_rest.swap(reads, Ordering::Relaxed) <= REST_READS_MAX {
            // Without room, all goes that is not in use.
            let mut cache = self.block_cache.clone();
            cache.set_capacity(0);
            cache.set_capacity(self.block_cache_bytes);
        }
    }

    fn count_read(&self) {
        self.counters.reads.fetch_add(1, Ordering::Relaxed);
    }

    fn commit_with(
        &self,
        options: &WriteOptions,
        group: GroupId,
        applied: &[u8],
        batches: &[RowBatch],
    ) -> Result<Attempt, StateError> {
        let (batch, rows) = self.write_batch(group, applied, batches)?;
        match self.write(batch, rows, options) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::Incomplete => return Ok(Attempt::WouldBlock),
            Err(error) => return Err(state_error(error)),
        }
        // Once the rows can be read, and watches first: both are what `gaps` and `watch` rely on.
        self.watches.changed(group, batches);
        self.gaps.changed(group, batches);
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

    fn write(&self, batch: WriteBatch, rows: usize, options: &WriteOptions) -> Result<(), rocksdb::Error> {
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

    /// To be called after all rows of a group were replaced. Watches first, as the gaps ask for.
    fn replaced(&self, group: GroupId) {
        self.watches.replaced(group);
        self.gaps.replaced(group);
    }
}

impl StateEngine for RocksState {
    fn commit(&self, group: GroupId, applied: &[u8], batches: &[RowBatch]) -> Result<(), StateError> {
        match self.commit_with(&self.unlogged, group, applied, batches)? {
            Attempt::Done => Ok(()),
            Attempt::WouldBlock => Err(StateError("a write that may wait was refused".to_owned())),
        }
    }

    fn try_commit(&self, group: GroupId, applied: &[u8], batches: &[RowBatch]) -> Result<Attempt, StateError> {
        // What is in a range may have to be read from the disk.
        if has_ranges(batches) {
            return Ok(Attempt::WouldBlock);
        }
        self.commit_with(&self.impatient, group, applied, batches)
    }

    fn applied(&self, group: GroupId) -> Result<Option<Bytes>, StateError> {
        let row = self.db.get(engine_key(group, APPLIED));
        Ok(row.map_err(state_error)?.map(Bytes::from))
    }

    fn get(&self, group: GroupId, key: &[u8]) -> Result<Option<Bytes>, StateError> {
        check_row_key(key)?;
        self.count_read();
        let row = self.db.get(engine_key(group, key));
        Ok(row.map_err(state_error)?.map(Bytes::from))
    }

    fn may_exist(&self, group: GroupId, key: &[u8]) -> bool {
        // Memtables and bloom filters, which are kept in memory; a block that would have to be read counts as "maybe".
        self.db.key_may_exist(engine_key(group, key))
    }

    fn scan(
        &self,
        group: GroupId,
        range: Range<&[u8]>,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<Row>, StateError> {
        let range = rows_within(group, range.start, range.end);
        if range.is_empty() {
            return Ok(Vec::new());
        }
        self.count_read();
        collect(self.db.raw_iterator_opt(bounded(range)), direction, limit, |_| true)
    }

    fn visit(&self, group: GroupId, range: Range<&[u8]>, visit: Visitor<'_>) -> Result<(), StateError> {
        self.count_read();
        // Before anything is read, so that it knows of everything that is written meanwhile.
        let watch = self.watches.watch(group, range.clone());
        let deleted_rows = DeletedRows::start();
        let mut gaps = Vec::new();
        for part in self.gaps.around(group, range) {
            let within = rows_within(group, &part.start, &part.end);
            if within.is_empty() {
                continue;
            }
            let rows = self.db.raw_iterator_opt(bounded(within));
            if visit_part(rows, &part, &deleted_rows, &mut gaps, visit)?.is_break() {
                break;
            }
        }
        self.counters.deleted_rows_visited.fetch_add(deleted_rows.stepped_over(), Ordering::Relaxed);
        self.gaps.found(group, &watch, gaps);
        Ok(())
    }

    fn watch(&self, group: GroupId, range: Range<&[u8]>) -> Watch {
        self.watches.watch(group, range)
    }

    fn follow(&self, group: GroupId, range: Range<&[u8]>, wake: Wake) -> Follow {
        self.watches.follow(group, range, wake)
    }

    fn snapshot(&self, group: GroupId) -> Result<Box<dyn StateSnapshot>, StateError> {
        Ok(Box::new(RocksSnapshot::take(Arc::clone(&self.db), group)?))
    }

    /// All in one write batch, so the rows must fit into memory (about twice their size for a moment).
    fn replace_group(
        &self,
        group: GroupId,
        applied: &[u8],
        rows: &mut dyn Iterator<Item = Row>,
    ) -> Result<(), StateError> {
        let mut batch = WriteBatch::default();
        let old = group_range(group);
        batch.delete_range(old.start, old.end);
        let mut key_buffer = group.0.to_be_bytes().to_vec();
        let mut count = 0;
        for (key, value) in rows {
            check_row_key(&key)?;
            batch.put(prefixed(&mut key_buffer, &key), value);
            count += 1;
        }
        batch.put(prefixed(&mut key_buffer, APPLIED), applied);
        self.write(batch, count, &self.unlogged).map_err(state_error)?;
        self.replaced(group);
        Ok(())
    }

    fn drop_group(&self, group: GroupId) -> Result<(), StateError> {
        // Not `delete_file_in_range`: it acts at once, and a crash before the next flush would leave an applied position
        // beside the half of its rows.
        let mut batch = WriteBatch::default();
        let old = group_range(group);
        batch.delete_range(old.start, old.end);
        self.write(batch, 0, &self.unlogged).map_err(state_error)?;
        self.replaced(group);
        Ok(())
    }

    fn flush(&self) -> Result<(), StateError> {
        let mut options = FlushOptions::default();
        options.set_wait(true);
        self.db.flush_opt(&options).map_err(state_error)?;
        self.counters.flushes.fetch_add(1, Ordering::Relaxed);
        self.metrics.flushes.increment(1);
        Ok(())
    }
}

fn has_ranges(batches: &[RowBatch]) -> bool {
    let mut changes = batches.iter().flat_map(|batch| &batch.changes);
    changes.any(|change| matches!(change, RowChange::DeleteRange { .. }))
}

/// A RocksDB snapshot that keeps its database open.
struct RocksSnapshot {
    // Before `_db`: fields are dropped in the order of their declaration.
    snapshot: Snapshot<'static>,
    _db: Arc<DB>,
    group: GroupId,
    applied: Option<Bytes>,
}

impl RocksSnapshot {
    #[allow(unsafe_code)]
    fn take(db: Arc<DB>, group: GroupId) -> Result<RocksSnapshot, StateError> {
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

    fn rows(&self, after: Option<&[u8]>, limit: usize) -> Result<Vec<Row>, StateError> {
        let after = after.unwrap_or(&[]);
        let range = rows_within(self.group, after, &[ROWS_END]);
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let mut options = bounded(range);
        // A snapshot is read once, front to back: it must not push the working set out of the cache.
        options.fill_cache(false);
        options.set_readahead_size(2 << 20);
        let rows = self.snapshot.raw_iterator_opt(options);
        collect(rows, Direction::Ascending, limit, |key| key > after)
    }
}

/// Shows the rows between the iterator's bounds, which are those of `part`, to `visit`, and notes in `gaps` what lay between them: at the
/// front and at the end in any case, since it may make a gap longer that is known already.
fn visit_part(
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
struct DeletedRows {
    context: PerfContext,
    before: u64,
}

impl DeletedRows {
    fn start() -> DeletedRows {
        set_perf_stats(PerfStatsLevel::EnableCount);
        let context = PerfContext::default();
        let before = context.metric(PerfMetric::InternalDeleteSkippedCount);
        DeletedRows { context, before }
    }

    fn stepped_over(&self) -> u64 {
        self.context.metric(PerfMetric::InternalDeleteSkippedCount) - self.before
    }
}

impl Drop for DeletedRows {
    fn drop(&mut self) {
        set_perf_stats(PerfStatsLevel::Disable);
    }
}

/// Reads rows from one end of the iterator's bounds, without those whose key `wanted` refuses.
fn collect(
    mut rows: DBRawIterator<'_>,
    direction: Direction,
    limit: usize,
    wanted: impl Fn(&[u8]) -> bool,
) -> Result<Vec<Row>, StateError> {
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
        if wanted(key) {
            let row = (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
            collected.push(row);
        }
        match direction {
            Direction::Ascending => rows.next(),
            Direction::Descending => rows.prev(),
        }
    }
    rows.status().map_err(state_error)?;
    Ok(collected)
}

fn bounded(range: Range<Vec<u8>>) -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_iterate_lower_bound(range.start);
    options.set_iterate_upper_bound(range.end);
    options
}

fn engine_key(group: GroupId, key: &[u8]) -> Vec<u8> {
    [&group.0.to_be_bytes(), key].concat()
}

/// The same into a buffer that holds the group's prefix already, to spare an allocation per row.
fn prefixed<'a>(buffer: &'a mut Vec<u8>, key: &[u8]) -> &'a [u8] {
    buffer.truncate(GROUP_BYTES);
    buffer.extend_from_slice(key);
    buffer
}

/// `[start, end)`, cut down to what can be rows of `group`.
fn rows_within(group: GroupId, start: &[u8], end: &[u8]) -> Range<Vec<u8>> {
    let start = start.max(&[ROWS_START]);
    let end = end.min(&[ROWS_END]);
    engine_key(group, start)..engine_key(group, end)
}

/// Rows and applied position of `group`.
fn group_range(group: GroupId) -> Range<Vec<u8>> {
    engine_key(group, &[])..engine_key(group, &[ROWS_END])
}

fn rocksdb_options(options: &StateOptions, block_cache: &Cache) -> Options {
    let mut tables = BlockBasedOptions::default();
    tables.set_block_cache(block_cache);
    tables.set_block_size(16 << 10);
    tables.set_bloom_filter(10.0, false);
    // Indexes and filters count against the cache's size, or the memory of a node would grow with its data.
    tables.set_cache_index_and_filter_blocks(true);
    tables.set_pin_l0_filter_and_index_blocks_in_cache(true);
    tables.set_format_version(6);
    let mut rocksdb = Options::default();
    rocksdb.create_if_missing(true);
    rocksdb.set_block_based_table_factory(&tables);
    rocksdb.set_write_buffer_size(options.memtable_bytes);
    rocksdb.set_max_write_buffer_number(options.memtables_max);
    // Many gets are for rows that are not there (is this request id known?): spare them the search in the memtable.
    rocksdb.set_memtable_whole_key_filtering(true);
    rocksdb.set_memtable_prefix_bloom_ratio(0.02);
    rocksdb.set_compression_type(DBCompressionType::Lz4);
    rocksdb.set_bottommost_compression_type(DBCompressionType::Zstd);
    rocksdb.set_level_compaction_dynamic_level_bytes(true);
    rocksdb.set_max_background_jobs(options.background_jobs);
    rocksdb.set_max_open_files(i32::try_from(options.tables_open_max).unwrap_or(i32::MAX));
    rocksdb.set_bytes_per_sync(1 << 20);
    rocksdb.set_keep_log_file_num(4);
    rocksdb.set_stats_dump_period_sec(0);
    rocksdb.set_stats_persist_period_sec(0);
    rocksdb
}

fn describe_metrics() {
    metrics::describe_counter!("everlog_state_rows_total", "Row changes applied to the state store.");
    metrics::describe_counter!(
        "everlog_state_bytes_total",
        metrics::Unit::Bytes,
        "Bytes of keys and values applied to the state store."
    );
    metrics::describe_counter!("everlog_state_flushes_total", "Flushes of the state store that were asked for.");
}

fn state_error(error: rocksdb::Error) -> StateError {
    StateError(error.to_string())
}
