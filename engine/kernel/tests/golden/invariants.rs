//! What must hold after every command of every script.

use std::collections::BTreeSet;

use everlog_kernel::{RowKey, Run, RunId, RunRowKind, Time, Transition, Workflow};
use everlog_proto::api::enums::v1::EventType;

use crate::print;
use crate::store::Store;

/// The same command on the same state with the same clock and seed gives the same bytes.
pub(crate) fn deterministic(one: &Transition, two: &Transition) {
    assert_eq!(one.rows, two.rows, "a decision taken twice writes the same rows");
    // As text: maps in messages have no order.
    assert_eq!(print::transition(one), print::transition(two), "... has the same effects, and the same reply");
}

/// A refused command has changed nothing, not even leader memory.
pub(crate) fn unchanged(before: &Workflow, after: &Workflow) {
    assert_eq!(before.current, after.current, "a refused command leaves the current run");
    assert_eq!(
        before.runs.keys().collect::<Vec<_>>(),
        after.runs.keys().collect::<Vec<_>>(),
        "a refused command starts no run"
    );
    for (before, after) in before.runs.values().zip(after.runs.values()) {
        assert_eq!(before.state, after.state, "a refused command leaves the state");
        assert_eq!(before.sticky, after.sticky, "a refused command leaves the sticky queue");
        assert_eq!(before.queries, after.queries, "a refused command leaves the queries");
        assert_eq!(before.admitted_updates, after.admitted_updates, "a refused command leaves the updates");
        same_rows(before, after);
        assert!(!after.has_unwritten_changes(), "a refused command leaves nothing to be written");
        assert_eq!(before.activities, after.activities, "a refused command leaves the activities");
    }
}

/// Everything that can be seen in the rows and the state.
pub(crate) fn hold(workflow: &Workflow, store: &Store) {
    let open = workflow.runs.values().filter(|run| run.is_open()).count();
    assert!(open <= 1, "at most one open run, not {open}");
    let loaded = store.load(&workflow.id);
    assert_eq!(loaded.current, workflow.current, "the current run survives a change of leader");
    assert_eq!(
        loaded.runs.keys().collect::<Vec<_>>(),
        workflow.runs.keys().collect::<Vec<_>>(),
        "the runs survive a change of leader"
    );
    for (loaded, run) in loaded.runs.values().zip(workflow.runs.values()) {
        bases_are_held(run, workflow);
        if run.state.is_remains {
            remains_are_needed(run, store);
            continue;
        }
        history_is_whole(run, store);
        let mut state = run.state.clone();
        state.workflow_task.take_if(|task| task.is_speculative);
        if let Some(task) = &mut state.workflow_task {
            task.started = task.started.take().filter(|started| started.is_saved());
            task.offered_sticky = false;
        }
        assert_eq!(loaded.state, state, "the state in the rows is the state in memory");
        same_rows(loaded, run);
        assert!(!run.has_unwritten_changes(), "a transition writes everything that it has changed");
        run.follows_from(store.history(run.id)).expect("a run follows from its history");
        for (id, activity) in run.activities.iter() {
            if !run.unsaved_activities.contains(id) {
                assert_eq!(loaded.activities.get(id), Some(activity), "an activity in the rows is the one in memory");
            }
        }
        indexes_match(run, store);
    }
}

/// A run that goes on from another one holds that, and what it needs of it is there.
fn bases_are_held(run: &Run, workflow: &Workflow) {
    for (holder, hold) in run.history_holds.iter() {
        let holder = workflow.runs.get(&holder.parse().expect("a run's id")).expect("who holds a run is there");
        let branch = holder.branch.as_ref().expect("who holds a run goes on from it");
        assert_eq!((branch.base_run_id, branch.first_own_event_id()), (run.id, hold.until));
    }
    let Some(branch) = &run.branch else { return };
    let base = workflow.runs.get(&branch.base_run_id).expect("what a run goes on from is there");
    assert!(base.history_holds.contains(run.id.to_string().as_str()), "a run holds what it goes on from");
}

/// Of a run that was deleted there are only the events that others need.
fn remains_are_needed(run: &Run, store: &Store) {
    assert!(!run.history_holds.is_empty(), "nobody needs these remains");
    let until = run.history_holds.values().map(|hold| hold.until).max().unwrap_or_default();
    for row in store.run_rows(run.id) {
        match row.kind {
            RunRowKind::History => assert!(row.first_event_id().is_some_and(|first| first < until), "{row:?}"),
            RunRowKind::Info | RunRowKind::State | RunRowKind::Branch | RunRowKind::HistoryHold => {}
            kind => panic!("a row of kind {} among remains", kind.name()),
        }
    }
    assert_eq!(index_of(run.id, store, |_| true), BTreeSet::new(), "remains stand in no index");
}

fn same_rows(one: &Run, two: &Run) {
    assert_eq!(one.info, two.info);
    assert_eq!(one.timers, two.timers);
    assert_eq!(one.activities.keys().collect::<Vec<_>>(), two.activities.keys().collect::<Vec<_>>());
    assert_eq!(one.buffered, two.buffered);
    assert_eq!(one.signal_requests, two.signal_requests);
    assert_eq!(one.external_signals, two.external_signals);
    assert_eq!(one.external_cancels, two.external_cancels);
    assert_eq!(one.children, two.children);
    assert_eq!(one.nexus_operations, two.nexus_operations);
    assert_eq!(one.callbacks, two.callbacks);
    assert_eq!(one.accepted_updates, two.accepted_updates);
    assert_eq!(one.reapplied_updates, two.reapplied_updates);
    assert_eq!(one.history_holds, two.history_holds);
    assert_eq!(one.branch, two.branch);
    assert_eq!(one.workflow_task_row, two.workflow_task_row);
}

/// Event ids are contiguous from 1, and between WorkflowTaskStarted and the task's end nothing was appended.
fn history_is_whole(run: &Run, store: &Store) {
    let events = store.history(run.id);
    for (id, event) in (1..).zip(&events) {
        assert_eq!(event.event_id, id, "event ids of a run are contiguous");
    }
    assert_eq!(events.len() as i64 + 1, run.state.next_event_id, "the next event id follows the stored history");
    for pair in events.windows(2) {
        if pair[0].event_type() == EventType::WorkflowTaskStarted {
            assert!(
                matches!(
                    pair[1].event_type(),
                    EventType::WorkflowTaskCompleted | EventType::WorkflowTaskFailed | EventType::WorkflowTaskTimedOut
                ),
                "behind WorkflowTaskStarted stands the task's end, not {:?}",
                pair[1].event_type()
            );
        }
    }
    if !run.is_open() {
        assert!(!run.workflow_task_started() && run.timers.is_empty(), "nobody works on a closed run");
        assert!(
            run.workflow_task_row.is_none() && run.activities.values().all(|activity| activity.task_row_time.is_none())
        );
        assert!(run.buffered.is_empty(), "no event waits in a closed run: {:?}", run.buffered);
        assert!(run.queries.is_empty(), "no query waits in a closed run");
        assert!(run.admitted_updates.is_empty(), "no update waits in a closed run");
    }
}

/// Task rows, the wake row and the visibility row say what the state says.
fn indexes_match(run: &Run, store: &Store) {
    let name = |key: &RowKey| print::row(key);
    let mut tasks: BTreeSet<String> =
        run.workflow_task_row.iter().map(|(key, _)| name(&RowKey::Task(key.clone()))).collect();
    for activity in run.activities.values() {
        let ready = activity.task_row_time.map(|time| RowKey::Task(run.activity_task_key(activity, time)));
        tasks.extend(ready.iter().map(name));
    }
    assert_eq!(index_of(run.id, store, |key| matches!(key, RowKey::Task(_))), tasks, "task rows match what is ready");
    let wakes: BTreeSet<String> = run.state.wake_at.iter().map(|at| name(&RowKey::Wake(*at, run.id))).collect();
    assert_eq!(
        index_of(run.id, store, |key| matches!(key, RowKey::Wake(..))),
        wakes,
        "one wake row, as the state says"
    );
    if let Some(deadline) = run.next_durable_deadline() {
        assert!(run.state.wake_at.is_some_and(|at| at <= deadline), "the run wakes by its next deadline");
    }
    let listed = index_of(run.id, store, |key| matches!(key, RowKey::Visibility(_)));
    assert_eq!(listed.len(), 1, "a run is listed once: {listed:?}");
    let key = everlog_kernel::transition::VisibilityKey {
        close_time: run.state.close_time.unwrap_or(Time::MAX),
        start_time: run.info.start_time,
        run_id: run.id,
    };
    assert!(listed.contains(&name(&RowKey::Visibility(key))), "a run is listed as it is: {listed:?}");
}

fn index_of(run_id: RunId, store: &Store, wanted: impl Fn(&RowKey) -> bool) -> BTreeSet<String> {
    let of_run = |key: &&RowKey| match key {
        RowKey::Task(key) => key.position.run_id == run_id,
        RowKey::Wake(_, run) => *run == run_id,
        RowKey::Visibility(key) => key.run_id == run_id,
        _ => false,
    };
    store.keys().filter(of_run).filter(|key| wanted(key)).map(print::row).collect()
}
