//! Workload 9: workflows that have answered their first workflow task and wait for a signal that never comes. What counts is
//! what each adds to memory and disk once the server has come to rest; what it takes right behind the burst is told too.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::{Context, Outcome};
use crate::check::{Acknowledged, Expected, read_back};
use crate::error::BenchError;
use crate::load::{Extent, Load, closed_loop};
use crate::measure::{disk_bytes, rss_bytes};
use crate::program::Program;

/// Fewer workflows say nothing about memory, and are not waited for.
const SETTLE_UNITS_MIN: u64 = 10_000;
/// The server is at rest when it has given nothing back for this long: longer than caches and flushes usually wait ...
const SETTLE_QUIET: Duration = Duration::from_secs(45);
/// ... and is not given more time than this.
const SETTLE_MAX: Duration = Duration::from_secs(180);
/// Less than this, in bytes, is noise.
const SETTLE_NOISE_BYTES: u64 = 2 << 20;

pub(super) async fn run(context: &Context) -> Result<Vec<Outcome>, BenchError> {
    let target = context.target();
    let memory = || target.pid.map_or(Ok(None), rss_bytes);
    let disk = || target.data_dir.as_deref().map(disk_bytes).transpose();
    let (memory_before, disk_before) = (memory()?, disk()?);
    let meter = context.meter().await?;
    let load = open_idle_workflows(context).await?;
    let usage = meter.stop().await?;
    let units = load.done.len() as u64;
    let busy = memory()?;
    if units >= SETTLE_UNITS_MIN {
        context.progress.phase("settling", 0);
        settle(&memory).await?;
    }
    let mut extra = BTreeMap::new();
    for (name, before, after) in [
        ("rss_bytes_per_unit_at_once", memory_before, busy),
        ("rss_bytes_per_unit", memory_before, memory()?),
        ("disk_bytes_per_unit", disk_before, disk()?),
    ] {
        if let (Some(before), Some(after)) = (before, after) {
            extra.insert(name, (after as f64 - before as f64) / units.max(1) as f64);
        }
    }
    Ok(vec![Outcome {
        part: "",
        unit: "workflow",
        units,
        usage,
        latency: Some(load.latency),
        read_back: read_back(&context.client, load.done, &context.progress).await?,
        extra,
    }])
}

/// Waits until the server's memory does not fall any more.
async fn settle(memory: &impl Fn() -> Result<Option<u64>, BenchError>) -> Result<(), BenchError> {
    let began = Instant::now();
    let (mut lowest, mut since) = (u64::MAX, began);
    while since.elapsed() < SETTLE_QUIET && began.elapsed() < SETTLE_MAX {
        let Some(now) = memory()? else { return Ok(()) };
        if now.saturating_add(SETTLE_NOISE_BYTES) < lowest {
            (lowest, since) = (now, Instant::now());
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    Ok(())
}

/// Opens as many idle workflows as the context asks for. They do not stick to the worker, which is gone afterwards.
pub(super) async fn open_idle_workflows(context: &Context) -> Result<Load<Acknowledged>, BenchError> {
    let count = context.count();
    let worker = context.worker_with(16, false);
    let (client, queue, prefix) = (context.client.clone(), context.task_queue(), context.prefix.clone());
    let open = move |number: u64| {
        let (client, queue, id) = (client.clone(), queue.clone(), format!("{prefix}-{number}"));
        async move {
            let execution = client.start(id, "bench", &queue, &Program::Idle).await?;
            Ok(Acknowledged { execution, expected: Expected::Ran(Program::Idle) })
        }
    };
    context.progress.phase("opening workflows", count);
    let load = closed_loop(context.concurrency.max(16), Extent::Count(count), &context.progress, open).await?;
    context.until("first workflow tasks", count, || worker.counts().workflow_tasks).await?;
    Ok(load)
}
