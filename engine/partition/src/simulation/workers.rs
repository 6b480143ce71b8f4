//! Workers: they poll matching, start what they are given, and do it, mostly.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll as Polled, Waker};
use std::time::Duration;

use everlog_kernel::RunCommand;
use everlog_kernel::command::{ActivityRef, Objections, Reply, StartActivityTask, StartWorkflowTask};
use everlog_kernel::token::{self, ActivityTaskToken, WorkflowTaskToken};
use everlog_kernel::transition::TaskKind;
use everlog_matching::{Matched, Poll, ScalingRules, TaskLease};
use everlog_model::{CallError, QueueId};
use everlog_proto::api::command::v1::command::Attributes;
use everlog_proto::api::command::v1::{
    Command as WorkflowCommand, CompleteWorkflowExecutionCommandAttributes,
    ContinueAsNewWorkflowExecutionCommandAttributes, FailWorkflowExecutionCommandAttributes,
    RequestCancelExternalWorkflowExecutionCommandAttributes, ScheduleActivityTaskCommandAttributes,
    SignalExternalWorkflowExecutionCommandAttributes, StartChildWorkflowExecutionCommandAttributes,
    StartTimerCommandAttributes,
};
use everlog_proto::api::common::v1::{ActivityType, RetryPolicy, WorkflowExecution, WorkflowType};
use everlog_proto::api::enums::v1::{CommandType, ParentClosePolicy, TaskQueueKind, WorkflowIdReusePolicy};
use everlog_proto::api::failure::v1::Failure;
use everlog_proto::api::taskqueue::v1::{StickyExecutionAttributes, TaskQueue};
use everlog_proto::api::workflowservice::v1::RespondWorkflowTaskCompletedRequest;
use everlog_proto::api::workflowservice::v1::respond_workflow_task_completed_request::Capabilities;

use super::clients::{Asked, WORKFLOWS, workflow_id};
use super::world::{Event, World};
use crate::job::Answer;

/// How long a worker polls.
const POLL: Duration = Duration::from_secs(20);

/// The type of activities that may be attempted once, and that of the others.
pub(super) const ONCE: &str = "Once";
pub(super) const OFTEN: &str = "Often";

/// Runs that signals are sent to: the last few.
const RUNS_REMEMBERED: usize = 4;

/// What a worker does next.
pub(super) enum WorkerEvent {
    Poll(usize),
    /// With the updates that came along.
    CompleteTask(Box<WorkflowTaskToken>, Vec<String>),
    EndActivity(Box<ActivityTaskToken>, bool),
}

/// What a worker polls for, one poll at a time.
pub(super) struct Poller {
    kind: TaskKind,
    queue: &'static str,
    /// The normal queue behind a sticky one.
    normal: Option<&'static str>,
    polling: Option<Pin<Box<dyn Future<Output = Matched>>>>,
}

/// A task between the match and the answer to its start.
pub(super) struct Held {
    poller: usize,
    lease: TaskLease,
}

impl Poller {
    fn new(kind: TaskKind, queue: &'static str, normal: Option<&'static str>) -> Poller {
        Poller { kind, queue, normal, polling: None }
    }

    /// The server is gone.
    pub(super) fn disconnect(&mut self) {
        if self.polling.is_some() {
            self.polling = Some(Box::pin(std::future::ready(Matched::Nothing)));
        }
    }
}

impl World {
    /// Engages the workers.
    pub(super) fn hire(&mut self) {
        let workflow = |queue, normal| Poller::new(TaskKind::Workflow, queue, normal);
        self.pollers = vec![workflow("q", None), workflow("q", None), workflow("sticky", Some("q"))];
        self.pollers.extend((0..3).map(|_| Poller::new(TaskKind::Activity, "aq", None)));
        for poller in 0..self.pollers.len() {
            self.after(Duration::from_millis(1), Event::Worker(WorkerEvent::Poll(poller)));
        }
    }

    pub(super) fn worker(&mut self, event: WorkerEvent) {
        match event {
            WorkerEvent::Poll(poller) => self.poll(poller),
            WorkerEvent::CompleteTask(token, updates) => self.complete_task(*token, updates),
            WorkerEvent::EndActivity(token, succeeds) => self.end_activity(*token, succeeds),
        }
    }

    fn poll(&mut self, number: usize) {
        let Poller { kind, queue, normal, .. } = &self.pollers[number];
        let poll = Poll {
            queue: QueueId::new(self.namespace.id, *kind, *queue),
            normal_name: normal.map(str::to_owned),
            identity: format!("worker-{number}"),
            tasks_per_second_max: None,
            worker_instance_key: String::new(),
            version: None,
            scaling: ScalingRules::default(),
        };
        // Some go away before anything comes.
        let patience = if self.random.percent(10) { self.delay(Duration::from_millis(500)) } else { POLL };
        let matching = self.matching.clone();
        let deadline = tokio::time::Instant::now() + patience;
        self.pollers[number].polling = Some(Box::pin(async move { matching.poll(poll, deadline).await }));
    }

    fn poll_again(&mut self, poller: usize, longest: Duration) {
        let delay = self.delay(longest);
        self.after(delay, Event::Worker(WorkerEvent::Poll(poller)));
    }

    /// Takes what matching has handed out.
    pub(super) fn look_at_polls(&mut self) {
        for number in 0..self.pollers.len() {
            let Some(polling) = &mut self.pollers[number].polling else { continue };
            let Polled::Ready(matched) = polling.as_mut().poll(&mut Context::from_waker(Waker::noop())) else {
                continue;
            };
            self.pollers[number].polling = None;
            match matched {
                Matched::Task(lease) if self.random.percent(97) => self.start_task(number, lease),
                // Also a worker that is gone when its task comes: the lease goes back.
                _ => self.poll_again(number, Duration::from_millis(100)),
            }
        }
    }

    fn start_task(&mut self, poller: usize, lease: TaskLease) {
        let request_id = format!("poll-{}", self.number());
        let identity = format!("worker-{poller}");
        let (scheduled_event_id, attempt) = (lease.task.key.position.scheduled_event_id, lease.task.attempt);
        let command = match lease.task.key.kind {
            TaskKind::Workflow => RunCommand::StartWorkflowTask(StartWorkflowTask {
                deployment_version: None,
                scheduled_event_id,
                attempt,
                task_queue: lease.queue_name.clone(),
                identity,
                request_id,
                worker_version: None,
            }),
            _ => RunCommand::StartActivityTask(StartActivityTask {
                deployment_version: None,
                scheduled_event_id,
                attempt,
                key: Some(Box::new(lease.task.key.clone())),
                identity,
                request_id,
                sdk: Default::default(),
            }),
        };
        let (workflow_id, run_id) = (lease.address.workflow_id.clone(), lease.task.key.position.run_id);
        self.send(&workflow_id, Some(run_id), command, Asked::Task(Box::new(Held { poller, lease })));
    }

    /// Whether a task may be done, and by whom.
    pub(super) fn task_answered(&mut self, held: Held, answer: Option<Result<Answer, CallError>>) {
        let Held { poller, lease } = held;
        self.poll_again(poller, Duration::from_millis(50));
        match answer {
            Some(Ok(Answer { reply, .. })) => {
                lease.done();
                self.started(reply);
            }
            Some(Err(CallError::Rejected(_))) => lease.done(),
            // It is offered again.
            Some(Err(_)) | None => drop(lease),
        }
    }

    pub(super) fn started(&mut self, reply: Reply) {
        match reply {
            Reply::WorkflowTaskStarted(start) => {
                let token: WorkflowTaskToken = token::decode(&start.response.task_token).expect("a token");
                self.tasks_started += 1;
                self.runs.push((token.workflow_id.clone(), token.run_id));
                let surplus = self.runs.len().saturating_sub(RUNS_REMEMBERED);
                self.runs.drain(..surplus);
                let delay = self.delay(Duration::from_millis(200));
                if self.random.percent(95) {
                    let messages = start.response.messages.iter();
                    let updates = messages.map(|message| message.protocol_instance_id.clone()).collect();
                    self.after(delay, Event::Worker(WorkerEvent::CompleteTask(Box::new(token), updates)));
                }
            }
            Reply::ActivityTaskStarted(response) => {
                let token: ActivityTaskToken = token::decode(&response.task_token).expect("a token");
                if response.activity_type.as_ref().is_some_and(|activity_type| activity_type.name == ONCE) {
                    let attempt = (token.run_id, token.scheduled_event_id, token.attempt);
                    let handed_out = self.once.entry(attempt).or_default();
                    *handed_out += 1;
                    assert_eq!(*handed_out, 1, "{} was handed out again", response.activity_id);
                }
                let (delay, succeeds) = (self.delay(Duration::from_secs(3)), self.random.percent(70));
                if self.random.percent(90) {
                    self.after(delay, Event::Worker(WorkerEvent::EndActivity(Box::new(token), succeeds)));
                }
            }
            _ => {}
        }
    }

    fn complete_task(&mut self, token: WorkflowTaskToken, updates: Vec<String>) {
        let messages = self.answers(token.run_id, updates);
        // What only answers updates is often without commands.
        let asks = !self.winds_down() && (messages.is_empty() || self.random.percent(50));
        let commands_max = if asks { 3 } else { 1 };
        let mut commands: Vec<_> = (0..self.random.below(commands_max)).map(|_| self.command()).collect();
        // Workflows end more often once clients have gone.
        if self.random.percent(if self.faults { 4 } else { 20 }) {
            let attributes = FailWorkflowExecutionCommandAttributes { failure: Some(Failure::default()) };
            commands.push((
                CommandType::FailWorkflowExecution,
                Attributes::FailWorkflowExecutionCommandAttributes(attributes),
            ));
        } else if self.random.percent(if self.faults { 8 } else { 60 }) {
            let attributes = CompleteWorkflowExecutionCommandAttributes::default();
            commands.push((
                CommandType::CompleteWorkflowExecution,
                Attributes::CompleteWorkflowExecutionCommandAttributes(attributes),
            ));
        } else if self.faults && self.random.percent(4) {
            let attributes = ContinueAsNewWorkflowExecutionCommandAttributes {
                workflow_type: Some(WorkflowType { name: "T".to_owned() }),
                task_queue: Some(TaskQueue { name: "q".to_owned(), ..TaskQueue::default() }),
                ..ContinueAsNewWorkflowExecutionCommandAttributes::default()
            };
            commands.push((
                CommandType::ContinueAsNewWorkflowExecution,
                Attributes::ContinueAsNewWorkflowExecutionCommandAttributes(attributes),
            ));
        }
        let command = |(command_type, attributes): (CommandType, Attributes)| WorkflowCommand {
            command_type: command_type as i32,
            attributes: Some(attributes),
            ..WorkflowCommand::default()
        };
        let request = RespondWorkflowTaskCompletedRequest {
            commands: commands.into_iter().map(command).collect(),
            messages,
            sticky_attributes: self.random.percent(50).then(sticky),
            return_new_workflow_task: self.random.percent(20),
            capabilities: Some(Capabilities { discard_speculative_workflow_task_with_events: self.random.percent(50) }),
            ..RespondWorkflowTaskCompletedRequest::default()
        };
        let (workflow_id, run_id) = (token.workflow_id.clone(), token.run_id);
        let command = RunCommand::CompleteWorkflowTask(token, Box::new(request), Objections::default());
        self.send(&workflow_id, Some(run_id), command, Asked::Completion);
    }

    /// A signal or a request to cancel to a run, or to whichever is the current one of its workflow.
    fn message(&mut self) -> (CommandType, Attributes) {
        let (workflow_id, run_id) = self.runs[self.random.below(self.runs.len())].clone();
        let run_id = if self.random.percent(30) { run_id.to_string() } else { String::new() };
        if self.random.percent(25) {
            let attributes =
                RequestCancelExternalWorkflowExecutionCommandAttributes { workflow_id, run_id, ..Default::default() };
            let attributes = Attributes::RequestCancelExternalWorkflowExecutionCommandAttributes(attributes);
            return (CommandType::RequestCancelExternalWorkflowExecution, attributes);
        }
        let attributes = SignalExternalWorkflowExecutionCommandAttributes {
            execution: Some(WorkflowExecution { workflow_id, run_id }),
            signal_name: self.signal_name(),
            ..SignalExternalWorkflowExecutionCommandAttributes::default()
        };
        let attributes = Attributes::SignalExternalWorkflowExecutionCommandAttributes(attributes);
        (CommandType::SignalExternalWorkflowExecution, attributes)
    }

    /// The start of a child: of a workflow that others may have started.
    fn child(&mut self) -> (CommandType, Attributes) {
        let partition = self.random.below(self.partitions.len());
        let policies = [ParentClosePolicy::Terminate, ParentClosePolicy::RequestCancel, ParentClosePolicy::Abandon];
        let reuse = match self.random.below(10) {
            0 => WorkflowIdReusePolicy::RejectDuplicate,
            #[expect(deprecated, reason = "workers still send it")]
            1 => WorkflowIdReusePolicy::TerminateIfRunning,
            _ => WorkflowIdReusePolicy::AllowDuplicate,
        };
        let attributes = StartChildWorkflowExecutionCommandAttributes {
            workflow_id: workflow_id(partition, self.random.below(WORKFLOWS)),
            workflow_type: Some(WorkflowType { name: "T".to_owned() }),
            task_queue: Some(TaskQueue { name: "q".to_owned(), ..TaskQueue::default() }),
            parent_close_policy: policies[self.random.below(policies.len())].into(),
            workflow_id_reuse_policy: reuse.into(),
            ..StartChildWorkflowExecutionCommandAttributes::default()
        };
        (CommandType::StartChildWorkflowExecution, Attributes::StartChildWorkflowExecutionCommandAttributes(attributes))
    }

    /// A timer, an activity, a message or a child.
    fn command(&mut self) -> (CommandType, Attributes) {
        let number = self.number();
        if self.random.percent(50) {
            let after = 1 + self.random.below(10) as i64;
            let attributes = StartTimerCommandAttributes {
                timer_id: format!("timer-{number}"),
                start_to_fire_timeout: Some(seconds(after)),
            };
            return (CommandType::StartTimer, Attributes::StartTimerCommandAttributes(attributes));
        }
        if self.random.percent(40) && !self.runs.is_empty() {
            return self.message();
        }
        if self.random.percent(40) {
            return self.child();
        }
        let once = self.random.percent(50);
        let priority = Some(self.some_priority());
        let attributes = ScheduleActivityTaskCommandAttributes {
            priority,
            activity_id: format!("activity-{number}"),
            activity_type: Some(ActivityType { name: if once { ONCE } else { OFTEN }.to_owned() }),
            task_queue: Some(TaskQueue { name: "aq".to_owned(), ..TaskQueue::default() }),
            start_to_close_timeout: Some(seconds(5)),
            schedule_to_close_timeout: Some(seconds(20)),
            retry_policy: Some(RetryPolicy {
                maximum_attempts: if once { 1 } else { 3 },
                initial_interval: Some(seconds(1)),
                backoff_coefficient: 2.0,
                ..RetryPolicy::default()
            }),
            ..ScheduleActivityTaskCommandAttributes::default()
        };
        (CommandType::ScheduleActivityTask, Attributes::ScheduleActivityTaskCommandAttributes(attributes))
    }

    fn end_activity(&mut self, token: ActivityTaskToken, succeeds: bool) {
        let (workflow_id, run_id) = (token.workflow_id.clone(), token.run_id);
        let activity = ActivityRef::Token(token);
        let identity = "worker".to_owned();
        let command = if succeeds {
            RunCommand::CompleteActivity { activity, result: None, identity, worker_version: None }
        } else {
            RunCommand::FailActivity {
                activity,
                failure: None,
                last_heartbeat_details: None,
                identity,
                worker_version: None,
            }
        };
        self.send(&workflow_id, Some(run_id), command, Asked::Other);
    }
}

/// The next workflow task is to go to the worker that has the workflow in memory.
fn sticky() -> StickyExecutionAttributes {
    StickyExecutionAttributes {
        worker_task_queue: Some(TaskQueue {
            name: "sticky".to_owned(),
            kind: TaskQueueKind::Sticky as i32,
            normal_name: "q".to_owned(),
        }),
        schedule_to_start_timeout: Some(seconds(5)),
    }
}

pub(super) fn seconds(seconds: i64) -> everlog_proto::wkt::Duration {
    everlog_proto::wkt::Duration { seconds, nanos: 0 }
}
