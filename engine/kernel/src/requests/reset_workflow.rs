//! A reset: a new run goes on from a workflow task of an earlier one, whose history up to there it shares.
//!
//! ```text
//!   base     1 … Scheduled Started │ Completed … Signaled …  Terminated, if it was open
//!   new run  ╰──────shared───────╯ │ Failed (reset)  Signaled …  Scheduled
//! ```
//!
//! The task fails in the new run, and what others have asked of the workflow since then is *reapplied*: signals, updates that it had
//! accepted (they wait to be accepted again), and what became of children. What the workflow itself has done since is forgotten.
//! (Temporal: `service/history/api/resetworkflow`, `service/history/ndc/workflow_resetter.go`.)

use everlog_proto::api::enums::v1::{RetryState, UpdateAdmittedEventOrigin, WorkflowTaskFailedCause};
use everlog_proto::api::failure::v1::failure::FailureInfo;
use everlog_proto::api::failure::v1::{Failure, ResetWorkflowFailureInfo};
use everlog_proto::api::history::v1::history_event::Attributes;
use everlog_proto::api::history::v1::{
    ActivityTaskFailedEventAttributes, HistoryEvent, WorkflowExecutionSignaledEventAttributes,
    WorkflowExecutionUpdateAdmittedEventAttributes, WorkflowTaskFailedEventAttributes,
};
use everlog_proto::api::workflow::v1::PostResetOperation;
use everlog_proto::api::workflow::v1::post_reset_operation::Variant;

use crate::command::Reply;
use crate::commands::{request_cancel_external_workflow, signal_external_workflow, start_child_workflow};
use crate::requests::{start_workflow_task, update_workflow_options};
use crate::reset::{End, Kept, Plan, Reset, plan};
use crate::runs::on_run;
use crate::state::{Branch, Current, HistoryHold, NexusOperation, Workflow};
use crate::terminate::terminate;
use crate::transition::{Effect, Transition};
use crate::txn::{self, Txn};
use crate::workflow_task::{self, SERVER_IDENTITY};
use crate::{Context, Rejection, RowKey, RunId, Time, events, nexus};

/// Who terminates the run that was the current one.
const RESETTER_IDENTITY: &str = "history-resetter";

/// The request id of the poll that stands for the start of a task that no worker had.
const NO_POLL: &str = "emptyUuid";

/// Resets `run_id`, or the current run. Answered by [`Reply::Reset`], or by [`Reply::HistoryGrew`] if more is to be read first.
pub(crate) fn decide(
    workflow: &mut Workflow,
    run_id: Option<RunId>,
    reset: Reset,
    ctx: &mut Context<'_>,
) -> Result<Transition, Rejection> {
    let Reset { request, kept, mut later } = reset;
    let base_run_id = match plan(workflow, run_id, &request)? {
        Plan::Done(run_id) => return Ok(Transition::reply(Reply::Reset(run_id))),
        Plan::Read { base_run_id, .. } => base_run_id,
    };
    let until = request.workflow_task_finish_event_id;
    if kept.run.as_ref().is_none_or(|run| run.state.workflow_task.is_none()) {
        return Err(Rejection::invalid(format!(
            "Can only reset workflow to event ID in range [WorkflowTaskScheduled +1, WorkflowTaskStarted + 1]: {until}"
        )));
    }
    let current = workflow.current_run();
    let (read_run_id, read) = later.read;
    if later.goes_on().is_some() {
        let is_all = |run: &crate::Run| run.id == read_run_id && End::of(run) == read;
        if !current.is_some_and(is_all) {
            return Ok(Transition::reply(Reply::HistoryGrew));
        }
    }
    let open = current.filter(|run| run.is_open());
    if let Some(open) = open.filter(|run| run.id == read_run_id) {
        let waiting = open.buffered.values().map(std::sync::Arc::clone).collect();
        later.take_waiting(read_run_id, events::in_flush_order(waiting, open.state.next_event_id));
    }
    let (open, current) = (open.map(|run| run.id), current.map(|run| run.id));
    let new_run_id = ctx.ids.run_id(ctx.now);
    let mut transition = match open {
        Some(open) => on_run(workflow, open, ctx, |txn| {
            txn.is_reset = open == base_run_id;
            terminate(txn, request.reason.clone(), None, RESETTER_IDENTITY.to_owned(), Vec::new());
            Ok(Ok(Reply::Done))
        })?,
        None => Transition::reply(Reply::Done),
    };
    let hold = on_run(workflow, base_run_id, ctx, |txn| {
        txn.run.state.reset_run_id = Some(new_run_id);
        txn.run.history_holds.insert(new_run_id.to_string(), HistoryHold { until });
        txn.save();
        Ok(Ok(Reply::Done))
    })?;
    txn::merge(&mut transition, hold);
    let base = workflow.runs.get(&base_run_id).ok_or_else(Rejection::workflow_not_found)?;
    let branch = Branch::of(base, until, request.request_id);
    let scheduled_by = base.info.scheduled_by.clone();
    let Kept { run, initiated, started_activities } = kept;
    let mut run = run.ok_or_else(Rejection::workflow_not_found)?;
    run.go_on_as(new_run_id, branch);
    let mut txn = Txn::go_on(run, &workflow.id, ctx.reborrow());
    if let Some(current) = current {
        txn.set_previous_run(current);
    }
    if let Some(schedule_id) = scheduled_by {
        txn.set_scheduled_by(schedule_id);
    }
    let failure = |details| reset_failure(&request.reason, details);
    fail_workflow_task(&mut txn, base_run_id, failure(None))?;
    for (scheduled_event_id, (started_event_id, identity)) in started_activities {
        txn.append(Attributes::ActivityTaskFailedEventAttributes(ActivityTaskFailedEventAttributes {
            failure: Some(failure(None)),
            scheduled_event_id,
            started_event_id,
            identity,
            retry_state: RetryState::NonRetryableFailure.into(),
            ..ActivityTaskFailedEventAttributes::default()
        }));
    }
    for event in later.events {
        reapply(&mut txn, event);
    }
    for (event_id, event) in initiated {
        send_again(&mut txn, event_id, event);
    }
    nexus::call_all(&mut txn);
    for operation in &request.post_reset_operations {
        operate(&mut txn, operation)?;
    }
    workflow_task::ensure_scheduled(&mut txn);
    let (run, begun, _) = txn.finish(Ok(Reply::Done));
    workflow.runs.insert(new_run_id, run);
    txn::merge(&mut transition, begun);
    let current = Current { run_id: new_run_id };
    transition.rows.push((RowKey::Current, Some(current.to_row())));
    workflow.current = Some(current);
    transition.reply = Ok(Reply::Reset(new_run_id));
    Ok(transition)
}

/// Does to the new run what is to be done after the reset: as far as [`plan`] lets it pass, the only thing is to change its options.
fn operate(txn: &mut Txn<'_>, operation: &PostResetOperation) -> Result<(), Rejection> {
    if let Some(Variant::UpdateWorkflowOptions(update)) = &operation.variant {
        let mask = update_workflow_options::check(&update.update_mask.clone().unwrap_or_default())?;
        let given = update.workflow_execution_options.clone().unwrap_or_default();
        // Temporal does not say who has asked for it.
        update_workflow_options::change(txn, &given, &mask, String::new());
    }
    Ok(())
}

fn reset_failure(reason: &str, last_heartbeat_details: Option<everlog_proto::api::common::v1::Payloads>) -> Failure {
    let info = ResetWorkflowFailureInfo { last_heartbeat_details };
    Failure {
        message: reason.to_owned(),
        failure_info: Some(FailureInfo::ResetWorkflowFailureInfo(info)),
        ..Failure::default()
    }
}

/// Ends the workflow task with which the kept history ends, which need not have been started.
fn fail_workflow_task(txn: &mut Txn<'_>, base_run_id: RunId, failure: Failure) -> Result<(), Rejection> {
    let task = txn.run.state.workflow_task.as_ref().ok_or_else(Rejection::workflow_task_not_found)?;
    let (scheduled_event_id, started) = (task.scheduled_event_id, task.started.as_ref());
    let started_event_id = match started.map(|started| started.started_event_id) {
        Some(started_event_id) => started_event_id,
        None => {
            let attributes =
                start_workflow_task::started_attributes(txn, SERVER_IDENTITY.to_owned(), NO_POLL.to_owned());
            txn.append(Attributes::WorkflowTaskStartedEventAttributes(
                everlog_proto::api::history::v1::WorkflowTaskStartedEventAttributes {
                    scheduled_event_id,
                    ..attributes
                },
            ))
        }
    };
    let new_run_id = txn.run.id.to_string();
    txn.append(Attributes::WorkflowTaskFailedEventAttributes(WorkflowTaskFailedEventAttributes {
        scheduled_event_id,
        started_event_id,
        cause: WorkflowTaskFailedCause::ResetWorkflow.into(),
        failure: Some(failure),
        identity: SERVER_IDENTITY.to_owned(),
        base_run_id: base_run_id.to_string(),
        new_run_id,
        ..WorkflowTaskFailedEventAttributes::default()
    }));
    Ok(())
}

/// Records once more what has happened to the workflow since the event to which it was reset.
fn reapply(txn: &mut Txn<'_>, event: HistoryEvent) {
    use Attributes as A;
    let links = event.links;
    let Some(mut attributes) = event.attributes else { return };
    match &mut attributes {
        A::WorkflowExecutionSignaledEventAttributes(signal) => {
            attributes = A::WorkflowExecutionSignaledEventAttributes(WorkflowExecutionSignaledEventAttributes {
                signal_name: std::mem::take(&mut signal.signal_name),
                input: signal.input.take(),
                identity: std::mem::take(&mut signal.identity),
                header: signal.header.take(),
                request_id: std::mem::take(&mut signal.request_id),
                ..WorkflowExecutionSignaledEventAttributes::default()
            });
        }
        A::WorkflowExecutionUpdateAcceptedEventAttributes(accepted) => {
            attributes =
                A::WorkflowExecutionUpdateAdmittedEventAttributes(WorkflowExecutionUpdateAdmittedEventAttributes {
                    request: accepted.accepted_request.take(),
                    origin: UpdateAdmittedEventOrigin::Reapply.into(),
                });
        }
        A::StartChildWorkflowExecutionFailedEventAttributes(failed) => {
            if !is_child_of(txn, failed.initiated_event_id, &failed.workflow_id) {
                return;
            }
        }
        A::ChildWorkflowExecutionStartedEventAttributes(started) => {
            let id = started.initiated_event_id;
            if txn.run.children.get(&id).is_none_or(|child| child.started_event_id.is_some()) {
                return;
            }
        }
        A::NexusOperationStartedEventAttributes(started) => {
            let id = started.scheduled_event_id;
            let is_waited_for = |operation: &NexusOperation| {
                !operation.is_started() && operation.scheduled.request_id == started.request_id
            };
            if !txn.run.nexus_operations.get(&id).is_some_and(|operation| is_waited_for(operation)) {
                return;
            }
        }
        attributes => {
            if let Some((scheduled_event_id, request_id)) = events::nexus_request_id(attributes) {
                let operation = txn.run.nexus_operations.get(&scheduled_event_id);
                if operation.is_none_or(|operation| operation.scheduled.request_id != request_id) {
                    return;
                }
            }
            if let Some((initiated_event_id, started_event_id)) = events::end_of_child_mut(attributes) {
                match txn.run.children.get(&initiated_event_id) {
                    Some(child) => *started_event_id = child.started_event_id.unwrap_or_default(),
                    None => return,
                }
            }
        }
    }
    txn.append_event(HistoryEvent { attributes: Some(attributes), links, ..HistoryEvent::default() });
}

fn is_child_of(txn: &Txn<'_>, initiated_event_id: i64, workflow_id: &str) -> bool {
    txn.run.children.get(&initiated_event_id).is_some_and(|child| child.workflow_id == workflow_id)
}

/// Sends on its way once more what the kept history has asked of another workflow and has not heard of. It is the same message, so
/// whoever has it takes it once.
fn send_again(txn: &mut Txn<'_>, event_id: i64, event: HistoryEvent) {
    use Attributes as A;
    let sent = event.event_time.as_ref().map(Time::from_proto);
    let before = txn.effects.len();
    match event.attributes {
        Some(A::StartChildWorkflowExecutionInitiatedEventAttributes(initiated)) => {
            let is_unstarted = |child: &crate::state::PendingChild| child.started_event_id.is_none();
            if txn.run.children.get(&event_id).is_some_and(is_unstarted) {
                start_child_workflow::ask_for_start(txn, event_id, initiated, event.user_metadata);
            }
        }
        Some(A::SignalExternalWorkflowExecutionInitiatedEventAttributes(initiated)) => {
            signal_external_workflow::send_again(txn, event_id, initiated);
        }
        Some(A::RequestCancelExternalWorkflowExecutionInitiatedEventAttributes(initiated)) => {
            request_cancel_external_workflow::send_again(txn, event_id, initiated);
        }
        _ => {}
    }
    // Whoever was there when it was sent first may have taken it.
    for effect in &mut txn.effects[before..] {
        if let (Effect::Send(message), Some(sent)) = (effect, sent) {
            message.sent = sent;
        }
    }
}
