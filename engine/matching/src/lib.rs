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
//! guards all of it. Queues are spread over shards, each with its own lock; nothing waits and nothing is spawned per queue.
//! What a queue decides is in `queue`, which tasks stay rows because memory is bounded in `tasks`, who waits in `line`.

pub mod handle;
mod lease;
mod line;
pub mod query_waiters;
mod queue;
mod rates;
mod tasks;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use everlog_kernel::transition::{QueryTask, Task, TaskKey, TaskKind, TaskPosition};
use everlog_model::{QueueId, WorkflowRef, limits};
use everlog_storage::GroupId;
use parking_lot::{Mutex, RwLock};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::Instant;

pub use handle::{Homes, MatchingHandle, Message, OneNode, Source};
pub use lease::{QueryLease, TaskLease};

use lease::WaitingPoll;
use line::Meters;
use queue::{Admission, Errand, Grant, Queue};
use tasks::{Position, WaitingTask};

/// Locks that the queues are spread over: many more than cores, so that two busy queues seldom share one.
const SHARDS: usize = 64;

/// The task queues of this node.
pub struct Matching {
    me: Weak<Matching>,
    runtime: Handle,
    hasher: RandomState,
    shards: Box<[Mutex<Shard>]>,
    /// In which queue a query is. Never locked together with a shard.
    queries: Box<[Mutex<QueryIndex>]>,
    backlog: Arc<dyn Backlog>,
    /// The lead of each partition that has one.
    leads: RwLock<HashMap<GroupId, u128>>,
    /// Told whenever a page of rows was taken in.
    page_taken: Notify,
    draining: AtomicBool,
    queues: AtomicUsize,
    queues_created: AtomicU64,
    /// Whether an offer was ever left to its row because its queue could not be made.
    left_out: AtomicBool,
    bounds: Bounds,
    workflow_meters: Meters,
    activity_meters: Meters,
}

/// What bounds the memory of matching.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    queues: usize,
    /// Of a queue and partition.
    tasks_in_memory: usize,
}

type Shard = HashMap<Arc<QueueId>, Queue>;

type QueryIndex = HashMap<u64, Arc<QueueId>>;

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
}

/// Where tasks come from that do not fit into memory: the task rows of the partitions.
pub trait Backlog: Send + Sync + 'static {
    /// Up to `limit` ready tasks of `queue` in `partition` that stand behind `after`, in order. Resolves to an empty list at the
    /// end. Errors are retried by the caller.
    ///
    /// A task that was offered before the call should be among them; one whose row takes longer to appear than
    /// [`limits::BACKLOG_SETTLE`] can be overlooked.
    fn ready_tasks(
        &self,
        partition: GroupId,
        queue: QueueId,
        after: Option<TaskPosition>,
        limit: usize,
    ) -> futures::future::BoxFuture<'static, Result<Vec<(WorkflowRef, Task)>, String>>;
}

/// What is known of a queue.
#[derive(Clone, Debug, Default)]
pub struct QueueDescription {
    /// Workers that polled in the last five minutes: identity, last poll, tasks per second.
    pub pollers: Vec<PollerDescription>,
    /// Tasks that wait (a lower bound when not all are in memory).
    pub backlog: u64,
    /// How long the oldest task has been waiting.
    pub backlog_age: Duration,
    /// Tasks added per second, over the last 30 s.
    pub add_rate: f64,
    /// Tasks handed out per second, over the last 30 s.
    pub dispatch_rate: f64,
}

/// A worker that polls a queue.
#[derive(Clone, Debug)]
pub struct PollerDescription {
    /// Who it says it is.
    pub identity: String,
    /// When it polled last.
    pub last_access: std::time::SystemTime,
    /// Its limit, tasks per second.
    pub rate_per_second: Option<f64>,
}

impl Matching {
    /// No queues yet. Must be called within a tokio runtime, which then also carries the upkeep.
    pub fn new(backlog: Arc<dyn Backlog>) -> Arc<Matching> {
        let bounds = Bounds { queues: limits::QUEUES_MAX, tasks_in_memory: limits::QUEUE_TASKS_IN_MEMORY_MAX };
        Matching::with_bounds(backlog, bounds)
    }

    fn with_bounds(backlog: Arc<dyn Backlog>, bounds: Bounds) -> Arc<Matching> {
        let matching = Arc::new_cyclic(|me| Matching {
            me: me.clone(),
            runtime: Handle::current(),
            hasher: RandomState::new(),
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            queries: (0..SHARDS).map(|_| Mutex::default()).collect(),
            backlog,
            leads: RwLock::default(),
            page_taken: Notify::new(),
            draining: AtomicBool::new(false),
            queues: AtomicUsize::new(0),
            queues_created: AtomicU64::new(0),
            left_out: AtomicBool::new(false),
            bounds,
            workflow_meters: Meters::new(TaskKind::Workflow),
            activity_meters: Meters::new(TaskKind::Activity),
        });
        matching.runtime.spawn(keep_up(Arc::downgrade(&matching)));
        matching
    }

    /// Takes in what a lead of a partition, or whoever asked a query, has to say.
    pub fn receive(&self, message: Message) {
        match message {
            Message::Opened(source) => self.open_partition(source),
            Message::Closed(source) => self.close_partition(source),
            Message::Missed(source) => self.read_again(source),
            Message::Task { source, workflow, task } => self.offer(source, workflow, task),
            Message::Query { workflow, query } => self.offer_query(workflow, query),
            Message::WithdrawQuery { query_id } => self.withdraw_query(query_id),
        }
    }

    fn open_partition(&self, source: Source) {
        let Source { partition, lead } = source;
        {
            let mut leads = self.leads.write();
            if leads.get(&partition).is_some_and(|known| *known > lead) {
                return;
            }
            leads.insert(partition, lead);
        }
        // A queue that is made from here on finds the lead in the list.
        self.for_each_queue(|queue| {
            queue.forget_partition(partition);
            queue.open_partition(partition, false);
        });
    }

    fn close_partition(&self, source: Source) {
        {
            let mut leads = self.leads.write();
            if leads.get(&source.partition) != Some(&source.lead) {
                return;
            }
            leads.remove(&source.partition);
        }
        self.for_each_queue(|queue| queue.forget_partition(source.partition));
    }

    fn read_again(&self, source: Source) {
        if self.leads.read().get(&source.partition) == Some(&source.lead) {
            self.for_each_queue(|queue| queue.open_partition(source.partition, true));
        }
    }

    fn offer(&self, source: Source, address: WorkflowRef, task: Task) {
        if self.leads.read().get(&source.partition) != Some(&source.lead) {
            return;
        }
        let Task { key: TaskKey { kind, task_queue, position }, attempt, sticky, version } = task;
        let queue = QueueId::new(address.namespace.id, kind, task_queue);
        let task = WaitingTask { partition: source.partition, address, attempt, sticky, version };
        if self.with_queue(queue, |queue| queue.offer(position, task, Instant::now())).is_none() {
            // It is found in its row once there is room for its queue and somebody polls that.
            self.left_out.store(true, Ordering::Release);
        }
    }

    fn offer_query(&self, address: WorkflowRef, query: QueryTask) {
        let id = QueueId::new(address.namespace.id, TaskKind::Workflow, &*query.task_queue);
        let query_id = query.query_id;
        // The index comes first: a poller may take the query and be done with it before this returns.
        self.query_index(query_id).lock().insert(query_id, Arc::new(id.clone()));
        let kept = self.with_queue(id, |queue| queue.offer_query(address, query, Instant::now()));
        if kept != Some(true) {
            self.query_index(query_id).lock().remove(&query_id);
        }
    }

    fn withdraw_query(&self, query_id: u64) {
        let queue = self.query_index(query_id).lock().remove(&query_id);
        if let Some(queue) = queue {
            self.with_existing(&queue, |queue| queue.withdraw_query(query_id));
        }
    }

    /// Waits for a task until `deadline`. Dropping the future ends the poll at once.
    ///
    /// A poll beyond [`limits::QUEUE_POLLS_MAX`], or of one queue too many, is told so at once: a worker that was told "nothing" would
    /// be back at once.
    pub async fn poll(self: &Arc<Self>, poll: Poll, deadline: Instant) -> Matched {
        let now = Instant::now();
        if deadline <= now {
            return Matched::Nothing;
        }
        let (id, sticky) = match &poll.normal_name {
            Some(normal) => (QueueId { name: normal.clone(), ..poll.queue.clone() }, Some(poll.queue.name.as_str())),
            None => (poll.queue.clone(), None),
        };
        let admission = self.with_queue(id, |queue| {
            // Under the lock: a drain that comes later finds this poll in its line.
            if self.draining.load(Ordering::Acquire) {
                return Admission::Draining;
            }
            queue.poll(&poll, sticky, now)
        });
        match admission.unwrap_or(Admission::Refused) {
            Admission::Granted(grant) => self.lease(grant),
            Admission::Waiting(ticket) => {
                let waiting = WaitingPoll::new(self.clone(), ticket);
                waiting.until(deadline).await.map_or(Matched::Nothing, |grant| self.lease(grant))
            }
            Admission::Draining => Matched::Nothing,
            Admission::Refused => Matched::Full,
        }
    }

    /// Whether anyone polled the queue in the last `within`.
    pub fn has_recent_poller(&self, queue: &QueueId, within: Duration) -> bool {
        let now = Instant::now();
        let asked = |candidate: &mut Queue, sticky: Option<&str>| {
            candidate.line(sticky).is_some_and(|line| line.has_recent_poller(now, within))
        };
        self.with_normal_or_sticky(queue, asked).unwrap_or(false)
    }

    /// What is known of a queue. If its tasks are still to be read, they are, for which this waits a moment.
    pub async fn describe(&self, queue: &QueueId) -> QueueDescription {
        let read_by = Instant::now() + limits::QUEUE_READ_WAIT_MAX;
        let is_sticky = self.with_normal_or_sticky(queue, |_, sticky| sticky.is_some()).unwrap_or(false);
        if !is_sticky {
            self.with_queue(queue.clone(), Queue::want_rows);
            loop {
                let page_taken = self.page_taken.notified();
                let is_being_read = self.with_existing(queue, |queue| queue.is_being_read()).unwrap_or(false);
                if !is_being_read || tokio::time::timeout_at(read_by, page_taken).await.is_err() {
                    break;
                }
            }
        }
        let now = Instant::now();
        self.with_normal_or_sticky(queue, |candidate, sticky| candidate.describe(sticky, now)).unwrap_or_default()
    }

    /// A worker shuts down: its polls end empty and its sticky queue sends its tasks to the normal one.
    pub fn worker_shutdown(&self, sticky: Option<&QueueId>, worker_instance_key: &str) {
        let now = Instant::now();
        self.for_each_queue(|queue| {
            queue.end_polls_of(worker_instance_key);
            if let Some(sticky) = sticky
                && sticky.namespace_id == queue.id().namespace_id
                && queue.id().kind == TaskKind::Workflow
            {
                queue.close_sticky(&sticky.name, now);
            }
        });
    }

    /// Ends the polls of queues that are at home elsewhere from now on. They come back there.
    pub fn end_polls_of(&self, is_elsewhere: impl Fn(&QueueId) -> bool) {
        self.for_each_queue(|queue| {
            if is_elsewhere(queue.id()) {
                queue.end_polls();
            }
        });
    }

    /// The server stops: every poll ends empty, now and from here on.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
        self.for_each_queue(Queue::end_polls);
    }

    fn shard(&self, id: &QueueId) -> &Mutex<Shard> {
        &self.shards[self.hasher.hash_one(id) as usize % SHARDS]
    }

    fn query_index(&self, query_id: u64) -> &Mutex<QueryIndex> {
        &self.queries[query_id as usize % SHARDS]
    }

    /// Does something to a queue, which is made if it is not there; `None` if there is no room for one more.
    fn with_queue<T>(&self, id: QueueId, act: impl FnOnce(&mut Queue) -> T) -> Option<T> {
        let mut shard = self.shard(&id).lock();
        if !shard.contains_key(&id) {
            if self.queues.load(Ordering::Relaxed) >= self.bounds.queues {
                return None;
            }
            self.queues.fetch_add(1, Ordering::Relaxed);
            let id = Arc::new(id.clone());
            shard.insert(id.clone(), self.new_queue(id));
        }
        let queue = shard.get_mut(&id)?;
        let result = act(queue);
        let errands = errands_of(queue);
        drop(shard);
        self.run_errands(errands);
        Some(result)
    }

    fn with_existing<T>(&self, id: &QueueId, act: impl FnOnce(&mut Queue) -> T) -> Option<T> {
        let mut shard = self.shard(id).lock();
        let queue = shard.get_mut(id)?;
        let result = act(queue);
        let errands = errands_of(queue);
        drop(shard);
        self.run_errands(errands);
        Some(result)
    }

    /// Looks at the queue of that name or, if there is none, at the normal queue that has a sticky one of that name.
    fn with_normal_or_sticky<T>(&self, id: &QueueId, mut look: impl FnMut(&mut Queue, Option<&str>) -> T) -> Option<T> {
        let found = self.with_existing(id, |queue| look(queue, None));
        if found.is_some() {
            return found;
        }
        for shard in &self.shards {
            let mut shard = shard.lock();
            let home = shard.values_mut().find(|queue| {
                let other = queue.id();
                other.namespace_id == id.namespace_id && other.kind == id.kind && queue.line(Some(&id.name)).is_some()
            });
            if let Some(queue) = home {
                return Some(look(queue, Some(&id.name)));
            }
        }
        None
    }

    fn for_each_queue(&self, mut act: impl FnMut(&mut Queue)) {
        for shard in &self.shards {
            let mut errands = Vec::new();
            for queue in shard.lock().values_mut() {
                act(queue);
                errands.extend(errands_of(queue));
            }
            self.run_errands(errands);
        }
    }

    fn new_queue(&self, id: Arc<QueueId>) -> Queue {
        let meters = match id.kind {
            TaskKind::Workflow => &self.workflow_meters,
            TaskKind::Activity => &self.activity_meters,
        };
        // Numbers of leases, polls and page requests are not given out again by a later queue of the same name.
        let first_number = self.queues_created.fetch_add(1, Ordering::Relaxed) << 40;
        let mut queue = Queue::new(id, self.bounds.tasks_in_memory, meters.clone(), first_number, Instant::now());
        let left_out = self.left_out.load(Ordering::Acquire);
        for partition in self.leads.read().keys() {
            queue.open_partition(*partition, left_out);
        }
        queue
    }

    fn lease(self: &Arc<Self>, grant: Grant) -> Matched {
        match grant {
            Grant::Task(grant) => Matched::Task(TaskLease::new(self.clone(), grant)),
            Grant::Query(grant) => Matched::Query(QueryLease::new(self.clone(), grant)),
        }
    }

    /// The grant reached nobody, or nobody who used it.
    fn give_back(&self, queue: &QueueId, held: Held) {
        let now = Instant::now();
        self.with_existing(queue, |queue| match held {
            Held::Task { position, lease } => queue.give_back_task(position, lease, now),
            Held::Query { query_id, lease } => queue.give_back_query(query_id, lease, now),
        });
    }

    /// The partition of a task cannot be reached: what it has in the queue is left to its rows, so that others go on.
    fn put_aside(&self, queue: &QueueId, partition: GroupId) {
        self.with_existing(queue, |queue| {
            queue.forget_partition(partition);
            if self.leads.read().contains_key(&partition) {
                queue.open_partition_later(partition);
            }
        });
    }

    fn settle(&self, queue: &QueueId, held: Held) {
        let now = Instant::now();
        match held {
            Held::Task { position, lease } => {
                self.with_existing(queue, |queue| queue.settle_task(position, lease, now));
            }
            Held::Query { query_id, lease } => {
                let still_asked = self.with_existing(queue, |queue| queue.settle_query(query_id, lease, now));
                if still_asked != Some(true) {
                    self.query_index(query_id).lock().remove(&query_id);
                }
            }
        }
    }

    fn run_errands(&self, errands: impl IntoIterator<Item = (Arc<QueueId>, Errand)>) {
        for (queue, errand) in errands {
            let me = self.me.clone();
            match errand {
                Errand::WakeAt(at) => {
                    self.runtime.spawn(async move {
                        tokio::time::sleep_until(at).await;
                        if let Some(matching) = me.upgrade() {
                            matching.with_existing(&queue, |queue| queue.wake(Instant::now()));
                        }
                    });
                }
                Errand::Fetch(fetch) => {
                    let after = (fetch.after != Position::FIRST).then_some(fetch.after);
                    let page = self.backlog.ready_tasks(fetch.partition, (*queue).clone(), after, fetch.limit);
                    self.runtime.spawn(async move {
                        let page = page.await;
                        if let Some(matching) = me.upgrade() {
                            matching.with_existing(&queue, |queue| queue.take_page(fetch, page, Instant::now()));
                            matching.page_taken.notify_waiters();
                        }
                    });
                }
            }
        }
    }

    /// What time alone brings about: sticky lines without pollers empty, idle queues go, failed page requests are repeated.
    fn sweep(&self) {
        let now = Instant::now();
        for shard in &self.shards {
            let mut errands = Vec::new();
            shard.lock().retain(|_, queue| {
                queue.sweep(now);
                errands.extend(errands_of(queue));
                let stays = !queue.is_idle(now);
                if !stays {
                    self.queues.fetch_sub(1, Ordering::Relaxed);
                }
                stays
            });
            self.run_errands(errands);
        }
    }
}

/// What a queue wants to have done. Allocates only if there is something.
fn errands_of(queue: &mut Queue) -> Vec<(Arc<QueueId>, Errand)> {
    let errands = queue.take_errands();
    errands.into_iter().map(|errand| (queue.id().clone(), errand)).collect()
}

/// What a lease is on.
#[derive(Clone, Copy, Debug)]
enum Held {
    Task { position: Position, lease: u64 },
    Query { query_id: u64, lease: u64 },
}

async fn keep_up(matching: Weak<Matching>) {
    let mut tick = tokio::time::interval(limits::QUEUE_SWEEP_INTERVAL);
    loop {
        tick.tick().await;
        let Some(matching) = matching.upgrade() else { return };
        matching.sweep();
    }
}
