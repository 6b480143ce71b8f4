//! Leases: what a poller holds between the match and the start of its task; and the poll that waits for one.

use std::sync::Arc;

use everlog_kernel::RunId;
use everlog_kernel::transition::{QueryTask, Task};
use everlog_model::{QueueId, WorkflowRef};
use everlog_storage::GroupId;
use tokio::time::Instant;

use super::queue::{Grant, GrantedQuery, GrantedTask, Held, Ticket};
use super::tasks::WaitingTask;
use super::{Matching, ScalingHint};

/// A task that was handed to a poller. Dropped without [`TaskLease::done`], it is offered again.
#[derive(Debug)]
pub struct TaskLease {
    /// The partition that it came from.
    pub partition: GroupId,
    /// Its workflow.
    pub address: WorkflowRef,
    /// The task.
    pub task: Task,
    /// The queue that was polled, sticky or normal.
    pub queue_name: String,
    /// Tasks that wait besides this one in the queue that was polled: the sticky one alone, if it was that.
    pub backlog: u64,
    /// Whether the worker should have more polls open, or fewer.
    pub scaling: Option<ScalingHint>,
    hold: Hold,
}

/// A query that was handed to a poller. Dropped without [`QueryLease::done`], it is offered again.
#[derive(Debug)]
pub struct QueryLease {
    /// Its workflow.
    pub address: WorkflowRef,
    /// The query.
    pub query: QueryTask,
    /// The queue that was polled.
    pub queue_name: String,
    /// Whether the worker should have more polls open, or fewer.
    pub scaling: Option<ScalingHint>,
    hold: Hold,
}

impl TaskLease {
    pub(super) fn new(matching: Arc<Matching>, grant: GrantedTask) -> TaskLease {
        let key = grant.queue.task(grant.position);
        let held = grant.held();
        let WaitingTask { partition, address, attempt, sticky, version, entity, weight } = grant.task;
        TaskLease {
            partition,
            address,
            task: Task { key, attempt, sticky, version, entity, weight },
            queue_name: grant.polled_name,
            backlog: grant.backlog,
            scaling: grant.scaling,
            hold: Hold { matching, queue: grant.queue, held: Some(held) },
        }
    }

    /// The task was started, or is not there any more.
    pub fn done(self) {
        self.hold.settle();
    }

    /// The node that leads its workflow cannot be reached. The tasks of that partition are left to their rows until the next sweep, so
    /// that those of others are not kept waiting.
    pub fn put_aside(self) {
        let TaskLease { partition, hold, .. } = self;
        hold.matching.put_aside(&hold.queue, partition);
    }
}

impl QueryLease {
    pub(super) fn new(matching: Arc<Matching>, grant: GrantedQuery) -> QueryLease {
        let held = grant.held();
        QueryLease {
            address: grant.address,
            query: grant.query,
            queue_name: grant.polled_name,
            scaling: grant.scaling,
            hold: Hold { matching, queue: grant.queue, held: Some(held) },
        }
    }

    /// The query reached a worker, or cannot be put to one.
    pub fn done(self) {
        self.hold.settle();
    }

    /// The run it asks.
    pub fn run_id(&self) -> RunId {
        self.query.run_id
    }
}

/// The part of a lease that gives back what it holds when it is dropped.
struct Hold {
    matching: Arc<Matching>,
    queue: Arc<QueueId>,
    held: Option<Held>,
}

impl Hold {
    fn settle(mut self) {
        if let Some(held) = self.held.take() {
            self.matching.settle(&self.queue, held);
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if let Some(held) = self.held.take() {
            self.matching.give_back(&self.queue, held);
        }
    }
}

impl std::fmt::Debug for Hold {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hold").field("queue", &self.queue).field("held", &self.held).finish_non_exhaustive()
    }
}

/// A poll that waits in a line. Dropped, it leaves the line; what was granted to it in the last moment goes back.
pub(super) struct WaitingPoll {
    matching: Arc<Matching>,
    ticket: Ticket,
    /// It has left the line, and nothing can be on its way to it.
    ended: bool,
}

impl WaitingPoll {
    pub(super) fn new(matching: Arc<Matching>, ticket: Ticket) -> WaitingPoll {
        WaitingPoll { matching, ticket, ended: false }
    }

    pub(super) async fn until(mut self, deadline: Instant) -> Option<Grant> {
        match tokio::time::timeout_at(deadline, &mut self.ticket.grant).await {
            Ok(granted) => {
                self.ended = true;
                // The sender is dropped when the poll is to end empty.
                granted.ok()
            }
            Err(_) => self.leave(),
        }
    }

    /// Leaves the line; what was granted before that is returned.
    fn leave(&mut self) -> Option<Grant> {
        if std::mem::replace(&mut self.ended, true) {
            return None;
        }
        let ticket = &mut self.ticket;
        self.matching.with_existing(&ticket.queue, |queue| {
            queue.leave(ticket.sticky.as_deref(), ticket.number, Instant::now());
        });
        ticket.grant.try_recv().ok()
    }
}

impl Drop for WaitingPoll {
    fn drop(&mut self) {
        if let Some(grant) = self.leave() {
            self.matching.give_back(&self.ticket.queue, grant.held());
        }
    }
}
