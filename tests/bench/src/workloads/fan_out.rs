//! Workload 5: one workflow schedules 1,000 activities with one workflow task and completes when all have. When more are
//! asked for, the next workflow follows. The latency is that of a whole workflow.

use std::collections::BTreeMap;
use std::time::Instant;

use super::sequential_activities::start_and_wait;
use super::{Context, Outcome};
use crate::check::{Acknowledged, Expected, read_back};
use crate::error::BenchError;
use crate::histogram::Histogram;
use crate::program::Program;

/// Activities per workflow; servers refuse more than 2,000 pending.
const PER_WORKFLOW: u64 = 1_000;

pub(super) async fn run(context: &Context) -> Result<Vec<Outcome>, BenchError> {
    let worker = context.worker();
    let count = context.count();
    let mut latency = Histogram::new();
    let mut acknowledged = Vec::new();
    let meter = context.meter().await?;
    context.progress.phase("workflows", count.div_ceil(PER_WORKFLOW));
    let mut done = 0;
    while done < count {
        let activities = PER_WORKFLOW.min(count - done);
        let program = Program::FanOut { count: activities as u32 };
        let (id, began) = (format!("{}-{done}", context.prefix), Instant::now());
        let execution = start_and_wait(&context.client, &worker, id, &context.task_queue(), program.clone()).await?;
        latency.record(began.elapsed());
        acknowledged.push(Acknowledged { execution, expected: Expected::Ran(program) });
        done += activities;
        context.progress.step();
    }
    let usage = meter.stop().await?;
    let counts = worker.counts();
    Ok(vec![Outcome {
        part: "",
        unit: "activity",
        units: count,
        usage,
        latency: Some(latency),
        read_back: read_back(&context.client, acknowledged, &context.progress).await?,
        extra: BTreeMap::from([
            ("workflow_tasks_per_unit", counts.workflow_tasks as f64 / count as f64),
            ("tasks_dropped", counts.tasks_dropped as f64),
        ]),
    }])
}
