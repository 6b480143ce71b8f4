//! The requests that tests make, with everything that they do not care about filled in.

use everlog_proto::api::command::v1::{
    Command, CompleteWorkflowExecutionCommandAttributes, ScheduleActivityTaskCommandAttributes,
    SignalExternalWorkflowExecutionCommandAttributes, StartChildWorkflowExecutionCommandAttributes,
    command::Attributes,
};
use everlog_proto::api::common::v1::{ActivityType, WorkflowType};
use everlog_proto::api::enums::v1::{CommandType, ParentClosePolicy};
use everlog_proto::api::workflowservice::v1::{
    DescribeWorkflowExecutionRequest, GetWorkflowExecutionHistoryRequest, GetWorkflowExecutionHistoryResponse,
    ListWorkflowExecutionsRequest, PollActivityTaskQueueRequest, PollWorkflowTaskQueueRequest,
    RespondActivityTaskCompletedRequest, RespondWorkflowTaskCompletedRequest, SignalWorkflowExecutionRequest,
    TerminateWorkflowExecutionRequest,
};
use everlog_proto::wkt;

use super::{execution, payloads, task_queue};

/// The namespace of every request here.
pub(crate) const NAMESPACE: &str = "default";

pub(crate) fn seconds(seconds: i64) -> Option<wkt::Duration> {
    Some(wkt::Duration { seconds, nanos: 0 })
}

pub(crate) fn complete(result: &str) -> Command {
    Command {
        command_type: CommandType::CompleteWorkflowExecution as i32,
        attributes: Some(Attributes::CompleteWorkflowExecutionCommandAttributes(
            CompleteWorkflowExecutionCommandAttributes { result: payloads(result) },
        )),
        ..Command::default()
    }
}

/// Schedules an activity on the task queue that workflows are started on.
pub(crate) fn schedule_activity(activity_id: &str) -> Command {
    Command {
        command_type: CommandType::ScheduleActivityTask as i32,
        attributes: Some(Attributes::ScheduleActivityTaskCommandAttributes(ScheduleActivityTaskCommandAttributes {
            activity_id: activity_id.to_owned(),
            activity_type: Some(ActivityType { name: "activity".to_owned() }),
            task_queue: task_queue("queue"),
            input: payloads("in"),
            start_to_close_timeout: seconds(60),
            ..ScheduleActivityTaskCommandAttributes::default()
        })),
        ..Command::default()
    }
}

pub(crate) fn signal_external(workflow_id: &str, signal_name: &str) -> Command {
    Command {
        command_type: CommandType::SignalExternalWorkflowExecution as i32,
        attributes: Some(Attributes::SignalExternalWorkflowExecutionCommandAttributes(
            SignalExternalWorkflowExecutionCommandAttributes {
                execution: execution(workflow_id),
                signal_name: signal_name.to_owned(),
                ..SignalExternalWorkflowExecutionCommandAttributes::default()
            },
        )),
        ..Command::default()
    }
}

/// Starts a child on a task queue.
pub(crate) fn start_child(workflow_id: &str, queue: &str, policy: ParentClosePolicy) -> Command {
    Command {
        command_type: CommandType::StartChildWorkflowExecution as i32,
        attributes: Some(Attributes::StartChildWorkflowExecutionCommandAttributes(
            StartChildWorkflowExecutionCommandAttributes {
                workflow_id: workflow_id.to_owned(),
                workflow_type: Some(WorkflowType { name: "child".to_owned() }),
                task_queue: task_queue(queue),
                input: payloads("in"),
                parent_close_policy: policy.into(),
                ..StartChildWorkflowExecutionCommandAttributes::default()
            },
        )),
        ..Command::default()
    }
}

pub(crate) fn poll_workflow(queue: &str) -> PollWorkflowTaskQueueRequest {
    PollWorkflowTaskQueueRequest {
        namespace: NAMESPACE.to_owned(),
        task_queue: task_queue(queue),
        identity: "worker".to_owned(),
        ..PollWorkflowTaskQueueRequest::default()
    }
}

pub(crate) fn poll_activity(queue: &str) -> PollActivityTaskQueueRequest {
    PollActivityTaskQueueRequest {
        namespace: NAMESPACE.to_owned(),
        task_queue: task_queue(queue),
        identity: "worker".to_owned(),
        ..PollActivityTaskQueueRequest::default()
    }
}

pub(crate) fn respond(task_token: Vec<u8>, commands: Vec<Command>) -> RespondWorkflowTaskCompletedRequest {
    RespondWorkflowTaskCompletedRequest {
        namespace: NAMESPACE.to_owned(),
        task_token,
        commands,
        identity: "worker".to_owned(),
        ..RespondWorkflowTaskCompletedRequest::default()
    }
}

pub(crate) fn activity_done(task_token: Vec<u8>) -> RespondActivityTaskCompletedRequest {
    RespondActivityTaskCompletedRequest {
        namespace: NAMESPACE.to_owned(),
        task_token,
        result: payloads("out"),
        identity: "worker".to_owned(),
        ..RespondActivityTaskCompletedRequest::default()
    }
}

pub(crate) fn signal(workflow_id: &str, request_id: &str) -> SignalWorkflowExecutionRequest {
    SignalWorkflowExecutionRequest {
        namespace: NAMESPACE.to_owned(),
        workflow_execution: execution(workflow_id),
        signal_name: "signal".to_owned(),
        request_id: request_id.to_owned(),
        ..SignalWorkflowExecutionRequest::default()
    }
}

pub(crate) fn terminate(workflow_id: &str) -> TerminateWorkflowExecutionRequest {
    TerminateWorkflowExecutionRequest {
        namespace: NAMESPACE.to_owned(),
        workflow_execution: execution(workflow_id),
        ..TerminateWorkflowExecutionRequest::default()
    }
}

pub(crate) fn describe(workflow_id: &str) -> DescribeWorkflowExecutionRequest {
    DescribeWorkflowExecutionRequest { namespace: NAMESPACE.to_owned(), execution: execution(workflow_id) }
}

pub(crate) fn list(query: &str) -> ListWorkflowExecutionsRequest {
    ListWorkflowExecutionsRequest {
        namespace: NAMESPACE.to_owned(),
        query: query.to_owned(),
        ..ListWorkflowExecutionsRequest::default()
    }
}

pub(crate) fn history(workflow_id: &str, next_page_token: Vec<u8>) -> GetWorkflowExecutionHistoryRequest {
    GetWorkflowExecutionHistoryRequest {
        namespace: NAMESPACE.to_owned(),
        execution: execution(workflow_id),
        next_page_token,
        ..GetWorkflowExecutionHistoryRequest::default()
    }
}

pub(crate) fn event_ids(response: &GetWorkflowExecutionHistoryResponse) -> Vec<i64> {
    response.history.as_ref().unwrap().events.iter().map(|event| event.event_id).collect()
}
