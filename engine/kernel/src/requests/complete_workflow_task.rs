//! RespondWorkflowTaskCompleted: the workflow has seen its history, and says what to do.
//!
//! Everything that the worker asks for is done, or nothing: one invalid command, and the run is as it was before, with a
//! WorkflowTaskFailed event instead. That is why a completion can be recorded *and* refused.

use std::collections::HashMap;

use everlog_proto::api::deployment::v1::WorkerDeploymentVersion;
use everlog_proto::api::enums::v1::{QueryResultType, TimeoutType, WorkerVersioningMode, WorkflowTaskFailedCause};
use everlog_proto::api::history::v1::history_event::Attributes;
use everlog_proto::api::history::v1::{WorkflowTaskCompletedEventAttributes, WorkflowTaskFailedEventAttributes};
use everlog_proto::api::query::v1::WorkflowQueryResult;
use everlog_proto::api::taskqueue::v1::StickyExecutionAttributes;
use everlog_proto::api::workflowservice::v1::RespondWorkflowTaskCompletedRequest;
use prost::Message;

use super::{start_activity_task, start_workflow_task};
use crate::command::{Objections, Reply, WorkflowTaskCompleted};
use crate::commands::{self, Invalid};
use crate::state::{Sticky, WorkflowTask, WorkflowTaskStarted};
use crate::terminate::terminate;
use crate::token::WorkflowTaskToken;
use crate::transition::Effect;
use crate::txn::Txn;
use crate::workflow_task::SERVER_IDENTITY;
use crate::{Rejection, Time, retry, time, updates, workflow_task};

/// Refuses a part of an answer: answers in pages are off in a Temporal server, too, unless it is configured otherwise.
fn refuse_page(request: &RespondWorkflowTaskCompletedRequest, namespace: &str) -> Result<(), Rejection> {
    if !request.intermediate_page && request.page_number <= 0 {
        return Ok(());
    }
    let message = format!("workflow task completion pagination is disabled for this namespace {namespace}");
    Err(Rejection::FailedPrecondition(message.into()))
}

/// Carries out what the worker asks for, or records that it cannot be.
pub(crate) fn apply(
    txn: &mut Txn<'_>,
    token: &WorkflowTaskToken,
    mut request: RespondWorkflowTaskCompletedRequest,
    objections: Objections,
) -> Result<Result<Reply, Rejection>, Rejection> {
    let named = workflow_task::find(txn, token)?;
    refuse_page(&request, &txn.ctx.namespace.name)?;
    commands::check_sequence(&request.commands)?;
    updates::check_messages(&request.messages)?;
    let before = txn.run.clone();
    let (task, started) = workflow_task::started(txn, named, token, &request.identity)?;
    let heartbeat =
        request.force_create_new_workflow_task && request.commands.is_empty() && request.messages.is_empty();
    let heartbeat_deadline = task.original_scheduled_time.plus(txn.ctx.limits.workflow_task_heartbeat_timeout);
    if heartbeat && heartbeat_deadline < txn.now() {
        workflow_task::time_out(txn, TimeoutType::StartToClose);
        return Ok(Err(Rejection::NotFound("workflow task heartbeat timeout".into())));
    }
    #[expect(deprecated, reason = "old workers are known by it")]
    let (identity, binary_checksum) = (request.identity.clone(), request.binary_checksum.clone());
    let invalid = match carry_out(txn, &task, &started, &mut request, objections) {
        Ok(was_written) => {
            // What is taken from the run now need not be copied.
            drop(before);
            let heartbeat_since = heartbeat.then_some(task.original_scheduled_time);
            let completed = go_on(txn, heartbeat_since, request);
            let reset_history_event_id = (!was_written).then_some(txn.run.state.last_completed_started_event_id);
            return Ok(Ok(Reply::WorkflowTaskCompleted(WorkflowTaskCompleted { reset_history_event_id, ..completed })));
        }
        Err(invalid) => invalid,
    };
    txn.restart_from(before);
    updates::abort_sent(txn);
    if task.is_transient() && !invalid.is_recorded() {
        if txn.effects.is_empty() {
            return Err(Rejection::invalid(invalid.to_string()));
        }
        return Ok(Err(Rejection::invalid(invalid.to_string())));
    }
    workflow_task::started(txn, named, token, &identity)?;
    Ok(Err(refuse(txn, identity, binary_checksum, invalid)))
}

/// Records the completion, unless it leaves no trace, and carries out the commands. Returns whether it is recorded.
fn carry_out(
    txn: &mut Txn<'_>,
    task: &WorkflowTask,
    started: &WorkflowTaskStarted,
    request: &mut RespondWorkflowTaskCompletedRequest,
    objections: Objections,
) -> Result<bool, Invalid> {
    let completed_event_id = if leaves_no_trace(txn, task, request) {
        txn.run.state.workflow_task = None;
        0
    } else {
        workflow_task::make_normal_of(txn, &request.identity);
        let in_hand = txn.run.state.workflow_task.clone();
        workflow_task::append_tail(txn, in_hand.as_ref().unwrap_or(task));
        let attributes = completed_attributes(request, task, started);
        let completed_event_id = txn.append(Attributes::WorkflowTaskCompletedEventAttributes(attributes));
        workflow_task::completed(txn);
        completed_event_id
    };
    let commands = std::mem::take(&mut request.commands);
    let mut messages = std::mem::take(&mut request.messages);
    let query_results = std::mem::take(&mut request.query_results);
    txn.run.sticky = sticky(request.sticky_attributes.take());
    if objections.bad_binary {
        #[expect(deprecated, reason = "old workers are known by it")]
        let message = format!("binary {} is marked as bad deployment", request.binary_checksum);
        return Err(Invalid::new(WorkflowTaskFailedCause::BadBinary, message));
    }
    answer_queries(txn, query_results);
    txn.set_in_commands(true);
    commands::apply_all(txn, completed_event_id, &request.identity, commands, &mut messages, objections)?;
    for message in messages {
        updates::receive(txn, &message, completed_event_id)?;
    }
    txn.set_in_commands(false);
    // A worker that asks for more time has not answered yet; one whose workflow has closed need not.
    if !request.force_create_new_workflow_task && txn.run.is_open() {
        updates::reject_unprocessed(txn);
    }
    Ok(completed_event_id > 0)
}

/// Whether the task was for updates alone, and all that comes of it is that they are rejected.
///
/// The worker has seen its events then, and must forget them: what it sees next stands behind the last task that is written. Old
/// workers cannot be sent the same events twice, so there must be none but those of the task itself.
fn leaves_no_trace(txn: &Txn<'_>, task: &WorkflowTask, request: &RespondWorkflowTaskCompletedRequest) -> bool {
    let is_able = request.capabilities.is_some_and(|able| able.discard_speculative_workflow_task_with_events);
    let events_max = if is_able { txn.ctx.limits.speculative_events_max } else { 0 };
    let state = &txn.run.state;
    task.is_speculative
        && request.commands.is_empty()
        && !request.force_create_new_workflow_task
        && state.next_event_id <= state.last_completed_started_event_id + 2 + events_max
        && request.messages.iter().all(updates::is_rejection)
}

/// What follows once the commands are carried out: activities that the worker takes at once, events that waited, the next task, its
/// start if the worker asks for it.
/// `heartbeat_since` tells since when the worker keeps the task by heartbeats.
#[expect(deprecated, reason = "workers still say so of which build they are")]
fn go_on(
    txn: &mut Txn<'_>,
    heartbeat_since: Option<Time>,
    request: RespondWorkflowTaskCompletedRequest,
) -> WorkflowTaskCompleted {
    if !txn.run.is_open() {
        return WorkflowTaskCompleted::default();
    }
    let activities = start_activity_task::start_eager(txn, &request.identity);
    let flushed = workflow_task::end(txn);
    let is_heartbeat = request.force_create_new_workflow_task;
    // A worker of another version than the one that the run is on its way to has had the task.
    let is_due = flushed || is_heartbeat || txn.run.is_in_transition();
    let has_updates = updates::has_unsent(&txn.run);
    if !is_due && !has_updates {
        // No task will follow that these queries could go along with, and nothing happened that they would have to wait for.
        for query in std::mem::take(&mut txn.run.queries) {
            txn.effects.push(workflow_task::offer_query(&txn.run, query));
        }
        return WorkflowTaskCompleted { activities, ..WorkflowTaskCompleted::default() };
    }
    if is_due || !request.return_new_workflow_task {
        workflow_task::schedule(txn, heartbeat_since);
    } else {
        workflow_task::schedule_speculative(txn);
    }
    let is_held_back = txn.run.has_undelivered_messages(txn.ctx.limits.undelivered_messages_max);
    if !request.return_new_workflow_task || is_held_back {
        workflow_task::offer_if_speculative(txn);
        return WorkflowTaskCompleted { activities, ..WorkflowTaskCompleted::default() };
    }
    let next = start_workflow_task::start_inline(txn, request.identity, request.worker_version_stamp, is_heartbeat);
    WorkflowTaskCompleted { next: next.ok().map(Box::new), activities, ..WorkflowTaskCompleted::default() }
}

/// Records that the task has failed, because of a command that is invalid. Everything else that it wanted has been taken back.
///
/// From the second attempt on not even that is done: the task is left to time out, so that a worker that fails every attempt
/// is slowed down. A run that asks for more than it may have is terminated.
#[expect(deprecated, reason = "old workers are known by their binaries")]
fn refuse(txn: &mut Txn<'_>, identity: String, binary_checksum: String, invalid: Invalid) -> Rejection {
    let text = invalid.to_string();
    txn.run.state.close_attempted |= invalid.cause == WorkflowTaskFailedCause::UnhandledCommand;
    let attributes = WorkflowTaskFailedEventAttributes {
        cause: invalid.cause.into(),
        failure: Some(retry::server_failure(&text, false)),
        identity,
        binary_checksum,
        ..WorkflowTaskFailedEventAttributes::default()
    };
    if invalid.terminates {
        workflow_task::fail_and_close(txn, attributes);
        terminate(txn, text.clone(), None, SERVER_IDENTITY.to_owned(), Vec::new());
    } else {
        workflow_task::fail(txn, attributes);
    }
    Rejection::invalid(text)
}

#[expect(deprecated, reason = "workers before deployments are known by these fields")]
fn completed_attributes(
    request: &RespondWorkflowTaskCompletedRequest,
    task: &WorkflowTask,
    started: &WorkflowTaskStarted,
) -> WorkflowTaskCompletedEventAttributes {
    let deployment = request.deployment_options.as_ref();
    let versioned = deployment.filter(|options| options.worker_versioning_mode() == WorkerVersioningMode::Versioned);
    // SDKs tell a behavior that they have by default, also where there are no versions.
    let is_unversioned = deployment.is_some() && versioned.is_none();
    WorkflowTaskCompletedEventAttributes {
        scheduled_event_id: task.scheduled_event_id,
        started_event_id: started.started_event_id,
        identity: request.identity.clone(),
        binary_checksum: request.binary_checksum.clone(),
        worker_version: request.worker_version_stamp.clone(),
        sdk_metadata: request.sdk_metadata.clone(),
        metering_metadata: request.metering_metadata,
        deployment: request.deployment.clone(),
        versioning_behavior: if is_unversioned { 0 } else { request.versioning_behavior },
        worker_deployment_version: String::new(),
        worker_deployment_name: deployment.map(|options| options.deployment_name.clone()).unwrap_or_default(),
        deployment_version: versioned.map(|options| WorkerDeploymentVersion {
            deployment_name: options.deployment_name.clone(),
            build_id: options.build_id.clone(),
        }),
    }
}

/// Where the worker wants the run's next tasks, which it has cached now.
fn sticky(attributes: Option<StickyExecutionAttributes>) -> Option<Sticky> {
    let attributes = attributes?;
    let task_queue = attributes.worker_task_queue.map(|task_queue| task_queue.name).filter(|name| !name.is_empty())?;
    let schedule_to_start_timeout = time::positive(attributes.schedule_to_start_timeout.as_ref()).ok().flatten();
    Some(Sticky { task_queue, schedule_to_start_timeout })
}

/// Answers the queries that went along with the task; those that the worker has left out stay where they are.
fn answer_queries(txn: &mut Txn<'_>, mut results: HashMap<String, WorkflowQueryResult>) {
    let bytes_max = txn.ctx.limits.blob_bytes_max;
    let mut effects = Vec::new();
    txn.run.queries.retain(|query| {
        let Some(result) = results.remove(&query.query_id.to_string()) else { return true };
        effects.push(Effect::AnswerQuery { query_id: query.query_id, answer: answer(result, bytes_max) });
        false
    });
    txn.effects.extend(effects);
}

fn answer(
    result: WorkflowQueryResult,
    bytes_max: usize,
) -> Result<Option<everlog_proto::api::common::v1::Payloads>, Rejection> {
    match result.result_type() {
        QueryResultType::Answered if result.answer.as_ref().map_or(0, Message::encoded_len) > bytes_max => {
            Err(Rejection::invalid("Blob data size exceeds limit."))
        }
        QueryResultType::Answered => Ok(result.answer),
        QueryResultType::Failed | QueryResultType::Unspecified => {
            Err(Rejection::QueryFailed { message: result.error_message, failure: result.failure.map(Box::new) })
        }
    }
}
