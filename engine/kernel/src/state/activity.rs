//! A pending activity.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use everlog_proto::api::common::v1::Payloads;
use everlog_proto::api::failure::v1::Failure;
use everlog_proto::api::history::v1::ActivityTaskScheduledEventAttributes;
use prost::Message;

use super::{CorruptRow, PendingValue};
use crate::Time;
use crate::proto;
use crate::rows::RunRowKind;

/// An activity between its ActivityTaskScheduled event and its end. Its attempts leave no events.
#[derive(Clone, Debug, PartialEq)]
pub struct Activity {
    /// Its ActivityTaskScheduled event.
    pub scheduled_event_id: i64,
    /// When it was first scheduled.
    pub scheduled_time: Time,
    /// The event's attributes, with timeouts and retry policy as they are in force.
    pub scheduled: ActivityTaskScheduledEventAttributes,
    /// Its priority, 1 to 5: the one that the workflow set for it, or else the workflow's own.
    pub priority: u8,
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
    /// When the last attempt ended.
    pub last_attempt_end: Option<Time>,
    /// When a worker last said itself that an attempt had failed.
    pub last_failure_reported: Option<Time>,
    /// Leader memory: the time in the key of the task row that is written for the activity, if one is. There is one while the
    /// current attempt is offered and not started, as far as was written.
    pub task_row_time: Option<Time>,
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
    /// The activity that an ActivityTaskScheduled event schedules, in a run of the given priority: at its first attempt, which
    /// is ready for a worker.
    pub(crate) fn scheduled(
        event_id: i64,
        time: Time,
        attributes: ActivityTaskScheduledEventAttributes,
        run_priority: u8,
    ) -> Activity {
        let priority = attributes.priority.as_ref().map_or(0, |priority| priority.priority_key);
        Activity {
            scheduled_event_id: event_id,
            scheduled_time: time,
            priority: if priority == 0 { run_priority } else { proto::priority_level(priority) },
            scheduled: attributes,
            attempt: 1,
            attempt_scheduled_time: time,
            offered: true,
            started: None,
            cancel_requested_event_id: None,
            heartbeat_details: None,
            last_heartbeat: None,
            last_failure: None,
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

    /// The queue of its workers.
    pub fn task_queue(&self) -> &str {
        self.scheduled.task_queue.as_ref().map_or("", |queue| &queue.name)
    }

    /// How long one of its timeouts is; `None` for "not limited".
    fn timeout(duration: Option<&everlog_proto::wkt::Duration>) -> Option<Duration> {
        crate::time::positive(duration).ok().flatten()
    }

    /// When the activity as a whole must have ended.
    pub fn schedule_to_close_deadline(&self) -> Option<Time> {
        Self::timeout(self.scheduled.schedule_to_close_timeout.as_ref())
            .map(|timeout| self.scheduled_time.plus(timeout))
    }

    /// When the current attempt must have been started; `None` once it is.
    pub fn schedule_to_start_deadline(&self) -> Option<Time> {
        if self.started.is_some() { None } else { self.unstarted_deadline() }
    }

    /// When the current attempt must have been started, whether it is or not.
    fn unstarted_deadline(&self) -> Option<Time> {
        let timeout = Self::timeout(self.scheduled.schedule_to_start_timeout.as_ref()).filter(|_| self.offered)?;
        Some(self.attempt_scheduled_time.plus(timeout))
    }

    /// When the started attempt must have ended.
    pub fn start_to_close_deadline(&self) -> Option<Time> {
        let started = self.started.as_ref()?;
        Self::timeout(self.scheduled.start_to_close_timeout.as_ref()).map(|timeout| started.time.plus(timeout))
    }

    /// When the started attempt must have given its next heartbeat.
    pub fn heartbeat_deadline(&self) -> Option<Time> {
        let started = self.started.as_ref()?;
        let alive = self.last_heartbeat.map_or(started.time, |heartbeat| heartbeat.max(started.time));
        Self::timeout(self.scheduled.heartbeat_timeout.as_ref()).map(|timeout| alive.plus(timeout))
    }

    /// When a retry that backs off is handed to matching; `None` if the current attempt was.
    pub fn retry_time(&self) -> Option<Time> {
        (!self.offered).then_some(self.attempt_scheduled_time)
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
        let started = self.started.as_ref().map_or(0, |started| started.identity.len() + started.request_id.len());
        size_of::<Activity>()
            // Decoded, with its fields in allocations of their own, a message takes about that much more.
            + 256 + self.scheduled.encoded_len()
            + self.heartbeat_details.as_ref().map_or(0, Message::encoded_len)
            + self.last_failure.as_ref().map_or(0, |failure| {
                size_of::<Failure>() + failure.encoded_len()
            })
            + self.last_worker_identity.len()
            + started
    }
}
