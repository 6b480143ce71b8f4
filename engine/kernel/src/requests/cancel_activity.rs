//! A worker says that an activity has obeyed a cancellation.

use everlog_proto::api::common::v1::Payloads;
use everlog_proto::api::history::v1::ActivityTaskCanceledEventAttributes;
use everlog_proto::api::history::v1::history_event::Attributes;
use prost::Message;

use crate::command::{ActivityRef, Reply};
use crate::txn::Txn;
use crate::{Rejection, activity_task, retry, workflow_task};

/// Records the cancellation. Refused unless the workflow has asked for it.
pub(crate) fn apply(
    txn: &mut Txn<'_>,
    activity: &ActivityRef,
    details: Option<Payloads>,
    identity: String,
) -> Result<Reply, Rejection> {
    let found = activity_task::find_started(&txn.run, activity)?;
    let id = found.scheduled_event_id;
    if details.as_ref().map_or(0, Message::encoded_len) > txn.ctx.limits.blob_bytes_max {
        let failure = retry::server_failure("Cancel details exceed size limit.", true);
        activity_task::fail(txn, id, failure, identity);
        return Ok(Reply::Done);
    }
    let cancel_requested_event_id = found.cancel_requested_event_id.ok_or_else(|| {
        Rejection::invalid("unable to mark activity as canceled without activity being request canceled first")
    })?;
    activity_task::ensure_started(txn, id, &identity);
    activity_task::end(txn, id, |started_event_id| {
        Attributes::ActivityTaskCanceledEventAttributes(ActivityTaskCanceledEventAttributes {
            details,
            latest_cancel_requested_event_id: cancel_requested_event_id,
            scheduled_event_id: id,
            started_event_id,
            identity,
            ..ActivityTaskCanceledEventAttributes::default()
        })
    });
    workflow_task::ensure_scheduled(txn);
    Ok(Reply::Done)
}
