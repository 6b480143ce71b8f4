//! Calls of clients come to either node and are answered by the one that leads.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use everlog_proto::api::workflowservice::v1::{
    GetWorkflowExecutionHistoryRequest, SignalWorkflowExecutionRequest, StartWorkflowExecutionRequest,
    TerminateWorkflowExecutionRequest,
};
use tonic::Code;
use tonic::codec::CompressionEncoding;

use super::cluster::{Cluster, Fate, NAMESPACE, NODES};
use super::harness::{execution, within};
use super::requests::{count_events, describe, signal, start};

const START: &str = "StartWorkflowExecution";

#[tokio::test(flavor = "multi_thread")]
async fn every_node_answers_for_every_workflow() {
    let mut cluster = Cluster::start().await;
    let ids: Vec<String> = (0..20).map(|number| format!("workflow-{number}")).collect();
    let mut runs = HashMap::new();
    for (number, id) in ids.iter().enumerate() {
        let started = cluster.clients[number % 2].start_workflow_execution(start(id)).await.unwrap().into_inner();
        runs.insert(id.clone(), started.run_id);
    }
    let forwarded = cluster.links.calls(NODES[0], START) + cluster.links.calls(NODES[1], START);
    assert!(forwarded > 0 && forwarded < ids.len(), "{forwarded} of {} starts were forwarded", ids.len());
    // SDKs that are built on the Rust core compress.
    let mut compressing = cluster.clients[0].clone().send_compressed(CompressionEncoding::Gzip);
    for id in &ids {
        let signal = SignalWorkflowExecutionRequest { signal_name: "signal".repeat(100), ..signal(id, "") };
        compressing.signal_workflow_execution(signal).await.unwrap();
        for client in &mut cluster.clients {
            let described = client.describe_workflow_execution(describe(id)).await.unwrap().into_inner();
            let execution = described.workflow_execution_info.unwrap().execution.unwrap();
            assert_eq!(execution.run_id, runs[id]);
            let history = GetWorkflowExecutionHistoryRequest {
                namespace: NAMESPACE.to_owned(),
                execution: Some(execution),
                ..GetWorkflowExecutionHistoryRequest::default()
            };
            let history = client.get_workflow_execution_history(history).await.unwrap().into_inner();
            assert_eq!(history.history.unwrap().events.len(), 3);
        }
    }
    // A refusal comes back as it would from here.
    for client in &mut cluster.clients {
        for id in ["nothing-1", "nothing-2", "nothing-3", "nothing-4"] {
            let refused = client.describe_workflow_execution(describe(id)).await.unwrap_err();
            assert_eq!(
                (refused.code(), refused.message()),
                (Code::NotFound, format!("workflow not found for ID: {id}").as_str())
            );
        }
    }
    for id in &ids {
        let terminate = TerminateWorkflowExecutionRequest {
            namespace: NAMESPACE.to_owned(),
            workflow_execution: execution(id),
            ..TerminateWorkflowExecutionRequest::default()
        };
        cluster.clients[1].terminate_workflow_execution(terminate).await.unwrap();
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_not_sent_on_by_the_node_that_it_was_sent_to() {
    // Each takes the other for the leader of everything.
    let [first, second] = NODES;
    let mut cluster = Cluster::with_views([[second; 2], [first; 2]]).await;
    let began = Instant::now();
    let patience = Duration::from_secs(3);
    let request = within(patience, start("w"));
    let refused = cluster.clients[0].start_workflow_execution(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
    assert!(began.elapsed() < patience, "before the caller gives up");
    // What only nodes tell each other stays among them.
    assert!(refused.metadata().get("everlog-not-done").is_none(), "{refused:?}");
    let tries = cluster.links.calls(first, START);
    assert!((3..100).contains(&tries), "{tries} tries");
    assert_eq!(cluster.links.calls(second, START), 0);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_waits_for_the_view_to_change() {
    let mut cluster = Cluster::start().await;
    let id = cluster.id_at(0, "w");
    // The first node does not know yet that it leads.
    cluster.views[0].change([NODES[1]; 2]);
    let mut client = cluster.clients[0].clone();
    let request = start(&id);
    let started = tokio::spawn(async move { client.start_workflow_execution(request).await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!started.is_finished());
    assert!(cluster.links.calls(NODES[0], START) > 2);
    cluster.views[0].change(NODES);
    let started = started.await.unwrap().unwrap().into_inner();
    let described = cluster.clients[1].describe_workflow_execution(describe(&id)).await.unwrap().into_inner();
    assert_eq!(described.workflow_execution_info.unwrap().execution.unwrap().run_id, started.run_id);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_done_once_however_often_it_is_made() {
    let mut cluster = Cluster::start().await;
    let (id, signalled) = (cluster.id_at(1, "w"), "SignalWorkflowExecution");
    // Its answers are lost for a while: it was done the first time.
    lose_answers(&cluster);
    let mut client = cluster.clients[0].clone();
    let request = StartWorkflowExecutionRequest { request_id: String::new(), ..start(&id) };
    let held = tokio::spawn(async move { client.start_workflow_execution(request).await });
    mend_after_tries(&cluster, START).await;
    held.await.unwrap().unwrap();
    lose_answers(&cluster);
    let mut client = cluster.clients[0].clone();
    let request = signal(&id, "");
    let held = tokio::spawn(async move { client.signal_workflow_execution(request).await });
    mend_after_tries(&cluster, signalled).await;
    held.await.unwrap().unwrap();
    // The node is away for a moment.
    cluster.links.decide(|_, _| Fate::Refused);
    let mut client = cluster.clients[0].clone();
    let request = signal(&id, "");
    let held = tokio::spawn(async move { client.signal_workflow_execution(request).await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    cluster.links.mend();
    held.await.unwrap().unwrap();
    // Another node's word is not a client's.
    let mut named = tonic::Request::new(signal(&id, ""));
    named.metadata_mut().insert("everlog-operation", "00000000000000000000000000000001".parse().unwrap());
    for _ in 0..2 {
        let again = clone_of(&named);
        cluster.clients[0].signal_workflow_execution(again).await.unwrap();
    }
    let signals = everlog_proto::api::enums::v1::EventType::WorkflowExecutionSignaled;
    assert_eq!(count_events(&mut cluster.clients[1], &id, signals).await, 4);
    // One that is too late would be refused, had the first been forgotten.
    lose_answers(&cluster);
    let mut client = cluster.clients[0].clone();
    let request = TerminateWorkflowExecutionRequest {
        namespace: NAMESPACE.to_owned(),
        workflow_execution: execution(&id),
        ..TerminateWorkflowExecutionRequest::default()
    };
    let held = tokio::spawn(async move { client.terminate_workflow_execution(request).await });
    mend_after_tries(&cluster, "TerminateWorkflowExecution").await;
    held.await.unwrap().unwrap();
    cluster.stop().await;
}

/// Calls arrive from now on, and what they came to is not heard of.
fn lose_answers(cluster: &Cluster) {
    cluster.links.decide(|_, _| Fate::AnswerLost);
}

/// Mends the links once a call was made several times.
async fn mend_after_tries(cluster: &Cluster, method: &str) {
    let before = cluster.links.calls(NODES[0], method);
    let until = Instant::now() + Duration::from_secs(5);
    while cluster.links.calls(NODES[0], method) < before + 3 {
        assert!(Instant::now() < until, "{method} is not made again");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    cluster.links.mend();
}

fn clone_of<T: Clone>(request: &tonic::Request<T>) -> tonic::Request<T> {
    tonic::Request::from_parts(request.metadata().clone(), tonic::Extensions::new(), request.get_ref().clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_a_partition_did_not_take_is_made_again() {
    let mut cluster = Cluster::start().await;
    let id = cluster.id_at(1, "w");
    // The node is taken for the leader, also by itself.
    let partition = cluster.servers[1].node.parts.router.partitions().all()[0].clone();
    partition.stop().await;
    for client in &mut cluster.clients {
        let refused = client.start_workflow_execution(within(Duration::from_secs(2), start(&id))).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
        assert!(refused.metadata().get("everlog-not-done").is_none(), "{refused:?}");
    }
    let tries = cluster.links.calls(NODES[0], START);
    assert!((3..100).contains(&tries), "{tries} tries");
    cluster.stop().await;
}
