//! The host of the groups of one node: opens, supervises and closes them, and flushes and purges on their behalf.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Instant;

use everlog_storage::GroupId;
use everlog_storage::log::LogEngine;
use everlog_storage::state::StateEngine;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::encoding;
use crate::failure::FailureReport;
use crate::flusher::{FlushTrigger, Flusher};
use crate::group::{Group, GroupParts, Leadership, RaftGroup};
use crate::hold_off::VoteHoldOff;
use crate::log_store::GroupLog;
use crate::network::GroupNetwork;
use crate::options::NodeOptions;
use crate::progress::{AppliedPosition, GroupProgress};
use crate::state_machine::{ApplyLimits, GroupStateMachine};
use crate::supervisor;
use crate::types::ReplicaId;

/// A node's groups.
///
/// Dropping a node stops flushing but leaves its groups running; [`Node::shutdown`] ends them.
pub struct Node {
    options: NodeOptions,
    log: Arc<dyn LogEngine>,
    state: Arc<dyn StateEngine>,
    failure: FailureReport,
    groups: Arc<Mutex<BTreeMap<GroupId, OpenGroup>>>,
    /// One group is opened at a time. True once the rows found at the start are known to be durable.
    opening: tokio::sync::Mutex<bool>,
    flusher: Arc<Flusher>,
    stop: watch::Sender<bool>,
    flusher_task: Mutex<Option<JoinHandle<()>>>,
}

struct OpenGroup {
    group: Group,
    supervisor: JoinHandle<()>,
}

/// A group or the node could not be opened or closed.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct NodeError(pub String);

impl Node {
    /// A node over its two engines, with no group open yet. No other node may use the engines at the same time.
    pub fn new(options: NodeOptions, log: Arc<dyn LogEngine>, state: Arc<dyn StateEngine>) -> Node {
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
            groups: Arc::default(),
            opening: tokio::sync::Mutex::new(false),
            flusher,
            stop: watch::Sender::new(false),
            flusher_task: Mutex::new(None),
        }
    }

    /// Opens a group that this node has, or, when neither engine knows it, creates it with this node as its only voter. A
    /// group that is open already is returned as it is.
    ///
    /// A group whose only voter is this node elects it at once. (With other voters, whoever restarts has forgotten what it
    /// promised to a leader's lease and must first sit out an election timeout; that comes with the transport.)
    ///
    /// Fails when the two engines do not belong together: rows that the log has overtaken, or a log that was lost.
    pub async fn open_group(&self, group: GroupId) -> Result<Group, NodeError> {
        let mut baseline = self.opening.lock().await;
        if let Some(open) = self.groups.lock().get(&group) {
            return Ok(open.group.clone());
        }
        if *self.stop.borrow() {
            return Err(NodeError("the node is shut down".to_string()));
        }
        if !*baseline {
            // The engines may have been in use by an earlier node of this process: what they serve need not be durable yet,
            // and recovery below takes it for durable.
            let state = self.state.clone();
            blocking(move || state.flush()).await.inspect_err(|error| self.failure.report(error))?;
            self.spawn_flusher();
            *baseline = true;
        }
        let open = self.start(group).await.map_err(|NodeError(error)| NodeError(format!("group {group}: {error}")))?;
        let handle = open.group.clone();
        self.groups.lock().insert(group, open);
        Ok(handle)
    }

    /// Opens a group again whose core has ended.
    pub async fn reopen_group(&self, group: GroupId) -> Result<Group, NodeError> {
        self.open_group(group).await
    }

    /// Flushes the rows of all groups and purges their logs now, instead of when enough has gathered.
    pub async fn flush(&self) -> Result<(), NodeError> {
        let groups = open_groups(&self.groups);
        self.flusher.flush_and_purge(&groups).await
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
        let flusher = self.flusher_task.lock().take();
        if let Some(flusher) = flusher {
            let _ = flusher.await;
        }
        let groups = std::mem::take(&mut *self.groups.lock());
        for open in groups.values() {
            // Fails only if the core had panicked, which its supervisor reports.
            let _ = open.group.raft().shutdown().await;
        }
        for open in groups.into_values() {
            let _ = open.supervisor.await;
        }
    }

    fn spawn_flusher(&self) {
        let (flusher, groups, stop) = (self.flusher.clone(), self.groups.clone(), self.stop.subscribe());
        let task = tokio::spawn(async move { flusher.run(|| open_groups(&groups), stop).await });
        *self.flusher_task.lock() = Some(task);
    }

    async fn start(&self, group: GroupId) -> Result<OpenGroup, NodeError> {
        let replica: ReplicaId = self.options.node.node_id;
        let started = Instant::now();
        let (log, progress) = self.recover(group, replica).await?;
        let is_new = log.is_new() && progress.applied().is_none();
        check_replica(&progress)?;

        let state_machine = GroupStateMachine::new(
            group,
            self.state.clone(),
            progress.clone(),
            self.failure.clone(),
            self.flusher.trigger.clone(),
            ApplyLimits { entries_max: self.options.apply_entries_max, bytes_max: self.options.apply_bytes_max },
        );
        // Ticks start when the supervisor sees other members; until then nobody campaigns unless told to.
        let config = Arc::new(self.options.raft_config(false)?);
        let raft = RaftGroup::new(replica, config, GroupNetwork, log.clone(), state_machine)
            .await
            .map_err(|error| NodeError(error.to_string()))?;
        let (sender, leadership) = watch::channel(Leadership::Follower);
        let supervisor = tokio::spawn(supervisor::supervise(group, raft.clone(), progress.applied_term(), sender));

        let elected = self.start_election(&raft, is_new).await;
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
            data_metrics,
            hold_off: VoteHoldOff::new(started, is_new, self.options.election_timeout_max),
            entry_bytes_max: self.options.entry_bytes_max,
            runtime: tokio::runtime::Handle::current(),
            lease: self.options.election_timeout_max / 2,
            proposals: metrics::counter!("everlog_raft_proposals_total", "group" => group.to_string()),
        });
        Ok(OpenGroup { group, supervisor })
    }

    async fn start_election(&self, raft: &RaftGroup, is_new: bool) -> Result<(), NodeError> {
        let replica = *raft.node_id();
        if is_new {
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

    /// What the two engines hold of a group, checked against each other.
    async fn recover(&self, group: GroupId, replica: ReplicaId) -> Result<(GroupLog, Arc<GroupProgress>), NodeError> {
        let (engine, state, failure) = (self.log.clone(), self.state.clone(), self.failure.clone());
        let cache_bytes_max = self.options.entry_cache_bytes_max;
        blocking(move || {
            let position = state.applied(group).map_err(std::io::Error::other)?;
            let position = position.as_deref().map(encoding::decode_position).transpose()?;
            let progress = Arc::new(GroupProgress::new(replica, position.clone()));
            let log = GroupLog::recover(group, engine, progress.clone(), failure, cache_bytes_max)?;
            check_engines(&log, position.as_ref()).map_err(std::io::Error::other)?;
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

/// Refuses a node id that is not the one the group was created or joined with.
fn check_replica(progress: &GroupProgress) -> Result<(), NodeError> {
    let Some(position) = progress.applied() else { return Ok(()) };
    let replica = progress.replica();
    if position.membership.log_id().is_none() || position.membership.get_node(&replica).is_some() {
        return Ok(());
    }
    let members: Vec<ReplicaId> = position.membership.nodes().map(|(replica, _)| *replica).collect();
    Err(NodeError(format!("replica {replica} is not a member, {members:?} are: was the node's id changed?")))
}

fn open_groups(groups: &Mutex<BTreeMap<GroupId, OpenGroup>>) -> Vec<Group> {
    groups.lock().values().map(|open| open.group.clone()).collect()
}

async fn blocking<T, E>(work: impl FnOnce() -> Result<T, E> + Send + 'static) -> Result<T, NodeError>
where
    T: Send + 'static,
    E: std::fmt::Display + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(|error| NodeError(error.to_string())),
        Err(panicked) => Err(NodeError(panicked.to_string())),
    }
}
