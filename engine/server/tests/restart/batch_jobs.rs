//! Batch jobs over kills.

use std::time::{Duration, Instant};

use everlog_proto::api::batch::v1::{BatchOperationReset, BatchOperationSignal, BatchOperationTermination};
use everlog_proto::api::common::v1::ResetOptions;
use everlog_proto::api::common::v1::reset_options::Target;
use everlog_proto::api::enums::v1::BatchOperationState as State;
use everlog_proto::api::history::v1::history_event::Attributes;
use everlog_proto::api::workflowservice::v1::start_batch_operation_request::Operation;
use everlog_proto::api::workflowservice::v1::{
    CountWorkflowExecutionsRequest, DescribeBatchOperationRequest, DescribeBatchOperationResponse,
    ListBatchOperationsRequest, StartBatchOperationRequest, StopBatchOperationRequest,
};
use futures::future::join_all;
use tonic::Code;

use super::{LONG, events};
use crate::harness::process::{ANY_PORTS, Process, everlog};
use crate::harness::requests::{NAMESPACE, signal};
use crate::harness::{Client, start_request};

/// A job takes on 50 workflows at once and 50 a second then, so that this many keep it busy for three seconds.
const WORKFLOWS: usize = 200;

fn job(job_id: &str, operation: Operation) -> StartBatchOperationRequest {
    StartBatchOperationRequest {
        namespace: NAMESPACE.to_owned(),
        job_id: job_id.to_owned(),
        reason: "a test".to_owned(),
        visibility_query: "WorkflowId STARTS_WITH 'w-'".to_owned(),
        operation: Some(operation),
        ..StartBatchOperationRequest::default()
    }
}

async fn start_workflows(client: &Client, workflows: usize) {
    let starts = (0..workflows).map(|number| {
        let mut client = client.clone();
        async move { client.start_workflow_execution(start_request(&format!("w-{number}"))).await.unwrap() }
    });
    join_all(starts).await;
}

async fn described(client: &mut Client, job_id: &str) -> DescribeBatchOperationResponse {
    let (namespace, job_id) = (NAMESPACE.to_owned(), job_id.to_owned());
    client.describe_batch_operation(DescribeBatchOperationRequest { namespace, job_id }).await.unwrap().into_inner()
}

/// State and counts of a job, once it is closed.
async fn closed(client: &mut Client, job_id: &str) -> (State, [i64; 3]) {
    let begin = Instant::now();
    loop {
        let job = described(client, job_id).await;
        if job.close_time.is_some() {
            let counts = [job.total_operation_count, job.complete_operation_count, job.failure_operation_count];
            return (job.state(), counts);
        }
        assert!(begin.elapsed() < LONG, "{job:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// How many workflows have an event.
async fn having(client: &Client, is_it: impl Fn(&Attributes) -> bool) -> [usize; 2] {
    let histories = (0..WORKFLOWS).map(|number| {
        let mut client = client.clone();
        async move { events(&mut client, &format!("w-{number}")).await }
    });
    let histories = join_all(histories).await;
    let times = |events: &Vec<_>| {
        let attributes = |event: &everlog_proto::api::history::v1::HistoryEvent| event.attributes.clone();
        events.iter().filter_map(attributes).filter(|attributes| is_it(attributes)).count()
    };
    let times: Vec<usize> = histories.iter().map(times).collect();
    [times.iter().filter(|times| **times > 0).count(), times.iter().sum()]
}

#[tokio::test]
async fn a_batch_job_that_is_killed_is_done_once_and_counted_right() {
    let data = tempfile::tempdir().unwrap();
    let mut process = Process::dev(data.path()).await;
    let client = process.client().await;
    start_workflows(&client, WORKFLOWS).await;

    let is_signal =
        |attributes: &Attributes| matches!(attributes, Attributes::WorkflowExecutionSignaledEventAttributes(_));
    let is_end =
        |attributes: &Attributes| matches!(attributes, Attributes::WorkflowExecutionTerminatedEventAttributes(_));
    let signal = BatchOperationSignal { signal: "s".to_owned(), ..BatchOperationSignal::default() };
    let signal = Operation::SignalOperation(signal);
    let terminate = Operation::TerminationOperation(BatchOperationTermination::default());
    // Signals show what is done twice, terminations what is not found again.
    for (job_id, operation) in [("signals", signal), ("ends", terminate)] {
        let is_it =
            |attributes: &Attributes| if job_id == "signals" { is_signal(attributes) } else { is_end(attributes) };
        let mut client = process.client().await;
        client.start_batch_operation(job(job_id, operation)).await.unwrap();
        for _ in 0..2 {
            // The first of them are done at once; the last are not.
            let begin = Instant::now();
            while having(&client, is_it).await[0] < 10 {
                assert!(begin.elapsed() < LONG);
            }
            process.kill().await;
            process = Process::dev(data.path()).await;
            client = process.client().await;
            let running = described(&mut client, job_id).await;
            assert_eq!(
                (running.state(), running.complete_operation_count),
                (State::Running, 0),
                "it was in the middle"
            );
        }
        let all = WORKFLOWS as i64;
        assert_eq!(closed(&mut client, job_id).await, (State::Completed, [all, all, 0]));
        assert_eq!(having(&client, is_it).await, [WORKFLOWS, WORKFLOWS]);
    }

    process.kill().await;
    process = Process::dev(data.path()).await;
    let mut client = process.client().await;
    let list = ListBatchOperationsRequest { namespace: NAMESPACE.to_owned(), ..ListBatchOperationsRequest::default() };
    let listed = client.list_batch_operations(list).await.unwrap().into_inner().operation_info;
    let listed: Vec<_> = listed.iter().map(|info| (&*info.job_id, info.state())).collect();
    assert_eq!(listed, [("ends", State::Completed), ("signals", State::Completed)]);
    let signal = Operation::SignalOperation(BatchOperationSignal { signal: "s".to_owned(), ..Default::default() });
    let again = client.start_batch_operation(job("signals", signal)).await.unwrap_err();
    assert_eq!(again.code(), Code::AlreadyExists);
    process.stop().await;
}

/// How many runs match a query.
async fn count(client: &mut Client, query: &str) -> i64 {
    let request = CountWorkflowExecutionsRequest { namespace: NAMESPACE.to_owned(), query: query.to_owned() };
    client.count_workflow_executions(request).await.unwrap().into_inner().count
}

/// Workflows that can be reset though no worker has ever had a task of them: there is an event behind the first task's scheduling.
async fn start_and_signal(client: &Client, workflows: usize) {
    start_workflows(client, workflows).await;
    let signals = (0..workflows).map(|number| {
        let mut client = client.clone();
        async move { client.signal_workflow_execution(signal(&format!("w-{number}"), "first")).await.unwrap() }
    });
    join_all(signals).await;
}

fn reset() -> Operation {
    let options = ResetOptions { target: Some(Target::LastWorkflowTask(())), ..ResetOptions::default() };
    Operation::ResetOperation(BatchOperationReset { options: Some(options), ..BatchOperationReset::default() })
}

#[tokio::test]
async fn resets_of_a_batch_job_that_is_killed_are_done_once() {
    let data = tempfile::tempdir().unwrap();
    let mut process = Process::dev(data.path()).await;
    let mut client = process.client().await;
    start_and_signal(&client, WORKFLOWS).await;
    client.start_batch_operation(job("resets", reset())).await.unwrap();
    let begin = Instant::now();
    while count(&mut client, "ExecutionStatus = 'Terminated'").await < 10 {
        assert!(begin.elapsed() < LONG);
    }
    process.kill().await;
    process = Process::dev(data.path()).await;
    client = process.client().await;
    assert_eq!(described(&mut client, "resets").await.state(), State::Running, "it was in the middle");
    let all = WORKFLOWS as i64;
    assert_eq!(closed(&mut client, "resets").await, (State::Completed, [all, all, 0]));
    assert_eq!(count(&mut client, "ExecutionStatus = 'Running'").await, all);
    assert_eq!(count(&mut client, "").await, 2 * all, "each was reset once");
    process.stop().await;
}

/// The runs that it ends stand further down in the list that it goes through.
#[tokio::test]
async fn a_batch_job_does_not_reset_what_it_has_reset() {
    const MORE_THAN_A_PAGE: usize = 1100;
    let data = tempfile::tempdir().unwrap();
    let mut command = everlog();
    command.arg("dev").args(ANY_PORTS).arg("--data-dir").arg(data.path());
    command.args(["--dynamic-config-value", "worker.batcherRPS=100000"]);
    command.args(["--dynamic-config-value", "worker.batcherConcurrency=50"]);
    let process = Process::start(command).await;
    let mut client = process.client().await;
    start_and_signal(&client, MORE_THAN_A_PAGE).await;
    client.start_batch_operation(job("resets", reset())).await.unwrap();
    let all = MORE_THAN_A_PAGE as i64;
    assert_eq!(closed(&mut client, "resets").await, (State::Completed, [all, all, 0]));
    assert_eq!(count(&mut client, "").await, 2 * all);
    process.stop().await;
}

#[tokio::test]
async fn a_batch_job_that_was_stopped_stays_so_after_a_kill() {
    let data = tempfile::tempdir().unwrap();
    let mut process = Process::dev(data.path()).await;
    let mut client = process.client().await;
    start_workflows(&client, WORKFLOWS).await;
    let terminate = || Operation::TerminationOperation(BatchOperationTermination::default());
    client.start_batch_operation(job("ends", terminate())).await.unwrap();
    let other = client.start_batch_operation(job("other", terminate())).await.unwrap_err();
    assert_eq!(
        (other.code(), other.message()),
        (Code::ResourceExhausted, "Max concurrent batch operations is reached")
    );
    let stop = StopBatchOperationRequest {
        namespace: NAMESPACE.to_owned(),
        job_id: "ends".to_owned(),
        reason: "enough".to_owned(),
        ..StopBatchOperationRequest::default()
    };
    client.stop_batch_operation(stop).await.unwrap();
    assert_eq!(described(&mut client, "ends").await.state(), State::Failed);
    process.kill().await;

    process = Process::dev(data.path()).await;
    let client = process.client().await;
    let is_end =
        |attributes: &Attributes| matches!(attributes, Attributes::WorkflowExecutionTerminatedEventAttributes(_));
    let [ended, _] = having(&client, is_end).await;
    assert!(ended < WORKFLOWS, "it was stopped in the middle");
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(having(&client, is_end).await[0], ended, "nobody works on it any more");
    process.stop().await;
}
