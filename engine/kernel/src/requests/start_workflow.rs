//! Starting a workflow: whether a new run may begin, and its beginning.

use std::time::Duration;

use everlog_proto::api::common::v1::RetryPolicy;
use everlog_proto::api::enums::v1::{WorkflowExecutionStatus, WorkflowIdConflictPolicy, WorkflowIdReusePolicy};
use everlog_proto::api::history::v1::history_event::Attributes;
use everlog_proto::api::history::v1::{HistoryEvent, WorkflowExecutionStartedEventAttributes};
use everlog_proto::api::workflowservice::v1::StartWorkflowExecutionRequest;
use everlog_proto::wkt;
use prost::Message;

use super::terminate_workflow;
use crate::command::{Reply, Started};
use crate::decide::{on_run, start_run};
use crate::state::{Run, Workflow};
use crate::transition::Transition;
use crate::txn::{NewRun, Txn};
use crate::{Context, Limits, Rejection, RunId, Time, activity_task, retry, time, validation, workflow_task};

/// Starts a run, or finds the one that this very request (by its id) has started before, or the one that its policies say to
/// use; or refuses.
pub(crate) fn decide(
    workflow: &mut Workflow,
    request: StartWorkflowExecutionRequest,
    ctx: &mut Context<'_>,
) -> Result<Transition, Rejection> {
    let (reuse, conflict) = policies(&request, WorkflowIdConflictPolicy::Fail)?;
    let attach = request.on_conflict_options.unwrap_or_default();
    if attach.attach_completion_callbacks && !attach.attach_request_id {
        return Err(Rejection::invalid("attaching request ID is required for attaching completion callbacks"));
    }
    let new_run = new_run(&workflow.id, request, ctx)?;
    match resolve(workflow, &new_run.start_request_id, reuse, conflict)? {
        Resolution::Found(started) => Ok(Transition::reply(Reply::Started(started))),
        Resolution::UseExisting(started) => {
            if attach.attach_request_id || attach.attach_completion_callbacks || attach.attach_links {
                return Err(Rejection::Unimplemented("on_conflict_options are not supported by this server".into()));
            }
            Ok(Transition::reply(Reply::Started(started)))
        }
        Resolution::Start { terminate } => start(workflow, new_run, terminate, ctx, |_| {}),
    }
}

/// What is to be done with a request to start a workflow.
pub(super) enum Resolution {
    /// The request was served before, by this run.
    Found(Started),
    /// The open run is to be used.
    UseExisting(Started),
    /// A new run is to be started, after this one was terminated.
    Start { terminate: Option<RunId> },
}

/// Looks at the current run, which alone decides: first whether this request has started it, then what the policies say.
pub(super) fn resolve(
    workflow: &Workflow,
    request_id: &str,
    reuse: WorkflowIdReusePolicy,
    conflict: WorkflowIdConflictPolicy,
) -> Result<Resolution, Rejection> {
    let Some(current) = workflow.current_run() else { return Ok(Resolution::Start { terminate: None }) };
    if current.info.start_request_id == request_id {
        return Ok(Resolution::Found(found(current, true)));
    }
    let in_the_way = |text: &str, rule: &str| Rejection::AlreadyStarted {
        message: format!("{text} WorkflowId: {}, RunId: {}.{rule}", workflow.id, current.id),
        start_request_id: current.info.start_request_id.clone(),
        run_id: current.id.to_string(),
        first_execution_run_id: current.first_run_id().to_string(),
    };
    if current.is_open() {
        return match conflict {
            WorkflowIdConflictPolicy::UseExisting => Ok(Resolution::UseExisting(found(current, false))),
            WorkflowIdConflictPolicy::TerminateExisting => Ok(Resolution::Start { terminate: Some(current.id) }),
            _ => Err(in_the_way("Workflow execution is already running.", "")),
        };
    }
    let failed = matches!(
        current.status(),
        WorkflowExecutionStatus::Failed
            | WorkflowExecutionStatus::Canceled
            | WorkflowExecutionStatus::Terminated
            | WorkflowExecutionStatus::TimedOut
    );
    match reuse {
        WorkflowIdReusePolicy::AllowDuplicateFailedOnly if !failed => Err(in_the_way(
            "Workflow execution already finished successfully.",
            " Workflow Id reuse policy: allow duplicate workflow Id if last run failed.",
        )),
        WorkflowIdReusePolicy::RejectDuplicate => Err(in_the_way(
            "Workflow execution already finished.",
            " Workflow Id reuse policy: reject duplicate workflow Id.",
        )),
        _ => Ok(Resolution::Start { terminate: None }),
    }
}

fn found(run: &Run, started: bool) -> Started {
    Started { run_id: run.id, first_execution_run_id: run.first_run_id(), started, status: run.status() }
}

/// The request's policies with their defaults, `conflict_default` being the one for an open run.
pub(super) fn policies(
    request: &StartWorkflowExecutionRequest,
    conflict_default: WorkflowIdConflictPolicy,
) -> Result<(WorkflowIdReusePolicy, WorkflowIdConflictPolicy), Rejection> {
    let reuse = request.workflow_id_reuse_policy();
    let conflict = request.workflow_id_conflict_policy();
    let given = conflict != WorkflowIdConflictPolicy::Unspecified;
    #[expect(deprecated, reason = "clients still send it")]
    let terminate_if_running = reuse == WorkflowIdReusePolicy::TerminateIfRunning;
    if given && terminate_if_running {
        return Err(Rejection::invalid(
            "Invalid WorkflowIDReusePolicy: WORKFLOW_ID_REUSE_POLICY_TERMINATE_IF_RUNNING cannot be used together with a \
             WorkflowIDConflictPolicy",
        ));
    }
    if conflict == WorkflowIdConflictPolicy::TerminateExisting && reuse == WorkflowIdReusePolicy::RejectDuplicate {
        return Err(Rejection::invalid(
            "Invalid WorkflowIDReusePolicy: WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE cannot be used together with \
             WorkflowIdConflictPolicy WORKFLOW_ID_CONFLICT_POLICY_TERMINATE_EXISTING",
        ));
    }
    if terminate_if_running {
        return Ok((WorkflowIdReusePolicy::AllowDuplicate, WorkflowIdConflictPolicy::TerminateExisting));
    }
    Ok((reuse, if given { conflict } else { conflict_default }))
}

/// The run that a valid request asks for.
pub(super) fn new_run(
    workflow_id: &str,
    mut request: StartWorkflowExecutionRequest,
    ctx: &mut Context<'_>,
) -> Result<NewRun, Rejection> {
    let limits = ctx.limits;
    let retry_policy = request.retry_policy.take().map(retry::with_defaults);
    validate(workflow_id, &request, retry_policy.as_ref(), limits)?;
    let task_queue = validation::task_queue(request.task_queue, limits.id_bytes_max).map_err(Rejection::invalid)?;
    let start_request_id = if request.request_id.is_empty() { ctx.ids.request_id() } else { request.request_id };
    let run_id = ctx.ids.run_id();
    let started = WorkflowExecutionStartedEventAttributes {
        workflow_type: request.workflow_type,
        task_queue: Some(task_queue),
        input: request.input,
        workflow_execution_timeout: request.workflow_execution_timeout,
        workflow_run_timeout: request.workflow_run_timeout,
        workflow_task_timeout: request.workflow_task_timeout,
        continued_failure: request.continued_failure,
        last_completion_result: request.last_completion_result,
        identity: request.identity,
        retry_policy,
        attempt: 1,
        first_workflow_task_backoff: request.workflow_start_delay,
        memo: request.memo,
        search_attributes: request.search_attributes,
        header: request.header,
        priority: request.priority,
        ..WorkflowExecutionStartedEventAttributes::default()
    };
    Ok(NewRun { run_id, started, user_metadata: request.user_metadata, links: request.links, start_request_id })
}

fn validate(
    workflow_id: &str,
    request: &StartWorkflowExecutionRequest,
    retry_policy: Option<&RetryPolicy>,
    limits: &Limits,
) -> Result<(), Rejection> {
    let id_bytes_max = limits.id_bytes_max;
    if workflow_id.is_empty() {
        return Err(Rejection::invalid("WorkflowId is not set on request."));
    }
    if workflow_id.len() > id_bytes_max {
        let length = workflow_id.len();
        return Err(Rejection::invalid(format!("WorkflowId exceeds maximum allowed length ({length}/{id_bytes_max})")));
    }
    retry_policy.map_or(Ok(()), retry::validate)?;
    if !request.cron_schedule.is_empty() {
        if request.workflow_start_delay.is_some() {
            return Err(Rejection::invalid("CronSchedule and WorkflowStartDelay may not be used together."));
        }
        return Err(Rejection::Unimplemented(
            "cron_schedule is not supported by this server yet; use a schedule".into(),
        ));
    }
    let type_name = request.workflow_type.as_ref().map_or("", |workflow_type| &workflow_type.name);
    if type_name.is_empty() {
        return Err(Rejection::invalid("WorkflowType is not set on request."));
    }
    if type_name.len() > id_bytes_max {
        return Err(Rejection::invalid("WorkflowType length exceeds limit."));
    }
    for (timeout, name) in [
        (&request.workflow_start_delay, "WorkflowStartDelay"),
        (&request.workflow_execution_timeout, "WorkflowExecutionTimeout"),
        (&request.workflow_run_timeout, "WorkflowRunTimeout"),
        (&request.workflow_task_timeout, "WorkflowTaskTimeout"),
    ] {
        time::positive(timeout.as_ref()).map_err(|time::Negative| {
            Rejection::invalid(format!("An invalid {name}Seconds is set on request. cause: negative duration"))
        })?;
    }
    if request.request_id.len() > id_bytes_max {
        return Err(Rejection::invalid("RequestId length exceeds limit."));
    }
    validation::priority(request.priority.as_ref()).map_err(Rejection::invalid)?;
    validation::links(&request.links, limits).map_err(Rejection::invalid)?;
    if !request.completion_callbacks.is_empty() {
        return Err(Rejection::Unimplemented("completion_callbacks are not supported by this server yet".into()));
    }
    if request.versioning_override.is_some() {
        return Err(Rejection::Unimplemented("versioning_override is not supported by this server yet".into()));
    }
    if request.time_skipping_config.is_some() {
        return Err(Rejection::Unimplemented("The Time-Skipping feature is not enabled for namespace.".into()));
    }
    if request.input.as_ref().map_or(0, Message::encoded_len) > limits.blob_bytes_max {
        return Err(Rejection::invalid("Blob data size exceeds limit."));
    }
    if request.memo.as_ref().map_or(0, Message::encoded_len) > limits.memo_bytes_max {
        return Err(Rejection::invalid("Memo size exceeds limit."));
    }
    Ok(())
}

/// Starts the run, as the workflow's current one, in one transition with the end of the one that it replaces.
pub(super) fn start(
    workflow: &mut Workflow,
    new_run: NewRun,
    terminate: Option<RunId>,
    ctx: &mut Context<'_>,
    before_first_task: impl FnOnce(&mut Txn<'_>),
) -> Result<Transition, Rejection> {
    let run_id = new_run.run_id;
    let started =
        Started { run_id, first_execution_run_id: run_id, started: true, status: WorkflowExecutionStatus::Running };
    let reply = Reply::Started(started);
    let mut transition = match terminate {
        None => Transition::reply(reply),
        Some(existing) => on_run(workflow, existing, ctx, |txn| {
            terminate_workflow::terminate(
                txn,
                "TerminateIfRunning WorkflowIdReusePolicy".into(),
                Some(activity_task::text_payloads(&format!("terminated by new runID: {run_id}"))),
                "history-service".into(),
                Vec::new(),
            );
            Ok(Ok(reply))
        })?,
    };
    start_run(workflow, new_run, ctx, &mut transition, before_first_task);
    Ok(transition)
}

/// The beginning of a run: what it knows of itself, and its first event.
///
/// Serves starts, continue-as-new and retries alike. What `new_run` leaves open is filled in: ids of a new chain, attempt 1,
/// the timeouts that apply, and when the run and (unless it is given) the chain expire.
pub(crate) fn begin<'a>(new_run: NewRun, workflow_id: &'a str, ctx: Context<'a>) -> Txn<'a> {
    let NewRun { run_id, mut started, user_metadata, links, start_request_id } = new_run;
    let now = ctx.now;
    started.workflow_id = workflow_id.to_owned();
    started.original_execution_run_id = run_id.to_string();
    if started.first_execution_run_id.is_empty() {
        started.first_execution_run_id = run_id.to_string();
    }
    started.attempt = started.attempt.max(1);
    normalize_timeouts(&mut started, ctx.limits, now);
    let backoff = duration(started.first_workflow_task_backoff.as_ref()).unwrap_or_default();
    started.first_workflow_task_backoff = Some(time::to_proto(backoff));

    let first = HistoryEvent {
        attributes: Some(Attributes::WorkflowExecutionStartedEventAttributes(started)),
        user_metadata,
        links,
        ..HistoryEvent::default()
    };
    Txn::begin(run_id, first, start_request_id, workflow_id, ctx).expect("that is a WorkflowExecutionStarted")
}

/// The timeouts that apply: a run ends with its chain, and a workflow task with its run.
fn normalize_timeouts(started: &mut WorkflowExecutionStartedEventAttributes, limits: &Limits, now: Time) {
    const MILLISECOND: i64 = 1_000_000;
    let execution = duration(started.workflow_execution_timeout.as_ref());
    let run = duration(started.workflow_run_timeout.as_ref());
    let run = execution.into_iter().chain(run).min();
    let task = duration(started.workflow_task_timeout.as_ref())
        .unwrap_or(limits.workflow_task_timeout)
        .min(limits.workflow_task_timeout_max);
    let task = run.map_or(task, |run| task.min(run));
    if run.is_some() {
        started.workflow_run_timeout = run.map(time::to_proto);
    }
    started.workflow_task_timeout = Some(time::to_proto(task));
    if let Some(execution) = execution
        && started.workflow_execution_expiration_time.is_none()
    {
        let expiration = now.plus(execution).0;
        let rounded = expiration.saturating_add(MILLISECOND / 2) / MILLISECOND * MILLISECOND;
        started.workflow_execution_expiration_time = Some(Time(rounded).to_proto());
    }
}

fn duration(duration: Option<&wkt::Duration>) -> Option<Duration> {
    time::positive(duration).ok().flatten()
}

/// Schedules the run's first workflow task, unless it is to wait.
pub(crate) fn schedule_first_task(txn: &mut Txn<'_>) {
    if txn.run.info.execution_time <= txn.run.info.start_time {
        workflow_task::ensure_scheduled(txn);
    }
}
