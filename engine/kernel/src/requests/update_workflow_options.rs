//! An operator changes the options of a workflow. (Temporal: `updateworkflowoptions/api.go`.)
//!
//! Of these there are the priority and the override of versions here. The skipping of time is refused by whoever takes the request, so it
//! is never there to be changed; to take it away changes nothing.

use everlog_proto::api::history::v1::WorkflowExecutionOptionsUpdatedEventAttributes;
use everlog_proto::api::history::v1::history_event::Attributes;
use everlog_proto::api::workflow::v1::WorkflowExecutionOptions;
use everlog_proto::api::workflowservice::v1::UpdateWorkflowExecutionOptionsRequest;
use everlog_proto::wkt;

use crate::command::Reply;
use crate::field_mask::{self, FieldMask, PRIORITY_FIELDS};
use crate::txn::Txn;
use crate::{Rejection, deployment, workflow_task};

/// The paths of the fields of `WorkflowExecutionOptions`, and of what they consist of.
pub const WORKFLOW_OPTION_PATHS: [&str; 29] = [
    "versioning_override",
    "versioning_override.pinned",
    "versioning_override.pinned.behavior",
    "versioning_override.pinned.version",
    "versioning_override.pinned.version.build_id",
    "versioning_override.pinned.version.deployment_name",
    "versioning_override.auto_upgrade",
    "versioning_override.one_time",
    "versioning_override.one_time.target_deployment_version",
    "versioning_override.one_time.target_deployment_version.build_id",
    "versioning_override.one_time.target_deployment_version.deployment_name",
    "versioning_override.behavior",
    "versioning_override.deployment",
    "versioning_override.deployment.series_name",
    "versioning_override.deployment.build_id",
    "versioning_override.pinned_version",
    "priority",
    "priority.priority_key",
    "priority.fairness_key",
    "priority.fairness_weight",
    "time_skipping_config",
    "time_skipping_config.enabled",
    "time_skipping_config.fast_forward_config",
    "time_skipping_config.fast_forward_config.id",
    "time_skipping_config.fast_forward_config.duration",
    "time_skipping_config.fast_forward_config.duration.seconds",
    "time_skipping_config.fast_forward_config.duration.nanos",
    "time_skipping_config.disable_propagation",
    "time_skipping_config.max_session_skip_count",
];

/// Looks at the paths of a mask.
///
/// # Errors
///
/// Names the first that leads to no field.
pub fn check_workflow_option_paths(mask: &wkt::FieldMask) -> Result<(), String> {
    match mask.paths.iter().find(|path| !WORKFLOW_OPTION_PATHS.contains(&path.as_str())) {
        Some(path) => Err(format!(
            "proto: invalid path {path:?} for message \"temporal.api.workflow.v1.WorkflowExecutionOptions\""
        )),
        None => Ok(()),
    }
}

/// Changes the options of a run. The workflow is not told.
pub(crate) fn apply(txn: &mut Txn<'_>, request: UpdateWorkflowExecutionOptionsRequest) -> Result<Reply, Rejection> {
    if !txn.run.is_open() {
        return Err(Rejection::workflow_completed());
    }
    let mask = check(&request.update_mask.unwrap_or_default())?;
    let given = request.workflow_execution_options.unwrap_or_default();
    if sets_override(&mask) {
        deployment::check_reach(
            given.versioning_override.as_ref(),
            txn.run.task_queue(),
            &txn.ctx.namespace.deployments,
        )?;
    }
    let options = change(txn, &given, &mask, request.identity);
    workflow_task::limit_buffered(txn);
    Ok(Reply::WorkflowOptions(Box::new(options)))
}

/// What is to be changed, if options can be changed like that: some only as a whole.
pub(crate) fn check(mask: &wkt::FieldMask) -> Result<FieldMask, Rejection> {
    let wrong = |wrong: String| Rejection::invalid(format!("error applying update_options: {wrong}"));
    check_workflow_option_paths(mask).map_err(wrong)?;
    let mask = FieldMask::new(mask);
    let of_override = |path: &str| mask.inside("versioningOverride").any(|found| found == path);
    if of_override("deployment") != of_override("behavior") {
        return Err(wrong("versioning_override fields must be updated together".to_owned()));
    }
    if mask.inside("versioningOverride").any(|path| !["deployment", "behavior"].contains(&path)) {
        return Err(wrong("versioning_override doesn't support partial updates".to_owned()));
    }
    if mask.inside("timeSkippingConfig").next().is_some() {
        return Err(wrong("time_skipping_config doesn't support partial update".to_owned()));
    }
    Ok(mask)
}

/// Whether the override of versions is to be changed: as a whole, or by the two old fields that are all of it.
fn sets_override(mask: &FieldMask) -> bool {
    mask.has("versioningOverride") || mask.inside("versioningOverride").next().is_some()
}

/// Records the options if they change, and gives all of them. They count at once, also while a worker has a workflow task and the event
/// waits: the pending workflow task changes its place in its queue.
pub(crate) fn change(
    txn: &mut Txn<'_>,
    given: &WorkflowExecutionOptions,
    mask: &FieldMask,
    identity: String,
) -> WorkflowExecutionOptions {
    let current = txn.run.given_priority();
    let mut priority = current.cloned();
    if mask.has("priority") {
        priority = given.priority.clone();
    }
    for field in mask.inside("priority").filter(|field| PRIORITY_FIELDS.contains(field)) {
        field_mask::merge_priority(&mut priority, field, &given.priority.clone().unwrap_or_default());
    }
    let known = txn.run.versioning().and_then(|versioning| versioning.info.versioning_override.clone());
    let versioning_override = match sets_override(mask) {
        true => given.versioning_override.as_ref().map(deployment::normal_override),
        false => known.clone(),
    };
    if priority.as_ref() != current || versioning_override != known {
        let attributes = WorkflowExecutionOptionsUpdatedEventAttributes {
            // Temporal records as well that there is none.
            unset_versioning_override: versioning_override.is_none(),
            versioning_override: versioning_override.clone(),
            identity,
            priority: priority.clone(),
            ..WorkflowExecutionOptionsUpdatedEventAttributes::default()
        };
        txn.record(Attributes::WorkflowExecutionOptionsUpdatedEventAttributes(attributes));
    }
    WorkflowExecutionOptions { priority, versioning_override, ..WorkflowExecutionOptions::default() }
}
