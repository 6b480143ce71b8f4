//! Who leads which partition: as the replica here knows it, or as the lead itself says.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock, Weak};

use everlog_model::NodeId;
use everlog_partition::Leaders;
use everlog_raft::GroupSlot;
use everlog_storage::GroupId;
use parking_lot::RwLock;

use crate::Nodes;

/// The leaders of the partitions of a cluster, as one node knows them.
pub struct GroupLeaders {
    me: NodeId,
    groups: RwLock<HashMap<GroupId, GroupSlot>>,
    /// They hear of leads of partitions that have no replica here.
    nodes: OnceLock<Weak<Nodes>>,
}

impl GroupLeaders {
    /// As `me` knows them, which has these replicas.
    pub fn new(me: NodeId, groups: impl IntoIterator<Item = GroupSlot>) -> Arc<GroupLeaders> {
        let groups = groups.into_iter().map(|slot| (slot.read().id(), Arc::clone(&slot))).collect();
        Arc::new(GroupLeaders { me, groups: RwLock::new(groups), nodes: OnceLock::new() })
    }

    /// Names the nodes that tell of their leads.
    pub fn set_nodes(&self, nodes: &Arc<Nodes>) {
        // They are named once.
        let _ = self.nodes.set(Arc::downgrade(nodes));
    }
}

impl Leaders for GroupLeaders {
    fn leads_elsewhere(&self, partition: GroupId) -> Option<NodeId> {
        let leader = match self.groups.read().get(&partition) {
            Some(group) => group.read().leader(),
            None => self.nodes.get()?.upgrade()?.book.elsewhere(partition).map(|(node, _)| node),
        };
        leader.filter(|node| *node != self.me)
    }
}
