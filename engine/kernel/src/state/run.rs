//! One run.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use everlog_proto::api::common::v1::{Memo, Priority, SearchAttributes, WorkerVersionStamp};
use everlog_proto::api::deployment::v1::WorkerDeploymentVersion;
use everlog_proto::api::enums::v1::{EventType, WorkflowExecutionStatus};
use everlog_proto::api::history::v1::HistoryEvent;
use everlog_proto::api::sdk::v1::UserMetadata;
use prost::Message;

use super::{
    AcceptedUpdate, Activity, AdmittedUpdate, AttachedRequest, Branch, BufferedQuery, CompletionCallback,
    ExternalCancel, ExternalSignal, FirstEvent, HistoryHold, NexusOperation, Pending, PendingChild, PendingRows,
    ReappliedUpdate, ResetPoint, SignalRequest, UserTimer, Versioning, WorkflowTask, WorkflowTaskStarted,
};
use crate::proto::{self, Encoded};
use crate::task::{TaskKey, TaskKind, TaskPosition};
use crate::{Lane, RunId, Time, Weight};

/// One run of a workflow.
#[derive(Clone, Debug)]
pub struct Run {
    /// Its id.
    pub id: RunId,
    /// What it was started with.
    pub info: Arc<RunInfo>,
    /// What changes with every transition.
    pub state: RunState,
    /// Pending activities by scheduled event id.
    pub activities: Pending<Arc<Activity>>,
    /// Pending timers by started event id.
    pub timers: Pending<UserTimer>,
    /// Events without ids that wait for the started workflow task to end, by sequence number.
    pub buffered: Pending<Arc<HistoryEvent>>,
    /// The signals that were taken, by request id, and requests to cancel of other workflows, by [`crate::outbox::message_id`].
    pub signal_requests: Pending<SignalRequest>,
    /// Requests to start the workflow that were attached to this run, by request id.
    pub attached_requests: Pending<AttachedRequest>,
    /// Signals to other workflows of which it is not known what became, by Initiated event id.
    pub external_signals: Pending<ExternalSignal>,
    /// The same for requests to cancel.
    pub external_cancels: Pending<ExternalCancel>,
    /// Children that have not ended, by Initiated event id; once the run has closed, those that are yet to be told of it.
    pub children: Pending<PendingChild>,
    /// Updates that the workflow has accepted, by id; kept when they are completed, and when the run is.
    pub accepted_updates: Pending<AcceptedUpdate>,
    /// Updates that a reset has taken over and that the workflow has not answered since, by id. They are among the admitted ones, too.
    pub reapplied_updates: Pending<ReappliedUpdate>,
    /// Runs that go on from this one, by their ids.
    pub history_holds: Pending<HistoryHold>,
    /// Operations of Nexus services that have not ended, by scheduled event id.
    pub nexus_operations: Pending<Arc<NexusOperation>>,
    /// Who is told that the chain has ended, by request id and place; kept when they are.
    pub callbacks: Pending<CompletionCallback>,
    /// What the run goes on from, if it began with a reset. Written once.
    pub branch: Option<Arc<Branch>>,
    /// Leader memory: updates that the workflow has not answered, in the order in which they came.
    pub admitted_updates: Vec<AdmittedUpdate>,
    /// Leader memory: where the worker that has the run cached polls.
    pub sticky: Option<Sticky>,
    /// Leader memory: queries that go along with the next workflow task.
    pub queries: Vec<BufferedQuery>,
    /// Leader memory: transitions that are not in `state.transition_count`, because nothing was written with them.
    pub unwritten_transitions: i64,
    /// Leader memory: activities (by scheduled event id) whose start is not written yet. An activity that may be attempted again
    /// is handed out before its start is durable; the start is written only if the attempt outlives
    /// [`crate::Limits::activity_start_flush`], so that short activities never cost that write.
    pub unsaved_activities: BTreeSet<i64>,
    /// Leader memory: when the starts in `unsaved_activities` must be written.
    pub flush_at: Option<Time>,
    /// Leader memory: when it is asked again that the run be archived, once it has been.
    pub archive_again_at: Option<Time>,
    /// Whether `info` has changed since its row was written.
    pub(crate) info_changed: bool,
    /// Whether what is known of the workers has changed since its row was written.
    pub(crate) workers_changed: bool,
    /// Leader memory: the task row that is written for the pending workflow task, and the attempt in it.
    pub workflow_task_row: Option<(TaskKey, i32)>,
    /// Leader memory: whether the row of the start of the workflow task in progress is written.
    pub(crate) workflow_task_start_row: bool,
    /// Leader memory: the version that the rows of tasks name.
    pub(crate) rows_version: Option<Box<WorkerDeploymentVersion>>,
    /// Leader memory: whether tasks that have rows are to be offered once more, because they may have been turned away.
    pub(crate) offers_anew: bool,
    /// Leader memory: whether the version has changed with the start of a workflow task, which is not written either.
    pub(crate) unwritten_version: bool,
}

/// What a run was started with. Written once, and again when memo or search attributes are changed. What is known of its workers
/// has a row of its own.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RunInfo {
    /// When the run was started; of one that began with a reset, when that was.
    pub start_time: Time,
    /// When its first event was written, if that is another time than `start_time`.
    pub original_start_time: Option<Time>,
    /// When its first workflow task is due: later than `start_time` for a delayed run.
    pub execution_time: Time,
    /// The started event, which has type, task queue, timeouts, retry policy, memo, search attributes, parent and chain. The
    /// input, header and last completion result are kept only where a next run will need them again.
    pub started: FirstEvent,
    /// Memo and search attributes as the first event has them, once the workflow has changed them, if a next run will need them.
    pub original_properties: Option<Box<OriginalProperties>>,
    /// The priority that it was given since, in the place of that of the first event.
    pub given_priority: Option<Box<Priority>>,
    /// Summary and details given at the start.
    pub user_metadata: Option<Box<UserMetadata>>,
    /// The request id of the start.
    pub start_request_id: String,
    /// When the run times out.
    pub run_expiration: Option<Time>,
    /// When the whole chain times out.
    pub execution_expiration: Option<Time>,
    /// The run that was the workflow's current one before, whether this one continues it or not.
    pub previous: Option<PreviousRun>,
    /// The schedule that has started the chain, which is told how it ends.
    pub scheduled_by: Option<Arc<str>>,
    /// Where the chain can be reset to, oldest first.
    pub reset_points: Vec<ResetPoint>,
    /// The worker that has completed the last workflow task.
    pub last_worker: LastWorker,
    /// The version that the run is on, and how it goes on, unless its workers have none.
    pub versioning: Option<Box<Versioning>>,
}

/// What a worker says of itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LastWorker {
    /// Its build id, as older SDKs say it.
    pub version_stamp: Option<WorkerVersionStamp>,
    /// The deployment that it is a part of; empty if there is none.
    pub deployment_name: String,
}

/// The run that was the current one before another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PreviousRun {
    /// Its id.
    pub run_id: RunId,
    /// Until when, by [`crate::Context::latest`].
    pub until: Time,
}

/// What a workflow can change of what it was started with.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OriginalProperties {
    /// The memo.
    pub memo: Option<Encoded<Memo>>,
    /// The search attributes.
    pub search_attributes: Option<Encoded<SearchAttributes>>,
}

/// The part of a run that changes with every transition. Kept small: it is written every time.
#[derive(Clone, Debug, PartialEq)]
pub struct RunState {
    /// A `WorkflowExecutionStatus`.
    pub status: i32,
    /// The id that the next event gets.
    pub next_event_id: i64,
    /// Bytes of encoded events so far.
    pub history_bytes: u64,
    /// How many transitions were written.
    pub transition_count: i64,
    /// The pending workflow task.
    pub workflow_task: Option<WorkflowTask>,
    /// Started event of the last *completed* workflow task; 0 if there is none.
    pub last_completed_started_event_id: i64,
    /// Attempt that the next workflow task will have: above 1 after failures in a row.
    pub next_workflow_task_attempt: i32,
    /// Whether a workflow task was ever scheduled: a delayed run has none yet.
    pub had_workflow_task: bool,
    /// Whether a cancel request is in the history.
    pub cancel_requested: bool,
    /// A completion failed because of buffered events: new signals are refused until the workflow has had its chance to close.
    pub close_attempted: bool,
    /// Workflow tasks that have failed or timed out since one was completed, those aside that a sticky worker had.
    pub workflow_task_problems: i32,
    /// The last of those that is in the history.
    pub last_workflow_task_problem: Option<WorkflowTaskProblem>,
    /// Signals in the history so far.
    pub signal_count: u32,
    /// Sequence number that the next buffered event gets.
    pub next_buffered: u64,
    /// When the run closed.
    pub close_time: Option<Time>,
    /// When the closed run is to be deleted.
    pub delete_time: Option<Time>,
    /// The wake row that is written, if any. It may be earlier than the next deadline, never later.
    pub wake_at: Option<Time>,
    /// The run that the last reset of this one has led to.
    pub reset_run_id: Option<RunId>,
    /// Whether the run was deleted and is kept only for those who hold its history: see [`super::Branch`].
    pub is_remains: bool,
    /// Whether somebody has asked for the run to be deleted: it is not archived then.
    pub deletion_asked: bool,
}

/// How a workflow task has ended that was not completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkflowTaskProblem {
    /// It failed, with this `WorkflowTaskFailedCause`.
    Failed(i32),
    /// It timed out, with this `TimeoutType`.
    TimedOut(i32),
}

impl RunInfo {
    /// Rough size in memory, bytes.
    fn memory_bytes(&self) -> usize {
        let metadata = |metadata: &UserMetadata| size_of::<UserMetadata>() + metadata.encoded_len();
        let original = |original: &OriginalProperties| {
            size_of::<OriginalProperties>()
                + original.memo.as_ref().map_or(0, |memo| memo.bytes().len())
                + original.search_attributes.as_ref().map_or(0, |attributes| attributes.bytes().len())
        };
        size_of::<RunInfo>()
            + self.started.heap_bytes()
            + self.start_request_id.len()
            + self.scheduled_by.as_ref().map_or(0, |id| id.len())
            + self.user_metadata.as_deref().map_or(0, metadata)
            + self.original_properties.as_deref().map_or(0, original)
            + self.given_priority.as_deref().map_or(0, |given| size_of::<Priority>() + given.fairness_key.len())
            + self.reset_points.iter().map(ResetPoint::memory_bytes).sum::<usize>()
            + self.last_worker.version_stamp.as_ref().map_or(0, |stamp| stamp.build_id.len())
            + self.last_worker.deployment_name.len()
            + self.versioning.as_deref().map_or(0, |versioning| size_of::<Versioning>() + versioning.info.encoded_len())
    }
}

impl RunState {
    /// The state of a run before its first event.
    pub fn new() -> RunState {
        RunState {
            status: WorkflowExecutionStatus::Running as i32,
            next_event_id: 1,
            history_bytes: 0,
            transition_count: 0,
            workflow_task: None,
            last_completed_started_event_id: 0,
            next_workflow_task_attempt: 1,
            had_workflow_task: false,
            cancel_requested: false,
            close_attempted: false,
            workflow_task_problems: 0,
            last_workflow_task_problem: None,
            signal_count: 0,
            next_buffered: 0,
            close_time: None,
            delete_time: None,
            wake_at: None,
            reset_run_id: None,
            is_remains: false,
            deletion_asked: false,
        }
    }
}

impl Default for RunState {
    fn default() -> RunState {
        RunState::new()
    }
}

/// Where the worker polls that has a run cached.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Sticky {
    /// Its queue.
    pub task_queue: String,
    /// How long a task may wait there before it goes to the normal queue.
    pub schedule_to_start_timeout: Option<Duration>,
}

/// The fields of [`Run`] in which something is pending.
macro_rules! pending_kinds {
    ($($field:ident),*) => {
        impl Run {
            /// What is pending, kind by kind.
            pub(crate) fn pending(&self) -> [&dyn PendingRows; const { [$(stringify!($field)),*].len() }] {
                [$(&self.$field),*]
            }

            /// The same, to be changed.
            pub(crate) fn pending_mut(&mut self) -> [&mut dyn PendingRows; const { [$(stringify!($field)),*].len() }] {
                [$(&mut self.$field),*]
            }
        }
    };
}

pending_kinds!(
    activities,
    timers,
    buffered,
    signal_requests,
    attached_requests,
    external_signals,
    external_cancels,
    children,
    accepted_updates,
    reapplied_updates,
    history_holds,
    nexus_operations,
    callbacks
);

impl Run {
    /// A run before its first event.
    pub fn new(id: RunId, info: RunInfo) -> Run {
        Run {
            id,
            info: Arc::new(info),
            state: RunState::new(),
            activities: Pending::default(),
            timers: Pending::default(),
            buffered: Pending::default(),
            signal_requests: Pending::default(),
            attached_requests: Pending::default(),
            external_signals: Pending::default(),
            external_cancels: Pending::default(),
            children: Pending::default(),
            accepted_updates: Pending::default(),
            reapplied_updates: Pending::default(),
            history_holds: Pending::default(),
            nexus_operations: Pending::default(),
            callbacks: Pending::default(),
            branch: None,
            admitted_updates: Vec::new(),
            info_changed: false,
            workers_changed: false,
            sticky: None,
            queries: Vec::new(),
            unwritten_transitions: 0,
            unsaved_activities: BTreeSet::new(),
            flush_at: None,
            archive_again_at: None,
            workflow_task_row: None,
            workflow_task_start_row: false,
            rows_version: None,
            offers_anew: false,
            unwritten_version: false,
        }
    }

    /// The status.
    pub fn status(&self) -> WorkflowExecutionStatus {
        WorkflowExecutionStatus::try_from(self.state.status).unwrap_or(WorkflowExecutionStatus::Unspecified)
    }

    /// Whether the run is open.
    pub fn is_open(&self) -> bool {
        self.status() == WorkflowExecutionStatus::Running
    }

    /// The run's normal task queue.
    pub fn task_queue(&self) -> &str {
        self.info.started.task_queue()
    }

    /// The workflow type's name.
    pub fn workflow_type(&self) -> &str {
        self.info.started.workflow_type()
    }

    /// The first run of the chain.
    pub fn first_run_id(&self) -> RunId {
        self.info.started.first_run_id().unwrap_or(self.id)
    }

    /// Whether a worker has a workflow task of the run in hand, so that events from outside must wait.
    pub fn workflow_task_started(&self) -> bool {
        self.state.workflow_task.as_ref().is_some_and(|task| task.started.is_some())
    }

    /// The next moment at which [`crate::RunCommand::FireTimers`] has something to do, from rows and leader memory.
    pub fn next_deadline(&self) -> Option<Time> {
        if !self.is_open() {
            let durable = self.next_durable_deadline();
            return durable.map(|time| self.archive_again_at.map_or(time, |again| again.max(time)));
        }
        let task = self.state.workflow_task.as_ref();
        let save_at = task.and_then(|task| task.started.as_ref()?.save_at);
        let memory = task.and_then(|task| task.deadline(self.sticky.as_ref())).into_iter().chain(save_at);
        let unsaved = self.unsaved_activities.iter().filter_map(|id| self.activities.get(id)?.next_deadline());
        memory.chain(self.flush_at).chain(unsaved).chain(self.next_durable_deadline()).min()
    }

    /// The same, of what survives a change of leader.
    pub fn next_durable_deadline(&self) -> Option<Time> {
        if self.state.is_remains {
            return None;
        }
        if !self.is_open() {
            return if self.children.is_empty() { self.state.delete_time } else { self.state.close_time };
        }
        let first_workflow_task =
            (!self.state.had_workflow_task && self.state.workflow_task.is_none()).then_some(self.info.execution_time);
        let activities = self.activities.iter().filter_map(|(id, activity)| {
            if self.unsaved_activities.contains(id) {
                activity.next_deadline_without_start()
            } else {
                activity.next_deadline()
            }
        });
        let timers = self.timers.values().map(|timer| timer.expiry_time);
        let nexus_operations = self.nexus_operations.values().filter_map(|operation| operation.next_deadline());
        let task = self.saved_workflow_task_start().and_then(|task| task.deadline(None));
        [self.info.run_expiration, self.info.execution_expiration, first_workflow_task]
            .into_iter()
            .flatten()
            .chain(activities)
            .chain(timers)
            .chain(nexus_operations)
            .chain(task)
            .min()
    }

    /// The workflow task in progress, if its start is written.
    fn saved_workflow_task_start(&self) -> Option<&WorkflowTask> {
        let task = self.state.workflow_task.as_ref();
        task.filter(|task| task.started.as_ref().is_some_and(WorkflowTaskStarted::is_saved))
    }

    /// The task row that the pending workflow task is to have, and the attempt in it: none once its start is written.
    pub(crate) fn wanted_workflow_task_row(&self) -> Option<(TaskKey, i32)> {
        self.wanted_workflow_task_place()?;
        Some((self.workflow_task_key()?, self.state.workflow_task.as_ref()?.attempt))
    }

    /// Whether that is the row that is written. Asked with every transition, so it copies no name.
    pub(crate) fn has_wanted_workflow_task_row(&self) -> bool {
        match (&self.workflow_task_row, self.wanted_workflow_task_place()) {
            (Some((key, attempt)), Some((position, wanted))) => {
                key.position == position
                    && *attempt == wanted
                    && key.task_queue == self.task_queue()
                    && self.has_wanted_version()
            }
            (written, wanted) => written.is_none() && wanted.is_none(),
        }
    }

    /// Whether the rows of tasks name the version that they are to name, and need not be offered once more.
    pub(crate) fn has_wanted_version(&self) -> bool {
        !self.offers_anew && self.rows_version.as_deref() == self.task_version()
    }

    fn wanted_workflow_task_place(&self) -> Option<(TaskPosition, i32)> {
        let task = self.state.workflow_task.as_ref()?;
        let attempt = task.attempt;
        if !self.is_open() || task.is_speculative || self.saved_workflow_task_start().is_some() {
            return None;
        }
        Some((self.workflow_task_position()?, attempt))
    }

    /// The key of the workflow task's row, if there is such a task.
    pub fn workflow_task_key(&self) -> Option<TaskKey> {
        let position = self.workflow_task_position()?;
        Some(TaskKey { kind: TaskKind::Workflow, task_queue: self.task_queue().to_owned(), position })
    }

    fn workflow_task_position(&self) -> Option<TaskPosition> {
        let task = self.state.workflow_task.as_ref()?;
        Some(TaskPosition {
            lane: task.lane,
            priority: self.priority(),
            scheduled_time: task.scheduled_time,
            run_id: self.id,
            scheduled_event_id: task.scheduled_event_id,
        })
    }

    /// Where an activity's attempt that became ready at `scheduled_time` stands in its queue.
    pub fn activity_task_key(&self, activity: &Activity, scheduled_time: Time) -> TaskKey {
        TaskKey {
            kind: TaskKind::Activity,
            task_queue: activity.task_queue().to_owned(),
            position: self.activity_task_position(activity, scheduled_time),
        }
    }

    fn activity_task_position(&self, activity: &Activity, scheduled_time: Time) -> TaskPosition {
        TaskPosition {
            lane: activity.lane,
            priority: activity.priority,
            scheduled_time,
            run_id: self.id,
            scheduled_event_id: activity.scheduled_event_id,
        }
    }

    /// Whether a task of an activity stands where that of its current attempt does.
    pub(crate) fn is_activity_task(&self, activity: &Activity, key: &TaskKey) -> bool {
        key.task_queue == activity.task_queue()
            && key.position == self.activity_task_position(activity, activity.attempt_scheduled_time)
    }

    /// A closed run has no tasks.
    pub(super) fn forget_activity_task_rows(&mut self) {
        for id in self.activities.keys().copied().collect::<Vec<_>>() {
            if let Some(activity) = self.activities.get_mut_unsaved(&id) {
                Arc::make_mut(activity).task_row_time = None;
            }
        }
    }

    /// The priority that the run was given, at its start or since.
    pub fn given_priority(&self) -> Option<&Priority> {
        self.info.given_priority.as_deref().or_else(|| self.info.started.priority())
    }

    /// The run's priority, 1 to 5.
    pub fn priority(&self) -> u8 {
        self.given_priority().map_or(3, |priority| proto::priority_level(priority.priority_key))
    }

    /// Whether something was changed since the rows were written that belongs into a row of its own.
    pub fn has_unwritten_changes(&self) -> bool {
        self.info_changed || self.workers_changed || self.pending().iter().any(|pending| pending.is_touched())
    }

    /// The lane of its fairness key, for the tasks that it has from now on.
    pub(crate) fn lane(&self) -> Lane {
        Lane::of_priority(self.given_priority())
    }

    /// The weight that a task says for its lane: as it was given for the task, or else for the run.
    pub(crate) fn weight_of(&self, given: Option<&Priority>) -> Weight {
        match Weight::of_priority(given) {
            Weight(0) => Weight::of_priority(self.given_priority()),
            weight => weight,
        }
    }

    /// Whether more than `count` messages to other workflows have not arrived. The run is then given no workflow task, lest it sends
    /// more.
    pub fn has_undelivered_messages(&self, count: usize) -> bool {
        let external = self.external_signals.len() + self.external_cancels.len();
        // Those of narrow workflows need not be looked at.
        external + self.children.len() > count
            && external + self.children.values().filter(|child| child.started_event_id.is_none()).count() > count
    }

    /// Whether at least `count` signals were taken, with those that wait for their place in the history.
    pub fn has_signals(&self, count: usize) -> bool {
        let is_signal = |event: &&Arc<HistoryEvent>| event.event_type() == EventType::WorkflowExecutionSignaled;
        let missing = count.saturating_sub(self.state.signal_count as usize);
        self.buffered.len() >= missing && self.buffered.values().filter(is_signal).count() >= missing
    }

    /// Rough size in memory, bytes; the cache is bounded by it.
    pub fn memory_bytes(&self) -> usize {
        let pending: usize = self.pending().iter().map(|pending| pending.size()).sum();
        let queries: usize = self.queries.iter().map(BufferedQuery::memory_bytes).sum();
        let started = self.state.workflow_task.as_ref().and_then(|task| task.started.as_ref());
        size_of::<Run>()
            + self.info.memory_bytes()
            + pending
            + queries
            + self.admitted_updates.iter().map(AdmittedUpdate::memory_bytes).sum::<usize>()
            + self.branch.as_ref().map_or(0, |branch| branch.memory_bytes())
            + started.map_or(0, |started| started.memory_bytes())
            + self.sticky.as_ref().map_or(0, |sticky| sticky.task_queue.len())
            + self.workflow_task_row.as_ref().map_or(0, |(key, _)| key.task_queue.len())
            // A node of the set has room for eleven ids.
            + 16 * self.unsaved_activities.len()
    }
}
