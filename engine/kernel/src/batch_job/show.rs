//! What clients are told of a batch job.

use everlog_proto::api::common::v1::{Execution, WorkflowExecution};
use everlog_proto::api::enums::v1::{BatchOperationState, BatchOperationType, ExecutionType};
use everlog_proto::api::workflowservice::v1::start_batch_operation_request::Operation;
use everlog_proto::api::workflowservice::v1::{DescribeBatchOperationResponse, StartBatchOperationRequest};

use super::state::{Live, Status};
use crate::Time;

impl Live {
    pub(super) fn describe(&self, id: &str) -> DescribeBatchOperationResponse {
        let (progress, request) = (&self.progress, self.request());
        let done = progress.succeeded + progress.failed;
        DescribeBatchOperationResponse {
            operation_type: self.operation_type().into(),
            job_id: id.to_owned(),
            state: self.state().into(),
            start_time: Some(Time(progress.started).to_proto()),
            close_time: progress.closed.map(|closed| Time(closed).to_proto()),
            // How many there would be was known before, how many there were is now.
            total_operation_count: if self.status() == Status::Completed { done } else { progress.total },
            complete_operation_count: progress.succeeded,
            failure_operation_count: progress.failed,
            identity: identity(request).to_owned(),
            reason: request.reason.clone(),
            query: request.visibility_query.clone(),
            executions: targets(request),
        }
    }

    fn request(&self) -> &StartBatchOperationRequest {
        static NONE: std::sync::LazyLock<StartBatchOperationRequest> =
            std::sync::LazyLock::new(StartBatchOperationRequest::default);
        self.asked.request.as_ref().unwrap_or(&NONE)
    }

    fn status(&self) -> Status {
        Status::try_from(self.progress.status).unwrap_or(Status::Unspecified)
    }

    pub(super) fn state(&self) -> BatchOperationState {
        match self.status() {
            Status::Running => BatchOperationState::Running,
            Status::Completed => BatchOperationState::Completed,
            Status::Failed | Status::Stopped | Status::Unspecified => BatchOperationState::Failed,
        }
    }

    pub(super) fn operation_type(&self) -> BatchOperationType {
        match &self.request().operation {
            None => BatchOperationType::Unspecified,
            Some(Operation::TerminationOperation(_)) => BatchOperationType::TerminateWorkflow,
            Some(Operation::SignalOperation(_)) => BatchOperationType::SignalWorkflow,
            Some(Operation::CancellationOperation(_)) => BatchOperationType::CancelWorkflow,
            Some(Operation::DeletionOperation(_)) => BatchOperationType::DeleteWorkflow,
            Some(Operation::ResetOperation(_)) => BatchOperationType::ResetWorkflow,
            Some(Operation::UpdateWorkflowOptionsOperation(_)) => BatchOperationType::UpdateWorkflowExecutionOptions,
            Some(Operation::UnpauseActivitiesOperation(_)) => BatchOperationType::UnpauseActivity,
            Some(Operation::ResetActivitiesOperation(_)) => BatchOperationType::ResetActivity,
            Some(Operation::UpdateActivityOptionsOperation(_)) => BatchOperationType::UpdateActivityOptions,
            Some(Operation::CancelActivitiesOperation(_)) => BatchOperationType::CancelActivity,
            Some(Operation::TerminateActivitiesOperation(_)) => BatchOperationType::TerminateActivity,
            Some(Operation::DeleteActivitiesOperation(_)) => BatchOperationType::DeleteActivity,
        }
    }
}

/// Who has started it, as the operation says.
fn identity(request: &StartBatchOperationRequest) -> &str {
    match &request.operation {
        None | Some(Operation::DeleteActivitiesOperation(_)) => "",
        Some(Operation::TerminationOperation(operation)) => &operation.identity,
        Some(Operation::SignalOperation(operation)) => &operation.identity,
        Some(Operation::CancellationOperation(operation)) => &operation.identity,
        Some(Operation::DeletionOperation(operation)) => &operation.identity,
        Some(Operation::ResetOperation(operation)) => &operation.identity,
        Some(Operation::UpdateWorkflowOptionsOperation(operation)) => &operation.identity,
        Some(Operation::UnpauseActivitiesOperation(operation)) => &operation.identity,
        Some(Operation::ResetActivitiesOperation(operation)) => &operation.identity,
        Some(Operation::UpdateActivityOptionsOperation(operation)) => &operation.identity,
        Some(Operation::CancelActivitiesOperation(operation)) => &operation.identity,
        Some(Operation::TerminateActivitiesOperation(operation)) => &operation.identity,
    }
}

/// The executions that were named, in whichever of the two ways.
fn targets(request: &StartBatchOperationRequest) -> Vec<Execution> {
    if !request.target_executions.is_empty() {
        return request.target_executions.clone();
    }
    #[expect(deprecated, reason = "clients name workflows like this")]
    let named = request.executions.iter();
    let target = |execution: &WorkflowExecution| Execution {
        r#type: ExecutionType::Workflow.into(),
        business_id: execution.workflow_id.clone(),
        run_id: execution.run_id.clone(),
    };
    named.map(target).collect()
}
