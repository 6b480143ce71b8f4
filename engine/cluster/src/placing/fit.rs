//! How well the nodes with voting replicas of a group fit its placement.

use std::collections::BTreeMap;

use everlog_meta::{Membership, NodeLabels, Placement, Spread};
use everlog_model::NodeId;

use super::Picture;

/// What is not as a placement wants it. Less is better, and what comes first counts more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Misfit {
    /// Replicas on nodes that are lost or leave.
    pub(super) gone: usize,
    /// Replicas on nodes that must not have any.
    forbidden: usize,
    /// Replicas that regions have too many or too few of.
    regions: usize,
    /// Pairs of replicas that share what none should.
    shared: usize,
}

/// How well voting replicas on these nodes fit.
pub(super) fn misfit(
    picture: &Picture,
    placement: &Placement,
    nodes: &[NodeId],
    is_good: impl Fn(NodeId) -> bool,
) -> Misfit {
    let mut regions: BTreeMap<&str, usize> = BTreeMap::new();
    let mut domains: BTreeMap<Domain<'_>, usize> = BTreeMap::new();
    for node in nodes {
        let labels = picture.labels(*node);
        *regions.entry(&labels.region).or_default() += 1;
        *domains.entry(domain(placement.spread, *node, labels)).or_default() += 1;
    }
    let wanted = placement
        .regions
        .iter()
        .map(|(region, count)| regions.get(region.as_str()).copied().unwrap_or_default().abs_diff(*count as usize));
    Misfit {
        gone: nodes.iter().filter(|node| !is_good(**node)).count(),
        forbidden: nodes.iter().filter(|node| !placement.allows(picture.labels(**node))).count(),
        regions: wanted.sum(),
        shared: domains.values().map(|count| count * (count - 1) / 2).sum(),
    }
}

/// What replicas of a group should not share: a node that names no zone or region shares it with nobody.
type Domain<'a> = (&'a str, &'a str, Option<NodeId>);

fn domain(spread: Spread, node: NodeId, labels: &NodeLabels) -> Domain<'_> {
    let NodeLabels { region, zone, .. } = labels;
    match spread {
        Spread::Region if !region.is_empty() => (region, "", None),
        Spread::Zone if !zone.is_empty() => (region, zone, None),
        _ => ("", "", Some(node)),
    }
}

/// Why the nodes that are to stay cannot carry out a placement, but for one of them.
pub(super) fn lacking(picture: &Picture, placement: &Placement, without: Option<NodeId>) -> Option<String> {
    let Placement { name, replicas, regions, learners, .. } = placement;
    let staying: Vec<_> = picture
        .members()
        .filter(|(node, row)| row.membership == Membership::Member && Some(*node) != without)
        .map(|(_, row)| &row.labels)
        .collect();
    let left = staying.iter().filter(|labels| placement.allows(labels)).count();
    if left < *replicas as usize {
        let nodes = if without.is_some() { "nodes would be left" } else { "nodes may have them" };
        return Some(format!(
            "{left} {nodes}, and each partition has {replicas} replicas (placement {name}): add a node first"
        ));
    }
    let mut wanted = regions.clone();
    for (region, count) in learners {
        *wanted.entry(region.clone()).or_default() += count;
    }
    wanted.iter().find_map(|(region, count)| {
        let there = staying.iter().filter(|labels| labels.region == *region && placement.suits(labels)).count();
        (there < *count as usize).then(|| {
            format!("placement {name} has {count} replicas in region {region}, where {there} nodes may have them: add a node there first")
        })
    })
}
