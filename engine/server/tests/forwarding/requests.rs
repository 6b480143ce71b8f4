//! Requests of the harness, in the namespace that both nodes have.

use std::time::Duration;

use everlog_proto::api::command::v1::{Command, command::Attributes};
use everlog_proto::api::enums::v1::{EventType, TaskQueueKind};
use everlog_proto::api::history::v1::HistoryEvent;
use everlog_proto::api::taskqueue::v1::TaskQueue;
use everlog_proto::api::workflowservice::v1::{
    DescribeWorkflowExecutionRequest, GetWorkflowExecutionHistoryRequest, PollActivityTaskQueueRequest,
    PollActivityTaskQueueResponse, PollWorkflowTaskQueueRequest, PollWorkflowTaskQueueResponse,
    RespondActivityTaskCompletedRequest, RespondWorkflowTaskCompletedRequest, SignalWorkflowExecutionRequest,
    StartWorkflowExecutionRequest, TerminateWorkflowExecutionRequest,
};

use super::cluster::NAMESPACE;
use super::harness::{Client, execution, requests, start_request, task_queue, within};

/// How long something may take that should come at once.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

fn namespace() -> String {
    NAMESPACE.to_owned()
}

pub(crate) fn start(workflow_id: &str) -> StartWorkflowExecutionRequest {
    StartWorkflowExecutionRequest { namespace: namespace(), ..start_request(workflow_id) }
}

pub(crate) fn start_on(workflow_id: &str, queue: &str) -> StartWorkflowExecutionRequest {
    StartWorkflowExecutionRequest { task_queue: task_queue(queue), ..start(workflow_id) }
}

pub(crate) fn describe(workflow_id: &str) -> DescribeWorkflowExecutionRequest {
    DescribeWorkflowExecutionRequest { namespace: namespace(), execution: execution(workflow_id) }
}

pub(crate) fn signal(workflow_id: &str, request_id: &str) -> SignalWorkflowExecutionRequest {
    SignalWorkflowExecutionRequest { namespace: namespace(), ..requests::signal(workflow_id, request_id) }
}

pub(crate) fn terminate(workflow_id: &str) -> TerminateWorkflowExecutionRequest {
    TerminateWorkflowExecutionRequest { namespace: namespace(), ..requests::terminate(workflow_id) }
}

pub(crate) fn respond(task_token: Vec<u8>, commands: Vec<Command>) -> RespondWorkflowTaskCompletedRequest {
    RespondWorkflowTaskCompletedRequest { namespace: namespace(), ..requests::respond(task_token, commands) }
}

pub(crate) fn activity_done(task_token: Vec<u8>) -> RespondActivityTaskCompletedRequest {
    RespondActivityTaskCompletedRequest { namespace: namespace(), ..requests::activity_done(task_token) }
}

/// Schedules an activity on a queue.
pub(crate) fn schedule_activity(queue: &str) -> Command {
    let mut command = requests::schedule_activity("activity");
    if let Some(Attributes::ScheduleActivityTaskCommandAttributes(attributes)) = &mut command.attributes {
        attributes.task_queue = task_queue(queue);
    }
    command
}

pub(crate) fn workflow_poll(queue: &str) -> PollWorkflowTaskQueueRequest {
    PollWorkflowTaskQueueRequest { namespace: namespace(), ..requests::poll_workflow(queue) }
}

pub(crate) fn sticky_queue(name: &str, normal: &str) -> Option<TaskQueue> {
    Some(TaskQueue { name: name.to_owned(), kind: TaskQueueKind::Sticky as i32, normal_name: normal.to_owned() })
}

/// Polls until there is something.
pub(crate) async fn poll(client: &mut Client, request: PollWorkflowTaskQueueRequest) -> PollWorkflowTaskQueueResponse {
    let polled = async {
        loop {
            let response = client.poll_workflow_task_queue(within(PATIENCE, request.clone())).await.unwrap();
            let response = response.into_inner();
            if !response.task_token.is_empty() {
                return response;
            }
        }
    };
    tokio::time::timeout(PATIENCE, polled).await.expect("there is a task")
}

/// Polls for an activity until there is one.
pub(crate) async fn poll_activity(client: &mut Client, queue: &str) -> PollActivityTaskQueueResponse {
    let request = PollActivityTaskQueueRequest { namespace: namespace(), ..requests::poll_activity(queue) };
    let polled = async {
        loop {
            let response = client.poll_activity_task_queue(within(PATIENCE, request.clone())).await.unwrap();
            let response = response.into_inner();
            if !response.task_token.is_empty() {
                return response;
            }
        }
    };
    tokio::time::timeout(PATIENCE, polled).await.expect("there is an activity")
}

pub(crate) fn id_of(task: &PollWorkflowTaskQueueResponse) -> &str {
    &task.workflow_execution.as_ref().unwrap().workflow_id
}

/// All events of a workflow.
pub(crate) async fn events(client: &mut Client, workflow_id: &str) -> Vec<HistoryEvent> {
    let request = GetWorkflowExecutionHistoryRequest {
        namespace: namespace(),
        execution: execution(workflow_id),
        ..GetWorkflowExecutionHistoryRequest::default()
    };
    let response = client.get_workflow_execution_history(request).await.unwrap().into_inner();
    response.history.unwrap().events
}

/// How many events of a kind a workflow has.
pub(crate) async fn count_events(client: &mut Client, workflow_id: &str, kind: EventType) -> usize {
    events(client, workflow_id).await.iter().filter(|event| event.event_type() == kind).count()
}

/// Waits until a workflow has an event of a kind.
pub(crate) async fn wait_for_event(client: &mut Client, workflow_id: &str, kind: EventType) {
    let waited = async {
        while count_events(client, workflow_id, kind).await == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waited).await.expect("the event comes");
}
