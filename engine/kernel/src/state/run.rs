//! One run.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use everlog_proto::api::common::v1::{Memo, SearchAttributes};
use everlog_proto::api::enums::v1::WorkflowExecutionStatus;
use everlog_proto::api::history::v1::HistoryEvent;
use everlog_proto::api::sdk::v1::UserMetadata;
use serde::{Deserialize, Serialize};

use super::{Activity, BufferedQuery, FirstEvent, UserTimer, WorkflowTask};
use crate::proto::{Encoded, Proto};
use crate::transition::{TaskKey, TaskKind};
use crate::{RunId, Time};

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
    pub activities: BTreeMap<i64, Arc<Activity>>,
    /// Derived: scheduled event id of a pending activity by activity id.
    pub activity_ids: HashMap<String, i64>,
    /// Pending timers by started event id.
    pub timers: BTreeMap<i64, UserTimer>,
    /// Derived: started event id of a pending timer by timer id.
    pub timer_ids: HashMap<String, i64>,
    /// Events without ids that wait for the started workflow task to end, by sequence number.
    pub buffered: BTreeMap<u64, Arc<HistoryEvent>>,
    /// Request ids of the signals that were taken.
    pub signal_requests: Arc<BTreeSet<String>>,
    /// Leader memory: where the worker that has the run cached polls.
    pub sticky: Option<Sticky>,
    /// Leader memory: queries that go along with the next workflow task.
    pub queries: Vec<BufferedQuery>,
    /// Leader memory: activities (by scheduled event id) whose start is not written yet. An activity that may be attempted again
    /// is handed out before its start is durable; the start is written only if the attempt outlives
    /// [`crate::Limits::activity_start_flush`], so that short activities never cost that write.
    pub unsaved_activities: BTreeSet<i64>,
    /// Leader memory: when the starts in `unsaved_activities` must be written.
    pub flush_at: Option<Time>,
    /// Leader memory: the task row that is written for the pending workflow task, and the attempt in it.
    pub workflow_task_row: Option<(TaskKey, i32)>,
}

/// What a run was started with. Written once, and again when memo or search attributes are changed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunInfo {
    /// When the run was started.
    pub start_time: Time,
    /// When its first workflow task is due: later than `start_time` for a delayed run.
    pub execution_time: Time,
    /// The started event, which has type, task queue, timeouts, retry policy, memo, search attributes, parent and chain. The
    /// input, header and last completion result are kept only where a retry will need them again.
    pub started: FirstEvent,
    /// Memo and search attributes as the first event has them, once the workflow has changed them, if a retry will need them.
    pub original_properties: Option<Box<OriginalProperties>>,
    /// Summary and details given at the start.
    pub user_metadata: Option<Box<Proto<UserMetadata>>>,
    /// The request id of the start.
    pub start_request_id: String,
    /// When the run times out.
    pub run_expiration: Option<Time>,
    /// When the whole chain times out.
    pub execution_expiration: Option<Time>,
}

/// What a workflow can change of what it was started with.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OriginalProperties {
    /// The memo.
    pub memo: Option<Encoded<Memo>>,
    /// The search attributes.
    pub search_attributes: Option<Encoded<SearchAttributes>>,
}

/// The part of a run that changes with every transition. Kept small: it is written every time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
    /// Signals so far.
    pub signal_count: u32,
    /// Sequence number that the next buffered event gets.
    pub next_buffered: u64,
    /// When the run closed.
    pub close_time: Option<Time>,
    /// When the closed run is to be deleted.
    pub delete_time: Option<Time>,
    /// The wake row that is written, if any. It may be earlier than the next deadline, never later.
    pub wake_at: Option<Time>,
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
            signal_count: 0,
            next_buffered: 0,
            close_time: None,
            delete_time: None,
            wake_at: None,
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

impl Run {
    /// A run before its first event.
    pub fn new(id: RunId, info: RunInfo) -> Run {
        Run {
            id,
            info: Arc::new(info),
            state: RunState::new(),
            activities: BTreeMap::new(),
            activity_ids: HashMap::new(),
            timers: BTreeMap::new(),
            timer_ids: HashMap::new(),
            buffered: BTreeMap::new(),
            signal_requests: Arc::default(),
            sticky: None,
            queries: Vec::new(),
            unsaved_activities: BTreeSet::new(),
            flush_at: None,
            workflow_task_row: None,
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

    /// The next moment at which [`crate::Command::FireTimers`] has something to do, from rows and leader memory.
    pub fn next_deadline(&self) -> Option<Time> {
        let memory = self.state.workflow_task.as_ref().and_then(|task| task.deadline(self.sticky.as_ref()));
        let unsaved = self.unsaved_activities.iter().filter_map(|id| self.activities.get(id)?.next_deadline());
        memory.into_iter().chain(self.flush_at).chain(unsaved).chain(self.next_durable_deadline()).min()
    }

    /// The same, of what survives a change of leader.
    pub fn next_durable_deadline(&self) -> Option<Time> {
        if !self.is_open() {
            return self.state.delete_time;
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
        [self.info.run_expiration, self.info.execution_expiration, first_workflow_task]
            .into_iter()
            .flatten()
            .chain(activities)
            .chain(timers)
            .min()
    }

    /// Where the pending workflow task stands in its queue.
    pub fn workflow_task_key(&self) -> Option<TaskKey> {
        let task = self.state.workflow_task.as_ref()?;
        Some(TaskKey {
            kind: TaskKind::Workflow,
            task_queue: self.task_queue().to_owned(),
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
            priority: activity.priority,
            scheduled_time,
            run_id: self.id,
            scheduled_event_id: activity.scheduled_event_id,
        }
    }

    /// The run's priority, 1 to 5.
    pub fn priority(&self) -> u8 {
        self.info.started.priority_level()
    }

    /// Rough size in memory, bytes; the cache is bounded by it.
    pub fn memory_bytes(&self) -> usize {
        let activities: usize = self.activities.values().map(|activity| activity.memory_bytes()).sum();
        let buffered: usize = self.buffered.values().map(|event| prost::Message::encoded_len(&**event) + 64).sum();
        size_of::<Run>()
            + size_of::<RunInfo>()
            + self.info.started.heap_bytes()
            + self.info.start_request_id.len()
            + activities
            + buffered
            + 96 * self.timers.len()
            + 64 * self.signal_requests.len()
    }
}
