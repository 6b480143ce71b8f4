//! The service `everlog.v1.ClusterService`, on the port of clients.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use everlog_meta::NodeDisk;
use everlog_model::NodeId;
use everlog_proto::cluster::transfer_leads_response::Transfer;
use everlog_proto::cluster::{
    AddNodeRequest, AddNodeResponse, ApplyPlacementsRequest, ApplyPlacementsResponse, ClusterService,
    CreateJoinTokenRequest, CreateJoinTokenResponse, DeletePlacementRequest, DeletePlacementResponse,
    DescribeClusterRequest, DescribeClusterResponse, DrainNodeRequest, DrainNodeResponse, FinalizeFormatsRequest,
    FinalizeFormatsResponse, Group, ListJoinTokensRequest, ListJoinTokensResponse, ListNamespacePlacesRequest,
    ListNamespacePlacesResponse, ListPlacementsRequest, ListPlacementsResponse, Node, NodeState, RemoveNodeRequest,
    RemoveNodeResponse, ReplaceDiskRequest, ReplaceDiskResponse, Replica, RevokeJoinTokenRequest,
    RevokeJoinTokenResponse, TransferLeadsRequest, TransferLeadsResponse,
};
use everlog_proto::internal::{LeavingNode, NewNode, SteerRequest, SteeredTransfer};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tonic::codegen::async_trait;
use tonic::{Request, Response, Status};

use super::{Operations, placements};
use crate::{Picture, Places};

/// Calls that are answered at a time: each asks all nodes.
const CALLS_MAX: usize = 8;

/// How long leads may take to be elsewhere.
const MOVE_TIME_MAX: Duration = Duration::from_secs(10);

/// Entries that a replica may lack at a moment and still have all that was acknowledged a little before.
const BEHIND_MAX: u64 = 1000;

/// How often is looked whether they are.
const MOVE_LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// The service. Cheap to clone.
#[derive(Clone)]
pub struct ClusterApi {
    operations: Arc<Operations>,
    calls: Arc<Semaphore>,
}

impl ClusterApi {
    /// The service of a node.
    pub fn new(operations: Arc<Operations>) -> ClusterApi {
        ClusterApi { operations, calls: Arc::new(Semaphore::new(CALLS_MAX)) }
    }

    fn place(&self) -> Result<tokio::sync::SemaphorePermit<'_>, Status> {
        let busy =
            || Status::resource_exhausted(format!("{CALLS_MAX} calls of the cluster service are being answered"));
        self.calls.try_acquire().map_err(|_| busy())
    }

    /// Looks at the cluster until nothing is `left` to happen, but not for ever. Returns what is.
    async fn until_none<T>(&self, left: impl Fn(&DescribeClusterResponse) -> Vec<T>) -> Vec<T> {
        let begin = Instant::now();
        loop {
            let left = left(&self.operations.describe().await);
            if left.is_empty() || begin.elapsed() > MOVE_TIME_MAX {
                return left;
            }
            tokio::time::sleep(MOVE_LOOK_INTERVAL).await;
        }
    }

    async fn transfer(&self, request: TransferLeadsRequest) -> Result<Vec<Transfer>, Status> {
        let cluster = self.operations.describe().await;
        let mut transfers = transfers(&cluster, &request)?;
        let is_kept = request.to_node != 0;
        for transfer in transfers.iter_mut().filter(|transfer| transfer.problem.is_empty()) {
            let (group, from, to) = (transfer.group_id, NodeId(transfer.from_node), NodeId(transfer.to_node));
            let keeps = SteerRequest { kept: vec![group], ..SteerRequest::default() };
            let gives = SteerRequest {
                released: vec![group],
                transfers: vec![SteeredTransfer { group, to_node: to.0 }],
                ..SteerRequest::default()
            };
            let kept = if is_kept { self.operations.steer(to, keeps).await } else { Ok(()) };
            // One after the other: what is written meanwhile waits for one lead, not for all.
            let steered = match (kept, from == to) {
                (Ok(()), false) => self.operations.steer(from, gives).await,
                (kept, _) => kept,
            };
            if let Err(status) = steered {
                transfer.problem = status.message().to_owned();
            }
        }
        let wanted = |group: &Group| {
            let is_it = |transfer: &&Transfer| transfer.group_id == group.group_id && transfer.problem.is_empty();
            transfers.iter().find(is_it).is_some_and(|transfer| transfer.to_node != group.leader)
        };
        let left = |cluster: &DescribeClusterResponse| {
            let left = cluster.groups.iter().filter(|group| wanted(group));
            left.map(|group| (group.group_id, group.leader)).collect()
        };
        for (group, leader) in self.until_none(left).await {
            let leader = if leader == 0 { "nobody".to_owned() } else { format!("node {leader}") };
            if let Some(transfer) = transfers.iter_mut().find(|transfer| transfer.group_id == group) {
                transfer.problem = format!("{leader} leads it after {MOVE_TIME_MAX:?}");
            }
        }
        Ok(transfers)
    }
}

#[async_trait]
impl ClusterService for ClusterApi {
    async fn describe_cluster(
        &self,
        _request: Request<DescribeClusterRequest>,
    ) -> Result<Response<DescribeClusterResponse>, Status> {
        let _place = self.place()?;
        Ok(Response::new(self.operations.describe().await))
    }

    async fn transfer_leads(
        &self,
        request: Request<TransferLeadsRequest>,
    ) -> Result<Response<TransferLeadsResponse>, Status> {
        let _place = self.place()?;
        let transfers = self.transfer(request.into_inner()).await?;
        Ok(Response::new(TransferLeadsResponse { transfers }))
    }

    async fn drain_node(&self, request: Request<DrainNodeRequest>) -> Result<Response<DrainNodeResponse>, Status> {
        let _place = self.place()?;
        let DrainNodeRequest { node_id, undo } = request.into_inner();
        let cluster = self.operations.describe().await;
        reachable(&cluster, node_id, "node_id")?;
        let takes = |node: &&Node| node.node_id != node_id && node.state() == NodeState::Up;
        if !undo && !cluster.nodes.iter().any(|node| takes(&node)) {
            return Err(Status::failed_precondition("there is no other node that could take its leads"));
        }
        let request = SteerRequest { is_draining: Some(!undo), ..SteerRequest::default() };
        self.operations.steer(NodeId(node_id), request).await?;
        if undo {
            return Ok(Response::new(DrainNodeResponse::default()));
        }
        let left = |cluster: &DescribeClusterResponse| {
            let left = cluster.groups.iter().filter(|group| group.leader == node_id);
            left.map(|group| group.group_id).collect()
        };
        let remaining_group_ids = self.until_none(left).await;
        Ok(Response::new(DrainNodeResponse { remaining_group_ids }))
    }

    async fn replace_disk(
        &self,
        request: Request<ReplaceDiskRequest>,
    ) -> Result<Response<ReplaceDiskResponse>, Status> {
        let _place = self.place()?;
        let disk = self.replace(request.into_inner()).await?;
        Ok(Response::new(ReplaceDiskResponse { disk }))
    }

    async fn add_node(&self, request: Request<AddNodeRequest>) -> Result<Response<AddNodeResponse>, Status> {
        let _place = self.place()?;
        let node = self.add(request.into_inner()).await?;
        Ok(Response::new(AddNodeResponse { node_id: node.0 }))
    }

    async fn remove_node(&self, request: Request<RemoveNodeRequest>) -> Result<Response<RemoveNodeResponse>, Status> {
        let _place = self.place()?;
        self.remove(request.into_inner()).await?;
        Ok(Response::new(RemoveNodeResponse {}))
    }

    async fn apply_placements(
        &self,
        request: Request<ApplyPlacementsRequest>,
    ) -> Result<Response<ApplyPlacementsResponse>, Status> {
        let _place = self.place()?;
        let applied = self.operations.apply_placements(self.places()?, request.into_inner()).await?;
        Ok(Response::new(applied))
    }

    async fn list_placements(
        &self,
        _request: Request<ListPlacementsRequest>,
    ) -> Result<Response<ListPlacementsResponse>, Status> {
        let placements = placements::list(&self.places()?.picture());
        Ok(Response::new(ListPlacementsResponse { placements }))
    }

    async fn delete_placement(
        &self,
        request: Request<DeletePlacementRequest>,
    ) -> Result<Response<DeletePlacementResponse>, Status> {
        let _place = self.place()?;
        self.places()?;
        self.operations.delete_placement(request.into_inner().name).await?;
        Ok(Response::new(DeletePlacementResponse {}))
    }

    async fn create_join_token(
        &self,
        request: Request<CreateJoinTokenRequest>,
    ) -> Result<Response<CreateJoinTokenResponse>, Status> {
        let _place = self.place()?;
        Ok(Response::new(self.operations.create_token(request.into_inner()).await?))
    }

    async fn list_join_tokens(
        &self,
        _request: Request<ListJoinTokensRequest>,
    ) -> Result<Response<ListJoinTokensResponse>, Status> {
        Ok(Response::new(ListJoinTokensResponse { tokens: self.operations.tokens() }))
    }

    async fn list_namespace_places(
        &self,
        _request: Request<ListNamespacePlacesRequest>,
    ) -> Result<Response<ListNamespacePlacesResponse>, Status> {
        Ok(Response::new(ListNamespacePlacesResponse { namespaces: self.operations.namespace_places() }))
    }

    async fn finalize_formats(
        &self,
        request: Request<FinalizeFormatsRequest>,
    ) -> Result<Response<FinalizeFormatsResponse>, Status> {
        let _place = self.place()?;
        Ok(Response::new(self.operations.finalize(request.into_inner()).await?))
    }

    async fn revoke_join_token(
        &self,
        request: Request<RevokeJoinTokenRequest>,
    ) -> Result<Response<RevokeJoinTokenResponse>, Status> {
        let _place = self.place()?;
        self.operations.revoke_token(&request.into_inner().token_id).await?;
        Ok(Response::new(RevokeJoinTokenResponse {}))
    }
}

impl ClusterApi {
    async fn replace(&self, request: ReplaceDiskRequest) -> Result<u32, Status> {
        let ReplaceDiskRequest { node_id, directory_id } = request;
        let directory_id: uuid::Uuid =
            directory_id.parse().map_err(|error| super::invalid("directory_id is no UUID", &error))?;
        let parts = &self.operations.parts;
        let is_it = |disk: &NodeDisk| disk.directory_id == directory_id;
        if parts.namespaces.topology().disks.get(&NodeId(node_id)).is_some_and(is_it) {
            return self.operations.replace_disk(NodeId(node_id), directory_id).await;
        }
        let cluster = self.operations.describe().await;
        if known(&cluster, node_id, "node_id")?.state() != NodeState::Unreachable {
            return Err(Status::failed_precondition(format!(
                "node {node_id} answers: only a disk that is lost can be replaced. Stop it first"
            )));
        }
        if parts.places.as_ref().is_some_and(|places| places.was_founded_with(directory_id)) {
            let message =
                format!("{directory_id} is a data directory that the cluster was founded with, not a new one");
            return Err(Status::failed_precondition(message));
        }
        self.waiting(directory_id, &format!("node {node_id}")).await?;
        let endangered = without_majority(&cluster, node_id);
        if !endangered.is_empty() {
            let groups: Vec<_> = endangered.iter().map(u32::to_string).collect();
            return Err(Status::failed_precondition(format!(
                "without the disk of node {node_id} no majority has what was acknowledged in groups {}: start it with the disk that it had, or wait \
                 until the others have caught up",
                groups.join(", ")
            )));
        }
        self.operations.replace_disk(NodeId(node_id), directory_id).await
    }

    /// Where a node is dialled that waits with a data directory.
    async fn waiting(&self, directory_id: uuid::Uuid, who: &str) -> Result<String, Status> {
        self.operations.waiting(directory_id).await.ok_or_else(|| {
            Status::failed_precondition(format!(
                "no node waits with the data directory {directory_id}: start {who} with an empty one first, and with a node of this cluster \
                 that runs among its seeds; its log names the directory"
            ))
        })
    }

    async fn add(&self, request: AddNodeRequest) -> Result<NodeId, Status> {
        let AddNodeRequest { directory_id, node_id } = request;
        let directory_id: uuid::Uuid =
            directory_id.parse().map_err(|error| super::invalid("directory_id is no UUID", &error))?;
        let places = self.places()?;
        let is_new = |picture: &Picture| picture.nodes.values().all(|row| row.directory_id != directory_id);
        // Whoever has joined waits no more.
        let address = if is_new(&places.picture()) && !places.was_founded_with(directory_id) {
            self.waiting(directory_id, "the node").await?
        } else {
            String::new()
        };
        let new_node = NewNode { directory_id: directory_id.as_bytes().to_vec().into(), address, node: node_id };
        self.operations.change(SteerRequest { new_node: Some(new_node), ..SteerRequest::default() }).await?;
        let node = places.picture().node_with(directory_id).map(|(node, _)| node);
        node.ok_or_else(|| Status::aborted("it was removed meanwhile"))
    }

    async fn remove(&self, request: RemoveNodeRequest) -> Result<(), Status> {
        let RemoveNodeRequest { node_id, undo } = request;
        match self.places()?.picture().nodes.get(&NodeId(node_id)) {
            _ if node_id == 0 => return Err(Status::invalid_argument("node_id is not set")),
            None => return Err(Status::not_found(format!("there is no node {node_id}"))),
            Some(_) => {}
        }
        let leaving = LeavingNode { node: node_id, stays: undo };
        self.operations.change(SteerRequest { leaving: Some(leaving), ..SteerRequest::default() }).await
    }

    fn places(&self) -> Result<&Places, Status> {
        self.operations.places()
    }
}

/// Groups that lose entries with the disk of a node: too few of their voters are elsewhere and known to have them.
fn without_majority(cluster: &DescribeClusterResponse, node_id: u32) -> Vec<u32> {
    let is_endangered = |group: &&Group| {
        let voters = group.replicas.iter().filter(|replica| replica.is_voter).count();
        let on = |id: u32| group.replicas.iter().filter(|replica| replica.node_id == id).count();
        let is_whole = |replica: &&Replica| {
            let has_entries = replica.behind_entries.is_some_and(|behind| behind <= BEHIND_MAX);
            // Beside one that takes its place, a voter is the one that is lost.
            replica.is_voter && replica.node_id != node_id && on(replica.node_id) == 1 && has_entries
        };
        let whole = group.replicas.iter().filter(is_whole).count();
        on(node_id) > 0 && (group.leader == 0 || 2 * whole <= voters)
    };
    cluster.groups.iter().filter(is_endangered).map(|group| group.group_id).collect()
}

/// A node that is there and answers.
fn reachable<'a>(cluster: &'a DescribeClusterResponse, id: u32, name: &str) -> Result<&'a Node, Status> {
    let node = known(cluster, id, name)?;
    match node.state() {
        NodeState::Unreachable => Err(Status::unavailable(format!("node {id} does not answer: {}", node.problem))),
        _ => Ok(node),
    }
}

/// A node that is there, whether it answers or not.
fn known<'a>(cluster: &'a DescribeClusterResponse, id: u32, name: &str) -> Result<&'a Node, Status> {
    if id == 0 {
        return Err(Status::invalid_argument(format!("{name} is not set")));
    }
    let node = cluster.nodes.iter().find(|node| node.node_id == id);
    node.ok_or_else(|| Status::not_found(format!("there is no node {id}")))
}

/// Which leads are to go where.
fn transfers(cluster: &DescribeClusterResponse, request: &TransferLeadsRequest) -> Result<Vec<Transfer>, Status> {
    let TransferLeadsRequest { group_ids, from_node, to_node } = request;
    if *from_node != 0 {
        reachable(cluster, *from_node, "from_node")?;
    }
    if *to_node != 0 && reachable(cluster, *to_node, "to_node")?.state() == NodeState::Draining {
        return Err(Status::failed_precondition(format!("node {to_node} is draining: it takes no leads")));
    }
    if group_ids.is_empty() && *from_node == 0 {
        return Err(Status::invalid_argument("neither groups nor from_node are named"));
    }
    let wanted: BTreeSet<_> = group_ids.iter().copied().collect();
    if let Some(unknown) = wanted.iter().find(|id| !cluster.groups.iter().any(|group| group.group_id == **id)) {
        return Err(Status::not_found(format!("there is no group {unknown}")));
    }
    let is_wanted = |group: &&Group| {
        (wanted.is_empty() || wanted.contains(&group.group_id)) && (*from_node == 0 || *from_node == group.leader)
    };
    let transfer = |group: &Group| {
        let to = if *to_node == 0 { group.preferred_leader } else { *to_node };
        let problem = match group.leader {
            0 => "nobody leads it at the moment".to_owned(),
            _ if !group.replicas.iter().any(|replica| replica.is_voter && replica.node_id == to) => {
                format!("node {to} has no voting replica of it")
            }
            _ => String::new(),
        };
        Transfer { group_id: group.group_id, from_node: group.leader, to_node: to, problem }
    };
    Ok(cluster.groups.iter().filter(is_wanted).map(transfer).collect())
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    /// Node 3 drains and node 4 is gone. Group N is led by node N, and has replicas on nodes 1 to 3; nobody leads group 9.
    fn cluster() -> DescribeClusterResponse {
        let states = [NodeState::Up, NodeState::Up, NodeState::Draining, NodeState::Unreachable];
        let node = |(node_id, state)| Node { node_id, state: state as i32, ..Node::default() };
        let replicas: Vec<_> =
            (1..=3).map(|node_id| Replica { node_id, is_voter: true, ..Replica::default() }).collect();
        let group = |(group_id, leader)| Group {
            group_id,
            leader,
            preferred_leader: 1,
            replicas: replicas.clone(),
            ..Group::default()
        };
        DescribeClusterResponse {
            nodes: (1..).zip(states).map(node).collect(),
            groups: [(1, 1), (2, 2), (3, 3), (9, 0)].map(group).into(),
            ..DescribeClusterResponse::default()
        }
    }

    /// Group, from, to, and why not.
    type Moved = (u32, u32, u32, String);

    fn asked(group_ids: &[u32], from_node: u32, to_node: u32) -> Result<Vec<Moved>, (Code, String)> {
        let request = TransferLeadsRequest { group_ids: group_ids.to_vec(), from_node, to_node };
        let transfers = transfers(&cluster(), &request);
        let short = |of: Transfer| (of.group_id, of.from_node, of.to_node, of.problem);
        transfers.map(|all| all.into_iter().map(short).collect()).map_err(|s| (s.code(), s.message().to_owned()))
    }

    #[test]
    fn leads_are_named_by_group_or_by_whoever_has_them() {
        let none = String::new;
        assert_eq!(asked(&[2], 0, 1), Ok(vec![(2, 2, 1, none())]));
        assert_eq!(asked(&[], 2, 0), Ok(vec![(2, 2, 1, none())]));
        assert_eq!(asked(&[3, 2, 3], 0, 0), Ok(vec![(2, 2, 1, none()), (3, 3, 1, none())]));
        assert_eq!(asked(&[1, 2], 2, 1), Ok(vec![(2, 2, 1, none())]));
        assert_eq!(asked(&[9], 0, 1), Ok(vec![(9, 0, 1, "nobody leads it at the moment".to_owned())]));
    }

    #[test]
    fn a_disk_is_not_given_up_that_a_majority_needs() {
        let replica =
            |node_id, is_voter, behind_entries| Replica { node_id, is_voter, behind_entries, ..Replica::default() };
        let whole = |node_id| replica(node_id, true, Some(3));
        for (leader, replicas, is_refused) in [
            (2, vec![replica(1, true, None), whole(2), whole(3)], false),
            (0, vec![replica(1, true, None), whole(2), whole(3)], true),
            (2, vec![replica(1, true, None), whole(2), replica(3, true, None)], true),
            (2, vec![replica(1, true, None), whole(2), replica(3, true, Some(BEHIND_MAX + 1))], true),
            // Another disk is about to take the place of node 3's.
            (2, vec![replica(1, true, None), whole(2), whole(3), replica(3, false, Some(0))], true),
            (2, vec![whole(2), whole(3), whole(4)], false),
            (0, vec![whole(2), whole(3), whole(4)], false),
            (2, vec![replica(1, true, None), whole(2), whole(3), whole(4), replica(5, true, None)], false),
        ] {
            let group = Group { group_id: 7, leader, replicas, ..Group::default() };
            let cluster = DescribeClusterResponse { groups: vec![group], ..DescribeClusterResponse::default() };
            assert_eq!(without_majority(&cluster, 1), if is_refused { vec![7] } else { Vec::new() }, "{cluster:?}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let cases: [(&[u32], u32, u32, Code, &str); 7] = [
            (&[], 0, 1, Code::InvalidArgument, "neither groups nor from_node are named"),
            (&[7], 0, 1, Code::NotFound, "there is no group 7"),
            (&[1], 0, 8, Code::NotFound, "there is no node 8"),
            (&[], 8, 1, Code::NotFound, "there is no node 8"),
            (&[1], 0, 3, Code::FailedPrecondition, "node 3 is draining"),
            (&[1], 0, 4, Code::Unavailable, "node 4 does not answer"),
            (&[], 4, 1, Code::Unavailable, "node 4 does not answer"),
        ];
        for (groups, from, to, code, text) in cases {
            let (found, message) = asked(groups, from, to).unwrap_err();
            assert!(found == code && message.contains(text), "{found:?} {message}");
        }
    }
}
