//! The disks: twins that lose what was not synced, with syncs that take their time.

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use everlog_random::Random;
use everlog_storage::GroupId;
use everlog_storage::directory::Founding;
use everlog_storage::log::{Completion, LogEngine, LogError, LogRecord, RecoveredGroup};
use everlog_storage::twin::{CrashLog, CrashState};

use super::{Sabotage, system};

thread_local! {
    static RANDOM: RefCell<Random> = RefCell::new(Random::new(0));
    /// What a sync takes at most at each node, milliseconds.
    static SYNC_MS_MAX: [Cell<u64>; 8] = const { [const { Cell::new(SYNC_MS) }; 8] };
    /// How often each node has written down how it votes.
    static VOTES: [Cell<u64>; 8] = const { [const { Cell::new(0) }; 8] };
}

/// What a sync takes at most, milliseconds.
const SYNC_MS: u64 = 3;

/// Begins with new disks.
pub(super) fn begin(seed: u64) {
    RANDOM.set(Random::new(seed));
}

/// From now on a sync at a node takes so long at most; as long as usual, if nothing is said.
pub(super) fn slow_down(node: usize, sync_ms_max: Option<u64>) {
    SYNC_MS_MAX.with(|max| max[node].set(sync_ms_max.unwrap_or(SYNC_MS)));
}

/// How often a node has written down how it votes, durably or not.
pub(super) fn votes(node: usize) -> u64 {
    VOTES.with(|votes| votes[node].get())
}

fn delay(from_ms: u64) -> Duration {
    let max = SYNC_MS_MAX.with(|max| max[system::node()].get());
    let micros = RANDOM.with_borrow_mut(|random| random.below_u64(1000 * max.max(1)));
    Duration::from_micros(1000 * from_ms + micros)
}

/// What work takes that may block on the disk of the node whose task does it.
pub(super) fn blocking_delay() -> Duration {
    delay(0)
}

/// What outlives a process.
#[derive(Clone)]
pub(super) struct Disk {
    pub(super) log: Arc<CrashLog>,
    pub(super) state: Arc<CrashState>,
    /// Of each new disk another one.
    pub(super) directory_id: uuid::Uuid,
    /// The cluster, once it is founded with this disk, or has a place for it.
    pub(super) founding: Option<Founding>,
    /// How often a process was started with it.
    pub(super) starts: u32,
    /// Whether the groups that a cluster begins with are all there. Of the process that runs; what is left of an earlier one has another.
    pub(super) is_bootstrapped: Arc<AtomicBool>,
}

impl Disk {
    pub(super) fn new() -> Disk {
        let seed = RANDOM.with_borrow_mut(Random::any);
        let (log, state) = (Arc::new(CrashLog::new(seed)), Arc::new(CrashState::new(seed)));
        let directory_id = uuid::Uuid::from_u64_pair(seed, RANDOM.with_borrow_mut(Random::any));
        Disk { log, state, directory_id, founding: None, starts: 0, is_bootstrapped: Arc::default() }
    }

    /// Pulls the plug: of what was not synced, as much is there as the seed says.
    pub(super) fn crash(&mut self) {
        self.log = Arc::new(self.log.crash());
        self.state = Arc::new(self.state.crash_anywhere());
        self.is_bootstrapped = Arc::new(AtomicBool::new(self.is_bootstrapped.load(Ordering::Relaxed)));
    }
}

/// The log of a process: what is submitted while a sync goes on is synced with the next one.
pub(super) struct SlowLog(Arc<Shared>);

struct Shared {
    log: Arc<CrashLog>,
    is_syncing: AtomicBool,
    sabotage: Option<Sabotage>,
}

impl SlowLog {
    pub(super) fn new(log: Arc<CrashLog>, sabotage: Option<Sabotage>) -> SlowLog {
        log.hold_sync();
        SlowLog(Arc::new(Shared { log, is_syncing: AtomicBool::new(false), sabotage }))
    }

    /// What may be told before it is so.
    fn is_told_early(&self, record: &LogRecord) -> bool {
        match record {
            LogRecord::Append { .. } => self.0.sabotage == Some(Sabotage::AppendNotDurable),
            LogRecord::Vote { .. } => self.0.sabotage == Some(Sabotage::VoteNotDurable),
            _ => false,
        }
    }
}

impl LogEngine for SlowLog {
    fn submit(&self, record: LogRecord, completion: Option<Completion>) {
        if matches!(record, LogRecord::Vote { .. }) {
            VOTES.with(|votes| votes[system::node()].set(votes[system::node()].get() + 1));
        }
        let is_told_early = self.is_told_early(&record);
        let (early, late) = if is_told_early { (completion, None) } else { (None, completion) };
        self.0.log.submit(record, late);
        if let Some(early) = early {
            early(Ok(()));
        }
        if self.0.is_syncing.swap(true, Ordering::Relaxed) {
            return;
        }
        let shared = Arc::clone(&self.0);
        let takes = delay(u64::from(is_told_early) * 20);
        tokio::spawn(async move {
            tokio::time::sleep(takes).await;
            shared.is_syncing.store(false, Ordering::Relaxed);
            shared.log.release_sync();
            shared.log.hold_sync();
        });
    }

    fn recover(&self, group: GroupId) -> Result<RecoveredGroup, LogError> {
        self.0.log.recover(group)
    }

    fn read(&self, group: GroupId, range: Range<u64>, bytes_max: usize) -> Result<Vec<Bytes>, LogError> {
        self.0.log.read(group, range, bytes_max)
    }

    fn entries_bytes(&self, group: GroupId) -> u64 {
        self.0.log.entries_bytes(group)
    }

    fn tail_start(&self, group: GroupId, bytes_max: u64) -> Option<u64> {
        self.0.log.tail_start(group, bytes_max)
    }

    fn compact(&self) -> Result<(), LogError> {
        self.0.log.compact()
    }

    fn close(&self) -> Result<(), LogError> {
        self.0.log.close()
    }
}
