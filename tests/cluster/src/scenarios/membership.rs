//! Nodes that join and leave under load.

use std::time::Duration;

use super::{PATIENCE, Stage, start_of};
use crate::client::{Client, workflow};
use crate::failure::{Failure, ensure};
use crate::faults::Injected;
use crate::harness::{Cluster, SERVE_TIME_MAX};
use crate::program::{Program, signals};
use crate::say;
use crate::storm::under_load;

const SEED: u64 = 7;
/// Enough that every partition has some.
const WORKFLOWS: usize = 24;
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

/// A node that was alone becomes the first of a cluster with all it has, and is not needed any more once two others have joined.
pub(crate) async fn one_grows(stage: &Stage) -> Result<(), Failure> {
    let directory = stage.directory.join("growth");
    let cluster = Cluster::with_others(&stage.binary, &directory, 1, 3).await?;
    let nodes = &cluster.nodes;
    let client = Client::new(&cluster.addresses(), "default", &stage.seen)?;
    let signal_all = async |by: usize, number: u32| {
        for at in 0..WORKFLOWS {
            let id = format!("growth-{at}");
            let signal =
                async |_| client.signal(by, workflow(&id), "signal", number, Some(format!("{id}-{number}"))).await;
            client.insist(by, PATIENCE, signal).await?;
        }
        Ok::<_, Failure>(())
    };
    let result = async {
        nodes[0].set_alone(true)?;
        nodes[0].spawn().await?;
        nodes[0].wait_serving(SERVE_TIME_MAX).await?;
        for at in 0..WORKFLOWS {
            client.start(0, start_of(&format!("growth-{at}"), "nobody", &Program::Register)).await?;
        }
        signal_all(0, 1).await?;
        // Whether it was stopped or killed, and however often it is started.
        nodes[0].kill().await?;
        nodes[0].set_alone(false)?;
        for _ in 0..2 {
            nodes[0].spawn().await?;
            nodes[0].wait_serving(SERVE_TIME_MAX).await?;
            nodes[0].kill().await?;
        }
        nodes[0].spawn().await?;
        nodes[0].wait_serving(SERVE_TIME_MAX).await?;
        signal_all(0, 2).await?;
        cluster.add(1, 0).await?;
        cluster.add(2, 0).await?;
        cluster.until_settled(0, &[]).await?;
        nodes[0].kill().await?;
        signal_all(2, 3).await?;
        for at in 0..WORKFLOWS {
            let id = format!("growth-{at}");
            let events = client.insist(1, PATIENCE, async |_| client.history(1, workflow(&id)).await).await?;
            let told: Vec<_> = signals(&events).into_iter().map(|(number, _)| number).collect();
            ensure(told == [1, 2, 3], || format!("{id} has the signals {told:?}"))?;
        }
        nodes[0].spawn().await?;
        nodes[0].wait_serving(SERVE_TIME_MAX).await?;
        cluster.stop().await?;
        // Back to one is not what its settings can say.
        nodes[0].set_alone(true)?;
        nodes[0].spawn().await?;
        let said = nodes[0].wait_ended(END_TIME_MAX).await?;
        ensure(said.contains("belongs to cluster \"tests\""), || said.clone())
    };
    result.await.inspect_err(|_| say(&cluster.logs()))
}
