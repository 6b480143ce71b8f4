//! The pace of a node under load: when the batches of its partitions leave, so that they share an fsync.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::limits;

/// Shared by the partitions of a node.
#[derive(Debug)]
pub(crate) struct Pace {
    /// Departures are counted from here.
    epoch: Instant,
    /// Commands whose rows are not durable yet.
    waiting: AtomicUsize,
}

impl Pace {
    pub(crate) fn new() -> Arc<Pace> {
        Arc::new(Pace { epoch: Instant::now(), waiting: AtomicUsize::new(0) })
    }

    /// Whether so many callers wait for an fsync that it pays to let more of them share one.
    pub(crate) fn is_busy(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) >= limits::NODE_COMMANDS_BUSY
    }

    /// How long at `now` a batch that was begun at `since` is to wait for the next common departure behind `since`.
    pub(crate) fn until_departure(&self, since: Instant, now: Instant) -> Duration {
        let interval = limits::PARTITION_BATCH_LINGER_MAX.as_nanos();
        let departures = since.saturating_duration_since(self.epoch).as_nanos() / interval + 1;
        let departure = Duration::from_nanos(u64::try_from(departures * interval).unwrap_or(u64::MAX));
        departure.saturating_sub(now.saturating_duration_since(self.epoch))
    }
}

/// Commands of a batch, which count as waiting until they are dropped.
#[derive(Debug)]
pub(crate) struct Commands {
    pace: Arc<Pace>,
    count: usize,
}

impl Commands {
    pub(crate) fn none(pace: &Arc<Pace>) -> Commands {
        Commands { pace: Arc::clone(pace), count: 0 }
    }

    /// One more.
    pub(crate) fn add(&mut self) {
        self.count += 1;
        self.pace.waiting.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Hands them over; none are left here.
    pub(crate) fn take(&mut self) -> Commands {
        std::mem::replace(self, Commands::none(&self.pace))
    }
}

impl Drop for Commands {
    fn drop(&mut self) {
        self.pace.waiting.fetch_sub(self.count, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_that_are_begun_between_two_departures_leave_together() {
        let pace = Pace::new();
        let at = |tenths: u32| pace.epoch + limits::PARTITION_BATCH_LINGER_MAX * tenths / 10;
        let waits = [(at(0), at(0)), (at(4), at(4)), (at(4), at(9)), (at(4), at(30)), (at(10), at(12))]
            .map(|(since, now)| pace.until_departure(since, now));
        let tenth = limits::PARTITION_BATCH_LINGER_MAX / 10;
        assert_eq!(waits, [tenth * 10, tenth * 6, tenth, Duration::ZERO, tenth * 8]);
    }

    #[test]
    fn a_node_is_busy_while_many_commands_wait() {
        let pace = Pace::new();
        let (mut one, mut other) = (Commands::none(&pace), Commands::none(&pace));
        for _ in 1..limits::NODE_COMMANDS_BUSY {
            one.add();
        }
        assert!(!pace.is_busy());
        other.add();
        assert!(pace.is_busy());
        let in_flight = one.take();
        assert_eq!((one.count(), in_flight.count()), (0, limits::NODE_COMMANDS_BUSY - 1));
        assert!(pace.is_busy());
        drop(in_flight);
        assert!(!pace.is_busy());
    }
}
