//! The pace of a node under load: how long the batches of its partitions wait for company, and when they leave.
//!
//! An entry in Raft, an fsync and a turn of a task cost the same for a batch of one command as for a batch of a hundred. So larger batches
//! save CPU, but commands wait for each other. As long as the node's threads have time to spare, saving CPU gains nobody anything, and no
//! batch waits. The less time they have to spare, the longer batches wait; a node that is busy all the time answers sooner for it, because
//! the CPU that is saved is what everybody waits for. The wait adjusts itself: batches that wait too long leave the threads idle.

use std::sync::Arc;
use std::time::{Duration, Instant};

use everlog_model::limits;
use parking_lot::Mutex;
use tokio::runtime::{Handle, RuntimeMetrics};

/// Shared by the partitions of a node.
#[derive(Debug)]
pub(crate) struct Pace {
    /// Departures are counted from here.
    epoch: Instant,
    runtime: RuntimeMetrics,
    load: Mutex<Load>,
}

impl Pace {
    /// The pace of the node whose tasks run where this is called.
    pub(crate) fn new() -> Arc<Pace> {
        let now = Instant::now();
        Arc::new(Pace { epoch: now, runtime: Handle::current().metrics(), load: Mutex::new(Load::new(now)) })
    }

    /// How long at `now` a batch that was begun at `since` is to wait: until the next common departure behind `since`.
    pub(crate) fn patience(&self, since: Instant, now: Instant) -> Duration {
        let mut load = self.load.lock();
        if load.is_due(now) {
            let workers = self.runtime.num_workers();
            let busy = (0..workers).map(|worker| self.runtime.worker_total_busy_duration(worker)).sum();
            load.sample(now, busy, workers);
        }
        until_departure(self.epoch, load.linger(), since, now)
    }
}

/// How long at `now` a batch that was begun at `since` is to wait if batches leave `linger` apart.
fn until_departure(epoch: Instant, linger: Duration, since: Instant, now: Instant) -> Duration {
    if linger.is_zero() {
        return Duration::ZERO;
    }
    let departures = since.saturating_duration_since(epoch).as_nanos() / linger.as_nanos() + 1;
    let departure = Duration::from_nanos(u64::try_from(departures * linger.as_nanos()).unwrap_or(u64::MAX));
    departure.saturating_sub(now.saturating_duration_since(epoch))
}

/// How much of their time the threads that run tasks have had to do something lately.
#[derive(Debug)]
struct Load {
    sampled: Instant,
    /// What they had done until then, over all threads.
    busy: Duration,
    /// Between 0 and 1.
    share: f64,
}

impl Load {
    fn new(now: Instant) -> Load {
        Load { sampled: now, busy: Duration::ZERO, share: 0.0 }
    }

    fn is_due(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.sampled) >= limits::NODE_LOAD_SAMPLE_INTERVAL
    }

    /// Takes note of how long `workers` threads have been busy until `now`, all in all.
    fn sample(&mut self, now: Instant, busy: Duration, workers: usize) {
        let possible = now.saturating_duration_since(self.sampled).as_secs_f64() * workers.max(1) as f64;
        let share = (busy.saturating_sub(self.busy).as_secs_f64() / possible.max(f64::MIN_POSITIVE)).min(1.0);
        // A smooth mean over the last few samples. What happened long ago, on a node that was idle meanwhile, does not count.
        let rest = now.saturating_duration_since(self.sampled) > 10 * limits::NODE_LOAD_SAMPLE_INTERVAL;
        self.share = if rest { share } else { 0.75 * self.share + 0.25 * share };
        (self.sampled, self.busy) = (now, busy);
    }

    /// How far apart batches leave. Whole milliseconds, because that is what timers keep.
    fn linger(&self) -> Duration {
        let (from, to) = limits::NODE_LOAD_LINGER;
        let longest = limits::PARTITION_BATCH_LINGER_MAX.as_millis() as f64;
        let linger = ((self.share - from) / (to - from)).clamp(0.0, 1.0) * longest;
        Duration::from_millis(linger.round() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: Duration = limits::NODE_LOAD_SAMPLE_INTERVAL;

    #[test]
    fn batches_that_are_begun_between_two_departures_leave_together() {
        let epoch = Instant::now();
        let linger = Duration::from_millis(10);
        let at = |ms| epoch + Duration::from_millis(ms);
        let waits = [(at(0), at(0)), (at(4), at(4)), (at(4), at(9)), (at(4), at(30)), (at(10), at(12))]
            .map(|(since, now)| until_departure(epoch, linger, since, now).as_millis());
        assert_eq!(waits, [10, 6, 1, 0, 8]);
        assert_eq!(until_departure(epoch, Duration::ZERO, at(4), at(4)), Duration::ZERO);
    }

    /// The lingers that follow on samples of `share` of two threads' time.
    fn lingers(load: &mut Load, shares: &[f64]) -> Vec<u128> {
        let linger = |share: &f64| {
            let busy = load.busy + (SAMPLE * 2).mul_f64(*share);
            let now = load.sampled + SAMPLE;
            assert!(load.is_due(now) && !load.is_due(now - SAMPLE / 2));
            load.sample(now, busy, 2);
            load.linger().as_millis()
        };
        shares.iter().map(linger).collect()
    }

    #[test]
    fn batches_wait_the_longer_the_busier_the_node_is() {
        let mut load = Load::new(Instant::now());
        let longest = limits::PARTITION_BATCH_LINGER_MAX.as_millis();
        let (from, to) = limits::NODE_LOAD_LINGER;
        assert!(lingers(&mut load, &[from; 20]).iter().all(|linger| *linger == 0));
        let rising = lingers(&mut load, &[1.0; 20]);
        assert!(rising.is_sorted(), "{rising:?}");
        assert!(rising[0] < longest && rising[19] == longest, "{rising:?}");
        let level = lingers(&mut load, &[(from + to) / 2.0; 40]);
        assert_eq!(level[39], longest / 2);
    }

    #[test]
    fn what_was_before_a_rest_does_not_count() {
        let mut load = Load::new(Instant::now());
        lingers(&mut load, &[1.0; 20]);
        load.sample(load.sampled + SAMPLE * 1000, load.busy + SAMPLE, 2);
        assert_eq!(load.linger(), Duration::ZERO);
    }
}
