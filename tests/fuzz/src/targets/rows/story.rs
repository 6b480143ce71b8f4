//! A run that waits for much, for its rows.

use bytes::Bytes;
use everlog_kernel::activity_execution::{self, ActivityExecutions, ValidActivityStart};
use everlog_kernel::batch_job::{self, Advance, Next, Page};
use everlog_kernel::command::{Objections, StartActivityTask, StartWorkflowTask};
use everlog_kernel::outbox::{ChildClosed, MessageBody, OutboxMessage, ParentClosed, ScheduledClosed};
use everlog_kernel::reset::{Kept, Later, Plan, Reset, plan};
use everlog_kernel::rows::Suffix;
use everlog_kernel::{
    ActivityExecutionCommand, BatchJob, BatchJobCommand, Command, Context, Effect, EntityKind, Ids, Limits, Namespace,
    NamespaceId, Rejection, Reply, RowKey, RunCommand, RunId, RunRowKind, Schedule, ScheduleCommand, Time, Transition,
    Workflow, decide, schedule, token,
};
use everlog_model::{EntityRef, rows};
use everlog_proto::api::batch::v1::BatchOperationSignal;
use everlog_proto::api::command::v1::Command as WorkflowCommand;
use everlog_proto::api::command::v1::command::Attributes;
use everlog_proto::api::command::v1::{
    RequestCancelExternalWorkflowExecutionCommandAttributes, ScheduleActivityTaskCommandAttributes,
    ScheduleNexusOperationCommandAttributes, SignalExternalWorkflowExecutionCommandAttributes,
    StartChildWorkflowExecutionCommandAttributes, StartTimerCommandAttributes,
};
use everlog_proto::api::common::v1::{
    ActivityType, Callback, Payload, Payloads, WorkflowExecution, WorkflowType, callback,
};
use everlog_proto::api::enums::v1::{
    CommandType, ParentClosePolicy, ScheduleOverlapPolicy, WorkflowExecutionStatus, WorkflowIdConflictPolicy,
};
use everlog_proto::api::failure::v1::Failure;
use everlog_proto::api::history::v1::History;
use everlog_proto::api::protocol::v1::Message as ProtocolMessage;
use everlog_proto::api::schedule::v1::schedule_action::Action;
use everlog_proto::api::schedule::v1::{
    IntervalSpec, Schedule as Definition, ScheduleAction, SchedulePolicies, ScheduleSpec,
};
use everlog_proto::api::taskqueue::v1::{StickyExecutionAttributes, TaskQueue};
use everlog_proto::api::update::v1::{Acceptance, Input, Meta, Request};
use everlog_proto::api::workflow::v1::{NewWorkflowExecutionInfo, OnConflictOptions};
use everlog_proto::api::workflowservice::v1::start_batch_operation_request::Operation;
use everlog_proto::api::workflowservice::v1::{
    CreateScheduleRequest, ResetWorkflowExecutionRequest, RespondWorkflowTaskCompletedRequest,
    SignalWorkflowExecutionRequest, StartActivityExecutionRequest, StartBatchOperationRequest,
    StartWorkflowExecutionRequest,
};
use everlog_proto::wkt::{Any, Duration};
use everlog_storage::state::RowChange;
use prost::{Message, Name};

use super::Kind;

/// A run that has an activity, a timer, a signal that waits, messages to other workflows, a child and a workflow task that was started.
pub(super) struct Story {
    workflow: Workflow,
    ids: Ids,
    now: Time,
    limits: Limits,
    namespace: Namespace,
    rows: Vec<(Kind, Bytes)>,
}

impl Story {
    pub(super) fn new() -> Story {
        Story {
            workflow: Workflow::new("fuzz".to_owned()),
            ids: Ids::new(1),
            now: Time(1_700_000_000_000_000_000),
            limits: Limits::default(),
            namespace: Namespace {
                id: NamespaceId([7; 16]),
                name: "default".to_owned(),
                retention: std::time::Duration::from_secs(24 * 3600),
                ..Namespace::default()
            },
            rows: Vec::new(),
        }
    }

    fn decide(&mut self, command: impl Into<Command>) -> Result<Reply, String> {
        let command = command.into();
        self.now = self.now.plus(std::time::Duration::from_millis(700));
        let mut context = Context {
            now: self.now,
            latest: self.now,
            namespace: &self.namespace,
            limits: &self.limits,
            ids: &mut self.ids,
        };
        let name = command.name();
        let failed = |rejection| format!("{name} is refused: {rejection}");
        let transition = decide(&mut self.workflow, None, command, &mut context).map_err(failed)?;
        let messages = transition.effects.iter().filter_map(|effect| match effect {
            Effect::Send(message) => Some((Kind::Outbox, message.to_row())),
            _ => None,
        });
        self.rows.extend(messages);
        let entity = EntityRef {
            kind: EntityKind::Workflow,
            namespace_id: self.namespace.id,
            id: self.workflow.id.as_str().into(),
        };
        for (key, value) in transition.rows {
            let Some(value) = value else { continue };
            if let RowChange::Put { key, .. } = rows::change(&entity.key(), key.clone(), Some(Bytes::new())) {
                self.rows.push((Kind::Key, key));
            }
            let row = match key {
                RowKey::Run(_, row) => match (row.kind, row.suffix) {
                    (kind @ (RunRowKind::SignalRequest | RunRowKind::AttachedRequest), Suffix::Text(id)) => {
                        (Kind::Run(kind), Bytes::from(id))
                    }
                    (kind, _) => (Kind::Run(kind), value),
                },
                RowKey::Current => (Kind::Current, value),
                RowKey::Task(_) => (Kind::Task, value),
                RowKey::Visibility(_) => (Kind::Visibility, value),
                RowKey::Wake(..) | RowKey::WholeRun(_) | RowKey::HistoryFrom(..) => continue,
            };
            self.rows.push(row);
        }
        transition.reply.map_err(failed)
    }

    /// All rows that were written, and messages as they lie in the outbox.
    pub(super) fn rows(mut self) -> Result<Vec<(Kind, Bytes)>, String> {
        let queue = |name: &str| Some(TaskQueue { name: name.to_owned(), ..TaskQueue::default() });
        let request = StartWorkflowExecutionRequest {
            namespace: "default".to_owned(),
            workflow_id: "fuzz".to_owned(),
            workflow_type: Some(WorkflowType { name: "Fuzz".to_owned() }),
            task_queue: queue("fuzz"),
            input: payloads(),
            request_id: "start".to_owned(),
            completion_callbacks: vec![Callback {
                variant: Some(callback::Variant::Nexus(callback::Nexus {
                    url: "temporal://system".to_owned(),
                    header: [("token".to_owned(), "t".to_owned())].into(),
                })),
                links: Vec::new(),
            }],
            ..Default::default()
        };
        self.decide(Command::start(request, &self.limits).map_err(|rejection| rejection.to_string())?)?;
        let started = self.start_workflow_task(2)?;
        let timer = StartTimerCommandAttributes { timer_id: "t".to_owned(), start_to_fire_timeout: seconds(60) };
        let activity = ScheduleActivityTaskCommandAttributes {
            activity_id: "a".to_owned(),
            activity_type: Some(ActivityType { name: "Fuzz".to_owned() }),
            task_queue: queue("fuzz"),
            input: payloads(),
            start_to_close_timeout: seconds(10),
            ..Default::default()
        };
        let other = || WorkflowExecution { workflow_id: "other".to_owned(), run_id: RunId([3; 16]).to_string() };
        let signal = SignalExternalWorkflowExecutionCommandAttributes {
            execution: Some(other()),
            signal_name: "signal".to_owned(),
            input: payloads(),
            ..Default::default()
        };
        let WorkflowExecution { workflow_id, run_id } = other();
        let cancel =
            RequestCancelExternalWorkflowExecutionCommandAttributes { workflow_id, run_id, ..Default::default() };
        let child = StartChildWorkflowExecutionCommandAttributes {
            workflow_id: "child".to_owned(),
            workflow_type: Some(WorkflowType { name: "Fuzz".to_owned() }),
            input: payloads(),
            ..Default::default()
        };
        let operation = ScheduleNexusOperationCommandAttributes {
            endpoint: "endpoint".to_owned(),
            service: "service".to_owned(),
            operation: "operation".to_owned(),
            ..Default::default()
        };
        let command = |command_type: CommandType, attributes| WorkflowCommand {
            command_type: command_type as i32,
            attributes: Some(attributes),
            ..Default::default()
        };
        let request = RespondWorkflowTaskCompletedRequest {
            commands: vec![
                command(CommandType::StartTimer, Attributes::StartTimerCommandAttributes(timer)),
                command(CommandType::ScheduleActivityTask, Attributes::ScheduleActivityTaskCommandAttributes(activity)),
                command(
                    CommandType::SignalExternalWorkflowExecution,
                    Attributes::SignalExternalWorkflowExecutionCommandAttributes(signal),
                ),
                command(
                    CommandType::RequestCancelExternalWorkflowExecution,
                    Attributes::RequestCancelExternalWorkflowExecutionCommandAttributes(cancel),
                ),
                command(
                    CommandType::StartChildWorkflowExecution,
                    Attributes::StartChildWorkflowExecutionCommandAttributes(child),
                ),
                command(
                    CommandType::ScheduleNexusOperation,
                    Attributes::ScheduleNexusOperationCommandAttributes(operation),
                ),
            ],
            messages: vec![acceptance()],
            sticky_attributes: Some(StickyExecutionAttributes {
                worker_task_queue: queue("sticky"),
                schedule_to_start_timeout: seconds(5),
            }),
            ..Default::default()
        };
        let nexus_endpoints = [("endpoint".to_owned(), RunId([4; 16]).to_string())].into();
        let objections = Objections { nexus_endpoints, ..Objections::default() };
        self.decide(RunCommand::CompleteWorkflowTask(started, Box::new(request), objections))?;
        let activity = self.workflow.current_run().and_then(|run| run.activities.keys().next().copied());
        self.decide(RunCommand::StartActivityTask(StartActivityTask {
            deployment_version: None,
            scheduled_event_id: activity.ok_or("no activity is pending")?,
            attempt: 1,
            key: None,
            identity: "fuzz".to_owned(),
            request_id: "activity".to_owned(),
            sdk: Default::default(),
        }))?;
        self.attach("attached")?;
        self.signal("first")?;
        let scheduled = self.workflow.current_run().and_then(|run| run.state.workflow_task.as_ref());
        let scheduled = scheduled.map(|task| task.scheduled_event_id).ok_or("no workflow task is pending")?;
        self.start_workflow_task(scheduled)?;
        self.signal("second")?;
        self.decide(RunCommand::SaveWorkflowTaskStart)?;
        self.messages_of_a_family()?;
        self.schedule()?;
        self.batch_job()?;
        self.activity()?;
        self.reset()?;
        Ok(self.rows)
    }

    /// Messages that this run does not send itself: it is no child, and does not close.
    fn messages_of_a_family(&mut self) -> Result<(), String> {
        let is_start = |row: &&(Kind, Bytes)| {
            row.0 == Kind::Outbox && OutboxMessage::from_row(&row.1).is_ok_and(|m| m.begins_workflow())
        };
        let start = self.rows.iter().find(is_start).ok_or("no child is started")?;
        let start = OutboxMessage::from_row(&start.1).map_err(|corrupt| corrupt.to_string())?;
        let closed = ChildClosed {
            initiated_event_id: 9,
            status: WorkflowExecutionStatus::Failed.into(),
            failure: Some(Failure { message: "no".to_owned(), ..Default::default() }),
            ..Default::default()
        };
        let parent = ParentClosed { initiated_event_id: 9, policy: ParentClosePolicy::Terminate.into() };
        for body in [MessageBody::ChildClosed(Box::new(closed)), MessageBody::ParentClosed(parent)] {
            self.rows.push((Kind::Outbox, OutboxMessage { body, ..start.clone() }.to_row()));
        }
        Ok(())
    }

    /// A schedule, what it says to the workflow that it starts, and what it hands on.
    fn schedule(&mut self) -> Result<(), String> {
        let start = NewWorkflowExecutionInfo {
            workflow_id: "scheduled".to_owned(),
            workflow_type: Some(WorkflowType { name: "Fuzz".to_owned() }),
            task_queue: Some(TaskQueue { name: "fuzz".to_owned(), ..TaskQueue::default() }),
            ..Default::default()
        };
        let every = IntervalSpec { interval: seconds(60), phase: None };
        let request = CreateScheduleRequest {
            schedule_id: "schedule".to_owned(),
            request_id: "create".to_owned(),
            schedule: Some(Definition {
                spec: Some(ScheduleSpec { interval: vec![every], ..Default::default() }),
                action: Some(ScheduleAction { action: Some(Action::StartWorkflow(start)) }),
                policies: Some(SchedulePolicies {
                    overlap_policy: ScheduleOverlapPolicy::TerminateOther.into(),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        };
        let mut schedule = Schedule::new("schedule");
        self.on_schedule(&mut schedule, ScheduleCommand::Create(Box::new(request)))?;
        for _ in 0..2 {
            self.now = self.now.plus(std::time::Duration::from_secs(60));
            self.on_schedule(&mut schedule, ScheduleCommand::Wake)?;
        }
        let sent = self.rows.iter().filter(|(kind, _)| *kind == Kind::Outbox);
        let sent = sent.filter_map(|(_, row)| OutboxMessage::from_row(row).ok());
        let is_start = |message: &OutboxMessage| matches!(message.body, MessageBody::StartScheduled(_));
        let start = sent.into_iter().find(is_start).ok_or("nothing is started")?;
        let closed = ScheduledClosed {
            first_run_id: start.target_run_id.unwrap_or_default().to_string(),
            status: WorkflowExecutionStatus::Completed.into(),
            result: payloads(),
            failure: None,
        };
        let message = OutboxMessage {
            source_workflow_id: start.target_workflow_id.clone(),
            target_workflow_id: "schedule".to_owned(),
            target_run_id: None,
            body: MessageBody::ScheduledClosed(Box::new(closed)),
            ..start
        };
        self.rows.push((Kind::Outbox, message.to_row()));
        self.on_schedule(&mut schedule, ScheduleCommand::Hear(Box::new(message)))
    }

    /// A batch job that is in the middle of its workflows.
    fn batch_job(&mut self) -> Result<(), String> {
        let signal = BatchOperationSignal { signal: "s".to_owned(), input: payloads(), ..Default::default() };
        let request = StartBatchOperationRequest {
            job_id: "job".to_owned(),
            reason: "why".to_owned(),
            visibility_query: "WorkflowType = 'Fuzz'".to_owned(),
            operation: Some(Operation::SignalOperation(signal)),
            ..Default::default()
        };
        let mut job = BatchJob::new("job");
        let start = BatchJobCommand::Start(Box::new(request));
        let rows = self.on_machine(|context| batch_job::decide(&mut job, start, context))?;
        let is_run = |key: &RowKey| if let RowKey::Run(run_id, _) = key { Some(*run_id) } else { None };
        let run_id = rows.iter().find_map(is_run).ok_or("a batch job has no rows")?;
        let execution = WorkflowExecution { workflow_id: "w".to_owned(), run_id: run_id.to_string() };
        let page = Page { number: 0, executions: vec![execution], next: b"next".to_vec(), is_last: false };
        let step = Advance { run_id, page: 0, succeeded: 0, failed: 0, total: Some(9), next: Next::Page(page) };
        let advance = BatchJobCommand::Advance(Box::new(step));
        self.on_machine(|context| batch_job::decide(&mut job, advance, context)).map(drop)
    }

    /// An activity that is no workflow's, and goes on.
    fn activity(&mut self) -> Result<(), String> {
        let request = StartActivityExecutionRequest {
            activity_id: "activity".to_owned(),
            activity_type: Some(ActivityType { name: "Fuzz".to_owned() }),
            task_queue: Some(TaskQueue { name: "fuzz".to_owned(), ..TaskQueue::default() }),
            start_to_close_timeout: seconds(60),
            input: payloads(),
            ..Default::default()
        };
        let start = ValidActivityStart::new(request, &Limits::default()).map_err(|refused| refused.to_string())?;
        let mut executions = ActivityExecutions::new("activity");
        let start = ActivityExecutionCommand::Start(Box::new(start));
        self.on_machine(|context| activity_execution::decide(&mut executions, None, start, context))?;
        let pause = ActivityExecutionCommand::Pause(Box::default());
        self.on_machine(|context| activity_execution::decide(&mut executions, None, pause, context)).map(drop)
    }

    fn on_schedule(&mut self, schedule: &mut Schedule, command: ScheduleCommand) -> Result<(), String> {
        self.on_machine(|context| schedule::decide(schedule, command, context)).map(drop)
    }

    /// Keeps the rows of what is decided, and tells their keys.
    fn on_machine(
        &mut self,
        decide: impl FnOnce(&mut Context<'_>) -> Result<Transition, Rejection>,
    ) -> Result<Vec<RowKey>, String> {
        let mut context = Context {
            now: self.now,
            latest: self.now,
            namespace: &self.namespace,
            limits: &self.limits,
            ids: &mut self.ids,
        };
        let transition = decide(&mut context).map_err(|rejection| rejection.to_string())?;
        let keys = transition.rows.iter().map(|(key, _)| key.clone()).collect();
        for effect in transition.effects {
            if let Effect::Send(message) = effect {
                self.rows.push((Kind::Outbox, message.to_row()));
            }
        }
        for (key, value) in transition.rows {
            match (key, value) {
                (RowKey::Run(_, row), Some(value)) => self.rows.push((Kind::Run(row.kind), value)),
                (RowKey::Visibility(_), Some(value)) => self.rows.push((Kind::Visibility, value)),
                _ => {}
            }
        }
        Ok(keys)
    }

    /// The run goes on from its first workflow task, with the update that it has accepted since.
    fn reset(&mut self) -> Result<(), String> {
        let request = ResetWorkflowExecutionRequest {
            workflow_task_finish_event_id: 4,
            request_id: "reset".to_owned(),
            ..Default::default()
        };
        let plan = plan(&self.workflow, None, &request).map_err(|rejection| rejection.to_string())?;
        let Plan::Read { base_run_id, start_request_id, end } = plan else {
            return Err("nothing is to be reset".into());
        };
        let is_history = |row: &&(Kind, Bytes)| row.0 == Kind::Run(RunRowKind::History);
        let batches = self.rows.iter().filter(is_history).map(|(_, batch)| History::decode(batch.clone()));
        let batches: Vec<History> = batches.collect::<Result<_, _>>().map_err(|error| error.to_string())?;
        let (mut kept, mut later) = (Kept::default(), Later::new(&request, base_run_id));
        let events = batches.into_iter().flat_map(|batch| batch.events);
        let (before, behind): (Vec<_>, Vec<_>) = events.partition(|event| event.event_id < 4);
        for event in before {
            kept.take(base_run_id, &start_request_id, event).map_err(|error| error.to_string())?;
        }
        later.take(base_run_id, end, behind);
        match self.decide(Command::ResetWorkflow(Box::new(Reset { request, kept, later })))? {
            Reply::Reset(_) => Ok(()),
            reply => Err(format!("a run is not reset: {reply:?}")),
        }
    }

    fn start_workflow_task(&mut self, scheduled_event_id: i64) -> Result<token::WorkflowTaskToken, String> {
        let start = StartWorkflowTask {
            deployment_version: None,
            scheduled_event_id,
            attempt: 1,
            task_queue: "fuzz".to_owned(),
            identity: "fuzz".to_owned(),
            request_id: format!("task {scheduled_event_id}"),
            worker_version: None,
        };
        match self.decide(RunCommand::StartWorkflowTask(start))? {
            Reply::WorkflowTaskStarted(started) => started.token.ok_or_else(|| "a task has no token".to_owned()),
            _ => Err("a workflow task is not started".to_owned()),
        }
    }

    /// A start that finds the run, and leaves its request id there.
    fn attach(&mut self, request_id: &str) -> Result<(), String> {
        let request = StartWorkflowExecutionRequest {
            workflow_id: "fuzz".to_owned(),
            workflow_type: Some(WorkflowType { name: "Fuzz".to_owned() }),
            task_queue: Some(TaskQueue { name: "fuzz".to_owned(), ..TaskQueue::default() }),
            request_id: request_id.to_owned(),
            workflow_id_conflict_policy: WorkflowIdConflictPolicy::UseExisting.into(),
            on_conflict_options: Some(OnConflictOptions { attach_request_id: true, ..Default::default() }),
            ..Default::default()
        };
        let command = Command::start(request, &self.limits).map_err(|rejection| rejection.to_string())?;
        self.decide(command).map(|_| ())
    }

    fn signal(&mut self, request_id: &str) -> Result<(), String> {
        let execution = WorkflowExecution { workflow_id: "fuzz".to_owned(), run_id: String::new() };
        let request = SignalWorkflowExecutionRequest {
            workflow_execution: Some(execution),
            signal_name: "signal".to_owned(),
            input: payloads(),
            request_id: request_id.to_owned(),
            ..Default::default()
        };
        self.decide(RunCommand::SignalWorkflow(Box::new(request))).map(|_| ())
    }
}

/// A worker accepts an update that it was sent by an earlier leader.
fn acceptance() -> ProtocolMessage {
    let request = Request {
        meta: Some(Meta { update_id: "update".to_owned(), ..Meta::default() }),
        input: Some(Input { name: "Fuzz".to_owned(), args: payloads(), ..Input::default() }),
        request_id: "request".to_owned(),
        ..Request::default()
    };
    let acceptance = Acceptance {
        accepted_request_message_id: "update/request".to_owned(),
        accepted_request_sequencing_event_id: 2,
        accepted_request: Some(request),
    };
    ProtocolMessage {
        id: "accept".to_owned(),
        protocol_instance_id: "update".to_owned(),
        body: Some(Any {
            type_url: format!("type.googleapis.com/{}", Acceptance::full_name()),
            value: acceptance.encode_to_vec(),
        }),
        ..ProtocolMessage::default()
    }
}

fn seconds(seconds: i64) -> Option<Duration> {
    Some(Duration { seconds, nanos: 0 })
}

fn payloads() -> Option<Payloads> {
    let metadata = [("encoding".to_owned(), b"json/plain".to_vec())].into();
    Some(Payloads { payloads: vec![Payload { metadata, data: b"{}".to_vec(), ..Default::default() }] })
}
