//! The Raft log that can crash.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use bytes::Bytes;
use parking_lot::Mutex;

use super::random_upto;
use crate::GroupId;
use crate::log::{Completion, LogEngine, LogError, LogRecord, LogStats, RecoveredGroup};

/// A [`LogEngine`] in memory. Unless told otherwise, a record is synced by the call that submits it, and its completion runs there.
pub struct CrashLog {
    inner: Mutex<Inner>,
}

type Submission = (LogRecord, Option<Completion>);

#[derive(Default)]
struct Inner {
    durable: BTreeMap<GroupId, GroupLog>,
    /// Submitted but not synced, in order.
    waiting: VecDeque<Submission>,
    /// Syncs are held back.
    held: bool,
    /// The next sync fails.
    sync_fails: bool,
    /// Why nothing is accepted any more.
    stopped: Option<LogError>,
    /// Some thread is completing records; it will see to those that others submit meanwhile. Keeps completions in order, also when
    /// one of them submits.
    completing: bool,
    stats: LogStats,
    seed: u64,
}

/// What a log holds of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct GroupLog {
    pub(crate) replica: Option<Bytes>,
    pub(crate) vote: Option<Bytes>,
    pub(crate) committed: Option<Bytes>,
    pub(crate) purged: Option<(u64, Bytes)>,
    pub(crate) entries: BTreeMap<u64, Bytes>,
}

impl CrashLog {
    /// An empty log. `seed` decides what crashes leave of unsynced records.
    pub fn new(seed: u64) -> CrashLog {
        CrashLog::with(BTreeMap::new(), seed)
    }

    fn with(durable: BTreeMap<GroupId, GroupLog>, seed: u64) -> CrashLog {
        CrashLog { inner: Mutex::new(Inner { durable, seed, ..Inner::default() }) }
    }

    /// Pulls the plug, and returns the log as a restarted node finds it: everything that was durable, and as many of the records
    /// after that, in order, as the seed says. This log answers with errors from here on.
    pub fn crash(&self) -> CrashLog {
        let kept = {
            let mut inner = self.inner.lock();
            let waiting = inner.waiting.len();
            random_upto(&mut inner.seed, waiting)
        };
        self.crash_keeping(kept)
    }

    /// [`CrashLog::crash`] that keeps exactly the first `kept` unsynced records (or all, if there are fewer).
    pub fn crash_keeping(&self, kept: usize) -> CrashLog {
        let (log, lost) = {
            let mut inner = self.inner.lock();
            let lost = std::mem::take(&mut inner.waiting);
            let mut durable = inner.durable.clone();
            for (record, _) in lost.iter().take(kept) {
                apply(&mut durable, record);
            }
            inner.stopped = Some(LogError("crashed".to_owned()));
            (CrashLog::with(durable, inner.seed), lost)
        };
        complete(lost, &Err(LogError("crashed".to_owned())));
        log
    }

    /// Holds back all syncs until [`CrashLog::release_sync`].
    pub fn hold_sync(&self) {
        self.inner.lock().held = true;
    }

    /// Ends [`CrashLog::hold_sync`]: all that waited is synced at once.
    pub fn release_sync(&self) {
        self.inner.lock().held = false;
        self.sync(false);
    }

    /// Makes the next sync fail, and with it the log.
    pub fn fail_sync(&self) {
        self.inner.lock().sync_fails = true;
    }

    /// Number of records that a crash could lose.
    pub fn unsynced(&self) -> usize {
        self.inner.lock().waiting.len()
    }

    /// What the log has done since it was made.
    pub fn stats(&self) -> LogStats {
        let inner = self.inner.lock();
        let queued = inner.waiting.iter().map(|(record, _)| size(record));
        LogStats { queued_bytes: queued.sum(), ..inner.stats }
    }

    /// Syncs what is waiting, again and again while completions submit more. `all` includes records that would wait for others.
    fn sync(&self, all: bool) {
        {
            let mut inner = self.inner.lock();
            if inner.completing {
                return;
            }
            inner.completing = true;
        }
        loop {
            let (records, result) = {
                let mut inner = self.inner.lock();
                let is_due = all || inner.waiting.iter().any(must_sync);
                let is_possible = !inner.held || inner.stopped.is_some();
                if !is_due || !is_possible || inner.waiting.is_empty() {
                    inner.completing = false;
                    return;
                }
                inner.sync()
            };
            complete(records, &result);
        }
    }
}

impl Inner {
    /// One fsync. Returns whom to tell about it.
    fn sync(&mut self) -> (VecDeque<Submission>, Result<(), LogError>) {
        if self.sync_fails && self.stopped.is_none() {
            self.stopped = Some(LogError("injected fsync failure".to_owned()));
        }
        let records = std::mem::take(&mut self.waiting);
        if let Some(error) = &self.stopped {
            return (records, Err(error.clone()));
        }
        for (record, _) in &records {
            apply(&mut self.durable, record);
            self.stats.bytes += size(record);
        }
        self.stats.records += records.len() as u64;
        self.stats.fsyncs += 1;
        (records, Ok(()))
    }
}

impl LogEngine for CrashLog {
    fn submit(&self, record: LogRecord, completion: Option<Completion>) {
        {
            let mut inner = self.inner.lock();
            inner.waiting.push_back((record, completion));
        }
        self.sync(false);
    }

    fn recover(&self, group: GroupId) -> Result<RecoveredGroup, LogError> {
        let inner = self.inner.lock();
        let Some(log) = inner.durable.get(&group) else {
            return Ok(RecoveredGroup::default());
        };
        Ok(RecoveredGroup {
            replica: log.replica.clone(),
            vote: log.vote.clone(),
            committed: log.committed.clone(),
            purged: log.purged.as_ref().map(|(_, log_id)| log_id.clone()),
            first_index: log.entries.keys().next().copied(),
            last_index: log.entries.keys().next_back().copied(),
        })
    }

    fn read(&self, group: GroupId, range: Range<u64>, bytes_max: usize) -> Result<Vec<Bytes>, LogError> {
        let inner = self.inner.lock();
        let Some(log) = inner.durable.get(&group) else {
            return Ok(Vec::new());
        };
        let mut entries: Vec<Bytes> = Vec::new();
        let mut bytes = 0;
        for index in range {
            let Some(entry) = log.entries.get(&index) else {
                break;
            };
            bytes += entry.len();
            if !entries.is_empty() && bytes > bytes_max {
                break;
            }
            entries.push(entry.clone());
        }
        Ok(entries)
    }

    fn entries_bytes(&self, group: GroupId) -> u64 {
        let inner = self.inner.lock();
        let entries = inner.durable.get(&group).into_iter().flat_map(|log| log.entries.values());
        entries.map(|entry| entry.len() as u64).sum()
    }

    fn tail_start(&self, group: GroupId, bytes_max: u64) -> Option<u64> {
        let inner = self.inner.lock();
        let entries = &inner.durable.get(&group)?.entries;
        let behind = entries.keys().next_back()? + 1;
        let mut bytes = 0;
        let tail = entries.iter().rev().take_while(|(_, entry)| {
            bytes += entry.len() as u64;
            bytes <= bytes_max
        });
        Some(tail.last().map_or(behind, |(index, _)| *index))
    }

    fn compact(&self) -> Result<(), LogError> {
        // Purged entries take nothing here.
        Ok(())
    }

    fn close(&self) -> Result<(), LogError> {
        self.inner.lock().held = false;
        self.sync(true);
        let mut inner = self.inner.lock();
        let closed = LogError("closed".to_owned());
        match inner.stopped.replace(closed.clone()) {
            Some(error) if error.0 != closed.0 => {
                inner.stopped = Some(error.clone());
                Err(error)
            }
            _ => Ok(()),
        }
    }
}

fn must_sync((record, completion): &Submission) -> bool {
    completion.is_some() || !matches!(record, LogRecord::Committed { .. })
}

fn complete(records: VecDeque<Submission>, result: &Result<(), LogError>) {
    for (_, completion) in records {
        if let Some(completion) = completion {
            completion(result.clone());
        }
    }
}

fn size(record: &LogRecord) -> u64 {
    let bytes = match record {
        LogRecord::Append { entries, .. } => entries.iter().map(Bytes::len).sum(),
        LogRecord::Vote { vote, .. } => vote.len(),
        LogRecord::Replica { replica, .. } => replica.len(),
        LogRecord::Committed { log_id, .. } | LogRecord::Purge { log_id, .. } => log_id.len(),
        LogRecord::Truncate { .. } | LogRecord::Destroy { .. } => 0,
    };
    bytes as u64
}

/// Does to all groups what a record says.
pub(crate) fn apply(groups: &mut BTreeMap<GroupId, GroupLog>, record: &LogRecord) {
    match record {
        LogRecord::Append { group, first_index, entries } => {
            let log = groups.entry(*group).or_default();
            log.entries.extend((*first_index..).zip(entries.iter().cloned()));
        }
        LogRecord::Truncate { group, from } => {
            groups.entry(*group).or_default().entries.split_off(from);
        }
        LogRecord::Purge { group, upto, log_id } => {
            let log = groups.entry(*group).or_default();
            if log.purged.as_ref().is_none_or(|(purged, _)| purged <= upto) {
                log.entries.retain(|index, _| index > upto);
                log.purged = Some((*upto, log_id.clone()));
            }
        }
        LogRecord::Vote { group, vote } => {
            groups.entry(*group).or_default().vote = Some(vote.clone());
        }
        LogRecord::Replica { group, replica } => {
            groups.entry(*group).or_default().replica = Some(replica.clone());
        }
        LogRecord::Committed { group, log_id } => {
            groups.entry(*group).or_default().committed = Some(log_id.clone());
        }
        LogRecord::Destroy { group } => {
            groups.remove(group);
        }
    }
}
