//! Nodes that die, one or two of three, and one whose disk is new.

use std::time::Duration;

use everlog_proto::api::enums::v1::EventType;
use tokio::time::Instant;
use tonic::{Code, Status};

use super::{PATIENCE, Stage, start_of, until_closed};
use crate::client::{Client, workflow};
use crate::failure::{Failure, ensure};
use crate::harness::SERVE_TIME_MAX;
use crate::program::Program;
use crate::worker::Workers;

/// Enough that every partition has some.
const WORKFLOWS: usize = 24;
/// The deadline of calls that cannot be answered, and how much later the refusal may come.
const DEADLINE: Duration = Duration::from_secs(4);
const LATE_MAX: Duration = Duration::from_millis(500);
/// How long a leader that is cut off may go on reading, at the very most.
const LEASE_TIME_MAX: Duration = Duration::from_secs(1);

/// Each node in turn is killed while workflows are in progress. All complete, and every write from before is there.
pub(crate) async fn kills(stage: &Stage) -> Result<(), Failure> {
    let client = stage.client("default")?;
    let workers = Workers::start(&client, &Stage::recorder(), "kills", &[0, 1, 2], 2);
    for (victim, node) in stage.cluster.nodes.iter().enumerate() {
        let mut runs = Vec::new();
        for number in 0..WORKFLOWS {
            let id = format!("kill-{}-{number}", victim + 1);
            let run = client.start(number % 3, start_of(&id, "kills", &Program::Pipeline { signals: 1 })).await?;
            runs.push((id, run.run_id));
        }
        node.kill().await?;
        let ends = runs.iter().enumerate().map(|(number, (id, run_id))| {
            let (client, alive) = (&client, (victim + 1 + number % 2) % 3);
            async move {
                let request_id = format!("{id}-signal");
                let signal = client.insist(alive, PATIENCE, async |node| {
                    client.signal(node, workflow(id), "signal", 1, Some(request_id.clone())).await
                });
                signal.await?;
                let last = until_closed(client, alive, id, run_id).await?;
                ensure(last == EventType::WorkflowExecutionCompleted, || format!("{id} has ended with {last:?}"))
            }
        });
        futures::future::try_join_all(ends).await?;
        node.spawn().await?;
        node.wait_serving(SERVE_TIME_MAX).await?;
        // The node that was away shows what it missed.
        for (id, run_id) in &runs {
            let described = client.insist(victim, PATIENCE, async |_| client.describe(victim, workflow(id)).await);
            let described = described.await?;
            ensure(described.0 == *run_id && described.1.as_str_name().ends_with("COMPLETED"), || {
                format!("{id} is {described:?} at the node that was killed")
            })?;
        }
    }
    let mut done = workers.done.lock();
    let twice: Vec<_> = done.handed_out.iter().filter(|((.., id), count)| id == "once" && **count > 1).collect();
    ensure(twice.is_empty(), || format!("activities with one attempt were handed out twice: {twice:?}"))?;
    let wrong = std::mem::take(&mut done.wrong);
    ensure(wrong.is_empty(), || wrong.join("\n"))
}

/// With two of three nodes dead, calls are refused as UNAVAILABLE before their deadline, and go on once one is back.
pub(crate) async fn quorum(stage: &Stage) -> Result<(), Failure> {
    let client = stage.client("default")?;
    let nodes = &stage.cluster.nodes;
    for number in 0..WORKFLOWS {
        client.start(number % 3, start_of(&format!("quorum-{number}"), "nobody", &Program::Register)).await?;
    }
    nodes[1].kill().await?;
    nodes[2].kill().await?;
    // A leader may read for a moment more without asking the others.
    tokio::time::sleep(LEASE_TIME_MAX).await;
    let calls = (0..WORKFLOWS).map(|number| refused(&client, number));
    futures::future::try_join_all(calls).await?;
    nodes[1].spawn().await?;
    nodes[1].wait_serving(SERVE_TIME_MAX).await?;
    for number in 0..WORKFLOWS {
        let id = format!("quorum-{number}");
        let request_id = format!("{id}-late");
        let signal = client.insist(number % 2, PATIENCE, async |node| {
            client.signal(node % 2, workflow(&id), "signal", 2, Some(request_id.clone())).await
        });
        signal.await?;
        let events = client.insist(0, PATIENCE, async |node| client.history(node % 2, workflow(&id)).await).await?;
        let signals = crate::program::signals(&events);
        let late = signals.iter().filter(|(number, _)| *number == 2).count();
        ensure(late == 1 && signals.len() <= 2, || format!("{id} has the signals {signals:?}"))?;
    }
    nodes[2].spawn().await?;
    nodes[2].wait_serving(SERVE_TIME_MAX).await
}

async fn refused(client: &Client, number: usize) -> Result<(), Failure> {
    let id = format!("quorum-{number}");
    let began = Instant::now();
    let status: Result<(), Status> = match number % 4 {
        0 => {
            let request = everlog_proto::api::workflowservice::v1::SignalWorkflowExecutionRequest {
                namespace: client.namespace.clone(),
                workflow_execution: Some(workflow(&id)),
                signal_name: "signal".to_owned(),
                input: Some(crate::client::payloads(&1)),
                ..Default::default()
            };
            let told = client.call(0, "SignalWorkflowExecution", request, DEADLINE, async |stub, request| {
                stub.signal_workflow_execution(request).await
            });
            told.await.map(drop)
        }
        1 => {
            let mut request = start_of(&format!("{id}-new"), "nobody", &Program::Register);
            request.namespace.clone_from(&client.namespace);
            let told = client.call(0, "StartWorkflowExecution", request, DEADLINE, async |stub, request| {
                stub.start_workflow_execution(request).await
            });
            told.await.map(drop)
        }
        2 => {
            let request = everlog_proto::api::workflowservice::v1::DescribeWorkflowExecutionRequest {
                namespace: client.namespace.clone(),
                execution: Some(workflow(&id)),
            };
            let told = client.call(0, "DescribeWorkflowExecution", request, DEADLINE, async |stub, request| {
                stub.describe_workflow_execution(request).await
            });
            told.await.map(drop)
        }
        _ => {
            let request = everlog_proto::api::workflowservice::v1::ListWorkflowExecutionsRequest {
                namespace: client.namespace.clone(),
                query: format!("WorkflowId = '{id}'"),
                ..Default::default()
            };
            let told = client.call(0, "ListWorkflowExecutions", request, DEADLINE, async |stub, request| {
                stub.list_workflow_executions(request).await
            });
            told.await.map(drop)
        }
    };
    let what = ["a signal", "a start", "a describe", "a list"][number % 4];
    let took = began.elapsed();
    match status {
        Err(status) if status.code() == Code::Unavailable && took <= DEADLINE + LATE_MAX => Ok(()),
        other => Err(Failure(format!("without a quorum, after {took:?}, {what} is told {other:?}"))),
    }
}

/// A node whose data directory is new is not taken for the one that was there, and the others go on without it.
pub(crate) async fn wiped(stage: &Stage) -> Result<(), Failure> {
    let node = &stage.cluster.nodes[2];
    node.stop().await?;
    let kept = node.data().with_extension("kept");
    std::fs::rename(node.data(), &kept)?;
    node.spawn().await?;
    let until = Instant::now() + PATIENCE;
    let is_refused =
        |text: &str| text.contains("without this data directory") || text.contains("is another data directory");
    while !is_refused(&node.printed()?) {
        ensure(Instant::now() < until, || "a new disk is not told that it is none of the cluster's".to_owned())?;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let serves = node.wait_serving(Duration::from_secs(2)).await;
    ensure(serves.is_err(), || "a node with a new disk serves".to_owned())?;
    let client = stage.client("default")?;
    for number in 0..WORKFLOWS {
        let request = start_of(&format!("wiped-{number}"), "nobody", &Program::Register);
        client.insist(0, PATIENCE, async |at| client.start(at % 2, request.clone()).await).await?;
    }
    node.kill().await?;
    std::fs::remove_dir_all(node.data())?;
    std::fs::rename(&kept, node.data())?;
    node.spawn().await?;
    node.wait_serving(SERVE_TIME_MAX).await
}
