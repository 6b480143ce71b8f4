//! Requests and workflow commands from a script's arguments.

use everlog_kernel::nexus::{NexusEnd, NexusOutcome};
use everlog_kernel::outbox::{
    CallbackToken, ChildClosed, MessageBody, NexusCompleted, OutboxMessage, ParentClosed, SYSTEM_CALLBACK, StartChild,
    child_run_id,
};
use everlog_kernel::{NamespaceId, RunId, Time};
use everlog_proto::api::activity::v1::ActivityOptions;
use everlog_proto::api::command::v1::command::Attributes;
use everlog_proto::api::command::v1::{
    CancelTimerCommandAttributes, CancelWorkflowExecutionCommandAttributes, Command,
    CompleteWorkflowExecutionCommandAttributes, ContinueAsNewWorkflowExecutionCommandAttributes,
    FailWorkflowExecutionCommandAttributes, ModifyWorkflowPropertiesCommandAttributes,
    ProtocolMessageCommandAttributes, RecordMarkerCommandAttributes, RequestCancelActivityTaskCommandAttributes,
    RequestCancelExternalWorkflowExecutionCommandAttributes, RequestCancelNexusOperationCommandAttributes,
    ScheduleActivityTaskCommandAttributes, ScheduleNexusOperationCommandAttributes,
    SignalExternalWorkflowExecutionCommandAttributes, StartChildWorkflowExecutionCommandAttributes,
    StartTimerCommandAttributes, UpsertWorkflowSearchAttributesCommandAttributes,
};
use everlog_proto::api::common::v1::{
    ActivityType, Callback, Header, Link, Memo, Payload, Priority, RetryPolicy, SearchAttributes, WorkflowExecution,
    WorkflowType, callback, link,
};
use everlog_proto::api::enums::v1::{
    CommandType, ParentClosePolicy, ResetReapplyExcludeType, ResetReapplyType, WorkflowExecutionStatus,
    WorkflowIdConflictPolicy, WorkflowIdReusePolicy,
};
use everlog_proto::api::failure::v1::failure::FailureInfo;
use everlog_proto::api::failure::v1::{ApplicationFailureInfo, CanceledFailureInfo, Failure};
use everlog_proto::api::history::v1::StartChildWorkflowExecutionInitiatedEventAttributes;
use everlog_proto::api::sdk::v1::UserMetadata;
use everlog_proto::api::taskqueue::v1::TaskQueue;
use everlog_proto::api::update::v1::{Input, Meta, Request};
use everlog_proto::api::workflow::v1::{OnConflictOptions, WorkflowExecutionOptions};
use everlog_proto::api::workflowservice::v1::{
    PauseActivityRequest, ResetActivityRequest, ResetWorkflowExecutionRequest, SignalWithStartWorkflowExecutionRequest,
    StartWorkflowExecutionRequest, UnpauseActivityRequest, UpdateActivityOptionsRequest,
    UpdateWorkflowExecutionOptionsRequest, pause_activity_request, reset_activity_request, unpause_activity_request,
    update_activity_options_request,
};
use everlog_proto::wkt;

use crate::arguments::{Arguments, Outcome, payload};

/// An update called `name`.
pub(crate) fn update(update_id: String, name: String) -> Request {
    Request {
        meta: Some(Meta { update_id, identity: "client".to_owned() }),
        input: Some(Input { name, ..Input::default() }),
        ..Request::default()
    }
}

/// `start queue=q type=T input=1 request-id=r run-timeout=10s execution-timeout=20s task-timeout=10s delay=5s reuse=...
/// conflict=... memo-KEY=... sa-KEY=... summary=... cron=... priority=1 fairness=KEY weight=2 eager=true link=...
/// attach=...` and a retry policy (see [`retry_policy`]).
pub(crate) fn start(arguments: &mut Arguments<'_>) -> Outcome<StartWorkflowExecutionRequest> {
    Ok(StartWorkflowExecutionRequest {
        workflow_id: "wf".to_owned(),
        workflow_type: Some(WorkflowType { name: arguments.string("type", "T") }),
        task_queue: Some(task_queue(arguments.text("queue").unwrap_or("q"))),
        input: arguments.payloads("input"),
        workflow_execution_timeout: arguments.duration("execution-timeout")?,
        workflow_run_timeout: arguments.duration("run-timeout")?,
        workflow_task_timeout: arguments.duration("task-timeout")?,
        identity: arguments.string("identity", "client"),
        request_id: arguments.string("request-id", "start-1"),
        workflow_id_reuse_policy: arguments.enumeration(
            "reuse",
            "WORKFLOW_ID_REUSE_POLICY_",
            WorkflowIdReusePolicy::from_str_name,
        )?,
        workflow_id_conflict_policy: arguments.enumeration(
            "conflict",
            "WORKFLOW_ID_CONFLICT_POLICY_",
            WorkflowIdConflictPolicy::from_str_name,
        )?,
        retry_policy: retry_policy(arguments)?,
        cron_schedule: arguments.string("cron", ""),
        memo: memo(arguments),
        search_attributes: search_attributes(arguments),
        header: header(arguments),
        workflow_start_delay: arguments.duration("delay")?,
        user_metadata: user_metadata(arguments),
        priority: priority(arguments)?,
        request_eager_execution: arguments.flag("eager")?,
        links: links(arguments),
        completion_callbacks: callbacks(arguments),
        on_conflict_options: on_conflict(arguments),
        ..StartWorkflowExecutionRequest::default()
    })
}

/// `priority=1 fairness=KEY weight=2`, any of them.
fn priority(arguments: &mut Arguments<'_>) -> Outcome<Option<Priority>> {
    let (priority_key, fairness_key) = (arguments.number("priority")?, arguments.text("fairness"));
    let fairness_weight = arguments.number("weight")?;
    let is_given = priority_key.is_some() || fairness_key.is_some() || fairness_weight.is_some();
    Ok(is_given.then(|| Priority {
        priority_key: priority_key.unwrap_or_default(),
        fairness_key: fairness_key.unwrap_or_default().to_owned(),
        fairness_weight: fairness_weight.unwrap_or_default(),
    }))
}

/// `link=workflow-id`.
fn links(arguments: &mut Arguments<'_>) -> Vec<Link> {
    let to = arguments.text("link").map(|id| link::WorkflowEvent {
        namespace: "default".to_owned(),
        workflow_id: id.to_owned(),
        run_id: "run".to_owned(),
        ..Default::default()
    });
    to.map(|to| Link { variant: Some(link::Variant::WorkflowEvent(to)) }).into_iter().collect()
}

/// `callback=EVENT`: a workflow waits for this one as for an operation that it has scheduled with that event.
fn callbacks(arguments: &mut Arguments<'_>) -> Vec<Callback> {
    let callback = arguments.text("callback").map(|event| {
        let token = CallbackToken {
            namespace_id: NamespaceId([7; 16]),
            workflow_id: "caller".to_owned(),
            run_id: RunId([5; 16]),
            scheduled_event_id: event.parse().unwrap_or_default(),
            request_id: "request".to_owned(),
        };
        let header = [
            ("Temporal-Callback-Token".to_owned(), token.encode()),
            ("Nexus-Operation-Token".to_owned(), "token".to_owned()),
        ];
        let nexus = callback::Nexus { url: SYSTEM_CALLBACK.to_owned(), header: header.into() };
        Callback { variant: Some(callback::Variant::Nexus(nexus)), links: Vec::new() }
    });
    callback.into_iter().collect()
}

/// What became of a call: `started [token=]`, `completed [result=]`, `failed failure=`, `canceled canceled-failure=`, `not-started failure=
/// [retried=true]`, `cancel-taken`, `cancel-not-taken failure= [retried=true]`.
pub(crate) fn nexus_outcome(arguments: &mut Arguments<'_>) -> Outcome<NexusOutcome> {
    let what = arguments.expected("what became of the call")?;
    let (result, told) = (arguments.text("result").map(payload), failure(arguments)?);
    let (is_retryable, failure) = (arguments.flag("retried")?, Box::new(told.unwrap_or_default()));
    let ended = |end| NexusOutcome::Ended { end, links: Vec::new() };
    Ok(match what {
        "started" => {
            NexusOutcome::Started { operation_token: arguments.string("token", "token"), links: links(arguments) }
        }
        "completed" => ended(NexusEnd::Completed(result)),
        "failed" => ended(NexusEnd::Failed(failure)),
        "canceled" => ended(NexusEnd::Canceled(failure)),
        "not-started" => NexusOutcome::NotStarted { failure, is_retryable },
        "cancel-taken" => NexusOutcome::CancelTaken,
        "cancel-not-taken" => NexusOutcome::CancelNotTaken { failure, is_retryable },
        other => return Err(format!("unknown outcome {other}").into()),
    })
}

/// The end of an operation that goes on by itself: `[result= failure= canceled-failure=]`.
pub(crate) fn nexus_completed(
    arguments: &mut Arguments<'_>,
    scheduled_event_id: i64,
    request_id: String,
) -> Outcome<OutboxMessage> {
    let is_canceled = arguments.has("canceled-failure");
    let completed = NexusCompleted {
        namespace_id: vec![7; 16].into(),
        scheduled_event_id,
        request_id,
        operation_token: "token".to_owned(),
        result: arguments.text("result").map(payload),
        failure: failure(arguments)?,
        is_canceled,
        ..NexusCompleted::default()
    };
    Ok(OutboxMessage {
        namespace_id: NamespaceId([7; 16]),
        source_workflow_id: "handler".to_owned(),
        source_run_id: RunId([5; 16]),
        origin_run_id: None,
        event_id: -1,
        sent: Time(0),
        target_workflow_id: "wf".to_owned(),
        target_run_id: None,
        body: MessageBody::NexusCompleted(Box::new(completed)),
    })
}

/// `attach=request-id,links,callbacks`; `attach=` for options that attach nothing.
fn on_conflict(arguments: &mut Arguments<'_>) -> Option<OnConflictOptions> {
    arguments.text("attach").map(|what| OnConflictOptions {
        attach_request_id: what.split(',').any(|part| part == "request-id"),
        attach_links: what.split(',').any(|part| part == "links"),
        attach_completion_callbacks: what.split(',').any(|part| part == "callbacks"),
    })
}

/// The arguments of [`start`], and `signal=name signal-input=1`.
pub(crate) fn signal_with_start(arguments: &mut Arguments<'_>) -> Outcome<SignalWithStartWorkflowExecutionRequest> {
    let signal_name = arguments.string("signal", "s");
    let signal_input = arguments.payloads("signal-input");
    let start = start(arguments)?;
    Ok(SignalWithStartWorkflowExecutionRequest {
        workflow_id: start.workflow_id,
        workflow_type: start.workflow_type,
        task_queue: start.task_queue,
        input: start.input,
        workflow_execution_timeout: start.workflow_execution_timeout,
        workflow_run_timeout: start.workflow_run_timeout,
        workflow_task_timeout: start.workflow_task_timeout,
        identity: start.identity,
        request_id: start.request_id,
        workflow_id_reuse_policy: start.workflow_id_reuse_policy,
        workflow_id_conflict_policy: start.workflow_id_conflict_policy,
        signal_name,
        signal_input,
        retry_policy: start.retry_policy,
        cron_schedule: start.cron_schedule,
        memo: start.memo,
        search_attributes: start.search_attributes,
        header: start.header,
        workflow_start_delay: start.workflow_start_delay,
        user_metadata: start.user_metadata,
        priority: start.priority,
        ..SignalWithStartWorkflowExecutionRequest::default()
    })
}

/// `retry-initial=1s retry-coefficient=2 retry-max=10s retry-attempts=3 retry-not=TypeA,TypeB`; none of them: no policy.
fn retry_policy(arguments: &mut Arguments<'_>) -> Outcome<Option<RetryPolicy>> {
    let policy = RetryPolicy {
        initial_interval: arguments.duration("retry-initial")?,
        backoff_coefficient: arguments.number("retry-coefficient")?.unwrap_or_default(),
        maximum_interval: arguments.duration("retry-max")?,
        maximum_attempts: arguments.number("retry-attempts")?.unwrap_or_default(),
        non_retryable_error_types: arguments
            .text("retry-not")
            .map(|types| types.split(',').map(str::to_owned).collect())
            .unwrap_or_default(),
    };
    Ok((policy != RetryPolicy::default()).then_some(policy))
}

/// Which activities an operator names: `ID`, or `type=T`, or all of them.
macro_rules! named_activities {
    ($arguments:ident, $request:ident, $all:expr) => {
        match ($arguments.positional(), $arguments.text("type")) {
            (Some(id), _) => Some($request::Activity::Id(id.to_owned())),
            (None, Some(name)) => Some($request::Activity::Type(name.to_owned())),
            (None, None) => $all,
        }
    };
}

pub(crate) fn pause_activity(arguments: &mut Arguments<'_>) -> Outcome<PauseActivityRequest> {
    Ok(PauseActivityRequest {
        activity: named_activities!(arguments, pause_activity_request, None),
        identity: "operator".to_owned(),
        reason: arguments.string("reason", ""),
        request_id: arguments.string("request-id", ""),
        ..PauseActivityRequest::default()
    })
}

pub(crate) fn unpause_activity(arguments: &mut Arguments<'_>) -> Outcome<UnpauseActivityRequest> {
    let all = Some(unpause_activity_request::Activity::UnpauseAll(true));
    Ok(UnpauseActivityRequest {
        activity: named_activities!(arguments, unpause_activity_request, all),
        reset_attempts: arguments.flag("attempts")?,
        reset_heartbeat: arguments.flag("heartbeat")?,
        jitter: arguments.duration("jitter")?,
        ..UnpauseActivityRequest::default()
    })
}

pub(crate) fn reset_activity(arguments: &mut Arguments<'_>) -> Outcome<ResetActivityRequest> {
    let all = Some(reset_activity_request::Activity::MatchAll(true));
    Ok(ResetActivityRequest {
        activity: named_activities!(arguments, reset_activity_request, all),
        reset_heartbeat: arguments.flag("heartbeat")?,
        keep_paused: arguments.flag("keep")?,
        jitter: arguments.duration("jitter")?,
        restore_original_options: arguments.flag("restore")?,
        ..ResetActivityRequest::default()
    })
}

pub(crate) fn update_activity_options(arguments: &mut Arguments<'_>) -> Outcome<UpdateActivityOptionsRequest> {
    let all = Some(update_activity_options_request::Activity::MatchAll(true));
    let activity = named_activities!(arguments, update_activity_options_request, all);
    let options = ActivityOptions {
        task_queue: arguments.text("queue").map(task_queue),
        schedule_to_close_timeout: arguments.duration("schedule-to-close")?,
        start_to_close_timeout: arguments.duration("start-to-close")?,
        retry_policy: retry_policy(arguments)?,
        priority: priority(arguments)?,
        ..ActivityOptions::default()
    };
    let policy = options.retry_policy.as_ref();
    let paths = [
        ("task_queue.name", options.task_queue.is_some()),
        ("schedule_to_close_timeout", options.schedule_to_close_timeout.is_some()),
        ("start_to_close_timeout", options.start_to_close_timeout.is_some()),
        ("retry_policy.initial_interval", policy.is_some_and(|policy| policy.initial_interval.is_some())),
        ("retry_policy.maximum_attempts", policy.is_some_and(|policy| policy.maximum_attempts != 0)),
        ("priority", options.priority.is_some()),
    ];
    Ok(UpdateActivityOptionsRequest {
        activity,
        update_mask: Some(mask(paths.into_iter().filter(|(_, is_given)| *is_given).map(|(path, _)| path))),
        activity_options: Some(options),
        restore_original: arguments.flag("restore")?,
        ..UpdateActivityOptionsRequest::default()
    })
}

pub(crate) fn update_workflow_options(arguments: &mut Arguments<'_>) -> Outcome<UpdateWorkflowExecutionOptionsRequest> {
    let options = WorkflowExecutionOptions { priority: priority(arguments)?, ..WorkflowExecutionOptions::default() };
    Ok(UpdateWorkflowExecutionOptionsRequest {
        workflow_execution_options: Some(options),
        update_mask: Some(mask(["priority"])),
        identity: "operator".to_owned(),
        ..UpdateWorkflowExecutionOptionsRequest::default()
    })
}

fn mask<'p>(paths: impl IntoIterator<Item = &'p str>) -> wkt::FieldMask {
    wkt::FieldMask { paths: paths.into_iter().map(str::to_owned).collect() }
}

/// `failure=message failure-type=T non-retryable=true retry-delay=5s`; `canceled-failure=message` for a cancellation.
pub(crate) fn failure(arguments: &mut Arguments<'_>) -> Outcome<Option<Failure>> {
    if let Some(message) = arguments.text("canceled-failure") {
        let info = FailureInfo::CanceledFailureInfo(CanceledFailureInfo::default());
        return Ok(Some(Failure { message: message.to_owned(), failure_info: Some(info), ..Failure::default() }));
    }
    let info = ApplicationFailureInfo {
        r#type: arguments.string("failure-type", ""),
        non_retryable: arguments.flag("non-retryable")?,
        next_retry_delay: arguments.duration("retry-delay")?,
        ..ApplicationFailureInfo::default()
    };
    Ok(arguments.text("failure").map(|message| Failure {
        message: message.to_owned(),
        failure_info: Some(FailureInfo::ApplicationFailureInfo(info)),
        ..Failure::default()
    }))
}

/// A workflow command: `command NAME key=value...`.
#[expect(deprecated, reason = "old workers name the namespace of external workflows")]
pub(crate) fn command(arguments: &mut Arguments<'_>) -> Outcome<Command> {
    let name = arguments.expected("a command")?;
    let (command_type, attributes) = match name {
        "start-timer" => (
            CommandType::StartTimer,
            Attributes::StartTimerCommandAttributes(StartTimerCommandAttributes {
                timer_id: arguments.string("id", ""),
                start_to_fire_timeout: arguments.duration("after")?,
            }),
        ),
        "cancel-timer" => (
            CommandType::CancelTimer,
            Attributes::CancelTimerCommandAttributes(CancelTimerCommandAttributes {
                timer_id: arguments.string("id", ""),
            }),
        ),
        "schedule-activity" => (
            CommandType::ScheduleActivityTask,
            Attributes::ScheduleActivityTaskCommandAttributes(schedule_activity(arguments)?),
        ),
        "cancel-activity" => (
            CommandType::RequestCancelActivityTask,
            Attributes::RequestCancelActivityTaskCommandAttributes(RequestCancelActivityTaskCommandAttributes {
                scheduled_event_id: arguments.number("scheduled")?.unwrap_or_default(),
            }),
        ),
        "complete-workflow" => (
            CommandType::CompleteWorkflowExecution,
            Attributes::CompleteWorkflowExecutionCommandAttributes(CompleteWorkflowExecutionCommandAttributes {
                result: arguments.payloads("result"),
            }),
        ),
        "fail-workflow" => (
            CommandType::FailWorkflowExecution,
            Attributes::FailWorkflowExecutionCommandAttributes(FailWorkflowExecutionCommandAttributes {
                failure: failure(arguments)?,
            }),
        ),
        "cancel-workflow" => (
            CommandType::CancelWorkflowExecution,
            Attributes::CancelWorkflowExecutionCommandAttributes(CancelWorkflowExecutionCommandAttributes {
                details: arguments.payloads("details"),
            }),
        ),
        "continue-as-new" => (
            CommandType::ContinueAsNewWorkflowExecution,
            Attributes::ContinueAsNewWorkflowExecutionCommandAttributes(continue_as_new(arguments)?),
        ),
        "record-marker" => (
            CommandType::RecordMarker,
            Attributes::RecordMarkerCommandAttributes(RecordMarkerCommandAttributes {
                marker_name: arguments.string("name", ""),
                details: arguments
                    .payloads("details")
                    .map(|details| ("data".to_owned(), details))
                    .into_iter()
                    .collect(),
                header: header(arguments),
                failure: failure(arguments)?,
            }),
        ),
        "upsert-search-attributes" => (
            CommandType::UpsertWorkflowSearchAttributes,
            Attributes::UpsertWorkflowSearchAttributesCommandAttributes(
                UpsertWorkflowSearchAttributesCommandAttributes { search_attributes: search_attributes(arguments) },
            ),
        ),
        "modify-properties" => (
            CommandType::ModifyWorkflowProperties,
            Attributes::ModifyWorkflowPropertiesCommandAttributes(ModifyWorkflowPropertiesCommandAttributes {
                upserted_memo: memo(arguments),
            }),
        ),
        "start-child" => (
            CommandType::StartChildWorkflowExecution,
            Attributes::StartChildWorkflowExecutionCommandAttributes(start_child(arguments)?),
        ),
        "signal-external" => (
            CommandType::SignalExternalWorkflowExecution,
            Attributes::SignalExternalWorkflowExecutionCommandAttributes(
                SignalExternalWorkflowExecutionCommandAttributes {
                    namespace: arguments.string("namespace", ""),
                    execution: arguments.text("to").map(|to| execution(to, arguments.text("to-run"))),
                    signal_name: arguments.string("signal", ""),
                    input: arguments.payloads("input"),
                    child_workflow_only: arguments.flag("child-only")?,
                    ..SignalExternalWorkflowExecutionCommandAttributes::default()
                },
            ),
        ),
        "schedule-operation" => (
            CommandType::ScheduleNexusOperation,
            Attributes::ScheduleNexusOperationCommandAttributes(ScheduleNexusOperationCommandAttributes {
                endpoint: arguments.string("endpoint", "endpoint"),
                service: arguments.string("service", "s"),
                operation: arguments.string("operation", "o"),
                input: arguments.text("input").map(payload),
                schedule_to_close_timeout: arguments.duration("schedule-to-close")?,
                schedule_to_start_timeout: arguments.duration("schedule-to-start")?,
                start_to_close_timeout: arguments.duration("start-to-close")?,
                nexus_header: arguments.prefixed("header-").into_iter().collect(),
            }),
        ),
        "cancel-operation" => (
            CommandType::RequestCancelNexusOperation,
            Attributes::RequestCancelNexusOperationCommandAttributes(RequestCancelNexusOperationCommandAttributes {
                scheduled_event_id: arguments.number("scheduled")?.unwrap_or_default(),
            }),
        ),
        "cancel-external" => (
            CommandType::RequestCancelExternalWorkflowExecution,
            Attributes::RequestCancelExternalWorkflowExecutionCommandAttributes(
                RequestCancelExternalWorkflowExecutionCommandAttributes {
                    namespace: arguments.string("namespace", ""),
                    workflow_id: arguments.string("to", ""),
                    run_id: arguments.string("to-run", ""),
                    reason: arguments.string("reason", ""),
                    child_workflow_only: arguments.flag("child-only")?,
                    ..RequestCancelExternalWorkflowExecutionCommandAttributes::default()
                },
            ),
        ),
        "protocol-message" => (
            CommandType::ProtocolMessage,
            Attributes::ProtocolMessageCommandAttributes(ProtocolMessageCommandAttributes {
                message_id: arguments.string("id", ""),
            }),
        ),
        other => return Err(format!("unknown workflow command {other}").into()),
    };
    // A command whose type and attributes do not fit, or that has none.
    let other_type = arguments.enumeration("of-type", "COMMAND_TYPE_", CommandType::from_str_name)?;
    let attributes = (!arguments.flag("bare")?).then_some(attributes);
    Ok(Command {
        command_type: if other_type == 0 { command_type.into() } else { other_type },
        user_metadata: user_metadata(arguments),
        attributes,
        ..Command::default()
    })
}

fn execution(workflow_id: &str, run_id: Option<&str>) -> WorkflowExecution {
    WorkflowExecution { workflow_id: workflow_id.to_owned(), run_id: run_id.unwrap_or_default().to_owned() }
}

/// `reset EVENT reason=why request-id=r reapply=... exclude=SIGNAL,UPDATE`, or `reset task=2`: `behind_task` knows the event behind the
/// start of a workflow task.
#[expect(deprecated, reason = "old clients say so what is to be reapplied")]
pub(crate) fn reset(
    arguments: &mut Arguments<'_>,
    behind_task: impl FnOnce(usize) -> i64,
) -> Outcome<ResetWorkflowExecutionRequest> {
    let workflow_task_finish_event_id = match arguments.number("task")? {
        Some(task) => behind_task(task),
        None => arguments.expected("the event behind those that are kept")?.parse()?,
    };
    let excluded = arguments.text("exclude").into_iter().flat_map(|types| types.split(','));
    let excluded = excluded.map(|name| {
        let name = format!("RESET_REAPPLY_EXCLUDE_TYPE_{name}");
        ResetReapplyExcludeType::from_str_name(&name).map(i32::from).ok_or(name)
    });
    Ok(ResetWorkflowExecutionRequest {
        workflow_task_finish_event_id,
        reason: arguments.string("reason", "why"),
        request_id: arguments.string("request-id", "reset-1"),
        reset_reapply_type: arguments.enumeration("reapply", "RESET_REAPPLY_TYPE_", ResetReapplyType::from_str_name)?,
        reset_reapply_exclude_types: excluded.collect::<Result<_, _>>()?,
        ..ResetWorkflowExecutionRequest::default()
    })
}

/// A message of another workflow.
pub(crate) fn message(arguments: &mut Arguments<'_>) -> Outcome<OutboxMessage> {
    let event_id = arguments.expected("the event that sent it")?.parse()?;
    let source_run_id = RunId([arguments.number("from-run")?.unwrap_or(5); 16]);
    let body = body(arguments)?;
    let starts = matches!(body, MessageBody::StartChild(_));
    Ok(OutboxMessage {
        namespace_id: NamespaceId([7; 16]),
        source_workflow_id: arguments.string("from", "other"),
        source_run_id,
        origin_run_id: None,
        event_id,
        sent: Time(0),
        target_workflow_id: "wf".to_owned(),
        target_run_id: starts.then(|| child_run_id(source_run_id, event_id)),
        body,
    })
}

fn body(arguments: &mut Arguments<'_>) -> Outcome<MessageBody> {
    if let Some(workflow_type) = arguments.text("start-child") {
        let start = start_child(arguments)?;
        let initiated = StartChildWorkflowExecutionInitiatedEventAttributes {
            workflow_id: "wf".to_owned(),
            workflow_type: Some(WorkflowType { name: workflow_type.to_owned() }),
            task_queue: Some(task_queue("q")),
            input: start.input,
            workflow_run_timeout: start.workflow_run_timeout,
            retry_policy: start.retry_policy,
            workflow_id_reuse_policy: start.workflow_id_reuse_policy,
            cron_schedule: start.cron_schedule,
            ..StartChildWorkflowExecutionInitiatedEventAttributes::default()
        };
        let root = Some(execution("root", None));
        return Ok(MessageBody::StartChild(Box::new(StartChild { initiated, root, ..StartChild::default() })));
    }
    let initiated_event_id = arguments.number("initiated")?.unwrap_or_default();
    let status =
        arguments.enumeration("child", "WORKFLOW_EXECUTION_STATUS_", WorkflowExecutionStatus::from_str_name)?;
    if status != 0 {
        let (payloads, failure) = (arguments.payloads("result"), failure(arguments)?);
        let closed = ChildClosed { initiated_event_id, status, payloads, failure, ..ChildClosed::default() };
        return Ok(MessageBody::ChildClosed(Box::new(closed)));
    }
    let policy = arguments.enumeration("parent-closed", "PARENT_CLOSE_POLICY_", ParentClosePolicy::from_str_name)?;
    if policy != 0 {
        return Ok(MessageBody::ParentClosed(ParentClosed { initiated_event_id, policy }));
    }
    let child_workflow_only = arguments.flag("child-only")?;
    Ok(match arguments.text("signal") {
        Some(name) => MessageBody::SignalExternal(SignalExternalWorkflowExecutionCommandAttributes {
            signal_name: name.to_owned(),
            input: arguments.payloads("input"),
            child_workflow_only,
            ..SignalExternalWorkflowExecutionCommandAttributes::default()
        }),
        None => MessageBody::CancelExternal(RequestCancelExternalWorkflowExecutionCommandAttributes {
            reason: arguments.string("reason", ""),
            child_workflow_only,
            ..RequestCancelExternalWorkflowExecutionCommandAttributes::default()
        }),
    })
}

/// `id=child type=T queue=q input=1 run-timeout=10s execution-timeout=20s task-timeout=10s close-policy=abandon reuse=... control=...
/// cron=... header-KEY=... memo-KEY=... sa-KEY=... priority=1 fairness=KEY weight=2` and a retry policy.
#[expect(deprecated, reason = "old workers name the namespace")]
fn start_child(arguments: &mut Arguments<'_>) -> Outcome<StartChildWorkflowExecutionCommandAttributes> {
    Ok(StartChildWorkflowExecutionCommandAttributes {
        namespace: arguments.string("namespace", ""),
        workflow_id: arguments.string("id", ""),
        workflow_type: arguments.text("type").map(|name| WorkflowType { name: name.to_owned() }),
        task_queue: arguments.text("queue").map(task_queue),
        input: arguments.payloads("input"),
        workflow_execution_timeout: arguments.duration("execution-timeout")?,
        workflow_run_timeout: arguments.duration("run-timeout")?,
        workflow_task_timeout: arguments.duration("task-timeout")?,
        parent_close_policy: arguments.enumeration(
            "close-policy",
            "PARENT_CLOSE_POLICY_",
            ParentClosePolicy::from_str_name,
        )?,
        control: arguments.string("control", ""),
        workflow_id_reuse_policy: arguments.enumeration(
            "reuse",
            "WORKFLOW_ID_REUSE_POLICY_",
            WorkflowIdReusePolicy::from_str_name,
        )?,
        retry_policy: retry_policy(arguments)?,
        cron_schedule: arguments.string("cron", ""),
        header: header(arguments),
        memo: memo(arguments),
        search_attributes: search_attributes(arguments),
        priority: priority(arguments)?,
        ..StartChildWorkflowExecutionCommandAttributes::default()
    })
}

fn schedule_activity(arguments: &mut Arguments<'_>) -> Outcome<ScheduleActivityTaskCommandAttributes> {
    Ok(ScheduleActivityTaskCommandAttributes {
        activity_id: arguments.string("id", ""),
        activity_type: arguments.text("type").map(|name| ActivityType { name: name.to_owned() }),
        task_queue: arguments.text("queue").map(task_queue),
        header: header(arguments),
        input: arguments.payloads("input"),
        schedule_to_close_timeout: arguments.duration("schedule-to-close")?,
        schedule_to_start_timeout: arguments.duration("schedule-to-start")?,
        start_to_close_timeout: arguments.duration("start-to-close")?,
        heartbeat_timeout: arguments.duration("heartbeat")?,
        retry_policy: retry_policy(arguments)?,
        priority: priority(arguments)?,
        request_eager_execution: arguments.flag("eager")?,
        ..ScheduleActivityTaskCommandAttributes::default()
    })
}

fn continue_as_new(arguments: &mut Arguments<'_>) -> Outcome<ContinueAsNewWorkflowExecutionCommandAttributes> {
    Ok(ContinueAsNewWorkflowExecutionCommandAttributes {
        workflow_type: arguments.text("type").map(|name| WorkflowType { name: name.to_owned() }),
        task_queue: arguments.text("queue").map(task_queue),
        input: arguments.payloads("input"),
        workflow_run_timeout: arguments.duration("run-timeout")?,
        workflow_task_timeout: arguments.duration("task-timeout")?,
        backoff_start_interval: arguments.duration("backoff")?,
        retry_policy: retry_policy(arguments)?,
        initiator: arguments.number("initiator")?.unwrap_or_default(),
        failure: failure(arguments)?,
        last_completion_result: arguments.payloads("last-result"),
        cron_schedule: arguments.string("cron", ""),
        header: header(arguments),
        memo: memo(arguments),
        search_attributes: search_attributes(arguments),
        ..ContinueAsNewWorkflowExecutionCommandAttributes::default()
    })
}

fn task_queue(name: &str) -> TaskQueue {
    TaskQueue { name: name.to_owned(), kind: 1, ..TaskQueue::default() }
}

fn memo(arguments: &mut Arguments<'_>) -> Option<Memo> {
    fields(arguments, "memo-").map(|fields| Memo { fields })
}

fn search_attributes(arguments: &mut Arguments<'_>) -> Option<SearchAttributes> {
    fields(arguments, "sa-").map(|indexed_fields| SearchAttributes { indexed_fields })
}

fn header(arguments: &mut Arguments<'_>) -> Option<Header> {
    fields(arguments, "header-").map(|fields| Header { fields })
}

fn fields(arguments: &mut Arguments<'_>, prefix: &str) -> Option<std::collections::HashMap<String, Payload>> {
    let found = arguments.prefixed(prefix);
    (!found.is_empty()).then(|| found.into_iter().map(|(key, value)| (key, payload(&value))).collect())
}

fn user_metadata(arguments: &mut Arguments<'_>) -> Option<UserMetadata> {
    arguments.text("summary").map(|summary| UserMetadata { summary: Some(payload(summary)), details: None })
}
