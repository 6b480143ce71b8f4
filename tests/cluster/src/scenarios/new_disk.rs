//! A node whose disk is lost, and that gets a new one.

use std::time::Duration;

use everlog_proto::cluster::ReplaceDiskRequest;
use tokio::time::Instant;
use tonic::Code;

use super::away::{cluster_of, leads_and_lives, until_caught_up};
use super::{PATIENCE, Stage, start_of};
use crate::failure::{Failure, ensure};
use crate::harness::{Node, SERVE_TIME_MAX};
use crate::program::Program;

/// The node that loses its disk.
const NODE_ID: u32 = 3;
/// Enough that every partition has some.
const WORKFLOWS: usize = 24;
/// What a node with another disk is told by the others.
const OTHER_DISK: &str = "has another data directory";

/// An empty data directory takes the place of a node's once an operator says so, and is as good as the one before. That one is refused from then
/// on, if it is found again.
pub(crate) async fn takes_the_place(stage: &Stage) -> Result<(), Failure> {
    let client = stage.client("default")?;
    let node = &stage.cluster.nodes[NODE_ID as usize - 1];
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
    let directory_id = asked_for(node).await?;
    for (node_id, directory_id, code) in [
        (1, directory_id.as_str(), Code::FailedPrecondition),
        (9, directory_id.as_str(), Code::NotFound),
        (0, directory_id.as_str(), Code::InvalidArgument),
        (NODE_ID, "x", Code::InvalidArgument),
    ] {
        let told = replace(stage, node_id, directory_id).await;
        ensure(told.as_ref().is_err_and(|status| status.code() == code), || format!("node {node_id}: {told:?}"))?;
    }
    for _ in 0..2 {
        let disk = replace(stage, NODE_ID, &directory_id).await?;
        ensure(disk == 1, || format!("it is disk {disk}, the second time, too"))?;
    }
    node.wait_serving(SERVE_TIME_MAX).await?;
    until_caught_up(stage).await?;
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
    until_caught_up(stage).await
}

async fn replace(stage: &Stage, node_id: u32, directory_id: &str) -> Result<u32, tonic::Status> {
    let request = ReplaceDiskRequest { node_id, directory_id: directory_id.to_owned() };
    let mut cluster = cluster_of(stage, 0).map_err(|error| tonic::Status::internal(error.to_string()))?;
    Ok(cluster.replace_disk(request).await?.into_inner().disk)
}

/// The id in the command that a node with an empty disk asks for.
async fn asked_for(node: &Node) -> Result<String, Failure> {
    let command = format!("everlog cluster replace --node {NODE_ID} --directory ");
    let line = until_printed(node, |line| line.contains(&command)).await?;
    let id = line.split_once(&command).map(|(_, rest)| rest.chars().take(36).collect());
    id.ok_or_else(|| Failure::new("no id"))
}

/// Waits for a line of a node's log.
async fn until_printed(node: &Node, is_it: impl Fn(&str) -> bool) -> Result<String, Failure> {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(line) = node.printed()?.lines().find(|line| is_it(line)) {
            return Ok(line.to_owned());
        }
        ensure(Instant::now() < until, || format!("node {} does not say so", node.number()))?;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
