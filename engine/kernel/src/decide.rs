//! The one entry: a command is routed to its handler, and what the handler did becomes a transition.

use crate::command::{Command, Reply, RunCommand};
use crate::outbox::{MessageBody, Recipient};
use crate::state::Workflow;
use crate::transition::Transition;
use crate::txn::Txn;
use crate::{Context, Rejection, RunId, nexus, requests, runs, workflow_task};

/// Decides `command` on the state of `workflow`.
///
/// `run_id` is the run that the command names, or `None` for the current one. That run, and the current run, must be in
/// memory if they exist. On success the state is changed, *ahead* of the log: the caller drops it if the rows are not
/// committed. On an error nothing is changed.
///
/// # Errors
///
/// A [`Rejection`] says why the command cannot be carried out.
pub fn decide(
    workflow: &mut Workflow,
    run_id: Option<RunId>,
    command: Command,
    ctx: &mut Context<'_>,
) -> Result<Transition, Rejection> {
    match command {
        Command::StartWorkflow(start) => requests::start_workflow::decide(workflow, *start, ctx),
        Command::SignalWithStartWorkflow(request) => requests::signal_with_start::decide(workflow, *request, ctx),
        Command::UpdateWithStart(start, update) => requests::update_with_start::decide(workflow, *start, *update, ctx),
        Command::ResetWorkflow(reset) => requests::reset_workflow::decide(workflow, run_id, *reset, ctx),
        Command::Run(RunCommand::ReceiveMessage(message)) if message.begins_workflow() => match &message.body {
            MessageBody::StartScheduled(_) => requests::start_scheduled::decide(workflow, *message, ctx),
            _ => requests::start_child::decide(workflow, *message, ctx),
        },
        Command::Schedule(_) | Command::BatchJob(_) | Command::Activity(_) => Err(Rejection::workflow_not_found()),
        Command::Run(command) => {
            let run_id =
                run_id.or_else(|| unnamed_run(workflow, &command)).ok_or_else(Rejection::workflow_not_found)?;
            runs::on_run(workflow, run_id, ctx, |txn| on_existing_run(txn, command))
        }
    }
}

/// The run that a command is for that names none.
fn unnamed_run(workflow: &Workflow, command: &RunCommand) -> Option<RunId> {
    if let RunCommand::ReceiveMessage(message) = command
        && let Recipient::Run(run_id) = workflow.recipient(message)
    {
        return Some(run_id);
    }
    workflow.current.as_ref().map(|current| current.run_id)
}

fn on_existing_run(txn: &mut Txn<'_>, command: RunCommand) -> Result<Result<Reply, Rejection>, Rejection> {
    use RunCommand as C;
    match command {
        // A command may be recorded *and* refused; only these are.
        C::CompleteWorkflowTask(token, request, objections) => {
            return requests::complete_workflow_task::apply(txn, &token, *request, objections);
        }
        C::StartActivityTask(start) => return requests::start_activity_task::apply(txn, start),
        C::SignalWorkflow(request) => requests::signal_workflow::apply(txn, *request),
        C::RequestCancelWorkflow(request) => requests::request_cancel_workflow::apply(txn, *request),
        C::TerminateWorkflow(request) => requests::terminate_workflow::apply(txn, *request),
        C::DeleteWorkflow => requests::delete_workflow::apply(txn),
        C::StartWorkflowTask(start) => requests::start_workflow_task::apply(txn, start),
        C::FailWorkflowTask(token, request) => requests::fail_workflow_task::apply(txn, &token, *request),
        C::SaveWorkflowTaskStart => {
            workflow_task::save_start(txn);
            Ok(Reply::Done)
        }
        C::ResetStickyTaskQueue => requests::reset_sticky::apply(txn),
        C::HeartbeatActivity { activity, details, identity } => {
            requests::heartbeat_activity::apply(txn, &activity, details, identity)
        }
        C::CompleteActivity { activity, result, identity, worker_version } => {
            txn.worker_version = worker_version;
            requests::complete_activity::apply(txn, &activity, result, identity)
        }
        C::FailActivity { activity, failure, last_heartbeat_details, identity, worker_version } => {
            txn.worker_version = worker_version;
            requests::fail_activity::apply(txn, &activity, failure.map(|f| *f), last_heartbeat_details, identity)
        }
        C::CancelActivity { activity, details, identity, worker_version } => {
            txn.worker_version = worker_version;
            requests::cancel_activity::apply(txn, &activity, details, identity)
        }
        C::PauseActivity(request) => requests::pause_activity::apply(txn, *request),
        C::UnpauseActivity(request) => requests::unpause_activity::apply(txn, *request),
        C::ResetActivity(request) => requests::reset_activity::apply(txn, *request),
        C::UpdateActivityOptions(request) => requests::update_activity_options::apply(txn, *request),
        C::UpdateWorkflowOptions(request) => requests::update_workflow_options::apply(txn, *request),
        C::QueryWorkflow { query_id, query, reject_condition } => {
            requests::query_workflow::ask(txn, query_id, *query, reject_condition)
        }
        C::AbandonQuery { query_id } => requests::query_workflow::abandon(txn, query_id),
        C::StartQueryTask { task_queue } => requests::query_workflow::start_task(txn, &task_queue),
        C::UpdateWorkflow(request) => requests::update_workflow::update(txn, *request),
        C::PollUpdate { update_id } => requests::update_workflow::poll(txn, update_id),
        C::ReceiveMessage(message) => requests::receive_message::apply(txn, *message),
        C::SettleMessage { event_id, outcome } => requests::settle_message::apply(txn, event_id, outcome),
        C::SettleNexusCall(answer) => Ok(nexus::settle(txn, *answer)),
        C::FireTimers => requests::fire_timers::apply(txn),
    }
    .map(Ok)
}
