//! One run's part of a transition: events are appended, state is changed, and [`Txn::finish`] derives the rows.
//!
//! Handlers append events, and each does to the [`Run`] what it means ([`Run::apply`]); what leaves no events they change by
//! themselves. What is touched is remembered where it is ([`Pending`]). Which rows follow (task rows, the wake
//! row, the visibility row, the state row) is decided in one place, `finish`, by comparing what is wanted with what is written.
//!
//! While a worker has a workflow task in hand, no event from outside may be appended: [`Txn::record`] then buffers it, without
//! an id, until the task has ended. Events of the task itself, and of its commands, go through [`Txn::append`].

use std::sync::Arc;

use bytes::Bytes;
use everlog_proto::api::history::v1::HistoryEvent;
use everlog_proto::api::history::v1::WorkflowExecutionStartedEventAttributes;
use everlog_proto::api::history::v1::history_event::Attributes;
use everlog_proto::api::sdk::v1::UserMetadata;
use prost::Message;

use crate::command::Reply;
use crate::context::Context;
use crate::events;
use crate::rows::{RowKey, Rows, RunRow, RunRowKind};
use crate::state::{Activity, Pending, PendingValue, Run};
use crate::transition::{Effect, Task, TaskRow, Transition, VisibilityKey};
use crate::{Rejection, RunId, Time, visibility};

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
    /// Whether the commands of a workflow task are being carried out: events from outside wait until they are.
    in_commands: bool,
    changed: bool,
    created: bool,
    was_open: bool,
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
        let was_open = run.is_open();
        Txn {
            run,
            workflow_id,
            ctx,
            effects: Vec::new(),
            successor: None,
            history: Vec::new(),
            history_first,
            in_commands: false,
            changed: false,
            created: false,
            was_open,
        }
    }

    /// Starts a run that has no rows yet, with its first event. `None` if that is no WorkflowExecutionStarted.
    pub(crate) fn begin(
        run_id: RunId,
        mut first: HistoryEvent,
        start_request_id: String,
        workflow_id: &'a str,
        ctx: Context<'a>,
    ) -> Option<Txn<'a>> {
        events::complete(&mut first, 1, ctx.now);
        let run = Box::new(Run::begin(run_id, &mut first, start_request_id)?);
        let mut txn = Txn { created: true, ..Txn::new(run, workflow_id, ctx) };
        txn.write(&first);
        Some(txn)
    }

    /// Gives everything up that was done since `run` was as it is handed in; for a workflow task that turns out invalid.
    pub(crate) fn restart_from(&mut self, run: Box<Run>) {
        self.history.clear();
        self.history_first = run.state.next_event_id;
        self.run = run;
        self.effects.clear();
        self.successor = None;
        self.in_commands = false;
        self.changed = false;
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

    /// Appends an event that carries more than attributes, and does to the run what it means. Id, type and (where it has none)
    /// time are filled in.
    pub(crate) fn append_event(&mut self, mut event: HistoryEvent) -> i64 {
        let id = self.run.state.next_event_id;
        events::complete(&mut event, id, self.ctx.now);
        self.run.apply(&event).expect("the kernel writes no event that it does not apply");
        self.write(&event);
        id
    }

    /// Writes an event that was applied, and counts it.
    fn write(&mut self, event: &HistoryEvent) {
        let before = self.history.len();
        if before == 0 {
            // Most transitions have few and small events.
            self.history.reserve(256);
        }
        events::encode_into(event, &mut self.history);
        self.run.count(1, self.history.len() - before);
        self.changed = true;
    }

    /// Appends events that are encoded already, have the next ids, and were applied when they were made.
    pub(crate) fn append_encoded(&mut self, events: &[u8], count: i64) {
        self.history.extend_from_slice(events);
        self.run.count(count, events.len());
        self.changed = true;
    }

    /// From here on, until it is called with false, commands of a workflow task are carried out.
    ///
    /// What they cause in the way of outside events (an activity that is canceled before a worker had it) waits with the others
    /// until the commands' own events are in place.
    pub(crate) fn set_in_commands(&mut self, in_commands: bool) {
        self.in_commands = in_commands;
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
        if self.run.workflow_task_started() || self.in_commands {
            self.buffer_event(event);
            return None;
        }
        self.flush_buffered();
        Some(self.append_event(event))
    }

    /// Buffers an event that follows from a command, so that it comes behind the events of all commands of the workflow task.
    pub(crate) fn buffer_event(&mut self, mut event: HistoryEvent) {
        events::complete(&mut event, 0, self.ctx.now);
        self.run.arrive(&event);
        let sequence = self.run.state.next_buffered;
        self.run.state.next_buffered += 1;
        self.run.buffered.insert(sequence, Arc::new(event));
        self.changed = true;
    }

    /// Appends the buffered events, now that the workflow task has ended. Returns whether there were any.
    pub(crate) fn flush_buffered(&mut self) -> bool {
        if self.run.buffered.is_empty() {
            return false;
        }
        let buffered = self.run.buffered.take_all();
        for event in events::in_flush_order(buffered, self.run.state.next_event_id) {
            self.append_event(event);
        }
        true
    }

    /// Takes a buffered event back (a timer that fired and is cancelled in the same workflow task).
    pub(crate) fn take_buffered(&mut self, matches: impl Fn(&HistoryEvent) -> bool) -> Option<Arc<HistoryEvent>> {
        let (sequence, event) = self.run.buffered.iter().find(|(_, event)| matches(event))?;
        let (sequence, event) = (*sequence, Arc::clone(event));
        self.run.buffered.remove(&sequence);
        self.changed = true;
        Some(event)
    }

    // ---- Attempts of activities, which leave no events -------------------------------------------------------------------

    /// A pending activity, to be changed and written.
    pub(crate) fn activity_mut(&mut self, scheduled_event_id: i64) -> Option<&mut Activity> {
        let activity = self.run.activities.get_mut(&scheduled_event_id)?;
        self.changed = true;
        Some(Arc::make_mut(activity))
    }

    /// A pending activity, to be changed in memory now and written by [`crate::Limits::activity_start_flush`] from now.
    pub(crate) fn activity_mut_unsaved(&mut self, scheduled_event_id: i64) -> Option<&mut Activity> {
        let activity = self.run.activities.get_mut_unsaved(&scheduled_event_id)?;
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
            for id in std::mem::take(&mut self.run.unsaved_activities) {
                self.run.activities.touch(&id);
            }
            self.run.flush_at = None;
            self.changed = true;
        }
    }

    // ---- Ends --------------------------------------------------------------------------------------------------------

    /// Does what else belongs to the end of the run, after its closing event was appended: how long it is kept, and an answer
    /// to those who wait for one.
    pub(crate) fn close(&mut self) {
        let now = self.ctx.now;
        let jitter_ns = u64::try_from(self.ctx.limits.retention_jitter.as_nanos()).unwrap_or(u64::MAX).max(1);
        let spread = u64::from_be_bytes(self.run.id.0[..8].try_into().expect("a run id has 16 bytes")) % jitter_ns;
        let retention = self.ctx.namespace.retention.saturating_add(std::time::Duration::from_nanos(spread));
        self.run.state.delete_time = Some(now.plus(retention));
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
            // As many as most transitions have.
            rows.reserve(8);
            self.run.state.transition_count += 1;
            self.finish_history(&mut rows);
            self.finish_activities(&mut rows);
            self.finish_workflow_task(&mut rows);
            self.finish_workflow_task_start(&mut rows);
            self.finish_pending(&mut rows);
            self.finish_info(&mut rows);
            self.finish_wake(&mut rows);
            self.finish_visibility(&mut rows);
            let row = RunRow::only(RunRowKind::State);
            rows.push((RowKey::Run(self.run.id, row), Some(self.run.state.to_row())));
        }
        (self.run, Transition { reply, rows, effects: self.effects }, self.successor)
    }

    fn finish_history(&mut self, rows: &mut Rows) {
        if !self.history.is_empty() {
            let events = Bytes::from(std::mem::take(&mut self.history));
            rows.push((RowKey::Run(self.run.id, RunRow::history(self.history_first)), Some(events)));
        }
    }

    /// The rows of activities, and with them those of their tasks.
    fn finish_activities(&mut self, rows: &mut Rows) {
        let run_id = self.run.id;
        for (id, touched) in self.run.activities.take_touched() {
            self.run.unsaved_activities.remove(&id);
            let key = Pending::<Arc<Activity>>::row_key(run_id, id);
            if let Some(activity) = touched.removed {
                if touched.has_row {
                    rows.push((key, None));
                }
                if let Some(time) = activity.task_row_time {
                    rows.push((RowKey::Task(self.run.activity_task_key(&activity, time)), None));
                }
                continue;
            }
            let Some(activity) = self.run.activities.get(&id).cloned() else { continue };
            let wanted = (activity.offered && activity.started.is_none()).then_some(activity.attempt_scheduled_time);
            if wanted != activity.task_row_time {
                if let Some(time) = activity.task_row_time {
                    rows.push((RowKey::Task(self.run.activity_task_key(&activity, time)), None));
                }
                if let Some(time) = wanted {
                    let key = self.run.activity_task_key(&activity, time);
                    let row = TaskRow::of_workflow(self.workflow_id, activity.attempt);
                    rows.push((RowKey::Task(key.clone()), Some(row.to_row())));
                    self.effects.push(Effect::OfferTask(Task {
                        key,
                        attempt: activity.attempt,
                        sticky: None,
                        version: None,
                    }));
                }
            }
            rows.push((key, Some(activity.to_row())));
            let unchanged = wanted == activity.task_row_time;
            drop(activity);
            if !unchanged && let Some(activity) = self.run.activities.get_mut_unsaved(&id) {
                Arc::make_mut(activity).task_row_time = wanted;
            }
        }
        if self.run.unsaved_activities.is_empty() {
            self.run.flush_at = None;
        }
    }

    fn finish_workflow_task(&mut self, rows: &mut Rows) {
        if self.run.has_wanted_workflow_task_row() {
            return;
        }
        let wanted = self.run.wanted_workflow_task_row();
        let wanted_key = wanted.as_ref().map(|(key, _)| key);
        if let Some((key, _)) = self.run.workflow_task_row.take()
            && wanted_key != Some(&key)
        {
            rows.push((RowKey::Task(key), None));
        }
        if let Some((key, attempt)) = &wanted {
            let row = TaskRow::of_workflow(self.workflow_id, *attempt);
            rows.push((RowKey::Task(key.clone()), Some(row.to_row())));
            if !self.run.workflow_task_started() {
                let sticky = self.run.sticky.as_ref().map(|sticky| sticky.task_queue.clone());
                self.effects.push(Effect::OfferTask(Task {
                    key: key.clone(),
                    attempt: *attempt,
                    sticky,
                    version: None,
                }));
            }
        }
        self.run.workflow_task_row = wanted;
    }

    /// The row of the start of the workflow task in progress. A task that ends soon never has one.
    fn finish_workflow_task_start(&mut self, rows: &mut Rows) {
        let task = self.run.state.workflow_task.as_ref();
        let saved = task.and_then(|task| task.started.as_ref()).filter(|started| started.is_saved());
        if saved.is_some() == self.run.workflow_task_start_row {
            return;
        }
        let row = RowKey::Run(self.run.id, RunRow::only(RunRowKind::WorkflowTaskStart));
        rows.push((row, saved.map(|started| started.to_row())));
        self.run.workflow_task_start_row = saved.is_some();
    }

    /// The rows of everything else that is pending.
    fn finish_pending(&mut self, rows: &mut Rows) {
        let run_id = self.run.id;
        for pending in self.run.pending_mut() {
            pending.write_rows(run_id, rows);
        }
    }

    fn finish_info(&mut self, rows: &mut Rows) {
        if self.run.info_changed {
            let row = RunRow::only(RunRowKind::Info);
            rows.push((RowKey::Run(self.run.id, row), Some(self.run.info.to_row())));
        }
    }

    /// Keeps one wake row a run, never later than its next deadline. A deadline that moves away leaves the row where it is: the
    /// run then wakes for nothing, once, which is rarer than deadlines that move.
    fn finish_wake(&mut self, rows: &mut Rows) {
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

    fn finish_visibility(&mut self, rows: &mut Rows) {
        let closed = self.was_open && !self.run.is_open();
        if !std::mem::take(&mut self.run.info_changed) && !closed {
            return;
        }
        let open_key =
            VisibilityKey { close_time: Time::MAX, start_time: self.run.info.start_time, run_id: self.run.id };
        if closed && !self.created {
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
