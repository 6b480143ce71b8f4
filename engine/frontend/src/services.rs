//! The implementations of the two gRPC services: each method is handed on to the function of its name.
//!
//! A method that is not listed here answers UNIMPLEMENTED.

use std::sync::Arc;

use everlog_proto::api::operatorservice::v1 as operator_api;
use everlog_proto::api::workflowservice::v1 as workflow_api;
use everlog_proto::operator_service::OperatorService;
use everlog_proto::workflow_service::WorkflowService;
use tokio::time::Instant;
use tonic::codegen::async_trait;
use tonic::{Request, Response, Status};

use super::call::Call;
use super::request_body::settle;
use super::{
    Frontend, activity_executions, activity_operations, activity_tasks, archived, batch_jobs, deployments, history,
    multi_operation, namespaces, nexus_endpoints, nexus_tasks, operator, query, reset, schedules, system,
    task_queue_config, task_queues, turned_off, updates, visibility, workers, workflow_control, workflow_options,
    workflow_start, workflow_tasks,
};

/// The workflow service.
#[derive(Clone)]
pub(super) struct WorkflowApi(pub(super) Arc<Frontend>);

/// The operator service.
#[derive(Clone)]
pub(super) struct OperatorApi(pub(super) Arc<Frontend>);

/// Implements a service trait. A line is `Method(file.function: Request) -> Response`.
macro_rules! service {
    ($trait:ident for $api:ident as $operations:ident {
        $($operation:ident($file:ident.$method:ident: $request:ty) -> $response:ty;)*
    }) => {
        /// The names of the methods that are served, each with the file that answers it.
        pub(super) const $operations: &[(&str, &str)] = &[$((stringify!($operation), stringify!($file))),*];

        #[async_trait]
        impl $trait for $api {
            $(
                async fn $method(&self, request: Request<$request>) -> Result<Response<$response>, Status> {
                    settle(&request)?;
                    let call = Call::new(request.metadata(), Instant::now());
                    let missing = call.reads.missing.clone();
                    let response = $file::$method(&self.0, call, request.into_inner()).await;
                    let mut response = response.map(Response::new).map_err(Status::from)?;
                    missing.iter().for_each(|missing| missing.tell(&mut response));
                    Ok(response)
                }
            )*
        }
    };
}

service!(WorkflowService for WorkflowApi as WORKFLOW_OPERATIONS {
    GetSystemInfo(system.get_system_info: workflow_api::GetSystemInfoRequest) -> workflow_api::GetSystemInfoResponse;
    GetClusterInfo(system.get_cluster_info: workflow_api::GetClusterInfoRequest) -> workflow_api::GetClusterInfoResponse;

    RegisterNamespace(namespaces.register_namespace: workflow_api::RegisterNamespaceRequest) -> workflow_api::RegisterNamespaceResponse;
    DescribeNamespace(namespaces.describe_namespace: workflow_api::DescribeNamespaceRequest) -> workflow_api::DescribeNamespaceResponse;
    ListNamespaces(namespaces.list_namespaces: workflow_api::ListNamespacesRequest) -> workflow_api::ListNamespacesResponse;
    UpdateNamespace(namespaces.update_namespace: workflow_api::UpdateNamespaceRequest) -> workflow_api::UpdateNamespaceResponse;
    DeprecateNamespace(namespaces.deprecate_namespace: workflow_api::DeprecateNamespaceRequest) -> workflow_api::DeprecateNamespaceResponse;

    StartWorkflowExecution(workflow_start.start_workflow_execution: workflow_api::StartWorkflowExecutionRequest) -> workflow_api::StartWorkflowExecutionResponse;
    SignalWithStartWorkflowExecution(workflow_start.signal_with_start_workflow_execution: workflow_api::SignalWithStartWorkflowExecutionRequest) -> workflow_api::SignalWithStartWorkflowExecutionResponse;

    SignalWorkflowExecution(workflow_control.signal_workflow_execution: workflow_api::SignalWorkflowExecutionRequest) -> workflow_api::SignalWorkflowExecutionResponse;
    RequestCancelWorkflowExecution(workflow_control.request_cancel_workflow_execution: workflow_api::RequestCancelWorkflowExecutionRequest) -> workflow_api::RequestCancelWorkflowExecutionResponse;
    TerminateWorkflowExecution(workflow_control.terminate_workflow_execution: workflow_api::TerminateWorkflowExecutionRequest) -> workflow_api::TerminateWorkflowExecutionResponse;
    DeleteWorkflowExecution(workflow_control.delete_workflow_execution: workflow_api::DeleteWorkflowExecutionRequest) -> workflow_api::DeleteWorkflowExecutionResponse;
    DescribeWorkflowExecution(workflow_control.describe_workflow_execution: workflow_api::DescribeWorkflowExecutionRequest) -> workflow_api::DescribeWorkflowExecutionResponse;
    ResetWorkflowExecution(reset.reset_workflow_execution: workflow_api::ResetWorkflowExecutionRequest) -> workflow_api::ResetWorkflowExecutionResponse;
    ResetStickyTaskQueue(workflow_control.reset_sticky_task_queue: workflow_api::ResetStickyTaskQueueRequest) -> workflow_api::ResetStickyTaskQueueResponse;
    UpdateWorkflowExecutionOptions(workflow_options.update_workflow_execution_options: workflow_api::UpdateWorkflowExecutionOptionsRequest) -> workflow_api::UpdateWorkflowExecutionOptionsResponse;

    StartActivityExecution(activity_executions.start_activity_execution: workflow_api::StartActivityExecutionRequest) -> workflow_api::StartActivityExecutionResponse;
    DescribeActivityExecution(activity_executions.describe_activity_execution: workflow_api::DescribeActivityExecutionRequest) -> workflow_api::DescribeActivityExecutionResponse;
    PollActivityExecution(activity_executions.poll_activity_execution: workflow_api::PollActivityExecutionRequest) -> workflow_api::PollActivityExecutionResponse;
    ListActivityExecutions(activity_executions.list_activity_executions: workflow_api::ListActivityExecutionsRequest) -> workflow_api::ListActivityExecutionsResponse;
    CountActivityExecutions(activity_executions.count_activity_executions: workflow_api::CountActivityExecutionsRequest) -> workflow_api::CountActivityExecutionsResponse;
    RequestCancelActivityExecution(activity_executions.request_cancel_activity_execution: workflow_api::RequestCancelActivityExecutionRequest) -> workflow_api::RequestCancelActivityExecutionResponse;
    TerminateActivityExecution(activity_executions.terminate_activity_execution: workflow_api::TerminateActivityExecutionRequest) -> workflow_api::TerminateActivityExecutionResponse;
    DeleteActivityExecution(activity_executions.delete_activity_execution: workflow_api::DeleteActivityExecutionRequest) -> workflow_api::DeleteActivityExecutionResponse;

    PauseActivity(activity_operations.pause_activity: workflow_api::PauseActivityRequest) -> workflow_api::PauseActivityResponse;
    UnpauseActivity(activity_operations.unpause_activity: workflow_api::UnpauseActivityRequest) -> workflow_api::UnpauseActivityResponse;
    ResetActivity(activity_operations.reset_activity: workflow_api::ResetActivityRequest) -> workflow_api::ResetActivityResponse;
    UpdateActivityOptions(activity_operations.update_activity_options: workflow_api::UpdateActivityOptionsRequest) -> workflow_api::UpdateActivityOptionsResponse;
    PauseActivityExecution(activity_operations.pause_activity_execution: workflow_api::PauseActivityExecutionRequest) -> workflow_api::PauseActivityExecutionResponse;
    UnpauseActivityExecution(activity_operations.unpause_activity_execution: workflow_api::UnpauseActivityExecutionRequest) -> workflow_api::UnpauseActivityExecutionResponse;
    ResetActivityExecution(activity_operations.reset_activity_execution: workflow_api::ResetActivityExecutionRequest) -> workflow_api::ResetActivityExecutionResponse;
    UpdateActivityExecutionOptions(activity_operations.update_activity_execution_options: workflow_api::UpdateActivityExecutionOptionsRequest) -> workflow_api::UpdateActivityExecutionOptionsResponse;

    GetWorkflowExecutionHistory(history.get_workflow_execution_history: workflow_api::GetWorkflowExecutionHistoryRequest) -> everlog_proto::encoded::GetWorkflowExecutionHistoryResponse;
    GetWorkflowExecutionHistoryReverse(history.get_workflow_execution_history_reverse: workflow_api::GetWorkflowExecutionHistoryReverseRequest) -> workflow_api::GetWorkflowExecutionHistoryReverseResponse;

    UpdateWorkflowExecution(updates.update_workflow_execution: workflow_api::UpdateWorkflowExecutionRequest) -> workflow_api::UpdateWorkflowExecutionResponse;
    PollWorkflowExecutionUpdate(updates.poll_workflow_execution_update: workflow_api::PollWorkflowExecutionUpdateRequest) -> workflow_api::PollWorkflowExecutionUpdateResponse;
    ExecuteMultiOperation(multi_operation.execute_multi_operation: workflow_api::ExecuteMultiOperationRequest) -> workflow_api::ExecuteMultiOperationResponse;

    QueryWorkflow(query.query_workflow: workflow_api::QueryWorkflowRequest) -> workflow_api::QueryWorkflowResponse;
    RespondQueryTaskCompleted(query.respond_query_task_completed: workflow_api::RespondQueryTaskCompletedRequest) -> workflow_api::RespondQueryTaskCompletedResponse;

    PollWorkflowTaskQueue(workflow_tasks.poll_workflow_task_queue: workflow_api::PollWorkflowTaskQueueRequest) -> everlog_proto::encoded::PollWorkflowTaskQueueResponse;
    RespondWorkflowTaskCompleted(workflow_tasks.respond_workflow_task_completed: workflow_api::RespondWorkflowTaskCompletedRequest) -> everlog_proto::encoded::RespondWorkflowTaskCompletedResponse;
    RespondWorkflowTaskFailed(workflow_tasks.respond_workflow_task_failed: workflow_api::RespondWorkflowTaskFailedRequest) -> workflow_api::RespondWorkflowTaskFailedResponse;

    PollActivityTaskQueue(activity_tasks.poll_activity_task_queue: workflow_api::PollActivityTaskQueueRequest) -> workflow_api::PollActivityTaskQueueResponse;
    RecordActivityTaskHeartbeat(activity_tasks.record_activity_task_heartbeat: workflow_api::RecordActivityTaskHeartbeatRequest) -> workflow_api::RecordActivityTaskHeartbeatResponse;
    RecordActivityTaskHeartbeatById(activity_tasks.record_activity_task_heartbeat_by_id: workflow_api::RecordActivityTaskHeartbeatByIdRequest) -> workflow_api::RecordActivityTaskHeartbeatByIdResponse;
    RespondActivityTaskCompleted(activity_tasks.respond_activity_task_completed: workflow_api::RespondActivityTaskCompletedRequest) -> workflow_api::RespondActivityTaskCompletedResponse;
    RespondActivityTaskCompletedById(activity_tasks.respond_activity_task_completed_by_id: workflow_api::RespondActivityTaskCompletedByIdRequest) -> workflow_api::RespondActivityTaskCompletedByIdResponse;
    RespondActivityTaskFailed(activity_tasks.respond_activity_task_failed: workflow_api::RespondActivityTaskFailedRequest) -> workflow_api::RespondActivityTaskFailedResponse;
    RespondActivityTaskFailedById(activity_tasks.respond_activity_task_failed_by_id: workflow_api::RespondActivityTaskFailedByIdRequest) -> workflow_api::RespondActivityTaskFailedByIdResponse;
    RespondActivityTaskCanceled(activity_tasks.respond_activity_task_canceled: workflow_api::RespondActivityTaskCanceledRequest) -> workflow_api::RespondActivityTaskCanceledResponse;
    RespondActivityTaskCanceledById(activity_tasks.respond_activity_task_canceled_by_id: workflow_api::RespondActivityTaskCanceledByIdRequest) -> workflow_api::RespondActivityTaskCanceledByIdResponse;

    ListWorkflowExecutions(visibility.list_workflow_executions: workflow_api::ListWorkflowExecutionsRequest) -> everlog_proto::encoded::ListWorkflowExecutionsResponse;
    ScanWorkflowExecutions(visibility.scan_workflow_executions: workflow_api::ScanWorkflowExecutionsRequest) -> workflow_api::ScanWorkflowExecutionsResponse;
    CountWorkflowExecutions(visibility.count_workflow_executions: workflow_api::CountWorkflowExecutionsRequest) -> workflow_api::CountWorkflowExecutionsResponse;
    ListOpenWorkflowExecutions(visibility.list_open_workflow_executions: workflow_api::ListOpenWorkflowExecutionsRequest) -> workflow_api::ListOpenWorkflowExecutionsResponse;
    ListClosedWorkflowExecutions(visibility.list_closed_workflow_executions: workflow_api::ListClosedWorkflowExecutionsRequest) -> workflow_api::ListClosedWorkflowExecutionsResponse;
    GetSearchAttributes(visibility.get_search_attributes: workflow_api::GetSearchAttributesRequest) -> workflow_api::GetSearchAttributesResponse;

    CreateSchedule(schedules.create_schedule: workflow_api::CreateScheduleRequest) -> workflow_api::CreateScheduleResponse;
    DescribeSchedule(schedules.describe_schedule: workflow_api::DescribeScheduleRequest) -> workflow_api::DescribeScheduleResponse;
    UpdateSchedule(schedules.update_schedule: workflow_api::UpdateScheduleRequest) -> workflow_api::UpdateScheduleResponse;
    PatchSchedule(schedules.patch_schedule: workflow_api::PatchScheduleRequest) -> workflow_api::PatchScheduleResponse;
    DeleteSchedule(schedules.delete_schedule: workflow_api::DeleteScheduleRequest) -> workflow_api::DeleteScheduleResponse;
    ListScheduleMatchingTimes(schedules.list_schedule_matching_times: workflow_api::ListScheduleMatchingTimesRequest) -> workflow_api::ListScheduleMatchingTimesResponse;
    ListSchedules(schedules.list_schedules: workflow_api::ListSchedulesRequest) -> workflow_api::ListSchedulesResponse;
    CountSchedules(schedules.count_schedules: workflow_api::CountSchedulesRequest) -> workflow_api::CountSchedulesResponse;

    StartBatchOperation(batch_jobs.start_batch_operation: workflow_api::StartBatchOperationRequest) -> workflow_api::StartBatchOperationResponse;
    StopBatchOperation(batch_jobs.stop_batch_operation: workflow_api::StopBatchOperationRequest) -> workflow_api::StopBatchOperationResponse;
    DescribeBatchOperation(batch_jobs.describe_batch_operation: workflow_api::DescribeBatchOperationRequest) -> workflow_api::DescribeBatchOperationResponse;
    ListBatchOperations(batch_jobs.list_batch_operations: workflow_api::ListBatchOperationsRequest) -> workflow_api::ListBatchOperationsResponse;

    DescribeTaskQueue(task_queues.describe_task_queue: workflow_api::DescribeTaskQueueRequest) -> workflow_api::DescribeTaskQueueResponse;
    UpdateTaskQueueConfig(task_queue_config.update_task_queue_config: workflow_api::UpdateTaskQueueConfigRequest) -> workflow_api::UpdateTaskQueueConfigResponse;
    ListTaskQueuePartitions(task_queues.list_task_queue_partitions: workflow_api::ListTaskQueuePartitionsRequest) -> workflow_api::ListTaskQueuePartitionsResponse;

    GetWorkerBuildIdCompatibility(turned_off.get_worker_build_id_compatibility: workflow_api::GetWorkerBuildIdCompatibilityRequest) -> workflow_api::GetWorkerBuildIdCompatibilityResponse;
    UpdateWorkerBuildIdCompatibility(turned_off.update_worker_build_id_compatibility: workflow_api::UpdateWorkerBuildIdCompatibilityRequest) -> workflow_api::UpdateWorkerBuildIdCompatibilityResponse;
    GetWorkerVersioningRules(turned_off.get_worker_versioning_rules: workflow_api::GetWorkerVersioningRulesRequest) -> workflow_api::GetWorkerVersioningRulesResponse;
    UpdateWorkerVersioningRules(turned_off.update_worker_versioning_rules: workflow_api::UpdateWorkerVersioningRulesRequest) -> workflow_api::UpdateWorkerVersioningRulesResponse;
    GetWorkerTaskReachability(turned_off.get_worker_task_reachability: workflow_api::GetWorkerTaskReachabilityRequest) -> workflow_api::GetWorkerTaskReachabilityResponse;
    DescribeWorkerDeployment(deployments.describe_worker_deployment: workflow_api::DescribeWorkerDeploymentRequest) -> workflow_api::DescribeWorkerDeploymentResponse;
    DescribeWorkerDeploymentVersion(deployments.describe_worker_deployment_version: workflow_api::DescribeWorkerDeploymentVersionRequest) -> workflow_api::DescribeWorkerDeploymentVersionResponse;
    ListWorkerDeployments(deployments.list_worker_deployments: workflow_api::ListWorkerDeploymentsRequest) -> workflow_api::ListWorkerDeploymentsResponse;
    CreateWorkerDeployment(deployments.create_worker_deployment: workflow_api::CreateWorkerDeploymentRequest) -> workflow_api::CreateWorkerDeploymentResponse;
    CreateWorkerDeploymentVersion(deployments.create_worker_deployment_version: workflow_api::CreateWorkerDeploymentVersionRequest) -> workflow_api::CreateWorkerDeploymentVersionResponse;
    SetWorkerDeploymentCurrentVersion(deployments.set_worker_deployment_current_version: workflow_api::SetWorkerDeploymentCurrentVersionRequest) -> workflow_api::SetWorkerDeploymentCurrentVersionResponse;
    SetWorkerDeploymentRampingVersion(deployments.set_worker_deployment_ramping_version: workflow_api::SetWorkerDeploymentRampingVersionRequest) -> workflow_api::SetWorkerDeploymentRampingVersionResponse;
    SetWorkerDeploymentManager(deployments.set_worker_deployment_manager: workflow_api::SetWorkerDeploymentManagerRequest) -> workflow_api::SetWorkerDeploymentManagerResponse;
    UpdateWorkerDeploymentVersionMetadata(deployments.update_worker_deployment_version_metadata: workflow_api::UpdateWorkerDeploymentVersionMetadataRequest) -> workflow_api::UpdateWorkerDeploymentVersionMetadataResponse;
    UpdateWorkerDeploymentVersionComputeConfig(deployments.update_worker_deployment_version_compute_config: workflow_api::UpdateWorkerDeploymentVersionComputeConfigRequest) -> workflow_api::UpdateWorkerDeploymentVersionComputeConfigResponse;
    ValidateWorkerDeploymentVersionComputeConfig(deployments.validate_worker_deployment_version_compute_config: workflow_api::ValidateWorkerDeploymentVersionComputeConfigRequest) -> workflow_api::ValidateWorkerDeploymentVersionComputeConfigResponse;
    DeleteWorkerDeploymentVersion(deployments.delete_worker_deployment_version: workflow_api::DeleteWorkerDeploymentVersionRequest) -> workflow_api::DeleteWorkerDeploymentVersionResponse;
    DeleteWorkerDeployment(deployments.delete_worker_deployment: workflow_api::DeleteWorkerDeploymentRequest) -> workflow_api::DeleteWorkerDeploymentResponse;

    DescribeDeployment(turned_off.describe_deployment: workflow_api::DescribeDeploymentRequest) -> workflow_api::DescribeDeploymentResponse;
    GetCurrentDeployment(turned_off.get_current_deployment: workflow_api::GetCurrentDeploymentRequest) -> workflow_api::GetCurrentDeploymentResponse;
    GetDeploymentReachability(turned_off.get_deployment_reachability: workflow_api::GetDeploymentReachabilityRequest) -> workflow_api::GetDeploymentReachabilityResponse;
    ListDeployments(turned_off.list_deployments: workflow_api::ListDeploymentsRequest) -> workflow_api::ListDeploymentsResponse;
    SetCurrentDeployment(turned_off.set_current_deployment: workflow_api::SetCurrentDeploymentRequest) -> workflow_api::SetCurrentDeploymentResponse;
    CountNexusOperationExecutions(turned_off.count_nexus_operation_executions: workflow_api::CountNexusOperationExecutionsRequest) -> workflow_api::CountNexusOperationExecutionsResponse;
    DeleteNexusOperationExecution(turned_off.delete_nexus_operation_execution: workflow_api::DeleteNexusOperationExecutionRequest) -> workflow_api::DeleteNexusOperationExecutionResponse;
    DescribeNexusOperationExecution(turned_off.describe_nexus_operation_execution: workflow_api::DescribeNexusOperationExecutionRequest) -> workflow_api::DescribeNexusOperationExecutionResponse;
    ListNexusOperationExecutions(turned_off.list_nexus_operation_executions: workflow_api::ListNexusOperationExecutionsRequest) -> workflow_api::ListNexusOperationExecutionsResponse;
    PollNexusOperationExecution(turned_off.poll_nexus_operation_execution: workflow_api::PollNexusOperationExecutionRequest) -> workflow_api::PollNexusOperationExecutionResponse;
    RequestCancelNexusOperationExecution(turned_off.request_cancel_nexus_operation_execution: workflow_api::RequestCancelNexusOperationExecutionRequest) -> workflow_api::RequestCancelNexusOperationExecutionResponse;
    StartNexusOperationExecution(turned_off.start_nexus_operation_execution: workflow_api::StartNexusOperationExecutionRequest) -> workflow_api::StartNexusOperationExecutionResponse;
    TerminateNexusOperationExecution(turned_off.terminate_nexus_operation_execution: workflow_api::TerminateNexusOperationExecutionRequest) -> workflow_api::TerminateNexusOperationExecutionResponse;
    CreateWorkflowRule(turned_off.create_workflow_rule: workflow_api::CreateWorkflowRuleRequest) -> workflow_api::CreateWorkflowRuleResponse;
    DeleteWorkflowRule(turned_off.delete_workflow_rule: workflow_api::DeleteWorkflowRuleRequest) -> workflow_api::DeleteWorkflowRuleResponse;
    DescribeWorkflowRule(turned_off.describe_workflow_rule: workflow_api::DescribeWorkflowRuleRequest) -> workflow_api::DescribeWorkflowRuleResponse;
    ListWorkflowRules(turned_off.list_workflow_rules: workflow_api::ListWorkflowRulesRequest) -> workflow_api::ListWorkflowRulesResponse;
    TriggerWorkflowRule(turned_off.trigger_workflow_rule: workflow_api::TriggerWorkflowRuleRequest) -> workflow_api::TriggerWorkflowRuleResponse;
    FetchWorkerConfig(turned_off.fetch_worker_config: workflow_api::FetchWorkerConfigRequest) -> workflow_api::FetchWorkerConfigResponse;
    UpdateWorkerConfig(turned_off.update_worker_config: workflow_api::UpdateWorkerConfigRequest) -> workflow_api::UpdateWorkerConfigResponse;
    UnpauseWorkflowExecution(turned_off.unpause_workflow_execution: workflow_api::UnpauseWorkflowExecutionRequest) -> workflow_api::UnpauseWorkflowExecutionResponse;
    PauseWorkflowExecution(turned_off.pause_workflow_execution: workflow_api::PauseWorkflowExecutionRequest) -> workflow_api::PauseWorkflowExecutionResponse;
    ListArchivedWorkflowExecutions(archived.list_archived_workflow_executions: workflow_api::ListArchivedWorkflowExecutionsRequest) -> workflow_api::ListArchivedWorkflowExecutionsResponse;

    ShutdownWorker(workers.shutdown_worker: workflow_api::ShutdownWorkerRequest) -> workflow_api::ShutdownWorkerResponse;
    RecordWorkerHeartbeat(workers.record_worker_heartbeat: workflow_api::RecordWorkerHeartbeatRequest) -> workflow_api::RecordWorkerHeartbeatResponse;
    ListWorkers(workers.list_workers: workflow_api::ListWorkersRequest) -> workflow_api::ListWorkersResponse;
    CountWorkers(workers.count_workers: workflow_api::CountWorkersRequest) -> workflow_api::CountWorkersResponse;
    DescribeWorker(workers.describe_worker: workflow_api::DescribeWorkerRequest) -> workflow_api::DescribeWorkerResponse;
    PollNexusTaskQueue(nexus_tasks.poll_nexus_task_queue: workflow_api::PollNexusTaskQueueRequest) -> workflow_api::PollNexusTaskQueueResponse;
    RespondNexusTaskCompleted(nexus_tasks.respond_nexus_task_completed: workflow_api::RespondNexusTaskCompletedRequest) -> workflow_api::RespondNexusTaskCompletedResponse;
    RespondNexusTaskFailed(nexus_tasks.respond_nexus_task_failed: workflow_api::RespondNexusTaskFailedRequest) -> workflow_api::RespondNexusTaskFailedResponse;
});

service!(OperatorService for OperatorApi as OPERATOR_OPERATIONS {
    DeleteNamespace(operator.delete_namespace: operator_api::DeleteNamespaceRequest) -> operator_api::DeleteNamespaceResponse;
    AddSearchAttributes(operator.add_search_attributes: operator_api::AddSearchAttributesRequest) -> operator_api::AddSearchAttributesResponse;
    RemoveSearchAttributes(operator.remove_search_attributes: operator_api::RemoveSearchAttributesRequest) -> operator_api::RemoveSearchAttributesResponse;
    CreateNexusEndpoint(nexus_endpoints.create_nexus_endpoint: operator_api::CreateNexusEndpointRequest) -> operator_api::CreateNexusEndpointResponse;
    UpdateNexusEndpoint(nexus_endpoints.update_nexus_endpoint: operator_api::UpdateNexusEndpointRequest) -> operator_api::UpdateNexusEndpointResponse;
    DeleteNexusEndpoint(nexus_endpoints.delete_nexus_endpoint: operator_api::DeleteNexusEndpointRequest) -> operator_api::DeleteNexusEndpointResponse;
    GetNexusEndpoint(nexus_endpoints.get_nexus_endpoint: operator_api::GetNexusEndpointRequest) -> operator_api::GetNexusEndpointResponse;
    ListNexusEndpoints(nexus_endpoints.list_nexus_endpoints: operator_api::ListNexusEndpointsRequest) -> operator_api::ListNexusEndpointsResponse;
    ListClusters(system.list_clusters: operator_api::ListClustersRequest) -> operator_api::ListClustersResponse;
    ListSearchAttributes(operator.list_search_attributes: operator_api::ListSearchAttributesRequest) -> operator_api::ListSearchAttributesResponse;
});

/// The names of the methods that are served, of both services.
pub(super) fn served() -> impl Iterator<Item = &'static str> {
    WORKFLOW_OPERATIONS.iter().chain(OPERATOR_OPERATIONS).map(|(operation, _)| *operation)
}
