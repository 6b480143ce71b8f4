//! StartWorkflowExecution and SignalWithStartWorkflowExecution.

use everlog_kernel::Command;
use everlog_kernel::command::Reply;
use everlog_meta::NamespaceRecord;
use everlog_proto::api::enums::v1::NamespaceState;
use everlog_proto::api::workflowservice::v1::{
    SignalWithStartWorkflowExecutionRequest, SignalWithStartWorkflowExecutionResponse, StartWorkflowExecutionRequest,
    StartWorkflowExecutionResponse,
};

use super::call::Call;
use super::errors::Error;
use super::execute::unexpected;
use super::{Frontend, address, links, search_attributes, validate};

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
    let config = frontend.config(&request.namespace);
    search_attributes::prepare(request.search_attributes.as_mut(), &namespace, &config)?;
    let workflow_id = request.workflow_id.clone();
    let command = Command::start(request, &config.limits)?;
    match frontend.execute(address(&namespace, &workflow_id), None, command).await? {
        Reply::Started(started) => Ok(StartWorkflowExecutionResponse {
            link: Some(links::to_start(&namespace, workflow_id, started.run_id)),
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
    let config = frontend.config(&request.namespace);
    search_attributes::prepare(request.search_attributes.as_mut(), &namespace, &config)?;
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
fn check_open(namespace: &NamespaceRecord) -> Result<(), Error> {
    if namespace.state == NamespaceState::Registered {
        return Ok(());
    }
    Err(Error::NamespaceInvalidState { namespace: namespace.name().to_owned(), state: namespace.state })
}
