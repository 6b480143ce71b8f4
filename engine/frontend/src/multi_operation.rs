//! ExecuteMultiOperation: operations that are done together, or not at all. So far that is an update with the start of its workflow.

use everlog_config::DynamicConfig;
use everlog_kernel::{Command, Rejection};
use everlog_meta::NamespaceRecord;
use everlog_proto::api::workflowservice::v1::execute_multi_operation_request::operation::Operation;
use everlog_proto::api::workflowservice::v1::execute_multi_operation_response::{Response, response};
use everlog_proto::api::workflowservice::v1::{
    ExecuteMultiOperationRequest, ExecuteMultiOperationResponse, StartWorkflowExecutionRequest,
    StartWorkflowExecutionResponse, UpdateWorkflowExecutionRequest,
};

use super::call::Call;
use super::errors::Error;
use super::updates::{self, Follow, Named};
use super::{Frontend, address, links, workflow_start};

/// Sends an update to a workflow, and starts that if there is none.
pub(super) async fn execute_multi_operation(
    frontend: &Frontend,
    call: Call,
    request: ExecuteMultiOperationRequest,
) -> Result<ExecuteMultiOperationResponse, Error> {
    let namespace = frontend.namespace(&request.namespace)?;
    let config = frontend.config(&request.namespace);
    if !config.frontend.multi_operations {
        return Err(Error::PermissionDenied("ExecuteMultiOperation API is disabled on this namespace."));
    }
    let operations: Vec<_> = request.operations.into_iter().map(|operation| operation.operation).collect();
    let Ok([Some(Operation::StartWorkflow(start)), Some(Operation::UpdateWorkflow(mut update))]) =
        <[_; 2]>::try_from(operations)
    else {
        return Err(Error::invalid("Operations have to be exactly [Start, Update]."));
    };
    workflow_start::check_open(&namespace)?;
    frontend.check_room()?;

    let workflow_id = start.workflow_id.clone();
    let start = prepare_start(&namespace, &config, start);
    let updated = prepare_update(&namespace, &config, &mut update);
    let updated = match (&start, updated) {
        (Ok(_), Ok(())) if Named::of(&update).workflow_id != workflow_id => {
            Err(Error::invalid("WorkflowId is not consistent with previous operation(s)."))
        }
        (_, updated) => updated,
    };
    let start = match (start, updated) {
        (Ok(start), Ok(())) => start,
        (start, updated) => return Err(Error::MultiOperation(vec![start.err(), updated.err()])),
    };

    let address = address(&namespace, &workflow_id);
    let (named, stage) = (Named::of(&update), updates::stage_of(update.wait_policy.as_ref()));
    let Command::StartWorkflow(start) = start else {
        return Err(Error::Internal("a start is another command".to_owned()));
    };
    let command = Command::UpdateWithStart(start, Box::new(update));
    let follow = Follow::new(frontend, &call, &config, address, None);
    let reached = match follow.until(stage, &command).await {
        // The run closed under the update; the next try starts another one.
        Err(Error::Rejected(rejection)) if rejection == Rejection::update_aborted() => {
            follow.until(stage, &command).await
        }
        reached => reached,
    };
    let mut reached = reached.map_err(|error| match error {
        error @ (Error::NotDone(_) | Error::DeadlineExceeded(_)) => error,
        Error::Rejected(rejection @ Rejection::AlreadyStarted { .. }) => {
            Error::MultiOperation(vec![Some(rejection.into()), None])
        }
        error => Error::MultiOperation(vec![None, Some(error)]),
    })?;
    let started = reached.started.take().ok_or_else(|| Error::Internal("an update without its start".to_owned()))?;
    let start = StartWorkflowExecutionResponse {
        link: Some(links::to_start(&namespace, workflow_id, started.run_id)),
        run_id: started.run_id.to_string(),
        first_execution_run_id: started.first_execution_run_id.to_string(),
        started: started.started,
        status: started.status as i32,
        eager_workflow_task: None,
    };
    let update = named.response(&namespace, reached);
    let responses = [response::Response::StartWorkflow(start), response::Response::UpdateWorkflow(update)];
    Ok(ExecuteMultiOperationResponse {
        responses: responses.map(|response| Response { response: Some(response) }).into(),
    })
}

fn prepare_start(
    namespace: &NamespaceRecord,
    config: &DynamicConfig,
    start: StartWorkflowExecutionRequest,
) -> Result<Command, Error> {
    check_namespace(namespace, &start.namespace)?;
    if start.namespace.is_empty() {
        return Err(Error::NamespaceNotFound(start.namespace));
    }
    let (has_cron, is_eager) = (!start.cron_schedule.is_empty(), start.request_eager_execution);
    let has_delay = start.workflow_start_delay.is_some_and(|delay| delay.seconds > 0 || delay.nanos > 0);
    let start = workflow_start::prepare(namespace, config, start)?;
    if has_cron {
        return Err(Error::invalid("CronSchedule is not allowed."));
    }
    if is_eager {
        return Err(Error::invalid("RequestEagerExecution is not supported."));
    }
    if has_delay {
        return Err(Error::invalid("WorkflowStartDelay is not supported."));
    }
    Ok(start)
}

fn prepare_update(
    namespace: &NamespaceRecord,
    config: &DynamicConfig,
    update: &mut UpdateWorkflowExecutionRequest,
) -> Result<(), Error> {
    check_namespace(namespace, &update.namespace)?;
    let run_id = updates::prepare(update, config)?;
    if !update.first_execution_run_id.is_empty() {
        return Err(Error::invalid("FirstExecutionRunId is not allowed."));
    }
    if run_id.is_some() {
        return Err(Error::invalid("RunId is not allowed."));
    }
    Ok(())
}

fn check_namespace(namespace: &NamespaceRecord, name: &str) -> Result<(), Error> {
    if name.is_empty() || name == namespace.name() {
        return Ok(());
    }
    Err(Error::invalid("Operation namespace did not match request's namespace."))
}
