//! One queue: its tasks, its pollers, its sticky lines, and who gets what.
//!
//! Nothing here locks, waits or spawns. What has to happen later, or outside of the lock, is left as an [`Errand`] for the
//! caller. What is done to tasks, queries and polls is in files of their own; here is who gets what.

mod polls;
mod queries;
mod tasks;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use everlog_kernel::Time;
use everlog_kernel::transition::QueryTask;
use everlog_model::{FastMap, QueueId, WorkflowRef, limits};
use everlog_storage::GroupId;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::describe::Flow;
use super::line::{Line, Meters};
use super::rates::{RateLimit, RateSource};
use super::scaling::{Standing, Waited};
use super::tasks::{Fetch, Position, TaskBounds, Tasks, WaitingTask};
use super::{QueueSettings, ScalingHint, ScalingRules};

/// What a lease is on.
#[derive(Clone, Copy, Debug)]
pub(super) enum Held {
    Task { place: Place, lease: u64 },
    Query { query_id: u64, lease: u64 },
}

/// A normal queue and the sticky queues in front of it.
pub(super) struct Queue {
    id: Arc<QueueId>,
    line: Line,
    tasks: Tasks,
    sticky: FastMap<String, StickyLine>,
    /// In which sticky line a task waits. Mostly empty: sticky workers are waiting when their task comes.
    in_sticky: FastMap<Position, String>,
    leased: FastMap<Place, LeasedTask>,
    leased_queries: FastMap<u64, LeasedQuery>,
    /// Whether rows are read at all: nobody has asked for the tasks of a queue that was only offered some.
    rows_wanted: bool,
    rate: RateLimit,
    /// When the next wake comes that is on its way, for when limits let the next task through.
    wake_at: Option<Instant>,
    flow: Flow,
    last_used: Instant,
    last_number: u64,
    meters: Meters,
    errands: Vec<Errand>,
}

/// The sticky queue of a worker process.
#[derive(Default)]
struct StickyLine {
    line: Line,
    /// By priority and age, whatever their lanes: they are all for one worker.
    tasks: BTreeMap<(u8, Time, Position), WaitingTask>,
    flow: Flow,
}

impl StickyLine {
    /// The task of a partition, if it is that which stands there.
    fn task(&self, partition: GroupId, position: &Position) -> Option<&WaitingTask> {
        self.tasks.get(&in_line(*position)).filter(|task| task.partition == partition)
    }
}

/// Where a task stands in a sticky line.
fn in_line(position: Position) -> (u8, Time, Position) {
    (position.priority, position.scheduled_time, position)
}

/// Where a task stands, and in which partition: while its slot moves from one to another, both may have it.
type Place = (GroupId, Position);

struct LeasedTask {
    lease: u64,
    /// Whether it counts for the share of its lane.
    is_charged: bool,
    task: WaitingTask,
    /// Offered once more while it was out: if the lease ends well, this is what comes next.
    offered_again: Option<WaitingTask>,
}

/// What waits in a queue.
pub(super) struct Everything {
    pub(super) tasks: Vec<(Position, WaitingTask)>,
    pub(super) queries: Vec<(WorkflowRef, QueryTask)>,
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
    /// The queue is not at home here.
    Elsewhere,
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
    pub(super) scaling: Option<ScalingHint>,
    lease: u64,
}

pub(super) struct GrantedQuery {
    pub(super) queue: Arc<QueueId>,
    pub(super) polled_name: String,
    pub(super) address: WorkflowRef,
    pub(super) query: QueryTask,
    pub(super) scaling: Option<ScalingHint>,
    lease: u64,
}

impl Grant {
    /// Has the worker be told, too, whether to poll more or less.
    fn with(mut self, hint: Option<ScalingHint>) -> Grant {
        match &mut self {
            Grant::Task(grant) => grant.scaling = hint,
            Grant::Query(grant) => grant.scaling = hint,
        }
        self
    }

    pub(super) fn held(&self) -> Held {
        match self {
            Grant::Task(grant) => grant.held(),
            Grant::Query(grant) => grant.held(),
        }
    }
}

impl GrantedTask {
    pub(super) fn held(&self) -> Held {
        Held::Task { place: (self.task.partition, self.position), lease: self.lease }
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
        bounds: TaskBounds,
        meters: Meters,
        first_number: u64,
        settings: QueueSettings,
        now: Instant,
    ) -> Queue {
        Queue {
            id,
            line: Line::default(),
            rate: RateLimit::new(settings.per_second, now),
            tasks: Tasks::new(bounds, settings),
            sticky: FastMap::default(),
            in_sticky: FastMap::default(),
            leased: FastMap::default(),
            leased_queries: FastMap::default(),
            rows_wanted: false,
            wake_at: None,
            flow: Flow::default(),
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

    // Who gets what.

    /// Serves the polls of the normal queue for as long as there is something for them.
    fn hand_out(&mut self, now: Instant) {
        while self.line.has_polls() {
            let Some(grant) = self.next_normal(now) else { return };
            // Queries never wait where polls do.
            let has_waited = matches!(grant, Grant::Task(_));
            self.grant_normal(grant, has_waited, now);
        }
    }

    /// Gives the poll that waits longest a task which `has_waited`, or has just come.
    fn grant_normal(&mut self, grant: Grant, has_waited: bool, now: Instant) {
        let Some(poll) = self.line.next_poll(now) else { return };
        let waited = Waited { poll: now.duration_since(poll.since), task: has_waited };
        let hint = self.hint(None, &poll.scaling, waited, now);
        // A receiver goes only after its poll has left the line, so it is there.
        let _ = poll.sender.send(grant.with(hint));
    }

    fn hand_out_sticky(&mut self, name: &str, now: Instant) {
        while self.sticky.get(name).is_some_and(|sticky| sticky.line.has_polls()) {
            let Some(grant) = self.next_sticky(name, now) else { return };
            let poll = self.sticky.get_mut(name).and_then(|sticky| sticky.line.next_poll(now));
            if let Some(poll) = poll {
                // Where polls wait, no task does: this one has just come.
                let waited = Waited { poll: now.duration_since(poll.since), task: false };
                let hint = self.hint(Some(name), &poll.scaling, waited, now);
                let _ = poll.sender.send(grant.with(hint));
            }
        }
    }

    /// What a poll of the normal queue gets: a query, since somebody waits for it, or the first task, if the rate allows.
    fn next_normal(&mut self, now: Instant) -> Option<Grant> {
        if let Some((_, (address, query))) = self.line.queries.pop_first() {
            return Some(self.lease_query(address, query, None));
        }
        if self.tasks.is_empty() {
            return None;
        }
        let Some(lane) = self.tasks.choose(now) else {
            self.wake_by(self.tasks.next_ready());
            return None;
        };
        if !self.take_token(now) {
            return None;
        }
        let (position, task) = self.tasks.pop_first(lane, now)?;
        self.ask_for_page();
        Some(self.lease_task(position, task, None, now))
    }

    fn next_sticky(&mut self, name: &str, now: Instant) -> Option<Grant> {
        let sticky = self.sticky.get_mut(name)?;
        if let Some((_, (address, query))) = sticky.line.queries.pop_first() {
            return Some(self.lease_query(address, query, Some(name)));
        }
        let ((_, _, position), task) = sticky.tasks.pop_first()?;
        self.in_sticky.remove(&position);
        Some(self.lease_task(position, task, Some(name), now))
    }

    /// Whether the worker of a poll of a line is to poll more or less, from what is left of tasks.
    fn hint(
        &mut self,
        sticky: Option<&str>,
        rules: &ScalingRules,
        waited: Waited,
        now: Instant,
    ) -> Option<ScalingHint> {
        let is_old = |position: &Position| age(position.scheduled_time) > rules.backlog_age.as_secs_f64();
        let standing = |flow: &mut Flow, is_limited, has_backlog| {
            let (added, dispatched) = flow.per_second(now);
            Standing { is_limited, has_backlog, added, dispatched }
        };
        match sticky {
            None => {
                let (rate, flow, tasks) = (&mut self.rate, &mut self.flow, &self.tasks);
                self.line
                    .hint(rules, waited, now, || standing(flow, rate.is_exhausted(now), tasks.positions().any(is_old)))
            }
            Some(name) => {
                let StickyLine { line, tasks, flow } = self.sticky.get_mut(name)?;
                let mut positions = tasks.keys().map(|(_, _, position)| position);
                line.hint(rules, waited, now, || standing(flow, false, positions.any(is_old)))
            }
        }
    }

    fn lease_task(&mut self, position: Position, task: WaitingTask, sticky: Option<&str>, now: Instant) -> Grant {
        let lease = self.next_number();
        let is_charged = sticky.is_none();
        let place = (task.partition, position);
        self.leased.insert(place, LeasedTask { lease, is_charged, task: task.clone(), offered_again: None });
        self.flow.count_dispatched(position.priority, now);
        if let Some(line) = sticky.and_then(|name| self.sticky.get_mut(name)) {
            line.flow.count_dispatched(position.priority, now);
        }
        self.meters.dispatched.increment(1);
        self.meters.schedule_to_start.record(age(position.scheduled_time));
        let backlog = self.waiting_tasks(sticky);
        let polled_name = sticky.unwrap_or(&self.id.name).to_owned();
        Grant::Task(GrantedTask { queue: self.id.clone(), polled_name, position, task, backlog, scaling: None, lease })
    }

    fn lease_query(&mut self, address: WorkflowRef, query: QueryTask, sticky: Option<&str>) -> Grant {
        let lease = self.next_number();
        let leased = LeasedQuery { lease, address: address.clone(), query: query.clone(), offered_again: None };
        self.leased_queries.insert(query.query_id, leased);
        let polled_name = sticky.unwrap_or(&self.id.name).to_owned();
        Grant::Query(GrantedQuery { queue: self.id.clone(), polled_name, address, query, scaling: None, lease })
    }

    /// Whether the rate limit lets a task through. If not, a wake is set for when it will.
    fn take_token(&mut self, now: Instant) -> bool {
        if self.rate.take(now) {
            return true;
        }
        self.wake_by(self.rate.next_at());
        false
    }

    /// Sets a wake, unless one comes earlier.
    fn wake_by(&mut self, at: Option<Instant>) {
        if let Some(at) = at
            && self.wake_at.is_none_or(|set| at < set)
        {
            self.wake_at = Some(at);
            self.errands.push(Errand::WakeAt(at));
        }
    }

    /// What the settings of the queue say from here on.
    pub(super) fn configure(&mut self, settings: QueueSettings, now: Instant) {
        self.rate.set_api(settings.per_second, now);
        self.tasks.configure(settings, now);
        // The wake that may be set is one for the old rate.
        self.wake_at = None;
        self.hand_out(now);
    }

    /// Tasks per second that the queue hands out at most, and who says so.
    pub(super) fn effective_rate(&self) -> (f64, RateSource) {
        self.rate.effective()
    }

    /// The wake that was asked for.
    pub(super) fn wake(&mut self, now: Instant) {
        self.wake_at = None;
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

    /// Tasks that wait in a sticky line, or in none. Workers that are told of some in their sticky queue poll that one alone.
    fn waiting_tasks(&self, sticky: Option<&str>) -> u64 {
        let waiting = match sticky {
            None => self.tasks.len(),
            Some(name) => self.sticky.get(name).map_or(0, |sticky| sticky.tasks.len()),
        };
        waiting as u64
    }

    /// Where the tasks stand that wait in a sticky line, or in the queue with all of its sticky lines.
    pub(super) fn positions(&self, sticky: Option<&str>) -> impl Iterator<Item = &Position> {
        let in_line = sticky.and_then(|name| self.sticky.get(name)).into_iter().flat_map(|line| line.tasks.keys());
        let in_line = in_line.map(|(_, _, position)| position);
        let in_queue = sticky.is_none().then(|| self.tasks.positions().chain(self.in_sticky.keys()));
        in_line.chain(in_queue.into_iter().flatten())
    }

    pub(super) fn flow_mut(&mut self) -> &mut Flow {
        &mut self.flow
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
}

/// Seconds since a task was scheduled, by the wall clock.
pub(super) fn age(scheduled: Time) -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = Time(i64::try_from(now.as_nanos()).unwrap_or(i64::MAX));
    now.since(scheduled).as_secs_f64()
}
