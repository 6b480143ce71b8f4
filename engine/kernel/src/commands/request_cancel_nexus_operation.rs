//! RequestCancelNexusOperation.

use everlog_proto::api::command::v1::RequestCancelNexusOperationCommandAttributes;
use everlog_proto::api::enums::v1::WorkflowTaskFailedCause as Cause;
use everlog_proto::api::history::v1::NexusOperationCancelRequestedEventAttributes;
use everlog_proto::api::history::v1::history_event::Attributes;

use super::{CommandContext, Invalid};
use crate::txn::Txn;
use crate::{events, nexus};

/// Has the operation's service asked to cancel it, at once or once the operation has started. An operation may have ended without the
/// workflow's knowledge; that it wanted to cancel it is recorded all the same.
pub(crate) fn apply(
    txn: &mut Txn<'_>,
    command: &mut CommandContext,
    attributes: RequestCancelNexusOperationCommandAttributes,
) -> Result<(), Invalid> {
    let id = attributes.scheduled_event_id;
    let bad = |message: String| Invalid::new(Cause::BadRequestCancelNexusOperationAttributes, message);
    let has_ended_unseen = || {
        let mut ended =
            txn.run.buffered.values().filter_map(|event| events::ended_nexus_operation(event.attributes.as_ref()?));
        ended.any(|ended| ended == id)
    };
    match txn.run.nexus_operations.get(&id) {
        Some(operation) if operation.cancel.is_some() => {
            return Err(bad(format!(
                "cancelation was already requested for an operation with scheduled event ID {id}"
            )));
        }
        None if !has_ended_unseen() => {
            return Err(bad(format!(
                "requested cancelation for a non-existing or already completed operation with scheduled event ID of {id}"
            )));
        }
        _ => {}
    }
    let is_started = txn.run.nexus_operations.get(&id).is_some_and(|operation| operation.is_started());
    command.append(
        txn,
        Attributes::NexusOperationCancelRequestedEventAttributes(NexusOperationCancelRequestedEventAttributes {
            scheduled_event_id: id,
            workflow_task_completed_event_id: command.completed_event_id,
        }),
    );
    if is_started {
        nexus::call_to_cancel(txn, id);
    }
    Ok(())
}
