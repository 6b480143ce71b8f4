//! StartWorkflowExecution and SignalWithStartWorkflowExecution.

use everlog_kernel::Command;
use everlog_kernel::command::{Reply, Started};
use everlog_meta::NamespaceRecord;
use everlog_proto::api::common::v1::{Link, link};
use everlog_proto::api::enums::v1::{EventType, NamespaceState, WorkflowIdConflictPolicy, WorkflowIdReusePolicy};
use everlog_proto::api::workflowservice::v1::{
    SignalWithStartWorkflowExecutionRequest, SignalWithStartWorkflowExecutionResponse, StartWorkflowExecutionRequest,
    StartWorkflowExecutionResponse,
};

use super::call::Call;
use super::errors::Error;
use super::execute::unexpected;
use super::{Frontend, address, search_attributes, validate};

/// Starts a run, or finds the one that stands in its way.
pub(super) async fn start_workflow_execution(
    frontend: &Frontend,
    _call: Call,
    mut request: StartWorkflowExecutionRequest,
) -> Result<StartWorkflowExecutionResponse, Error> {
    let namespace = frontend.namespace(&request.namespace)?;
    check_open(&namespace)?;
    frontend.check_room()?;
    validate::cut_causes(&mut request.continued_failure);
    check_start(frontend, &request)?;
    search_attributes::prepare(request.search_attributes.as_mut(), &namespace, &frontend.config(&request.namespace))?;
    if request.request_id.is_empty() {
        request.request_id = uuid::Uuid::new_v4().to_string();
    }
    let address = address(&namespace, &request.workflow_id);
    let workflow_id = request.workflow_id.clone();
    match frontend.execute(address, None, Command::StartWorkflow(Box::new(request))).await? {
        Reply::Started(started) => Ok(StartWorkflowExecutionResponse {
            link: Some(started_link(&namespace, workflow_id, &started)),
            run_id: started.run_id.to_string(),
            first_execution_run_id: started.first_execution_run_id.to_string(),
            started: started.started,
            status: started.status as i32,
            eager_workflow_task: None,
        }),
        reply => Err(unexpected(&reply)),
    }
}

/// Signals the open run, or starts one and signals it.
pub(super) async fn signal_with_start_workflow_execution(
    frontend: &Frontend,
    _call: Call,
    mut request: SignalWithStartWorkflowExecutionRequest,
) -> Result<SignalWithStartWorkflowExecutionResponse, Error> {
    let namespace = frontend.namespace(&request.namespace)?;
    check_open(&namespace)?;
    frontend.check_room()?;
    check_signal_with_start(frontend, &request)?;
    search_attributes::prepare(request.search_attributes.as_mut(), &namespace, &frontend.config(&request.namespace))?;
    if request.request_id.is_empty() {
        request.request_id = uuid::Uuid::new_v4().to_string();
    }
    let address = address(&namespace, &request.workflow_id);
    match frontend.execute(address, None, Command::SignalWithStartWorkflow(Box::new(request))).await? {
        Reply::Started(started) => Ok(SignalWithStartWorkflowExecutionResponse {
            run_id: started.run_id.to_string(),
            first_execution_run_id: started.first_execution_run_id.to_string(),
            started: started.started,
            signal_link: None,
        }),
        reply => Err(unexpected(&reply)),
    }
}

/// New runs need a registered namespace; everything else goes on in a deprecated one.
fn check_open(namespace: &NamespaceRecord) -> Result<(), Error> {
    if namespace.state == NamespaceState::Registered {
        return Ok(());
    }
    Err(Error::NamespaceInvalidState { namespace: namespace.name().to_owned(), state: namespace.state })
}

fn check_start(frontend: &Frontend, request: &StartWorkflowExecutionRequest) -> Result<(), Error> {
    let config = &*frontend.config(&request.namespace);
    let id_bytes_max = config.limits.id_bytes_max;
    validate::new_workflow_id(&request.workflow_id, id_bytes_max)?;
    validate::retry_policy(request.retry_policy.as_ref())?;
    validate::duration(request.workflow_start_delay.as_ref(), "WorkflowStartDelaySeconds")?;
    validate::workflow_type(request.workflow_type.as_ref(), id_bytes_max)?;
    validate::task_queue(request.task_queue.as_ref(), id_bytes_max)?;
    validate::duration(request.workflow_execution_timeout.as_ref(), "WorkflowExecutionTimeoutSeconds")?;
    validate::duration(request.workflow_run_timeout.as_ref(), "WorkflowRunTimeoutSeconds")?;
    validate::duration(request.workflow_task_timeout.as_ref(), "WorkflowTaskTimeoutSeconds")?;
    validate::length(&request.request_id, id_bytes_max, "RequestId length exceeds limit.")?;
    check_policies(request.workflow_id_reuse_policy, request.workflow_id_conflict_policy)?;
    validate::priority(request.priority.as_ref())?;
    validate::links(&request.links, config)?;
    validate::payloads(request.input.as_ref(), config)?;
    validate::memo(request.memo.as_ref(), config)
}

fn check_signal_with_start(
    frontend: &Frontend,
    request: &SignalWithStartWorkflowExecutionRequest,
) -> Result<(), Error> {
    let config = &*frontend.config(&request.namespace);
    let id_bytes_max = config.limits.id_bytes_max;
    validate::new_workflow_id(&request.workflow_id, id_bytes_max)?;
    if request.signal_name.is_empty() {
        return Err(Error::invalid("signal not set"));
    }
    if request.signal_name.len() > id_bytes_max {
        let bytes = request.signal_name.len();
        return Err(Error::invalid(format!("signal name exceeds maximum allowed length ({bytes}/{id_bytes_max})")));
    }
    validate::workflow_type(request.workflow_type.as_ref(), id_bytes_max)?;
    validate::task_queue(request.task_queue.as_ref(), id_bytes_max)?;
    validate::length(&request.request_id, id_bytes_max, "RequestId length exceeds limit.")?;
    validate::duration(request.workflow_execution_timeout.as_ref(), "WorkflowExecutionTimeoutSeconds")?;
    validate::duration(request.workflow_run_timeout.as_ref(), "WorkflowRunTimeoutSeconds")?;
    validate::duration(request.workflow_task_timeout.as_ref(), "WorkflowTaskTimeoutSeconds")?;
    validate::retry_policy(request.retry_policy.as_ref())?;
    validate::duration(request.workflow_start_delay.as_ref(), "WorkflowStartDelaySeconds")?;
    if request.workflow_id_conflict_policy() == WorkflowIdConflictPolicy::Fail {
        return Err(Error::invalid(
            "Invalid WorkflowIDConflictPolicy: WORKFLOW_ID_CONFLICT_POLICY_FAIL is not supported for this operation.",
        ));
    }
    check_policies(request.workflow_id_reuse_policy, request.workflow_id_conflict_policy)?;
    validate::priority(request.priority.as_ref())?;
    validate::links(&request.links, config)?;
    validate::payloads(request.input.as_ref(), config)?;
    validate::payloads(request.signal_input.as_ref(), config)?;
    validate::memo(request.memo.as_ref(), config)
}

#[expect(deprecated, reason = "old clients still send TerminateIfRunning")]
fn check_policies(reuse: i32, conflict: i32) -> Result<(), Error> {
    let has_conflict_policy = conflict != WorkflowIdConflictPolicy::Unspecified as i32;
    if reuse == WorkflowIdReusePolicy::TerminateIfRunning as i32 && has_conflict_policy {
        return Err(Error::invalid(
            "Invalid WorkflowIDReusePolicy: WORKFLOW_ID_REUSE_POLICY_TERMINATE_IF_RUNNING cannot be used together \
             with a WorkflowIDConflictPolicy",
        ));
    }
    if reuse == WorkflowIdReusePolicy::RejectDuplicate as i32
        && conflict == WorkflowIdConflictPolicy::TerminateExisting as i32
    {
        return Err(Error::invalid(
            "Invalid WorkflowIDReusePolicy: WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE cannot be used together with \
             WorkflowIdConflictPolicy WORKFLOW_ID_CONFLICT_POLICY_TERMINATE_EXISTING",
        ));
    }
    Ok(())
}

/// Points at the started event.
fn started_link(namespace: &NamespaceRecord, workflow_id: String, started: &Started) -> Link {
    let reference =
        link::workflow_event::EventReference { event_id: 1, event_type: EventType::WorkflowExecutionStarted as i32 };
    Link {
        variant: Some(link::Variant::WorkflowEvent(link::WorkflowEvent {
            namespace: namespace.name().to_owned(),
            workflow_id,
            run_id: started.run_id.to_string(),
            reference: Some(link::workflow_event::Reference::EventRef(reference)),
        })),
    }
}
