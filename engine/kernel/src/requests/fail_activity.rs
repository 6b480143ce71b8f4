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
    let is_application_failure =
        |failure: &Failure| matches!(failure.failure_info, Some(FailureInfo::ApplicationFailureInfo(_)));
    // By id, other programs than workers fail activities, and may do it with failures of any kind.
    if matches!(activity, ActivityRef::Token(_))
        && failure.as_ref().is_some_and(|failure| !is_application_failure(failure))
    {
        return Err(Rejection::invalid("Failure must have ApplicationFailureInfo."));
    }
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
    let failure = failure.unwrap_or_default();
    let failure =
        if failure.encoded_len() > bytes_max { retry::too_large(&failure, bytes_max / 4, true) } else { failure };
    activity_task::fail(txn, id, failure, identity);
    let now = txn.now();
    if let Some(activity) = txn.activity_mut(id) {
        activity.last_failure_reported = Some(now);
    }
    Ok(Reply::Done)
}
