//! What makes a node one of several: its cluster, the connections to the other nodes, and which replicas it has.
//!
//! A cluster is founded with some nodes; others may join, and leave. Each partition has replicas on some of them, as its placement
//! says, and the metadata on all. Which those are follows from what was founded until the metadata say otherwise ([`Picture`]).

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use everlog_cluster::{
    Admission, Admissions, Enrolments, Formation, FormationOptions, Health, NodeReceiver, Operations, Picture, Places,
    TransportPeers, replica_id,
};
use everlog_meta::{NodeLabels, Topology};
use everlog_model::{NodeId, ReadableFormats, limits};
use everlog_raft::{Group, GroupReplica, GroupSlot};
use everlog_storage::directory::{DataDirectory, Founding, NodeIdentity};
use everlog_transport::{Identity, KnownNode, Links, Mesh, MeshOptions, NodeTls, Timing, TlsFiles};
use tokio::net::TcpListener;

use crate::enrolment::{AutoTls, Enrolment};
use crate::growth;
use crate::node::{META_GROUP, NodeError};

/// How long a replica waits to hear that its group was founded before it founds it itself: longer than the others take to start.
const FOUND_WAIT: Duration = Duration::from_secs(3);

/// How often a node looks whether groups are founded.
const FOUND_INTERVAL: Duration = Duration::from_millis(100);

/// How long all nodes must have read newer formats until the cluster has them, where nobody says: so long may one go back to the release before.
pub(crate) const FINALIZE_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

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
    /// Where and what this node is.
    pub labels: NodeLabels,
    /// How long a node may be away until its replicas are given to others, where that is possible; for ever if none.
    pub dead_after: Option<Duration>,
    /// Which formats this node reads.
    pub formats: ReadableFormats,
    /// How long all nodes must have read newer formats until the cluster has them; none: an operator says when.
    pub finalize_after: Option<Duration>,
    /// What this node keeps and takes for replicas that were away.
    pub catching_up: CatchingUp,
    /// Where other nodes are listened to.
    pub listen: SocketAddr,
    /// Where they dial this one, `host:port`.
    pub advertise: String,
    /// What nodes prove to each other who they are with. Without it whoever reaches a node is believed.
    pub tls: Option<ClusterTls>,
}

/// What nodes prove to each other who they are with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClusterTls {
    /// Certificates in files that somebody makes.
    Files(TlsFiles),
    /// Certificates that the cluster makes.
    Auto(AutoTls),
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

/// More than a node is started with one disk.
const STARTS_OF_A_DISK: u32 = 1 << 20;

/// Where data directories wait that have no place in the cluster yet.
pub trait Lobby: Send + Sync {
    /// Those that wait are told whose they are, from now on.
    fn admit(&self, admissions: Admissions);

    /// The data directories that nodes wait with, and where these are dialled.
    fn waiting(&self) -> Vec<(uuid::Uuid, String)>;

    /// Those that have no certificate get one by this, from now on. Where nobody needs one, nobody asks.
    fn enrol(&self, enrolments: Enrolments) {
        drop(enrolments);
    }
}

impl Lobby for Formation {
    fn enrol(&self, enrolments: Enrolments) {
        Formation::enrol(self, enrolments);
    }

    fn admit(&self, admissions: Admissions) {
        Formation::admit(self, admissions);
    }

    fn waiting(&self) -> Vec<(uuid::Uuid, String)> {
        Formation::waiting(self)
    }
}

/// The cluster of a node, once it is founded with it.
#[derive(Clone)]
pub struct Membership {
    /// The node.
    pub me: NodeId,
    /// How many disks of this node were lost before the one that it has.
    pub disk: u32,
    /// What the cluster was founded with.
    pub founding: Founding,
    /// Where others wait for a place.
    pub lobby: Arc<dyn Lobby>,
    /// Where and what this node is, as its settings say.
    pub labels: NodeLabels,
    /// How long a node may be away until its replicas are given to others; for ever if none.
    pub dead_after: Option<Duration>,
    /// Which formats this node reads.
    pub formats: ReadableFormats,
    /// How long all nodes must have read newer formats until the cluster has them; none: an operator says when.
    pub finalize_after: Option<Duration>,
    /// What this node keeps and takes for replicas that were away.
    pub catching_up: CatchingUp,
    /// The connections to the others.
    pub links: Arc<dyn Links>,
    /// Where the others dial this node.
    pub address: String,
    /// Where its certificate comes from, if the cluster is its own authority.
    pub enrolment: Option<Arc<Enrolment>>,
}

impl Membership {
    /// Waits until the cluster is founded, with this node.
    pub(crate) async fn find(directory: &Arc<DataDirectory>, options: ClusterOptions) -> Result<Membership, NodeError> {
        let ClusterOptions {
            name,
            seeds,
            initial_nodes,
            election_timeout,
            labels,
            dead_after,
            formats,
            finalize_after,
            catching_up,
            listen,
            advertise,
            tls,
        } = options;
        let election_timeout_ms = u32::try_from(election_timeout.as_millis()).unwrap_or(u32::MAX);
        let founded = directory.founded()?;
        let was_alone = founded.is_none() && directory.identity()?.is_some();
        if was_alone {
            growth::check(directory, initial_nodes)?;
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
        let (tls, enrolment) = match tls {
            None => (None, None),
            Some(ClusterTls::Files(files)) => {
                let tls = NodeTls::open(files, &name);
                let tls = tls.map_err(|error| NodeError::Cluster(format!("tls.node: {error}")))?;
                let place = seeds.iter().position(|seed| *seed == advertise);
                let will_be = if was_alone { Some(1) } else { place.and_then(|place| u32::try_from(place + 1).ok()) };
                let is = founded.as_ref().map_or(will_be, |founding| Some(founding.node(directory.id())?.0));
                check_certificate(&tls, is)?;
                (Some(Arc::new(tls)), None)
            }
            Some(ClusterTls::Auto(auto)) => {
                let enrolment = Enrolment::open(directory, &name, &advertise, &auto)?;
                (Some(Arc::clone(enrolment.tls())), Some(Arc::new(enrolment)))
            }
        };
        let listener = TcpListener::bind(listen)
            .await
            .map_err(|error| NodeError::Cluster(format!("cannot listen on {listen} for other nodes: {error}")))?;
        if was_alone {
            if let Some(enrolment) = &enrolment {
                // Before the directory says that it is a cluster's: only then may it be made.
                enrolment.found_authority()?;
            }
            growth::found_with_one(directory, &name, &advertise, election_timeout_ms).await?;
        }
        let directory_id = directory.id();
        let timing = timing(founded.map_or(election_timeout_ms, |founding| founding.election_timeout_ms));
        let address = advertise.clone();
        let options = MeshOptions {
            directory_id,
            address: advertise.clone(),
            timing,
            tls: tls.clone(),
            abilities: everlog_cluster::abilities(formats),
        };
        let mesh = Mesh::start(options, listener);
        let has_token = enrolment.as_ref().is_some_and(|enrolment| enrolment.has_token());
        let options = FormationOptions {
            name,
            seeds: seeds.clone(),
            initial_nodes,
            election_timeout_ms,
            address: advertise,
            has_token,
        };
        let formation = Formation::start(Arc::clone(directory), options, &mesh);
        let founding = match directory.founded()? {
            Some(founding) => founding,
            None => {
                let founded = async { formation.founded(&mesh).await.map_err(NodeError::from) };
                // Whoever has joined finds its place by looking.
                let joins = async {
                    match enrolment.as_ref().filter(|_| has_token) {
                        Some(enrolment) => enrolment.join(&mesh, &seeds).await,
                        None => Ok(()),
                    }
                };
                let outdated = mesh.outdated();
                tokio::select! {
                    joined = async { tokio::try_join!(founded, joins) } => joined?.0,
                    why = outdated => return Err(NodeError::Cluster(why)),
                }
            }
        };
        mesh.set_former(founding.former.clone());
        let (me, disk) = founding.node(directory_id).ok_or_else(|| {
            NodeError::Cluster(format!("cluster {} was founded without this node", founding.cluster_id))
        })?;
        match (&enrolment, &tls) {
            (Some(enrolment), _) => {
                enrolment.certified(directory, &mesh, &formation, &founding, NodeId(me)).await?;
            }
            (None, Some(tls)) => check_certificate(tls, Some(me))?,
            (None, None) => {}
        }
        Ok(Membership {
            me: NodeId(me),
            disk,
            founding,
            lobby: formation,
            labels,
            dead_after,
            formats,
            finalize_after,
            catching_up,
            links: Arc::new(mesh),
            address,
            enrolment,
        })
    }

    /// Where a node is dialled that waits with this data directory for a place, if one does.
    pub(crate) fn waiting(&self) -> Vec<(uuid::Uuid, String)> {
        self.lobby.waiting()
    }

    /// Where the other nodes are.
    pub(crate) fn addresses(&self) -> BTreeMap<NodeId, String> {
        self.links.known().into_iter().map(|known| (NodeId(known.node_id), known.address)).collect()
    }

    /// The replica of the metadata that is here. No node has two in its life: its id is given out once.
    pub(crate) fn metadata_replica(&self) -> GroupReplica {
        GroupReplica { group: META_GROUP, group_epoch: 1, replica: replica_id(self.me, self.disk, 0) }
    }

    /// Whether the cluster was founded with this data directory. If not, its groups are founded, and others tell it of them.
    pub(crate) fn is_founder(&self) -> bool {
        self.founding.joined.is_none() && self.disk == 0
    }

    /// Tells data directories that joined, or took the place of lost disks, whose they are, as the metadata say.
    pub(crate) fn admit(&self, places: &Arc<Places>) {
        let (places, me, address) = (Arc::clone(places), self.me, self.address.clone());
        let links = Arc::clone(&self.links);
        self.lobby.admit(Box::new(move |directory_id| {
            let is_new = !places.was_founded_with(directory_id);
            let place = places.picture().node_with(directory_id).filter(|_| is_new);
            let known = links.known().into_iter().map(|known| (NodeId(known.node_id), known.address));
            Admission { place, nodes: known.chain([(me, address.clone())]).collect() }
        }));
    }

    /// Takes in nodes by tokens and gives nodes certificates from now on, if the cluster is its own authority. What is returned keeps this node's
    /// certificate good for as long as it is polled.
    pub(crate) fn enrol(
        &self,
        places: &Arc<Places>,
        operations: &Arc<Operations>,
    ) -> Result<Option<impl Future<Output = ()> + Send + 'static>, NodeError> {
        let Some(enrolment) = &self.enrolment else { return Ok(None) };
        self.lobby.enrol(enrolment.serve(&self.founding, places, operations)?);
        Ok(Some(Arc::clone(enrolment).keep(self.me, Arc::clone(places), Arc::clone(operations))))
    }

    /// Connects to the other nodes. What they send goes to `raft`'s groups and to whatever is attached to `peers`.
    pub(crate) fn join(
        &self,
        identity: &NodeIdentity,
        places: &Places,
        raft: &everlog_raft::Node,
        peers: &Arc<TransportPeers>,
    ) {
        // The starts of a new disk come after all of the one before it.
        let start_count = self.disk.saturating_mul(STARTS_OF_A_DISK).saturating_add(identity.start_count);
        let me = Identity { cluster_id: identity.cluster_id, node_id: self.me, start_count };
        // Wherever a node says it is itself counts more.
        let known = |node_id: u32, address: &String| KnownNode { node_id, start_count: 0, address: address.clone() };
        let (topology, founders) = (places.topology(), (1..).zip(&self.founding.members));
        let met = self.founding.joined.iter().flat_map(|joined| &joined.others);
        let known: Vec<_> = founders
            .map(|(node, member)| known(node, &member.address))
            .chain(met.map(|(node, address)| known(*node, address)))
            .filter(|known| {
                let row = topology.nodes.get(&NodeId(known.node_id));
                row.is_none_or(|row| row.membership != everlog_meta::Membership::Removed)
            })
            .collect();
        self.links.join(me, known, Arc::new(NodeReceiver::new(raft.receiver(), Arc::clone(peers))));
        self.follow(&topology);
    }

    /// Knows the nodes and data directories that the metadata name, and no more those that were removed, nor those that do not read the cluster's formats.
    pub(crate) fn follow(&self, topology: &Topology) {
        self.links.require_format(topology.format.version.0);
        for (node, row) in &topology.nodes {
            match row.membership {
                everlog_meta::Membership::Removed => self.links.remove(*node),
                _ => {
                    let known = KnownNode { node_id: node.0, start_count: 0, address: row.address.clone() };
                    self.links.add(known, row.directory_id);
                }
            }
        }
        for (node, disk) in &topology.disks {
            self.links.set_directory(*node, disk.directory_id);
        }
    }

    /// How a node is.
    pub(crate) fn health(&self, node: NodeId) -> Health {
        let is_up = node == self.me || self.links.is_up(node);
        let is_given_up =
            || self.dead_after.zip(self.links.down_since(node)).is_some_and(|(after, since)| since.elapsed() > after);
        match is_up {
            true => Health::Up,
            false if is_given_up() => Health::Lost,
            false => Health::Away,
        }
    }

    /// Founds the groups that nobody has founded yet, and returns once all those with a replica here are.
    pub(crate) async fn found_groups(&self, groups: &[GroupSlot]) -> Result<(), everlog_raft::NodeError> {
        let started = tokio::time::Instant::now();
        let founded = Picture::new(&self.founding, &Topology::default());
        loop {
            let missing: Vec<Group> =
                groups.iter().map(|slot| slot.read().clone()).filter(|group| !group.is_founded()).collect();
            if missing.is_empty() {
                return Ok(());
            }
            for group in missing {
                if founded.nodes_of(group.id()).first() == Some(&self.me) || started.elapsed() > FOUND_WAIT {
                    group.found(&founded.replicas_of(group.id()).voters).await?;
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

/// Whether nodes may talk to each other in the clear: only on one machine.
pub(crate) fn is_private(listen: &SocketAddr) -> bool {
    match listen.ip() {
        IpAddr::V4(ip) => ip.is_loopback(),
        IpAddr::V6(ip) => ip.is_loopback(),
    }
}
