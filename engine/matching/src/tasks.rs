//! The tasks that wait in a normal queue, as far as they are in memory.
//!
//! Every task is a row of its partition; memory holds the first ones of each partition, in order. A partition whose tasks are
//! not all in memory is *behind*:
//!
//! ```text
//!   rows:    a b c d e f g h i j k l …
//!   memory:  a b c d e
//!                    └ behind.after: what stands behind it is read, page by page, when memory runs low
//! ```
//!
//! What is offered behind the mark is left to its row: keeping it would let it overtake. Once the reading comes to its end
//! ([`Behind::accepting`]) offers are kept again, and a page that is empty although nothing was left out in the
//! meantime says that all is in memory. Because a workflow task may be offered shortly before its row is there, the rows are read
//! once more a while later.

use std::collections::BTreeMap;

use everlog_kernel::EntityKind;
pub(super) use everlog_kernel::transition::TaskPosition as Position;
use everlog_model::{WorkflowRef, limits};
use everlog_proto::api::deployment::v1::WorkerDeploymentVersion;
use everlog_storage::GroupId;
use tokio::time::Instant;

/// A task that waits: what its position does not say.
#[derive(Clone, Debug)]
pub(super) struct WaitingTask {
    pub(super) partition: GroupId,
    pub(super) address: WorkflowRef,
    pub(super) attempt: i32,
    pub(super) sticky: Option<String>,
    pub(super) version: Option<Box<WorkerDeploymentVersion>>,
    pub(super) entity: EntityKind,
}

/// The tasks of one normal queue.
pub(super) struct Tasks {
    /// A handful: a scan beats a map.
    partitions: Vec<PartitionTasks>,
    in_memory_max: usize,
}

struct PartitionTasks {
    partition: GroupId,
    waiting: BTreeMap<Position, WaitingTask>,
    behind: Option<Behind>,
    /// The page request in flight.
    fetch: Option<Fetch>,
    /// The last page could not be had: the next one is asked for by the next sweep.
    is_away: bool,
    /// Whether a task was left to its row since the last page was asked for.
    left_out_since_fetch: bool,
    /// When to read the rows behind a position again.
    recheck: Option<(Instant, Position)>,
    /// Tasks that are done with, by their attempt, while rows are read: the start of a task is written late, and until then it has its
    /// row.
    settled: BTreeMap<Position, i32>,
}

/// Some rows are not in memory.
struct Behind {
    /// They stand behind this position.
    after: Position,
    /// Least `after` since the partition fell behind.
    lowest: Position,
    /// Whether offers behind `after` are kept while there is room.
    accepting: bool,
    /// Whether any task was left to its row.
    left_out: bool,
}

/// A page of rows to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fetch {
    pub(super) number: u64,
    pub(super) partition: GroupId,
    pub(super) after: Position,
    pub(super) limit: usize,
}

impl Tasks {
    pub(super) fn new(in_memory_max: usize) -> Tasks {
        Tasks { partitions: Vec::new(), in_memory_max }
    }

    pub(super) fn len(&self) -> usize {
        self.partitions.iter().map(|partition| partition.waiting.len()).sum()
    }

    /// Where the tasks in memory stand, partition by partition.
    pub(super) fn positions(&self) -> impl Iterator<Item = &Position> {
        self.partitions.iter().flat_map(|partition| partition.waiting.keys())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.partitions.iter().all(|partition| partition.waiting.is_empty())
    }

    /// A partition has a lead: which tasks wait there is told by its rows, and by what the lead offers from now on. With `left_out`
    /// an offer may have been missed whose row is not there yet.
    pub(super) fn open(&mut self, partition: GroupId, left_out: bool) {
        let tasks = self.partition(partition);
        tasks.recheck = None;
        tasks.is_away = false;
        tasks.settled.clear();
        tasks.behind = Some(Behind { after: Position::FIRST, lowest: Position::FIRST, accepting: true, left_out });
    }

    /// As [`Tasks::open`] of a partition that cannot be reached just now.
    pub(super) fn open_later(&mut self, partition: GroupId) {
        self.open(partition, true);
        self.partition(partition).is_away = true;
    }

    /// Whether the first page of some partition's rows is still to be read.
    pub(super) fn is_unread(&self) -> bool {
        let is_unread = |behind: &Behind| behind.after == Position::FIRST;
        self.partitions.iter().any(|partition| partition.behind.as_ref().is_some_and(is_unread))
    }

    pub(super) fn get_mut(&mut self, partition: GroupId, position: &Position) -> Option<&mut WaitingTask> {
        let index = self.partitions.iter().position(|tasks| tasks.partition == partition)?;
        self.partitions[index].waiting.get_mut(position)
    }

    /// Takes in a new task, or leaves it to its row.
    pub(super) fn offer(&mut self, position: Position, task: WaitingTask) {
        let max = self.in_memory_max;
        let partition = self.partition(task.partition);
        let last = partition.waiting.last_key_value().map(|(last, _)| *last);
        if let Some(behind) = &mut partition.behind
            && !behind.accepting
            && position > last.map_or(behind.after, |last| last.max(behind.after))
        {
            behind.left_out = true;
            partition.left_out_since_fetch = true;
            return;
        }
        partition.keep(position, task, max);
    }

    /// Takes in a task that was out of the queue. It is kept even where a new one would be left to its row, since the reading
    /// of rows may have passed by it in the meantime.
    pub(super) fn put_back(&mut self, position: Position, task: WaitingTask) {
        let max = self.in_memory_max;
        self.partition(task.partition).keep(position, task, max);
    }

    /// A task was started, or is not there any more: a row that still tells of it is overlooked.
    pub(super) fn settle(&mut self, partition: GroupId, position: Position, attempt: i32) {
        let max = self.in_memory_max;
        let known = self.partitions.iter_mut().find(|tasks| tasks.partition == partition);
        let Some(tasks) = known.filter(|tasks| tasks.behind.is_some() || tasks.recheck.is_some()) else { return };
        if tasks.settled.len() >= max {
            tasks.settled.clear();
        }
        tasks.settled.insert(position, attempt);
    }

    /// The first task of all partitions.
    pub(super) fn pop_first(&mut self) -> Option<(Position, WaitingTask)> {
        let first = self
            .partitions
            .iter_mut()
            .filter_map(|partition| {
                partition.waiting.first_key_value().map(|(position, _)| *position).zip(Some(partition))
            })
            .min_by_key(|(position, _)| *position);
        first?.1.waiting.pop_first()
    }

    pub(super) fn forget_partition(&mut self, partition: GroupId) {
        self.partitions.retain(|tasks| tasks.partition != partition);
    }

    /// A page request that should go out now, if there is one.
    pub(super) fn next_fetch(&mut self, next_number: &mut u64) -> Option<Fetch> {
        let max = self.in_memory_max;
        let low = |partition: &&mut PartitionTasks| {
            partition.behind.is_some()
                && partition.fetch.is_none()
                && !partition.is_away
                && partition.waiting.len() <= max / 4
        };
        let partition = self.partitions.iter_mut().find(low)?;
        let after = partition.behind.as_ref()?.after;
        *next_number += 1;
        let limit = (max - partition.waiting.len()).clamp(1, limits::TASK_PAGE_ROWS);
        let fetch = Fetch { number: *next_number, partition: partition.partition, after, limit };
        partition.fetch = Some(fetch);
        partition.left_out_since_fetch = false;
        Some(fetch)
    }

    /// A page request failed; the next sweep lets it be repeated.
    pub(super) fn fetch_failed(&mut self, fetch: Fetch) {
        if let Some(partition) = self.fetching(fetch) {
            partition.fetch = None;
            partition.is_away = true;
        }
    }

    /// Takes in the rows behind `fetch.after`, without those that `is_elsewhere` (leased, or in a sticky line).
    pub(super) fn take_page(
        &mut self,
        fetch: Fetch,
        page: Vec<(Position, WaitingTask)>,
        is_elsewhere: impl Fn(&Position, &WaitingTask) -> bool,
        now: Instant,
    ) {
        let max = self.in_memory_max;
        let Some(partition) = self.fetching(fetch) else { return };
        partition.fetch = None;
        // When room had to be made in the meantime, the page does not join on to what is in memory.
        let Some(behind) = &mut partition.behind else { return };
        if behind.after != fetch.after {
            return;
        }
        let Some((last, _)) = page.last() else {
            if partition.left_out_since_fetch {
                behind.accepting = true;
            } else {
                partition.caught_up(now);
            }
            return;
        };
        behind.after = *last;
        for (position, task) in page {
            let known = partition.waiting.get(&position).is_some_and(|known| known.attempt >= task.attempt)
                || partition.settled.get(&position).is_some_and(|attempt| *attempt >= task.attempt);
            if !known && !is_elsewhere(&position, &task) {
                partition.keep(position, task, max);
            }
        }
    }

    /// Starts the second readings that are due, and lets pages be asked for again that could not be had.
    pub(super) fn sweep(&mut self, now: Instant) {
        for partition in &mut self.partitions {
            partition.is_away = false;
            if let Some((at, from)) = partition.recheck
                && at <= now
                && partition.behind.is_none()
            {
                partition.recheck = None;
                partition.behind = Some(Behind { after: from, lowest: from, accepting: true, left_out: false });
            }
        }
    }

    fn partition(&mut self, partition: GroupId) -> &mut PartitionTasks {
        let index = self.partitions.iter().position(|tasks| tasks.partition == partition);
        let index = index.unwrap_or_else(|| {
            self.partitions.push(PartitionTasks {
                partition,
                waiting: BTreeMap::new(),
                behind: None,
                fetch: None,
                is_away: false,
                left_out_since_fetch: false,
                recheck: None,
                settled: BTreeMap::new(),
            });
            self.partitions.len() - 1
        });
        &mut self.partitions[index]
    }

    fn fetching(&mut self, fetch: Fetch) -> Option<&mut PartitionTasks> {
        self.partitions.iter_mut().find(|partition| partition.fetch == Some(fetch))
    }
}

impl PartitionTasks {
    /// Keeps a task; when memory is full, the last one is left to its row.
    fn keep(&mut self, position: Position, task: WaitingTask, max: usize) {
        self.waiting.insert(position, task);
        if self.waiting.len() <= max {
            return;
        }
        self.waiting.pop_last();
        self.left_out_since_fetch = true;
        let Some((last, _)) = self.waiting.last_key_value() else { return };
        let (after, lowest) = match &self.behind {
            Some(behind) => (behind.after.min(*last), behind.lowest.min(*last)),
            None => (*last, *last),
        };
        self.behind = Some(Behind { after, lowest, accepting: false, left_out: true });
    }

    /// All rows are in memory.
    fn caught_up(&mut self, now: Instant) {
        let Some(behind) = self.behind.take() else { return };
        if behind.left_out {
            let from = self.recheck.map_or(behind.lowest, |(_, from)| from.min(behind.lowest));
            self.recheck = Some((now + limits::BACKLOG_SETTLE, from));
        }
        if self.recheck.is_none() {
            self.settled.clear();
        }
    }
}
