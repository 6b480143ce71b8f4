//! Workload 4: 16 senders signal one workflow while its worker takes them in. A workflow gets so many signals and then
//! completes; when more are asked for, the next workflow follows.

use std::collections::BTreeMap;

use super::{Context, Outcome, WORKFLOW_PATIENCE};
use crate::check::{Acknowledged, Expected, read_back};
use crate::error::BenchError;
use crate::histogram::Histogram;
use crate::load::{Extent, closed_loop};
use crate::program::Program;

const SENDERS: usize = 16;
/// Signals per workflow; servers refuse more than 10,000.
const PER_WORKFLOW: u64 = 2_000;

pub(super) async fn run(context: &Context) -> Result<Vec<Outcome>, BenchError> {
    let worker = context.worker();
    let count = context.count();
    let refused = context.client.refused();
    let mut latency = Histogram::new();
    let mut acknowledged = Vec::new();
    let meter = context.meter().await?;
    context.progress.phase("signals", count);
    let mut sent = 0;
    while sent < count {
        let signals = PER_WORKFLOW.min(count - sent);
        let program = Program::Signals { count: signals as u32 };
        let id = format!("{}-{sent}", context.prefix);
        let completion = worker.completion(&id);
        let execution = context.client.start(id.clone(), "bench", &context.task_queue(), &program).await?;
        let (client, receiver) = (context.client.clone(), execution.clone());
        let send = move |number: u64| {
            let (client, receiver) = (client.clone(), receiver.clone());
            async move { client.signal(&receiver, format!("{}-{number}", receiver.workflow_id)).await }
        };
        let load = closed_loop(SENDERS, Extent::Count(signals), &context.progress, send).await?;
        latency.merge(&load.latency);
        worker.wait(&id, completion, WORKFLOW_PATIENCE).await?;
        acknowledged.push(Acknowledged { execution, expected: Expected::Ran(program) });
        sent += signals;
    }
    let usage = meter.stop().await?;
    let counts = worker.counts();
    Ok(vec![Outcome {
        part: "",
        unit: "signal",
        units: count,
        usage,
        latency: Some(latency),
        read_back: read_back(&context.client, acknowledged, &context.progress).await?,
        extra: BTreeMap::from([
            ("workflow_tasks_per_unit", counts.workflow_tasks as f64 / count as f64),
            ("tasks_dropped", counts.tasks_dropped as f64),
            ("requests_refused", (context.client.refused() - refused) as f64),
        ]),
    }])
}
