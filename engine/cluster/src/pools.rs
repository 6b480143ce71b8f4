//! Pools of partitions, as namespaces come into them: which nodes found their groups, and when they can be used.
//!
//! ```text
//!   a namespace that wants a pool ──one change──▶ metadata: pool, where its groups are to be, namespace
//!                                                     └─▶ nodes: make replicas, found the groups, lead them ──▶ the namespace can be used
//!   another active region ──one change──▶ metadata: pool, who should lead its groups, namespaces
//!                                                     └─▶ nodes: hand their leads over ──▶ the failover is answered
//! ```

use std::sync::Arc;
use std::time::Duration;

use everlog_meta::{
    Founder, GroupRow, MetaError, NamespaceRecord, Namespaces, NewGroups, NewNamespace, Pool, PoolId, Topology,
    WantedPool,
};
use everlog_model::NodeId;
use everlog_partition::Router;
use everlog_storage::GroupId;

use crate::{Health, Places};

/// How long whoever registers a namespace waits until the partitions of its pool are led. It may be used later, too.
const LED_WAIT_MAX: Duration = Duration::from_secs(5);

/// How long whoever has a pool fail over waits for its leads to arrive. They go on their way, too.
const FAILOVER_WAIT_MAX: Duration = Duration::from_secs(3);

/// How often it looks.
const LED_LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// The parts of [`Pools`].
pub struct PoolsParts {
    /// This node.
    pub me: NodeId,
    /// The metadata.
    pub namespaces: Arc<Namespaces>,
    /// The way to the partitions.
    pub router: Router,
    /// How the cluster should be, if there are other nodes.
    pub places: Option<Arc<Places>>,
    /// How a node is.
    pub health: Box<dyn Fn(NodeId) -> Health + Send + Sync>,
}

/// The pools of a cluster, as one of its nodes makes them.
pub struct Pools(PoolsParts);

impl Pools {
    /// Made from the node with these parts.
    pub fn new(parts: PoolsParts) -> Arc<Pools> {
        Arc::new(Pools(parts))
    }

    /// Registers a namespace in a pool, which is made if it is not there. Mostly its partitions are led when this returns.
    ///
    /// # Errors
    ///
    /// [`MetaError::Protected`] if no node can have it, and see there.
    pub async fn register(&self, wanted: &WantedPool, new: NewNamespace) -> Result<Arc<NamespaceRecord>, MetaError> {
        let place = |topology: &Topology, pool: &Pool| self.place(topology, pool);
        let record = self.0.namespaces.register_in(wanted, &place, new).await?;
        self.until_led(record.pool).await;
        Ok(record)
    }

    /// Says on which nodes the groups of a new pool are to be founded.
    ///
    /// # Errors
    ///
    /// Why there are no nodes for them.
    pub fn place(&self, topology: &Topology, pool: &Pool) -> Result<NewGroups, String> {
        match &self.0.places {
            Some(places) => places.place(topology, pool, &self.0.health),
            None => {
                let here = GroupRow::new(vec![Founder { node: self.0.me, disk: 0 }]);
                Ok(pool.partitions().into_iter().map(|group| (group, here.clone())).collect())
            }
        }
    }

    /// Waits until somebody leads each partition of a pool, but not for long.
    pub async fn until_led(&self, pool: PoolId) {
        let is_led = |partition| self.0.router.leader(partition, self.0.me).is_some();
        if !self.until_all(pool, LED_WAIT_MAX, is_led).await {
            tracing::warn!(pool = pool.0, "not all partitions of a pool are led yet");
        }
    }

    /// Waits until the partitions of a pool are led in a region, as far as a node there can be reached that should lead, but not for long.
    pub async fn until_led_in(&self, pool: PoolId, region: &str) {
        let topology = self.0.namespaces.topology();
        let is_there = |node: NodeId| topology.region_of(node) == Some(region);
        let is_led = |partition: GroupId| {
            let leader = self.0.router.leader(partition, self.0.me);
            let preferred = topology.groups.get(&partition).and_then(|row| row.replicas.first());
            let can_be =
                preferred.is_some_and(|placed| is_there(placed.node) && (self.0.health)(placed.node) == Health::Up);
            leader.is_some_and(|leader| !can_be || is_there(leader))
        };
        if !self.until_all(pool, FAILOVER_WAIT_MAX, is_led).await {
            tracing::info!(pool = pool.0, region, "not all partitions of a pool are led in their region yet");
        }
    }

    async fn until_all(&self, pool: PoolId, wait_max: Duration, is_so: impl Fn(GroupId) -> bool) -> bool {
        let all = async {
            while !self.0.namespaces.partitions_in(pool).into_iter().all(&is_so) {
                tokio::time::sleep(LED_LOOK_INTERVAL).await;
            }
        };
        tokio::time::timeout(wait_max, all).await.is_ok()
    }

    /// The region of this node: the one that it names, or the first one that there was.
    pub fn region_here(&self) -> String {
        let topology = self.0.namespaces.topology();
        let named = topology.region_of(self.0.me).filter(|region| topology.regions.initial_version(region).is_some());
        named.or_else(|| topology.regions.names().next()).unwrap_or_default().to_owned()
    }
}
