//! Closed-loop load: a fixed number of callers, each with one operation in flight.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::error::BenchError;
use crate::histogram::Histogram;
use crate::progress::Progress;

/// Operations of one run; a duration ends earlier, memory for what must be read back does not grow past this.
const OPERATIONS_MAX: u64 = 5_000_000;

/// When a run ends.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Extent {
    /// After so many operations.
    Count(u64),
    /// After so much time.
    Duration(Duration),
}

/// What a run did.
pub(crate) struct Load<T> {
    /// What the operations answered, in no order.
    pub(crate) done: Vec<T>,
    /// How long each took.
    pub(crate) latency: Histogram,
}

/// Runs `operation` (which gets the operation's number, from 0) from `callers` callers. The first error ends the run.
pub(crate) async fn closed_loop<T, F, Fut>(
    callers: usize,
    extent: Extent,
    progress: &Progress,
    operation: F,
) -> Result<Load<T>, BenchError>
where
    T: Send + 'static,
    F: Fn(u64) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = Result<T, BenchError>> + Send,
{
    let (count, deadline) = match extent {
        Extent::Count(count) => (count.min(OPERATIONS_MAX), None),
        Extent::Duration(duration) => (OPERATIONS_MAX, Some(Instant::now() + duration)),
    };
    let next = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..callers.max(1) {
        let (operation, next, progress) = (operation.clone(), next.clone(), progress.clone());
        tasks.spawn(async move {
            let mut load = Load { done: Vec::new(), latency: Histogram::new() };
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count || deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                    return Ok::<_, BenchError>(load);
                }
                let began = Instant::now();
                load.done.push(operation(number).await?);
                load.latency.record(began.elapsed());
                progress.step();
            }
        });
    }
    let mut total = Load { done: Vec::new(), latency: Histogram::new() };
    while let Some(task) = tasks.join_next().await {
        let load = task.map_err(|panic| BenchError::Setup(panic.to_string()))??;
        total.done.extend(load.done);
        total.latency.merge(&load.latency);
    }
    Ok(total)
}
