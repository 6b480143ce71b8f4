//! A process of a node: everything of a server but its sockets, on the twins of disk and network.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use everlog_cluster::{
    About, DiskFigures, Entry, GroupLeaders, Leads, NodeReceiver, Nodes, Offers, Operations, OperationsParts, Pages,
    Peers, TransportPeers,
};
use everlog_config::DynamicConfig;
use everlog_frontend::{LocalFront, Services};
use everlog_matching::query_waiters::Queries;
use everlog_matching::{Backlog, Homes, Matching, MatchingHandle};
use everlog_meta::{MetaError, Namespaces};
use everlog_model::{DiskRoom, InForce, NamespaceSource, PerNamespace, SlotSource, SlotTable};
use everlog_partition::{BatchJobs, Cluster, Dependencies, Leaders, Router, RowFaults, TaskRows};
use everlog_raft::{
    Group, GroupReplica, GroupSlot, Leadership, Node as RaftNode, NodeInfo, NodeOptions, REPLICA_ID_MIN, ReplicaId,
};
use everlog_storage::log::LogEngine;
use everlog_storage::state::StateEngine;
use everlog_storage::{GroupId, NodeId};
use everlog_transport::twin::TwinNetwork;
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use super::disk::{Disk, SlowLog};
use super::system;
use super::{Sabotage, Wanted};

/// The group of the metadata.
pub(super) const META_GROUP: GroupId = GroupId(0);

/// Partitions of a cluster.
pub(super) const PARTITIONS: u32 = 2;

/// Replicas of a partition.
const REPLICAS: usize = 3;

const ELECTION_TIMEOUT: Duration = Duration::from_millis(500);

/// How often a process looks whether something is there by now.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// How long the first voter of a group has to found it before others do.
const FOUND_WAIT: Duration = Duration::from_secs(2);

/// How often a leader looks whether its group has the replicas that it should have.
const BRING_INTERVAL: Duration = Duration::from_millis(500);

/// How long a step of one group may keep the others waiting.
const BRING_TIME_MAX: Duration = Duration::from_secs(10);

/// The replica that a node has of every group, by how many disks it has had before.
pub(super) fn replica_of(node: NodeId, disk: u32) -> ReplicaId {
    REPLICA_ID_MIN + u64::from(node.0) + (u64::from(disk) << 16)
}

/// The nodes with a replica of a group, the one that should lead it first.
pub(super) fn voters(nodes: usize, group: GroupId) -> Vec<NodeId> {
    let count = if group == META_GROUP { nodes } else { REPLICAS.min(nodes) };
    let first = group.0 as usize;
    (first..first + count).map(|place| NodeId((place % nodes) as u32 + 1)).collect()
}

/// A process, from when it is started.
pub(super) struct Process {
    pub(super) raft: Arc<RaftNode>,
    /// Its groups, those of partitions and that of the metadata, once they are open.
    pub(super) groups: Arc<Mutex<Vec<GroupSlot>>>,
    /// Where calls come in, once it serves.
    pub(super) entry: Arc<Mutex<Option<Entry>>>,
    /// True once it is dead.
    pub(super) killed: watch::Sender<bool>,
    life: tokio::task::JoinHandle<()>,
}

/// What a process is started with.
pub(super) struct Start {
    pub(super) node: NodeId,
    pub(super) nodes: usize,
    pub(super) network: TwinNetwork,
    pub(super) disk: Arc<Mutex<Disk>>,
    pub(super) wanted: Wanted,
    pub(super) sabotage: Option<Sabotage>,
}

impl Process {
    pub(super) fn start(start: Start) -> Process {
        let place = start.node.0 as usize;
        system::on_node(place, || {
            let disk = start.disk.lock().clone();
            let transport = start.network.transport(start.node);
            let log: Arc<dyn LogEngine> = Arc::new(SlowLog::new(disk.log, start.sabotage));
            let state: Arc<dyn StateEngine> = disk.state;
            let options = options(start.node);
            let raft = Arc::new(RaftNode::with_peers(options, log, state, Some(Arc::clone(&transport))));
            let (groups, entry) = (Arc::<Mutex<Vec<_>>>::default(), Arc::<Mutex<Option<_>>>::default());
            let living = Life {
                start,
                raft: Arc::clone(&raft),
                transport,
                groups: Arc::clone(&groups),
                entry: Arc::clone(&entry),
            };
            let life = tokio::spawn(living.live());
            Process { raft, groups, entry, killed: watch::Sender::new(false), life }
        })
    }

    /// Ends it as a loss of power does, but that its tasks notice by and by. Its disk and its network must be gone before.
    pub(super) fn kill(self, node: NodeId) {
        self.killed.send_replace(true);
        self.entry.lock().take();
        self.groups.lock().clear();
        let Process { raft, life, .. } = self;
        system::spawn_on(node.0 as usize, async move {
            life.abort();
            raft.halt().await;
        });
    }
}

fn options(node: NodeId) -> NodeOptions {
    // Everybody has the same timeouts, each by its own clock.
    let timeout = system::drifted(node.0 as usize, ELECTION_TIMEOUT);
    NodeOptions {
        node: NodeInfo::of(node),
        heartbeat_interval: timeout / 5,
        election_timeout_min: timeout,
        election_timeout_max: 2 * timeout,
        // So little that followers fall behind the log.
        flush_interval: Duration::from_secs(2),
        flush_entries: 50,
        log_tail_bytes: 24 << 10,
        log_tail_bytes_min: 4 << 10,
        ..NodeOptions::default()
    }
}

/// What a process does.
struct Life {
    start: Start,
    raft: Arc<RaftNode>,
    transport: Arc<dyn everlog_transport::Transport>,
    groups: Arc<Mutex<Vec<GroupSlot>>>,
    entry: Arc<Mutex<Option<Entry>>>,
}

impl Life {
    async fn live(self) {
        if let Err(error) = self.serve().await {
            // One whose disk is gone fails at any step.
            tracing::info!(node = %self.start.node, error, "a process has ended");
        }
    }

    async fn serve(&self) -> Result<(), String> {
        let Life { start, raft, transport, groups, entry } = self;
        let me = start.node;
        let (disk_number, is_bootstrapped) = {
            let disk = start.disk.lock();
            (disk.number, disk.is_bootstrapped)
        };
        let here = (1..=PARTITIONS).map(GroupId).filter(|group| voters(start.nodes, *group).contains(&me));
        let mut open = Vec::new();
        for group in [META_GROUP].into_iter().chain(here) {
            let replica = GroupReplica { group, group_epoch: 1, replica: replica_of(me, disk_number) };
            let opened =
                if is_bootstrapped { raft.open_group(replica).await } else { raft.create_replica(replica).await };
            let opened: Group = opened.map_err(|error| error.to_string())?;
            open.push(Arc::new(RwLock::new(opened)));
        }
        groups.lock().clone_from(&open);
        let peers = TransportPeers::new(Arc::clone(transport));
        start.network.join(me, Arc::new(NodeReceiver::new(raft.receiver(), Arc::clone(&peers))));
        let mut tasks = tokio::task::JoinSet::new();
        let meta = Arc::clone(&open[0]);
        tasks.spawn(everlog_meta::keep_open(Arc::clone(raft), Arc::clone(&meta)));
        if !is_bootstrapped {
            if disk_number == 0 || start.sabotage == Some(Sabotage::ReusedReplicaId) {
                self.found(&open).await?;
            }
            start.disk.lock().is_bootstrapped = true;
        }
        tasks.spawn(bring(open.clone(), Arc::clone(&start.wanted)));
        let namespaces = Namespaces::open(meta, Some(me)).await.map_err(|error| error.to_string())?;
        let slots = SlotTable::even(&(1..=PARTITIONS).map(GroupId).collect::<Vec<_>>()).ok_or("too many partitions")?;
        // Whichever node leads the metadata does this, and the others see it.
        while !is_done(if namespaces.is_founded() {
            Ok(())
        } else {
            namespaces.slots_or_set(slots.clone()).await.map(drop)
        })
        .await?
        {}
        while !is_done(namespaces.ensure(["default"].into_iter(), &[]).await).await? {}
        let partitions = open[1..].to_vec();
        let leaders = GroupLeaders::new(me, partitions.iter().cloned());
        let source: Arc<dyn NamespaceSource> = Arc::clone(&namespaces) as _;
        let faults = RowFaults::default();
        let rows = TaskRows::new(partitions.clone(), Arc::clone(&source), faults.clone());
        let peers: Arc<dyn Peers> = peers;
        let nodes = Nodes::new(me, peers, rows);
        let leads_of: Arc<dyn Leaders> = Arc::clone(&leaders) as _;
        let offers =
            Offers::new(Arc::clone(&nodes), Arc::clone(&namespaces) as Arc<dyn SlotSource>, Arc::clone(&leads_of));
        let pages: Arc<dyn Backlog> = Arc::new(Pages::new(Arc::clone(&nodes), Arc::clone(&source)));
        let matching = MatchingHandle::new(Matching::new(pages), Arc::clone(&offers) as Arc<dyn Homes>);
        offers.set_matching(matching.local());
        leaders.set_nodes(&nodes);
        let cluster = Cluster { leaders: leads_of, others: Arc::clone(&nodes) as _ };
        let config = PerNamespace::new(DynamicConfig::default(), []);
        let limits = Arc::new(InForce::new(config.map(|config| config.limits.clone())));
        let (queries, batch_jobs) = (Arc::new(Queries::new()), BatchJobs::default());
        let dependencies = Dependencies {
            matching: matching.clone(),
            queries: Arc::clone(&queries),
            batch_jobs: batch_jobs.clone(),
            namespaces: source,
            slots: Arc::clone(&namespaces) as _,
            cluster: cluster.clone(),
            faults,
            limits,
            cache_bytes_max: 16 << 20,
        };
        let loops = everlog_partition::spawn(raft, partitions, &dependencies).map_err(|error| error.to_string())?;
        let router = Router::new(loops, Arc::clone(&namespaces) as _, cluster);
        let placed = open.iter().map(|slot| slot.read().id()).map(|group| (group, voters(start.nodes, group)));
        let leads = Leads::new(me, open.clone(), placed.collect(), Some(Arc::clone(transport)));
        nodes.set_leads(&leads);
        tasks.spawn(Arc::clone(&leads).spread());
        let operations = Operations::new(OperationsParts {
            about: About {
                node: me,
                version: String::new(),
                start_count: 1,
                cluster_id: String::new(),
                cluster_name: "simulation".to_owned(),
                address: String::new(),
            },
            leads,
            nodes: Some(Arc::clone(&nodes)),
            addresses: Box::new(BTreeMap::new),
            disk: Arc::new(DiskFigures::default),
            namespaces: Arc::clone(&namespaces),
            founders: std::collections::BTreeSet::new(),
            is_asking: Box::new(|_| false),
        });
        let front = LocalFront::new(Services {
            router,
            nodes: Some(nodes),
            operations,
            matching,
            namespaces,
            queries,
            batch_jobs,
            config: Arc::new(InForce::new(config)),
            cluster_id: "simulation".to_owned(),
            request_bytes_max: 4 << 20,
            disk: Arc::new(DiskRoom::default()),
            connections_max: 100,
            handshakes_per_address_max: 100,
            handshake_timeout: Duration::from_secs(10),
            render_metrics: String::new,
        });
        *entry.lock() = Some(front.entry());
        // As long as the process lives.
        let _ = tasks.join_next().await;
        std::future::pending::<()>().await;
        Ok(())
    }

    /// Founds the groups that nobody has founded yet.
    async fn found(&self, open: &[GroupSlot]) -> Result<(), String> {
        let began = tokio::time::Instant::now();
        loop {
            let missing: Vec<Group> =
                open.iter().map(|slot| slot.read().clone()).filter(|group| !group.is_founded()).collect();
            if missing.is_empty() {
                return Ok(());
            }
            for group in missing {
                let voters = voters(self.start.nodes, group.id());
                if voters.first() == Some(&self.start.node) || began.elapsed() > FOUND_WAIT {
                    let voters = voters.into_iter().map(|node| (replica_of(node, 0), node)).collect();
                    group.found(&voters).await.map_err(|error| error.to_string())?;
                }
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }
}

/// Has the groups that are led here have the replicas that they should have.
async fn bring(groups: Vec<GroupSlot>, wanted: Wanted) {
    loop {
        tokio::time::sleep(BRING_INTERVAL).await;
        for slot in &groups {
            let group = slot.read().clone();
            if !matches!(*group.leadership().borrow(), Leadership::Leader { .. }) {
                continue;
            }
            let Some(placement) = wanted.lock().get(&group.id()).cloned() else { continue };
            if placement.is_settled {
                continue;
            }
            // Whatever went wrong is tried again.
            let step = tokio::time::timeout(BRING_TIME_MAX, group.bring_to(&placement.replicas)).await;
            tracing::debug!(group = %group.id(), ?step, "a step to the replicas that a group should have");
            if matches!(step, Ok(Ok(true)))
                && let Some(now) = wanted.lock().get_mut(&group.id()).filter(|now| **now == placement)
            {
                now.is_settled = true;
            }
        }
    }
}

/// Whether something was done to the metadata; if not, it is to be tried again, after a while.
async fn is_done(tried: Result<(), MetaError>) -> Result<bool, String> {
    match tried {
        Ok(()) => Ok(true),
        Err(MetaError::LedElsewhere(_) | MetaError::Unavailable(_)) => {
            tokio::time::sleep(LOOK_INTERVAL).await;
            Ok(false)
        }
        Err(error) => Err(error.to_string()),
    }
}
