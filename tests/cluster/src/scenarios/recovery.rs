//! Most of the nodes are lost for ever, and those that are left become a cluster again.

use std::path::Path;
use std::time::Duration;

use super::{PATIENCE, Stage, start_of};
use crate::client::{Client, workflow};
use crate::failure::{Failure, ensure};
use crate::harness::{Cluster, SERVE_TIME_MAX};
use crate::program::{Program, signals};
use crate::say;

/// Enough that every partition has some.
const WORKFLOWS: usize = 24;
const FOUNDERS: usize = 3;
const NODES: usize = 5;
/// How long a process may take to be told that it is a member no more.
const END_TIME_MAX: Duration = Duration::from_secs(30);

/// What the node that is left has goes on with it, is on three nodes again once others have joined, and nothing of the lost ones is heard any more.
pub(crate) async fn one_is_left(stage: &Stage) -> Result<(), Failure> {
    let directory = stage.directory.join("recovery");
    let cluster = Cluster::with_others(&stage.binary, &directory, FOUNDERS, NODES).await?;
    let result = async {
        cluster.start().await?;
        let client = Client::new(&cluster.addresses(), "default", &stage.seen)?;
        for number in 0..WORKFLOWS {
            client.start(number % FOUNDERS, start_of(&id(number), "nobody", &Program::Register)).await?;
        }
        signal_all(&client, 1, &[0, 1, 2]).await?;
        for node in &cluster.nodes[..FOUNDERS] {
            cluster.until_caught_up(node.number() - 1, 0).await?;
        }
        for node in &cluster.nodes[..FOUNDERS] {
            node.kill().await?;
        }
        recover(&stage.binary, &cluster, &directory).await?;
        goes_on(&cluster, &client).await
    };
    result.await.inspect_err(|_| say(&cluster.logs()))
}

/// Nodes 2 and 3 are lost: node 1 is made a cluster of its own.
async fn recover(binary: &Path, cluster: &Cluster, directory: &Path) -> Result<(), Failure> {
    let data = cluster.nodes[0].data();
    let data = data.to_str().ok_or_else(|| Failure::new("a path that is no text"))?;
    let file = |name: &str| directory.join(name).display().to_string();
    let (collected, plan) = (file("node1.json"), file("plan.json"));
    let out = typed(binary, &["collect", "--data-dir", data]).await?;
    std::fs::write(&collected, &out)?;
    for (words, why) in [
        (vec!["plan", &collected, "--lost", "2", "--output", &plan], "node 3 is neither collected nor among --lost"),
        (vec!["plan", &collected, "--lost", "2,3,4", "--output", &plan], "the cluster has no node 4"),
        (vec!["collect", "--data-dir", "/nowhere"], "/nowhere is no data directory"),
        (vec!["plan", "/nowhere", "--lost", "2", "--output", &plan], "/nowhere: "),
    ] {
        refused(binary, &words, why).await?;
    }
    let shown = typed(binary, &["plan", &collected, "--lost", "2,3", "--output", &plan]).await?;
    let alone = shown.matches("GOES ON FROM NODE 1 ALONE").count();
    ensure(alone == 7 && shown.contains("Nodes 2, 3 are removed"), || shown.clone())?;
    refused(binary, &["plan", &collected, "--lost", "2,3", "--output", &plan], "File exists").await?;
    let apply = ["apply", "--data-dir", data, "--plan", &plan, "--confirm"];
    refused(binary, &[&apply[..], &["test"]].concat(), "is not the name of the cluster: \"tests\"").await?;
    let lost = cluster.nodes[1].data().display().to_string();
    let elsewhere = ["apply", "--data-dir", &lost, "--plan", &plan, "--confirm", "tests"];
    refused(binary, &elsewhere, "it was not collected").await?;
    let done = typed(binary, &[&apply[..], &["tests"]].concat()).await?;
    ensure(done.contains("the metadata go on from here"), || done.clone())?;
    let again = typed(binary, &[&apply[..], &["tests"]].concat()).await?;
    ensure(again.contains("recovered already"), || again.clone())
}

/// Three of five nodes are lost. Groups of which two replicas are left stay, others go on from the one that is left, and of one nothing is left. Nothing
/// is lost but that.
pub(crate) async fn two_are_left(stage: &Stage) -> Result<(), Failure> {
    const NODES: usize = 6;
    let directory = stage.directory.join("recovery-of-two");
    let cluster = Cluster::with_others(&stage.binary, &directory, NODES - 1, NODES).await?;
    let result = async {
        cluster.start().await?;
        let client = Client::new(&cluster.addresses(), "default", &stage.seen)?;
        for number in 0..WORKFLOWS {
            client.start(number % 5, start_of(&id(number), "nobody", &Program::Register)).await?;
        }
        signal_all(&client, 1, &[0, 1, 2, 3, 4]).await?;
        cluster.until_caught_up(0, 0).await?;
        cluster.until_caught_up(1, 0).await?;
        for node in &cluster.nodes[..NODES - 1] {
            node.kill().await?;
        }
        let file = |name: &str| directory.join(name).display().to_string();
        let data: Vec<_> = (0..2).map(|node| cluster.nodes[node].data().display().to_string()).collect();
        let (first, second, plan) = (file("node1.json"), file("node2.json"), file("plan.json"));
        std::fs::write(&first, typed(&stage.binary, &["collect", "--data-dir", &data[0]]).await?)?;
        std::fs::write(&second, typed(&stage.binary, &["collect", "--data-dir", &data[1]]).await?)?;
        let words = ["plan", &first, &second, "--lost", "3,4,5", "--output", &plan];
        refused(&stage.binary, &words, "nothing is left of group 2").await?;
        let shown = typed(&stage.binary, &[&words[..], &["--allow-empty"]].concat()).await?;
        let counts =
            ["stays, on nodes 1, 2", "GOES ON FROM NODE", "ALL OF IT IS LOST"].map(|what| shown.matches(what).count());
        ensure(counts == [4, 5, 2], || format!("{counts:?}\n{shown}"))?;
        for data in &data {
            typed(&stage.binary, &["apply", "--data-dir", data, "--plan", &plan, "--confirm", "tests"]).await?;
        }
        (2..5).for_each(|node| cluster.lose(node));
        cluster.start().await?;
        cluster.add(5, 0).await?;
        cluster.until_settled(0, &[]).await?;
        let mut lost = 0;
        for number in 0..WORKFLOWS {
            let (id, node) = (id(number), number % 2);
            let told = client
                .insist(node, PATIENCE, async |_| {
                    client.signal(node, workflow(&id), "signal", 2, Some(format!("{id}-2"))).await
                })
                .await;
            match told {
                Ok(()) => {
                    let events =
                        client.insist(node, PATIENCE, async |_| client.history(5, workflow(&id)).await).await?;
                    let told: Vec<_> = signals(&events).into_iter().map(|(number, _)| number).collect();
                    ensure(told == [1, 2], || format!("{id} has the signals {told:?}"))?;
                }
                Err(failure) if failure.to_string().contains("not found") => lost += 1,
                Err(failure) => return Err(failure),
            }
        }
        ensure((1..WORKFLOWS / 2).contains(&lost), || format!("{lost} workflows are lost"))?;
        // What was lost may be begun again.
        for number in 0..WORKFLOWS {
            let start = start_of(&format!("after-{number}"), "nobody", &Program::Register);
            client.insist(1, PATIENCE, async |_| client.start(1, start.clone()).await).await?;
        }
        cluster.stop().await
    };
    result.await.inspect_err(|_| say(&cluster.logs()))
}

async fn goes_on(cluster: &Cluster, client: &Client) -> Result<(), Failure> {
    cluster.lose(1);
    cluster.lose(2);
    let nodes = &cluster.nodes;
    nodes[0].spawn().await?;
    nodes[0].wait_serving(SERVE_TIME_MAX).await?;
    signal_all(client, 2, &[0]).await?;
    say("    a lost node comes back, and is told");
    nodes[1].spawn().await?;
    let said = nodes[1].wait_ended(END_TIME_MAX).await?;
    ensure(said.contains("the cluster was recovered without node 2"), || {
        format!("node 2 has ended without a word: {said}")
    })?;
    say("    two others join");
    cluster.add(3, 0).await?;
    cluster.add(4, 0).await?;
    cluster.until_settled(0, &[]).await?;
    signal_all(client, 3, &[0, 3, 4]).await?;
    nodes[0].kill().await?;
    signal_all(client, 4, &[3, 4]).await?;
    for number in 0..WORKFLOWS {
        let events =
            client.insist(3, PATIENCE, async |_| client.history(3 + number % 2, workflow(&id(number))).await).await?;
        let told: Vec<_> = signals(&events).into_iter().map(|(number, _)| number).collect();
        ensure(told == [1, 2, 3, 4], || format!("{} has the signals {told:?}", id(number)))?;
    }
    nodes[0].spawn().await?;
    nodes[0].wait_serving(SERVE_TIME_MAX).await?;
    cluster.stop().await
}

fn id(number: usize) -> String {
    format!("recovery-{number}")
}

/// Sends each workflow a signal with a number, by these nodes in turn.
async fn signal_all(client: &Client, signal: u32, by: &[usize]) -> Result<(), Failure> {
    for number in 0..WORKFLOWS {
        let (id, node) = (id(number), by[number % by.len()]);
        let request_id = format!("{id}-{signal}");
        let told = client.insist(node, PATIENCE, async |_| {
            client.signal(node, workflow(&id), "signal", signal, Some(request_id.clone())).await
        });
        told.await?;
    }
    Ok(())
}

async fn typed(binary: &Path, words: &[&str]) -> Result<String, Failure> {
    let command = run(binary, words).await?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    ensure(command.status.success(), || format!("{words:?}: {}", text(&command.stderr)))?;
    Ok(text(&command.stdout))
}

async fn refused(binary: &Path, words: &[&str], why: &str) -> Result<(), Failure> {
    let command = run(binary, words).await?;
    let said = String::from_utf8_lossy(&command.stderr).into_owned();
    let is_so = !command.status.success() && said.contains(why) && said.lines().count() == 1;
    ensure(is_so, || format!("{words:?}: {said}"))
}

async fn run(binary: &Path, words: &[&str]) -> Result<std::process::Output, Failure> {
    let command =
        tokio::process::Command::new(binary).args(["cluster", "recover"]).args(words).kill_on_drop(true).output();
    Ok(command.await?)
}
