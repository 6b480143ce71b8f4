//! ModifyWorkflowProperties: the workflow changes its memo.

use everlog_proto::api::command::v1::ModifyWorkflowPropertiesCommandAttributes;
use everlog_proto::api::enums::v1::WorkflowTaskFailedCause;
use everlog_proto::api::history::v1::WorkflowPropertiesModifiedEventAttributes;
use everlog_proto::api::history::v1::history_event::Attributes;

use super::{CommandContext, Invalid};
use crate::payload_map::PayloadMap;
use crate::txn::Txn;

const CAUSE: WorkflowTaskFailedCause = WorkflowTaskFailedCause::BadModifyWorkflowPropertiesAttributes;

/// Merges a memo into the run's; lists show it with this transition.
pub(super) fn apply(
    txn: &mut Txn<'_>,
    command: &mut CommandContext,
    attributes: ModifyWorkflowPropertiesCommandAttributes,
) -> Result<(), Invalid> {
    let Some(changes) = attributes.upserted_memo else {
        return Err(Invalid::new(CAUSE, "UpsertedMemo is not set on ModifyWorkflowPropertiesCommand."));
    };
    if changes.fields.is_empty() {
        return Err(Invalid::new(CAUSE, "UpsertedMemo.Fields is not set on ModifyWorkflowPropertiesCommand."));
    }
    super::check_size(txn, Some(&changes), CAUSE, "ModifyWorkflowPropertiesCommandAttributes exceeds size limit.")?;
    let mut memo = PayloadMap::of(txn.run.info.started.properties().memo.as_ref());
    memo.merge(&changes.fields);
    super::check_memo_size(
        txn,
        Some(&memo),
        CAUSE,
        "ModifyWorkflowPropertiesCommandAttributes. Memo exceeds size limit.",
    )?;
    command.append(
        txn,
        Attributes::WorkflowPropertiesModifiedEventAttributes(WorkflowPropertiesModifiedEventAttributes {
            workflow_task_completed_event_id: command.completed_event_id,
            upserted_memo: Some(changes),
        }),
    );
    Ok(())
}
