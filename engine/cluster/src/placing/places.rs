//! How a cluster should be, as a node has seen it, and what whoever leads the metadata makes of that.

use std::sync::Arc;

use everlog_meta::{GroupRow, Membership, MetaError, Namespaces, NodeRow, Topology, TopologyChange};
use everlog_model::NodeId;
use everlog_storage::GroupId;
use everlog_storage::directory::Founding;

use super::plan::{self, Health};
use super::{NODE_BITS, Picture, founded, founders, voting};

/// How a cluster should be.
pub struct Places {
    founding: Founding,
    namespaces: Arc<Namespaces>,
}

/// What somebody wants to be changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// A node with a new data directory joins, with this id or the next one.
    Joins {
        /// The data directory.
        directory_id: uuid::Uuid,
        /// Where it is dialled, `host:port`.
        address: String,
        /// The id that it is to have.
        node: Option<NodeId>,
    },
    /// A node is to lose all that it has, and to leave then.
    Leaves(NodeId),
    /// A node that was to leave is to stay.
    Stays(NodeId),
    /// A group has the replicas it should have by this version of its row, and no others.
    Settled(GroupId, u64),
}

impl Places {
    /// What was founded, as the metadata say that it has changed.
    pub fn new(founding: Founding, namespaces: Arc<Namespaces>) -> Places {
        Places { founding, namespaces }
    }

    /// What the metadata say, as far as this node has seen.
    pub fn topology(&self) -> Arc<Topology> {
        self.namespaces.topology()
    }

    /// How the cluster should be, as far as this node has seen.
    pub fn picture(&self) -> Picture {
        self.picture_of(&self.topology())
    }

    /// How the cluster should be by what the metadata say.
    pub fn picture_of(&self, topology: &Topology) -> Picture {
        Picture::new(&self.founding, topology)
    }

    /// The nodes that should have voting replicas of a group, the one that should lead first.
    pub fn nodes_of(&self, group: GroupId) -> Vec<NodeId> {
        match self.topology().groups.get(&group) {
            Some(row) => voting(row),
            None => voting(&founded(group, &founders(&self.founding))),
        }
    }

    /// Whether the cluster was founded with a data directory.
    pub fn was_founded_with(&self, directory_id: uuid::Uuid) -> bool {
        self.founding.members.iter().any(|member| member.directory_id == directory_id)
    }

    /// Carries out what somebody wants, if this node leads the metadata. What is so already stays as it is.
    ///
    /// # Errors
    ///
    /// [`MetaError::Invalid`] with the reason if it must not be, and see there.
    pub async fn change(&self, wanted: &Wanted) -> Result<(), MetaError> {
        self.namespaces
            .change_topology(|topology| {
                let changes = changes(&self.picture_of(topology), wanted);
                Ok((changes.map_err(|why| MetaError::Invalid(why.into()))?, ()))
            })
            .await
    }

    /// Plans what is to be changed now, and has it written down, if this node leads the metadata. Returns the changes.
    ///
    /// # Errors
    ///
    /// See [`MetaError`].
    pub async fn carry_on(&self, health: impl Fn(NodeId) -> Health) -> Result<Vec<TopologyChange>, MetaError> {
        // Mostly there is nothing to do, which is seen without asking whether this node leads.
        if plan::plan(&self.picture(), &health).is_empty() {
            return Ok(Vec::new());
        }
        self.namespaces
            .change_topology(|topology| {
                let changes = plan::plan(&self.picture_of(topology), &health);
                Ok((changes.clone(), changes))
            })
            .await
    }
}

fn changes(picture: &Picture, wanted: &Wanted) -> Result<Vec<TopologyChange>, String> {
    match wanted {
        Wanted::Joins { directory_id, address, node } => joins(picture, *directory_id, address, *node),
        Wanted::Leaves(node) => {
            let row = member(picture, *node)?;
            if row.membership == Membership::Leaving {
                return Ok(Vec::new());
            }
            match plan::why_not_to_remove(picture, *node) {
                Some(why) => Err(why),
                None => Ok(vec![with(*node, row, Membership::Leaving)]),
            }
        }
        Wanted::Stays(node) => {
            let row = member(picture, *node)?;
            let stays = with(*node, row, Membership::Member);
            Ok(if row.membership == Membership::Leaving { vec![stays] } else { Vec::new() })
        }
        Wanted::Settled(group, version) => {
            let row = picture.groups.get(group).filter(|row| row.version == *version && !row.is_settled);
            let settled = |row: &GroupRow| GroupRow { is_settled: true, leaving: Vec::new(), ..row.clone() };
            Ok(row.map(|row| TopologyChange::Group(*group, settled(row))).into_iter().collect())
        }
    }
}

fn joins(
    picture: &Picture,
    directory_id: uuid::Uuid,
    address: &str,
    wanted: Option<NodeId>,
) -> Result<Vec<TopologyChange>, String> {
    if let Some((node, row)) = picture.nodes.iter().find(|(_, row)| row.directory_id == directory_id) {
        let is_it = wanted.is_none_or(|wanted| wanted == *node);
        return match row.membership {
            Membership::Removed => {
                Err(format!("{directory_id} is the data directory of node {node}, which was removed"))
            }
            _ if picture.is_founder(*node) => {
                Err(format!("{directory_id} is the data directory of node {node}, not a new one"))
            }
            _ if !is_it => Err(format!("{directory_id} is the data directory of node {node} already")),
            _ => Ok(Vec::new()),
        };
    }
    let last = picture.nodes.keys().last().map_or(0, |node| node.0);
    let node = wanted.unwrap_or(NodeId(last + 1));
    if node.0 >= 1 << NODE_BITS {
        return Err(format!("a node id is less than {}", 1 << NODE_BITS));
    }
    if picture.nodes.contains_key(&node) {
        return Err(format!("there is or was a node {node}: an id is given out once"));
    }
    let row = NodeRow { directory_id, address: address.to_owned(), membership: Membership::Member };
    Ok(vec![TopologyChange::Node(node, row)])
}

fn member(picture: &Picture, node: NodeId) -> Result<&NodeRow, String> {
    match picture.nodes.get(&node) {
        None => Err(format!("there is no node {node}")),
        Some(row) if row.membership == Membership::Removed => {
            Err(format!("node {node} has left the cluster, for good"))
        }
        Some(row) => Ok(row),
    }
}

fn with(node: NodeId, row: &NodeRow, membership: Membership) -> TopologyChange {
    TopologyChange::Node(node, NodeRow { membership, ..row.clone() })
}

#[cfg(test)]
mod tests {
    use super::super::tests::founding;
    use super::*;

    fn applied(topology: &mut Topology, wanted: &Wanted) -> Result<usize, String> {
        let changes = changes(&Picture::new(&founding(3, 6), topology), wanted)?;
        let count = changes.len();
        for change in changes {
            match change {
                TopologyChange::Node(node, row) => drop(topology.nodes.insert(node, row)),
                TopologyChange::Group(group, row) => drop(topology.groups.insert(group, row)),
            }
        }
        Ok(count)
    }

    fn joins(directory: u128, node: Option<u32>) -> Wanted {
        Wanted::Joins {
            directory_id: uuid::Uuid::from_u128(directory),
            address: "n:1".to_owned(),
            node: node.map(NodeId),
        }
    }

    #[test]
    fn an_id_is_given_out_once() {
        let topology = &mut Topology::default();
        assert_eq!(applied(topology, &joins(40, None)), Ok(1));
        assert!(topology.nodes.contains_key(&NodeId(4)));
        assert_eq!(applied(topology, &joins(40, None)), Ok(0), "again");
        assert_eq!(applied(topology, &joins(40, Some(4))), Ok(0));
        assert!(applied(topology, &joins(40, Some(5))).is_err(), "it is node 4");
        assert!(applied(topology, &joins(1, None)).is_err(), "a founder's");
        assert!(applied(topology, &joins(50, Some(3))).is_err(), "there is a node 3");
        assert_eq!(applied(topology, &joins(50, Some(9))), Ok(1));
        assert_eq!(applied(topology, &Wanted::Leaves(NodeId(9))), Ok(1));
        topology.nodes.get_mut(&NodeId(9)).unwrap().membership = Membership::Removed;
        assert!(applied(topology, &joins(50, None)).is_err(), "it was removed");
        assert!(applied(topology, &joins(60, Some(9))).is_err(), "an id of old");
        assert_eq!(applied(topology, &joins(60, None)), Ok(1));
        assert!(topology.nodes.contains_key(&NodeId(10)));
        assert!(applied(topology, &joins(70, Some(1 << NODE_BITS))).is_err());
    }

    #[test]
    fn a_node_leaves_unless_too_few_would_be_left_and_may_stay_until_it_has() {
        let topology = &mut Topology::default();
        assert!(applied(topology, &Wanted::Leaves(NodeId(1))).unwrap_err().contains("2 nodes would be left"));
        assert!(applied(topology, &Wanted::Leaves(NodeId(7))).is_err());
        applied(topology, &joins(40, None)).unwrap();
        assert_eq!(applied(topology, &Wanted::Stays(NodeId(1))), Ok(0));
        assert_eq!(applied(topology, &Wanted::Leaves(NodeId(1))), Ok(1));
        assert_eq!(applied(topology, &Wanted::Leaves(NodeId(1))), Ok(0), "again");
        assert!(applied(topology, &Wanted::Leaves(NodeId(2))).is_err());
        assert_eq!(applied(topology, &Wanted::Stays(NodeId(1))), Ok(1));
        topology.nodes.get_mut(&NodeId(1)).unwrap().membership = Membership::Removed;
        assert!(applied(topology, &Wanted::Stays(NodeId(1))).unwrap_err().contains("for good"));
    }

    #[test]
    fn what_is_said_of_an_earlier_version_settles_nothing() {
        let topology = &mut Topology::default();
        applied(topology, &joins(40, None)).unwrap();
        let picture = Picture::new(&founding(3, 6), topology);
        let change = plan::plan(&picture, |_| Health::Up).into_iter().find_map(|change| match change {
            TopologyChange::Group(group, row) if group.0 > 0 => Some((group, row)),
            _ => None,
        });
        let (group, row) = change.unwrap();
        topology.groups.insert(group, row.clone());
        assert_eq!(applied(topology, &Wanted::Settled(group, row.version - 1)), Ok(0));
        assert_eq!(applied(topology, &Wanted::Settled(GroupId(99), 1)), Ok(0));
        assert_eq!(applied(topology, &Wanted::Settled(group, row.version)), Ok(1));
        assert!(topology.groups[&group].is_settled && topology.groups[&group].leaving.is_empty());
        assert_eq!(applied(topology, &Wanted::Settled(group, row.version)), Ok(0));
    }
}
