//! Runs as a whole: a change of one, with the start of the next one where it has ended, and its deletion.
//!
//! Requests stand on this, and so does whatever else starts a run.

use std::time::Duration;

use everlog_proto::api::enums::v1::ContinueAsNewInitiator;
use everlog_proto::api::history::v1::history_event::Attributes;
use everlog_proto::api::history::v1::{HistoryEvent, WorkflowExecutionStartedEventAttributes};
use everlog_proto::wkt;

use crate::command::{Reply, WorkflowTaskStart};
use crate::cron::Cron;
use crate::requests::start_workflow_task;
use crate::rows::{RunRow, RunRowKind};
use crate::state::{Current, PendingRows, Run, Workflow};
use crate::transition::{Transition, VisibilityKey};
use crate::txn::{self, NewRun, Txn};
use crate::{
    Context, Limits, Namespace, Rejection, RowKey, RunId, Time, family, history_limits, time, updates, workflow_task,
};

/// Runs `handler` on one run of the workflow. If it refuses, it must have changed nothing.
pub(crate) fn on_run(
    workflow: &mut Workflow,
    run_id: RunId,
    ctx: &mut Context<'_>,
    handler: impl FnOnce(&mut Txn<'_>) -> Result<Result<Reply, Rejection>, Rejection>,
) -> Result<Transition, Rejection> {
    workflow.run(Some(run_id)).ok_or_else(Rejection::workflow_not_found)?;
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
    if txn.has_closed() {
        updates::close(&mut txn);
        let closing = txn.take_closing();
        family::closed(&mut txn, closing);
    }
    let (run, mut transition, successor) = txn.finish(reply);
    let deleted = is_due_for_deletion(&run, ctx.now, ctx.namespace);
    workflow.runs.insert(run_id, run);
    if deleted {
        delete_run(workflow, run_id, &mut transition);
    }
    if let Some(new_run) = successor {
        let _never_eager = start_run(workflow, new_run, ctx, &mut transition, |_| {});
    }
    Ok(transition)
}

/// Starts a run as part of `transition` and makes it the current one. `before_first_task` may record what happens to the run
/// between its first event and its first workflow task. Returns that task, started, if whoever starts the run takes it at once.
pub(crate) fn start_run(
    workflow: &mut Workflow,
    new_run: NewRun,
    ctx: &mut Context<'_>,
    transition: &mut Transition,
    before_first_task: impl FnOnce(&mut Txn<'_>),
) -> Option<WorkflowTaskStart> {
    let run_id = new_run.run_id;
    let is_eager = new_run.started.eager_execution_accepted;
    let identity = if is_eager { new_run.started.identity.clone() } else { String::new() };
    let scheduled_by = new_run.scheduled_by.clone();
    let mut txn = begin(new_run, &workflow.id, ctx.reborrow());
    if let Some(schedule_id) = scheduled_by {
        txn.set_scheduled_by(schedule_id);
    }
    if let Some(previous) = &workflow.current {
        txn.set_previous_run(previous.run_id);
    }
    before_first_task(&mut txn);
    schedule_first_task(&mut txn);
    let first_task = if is_eager { start_workflow_task::start_eager(&mut txn, identity).ok() } else { None };
    let (run, started, _) = txn.finish(Ok(Reply::Done));
    workflow.runs.insert(run_id, run);
    txn::merge(transition, started);
    let current = Current { run_id };
    transition.rows.push((RowKey::Current, Some(current.to_row())));
    workflow.current = Some(current);
    first_task
}

/// The beginning of a run: what it knows of itself, and its first event.
///
/// Serves starts, continue-as-new, retries and cron schedules alike. What `new_run` leaves open is filled in: ids of a new chain,
/// attempt 1, the timeouts that apply, when the run and (unless it is given) the chain expire, and the first turn of a cron schedule.
fn begin<'a>(new_run: NewRun, workflow_id: &'a str, ctx: Context<'a>) -> Txn<'a> {
    let NewRun { run_id, mut started, user_metadata, links, start_request_id, scheduled_by: _ } = new_run;
    let now = ctx.now;
    started.workflow_id = workflow_id.to_owned();
    started.original_execution_run_id = run_id.to_string();
    if started.first_execution_run_id.is_empty() {
        started.first_execution_run_id = run_id.to_string();
    }
    started.attempt = started.attempt.max(1);
    normalize_timeouts(&mut started, ctx.limits, now);
    await_first_turn(&mut started, now);
    if started.continued_execution_run_id.is_empty() {
        let backoff = duration(started.first_workflow_task_backoff.as_ref()).unwrap_or_default();
        started.first_workflow_task_backoff = Some(time::to_proto(backoff));
    }

    let first = HistoryEvent {
        attributes: Some(Attributes::WorkflowExecutionStartedEventAttributes(started)),
        user_metadata,
        links,
        ..HistoryEvent::default()
    };
    Txn::begin(run_id, first, start_request_id, workflow_id, ctx).expect("that is a WorkflowExecutionStarted")
}

/// Has the first run of a chain with a cron schedule wait for its turn. Temporal names the schedule as what has begun it, too.
fn await_first_turn(started: &mut WorkflowExecutionStartedEventAttributes, now: Time) {
    if started.first_workflow_task_backoff.is_some() || !started.continued_execution_run_id.is_empty() {
        return;
    }
    if let Ok(cron) = Cron::parse(&started.cron_schedule) {
        started.initiator = ContinueAsNewInitiator::CronSchedule.into();
        started.first_workflow_task_backoff = cron.backoff(now, now).map(time::to_proto);
    }
}

/// The timeouts that apply: a run ends with its chain, and a workflow task with its run.
fn normalize_timeouts(started: &mut WorkflowExecutionStartedEventAttributes, limits: &Limits, now: Time) {
    const MILLISECOND: i64 = 1_000_000;
    let execution = duration(started.workflow_execution_timeout.as_ref());
    let run = duration(started.workflow_run_timeout.as_ref());
    let run = execution.into_iter().chain(run).min();
    let task = duration(started.workflow_task_timeout.as_ref())
        .unwrap_or(limits.workflow_task_timeout)
        .min(limits.workflow_task_timeout_max);
    let task = run.map_or(task, |run| task.min(run));
    if run.is_some() {
        started.workflow_run_timeout = run.map(time::to_proto);
    }
    started.workflow_task_timeout = Some(time::to_proto(task));
    if let Some(execution) = execution
        && started.workflow_execution_expiration_time.is_none()
    {
        let expiration = now.plus(execution).0;
        let rounded = expiration.saturating_add(MILLISECOND / 2) / MILLISECOND * MILLISECOND;
        started.workflow_execution_expiration_time = Some(Time(rounded).to_proto());
    }
}

fn duration(duration: Option<&wkt::Duration>) -> Option<Duration> {
    time::positive(duration).ok().flatten()
}

/// Schedules the run's first workflow task, unless it is to wait.
fn schedule_first_task(txn: &mut Txn<'_>) {
    if txn.run.info.execution_time <= txn.run.info.start_time {
        workflow_task::ensure_scheduled(txn);
    }
}

/// Whether the run is closed, has been kept long enough, and owes nobody a message.
pub(crate) fn is_expired(run: &Run, now: Time) -> bool {
    !run.is_open() && run.children.is_empty() && run.state.delete_time.is_some_and(|time| time <= now)
}

/// Whether it can also go at once: in a namespace that archives its runs, only whoever has archived it, or does not want it, has it deleted.
pub(crate) fn is_due_for_deletion(run: &Run, now: Time, namespace: &Namespace) -> bool {
    is_expired(run, now) && (run.state.deletion_asked || !namespace.archives)
}

/// Deletes the run: its rows, and what is in memory of it.
fn delete_run(workflow: &mut Workflow, run_id: RunId, transition: &mut Transition) {
    let Some(mut run) = workflow.runs.remove(&run_id) else { return };
    let visibility = VisibilityKey {
        close_time: run.state.close_time.unwrap_or(Time::MAX),
        start_time: run.info.start_time,
        run_id,
    };
    transition.rows.push((RowKey::Visibility(visibility), None));
    if let Some(wake_at) = run.state.wake_at.take() {
        transition.rows.push((RowKey::Wake(wake_at, run_id), None));
    }
    forget_rows(workflow, run, transition);
    if workflow.current.as_ref().is_some_and(|current| current.run_id == run_id) {
        transition.rows.push((RowKey::Current, None));
        workflow.current = None;
    }
}

/// Deletes the rows that lie with a run. If others hold its history, the events that they share stay, and so does a note of who they are;
/// otherwise the run lets go of its base, of which there may be nothing left then, either.
fn forget_rows(workflow: &mut Workflow, mut run: Box<Run>, transition: &mut Transition) {
    if !run.history_holds.is_empty() {
        let run_id = run.id;
        for pending in run.pending_mut().into_iter().filter(|pending| pending.kind() != RunRowKind::HistoryHold) {
            pending.clear();
            pending.write_rows(run_id, &mut transition.rows);
        }
        run.state.is_remains = true;
        run.state.workflow_task = None;
        run.workflow_task_row = None;
        transition.rows.push((RowKey::HistoryFrom(run.id, run.held_until()), None));
        transition.rows.push((RowKey::Run(run.id, RunRow::only(RunRowKind::Workers)), None));
        transition.rows.push((RowKey::Run(run.id, RunRow::only(RunRowKind::State)), Some(run.state.to_row())));
        workflow.runs.insert(run.id, run);
        return;
    }
    transition.rows.push((RowKey::WholeRun(run.id), None));
    let Some(base_run_id) = run.branch.as_ref().map(|branch| branch.base_run_id) else { return };
    let Some(base) = workflow.runs.get_mut(&base_run_id) else { return };
    base.history_holds.remove(&run.id.to_string());
    base.history_holds.write_rows(base_run_id, &mut transition.rows);
    if base.state.is_remains
        && base.history_holds.is_empty()
        && let Some(base) = workflow.runs.remove(&base_run_id)
    {
        forget_rows(workflow, base, transition);
    }
}
