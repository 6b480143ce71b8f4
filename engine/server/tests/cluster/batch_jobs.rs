//! Batch jobs go on when a node dies.

use std::time::{Duration, Instant};

use everlog_proto::api::batch::v1::BatchOperationSignal;
use everlog_proto::api::enums::v1::BatchOperationState;
use everlog_proto::api::history::v1::history_event::Attributes;
use everlog_proto::api::workflowservice::v1::start_batch_operation_request::Operation;
use everlog_proto::api::workflowservice::v1::{DescribeBatchOperationRequest, StartBatchOperationRequest};
use futures::future::join_all;

use super::harness::requests::{NAMESPACE, history};
use super::harness::{Client, start_request};
use super::{PATIENCE, Running, addresses, is_spread, leads, settings};

/// So many that each node leads some of them.
const JOBS: usize = 12;

/// At ten at once and ten a second then, a job takes three seconds.
const WORKFLOWS: usize = 40;
const A_SECOND: f32 = 10.0;

fn job(number: usize) -> StartBatchOperationRequest {
    let signal = BatchOperationSignal { signal: format!("of-{number}"), ..BatchOperationSignal::default() };
    StartBatchOperationRequest {
        namespace: NAMESPACE.to_owned(),
        job_id: format!("job-{number}"),
        reason: "a test".to_owned(),
        visibility_query: "WorkflowId STARTS_WITH 'w-'".to_owned(),
        max_operations_per_second: A_SECOND,
        operation: Some(Operation::SignalOperation(signal)),
        ..StartBatchOperationRequest::default()
    }
}

/// The names of the signals that a workflow has had, sorted.
async fn signals(mut client: Client, workflow_id: String) -> Vec<String> {
    let answer = client.get_workflow_execution_history(history(&workflow_id, Vec::new())).await.unwrap().into_inner();
    let signals = answer.history.unwrap().events.into_iter().filter_map(|event| match event.attributes {
        Some(Attributes::WorkflowExecutionSignaledEventAttributes(signaled)) => Some(signaled.signal_name),
        _ => None,
    });
    let mut signals: Vec<_> = signals.collect();
    signals.sort_unstable();
    signals
}

#[tokio::test(flavor = "multi_thread")]
async fn batch_jobs_go_on_when_a_node_dies() {
    let dir = tempfile::tempdir().unwrap();
    let addresses = addresses();
    let start = |node| {
        let path = settings(dir.path(), node, &addresses, None);
        let text = std::fs::read_to_string(&path).unwrap();
        let running_max = format!("[dynamic_config]\n\"frontend.MaxConcurrentBatchOperationPerNamespace\" = {JOBS}\n");
        std::fs::write(&path, text + &running_max).unwrap();
        Running::start(&path)
    };
    let (first, mut second, _third) = (start(1), start(2), start(3));
    first.sees(|status| is_spread(status) && leads(status, 2) > 0 && leads(status, 3) > 0).await;
    let client = first.client().await;
    join_all((0..WORKFLOWS).map(|number| {
        let mut client = client.clone();
        async move { client.start_workflow_execution(start_request(&format!("w-{number}"))).await.unwrap() }
    }))
    .await;
    join_all((0..JOBS).map(|number| {
        let mut client = client.clone();
        async move { client.start_batch_operation(job(number)).await.unwrap() }
    }))
    .await;
    let begin = Instant::now();
    while signals(client.clone(), "w-0".to_owned()).await.is_empty() {
        assert!(begin.elapsed() < PATIENCE);
    }
    second.child.kill().unwrap();
    second.child.wait().unwrap();

    let mut expected: Vec<String> = (0..JOBS).map(|number| format!("of-{number}")).collect();
    expected.sort_unstable();
    for number in 0..JOBS {
        let begin = Instant::now();
        let job = loop {
            let request =
                DescribeBatchOperationRequest { namespace: NAMESPACE.to_owned(), job_id: format!("job-{number}") };
            let job = client.clone().describe_batch_operation(request).await.unwrap().into_inner();
            if job.close_time.is_some() {
                break job;
            }
            assert!(begin.elapsed() < PATIENCE, "{job:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        let counts = (job.total_operation_count, job.complete_operation_count, job.failure_operation_count);
        let all = WORKFLOWS as i64;
        assert_eq!((job.state(), counts), (BatchOperationState::Completed, (all, all, 0)), "{}", job.job_id);
    }
    let had = join_all((0..WORKFLOWS).map(|number| signals(client.clone(), format!("w-{number}")))).await;
    for (number, had) in had.into_iter().enumerate() {
        assert_eq!(had, expected, "w-{number} has had each signal once");
    }
}
