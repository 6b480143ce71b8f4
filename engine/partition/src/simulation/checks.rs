//! What must hold at the end.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;

use everlog_kernel::state::Run;
use everlog_kernel::transition::TaskKey;
use everlog_kernel::{RunId, Time};
use everlog_model::{WorkflowRef, rows};
use everlog_proto::api::history::v1::history_event::Attributes;
use everlog_proto::api::history::v1::{History, HistoryEvent};
use everlog_storage::keys::{self, OutboxKey};
use everlog_storage::state::Direction;
use prost::Message;

use super::clients::{WORKFLOWS, workflow_id};
use super::families::Families;
use super::resets::FoundResets;
use super::schedules::Scheduled;
use super::updates::FoundUpdates;
use super::world::{TwinRows, World};
use crate::history_pages::{self, PageSize};
use crate::load::{Found as Loaded, LoadRequest, Rows, serve};

/// How long a task may wait at the end, when workers have hardly anything to do.
const TASK_WAIT_MAX: Duration = Duration::from_secs(20);

/// How long after its time a run may be looked at then.
const WAKE_LATE_MAX: Duration = Duration::from_secs(5);

/// What was found in the histories of all partitions.
#[derive(Default)]
struct Found {
    runs: HashSet<RunId>,
    /// How often each signal is there, but for runs that began with a reset.
    signals: HashMap<String, u32>,
    /// Signals in those.
    reapplied: HashSet<String>,
    /// Requests to cancel of other workflows, by run and event.
    cancels: HashSet<(String, i64)>,
    families: Families,
    resets: FoundResets,
    scheduled: Scheduled,
    updates: FoundUpdates,
}

impl Found {
    fn event(&mut self, event: &HistoryEvent) {
        match &event.attributes {
            Some(Attributes::WorkflowExecutionSignaledEventAttributes(signaled)) => {
                *self.signals.entry(signaled.signal_name.clone()).or_default() += 1;
            }
            Some(Attributes::WorkflowExecutionCancelRequestedEventAttributes(cancel)) => {
                let Some(source) = &cancel.external_workflow_execution else { return };
                if cancel.external_initiated_event_id == 0 {
                    return; // of a parent that has closed
                }
                let message = (source.run_id.clone(), cancel.external_initiated_event_id);
                assert!(self.cancels.insert(message), "a request to cancel was taken twice: {cancel:?}");
            }
            _ => {}
        }
    }
}

impl Found {
    /// Takes note of a signal in a run that began with a reset, which may be one of another run's.
    fn maybe_reapplied(&mut self, event: &HistoryEvent) {
        if let Some(Attributes::WorkflowExecutionSignaledEventAttributes(signaled)) = &event.attributes {
            self.reapplied.insert(signaled.signal_name.clone());
        }
    }
}

impl World {
    pub(super) fn check(&self) {
        let mut found = Found::default();
        for partition in 0..self.partitions.len() {
            self.check_partition(partition, &mut found);
        }
        self.check_moves();
        found.resets.check();
        found.families.check(&found.resets);
        found.scheduled.check();
        self.updates.check(&found.updates);
        for run_id in &self.started {
            assert!(found.runs.contains(run_id), "run {run_id} was acknowledged and is not there");
        }
        for (name, acknowledged) in &self.signals {
            let count = found.signals.get(name).copied().unwrap_or(0);
            assert!(count <= 1, "{name} is there {count} times");
            let is_there = count == 1 || found.reapplied.contains(name);
            assert!(is_there || !acknowledged, "{name} was acknowledged and is not there");
        }
    }

    fn check_partition(&self, partition: usize, found: &mut Found) {
        let log = &self.partitions[partition];
        let leading = log.leading.as_ref().expect("somebody leads in the end");
        assert!(leading.in_flight.is_empty() && log.jobs.is_empty(), "something is still under way");
        let (rows, time) = (TwinRows(&self.disk, log.group), leading.lead.time());
        let messages = rows.scan(OutboxKey::all(), Direction::Ascending, 1).expect("rows are readable");
        assert!(messages.is_empty(), "a message has not arrived");
        let tasks = rows.scan(keys::all_tasks(), Direction::Ascending, usize::MAX).expect("rows are readable");
        let mut offered = HashSet::new();
        for (key, value) in tasks {
            let (entity, task) = rows::task(&key, &value).expect("a task row");
            let due = task.key.position.scheduled_time.plus(TASK_WAIT_MAX);
            assert!(due >= time, "a task of {} was forgotten: {task:?}", entity.id);
            offered.insert((task.key, task.attempt));
        }
        for begun in 0..self.partitions.len() {
            let ids = (0..WORKFLOWS).map(|number| workflow_id(begun, number));
            for id in ids.filter(|id| self.true_home_of(id) == partition) {
                self.check_workflow(&rows, &self.address(&id), time, &offered, found);
            }
            if self.true_home_of(&format!("{begun}-schedule")) == partition {
                self.check_schedule(&rows, begun, time, &mut found.scheduled);
            }
        }
    }

    fn check_workflow(
        &self,
        rows: &TwinRows<'_>,
        address: &WorkflowRef,
        time: Time,
        offered: &HashSet<(TaskKey, i32)>,
        found: &mut Found,
    ) {
        let runs = runs(rows, address).into_iter().collect();
        let loaded =
            serve(rows, LoadRequest { entity: address.entity(), born: 0, runs, with_current: true, search: None });
        let Ok(Loaded::Workflow(workflow)) = loaded.found else { panic!("rows are readable") };
        let open = workflow.runs.values().filter(|run| run.is_open()).count();
        assert!(open <= 1, "{open} runs of {} are open", address.workflow_id);
        for (run_id, run) in workflow.runs.iter().filter(|(_, run)| !run.state.is_remains) {
            found.runs.insert(*run_id);
            let overdue = run.next_durable_deadline().filter(|due| due.plus(WAKE_LATE_MAX) < time);
            assert!(overdue.is_none() || !run.is_open(), "run {run_id} was forgotten by time");
            let events = check_run(rows, address, run);
            for activity in run.activities.values() {
                let task = (run.activity_task_key(activity, activity.attempt_scheduled_time), activity.attempt);
                let is_wanted = run.is_open() && activity.is_ready();
                assert_eq!(offered.contains(&task), is_wanted, "the task of {activity:?}");
            }
            if run.is_open() {
                assert!(!run.has_undelivered_messages(0), "run {run_id} does not know what became of its messages");
            }
            let waiting = || run.buffered.values().map(|event| &**event);
            let first_own = run.branch.as_ref().map_or(1, |branch| branch.first_own_event_id());
            let own = || events.iter().filter(|event| event.event_id >= first_own).chain(waiting());
            // What a reset has reapplied is there again.
            let is_new = |event: &HistoryEvent| run.branch.is_none() || !is_signal(event);
            own().filter(|event| is_new(event)).for_each(|event| found.event(event));
            own().filter(|event| !is_new(event)).for_each(|event| found.maybe_reapplied(event));
            found.resets.run(run, events.iter().chain(waiting()));
            events.iter().for_each(|event| found.updates.event(*run_id, event));
            found.scheduled.run(run);
            found.families.run(run, events.iter().chain(waiting()));
            assert!(run.is_open() || run.children.is_empty(), "children of {run_id} do not know that it has closed");
        }
    }
}

fn is_signal(event: &HistoryEvent) -> bool {
    matches!(event.attributes, Some(Attributes::WorkflowExecutionSignaledEventAttributes(_)))
}

/// Every run of a workflow that has rows.
fn runs(rows: &TwinRows<'_>, address: &WorkflowRef) -> BTreeSet<RunId> {
    let range = address.entity().key().range();
    let found = rows.scan(range, Direction::Ascending, usize::MAX).expect("rows are readable");
    let runs = found.iter().map(|(key, _)| RunId(keys::decode_run_row(key).expect("a row of a workflow").0));
    runs.filter(|run_id| *run_id != RunId::default()).collect()
}

/// A run and its history; returns the history.
fn check_run(rows: &TwinRows<'_>, address: &WorkflowRef, run: &Run) -> Vec<HistoryEvent> {
    let next = run.state.next_event_id;
    let page = history_pages::read_blocking(rows, address, run.id, 1, next, PageSize::events(usize::MAX))
        .expect("the history is readable");
    let batches = page.batches.into_iter();
    let events: Vec<_> = batches.flat_map(|batch| History::decode(batch).expect("events").events).collect();
    let ids: Vec<i64> = events.iter().map(|event| event.event_id).collect();
    assert_eq!(ids, (1..next).collect::<Vec<_>>(), "the ids of a history");
    check_timers(&events);
    check_workflow_tasks(&events);
    run.follows_from(events.iter().cloned()).expect("a run follows from its history");
    events
}

fn check_timers(events: &[HistoryEvent]) {
    let mut timers = HashMap::new();
    for event in events {
        let time = event.event_time.as_ref().map(Time::from_proto).expect("an event has a time");
        match &event.attributes {
            Some(Attributes::TimerStartedEventAttributes(started)) => {
                let after = started.start_to_fire_timeout.expect("a timer has a duration").seconds;
                timers.insert(event.event_id, time.plus(Duration::from_secs(after.unsigned_abs())));
            }
            Some(Attributes::TimerFiredEventAttributes(fired)) => {
                let due = timers.remove(&fired.started_event_id).expect("a timer fires once, after its start");
                assert!(time >= due, "a timer fired early");
            }
            _ => {}
        }
    }
}

/// Nothing stands between a workflow task's start and its end.
fn check_workflow_tasks(events: &[HistoryEvent]) {
    for pair in events.windows(2) {
        let Some(Attributes::WorkflowTaskStartedEventAttributes(_)) = &pair[0].attributes else { continue };
        let ends = matches!(
            &pair[1].attributes,
            Some(
                Attributes::WorkflowTaskCompletedEventAttributes(_)
                    | Attributes::WorkflowTaskFailedEventAttributes(_)
                    | Attributes::WorkflowTaskTimedOutEventAttributes(_)
                    | Attributes::WorkflowExecutionTerminatedEventAttributes(_)
                    | Attributes::WorkflowExecutionTimedOutEventAttributes(_)
            )
        );
        assert!(ends, "event {} stands between a workflow task's start and its end", pair[1].event_id);
    }
}
