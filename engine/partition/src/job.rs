//! What a partition is asked to do, and who waits for the answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use everlog_kernel::command::{Reply, UpdateStatus};
use everlog_kernel::outbox::Outcome;
use everlog_kernel::{Command, Context, EntityKind, RunCommand, RunId, Workflow};
use everlog_model::{CallError, EntityRef, OperationId, RunView, WorkflowRef};
use everlog_proto::api::common::v1::Payloads;
use everlog_storage::keys::OutboxKey;
use prost::Message;
use tokio::sync::{mpsc, oneshot};

use super::history;
use super::operation::Step;

/// Something to do on a workflow.
pub(crate) struct Job {
    pub(crate) address: WorkflowRef,
    pub(crate) run_id: Option<RunId>,
    pub(crate) work: Work,
    /// The call that it is for, if that has no id of its own and may be made again.
    pub(crate) operation: Option<OperationId>,
    /// Its share of what may wait; given back when the job is done or refused.
    pub(crate) charge: Charge,
}

/// What to do.
pub(crate) enum Work {
    /// Decide a command.
    Command {
        command: Command,
        /// `None` for commands that the partition gives itself.
        reply: Option<ReplyTo>,
    },
    /// Decide a command about an update, and have its caller told what becomes of that.
    FollowUpdate { command: Command, reply: ReplyTo, news: NewsTo },
    /// Record what became of a message, and delete its row.
    Settle { message: OutboxKey, source: EntityKind, event_id: i64, outcome: Outcome },
    /// Look at the state.
    Inspect(Inspect),
    /// Tell what is known of a run, and once more when its history has grown beyond `seen`.
    Watch { kind: EntityKind, seen: Option<i64>, reply: ViewTo },
}

/// The reply to a command, with the history of the workflow task that it starts.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The reply.
    pub reply: Reply,
    /// Where the history of the workflow task in the reply is, if there is one.
    pub(crate) history: Option<history::HistorySource>,
}

/// Who waits for the answer to a command.
pub(crate) type ReplyTo = oneshot::Sender<Result<Answer, CallError>>;

/// Who waits for what becomes of an update.
pub(crate) type NewsTo = mpsc::Sender<Result<UpdateStatus, CallError>>;

/// Who waits for what is known of a run; told twice at most.
pub(crate) type ViewTo = mpsc::Sender<Result<RunView, CallError>>;

/// Looks at a workflow and returns what tells the result, once that is durable.
pub(crate) type Inspect =
    Box<dyn for<'a, 'b> FnOnce(Result<(&'a Workflow, &'a Context<'b>), CallError>) -> Tell + Send>;

/// Tells the result of an inspection, or that it cannot be told.
pub(crate) type Tell = Box<dyn FnOnce(Result<(), CallError>) + Send>;

impl Job {
    /// What it is for.
    pub(crate) fn entity(&self) -> EntityRef {
        self.address.entity_of(match &self.work {
            Work::Command { command, .. } => command.entity_kind(),
            Work::Settle { source: kind, .. } | Work::Watch { kind, .. } => *kind,
            Work::FollowUpdate { .. } | Work::Inspect(_) => EntityKind::Workflow,
        })
    }

    /// What it is called in logs.
    pub(crate) fn name(&self) -> &'static str {
        match &self.work {
            Work::Command { command, .. } | Work::FollowUpdate { command, .. } => command.name(),
            Work::Settle { .. } => "SettleMessage",
            Work::Inspect(_) => "Inspect",
            Work::Watch { .. } => "Watch",
        }
    }

    /// The step of its call that it is, if that is to be done once.
    pub(crate) fn step(&self) -> Option<Step> {
        match &self.work {
            Work::Command { command, reply: Some(_) } => {
                Some(Step::of(self.operation?, &self.entity(), command.name()))
            }
            // An update has an id.
            Work::Command { reply: None, .. }
            | Work::FollowUpdate { .. }
            | Work::Settle { .. }
            | Work::Inspect(_)
            | Work::Watch { .. } => None,
        }
    }

    /// Answers that it is not done.
    pub(crate) fn refuse(self, error: &CallError) {
        match self.work {
            Work::Command { reply: Some(reply), .. } | Work::FollowUpdate { reply, .. } => {
                // A caller that went away does not care.
                let _ = reply.send(Err(error.clone()));
            }
            // The message is sent again after a while, or by the next lead.
            Work::Command { reply: None, .. } | Work::Settle { .. } => {}
            Work::Inspect(inspect) => inspect(Err(error.clone()))(Err(error.clone())),
            Work::Watch { reply, .. } => {
                let _ = reply.try_send(Err(error.clone()));
            }
        }
    }
}

/// A job's share of the memory for what waits, bytes.
#[derive(Debug, Default)]
pub(crate) struct Charge(Option<(Arc<AtomicUsize>, usize)>);

impl Charge {
    /// Adds `bytes` to `total` until the charge is dropped.
    pub(crate) fn new(total: &Arc<AtomicUsize>, bytes: usize) -> Charge {
        total.fetch_add(bytes, Ordering::Relaxed);
        Charge(Some((Arc::clone(total), bytes)))
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        if let Some((total, bytes)) = self.0.take() {
            total.fetch_sub(bytes, Ordering::Relaxed);
        }
    }
}

/// About what a look at a workflow takes while it waits, bytes.
pub(crate) const VIEW_BYTES: usize = 512;

/// About what a command takes while it waits, bytes.
pub(crate) fn command_bytes(command: &Command) -> usize {
    /// A request without payloads, with its boxes and channels.
    const BASE_BYTES: usize = 1024;
    let more = match command {
        Command::StartWorkflow(start) => start.payload_bytes(),
        Command::SignalWithStartWorkflow(request) => request.payload_bytes(),
        Command::UpdateWithStart(start, update) => start.payload_bytes() + update.encoded_len(),
        Command::ResetWorkflow(reset) => reset.kept.memory_bytes() + reset.later.bytes(),
        Command::Run(command) => run_command_bytes(command),
        Command::Schedule(command) => command.payload_bytes(),
        Command::BatchJob(command) => command.payload_bytes(),
        Command::Activity(command) => command.of_worker().map_or_else(|| command.payload_bytes(), run_command_bytes),
    };
    BASE_BYTES + more
}

fn run_command_bytes(command: &RunCommand) -> usize {
    let payloads = |payloads: &Option<Payloads>| {
        payloads.iter().flat_map(|payloads| &payloads.payloads).map(|payload| payload.data.len()).sum::<usize>()
    };
    match command {
        RunCommand::SignalWorkflow(request) => payloads(&request.input),
        RunCommand::TerminateWorkflow(request) => payloads(&request.details),
        RunCommand::CompleteWorkflowTask(_, request, _) => request.encoded_len(),
        RunCommand::FailWorkflowTask(_, request) => request.encoded_len(),
        RunCommand::HeartbeatActivity { details, .. } | RunCommand::CancelActivity { details, .. } => payloads(details),
        RunCommand::CompleteActivity { result, .. } => payloads(result),
        RunCommand::FailActivity { failure, last_heartbeat_details, .. } => {
            failure.as_ref().map_or(0, |failure| failure.encoded_len()) + payloads(last_heartbeat_details)
        }
        RunCommand::QueryWorkflow { query, .. } => payloads(&query.query_args),
        RunCommand::UpdateWorkflow(request) => request.encoded_len(),
        RunCommand::ReceiveMessage(message) => message.payload_bytes(),
        RunCommand::SettleNexusCall(answer) => answer.payload_bytes(),
        RunCommand::UpdateActivityOptions(request) => request.encoded_len(),
        RunCommand::UpdateWorkflowOptions(request) => request.encoded_len(),
        RunCommand::PauseActivity(_)
        | RunCommand::UnpauseActivity(_)
        | RunCommand::ResetActivity(_)
        | RunCommand::RequestCancelWorkflow(_)
        | RunCommand::DeleteWorkflow
        | RunCommand::StartWorkflowTask(_)
        | RunCommand::SaveWorkflowTaskStart
        | RunCommand::ResetStickyTaskQueue
        | RunCommand::StartActivityTask(_)
        | RunCommand::AbandonQuery { .. }
        | RunCommand::StartQueryTask { .. }
        | RunCommand::PollUpdate { .. }
        | RunCommand::SettleMessage { .. }
        | RunCommand::FireTimers => 0,
    }
}
