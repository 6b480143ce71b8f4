//! Pools: sets of partitions, each with a slot table of its own. A namespace is in one of them, and may [move](super::moves) to another.
//!
//! ```text
//!   namespace ──row: pool 7──▶ pool/7 ──slot table──▶ groups 13, 14, 15, 16 ──replicas/<group>──▶ nodes
//!             └─no pool──▶ the pool `default`: the table that the cluster was founded with
//! ```
//!
//! Namespaces of one placement share a pool. One that is to fail over by itself needs partitions that nobody else leads, so it has a pool of its own, or
//! shares one with those that are to fail over with it. A pool comes into being with the first namespace that wants it, in one change of the
//! metadata: its row, the rows of its groups, and the namespace. What nodes make of that follows from the rows.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use everlog_kernel::Rejection;
use everlog_model::SlotTable;
use everlog_proto::api::enums::v1::ResourceExhaustedCause;
use everlog_storage::GroupId;
use everlog_storage::state::RowChange;
use prost::Message;

use super::placements::{DEFAULT_PLACEMENT, Placement};
use super::slots;
use super::topology::{GroupRow, Topology, TopologyChange, TopologyKey};
use super::view::View;
use super::{MetaError, Namespaces};

/// Partitions of a pool that the namespaces of a placement share.
const SHARED_PARTITIONS: u32 = 8;

/// Partitions of a pool that namespaces share which fail over together.
const FAILOVER_GROUP_PARTITIONS: u32 = 8;

/// Partitions of a pool that one namespace has to itself.
const OWN_PARTITIONS: u32 = 4;

/// Pools that fail over by themselves. Each costs every node a few replicas.
const FAILOVER_POOLS_MAX: usize = 64;

/// The id of a pool. It is given out once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PoolId(pub u32);

impl PoolId {
    /// The pool that the cluster was founded with. It has no row but its slot table's.
    pub const DEFAULT: PoolId = PoolId(0);
}

/// A set of partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// The placement, which says where replicas are.
    pub placement: String,
    /// Who is in it.
    pub sharing: Sharing,
    /// Regions that should lead its partitions, the best one first; none if the placement says that.
    pub leaders: Vec<String>,
    /// Which of its partitions holds which slot.
    pub slots: Arc<SlotTable>,
}

/// Which namespaces are in a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// Those of its placement that do not fail over by themselves.
    Placement,
    /// Those that name this failover group.
    FailoverGroup(String),
    /// One that fails over by itself. Once that is gone, the pool is the next one's.
    Own,
}

/// The pool that a new namespace is to be in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum WantedPool {
    /// The one that the cluster was founded with.
    #[default]
    Default,
    /// The one that namespaces of a placement share.
    OfPlacement(String),
    /// One that fails over by itself.
    ToFailOver {
        /// The placement; one for the regions if none is named.
        placement: Option<String>,
        /// The failover group, if others are to fail over together with the namespace.
        failover_group: Option<String>,
        /// Regions that should lead, the best one first. Those of a failover group that is there stay what they are.
        regions: Vec<String>,
    },
}

/// Says on which disks new groups of a pool are to be founded.
pub type PlaceGroups<'a> = dyn Fn(&Topology, &Pool) -> Result<NewGroups, String> + Sync + 'a;

/// Groups that are to be founded.
pub type NewGroups = Vec<(GroupId, GroupRow)>;

/// The greatest ids that were given out, so that none is given out twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counters {
    /// Of groups, beside those of the pool `default`.
    pub(super) groups: u32,
    /// Of pools.
    pub(super) pools: u32,
}

#[derive(Clone, PartialEq, Message)]
struct PoolMessage {
    #[prost(string, tag = "1")]
    placement: String,
    #[prost(enumeration = "SharingKind", tag = "2")]
    sharing: i32,
    #[prost(string, tag = "3")]
    failover_group: String,
    #[prost(string, repeated, tag = "4")]
    leaders: Vec<String>,
    #[prost(message, repeated, tag = "5")]
    slots: Vec<slots::Range>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
enum SharingKind {
    Unknown = 0,
    Placement = 1,
    FailoverGroup = 2,
    Own = 3,
}

#[derive(Clone, PartialEq, Message)]
struct CountersMessage {
    #[prost(uint32, tag = "1")]
    groups: u32,
    #[prost(uint32, tag = "2")]
    pools: u32,
}

impl Pool {
    pub(super) fn encode(&self) -> Bytes {
        let (sharing, failover_group) = match &self.sharing {
            Sharing::Placement => (SharingKind::Placement, String::new()),
            Sharing::FailoverGroup(name) => (SharingKind::FailoverGroup, name.clone()),
            Sharing::Own => (SharingKind::Own, String::new()),
        };
        let message = PoolMessage {
            placement: self.placement.clone(),
            sharing: sharing as i32,
            failover_group,
            leaders: self.leaders.clone(),
            slots: slots::to_ranges(&self.slots),
        };
        message.encode_to_vec().into()
    }

    pub(super) fn decode(value: &[u8]) -> Result<Pool, MetaError> {
        let corrupt = |why: &dyn std::fmt::Display| MetaError::Corrupt(format!("pool: {why}"));
        let message = PoolMessage::decode(value).map_err(|error| corrupt(&error))?;
        let sharing = match message.sharing() {
            SharingKind::Unknown => return Err(corrupt(&"it does not say who is in it")),
            SharingKind::Placement => Sharing::Placement,
            SharingKind::FailoverGroup => Sharing::FailoverGroup(message.failover_group),
            SharingKind::Own => Sharing::Own,
        };
        let slots = Arc::new(slots::from_ranges(message.slots)?);
        Ok(Pool { placement: message.placement, sharing, leaders: message.leaders, slots })
    }

    /// Its partitions, by id.
    pub fn partitions(&self) -> BTreeSet<GroupId> {
        self.slots.partitions()
    }
}

impl Counters {
    fn encode(self) -> Bytes {
        CountersMessage { groups: self.groups, pools: self.pools }.encode_to_vec().into()
    }

    pub(super) fn decode(value: &[u8]) -> Result<Counters, MetaError> {
        let message = CountersMessage::decode(value);
        let CountersMessage { groups, pools } =
            message.map_err(|error| MetaError::Corrupt(format!("counters: {error}")))?;
        Ok(Counters { groups, pools })
    }
}

impl Topology {
    /// The pool that a group is a partition of, unless that is `default`.
    pub fn pool_of(&self, group: GroupId) -> Option<(PoolId, &Pool)> {
        let has_it = |pool: &Pool| pool.slots.ranges().iter().any(|range| range.partition == group);
        self.pools.iter().find(|(_, pool)| has_it(pool)).map(|(id, pool)| (*id, pool))
    }

    /// The name of the placement of a pool.
    pub fn placement_in(&self, pool: PoolId) -> &str {
        self.pools.get(&pool).map_or(DEFAULT_PLACEMENT, |pool| &pool.placement)
    }
}

impl View {
    /// The pool that is wanted, and the rows that make it what is wanted.
    pub(super) fn pool(
        &self,
        wanted: &WantedPool,
        place: &PlaceGroups<'_>,
    ) -> Result<(PoolId, Vec<RowChange>), MetaError> {
        let (placement, sharing, leaders, partitions) = match wanted.clone() {
            WantedPool::Default => return Ok((PoolId::DEFAULT, Vec::new())),
            WantedPool::OfPlacement(placement) if placement == DEFAULT_PLACEMENT => {
                return Ok((PoolId::DEFAULT, Vec::new()));
            }
            WantedPool::OfPlacement(placement) => (Some(placement), Sharing::Placement, Vec::new(), SHARED_PARTITIONS),
            WantedPool::ToFailOver { placement, failover_group: None, regions } => {
                (placement, Sharing::Own, regions, OWN_PARTITIONS)
            }
            WantedPool::ToFailOver { placement, failover_group: Some(name), regions } => {
                (placement, Sharing::FailoverGroup(name), regions, FAILOVER_GROUP_PARTITIONS)
            }
        };
        let (placement, new) = self.placement(placement, &leaders)?;
        if let Some((id, pool)) = self.pool_with(&placement, &sharing)? {
            if matches!(sharing, Sharing::FailoverGroup(_)) && pool.leaders.first() != leaders.first() {
                let active = pool.leaders.first().map_or("", String::as_str);
                let why = format!("the failover group is active in region {active}, and so is whoever joins it");
                return Err(MetaError::Invalid(why.into()));
            }
            let changed = Pool { leaders, ..pool.clone() };
            let is_taken_over = sharing == Sharing::Own && changed != *pool;
            return Ok((id, is_taken_over.then(|| pool_row(id, &changed)).into_iter().collect()));
        }
        let pools = &self.topology.pools;
        let fail_over = pools.values().filter(|pool| pool.sharing != Sharing::Placement).count();
        if sharing != Sharing::Placement && fail_over >= FAILOVER_POOLS_MAX {
            let message = format!(
                "cannot have more than {FAILOVER_POOLS_MAX} failover groups: let namespaces share one (everlog.failover_group)"
            );
            let cause = ResourceExhaustedCause::Unspecified;
            return Err(MetaError::Rejected(Rejection::ResourceExhausted { cause, message: message.into() }));
        }
        let mut topology = Topology::clone(&self.topology);
        let mut rows = Vec::new();
        if let Some(new) = new {
            rows.push(TopologyChange::Placement(new.clone()).row());
            topology.placements.insert(new.name.clone(), new);
        }
        let pool = NewPool { placement, sharing, leaders };
        let (id, of_pool) = self.new_pool(pool, partitions, &|pool| place(&topology, pool))?;
        rows.extend(of_pool);
        Ok((id, rows))
    }

    /// The placement that is named, or one for these regions, with its row if it is new.
    pub(super) fn placement(
        &self,
        named: Option<String>,
        regions: &[String],
    ) -> Result<(String, Option<Placement>), MetaError> {
        let Some(name) = named else {
            return match regions {
                [] => Ok((DEFAULT_PLACEMENT.to_owned(), None)),
                regions => self.topology.placement_for(regions),
            };
        };
        let known = self.topology.all_placements();
        let Some(placement) = known.get(&name) else {
            return Err(MetaError::Invalid(format!("there is no placement {name:?}").into()));
        };
        let missing =
            regions.iter().find(|region| !placement.regions.is_empty() && !placement.regions.contains_key(*region));
        match missing {
            Some(region) => {
                Err(MetaError::Invalid(format!("placement {name:?} has no replicas in region {region}").into()))
            }
            None => Ok((name, None)),
        }
    }

    /// The pool that there is already for such namespaces.
    fn pool_with(&self, placement: &str, sharing: &Sharing) -> Result<Option<(PoolId, &Pool)>, MetaError> {
        let is_free = |id: &PoolId| {
            *sharing != Sharing::Own
                || (self.by_id.values().all(|record| record.pool != *id)
                    && self.moves.values().all(|moving| moving.other != *id))
        };
        let mut pools = self.topology.pools.iter().filter(|(_, pool)| pool.sharing == *sharing);
        match sharing {
            Sharing::FailoverGroup(name) => match pools.next() {
                Some((_, pool)) if pool.placement != placement => Err(MetaError::Invalid(
                    format!("failover group {name:?} has placement {:?}, not {placement:?}", pool.placement).into(),
                )),
                found => Ok(found.map(|(id, pool)| (*id, pool))),
            },
            Sharing::Placement | Sharing::Own => {
                let found = pools.find(|(id, pool)| pool.placement == placement && is_free(id));
                Ok(found.map(|(id, pool)| (*id, pool)))
            }
        }
    }

    /// The rows of a new pool that has so many partitions.
    fn new_pool(
        &self,
        pool: NewPool,
        partitions: u32,
        place: &dyn Fn(&Pool) -> Result<NewGroups, String>,
    ) -> Result<(PoolId, Vec<RowChange>), MetaError> {
        let founded = self.slots.iter().flat_map(|slots| slots.partitions()).last().map_or(0, |last| last.0);
        let Counters { groups, pools } = self.topology.counters;
        let last = groups.max(founded);
        let ids: Vec<_> = (last + 1..=last + partitions).map(GroupId).collect();
        let slots = SlotTable::even(&ids).ok_or_else(|| MetaError::Invalid("a pool has a partition".into()))?;
        let NewPool { placement, sharing, leaders } = pool;
        let pool = Pool { placement, sharing, leaders, slots: Arc::new(slots) };
        let id = PoolId(pools + 1);
        let counters = Counters { groups: last + partitions, pools: id.0 };
        let placed = place(&pool).map_err(|why| MetaError::Protected(why.into()))?;
        let groups = placed.into_iter().map(|(group, row)| TopologyChange::Group(group, row).row());
        let counted = RowChange::Put { key: TopologyKey::Counters.row(), value: counters.encode() };
        Ok((id, groups.chain([pool_row(id, &pool), counted]).collect()))
    }
}

/// A pool that has no partitions yet.
struct NewPool {
    placement: String,
    sharing: Sharing,
    leaders: Vec<String>,
}

pub(super) fn pool_row(id: PoolId, pool: &Pool) -> RowChange {
    RowChange::Put { key: TopologyKey::Pool(id).row(), value: pool.encode() }
}

impl Namespaces {
    /// The partitions of a pool, by id; none if it is not known here.
    pub fn partitions_in(&self, pool: PoolId) -> BTreeSet<GroupId> {
        let view = self.view.borrow();
        match pool {
            PoolId::DEFAULT => view.slots.iter().flat_map(|slots| slots.partitions()).collect(),
            pool => view.topology.pools.get(&pool).map(Pool::partitions).unwrap_or_default(),
        }
    }

    /// The placement of a pool.
    pub fn placement_in(&self, pool: PoolId) -> String {
        self.view.borrow().topology.placement_in(pool).to_owned()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use everlog_kernel::NamespaceId;
    use everlog_storage::NodeId;

    use super::super::record::NamespaceRecord;
    use super::super::topology::Founder;
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// A cluster that was founded with three partitions.
    fn view() -> View {
        let founded: Vec<_> = (1..=3).map(GroupId).collect();
        let placement = |name: &str| (name.to_owned(), Placement { name: name.to_owned(), ..Placement::default() });
        let topology = Topology { placements: ["eu", "us"].map(placement).into(), ..Topology::default() };
        View { slots: SlotTable::even(&founded).map(Arc::new), topology: Arc::new(topology), ..View::default() }
    }

    fn on_one_node(_: &Topology, pool: &Pool) -> Result<Vec<(GroupId, GroupRow)>, String> {
        let founder = Founder { node: NodeId(1), disk: 0 };
        Ok(pool.partitions().into_iter().map(|group| (group, GroupRow::new(vec![founder]))).collect())
    }

    /// Takes what is wanted in, and returns the pool and how many rows were written.
    fn take(view: &mut View, wanted: &WantedPool) -> (PoolId, usize) {
        let (id, rows) = view.pool(wanted, &on_one_node).unwrap();
        let count = rows.len();
        for row in rows {
            let RowChange::Put { key, value } = row else { panic!("{row:?}") };
            let about = TopologyKey::of(&key).unwrap().unwrap();
            Arc::make_mut(&mut view.topology).put(about, Some(&value)).unwrap();
        }
        (id, count)
    }

    fn own(leader: &str) -> WantedPool {
        WantedPool::ToFailOver {
            placement: Some(DEFAULT_PLACEMENT.to_owned()),
            failover_group: None,
            regions: vec![leader.to_owned()],
        }
    }

    fn together(placement: &str) -> WantedPool {
        WantedPool::ToFailOver {
            placement: Some(placement.to_owned()),
            failover_group: Some("shop".to_owned()),
            regions: vec!["a".to_owned()],
        }
    }

    /// A namespace is in a pool.
    fn settle_in(view: &mut View, id: u8, pool: PoolId) {
        let id = NamespaceId([id; 16]);
        let record = NamespaceRecord { pool, ..super::super::record::tests::record() };
        view.by_id.insert(id, Arc::new(record));
    }

    #[test]
    fn the_row_formats_are_for_ever() {
        let pool = Pool {
            placement: "eu".to_owned(),
            sharing: Sharing::FailoverGroup("shop".to_owned()),
            leaders: vec!["a".to_owned(), "b".to_owned()],
            slots: Arc::new(SlotTable::even(&[GroupId(4), GroupId(300)]).unwrap()),
        };
        let bytes = pool.encode();
        assert_eq!(
            hex(&bytes),
            "0a02657510021a0473686f7022016122016 22a0708801010041801 2a0808801010ac021801".replace(' ', "")
        );
        assert_eq!(Pool::decode(&bytes), Ok(pool));
        for bytes in [&b""[..], b"\xff", &bytes[..bytes.len() - 10], b"\x0a\x02eu\x10\x01"] {
            assert!(matches!(Pool::decode(bytes), Err(MetaError::Corrupt(_))), "{bytes:?}");
        }
        let counters = Counters { groups: 300, pools: 2 };
        assert_eq!(hex(&counters.encode()), "08ac021002");
        assert_eq!(Counters::decode(&counters.encode()), Ok(counters));
    }

    #[test]
    fn groups_and_pools_have_ids_that_were_never_given_out() {
        let view = &mut view();
        assert_eq!(take(view, &WantedPool::Default), (PoolId::DEFAULT, 0));
        assert_eq!(take(view, &WantedPool::OfPlacement(DEFAULT_PLACEMENT.to_owned())), (PoolId::DEFAULT, 0));
        assert_eq!(take(view, &own("a")), (PoolId(1), OWN_PARTITIONS as usize + 2));
        let first = view.topology.pools[&PoolId(1)].partitions();
        assert_eq!(first, (4..=7).map(GroupId).collect());
        assert_eq!(view.topology.pool_of(GroupId(7)).unwrap().0, PoolId(1));
        assert!(view.topology.pool_of(GroupId(3)).is_none());
        // Were the pool and its groups deleted, their ids would be gone for ever.
        Arc::make_mut(&mut view.topology).pools.clear();
        Arc::make_mut(&mut view.topology).groups.clear();
        assert_eq!(take(view, &own("a")).0, PoolId(2));
        assert_eq!(view.topology.pools[&PoolId(2)].partitions().first(), Some(&GroupId(8)));
    }

    #[test]
    fn namespaces_share_a_pool_or_do_not() {
        let view = &mut view();
        let eu = WantedPool::OfPlacement("eu".to_owned());
        let shared = take(view, &eu).0;
        settle_in(view, 1, shared);
        assert_eq!(take(view, &eu), (shared, 0));
        let group = take(view, &together("eu")).0;
        settle_in(view, 2, group);
        assert_ne!(group, shared);
        assert_eq!(take(view, &together("eu")), (group, 0));
        let why = view.pool(&together("us"), &on_one_node).unwrap_err();
        assert_eq!(why.to_string(), "failover group \"shop\" has placement \"eu\", not \"us\"");
        let nowhere = view.pool(&WantedPool::OfPlacement("moon".to_owned()), &on_one_node).unwrap_err();
        assert_eq!(nowhere.to_string(), "there is no placement \"moon\"");
        let first = take(view, &own("a")).0;
        settle_in(view, 3, first);
        let second = take(view, &own("a")).0;
        settle_in(view, 4, second);
        assert_ne!(first, second);
        // Once nobody is in it, a pool is the next one's.
        view.by_id.remove(&NamespaceId([3; 16]));
        assert_eq!(take(view, &own("b")), (first, 1));
        assert_eq!(view.topology.pools[&first].leaders, ["b"]);
        let partitions: BTreeSet<_> =
            view.shares_of(NamespaceId([4; 16])).into_iter().map(|share| share.partition).collect();
        assert_eq!(partitions, view.topology.pools[&second].partitions());
        assert!(view.shares_of(NamespaceId([9; 16])).is_empty());
    }

    #[test]
    fn there_are_not_more_failover_groups_than_nodes_can_bear() {
        let view = &mut view();
        for id in 0..FAILOVER_POOLS_MAX {
            let pool = take(view, &own("a")).0;
            settle_in(view, u8::try_from(id).unwrap(), pool);
        }
        assert!(matches!(view.pool(&own("a"), &on_one_node), Err(MetaError::Rejected(_))));
        assert!(view.pool(&WantedPool::OfPlacement("eu".to_owned()), &on_one_node).is_ok());
    }
}
