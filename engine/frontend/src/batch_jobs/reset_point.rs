//! Where a batch job resets a run to: found in its history, or among the points that its workers have left.

use std::time::SystemTime;

use everlog_proto::api::batch::v1::BatchOperationReset;
use everlog_proto::api::common::v1::WorkflowExecution;
use everlog_proto::api::common::v1::reset_options::Target;
use everlog_proto::api::enums::v1::{EventType, ResetType};
use everlog_proto::api::history::v1::HistoryEvent;
use everlog_proto::api::workflowservice::v1::{
    DescribeWorkflowExecutionRequest, DescribeWorkflowExecutionResponse, GetWorkflowExecutionHistoryRequest,
    GetWorkflowExecutionHistoryResponse, GetWorkflowExecutionHistoryReverseRequest,
    GetWorkflowExecutionHistoryReverseResponse,
};
use everlog_proto::wkt::Timestamp;
use tonic::Status;

use super::calls::Calls;

/// Events that are asked for at a time; there may be less.
const PAGE_EVENTS: i32 = 1000;

/// The event to reset a run to. A point that an earlier run of the workflow has left is reached by `execution`, which names that run then.
pub(super) async fn event_id(
    calls: &Calls,
    namespace: &str,
    reset: &BatchOperationReset,
    execution: &mut WorkflowExecution,
) -> Result<i64, Status> {
    #[expect(deprecated, reason = "clients that do not know the options name a type")]
    let named = ResetType::try_from(reset.reset_type);
    let current_run_only = reset.options.as_ref().is_some_and(|options| options.current_run_only);
    let target = match &reset.options {
        Some(options) => options.target.clone(),
        None => match named {
            Ok(ResetType::FirstWorkflowTask) => Some(Target::FirstWorkflowTask(())),
            Ok(ResetType::LastWorkflowTask) => Some(Target::LastWorkflowTask(())),
            Ok(ResetType::Unspecified) | Err(_) => None,
        },
    };
    match target {
        Some(Target::FirstWorkflowTask(())) => first_workflow_task(calls, namespace, execution).await,
        Some(Target::LastWorkflowTask(())) => last_workflow_task(calls, namespace, execution).await,
        Some(Target::WorkflowTaskId(event_id)) => Ok(event_id),
        Some(Target::BuildId(build_id)) => of_build(calls, namespace, execution, &build_id, current_run_only).await,
        None => Err(Status::invalid_argument("provided reset target is not supported.")),
    }
}

/// The completion of the first workflow task; of a run that has none, behind the first scheduling.
async fn first_workflow_task(calls: &Calls, namespace: &str, execution: &WorkflowExecution) -> Result<i64, Status> {
    let mut request = GetWorkflowExecutionHistoryRequest {
        namespace: namespace.to_owned(),
        execution: Some(execution.clone()),
        maximum_page_size: PAGE_EVENTS,
        ..GetWorkflowExecutionHistoryRequest::default()
    };
    let mut scheduled = None;
    loop {
        let page: GetWorkflowExecutionHistoryResponse = calls.ask("GetWorkflowExecutionHistory", &request).await?;
        let events = page.history.unwrap_or_default().events;
        if let Some(completed) = events.iter().find(|event| is(event, EventType::WorkflowTaskCompleted)) {
            return Ok(completed.event_id);
        }
        scheduled = scheduled.or_else(|| events.iter().find(is_scheduled).map(behind));
        if page.next_page_token.is_empty() {
            return scheduled.ok_or_else(no_workflow_task);
        }
        request.next_page_token = page.next_page_token;
    }
}

/// The completion of the last workflow task; of a run that has none, behind the first scheduling.
async fn last_workflow_task(calls: &Calls, namespace: &str, execution: &WorkflowExecution) -> Result<i64, Status> {
    let mut request = GetWorkflowExecutionHistoryReverseRequest {
        namespace: namespace.to_owned(),
        execution: Some(execution.clone()),
        maximum_page_size: PAGE_EVENTS,
        ..GetWorkflowExecutionHistoryReverseRequest::default()
    };
    let mut scheduled = None;
    loop {
        let page: GetWorkflowExecutionHistoryReverseResponse =
            calls.ask("GetWorkflowExecutionHistoryReverse", &request).await?;
        let events = page.history.unwrap_or_default().events;
        if let Some(completed) = events.iter().find(|event| is(event, EventType::WorkflowTaskCompleted)) {
            return Ok(completed.event_id);
        }
        scheduled = events.iter().rev().find(is_scheduled).map(behind).or(scheduled);
        if page.next_page_token.is_empty() {
            return scheduled.ok_or_else(no_workflow_task);
        }
        request.next_page_token = page.next_page_token;
    }
}

/// Where workers of a build began.
async fn of_build(
    calls: &Calls,
    namespace: &str,
    execution: &mut WorkflowExecution,
    build_id: &str,
    current_run_only: bool,
) -> Result<i64, Status> {
    let request =
        DescribeWorkflowExecutionRequest { namespace: namespace.to_owned(), execution: Some(execution.clone()) };
    let described: DescribeWorkflowExecutionResponse = calls.ask("DescribeWorkflowExecution", &request).await?;
    let points = described.workflow_execution_info.and_then(|info| info.auto_reset_points).unwrap_or_default().points;
    let refused = |why: String| Err(Status::failed_precondition(why));
    let Some(point) = points.into_iter().find(|point| point.build_id == build_id) else {
        return refused(format!("Can't find reset point for {build_id}"));
    };
    if !point.resettable {
        return refused(format!("Reset point for {build_id} is not resettable"));
    }
    if point.expire_time.is_some_and(|expires| is_past(&expires)) {
        return refused(format!("Reset point for {build_id} is expired"));
    }
    if execution.run_id != point.run_id && current_run_only {
        return refused(format!("Reset point for {build_id} points to previous run and CurrentRunOnly is set"));
    }
    execution.run_id = point.run_id;
    Ok(point.first_workflow_task_completed_id)
}

fn is(event: &HistoryEvent, wanted: EventType) -> bool {
    event.event_type() == wanted
}

fn is_scheduled(event: &&HistoryEvent) -> bool {
    is(event, EventType::WorkflowTaskScheduled)
}

fn behind(event: &HistoryEvent) -> i64 {
    event.event_id + 1
}

fn no_workflow_task() -> Status {
    Status::failed_precondition("unable to find any scheduled or completed task")
}

fn is_past(time: &Timestamp) -> bool {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    (time.seconds, time.nanos.cast_unsigned()) < (now.as_secs().cast_signed(), now.subsec_nanos())
}
