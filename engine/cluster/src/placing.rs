//! Which nodes a cluster has, and which replicas of which groups each of them should have: what it was founded with, and what the metadata have
//! said since.
//!
//! ```text
//!   Founding + Topology ──▶ Picture ──plan──▶ changes of the topology, by whoever leads the metadata
//!                             ├─▶ each node: has these replicas, dials these nodes
//!                             └─▶ leader of each group: brings it to these replicas
//! ```

mod fit;
mod joining;
mod places;
mod plan;

use std::collections::BTreeMap;

use everlog_meta::{
    DEFAULT_PLACEMENT, Founder, GroupRow, Membership, NodeLabels, NodeRow, Placed, Placement, Pool, PoolId, Topology,
};
use everlog_model::NodeId;
use everlog_raft::{GroupReplica, GroupReplicas, REPLICA_ID_MIN, ReplicaId};
use everlog_storage::GroupId;
use everlog_storage::directory::Founding;

pub use joining::{EnrolledBy, Enrolment, Note};
pub use places::{Places, Wanted};
pub use plan::{Health, Moved};

/// Replicas that a partition is founded with, where there are as many nodes.
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
    /// All placements, by name.
    pub placements: BTreeMap<String, Placement>,
    /// The pools beside `default`.
    pools: BTreeMap<PoolId, Pool>,
    /// Where the replicas of each of those should be.
    of_pools: BTreeMap<PoolId, Placement>,
    /// The pools that partitions are of, but for `default`.
    of_groups: BTreeMap<GroupId, PoolId>,
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
                let labels = NodeLabels::default();
                (*node, NodeRow { directory_id, address, membership: Membership::Member, labels })
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
        let in_pool = |(id, pool): (&PoolId, &Pool)| pool.partitions().into_iter().map(|group| (group, *id)).collect();
        let of_groups = topology.pools.iter().flat_map::<Vec<_>, _>(in_pool).collect();
        let (placements, pools, of_pools) = (topology.all_placements(), topology.pools.clone(), BTreeMap::new());
        let mut picture = Picture { nodes, groups, placements, pools, of_pools, of_groups, disks, founders };
        picture.set_placements([]);
        picture
    }

    /// These placements are so from now on.
    fn set_placements(&mut self, placements: impl IntoIterator<Item = Placement>) {
        self.placements.extend(placements.into_iter().map(|placement| (placement.name.clone(), placement)));
        self.of_pools = self.pools.iter().map(|(id, pool)| (*id, self.placement_in(pool))).collect();
    }

    /// Where the replicas of a pool's groups should be, and who should lead them: a pool that fails over by itself says the latter first.
    fn placement_in(&self, pool: &Pool) -> Placement {
        let mut placement = self.placements.get(&pool.placement).unwrap_or(&self.placements[DEFAULT_PLACEMENT]).clone();
        let others = placement.leaders.iter().filter(|region| !pool.leaders.contains(region));
        placement.leaders = pool.leaders.iter().chain(others).cloned().collect();
        placement
    }

    /// Where the replicas of a group should be.
    pub fn placement_of(&self, group: GroupId) -> &Placement {
        let of_pool = self.of_groups.get(&group).and_then(|pool| self.of_pools.get(pool));
        of_pool.unwrap_or(&self.placements[DEFAULT_PLACEMENT])
    }

    /// The pool that a group is a partition of, unless that is `default`.
    pub fn pool_of(&self, group: GroupId) -> Option<(PoolId, &Pool)> {
        let id = *self.of_groups.get(&group)?;
        self.pools.get(&id).map(|pool| (id, pool))
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

    /// The replicas that a group is to be founded with, the one that should lead first; none if it was founded.
    pub fn founders_of(&self, group: GroupId) -> Vec<(ReplicaId, NodeId)> {
        let Some(row) = self.groups.get(&group) else { return Vec::new() };
        let generation = |node| row.replicas.iter().find(|placed| placed.node == node).map_or(0, |it| it.generation);
        let id = |founder: &Founder| replica_id(founder.node, founder.disk, generation(founder.node));
        row.founding.iter().map(|founder| (id(founder), founder.node)).collect()
    }

    /// The partitions, by id.
    pub fn partitions(&self) -> impl Iterator<Item = GroupId> {
        self.groups.keys().copied().filter(|group| *group != METADATA)
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

    /// The placements of groups that there are.
    pub fn placements_in_use(&self) -> Vec<&Placement> {
        let mut placements: Vec<_> =
            self.groups.keys().filter(|group| **group != METADATA).map(|group| self.placement_of(*group)).collect();
        placements.dedup();
        placements
    }

    /// Where and what a node is.
    pub fn labels(&self, node: NodeId) -> &NodeLabels {
        static NONE: NodeLabels = NodeLabels { region: String::new(), zone: String::new(), others: BTreeMap::new() };
        self.nodes.get(&node).map_or(&NONE, |row| &row.labels)
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
        founding: Vec::new(),
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
pub(crate) mod tests {
    use everlog_meta::NodeDisk;
    use everlog_storage::directory::FoundingMember;

    use super::*;

    pub(crate) fn founding(nodes: u32, partitions: u32) -> Founding {
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
