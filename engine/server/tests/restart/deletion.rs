//! Workflows and namespaces that are deleted, over kills.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use everlog_kernel::{EntityKind, Limits, NamespaceId};
use everlog_model::rows::listed_under;
use everlog_model::{InForce, PerNamespace};
use everlog_proto::api::batch::v1::BatchOperationSignal;
use everlog_proto::api::operatorservice::v1::DeleteNamespaceRequest;
use everlog_proto::api::workflowservice::v1::start_batch_operation_request::Operation;
use everlog_proto::api::workflowservice::v1::{
    DeleteWorkflowExecutionRequest, DescribeNamespaceRequest, RegisterNamespaceRequest, StartBatchOperationRequest,
    StartWorkflowExecutionRequest,
};
use everlog_proto::clients::OperatorServiceClient;
use everlog_proto::wkt;
use everlog_server::node::{Node, Options};
use everlog_storage::keys::{KeyRange, visibility_range};
use everlog_storage::state::Direction;
use tonic::Code;
use tonic::transport::Channel;

use crate::harness::process::Process;
use crate::harness::requests::{NAMESPACE, describe, terminate};
use crate::harness::{Client, execution, start_request};

const DOOMED: &str = "doomed";

async fn delete(client: &mut Client, workflow_id: &str) -> Result<(), tonic::Status> {
    let request =
        DeleteWorkflowExecutionRequest { namespace: NAMESPACE.to_owned(), workflow_execution: execution(workflow_id) };
    client.delete_workflow_execution(request).await.map(|_| ())
}

#[tokio::test]
async fn a_workflow_that_was_deleted_is_not_there_after_a_kill() {
    let data = tempfile::tempdir().unwrap();
    let process = Process::dev(data.path()).await;
    let mut client = process.client().await;
    for workflow_id in ["open", "closed", "kept"] {
        client.start_workflow_execution(start_request(workflow_id)).await.unwrap();
    }
    client.terminate_workflow_execution(terminate("closed")).await.unwrap();
    delete(&mut client, "open").await.unwrap();
    delete(&mut client, "closed").await.unwrap();
    process.kill().await;

    let process = Process::dev(data.path()).await;
    let mut client = process.client().await;
    let closed = client.describe_workflow_execution(describe("closed")).await.unwrap_err();
    assert_eq!((closed.code(), closed.message()), (Code::NotFound, "workflow not found for ID: closed"));
    // Of the open one only the moment is left that it is kept for after its end.
    let begin = Instant::now();
    while client.describe_workflow_execution(describe("open")).await.is_ok() {
        assert!(begin.elapsed() < Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    client.describe_workflow_execution(describe("kept")).await.unwrap();
    process.stop().await;
}

/// How many runs and batch jobs of a namespace have rows.
async fn runs_left(data: &Path, namespace: NamespaceId) -> usize {
    let node = Node::start(Options {
        partitions: 1,
        limits: Arc::new(InForce::new(PerNamespace::new(Limits::default(), []))),
        cache_bytes_max: 16 << 20,
        tables_open_max: 100,
        ..Options::of_one(data.to_owned())
    })
    .await
    .unwrap();
    let lists = [namespace, listed_under(namespace, EntityKind::BatchJob)];
    let ranges = lists.map(|namespace| visibility_range(&namespace.0));
    let rows = |group: everlog_raft::Group| {
        let rows = |range: &KeyRange| group.scan(&range.start[..]..&range.end[..], Direction::Ascending, 10_000);
        ranges.iter().map(|range| rows(range).unwrap().len()).sum::<usize>()
    };
    let left = node.parts.router.partitions().all().iter().map(|partition| rows(partition.group())).sum();
    node.stop().await.unwrap();
    left
}

#[tokio::test]
async fn the_workflows_of_a_deleted_namespace_go_over_kills() {
    const RUNS: usize = 600;
    let data = tempfile::tempdir().unwrap();
    let process = Process::dev(data.path()).await;
    let mut client = process.client().await;
    let register = RegisterNamespaceRequest {
        namespace: DOOMED.to_owned(),
        workflow_execution_retention_period: Some(wkt::Duration { seconds: 86_400, nanos: 0 }),
        ..RegisterNamespaceRequest::default()
    };
    client.register_namespace(register).await.unwrap();
    client.start_workflow_execution(start_request("kept")).await.unwrap();
    let starts = (0..RUNS).map(|number| {
        let mut client = client.clone();
        let request =
            StartWorkflowExecutionRequest { namespace: DOOMED.to_owned(), ..start_request(&format!("w{number}")) };
        tokio::spawn(async move { client.start_workflow_execution(request).await.map(|_| ()) })
    });
    for start in starts.collect::<Vec<_>>() {
        start.await.unwrap().unwrap();
    }
    let describe_doomed =
        DescribeNamespaceRequest { namespace: DOOMED.to_owned(), ..DescribeNamespaceRequest::default() };
    let info = client.describe_namespace(describe_doomed.clone()).await.unwrap().into_inner().namespace_info.unwrap();
    let id: NamespaceId = info.id.parse().unwrap();
    let url = format!("http://{}", process.address("grpc"));
    let channel = Channel::from_shared(url).unwrap().connect().await.unwrap();
    // A batch job is in the middle of them, and goes with the namespace.
    let signal = BatchOperationSignal { signal: "s".to_owned(), ..BatchOperationSignal::default() };
    let job = StartBatchOperationRequest {
        namespace: DOOMED.to_owned(),
        job_id: "job".to_owned(),
        reason: "a test".to_owned(),
        visibility_query: "WorkflowId STARTS_WITH 'w'".to_owned(),
        operation: Some(Operation::SignalOperation(signal)),
        ..StartBatchOperationRequest::default()
    };
    client.start_batch_operation(job).await.unwrap();
    let request = DeleteNamespaceRequest { namespace: DOOMED.to_owned(), ..DeleteNamespaceRequest::default() };
    OperatorServiceClient::new(channel).delete_namespace(request).await.unwrap();
    process.kill().await;
    let mut left = runs_left(data.path(), id).await;
    assert!(left > 0, "the kill came too late to show anything");

    while left > 0 {
        println!("{left} runs are left");
        let process = Process::dev(data.path()).await;
        let mut client = process.client().await;
        let refused = client.describe_namespace(describe_doomed.clone()).await.unwrap_err();
        assert_eq!(refused.code(), Code::NotFound);
        client.describe_workflow_execution(describe("kept")).await.unwrap();
        tokio::time::sleep(Duration::from_millis(600)).await;
        process.kill().await;
        let now = runs_left(data.path(), id).await;
        assert!(now < left, "{now} runs are left, as before");
        left = now;
    }
}
