//! The clock of a partition: what `now` is for everything that it decides.
//!
//! Time in a history must never go back, and a timer must neither fire early because the wall clock was wrong nor wait because it
//! was set right. So the wall clock only says where to start and where to drift to; between two looks time passes as the
//! monotonic clock says:
//!
//! ```text
//!   start   at the wall clock, or just behind the newest time in the log, whichever is later
//!   then    by the monotonic clock, drawn towards the wall clock by at most a tenth of the time that passes
//!   jumps   forward only, when the wall clock has been far ahead for half a minute (a machine that was suspended)
//! ```
//!
//! Every entry of the log carries a [`Hlc`], a hybrid logical clock (Kulkarni, Demirbas et al., 2014, in one number): the time in
//! nanoseconds, moved on by one where two entries would have the same.

use std::time::{Duration, Instant};

use everlog_kernel::Time;
use everlog_model::limits;
use everlog_raft::Hlc;

/// The time of a partition, for as long as one node leads it.
#[derive(Debug)]
pub(crate) struct PartitionClock {
    now: Time,
    hlc: Hlc,
    /// When `now` was last moved.
    read: Instant,
    /// Since when the wall clock has been so far ahead that it may be right.
    ahead_since: Option<Instant>,
}

/// What the two clocks of the machine say at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    /// The monotonic clock.
    pub(crate) instant: Instant,
    /// The wall clock.
    pub(crate) wall: Time,
    /// How much time was skipped so far. It is in the wall clock already.
    pub(crate) skipped: Duration,
}

impl Reading {
    /// The monotonic clock, with what was skipped.
    fn moment(self) -> Instant {
        self.instant + self.skipped
    }
}

impl PartitionClock {
    /// Starts behind `newest`, the newest time that the partition's log carries.
    pub(crate) fn start(newest: Hlc, reading: Reading) -> PartitionClock {
        let newest = Time(i64::try_from(newest.0).unwrap_or(i64::MAX));
        let now = reading.wall.max(newest.plus(Duration::from_nanos(1)));
        PartitionClock { now, hlc: Hlc(nanos(newest)), read: reading.moment(), ahead_since: None }
    }

    /// Moves time on to the moment of `reading`, and tells it.
    pub(crate) fn tick(&mut self, reading: Reading) -> Time {
        let elapsed = reading.moment().saturating_duration_since(self.read);
        self.read = self.read.max(reading.moment());
        let expected = self.now.plus(elapsed);
        let slew = elapsed / limits::CLOCK_SLEW_SHARE;
        self.now = if reading.wall >= expected {
            let ahead = reading.wall.since(expected);
            if self.is_believed(ahead, reading.moment()) { reading.wall } else { expected.plus(slew.min(ahead)) }
        } else {
            self.ahead_since = None;
            let behind = expected.since(reading.wall);
            Time(expected.0.saturating_sub(i64::try_from(slew.min(behind).as_nanos()).unwrap_or(0)))
        };
        self.now
    }

    /// Whether a wall clock that is `ahead` has been so for long enough to be right.
    fn is_believed(&mut self, ahead: Duration, instant: Instant) -> bool {
        if ahead < limits::CLOCK_STEP_MIN {
            self.ahead_since = None;
            return false;
        }
        let since = *self.ahead_since.get_or_insert(instant);
        let believed = instant.saturating_duration_since(since) >= limits::CLOCK_STEP_WAIT;
        if believed {
            self.ahead_since = None;
        }
        believed
    }

    /// The time of the last [`PartitionClock::tick`].
    pub(crate) fn now(&self) -> Time {
        self.now
    }

    /// [`PartitionClock::now`], or the newest time that an entry of the log or another partition has had, whichever is later.
    pub(crate) fn latest(&self) -> Time {
        self.now.max(Time(i64::try_from(self.hlc.0).unwrap_or(i64::MAX)))
    }

    /// Takes note of a time of another partition: entries from now on are later.
    pub(crate) fn observe(&mut self, time: Time) {
        self.hlc = self.hlc.max(Hlc(nanos(time)));
    }

    /// The clock of the next entry: later than that of every entry before it.
    pub(crate) fn next_hlc(&mut self) -> Hlc {
        self.hlc = Hlc(nanos(self.now).max(self.hlc.0.saturating_add(1)));
        self.hlc
    }
}

fn nanos(time: Time) -> u64 {
    u64::try_from(time.0).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;

    /// A clock that starts at 1000 s, and a function that reads it `seconds` after that with the wall clock `offset_s` off.
    fn clock() -> (PartitionClock, impl Fn(f64, i64) -> Reading) {
        let start = Instant::now();
        let reading = move |seconds: f64, offset_s: i64| Reading {
            instant: start + Duration::from_secs_f64(seconds),
            wall: Time((seconds * SECOND as f64) as i64 + (1000 + offset_s) * SECOND),
            skipped: Duration::ZERO,
        };
        (PartitionClock::start(Hlc(0), reading(0.0, 0)), reading)
    }

    fn seconds(time: Time) -> f64 {
        time.0 as f64 / SECOND as f64 - 1000.0
    }

    #[test]
    fn a_wall_clock_that_jumps_ahead_and_is_set_right_is_hardly_noticed() {
        let (mut clock, reading) = clock();
        for tenth in 1..=100 {
            clock.tick(reading(f64::from(tenth) / 10.0, 3600));
        }
        // Ten seconds with an hour too much: one second is what a tenth of them gives.
        assert!((10.0..=11.1).contains(&seconds(clock.now())), "{}", seconds(clock.now()));
        let wrong = clock.now();
        for tenth in 101..=300 {
            let before = clock.now();
            assert!(clock.tick(reading(f64::from(tenth) / 10.0, 0)) > before);
        }
        assert!(clock.now() > wrong);
        assert!((seconds(clock.now()) - 30.0).abs() < 0.2, "{}", seconds(clock.now()));
    }

    #[test]
    fn a_clock_that_was_ahead_at_the_start_goes_on_by_durations_when_it_is_set_right() {
        let (_, reading) = clock();
        let mut clock = PartitionClock::start(Hlc(0), reading(0.0, 3600));
        let start = clock.now();
        let mut before = start;
        for second in 1..=60 {
            let now = clock.tick(reading(f64::from(second), 0));
            let step = now.since(before).as_secs_f64();
            assert!((0.89..=1.0).contains(&step), "{step}");
            before = now;
        }
    }

    #[test]
    fn a_step_forward_that_stays_is_believed_after_half_a_minute() {
        let (mut clock, reading) = clock();
        for second in 1..=29 {
            clock.tick(reading(f64::from(second), 3600));
            assert!(seconds(clock.now()) < 40.0);
        }
        for second in 30..=32 {
            clock.tick(reading(f64::from(second), 3600));
        }
        assert!((seconds(clock.now()) - 3632.0).abs() < 0.01);
    }

    #[test]
    fn small_differences_are_slewed_in_both_directions() {
        for offset in [-2, 2] {
            let (mut clock, reading) = clock();
            for second in 1..=40 {
                let before = clock.now();
                let step = clock.tick(reading(f64::from(second), offset)).since(before).as_secs_f64();
                assert!((0.89..=1.11).contains(&step), "{step}");
            }
            assert!((seconds(clock.now()) - 40.0 - offset as f64).abs() < 0.01);
        }
    }

    #[test]
    fn time_starts_behind_everything_in_the_log_and_entries_differ() {
        let (_, reading) = clock();
        let newest = Hlc(5000 * SECOND as u64);
        let mut clock = PartitionClock::start(newest, reading(0.0, 0));
        assert!(clock.now() > Time(5000 * SECOND));
        let (first, second) = (clock.next_hlc(), clock.next_hlc());
        assert!(newest < first && first < second);
    }

    #[test]
    fn entries_are_later_than_what_was_seen_of_another_partition() {
        let (mut clock, _) = clock();
        let (now, seen) = (clock.now(), Time(7000 * SECOND));
        clock.observe(seen);
        assert!(clock.next_hlc() > Hlc(7000 * SECOND as u64));
        assert!(clock.latest() > seen && clock.now() < seen);
        clock.observe(Time(3));
        assert!(clock.next_hlc() > Hlc(7000 * SECOND as u64));
        // What is due does not become due by that.
        assert_eq!(clock.now(), now);
    }

    #[test]
    fn time_that_is_skipped_has_passed() {
        let (mut clock, reading) = clock();
        let skipped = Duration::from_secs(3600);
        let later = |seconds| Reading { skipped, ..reading(seconds, 3600) };
        assert!((seconds(clock.tick(later(1.0))) - 3601.0).abs() < 1e-6);
        assert!((seconds(clock.tick(later(2.0))) - 3602.0).abs() < 1e-6);
    }

    #[test]
    fn a_monotonic_clock_that_stands_still_makes_no_time_pass() {
        let (mut clock, reading) = clock();
        let now = clock.tick(reading(1.0, 5));
        assert_eq!(clock.tick(reading(1.0, 5)), now);
        assert_eq!(clock.tick(reading(0.5, 5)), now);
    }
}
