//! The workflow-task engine: when a task is scheduled, and what its end does.
//!
//! A run has at most one pending workflow task. Starting one is not written at once: it lives in the leader's memory and is recorded
//! with the task's end, because workflow code has no side effects and its answer stands behind the start in the same log. Local
//! activities do have side effects. So a start that lasts, or that somebody is shown, gets a row; and before that, the token of
//! the task proves that it was handed out.
//!
//! ```text
//!   schedule ──▶ pending ──▶ started ──▶ completed   [Scheduled] Started Completed, commands, what was buffered, next task?
//!                   ▲           │
//!                   │           ├──────▶ failed      Started Failed     attempt 1 only: later attempts leave no events
//!                   │           └──────▶ timed out   Started TimedOut   until one is completed
//!                   └───────────┴─ what was buffered, then the next task, with attempt + 1
//! ```
//!
//! A task with an attempt above 1 is *transient*: its Scheduled event is written with its Started event, when it is completed. One that
//! was overtaken by other events becomes a normal task again when it is started.
//!
//! A task that is for updates alone is *speculative*: nothing of it is written until something else is, or until the workflow has
//! accepted one; it becomes a normal task then ([`make_normal`]), and otherwise it leaves no trace.
//! (Temporal: `workflow_task_state_machine.go`.)

use bytes::Bytes;
use everlog_proto::api::enums::v1::{TaskQueueKind, TimeoutType, WorkflowTaskFailedCause};
use everlog_proto::api::history::v1::history_event::Attributes;
use everlog_proto::api::history::v1::{
    History, HistoryEvent, WorkflowTaskFailedEventAttributes, WorkflowTaskScheduledEventAttributes,
    WorkflowTaskTimedOutEventAttributes,
};
use everlog_proto::api::taskqueue::v1::TaskQueue;
use prost::Message;

use crate::requests::start_workflow_task;
use crate::state::{BufferedQuery, Run, WorkflowTask, WorkflowTaskProblem, WorkflowTaskStarted};
use crate::token::WorkflowTaskToken;
use crate::transition::{Effect, QueryTask, Task};
use crate::txn::Txn;
use crate::{EntityKind, Rejection, events, time};

/// The search attribute that tells of problems with a run's workflow tasks.
pub(crate) const REPORTED_PROBLEMS: &str = "TemporalReportedProblems";

/// Who the events are from that the server writes by itself.
pub(crate) const SERVER_IDENTITY: &str = "history-service";

/// Makes sure that the run has a workflow task pending, after something happened that the workflow must hear of.
///
/// With none pending, one is scheduled: with its event when the attempt is 1, as a transient task otherwise. While one is started, its
/// end will see to it.
pub(crate) fn ensure_scheduled(txn: &mut Txn<'_>) {
    if !txn.run.is_open() {
        return;
    }
    match &txn.run.state.workflow_task {
        None => schedule(txn, None),
        Some(task) if task.started.is_some() => limit_buffer(txn),
        Some(_) => {}
    }
}

/// Fails the started task, if there is one, once too much waits for its end.
pub(crate) fn limit_buffered(txn: &mut Txn<'_>) {
    if txn.run.workflow_task_started() {
        limit_buffer(txn);
    }
}

/// Makes a transient task that was overtaken by events a normal one again, under a new id: it is about to be started.
pub(crate) fn schedule_if_overtaken(txn: &mut Txn<'_>) {
    let next_event_id = txn.run.state.next_event_id;
    let task = txn.run.state.workflow_task.as_ref();
    let Some(task) = task.filter(|task| task.is_transient() && task.scheduled_event_id != next_event_id) else {
        return;
    };
    let start_to_close_timeout = task.start_to_close_timeout;
    txn.run.state.workflow_task = None;
    txn.run.state.next_workflow_task_attempt = 1;
    let attributes = scheduled_attributes(&txn.run, 1, start_to_close_timeout);
    txn.append(Attributes::WorkflowTaskScheduledEventAttributes(attributes));
}

/// Schedules a workflow task; none must be pending. `original_scheduled_time` continues a row of heartbeat tasks.
pub(crate) fn schedule(txn: &mut Txn<'_>, original_scheduled_time: Option<crate::Time>) {
    let now = txn.now();
    let attempt = txn.run.state.next_workflow_task_attempt;
    let start_to_close_timeout = start_to_close_timeout(txn, attempt);
    if attempt == 1 {
        let attributes = scheduled_attributes(&txn.run, attempt, start_to_close_timeout);
        txn.append(Attributes::WorkflowTaskScheduledEventAttributes(attributes));
        if let (Some(time), Some(task)) = (original_scheduled_time, &mut txn.run.state.workflow_task) {
            task.original_scheduled_time = time;
        }
        return;
    }
    let offered_sticky = txn.run.sticky.is_some();
    txn.run.state.workflow_task = Some(WorkflowTask {
        scheduled_event_id: txn.run.state.next_event_id,
        scheduled_time: now,
        original_scheduled_time: original_scheduled_time.unwrap_or(now),
        attempt,
        start_to_close_timeout,
        started: None,
        offered_sticky,
        is_speculative: false,
        lane: txn.run.lane(),
    });
    txn.touch();
}

/// Schedules a task for updates alone; none must be pending. The caller has it offered or started.
pub(crate) fn schedule_speculative(txn: &mut Txn<'_>) {
    let now = txn.now();
    let start_to_close_timeout = start_to_close_timeout(txn, 1);
    let offered_sticky = txn.run.sticky.is_some();
    txn.run.state.workflow_task = Some(WorkflowTask {
        scheduled_event_id: txn.run.state.next_event_id,
        scheduled_time: now,
        original_scheduled_time: now,
        attempt: 1,
        start_to_close_timeout,
        started: None,
        offered_sticky,
        is_speculative: true,
        lane: txn.run.lane(),
    });
    txn.keep_speculative();
}

/// Offers the pending task to workers if it is speculative: it has no row that would have it offered.
pub(crate) fn offer_if_speculative(txn: &mut Txn<'_>) {
    if !txn.run.state.workflow_task.as_ref().is_some_and(|task| task.is_speculative) {
        return;
    }
    let Some(key) = txn.run.workflow_task_key() else { return };
    let sticky = txn.run.sticky.as_ref().map(|sticky| sticky.task_queue.clone());
    let version = txn.run.task_version().cloned().map(Box::new);
    let (entity, weight) = (EntityKind::Workflow, txn.run.weight_of(None));
    txn.effects.push(Effect::OfferTask(Task { key, attempt: 1, sticky, version, entity, weight }));
}

/// Makes a speculative task a normal one, under the id that it has: its Scheduled event is written, as the worker has seen it. Who has it
/// is not in its Started event then, which comes with its end.
pub(crate) fn make_normal(txn: &mut Txn<'_>) {
    make_normal_of(txn, "");
}

/// The same for a task that ends: the Started event names who ends it.
pub(crate) fn make_normal_of(txn: &mut Txn<'_>, ended_by: &str) {
    let Some(task) = txn.run.state.workflow_task.take_if(|task| task.is_speculative) else { return };
    let flush = txn.ctx.limits.activity_start_flush;
    let (scheduled, started) = match task.started {
        Some(started) => {
            let mut events = History::decode(started.tail.clone()).unwrap_or_default().events;
            let scheduled = if events.len() > 1 { Some(events.remove(0)) } else { None };
            for event in &mut events {
                if let Some(Attributes::WorkflowTaskStartedEventAttributes(a)) = &mut event.attributes {
                    ended_by.clone_into(&mut a.identity);
                }
            }
            let tail = History { events }.encode_to_vec().into();
            let save_at = Some(started.time.plus(flush));
            let identity = ended_by.to_owned();
            (scheduled, Some(WorkflowTaskStarted { tail, save_at, identity, ..started }))
        }
        None => (None, None),
    };
    let scheduled = scheduled.unwrap_or_else(|| {
        let attributes = scheduled_attributes(&txn.run, task.attempt, task.start_to_close_timeout);
        HistoryEvent {
            event_time: Some(task.scheduled_time.to_proto()),
            attributes: Some(Attributes::WorkflowTaskScheduledEventAttributes(attributes)),
            ..HistoryEvent::default()
        }
    });
    txn.append_event(scheduled);
    txn.run.state.workflow_task = Some(WorkflowTask { started, is_speculative: false, ..task });
}

/// How long a worker may take: the run's workflow task timeout, growing from the fourth attempt on by 5 s, 10 s, 20 s, up to
/// [`crate::Limits::workflow_task_retry_max_interval`], because SDKs report only the first failure and let later ones time out.
fn start_to_close_timeout(txn: &Txn<'_>, attempt: i32) -> std::time::Duration {
    let limits = txn.ctx.limits;
    let started = &txn.run.info.started;
    let timeout =
        started.workflow_task_timeout().unwrap_or(limits.workflow_task_timeout).min(limits.workflow_task_timeout_max);
    let Ok(doublings) = u32::try_from(attempt - 4) else { return timeout };
    let extra = std::time::Duration::from_secs(5).saturating_mul(1_u32.checked_shl(doublings).unwrap_or(u32::MAX));
    timeout + extra.min(limits.workflow_task_retry_max_interval)
}

/// The attributes of the run's WorkflowTaskScheduled event. It names the sticky queue while the run is sticky.
pub(crate) fn scheduled_attributes(
    run: &Run,
    attempt: i32,
    start_to_close_timeout: std::time::Duration,
) -> WorkflowTaskScheduledEventAttributes {
    let normal = run.task_queue().to_owned();
    let task_queue = match &run.sticky {
        Some(sticky) => {
            TaskQueue { name: sticky.task_queue.clone(), kind: TaskQueueKind::Sticky as i32, normal_name: normal }
        }
        None => TaskQueue { name: normal, kind: TaskQueueKind::Normal as i32, normal_name: String::new() },
    };
    WorkflowTaskScheduledEventAttributes {
        task_queue: Some(task_queue),
        start_to_close_timeout: Some(time::to_proto(start_to_close_timeout)),
        attempt,
    }
}

/// The Scheduled event of a task that is written when the task completes.
pub(crate) fn transient_scheduled(run: &Run, task: &WorkflowTask) -> HistoryEvent {
    let attributes = scheduled_attributes(run, task.attempt, task.start_to_close_timeout);
    let mut event = HistoryEvent {
        attributes: Some(Attributes::WorkflowTaskScheduledEventAttributes(attributes)),
        ..HistoryEvent::default()
    };
    events::complete(&mut event, task.scheduled_event_id, task.scheduled_time);
    event
}

/// The events of a pending transient or speculative task as those are shown them who read the history: behind its end, Started without a word on who
/// has the task. `None` if no such task is pending, or if events came since it was scheduled.
pub fn transient_events(run: &Run) -> Option<Bytes> {
    let task = run.state.workflow_task.as_ref().filter(|task| run.is_open() && task.is_unwritten())?;
    if task.scheduled_event_id != run.state.next_event_id {
        return None;
    }
    let mut history = match &task.started {
        Some(started) => History::decode(started.tail.clone()).ok()?,
        None => History { events: vec![transient_scheduled(run, task)] },
    };
    for event in &mut history.events {
        if let Some(Attributes::WorkflowTaskStartedEventAttributes(attributes)) = &mut event.attributes {
            attributes.identity.clear();
        }
    }
    Some(history.encode_to_vec().into())
}

// ---- The end of a task -----------------------------------------------------------------------------------------------

/// What is known of the task that a token names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Named {
    /// It was started as the token says.
    Started,
    /// Nobody knows that it was started, but the token proves it.
    Forgotten,
    /// The same, and another worker was given it since.
    GivenAway,
}

/// Finds the task of an open run that `token` names.
///
/// A leader that does not remember the start takes the token's word if the history that the worker was given is whole, and nothing
/// was appended to it since. A start that is written is not up for discussion: somebody may have been shown it.
///
/// # Errors
///
/// `NotFound` if the task is another one, or none.
pub(crate) fn find(txn: &Txn<'_>, token: &WorkflowTaskToken) -> Result<Named, Rejection> {
    let run = &txn.run;
    let named =
        |task: &&WorkflowTask| task.scheduled_event_id == token.scheduled_event_id && task.attempt == token.attempt;
    let task = run.state.workflow_task.as_ref().filter(|task| run.is_open() && named(task));
    let task = task.ok_or_else(Rejection::workflow_task_not_found)?;
    let is_same = |started: &WorkflowTaskStarted| {
        started.started_event_id == token.started_event_id && started.time == token.started_time
    };
    let started_event_id = run.state.next_event_id + i64::from(task.is_unwritten());
    let is_proven = token.is_proven
        && token.started_event_id == started_event_id
        && (task.scheduled_time..=txn.now()).contains(&token.started_time);
    match &task.started {
        Some(started) if is_same(started) => Ok(Named::Started),
        Some(started) if is_proven && !started.is_saved() => Ok(Named::GivenAway),
        None if is_proven => Ok(Named::Forgotten),
        _ => Err(Rejection::workflow_task_not_found()),
    }
}

/// The task that was found by its token, as started; from here on it is, if it was not known before.
pub(crate) fn started(
    txn: &mut Txn<'_>,
    named: Named,
    token: &WorkflowTaskToken,
    identity: &str,
) -> Result<(WorkflowTask, WorkflowTaskStarted), Rejection> {
    if named != Named::Started {
        start_workflow_task::recall(txn, token, identity)?;
    }
    let task = txn.run.state.workflow_task.as_ref();
    task.and_then(|task| Some((task.clone(), task.started.clone()?))).ok_or_else(Rejection::workflow_task_not_found)
}

/// Writes the start of the task that a worker has in hand, if it is not written.
pub(crate) fn save_start(txn: &mut Txn<'_>) {
    let task = txn.run.state.workflow_task.as_mut();
    let unsaved = task.and_then(|task| task.started.as_mut()).and_then(|started| started.save_at.take());
    if unsaved.is_some() {
        txn.save();
    }
}

/// Writes it if it has been unwritten for long enough.
pub(crate) fn save_start_if_due(txn: &mut Txn<'_>) {
    let started = txn.run.state.workflow_task.as_ref().and_then(|task| task.started.as_ref());
    let save_at = started.and_then(|started| started.save_at);
    if save_at.is_some_and(|time| time <= txn.now()) {
        save_start(txn);
    }
}

/// Writes the events of a started task that are kept in memory until its end: Started, and Scheduled of a transient task.
pub(crate) fn append_tail(txn: &mut Txn<'_>, task: &WorkflowTask) {
    if let Some(started) = &task.started {
        txn.append_encoded(&started.tail, if task.is_transient() { 2 } else { 1 });
    }
}

/// Ends the pending task for good: what waited for it is appended. Returns whether there was something, which then calls for
/// a task of its own. With events in between, a task that follows a failed one is a normal one again.
pub(crate) fn end(txn: &mut Txn<'_>) -> bool {
    // An event may have ended it already, or it leaves no trace.
    if txn.run.state.workflow_task.take().is_some() {
        txn.touch();
    }
    let flushed = txn.flush_buffered();
    if flushed {
        txn.run.state.next_workflow_task_attempt = 1;
    }
    flushed
}

/// Fails the started task, and schedules the next. `attributes` say why and who; the ids are filled in.
pub(crate) fn fail(txn: &mut Txn<'_>, attributes: WorkflowTaskFailedEventAttributes) {
    append_failed(txn, attributes);
    end(txn);
    schedule(txn, None);
}

/// Fails the started task, if there is one, and schedules none: the caller closes the run. A task that no worker has stays as it is.
pub(crate) fn fail_and_close(txn: &mut Txn<'_>, attributes: WorkflowTaskFailedEventAttributes) {
    if txn.run.workflow_task_started() {
        append_failed(txn, attributes);
        end(txn);
    } else {
        txn.run.state.workflow_task.take_if(|task| task.is_speculative);
        txn.flush_buffered();
    }
}

/// Takes the task, if there is one, from its worker, because the run is closed from outside.
pub(crate) fn force_close(txn: &mut Txn<'_>) {
    fail_and_close(txn, by_server(WorkflowTaskFailedCause::ForceCloseCommand));
}

/// Times the pending task out, and schedules the next.
pub(crate) fn time_out(txn: &mut Txn<'_>, timeout_type: TimeoutType) {
    make_normal(txn);
    let Some(task) = txn.run.state.workflow_task.clone() else { return };
    if !task.is_transient() {
        append_tail(txn, &task);
        txn.append(Attributes::WorkflowTaskTimedOutEventAttributes(WorkflowTaskTimedOutEventAttributes {
            scheduled_event_id: task.scheduled_event_id,
            started_event_id: task.started.as_ref().map_or(0, |started| started.started_event_id),
            timeout_type: timeout_type.into(),
        }));
    }
    count_failure(txn, if timeout_type == TimeoutType::ScheduleToStart { 0 } else { task.attempt });
    end(txn);
    schedule(txn, None);
}

/// Times the pending task out if its deadline has passed: in a worker's hands, or waiting for the sticky worker.
pub(crate) fn fire_timeouts(txn: &mut Txn<'_>) {
    let Some(task) = &txn.run.state.workflow_task else { return };
    if task.deadline(txn.run.sticky.as_ref()).is_some_and(|deadline| deadline <= txn.now()) {
        let started = task.started.is_some();
        time_out(txn, if started { TimeoutType::StartToClose } else { TimeoutType::ScheduleToStart });
    }
}

/// Fails the started task once too much waits for its end: the worker would have to see it all at once.
fn limit_buffer(txn: &mut Txn<'_>) {
    let limits = txn.ctx.limits;
    let buffered = &txn.run.buffered;
    // What they take in memory is known, and is more than what they are encoded in.
    let may_be_large = buffered.memory_bytes() > limits.buffered_bytes_max;
    let bytes = || buffered.values().map(|event| event.encoded_len()).sum::<usize>();
    if buffered.len() > limits.buffered_events_max || (may_be_large && bytes() > limits.buffered_bytes_max) {
        fail(txn, by_server(WorkflowTaskFailedCause::ForceCloseCommand));
    }
}

fn by_server(cause: WorkflowTaskFailedCause) -> WorkflowTaskFailedEventAttributes {
    WorkflowTaskFailedEventAttributes {
        cause: cause.into(),
        identity: SERVER_IDENTITY.to_owned(),
        ..WorkflowTaskFailedEventAttributes::default()
    }
}

/// Records that the started task, if there is one, has failed. Only the first attempt's failure is written.
fn append_failed(txn: &mut Txn<'_>, attributes: WorkflowTaskFailedEventAttributes) {
    if !txn.run.workflow_task_started() {
        return;
    }
    make_normal_of(txn, &attributes.identity);
    let Some(task) = txn.run.state.workflow_task.clone() else { return };
    if !task.is_transient() {
        append_tail(txn, &task);
        txn.append(Attributes::WorkflowTaskFailedEventAttributes(WorkflowTaskFailedEventAttributes {
            scheduled_event_id: task.scheduled_event_id,
            started_event_id: task.started.as_ref().map_or(0, |started| started.started_event_id),
            ..attributes
        }));
    }
    count_failure(txn, task.attempt);
}

/// What the failure of a task with this attempt means for the next: the worker that has the run cached is given up first, with
/// a first attempt of the next task from the whole history; only failures after that are counted.
fn count_failure(txn: &mut Txn<'_>, attempt: i32) {
    let was_sticky = txn.run.sticky.take().is_some();
    txn.run.state.next_workflow_task_attempt = if was_sticky { 1 } else { attempt.saturating_add(1) };
    if !was_sticky && attempt > 0 {
        count_problem(txn);
    }
}

/// Tells of problems in a search attribute once there are several in a row: somebody has to look after the workers.
fn count_problem(txn: &mut Txn<'_>) {
    let state = &mut txn.run.state;
    state.workflow_task_problems = state.workflow_task_problems.saturating_add(1);
    let reported_from = txn.ctx.limits.workflow_task_problems_reported;
    let Some(problem) = state.last_workflow_task_problem else { return };
    if reported_from <= 0 || state.workflow_task_problems < reported_from {
        return;
    }
    let (category, cause) = match problem {
        WorkflowTaskProblem::Failed(cause) => {
            let cause = WorkflowTaskFailedCause::try_from(cause).unwrap_or(WorkflowTaskFailedCause::Unspecified);
            ("WorkflowTaskFailed", format!("{cause:?}"))
        }
        WorkflowTaskProblem::TimedOut(timeout_type) => {
            let timeout_type = TimeoutType::try_from(timeout_type).unwrap_or(TimeoutType::Unspecified);
            ("WorkflowTaskTimedOut", format!("{timeout_type:?}"))
        }
    };
    let problems = [format!("category={category}"), format!("cause={category}Cause{cause}")];
    txn.run.change_search_attributes(|attributes| {
        let is_changed = attributes.keywords(REPORTED_PROBLEMS) != problems;
        if is_changed {
            attributes.set_keywords(REPORTED_PROBLEMS, &problems);
        }
        is_changed
    });
}

/// A workflow task was completed: its worker is known from here on, and there are no problems.
pub(crate) fn completed(txn: &mut Txn<'_>) {
    txn.run.limit_workers(txn.ctx.limits);
    if txn.ctx.limits.workflow_task_problems_reported > 0 {
        txn.run.change_search_attributes(|attributes| attributes.remove(REPORTED_PROBLEMS));
    }
}

// ---- Queries ---------------------------------------------------------------------------------------------------------

/// Puts a query to a worker by itself: to the sticky one first.
pub(crate) fn offer_query(run: &Run, query: BufferedQuery) -> Effect {
    Effect::OfferQuery(QueryTask {
        query_id: query.query_id,
        run_id: run.id,
        query: query.query,
        task_queue: run.task_queue().to_owned(),
        sticky: run.sticky.as_ref().map(|sticky| sticky.task_queue.clone()),
        version: run.task_version().cloned().map(Box::new),
    })
}
