//! What is planned in cases, and in stories told at random.

use everlog_meta::{NodeDisk, NodeLabels, Spread, Topology};
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
                _ => panic!("{change:?}"),
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
                let all_vote = picture.members().all(|(node, row)| row.labels.region != *of || voters.contains(&node));
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
            let mut nodes: Vec<_> =
                row.replicas.iter().filter(|placed| placed.is_voter == is_voter).map(|placed| placed.node.0).collect();
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

#[test]
fn a_group_whose_founders_are_lost_is_founded_by_others() {
    let mut model = Model::new(5, 1);
    let group = GroupId(2);
    let founder = |node| Founder { node: NodeId(node), disk: 0 };
    let row = GroupRow::new([1, 2, 3].map(founder).to_vec());
    model.topology.groups.insert(group, row.clone());
    let planned = |model: &Model| {
        let changes = plan(&model.picture(), |node| model.health[&node]);
        changes.into_iter().find_map(|change| match change {
            TopologyChange::Group(of, row) if of == group => Some(row),
            _ => None,
        })
    };
    assert_eq!(planned(&model), None);
    // A majority of them can found it; whoever is away may come.
    model.health.insert(NodeId(1), Health::Lost);
    model.health.insert(NodeId(2), Health::Away);
    assert_eq!(planned(&model), None);
    model.health.insert(NodeId(2), Health::Lost);
    let anew = planned(&model).unwrap();
    assert_eq!(anew.version, row.version + 1);
    assert_eq!(voting(&anew).into_iter().collect::<BTreeSet<_>>(), [3, 4, 5].map(NodeId).into());
    // Under other ids: what the first founders have had is over, also where one founds it again.
    let before = model.picture();
    model.topology.groups.insert(group, anew.clone());
    let after = model.picture();
    for (replica, node) in before.founders_of(group) {
        assert!(after.is_over(group, replica), "{node}");
    }
    assert!(after.founders_of(group).iter().all(|(replica, _)| !after.is_over(group, *replica)));
    assert!(after.replica_on(NodeId(1), group).is_none());
    let wanted: BTreeSet<_> = after.replicas_of(group).voters.into_iter().collect();
    assert_eq!(after.founders_of(group).into_iter().collect::<BTreeSet<_>>(), wanted);
    // They come back, and the group is the others' for good.
    model.health = (1..=5).map(|node| (NodeId(node), Health::Up)).collect();
    assert_eq!(planned(&model), None);

    // With a majority of their disks, too; and where nobody can, it waits.
    model.topology.groups.insert(group, row);
    let directory_id = |id| uuid::Uuid::from_u128(id);
    for node in [1, 2] {
        model
            .topology
            .disks
            .insert(NodeId(node), NodeDisk { directory_id: directory_id(70 + u128::from(node)), number: 1 });
    }
    assert!(
        planned(&model).is_some_and(|anew| anew.founding.iter().all(|it| it.disk == model.picture().disk(it.node)))
    );
    model.health = (1..=5).map(|node| (NodeId(node), Health::Lost)).collect();
    assert_eq!(planned(&model), None);
}

#[test]
fn no_region_and_no_zone_has_most_of_the_metadata_where_there_are_three() {
    let voters_in = |model: &Model, of: fn(&NodeLabels) -> &str| {
        let picture = model.picture();
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for node in voting(&picture.groups[&METADATA]) {
            *counts.entry(of(picture.labels(node)).to_owned()).or_default() += 1;
        }
        counts.into_values().collect::<Vec<_>>()
    };
    let mut model = Model::new(7, 1);
    model.label(&[("a", ""), ("a", ""), ("a", ""), ("a", ""), ("b", ""), ("b", ""), ("c", "")]);
    model.run();
    assert_eq!(voters_in(&model, |labels| &labels.region), [2, 2, 1]);
    // Once one is lost its region has another one, if it can.
    let lost = voting(&model.picture().groups[&METADATA]).into_iter().min().unwrap();
    model.health.insert(lost, Health::Lost);
    model.run();
    assert_eq!(voters_in(&model, |labels| &labels.region), [2, 2, 1]);
    assert!(!voting(&model.picture().groups[&METADATA]).contains(&lost));

    let mut model = Model::new(7, 1);
    model.label(&[("a", "x"), ("a", "x"), ("a", "x"), ("a", "x"), ("a", "x"), ("a", "y"), ("a", "z")]);
    model.run();
    assert_eq!(voters_in(&model, |labels| &labels.zone), [3, 1, 1]);
}
