//! Workload 12: a mixed load, ten minutes unless told otherwise, to see what compactions and caches do over time. Of ten
//! operations six are workflows with one activity, two with ten, one is a workflow that gets five signals, and one a query
//! followed by a count. Memory is sampled throughout; flat means that its last third is no higher than its middle one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::sequential_activities::start_and_wait;
use super::{Context, Outcome, WORKFLOW_PATIENCE};
use crate::check::{Acknowledged, Expected, read_back};
use crate::client::{Client, Execution};
use crate::error::BenchError;
use crate::load::closed_loop;
use crate::measure::rss_bytes;
use crate::program::Program;
use crate::worker::Worker;

const SAMPLE_PERIOD: Duration = Duration::from_secs(1);
/// Samples that are kept; a day's worth.
const SAMPLES_MAX: usize = 86_400;
const SIGNALS: u32 = 5;

pub(super) async fn run(context: &Context) -> Result<Vec<Outcome>, BenchError> {
    let mix = Arc::new(Mix {
        worker: context.worker(),
        client: context.client.clone(),
        queue: context.task_queue(),
        prefix: context.prefix.clone(),
        queried: context
            .client
            .start(format!("{}-queried", context.prefix), "bench", &context.task_queue(), &Program::Idle)
            .await?,
    });
    let meter = context.meter().await?;
    let samples = Arc::new(Mutex::new(Vec::new()));
    let sampler = context.target().pid.map(|pid| tokio::spawn(sample(pid, samples.clone())));
    context.progress.phase("operations", 0);
    let operation = {
        let mix = mix.clone();
        move |number| {
            let mix = mix.clone();
            async move { mix.operation(number).await }
        }
    };
    let load = closed_loop(context.concurrency.max(8), context.extent, &context.progress, operation).await?;
    let usage = meter.stop().await?;
    if let Some(sampler) = sampler {
        sampler.abort();
    }
    let acknowledged = load.done.into_iter().flatten().collect();
    let mut extra = memory(&samples.lock().expect("never poisoned: nothing panics under it"));
    extra.insert("tasks_dropped", mix.worker.counts().tasks_dropped as f64);
    Ok(vec![Outcome {
        part: "",
        unit: "operation",
        units: load.latency.total(),
        usage,
        latency: Some(load.latency),
        read_back: read_back(&context.client, acknowledged, &context.progress).await?,
        extra,
    }])
}

struct Mix {
    worker: Worker,
    client: Arc<Client>,
    queue: String,
    prefix: String,
    queried: Execution,
}

impl Mix {
    async fn operation(&self, number: u64) -> Result<Option<Acknowledged>, BenchError> {
        let id = format!("{}-{number}", self.prefix);
        let program = match number % 10 {
            0..6 => Program::Sequential { count: 1 },
            6..8 => Program::Sequential { count: 10 },
            8 => return self.signalled(id).await.map(Some),
            _ => {
                self.client.query(&self.queried).await?;
                self.client.count("ExecutionStatus = 'Running'").await?;
                return Ok(None);
            }
        };
        let execution = start_and_wait(&self.client, &self.worker, id, &self.queue, program.clone()).await?;
        Ok(Some(Acknowledged { execution, expected: Expected::Ran(program) }))
    }

    async fn signalled(&self, id: String) -> Result<Acknowledged, BenchError> {
        let program = Program::Signals { count: SIGNALS };
        let completion = self.worker.completion(&id);
        let execution = self.client.start(id, "bench", &self.queue, &program).await?;
        for signal in 0..SIGNALS {
            self.client.signal(&execution, format!("{}-{signal}", execution.workflow_id)).await?;
        }
        self.worker.wait(&execution.workflow_id, completion, WORKFLOW_PATIENCE).await?;
        Ok(Acknowledged { execution, expected: Expected::Ran(program) })
    }
}

async fn sample(pid: u32, samples: Arc<Mutex<Vec<u64>>>) {
    for _ in 0..SAMPLES_MAX {
        let Ok(Some(rss)) = rss_bytes(pid) else { return };
        samples.lock().expect("never poisoned: nothing panics under it").push(rss);
        tokio::time::sleep(SAMPLE_PERIOD).await;
    }
}

fn memory(samples: &[u64]) -> BTreeMap<&'static str, f64> {
    let third = samples.len() / 3;
    if third == 0 {
        return BTreeMap::new();
    }
    let median = |part: &[u64]| {
        let mut sorted = part.to_vec();
        sorted.sort_unstable();
        sorted[sorted.len() / 2] as f64
    };
    let (middle, last) = (median(&samples[third..2 * third]), median(&samples[2 * third..]));
    BTreeMap::from([
        ("rss_bytes_middle_third", middle),
        ("rss_bytes_last_third", last),
        ("rss_last_over_middle", last / middle.max(1.0)),
    ])
}
