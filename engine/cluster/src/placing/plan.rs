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
        let founders = planning.founders(placement, &rows);
        if founders.is_empty() {
            return Err(format!("no node can be reached that may have replicas (placement {})", placement.name));
        }
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
                // Where replicas are does not depend on them.
                _ => {}
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

    /// Who should vote in the metadata, where these do: as many as there should be, in as many regions and zones as can be. Whoever votes and can goes on
    /// where that makes no difference; nobody stops to vote before there is another one.
    fn metadata_voters(&self, voters: &[NodeId]) -> Vec<NodeId> {
        let is_member = |node: &NodeId| self.picture.members().any(|(member, _)| member == *node);
        let new = self.health.keys().copied().filter(|node| self.is_up(*node) && !voters.contains(node));
        let candidates: Vec<_> = voters.iter().copied().filter(is_member).chain(new).collect();
        let mut next: Vec<NodeId> = Vec::new();
        while next.len() < metadata_voters(self.health.len()) {
            let key = |node: &NodeId| {
                let labels = self.picture.labels(*node);
                let others = || next.iter().map(|other| self.picture.labels(*other));
                // A node that names no region, or no zone, is one of its own.
                let in_region = others().filter(|other| !labels.region.is_empty() && other.region == labels.region);
                let in_zone = in_region.clone().filter(|other| !labels.zone.is_empty() && other.zone == labels.zone);
                let votes = voters.contains(node);
                let can = votes && self.is_good(*node) || self.is_up(*node);
                (!can, in_region.count(), in_zone.count(), !votes, !self.is_up(*node), *node)
            };
            let left = candidates.iter().copied().filter(|node| !next.contains(node));
            let Some(best) = left.min_by_key(key) else { break };
            next.push(best);
        }
        next.sort_by_key(|node| voters.iter().position(|voter| voter == node).unwrap_or(voters.len()));
        next.sort_by_key(|node| !self.is_up(*node));
        next
    }

    /// All members have the metadata, but for those that are `gone`, and some of them vote.
    fn metadata(&self, gone: &[TopologyChange]) -> Option<TopologyChange> {
        let row = self.picture.groups.get(&METADATA)?;
        let is_voter = |placed: &&Placed| placed.is_voter;
        if !row.is_settled && row.replicas.iter().filter(is_voter).all(|placed| self.is_good(placed.node)) {
            return None;
        }
        let next = self.metadata_voters(&voting(row));
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
            let urgent = self.correct(&rows).or_else(|| self.found_anew(&rows));
            let step = urgent.or_else(|| (unsettled(&rows) < moves_max).then(|| self.step(&rows))?);
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
    /// meanwhile. What a group is founded with stays as it is until it is founded, or cannot be any more.
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

    /// The disks that a new group is to be founded on, the one that should lead first: those that fit best, of nodes that can be reached now.
    fn founders(&self, placement: &Placement, rows: &Rows) -> Vec<Founder> {
        let loads = self.loads(rows);
        let mut founders = Vec::new();
        while founders.len() < placement.replicas as usize {
            let row = GroupRow::new(founders.clone());
            let Some(node) = self.best_place(placement, &row, None, &loads) else { break };
            founders.push(Founder { node, disk: self.picture.disk(node) });
        }
        let leads = self.leads(rows);
        let rank = |node: NodeId| placement.rank(&self.picture.labels(node).region);
        founders.sort_by_key(|founder| (rank(founder.node), leads.get(&founder.node).copied()));
        founders
    }

    /// A group that nobody is known to have founded, and most of whose founders are lost or have lost their disks, is founded by others. No node uses a
    /// group before it is known to be founded, so nothing is in it that anybody was told of.
    fn found_anew(&self, rows: &Rows) -> Option<(GroupId, GroupRow)> {
        let can = |founder: &&Founder| self.is_good(founder.node) && self.picture.disk(founder.node) == founder.disk;
        let mut unfounded = rows.iter().filter(|(_, row)| !row.founding.is_empty());
        unfounded.find_map(|(group, row)| {
            if 2 * row.founding.iter().filter(can).count() > row.founding.len() {
                return None;
            }
            let founders = self.founders(self.picture.placement_of(*group), rows);
            (!founders.is_empty()).then(|| (*group, row.founded_by(founders)))
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
mod tests;
