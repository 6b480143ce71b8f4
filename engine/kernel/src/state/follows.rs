//! Whether a run is what its history makes of it.

use std::fmt::Debug;
use std::sync::Arc;

use everlog_proto::api::history::v1::{HistoryEvent, WorkflowExecutionStartedEventAttributes};

use crate::activity_operations::PAUSE_INFO;
use crate::payload_map::PayloadMap;
use crate::workflow_task::REPORTED_PROBLEMS;

use super::reset_points::WORKER_ATTRIBUTES;
use super::{Activity, FirstEvent, NexusOperation, OriginalProperties, Run, RunInfo, RunState};

/// A run is not what its history makes of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("run {run_id} does not follow from its history: {what}")]
pub struct Deviation {
    run_id: crate::RunId,
    what: String,
}

impl Run {
    /// Compares the run with what `history`, the whole of it, leads to, but for what no event tells: the table in `apply.rs`.
    ///
    /// # Errors
    ///
    /// [`Deviation`] names the first difference, or why no run can be built.
    pub fn follows_from(&self, history: impl IntoIterator<Item = HistoryEvent>) -> Result<(), Deviation> {
        self.compare(history).map_err(|what| Deviation { run_id: self.id, what })
    }

    fn compare(&self, history: impl IntoIterator<Item = HistoryEvent>) -> Result<(), String> {
        let rebuilt = Run::rebuild(self.id, self.info.start_request_id.clone(), history);
        let mut rebuilt = rebuilt.map_err(|error| error.to_string())?;
        for event in self.buffered.values() {
            rebuilt.arrive(event);
        }
        if !self.is_open() {
            // Nor do options that were to be recorded then.
            Arc::make_mut(&mut rebuilt.info).given_priority = self.info.given_priority.clone();
        }
        compare_info(&self.info, &rebuilt.info)?;
        compare_state(self.state.clone(), rebuilt.state.clone())?;
        same("timers", &self.timers, &rebuilt.timers)?;
        same("request ids", &self.signal_requests, &rebuilt.signal_requests)?;
        same("attached requests", &self.attached_requests, &rebuilt.attached_requests)?;
        same("signals to others", &self.external_signals, &rebuilt.external_signals)?;
        same("requests to cancel others", &self.external_cancels, &rebuilt.external_cancels)?;
        same("updates", &self.accepted_updates, &rebuilt.accepted_updates)?;
        compare_reapplied(self, &rebuilt)?;
        compare_children(self, &rebuilt)?;
        // What ended while a run closed left no event.
        let is_known = |id: &i64| self.is_open() || self.activities.get(id).is_some();
        let activities = |run: &Run| {
            let known = run.activities.iter().filter(|(id, _)| is_known(id));
            known.map(|(_, activity)| told(activity)).collect::<Vec<_>>()
        };
        same("activities", &activities(self), &activities(&rebuilt))?;
        let operations =
            |run: &Run| run.nexus_operations.values().map(|operation| told_of_operation(operation)).collect::<Vec<_>>();
        same("Nexus operations", &operations(self), &operations(&rebuilt))?;
        let callbacks = |run: &Run| {
            let callbacks = run.callbacks.iter();
            callbacks.map(|(id, it)| (id.clone(), it.callback.clone(), it.registered)).collect::<Vec<_>>()
        };
        same("callbacks", &callbacks(self), &callbacks(&rebuilt))
    }
}

fn same<T: PartialEq + Debug + ?Sized>(what: &str, found: &T, expected: &T) -> Result<(), String> {
    if found == expected { Ok(()) } else { Err(format!("{what}: {found:?} instead of {expected:?}")) }
}

/// An update that was rejected is not there any more.
fn compare_reapplied(found: &Run, expected: &Run) -> Result<(), String> {
    let unknown =
        found.reapplied_updates.iter().find(|(id, update)| expected.reapplied_updates.get(id) != Some(update));
    same("updates that a reset has taken over", &unknown, &None)
}

/// A closed run forgets its children once they are told.
fn compare_children(found: &Run, expected: &Run) -> Result<(), String> {
    if found.is_open() {
        return same("children", &found.children, &expected.children);
    }
    let unknown = found.children.iter().find(|(key, child)| expected.children.get(key) != Some(child));
    same("children of a closed run", &unknown, &None)
}

/// Messages are compared decoded: maps in them have no order.
fn compare_info(found: &RunInfo, expected: &RunInfo) -> Result<(), String> {
    for name in WORKER_ATTRIBUTES {
        let named =
            |info: &RunInfo| PayloadMap::of(info.started.properties().search_attributes.as_ref()).keywords(name);
        // Some may have been too many.
        let expected: Vec<_> = named(expected).into_iter().filter(|worker| named(found).contains(worker)).collect();
        same(name, &named(found), &expected)?;
    }
    let told = |info: &RunInfo| told_of_start(info.started.decode());
    same("first event", &told(found), &told(expected))?;
    // As long as nothing is changed, what a next run begins with is what this one has.
    let original = |info: &RunInfo| match info.original_properties.as_deref() {
        Some(OriginalProperties { memo, search_attributes }) => {
            let search_attributes = search_attributes.as_ref().map(|encoded| encoded.decode());
            (memo.as_ref().map(|encoded| encoded.decode()), search_attributes)
        }
        None => (info.started.decode().memo, info.started.decode().search_attributes),
    };
    if expected.started.may_begin_again() {
        same("first memo and search attributes", &original(found), &original(expected))?;
    }
    let points = |info: &RunInfo| {
        let kept = info.reset_points.len().min(found.reset_points.len());
        info.reset_points[info.reset_points.len() - kept..].to_vec()
    };
    same("reset points", &points(found), &points(expected))?;
    let versioning = |info: &RunInfo| {
        let told = info.versioning.as_deref().map(|versioning| versioning.info.clone()).unwrap_or_default();
        (told.behavior, told.deployment_version, told.versioning_override)
    };
    same("version", &versioning(found), &versioning(expected))?;
    let rest = |info: &RunInfo| RunInfo {
        versioning: None,
        started: FirstEvent::default(),
        original_properties: None,
        previous: None,
        scheduled_by: None,
        reset_points: Vec::new(),
        ..info.clone()
    };
    same("start", &rest(found), &rest(expected))
}

/// What of the first event, with what has changed since, the history tells. An empty list of search attributes is none.
fn told_of_start(mut started: WorkflowExecutionStartedEventAttributes) -> WorkflowExecutionStartedEventAttributes {
    if let Some(attributes) = &mut started.search_attributes {
        let compared_elsewhere = WORKER_ATTRIBUTES.into_iter().chain([REPORTED_PROBLEMS, PAUSE_INFO]);
        compared_elsewhere.for_each(|name| drop(attributes.indexed_fields.remove(name)));
    }
    started.search_attributes = started.search_attributes.filter(|attributes| !attributes.indexed_fields.is_empty());
    started
}

fn compare_state(mut found: RunState, mut expected: RunState) -> Result<(), String> {
    // About rows, and about buffered events; when a closed run is deleted is for its namespace to say.
    found.transition_count = expected.transition_count;
    found.wake_at = expected.wake_at;
    found.next_buffered = expected.next_buffered;
    found.delete_time = expected.delete_time;
    found.reset_run_id = expected.reset_run_id;
    found.is_remains = expected.is_remains;
    found.deletion_asked = expected.deletion_asked;
    found.workflow_task_problems = expected.workflow_task_problems;
    // An attempt that left no events may have wanted to close.
    found.close_attempted &= expected.close_attempted;
    found.workflow_task.take_if(|task| task.is_speculative);
    for task in [&mut found.workflow_task, &mut expected.workflow_task].into_iter().flatten() {
        task.started = None;
        task.offered_sticky = false;
    }
    match (&found.workflow_task, &mut expected.workflow_task) {
        // Attempts above the first leave no events, and whether the next is the first is known to the leader alone.
        (Some(task), None) if task.attempt > 1 && expected.next_workflow_task_attempt > 1 => {
            found.workflow_task = None;
            found.next_workflow_task_attempt = expected.next_workflow_task_attempt;
        }
        (None, None) => found.next_workflow_task_attempt = expected.next_workflow_task_attempt,
        (Some(task), Some(expected)) => expected.original_scheduled_time = task.original_scheduled_time,
        (Some(_), None) | (None, Some(_)) => {}
    }
    same("state", &found, &expected)
}

/// What events tell of an activity.
fn told(activity: &Activity) -> impl PartialEq + Debug + use<> {
    let Activity { scheduled, scheduled_time, cancel_requested_event_id, .. } = activity.clone();
    (scheduled, scheduled_time, cancel_requested_event_id)
}

/// What events tell of an operation of a Nexus service.
fn told_of_operation(operation: &NexusOperation) -> impl PartialEq + Debug + use<> {
    let NexusOperation { scheduled, scheduled_time, started_time, operation_token, cancel, .. } = operation.clone();
    let cancel = cancel.map(|cancel| (cancel.requested_event_id, cancel.requested_time, cancel.is_over()));
    (scheduled, scheduled_time, started_time, operation_token, cancel)
}
