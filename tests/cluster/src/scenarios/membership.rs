//! Nodes that join and leave under load.

use std::time::Duration;

use super::Stage;
use crate::failure::{Failure, ensure};
use crate::faults::Injected;
use crate::harness::{Cluster, SERVE_TIME_MAX};
use crate::say;
use crate::storm::under_load;

const SEED: u64 = 7;
/// How many nodes found the cluster, and how many there are.
const FOUNDERS: usize = 3;
const NODES: usize = 5;
/// How long a process may take to notice that it is a member no more.
const END_TIME_MAX: Duration = Duration::from_secs(30);
/// What a node says then.
const REMOVED: &str = "was removed from the cluster";

/// A node joins a cluster of three, is killed while it gets its replicas, and has its share in the end. A founder leaves, and its process ends. Another one is lost for
/// good, its replicas are made up for, and it is removed. What callers are told meanwhile is whole.
pub(crate) async fn join_and_leave(stage: &Stage) -> Result<(), Failure> {
    let directory = stage.directory.join("membership");
    let cluster = Cluster::with_others(&stage.binary, &directory, FOUNDERS, NODES).await?;
    cluster.start().await?;
    let moved = under_load(&cluster, &stage.seen, SEED, &[1], async |_| {
        moves(&cluster).await?;
        Ok(Injected::default())
    });
    let result = async {
        moved.await?;
        cluster.stop().await
    };
    result.await.inspect_err(|_| say(&cluster.logs()))
}

async fn moves(cluster: &Cluster) -> Result<(), Failure> {
    let nodes = &cluster.nodes;
    say("    node 4 joins, and is killed on the way");
    cluster.add(3, 1).await?;
    tokio::time::sleep(Duration::from_millis(700)).await;
    nodes[3].kill().await?;
    nodes[3].spawn().await?;
    nodes[3].wait_serving(SERVE_TIME_MAX).await?;
    cluster.until_settled(1, &[]).await?;
    say("    node 1 leaves");
    cluster.remove(0, 1).await?;
    cluster.until_left(0, 1).await?;
    let said = nodes[0].wait_ended(END_TIME_MAX).await?;
    ensure(said.contains(REMOVED), || format!("node 1 has ended without a word: {said}"))?;
    // It comes back, and is told that it is no member.
    nodes[0].spawn().await?;
    let said = nodes[0].wait_ended(END_TIME_MAX).await?;
    ensure(said.contains(REMOVED), || format!("node 1 has ended without a word, again: {said}"))?;
    cluster.until_settled(1, &[]).await?;
    say("    node 5 joins, and node 3 is lost");
    cluster.add(4, 1).await?;
    cluster.until_settled(1, &[]).await?;
    nodes[2].kill().await?;
    cluster.until_settled(1, &[2]).await?;
    cluster.remove(2, 1).await?;
    cluster.until_left(2, 1).await?;
    ensure(cluster.members() == [1, 3, 4], || format!("these are left: {:?}", cluster.members()))
}
