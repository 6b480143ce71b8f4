//! The workloads, one file each, and what they share: the context they run in and the outcome they hand back.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::check::ReadBack;
use crate::client::Client;
use crate::error::BenchError;
use crate::histogram::Histogram;
use crate::load::Extent;
use crate::measure::{Meter, Target, Usage};
use crate::progress::Progress;
use crate::servers::Server;
use crate::worker::{Worker, WorkerOptions};

mod fair_shares;
mod fan_out;
mod history_read;
mod idle;
mod kill_nine;
mod mixed;
mod overload_bytes;
mod paced_activity;
mod queries;
mod sequential_activities;
mod signals;
mod start_burst;
mod timers;
mod timers_under_load;
mod visibility;

/// How long one workflow may take before the run is given up.
pub(crate) const WORKFLOW_PATIENCE: Duration = Duration::from_secs(120);
/// Poll loops per queue kind: enough to reach every partition of a queue, and never more than an SDK worker would have.
const POLLERS: (usize, usize) = (4, 32);

/// Everything a workload gets.
pub(crate) struct Context {
    pub(crate) client: Arc<Client>,
    /// host:port of the server.
    pub(crate) address: String,
    /// The process under measurement; another one after a restart.
    pub(crate) target: Mutex<Target>,
    /// The server, when this program started it; needed to kill it.
    pub(crate) server: Option<tokio::sync::Mutex<Server>>,
    pub(crate) concurrency: usize,
    pub(crate) extent: Extent,
    /// How much the workload does unless told otherwise; its count is used where a duration means nothing to it.
    pub(crate) usual: Extent,
    pub(crate) progress: Progress,
    /// Begins all ids, queues and types of this run; unique.
    pub(crate) prefix: String,
}

impl Context {
    /// How many units to do, for workloads that cannot end by the clock.
    pub(crate) fn count(&self) -> u64 {
        match (self.extent, self.usual) {
            (Extent::Count(count), _) | (Extent::Duration(_), Extent::Count(count)) => count.max(1),
            (Extent::Duration(_), Extent::Duration(_)) => 1,
        }
    }

    /// The task queue of this run.
    pub(crate) fn task_queue(&self) -> String {
        format!("{}-queue", self.prefix)
    }

    /// A worker on that queue.
    pub(crate) fn worker(&self) -> Worker {
        self.worker_with(self.concurrency.clamp(POLLERS.0, POLLERS.1), true)
    }

    pub(crate) fn worker_with(&self, pollers: usize, sticky: bool) -> Worker {
        self.worker_on(self.task_queue(), pollers, sticky)
    }

    /// A worker on another queue.
    pub(crate) fn worker_on(&self, task_queue: String, pollers: usize, sticky: bool) -> Worker {
        Worker::start(
            self.client.clone(),
            WorkerOptions { task_queue, workflow_pollers: pollers, activity_pollers: pollers, sticky },
        )
    }

    pub(crate) fn target(&self) -> Target {
        self.target.lock().expect("never poisoned: nothing panics under it").clone()
    }

    /// Begins a measured section.
    pub(crate) async fn meter(&self) -> Result<Meter, BenchError> {
        Meter::start(self.target()).await
    }

    /// Waits until `reached` answers at least `count`; gives up when it stands still for a minute.
    pub(crate) async fn until(&self, what: &str, count: u64, reached: impl Fn() -> u64) -> Result<(), BenchError> {
        const STANDSTILL_MAX: Duration = Duration::from_secs(60);
        let (mut last, mut since) = (reached(), Instant::now());
        while last < count {
            tokio::time::sleep(Duration::from_millis(5)).await;
            let now = reached();
            if now != last {
                (last, since) = (now, Instant::now());
            } else if since.elapsed() > STANDSTILL_MAX {
                return Err(BenchError::Limit(format!("{what} stands still at {last} of {count}")));
            }
        }
        Ok(())
    }
}

/// The figures of one workload, or of one of its parts.
pub(crate) struct Outcome {
    /// Which part, for workloads that have several.
    pub(crate) part: &'static str,
    /// What is counted.
    pub(crate) unit: &'static str,
    pub(crate) units: u64,
    pub(crate) usage: Usage,
    pub(crate) latency: Option<Histogram>,
    pub(crate) read_back: ReadBack,
    /// Figures of this workload alone, by name with unit.
    pub(crate) extra: BTreeMap<&'static str, f64>,
}

type Run<'a> = Pin<Box<dyn Future<Output = Result<Vec<Outcome>, BenchError>> + Send + 'a>>;

/// One entry of the list of workloads.
pub(crate) struct Workload {
    pub(crate) number: u32,
    pub(crate) name: &'static str,
    pub(crate) summary: &'static str,
    /// How much a full run does.
    pub(crate) usual: Extent,
    /// Units of a smoke test.
    pub(crate) smoke_count: u64,
    /// Whether it is run once per concurrency, or once with the highest.
    pub(crate) by_concurrency: bool,
    pub(crate) run: for<'a> fn(&'a Context) -> Run<'a>,
}

/// All workloads in the order in which they run. The one that kills the server is the last.
pub(crate) const WORKLOADS: [Workload; 19] = [
    Workload {
        number: 1,
        name: "single-activity",
        summary: "a workflow with one activity, from start to acknowledged end",
        usual: Extent::Count(2_000),
        smoke_count: 40,
        by_concurrency: true,
        run: |context| Box::pin(sequential_activities::run(context, 1)),
    },
    Workload {
        number: 2,
        name: "ten-activities",
        summary: "a workflow with ten activities one after the other",
        usual: Extent::Count(500),
        smoke_count: 10,
        by_concurrency: true,
        run: |context| Box::pin(sequential_activities::run(context, 10)),
    },
    Workload {
        number: 3,
        name: "start-burst",
        summary: "starts of workflows that no worker takes",
        usual: Extent::Count(5_000),
        smoke_count: 100,
        by_concurrency: true,
        run: |context| Box::pin(start_burst::run(context)),
    },
    Workload {
        number: 4,
        name: "signals",
        summary: "signals to one workflow from 16 senders",
        usual: Extent::Count(4_000),
        smoke_count: 100,
        by_concurrency: false,
        run: |context| Box::pin(signals::run(context)),
    },
    Workload {
        number: 5,
        name: "fan-out",
        summary: "one workflow with 1,000 activities at once",
        usual: Extent::Count(5_000),
        smoke_count: 100,
        by_concurrency: false,
        run: |context| Box::pin(fan_out::run(context)),
    },
    Workload {
        number: 6,
        name: "timers",
        summary: "timers due in the same second, ten per workflow",
        usual: Extent::Count(100_000),
        smoke_count: 200,
        by_concurrency: false,
        run: |context| Box::pin(timers::run(context)),
    },
    Workload {
        number: 7,
        name: "history-read",
        summary: "reads of a history of 1,001 events",
        usual: Extent::Count(2_000),
        smoke_count: 10,
        by_concurrency: true,
        run: |context| Box::pin(history_read::run(context)),
    },
    Workload {
        number: 8,
        name: "visibility",
        summary: "list, filtered list and count over closed workflows",
        usual: Extent::Count(100_000),
        smoke_count: 100,
        by_concurrency: false,
        run: |context| Box::pin(visibility::run(context)),
    },
    Workload {
        number: 9,
        name: "idle",
        summary: "memory and disk of idle open workflows",
        usual: Extent::Count(200_000),
        smoke_count: 100,
        by_concurrency: false,
        run: |context| Box::pin(idle::run(context)),
    },
    Workload {
        number: 11,
        name: "queries",
        summary: "queries to a workflow that its worker has cached",
        usual: Extent::Count(5_000),
        smoke_count: 50,
        by_concurrency: true,
        run: |context| Box::pin(queries::run(context)),
    },
    Workload {
        number: 12,
        name: "mixed",
        summary: "a mixed load; ten minutes unless told otherwise",
        usual: Extent::Duration(Duration::from_secs(600)),
        smoke_count: 60,
        by_concurrency: false,
        run: |context| Box::pin(mixed::run(context)),
    },
    Workload {
        number: 13,
        name: "paced-100",
        summary: "the workflow of single-activity, 100 a second",
        usual: Extent::Duration(Duration::from_secs(10)),
        smoke_count: 10,
        by_concurrency: false,
        run: |context| Box::pin(paced_activity::run(context, 100)),
    },
    Workload {
        number: 14,
        name: "paced-500",
        summary: "the workflow of single-activity, 500 a second",
        usual: Extent::Duration(Duration::from_secs(10)),
        smoke_count: 20,
        by_concurrency: false,
        run: |context| Box::pin(paced_activity::run(context, 500)),
    },
    Workload {
        number: 15,
        name: "paced-1000",
        summary: "the workflow of single-activity, 1,000 a second",
        usual: Extent::Duration(Duration::from_secs(10)),
        smoke_count: 40,
        by_concurrency: false,
        run: |context| Box::pin(paced_activity::run(context, 1_000)),
    },
    Workload {
        number: 16,
        name: "paced-3000",
        summary: "the workflow of single-activity, 3,000 a second",
        usual: Extent::Duration(Duration::from_secs(10)),
        smoke_count: 60,
        by_concurrency: false,
        run: |context| Box::pin(paced_activity::run(context, 3_000)),
    },
    Workload {
        number: 17,
        name: "timers-under-load",
        summary: "10,000 timers a second, alone and then beside as many signals and starts as the server takes",
        usual: Extent::Count(100_000),
        smoke_count: 400,
        by_concurrency: false,
        run: |context| Box::pin(timers_under_load::run(context)),
    },
    Workload {
        number: 18,
        name: "overload-bytes",
        summary: "more bytes at once than a server may take: starts of 2 MiB, signals to cold workflows, describes of unknown ones",
        usual: Extent::Count(100_000),
        smoke_count: 400,
        by_concurrency: false,
        run: |context| Box::pin(overload_bytes::run(context)),
    },
    Workload {
        number: 19,
        name: "fair-shares",
        summary: "ten fairness keys, one with nine tenths of the backlog: in which order their tasks come",
        usual: Extent::Count(50_000),
        smoke_count: 200,
        by_concurrency: false,
        run: |context| Box::pin(fair_shares::run(context)),
    },
    Workload {
        number: 10,
        name: "kill-nine",
        summary: "kill -9 with idle open workflows on disk, time to the first acknowledged start",
        usual: Extent::Count(200_000),
        smoke_count: 100,
        by_concurrency: false,
        run: |context| Box::pin(kill_nine::run(context)),
    },
];
