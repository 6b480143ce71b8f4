//! An operator changes the options of a workflow. (Temporal: `updateworkflowoptions/api.go`.)
//!
//! Of these there is the priority here. An override of versions, and the skipping of time, are refused by whoever takes the request, so they
//! are never there to be changed; to take them away changes nothing.

use everlog_proto::api::history::v1::WorkflowExecutionOptionsUpdatedEventAttributes;
use everlog_proto::api::history::v1::history_event::Attributes;
use everlog_proto::api::workflow::v1::WorkflowExecutionOptions;
use everlog_proto::api::workflowservice::v1::UpdateWorkflowExecutionOptionsRequest;

use crate::command::Reply;
use crate::field_mask::{self, FieldMask, PRIORITY_FIELDS};
use crate::txn::Txn;
use crate::{Rejection, workflow_task};

/// Records the options if they change. They count at once, also while a worker has a workflow task and the event waits: the pending
/// workflow task changes its place in its queue. The workflow is not told.
pub(crate) fn apply(txn: &mut Txn<'_>, request: UpdateWorkflowExecutionOptionsRequest) -> Result<Reply, Rejection> {
    if !txn.run.is_open() {
        return Err(Rejection::workflow_completed());
    }
    let given = request.workflow_execution_options.unwrap_or_default();
    let mask = FieldMask::new(&request.update_mask.unwrap_or_default());
    check(&mask).map_err(|wrong| Rejection::invalid(format!("error applying update_options: {wrong}")))?;
    let current = txn.run.given_priority();
    let mut priority = current.cloned();
    if mask.has("priority") {
        priority = given.priority.clone();
    }
    for field in mask.inside("priority").filter(|field| PRIORITY_FIELDS.contains(field)) {
        field_mask::merge_priority(&mut priority, field, &given.priority.clone().unwrap_or_default());
    }
    if priority.as_ref() != current {
        let attributes = WorkflowExecutionOptionsUpdatedEventAttributes {
            // There is none, which Temporal records as well.
            unset_versioning_override: true,
            identity: request.identity,
            priority: priority.clone(),
            ..WorkflowExecutionOptionsUpdatedEventAttributes::default()
        };
        txn.record(Attributes::WorkflowExecutionOptionsUpdatedEventAttributes(attributes));
        workflow_task::limit_buffered(txn);
    }
    let options = WorkflowExecutionOptions { priority, ..WorkflowExecutionOptions::default() };
    Ok(Reply::WorkflowOptions(Box::new(options)))
}

/// Options that are changed as a whole only.
fn check(mask: &FieldMask) -> Result<(), &'static str> {
    let of_override = |path: &str| mask.inside("versioningOverride").any(|found| found == path);
    if of_override("deployment") != of_override("behavior") {
        return Err("versioning_override fields must be updated together");
    }
    if mask.inside("versioningOverride").any(|path| !["deployment", "behavior"].contains(&path)) {
        return Err("versioning_override doesn't support partial updates");
    }
    if mask.inside("timeSkippingConfig").next().is_some() {
        return Err("time_skipping_config doesn't support partial update");
    }
    Ok(())
}
