//! The clock, what happens when, and what fails.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use everlog_kernel::transition::{Task, TaskPosition};
use everlog_kernel::{Namespace, NamespaceId, RunId, Time};
use everlog_matching::{Backlog, Matching};
use everlog_model::{NamespaceSource, QueueId, WorkflowRef, limits};
use everlog_raft::LeadEpoch;
use everlog_random::Random;
use everlog_storage::GroupId;
use everlog_storage::keys::{KeyRange, OutboxKey};
use everlog_storage::state::{Direction, Row, StateEngine, StateError};
use everlog_storage::twin::CrashState;
use futures::FutureExt;
use futures::future::BoxFuture;

use super::Sabotage;
use super::log::Partition;
use super::moves::{MoveEvent, Moving};
use super::turns::Wanted;
use super::updates::Updates;
use super::workers::{Poller, WorkerEvent};
use crate::backlog;
use crate::clock::Reading;
use crate::job::Job;
use crate::load::{Read, Rows};

/// Partitions of the node.
const PARTITIONS: usize = 3;

/// How long clients go on and faults happen.
const STORY: Duration = Duration::from_secs(10);

/// How long the end waits at most for what was just begun.
const STILL_WAIT_MAX: Duration = Duration::from_secs(5);
/// How long it takes at most until all is quiet then.
const QUIET: Duration = Duration::from_secs(90);

/// How long before the end workers ask for nothing any more: schedules start new runs until the end.
const WIND_DOWN: Duration = Duration::from_secs(20);

/// What happens in a story at most: twenty times as much as in most. One with more goes round in circles.
const EVENTS_MAX: u64 = 2_000_000;

/// The wall clock at the beginning.
const WALL_START: i64 = 1_700_000_000_000_000_000;

/// How long it takes to read a page of tasks.
const PAGE_READ: Duration = Duration::from_millis(5);

/// Matching's clock follows in steps of this: what it measures is longer.
const MATCHING_STEP: u64 = 1_000_000;

/// What happens at some time.
pub(super) enum Event {
    Turn(usize),
    /// A partition's entries up to this one are durable; of an incarnation of its log's end.
    Commit {
        partition: usize,
        index: usize,
        cut: u64,
    },
    Read {
        partition: usize,
        epoch: LeadEpoch,
        what: Wanted,
    },
    ReadDone {
        partition: usize,
        read: Read,
    },
    Open {
        partition: usize,
        term: u64,
    },
    Arrive {
        partition: usize,
        job: Box<Job>,
    },
    Fault,
    Client,
    /// Many requests at once to a partition.
    Burst(usize),
    Worker(WorkerEvent),
    Move(MoveEvent),
}

/// What a seed came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Story {
    /// Workflow tasks that were started.
    pub(super) tasks: u64,
    /// How often a second batch was proposed before the first one was applied.
    pub(super) two_in_flight: u64,
    /// Steps that have taken slots to another partition.
    pub(super) moved: u64,
    /// Entries of all logs, and bytes of their rows.
    pub(super) log: (usize, usize),
}

pub(super) struct World {
    pub(super) random: Random,
    pub(super) sabotage: Option<Sabotage>,
    /// Nanoseconds since the beginning.
    pub(super) now: u64,
    /// How far the runtime's clock has come, which matching goes by.
    matching_now: u64,
    epoch: Instant,
    /// What the wall clock is off by.
    wall_offset: i64,
    agenda: BTreeMap<(u64, u64), Event>,
    order: u64,
    /// Whether clients go on and faults happen.
    pub(super) faults: bool,

    // The node.
    pub(super) disk: Arc<CrashState>,
    pub(super) matching: Arc<Matching>,
    pub(super) partitions: Vec<Partition>,
    pub(super) two_in_flight: u64,
    pub(super) moving: Moving,

    // Clients, workers, and what they know.
    pub(super) namespace: Arc<Namespace>,
    pub(super) calls: Vec<super::clients::Call>,
    pub(super) looks: Vec<super::resets::Look>,
    pub(super) pollers: Vec<Poller>,
    pub(super) numbers: u64,
    /// Signals that were sent, and whether they were acknowledged.
    pub(super) signals: BTreeMap<String, bool>,
    pub(super) started: Vec<RunId>,
    /// Runs that have had a workflow task lately: whom others send signals to.
    pub(super) runs: Vec<(String, RunId)>,
    /// How often an attempt of an activity that may be attempted once was handed out: there is a second one if the first failed while the
    /// activity was paused.
    pub(super) once: HashMap<(RunId, i64, i32), u32>,
    pub(super) tasks_started: u64,
    pub(super) updates: Updates,
}

impl World {
    pub(super) fn new(seed: u64, sabotage: Option<Sabotage>) -> World {
        let namespace = Arc::new(Namespace {
            id: NamespaceId([7; 16]),
            name: "sim".to_owned(),
            retention: Duration::from_secs(86_400),
            ..Namespace::default()
        });
        let disk = Arc::new(CrashState::new(seed));
        let partitions = (1..).take(PARTITIONS).map(|id| Partition::new(GroupId(id))).collect();
        World {
            random: Random::new(seed),
            sabotage,
            now: 0,
            matching_now: 0,
            epoch: Instant::now(),
            wall_offset: 0,
            agenda: BTreeMap::new(),
            order: 0,
            faults: true,
            moving: Moving::new(namespace.id, PARTITIONS),
            matching: matching(&disk, &namespace),
            disk,
            partitions,
            two_in_flight: 0,
            namespace,
            calls: Vec::new(),
            looks: Vec::new(),
            pollers: Vec::new(),
            numbers: 0,
            signals: BTreeMap::new(),
            started: Vec::new(),
            runs: Vec::new(),
            once: HashMap::new(),
            tasks_started: 0,
            updates: Updates::default(),
        }
    }

    /// Runs to the end, and checks what must hold.
    pub(super) async fn run(&mut self) {
        for partition in 0..PARTITIONS {
            self.after(Duration::ZERO, Event::Open { partition, term: 1 });
        }
        self.begin_to_move();
        self.after(Duration::from_millis(1), Event::Client);
        self.after(Duration::from_millis(50), Event::Fault);
        self.hire();
        let (quiet_at, end) = (nanos(STORY), nanos(STORY + QUIET));
        while let Some(((at, _), event)) = self.agenda.pop_first() {
            // Cron and schedules act at any moment, also at this one: what that begins is let go to its end.
            if at > end && (self.is_still() || at > end + nanos(STILL_WAIT_MAX)) {
                break;
            }
            assert!(self.order < EVENTS_MAX, "the story goes round in circles");
            self.faults &= at < quiet_at;
            self.now = at;
            if at - self.matching_now >= MATCHING_STEP {
                tokio::time::advance(Duration::from_nanos(at - self.matching_now)).await;
                self.matching_now = at;
            }
            self.happen(event);
            self.hear();
        }
        self.check();
    }

    /// Whether nothing is under way that was begun: no job, no batch, no message.
    fn is_still(&self) -> bool {
        self.moving.is_idle()
            && self.partitions.iter().all(|partition| {
                let is_idle = partition.leading.as_ref().is_some_and(|leading| leading.in_flight.is_empty());
                let messages = || TwinRows(&self.disk, partition.group).scan(OutboxKey::all(), Direction::Ascending, 1);
                is_idle && partition.jobs.is_empty() && messages().is_ok_and(|messages| messages.is_empty())
            })
    }

    /// Whether the story is about to end.
    pub(super) fn winds_down(&self) -> bool {
        self.now >= nanos(STORY + QUIET - WIND_DOWN)
    }

    pub(super) fn story(&self) -> Story {
        let entries = self.partitions.iter().flat_map(|partition| &partition.log);
        let bytes = entries.clone().map(|(_, rows)| rows.encoded_len()).sum();
        Story {
            tasks: self.tasks_started,
            two_in_flight: self.two_in_flight,
            moved: self.moving.moved,
            log: (entries.count(), bytes),
        }
    }

    pub(super) fn after(&mut self, delay: Duration, event: Event) {
        self.order += 1;
        self.agenda.insert((self.now + nanos(delay), self.order), event);
    }

    /// A time between none and `max`, short more often than long.
    pub(super) fn delay(&mut self, max: Duration) -> Duration {
        let share = self.random.below(1000) as f64 / 1000.0;
        max.mul_f64(share * share)
    }

    /// Carries a job to a partition of the node, as requests come there and as messages between partitions do.
    pub(super) fn carry(&mut self, partition: usize, job: Job) {
        let delay = self.delay(Duration::from_micros(300));
        self.after(delay, Event::Arrive { partition, job: Box::new(job) });
    }

    pub(super) fn reading(&self) -> Reading {
        let passed = i64::try_from(self.now).unwrap_or(0);
        let mut instant = self.epoch + Duration::from_nanos(self.now);
        if self.sabotage == Some(Sabotage::WallClockBelieved) {
            instant += Duration::from_nanos(self.wall_offset.max(0).unsigned_abs());
        }
        Reading { instant, wall: Time(WALL_START + passed + self.wall_offset), skipped: Duration::ZERO }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Turn(partition) => self.turn(partition),
            Event::Commit { partition, index, cut } => self.durable(partition, index, cut),
            Event::Read { partition, epoch, what } => self.read(partition, epoch, what),
            Event::ReadDone { partition, read } => self.read_done(partition, read),
            Event::Open { partition, term } => self.open(partition, term),
            Event::Arrive { partition, job } => {
                self.partitions[partition].jobs.push_back(*job);
                self.turn_soon(partition, Duration::from_micros(50));
            }
            Event::Fault => self.fault(),
            Event::Client => self.client(),
            Event::Burst(partition) => self.burst(partition),
            Event::Worker(event) => self.worker(event),
            Event::Move(event) => self.move_event(event),
        }
    }

    fn fault(&mut self) {
        let delay = self.delay(Duration::from_secs(3));
        if !self.faults {
            self.wall_offset = 0;
            return;
        }
        self.after(delay, Event::Fault);
        let partition = self.random.below(PARTITIONS);
        match self.random.below(12) {
            0 | 1 => {
                self.end_lead(partition);
                self.cut(partition);
            }
            2 | 3 => self.restart(),
            4 => self.disk.flush().expect("the twin is up"),
            5 => {
                let hours = self.random.below(3) as i64 - 1;
                self.wall_offset = hours * 3_600_000_000_000 + self.random.below(1000) as i64;
            }
            6..=9 => self.stall(partition),
            _ => self.wall_offset = 0,
        }
    }

    /// The process is killed: memory is gone, and so are the rows that were not flushed.
    fn restart(&mut self) {
        self.disk = Arc::new(self.disk.crash_anywhere());
        self.matching = matching(&self.disk, &self.namespace);
        self.pollers.iter_mut().for_each(Poller::disconnect);
        for partition in 0..PARTITIONS {
            self.recover(partition);
        }
    }
}

fn matching(disk: &Arc<CrashState>, namespace: &Arc<Namespace>) -> Arc<Matching> {
    let (disk, namespace) = (Arc::clone(disk), Arc::clone(namespace));
    Matching::new(Arc::new(TaskRows { disk, namespace, began: tokio::time::Instant::now() }))
}

/// The task rows of all partitions.
struct TaskRows {
    disk: Arc<CrashState>,
    namespace: Arc<Namespace>,
    began: tokio::time::Instant,
}

impl Backlog for TaskRows {
    fn ready_tasks(
        &self,
        partition: GroupId,
        queue: QueueId,
        after: Option<TaskPosition>,
        limit: usize,
    ) -> BoxFuture<'static, Result<Vec<(WorkflowRef, Task)>, String>> {
        let (disk, namespace, began) = (Arc::clone(&self.disk), Arc::clone(&self.namespace), self.began);
        async move {
            let asked = began.elapsed();
            tokio::time::sleep(PAGE_READ).await;
            // By the time alone: queues have no order among each other.
            if asked.as_millis() % 7 == 3 {
                return Err("the disk does not answer".to_owned());
            }
            backlog::read_page(
                &TwinRows(&disk, partition),
                &namespace,
                &queue,
                after.as_ref(),
                limit.min(limits::TASK_PAGE_ROWS),
            )
        }
        .boxed()
    }
}

/// The rows of a partition.
pub(super) struct TwinRows<'a>(pub(super) &'a CrashState, pub(super) GroupId);

impl Rows for TwinRows<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<bytes::Bytes>, StateError> {
        self.0.get(self.1, key)
    }

    fn scan(&self, range: KeyRange, direction: Direction, limit: usize) -> Result<Vec<Row>, StateError> {
        self.0.scan(self.1, &range.start..&range.end, direction, limit)
    }
}

pub(super) struct OneNamespace(pub(super) Arc<Namespace>);

impl NamespaceSource for OneNamespace {
    fn by_id(&self, id: NamespaceId) -> Option<Arc<Namespace>> {
        (id == self.0.id).then(|| Arc::clone(&self.0))
    }
}

pub(super) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).expect("a short time")
}
