//! Workload 17: timers that fall due all the time, ten to a workflow, first alone and then beside as many signals and starts as the
//! server takes. What counts is by how much load makes timers late: time must pass for a busy server as it does for an idle one.
//!
//! Lag is measured twice: by the server's own event times (the latency of the figures), and by when the worker is told, which is
//! what users see. A timer that fired early fails the run, and so does one that never fired.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::task::JoinSet;

use super::{Context, Outcome, WORKFLOW_PATIENCE};
use crate::check::{Acknowledged, Expected, ReadBack, read_back};
use crate::client::{Client, Execution};
use crate::error::BenchError;
use crate::histogram::Histogram;
use crate::load::{Extent, closed_loop};
use crate::measure::Usage;
use crate::program::Program;
use crate::worker::Worker;

/// Timers that fall due in a second.
const PER_SECOND: u64 = 10_000;
const PER_WORKFLOW: u64 = 10;
/// The part of the timers that fires without load.
const ALONE_ONE_IN: u64 = 5;
/// Workflows a second that any server is given time to prepare the first time; for the second time it is known.
const PREPARED_PER_SECOND: u64 = 150;
/// Time to prepare beyond that.
const LEAD_MIN: Duration = Duration::from_secs(3);
/// The load begins that long before the first timer is due, and goes on that long behind the last.
const LOAD_MARGIN: Duration = Duration::from_secs(1);
/// Workflows that the signals go to: few enough to be in memory, many enough for a run of minutes to stay below the signals that a run
/// may have.
const RECEIVERS: u64 = 1_000;
/// Callers that press, for each that a workload usually has: so many that a server's queues are never empty.
const PRESSING: usize = 8;
/// Poll loops: enough for the worker to take all timers in although each of its calls waits behind the load.
const POLLERS: usize = 256;
/// What the lag under load may be above that without, at the 99th percentile.
const LAG_AIM_MS: f64 = 50.0;

pub(super) async fn run(context: &Context) -> Result<Vec<Outcome>, BenchError> {
    let workflows = context.count().div_ceil(PER_WORKFLOW);
    let worker = Arc::new(context.worker_with(POLLERS.min(context.concurrency * PRESSING), true));
    let alone = Timers { context, worker: &worker, name: "alone", workflows: (workflows / ALONE_ONE_IN).max(1) };
    let (alone, prepared_per_second) = alone.fire(PREPARED_PER_SECOND as f64, None).await?;
    let load = Load::prepare(context).await?;
    // Half of what the server managed: the load may begin before all are prepared.
    let loaded = Timers { context, worker: &worker, name: "loaded", workflows };
    let (loaded, _) = loaded.fire((prepared_per_second / 2.0).max(1.0), Some(&load)).await?;
    let done = load.read_back(context).await?;

    let ms = |lag: &Histogram, quantile| lag.quantile_us(quantile).unwrap_or_default() / 1000.0;
    let (lag_alone, lag_loaded) = (alone.lag(), loaded.lag());
    let over = ms(&lag_loaded, 0.99) - ms(&lag_alone, 0.99);
    let seconds = done.seconds.max(1e-9);
    Ok(vec![Outcome {
        part: "",
        unit: "timer",
        units: workflows * PER_WORKFLOW,
        extra: BTreeMap::from([
            ("lag_alone_p50_ms", ms(&lag_alone, 0.5)),
            ("lag_alone_p99_ms", ms(&lag_alone, 0.99)),
            ("lag_p50_ms", ms(&lag_loaded, 0.5)),
            ("lag_p99_ms", ms(&lag_loaded, 0.99)),
            ("lag_max_ms", ms(&lag_loaded, 1.0)),
            ("lag_p99_over_alone_ms", over),
            ("lag_p99_over_alone_aim_ms", LAG_AIM_MS),
            ("seen_by_worker_alone_p50_ms", ms(&alone.seen, 0.5)),
            ("seen_by_worker_alone_p99_ms", ms(&alone.seen, 0.99)),
            ("seen_by_worker_p50_ms", ms(&loaded.seen, 0.5)),
            ("seen_by_worker_p99_ms", ms(&loaded.seen, 0.99)),
            ("prepared_late", f64::from(u8::from(alone.prepared_late || loaded.prepared_late))),
            ("signals_per_second", done.signals as f64 / seconds),
            ("starts_per_second", done.starts as f64 / seconds),
            ("load_p50_ms", ms(&done.latency, 0.5)),
            ("load_p99_ms", ms(&done.latency, 0.99)),
            ("requests_refused", context.client.refused() as f64),
        ]),
        usage: loaded.usage,
        latency: Some(lag_loaded),
        read_back: ReadBack {
            workflows: alone.read_back.workflows + loaded.read_back.workflows + done.read_back.workflows,
            events: alone.read_back.events + loaded.read_back.events + done.read_back.events,
            workflow_tasks_lost: alone.read_back.workflow_tasks_lost + loaded.read_back.workflow_tasks_lost,
            timer_lateness: None,
        },
    }])
}

/// Workflows whose timers are to fire.
struct Timers<'a> {
    context: &'a Context,
    worker: &'a Arc<Worker>,
    name: &'static str,
    workflows: u64,
}

/// What came of them.
struct Fired {
    usage: Usage,
    read_back: ReadBack,
    seen: Histogram,
    prepared_late: bool,
}

impl Fired {
    fn lag(&self) -> Histogram {
        self.read_back.timer_lateness.clone().unwrap_or_else(Histogram::new)
    }
}

impl Timers<'_> {
    /// Prepares the workflows at `per_second` or faster, waits until all timers have fired, beside `load` if there is one, and reads the
    /// histories. Returns also how many workflows were prepared a second.
    async fn fire(&self, per_second: f64, load: Option<&Load>) -> Result<(Fired, f64), BenchError> {
        let Timers { context, worker, name, workflows } = self;
        let workflows = *workflows;
        let lead = LEAD_MIN + Duration::from_secs_f64(workflows as f64 / per_second);
        let first = SystemTime::now() + lead;
        let first_unix_ms = first.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
        let last = first + Duration::from_millis(due_ms(workflows));
        let program = move |number: u64| Program::Timers {
            count: PER_WORKFLOW as u32,
            due_unix_ms: first_unix_ms + due_ms(number),
        };
        let prepare = {
            let (client, worker) = (context.client.clone(), Arc::clone(worker));
            let (queue, prefix) = (context.task_queue(), format!("{}-{name}", context.prefix));
            move |number: u64| {
                let (client, worker, program) = (client.clone(), worker.clone(), program(number));
                let (queue, id) = (queue.clone(), format!("{prefix}-{number}"));
                async move {
                    let completion = worker.completion(&id);
                    let execution = client.start(id, "bench", &queue, &program).await?;
                    Ok((Acknowledged { execution, expected: Expected::Ran(program) }, completion))
                }
            }
        };
        context.progress.phase(&format!("preparing timers, {name}"), workflows);
        let (before, began) = (worker.counts().workflow_tasks, Instant::now());
        let started =
            closed_loop(context.concurrency.max(8), Extent::Count(workflows), &context.progress, prepare).await?;
        let prepared = || worker.counts().workflow_tasks - before;
        context.until("timers' first workflow tasks", workflows, prepared).await?;
        let prepared_per_second = workflows as f64 / began.elapsed().as_secs_f64().max(1e-3);
        let left = first.duration_since(SystemTime::now()).unwrap_or_default();
        let prepared_late = left.is_zero();
        tokio::time::sleep(left.saturating_sub(LOAD_MARGIN)).await;
        drop(worker.take_timer_lag());

        context.progress.phase(&format!("workflows with fired timers, {name}"), workflows);
        let meter = context.meter().await?;
        let until = last + LOAD_MARGIN;
        let pressing = load.map(|load| load.press(until.duration_since(SystemTime::now()).unwrap_or_default()));
        let mut acknowledged = Vec::with_capacity(started.done.len());
        for (workflow, completion) in started.done {
            worker.wait(&workflow.execution.workflow_id, completion, lead + WORKFLOW_PATIENCE).await?;
            acknowledged.push(workflow);
            context.progress.step();
        }
        if let Some(pressing) = pressing {
            context.progress.phase("load ends", 0);
            pressing.await?;
        }
        let usage = meter.stop().await?;
        let seen = worker.take_timer_lag();
        let read_back = read_back(&context.client, acknowledged, &context.progress).await?;
        Ok((Fired { usage, read_back, seen, prepared_late }, prepared_per_second))
    }
}

/// When the timers of a workflow are due, behind those of the first one.
fn due_ms(number: u64) -> u64 {
    number * 1_000 * PER_WORKFLOW / PER_SECOND
}

/// Signals and starts without a worker, from many callers at a time, half of them each.
struct Load {
    shared: Arc<Shared>,
    callers: usize,
    pressed: std::sync::Mutex<(f64, Histogram)>,
}

struct Shared {
    client: Arc<Client>,
    receivers: Vec<(Execution, AtomicU64)>,
    started: std::sync::Mutex<Vec<Execution>>,
    queue: String,
    prefix: String,
    /// Numbers the operations.
    next: AtomicU64,
}

/// What the load did, all of it read back.
struct Done {
    signals: u64,
    starts: u64,
    seconds: f64,
    latency: Histogram,
    read_back: ReadBack,
}

impl Load {
    async fn prepare(context: &Context) -> Result<Load, BenchError> {
        let (client, queue) = (context.client.clone(), format!("{}-nobody", context.prefix));
        let start = {
            let (client, queue, prefix) = (client.clone(), queue.clone(), context.prefix.clone());
            move |number: u64| {
                let (client, queue, id) = (client.clone(), queue.clone(), format!("{prefix}-receiver-{number}"));
                async move { client.start(id, "bench", &queue, &Program::Idle).await }
            }
        };
        let receivers = RECEIVERS.min(context.count());
        context.progress.phase("starting receivers of signals", receivers);
        let started = closed_loop(context.concurrency, Extent::Count(receivers), &context.progress, start).await?;
        let shared = Shared {
            client,
            receivers: started.done.into_iter().map(|execution| (execution, AtomicU64::new(0))).collect(),
            started: std::sync::Mutex::new(Vec::new()),
            queue,
            prefix: context.prefix.clone(),
            next: AtomicU64::new(0),
        };
        let pressed = std::sync::Mutex::new((0.0, Histogram::new()));
        Ok(Load { shared: Arc::new(shared), callers: PRESSING * context.concurrency.max(1), pressed })
    }

    /// Presses for so long, from now on.
    fn press(&self, time: Duration) -> impl Future<Output = Result<(), BenchError>> + '_ {
        let began = Instant::now();
        let mut callers = JoinSet::new();
        for caller in 0..self.callers {
            let shared = Arc::clone(&self.shared);
            callers.spawn(async move {
                let mut latency = Histogram::new();
                while began.elapsed() < time {
                    let at = Instant::now();
                    let number = shared.next.fetch_add(1, Ordering::Relaxed);
                    if caller % 2 == 0 {
                        shared.signal(number).await?
                    } else {
                        shared.start(number).await?
                    }
                    latency.record(at.elapsed());
                }
                Ok::<_, BenchError>(latency)
            });
        }
        async move {
            let mut latency = Histogram::new();
            while let Some(caller) = callers.join_next().await {
                latency.merge(&caller.map_err(|panic| BenchError::Setup(panic.to_string()))??);
            }
            *self.pressed.lock().expect("nothing panics under it") = (began.elapsed().as_secs_f64(), latency);
            Ok(())
        }
    }

    async fn read_back(self, context: &Context) -> Result<Done, BenchError> {
        let (seconds, latency) = self.pressed.into_inner().expect("nothing panics under it");
        let shared = &self.shared;
        let started = std::mem::take(&mut *shared.started.lock().expect("nothing panics under it"));
        let starts = started.len() as u64;
        let unstarted = started.into_iter().map(|execution| Acknowledged { execution, expected: Expected::Unstarted });
        let mut signals = 0;
        let signalled = shared.receivers.iter().map(|(execution, sent)| {
            let sent = sent.load(Ordering::Relaxed);
            signals += sent;
            let expected = Expected::Signalled(u32::try_from(sent).unwrap_or(u32::MAX));
            Acknowledged { execution: execution.clone(), expected }
        });
        let acknowledged = signalled.chain(unstarted).collect();
        let read_back = read_back(&context.client, acknowledged, &context.progress).await?;
        Ok(Done { signals, starts, seconds, latency, read_back })
    }
}

impl Shared {
    async fn signal(&self, number: u64) -> Result<(), BenchError> {
        let (receiver, sent) = &self.receivers[number as usize % self.receivers.len()];
        self.client.signal(receiver, format!("{}-signal-{number}", self.prefix)).await?;
        sent.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    async fn start(&self, number: u64) -> Result<(), BenchError> {
        let id = format!("{}-start-{number}", self.prefix);
        let execution = self.client.start(id, "bench", &self.queue, &Program::Idle).await?;
        self.started.lock().expect("nothing panics under it").push(execution);
        Ok(())
    }
}
