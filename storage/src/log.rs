//! The contract of the shared Raft log: what is handed in, in which order it becomes durable, and what comes back.

use std::ops::Range;

use bytes::Bytes;

use crate::GroupId;

/// Called exactly once: when the record it was submitted with, and every record submitted before that one, is durable, or with the error
/// that stopped the log. Runs on the writer thread: it must not block. After `close` it may run on the submitting thread.
pub type Completion = Box<dyn FnOnce(Result<(), LogError>) + Send>;

/// Called once when there is room in the log's queue. May run on the writer thread: it must not block.
pub type Resume = Box<dyn FnOnce() + Send>;

/// The Raft log of every group on a node.
///
/// Records become durable in the order in which they were submitted, across all groups, and completions run in that order.
/// A record may be read back through [`LogEngine::read`] or [`LogEngine::recover`] as soon as its completion has run; until
/// then the caller serves it from its own cache. A log whose disk has failed once stays failed: a failed fsync is never
/// retried. Running out of space or descriptors is no failure: what was submitted waits until there is room ([`LogEngine::room`]), or until
/// the log is closed. A caller that would rather refuse work than wait checks the room before it proposes.
pub trait LogEngine: Send + Sync + 'static {
    /// Queues a record. Never blocks and never fails by itself; `completion` hears of failures. Before an append, ask
    /// [`LogEngine::has_room`] and wait if there is none: the log takes the record in any case, and keeps it in memory.
    fn submit(&self, record: LogRecord, completion: Option<Completion>);

    /// Whether what waits for the disk is within its bound. Costs next to nothing.
    fn has_room(&self) -> bool {
        true
    }

    /// Calls `resume` once there is room, or at once if there is or if the log has stopped.
    fn when_room(&self, resume: Resume) {
        resume();
    }

    /// Says that an append of `group` is on its way. A write that would begin meanwhile may wait a moment, so that it is synced together
    /// with what is waiting already. Nothing depends on it: an append may come without it, and need not come after it.
    fn announce(&self, _group: GroupId) {}

    /// What the log holds for `group` after a start: vote, committed, purge point and the range of entries.
    fn recover(&self, group: GroupId) -> Result<RecoveredGroup, LogError>;

    /// The entries of `group` with indexes in `range`, in order and without gaps, at most `bytes_max` bytes of them but at
    /// least one. Indexes that are purged or not there end the answer early.
    fn read(&self, group: GroupId, range: Range<u64>, bytes_max: usize) -> Result<Vec<Bytes>, LogError>;

    /// Bytes that the entries of `group` take. Told from memory.
    fn entries_bytes(&self, group: GroupId) -> u64;

    /// Where the entries of `group` begin that together take no more than `bytes_max` at the end of its log; behind the last one if not even
    /// that fits. `None` if there are no entries. Told from memory.
    fn tail_start(&self, group: GroupId, bytes_max: u64) -> Option<u64>;

    /// Gives back the memory and disk that purged entries still take, if that is worth the writing. Nothing changes that a caller
    /// could read. Blocks on the disk.
    fn compact(&self) -> Result<(), LogError>;

    /// How much can be written. Asks the file system: not for every append.
    fn room(&self) -> Result<LogRoom, LogError> {
        Ok(LogRoom { free_bytes: u64::MAX, reserve_bytes: u64::MAX, is_held: false })
    }

    /// Waits until everything submitted so far is durable, then stops the writer. Later submissions fail.
    fn close(&self) -> Result<(), LogError>;
}

/// One change to the log of one group. Entries, votes and log ids are opaque bytes of the raft crate.
#[derive(Clone, Debug)]
pub enum LogRecord {
    /// Entries with contiguous indexes from `first_index` on.
    Append {
        /// The group they belong to.
        group: GroupId,
        /// Index of `entries[0]`.
        first_index: u64,
        /// The encoded entries.
        entries: Vec<Bytes>,
    },
    /// Removes the entries with an index of `from` and above.
    Truncate {
        /// The group.
        group: GroupId,
        /// First index to go.
        from: u64,
    },
    /// Removes the entries up to and including `upto`, and remembers `log_id` as the last purged one.
    Purge {
        /// The group.
        group: GroupId,
        /// Last index to go.
        upto: u64,
        /// Encoded log id of `upto`.
        log_id: Bytes,
    },
    /// The group's vote. It must not be sent before this record's completion has run.
    Vote {
        /// The group.
        group: GroupId,
        /// Encoded vote.
        vote: Bytes,
    },
    /// The group's committed log id. Lazy: never forces an fsync of its own, it rides on the next record that does.
    Committed {
        /// The group.
        group: GroupId,
        /// Encoded log id.
        log_id: Bytes,
    },
    /// Which replica of the group this is. Whoever creates the group awaits this record's completion before anything else.
    Replica {
        /// The group.
        group: GroupId,
        /// Encoded replica.
        replica: Bytes,
    },
    /// Removes everything the log holds for the group.
    Destroy {
        /// The group.
        group: GroupId,
    },
}

impl LogRecord {
    /// The group that it belongs to.
    pub fn group(&self) -> GroupId {
        match self {
            LogRecord::Append { group, .. }
            | LogRecord::Truncate { group, .. }
            | LogRecord::Purge { group, .. }
            | LogRecord::Vote { group, .. }
            | LogRecord::Replica { group, .. }
            | LogRecord::Committed { group, .. }
            | LogRecord::Destroy { group } => *group,
        }
    }
}

/// What a group finds in the log after a start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveredGroup {
    /// Encoded replica.
    pub replica: Option<Bytes>,
    /// Encoded vote.
    pub vote: Option<Bytes>,
    /// Encoded committed log id; may lag behind what was committed.
    pub committed: Option<Bytes>,
    /// Encoded log id of the last purged entry.
    pub purged: Option<Bytes>,
    /// Index of the first entry still there.
    pub first_index: Option<u64>,
    /// Index of the last entry.
    pub last_index: Option<u64>,
}

/// What a log has done since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogStats {
    /// Synced writes.
    pub fsyncs: u64,
    /// Bytes handed to those writes.
    pub bytes: u64,
    /// Records taken from the queue.
    pub records: u64,
    /// Bytes waiting for the disk at this moment.
    pub queued_bytes: u64,
    /// Bytes of old entries that were rewritten.
    pub moved_bytes: u64,
}

/// How much can be written to a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogRoom {
    /// Bytes that the log's file system has left.
    pub free_bytes: u64,
    /// Bytes that the log can write although nothing is left.
    pub reserve_bytes: u64,
    /// An append waits for space or for a descriptor right now.
    pub is_held: bool,
}

/// The log is unusable from here on; the node must stop.
#[derive(Clone, Debug, thiserror::Error)]
#[error("raft log: {0}")]
pub struct LogError(pub String);
