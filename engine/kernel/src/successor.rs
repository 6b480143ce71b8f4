//! The next run of a chain: after continue-as-new, when a run is retried, or when it is the turn of its cron schedule.
//!
//! Both runs change in one transition: the handler that closes the run puts the [`NewRun`] into [`Txn::successor`].

use std::time::Duration;

use everlog_proto::api::common::v1::Payloads;
use everlog_proto::api::enums::v1::{ContinueAsNewInitiator, RetryState};
use everlog_proto::api::failure::v1::Failure;
use everlog_proto::api::history::v1::WorkflowExecutionStartedEventAttributes;

use crate::cron::Cron;
use crate::proto::Encoded;
use crate::txn::{NewRun, Txn};
use crate::{inheritance, retry, time};

/// What follows a run that has failed, or whose time is over.
pub(crate) struct AfterFailure {
    /// Whether it is retried, or why not.
    pub(crate) retry_state: RetryState,
    /// The next run: a retry, or else one whose turn it is by the cron schedule.
    pub(crate) next: Option<NewRun>,
}

impl AfterFailure {
    /// The next run's id, if there is one.
    pub(crate) fn next_run_id(&self) -> String {
        next_run_id(self.next.as_ref())
    }
}

/// A run's id as closing events have it.
pub(crate) fn next_run_id(next: Option<&NewRun>) -> String {
    next.map(|run| run.run_id.to_string()).unwrap_or_default()
}

/// What follows this run after `failure`.
///
/// The caller writes the closing event, with the new run's id, and hands the new run on as [`Txn::successor`].
pub(crate) fn after_failure(txn: &mut Txn<'_>, failure: &Failure) -> AfterFailure {
    match retried(txn, failure) {
        Ok(retry) => AfterFailure { retry_state: RetryState::InProgress, next: Some(retry) },
        Err(retry_state) => {
            let next = next_turn(txn, |first| WorkflowExecutionStartedEventAttributes {
                continued_failure: Some(failure.clone()),
                ..first
            });
            AfterFailure { retry_state, next }
        }
    }
}

/// The run that follows this one, which has completed with `result`, by its cron schedule.
pub(crate) fn after_completion(txn: &mut Txn<'_>, result: Option<&Payloads>) -> Option<NewRun> {
    next_turn(txn, |first| WorkflowExecutionStartedEventAttributes { last_completion_result: result.cloned(), ..first })
}

/// The next run by the cron schedule, if there is one. `with_outcome` puts into its first event what became of this run.
fn next_turn(
    txn: &mut Txn<'_>,
    with_outcome: impl FnOnce(WorkflowExecutionStartedEventAttributes) -> WorkflowExecutionStartedEventAttributes,
) -> Option<NewRun> {
    let info = &txn.run.info;
    if !info.started.has_cron_schedule() {
        return None;
    }
    let started = info.started.decode();
    let cron = Cron::parse(&started.cron_schedule).ok()?;
    let interval = cron.backoff(info.execution_time, txn.now())?;
    let first = WorkflowExecutionStartedEventAttributes {
        initiator: ContinueAsNewInitiator::CronSchedule.into(),
        first_workflow_task_backoff: Some(time::to_proto(backoff(txn, interval))),
        ..again(txn, started, false)
    };
    Some(new_run(txn, with_outcome(first)))
}

/// The run that retries this one after `failure`, or why there is none.
fn retried(txn: &mut Txn<'_>, failure: &Failure) -> Result<NewRun, RetryState> {
    let info = &txn.run.info;
    if !info.started.has_retry_policy() {
        return Err(RetryState::RetryPolicyNotSet);
    }
    let started = info.started.decode();
    let policy = started.retry_policy.as_ref().ok_or(RetryState::RetryPolicyNotSet)?;
    if !retry::is_retryable(failure, &policy.non_retryable_error_types) {
        return Err(RetryState::NonRetryableFailure);
    }
    let interval = retry::next_interval(
        policy,
        started.attempt,
        retry::requested_delay(failure),
        txn.now(),
        info.execution_expiration,
    )?;
    let attempt = started.attempt + 1;
    let started = WorkflowExecutionStartedEventAttributes {
        attempt,
        initiator: ContinueAsNewInitiator::Retry.into(),
        continued_failure: Some(failure.clone()),
        first_workflow_task_backoff: Some(time::to_proto(backoff(txn, interval))),
        // Temporal does not carry it over a retry, though it does from one turn of a schedule to the next.
        last_completion_result: None,
        ..again(txn, started, true)
    };
    Ok(new_run(txn, started))
}

/// The first event of a run that begins as this one began, with `started`: with the memo and search attributes of then.
fn again(
    txn: &Txn<'_>,
    started: WorkflowExecutionStartedEventAttributes,
    is_retry: bool,
) -> WorkflowExecutionStartedEventAttributes {
    let inherited = inheritance::of_same(txn, &started, is_retry);
    let mut first = next(txn, started);
    inherited.apply(&mut first);
    if let Some(original) = &txn.run.info.original_properties {
        first.memo = original.memo.as_ref().map(Encoded::decode);
        first.search_attributes = original.search_attributes.as_ref().map(Encoded::decode);
    }
    first
}

/// What the next run's first event says whatever has led to it: it is this run's, `started`, but for what follows from its place
/// in the chain. Parent, root, priority and the chain's expiration are carried along, and so are reset points.
pub(crate) fn next(
    txn: &Txn<'_>,
    started: WorkflowExecutionStartedEventAttributes,
) -> WorkflowExecutionStartedEventAttributes {
    let gone = txn.now().plus(txn.ctx.namespace.retention);
    WorkflowExecutionStartedEventAttributes {
        continued_execution_run_id: txn.run.id.to_string(),
        prev_auto_reset_points: Some(txn.run.reset_points_handed_on(txn.now(), gone)),
        completion_callbacks: txn.run.callbacks.values().map(|callback| callback.callback.clone()).collect(),
        continued_failure: None,
        original_execution_run_id: String::new(),
        identity: String::new(),
        attempt: 1,
        eager_execution_accepted: false,
        ..started
    }
}

/// The pause before the next run's first workflow task, of which `wanted` is asked for.
pub(crate) fn backoff(txn: &Txn<'_>, wanted: Duration) -> Duration {
    let lifetime = txn.now().since(txn.run.info.execution_time);
    let interval_min = txn.ctx.limits.run_interval_min;
    if lifetime + wanted < interval_min { interval_min - lifetime } else { wanted }
}

/// The run that begins with `started`.
pub(crate) fn new_run(txn: &mut Txn<'_>, started: WorkflowExecutionStartedEventAttributes) -> NewRun {
    NewRun {
        run_id: txn.ctx.ids.run_id(txn.ctx.now),
        started,
        // Summary and details are the starter's words on the run that it started; Temporal does not repeat them either.
        user_metadata: None,
        links: Vec::new(),
        start_request_id: txn.ctx.ids.request_id(),
        scheduled_by: txn.run.info.scheduled_by.clone(),
    }
}
