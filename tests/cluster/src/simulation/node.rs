//! A process of a node: everything of a server but its sockets, on the twins of disk and network.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use everlog_cluster::{Admissions, DiskFigures, Entry};
use everlog_config::DynamicConfig;
use everlog_frontend::{LocalFront, Services};
use everlog_meta::{DEFAULT_RETENTION, Namespaces, NodeLabels};
use everlog_model::{InForce, PerNamespace, ReadableFormats, limits};
use everlog_raft::{Node as RaftNode, NodeInfo, NodeOptions};
use everlog_server::membership::{CatchingUp, Lobby, Membership};
use everlog_server::node::{Ground, catch_up, ensure};
use everlog_storage::directory::{Founding, FoundingMember, Joined, NodeIdentity};
use everlog_storage::log::LogEngine;
use everlog_storage::state::StateEngine;
use everlog_storage::{GroupId, NodeId};
use everlog_transport::Links;
use everlog_transport::twin::TwinNetwork;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::disk::{Disk, SlowLog};
use super::{Sabotage, system};

/// The group of the metadata.
pub(super) const META_GROUP: GroupId = GroupId(0);

/// Partitions of a cluster.
pub(super) const PARTITIONS: u32 = 2;

pub(super) const ELECTION_TIMEOUT: Duration = Duration::from_millis(500);

/// How often a process looks whether there is a place for it by now.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// A process, from when it is started.
pub(super) struct Process {
    /// Of each process another one.
    pub(super) number: u64,
    pub(super) raft: Arc<RaftNode>,
    /// What it knows of the metadata, once it is put together.
    pub(super) namespaces: Arc<Mutex<Option<Arc<Namespaces>>>>,
    /// Where calls come in, once it serves.
    pub(super) entry: Arc<Mutex<Option<Entry>>>,
    /// True once it is dead.
    pub(super) killed: watch::Sender<bool>,
    /// Whether its node is no member any more.
    pub(super) is_removed: Arc<AtomicBool>,
    life: tokio::task::JoinHandle<()>,
}

/// What a process is started with.
pub(super) struct Start {
    pub(super) number: u64,
    pub(super) node: NodeId,
    pub(super) network: TwinNetwork,
    pub(super) disk: Arc<Mutex<Disk>>,
    pub(super) hall: Arc<Hall>,
    pub(super) sabotage: Option<Sabotage>,
}

impl Process {
    pub(super) fn start(start: Start) -> Process {
        let place = start.node.0 as usize;
        system::on_node(place, || {
            let disk = {
                let mut disk = start.disk.lock();
                disk.starts += 1;
                disk.clone()
            };
            let links = start.network.links(start.node);
            let log: Arc<dyn LogEngine> = Arc::new(SlowLog::new(Arc::clone(&disk.log), start.sabotage));
            let state: Arc<dyn StateEngine> = Arc::clone(&disk.state) as _;
            let raft = Arc::new(RaftNode::with_peers(options(start.node), log, state, Some(Arc::clone(&links) as _)));
            let (namespaces, entry, is_removed) = Default::default();
            let living = Life {
                node: start.node,
                hall: start.hall,
                kept: start.disk,
                disk,
                raft: Arc::clone(&raft),
                links,
                namespaces: Arc::clone(&namespaces),
                entry: Arc::clone(&entry),
                is_removed: Arc::clone(&is_removed),
            };
            let life = tokio::spawn(living.live());
            Process {
                number: start.number,
                raft,
                namespaces,
                entry,
                killed: watch::Sender::new(false),
                is_removed,
                life,
            }
        })
    }

    /// Ends it as a loss of power does, but that its tasks notice by and by. Its disk and its network must be gone before.
    pub(super) fn kill(self, node: NodeId) {
        self.killed.send_replace(true);
        self.entry.lock().take();
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
    node: NodeId,
    hall: Arc<Hall>,
    /// The disk that the node has by now.
    kept: Arc<Mutex<Disk>>,
    /// The one that the process was started with.
    disk: Disk,
    raft: Arc<RaftNode>,
    links: Arc<dyn Links>,
    namespaces: Arc<Mutex<Option<Arc<Namespaces>>>>,
    entry: Arc<Mutex<Option<Entry>>>,
    is_removed: Arc<AtomicBool>,
}

impl Life {
    async fn live(self) {
        let ended = tokio::select! {
            ended = self.serve() => ended,
            why = self.links.removed() => {
                self.is_removed.store(true, Ordering::Relaxed);
                self.entry.lock().take();
                self.links.shutdown().await;
                self.raft.halt().await;
                Err(why)
            }
        };
        if let Err(error) = ended {
            // One whose disk is gone fails at any step.
            tracing::info!(node = %self.node, error, "a process has ended");
        }
    }

    async fn serve(&self) -> Result<(), String> {
        let founding = self.place().await;
        let Disk { directory_id, starts, is_bootstrapped, .. } = self.disk.clone();
        let (me, disk) = founding.node(directory_id).ok_or("the cluster was founded without this node")?;
        let identity = NodeIdentity {
            cluster_id: founding.cluster_id,
            node_id: me,
            start_count: starts,
            is_bootstrapped: is_bootstrapped.load(Ordering::Relaxed),
        };
        let membership = Membership {
            me: NodeId(me),
            disk,
            founding,
            lobby: Arc::new(Door { me: self.node, hall: Arc::clone(&self.hall) }),
            labels: NodeLabels::default(),
            dead_after: None,
            formats: ReadableFormats::default(),
            finalize_after: None,
            catching_up: CatchingUp::default(),
            links: Arc::clone(&self.links),
            address: address(self.node),
            enrolment: None,
        };
        let config = PerNamespace::new(DynamicConfig::default(), []);
        let ground = Ground {
            raft: Arc::clone(&self.raft),
            identity,
            membership: Some(membership),
            neighbours: None,
            partitions: PARTITIONS,
            limits: Arc::new(InForce::new(config.map(|config| config.limits.clone()))),
            cache_bytes_max: 16 << 20,
            queue_tasks_in_memory_max: limits::QUEUE_TASKS_IN_MEMORY_MAX,
            skipped_time: None,
            finish_bootstrap: Box::new(move || {
                is_bootstrapped.store(true, Ordering::Relaxed);
                Ok(())
            }),
            disk: Arc::new(DiskFigures::default),
        };
        let assembled = ground.assemble().await.map_err(|error| error.to_string())?;
        let namespaces = &assembled.namespaces;
        *self.namespaces.lock() = Some(Arc::clone(namespaces));
        ensure(namespaces, ["default"].into_iter(), DEFAULT_RETENTION, &[]).await.map_err(|error| error.to_string())?;
        catch_up(namespaces, assembled.nodes.as_deref()).await;
        let front = LocalFront::new(Services {
            request_bytes_max: 4 << 20,
            render_metrics: String::new,
            ..assembled.services(Arc::new(InForce::new(config)), "simulation".to_owned())
        });
        *self.entry.lock() = Some(front.entry());
        // As long as the process lives.
        let error = tokio::select! {
            error = self.raft.fatal() => error.to_string(),
            error = namespaces.unreadable() => error.to_string(),
        };
        Err(error)
    }

    /// The cluster, as soon as there is a place in it for the disk.
    async fn place(&self) -> Founding {
        if let Some(founding) = self.disk.founding.clone() {
            return founding;
        }
        let directory_id = self.disk.directory_id;
        self.hall.waiting.lock().insert(directory_id, self.node);
        loop {
            if let Some(founding) = self.hall.founding_for(directory_id, self.node) {
                self.hall.waiting.lock().remove(&directory_id);
                let mut kept = self.kept.lock();
                if kept.directory_id == directory_id {
                    kept.founding = Some(founding.clone());
                }
                return founding;
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }
}

/// Where a node is dialled, if anything were.
pub(super) fn address(node: NodeId) -> String {
    format!("node-{node}:7235")
}

/// Where processes wait whose disks have no place in the cluster yet, and the nodes that may have one for them.
#[derive(Default)]
pub(super) struct Hall {
    waiting: Mutex<BTreeMap<uuid::Uuid, NodeId>>,
    doors: Mutex<BTreeMap<NodeId, Admissions>>,
    founding: Mutex<Option<Founding>>,
}

impl Hall {
    /// The cluster is founded.
    pub(super) fn found(&self, founding: Founding) {
        *self.founding.lock() = Some(founding);
    }

    /// A node is gone, and says nothing any more.
    pub(super) fn leave(&self, node: NodeId) {
        self.doors.lock().remove(&node);
        self.waiting.lock().retain(|_, waiting| *waiting != node);
    }

    /// The cluster with a disk in it, if a node has a place for that.
    fn founding_for(&self, directory_id: uuid::Uuid, node: NodeId) -> Option<Founding> {
        let admissions: Vec<_> = self.doors.lock().values().map(|door| door(directory_id)).collect();
        let (NodeId(node_id), disk) =
            admissions.iter().filter_map(|admission| admission.place).max_by_key(|place| place.1)?;
        let mut founding = self.founding.lock().clone()?;
        let member = FoundingMember { directory_id, address: address(node), disk };
        match founding.members.get_mut(node_id as usize - 1) {
            Some(place) => *place = member,
            None => {
                let others: BTreeMap<_, _> = admissions.into_iter().flat_map(|admission| admission.nodes).collect();
                let others = others.into_iter().filter(|(other, _)| other.0 != node_id);
                let others = others.map(|(other, address)| (other.0, address)).collect();
                founding.joined = Some(Joined { node_id, member, others });
            }
        }
        Some(founding)
    }
}

/// The hall as a node has it.
struct Door {
    me: NodeId,
    hall: Arc<Hall>,
}

impl Lobby for Door {
    fn admit(&self, admissions: Admissions) {
        self.hall.doors.lock().insert(self.me, admissions);
    }

    fn waiting(&self) -> Vec<(uuid::Uuid, String)> {
        self.hall.waiting.lock().iter().map(|(directory_id, node)| (*directory_id, address(*node))).collect()
    }
}
