//! What openraft is parameterised with: ids, payloads, and how a proposal hears of its outcome.

use std::fmt;

use everlog_storage::{GroupId, NodeId};
use openraft::impls::{BoxedErrorSource, InlineBatch};
use openraft::raft::responder::Responder;
use openraft::vote::leader_id_std;
use openraft::{RaftTypeConfig, TokioRuntime};
use serde::{Deserialize, Serialize};

use crate::chain::ChainStep;
use crate::rows::EncodedRows;

/// Identifies a replica of a group, and is never used twice within it: a replica that left and came back empty under its old
/// id could vote in elections that it no longer remembers.
///
/// The replica that founds a group is [`FOUNDING_REPLICA`]; ids given out later begin at [`REPLICA_ID_MIN`].
pub type ReplicaId = u64;

/// The replica on the node that founds a group.
pub const FOUNDING_REPLICA: ReplicaId = 1;
/// The first of the ids that are given out to replicas that join.
pub const REPLICA_ID_MIN: ReplicaId = 1 << 32;

/// A replica of a group: what a node is told to create or to open, and what it has written down about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupReplica {
    /// The group.
    pub group: GroupId,
    /// Counts how often the group was made anew from what was left of it; from 1.
    pub group_epoch: u32,
    /// The replica's id.
    pub replica: ReplicaId,
}

impl GroupReplica {
    /// The replica that founds `group`.
    pub fn founding(group: GroupId) -> GroupReplica {
        GroupReplica { group, group_epoch: 1, replica: FOUNDING_REPLICA }
    }
}

impl fmt::Display for GroupReplica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "replica {} of epoch {}", self.replica, self.group_epoch)
    }
}

/// The physical node that a replica lives on. Data that travels with the membership, not an identity.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInfo {
    /// The node's id in the cluster; below 2^32.
    pub node_id: u64,
    /// `host:port` that peers connect to; empty while a node has no peers.
    pub address: String,
    /// The node's region.
    pub region: String,
    /// The node's availability zone.
    pub zone: String,
}

impl NodeInfo {
    /// A node as a membership names it: where it is found is for others to know.
    pub fn of(node: NodeId) -> NodeInfo {
        NodeInfo { node_id: node.0.into(), ..NodeInfo::default() }
    }
}

impl fmt::Display for NodeInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {} at '{}'", self.node_id, self.address)
    }
}

/// openraft's type configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TypeConfig;

impl RaftTypeConfig for TypeConfig {
    type D = EncodedRows;
    /// Whether the entry's rows were applied.
    type R = ChainStep;
    type NodeId = ReplicaId;
    type Node = NodeInfo;
    type Term = u64;
    // At most one leader per term, so that a log id is a term and an index and nothing more.
    type LeaderId = leader_id_std::LeaderId<u64, ReplicaId>;
    type Vote = openraft::Vote<Self::LeaderId>;
    type Payload = openraft::EntryPayload<EncodedRows, ReplicaId, NodeInfo>;
    type Entry = openraft::Entry<leader_id_std::CommittedLeaderId<u64>, Self::Payload>;
    type AsyncRuntime = TokioRuntime;
    type Responder<T>
        = CallbackResponder<T>
    where
        T: Send + 'static;
    type Batch<T>
        = InlineBatch<T>
    where
        T: Send + 'static;
    type ErrorSource = BoxedErrorSource;
}

pub(crate) type CommittedLeaderId = leader_id_std::CommittedLeaderId<u64>;
pub(crate) type LeaderId = leader_id_std::LeaderId<u64, ReplicaId>;
pub(crate) type LogId = openraft::LogId<CommittedLeaderId>;
pub(crate) type Vote = openraft::Vote<LeaderId>;
pub(crate) type Payload = openraft::EntryPayload<EncodedRows, ReplicaId, NodeInfo>;
pub(crate) type Entry = openraft::Entry<CommittedLeaderId, Payload>;
pub(crate) type Membership = openraft::Membership<ReplicaId, NodeInfo>;
pub(crate) type StoredMembership = openraft::StoredMembership<CommittedLeaderId, ReplicaId, NodeInfo>;
pub(crate) type SnapshotMeta = openraft::SnapshotMeta<CommittedLeaderId, ReplicaId, NodeInfo>;

/// The log id of an entry.
pub(crate) fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(term), index)
}

/// Whether `replica` alone decides elections and commits.
pub(crate) fn is_sole_voter(membership: &Membership, replica: ReplicaId) -> bool {
    match membership.get_joint_config().as_slice() {
        [voters] => voters.len() == 1 && voters.contains(&replica),
        _ => false,
    }
}

/// Hands the outcome of a proposal to a callback. openraft's own oneshot responder would need a task, or a second channel, to
/// turn openraft's result into ours.
pub(crate) struct CallbackResponder<T>(Box<dyn FnOnce(T) + Send>);

impl<T> CallbackResponder<T> {
    pub(crate) fn new(callback: impl FnOnce(T) + Send + 'static) -> CallbackResponder<T> {
        CallbackResponder(Box::new(callback))
    }
}

impl<T: Send + 'static> Responder<TypeConfig, T> for CallbackResponder<T> {
    fn on_complete(self, result: T) {
        (self.0)(result)
    }
}
