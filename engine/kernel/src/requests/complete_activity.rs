//! An activity has completed.

use everlog_proto::api::common::v1::Payloads;
use everlog_proto::api::history::v1::ActivityTaskCompletedEventAttributes;
use everlog_proto::api::history::v1::history_event::Attributes;
use prost::Message;

use crate::command::{ActivityRef, Reply};
use crate::txn::Txn;
use crate::{Rejection, activity_task, retry, workflow_task};

/// Records the result. By id, an activity can be completed that no worker ever had. A result beyond the limit fails the
/// activity.
pub(crate) fn apply(
    txn: &mut Txn<'_>,
    activity: &ActivityRef,
    result: Option<Payloads>,
    identity: String,
) -> Result<Reply, Rejection> {
    if result.as_ref().map_or(0, Message::encoded_len) > txn.ctx.limits.blob_bytes_max {
        let id = activity_task::find_started(&txn.run, activity)?.scheduled_event_id;
        let failure = retry::server_failure("Complete result exceeds size limit.", true);
        activity_task::fail(txn, id, failure, identity);
        return Ok(Reply::Done);
    }
    let id = activity_task::find(&txn.run, activity)?.scheduled_event_id;
    activity_task::ensure_started(txn, id, &identity);
    activity_task::end(txn, id, |started_event_id| {
        Attributes::ActivityTaskCompletedEventAttributes(ActivityTaskCompletedEventAttributes {
            result,
            scheduled_event_id: id,
            started_event_id,
            identity,
            ..ActivityTaskCompletedEventAttributes::default()
        })
    });
    workflow_task::ensure_scheduled(txn);
    Ok(Reply::Done)
}
