//! Fairness keys: none keeps others waiting, however many tasks it has, and settings of a queue say what each gets.

#![allow(clippy::unwrap_used)] // a test fails by panicking, also in its helpers

mod harness;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use everlog_proto::api::command::v1::command::Attributes;
use everlog_proto::api::common::v1::Priority;
use everlog_proto::api::enums::v1::TaskQueueType;
use everlog_proto::api::taskqueue::v1::RateLimit;
use everlog_proto::api::workflowservice::v1::update_task_queue_config_request::RateLimitUpdate;
use everlog_proto::api::workflowservice::v1::{
    DescribeTaskQueueRequest, StartWorkflowExecutionRequest, UpdateTaskQueueConfigRequest,
};
use harness::requests::{NAMESPACE, activity_done, complete, poll_activity, poll_workflow, respond, schedule_activity};
use harness::{Client, Server, poll, start_request, task_queue, within};

/// Tasks of a queue and partition in memory.
const IN_MEMORY: usize = 20;

/// How long a poll waits: hardly longer than it must.
const POLL: Duration = Duration::from_secs(3);

/// Tasks of the key that has the most of them.
const BACKLOG: usize = 400;

fn priority(key: &str) -> Option<Priority> {
    Some(Priority { fairness_key: key.to_owned(), ..Priority::default() })
}

async fn start(client: &mut Client, key: &str, number: usize) {
    let request =
        StartWorkflowExecutionRequest { priority: priority(key), ..start_request(&format!("{key}/{number}")) };
    client.start_workflow_execution(request).await.unwrap();
}

/// Takes and completes that many workflow tasks. Returns the ids of their workflows.
async fn work_off(client: &mut Client, tasks: usize) -> Vec<String> {
    let mut ids = Vec::new();
    for _ in 0..tasks {
        let task = poll(client).await;
        ids.push(task.workflow_execution.unwrap().workflow_id);
        let done = respond(task.task_token, vec![complete("out")]);
        client.respond_workflow_task_completed(done).await.unwrap();
    }
    ids
}

/// How many of the workflows have each key.
fn shares(ids: &[String]) -> BTreeMap<String, usize> {
    let mut shares = BTreeMap::new();
    ids.iter().for_each(|id| *shares.entry(id.split('/').next().unwrap().to_owned()).or_default() += 1);
    shares
}

async fn configure(client: &mut Client, request: UpdateTaskQueueConfigRequest) {
    let request = UpdateTaskQueueConfigRequest {
        namespace: NAMESPACE.to_owned(),
        identity: "operator".to_owned(),
        task_queue: "queue".to_owned(),
        ..request
    };
    client.update_task_queue_config(request).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_key_does_not_wait_for_a_backlog_that_does_not_fit_into_memory() {
    let server = Server::with_few_tasks_in_memory(2, IN_MEMORY).await;
    let mut client = server.client().await;
    for number in 0..BACKLOG {
        start(&mut client, "large", number).await;
    }
    for key in 0..20 {
        start(&mut client, &format!("small-{key}"), 0).await;
    }
    // Each of them and a few of the large one.
    let ids = work_off(&mut client, 30).await;
    assert_eq!(shares(&ids).len(), 21, "{:?}", shares(&ids));
    assert!(work_off(&mut client, 50).await.iter().all(|id| id.starts_with("large/")));
    // Nor does one that comes later.
    start(&mut client, "late", 0).await;
    start(&mut client, "late", 1).await;
    let ids = work_off(&mut client, 8).await;
    assert_eq!(shares(&ids).get("late"), Some(&2), "{ids:?}");
    // All others come as well, each once.
    let rest = work_off(&mut client, BACKLOG + 22 - 88).await;
    assert!(rest.iter().all(|id| id.starts_with("large/")));
    let nothing = client.poll_workflow_task_queue(within(POLL, poll_workflow("queue"))).await.unwrap();
    assert!(nothing.into_inner().task_token.is_empty());
    server.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_give_a_key_its_weight_at_once() {
    let server = Server::with_few_tasks_in_memory(2, IN_MEMORY).await;
    let mut client = server.client().await;
    for number in 0..BACKLOG {
        start(&mut client, if number.is_multiple_of(2) { "a" } else { "b" }, number).await;
    }
    let ids = work_off(&mut client, 40).await;
    assert!(shares(&ids)["a"].abs_diff(20) <= 2, "{:?}", shares(&ids));
    let weights = UpdateTaskQueueConfigRequest {
        task_queue_type: TaskQueueType::Workflow.into(),
        set_fairness_weight_overrides: [("a".to_owned(), 4.0)].into(),
        ..UpdateTaskQueueConfigRequest::default()
    };
    configure(&mut client, weights).await;
    let ids = work_off(&mut client, 100).await;
    assert!(shares(&ids)["a"].abs_diff(80) <= 4, "{:?}", shares(&ids));
    let unset = UpdateTaskQueueConfigRequest {
        task_queue_type: TaskQueueType::Workflow.into(),
        unset_fairness_weight_overrides: vec!["a".to_owned()],
        ..UpdateTaskQueueConfigRequest::default()
    };
    configure(&mut client, unset).await;
    let ids = work_off(&mut client, 60).await;
    assert!(shares(&ids)["a"].abs_diff(30) <= 3, "{:?}", shares(&ids));
    server.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_key_is_handed_out_as_often_as_settings_allow() {
    const PER_SECOND: f32 = 4.0;
    let server = Server::start().await;
    let mut client = server.client().await;
    let limit = UpdateTaskQueueConfigRequest {
        task_queue_type: TaskQueueType::Activity.into(),
        update_fairness_key_rate_limit_default: Some(RateLimitUpdate {
            rate_limit: Some(RateLimit { requests_per_second: PER_SECOND }),
            reason: "why".to_owned(),
        }),
        set_fairness_weight_overrides: [("heavy".to_owned(), 2.0)].into(),
        ..UpdateTaskQueueConfigRequest::default()
    };
    configure(&mut client, limit).await;
    let described = DescribeTaskQueueRequest {
        namespace: NAMESPACE.to_owned(),
        task_queue: task_queue("queue"),
        task_queue_type: TaskQueueType::Activity.into(),
        report_config: true,
        ..DescribeTaskQueueRequest::default()
    };
    let config = client.describe_task_queue(described).await.unwrap().into_inner().config.unwrap();
    assert_eq!(config.fairness_weight_overrides, [("heavy".to_owned(), 2.0)].into());
    let limit = config.fairness_keys_rate_limit_default.unwrap().rate_limit.unwrap();
    assert_eq!(limit.requests_per_second, PER_SECOND);

    client.start_workflow_execution(start_request("workflow")).await.unwrap();
    let task = poll(&mut client).await;
    let schedule = |number: usize| {
        let mut command = schedule_activity(&format!("activity-{number}"));
        if let Some(Attributes::ScheduleActivityTaskCommandAttributes(attributes)) = &mut command.attributes {
            attributes.priority = priority(if number.is_multiple_of(2) { "light" } else { "heavy" });
        }
        command
    };
    let commands = (0..120).map(schedule).collect();
    client.respond_workflow_task_completed(respond(task.task_token, commands)).await.unwrap();
    let (start, mut counts) = (Instant::now(), BTreeMap::<String, f32>::new());
    while start.elapsed() < Duration::from_secs(4) {
        let polled = client.poll_activity_task_queue(within(POLL, poll_activity("queue"))).await;
        let task = polled.unwrap().into_inner();
        // It says whose it is.
        let Some(priority) = task.priority else { continue };
        *counts.entry(priority.fairness_key).or_default() += 1.0;
        client.respond_activity_task_completed(activity_done(task.task_token)).await.unwrap();
    }
    // A second's worth at once, and then as many a second.
    let seconds = start.elapsed().as_secs_f32() + 1.0;
    for (key, weight) in [("light", 1.0), ("heavy", 2.0)] {
        let allowed = PER_SECOND * weight * seconds;
        let count = counts.get(key).copied().unwrap_or_default();
        assert!(count <= allowed + 1.0 && count >= allowed * 0.6, "{key}: {count} of {allowed}");
    }
    server.stopped().await;
}
