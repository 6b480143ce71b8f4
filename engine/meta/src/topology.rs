//! What the metadata say of the cluster itself: disks that took the place of lost ones, nodes that joined or leave, and which nodes are to have
//! replicas of which groups. What is not in here is as it was when the cluster was founded.
//!
//! | row | content |
//! |---|---|
//! | `disk/<node>` | the data directory that took the place of a lost one, and how many were lost before ([`NodeDisk`]) |
//! | `node/<node>` | a node that joined, leaves or has left, or has labels ([`NodeRow`]) |
//! | `replicas/<group>` | the replicas that a group should have, those that it is to lose, and who founds it if nobody has yet ([`GroupRow`]) |
//! | `placement/<name>` | where the replicas of groups should be ([`Placement`]) |
//! | `pool/<id>` | a pool of partitions beside the one that the cluster was founded with ([`Pool`]) |
//! | `regions` | the regions that nodes have named, in the order in which they did ([`Regions`](crate::Regions)) |
//! | `authority`, `certificate/<node>`, `join-token/<id>` | how nodes prove who they are ([`joining`](super::joining)) |
//! | `formats`, `formats/<node>` | the version of formats that the cluster has, and what nodes read ([`formats`](super::formats)) |
//! | `counters` | the greatest ids of groups and pools that were given out (`Counters`) |
//!
//! A node is known by its id, its disk by the id of its data directory. When the disk is lost, what it had promised is, too: votes, and entries
//! that it acknowledged. So its replicas never come back. The new disk gets replicas with new ids, by its number. For the same reason a replica
//! that moves to a node where the group has had one before is another one, by its generation.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use everlog_model::ReadableFormats;
use everlog_storage::keys::{MetaKind, meta_range, meta_row};
use everlog_storage::state::{RowBatch, RowChange, StateEngine};
use everlog_storage::{GroupId, NodeId};
use prost::Message;

use super::formats::{ClusterFormat, NodeFormats};
use super::joining::{ClusterAuthority, NodeCertificate, TokenRow};
use super::operations::Answer;
use super::placements::{DEFAULT_PLACEMENT, Placement};
use super::pools::{Counters, Pool, PoolId};
use super::replication::Regions;
use super::{MetaError, Namespaces};

/// The whole of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    /// Of nodes that have lost one.
    pub disks: BTreeMap<NodeId, NodeDisk>,
    /// Nodes that joined, and founders that have labels, leave or have left.
    pub nodes: BTreeMap<NodeId, NodeRow>,
    /// Groups whose replicas are others than when the cluster was founded, and groups that were made since.
    pub groups: BTreeMap<GroupId, GroupRow>,
    /// The placements that were written down, by name.
    pub placements: BTreeMap<String, Placement>,
    /// The pools that were made since.
    pub pools: BTreeMap<PoolId, Pool>,
    /// The regions that nodes have named.
    pub regions: Regions,
    /// The version of formats that the cluster has.
    pub format: ClusterFormat,
    /// What nodes have said that they read.
    pub node_formats: BTreeMap<NodeId, NodeFormats>,
    /// The authority, where the cluster is its own.
    pub authority: Option<ClusterAuthority>,
    /// The certificates that nodes say they have of it.
    pub certificates: BTreeMap<NodeId, NodeCertificate>,
    /// The tokens that let nodes join.
    pub tokens: BTreeMap<u64, TokenRow>,
    /// The greatest ids that were given out since.
    pub(super) counters: Counters,
}

/// The disk of a node that has lost one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeDisk {
    /// The data directory.
    pub directory_id: uuid::Uuid,
    /// How many disks of the node were lost before it.
    pub number: u32,
}

/// How a node belongs to a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum Membership {
    /// It has replicas, or is to get some.
    Member = 1,
    /// It is to lose all that it has, and to be removed then.
    Leaving = 2,
    /// It is a member no more, for good. Its id is never used again.
    Removed = 3,
}

/// What a node's settings say of where and what it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeLabels {
    /// Its region; empty if it names none.
    pub region: String,
    /// The zone of that; empty if it names none.
    pub zone: String,
    /// Whatever else, by name.
    pub others: BTreeMap<String, String>,
}

/// A node that joined, leaves or has left, or has labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRow {
    /// The data directory that it joined with; of a founder the one that it has when the row is written.
    pub directory_id: uuid::Uuid,
    /// Where other nodes dialled it then, `host:port`.
    pub address: String,
    /// How it belongs to the cluster.
    pub membership: Membership,
    /// Where and what it is, as it said when it started.
    pub labels: NodeLabels,
}

/// A replica of a group, on one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Placed {
    /// The node.
    pub node: NodeId,
    /// Tells the replicas of one group on one node apart, of all times: 0 for those that the cluster was founded with.
    pub generation: u32,
    /// Whether it counts in elections and acknowledgements.
    pub is_voter: bool,
}

/// The replicas that a group should have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupRow {
    /// One more with each change of the replicas: what is reported of an earlier version does not count.
    pub version: u64,
    /// The greatest generation that was given out.
    pub last_generation: u32,
    /// The replicas, the one that should lead first.
    pub replicas: Vec<Placed>,
    /// Replicas that the group may still have, until it is known that it has the others and only those.
    pub leaving: Vec<Placed>,
    /// Whether that is known.
    pub is_settled: bool,
    /// The replicas that a group is founded with which was made after its cluster: each of them may found it, with all of them. None once that is done.
    pub founding: Vec<Founder>,
}

/// A replica that a group is founded with. It votes, and is on the disk that the node has then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Founder {
    /// The node.
    pub node: NodeId,
    /// How many disks of the node were lost before.
    pub disk: u32,
}

impl GroupRow {
    /// A group that is yet to be founded, with a replica on each of these disks; the node that should lead it comes first.
    pub fn new(founding: Vec<Founder>) -> GroupRow {
        let placed = |founder: &Founder| Placed { node: founder.node, generation: 0, is_voter: true };
        GroupRow {
            version: 1,
            last_generation: 0,
            replicas: founding.iter().map(placed).collect(),
            leaving: Vec::new(),
            is_settled: false,
            founding,
        }
    }

    /// The same group once it is known that it has the replicas that it should have, and no others.
    #[must_use]
    pub fn settled(&self) -> GroupRow {
        GroupRow { is_settled: true, leaving: Vec::new(), founding: Vec::new(), ..self.clone() }
    }

    /// The same group, which nobody has founded yet, once others are to found it. None of those that were to is needed any more: nobody was ever
    /// told that something is in it.
    #[must_use]
    pub fn founded_by(&self, founding: Vec<Founder>) -> GroupRow {
        let generation = self.last_generation + 1;
        let placed = |founder: &Founder| Placed { node: founder.node, generation, is_voter: true };
        GroupRow {
            version: self.version + 1,
            last_generation: generation,
            replicas: founding.iter().map(placed).collect(),
            leaving: Vec::new(),
            is_settled: false,
            founding,
        }
    }

    /// The replica on a node that is to be there, or may be needed yet.
    pub fn on(&self, node: NodeId) -> Option<Placed> {
        let mut all = self.replicas.iter().chain(&self.leaving);
        all.find(|placed| placed.node == node).copied()
    }
}

/// A change of the topology.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TopologyChange {
    /// A node is so from now on.
    Node(NodeId, NodeRow),
    /// A group is to have these replicas from now on.
    Group(GroupId, GroupRow),
    /// A placement is so from now on.
    Placement(Placement),
    /// There is no such placement any more.
    NoPlacement(String),
    /// The cluster has this version of formats from now on, or is about to.
    Format(ClusterFormat),
    /// A node reads these.
    NodeFormats(NodeId, NodeFormats),
    /// This is the cluster's authority from now on.
    Authority(ClusterAuthority),
    /// A node has this certificate.
    Certificate(NodeId, NodeCertificate),
    /// A token is so from now on.
    Token(u64, TokenRow),
    /// There is no such token any more.
    NoToken(u64),
}

#[derive(Clone, PartialEq, Message)]
struct DiskMessage {
    #[prost(bytes = "bytes", tag = "1")]
    directory_id: Bytes,
    #[prost(uint32, tag = "2")]
    number: u32,
}

#[derive(Clone, PartialEq, Message)]
struct NodeMessage {
    #[prost(bytes = "bytes", tag = "1")]
    directory_id: Bytes,
    #[prost(string, tag = "2")]
    address: String,
    #[prost(int32, tag = "3")]
    membership: i32,
    #[prost(string, tag = "4")]
    region: String,
    #[prost(string, tag = "5")]
    zone: String,
    #[prost(btree_map = "string, string", tag = "6")]
    labels: BTreeMap<String, String>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct PlacedMessage {
    #[prost(uint32, tag = "1")]
    node: u32,
    #[prost(uint32, tag = "2")]
    generation: u32,
    #[prost(bool, tag = "3")]
    is_voter: bool,
}

#[derive(Clone, PartialEq, Message)]
struct GroupMessage {
    #[prost(uint64, tag = "1")]
    version: u64,
    #[prost(uint32, tag = "2")]
    last_generation: u32,
    #[prost(message, repeated, tag = "3")]
    replicas: Vec<PlacedMessage>,
    #[prost(message, repeated, tag = "4")]
    leaving: Vec<PlacedMessage>,
    #[prost(bool, tag = "5")]
    is_settled: bool,
    #[prost(message, repeated, tag = "6")]
    founding: Vec<FounderMessage>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct FounderMessage {
    #[prost(uint32, tag = "1")]
    node: u32,
    #[prost(uint32, tag = "2")]
    disk: u32,
}

const DISK: &[u8] = b"disk/";
const NODE: &[u8] = b"node/";
const GROUP: &[u8] = b"replicas/";
const POOL: &[u8] = b"pool/";
const REGIONS: &[u8] = b"regions";
const COUNTERS: &[u8] = b"counters";
const PLACEMENT: &[u8] = b"placement/";
const AUTHORITY: &[u8] = b"authority";
const CERTIFICATE: &[u8] = b"certificate/";
const FORMAT: &[u8] = b"formats";
const NODE_FORMATS: &[u8] = b"formats/";
const TOKEN: &[u8] = b"join-token/";

/// What a row of the topology is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum TopologyKey {
    Disk(NodeId),
    Node(NodeId),
    Group(GroupId),
    Pool(PoolId),
    Regions,
    Counters,
    Placement(String),
    Format,
    NodeFormats(NodeId),
    Authority,
    Certificate(NodeId),
    Token(u64),
}

impl TopologyKey {
    /// What the row under `key` is about, if that is one of these rows.
    pub(super) fn of(key: &[u8]) -> Option<Result<TopologyKey, MetaError>> {
        let number = |id: &[u8]| {
            let id = id.try_into().map(u32::from_be_bytes);
            id.map_err(|_| MetaError::Corrupt(format!("key {key:?}")))
        };
        let id = |prefix: &[u8]| key.strip_prefix(&*meta_row(MetaKind::Other, prefix));
        let disk = id(DISK).map(|id| number(id).map(|id| TopologyKey::Disk(NodeId(id))));
        let node = || id(NODE).map(|id| number(id).map(|id| TopologyKey::Node(NodeId(id))));
        let group = || id(GROUP).map(|id| number(id).map(|id| TopologyKey::Group(GroupId(id))));
        let placement = || id(PLACEMENT).map(placement_name);
        let pool = || id(POOL).map(|id| number(id).map(|id| TopologyKey::Pool(PoolId(id))));
        let regions = || id(REGIONS).filter(|rest| rest.is_empty()).map(|_| Ok(TopologyKey::Regions));
        let counters = || id(COUNTERS).filter(|rest| rest.is_empty()).map(|_| Ok(TopologyKey::Counters));
        let authority = || id(AUTHORITY).filter(|rest| rest.is_empty()).map(|_| Ok(TopologyKey::Authority));
        let certificate = || id(CERTIFICATE).map(|id| number(id).map(|id| TopologyKey::Certificate(NodeId(id))));
        let token = || {
            let id = id(TOKEN)?.try_into().map(|id| TopologyKey::Token(u64::from_be_bytes(id)));
            Some(id.map_err(|_| MetaError::Corrupt(format!("key {key:?}"))))
        };
        let format = || id(FORMAT).filter(|rest| rest.is_empty()).map(|_| Ok(TopologyKey::Format));
        let node_formats = || id(NODE_FORMATS).map(|id| number(id).map(|id| TopologyKey::NodeFormats(NodeId(id))));
        let joining = || authority().or_else(certificate).or_else(token).or_else(format).or_else(node_formats);
        let later = || placement().or_else(pool).or_else(regions).or_else(counters).or_else(joining);
        disk.or_else(node).or_else(group).or_else(later)
    }

    pub(super) fn row(self) -> Bytes {
        let (prefix, id) = match self {
            TopologyKey::Disk(NodeId(id)) => (DISK, id),
            TopologyKey::Node(NodeId(id)) => (NODE, id),
            TopologyKey::Group(GroupId(id)) => (GROUP, id),
            TopologyKey::Pool(PoolId(id)) => (POOL, id),
            TopologyKey::Regions => return meta_row(MetaKind::Other, REGIONS),
            TopologyKey::Counters => return meta_row(MetaKind::Other, COUNTERS),
            TopologyKey::Placement(name) => {
                return meta_row(MetaKind::Other, &[PLACEMENT, name.as_bytes()].concat());
            }
            TopologyKey::Format => return meta_row(MetaKind::Other, FORMAT),
            TopologyKey::NodeFormats(NodeId(id)) => (NODE_FORMATS, id),
            TopologyKey::Authority => return meta_row(MetaKind::Other, AUTHORITY),
            TopologyKey::Certificate(NodeId(id)) => (CERTIFICATE, id),
            TopologyKey::Token(id) => return meta_row(MetaKind::Other, &[TOKEN, &id.to_be_bytes()].concat()),
        };
        meta_row(MetaKind::Other, &[prefix, &id.to_be_bytes()].concat())
    }
}

fn placement_name(name: &[u8]) -> Result<TopologyKey, MetaError> {
    let name = std::str::from_utf8(name);
    name.map(|name| TopologyKey::Placement(name.to_owned())).map_err(|error| corrupt("name of a placement", error))
}

impl TopologyChange {
    /// The row that says so.
    pub fn row(&self) -> RowChange {
        match self {
            TopologyChange::Node(node, row) => {
                RowChange::Put { key: TopologyKey::Node(*node).row(), value: encode_node(row) }
            }
            TopologyChange::Group(group, row) => {
                RowChange::Put { key: TopologyKey::Group(*group).row(), value: encode_group(row) }
            }
            TopologyChange::Placement(placement) => {
                let key = TopologyKey::Placement(placement.name.clone()).row();
                RowChange::Put { key, value: placement.encode() }
            }
            TopologyChange::NoPlacement(name) => RowChange::Delete { key: TopologyKey::Placement(name.clone()).row() },
            TopologyChange::Format(format) => RowChange::Put { key: TopologyKey::Format.row(), value: format.encode() },
            TopologyChange::NodeFormats(node, formats) => {
                RowChange::Put { key: TopologyKey::NodeFormats(*node).row(), value: formats.encode() }
            }
            TopologyChange::Authority(authority) => {
                RowChange::Put { key: TopologyKey::Authority.row(), value: authority.encode() }
            }
            TopologyChange::Certificate(node, certificate) => {
                RowChange::Put { key: TopologyKey::Certificate(*node).row(), value: certificate.encode() }
            }
            TopologyChange::Token(id, row) => {
                RowChange::Put { key: TopologyKey::Token(*id).row(), value: row.encode() }
            }
            TopologyChange::NoToken(id) => RowChange::Delete { key: TopologyKey::Token(*id).row() },
        }
    }
}

impl Topology {
    /// What the metadata of a node say that serves nobody: its rows, and the changes in `tail`, which are in its log and not among them yet.
    ///
    /// # Errors
    ///
    /// [`MetaError::Unavailable`] if the rows cannot be read, [`MetaError::Corrupt`] if one means nothing, [`MetaError::Invalid`] if this release does not
    /// read the formats of the cluster.
    pub fn read(rows: &dyn StateEngine, group: GroupId, tail: &[RowBatch]) -> Result<Topology, MetaError> {
        let mut topology = Topology::default();
        let mut put = |key: &[u8], value: Option<&[u8]>| match TopologyKey::of(key) {
            Some(about) => topology.put(about?, value),
            None => Ok(()),
        };
        let mut outcome = Ok(());
        let whole = meta_range(MetaKind::Other);
        rows.visit(group, &whole.start..&whole.end, &mut |key, value| {
            outcome = put(key, Some(value));
            if outcome.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })
        .map_err(|error| MetaError::Unavailable(error.to_string()))?;
        outcome?;
        for change in tail.iter().flat_map(|batch| &batch.changes) {
            match change {
                RowChange::Put { key, value } => put(key, Some(value))?,
                RowChange::Delete { key } => put(key, None)?,
                // No row of these is removed so.
                RowChange::DeleteRange { .. } => {}
            }
        }
        ReadableFormats::OF_THIS_RELEASE
            .check(topology.format.version)
            .map_err(|why| MetaError::Invalid(why.into()))?;
        Ok(topology)
    }

    /// Takes in a row, or that it is gone.
    pub(super) fn put(&mut self, key: TopologyKey, value: Option<&[u8]>) -> Result<(), MetaError> {
        match key {
            TopologyKey::Disk(node) => put(&mut self.disks, node, value.map(decode_disk).transpose()?),
            TopologyKey::Node(node) => put(&mut self.nodes, node, value.map(decode_node).transpose()?),
            TopologyKey::Group(group) => put(&mut self.groups, group, value.map(decode_group).transpose()?),
            TopologyKey::Pool(pool) => put(&mut self.pools, pool, value.map(Pool::decode).transpose()?),
            TopologyKey::Regions => self.regions = value.map(Regions::decode).transpose()?.unwrap_or_default(),
            TopologyKey::Counters => self.counters = value.map(Counters::decode).transpose()?.unwrap_or_default(),
            TopologyKey::Placement(name) => {
                put(&mut self.placements, name, value.map(Placement::decode).transpose()?);
            }
            TopologyKey::Format => self.format = value.map(ClusterFormat::decode).transpose()?.unwrap_or_default(),
            TopologyKey::NodeFormats(node) => {
                put(&mut self.node_formats, node, value.map(NodeFormats::decode).transpose()?);
            }
            TopologyKey::Authority => self.authority = value.map(ClusterAuthority::decode).transpose()?,
            TopologyKey::Certificate(node) => {
                put(&mut self.certificates, node, value.map(NodeCertificate::decode).transpose()?);
            }
            TopologyKey::Token(id) => put(&mut self.tokens, id, value.map(TokenRow::decode).transpose()?),
        }
        Ok(())
    }

    /// All placements, with the one that is always there.
    pub fn all_placements(&self) -> BTreeMap<String, Placement> {
        let mut placements = self.placements.clone();
        placements.entry(DEFAULT_PLACEMENT.to_owned()).or_default();
        placements
    }
}

fn put<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) {
    match value {
        Some(value) => drop(map.insert(key, value)),
        None => drop(map.remove(&key)),
    }
}

fn encode_disk(disk: NodeDisk) -> Bytes {
    let directory_id = Bytes::copy_from_slice(disk.directory_id.as_bytes());
    DiskMessage { directory_id, number: disk.number }.encode_to_vec().into()
}

fn corrupt(what: &str, why: impl std::fmt::Display) -> MetaError {
    MetaError::Corrupt(format!("{what}: {why}"))
}

fn decode_disk(value: &[u8]) -> Result<NodeDisk, MetaError> {
    const WHAT: &str = "disk of a node";
    let DiskMessage { directory_id, number } = DiskMessage::decode(value).map_err(|error| corrupt(WHAT, error))?;
    let directory_id = uuid::Uuid::from_slice(&directory_id).map_err(|error| corrupt(WHAT, error))?;
    if number == 0 {
        return Err(corrupt(WHAT, "it has no number"));
    }
    Ok(NodeDisk { directory_id, number })
}

fn encode_node(row: &NodeRow) -> Bytes {
    let NodeRow { directory_id, address, membership, labels } = row.clone();
    let NodeLabels { region, zone, others: labels } = labels;
    let directory_id = Bytes::copy_from_slice(directory_id.as_bytes());
    let membership = membership as i32;
    NodeMessage { directory_id, address, membership, region, zone, labels }.encode_to_vec().into()
}

fn decode_node(value: &[u8]) -> Result<NodeRow, MetaError> {
    const WHAT: &str = "node";
    let NodeMessage { directory_id, address, membership, region, zone, labels } =
        NodeMessage::decode(value).map_err(|error| corrupt(WHAT, error))?;
    let directory_id = uuid::Uuid::from_slice(&directory_id).map_err(|error| corrupt(WHAT, error))?;
    let membership = Membership::try_from(membership).map_err(|error| corrupt(WHAT, error))?;
    let labels = NodeLabels { region, zone, others: labels };
    Ok(NodeRow { directory_id, address, membership, labels })
}

fn encode_group(row: &GroupRow) -> Bytes {
    let placed = |of: &[Placed]| {
        let placed = of.iter().map(|Placed { node, generation, is_voter }| PlacedMessage {
            node: node.0,
            generation: *generation,
            is_voter: *is_voter,
        });
        placed.collect()
    };
    let GroupRow { version, last_generation, replicas, leaving, is_settled, founding } = row;
    let founder = |founder: &Founder| FounderMessage { node: founder.node.0, disk: founder.disk };
    let message = GroupMessage {
        version: *version,
        last_generation: *last_generation,
        replicas: placed(replicas),
        leaving: placed(leaving),
        is_settled: *is_settled,
        founding: founding.iter().map(founder).collect(),
    };
    message.encode_to_vec().into()
}

fn decode_group(value: &[u8]) -> Result<GroupRow, MetaError> {
    const WHAT: &str = "replicas of a group";
    let message = GroupMessage::decode(value).map_err(|error| corrupt(WHAT, error))?;
    let placed = |of: Vec<PlacedMessage>| {
        let placed = of.into_iter().map(|PlacedMessage { node, generation, is_voter }| Placed {
            node: NodeId(node),
            generation,
            is_voter,
        });
        placed.collect::<Vec<_>>()
    };
    let GroupMessage { version, last_generation, replicas, leaving, is_settled, founding } = message;
    let founder = |FounderMessage { node, disk }| Founder { node: NodeId(node), disk };
    let row = GroupRow {
        version,
        last_generation,
        replicas: placed(replicas),
        leaving: placed(leaving),
        is_settled,
        founding: founding.into_iter().map(founder).collect(),
    };
    if !row.replicas.iter().any(|placed| placed.is_voter) {
        return Err(corrupt(WHAT, "it has none that votes"));
    }
    Ok(row)
}

impl Namespaces {
    /// What the metadata say of the cluster, as far as this node has seen.
    pub fn topology(&self) -> Arc<Topology> {
        Arc::clone(&self.view.borrow().topology)
    }

    /// Waits until they say something else than this.
    pub async fn until_other_topology(&self, known: &Topology) {
        let mut view = self.view.clone();
        // An error means that the server stops.
        let _ = view.wait_for(|view| *view.topology != *known).await;
    }

    /// Makes the changes that `decide` wants when it is shown the topology, and returns what it returns with them once they are applied here. A call
    /// that has an id and is made again gets the answer of the first time.
    ///
    /// # Errors
    ///
    /// What `decide` says, and see there.
    pub async fn change_topology_once<T: Answer>(
        &self,
        decide: impl Fn(&Topology) -> Result<(Vec<TopologyChange>, T), MetaError>,
    ) -> Result<T, MetaError> {
        self.change_once(|view| {
            let (changes, outcome) = decide(&view.topology)?;
            Ok((changes.iter().map(TopologyChange::row).collect(), outcome))
        })
        .await
    }

    /// The same for what is no call's.
    ///
    /// # Errors
    ///
    /// What `decide` says, and see there.
    pub async fn change_topology<T>(
        &self,
        decide: impl Fn(&Topology) -> Result<(Vec<TopologyChange>, T), MetaError>,
    ) -> Result<T, MetaError> {
        self.change(|view| {
            let (changes, outcome) = decide(&view.topology)?;
            Ok((changes.iter().map(TopologyChange::row).collect(), outcome))
        })
        .await
    }

    /// A data directory takes the place of a node's disk, which is lost for ever from then on. The same one once more changes nothing.
    ///
    /// # Errors
    ///
    /// [`MetaError::Invalid`] if it is another node's, and see there.
    pub async fn replace_disk(&self, node: NodeId, directory_id: uuid::Uuid) -> Result<NodeDisk, MetaError> {
        self.change_once(|view| {
            let Topology { disks, nodes, .. } = &*view.topology;
            let known = disks.get(&node);
            if let Some(same) = known.filter(|disk| disk.directory_id == directory_id) {
                return Ok((Vec::new(), *same));
            }
            let of_disk = disks.iter().find(|(_, disk)| disk.directory_id == directory_id).map(|(node, _)| node);
            let of_node = nodes.iter().find(|(_, row)| row.directory_id == directory_id).map(|(node, _)| node);
            if let Some(other) = of_disk.or(of_node) {
                return Err(MetaError::Invalid(format!("{directory_id} is the data directory of node {other}").into()));
            }
            if nodes.get(&node).is_some_and(|row| row.membership == Membership::Removed) {
                return Err(MetaError::Invalid(format!("node {node} was removed from the cluster").into()));
            }
            let disk = NodeDisk { directory_id, number: known.map_or(0, |disk| disk.number) + 1 };
            Ok((vec![RowChange::Put { key: TopologyKey::Disk(node).row(), value: encode_disk(disk) }], disk))
        })
        .await
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn row() -> GroupRow {
        let placed = |node, generation, is_voter| Placed { node: NodeId(node), generation, is_voter };
        GroupRow {
            version: 3,
            last_generation: 7,
            replicas: vec![placed(1, 0, true), placed(4, 7, true), placed(300, 6, false)],
            leaving: vec![placed(2, 0, true)],
            is_settled: false,
            founding: Vec::new(),
        }
    }

    #[test]
    fn the_row_formats_are_for_ever() {
        let disk = NodeDisk { directory_id: uuid::Uuid::from_u128(0x0102_0304), number: 300 };
        let bytes = encode_disk(disk);
        assert_eq!(hex(&bytes), "0a100000000000000000000000000102030410ac02");
        assert_eq!(decode_disk(&bytes), Ok(disk));
        for bytes in [&b""[..], b"\xff", &bytes[..18], b"\x0a\x01\x01\x10\x01"] {
            assert!(matches!(decode_disk(bytes), Err(MetaError::Corrupt(_))), "{bytes:?}");
        }

        let node = NodeRow {
            directory_id: uuid::Uuid::from_u128(0x0102_0304),
            address: "a:1".to_owned(),
            membership: Membership::Leaving,
            labels: NodeLabels::default(),
        };
        let bytes = encode_node(&node);
        assert_eq!(hex(&bytes), "0a10000000000000000000000000010203041203613a311802");
        assert_eq!(decode_node(&bytes), Ok(node.clone()));
        for bytes in [&b""[..], b"\xff", &bytes[..23], b"\x0a\x01\x01\x18\x01"] {
            assert!(matches!(decode_node(bytes), Err(MetaError::Corrupt(_))), "{bytes:?}");
        }
        let others = BTreeMap::from([("d".to_owned(), "s".to_owned())]);
        let labels = NodeLabels { region: "r".to_owned(), zone: "z".to_owned(), others };
        let node = NodeRow { labels, ..node };
        let bytes = encode_node(&node);
        assert_eq!(hex(&bytes), "0a10000000000000000000000000010203041203613a3118022201722a017a32060a0164120173");
        assert_eq!(decode_node(&bytes), Ok(node));

        let bytes = encode_group(&row());
        assert_eq!(hex(&bytes), "080310071a04080118011a060804100718011a0508ac021006220408021801");
        assert_eq!(decode_group(&bytes), Ok(row()));
        let founders = [(4, 0), (300, 2)].map(|(node, disk)| Founder { node: NodeId(node), disk });
        let new = GroupRow::new(founders.to_vec());
        let bytes = encode_group(&new);
        assert_eq!(hex(&bytes), "08011a04080418011a0508ac021801320208043205 08ac021002".replace(' ', ""));
        assert_eq!(decode_group(&bytes), Ok(new.clone()));
        assert_eq!(decode_group(&encode_group(&new.settled())).unwrap().founding, []);
        let again = new.founded_by(vec![Founder { node: NodeId(4), disk: 0 }]);
        assert_eq!(hex(&encode_group(&again)), "080210011a060804100118013202 0804".replace(' ', ""));
        for bytes in [&b""[..], b"\xff", b"\x08\x01\x1a\x02\x08\x01"] {
            assert!(matches!(decode_group(bytes), Err(MetaError::Corrupt(_))), "{bytes:?}");
        }
    }

    #[test]
    fn a_row_is_found_by_its_key() {
        let disk = TopologyKey::Disk(NodeId(258));
        let placement = TopologyKey::Placement("eu".to_owned());
        let others = [placement, TopologyKey::Pool(PoolId(7)), TopologyKey::Regions, TopologyKey::Counters];
        let joining = [TopologyKey::Authority, TopologyKey::Certificate(NodeId(258)), TopologyKey::Token(1 << 40)];
        let formats = [TopologyKey::Format, TopologyKey::NodeFormats(NodeId(258))];
        let others = others.into_iter().chain(joining).chain(formats);
        for key in [disk, TopologyKey::Node(NodeId(1)), TopologyKey::Group(GroupId(0))].into_iter().chain(others) {
            assert_eq!(TopologyKey::of(&key.clone().row()), Some(Ok(key)));
        }
        assert_eq!(TopologyKey::of(&meta_row(MetaKind::Other, b"slots")), None);
        for key in [&b"disk/1"[..], b"formats/1", b"certificate/1", b"join-token/1234"] {
            assert!(matches!(TopologyKey::of(&meta_row(MetaKind::Other, key)), Some(Err(_))), "{key:?}");
        }
    }

    #[test]
    fn a_replica_is_found_as_long_as_it_may_be_needed() {
        assert_eq!(row().on(NodeId(2)).map(|placed| placed.generation), Some(0));
        assert_eq!(row().on(NodeId(4)).map(|placed| placed.generation), Some(7));
        assert_eq!(row().on(NodeId(3)), None);
    }
}
