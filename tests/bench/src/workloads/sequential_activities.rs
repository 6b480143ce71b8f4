//! Workloads 1 and 2: workflows whose activities run one after the other. The latency is that of the whole workflow, from the
//! call that starts it to the acknowledgement of its last workflow task.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Context, Outcome, WORKFLOW_PATIENCE};
use crate::check::{Acknowledged, Expected, read_back};
use crate::client::{Client, Execution};
use crate::error::BenchError;
use crate::load::{Extent, closed_loop};
use crate::program::Program;
use crate::worker::Worker;

/// Workflows before the measured ones: connections, pollers and caches are then as they stay.
const WARM_UP: u64 = 16;

pub(super) async fn run(context: &Context, activities: u32) -> Result<Vec<Outcome>, BenchError> {
    let worker = Arc::new(context.worker());
    let program = Program::Sequential { count: activities };
    let one = |phase: &str| {
        let (client, worker, program) = (context.client.clone(), worker.clone(), program.clone());
        let (queue, prefix) = (context.task_queue(), format!("{}-{phase}", context.prefix));
        move |number: u64| {
            let (client, worker, program, queue) = (client.clone(), worker.clone(), program.clone(), queue.clone());
            let id = format!("{prefix}-{number}");
            async move { start_and_wait(&client, &worker, id, &queue, program).await }
        }
    };
    context.progress.phase("warming up", WARM_UP);
    closed_loop(context.concurrency, Extent::Count(WARM_UP), &context.progress, one("warm")).await?;
    let (refused, before) = (context.client.refused(), worker.counts());
    let meter = context.meter().await?;
    context.progress.phase("workflows", context.count());
    let load = closed_loop(context.concurrency, context.extent, &context.progress, one("run")).await?;
    let usage = meter.stop().await?;
    let after = worker.counts();
    let acknowledged =
        load.done.into_iter().map(|execution| Acknowledged { execution, expected: Expected::Ran(program.clone()) });
    let read_back = read_back(&context.client, acknowledged.collect(), &context.progress).await?;
    let units = load.latency.total();
    Ok(vec![Outcome {
        part: "",
        unit: "workflow",
        units,
        usage,
        latency: Some(load.latency),
        read_back,
        extra: BTreeMap::from([
            ("workflow_tasks_per_unit", (after.workflow_tasks - before.workflow_tasks) as f64 / units.max(1) as f64),
            ("histories_fetched", (after.histories_fetched - before.histories_fetched) as f64),
            ("tasks_dropped", (after.tasks_dropped - before.tasks_dropped) as f64),
            ("requests_refused", (context.client.refused() - refused) as f64),
        ]),
    }])
}

/// Starts a workflow and waits for its end.
pub(super) async fn start_and_wait(
    client: &Client,
    worker: &Worker,
    workflow_id: String,
    queue: &str,
    program: Program,
) -> Result<Execution, BenchError> {
    let completion = worker.completion(&workflow_id);
    let execution = client.start(workflow_id, "bench", queue, &program).await?;
    worker.wait(&execution.workflow_id, completion, WORKFLOW_PATIENCE).await?;
    Ok(execution)
}
