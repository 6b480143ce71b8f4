//! Operations of Nexus services that a workflow has asked for: how they are called, and what their ends mean.
//!
//! ```text
//!   ScheduleNexusOperation ──▶ Scheduled event, [`NexusOperation`], [`Effect::CallNexus`]
//!                                                    │ durable
//!   whoever makes calls:     the endpoint's worker ◀─┘
//!                                     │ answers
//!   RunCommand::SettleNexusCall ◀─────┘  the end; or Started, and the end comes later, as a message; or "not now", and it is called again
//! ```
//!
//! The operation's row says when it is to be called next. While a call is being made, that is a while after the call must be over: if it
//! was lost, with its node or its answer, it is made again then, as the same attempt. So a service may be called twice for one attempt; it
//! knows the second call by the operation's request id. (Temporal: `components/nexusoperations`.)

use std::collections::HashMap;
use std::time::Duration;

use everlog_proto::api::common::v1::{Link, Payload};
use everlog_proto::api::enums::v1::{NexusOperationCancellationState as CancelState, TimeoutType};
use everlog_proto::api::failure::v1::failure::FailureInfo;
use everlog_proto::api::failure::v1::{
    ApplicationFailureInfo, CanceledFailureInfo, Failure, NexusOperationFailureInfo,
};
use everlog_proto::api::history::v1::history_event::Attributes;
use everlog_proto::api::history::v1::{
    HistoryEvent, NexusOperationCancelRequestCompletedEventAttributes,
    NexusOperationCancelRequestFailedEventAttributes, NexusOperationCanceledEventAttributes,
    NexusOperationCompletedEventAttributes, NexusOperationFailedEventAttributes, NexusOperationStartedEventAttributes,
    NexusOperationTimedOutEventAttributes,
};

use crate::command::Reply;
use crate::outbox::NexusCompleted;
use crate::state::{NexusCancel, NexusOperation};
use crate::transition::Effect;
use crate::txn::Txn;
use crate::{Rejection, RunId, Time, retry, workflow_task};

/// How long a call may take: `component.nexusoperations.request.timeout`.
pub const CALL_TIME_MAX: Duration = Duration::from_secs(10);

/// An operation that has less time left is not called any more: `component.nexusoperations.limit.request.timeout.min`.
const CALL_TIME_MIN: Duration = Duration::from_millis(1500);

/// When a call that nothing was heard of counts as lost.
pub(crate) const CALL_LOST_AFTER: Duration = Duration::from_secs(15);

/// The wait before the second attempt at a call, and the longest: `component.nexusoperations.retryPolicy`.
const CALL_AGAIN_WAIT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3600));

/// A call to be made.
#[derive(Clone, Debug, PartialEq)]
pub struct NexusCall {
    /// The run that asks for it.
    pub run_id: RunId,
    /// Its operation.
    pub scheduled_event_id: i64,
    /// How many attempts there were before.
    pub attempt: i32,
    /// What is asked.
    pub request: NexusRequest,
    /// The endpoint by the name that the workflow knows.
    pub endpoint: String,
    /// Its id, which stays when it is renamed.
    pub endpoint_id: String,
    /// The service.
    pub service: String,
    /// The operation of the service.
    pub operation: String,
    /// Names the operation, whoever calls it and how often.
    pub request_id: String,
    /// What the workflow has to say besides, by names in lower case.
    pub header: HashMap<String, String>,
    /// How long the call may take.
    pub time_max: Duration,
    /// How long the operation may take from now on, if that is limited.
    pub operation_time_max: Option<Duration>,
}

/// What is asked of a service.
#[derive(Clone, Debug, PartialEq)]
pub enum NexusRequest {
    /// That it starts the operation.
    Start {
        /// The operation's input.
        input: Option<Payload>,
    },
    /// That it cancels it.
    Cancel {
        /// What the service knows the operation by.
        operation_token: String,
    },
}

/// What became of a call.
#[derive(Clone, Debug, PartialEq)]
pub struct NexusAnswer {
    /// The operation.
    pub scheduled_event_id: i64,
    /// [`NexusCall::attempt`].
    pub attempt: i32,
    /// What was asked, and what was said.
    pub outcome: NexusOutcome,
}

/// What a service has answered.
#[derive(Clone, Debug, PartialEq)]
pub enum NexusOutcome {
    /// The operation goes on; its end comes as a message.
    Started {
        /// What the service knows it by.
        operation_token: String,
        /// What has to do with it.
        links: Vec<Link>,
    },
    /// The operation has ended.
    Ended {
        /// How.
        end: NexusEnd,
        /// What has to do with it.
        links: Vec<Link>,
    },
    /// It could not be started.
    NotStarted {
        /// Why.
        failure: Box<Failure>,
        /// Whether it is to be tried again.
        is_retryable: bool,
    },
    /// The service has taken the request to cancel.
    CancelTaken,
    /// It has not.
    CancelNotTaken {
        /// Why.
        failure: Box<Failure>,
        /// Whether it is to be tried again.
        is_retryable: bool,
    },
}

/// How an operation has ended.
#[derive(Clone, Debug, PartialEq)]
pub enum NexusEnd {
    /// With a result.
    Completed(Option<Payload>),
    /// Without one.
    Failed(Box<Failure>),
    /// Because it was to.
    Canceled(Box<Failure>),
}

impl NexusAnswer {
    /// About what its payloads take, bytes.
    pub fn payload_bytes(&self) -> usize {
        use prost::Message;
        match &self.outcome {
            NexusOutcome::Started { operation_token, .. } => operation_token.len(),
            NexusOutcome::Ended { end: NexusEnd::Completed(result), .. } => {
                result.as_ref().map_or(0, Message::encoded_len)
            }
            NexusOutcome::Ended { end: NexusEnd::Failed(failure) | NexusEnd::Canceled(failure), .. }
            | NexusOutcome::NotStarted { failure, .. }
            | NexusOutcome::CancelNotTaken { failure, .. } => failure.encoded_len(),
            NexusOutcome::CancelTaken => 0,
        }
    }
}

/// What services are told of a value that is not there.
pub fn null() -> Payload {
    Payload { metadata: [("encoding".to_owned(), b"binary/null".to_vec())].into(), ..Payload::default() }
}

// ---- Calls -------------------------------------------------------------------------------------------------------------

/// Has the operation called, or times it out if there is no time for that. Returns whether that has told the workflow something.
pub(crate) fn call(txn: &mut Txn<'_>, scheduled_event_id: i64) -> bool {
    let now = txn.now();
    let Some(operation) = txn.run.nexus_operations.get(&scheduled_event_id) else { return false };
    let limits = [
        (operation.schedule_to_start_deadline(), TimeoutType::ScheduleToStart),
        (operation.schedule_to_close_deadline(), TimeoutType::ScheduleToClose),
    ];
    let limit = limits.into_iter().find_map(|(deadline, kind)| Some((deadline?.since(now), kind)));
    if let Some((_, kind)) = limit.filter(|(left, _)| *left < CALL_TIME_MIN) {
        time_out(txn, scheduled_event_id, kind);
        return true;
    }
    let time_max = limit.map_or(CALL_TIME_MAX, |(left, _)| left.min(CALL_TIME_MAX));
    let start_to_close = operation.timeout(|scheduled| scheduled.start_to_close_timeout.as_ref());
    let schedule_to_close = operation.schedule_to_close_deadline().map(|deadline| deadline.since(now));
    let request = NexusRequest::Start { input: operation.scheduled.input.clone() };
    let effect = NexusCall {
        attempt: operation.attempt,
        operation_time_max: start_to_close.into_iter().chain(schedule_to_close).min(),
        ..call_of(txn.run.id, operation, request, time_max)
    };
    txn.effects.push(Effect::CallNexus(Box::new(effect)));
    if let Some(operation) = txn.nexus_operation_mut(scheduled_event_id) {
        operation.is_backing_off = false;
        operation.call_at = Some(now.plus(CALL_LOST_AFTER));
    }
    false
}

/// Has the operation's service asked to cancel it, or gives that up if there is no time for it. Returns whether that has told the workflow
/// something.
pub(crate) fn call_to_cancel(txn: &mut Txn<'_>, scheduled_event_id: i64) -> bool {
    let now = txn.now();
    let Some(operation) = txn.run.nexus_operations.get(&scheduled_event_id) else { return false };
    let Some(cancel) = &operation.cancel else { return false };
    let deadlines = [operation.schedule_to_close_deadline(), operation.start_to_close_deadline()];
    let left = deadlines.into_iter().flatten().map(|deadline| deadline.since(now)).min();
    if left.is_some_and(|left| left < CALL_TIME_MIN) {
        let message = "not enough time to execute another request before operation timeout".to_owned();
        let failure = call_failure(message, false);
        let attempt = cancel.attempt;
        let outcome = NexusOutcome::CancelNotTaken { failure: Box::new(failure), is_retryable: false };
        return settle_cancel(txn, scheduled_event_id, attempt, outcome);
    }
    let request = NexusRequest::Cancel { operation_token: operation.operation_token.clone() };
    let time_max = left.unwrap_or(CALL_TIME_MAX).min(CALL_TIME_MAX);
    let effect = NexusCall { attempt: cancel.attempt, ..call_of(txn.run.id, operation, request, time_max) };
    txn.effects.push(Effect::CallNexus(Box::new(effect)));
    if let Some(cancel) = txn.nexus_operation_mut(scheduled_event_id).and_then(|operation| operation.cancel.as_mut()) {
        cancel.state = CancelState::Scheduled;
        cancel.call_at = Some(now.plus(CALL_LOST_AFTER));
    }
    false
}

fn call_of(run_id: RunId, operation: &NexusOperation, request: NexusRequest, time_max: Duration) -> NexusCall {
    let scheduled = &operation.scheduled;
    NexusCall {
        run_id,
        scheduled_event_id: operation.scheduled_event_id,
        attempt: 0,
        request,
        endpoint: scheduled.endpoint.clone(),
        endpoint_id: scheduled.endpoint_id.clone(),
        service: scheduled.service.clone(),
        operation: scheduled.operation.clone(),
        request_id: scheduled.request_id.clone(),
        header: scheduled.nexus_header.clone(),
        time_max,
        operation_time_max: None,
    }
}

/// What is told of a call that did not come through.
pub fn call_failure(message: String, is_retryable: bool) -> Failure {
    let info = ApplicationFailureInfo {
        r#type: "CallError".to_owned(),
        non_retryable: !is_retryable,
        ..ApplicationFailureInfo::default()
    };
    Failure { message, failure_info: Some(FailureInfo::ApplicationFailureInfo(info)), ..Failure::default() }
}

/// Takes what became of a call. What is known already, or of an earlier attempt, changes nothing.
pub(crate) fn settle(txn: &mut Txn<'_>, answer: NexusAnswer) -> Reply {
    let NexusAnswer { scheduled_event_id: id, attempt, outcome } = answer;
    if !txn.run.is_open() {
        return Reply::Done;
    }
    match outcome {
        NexusOutcome::CancelTaken | NexusOutcome::CancelNotTaken { .. } => {
            if settle_cancel(txn, id, attempt, outcome) {
                workflow_task::ensure_scheduled(txn);
            }
            return Reply::Done;
        }
        _ => {}
    }
    let is_waited_for = |operation: &&NexusOperation| !operation.is_started() && operation.attempt == attempt;
    let Some(operation) = txn.run.nexus_operations.get(&id).map(|operation| &**operation).filter(is_waited_for) else {
        return Reply::Done;
    };
    let request_id = operation.scheduled.request_id.clone();
    match outcome {
        NexusOutcome::Started { operation_token, links } => {
            record_started(txn, id, request_id, operation_token, None, links);
        }
        NexusOutcome::Ended { end, links } => record_end(txn, id, end, links),
        NexusOutcome::NotStarted { failure, is_retryable: false } => {
            record_end(txn, id, NexusEnd::Failed(failure), Vec::new())
        }
        NexusOutcome::NotStarted { failure, is_retryable: true } => {
            let now = txn.now();
            if let Some(operation) = txn.nexus_operation_mut(id) {
                operation.attempt += 1;
                operation.last_attempt_end = Some(now);
                operation.last_failure = Some(failure);
                operation.is_backing_off = true;
                operation.call_at = Some(now.plus(wait_after(operation.attempt)));
            }
            return Reply::Done;
        }
        NexusOutcome::CancelTaken | NexusOutcome::CancelNotTaken { .. } => {}
    }
    workflow_task::ensure_scheduled(txn);
    Reply::Done
}

/// Returns whether the workflow hears of it.
fn settle_cancel(txn: &mut Txn<'_>, scheduled_event_id: i64, attempt: i32, outcome: NexusOutcome) -> bool {
    let now = txn.now();
    let is_waited_for = |cancel: &&NexusCancel| cancel.attempt == attempt && !cancel.is_over();
    let operation = txn.run.nexus_operations.get(&scheduled_event_id);
    if operation.and_then(|operation| operation.cancel.as_ref()).filter(is_waited_for).is_none() {
        return false;
    }
    let Some(operation) = txn.nexus_operation_mut(scheduled_event_id) else { return false };
    let Some(cancel) = operation.cancel.as_mut() else { return false };
    cancel.attempt += 1;
    cancel.last_attempt_end = Some(now);
    let requested_event_id = cancel.requested_event_id;
    let attributes = match outcome {
        NexusOutcome::CancelNotTaken { failure, is_retryable: true } => {
            cancel.last_failure = Some(failure);
            cancel.state = CancelState::BackingOff;
            cancel.call_at = Some(now.plus(wait_after(cancel.attempt)));
            return false;
        }
        NexusOutcome::CancelNotTaken { failure, .. } => Attributes::NexusOperationCancelRequestFailedEventAttributes(
            NexusOperationCancelRequestFailedEventAttributes {
                requested_event_id,
                failure: Some(*failure),
                scheduled_event_id,
                ..NexusOperationCancelRequestFailedEventAttributes::default()
            },
        ),
        _ => {
            cancel.last_failure = None;
            Attributes::NexusOperationCancelRequestCompletedEventAttributes(
                NexusOperationCancelRequestCompletedEventAttributes {
                    requested_event_id,
                    scheduled_event_id,
                    ..NexusOperationCancelRequestCompletedEventAttributes::default()
                },
            )
        }
    };
    txn.record(attributes);
    true
}

/// The pause behind so many attempts.
fn wait_after(attempts: i32) -> Duration {
    let doublings = u32::try_from(attempts - 1).unwrap_or(0).min(20);
    (CALL_AGAIN_WAIT.0 * 2_u32.saturating_pow(doublings)).min(CALL_AGAIN_WAIT.1)
}

// ---- Ends --------------------------------------------------------------------------------------------------------------

/// The end of an operation that goes on by itself. That it was started may not be known yet; then this says so.
pub(crate) fn completed(txn: &mut Txn<'_>, completed: NexusCompleted) -> Result<Reply, Rejection> {
    let not_found = || Rejection::NotFound("operation not found".into());
    let id = completed.scheduled_event_id;
    if !txn.run.is_open() {
        return Err(Rejection::workflow_completed());
    }
    let operation = txn.run.nexus_operations.get(&id).ok_or_else(not_found)?;
    if operation.scheduled.request_id != completed.request_id {
        return Err(not_found());
    }
    let is_started = operation.is_started();
    let (request_id, links) = (completed.request_id.clone(), completed.links.clone());
    if !is_started {
        let started = completed.start_time.as_ref().map(Time::from_proto);
        record_started(txn, id, request_id, completed.operation_token.clone(), started, links);
    }
    record_end(txn, id, completed.into_end(), Vec::new());
    workflow_task::ensure_scheduled(txn);
    Ok(Reply::Done)
}

#[expect(deprecated, reason = "old workers read the token there")]
fn record_started(
    txn: &mut Txn<'_>,
    scheduled_event_id: i64,
    request_id: String,
    operation_token: String,
    time: Option<Time>,
    links: Vec<Link>,
) {
    txn.record_event(HistoryEvent {
        attributes: Some(Attributes::NexusOperationStartedEventAttributes(NexusOperationStartedEventAttributes {
            scheduled_event_id,
            operation_id: operation_token.clone(),
            request_id,
            operation_token,
        })),
        event_time: time.map(|time| time.to_proto()),
        links,
        ..HistoryEvent::default()
    });
    let asks_to_cancel = txn.run.nexus_operations.get(&scheduled_event_id).is_some_and(|op| op.cancel.is_some());
    if asks_to_cancel {
        call_to_cancel(txn, scheduled_event_id);
    }
}

fn record_end(txn: &mut Txn<'_>, scheduled_event_id: i64, end: NexusEnd, links: Vec<Link>) {
    let Some(operation) = txn.run.nexus_operations.get(&scheduled_event_id) else { return };
    let request_id = operation.scheduled.request_id.clone();
    let attributes = match end {
        NexusEnd::Completed(result) => {
            Attributes::NexusOperationCompletedEventAttributes(NexusOperationCompletedEventAttributes {
                scheduled_event_id,
                result,
                request_id,
            })
        }
        NexusEnd::Failed(cause) => {
            Attributes::NexusOperationFailedEventAttributes(NexusOperationFailedEventAttributes {
                scheduled_event_id,
                failure: Some(failure_of(operation, *cause)),
                request_id,
            })
        }
        NexusEnd::Canceled(cause) => {
            Attributes::NexusOperationCanceledEventAttributes(NexusOperationCanceledEventAttributes {
                scheduled_event_id,
                failure: Some(failure_of(operation, canceled(*cause))),
                request_id,
            })
        }
    };
    txn.record_event(HistoryEvent { attributes: Some(attributes), links, ..HistoryEvent::default() });
}

/// Old SDKs tell of an operation that was canceled as of one that has failed.
fn canceled(cause: Failure) -> Failure {
    if matches!(cause.failure_info, Some(FailureInfo::CanceledFailureInfo(_))) {
        return cause;
    }
    Failure {
        message: cause.message,
        stack_trace: cause.stack_trace,
        cause: cause.cause,
        failure_info: Some(FailureInfo::CanceledFailureInfo(CanceledFailureInfo::default())),
        ..Failure::default()
    }
}

/// What the workflow hears of an operation that has no result.
#[expect(deprecated, reason = "old workers read the token there")]
fn failure_of(operation: &NexusOperation, cause: Failure) -> Failure {
    let scheduled = &operation.scheduled;
    Failure {
        message: "nexus operation completed unsuccessfully".to_owned(),
        cause: Some(Box::new(cause)),
        failure_info: Some(FailureInfo::NexusOperationExecutionFailureInfo(NexusOperationFailureInfo {
            scheduled_event_id: operation.scheduled_event_id,
            endpoint: scheduled.endpoint.clone(),
            service: scheduled.service.clone(),
            operation: scheduled.operation.clone(),
            operation_id: operation.operation_token.clone(),
            operation_token: operation.operation_token.clone(),
        })),
        ..Failure::default()
    }
}

// ---- Time --------------------------------------------------------------------------------------------------------------

fn time_out(txn: &mut Txn<'_>, scheduled_event_id: i64, kind: TimeoutType) {
    let Some(operation) = txn.run.nexus_operations.get(&scheduled_event_id) else { return };
    let request_id = operation.scheduled.request_id.clone();
    // Of a workflow's own timeouts it would say that the server is its source.
    let cause = Failure { source: String::new(), ..retry::timeout_failure("operation timed out".to_owned(), kind) };
    let failure = Some(failure_of(operation, cause));
    txn.record(Attributes::NexusOperationTimedOutEventAttributes(NexusOperationTimedOutEventAttributes {
        scheduled_event_id,
        failure,
        request_id,
    }));
}

/// Times out operations whose time is over, and makes the calls that are due. Returns whether the
/// workflow hears of any of that.
pub(crate) fn fire(txn: &mut Txn<'_>) -> bool {
    let now = txn.now();
    let mut due: Vec<(Time, i64, TimeoutType)> = Vec::new();
    for (id, operation) in txn.run.nexus_operations.iter() {
        let timeouts = operation.timeouts().filter(|(deadline, _)| *deadline <= now);
        due.extend(timeouts.map(|(deadline, kind)| (deadline, *id, kind)).min_by_key(|(deadline, ..)| *deadline));
    }
    due.sort_unstable_by_key(|(deadline, id, _)| (*deadline, *id));
    let mut told = !due.is_empty();
    for (_, id, kind) in due {
        time_out(txn, id, kind);
    }
    let is_due = |time: Option<Time>| time.is_some_and(|time| time <= now);
    let starts: Vec<i64> =
        txn.run.nexus_operations.iter().filter(|(_, operation)| is_due(operation.call_at)).map(|(id, _)| *id).collect();
    for id in starts {
        told |= call(txn, id);
    }
    let cancels = txn.run.nexus_operations.iter().filter(|(_, operation)| {
        operation.is_started() && operation.cancel.as_ref().is_some_and(|cancel| is_due(cancel.call_at))
    });
    for id in cancels.map(|(id, _)| *id).collect::<Vec<_>>() {
        told |= call_to_cancel(txn, id);
    }
    told
}

/// Has everything called anew that waits for a call, for a run that a reset has begun.
pub(crate) fn call_all(txn: &mut Txn<'_>) {
    for id in txn.run.nexus_operations.keys().copied().collect::<Vec<_>>() {
        let Some(operation) = txn.run.nexus_operations.get(&id) else { continue };
        if !operation.is_started() {
            call(txn, id);
        } else if operation.cancel.as_ref().is_some_and(|cancel| cancel.call_at.is_some()) {
            call_to_cancel(txn, id);
        }
    }
}
