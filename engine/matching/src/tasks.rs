//! The tasks that wait in a normal queue, as far as they are in memory.
//!
//! Every task is a row of its partition, and the tasks of each fairness key, a *lane*, lie next to each other there. Memory holds the
//! first ones of each lane, in order, so that no key keeps those of others out, however many tasks it has. A lane whose tasks are not
//! all in memory is *behind*:
//!
//! ```text
//!   rows:    a b c d e f g h i j k l …
//!   memory:  a b c d e
//!                    └ behind.after: what stands behind it is read, page by page, when memory runs low
//! ```
//!
//! What is offered behind the mark is left to its row: keeping it would let it overtake. Once the reading comes to its end
//! (`Behind::accepting`) offers are kept again, and a page that is empty although nothing was left out in the
//! meantime says that all is in memory. Because a workflow task may be offered shortly before its row is there, the rows are read
//! once more a while later.
//!
//! Which lanes there are is found out by a *search*, which reads the first rows of one and goes on behind its last:
//!
//! ```text
//!   rows:    a a a a a a a a a a a a b c c c c c c c c d
//!   search:  └──────────┘└ lane a ends │                     pages of 4 rows: a a a a, b c c c, d
//!                        └─────────────▶└─────┘ ──────▶└
//! ```
//!
//! Memory for tasks is shared: where it is full, the fullest lane leaves its last task to its row. There are at most so many lanes of a
//! partition in memory; tasks of others stay rows until one of these has none left, and then the search goes on from where it stopped, so
//! that each has its turn.

mod lane;

use std::collections::BTreeMap;

use everlog_kernel::transition::Task;
pub(super) use everlog_kernel::transition::TaskPosition as Position;
use everlog_kernel::{EntityKind, Lane, Weight};
use everlog_model::{WorkflowRef, limits};
use everlog_proto::api::deployment::v1::WorkerDeploymentVersion;
use everlog_storage::GroupId;
use tokio::time::Instant;

use self::lane::LaneTasks;
use super::QueueSettings;
use super::shares::Shares;

/// A task that waits: what its position does not say.
#[derive(Clone, Debug)]
pub(super) struct WaitingTask {
    pub(super) partition: GroupId,
    pub(super) address: WorkflowRef,
    pub(super) attempt: i32,
    pub(super) sticky: Option<String>,
    pub(super) version: Option<Box<WorkerDeploymentVersion>>,
    pub(super) entity: EntityKind,
    pub(super) weight: Weight,
}

impl WaitingTask {
    pub(super) fn new(partition: GroupId, address: WorkflowRef, task: Task) -> (Position, WaitingTask) {
        let Task { key, attempt, sticky, version, entity, weight } = task;
        (key.position, WaitingTask { partition, address, attempt, sticky, version, entity, weight })
    }
}

/// What bounds the memory of a queue, of each partition.
#[derive(Clone, Copy, Debug)]
pub(super) struct TaskBounds {
    pub(super) tasks: usize,
    /// Fairness keys.
    pub(super) lanes: usize,
}

/// The tasks of one normal queue.
pub(super) struct Tasks {
    /// A handful: a scan beats a map.
    partitions: Vec<PartitionTasks>,
    shares: Shares,
    bounds: TaskBounds,
}

struct PartitionTasks {
    partition: GroupId,
    /// Those without a fairness key.
    unkeyed: LaneTasks,
    /// Those of each key that has any in memory, or is behind.
    keyed: BTreeMap<Lane, Box<LaneTasks>>,
    /// Tasks in memory.
    waiting: usize,
    /// Whether a page may have to be asked for.
    wants_page: bool,
    search: Option<Search>,
    /// The page request of the search that is in flight.
    search_fetch: Option<Fetch>,
    /// When to search once more.
    search_again: Option<Instant>,
    /// The last page could not be had: the next one is asked for by the next sweep.
    is_away: bool,
}

/// Rows may tell of lanes that are not known.
#[derive(Clone, Copy)]
struct Search {
    /// They stand behind this position.
    after: Position,
    /// Whether a task may have been offered whose row is not there yet.
    left_out: bool,
    /// Whether a lane was left out since the search began, for want of room.
    is_full: bool,
    /// Whether it goes on with the next sweep. Rows of tasks that are elsewhere would have it go round and round.
    rests: bool,
}

/// A page of rows to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fetch {
    pub(super) number: u64,
    pub(super) partition: GroupId,
    pub(super) after: Position,
    pub(super) limit: usize,
    /// The lane that is read; `None` for a search.
    lane: Option<Lane>,
}

/// Rows of a page of the search at least, so that it does not look at one lane after the other.
const SEARCH_ROWS_MIN: usize = 64;

/// The rows of a page.
type Page = Vec<(Position, WaitingTask)>;

impl Tasks {
    pub(super) fn new(bounds: TaskBounds, settings: QueueSettings) -> Tasks {
        Tasks { partitions: Vec::new(), shares: Shares::new(settings), bounds }
    }

    pub(super) fn len(&self) -> usize {
        self.partitions.iter().map(|partition| partition.waiting).sum()
    }

    /// Where the tasks in memory stand, partition by partition.
    pub(super) fn positions(&self) -> impl Iterator<Item = &Position> {
        self.partitions.iter().flat_map(PartitionTasks::lanes).flat_map(|lane| lane.waiting.keys())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.partitions.iter().all(|partition| partition.waiting == 0)
    }

    /// What settings say counts from here on.
    pub(super) fn configure(&mut self, settings: QueueSettings, now: Instant) {
        self.shares.configure(settings, now);
    }

    /// A partition has a lead: which tasks wait there is told by its rows, and by what the lead offers from now on. With `left_out`
    /// an offer may have been missed whose row is not there yet.
    pub(super) fn open(&mut self, partition: GroupId, left_out: bool) {
        let tasks = self.partition(partition);
        (tasks.is_away, tasks.wants_page) = (false, true);
        tasks.unkeyed.read_from_the_start(Lane::NONE, left_out);
        tasks.keyed.iter_mut().for_each(|(lane, tasks)| tasks.read_from_the_start(*lane, left_out));
        tasks.search = Some(Search { after: Position::end_of(Lane::NONE), left_out, is_full: false, rests: false });
        tasks.search_again = None;
    }

    /// As [`Tasks::open`] of a partition that cannot be reached just now.
    pub(super) fn open_later(&mut self, partition: GroupId) {
        self.open(partition, true);
        self.partition(partition).is_away = true;
    }

    /// Whether the first page of some partition's rows is still to be read.
    pub(super) fn is_unread(&self) -> bool {
        let is_unread = |partition: &PartitionTasks| {
            partition.is_searching(self.bounds.lanes) || partition.lanes().any(LaneTasks::is_unread)
        };
        self.partitions.iter().any(is_unread)
    }

    pub(super) fn get_mut(&mut self, partition: GroupId, position: &Position) -> Option<&mut WaitingTask> {
        let tasks = self.partitions.iter_mut().find(|tasks| tasks.partition == partition)?;
        tasks.lane_mut(position.lane)?.waiting.get_mut(position)
    }

    /// Takes in a new task, or leaves it to its row.
    pub(super) fn offer(&mut self, position: Position, task: WaitingTask) {
        let bounds = self.bounds;
        let partition = self.partition(task.partition);
        if partition.make_lane(position.lane, bounds.lanes)
            && partition.lane_mut(position.lane).is_some_and(|lane| lane.accepts(&position))
        {
            let shrunk = partition.keep(position, task, bounds.tasks);
            self.refresh([Some(position.lane), shrunk]);
        }
    }

    /// Takes in a task that was out of the queue. It is kept even where a new one would be left to its row, since the reading
    /// of rows may have passed by it in the meantime.
    pub(super) fn put_back(&mut self, position: Position, task: WaitingTask) {
        let bounds = self.bounds;
        let partition = self.partition(task.partition);
        // There are no more of these than there were polls.
        partition.make_lane(position.lane, usize::MAX);
        let shrunk = partition.keep(position, task, bounds.tasks);
        self.refresh([Some(position.lane), shrunk]);
    }

    /// A task was started, or is not there any more: a row that still tells of it is overlooked.
    pub(super) fn settle(&mut self, partition: GroupId, position: Position, attempt: i32) {
        let max = self.bounds.tasks;
        let known = self.partitions.iter_mut().find(|tasks| tasks.partition == partition);
        if let Some(lane) = known.and_then(|tasks| tasks.lane_mut(position.lane)) {
            lane.settle(position, attempt, max);
        }
    }

    /// The lane that has its turn; `None` if nothing waits, or nothing that may be handed out yet.
    pub(super) fn choose(&mut self, now: Instant) -> Option<Lane> {
        self.shares.choose(now)
    }

    /// When something may be handed out that may not yet.
    pub(super) fn next_ready(&self) -> Option<Instant> {
        self.shares.next_ready()
    }

    /// Whether a task of a lane may be handed out, while none waits.
    pub(super) fn may_pass(&mut self, lane: Lane, now: Instant) -> bool {
        self.shares.is_within_limit(lane, now)
    }

    /// A task is handed out that has not waited.
    pub(super) fn passes(&mut self, position: &Position, weight: Weight, now: Instant) {
        self.shares.charge(position.lane, position.priority, weight, now);
    }

    /// A task comes back that was handed out.
    pub(super) fn refund(&mut self, position: &Position, weight: Weight) {
        self.shares.refund(position.lane, position.priority, weight);
    }

    /// Hands out the first task of a lane, of all partitions.
    pub(super) fn pop_first(&mut self, lane: Lane, now: Instant) -> Option<(Position, WaitingTask)> {
        let bounds = self.bounds;
        let first = |tasks: &PartitionTasks| Some((tasks.lane(lane)?.first()?, tasks.partition));
        let (position, partition) = self.partitions.iter().filter_map(first).min()?;
        let partition = self.partition(partition);
        let (_, task) = partition.lane_mut(lane)?.waiting.pop_first()?;
        partition.waiting -= 1;
        let low = partition.share(bounds) / 4;
        partition.wants_page |= partition.lane(lane).is_some_and(|tasks| tasks.is_low(low));
        self.shares.charge(lane, position.priority, task.weight, now);
        self.refresh([Some(lane), None]);
        Some((position, task))
    }

    /// Takes out all tasks.
    pub(super) fn take_all(&mut self) -> Vec<(Position, WaitingTask)> {
        let mut tasks = Vec::new();
        for partition in &mut self.partitions {
            partition.waiting = 0;
            for lane in partition.lanes_mut() {
                tasks.extend(std::mem::take(&mut lane.waiting));
            }
        }
        self.refresh_all();
        tasks.sort_by_key(|(position, _)| (position.priority, position.scheduled_time));
        tasks
    }

    pub(super) fn forget_partition(&mut self, partition: GroupId) {
        self.partitions.retain(|tasks| tasks.partition != partition);
        self.refresh_all();
    }

    /// A page request that should go out now, if there is one.
    pub(super) fn next_fetch(&mut self, next_number: &mut u64) -> Option<Fetch> {
        let bounds = self.bounds;
        self.partitions.iter_mut().find_map(|partition| partition.next_fetch(bounds, next_number))
    }

    /// A page request failed; the next sweep lets it be repeated.
    pub(super) fn fetch_failed(&mut self, fetch: Fetch) {
        if let Some(partition) = self.partitions.iter_mut().find(|partition| partition.is_fetching(&fetch)) {
            match fetch.lane.and_then(|lane| partition.lane_mut(lane)) {
                Some(lane) => lane.fetch = None,
                None => partition.search_fetch = None,
            }
            partition.is_away = true;
        }
    }

    /// Takes in the rows behind `fetch.after`, without those that `is_elsewhere` (leased, or in a sticky line).
    pub(super) fn take_page(
        &mut self,
        fetch: Fetch,
        page: Page,
        is_elsewhere: impl Fn(&Position, &WaitingTask) -> bool,
        now: Instant,
    ) {
        let bounds = self.bounds;
        let Some(partition) = self.partitions.iter_mut().find(|partition| partition.is_fetching(&fetch)) else {
            return;
        };
        partition.wants_page = true;
        let mut changed = match fetch.lane {
            Some(lane) => partition.take_lane(lane, fetch, page, bounds, is_elsewhere, now),
            None => partition.take_search(fetch, page, bounds, is_elsewhere, now),
        };
        changed.sort_unstable();
        changed.dedup();
        changed.into_iter().for_each(|lane| self.refresh([Some(lane), None]));
    }

    /// Starts the second readings that are due, and lets pages be asked for again that could not be had.
    pub(super) fn sweep(&mut self, now: Instant) {
        for partition in &mut self.partitions {
            (partition.is_away, partition.wants_page) = (false, true);
            partition.lanes_mut().for_each(|lane| lane.sweep(now));
            if let Some(search) = &mut partition.search {
                search.rests = false;
            }
            if partition.search_again.is_some_and(|at| at <= now) && partition.search.is_none() {
                partition.search_again = None;
                partition.keyed.iter_mut().for_each(|(lane, tasks)| tasks.read_again(*lane));
                partition.search =
                    Some(Search { after: Position::end_of(Lane::NONE), left_out: false, is_full: false, rests: false });
            }
        }
        self.shares.sweep();
    }

    fn partition(&mut self, partition: GroupId) -> &mut PartitionTasks {
        let index = self.partitions.iter().position(|tasks| tasks.partition == partition);
        let index = index.unwrap_or_else(|| {
            self.partitions.push(PartitionTasks {
                partition,
                unkeyed: LaneTasks::default(),
                keyed: BTreeMap::new(),
                waiting: 0,
                wants_page: true,
                search: None,
                search_fetch: None,
                search_again: None,
                is_away: false,
            });
            self.partitions.len() - 1
        });
        &mut self.partitions[index]
    }

    /// The first tasks of lanes may be others than before.
    fn refresh(&mut self, lanes: [Option<Lane>; 2]) {
        for lane in lanes.into_iter().flatten() {
            let first = self.partitions.iter().filter_map(|partition| partition.lane(lane)?.first()).min();
            self.shares.set_head(lane, first.map(|first| first.priority));
            if first.is_none() && lane != Lane::NONE {
                self.partitions.iter_mut().for_each(|partition| partition.forget_if_done(lane));
            }
        }
    }

    /// The same of all lanes.
    fn refresh_all(&mut self) {
        let mut lanes: Vec<Lane> = self.shares.keyed().collect();
        lanes.push(Lane::NONE);
        lanes.extend(self.partitions.iter().flat_map(|partition| partition.keyed.keys().copied()));
        lanes.sort_unstable();
        lanes.dedup();
        lanes.into_iter().for_each(|lane| self.refresh([Some(lane), None]));
    }
}

impl PartitionTasks {
    fn lane(&self, lane: Lane) -> Option<&LaneTasks> {
        match lane {
            Lane::NONE => Some(&self.unkeyed),
            _ => self.keyed.get(&lane).map(|tasks| &**tasks),
        }
    }

    fn lane_mut(&mut self, lane: Lane) -> Option<&mut LaneTasks> {
        match lane {
            Lane::NONE => Some(&mut self.unkeyed),
            _ => self.keyed.get_mut(&lane).map(|tasks| &mut **tasks),
        }
    }

    fn lanes(&self) -> impl Iterator<Item = &LaneTasks> {
        std::iter::once(&self.unkeyed).chain(self.keyed.values().map(|tasks| &**tasks))
    }

    fn lanes_mut(&mut self) -> impl Iterator<Item = &mut LaneTasks> {
        std::iter::once(&mut self.unkeyed).chain(self.keyed.values_mut().map(|tasks| &mut **tasks))
    }

    /// Sees to it that a lane is known, if there is room for it.
    fn make_lane(&mut self, lane: Lane, lanes_max: usize) -> bool {
        if self.lane(lane).is_some() {
            return true;
        }
        if self.keyed.len() >= lanes_max {
            // It is found when it has its turn, or once more when its row is surely there.
            let start = Search { after: Position::end_of(Lane::NONE), left_out: true, is_full: true, rests: false };
            let search = self.search.get_or_insert(start);
            (search.left_out, search.is_full) = (true, true);
            return false;
        }
        let tasks = match self.search {
            Some(search) => LaneTasks::unread(lane, search.left_out),
            // No row tells of a task that is not known.
            None => LaneTasks::default(),
        };
        self.keyed.insert(lane, Box::new(tasks));
        self.wants_page = true;
        true
    }

    fn forget_if_done(&mut self, lane: Lane) {
        if self.keyed.get(&lane).is_some_and(|tasks| tasks.is_done()) {
            self.keyed.remove(&lane);
            self.wants_page |= self.search.is_some();
        }
    }

    /// Keeps a task, whose lane is known. Where memory is full, the fullest lane leaves its last one to its row: that one is returned.
    fn keep(&mut self, position: Position, task: WaitingTask, tasks_max: usize) -> Option<Lane> {
        let is_new = self.lane_mut(position.lane)?.waiting.insert(position, task).is_none();
        self.waiting += usize::from(is_new);
        if self.waiting <= tasks_max {
            return None;
        }
        let keyed = self.keyed.iter().map(|(lane, tasks)| (tasks.waiting.len(), *lane));
        let (_, fullest) = std::iter::once((self.unkeyed.waiting.len(), Lane::NONE)).chain(keyed).max()?;
        self.lane_mut(fullest)?.leave_last();
        self.waiting -= 1;
        Some(fullest)
    }

    /// Whether the search for lanes goes on: there is room for what it finds.
    fn is_searching(&self, lanes_max: usize) -> bool {
        self.search.is_some_and(|search| !search.rests) && self.keyed.len() < lanes_max
    }

    fn is_fetching(&self, fetch: &Fetch) -> bool {
        let fetching = match fetch.lane {
            Some(lane) => self.lane(lane).and_then(|lane| lane.fetch.as_ref()),
            None => self.search_fetch.as_ref(),
        };
        fetching == Some(fetch)
    }

    /// The next page that should be read, if there is one: of a lane that has few tasks left, or of the search.
    fn next_fetch(&mut self, bounds: TaskBounds, next_number: &mut u64) -> Option<Fetch> {
        if self.is_away || !self.wants_page {
            return None;
        }
        let (partition, share) = (self.partition, self.share(bounds));
        // With more lanes than tasks have room, one that is empty would only take the place of another.
        let low = (share > 1 || self.waiting < bounds.tasks).then_some(share / 4);
        let mut fetch_of = |lane: Option<Lane>, after: Position, limit: usize| {
            *next_number += 1;
            Fetch { number: *next_number, partition, after, limit: limit.clamp(1, limits::TASK_PAGE_ROWS), lane }
        };
        for tasks in self.lanes_mut() {
            if low.is_some_and(|low| tasks.is_low(low))
                && let Some(after) = tasks.behind.as_ref().map(|behind| behind.after)
            {
                let fetch = fetch_of(Some(after.lane), after, share - tasks.waiting.len());
                tasks.ask(fetch);
                return Some(fetch);
            }
        }
        // Where nothing waits at all, the first page says so of all lanes.
        if self.search_fetch.is_none() && self.unkeyed.fetch.is_none() && self.is_searching(bounds.lanes) {
            let fetch = fetch_of(None, self.search?.after, share.max(SEARCH_ROWS_MIN));
            self.search_fetch = Some(fetch);
            return Some(fetch);
        }
        self.wants_page = false;
        None
    }

    /// Tasks that a lane has room for in memory, if all have as many.
    fn share(&self, bounds: TaskBounds) -> usize {
        (bounds.tasks / (1 + self.keyed.len())).max(1)
    }

    /// Takes in a page of a lane's rows, behind which those of others may stand. Returns the lanes that this has changed.
    fn take_lane(
        &mut self,
        lane: Lane,
        fetch: Fetch,
        mut page: Page,
        bounds: TaskBounds,
        is_elsewhere: impl Fn(&Position, &WaitingTask) -> bool,
        now: Instant,
    ) -> Vec<Lane> {
        let mut changed = vec![lane];
        let is_the_end_of_all = page.is_empty();
        let rows = page.len();
        page.retain(|(position, _)| position.lane == lane);
        let is_the_end = page.is_empty() || page.len() < rows;
        let last = page.last().map_or(fetch.after, |(last, _)| *last);
        if !self.lane_mut(lane).is_some_and(|tasks| tasks.take(&fetch, last)) {
            return changed;
        }
        self.keep_rows(page, bounds.tasks, is_elsewhere, &mut changed);
        if is_the_end && let Some(tasks) = self.lane_mut(lane) {
            tasks.reached_the_end(last, now);
        }
        if is_the_end_of_all
            && self.search_fetch.is_none()
            && self.search.is_some_and(|search| search.after.lane >= lane)
        {
            self.search_ended(now);
        }
        changed
    }

    /// Takes in the first rows of lanes that are not known yet. Returns the lanes that this has changed.
    fn take_search(
        &mut self,
        fetch: Fetch,
        page: Page,
        bounds: TaskBounds,
        is_elsewhere: impl Fn(&Position, &WaitingTask) -> bool,
        now: Instant,
    ) -> Vec<Lane> {
        let mut changed = Vec::new();
        self.search_fetch = None;
        // It may have begun anew in the meantime.
        let Some(search) = self.search.filter(|search| search.after == fetch.after) else { return changed };
        if page.is_empty() {
            self.search_ended(now);
        }
        let mut lanes: Vec<Page> = Vec::new();
        for row in page {
            match lanes.last_mut().filter(|rows| rows[0].0.lane == row.0.lane) {
                Some(rows) => rows.push(row),
                None => lanes.push(vec![row]),
            }
        }
        let mut lanes = lanes.into_iter().peekable();
        while let Some(rows) = lanes.next() {
            let Some(last) = rows.last().map(|(last, _)| *last) else { continue };
            let lane = last.lane;
            changed.push(lane);
            if self.lane(lane).is_none() {
                if self.keyed.len() >= bounds.lanes {
                    if let Some(search) = &mut self.search {
                        search.is_full = true;
                    }
                    return changed;
                }
                self.keyed.insert(lane, Box::new(LaneTasks::read_up_to(last, search.left_out)));
                self.keep_rows(rows, bounds.tasks, &is_elsewhere, &mut changed);
                // With those of another lane behind them, they are all of it.
                if lanes.peek().is_some()
                    && let Some(tasks) = self.lane_mut(lane)
                {
                    tasks.reached_the_end(last, now);
                }
            }
            if let Some(search) = &mut self.search {
                search.after = Position::end_of(lane);
            }
        }
        changed
    }

    fn keep_rows(
        &mut self,
        page: Page,
        tasks_max: usize,
        is_elsewhere: impl Fn(&Position, &WaitingTask) -> bool,
        changed: &mut Vec<Lane>,
    ) {
        for (position, task) in page {
            let known = self.lane(position.lane).is_none_or(|lane| lane.knows(&position, task.attempt));
            if !known && !is_elsewhere(&position, &task) {
                changed.extend(self.keep(position, task, tasks_max));
            }
        }
    }

    /// No row stands behind those that were found. If lanes were left out, their turn comes with the next sweep.
    fn search_ended(&mut self, now: Instant) {
        let Some(search) = self.search.take() else { return };
        if search.is_full {
            self.search = Some(Search { after: Position::end_of(Lane::NONE), is_full: false, rests: true, ..search });
        } else if search.left_out {
            self.search_again = Some(now + limits::BACKLOG_SETTLE);
        }
    }
}
