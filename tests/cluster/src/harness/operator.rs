//! What an operator does with a cluster.

use std::time::Duration;

use everlog_proto::cluster::{ClusterServiceClient, DescribeClusterRequest, Group, ReplaceDiskRequest, Replica};
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::{Cluster, Node, SERVE_TIME_MAX};
use crate::failure::{Failure, ensure};

/// How long it may take until a node has all that it missed.
const CATCH_UP_TIME_MAX: Duration = Duration::from_secs(60);
/// How long a node may take to say something, and to answer.
const SAY_TIME_MAX: Duration = Duration::from_secs(30);
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
        let until = Instant::now() + CATCH_UP_TIME_MAX;
        loop {
            let shown = self.operator(self.another(node))?.describe_cluster(DescribeClusterRequest {}).await;
            let left = shown.map(|shown| shown.into_inner().groups.into_iter().filter(lacks).collect::<Vec<_>>());
            match &left {
                Ok(left) if left.is_empty() => return Ok(()),
                _ => ensure(Instant::now() < until, || format!("node {number} does not catch up: {left:?}"))?,
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// Has the new, empty data directory that a node waits with take the place of the one that it had, and waits until it serves.
    pub(crate) async fn replace_disk(&self, node: usize) -> Result<(), Failure> {
        let directory_id = self.asked_for(node).await?;
        let until = Instant::now() + SAY_TIME_MAX;
        loop {
            match self.ask_to_replace(node, self.node_id(node), &directory_id).await {
                Ok(_) => return self.nodes[node].wait_serving(SERVE_TIME_MAX).await,
                // Somebody is yet to be elected, or to hear of the node.
                Err(status) if Instant::now() < until && AGAIN.contains(&status.code()) => {
                    tokio::time::sleep(LOOK_INTERVAL).await;
                }
                Err(status) => return Err(status.into()),
            }
        }
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
        let line = until_printed(&self.nodes[node], |line| line.contains(&command)).await?;
        let id = line.split_once(&command).map(|(_, rest)| rest.chars().take(36).collect());
        id.ok_or_else(|| Failure::new("no id"))
    }

    /// As the server counts them.
    pub(crate) fn node_id(&self, node: usize) -> u32 {
        u32::try_from(node + 1).unwrap_or(u32::MAX)
    }

    fn another(&self, node: usize) -> usize {
        (node + 1) % self.nodes.len()
    }
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
