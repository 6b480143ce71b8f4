//! The queues of this node, spread over locks.

mod routes;
mod shards;
#[cfg(test)]
mod tests;
mod upkeep;

use std::hash::RandomState;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use everlog_kernel::transition::{QueryTask, Task, TaskKey, TaskKind};
use everlog_kernel::{Deployments, NamespaceId};
use everlog_model::{FastMap, QueueId, WorkflowRef, limits};
use everlog_storage::GroupId;
use parking_lot::{Mutex, RwLock};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::handle::AtHome;
use super::lease::{QueryLease, TaskLease, WaitingPoll};
use super::line::Meters;
use super::nexus::NexusTasks;
use super::queue::{Admission, Grant, Held, Queue};
use super::tasks::{TaskBounds, WaitingTask};
use super::{Backlog, Matched, Message, Poll, QueueDescription, QueueSettings, Source, Workers};

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
    leads: RwLock<FastMap<GroupId, u128>>,
    /// Where the queues of namespaces with deployments lead.
    routes: RwLock<FastMap<NamespaceId, Arc<Deployments>>>,
    /// Told whenever a page of rows was taken in.
    page_taken: Notify,
    draining: AtomicBool,
    queues: AtomicUsize,
    queues_created: AtomicU64,
    /// Of queues that have any.
    settings: RwLock<FastMap<QueueId, QueueSettings>>,
    /// Worker processes that have shut down, and when.
    shut_down: RwLock<FastMap<String, Instant>>,
    /// Told whenever one does.
    shutdowns: Notify,
    /// What they say of themselves while they run.
    workers: Workers,
    at_home: AtHome,
    /// Requests to Nexus services.
    nexus: NexusTasks,
    /// Whether anyone ever polled a sticky queue without naming the normal one behind it.
    unnamed: AtomicBool,
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
    tasks: TaskBounds,
}

type Shard = FastMap<Arc<QueueId>, Queue>;

type QueryIndex = FastMap<u64, Arc<QueueId>>;

impl Matching {
    /// No queues yet. Must be called within a tokio runtime, which then also carries the upkeep.
    pub fn new(backlog: Arc<dyn Backlog>) -> Arc<Matching> {
        Matching::with_tasks_in_memory(backlog, limits::QUEUE_TASKS_IN_MEMORY_MAX)
    }

    /// The same with another bound on the tasks of a queue and partition that are in memory.
    pub fn with_tasks_in_memory(backlog: Arc<dyn Backlog>, tasks: usize) -> Arc<Matching> {
        // Each lane has room for a few.
        let tasks = TaskBounds { tasks, lanes: limits::QUEUE_LANES_MAX.min(tasks / 2) };
        Matching::with_bounds(backlog, Bounds { queues: limits::QUEUES_MAX, tasks })
    }

    fn with_bounds(backlog: Arc<dyn Backlog>, bounds: Bounds) -> Arc<Matching> {
        let at_home = AtHome::default();
        let matching = Arc::new_cyclic(|me| Matching {
            me: me.clone(),
            runtime: Handle::current(),
            hasher: RandomState::new(),
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            queries: (0..SHARDS).map(|_| Mutex::default()).collect(),
            backlog,
            leads: RwLock::default(),
            routes: RwLock::default(),
            page_taken: Notify::new(),
            draining: AtomicBool::new(false),
            queues: AtomicUsize::new(0),
            queues_created: AtomicU64::new(0),
            settings: RwLock::default(),
            shut_down: RwLock::default(),
            shutdowns: Notify::new(),
            workers: Workers::default(),
            nexus: NexusTasks::new(at_home.clone()),
            at_home,
            unnamed: AtomicBool::new(false),
            left_out: AtomicBool::new(false),
            bounds,
            workflow_meters: Meters::new(TaskKind::Workflow),
            activity_meters: Meters::new(TaskKind::Activity),
        });
        matching.runtime.spawn(upkeep::keep_up(Arc::downgrade(&matching)));
        matching
    }

    /// Which queues are at home here.
    pub(super) fn at_home(&self) -> &AtHome {
        &self.at_home
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

    /// Reads the rows again of queues of which something may have been offered elsewhere.
    pub fn read_again_of(&self, is_concerned: impl Fn(&QueueId) -> bool) {
        let leads: Vec<GroupId> = self.leads.read().keys().copied().collect();
        self.for_each_queue(|queue| {
            if is_concerned(queue.id()) {
                leads.iter().for_each(|partition| queue.open_partition(*partition, true));
            }
        });
    }

    fn offer(&self, source: Source, address: WorkflowRef, task: Task) {
        if self.leads.read().get(&source.partition) != Some(&source.lead) {
            return;
        }
        let TaskKey { kind, task_queue, .. } = &task.key;
        let queue = QueueId::new(address.namespace.id, *kind, task_queue.clone());
        let queue = self.unnamed_home(&queue, task.sticky.as_deref()).unwrap_or_else(|| {
            let version = self.version_of(&queue, task.version.as_deref(), &address.workflow_id);
            QueueId { version, ..queue }
        });
        let (position, task) = WaitingTask::new(source.partition, address, task);
        if self.with_queue(queue, |queue| queue.offer(position, task, Instant::now())).is_none() {
            // It is found in its row once there is room for its queue and somebody polls that.
            self.left_out.store(true, Ordering::Release);
        }
    }

    fn offer_query(&self, address: WorkflowRef, query: QueryTask) {
        let id = QueueId::new(address.namespace.id, TaskKind::Workflow, &*query.task_queue);
        let id = self.unnamed_home(&id, query.sticky.as_deref()).unwrap_or_else(|| {
            let version = self.version_of(&id, query.version.as_deref(), &address.workflow_id);
            QueueId { version, ..id }
        });
        let query_id = query.query_id;
        // The index comes first: a poller may take the query and be done with it before this returns.
        self.query_index(query_id).lock().insert(query_id, Arc::new(id.clone()));
        let kept = self.with_queue(id, |queue| queue.offer_query(address, query, Instant::now()));
        if kept != Some(true) {
            self.query_index(query_id).lock().remove(&query_id);
        }
    }

    /// Where the polls of a sticky queue wait that do not name the normal queue behind it, as SDKs did until 2023: at the queue without a
    /// name, if anyone has polled so lately. This holds on the node where they poll.
    fn unnamed_home(&self, normal: &QueueId, sticky: Option<&str>) -> Option<QueueId> {
        if !self.unnamed.load(Ordering::Acquire) {
            return None;
        }
        let (name, now) = (sticky?, Instant::now());
        let id = QueueId { name: String::new(), ..normal.clone() };
        let is_polled = |queue: &mut Queue| {
            queue.line(Some(name)).is_some_and(|line| line.has_recent_poller(now, limits::STICKY_POLLER_WINDOW))
        };
        self.with_existing(&id, is_polled).unwrap_or(false).then_some(id)
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
    /// be back at once. So is one of a queue that is not at home here: no task would come.
    pub async fn poll(self: &Arc<Self>, poll: Poll, deadline: Instant) -> Matched {
        let now = Instant::now();
        if deadline <= now {
            return Matched::Nothing;
        }
        let (id, sticky) = match &poll.normal_name {
            Some(normal) => (QueueId { name: normal.clone(), ..poll.queue.clone() }, Some(poll.queue.name.as_str())),
            None => (poll.queue.clone(), None),
        };
        if id.name.is_empty() {
            self.unnamed.store(true, Ordering::Release);
        }
        let admission = self.with_queue(id, |queue| {
            // Under the lock: a drain that comes later finds this poll in its line.
            if self.draining.load(Ordering::Acquire) || self.has_shut_down(&poll.worker_instance_key) {
                return Admission::Draining;
            }
            // And whoever ends the polls of queues that have left does so after they have.
            if !self.at_home.has(queue.id()) {
                return Admission::Elsewhere;
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
            Admission::Elsewhere => Matched::Elsewhere,
        }
    }

    /// Whether anyone polled the queue in the last `within`: a worker of its version if it is named with one, and of whichever otherwise.
    pub fn has_recent_poller(&self, queue: &QueueId, within: Duration) -> bool {
        if queue.version.is_none()
            && self.of_all_versions(queue).iter().skip(1).any(|id| self.has_recent_poller(id, within))
        {
            return true;
        }
        let now = Instant::now();
        let asked = |candidate: &mut Queue, sticky: Option<&str>| {
            candidate.line(sticky).is_some_and(|line| line.has_recent_poller(now, within))
        };
        self.with_normal_or_sticky(queue, asked).unwrap_or(false)
    }

    /// What is known of a queue, for workers of all versions together unless it is named with one.
    pub async fn describe(&self, queue: &QueueId) -> QueueDescription {
        if queue.version.is_some() {
            return self.describe_version(queue).await;
        }
        let mut all = QueueDescription::default();
        for (number, id) in self.of_all_versions(queue).iter().enumerate() {
            let one = self.describe_version(id).await;
            all = if number == 0 { one } else { all.with(one) };
        }
        all
    }

    /// The same for one version. If its tasks are still to be read, they are, for which this waits a moment.
    pub async fn describe_version(&self, queue: &QueueId) -> QueueDescription {
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

    /// What the settings of a queue say; `None` if it has none.
    pub fn configure(&self, queue: &QueueId, settings: Option<QueueSettings>) {
        {
            let mut all = self.settings.write();
            match &settings {
                Some(settings) => all.insert(queue.clone(), settings.clone()),
                None => all.remove(queue),
            };
        }
        let settings = settings.unwrap_or_default();
        for id in self.of_all_versions(queue) {
            self.with_existing(&id, |queue| queue.configure(settings.clone(), Instant::now()));
        }
    }

    /// The worker processes that are known.
    pub fn workers(&self) -> &Workers {
        &self.workers
    }

    /// Requests to Nexus services, and who polls for them.
    pub fn nexus(&self) -> &NexusTasks {
        &self.nexus
    }

    /// A worker shuts down: its polls end empty, those too that are still on their way, and its sticky queue sends its tasks to the
    /// normal one.
    pub fn worker_shutdown(&self, sticky: Option<&QueueId>, worker_instance_key: &str) {
        let now = Instant::now();
        if !worker_instance_key.is_empty() {
            let mut shut_down = self.shut_down.write();
            if shut_down.len() < limits::WORKER_SHUTDOWNS_MAX {
                shut_down.insert(worker_instance_key.to_owned(), now);
            }
            drop(shut_down);
            self.shutdowns.notify_waiters();
        }
        self.nexus.end_polls_of(worker_instance_key);
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

    /// Waits until a worker process says that it shuts down, for polls that are in no queue.
    pub async fn until_shut_down(&self, worker_instance_key: &str) {
        loop {
            let mut shutdown = pin!(self.shutdowns.notified());
            // From here on none is missed.
            shutdown.as_mut().enable();
            if self.has_shut_down(worker_instance_key) {
                return;
            }
            shutdown.await;
        }
    }

    /// Whether a worker process has said that it shuts down. One that does not name itself cannot be told from others.
    fn has_shut_down(&self, worker_instance_key: &str) -> bool {
        !worker_instance_key.is_empty() && self.shut_down.read().contains_key(worker_instance_key)
    }

    /// Ends the polls of queues that are at home elsewhere from now on. They come back there.
    pub fn end_polls_of(&self, is_elsewhere: impl Fn(&QueueId) -> bool) {
        self.nexus.end_polls_elsewhere(|queue| is_elsewhere(&queue.home()));
        self.for_each_queue(|queue| {
            if is_elsewhere(queue.id()) {
                queue.end_polls();
            }
        });
    }

    /// The server stops: every poll ends empty, now and from here on.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
        self.nexus.drain();
        self.for_each_queue(Queue::end_polls);
    }

    fn lease(self: &Arc<Self>, grant: Grant) -> Matched {
        match grant {
            Grant::Task(grant) => Matched::Task(TaskLease::new(self.clone(), grant)),
            Grant::Query(grant) => Matched::Query(QueryLease::new(self.clone(), grant)),
        }
    }

    /// The grant reached nobody, or nobody who used it.
    pub(super) fn give_back(&self, queue: &QueueId, held: Held) {
        let now = Instant::now();
        match held {
            Held::Task { place, lease } => {
                let position = place.1;
                let task = self.with_existing(queue, |queue| queue.take_back_task(place, lease, now)).flatten();
                let Some(task) = task else { return };
                // It may be for others by now.
                let version = self.version_of(queue, task.version.as_deref(), &task.address.workflow_id);
                if version == queue.version || queue.name.is_empty() {
                    self.with_existing(queue, |queue| queue.put_back(position, task, now));
                } else {
                    let id = QueueId { version, ..queue.clone() };
                    self.with_queue(id, |queue| queue.offer(position, task, now));
                }
            }
            Held::Query { query_id, lease } => {
                self.with_existing(queue, |queue| queue.give_back_query(query_id, lease, now));
            }
        }
    }

    /// The partition of a task cannot be reached: what it has in the queue is left to its rows, so that others go on.
    pub(super) fn put_aside(&self, queue: &QueueId, partition: GroupId) {
        self.with_existing(queue, |queue| {
            queue.forget_partition(partition);
            if self.leads.read().contains_key(&partition) {
                queue.open_partition_later(partition);
            }
        });
    }

    pub(super) fn settle(&self, queue: &QueueId, held: Held) {
        let now = Instant::now();
        match held {
            Held::Task { place, lease } => {
                self.with_existing(queue, |queue| queue.settle_task(place, lease, now));
            }
            Held::Query { query_id, lease } => {
                let still_asked = self.with_existing(queue, |queue| queue.settle_query(query_id, lease, now));
                if still_asked != Some(true) {
                    self.query_index(query_id).lock().remove(&query_id);
                }
            }
        }
    }
}
