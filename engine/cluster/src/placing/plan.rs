//! What is to be changed so that each group has the replicas it should have, on the nodes that can have them.
//!
//! A pure function of how the cluster should be and which nodes are there. Whoever leads the metadata carries out what it says, and keeps
//! nothing: the next one plans from the same rows. A change names the new replicas and those that are to go; the group's leader has the new ones
//! learn, swaps them in one change of its voters, and reports; until then the group is not *settled*, and changed again only if a
//! node that it was to move to is lost, too.

use std::collections::{BTreeMap, BTreeSet};

use everlog_meta::{GroupRow, Membership, NodeRow, Placed, TopologyChange};
use everlog_model::NodeId;
use everlog_storage::GroupId;

use super::{METADATA, Picture, REPLICAS, voting};

/// How a node is, as the one sees it that plans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// It can be reached.
    Up,
    /// It cannot be reached, but not for so long that it is given up.
    Away,
    /// It has been away for so long that its replicas are to be elsewhere.
    Lost,
}

/// What is to be changed now. Nothing if everything is as it should be, or has to wait.
pub(super) fn plan(picture: &Picture, health: impl Fn(NodeId) -> Health) -> Vec<TopologyChange> {
    let planning = Planning::new(picture, &health);
    let gone = planning.gone();
    let metadata = planning.metadata(&gone);
    gone.into_iter().chain(metadata).chain(planning.partitions()).collect()
}

/// Why a node must not be removed: too few would be left.
pub(super) fn why_not_to_remove(picture: &Picture, node: NodeId) -> Option<String> {
    let stays = |(other, row): &(NodeId, &NodeRow)| *other != node && row.membership == Membership::Member;
    let left = picture.members().filter(stays).count();
    (left < REPLICAS)
        .then(|| format!("{left} nodes would be left, and each partition has {REPLICAS} replicas: add a node first"))
}

/// Voters of the metadata, with so many nodes that can vote.
fn metadata_voters(nodes: usize) -> usize {
    match nodes {
        0..3 => nodes,
        3..5 => 3,
        _ => 5,
    }
}

struct Planning<'a> {
    picture: &'a Picture,
    /// Members that are to stay, by how they are.
    health: BTreeMap<NodeId, Health>,
}

impl Planning<'_> {
    fn new<'a>(picture: &'a Picture, health: &dyn Fn(NodeId) -> Health) -> Planning<'a> {
        let staying = picture.members().filter(|(_, row)| row.membership == Membership::Member);
        Planning { picture, health: staying.map(|(node, _)| (node, health(node))).collect() }
    }

    /// Whether a node is to have replicas, be it away for a moment.
    fn is_good(&self, node: NodeId) -> bool {
        self.health.get(&node).is_some_and(|health| *health != Health::Lost)
    }

    fn is_up(&self, node: NodeId) -> bool {
        self.health.get(&node) == Some(&Health::Up)
    }

    fn partition_rows(&self) -> impl Iterator<Item = (GroupId, &GroupRow)> {
        self.picture.groups.iter().filter(|(group, _)| **group != METADATA).map(|(group, row)| (*group, row))
    }

    /// Nodes that leave, have no partition any more and do not vote in the metadata: they are members no longer.
    fn gone(&self) -> Vec<TopologyChange> {
        let votes = |node: NodeId| {
            let metadata = self.picture.groups.get(&METADATA);
            metadata.is_some_and(|row| {
                !row.is_settled || row.replicas.iter().any(|placed| placed.node == node && placed.is_voter)
            })
        };
        let is_empty = |node: NodeId| !votes(node) && self.partition_rows().all(|(_, row)| row.on(node).is_none());
        let leaving = self.picture.members().filter(|(_, row)| row.membership == Membership::Leaving);
        let gone = leaving.filter(|(node, _)| is_empty(*node));
        gone.map(|(node, row)| TopologyChange::Node(node, NodeRow { membership: Membership::Removed, ..row.clone() }))
            .collect()
    }

    /// All members have the metadata, but for those that are `gone`, and some of them vote.
    fn metadata(&self, gone: &[TopologyChange]) -> Option<TopologyChange> {
        let row = self.picture.groups.get(&METADATA)?;
        let is_voter = |placed: &&Placed| placed.is_voter;
        if !row.is_settled && row.replicas.iter().filter(is_voter).all(|placed| self.is_good(placed.node)) {
            return None;
        }
        let voters = voting(row);
        let wanted = metadata_voters(self.health.len());
        // Whoever votes and can, goes on; then those that can be reached; and nobody stops to vote before there is another one.
        let mut next: Vec<_> = voters.iter().copied().filter(|node| self.is_good(*node)).collect();
        let others = self.health.keys().copied().filter(|node| self.is_up(*node));
        let is_member = |node: &NodeId| self.picture.members().any(|(member, _)| member == *node);
        for node in others.chain(voters.iter().copied().filter(is_member)) {
            if next.len() < wanted && !next.contains(&node) {
                next.push(node);
            }
        }
        next.sort_by_key(|node| !self.is_up(*node));
        next.truncate(wanted);
        let placed = |node: NodeId, is_voter| Placed { node, generation: 0, is_voter };
        let is_gone =
            |node: NodeId| gone.iter().any(|change| matches!(change, TopologyChange::Node(of, _) if *of == node));
        let members = self.picture.members().map(|(node, _)| node);
        let learners = members.filter(|node| !next.contains(node) && !is_gone(*node));
        let replicas: Vec<_> =
            next.iter().map(|node| placed(*node, true)).chain(learners.map(|node| placed(node, false))).collect();
        let as_set = |of: &[Placed]| of.iter().copied().collect::<BTreeSet<_>>();
        if next.is_empty() || as_set(&replicas) == as_set(&row.replicas) {
            return None;
        }
        Some(TopologyChange::Group(METADATA, changed(row, replicas, row.last_generation)))
    }

    fn partitions(&self) -> Vec<TopologyChange> {
        let mut rows: BTreeMap<_, _> = self.partition_rows().map(|(group, row)| (group, row.clone())).collect();
        let moves_max = (self.health.len() / 2).max(2);
        let unsettled = |rows: &BTreeMap<GroupId, GroupRow>| rows.values().filter(|row| !row.is_settled).count();
        // A bound for the case that this function has a fault.
        for _ in 0..rows.len() * REPLICAS {
            let has_place = unsettled(&rows) < moves_max;
            let step = self
                .repair(&rows, has_place)
                .or_else(|| has_place.then(|| self.grow(&rows).or_else(|| self.balance(&rows)))?);
            let Some((group, row)) = step else { break };
            rows.insert(group, row);
        }
        if let Some((group, row)) = self.lead(&rows) {
            rows.insert(group, row);
        }
        let is_other = |(group, row): &(GroupId, GroupRow)| self.picture.groups.get(group) != Some(row);
        rows.into_iter().filter(is_other).map(|(group, row)| TopologyChange::Group(group, row)).collect()
    }

    /// Replicas on each node that can have some.
    fn loads(&self, rows: &BTreeMap<GroupId, GroupRow>) -> BTreeMap<NodeId, usize> {
        let mut loads: BTreeMap<_, _> = self.health.keys().map(|node| (*node, 0)).collect();
        for placed in rows.values().flat_map(|row| &row.replicas) {
            if let Some(load) = loads.get_mut(&placed.node) {
                *load += 1;
            }
        }
        loads
    }

    /// The node with the fewest replicas that could take one of a group.
    fn place(&self, rows: &BTreeMap<GroupId, GroupRow>, row: &GroupRow) -> Option<NodeId> {
        let loads = self.loads(rows);
        let free = loads.into_iter().filter(|(node, _)| self.is_up(*node) && row.on(*node).is_none());
        free.min_by_key(|(node, load)| (*load, *node)).map(|(node, _)| node)
    }

    /// A replica on a node that leaves or is lost goes elsewhere: one at a time, the next one once the group has settled. Of a group that has not,
    /// only a replica that is on its way is sent elsewhere.
    fn repair(&self, rows: &BTreeMap<GroupId, GroupRow>, has_place: bool) -> Option<(GroupId, GroupRow)> {
        let may_change = |row: &GroupRow| has_place || !row.is_settled;
        rows.iter().filter(|(_, row)| may_change(row)).find_map(|(group, row)| {
            let may_move = |placed: &Placed| row.is_settled || placed.generation == row.last_generation;
            let bad = row.replicas.iter().find(|placed| !self.is_good(placed.node) && may_move(placed))?;
            Some((*group, moved(row, *bad, self.place(rows, row)?)))
        })
    }

    /// A group with too few replicas gets another one.
    fn grow(&self, rows: &BTreeMap<GroupId, GroupRow>) -> Option<(GroupId, GroupRow)> {
        let mut settled = rows.iter().filter(|(_, row)| row.is_settled && row.replicas.len() < REPLICAS);
        settled.find_map(|(group, row)| {
            let generation = row.last_generation + 1;
            let placed = Placed { node: self.place(rows, row)?, generation, is_voter: true };
            let replicas = row.replicas.iter().copied().chain([placed]).collect();
            Some((*group, changed(row, replicas, generation)))
        })
    }

    /// A node that has two more than another one gives it a replica. Not while somebody is away: that one may be back in a moment.
    fn balance(&self, rows: &BTreeMap<GroupId, GroupRow>) -> Option<(GroupId, GroupRow)> {
        if self.health.values().any(|health| *health == Health::Away) {
            return None;
        }
        let mut loads = self.loads(rows);
        loads.retain(|node, _| self.is_up(*node));
        let (least, few) = loads.iter().min_by_key(|(node, load)| (**load, **node))?;
        let mut loaded: Vec<_> = loads.iter().filter(|(_, load)| **load >= few + 2).collect();
        loaded.sort_by_key(|(node, load)| (std::cmp::Reverse(**load), **node));
        loaded.into_iter().find_map(|(most, _)| {
            let can_move = |row: &GroupRow| row.is_settled && row.on(*least).is_none();
            let mut settled = rows.iter().filter(|(_, row)| can_move(row));
            settled.find_map(|(group, row)| {
                let from = row.replicas.iter().find(|placed| placed.node == *most)?;
                Some((*group, moved(row, *from, *least)))
            })
        })
    }

    /// A node that should lead two more than another one of its group leaves one to that. Nothing moves for it.
    fn lead(&self, rows: &BTreeMap<GroupId, GroupRow>) -> Option<(GroupId, GroupRow)> {
        let mut leads: BTreeMap<_, usize> = self.health.keys().map(|node| (*node, 0)).collect();
        for first in rows.values().filter_map(|row| row.replicas.first()) {
            if let Some(count) = leads.get_mut(&first.node) {
                *count += 1;
            }
        }
        let leads_of = |placed: &Placed| leads.get(&placed.node).copied();
        rows.iter().filter(|(_, row)| row.is_settled).find_map(|(group, row)| {
            let first = leads_of(row.replicas.first()?)?;
            let few = |place: &usize| leads_of(&row.replicas[*place]).filter(|count| count + 2 <= first);
            let place = (1..row.replicas.len()).filter(|place| few(place).is_some()).min_by_key(few)?;
            let mut row = row.clone();
            row.replicas.swap(0, place);
            Some((*group, row))
        })
    }
}

/// A replica of a group goes to another node.
fn moved(row: &GroupRow, from: Placed, to: NodeId) -> GroupRow {
    let generation = row.last_generation + 1;
    let replace = |placed: &Placed| if *placed == from { Placed { node: to, generation, ..from } } else { *placed };
    changed(row, row.replicas.iter().map(replace).collect(), generation)
}

/// A group is to have these replicas, and loses those that it has had and that are not among them.
fn changed(row: &GroupRow, replicas: Vec<Placed>, last_generation: u32) -> GroupRow {
    let stays = |placed: &&Placed| {
        replicas.iter().any(|other| (other.node, other.generation) == (placed.node, placed.generation))
    };
    let leaving = row.replicas.iter().chain(&row.leaving).filter(|placed| !stays(placed)).copied().collect();
    GroupRow { version: row.version + 1, last_generation, replicas, leaving, is_settled: false }
}

#[cfg(test)]
mod tests {
    use everlog_meta::Topology;
    use everlog_random::Random;

    use super::super::tests::founding;
    use super::*;

    /// A cluster whose groups do at once what they are told to, unless they are held.
    struct Model {
        topology: Topology,
        founders: u32,
        partitions: u32,
        health: BTreeMap<NodeId, Health>,
    }

    impl Model {
        fn new(founders: u32, partitions: u32) -> Model {
            let health = (1..=founders).map(|node| (NodeId(node), Health::Up)).collect();
            Model { topology: Topology::default(), founders, partitions, health }
        }

        fn picture(&self) -> Picture {
            Picture::new(&founding(self.founders, self.partitions), &self.topology)
        }

        fn set(&mut self, node: u32, membership: Membership) {
            let picture = self.picture();
            let known = picture.nodes.get(&NodeId(node)).cloned();
            let directory_id = uuid::Uuid::from_u128(node.into());
            let row = known.unwrap_or(NodeRow { directory_id, address: format!("n{node}"), membership });
            self.topology.nodes.insert(NodeId(node), NodeRow { membership, ..row });
            self.health.entry(NodeId(node)).or_insert(Health::Up);
        }

        /// Plans once. Returns how many changes there were.
        fn step(&mut self) -> usize {
            let before = self.picture();
            let changes = plan(&before, |node| self.health[&node]);
            for change in &changes {
                match change.clone() {
                    TopologyChange::Node(node, row) => {
                        let metadata = &before.groups[&METADATA];
                        let votes = metadata.replicas.iter().any(|placed| placed.node == node && placed.is_voter);
                        assert!(metadata.is_settled && !votes, "{node} ends while it votes: {metadata:?}");
                        self.topology.nodes.insert(node, row);
                    }
                    TopologyChange::Group(group, row) => {
                        check_step(&before.groups[&group], &row);
                        self.topology.groups.insert(group, row);
                    }
                }
            }
            changes.len()
        }

        /// A group has what it should have.
        fn settle(&mut self, group: GroupId) {
            if let Some(row) = self.topology.groups.get_mut(&group) {
                (row.is_settled, row.leaving) = (true, Vec::new());
            }
        }

        fn settle_all(&mut self) {
            for group in self.topology.groups.keys().copied().collect::<Vec<_>>() {
                self.settle(group);
            }
        }

        /// Plans and settles until there is nothing left to do.
        fn run(&mut self) {
            for _ in 0..500 {
                if self.step() == 0 && self.picture().groups.values().all(|row| row.is_settled) {
                    return;
                }
                self.settle_all();
            }
            panic!("it never ends: {:?}", self.picture().groups);
        }

        fn loads(&self) -> BTreeMap<u32, usize> {
            let picture = self.picture();
            let mut loads: BTreeMap<_, _> = picture.members().map(|(node, _)| (node.0, 0)).collect();
            for (_, row) in picture.groups.iter().filter(|(group, _)| **group != METADATA) {
                row.replicas.iter().for_each(|placed| *loads.entry(placed.node.0).or_default() += 1);
            }
            loads
        }

        fn leads(&self) -> BTreeMap<u32, usize> {
            let mut leads = BTreeMap::new();
            for (group, row) in self.picture().groups {
                if group != METADATA {
                    *leads.entry(row.replicas[0].node.0).or_default() += 1;
                }
            }
            leads
        }

        /// The nodes that vote in the metadata, and those that only have them.
        fn metadata(&self) -> (Vec<u32>, Vec<u32>) {
            let row = self.picture().groups[&METADATA].clone();
            let of = |is_voter| {
                let mut nodes: Vec<_> = row
                    .replicas
                    .iter()
                    .filter(|placed| placed.is_voter == is_voter)
                    .map(|placed| placed.node.0)
                    .collect();
                nodes.sort_unstable();
                nodes
            };
            (of(true), of(false))
        }
    }

    /// What must hold of every change, whatever led to it.
    fn check_step(before: &GroupRow, after: &GroupRow) {
        let nodes: Vec<_> = after.replicas.iter().chain(&after.leaving).map(|placed| placed.node).collect();
        assert_eq!(nodes.iter().collect::<BTreeSet<_>>().len(), nodes.len(), "one a node: {after:?}");
        let lost = |placed: &&Placed| {
            let has = |of: &[Placed]| of.iter().any(|p| (p.node, p.generation) == (placed.node, placed.generation));
            !has(&after.replicas) && !has(&after.leaving)
        };
        let all = before.replicas.iter().chain(&before.leaving);
        assert_eq!(all.filter(lost).count(), 0, "nothing is forgotten that may be needed: {before:?} {after:?}");
        let known: BTreeSet<_> = before.replicas.iter().map(|placed| (placed.node, placed.generation)).collect();
        let new: Vec<_> =
            after.replicas.iter().filter(|placed| !known.contains(&(placed.node, placed.generation))).collect();
        if after.replicas.len() <= REPLICAS && after.version > before.version && after.last_generation > 0 {
            assert!(new.len() == 1, "one at a time: {before:?} {after:?}");
            assert!(new[0].generation == before.last_generation + 1 && after.last_generation == new[0].generation);
        }
        assert!(before.version == after.version || !after.is_settled);
    }

    #[test]
    fn nothing_is_done_in_a_cluster_as_it_was_founded() {
        for (nodes, partitions) in [(1, 4), (2, 4), (3, 6), (5, 10)] {
            let mut model = Model::new(nodes, partitions);
            assert_eq!(model.step(), 0, "{nodes} nodes");
        }
    }

    #[test]
    fn a_node_that_joins_gets_its_share_and_one_that_leaves_loses_all() {
        let mut model = Model::new(3, 8);
        model.set(4, Membership::Member);
        model.run();
        assert_eq!(model.loads(), BTreeMap::from([(1, 6), (2, 6), (3, 6), (4, 6)]));
        assert_eq!(model.leads(), BTreeMap::from([(1, 2), (2, 2), (3, 2), (4, 2)]));
        assert_eq!(model.metadata(), (vec![1, 2, 3], vec![4]));
        model.set(1, Membership::Leaving);
        model.run();
        assert_eq!(model.topology.nodes[&NodeId(1)].membership, Membership::Removed);
        assert_eq!(model.loads(), BTreeMap::from([(2, 8), (3, 8), (4, 8)]));
        assert_eq!(model.metadata(), (vec![2, 3, 4], vec![]));
        assert!(model.picture().groups.values().all(|row| row.on(NodeId(1)).is_none()));
        model.set(5, Membership::Member);
        model.set(6, Membership::Member);
        model.run();
        assert_eq!(model.metadata(), (vec![2, 3, 4, 5, 6], vec![]));
        assert!(model.loads().values().all(|load| (4..=5).contains(load)), "{:?}", model.loads());
    }

    #[test]
    fn a_node_that_is_lost_is_made_up_for_where_that_is_possible() {
        let mut model = Model::new(3, 6);
        model.health.insert(NodeId(2), Health::Lost);
        assert_eq!(model.step(), 0, "three nodes have no other place");
        let mut model = Model::new(4, 8);
        model.run();
        model.health.insert(NodeId(2), Health::Away);
        assert_eq!(model.step(), 0, "it may be back in a moment");
        model.health.insert(NodeId(2), Health::Lost);
        model.run();
        assert_eq!(model.loads(), BTreeMap::from([(1, 8), (2, 0), (3, 8), (4, 8)]));
        assert!(!model.metadata().0.contains(&2));
        model.health.insert(NodeId(2), Health::Up);
        model.run();
        assert_eq!(model.loads()[&2], 6, "it is back, and empty");
        let partitions = model.topology.groups.iter().filter(|(group, _)| **group != METADATA);
        let mut back = partitions.flat_map(|(_, row)| &row.replicas).filter(|placed| placed.node == NodeId(2));
        assert!(back.all(|placed| placed.generation > 0), "other replicas than it had");
    }

    #[test]
    fn a_lost_node_keeps_nobody_from_a_share_and_a_lost_voter_is_not_waited_for() {
        let mut model = Model::new(5, 10);
        model.health.insert(NodeId(5), Health::Lost);
        model.run();
        model.set(6, Membership::Member);
        model.run();
        assert!(model.loads()[&6] >= 5, "{:?}", model.loads());
        // A voter of the metadata that is lost before it has them.
        let mut model = Model::new(3, 6);
        model.set(4, Membership::Member);
        model.run();
        model.set(5, Membership::Member);
        model.step();
        assert_eq!(model.metadata().0, [1, 2, 3, 4, 5]);
        model.health.insert(NodeId(5), Health::Lost);
        model.set(5, Membership::Leaving);
        model.step();
        assert!(!model.metadata().0.contains(&5), "{:?}", model.metadata());
        model.run();
        assert_eq!(model.topology.nodes[&NodeId(5)].membership, Membership::Removed);
    }

    #[test]
    fn few_groups_move_at_a_time_and_one_that_moves_is_left_alone() {
        let mut model = Model::new(3, 12);
        model.set(4, Membership::Member);
        model.step();
        let moving = |model: &Model| {
            let unsettled = model.picture().groups.into_iter().filter(|(_, row)| !row.is_settled);
            unsettled.map(|(group, _)| group).filter(|group| *group != METADATA).collect::<Vec<_>>()
        };
        let first = moving(&model);
        assert_eq!(first.len(), 2);
        for _ in 0..5 {
            model.step();
            assert_eq!(moving(&model), first);
        }
        // The node that they move to is lost on the way: they go elsewhere, or wait.
        model.set(5, Membership::Member);
        model.health.insert(NodeId(4), Health::Lost);
        model.step();
        let picture = model.picture();
        assert!(first.iter().all(|group| picture.nodes_of(*group).contains(&NodeId(5))));
        assert!(first.iter().all(|group| picture.groups[group].leaving.iter().any(|placed| placed.node == NodeId(4))));
    }

    #[test]
    fn too_few_nodes_are_never_left() {
        let mut model = Model::new(4, 8);
        assert_eq!(why_not_to_remove(&model.picture(), NodeId(1)), None);
        model.set(2, Membership::Leaving);
        assert!(why_not_to_remove(&model.picture(), NodeId(1)).is_some());
        assert_eq!(why_not_to_remove(&model.picture(), NodeId(2)), None, "that one leaves already");
    }

    #[test]
    fn whatever_happens_each_step_is_safe_and_it_ends_balanced() {
        for seed in 0..300 {
            let mut random = Random::new(seed);
            let mut model = Model::new(3 + random.below(3) as u32, 8);
            let mut nodes = model.founders;
            for _ in 0..60 {
                match random.below(8) {
                    0 if nodes < 9 => {
                        nodes += 1;
                        model.set(nodes, Membership::Member);
                    }
                    1 => {
                        let node = 1 + random.below(nodes as usize) as u32;
                        let is_member = model.picture().nodes[&NodeId(node)].membership == Membership::Member;
                        if is_member && why_not_to_remove(&model.picture(), NodeId(node)).is_none() {
                            model.set(node, Membership::Leaving);
                        }
                    }
                    2 | 3 => {
                        let node = NodeId(1 + random.below(nodes as usize) as u32);
                        let health = [Health::Up, Health::Away, Health::Lost][random.below(3)];
                        model.health.insert(node, health);
                    }
                    4 | 5 => model.settle(GroupId(random.below(9) as u32)),
                    _ => drop(model.step()),
                }
            }
            model.health.values_mut().for_each(|health| *health = Health::Up);
            model.run();
            let (loads, leads) = (model.loads(), model.leads());
            let spread = |of: &BTreeMap<u32, usize>| of.values().max().unwrap() - of.values().min().unwrap();
            assert!(spread(&loads) <= 1, "seed {seed}: {loads:?}");
            assert!(leads.values().max().unwrap() - leads.values().min().unwrap() <= 2, "seed {seed}: {leads:?}");
            let (voters, learners) = model.metadata();
            assert_eq!(voters.len(), metadata_voters(voters.len() + learners.len()), "seed {seed}");
            assert!(model.picture().groups.values().all(|row| row.leaving.is_empty()), "seed {seed}");
        }
    }
}
