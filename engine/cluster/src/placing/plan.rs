//! What is to be changed so that each group has the replicas it should have, on the nodes that can have them.
//!
//! A pure function of how the cluster should be and which nodes are there. Whoever leads the metadata carries out what it says, and keeps
//! nothing: the next one plans from the same rows. A change names the new replicas and those that are to go; the group's leader has the new ones
//! learn, swaps them in one change of its voters, and reports; until then the group is not *settled*, and changed again only if a
//! node that it was to move to is lost, too.

use std::collections::{BTreeMap, BTreeSet};

use everlog_meta::{Founder, GroupRow, Membership, NodeRow, Placed, Placement, Pool, TopologyChange};
use everlog_model::NodeId;
use everlog_storage::GroupId;

use super::fit::{Misfit, lacking, misfit};
use super::{METADATA, Picture, voting};

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

/// On which nodes the groups of a new pool are to be founded: on those that fit best, and can be reached now.
pub(super) fn place(
    picture: &Picture,
    pool: &Pool,
    health: impl Fn(NodeId) -> Health,
) -> Result<Vec<(GroupId, GroupRow)>, String> {
    let placement = &picture.placement_in(pool);
    if let Some(why) = lacking(picture, placement, None) {
        return Err(why);
    }
    let planning = Planning::new(picture, &health);
    let mut rows: Rows = planning.partition_rows().map(|(group, row)| (group, row.clone())).collect();
    let groups = pool.partitions();
    for group in &groups {
        let loads = planning.loads(&rows);
        let mut founders = Vec::new();
        while founders.len() < placement.replicas as usize {
            let row = GroupRow::new(founders.clone());
            let Some(node) = planning.best_place(placement, &row, None, &loads) else { break };
            founders.push(Founder { node, disk: picture.disk(node) });
        }
        if founders.is_empty() {
            return Err(format!("no node can be reached that may have replicas (placement {})", placement.name));
        }
        let leads = planning.leads(&rows);
        let rank = |node: NodeId| placement.rank(&picture.labels(node).region);
        founders.sort_by_key(|founder| (rank(founder.node), leads.get(&founder.node).copied()));
        rows.insert(*group, GroupRow::new(founders));
    }
    rows.retain(|group, _| groups.contains(group));
    Ok(rows.into_iter().collect())
}

/// Why a node must not be removed: too few would be left.
pub(super) fn why_not_to_remove(picture: &Picture, node: NodeId) -> Option<String> {
    picture.placements_in_use().into_iter().find_map(|placement| lacking(picture, placement, Some(node)))
}

/// What becomes of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    /// The group.
    pub group: GroupId,
    /// The nodes that it is on, the one that should lead first.
    pub from: Vec<NodeId>,
    /// Those that it is to be on.
    pub to: Vec<NodeId>,
}

/// Which groups are elsewhere once everything is as it should be, if no node is lost.
pub(super) fn foreseen(picture: &Picture) -> Vec<Moved> {
    let mut then = picture.clone();
    // A bound for the case that planning has a fault.
    for _ in 0..STEPS_FORESEEN_MAX {
        let changes = plan(&then, |_| Health::Up);
        if changes.is_empty() && then.groups.values().all(|row| row.is_settled) {
            break;
        }
        for change in changes {
            match change {
                TopologyChange::Group(group, row) => drop(then.groups.insert(group, row)),
                TopologyChange::Node(node, row) => drop(then.nodes.insert(node, row)),
                TopologyChange::Placement(_) | TopologyChange::NoPlacement(_) => {}
            }
        }
        for row in then.groups.values_mut() {
            (row.is_settled, row.leaving) = (true, Vec::new());
        }
    }
    let nodes = |row: &GroupRow| row.replicas.iter().map(|placed| placed.node).collect::<Vec<_>>();
    let moved = picture.groups.iter().filter_map(|(group, row)| {
        let (from, to) = (nodes(row), nodes(then.groups.get(group)?));
        (from != to).then_some(Moved { group: *group, from, to })
    });
    moved.collect()
}

/// Voters of the metadata, with so many nodes that can vote.
fn metadata_voters(nodes: usize) -> usize {
    match nodes {
        0..3 => nodes,
        3..5 => 3,
        _ => 5,
    }
}

/// Rows of partitions, and replicas or leads of nodes.
type Rows = BTreeMap<GroupId, GroupRow>;
type Loads = BTreeMap<NodeId, usize>;

/// Steps that are looked ahead at most.
const STEPS_FORESEEN_MAX: usize = 10_000;

struct Planning<'a> {
    picture: &'a Picture,
    /// Members that are to stay, by how they are.
    health: BTreeMap<NodeId, Health>,
    /// Members that are lost, whether they were to stay or not.
    lost: BTreeSet<NodeId>,
}

impl Planning<'_> {
    fn new<'a>(picture: &'a Picture, health: &dyn Fn(NodeId) -> Health) -> Planning<'a> {
        let staying = picture.members().filter(|(_, row)| row.membership == Membership::Member);
        let lost = picture.members().map(|(node, _)| node).filter(|node| health(*node) == Health::Lost);
        Planning { picture, health: staying.map(|(node, _)| (node, health(node))).collect(), lost: lost.collect() }
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
        let mut rows: Rows = self.partition_rows().map(|(group, row)| (group, row.clone())).collect();
        let moves_max = (self.health.len() / 2).max(2);
        let is_moving = |row: &&GroupRow| !row.is_settled && row.founding.is_empty();
        let unsettled = |rows: &Rows| rows.values().filter(is_moving).count();
        // A bound for the case that this function has a fault.
        for _ in 0..2 * rows.len() {
            let step = self.correct(&rows).or_else(|| (unsettled(&rows) < moves_max).then(|| self.step(&rows))?);
            let Some((group, row)) = step else { break };
            rows.insert(group, row);
        }
        if let Some((group, row)) = self.lead(&rows) {
            rows.insert(group, row);
        }
        let is_other = |(group, row): &(GroupId, GroupRow)| self.picture.groups.get(group) != Some(row);
        rows.into_iter().filter(is_other).map(|(group, row)| TopologyChange::Group(group, row)).collect()
    }

    /// What is to be done next with a group that has settled: what is urgent comes first, whichever group it is of.
    fn step(&self, rows: &Rows) -> Option<(GroupId, GroupRow)> {
        let loads = self.loads(rows);
        let steps = [Planning::shrink, Planning::repair, Planning::grow, Planning::fit, Planning::learn];
        let settled = || rows.iter().filter(|(_, row)| row.is_settled);
        let mut steps = steps.into_iter();
        let step = steps.find_map(|step| {
            settled()
                .find_map(|(group, row)| Some((*group, step(self, self.picture.placement_of(*group), row, &loads)?)))
        });
        step.or_else(|| self.balance(rows, &loads))
    }

    /// A group that has not settled is changed only if a replica that is on its way cannot come or is not wanted any more, or another one is lost
    /// meanwhile. What a group is founded with stays as it is until it is founded.
    fn correct(&self, rows: &Rows) -> Option<(GroupId, GroupRow)> {
        let is_moving = |row: &GroupRow| !row.is_settled && row.founding.is_empty();
        rows.iter().filter(|(_, row)| is_moving(row)).find_map(|(group, row)| {
            let placement = self.picture.placement_of(*group);
            let (voters, wanted) = (voting(row), placement.replicas as usize);
            if voters.len() > wanted {
                let mut generations: Vec<_> = row.replicas.iter().filter(|placed| placed.is_voter).collect();
                generations.sort_by_key(|placed| std::cmp::Reverse(placed.generation));
                let over: Vec<_> = generations.iter().take(voters.len() - wanted).map(|placed| placed.node).collect();
                // What it had before stays until it is known that nothing else is needed.
                return Some((*group, without(row, &over)));
            }
            let loads = self.loads(rows);
            let may_move = |placed: &&Placed| {
                let is_coming = placed.generation == row.last_generation || self.lost.contains(&placed.node);
                placed.is_voter && is_coming && !self.is_good(placed.node)
            };
            row.replicas.iter().filter(may_move).find_map(|bad| {
                let to = self.best_place(placement, row, Some(bad.node), &loads)?;
                Some((*group, moved(row, *bad, to)))
            })
        })
    }

    /// Replicas on each node that can have some.
    fn loads(&self, rows: &Rows) -> Loads {
        let mut loads: Loads = self.health.keys().map(|node| (*node, 0)).collect();
        for placed in rows.values().flat_map(|row| &row.replicas) {
            if let Some(load) = loads.get_mut(&placed.node) {
                *load += 1;
            }
        }
        loads
    }

    /// How many groups each node should lead that can have some.
    fn leads(&self, rows: &Rows) -> Loads {
        let mut leads: Loads = self.health.keys().map(|node| (*node, 0)).collect();
        for first in rows.values().filter_map(|row| row.replicas.first()) {
            if let Some(count) = leads.get_mut(&first.node) {
                *count += 1;
            }
        }
        leads
    }

    fn misfit(&self, placement: &Placement, voters: &[NodeId]) -> Misfit {
        misfit(self.picture, placement, voters, |node| self.is_good(node))
    }

    /// How well a group fits with a voter on `to`, instead of the one on `from` if there is one.
    fn misfit_with(&self, placement: &Placement, row: &GroupRow, from: Option<NodeId>, to: NodeId) -> Misfit {
        let others = voting(row).into_iter().filter(|node| Some(*node) != from);
        self.misfit(placement, &others.chain([to]).collect::<Vec<_>>())
    }

    /// The nodes that could take a voting replica of a group.
    fn places<'a>(&'a self, placement: &'a Placement, row: &'a GroupRow) -> impl Iterator<Item = NodeId> + 'a {
        let is_free = |node: NodeId| match row.on(node) {
            None => true,
            // What learns already may vote.
            Some(placed) => row.is_settled && !placed.is_voter,
        };
        let allows = |node: NodeId| placement.allows(self.picture.labels(node));
        self.health.keys().copied().filter(move |node| self.is_up(*node) && is_free(*node) && allows(*node))
    }

    /// The best place for a voting replica of a group, instead of the one on `from` if there is one: where it fits best, and among those the
    /// node with the fewest replicas.
    fn best_place(&self, placement: &Placement, row: &GroupRow, from: Option<NodeId>, loads: &Loads) -> Option<NodeId> {
        let key = |to: &NodeId| (self.misfit_with(placement, row, from, *to), loads.get(to).copied(), *to);
        self.places(placement, row).min_by_key(key)
    }

    /// A group with too many voting replicas keeps those that fit best.
    fn shrink(&self, placement: &Placement, row: &GroupRow, loads: &Loads) -> Option<GroupRow> {
        let (mut voters, wanted) = (voting(row), placement.replicas as usize);
        let mut over = Vec::new();
        while voters.len() > wanted {
            let key = |node: &NodeId| {
                let left: Vec<_> = voters.iter().copied().filter(|other| other != node).collect();
                let misfit = self.misfit(placement, &left);
                let away = left.iter().filter(|node| !self.is_up(**node)).count();
                let is_first = voters.first() == Some(node);
                (misfit.gone, away, misfit, is_first, std::cmp::Reverse(loads.get(node).copied()), *node)
            };
            let node = voters.iter().copied().min_by_key(key)?;
            voters.retain(|other| *other != node);
            over.push(node);
        }
        (!over.is_empty()).then(|| without(row, &over))
    }

    /// A replica on a node that leaves or is lost goes elsewhere: one at a time, the next one once the group has settled.
    fn repair(&self, placement: &Placement, row: &GroupRow, loads: &Loads) -> Option<GroupRow> {
        let bad = row.replicas.iter().find(|placed| placed.is_voter && !self.is_good(placed.node))?;
        let to = self.best_place(placement, row, Some(bad.node), loads)?;
        Some(moved(row, *bad, to))
    }

    /// A group with too few voting replicas gets all that it lacks at once, as far as there are nodes.
    fn grow(&self, placement: &Placement, row: &GroupRow, loads: &Loads) -> Option<GroupRow> {
        let mut grown = row.clone();
        while voting(&grown).len() < placement.replicas as usize {
            let Some(node) = self.best_place(placement, &grown, None, loads) else { break };
            grown = with_voter(&grown, node);
        }
        let has_grown = voting(&grown).len() > voting(row).len();
        has_grown.then(|| changed(row, grown.replicas, grown.last_generation))
    }

    /// A replica goes to where the group fits its placement better, the one first that makes the greatest difference.
    fn fit(&self, placement: &Placement, row: &GroupRow, loads: &Loads) -> Option<GroupRow> {
        let now = self.misfit(placement, &voting(row));
        if now == Misfit::default() {
            return None;
        }
        let voters = row.replicas.iter().filter(|placed| placed.is_voter);
        let moves = voters.filter_map(|from| {
            let to = self.best_place(placement, row, Some(from.node), loads)?;
            let then = self.misfit_with(placement, row, Some(from.node), to);
            (then < now).then_some((then, std::cmp::Reverse(loads.get(&from.node).copied()), *from, to))
        });
        let (_, _, from, to) = moves.min_by_key(|(then, load, from, _)| (*then, *load, from.node))?;
        Some(moved(row, from, to))
    }

    /// A group has the replicas besides that its placement wants, in the regions that it names: what is over goes, what lacks comes.
    fn learn(&self, placement: &Placement, row: &GroupRow, loads: &Loads) -> Option<GroupRow> {
        let learners: Vec<_> =
            row.replicas.iter().filter(|placed| !placed.is_voter).map(|placed| placed.node).collect();
        let region = |node: NodeId| self.picture.labels(node).region.as_str();
        let wanted = |of: &str| placement.learners.get(of).copied().unwrap_or_default() as usize;
        let in_region = |of: &str| learners.iter().filter(|node| region(**node) == of).count();
        let is_over = |node: &&NodeId| {
            let suits = placement.suits(self.picture.labels(**node));
            !self.is_good(**node) || !suits || in_region(region(**node)) > wanted(region(**node))
        };
        if let Some(over) = learners.iter().find(is_over) {
            return Some(without(row, &[*over]));
        }
        let lacks = |node: &NodeId| in_region(region(*node)) < wanted(region(*node));
        let suits = |node: &NodeId| placement.suits(self.picture.labels(*node)) && row.on(*node).is_none();
        let places = self.health.keys().copied().filter(|node| self.is_up(*node) && lacks(node) && suits(node));
        let node = places.min_by_key(|node| (loads.get(node).copied(), *node))?;
        let generation = row.last_generation + 1;
        let learner = Placed { node, generation, is_voter: false };
        Some(changed(row, row.replicas.iter().copied().chain([learner]).collect(), generation))
    }

    /// A node that has two more than another one gives it a voting replica, if the group fits as well then. Not while somebody is away: that one
    /// may be back in a moment.
    fn balance(&self, rows: &Rows, loads: &Loads) -> Option<(GroupId, GroupRow)> {
        if self.health.values().any(|health| *health == Health::Away) {
            return None;
        }
        let least = loads.iter().filter(|(node, _)| self.is_up(**node)).map(|(_, load)| *load).min()?;
        let mut best: Option<(usize, GroupId, Placed, NodeId)> = None;
        for (group, row) in rows.iter().filter(|(_, row)| row.is_settled) {
            let placement = self.picture.placement_of(*group);
            let now = self.misfit(placement, &voting(row));
            for from in row.replicas.iter().filter(|placed| placed.is_voter && self.is_up(placed.node)) {
                let load = loads.get(&from.node).copied().unwrap_or_default();
                if load < least + 2 {
                    continue;
                }
                for to in self.places(placement, row).filter(|to| row.on(*to).is_none()) {
                    let gain = load.saturating_sub(loads.get(&to).copied().unwrap_or_default());
                    let is_better = best.as_ref().is_none_or(|(most, ..)| gain > *most);
                    if gain >= 2 && is_better && self.misfit_with(placement, row, Some(from.node), to) <= now {
                        best = Some((gain, *group, *from, to));
                    }
                }
            }
        }
        let (_, group, from, to) = best?;
        Some((group, moved(rows.get(&group)?, from, to)))
    }

    /// A group should be led from the best region that it has a voter in, and a node that should lead two more than another one of its group there
    /// leaves one to that. Nothing moves for it.
    fn lead(&self, rows: &Rows) -> Option<(GroupId, GroupRow)> {
        let leads = self.leads(rows);
        rows.iter().filter(|(_, row)| row.is_settled).find_map(|(group, row)| {
            let placement = self.picture.placement_of(*group);
            let rank = |node: NodeId| placement.rank(&self.picture.labels(node).region);
            let first = row.replicas.first()?;
            let leads_of = |place: &usize| leads.get(&row.replicas[*place].node).copied();
            let can_lead = |place: &usize| row.replicas[*place].is_voter && self.is_good(row.replicas[*place].node);
            let (rank_now, leads_now) = (rank(first.node), leads.get(&first.node).copied()?);
            let is_better = |place: &usize| {
                let rank = rank(row.replicas[*place].node);
                let has_few = leads_of(place).is_some_and(|count| count + 2 <= leads_now);
                rank < rank_now || (rank == rank_now && has_few)
            };
            let places = (1..row.replicas.len()).filter(|place| can_lead(place) && is_better(place));
            let place = places.min_by_key(|place| (rank(row.replicas[*place].node), leads_of(place)))?;
            let mut row = row.clone();
            row.replicas.swap(0, place);
            Some((*group, row))
        })
    }
}

/// A group with a voting replica more, which is a new one unless it learns already.
fn with_voter(row: &GroupRow, node: NodeId) -> GroupRow {
    let learner = row.replicas.iter().find(|placed| placed.node == node);
    let generation = learner.map_or(row.last_generation + 1, |placed| placed.generation);
    let voter = Placed { node, generation, is_voter: true };
    let voters = row.replicas.iter().filter(|placed| placed.is_voter).copied().chain([voter]);
    let learners = row.replicas.iter().filter(|placed| !placed.is_voter && placed.node != node).copied();
    let replicas = voters.chain(learners).collect();
    GroupRow { replicas, last_generation: row.last_generation.max(generation), ..row.clone() }
}

/// A group without its replicas on some nodes.
fn without(row: &GroupRow, nodes: &[NodeId]) -> GroupRow {
    let replicas = row.replicas.iter().filter(|placed| !nodes.contains(&placed.node)).copied().collect();
    changed(row, replicas, row.last_generation)
}

/// A voting replica of a group goes to another node, in its place.
fn moved(row: &GroupRow, from: Placed, to: NodeId) -> GroupRow {
    let grown = with_voter(row, to);
    let voter = grown.replicas.iter().find(|placed| placed.node == to).copied();
    let others = grown.replicas.iter().filter(|placed| placed.node != to);
    let replicas = others.map(|placed| if *placed == from { voter.unwrap_or(from) } else { *placed }).collect();
    changed(row, replicas, grown.last_generation)
}

/// A group is to have these replicas, and loses those that it has had and that are not among them.
fn changed(row: &GroupRow, replicas: Vec<Placed>, last_generation: u32) -> GroupRow {
    let stays = |placed: &&Placed| {
        replicas.iter().any(|other| (other.node, other.generation) == (placed.node, placed.generation))
    };
    let leaving = row.replicas.iter().chain(&row.leaving).filter(|placed| !stays(placed)).copied().collect();
    GroupRow { version: row.version + 1, last_generation, replicas, leaving, is_settled: false, founding: Vec::new() }
}

#[cfg(test)]
mod tests {
    use everlog_meta::{NodeLabels, Spread, Topology};
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
            let row = known.unwrap_or(NodeRow {
                directory_id,
                address: format!("n{node}"),
                membership,
                labels: NodeLabels::default(),
            });
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
                        let is_bad = |node: &NodeId| {
                            let membership = before.nodes[node].membership;
                            self.health[node] == Health::Lost || membership != Membership::Member
                        };
                        let bad = voting(&before.groups[&group]).iter().filter(|node| is_bad(node)).count();
                        check_step(group, &before.groups[&group], &row, bad);
                        self.topology.groups.insert(group, row);
                    }
                    TopologyChange::Placement(_) | TopologyChange::NoPlacement(_) => panic!("{change:?}"),
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

        /// Names the zones and regions of nodes, from node 1 on.
        fn label(&mut self, labels: &[(&str, &str)]) {
            for (node, (region, zone)) in (1..).map(NodeId).zip(labels) {
                let mut row = self.picture().nodes[&node].clone();
                row.labels = NodeLabels { region: (*region).into(), zone: (*zone).into(), ..NodeLabels::default() };
                self.topology.nodes.insert(node, row);
            }
        }

        fn place(&mut self, change: impl FnOnce(&mut Placement)) {
            let mut placement = self.picture().placement_of(GroupId(1)).clone();
            change(&mut placement);
            placement.check().unwrap();
            self.topology.placements.insert(placement.name.clone(), placement);
        }

        /// Each partition has as many voters as its placement says, spread and in the regions that it says, as far as there are nodes; and should
        /// be led from the best of its regions.
        fn check_placed(&self, story: &str) {
            let picture = self.picture();
            for (group, row) in picture.groups.iter().filter(|(group, _)| **group != METADATA) {
                let placement = picture.placement_of(*group);
                let voters = voting(row);
                let region = |node: NodeId| picture.labels(node).region.clone();
                assert_eq!(voters.len(), placement.replicas as usize, "{story}: {row:?}");
                let mut regions: BTreeMap<_, u32> = BTreeMap::new();
                voters.iter().for_each(|node| *regions.entry(region(*node)).or_default() += 1);
                assert!(placement.regions.is_empty() || placement.regions == regions, "{story}: {regions:?}");
                let mut learners: BTreeMap<_, u32> = BTreeMap::new();
                let learning = row.replicas.iter().filter(|placed| !placed.is_voter);
                learning.for_each(|placed| *learners.entry(region(placed.node)).or_default() += 1);
                for (of, wanted) in &placement.learners {
                    let count = learners.remove(of).unwrap_or_default();
                    // Voters come first: where all nodes of a region vote, nobody is left to learn there.
                    let all_vote =
                        picture.members().all(|(node, row)| row.labels.region != *of || voters.contains(&node));
                    assert!(count == *wanted || (all_vote && count == 0), "{story}: {of}: {row:?}");
                }
                assert!(learners.is_empty(), "{story}: {learners:?} {row:?}");
                let best = voters.iter().map(|node| placement.rank(&region(*node))).min().unwrap();
                assert_eq!(placement.rank(&region(voters[0])), best, "{story}: {row:?}");
                // In as many zones of each region as there are, at most one voter more in one than in another.
                if placement.spread == Spread::Zone {
                    for (of, count) in regions {
                        let member = |(node, row): (NodeId, &NodeRow)| {
                            let is_there = row.labels.region == of && row.membership == Membership::Member;
                            is_there.then(|| (row.labels.zone.clone(), voters.contains(&node)))
                        };
                        let mut zones: BTreeMap<String, u32> = BTreeMap::new();
                        for (zone, votes) in picture.members().filter_map(member) {
                            *zones.entry(zone).or_default() += u32::from(votes);
                        }
                        let most = zones.values().max().copied().unwrap_or_default();
                        let is_named = !zones.contains_key("");
                        assert!(
                            !is_named || placement.regions.is_empty() || zones.len() < count as usize || most <= 1,
                            "{story}: {zones:?}"
                        );
                    }
                }
            }
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

    /// What must hold of every change, whatever led to it, of a group with so many voters on nodes that are lost or leave.
    fn check_step(group: GroupId, before: &GroupRow, after: &GroupRow, bad_voters: usize) {
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
        if group != METADATA {
            let more = voting(after).len().saturating_sub(voting(before).len());
            // One at a time, but for those that are bad: nothing is gained by waiting with the second one.
            assert!(new.len() <= more.max(bad_voters).max(1), "{before:?} {after:?}");
            let generations: BTreeSet<_> = new.iter().map(|placed| placed.generation).collect();
            let expected: BTreeSet<_> = (before.last_generation + 1..=after.last_generation).collect();
            assert_eq!(generations, expected, "{before:?} {after:?}");
            assert!(after.replicas[0].is_voter, "{after:?}");
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
    fn a_group_has_as_many_replicas_as_its_placement_says() {
        let mut model = Model::new(5, 10);
        for (replicas, load) in [(1, 2), (3, 6), (5, 10), (3, 6), (1, 2), (5, 10)] {
            model.place(|placement| placement.replicas = replicas);
            let foreseen = foreseen(&model.picture());
            model.run();
            model.check_placed("as many as it says");
            assert!(model.loads().values().all(|of| *of == load), "{replicas}: {:?}", model.loads());
            let spread: BTreeSet<_> = model.leads().into_values().collect();
            assert!(spread.iter().all(|leads| (1..=3).contains(leads)), "{:?}", model.leads());
            assert_eq!(foreseen.len(), 10, "all of them change");
            for Moved { group, to, .. } in foreseen {
                let is: Vec<_> = model.picture().groups[&group].replicas.iter().map(|placed| placed.node).collect();
                assert_eq!(is, to, "as was foreseen");
            }
        }
    }

    #[test]
    fn a_change_is_reversed_while_it_runs() {
        let mut model = Model::new(5, 10);
        model.place(|placement| placement.replicas = 5);
        model.step();
        let moving: Vec<_> = model.topology.groups.keys().copied().collect();
        assert_eq!(moving.len(), 2, "two at a time");
        model.place(|placement| placement.replicas = 3);
        model.step();
        for group in moving {
            let row = &model.topology.groups[&group];
            assert!(row.replicas.iter().all(|placed| placed.generation == 0), "those that it had: {row:?}");
            assert_eq!(row.leaving.len(), 2, "{row:?}");
        }
        model.run();
        model.check_placed("reversed");
    }

    #[test]
    fn no_two_voters_are_in_one_zone_where_there_are_enough() {
        let mut model = Model::new(6, 12);
        model.label(&[("r", "a"), ("r", "a"), ("r", "b"), ("r", "b"), ("r", "c"), ("r", "c")]);
        model.run();
        let picture = model.picture();
        for (group, row) in picture.groups.iter().filter(|(group, _)| **group != METADATA) {
            let zones: BTreeSet<_> = voting(row).iter().map(|node| picture.labels(*node).zone.clone()).collect();
            assert_eq!(zones.len(), 3, "{group}: {row:?}");
        }
        assert!(model.loads().values().all(|load| *load == 6), "{:?}", model.loads());
        // One zone is lost: there are two left for three replicas.
        model.health.insert(NodeId(5), Health::Lost);
        model.health.insert(NodeId(6), Health::Lost);
        model.run();
        let of_lost = [5, 6].map(|node| model.loads()[&node]);
        assert_eq!(of_lost, [0, 0]);
        model.health.values_mut().for_each(|health| *health = Health::Up);
        model.run();
        assert!(model.loads().values().all(|load| *load == 6), "{:?}", model.loads());
    }

    #[test]
    fn replicas_are_in_the_regions_that_are_named_and_led_from_the_best() {
        let regions = |of: &[(&str, u32)]| of.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
        let mut model = Model::new(6, 8);
        model.label(&[("a", ""), ("a", ""), ("b", ""), ("b", ""), ("c", ""), ("d", "")]);
        model.place(|placement| {
            (placement.replicas, placement.regions) = (5, regions(&[("a", 2), ("b", 2), ("c", 1)]));
            placement.leaders = vec!["b".to_owned(), "a".to_owned()];
            placement.learners = regions(&[("d", 1)]);
        });
        model.run();
        model.check_placed("2-2-1");
        assert_eq!(model.leads(), BTreeMap::from([(3, 4), (4, 4)]));
        // Elsewhere, and what voted learns and the other way round.
        model.place(|placement| {
            (placement.replicas, placement.regions) = (3, regions(&[("d", 1), ("c", 1), ("a", 1)]));
            placement.leaders = vec!["d".to_owned()];
            placement.learners = regions(&[("b", 2)]);
        });
        model.run();
        model.check_placed("1-1-1");
        assert_eq!(model.leads(), BTreeMap::from([(6, 8)]));
        assert!(why_not_to_remove(&model.picture(), NodeId(5)).unwrap().contains("region c"));
        assert_eq!(why_not_to_remove(&model.picture(), NodeId(1)), None);
    }

    #[test]
    fn nodes_without_the_labels_that_are_asked_for_have_nothing() {
        let mut model = Model::new(5, 10);
        for node in 1..=3 {
            let mut row = model.picture().nodes[&NodeId(node)].clone();
            row.labels.others.insert("disk".to_owned(), "ssd".to_owned());
            model.topology.nodes.insert(NodeId(node), row);
        }
        model.place(|placement| placement.constraints = vec!["disk=ssd".to_owned()]);
        model.run();
        assert_eq!(model.loads(), BTreeMap::from([(1, 10), (2, 10), (3, 10), (4, 0), (5, 0)]));
    }

    #[test]
    fn whatever_is_asked_for_of_replicas_each_step_is_safe_and_it_is_so_in_the_end() {
        let names = ["a", "b", "c"];
        for seed in 0..300 {
            let mut random = Random::new(seed);
            let nodes = 9;
            let mut model = Model::new(nodes, 6);
            // Three nodes a region, each in a zone of its own.
            let labels: Vec<_> = (0..nodes as usize).map(|at| (names[at % 3], names[at / 3])).collect();
            model.label(&labels);
            for _ in 0..60 {
                match random.below(8) {
                    0 => {
                        let replicas = [1, 3, 5][random.below(3)];
                        let mut regions: BTreeMap<String, u32> = BTreeMap::new();
                        if random.below(2) == 0 {
                            for at in 0..replicas as usize {
                                *regions.entry(names[(at + random.below(2)) % 3].to_owned()).or_default() += 1;
                            }
                            // No more than there are nodes for.
                            regions.values_mut().for_each(|count| *count = (*count).min(2));
                        }
                        if regions.values().sum::<u32>() != replicas {
                            regions.clear();
                        }
                        let first = regions.keys().next().cloned();
                        model.place(|placement| {
                            placement.replicas = replicas;
                            placement.spread = [Spread::Node, Spread::Zone, Spread::Region][random.below(3)];
                            placement.leaders = first.into_iter().collect();
                            placement.regions = regions;
                            placement.learners = BTreeMap::new();
                            if random.below(3) == 0 {
                                placement.learners.insert(names[random.below(3)].to_owned(), 1);
                            }
                        });
                    }
                    1 | 2 => {
                        let node = NodeId(1 + random.below(nodes as usize) as u32);
                        model.health.insert(node, [Health::Up, Health::Away, Health::Lost][random.below(3)]);
                    }
                    3 | 4 => model.settle(GroupId(random.below(7) as u32)),
                    _ => drop(model.step()),
                }
            }
            model.health.values_mut().for_each(|health| *health = Health::Up);
            model.run();
            model.check_placed(&format!("seed {seed}"));
            assert!(model.picture().groups.values().all(|row| row.leaving.is_empty()), "seed {seed}");
        }
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
