//! Whether a workflow can be started by a schedule. Texts and order are Temporal's.

use everlog_proto::api::enums::v1::WorkflowIdReusePolicy;
use everlog_proto::api::workflow::v1::NewWorkflowExecutionInfo;
use everlog_proto::api::workflowservice::v1::StartWorkflowExecutionRequest;

use crate::valid_start::{ValidStart, check_names};
use crate::{Limits, Rejection, retry};

/// Stands behind the id of each workflow that is started.
const TIME: &str = "-2009-11-10T23:00:00Z";

/// Looks at a workflow that is to be started.
///
/// # Errors
///
/// What is wrong with it, or what of it is not supported.
pub fn check_action(start: &NewWorkflowExecutionInfo, limits: &Limits) -> Result<(), Rejection> {
    let request = StartWorkflowExecutionRequest {
        workflow_id: format!("{}{TIME}", start.workflow_id),
        workflow_type: start.workflow_type.clone(),
        task_queue: start.task_queue.clone(),
        input: start.input.clone(),
        workflow_execution_timeout: start.workflow_execution_timeout,
        workflow_run_timeout: start.workflow_run_timeout,
        workflow_task_timeout: start.workflow_task_timeout,
        // With what it leaves to defaults.
        retry_policy: start.retry_policy.clone().map(retry::with_defaults),
        memo: start.memo.clone(),
        header: start.header.clone(),
        priority: start.priority.clone(),
        user_metadata: start.user_metadata.clone(),
        versioning_override: start.versioning_override.clone(),
        ..StartWorkflowExecutionRequest::default()
    };
    check_names(&request, limits)?;
    if !start.cron_schedule.is_empty() {
        return Err(Rejection::invalid("Scheduled workflow must not contain CronSchedule"));
    }
    let allowed = [WorkflowIdReusePolicy::Unspecified, WorkflowIdReusePolicy::AllowDuplicate];
    if !allowed.contains(&start.workflow_id_reuse_policy()) {
        return Err(Rejection::invalid("Scheduled workflow must not contain WorkflowIDReusePolicy"));
    }
    // Whatever would have each start fail.
    ValidStart::new(request, limits).map(|_| ())
}
