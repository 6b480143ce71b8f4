//! One queue: its tasks, its pollers, its sticky lines, and who gets what.
//!
//! Nothing here locks, waits or spawns. What has to happen later, or outside of the lock, is left as an [`Errand`] for the
//! caller.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use everlog_kernel::Time;
use everlog_kernel::transition::{QueryTask, Task};
use everlog_model::{QueueId, WorkflowRef, limits};
use everlog_storage::GroupId;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::line::{Line, Meters};
use super::rates::{RollingCount, TokenBucket};
use super::tasks::{Fetch, Position, Tasks, WaitingTask};
use super::{Held, Poll, QueueDescription};

/// A normal queue and the sticky queues in front of it.
pub(super) struct Queue {
    id: Arc<QueueId>,
    line: Line,
    tasks: Tasks,
    sticky: HashMap<String, StickyLine>,
    /// In which sticky line a task waits. Mostly empty: sticky workers are waiting when their task comes.
    in_sticky: HashMap<Position, String>,
    leased: HashMap<Position, LeasedTask>,
    leased_queries: HashMap<u64, LeasedQuery>,
    /// Whether rows are read at all: nobody has asked for the tasks of a queue that was only offered some.
    rows_wanted: bool,
    rate: Option<TokenBucket>,
    /// A wake is on its way, for when the rate limit lets the next task through.
    wake_is_set: bool,
    added: RollingCount,
    dispatched: RollingCount,
    last_used: Instant,
    last_number: u64,
    meters: Meters,
    errands: Vec<Errand>,
}

/// The sticky queue of a worker process.
#[derive(Default)]
struct StickyLine {
    line: Line,
    tasks: BTreeMap<Position, WaitingTask>,
}

struct LeasedTask {
    lease: u64,
    task: WaitingTask,
    /// Offered once more while it was out: if the lease ends well, this is what comes next.
    offered_again: Option<WaitingTask>,
}

struct LeasedQuery {
    lease: u64,
    address: WorkflowRef,
    query: QueryTask,
    offered_again: Option<(WorkflowRef, QueryTask)>,
}

/// What became of a poll.
pub(super) enum Admission {
    /// There was something at once.
    Granted(Grant),
    /// It stands in the line.
    Waiting(Ticket),
    /// The server is stopping: it ends empty.
    Draining,
    /// As many as may be wait already.
    Refused,
}

/// A poll's place in a line.
pub(super) struct Ticket {
    pub(super) queue: Arc<QueueId>,
    pub(super) sticky: Option<String>,
    pub(super) number: u64,
    /// Resolves to what the poll gets, or to an error when it is to end empty.
    pub(super) grant: oneshot::Receiver<Grant>,
}

/// What a poller gets. Plain data: whoever drops it has to give it back.
pub(super) enum Grant {
    Task(GrantedTask),
    Query(GrantedQuery),
}

pub(super) struct GrantedTask {
    pub(super) queue: Arc<QueueId>,
    pub(super) polled_name: String,
    pub(super) position: Position,
    pub(super) task: WaitingTask,
    pub(super) backlog: u64,
    lease: u64,
}

pub(super) struct GrantedQuery {
    pub(super) queue: Arc<QueueId>,
    pub(super) polled_name: String,
    pub(super) address: WorkflowRef,
    pub(super) query: QueryTask,
    lease: u64,
}

impl Grant {
    pub(super) fn held(&self) -> Held {
        match self {
            Grant::Task(grant) => grant.held(),
            Grant::Query(grant) => grant.held(),
        }
    }
}

impl GrantedTask {
    pub(super) fn held(&self) -> Held {
        Held::Task { position: self.position, lease: self.lease }
    }
}

impl GrantedQuery {
    pub(super) fn held(&self) -> Held {
        Held::Query { query_id: self.query.query_id, lease: self.lease }
    }
}

/// What a queue wants to have done outside of its lock.
pub(super) enum Errand {
    /// Call [`Queue::wake`] at a time.
    WakeAt(Instant),
    /// Read a page of rows and call [`Queue::take_page`] with it.
    Fetch(Fetch),
}

impl Queue {
    pub(super) fn new(
        id: Arc<QueueId>,
        tasks_in_memory_max: usize,
        meters: Meters,
        first_number: u64,
        now: Instant,
    ) -> Queue {
        Queue {
            id,
            line: Line::default(),
            tasks: Tasks::new(tasks_in_memory_max),
            sticky: HashMap::new(),
            in_sticky: HashMap::new(),
            leased: HashMap::new(),
            leased_queries: HashMap::new(),
            rows_wanted: false,
            rate: None,
            wake_is_set: false,
            added: RollingCount::new(now),
            dispatched: RollingCount::new(now),
            last_used: now,
            last_number: first_number,
            meters,
            errands: Vec::new(),
        }
    }

    pub(super) fn id(&self) -> &Arc<QueueId> {
        &self.id
    }

    pub(super) fn take_errands(&mut self) -> Vec<Errand> {
        std::mem::take(&mut self.errands)
    }

    /// The pollers of the normal queue, or of a sticky one if there is such a one.
    pub(super) fn line(&self, sticky: Option<&str>) -> Option<&Line> {
        match sticky {
            None => Some(&self.line),
            Some(name) => self.sticky.get(name).map(|sticky| &sticky.line),
        }
    }

    // Tasks.

    pub(super) fn offer(&mut self, position: Position, task: WaitingTask, now: Instant) {
        self.last_used = now;
        self.meters.offered.increment(1);
        if let Some(leased) = self.leased.get_mut(&position)
            && leased.task.attempt == task.attempt
        {
            leased.offered_again = Some(task);
            return;
        }
        if let Some(name) = self.in_sticky.get(&position) {
            let same_line = task.sticky.as_ref() == Some(name);
            let known = self.sticky.get(name).and_then(|sticky| sticky.tasks.get(&position));
            if same_line && known.is_some_and(|known| known.attempt == task.attempt) {
                return;
            }
            self.remove_from_sticky(&position);
        } else if let Some(known) = self.tasks.get_mut(task.partition, &position) {
            *known = task;
            return;
        }
        self.added.count(now);
        if let Some(task) = self.place_in_sticky(position, task, now) {
            self.place(position, task, now, Tasks::offer);
        }
    }

    /// Hands a task of the normal queue to the poll that waits longest, or keeps it in the way that is given.
    fn place(
        &mut self,
        position: Position,
        task: WaitingTask,
        now: Instant,
        keep: fn(&mut Tasks, Position, WaitingTask),
    ) {
        if self.line.has_polls() && self.tasks.is_empty() && self.take_token(now) {
            let grant = self.lease_task(position, task, None, now);
            self.grant_normal(grant, now);
            return;
        }
        keep(&mut self.tasks, position, task);
        self.hand_out(now);
    }

    /// Puts a task into its sticky line; it comes back if it has none that is served.
    fn place_in_sticky(&mut self, position: Position, task: WaitingTask, now: Instant) -> Option<WaitingTask> {
        let Some((name, sticky)) = task.sticky.as_ref().and_then(|name| self.sticky.get_key_value(name)) else {
            return Some(task);
        };
        let served = sticky.line.has_recent_poller(now, limits::STICKY_POLLER_WINDOW);
        if !served || sticky.tasks.len() >= limits::QUEUE_TASKS_IN_MEMORY_MAX {
            return Some(task);
        }
        let name = name.clone();
        self.in_sticky.insert(position, name.clone());
        if let Some(sticky) = self.sticky.get_mut(&name) {
            sticky.tasks.insert(position, task);
        }
        self.hand_out_sticky(&name, now);
        None
    }

    fn remove_from_sticky(&mut self, position: &Position) -> Option<WaitingTask> {
        let name = self.in_sticky.remove(position)?;
        self.sticky.get_mut(&name)?.tasks.remove(position)
    }

    /// A lease was dropped: its task is ready as before, unless a newer attempt is there.
    pub(super) fn give_back_task(&mut self, position: Position, lease: u64, now: Instant) {
        let Some(leased) = self.end_lease(&position, lease, now) else { return };
        let task = leased.offered_again.unwrap_or(leased.task);
        self.put_back(position, task, now);
    }

    /// A lease ended well: its task is gone, unless it was offered once more since.
    pub(super) fn settle_task(&mut self, position: Position, lease: u64, now: Instant) {
        let leased = self.end_lease(&position, lease, now);
        if let Some(task) = leased.and_then(|leased| leased.offered_again) {
            self.put_back(position, task, now);
        }
    }

    fn end_lease(&mut self, position: &Position, lease: u64, now: Instant) -> Option<LeasedTask> {
        self.last_used = now;
        // A later lease of the same place is that of a newer attempt.
        self.leased.get(position).filter(|leased| leased.lease == lease)?;
        self.leased.remove(position)
    }

    fn put_back(&mut self, position: Position, task: WaitingTask, now: Instant) {
        let newer_is_there =
            self.in_sticky.contains_key(&position) || self.tasks.get_mut(task.partition, &position).is_some();
        if newer_is_there {
            return;
        }
        if let Some(task) = self.place_in_sticky(position, task, now) {
            self.place(position, task, now, Tasks::put_back);
        }
    }

    /// A partition has a new lead; see [`Tasks::open`].
    pub(super) fn open_partition(&mut self, partition: GroupId, left_out: bool) {
        self.rows_wanted = self.line.has_polls();
        self.tasks.open(partition, left_out);
        self.ask_for_page();
    }

    /// A partition cannot be reached: its rows are read, but not before the next sweep.
    pub(super) fn open_partition_later(&mut self, partition: GroupId) {
        self.tasks.open_later(partition);
    }

    /// Somebody wants to know of all tasks, also of those that only rows tell of.
    pub(super) fn want_rows(&mut self) {
        self.rows_wanted = true;
        self.ask_for_page();
    }

    /// Whether rows tell of more tasks than are known here, and are about to be read.
    pub(super) fn is_being_read(&self) -> bool {
        self.rows_wanted && self.tasks.is_unread()
    }

    pub(super) fn forget_partition(&mut self, partition: GroupId) {
        self.tasks.forget_partition(partition);
        self.leased.retain(|_, leased| leased.task.partition != partition);
        for sticky in self.sticky.values_mut() {
            sticky.tasks.retain(|position, task| {
                let stays = task.partition != partition;
                if !stays {
                    self.in_sticky.remove(position);
                }
                stays
            });
        }
    }

    /// A page of task rows was read, or could not be.
    pub(super) fn take_page(&mut self, fetch: Fetch, page: Result<Vec<(WorkflowRef, Task)>, String>, now: Instant) {
        let rows = match page {
            Ok(rows) => rows,
            Err(error) => {
                tracing::warn!(queue = %self.id.name, partition = %fetch.partition, %error, "tasks could not be read");
                // The next sweep asks again.
                self.tasks.fetch_failed(fetch);
                return;
            }
        };
        let partition = fetch.partition;
        let waiting = |(address, task): (WorkflowRef, Task)| {
            let Task { key, attempt, sticky, version } = task;
            (key.position, WaitingTask { partition, address, attempt, sticky, version })
        };
        let page = rows.into_iter().map(waiting).collect();
        let (leased, in_sticky) = (&self.leased, &self.in_sticky);
        let is_elsewhere = |position: &Position, task: &WaitingTask| {
            let is_leased = leased.get(position).is_some_and(|leased| leased.task.attempt >= task.attempt);
            is_leased || in_sticky.contains_key(position)
        };
        self.tasks.take_page(fetch, page, is_elsewhere, now);
        self.hand_out(now);
        self.ask_for_page();
    }

    // Queries.

    /// Whether the query was taken in.
    pub(super) fn offer_query(&mut self, address: WorkflowRef, query: QueryTask, now: Instant) -> bool {
        self.last_used = now;
        if let Some(leased) = self.leased_queries.get_mut(&query.query_id) {
            leased.offered_again = Some((address, query));
            return true;
        }
        let known = self.line.queries.contains_key(&query.query_id)
            || self.sticky.values().any(|sticky| sticky.line.queries.contains_key(&query.query_id));
        if known {
            return true;
        }
        let served = query.sticky.as_ref().and_then(|name| {
            let sticky = self.sticky.get(name)?;
            sticky.line.has_recent_poller(now, limits::STICKY_POLLER_WINDOW).then(|| name.clone())
        });
        let line = match served.as_ref().and_then(|name| self.sticky.get_mut(name)) {
            Some(sticky) => &mut sticky.line,
            None => &mut self.line,
        };
        if line.queries.len() >= limits::QUEUE_QUERIES_MAX {
            tracing::warn!(queue = %self.id.name, "a query is dropped: too many wait for a worker");
            return false;
        }
        line.queries.insert(query.query_id, (address, query));
        match served {
            Some(name) => self.hand_out_sticky(&name, now),
            None => self.hand_out(now),
        }
        true
    }

    pub(super) fn withdraw_query(&mut self, query_id: u64) {
        self.leased_queries.remove(&query_id);
        self.line.queries.remove(&query_id);
        for sticky in self.sticky.values_mut() {
            sticky.line.queries.remove(&query_id);
        }
    }

    pub(super) fn give_back_query(&mut self, query_id: u64, lease: u64, now: Instant) {
        if let Some(leased) = self.end_query_lease(query_id, lease) {
            let (address, query) = leased.offered_again.unwrap_or((leased.address, leased.query));
            self.offer_query(address, query, now);
        }
    }

    /// Whether the query is asked on, because it was offered once more since it was leased.
    pub(super) fn settle_query(&mut self, query_id: u64, lease: u64, now: Instant) -> bool {
        let leased = self.end_query_lease(query_id, lease);
        leased
            .and_then(|leased| leased.offered_again)
            .is_some_and(|(address, query)| self.offer_query(address, query, now))
    }

    fn end_query_lease(&mut self, query_id: u64, lease: u64) -> Option<LeasedQuery> {
        self.leased_queries.get(&query_id).filter(|leased| leased.lease == lease)?;
        self.leased_queries.remove(&query_id)
    }

    // Polls.

    /// A worker polls the normal queue, or a sticky one in front of it.
    pub(super) fn poll(&mut self, poll: &Poll, sticky: Option<&str>, now: Instant) -> Admission {
        self.last_used = now;
        if let Some(per_second) = poll.tasks_per_second_max
            && sticky.is_none()
        {
            let rate = self.rate.get_or_insert_with(|| TokenBucket::new(per_second, now));
            if rate.set_rate(per_second, now) {
                // The wake that may be set is one for the old rate.
                self.wake_is_set = false;
            }
        }
        self.want_rows();
        let number = self.next_number();
        let line = match sticky {
            None => &mut self.line,
            Some(name) => {
                if !self.sticky.contains_key(name) {
                    self.sticky.insert(name.to_owned(), StickyLine::default());
                }
                &mut self.sticky.get_mut(name).expect("it was just put there").line
            }
        };
        line.note_poll(poll, now);
        if line.polls() >= limits::QUEUE_POLLS_MAX {
            return Admission::Refused;
        }
        if !line.has_polls() {
            let granted = match sticky {
                None => self.next_normal(now),
                Some(name) => self.next_sticky(name, now),
            };
            if let Some(grant) = granted {
                return Admission::Granted(grant);
            }
        }
        let (sender, receiver) = oneshot::channel();
        let line = match sticky.map(|name| self.sticky.get_mut(name)) {
            Some(Some(sticky)) => &mut sticky.line,
            _ => &mut self.line,
        };
        line.join(number, poll, &self.meters, sender);
        // With others in front only a changed rate can make a difference.
        if sticky.is_none() {
            self.hand_out(now);
        }
        Admission::Waiting(Ticket {
            queue: self.id.clone(),
            sticky: sticky.map(str::to_owned),
            number,
            grant: receiver,
        })
    }

    pub(super) fn leave(&mut self, sticky: Option<&str>, number: u64, now: Instant) {
        self.last_used = now;
        let line = match sticky {
            None => Some(&mut self.line),
            Some(name) => self.sticky.get_mut(name).map(|sticky| &mut sticky.line),
        };
        if let Some(line) = line {
            line.leave(number, now);
        }
    }

    pub(super) fn end_polls(&mut self) {
        self.line.end_polls();
        self.sticky.values_mut().for_each(|sticky| sticky.line.end_polls());
    }

    /// Ends the polls of a worker process. One that does not name itself has none that could be told from others'.
    pub(super) fn end_polls_of(&mut self, worker_instance_key: &str) {
        if !worker_instance_key.is_empty() {
            self.line.end_polls_of(worker_instance_key);
            self.sticky.values_mut().for_each(|sticky| sticky.line.end_polls_of(worker_instance_key));
        }
    }

    /// The worker of a sticky queue is gone: what waits there goes to the normal queue.
    pub(super) fn close_sticky(&mut self, name: &str, now: Instant) {
        let Some(sticky) = self.sticky.get_mut(name) else { return };
        sticky.line.end_polls();
        sticky.line.forget_pollers();
        let tasks = std::mem::take(&mut sticky.tasks);
        let queries = std::mem::take(&mut sticky.line.queries);
        for (position, task) in tasks {
            self.in_sticky.remove(&position);
            self.place(position, task, now, Tasks::put_back);
        }
        for (address, query) in queries.into_values() {
            self.offer_query(address, query, now);
        }
    }

    // Matching proper.

    /// Serves the polls of the normal queue for as long as there is something for them.
    fn hand_out(&mut self, now: Instant) {
        while self.line.has_polls() {
            let Some(grant) = self.next_normal(now) else { return };
            self.grant_normal(grant, now);
        }
    }

    fn grant_normal(&mut self, grant: Grant, now: Instant) {
        let Some(poll) = self.line.next_poll(now) else { return };
        // A receiver goes only after its poll has left the line, so it is there.
        let _ = poll.sender.send(grant);
    }

    fn hand_out_sticky(&mut self, name: &str, now: Instant) {
        while self.sticky.get(name).is_some_and(|sticky| sticky.line.has_polls()) {
            let Some(grant) = self.next_sticky(name, now) else { return };
            let poll = self.sticky.get_mut(name).and_then(|sticky| sticky.line.next_poll(now));
            if let Some(poll) = poll {
                let _ = poll.sender.send(grant);
            }
        }
    }

    /// What a poll of the normal queue gets: a query, since somebody waits for it, or the first task, if the rate allows.
    fn next_normal(&mut self, now: Instant) -> Option<Grant> {
        if let Some((_, (address, query))) = self.line.queries.pop_first() {
            return Some(self.lease_query(address, query, None));
        }
        if self.tasks.is_empty() || !self.take_token(now) {
            return None;
        }
        let (position, task) = self.tasks.pop_first()?;
        self.ask_for_page();
        Some(self.lease_task(position, task, None, now))
    }

    fn next_sticky(&mut self, name: &str, now: Instant) -> Option<Grant> {
        let sticky = self.sticky.get_mut(name)?;
        if let Some((_, (address, query))) = sticky.line.queries.pop_first() {
            return Some(self.lease_query(address, query, Some(name)));
        }
        let (position, task) = sticky.tasks.pop_first()?;
        self.in_sticky.remove(&position);
        Some(self.lease_task(position, task, Some(name), now))
    }

    fn lease_task(&mut self, position: Position, task: WaitingTask, sticky: Option<&str>, now: Instant) -> Grant {
        let lease = self.next_number();
        self.leased.insert(position, LeasedTask { lease, task: task.clone(), offered_again: None });
        self.dispatched.count(now);
        self.meters.dispatched.increment(1);
        self.meters.schedule_to_start.record(age(position.scheduled_time));
        let backlog = self.waiting_tasks();
        let polled_name = sticky.unwrap_or(&self.id.name).to_owned();
        Grant::Task(GrantedTask { queue: self.id.clone(), polled_name, position, task, backlog, lease })
    }

    fn lease_query(&mut self, address: WorkflowRef, query: QueryTask, sticky: Option<&str>) -> Grant {
        let lease = self.next_number();
        let leased = LeasedQuery { lease, address: address.clone(), query: query.clone(), offered_again: None };
        self.leased_queries.insert(query.query_id, leased);
        let polled_name = sticky.unwrap_or(&self.id.name).to_owned();
        Grant::Query(GrantedQuery { queue: self.id.clone(), polled_name, address, query, lease })
    }

    /// Whether the rate limit lets a task through. If not, a wake is set for when it will.
    fn take_token(&mut self, now: Instant) -> bool {
        let Some(rate) = &mut self.rate else { return true };
        if rate.take(now) {
            return true;
        }
        if !self.wake_is_set
            && let Some(at) = rate.next_at()
        {
            self.wake_is_set = true;
            self.errands.push(Errand::WakeAt(at));
        }
        false
    }

    /// The wake that was asked for.
    pub(super) fn wake(&mut self, now: Instant) {
        self.wake_is_set = false;
        self.hand_out(now);
    }

    fn ask_for_page(&mut self) {
        while self.rows_wanted
            && let Some(fetch) = self.tasks.next_fetch(&mut self.last_number)
        {
            self.errands.push(Errand::Fetch(fetch));
        }
    }

    fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    fn waiting_tasks(&self) -> u64 {
        (self.tasks.len() + self.in_sticky.len()) as u64
    }

    // Upkeep.

    pub(super) fn sweep(&mut self, now: Instant) {
        let deserted: Vec<String> = self
            .sticky
            .iter()
            .filter(|(_, sticky)| !sticky.tasks.is_empty() || !sticky.line.queries.is_empty())
            .filter(|(_, sticky)| !sticky.line.has_recent_poller(now, limits::STICKY_POLLER_WINDOW))
            .map(|(name, _)| name.clone())
            .collect();
        for name in deserted {
            self.close_sticky(&name, now);
        }
        self.sticky.retain(|_, sticky| {
            sticky.line.sweep(now);
            sticky.line.has_recent_poller(now, limits::QUEUE_IDLE_MAX) || !sticky.line.queries.is_empty()
        });
        self.line.sweep(now);
        self.tasks.sweep(now);
        self.ask_for_page();
    }

    /// Whether the queue can be forgotten: the tasks that wait in it have rows, and are found again when somebody polls.
    pub(super) fn is_idle(&self, now: Instant) -> bool {
        self.errands.is_empty()
            && self.sticky.is_empty()
            && self.leased.is_empty()
            && self.leased_queries.is_empty()
            && self.line.queries.is_empty()
            && !self.line.has_polls()
            && now.duration_since(self.last_used) > limits::QUEUE_IDLE_MAX
    }

    pub(super) fn describe(&mut self, sticky: Option<&str>, now: Instant) -> QueueDescription {
        if let Some(sticky) = sticky.and_then(|name| self.sticky.get(name)) {
            let oldest = sticky.tasks.keys().map(|position| position.scheduled_time).min();
            return QueueDescription {
                pollers: sticky.line.pollers(now),
                backlog: sticky.tasks.len() as u64,
                backlog_age: oldest.map_or(Duration::ZERO, |time| Duration::from_secs_f64(age(time))),
                ..QueueDescription::default()
            };
        }
        QueueDescription {
            pollers: self.line.pollers(now),
            backlog: self.waiting_tasks(),
            backlog_age: self.tasks.oldest().map_or(Duration::ZERO, |time| Duration::from_secs_f64(age(time))),
            add_rate: self.added.per_second(now),
            dispatch_rate: self.dispatched.per_second(now),
        }
    }
}

/// Seconds since a task was scheduled, by the wall clock.
fn age(scheduled: Time) -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = Time(i64::try_from(now.as_nanos()).unwrap_or(i64::MAX));
    now.since(scheduled).as_secs_f64()
}
