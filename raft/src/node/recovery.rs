//! What is left of a group when most of its replicas are lost for ever, and how one that is left goes on alone.
//!
//! For a node that serves nobody: its groups are not open. A group that goes on alone keeps everything that its replica has, committed or not: what
//! was acknowledged and never reached this replica is lost, and nothing can tell what that was. Whoever decides this must see to it that none of
//! the lost replicas is ever heard again.
//!
//! ```text
//!   rest of the log ──▶ rows ──▶ position with this replica as the only voter, durable ──▶ the log begins behind that position
//! ```
//!
//! Each step may be repeated, so whoever was cut off begins again.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::Arc;

use everlog_storage::state::RowBatch;
use everlog_storage::{GroupId, NodeId};
use futures::{StreamExt, TryStreamExt};
use openraft::storage::RaftLogReader;
use tokio::sync::watch;

use super::{Node, NodeError, blocking};
use crate::chain::{ChainStep, Hlc};
use crate::encoding;
use crate::log_store::GroupLog;
use crate::progress::{AppliedPosition, GroupProgress};
use crate::seed::Seeding;
use crate::types::{GroupReplica, Membership, NodeInfo, Payload, ReplicaId, StoredMembership, Vote};

/// What a node has of a group that is not open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remains {
    /// The replica.
    pub replica: GroupReplica,
    /// The nodes that vote by the last membership in its log: one set, or two while the group changes from one to the other; a majority of each
    /// is needed. None if the replica has not heard of its group yet.
    pub voters: Vec<BTreeSet<NodeId>>,
    /// Term and index of its last entry.
    pub last: (u64, u64),
    /// When the last entry with rows was decided, by the clock of whoever led.
    pub last_at: Hlc,
}

impl Node {
    /// What this node has of a group that is not open here. `None` if it has nothing.
    ///
    /// # Errors
    ///
    /// When the group is open, and when the engines cannot be read or do not belong together.
    pub async fn remains(&self, group: GroupId) -> Result<Option<Remains>, NodeError> {
        self.check_closed(group)?;
        let Some(replica) = self.replica_here(group).await? else { return Ok(None) };
        let (log, progress) = self.recover(group, replica.replica).await?;
        let position = progress.applied();
        let (mut membership, mut chain) = position
            .as_ref()
            .map(|position| (position.membership.membership().clone(), position.chain.clone()))
            .unwrap_or_default();
        let mut last = position.map(|position| position.log_id);
        let mut reader = log.clone();
        let mut rest = pin!(reader.entries_stream(behind(&progress)..).await);
        while let Some(entry) = rest.try_next().await.map_err(|error| NodeError(error.to_string()))? {
            last = Some(entry.log_id);
            match entry.payload {
                Payload::Blank => {}
                Payload::Normal(rows) => drop(chain.step(&rows.stamp)),
                Payload::Membership(changed) => membership = changed,
            }
        }
        let node_of = |replica: &ReplicaId| {
            let id = membership.get_node(replica).map(|node| node.node_id).unwrap_or_default();
            NodeId(u32::try_from(id).unwrap_or_default())
        };
        let voters = membership.get_joint_config().iter().map(|voters| voters.iter().map(node_of).collect());
        let voters = voters.filter(|voters: &BTreeSet<NodeId>| !voters.is_empty()).collect();
        let last = last.map(|log_id| (log_id.leader_id.term, log_id.index)).unwrap_or_default();
        Ok(Some(Remains { replica, voters, last, last_at: chain.end().hlc }))
    }

    /// The rows of entries that this node has in its log of a group that is not open here, and that are not applied yet, in order.
    ///
    /// # Errors
    ///
    /// As [`Node::remains`].
    pub async fn tail(&self, group: GroupId) -> Result<Vec<RowBatch>, NodeError> {
        self.check_closed(group)?;
        let Some(replica) = self.replica_here(group).await? else { return Ok(Vec::new()) };
        let (mut log, progress) = self.recover(group, replica.replica).await?;
        let mut chain = progress.applied().map(|position| position.chain).unwrap_or_default();
        let mut rest = pin!(log.entries_stream(behind(&progress)..).await);
        let mut tail = Vec::new();
        while let Some(entry) = rest.try_next().await.map_err(|error| NodeError(error.to_string()))? {
            if let Payload::Normal(rows) = entry.payload
                && chain.step(&rows.stamp) == ChainStep::Applied
            {
                let batch = RowBatch::decode(&rows.rows());
                tail.push(batch.map_err(|error| NodeError(format!("group {group}: {error}")))?);
            }
        }
        Ok(tail)
    }

    /// Applies everything that this node's replica of a group has in its log, whether it was committed or not.
    ///
    /// # Errors
    ///
    /// When there is no replica here, when the group is open, and when an engine fails.
    pub async fn apply_all(&self, group: GroupId) -> Result<(), NodeError> {
        self.whole(group).await.map(drop)
    }

    /// Makes this node's replica of a group its only voter, with these rows written on top of everything that it has. It is `replica` from then on,
    /// be it that it was or another one.
    ///
    /// # Errors
    ///
    /// When there is no replica here or it has no entries, when the group is open, and when an engine fails.
    pub async fn go_on_alone(&self, replica: GroupReplica, me: NodeId, rows: RowBatch) -> Result<(), NodeError> {
        let GroupReplica { group, replica: id, .. } = replica;
        let failed = |error: String| NodeError(format!("group {group}: {error}"));
        let (log, progress) = self.whole(group).await?;
        let position = progress.applied().ok_or_else(|| failed("its replica here has nothing".to_owned()))?;
        let membership = Membership::new(vec![BTreeSet::from([id])], BTreeMap::from([(id, NodeInfo::of(me))]))
            .map_err(|error| failed(error.to_string()))?;
        let membership = Arc::new(StoredMembership::new(Some(position.log_id), membership));
        let alone = AppliedPosition { membership, ..position };
        let (state, encoded) = (self.state.clone(), encoding::encode_position(&alone));
        blocking(move || state.commit(group, &encoded, &[rows])).await?;
        self.flusher.flush_rows().await?;
        let vote = log.vote().unwrap_or_else(|| Vote::new(0, id));
        let seeding = Seeding { position: alone.log_id, vote };
        log.begin_anew(seeding, replica).await.map_err(|error| failed(error.to_string()))
    }

    /// A replica all of whose entries are rows, durably.
    async fn whole(&self, group: GroupId) -> Result<(GroupLog, Arc<GroupProgress>), NodeError> {
        let failed = |error: String| NodeError(format!("group {group}: {error}"));
        self.check_closed(group)?;
        let replica = self.replica_here(group).await?.ok_or_else(|| failed("it is not on this node".to_owned()))?;
        let (log, progress) = self.recover(group, replica.replica).await?;
        let mut state_machine = self.state_machine(group, &progress, watch::channel(()).0);
        let mut reader = log.clone();
        let entries = reader.entries_stream(behind(&progress)..).await.map_ok(|entry| (entry, None));
        state_machine.apply_all(entries.boxed()).await.map_err(|error| failed(error.to_string()))?;
        self.flusher.flush_rows().await?;
        Ok((log, progress))
    }

    fn check_closed(&self, group: GroupId) -> Result<(), NodeError> {
        match self.groups.get(group) {
            Some(_) => Err(NodeError(format!("group {group}: it is open"))),
            None => Ok(()),
        }
    }
}

/// The index behind the applied position.
fn behind(progress: &GroupProgress) -> u64 {
    progress.applied().map_or(0, |position| position.log_id.index + 1)
}
