//! Starting a workflow: whether a new run may begin.

use everlog_proto::api::enums::v1::{WorkflowExecutionStatus, WorkflowIdConflictPolicy, WorkflowIdReusePolicy};
use everlog_proto::api::history::v1::history_event::Attributes;
use everlog_proto::api::history::v1::{HistoryEvent, WorkflowExecutionOptionsUpdatedEventAttributes};
use everlog_proto::api::workflow::v1::OnConflictOptions;

use super::start_workflow_task;
use crate::command::{Reply, Started};
use crate::runs::{on_run, start_run};
use crate::state::{Run, Workflow};
use crate::terminate::terminate;
use crate::transition::Transition;
use crate::txn::{NewRun, Txn};
use crate::valid_start::ValidStart;
use crate::{Context, Rejection, RunId, activity_task, deployment, workflow_task};

/// Starts a run, or finds the one that this very request (by its id) has started before or was attached to, or the one that its policies
/// say to use; or refuses.
pub(crate) fn decide(
    workflow: &mut Workflow,
    start: ValidStart,
    ctx: &mut Context<'_>,
) -> Result<Transition, Rejection> {
    let (reuse, conflict, on_conflict, is_eager) = (start.reuse, start.conflict, start.on_conflict, start.is_eager);
    let new_run = start.into_new_run(ctx);
    check_version(&new_run, ctx)?;
    let request_id = &new_run.start_request_id;
    if let Some(run) = workflow.current_run().filter(|run| run.attached_requests.contains(request_id)) {
        let attached_request_id = Some(request_id.clone());
        return Ok(Transition::reply(Reply::Started(Started { attached_request_id, ..found(run, false) })));
    }
    match resolve(workflow, &new_run.start_request_id, reuse, conflict)? {
        Resolution::Found(started) if is_eager && started.status == WorkflowExecutionStatus::Running => {
            on_run(workflow, started.run_id, ctx, |txn| {
                let first_task = start_workflow_task::eager_again(txn).map(Box::new);
                Ok(Ok(Reply::Started(Started { first_task, ..started })))
            })
        }
        Resolution::Found(started) => Ok(Transition::reply(Reply::Started(started))),
        Resolution::UseExisting(started) => match on_conflict {
            Some(options) => attach(workflow, started, new_run, options, ctx),
            None => Ok(Transition::reply(Reply::Started(started))),
        },
        Resolution::Start { terminate } => begin(workflow, new_run, terminate, ctx, |_| {}),
    }
}

/// Refuses a run that would be for workers that never poll its queue.
pub(super) fn check_version(new_run: &NewRun, ctx: &Context<'_>) -> Result<(), Rejection> {
    let queue = new_run.started.task_queue.as_ref().map_or("", |queue| &queue.name);
    deployment::check_reach(new_run.started.versioning_override.as_ref(), queue, &ctx.namespace.deployments)
}

/// Records in the open run that it stands for the one that `new_run` would have been. The workflow need not hear of it.
fn attach(
    workflow: &mut Workflow,
    started: Started,
    new_run: NewRun,
    options: OnConflictOptions,
    ctx: &mut Context<'_>,
) -> Result<Transition, Rejection> {
    let attached_request_id = options.attach_request_id.then_some(new_run.start_request_id);
    let links = if options.attach_links { new_run.links } else { Vec::new() };
    let callbacks = new_run.started.completion_callbacks;
    let callbacks = if options.attach_completion_callbacks { callbacks } else { Vec::new() };
    on_run(workflow, started.run_id, ctx, |txn| {
        let (attached, attached_max) = (txn.run.callbacks.len(), txn.ctx.limits.callbacks_max);
        if !callbacks.is_empty() && attached + callbacks.len() > attached_max {
            let message = format!(
                "cannot attach more than {attached_max} callbacks to a workflow ({attached} callbacks already attached)"
            );
            return Err(Rejection::FailedPrecondition(message.into()));
        }
        let attributes = WorkflowExecutionOptionsUpdatedEventAttributes {
            attached_completion_callbacks: callbacks,
            attached_request_id: attached_request_id.clone().unwrap_or_default(),
            ..WorkflowExecutionOptionsUpdatedEventAttributes::default()
        };
        txn.record_event(HistoryEvent {
            attributes: Some(Attributes::WorkflowExecutionOptionsUpdatedEventAttributes(attributes)),
            links,
            ..HistoryEvent::default()
        });
        workflow_task::limit_buffered(txn);
        Ok(Ok(Reply::Started(Started { attached_request_id, ..started })))
    })
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

pub(super) fn found(run: &Run, started: bool) -> Started {
    Started {
        run_id: run.id,
        first_execution_run_id: run.first_run_id(),
        started,
        status: run.status(),
        attached_request_id: None,
        first_task: None,
    }
}

/// Starts the run, as the workflow's current one, in one transition with the end of the one that it replaces.
pub(super) fn begin(
    workflow: &mut Workflow,
    new_run: NewRun,
    replaced: Option<RunId>,
    ctx: &mut Context<'_>,
    before_first_task: impl FnOnce(&mut Txn<'_>),
) -> Result<Transition, Rejection> {
    let run_id = new_run.run_id;
    let mut transition = match replaced {
        None => Transition::reply(Reply::Done),
        Some(existing) => on_run(workflow, existing, ctx, |txn| {
            terminate(
                txn,
                "TerminateIfRunning WorkflowIdReusePolicy".into(),
                Some(activity_task::text_payloads(&format!("terminated by new runID: {run_id}"))),
                "history-service".into(),
                Vec::new(),
            );
            Ok(Ok(Reply::Done))
        })?,
    };
    let first_task = start_run(workflow, new_run, ctx, &mut transition, before_first_task);
    transition.reply = Ok(Reply::Started(Started {
        run_id,
        first_execution_run_id: run_id,
        started: true,
        status: WorkflowExecutionStatus::Running,
        attached_request_id: None,
        first_task: first_task.map(Box::new),
    }));
    Ok(transition)
}
