//! A node whose disk is lost, and that gets a new one.

use tonic::Code;

use super::away::leads_and_lives;
use super::{PATIENCE, Stage, start_of};
use crate::failure::{Failure, ensure};
use crate::harness::{SERVE_TIME_MAX, until_printed};
use crate::program::Program;

/// The node that loses its disk, from 0.
const NODE: usize = 2;
/// Enough that every partition has some.
const WORKFLOWS: usize = 24;
/// A data directory that there is not.
const NOBODYS_DISK: &str = "6f1c1f9e-6c39-4a43-8a0c-3f6a4d3c9f10";
/// What a node with another disk is told by the others.
const OTHER_DISK: &str = "has another data directory";

/// An empty data directory takes the place of a node's once an operator says so, and is as good as the one before. That one is refused from then
/// on, if it is found again.
pub(crate) async fn takes_the_place(stage: &Stage) -> Result<(), Failure> {
    let (client, cluster) = (stage.client("default")?, &stage.cluster);
    let node = &cluster.nodes[NODE];
    let mut runs = Vec::new();
    for number in 0..2 * WORKFLOWS {
        if number == WORKFLOWS {
            node.kill().await?;
        }
        let id = format!("disk-{number}");
        let request = start_of(&id, "nobody", &Program::Register);
        let start = client.insist(number % 2, PATIENCE, async |at| client.start(at % 2, request.clone()).await);
        runs.push((id, start.await?.run_id));
    }
    let lost = node.data().with_extension("lost");
    std::fs::rename(node.data(), &lost)?;
    node.spawn().await?;
    let id = cluster.asked_for(NODE).await?;
    let node_id = cluster.node_id(NODE);
    for (node_id, directory_id, code) in [
        (1, id.as_str(), Code::FailedPrecondition),
        (9, id.as_str(), Code::NotFound),
        (0, id.as_str(), Code::InvalidArgument),
        (node_id, "x", Code::InvalidArgument),
        (node_id, NOBODYS_DISK, Code::FailedPrecondition),
    ] {
        let told = cluster.ask_to_replace(NODE, node_id, directory_id).await;
        ensure(told.as_ref().is_err_and(|status| status.code() == code), || format!("node {node_id}: {told:?}"))?;
    }
    // A majority must have what was acknowledged.
    cluster.nodes[0].pause()?;
    let told = cluster.ask_to_replace(0, node_id, &id).await;
    cluster.nodes[0].resume()?;
    ensure(told.is_err(), || format!("with one of three nodes left: {told:?}"))?;
    cluster.replace_disk(NODE).await?;
    let disk = cluster.ask_to_replace(NODE, node_id, &id).await?;
    ensure(disk == 1, || format!("it is disk {disk}, the second time, too"))?;
    cluster.until_caught_up(NODE, 0).await?;
    leads_and_lives(stage, &client, &runs).await?;
    // It is found again.
    node.stop().await?;
    let new = node.data().with_extension("new");
    std::fs::rename(node.data(), &new)?;
    std::fs::rename(&lost, node.data())?;
    node.spawn().await?;
    until_printed(node, |line| line.contains(OTHER_DISK)).await?;
    node.kill().await?;
    std::fs::remove_dir_all(node.data())?;
    std::fs::rename(&new, node.data())?;
    node.spawn().await?;
    node.wait_serving(SERVE_TIME_MAX).await?;
    cluster.until_caught_up(NODE, 0).await
}
