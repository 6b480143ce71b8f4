//! The partitions of a node that has no others beside it, those that are made while it runs among them.
//!
//! ```text
//!   metadata: group 5 is to be founded here ──▶ made, with this node as its only voter ──▶ led ──▶ metadata: that is done
//! ```
//!
//! A group is made only as long as the metadata say that nobody has founded it: one that is gone after that was lost, and to make it again would
//! hide the loss.

use std::sync::Arc;
use std::time::Duration;

use everlog_cluster::leads;
use everlog_meta::{GroupRow, MetaError, Namespaces, Topology, TopologyChange};
use everlog_partition::Partitions;
use everlog_raft::{Group, GroupReplica, GroupSlot, GroupSlots, NodeError};
use everlog_storage::GroupId;
use parking_lot::RwLock;

/// How often it looks at what is not as it should be.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// The partitions of a node without others.
pub(crate) struct Alone {
    pub(crate) raft: Arc<everlog_raft::Node>,
    pub(crate) namespaces: Arc<Namespaces>,
    pub(crate) groups: GroupSlots,
    pub(crate) partitions: Partitions,
}

/// Opens the groups that were made since the node was founded, and makes those that it was stopped before it had.
pub(crate) async fn open_later_groups(raft: &everlog_raft::Node, topology: &Topology) -> Result<Vec<Group>, NodeError> {
    let mut groups = Vec::new();
    for (group, row) in &topology.groups {
        groups.push(open(raft, *group, row).await?);
    }
    Ok(groups)
}

async fn open(raft: &everlog_raft::Node, group: GroupId, row: &GroupRow) -> Result<Group, NodeError> {
    let replica = GroupReplica::founding(group);
    if row.founding.is_empty() { raft.open_group(replica).await } else { raft.create_group(replica).await }
}

impl Alone {
    /// Has the node have the groups that it should have, for as long as it is polled.
    pub(crate) async fn follow(self) {
        loop {
            let topology = self.namespaces.topology();
            let mut is_done = true;
            for (group, row) in &topology.groups {
                is_done &= self.bring_here(*group, row).await.unwrap_or_else(|error| {
                    tracing::warn!(partition = %group, %error, "this node does not have a partition that it should have");
                    false
                });
            }
            let changed = self.namespaces.until_other_topology(&topology);
            if is_done {
                changed.await;
            } else {
                let _ = tokio::time::timeout(LOOK_INTERVAL, changed).await;
            }
        }
    }

    /// Has the node have a partition. False if that has to wait.
    async fn bring_here(&self, id: GroupId, row: &GroupRow) -> Result<bool, Box<dyn std::error::Error + Send + Sync>> {
        if self.partitions.get(id).is_none() {
            let slot: GroupSlot = Arc::new(RwLock::new(open(&self.raft, id, row).await?));
            self.groups.add(Arc::clone(&slot));
            self.partitions.add(slot);
        }
        if row.is_settled {
            return Ok(true);
        }
        if !self.groups.get(id).is_some_and(|group| leads(&group)) {
            return Ok(false);
        }
        self.settle(id).await?;
        Ok(true)
    }

    /// Has it written down that a group is founded.
    async fn settle(&self, id: GroupId) -> Result<(), MetaError> {
        let settled = |topology: &Topology| {
            let row = topology.groups.get(&id).filter(|row| !row.is_settled);
            Ok((row.map(|row| TopologyChange::Group(id, row.settled())).into_iter().collect(), ()))
        };
        self.namespaces.change_topology(settled).await
    }
}
