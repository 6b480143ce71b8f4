//! What a failover changes besides the namespace: who should lead its pool, and the namespaces that are in it, too. And in which regions the
//! replicas of a global namespace are.

use std::collections::BTreeMap;

use everlog_kernel::NamespaceId;
use everlog_storage::NodeId;
use everlog_storage::state::RowChange;

use super::change::{now, saved};
use super::placements::Placement;
use super::pools::{Pool, PoolId, Sharing, WantedPool, pool_row};
use super::record::NamespaceRecord;
use super::replication::{Regions, Replication};
use super::topology::{Membership, Topology, TopologyChange};
use super::view::View;
use super::{MetaError, Namespaces};

/// Voting replicas of a placement that is made for a global namespace: as many as there are nodes for.
const REPLICAS: [u32; 2] = [5, 3];

/// Regions with a vote that survive the loss of one.
const REGIONS_MIN: usize = 3;

impl Topology {
    /// The region that a node names.
    pub fn region_of(&self, node: NodeId) -> Option<&str> {
        self.nodes.get(&node).map(|row| row.labels.region.as_str()).filter(|region| !region.is_empty())
    }

    /// The region that local namespaces of a pool are said to be in: the first one that should lead it, or the first one that there was.
    pub fn home_of(&self, pool: PoolId) -> String {
        let placement = self.placements.get(self.placement_in(pool));
        let pool = self.pools.get(&pool);
        let leaders = pool.into_iter().flat_map(|pool| &pool.leaders);
        let mut leaders = leaders.chain(placement.into_iter().flat_map(|placement| &placement.leaders));
        let known = |region: &&String| self.regions.initial_version(region).is_some();
        let first = leaders.find(known).map(String::as_str).or_else(|| self.regions.names().next());
        first.unwrap_or_default().to_owned()
    }

    /// The regions with those that nodes have named since, if any has.
    fn new_regions(&self) -> Option<Regions> {
        let members = self.nodes.values().filter(|row| row.membership != Membership::Removed);
        self.regions.with(members.map(|row| row.labels.region.as_str()))
    }

    /// How many nodes there are in each region that may have replicas.
    fn nodes_in_regions(&self) -> BTreeMap<&str, u32> {
        let mut counts = BTreeMap::new();
        for row in self.nodes.values().filter(|row| row.membership == Membership::Member) {
            *counts.entry(row.labels.region.as_str()).or_default() += 1;
        }
        counts
    }

    /// The placement of a global namespace in these regions, the active one first: one that has votes in all of them, or a new one that spreads the
    /// votes over them, with a third region to break the tie where there is one.
    ///
    /// # Errors
    ///
    /// [`MetaError::Protected`] if there are too few nodes.
    pub(super) fn placement_for(&self, regions: &[String]) -> Result<(String, Option<Placement>), MetaError> {
        let covers = |placement: &&Placement| regions.iter().all(|region| placement.regions.contains_key(region));
        let known =
            self.placements.values().filter(covers).min_by_key(|placement| (placement.replicas, &placement.name));
        if let Some(known) = known {
            return Ok((known.name.clone(), None));
        }
        let nodes = self.nodes_in_regions();
        let mut voting: Vec<&str> = Vec::new();
        for region in regions {
            if !voting.contains(&region.as_str()) {
                voting.push(region);
            }
        }
        let mut named = voting.clone();
        named.sort_unstable();
        let mut name = format!("auto:{}", named.join("+"));
        if voting.len() + 1 == REGIONS_MIN {
            let third = self.regions.names().find(|region| !voting.contains(region) && nodes.contains_key(region));
            if let Some(third) = third {
                voting.push(third);
                name = format!("{name}+{third}");
            }
        }
        let spread = |replicas: &u32| {
            let turn = |at: usize| voting.get(at % voting.len()).map(|region| (*region).to_owned());
            let mut counts: BTreeMap<String, u32> = BTreeMap::new();
            (0..*replicas as usize).filter_map(turn).for_each(|region| *counts.entry(region).or_default() += 1);
            let has_nodes =
                |(region, count): (&String, &u32)| nodes.get(region.as_str()).is_some_and(|has| has >= count);
            let is_wide_enough = *replicas == REPLICAS[1] || voting.len() >= REGIONS_MIN;
            let fits = counts.len() == voting.len() && is_wide_enough && counts.iter().all(has_nodes);
            fits.then_some((*replicas, counts))
        };
        let Some((replicas, counts)) = REPLICAS.iter().find_map(spread) else {
            let why = format!(
                "regions {} have too few nodes for the replicas of a global namespace: add nodes there first",
                voting.join(", ")
            );
            return Err(MetaError::Protected(why.into()));
        };
        let leaders = regions.to_vec();
        let placement = Placement { name: name.clone(), replicas, regions: counts, leaders, ..Placement::default() };
        placement.check().map_err(|why| MetaError::Protected(why.into()))?;
        Ok((name, Some(placement)))
    }
}

impl View {
    /// The pools that are led where a namespace is active: its own, and the one that it moves to or from, but for those that local namespaces share.
    pub(super) fn pools_led_for(&self, record: &NamespaceRecord) -> Vec<PoolId> {
        let moving = self.moves.get(&record.namespace.id).map(|moving| moving.other);
        let is_shared = |id: &PoolId| self.topology.pools.get(id).is_none_or(|pool| pool.sharing == Sharing::Placement);
        [Some(record.pool), moving].into_iter().flatten().filter(|id| !is_shared(id)).collect()
    }

    /// What changes with a namespace that becomes active in another region, besides itself: its pool should be led there, and those that share it are
    /// active there, too.
    pub(super) fn fail_over(&self, id: PoolId, namespace: NamespaceId, next: &Replication) -> Vec<RowChange> {
        let Some(pool) = self.topology.pools.get(&id) else { return Vec::new() };
        let changed = Pool { leaders: next.active_first(), ..pool.clone() };
        let mut rows = Vec::new();
        if changed != *pool {
            rows.push(pool_row(id, &changed));
        }
        rows.extend(self.led_in(pool, &next.active));
        for record in self.by_id.values().filter(|record| record.pool == id && record.namespace.id != namespace) {
            let mut record = NamespaceRecord::clone(record);
            if let Some(replication) = &mut record.replication {
                replication.active.clone_from(&next.active);
                if !replication.regions.contains(&next.active) {
                    replication.regions.push(next.active.clone());
                }
                replication.fail_over(&self.topology.regions, now());
                rows.extend(saved(record).0);
            }
        }
        rows
    }

    /// Who should lead the groups of a pool that is to be led in a region: a node there that votes, and that should lead the fewest of them.
    fn led_in(&self, pool: &Pool, region: &str) -> Vec<RowChange> {
        let mut leads: BTreeMap<NodeId, usize> = BTreeMap::new();
        let mut rows = Vec::new();
        for (group, row) in pool.partitions().into_iter().filter_map(|id| Some((id, self.topology.groups.get(&id)?))) {
            let is_there = |node: NodeId| self.topology.region_of(node) == Some(region);
            let places = (0..row.replicas.len()).filter(|place| row.replicas[*place].is_voter);
            let there = places.filter(|place| is_there(row.replicas[*place].node));
            let best = there.min_by_key(|place| leads.get(&row.replicas[*place].node).copied().unwrap_or_default());
            let Some(place) = best else { continue };
            *leads.entry(row.replicas[place].node).or_default() += 1;
            if place != 0 {
                let mut row = row.clone();
                row.replicas.swap(0, place);
                rows.push(TopologyChange::Group(group, row).row());
            }
        }
        rows
    }

    /// What changes with a namespace that is to be in other regions, besides itself: where the replicas of its pool are. Those of a pool that others
    /// share stay where they are.
    pub(super) fn spread_pool(
        &self,
        id: PoolId,
        namespace: NamespaceId,
        next: &Replication,
    ) -> Result<Vec<RowChange>, MetaError> {
        let Some(pool) = self.topology.pools.get(&id) else { return Ok(Vec::new()) };
        let mut rows = self.fail_over(id, namespace, next);
        let has_all = |placement: &Placement| next.regions.iter().all(|region| placement.regions.contains_key(region));
        if self.topology.placements.get(&pool.placement).is_some_and(has_all) {
            return Ok(rows);
        }
        if pool.sharing != Sharing::Own {
            let why = format!(
                "the failover group's placement {} has no replicas in all of these regions: change the placement first",
                pool.placement
            );
            return Err(MetaError::Protected(why.into()));
        }
        let (placement, new) = self.topology.placement_for(&next.active_first())?;
        rows.extend(new.map(|placement| TopologyChange::Placement(placement).row()));
        rows.push(pool_row(id, &Pool { placement, leaders: next.active_first(), ..pool.clone() }));
        Ok(rows)
    }
}

impl Namespaces {
    /// The region that a local namespace would be said to be in, in a pool that is wanted for it.
    pub fn home_of(&self, wanted: &WantedPool) -> String {
        let topology = self.topology();
        let shared = |placement: &String| {
            let has_it = |pool: &&Pool| pool.placement == *placement && pool.sharing == Sharing::Placement;
            topology.pools.iter().find(|(_, pool)| has_it(pool)).map(|(id, _)| *id)
        };
        match wanted {
            WantedPool::OfPlacement(placement) => match (shared(placement), topology.placements.get(placement)) {
                (Some(pool), _) => topology.home_of(pool),
                (None, Some(Placement { leaders, .. })) if !leaders.is_empty() => leaders[0].clone(),
                _ => topology.home_of(PoolId::DEFAULT),
            },
            _ => topology.home_of(PoolId::DEFAULT),
        }
    }

    /// Gives numbers to regions that nodes have named since the last time, if this node leads the metadata.
    ///
    /// # Errors
    ///
    /// See [`MetaError`].
    pub async fn note_regions(&self) -> Result<(), MetaError> {
        // Mostly there are none.
        if self.topology().new_regions().is_none() {
            return Ok(());
        }
        self.change(|view| {
            let regions = view.topology.new_regions();
            Ok((regions.map(|regions| regions.row()).into_iter().collect(), ()))
        })
        .await
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::sync::Arc;

    use everlog_proto::api::enums::v1::NamespaceState;
    use everlog_storage::GroupId;

    use super::super::replication::ReplicationChange;
    use super::super::topology::{Founder, GroupRow, NodeLabels, NodeRow, TopologyKey};
    use super::*;

    /// A cluster with nodes in these regions, from node 1 on.
    fn topology(regions: &[&str]) -> Topology {
        let mut topology = Topology::default();
        for (node, region) in (1..).map(NodeId).zip(regions) {
            let row = NodeRow {
                directory_id: uuid::Uuid::from_u128(node.0.into()),
                address: "a:1".to_owned(),
                membership: Membership::Member,
                labels: NodeLabels { region: (*region).to_owned(), ..NodeLabels::default() },
            };
            topology.nodes.insert(node, row);
        }
        topology.regions = topology.new_regions().unwrap_or_default();
        topology
    }

    fn names(of: &[&str]) -> Vec<String> {
        of.iter().map(|name| (*name).to_owned()).collect()
    }

    fn counts(placement: &Placement) -> Vec<(&str, u32)> {
        placement.regions.iter().map(|(region, count)| (region.as_str(), *count)).collect()
    }

    #[test]
    fn a_placement_is_found_or_made_for_regions() {
        let made = |nodes: &[&str], of: &[&str]| topology(nodes).placement_for(&names(of)).map(|(_, new)| new.unwrap());
        let three = made(&["a", "b", "c"], &["a", "b"]).unwrap();
        assert_eq!((three.name.as_str(), counts(&three)), ("auto:a+b+c", vec![("a", 1), ("b", 1), ("c", 1)]));
        let five = made(&["a", "a", "b", "b", "c"], &["b", "a", "c"]).unwrap();
        assert_eq!((five.name.as_str(), counts(&five)), ("auto:a+b+c", vec![("a", 2), ("b", 2), ("c", 1)]));
        let two = made(&["a", "a", "b", "b"], &["b", "a"]).unwrap();
        assert_eq!((two.name.as_str(), counts(&two)), ("auto:a+b", vec![("a", 1), ("b", 2)]));
        let one = made(&["a", "a", "a", "b"], &["a"]).unwrap();
        assert_eq!(counts(&one), [("a", 3)]);
        let why = made(&["a", "b"], &["a", "b"]).unwrap_err().to_string();
        assert!(why.starts_with("regions a, b have too few nodes"), "{why}");
        // One that an operator has made does.
        let mut topology = topology(&["a", "b", "c"]);
        let wide = Placement { name: "wide".to_owned(), ..three };
        topology.placements.insert("wide".to_owned(), wide);
        assert_eq!(topology.placement_for(&names(&["b", "c"])).unwrap(), ("wide".to_owned(), None));
    }

    #[test]
    fn a_failover_changes_who_should_lead_and_whoever_shares_the_pool() {
        let mut view = View { topology: Arc::new(topology(&["a", "b", "c"])), ..View::default() };
        let regions = view.topology.regions.clone();
        let replication = Replication::new(&regions, "a", names(&["a", "b"])).unwrap();
        let wanted = WantedPool::ToFailOver {
            placement: None,
            failover_group: Some("shop".to_owned()),
            regions: replication.active_first(),
        };
        let founders = [1, 2, 3].map(|node| Founder { node: NodeId(node), disk: 0 });
        let place = |_: &Topology, pool: &Pool| {
            let row = GroupRow::new(founders.to_vec());
            Ok::<Vec<(GroupId, GroupRow)>, String>(
                pool.partitions().into_iter().map(|group| (group, row.clone())).collect(),
            )
        };
        let apply = |view: &mut View, rows: Vec<RowChange>| {
            let mut namespaces = 0;
            for row in rows {
                let RowChange::Put { key, value } = row else { panic!("{row:?}") };
                match TopologyKey::of(&key) {
                    Some(about) => Arc::make_mut(&mut view.topology).put(about.unwrap(), Some(&value)).unwrap(),
                    None => namespaces += 1,
                }
            }
            namespaces
        };
        let (pool, rows) = view.pool(&wanted, &place).unwrap();
        apply(&mut view, rows);
        assert_eq!(view.topology.pools[&pool].placement, "auto:a+b+c");
        for id in 1..=2 {
            let replication = Some(replication.clone());
            let record = NamespaceRecord { pool, replication, ..super::super::record::tests::record() };
            view.by_id.insert(NamespaceId([id; 16]), Arc::new(record));
        }
        assert_eq!(view.topology.home_of(pool), "a");
        let to = ReplicationChange { active: Some("b".to_owned()), ..ReplicationChange::default() };
        let next = replication.changed(&regions, &to, NamespaceState::Registered, now()).unwrap();
        // All test records have the same id, that of neither.
        let rows = view.fail_over(pool, NamespaceId([1; 16]), &next);
        assert_eq!(apply(&mut view, rows), 2);
        assert_eq!(view.topology.pools[&pool].leaders, ["b", "a"]);
        let first = |group: &GroupRow| group.replicas[0].node;
        assert!(view.topology.groups.values().all(|row| first(row) == NodeId(2)), "{:?}", view.topology.groups);
        assert_eq!(view.topology.home_of(pool), "b");
    }
}
