//! Nothing is accepted in silence: every field of every request that is served is in `fields.txt`, and those whose meaning is not there yet
//! are refused.

use std::collections::{BTreeMap, BTreeSet};

use everlog_proto::api::common::v1::{
    ActivityType, Callback, Memo, TimeSkippingConfig, WorkerVersionCapabilities, WorkerVersionStamp, WorkflowType,
    callback,
};
use everlog_proto::api::deployment::v1::WorkerDeploymentOptions;
use everlog_proto::api::enums::v1::WorkerVersioningMode;
use everlog_proto::api::namespace::v1::NamespaceConfig;
use everlog_proto::api::schedule::v1::{Schedule, ScheduleAction, schedule_action};
use everlog_proto::api::taskqueue::v1::TaskQueue;
use everlog_proto::api::update::v1 as update;
use everlog_proto::api::workflow::v1::{NewWorkflowExecutionInfo, WorkflowExecutionOptions};
use everlog_proto::wkt::FieldMask;
use prost_types_plain::{DescriptorProto, FileDescriptorProto};

use super::harness::wire::{descriptors, message};
use super::*;

/// What is said of a message's fields.
#[derive(Debug, Default)]
struct Said {
    fields: BTreeSet<String>,
    refused: BTreeSet<String>,
    is_whole: bool,
}

/// `fields.txt`, by the names of messages without `temporal.api.`.
fn said() -> BTreeMap<String, Said> {
    let mut said: BTreeMap<String, Said> = BTreeMap::new();
    let mut current = String::new();
    for line in include_str!("fields.txt").lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let Some(rest) = line.strip_prefix("  ") else {
            current = line.to_owned();
            assert!(said.insert(current.clone(), Said::default()).is_none(), "{current} is there twice");
            continue;
        };
        let of_message = said.get_mut(&current).expect("a message stands in front of what is said of it");
        let (verdict, names) = rest.split_once(' ').unwrap();
        let (names, reason) = names.split_once(": ").unwrap_or((names, ""));
        match verdict {
            "whole" => of_message.is_whole = true,
            "used" | "refused" => assert_eq!(reason, "", "{line}"),
            "unread" => assert_ne!(reason, "", "{line}"),
            other => panic!("{other} is none of used, refused, unread, whole"),
        }
        if of_message.is_whole {
            continue;
        }
        for name in names.split(' ') {
            assert!(of_message.fields.insert(name.to_owned()), "{current}.{name} is there twice");
            if verdict == "refused" {
                of_message.refused.insert(name.to_owned());
            }
        }
    }
    said
}

/// Methods that answer nothing but that they are turned off.
const TURNED_OFF: [&str; 27] = [
    "CountNexusOperationExecutions",
    "CreateWorkflowRule",
    "DeleteNexusOperationExecution",
    "DeleteWorkflowRule",
    "DescribeDeployment",
    "DescribeNexusOperationExecution",
    "DescribeWorkflowRule",
    "FetchWorkerConfig",
    "GetCurrentDeployment",
    "GetDeploymentReachability",
    "GetWorkerBuildIdCompatibility",
    "GetWorkerTaskReachability",
    "GetWorkerVersioningRules",
    "ListDeployments",
    "ListNexusOperationExecutions",
    "ListWorkflowRules",
    "PauseWorkflowExecution",
    "PollNexusOperationExecution",
    "RequestCancelNexusOperationExecution",
    "SetCurrentDeployment",
    "StartNexusOperationExecution",
    "TerminateNexusOperationExecution",
    "TriggerWorkflowRule",
    "UnpauseWorkflowExecution",
    "UpdateWorkerBuildIdCompatibility",
    "UpdateWorkerConfig",
    "UpdateWorkerVersioningRules",
];

fn scheduled_workflow() -> NewWorkflowExecutionInfo {
    NewWorkflowExecutionInfo {
        workflow_id: "scheduled".to_owned(),
        workflow_type: Some(WorkflowType { name: "T".to_owned() }),
        task_queue: Some(TaskQueue { name: "q".to_owned(), ..TaskQueue::default() }),
        ..NewWorkflowExecutionInfo::default()
    }
}

fn scheduled(start: NewWorkflowExecutionInfo) -> Option<Schedule> {
    let action = ScheduleAction { action: Some(schedule_action::Action::StartWorkflow(start)) };
    Some(Schedule { action: Some(action), ..Schedule::default() })
}

/// The messages that requests of served methods are made of, by name.
async fn served_messages(channel: &Channel, said: &BTreeMap<String, Said>) -> BTreeMap<String, DescriptorProto> {
    let files = descriptors().file;
    let mut found = BTreeMap::new();
    for file in &files {
        for method in file.service.iter().flat_map(|service| &service.method) {
            let service = match file.package() {
                "temporal.api.workflowservice.v1" => WORKFLOW_SERVICE,
                "temporal.api.operatorservice.v1" => OPERATOR_SERVICE,
                _ => continue,
            };
            let answer = call(channel, service, method.name(), Bytes::new(), Some(LONG)).await;
            let is_unknown = answer.is_err_and(|status| told(&status).starts_with("Unimplemented: unknown method"));
            if !is_unknown && !TURNED_OFF.contains(&method.name()) {
                collect(&files, method.input_type(), said, &mut found);
            }
        }
    }
    found
}

fn collect(
    files: &[FileDescriptorProto],
    name: &str,
    said: &BTreeMap<String, Said>,
    found: &mut BTreeMap<String, DescriptorProto>,
) {
    let Some(short) = name.strip_prefix(".temporal.api.") else { return };
    if found.contains_key(short) {
        return;
    }
    let descriptor = message(files, name).expect("the set is complete");
    let is_map = descriptor.options.as_ref().is_some_and(|options| options.map_entry());
    if !is_map {
        found.insert(short.to_owned(), descriptor.clone());
        if said.get(short).is_some_and(|said| said.is_whole) {
            return;
        }
    }
    for field in descriptor.field.iter().filter(|field| field.r#type() == Type::Message) {
        collect(files, field.type_name(), said, found);
    }
}

#[tokio::test]
async fn what_becomes_of_every_field_is_decided() {
    let server = Box::pin(Server::start()).await;
    let said = said();
    let served = Box::pin(served_messages(&server.channel().await, &said)).await;
    let mut wrong = Vec::new();
    for (name, descriptor) in &served {
        if descriptor.field.is_empty() {
            continue;
        }
        let Some(of_message) = said.get(name) else {
            wrong.push(format!("{name} is missing"));
            continue;
        };
        if of_message.is_whole {
            continue;
        }
        let fields: BTreeSet<String> = descriptor.field.iter().map(|field| field.name().to_owned()).collect();
        wrong.extend(fields.difference(&of_message.fields).map(|field| format!("{name}.{field} is missing")));
        wrong.extend(of_message.fields.difference(&fields).map(|field| format!("there is no {name}.{field}")));
    }
    wrong.extend(said.keys().filter(|name| !served.contains_key(*name)).map(|name| format!("{name} is in no request")));
    assert!(served.len() > 80);
    assert!(wrong.is_empty(), "{wrong:#?}");
    server.stopped().await;
}

/// A request with one field that is refused.
struct Case {
    field: &'static str,
    method: &'static str,
    request: Bytes,
    expected: &'static str,
}

fn case(field: &'static str, method: &'static str, request: impl Message, expected: &'static str) -> Case {
    Case { field, method, request: request.encode_to_vec().into(), expected }
}

const DISABLED: &str = "PermissionDenied: Worker versioning in workflow progress APIs is disabled on this namespace. \
                        [PermissionDeniedFailure { reason: \"\" }]";

fn stamp() -> Option<WorkerVersionStamp> {
    Some(WorkerVersionStamp { build_id: "b".to_owned(), use_versioning: true })
}

fn capabilities() -> Option<WorkerVersionCapabilities> {
    Some(WorkerVersionCapabilities { build_id: "b".to_owned(), use_versioning: true, ..Default::default() })
}

fn starts() -> Vec<Case> {
    let start = || start_request("never");
    let signal = || SignalWithStartWorkflowExecutionRequest {
        namespace: NAMESPACE.to_owned(),
        workflow_id: "never".to_owned(),
        workflow_type: start().workflow_type,
        task_queue: start().task_queue,
        signal_name: "s".to_owned(),
        ..Default::default()
    };
    let url = "http://localhost/x".to_owned();
    let callback = Callback {
        variant: Some(callback::Variant::Nexus(callback::Nexus { url, ..Default::default() })),
        ..Default::default()
    };
    let of = |variant| Callback { variant: Some(variant), ..Default::default() };
    let internal = callback::Variant::Internal(callback::Internal::default());
    let handler = callback::Variant::NexusHandler(callback::NexusHandler::default());
    let update = update::Request {
        meta: Some(update::Meta::default()),
        input: Some(update::Input { name: "update".to_owned(), ..Default::default() }),
        completion_callbacks: vec![callback],
        ..Default::default()
    };
    let skipping = || Some(TimeSkippingConfig::default());
    let changed = |options| UpdateWorkflowExecutionOptionsRequest {
        namespace: NAMESPACE.to_owned(),
        workflow_execution: execution("never"),
        workflow_execution_options: Some(options),
        update_mask: Some(FieldMask { paths: vec!["versioning_override".to_owned()] }),
        ..Default::default()
    };
    const SKIPPING: &str = "Unimplemented: The Time-Skipping feature is not enabled for namespace.";
    vec![
        case(
            "Callback.internal",
            "StartWorkflowExecution",
            StartWorkflowExecutionRequest { completion_callbacks: vec![of(internal)], ..start() },
            "InvalidArgument: unsupported callback variant: *common.Callback_Internal_",
        ),
        case(
            "Callback.nexus_handler",
            "StartWorkflowExecution",
            StartWorkflowExecutionRequest { completion_callbacks: vec![of(handler)], ..start() },
            "Unimplemented: completion_callbacks.nexus_handler is not supported by this server yet",
        ),
        case(
            "StartWorkflowExecutionRequest.time_skipping_config",
            "StartWorkflowExecution",
            StartWorkflowExecutionRequest { time_skipping_config: skipping(), ..start() },
            SKIPPING,
        ),
        case(
            "UpdateScheduleRequest.memo",
            "UpdateSchedule",
            UpdateScheduleRequest {
                namespace: "default".to_owned(),
                schedule_id: "s".to_owned(),
                schedule: scheduled(scheduled_workflow()),
                memo: Some(Memo::default()),
                ..UpdateScheduleRequest::default()
            },
            "FailedPrecondition: memo updates are not supported on workflow-backed schedules",
        ),
        case(
            "SignalWithStartWorkflowExecutionRequest.time_skipping_config",
            "SignalWithStartWorkflowExecution",
            SignalWithStartWorkflowExecutionRequest { time_skipping_config: skipping(), ..signal() },
            SKIPPING,
        ),
        case(
            "WorkflowExecutionOptions.time_skipping_config",
            "UpdateWorkflowExecutionOptions",
            changed(WorkflowExecutionOptions { time_skipping_config: skipping(), ..Default::default() }),
            SKIPPING,
        ),
        case(
            "Request.completion_callbacks",
            "UpdateWorkflowExecution",
            UpdateWorkflowExecutionRequest {
                namespace: NAMESPACE.to_owned(),
                workflow_execution: execution("never"),
                request: Some(update),
                ..Default::default()
            },
            "Unimplemented: completion_callbacks of updates are not supported by this server",
        ),
    ]
}

#[expect(deprecated, reason = "old workers are versioned by these")]
fn polls() -> Vec<Case> {
    let workflow = || PollWorkflowTaskQueueRequest {
        namespace: NAMESPACE.to_owned(),
        task_queue: task_queue("versions"),
        ..Default::default()
    };
    let activity = || PollActivityTaskQueueRequest {
        namespace: NAMESPACE.to_owned(),
        task_queue: task_queue("versions"),
        ..Default::default()
    };
    let nexus = || PollNexusTaskQueueRequest {
        namespace: NAMESPACE.to_owned(),
        task_queue: task_queue("versions"),
        ..Default::default()
    };
    vec![
        case(
            "PollWorkflowTaskQueueRequest.worker_version_capabilities",
            "PollWorkflowTaskQueue",
            PollWorkflowTaskQueueRequest { worker_version_capabilities: capabilities(), ..workflow() },
            DISABLED,
        ),
        case(
            "PollActivityTaskQueueRequest.worker_version_capabilities",
            "PollActivityTaskQueue",
            PollActivityTaskQueueRequest { worker_version_capabilities: capabilities(), ..activity() },
            DISABLED,
        ),
        case(
            "PollNexusTaskQueueRequest.worker_version_capabilities",
            "PollNexusTaskQueue",
            PollNexusTaskQueueRequest { worker_version_capabilities: capabilities(), ..nexus() },
            DISABLED,
        ),
    ]
}

fn settings() -> Vec<Case> {
    let aliases = NamespaceConfig {
        custom_search_attribute_aliases: [("Keyword01".to_owned(), "Name".to_owned())].into(),
        ..Default::default()
    };
    vec![case(
        "NamespaceConfig.custom_search_attribute_aliases",
        "UpdateNamespace",
        UpdateNamespaceRequest { namespace: NAMESPACE.to_owned(), config: Some(aliases), ..Default::default() },
        "Unimplemented: config.custom_search_attribute_aliases are not supported by this server",
    )]
}

fn activities() -> Vec<Case> {
    let nexus = callback::Nexus { url: "http://localhost".to_owned(), ..callback::Nexus::default() };
    let callback = Callback { variant: Some(callback::Variant::Nexus(nexus)), ..Callback::default() };
    let start = StartActivityExecutionRequest {
        namespace: NAMESPACE.to_owned(),
        activity_id: "never".to_owned(),
        activity_type: Some(ActivityType { name: "never".to_owned() }),
        task_queue: task_queue("never"),
        start_to_close_timeout: Some(everlog_proto::wkt::Duration { seconds: 1, nanos: 0 }),
        completion_callbacks: vec![callback],
        ..Default::default()
    };
    vec![case(
        "StartActivityExecutionRequest.completion_callbacks",
        "StartActivityExecution",
        start,
        "InvalidArgument: completion callbacks are not enabled for this namespace",
    )]
}

/// A workflow's first task.
async fn workflow_task(client: &mut Client, workflow_id: &str) -> Vec<u8> {
    started(client, start_on(workflow_id, workflow_id)).await;
    poll_on(client, workflow_id).await.task_token
}

async fn started(client: &mut Client, request: StartWorkflowExecutionRequest) {
    client.start_workflow_execution(request).await.unwrap();
}

fn start_on(workflow_id: &str, queue: &str) -> StartWorkflowExecutionRequest {
    StartWorkflowExecutionRequest { task_queue: task_queue(queue), ..start_request(workflow_id) }
}

async fn poll_on(client: &mut Client, queue: &str) -> PollWorkflowTaskQueueResponse {
    client.poll_workflow_task_queue(within(LONG, poll_workflow(queue))).await.unwrap().into_inner()
}

/// Answers to a workflow task that leave it in the worker's hands.
#[expect(deprecated, reason = "old workers are versioned by these")]
async fn answers(client: &mut Client) -> Vec<Case> {
    let task_token = workflow_task(client, "answers").await;
    let answer = || respond(task_token.clone(), Vec::new());
    let failed = || RespondWorkflowTaskFailedRequest {
        task_token: task_token.clone(),
        ..RespondWorkflowTaskFailedRequest::default()
    };
    const PAGES: &str =
        "FailedPrecondition: workflow task completion pagination is disabled for this namespace default";
    const COMPLETED: &str = "RespondWorkflowTaskCompleted";
    vec![
        case(
            "RespondWorkflowTaskCompletedRequest.worker_version_stamp",
            COMPLETED,
            RespondWorkflowTaskCompletedRequest { worker_version_stamp: stamp(), ..answer() },
            DISABLED,
        ),
        case(
            "RespondWorkflowTaskCompletedRequest.page_number",
            COMPLETED,
            RespondWorkflowTaskCompletedRequest { page_number: 1, ..answer() },
            PAGES,
        ),
        case(
            "RespondWorkflowTaskCompletedRequest.intermediate_page",
            COMPLETED,
            RespondWorkflowTaskCompletedRequest { intermediate_page: true, ..answer() },
            PAGES,
        ),
        case(
            "RespondWorkflowTaskFailedRequest.worker_version",
            "RespondWorkflowTaskFailed",
            RespondWorkflowTaskFailedRequest { worker_version: stamp(), ..failed() },
            DISABLED,
        ),
    ]
}

/// Answers to an activity task, which stays in the worker's hands.
#[expect(deprecated, reason = "old workers are versioned by these")]
async fn activity_answers(client: &mut Client) -> Vec<Case> {
    started(client, start_on("activity", "queue")).await;
    let task_token = poll_on(client, "queue").await.task_token;
    client.respond_workflow_task_completed(respond(task_token, vec![schedule_activity("a")])).await.unwrap();
    let activity = client.poll_activity_task_queue(within(LONG, poll_activity("queue"))).await.unwrap().into_inner();
    let token = || activity.task_token.clone();
    let completed = || RespondActivityTaskCompletedRequest { task_token: token(), ..Default::default() };
    let failed = || RespondActivityTaskFailedRequest { task_token: token(), ..Default::default() };
    let canceled = || RespondActivityTaskCanceledRequest { task_token: token(), ..Default::default() };
    vec![
        case(
            "RespondActivityTaskCompletedRequest.worker_version",
            "RespondActivityTaskCompleted",
            RespondActivityTaskCompletedRequest { worker_version: stamp(), ..completed() },
            DISABLED,
        ),
        case(
            "RespondActivityTaskFailedRequest.worker_version",
            "RespondActivityTaskFailed",
            RespondActivityTaskFailedRequest { worker_version: stamp(), ..failed() },
            DISABLED,
        ),
        case(
            "RespondActivityTaskCanceledRequest.worker_version",
            "RespondActivityTaskCanceled",
            RespondActivityTaskCanceledRequest { worker_version: stamp(), ..canceled() },
            DISABLED,
        ),
    ]
}

#[tokio::test]
async fn what_is_not_built_is_refused_field_by_field() {
    let server = Server::start().await;
    let (channel, mut client) = (server.channel().await, server.client().await);
    let mut cases: Vec<Case> = [starts(), polls(), settings(), activities()].into_iter().flatten().collect();
    cases.extend(answers(&mut client).await);
    cases.extend(activity_answers(&mut client).await);

    let listed: BTreeSet<String> = said()
        .into_iter()
        .flat_map(|(name, said)| {
            let short = name.rsplit('.').next().unwrap().to_owned();
            said.refused.into_iter().map(move |field| format!("{short}.{field}"))
        })
        .collect();
    let tried: BTreeSet<String> = cases.iter().map(|case| case.field.to_owned()).collect();
    assert_eq!(tried, listed);

    let mut wrong = String::new();
    for Case { field, method, request, expected } in cases {
        let told = match call(&channel, WORKFLOW_SERVICE, method, request, Some(LONG)).await {
            Ok(_) => "Ok".to_owned(),
            Err(status) => told(&status),
        };
        if told != expected {
            wrong.push_str(&format!("{field}\n    {told}\n  instead of\n    {expected}\n"));
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
    server.stopped().await;
}

/// A worker that tells its build id, and no more, gets its tasks, and what it says is shown.
#[expect(deprecated, reason = "old workers tell it this way")]
#[tokio::test]
async fn a_build_id_without_versioning_is_welcome() {
    let server = Server::start().await;
    let mut client = server.client().await;
    started(&mut client, start_on("w", "queue")).await;
    let unversioned = || WorkerDeploymentOptions {
        deployment_name: "d".to_owned(),
        build_id: "b".to_owned(),
        worker_versioning_mode: WorkerVersioningMode::Unversioned as i32,
    };
    let poll = PollWorkflowTaskQueueRequest {
        worker_version_capabilities: Some(WorkerVersionCapabilities { build_id: "b".to_owned(), ..Default::default() }),
        deployment_options: Some(unversioned()),
        ..poll_workflow("queue")
    };
    let task = client.poll_workflow_task_queue(within(LONG, poll)).await.unwrap().into_inner();
    let answer = RespondWorkflowTaskCompletedRequest {
        worker_version_stamp: Some(WorkerVersionStamp { build_id: "b".to_owned(), use_versioning: false }),
        deployment_options: Some(unversioned()),
        ..respond(task.task_token, vec![complete("done")])
    };
    client.respond_workflow_task_completed(answer).await.unwrap();
    let described = client.describe_workflow_execution(describe("w")).await.unwrap().into_inner();
    let info = described.workflow_execution_info.unwrap();
    assert_eq!(info.worker_deployment_name, "d");
    assert_eq!(info.most_recent_worker_version_stamp.unwrap().build_id, "b");
    server.stopped().await;
}
