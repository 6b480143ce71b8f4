//! What an operator does with a cluster.

use std::time::Duration;

use everlog_proto::cluster::{
    AddNodeRequest, ApplyPlacementsRequest, ClusterServiceClient, DescribeClusterRequest, DescribeClusterResponse,
    Group, GroupKind, Placement, RemoveNodeRequest, ReplaceDiskRequest, Replica,
};
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::{Cluster, Node, SERVE_TIME_MAX};
use crate::failure::{Failure, ensure};

/// How long it may take until a node has all that it missed.
const CATCH_UP_TIME_MAX: Duration = Duration::from_secs(60);
/// How long a node may take to say something, and to answer.
const SAY_TIME_MAX: Duration = Duration::from_secs(30);
/// How long replicas may take to be elsewhere.
const MOVE_TIME_MAX: Duration = Duration::from_secs(120);
/// What a node with an empty directory asks for.
const ADD: &str = "everlog cluster add --directory ";
/// What passes.
const AGAIN: [Code; 2] = [Code::Unavailable, Code::FailedPrecondition];
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

impl Cluster {
    /// The service for operators, at a node.
    pub(crate) fn operator(&self, node: usize) -> Result<ClusterServiceClient<Channel>, Failure> {
        let endpoint = Channel::from_shared(format!("http://{}", self.nodes[node].grpc()));
        let endpoint = endpoint.map_err(|error| Failure(error.to_string()))?.timeout(SAY_TIME_MAX);
        Ok(ClusterServiceClient::new(endpoint.connect_lazy()))
    }

    /// Waits until the replicas of a node lack no more than so many entries each, and no group has any other than voters; as another node
    /// sees it.
    pub(crate) async fn until_caught_up(&self, node: usize, behind_max: u64) -> Result<(), Failure> {
        let number = self.node_id(node);
        let lacks = |group: &Group| {
            let is_behind = |replica: &Replica| replica.behind_entries.is_none_or(|entries| entries > behind_max);
            let is_it = |replica: &&Replica| replica.node_id == number;
            group.replicas.iter().find(is_it).is_some_and(is_behind) || group.replicas.iter().any(|one| !one.is_voter)
        };
        self.until(self.another(node), CATCH_UP_TIME_MAX, |shown| {
            let left: Vec<_> = shown.groups.iter().filter(|group| lacks(group)).collect();
            if left.is_empty() { Ok(()) } else { Err(format!("node {number} does not catch up: {left:?}")) }
        })
        .await
    }

    /// Has the new, empty data directory that a node waits with take the place of the one that it had, and waits until it serves.
    pub(crate) async fn replace_disk(&self, node: usize) -> Result<(), Failure> {
        let directory_id = self.asked_for(node).await?;
        insist(&AGAIN, async || self.ask_to_replace(node, self.node_id(node), &directory_id).await).await?;
        self.nodes[node].wait_serving(SERVE_TIME_MAX).await
    }

    /// Asks another node than `node` to have a directory take the place of the disk of the node `node_id`. Returns the number of the disk.
    pub(crate) async fn ask_to_replace(&self, node: usize, node_id: u32, directory_id: &str) -> Result<u32, Status> {
        let request = ReplaceDiskRequest { node_id, directory_id: directory_id.to_owned() };
        let mut operator =
            self.operator(self.another(node)).map_err(|error| Status::failed_precondition(error.to_string()))?;
        Ok(operator.replace_disk(request).await?.into_inner().disk)
    }

    /// The id of the directory in the command that a node with an empty one asks for.
    pub(crate) async fn asked_for(&self, node: usize) -> Result<String, Failure> {
        let command = format!("everlog cluster replace --node {} --directory ", self.node_id(node));
        printed_behind(&self.nodes[node], &command).await
    }

    /// A member that is another node.
    fn another(&self, node: usize) -> usize {
        let members = self.members();
        let next = members.iter().find(|other| **other > node).or(members.first());
        next.copied().unwrap_or(node)
    }

    /// Has a node with a new, empty data directory join, by any node of the cluster, and waits until it serves.
    pub(crate) async fn add(&self, node: usize, by: usize) -> Result<(), Failure> {
        self.nodes[node].spawn().await?;
        let request = AddNodeRequest { directory_id: printed_behind(&self.nodes[node], ADD).await?, node_id: 0 };
        let operator = self.operator(by)?;
        let added = insist(&AGAIN, async || operator.clone().add_node(request.clone()).await).await?;
        self.members.lock().insert(node, added.into_inner().node_id);
        self.nodes[node].wait_serving(SERVE_TIME_MAX).await
    }

    /// Has a node leave, by another one. Returns at once.
    pub(crate) async fn remove(&self, node: usize, by: usize) -> Result<(), Failure> {
        let request = RemoveNodeRequest { node_id: self.node_id(node), undo: false };
        let operator = self.operator(by)?;
        insist(&[Code::Unavailable], async || operator.clone().remove_node(request).await).await.map(drop)
    }

    /// Waits until a node that was to leave has left, as another one sees it.
    pub(crate) async fn until_left(&self, node: usize, by: usize) -> Result<(), Failure> {
        let id = self.node_id(node);
        self.until(by, MOVE_TIME_MAX, |shown| {
            let is_member = shown.nodes.iter().any(|one| one.node_id == id);
            let has_replica = |group: &Group| group.replicas.iter().any(|replica| replica.node_id == id);
            match is_member || shown.groups.iter().any(has_replica) {
                true => Err(format!("node {id} has not left: {:?}", shown.groups)),
                false => Ok(()),
            }
        })
        .await?;
        self.members.lock().remove(&node);
        Ok(())
    }

    /// Applies a placement, and waits until all partitions are placed and led as it says.
    pub(crate) async fn place(&self, by: usize, placement: Placement) -> Result<(), Failure> {
        let request = ApplyPlacementsRequest { placements: vec![placement.clone()], only_plan: false };
        insist(&AGAIN, async || {
            self.operator(by)
                .map_err(|error| Status::unavailable(error.to_string()))?
                .apply_placements(request.clone())
                .await
        })
        .await?;
        self.until(by, MOVE_TIME_MAX, |shown| {
            let region = |id: u32| shown.nodes.iter().find(|node| node.node_id == id).map_or("", |node| &node.region);
            let is_placed = |group: &Group| {
                let voters: Vec<_> = group.replicas.iter().filter(|replica| replica.is_voter).collect();
                let in_region = |of: &str| voters.iter().filter(|replica| region(replica.node_id) == of).count();
                let is_full = |(of, count): (&String, &u32)| in_region(of) == *count as usize;
                let is_led = placement.leaders.first().is_none_or(|of| region(group.leader) == of);
                group.wanted_node_ids.is_empty()
                    && group.replicas.len() == placement.replicas as usize
                    && voters.len() == placement.replicas as usize
                    && placement.regions.iter().all(is_full)
                    && group.leader != 0
                    && is_led
            };
            let mut partitions = shown.groups.iter().filter(|group| group.kind() == GroupKind::Partition);
            match partitions.find(|group| !is_placed(group)) {
                Some(group) => Err(format!("it is not placed yet: {group:?}")),
                None => Ok(()),
            }
        })
        .await
    }

    /// The partitions that there are.
    pub(crate) async fn partitions(&self, by: usize) -> Result<Vec<u32>, Failure> {
        let shown = self.operator(by)?.describe_cluster(DescribeClusterRequest {}).await?.into_inner();
        let partitions = shown.groups.iter().filter(|group| group.kind() == GroupKind::Partition);
        Ok(partitions.map(|group| group.group_id).collect())
    }

    /// Waits until all partitions but these are led in a region.
    pub(crate) async fn until_led_in(&self, by: usize, others: &[u32], region: &str) -> Result<(), Failure> {
        self.until(by, MOVE_TIME_MAX, |shown| {
            let of = |id: u32| shown.nodes.iter().find(|node| node.node_id == id).map_or("", |node| &node.region);
            let is_asked = |group: &&Group| group.kind() == GroupKind::Partition && !others.contains(&group.group_id);
            let mut asked = shown.groups.iter().filter(is_asked).peekable();
            if asked.peek().is_none() {
                return Err("there are no others".to_owned());
            }
            match asked.find(|group| group.leader == 0 || of(group.leader) != region) {
                Some(group) => Err(format!("it is not led in {region}: {group:?}")),
                None => Ok(()),
            }
        })
        .await
    }

    /// Waits until every group has the replicas that it should have and a leader, and nodes have their share of the partitions but for those that are
    /// `lost`.
    pub(crate) async fn until_settled(&self, by: usize, lost: &[usize]) -> Result<(), Failure> {
        let lost: Vec<_> = lost.iter().map(|node| self.node_id(*node)).collect();
        self.until(by, MOVE_TIME_MAX, |shown| {
            let is_moving = |group: &&Group| {
                let learns = |replica: &Replica| replica.should_vote && !replica.is_voter;
                let dead = |replica: &Replica| replica.is_voter && lost.contains(&replica.node_id);
                let is_bad = group.replicas.iter().any(|replica| learns(replica) || dead(replica));
                !group.wanted_node_ids.is_empty() || group.leader == 0 || is_bad
            };
            if let Some(group) = shown.groups.iter().find(is_moving) {
                return Err(format!("it moves on: {group:?}"));
            }
            let voters = |group: &Group| group.replicas.iter().filter(|replica| replica.is_voter).count();
            let few = shown.groups.iter().find(|group| voters(group) < 3);
            let loads: Vec<_> = shown
                .nodes
                .iter()
                .filter(|node| !lost.contains(&node.node_id))
                .map(|node| (node.node_id, node.replicas))
                .collect();
            let counts = loads.iter().map(|(_, replicas)| *replicas);
            let spread = counts.clone().max().unwrap_or(0) - counts.min().unwrap_or(0);
            match few {
                Some(group) => Err(format!("too few vote: {group:?}")),
                None if spread > 1 => Err(format!("the shares differ: {loads:?}")),
                None => Ok(()),
            }
        })
        .await
    }

    /// Waits until what a node shows of the cluster is as it should be.
    async fn until(
        &self,
        by: usize,
        time_max: Duration,
        is_it: impl Fn(&DescribeClusterResponse) -> Result<(), String>,
    ) -> Result<(), Failure> {
        let until = Instant::now() + time_max;
        loop {
            let shown = self.operator(by)?.describe_cluster(DescribeClusterRequest {}).await;
            let why = match shown {
                Ok(shown) => is_it(&shown.into_inner()),
                Err(status) => Err(status.to_string()),
            };
            match why {
                Ok(()) => return Ok(()),
                Err(why) => ensure(Instant::now() < until, || why)?,
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }
}

/// Asks again as long as it is refused with what passes: somebody is yet to be elected, or to hear of a node.
async fn insist<T>(passes: &[Code], ask: impl AsyncFn() -> Result<T, Status>) -> Result<T, Failure> {
    let until = Instant::now() + SAY_TIME_MAX;
    loop {
        match ask().await {
            Ok(answer) => return Ok(answer),
            Err(status) if Instant::now() < until && passes.contains(&status.code()) => {
                tokio::time::sleep(LOOK_INTERVAL).await;
            }
            Err(status) => return Err(status.into()),
        }
    }
}

/// The id that a node prints behind a command.
async fn printed_behind(node: &Node, command: &str) -> Result<String, Failure> {
    let line = until_printed(node, |line| line.contains(command)).await?;
    let id = line.split_once(command).map(|(_, rest)| rest.chars().take(36).collect());
    id.ok_or_else(|| Failure::new("no id"))
}

/// Waits for a line of what a node prints.
pub(crate) async fn until_printed(node: &Node, is_it: impl Fn(&str) -> bool) -> Result<String, Failure> {
    let until = Instant::now() + SAY_TIME_MAX;
    loop {
        if let Some(line) = node.printed()?.lines().find(|line| is_it(line)) {
            return Ok(line.to_owned());
        }
        ensure(Instant::now() < until, || format!("node {} does not say so", node.number()))?;
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}
