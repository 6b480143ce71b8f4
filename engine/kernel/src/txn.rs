//! One run's part of a transition: events are appended, state is changed, and [`Txn::finish`] derives the rows.
//!
//! Handlers change [`Run`] through the methods here, which remember what they touch. Which rows follow (task rows, the wake
//! row, the visibility row, the state row) is decided in one place, `finish`, by comparing what is wanted with what is written.
//!
//! While a worker has a workflow task in hand, no event from outside may be appended: [`Txn::record`] then buffers it, without
//! an id, until the task has ended. Events of the task itself, and of its commands, go through [`Txn::append`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use everlog_proto::api::enums::v1::WorkflowExecutionStatus;
use everlog_proto::api::history::v1::HistoryEvent;
use everlog_proto::api::history::v1::WorkflowExecutionStartedEventAttributes;
use everlog_proto::api::history::v1::history_event::Attributes;
use everlog_proto::api::sdk::v1::UserMetadata;
use prost::Message;

use crate::command::Reply;
use crate::context::Context;
use crate::events;
use crate::state::{Activity, Run, UserTimer, encode_row};
use crate::transition::{Effect, Task, TaskRow, Transition, VisibilityKey};
use crate::{Rejection, RowKey, RunId, Time, visibility};

/// A run under change.
pub(crate) struct Txn<'a> {
    /// The run.
    pub(crate) run: Box<Run>,
    /// The workflow's id.
    pub(crate) workflow_id: &'a str,
    /// Time, limits, ids.
    pub(crate) ctx: Context<'a>,
    /// What happens besides the rows.
    pub(crate) effects: Vec<Effect>,
    /// A run to be started in the same transition: continue-as-new, retry.
    pub(crate) successor: Option<NewRun>,
    /// Events appended, in `History` encoding, from `history_first` on.
    history: Vec<u8>,
    history_first: i64,
    touched_activities: BTreeSet<i64>,
    /// Activities that were removed, with what `finish` needs to know of them.
    removed_activities: Vec<Arc<Activity>>,
    touched_timers: BTreeSet<i64>,
    touched_buffered: BTreeSet<u64>,
    /// Buffered events from here on have no row yet.
    buffered_unwritten: u64,
    new_signal_requests: Vec<String>,
    info_changed: bool,
    changed: bool,
    created: bool,
    closed: bool,
}

/// What a new run is started with.
#[derive(Clone, Debug)]
pub(crate) struct NewRun {
    /// Its id.
    pub(crate) run_id: RunId,
    /// Its first event.
    pub(crate) started: WorkflowExecutionStartedEventAttributes,
    /// Summary and details, copied onto that event.
    pub(crate) user_metadata: Option<UserMetadata>,
    /// Links, copied onto that event.
    pub(crate) links: Vec<everlog_proto::api::common::v1::Link>,
    /// The request id of the start.
    pub(crate) start_request_id: String,
}

impl<'a> Txn<'a> {
    /// Starts a change of `run`.
    pub(crate) fn new(run: Box<Run>, workflow_id: &'a str, ctx: Context<'a>) -> Txn<'a> {
        let history_first = run.state.next_event_id;
        let buffered_unwritten = run.state.next_buffered;
        Txn {
            run,
            workflow_id,
            ctx,
            effects: Vec::new(),
            successor: None,
            history: Vec::new(),
            history_first,
            touched_activities: BTreeSet::new(),
            removed_activities: Vec::new(),
            touched_timers: BTreeSet::new(),
            touched_buffered: BTreeSet::new(),
            buffered_unwritten,
            new_signal_requests: Vec::new(),
            info_changed: false,
            changed: false,
            created: false,
            closed: false,
        }
    }

    /// Starts a run that has no rows yet.
    pub(crate) fn create(run: Box<Run>, workflow_id: &'a str, ctx: Context<'a>) -> Txn<'a> {
        Txn { created: true, info_changed: true, changed: true, ..Txn::new(run, workflow_id, ctx) }
    }

    /// Gives everything up that was done since `run` was as it is handed in; for a workflow task that turns out invalid.
    pub(crate) fn restart_from(&mut self, run: Box<Run>) {
        self.history.clear();
        self.history_first = run.state.next_event_id;
        self.run = run;
        self.effects.clear();
        self.successor = None;
        self.touched_activities.clear();
        self.removed_activities.clear();
        self.touched_timers.clear();
        self.touched_buffered.clear();
        self.new_signal_requests.clear();
        self.info_changed = false;
        self.changed = false;
        self.closed = false;
    }

    /// The time of this transition.
    pub(crate) fn now(&self) -> Time {
        self.ctx.now
    }

    /// Marks the run's state as changed where no event says so.
    pub(crate) fn touch(&mut self) {
        self.changed = true;
    }

    // ---- Events ----------------------------------------------------------------------------------------------------

    /// Appends an event of a workflow task or of one of its commands, or one that closes the run. Returns its id.
    pub(crate) fn append(&mut self, attributes: Attributes) -> i64 {
        self.append_event(HistoryEvent { attributes: Some(attributes), ..HistoryEvent::default() })
    }

    /// Appends an event that carries more than attributes. Id, type and (where it has none) time are filled in.
    pub(crate) fn append_event(&mut self, mut event: HistoryEvent) -> i64 {
        let id = self.run.state.next_event_id;
        events::complete(&mut event, id, self.ctx.now);
        let before = self.history.len();
        if before == 0 {
            // Most transitions have few and small events.
            self.history.reserve(256);
        }
        events::encode_into(&event, &mut self.history);
        self.run.state.history_bytes += (self.history.len() - before) as u64;
        self.run.state.next_event_id += 1;
        self.changed = true;
        id
    }

    /// Appends events that are encoded already and have the next ids.
    pub(crate) fn append_encoded(&mut self, events: &[u8], count: i64) {
        self.history.extend_from_slice(events);
        self.run.state.history_bytes += events.len() as u64;
        self.run.state.next_event_id += count;
        self.changed = true;
    }

    /// Records an event from outside: appended, or buffered while a worker has a workflow task in hand. The caller then asks
    /// for a workflow task ([`crate::workflow_task::ensure_scheduled`]) unless the event does not call for one. Returns the
    /// event's id, which a buffered event does not have yet.
    pub(crate) fn record(&mut self, attributes: Attributes) -> Option<i64> {
        self.record_event(HistoryEvent { attributes: Some(attributes), ..HistoryEvent::default() })
    }

    /// The same for an event that carries more than attributes.
    ///
    /// Events may be buffered although no worker has a workflow task: a change of leader has lost the start. They come first.
    pub(crate) fn record_event(&mut self, event: HistoryEvent) -> Option<i64> {
        if self.run.workflow_task_started() {
            self.buffer_event(event);
            return None;
        }
        self.flush_buffered();
        Some(self.append_event(event))
    }

    /// Buffers an event that follows from a command, so that it comes behind the events of all commands of the workflow task.
    pub(crate) fn buffer_event(&mut self, mut event: HistoryEvent) {
        events::complete(&mut event, 0, self.ctx.now);
        let sequence = self.run.state.next_buffered;
        self.run.state.next_buffered += 1;
        self.run.buffered.insert(sequence, Arc::new(event));
        self.touched_buffered.insert(sequence);
        self.changed = true;
    }

    /// Appends the buffered events, now that the workflow task has ended. Returns whether there were any.
    pub(crate) fn flush_buffered(&mut self) -> bool {
        let buffered = std::mem::take(&mut self.run.buffered);
        if buffered.is_empty() {
            return false;
        }
        self.touched_buffered.extend(buffered.keys());
        for event in events::in_flush_order(buffered, self.run.state.next_event_id) {
            self.append_event(event);
        }
        true
    }

    /// Takes a buffered event back (a timer that fired and is cancelled in the same workflow task).
    pub(crate) fn take_buffered(&mut self, matches: impl Fn(&HistoryEvent) -> bool) -> Option<Arc<HistoryEvent>> {
        let sequence = *self.run.buffered.iter().find(|(_, event)| matches(event))?.0;
        self.touched_buffered.insert(sequence);
        self.changed = true;
        self.run.buffered.remove(&sequence)
    }

    // ---- Activities, timers, signals ---------------------------------------------------------------------------------

    /// Adds a pending activity.
    pub(crate) fn add_activity(&mut self, activity: Activity) {
        self.touched_activities.insert(activity.scheduled_event_id);
        self.run.activity_ids.insert(activity.activity_id().to_owned(), activity.scheduled_event_id);
        self.run.activities.insert(activity.scheduled_event_id, Arc::new(activity));
        self.changed = true;
    }

    /// A pending activity, to be changed and written.
    pub(crate) fn activity_mut(&mut self, scheduled_event_id: i64) -> Option<&mut Activity> {
        let activity = self.run.activities.get_mut(&scheduled_event_id)?;
        self.touched_activities.insert(scheduled_event_id);
        self.changed = true;
        Some(Arc::make_mut(activity))
    }

    /// A pending activity, to be changed in memory now and written by [`crate::Limits::activity_start_flush`] from now.
    pub(crate) fn activity_mut_unsaved(&mut self, scheduled_event_id: i64) -> Option<&mut Activity> {
        let activity = self.run.activities.get_mut(&scheduled_event_id)?;
        self.run.unsaved_activities.insert(scheduled_event_id);
        let flush_at = self.ctx.now.plus(self.ctx.limits.activity_start_flush);
        self.run.flush_at.get_or_insert(flush_at);
        Some(Arc::make_mut(activity))
    }

    /// Writes the starts that are due to be written: some time has passed, or the run was woken for a deadline of theirs that
    /// only counts while they are not started.
    pub(crate) fn save_activities_if_due(&mut self) {
        let now = self.ctx.now;
        let is_due = |time: Option<Time>| time.is_some_and(|time| time <= now);
        if is_due(self.run.flush_at) || (is_due(self.run.state.wake_at) && !self.run.unsaved_activities.is_empty()) {
            self.touched_activities.extend(std::mem::take(&mut self.run.unsaved_activities));
            self.run.flush_at = None;
            self.changed = true;
        }
    }

    /// Removes a pending activity.
    pub(crate) fn remove_activity(&mut self, scheduled_event_id: i64) -> Option<Arc<Activity>> {
        let activity = self.run.activities.remove(&scheduled_event_id)?;
        self.run.activity_ids.remove(activity.activity_id());
        self.removed_activities.push(Arc::clone(&activity));
        self.changed = true;
        Some(activity)
    }

    /// Adds a pending timer.
    pub(crate) fn add_timer(&mut self, timer: UserTimer) {
        self.touched_timers.insert(timer.started_event_id);
        self.run.timer_ids.insert(timer.timer_id.clone(), timer.started_event_id);
        self.run.timers.insert(timer.started_event_id, timer);
        self.changed = true;
    }

    /// Removes a pending timer.
    pub(crate) fn remove_timer(&mut self, started_event_id: i64) -> Option<UserTimer> {
        let timer = self.run.timers.remove(&started_event_id)?;
        self.run.timer_ids.remove(&timer.timer_id);
        self.touched_timers.insert(started_event_id);
        self.changed = true;
        Some(timer)
    }

    /// Remembers a signal's request id. Returns false if it was there: the signal is a repetition.
    pub(crate) fn add_signal_request(&mut self, request_id: &str) -> bool {
        if !Arc::make_mut(&mut self.run.signal_requests).insert(request_id.to_owned()) {
            return false;
        }
        self.new_signal_requests.push(request_id.to_owned());
        self.changed = true;
        true
    }

    /// What the run was started with, to be changed and written, and shown in lists.
    pub(crate) fn info_mut(&mut self) -> &mut crate::state::RunInfo {
        self.info_changed = true;
        self.changed = true;
        Arc::make_mut(&mut self.run.info)
    }

    // ---- Ends --------------------------------------------------------------------------------------------------------

    /// Closes the run, after its closing event was appended: nothing is pending any more.
    pub(crate) fn close(&mut self, status: WorkflowExecutionStatus) {
        let now = self.ctx.now;
        self.run.state.status = status as i32;
        self.run.state.close_time = Some(now);
        self.closed = true;
        let jitter_ns = u64::try_from(self.ctx.limits.retention_jitter.as_nanos()).unwrap_or(u64::MAX).max(1);
        let spread = u64::from_be_bytes(self.run.id.0[..8].try_into().expect("a run id has 16 bytes")) % jitter_ns;
        let retention = self.ctx.namespace.retention.saturating_add(std::time::Duration::from_nanos(spread));
        self.run.state.delete_time = Some(now.plus(retention));
        self.run.state.workflow_task = None;
        for id in self.run.activities.keys().copied().collect::<Vec<_>>() {
            self.remove_activity(id);
        }
        for id in self.run.timers.keys().copied().collect::<Vec<_>>() {
            self.remove_timer(id);
        }
        self.touched_buffered.extend(std::mem::take(&mut self.run.buffered).into_keys());
        self.run.sticky = None;
        self.run.unsaved_activities.clear();
        self.run.flush_at = None;
        for query in std::mem::take(&mut self.run.queries) {
            self.effects.push(crate::workflow_task::offer_query(&self.run, query));
        }
        self.changed = true;
    }

    /// Ends the change: the run as it is now, and the rows and effects that follow from what was done.
    pub(crate) fn finish(mut self, reply: Result<Reply, Rejection>) -> (Box<Run>, Transition, Option<NewRun>) {
        let mut rows = Vec::new();
        if self.changed {
            self.run.state.transition_count += 1;
            self.finish_history(&mut rows);
            self.finish_activities(&mut rows);
            self.finish_workflow_task(&mut rows);
            self.finish_small_rows(&mut rows);
            self.finish_wake(&mut rows);
            self.finish_visibility(&mut rows);
            rows.push((RowKey::State(self.run.id), Some(encode_row(&self.run.state))));
        }
        (self.run, Transition { reply, rows, effects: self.effects }, self.successor)
    }

    fn finish_history(&mut self, rows: &mut Vec<(RowKey, Option<Bytes>)>) {
        if !self.history.is_empty() {
            let events = Bytes::from(std::mem::take(&mut self.history));
            rows.push((RowKey::History(self.run.id, self.history_first), Some(events)));
        }
    }

    fn finish_activities(&mut self, rows: &mut Vec<(RowKey, Option<Bytes>)>) {
        let run_id = self.run.id;
        for activity in std::mem::take(&mut self.removed_activities) {
            let id = activity.scheduled_event_id;
            self.touched_activities.remove(&id);
            self.run.unsaved_activities.remove(&id);
            rows.push((RowKey::Activity(run_id, id), None));
            if let Some(time) = activity.task_row_time {
                rows.push((RowKey::Task(self.run.activity_task_key(&activity, time)), None));
            }
        }
        for id in std::mem::take(&mut self.touched_activities) {
            self.run.unsaved_activities.remove(&id);
            let Some(activity) = self.run.activities.get(&id).cloned() else { continue };
            let wanted = (activity.offered && activity.started.is_none()).then_some(activity.attempt_scheduled_time);
            if wanted != activity.task_row_time {
                if let Some(time) = activity.task_row_time {
                    rows.push((RowKey::Task(self.run.activity_task_key(&activity, time)), None));
                }
                if let Some(time) = wanted {
                    let key = self.run.activity_task_key(&activity, time);
                    let row = TaskRow { workflow_id: self.workflow_id.to_owned(), attempt: activity.attempt };
                    rows.push((RowKey::Task(key.clone()), Some(encode_row(&row))));
                    self.effects.push(Effect::OfferTask(Task { key, attempt: activity.attempt, sticky: None }));
                }
                if let Some(activity) = self.run.activities.get_mut(&id) {
                    Arc::make_mut(activity).task_row_time = wanted;
                }
            }
            rows.push((RowKey::Activity(run_id, id), Some(encode_row(&*activity))));
        }
        if self.run.unsaved_activities.is_empty() {
            self.run.flush_at = None;
        }
    }

    fn finish_workflow_task(&mut self, rows: &mut Vec<(RowKey, Option<Bytes>)>) {
        let task = self.run.state.workflow_task.as_ref();
        let wanted = self.run.workflow_task_key().zip(task.map(|task| task.attempt));
        if wanted == self.run.workflow_task_row {
            return;
        }
        let wanted_key = wanted.as_ref().map(|(key, _)| key);
        if let Some((key, _)) = self.run.workflow_task_row.take()
            && wanted_key != Some(&key)
        {
            rows.push((RowKey::Task(key), None));
        }
        if let Some((key, attempt)) = &wanted {
            let row = TaskRow { workflow_id: self.workflow_id.to_owned(), attempt: *attempt };
            rows.push((RowKey::Task(key.clone()), Some(encode_row(&row))));
            if !self.run.workflow_task_started() {
                let sticky = self.run.sticky.as_ref().map(|sticky| sticky.task_queue.clone());
                self.effects.push(Effect::OfferTask(Task { key: key.clone(), attempt: *attempt, sticky }));
            }
        }
        self.run.workflow_task_row = wanted;
    }

    fn finish_small_rows(&mut self, rows: &mut Vec<(RowKey, Option<Bytes>)>) {
        let run_id = self.run.id;
        for id in &self.touched_timers {
            rows.push((RowKey::Timer(run_id, *id), self.run.timers.get(id).map(encode_row)));
        }
        for sequence in &self.touched_buffered {
            let value = self.run.buffered.get(sequence).map(|event| Bytes::from(event.encode_to_vec()));
            if value.is_some() || *sequence < self.buffered_unwritten {
                rows.push((RowKey::BufferedEvent(run_id, *sequence), value));
            }
        }
        for request_id in self.new_signal_requests.drain(..) {
            rows.push((RowKey::SignalRequest(run_id, request_id), Some(Bytes::new())));
        }
        if self.info_changed {
            rows.push((RowKey::Info(run_id), Some(encode_row(&*self.run.info))));
        }
    }

    /// Keeps one wake row a run, never later than its next deadline. A deadline that moves away leaves the row where it is: the
    /// run then wakes for nothing, once, which is rarer than deadlines that move.
    fn finish_wake(&mut self, rows: &mut Vec<(RowKey, Option<Bytes>)>) {
        let run_id = self.run.id;
        let wanted = self.run.next_durable_deadline();
        let keep = match (self.run.state.wake_at, wanted) {
            (Some(written), _) if written <= self.ctx.now => false,
            (Some(_), None) => self.run.is_open(),
            (Some(written), Some(wanted)) => written <= wanted && self.run.is_open(),
            (None, None) => true,
            (None, Some(_)) => false,
        };
        if keep {
            return;
        }
        if let Some(written) = self.run.state.wake_at {
            rows.push((RowKey::Wake(written, run_id), None));
        }
        if let Some(wanted) = wanted {
            rows.push((RowKey::Wake(wanted, run_id), Some(Bytes::new())));
        }
        self.run.state.wake_at = wanted;
    }

    fn finish_visibility(&mut self, rows: &mut Vec<(RowKey, Option<Bytes>)>) {
        if !(self.closed || self.info_changed) {
            return;
        }
        let open_key =
            VisibilityKey { close_time: Time::MAX, start_time: self.run.info.start_time, run_id: self.run.id };
        if self.closed && !self.created {
            rows.push((RowKey::Visibility(open_key), None));
        }
        let key = VisibilityKey { close_time: self.run.state.close_time.unwrap_or(Time::MAX), ..open_key };
        let record = visibility::record(&self.run, self.workflow_id);
        rows.push((RowKey::Visibility(key), Some(Bytes::from(record.encode_to_vec()))));
    }
}

/// Merges the transition of a second run of the workflow into that of the first.
pub(crate) fn merge(first: &mut Transition, second: Transition) {
    first.rows.extend(second.rows);
    first.effects.extend(second.effects);
}

/// Buffered events by sequence number.
pub(crate) type Buffered = BTreeMap<u64, Arc<HistoryEvent>>;
