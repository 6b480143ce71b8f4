//! What a call is about, found in its encoded request: a workflow, or a task queue.
//!
//! Fields are picked out of the bytes by their numbers (protobuf's wire format), since the request is decoded by whoever answers it.

use everlog_kernel::NamespaceId;
use everlog_kernel::token::{self, ActivityTaskToken, NexusTaskToken, QueryTaskToken, WorkflowTaskToken};
use everlog_kernel::transition::TaskKind;
use everlog_matching::nexus::NexusQueue;
use everlog_model::QueueId;
use everlog_proto::api::enums::v1::{TaskQueueKind, TaskQueueType};
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

/// What a call is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Location<'a> {
    /// A workflow or another entity with an id, by the name of its namespace.
    Workflow { namespace: &'a str, workflow_id: &'a str },
    /// A workflow that a token names.
    Token { namespace_id: NamespaceId, workflow_id: String },
    /// A task queue: the normal one, if the call names a sticky one.
    Queue { namespace: &'a str, kind: TaskKind, name: &'a str },
    /// A task queue that a token names.
    QueueOfToken(QueueId),
    /// The metadata, which it changes.
    Metadata,
}

/// Whether a call shows metadata, so that any node answers it that has all of them.
pub(super) fn reads_metadata(method: &str) -> bool {
    matches!(
        method,
        "DescribeNamespace"
            | "ListNamespaces"
            | "ListSearchAttributes"
            | "GetNexusEndpoint"
            | "ListNexusEndpoints"
            | "DescribeWorkerDeployment"
            | "DescribeWorkerDeploymentVersion"
            | "ListWorkerDeployments"
    )
}

/// The namespace that a request names in field 1, which it does unless it has a token there.
pub(super) fn namespace_of(request: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes(request, 1)?).ok()
}

/// Whether a call may be made again when nobody knows what became of it: it only looks, or it names itself by an id or a token, so that
/// it does nothing the second time.
///
/// A call with a token that was done the first time is then answered as one that came too late, which workers take in their stride.
pub(super) fn is_repeatable(method: &str, request: &[u8]) -> bool {
    let is_named = |id: Option<&[u8]>| id.is_some_and(|id| !id.is_empty());
    match method {
        "StartWorkflowExecution" | "SignalWithStartWorkflowExecution" => is_named(bytes(request, 10)),
        "SignalWorkflowExecution" => is_named(bytes(request, 6)),
        "RequestCancelWorkflowExecution" => is_named(bytes(request, 4)),
        "StartActivityExecution" => is_named(bytes(request, 3)),
        "RequestCancelActivityExecution" | "TerminateActivityExecution" => is_named(bytes(request, 5)),
        "PauseActivity" => is_named(bytes(request, 7)),
        "PauseActivityExecution" => is_named(bytes(request, 8)),
        "UpdateWorkflowExecution" => is_named(update_id(request)),
        // What starts the workflow has an id of its own or is refused the second time; the update is the one that is followed.
        "ExecuteMultiOperation" => is_named(bytes(request, 2).and_then(|operation| update_id(bytes(operation, 2)?))),
        "PollWorkflowTaskQueue"
        | "PollActivityTaskQueue"
        | "PollNexusTaskQueue"
        | "QueryWorkflow"
        | "PollWorkflowExecutionUpdate"
        | "PollActivityExecution"
        | "RecordActivityTaskHeartbeat"
        | "RecordActivityTaskHeartbeatById"
        | "ResetStickyTaskQueue" => true,
        _ => {
            let reads = ["Get", "Describe", "List", "Count", "Scan"].iter().any(|verb| method.starts_with(verb));
            reads || (method.starts_with("Respond") && !method.ends_with("ById"))
        }
    }
}

/// The id of the update in an UpdateWorkflowExecutionRequest.
fn update_id(request: &[u8]) -> Option<&[u8]> {
    bytes(bytes(bytes(request, 5)?, 1)?, 1)
}

/// `None` for calls that any node answers, and for requests that do not say what they should. A request has its namespace in field 1,
/// unless that is a token.
pub(super) fn locate<'a>(method: &str, request: &'a [u8]) -> Option<Location<'a>> {
    match method {
        "StartWorkflowExecution"
        | "SignalWithStartWorkflowExecution"
        | "CreateSchedule"
        | "DescribeSchedule"
        | "UpdateSchedule"
        | "PatchSchedule"
        | "ListScheduleMatchingTimes"
        | "DeleteSchedule"
        | "DescribeActivityExecution"
        | "PollActivityExecution"
        | "RequestCancelActivityExecution"
        | "TerminateActivityExecution"
        | "DeleteActivityExecution"
        | "StopBatchOperation"
        | "DescribeBatchOperation"
        | "UnpauseWorkflowExecution" => workflow(request, bytes(request, 2)?),
        "SignalWorkflowExecution"
        | "TerminateWorkflowExecution"
        | "DeleteWorkflowExecution"
        | "RequestCancelWorkflowExecution"
        | "DescribeWorkflowExecution"
        | "GetWorkflowExecutionHistory"
        | "GetWorkflowExecutionHistoryReverse"
        | "QueryWorkflow"
        | "UpdateWorkflowExecution"
        | "ResetWorkflowExecution"
        | "ResetStickyTaskQueue"
        | "PauseActivity"
        | "UnpauseActivity"
        | "ResetActivity"
        | "UpdateActivityOptions"
        | "UpdateWorkflowExecutionOptions" => workflow(request, bytes(bytes(request, 2)?, 1)?),
        // The activity of a workflow, or one of its own if that is not named.
        "PauseActivityExecution"
        | "UnpauseActivityExecution"
        | "ResetActivityExecution"
        | "UpdateActivityExecutionOptions" => workflow(request, named(request, 2).or_else(|| named(request, 3))?),
        "RecordActivityTaskHeartbeatById"
        | "RespondActivityTaskCompletedById"
        | "RespondActivityTaskFailedById"
        | "RespondActivityTaskCanceledById" => workflow(request, named(request, 2).or_else(|| named(request, 4))?),
        "StartActivityExecution" => workflow(request, bytes(request, 4)?),
        "StartBatchOperation" => workflow(request, bytes(request, 3)?),
        "PollWorkflowExecutionUpdate" => workflow(request, bytes(bytes(bytes(request, 2)?, 1)?, 1)?),
        // The last of its operations is the update, and all are of one workflow.
        "ExecuteMultiOperation" => workflow(request, bytes(bytes(bytes(bytes(request, 2)?, 2)?, 2)?, 1)?),
        "RespondWorkflowTaskCompleted" | "RespondWorkflowTaskFailed" => {
            token(request, |token: WorkflowTaskToken| (token.namespace_id, token.workflow_id))
        }
        "RecordActivityTaskHeartbeat"
        | "RespondActivityTaskCompleted"
        | "RespondActivityTaskFailed"
        | "RespondActivityTaskCanceled" => {
            token(request, |token: ActivityTaskToken| (token.namespace_id, token.workflow_id))
        }
        "RespondQueryTaskCompleted" => token(request, |token: QueryTaskToken| (token.namespace_id, token.workflow_id)),
        "RespondNexusTaskCompleted" | "RespondNexusTaskFailed" => {
            let token: NexusTaskToken = token::decode(bytes(request, 3)?)?;
            let queue = NexusQueue { namespace_id: token.namespace_id, name: token.task_queue };
            Some(Location::QueueOfToken(queue.home()))
        }
        "PollWorkflowTaskQueue" => queue(request, 2, TaskKind::Workflow),
        // As `NexusQueue::home` has it.
        "PollNexusTaskQueue" => queue(request, 3, TaskKind::Workflow),
        "PollActivityTaskQueue" => queue(request, 2, TaskKind::Activity),
        "DescribeTaskQueue" => {
            let is_activity = number(request, 3) == Some(TaskQueueType::Activity as u64);
            queue(request, 2, if is_activity { TaskKind::Activity } else { TaskKind::Workflow })
        }
        "RegisterNamespace"
        | "UpdateNamespace"
        | "DeprecateNamespace"
        | "DeleteNamespace"
        | "AddSearchAttributes"
        | "RemoveSearchAttributes"
        | "CreateNexusEndpoint"
        | "UpdateNexusEndpoint"
        | "DeleteNexusEndpoint"
        | "UpdateTaskQueueConfig"
        | "CreateWorkerDeployment"
        | "CreateWorkerDeploymentVersion"
        | "SetWorkerDeploymentCurrentVersion"
        | "SetWorkerDeploymentRampingVersion"
        | "SetWorkerDeploymentManager"
        | "UpdateWorkerDeploymentVersionMetadata"
        | "DeleteWorkerDeploymentVersion"
        | "DeleteWorkerDeployment" => Some(Location::Metadata),
        _ => None,
    }
}

fn workflow<'a>(request: &'a [u8], workflow_id: &'a [u8]) -> Option<Location<'a>> {
    let namespace = std::str::from_utf8(bytes(request, 1)?).ok()?;
    Some(Location::Workflow { namespace, workflow_id: std::str::from_utf8(workflow_id).ok()? })
}

fn token<T: serde::de::DeserializeOwned>(
    request: &[u8],
    names: impl FnOnce(T) -> (NamespaceId, String),
) -> Option<Location<'static>> {
    let (namespace_id, workflow_id) = names(token::decode(bytes(request, 1)?)?);
    Some(Location::Token { namespace_id, workflow_id })
}

/// The queue in a field of a request.
fn queue(request: &[u8], field: u32, kind: TaskKind) -> Option<Location<'_>> {
    let namespace = std::str::from_utf8(bytes(request, 1)?).ok()?;
    let queue = bytes(request, field)?;
    let is_sticky = number(queue, 2) == Some(TaskQueueKind::Sticky as u64);
    let name = std::str::from_utf8(bytes(queue, if is_sticky { 3 } else { 1 })?).ok()?;
    Some(Location::Queue { namespace, kind, name })
}

/// An id in a field that may be left out.
fn named(request: &[u8], field: u32) -> Option<&[u8]> {
    bytes(request, field).filter(|id| !id.is_empty())
}

/// The content of the last field with that number, a string, bytes or a message.
fn bytes(message: &[u8], field: u32) -> Option<&[u8]> {
    let mut found = None;
    fields(message, |number, wire_type, mut content| {
        if number == field && wire_type == WireType::LengthDelimited {
            let length = usize::try_from(decode_varint(&mut content).ok()?).ok()?;
            found = content.get(..length);
        }
        Some(())
    })?;
    found
}

/// The value of the last field with that number, an integer or an enum.
fn number(message: &[u8], field: u32) -> Option<u64> {
    let mut found = None;
    fields(message, |number, wire_type, mut content| {
        if number == field && wire_type == WireType::Varint {
            found = Some(decode_varint(&mut content).ok()?);
        }
        Some(())
    })?;
    found
}

/// Visits every field: its number, its wire type, and the bytes from its content on. `None` if the message is not whole.
fn fields<'a>(message: &'a [u8], mut visit: impl FnMut(u32, WireType, &'a [u8]) -> Option<()>) -> Option<()> {
    let mut rest = message;
    while !rest.is_empty() {
        let (wire_type, number) = decode_key(&mut rest).map(|(number, wire_type)| (wire_type, number)).ok()?;
        visit(number, wire_type, rest)?;
        skip_field(wire_type, number, &mut rest, DecodeContext::default()).ok()?;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use everlog_kernel::{EntityKind, RunId, Time};
    use everlog_proto::api::common::v1::WorkflowExecution;
    use everlog_proto::api::taskqueue::v1::TaskQueue;
    use everlog_proto::api::update::v1::UpdateRef;
    use everlog_proto::api::workflowservice::v1::execute_multi_operation_request::Operation;
    use everlog_proto::api::workflowservice::v1::execute_multi_operation_request::operation::Operation as AnyOperation;
    use everlog_proto::api::workflowservice::v1::*;
    use prost::Message;

    use super::*;

    const NAMESPACE: &str = "orders";

    /// Requests about a workflow, each with its method: the field that names it, and what is in that.
    macro_rules! requests {
        ($($method:literal: $request:ident { $field:ident: $value:expr }),* $(,)?) => {
            [$(($method, {
                let mut request = $request { namespace: NAMESPACE.to_owned(), ..$request::default() };
                request.$field = $value;
                request.encode_to_vec()
            })),*]
        };
    }

    /// Requests with a token, each with its method.
    macro_rules! token_requests {
        ($($method:literal: $request:ident { $token:expr }),* $(,)?) => {
            [$(($method, $request { task_token: $token.clone(), ..$request::default() }.encode_to_vec())),*]
        };
    }

    #[test]
    fn a_workflow_is_found_where_the_request_names_it() {
        let w = || "w".to_owned();
        let execution = || Some(WorkflowExecution { workflow_id: w(), run_id: "r".to_owned() });
        let update_ref = || Some(UpdateRef { workflow_execution: execution(), update_id: "u".to_owned() });
        let start = StartWorkflowExecutionRequest { workflow_id: w(), ..StartWorkflowExecutionRequest::default() };
        let start = || Operation { operation: Some(AnyOperation::StartWorkflow(start.clone())) };
        let update = UpdateWorkflowExecutionRequest {
            workflow_execution: execution(),
            ..UpdateWorkflowExecutionRequest::default()
        };
        let update = || Operation { operation: Some(AnyOperation::UpdateWorkflow(update.clone())) };
        let requests = requests![
            "StartWorkflowExecution": StartWorkflowExecutionRequest { workflow_id: w() },
            "SignalWithStartWorkflowExecution": SignalWithStartWorkflowExecutionRequest { workflow_id: w() },
            "UnpauseWorkflowExecution": UnpauseWorkflowExecutionRequest { workflow_id: w() },
            "RecordActivityTaskHeartbeatById": RecordActivityTaskHeartbeatByIdRequest { workflow_id: w() },
            "RespondActivityTaskCompletedById": RespondActivityTaskCompletedByIdRequest { workflow_id: w() },
            "RespondActivityTaskFailedById": RespondActivityTaskFailedByIdRequest { workflow_id: w() },
            "RespondActivityTaskCanceledById": RespondActivityTaskCanceledByIdRequest { workflow_id: w() },
            "CreateSchedule": CreateScheduleRequest { schedule_id: w() },
            "DescribeSchedule": DescribeScheduleRequest { schedule_id: w() },
            "UpdateSchedule": UpdateScheduleRequest { schedule_id: w() },
            "PatchSchedule": PatchScheduleRequest { schedule_id: w() },
            "ListScheduleMatchingTimes": ListScheduleMatchingTimesRequest { schedule_id: w() },
            "DeleteSchedule": DeleteScheduleRequest { schedule_id: w() },
            "StartBatchOperation": StartBatchOperationRequest { job_id: w() },
            "StopBatchOperation": StopBatchOperationRequest { job_id: w() },
            "DescribeBatchOperation": DescribeBatchOperationRequest { job_id: w() },
            "SignalWorkflowExecution": SignalWorkflowExecutionRequest { workflow_execution: execution() },
            "TerminateWorkflowExecution": TerminateWorkflowExecutionRequest { workflow_execution: execution() },
            "DeleteWorkflowExecution": DeleteWorkflowExecutionRequest { workflow_execution: execution() },
            "RequestCancelWorkflowExecution": RequestCancelWorkflowExecutionRequest { workflow_execution: execution() },
            "DescribeWorkflowExecution": DescribeWorkflowExecutionRequest { execution: execution() },
            "GetWorkflowExecutionHistory": GetWorkflowExecutionHistoryRequest { execution: execution() },
            "GetWorkflowExecutionHistoryReverse": GetWorkflowExecutionHistoryReverseRequest { execution: execution() },
            "QueryWorkflow": QueryWorkflowRequest { execution: execution() },
            "ResetStickyTaskQueue": ResetStickyTaskQueueRequest { execution: execution() },
            "PauseActivityExecution": PauseActivityExecutionRequest { workflow_id: w() },
            "UnpauseActivityExecution": UnpauseActivityExecutionRequest { workflow_id: w() },
            "ResetActivityExecution": ResetActivityExecutionRequest { workflow_id: w() },
            "UpdateActivityExecutionOptions": UpdateActivityExecutionOptionsRequest { workflow_id: w() },
            "StartActivityExecution": StartActivityExecutionRequest { activity_id: w() },
            "DescribeActivityExecution": DescribeActivityExecutionRequest { activity_id: w() },
            "PollActivityExecution": PollActivityExecutionRequest { activity_id: w() },
            "RequestCancelActivityExecution": RequestCancelActivityExecutionRequest { activity_id: w() },
            "TerminateActivityExecution": TerminateActivityExecutionRequest { activity_id: w() },
            "DeleteActivityExecution": DeleteActivityExecutionRequest { activity_id: w() },
            "PauseActivityExecution": PauseActivityExecutionRequest { activity_id: w() },
            "ResetActivityExecution": ResetActivityExecutionRequest { activity_id: w() },
            "RespondActivityTaskCompletedById": RespondActivityTaskCompletedByIdRequest { activity_id: w() },
            "PauseActivity": PauseActivityRequest { execution: execution() },
            "UnpauseActivity": UnpauseActivityRequest { execution: execution() },
            "ResetActivity": ResetActivityRequest { execution: execution() },
            "UpdateActivityOptions": UpdateActivityOptionsRequest { execution: execution() },
            "UpdateWorkflowExecutionOptions": UpdateWorkflowExecutionOptionsRequest { workflow_execution: execution() },
            "UpdateWorkflowExecution": UpdateWorkflowExecutionRequest { workflow_execution: execution() },
            "ResetWorkflowExecution": ResetWorkflowExecutionRequest { workflow_execution: execution() },
            "PollWorkflowExecutionUpdate": PollWorkflowExecutionUpdateRequest { update_ref: update_ref() },
            "ExecuteMultiOperation": ExecuteMultiOperationRequest { operations: vec![start(), update()] },
        ];
        for (method, request) in requests {
            let expected = Location::Workflow { namespace: NAMESPACE, workflow_id: "w" };
            assert_eq!(locate(method, &request), Some(expected), "{method}");
            assert_eq!(locate(method, &request[..request.len() - 1]), None, "{method}, cut");
            assert_eq!(locate(method, b""), None, "{method}, empty");
        }
    }

    #[test]
    fn what_is_done_once_by_its_id_or_only_looks_may_be_made_again() {
        let id = || "id".to_owned();
        let update = |update_id: &str| UpdateWorkflowExecutionRequest {
            request: Some(everlog_proto::api::update::v1::Request {
                meta: Some(everlog_proto::api::update::v1::Meta {
                    update_id: update_id.to_owned(),
                    ..everlog_proto::api::update::v1::Meta::default()
                }),
                ..everlog_proto::api::update::v1::Request::default()
            }),
            ..UpdateWorkflowExecutionRequest::default()
        };
        let with_start = |update_id: &str| ExecuteMultiOperationRequest {
            operations: vec![Operation { operation: Some(AnyOperation::UpdateWorkflow(update(update_id))) }],
            ..ExecuteMultiOperationRequest::default()
        };
        let named = requests![
            "StartWorkflowExecution": StartWorkflowExecutionRequest { request_id: id() },
            "SignalWithStartWorkflowExecution": SignalWithStartWorkflowExecutionRequest { request_id: id() },
            "SignalWorkflowExecution": SignalWorkflowExecutionRequest { request_id: id() },
            "RequestCancelWorkflowExecution": RequestCancelWorkflowExecutionRequest { request_id: id() },
            "StartActivityExecution": StartActivityExecutionRequest { request_id: id() },
            "RequestCancelActivityExecution": RequestCancelActivityExecutionRequest { request_id: id() },
            "TerminateActivityExecution": TerminateActivityExecutionRequest { request_id: id() },
            "PauseActivity": PauseActivityRequest { request_id: id() },
            "PauseActivityExecution": PauseActivityExecutionRequest { request_id: id() },
        ];
        for (method, request) in named {
            assert!(is_repeatable(method, &request), "{method}");
            assert!(!is_repeatable(method, b""), "{method} without an id");
        }
        assert!(is_repeatable("UpdateWorkflowExecution", &update("u").encode_to_vec()));
        assert!(!is_repeatable("UpdateWorkflowExecution", &update("").encode_to_vec()));
        assert!(is_repeatable("ExecuteMultiOperation", &with_start("u").encode_to_vec()));
        assert!(!is_repeatable("ExecuteMultiOperation", &with_start("").encode_to_vec()));
        let always =
            ["PollWorkflowTaskQueue", "GetWorkflowExecutionHistory", "CountWorkflowExecutions", "QueryWorkflow"];
        for method in always.iter().chain(&["RespondWorkflowTaskCompleted", "RecordActivityTaskHeartbeat"]) {
            assert!(is_repeatable(method, b""), "{method}");
        }
        let never = ["TerminateWorkflowExecution", "DeleteWorkflowExecution", "RegisterNamespace", "UpdateNamespace"];
        for method in never.iter().chain(&["RespondActivityTaskCompletedById", "UpdateTaskQueueConfig"]) {
            assert!(!is_repeatable(method, b""), "{method}");
        }
    }

    #[test]
    fn a_token_names_its_workflow() {
        let (namespace_id, workflow_id, run_id) = (NamespaceId([7; 16]), "w".to_owned(), RunId([1; 16]));
        let activity = token::encode(&ActivityTaskToken {
            namespace_id,
            workflow_id: workflow_id.clone(),
            run_id,
            scheduled_event_id: 5,
            attempt: 1,
            started_time: Time(1),
            entity: EntityKind::Workflow,
        });
        let query = QueryTaskToken { namespace_id, workflow_id: workflow_id.clone(), run_id, query_id: 1, secret: 2 };
        let query = token::encode(&query);
        let requests = token_requests![
            "RecordActivityTaskHeartbeat": RecordActivityTaskHeartbeatRequest { activity },
            "RespondActivityTaskCompleted": RespondActivityTaskCompletedRequest { activity },
            "RespondActivityTaskFailed": RespondActivityTaskFailedRequest { activity },
            "RespondActivityTaskCanceled": RespondActivityTaskCanceledRequest { activity },
            "RespondQueryTaskCompleted": RespondQueryTaskCompletedRequest { query },
        ];
        for (method, request) in requests {
            let expected = Location::Token { namespace_id, workflow_id: workflow_id.clone() };
            assert_eq!(locate(method, &request), Some(expected), "{method}");
        }
        let nexus = token::encode(&NexusTaskToken { namespace_id, task_queue: "q".to_owned(), id: 1 });
        let home = NexusQueue { namespace_id, name: "q".to_owned() }.home();
        let requests = requests![
            "RespondNexusTaskCompleted": RespondNexusTaskCompletedRequest { task_token: nexus.clone() },
            "RespondNexusTaskFailed": RespondNexusTaskFailedRequest { task_token: nexus },
        ];
        for (method, request) in requests {
            assert_eq!(locate(method, &request), Some(Location::QueueOfToken(home.clone())), "{method}");
        }
        let garbage = vec![1, 2, 3];
        let refused = token_requests![
            "RespondWorkflowTaskCompleted": RespondWorkflowTaskCompletedRequest { garbage },
            "RespondWorkflowTaskFailed": RespondWorkflowTaskFailedRequest { garbage },
        ];
        for (method, request) in refused {
            assert_eq!(locate(method, &request), None, "{method}");
        }
    }

    #[test]
    fn a_sticky_queue_is_where_its_normal_one_is() {
        let queue = |kind: TaskQueueKind| {
            Some(TaskQueue { name: "q".to_owned(), kind: kind as i32, normal_name: "normal".to_owned() })
        };
        let described = |of: TaskQueueType| DescribeTaskQueueRequest {
            namespace: NAMESPACE.to_owned(),
            task_queue: queue(TaskQueueKind::Normal),
            task_queue_type: of as i32,
            ..DescribeTaskQueueRequest::default()
        };
        let nexus = PollNexusTaskQueueRequest {
            namespace: NAMESPACE.to_owned(),
            task_queue: queue(TaskQueueKind::Normal),
            identity: "worker".to_owned(),
            ..PollNexusTaskQueueRequest::default()
        };
        let nexus = nexus.encode_to_vec();
        let [normal, sticky] = requests![
            "PollWorkflowTaskQueue": PollWorkflowTaskQueueRequest { task_queue: queue(TaskQueueKind::Normal) },
            "PollWorkflowTaskQueue": PollWorkflowTaskQueueRequest { task_queue: queue(TaskQueueKind::Sticky) },
        ];
        let cases = [
            ("PollWorkflowTaskQueue", normal.1.clone(), TaskKind::Workflow, "q"),
            ("PollWorkflowTaskQueue", sticky.1, TaskKind::Workflow, "normal"),
            ("PollActivityTaskQueue", normal.1.clone(), TaskKind::Activity, "q"),
            ("PollNexusTaskQueue", nexus, TaskKind::Workflow, "q"),
            ("DescribeTaskQueue", described(TaskQueueType::Activity).encode_to_vec(), TaskKind::Activity, "q"),
            ("DescribeTaskQueue", described(TaskQueueType::Workflow).encode_to_vec(), TaskKind::Workflow, "q"),
        ];
        for (method, request, kind, name) in cases {
            let expected = Location::Queue { namespace: NAMESPACE, kind, name };
            assert_eq!(locate(method, &request), Some(expected), "{method}");
        }
        assert_eq!(locate("ListNamespaces", &normal.1), None);
    }
}
