//! UpsertWorkflowSearchAttributes.

use everlog_proto::api::command::v1::UpsertWorkflowSearchAttributesCommandAttributes;
use everlog_proto::api::enums::v1::WorkflowTaskFailedCause;
use everlog_proto::api::history::v1::UpsertWorkflowSearchAttributesEventAttributes;
use everlog_proto::api::history::v1::history_event::Attributes;

use super::{CommandContext, Invalid};
use crate::payload_map::PayloadMap;
use crate::txn::Txn;

const CAUSE: WorkflowTaskFailedCause = WorkflowTaskFailedCause::BadSearchAttributes;

/// Merges search attributes into the run's; lists show them with this transition.
pub(super) fn apply(
    txn: &mut Txn<'_>,
    command: &mut CommandContext,
    attributes: UpsertWorkflowSearchAttributesCommandAttributes,
) -> Result<(), Invalid> {
    let Some(changes) = attributes.search_attributes else {
        return Err(Invalid::new(CAUSE, "SearchAttributes is not set on UpsertWorkflowSearchAttributesCommand."));
    };
    if changes.indexed_fields.is_empty() {
        return Err(Invalid::new(CAUSE, "IndexedFields is not set on UpsertWorkflowSearchAttributesCommand."));
    }
    command.check_known()?;
    command.check_values(str::to_owned)?;
    super::check_size(
        txn,
        Some(&changes),
        CAUSE,
        "UpsertWorkflowSearchAttributesCommandAttributes exceeds size limit.",
    )?;
    let mut merged = PayloadMap::of(txn.run.info.started.properties().search_attributes.as_ref());
    merged.merge(&changes.indexed_fields);
    super::check_search_attribute_sizes(txn, Some(&merged.to_search_attributes()), CAUSE)?;
    command.append(
        txn,
        Attributes::UpsertWorkflowSearchAttributesEventAttributes(UpsertWorkflowSearchAttributesEventAttributes {
            workflow_task_completed_event_id: command.completed_event_id,
            search_attributes: Some(changes),
        }),
    );
    Ok(())
}
