//! The next run of a chain: after continue-as-new, or when a run is retried.
//!
//! Both runs change in one transition: the handler that closes the run puts the [`NewRun`] into [`Txn::successor`].

use std::time::Duration;

use everlog_proto::api::enums::v1::{ContinueAsNewInitiator, RetryState};
use everlog_proto::api::failure::v1::Failure;
use everlog_proto::api::history::v1::WorkflowExecutionStartedEventAttributes;

use crate::proto::Encoded;
use crate::txn::{NewRun, Txn};
use crate::{retry, time};

/// `history.workflowIdReuseMinimalInterval`: a run and the pause behind it together last at least as long, so that a workflow
/// that always continues as new is not a tight loop.
const RUN_INTERVAL_MIN: Duration = Duration::from_secs(1);

/// The run that retries this one after `failure`, or why there is none.
///
/// The caller writes the closing event, with the new run's id, and hands the new run on as [`Txn::successor`].
pub(crate) fn retried(txn: &mut Txn<'_>, failure: Option<&Failure>) -> Result<NewRun, RetryState> {
    let info = &txn.run.info;
    if !info.started.has_retry_policy() {
        return Err(RetryState::RetryPolicyNotSet);
    }
    let started = info.started.decode();
    let policy = started.retry_policy.as_ref().ok_or(RetryState::RetryPolicyNotSet)?;
    if failure.is_some_and(|failure| !retry::is_retryable(failure, &policy.non_retryable_error_types)) {
        return Err(RetryState::NonRetryableFailure);
    }
    let interval = retry::next_interval(
        policy,
        started.attempt,
        failure.and_then(retry::requested_delay),
        txn.now(),
        info.execution_expiration,
    )?;
    let attempt = started.attempt + 1;
    let mut first = next(txn, started);
    if let Some(original) = &info.original_properties {
        first.memo = original.memo.as_ref().map(Encoded::decode);
        first.search_attributes = original.search_attributes.as_ref().map(Encoded::decode);
    }
    let started = WorkflowExecutionStartedEventAttributes {
        attempt,
        initiator: ContinueAsNewInitiator::Retry.into(),
        continued_failure: failure.cloned(),
        first_workflow_task_backoff: Some(time::to_proto(backoff(txn, interval))),
        ..first
    };
    Ok(new_run(txn, started))
}

/// What the next run's first event says whatever has led to it: it is this run's, `started`, but for what follows from its place
/// in the chain. Parent, root, priority and the chain's expiration are carried along.
pub(crate) fn next(
    txn: &Txn<'_>,
    started: WorkflowExecutionStartedEventAttributes,
) -> WorkflowExecutionStartedEventAttributes {
    WorkflowExecutionStartedEventAttributes {
        continued_execution_run_id: txn.run.id.to_string(),
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
    if lifetime + wanted < RUN_INTERVAL_MIN { RUN_INTERVAL_MIN - lifetime } else { wanted }
}

/// The run that begins with `started`.
pub(crate) fn new_run(txn: &mut Txn<'_>, started: WorkflowExecutionStartedEventAttributes) -> NewRun {
    NewRun {
        run_id: txn.ctx.ids.run_id(),
        started,
        // Summary and details are the starter's words on the run that it started; Temporal does not repeat them either.
        user_metadata: None,
        links: Vec::new(),
        start_request_id: txn.ctx.ids.request_id(),
    }
}
