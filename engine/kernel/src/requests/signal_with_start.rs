//! Signal-with-start: the open run is signaled, or a new one is started with the signal as its second event.

use everlog_proto::api::enums::v1::WorkflowIdConflictPolicy;
use everlog_proto::api::workflowservice::v1::SignalWorkflowExecutionRequest;

use super::signal_workflow;
use super::start_workflow::{self, Resolution};
use crate::command::{Reply, Started};
use crate::runs::on_run;
use crate::state::{Run, RunInfo, Workflow};
use crate::transition::Transition;
use crate::valid_start::ValidSignalWithStart;
use crate::{Context, Rejection, workflow_task};

/// Signals the open run unless it is to be terminated first, or starts one. A signal to an open run ends the delay of its first
/// workflow task, which a plain signal does not.
pub(crate) fn decide(
    workflow: &mut Workflow,
    request: ValidSignalWithStart,
    ctx: &mut Context<'_>,
) -> Result<Transition, Rejection> {
    let ValidSignalWithStart { start, mut signal } = request;
    let (reuse, conflict) = (start.reuse, start.conflict);
    let new_run = start.into_new_run(ctx);
    start_workflow::check_version(&new_run, ctx)?;
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
            attached_request_id: None,
            first_task: None,
        };
        return signal_open_run(workflow, started, signal, ctx);
    }
    match start_workflow::resolve(workflow, &new_run.start_request_id, reuse, conflict)? {
        Resolution::Found(started) | Resolution::UseExisting(started) => {
            Ok(Transition::reply(Reply::Started(Started { started: false, ..started })))
        }
        Resolution::Start { terminate } => {
            signal_workflow::check(&Run::new(new_run.run_id, RunInfo::default()), &signal, ctx.limits)?;
            start_workflow::begin(workflow, new_run, terminate, ctx, |txn| signal_workflow::record(txn, signal))
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
