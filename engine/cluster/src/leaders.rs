//! Who leads which partition: as the replica here knows it, or as the lead itself says.

use std::sync::{Arc, OnceLock, Weak};

use everlog_model::NodeId;
use everlog_partition::Leaders;
use everlog_raft::GroupSlots;
use everlog_storage::GroupId;

use crate::Nodes;

/// The leaders of the partitions of a cluster, as one node knows them.
pub struct GroupLeaders {
    me: NodeId,
    groups: GroupSlots,
    /// They hear of leads of partitions that have no replica here.
    nodes: OnceLock<Weak<Nodes>>,
}

impl GroupLeaders {
    /// As `me` knows them, which has these replicas.
    pub fn new(me: NodeId, groups: GroupSlots) -> Arc<GroupLeaders> {
        Arc::new(GroupLeaders { me, groups, nodes: OnceLock::new() })
    }

    /// Names the nodes that tell of their leads.
    pub fn set_nodes(&self, nodes: &Arc<Nodes>) {
        // They are named once.
        let _ = self.nodes.set(Arc::downgrade(nodes));
    }
}

impl Leaders for GroupLeaders {
    fn leads_elsewhere(&self, partition: GroupId) -> Option<NodeId> {
        let leader = match self.groups.get(partition) {
            Some(group) => group.leader(),
            None => self.nodes.get()?.upgrade()?.book.elsewhere(partition).map(|(node, _)| node),
        };
        leader.filter(|node| *node != self.me)
    }
}
