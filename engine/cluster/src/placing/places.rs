//! How a cluster should be, as a node has seen it, and what whoever leads the metadata makes of that.

use std::collections::BTreeSet;
use std::sync::Arc;

use everlog_meta::{
    Answer, GroupRow, Membership, MetaError, Namespaces, NodeLabels, NodeRow, PLACEMENTS_MAX, Placement, Pool,
    Topology, TopologyChange,
};
use everlog_model::NodeId;
use everlog_storage::GroupId;
use everlog_storage::directory::Founding;

use super::fit::lacking;
use super::plan::{self, Health, Moved};
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
    /// A node says where and what it is.
    Labels(NodeId, NodeLabels),
    /// These placements are so from now on.
    Placements(Vec<Placement>),
    /// A placement is not needed any more.
    NoPlacement(String),
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
        self.change_with(|picture, _| changes(picture, wanted).map(|changes| (changes, ()))).await
    }

    /// Makes the changes that `decide` wants, and returns what it returns with them.
    pub(super) async fn change_with<T: Answer>(
        &self,
        decide: impl Fn(&Picture, &Topology) -> Result<(Vec<TopologyChange>, T), String>,
    ) -> Result<T, MetaError> {
        self.namespaces
            .change_topology_once(|topology| {
                let decided = decide(&self.picture_of(topology), topology);
                decided.map_err(|why| MetaError::Invalid(why.into()))
            })
            .await
    }

    /// On which nodes the groups of a new pool are to be founded, by what the metadata say.
    ///
    /// # Errors
    ///
    /// Why they cannot be, one line.
    pub fn place(
        &self,
        topology: &Topology,
        pool: &Pool,
        health: impl Fn(NodeId) -> Health,
    ) -> Result<Vec<(GroupId, GroupRow)>, String> {
        plan::place(&self.picture_of(topology), pool, health)
    }

    /// What would come of placements: which groups would be elsewhere, and what an operator should know of it.
    ///
    /// # Errors
    ///
    /// Why they cannot be carried out, one line.
    pub fn foresee(&self, placements: &[Placement]) -> Result<(Vec<Moved>, Vec<String>), String> {
        let mut picture = self.picture();
        places(&picture, placements)?;
        let warnings = warnings(&picture, placements);
        picture.set_placements(placements.iter().cloned());
        Ok((plan::foreseen(&picture), warnings))
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
        Wanted::Labels(node, labels) => {
            let row = member(picture, *node)?;
            let labelled = || TopologyChange::Node(*node, NodeRow { labels: labels.clone(), ..row.clone() });
            Ok(if row.labels == *labels { Vec::new() } else { vec![labelled()] })
        }
        Wanted::Placements(placements) => places(picture, placements),
        Wanted::NoPlacement(name) if picture.placements_in_use().iter().any(|placement| placement.name == *name) => {
            Err(format!("placement {name} cannot be deleted: there are partitions that are placed by it"))
        }
        Wanted::NoPlacement(name) => match picture.placements.contains_key(name) {
            true => Ok(vec![TopologyChange::NoPlacement(name.clone())]),
            false => Err(format!("there is no placement {name}")),
        },
        Wanted::Settled(group, version) => {
            let row = picture.groups.get(group).filter(|row| row.version == *version && !row.is_settled);
            Ok(row.map(|row| TopologyChange::Group(*group, row.settled())).into_iter().collect())
        }
    }
}

pub(super) fn joins(
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
    let row = NodeRow {
        directory_id,
        address: address.to_owned(),
        membership: Membership::Member,
        labels: NodeLabels::default(),
    };
    Ok(vec![TopologyChange::Node(node, row)])
}

/// Takes in placements that can be carried out.
fn places(picture: &Picture, placements: &[Placement]) -> Result<Vec<TopologyChange>, String> {
    for (at, placement) in placements.iter().enumerate() {
        placement.check()?;
        if placements[..at].iter().any(|other| other.name == placement.name) {
            return Err(format!("placement {} is there twice", placement.name));
        }
        let is_used = picture.placements_in_use().iter().any(|used| used.name == placement.name);
        if is_used && let Some(why) = lacking(picture, placement, None) {
            return Err(why);
        }
    }
    let new = placements.iter().filter(|placement| !picture.placements.contains_key(&placement.name)).count();
    if picture.placements.len() + new > PLACEMENTS_MAX {
        return Err(format!("a cluster has no more than {PLACEMENTS_MAX} placements"));
    }
    let changed = placements.iter().filter(|placement| picture.placements.get(&placement.name) != Some(placement));
    Ok(changed.cloned().map(TopologyChange::Placement).collect())
}

/// What an operator should know of placements that can be carried out.
fn warnings(picture: &Picture, placements: &[Placement]) -> Vec<String> {
    let has_nodes = |region: &&String| picture.members().any(|(_, row)| row.labels.region == **region);
    let mut warnings = Vec::new();
    for Placement { name, regions, learners, leaders, .. } in placements {
        let named: BTreeSet<_> = regions.keys().chain(learners.keys()).chain(leaders).collect();
        for region in named.into_iter().filter(|region| !has_nodes(region)) {
            warnings.push(format!("placement {name}: no node is in region {region}"));
        }
        if regions.len() == 2 {
            warnings.push(format!(
                "placement {name}: of two regions, the loss of the one with more replicas stops writes; a third one for one replica breaks the tie"
            ));
        }
    }
    warnings
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
                TopologyChange::Placement(placement) => {
                    drop(topology.placements.insert(placement.name.clone(), placement));
                }
                TopologyChange::NoPlacement(name) => drop(topology.placements.remove(&name)),
                other => panic!("{other:?}"),
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
    fn placements_are_taken_that_the_nodes_can_carry_out() {
        let topology = &mut Topology::default();
        let five = Placement { replicas: 5, ..Placement::default() };
        let why = applied(topology, &Wanted::Placements(vec![five.clone()])).unwrap_err();
        assert!(why.contains("3 nodes may have them, and each partition has 5 replicas"), "{why}");
        // Nothing is placed by it yet, and nodes may come.
        let later = Placement { name: "eu".to_owned(), ..five };
        assert_eq!(applied(topology, &Wanted::Placements(vec![later.clone()])), Ok(1));
        assert_eq!(applied(topology, &Wanted::Placements(vec![later.clone()])), Ok(0), "again");
        assert!(applied(topology, &Wanted::Placements(vec![later.clone(), later])).unwrap_err().contains("twice"));
        let even = Placement { replicas: 2, ..Placement::default() };
        assert!(applied(topology, &Wanted::Placements(vec![even])).unwrap_err().contains("1, 3 or 5"));
        let deletes = |name: &str| Wanted::NoPlacement(name.to_owned());
        assert!(applied(topology, &deletes("default")).unwrap_err().contains("placed by it"));
        assert_eq!(applied(topology, &deletes("eu")), Ok(1));
        assert!(applied(topology, &deletes("eu")).unwrap_err().contains("there is no placement eu"));
    }

    #[test]
    fn a_node_has_the_labels_that_it_said_last() {
        let topology = &mut Topology::default();
        let labels = |region: &str| NodeLabels { region: region.to_owned(), ..NodeLabels::default() };
        assert_eq!(applied(topology, &Wanted::Labels(NodeId(2), labels(""))), Ok(0), "it has none");
        assert_eq!(applied(topology, &Wanted::Labels(NodeId(2), labels("a"))), Ok(1));
        assert_eq!(applied(topology, &Wanted::Labels(NodeId(2), labels("a"))), Ok(0));
        assert_eq!(applied(topology, &Wanted::Labels(NodeId(2), labels("b"))), Ok(1));
        let picture = Picture::new(&founding(3, 6), topology);
        assert_eq!(picture.labels(NodeId(2)).region, "b");
        assert_eq!(picture.nodes[&NodeId(2)].membership, Membership::Member);
        assert!(applied(topology, &Wanted::Labels(NodeId(7), labels("a"))).is_err());
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
