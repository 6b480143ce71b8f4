//! The shared Raft log on RocksDB, in gather mode.
//!
//! ```text
//! group 1 ─submit─▶┐                 ┌▶ one WriteBatch ▶ one fsync ▶ completions, first in first out
//! group 2 ─submit─▶├▶ queue ─ writer ┤
//! group 3 ─submit─▶┘        thread   └▶ meanwhile the queue fills again: that is the next batch
//! ```
//!
//! A batch is what arrived during the fsync before it, and what was announced by then: batches of several groups that leave at the
//! same time reach the queue one after the other, and without a look at who is still on the way the first would be synced alone. A
//! lone append has nobody to wait for. A committed log id never causes a write; it rides on the next one.
//!
//! RocksDB is a log of moderate cost (its own write-ahead log is the log; the tables behind it are overhead). Purged entries
//! are dropped when their memtable is flushed, so the tables stay small while groups are purged often.

mod log_keys;
mod queue;
mod writer;

use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use rocksdb::{BlockBasedOptions, Cache, DB, DBCompressionType, Options, ReadOptions, properties};

use crate::log::{Completion, LogEngine, LogError, LogRecord, LogStats, RecoveredGroup};
use crate::{EngineMemory, GroupId};

use queue::{Pushed, Queue, Submission};
use writer::Writer;

/// Memory of entries, in bytes, below which [`LogEngine::compact`] does nothing: less is not worth another table.
const COMPACT_BYTES_MIN: u64 = 4 << 20;

/// Sizes and limits of a [`RocksLog`].
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// The most that one write gathers, in bytes. Bounds the latency that one group's large append adds to another's.
    pub gather_bytes_max: usize,
    /// The longest that a write waits for appends that were announced. Longer than it takes a busy node to get from the
    /// announcement to the append, and nothing against the fsync that it saves.
    pub announced_wait_max: Duration,
    /// The most that may wait for the disk, in bytes. Upstream is to stay far below it by limiting what it has in flight
    /// (see [`LogStats::queued_bytes`]); beyond it the log fails, since the alternative is to run out of memory.
    pub queued_bytes_max: usize,
    /// Size of a memtable, in bytes. Entries purged while still in a memtable are never written a second time.
    pub memtable_bytes: usize,
    /// Memtables that may exist before writes stall.
    pub memtables_max: i32,
    /// Cache for reads of old entries, in bytes. Small: the raft crate caches the entries that matter.
    pub block_cache_bytes: usize,
}

impl Default for LogOptions {
    fn default() -> LogOptions {
        LogOptions {
            gather_bytes_max: 8 << 20,
            announced_wait_max: Duration::from_millis(1),
            queued_bytes_max: 1 << 30,
            memtable_bytes: 64 << 20,
            memtables_max: 4,
            block_cache_bytes: 16 << 20,
        }
    }
}

#[derive(Default)]
struct Counters {
    fsyncs: AtomicU64,
    bytes: AtomicU64,
    records: AtomicU64,
}

/// Why the log is unusable. Set once: after a failed fsync nobody knows what is on disk, so there is no second try.
#[derive(Default)]
struct Failure(OnceLock<LogError>);

impl Failure {
    fn set(&self, why: String) -> LogError {
        let error = self.0.get_or_init(|| {
            tracing::error!(%why, "the raft log has failed; no record will be accepted any more");
            LogError(why)
        });
        error.clone()
    }

    fn check(&self) -> Result<(), LogError> {
        self.0.get().map_or(Ok(()), |error| Err(error.clone()))
    }
}

/// The log of every group on a node, in one RocksDB with one writer thread.
pub struct RocksLog {
    db: Arc<DB>,
    queue: Arc<Queue>,
    counters: Arc<Counters>,
    failure: Arc<Failure>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl RocksLog {
    /// Opens the log in `path`, or creates it. What a crash cut off at the end of the log was never completed, and is dropped.
    pub fn open(path: &Path, options: LogOptions) -> Result<RocksLog, LogError> {
        describe_metrics();
        let db = Arc::new(DB::open(&rocksdb_options(&options), path).map_err(log_error)?);
        let queue = Arc::new(Queue::new(options.queued_bytes_max, options.announced_wait_max));
        let counters = Arc::new(Counters::default());
        let failure = Arc::new(Failure::default());
        let writer = Writer::new(
            Arc::clone(&db),
            Arc::clone(&queue),
            Arc::clone(&counters),
            Arc::clone(&failure),
            options.gather_bytes_max,
        );
        let writer = std::thread::Builder::new()
            .name("log-writer".to_owned())
            .spawn(move || writer.run())
            .map_err(|error| LogError(format!("cannot start the writer thread: {error}")))?;
        Ok(RocksLog { db, queue, counters, failure, writer: Mutex::new(Some(writer)) })
    }

    /// What the log has done since it was opened.
    pub fn stats(&self) -> LogStats {
        LogStats {
            fsyncs: self.counters.fsyncs.load(Ordering::Relaxed),
            bytes: self.counters.bytes.load(Ordering::Relaxed),
            records: self.counters.records.load(Ordering::Relaxed),
            queued_bytes: self.queue.bytes() as u64,
        }
    }

    /// Memory in use at this moment.
    pub fn memory(&self) -> EngineMemory {
        EngineMemory::of(&self.db)
    }

    fn get(&self, key: [u8; 5]) -> Result<Option<Bytes>, LogError> {
        Ok(self.db.get(key).map_err(log_error)?.map(Bytes::from))
    }

    fn stop_writer(&self) {
        self.queue.close();
        let Some(writer) = self.writer.lock().take() else {
            return;
        };
        // A completion may hold the last reference to the log: the writer cannot wait for itself.
        if writer.thread().id() != std::thread::current().id() && writer.join().is_err() {
            self.failure.set("the writer thread panicked".to_owned());
        }
    }
}

impl LogEngine for RocksLog {
    fn submit(&self, record: LogRecord, completion: Option<Completion>) {
        if let Pushed::Stopped(submission) = self.queue.push(Submission::new(record, completion)) {
            submission.complete(&Err(LogError("closed".to_owned())));
        }
    }

    fn announce(&self, group: GroupId) {
        self.queue.announce(group);
    }

    fn recover(&self, group: GroupId) -> Result<RecoveredGroup, LogError> {
        let purged = purged(&self.db, group)?;
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(log_keys::entries_end(group));
        let mut entries = self.db.raw_iterator_opt(options);
        let first_possible = purged.as_ref().map_or(0, |(upto, _)| upto.saturating_add(1));
        entries.seek(log_keys::entry(group, first_possible));
        let first_index = entries.key().and_then(log_keys::entry_index);
        entries.status().map_err(log_error)?;
        let mut last_index = None;
        if first_index.is_some() {
            entries.seek_to_last();
            last_index = entries.key().and_then(log_keys::entry_index);
            entries.status().map_err(log_error)?;
        }
        Ok(RecoveredGroup {
            vote: self.get(log_keys::vote(group))?,
            committed: self.get(log_keys::committed(group))?,
            purged: purged.map(|(_, log_id)| log_id),
            first_index,
            last_index,
        })
    }

    fn read(&self, group: GroupId, range: Range<u64>, bytes_max: usize) -> Result<Vec<Bytes>, LogError> {
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(log_keys::entry(group, range.end));
        let mut rows = self.db.raw_iterator_opt(options);
        rows.seek(log_keys::entry(group, range.start));
        let mut entries = Vec::new();
        let mut bytes = 0;
        for index in range {
            let Some((key, entry)) = rows.item() else {
                break;
            };
            bytes += entry.len();
            let is_full = !entries.is_empty() && bytes > bytes_max;
            if is_full || log_keys::entry_index(key) != Some(index) {
                break;
            }
            entries.push(Bytes::copy_from_slice(entry));
            rows.next();
        }
        rows.status().map_err(log_error)?;
        Ok(entries)
    }

    fn compact(&self) -> Result<(), LogError> {
        let memtable = self.db.property_int_value(properties::CUR_SIZE_ALL_MEM_TABLES).map_err(log_error)?;
        if memtable.is_none_or(|bytes| bytes < COMPACT_BYTES_MIN) {
            return Ok(());
        }
        // Purged entries are dropped on the way, and the file that the memtable was recovered from goes with it.
        self.db.flush().map_err(log_error)
    }

    fn close(&self) -> Result<(), LogError> {
        self.stop_writer();
        self.failure.check()
    }
}

impl Drop for RocksLog {
    fn drop(&mut self) {
        self.stop_writer();
    }
}

/// Index and encoded log id of the last purged entry of `group`.
fn purged(db: &DB, group: GroupId) -> Result<Option<(u64, Bytes)>, LogError> {
    let Some(row) = db.get(log_keys::purged(group)).map_err(log_error)? else {
        return Ok(None);
    };
    let (index, log_id) =
        row.split_first_chunk().ok_or_else(|| LogError(format!("corrupt purge row of group {group}")))?;
    Ok(Some((u64::from_be_bytes(*index), Bytes::copy_from_slice(log_id))))
}

fn rocksdb_options(options: &LogOptions) -> Options {
    let mut tables = BlockBasedOptions::default();
    tables.set_block_cache(&Cache::new_lru_cache(options.block_cache_bytes));
    tables.set_block_size(32 << 10); // read in long runs, if at all
    let mut rocksdb = Options::default();
    rocksdb.create_if_missing(true);
    rocksdb.set_block_based_table_factory(&tables);
    rocksdb.set_write_buffer_size(options.memtable_bytes);
    rocksdb.set_max_write_buffer_number(options.memtables_max);
    // Files that are overwritten rather than extended make fdatasync cheaper: no metadata changes.
    rocksdb.set_recycle_log_file_num(4);
    // One thread writes: nothing to be gained from coordination.
    rocksdb.set_allow_concurrent_memtable_write(false);
    // Most entries are purged before they reach the tables, so compaction can wait and must never stall the writer.
    rocksdb.set_level_zero_file_num_compaction_trigger(8);
    rocksdb.set_level_zero_slowdown_writes_trigger(64);
    rocksdb.set_level_zero_stop_writes_trigger(128);
    rocksdb.set_compression_type(DBCompressionType::Lz4);
    rocksdb.set_bytes_per_sync(1 << 20);
    rocksdb.set_max_background_jobs(2);
    rocksdb.set_keep_log_file_num(4);
    rocksdb.set_stats_dump_period_sec(0);
    rocksdb.set_stats_persist_period_sec(0);
    rocksdb
}

fn describe_metrics() {
    metrics::describe_counter!("everlog_log_fsyncs_total", "Synced writes of the Raft log.");
    metrics::describe_counter!("everlog_log_bytes_total", metrics::Unit::Bytes, "Bytes written to the Raft log.");
    metrics::describe_counter!("everlog_log_records_total", "Records submitted to the Raft log.");
    metrics::describe_histogram!("everlog_log_batch_records", "Records that shared one synced write.");
    metrics::describe_histogram!("everlog_log_batch_bytes", metrics::Unit::Bytes, "Size of one synced write.");
}

fn log_error(error: rocksdb::Error) -> LogError {
    LogError(error.to_string())
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    #[allow(clippy::unwrap_used)]
    fn compaction_gives_back_memory_and_files() {
        let directory = tempfile::tempdir().unwrap();
        let log = RocksLog::open(directory.path(), LogOptions::default()).unwrap();
        let write = |record| {
            let (sender, receiver) = mpsc::channel();
            log.submit(record, Some(Box::new(move |result| sender.send(result).unwrap())));
            receiver.recv().unwrap().unwrap();
        };
        let memtables = || log.db.property_int_value(properties::CUR_SIZE_ALL_MEM_TABLES).unwrap().unwrap();
        let group = GroupId(1);
        let entries = vec![Bytes::from(vec![7; 64 << 10]); 200];
        write(LogRecord::Append { group, first_index: 1, entries });
        write(LogRecord::Purge { group, upto: 199, log_id: Bytes::from_static(b"199") });
        assert!(memtables() > 200 * (64 << 10));
        log.compact().unwrap();
        assert!(memtables() < COMPACT_BYTES_MIN, "{}", memtables());
        // One entry of two hundred was worth keeping.
        let tables: u64 = log.db.live_files().unwrap().iter().map(|file| file.size as u64).sum();
        assert!(tables < 2 * (64 << 10), "{tables}");
        log.compact().unwrap();
        assert_eq!(log.db.live_files().unwrap().len(), 1);
    }
}
