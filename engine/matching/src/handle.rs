//! The way to the queues, for those who have tasks: messages, because the home of a queue may be another node.
//!
//! ```text
//!   lead ──message──▶ MatchingHandle ──Homes: for this node──▶ Matching
//!                                   └─for others──▶ their Matching
//! ```
//!
//! No message needs to arrive for a task to be done: rows are the truth, and a home reads those of a lead that it hears of.

use std::sync::{Arc, OnceLock};

use everlog_kernel::transition::{QueryTask, Task};
use everlog_model::{OneNode, QueueId, WorkflowRef};
use everlog_storage::GroupId;

use super::Matching;

/// One lead of one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    /// The partition.
    pub partition: GroupId,
    /// Which of its leads: later ones have larger numbers.
    pub lead: u128,
}

/// What matching is told.
#[derive(Clone, Debug)]
pub enum Message {
    /// A lead begins. Whatever earlier ones of the partition said is void; tasks that are ready are in its rows.
    Opened(Source),
    /// A lead is over: its tasks are forgotten, the next one's rows have them.
    Closed(Source),
    /// Something that a lead has said did not arrive. Its rows have it.
    Missed(Source),
    /// A task is ready. To say so again changes nothing.
    Task {
        /// Who says so. Ignored unless it is the lead that was opened last.
        source: Source,
        /// Its workflow.
        workflow: WorkflowRef,
        /// The task.
        task: Task,
    },
    /// A query waits for a worker, until it is done or withdrawn. It has no row.
    Query {
        /// Its workflow.
        workflow: WorkflowRef,
        /// The query.
        query: QueryTask,
    },
    /// Whoever asked the query has given up.
    WithdrawQuery {
        /// Its id.
        query_id: u64,
    },
}

/// Which node is the home of which queue.
pub trait Homes: Send + Sync + 'static {
    /// Sends a message to the other nodes that it is for, and gives it back if it is for this one. Tasks and queries go to the home
    /// of their queue, everything else to all nodes.
    fn pass_on(&self, message: Message) -> Option<Message>;

    /// Whether a queue is at home here, so that its polls may wait here. It is not where nobody is known to lead its partition.
    fn is_here(&self, queue: &QueueId) -> bool;
}

impl Homes for OneNode {
    fn pass_on(&self, message: Message) -> Option<Message> {
        Some(message)
    }

    fn is_here(&self, _: &QueueId) -> bool {
        true
    }
}

/// What is at home here: everything as long as nobody says otherwise. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct AtHome(Arc<OnceLock<Arc<dyn Homes>>>);

impl AtHome {
    /// Names who knows. They are named once.
    pub(crate) fn set(&self, homes: &Arc<dyn Homes>) {
        let _ = self.0.set(Arc::clone(homes));
    }

    /// Whether a queue is.
    pub(crate) fn has(&self, queue: &QueueId) -> bool {
        self.0.get().is_none_or(|homes| homes.is_here(queue))
    }
}

/// Takes messages to where they belong. Cheap to clone.
#[derive(Clone)]
pub struct MatchingHandle {
    local: Arc<Matching>,
    homes: Arc<dyn Homes>,
}

impl MatchingHandle {
    /// A handle that serves what `homes` leaves to this node with `local`.
    pub fn new(local: Arc<Matching>, homes: Arc<dyn Homes>) -> MatchingHandle {
        local.at_home().set(&homes);
        MatchingHandle { local, homes }
    }

    /// The queues that are at home here.
    pub fn local(&self) -> &Arc<Matching> {
        &self.local
    }

    /// Sends a message. Never waits; messages of one sender about one queue stay in order.
    pub fn send(&self, message: Message) {
        if let Some(message) = self.homes.pass_on(message) {
            self.local.receive(message);
        }
    }
}
