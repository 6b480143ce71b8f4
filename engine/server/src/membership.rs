//! What makes a node one of several: its cluster, the connections to the other nodes, and which replicas it has.
//!
//! A cluster is founded with all of its nodes, and has these for the time being. Each partition has replicas on three of them, and the
//! metadata on all; every node can say by itself which those are.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use everlog_cluster::{Formation, FormationOptions, NodeReceiver, TransportPeers};
use everlog_meta::{Namespaces, NodeDisk};
use everlog_model::{NodeId, limits};
use everlog_raft::{Group, GroupReplica, GroupSlot, REPLICA_ID_MIN, ReplicaId};
use everlog_storage::GroupId;
use everlog_storage::directory::{DataDirectory, Founding, NodeIdentity};
use everlog_transport::{Identity, KnownNode, Mesh, MeshOptions, NodeTls, Timing, TlsFiles};
use tokio::net::TcpListener;

use crate::node::{META_GROUP, NodeError};

/// Replicas of a partition.
const REPLICAS: usize = 3;

/// How long a replica waits to hear that its group was founded before it founds it itself: longer than the others take to start.
const FOUND_WAIT: Duration = Duration::from_secs(3);

/// How often a node looks whether groups are founded.
const FOUND_INTERVAL: Duration = Duration::from_millis(100);

/// What the settings say of the cluster that a node is part of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterOptions {
    /// The name that all its nodes have in their settings.
    pub name: String,
    /// Addresses of nodes, `host:port`. This one's may be among them.
    pub seeds: Vec<String>,
    /// How many nodes found it.
    pub initial_nodes: u32,
    /// How long a leader may be silent until another one is elected. Counts when the cluster is founded, and for ever.
    pub election_timeout: Duration,
    /// What this node keeps and takes for replicas that were away.
    pub catching_up: CatchingUp,
    /// Where other nodes are listened to.
    pub listen: SocketAddr,
    /// Where they dial this one, `host:port`.
    pub advertise: String,
    /// What nodes prove to each other who they are with. Without it whoever reaches a node is believed.
    pub tls: Option<TlsFiles>,
}

/// How replicas that were away get what they missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CatchingUp {
    /// Log that is kept for them, bytes over all groups. One that was away for longer is seeded.
    pub log_retain_bytes: u64,
    /// Bytes a second at which a replica of this node is seeded at most.
    pub seed_bytes_per_second: u64,
}

impl Default for CatchingUp {
    fn default() -> CatchingUp {
        CatchingUp {
            log_retain_bytes: limits::CLUSTER_LOG_TAIL_BYTES,
            seed_bytes_per_second: everlog_raft::NodeOptions::default().seed_bytes_per_second,
        }
    }
}

/// More than there are nodes.
const REPLICAS_OF_A_DISK: u64 = 1 << 16;

/// More than a node is started with one disk.
const STARTS_OF_A_DISK: u32 = 1 << 20;

/// The cluster of a node.
#[derive(Clone)]
pub(crate) struct Membership {
    pub(crate) me: NodeId,
    /// How many disks of this node were lost before the one that it has.
    disk: u32,
    pub(crate) founding: Founding,
    formation: Arc<Formation>,
    pub(crate) catching_up: CatchingUp,
    pub(crate) mesh: Mesh,
    /// Where the others dial this node.
    pub(crate) address: String,
}

impl Membership {
    /// Waits until the cluster is founded, with this node.
    pub(crate) async fn find(directory: &Arc<DataDirectory>, options: ClusterOptions) -> Result<Membership, NodeError> {
        let ClusterOptions { name, seeds, initial_nodes, election_timeout, catching_up, listen, advertise, tls } =
            options;
        let election_timeout_ms = u32::try_from(election_timeout.as_millis()).unwrap_or(u32::MAX);
        let founded = directory.founded()?;
        if founded.is_none() && directory.identity()?.is_some() {
            let path = directory.path().display();
            return Err(NodeError::Cluster(format!(
                "data directory {path} is that of a single node, which cannot become one of several yet"
            )));
        }
        if let Some(Founding { election_timeout_ms: known, .. }) = &founded
            && *known != election_timeout_ms
        {
            tracing::warn!(
                "cluster.election_timeout is {known} ms, with which the cluster was founded; what the settings say has no effect"
            );
        }
        if let Some(Founding { name: known, .. }) = &founded
            && *known != name
        {
            let path = directory.path().display();
            return Err(NodeError::Cluster(format!(
                "data directory {path} belongs to cluster {known:?}, the settings name {name:?}"
            )));
        }
        let tls = tls.map(|files| NodeTls::open(files, &name)).transpose();
        let tls = tls.map_err(|error| NodeError::Cluster(format!("tls.node: {error}")))?.map(Arc::new);
        if let Some(tls) = &tls {
            let place = seeds.iter().position(|seed| *seed == advertise);
            let will_be = place.and_then(|place| u32::try_from(place + 1).ok());
            let is = founded.as_ref().map_or(will_be, |founding| founding.node_id(directory.id()));
            check_certificate(tls, is)?;
        }
        let listener = TcpListener::bind(listen)
            .await
            .map_err(|error| NodeError::Cluster(format!("cannot listen on {listen} for other nodes: {error}")))?;
        let directory_id = directory.id();
        let timing = timing(founded.map_or(election_timeout_ms, |founding| founding.election_timeout_ms));
        let address = advertise.clone();
        let mesh =
            Mesh::start(MeshOptions { directory_id, address: advertise.clone(), timing, tls: tls.clone() }, listener);
        let options = FormationOptions { name, seeds, initial_nodes, election_timeout_ms, address: advertise };
        let formation = Formation::start(Arc::clone(directory), options, &mesh);
        let founding = formation.founded(&mesh).await?;
        let me = founding.node_id(directory_id).ok_or_else(|| {
            NodeError::Cluster(format!("cluster {} was founded without this node", founding.cluster_id))
        })?;
        if let Some(tls) = &tls {
            check_certificate(tls, Some(me))?;
        }
        let disk = founding.members[me as usize - 1].disk;
        Ok(Membership { me: NodeId(me), disk, founding, formation, catching_up, mesh, address })
    }

    fn nodes(&self) -> impl Iterator<Item = NodeId> {
        (1..).map(NodeId).take(self.founding.members.len())
    }

    /// Whether a node waits with this data directory for a place.
    pub(crate) fn is_asking(&self, directory_id: uuid::Uuid) -> bool {
        self.formation.is_asking(directory_id)
    }

    /// The data directories that the cluster was founded with.
    pub(crate) fn founders(&self) -> Vec<uuid::Uuid> {
        self.founding.members.iter().map(|member| member.directory_id).collect()
    }

    /// Where the other nodes are.
    pub(crate) fn addresses(&self) -> BTreeMap<NodeId, String> {
        self.mesh.known().into_iter().map(|known| (NodeId(known.node_id), known.address)).collect()
    }

    /// The nodes that have replicas of each of these groups.
    pub(crate) fn voters_of(&self, groups: &[GroupSlot]) -> BTreeMap<GroupId, Vec<NodeId>> {
        groups.iter().map(|slot| slot.read().id()).map(|group| (group, self.voters(group))).collect()
    }

    /// The nodes that have replicas of a group, the one that should lead it first.
    fn voters(&self, group: GroupId) -> Vec<NodeId> {
        let nodes: Vec<_> = self.nodes().collect();
        let count = if group == META_GROUP { nodes.len() } else { REPLICAS.min(nodes.len()) };
        let first = group.0 as usize;
        (first..first + count).map(|place| nodes[place % nodes.len()]).collect()
    }

    /// The partitions with a replica here.
    pub(crate) fn partitions_here(&self) -> Vec<GroupId> {
        let all = (1..=self.founding.partitions).map(GroupId);
        all.filter(|partition| self.voters(*partition).contains(&self.me)).collect()
    }

    /// The replica of a group that is here.
    pub(crate) fn replica(&self, group: GroupId) -> GroupReplica {
        GroupReplica { group, group_epoch: 1, replica: replica_of(self.me, self.disk) }
    }

    /// The replicas that a group should have, once these disks took the place of lost ones.
    pub(crate) fn replicas(&self, group: GroupId, disks: &BTreeMap<NodeId, NodeDisk>) -> BTreeMap<ReplicaId, NodeId> {
        let disk = |node: &NodeId| disks.get(node).map_or(0, |disk| disk.number);
        self.voters(group).into_iter().map(|node| (replica_of(node, disk(&node)), node)).collect()
    }

    /// Whether this node's disk took the place of one that was lost. The groups are founded, then, and others tell it of them.
    pub(crate) fn has_new_disk(&self) -> bool {
        self.disk > 0
    }

    /// Tells data directories that took the place of lost disks whose they are, as the metadata say.
    pub(crate) fn admit(&self, namespaces: &Arc<Namespaces>) {
        let namespaces = Arc::clone(namespaces);
        self.formation.admit(Box::new(move |directory_id| {
            let disks = namespaces.disks();
            let (node, disk) = disks.iter().find(|(_, disk)| disk.directory_id == directory_id)?;
            Some((*node, disk.number))
        }));
    }

    /// Connects to the other nodes. What they send goes to `raft`'s groups and to whatever is attached to `peers`.
    pub(crate) fn join(&self, identity: &NodeIdentity, raft: &everlog_raft::Node, peers: &Arc<TransportPeers>) {
        // The starts of a new disk come after all of the one before it.
        let start_count = self.disk.saturating_mul(STARTS_OF_A_DISK).saturating_add(identity.start_count);
        let me = Identity { cluster_id: identity.cluster_id, node_id: self.me, start_count };
        let known = self.nodes().zip(&self.founding.members).map(|(node, member)| KnownNode {
            node_id: node.0,
            // Wherever it says it is itself counts more.
            start_count: 0,
            address: member.address.clone(),
        });
        self.mesh.join(me, known, Arc::new(NodeReceiver::new(raft.receiver(), Arc::clone(peers))));
    }

    /// Founds the groups that nobody has founded yet, and returns once all those with a replica here are.
    pub(crate) async fn found_groups(&self, groups: &[GroupSlot]) -> Result<(), everlog_raft::NodeError> {
        let started = tokio::time::Instant::now();
        loop {
            let missing: Vec<Group> =
                groups.iter().map(|slot| slot.read().clone()).filter(|group| !group.is_founded()).collect();
            if missing.is_empty() {
                return Ok(());
            }
            for group in missing {
                let voters = self.voters(group.id());
                if voters.first() == Some(&self.me) || started.elapsed() > FOUND_WAIT {
                    let voters: BTreeMap<_, _> = voters.into_iter().map(|node| (replica_of(node, 0), node)).collect();
                    group.found(&voters).await?;
                }
            }
            tokio::time::sleep(FOUND_INTERVAL).await;
        }
    }
}

/// Refuses a certificate that is another node's: nobody would take this one for who it is.
fn check_certificate(tls: &NodeTls, is: Option<u32>) -> Result<(), NodeError> {
    match (tls.node(), is) {
        (Some(NodeId(of)), Some(is)) if of != is => Err(NodeError::Cluster(format!(
            "tls.node: {} is the certificate of node {of}, this is node {is} (nodes have the order of cluster.seeds)",
            tls.certificate().display()
        ))),
        _ => Ok(()),
    }
}

/// A connection that is silent for twice as long as a leader may be is of no use.
fn timing(election_timeout_ms: u32) -> Timing {
    let silence_max = Duration::from_millis(2 * u64::from(election_timeout_ms)).max(Timing::default().silence_max);
    Timing { ping_interval: silence_max / 5, silence_max, ..Timing::default() }
}

/// A disk that is lost takes its replicas with it: no id is used twice.
fn replica_of(node: NodeId, disk: u32) -> ReplicaId {
    REPLICA_ID_MIN + u64::from(node.0) + REPLICAS_OF_A_DISK * u64::from(disk)
}

/// Whether nodes may talk to each other in the clear: only on one machine.
pub(crate) fn is_private(listen: &SocketAddr) -> bool {
    match listen.ip() {
        IpAddr::V4(ip) => ip.is_loopback(),
        IpAddr::V6(ip) => ip.is_loopback(),
    }
}
