//! Requests that are refused: with which code, text and detail.

use super::*;

/// Asks one request of the table.
struct Asker {
    channel: Channel,
    told: Vec<(String, String)>,
    run_ids: Vec<String>,
}

impl Asker {
    async fn ask(&mut self, name: &str, method: &str, request: impl Message) {
        self.ask_within(name, method, request, Some(LONG)).await;
    }

    async fn ask_within(&mut self, name: &str, method: &str, request: impl Message, timeout: Option<Duration>) {
        let request = Bytes::from(request.encode_to_vec());
        let answer = call(&self.channel, WORKFLOW_SERVICE, method, request, timeout).await;
        let run_ids: Vec<&str> = self.run_ids.iter().map(String::as_str).collect();
        let told = match answer {
            Ok(response) if response.is_empty() => "Ok: empty".to_owned(),
            Ok(_) => "Ok".to_owned(),
            Err(status) => without_ids(told(&status), &run_ids),
        };
        self.told.push((format!("{method}: {name}"), told));
    }
}

const NO_RUN: &str = "01a204fb-a099-7a46-81de-22daaaf0b2ea";

fn in_run(workflow_id: &str, run_id: &str) -> Option<WorkflowExecution> {
    Some(WorkflowExecution { workflow_id: workflow_id.to_owned(), run_id: run_id.to_owned() })
}

/// Starts a workflow on a queue of its own.
fn start_on(workflow_id: &str, queue: &str) -> StartWorkflowExecutionRequest {
    StartWorkflowExecutionRequest { task_queue: task_queue(queue), ..start_request(workflow_id) }
}

async fn started(client: &mut Client, request: StartWorkflowExecutionRequest) -> String {
    client.start_workflow_execution(request).await.unwrap().into_inner().run_id
}

async fn poll_on(client: &mut Client, queue: &str) -> PollWorkflowTaskQueueResponse {
    let task = client.poll_workflow_task_queue(within(LONG, poll_workflow(queue))).await.unwrap().into_inner();
    assert!(!task.task_token.is_empty(), "no task on {queue}");
    task
}

#[tokio::test]
async fn each_refusal_has_its_code_text_and_detail() {
    let target = Target::start().await;
    let mut client = target.client();
    let open = started(&mut client, start_on("open", "unpolled")).await;
    let closed = started(&mut client, start_on("closed", "unpolled")).await;
    client.terminate_workflow_execution(terminate("closed")).await.unwrap();
    let mut asker = Asker { channel: target.channel.clone(), told: Vec::new(), run_ids: vec![open, closed] };

    // Start.
    asker.ask("again, same request", "StartWorkflowExecution", start_on("open", "unpolled")).await;
    let another = || StartWorkflowExecutionRequest { request_id: "another".to_owned(), ..start_on("open", "unpolled") };
    asker.ask("while open", "StartWorkflowExecution", another()).await;
    let reject =
        StartWorkflowExecutionRequest { workflow_id: "closed".to_owned(), workflow_id_reuse_policy: 3, ..another() };
    asker.ask("once closed", "StartWorkflowExecution", reject).await;
    asker
        .ask(
            "no id",
            "StartWorkflowExecution",
            StartWorkflowExecutionRequest { workflow_id: String::new(), ..another() },
        )
        .await;
    let no_queue = StartWorkflowExecutionRequest { task_queue: None, ..another() };
    asker.ask("no task queue", "StartWorkflowExecution", no_queue).await;
    let no_type = StartWorkflowExecutionRequest { workflow_type: None, ..another() };
    asker.ask("no type", "StartWorkflowExecution", no_type).await;

    // Workflows that are not there, or not open.
    asker.ask("no such workflow", "SignalWorkflowExecution", signal("none", "1")).await;
    let mut no_run = signal("open", "1");
    no_run.workflow_execution = in_run("open", NO_RUN);
    asker.ask("no such run", "SignalWorkflowExecution", no_run).await;
    let mut bad_run = signal("open", "1");
    bad_run.workflow_execution = in_run("open", "bad");
    asker.ask("bad run id", "SignalWorkflowExecution", bad_run).await;
    asker.ask("closed", "SignalWorkflowExecution", signal("closed", "1")).await;
    asker.ask("no such workflow", "TerminateWorkflowExecution", terminate("none")).await;
    asker.ask("closed", "TerminateWorkflowExecution", terminate("closed")).await;
    let cancel = |workflow_id| RequestCancelWorkflowExecutionRequest {
        namespace: NAMESPACE.to_owned(),
        workflow_execution: execution(workflow_id),
        ..RequestCancelWorkflowExecutionRequest::default()
    };
    asker.ask("no such workflow", "RequestCancelWorkflowExecution", cancel("none")).await;
    asker.ask("closed", "RequestCancelWorkflowExecution", cancel("closed")).await;
    asker.ask("no such workflow", "DescribeWorkflowExecution", describe("none")).await;
    let no_run = DescribeWorkflowExecutionRequest { execution: in_run("open", NO_RUN), ..describe("open") };
    asker.ask("no such run", "DescribeWorkflowExecution", no_run).await;
    asker.ask("no such workflow", "GetWorkflowExecutionHistory", history("none", Vec::new())).await;
    asker.ask("bad page token", "GetWorkflowExecutionHistory", history("open", b"bad".to_vec())).await;
    asker.ask("bad query", "ListWorkflowExecutions", list("Nope = 1")).await;
    asker.ask("not a query", "ListWorkflowExecutions", list("WorkflowId = ")).await;

    // Namespaces.
    let namespace = |name: &str| DescribeNamespaceRequest { namespace: name.to_owned(), ..Default::default() };
    asker.ask("no such namespace", "DescribeNamespace", namespace("none")).await;
    asker.ask("no name", "DescribeNamespace", namespace("")).await;
    let register = |name: &str, retention| RegisterNamespaceRequest {
        namespace: name.to_owned(),
        workflow_execution_retention_period: seconds(retention),
        ..RegisterNamespaceRequest::default()
    };
    asker.ask("there is one", "RegisterNamespace", register(NAMESPACE, 86_400)).await;
    asker.ask("short retention", "RegisterNamespace", register("short", 1)).await;

    // Queries.
    asker.ask("no such workflow", "QueryWorkflow", query("none")).await;
    asker.ask("closed before its first task", "QueryWorkflow", query("closed")).await;
    asker.ask("no query", "QueryWorkflow", QueryWorkflowRequest { query: None, ..query("open") }).await;
    let rejected =
        QueryWorkflowRequest { query_reject_condition: QueryRejectCondition::NotOpen as i32, ..query("closed") };
    let rejected = client.query_workflow(within(LONG, rejected)).await.unwrap().into_inner();
    asker.told.push(("QueryWorkflow: rejected".to_owned(), format!("{:?}", rejected.query_rejected)));
    started(&mut client, start_on("queried", "queried")).await;
    let task = poll_on(&mut client, "queried").await;
    client.respond_workflow_task_completed(respond(task.task_token, Vec::new())).await.unwrap();
    let mut worker = target.client();
    let failing = tokio::spawn(async move {
        let task = poll_on(&mut worker, "queried").await;
        let answer = RespondQueryTaskCompletedRequest {
            namespace: NAMESPACE.to_owned(),
            task_token: task.task_token,
            completed_type: QueryResultType::Failed as i32,
            error_message: "no such state".to_owned(),
            failure: Some(Failure { message: "told by the worker".to_owned(), ..Failure::default() }),
            ..RespondQueryTaskCompletedRequest::default()
        };
        worker.respond_query_task_completed(answer).await.unwrap();
    });
    asker.ask("failed", "QueryWorkflow", query("queried")).await;
    failing.await.unwrap();

    // Task tokens.
    started(&mut client, start_on("stale", "stale")).await;
    let task = poll_on(&mut client, "stale").await;
    client
        .respond_workflow_task_completed(respond(
            task.task_token.clone(),
            vec![{
                let mut command = schedule_activity("a");
                if let Some(
                    everlog_proto::api::command::v1::command::Attributes::ScheduleActivityTaskCommandAttributes(
                        attributes,
                    ),
                ) = &mut command.attributes
                {
                    attributes.task_queue = task_queue("stale");
                }
                command
            }],
        ))
        .await
        .unwrap();
    asker.ask("stale token", "RespondWorkflowTaskCompleted", respond(task.task_token.clone(), Vec::new())).await;
    asker.ask("bad token", "RespondWorkflowTaskCompleted", respond(b"bad".to_vec(), Vec::new())).await;
    asker.ask("no token", "RespondWorkflowTaskCompleted", respond(Vec::new(), Vec::new())).await;
    let task_failed = RespondWorkflowTaskFailedRequest {
        namespace: NAMESPACE.to_owned(),
        task_token: task.task_token.clone(),
        ..RespondWorkflowTaskFailedRequest::default()
    };
    asker.ask("stale token", "RespondWorkflowTaskFailed", task_failed).await;
    let activity =
        client.poll_activity_task_queue(within(LONG, poll_activity("stale"))).await.unwrap().into_inner().task_token;
    asker.ask("good token", "RespondActivityTaskCompleted", activity_done(activity.clone())).await;
    asker.ask("stale token", "RespondActivityTaskCompleted", activity_done(activity.clone())).await;
    asker.ask("bad token", "RespondActivityTaskCompleted", activity_done(b"bad".to_vec())).await;
    let heartbeat = |task_token| RecordActivityTaskHeartbeatRequest {
        namespace: NAMESPACE.to_owned(),
        task_token,
        ..RecordActivityTaskHeartbeatRequest::default()
    };
    asker.ask("stale token", "RecordActivityTaskHeartbeat", heartbeat(activity.clone())).await;
    let failed = RespondActivityTaskFailedRequest {
        namespace: NAMESPACE.to_owned(),
        task_token: activity.clone(),
        ..RespondActivityTaskFailedRequest::default()
    };
    asker.ask("stale token", "RespondActivityTaskFailed", failed).await;
    let canceled = RespondActivityTaskCanceledRequest {
        namespace: NAMESPACE.to_owned(),
        task_token: activity,
        ..RespondActivityTaskCanceledRequest::default()
    };
    asker.ask("stale token", "RespondActivityTaskCanceled", canceled).await;
    let by_id = |workflow_id: &str, activity_id: &str| RespondActivityTaskCompletedByIdRequest {
        namespace: NAMESPACE.to_owned(),
        workflow_id: workflow_id.to_owned(),
        activity_id: activity_id.to_owned(),
        ..RespondActivityTaskCompletedByIdRequest::default()
    };
    asker.ask("no such activity", "RespondActivityTaskCompletedById", by_id("open", "none")).await;
    asker.ask("no such workflow", "RespondActivityTaskCompletedById", by_id("none", "none")).await;
    let answer = RespondQueryTaskCompletedRequest {
        namespace: NAMESPACE.to_owned(),
        task_token: b"bad".to_vec(),
        ..RespondQueryTaskCompletedRequest::default()
    };
    asker.ask("bad token", "RespondQueryTaskCompleted", answer).await;

    // Polls.
    asker.ask_within("no deadline", "PollWorkflowTaskQueue", poll_workflow("empty"), None).await;
    let short = Some(Duration::from_millis(500));
    asker.ask_within("short deadline", "PollWorkflowTaskQueue", poll_workflow("empty"), short).await;
    asker
        .ask(
            "no queue",
            "PollWorkflowTaskQueue",
            PollWorkflowTaskQueueRequest { task_queue: None, ..poll_workflow("") },
        )
        .await;
    asker.ask_within("no deadline", "PollActivityTaskQueue", poll_activity("empty"), None).await;
    let nexus = || PollNexusTaskQueueRequest {
        namespace: NAMESPACE.to_owned(),
        task_queue: task_queue("empty"),
        ..PollNexusTaskQueueRequest::default()
    };
    asker.ask_within("no deadline", "PollNexusTaskQueue", nexus(), None).await;
    let enough = Some(Duration::from_millis(2_500));
    asker.ask_within("nothing to do", "PollWorkflowTaskQueue", poll_workflow("empty"), enough).await;
    asker.ask_within("nothing to do", "PollActivityTaskQueue", poll_activity("empty"), enough).await;
    asker.ask_within("nothing to do", "PollNexusTaskQueue", nexus(), enough).await;

    let Asker { told, .. } = asker;
    target.check(told, REFUSALS).await;
}

/// As Temporal answers, but for the position in a query: it counts from the front of the SQL that it makes of it.
const REFUSALS: &[(&str, &str)] = &[
    ("StartWorkflowExecution: again, same request", "Ok"),
    (
        "StartWorkflowExecution: while open",
        "AlreadyExists: Workflow execution is already running. WorkflowId: open, RunId: RUN. [WorkflowExecutionAlreadyStartedFailure { start_request_id: \"start open\", run_id: \"RUN\", first_execution_run_id: \"RUN\" }]",
    ),
    (
        "StartWorkflowExecution: once closed",
        "AlreadyExists: Workflow execution already finished. WorkflowId: closed, RunId: RUN. Workflow Id reuse policy: reject duplicate workflow Id. [WorkflowExecutionAlreadyStartedFailure { start_request_id: \"start closed\", run_id: \"RUN\", first_execution_run_id: \"RUN\" }]",
    ),
    ("StartWorkflowExecution: no id", "InvalidArgument: WorkflowId is not set on request."),
    ("StartWorkflowExecution: no task queue", "InvalidArgument: taskQueue is not set"),
    ("StartWorkflowExecution: no type", "InvalidArgument: WorkflowType is not set on request."),
    (
        "SignalWorkflowExecution: no such workflow",
        "NotFound: workflow not found for ID: none [NotFoundFailure { current_cluster: \"\", active_cluster: \"\" }]",
    ),
    (
        "SignalWorkflowExecution: no such run",
        "NotFound: workflow execution not found for workflow ID \"open\" and run ID \"01a204fb-a099-7a46-81de-22daaaf0b2ea\" [NotFoundFailure { current_cluster: \"\", active_cluster: \"\" }]",
    ),
    ("SignalWorkflowExecution: bad run id", "InvalidArgument: Invalid RunId."),
    (
        "SignalWorkflowExecution: closed",
        "NotFound: workflow execution already completed [NotFoundFailure { current_cluster: \"\", active_cluster: \"\" }]",
    ),
    (
        "TerminateWorkflowExecution: no such workflow",
        "NotFound: workflow not found for ID: none [NotFoundFailure { current_cluster: \"\", active_cluster: \"\" }]",
    ),
    (
        "TerminateWorkflowExecution: closed",
        "NotFound: workflow execution already completed [NotFoundFailure { current_cluster: \"\", active_cluster: \"\" }]",
    ),
    (
        "RequestCancelWorkflowExecution: no such workflow",
        "NotFound: workflow not found for ID: none [NotFoundFailure { current_cluster: \"\", active_cluster: \"\" }]",
    ),
    ("RequestCancelWorkflowExecution: closed", "Ok: empty"),
    (
        "DescribeWorkflowExecution: no such workflow",
        "NotFound: workflow not found for ID: none [NotFoundFailure { current_cluster: \"\", active_cluster: \"\" }]",
    ),
    (
        "DescribeWorkflowExecution: no such run",
        "NotFound: workflow execution not found for workflow ID \"open\" and run ID \"01a204fb-a099-7a46-81de-22daaaf0b2ea\" [NotFoundFailure { current_cluster: \"\", active_cluster: \"\" }]",
    ),
    (
        "GetWorkflowExecutionHistory: no such workflow",
        "NotFound: workflow not found for ID: none [NotFoundFailure { current_cluster: \"\", active_cluster: \"\" }]",
    ),
    ("GetWorkflowExecutionHistory: bad page token", "InvalidArgument: Invalid NextPageToken."),
    ("ListWorkflowExecutions: bad query", "InvalidArgument: invalid query: invalid search attribute: Nope"),
    (
        "ListWorkflowExecutions: not a query",
        "InvalidArgument: invalid query: malformed SQL query: syntax error at position 40",
    ),
    (
        "DescribeNamespace: no such namespace",
        "NotFound: Namespace none is not found. [NamespaceNotFoundFailure { namespace: \"none\" }]",
    ),
    ("DescribeNamespace: no name", "InvalidArgument: Namespace not set on request."),
    (
        "RegisterNamespace: there is one",
        "AlreadyExists: Namespace \"default\" already exists [NamespaceAlreadyExistsFailure]",
    ),
    ("RegisterNamespace: short retention", "InvalidArgument: A valid retention period is not set on request."),
    (
        "QueryWorkflow: no such workflow",
        "NotFound: workflow not found for ID: none [NotFoundFailure { current_cluster: \"\", active_cluster: \"\" }]",
    ),
    (
        "QueryWorkflow: closed before its first task",
        "FailedPrecondition: Workflow execution closed before WorkflowTaskStarted event [WorkflowNotReadyFailure]",
    ),
    ("QueryWorkflow: no query", "InvalidArgument: WorkflowQuery is not set on request."),
    ("QueryWorkflow: rejected", "Some(QueryRejected { status: Terminated })"),
    (
        "QueryWorkflow: failed",
        "InvalidArgument: no such state [QueryFailedFailure { failure: Some(Failure { message: \"told by the worker\", source: \"\", stack_trace: \"\", encoded_attributes: None, cause: None, failure_info: None }) }]",
    ),
    (
        "RespondWorkflowTaskCompleted: stale token",
        "NotFound: Workflow task not found. [NotFoundFailure { current_cluster: \"\", active_cluster: \"\" }]",
    ),
    ("RespondWorkflowTaskCompleted: bad token", "InvalidArgument: Error deserializing task token."),
    ("RespondWorkflowTaskCompleted: no token", "InvalidArgument: Task token not set on request."),
    (
        "RespondWorkflowTaskFailed: stale token",
        "NotFound: Workflow task not found. [NotFoundFailure { current_cluster: \"\", active_cluster: \"\" }]",
    ),
    ("RespondActivityTaskCompleted: good token", "Ok: empty"),
    (
        "RespondActivityTaskCompleted: stale token",
        "NotFound: invalid activityID or activity already timed out or invoking workflow is completed [NotFoundFailure { current_cluster: \"\", active_cluster: \"\" }]",
    ),
    ("RespondActivityTaskCompleted: bad token", "InvalidArgument: Error deserializing task token."),
    (
        "RecordActivityTaskHeartbeat: stale token",
        "NotFound: invalid activityID or activity already timed out or invoking workflow is completed [NotFoundFailure { current_cluster: \"\", active_cluster: \"\" }]",
    ),
    (
        "RespondActivityTaskFailed: stale token",
        "NotFound: invalid activityID or activity already timed out or invoking workflow is completed [NotFoundFailure { current_cluster: \"\", active_cluster: \"\" }]",
    ),
    (
        "RespondActivityTaskCanceled: stale token",
        "NotFound: invalid activityID or activity already timed out or invoking workflow is completed [NotFoundFailure { current_cluster: \"\", active_cluster: \"\" }]",
    ),
    (
        "RespondActivityTaskCompletedById: no such activity",
        "NotFound: cannot find pending activity with ActivityID none, check workflow execution history for more details [NotFoundFailure { current_cluster: \"\", active_cluster: \"\" }]",
    ),
    (
        "RespondActivityTaskCompletedById: no such workflow",
        "NotFound: workflow not found for ID: none [NotFoundFailure { current_cluster: \"\", active_cluster: \"\" }]",
    ),
    ("RespondQueryTaskCompleted: bad token", "InvalidArgument: Error deserializing task token."),
    ("PollWorkflowTaskQueue: no deadline", "InvalidArgument: Context timeout is not set."),
    ("PollWorkflowTaskQueue: short deadline", "FailedPrecondition: Context timeout is too short."),
    ("PollWorkflowTaskQueue: no queue", "InvalidArgument: taskQueue is not set"),
    ("PollActivityTaskQueue: no deadline", "InvalidArgument: Context timeout is not set."),
    ("PollNexusTaskQueue: no deadline", "InvalidArgument: Context timeout is not set."),
    ("PollWorkflowTaskQueue: nothing to do", "Ok: empty"),
    ("PollActivityTaskQueue: nothing to do", "Ok: empty"),
    ("PollNexusTaskQueue: nothing to do", "Ok: empty"),
];
