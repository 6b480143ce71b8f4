//! A server that skips time: what waits for a time does not take it, and what somebody works on does.

#![allow(clippy::unwrap_used)] // a test fails by panicking, also in its helpers

mod harness;

use std::time::{Duration, Instant};

use everlog_partition::SkippedTime;
use everlog_proto::api::command::v1::{Command, StartTimerCommandAttributes, command::Attributes};
use everlog_proto::api::common::v1::{RetryPolicy, WorkflowType};
use everlog_proto::api::enums::v1::{CommandType, EventType, TimeoutType, WorkflowExecutionStatus};
use everlog_proto::api::failure::v1::failure::FailureInfo;
use everlog_proto::api::history::v1::HistoryEvent;
use everlog_proto::api::history::v1::history_event::Attributes as EventAttributes;
use everlog_proto::api::schedule::v1::{IntervalSpec, Schedule, ScheduleAction, ScheduleSpec, schedule_action::Action};
use everlog_proto::api::testservice::v1::{
    LockTimeSkippingRequest, SleepRequest, SleepUntilRequest, UnlockTimeSkippingRequest,
};
use everlog_proto::api::workflow::v1::NewWorkflowExecutionInfo;
use everlog_proto::api::workflowservice::v1::{
    CreateScheduleRequest, DeleteScheduleRequest, PollActivityTaskQueueResponse, RespondActivityTaskFailedRequest,
};
use everlog_proto::clients::TestServiceClient;
use everlog_proto::wkt;
use harness::requests::{
    NAMESPACE, activity_done, complete, describe, history, poll_activity, respond, schedule_activity, seconds,
};
use harness::{Client, Server, poll, start_request, task_queue, within};
use tonic::Code;
use tonic::transport::Channel;

type TestClient = TestServiceClient<Channel>;

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;
const LONG: Duration = Duration::from_secs(30);

/// A server that begins locked, and its two services.
async fn serve() -> (Server, Client, TestClient) {
    let server = Server::skipping(SkippedTime::new(true)).await;
    let (client, test) = (server.client().await, TestClient::new(server.channel().await));
    (server, client, test)
}

async fn now(test: &mut TestClient) -> i64 {
    test.get_current_time(()).await.unwrap().into_inner().time.unwrap().seconds
}

async fn unlock(test: &mut TestClient) {
    test.unlock_time_skipping(UnlockTimeSkippingRequest {}).await.unwrap();
}

async fn lock(test: &mut TestClient) {
    test.lock_time_skipping(LockTimeSkippingRequest {}).await.unwrap();
}

/// That about so many seconds have passed.
fn assert_passed(begun: i64, now: i64, expected: i64) {
    let passed = now - begun;
    assert!((expected..expected + 30).contains(&passed), "{passed} s have passed instead of {expected}");
}

fn timer(timer_id: &str, after: i64) -> Command {
    Command {
        command_type: CommandType::StartTimer as i32,
        attributes: Some(Attributes::StartTimerCommandAttributes(StartTimerCommandAttributes {
            timer_id: timer_id.to_owned(),
            start_to_fire_timeout: seconds(after),
        })),
        ..Command::default()
    }
}

/// An activity that is tried four times, an hour later at first, with a minute between heartbeats.
fn retried_activity() -> Command {
    let mut command = schedule_activity("a");
    let Some(Attributes::ScheduleActivityTaskCommandAttributes(attributes)) = &mut command.attributes else {
        unreachable!("it schedules an activity")
    };
    attributes.start_to_close_timeout = seconds(10 * HOUR);
    attributes.heartbeat_timeout = seconds(60);
    attributes.retry_policy = Some(RetryPolicy {
        initial_interval: seconds(HOUR),
        backoff_coefficient: 2.0,
        maximum_attempts: 4,
        ..RetryPolicy::default()
    });
    command
}

async fn answer(client: &mut Client, task_token: Vec<u8>, commands: Vec<Command>) {
    client.respond_workflow_task_completed(respond(task_token, commands)).await.unwrap();
}

async fn poll_activity_task(client: &mut Client) -> PollActivityTaskQueueResponse {
    let task = client.poll_activity_task_queue(within(LONG, poll_activity("queue"))).await.unwrap().into_inner();
    assert!(!task.task_token.is_empty(), "no activity task");
    task
}

async fn events(client: &mut Client, workflow_id: &str) -> Vec<HistoryEvent> {
    let page = client.get_workflow_execution_history(history(workflow_id, Vec::new())).await.unwrap();
    page.into_inner().history.unwrap().events
}

fn has(events: &[HistoryEvent], kind: EventType) -> bool {
    events.iter().any(|event| event.event_type() == kind)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_year_of_timers_takes_no_time() {
    const MONTH: i64 = 30 * DAY;
    let (server, mut client, mut test) = serve().await;
    let begun = now(&mut test).await;
    client.start_workflow_execution(start_request("w")).await.unwrap();
    unlock(&mut test).await;
    let began = Instant::now();
    for month in 0..12 {
        let task = poll(&mut client).await;
        answer(&mut client, task.task_token, vec![timer(&format!("month {month}"), MONTH)]).await;
    }
    let task = poll(&mut client).await;
    answer(&mut client, task.task_token, vec![complete("done")]).await;
    // Generous: the machine may be busy.
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert_passed(begun, now(&mut test).await, 12 * MONTH);
    // Nothing is due any more but the end of the closed run, for which nobody waits.
    assert_passed(begun, now(&mut test).await, 12 * MONTH);
    let info = client.describe_workflow_execution(describe("w")).await.unwrap().into_inner();
    let info = info.workflow_execution_info.unwrap();
    assert_eq!(info.status(), WorkflowExecutionStatus::Completed);
    let lasted = info.close_time.unwrap().seconds - info.start_time.unwrap().seconds;
    assert_passed(0, lasted, 12 * MONTH);
    server.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn time_stands_by_while_a_worker_has_a_task() {
    let (server, mut client, mut test) = serve().await;
    let begun = now(&mut test).await;
    client.start_workflow_execution(start_request("w")).await.unwrap();
    unlock(&mut test).await;
    assert_passed(begun, now(&mut test).await, 0);
    let task = poll(&mut client).await;
    assert_passed(begun, now(&mut test).await, 0);
    answer(&mut client, task.task_token, vec![timer("t", DAY), schedule_activity("a")]).await;
    // The activity waits for a worker, then one has it.
    assert_passed(begun, now(&mut test).await, 0);
    let activity = poll_activity_task(&mut client).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_passed(begun, now(&mut test).await, 0);
    client.respond_activity_task_completed(activity_done(activity.task_token)).await.unwrap();
    let task = poll(&mut client).await;
    assert_passed(begun, now(&mut test).await, 0);
    answer(&mut client, task.task_token, vec![]).await;
    let task = poll(&mut client).await;
    assert_passed(begun, now(&mut test).await, DAY);
    assert!(has(&events(&mut client, "w").await, EventType::TimerFired));
    answer(&mut client, task.task_token, vec![complete("done")]).await;
    server.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_that_back_off_come_at_once() {
    let (server, mut client, mut test) = serve().await;
    let begun = now(&mut test).await;
    client.start_workflow_execution(start_request("w")).await.unwrap();
    unlock(&mut test).await;
    let task = poll(&mut client).await;
    answer(&mut client, task.task_token, vec![retried_activity()]).await;
    let mut passed = 0;
    for attempt in 1..=4 {
        let task = poll_activity_task(&mut client).await;
        assert_eq!(task.attempt, attempt);
        assert_passed(begun, task.started_time.unwrap().seconds, passed);
        passed += HOUR << (attempt - 1);
        if attempt < 4 {
            let failed = RespondActivityTaskFailedRequest {
                namespace: NAMESPACE.to_owned(),
                task_token: task.task_token,
                ..RespondActivityTaskFailedRequest::default()
            };
            client.respond_activity_task_failed(failed).await.unwrap();
        } else {
            client.respond_activity_task_completed(activity_done(task.task_token)).await.unwrap();
        }
    }
    let task = poll(&mut client).await;
    answer(&mut client, task.task_token, vec![complete("done")]).await;
    assert_passed(begun, now(&mut test).await, 7 * HOUR);
    server.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_activity_that_sleeps_by_the_service_misses_its_heartbeats() {
    let (server, mut client, mut test) = serve().await;
    let begun = now(&mut test).await;
    client.start_workflow_execution(start_request("w")).await.unwrap();
    // As an environment does that waits for the result.
    unlock(&mut test).await;
    let task = poll(&mut client).await;
    let mut activity = retried_activity();
    if let Some(Attributes::ScheduleActivityTaskCommandAttributes(attributes)) = &mut activity.attributes {
        attributes.retry_policy.as_mut().unwrap().maximum_attempts = 1;
    }
    answer(&mut client, task.task_token, vec![activity]).await;
    poll_activity_task(&mut client).await;
    assert_passed(begun, now(&mut test).await, 0);
    let mut sleeping = test.clone();
    let sleep = tokio::spawn(async move {
        sleeping.unlock_time_skipping_with_sleep(SleepRequest { duration: seconds(120) }).await.unwrap();
    });
    let task = poll(&mut client).await;
    let timed_out = task.history.unwrap().events.into_iter().find_map(|event| match event.attributes {
        Some(EventAttributes::ActivityTaskTimedOutEventAttributes(timed_out)) => timed_out.failure,
        _ => None,
    });
    let Some(FailureInfo::TimeoutFailureInfo(info)) = timed_out.unwrap().failure_info else { panic!("no timeout") };
    assert_eq!(info.timeout_type(), TimeoutType::Heartbeat);
    answer(&mut client, task.task_token, vec![complete("done")]).await;
    sleep.await.unwrap();
    assert_passed(begun, now(&mut test).await, 120);
    server.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cron_workflow_runs_whenever_it_is_due() {
    let (server, mut client, mut test) = serve().await;
    let mut request = start_request("w");
    request.cron_schedule = "0 12 * * *".to_owned();
    client.start_workflow_execution(request).await.unwrap();
    unlock(&mut test).await;
    let mut starts = Vec::new();
    for _ in 0..3 {
        let task = poll(&mut client).await;
        starts.push(task.started_time.unwrap().seconds);
        if starts.len() == 3 {
            lock(&mut test).await;
        }
        answer(&mut client, task.task_token, vec![complete("done")]).await;
    }
    for (day, start) in starts.iter().enumerate() {
        assert_passed(starts[0] - starts[0] % DAY + 12 * HOUR + day as i64 * DAY, *start, 0);
    }
    server.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_acts_whenever_it_is_due() {
    let (server, mut client, mut test) = serve().await;
    let start = NewWorkflowExecutionInfo {
        workflow_id: "scheduled".to_owned(),
        workflow_type: Some(WorkflowType { name: "type".to_owned() }),
        task_queue: task_queue("queue"),
        ..NewWorkflowExecutionInfo::default()
    };
    let schedule = Schedule {
        spec: Some(ScheduleSpec {
            interval: vec![IntervalSpec { interval: seconds(DAY), phase: seconds(HOUR) }],
            ..ScheduleSpec::default()
        }),
        action: Some(ScheduleAction { action: Some(Action::StartWorkflow(start)) }),
        ..Schedule::default()
    };
    let create = CreateScheduleRequest {
        namespace: NAMESPACE.to_owned(),
        schedule_id: "daily".to_owned(),
        schedule: Some(schedule),
        request_id: "create".to_owned(),
        ..CreateScheduleRequest::default()
    };
    client.create_schedule(create).await.unwrap();
    unlock(&mut test).await;
    let mut first = None;
    for day in 0..30 {
        let task = poll(&mut client).await;
        let start = task.started_time.unwrap().seconds;
        let first = *first.get_or_insert(start - start % DAY + HOUR);
        assert_passed(first, start, day * DAY);
        answer(&mut client, task.task_token, vec![complete("done")]).await;
    }
    let delete = DeleteScheduleRequest {
        namespace: NAMESPACE.to_owned(),
        schedule_id: "daily".to_owned(),
        ..DeleteScheduleRequest::default()
    };
    client.delete_schedule(delete).await.unwrap();
    server.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_sleeps_by_the_service_is_woken_in_time_and_locks_are_counted() {
    let (server, mut client, mut test) = serve().await;
    let begun = now(&mut test).await;
    // Locked, a sleep takes its time.
    let began = Instant::now();
    test.sleep(SleepRequest { duration: Some(wkt::Duration { seconds: 0, nanos: 100_000_000 }) }).await.unwrap();
    assert!(began.elapsed() >= Duration::from_millis(100));
    test.unlock_time_skipping_with_sleep(SleepRequest { duration: seconds(DAY) }).await.unwrap();
    assert_passed(begun, now(&mut test).await, DAY);
    // What is not there is over, and what has passed.
    test.sleep(SleepRequest { duration: None }).await.unwrap();
    test.sleep(SleepRequest { duration: seconds(-1) }).await.unwrap();
    let until = |seconds| SleepUntilRequest { timestamp: Some(wkt::Timestamp { seconds, nanos: 0 }) };
    test.sleep_until(until(begun)).await.unwrap();
    test.sleep_until(SleepUntilRequest { timestamp: None }).await.unwrap();
    assert_passed(begun, now(&mut test).await, DAY);

    unlock(&mut test).await;
    test.sleep_until(until(begun + 2 * DAY)).await.unwrap();
    test.sleep(SleepRequest { duration: seconds(DAY) }).await.unwrap();
    assert_passed(begun, now(&mut test).await, 3 * DAY);
    let refused = test.unlock_time_skipping(UnlockTimeSkippingRequest {}).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::Unknown, "Unbalanced lock and unlock calls"));
    let refused = test.unlock_time_skipping_with_sleep(SleepRequest { duration: seconds(1) }).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::Unknown, "Unbalanced lock and unlock calls"));
    lock(&mut test).await;
    lock(&mut test).await;
    unlock(&mut test).await;
    // A workflow that waits for a day waits on.
    client.start_workflow_execution(start_request("w")).await.unwrap();
    let task = poll(&mut client).await;
    answer(&mut client, task.task_token, vec![timer("t", DAY)]).await;
    assert_passed(begun, now(&mut test).await, 3 * DAY);
    assert!(!has(&events(&mut client, "w").await, EventType::TimerFired));
    server.stopped().await;
}

#[tokio::test]
async fn a_server_that_skips_no_time_does_not_offer_it() {
    let server = Server::start().await;
    let mut test = TestClient::new(server.channel().await);
    let refused = test.get_current_time(()).await.unwrap_err();
    assert_eq!(
        (refused.code(), refused.message()),
        (Code::Unimplemented, "unknown service temporal.api.testservice.v1.TestService")
    );
    server.stopped().await;
}
