//! What callers see of what they have written: lists, descriptions and histories right behind writes, what retention leaves,
//! and what a worker is given whose sticky queue nobody polls any more.

#![allow(clippy::unwrap_used)] // a test fails by panicking, also in its helpers

mod harness;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use everlog_config::DynamicConfig;
use everlog_meta::NewNamespace;
use everlog_model::limits;
use everlog_proto::api::command::v1::{Command, StartTimerCommandAttributes, command::Attributes};
use everlog_proto::api::common::v1::WorkflowType;
use everlog_proto::api::enums::v1::{
    CommandType, EventType, PendingActivityState, TaskQueueKind, WorkflowExecutionStatus,
};
use everlog_proto::api::taskqueue::v1::{StickyExecutionAttributes, TaskQueue};
use everlog_proto::api::workflow::v1::WorkflowExecutionInfo;
use everlog_proto::api::workflowservice::v1::{
    CountWorkflowExecutionsRequest, DescribeWorkflowExecutionResponse, GetWorkflowExecutionHistoryRequest,
    PollWorkflowTaskQueueRequest, PollWorkflowTaskQueueResponse, RecordActivityTaskHeartbeatRequest,
    RespondWorkflowTaskCompletedRequest, ShutdownWorkerRequest, StartWorkflowExecutionRequest,
};
use everlog_proto::wkt;
use everlog_storage::state::Direction;
use harness::requests::{
    NAMESPACE, activity_done, complete, describe, event_ids, history, list, poll_activity, poll_workflow, respond,
    schedule_activity, signal, terminate,
};
use harness::{Client, Server, execution, payloads, poll, start_request, task_queue, within};
use tonic::Code;

const LONG: Duration = Duration::from_secs(30);

/// Everything that matches a query, page by page.
async fn listed(client: &mut Client, query: &str, page_size: i32) -> Vec<WorkflowExecutionInfo> {
    let mut request = list(query);
    request.page_size = page_size;
    let mut executions = Vec::new();
    loop {
        let page = client.list_workflow_executions(request.clone()).await.unwrap().into_inner();
        assert!(page_size == 0 || page.executions.len() <= page_size as usize);
        executions.extend(page.executions);
        request.next_page_token = page.next_page_token;
        if request.next_page_token.is_empty() {
            return executions;
        }
    }
}

fn ids(executions: &[WorkflowExecutionInfo]) -> Vec<&str> {
    executions.iter().map(|info| info.execution.as_ref().unwrap().workflow_id.as_str()).collect()
}

/// Starts and ends workflows until it is told to stop.
async fn write_until(mut client: Client, name: String, stop: Arc<AtomicBool>) -> usize {
    let mut written = 0;
    while !stop.load(Ordering::Relaxed) {
        let workflow_id = format!("{name} {written}");
        client.start_workflow_execution(start_request(&workflow_id)).await.unwrap();
        if written % 2 == 0 {
            client.terminate_workflow_execution(terminate(&workflow_id)).await.unwrap();
        }
        written += 1;
    }
    written
}

#[tokio::test]
async fn a_list_sees_every_write_that_was_acknowledged() {
    const WORKFLOWS: usize = 60;
    let server = Server::with(4, DynamicConfig::default()).await;
    let mut client = server.client().await;
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..4)
        .map(|number| tokio::spawn(write_until(client.clone(), format!("noise {number}"), Arc::clone(&stop))))
        .collect();
    for number in 0..WORKFLOWS {
        let workflow_id = format!("w{number}");
        let (open, closed) = (
            format!("WorkflowId = '{workflow_id}' AND ExecutionStatus = 'Running'"),
            format!("WorkflowId = '{workflow_id}' AND ExecutionStatus = 'Terminated'"),
        );
        let request = StartWorkflowExecutionRequest {
            workflow_type: Some(WorkflowType { name: "mine".to_owned() }),
            ..start_request(&workflow_id)
        };
        client.start_workflow_execution(request).await.unwrap();
        assert_eq!(ids(&listed(&mut client, &open, 0).await), [&workflow_id]);
        assert!(listed(&mut client, &closed, 0).await.is_empty());
        if number % 2 == 0 {
            client.terminate_workflow_execution(terminate(&workflow_id)).await.unwrap();
            assert!(listed(&mut client, &open, 0).await.is_empty());
            assert_eq!(ids(&listed(&mut client, &closed, 0).await), [&workflow_id]);
        }
    }

    // Pages of what does not change hold each run once, whatever else is written meanwhile.
    let expected: BTreeSet<String> = (0..WORKFLOWS).map(|number| format!("w{number}")).collect();
    for page_size in [1, 7, 1000] {
        let found = listed(&mut client, "WorkflowType = 'mine'", page_size).await;
        assert_eq!(found.len(), WORKFLOWS);
        assert_eq!(ids(&found).into_iter().map(str::to_owned).collect::<BTreeSet<_>>(), expected);
        let open = found.iter().take_while(|info| info.status() == WorkflowExecutionStatus::Running).count();
        assert_eq!(open, WORKFLOWS / 2, "open runs come first");
    }
    let count = CountWorkflowExecutionsRequest {
        namespace: NAMESPACE.to_owned(),
        query: "WorkflowType = 'mine' AND ExecutionStatus = 'Running'".to_owned(),
    };
    assert_eq!(client.count_workflow_executions(count).await.unwrap().into_inner().count, 30);

    stop.store(true, Ordering::Relaxed);
    let mut written = 0;
    for writer in writers {
        written += writer.await.unwrap();
    }
    println!("{written} other workflows were written meanwhile");
    assert_eq!(listed(&mut client, "", 100).await.len(), WORKFLOWS + written);
    server.stopped().await;
}

async fn described(client: &mut Client, workflow_id: &str) -> DescribeWorkflowExecutionResponse {
    client.describe_workflow_execution(describe(workflow_id)).await.unwrap().into_inner()
}

#[tokio::test]
async fn a_description_shows_what_was_acknowledged() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let run_id = client.start_workflow_execution(start_request("w")).await.unwrap().into_inner().run_id;
    let seen = described(&mut client, "w").await;
    let info = seen.workflow_execution_info.unwrap();
    assert_eq!((info.status(), info.history_length), (WorkflowExecutionStatus::Running, 2));
    assert_eq!(info.execution.unwrap().run_id, run_id);
    assert_eq!(seen.pending_workflow_task.unwrap().attempt, 1);

    client.signal_workflow_execution(signal("w", "1")).await.unwrap();
    assert_eq!(described(&mut client, "w").await.workflow_execution_info.unwrap().history_length, 3);

    let task = poll(&mut client).await;
    assert!(described(&mut client, "w").await.pending_workflow_task.unwrap().started_time.is_some());
    client.respond_workflow_task_completed(respond(task.task_token, vec![schedule_activity("a")])).await.unwrap();
    let seen = described(&mut client, "w").await;
    assert!(seen.pending_workflow_task.is_none());
    assert_eq!(seen.pending_activities.len(), 1);
    assert_eq!(seen.pending_activities[0].activity_id, "a");
    assert_eq!(seen.pending_activities[0].state(), PendingActivityState::Scheduled);

    let activity = client.poll_activity_task_queue(within(LONG, poll_activity("queue"))).await.unwrap().into_inner();
    let heartbeat = RecordActivityTaskHeartbeatRequest {
        namespace: NAMESPACE.to_owned(),
        task_token: activity.task_token.clone(),
        details: payloads("half"),
        ..RecordActivityTaskHeartbeatRequest::default()
    };
    client.record_activity_task_heartbeat(heartbeat).await.unwrap();
    let seen = described(&mut client, "w").await;
    assert_eq!(seen.pending_activities[0].state(), PendingActivityState::Started);
    assert_eq!(seen.pending_activities[0].heartbeat_details, payloads("half"));
    assert_eq!(seen.pending_activities[0].last_worker_identity, "worker");

    client.respond_activity_task_completed(activity_done(activity.task_token)).await.unwrap();
    let seen = described(&mut client, "w").await;
    assert!(seen.pending_activities.is_empty());
    assert_eq!(seen.workflow_execution_info.unwrap().history_length, 9);

    let task = poll(&mut client).await;
    client.respond_workflow_task_completed(respond(task.task_token, vec![complete("done")])).await.unwrap();
    let info = described(&mut client, "w").await.workflow_execution_info.unwrap();
    assert_eq!((info.status(), info.history_length), (WorkflowExecutionStatus::Completed, 12));
    assert!(info.close_time.is_some());
    // The list tells the same.
    let listed = listed(&mut client, "WorkflowId = 'w'", 0).await.remove(0);
    assert_eq!((listed.status(), listed.history_length), (WorkflowExecutionStatus::Completed, 12));
    assert_eq!((listed.start_time, listed.close_time), (info.start_time, info.close_time));
    server.stopped().await;
}

#[tokio::test]
async fn everyone_who_waits_for_an_event_hears_of_it() {
    const WAITERS: usize = 50;
    let server = Server::start().await;
    let mut client = server.client().await;
    client.start_workflow_execution(start_request("w")).await.unwrap();
    let follow = |token| GetWorkflowExecutionHistoryRequest { wait_new_event: true, ..history("w", token) };
    let first = client.get_workflow_execution_history(within(LONG, follow(Vec::new()))).await.unwrap().into_inner();
    let waiters: Vec<_> = (0..WAITERS)
        .map(|_| {
            let (mut client, request) = (client.clone(), follow(first.next_page_token.clone()));
            tokio::spawn(async move {
                let answer = client.get_workflow_execution_history(within(LONG, request)).await;
                event_ids(&answer.unwrap().into_inner())
            })
        })
        .collect();
    // Any answer to another request of the connection comes after theirs have arrived.
    described(&mut client, "w").await;
    client.signal_workflow_execution(signal("w", "1")).await.unwrap();
    for waiter in waiters {
        assert_eq!(waiter.await.unwrap(), [3]);
    }
    server.stopped().await;
}

/// Not told UNAVAILABLE, or that there is nothing: they would be back at once.
#[tokio::test]
async fn who_comes_when_too_many_wait_is_held_until_the_end_of_its_wait() {
    const CONNECTIONS: usize = 5;
    const SURPLUS: usize = 10;
    const WAIT: Duration = Duration::from_secs(8);
    let server = Server::start().await;
    let mut client = server.client().await;
    client.start_workflow_execution(start_request("w")).await.unwrap();
    let follow = |token| GetWorkflowExecutionHistoryRequest { wait_new_event: true, ..history("w", token) };
    let first = client.get_workflow_execution_history(within(LONG, follow(Vec::new()))).await.unwrap().into_inner();
    let mut waiters = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut connection = server.client().await;
        for _ in 0..(limits::RUN_WATCHERS_MAX + SURPLUS) / CONNECTIONS {
            let (mut client, request) = (connection.clone(), follow(first.next_page_token.clone()));
            waiters.push(tokio::spawn(async move {
                let began = Instant::now();
                let answer = client.get_workflow_execution_history(within(WAIT, request)).await.unwrap().into_inner();
                (event_ids(&answer), answer.next_page_token.is_empty(), began.elapsed())
            }));
        }
        // Any answer to another request of the connection comes after theirs have arrived.
        described(&mut connection, "w").await;
    }
    client.signal_workflow_execution(signal("w", "1")).await.unwrap();
    let mut held = 0;
    for waiter in waiters {
        let (events, is_over, waited) = waiter.await.unwrap();
        assert!(!is_over, "the workflow goes on");
        if events != [3] {
            assert!(events.is_empty() && waited > WAIT / 2, "{events:?} after {waited:?}");
            held += 1;
        }
    }
    assert_eq!(held, SURPLUS);
    server.stopped().await;
}

fn start_timer(timer_id: &str) -> Command {
    Command {
        command_type: CommandType::StartTimer as i32,
        attributes: Some(Attributes::StartTimerCommandAttributes(StartTimerCommandAttributes {
            timer_id: timer_id.to_owned(),
            start_to_fire_timeout: Some(wkt::Duration { seconds: 3600, nanos: 0 }),
        })),
        ..Command::default()
    }
}

/// All rows of all workflows.
fn rows(server: &Server) -> usize {
    let partitions = server.node.parts.router.partitions();
    partitions
        .all()
        .iter()
        .map(|partition| partition.group().scan(&[]..&[0xff; 64], Direction::Ascending, 10_000).unwrap().len())
        .sum()
}

#[tokio::test]
async fn retention_leaves_nothing_of_a_run() {
    let mut config = DynamicConfig::default();
    config.limits.retention_jitter = Duration::ZERO;
    let server = Server::with(2, config).await;
    let mut client = server.client().await;
    // Shorter than callers may set it.
    let short =
        NewNamespace { name: "short".to_owned(), retention: Duration::from_millis(300), ..NewNamespace::default() };
    server.node.parts.namespaces.register(short).await.unwrap();
    assert_eq!(rows(&server), 0);
    let in_short = |workflow_id: &str| StartWorkflowExecutionRequest {
        namespace: "short".to_owned(),
        ..start_request(workflow_id)
    };

    // A run with everything that a run can have, which is ended from outside.
    client.start_workflow_execution(in_short("full")).await.unwrap();
    let mut request = signal("full", "1");
    request.namespace = "short".to_owned();
    client.signal_workflow_execution(request.clone()).await.unwrap();
    let mut poll_short = poll_workflow("queue");
    poll_short.namespace = "short".to_owned();
    let task = client.poll_workflow_task_queue(within(LONG, poll_short)).await.unwrap().into_inner();
    request.request_id = "2".to_owned();
    client.signal_workflow_execution(request.clone()).await.unwrap();
    let mut answer = respond(task.task_token, vec![schedule_activity("a"), schedule_activity("b"), start_timer("t")]);
    answer.namespace = "short".to_owned();
    client.respond_workflow_task_completed(answer).await.unwrap();
    request.request_id = "3".to_owned();
    client.signal_workflow_execution(request).await.unwrap();
    let mut end = terminate("full");
    end.namespace = "short".to_owned();
    client.terminate_workflow_execution(end.clone()).await.unwrap();
    let mut pages = history("full", Vec::new());
    pages.namespace = "short".to_owned();
    pages.maximum_page_size = 1;
    pages.next_page_token =
        client.get_workflow_execution_history(pages.clone()).await.unwrap().into_inner().next_page_token;

    // A closed run whose workflow has a newer one, which stays.
    client.start_workflow_execution(in_short("again")).await.unwrap();
    end.workflow_execution = execution("again");
    client.terminate_workflow_execution(end.clone()).await.unwrap();
    let newer = StartWorkflowExecutionRequest { request_id: "newer".to_owned(), ..in_short("again") };
    let newer = client.start_workflow_execution(newer).await.unwrap().into_inner().run_id;

    let mut all = list("");
    all.namespace = "short".to_owned();
    let mut left = Vec::new();
    for _ in 0..1000 {
        left = client.list_workflow_executions(all.clone()).await.unwrap().into_inner().executions;
        if left.len() == 1 {
            break;
        }
        // A deletion is no event that can be awaited.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(left[0].execution.as_ref().unwrap().run_id, newer);
    let mut gone = describe("full");
    gone.namespace = "short".to_owned();
    assert_eq!(client.describe_workflow_execution(gone).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(client.get_workflow_execution_history(pages).await.unwrap_err().code(), Code::NotFound);
    let mut current = describe("again");
    current.namespace = "short".to_owned();
    let current = client.describe_workflow_execution(current).await.unwrap().into_inner();
    assert_eq!(current.workflow_execution_info.unwrap().execution.unwrap().run_id, newer);

    client.terminate_workflow_execution(end).await.unwrap();
    for _ in 0..1000 {
        if rows(&server) == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(rows(&server), 0);
    server.stopped().await;
}

/// A worker that has the run cached polls here.
fn poll_sticky() -> PollWorkflowTaskQueueRequest {
    PollWorkflowTaskQueueRequest {
        task_queue: Some(TaskQueue {
            name: "sticky".to_owned(),
            kind: TaskQueueKind::Sticky as i32,
            normal_name: "queue".to_owned(),
        }),
        ..poll_workflow("")
    }
}

/// Answers a workflow task with nothing, and asks for the next one on the sticky queue.
fn stay(task: PollWorkflowTaskQueueResponse, timeout: Duration) -> RespondWorkflowTaskCompletedRequest {
    let schedule_to_start_timeout =
        Some(wkt::Duration { seconds: timeout.as_secs() as i64, nanos: timeout.subsec_nanos() as i32 });
    RespondWorkflowTaskCompletedRequest {
        sticky_attributes: Some(StickyExecutionAttributes {
            worker_task_queue: task_queue("sticky"),
            schedule_to_start_timeout,
        }),
        ..respond(task.task_token, Vec::new())
    }
}

fn first_event(task: &PollWorkflowTaskQueueResponse) -> i64 {
    task.history.as_ref().unwrap().events[0].event_id
}

#[tokio::test]
async fn a_task_leaves_the_sticky_queue_of_a_worker_that_went_away() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.start_workflow_execution(start_request("w")).await.unwrap();
    let task = poll(&mut client).await;
    assert_eq!(first_event(&task), 1);
    client.respond_workflow_task_completed(stay(task, LONG)).await.unwrap();

    // While its worker polls, a run's tasks come to it, with what is new.
    let mut worker = client.clone();
    let polling = tokio::spawn(async move { worker.poll_workflow_task_queue(within(LONG, poll_sticky())).await });
    // Any answer to another request of the connection comes after the poll has arrived.
    described(&mut client, "w").await;
    client.signal_workflow_execution(signal("w", "1")).await.unwrap();
    let task = polling.await.unwrap().unwrap().into_inner();
    assert_eq!((task.previous_started_event_id, first_event(&task)), (3, 4));
    client.respond_workflow_task_completed(stay(task, Duration::from_millis(300))).await.unwrap();

    // The worker is gone: the task times out there, and comes with the full history to whoever polls the normal queue.
    client.signal_workflow_execution(signal("w", "2")).await.unwrap();
    let task = poll(&mut client).await;
    assert_eq!(first_event(&task), 1);
    let types: Vec<_> = task.history.as_ref().unwrap().events.iter().map(|event| event.event_type()).collect();
    assert!(types.contains(&EventType::WorkflowTaskTimedOut), "{types:?}");
    client.respond_workflow_task_completed(stay(task, LONG)).await.unwrap();

    // The next one says that it goes: nothing is waited for.
    let idle = client.poll_workflow_task_queue(within(Duration::from_millis(2_100), poll_sticky())).await.unwrap();
    assert!(idle.into_inner().task_token.is_empty());
    client.signal_workflow_execution(signal("w", "3")).await.unwrap();
    let shutdown = ShutdownWorkerRequest {
        namespace: NAMESPACE.to_owned(),
        sticky_task_queue: "sticky".to_owned(),
        ..ShutdownWorkerRequest::default()
    };
    client.shutdown_worker(shutdown).await.unwrap();
    let task = tokio::time::timeout(Duration::from_secs(10), poll(&mut client)).await.unwrap();
    assert_eq!(first_event(&task), 1);
    client.respond_workflow_task_completed(respond(task.task_token, vec![complete("done")])).await.unwrap();
    server.stopped().await;
}

#[tokio::test]
async fn a_worker_that_has_a_workflow_cached_keeps_it_when_the_server_does_not() {
    // No memory for workflows: each leaves it as soon as its rows are written.
    let server = Server::with_cache(2, DynamicConfig::default(), 0).await;
    let mut client = server.client().await;
    client.start_workflow_execution(start_request("w")).await.unwrap();
    let task = poll(&mut client).await;
    client.respond_workflow_task_completed(stay(task, LONG)).await.unwrap();
    for request_id in ["1", "2"] {
        let mut worker = client.clone();
        let polling = tokio::spawn(async move { worker.poll_workflow_task_queue(within(LONG, poll_sticky())).await });
        // Any answer to another request of the connection comes after the poll has arrived.
        let before = described(&mut client, "w").await.workflow_execution_info.unwrap().history_length;
        client.signal_workflow_execution(signal("w", request_id)).await.unwrap();
        let task = polling.await.unwrap().unwrap().into_inner();
        assert_eq!(first_event(&task), task.previous_started_event_id + 1);
        assert_eq!(task.history.as_ref().unwrap().events.last().unwrap().event_id, before + 3);
        client.respond_workflow_task_completed(stay(task, LONG)).await.unwrap();
    }
    server.stopped().await;
}
