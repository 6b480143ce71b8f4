//! Workloads 13 to 16: the workflow of workload 1 at a fixed rate, with at most as many in flight as there are callers elsewhere. Users
//! are here, not at saturation: what a server pays for every wake-up, batch, fsync and page shows, and so does whether it makes some
//! wait for the sake of others (p99 over p50).

use std::collections::BTreeMap;
use std::sync::Arc;

use super::sequential_activities::start_and_wait;
use super::{Context, Outcome};
use crate::check::{Acknowledged, Expected, read_back};
use crate::error::BenchError;
use crate::load::{Extent, closed_loop, paced};
use crate::program::Program;

/// Workflows before the measured ones, as fast as they go.
const WARM_UP: u64 = 64;

pub(super) async fn run(context: &Context, rate: u64) -> Result<Vec<Outcome>, BenchError> {
    let worker = Arc::new(context.worker());
    let program = Program::Sequential { count: 1 };
    let one = |phase: &str| {
        let (client, worker, program) = (context.client.clone(), worker.clone(), program.clone());
        let (queue, prefix) = (context.task_queue(), format!("{}-{phase}", context.prefix));
        move |number: u64| {
            let (client, worker, program, queue) = (client.clone(), worker.clone(), program.clone(), queue.clone());
            let id = format!("{prefix}-{number}");
            async move { start_and_wait(&client, &worker, id, &queue, program).await }
        }
    };
    let count = match context.extent {
        Extent::Count(count) => count.max(1),
        Extent::Duration(duration) => ((duration.as_secs_f64() * rate as f64) as u64).max(1),
    };
    context.progress.phase("warming up", WARM_UP);
    closed_loop(context.concurrency, Extent::Count(WARM_UP), &context.progress, one("warm")).await?;
    let refused = context.client.refused();
    let meter = context.meter().await?;
    context.progress.phase("workflows", count);
    let paced = paced(rate, count, context.concurrency, &context.progress, one("run")).await?;
    let usage = meter.stop().await?;
    let acknowledged = paced
        .load
        .done
        .into_iter()
        .map(|execution| Acknowledged { execution, expected: Expected::Ran(program.clone()) });
    let read_back = read_back(&context.client, acknowledged.collect(), &context.progress).await?;
    let latency = paced.load.latency;
    let units = latency.total();
    let ms = |quantile| latency.quantile_us(quantile).unwrap_or_default() / 1000.0;
    Ok(vec![Outcome {
        part: "",
        unit: "workflow",
        units,
        extra: BTreeMap::from([
            ("wanted_per_second", rate as f64),
            ("achieved_per_second", units as f64 / usage.elapsed.as_secs_f64().max(1e-9)),
            ("p99_over_p50", ms(0.99) / ms(0.5).max(1e-3)),
            ("p999_ms", ms(0.999)),
            ("begun_late_p99_ms", paced.begun_late.quantile_us(0.99).unwrap_or_default() / 1000.0),
            ("requests_refused", (context.client.refused() - refused) as f64),
        ]),
        usage,
        latency: Some(latency),
        read_back,
    }])
}
