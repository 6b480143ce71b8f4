//! What comes out of a decision: rows, effects, and the reply.

use bytes::Bytes;
use everlog_proto::api::common::v1::Payloads;
use everlog_proto::api::deployment::v1::WorkerDeploymentVersion;
use everlog_proto::api::query::v1::WorkflowQuery;

use crate::command::{Reply, UpdateStatus};
use crate::nexus::NexusCall;
use crate::outbox::OutboxMessage;
use crate::rows::RowKey;
use crate::{Rejection, RunId};

pub use crate::task::{Task, TaskKey, TaskKind, TaskPosition, TaskRow};
pub use crate::visibility::VisibilityKey;

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
    /// An update has come further (who waits is told once the rows are durable), or cannot be answered.
    UpdateAdvanced {
        /// The run.
        run_id: RunId,
        /// The update.
        update_id: String,
        /// How far it has come, or why it is given up.
        status: Result<UpdateStatus, Rejection>,
    },
    /// A Nexus service is to be called, once the rows are durable; [`crate::RunCommand::SettleNexusCall`] takes what it says. It is asked
    /// again if nothing is heard of that for a while.
    CallNexus(Box<NexusCall>),
    /// The retention of a run is over, and it is to be archived (see [`crate::archive`]) and then deleted. It is asked again if it is still there
    /// after a while.
    Archive {
        /// The run.
        run_id: RunId,
    },
    /// A batch job is to be worked on, or not any more; known once the rows are durable.
    BatchJob {
        /// Which job it is, of all that had its id.
        run_id: RunId,
        /// Whether there is something to do.
        is_running: bool,
    },
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
    /// The version of the workers that alone can answer it; `None` for whichever its queue leads to.
    pub version: Option<Box<WorkerDeploymentVersion>>,
}
