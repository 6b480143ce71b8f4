//! Methods that Temporal has too, turned off unless an operator turns them on. What they answer then is all there is to them here.

use std::borrow::Cow;

use everlog_kernel::Rejection;
use everlog_proto::api::workflowservice::v1 as api;

use super::call::Call;
use super::errors::Error;
use super::execute::explain;
use super::{Frontend, address, validate};

const VERSION_SETS: Error =
    Error::PermissionDenied("Worker versioning v0.1 (Version Set-based, deprecated) is disabled on this namespace.");
const VERSION_RULES: Error =
    Error::PermissionDenied("Worker versioning v0.2 (Rules-based, deprecated) is disabled on this namespace.");
const DEPLOYMENTS: Error =
    unimplemented("Deployments are deprecated and no longer supported, use Worker Deployments instead");
const NEXUS_OPERATIONS: Error = unimplemented("Standalone Nexus operation is disabled");

const fn unimplemented(message: &'static str) -> Error {
    Error::Rejected(Rejection::Unimplemented(Cow::Borrowed(message)))
}

/// Methods that are refused with the same words in every namespace.
macro_rules! refused {
    ($($method:ident($request:ident) -> $response:ident: $refusal:expr;)*) => {
        $(
            pub(super) async fn $method(
                frontend: &Frontend,
                _call: Call,
                request: api::$request,
            ) -> Result<api::$response, Error> {
                frontend.namespace(&request.namespace)?;
                Err($refusal)
            }
        )*
    };
}

refused! {
    get_worker_build_id_compatibility(GetWorkerBuildIdCompatibilityRequest) -> GetWorkerBuildIdCompatibilityResponse: VERSION_SETS;
    update_worker_build_id_compatibility(UpdateWorkerBuildIdCompatibilityRequest) -> UpdateWorkerBuildIdCompatibilityResponse: VERSION_SETS;
    get_worker_versioning_rules(GetWorkerVersioningRulesRequest) -> GetWorkerVersioningRulesResponse: VERSION_RULES;
    update_worker_versioning_rules(UpdateWorkerVersioningRulesRequest) -> UpdateWorkerVersioningRulesResponse: VERSION_RULES;
    get_worker_task_reachability(GetWorkerTaskReachabilityRequest) -> GetWorkerTaskReachabilityResponse: VERSION_RULES;

    describe_deployment(DescribeDeploymentRequest) -> DescribeDeploymentResponse: DEPLOYMENTS;
    get_current_deployment(GetCurrentDeploymentRequest) -> GetCurrentDeploymentResponse: DEPLOYMENTS;
    get_deployment_reachability(GetDeploymentReachabilityRequest) -> GetDeploymentReachabilityResponse: DEPLOYMENTS;
    list_deployments(ListDeploymentsRequest) -> ListDeploymentsResponse: DEPLOYMENTS;
    set_current_deployment(SetCurrentDeploymentRequest) -> SetCurrentDeploymentResponse: DEPLOYMENTS;

    count_nexus_operation_executions(CountNexusOperationExecutionsRequest) -> CountNexusOperationExecutionsResponse: NEXUS_OPERATIONS;
    delete_nexus_operation_execution(DeleteNexusOperationExecutionRequest) -> DeleteNexusOperationExecutionResponse: NEXUS_OPERATIONS;
    describe_nexus_operation_execution(DescribeNexusOperationExecutionRequest) -> DescribeNexusOperationExecutionResponse: NEXUS_OPERATIONS;
    list_nexus_operation_executions(ListNexusOperationExecutionsRequest) -> ListNexusOperationExecutionsResponse: NEXUS_OPERATIONS;
    poll_nexus_operation_execution(PollNexusOperationExecutionRequest) -> PollNexusOperationExecutionResponse: NEXUS_OPERATIONS;
    request_cancel_nexus_operation_execution(RequestCancelNexusOperationExecutionRequest) -> RequestCancelNexusOperationExecutionResponse: NEXUS_OPERATIONS;
    start_nexus_operation_execution(StartNexusOperationExecutionRequest) -> StartNexusOperationExecutionResponse: NEXUS_OPERATIONS;
    terminate_nexus_operation_execution(TerminateNexusOperationExecutionRequest) -> TerminateNexusOperationExecutionResponse: NEXUS_OPERATIONS;

    create_workflow_rule(CreateWorkflowRuleRequest) -> CreateWorkflowRuleResponse: unimplemented("method CreateWorkflowRule not supported");
    delete_workflow_rule(DeleteWorkflowRuleRequest) -> DeleteWorkflowRuleResponse: unimplemented("method DeleteWorkflowRule not supported");
    describe_workflow_rule(DescribeWorkflowRuleRequest) -> DescribeWorkflowRuleResponse: unimplemented("method DescribeWorkflowRule not supported");
    list_workflow_rules(ListWorkflowRulesRequest) -> ListWorkflowRulesResponse: unimplemented("method ListWorkflowRules not supported");
    trigger_workflow_rule(TriggerWorkflowRuleRequest) -> TriggerWorkflowRuleResponse: unimplemented("method TriggerWorkflowRule not supported");

    fetch_worker_config(FetchWorkerConfigRequest) -> FetchWorkerConfigResponse: unimplemented("FetchWorkerConfig command is not enabled.");
    update_worker_config(UpdateWorkerConfigRequest) -> UpdateWorkerConfigResponse: unimplemented("UpdateWorkerConfig command is not enabled.");
}

/// Runs cannot be paused.
pub(super) async fn pause_workflow_execution(
    frontend: &Frontend,
    _call: Call,
    request: api::PauseWorkflowExecutionRequest,
) -> Result<api::PauseWorkflowExecutionResponse, Error> {
    frontend.namespace(&request.namespace)?;
    let message = format!("workflow pause is not enabled for namespace: {}", request.namespace);
    Err(Error::Rejected(Rejection::Unimplemented(message.into())))
}

/// No run is paused.
pub(super) async fn unpause_workflow_execution(
    frontend: &Frontend,
    _call: Call,
    request: api::UnpauseWorkflowExecutionRequest,
) -> Result<api::UnpauseWorkflowExecutionResponse, Error> {
    let namespace = frontend.namespace(&request.namespace)?;
    let id_bytes_max = frontend.config(&request.namespace).limits.id_bytes_max;
    validate::length(&request.reason, id_bytes_max, "reason is too long.")?;
    validate::length(&request.request_id, id_bytes_max, "request id is too long.")?;
    validate::length(&request.identity, id_bytes_max, "identity is too long.")?;
    if request.workflow_id.is_empty() {
        return Err(Error::invalid("Can't load workflow execution.  WorkflowId not set."));
    }
    let run_id = validate::run_id(&request.run_id, "RunId is not valid UUID.")?;
    let address = address(&namespace, &request.workflow_id);
    let partition = frontend.router.partition_of(&address)?;
    let is_open = partition.inspect(address.clone(), run_id, move |workflow, _| {
        workflow.run(run_id).map(|run| run.is_open()).ok_or_else(Rejection::workflow_not_found)
    });
    match is_open.await.map_err(|error| explain(error, &address, run_id))? {
        true => Err(Error::failed_precondition("workflow is not paused.")),
        false => Err(Rejection::workflow_completed().into()),
    }
}
