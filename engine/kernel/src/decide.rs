//! The one entry: a command is routed to its handler, and what the handler did becomes a transition.

use crate::command::{Command, Reply};
use crate::requests;
use crate::state::{Current, Workflow};
use crate::transition::Transition;
use crate::txn::{self, NewRun, Txn};
use crate::{Context, Rejection, RowKey, RunId, history_limits, workflow_task};

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
        Command::StartWorkflow(request) => requests::start_workflow::decide(workflow, *request, ctx),
        Command::SignalWithStartWorkflow(request) => requests::signal_with_start::decide(workflow, *request, ctx),
        command => {
            let run_id = run_id
                .or(workflow.current.as_ref().map(|current| current.run_id))
                .ok_or_else(Rejection::workflow_not_found)?;
            on_run(workflow, run_id, ctx, |txn| on_existing_run(txn, command))
        }
    }
}

fn on_existing_run(txn: &mut Txn<'_>, command: Command) -> Result<Result<Reply, Rejection>, Rejection> {
    // A command may be recorded *and* refused; only this one is.
    if let Command::CompleteWorkflowTask(token, request) = command {
        return requests::complete_workflow_task::apply(txn, &token, *request);
    }
    match command {
        Command::SignalWorkflow(request) => requests::signal_workflow::apply(txn, *request),
        Command::RequestCancelWorkflow(request) => requests::request_cancel_workflow::apply(txn, *request),
        Command::TerminateWorkflow(request) => requests::terminate_workflow::apply(txn, *request),
        Command::StartWorkflowTask(start) => requests::start_workflow_task::apply(txn, start),
        Command::FailWorkflowTask(token, request) => requests::fail_workflow_task::apply(txn, &token, *request),
        Command::SaveWorkflowTaskStart => {
            workflow_task::save_start(txn);
            Ok(Reply::Done)
        }
        Command::ResetStickyTaskQueue => requests::reset_sticky::apply(txn),
        Command::StartActivityTask(start) => requests::start_activity_task::apply(txn, start),
        Command::HeartbeatActivity { activity, details, identity } => {
            requests::heartbeat_activity::apply(txn, &activity, details, identity)
        }
        Command::CompleteActivity { activity, result, identity } => {
            requests::complete_activity::apply(txn, &activity, result, identity)
        }
        Command::FailActivity { activity, failure, last_heartbeat_details, identity } => {
            requests::fail_activity::apply(txn, &activity, failure.map(|f| *f), last_heartbeat_details, identity)
        }
        Command::CancelActivity { activity, details, identity } => {
            requests::cancel_activity::apply(txn, &activity, details, identity)
        }
        Command::QueryWorkflow { query_id, query, reject_condition } => {
            requests::query_workflow::ask(txn, query_id, *query, reject_condition)
        }
        Command::AbandonQuery { query_id } => requests::query_workflow::abandon(txn, query_id),
        Command::StartQueryTask { task_queue } => requests::query_workflow::start_task(txn, &task_queue),
        Command::FireTimers => requests::fire_timers::apply(txn),
        Command::StartWorkflow(_) | Command::SignalWithStartWorkflow(_) | Command::CompleteWorkflowTask(..) => {
            unreachable!("handled by decide and above")
        }
    }
    .map(Ok)
}

/// Runs `handler` on one run of the workflow. If it refuses, it must have changed nothing.
pub(crate) fn on_run(
    workflow: &mut Workflow,
    run_id: RunId,
    ctx: &mut Context<'_>,
    handler: impl FnOnce(&mut Txn<'_>) -> Result<Result<Reply, Rejection>, Rejection>,
) -> Result<Transition, Rejection> {
    let run = workflow.runs.remove(&run_id).ok_or_else(Rejection::workflow_not_found)?;
    let mut txn = Txn::new(run, &workflow.id, ctx.reborrow());
    let reply = match handler(&mut txn) {
        Ok(reply) => reply,
        Err(rejection) => {
            workflow.runs.insert(run_id, txn.run);
            return Err(rejection);
        }
    };
    let reply = history_limits::enforce(&mut txn, reply);
    let (run, mut transition, successor) = txn.finish(reply);
    let deleted = requests::fire_timers::is_due_for_deletion(&run, ctx.now);
    workflow.runs.insert(run_id, run);
    if deleted {
        requests::fire_timers::delete_run(workflow, run_id, &mut transition);
    }
    if let Some(new_run) = successor {
        start_run(workflow, new_run, ctx, &mut transition, |_| {});
    }
    Ok(transition)
}

/// Starts a run as part of `transition` and makes it the current one. `before_first_task` may record what happens to the run
/// between its first event and its first workflow task.
pub(crate) fn start_run(
    workflow: &mut Workflow,
    new_run: NewRun,
    ctx: &mut Context<'_>,
    transition: &mut Transition,
    before_first_task: impl FnOnce(&mut Txn<'_>),
) {
    let run_id = new_run.run_id;
    let mut txn = requests::start_workflow::begin(new_run, &workflow.id, ctx.reborrow());
    before_first_task(&mut txn);
    requests::start_workflow::schedule_first_task(&mut txn);
    let (run, started, _) = txn.finish(Ok(Reply::Done));
    workflow.runs.insert(run_id, run);
    txn::merge(transition, started);
    let current = Current { run_id };
    transition.rows.push((RowKey::Current, Some(current.to_row())));
    workflow.current = Some(current);
}
