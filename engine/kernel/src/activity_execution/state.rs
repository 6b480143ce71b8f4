//! What is known of an activity that is no workflow's.

use std::collections::BTreeMap;
use std::fmt;

use everlog_proto::api::common::v1::{Link, Payloads, SearchAttributes};
use everlog_proto::api::enums::v1::{ActivityExecutionStatus, RetryState, WorkflowExecutionStatus};
use everlog_proto::api::failure::v1::Failure;
use everlog_proto::api::sdk::v1::UserMetadata;
use everlog_proto::wkt;
use prost::Message;

use crate::state::Activity;
use crate::task::TaskKey;
use crate::{RunId, Standing, Time, time};

/// The activities that have an id, one after the other, as far as they are in memory.
#[derive(Clone, Debug, Default)]
pub struct ActivityExecutions {
    /// The id.
    pub id: String,
    /// The last one.
    pub(super) current: Option<RunId>,
    pub(crate) runs: BTreeMap<RunId, Box<Execution>>,
}

/// An activity.
#[derive(Clone, Debug)]
pub(crate) struct Execution {
    /// Tells it apart from others that have had its id.
    pub(super) run_id: RunId,
    pub(super) asked: Asked,
    /// Its attempts. It is never paused in there: timeouts would not count.
    pub(super) activity: Activity,
    pub(super) progress: Progress,
    /// Leader memory: the task row that is written, and the attempt that it is of.
    pub(super) task_row: Option<(TaskKey, i32)>,
    /// Leader memory: what lists show, as far as that changes.
    pub(super) listed: Option<Listed>,
}

/// What lists show of an activity that may change: its status, its queue, and when its first attempt is due.
pub(super) type Listed = (Status, String, Time);

/// What was asked for, beside what [`Activity`] has. Written once.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Asked {
    #[prost(string, tag = "1")]
    pub(super) request_id: String,
    #[prost(message, optional, tag = "2")]
    pub(super) user_metadata: Option<UserMetadata>,
    #[prost(message, optional, tag = "3")]
    pub(super) search_attributes: Option<SearchAttributes>,
    #[prost(message, repeated, tag = "4")]
    pub(super) links: Vec<Link>,
    #[prost(message, optional, tag = "5")]
    pub(super) start_delay: Option<wkt::Duration>,
}

/// How far it has come. Written with every change.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Progress {
    #[prost(enumeration = "Status", tag = "1")]
    pub(super) status: i32,
    #[prost(sfixed64, optional, tag = "2")]
    pub(super) closed: Option<i64>,
    #[prost(int64, tag = "3")]
    pub(super) transition_count: i64,
    /// The wake row that is written.
    #[prost(sfixed64, optional, tag = "4")]
    pub(super) wake_at: Option<i64>,
    /// How long its first attempt is put off, as it is now.
    #[prost(message, optional, tag = "5")]
    pub(super) start_delay: Option<wkt::Duration>,
    #[prost(sfixed64, optional, tag = "6")]
    pub(super) first_started: Option<i64>,
    /// When the last attempt was started.
    #[prost(sfixed64, optional, tag = "7")]
    pub(super) last_started: Option<i64>,
    /// How long the current attempt waits, or has waited, behind the end of the last one.
    #[prost(message, optional, tag = "8")]
    pub(super) retry_interval: Option<wkt::Duration>,
    /// The worker has asked for that interval.
    #[prost(bool, tag = "9")]
    pub(super) interval_is_requested: bool,
    #[prost(int64, tag = "10")]
    pub(super) heartbeat_count: i64,
    #[prost(message, optional, tag = "11")]
    pub(super) cancel: Option<Cancel>,
    /// Names the request that has terminated it.
    #[prost(string, tag = "12")]
    pub(super) terminate_request_id: String,
    /// Names the last request of its kind, as the three below.
    #[prost(string, tag = "13")]
    pub(super) pause_request_id: String,
    #[prost(string, tag = "14")]
    pub(super) unpause_request_id: String,
    #[prost(string, tag = "15")]
    pub(super) reset_request_id: String,
    #[prost(string, tag = "16")]
    pub(super) update_request_id: String,
    /// A reset that waits for the end of an attempt clears the heartbeat.
    #[prost(bool, tag = "17")]
    pub(super) reset_clears_heartbeat: bool,
    /// It keeps the activity paused.
    #[prost(bool, tag = "18")]
    pub(super) reset_pauses: bool,
    /// It gives back the options that were asked for.
    #[prost(bool, tag = "19")]
    pub(super) reset_restores_options: bool,
    #[prost(message, optional, tag = "20")]
    pub(super) outcome: Option<Outcome>,
    /// Links of requests that have found it, by their ids.
    #[prost(message, repeated, tag = "21")]
    pub(super) attached: Vec<Attached>,
    #[prost(string, tag = "22")]
    pub(super) sdk_name: String,
    #[prost(string, tag = "23")]
    pub(super) sdk_version: String,
}

/// A request to cancel it.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Cancel {
    #[prost(string, tag = "1")]
    pub(super) request_id: String,
    #[prost(string, tag = "2")]
    pub(super) identity: String,
    #[prost(string, tag = "3")]
    pub(super) reason: String,
}

/// How it has ended.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Outcome {
    /// Set if it was completed.
    #[prost(message, optional, tag = "1")]
    pub(super) completed: Option<Completed>,
    /// If it is not why the last attempt has failed.
    #[prost(message, optional, tag = "2")]
    pub(super) failure: Option<Failure>,
    /// Why there is no other attempt.
    #[prost(enumeration = "RetryState", tag = "3")]
    pub(super) retry_state: i32,
}

/// A result, which may be none.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Completed {
    #[prost(message, optional, tag = "1")]
    pub(super) result: Option<Payloads>,
}

/// Links of a request.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Attached {
    #[prost(string, tag = "1")]
    pub(super) request_id: String,
    #[prost(message, repeated, tag = "2")]
    pub(super) links: Vec<Link>,
}

/// The numbers are for ever: they are in rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub(super) enum Status {
    Unspecified = 0,
    Scheduled = 1,
    Started = 2,
    CancelRequested = 3,
    Completed = 4,
    Failed = 5,
    Canceled = 6,
    Terminated = 7,
    TimedOut = 8,
    Paused = 9,
    PauseRequested = 10,
    ResetRequested = 11,
}

/// As messages to clients name it.
impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl Status {
    pub(super) fn is_open(self) -> bool {
        !matches!(self, Status::Completed | Status::Failed | Status::Canceled | Status::Terminated | Status::TimedOut)
    }

    /// Whether a worker has an attempt.
    pub(super) fn is_in_progress(self) -> bool {
        matches!(self, Status::Started | Status::CancelRequested | Status::PauseRequested | Status::ResetRequested)
    }

    /// As clients are told.
    pub(super) fn shown(self) -> ActivityExecutionStatus {
        match self {
            Status::Unspecified => ActivityExecutionStatus::Unspecified,
            Status::Scheduled
            | Status::Started
            | Status::CancelRequested
            | Status::PauseRequested
            | Status::ResetRequested => ActivityExecutionStatus::Running,
            Status::Paused => ActivityExecutionStatus::Paused,
            Status::Completed => ActivityExecutionStatus::Completed,
            Status::Failed => ActivityExecutionStatus::Failed,
            Status::Canceled => ActivityExecutionStatus::Canceled,
            Status::Terminated => ActivityExecutionStatus::Terminated,
            Status::TimedOut => ActivityExecutionStatus::TimedOut,
        }
    }

    /// As a workflow's would be: lists know no other.
    pub(super) fn listed(self) -> WorkflowExecutionStatus {
        match self.shown() {
            ActivityExecutionStatus::Unspecified => WorkflowExecutionStatus::Unspecified,
            ActivityExecutionStatus::Running => WorkflowExecutionStatus::Running,
            ActivityExecutionStatus::Completed => WorkflowExecutionStatus::Completed,
            ActivityExecutionStatus::Failed => WorkflowExecutionStatus::Failed,
            ActivityExecutionStatus::Canceled => WorkflowExecutionStatus::Canceled,
            ActivityExecutionStatus::Terminated => WorkflowExecutionStatus::Terminated,
            ActivityExecutionStatus::TimedOut => WorkflowExecutionStatus::TimedOut,
            ActivityExecutionStatus::Paused => WorkflowExecutionStatus::Paused,
        }
    }
}

impl ActivityExecutions {
    /// Of an id that has none.
    pub fn new(id: impl Into<String>) -> ActivityExecutions {
        ActivityExecutions { id: id.into(), current: None, runs: BTreeMap::new() }
    }

    /// Whether there is any.
    pub fn exists(&self) -> bool {
        self.current.is_some() || !self.runs.is_empty()
    }

    /// Whether a run is in memory; if it is not, it may be in rows.
    pub fn has(&self, run_id: RunId) -> bool {
        self.runs.contains_key(&run_id)
    }

    /// Takes in what was read of the same id. What is in memory is newer.
    pub fn merge(&mut self, read: ActivityExecutions) {
        for (run_id, run) in read.runs {
            self.runs.entry(run_id).or_insert(run);
        }
    }

    /// What may be known of a run to those who wait for it to change: the run, how many transitions it had, and whether it is open.
    pub fn views(&self) -> impl Iterator<Item = (RunId, i64, bool)> {
        self.runs.values().map(|run| (run.run_id, run.progress.transition_count, run.status().is_open()))
    }

    /// The same of one of them, or of the current one.
    pub fn view(&self, run_id: Option<RunId>) -> Option<(RunId, i64, bool)> {
        let run_id = run_id.or(self.current)?;
        self.views().find(|(found, ..)| *found == run_id)
    }

    /// When each of them is to be woken next.
    pub fn looks(&self) -> impl Iterator<Item = (RunId, Time)> {
        self.runs.values().filter_map(|run| Some((run.run_id, run.next_look()?)))
    }

    /// How they stand, as far as they are open.
    pub fn standing(&self) -> Standing {
        self.runs.values().map(|run| run.standing()).fold(Standing::default(), Standing::and)
    }

    /// Drops closed ones from memory that are not the current one. Their rows have them.
    pub fn forget_closed(&mut self) {
        let current = self.current;
        self.runs.retain(|run_id, run| Some(*run_id) == current || run.status().is_open());
    }

    /// Rough size in memory, bytes.
    pub fn memory_bytes(&self) -> usize {
        self.id.len() + self.runs.values().map(|run| run.memory_bytes()).sum::<usize>()
    }
}

impl Execution {
    pub(super) fn status(&self) -> Status {
        Status::try_from(self.progress.status).unwrap_or(Status::Unspecified)
    }

    pub(super) fn set_status(&mut self, status: Status) {
        self.progress.status = status.into();
    }

    fn standing(&self) -> Standing {
        if !self.status().is_open() {
            return Standing::default();
        }
        let is_in_hand = self.status() != Status::Paused && self.activity.is_in_hand();
        Standing { steps: 0, calls: usize::from(is_in_hand), next: self.next_look() }
    }

    /// When its first attempt is due.
    pub(super) fn first_due(&self) -> Time {
        let delay = time::positive(self.progress.start_delay.as_ref()).ok().flatten().unwrap_or_default();
        self.activity.scheduled_time.plus(delay)
    }

    /// A time, or when its first attempt is due, if that is later and there was none.
    pub(super) fn not_before_first(&self, time: Time) -> Time {
        if self.progress.first_started.is_some() { time } else { time.max(self.first_due()) }
    }

    /// When it must have ended.
    pub(super) fn expiration(&self) -> Option<Time> {
        self.activity.schedule_to_close_timeout().map(|timeout| self.first_due().plus(timeout))
    }

    /// When the current attempt is due by the end of the last one.
    pub(super) fn retry_due(&self) -> Option<Time> {
        let interval = time::positive(self.progress.retry_interval.as_ref()).ok().flatten()?;
        Some(self.activity.last_attempt_end?.plus(interval))
    }

    /// Whether an operator has it paused.
    pub(super) fn is_paused(&self) -> bool {
        match self.status() {
            Status::Paused | Status::PauseRequested => true,
            Status::ResetRequested => self.progress.reset_pauses,
            _ => false,
        }
    }

    /// Has the current attempt offered at a time.
    pub(super) fn schedule(&mut self, due: Time, now: Time) {
        self.set_status(Status::Scheduled);
        self.activity.attempt_scheduled_time = due;
        self.activity.offered = due <= now;
        (self.activity.priority, self.activity.lane) = self.activity.standing_in(None);
    }

    /// When something of it is due.
    pub(super) fn next_look(&self) -> Option<Time> {
        if !self.status().is_open() {
            return self.progress.wake_at.map(Time);
        }
        let activity = &self.activity;
        let offer =
            (self.status() == Status::Scheduled && !activity.offered).then_some(activity.attempt_scheduled_time);
        [
            self.expiration(),
            activity.schedule_to_start_deadline(),
            activity.start_to_close_deadline(),
            activity.heartbeat_deadline(),
            offer,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// All its links.
    pub(super) fn links(&self) -> Vec<Link> {
        let attached = self.progress.attached.iter().flat_map(|attached| &attached.links);
        self.asked.links.iter().chain(attached).cloned().collect()
    }

    /// What lists show now.
    pub(super) fn to_be_listed(&self) -> Listed {
        let status = match self.status() {
            status if status.is_in_progress() => Status::Scheduled,
            status => status,
        };
        (status, self.activity.task_queue().to_owned(), self.first_due())
    }

    /// About what its rows take, bytes.
    pub(super) fn row_bytes(&self) -> usize {
        self.asked.encoded_len() + self.activity.to_row().len() + self.progress.encoded_len()
    }

    fn memory_bytes(&self) -> usize {
        // Decoded.
        let messages = self.asked.encoded_len() + self.progress.encoded_len();
        size_of::<Execution>() + self.activity.heap_bytes() + 2 * messages
    }
}
