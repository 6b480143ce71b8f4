//! What a batch job does to one workflow: the call that a client would make, with an id that follows from the job's, so that it is known
//! again when it is repeated.

use everlog_kernel::RunId;
use everlog_kernel::batch_job::Work;
use everlog_proto::api::batch::v1::{
    BatchOperationReset, batch_operation_reset_activities, batch_operation_unpause_activities,
    batch_operation_update_activity_options,
};
use everlog_proto::api::common::v1::WorkflowExecution;
use everlog_proto::api::workflowservice::v1::start_batch_operation_request::Operation;
use everlog_proto::api::workflowservice::v1::{
    DeleteActivityExecutionRequest, DeleteWorkflowExecutionRequest, RequestCancelActivityExecutionRequest,
    RequestCancelWorkflowExecutionRequest, ResetActivityRequest, ResetWorkflowExecutionRequest,
    SignalWorkflowExecutionRequest, TerminateActivityExecutionRequest, TerminateWorkflowExecutionRequest,
    UnpauseActivityRequest, UpdateActivityOptionsRequest, UpdateWorkflowExecutionOptionsRequest,
    reset_activity_request, unpause_activity_request, update_activity_options_request,
};
use tonic::{Code, Status};

use super::calls::Calls;
use super::reset_point;

/// Does it. A workflow that is not there, or not any more, is as good as one to which it was done.
pub(super) async fn carry_out(
    calls: &Calls,
    namespace: &str,
    work: &Work,
    execution: &WorkflowExecution,
) -> Result<(), Status> {
    match call(calls, namespace.to_owned(), work, execution).await {
        Err(status) if status.code() == Code::NotFound => Ok(()),
        done => done,
    }
}

/// Whether the same call would fail the same way again. Temporal tries it 50 times all the same, with the same end.
pub(super) fn is_final(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::InvalidArgument
            | Code::FailedPrecondition
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::OutOfRange
            | Code::Unimplemented
    )
}

async fn call(calls: &Calls, namespace: String, work: &Work, execution: &WorkflowExecution) -> Result<(), Status> {
    let request_id = request_id(work.run_id, execution);
    let reason = work.request.reason.clone();
    let workflow_execution = Some(execution.clone());
    match &work.request.operation {
        Some(Operation::TerminationOperation(terminate)) => {
            let request = TerminateWorkflowExecutionRequest {
                namespace,
                workflow_execution,
                reason,
                details: terminate.details.clone(),
                identity: terminate.identity.clone(),
                ..TerminateWorkflowExecutionRequest::default()
            };
            calls.make("TerminateWorkflowExecution", &request).await
        }
        Some(Operation::SignalOperation(signal)) => {
            let request = SignalWorkflowExecutionRequest {
                namespace,
                workflow_execution,
                signal_name: signal.signal.clone(),
                input: signal.input.clone(),
                header: signal.header.clone(),
                identity: signal.identity.clone(),
                request_id,
                ..SignalWorkflowExecutionRequest::default()
            };
            calls.make("SignalWorkflowExecution", &request).await
        }
        Some(Operation::CancellationOperation(cancel)) => {
            let request = RequestCancelWorkflowExecutionRequest {
                namespace,
                workflow_execution,
                identity: cancel.identity.clone(),
                request_id,
                ..RequestCancelWorkflowExecutionRequest::default()
            };
            calls.make("RequestCancelWorkflowExecution", &request).await
        }
        Some(Operation::DeletionOperation(_)) => {
            let request = DeleteWorkflowExecutionRequest { namespace, workflow_execution };
            calls.make("DeleteWorkflowExecution", &request).await
        }
        Some(Operation::ResetOperation(reset)) => {
            let mut execution = execution.clone();
            let event_id = reset_point::event_id(calls, &namespace, reset, &mut execution).await?;
            let request = ResetWorkflowExecutionRequest {
                namespace,
                workflow_execution: Some(execution),
                reason,
                request_id,
                workflow_task_finish_event_id: event_id,
                post_reset_operations: reset.post_reset_operations.clone(),
                identity: reset.identity.clone(),
                ..reapplied(reset)
            };
            calls.make("ResetWorkflowExecution", &request).await
        }
        Some(Operation::UpdateWorkflowOptionsOperation(update)) => {
            let request = UpdateWorkflowExecutionOptionsRequest {
                namespace,
                workflow_execution,
                workflow_execution_options: update.workflow_execution_options.clone(),
                update_mask: update.update_mask.clone(),
                identity: update.identity.clone(),
            };
            calls.make("UpdateWorkflowExecutionOptions", &request).await
        }
        Some(Operation::UnpauseActivitiesOperation(unpause)) => {
            use batch_operation_unpause_activities::Activity;
            use unpause_activity_request::Activity as Named;
            let request = UnpauseActivityRequest {
                namespace,
                execution: workflow_execution,
                activity: unpause.activity.clone().map(|which| match which {
                    Activity::Type(name) => Named::Type(name),
                    Activity::MatchAll(all) => Named::UnpauseAll(all),
                }),
                reset_attempts: unpause.reset_attempts,
                reset_heartbeat: unpause.reset_heartbeat,
                jitter: unpause.jitter,
                ..UnpauseActivityRequest::default()
            };
            calls.make("UnpauseActivity", &request).await
        }
        Some(Operation::ResetActivitiesOperation(reset)) => {
            use batch_operation_reset_activities::Activity;
            use reset_activity_request::Activity as Named;
            let request = ResetActivityRequest {
                namespace,
                execution: workflow_execution,
                activity: reset.activity.clone().map(|which| match which {
                    Activity::Type(name) => Named::Type(name),
                    Activity::MatchAll(all) => Named::MatchAll(all),
                }),
                reset_heartbeat: reset.reset_heartbeat,
                keep_paused: reset.keep_paused,
                jitter: reset.jitter,
                restore_original_options: reset.restore_original_options,
                ..ResetActivityRequest::default()
            };
            calls.make("ResetActivity", &request).await
        }
        Some(Operation::UpdateActivityOptionsOperation(update)) => {
            use batch_operation_update_activity_options::Activity;
            use update_activity_options_request::Activity as Named;
            let request = UpdateActivityOptionsRequest {
                namespace,
                execution: workflow_execution,
                activity: update.activity.clone().map(|which| match which {
                    Activity::Type(name) => Named::Type(name),
                    Activity::MatchAll(all) => Named::MatchAll(all),
                }),
                activity_options: update.activity_options.clone(),
                update_mask: update.update_mask.clone(),
                restore_original: update.restore_original,
                ..UpdateActivityOptionsRequest::default()
            };
            calls.make("UpdateActivityOptions", &request).await
        }
        Some(Operation::CancelActivitiesOperation(cancel)) => {
            let request = RequestCancelActivityExecutionRequest {
                namespace,
                activity_id: execution.workflow_id.clone(),
                run_id: execution.run_id.clone(),
                identity: cancel.identity.clone(),
                request_id,
                reason: cancel.reason.clone(),
            };
            calls.make("RequestCancelActivityExecution", &request).await
        }
        Some(Operation::TerminateActivitiesOperation(terminate)) => {
            let request = TerminateActivityExecutionRequest {
                namespace,
                activity_id: execution.workflow_id.clone(),
                run_id: execution.run_id.clone(),
                identity: terminate.identity.clone(),
                request_id,
                reason: terminate.reason.clone(),
            };
            calls.make("TerminateActivityExecution", &request).await
        }
        Some(Operation::DeleteActivitiesOperation(_)) => {
            let request = DeleteActivityExecutionRequest {
                namespace,
                activity_id: execution.workflow_id.clone(),
                run_id: execution.run_id.clone(),
            };
            calls.make("DeleteActivityExecution", &request).await
        }
        None => Err(Status::unimplemented("this server does not know the operation of the batch job")),
    }
}

/// A reset that says what is to be reapplied, as the job says it.
#[expect(deprecated, reason = "clients that do not know the options, or what they leave out, say it so")]
fn reapplied(reset: &BatchOperationReset) -> ResetWorkflowExecutionRequest {
    match &reset.options {
        Some(options) => ResetWorkflowExecutionRequest {
            reset_reapply_type: options.reset_reapply_type,
            reset_reapply_exclude_types: options.reset_reapply_exclude_types.clone(),
            ..ResetWorkflowExecutionRequest::default()
        },
        None => ResetWorkflowExecutionRequest {
            reset_reapply_type: reset.reset_reapply_type,
            ..ResetWorkflowExecutionRequest::default()
        },
    }
}

/// Names what a job does to a run, always the same. Workflows remember ids of requests each for themselves, so only the ids of their own
/// runs have to be told apart.
fn request_id(job: RunId, execution: &WorkflowExecution) -> String {
    let run_id: RunId = execution.run_id.parse().unwrap_or_default();
    RunId::from(u128::from(job) ^ u128::from(run_id).rotate_left(64)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_repeated_has_the_same_id() {
        let [one, two] = [1_u128, 2].map(RunId::from);
        let of = |run_id: String| WorkflowExecution { workflow_id: "w".to_owned(), run_id };
        let id = |job, run_id: RunId| request_id(job, &of(run_id.to_string()));
        assert_eq!(id(one, two), id(one, two));
        assert_ne!(id(one, two), id(two, two), "another job is another request");
        assert_ne!(id(one, one), id(one, two), "as is another run");
        assert_eq!(request_id(one, &of(String::new())), one.to_string());
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        for code in [Code::Unavailable, Code::ResourceExhausted, Code::DeadlineExceeded, Code::Aborted, Code::Internal]
        {
            assert!(!is_final(&Status::new(code, "")), "{code:?}");
        }
        for code in [Code::InvalidArgument, Code::FailedPrecondition, Code::Unimplemented] {
            assert!(is_final(&Status::new(code, "")), "{code:?}");
        }
    }
}
