//! A node that was away for longer than the others' log goes back.

use std::time::Duration;

use everlog_proto::api::common::v1::{Payload, Payloads};
use everlog_proto::cluster::TransferLeadsRequest;
use everlog_random::Random;
use tonic::Code;

use super::{PATIENCE, Stage, start_of};
use crate::client::{Client, workflow};
use crate::failure::{Failure, ensure};
use crate::harness::SERVE_TIME_MAX;
use crate::program::{Program, signals};

/// The node that is away, from 0.
const AWAY: usize = 2;
/// More than a node applies between two flushes, in starts that no compression makes smaller: the log is purged then.
const STARTS: usize = 80;
const INPUT_BYTES: usize = 1 << 20;
/// How often more is written if that was not enough.
const TIMES: u8 = 3;
/// How long a leader may take to flush, to hear that a follower is not there, and to purge.
const PURGE_WAIT: Duration = Duration::from_secs(3);
/// What a node logs of each replica that was seeded.
const SEEDED: &str = "a replica was seeded";

/// Replicas that need entries which are gone get the rows, and are as good as any then: they lead, and are one of two that are left.
pub(crate) async fn seeded(stage: &Stage) -> Result<(), Failure> {
    let client = stage.client("default")?;
    let nodes = &stage.cluster.nodes;
    let mut random = Random::new(11);
    let mut runs = Vec::new();
    for time in 1..=TIMES {
        nodes[AWAY].kill().await?;
        for _ in 0..STARTS {
            let id = format!("away-{}", runs.len());
            let mut request = start_of(&id, "nobody", &Program::Register);
            let payload = Payload { data: random.bytes(INPUT_BYTES), ..Payload::default() };
            request.input = Some(Payloads { payloads: vec![payload] });
            let start = client.insist(runs.len() % 2, PATIENCE, async |at| client.start(at % 2, request.clone()).await);
            let run_id = start.await?.run_id;
            runs.push((id, run_id));
        }
        tokio::time::sleep(u32::from(time) * PURGE_WAIT).await;
        nodes[AWAY].spawn().await?;
        nodes[AWAY].wait_serving(SERVE_TIME_MAX).await?;
        stage.cluster.until_caught_up(AWAY, 0).await?;
        if nodes[AWAY].printed()?.contains(SEEDED) {
            return leads_and_lives(stage, &client, &runs).await;
        }
    }
    Err(Failure(format!("{} starts of {INPUT_BYTES} bytes are still in the others' log", runs.len())))
}

/// The node leads everything, with one other that is left, and has all that was acknowledged.
pub(super) async fn leads_and_lives(stage: &Stage, client: &Client, runs: &[(String, String)]) -> Result<(), Failure> {
    let nodes = &stage.cluster.nodes;
    for from in [1, 2] {
        let to_node = stage.cluster.node_id(AWAY);
        let request = TransferLeadsRequest { group_ids: Vec::new(), from_node: from, to_node };
        let moved = stage.cluster.operator(AWAY)?.transfer_leads(request).await?.into_inner();
        let stuck: Vec<_> = moved.transfers.into_iter().filter(|transfer| !transfer.problem.is_empty()).collect();
        ensure(stuck.is_empty(), || format!("leads do not move: {stuck:?}"))?;
    }
    nodes[0].kill().await?;
    for (number, (id, run_id)) in runs.iter().enumerate() {
        let at = 1 + number % 2;
        let near = |node: usize| 1 + node % 2;
        let described = client.insist(at, PATIENCE, async |node| client.describe(near(node), workflow(id)).await);
        let described = described.await?;
        ensure(described.0 == *run_id, || format!("{id} is {described:?}, and was {run_id}"))?;
        let request_id = format!("{id}-signal");
        let signal = client.insist(at, PATIENCE, async |node| {
            client.signal(near(node), workflow(id), "signal", 1, Some(request_id.clone())).await
        });
        signal.await?;
        let events = client.insist(at, PATIENCE, async |node| client.history(near(node), workflow(id)).await).await?;
        ensure(signals(&events).len() == 1, || format!("{id} has the events {events:?}"))?;
        let terminated = client.insist(at, PATIENCE, async |node| {
            match client.terminate(near(node), workflow(id)).await {
                // It was, by the call whose answer was lost.
                Err(status) if status.code() == Code::NotFound => Ok(()),
                told => told,
            }
        });
        terminated.await?;
    }
    nodes[0].spawn().await?;
    nodes[0].wait_serving(SERVE_TIME_MAX).await
}
