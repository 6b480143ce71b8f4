//! The shared Raft log: segments of one file after the other, in gather mode.
//!
//! ```text
//! group 1 ─submit─▶┐                 ┌▶ one frame ▶ one fsync ▶ completions, first in first out
//! group 2 ─submit─▶├▶ queue ─ writer ┤
//! group 3 ─submit─▶┘        thread   └▶ meanwhile the queue fills again: that is the next frame
//! ```
//!
//! A frame holds what arrived during the previous fsync, and what was announced by then. Batches that several groups send at the same time
//! reach the queue one after the other; without the announcements, the first would be synced alone. A lone append waits for nobody. A
//! committed log id never causes a write of its own; it goes along with the next one.
//!
//! The place of every entry is kept in memory (`index.rs`) and rebuilt at a start by reading the segments (`recovery.rs`). `format.rs`
//! draws the bytes, `segments.rs` says how files come and go, `moving.rs` and `spare.rs` how old ones are emptied and reused. The log
//! reaches files only through `disk.rs`, so `simulation.rs` can put a disk that crashes under it. One stream for all groups, an index in
//! memory and rewriting the entries of idle groups come from TiKV's raft-engine.

mod blocks;
mod disk;
mod file_disk;
mod format;
mod index;
mod moving;
mod queue;
mod recovery;
mod segments;
#[cfg(test)]
mod simulation;
mod spare;
mod writer;

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use metrics::{Counter, Histogram};
use parking_lot::Mutex;

pub use self::disk::{Disk, DiskFile};
pub use self::file_disk::FileDisk;
use self::index::Location;
pub use self::queue::RECORD_BYTES_MAX;
use self::queue::{Pushed, Queue, Submission};
use self::segments::{Segment, Segments, Shared, Slack, WriteError};
use self::writer::Writer;
use crate::GroupId;
use crate::log::{Completion, LogEngine, LogError, LogRecord, LogRoom, LogStats, RecoveredGroup, Resume};

/// Most that is read from a segment at once: entries that follow each other mostly lie behind each other.
const READ_AHEAD_BYTES: u64 = 256 << 10;

/// Sizes and limits of a [`SegmentLog`].
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// The most that one write gathers, in bytes. Bounds the latency that one group's large append adds to another's.
    pub gather_bytes_max: usize,
    /// The longest that a write waits for appends that were announced. Longer than it takes a busy node to get from the
    /// announcement to the append, and nothing against the fsync that it saves.
    pub announced_wait_max: Duration,
    /// How much may wait for the disk before submitters are to wait themselves ([`LogEngine::has_room`]), in bytes. Some writes'
    /// worth: more would only add latency and memory.
    pub queued_bytes_max: usize,
    /// About how many bytes of old entries are rewritten between two appends, so that old segments can go. Appends wait meanwhile.
    pub move_bytes_max: usize,
    /// How long to wait before a write that found no space or no descriptor is tried again.
    pub retry_interval: Duration,
    /// Bytes of a segment; a larger write gets one for itself. What is purged gives its disk back in these units. The log keeps between one
    /// and two of them in reserve for a full disk: what busy partitions have on its way is that much once it is compressed.
    pub segment_bytes: u64,
}

impl Default for LogOptions {
    fn default() -> LogOptions {
        LogOptions {
            gather_bytes_max: 8 << 20,
            announced_wait_max: Duration::from_millis(1),
            queued_bytes_max: 64 << 20,
            move_bytes_max: 1 << 20,
            retry_interval: Duration::from_millis(100),
            segment_bytes: 8 << 20,
        }
    }
}

struct Counters {
    fsyncs: AtomicU64,
    bytes: AtomicU64,
    records: AtomicU64,
    moved_bytes: AtomicU64,
    moved_bytes_total: Counter,
    fsyncs_total: Counter,
    bytes_total: Counter,
    records_total: Counter,
    batch_records: Histogram,
    batch_bytes: Histogram,
}

/// Why the log is unusable. Set once: after a failed fsync the state of the disk is unknown, so it is not retried.
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

/// The log of every group on a node, in one sequence of segments with one writer thread.
pub struct SegmentLog {
    shared: Arc<Mutex<Shared>>,
    segments: Arc<Mutex<Segments>>,
    queue: Arc<Queue>,
    counters: Arc<Counters>,
    failure: Arc<Failure>,
    is_held: Arc<AtomicBool>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl SegmentLog {
    /// Opens the log in `path`, or creates it. What a crash cut off at the end of the log was never completed, and is dropped; a log
    /// that is damaged anywhere else is not opened.
    ///
    /// # Errors
    ///
    /// Says which file is damaged or missing, or cannot be read or written.
    pub fn open(path: &Path, options: LogOptions) -> Result<SegmentLog, LogError> {
        SegmentLog::open_on(Arc::new(FileDisk::new(path)), options)
    }

    /// The same on any disk.
    pub fn open_on(disk: Arc<dyn Disk>, options: LogOptions) -> Result<SegmentLog, LogError> {
        let (log, writer) = SegmentLog::begin(disk, options)?;
        let writer = std::thread::Builder::new()
            .name("log-writer".to_owned())
            .spawn(move || writer.run())
            .map_err(|error| LogError(format!("cannot start the writer thread: {error}")))?;
        *log.writer.lock() = Some(writer);
        Ok(log)
    }

    /// A log whose writer has no thread yet.
    fn begin(disk: Arc<dyn Disk>, options: LogOptions) -> Result<(SegmentLog, Writer), LogError> {
        let recovered = recovery::recover(&*disk)?;
        let shared = Arc::new(Mutex::new(recovered.shared));
        let segments = Segments::begin(disk, Arc::clone(&shared), &options, recovered.newest, recovered.spares)
            .map_err(|error| LogError(error.to_string()))?;
        let segments = Arc::new(Mutex::new(segments));
        let queue = Arc::new(Queue::new(options.queued_bytes_max, options.announced_wait_max));
        let counters = Arc::new(Counters::new());
        counters.count_syncs(segments.lock().take_syncs());
        let failure = Arc::new(Failure::default());
        let is_held = Arc::new(AtomicBool::new(false));
        let writer = Writer {
            segments: Arc::clone(&segments),
            queue: Arc::clone(&queue),
            counters: Arc::clone(&counters),
            failure: Arc::clone(&failure),
            gather_bytes_max: options.gather_bytes_max,
            retry_interval: options.retry_interval,
            is_held: Arc::clone(&is_held),
            committed: HashMap::new(),
        };
        Ok((SegmentLog { shared, segments, queue, counters, failure, is_held, writer: Mutex::new(None) }, writer))
    }

    /// What the log has done since it was opened.
    pub fn stats(&self) -> LogStats {
        LogStats {
            fsyncs: self.counters.fsyncs.load(Ordering::Relaxed),
            bytes: self.counters.bytes.load(Ordering::Relaxed),
            records: self.counters.records.load(Ordering::Relaxed),
            queued_bytes: self.queue.bytes() as u64,
            moved_bytes: self.counters.moved_bytes.load(Ordering::Relaxed),
        }
    }

    /// Where entries are that follow each other, as long as they may be no more than `bytes_max` bytes, but at least one.
    fn locate(&self, group: GroupId, range: Range<u64>, bytes_max: usize) -> Vec<(Arc<Segment>, Location)> {
        let shared = self.shared.lock();
        let mut located: Vec<(Arc<Segment>, Location)> = Vec::new();
        let mut bytes = 0;
        for location in shared.index.locations(group, range) {
            bytes += format::stored_bytes(location.bytes);
            if bytes > bytes_max && !located.is_empty() {
                break;
            }
            let segment = match located.last() {
                Some((last, _)) if last.sequence == location.segment => Arc::clone(last),
                _ => match shared.segments.get(&location.segment) {
                    Some(segment) => Arc::clone(segment),
                    None => break,
                },
            };
            located.push((segment, location));
        }
        located
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

impl LogEngine for SegmentLog {
    fn submit(&self, record: LogRecord, completion: Option<Completion>) {
        if let Pushed::Refused(submission, error) = self.queue.push(Submission::new(record, completion)) {
            submission.complete(&Err(error));
        }
    }

    fn has_room(&self) -> bool {
        self.queue.has_room()
    }

    fn when_room(&self, resume: Resume) {
        self.queue.when_room(resume);
    }

    fn announce(&self, group: GroupId) {
        self.queue.announce(group);
    }

    fn recover(&self, group: GroupId) -> Result<RecoveredGroup, LogError> {
        Ok(self.shared.lock().index.recovered(group))
    }

    fn read(&self, group: GroupId, range: Range<u64>, bytes_max: usize) -> Result<Vec<Bytes>, LogError> {
        read_entries(&self.locate(group, range, bytes_max), bytes_max).map_err(log_error)
    }

    fn entries_bytes(&self, group: GroupId) -> u64 {
        self.shared.lock().index.entries_bytes(group)
    }

    fn tail_start(&self, group: GroupId, bytes_max: u64) -> Option<u64> {
        self.shared.lock().index.tail_start(group, bytes_max)
    }

    fn room(&self) -> Result<LogRoom, LogError> {
        let segments = self.segments.lock();
        Ok(LogRoom {
            free_bytes: segments.free_bytes().map_err(log_error)?,
            reserve_bytes: segments.reserve_bytes(),
            is_held: self.is_held.load(Ordering::Relaxed),
        })
    }

    fn compact(&self) -> Result<(), LogError> {
        let (_, newest) = self.segments.lock().sequences();
        loop {
            self.failure.check()?;
            // Appends come in between two steps.
            let mut segments = self.segments.lock();
            let tidied = segments.tidy(Slack::Least);
            self.counters.count_tidied(&mut segments);
            match tidied {
                // Each segment is looked at once.
                Ok(goes_on) if goes_on && segments.sequences().0 <= newest => {}
                // There will be a better time.
                Ok(_) | Err(WriteError::Exhausted(_)) => return Ok(()),
                Err(WriteError::Failed(error)) => return Err(self.failure.set(error.to_string())),
            }
        }
    }

    fn close(&self) -> Result<(), LogError> {
        self.stop_writer();
        self.failure.check()
    }
}

impl Drop for SegmentLog {
    fn drop(&mut self) {
        self.stop_writer();
    }
}

impl Counters {
    fn new() -> Counters {
        describe_metrics();
        Counters {
            fsyncs: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            records: AtomicU64::new(0),
            moved_bytes: AtomicU64::new(0),
            moved_bytes_total: metrics::counter!("everlog_log_moved_bytes_total"),
            fsyncs_total: metrics::counter!("everlog_log_fsyncs_total"),
            bytes_total: metrics::counter!("everlog_log_bytes_total"),
            records_total: metrics::counter!("everlog_log_records_total"),
            batch_records: metrics::histogram!("everlog_log_batch_records"),
            batch_bytes: metrics::histogram!("everlog_log_batch_bytes"),
        }
    }
}

/// Entries, read a stretch at a time: up to `bytes_max` bytes of them, but at least one.
fn read_entries(located: &[(Arc<Segment>, Location)], bytes_max: usize) -> io::Result<Vec<Bytes>> {
    let mut entries = Vec::with_capacity(located.len());
    let mut total = 0;
    let mut rest = located;
    while let Some((segment, first)) = rest.first() {
        let begin = u64::from(first.offset);
        let end = |location: &Location| u64::from(location.offset) + u64::from(location.bytes);
        let together = rest.iter().take_while(|(of, location)| {
            of.sequence == segment.sequence
                && location.offset >= first.offset
                && (end(location) - begin <= READ_AHEAD_BYTES || location == first)
        });
        let (stretch, behind) = rest.split_at(together.count());
        let length = stretch.iter().map(|(_, location)| end(location) - begin).max().unwrap_or(0);
        let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        segment.read(begin, &mut bytes)?;
        for (_, location) in stretch {
            let from = (location.offset - first.offset) as usize;
            let entry = entry_of(segment, &bytes[from..from + location.bytes as usize])?;
            total += entry.len();
            // The index knows only how long they are on the disk.
            if total > bytes_max && !entries.is_empty() {
                return Ok(entries);
            }
            entries.push(entry);
        }
        rest = behind;
    }
    Ok(entries)
}

fn entry_of(segment: &Segment, span: &[u8]) -> io::Result<Bytes> {
    format::read_entry(span).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, format!("{}: an entry is damaged", segment.path.display()))
    })
}

fn log_error(error: io::Error) -> LogError {
    LogError(error.to_string())
}

fn describe_metrics() {
    metrics::describe_counter!("everlog_log_fsyncs_total", "Synced writes of the Raft log.");
    metrics::describe_counter!("everlog_log_bytes_total", metrics::Unit::Bytes, "Bytes written to the Raft log.");
    metrics::describe_counter!("everlog_log_records_total", "Records submitted to the Raft log.");
    metrics::describe_counter!(
        "everlog_log_moved_bytes_total",
        metrics::Unit::Bytes,
        "Entries that were rewritten so that old files of the Raft log can go."
    );
    metrics::describe_histogram!(
        "everlog_log_move_seconds",
        metrics::Unit::Seconds,
        "How long appends may have waited while entries were rewritten."
    );
    metrics::describe_counter!(
        "everlog_log_held_total",
        "How often a write of the Raft log found no space or no descriptor, and waited."
    );
    metrics::describe_gauge!("everlog_log_segments", "Files that the Raft log consists of.");
    metrics::describe_gauge!(
        "everlog_log_entries_bytes",
        metrics::Unit::Bytes,
        "Entries of the Raft log that are not purged, when a file last came or went."
    );
    metrics::describe_histogram!("everlog_log_batch_records", "Records that shared one synced write.");
    metrics::describe_histogram!("everlog_log_batch_bytes", metrics::Unit::Bytes, "Size of one synced write.");
}
