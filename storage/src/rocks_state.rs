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

mod commits;
mod gaps;
mod reads;
mod staged;
mod view;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use rocksdb::{BlockBasedOptions, Cache, DB, DBCompressionType, FlushOptions, Options, WriteBatch, WriteOptions};

use self::commits::has_ranges;
use self::gaps::Gaps;
use self::reads::{bounded, collect};
use self::staged::{RocksStaged, staging_directory};
use self::view::{Commits, RocksSnapshot, RocksView};
use crate::keys::KeyRange;
use crate::state::{
    Attempt, Direction, Row, RowBatch, RowsView, StagedRows, StateEngine, StateError, StateSnapshot, StateStats,
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
    counters: Arc<Counters>,
    metrics: Metrics,
    unlogged: WriteOptions,
    /// The same for writes that fail where they would wait for flushes or compactions.
    impatient: WriteOptions,
    /// Shared with rows that are gathered, which change both when they are installed.
    memory: Arc<Remembered>,
    /// Where rows are gathered.
    staging: PathBuf,
    /// How often that was begun.
    staged: AtomicU64,
    table_options: Options,
}

/// What is known of the rows without reading them, and by whom.
#[derive(Default)]
struct Remembered {
    watches: Watches,
    gaps: Gaps,
    commits: Commits,
}

impl Remembered {
    /// To be called after all rows of a group were replaced. Watches first, as the gaps ask for.
    fn replaced(&self, group: GroupId) {
        self.watches.replaced(group);
        self.gaps.replaced(group);
    }
}

impl RocksState {
    /// Opens the rows in `path`, or creates an empty store.
    pub fn open(path: &Path, options: StateOptions) -> Result<RocksState, StateError> {
        let block_cache = Cache::new_lru_cache(options.block_cache_bytes);
        let table_options = rocksdb_options(&options, &block_cache);
        let db = DB::open(&table_options, path).map_err(state_error)?;
        let staging = staging_directory(path)?;
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
            counters: Arc::default(),
            metrics: Metrics::new(),
            unlogged,
            impatient,
            memory: Arc::default(),
            staging,
            staged: AtomicU64::new(0),
            table_options,
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
        match self.commit_with(&self.impatient, group, applied, batches) {
            Err(error) if error.is_exhausted() => Ok(Attempt::WouldBlock),
            attempt => attempt,
        }
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
        collect(self.db.raw_iterator_opt(bounded(range)), direction, limit)
    }

    fn view(&self, group: GroupId, ranges: &[KeyRange]) -> Result<Box<dyn RowsView>, StateError> {
        self.count_read();
        Ok(Box::new(RocksView::take(&self.db, group, ranges, &self.memory, &self.counters)))
    }

    fn watch(&self, group: GroupId, range: Range<&[u8]>) -> Watch {
        self.memory.watches.watch(group, range)
    }

    fn follow(&self, group: GroupId, range: Range<&[u8]>, wake: Wake) -> Follow {
        self.memory.watches.follow(group, range, wake)
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
        let _committing = self.memory.commits.begin(group);
        self.write(batch, count, &self.unlogged).map_err(state_error)?;
        self.memory.replaced(group);
        Ok(())
    }

    fn stage(&self, group: GroupId, applied: &[u8]) -> Result<Box<dyn StagedRows>, StateError> {
        let remembered = Arc::clone(&self.memory);
        let number = self.staged.fetch_add(1, Ordering::Relaxed);
        let directory = self.staging.join(format!("{group}-{number}"));
        let staged =
            RocksStaged::begin(Arc::clone(&self.db), remembered, &self.table_options, directory, group, applied);
        Ok(Box::new(staged?))
    }

    fn drop_group(&self, group: GroupId) -> Result<(), StateError> {
        // Not `delete_file_in_range`: it acts at once, and a crash before the next flush would leave an applied position
        // beside the half of its rows.
        let mut batch = WriteBatch::default();
        let old = group_range(group);
        batch.delete_range(old.start, old.end);
        let _committing = self.memory.commits.begin(group);
        self.write(batch, 0, &self.unlogged).map_err(state_error)?;
        self.memory.replaced(group);
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
