//! The state machine of one group, as openraft sees it: committed entries become rows.
//!
//! Rows and applied position are one write to the state engine, which keeps no write-ahead log: after a crash the group is at
//! the position that was flushed last and the log replays the rest. Whoever proposed hears of it after that write.

use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use bytes::Bytes;
use everlog_storage::GroupId;
use everlog_storage::state::{Attempt, RowBatch, StateEngine, StateError};
use futures::{FutureExt, Stream, TryStreamExt};
use metrics::{Counter, Gauge};
use openraft::storage::{ApplyResponder, EntryResponder, RaftSnapshotBuilder, RaftStateMachine, Snapshot};
use tokio::sync::watch;

use crate::chain::{Chain, ChainStep};
use crate::encoding;
use crate::entry_cache::payload_bytes;
use crate::failure::FailureReport;
use crate::flusher::FlushTrigger;
use crate::progress::{AppliedPosition, GroupProgress};
use crate::snapshot::GroupSnapshot;
use crate::types::{
    CommittedLeaderId, Entry, LogId, NodeInfo, Payload, ReplicaId, SnapshotMeta, StoredMembership, TypeConfig,
};

type GroupSnapshotWithMeta = Snapshot<CommittedLeaderId, ReplicaId, NodeInfo, GroupSnapshot>;

/// Most that goes into one write to the state engine.
#[derive(Clone, Copy)]
pub(crate) struct ApplyLimits {
    pub(crate) entries_max: usize,
    pub(crate) bytes_max: usize,
}

/// The rows of one group.
pub(crate) struct GroupStateMachine {
    group: GroupId,
    engine: Arc<dyn StateEngine>,
    progress: Arc<GroupProgress>,
    failure: FailureReport,
    flush_trigger: Arc<FlushTrigger>,
    limits: ApplyLimits,
    membership: Arc<StoredMembership>,
    chain: Chain,
    /// Closed when nobody writes to the group's rows for this state machine any more.
    ended: watch::Sender<()>,
    stalled_writes: Counter,
    skipped_entries: Counter,
    applied_entries: Counter,
    applied_index: Gauge,
}

/// Entries on their way into one write.
#[derive(Default)]
struct Chunk {
    batches: Vec<RowBatch>,
    responders: Vec<(ChainStep, ApplyResponder<TypeConfig>)>,
    last: Option<LogId>,
    entries: usize,
    bytes: usize,
}

impl GroupStateMachine {
    pub(crate) fn new(
        group: GroupId,
        engine: Arc<dyn StateEngine>,
        progress: Arc<GroupProgress>,
        failure: FailureReport,
        flush_trigger: Arc<FlushTrigger>,
        limits: ApplyLimits,
        ended: watch::Sender<()>,
    ) -> GroupStateMachine {
        let (membership, chain) =
            progress.applied().map(|position| (position.membership, position.chain)).unwrap_or_default();
        let label = group.to_string();
        GroupStateMachine {
            group,
            engine,
            progress,
            failure,
            flush_trigger,
            limits,
            membership,
            chain,
            ended,
            stalled_writes: metrics::counter!("everlog_raft_stalled_writes_total", "group" => label.clone()),
            skipped_entries: metrics::counter!("everlog_raft_skipped_entries_total", "group" => label.clone()),
            applied_entries: metrics::counter!("everlog_raft_applied_entries_total", "group" => label.clone()),
            applied_index: metrics::gauge!("everlog_raft_applied_index", "group" => label),
        }
    }

    fn collect(
        &mut self,
        chunk: &mut Chunk,
        entry: Entry,
        responder: Option<ApplyResponder<TypeConfig>>,
    ) -> io::Result<()> {
        chunk.entries += 1;
        chunk.bytes += payload_bytes(&entry);
        chunk.last = Some(entry.log_id);
        let mut step = ChainStep::Applied;
        match entry.payload {
            Payload::Blank => {}
            Payload::Normal(rows) => {
                step = self.chain.step(&rows.stamp);
                match step {
                    ChainStep::Applied => {
                        let batch = RowBatch::decode(&rows.rows()).map_err(|error| self.failed(error))?;
                        chunk.batches.push(batch);
                    }
                    ChainStep::Skipped => {
                        self.skipped_entries.increment(1);
                        let (group, end) = (self.group, self.chain.end.position);
                        tracing::info!(%group, entry = %rows.stamp.chain, %end, "an entry is skipped, what it follows is missing");
                    }
                }
            }
            Payload::Membership(membership) => {
                self.membership = Arc::new(StoredMembership::new(Some(entry.log_id), membership));
            }
        }
        chunk.responders.extend(responder.map(|responder| (step, responder)));
        Ok(())
    }

    /// Applies entries, in writes of some size.
    pub(crate) async fn apply_all<Strm>(&mut self, mut entries: Strm) -> io::Result<()>
    where
        Strm: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + Send,
    {
        let mut chunk = Chunk::default();
        while let Some((entry, responder)) = entries.try_next().await? {
            self.collect(&mut chunk, entry, responder)?;
            if chunk.entries >= self.limits.entries_max || chunk.bytes >= self.limits.bytes_max {
                self.commit(std::mem::take(&mut chunk)).await?;
            }
        }
        self.commit(chunk).await
    }

    async fn commit(&mut self, chunk: Chunk) -> io::Result<()> {
        let Some(log_id) = chunk.last else { return Ok(()) };
        let position = AppliedPosition { log_id, membership: self.membership.clone(), chain: self.chain.clone() };
        self.write(encoding::encode_position(&position), chunk.batches).await?;
        self.progress.set_applied(position);
        self.applied_entries.increment(chunk.entries as u64);
        self.applied_index.set(log_id.index as f64);
        for (step, responder) in chunk.responders {
            responder.send(step);
        }
        self.flush_trigger.applied(&self.progress, chunk.bytes as u64);
        Ok(())
    }

    /// Straight on this task: a write to memory, and handing it to a thread would cost more than it takes. Only one that has to wait for
    /// the disk is left to a thread, because connections and heartbeats must not wait with it.
    async fn write(&self, position: Bytes, batches: Vec<RowBatch>) -> io::Result<()> {
        let attempt = self.engine.try_commit(self.group, &position, &batches);
        if attempt.map_err(|error| self.failed(error))? == Attempt::Done {
            return Ok(());
        }
        self.stalled_writes.increment(1);
        let mut batches = batches;
        loop {
            let (engine, group, ended, position) =
                (self.engine.clone(), self.group, self.ended.clone(), position.clone());
            let write = move || {
                let written = engine.commit(group, &position, &batches);
                drop(ended);
                (written, batches)
            };
            let (written, again) = everlog_storage::blocking::spawn(write).await.map_err(io::Error::other)?;
            match written {
                Err(error) if self.failure.waits_for_room(&error).await => batches = again,
                Err(error) => return Err(self.failed(error)),
                Ok(()) => {
                    self.failure.has_room();
                    return Ok(());
                }
            }
        }
    }

    fn current_snapshot(&self) -> io::Result<Option<GroupSnapshotWithMeta>> {
        if self.progress.applied().is_none() {
            return Ok(None);
        }
        let view = self.engine.snapshot(self.group).map_err(|error| self.failed(error))?;
        // The view's own position, not the one known here: they are of the same write.
        let position = view.applied().ok_or_else(|| io::Error::other("rows without an applied position"))?;
        let meta = encoding::decode_position(&position)?.snapshot_meta();
        Ok(Some(Snapshot { meta, snapshot: GroupSnapshot::View(view) }))
    }

    fn failed(&self, error: StateError) -> io::Error {
        self.failure.report(&error);
        io::Error::other(error)
    }
}

impl RaftStateMachine<TypeConfig> for GroupStateMachine {
    type SnapshotData = GroupSnapshot;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        let position = self.progress.applied();
        Ok(position.map_or_else(Default::default, |position| (Some(position.log_id), (*position.membership).clone())))
    }

    /// openraft does not notice when this panics: it would wait for ever. So a panic is made an error, which ends the group's core.
    async fn apply<Strm>(&mut self, entries: Strm) -> io::Result<()>
    where
        Strm: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + Send,
    {
        let applied = AssertUnwindSafe(self.apply_all(entries)).catch_unwind().await;
        applied.unwrap_or_else(|_| Err(io::Error::other("applying entries panicked")))
    }

    /// Without `force`, which is how the flusher asks, a snapshot is the durable position and holds no rows: it lets openraft
    /// purge the log up to there.
    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<SnapshotBuilder> {
        if force {
            return Some(SnapshotBuilder(Some(self.current_snapshot())));
        }
        let meta = self.progress.durable()?.snapshot_meta();
        Some(SnapshotBuilder(Some(Ok(Some(Snapshot { meta, snapshot: GroupSnapshot::Position })))))
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        SnapshotBuilder(Some(self.current_snapshot()))
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: GroupSnapshot) -> io::Result<()> {
        let Some(log_id) = meta.last_log_id else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a snapshot of nothing cannot be installed"));
        };
        let position =
            AppliedPosition { log_id, membership: Arc::new(meta.last_membership.clone()), chain: snapshot.chain()? };
        let (group, engine, encoded) = (self.group, self.engine.clone(), encoding::encode_position(&position));
        let install = move || {
            // Read in full before the group is touched: half a snapshot must not replace it.
            let rows = snapshot.rows()?;
            engine.replace_group(group, &encoded, &mut rows.into_iter()).map_err(io::Error::other)?;
            // openraft purges the log up to the snapshot next, which is allowed only once its rows are durable.
            engine.flush().map_err(io::Error::other)
        };
        let installed = everlog_storage::blocking::spawn(install).await.map_err(io::Error::other)?;
        installed.inspect_err(|error| self.failure.report(error))?;
        (self.membership, self.chain) = (position.membership.clone(), position.chain.clone());
        self.progress.set_applied(position.clone());
        self.progress.set_durable(position);
        Ok(())
    }

    /// Always the rows as they are: they are on this disk anyway, so nothing has to be copied or kept.
    async fn get_current_snapshot(&mut self) -> io::Result<Option<GroupSnapshotWithMeta>> {
        self.current_snapshot()
    }
}

/// A snapshot that was already taken when openraft asked for a builder; the view is fixed from then on.
pub(crate) struct SnapshotBuilder(Option<io::Result<Option<GroupSnapshotWithMeta>>>);

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = GroupSnapshot;

    async fn build_snapshot(&mut self) -> io::Result<GroupSnapshotWithMeta> {
        let built = self.0.take().ok_or_else(|| io::Error::other("a snapshot is built once"))??;
        // openraft wants one of a log that is purged with nothing applied, which only its own tests come across.
        Ok(built.unwrap_or_else(|| Snapshot { meta: SnapshotMeta::default(), snapshot: GroupSnapshot::Position }))
    }
}
