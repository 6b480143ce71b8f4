//! A pending workflow task.

use std::time::Duration;

use bytes::Bytes;
use everlog_proto::api::history::v1::history_event::Attributes;
use everlog_proto::api::history::v1::{History, HistoryEvent};
use everlog_proto::api::query::v1::WorkflowQuery;
use prost::Message;

use super::row::{decode, encode, required};
use super::{CorruptRow, Sticky};
use crate::{Lane, Time};

/// How long a speculative task waits for a worker before it becomes a normal one, which no change of leader loses.
const SPECULATIVE_SCHEDULE_TO_START_TIMEOUT: Duration = Duration::from_secs(5);

/// The pending workflow task of a run; there is at most one.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkflowTask {
    /// Id of its WorkflowTaskScheduled event. Of a transient task (attempt above 1) the id that the event will get.
    pub scheduled_event_id: i64,
    /// When it was scheduled.
    pub scheduled_time: Time,
    /// When the first of a row of heartbeat tasks was scheduled.
    pub original_scheduled_time: Time,
    /// From 1. Tasks with a higher attempt are *transient*: their events are written when they are completed.
    pub attempt: i32,
    /// How long a worker may take.
    pub start_to_close_timeout: Duration,
    /// Set while a worker has it. It is recorded in the history with the end of the task; until then it has a row of its own if
    /// it is written at all.
    pub started: Option<WorkflowTaskStarted>,
    /// Leader memory: the task is offered to the sticky queue.
    pub offered_sticky: bool,
    /// Leader memory: the task is for updates alone, and leaves no trace unless something comes of it. It has no row, and its Scheduled
    /// event is not written.
    pub is_speculative: bool,
    /// The lane of its queue in which it stands: that of the run's fairness key when it was scheduled, or since.
    pub lane: Lane,
}

/// A workflow task in a worker's hands.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WorkflowTaskStarted {
    /// Id that the WorkflowTaskStarted event has, or will get.
    pub started_event_id: i64,
    /// When.
    pub time: Time,
    /// The encoded events that the worker saw behind the stored ones (`History` encoding): Started, and before it Scheduled if
    /// the task is transient. They are stored as they are when the task is completed.
    pub tail: Bytes,
    /// The queue that the worker polled.
    pub task_queue: String,
    /// The worker.
    pub identity: String,
    /// Names the poll.
    pub request_id: String,
    /// When its row is to be written at the latest; `None` once it is.
    pub save_at: Option<Time>,
}

/// The value of the row of a start. The events say the rest.
#[derive(Message)]
struct StartRow {
    #[prost(bytes = "bytes", tag = "1")]
    tail: Bytes,
    #[prost(string, tag = "2")]
    task_queue: String,
}

/// A query that waits for the next workflow task.
#[derive(Clone, Debug, PartialEq)]
pub struct BufferedQuery {
    /// The number under which the asker waits.
    pub query_id: u64,
    /// The query.
    pub query: WorkflowQuery,
}

impl WorkflowTaskStarted {
    /// Whether its row is written, so that a new leader knows of it.
    pub fn is_saved(&self) -> bool {
        self.save_at.is_none()
    }

    /// The value of its row.
    pub(crate) fn to_row(&self) -> Bytes {
        encode(&StartRow { tail: self.tail.clone(), task_queue: self.task_queue.clone() })
    }

    /// From the value of its row.
    pub(crate) fn from_row(value: &[u8]) -> Result<WorkflowTaskStarted, CorruptRow> {
        let StartRow { tail, task_queue } = decode(value)?;
        let event: HistoryEvent = required(decode::<History>(&tail)?.events.pop(), "events")?;
        let Some(Attributes::WorkflowTaskStartedEventAttributes(attributes)) = event.attributes else {
            return Err(CorruptRow("a workflow task that begins with another event".into()));
        };
        Ok(WorkflowTaskStarted {
            started_event_id: event.event_id,
            time: Time::from_proto(&required(event.event_time, "time")?),
            tail,
            task_queue,
            identity: attributes.identity,
            request_id: attributes.request_id,
            save_at: None,
        })
    }

    /// Bytes on the heap.
    pub(super) fn memory_bytes(&self) -> usize {
        self.tail.len() + self.task_queue.len() + self.identity.len() + self.request_id.len()
    }
}

impl BufferedQuery {
    /// Rough size in memory, bytes.
    pub(super) fn memory_bytes(&self) -> usize {
        size_of::<BufferedQuery>() + self.query.encoded_len()
    }
}

impl WorkflowTask {
    /// Whether its events are written only when it completes.
    pub fn is_transient(&self) -> bool {
        self.attempt > 1
    }

    /// Whether its Scheduled event is not in the history, and is written with the Started event.
    pub fn is_unwritten(&self) -> bool {
        self.is_transient() || self.is_speculative
    }

    /// When it times out: in a worker's hands, or waiting for a worker in a sticky queue, or without a row.
    pub fn deadline(&self, sticky: Option<&Sticky>) -> Option<Time> {
        let unsaved = self.is_speculative.then_some(SPECULATIVE_SCHEDULE_TO_START_TIMEOUT);
        let timeout = match &self.started {
            Some(started) => return Some(started.time.plus(self.start_to_close_timeout)),
            None if self.offered_sticky => sticky.and_then(|sticky| sticky.schedule_to_start_timeout).or(unsaved),
            None => unsaved,
        };
        timeout.map(|timeout| self.scheduled_time.plus(timeout))
    }
}
