//! One node: its engines, its Raft groups, its partitions, and the servers in front of them.
//!
//! ```text
//!   data directory ─▶ log engine, state engine ─▶ raft node ─▶ group 0: namespaces
//!                                                          └─▶ groups 1..=n: partition loops ◀─▶ matching ◀─ frontend
//! ```
//!
//! A node of a cluster finds the others first (`membership`), and has replicas of groups that any of them may lead.

use std::fmt;
use std::future::Future;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use everlog_archive::Archive;
use everlog_cluster::{
    About, DiskFigures, Formats, GroupLeaders, Health, Leads, MovePartitions, Moves, Nodes, Offers, Operations,
    OperationsParts, Pages, Peers, Places, Pools, PoolsParts, TransportPeers, Voters,
};
use everlog_config::{DynamicConfig, Listen};
use everlog_frontend::{Listeners, ServeError, Services};
use everlog_kernel::Limits;
use everlog_matching::query_waiters::Queries;
use everlog_matching::{Backlog, Homes, Matching, MatchingHandle};
use everlog_meta::{MetaError, Namespaces};
use everlog_model::{
    DiskRoom, InForce, NamespaceSource, NodeId, OneNode, ReadableFormats, SlotSource, SlotTable, limits,
};
use everlog_partition::{
    BatchJobs, Cluster, Dependencies, ExpiredRuns, Leaders, NexusCalls, Partitions, Router, RowFaults, SkippedTime,
    TaskRows,
};
use everlog_proto::api::enums::v1::IndexedValueType;
use everlog_proto::cluster::Placement;
use everlog_raft::{Group, GroupReplica, GroupSlot, GroupSlots, Leadership, NodeInfo, NodeOptions};
use everlog_storage::GroupId;
use everlog_storage::directory::{DataDirectory, DirectoryError, Founding, NodeIdentity};
use everlog_storage::log::{LogEngine, LogError};
use everlog_storage::rocks_state::{RocksState, StateOptions};
use everlog_storage::segment_log::{LogOptions, SegmentLog};
use everlog_storage::state::{StateEngine, StateError};
use parking_lot::RwLock;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::alone::{self, Alone};
use crate::descriptors::Descriptors;
use crate::disk::{self, DiskWatch};
use crate::enrolment::CERTIFICATE_LIFETIME;
use crate::membership::{ClusterOptions, FINALIZE_AFTER, Membership};
use crate::replicas::{self, Replicas};
use crate::settings::{DataLocation, Settings, follow};
use crate::{memory, telemetry};

/// How long a node that starts waits for the latest of the metadata.
const CATCH_UP_TIME_MAX: Duration = Duration::from_secs(5);

/// Connections that a node takes where nobody says more.
const CONNECTIONS_DEFAULT: usize = 1000;

/// How often a node looks whether the metadata is there, and how often it says that it is not.
const FOUND_INTERVAL: Duration = Duration::from_millis(100);
const FOUND_SAY_INTERVAL: Duration = Duration::from_secs(10);

/// How long a cluster that is being founded tries to have the placements that its settings name, and how often.
const PLACEMENTS_WAIT_MAX: Duration = Duration::from_secs(60);
const PLACEMENTS_AGAIN_WAIT: Duration = Duration::from_millis(500);

/// Heartbeats that a follower may miss before it asks for an election.
const HEARTBEATS_MISSED: u32 = 5;

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
    /// Tasks of a queue and partition in memory.
    pub queue_tasks_in_memory_max: usize,
    /// The cluster that it is one node of, if there are others.
    pub cluster: Option<ClusterOptions>,
    /// Other nodes that partitions of one replica each are shared with, for tests: a node has those that nobody else leads. Excludes
    /// `cluster`.
    pub neighbours: Option<Neighbours>,
    /// The time of a server that skips it, for tests. Excludes other nodes.
    pub skipped_time: Option<Arc<SkippedTime>>,
}

impl Options {
    /// A node without others, with what it has where nobody says more.
    pub fn of_one(data_dir: PathBuf) -> Options {
        Options {
            data_dir,
            partitions: limits::PARTITIONS_DEFAULT,
            limits: Arc::default(),
            cache_bytes_max: limits::WORKFLOW_CACHE_BYTES_MAX,
            tables_open_max: StateOptions::default().tables_open_max,
            queue_tasks_in_memory_max: limits::QUEUE_TASKS_IN_MEMORY_MAX,
            cluster: None,
            neighbours: None,
            skipped_time: None,
        }
    }
}

/// The other nodes of a cluster.
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
    /// It cannot be part of the cluster that the settings name.
    #[error("{0}")]
    Cluster(String),
    /// A thread or a task cannot be started.
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

/// A running node without its servers.
pub struct Node {
    /// What it consists of above its engines.
    pub parts: Assembly,
    raft: Arc<everlog_raft::Node>,
    log: Arc<SegmentLog>,
    state: Arc<RocksState>,
    /// Its cluster, if there are other nodes.
    membership: Option<Membership>,
    /// Whether that is founded with this start.
    is_founding: bool,
    /// Held until everything else has stopped: it keeps other processes out.
    directory: Arc<DataDirectory>,
}

/// What a node is put together on.
pub struct Ground {
    /// Its Raft groups, none of which is open yet, on its engines.
    pub raft: Arc<everlog_raft::Node>,
    /// Who it is.
    pub identity: NodeIdentity,
    /// Its cluster, if there are other nodes.
    pub membership: Option<Membership>,
    /// See [`Options::neighbours`].
    pub neighbours: Option<Neighbours>,
    /// See [`Options::partitions`].
    pub partitions: u32,
    /// See [`Options::limits`].
    pub limits: Arc<InForce<Limits>>,
    /// See [`Options::cache_bytes_max`].
    pub cache_bytes_max: usize,
    /// See [`Options::queue_tasks_in_memory_max`].
    pub queue_tasks_in_memory_max: usize,
    /// See [`Options::skipped_time`].
    pub skipped_time: Option<Arc<SkippedTime>>,
    /// Takes note, durably, that the groups are all there that a cluster begins with.
    pub finish_bootstrap: Box<dyn Fn() -> Result<(), DirectoryError> + Send + Sync>,
    /// Looks at the disk; may block on it.
    pub disk: Arc<dyn Fn() -> DiskFigures + Send + Sync>,
}

/// What a node consists of above its engines.
pub struct Assembly {
    /// The way to the workflows.
    pub router: Router,
    /// The task queues.
    pub matching: MatchingHandle,
    /// The namespaces.
    pub namespaces: Arc<Namespaces>,
    /// Who waits for answers to queries.
    pub queries: Arc<Queries>,
    /// The batch jobs that run here.
    pub batch_jobs: BatchJobs,
    /// The calls to Nexus services that runs ask for here.
    pub nexus_calls: NexusCalls,
    /// The runs that are to be archived here before they go.
    pub expired_runs: ExpiredRuns,
    /// The other nodes, if there are any.
    pub nodes: Option<Arc<Nodes>>,
    /// What operators see and steer.
    pub operations: Arc<Operations>,
    /// The pools of partitions.
    pub pools: Arc<Pools>,
    /// What partitions do when namespaces move from one pool to another.
    pub moves: Arc<MovePartitions>,
    /// Which formats it reads.
    pub formats: Arc<Formats>,
    /// What goes on beside, for as long as the node runs.
    pub tasks: JoinSet<()>,
}

impl Assembly {
    /// What its servers serve, with settings where nobody says more.
    pub fn services(&self, config: Arc<InForce<DynamicConfig>>, cluster_id: String) -> Services {
        let listen = Listen::default();
        Services {
            disk: Arc::default(),
            operations: Arc::clone(&self.operations),
            pools: Arc::clone(&self.pools),
            moves: Arc::clone(&self.moves),
            router: self.router.clone(),
            nodes: self.nodes.clone(),
            matching: self.matching.clone(),
            namespaces: Arc::clone(&self.namespaces),
            queries: Arc::clone(&self.queries),
            batch_jobs: self.batch_jobs.clone(),
            nexus_calls: self.nexus_calls.clone(),
            expired_runs: self.expired_runs.clone(),
            archive: Archive::default(),
            config,
            skipped_time: None,
            cluster_id,
            request_bytes_max: listen.request_bytes_max,
            connections_max: CONNECTIONS_DEFAULT,
            handshakes_per_address_max: listen.handshakes_per_address_max,
            handshake_timeout: listen.handshake_timeout,
            http_access: Arc::new(listen.http),
            render_metrics: telemetry::render,
        }
    }
}

impl Node {
    /// Opens the data directory and starts every group. Returns once all of them are led here; in a cluster, once this node knows which
    /// partitions there are.
    ///
    /// # Errors
    ///
    /// See [`NodeError`].
    pub async fn start(options: Options) -> Result<Node, NodeError> {
        let directory = Arc::new(DataDirectory::open(&options.data_dir)?);
        directory.check_whole()?;
        let membership = match options.cluster {
            Some(cluster) => Some(Membership::find(&directory, cluster).await?),
            None => None,
        };
        if membership.is_none()
            && let Some(founding) = directory.founded()?
        {
            let (path, name) = (directory.path().display(), founding.name);
            return Err(NodeError::Cluster(format!(
                "data directory {path} belongs to cluster {name:?}, but the settings have no [cluster]"
            )));
        }
        // A directory that is used for the first time without others founds a cluster of one, which is named after it.
        let (cluster_id, me) = match (&membership, &options.neighbours) {
            (Some(membership), _) => (membership.founding.cluster_id, membership.me),
            (None, Some(neighbours)) => (directory.id(), neighbours.me),
            (None, None) => (directory.id(), NodeId(1)),
        };
        let identity = directory.count_start(cluster_id, me.0)?;
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
        let raft = Arc::new(everlog_raft::Node::with_peers(
            raft_options(membership.as_ref()),
            Arc::clone(&log) as Arc<dyn LogEngine>,
            Arc::clone(&state) as Arc<dyn StateEngine>,
            membership.as_ref().map(|membership| Arc::clone(&membership.links) as _),
        ));
        let finished = Arc::clone(&directory);
        let is_founding = !identity.is_bootstrapped && membership.as_ref().is_some_and(Membership::is_founder);
        let ground = Ground {
            raft: Arc::clone(&raft),
            identity,
            membership: membership.clone(),
            neighbours: options.neighbours,
            partitions: options.partitions,
            limits: options.limits,
            cache_bytes_max: options.cache_bytes_max,
            queue_tasks_in_memory_max: options.queue_tasks_in_memory_max,
            skipped_time: options.skipped_time,
            finish_bootstrap: Box::new(move || finished.finish_bootstrap()),
            disk: disk::figures(&directory),
        };
        // The futures of whoever calls would be nested too deeply for the compiler.
        let parts = Box::pin(ground.assemble()).await?;
        Ok(Node { parts, raft, log, state, membership, is_founding, directory })
    }
}

impl Ground {
    /// Starts every group. Returns once all of them are led here; in a cluster, once this node knows which partitions there are.
    ///
    /// # Errors
    ///
    /// See [`NodeError`].
    pub async fn assemble(self) -> Result<Assembly, NodeError> {
        let Ground { raft, identity, membership, neighbours, partitions, limits, .. } = self;
        let me = NodeId(identity.node_id);
        let starting = Starting { raft: &raft, identity: &identity, membership: membership.as_ref() };
        let meta = Arc::new(RwLock::new(starting.group(META_GROUP).await?));
        let mut tasks = JoinSet::new();
        tasks.spawn(everlog_meta::keep_open(Arc::clone(&raft), Arc::clone(&meta)));
        let namespaces =
            Namespaces::open(Arc::clone(&meta), membership.as_ref().map(|membership| membership.me)).await?;
        let places = membership.as_ref().map(|it| Arc::new(Places::new(it.founding.clone(), Arc::clone(&namespaces))));
        let formats = Arc::new(formats(me, membership.as_ref(), &namespaces, places.clone()));
        formats.check().map_err(NodeError::Cluster)?;
        let (groups, leaders, neighbours): (GroupSlots, _, _) = match membership.as_ref().zip(places.as_ref()) {
            None => {
                let groups = starting.alone(&namespaces, partitions, neighbours.as_ref(), &formats).await?;
                if !identity.is_bootstrapped {
                    (self.finish_bootstrap)()?;
                }
                (groups.into_iter().collect(), None, neighbours)
            }
            Some((membership, places)) => {
                let opened = replicas::open_known(&raft, membership, places, identity.is_bootstrapped).await?;
                let peers = TransportPeers::new(Arc::clone(&membership.links) as _);
                membership.join(&identity, places, &raft, &peers);
                if !identity.is_bootstrapped {
                    if membership.is_founder() {
                        let all: Vec<_> = opened.iter().chain([&meta]).cloned().collect();
                        membership.found_groups(&all).await?;
                    }
                    (self.finish_bootstrap)()?;
                }
                membership.admit(places);
                found_slots(&namespaces, membership, &formats).await?;
                let groups: GroupSlots = opened.into_iter().collect();
                let leaders = GroupLeaders::new(me, groups.clone());
                let neighbours = Neighbours { me, leaders: Arc::clone(&leaders) as _, peers };
                (groups, Some(leaders), Some(neighbours))
            }
        };
        let source: Arc<dyn NamespaceSource> = Arc::clone(&namespaces) as _;
        let faults = RowFaults::default();
        let rows = TaskRows::new(groups.clone(), Arc::clone(&source), faults.clone());
        let Seams { nodes, cluster, matching, offers } =
            seams(neighbours, rows, &namespaces, self.queue_tasks_in_memory_max);
        if let (Some(leaders), Some(nodes)) = (leaders, &nodes) {
            leaders.set_nodes(nodes);
        }
        let queries = Arc::new(Queries::new());
        let batch_jobs = BatchJobs::default();
        let (nexus_calls, expired_runs) = (NexusCalls::default(), ExpiredRuns::default());
        let dependencies = Dependencies {
            matching: matching.clone(),
            queries: Arc::clone(&queries),
            batch_jobs: batch_jobs.clone(),
            nexus_calls: nexus_calls.clone(),
            expired_runs: expired_runs.clone(),
            namespaces: source,
            slots: Arc::clone(&namespaces) as _,
            formats: Arc::clone(&namespaces) as _,
            cluster: cluster.clone(),
            faults,
            limits,
            cache_bytes_max: self.cache_bytes_max / partitions_of_a_node(&groups, places.as_deref()),
            skipped_time: self.skipped_time,
        };
        let partitions = Partitions::new(&raft, dependencies)?;
        let picture = places.as_ref().map(|places| places.picture());
        let is_founded =
            |group: &GroupSlot| picture.as_ref().is_none_or(|it| it.founders_of(group.read().id()).is_empty());
        groups.slots().into_iter().filter(is_founded).for_each(|group| partitions.add(group));
        let router = Router::new(partitions.clone(), Arc::clone(&namespaces) as _, cluster);
        let voters: Voters = match places.clone() {
            Some(places) => Box::new(move |group| places.nodes_of(group)),
            None => Box::new(move |_| vec![me]),
        };
        let transport = membership.as_ref().map(|membership| Arc::clone(&membership.links) as _);
        let leads = Leads::new(me, meta, groups.clone(), voters, transport);
        if let Some(nodes) = &nodes {
            nodes.set_leads(&leads);
            tasks.spawn(Arc::clone(&leads).spread());
        }
        let operations = Operations::new(OperationsParts {
            about: about(&identity, membership.as_ref()),
            leads: Arc::clone(&leads),
            nodes: nodes.clone(),
            addresses: match membership.clone() {
                Some(membership) => Box::new(move || membership.addresses()),
                None => Box::new(Default::default),
            },
            disk: self.disk,
            namespaces: Arc::clone(&namespaces),
            places: places.clone(),
            waiting: match membership.clone() {
                Some(membership) => Box::new(move || membership.waiting()),
                None => Box::new(Vec::new),
            },
            certificate_lifetime: membership
                .as_ref()
                .and_then(|membership| membership.enrolment.as_ref())
                .map_or(CERTIFICATE_LIFETIME, |enrolment| enrolment.lifetime()),
            formats: Arc::clone(&formats),
        });
        tasks.spawn(Arc::clone(&operations).keep_formats());
        let moves = Arc::new(MovePartitions {
            namespaces: Arc::clone(&namespaces),
            router: router.clone(),
            nodes: nodes.clone(),
            places: places.clone(),
        });
        tasks.spawn(Moves::new(Arc::clone(&namespaces), Arc::clone(&moves) as _).drive());
        tasks.spawn(everlog_cluster::follow_homes(Arc::clone(&namespaces), Arc::downgrade(matching.local()), offers));
        let pools = Pools::new(PoolsParts {
            me,
            namespaces: Arc::clone(&namespaces),
            router: router.clone(),
            places: places.clone(),
            health: match membership.clone() {
                Some(membership) => Box::new(move |node| membership.health(node)),
                None => Box::new(|_| Health::Up),
            },
        });
        if let (Some(membership), Some(places), Some(nodes)) = (membership.clone(), places, nodes.clone()) {
            let replicas = Arc::new(Replicas {
                raft: Arc::clone(&raft),
                membership,
                places,
                namespaces: Arc::clone(&namespaces),
                nodes,
                groups,
                leads,
                partitions,
            });
            if let Some(keep) = replicas.membership.enrol(&replicas.places, &operations)? {
                tasks.spawn(keep);
            }
            tasks.spawn(Arc::clone(&replicas).follow());
            tasks.spawn(Arc::clone(&replicas).lead(Arc::clone(&operations)));
            tasks.spawn(Arc::clone(&replicas).announce(Arc::clone(&operations)));
            tasks.spawn(Arc::clone(&replicas).hand_on());
            tasks.spawn(replicas.plan());
        } else {
            let namespaces = Arc::clone(&namespaces);
            tasks.spawn(Alone { raft: Arc::clone(&raft), namespaces, groups, partitions }.follow());
        }
        Ok(Assembly {
            router,
            matching,
            namespaces,
            queries,
            batch_jobs,
            nexus_calls,
            expired_runs,
            nodes,
            operations,
            pools,
            moves,
            formats,
            tasks,
        })
    }
}

impl Node {
    /// Gives the leads of this node to others, so that nobody waits until they notice that it is gone.
    pub async fn hand_over(&self) {
        if self.membership.is_some() {
            self.parts.operations.leads().hand_over().await;
        }
    }

    /// Resolves when the node must stop because its disk failed, its metadata cannot be read, it was removed from its cluster, or that has formats which it
    /// does not read.
    pub fn fatal(&self) -> impl Future<Output = NodeError> + Send + 'static {
        let (disk, metadata) = (self.raft.fatal(), self.parts.namespaces.unreadable());
        let removed = self.membership.as_ref().map(|membership| membership.links.removed());
        let outgrown = self.parts.formats.outgrown();
        async move {
            let removed = async {
                match removed {
                    Some(removed) => removed.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                error = disk => error.into(),
                error = metadata => error.into(),
                why = outgrown => NodeError::Cluster(why),
                why = removed => NodeError::Cluster(format!(
                    "{why}, for good: its data directory is of no more use"
                )),
            }
        }
    }

    /// Names the cluster that the data belongs to.
    pub fn cluster_id(&self) -> String {
        let founded = self.membership.as_ref().map(|membership| membership.founding.cluster_id);
        founded.unwrap_or_else(|| self.directory.id()).to_string()
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
            self.parts.matching.local().drain();
            for partition in self.parts.router.partitions().all().iter() {
                partition.stop().await;
            }
            let stopped = self.raft.shutdown().await;
            if let Some(membership) = &self.membership {
                membership.links.shutdown().await;
            }
            Ok(stopped?)
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
    let mut shutdown = std::pin::pin!(shutdown);
    let config = Arc::new(InForce::new(settings.dynamic.per_namespace()));
    let limits = Arc::new(InForce::new(settings.dynamic.per_namespace().map(|config| config.limits.clone())));
    let skipped_time = settings.time_skipping.map(|skipping| Arc::new(SkippedTime::new(skipping.is_locked())));
    let starting = Node::start(Options {
        limits: Arc::clone(&limits),
        tables_open_max: descriptors.tables_open_max(),
        cluster: settings.cluster.clone(),
        skipped_time: skipped_time.clone(),
        ..Options::of_one(data_dir.clone())
    });
    // Nodes of a cluster wait for each other.
    let node = tokio::select! {
        node = starting => node?,
        () = &mut shutdown => return Ok(()),
        never = listeners.turn_away() => match never {},
    };
    let (names, retention) = (settings.wanted_namespaces(), settings.retention());
    let ensured = ensure(&node.parts.namespaces, names, retention, &settings.search_attributes);
    tokio::select! {
        ensured = ensured => ensured?,
        () = &mut shutdown => return node.stop().await,
        error = node.fatal() => return Err(error),
        never = listeners.turn_away() => match never {},
    }
    catch_up(&node.parts.namespaces, node.parts.nodes.as_deref()).await;
    let disk = Arc::new(DiskRoom::default());
    let watch = DiskWatch {
        path: data_dir.clone(),
        log: Arc::clone(&node.log) as _,
        marks: settings.disk,
        room: Arc::clone(&disk),
    };
    watch.look()?;
    node.parts.operations.serves_at(listeners.addresses().grpc.to_string());
    let services = Services {
        disk,
        archive: Archive::new(settings.archive.clone()),
        skipped_time,
        request_bytes_max: settings.listen.request_bytes_max,
        connections_max: descriptors.connections_max(),
        handshakes_per_address_max: settings.listen.handshakes_per_address_max,
        handshake_timeout: settings.listen.handshake_timeout,
        http_access: Arc::new(settings.listen.http.clone()),
        ..node.parts.services(Arc::clone(&config), node.cluster_id())
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
    let first_placements = if node.is_founding { settings.placements.clone() } else { Vec::new() };
    let placing = tokio::spawn(found_placements(Arc::clone(&node.parts.operations), first_placements));
    // While it still serves: calls are sent on to whoever leads.
    let handed_over = async {
        shutdown.await;
        node.hand_over().await;
    };
    let served = tokio::select! {
        served = everlog_frontend::serve(listeners, services, handed_over) => served.map_err(NodeError::from),
        () = telemetry::fold_histograms() => Ok(()),
        error = fatal => {
            tracing::error!(%error, "the node stops; restart to recover a known state");
            return Err(error);
        }
    };
    giving_back.abort();
    watching.abort();
    following.abort();
    placing.abort();
    node.stop().await?;
    served
}

/// Has a cluster that is being founded have the placements that its settings name. Whichever founder comes first does it.
async fn found_placements(operations: Arc<Operations>, placements: Vec<Placement>) {
    let begin = Instant::now();
    while let Err(status) = operations.found_placements(&placements).await {
        // Nodes are yet to say where they are.
        if begin.elapsed() > PLACEMENTS_WAIT_MAX {
            tracing::error!(
                why = status.message(),
                "the placements of the settings are given up: everlog cluster placement apply"
            );
            return;
        }
        tokio::time::sleep(PLACEMENTS_AGAIN_WAIT).await;
    }
}

/// What of a node is another thing when there are other nodes.
struct Seams {
    nodes: Option<Arc<Nodes>>,
    cluster: Cluster,
    matching: MatchingHandle,
    offers: Option<Arc<Offers>>,
}

fn seams(
    neighbours: Option<Neighbours>,
    rows: TaskRows,
    namespaces: &Arc<Namespaces>,
    queue_tasks_in_memory_max: usize,
) -> Seams {
    let matching = |rows: Arc<dyn Backlog>| Matching::with_tasks_in_memory(rows, queue_tasks_in_memory_max);
    let Some(Neighbours { me, leaders, peers }) = neighbours else {
        let matching = MatchingHandle::new(matching(Arc::new(rows)), Arc::new(OneNode));
        return Seams { nodes: None, cluster: Cluster::of_one(), matching, offers: None };
    };
    let nodes = Nodes::new(me, peers, rows);
    let slots: Arc<dyn SlotSource> = Arc::clone(namespaces) as _;
    let offers = Offers::new(Arc::clone(&nodes), Arc::clone(&slots), Arc::clone(&leaders));
    let pages: Arc<dyn Backlog> =
        Arc::new(Pages::new(Arc::clone(&nodes), Arc::clone(namespaces) as _, Arc::clone(&slots)));
    let matching = MatchingHandle::new(matching(pages), Arc::clone(&offers) as Arc<dyn Homes>);
    offers.set_matching(matching.local());
    let cluster = Cluster { leaders, others: Arc::clone(&nodes) as _ };
    Seams { nodes: Some(nodes), cluster, matching, offers: Some(offers) }
}

/// How the groups of a node are started.
struct Starting<'a> {
    raft: &'a everlog_raft::Node,
    identity: &'a NodeIdentity,
    membership: Option<&'a Membership>,
}

impl Starting<'_> {
    /// Opens a group that is there; creates it while the groups that a cluster begins with are not all there yet. In a cluster that is the metadata
    /// alone.
    async fn group(&self, group: GroupId) -> Result<Group, everlog_raft::NodeError> {
        let Starting { raft, identity, membership } = *self;
        match (membership.map(Membership::metadata_replica), identity.is_bootstrapped) {
            (Some(replica), true) => raft.open_group(replica).await,
            (Some(replica), false) => raft.create_replica(replica).await,
            (None, true) => raft.open_group(GroupReplica::founding(group)).await,
            (None, false) => raft.create_group(GroupReplica::founding(group)).await,
        }
    }

    /// The partitions of a node whose groups have no other replicas. Returns once it leads all of them.
    async fn alone(
        &self,
        namespaces: &Namespaces,
        partitions: u32,
        neighbours: Option<&Neighbours>,
        formats: &Formats,
    ) -> Result<Vec<GroupSlot>, NodeError> {
        namespaces.catch_up().await?;
        let slots = namespaces.slots_or_set(even_slots(partitions)?, &formats.founding([formats.me])).await?;
        // It may have seen more by now.
        formats.check().map_err(NodeError::Cluster)?;
        let leads_elsewhere = |partition: &GroupId| {
            neighbours.is_some_and(|neighbours| neighbours.leaders.leads_elsewhere(*partition).is_some())
        };
        let mut groups = Vec::new();
        for partition in slots.partitions().into_iter().filter(|partition| !leads_elsewhere(partition)) {
            groups.push(self.group(partition).await?);
        }
        groups.extend(alone::open_later_groups(self.raft, &namespaces.topology()).await?);
        for group in &groups {
            until_led(group).await?;
        }
        Ok(groups.into_iter().map(|group| Arc::new(RwLock::new(group))).collect())
    }
}

/// How many partitions a node has, or is to have once all nodes have their share.
fn partitions_of_a_node(groups: &GroupSlots, places: Option<&Places>) -> usize {
    let share = places.map(Places::picture).map_or(0, |picture| {
        let partitions = picture.groups.keys().filter(|group| **group != META_GROUP);
        let replicas: usize = partitions.map(|group| picture.placement_of(*group).replicas as usize).sum();
        // A partition has no two replicas on one node.
        let most = picture.placements_in_use().iter().map(|placement| placement.replicas as usize).max().unwrap_or(1);
        replicas.div_ceil(picture.members().count().max(most))
    });
    groups.all().len().max(share).max(1)
}

/// What a node reads, and what it knows of the others.
fn formats(
    me: NodeId,
    membership: Option<&Membership>,
    namespaces: &Arc<Namespaces>,
    places: Option<Arc<Places>>,
) -> Formats {
    Formats {
        me,
        readable: membership.map_or_else(ReadableFormats::default, |membership| membership.formats),
        namespaces: Arc::clone(namespaces),
        places,
        links: membership.map(|membership| Arc::clone(&membership.links)),
        finalize_after: membership.map_or(Some(FINALIZE_AFTER), |membership| membership.finalize_after),
    }
}

/// What a node says of itself.
fn about(identity: &NodeIdentity, membership: Option<&Membership>) -> About {
    About {
        node: NodeId(identity.node_id),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        start_count: identity.start_count,
        cluster_id: identity.cluster_id.to_string(),
        cluster_name: membership.map(|membership| membership.founding.name.clone()).unwrap_or_default(),
        address: membership.map(|membership| membership.address.clone()).unwrap_or_default(),
    }
}

fn even_slots(partitions: u32) -> Result<SlotTable, MetaError> {
    let wanted: Vec<_> = (1..=partitions).map(GroupId).collect();
    SlotTable::even(&wanted)
        .ok_or_else(|| MetaError::Invalid(format!("cannot have {} partitions", wanted.len()).into()))
}

/// Waits until there are these namespaces, new ones with this retention, with these search attributes, which whichever node leads the metadata writes down.
///
/// # Errors
///
/// See [`MetaError`].
pub async fn ensure<'a>(
    namespaces: &Namespaces,
    names: impl Iterator<Item = &'a str> + Clone,
    retention: Duration,
    attributes: &[(String, IndexedValueType)],
) -> Result<(), MetaError> {
    until_done(namespaces, || namespaces.ensure(names.clone(), retention, attributes)).await
}

/// Waits until a node knows what was known of the metadata when it started, but not for long.
pub async fn catch_up(namespaces: &Namespaces, nodes: Option<&Nodes>) {
    let Some(nodes) = nodes else { return };
    let caught_up = namespaces.catch_up_with(async |leader| nodes.metadata_position(leader).await);
    if !matches!(tokio::time::timeout(CATCH_UP_TIME_MAX, caught_up).await, Ok(Ok(()))) {
        tracing::info!("this node may not know the latest of the metadata yet");
    }
}

/// Waits until it is known which partition holds which slot; whichever node leads the metadata writes it down.
async fn found_slots(namespaces: &Namespaces, membership: &Membership, formats: &Formats) -> Result<(), MetaError> {
    let Founding { partitions, members, .. } = &membership.founding;
    let wanted = even_slots(*partitions)?;
    let founders = || (1..).zip(members).map(|(node, _)| NodeId(node));
    let wanted = &wanted;
    until_done(namespaces, || async {
        if namespaces.is_founded() {
            return Ok(());
        }
        namespaces.slots_or_set(wanted.clone(), &formats.founding(founders())).await.map(drop)
    })
    .await
}

/// Does something to the metadata that whichever node leads it must do, and waits until this node sees that it is done.
async fn until_done<T: Future<Output = Result<(), MetaError>>>(
    namespaces: &Namespaces,
    try_it: impl Fn() -> T,
) -> Result<(), MetaError> {
    let mut said = tokio::time::Instant::now();
    loop {
        match try_it().await {
            Ok(()) => return Ok(()),
            Err(error @ (MetaError::LedElsewhere(_) | MetaError::Unavailable(_))) => {
                if said.elapsed() > FOUND_SAY_INTERVAL {
                    said = tokio::time::Instant::now();
                    tracing::info!(%error, leader = ?namespaces.leader(), "the metadata of the cluster is not there yet");
                }
                tokio::time::sleep(FOUND_INTERVAL).await;
            }
            Err(error) => return Err(error),
        }
    }
}

fn raft_options(membership: Option<&Membership>) -> NodeOptions {
    let Some(membership) = membership else { return NodeOptions::default() };
    let election_timeout = Duration::from_millis(membership.founding.election_timeout_ms.into());
    NodeOptions {
        heartbeat_interval: election_timeout / HEARTBEATS_MISSED,
        election_timeout_min: election_timeout,
        election_timeout_max: 2 * election_timeout,
        node: NodeInfo::of(membership.me),
        cluster_name: membership.founding.name.clone(),
        log_tail_bytes: membership.catching_up.log_retain_bytes,
        seed_bytes_per_second: membership.catching_up.seed_bytes_per_second,
        ..NodeOptions::default()
    }
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
