//! Tasks: offered, leased and given back, and read from rows.

use everlog_kernel::transition::Task;
use everlog_model::{WorkflowRef, limits};
use everlog_storage::GroupId;
use tokio::time::Instant;

use super::super::tasks::{Fetch, Position, Tasks, WaitingTask};
use super::{Everything, LeasedTask, Place, Queue, in_line};

impl Queue {
    pub(crate) fn offer(&mut self, position: Position, task: WaitingTask, now: Instant) {
        self.last_used = now;
        self.meters.offered.increment(1);
        if let Some(leased) = self.leased.get_mut(&(task.partition, position))
            && leased.task.attempt == task.attempt
        {
            leased.offered_again = Some(task);
            return;
        }
        if let Some(name) = self.in_sticky.get(&position) {
            let same_line = task.sticky.as_ref() == Some(name);
            let known = self.in_sticky(task.partition, &position);
            if same_line && known.is_some_and(|known| known.attempt == task.attempt) {
                return;
            }
            self.remove_from_sticky(&position);
        } else if let Some(known) = self.tasks.get_mut(task.partition, &position) {
            *known = task;
            return;
        }
        self.flow.count_added(position.priority, now);
        if let Some(task) = self.place_in_sticky(position, task, now) {
            self.place(position, task, now, Tasks::offer);
        }
    }

    /// Hands a task of the normal queue to the poll that waits longest, or keeps it in the way that is given.
    pub(super) fn place(
        &mut self,
        position: Position,
        task: WaitingTask,
        now: Instant,
        keep: fn(&mut Tasks, Position, WaitingTask),
    ) {
        if self.line.has_polls()
            && self.tasks.is_empty()
            && self.tasks.may_pass(position.lane, now)
            && self.take_token(now)
        {
            self.tasks.passes(&position, task.weight, now);
            let grant = self.lease_task(position, task, None, now);
            self.grant_normal(grant, false, now);
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
            sticky.flow.count_added(position.priority, now);
            sticky.tasks.insert(in_line(position), task);
        }
        self.hand_out_sticky(&name, now);
        None
    }

    /// The task of a partition that stands in a sticky line.
    fn in_sticky(&self, partition: GroupId, position: &Position) -> Option<&WaitingTask> {
        self.sticky.get(self.in_sticky.get(position)?)?.task(partition, position)
    }

    fn remove_from_sticky(&mut self, position: &Position) -> Option<WaitingTask> {
        let name = self.in_sticky.remove(position)?;
        self.sticky.get_mut(&name)?.tasks.remove(&in_line(*position))
    }

    /// A lease was dropped: its task is ready as before, and is to be put back.
    pub(crate) fn take_back_task(&mut self, place: Place, lease: u64, now: Instant) -> Option<WaitingTask> {
        let leased = self.end_lease(&place, lease, now)?;
        if leased.is_charged {
            self.tasks.refund(&place.1, leased.task.weight);
        }
        Some(leased.offered_again.unwrap_or(leased.task))
    }

    /// Takes out everything that waits, because it may be for others from now on.
    pub(crate) fn take_all(&mut self) -> Everything {
        let mut tasks = self.tasks.take_all();
        let mut queries: Vec<_> = std::mem::take(&mut self.line.queries).into_values().collect();
        self.in_sticky.clear();
        for sticky in self.sticky.values_mut() {
            let in_line = std::mem::take(&mut sticky.tasks).into_iter();
            tasks.extend(in_line.map(|((_, _, position), task)| (position, task)));
            queries.extend(std::mem::take(&mut sticky.line.queries).into_values());
        }
        Everything { tasks, queries }
    }

    /// A lease ended well: its task is gone, unless it was offered once more since.
    pub(crate) fn settle_task(&mut self, place: Place, lease: u64, now: Instant) {
        let Some(LeasedTask { task, offered_again, .. }) = self.end_lease(&place, lease, now) else { return };
        let (_, position) = place;
        match offered_again {
            Some(task) => self.put_back(position, task, now),
            None => self.tasks.settle(task.partition, position, task.attempt),
        }
    }

    fn end_lease(&mut self, place: &Place, lease: u64, now: Instant) -> Option<LeasedTask> {
        self.last_used = now;
        // A later lease of the same place is that of a newer attempt.
        self.leased.get(place).filter(|leased| leased.lease == lease)?;
        self.leased.remove(place)
    }

    /// Puts a task where it was, unless a newer attempt is there.
    pub(crate) fn put_back(&mut self, position: Position, task: WaitingTask, now: Instant) {
        let is_in_sticky = self.in_sticky(task.partition, &position).is_some();
        if is_in_sticky || self.tasks.get_mut(task.partition, &position).is_some() {
            // A newer attempt is there.
            return;
        }
        // Another partition may have it in the line, too, because its slot has moved.
        let is_line_free = !self.in_sticky.contains_key(&position);
        let placed = if is_line_free { self.place_in_sticky(position, task, now) } else { Some(task) };
        if let Some(task) = placed {
            self.place(position, task, now, Tasks::put_back);
        }
    }

    /// A partition has a new lead; see [`Tasks::open`].
    pub(crate) fn open_partition(&mut self, partition: GroupId, left_out: bool) {
        self.rows_wanted = self.line.has_polls();
        self.tasks.open(partition, left_out);
        self.ask_for_page();
    }

    /// A partition cannot be reached: its rows are read, but not before the next sweep.
    pub(crate) fn open_partition_later(&mut self, partition: GroupId) {
        self.tasks.open_later(partition);
    }

    /// Somebody wants to know of all tasks, also of those that only rows tell of.
    pub(crate) fn want_rows(&mut self) {
        self.rows_wanted = true;
        self.ask_for_page();
    }

    /// Whether rows tell of more tasks than are known here, and are about to be read.
    pub(crate) fn is_being_read(&self) -> bool {
        self.rows_wanted && self.tasks.is_unread()
    }

    pub(crate) fn forget_partition(&mut self, partition: GroupId) {
        self.tasks.forget_partition(partition);
        self.leased.retain(|(of, _), _| *of != partition);
        for sticky in self.sticky.values_mut() {
            sticky.tasks.retain(|(_, _, position), task| {
                let stays = task.partition != partition;
                if !stays {
                    self.in_sticky.remove(position);
                }
                stays
            });
        }
    }

    /// A page of task rows was read, or could not be. Those that are not `is_here` are for workers of another version.
    pub(crate) fn take_page(
        &mut self,
        fetch: Fetch,
        page: Result<Vec<(WorkflowRef, Task)>, String>,
        is_here: impl Fn(&WaitingTask) -> bool,
        now: Instant,
    ) {
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
        let page = rows.into_iter().map(|(address, task)| WaitingTask::new(partition, address, task)).collect();
        let (leased, in_sticky, sticky) = (&self.leased, &self.in_sticky, &self.sticky);
        let is_elsewhere = |position: &Position, task: &WaitingTask| {
            let leased = leased.get(&(partition, *position));
            let is_leased = leased.is_some_and(|leased| leased.task.attempt >= task.attempt);
            let in_sticky = in_sticky.get(position).and_then(|name| sticky.get(name)?.task(partition, position));
            is_leased || in_sticky.is_some() || !is_here(task)
        };
        self.tasks.take_page(fetch, page, is_elsewhere, now);
        self.hand_out(now);
        self.ask_for_page();
    }
}
