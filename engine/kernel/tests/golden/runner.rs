//! The commands of a script, carried out on one workflow called `wf`.
//!
//! | command | what it does |
//! |---|---|
//! | `start`, `signal-with-start` | see `requests.rs` for the arguments |
//! | `signal NAME [input= request-id=]`, `cancel [reason=]`, `terminate [reason= details=]`, `delete` | requests of a client |
//! | `poll-workflow [queue= scheduled= attempt= request-id= token=NAME]` | a worker takes the workflow task: the pending one, from the sticky queue if there is one, unless told otherwise |
//! | `command NAME ... [of-type=NAME bare=true]` | adds a workflow command to the next `complete`; its type may be another one's, its attributes missing |
//! | `complete [sticky= sticky-timeout= return-new= force-new= answer-ID= fail-ID= accept=ID/... complete=ID/... reject=ID/... back=true able=true token=NAME]` | the worker completes its workflow task; `answer-7=x` answers query 7, and `accept=u` update u with the message `u/accept`; `back=true` has requests of updates sent back, and `able=true` says that the worker can forget events |
//! | `fail-task [cause= failure= token=NAME]`, `reset-sticky`, `save-start` | with `unproven=true`, as `complete`, the token proves nothing |
//! | `pause-activity [ID type= request-id= reason=]`, `unpause-activity [ID type= attempts=true heartbeat=true jitter=]` | an operator pauses an activity, or those of a type, and has it go on; without a name all do |
//! | `reset-activity [ID type= heartbeat=true keep=true jitter= restore=true]`, `update-activity [ID type= PATH=VALUE ... restore=true]` | an operator has attempts counted anew, and changes options: `start-to-close`, `schedule-to-close`, `queue`, `priority`, `retry-initial`, `retry-attempts` |
//! | `update-options [priority= fairness= weight=]` | an operator gives the workflow another priority, fairness key and weight, or takes them away |
//! | `poll-activity ID [attempt= old=true]`, `heartbeat ID`, `complete-activity ID`, `fail-activity ID`, `cancel-activity ID` | by the token of the last poll for that activity, with `by=id` by id |
//! | `query ID [type= reject=]`, `abandon-query ID`, `poll-query [queue=]` | |
//! | `update ID [name= first-run=]`, `poll-update ID` | |
//! | `update-with-start ID [name=]` and what `start` takes | |
//! | `advance 5s`, `advance deadline` | moves the clock, by a time or to the run's next deadline |
//! | `receive EVENT [signal=NAME input= child-only=] [reason=] [from=WORKFLOW]` | a message of another workflow: a signal, or else a request to cancel |
//! | `receive EVENT start-child=TYPE [input= run-timeout= reuse=]` | another workflow starts `wf` as its child |
//! | `receive EVENT child=STATUS initiated=EVENT from=CHILD [result= failure=]` | a child has closed |
//! | `receive 0 parent-closed=POLICY initiated=EVENT [from-run=6]` | the parent has closed |
//! | `reset EVENT [reason= request-id= reapply= exclude=SIGNAL,...]` | the run goes on from before that event; `reset task=2` from before the end of its second workflow task; with `behind=true` more has happened than was read |
//! | `settle EVENT [outcome= callback=NUMBER]` | a message that the run has sent with that event has arrived, or failed: `not-found`, `too-many-signals`, `already-exists`; or one that told who has that callback, counted from 1 |
//! | `operation EVENT OUTCOME [attempt=]` | what became of a call to a Nexus service: see `requests.rs` for outcomes |
//! | `operation-ended EVENT [result= failure= canceled-failure= request-id=]` | an operation that goes on by itself has ended |
//! | `fire` | tells the kernel that deadlines are due |
//! | `crash` | a new leader: only the rows are left |
//! | `history`, `rows`, `state` | shows what there is |
//! | `describe` | what DescribeWorkflowExecution says |
//! | `limit NAME=VALUE` | changes a limit |
//! | `archives VALUE` | whether the namespace archives its runs |
//!
//! Commands to a run take `run=run2`; without it the current run is meant.

mod worker;

use std::collections::HashMap;
use std::error::Error;

use everlog_kernel::command::{Reply, Started};
use everlog_kernel::describe::describe;
use everlog_kernel::nexus::{NexusAnswer, NexusOutcome};
use everlog_kernel::outbox::Outcome as MessageOutcome;
use everlog_kernel::reset::{End, Kept, Later, Plan, Reset, plan};
use everlog_kernel::token::{ActivityTaskToken, WorkflowTaskToken};
use everlog_kernel::transition::TaskKey;
use everlog_kernel::{
    Command, Context, Ids, Limits, Namespace, NamespaceId, Rejection, RowKey, Run, RunCommand, RunId, RunRow,
    RunRowKind, Time, Transition, Workflow, decide,
};
use everlog_proto::api::enums::v1::{EventType, QueryRejectCondition, WorkflowTaskFailedCause};
use everlog_proto::api::history::v1::HistoryEvent;
use everlog_proto::api::query::v1::WorkflowQuery;
use everlog_proto::api::workflowservice::v1::{
    RequestCancelWorkflowExecutionRequest, RespondWorkflowTaskFailedRequest, SignalWorkflowExecutionRequest,
    TerminateWorkflowExecutionRequest, UpdateWorkflowExecutionRequest,
};

use crate::arguments::{Arguments, Outcome, parse_duration};
use crate::store::Store;
use crate::{invariants, print, requests};

/// One workflow, its rows, and the worker's side of things.
pub(crate) struct Runner {
    now: Time,
    namespace: Namespace,
    limits: Limits,
    ids: Ids,
    workflow: Workflow,
    store: Store,
    /// Runs in the order in which they appeared: the first is shown as `run1`.
    runs: Vec<RunId>,
    /// Workflow commands for the next completion.
    commands: Vec<everlog_proto::api::command::v1::Command>,
    /// Workflow task tokens by name; that of the last poll is called ``.
    workflow_tokens: HashMap<String, WorkflowTaskToken>,
    /// Activity tokens by activity id.
    activity_tokens: HashMap<String, ActivityTaskToken>,
    /// Where the task stood that was last asked for, by activity id.
    old_tasks: HashMap<String, TaskKey>,
}

impl goldenscript::Runner for Runner {
    type Command = goldenscript::Command;

    fn run(
        &mut self,
        command: &goldenscript::Command,
        _context: &goldenscript::Context,
    ) -> Result<String, Box<dyn Error>> {
        let mut arguments = Arguments::new(command);
        let output = self.carry_out(&command.name, &mut arguments)?;
        arguments.end()?;
        self.check();
        Ok(self.with_run_names(output))
    }
}

impl Runner {
    pub(crate) fn new() -> Runner {
        Runner {
            now: print::START,
            namespace: Namespace {
                id: NamespaceId([7; 16]),
                name: "default".to_owned(),
                retention: std::time::Duration::from_secs(24 * 3600),
                ..Namespace::default()
            },
            limits: Limits { retention_jitter: std::time::Duration::ZERO, ..Limits::default() },
            ids: Ids::new(1),
            workflow: Workflow::new("wf"),
            store: Store::default(),
            runs: Vec::new(),
            commands: Vec::new(),
            workflow_tokens: HashMap::new(),
            activity_tokens: HashMap::new(),
            old_tasks: HashMap::new(),
        }
    }

    /// Checks what must hold at any time.
    pub(crate) fn check(&self) {
        invariants::hold(&self.workflow, &self.store);
    }

    /// Carries out one command. An error says what is wrong with the script, not with the kernel.
    pub(crate) fn carry_out(&mut self, name: &str, arguments: &mut Arguments<'_>) -> Outcome<String> {
        let run_id = self.named_run(arguments)?;
        match name {
            "start" => {
                let request = requests::start(arguments)?;
                self.start(Command::start(request, &self.limits))
            }
            "signal-with-start" => {
                let request = requests::signal_with_start(arguments)?;
                self.start(Command::signal_with_start(request, &self.limits))
            }
            "signal" => {
                let request = SignalWorkflowExecutionRequest {
                    signal_name: arguments.expected("a signal's name")?.to_owned(),
                    input: arguments.payloads("input"),
                    identity: "client".to_owned(),
                    request_id: arguments.string("request-id", ""),
                    ..SignalWorkflowExecutionRequest::default()
                };
                self.decide(run_id, RunCommand::SignalWorkflow(Box::new(request)))
            }
            "cancel" => {
                let request = RequestCancelWorkflowExecutionRequest {
                    identity: "client".to_owned(),
                    request_id: arguments.string("request-id", "cancel-1"),
                    first_execution_run_id: self.run_text(arguments.text("first-run"))?,
                    reason: arguments.string("reason", ""),
                    ..RequestCancelWorkflowExecutionRequest::default()
                };
                self.decide(run_id, RunCommand::RequestCancelWorkflow(Box::new(request)))
            }
            "terminate" => {
                let request = TerminateWorkflowExecutionRequest {
                    reason: arguments.string("reason", ""),
                    details: arguments.payloads("details"),
                    identity: "client".to_owned(),
                    first_execution_run_id: self.run_text(arguments.text("first-run"))?,
                    ..TerminateWorkflowExecutionRequest::default()
                };
                self.decide(run_id, RunCommand::TerminateWorkflow(Box::new(request)))
            }
            "delete" => self.decide(run_id, RunCommand::DeleteWorkflow),
            "command" => {
                self.commands.push(requests::command(arguments)?);
                Ok(String::new())
            }
            "poll-workflow" => self.poll_workflow(run_id, arguments),
            "complete" => self.complete(run_id, arguments),
            "fail-task" => {
                let request = RespondWorkflowTaskFailedRequest {
                    cause: arguments.enumeration(
                        "cause",
                        "WORKFLOW_TASK_FAILED_CAUSE_",
                        WorkflowTaskFailedCause::from_str_name,
                    )?,
                    failure: requests::failure(arguments)?,
                    identity: "worker".to_owned(),
                    ..RespondWorkflowTaskFailedRequest::default()
                };
                let token = self.workflow_token(arguments)?;
                self.decide(Some(token.run_id), RunCommand::FailWorkflowTask(token, Box::new(request)))
            }
            "save-start" => self.decide(run_id, RunCommand::SaveWorkflowTaskStart),
            "reset-sticky" => self.decide(run_id, RunCommand::ResetStickyTaskQueue),
            "query" => {
                let command = RunCommand::QueryWorkflow {
                    query_id: arguments.expected("a query id")?.parse()?,
                    query: Box::new(WorkflowQuery {
                        query_type: arguments.string("type", "status"),
                        ..WorkflowQuery::default()
                    }),
                    reject_condition: arguments.enumeration(
                        "reject",
                        "QUERY_REJECT_CONDITION_",
                        QueryRejectCondition::from_str_name,
                    )?,
                };
                self.decide(run_id, command)
            }
            "abandon-query" => {
                let query_id = arguments.expected("a query id")?.parse()?;
                self.decide(run_id, RunCommand::AbandonQuery { query_id })
            }
            "poll-query" => {
                let task_queue = arguments.string("queue", "q");
                self.decide(run_id, RunCommand::StartQueryTask { task_queue })
            }
            "poll-activity" => self.poll_activity(run_id, arguments),
            "heartbeat" => {
                let (run_id, activity) = self.activity(run_id, arguments)?;
                let details = arguments.payloads("details");
                let identity = "worker".to_owned();
                self.decide(run_id, RunCommand::HeartbeatActivity { activity, details, identity })
            }
            "complete-activity" => {
                let (run_id, activity) = self.activity(run_id, arguments)?;
                let result = arguments.payloads("result");
                let identity = "worker".to_owned();
                let worker_version = worker::version(arguments);
                self.decide(run_id, RunCommand::CompleteActivity { activity, result, identity, worker_version })
            }
            "fail-activity" => {
                let (run_id, activity) = self.activity(run_id, arguments)?;
                let failure = requests::failure(arguments)?.map(Box::new);
                let last_heartbeat_details = arguments.payloads("details");
                let identity = "worker".to_owned();
                let worker_version = worker::version(arguments);
                let command =
                    RunCommand::FailActivity { activity, failure, last_heartbeat_details, identity, worker_version };
                self.decide(run_id, command)
            }
            "cancel-activity" => {
                let (run_id, activity) = self.activity(run_id, arguments)?;
                let details = arguments.payloads("details");
                let identity = "worker".to_owned();
                let worker_version = worker::version(arguments);
                self.decide(run_id, RunCommand::CancelActivity { activity, details, identity, worker_version })
            }
            "pause-activity" => {
                let request = requests::pause_activity(arguments)?;
                self.decide(run_id, RunCommand::PauseActivity(Box::new(request)))
            }
            "unpause-activity" => {
                let request = requests::unpause_activity(arguments)?;
                self.decide(run_id, RunCommand::UnpauseActivity(Box::new(request)))
            }
            "reset-activity" => {
                let request = requests::reset_activity(arguments)?;
                self.decide(run_id, RunCommand::ResetActivity(Box::new(request)))
            }
            "update-activity" => {
                let request = requests::update_activity_options(arguments)?;
                self.decide(run_id, RunCommand::UpdateActivityOptions(Box::new(request)))
            }
            "update-options" => {
                let request = requests::update_workflow_options(arguments)?;
                self.decide(run_id, RunCommand::UpdateWorkflowOptions(Box::new(request)))
            }
            "update" => {
                let request = self.update_request(arguments)?;
                self.decide(run_id, RunCommand::UpdateWorkflow(Box::new(request)))
            }
            "update-with-start" => {
                let update = Box::new(self.update_request(arguments)?);
                match Command::start(requests::start(arguments)?, &self.limits) {
                    Ok(Command::StartWorkflow(start)) => self.decide(None, Command::UpdateWithStart(start, update)),
                    Ok(other) => Err(format!("a start is {other:?}").into()),
                    Err(refused) => Ok(print::rejection(&refused) + "\n"),
                }
            }
            "poll-update" => {
                let update_id = arguments.expected("an update's id")?.to_owned();
                self.decide(run_id, RunCommand::PollUpdate { update_id })
            }
            "advance" => {
                match arguments.expected("a duration, or 'deadline'")? {
                    "deadline" => {
                        let deadline = self.run_of(run_id)?.next_deadline().ok_or("the run has no deadline")?;
                        self.now = self.now.max(deadline);
                    }
                    duration => self.now = self.now.plus(parse_duration(duration)?),
                }
                Ok(format!("now {}\n", print::relative_time(self.now.0)))
            }
            "receive" => {
                let message = requests::message(arguments)?;
                let mut run_id = run_id.or(message.target_run_id);
                while let Some(next) = run_id.and_then(|run_id| self.workflow.goes_on_as(run_id, &message)) {
                    run_id = Some(next);
                }
                self.decide(run_id, RunCommand::ReceiveMessage(Box::new(message)))
            }
            "reset" => self.reset(run_id, arguments),
            "settle" => {
                let event_id = arguments.expected("the event that sent the message")?.parse()?;
                let event_id = arguments.number::<i64>("callback")?.map_or(event_id, |number| -number);
                let outcome = match arguments.text("outcome") {
                    None => MessageOutcome::Delivered,
                    Some("not-found") => MessageOutcome::NotFound,
                    Some("too-many-signals") => MessageOutcome::TooManySignals,
                    Some("already-exists") => MessageOutcome::AlreadyExists,
                    Some(other) => return Err(format!("unknown outcome {other}").into()),
                };
                self.decide(run_id, RunCommand::SettleMessage { event_id, outcome })
            }
            "operation" => {
                let scheduled_event_id = arguments.expected("the event that has scheduled it")?.parse()?;
                let run = self.run_of(run_id)?;
                let operation = run.nexus_operations.get(&scheduled_event_id);
                let cancel = operation.and_then(|operation| operation.cancel.as_ref());
                let outcome = requests::nexus_outcome(arguments)?;
                let attempt = match &outcome {
                    NexusOutcome::CancelTaken | NexusOutcome::CancelNotTaken { .. } => cancel.map(|it| it.attempt),
                    _ => operation.map(|operation| operation.attempt),
                };
                let attempt = arguments.number("attempt")?.or(attempt).unwrap_or_default();
                let answer = NexusAnswer { scheduled_event_id, attempt, outcome };
                self.decide(run_id, RunCommand::SettleNexusCall(Box::new(answer)))
            }
            "operation-ended" => {
                let scheduled_event_id = arguments.expected("the event that has scheduled it")?.parse()?;
                let operation = self.run_of(run_id)?.nexus_operations.get(&scheduled_event_id);
                let known = operation.map(|operation| operation.scheduled.request_id.clone()).unwrap_or_default();
                let request_id = arguments.string("request-id", &known);
                let message = requests::nexus_completed(arguments, scheduled_event_id, request_id)?;
                self.decide(run_id, RunCommand::ReceiveMessage(Box::new(message)))
            }
            "fire" => self.decide(run_id, RunCommand::FireTimers),
            "crash" => {
                self.workflow = self.store.load("wf");
                Ok(String::new())
            }
            "history" => {
                let run_id = self.run_of(run_id)?.id;
                Ok(self.store.history(run_id).iter().map(|event| print::event(event) + "\n").collect())
            }
            "rows" => Ok(self.store.keys().map(|key| print::row(key) + "\n").collect()),
            "describe" => Ok(match describe(&self.workflow, run_id) {
                Ok(description) => print::description(&description),
                Err(refused) => print::rejection(&refused) + "\n",
            }),
            "state" => Ok(print::state(self.run_of(run_id)?)),
            "limit" => self.set_limits(arguments),
            "archives" => {
                self.namespace.archives = arguments.expected("true or false")?.parse()?;
                Ok(String::new())
            }
            other => Err(format!("unknown command {other}").into()),
        }
    }

    /// Resets a run as a partition does: the history is read first.
    fn reset(&mut self, run_id: Option<RunId>, arguments: &mut Arguments<'_>) -> Outcome<String> {
        let request = requests::reset(arguments, |task| {
            let run_id = self.workflow.run(run_id).map(|run| run.id);
            let events = run_id.map(|run_id| self.store.history(run_id)).unwrap_or_default();
            let mut starts = events.iter().filter(|event| event.event_type() == EventType::WorkflowTaskStarted);
            starts.nth(task).map_or(events.len() as i64, |start| start.event_id + 1)
        })?;
        let behind = arguments.flag("behind")?;
        let (base_run_id, start_request_id, mut end) = match plan(&self.workflow, run_id, &request) {
            Ok(Plan::Read { base_run_id, start_request_id, end }) => (base_run_id, start_request_id, end),
            Ok(Plan::Done(run_id)) => return Ok(format!("was done before: {run_id}\n")),
            Err(refused) => return Ok(print::rejection(&refused) + "\n"),
        };
        let mut kept = Kept::default();
        let is_kept = |event: &HistoryEvent| event.event_id < request.workflow_task_finish_event_id;
        for event in self.store.history(base_run_id).into_iter().filter(is_kept) {
            kept.take(base_run_id, &start_request_id, event)?;
        }
        let mut later = Later::new(&request, base_run_id);
        while let Some((run_id, from)) = later.goes_on() {
            let events = self.store.history(run_id).into_iter().filter(|event| event.event_id >= from);
            let events: Vec<_> = events.filter(|_| !behind).collect();
            later.take(run_id, if behind { End { next_event_id: 1, ..end } } else { end }, events);
            match later.goes_on().and_then(|(next, _)| self.workflow.run(Some(next))) {
                Some(next) if !end.is_open => end = End::of(next),
                _ if !end.is_open => later.ends(),
                _ => break,
            }
        }
        self.decide(Some(base_run_id), Command::ResetWorkflow(Box::new(Reset { request, kept, later })))
    }

    fn update_request(&self, arguments: &mut Arguments<'_>) -> Outcome<UpdateWorkflowExecutionRequest> {
        let update_id = arguments.expected("an update's id")?.to_owned();
        Ok(UpdateWorkflowExecutionRequest {
            first_execution_run_id: self.run_text(arguments.text("first-run"))?,
            request: Some(requests::update(update_id, arguments.string("name", "update"))),
            ..UpdateWorkflowExecutionRequest::default()
        })
    }

    /// Decides a start, if it is a valid one.
    fn start(&mut self, command: Result<Command, Rejection>) -> Outcome<String> {
        match command {
            Ok(command) => match self.transition(None, command) {
                Ok(transition) => {
                    if let Ok(Reply::Started(Started { first_task: Some(task), .. })) = &transition.reply {
                        self.take_workflow_task(String::new(), task);
                    }
                    Ok(print::transition(&transition))
                }
                Err(refused) => Ok(print::rejection(&refused) + "\n"),
            },
            Err(refused) => Ok(print::rejection(&refused) + "\n"),
        }
    }

    /// Decides a command, twice, and applies what comes out.
    fn decide(&mut self, run_id: Option<RunId>, command: impl Into<Command>) -> Outcome<String> {
        Ok(match self.transition(run_id, command) {
            Ok(transition) => print::transition(&transition),
            Err(refused) => print::rejection(&refused) + "\n",
        })
    }

    fn transition(&mut self, run_id: Option<RunId>, command: impl Into<Command>) -> Result<Transition, Rejection> {
        let command = command.into();
        let before = self.workflow.clone();
        let mut twin = self.workflow.clone();
        let mut twin_ids = self.ids.clone();
        let again = decide(
            &mut twin,
            run_id,
            command.clone(),
            &mut Context {
                now: self.now,
                latest: self.now,
                namespace: &self.namespace,
                limits: &self.limits,
                ids: &mut twin_ids,
            },
        );
        let outcome = decide(
            &mut self.workflow,
            run_id,
            command,
            &mut Context {
                now: self.now,
                latest: self.now,
                namespace: &self.namespace,
                limits: &self.limits,
                ids: &mut self.ids,
            },
        );
        match (&outcome, &again) {
            (Ok(one), Ok(two)) => invariants::deterministic(one, two),
            (Err(one), Err(two)) => {
                assert_eq!(one, two, "a command refused twice is refused for the same reason");
                invariants::unchanged(&before, &self.workflow);
            }
            (one, two) => panic!("a decision taken twice differs: {one:?}, {two:?}"),
        }
        let transition = outcome?;
        for (key, _) in &transition.rows {
            if let RowKey::Run(run, RunRow { kind: RunRowKind::Info, .. }) = key
                && !self.runs.contains(run)
            {
                self.runs.push(*run);
            }
        }
        self.store.apply(&transition.rows);
        Ok(transition)
    }

    fn set_limits(&mut self, arguments: &mut Arguments<'_>) -> Outcome<String> {
        let limits = &mut self.limits;
        if let Some(value) = arguments.number("blob-bytes")? {
            limits.blob_bytes_max = value;
        }
        if let Some(value) = arguments.text("start-flush") {
            limits.activity_start_flush = parse_duration(value)?;
        }
        if let Some(value) = arguments.number("history-bytes")? {
            limits.history_bytes_max = value;
        }
        if let Some(value) = arguments.number("history-events")? {
            limits.history_events_max = value;
        }
        if let Some(value) = arguments.number("suggest-continue-as-new-events")? {
            limits.history_events_suggest_continue_as_new = value;
        }
        if let Some(value) = arguments.number("pending-activities")? {
            limits.pending_activities_max = value;
        }
        if let Some(value) = arguments.number("pending-external")? {
            limits.pending_signals_max = value;
            limits.pending_cancel_requests_max = value;
        }
        if let Some(value) = arguments.number("pending-operations")? {
            limits.pending_nexus_operations_max = value;
        }
        if let Some(value) = arguments.number("reset-points")? {
            limits.reset_points_max = value;
        }
        if let Some(value) = arguments.number("search-attribute-bytes")? {
            limits.search_attribute_bytes_max = value;
        }
        if let Some(value) = arguments.number("search-attributes-bytes")? {
            limits.search_attributes_bytes_max = value;
        }
        if let Some(value) = arguments.number("problems-reported")? {
            limits.workflow_task_problems_reported = value;
        }
        if let Some(value) = arguments.text("eager-start") {
            limits.has_eager_start = value.parse()?;
        }
        if let Some(value) = arguments.text("eager-activities") {
            limits.has_eager_activities = value.parse()?;
        }
        if let Some(value) = arguments.number("pending-children")? {
            limits.pending_children_max = value;
        }
        if let Some(value) = arguments.number("children-told")? {
            limits.children_told_max = value;
        }
        if let Some(value) = arguments.number("undelivered")? {
            limits.undelivered_messages_max = value;
        }
        if let Some(value) = arguments.number("signals")? {
            limits.signals_max = value;
        }
        if let Some(value) = arguments.number("buffered-events")? {
            limits.buffered_events_max = value;
        }
        if let Some(value) = arguments.number("updates-in-flight")? {
            limits.updates_in_flight_max = value;
        }
        if let Some(value) = arguments.number("updates")? {
            limits.updates_max = value;
        }
        if let Some(value) = arguments.number("buffered-queries")? {
            limits.buffered_queries_max = value;
        }
        Ok(String::new())
    }

    fn named_run(&self, arguments: &mut Arguments<'_>) -> Outcome<Option<RunId>> {
        let Some(name) = arguments.text("run") else { return Ok(None) };
        let number: usize = name.strip_prefix("run").ok_or("runs are called run1, run2, ...")?.parse()?;
        // A run that never was stands for one that is unknown.
        Ok(Some(self.runs.get(number.wrapping_sub(1)).copied().unwrap_or(RunId([9; 16]))))
    }

    fn run_text(&self, name: Option<&str>) -> Outcome<String> {
        let Some(name) = name else { return Ok(String::new()) };
        let number: usize = name.strip_prefix("run").ok_or("runs are called run1, run2, ...")?.parse()?;
        Ok(self.runs.get(number.wrapping_sub(1)).copied().unwrap_or(RunId([9; 16])).to_string())
    }

    fn run_of(&self, run_id: Option<RunId>) -> Outcome<&Run> {
        self.workflow.run(run_id).ok_or_else(|| "there is no such run".into())
    }

    fn with_run_names(&self, mut output: String) -> String {
        for (index, run) in self.runs.iter().enumerate() {
            output = output.replace(&run.to_string(), &format!("run{}", index + 1));
        }
        output
    }
}
