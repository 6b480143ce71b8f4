//! A cluster whose nodes are started with a newer release, one after the other, under load.

use std::sync::Arc;
use std::time::Duration;

use everlog_proto::cluster::{
    DescribeClusterRequest, FinalizeFormatsRequest, FinalizeFormatsResponse, Placement, TransferLeadsRequest,
};
use tokio::time::Instant;

use super::moves::moved;
use super::{PATIENCE, Stage};
use crate::client::{Client, Seen, is_transient};
use crate::failure::{Failure, ensure};
use crate::faults::Injected;
use crate::harness::{Cluster, SERVE_TIME_MAX};
use crate::say;
use crate::storm::under_load;

const SEED: u64 = 23;
const NODES: usize = 3;
/// How long a node leads all groups until another one of the other release does.
const LEADS_FOR: Duration = Duration::from_secs(2);
/// How often that changes while there are nodes of both.
const CHANGES: usize = 4;
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// What makes a node as one of the release before.
const EARLIER: &str = "newest_format = 1\nfinalize_after = \"never\"\n";
const LATER: &str = "finalize_after = \"never\"\n";

/// Nodes get a newer release while callers and workers go on, with leads that go back and forth between both; one goes back, too. Then the cluster gets
/// its formats, what needs them works, and the earlier release is refused.
pub(crate) async fn node_by_node(stage: &Stage) -> Result<(), Failure> {
    let cluster = Cluster::new(&stage.binary, &stage.directory.join("upgrade"), NODES).await?;
    for node in 0..NODES {
        configure(&cluster, node, EARLIER)?;
    }
    cluster.start().await?;
    let seen = Arc::new(Seen::default());
    let client = Client::new(&cluster.addresses(), "default", &seen)?;
    let result = async {
        let eu = Placement { name: "eu".to_owned(), replicas: 3, ..Placement::default() };
        cluster.place(1, Placement { spread: 1, ..eu }).await?;
        under_load(&cluster, &seen, SEED, &[0, 1, 2], async |_| {
            // Old, new, and old again.
            restart(&cluster, 0, LATER).await?;
            to_and_fro(&cluster, 0, 1).await?;
            restart(&cluster, 0, EARLIER).await?;
            for node in 0..NODES {
                restart(&cluster, node, LATER).await?;
                let old = (node + 1) % NODES;
                if node + 1 < NODES {
                    to_and_fro(&cluster, node, old).await?;
                }
            }
            ensure(format(&cluster, 0).await? == 1, || "nobody has asked for newer formats".to_owned())?;
            let began = Instant::now();
            while let Err(status) = finalized(&cluster).await {
                ensure(began.elapsed() < PATIENCE, || format!("the formats are not had: {status}"))?;
                tokio::time::sleep(LOOK_INTERVAL).await;
            }
            moved(&cluster, &client, 1, "eu").await?;
            moved(&cluster, &client, 2, "default").await?;
            Ok(Injected::default())
        })
        .await?;
        refused(&cluster, 2).await?;
        cluster.stop().await
    };
    result.await.inspect_err(|_| say(&cluster.logs()))
}

fn configure(cluster: &Cluster, node: usize, lines: &str) -> Result<(), Failure> {
    cluster.nodes[node].set_alone(false)?;
    cluster.nodes[node].configure(lines)
}

/// Stops a node in good order, and starts it as another release.
async fn restart(cluster: &Cluster, node: usize, lines: &str) -> Result<(), Failure> {
    cluster.nodes[node].stop().await?;
    configure(cluster, node, lines)?;
    cluster.nodes[node].spawn().await?;
    cluster.nodes[node].wait_serving(SERVE_TIME_MAX).await?;
    cluster.until_caught_up(node, 1000).await
}

/// Has all leads go from one node to another and back.
async fn to_and_fro(cluster: &Cluster, new: usize, old: usize) -> Result<(), Failure> {
    for change in 0..CHANGES {
        let to = [new, old][change % 2];
        let others = (0..NODES).filter(|node| *node != to);
        let mut moved = 0;
        for from in others {
            let request = TransferLeadsRequest {
                group_ids: Vec::new(),
                from_node: cluster.node_id(from),
                to_node: cluster.node_id(to),
            };
            let began = Instant::now();
            let transfers = loop {
                match cluster.operator(to)?.transfer_leads(request.clone()).await {
                    Ok(told) => break told.into_inner().transfers,
                    // A node that has just started may have to find the others yet.
                    Err(status) if is_transient(&status) && began.elapsed() < PATIENCE => {
                        tokio::time::sleep(LOOK_INTERVAL).await;
                    }
                    Err(status) => return Err(status.into()),
                }
            };
            moved += transfers.iter().filter(|transfer| transfer.problem.is_empty()).count();
        }
        say(&format!("    {moved} leads went to node {}", to + 1));
        tokio::time::sleep(LEADS_FOR).await;
    }
    Ok(())
}

async fn finalized(cluster: &Cluster) -> Result<(), Failure> {
    let request = FinalizeFormatsRequest { without_node_ids: Vec::new() };
    let FinalizeFormatsResponse { version, before } =
        cluster.operator(0)?.finalize_formats(request).await?.into_inner();
    say(&format!("    the cluster had format {before}, and has {version}"));
    ensure((before, version) == (1, 2), || format!("it had {before} and has {version}"))
}

async fn format(cluster: &Cluster, by: usize) -> Result<u32, Failure> {
    let shown = cluster.operator(by)?.describe_cluster(DescribeClusterRequest {}).await?.into_inner();
    shown.format.map(|format| format.version).ok_or_else(|| Failure::new("no format is shown"))
}

/// A node of the earlier release ends, and says why; of the later one it serves.
async fn refused(cluster: &Cluster, node: usize) -> Result<(), Failure> {
    cluster.nodes[node].stop().await?;
    configure(cluster, node, EARLIER)?;
    cluster.nodes[node].spawn().await?;
    let printed = cluster.nodes[node].wait_ended(SERVE_TIME_MAX).await?;
    let text = "the cluster has format 2, and this release reads format 1: start a release that reads format 2";
    ensure(printed.lines().last().is_some_and(|line| line.contains(text)), || printed)?;
    configure(cluster, node, LATER)?;
    cluster.nodes[node].spawn().await?;
    cluster.nodes[node].wait_serving(SERVE_TIME_MAX).await
}
