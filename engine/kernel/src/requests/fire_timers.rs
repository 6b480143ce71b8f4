//! Deadlines of a run that have come: timeouts, timers, retries, the end of a delay.
//!
//! Whoever sends the command only knows that something may be due. What is due is decided here, by the run's state and the
//! time; nothing fires early, and a call for nothing is fine.

use std::sync::Arc;

use everlog_proto::api::enums::v1::{RetryState, TimeoutType};
use everlog_proto::api::failure::v1::Failure;
use everlog_proto::api::failure::v1::failure::FailureInfo;
use everlog_proto::api::history::v1::history_event::Attributes;
use everlog_proto::api::history::v1::{
    ActivityTaskTimedOutEventAttributes, TimerFiredEventAttributes, WorkflowExecutionTimedOutEventAttributes,
};

use crate::activity_timeouts::Timeout;
use crate::command::Reply;
use crate::state::{Activity, Run, UserTimer};
use crate::successor::AfterFailure;
use crate::txn::Txn;
use crate::{Rejection, Time, activity_task, archive, family, nexus, retry, runs, successor, workflow_task};

/// Does all that is due.
pub(crate) fn apply(txn: &mut Txn<'_>) -> Result<Reply, Rejection> {
    if runs::is_due_for_deletion(&txn.run, txn.now(), txn.ctx.namespace) {
        return Ok(Reply::Done); // its deletion follows
    }
    if runs::is_expired(&txn.run, txn.now()) {
        archive::ask(txn);
        return Ok(Reply::Done);
    }
    if txn.run.is_open() && !time_out_run(txn) {
        let fired = fire_user_timers(txn);
        let timed_out = time_out_activities(txn);
        let nexus_told = nexus::fire(txn);
        offer_retries(txn);
        txn.save_activities_if_due();
        workflow_task::save_start_if_due(txn);
        workflow_task::fire_timeouts(txn);
        if fired || timed_out || nexus_told || is_first_workflow_task_due(&txn.run, txn.now()) {
            workflow_task::ensure_scheduled(txn);
        }
    }
    if !txn.run.is_open() {
        family::tell_children(txn);
    }
    // A wake row that has served must go, or move on, even if nothing else has changed.
    if txn.run.state.wake_at.is_some_and(|time| time <= txn.now()) {
        txn.save();
    }
    Ok(Reply::Done)
}

// ---- The run -----------------------------------------------------------------------------------------------------------

/// Nanoseconds.
const HALF_MILLISECOND: i64 = 500_000;

/// Closes the run if its time, or that of its chain, is over, and in the first case starts the next one if its retry policy or cron
/// schedule has one. Returns whether it did.
fn time_out_run(txn: &mut Txn<'_>) -> bool {
    let now = txn.now();
    let is_due = |time: Option<Time>| time.is_some_and(|time| time <= now);
    // The chain's end is told in whole milliseconds, up to half of one late: a run that may last as long as the chain must not end before it.
    let chain_ends = txn.run.info.execution_expiration.map(|time| Time(time.0 - HALF_MILLISECOND));
    let chain_is_over = is_due(chain_ends);
    if !chain_is_over && !is_due(txn.run.info.run_expiration) {
        return false;
    }
    let failure = retry::timeout_failure("workflow timeout".to_owned(), TimeoutType::StartToClose);
    let after = if chain_is_over {
        AfterFailure { retry_state: RetryState::Timeout, next: None }
    } else {
        successor::after_failure(txn, &failure)
    };
    workflow_task::force_close(txn);
    txn.append(Attributes::WorkflowExecutionTimedOutEventAttributes(WorkflowExecutionTimedOutEventAttributes {
        retry_state: after.retry_state.into(),
        new_execution_run_id: after.next_run_id(),
    }));
    txn.close();
    txn.successor = after.next;
    true
}

fn is_first_workflow_task_due(run: &Run, now: Time) -> bool {
    !run.state.had_workflow_task && run.info.execution_time <= now
}

// ---- Timers ------------------------------------------------------------------------------------------------------------

/// Fires all timers that are due, in the order in which they expire. Returns whether there were any.
fn fire_user_timers(txn: &mut Txn<'_>) -> bool {
    let now = txn.now();
    let is_due = |timer: &&UserTimer| timer.expiry_time <= now;
    let mut due: Vec<UserTimer> = txn.run.timers.values().filter(is_due).cloned().collect();
    due.sort_unstable_by_key(|timer| (timer.expiry_time, timer.started_event_id));
    let fired = !due.is_empty();
    for UserTimer { timer_id, started_event_id, .. } in due {
        txn.record(Attributes::TimerFiredEventAttributes(TimerFiredEventAttributes { timer_id, started_event_id }));
    }
    fired
}

// ---- Activities --------------------------------------------------------------------------------------------------------

/// Times out the attempts whose time is over. Returns whether an activity has ended by it.
fn time_out_activities(txn: &mut Txn<'_>) -> bool {
    let now = txn.now();
    let mut due: Vec<(Time, i64, Timeout, i32)> = Vec::new();
    for (id, activity) in txn.run.activities.iter() {
        let timeouts = Timeout::of(activity).filter(|(deadline, _)| *deadline <= now);
        due.extend(timeouts.map(|(deadline, timeout)| (deadline, *id, timeout, activity.attempt)));
    }
    due.sort_unstable();
    let mut ended = false;
    for (_, id, timeout, attempt) in due {
        // An earlier timeout may have ended the activity, or led to the next attempt.
        if txn.run.activities.get(&id).is_some_and(|activity| activity.attempt == attempt) {
            ended |= time_out_activity(txn, id, timeout.to_proto());
        }
    }
    ended
}

/// Times out an attempt: another one follows, or the activity ends. Returns whether it has ended.
fn time_out_activity(txn: &mut Txn<'_>, scheduled_event_id: i64, timeout_type: TimeoutType) -> bool {
    let text = format!("activity {} timeout", retry::timeout_name(timeout_type));
    let mut failure = retry::timeout_failure(text, timeout_type);
    let Some(retry_state) = activity_task::retry(txn, scheduled_event_id, &failure) else { return false };
    // There would be a next attempt, had it the time to end: what is over is the time of the activity as a whole.
    if retry_state == RetryState::Timeout && timeout_type != TimeoutType::ScheduleToStart {
        let text = "Not enough time to schedule next retry before activity ScheduleToClose timeout, giving up retrying"
            .to_owned();
        failure = retry::timeout_failure(text, TimeoutType::ScheduleToClose);
    }
    if let Some(activity) = txn.run.activities.get(&scheduled_event_id) {
        add_causes(&mut failure, activity);
    }
    activity_task::end(txn, scheduled_event_id, |started_event_id| {
        Attributes::ActivityTaskTimedOutEventAttributes(ActivityTaskTimedOutEventAttributes {
            failure: Some(failure),
            scheduled_event_id,
            started_event_id,
            retry_state: retry_state as i32,
        })
    });
    true
}

/// Why the last attempt before this one failed, and what the activity said last.
fn add_causes(failure: &mut Failure, activity: &Activity) {
    failure.cause = activity.last_failure.clone();
    if let Some(FailureInfo::TimeoutFailureInfo(info)) = &mut failure.failure_info {
        info.last_heartbeat_details = activity.heartbeat_details.clone();
    }
}

/// Hands the attempts to matching whose backoff is over.
fn offer_retries(txn: &mut Txn<'_>) {
    let now = txn.now();
    let is_due = |activity: &Activity| activity.retry_time().is_some_and(|time| time <= now);
    let due: Vec<i64> = txn.run.activities.iter().filter(|(_, activity)| is_due(activity)).map(|(id, _)| *id).collect();
    for id in due {
        if let Some(activity) = txn.run.activities.get_mut(&id) {
            Arc::make_mut(activity).offered = true;
            // In Temporal it is no write.
            txn.save();
        }
    }
}
