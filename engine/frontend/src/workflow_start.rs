//! StartWorkflowExecution and SignalWithStartWorkflowExecution.

use everlog_kernel::Command;
use everlog_kernel::command::{Reply, Started};
use everlog_meta::NamespaceRecord;
use everlog_proto::api::common::v1::{Link, link};
use everlog_proto::api::enums::v1::{EventType, NamespaceState};
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
    let config = frontend.config(&request.namespace);
    search_attributes::prepare(request.search_attributes.as_mut(), &namespace, &config)?;
    let workflow_id = request.workflow_id.clone();
    let command = Command::start(request, &config.limits)?;
    match frontend.execute(address(&namespace, &workflow_id), None, command).await? {
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
    let config = frontend.config(&request.namespace);
    search_attributes::prepare(request.search_attributes.as_mut(), &namespace, &config)?;
    let address = address(&namespace, &request.workflow_id);
    let command = Command::signal_with_start(request, &config.limits)?;
    match frontend.execute(address, None, command).await? {
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
