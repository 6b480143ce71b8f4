//! A run's rows are what its history makes of it, but for what no event tells (the kernel's `state/apply.rs` lists it).

use everlog_kernel::Run;
use everlog_kernel::state::{Activity, FirstEvent, RunInfo, RunState};
use everlog_proto::api::history::v1::HistoryEvent;

/// Compares a run that was read from rows with what its history leads to.
pub(super) fn check(run: &Run, events: &[HistoryEvent]) {
    let request_id = run.info.start_request_id.clone();
    let mut rebuilt = Run::rebuild(run.id, request_id, events.iter().cloned()).expect("the kernel wrote it");
    for event in run.buffered.values() {
        rebuilt.arrive(event);
    }
    let (mut expected, mut state) = (run.state.clone(), rebuilt.state.clone());
    leave_out(&mut expected, &mut state);
    assert_eq!(state, expected, "the state of run {} follows from its events", run.id);
    assert_eq!(start(&rebuilt.info), start(&run.info), "what run {} was started with", run.id);
    assert_eq!(rebuilt.info.started.decode(), run.info.started.decode());
    assert_eq!(rebuilt.timers, run.timers, "timers of run {} follow from its events", run.id);
    assert_eq!(rebuilt.signal_requests, run.signal_requests, "signals of run {} follow from its events", run.id);
    let activities = |run: &Run| run.activities.values().map(|activity| told(activity)).collect::<Vec<_>>();
    assert_eq!(activities(&rebuilt), activities(run), "activities of run {} follow from its events", run.id);
}

/// Makes alike what no event tells.
fn leave_out(expected: &mut RunState, state: &mut RunState) {
    // About rows, and about buffered events; when a closed run is deleted is for its namespace to say.
    expected.transition_count = state.transition_count;
    expected.wake_at = state.wake_at;
    expected.next_buffered = state.next_buffered;
    expected.delete_time = state.delete_time;
    // An attempt that left no events may have wanted to close.
    assert!(expected.close_attempted || !state.close_attempted, "a run that wanted to close is known to have");
    expected.close_attempted = state.close_attempted;
    for task in [&mut expected.workflow_task, &mut state.workflow_task].into_iter().flatten() {
        task.started = None;
        task.offered_sticky = false;
    }
    match (&expected.workflow_task, &mut state.workflow_task) {
        // Attempts above the first leave no events.
        (Some(task), None) if task.attempt > 1 => {
            expected.workflow_task = None;
            expected.next_workflow_task_attempt = state.next_workflow_task_attempt;
        }
        (None, None) => expected.next_workflow_task_attempt = state.next_workflow_task_attempt,
        (Some(task), Some(rebuilt)) => rebuilt.original_scheduled_time = task.original_scheduled_time,
        (Some(_), None) | (None, Some(_)) => {}
    }
}

/// What a run was started with, but for what is compared as a message: maps have no order.
fn start(info: &RunInfo) -> RunInfo {
    RunInfo { started: FirstEvent::default(), original_properties: None, ..info.clone() }
}

/// What events tell of an activity.
fn told(activity: &Activity) -> impl PartialEq + std::fmt::Debug + use<> {
    let Activity { scheduled, scheduled_time, priority, cancel_requested_event_id, .. } = activity.clone();
    (scheduled, scheduled_time, priority, cancel_requested_event_id)
}
