//! Which replica of which group goes on, once it is known what is left and what is lost.

use std::collections::{BTreeMap, BTreeSet};

use everlog_cluster::replica_id;
use everlog_model::NodeId;
use everlog_raft::ReplicaId;
use serde::{Deserialize, Serialize};

use super::{Collected, FORMAT, Left, RecoveryError};
use crate::node::META_GROUP;

/// What whoever runs the cluster allows beyond what is safe as far as can be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allowed {
    /// A replica that did not vote goes on where none that did is left: it may lack more.
    pub learners: bool,
    /// A group of which nothing is left begins anew, empty.
    pub empty: bool,
}

/// What is to become of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecoveryPlan {
    /// See [`FORMAT`].
    pub format: u32,
    /// The name of the cluster.
    pub cluster: String,
    /// The id that it had.
    pub cluster_id: uuid::Uuid,
    /// The id that what is left of it gets.
    pub new_cluster_id: uuid::Uuid,
    /// The nodes that are lost for ever.
    pub lost: Vec<u32>,
    /// The nodes that are left, as they were collected.
    pub survivors: Vec<Survivor>,
    /// All groups.
    pub groups: Vec<PlannedGroup>,
}

/// A node that is left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Survivor {
    /// Its id.
    pub node: u32,
    /// Its data directory.
    pub directory_id: uuid::Uuid,
    /// Where it was dialled.
    pub address: String,
    /// What it had when it was collected.
    pub replicas: Vec<Left>,
}

/// What is to become of a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlannedGroup {
    /// The group.
    pub group: u32,
    /// What becomes of it.
    pub outcome: Outcome,
}

/// What becomes of a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Outcome {
    /// It has a majority, and loses nothing.
    Stays {
        /// The nodes with replicas that vote.
        nodes: Vec<u32>,
    },
    /// One of its replicas goes on alone.
    Alone {
        /// The node.
        node: u32,
        /// The replica.
        replica: ReplicaId,
        /// When its last entry was decided, nanoseconds since 1970: what was acknowledged later is lost, and maybe a little before.
        last_at: u64,
        /// Whether a majority of its replicas is left, so that nothing is lost.
        is_whole: bool,
    },
    /// Nothing is left of it.
    Anew {
        /// The node that gets an empty replica.
        node: u32,
        /// The replica.
        replica: ReplicaId,
    },
}

impl RecoveryPlan {
    /// The node that the metadata go on from.
    pub fn metadata_node(&self) -> Option<u32> {
        let metadata = self.groups.iter().find(|planned| planned.group == META_GROUP.0)?;
        match metadata.outcome {
            Outcome::Alone { node, .. } => Some(node),
            _ => None,
        }
    }
}

/// Plans what is to become of a cluster of which `left` is left and the nodes `lost` are lost for ever. `new_cluster_id` is an id that was never used.
///
/// # Errors
///
/// One line: what was collected does not fit together or is not all, or nothing needs to be done, or more is lost than is allowed.
pub fn plan(
    left: &[Collected],
    lost: &BTreeSet<u32>,
    allowed: Allowed,
    new_cluster_id: uuid::Uuid,
) -> Result<RecoveryPlan, RecoveryError> {
    let wrong = |line: String| Err(RecoveryError(line));
    let Some(newest) = left.iter().max_by_key(|one| last_of(one, META_GROUP.0)) else {
        return wrong("nothing was collected: collect from each node that is left".to_owned());
    };
    for one in left {
        if one.format != FORMAT {
            return wrong(format!(
                "node {} was collected in format {}, this everlog reads {FORMAT}",
                one.node, one.format
            ));
        }
        if one.cluster_id != newest.cluster_id {
            return wrong(format!(
                "node {} is of cluster {}, node {} of {}",
                one.node, one.cluster_id, newest.node, newest.cluster_id
            ));
        }
    }
    let nodes: BTreeSet<_> = left.iter().map(|one| one.node).collect();
    if nodes.len() != left.len() {
        return wrong("a node was collected twice".to_owned());
    }
    let members: BTreeSet<_> = newest.members.iter().map(|member| member.node).collect();
    if let Some(node) = members.iter().find(|node| !nodes.contains(node) && !lost.contains(node)) {
        return wrong(format!("node {node} is neither collected nor among --lost: a node that is left out is lost"));
    }
    if let Some(node) = lost.iter().find(|node| nodes.contains(node)) {
        return wrong(format!("node {node} is among --lost, and was collected"));
    }
    if let Some(node) = lost.iter().chain(&nodes).find(|node| !members.contains(node)) {
        let known: Vec<_> = members.iter().map(u32::to_string).collect();
        return wrong(format!("the cluster has no node {node}: its nodes are {}", known.join(", ")));
    }
    let known: BTreeMap<_, _> = newest.groups.iter().map(|known| (known.group, known.last_generation)).collect();
    let mut planner = Planner { left, allowed, alone: nodes.iter().map(|node| (*node, 0)).collect() };
    if known.keys().all(|group| planner.majority(*group).is_some()) {
        return wrong("each group has a majority: start the nodes, and nothing is lost".to_owned());
    }
    let groups = known
        .into_iter()
        .map(|(group, last_generation)| Ok(PlannedGroup { group, outcome: planner.outcome(group, last_generation)? }))
        .collect::<Result<Vec<_>, RecoveryError>>()?;
    let address = |node: u32| {
        let member = newest.members.iter().find(|member| member.node == node);
        member.map(|member| member.address.clone()).unwrap_or_default()
    };
    let survivor = |one: &Collected| Survivor {
        node: one.node,
        directory_id: one.directory_id,
        address: address(one.node),
        replicas: one.replicas.clone(),
    };
    Ok(RecoveryPlan {
        format: FORMAT,
        cluster: newest.cluster.clone(),
        cluster_id: newest.cluster_id,
        new_cluster_id,
        lost: lost.iter().copied().collect(),
        survivors: left.iter().map(survivor).collect(),
        groups,
    })
}

fn replica_of(one: &Collected, group: u32) -> Option<&Left> {
    one.replicas.iter().find(|left| left.group == group)
}

fn last_of(one: &Collected, group: u32) -> Option<(u64, u64)> {
    replica_of(one, group).map(|left| (left.term, left.index))
}

struct Planner<'a> {
    left: &'a [Collected],
    allowed: Allowed,
    /// How many groups go on from each node alone.
    alone: BTreeMap<u32, usize>,
}

impl Planner<'_> {
    /// The replicas of a group that are left and have heard of it, with those that have most last.
    fn replicas(&self, group: u32) -> Vec<(&Collected, &Left)> {
        let all = self.left.iter().filter_map(|one| Some((one, replica_of(one, group)?)));
        let mut founded: Vec<_> = all.filter(|(_, left)| !left.voters.is_empty()).collect();
        // Of several that have the same, that on the node with the fewest.
        founded.sort_by_key(|(one, left)| {
            (left.term, left.index, std::cmp::Reverse((self.alone.get(&one.node).copied(), one.node)))
        });
        founded
    }

    /// The nodes that vote by whoever knows most, and are left, if they are enough.
    fn majority(&self, group: u32) -> Option<Vec<u32>> {
        let replicas = self.replicas(group);
        let (_, newest) = replicas.last()?;
        let has = |node: &&u32| replicas.iter().any(|(one, _)| one.node == **node);
        let is_enough = |voters: &Vec<u32>| 2 * voters.iter().filter(has).count() > voters.len();
        let nodes: BTreeSet<_> = newest.voters.iter().flatten().filter(has).copied().collect();
        newest.voters.iter().all(is_enough).then(|| nodes.into_iter().collect())
    }

    fn outcome(&mut self, group: u32, last_generation: u32) -> Result<Outcome, RecoveryError> {
        let majority = self.majority(group);
        if let Some(nodes) = &majority
            && group != META_GROUP.0
        {
            return Ok(Outcome::Stays { nodes: nodes.clone() });
        }
        let replicas = self.replicas(group);
        let votes = |(one, left): &&(&Collected, &Left)| left.voters.iter().flatten().any(|node| *node == one.node);
        let voter = replicas.iter().rev().find(votes);
        if voter.is_none() && !replicas.is_empty() && !self.allowed.learners {
            return Err(RecoveryError(format!(
                "of group {group} only replicas are left that did not vote and may lack more: --allow-learners if one is to go on"
            )));
        }
        if let Some((one, left)) = voter.or(replicas.last()) {
            let (node, replica, last_at) = (one.node, left.replica, left.last_at);
            *self.alone.entry(node).or_default() += 1;
            return Ok(Outcome::Alone { node, replica, last_at, is_whole: majority.is_some() });
        }
        if group == META_GROUP.0 {
            return Err(RecoveryError("nothing is left of the metadata: this cluster cannot be recovered".to_owned()));
        }
        if !self.allowed.empty {
            return Err(RecoveryError(format!(
                "nothing is left of group {group}: --allow-empty if it is to begin anew, with all of its workflows lost"
            )));
        }
        let least = self.left.iter().min_by_key(|one| (self.alone.get(&one.node).copied(), one.node));
        let one = least.ok_or_else(|| RecoveryError("nothing was collected".to_owned()))?;
        *self.alone.entry(one.node).or_default() += 1;
        Ok(Outcome::Anew { node: one.node, replica: replica_id(NodeId(one.node), one.disk, last_generation + 1) })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::super::{KnownGroup, Member};
    use super::*;

    const NEW: uuid::Uuid = uuid::Uuid::from_u128(77);

    /// A cluster of `nodes` nodes and four partitions whose replicas are on three neighbours each; of group 1 each node has one entry more than
    /// the node before it.
    fn collected(nodes: u32) -> Vec<Collected> {
        let on = |group: u32| -> Vec<u32> {
            if group == 0 {
                (1..=nodes).collect()
            } else {
                (0..3).map(|place| (group + place - 1) % nodes + 1).collect()
            }
        };
        let members: Vec<_> = (1..=nodes).map(|node| Member { node, address: format!("n{node}:1") }).collect();
        let groups: Vec<_> = (0..=4).map(|group| KnownGroup { group, last_generation: 5 }).collect();
        let node = |node: u32| Collected {
            format: FORMAT,
            cluster: "c".to_owned(),
            cluster_id: uuid::Uuid::from_u128(1),
            node,
            directory_id: uuid::Uuid::from_u128(node.into()),
            disk: 0,
            members: members.clone(),
            groups: groups.clone(),
            replicas: (0..=4)
                .filter(|group| on(*group).contains(&node))
                .map(|group| Left {
                    group,
                    replica: replica_id(NodeId(node), 0, 0),
                    voters: vec![on(group)],
                    term: 3,
                    index: if group == 1 { 100 + u64::from(node) } else { 100 },
                    last_at: 9,
                })
                .collect(),
        };
        (1..=nodes).map(node).collect()
    }

    fn without(nodes: u32, lost: &[u32], allowed: Allowed) -> Result<RecoveryPlan, String> {
        let left: Vec<_> = collected(nodes).into_iter().filter(|one| !lost.contains(&one.node)).collect();
        plan(&left, &lost.iter().copied().collect(), allowed, NEW).map_err(|error| error.to_string())
    }

    fn outcome(plan: &RecoveryPlan, group: usize) -> &Outcome {
        &plan.groups[group].outcome
    }

    #[test]
    fn a_replica_that_has_most_goes_on_alone_where_no_majority_is_left() {
        let planned = without(3, &[1, 3], Allowed::default()).unwrap();
        assert_eq!(planned.metadata_node(), Some(2));
        for group in 0..=4 {
            assert!(matches!(outcome(&planned, group), Outcome::Alone { node: 2, is_whole: false, .. }));
        }
        assert_eq!((planned.lost, planned.new_cluster_id), (vec![1, 3], NEW));

        // Five nodes, two are left; group 1 is on 1, 2, 3, group 2 on 2, 3, 4, group 3 on 3, 4, 5, group 4 on 4, 5, 1.
        let planned = without(5, &[3, 4, 5], Allowed::default());
        assert_eq!(
            planned.unwrap_err(),
            "nothing is left of group 3: --allow-empty if it is to begin anew, with all of its workflows lost"
        );
        let planned = without(5, &[3, 4, 5], Allowed { empty: true, learners: false }).unwrap();
        assert_eq!(*outcome(&planned, 1), Outcome::Stays { nodes: vec![1, 2] });
        assert!(matches!(outcome(&planned, 2), Outcome::Alone { node: 2, .. }));
        assert!(matches!(outcome(&planned, 4), Outcome::Alone { node: 1, .. }));
        let Outcome::Anew { node, replica } = *outcome(&planned, 3) else { panic!("{:?}", outcome(&planned, 3)) };
        assert_eq!(replica, replica_id(NodeId(node), 0, 6), "an id that was never used");
    }

    #[test]
    fn the_metadata_go_on_from_one_node_even_if_they_have_a_majority() {
        let planned = without(5, &[1, 2], Allowed::default()).unwrap();
        assert!(matches!(outcome(&planned, 0), Outcome::Alone { is_whole: true, .. }));
        // Of group 1, which is on 1, 2, 3, the last one is left; 2, 3 and 4 have two of group 2.
        assert!(matches!(outcome(&planned, 1), Outcome::Alone { node: 3, is_whole: false, .. }));
        assert_eq!(*outcome(&planned, 2), Outcome::Stays { nodes: vec![3, 4] });
    }

    #[test]
    fn while_voters_change_both_majorities_are_needed() {
        let mut left = collected(5);
        for one in &mut left {
            for replica in one.replicas.iter_mut().filter(|left| left.group == 1) {
                replica.voters = vec![vec![1, 2, 3], vec![3, 4, 5]];
            }
        }
        let lost: BTreeSet<_> = [4, 5].into();
        left.retain(|one| !lost.contains(&one.node));
        let planned = plan(&left, &lost, Allowed::default(), NEW).unwrap();
        assert!(matches!(outcome(&planned, 1), Outcome::Alone { node: 3, is_whole: false, .. }));
    }

    #[test]
    fn a_replica_that_did_not_vote_goes_on_only_if_that_is_allowed() {
        let mut left = collected(3);
        left[0].replicas[0].voters = vec![vec![2, 3]];
        left.truncate(1);
        let lost: BTreeSet<_> = [2, 3].into();
        let refused = plan(&left, &lost, Allowed::default(), NEW).unwrap_err().to_string();
        assert!(refused.starts_with("of group 0 only replicas are left that did not vote"), "{refused}");
        let planned = plan(&left, &lost, Allowed { learners: true, empty: false }, NEW).unwrap();
        assert_eq!(planned.metadata_node(), Some(1));
    }

    #[test]
    fn what_does_not_fit_is_refused_in_one_line() {
        let set = |nodes: &[u32]| nodes.iter().copied().collect::<BTreeSet<_>>();
        let refused =
            |left: &[Collected], lost: &[u32]| plan(left, &set(lost), Allowed::default(), NEW).unwrap_err().to_string();
        let all = collected(3);
        assert_eq!(refused(&all, &[]), "each group has a majority: start the nodes, and nothing is lost");
        assert_eq!(refused(&all[..2], &[3]), "each group has a majority: start the nodes, and nothing is lost");
        assert!(refused(&all[..1], &[3]).starts_with("node 2 is neither collected nor among --lost"));
        assert!(refused(&all[..1], &[1, 2, 3]).starts_with("node 1 is among --lost, and was collected"));
        assert_eq!(refused(&all[..1], &[2, 3, 9]), "the cluster has no node 9: its nodes are 1, 2, 3");
        assert!(refused(&[], &[1]).starts_with("nothing was collected"));
        assert!(refused(&[all[0].clone(), all[0].clone()], &[2, 3]).starts_with("a node was collected twice"));
        let mut other = all.clone();
        other[1].cluster_id = NEW;
        assert!(refused(&other[..2], &[3]).contains("is of cluster"));
    }
}
