//! The Raft log of one group, as openraft sees it: a cache of the newest entries in front of the node's shared log engine.
//!
//! Writes go to the engine in the order in which openraft makes them, and the engine makes them durable in that order. An
//! entry is readable as soon as `append` returns, from the cache; it leaves the cache only when the engine can serve it. The
//! committed log id is kept in memory and written in front of the next append: losing it costs nothing but a later replay.

mod reader;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use everlog_storage::GroupId;
use everlog_storage::log::{LogEngine, LogError, LogRecord};
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use self::reader::READ_BYTES;
use crate::encoding;
use crate::entry_cache::EntryCache;
use crate::failure::FailureReport;
use crate::progress::GroupProgress;
use crate::seed::{Seeding, greater_vote};
use crate::types::{Entry, GroupReplica, LogId, Payload, TypeConfig, Vote};

/// The log of one group. Clones share it.
#[derive(Clone)]
pub(crate) struct GroupLog(Arc<Shared>);

struct Shared {
    group: GroupId,
    engine: Arc<dyn LogEngine>,
    progress: Arc<GroupProgress>,
    failure: FailureReport,
    cache_bytes_max: usize,
    log: Mutex<Log>,
    /// The last submission that is durable.
    flushed_submission: AtomicU64,
}

/// The log as of everything that was submitted.
struct Log {
    replica: Option<GroupReplica>,
    /// What the replica was about to become when the log was opened.
    seeding: Option<Seeding>,
    vote: Option<Vote>,
    committed: Option<LogId>,
    committed_submitted: Option<LogId>,
    purged: Option<LogId>,
    /// Index of the first entry; `None` while there is none.
    first: Option<u64>,
    /// The last entry, or what was purged last.
    last: Option<LogId>,
    cache: EntryCache,
    submissions: u64,
}

impl GroupLog {
    /// Recovers the log of `group` from its engine. Reads the disk.
    pub(crate) fn recover(
        group: GroupId,
        engine: Arc<dyn LogEngine>,
        progress: Arc<GroupProgress>,
        failure: FailureReport,
        cache_bytes_max: usize,
    ) -> io::Result<GroupLog> {
        let recovered = engine.recover(group).map_err(storage_error)?;
        let purged = recovered.purged.as_deref().map(encoding::decode_log_id).transpose()?;
        let committed = recovered.committed.as_deref().map(encoding::decode_log_id).transpose()?;
        let last = match recovered.last_index {
            Some(last) => {
                let entries = engine.read(group, last..last + 1, READ_BYTES).map_err(storage_error)?;
                let bytes = entries.first().ok_or_else(|| missing(group, last))?;
                Some(encoding::decode_entry(bytes)?.log_id)
            }
            None => purged,
        };
        let replica = recovered.replica.map(|bytes| encoding::decode_replica(group, &bytes)).transpose()?;
        let (replica, seeding) = replica.map_or((None, None), |(replica, seeding)| (Some(replica), seeding));
        // A hole at the start would silently be taken for something that was purged.
        let expected = purged.map_or(0, |purged| purged.index + 1);
        if recovered.first_index.is_some_and(|first| first != expected) {
            return Err(missing(group, expected));
        }
        let log = Log {
            replica,
            seeding,
            vote: recovered.vote.as_deref().map(encoding::decode_vote).transpose()?,
            committed,
            committed_submitted: committed,
            purged,
            first: recovered.first_index,
            last,
            cache: EntryCache::default(),
            submissions: 0,
        };
        Ok(GroupLog(Arc::new(Shared {
            group,
            engine,
            progress,
            failure,
            cache_bytes_max,
            log: Mutex::new(log),
            flushed_submission: AtomicU64::new(0),
        })))
    }

    /// Which replica this is, as far as it was written down.
    pub(crate) fn replica(&self) -> Option<GroupReplica> {
        self.0.log.lock().replica
    }

    /// Writes down which replica this is.
    pub(crate) async fn save_replica(&self, replica: GroupReplica) -> io::Result<()> {
        let record = LogRecord::Replica { group: self.0.group, replica: encoding::encode_replica(&replica) };
        self.submit_durably(record).await?;
        self.0.log.lock().replica = Some(replica);
        Ok(())
    }

    /// What this replica was about to become, if that was cut off.
    pub(crate) fn seeding(&self) -> Option<Seeding> {
        self.0.log.lock().seeding
    }

    /// Writes down what this replica is about to become.
    pub(crate) async fn begin_seeding(&self, seeding: Seeding) -> io::Result<()> {
        let replica = self.known_replica()?;
        let record = LogRecord::Replica { group: self.0.group, replica: encoding::encode_seeding(&replica, &seeding) };
        self.submit_durably(record).await?;
        self.0.log.lock().seeding = Some(seeding);
        Ok(())
    }

    /// Makes the log that of a replica whose rows are at the position that it was seeded with, which must be durable.
    pub(crate) async fn end_seeding(&self, seeding: Seeding) -> io::Result<()> {
        let replica = self.known_replica()?;
        self.begin_anew(seeding, replica).await
    }

    /// Makes the log one that begins behind a position, which the rows must be at, durably, and that of this replica.
    pub(crate) async fn begin_anew(&self, seeding: Seeding, replica: GroupReplica) -> io::Result<()> {
        let group = self.0.group;
        let Seeding { position, vote } = seeding;
        let vote = greater_vote(self.vote(), vote);
        let log_id = encoding::encode_log_id(&position);
        // The last of them first becomes durable with all before it.
        self.0.engine.submit(LogRecord::Truncate { group, from: 0 }, None);
        self.0.engine.submit(LogRecord::Purge { group, upto: position.index, log_id }, None);
        self.0.engine.submit(LogRecord::Vote { group, vote: encoding::encode_vote(&vote) }, None);
        self.submit_durably(LogRecord::Replica { group, replica: encoding::encode_replica(&replica) }).await?;
        let mut log = self.0.log.lock();
        log.cache.truncate(0);
        log.replica = Some(replica);
        (log.seeding, log.vote, log.first) = (None, Some(vote), None);
        (log.purged, log.last) = (Some(position), Some(position));
        Ok(())
    }

    /// Writes down that this replica stays what it was.
    pub(crate) async fn abandon_seeding(&self) -> io::Result<()> {
        let replica = self.known_replica()?;
        self.save_replica(replica).await?;
        self.0.log.lock().seeding = None;
        Ok(())
    }

    fn known_replica(&self) -> io::Result<GroupReplica> {
        self.replica().ok_or_else(|| io::Error::other("it is not known which replica this is"))
    }

    /// Whether the entry was appended here, be it purged since.
    pub(crate) async fn contains(&self, log_id: LogId) -> io::Result<bool> {
        let index = log_id.index;
        if self.0.is_purged(index) {
            return Ok(true);
        }
        let found = self.clone().try_get_log_entries(index..index + 1).await?;
        Ok(found.first().is_some_and(|entry| entry.log_id == log_id))
    }

    /// Waits until everything that was submitted so far is durable and can be read from the engine.
    pub(crate) async fn settle(&self) -> io::Result<()> {
        match self.replica() {
            // Any record does; this one changes nothing.
            Some(replica) => self.save_replica(replica).await,
            None => Ok(()),
        }
    }

    async fn submit_durably(&self, record: LogRecord) -> io::Result<()> {
        submit_durably(record, &*self.0.engine, &self.0.failure).await
    }

    /// Whether anything was ever appended.
    pub(crate) fn has_entries(&self) -> bool {
        self.0.log.lock().last.is_some()
    }

    /// Whether the log never held anything: no vote, no entry.
    pub(crate) fn is_new(&self) -> bool {
        let log = self.0.log.lock();
        log.vote.is_none() && log.last.is_none()
    }

    /// Says that a proposal is on its way to [`RaftLogStorage::append`].
    pub(crate) fn announce_append(&self) {
        self.0.engine.announce(self.0.group);
    }

    pub(crate) fn vote(&self) -> Option<Vote> {
        self.0.log.lock().vote
    }

    /// The last purged log id.
    pub(crate) fn purged(&self) -> Option<LogId> {
        self.0.log.lock().purged
    }
}

/// Removes the log of a group that is not open, durably.
pub(crate) async fn destroy(group: GroupId, engine: &dyn LogEngine, failure: &FailureReport) -> io::Result<()> {
    submit_durably(LogRecord::Destroy { group }, engine, failure).await
}

/// Submits a record, and waits until it is durable. A log that fails has failed for good.
async fn submit_durably(record: LogRecord, engine: &dyn LogEngine, failure: &FailureReport) -> io::Result<()> {
    let (sender, durable) = oneshot::channel();
    // Nobody waits any more only if the group is being shut down.
    engine.submit(record, Some(Box::new(move |result| drop(sender.send(result)))));
    let dropped = |_| LogError("the completion of a record was dropped".to_string());
    durable.await.map_err(dropped).flatten().map_err(|error| {
        failure.report(&error);
        storage_error(error)
    })
}

impl Shared {
    fn is_purged(&self, index: u64) -> bool {
        self.log.lock().purged.is_some_and(|purged| purged.index >= index)
    }

    fn storage_failed(&self, error: LogError) -> io::Error {
        self.failure.report(&error);
        storage_error(error)
    }
}

impl RaftLogStorage<TypeConfig> for GroupLog {
    type LogReader = GroupLog;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let log = self.0.log.lock();
        Ok(LogState { last_purged_log_id: log.purged, last_log_id: log.last })
    }

    async fn get_log_reader(&mut self) -> GroupLog {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        self.submit_durably(LogRecord::Vote { group: self.0.group, vote: encoding::encode_vote(vote) }).await?;
        self.0.log.lock().vote = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        self.0.log.lock().committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.0.log.lock().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        let shared = &self.0;
        if !shared.engine.has_room() {
            let (sender, room) = oneshot::channel();
            shared.engine.when_room(Box::new(move || {
                let _ = sender.send(());
            }));
            // A log that is gone says so when the entries are submitted.
            let _ = room.await;
        }
        let mut encoded = Vec::new();
        let mut first_index = None;
        let (submission, committed) = {
            let mut log = shared.log.lock();
            log.submissions += 1;
            let submission = log.submissions;
            for entry in entries {
                let index = entry.log_id.index;
                if let (Some(_), Some(last)) = (log.first, log.last)
                    && last.index + 1 != index
                {
                    return Err(missing(shared.group, last.index + 1));
                }
                log.first.get_or_insert(index);
                if let Payload::Membership(membership) = &entry.payload {
                    shared.progress.membership_appended(index, membership);
                }
                first_index.get_or_insert(index);
                let (entry, bytes) = encoding::encode_entry(entry);
                encoded.push(bytes);
                log.last = Some(entry.log_id);
                log.cache.push(entry, submission);
            }
            let flushed = shared.flushed_submission.load(Ordering::Acquire);
            // Without other replicas nobody reads what is applied.
            let bytes_max = if shared.progress.is_sole_voter() { 0 } else { shared.cache_bytes_max };
            log.cache.evict(bytes_max, flushed, shared.progress.applied_index());
            let committed = log.committed.filter(|committed| log.committed_submitted.as_ref() != Some(committed));
            log.committed_submitted = log.committed;
            (submission, committed)
        };
        let Some(first_index) = first_index else {
            callback.io_completed(Ok(()));
            return Ok(());
        };
        if let Some(committed) = committed {
            let log_id = encoding::encode_log_id(&committed);
            shared.engine.submit(LogRecord::Committed { group: shared.group, log_id }, None);
        }
        let flushed = {
            let shared = shared.clone();
            move |result: Result<(), LogError>| match result {
                Ok(()) => {
                    shared.flushed_submission.fetch_max(submission, Ordering::AcqRel);
                    callback.io_completed(Ok(()));
                }
                Err(error) => callback.io_completed(Err(shared.storage_failed(error))),
            }
        };
        shared
            .engine
            .submit(LogRecord::Append { group: shared.group, first_index, entries: encoded }, Some(Box::new(flushed)));
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> io::Result<()> {
        let from = last_log_id.map_or(0, |last| last.index + 1);
        {
            let mut log = self.0.log.lock();
            log.cache.truncate(from);
            log.first = log.first.filter(|first| *first < from);
            if log.last > last_log_id {
                log.last = last_log_id.max(log.purged);
            }
        }
        self.0.engine.submit(LogRecord::Truncate { group: self.0.group, from }, None);
        Ok(())
    }

    async fn purge(&mut self, log_id: LogId) -> io::Result<()> {
        // The one rule that keeps rows without a write-ahead log safe: what a crash may roll back must still be in the log.
        let durable = self.0.progress.durable_index();
        if durable.is_none_or(|durable| log_id.index > durable) {
            let message =
                format!("group {}: purge up to {log_id} refused, rows are durable up to {durable:?}", self.0.group);
            return Err(io::Error::other(message));
        }
        {
            let mut log = self.0.log.lock();
            log.cache.purge(log_id.index);
            log.purged = log.purged.max(Some(log_id));
            log.last = log.last.max(Some(log_id));
            let kept = log.last > Some(log_id);
            log.first = log.first.map(|first| first.max(log_id.index + 1)).filter(|_| kept);
        }
        let record =
            LogRecord::Purge { group: self.0.group, upto: log_id.index, log_id: encoding::encode_log_id(&log_id) };
        self.0.engine.submit(record, None);
        Ok(())
    }
}

fn missing(group: GroupId, index: u64) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the log of group {group} has no entry {index}"))
}

fn storage_error(error: LogError) -> io::Error {
    io::Error::other(error)
}

#[cfg(test)]
mod tests {
    use everlog_storage::state::RowBatch;
    use everlog_storage::twin::CrashLog;

    use super::*;
    use crate::chain::EntryStamp;
    use crate::entry_cache::payload_bytes;
    use crate::rows::EncodedRows;
    use crate::types::log_id;

    const ENTRY_BYTES: usize = 300 << 10;

    fn entry(index: u64) -> Entry {
        let mut batch = RowBatch::new();
        batch.put(&b"key"[..], vec![index as u8; ENTRY_BYTES]);
        let rows = EncodedRows::encode(EntryStamp::default(), &batch, batch.encoded_len());
        Entry { log_id: log_id(1, index), payload: Payload::Normal(rows) }
    }

    #[test]
    fn a_hole_at_the_start_is_not_taken_for_a_purge() {
        const GROUP: GroupId = GroupId(1);
        let (_, bytes) = encoding::encode_entry(entry(7));
        let append = LogRecord::Append { group: GROUP, first_index: 7, entries: vec![bytes] };
        for (purged, hole) in [(None, Some(0)), (Some(4), Some(5)), (Some(6), None)] {
            let engine: Arc<dyn LogEngine> = Arc::new(CrashLog::new(1));
            if let Some(upto) = purged {
                let log_id = encoding::encode_log_id(&log_id(1, upto));
                engine.submit(LogRecord::Purge { group: GROUP, upto, log_id }, None);
            }
            engine.submit(append.clone(), None);
            let progress = Arc::new(GroupProgress::new(1, None));
            let recovered = GroupLog::recover(GROUP, engine, progress, FailureReport::new(), 0);
            let error = recovered.err().map(|error| error.to_string());
            assert_eq!(error, hole.map(|index| format!("the log of group 1 has no entry {index}")));
        }
    }

    /// Whether entries come from the cache, from the engine, or from both: no more than a message should hold, and no hole.
    #[tokio::test]
    async fn reads_for_a_follower_are_bounded_in_bytes() {
        for cached in [0, 4, 20] {
            let engine: Arc<dyn LogEngine> = Arc::new(CrashLog::new(1));
            let progress = Arc::new(GroupProgress::new(1, None));
            progress.set_applied(crate::progress::AppliedPosition::new(log_id(1, 19), Default::default()));
            let cache_bytes_max = cached * (ENTRY_BYTES + 200);
            let mut log =
                GroupLog::recover(GroupId(1), engine, progress, FailureReport::new(), cache_bytes_max).unwrap();
            for index in 0..20 {
                log.append([entry(index)], IOFlushed::noop()).await.unwrap();
            }
            for start in 0..20 {
                let read = log.limited_get_log_entries(start, 20).await.unwrap();
                let indexes: Vec<u64> = read.iter().map(|entry| entry.log_id.index).collect();
                assert_eq!(indexes, (start..start + indexes.len() as u64).collect::<Vec<_>>(), "{cached} cached");
                let bytes: usize = read.iter().map(payload_bytes).sum();
                assert!(!read.is_empty() && bytes <= READ_BYTES, "{cached} cached, from {start}: {bytes} bytes");
            }
            assert_eq!(log.try_get_log_entries(0..20).await.unwrap().len(), 20, "{cached} cached");
        }
    }
}
