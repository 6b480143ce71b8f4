//! The host of the groups of one node: opens, supervises and closes them, and flushes and purges on their behalf.

mod recovery;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Instant;

use everlog_storage::GroupId;
use everlog_storage::log::{LogEngine, RecoveredGroup};
use everlog_storage::state::{StateEngine, StateError};
use everlog_transport::Transport;
use parking_lot::Mutex;
pub use recovery::Remains;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::encoding;
use crate::failure::FailureReport;
use crate::flusher::{FlushTrigger, Flusher};
use crate::group::{Group, GroupParts, Handovers, Leadership, RaftGroup, StopReason};
use crate::hold_off::VoteHoldOff;
use crate::log_store::{self, GroupLog};
use crate::network::{GroupNetwork, RaftReceiver, SeedHost};
use crate::options::NodeOptions;
use crate::pins::LogPins;
use crate::progress::{AppliedPosition, GroupProgress};
use crate::seed::{self, ReadySeed, SeedSources};
use crate::state_machine::{ApplyLimits, GroupStateMachine};
use crate::supervisor;
use crate::types::{FOUNDING_REPLICA, GroupReplica, REPLICA_ID_MIN, ReplicaId};

/// A node's groups.
///
/// Dropping a node stops flushing but leaves its groups running; [`Node::shutdown`] ends them.
pub struct Node {
    options: NodeOptions,
    log: Arc<dyn LogEngine>,
    state: Arc<dyn StateEngine>,
    failure: FailureReport,
    groups: OpenGroups,
    transport: Option<Arc<dyn Transport>>,
    /// What replicas on other nodes are being seeded from.
    seed_sources: SeedSources,
    /// One group is opened at a time. True once the rows found at the start are known to be durable.
    opening: tokio::sync::Mutex<bool>,
    flusher: Arc<Flusher>,
    stop: watch::Sender<bool>,
    flusher_task: Mutex<Option<JoinHandle<()>>>,
}

/// The groups that are open on a node. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct OpenGroups(Arc<Mutex<BTreeMap<GroupId, OpenGroup>>>);

impl OpenGroups {
    /// A group, and which replica of it is here.
    pub(crate) fn get(&self, group: GroupId) -> Option<(GroupReplica, Group)> {
        self.0.lock().get(&group).map(|open| (open.replica, open.group.clone()))
    }

    /// Gives rows to a group that are to replace its own, and whose core is to be closed then. False if it is not open, or has stopped.
    pub(crate) fn give_seed(&self, replica: GroupReplica, seed: ReadySeed) -> bool {
        let mut groups = self.0.lock();
        let Some(open) = groups.get_mut(&replica.group).filter(|open| open.replica == replica) else { return false };
        if matches!(*open.group.leadership().borrow(), Leadership::Stopped { .. }) {
            return false;
        }
        open.seed = Some(seed);
        open.closed_for_seed.store(true, Ordering::Release);
        true
    }

    fn take_seed(&self, group: GroupId) -> Option<ReadySeed> {
        self.0.lock().get_mut(&group).and_then(|open| open.seed.take())
    }

    fn all(&self) -> Vec<Group> {
        self.0.lock().values().map(|open| open.group.clone()).collect()
    }
}

struct OpenGroup {
    replica: GroupReplica,
    group: Group,
    supervisor: JoinHandle<()>,
    /// Closed once nothing applies entries for this handle any more.
    ended: watch::Receiver<()>,
    /// Rows that replace its own once its core is closed.
    seed: Option<ReadySeed>,
    closed_for_seed: Arc<AtomicBool>,
}

/// How a group comes to be on this node.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Start {
    /// It is made, or its making is finished, with this replica as its only voter.
    Create,
    /// This replica of it is made, or its making is finished. Whoever founds the group tells it of the others.
    CreateReplica,
    /// It is there.
    Open,
}

/// A group or the node could not be opened or closed.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct NodeError(pub String);

impl Node {
    /// A node over its two engines, with no group open yet and without peers. No other node may use the engines at the same time.
    pub fn new(options: NodeOptions, log: Arc<dyn LogEngine>, state: Arc<dyn StateEngine>) -> Node {
        Node::with_peers(options, log, state, None)
    }

    /// A node as [`Node::new`] makes it, whose groups reach their other replicas over `transport`.
    pub fn with_peers(
        options: NodeOptions,
        log: Arc<dyn LogEngine>,
        state: Arc<dyn StateEngine>,
        transport: Option<Arc<dyn Transport>>,
    ) -> Node {
        let failure = FailureReport::new();
        let flusher = Arc::new(Flusher {
            engine: state.clone(),
            log: log.clone(),
            trigger: Arc::new(FlushTrigger::new(&options)),
            failure: failure.clone(),
            options: options.clone(),
            turn: tokio::sync::Mutex::new(()),
        });
        Node {
            options,
            log,
            state,
            failure,
            groups: OpenGroups::default(),
            transport,
            seed_sources: SeedSources::default(),
            opening: tokio::sync::Mutex::new(false),
            flusher,
            stop: watch::Sender::new(false),
            flusher_task: Mutex::new(None),
        }
    }

    /// Creates a group with `replica` on this node as its only voter. Only whoever founds a cluster, or a partition, may do so: a node that
    /// lost its disk would otherwise found a second group under the same id.
    ///
    /// May be repeated: what an earlier call that was cut off has left undone is done, and a group that is there is opened.
    pub async fn create_group(&self, replica: GroupReplica) -> Result<Group, NodeError> {
        let GroupReplica { group, group_epoch, replica: id } = replica;
        if group_epoch == 0 || (id != FOUNDING_REPLICA && id < REPLICA_ID_MIN) {
            return Err(NodeError(format!("group {group}: {replica} is nothing that was ever given out")));
        }
        self.open(replica, Start::Create).await
    }

    /// Takes the messages of other nodes to the groups of this one. Must be called within a tokio runtime.
    pub fn receiver(&self) -> RaftReceiver {
        let host = self.transport.clone().map(|transport| {
            let sources = self.seed_sources.clone();
            SeedHost::new(
                self.groups.clone(),
                self.state.clone(),
                transport,
                sources,
                self.options.seed_bytes_per_second,
            )
        });
        RaftReceiver::new(self.groups.clone(), host)
    }

    /// Creates `replica` of a group on this node, which is nobody's voter until the group is [founded](Group::found) with it, here or on
    /// another node. May be repeated, as [`Node::create_group`].
    pub async fn create_replica(&self, replica: GroupReplica) -> Result<Group, NodeError> {
        if replica.group_epoch == 0 || replica.replica < REPLICA_ID_MIN {
            return Err(NodeError(format!("group {}: {replica} is nothing that was ever given out", replica.group)));
        }
        self.open(replica, Start::CreateReplica).await
    }

    /// Opens a group that this node has. Never creates one. A group that is open already is returned as it is.
    ///
    /// A group whose only voter is this node elects it at once. With other voters, a replica that was just started grants no vote for
    /// an election timeout (see [`Group::may_grant_vote`]).
    ///
    /// Fails when this node has no such group, or another replica of it, and when the two engines do not belong together: rows
    /// that the log has overtaken, or a log that was lost.
    pub async fn open_group(&self, replica: GroupReplica) -> Result<Group, NodeError> {
        self.open(replica, Start::Open).await
    }

    /// Makes a group anew from what is on disk, after its Raft core has died ([`StopReason::Died`]), or has been closed
    /// because it is to be seeded ([`StopReason::Seeding`]): then its rows are replaced first. The engines stay open
    /// and other groups are not touched. A group that lives is returned as it is.
    ///
    /// Fails for a group that is not open here, and when an engine has failed: then the process must end.
    pub async fn reopen_group(&self, group: GroupId) -> Result<Group, NodeError> {
        let failed = |error: String| NodeError(format!("group {group}: {error}"));
        let _opening = self.opening.lock().await;
        self.check_running()?;
        let (replica, dead, mut ended) = match self.groups.0.lock().get(&group) {
            Some(open) => (open.replica, open.group.clone(), open.ended.clone()),
            None => return Err(failed("it is not open on this node".to_string())),
        };
        if !matches!(*dead.leadership().borrow(), Leadership::Stopped { .. }) {
            return Ok(dead);
        }
        if !matches!(*dead.leadership().borrow(), Leadership::Stopped { reason: StopReason::Seeding }) {
            tracing::warn!(%group, "raft group is opened again");
        }
        // Nothing of the dead one may write any more: neither its core, which ends with this, nor its state machine.
        let _ = dead.raft().shutdown().await;
        while ended.changed().await.is_ok() {}
        dead.log().settle().await.map_err(|error| failed(error.to_string()))?;
        self.flusher.flush_rows().await?;
        self.check_running()?;
        let mut seeded = None;
        if let Some(ReadySeed { staged, seeding, done }) = self.groups.take_seed(group) {
            let applied = dead.progress().applied();
            let installed = seed::install(dead.log(), applied, &self.failure, staged, seeding).await;
            // A replica that could not be seeded is opened as it was, unless an engine has failed.
            self.check_running()?;
            seeded = Some((done, installed.map_err(|error| error.to_string())));
        }
        let open = self.start(replica, Start::Open).await.map_err(|NodeError(error)| failed(error))?;
        let handle = open.group.clone();
        handle.confirm_reads(dead.confirms_reads());
        self.groups.0.lock().insert(group, open);
        if let Some((done, installed)) = seeded {
            // Whoever waits may have given up.
            let _ = done.send(installed);
        }
        Ok(handle)
    }

    /// The groups that are open here.
    pub fn groups(&self) -> Vec<Group> {
        self.groups.all()
    }

    /// Which replica of a group is here, as far as it was written down.
    ///
    /// # Errors
    ///
    /// When the log cannot be read.
    pub async fn replica_here(&self, group: GroupId) -> Result<Option<GroupReplica>, NodeError> {
        if let Some((replica, _)) = self.groups.get(group) {
            return Ok(Some(replica));
        }
        let log = self.log.clone();
        let recovered = blocking(move || log.recover(group)).await?;
        let decoded = recovered.replica.map(|bytes| encoding::decode_replica(group, &bytes)).transpose();
        Ok(decoded.map_err(|error| NodeError(format!("group {group}: {error}")))?.map(|(replica, _)| replica))
    }

    /// Removes everything that this node has of a group, open or not, durably: its log, then its rows. For a replica that is none of the group's any
    /// more, and for what an earlier call that was cut off has left. What it had promised is forgotten with it, so its id must never be given out again.
    ///
    /// # Errors
    ///
    /// When an engine fails; then the process must end.
    pub async fn discard_group(&self, group: GroupId) -> Result<(), NodeError> {
        let _opening = self.opening.lock().await;
        self.check_running()?;
        let open = self.groups.0.lock().remove(&group);
        if let Some(OpenGroup { group: open, supervisor, mut ended, .. }) = open {
            // Fails only if the core had panicked.
            let _ = open.raft().shutdown().await;
            while ended.changed().await.is_ok() {}
            let _ = supervisor.await;
        }
        let (engine, state) = (self.log.clone(), self.state.clone());
        let has_log = blocking(move || engine.recover(group)).await? != RecoveredGroup::default();
        if has_log {
            log_store::destroy(group, &*self.log, &self.failure).await.map_err(|error| NodeError(error.to_string()))?;
        }
        let has_rows = blocking(move || state.applied(group)).await?.is_some();
        if has_rows {
            let state = self.state.clone();
            let failure = self.failure.clone();
            // A full disk is no failure: whoever called calls again.
            let report = move |error: &StateError| {
                if !error.is_exhausted() {
                    failure.report(error)
                }
            };
            blocking(move || state.drop_group(group).inspect_err(report)).await?;
        }
        if has_log || has_rows {
            // A crash must not bring the rows back once there is another log.
            self.flusher.flush_rows().await?;
            tracing::info!(%group, "a replica that its group does not need any more is gone");
        }
        Ok(())
    }

    async fn open(&self, replica: GroupReplica, start: Start) -> Result<Group, NodeError> {
        let group = replica.group;
        let mut baseline = self.opening.lock().await;
        if let Some((known, open)) = self.groups.get(group) {
            check_replica(known, replica)?;
            return Ok(open);
        }
        self.check_running()?;
        if !*baseline {
            // The engines may have been in use by an earlier node of this process: what they serve need not be durable yet,
            // and recovery below takes it for durable.
            self.flusher.flush_rows().await?;
            self.spawn_flusher();
            *baseline = true;
        }
        let open = self
            .start(replica, start)
            .await
            .map_err(|NodeError(error)| NodeError(format!("group {group}: {error}")))?;
        let handle = open.group.clone();
        self.groups.0.lock().insert(group, open);
        Ok(handle)
    }

    fn check_running(&self) -> Result<(), NodeError> {
        if *self.stop.borrow() {
            return Err(NodeError("the node is shut down".to_string()));
        }
        self.failure.first().map_or(Ok(()), Err)
    }

    /// Flushes the rows of all groups and purges their logs now, instead of when enough has gathered.
    pub async fn flush(&self) -> Result<(), NodeError> {
        self.flusher.flush_and_purge(&self.groups.all()).await
    }

    /// Resolves with the first failure of an engine; never, if there is none. The process must then exit: what its disk holds
    /// is unknown, and only a new start can tell.
    pub fn fatal(&self) -> impl Future<Output = NodeError> + Send + 'static {
        let failure = self.failure.clone();
        async move { failure.wait().await }
    }

    /// Stops every group, flushes the rows and closes the log.
    pub async fn shutdown(&self) -> Result<(), NodeError> {
        // Nobody opens a group from here on.
        let _opening = self.opening.lock().await;
        self.halt().await;
        self.failure.close();
        let state = self.state.clone();
        let flushed = blocking(move || state.flush()).await;
        let log = self.log.clone();
        let closed = blocking(move || log.close()).await;
        flushed.and(closed)
    }

    /// Stops every group where it is, without a flush and with the engines left open: to whoever opens the engines next this
    /// looks like a process that died. For tests.
    pub async fn halt(&self) {
        self.stop.send_replace(true);
        self.failure.stop_waiting();
        let flusher = self.flusher_task.lock().take();
        if let Some(flusher) = flusher {
            let _ = flusher.await;
        }
        let groups = std::mem::take(&mut *self.groups.0.lock());
        let rafts: Vec<_> = groups.values().map(|open| open.group.raft().clone()).collect();
        for raft in rafts {
            // Fails only if the core had panicked, which its supervisor reports.
            let _ = raft.shutdown().await;
        }
        for open in groups.into_values() {
            let _ = open.supervisor.await;
        }
    }

    fn spawn_flusher(&self) {
        let (flusher, groups, stop) = (self.flusher.clone(), self.groups.clone(), self.stop.subscribe());
        let task = tokio::spawn(async move { flusher.run(|| groups.all(), stop).await });
        *self.flusher_task.lock() = Some(task);
    }

    async fn start(&self, identity: GroupReplica, start: Start) -> Result<OpenGroup, NodeError> {
        let GroupReplica { group, replica, .. } = identity;
        let started = Instant::now();
        let (log, progress) = self.recover(group, replica).await?;
        let is_new = log.is_new() && progress.applied().is_none();
        match (log.replica(), start) {
            (Some(known), _) => check_replica(known, identity)?,
            (None, Start::Open) => return Err(NodeError("it is not on this node".to_string())),
            (None, _) if !is_new => {
                return Err(NodeError("it is here, but not which replica of it".to_string()));
            }
            (None, _) => {
                log.save_replica(identity).await.map_err(|error| NodeError(error.to_string()))?;
            }
        }

        let (ended_sender, ended) = watch::channel(());
        let state_machine = self.state_machine(group, &progress, ended_sender);
        // Ticks start when the supervisor sees other members; until then nobody campaigns unless told to.
        let config = Arc::new(self.options.raft_config(false)?);
        let pins = LogPins::default();
        let network = GroupNetwork::new(identity, self.transport.clone(), self.seed_sources.clone(), pins.clone());
        let raft = RaftGroup::new(replica, config, network, log.clone(), state_machine)
            .await
            .map_err(|error| NodeError(error.to_string()))?;
        let (sender, leadership) = watch::channel(Leadership::Follower);
        let leader = Arc::new(AtomicU32::new(0));
        let closed_for_seed = Arc::new(AtomicBool::new(false));
        let supervisor = tokio::spawn(supervisor::supervise(
            group,
            raft.clone(),
            progress.applied_term(),
            self.failure.clone(),
            sender,
            Arc::clone(&leader),
            Arc::clone(&closed_for_seed),
            2 * self.options.election_timeout_max,
        ));

        let elected = self.start_election(&raft, is_new && start == Start::Create).await;
        if let Err(error) = elected {
            let _ = raft.shutdown().await;
            return Err(error);
        }
        let data_metrics = raft.data_metrics();
        let group = Group::new(GroupParts {
            id: group,
            raft,
            log,
            state: self.state.clone(),
            progress,
            leadership,
            leader,
            data_metrics,
            hold_off: VoteHoldOff::new(started, is_new, self.options.election_timeout_max),
            entry_bytes_max: self.options.entry_bytes_max,
            runtime: tokio::runtime::Handle::current(),
            handovers: Handovers::default(),
            lease: self.options.election_timeout_max / 2,
            confirms_reads: AtomicBool::new(false),
            pins,
            proposals: metrics::counter!("everlog_raft_proposals_total", "group" => group.to_string()),
        });
        Ok(OpenGroup { replica: identity, group, supervisor, ended, seed: None, closed_for_seed })
    }

    fn state_machine(
        &self,
        group: GroupId,
        progress: &Arc<GroupProgress>,
        ended: watch::Sender<()>,
    ) -> GroupStateMachine {
        GroupStateMachine::new(
            group,
            self.state.clone(),
            Arc::clone(progress),
            self.failure.clone(),
            self.flusher.trigger.clone(),
            ApplyLimits { entries_max: self.options.apply_entries_max, bytes_max: self.options.apply_bytes_max },
            ended,
        )
    }

    async fn start_election(&self, raft: &RaftGroup, found: bool) -> Result<(), NodeError> {
        let replica = *raft.node_id();
        if found {
            let members = BTreeMap::from([(replica, self.options.node.clone())]);
            return raft.initialize(members).await.map_err(|error| NodeError(error.to_string()));
        }
        let voters =
            raft.with_raft_state(move |state| state.membership_state.effective().voter_ids().collect::<Vec<_>>());
        let voters = voters.await.map_err(|error| NodeError(error.to_string()))?;
        if voters == [replica] {
            raft.trigger().elect(false).await.map_err(|error| NodeError(error.to_string()))?;
        }
        Ok(())
    }

    /// What the two engines hold of a group, checked against each other. What was cut off when rows were replaced is finished before.
    async fn recover(&self, group: GroupId, replica: ReplicaId) -> Result<(GroupLog, Arc<GroupProgress>), NodeError> {
        let (log, progress) = self.read_engines(group, replica).await?;
        let rows_at = progress.applied().map(|position| position.log_id);
        let was_cut_off = seed::settle(&log, rows_at).await.map_err(|error| NodeError(error.to_string()))?;
        let (log, progress) = if was_cut_off { self.read_engines(group, replica).await? } else { (log, progress) };
        check_engines(&log, progress.applied().as_ref())?;
        Ok((log, progress))
    }

    async fn read_engines(
        &self,
        group: GroupId,
        replica: ReplicaId,
    ) -> Result<(GroupLog, Arc<GroupProgress>), NodeError> {
        let (engine, state, failure) = (self.log.clone(), self.state.clone(), self.failure.clone());
        let cache_bytes_max = self.options.entry_cache_bytes_max;
        blocking(move || {
            let position = state.applied(group).map_err(std::io::Error::other)?;
            let position = position.as_deref().map(encoding::decode_position).transpose()?;
            let progress = Arc::new(GroupProgress::new(replica, position));
            let log = GroupLog::recover(group, engine, progress.clone(), failure, cache_bytes_max)?;
            Ok::<_, std::io::Error>((log, progress))
        })
        .await
    }
}

/// Refuses a pair of engines that lost something: going on would silently drop acknowledged writes.
fn check_engines(log: &GroupLog, position: Option<&AppliedPosition>) -> Result<(), NodeError> {
    if let Some(position) = position
        && log.vote().is_none()
    {
        let message =
            format!("rows are applied up to {}, but the log is missing: it was lost or replaced", position.log_id);
        return Err(NodeError(message));
    }
    let Some(purged) = log.purged() else { return Ok(()) };
    match position {
        Some(position) if purged.index <= position.log_id.index => Ok(()),
        Some(position) => Err(NodeError(format!(
            "the log is purged up to {purged}, but rows are durable only up to {}: entries between them are lost",
            position.log_id
        ))),
        None => Err(NodeError(format!(
            "the log is purged up to {purged}, but there are no rows: they were lost or replaced"
        ))),
    }
}

/// Refuses to take one replica of a group for another: it would vote and acknowledge in the other's name.
fn check_replica(known: GroupReplica, asked: GroupReplica) -> Result<(), NodeError> {
    if known == asked {
        return Ok(());
    }
    Err(NodeError(format!("this node has {known}, not {asked}")))
}

/// Does work that blocks on the disk.
pub(crate) async fn blocking<T, E>(work: impl FnOnce() -> Result<T, E> + Send + 'static) -> Result<T, NodeError>
where
    T: Send + 'static,
    E: std::fmt::Display + Send + 'static,
{
    match everlog_storage::blocking::spawn(work).await {
        Ok(result) => result.map_err(|error| NodeError(error.to_string())),
        Err(panicked) => Err(NodeError(panicked.to_string())),
    }
}
