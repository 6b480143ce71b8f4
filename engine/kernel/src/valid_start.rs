//! A request to start a workflow, once it is known that nothing is wrong with it.

use everlog_proto::api::common::v1::{Callback, Link, Payloads, callback};
use everlog_proto::api::enums::v1::{WorkflowIdConflictPolicy, WorkflowIdReusePolicy};
use everlog_proto::api::history::v1::WorkflowExecutionStartedEventAttributes;
use everlog_proto::api::sdk::v1::UserMetadata;
use everlog_proto::api::workflow::v1::OnConflictOptions;
use everlog_proto::api::workflowservice::v1::{
    SignalWithStartWorkflowExecutionRequest, SignalWorkflowExecutionRequest, StartWorkflowExecutionRequest,
};
use everlog_proto::wkt;
use prost::Message;

use crate::txn::NewRun;
use crate::{Context, Limits, Rejection, cron, deployment, payload_map, retry, time, validation};

/// A request to start a workflow in which nothing is wrong that can be told without the workflow: nothing but
/// [`ValidStart::new`] makes one, so it is looked at once, however many hands it goes through.
#[derive(Clone, Debug)]
pub struct ValidStart {
    /// The first event, as far as the request says it.
    started: WorkflowExecutionStartedEventAttributes,
    user_metadata: Option<UserMetadata>,
    links: Vec<Link>,
    /// Empty if the kernel is to give it one.
    request_id: String,
    /// Whether the caller is a worker that wants the first workflow task with the answer.
    pub(crate) is_eager: bool,
    pub(crate) reuse: WorkflowIdReusePolicy,
    pub(crate) conflict: WorkflowIdConflictPolicy,
    /// What of the request is to be recorded in an open run that is used instead.
    pub(crate) on_conflict: Option<OnConflictOptions>,
}

impl ValidStart {
    /// Looks at a request. Texts and order are Temporal's.
    ///
    /// # Errors
    ///
    /// What is wrong with it, or what of it is not supported.
    pub fn new(request: StartWorkflowExecutionRequest, limits: &Limits) -> Result<ValidStart, Rejection> {
        ValidStart::with_default(WorkflowIdConflictPolicy::Fail, request, limits)
    }

    /// The same, where `conflict_default` is what happens to an open run unless the request says it.
    fn with_default(
        conflict_default: WorkflowIdConflictPolicy,
        mut request: StartWorkflowExecutionRequest,
        limits: &Limits,
    ) -> Result<ValidStart, Rejection> {
        request.retry_policy = request.retry_policy.take().map(retry::with_defaults);
        check_names(&request, limits)?;
        let task_queue =
            validation::task_queue(request.task_queue.take(), limits.id_bytes_max).map_err(Rejection::invalid)?;
        check_timeouts(&request, limits)?;
        let (reuse, conflict) = policies(&request, conflict_default)?;
        let attaches = request.on_conflict_options.unwrap_or_default();
        if attaches.attach_completion_callbacks && !attaches.attach_request_id {
            return Err(Rejection::invalid("attaching request ID is required for attaching completion callbacks"));
        }
        check_callbacks(&request, limits)?;
        check_support(&request)?;
        deployment::check_override(request.versioning_override.as_ref())?;
        check_sizes(&request, limits)?;
        let is_delayed =
            !request.cron_schedule.is_empty() || time::positive(request.workflow_start_delay.as_ref()) != Ok(None);
        let is_eager = request.request_eager_execution && !is_delayed && limits.has_eager_start;
        let links = links_beside(request.links, &request.completion_callbacks);
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
            retry_policy: request.retry_policy,
            attempt: 1,
            cron_schedule: request.cron_schedule,
            first_workflow_task_backoff: request.workflow_start_delay,
            memo: payload_map::memo(request.memo),
            search_attributes: payload_map::search_attributes(request.search_attributes),
            header: request.header,
            priority: request.priority,
            eager_execution_accepted: is_eager,
            completion_callbacks: request.completion_callbacks.into_iter().map(with_lower_header).collect(),
            versioning_override: request.versioning_override,
            ..WorkflowExecutionStartedEventAttributes::default()
        };
        Ok(ValidStart {
            started,
            user_metadata: request.user_metadata,
            links,
            request_id: request.request_id,
            is_eager,
            reuse,
            conflict,
            on_conflict: request.on_conflict_options,
        })
    }

    /// The run that it asks for.
    pub(crate) fn into_new_run(self, ctx: &mut Context<'_>) -> NewRun {
        let ValidStart { started, user_metadata, links, request_id, .. } = self;
        let start_request_id = if request_id.is_empty() { ctx.ids.request_id() } else { request_id };
        let run_id = ctx.ids.run_id(ctx.now);
        NewRun { run_id, started, user_metadata, links, start_request_id, scheduled_by: None }
    }

    /// About what its payloads take, bytes.
    pub fn payload_bytes(&self) -> usize {
        let payloads = |payloads: &Payloads| payloads.payloads.iter().map(|payload| payload.data.len()).sum::<usize>();
        self.started.input.as_ref().map_or(0, payloads) + self.started.memo.as_ref().map_or(0, Message::encoded_len)
    }
}

/// A request to signal a workflow, and to start it if it does not run, of which [`ValidStart`] can be said.
#[derive(Clone, Debug)]
pub struct ValidSignalWithStart {
    pub(crate) start: ValidStart,
    pub(crate) signal: SignalWorkflowExecutionRequest,
}

impl ValidSignalWithStart {
    /// Looks at a request. Texts and order are Temporal's.
    ///
    /// # Errors
    ///
    /// What is wrong with it, or what of it is not supported.
    pub fn new(
        request: SignalWithStartWorkflowExecutionRequest,
        limits: &Limits,
    ) -> Result<ValidSignalWithStart, Rejection> {
        check_workflow_id(&request.workflow_id, limits)?;
        if request.signal_name.is_empty() {
            return Err(Rejection::invalid("signal not set"));
        }
        check_length("signal name", &request.signal_name, limits)?;
        if request.workflow_id_conflict_policy() == WorkflowIdConflictPolicy::Fail {
            return Err(Rejection::invalid(
                "Invalid WorkflowIDConflictPolicy: WORKFLOW_ID_CONFLICT_POLICY_FAIL is not supported for this operation.",
            ));
        }
        check_payloads(request.signal_input.as_ref(), limits)?;
        // What a start is told in other words.
        let type_name = request.workflow_type.as_ref().map_or("", |workflow_type| &workflow_type.name);
        if type_name.is_empty() {
            return Err(Rejection::invalid("workflow type not set"));
        }
        check_length("workflow type name", type_name, limits)?;
        check_length("Request ID", &request.request_id, limits)?;
        let (start, signal) = split(request);
        let start = ValidStart::with_default(WorkflowIdConflictPolicy::UseExisting, start, limits)?;
        Ok(ValidSignalWithStart { start, signal })
    }

    /// About what its payloads take, bytes.
    pub fn payload_bytes(&self) -> usize {
        self.start.payload_bytes() + self.signal.input.as_ref().map_or(0, Message::encoded_len)
    }
}

/// The two requests that a signal with a start stands for.
fn split(
    request: SignalWithStartWorkflowExecutionRequest,
) -> (StartWorkflowExecutionRequest, SignalWorkflowExecutionRequest) {
    let signal = SignalWorkflowExecutionRequest {
        signal_name: request.signal_name,
        input: request.signal_input,
        identity: request.identity.clone(),
        request_id: request.request_id.clone(),
        header: request.header.clone(),
        links: request.links.clone(),
        ..SignalWorkflowExecutionRequest::default()
    };
    let start = StartWorkflowExecutionRequest {
        namespace: request.namespace,
        workflow_id: request.workflow_id,
        workflow_type: request.workflow_type,
        task_queue: request.task_queue,
        input: request.input,
        workflow_execution_timeout: request.workflow_execution_timeout,
        workflow_run_timeout: request.workflow_run_timeout,
        workflow_task_timeout: request.workflow_task_timeout,
        identity: request.identity,
        request_id: request.request_id,
        workflow_id_reuse_policy: request.workflow_id_reuse_policy,
        workflow_id_conflict_policy: request.workflow_id_conflict_policy,
        retry_policy: request.retry_policy,
        cron_schedule: request.cron_schedule,
        memo: request.memo,
        search_attributes: request.search_attributes,
        header: request.header,
        workflow_start_delay: request.workflow_start_delay,
        user_metadata: request.user_metadata,
        links: request.links,
        versioning_override: request.versioning_override,
        priority: request.priority,
        time_skipping_config: request.time_skipping_config,
        ..StartWorkflowExecutionRequest::default()
    };
    (start, signal)
}

fn check_workflow_id(workflow_id: &str, limits: &Limits) -> Result<(), Rejection> {
    if workflow_id.is_empty() {
        return Err(Rejection::invalid("WorkflowId is not set on request."));
    }
    check_length("WorkflowId", workflow_id, limits)
}

fn check_length(what: &str, text: &str, limits: &Limits) -> Result<(), Rejection> {
    let (length, length_max) = (text.len(), limits.id_bytes_max);
    if length > length_max {
        return Err(Rejection::invalid(format!("{what} exceeds maximum allowed length ({length}/{length_max})")));
    }
    Ok(())
}

/// Looks at ids and names, and at what a retry policy and a delay ask for.
pub(crate) fn check_names(request: &StartWorkflowExecutionRequest, limits: &Limits) -> Result<(), Rejection> {
    check_workflow_id(&request.workflow_id, limits)?;
    request.retry_policy.as_ref().map_or(Ok(()), retry::validate)?;
    if !request.cron_schedule.is_empty() {
        if request.workflow_start_delay.is_some() {
            return Err(Rejection::invalid("CronSchedule and WorkflowStartDelay may not be used together."));
        }
        cron::validate(&request.cron_schedule)?;
    }
    check_duration(request.workflow_start_delay.as_ref(), "WorkflowStartDelay")?;
    let type_name = request.workflow_type.as_ref().map_or("", |workflow_type| &workflow_type.name);
    if type_name.is_empty() {
        return Err(Rejection::invalid("WorkflowType is not set on request."));
    }
    if type_name.len() > limits.id_bytes_max {
        return Err(Rejection::invalid("WorkflowType length exceeds limit."));
    }
    Ok(())
}

/// Looks at timeouts, and at the id of the request.
fn check_timeouts(request: &StartWorkflowExecutionRequest, limits: &Limits) -> Result<(), Rejection> {
    check_duration(request.workflow_execution_timeout.as_ref(), "WorkflowExecutionTimeout")?;
    check_duration(request.workflow_run_timeout.as_ref(), "WorkflowRunTimeout")?;
    check_duration(request.workflow_task_timeout.as_ref(), "WorkflowTaskTimeout")?;
    if request.request_id.len() > limits.id_bytes_max {
        return Err(Rejection::invalid("RequestId length exceeds limit."));
    }
    Ok(())
}

fn check_duration(duration: Option<&wkt::Duration>, name: &str) -> Result<(), Rejection> {
    match time::positive(duration) {
        Ok(_) => Ok(()),
        Err(wrong) => Err(Rejection::invalid(format!("An invalid {name}Seconds is set on request. cause: {wrong}"))),
    }
}

/// The request's policies with their defaults, `conflict_default` being the one for an open run.
fn policies(
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
        return Ok(policies_of_child(reuse));
    }
    Ok((reuse, if given { conflict } else { conflict_default }))
}

/// What is to happen to runs that stand in the way of a child.
pub(crate) fn policies_of_child(reuse: WorkflowIdReusePolicy) -> (WorkflowIdReusePolicy, WorkflowIdConflictPolicy) {
    #[expect(deprecated, reason = "workers still send it")]
    let terminate_if_running = reuse == WorkflowIdReusePolicy::TerminateIfRunning;
    if terminate_if_running {
        (WorkflowIdReusePolicy::AllowDuplicate, WorkflowIdConflictPolicy::TerminateExisting)
    } else {
        (reuse, WorkflowIdConflictPolicy::Fail)
    }
}

/// What is not there yet is refused: see also the frontend's `unbuilt.rs`.
fn check_support(request: &StartWorkflowExecutionRequest) -> Result<(), Rejection> {
    let unsupported = |text: &'static str| Err(Rejection::Unimplemented(text.into()));
    if request.time_skipping_config.is_some() {
        return unsupported("The Time-Skipping feature is not enabled for namespace.");
    }
    Ok(())
}

/// The names in a header are in lower case, as if it had travelled.
fn with_lower_header(mut callback: Callback) -> Callback {
    if let Some(callback::Variant::Nexus(nexus)) = &mut callback.variant {
        let header = std::mem::take(&mut nexus.header);
        nexus.header = header.into_iter().map(|(name, value)| (name.to_lowercase(), value)).collect();
    }
    callback
}

/// The links that do not come with a callback, too: the event has those there. (Temporal: `dedupLinksFromCallbacks`.)
fn links_beside(mut links: Vec<Link>, callbacks: &[Callback]) -> Vec<Link> {
    links.retain(|link| !callbacks.iter().any(|callback| callback.links.contains(link)));
    links
}

/// Looks at who is to be told that the run has closed. (Temporal: `chasm/lib/callback/validator.go`.)
fn check_callbacks(request: &StartWorkflowExecutionRequest, limits: &Limits) -> Result<(), Rejection> {
    if request.completion_callbacks.len() > limits.callbacks_max {
        let message = format!("cannot attach more than {} callbacks to an execution", limits.callbacks_max);
        return Err(Rejection::invalid(message));
    }
    request.completion_callbacks.iter().try_for_each(check_callback)
}

/// Only the server itself is called back. Addresses are refused as by a Temporal server that has none configured.
fn check_callback(callback: &Callback) -> Result<(), Rejection> {
    let unsupported = |text: &'static str| Err(Rejection::Unimplemented(text.into()));
    let url = match &callback.variant {
        Some(callback::Variant::Nexus(nexus)) => nexus.url.as_str(),
        Some(callback::Variant::Internal(_)) => {
            return Err(Rejection::invalid("unsupported callback variant: *common.Callback_Internal_"));
        }
        Some(callback::Variant::NexusHandler(_)) => {
            return unsupported("completion_callbacks.nexus_handler is not supported by this server yet");
        }
        None => return unsupported("unknown callback variant: <nil>"),
    };
    Err(match url.split_once("://") {
        Some(("temporal", "system")) => return Ok(()),
        Some(("http" | "https", rest)) if rest.is_empty() || rest.starts_with(['/', '?', '#']) => {
            Rejection::invalid("invalid url: missing host")
        }
        Some(("http" | "https", _)) => {
            Rejection::invalid(format!("invalid url: url does not match any configured callback address: {url}"))
        }
        _ => Rejection::invalid(format!("invalid url: unknown scheme: {url}")),
    })
}

fn check_sizes(request: &StartWorkflowExecutionRequest, limits: &Limits) -> Result<(), Rejection> {
    validation::check_priority(request.priority.as_ref())?;
    validation::check_links(&request.links, limits)?;
    check_payloads(request.input.as_ref(), limits)?;
    if request.memo.as_ref().map_or(0, Message::encoded_len) > limits.memo_bytes_max {
        return Err(Rejection::invalid("Memo size exceeds limit."));
    }
    Ok(())
}

fn check_payloads(payloads: Option<&Payloads>, limits: &Limits) -> Result<(), Rejection> {
    if payloads.map_or(0, Message::encoded_len) > limits.blob_bytes_max {
        return Err(Rejection::invalid("Blob data size exceeds limit."));
    }
    Ok(())
}
