//! Decides when applied rows are flushed to disk, and purges each group's log behind them.
//!
//! ```text
//!   read what each group has applied ──▶ flush the state engine ──▶ that is durable now ──▶ purge the log up to it
//! ```
//!
//! The order is the point: a position becomes durable only after a flush that began once it was applied, and an entry leaves
//! the log only once its rows are durable.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use everlog_storage::log::LogEngine;
use everlog_storage::state::StateEngine;
use tokio::sync::{Notify, watch};

use crate::failure::FailureReport;
use crate::group::Group;
use crate::node::NodeError;
use crate::options::NodeOptions;
use crate::progress::GroupProgress;

/// How long a purge waits for openraft to take note of the durable position; it tries again at the next flush.
const SNAPSHOT_POSITION_TIMEOUT: Duration = Duration::from_secs(10);

/// Counts what is applied and wakes the flusher when it is enough. One per node.
pub(crate) struct FlushTrigger {
    bytes_max: u64,
    entries_max: u64,
    bytes: AtomicU64,
    entries: AtomicU64,
    wanted: Notify,
}

impl FlushTrigger {
    pub(crate) fn new(options: &NodeOptions) -> FlushTrigger {
        FlushTrigger {
            bytes_max: options.flush_bytes,
            entries_max: options.flush_entries,
            bytes: AtomicU64::new(0),
            entries: AtomicU64::new(0),
            wanted: Notify::new(),
        }
    }

    /// To be called after each write to the state engine, with the bytes that went into it.
    pub(crate) fn applied(&self, progress: &GroupProgress, bytes: u64) {
        self.entries.fetch_add(1, Ordering::Relaxed);
        let since_flush = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let undurable = progress.applied_index().saturating_sub(progress.durable_index().unwrap_or(0));
        if since_flush >= self.bytes_max || undurable >= self.entries_max {
            self.wanted.notify_one();
        }
    }

    fn is_dirty(&self) -> bool {
        self.entries.load(Ordering::Relaxed) > 0
    }

    fn reset(&self) {
        self.bytes.store(0, Ordering::Relaxed);
        self.entries.store(0, Ordering::Relaxed);
    }
}

/// Flushes the rows of all groups of a node and purges their logs.
pub(crate) struct Flusher {
    pub(crate) engine: Arc<dyn StateEngine>,
    pub(crate) log: Arc<dyn LogEngine>,
    pub(crate) trigger: Arc<FlushTrigger>,
    pub(crate) failure: FailureReport,
    pub(crate) options: NodeOptions,
    /// One flush at a time.
    pub(crate) turn: tokio::sync::Mutex<()>,
}

impl Flusher {
    /// Flushes whenever the trigger asks for it, and at least every flush interval while there is something to flush. When an
    /// interval passes without being asked, there is little to do, and the log too gives back what it does not need.
    pub(crate) async fn run(&self, groups: impl Fn() -> Vec<Group>, mut stop: watch::Receiver<bool>) {
        loop {
            let quiet = tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                () = self.trigger.wanted.notified() => false,
                () = tokio::time::sleep(self.options.flush_interval) => true,
            };
            if self.trigger.is_dirty() && self.flush_and_purge(&groups()).await.is_err() {
                return;
            }
            if quiet && self.compact_log().await.is_err() {
                return;
            }
        }
    }

    async fn compact_log(&self) -> Result<(), NodeError> {
        let log = self.log.clone();
        self.blocking("compacting the log", move || log.compact()).await
    }

    /// Does `work` on a thread for blocking work. When it fails, the node has failed.
    async fn blocking<E: std::fmt::Display + Send + 'static>(
        &self,
        what: &str,
        work: impl FnOnce() -> Result<(), E> + Send + 'static,
    ) -> Result<(), NodeError> {
        self.outcome(what, everlog_storage::blocking::spawn(work).await)
    }

    fn outcome<E: std::fmt::Display>(
        &self,
        what: &str,
        done: Result<Result<(), E>, tokio::task::JoinError>,
    ) -> Result<(), NodeError> {
        let done = done.map_err(|error| error.to_string()).and_then(|done| done.map_err(|error| error.to_string()));
        done.map_err(|error| {
            self.failure.report(&error);
            NodeError(format!("{what}: {error}"))
        })
    }

    /// One flush, and the purges that it allows.
    pub(crate) async fn flush_and_purge(&self, groups: &[Group]) -> Result<(), NodeError> {
        let _turn = self.turn.lock().await;
        self.flush(groups).await?;
        let bytes = |group: &Group| self.log.entries_bytes(group.id());
        let kept = share_of_each(groups.iter().map(bytes).collect(), self.options.log_tail_bytes);
        let kept = kept.max(self.options.log_tail_bytes_min);
        for group in groups {
            // A little more is not worth a purge.
            if bytes(group) > kept.saturating_add(kept / 8) {
                self.purge(group, kept).await;
            }
        }
        Ok(())
    }

    /// One flush. Records what it made durable.
    async fn flush(&self, groups: &[Group]) -> Result<(), NodeError> {
        let applied: Vec<_> = groups.iter().map(|group| (group, group.progress().applied())).collect();
        self.trigger.reset();
        let started = std::time::Instant::now();
        self.flush_rows().await?;
        metrics::histogram!("everlog_raft_flush_seconds").record(started.elapsed());
        for (group, position) in applied {
            if let Some(position) = position {
                group.progress().set_durable(position);
            }
        }
        Ok(())
    }

    /// Makes durable what is in the state engine, and waits for room on the disk to do so.
    pub(crate) async fn flush_rows(&self) -> Result<(), NodeError> {
        loop {
            let engine = self.engine.clone();
            match everlog_storage::blocking::spawn(move || engine.flush()).await {
                Ok(Err(error)) if self.failure.waits_for_room(&error).await => {}
                flushed => {
                    self.outcome("flush", flushed)?;
                    self.failure.has_room();
                    return Ok(());
                }
            }
        }
    }

    /// Purges the log of `group` but for the last `kept` bytes, what is not durable, and what is pinned.
    async fn purge(&self, group: &Group, kept: u64) {
        let Some(durable) = group.progress().durable() else { return };
        let Some(tail_start) = self.log.tail_start(group.id(), kept) else { return };
        let first_kept = tail_start.min(durable.log_id.index + 1).min(group.pins().first());
        let Some(upto) = first_kept.checked_sub(1) else { return };
        if group.log().purged().is_some_and(|purged| upto <= purged.index) {
            return;
        }
        // openraft purges only what a snapshot holds, so the durable position becomes a snapshot first. Purging less than it
        // says is always fine, and a group that is shutting down needs no purge.
        let raft = group.raft();
        let mut snapshots = raft.watch_snapshot_progress();
        if snapshots.get() < Some(durable.log_id) {
            if raft.trigger().snapshot().await.is_err() {
                return;
            }
            let target = Some(durable.log_id);
            let known = snapshots.wait_until_ge(&target);
            if tokio::time::timeout(SNAPSHOT_POSITION_TIMEOUT, known).await.is_err() {
                tracing::warn!(group = %group.id(), "raft did not take note of the durable position, the log is not purged");
                return;
            }
        }
        if raft.trigger().purge_log(upto).await.is_ok() {
            // The core handles its messages in order: once it answers this one, it has purged, or will once no follower is sent what goes.
            let _ = raft.with_raft_state(|_| ()).await;
            let is_purged = group.log().purged().is_some_and(|purged| purged.index >= upto);
            tracing::debug!(group = %group.id(), upto, is_purged, "the log is to be purged");
        }
    }
}

/// How much each of `sizes` may keep so that all together keep no more than `budget`: the smallest keep all that they have.
fn share_of_each(mut sizes: Vec<u64>, mut budget: u64) -> u64 {
    sizes.sort_unstable();
    let mut left = sizes.len() as u64;
    for size in sizes {
        let share = budget / left;
        if size > share {
            return share;
        }
        budget -= size;
        left -= 1;
    }
    u64::MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_give_first() {
        for (sizes, budget, share) in [
            (vec![], 100, u64::MAX),
            (vec![60, 40], 100, u64::MAX),
            (vec![60, 41], 100, 59),
            (vec![1000, 10, 20], 100, 70),
            (vec![1000, 10, 2000], 100, 45),
            (vec![5, 5], 0, 0),
        ] {
            assert_eq!(share_of_each(sizes.clone(), budget), share, "{sizes:?} of {budget}");
            let kept: u64 = sizes.iter().map(|size| size.min(&share)).sum();
            assert!(kept <= budget, "{sizes:?} of {budget}");
        }
    }
}
