//! A partition that fails on a command goes on without it; one with rows that cannot be read does not go on.

#![allow(clippy::unwrap_used)] // a test fails by panicking, also in its helpers

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use everlog_kernel::transition::{TaskKind, TaskPosition};
use everlog_kernel::{Command, Lane, Limits, Rejection, Reply, RowKey, RunId, RunRow, RunRowKind, Time};
use everlog_matching::{Poll, ScalingRules};
use everlog_meta::NewNamespace;
use everlog_model::{CallError, QueueId, WorkflowRef, rows};
use everlog_partition::{Partition, Status};
use everlog_proto::api::common::v1::WorkflowType;
use everlog_proto::api::taskqueue::v1::TaskQueue;
use everlog_proto::api::workflowservice::v1::StartWorkflowExecutionRequest;
use everlog_server::node::{Node, Options};
use everlog_storage::state::{RowBatch, StateEngine};
use everlog_storage::{GroupId, RocksState, StateOptions};

async fn start(path: &Path) -> Node {
    let options =
        Options { partitions: 1, cache_bytes_max: 1 << 20, tables_open_max: 100, ..Options::of_one(path.to_owned()) };
    Node::start(options).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_costs_the_command_that_did_it_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let node = start(directory.path()).await;
    let new = NewNamespace { name: "n".to_owned(), retention: Duration::from_secs(60), ..NewNamespace::default() };
    let namespace = Arc::clone(&node.parts.namespaces.register(new).await.unwrap().namespace);
    let workflow = |id: &str| WorkflowRef { namespace: Arc::clone(&namespace), workflow_id: id.into() };
    let partition = node.parts.router.partition_of(&workflow("w")).unwrap().clone();

    let poison: Result<(), CallError> = partition.inspect(workflow("w"), None, |_, _| panic!("poison")).await;
    assert!(matches!(poison, Err(CallError::Failed(_))), "{poison:?}");
    // The partition leads anew, and others are served; those who come too early wait.
    let other = partition.inspect(workflow("other"), None, |_, _| Ok(1)).await;
    assert!(matches!(other, Ok(1)), "{other:?}");
    assert_eq!(*partition.status().borrow(), Status::Serving);
    // What did it is refused for a while.
    let again: Result<i32, CallError> = partition.inspect(workflow("w"), None, |_, _| Ok(1)).await;
    assert!(matches!(again, Err(CallError::Failed(_))), "{again:?}");
    let missing: Result<i32, CallError> =
        partition.inspect(workflow("x"), None, |_, _| Err(Rejection::workflow_not_found())).await;
    assert!(matches!(missing, Err(CallError::Rejected(_))), "{missing:?}");
    node.stop().await.unwrap();
}

/// Puts rows on the disk of a node that has stopped, once nobody has them open any more.
async fn put(path: &Path, rows: RowBatch) {
    let opened = async {
        loop {
            match RocksState::open(&path.join("state"), StateOptions::default()) {
                Ok(state) => break state,
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    let state = tokio::time::timeout(Duration::from_secs(10), opened).await.unwrap();
    let applied = state.applied(GroupId(1)).unwrap().unwrap();
    state.commit(GroupId(1), &applied, &[rows]).unwrap();
    state.flush().unwrap();
}

/// Why the partition does not serve, once it says so.
async fn not_serving(partition: &Partition) -> String {
    let mut status = partition.status();
    let stopped = status.wait_for(|status| matches!(status, Status::NotServing(_)));
    let stopped = tokio::time::timeout(Duration::from_secs(10), stopped).await.unwrap().unwrap();
    let Status::NotServing(reason) = &*stopped else { panic!("{stopped:?}") };
    reason.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_row_that_cannot_be_read_stops_the_partition() {
    let directory = tempfile::tempdir().unwrap();
    let node = start(directory.path()).await;
    let new = NewNamespace { name: "n".to_owned(), retention: Duration::from_secs(60), ..NewNamespace::default() };
    let namespace = Arc::clone(&node.parts.namespaces.register(new).await.unwrap().namespace);
    node.stop().await.unwrap();

    // A task of an entity of kind 7, which a later version may know.
    let queue = QueueId::new(namespace.id, TaskKind::Workflow, "q");
    let position = TaskPosition {
        lane: Lane::NONE,
        priority: 3,
        scheduled_time: Time(1),
        run_id: RunId([1; 16]),
        scheduled_event_id: 2,
    };
    let task = RowKey::Task(queue.task(position));
    let entity = WorkflowRef { namespace, workflow_id: "w".into() }.entity();
    let row = rows::change(&entity.key(), task, Some(Bytes::from_static(b"\x0a\x01w\x10\x01\x20\x07")));
    put(directory.path(), RowBatch { changes: vec![row] }).await;

    let node = start(directory.path()).await;
    let partition = node.parts.router.partitions().all()[0].clone();
    partition.status().wait_for(|status| *status == Status::Serving).await.unwrap();
    let poll = Poll {
        queue,
        normal_name: None,
        identity: "worker".to_owned(),
        tasks_per_second_max: None,
        worker_instance_key: String::new(),
        version: None,
        scaling: ScalingRules::default(),
    };
    let matching = Arc::clone(node.parts.matching.local());
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    let polling = tokio::spawn(async move { matching.poll(poll, deadline).await });
    let reason = not_serving(&partition).await;
    assert_eq!(reason, "task rows cannot be read: an entity of an unknown kind, 7");
    polling.abort();
    node.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workflow_that_cannot_be_read_stops_the_partition() {
    let directory = tempfile::tempdir().unwrap();
    let node = start(directory.path()).await;
    let new = NewNamespace { name: "n".to_owned(), retention: Duration::from_secs(60), ..NewNamespace::default() };
    let namespace = Arc::clone(&node.parts.namespaces.register(new).await.unwrap().namespace);
    let workflow = WorkflowRef { namespace, workflow_id: "w".into() };
    let request = StartWorkflowExecutionRequest {
        workflow_id: "w".to_owned(),
        workflow_type: Some(WorkflowType { name: "T".to_owned() }),
        task_queue: Some(TaskQueue { name: "q".to_owned(), ..TaskQueue::default() }),
        request_id: "start".to_owned(),
        ..StartWorkflowExecutionRequest::default()
    };
    let start_it = Command::start(request, &Limits::default()).unwrap();
    let partition = node.parts.router.partitions().all()[0].clone();
    let Reply::Started(started) = partition.execute(workflow.clone(), None, start_it).await.unwrap() else { panic!() };
    drop(partition);
    node.stop().await.unwrap();

    let info = RowKey::Run(started.run_id, RunRow::only(RunRowKind::Info));
    let row = rows::change(&workflow.entity().key(), info, Some(Bytes::from_static(b"\xff")));
    put(directory.path(), RowBatch { changes: vec![row] }).await;

    let node = start(directory.path()).await;
    let partition = node.parts.router.partitions().all()[0].clone();
    let looked: Result<(), CallError> = partition.inspect(workflow, None, |_, _| Ok(())).await;
    assert!(matches!(looked, Err(CallError::Corrupt(_))), "{looked:?}");
    let reason = not_serving(&partition).await;
    assert!(reason.starts_with("workflow \"w\" of namespace ") && reason.contains("corrupt row"), "{reason}");
    drop(partition);
    node.stop().await.unwrap();
}
