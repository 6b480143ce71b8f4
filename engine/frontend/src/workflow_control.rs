//! What callers do to a workflow from outside: signal, cancel, terminate, delete, describe, reset stickiness.

use everlog_kernel::command::Reply;
use everlog_kernel::{RunCommand, describe};
use everlog_proto::api::workflowservice::v1::{
    DeleteWorkflowExecutionRequest, DeleteWorkflowExecutionResponse, DescribeWorkflowExecutionRequest,
    DescribeWorkflowExecutionResponse, RequestCancelWorkflowExecutionRequest, RequestCancelWorkflowExecutionResponse,
    ResetStickyTaskQueueRequest, ResetStickyTaskQueueResponse, SignalWorkflowExecutionRequest,
    SignalWorkflowExecutionResponse, TerminateWorkflowExecutionRequest, TerminateWorkflowExecutionResponse,
};

use super::call::Call;
use super::errors::Error;
use super::execute::{explain, unexpected};
use super::{Frontend, address, links, validate};

/// Delivers a signal to a run.
pub(super) async fn signal_workflow_execution(
    frontend: &Frontend,
    _call: Call,
    request: SignalWorkflowExecutionRequest,
) -> Result<SignalWorkflowExecutionResponse, Error> {
    let namespace = frontend.namespace(&request.namespace)?;
    frontend.check_room()?;
    let (workflow_id, run_id) = validate::execution(request.workflow_execution.as_ref())?;
    let config = frontend.config(&request.namespace);
    let id_bytes_max = config.limits.id_bytes_max;
    if request.signal_name.is_empty() {
        return Err(Error::invalid("SignalName is not set on request."));
    }
    validate::length(&request.signal_name, id_bytes_max, "SignalName length exceeds limit.")?;
    validate::length(&request.request_id, id_bytes_max, "RequestId length exceeds limit.")?;
    validate::links(&request.links, &config)?;
    validate::payloads(request.input.as_ref(), &config)?;
    let (workflow_id, request_id) = (workflow_id.to_owned(), request.request_id.clone());
    let address = address(&namespace, &workflow_id);
    match frontend.execute(address, run_id, RunCommand::SignalWorkflow(Box::new(request))).await? {
        Reply::Signaled(run_id) => Ok(SignalWorkflowExecutionResponse {
            link: Some(links::to_signal(&namespace, workflow_id, run_id, request_id)),
        }),
        reply => Err(unexpected(&reply)),
    }
}

/// Asks a run to cancel.
pub(super) async fn request_cancel_workflow_execution(
    frontend: &Frontend,
    _call: Call,
    request: RequestCancelWorkflowExecutionRequest,
) -> Result<RequestCancelWorkflowExecutionResponse, Error> {
    let namespace = frontend.namespace(&request.namespace)?;
    let (workflow_id, run_id) = validate::execution(request.workflow_execution.as_ref())?;
    validate::links(&request.links, &frontend.config(&request.namespace))?;
    let address = address(&namespace, workflow_id);
    frontend.execute_done(address, run_id, RunCommand::RequestCancelWorkflow(Box::new(request))).await?;
    Ok(RequestCancelWorkflowExecutionResponse::default())
}

/// Ends a run.
pub(super) async fn terminate_workflow_execution(
    frontend: &Frontend,
    _call: Call,
    request: TerminateWorkflowExecutionRequest,
) -> Result<TerminateWorkflowExecutionResponse, Error> {
    let namespace = frontend.namespace(&request.namespace)?;
    let (workflow_id, run_id) = validate::execution(request.workflow_execution.as_ref())?;
    // Details may be as large as a request may.
    validate::links(&request.links, &frontend.config(&request.namespace))?;
    let address = address(&namespace, workflow_id);
    frontend.execute_done(address, run_id, RunCommand::TerminateWorkflow(Box::new(request))).await?;
    Ok(TerminateWorkflowExecutionResponse::default())
}

/// Deletes a run, with its history and its place in lists. An open one is terminated first, and is there for a moment longer.
pub(super) async fn delete_workflow_execution(
    frontend: &Frontend,
    _call: Call,
    request: DeleteWorkflowExecutionRequest,
) -> Result<DeleteWorkflowExecutionResponse, Error> {
    let namespace = frontend.namespace(&request.namespace)?;
    let (workflow_id, run_id) = validate::execution(request.workflow_execution.as_ref())?;
    frontend.execute_done(address(&namespace, workflow_id), run_id, RunCommand::DeleteWorkflow).await?;
    Ok(DeleteWorkflowExecutionResponse::default())
}

/// Tells what a run is doing.
pub(super) async fn describe_workflow_execution(
    frontend: &Frontend,
    call: Call,
    request: DescribeWorkflowExecutionRequest,
) -> Result<DescribeWorkflowExecutionResponse, Error> {
    let namespace = frontend.namespace(&request.namespace)?;
    let (workflow_id, run_id) = validate::execution(request.execution.as_ref())?;
    let address = address(&namespace, workflow_id);
    if let Some(replica) = call.reads.replica(frontend, &namespace, &address)? {
        let described = replica.inspect(&address, run_id, move |workflow| describe::describe(workflow, run_id)).await;
        // What is not there may have come since.
        if let Ok(description) = described {
            return Ok(description);
        }
    }
    let partition = frontend.router.partition_of(&address)?;
    let look = || async {
        let view = partition.inspect(address.clone(), run_id, move |workflow, _| {
            Ok((describe::describe(workflow, run_id)?, describe::leaves_out_start(workflow, run_id)))
        });
        view.await.map_err(|error| explain(error, &address, run_id))
    };
    let (description, leaves_out_start) = look().await?;
    if !leaves_out_start {
        return Ok(description);
    }
    frontend.execute_done(address.clone(), run_id, RunCommand::SaveWorkflowTaskStart).await?;
    Ok(look().await?.0)
}

/// Forgets where the worker polls that has a run cached.
pub(super) async fn reset_sticky_task_queue(
    frontend: &Frontend,
    _call: Call,
    request: ResetStickyTaskQueueRequest,
) -> Result<ResetStickyTaskQueueResponse, Error> {
    let namespace = frontend.namespace(&request.namespace)?;
    let (workflow_id, run_id) = validate::execution(request.execution.as_ref())?;
    frontend.execute_done(address(&namespace, workflow_id), run_id, RunCommand::ResetStickyTaskQueue).await?;
    Ok(ResetStickyTaskQueueResponse::default())
}
