//! Methods that Temporal has too, turned off unless an operator turns them on. What they answer then is all there is to them here.

use everlog_kernel::Rejection;
use everlog_proto::api::workflowservice::v1 as api;

use super::Frontend;
use super::call::Call;
use super::errors::Error;

const VERSION_SETS: &str = "Worker versioning v0.1 (Version Set-based, deprecated) is disabled on this namespace.";
const VERSION_RULES: &str = "Worker versioning v0.2 (Rules-based, deprecated) is disabled on this namespace.";

fn unimplemented(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::Rejected(Rejection::Unimplemented(message.into()))
}

/// Methods of the first kind of worker versioning, or the second, in namespaces that have it turned off: all.
macro_rules! versioning {
    ($($method:ident($request:ident) -> $response:ident: $text:ident;)*) => {
        $(
            pub(super) async fn $method(
                frontend: &Frontend,
                _call: Call,
                request: api::$request,
            ) -> Result<api::$response, Error> {
                frontend.namespace(&request.namespace)?;
                Err(Error::PermissionDenied($text))
            }
        )*
    };
}

versioning! {
    get_worker_build_id_compatibility(GetWorkerBuildIdCompatibilityRequest) -> GetWorkerBuildIdCompatibilityResponse: VERSION_SETS;
    update_worker_build_id_compatibility(UpdateWorkerBuildIdCompatibilityRequest) -> UpdateWorkerBuildIdCompatibilityResponse: VERSION_SETS;
    get_worker_versioning_rules(GetWorkerVersioningRulesRequest) -> GetWorkerVersioningRulesResponse: VERSION_RULES;
    update_worker_versioning_rules(UpdateWorkerVersioningRulesRequest) -> UpdateWorkerVersioningRulesResponse: VERSION_RULES;
    get_worker_task_reachability(GetWorkerTaskReachabilityRequest) -> GetWorkerTaskReachabilityResponse: VERSION_RULES;
}

/// The settings of workers are their own.
pub(super) async fn fetch_worker_config(
    _frontend: &Frontend,
    _call: Call,
    _request: api::FetchWorkerConfigRequest,
) -> Result<api::FetchWorkerConfigResponse, Error> {
    Err(unimplemented("FetchWorkerConfig command is not enabled."))
}

/// Rules for workflows.
pub(super) async fn create_workflow_rule(
    _frontend: &Frontend,
    _call: Call,
    _request: api::CreateWorkflowRuleRequest,
) -> Result<api::CreateWorkflowRuleResponse, Error> {
    Err(unimplemented("method CreateWorkflowRule not supported"))
}

/// Runs cannot be paused.
pub(super) async fn pause_workflow_execution(
    frontend: &Frontend,
    _call: Call,
    request: api::PauseWorkflowExecutionRequest,
) -> Result<api::PauseWorkflowExecutionResponse, Error> {
    frontend.namespace(&request.namespace)?;
    Err(unimplemented(format!("workflow pause is not enabled for namespace: {}", request.namespace)))
}

/// There is no archive.
pub(super) async fn list_archived_workflow_executions(
    frontend: &Frontend,
    _call: Call,
    request: api::ListArchivedWorkflowExecutionsRequest,
) -> Result<api::ListArchivedWorkflowExecutionsResponse, Error> {
    frontend.namespace(&request.namespace)?;
    Err(Error::invalid("Cluster is not configured for visibility archival."))
}
