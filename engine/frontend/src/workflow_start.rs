//! StartWorkflowExecution and SignalWithStartWorkflowExecution.

use everlog_config::DynamicConfig;
use everlog_kernel::Command;
use everlog_kernel::RunId;
use everlog_kernel::command::Reply;
use everlog_meta::NamespaceRecord;
use everlog_partition::StartedWorkflowTask;
use everlog_proto::api::enums::v1::NamespaceState;
use everlog_proto::api::history::v1::History;
use everlog_proto::api::workflowservice::v1::{
    PollWorkflowTaskQueueResponse, SignalWithStartWorkflowExecutionRequest, SignalWithStartWorkflowExecutionResponse,
    StartWorkflowExecutionRequest, StartWorkflowExecutionResponse,
};
use prost::Message;

use super::call::{Call, own_request_id};
use super::errors::Error;
use super::execute::{explain, unexpected};
use super::{Frontend, address, links, search_attributes, unbuilt, validate, workflow_tasks};

/// Starts a run, or finds the one that stands in its way.
pub(super) async fn start_workflow_execution(
    frontend: &Frontend,
    _call: Call,
    request: StartWorkflowExecutionRequest,
) -> Result<StartWorkflowExecutionResponse, Error> {
    let namespace = frontend.namespace(&request.namespace)?;
    check_open(&namespace)?;
    frontend.check_room()?;
    let config = frontend.config(&request.namespace);
    let workflow_id = request.workflow_id.clone();
    let command = prepare(&namespace, &config, request)?;
    let address = address(&namespace, &workflow_id);
    let (started, first_task) = frontend
        .router
        .partition_of(&address)?
        .start_workflow(address.clone(), command)
        .await
        .map_err(|error| explain(error, &address, None))?;
    Ok(StartWorkflowExecutionResponse {
        link: Some(match started.attached_request_id {
            Some(request_id) => links::to_attached(&namespace, workflow_id, started.run_id, request_id),
            None => links::to_start(&namespace, workflow_id, started.run_id),
        }),
        run_id: started.run_id.to_string(),
        first_execution_run_id: started.first_execution_run_id.to_string(),
        started: started.started,
        status: started.status as i32,
        eager_workflow_task: first_task.map(|first_task| with_history(first_task, started.run_id)).transpose()?,
    })
}

/// Checks a request to start a workflow, and makes it a command.
pub(super) fn prepare(
    namespace: &NamespaceRecord,
    config: &DynamicConfig,
    mut request: StartWorkflowExecutionRequest,
) -> Result<Command, Error> {
    validate::cut_causes(&mut request.continued_failure);
    if request.request_id.is_empty() {
        request.request_id = own_request_id();
    }
    search_attributes::prepare(request.search_attributes.as_mut(), namespace, config)?;
    unbuilt::eager_version(request.eager_worker_deployment_options.as_ref(), config)?;
    Ok(Command::start(request, &config.limits)?)
}

/// The first workflow task of a run, for the worker that has started it. Its history is short, so it is decoded.
fn with_history(first_task: StartedWorkflowTask, run_id: RunId) -> Result<PollWorkflowTaskQueueResponse, Error> {
    let encoded = workflow_tasks::with_page_token(first_task, run_id);
    let mut history = History::default();
    for batch in encoded.history.unwrap_or_default().batches {
        history.merge(batch).map_err(|error| Error::Internal(format!("a history cannot be decoded: {error}")))?;
    }
    Ok(PollWorkflowTaskQueueResponse { history: Some(history), ..encoded.message })
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
    let config = frontend.config(&request.namespace);
    search_attributes::prepare(request.search_attributes.as_mut(), &namespace, &config)?;
    if request.request_id.is_empty() {
        request.request_id = own_request_id();
    }
    let (workflow_id, request_id) = (request.workflow_id.clone(), request.request_id.clone());
    let address = address(&namespace, &workflow_id);
    let command = Command::signal_with_start(request, &config.limits)?;
    match frontend.execute(address, None, command).await? {
        Reply::Started(started) => Ok(SignalWithStartWorkflowExecutionResponse {
            run_id: started.run_id.to_string(),
            first_execution_run_id: started.first_execution_run_id.to_string(),
            started: started.started,
            signal_link: Some(links::to_signal(&namespace, workflow_id, started.run_id, request_id)),
        }),
        reply => Err(unexpected(&reply)),
    }
}

/// New runs need a registered namespace; everything else goes on in a deprecated one.
pub(super) fn check_open(namespace: &NamespaceRecord) -> Result<(), Error> {
    if namespace.state == NamespaceState::Registered {
        return Ok(());
    }
    Err(Error::NamespaceInvalidState {
        namespace: namespace.name().to_owned(),
        state: namespace.state,
        allowed: &[NamespaceState::Registered],
    })
}
