//! One node: its engines, its Raft groups, its partitions, and the servers in front of them.
//!
//! ```text
//!   data directory ─▶ log engine, state engine ─▶ raft node ─▶ group 0: namespaces
//!                                                          └─▶ groups 1..=n: partition loops ◀─▶ matching ◀─ frontend
//! ```

use std::fmt;
use std::future::Future;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use everlog_cluster::{Nodes, Offers, Pages, Peers};
use everlog_frontend::{Listeners, ServeError, Services};
use everlog_kernel::Limits;
use everlog_matching::query_waiters::Queries;
use everlog_matching::{Backlog, Homes, Matching, MatchingHandle};
use everlog_meta::{MetaError, Namespaces};
use everlog_model::{DiskRoom, InForce, NamespaceSource, NodeId, OneNode, SlotSource, SlotTable, limits};
use everlog_partition::{Cluster, Dependencies, Leaders, Router, RowFaults, TaskRows};
use everlog_raft::{Group, GroupReplica, GroupSlot, Leadership, NodeOptions};
use everlog_storage::GroupId;
use everlog_storage::directory::{DataDirectory, DirectoryError, NodeIdentity};
use everlog_storage::log::{LogEngine, LogError};
use everlog_storage::rocks_state::{RocksState, StateOptions};
use everlog_storage::segment_log::{LogOptions, SegmentLog};
use everlog_storage::state::{StateEngine, StateError};
use parking_lot::RwLock;

use crate::descriptors::Descriptors;
use crate::disk::DiskWatch;
use crate::settings::{DataLocation, Settings, follow};
use crate::{memory, telemetry};

/// The group of the metadata.
pub const META_GROUP: GroupId = GroupId(0);

/// What a node is started with.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where its data is.
    pub data_dir: PathBuf,
    /// How many partitions a new data directory gets. An existing one keeps the number it was made with.
    pub partitions: u32,
    /// Limits of the kernel, by namespace.
    pub limits: Arc<InForce<Limits>>,
    /// Memory for workflows, bytes, over all partitions.
    pub cache_bytes_max: usize,
    /// Tables of rows that are open at a time.
    pub tables_open_max: usize,
    /// The other nodes, if there are any.
    pub neighbours: Option<Neighbours>,
}

/// The other nodes of a cluster. As long as partitions have one replica each, a node has those that nobody else leads.
#[derive(Clone)]
pub struct Neighbours {
    /// The node itself.
    pub me: NodeId,
    /// Who leads which partition.
    pub leaders: Arc<dyn Leaders>,
    /// The way to the others.
    pub peers: Arc<dyn Peers>,
}

impl fmt::Debug for Neighbours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Neighbours").field("me", &self.me).finish_non_exhaustive()
    }
}

/// Why a node cannot start, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The data directory cannot be used: taken, of another format, or not accessible.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The log engine failed.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The state engine failed.
    #[error(transparent)]
    State(#[from] StateError),
    /// The Raft groups failed.
    #[error(transparent)]
    Raft(#[from] everlog_raft::NodeError),
    /// It could not be stopped in an orderly way: the disk takes no rows, for example.
    #[error("not everything was written within {0:?}; what was acknowledged is in the log")]
    Late(Duration),
    /// The metadata cannot be read or written.
    #[error(transparent)]
    Meta(#[from] MetaError),
    /// The servers failed.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// A thread or a task cannot be started.
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

/// A running node without its servers.
pub struct Node {
    /// The way to the workflows.
    pub router: Router,
    /// The task queues.
    pub matching: MatchingHandle,
    /// The namespaces.
    pub namespaces: Arc<Namespaces>,
    /// Who waits for answers to queries.
    pub queries: Arc<Queries>,
    /// The other nodes, if there are any.
    pub nodes: Option<Arc<Nodes>>,
    raft: Arc<everlog_raft::Node>,
    log: Arc<SegmentLog>,
    state: Arc<RocksState>,
    /// Held until everything else has stopped: it keeps other processes out.
    directory: DataDirectory,
}

impl Node {
    /// Opens the data directory and starts every group; returns when all of them are led here.
    ///
    /// # Errors
    ///
    /// See [`NodeError`].
    pub async fn start(options: Options) -> Result<Node, NodeError> {
        let directory = DataDirectory::open(&options.data_dir)?;
        // A directory that is used for the first time founds a cluster of one, which is named after it.
        let me = options.neighbours.as_ref().map_or(NodeId(1), |neighbours| neighbours.me);
        let identity = directory.count_start(directory.id(), me.0)?;
        let log_path = directory.log_path();
        let state_path = directory.state_path();
        let state_options = StateOptions { tables_open_max: options.tables_open_max, ..StateOptions::default() };
        // Both read their files; side by side that takes half the time.
        let (log, state) = tokio::join!(
            tokio::task::spawn_blocking(move || SegmentLog::open(&log_path, LogOptions::default())),
            tokio::task::spawn_blocking(move || RocksState::open(&state_path, state_options)),
        );
        let log = Arc::new(log.map_err(std::io::Error::other)??);
        let state = Arc::new(state.map_err(std::io::Error::other)??);
        let raft = Arc::new(everlog_raft::Node::new(
            NodeOptions::default(),
            Arc::clone(&log) as Arc<dyn LogEngine>,
            Arc::clone(&state) as Arc<dyn StateEngine>,
        ));
        let meta = Arc::new(RwLock::new(start_group(&raft, &identity, META_GROUP).await?));
        tokio::spawn(everlog_meta::keep_open(Arc::clone(&raft), Arc::clone(&meta)));
        let namespaces = Namespaces::open(meta).await?;
        namespaces.catch_up().await?;
        let wanted: Vec<_> = (1..=options.partitions).map(GroupId).collect();
        let wanted = SlotTable::even(&wanted)
            .ok_or_else(|| MetaError::Invalid(format!("cannot have {} partitions", wanted.len()).into()))?;
        let slots = namespaces.slots_or_set(wanted).await?;
        let mut groups = Vec::new();
        let leads_elsewhere = |partition: &GroupId| {
            let neighbours = options.neighbours.as_ref();
            neighbours.is_some_and(|neighbours| neighbours.leaders.leads_elsewhere(*partition).is_some())
        };
        for partition in slots.partitions().into_iter().filter(|partition| !leads_elsewhere(partition)) {
            groups.push(start_group(&raft, &identity, partition).await?);
        }
        for group in &groups {
            until_led(group).await?;
        }
        if !identity.is_bootstrapped {
            directory.finish_bootstrap()?;
        }
        let groups: Vec<GroupSlot> = groups.into_iter().map(|group| Arc::new(RwLock::new(group))).collect();
        let source: Arc<dyn NamespaceSource> = Arc::clone(&namespaces) as _;
        let faults = RowFaults::default();
        let rows = TaskRows::new(groups.clone(), Arc::clone(&source), faults.clone());
        let Seams { nodes, cluster, matching } = seams(options.neighbours, rows, &namespaces);
        let queries = Arc::new(Queries::new());
        let dependencies = Dependencies {
            matching: matching.clone(),
            queries: Arc::clone(&queries),
            namespaces: source,
            slots: Arc::clone(&namespaces) as _,
            cluster: cluster.clone(),
            faults,
            limits: options.limits,
            cache_bytes_max: options.cache_bytes_max / groups.len().max(1),
        };
        let partitions = everlog_partition::spawn(&raft, groups, &dependencies)?;
        let router = Router::new(partitions, Arc::clone(&namespaces) as _, cluster);
        Ok(Node { router, matching, namespaces, queries, nodes, raft, log, state, directory })
    }

    /// Resolves when the node must stop because its disk failed, or its metadata cannot be read.
    pub fn fatal(&self) -> impl Future<Output = NodeError> + Send + 'static {
        let (disk, metadata) = (self.raft.fatal(), self.namespaces.unreadable());
        async {
            tokio::select! {
                error = disk => error.into(),
                error = metadata => error.into(),
            }
        }
    }

    /// Names the cluster that the data belongs to.
    pub fn cluster_id(&self) -> String {
        self.directory.id().to_string()
    }

    /// What the log engine has written so far.
    pub fn log_stats(&self) -> everlog_storage::log::LogStats {
        self.log.stats()
    }

    /// What the state engine has written so far.
    pub fn state_stats(&self) -> everlog_storage::state::StateStats {
        self.state.stats()
    }

    /// Stops the partitions once what is in flight is durable, then the groups, and flushes the rows.
    ///
    /// # Errors
    ///
    /// See [`NodeError`].
    pub async fn stop(self) -> Result<(), NodeError> {
        let stop = async {
            self.matching.local().drain();
            for partition in self.router.partitions() {
                partition.stop().await;
            }
            Ok(self.raft.shutdown().await?)
        };
        tokio::time::timeout(limits::STOP_TIME_MAX, stop).await.unwrap_or(Err(NodeError::Late(limits::STOP_TIME_MAX)))
    }
}

/// Runs a node with its servers until `shutdown` resolves or its disk fails. Prints the line with its addresses once it serves.
///
/// # Errors
///
/// See [`NodeError`].
pub async fn run(
    settings: Settings,
    descriptors: Descriptors,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), NodeError> {
    let DataLocation::Directory(data_dir) = &settings.data else {
        return Err(NodeError::Io(std::io::Error::other("a temporary data directory was not made")));
    };
    // Ports first: a taken one is the likeliest mistake, and costs nothing to find.
    let listeners = Listeners::bind(&settings.listen).await?;
    let config = Arc::new(InForce::new(settings.dynamic.per_namespace()));
    let limits = Arc::new(InForce::new(settings.dynamic.per_namespace().map(|config| config.limits.clone())));
    let node = Node::start(Options {
        data_dir: data_dir.clone(),
        partitions: limits::PARTITIONS_DEFAULT,
        limits: Arc::clone(&limits),
        cache_bytes_max: limits::WORKFLOW_CACHE_BYTES_MAX,
        tables_open_max: descriptors.tables_open_max(),
        neighbours: None,
    })
    .await?;
    node.namespaces.ensure(settings.wanted_namespaces(), &settings.search_attributes).await?;
    let disk = Arc::new(DiskRoom::default());
    let watch = DiskWatch {
        path: data_dir.clone(),
        log: Arc::clone(&node.log) as _,
        marks: settings.disk,
        room: Arc::clone(&disk),
    };
    watch.look()?;
    let services = Services {
        disk,
        router: node.router.clone(),
        nodes: node.nodes.clone(),
        matching: node.matching.clone(),
        namespaces: Arc::clone(&node.namespaces),
        queries: Arc::clone(&node.queries),
        config: Arc::clone(&config),
        cluster_id: node.cluster_id(),
        request_bytes_max: settings.listen.request_bytes_max,
        connections_max: descriptors.connections_max(),
        handshakes_per_address_max: settings.listen.handshakes_per_address_max,
        handshake_timeout: settings.listen.handshake_timeout,
        render_metrics: telemetry::render,
    };
    let line = settings.serving_line(&listeners.addresses());
    // Whoever started the process may have closed its standard output.
    let _ = writeln!(std::io::stdout(), "{line}");
    tracing::info!("{line}");
    let fatal = node.fatal();
    // A task of its own: it is to run where the partition loops run.
    let giving_back = tokio::spawn(memory::give_back(Arc::clone(&node.state)));
    let watching = tokio::spawn(watch.run());
    let following = tokio::spawn(follow(settings.clone(), config, limits));
    let served = tokio::select! {
        served = everlog_frontend::serve(listeners, services, shutdown) => served.map_err(NodeError::from),
        () = telemetry::fold_histograms() => Ok(()),
        error = fatal => {
            tracing::error!(%error, "the node stops; restart to recover a known state");
            return Err(error);
        }
    };
    giving_back.abort();
    watching.abort();
    following.abort();
    node.stop().await?;
    served
}

/// What of a node is another thing when there are other nodes.
struct Seams {
    nodes: Option<Arc<Nodes>>,
    cluster: Cluster,
    matching: MatchingHandle,
}

fn seams(neighbours: Option<Neighbours>, rows: TaskRows, namespaces: &Arc<Namespaces>) -> Seams {
    let Some(Neighbours { me, leaders, peers }) = neighbours else {
        let matching = MatchingHandle::new(Matching::new(Arc::new(rows)), Arc::new(OneNode));
        return Seams { nodes: None, cluster: Cluster::of_one(), matching };
    };
    let nodes = Nodes::new(me, peers, rows);
    let slots: Arc<dyn SlotSource> = Arc::clone(namespaces) as _;
    let offers = Offers::new(Arc::clone(&nodes), slots, Arc::clone(&leaders));
    let pages: Arc<dyn Backlog> = Arc::new(Pages::new(Arc::clone(&nodes), Arc::clone(namespaces) as _));
    let matching = MatchingHandle::new(Matching::new(pages), Arc::clone(&offers) as Arc<dyn Homes>);
    offers.set_matching(matching.local());
    let cluster = Cluster { leaders, others: Arc::clone(&nodes) as _ };
    Seams { nodes: Some(nodes), cluster, matching }
}

/// Opens a group that is there; creates it while the groups that a cluster begins with are not all there yet.
async fn start_group(
    raft: &everlog_raft::Node,
    identity: &NodeIdentity,
    group: GroupId,
) -> Result<Group, everlog_raft::NodeError> {
    let replica = GroupReplica::founding(group);
    if identity.is_bootstrapped { raft.open_group(replica).await } else { raft.create_group(replica).await }
}

/// Waits until this node leads a group.
async fn until_led(group: &Group) -> Result<(), NodeError> {
    let mut leadership = group.leadership();
    let led = leadership.wait_for(|now| !matches!(now, Leadership::Follower)).await.map(|now| *now);
    match led {
        Ok(Leadership::Leader { .. }) => Ok(()),
        _ => Err(NodeError::Raft(everlog_raft::NodeError(format!("group {} has stopped", group.id())))),
    }
}
