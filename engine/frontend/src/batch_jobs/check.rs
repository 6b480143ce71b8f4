//! What a batch job may be asked for, as far as the request alone says it. Texts and order are Temporal's.

use everlog_config::DynamicConfig;
use everlog_proto::api::batch::v1::{
    BatchOperationReset, batch_operation_reset_activities, batch_operation_unpause_activities,
    batch_operation_update_activity_options,
};
use everlog_proto::api::enums::v1::{ExecutionType, ResetType};
use everlog_proto::api::workflowservice::v1::StartBatchOperationRequest;
use everlog_proto::api::workflowservice::v1::start_batch_operation_request::Operation;
use everlog_visibility as visibility;

use super::super::errors::Error;
use super::super::reset::check_operations;
use super::NO_JOB_ID;

const NO_ACTIVITY: &str = "Either activity type must be set, or match all should be set to true";

/// Refuses a request that no job can be made of.
pub(super) fn request(request: &StartBatchOperationRequest, config: &DynamicConfig) -> Result<(), Error> {
    let serves_activities = config.frontend.activities && config.frontend.activity_batch_jobs;
    let of_activities = request.operation.as_ref().filter(|operation| is_of_activities(operation));
    if let Some(operation) = of_activities.filter(|_| !serves_activities) {
        let message = format!("The operation type {} is not supported for this namespace", type_name(operation));
        return Err(Error::invalid(message));
    }
    let targets = targets(request);
    let Some(operation) = request.operation.as_ref().filter(|_| !request.reason.is_empty() && targets > 0) else {
        return Err(Error::invalid(
            "must provide required parameters: BatchType,Reason,Namespace, AND one of (Query OR Executions OR \
             TargetExecutions)",
        ));
    };
    if request.job_id.is_empty() {
        return Err(Error::invalid(NO_JOB_ID));
    }
    if targets > 1 {
        return Err(Error::invalid("visibility query, executions, and target executions are mutually exclusive"));
    }
    for (number, target) in request.target_executions.iter().enumerate() {
        let required = if of_activities.is_some() { ExecutionType::Activity } else { ExecutionType::Workflow };
        if target.r#type() != required {
            return Err(Error::invalid(format!(
                "target_executions[{number}] has type {}, but operation {} requires {}",
                execution_type(target.r#type),
                type_name(operation),
                execution_type(required.into())
            )));
        }
    }
    check_operation(operation)?;
    if let Some(problem) = visibility::malformed_condition(&request.visibility_query) {
        return Err(Error::invalid(format!("invalid visibility query: {problem}")));
    }
    Ok(())
}

/// In how many ways the request says what the operation is for.
fn targets(request: &StartBatchOperationRequest) -> usize {
    #[expect(deprecated, reason = "clients name workflows like this")]
    let named = request.executions.is_empty();
    [request.visibility_query.is_empty(), named, request.target_executions.is_empty()]
        .into_iter()
        .filter(|is_empty| !is_empty)
        .count()
}

fn check_operation(operation: &Operation) -> Result<(), Error> {
    let or = |is_fine: bool, message: &'static str| if is_fine { Ok(()) } else { Err(Error::invalid(message)) };
    match operation {
        Operation::TerminationOperation(_)
        | Operation::CancellationOperation(_)
        | Operation::DeletionOperation(_)
        | Operation::CancelActivitiesOperation(_)
        | Operation::TerminateActivitiesOperation(_)
        | Operation::DeleteActivitiesOperation(_) => {}
        Operation::SignalOperation(signal) => or(!signal.signal.is_empty(), "must provide signal name")?,
        Operation::ResetOperation(reset) => check_reset(reset)?,
        Operation::UpdateWorkflowOptionsOperation(update) => {
            or(update.workflow_execution_options.is_some(), "must provide UpdateOptions")?;
            or(update.update_mask.is_some(), "must provide UpdateMask")?;
        }
        Operation::UnpauseActivitiesOperation(unpause) => {
            use batch_operation_unpause_activities::Activity;
            match &unpause.activity {
                None => or(false, "activity filter must be set")?,
                Some(Activity::Type(name)) => or(!name.is_empty(), NO_ACTIVITY)?,
                Some(Activity::MatchAll(all)) => or(*all, NO_ACTIVITY)?,
            }
        }
        Operation::ResetActivitiesOperation(reset) => {
            use batch_operation_reset_activities::Activity;
            match &reset.activity {
                None => or(false, "must provide ActivityType or MatchAll")?,
                Some(Activity::Type(name)) => or(!name.is_empty(), NO_ACTIVITY)?,
                Some(Activity::MatchAll(all)) => or(*all, NO_ACTIVITY)?,
            }
        }
        Operation::UpdateActivityOptionsOperation(update) => {
            use batch_operation_update_activity_options::Activity;
            let has_options = update.activity_options.is_some();
            or(!(has_options && update.restore_original), "cannot set both activity options and restore original")?;
            or(
                has_options || update.restore_original,
                "Either activity type must be set, or restore original should be set to true",
            )?;
            match &update.activity {
                None => {}
                Some(Activity::Type(name)) => or(!name.is_empty(), NO_ACTIVITY)?,
                Some(Activity::MatchAll(all)) => or(*all, NO_ACTIVITY)?,
            }
        }
    }
    Ok(())
}

fn check_reset(reset: &BatchOperationReset) -> Result<(), Error> {
    match &reset.options {
        Some(options) if options.target.is_none() => return Err(Error::invalid("batch reset missing target")),
        Some(_) => {}
        None => {
            #[expect(deprecated, reason = "clients that do not know the options name a type")]
            let named = reset.reset_type;
            match ResetType::try_from(named) {
                Ok(ResetType::Unspecified) => {
                    return Err(Error::invalid("unknown batch reset type Unspecified"));
                }
                Ok(_) => {}
                Err(_) => return Err(Error::invalid(format!("unknown batch reset type {named}"))),
            }
        }
    }
    check_operations(&reset.post_reset_operations)
}

/// Whether an operation is for activities that are no workflow's.
pub(super) fn is_of_activities(operation: &Operation) -> bool {
    matches!(
        operation,
        Operation::CancelActivitiesOperation(_)
            | Operation::TerminateActivitiesOperation(_)
            | Operation::DeleteActivitiesOperation(_)
    )
}

/// What Temporal's messages call an operation.
fn type_name(operation: &Operation) -> String {
    let name = match operation {
        Operation::TerminationOperation(_) => "TerminationOperation",
        Operation::SignalOperation(_) => "SignalOperation",
        Operation::CancellationOperation(_) => "CancellationOperation",
        Operation::DeletionOperation(_) => "DeletionOperation",
        Operation::ResetOperation(_) => "ResetOperation",
        Operation::UpdateWorkflowOptionsOperation(_) => "UpdateWorkflowOptionsOperation",
        Operation::UnpauseActivitiesOperation(_) => "UnpauseActivitiesOperation",
        Operation::ResetActivitiesOperation(_) => "ResetActivitiesOperation",
        Operation::UpdateActivityOptionsOperation(_) => "UpdateActivityOptionsOperation",
        Operation::CancelActivitiesOperation(_) => "CancelActivitiesOperation",
        Operation::TerminateActivitiesOperation(_) => "TerminateActivitiesOperation",
        Operation::DeleteActivitiesOperation(_) => "DeleteActivitiesOperation",
    };
    format!("*workflowservice.StartBatchOperationRequest_{name}")
}

fn execution_type(number: i32) -> String {
    match ExecutionType::try_from(number) {
        Ok(ExecutionType::Unspecified) => "Unspecified".to_owned(),
        Ok(ExecutionType::Workflow) => "Workflow".to_owned(),
        Ok(ExecutionType::Activity) => "Activity".to_owned(),
        Ok(ExecutionType::NexusOperation) => "NexusOperation".to_owned(),
        Err(_) => number.to_string(),
    }
}
