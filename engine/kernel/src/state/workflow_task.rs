//! A pending workflow task.

use std::time::Duration;

use bytes::Bytes;
use everlog_proto::api::query::v1::WorkflowQuery;
use prost::Message;

use super::Sticky;
use crate::Time;

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
    /// Leader memory: set while a worker has it. Starting is not written; it is recorded with the completion.
    pub started: Option<WorkflowTaskStarted>,
    /// Leader memory: the task is offered to the sticky queue.
    pub offered_sticky: bool,
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
    /// Queries that went along, by number.
    pub query_ids: Vec<u64>,
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
    /// Bytes on the heap.
    pub(super) fn memory_bytes(&self) -> usize {
        self.tail.len()
            + self.task_queue.len()
            + self.identity.len()
            + self.request_id.len()
            + size_of::<u64>() * self.query_ids.len()
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

    /// When it times out: in a worker's hands, or waiting in a sticky queue.
    pub fn deadline(&self, sticky: Option<&Sticky>) -> Option<Time> {
        match &self.started {
            Some(started) => Some(started.time.plus(self.start_to_close_timeout)),
            None if self.offered_sticky => sticky
                .and_then(|sticky| sticky.schedule_to_start_timeout)
                .map(|timeout| self.scheduled_time.plus(timeout)),
            None => None,
        }
    }
}
