//! A pending activity.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use everlog_proto::api::activity::v1::ActivityOptions;
use everlog_proto::api::common::v1::{Payloads, Priority, RetryPolicy};
use everlog_proto::api::deployment::v1::WorkerDeploymentVersion;
use everlog_proto::api::failure::v1::Failure;
use everlog_proto::api::history::v1::ActivityTaskScheduledEventAttributes;
use everlog_proto::api::taskqueue::v1::TaskQueue;
use everlog_proto::wkt;
use prost::Message;

use super::{CorruptRow, PendingValue};
use crate::proto;
use crate::retry;
use crate::rows::RunRowKind;
use crate::{Lane, Time};

/// An activity between its ActivityTaskScheduled event and its end. Its attempts leave no events.
#[derive(Clone, Debug, PartialEq)]
pub struct Activity {
    /// Its ActivityTaskScheduled event.
    pub scheduled_event_id: i64,
    /// When it was first scheduled.
    pub scheduled_time: Time,
    /// The event's attributes, with what the workflow has left open filled in.
    pub scheduled: ActivityTaskScheduledEventAttributes,
    /// How it is attempted, once an operator has changed that: see [`Activity::options`].
    pub changed_options: Option<Box<ActivityOptions>>,
    /// Set while an operator has it paused: no attempt is handed out, and no timeout counts.
    pub pause: Option<Box<Pause>>,
    /// When an operator had its attempts counted anew: one that was started before has nothing to say any more, whatever its number.
    pub attempts_from: Option<Time>,
    /// The attempt that went on then is told so.
    pub is_reset: bool,
    /// The next attempt is to find no heartbeat.
    pub forgets_heartbeat: bool,
    /// Its priority, 1 to 5: the one that the workflow set for it, or else the workflow's own.
    pub priority: u8,
    /// The lane of its queue in which its current attempt stands, in the same way.
    pub lane: Lane,
    /// The current attempt, from 1.
    pub attempt: i32,
    /// When the current attempt was, or will be, handed to matching: in the future while a retry backs off.
    pub attempt_scheduled_time: Time,
    /// Whether the current attempt was handed to matching.
    pub offered: bool,
    /// Set while a worker has the current attempt.
    pub started: Option<ActivityStarted>,
    /// Id of the ActivityTaskCancelRequested event.
    pub cancel_requested_event_id: Option<i64>,
    /// Details of the last heartbeat, kept over attempts.
    pub heartbeat_details: Option<Payloads>,
    /// When the last heartbeat came in, of this attempt or one before.
    pub last_heartbeat: Option<Time>,
    /// Why the last attempt failed.
    pub last_failure: Option<Box<Failure>>,
    /// Who had the last attempt.
    pub last_worker_identity: String,
    /// The version of the worker that has taken the last attempt, if it has one.
    pub last_version: Option<Box<WorkerDeploymentVersion>>,
    /// When the last attempt ended.
    pub last_attempt_end: Option<Time>,
    /// When a worker last said itself that an attempt had failed.
    pub last_failure_reported: Option<Time>,
    /// Leader memory: the time in the key of the task row that is written for the activity, if one is. There is one while the
    /// current attempt is offered, not started and not paused, as far as was written.
    pub task_row_time: Option<Time>,
}

/// That an operator has paused an activity.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pause {
    /// When.
    pub time: Time,
    /// The operator.
    pub identity: String,
    /// Why, in the operator's words.
    pub reason: String,
    /// Names the request.
    pub request_id: String,
}

/// An attempt in a worker's hands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActivityStarted {
    /// When.
    pub time: Time,
    /// The worker.
    pub identity: String,
    /// Names the poll.
    pub request_id: String,
}

impl Activity {
    /// The activity that an ActivityTaskScheduled event schedules, in a run that was given a priority: at its first attempt, which
    /// is ready for a worker.
    pub(crate) fn scheduled(
        event_id: i64,
        time: Time,
        attributes: ActivityTaskScheduledEventAttributes,
        run_priority: Option<&Priority>,
    ) -> Activity {
        let (priority, lane) = standing(attributes.priority.as_ref(), run_priority);
        Activity {
            scheduled_event_id: event_id,
            scheduled_time: time,
            priority,
            lane,
            scheduled: attributes,
            changed_options: None,
            pause: None,
            attempts_from: None,
            is_reset: false,
            forgets_heartbeat: false,
            attempt: 1,
            attempt_scheduled_time: time,
            offered: true,
            started: None,
            cancel_requested_event_id: None,
            heartbeat_details: None,
            last_heartbeat: None,
            last_failure: None,
            last_version: None,
            last_worker_identity: String::new(),
            last_attempt_end: None,
            last_failure_reported: None,
            task_row_time: None,
        }
    }

    /// The workflow's name for it.
    pub fn activity_id(&self) -> &str {
        &self.scheduled.activity_id
    }

    /// What kind of activity it is.
    pub fn activity_type(&self) -> &str {
        self.scheduled.activity_type.as_ref().map_or("", |activity_type| &activity_type.name)
    }

    /// The queue of its workers.
    pub fn task_queue(&self) -> &str {
        let queue = match &self.changed_options {
            Some(options) => &options.task_queue,
            None => &self.scheduled.task_queue,
        };
        queue.as_ref().map_or("", |queue| &queue.name)
    }

    /// When and how often it is retried.
    pub fn retry_policy(&self) -> Option<&RetryPolicy> {
        match &self.changed_options {
            Some(options) => options.retry_policy.as_ref(),
            None => self.scheduled.retry_policy.as_ref(),
        }
    }

    /// The priority that it was given.
    pub fn given_priority(&self) -> Option<&Priority> {
        match &self.changed_options {
            Some(options) => options.priority.as_ref(),
            None => self.scheduled.priority.as_ref(),
        }
    }

    /// How it is attempted: as the workflow has asked for, or as an operator has changed it since.
    pub fn options(&self) -> ActivityOptions {
        self.changed_options.as_deref().cloned().unwrap_or_else(|| self.original_options())
    }

    /// How the workflow has asked for it to be attempted.
    pub fn original_options(&self) -> ActivityOptions {
        let scheduled = &self.scheduled;
        let queue = scheduled.task_queue.as_ref();
        ActivityOptions {
            task_queue: queue.map(|queue| TaskQueue { name: queue.name.clone(), ..TaskQueue::default() }),
            schedule_to_close_timeout: scheduled.schedule_to_close_timeout,
            schedule_to_start_timeout: scheduled.schedule_to_start_timeout,
            start_to_close_timeout: scheduled.start_to_close_timeout,
            heartbeat_timeout: scheduled.heartbeat_timeout,
            retry_policy: scheduled.retry_policy.clone(),
            priority: scheduled.priority.clone(),
            start_delay: None,
        }
    }

    /// Has it attempted in another way from here on. Which errors are not retried stays what the workflow has said.
    pub(crate) fn set_options(&mut self, mut options: ActivityOptions) {
        let original = self.original_options();
        if let Some(policy) = &mut options.retry_policy {
            policy.non_retryable_error_types = original
                .retry_policy
                .as_ref()
                .map(|policy| policy.non_retryable_error_types.clone())
                .unwrap_or_default();
        }
        if let Some(queue) = &mut options.task_queue {
            queue.kind = 0;
        }
        options.start_delay = None;
        self.changed_options = (options != original).then(|| Box::new(options));
    }

    /// Where its next attempt stands, in a run that was given a priority: at which level, 1 to 5, and in which lane.
    pub(crate) fn standing_in(&self, run_priority: Option<&Priority>) -> (u8, Lane) {
        standing(self.given_priority(), run_priority)
    }

    /// Where its current attempt stands.
    pub(crate) fn standing(&self) -> (u8, Lane) {
        (self.priority, self.lane)
    }

    /// Its current attempt has failed, and another one follows, which is not offered yet.
    pub(crate) fn attempt_failed(&mut self, failure: &Failure, now: Time) {
        if let Some(started) = self.started.take() {
            self.last_worker_identity = started.identity;
        }
        self.last_failure = Some(Box::new(retry::last_failure(failure.clone())));
        self.last_attempt_end = Some(now);
        self.attempt += 1;
        self.offered = false;
    }

    /// Has its attempts counted anew.
    pub(crate) fn count_anew(&mut self, now: Time) {
        self.attempt = 1;
        self.attempts_from = Some(now);
    }

    /// What ends with an attempt: the next one knows nothing of a reset, nor of heartbeats that are to be forgotten.
    pub(crate) fn begin_attempt(&mut self) {
        if std::mem::take(&mut self.forgets_heartbeat) {
            self.forget_heartbeat();
        }
        self.is_reset = false;
    }

    /// Forgets the heartbeats of all attempts so far.
    pub(crate) fn forget_heartbeat(&mut self) {
        self.heartbeat_details = None;
        self.last_heartbeat = None;
    }

    /// How long one of its timeouts is; `None` for "not limited", as all are while it is paused.
    fn timeout(
        &self,
        scheduled: impl Fn(&ActivityTaskScheduledEventAttributes) -> Option<wkt::Duration>,
        changed: impl Fn(&ActivityOptions) -> Option<wkt::Duration>,
    ) -> Option<Duration> {
        if self.pause.is_some() {
            return None;
        }
        let timeout = self.changed_options.as_deref().map_or_else(|| scheduled(&self.scheduled), changed);
        crate::time::positive(timeout.as_ref()).ok().flatten()
    }

    /// When attempts must have ended by what the workflow has asked for: no retry goes beyond it, whatever an operator has changed.
    pub fn expiration(&self) -> Option<Time> {
        let timeout = crate::time::positive(self.scheduled.schedule_to_close_timeout.as_ref()).ok().flatten()?;
        Some(self.scheduled_time.plus(timeout))
    }

    /// When the activity as a whole must have ended.
    pub fn schedule_to_close_deadline(&self) -> Option<Time> {
        self.schedule_to_close_timeout().map(|timeout| self.scheduled_time.plus(timeout))
    }

    /// How long the activity as a whole may take.
    pub(crate) fn schedule_to_close_timeout(&self) -> Option<Duration> {
        self.timeout(|scheduled| scheduled.schedule_to_close_timeout, |o| o.schedule_to_close_timeout)
    }

    /// When the current attempt must have been started; `None` once it is.
    pub fn schedule_to_start_deadline(&self) -> Option<Time> {
        if self.started.is_some() { None } else { self.unstarted_deadline() }
    }

    /// When the current attempt must have been started, whether it is or not.
    fn unstarted_deadline(&self) -> Option<Time> {
        let timeout = self.timeout(|scheduled| scheduled.schedule_to_start_timeout, |o| o.schedule_to_start_timeout)?;
        self.offered.then(|| self.attempt_scheduled_time.plus(timeout))
    }

    /// When the started attempt must have ended.
    pub fn start_to_close_deadline(&self) -> Option<Time> {
        let started = self.started.as_ref()?;
        let timeout = self.timeout(|scheduled| scheduled.start_to_close_timeout, |o| o.start_to_close_timeout)?;
        Some(started.time.plus(timeout))
    }

    /// When the started attempt must have given its next heartbeat.
    pub fn heartbeat_deadline(&self) -> Option<Time> {
        let started = self.started.as_ref()?;
        let alive = self.last_heartbeat.map_or(started.time, |heartbeat| heartbeat.max(started.time));
        let timeout = self.timeout(|scheduled| scheduled.heartbeat_timeout, |o| o.heartbeat_timeout)?;
        Some(alive.plus(timeout))
    }

    /// When a retry that backs off is handed to matching; `None` if the current attempt was, or if it waits for an operator.
    pub fn retry_time(&self) -> Option<Time> {
        (!self.offered && self.pause.is_none()).then_some(self.attempt_scheduled_time)
    }

    /// Whether its current attempt waits for a worker.
    pub fn is_ready(&self) -> bool {
        self.offered && self.started.is_none() && self.pause.is_none()
    }

    /// The next of its deadlines.
    pub fn next_deadline(&self) -> Option<Time> {
        [
            self.schedule_to_close_deadline(),
            self.schedule_to_start_deadline(),
            self.start_to_close_deadline(),
            self.heartbeat_deadline(),
            self.retry_time(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// The next of its deadlines for a leader that does not know of the attempt's start, because it was not written.
    pub fn next_deadline_without_start(&self) -> Option<Time> {
        self.schedule_to_close_deadline().into_iter().chain(self.unstarted_deadline()).min()
    }
}

impl PendingValue for Arc<Activity> {
    type Key = i64;
    const KIND: RunRowKind = RunRowKind::Activity;

    fn name(&self) -> Option<&str> {
        Some(self.activity_id())
    }

    fn to_row(&self) -> Bytes {
        Activity::to_row(self)
    }

    fn from_row(scheduled_event_id: &i64, row: Bytes) -> Result<Arc<Activity>, CorruptRow> {
        Activity::from_row(*scheduled_event_id, &row).map(Arc::new)
    }

    fn memory_bytes(&self) -> usize {
        size_of::<Activity>() + self.heap_bytes()
    }
}

impl Activity {
    /// Rough size of what it owns besides itself, bytes.
    pub(crate) fn heap_bytes(&self) -> usize {
        let started = self.started.as_ref().map_or(0, |started| started.identity.len() + started.request_id.len());
        // Decoded, with its fields in allocations of their own, a message takes about that much more.
        256 + self.scheduled.encoded_len()
            + self.heartbeat_details.as_ref().map_or(0, Message::encoded_len)
            + self.last_failure.as_ref().map_or(0, |failure| size_of::<Failure>() + failure.encoded_len())
            + self.last_worker_identity.len()
            + started
            + self.changed_options.as_ref().map_or(0, |options| size_of::<ActivityOptions>() + options.encoded_len())
            + self.pause.as_ref().map_or(0, |pause| {
                size_of::<Pause>() + pause.identity.len() + pause.reason.len() + pause.request_id.len()
            })
    }
}

/// The level, 1 to 5, and the lane of a priority that may leave them to the run's.
fn standing(priority: Option<&Priority>, run_priority: Option<&Priority>) -> (u8, Lane) {
    let key = |priority: Option<&Priority>| priority.map_or(0, |priority| priority.priority_key);
    let level = match key(priority) {
        0 => proto::priority_level(key(run_priority)),
        key => proto::priority_level(key),
    };
    let lane = match Lane::of_priority(priority) {
        Lane::NONE => Lane::of_priority(run_priority),
        lane => lane,
    };
    (level, lane)
}
