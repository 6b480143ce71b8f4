//! One run's part of a transition: events are appended, state is changed, and [`Txn::finish`] derives the rows.
//!
//! Handlers append events, and each does to the [`Run`] what it means ([`Run::apply`]); what leaves no events they change by
//! themselves. What is touched is remembered where it is ([`Pending`](crate::state::Pending)). Which rows follow (task rows, the wake
//! row, the visibility row, the state row) is decided in one place, `finish`, by comparing what is wanted with what is written.
//!
//! While a worker has a workflow task in hand, no event from outside may be appended: [`Txn::record`] then buffers it, without
//! an id, until the task has ended. Events of the task itself, and of its commands, go through [`Txn::append`].

mod finish;

use std::sync::Arc;

use everlog_proto::api::common::v1::WorkerVersionStamp;
use everlog_proto::api::history::v1::HistoryEvent;
use everlog_proto::api::history::v1::WorkflowExecutionStartedEventAttributes;
use everlog_proto::api::history::v1::history_event::Attributes;
use everlog_proto::api::sdk::v1::UserMetadata;

use crate::context::Context;
use crate::events;
use crate::rows::RowKey;
use crate::state::{Activity, NexusOperation, PreviousRun, Run};
use crate::transition::{Effect, Transition};
use crate::{RunId, Time, workflow_task};

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
    /// A run to be started in the same transition: continue-as-new, retry, cron schedule.
    pub(crate) successor: Option<NewRun>,
    /// Activities (by scheduled event id) that the worker wants to have with the answer to the completion that schedules them.
    pub(crate) eager_activities: Vec<i64>,
    /// Rows of activity tasks whose places in their queues are no longer theirs.
    moved_tasks: Vec<RowKey>,
    /// Whether the run is closed because it is reset: another one goes on with its children, and for its parent.
    pub(crate) is_reset: bool,
    /// The build of the worker that answers, where it tells: the start of its activity is recorded with it.
    pub(crate) worker_version: Option<WorkerVersionStamp>,
    /// Events appended, in `History` encoding, from `history_first` on.
    history: Vec<u8>,
    history_first: i64,
    /// Whether the commands of a workflow task are being carried out: events from outside wait until they are.
    in_commands: bool,
    /// Whether a speculative workflow task was scheduled behind everything that is written here.
    keep_speculative: bool,
    /// Something happened that is written.
    changed: bool,
    /// What happened before, or only in memory, is written.
    saved: bool,
    /// Something happened that is not written yet.
    counted: bool,
    created: bool,
    was_open: bool,
    /// What has closed the run, if it is to be told to a parent or a schedule.
    closing: Option<Attributes>,
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
    /// The schedule that has started the chain, if one has.
    pub(crate) scheduled_by: Option<Arc<str>>,
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
            eager_activities: Vec::new(),
            moved_tasks: Vec::new(),
            is_reset: false,
            worker_version: None,
            history: Vec::new(),
            history_first,
            in_commands: false,
            keep_speculative: false,
            changed: false,
            saved: false,
            counted: false,
            created: false,
            was_open,
            closing: None,
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

    /// Goes on with `run`, which was rebuilt from a part of another run's history and has no rows yet.
    pub(crate) fn go_on(run: Box<Run>, workflow_id: &'a str, ctx: Context<'a>) -> Txn<'a> {
        Txn { created: true, changed: true, ..Txn::new(run, workflow_id, ctx) }
    }

    /// Says which run was the workflow's current one before this one, which has just begun.
    pub(crate) fn set_previous_run(&mut self, run_id: RunId) {
        let until = self.ctx.latest;
        Arc::make_mut(&mut self.run.info).previous = Some(PreviousRun { run_id, until });
    }

    /// Says which schedule has started the chain of this run, which has just begun.
    pub(crate) fn set_scheduled_by(&mut self, schedule_id: Arc<str>) {
        Arc::make_mut(&mut self.run.info).scheduled_by = Some(schedule_id);
    }

    /// Gives everything up that was done since `run` was as it is handed in; for a workflow task that turns out invalid.
    pub(crate) fn restart_from(&mut self, run: Box<Run>) {
        self.history.clear();
        self.history_first = run.state.next_event_id;
        self.run = run;
        self.effects.clear();
        self.successor = None;
        self.closing = None;
        self.eager_activities.clear();
        self.moved_tasks.clear();
        self.in_commands = false;
        self.keep_speculative = false;
        self.changed = false;
        self.saved = false;
        self.counted = false;
    }

    /// The time of this transition.
    pub(crate) fn now(&self) -> Time {
        self.ctx.now
    }

    /// Has the run's state written though nothing happened just now.
    pub(crate) fn save(&mut self) {
        self.saved = true;
    }

    /// Counts a transition that is in memory alone for now. In Temporal it is a write.
    pub(crate) fn count_unwritten(&mut self) {
        self.counted = true;
    }

    /// Leaves the speculative workflow task that was just scheduled as it is: what is written comes before it.
    pub(crate) fn keep_speculative(&mut self) {
        self.keep_speculative = true;
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
        // Its Scheduled event has the id that this one would get.
        workflow_task::make_normal(self);
        let id = self.run.state.next_event_id;
        events::complete(&mut event, id, self.ctx.now);
        self.run.apply(&event).expect("the kernel writes no event that it does not apply");
        self.write(&event);
        let is_told = || {
            let run = &self.run;
            run.info.started.has_parent() || run.info.scheduled_by.is_some() || !run.callbacks.is_empty()
        };
        if !self.run.is_open() && is_told() {
            self.closing = event.attributes;
        }
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

    /// A pending operation of a Nexus service, to be changed and written.
    pub(crate) fn nexus_operation_mut(&mut self, scheduled_event_id: i64) -> Option<&mut NexusOperation> {
        let operation = self.run.nexus_operations.get_mut(&scheduled_event_id)?;
        self.changed = true;
        Some(Arc::make_mut(operation))
    }

    /// A pending activity, to be changed in memory now and written by [`crate::Limits::activity_start_flush`] from now.
    pub(crate) fn activity_mut_unsaved(&mut self, scheduled_event_id: i64) -> Option<&mut Activity> {
        let activity = self.run.activities.get_mut_unsaved(&scheduled_event_id)?;
        self.counted = true;
        self.run.unsaved_activities.insert(scheduled_event_id);
        let flush_at = self.ctx.now.plus(self.ctx.limits.activity_start_flush);
        self.run.flush_at.get_or_insert(flush_at);
        Some(Arc::make_mut(activity))
    }

    /// Takes back the task of an activity, if there is one: it is offered anew, if it is still ready. To be called before anything
    /// changes that says where it stands in its queue.
    pub(crate) fn take_back_activity_task(&mut self, scheduled_event_id: i64) {
        let Some(activity) = self.run.activities.get(&scheduled_event_id) else { return };
        let Some(time) = activity.task_row_time else { return };
        self.moved_tasks.push(RowKey::Task(self.run.activity_task_key(activity, time)));
        if let Some(activity) = self.activity_mut(scheduled_event_id) {
            activity.task_row_time = None;
        }
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
            self.saved = true;
        }
    }

    // ---- Ends --------------------------------------------------------------------------------------------------------

    /// Whether the run was open before this change, and is not any more.
    pub(crate) fn has_closed(&self) -> bool {
        self.was_open && !self.run.is_open()
    }

    /// Takes out what has closed the run, if it is to be told to a parent.
    pub(crate) fn take_closing(&mut self) -> Option<Attributes> {
        self.closing.take()
    }

    /// Does what else belongs to the end of the run, after its closing event was appended: how long it is kept, and an answer
    /// to those who wait for one.
    pub(crate) fn close(&mut self) {
        let now = self.ctx.now;
        let jitter_ns = u64::try_from(self.ctx.limits.retention_jitter.as_nanos()).unwrap_or(u64::MAX).max(1);
        let spread = u64::from_be_bytes(self.run.id.0[8..].try_into().expect("a run id has 16 bytes")) % jitter_ns;
        let retention = self.ctx.namespace.retention.saturating_add(std::time::Duration::from_nanos(spread));
        self.run.state.delete_time = Some(now.plus(retention));
        self.run.sticky = None;
        self.run.flush_at = None;
        // Their tasks go, and what is known of them is written.
        let offered = self.run.activities.iter().filter(|(_, activity)| activity.task_row_time.is_some());
        let mut touched: Vec<i64> = offered.map(|(id, _)| *id).collect();
        touched.extend(std::mem::take(&mut self.run.unsaved_activities));
        for id in touched {
            self.run.activities.touch(&id);
        }
        for query in std::mem::take(&mut self.run.queries) {
            self.effects.push(workflow_task::offer_query(&self.run, query));
        }
        self.changed = true;
    }
}

/// Merges the transition of a second run of the workflow into that of the first.
pub(crate) fn merge(first: &mut Transition, second: Transition) {
    first.rows.extend(second.rows);
    first.effects.extend(second.effects);
}
