//! What is known of a queue.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use everlog_kernel::Time;
use everlog_model::limits;
use tokio::time::Instant;

use super::WorkerVersion;
use super::queue::{Queue, age};
use super::rates::{RateSource, RollingCount};
use super::tasks::Position;

/// The priority of tasks that are given none.
const PRIORITY_DEFAULT: u8 = 3;

/// What is known of a queue.
#[derive(Clone, Debug)]
pub struct QueueDescription {
    /// Workers that polled in the last five minutes: identity, last poll, tasks per second.
    pub pollers: Vec<PollerDescription>,
    /// Of all its tasks.
    pub stats: QueueStats,
    /// How many tasks it hands out at most.
    pub rate: QueueRate,
    /// Of the tasks of each priority that the queue has had lately, and of the one that tasks have by default.
    pub by_priority: BTreeMap<u8, QueueStats>,
}

/// A queue that nobody polls, without tasks.
impl Default for QueueDescription {
    fn default() -> QueueDescription {
        QueueDescription {
            pollers: Vec::new(),
            stats: QueueStats::default(),
            rate: QueueRate::default(),
            by_priority: [(PRIORITY_DEFAULT, QueueStats::default())].into(),
        }
    }
}

impl QueueDescription {
    /// The same with what is known of another version's queue of that name.
    pub(super) fn with(mut self, other: QueueDescription) -> QueueDescription {
        self.pollers.extend(other.pollers);
        self.pollers.sort_by(|a, b| a.identity.cmp(&b.identity));
        for (priority, stats) in other.by_priority {
            let known = self.by_priority.entry(priority).or_default();
            *known = known.plus(&stats);
        }
        self.stats = sum(&self.by_priority);
        self
    }
}

/// How many tasks a queue hands out at most.
#[derive(Clone, Copy, Debug)]
pub struct QueueRate {
    /// Tasks per second.
    pub per_second: f64,
    /// Who says so.
    pub source: RateSource,
}

impl Default for QueueRate {
    fn default() -> QueueRate {
        QueueRate { per_second: limits::QUEUE_TASKS_PER_SECOND_MAX, source: RateSource::System }
    }
}

/// How a queue keeps up.
#[derive(Clone, Debug, Default)]
pub struct QueueStats {
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
    /// Of its code, where it tells.
    pub version: Option<Arc<WorkerVersion>>,
}

/// Tasks that were added and handed out lately, by priority: the few that a queue has tasks of.
#[derive(Debug, Default)]
pub(super) struct Flow(Vec<PriorityFlow>);

#[derive(Debug)]
struct PriorityFlow {
    priority: u8,
    added: RollingCount,
    dispatched: RollingCount,
}

impl Flow {
    /// A task was added.
    pub(super) fn count_added(&mut self, priority: u8, now: Instant) {
        self.of(priority, now).added.count(now);
    }

    /// A task was handed out.
    pub(super) fn count_dispatched(&mut self, priority: u8, now: Instant) {
        self.of(priority, now).dispatched.count(now);
    }

    /// Tasks per second that were added, and that were handed out.
    pub(super) fn per_second(&mut self, now: Instant) -> (f64, f64) {
        self.0.iter_mut().fold((0.0, 0.0), |(added, dispatched), flow| {
            (added + flow.added.per_second(now), dispatched + flow.dispatched.per_second(now))
        })
    }

    fn of(&mut self, priority: u8, now: Instant) -> &mut PriorityFlow {
        let index = self.0.iter().position(|flow| flow.priority == priority).unwrap_or_else(|| {
            let (added, dispatched) = (RollingCount::new(now), RollingCount::new(now));
            self.0.push(PriorityFlow { priority, added, dispatched });
            self.0.len() - 1
        });
        &mut self.0[index]
    }
}

/// Tasks that wait, by priority.
#[derive(Default)]
struct Backlogs(BTreeMap<u8, (u64, Time)>);

impl Backlogs {
    fn add(&mut self, position: &Position) {
        let (tasks, oldest) = self.0.entry(position.priority).or_insert((0, position.scheduled_time));
        *tasks += 1;
        *oldest = (*oldest).min(position.scheduled_time);
    }

    fn stats(self) -> BTreeMap<u8, QueueStats> {
        let stats = |(backlog, oldest): (u64, Time)| QueueStats {
            backlog,
            backlog_age: Duration::from_secs_f64(age(oldest)),
            ..QueueStats::default()
        };
        self.0.into_iter().map(|(priority, backlog)| (priority, stats(backlog))).collect()
    }
}

impl Queue {
    pub(super) fn describe(&mut self, sticky: Option<&str>, now: Instant) -> QueueDescription {
        let mut backlogs = Backlogs::default();
        if let Some(line) = sticky.and_then(|name| self.line(Some(name))) {
            let pollers = line.pollers(now);
            self.positions(sticky).for_each(|position| backlogs.add(position));
            let by_priority = backlogs.stats();
            return QueueDescription { pollers, stats: sum(&by_priority), rate: QueueRate::default(), by_priority };
        }
        self.positions(None).for_each(|position| backlogs.add(position));
        let mut by_priority = backlogs.stats();
        by_priority.entry(PRIORITY_DEFAULT).or_default();
        for flow in &mut self.flow_mut().0 {
            let stats = by_priority.entry(flow.priority).or_default();
            stats.add_rate = flow.added.per_second(now);
            stats.dispatch_rate = flow.dispatched.per_second(now);
        }
        let pollers = self.line(None).map(|line| line.pollers(now)).unwrap_or_default();
        let (per_second, source) = self.effective_rate();
        QueueDescription { pollers, stats: sum(&by_priority), rate: QueueRate { per_second, source }, by_priority }
    }
}

impl QueueStats {
    fn plus(&self, other: &QueueStats) -> QueueStats {
        QueueStats {
            backlog: self.backlog + other.backlog,
            backlog_age: self.backlog_age.max(other.backlog_age),
            add_rate: self.add_rate + other.add_rate,
            dispatch_rate: self.dispatch_rate + other.dispatch_rate,
        }
    }
}

fn sum(by_priority: &BTreeMap<u8, QueueStats>) -> QueueStats {
    by_priority.values().fold(QueueStats::default(), |sum, stats| sum.plus(stats))
}
