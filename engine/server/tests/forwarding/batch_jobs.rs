//! A batch job that lives at one node does the same to workflows of both.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use everlog_proto::api::batch::v1::BatchOperationSignal;
use everlog_proto::api::enums::v1::{BatchOperationState, EventType};
use everlog_proto::api::workflowservice::v1::start_batch_operation_request::Operation;
use everlog_proto::api::workflowservice::v1::{
    DescribeBatchOperationRequest, DescribeBatchOperationResponse, ListBatchOperationsRequest,
    StartBatchOperationRequest, StopBatchOperationRequest,
};
use tonic::Code;

use super::cluster::{Cluster, Fate, NAMESPACE};
use super::harness::Client;
use super::requests::{count_events, start};

const PATIENCE: Duration = Duration::from_secs(20);

async fn closed(client: &mut Client, job_id: &str) -> DescribeBatchOperationResponse {
    let begin = Instant::now();
    loop {
        let request = DescribeBatchOperationRequest { namespace: NAMESPACE.to_owned(), job_id: job_id.to_owned() };
        let job = client.describe_batch_operation(request).await.unwrap().into_inner();
        if job.close_time.is_some() {
            return job;
        }
        assert!(begin.elapsed() < PATIENCE, "{job:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_job_reaches_workflows_of_all_nodes_once() {
    let mut cluster = Cluster::start().await;
    let ids: Vec<String> = (0..10).map(|number| cluster.id_at(number % 2, &format!("batch-{number}"))).collect();
    for id in &ids {
        cluster.clients[0].start_workflow_execution(start(id)).await.unwrap();
    }
    // Some answers of the other node get lost, and nobody knows what was done.
    let lost = AtomicUsize::new(0);
    cluster.links.decide(move |_, method| {
        let is_lost = method == "SignalWorkflowExecution" && lost.fetch_add(1, Ordering::Relaxed) < 3;
        if is_lost { Fate::AnswerLost } else { Fate::Arrives }
    });
    let job_id = cluster.id_at(0, "job");
    let signal = BatchOperationSignal { signal: "s".to_owned(), ..BatchOperationSignal::default() };
    let request = || StartBatchOperationRequest {
        namespace: NAMESPACE.to_owned(),
        job_id: job_id.clone(),
        reason: "a test".to_owned(),
        visibility_query: "WorkflowId STARTS_WITH 'batch-'".to_owned(),
        operation: Some(Operation::SignalOperation(signal.clone())),
        ..StartBatchOperationRequest::default()
    };
    cluster.clients[1].start_batch_operation(request()).await.unwrap();
    let job = closed(&mut cluster.clients[1], &job_id).await;
    assert_eq!(job.state(), BatchOperationState::Completed);
    assert_eq!((job.total_operation_count, job.complete_operation_count), (10, 10));
    for id in &ids {
        let signals = count_events(&mut cluster.clients[0], id, EventType::WorkflowExecutionSignaled).await;
        assert_eq!(signals, 1, "{id}");
    }

    for client in &mut cluster.clients {
        let again = client.start_batch_operation(request()).await.unwrap_err();
        assert_eq!(again.code(), Code::AlreadyExists);
        let stop = StopBatchOperationRequest {
            namespace: NAMESPACE.to_owned(),
            job_id: job_id.clone(),
            reason: "enough".to_owned(),
            ..StopBatchOperationRequest::default()
        };
        let stopped = client.stop_batch_operation(stop).await.unwrap_err();
        assert_eq!(stopped.message(), "workflow execution already completed");
        let list = ListBatchOperationsRequest { namespace: NAMESPACE.to_owned(), ..Default::default() };
        assert_eq!(client.list_batch_operations(list).await.unwrap().into_inner().operation_info.len(), 1);
    }
    cluster.stop().await;
}
