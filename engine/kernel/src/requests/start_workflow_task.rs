//! A poller is at hand for a workflow task: the task is started, and the poll is answered.
//!
//! Nothing is written, unless a former leader left buffered events behind: those come first. A start that lasts is written later
//! ([`workflow_task::save_start_if_due`]). A leader that does not know of a start learns of it from the worker's token
//! ([`recall`]).

use everlog_proto::api::common::v1::{WorkerVersionStamp, WorkflowExecution, WorkflowType};
use everlog_proto::api::deployment::v1::WorkerDeploymentVersion;
use everlog_proto::api::enums::v1::{SuggestContinueAsNewReason, TaskQueueKind, VersioningBehavior};
use everlog_proto::api::history::v1::history_event::Attributes;
use everlog_proto::api::history::v1::{DeclinedTargetVersionUpgrade, HistoryEvent, WorkflowTaskStartedEventAttributes};
use everlog_proto::api::taskqueue::v1::TaskQueue;
use everlog_proto::api::workflowservice::v1::PollWorkflowTaskQueueResponse;

use crate::command::{Reply, StartWorkflowTask, WorkflowTaskStart};
use crate::deployment::Target;
use crate::state::Run;
use crate::task::TaskKind;
use crate::token::{HistoryPosition, WorkflowTaskToken};
use crate::txn::Txn;
use crate::{Rejection, Time, events, updates, workflow_task};

/// The request id of the poll that a completion stands for, if it asks for the next task.
const INLINE_POLL_REQUEST_ID: &str = "request-from-RespondWorkflowTaskCompleted";

/// Whether a WorkflowTaskStarted with this request id was written with the WorkflowTaskScheduled before it.
pub fn is_inline_poll(request_id: &str) -> bool {
    request_id == INLINE_POLL_REQUEST_ID
}

/// Starts the pending task, if it is the one that the poller was matched with.
pub(crate) fn apply(txn: &mut Txn<'_>, request: StartWorkflowTask) -> Result<Reply, Rejection> {
    let pending = txn.run.state.workflow_task.as_ref().filter(|task| {
        txn.run.is_open()
            && task.started.is_none()
            && task.scheduled_event_id == request.scheduled_event_id
            && task.attempt == request.attempt
    });
    if pending.is_none() {
        return Err(Rejection::workflow_task_not_found());
    }
    txn.flush_buffered();
    workflow_task::schedule_if_overtaken(txn);
    let start = start(txn, request)?;
    Ok(Reply::WorkflowTaskStarted(Box::new(start)))
}

/// Starts the pending task for a worker that polls `task_queue`.
///
/// The worker is sent what is new if it has the run cached: that is, if it polls the run's sticky queue. Any other worker gets
/// the whole history, and the run is not sticky any more.
pub(crate) fn start(txn: &mut Txn<'_>, request: StartWorkflowTask) -> Result<WorkflowTaskStart, Rejection> {
    let StartWorkflowTask { task_queue, identity, request_id, worker_version, deployment_version, .. } = request;
    if txn.run.pinned_version().is_some_and(|pinned| deployment_version.as_ref() != Some(pinned)) {
        // It is offered to workers of that version.
        return Err(Rejection::workflow_task_not_found());
    }
    if txn.run.sticky.as_ref().is_none_or(|sticky| sticky.task_queue != task_queue) {
        txn.run.sticky = None;
    }
    let is_for_updates = txn.run.state.workflow_task.as_ref().is_some_and(|task| task.is_speculative);
    if is_for_updates && txn.run.admitted_updates.is_empty() {
        return Err(Rejection::NotFound("No messages for speculative workflow task.".into()));
    }
    begin(txn, Start { time: txn.now(), task_queue, identity, request_id, worker_version, is_routed: true })?;
    if !is_for_updates {
        txn.count_unwritten();
        go_to_version(txn, deployment_version);
    }
    let history_from = if txn.run.sticky.is_some() { first_event_unseen(&txn.run) } else { 1 };
    answer_with_updates(txn, history_from, true)
}

/// Starts the pending task for the worker that completes the one before it. That worker has the run at hand, whether or not it
/// will have it cached later; and it still has the updates that it was sent if it only asked for more time (`is_heartbeat`).
pub(crate) fn start_inline(
    txn: &mut Txn<'_>,
    identity: String,
    worker_version: Option<WorkerVersionStamp>,
    is_heartbeat: bool,
) -> Result<WorkflowTaskStart, Rejection> {
    let queue = txn.run.sticky.as_ref().map_or(txn.run.task_queue(), |sticky| &sticky.task_queue).to_owned();
    let request_id = INLINE_POLL_REQUEST_ID.to_owned();
    let time = txn.now();
    begin(txn, Start { time, task_queue: queue, identity, request_id, worker_version, is_routed: false })?;
    answer_with_updates(txn, first_event_unseen(&txn.run), !is_heartbeat)
}

/// The answer for a worker that gets the run's updates along with the task.
fn answer_with_updates(txn: &mut Txn<'_>, history_from: i64, with_sent: bool) -> Result<WorkflowTaskStart, Rejection> {
    let mut start = answer(txn, history_from).ok_or_else(Rejection::workflow_task_not_found)?;
    start.response.messages = updates::send(&mut txn.run, start.response.started_event_id, with_sent);
    Ok(start)
}

/// Starts the first task of a run that has just begun, for the worker that starts the run.
pub(crate) fn start_eager(txn: &mut Txn<'_>, identity: String) -> Result<WorkflowTaskStart, Rejection> {
    let (time, task_queue) = (txn.now(), txn.run.task_queue().to_owned());
    let request_id = txn.run.info.start_request_id.clone();
    begin(txn, Start { time, task_queue, identity, request_id, worker_version: None, is_routed: false })?;
    answer(txn, 1).ok_or_else(Rejection::workflow_task_not_found)
}

/// The first task of a run once more, if it is in the hands of the worker whose request has started the run.
pub(super) fn eager_again(txn: &Txn<'_>) -> Option<WorkflowTaskStart> {
    let task = txn.run.state.workflow_task.as_ref()?;
    let started = task.started.as_ref()?;
    let is_first = txn.run.state.last_completed_started_event_id == 0 && task.attempt == 1;
    if is_first && started.request_id == txn.run.info.start_request_id { answer(txn, 1) } else { None }
}

/// The first event that the worker of the last completed task was not sent.
fn first_event_unseen(run: &Run) -> i64 {
    run.state.last_completed_started_event_id + 1
}

/// Starts the pending task as `token` says that it was, in place of whatever start is known: another leader has handed it out.
pub(crate) fn recall(txn: &mut Txn<'_>, token: &WorkflowTaskToken, identity: &str) -> Result<(), Rejection> {
    if let Some(task) = &mut txn.run.state.workflow_task {
        task.started = None;
    }
    let start = Start {
        time: token.started_time,
        task_queue: String::new(),
        identity: identity.to_owned(),
        request_id: String::new(),
        worker_version: None,
        is_routed: true,
    };
    txn.run.unwritten_transitions += 1;
    begin(txn, start)
}

/// A worker takes a task.
struct Start {
    time: Time,
    task_queue: String,
    identity: String,
    request_id: String,
    worker_version: Option<WorkerVersionStamp>,
    /// Whether the worker was found by where the queue leads.
    is_routed: bool,
}

/// A worker of another version than the run's has the task: the run is on its way there. Only one that is not pinned is given to any other.
fn go_to_version(txn: &mut Txn<'_>, version: Option<WorkerDeploymentVersion>) {
    if txn.run.version() == version.as_ref() {
        return;
    }
    let revision = target(txn).revision;
    txn.run.start_transition(version, revision);
}

/// Where the run's queue leads.
fn target(txn: &Txn<'_>) -> Target {
    txn.ctx.namespace.deployments.target(TaskKind::Workflow, txn.run.task_queue(), txn.workflow_id)
}

/// Whether the workflow is told that its queue leads to another version than the one that it is pinned to: until it has been there, or has
/// continued as new without going there. Who has an override is told nothing.
fn is_told_of_target(txn: &mut Txn<'_>, is_routed: bool) -> bool {
    let Some(versioning) = txn.run.versioning().cloned() else { return false };
    let behavior = versioning.behavior();
    if behavior == VersioningBehavior::Unspecified {
        return false;
    }
    let target = if is_routed { target(txn) } else { Target { revision: -1, ..Target::default() } };
    let (mut notified, mut declined) = (versioning.notified.clone(), versioning.declined.clone());
    let revision_of =
        |seen: &Option<DeclinedTargetVersionUpgrade>| seen.as_ref().map_or(0, |seen| seen.revision_number);
    let seen = revision_of(&notified).max(revision_of(&declined));
    if versioning.info.versioning_override.is_some()
        || (behavior == VersioningBehavior::Pinned
            && versioning.version() == target.version.as_ref()
            && target.revision >= seen)
    {
        (notified, declined) = (None, None);
    } else if behavior == VersioningBehavior::Pinned
        && target.revision >= seen
        && declined.as_ref().is_none_or(|declined| target.revision > declined.revision_number)
    {
        let told =
            DeclinedTargetVersionUpgrade { deployment_version: target.version, revision_number: target.revision };
        (notified, declined) = (Some(told), None);
    }
    let is_told = behavior == VersioningBehavior::Pinned && notified.is_some();
    txn.run.set_told_versions(notified, declined);
    is_told
}

/// Makes the events of the start, and does to the run what they mean.
#[expect(deprecated, reason = "workers still say so of which build they are")]
fn begin(txn: &mut Txn<'_>, start: Start) -> Result<(), Rejection> {
    let Start { time, task_queue, identity, request_id, worker_version, is_routed } = start;
    let target_worker_deployment_version_changed = is_told_of_target(txn, is_routed);
    let mut save_at = time.plus(txn.ctx.limits.activity_start_flush);
    let next_event_id = txn.run.state.next_event_id;
    let started_attributes = started_attributes(txn, identity, request_id);
    let run = &mut txn.run;
    let task = run.state.workflow_task.as_ref().ok_or_else(Rejection::workflow_task_not_found)?;
    let scheduled_event_id = task.scheduled_event_id;
    let mut tail = Vec::new();
    let mut started_event_id = next_event_id;
    let (is_speculative, had_workflow_task) = (task.is_speculative, run.state.had_workflow_task);
    if is_speculative {
        // It leaves no trace, however long the worker takes.
        save_at = Time::MAX;
    }
    if task.is_unwritten() {
        let scheduled = workflow_task::transient_scheduled(run, task);
        events::encode_into(&scheduled, &mut tail);
        apply_ahead(run, &scheduled);
        started_event_id += 1;
    }
    let attributes = WorkflowTaskStartedEventAttributes {
        scheduled_event_id,
        // A build without an id is none, as in Temporal.
        worker_version: worker_version.filter(|version| !version.build_id.is_empty()),
        target_worker_deployment_version_changed,
        ..started_attributes
    };
    let mut started = HistoryEvent {
        attributes: Some(Attributes::WorkflowTaskStartedEventAttributes(attributes)),
        ..HistoryEvent::default()
    };
    events::complete(&mut started, started_event_id, time);
    events::encode_into(&started, &mut tail);
    apply_ahead(run, &started);
    if is_speculative {
        // Its events do not count yet.
        run.state.had_workflow_task = had_workflow_task;
    }
    let task = run.state.workflow_task.as_mut().ok_or_else(Rejection::workflow_task_not_found)?;
    task.is_speculative = is_speculative;
    if let Some(started) = &mut task.started {
        started.tail = tail.into();
        started.task_queue = task_queue;
        started.save_at = Some(save_at);
    }
    Ok(())
}

/// Does to the run what an event means that is written when the task ends.
fn apply_ahead(run: &mut Run, event: &HistoryEvent) {
    run.apply(event).expect("the kernel applies the events of workflow tasks");
}

/// The Started event, but for the scheduled one's id. What it says of the history's size is what the worker is told, and must
/// be the same at every replay.
pub(crate) fn started_attributes(
    txn: &Txn<'_>,
    identity: String,
    request_id: String,
) -> WorkflowTaskStartedEventAttributes {
    let (state, limits) = (&txn.run.state, txn.ctx.limits);
    let mut reasons = Vec::new();
    if state.history_bytes >= limits.history_bytes_suggest_continue_as_new {
        reasons.push(SuggestContinueAsNewReason::HistorySizeTooLarge.into());
    }
    if state.next_event_id >= limits.history_events_suggest_continue_as_new {
        reasons.push(SuggestContinueAsNewReason::TooManyHistoryEvents.into());
    }
    if updates::are_many(&txn.run, limits) {
        reasons.push(SuggestContinueAsNewReason::TooManyUpdates.into());
    }
    WorkflowTaskStartedEventAttributes {
        identity,
        request_id,
        suggest_continue_as_new: !reasons.is_empty(),
        suggest_continue_as_new_reasons: reasons,
        history_size_bytes: i64::try_from(state.history_bytes).unwrap_or(i64::MAX),
        ..WorkflowTaskStartedEventAttributes::default()
    }
}

/// What the worker gets of the started task: the history from this event on.
fn answer(txn: &Txn<'_>, history_from: i64) -> Option<WorkflowTaskStart> {
    let run = &txn.run;
    let task = run.state.workflow_task.as_ref()?;
    let started = task.started.as_ref()?;
    let token = WorkflowTaskToken {
        namespace_id: txn.ctx.namespace.id,
        workflow_id: txn.workflow_id.to_owned(),
        run_id: run.id,
        scheduled_event_id: task.scheduled_event_id,
        started_event_id: started.started_event_id,
        started_time: started.time,
        attempt: task.attempt,
        history_position: HistoryPosition::default(),
        is_proven: false,
    };
    let response = PollWorkflowTaskQueueResponse {
        started_event_id: started.started_event_id,
        attempt: task.attempt,
        scheduled_time: Some(task.scheduled_time.to_proto()),
        started_time: Some(started.time.to_proto()),
        queries: run.queries.iter().map(|query| (query.query_id.to_string(), query.query.clone())).collect(),
        ..response(run, txn.workflow_id)
    };
    Some(WorkflowTaskStart {
        response,
        token: Some(token),
        history_from,
        history_to: run.state.next_event_id,
        tail: started.tail.clone(),
    })
}

/// What every answer to a poll says of the run.
pub(super) fn response(run: &Run, workflow_id: &str) -> PollWorkflowTaskQueueResponse {
    PollWorkflowTaskQueueResponse {
        workflow_execution: Some(WorkflowExecution { workflow_id: workflow_id.to_owned(), run_id: run.id.to_string() }),
        workflow_type: Some(WorkflowType { name: run.workflow_type().to_owned() }),
        previous_started_event_id: run.state.last_completed_started_event_id,
        workflow_execution_task_queue: Some(TaskQueue {
            name: run.task_queue().to_owned(),
            kind: TaskQueueKind::Normal.into(),
            ..TaskQueue::default()
        }),
        ..PollWorkflowTaskQueueResponse::default()
    }
}
