//! DescribeWorkflowExecution: a view of a run's state.

mod nexus;

use everlog_proto::api::activity::v1::ActivityOptions;
use everlog_proto::api::common::v1::WorkflowExecution;
use everlog_proto::api::enums::v1::{
    EventType, PendingActivityState, PendingWorkflowTaskState, TaskQueueKind, VersioningBehavior,
};
use everlog_proto::api::taskqueue::v1::TaskQueue;
use everlog_proto::api::workflow::v1::pending_activity_info::{PauseInfo, pause_info};
use everlog_proto::api::workflow::v1::versioning_override::Override;
use everlog_proto::api::workflow::v1::{
    PendingActivityInfo, PendingChildExecutionInfo, PendingWorkflowTaskInfo, RequestIdInfo, WorkflowExecutionConfig,
    WorkflowExecutionExtendedInfo, WorkflowExecutionInfo, WorkflowExecutionVersioningInfo,
};
use everlog_proto::api::workflowservice::v1::DescribeWorkflowExecutionResponse;
use everlog_proto::wkt;
use prost::Message;

use crate::state::{Activity, Pause, PendingChild, Versioning, WorkflowTask};
use crate::{Rejection, Run, RunId, Workflow, deployment, outbox, time, visibility};

/// How a run that does not expire is described: the zero value of time in Go.
const NEVER: wkt::Timestamp = wkt::Timestamp { seconds: -62_135_596_800, nanos: 0 };

/// What is to be said of a run: the current one if `run_id` is `None`. The run must be in memory if it exists.
///
/// # Errors
///
/// `NotFound` if there is no such run.
pub fn describe(workflow: &Workflow, run_id: Option<RunId>) -> Result<DescribeWorkflowExecutionResponse, Rejection> {
    let run = workflow.run(run_id);
    let run = run.ok_or_else(Rejection::workflow_not_found)?;
    Ok(DescribeWorkflowExecutionResponse {
        execution_config: Some(config(run)),
        workflow_execution_info: Some(info(run, &workflow.id)),
        pending_activities: run.activities.values().map(|activity| pending_activity(activity)).collect(),
        pending_children: run.children.iter().map(|(id, child)| pending_child(run, *id, child)).collect(),
        pending_nexus_operations: nexus::pending(run),
        callbacks: nexus::callbacks(run),
        pending_workflow_task: run.state.workflow_task.as_ref().map(pending_workflow_task),
        workflow_extended_info: Some(extended_info(run)),
    })
}

/// Whether a description leaves out that a worker has a workflow task in hand, because that is not written:
/// [`crate::RunCommand::SaveWorkflowTaskStart`] writes it.
pub fn leaves_out_start(workflow: &Workflow, run_id: Option<RunId>) -> bool {
    let task = workflow.run(run_id).and_then(|run| run.state.workflow_task.as_ref());
    // A speculative task is shown as it is: it may go without a trace in any case.
    let task = task.filter(|task| !task.is_speculative);
    task.and_then(|task| task.started.as_ref()).is_some_and(|started| !started.is_saved())
}

fn config(run: &Run) -> WorkflowExecutionConfig {
    let started = run.info.started.decode();
    WorkflowExecutionConfig {
        task_queue: Some(TaskQueue {
            name: run.task_queue().to_owned(),
            kind: TaskQueueKind::Normal as i32,
            ..TaskQueue::default()
        }),
        workflow_execution_timeout: started.workflow_execution_timeout,
        workflow_run_timeout: started.workflow_run_timeout,
        default_workflow_task_timeout: started.workflow_task_timeout,
        user_metadata: run.info.user_metadata.as_deref().cloned(),
    }
}

/// The record that lists show, with what only a description has.
fn info(run: &Run, workflow_id: &str) -> WorkflowExecutionInfo {
    let record = visibility::record(run, workflow_id).encode_to_vec();
    let record = WorkflowExecutionInfo::decode(record.as_slice()).expect("a record is a message of that kind");
    let root = record
        .root_execution
        .clone()
        .unwrap_or_else(|| WorkflowExecution { workflow_id: workflow_id.to_owned(), run_id: run.id.to_string() });
    // A started task is in the history that callers are shown, but for one that follows a failure.
    let task = run.state.workflow_task.as_ref().filter(|task| !task.is_unwritten());
    let started = task.is_some_and(|task| task.started.as_ref().is_some_and(|started| started.is_saved()));
    WorkflowExecutionInfo {
        auto_reset_points: Some(run.reset_points()),
        #[expect(deprecated, reason = "the CLI still shows it")]
        most_recent_worker_version_stamp: run.info.last_worker.version_stamp.clone(),
        worker_deployment_name: deployment_name(run),
        versioning_info: run.versioning().map(versioning),
        history_length: record.history_length + i64::from(started),
        state_transition_count: record.state_transition_count + run.unwritten_transitions,
        root_execution: Some(root),
        memo: Some(record.memo.clone().unwrap_or_default()),
        search_attributes: Some(record.search_attributes.clone().unwrap_or_default()),
        ..record
    }
}

/// The deployment that the run's workers are of, or are to be of.
fn deployment_name(run: &Run) -> String {
    let target = run.versioning().and_then(|versioning| versioning.override_target());
    let inherited = run.version().filter(|_| run.state.last_completed_started_event_id == 0);
    let named = target.or(inherited).map(|version| version.deployment_name.clone());
    named.unwrap_or_else(|| run.info.last_worker.deployment_name.clone())
}

/// The run's version, also as older clients read it.
#[expect(deprecated, reason = "older clients read these fields")]
fn versioning(versioning: &Versioning) -> WorkflowExecutionVersioningInfo {
    let mut info = versioning.info.clone();
    if info.deployment_version.is_some() {
        info.version = deployment::old_version_name(info.deployment_version.as_ref());
    }
    if let Some(transition) = &mut info.version_transition {
        transition.version = deployment::old_version_name(transition.deployment_version.as_ref());
    }
    if let Some(given) = &mut info.versioning_override {
        match given.r#override.clone() {
            Some(Override::AutoUpgrade(_)) => given.behavior = VersioningBehavior::AutoUpgrade.into(),
            Some(Override::Pinned(pinned)) => {
                given.behavior = VersioningBehavior::Pinned.into();
                given.pinned_version = deployment::old_version_name(pinned.version.as_ref());
            }
            Some(Override::OneTime(_)) | None => {}
        }
    }
    info
}

fn extended_info(run: &Run) -> WorkflowExecutionExtendedInfo {
    let start_request =
        RequestIdInfo { event_type: EventType::WorkflowExecutionStarted as i32, event_id: 1, buffered: false };
    let attached = run.attached_requests.iter().map(|(request_id, attached)| {
        let info = RequestIdInfo {
            event_type: EventType::WorkflowExecutionOptionsUpdated as i32,
            event_id: attached.event_id.unwrap_or(0),
            buffered: attached.event_id.is_none(),
        };
        (request_id.clone(), info)
    });
    let updates = run.accepted_updates.values().filter(|update| !update.request_id.is_empty()).map(|update| {
        let info = RequestIdInfo {
            event_type: EventType::WorkflowExecutionUpdateAccepted as i32,
            event_id: update.accepted_event_id,
            buffered: false,
        };
        (update.request_id.clone(), info)
    });
    WorkflowExecutionExtendedInfo {
        execution_expiration_time: run.info.execution_expiration.map(|time| time.to_proto()),
        run_expiration_time: Some(run.info.run_expiration.map_or(NEVER, |time| time.to_proto())),
        cancel_requested: run.state.cancel_requested,
        original_start_time: Some(run.info.original_start_time.unwrap_or(run.info.start_time).to_proto()),
        reset_run_id: run.state.reset_run_id.map(|run_id| run_id.to_string()).unwrap_or_default(),
        last_reset_time: run.branch.as_ref().map(|_| run.info.start_time.to_proto()),
        request_id_infos: attached.chain(updates).chain([(run.info.start_request_id.clone(), start_request)]).collect(),
        ..WorkflowExecutionExtendedInfo::default()
    }
}

fn pending_workflow_task(task: &WorkflowTask) -> PendingWorkflowTaskInfo {
    // A start that is not written may be taken back.
    let started = task.started.as_ref().filter(|started| started.is_saved() || task.is_speculative);
    let state = match started {
        Some(_) => PendingWorkflowTaskState::Started,
        None => PendingWorkflowTaskState::Scheduled,
    };
    PendingWorkflowTaskInfo {
        state: state as i32,
        scheduled_time: Some(task.scheduled_time.to_proto()),
        original_scheduled_time: Some(task.original_scheduled_time.to_proto()),
        started_time: started.map(|started| started.time.to_proto()),
        attempt: task.attempt,
    }
}

fn pending_activity(activity: &Activity) -> PendingActivityInfo {
    let state = match (&activity.cancel_requested_event_id, &activity.started, &activity.pause) {
        (Some(_), _, _) => PendingActivityState::CancelRequested,
        (None, Some(_), None) => PendingActivityState::Started,
        (None, Some(_), Some(_)) => PendingActivityState::PauseRequested,
        (None, None, None) => PendingActivityState::Scheduled,
        (None, None, Some(_)) => PendingActivityState::Paused,
    };
    let scheduled = &activity.scheduled;
    let started = activity.started.as_ref();
    // While a retry backs off: when it is due, and how long it waits in all.
    let retry_time = activity.retry_time();
    let retry_interval = retry_time.zip(activity.last_attempt_end).map(|(due, end)| due.since(end));
    PendingActivityInfo {
        activity_id: scheduled.activity_id.clone(),
        activity_type: scheduled.activity_type.clone(),
        state: state as i32,
        heartbeat_details: activity.heartbeat_details.clone(),
        last_heartbeat_time: activity.last_heartbeat.map(|time| time.to_proto()),
        last_started_time: started.map(|started| started.time.to_proto()),
        attempt: activity.attempt,
        maximum_attempts: activity.retry_policy().map_or(0, |policy| policy.maximum_attempts),
        scheduled_time: Some(activity.attempt_scheduled_time.to_proto()),
        expiration_time: activity.expiration().map(|time| time.to_proto()),
        last_failure: activity.last_failure.as_deref().cloned(),
        last_worker_identity: started.map_or(&activity.last_worker_identity, |started| &started.identity).clone(),
        current_retry_interval: retry_interval.map(time::to_proto),
        last_attempt_complete_time: activity.last_failure_reported.map(|time| time.to_proto()),
        next_attempt_schedule_time: retry_time.map(|time| time.to_proto()),
        priority: activity.given_priority().cloned(),
        paused: activity.pause.is_some(),
        pause_info: activity.pause.as_deref().map(told_of_pause),
        activity_options: Some(options(activity)),
        last_deployment_version: activity.last_version.as_deref().cloned(),
        #[expect(deprecated, reason = "older clients read it")]
        last_worker_deployment_version: activity
            .last_version
            .as_deref()
            .map(|version| deployment::old_version_name(Some(version)))
            .unwrap_or_default(),
        ..PendingActivityInfo::default()
    }
}

fn pending_child(run: &Run, initiated_id: i64, child: &PendingChild) -> PendingChildExecutionInfo {
    let started =
        child.started_event_id.map(|_| outbox::child_run_id(run.owner_of(initiated_id), initiated_id).to_string());
    PendingChildExecutionInfo {
        workflow_id: child.workflow_id.clone(),
        run_id: started.unwrap_or_default(),
        workflow_type_name: child.workflow_type.clone(),
        initiated_id,
        parent_close_policy: child.parent_close_policy.into(),
    }
}

fn told_of_pause(pause: &Pause) -> PauseInfo {
    let manual = pause_info::Manual { identity: pause.identity.clone(), reason: pause.reason.clone() };
    PauseInfo { pause_time: Some(pause.time.to_proto()), paused_by: Some(pause_info::PausedBy::Manual(manual)) }
}

fn options(activity: &Activity) -> ActivityOptions {
    let mut options = activity.options();
    if let Some(queue) = &mut options.task_queue {
        queue.normal_name = queue.name.clone();
    }
    // Temporal does not tell of them here.
    if let Some(policy) = &mut options.retry_policy {
        policy.non_retryable_error_types.clear();
    }
    options
}
