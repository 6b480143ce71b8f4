//! The binary as a process: how it starts, what it says, how it ends, and what is there after a stop and after a kill.

#![allow(clippy::unwrap_used)] // a test fails by panicking, also in its helpers

#[path = "restart/activities.rs"]
mod activities;
#[path = "restart/batch_jobs.rs"]
mod batch_jobs;
#[path = "restart/command_line.rs"]
mod command_line;
#[path = "restart/deletion.rs"]
mod deletion;
mod harness;
#[path = "restart/nexus.rs"]
mod nexus;

use std::path::Path;
use std::time::Duration;

use everlog_proto::api::command::v1::command::Attributes as CommandAttributes;
use everlog_proto::api::enums::v1::{
    EventType, ParentClosePolicy, PendingWorkflowTaskState, QueryResultType, RateLimitSource, TaskQueueType,
    WorkflowExecutionStatus,
};
use everlog_proto::api::failure::v1::failure::FailureInfo;
use everlog_proto::api::failure::v1::{ApplicationFailureInfo, Failure};
use everlog_proto::api::history::v1::HistoryEvent;
use everlog_proto::api::history::v1::history_event::Attributes;
use everlog_proto::api::query::v1::WorkflowQuery;
use everlog_proto::api::taskqueue::v1::RateLimit;
use everlog_proto::api::workflowservice::v1::update_task_queue_config_request::RateLimitUpdate;
use everlog_proto::api::workflowservice::v1::{
    DescribeTaskQueueRequest, DescribeWorkflowExecutionResponse, QueryWorkflowRequest,
    RespondActivityTaskFailedRequest, RespondQueryTaskCompletedRequest, RespondWorkflowTaskFailedRequest,
    StartWorkflowExecutionRequest, UpdateTaskQueueConfigRequest,
};
use harness::process::{ANY_PORTS, Process, everlog, run};
use harness::requests::{
    NAMESPACE, activity_done, complete, describe, history, poll_activity, poll_workflow, respond, schedule_activity,
    signal, signal_external, start_child, terminate,
};
use harness::{Client, execution, payloads, poll, start_request, task_queue, within};

const LONG: Duration = Duration::from_secs(30);

async fn status(client: &mut Client, workflow_id: &str) -> WorkflowExecutionStatus {
    let description = client.describe_workflow_execution(describe(workflow_id)).await.unwrap().into_inner();
    description.workflow_execution_info.unwrap().status()
}

async fn events(client: &mut Client, workflow_id: &str) -> Vec<HistoryEvent> {
    let history = client.get_workflow_execution_history(history(workflow_id, Vec::new())).await.unwrap().into_inner();
    history.history.unwrap().events
}

#[tokio::test]
async fn the_rate_of_a_queue_survives_a_kill() {
    let data = tempfile::tempdir().unwrap();
    let limited = |rate: Option<f32>| UpdateTaskQueueConfigRequest {
        namespace: NAMESPACE.to_owned(),
        task_queue: "queue".to_owned(),
        task_queue_type: TaskQueueType::Activity.into(),
        update_queue_rate_limit: Some(RateLimitUpdate {
            rate_limit: rate.map(|requests_per_second| RateLimit { requests_per_second }),
            reason: "a test".to_owned(),
        }),
        ..UpdateTaskQueueConfigRequest::default()
    };
    let effective = async |client: &mut Client| {
        let request = DescribeTaskQueueRequest {
            namespace: NAMESPACE.to_owned(),
            task_queue: task_queue("queue"),
            task_queue_type: TaskQueueType::Activity.into(),
            ..DescribeTaskQueueRequest::default()
        };
        let limit = client.describe_task_queue(request).await.unwrap().into_inner().effective_rate_limit.unwrap();
        (limit.requests_per_second, limit.rate_limit_source())
    };
    let mut process = Process::dev(data.path()).await;
    let mut client = process.client().await;
    client.update_task_queue_config(limited(Some(2.0))).await.unwrap();
    process.kill().await;

    process = Process::dev(data.path()).await;
    let mut client = process.client().await;
    assert_eq!(effective(&mut client).await, (2.0, RateLimitSource::Api));
    client.update_task_queue_config(limited(None)).await.unwrap();
    assert_eq!(effective(&mut client).await.1, RateLimitSource::System);
    process.signal("TERM");
    assert_eq!(process.ended().await.code(), Some(0));
}

#[tokio::test]
async fn a_workflow_goes_on_after_a_stop_and_after_a_kill() {
    let data = tempfile::tempdir().unwrap();
    let path = data.path().join("new").join("data");
    let mut process = Process::dev(&path).await;
    println!("{:?} to serve on an empty directory", process.served_after);
    assert!(process.served_after < Duration::from_secs(5), "{:?}", process.served_after);
    assert!(process.line.starts_with("everlog dev: grpc=127.0.0.1:"), "{}", process.line);
    assert!(process.line.ends_with(&format!(" data={}", path.display())), "{}", process.line);
    let mut client = process.client().await;
    client.start_workflow_execution(start_request("w")).await.unwrap();

    // A stop ends polls without a task, and the process with code 0.
    let mut poller = client.clone();
    let polling =
        tokio::spawn(async move { poller.poll_activity_task_queue(within(LONG, poll_activity("queue"))).await });
    // Any answer to another request of the connection comes after the poll has arrived.
    assert_eq!(status(&mut client, "w").await, WorkflowExecutionStatus::Running);
    process.signal("TERM");
    assert!(polling.await.unwrap().unwrap().into_inner().task_token.is_empty());
    assert_eq!(process.ended().await.code(), Some(0));

    let mut process = Process::dev(&path).await;
    println!("{:?} to serve after a stop", process.served_after);
    let mut client = process.client().await;
    let task = poll(&mut client).await;
    client.respond_workflow_task_completed(respond(task.task_token, vec![schedule_activity("a")])).await.unwrap();
    process.kill().await;

    // What was acknowledged is there, and the activity is offered again.
    process = Process::dev(&path).await;
    println!("{:?} to serve after a kill", process.served_after);
    let mut client = process.client().await;
    let activity = client.poll_activity_task_queue(within(LONG, poll_activity("queue"))).await.unwrap().into_inner();
    assert_eq!(activity.activity_id, "a");
    client.respond_activity_task_completed(activity_done(activity.task_token)).await.unwrap();
    let task = poll(&mut client).await;
    assert_eq!(task.started_event_id, 9);
    client.respond_workflow_task_completed(respond(task.task_token, vec![complete("done")])).await.unwrap();
    assert_eq!(status(&mut client, "w").await, WorkflowExecutionStatus::Completed);
    process.stop().await;
}

#[tokio::test]
async fn a_workflow_task_that_a_worker_holds_is_completed_after_a_kill() {
    let data = tempfile::tempdir().unwrap();
    let mut process = Process::dev(data.path()).await;
    let mut client = process.client().await;
    for (workflow_id, held) in [("short", Duration::ZERO), ("long", Duration::from_millis(1500))] {
        client.start_workflow_execution(start_request(workflow_id)).await.unwrap();
        let task = poll(&mut client).await;
        tokio::time::sleep(held).await;
        process.kill().await;
        process = Process::dev(data.path()).await;
        client = process.client().await;
        if !held.is_zero() {
            // Its start is written by now: nobody else is given the task, so what it does beside the history is done once.
            let request = within(Duration::from_secs(3), poll_workflow("queue"));
            assert!(
                client.poll_workflow_task_queue(request).await.is_ok_and(|poll| poll.get_ref().task_token.is_empty())
            );
        }
        client.respond_workflow_task_completed(respond(task.task_token.clone(), vec![complete("once")])).await.unwrap();
        let again = client.respond_workflow_task_completed(respond(task.task_token, vec![complete("twice")])).await;
        assert_eq!(again.unwrap_err().code(), tonic::Code::NotFound);
        assert_eq!(status(&mut client, workflow_id).await, WorkflowExecutionStatus::Completed);
        assert_eq!(events(&mut client, workflow_id).await.len(), 5);
    }
    process.stop().await;
}

/// Workers tell tasks apart by their tokens: two of the same would be mixed up by one that outlives the server.
#[tokio::test]
async fn an_attempt_that_is_handed_out_again_after_a_kill_has_another_token() {
    let data = tempfile::tempdir().unwrap();
    let process = Process::dev(data.path()).await;
    let mut client = process.client().await;
    client.start_workflow_execution(start_request("workflow")).await.unwrap();
    let task = poll(&mut client).await;
    let commands = vec![schedule_activity("activity")];
    client.respond_workflow_task_completed(respond(task.task_token, commands)).await.unwrap();
    let mut attempts = Vec::new();
    let mut process = process;
    for _ in 0..2 {
        let request = within(Duration::from_secs(20), poll_activity("queue"));
        attempts.push(client.poll_activity_task_queue(request).await.unwrap().into_inner());
        process.kill().await;
        process = Process::dev(data.path()).await;
        client = process.client().await;
    }
    assert_eq!((attempts[0].attempt, attempts[1].attempt), (1, 1));
    assert_ne!(attempts[0].task_token, attempts[1].task_token);
    client.respond_activity_task_completed(activity_done(attempts[1].task_token.clone())).await.unwrap();
    process.stop().await;
}

#[tokio::test]
async fn an_event_that_was_shown_is_the_same_after_a_kill() {
    let data = tempfile::tempdir().unwrap();
    let mut process = Process::dev(data.path()).await;
    let mut client = process.client().await;
    client.start_workflow_execution(start_request("shown")).await.unwrap();
    client.start_workflow_execution(start_request("described")).await.unwrap();
    let held = [poll(&mut client).await, poll(&mut client).await];
    let shown = events(&mut client, "shown").await;
    assert_eq!(shown[2].event_type(), EventType::WorkflowTaskStarted);
    let pending = |description: DescribeWorkflowExecutionResponse| description.pending_workflow_task.unwrap();
    let described = client.describe_workflow_execution(describe("described")).await.unwrap().into_inner();
    assert_eq!(pending(described.clone()).state(), PendingWorkflowTaskState::Started);

    process.kill().await;
    process = Process::dev(data.path()).await;
    client = process.client().await;
    client.signal_workflow_execution(signal("shown", "s")).await.unwrap();
    assert_eq!(events(&mut client, "shown").await, shown);
    let again = client.describe_workflow_execution(describe("described")).await.unwrap().into_inner();
    assert_eq!(pending(again), pending(described));
    for task in held {
        client.respond_workflow_task_completed(respond(task.task_token, Vec::new())).await.unwrap();
    }
    let after = events(&mut client, "shown").await;
    assert_eq!(after[..3], shown[..]);
    assert_eq!(after[4].event_type(), EventType::WorkflowExecutionSignaled);
    process.stop().await;
}

#[tokio::test]
async fn messages_between_workflows_arrive_once_over_kills() {
    const TARGETS: usize = 8;
    const EACH: usize = 5;
    let data = tempfile::tempdir().unwrap();
    let mut process = Process::dev(data.path()).await;
    let mut client = process.client().await;
    // Spread over the partitions.
    for target in 0..TARGETS {
        let request = StartWorkflowExecutionRequest {
            task_queue: task_queue("nobody polls here"),
            ..start_request(&format!("target {target}"))
        };
        client.start_workflow_execution(request).await.unwrap();
    }
    client.start_workflow_execution(start_request("source")).await.unwrap();
    for number in 0..EACH {
        let task = poll(&mut client).await;
        let mut commands: Vec<_> =
            (0..TARGETS).map(|target| signal_external(&format!("target {target}"), &number.to_string())).collect();
        commands.push(signal_external("nobody", "lost"));
        client.respond_workflow_task_completed(respond(task.task_token, commands)).await.unwrap();
        // Some of the messages have arrived by now.
        tokio::time::sleep(Duration::from_millis(2 * number as u64)).await;
        process.kill().await;
        process = Process::dev(data.path()).await;
        client = process.client().await;
    }
    let ends = |events: &[HistoryEvent]| {
        let count = |event_type| events.iter().filter(|event| event.event_type() == event_type).count();
        (count(EventType::ExternalWorkflowExecutionSignaled), count(EventType::SignalExternalWorkflowExecutionFailed))
    };
    while ends(&events(&mut client, "source").await) != (TARGETS * EACH, EACH) {
        // The end of each message calls for a workflow task; nothing else says when the last one has arrived.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for target in 0..TARGETS {
        let names: Vec<_> = events(&mut client, &format!("target {target}")).await;
        let names = names.into_iter().filter_map(|event| match event.attributes? {
            Attributes::WorkflowExecutionSignaledEventAttributes(signaled) => Some(signaled.signal_name),
            _ => None,
        });
        let expected: Vec<_> = (0..EACH).map(|number| number.to_string()).collect();
        assert_eq!(names.collect::<Vec<_>>(), expected, "target {target}");
    }
    process.stop().await;
}

#[tokio::test]
async fn children_begin_and_end_once_over_kills() {
    const EACH: usize = 6;
    let data = tempfile::tempdir().unwrap();
    let mut process = Process::dev(data.path()).await;
    let mut client = process.client().await;
    client.start_workflow_execution(start_request("parent")).await.unwrap();
    let mut children = 0;
    for round in 0..5_usize {
        let task = poll(&mut client).await;
        // Spread over the partitions; those with even numbers end by themselves, and one's id is taken.
        let mut commands: Vec<_> = (children..children + EACH)
            .map(|number| start_child(&format!("child {number}"), queue_of(number), ParentClosePolicy::Terminate))
            .collect();
        commands.push(start_child("parent", "queue", ParentClosePolicy::Terminate));
        children += EACH;
        client.respond_workflow_task_completed(respond(task.task_token, commands)).await.unwrap();
        // Some of the children have begun by now, and some have ended.
        tokio::time::sleep(Duration::from_millis(3 * round as u64)).await;
        for _ in 0..round {
            end_a_child(&mut client).await;
        }
        process.kill().await;
        process = Process::dev(data.path()).await;
        client = process.client().await;
    }
    let count =
        |events: &[HistoryEvent], event_type| events.iter().filter(|event| event.event_type() == event_type).count();
    let wanted = (children, children / 2, 5);
    loop {
        let events = events(&mut client, "parent").await;
        let count = |event_type| count(&events, event_type);
        let told = (
            count(EventType::ChildWorkflowExecutionStarted),
            count(EventType::ChildWorkflowExecutionCompleted),
            count(EventType::StartChildWorkflowExecutionFailed),
        );
        if told == wanted {
            break;
        }
        assert!(told.0 <= wanted.0 && told.1 <= wanted.1 && told.2 <= wanted.2, "{told:?}");
        end_a_child(&mut client).await;
    }
    // What is left of the children ends with the parent, whatever happens meanwhile.
    client.terminate_workflow_execution(terminate("parent")).await.unwrap();
    process.kill().await;
    process = Process::dev(data.path()).await;
    client = process.client().await;
    for number in 0..children {
        let child = format!("child {number}");
        let expected = match number % 2 {
            0 => WorkflowExecutionStatus::Completed,
            _ => WorkflowExecutionStatus::Terminated,
        };
        while status(&mut client, &child).await != expected {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(count(&events(&mut client, &child).await, EventType::WorkflowExecutionStarted), 1);
    }
    process.stop().await;
}

fn queue_of(child: usize) -> &'static str {
    if child.is_multiple_of(2) { "children that end" } else { "nobody polls here" }
}

/// A worker completes a child that is to end, if there is one.
async fn end_a_child(client: &mut Client) {
    let polled =
        client.poll_workflow_task_queue(within(Duration::from_secs(6), poll_workflow("children that end"))).await;
    let Ok(task) = polled.map(tonic::Response::into_inner) else { return };
    if !task.task_token.is_empty() {
        client.respond_workflow_task_completed(respond(task.task_token, vec![complete("out")])).await.unwrap();
    }
}

#[tokio::test]
async fn a_failure_with_many_causes_leaves_a_workflow_that_can_be_read() {
    let nested = |causes: usize| {
        let info = || Some(FailureInfo::ApplicationFailureInfo(ApplicationFailureInfo::default()));
        let wrap = |cause: Option<Box<Failure>>| Failure { failure_info: info(), cause, ..Failure::default() };
        (0..causes).fold(wrap(None), |failure, _| wrap(Some(Box::new(failure))))
    };
    let data = tempfile::tempdir().unwrap();
    let mut process = Process::dev(data.path()).await;
    let mut client = process.client().await;
    let depths = [49, 51, 98, 120];
    for causes in depths {
        let workflow_id = format!("{causes} causes");
        // A queue of its own: tasks of the others are left.
        let queue = task_queue(&workflow_id);
        let request = StartWorkflowExecutionRequest { task_queue: queue.clone(), ..start_request(&workflow_id) };
        client.start_workflow_execution(request).await.unwrap();
        let polled = client.poll_workflow_task_queue(within(LONG, poll_workflow(&workflow_id))).await.unwrap();
        let token = polled.into_inner().task_token;
        let mut commands = vec![schedule_activity("fails"), schedule_activity("is left")];
        for command in &mut commands {
            if let Some(CommandAttributes::ScheduleActivityTaskCommandAttributes(activity)) = &mut command.attributes {
                activity.task_queue = queue.clone();
            }
        }
        client.respond_workflow_task_completed(respond(token, commands)).await.unwrap();
        client.signal_workflow_execution(signal(&workflow_id, "s")).await.unwrap();
        // A worker has a workflow task while the activities fail: the end waits as a row of its own, the other failure is kept.
        let polled = client.poll_workflow_task_queue(within(LONG, poll_workflow(&workflow_id))).await.unwrap();
        let held = polled.into_inner().task_token;
        for _ in 0..2 {
            let polled =
                client.poll_activity_task_queue(within(LONG, poll_activity(&workflow_id))).await.unwrap().into_inner();
            let mut failure = nested(causes);
            if polled.activity_id == "fails"
                && let Some(FailureInfo::ApplicationFailureInfo(info)) = &mut failure.failure_info
            {
                info.non_retryable = true;
            }
            let request = RespondActivityTaskFailedRequest {
                namespace: NAMESPACE.to_owned(),
                task_token: polled.task_token,
                failure: Some(failure),
                ..RespondActivityTaskFailedRequest::default()
            };
            let answer = client.respond_activity_task_failed(request).await;
            assert_eq!(answer.err().map(|status| status.code()), (causes > 98).then_some(tonic::Code::InvalidArgument));
        }
        let request = RespondWorkflowTaskFailedRequest {
            namespace: NAMESPACE.to_owned(),
            task_token: held,
            failure: Some(nested(causes)),
            ..RespondWorkflowTaskFailedRequest::default()
        };
        let answer = client.respond_workflow_task_failed(request).await;
        assert_eq!(answer.err().map(|status| status.code()), (causes > 98).then_some(tonic::Code::InvalidArgument));
    }
    process.kill().await;
    process = Process::dev(data.path()).await;
    client = process.client().await;
    for causes in depths {
        let workflow_id = format!("{causes} causes");
        client.signal_workflow_execution(signal(&workflow_id, "t")).await.unwrap();
        let deepest =
            events(&mut client, &workflow_id).await.into_iter().filter_map(|event| match event.attributes? {
                Attributes::ActivityTaskFailedEventAttributes(failed) => failed.failure,
                Attributes::WorkflowTaskFailedEventAttributes(failed) => failed.failure,
                _ => None,
            });
        for failure in deepest {
            let causes_kept = std::iter::successors(Some(&failure), |failure| failure.cause.as_deref()).count() - 1;
            assert_eq!(causes_kept, causes.min(51));
        }
        client.describe_workflow_execution(describe(&workflow_id)).await.unwrap();
        client.terminate_workflow_execution(terminate(&workflow_id)).await.unwrap();
    }
    process.stop().await;
}

#[tokio::test]
async fn a_query_token_from_before_a_restart_answers_nothing() {
    let data = tempfile::tempdir().unwrap();
    let mut process = Process::dev(data.path()).await;
    let mut client = process.client().await;
    client.start_workflow_execution(start_request("w")).await.unwrap();
    let token = poll(&mut client).await.task_token;
    client.respond_workflow_task_completed(respond(token, Vec::new())).await.unwrap();
    let ask = |mut client: Client| async move {
        let request = QueryWorkflowRequest {
            namespace: NAMESPACE.to_owned(),
            execution: execution("w"),
            query: Some(WorkflowQuery { query_type: "state".to_owned(), ..WorkflowQuery::default() }),
            ..QueryWorkflowRequest::default()
        };
        Some(client.query_workflow(within(LONG, request)).await.ok()?.into_inner().query_result)
    };
    let answer = |task_token, text| RespondQueryTaskCompletedRequest {
        namespace: NAMESPACE.to_owned(),
        task_token,
        completed_type: QueryResultType::Answered as i32,
        query_result: payloads(text),
        ..RespondQueryTaskCompletedRequest::default()
    };

    let lost = tokio::spawn(ask(client.clone()));
    let before = poll(&mut client).await.task_token;
    process.kill().await;
    assert_eq!(lost.await.unwrap(), None);
    process = Process::dev(data.path()).await;
    client = process.client().await;
    // The first query of either process.
    let asked = tokio::spawn(ask(client.clone()));
    let token = poll(&mut client).await.task_token;
    let refused = client.respond_query_task_completed(answer(before, "of before")).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::NotFound);
    client.respond_query_task_completed(answer(token, "of now")).await.unwrap();
    assert_eq!(asked.await.unwrap(), Some(payloads("of now")));
    process.stop().await;
}

#[tokio::test]
async fn every_start_that_was_acknowledged_survives_a_kill() {
    const STARTS: usize = 400;
    let data = tempfile::tempdir().unwrap();
    let process = Process::dev(data.path()).await;
    let client = process.client().await;
    let (acknowledged, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let starts: Vec<_> = (0..STARTS)
        .map(|number| {
            let (mut client, acknowledged) = (client.clone(), acknowledged.clone());
            tokio::spawn(async move {
                let workflow_id = format!("w{number}");
                if client.start_workflow_execution(start_request(&workflow_id)).await.is_ok() {
                    acknowledged.send(workflow_id).unwrap();
                }
            })
        })
        .collect();
    drop(acknowledged);
    // In the middle of it.
    let mut workflow_ids = Vec::new();
    while workflow_ids.len() < STARTS / 4 {
        workflow_ids.push(heard.recv().await.unwrap());
    }
    process.kill().await;
    for start in starts {
        start.await.unwrap();
    }
    while let Some(workflow_id) = heard.recv().await {
        workflow_ids.push(workflow_id);
    }
    println!("{} of {STARTS} starts were acknowledged before the kill", workflow_ids.len());

    let process = Process::dev(data.path()).await;
    let mut client = process.client().await;
    for workflow_id in &workflow_ids {
        assert_eq!(status(&mut client, workflow_id).await, WorkflowExecutionStatus::Running, "{workflow_id}");
    }
    process.stop().await;
}
