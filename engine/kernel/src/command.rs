//! What can be asked of a workflow, and what is answered.
//!
//! A command is addressed to a workflow (namespace, workflow id) and, where its request names one, to a run. Requests of the
//! public API are carried as they came; the frontend has checked what can be checked without the workflow's state.

use std::collections::BTreeMap;
use std::time::Duration;

use everlog_proto::api::activity::v1::ActivityOptions;
use everlog_proto::api::common::v1::{Payloads, WorkerVersionStamp};
use everlog_proto::api::deployment::v1::WorkerDeploymentVersion;
use everlog_proto::api::enums::v1::WorkflowExecutionStatus;
use everlog_proto::api::failure::v1::Failure;
use everlog_proto::api::query::v1::WorkflowQuery;
use everlog_proto::api::update::v1::Outcome;
use everlog_proto::api::workflow::v1::WorkflowExecutionOptions;
use everlog_proto::api::workflowservice::v1::{
    DescribeActivityExecutionResponse, DescribeBatchOperationResponse, DescribeScheduleResponse, PauseActivityRequest,
    PollActivityTaskQueueResponse, PollWorkflowTaskQueueResponse, RequestCancelWorkflowExecutionRequest,
    ResetActivityRequest, RespondWorkflowTaskCompletedRequest, RespondWorkflowTaskFailedRequest,
    SignalWithStartWorkflowExecutionRequest, SignalWorkflowExecutionRequest, StartWorkflowExecutionRequest,
    TerminateWorkflowExecutionRequest, UnpauseActivityRequest, UpdateActivityOptionsRequest,
    UpdateWorkflowExecutionOptionsRequest, UpdateWorkflowExecutionRequest,
};

use crate::activity_execution::ActivityExecutionCommand;
use crate::batch_job::{self, BatchJobCommand};
use crate::nexus::NexusAnswer;
use crate::outbox::{self, OutboxMessage};
use crate::reset::Reset;
use crate::schedule::ScheduleCommand;
use crate::task::TaskKey;
use crate::token::{ActivityTaskToken, WorkflowTaskToken};
use crate::valid_start::{ValidSignalWithStart, ValidStart};
use crate::{EntityKind, Limits, Rejection, RunId};

/// A command to a workflow.
#[derive(Clone, Debug)]
pub enum Command {
    /// Starts a run. Answered by [`Reply::Started`].
    StartWorkflow(Box<ValidStart>),
    /// Sends an update to the open run, or to one that is started for it. Answered by [`Reply::Update`].
    UpdateWithStart(Box<ValidStart>, Box<UpdateWorkflowExecutionRequest>),
    /// Signals the open run, or starts one and signals it. Answered by [`Reply::Started`].
    SignalWithStartWorkflow(Box<ValidSignalWithStart>),
    /// Starts a run that goes on from an event of an earlier one. Answered by [`Reply::Reset`], or by [`Reply::HistoryGrew`].
    ResetWorkflow(Box<Reset>),
    /// A command to a run that is there.
    Run(RunCommand),
    /// A command to a schedule, decided by [`crate::schedule::decide`].
    Schedule(ScheduleCommand),
    /// A command to a batch job, decided by [`crate::batch_job::decide`].
    BatchJob(BatchJobCommand),
    /// A command to activities that are no workflow's, decided by [`crate::activity_execution::decide`].
    Activity(ActivityExecutionCommand),
}

/// A command to a run.
#[derive(Clone, Debug)]
pub enum RunCommand {
    /// Answered by [`Reply::Done`].
    SignalWorkflow(Box<SignalWorkflowExecutionRequest>),
    /// Answered by [`Reply::Done`].
    RequestCancelWorkflow(Box<RequestCancelWorkflowExecutionRequest>),
    /// Answered by [`Reply::Done`].
    TerminateWorkflow(Box<TerminateWorkflowExecutionRequest>),
    /// Deletes a run, after its end. Answered by [`Reply::Done`].
    DeleteWorkflow,

    /// A poller is at hand for a workflow task. Answered by [`Reply::WorkflowTaskStarted`]; refused with `NotFound` when the
    /// task is not there any more.
    StartWorkflowTask(StartWorkflowTask),
    /// A worker's answer to a workflow task. Answered by [`Reply::WorkflowTaskCompleted`].
    CompleteWorkflowTask(WorkflowTaskToken, Box<RespondWorkflowTaskCompletedRequest>, Objections),
    /// Answered by [`Reply::Done`].
    FailWorkflowTask(WorkflowTaskToken, Box<RespondWorkflowTaskFailedRequest>),
    /// Writes the start of the workflow task that a worker has in hand, because somebody is to be shown it. Answered by
    /// [`Reply::Done`].
    SaveWorkflowTaskStart,
    /// Forgets the sticky queue. Answered by [`Reply::Done`].
    ResetStickyTaskQueue,

    /// A poller is at hand for an activity. Answered by [`Reply::ActivityTaskStarted`]; refused with `NotFound` when the task
    /// is not there any more.
    StartActivityTask(StartActivityTask),
    /// Answered by [`Reply::Heartbeat`].
    HeartbeatActivity {
        /// Which activity.
        activity: ActivityRef,
        /// What the attempt wants to find again in the next one.
        details: Option<Payloads>,
        /// The worker.
        identity: String,
    },
    /// Answered by [`Reply::Done`].
    CompleteActivity {
        /// Which activity.
        activity: ActivityRef,
        /// Its result.
        result: Option<Payloads>,
        /// The worker.
        identity: String,
        /// The build of the worker's code, where it tells.
        worker_version: Option<WorkerVersionStamp>,
    },
    /// Answered by [`Reply::Done`].
    FailActivity {
        /// Which activity.
        activity: ActivityRef,
        /// Why it failed.
        failure: Option<Box<Failure>>,
        /// Replaces the heartbeat details, if set.
        last_heartbeat_details: Option<Payloads>,
        /// The worker.
        identity: String,
        /// The build of the worker's code, where it tells.
        worker_version: Option<WorkerVersionStamp>,
    },
    /// The worker says that the activity has obeyed a cancellation. Answered by [`Reply::Done`].
    CancelActivity {
        /// Which activity.
        activity: ActivityRef,
        /// Details for the workflow.
        details: Option<Payloads>,
        /// The worker.
        identity: String,
        /// The build of the worker's code, where it tells.
        worker_version: Option<WorkerVersionStamp>,
    },

    /// No attempt of activities is handed out. Answered by [`Reply::Done`].
    PauseActivity(Box<PauseActivityRequest>),
    /// Activities go on that were paused. Answered by [`Reply::Done`].
    UnpauseActivity(Box<UnpauseActivityRequest>),
    /// The attempts of activities are counted anew. Answered by [`Reply::Done`].
    ResetActivity(Box<ResetActivityRequest>),
    /// Activities are attempted in another way. Answered by [`Reply::ActivityOptions`].
    UpdateActivityOptions(Box<UpdateActivityOptionsRequest>),
    /// Answered by [`Reply::WorkflowOptions`].
    UpdateWorkflowOptions(Box<UpdateWorkflowExecutionOptionsRequest>),

    /// Asks a query. Answered by [`Reply::Query`]; the answer proper comes as an effect.
    QueryWorkflow {
        /// Number under which the asker waits.
        query_id: u64,
        /// The query.
        query: Box<WorkflowQuery>,
        /// When not to ask (a `QueryRejectCondition`).
        reject_condition: i32,
    },
    /// The asker has given up. Answered by [`Reply::Done`].
    AbandonQuery {
        /// Its number.
        query_id: u64,
    },
    /// A poller is at hand for a query of its own. Answered by [`Reply::QueryTask`].
    StartQueryTask {
        /// The queue that was polled.
        task_queue: String,
    },

    /// Sends an update to the workflow, or finds it. Answered by [`Reply::Update`].
    UpdateWorkflow(Box<UpdateWorkflowExecutionRequest>),
    /// Asks how far an update has come. Answered by [`Reply::Update`].
    PollUpdate {
        /// Its id.
        update_id: String,
    },

    /// Another workflow has sent a message. Answered by [`Reply::Done`], or [`Reply::Started`] where it starts a child, however often it
    /// comes; a refusal tells what becomes of it.
    ReceiveMessage(Box<OutboxMessage>),
    /// It is known what became of a message that the run has sent. Answered by [`Reply::Done`], however often it comes.
    SettleMessage {
        /// The event with which it was sent.
        event_id: i64,
        /// What became of it.
        outcome: outbox::Outcome,
    },

    /// It is known what became of a call to a Nexus service. Answered by [`Reply::Done`], however often it comes.
    SettleNexusCall(Box<NexusAnswer>),

    /// Deadlines of the run are due: timers, timeouts, retries, backoffs, retention. Answered by [`Reply::Done`].
    FireTimers,
}

impl Command {
    /// What a request to start a workflow asks for.
    ///
    /// # Errors
    ///
    /// As [`ValidStart::new`].
    pub fn start(request: StartWorkflowExecutionRequest, limits: &Limits) -> Result<Command, Rejection> {
        Ok(Command::StartWorkflow(Box::new(ValidStart::new(request, limits)?)))
    }

    /// What a request to signal a workflow, and to start it if it does not run, asks for.
    ///
    /// # Errors
    ///
    /// As [`ValidSignalWithStart::new`].
    pub fn signal_with_start(
        request: SignalWithStartWorkflowExecutionRequest,
        limits: &Limits,
    ) -> Result<Command, Rejection> {
        Ok(Command::SignalWithStartWorkflow(Box::new(ValidSignalWithStart::new(request, limits)?)))
    }

    /// What it is for.
    pub fn entity_kind(&self) -> EntityKind {
        match self {
            Command::Schedule(_) => EntityKind::Schedule,
            Command::BatchJob(_) => EntityKind::BatchJob,
            Command::Activity(_) => EntityKind::Activity,
            _ => EntityKind::Workflow,
        }
    }

    /// What it is called in logs.
    pub fn name(&self) -> &'static str {
        match self {
            Command::StartWorkflow(_) => "StartWorkflow",
            Command::SignalWithStartWorkflow(_) => "SignalWithStartWorkflow",
            Command::UpdateWithStart(..) => "UpdateWithStart",
            Command::ResetWorkflow(_) => "ResetWorkflow",
            Command::Run(command) => command.name(),
            Command::Schedule(command) => command.name(),
            Command::BatchJob(command) => command.name(),
            Command::Activity(command) => command.name(),
        }
    }
}

impl From<ScheduleCommand> for Command {
    fn from(command: ScheduleCommand) -> Command {
        Command::Schedule(command)
    }
}

impl From<BatchJobCommand> for Command {
    fn from(command: BatchJobCommand) -> Command {
        Command::BatchJob(command)
    }
}

impl From<ActivityExecutionCommand> for Command {
    fn from(command: ActivityExecutionCommand) -> Command {
        Command::Activity(command)
    }
}

impl From<RunCommand> for Command {
    fn from(command: RunCommand) -> Command {
        Command::Run(command)
    }
}

impl RunCommand {
    /// What it is called in logs.
    pub fn name(&self) -> &'static str {
        match self {
            RunCommand::SignalWorkflow(_) => "SignalWorkflow",
            RunCommand::RequestCancelWorkflow(_) => "RequestCancelWorkflow",
            RunCommand::TerminateWorkflow(_) => "TerminateWorkflow",
            RunCommand::DeleteWorkflow => "DeleteWorkflow",
            RunCommand::StartWorkflowTask(_) => "StartWorkflowTask",
            RunCommand::CompleteWorkflowTask(..) => "CompleteWorkflowTask",
            RunCommand::FailWorkflowTask(..) => "FailWorkflowTask",
            RunCommand::SaveWorkflowTaskStart => "SaveWorkflowTaskStart",
            RunCommand::ResetStickyTaskQueue => "ResetStickyTaskQueue",
            RunCommand::StartActivityTask(_) => "StartActivityTask",
            RunCommand::HeartbeatActivity { .. } => "HeartbeatActivity",
            RunCommand::CompleteActivity { .. } => "CompleteActivity",
            RunCommand::FailActivity { .. } => "FailActivity",
            RunCommand::CancelActivity { .. } => "CancelActivity",
            RunCommand::PauseActivity(_) => "PauseActivity",
            RunCommand::UnpauseActivity(_) => "UnpauseActivity",
            RunCommand::ResetActivity(_) => "ResetActivity",
            RunCommand::UpdateActivityOptions(_) => "UpdateActivityOptions",
            RunCommand::UpdateWorkflowOptions(_) => "UpdateWorkflowOptions",
            RunCommand::QueryWorkflow { .. } => "QueryWorkflow",
            RunCommand::AbandonQuery { .. } => "AbandonQuery",
            RunCommand::StartQueryTask { .. } => "StartQueryTask",
            RunCommand::UpdateWorkflow(_) => "UpdateWorkflow",
            RunCommand::PollUpdate { .. } => "PollUpdate",
            RunCommand::ReceiveMessage(_) => "ReceiveMessage",
            RunCommand::SettleMessage { .. } => "SettleMessage",
            RunCommand::SettleNexusCall(_) => "SettleNexusCall",
            RunCommand::FireTimers => "FireTimers",
        }
    }
}

/// What the metadata say of an answer to a workflow task, which a workflow does not know: mostly, what is wrong with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Objections {
    /// The worker's binary is marked as bad.
    pub bad_binary: bool,
    /// What is wrong with the search attributes of commands, by the places of these.
    pub search_attributes: BTreeMap<usize, SearchAttributeObjection>,
    /// The ids of the Nexus endpoints that commands name, by these names, as far as there are any.
    pub nexus_endpoints: BTreeMap<String, String>,
}

/// What is wrong with search attributes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SearchAttributeObjection {
    /// The namespace has none of that name.
    Unknown(String),
    /// There are too many, or a value is not of its type.
    Invalid(String),
}

/// A poller for a workflow task.
#[derive(Clone, Debug)]
pub struct StartWorkflowTask {
    /// The task's `scheduled_event_id`.
    pub scheduled_event_id: i64,
    /// The task's attempt.
    pub attempt: i32,
    /// The queue that was polled, sticky or normal.
    pub task_queue: String,
    /// The worker.
    pub identity: String,
    /// Names this poll.
    pub request_id: String,
    /// The build of the worker's code, where it tells.
    pub worker_version: Option<WorkerVersionStamp>,
    /// The version of the worker, if it has one.
    pub deployment_version: Option<WorkerDeploymentVersion>,
}

/// A poller for an activity.
#[derive(Clone, Debug)]
pub struct StartActivityTask {
    /// The task's `scheduled_event_id`.
    pub scheduled_event_id: i64,
    /// The task's attempt.
    pub attempt: i32,
    /// Where the task stood that was handed out: it is void if the activity's stands elsewhere by now. `None` if a node of an older
    /// version asks, which does not say.
    pub key: Option<Box<TaskKey>>,
    /// The worker.
    pub identity: String,
    /// Names this poll.
    pub request_id: String,
    /// The worker's SDK: its name and its version, as far as it tells.
    pub sdk: (String, String),
    /// The version of the worker, if it has one.
    pub deployment_version: Option<WorkerDeploymentVersion>,
}

/// How a worker names an activity.
#[derive(Clone, Debug)]
pub enum ActivityRef {
    /// By the token that it was given: the attempt must match.
    Token(ActivityTaskToken),
    /// By activity id, for completion from elsewhere.
    Id(String),
}

/// The answer to a command.
#[derive(Clone, Debug)]
pub enum Reply {
    /// Nothing to say.
    Done,
    /// This run has taken a signal, now or when it was sent before.
    Signaled(RunId),
    /// A run was started, or one was there.
    Started(Started),
    /// This run goes on from where another one was reset to.
    Reset(RunId),
    /// Nothing was done: more has happened than was read for the reset.
    HistoryGrew,
    /// A workflow task was started.
    WorkflowTaskStarted(Box<WorkflowTaskStart>),
    /// A workflow task was completed.
    WorkflowTaskCompleted(WorkflowTaskCompleted),
    /// An activity was started.
    ActivityTaskStarted(Box<PollActivityTaskQueueResponse>),
    /// A heartbeat was taken.
    Heartbeat(Heartbeat),
    /// How an activity is attempted now.
    ActivityOptions(Box<ActivityOptions>),
    /// The options of a workflow as they are now.
    WorkflowOptions(Box<WorkflowExecutionOptions>),
    /// What became of a query.
    Query(QueryReply),
    /// How far an update has come.
    Update(UpdateReply),
    /// A poll response for a query task (without `query`, token and history).
    QueryTask(Box<WorkflowTaskStart>),
    /// A schedule was created: its conflict token.
    ScheduleToken(Vec<u8>),
    /// What is known of a schedule, and whether that is all: it may not know yet what became of workflows that it starts.
    Schedule(Box<DescribeScheduleResponse>, bool),
    /// What is known of a batch job.
    BatchJob(Box<DescribeBatchOperationResponse>),
    /// What is to be done for a batch job; nothing, if it is closed.
    BatchWork(Option<Box<batch_job::Work>>),
    /// An activity that is no workflow's was started, or one was there: which, and whether this request has started it.
    ActivityExecutionStarted(RunId, bool),
    /// What is known of such an activity, without what is asked for it to be found again.
    ActivityExecution(Box<DescribeActivityExecutionResponse>, i64),
}

/// What has been asked of an activity that an attempt goes on of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heartbeat {
    /// The workflow has asked it to cancel.
    pub cancel_requested: bool,
    /// An operator has paused it.
    pub activity_paused: bool,
    /// An operator has had its attempts counted anew.
    pub activity_reset: bool,
}

/// A run that was started, or found.
#[derive(Clone, Debug)]
pub struct Started {
    /// The run.
    pub run_id: RunId,
    /// The first run of its chain.
    pub first_execution_run_id: RunId,
    /// Whether this request (or an earlier one with its request id) started it.
    pub started: bool,
    /// Its status.
    pub status: WorkflowExecutionStatus,
    /// The request id under which this request is attached to a run that another one has started.
    pub attached_request_id: Option<String>,
    /// Its first workflow task, started for the caller, if that is a worker that has asked for it.
    pub first_task: Option<Box<WorkflowTaskStart>>,
}

/// A started workflow task: the poll response, with the history as a range to read.
#[derive(Clone, Debug, Default)]
pub struct WorkflowTaskStart {
    /// The response without its history and its token.
    pub response: PollWorkflowTaskQueueResponse,
    /// The token; `None` for a query task.
    pub token: Option<WorkflowTaskToken>,
    /// First event to send.
    pub history_from: i64,
    /// First event *not* to send from the stored history.
    pub history_to: i64,
    /// Encoded events behind those: WorkflowTaskStarted, and WorkflowTaskScheduled of a transient task, which are stored only
    /// when the task is completed.
    pub tail: bytes::Bytes,
}

/// A completed workflow task.
#[derive(Clone, Debug, Default)]
pub struct WorkflowTaskCompleted {
    /// The next workflow task, started on the same worker, if it asked for that and there is one.
    pub next: Option<Box<WorkflowTaskStart>>,
    /// Activities that it has scheduled and asked for, started on the same worker.
    pub activities: Vec<PollActivityTaskQueueResponse>,
    /// Set if nothing was written: the task was for updates alone, and all were rejected. The worker's history then goes on behind this
    /// event.
    pub reset_history_event_id: Option<i64>,
}

/// An update of a run.
#[derive(Clone, Debug)]
pub struct UpdateReply {
    /// The run.
    pub run_id: RunId,
    /// The update.
    pub update_id: String,
    /// How far it has come.
    pub status: UpdateStatus,
    /// The run that was started for it, or found, if the two came together.
    pub started: Option<Box<Started>>,
}

/// How far an update has come.
#[derive(Clone, Debug, PartialEq)]
pub enum UpdateStatus {
    /// It waits for the workflow.
    Admitted,
    /// The workflow has accepted it.
    Accepted,
    /// It has an outcome, which is in the history.
    Completed {
        /// The event that has it.
        event_id: i64,
    },
    /// It has this outcome: the workflow has just said so, or has rejected it, or closed before it was completed.
    Ended(Box<Outcome>),
}

impl UpdateStatus {
    /// With an outcome.
    pub(crate) fn ended(outcome: Outcome) -> UpdateStatus {
        UpdateStatus::Ended(Box::new(outcome))
    }
}

/// What became of a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QueryReply {
    /// It was not asked: the workflow has this status.
    Rejected(WorkflowExecutionStatus),
    /// It is on its way to a worker; the answer is an effect.
    Asked {
        /// How long the worker of the sticky queue, to which it went by itself, has to answer.
        sticky_timeout: Option<Duration>,
    },
}
