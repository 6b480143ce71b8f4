//! How fast a batch job goes: as many operations a second as it may, and a second's worth of them at once at the beginning.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// How far ahead of their time turns may come.
const BURST: Duration = Duration::from_secs(1);

/// How often a job that may do nothing looks whether that has changed.
const STANDSTILL_LOOK: Duration = Duration::from_secs(1);

/// Hands out turns.
#[derive(Debug)]
pub(super) struct Pace {
    /// When all turns so far would be over if none had come ahead of its time.
    over: Mutex<Instant>,
}

impl Pace {
    /// Begins now.
    pub(super) fn new() -> Pace {
        Pace { over: Mutex::new(Instant::now()) }
    }

    /// Waits for a turn, of which there are so many a second; how many, may change at any time.
    pub(super) async fn turn(&self, per_second: impl Fn() -> f64) {
        let interval = loop {
            let interval = Duration::try_from_secs_f64(1.0 / per_second());
            match interval {
                Ok(interval) if interval < Duration::from_secs(86_400) => break interval,
                _ => tokio::time::sleep(STANDSTILL_LOOK).await,
            }
        };
        let now = Instant::now();
        let over = {
            let mut over = self.over.lock();
            *over = (*over).max(now) + interval;
            *over
        };
        tokio::time::sleep(over.saturating_duration_since(now + BURST)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn time_of(pace: &Pace, turns: usize, per_second: f64) -> Duration {
        let begin = Instant::now();
        for _ in 0..turns {
            pace.turn(|| per_second).await;
        }
        begin.elapsed()
    }

    fn is_about(time: Duration, seconds: f64) -> bool {
        (time.as_secs_f64() - seconds).abs() < 0.01
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_is_ahead_and_the_rest_is_even() {
        let pace = Pace::new();
        assert!(is_about(time_of(&pace, 50, 50.0).await, 0.0));
        let time = time_of(&pace, 100, 50.0).await;
        assert!(is_about(time, 2.0), "{time:?}");
        // It goes faster as soon as it may.
        let time = time_of(&pace, 1000, 1000.0).await;
        assert!(is_about(time, 1.0), "{time:?}");
        // What was not used is not saved up beyond a second.
        tokio::time::advance(Duration::from_secs(60)).await;
        let time = time_of(&pace, 4, 2.0).await;
        assert!(is_about(time, 1.0), "{time:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_job_that_may_do_nothing_waits_until_it_may() {
        let (pace, begin) = (Pace::new(), Instant::now());
        let allowed = || if begin.elapsed() < Duration::from_secs(5) { 0.0 } else { 10.0 };
        pace.turn(allowed).await;
        assert!(is_about(begin.elapsed(), 5.0));
    }
}
