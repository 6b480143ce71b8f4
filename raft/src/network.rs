//! Where a group's messages to its peers leave this node. No transport is configured yet: every call answers Unreachable, so
//! that a group behaves as it will when its peers are down.

use std::future::Future;

use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse,
};
use openraft::storage::Snapshot;

use crate::snapshot::GroupSnapshot;
use crate::types::{CommittedLeaderId, NodeInfo, ReplicaId, TypeConfig, Vote};

/// Makes the connections of one group to its peers.
pub(crate) struct GroupNetwork;

/// The connection to one peer.
pub(crate) struct PeerConnection {
    peer: NodeInfo,
}

impl PeerConnection {
    fn unreachable(&self) -> Unreachable<TypeConfig> {
        Unreachable::from_string(format!("{}: no transport configured", self.peer))
    }
}

impl RaftNetworkFactory<TypeConfig> for GroupNetwork {
    type Network = PeerConnection;

    async fn new_client(&mut self, _target: ReplicaId, node: &NodeInfo) -> PeerConnection {
        PeerConnection { peer: node.clone() }
    }
}

impl RaftNetworkV2<TypeConfig> for PeerConnection {
    type SnapshotData = GroupSnapshot;

    async fn append_entries(
        &mut self,
        _request: AppendEntriesRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        Err(self.unreachable().into())
    }

    async fn vote(
        &mut self,
        _request: VoteRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        Err(self.unreachable().into())
    }

    // Not left to openraft's default, which would grant the pre-vote in the peer's name.
    async fn pre_vote(
        &mut self,
        _request: VoteRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        Err(self.unreachable().into())
    }

    async fn full_snapshot(
        &mut self,
        _vote: Vote,
        _snapshot: Snapshot<CommittedLeaderId, ReplicaId, NodeInfo, GroupSnapshot>,
        _cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        Err(self.unreachable().into())
    }

    async fn transfer_leader(
        &mut self,
        _request: TransferLeaderRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        Err(self.unreachable().into())
    }
}
