//! RecordMarker: a note that the SDK leaves for its replays, such as a local activity's result.

use everlog_proto::api::command::v1::RecordMarkerCommandAttributes;
use everlog_proto::api::enums::v1::WorkflowTaskFailedCause;
use everlog_proto::api::history::v1::MarkerRecordedEventAttributes;
use everlog_proto::api::history::v1::history_event::Attributes;
use prost::Message;

use super::{CommandContext, Invalid};
use crate::txn::Txn;

const CAUSE: WorkflowTaskFailedCause = WorkflowTaskFailedCause::BadRecordMarkerAttributes;

/// Records the marker as it is.
pub(super) fn apply(
    txn: &mut Txn<'_>,
    command: &mut CommandContext,
    attributes: RecordMarkerCommandAttributes,
) -> Result<(), Invalid> {
    let name = attributes.marker_name;
    if name.is_empty() {
        return Err(Invalid::new(CAUSE, "MarkerName is not set on RecordMarkerCommand."));
    }
    let limit = txn.ctx.limits.id_bytes_max;
    if name.len() > limit {
        let length = name.len();
        return Err(Invalid::new(
            CAUSE,
            format!(
                "MarkerName on RecordMarkerCommand exceeds length limit. MarkerName={name} Length={length} Limit={limit}"
            ),
        ));
    }
    let bytes: usize = attributes.details.iter().map(|(key, details)| key.len() + details.encoded_len()).sum::<usize>()
        + attributes.failure.as_ref().map_or(0, Message::encoded_len);
    if bytes > txn.ctx.limits.blob_bytes_max {
        return Err(Invalid::too_large(CAUSE, "RecordMarkerCommandAttributes.Details exceeds size limit."));
    }
    command.append(
        txn,
        Attributes::MarkerRecordedEventAttributes(MarkerRecordedEventAttributes {
            marker_name: name,
            details: attributes.details,
            workflow_task_completed_event_id: command.completed_event_id,
            header: attributes.header,
            failure: attributes.failure,
        }),
    );
    Ok(())
}
