//! A namespace with all kinds of things in it moves from one placement to another and back, while callers and workers go on.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use everlog_meta::STALE_MAX_DEFAULT;
use everlog_proto::api::command::v1::command::Attributes;
use everlog_proto::api::command::v1::{
    Command, CompleteWorkflowExecutionCommandAttributes, StartTimerCommandAttributes,
};
use everlog_proto::api::enums::v1::CommandType;
use everlog_proto::api::schedule::v1::schedule_action::Action;
use everlog_proto::api::schedule::v1::{IntervalSpec, Schedule, ScheduleAction, ScheduleSpec};
use everlog_proto::api::workflow::v1::NewWorkflowExecutionInfo;
use everlog_proto::api::workflowservice::v1::{
    CountWorkflowExecutionsRequest, CreateScheduleRequest, DescribeScheduleRequest, ListWorkflowExecutionsRequest,
    PollWorkflowTaskQueueRequest, RespondWorkflowTaskCompletedRequest, SignalWorkflowExecutionRequest,
};
use serde_json::Value;
use tokio::task::JoinSet;

use super::harness::{execution, within};
use super::pools::moves;
use super::*;

/// Workflows that nobody works on, and those of a queue whose workers go on.
const IDLE: usize = 40;

/// Whoever calls until he is told to stop. What he calls must not fail.
#[derive(Default)]
struct Calls {
    is_over: AtomicBool,
    completed: AtomicUsize,
    signalled: AtomicUsize,
    listed: AtomicUsize,
}

impl Calls {
    fn goes_on(&self) -> bool {
        !self.is_over.load(Ordering::Relaxed)
    }
}

async fn started(client: &mut Client, id: &str, queue: &str) {
    let request = everlog_proto::api::workflowservice::v1::StartWorkflowExecutionRequest {
        task_queue: harness::task_queue(queue),
        ..start_request(id)
    };
    client.start_workflow_execution(request).await.unwrap_or_else(|status| panic!("start of {id}: {status}"));
}

async fn signalled(client: &mut Client, id: &str, name: &str) {
    let request = SignalWorkflowExecutionRequest {
        namespace: "default".to_owned(),
        workflow_execution: execution(id),
        signal_name: name.to_owned(),
        request_id: format!("{id} {name}"),
        ..SignalWorkflowExecutionRequest::default()
    };
    client.signal_workflow_execution(request).await.unwrap_or_else(|status| panic!("signal to {id}: {status}"));
}

/// The ids of all runs that a query finds, each as often as it is shown, page by page.
async fn listed(client: &mut Client, query: &str) -> Vec<String> {
    listed_by(client, query, "lease").await
}

/// The same, read in one of the ways that a call may name.
async fn listed_by(client: &mut Client, query: &str, how: &'static str) -> Vec<String> {
    let (mut ids, mut token) = (Vec::new(), Vec::new());
    loop {
        let request = ListWorkflowExecutionsRequest {
            namespace: "default".to_owned(),
            query: query.to_owned(),
            page_size: 7,
            next_page_token: token,
        };
        let mut request = tonic::Request::new(request);
        request.metadata_mut().insert("everlog-read", how.parse().unwrap());
        let page = client.list_workflow_executions(request).await.unwrap_or_else(|status| panic!("{query}: {status}"));
        let page = page.into_inner();
        ids.extend(page.executions.into_iter().map(|run| run.execution.unwrap().workflow_id));
        token = page.next_page_token;
        if token.is_empty() {
            return ids;
        }
    }
}

async fn counted(client: &mut Client, query: &str) -> i64 {
    let request = CountWorkflowExecutionsRequest { namespace: "default".to_owned(), query: query.to_owned() };
    client.count_workflow_executions(request).await.unwrap().into_inner().count
}

/// Takes tasks and does what their workflows are for: a timer at first, and the end when it has fired.
async fn work(mut client: Client, calls: Arc<Calls>) {
    while calls.goes_on() {
        let request = PollWorkflowTaskQueueRequest {
            namespace: "default".to_owned(),
            task_queue: harness::task_queue("busy"),
            identity: "worker".to_owned(),
            ..PollWorkflowTaskQueueRequest::default()
        };
        let task = client.poll_workflow_task_queue(within(Duration::from_secs(5), request)).await;
        let task = match task {
            Ok(task) => task.into_inner(),
            Err(status) if status.code() == tonic::Code::DeadlineExceeded => continue,
            Err(status) => panic!("poll: {status}"),
        };
        if task.task_token.is_empty() {
            continue;
        }
        let has_fired = task
            .history
            .iter()
            .flat_map(|history| &history.events)
            .any(|event| event.event_type() == everlog_proto::api::enums::v1::EventType::TimerFired);
        let command = if has_fired {
            let attributes = CompleteWorkflowExecutionCommandAttributes::default();
            Command {
                command_type: CommandType::CompleteWorkflowExecution as i32,
                attributes: Some(Attributes::CompleteWorkflowExecutionCommandAttributes(attributes)),
                ..Command::default()
            }
        } else {
            let attributes = StartTimerCommandAttributes {
                timer_id: "t".to_owned(),
                start_to_fire_timeout: Some(everlog_proto::wkt::Duration { seconds: 0, nanos: 300_000_000 }),
            };
            Command {
                command_type: CommandType::StartTimer as i32,
                attributes: Some(Attributes::StartTimerCommandAttributes(attributes)),
                ..Command::default()
            }
        };
        let request = RespondWorkflowTaskCompletedRequest {
            task_token: task.task_token,
            commands: vec![command],
            namespace: "default".to_owned(),
            ..RespondWorkflowTaskCompletedRequest::default()
        };
        match client.respond_workflow_task_completed(request).await {
            Ok(_) => drop(calls.completed.fetch_add(usize::from(has_fired), Ordering::Relaxed)),
            // As at a change of lead the task may have been given to another one.
            Err(status) if status.code() == tonic::Code::NotFound => {}
            Err(status) => panic!("completion: {status}"),
        }
    }
}

/// Starts workflows one after the other, and looks whether each is shown once.
async fn start(mut client: Client, calls: Arc<Calls>, name: usize) -> usize {
    let mut count = 0;
    while calls.goes_on() {
        let id = format!("busy-{name}-{count}");
        started(&mut client, &id, "busy").await;
        count += 1;
        let shown = listed(&mut client, &format!("WorkflowId = '{id}'")).await;
        assert_eq!(shown, [id], "once it was acknowledged");
        calls.listed.fetch_add(1, Ordering::Relaxed);
    }
    count
}

/// Signals workflows that nobody works on, and looks whether all of them are shown, each once.
async fn signal(mut client: Client, calls: Arc<Calls>) -> usize {
    let (mut round, begin) = (0, Instant::now());
    let all: BTreeSet<String> = (0..IDLE).map(|number| format!("idle-{number}")).collect();
    while calls.goes_on() {
        for id in &all {
            signalled(&mut client, id, &format!("s{round}")).await;
            calls.signalled.fetch_add(1, Ordering::Relaxed);
        }
        let shown = listed(&mut client, "TaskQueue = 'nobody'").await;
        assert_eq!((shown.len(), shown.into_iter().collect::<BTreeSet<_>>()), (IDLE, all.clone()));
        // Whatever a replica lacks was started a moment ago.
        let may_lack = begin.elapsed() < STALE_MAX_DEFAULT;
        let shown = listed_by(&mut client, "TaskQueue = 'nobody'", "stale").await;
        let ids: BTreeSet<_> = shown.iter().cloned().collect();
        assert_eq!(shown.len(), ids.len(), "each once: {shown:?}");
        assert!(ids == all || may_lack && ids.is_subset(&all), "{ids:?}");
        assert_eq!(counted(&mut client, "TaskQueue = 'nobody'").await, i64::try_from(IDLE).unwrap());
        round += 1;
    }
    round
}

/// A schedule that starts a workflow each second.
async fn scheduled(client: &mut Client) {
    let workflow = NewWorkflowExecutionInfo {
        workflow_id: "tick".to_owned(),
        workflow_type: start_request("x").workflow_type,
        task_queue: harness::task_queue("busy"),
        ..NewWorkflowExecutionInfo::default()
    };
    let interval = IntervalSpec {
        interval: Some(everlog_proto::wkt::Duration { seconds: 1, nanos: 0 }),
        ..IntervalSpec::default()
    };
    let schedule = Schedule {
        spec: Some(ScheduleSpec { interval: vec![interval], ..ScheduleSpec::default() }),
        action: Some(ScheduleAction { action: Some(Action::StartWorkflow(workflow)) }),
        ..Schedule::default()
    };
    let request = CreateScheduleRequest {
        namespace: "default".to_owned(),
        schedule_id: "each-second".to_owned(),
        schedule: Some(schedule),
        request_id: "r".to_owned(),
        ..CreateScheduleRequest::default()
    };
    client.create_schedule(request).await.unwrap();
}

async fn actions(client: &mut Client) -> i64 {
    let request = DescribeScheduleRequest { namespace: "default".to_owned(), schedule_id: "each-second".to_owned() };
    client.describe_schedule(request).await.unwrap().into_inner().info.unwrap().action_count
}

/// How a namespace moves, as the command line shows it.
async fn shown(node: &Running, name: &str) -> Value {
    let (code, said, error) = node.cluster(&["namespaces", "--output", "json"]).await;
    assert_eq!(code, Some(0), "{error}");
    let all: Value = serde_json::from_str(&said).unwrap();
    all["namespaces"].as_array().unwrap().iter().find(|namespace| namespace["name"] == name).unwrap().clone()
}

async fn arrives(node: &Running, placement: &str) -> usize {
    let begin = Instant::now();
    let mut percents = BTreeSet::new();
    loop {
        let now = shown(node, "default").await;
        if now["move"].is_null() && now["placement"] == placement {
            return percents.len();
        }
        percents.insert(now["move"]["percent"].as_u64());
        assert!(begin.elapsed() < PATIENCE, "{now:#}: {}", node.printed());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_moves_while_callers_and_workers_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let addresses = addresses();
    let start_node = |node| Running::start(&settings(dir.path(), node, &addresses, None));
    let nodes = [start_node(1), start_node(2), start_node(3)];
    let first = &nodes[0];
    first.sees(is_spread).await;
    let file = dir.path().join("placements.toml");
    std::fs::write(&file, "[[placement]]\nname = \"eu\"\nreplicas = 3\n[[placement]]\nname = \"us\"\nreplicas = 1\n")
        .unwrap();
    let (code, _, error) = first.cluster(&["placement", "apply", "-f", file.to_str().unwrap()]).await;
    assert_eq!(code, Some(0), "{error}");
    let mut clients = Vec::new();
    for node in &nodes {
        clients.push(node.client().await);
    }
    let client = &mut clients[0].clone();
    for number in 0..IDLE {
        started(client, &format!("idle-{number}"), "nobody").await;
    }
    scheduled(client).await;
    let calls = Arc::new(Calls::default());
    let mut workers = JoinSet::new();
    for client in clients.iter().chain(&clients) {
        workers.spawn(work(client.clone(), Arc::clone(&calls)));
    }
    let (mut starters, mut signallers) = (JoinSet::new(), JoinSet::new());
    for (name, client) in clients.iter().enumerate() {
        starters.spawn(start(client.clone(), Arc::clone(&calls), name));
    }
    signallers.spawn(signal(clients[1].clone(), Arc::clone(&calls)));
    let before = actions(client).await;
    for (round, placement) in ["eu", "default", "eu"].into_iter().enumerate() {
        let told = clients[round].update_namespace(moves("default", placement)).await.unwrap().into_inner();
        let data = told.namespace_info.unwrap().data;
        assert_eq!(data["everlog.placement"], placement, "where it is to be");
        if let Some(text) = data.get("everlog.move") {
            assert!(text.starts_with(&format!("to {placement}: ")), "{text}");
            let diverted = clients[round].update_namespace(moves("default", "us")).await;
            // It may be there by now, and moves on then; nobody can tell which.
            if let Err(status) = diverted {
                assert!(status.message().contains(&format!("moves to {placement}: ")), "{status}");
                arrives(first, placement).await;
                continue;
            }
            arrives(first, "us").await;
            clients[round].update_namespace(moves("default", placement)).await.unwrap();
        }
        arrives(first, placement).await;
    }
    // The callers see something of where it is now.
    let done = calls.completed.load(Ordering::Relaxed);
    let begin = Instant::now();
    while calls.completed.load(Ordering::Relaxed) < done + 10 {
        assert!(begin.elapsed() < PATIENCE, "workflows come to an end where they are now");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    calls.is_over.store(true, Ordering::Relaxed);
    let started: usize = starters.join_all().await.into_iter().sum();
    let rounds: usize = signallers.join_all().await.into_iter().sum();
    workers.join_all().await;
    assert!(started > 10 && rounds > 0, "{started} started, {rounds} rounds of signals");
    let busy = listed(client, "WorkflowId STARTS_WITH 'busy-'").await;
    assert_eq!((busy.len(), busy.into_iter().collect::<BTreeSet<_>>().len()), (started, started));
    assert_eq!(counted(client, "WorkflowId STARTS_WITH 'busy-'").await, i64::try_from(started).unwrap());
    assert!(actions(client).await > before, "the schedule goes on");
    for number in 0..IDLE {
        let history = harness::requests::history(&format!("idle-{number}"), Vec::new());
        let events = client.get_workflow_execution_history(history).await.unwrap().into_inner().history.unwrap().events;
        let is_signal = |event: &&everlog_proto::api::history::v1::HistoryEvent| {
            event.event_type() == everlog_proto::api::enums::v1::EventType::WorkflowExecutionSignaled
        };
        assert_eq!(events.iter().filter(is_signal).count(), rounds, "each signal once");
    }
    // And back, by way of another node.
    clients[2].update_namespace(moves("default", "default")).await.unwrap();
    arrives(&nodes[1], "default").await;
    let (code, table, _) = first.cluster(&["namespaces", "--moving"]).await;
    assert_eq!((code, table.as_str()), (Some(0), "No namespace moves.\n"));
}
