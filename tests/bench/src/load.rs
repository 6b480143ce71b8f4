//! Load in two shapes: *closed loop*, a fixed number of callers with one operation in flight each, and *paced*, operations that are
//! due at fixed instants whether or not those before them are done.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, mpsc};
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

/// What a paced run did.
pub(crate) struct Paced<T> {
    /// How long each operation took from the instant at which it was due: what a caller would have seen who did not know that another
    /// one was late. So a server that stops for a while pays for all that was due meanwhile.
    pub(crate) load: Load<T>,
    /// How much later than due the operations were begun, because too many were in flight or this program was not in time.
    pub(crate) begun_late: Histogram,
}

/// Begins `count` operations at instants that lie `1 / rate` seconds apart, at most `in_flight_max` at a time: one that finds no room
/// waits for it, and its latency counts from when it was due. The first error ends the run.
pub(crate) async fn paced<T, F, Fut>(
    rate: u64,
    count: u64,
    in_flight_max: usize,
    progress: &Progress,
    operation: F,
) -> Result<Paced<T>, BenchError>
where
    T: Send + 'static,
    F: Fn(u64) -> Fut,
    Fut: Future<Output = Result<T, BenchError>> + Send + 'static,
{
    let mut dues = dues(rate.max(1), count.min(OPERATIONS_MAX));
    let room = Arc::new(Semaphore::new(in_flight_max.max(1)));
    let mut tasks: JoinSet<Result<(T, Duration), BenchError>> = JoinSet::new();
    let mut begun_late = Histogram::new();
    let mut total = Load { done: Vec::new(), latency: Histogram::new() };
    while let Some((number, due)) = dues.recv().await {
        let place = Arc::clone(&room).acquire_owned().await.map_err(|closed| BenchError::Setup(closed.to_string()))?;
        begun_late.record(due.elapsed());
        let (operation, progress) = (operation(number), progress.clone());
        tasks.spawn(async move {
            let done = operation.await?;
            let latency = due.elapsed();
            drop(place);
            progress.step();
            Ok((done, latency))
        });
        while let Some(ended) = tasks.try_join_next() {
            total.add(ended)?;
        }
    }
    while let Some(ended) = tasks.join_next().await {
        total.add(ended)?;
    }
    Ok(Paced { load: total, begun_late })
}

impl<T> Load<T> {
    fn add(
        &mut self,
        ended: Result<Result<(T, Duration), BenchError>, tokio::task::JoinError>,
    ) -> Result<(), BenchError> {
        let (done, latency) = ended.map_err(|panic| BenchError::Setup(panic.to_string()))??;
        self.done.push(done);
        self.latency.record(latency);
        Ok(())
    }
}

/// Numbers from 0 and the instants at which they are due, each sent at its instant. By a thread of its own: timers of the runtime keep
/// whole milliseconds, and would make bursts of what is to come evenly.
fn dues(rate: u64, count: u64) -> mpsc::UnboundedReceiver<(u64, Instant)> {
    let (sender, receiver) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        let begin = Instant::now();
        for number in 0..count {
            let due = begin + Duration::from_nanos(number * 1_000_000_000 / rate);
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            if sender.send((number, due)).is_err() {
                return;
            }
        }
    });
    receiver
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn latency_counts_from_when_an_operation_was_due() {
        // One at a time, the first of which stops the others: they were due long before it ends.
        let slow = Duration::from_millis(60);
        let progress = Progress::start();
        let run = paced(1_000, 20, 1, &progress, move |number| async move {
            tokio::time::sleep(if number == 0 { slow } else { Duration::ZERO }).await;
            Ok(number)
        });
        let paced = run.await.unwrap();
        assert_eq!(paced.load.done, (0..20).collect::<Vec<_>>());
        let least = paced.load.latency.quantile_us(0.01).unwrap();
        assert!(least >= (slow.as_micros() / 2) as f64, "{least}");
        assert!(paced.begun_late.quantile_us(1.0).unwrap() >= (slow.as_micros() / 2) as f64);
    }

    #[tokio::test]
    async fn an_error_ends_a_paced_run() {
        let progress = Progress::start();
        let run = paced(100_000, 50, 4, &progress, |number| async move {
            if number == 7 { Err(BenchError::Setup("seven".to_owned())) } else { Ok(()) }
        });
        assert!(run.await.is_err());
    }
}
