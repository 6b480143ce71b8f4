//! A line of pollers: the polls and queries that wait in one queue, and who polled it of late.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use everlog_kernel::transition::{QueryTask, TaskKind};
use everlog_model::{FastMap, WorkflowRef, limits};
use metrics::{Counter, Gauge, Histogram};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::queue::Grant;
use super::scaling::{Hints, ScalingHint, ScalingRules, Standing, Waited};
use super::{Poll, PollerDescription, WorkerVersion};

/// The polls of one queue, sticky or normal.
#[derive(Default)]
pub(super) struct Line {
    /// Waiting polls by number: first come, first served.
    polls: BTreeMap<u64, WaitingPoller>,
    /// Waiting queries by query id, which grow with time.
    pub(super) queries: BTreeMap<u64, (WorkflowRef, QueryTask)>,
    /// When a poll came or went last.
    last_poll: Option<Instant>,
    pollers: FastMap<String, Poller>,
    hints: Hints,
}

/// A poll that waits. Its receiver lives at least as long as it stands in the line.
pub(super) struct WaitingPoller {
    pub(super) sender: oneshot::Sender<Grant>,
    pub(super) since: Instant,
    pub(super) scaling: ScalingRules,
    worker_instance_key: String,
    _counted: CountedPoll,
}

/// One in the gauge of waiting polls.
struct CountedPoll(Gauge);

impl CountedPoll {
    fn new(gauge: &Gauge) -> CountedPoll {
        gauge.increment(1.0);
        CountedPoll(gauge.clone())
    }
}

impl Drop for CountedPoll {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

struct Poller {
    last_poll: Instant,
    last_access: SystemTime,
    rate_per_second: Option<f64>,
    version: Option<Arc<WorkerVersion>>,
}

impl Line {
    /// Remembers who polls.
    pub(super) fn note_poll(&mut self, poll: &Poll, now: Instant) {
        self.last_poll = Some(now);
        let (last_access, rate_per_second) = (SystemTime::now(), poll.tasks_per_second_max);
        if let Some(known) = self.pollers.get_mut(&poll.identity) {
            (known.last_poll, known.last_access, known.rate_per_second) = (now, last_access, rate_per_second);
            known.version.clone_from(&poll.version);
        } else if self.pollers.len() < limits::QUEUE_POLLERS_REMEMBERED_MAX {
            let poller = Poller { last_poll: now, last_access, rate_per_second, version: poll.version.clone() };
            self.pollers.insert(poll.identity.clone(), poller);
        }
    }

    /// Puts a poll at the end of the line.
    pub(super) fn join(
        &mut self,
        number: u64,
        poll: &Poll,
        meters: &Meters,
        sender: oneshot::Sender<Grant>,
        since: Instant,
    ) {
        let (worker_instance_key, scaling) = (poll.worker_instance_key.clone(), poll.scaling);
        let counted = CountedPoll::new(&meters.polls_waiting);
        self.polls.insert(number, WaitingPoller { sender, since, scaling, worker_instance_key, _counted: counted });
    }

    /// Takes a poll out of the line; nothing happens if it is not there any more.
    pub(super) fn leave(&mut self, number: u64, now: Instant) {
        if self.polls.remove(&number).is_some() {
            self.last_poll = Some(now);
        }
    }

    /// The poll that waits longest.
    pub(super) fn next_poll(&mut self, now: Instant) -> Option<WaitingPoller> {
        let (_, poll) = self.polls.pop_first()?;
        self.last_poll = Some(now);
        Some(poll)
    }

    /// Whether the worker of a poll is to poll more or less.
    pub(super) fn hint(
        &mut self,
        rules: &ScalingRules,
        waited: Waited,
        now: Instant,
        standing: impl FnOnce() -> Standing,
    ) -> Option<ScalingHint> {
        self.hints.hint(rules, waited, self.pollers.len(), now, standing)
    }

    pub(super) fn has_polls(&self) -> bool {
        !self.polls.is_empty()
    }

    pub(super) fn polls(&self) -> usize {
        self.polls.len()
    }

    /// Ends every poll empty.
    pub(super) fn end_polls(&mut self) {
        self.polls.clear();
    }

    /// Ends the polls of a worker process empty.
    pub(super) fn end_polls_of(&mut self, worker_instance_key: &str) {
        self.polls.retain(|_, poll| poll.worker_instance_key != worker_instance_key);
    }

    /// From now on it looks as if nobody had ever polled.
    pub(super) fn forget_pollers(&mut self) {
        self.last_poll = None;
        self.pollers.clear();
    }

    pub(super) fn has_recent_poller(&self, now: Instant, within: Duration) -> bool {
        self.has_polls() || self.last_poll.is_some_and(|last| now.duration_since(last) <= within)
    }

    pub(super) fn sweep(&mut self, now: Instant) {
        self.pollers.retain(|_, poller| now.duration_since(poller.last_poll) <= limits::POLLER_REMEMBERED);
    }

    pub(super) fn pollers(&self, now: Instant) -> Vec<PollerDescription> {
        let remembered = |poller: &&Poller| now.duration_since(poller.last_poll) <= limits::POLLER_REMEMBERED;
        let mut pollers: Vec<_> = self
            .pollers
            .iter()
            .filter(|(_, poller)| remembered(poller))
            .map(|(identity, poller)| PollerDescription {
                identity: identity.clone(),
                last_access: poller.last_access,
                rate_per_second: poller.rate_per_second,
                version: poller.version.clone(),
            })
            .collect();
        pollers.sort_by(|a, b| a.identity.cmp(&b.identity));
        pollers
    }
}

/// The metrics of all queues of a kind.
#[derive(Clone)]
pub(super) struct Meters {
    pub(super) offered: Counter,
    pub(super) dispatched: Counter,
    pub(super) schedule_to_start: Histogram,
    polls_waiting: Gauge,
}

impl Meters {
    pub(super) fn new(kind: TaskKind) -> Meters {
        let kind = kind.to_string();
        Meters {
            offered: metrics::counter!("everlog_tasks_offered_total", "kind" => kind.clone()),
            dispatched: metrics::counter!("everlog_tasks_dispatched_total", "kind" => kind.clone()),
            schedule_to_start: metrics::histogram!("everlog_task_schedule_to_start_seconds", "kind" => kind.clone()),
            polls_waiting: metrics::gauge!("everlog_polls_waiting", "kind" => kind),
        }
    }
}
