//! Tables of what becomes of a request to start a workflow.

use everlog_kernel::{
    Command, Context, Ids, Limits, Namespace, NamespaceId, Rejection, Reply, RowKey, RunCommand, Time, Transition,
    Workflow, decide,
};
use everlog_proto::api::common::v1::link::{BatchJob, Variant};
use everlog_proto::api::common::v1::{
    Callback, Link, Memo, Payload, Payloads, Priority, RetryPolicy, WorkflowType, callback,
};
use everlog_proto::api::taskqueue::v1::TaskQueue;
use everlog_proto::api::workflow::v1::VersioningOverride;
use everlog_proto::api::workflowservice::v1::{
    RequestCancelWorkflowExecutionRequest, SignalWithStartWorkflowExecutionRequest, StartWorkflowExecutionRequest,
    TerminateWorkflowExecutionRequest,
};
use everlog_proto::wkt::Duration;

const ALLOW_DUPLICATE: i32 = 1;
const ALLOW_DUPLICATE_FAILED_ONLY: i32 = 2;
const REJECT_DUPLICATE: i32 = 3;
const TERMINATE_IF_RUNNING: i32 = 4;
const FAIL: i32 = 1;
const USE_EXISTING: i32 = 2;
const TERMINATE_EXISTING: i32 = 3;

struct Server {
    namespace: Namespace,
    limits: Limits,
    ids: Ids,
    now: Time,
}

impl Server {
    fn new() -> Server {
        let namespace = Namespace {
            id: NamespaceId([7; 16]),
            name: "default".into(),
            retention: std::time::Duration::from_secs(3600),
            ..Namespace::default()
        };
        Server { namespace, limits: Limits::default(), ids: Ids::new(1), now: Time(1_000_000_000) }
    }

    /// The reply as a line, and the transition if there is one.
    fn decide(&mut self, workflow: &mut Workflow, command: impl Into<Command>) -> (String, Option<Transition>) {
        self.start(workflow, Ok(command.into()))
    }

    /// The same of a start, which may be an invalid one.
    fn start(&mut self, workflow: &mut Workflow, command: Result<Command, Rejection>) -> (String, Option<Transition>) {
        let command = match command {
            Ok(command) => command,
            Err(rejection) => return (rejection.to_string(), None),
        };
        self.now = Time(self.now.0 + 1_000_000);
        let mut ctx = Context {
            now: self.now,
            latest: self.now,
            namespace: &self.namespace,
            limits: &self.limits,
            ids: &mut self.ids,
        };
        match decide(workflow, None, command, &mut ctx) {
            Err(rejection) => (rejection.to_string(), None),
            Ok(transition) => {
                let reply = match &transition.reply {
                    Ok(Reply::Started(started)) => {
                        let current = workflow.current.as_ref().map(|current| current.run_id);
                        assert_eq!(Some(started.run_id), current, "the reply names the current run");
                        format!("started={} {:?}", started.started, started.status)
                    }
                    other => format!("{other:?}"),
                };
                (reply, Some(transition))
            }
        }
    }
}

fn request(request_id: &str) -> StartWorkflowExecutionRequest {
    StartWorkflowExecutionRequest {
        workflow_id: "w".into(),
        workflow_type: Some(WorkflowType { name: "type".into() }),
        task_queue: Some(TaskQueue { name: "queue".into(), ..TaskQueue::default() }),
        request_id: request_id.into(),
        ..StartWorkflowExecutionRequest::default()
    }
}

fn start(request: StartWorkflowExecutionRequest) -> Result<Command, Rejection> {
    Command::start(request, &Limits::default())
}

#[test]
fn policies() {
    let running = "Workflow execution is already running. WorkflowId: w, RunId: <run>.";
    let finished = "Workflow execution already finished. WorkflowId: w, RunId: <run>. Workflow Id reuse policy: reject duplicate \
                    workflow Id.";
    let incompatible = "Invalid WorkflowIDReusePolicy: WORKFLOW_ID_REUSE_POLICY_TERMINATE_IF_RUNNING cannot be used together \
                        with a WorkflowIDConflictPolicy";
    let reject_and_terminate = "Invalid WorkflowIDReusePolicy: WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE cannot be used \
                                together with WorkflowIdConflictPolicy WORKFLOW_ID_CONFLICT_POLICY_TERMINATE_EXISTING";
    // Is the current run open? The request's id, its reuse and its conflict policy; the reply; and how many runs are there then.
    let cases = [
        (true, "other", 0, 0, running, 1),
        (true, "other", ALLOW_DUPLICATE, FAIL, running, 1),
        (true, "other", REJECT_DUPLICATE, 0, running, 1),
        (true, "other", 0, USE_EXISTING, "started=false Running", 1),
        (true, "other", 0, TERMINATE_EXISTING, "started=true Running", 2),
        (true, "other", TERMINATE_IF_RUNNING, 0, "started=true Running", 2),
        (true, "other", TERMINATE_IF_RUNNING, FAIL, incompatible, 1),
        (true, "other", REJECT_DUPLICATE, TERMINATE_EXISTING, reject_and_terminate, 1),
        (true, "first", 0, 0, "started=true Running", 1),
        (true, "first", 0, TERMINATE_EXISTING, "started=true Running", 1),
        (false, "first", REJECT_DUPLICATE, 0, "started=true Terminated", 1),
        (false, "other", 0, 0, "started=true Running", 2),
        (false, "other", ALLOW_DUPLICATE, FAIL, "started=true Running", 2),
        (false, "other", ALLOW_DUPLICATE, USE_EXISTING, "started=true Running", 2),
        (false, "other", ALLOW_DUPLICATE_FAILED_ONLY, 0, "started=true Running", 2),
        (false, "other", TERMINATE_IF_RUNNING, 0, "started=true Running", 2),
        (false, "other", REJECT_DUPLICATE, 0, finished, 1),
    ];
    for (open, request_id, reuse, conflict, expected, runs) in cases {
        let mut server = Server::new();
        let mut workflow = Workflow::new("w");
        assert_eq!(server.start(&mut workflow, start(request("first"))).0, "started=true Running");
        if !open {
            let terminate = TerminateWorkflowExecutionRequest::default();
            assert_eq!(server.decide(&mut workflow, RunCommand::TerminateWorkflow(Box::new(terminate))).0, "Ok(Done)");
        }
        let first = workflow.current.as_ref().expect("a current run").run_id.to_string();
        let again = StartWorkflowExecutionRequest {
            workflow_id_reuse_policy: reuse,
            workflow_id_conflict_policy: conflict,
            ..request(request_id)
        };
        let (reply, transition) = server.start(&mut workflow, start(again));
        let case = format!("open={open} request={request_id} reuse={reuse} conflict={conflict}");
        assert_eq!(reply, expected.replace("<run>", &first), "{case}");
        assert_eq!(workflow.runs.len(), runs, "{case}");
        let open_runs = workflow.runs.values().filter(|run| run.is_open()).count();
        assert!(open_runs <= 1, "{case}: at most one open run");
        let makes_current =
            transition.iter().flat_map(|transition| &transition.rows).any(|row| row.0 == RowKey::Current);
        assert_eq!(makes_current, runs == 2, "{case}: the pointer moves with a new run");
    }
}

#[test]
fn refusals() {
    let secs = |seconds| Some(Duration { seconds, nanos: 0 });
    let payloads = |bytes| Payloads { payloads: vec![Payload { data: vec![0; bytes], ..Payload::default() }] };
    let long = "x".repeat(1001);
    let base = || request("r");
    let nexus = |url: &str| {
        Some(callback::Variant::Nexus(callback::Nexus { url: url.to_owned(), ..callback::Nexus::default() }))
    };
    let callback = |variant| StartWorkflowExecutionRequest {
        completion_callbacks: vec![Callback { variant, ..Callback::default() }],
        ..base()
    };
    let policy = |policy: RetryPolicy| StartWorkflowExecutionRequest { retry_policy: Some(policy), ..base() };
    let cases = [
        (StartWorkflowExecutionRequest { workflow_id: String::new(), ..base() }, "WorkflowId is not set on request."),
        (
            StartWorkflowExecutionRequest { workflow_id: long.clone(), ..base() },
            "WorkflowId exceeds maximum allowed length (1001/1000)",
        ),
        (
            StartWorkflowExecutionRequest { links: vec![Link::default(); 11], ..base() },
            "cannot attach more than 10 links per request, got 11",
        ),
        (
            StartWorkflowExecutionRequest {
                priority: Some(Priority { fairness_key: "x".repeat(65), ..Priority::default() }),
                ..base()
            },
            "fairness key length exceeds limit",
        ),
        (
            policy(RetryPolicy { maximum_interval: secs(-1), ..RetryPolicy::default() }),
            "invalid MaximumInterval set on retry policy: negative duration",
        ),
        (StartWorkflowExecutionRequest { workflow_type: None, ..base() }, "WorkflowType is not set on request."),
        (
            StartWorkflowExecutionRequest { workflow_type: Some(WorkflowType { name: long.clone() }), ..base() },
            "WorkflowType length exceeds limit.",
        ),
        (StartWorkflowExecutionRequest { task_queue: None, ..base() }, "taskQueue is not set"),
        (StartWorkflowExecutionRequest { task_queue: Some(TaskQueue::default()), ..base() }, "missing task queue name"),
        (
            StartWorkflowExecutionRequest {
                task_queue: Some(TaskQueue { name: "/_sys/q".into(), ..TaskQueue::default() }),
                ..base()
            },
            "task queue name cannot start with reserved prefix /_sys/",
        ),
        (
            StartWorkflowExecutionRequest { workflow_run_timeout: secs(-1), ..base() },
            "An invalid WorkflowRunTimeoutSeconds is set on request. cause: negative duration",
        ),
        (
            StartWorkflowExecutionRequest { workflow_start_delay: secs(-1), ..base() },
            "An invalid WorkflowStartDelaySeconds is set on request. cause: negative duration",
        ),
        (
            StartWorkflowExecutionRequest { workflow_task_timeout: Some(Duration { seconds: 1, nanos: -1 }), ..base() },
            "An invalid WorkflowTaskTimeoutSeconds is set on request. cause: duration has seconds and nanos with different signs",
        ),
        (StartWorkflowExecutionRequest { links: vec![Link::default()], ..base() }, "unsupported link variant"),
        (StartWorkflowExecutionRequest { request_id: long, ..base() }, "RequestId length exceeds limit."),
        (
            policy(RetryPolicy { backoff_coefficient: 0.5, ..RetryPolicy::default() }),
            "BackoffCoefficient cannot be less than 1 on retry policy.",
        ),
        (
            policy(RetryPolicy { maximum_attempts: -1, ..RetryPolicy::default() }),
            "MaximumAttempts cannot be negative on retry policy.",
        ),
        (
            policy(RetryPolicy { initial_interval: secs(5), maximum_interval: secs(4), ..RetryPolicy::default() }),
            "MaximumInterval cannot be less than InitialInterval on retry policy.",
        ),
        (
            policy(RetryPolicy { initial_interval: secs(-1), ..RetryPolicy::default() }),
            "invalid InitialInterval set on retry policy: negative duration",
        ),
        (
            StartWorkflowExecutionRequest {
                cron_schedule: "* * * * *".into(),
                workflow_start_delay: secs(1),
                ..base()
            },
            "CronSchedule and WorkflowStartDelay may not be used together.",
        ),
        (StartWorkflowExecutionRequest { cron_schedule: "daily".into(), ..base() }, "invalid CronSchedule."),
        (
            StartWorkflowExecutionRequest { cron_schedule: "0 0 30 2 *".into(), ..base() },
            "invalid CronSchedule, no time can be found to satisfy the schedule",
        ),
        (
            StartWorkflowExecutionRequest {
                priority: Some(Priority { priority_key: -1, ..Priority::default() }),
                ..base()
            },
            "priority key can't be negative",
        ),
        (callback(None), "unknown callback variant: <nil>"),
        (callback(nexus("")), "invalid url: unknown scheme: "),
        (callback(nexus("ftp://x")), "invalid url: unknown scheme: ftp://x"),
        (callback(nexus("temporal://other")), "invalid url: unknown scheme: temporal://other"),
        (callback(nexus("http:///path")), "invalid url: missing host"),
        (
            callback(nexus("https://x/y")),
            "invalid url: url does not match any configured callback address: https://x/y",
        ),
        (
            callback(Some(callback::Variant::Internal(callback::Internal::default()))),
            "unsupported callback variant: *common.Callback_Internal_",
        ),
        (
            StartWorkflowExecutionRequest { versioning_override: Some(VersioningOverride::default()), ..base() },
            "override behavior is required",
        ),
        (
            StartWorkflowExecutionRequest { input: Some(payloads(2 * 1024 * 1024)), ..base() },
            "Blob data size exceeds limit.",
        ),
        (
            StartWorkflowExecutionRequest {
                memo: Some(Memo { fields: [("k".into(), payloads(2 * 1024 * 1024).payloads.remove(0))].into() }),
                ..base()
            },
            "Memo size exceeds limit.",
        ),
    ];
    for (request, expected) in cases {
        let mut workflow = Workflow::new("w");
        assert_eq!(Server::new().start(&mut workflow, start(request)).0, expected);
        assert!(workflow.runs.is_empty() && workflow.current.is_none(), "a refusal changes nothing: {expected}");
    }
    let link = Link { variant: Some(Variant::BatchJob(BatchJob { job_id: "j".into() })) };
    let links = || StartWorkflowExecutionRequest { links: vec![link.clone(); 11], ..base() };
    assert!(Command::start(links(), &Limits { links_max: 11, ..Limits::default() }).is_ok());
    let once = RetryPolicy { backoff_coefficient: 0.5, maximum_attempts: 1, ..RetryPolicy::default() };
    assert!(start(policy(once)).is_ok(), "a policy that retries nothing is not looked at");
}

/// Timeouts as they are given, and as they apply: execution, run and task, in seconds; 0 for none.
#[test]
fn timeouts() {
    let cases = [
        ([0, 0, 0], [0, 0, 10]),
        ([0, 0, 500], [0, 0, 120]),
        ([60, 0, 0], [60, 60, 10]),
        ([60, 90, 0], [60, 60, 10]),
        ([60, 30, 0], [60, 30, 10]),
        ([0, 5, 0], [0, 5, 5]),
        ([0, 30, 20], [0, 30, 20]),
    ];
    for (given, expected) in cases {
        let secs = |seconds: i64| (seconds > 0).then_some(Duration { seconds, nanos: 0 });
        let mut workflow = Workflow::new("w");
        let request = StartWorkflowExecutionRequest {
            workflow_execution_timeout: secs(given[0]),
            workflow_run_timeout: secs(given[1]),
            workflow_task_timeout: secs(given[2]),
            ..request("r")
        };
        Server::new().start(&mut workflow, start(request));
        let run = workflow.current_run().expect("the run");
        let started = run.info.started.decode();
        let actual =
            [&started.workflow_execution_timeout, &started.workflow_run_timeout, &started.workflow_task_timeout]
                .map(|timeout| timeout.as_ref().map_or(0, |timeout| timeout.seconds));
        assert_eq!(actual, expected, "{given:?}");
        let after = |time: Option<Time>| time.map_or(0, |time| (time.0 - run.info.start_time.0) / 1_000_000_000);
        assert_eq!([after(run.info.execution_expiration), after(run.info.run_expiration)], expected[..2], "{given:?}");
    }
}

#[test]
fn signal_with_start_and_chain_checks() {
    let mut server = Server::new();
    let mut workflow = Workflow::new("w");
    let signal = |request_id: &str, conflict| {
        let start = request(request_id);
        let request = SignalWithStartWorkflowExecutionRequest {
            workflow_id: start.workflow_id,
            workflow_type: start.workflow_type,
            task_queue: start.task_queue,
            request_id: start.request_id,
            workflow_id_conflict_policy: conflict,
            signal_name: "s".into(),
            ..SignalWithStartWorkflowExecutionRequest::default()
        };
        Command::signal_with_start(request, &Limits::default())
    };
    let fail =
        "Invalid WorkflowIDConflictPolicy: WORKFLOW_ID_CONFLICT_POLICY_FAIL is not supported for this operation.";
    assert_eq!(server.start(&mut workflow, signal("a", FAIL)).0, fail);
    // Started, signaled, and a workflow task scheduled.
    assert_eq!(server.start(&mut workflow, signal("a", 0)).0, "started=true Running");
    assert_eq!(workflow.current_run().expect("the run").state.next_event_id, 4);
    // The same request again changes nothing; another one is one more signal.
    assert_eq!(server.start(&mut workflow, signal("a", 0)).0, "started=false Running");
    assert_eq!(workflow.current_run().expect("the run").state.next_event_id, 4);
    assert_eq!(server.start(&mut workflow, signal("b", 0)).0, "started=false Running");
    assert_eq!(workflow.current_run().expect("the run").state.next_event_id, 5);
    assert_eq!(server.start(&mut workflow, signal("c", TERMINATE_EXISTING)).0, "started=true Running");
    assert_eq!(workflow.runs.len(), 2);

    let first_run = workflow.current_run().expect("the run").id.to_string();
    let cancel = |first_execution_run_id: &str| {
        RunCommand::RequestCancelWorkflow(Box::new(RequestCancelWorkflowExecutionRequest {
            first_execution_run_id: first_execution_run_id.into(),
            ..RequestCancelWorkflowExecutionRequest::default()
        }))
    };
    let terminate = |first_execution_run_id: &str| {
        RunCommand::TerminateWorkflow(Box::new(TerminateWorkflowExecutionRequest {
            first_execution_run_id: first_execution_run_id.into(),
            ..TerminateWorkflowExecutionRequest::default()
        }))
    };
    assert_eq!(server.decide(&mut workflow, cancel("another chain")).0, "workflow execution not found");
    assert_eq!(server.decide(&mut workflow, terminate("another chain")).0, "workflow execution not found");
    assert_eq!(server.decide(&mut workflow, cancel(&first_run)).0, "Ok(Done)");
    assert_eq!(workflow.current_run().expect("the run").state.next_event_id, 5);
    assert_eq!(server.decide(&mut workflow, cancel("")).0, "Ok(Done)", "a second request changes nothing");
    assert_eq!(workflow.current_run().expect("the run").state.next_event_id, 5);
    assert_eq!(server.decide(&mut workflow, terminate(&first_run)).0, "Ok(Done)");
    assert_eq!(server.decide(&mut workflow, terminate("")).0, "workflow execution already completed");
    assert_eq!(server.decide(&mut workflow, cancel("")).0, "Ok(Done)", "a closed workflow need not be cancelled");
}
