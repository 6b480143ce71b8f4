//! Messages between workflows that are led by different nodes.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use everlog_proto::api::enums::v1::{EventType, ParentClosePolicy};

use super::cluster::{Cluster, Fate, NODES};
use super::harness::requests::{complete, signal_external, start_child};
use super::requests::{count_events, poll, respond, start, start_on, terminate, wait_for_event, workflow_poll};

/// Has a workflow send signals to others.
pub(crate) async fn send(cluster: &mut Cluster, source: &str, targets: &[&str]) {
    let queue = format!("queue-{source}");
    let client = &mut cluster.clients[0];
    client.start_workflow_execution(start_on(source, &queue)).await.unwrap();
    let task = poll(client, workflow_poll(&queue)).await;
    let signals = targets.iter().map(|target| signal_external(target, "greeting")).collect();
    client.respond_workflow_task_completed(respond(task.task_token, signals)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_to_a_workflow_at_the_other_node_counts_once() {
    let mut cluster = Cluster::start().await;
    for (from, to) in [(0, 1), (1, 0)] {
        let (source, target) = (cluster.id_at(from, "source"), cluster.id_at(to, "target"));
        let nobody = cluster.id_at(to, "nobody");
        cluster.clients[0].start_workflow_execution(start(&target)).await.unwrap();
        send(&mut cluster, &source, &[&target, &nobody]).await;
        let client = &mut cluster.clients[0];
        wait_for_event(client, &source, EventType::ExternalWorkflowExecutionSignaled).await;
        wait_for_event(client, &source, EventType::SignalExternalWorkflowExecutionFailed).await;
        assert_eq!(count_events(client, &target, EventType::WorkflowExecutionSignaled).await, 1);
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_whose_answers_are_lost_counts_once() {
    let mut cluster = Cluster::start().await;
    let (source, target) = (cluster.id_at(0, "source"), cluster.id_at(1, "target"));
    cluster.clients[0].start_workflow_execution(start(&target)).await.unwrap();
    let lost = AtomicUsize::new(0);
    cluster.links.decide(move |_, method| match method {
        "Deliver" if lost.fetch_add(1, Ordering::Relaxed) < 3 => Fate::AnswerLost,
        _ => Fate::Arrives,
    });
    send(&mut cluster, &source, &[&target]).await;
    let client = &mut cluster.clients[1];
    wait_for_event(client, &source, EventType::ExternalWorkflowExecutionSignaled).await;
    assert_eq!(count_events(client, &target, EventType::WorkflowExecutionSignaled).await, 1);
    assert_eq!(count_events(client, &source, EventType::ExternalWorkflowExecutionSignaled).await, 1);
    assert_eq!(cluster.links.calls(NODES[0], "Deliver"), 4);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_at_the_other_node_begins_and_ends_once() {
    let mut cluster = Cluster::start().await;
    let (parent, child) = (cluster.id_at(0, "parent"), cluster.id_at(1, "child"));
    let taken = cluster.id_at(1, "taken");
    let orphan = cluster.id_at(1, "orphan");
    let (lost, queue) = (AtomicUsize::new(0), format!("queue-{parent}"));
    cluster.links.decide(move |_, method| match method {
        // Every other answer.
        "Deliver" if lost.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) => Fate::AnswerLost,
        _ => Fate::Arrives,
    });
    let client = &mut cluster.clients[0];
    client.start_workflow_execution(start(&taken)).await.unwrap();
    client.start_workflow_execution(start_on(&parent, &queue)).await.unwrap();
    let task = poll(client, workflow_poll(&queue)).await;
    let children = [(&child, "children"), (&orphan, "orphans"), (&taken, "children")];
    let child_of = |(id, queue): (&String, &str)| start_child(id, queue, ParentClosePolicy::Terminate);
    let commands = children.into_iter().map(child_of).collect();
    client.respond_workflow_task_completed(respond(task.task_token, commands)).await.unwrap();
    wait_for_event(client, &parent, EventType::StartChildWorkflowExecutionFailed).await;

    let worker = &mut cluster.clients[1];
    let task = poll(worker, workflow_poll("children")).await;
    worker.respond_workflow_task_completed(respond(task.task_token, vec![complete("out")])).await.unwrap();
    wait_for_event(worker, &parent, EventType::ChildWorkflowExecutionCompleted).await;
    for (event, count) in [
        (EventType::ChildWorkflowExecutionStarted, 2),
        (EventType::ChildWorkflowExecutionCompleted, 1),
        (EventType::StartChildWorkflowExecutionFailed, 1),
    ] {
        assert_eq!(count_events(worker, &parent, event).await, count, "{event:?}");
    }
    worker.terminate_workflow_execution(terminate(&parent)).await.unwrap();
    wait_for_event(worker, &orphan, EventType::WorkflowExecutionTerminated).await;
    assert_eq!(count_events(worker, &child, EventType::WorkflowExecutionStarted).await, 1);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_waits_for_a_node_that_is_away() {
    let mut cluster = Cluster::start().await;
    let source = cluster.id_at(0, "source");
    let targets = ["first", "second"].map(|name| cluster.id_at(1, name));
    let here = cluster.id_at(0, "here");
    for target in targets.iter().chain([&here]) {
        cluster.clients[0].start_workflow_execution(start(target)).await.unwrap();
    }
    cluster.links.decide(|_, method| if method == "Deliver" { Fate::Refused } else { Fate::Arrives });
    send(&mut cluster, &source, &[&targets[0], &targets[1], &here]).await;
    let client = &mut cluster.clients[0];
    // The one that is not concerned does not wait.
    wait_for_event(client, &here, EventType::WorkflowExecutionSignaled).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    for target in &targets {
        assert_eq!(count_events(client, target, EventType::WorkflowExecutionSignaled).await, 0);
    }
    cluster.links.mend();
    for target in &targets {
        wait_for_event(client, target, EventType::WorkflowExecutionSignaled).await;
    }
    let told = async {
        while count_events(client, &source, EventType::ExternalWorkflowExecutionSignaled).await < 3 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), told).await.unwrap();
    for target in targets.iter().chain([&here]) {
        assert_eq!(count_events(client, target, EventType::WorkflowExecutionSignaled).await, 1);
    }
    cluster.stop().await;
}
