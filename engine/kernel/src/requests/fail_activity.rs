//! An attempt of an activity has failed.

use everlog_proto::api::common::v1::Payloads;
use everlog_proto::api::failure::v1::Failure;
use everlog_proto::api::failure::v1::failure::FailureInfo;
use prost::Message;

use crate::command::{ActivityRef, Reply};
use crate::txn::Txn;
use crate::{Rejection, activity_task, retry};

/// Retries the activity, or records its failure if there is to be no further attempt.
pub(crate) fn apply(
    txn: &mut Txn<'_>,
    activity: &ActivityRef,
    failure: Option<Failure>,
    last_heartbeat_details: Option<Payloads>,
    identity: String,
) -> Result<Reply, Rejection> {
    check_kind(activity, failure.as_ref())?;
    let id = activity_task::find_started(&txn.run, activity)?.scheduled_event_id;
    let bytes_max = txn.ctx.limits.blob_bytes_max;
    if let Some(details) = last_heartbeat_details.filter(|details| details.encoded_len() <= bytes_max) {
        activity_task::ensure_started(txn, id, &identity);
        let now = txn.now();
        if let Some(activity) = txn.activity_mut(id) {
            activity.heartbeat_details = Some(details);
            activity.last_heartbeat = Some(now);
        }
    }
    let failure = cut(failure.unwrap_or_default(), bytes_max);
    activity_task::fail(txn, id, failure, identity);
    let now = txn.now();
    if let Some(activity) = txn.activity_mut(id) {
        activity.last_failure_reported = Some(now);
    }
    Ok(Reply::Done)
}

/// By id, other programs than workers fail activities, and may do it with failures of any kind.
pub(crate) fn check_kind(activity: &ActivityRef, failure: Option<&Failure>) -> Result<(), Rejection> {
    let is_application_failure =
        |failure: &Failure| matches!(failure.failure_info, Some(FailureInfo::ApplicationFailureInfo(_)));
    if matches!(activity, ActivityRef::Token(_)) && failure.is_some_and(|failure| !is_application_failure(failure)) {
        return Err(Rejection::invalid("Failure must have ApplicationFailureInfo."));
    }
    Ok(())
}

/// A failure that is not larger than a payload may be.
pub(crate) fn cut(failure: Failure, bytes_max: usize) -> Failure {
    if failure.encoded_len() > bytes_max { retry::too_large(&failure, bytes_max / 4, true) } else { failure }
}
