//! A worker says that it is still busy with an activity.

use everlog_proto::api::common::v1::Payloads;
use prost::Message;

use crate::command::{ActivityRef, Heartbeat, Reply};
use crate::txn::Txn;
use crate::{Rejection, activity_task, retry};

/// Keeps the details for the next attempt, moves the heartbeat timeout, and tells what has been asked of the activity.
/// Details beyond the limit fail the activity, which its worker learns as a cancellation.
pub(crate) fn apply(
    txn: &mut Txn<'_>,
    activity: &ActivityRef,
    details: Option<Payloads>,
    identity: String,
) -> Result<Reply, Rejection> {
    let found = activity_task::find_started(&txn.run, activity)?;
    let id = found.scheduled_event_id;
    let asked = Heartbeat {
        cancel_requested: found.cancel_requested_event_id.is_some(),
        activity_paused: found.pause.is_some(),
        activity_reset: found.is_reset,
    };
    if details.as_ref().map_or(0, Message::encoded_len) > txn.ctx.limits.blob_bytes_max {
        let failure = retry::server_failure("Heartbeat details exceed size limit.", true);
        activity_task::fail(txn, id, failure, identity);
        return Ok(Reply::Heartbeat(Heartbeat { cancel_requested: true, ..Heartbeat::default() }));
    }
    activity_task::ensure_started(txn, id, &identity);
    let now = txn.now();
    if let Some(activity) = txn.activity_mut(id) {
        activity.heartbeat_details = details;
        activity.last_heartbeat = Some(now);
    }
    Ok(Reply::Heartbeat(asked))
}
