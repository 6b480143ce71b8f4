//! ResetWorkflowExecution: a run goes on from an earlier event.

use everlog_proto::api::enums::v1::ResetReapplyType;
use everlog_proto::api::workflow::v1::PostResetOperation;
use everlog_proto::api::workflow::v1::post_reset_operation::Variant;
use everlog_proto::api::workflowservice::v1::{ResetWorkflowExecutionRequest, ResetWorkflowExecutionResponse};

use super::call::Call;
use super::errors::Error;
use super::execute::explain;
use super::workflow_options::check_support;
use super::{Frontend, address, validate};

/// Starts a run that goes on from a workflow task of an earlier one, and ends the one that is open.
pub(super) async fn reset_workflow_execution(
    frontend: &Frontend,
    _call: Call,
    request: ResetWorkflowExecutionRequest,
) -> Result<ResetWorkflowExecutionResponse, Error> {
    let namespace = frontend.namespace(&request.namespace)?;
    if request.request_id.is_empty() {
        return Err(Error::invalid("RequestId is not set on request."));
    }
    let id_bytes_max = frontend.config(&request.namespace).limits.id_bytes_max;
    validate::length(&request.request_id, id_bytes_max, "RequestId length exceeds limit.")?;
    let (workflow_id, run_id) = validate::execution(request.workflow_execution.as_ref())?;
    #[expect(deprecated, reason = "old clients say so what is to be reapplied")]
    let reapply = request.reset_reapply_type;
    if ResetReapplyType::try_from(reapply).is_err() {
        return Err(Error::invalid(format!("unknown reset reapply type: {reapply}")));
    }
    frontend.check_room()?;
    check_operations(&request.post_reset_operations)?;
    let address = address(&namespace, workflow_id);
    let partition = frontend.router.partition_of(&address)?;
    // It reads as a page of a history does, page by page.
    let _place = frontend.place_for_page().await?;
    let reset = partition.reset_workflow(address.clone(), run_id, request).await;
    let run_id = reset.map_err(|error| explain(error, &address, run_id))?;
    Ok(ResetWorkflowExecutionResponse { run_id: run_id.to_string() })
}

/// Refuses what is to be done to the new run and cannot be done yet. What Temporal does not do either is refused once the run is found.
pub(super) fn check_operations(operations: &[PostResetOperation]) -> Result<(), Error> {
    let changes = |operation: &PostResetOperation| match &operation.variant {
        Some(Variant::UpdateWorkflowOptions(update)) => update.workflow_execution_options.clone(),
        _ => None,
    };
    operations.iter().filter_map(changes).try_for_each(|options| check_support(&options))
}
