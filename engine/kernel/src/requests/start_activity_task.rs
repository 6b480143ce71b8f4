//! A worker is at hand for an activity, because it polls or because it has scheduled the activity: the attempt is started, and
//! everything that the worker needs is put together.

use everlog_proto::api::common::v1::{Priority, WorkflowExecution, WorkflowType};
use everlog_proto::api::deployment::v1::WorkerDeploymentVersion;
use everlog_proto::api::workflowservice::v1::PollActivityTaskQueueResponse;

use crate::command::{Reply, StartActivityTask};
use crate::state::{Activity, ActivityStarted};
use crate::task::TaskKind;
use crate::token::{self, ActivityTaskToken};
use crate::txn::Txn;
use crate::{EntityKind, Namespace, Rejection, fairness, workflow_task};

/// Starts the attempt. Refuses with `NotFound` if it is not the one that waits to be started; the same poll is answered the
/// same way again.
///
/// An activity that may be attempted only once is started durably before the worker has it. Any other one can be handed out
/// before its start is written, because a second start of the attempt does no harm that a retry would not do.
///
/// One whose workflow is on its way to another version does not begin: it is offered once more when the workflow is there. One that is
/// taken by a worker to whose version the workflow is to go sends it on its way.
pub(crate) fn apply(txn: &mut Txn<'_>, start: StartActivityTask) -> Result<Result<Reply, Rejection>, Rejection> {
    if !txn.run.is_open() {
        return Err(Rejection::workflow_completed());
    }
    let id = start.scheduled_event_id;
    let activity = txn.run.activities.get(&id).ok_or_else(Rejection::activity_not_found)?;
    if activity.attempt != start.attempt || !activity.offered {
        return Err(Rejection::activity_not_found());
    }
    match &activity.started {
        Some(started) if started.request_id == start.request_id => {}
        Some(_) => return Err(Rejection::activity_not_found()),
        None if activity.pause.is_some() => return Err(Rejection::activity_not_found()),
        // An operator has had the activity offered anew since the task was handed out.
        None if start.key.as_ref().is_some_and(|key| !txn.run.is_activity_task(activity, key)) => {
            return Err(Rejection::activity_not_found());
        }
        None if txn.run.is_in_transition() => return Err(Rejection::activity_not_found()),
        None if is_for_another(txn, activity, start.deployment_version.as_ref()) => {
            return Err(Rejection::activity_not_found());
        }
        None if leads_on(txn, start.deployment_version.as_ref()) => {
            let queue = txn.run.task_queue();
            let deployments = &txn.ctx.namespace.deployments;
            let revision = deployments.target(TaskKind::Workflow, queue, txn.workflow_id).revision;
            txn.run.start_transition(start.deployment_version, revision);
            txn.save();
            workflow_task::ensure_scheduled(txn);
            return Ok(Err(Rejection::activity_not_found()));
        }
        None => {
            let now = txn.now();
            let once = activity.retry_policy().is_none_or(|policy| policy.maximum_attempts == 1);
            let activity = if once { txn.activity_mut(id) } else { txn.activity_mut_unsaved(id) };
            let activity = activity.ok_or_else(Rejection::activity_not_found)?;
            activity.last_version = start.deployment_version.map(Box::new);
            activity.started =
                Some(ActivityStarted { time: now, identity: start.identity, request_id: start.request_id });
        }
    }
    let activity = txn.run.activities.get(&id).ok_or_else(Rejection::activity_not_found)?;
    Ok(Ok(Reply::ActivityTaskStarted(Box::new(poll_response(txn, activity)))))
}

/// Whether the activity is for workers of the version alone that its workflow is pinned to, and the worker is of another.
fn is_for_another(txn: &Txn<'_>, activity: &Activity, version: Option<&WorkerDeploymentVersion>) -> bool {
    let Some(pinned) = txn.run.pinned_version().filter(|pinned| version != Some(pinned)) else { return false };
    txn.ctx.namespace.deployments.is_in_version(TaskKind::Activity, activity.task_queue(), pinned)
}

/// Whether the workflow, which is not pinned, is to go to the version of the worker, and is not there yet. Where its own queue leads
/// elsewhere, the activity is on its own.
fn leads_on(txn: &Txn<'_>, version: Option<&WorkerDeploymentVersion>) -> bool {
    if txn.run.version() == version || txn.run.pinned_version().is_some() {
        return false;
    }
    let target = txn.ctx.namespace.deployments.target(TaskKind::Workflow, txn.run.task_queue(), txn.workflow_id);
    target.version.as_ref() == version
}

/// Starts the activities that were scheduled for the worker of this very workflow task, as long as they are pending. They are written
/// as started, in the rows that they get anyway, and offered to nobody else.
pub(super) fn start_eager(txn: &mut Txn<'_>, identity: &str) -> Vec<PollActivityTaskQueueResponse> {
    let mut started = Vec::new();
    for id in std::mem::take(&mut txn.eager_activities) {
        let (time, request_id) = (txn.now(), txn.ctx.ids.request_id());
        let Some(activity) = txn.activity_mut(id) else { continue };
        activity.started = Some(ActivityStarted { time, identity: identity.to_owned(), request_id });
        let activity = activity.clone();
        started.push(poll_response(txn, &activity));
    }
    started
}

/// What the worker gets.
fn poll_response(txn: &Txn<'_>, activity: &Activity) -> PollActivityTaskQueueResponse {
    let token = ActivityTaskToken {
        namespace_id: txn.ctx.namespace.id,
        workflow_id: txn.workflow_id.to_owned(),
        run_id: txn.run.id,
        scheduled_event_id: activity.scheduled_event_id,
        attempt: activity.attempt,
        started_time: activity.started.as_ref().map_or(txn.now(), |started| started.time),
        entity: EntityKind::Workflow,
    };
    let scheduled = &activity.scheduled;
    PollActivityTaskQueueResponse {
        workflow_type: Some(WorkflowType { name: txn.run.workflow_type().to_owned() }),
        workflow_execution: Some(WorkflowExecution {
            workflow_id: txn.workflow_id.to_owned(),
            run_id: txn.run.id.to_string(),
        }),
        schedule_to_close_timeout: scheduled.schedule_to_close_timeout,
        start_to_close_timeout: scheduled.start_to_close_timeout,
        heartbeat_timeout: scheduled.heartbeat_timeout,
        // Timeouts are those of the event, in Temporal as well; an operator changes those that are enforced here.
        priority: merged_priority(txn.run.given_priority(), activity.given_priority()),
        ..told_of_attempt(activity, &token, txn.ctx.namespace)
    }
}

/// What the worker gets of whichever activity: all but its timeouts, its priority, and whose it is.
pub(crate) fn told_of_attempt(
    activity: &Activity,
    token: &ActivityTaskToken,
    namespace: &Namespace,
) -> PollActivityTaskQueueResponse {
    let scheduled = &activity.scheduled;
    PollActivityTaskQueueResponse {
        task_token: token::encode(token),
        workflow_namespace: namespace.name.clone(),
        activity_type: scheduled.activity_type.clone(),
        activity_id: scheduled.activity_id.clone(),
        header: scheduled.header.clone(),
        input: scheduled.input.clone(),
        heartbeat_details: activity.heartbeat_details.clone(),
        scheduled_time: Some(activity.scheduled_time.to_proto()),
        current_attempt_scheduled_time: Some(activity.attempt_scheduled_time.to_proto()),
        started_time: activity.started.as_ref().map(|started| started.time.to_proto()),
        attempt: activity.attempt,
        retry_policy: activity.retry_policy().cloned(),
        ..PollActivityTaskQueueResponse::default()
    }
}

/// The activity's priority, with the workflow's where it says nothing.
fn merged_priority(workflow: Option<&Priority>, activity: Option<&Priority>) -> Option<Priority> {
    let (Some(workflow), Some(activity)) = (workflow, activity) else { return activity.or(workflow).cloned() };
    Some(fairness::filled_in(activity, workflow))
}
