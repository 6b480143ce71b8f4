//! Which nodes a cluster has, and which replicas of which groups each of them should have: what it was founded with, and what the metadata have
//! said since.
//!
//! ```text
//!   Founding + Topology ──▶ Picture ──plan──▶ changes of the topology, by whoever leads the metadata
//!                             ├─▶ each node: has these replicas, dials these nodes
//!                             └─▶ leader of each group: brings it to these replicas
//! ```

mod places;
mod plan;

use std::collections::BTreeMap;

use everlog_meta::{GroupRow, Membership, NodeRow, Placed, Topology};
use everlog_model::NodeId;
use everlog_raft::{GroupReplica, GroupReplicas, REPLICA_ID_MIN, ReplicaId};
use everlog_storage::GroupId;
use everlog_storage::directory::Founding;

pub use places::{Places, Wanted};
pub use plan::Health;

/// Replicas of a partition.
pub const REPLICAS: usize = 3;

/// The group of the metadata.
const METADATA: GroupId = GroupId(0);

/// Bits of a replica's id that name the node, and those that name its disk; the rest are its generation.
const NODE_BITS: u32 = 16;
const DISK_BITS: u32 = 24;

/// A cluster as it should be at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// All nodes that were ever members.
    pub nodes: BTreeMap<NodeId, NodeRow>,
    /// All groups.
    pub groups: BTreeMap<GroupId, GroupRow>,
    /// How many disks each node has lost, if it has.
    disks: BTreeMap<NodeId, u32>,
    /// How many nodes founded it: those with the first ids.
    founders: u32,
}

impl Picture {
    /// What was founded, as the metadata have changed it since.
    pub fn new(founding: &Founding, topology: &Topology) -> Picture {
        let founders = founders(founding);
        let mut nodes: BTreeMap<_, _> = founders
            .iter()
            .zip(&founding.members)
            .map(|(node, member)| {
                let (directory_id, address) = (member.directory_id, member.address.clone());
                (*node, NodeRow { directory_id, address, membership: Membership::Member })
            })
            .collect();
        nodes.extend(topology.nodes.clone());
        for (node, disk) in &topology.disks {
            if let Some(row) = nodes.get_mut(node) {
                row.directory_id = disk.directory_id;
            }
        }
        let mut groups: BTreeMap<_, _> =
            (0..=founding.partitions).map(GroupId).map(|group| (group, founded(group, &founders))).collect();
        groups.extend(topology.groups.clone());
        let disks = topology.disks.iter().map(|(node, disk)| (*node, disk.number)).collect();
        let founders = founders.last().map_or(0, |node| node.0);
        Picture { nodes, groups, disks, founders }
    }

    /// Whether the cluster was founded with a node.
    pub fn is_founder(&self, node: NodeId) -> bool {
        node.0 <= self.founders
    }

    /// The node that a data directory is of, and how many disks that has lost before.
    pub fn node_with(&self, directory_id: uuid::Uuid) -> Option<(NodeId, u32)> {
        let (node, _) = self.members().find(|(_, row)| row.directory_id == directory_id)?;
        Some((node, self.disk(node)))
    }

    /// The nodes that are members still.
    pub fn members(&self) -> impl Iterator<Item = (NodeId, &NodeRow)> {
        let members = self.nodes.iter().filter(|(_, row)| row.membership != Membership::Removed);
        members.map(|(node, row)| (*node, row))
    }

    /// The nodes that should have voting replicas of a group, the one that should lead first.
    pub fn nodes_of(&self, group: GroupId) -> Vec<NodeId> {
        self.groups.get(&group).map(voting).unwrap_or_default()
    }

    /// The replicas that a group should have.
    pub fn replicas_of(&self, group: GroupId) -> GroupReplicas {
        let mut replicas = GroupReplicas::default();
        for placed in self.groups.get(&group).into_iter().flat_map(|row| &row.replicas) {
            let kind = if placed.is_voter { &mut replicas.voters } else { &mut replicas.learners };
            kind.insert(self.id(placed), placed.node);
        }
        replicas
    }

    /// The replica of a group that is to be on a node, or may be needed there yet.
    pub fn replica_on(&self, node: NodeId, group: GroupId) -> Option<GroupReplica> {
        let placed = self.groups.get(&group)?.on(node)?;
        Some(GroupReplica { group, group_epoch: 1, replica: self.id(&placed) })
    }

    /// Whether a replica that a node has of a group will never be needed again. What this picture does not know yet is not.
    pub fn is_over(&self, group: GroupId, replica: ReplicaId) -> bool {
        let Some(row) = self.groups.get(&group) else { return false };
        let Some((node, disk, generation)) = parts(replica) else { return false };
        let is_known = generation <= row.last_generation && disk <= self.disk(node);
        let mut all = row.replicas.iter().chain(&row.leaving);
        is_known && !all.any(|placed| placed.node == node && self.id(placed) == replica)
    }

    fn disk(&self, node: NodeId) -> u32 {
        self.disks.get(&node).copied().unwrap_or_default()
    }

    fn id(&self, placed: &Placed) -> ReplicaId {
        replica_id(placed.node, self.disk(placed.node), placed.generation)
    }
}

/// The nodes that a cluster is founded with.
fn founders(founding: &Founding) -> Vec<NodeId> {
    (1..).map(NodeId).take(founding.members.len()).collect()
}

/// The nodes with voting replicas in a row, the one that should lead first.
fn voting(row: &GroupRow) -> Vec<NodeId> {
    row.replicas.iter().filter(|placed| placed.is_voter).map(|placed| placed.node).collect()
}

/// The replicas that a group is founded with.
fn founded(group: GroupId, founders: &[NodeId]) -> GroupRow {
    let count = if group == METADATA { founders.len() } else { REPLICAS.min(founders.len()) };
    let first = group.0 as usize;
    let placed = |place: usize| Placed { node: founders[place % founders.len()], generation: 0, is_voter: true };
    GroupRow {
        version: 0,
        last_generation: 0,
        replicas: (first..first + count).map(placed).collect(),
        leaving: Vec::new(),
        is_settled: true,
    }
}

/// The id of a replica: a disk that is lost takes its replicas with it, and so does a move, so no id is used twice.
pub fn replica_id(node: NodeId, disk: u32, generation: u32) -> ReplicaId {
    let disk_and_node = (u64::from(disk) << NODE_BITS) + u64::from(node.0);
    REPLICA_ID_MIN + disk_and_node + (u64::from(generation) << (NODE_BITS + DISK_BITS))
}

/// What tells a replica apart from the others that its group has had on its node; see [`Placed`]. `None` for an id that was not made so.
pub fn generation_of(replica: ReplicaId) -> Option<u32> {
    parts(replica).map(|(_, _, generation)| generation)
}

/// The node, the disk and the generation of a replica with such an id.
fn parts(replica: ReplicaId) -> Option<(NodeId, u32, u32)> {
    let id = replica.checked_sub(REPLICA_ID_MIN)?;
    let bits = |from: u32, count: u32| u32::try_from((id >> from) & ((1 << count) - 1)).ok();
    let rest = 64 - NODE_BITS - DISK_BITS;
    Some((NodeId(bits(0, NODE_BITS)?), bits(NODE_BITS, DISK_BITS)?, bits(NODE_BITS + DISK_BITS, rest)?))
}

#[cfg(test)]
mod tests {
    use everlog_meta::NodeDisk;
    use everlog_storage::directory::FoundingMember;

    use super::*;

    pub(super) fn founding(nodes: u32, partitions: u32) -> Founding {
        let member = |node: u32| FoundingMember {
            directory_id: uuid::Uuid::from_u128(node.into()),
            address: format!("n{node}:7235"),
            disk: 0,
        };
        Founding {
            cluster_id: uuid::Uuid::from_u128(99),
            name: "x".to_owned(),
            proposer: uuid::Uuid::from_u128(1),
            attempt: 1,
            partitions,
            election_timeout_ms: 500,
            members: (1..=nodes).map(member).collect(),
            former: Vec::new(),
            joined: None,
        }
    }

    #[test]
    fn a_cluster_is_as_it_was_founded_until_the_metadata_say_otherwise() {
        let founding = founding(4, 8);
        let picture = Picture::new(&founding, &Topology::default());
        assert_eq!(picture.nodes_of(GroupId(0)), [1, 2, 3, 4].map(NodeId));
        assert_eq!(picture.nodes_of(GroupId(1)), [2, 3, 4].map(NodeId));
        assert_eq!(picture.nodes_of(GroupId(7)), [4, 1, 2].map(NodeId));
        let here = picture.replica_on(NodeId(2), GroupId(7)).unwrap();
        assert_eq!(here.replica, REPLICA_ID_MIN + 2);
        assert!(!picture.is_over(GroupId(7), here.replica));
        assert!(picture.is_over(GroupId(7), replica_id(NodeId(3), 0, 0)), "it never had one there");
        assert!(!picture.is_over(GroupId(7), replica_id(NodeId(3), 0, 1)), "one may come");

        let mut topology = Topology::default();
        let directory_id = uuid::Uuid::from_u128(77);
        topology.disks.insert(NodeId(2), NodeDisk { directory_id, number: 3 });
        let picture = Picture::new(&founding, &topology);
        assert_eq!(picture.nodes[&NodeId(2)].directory_id, directory_id);
        assert_eq!(picture.replica_on(NodeId(2), GroupId(7)).unwrap().replica, replica_id(NodeId(2), 3, 0));
        assert!(picture.is_over(GroupId(7), here.replica), "it went with its disk");
    }

    #[test]
    fn an_id_says_whose_it_is() {
        for (node, disk, generation) in [(1, 0, 0), (65_535, 7, 9), (3, (1 << 24) - 1, (1 << 23) - 1)] {
            assert_eq!(parts(replica_id(NodeId(node), disk, generation)), Some((NodeId(node), disk, generation)));
        }
        assert_eq!(parts(1), None);
    }
}
