//! The guard for cost: how many log entries, synced writes, rows and bytes a piece of work may take.
//!
//! Everything is done one at a time, so the counts are the same on every machine and in every run. A change that makes one of
//! them smaller lowers the number here; one that makes it larger needs a good reason.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // a test fails by panicking, also in its helpers

mod harness;

use std::time::Duration;

use everlog_config::DynamicConfig;
use everlog_proto::api::enums::v1::ParentClosePolicy;
use everlog_proto::api::workflowservice::v1::{
    PollActivityTaskQueueResponse, ResetWorkflowExecutionRequest, RespondWorkflowTaskCompletedRequest,
    RespondWorkflowTaskCompletedResponse,
};
use harness::requests::{
    NAMESPACE, activity_done, complete, poll_activity, poll_workflow, respond, schedule_activity, signal, start_child,
};
use harness::updates::{able, completed, rejected, update};
use harness::{Client, Server, execution, poll, start_request, within};

const LONG: Duration = Duration::from_secs(30);

/// What a node has written since it started, or what a step has added to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Written {
    /// Entries of the Raft logs.
    entries: u64,
    /// Synced writes of the log.
    fsyncs: u64,
    /// Bytes of those writes.
    log_bytes: u64,
    /// Row changes applied.
    rows: u64,
    /// Bytes of their keys and values.
    row_bytes: u64,
}

impl Written {
    fn so_far(server: &Server) -> Written {
        let (log, state) = (server.node.log_stats(), server.node.state_stats());
        Written {
            entries: server
                .node
                .parts
                .router
                .partitions()
                .all()
                .iter()
                .map(|partition| partition.group().applied_index())
                .sum(),
            fsyncs: log.fsyncs,
            log_bytes: log.bytes,
            rows: state.rows,
            row_bytes: state.bytes,
        }
    }

    fn since(self, before: Written) -> Written {
        Written {
            entries: self.entries - before.entries,
            fsyncs: self.fsyncs - before.fsyncs,
            log_bytes: self.log_bytes - before.log_bytes,
            rows: self.rows - before.rows,
            row_bytes: self.row_bytes - before.row_bytes,
        }
    }
}

/// A server whose writes are counted step by step.
struct Counted {
    server: Server,
    client: Client,
    before: Written,
}

impl Counted {
    async fn start() -> Counted {
        let server = Server::with(1, DynamicConfig::default()).await;
        let client = server.client().await;
        let before = Written::so_far(&server);
        Counted { server, client, before }
    }

    /// What was written since the last call.
    fn step(&mut self, name: &str) -> Written {
        let now = Written::so_far(&self.server);
        let step = now.since(self.before);
        self.before = now;
        println!("{name:28} {step:?}");
        step
    }

    async fn respond(
        &mut self,
        token: Vec<u8>,
        commands: Vec<everlog_proto::api::command::v1::Command>,
    ) -> RespondWorkflowTaskCompletedResponse {
        self.client.respond_workflow_task_completed(respond(token, commands)).await.unwrap().into_inner()
    }

    async fn poll_activity(&mut self) -> PollActivityTaskQueueResponse {
        let task =
            self.client.poll_activity_task_queue(within(LONG, poll_activity("queue"))).await.unwrap().into_inner();
        assert!(!task.task_token.is_empty());
        task
    }
}

#[tokio::test]
async fn a_workflow_with_one_activity_takes_four_commits() {
    let mut counted = Counted::start().await;
    // The first one meets cold paths; the second one is what every other costs.
    for workflow_id in ["first", "second"] {
        let begin = counted.before;
        println!("-- {workflow_id}");
        counted.client.start_workflow_execution(start_request(workflow_id)).await.unwrap();
        let start = counted.step("start");
        let task = poll(&mut counted.client).await;
        let first_poll = counted.step("poll workflow task");
        counted.respond(task.task_token, vec![schedule_activity("a")]).await;
        let schedule = counted.step("schedule activity");
        let activity = counted.poll_activity().await;
        let activity_poll = counted.step("poll activity task");
        counted.client.respond_activity_task_completed(activity_done(activity.task_token)).await.unwrap();
        let result = counted.step("complete activity");
        let task = poll(&mut counted.client).await;
        let second_poll = counted.step("poll workflow task");
        counted.respond(task.task_token, vec![complete("done")]).await;
        let close = counted.step("close");
        let all = counted.before.since(begin);
        println!("{:28} {all:?}", "all");

        for poll in [first_poll, activity_poll, second_poll] {
            assert_eq!(poll, Written::default(), "handing out a task writes nothing");
        }
        for commit in [start, schedule, result, close] {
            assert_eq!(commit.entries, 1);
            assert!(commit.fsyncs <= 1);
        }
        assert_eq!(all.entries, 4);
        let rows = [start, schedule, result, close].map(|commit| commit.rows);
        // With the first task that is completed the run's worker is known: two rows more, that and its place in lists.
        assert!(rows.iter().zip([6, 7, 5, 6]).all(|(rows, rows_max)| *rows <= rows_max), "{rows:?}");
        assert!(all.row_bytes <= 3_420, "{all:?}");
        assert!(all.log_bytes <= 3_000, "{all:?}");
    }
    counted.server.stopped().await;
}

#[tokio::test]
async fn a_workflow_with_one_child_takes_few_commits() {
    let mut counted = Counted::start().await;
    for workflow_id in ["first", "second"] {
        let begin = counted.before;
        println!("-- {workflow_id}");
        counted.client.start_workflow_execution(start_request(workflow_id)).await.unwrap();
        counted.step("start");
        let task = poll(&mut counted.client).await;
        let child = format!("child of {workflow_id}");
        let commands = vec![start_child(&child, "children", ParentClosePolicy::Terminate)];
        counted.respond(task.task_token, commands).await;
        // The parent hears that the child was started, and then of its end.
        let task = poll(&mut counted.client).await;
        counted.respond(task.task_token, Vec::new()).await;
        let begun = counted.step("start child");
        let polled = counted.client.poll_workflow_task_queue(within(LONG, poll_workflow("children"))).await;
        let task = polled.unwrap().into_inner();
        counted.respond(task.task_token, vec![complete("out")]).await;
        let task = poll(&mut counted.client).await;
        let ended = counted.step("complete child");
        counted.respond(task.task_token, vec![complete("done")]).await;
        counted.step("close");
        println!("{:28} {:?}", "all", counted.before.since(begin));
        // The command, the child, its parent's event, and that a worker has seen that.
        assert!(begun.entries <= 4, "{begun:?}");
        // The child's end, its parent's event; the message's row goes with that or by itself.
        assert!(ended.entries <= 3, "{ended:?}");
    }
    counted.server.stopped().await;
}

#[tokio::test]
async fn an_update_costs_one_commit_and_a_rejected_one_none() {
    let mut counted = Counted::start().await;
    counted.client.start_workflow_execution(start_request("w")).await.unwrap();
    let task = poll(&mut counted.client).await;
    counted.respond(task.task_token, Vec::new()).await;
    counted.step("first task");
    for number in 0..5 {
        for (update_id, is_rejected) in [(format!("yes {number}"), false), (format!("no {number}"), true)] {
            let waiting = update(&counted.client, NAMESPACE, "w", &update_id);
            let task = poll(&mut counted.client).await;
            let messages = if is_rejected { rejected(&task.messages[0]) } else { completed(&task.messages[0], "done") };
            let request = RespondWorkflowTaskCompletedRequest {
                messages,
                capabilities: able(),
                ..respond(task.task_token, Vec::new())
            };
            counted.client.respond_workflow_task_completed(request).await.unwrap();
            waiting.await.unwrap().unwrap();
            let step = counted.step(&update_id);
            if is_rejected {
                assert_eq!(step, Written::default(), "{update_id}");
            } else {
                // Five events, the update's row, and the state of the run.
                assert!(step.entries == 1 && step.fsyncs == 1 && step.rows <= 3, "{step:?}");
                assert!(step.row_bytes <= 520 && step.log_bytes <= 420, "{step:?}");
            }
        }
    }
    counted.server.stopped().await;
}

#[tokio::test]
async fn a_signal_costs_the_same_however_many_there_were() {
    const SIGNALS: usize = 100;
    let mut counted = Counted::start().await;
    counted.client.start_workflow_execution(start_request("w")).await.unwrap();
    counted.step("start");
    let mut steps = Vec::new();
    for number in 0..SIGNALS {
        counted.client.signal_workflow_execution(signal("w", &format!("{number:03}"))).await.unwrap();
        steps.push(counted.step("signal"));
    }
    // Its event, its request id, and the state of the run.
    assert!(steps.iter().all(|step| step.entries == 1 && step.fsyncs <= 1 && step.rows <= 3), "{steps:?}");
    let (first, last) = (steps[0], steps[SIGNALS - 1]);
    assert!(last.row_bytes <= first.row_bytes + 16, "{first:?} {last:?}");

    // The same request once more changes nothing.
    counted.client.signal_workflow_execution(signal("w", "007")).await.unwrap();
    assert_eq!(counted.step("repeated signal").rows, 0);

    let task = poll(&mut counted.client).await;
    counted.respond(task.task_token, vec![complete("done")]).await;
    let close = counted.step("close");
    assert!(close.entries == 1 && close.rows <= 7, "{close:?}");
    counted.server.stopped().await;
}

#[tokio::test]
async fn signals_that_come_at_once_share_entries() {
    const SIGNALS: usize = 100;
    let mut counted = Counted::start().await;
    counted.client.start_workflow_execution(start_request("w")).await.unwrap();
    counted.step("start");
    let signals = (0..SIGNALS).map(|number| {
        let mut client = counted.client.clone();
        async move { client.signal_workflow_execution(signal("w", &number.to_string())).await.unwrap() }
    });
    futures::future::join_all(signals).await;
    let all = counted.step("signals at once");
    assert!(all.entries < SIGNALS as u64 / 2, "{all:?}");
    assert!(all.fsyncs <= all.entries, "{all:?}");
    counted.server.stopped().await;
}

#[tokio::test]
async fn what_a_transition_writes_does_not_grow_with_the_width_of_a_fan_out() {
    let mut counted = Counted::start().await;
    let mut by_width = Vec::new();
    for width in [2_usize, 200] {
        let workflow_id = format!("{width} wide");
        counted.client.start_workflow_execution(start_request(&workflow_id)).await.unwrap();
        let task = poll(&mut counted.client).await;
        counted.step("start");
        let commands = (0..width).map(|number| schedule_activity(&format!("a{number:03}"))).collect();
        counted.respond(task.task_token, commands).await;
        let schedule = counted.step("schedule activities");
        let mut results = Vec::new();
        for _ in 0..width {
            let activity = counted.poll_activity().await;
            counted.client.respond_activity_task_completed(activity_done(activity.task_token)).await.unwrap();
            results.push(counted.step("complete activity"));
        }
        let task = poll(&mut counted.client).await;
        counted.respond(task.task_token, vec![complete("done")]).await;
        let close = counted.step("close");
        by_width.push((schedule, results, close));
    }
    let [(narrow_schedule, narrow, narrow_close), (wide_schedule, wide, wide_close)] = by_width.as_slice() else {
        panic!("two widths")
    };
    // An activity is a row of its own and a task row; everything else is shared.
    assert_eq!(wide_schedule.entries, 1);
    assert!(wide_schedule.rows - narrow_schedule.rows <= 198 * 2);
    assert!(wide_schedule.row_bytes / 200 <= 350);
    // The first result schedules a workflow task, the others find it there.
    for (index, result) in wide.iter().enumerate() {
        let alike = narrow[index.min(1)];
        assert_eq!((result.entries, result.rows), (1, alike.rows));
        assert!(result.row_bytes <= alike.row_bytes + 32, "{result:?}, narrow: {alike:?}");
    }
    assert!(wide.iter().all(|result| result.rows <= 5));
    assert_eq!((wide_close.entries, wide_close.rows), (1, narrow_close.rows));
    assert!(wide_close.row_bytes <= narrow_close.row_bytes + 48);
    counted.server.stopped().await;
}

/// The new run shares the events before the reset: what is written does not grow with them.
#[tokio::test]
async fn a_reset_writes_no_more_for_a_longer_history() {
    let mut counted = Counted::start().await;
    let mut resets = Vec::new();
    for (workflow_id, tasks) in [("first", 2), ("short", 2), ("long", 200)] {
        counted.client.start_workflow_execution(start_request(workflow_id)).await.unwrap();
        let mut last_start = 0;
        for number in 0..tasks {
            counted.client.signal_workflow_execution(signal(workflow_id, &number.to_string())).await.unwrap();
            let task = poll(&mut counted.client).await;
            last_start = task.started_event_id;
            counted.respond(task.task_token, Vec::new()).await;
        }
        counted.step(workflow_id);
        let request = ResetWorkflowExecutionRequest {
            namespace: NAMESPACE.to_owned(),
            workflow_execution: execution(workflow_id),
            workflow_task_finish_event_id: last_start + 1,
            request_id: "reset".to_owned(),
            ..ResetWorkflowExecutionRequest::default()
        };
        counted.client.reset_workflow_execution(request).await.unwrap();
        resets.push(counted.step("reset"));
        // The whole history goes to the worker.
        let task = poll(&mut counted.client).await;
        assert!(task.started_event_id > last_start && task.history.unwrap().events[0].event_id == 1);
        counted.respond(task.task_token, vec![complete("done")]).await;
        counted.step("close");
    }
    let [_, short, long] = resets[..] else { panic!("three resets") };
    assert_eq!((long.entries, long.rows), (1, short.rows));
    // Numbers are longer.
    assert!(long.row_bytes <= short.row_bytes + 64, "{short:?} {long:?}");
    assert!(short.rows <= 16, "{short:?}");
}
