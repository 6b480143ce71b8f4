//! One view of a cluster from what each of its nodes says.

use std::collections::BTreeMap;

use everlog_proto::cluster::{Group, Node, Replica};
use everlog_proto::internal::NodeReport;

use super::count;

/// The nodes and the groups, by id. Of a group whoever leads in the highest term is believed, and each node of its own replica.
pub(super) fn merge(reports: impl IntoIterator<Item = NodeReport>) -> (Vec<Node>, Vec<Group>) {
    let mut nodes: BTreeMap<u32, Node> = BTreeMap::new();
    let mut told: BTreeMap<u32, Vec<(u32, Group)>> = BTreeMap::new();
    for NodeReport { node, groups, .. } in reports {
        let Some(node) = node else { continue };
        for group in groups {
            told.entry(group.group_id).or_default().push((node.node_id, group));
        }
        nodes.insert(node.node_id, node);
    }
    let groups: Vec<_> = told.into_values().filter_map(merge_group).collect();
    for node in nodes.values_mut() {
        let here = |group: &&Group| group.replicas.iter().any(|replica| replica.node_id == node.node_id);
        // While one takes the place of another one, neither is what it should be.
        let behind = |group: &Group| {
            let mut replicas = group.replicas.iter().filter(|replica| replica.node_id == node.node_id);
            let replica = replicas.next().filter(|replica| replica.is_voter || !replica.should_vote)?;
            replicas.next().is_none().then_some(replica.behind_entries)?
        };
        node.leads = count(groups.iter().filter(|group| group.leader == node.node_id).count());
        node.replicas = count(groups.iter().filter(here).count());
        node.behind_entries = groups.iter().filter_map(behind).sum();
        node.uncertain_groups = count(groups.iter().filter(here).filter(|group| behind(group).is_none()).count());
    }
    (nodes.into_values().collect(), groups)
}

/// What the nodes with a replica say of a group.
fn merge_group(told: Vec<(u32, Group)>) -> Option<Group> {
    let newest = told.iter().max_by_key(|(_, group)| (group.leader != 0, group.term, group.last_index))?;
    let mut merged = newest.1.clone();
    for replica in &mut merged.replicas {
        let said = told.iter().find(|(node, _)| *node == replica.node_id);
        let own = said.and_then(|(_, group)| group.replicas.iter().find(|own| own.node_id == replica.node_id));
        let applied_index = own.and_then(|own| own.applied_index);
        let behind = applied_index.filter(|_| merged.leader != 0).map(|index| merged.last_index.saturating_sub(index));
        *replica = Replica { applied_index, behind_entries: behind.or(replica.behind_entries), ..*replica };
    }
    merged.replicas.sort_by_key(|replica| replica.node_id);
    Some(merged)
}

#[cfg(test)]
mod tests {
    use everlog_proto::cluster::NodeState;

    use super::*;

    /// What a node says of group 1, which has replicas on nodes 1 to 3.
    fn says(node: u32, leads: bool, term: u64, last_index: u64, applied: u64, lags: &[(u32, u64)]) -> NodeReport {
        let replica = |id: u32| Replica {
            node_id: id,
            is_voter: true,
            should_vote: true,
            applied_index: (id == node).then_some(applied),
            behind_entries: lags.iter().find(|(of, _)| *of == id).map(|(_, lag)| *lag),
        };
        let leader = if leads { node } else { 0 };
        let group = Group {
            group_id: 1,
            leader,
            term,
            last_index,
            replicas: (1..=3).map(replica).collect(),
            ..Group::default()
        };
        let node = Node { node_id: node, state: NodeState::Up as i32, ..Node::default() };
        NodeReport { node: Some(node), groups: vec![group], waiting: Vec::new() }
    }

    fn gone(node: u32) -> NodeReport {
        let node = Node { node_id: node, state: NodeState::Unreachable as i32, ..Node::default() };
        NodeReport { node: Some(node), ..NodeReport::default() }
    }

    fn behind(group: &Group) -> Vec<Option<u64>> {
        group.replicas.iter().map(|replica| replica.behind_entries).collect()
    }

    #[test]
    fn each_node_is_believed_of_itself() {
        let reports = [says(3, false, 4, 90, 80, &[]), says(1, true, 4, 100, 100, &[(2, 1), (3, 5)]), gone(2)];
        let (nodes, groups) = merge(reports);
        assert_eq!((groups.len(), groups[0].leader, groups[0].last_index), (1, 1, 100));
        assert_eq!(behind(&groups[0]), [Some(0), Some(1), Some(20)], "of a node that is gone the leader tells");
        assert_eq!(groups[0].replicas[1].applied_index, None);
        let seen = |node: &Node| (node.node_id, node.leads, node.replicas, node.behind_entries);
        assert_eq!(nodes.iter().map(seen).collect::<Vec<_>>(), [(1, 1, 1, 0), (2, 0, 1, 1), (3, 0, 1, 20)]);
    }

    #[test]
    fn of_two_that_lead_the_later_one_does() {
        let (_, groups) = merge([says(1, true, 4, 100, 100, &[]), says(2, true, 5, 90, 90, &[(1, 0)]), gone(3)]);
        assert_eq!((groups[0].leader, groups[0].term), (2, 5));
    }

    #[test]
    fn without_a_leader_nothing_is_said_of_who_lacks_what() {
        let (nodes, groups) = merge([says(1, false, 4, 100, 90, &[]), says(2, false, 4, 100, 100, &[]), gone(3)]);
        assert_eq!((groups[0].leader, behind(&groups[0])), (0, vec![None, None, None]));
        assert!(nodes.iter().all(|node| node.leads == 0));
    }
}
