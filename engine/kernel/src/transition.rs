//! What comes out of a decision: rows, effects, and the reply.

use bytes::Bytes;
use everlog_proto::api::common::v1::Payloads;
use everlog_proto::api::query::v1::WorkflowQuery;
use prost::Message;

use crate::command::Reply;
use crate::outbox::OutboxMessage;
use crate::rows::RowKey;
use crate::{Rejection, RunId, Time};

/// The outcome of a command.
#[derive(Debug)]
pub struct Transition {
    /// For the caller, once the rows are durable. A command may change state *and* be refused: an invalid completion of a
    /// workflow task is recorded as its failure.
    pub reply: Result<Reply, Rejection>,
    /// Rows of this workflow to put, or to delete (`None`), in order.
    pub rows: Vec<(RowKey, Option<Bytes>)>,
    /// What happens besides.
    pub effects: Vec<Effect>,
}

impl Transition {
    /// A transition that changes nothing.
    pub fn reply(reply: Reply) -> Transition {
        Transition { reply: Ok(reply), rows: Vec::new(), effects: Vec::new() }
    }
}

/// Where a task stands in its queue.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TaskKey {
    /// Workflow task or activity.
    pub kind: TaskKind,
    /// The *normal* queue, also of tasks that are offered to a sticky one first.
    pub task_queue: String,
    /// 1 (first) to 5 (last).
    pub priority: u8,
    /// When it became ready.
    pub scheduled_time: Time,
    /// The run.
    pub run_id: RunId,
    /// The event that scheduled it.
    pub scheduled_event_id: i64,
}

/// The value of a task row: what its key does not say.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct TaskRow {
    /// The workflow.
    #[prost(string, tag = "1")]
    pub workflow_id: String,
    /// The attempt that is ready.
    #[prost(int32, tag = "2")]
    pub attempt: i32,
}

/// What kind of worker a task is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TaskKind {
    /// A workflow task.
    Workflow,
    /// An activity task.
    Activity,
}

/// Where a run stands in the lists: open runs first, then by close time and start time, newest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct VisibilityKey {
    /// When it closed, or [`Time::MAX`].
    pub close_time: Time,
    /// When it was started.
    pub start_time: Time,
    /// The run.
    pub run_id: RunId,
}

/// Something that happens outside of the rows.
#[derive(Clone, Debug)]
pub enum Effect {
    /// A task is ready. A workflow task may be offered before the rows are durable; an activity only after.
    OfferTask(Task),
    /// A query is to be put to a worker by itself.
    OfferQuery(QueryTask),
    /// A message is to be sent to another workflow, and kept until it has arrived. It has a row of its own, which is written with
    /// those of the transition.
    Send(Box<OutboxMessage>),
    /// A query was answered along with a workflow task (only once the rows are durable), or cannot be.
    AnswerQuery {
        /// The number under which the asker waits.
        query_id: u64,
        /// The answer.
        answer: Result<Option<Payloads>, Rejection>,
    },
}

/// A task to be matched with a poller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// Its place, which also identifies it.
    pub key: TaskKey,
    /// Its attempt: a task of an older attempt is void.
    pub attempt: i32,
    /// The sticky queue to try first.
    pub sticky: Option<String>,
}

/// A query for a worker.
#[derive(Clone, Debug, PartialEq)]
pub struct QueryTask {
    /// The number under which the asker waits.
    pub query_id: u64,
    /// The run.
    pub run_id: RunId,
    /// The query.
    pub query: WorkflowQuery,
    /// The normal queue.
    pub task_queue: String,
    /// The sticky queue to try first.
    pub sticky: Option<String>,
}
