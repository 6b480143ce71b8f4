//! The activity engine: how a worker's answer finds its attempt, how an attempt is followed by another, and how an activity
//! ends.
//!
//! Attempts leave no events. An activity is in the history once with its ActivityTaskScheduled event, and once more when it has
//! ended, with ActivityTaskStarted (which tells of the last attempt) and the closing event behind it.
//!
//! ```text
//!   scheduled ──▶ offered ──▶ started ──▶ ended (ActivityTaskStarted + closing event)
//!                    ▲           │
//!                    └─ backoff ◀┘ failed or timed out, and the retry policy allows another attempt
//! ```
//!
//! What operators do to an activity is in `activity_operations.rs`. While one has it paused, a started attempt goes on and none is offered.
//!
//! The start of an attempt that may be followed by another is written late, so a change of leader can lose it. A token proves
//! that its attempt was handed out: an answer with a token is taken even if the start is not known any more.

use std::time::Duration;

use everlog_proto::api::common::v1::{Payload, Payloads, RetryPolicy};
use everlog_proto::api::enums::v1::{RetryState, TimeoutType};
use everlog_proto::api::failure::v1::Failure;
use everlog_proto::api::failure::v1::failure::FailureInfo;
use everlog_proto::api::history::v1::history_event::Attributes;
use everlog_proto::api::history::v1::{
    ActivityTaskFailedEventAttributes, ActivityTaskStartedEventAttributes, HistoryEvent,
};

use crate::command::ActivityRef;
use crate::state::{Activity, ActivityStarted, Run};
use crate::txn::Txn;
use crate::{Rejection, Time, retry, workflow_task};

/// The pending activity that a worker speaks of, started or not.
pub(crate) fn find<'r>(run: &'r Run, activity: &ActivityRef) -> Result<&'r Activity, Rejection> {
    if !run.is_open() {
        return Err(Rejection::workflow_completed());
    }
    match activity {
        ActivityRef::Token(token) => run
            .activities
            .get(&token.scheduled_event_id)
            .map(|activity| &**activity)
            .filter(|activity| activity.attempt == token.attempt)
            .filter(|activity| {
                let is_before = activity.attempts_from.is_some_and(|from| token.started_time <= from);
                activity.started.is_some() || !is_before
            })
            .ok_or_else(Rejection::activity_not_found),
        ActivityRef::Id(id) if id.is_empty() => Err(Rejection::invalid("activityID cannot be empty")),
        ActivityRef::Id(id) => {
            let pending =
                run.activities.by_name(id).and_then(|scheduled_event_id| run.activities.get(scheduled_event_id));
            pending.map(|activity| &**activity).ok_or_else(|| {
                let message = format!(
                    "cannot find pending activity with ActivityID {id}, check workflow execution history for more details"
                );
                Rejection::NotFound(message.into())
            })
        }
    }
}

/// The same for an answer that only a worker can give that has the attempt in hand.
pub(crate) fn find_started<'r>(run: &'r Run, activity: &ActivityRef) -> Result<&'r Activity, Rejection> {
    let found = find(run, activity)?;
    match activity {
        ActivityRef::Id(_) if found.started.is_none() => Err(Rejection::activity_not_found()),
        ActivityRef::Id(_) | ActivityRef::Token(_) => Ok(found),
    }
}

/// Marks the attempt as started, from an answer that proves that it is.
pub(crate) fn ensure_started(txn: &mut Txn<'_>, scheduled_event_id: i64, identity: &str) {
    let now = txn.now();
    if let Some(activity) = txn.activity_mut(scheduled_event_id) {
        activity.started.get_or_insert_with(|| ActivityStarted {
            time: now,
            identity: identity.to_owned(),
            request_id: String::new(),
        });
    }
}

/// What follows a failed or timed out attempt: another one, or (`Some`) none, for that reason.
pub(crate) fn retry(txn: &mut Txn<'_>, scheduled_event_id: i64, failure: &Failure) -> Option<RetryState> {
    let now = txn.now();
    let activity = txn.run.activities.get(&scheduled_event_id)?;
    let next = match next_attempt(activity, failure, now) {
        Ok(next) => next,
        Err(reason) => return Some(reason),
    };
    let standing = activity.standing_in(txn.run.given_priority());
    if standing != activity.standing() {
        txn.take_back_activity_task(scheduled_event_id);
    }
    let activity = txn.activity_mut(scheduled_event_id)?;
    (activity.priority, activity.lane) = standing;
    activity.attempt_failed(failure, now);
    if let Next::After(interval) = next {
        activity.attempt_scheduled_time = now.plus(interval);
        activity.begin_attempt();
    }
    None
}

/// When there is another attempt.
enum Next {
    /// After that time.
    After(Duration),
    /// Once an operator has it go on. How often it was attempted does not count then.
    Unpaused,
}

fn next_attempt(activity: &Activity, failure: &Failure, now: Time) -> Result<Next, RetryState> {
    let policy = retried_by(activity, failure, activity.cancel_requested_event_id.is_some())?;
    if activity.pause.is_some() {
        return Ok(Next::Unpaused);
    }
    let requested = retry::requested_delay(failure);
    retry::next_interval(policy, activity.attempt, requested, now, activity.expiration()).map(Next::After)
}

/// The policy by which an activity is attempted again after such a failure, if it is.
pub(crate) fn retried_by<'a>(
    activity: &'a Activity,
    failure: &Failure,
    is_cancel_requested: bool,
) -> Result<&'a RetryPolicy, RetryState> {
    let policy = activity.retry_policy().ok_or(RetryState::RetryPolicyNotSet)?;
    if is_cancel_requested {
        return Err(RetryState::CancelRequested);
    }
    if let Some(FailureInfo::TimeoutFailureInfo(info)) = &failure.failure_info
        && matches!(info.timeout_type(), TimeoutType::ScheduleToStart | TimeoutType::ScheduleToClose)
    {
        return Err(RetryState::Timeout);
    }
    if !retry::is_retryable(failure, &policy.non_retryable_error_types) {
        return Err(RetryState::NonRetryableFailure);
    }
    Ok(policy)
}

/// Ends an activity: records how its last attempt started, if it did, and the closing event, which is given the id of the
/// started one (0 if there is none, or if it has no id yet).
#[expect(deprecated, reason = "workers still say so of which build they are")]
pub(crate) fn end(txn: &mut Txn<'_>, scheduled_event_id: i64, closing: impl FnOnce(i64) -> Attributes) {
    let Some(activity) = txn.run.activities.get(&scheduled_event_id).cloned() else { return };
    // A build without an id is none, as in Temporal.
    let worker_version = txn.worker_version.take().filter(|version| !version.build_id.is_empty());
    let started_event_id = activity.started.as_ref().and_then(|started| {
        txn.record_event(HistoryEvent {
            event_time: Some(started.time.to_proto()),
            attributes: Some(Attributes::ActivityTaskStartedEventAttributes(ActivityTaskStartedEventAttributes {
                scheduled_event_id,
                identity: started.identity.clone(),
                request_id: started.request_id.clone(),
                attempt: activity.attempt,
                last_failure: activity.last_failure.as_deref().cloned(),
                worker_version,
                ..ActivityTaskStartedEventAttributes::default()
            })),
            ..HistoryEvent::default()
        })
    });
    txn.record(closing(started_event_id.unwrap_or(0)));
}

/// An attempt has failed: another one follows, or the activity ends and the workflow hears of it.
pub(crate) fn fail(txn: &mut Txn<'_>, scheduled_event_id: i64, failure: Failure, identity: String) {
    ensure_started(txn, scheduled_event_id, &identity);
    let Some(reason) = retry(txn, scheduled_event_id, &failure) else { return };
    end(txn, scheduled_event_id, |started_event_id| {
        Attributes::ActivityTaskFailedEventAttributes(ActivityTaskFailedEventAttributes {
            failure: Some(failure),
            scheduled_event_id,
            started_event_id,
            identity,
            retry_state: reason as i32,
            ..ActivityTaskFailedEventAttributes::default()
        })
    });
    workflow_task::ensure_scheduled(txn);
}

/// A string as Temporal's default converter encodes it, for details that the server itself gives.
pub(crate) fn text_payloads(text: &str) -> Payloads {
    let payload = Payload {
        metadata: [("encoding".to_owned(), b"json/plain".to_vec())].into(),
        data: as_json(text).into_bytes(),
        ..Payload::default()
    };
    Payloads { payloads: vec![payload] }
}

/// A string in JSON as Go writes it: what could be taken for a tag, or ends a line in JavaScript, is written by its number.
fn as_json(text: &str) -> String {
    let written = serde_json::Value::from(text).to_string();
    let by_number = |c: char| matches!(c, '<' | '>' | '&' | '\u{2028}' | '\u{2029}');
    if !written.contains(by_number) {
        return written;
    }
    let mut escaped = String::with_capacity(written.len() + 16);
    for c in written.chars() {
        if by_number(c) {
            escaped.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            escaped.push(c);
        }
    }
    escaped
}
