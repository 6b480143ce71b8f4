//! Matching: tasks that are ready meet workers that poll.
//!
//! Matching holds no truth. Partition leaders offer tasks, whose rows they keep until the task is done; pollers wait. A match
//! hands the poller a lease on the task; the poller's handler asks the partition to start it, and only a granted start reaches
//! the worker. A lease that is dropped offers its task again.
//!
//! Nothing is read when a lead begins: the tasks that wait in its rows are read queue by queue, once somebody polls the queue or
//! asks how it stands. So a failover takes as long with a million tasks as with none.
//!
//! ```text
//!   partition ──offer──▶ ┌ queue ─────────────────────────────────┐
//!                        │ tasks (by priority and age)  ◀─ backlog │ ──lease──▶ poller's handler ──start──▶ partition
//!   worker  ───poll────▶ │ polls (first come, first served)        │
//!                        │ sticky lines, one per worker process    │
//!                        └─────────────────────────────────────────┘
//! ```
//!
//! A sticky queue is a line of its own within the normal queue behind it, so that a task is in one place only and one lock
//! guards all of it. Workers of different versions poll different queues of one name: `matching/routes.rs`. Queues are spread over shards, each with its own lock; nothing waits and nothing is spawned per queue.
//! All queues together are `matching`; what one of them decides is in `queue`, which tasks stay rows because memory is bounded in
//! `tasks`, which fairness key has its turn in `shares`, who waits in `line`.

pub mod handle;
pub mod nexus;
pub mod query_waiters;

mod describe;
mod lease;
mod line;
mod matching;
mod queue;
mod rates;
mod scaling;
mod shares;
mod tasks;
mod workers;

use std::sync::Arc;

use everlog_kernel::transition::{Task, TaskPosition};
use everlog_kernel::{Lane, Weight};
use everlog_model::{FastMap, QueueId, WorkflowRef};
use everlog_proto::api::common::v1::WorkerVersionCapabilities;
use everlog_proto::api::deployment::v1::WorkerDeploymentOptions;
use everlog_storage::GroupId;

pub use describe::{PollerDescription, QueueDescription, QueueRate, QueueStats};
pub use handle::{Homes, MatchingHandle, Message, Source};
pub use lease::{QueryLease, TaskLease};
pub use matching::Matching;
pub use rates::RateSource;
pub use scaling::{ScalingHint, ScalingRules};
pub use workers::Workers;

/// What the settings of a queue say.
#[derive(Clone, Debug, Default)]
pub struct QueueSettings {
    /// Tasks per second that it hands out, if they say so.
    pub per_second: Option<f64>,
    /// The same for each fairness key, in proportion to its weight.
    pub per_second_and_key: Option<f64>,
    /// Weights of keys, which count more than what tasks say.
    pub weights: Arc<FastMap<Lane, Weight>>,
}

/// A worker's poll.
#[derive(Clone, Debug)]
pub struct Poll {
    /// The queue.
    pub queue: QueueId,
    /// Set for a poll of a sticky queue: the normal queue behind it.
    pub normal_name: Option<String>,
    /// The worker.
    pub identity: String,
    /// The worker's limit on the whole queue, tasks per second, if it sets one.
    pub tasks_per_second_max: Option<f64>,
    /// Names the worker process, where the SDK tells; `ShutdownWorker` ends its polls.
    pub worker_instance_key: String,
    /// Of the worker's code, where the worker tells.
    pub version: Option<Arc<WorkerVersion>>,
    /// When its worker is told to poll more or less.
    pub scaling: ScalingRules,
}

/// What a worker says of the version of its code, as it is shown with the worker's polls. Which tasks it gets is decided by the version in the
/// name of the queue.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WorkerVersion {
    /// In the older form.
    pub capabilities: Option<WorkerVersionCapabilities>,
    /// In the newer one.
    pub deployment: Option<WorkerDeploymentOptions>,
}

/// What a poll ended with.
#[derive(Debug)]
pub enum Matched {
    /// A task to be started.
    Task(TaskLease),
    /// A query to be put to the worker.
    Query(QueryLease),
    /// Nothing came before the deadline, or the server is draining.
    Nothing,
    /// As many polls as may be wait already.
    Full,
    /// The queue is at home on another node by now, or nobody knows where.
    Elsewhere,
}

/// Where tasks come from that do not fit into memory: the task rows of the partitions.
pub trait Backlog: Send + Sync + 'static {
    /// Up to `limit` ready tasks of `queue` in `partition` that stand behind `after`, in order. Resolves to an empty list at the
    /// end. Errors are retried by the caller.
    ///
    /// A task that was offered before the call should be among them; one whose row takes longer to appear than
    /// [`BACKLOG_SETTLE`](everlog_model::limits::BACKLOG_SETTLE) can be overlooked.
    fn ready_tasks(
        &self,
        partition: GroupId,
        queue: QueueId,
        after: Option<TaskPosition>,
        limit: usize,
    ) -> futures::future::BoxFuture<'static, Result<Vec<(WorkflowRef, Task)>, String>>;
}
