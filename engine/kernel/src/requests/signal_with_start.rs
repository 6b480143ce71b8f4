//! Signal-with-start: the open run is signaled, or a new one is started with the signal as its second event.

use everlog_proto::api::enums::v1::WorkflowIdConflictPolicy;
use everlog_proto::api::workflowservice::v1::{
    SignalWithStartWorkflowExecutionRequest, SignalWorkflowExecutionRequest, StartWorkflowExecutionRequest,
};

use super::signal_workflow;
use super::start_workflow::{self, Resolution};
use crate::command::{Reply, Started};
use crate::decide::on_run;
use crate::state::{Run, RunInfo, Workflow};
use crate::transition::Transition;
use crate::{Context, Rejection, workflow_task};

/// Signals the open run unless it is to be terminated first, or starts one. A signal to an open run ends the delay of its first
/// workflow task, which a plain signal does not.
pub(crate) fn decide(
    workflow: &mut Workflow,
    request: SignalWithStartWorkflowExecutionRequest,
    ctx: &mut Context<'_>,
) -> Result<Transition, Rejection> {
    if request.workflow_id_conflict_policy() == WorkflowIdConflictPolicy::Fail {
        return Err(Rejection::invalid(
            "Invalid WorkflowIDConflictPolicy: WORKFLOW_ID_CONFLICT_POLICY_FAIL is not supported for this operation.",
        ));
    }
    if request.signal_name.is_empty() {
        return Err(Rejection::invalid("signal not set"));
    }
    let (start, mut signal) = split(request);
    let (reuse, conflict) = start_workflow::policies(&start, WorkflowIdConflictPolicy::UseExisting)?;
    let new_run = start_workflow::new_run(&workflow.id, start, ctx)?;
    signal.request_id.clone_from(&new_run.start_request_id);

    if let Some(current) = workflow.current_run()
        && current.is_open()
        && conflict == WorkflowIdConflictPolicy::UseExisting
    {
        let started = Started {
            run_id: current.id,
            first_execution_run_id: current.first_run_id(),
            started: false,
            status: current.status(),
        };
        return signal_open_run(workflow, started, signal, ctx);
    }
    match start_workflow::resolve(workflow, &new_run.start_request_id, reuse, conflict)? {
        Resolution::Found(started) | Resolution::UseExisting(started) => {
            Ok(Transition::reply(Reply::Started(Started { started: false, ..started })))
        }
        Resolution::Start { terminate } => {
            signal_workflow::check(&Run::new(new_run.run_id, RunInfo::default()), &signal, ctx.limits)?;
            start_workflow::start(workflow, new_run, terminate, ctx, |txn| signal_workflow::record(txn, signal))
        }
    }
}

fn signal_open_run(
    workflow: &mut Workflow,
    started: Started,
    signal: SignalWorkflowExecutionRequest,
    ctx: &mut Context<'_>,
) -> Result<Transition, Rejection> {
    on_run(workflow, started.run_id, ctx, |txn| {
        signal_workflow::check(&txn.run, &signal, txn.ctx.limits)?;
        if !signal_workflow::is_known(&txn.run, &signal.request_id) {
            signal_workflow::record(txn, signal);
            workflow_task::ensure_scheduled(txn);
        }
        Ok(Ok(Reply::Started(started)))
    })
}

/// The two requests that this one stands for.
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
