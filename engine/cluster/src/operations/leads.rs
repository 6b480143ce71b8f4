//! Who leads what: leads go to the nodes that should have them, away from a node that drains or stops, and to where an operator wants them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use everlog_model::NodeId;
use everlog_raft::{Group, GroupSlot, GroupSlots, Leadership};
use everlog_storage::GroupId;
use everlog_transport::Transport;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

/// How often a node looks whether it leads what another one should.
const SPREAD_INTERVAL: Duration = Duration::from_secs(5);

/// How often it looks while it is to lead nothing.
const DRAIN_INTERVAL: Duration = Duration::from_millis(500);

/// Entries that a replica may lack to be given the lead: it has those before anybody notices.
const LAG_MAX: u64 = 1000;

/// How long a node that stops waits for others to take its leads over.
const HAND_OVER_TIME_MAX: Duration = Duration::from_secs(2);

/// How long a lead may take to arrive that is to be kept.
const KEEP_WAIT: Duration = Duration::from_secs(10);

/// Tells the nodes that should have voting replicas of a group, the one that should lead it first.
pub type Voters = Box<dyn Fn(GroupId) -> Vec<NodeId> + Send + Sync>;

/// The leads of a node.
pub struct Leads {
    me: NodeId,
    meta: GroupSlot,
    groups: GroupSlots,
    voters: Voters,
    /// The way to the others, if there are any.
    transport: Option<Arc<dyn Transport>>,
    is_draining: AtomicBool,
    /// Other nodes that drain, by what they say.
    draining: Mutex<BTreeSet<NodeId>>,
    /// Leads that this node keeps although another one should have them, and since when.
    kept: Mutex<BTreeMap<GroupId, Instant>>,
    /// There is something to do.
    wake: Notify,
}

impl Leads {
    /// The leads of `me`, which has the metadata and these groups.
    pub fn new(
        me: NodeId,
        meta: GroupSlot,
        groups: GroupSlots,
        voters: Voters,
        transport: Option<Arc<dyn Transport>>,
    ) -> Arc<Leads> {
        Arc::new(Leads {
            me,
            meta,
            groups,
            voters,
            transport,
            is_draining: AtomicBool::new(false),
            draining: Mutex::default(),
            kept: Mutex::default(),
            wake: Notify::new(),
        })
    }

    /// The groups with a replica here, the metadata among them.
    pub fn groups(&self) -> Vec<Group> {
        let meta = self.meta.read().clone();
        std::iter::once(meta).chain(self.groups.all()).collect()
    }

    /// The nodes that should have voting replicas of a group, the one that should lead it first.
    pub(super) fn voters(&self, group: GroupId) -> Vec<NodeId> {
        (self.voters)(group)
    }

    pub(super) fn is_reachable(&self, node: NodeId) -> bool {
        node == self.me || self.transport.as_ref().is_some_and(|transport| transport.is_up(node))
    }

    /// Whether this node takes no leads.
    pub fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::Relaxed)
    }

    /// From now on this node gives all of its leads away, or does so no more.
    pub fn drain(&self, is_draining: bool) {
        self.is_draining.store(is_draining, Ordering::Relaxed);
        if is_draining {
            self.kept.lock().clear();
        }
        tracing::info!(is_draining, "leads go to other nodes");
        self.wake.notify_one();
    }

    /// Others may be to lead now: leads go to them at once.
    pub fn look(&self) {
        self.wake.notify_one();
    }

    /// What another node says of itself.
    pub(crate) fn heard(&self, node: NodeId, is_draining: bool) {
        let mut draining = self.draining.lock();
        if is_draining {
            draining.insert(node);
        } else {
            draining.remove(&node);
        }
    }

    /// Keeps the leads of these groups once this node has them, or gives them to whom should have them.
    pub(crate) fn keep(&self, groups: impl IntoIterator<Item = GroupId>, is_kept: bool) {
        let mut kept = self.kept.lock();
        for group in groups {
            if is_kept {
                kept.insert(group, Instant::now());
            } else {
                kept.remove(&group);
            }
        }
    }

    /// Hands a lead of this node to another one, if it has it. Whether that led to anything is seen by who leads.
    pub(crate) async fn transfer(&self, group: GroupId, node: NodeId) {
        let found = self.groups().into_iter().find(|known| known.id() == group);
        if let Some(group) = found.filter(leads) {
            group.transfer(node).await;
        }
    }

    /// Gives leads to the nodes that should have them, whenever those can take them, for as long as it is polled.
    pub async fn spread(self: Arc<Leads>) {
        loop {
            let interval = if self.is_draining() { DRAIN_INTERVAL } else { SPREAD_INTERVAL };
            // Woken or not, it is time to look.
            let _ = tokio::time::timeout(interval, self.wake.notified()).await;
            let leading: Vec<_> = self.groups().into_iter().filter(leads).collect();
            let has = |group: &GroupId| leading.iter().any(|led| led.id() == *group);
            self.kept.lock().retain(|group, since| has(group) || since.elapsed() < KEEP_WAIT);
            for group in leading {
                let Some(next) = self.next(&group) else { continue };
                tracing::info!(group = %group.id(), node = %next, "the lead is handed to the node that should have it");
                group.transfer(next).await;
            }
        }
    }

    /// Who should have the lead of a group that this node leads, and can take it; none if this one should.
    fn next(&self, group: &Group) -> Option<NodeId> {
        let can = |node: &NodeId| {
            *node != self.me
                && self.is_reachable(*node)
                && !self.draining.lock().contains(node)
                && group.lag(*node).is_some_and(|lag| lag <= LAG_MAX)
        };
        let voters = self.voters(group.id());
        if self.is_draining() {
            return voters.into_iter().find(can);
        }
        let preferred = voters.first().copied().filter(can)?;
        (!self.kept.lock().contains_key(&group.id())).then_some(preferred)
    }

    /// Hands over all leads that others can take: this node stops.
    pub async fn hand_over(&self) {
        for group in self.groups().into_iter().filter(leads) {
            let others =
                self.voters(group.id()).into_iter().filter(|node| *node != self.me && self.is_reachable(*node));
            let lag = |node: NodeId| group.lag(node).unwrap_or(u64::MAX);
            let draining = self.draining.lock().clone();
            let next = others.filter(|node| lag(*node) <= LAG_MAX);
            if let Some(next) = next.min_by_key(|node| (draining.contains(node), lag(*node))) {
                group.transfer(next).await;
            }
        }
        let over = async {
            while self.groups().iter().any(leads) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        if tokio::time::timeout(HAND_OVER_TIME_MAX, over).await.is_err() {
            tracing::warn!("not all leads were handed over: others will notice that this node is gone");
        }
    }
}

/// Whether the replica here leads its group.
pub fn leads(group: &Group) -> bool {
    matches!(*group.leadership().borrow(), Leadership::Leader { .. })
}
