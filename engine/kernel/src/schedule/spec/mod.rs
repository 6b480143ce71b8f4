//! When a schedule is due: calendars, intervals and what is excluded from them, by the clocks of a place, with jitter.
//!
//! ```text
//!   ScheduleSpec ──canonical()──▶ the same in structured calendars and intervals ──Compiled::new──▶ next(seed, after)
//! ```
//!
//! All of it is what Temporal does, to the second at which clocks are put back, because callers rely on it: see
//! service/worker/scheduler/spec.go and calendar.go of its server. Nothing here reads a clock.

mod calendar;
mod jitter;
mod parse;
mod validate;
mod zone;
mod zone_data;

use everlog_proto::api::schedule::v1::{IntervalSpec, Range, ScheduleSpec, StructuredCalendarSpec};
use everlog_proto::wkt;

use self::calendar::Calendar;
use self::zone::Zone;
use crate::Time;

const SECOND: i64 = 1_000_000_000;

/// Years that a calendar can name. After the last one no schedule is due.
const YEARS: std::ops::RangeInclusive<i32> = 2000..=2100;

/// Times that are looked at, each excluded, before a search is given up (`scheduler.specMaxIterations`).
const CANDIDATES_MAX: usize = 2 * 7 * 24 * 3600;

/// A spec, ready to be asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Compiled {
    calendars: Box<[Calendar]>,
    excluded: Box<[Calendar]>,
    /// Interval and phase, whole seconds.
    intervals: Box<[(i64, i64)]>,
    zone: Zone,
    /// No time is before this second.
    start: i64,
    /// No time is behind this.
    end: Option<Time>,
    /// Nanoseconds.
    jitter: i64,
}

/// A time at which a schedule is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// What the spec says, in whole seconds.
    pub nominal: Time,
    /// The same with jitter.
    pub actual: Time,
}

/// A search was given up: too many times in a row are excluded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the schedule calendar specification has too many exclusions. Please modify the specification.")]
pub struct TooManyExclusions;

/// The spec as it is kept and shown: calendars in text and cron strings have become structured calendars and intervals.
///
/// # Errors
///
/// What is wrong with the spec, in Temporal's words.
pub fn canonical(mut spec: ScheduleSpec) -> Result<ScheduleSpec, String> {
    validate::durations(&spec)?;
    for calendar in std::mem::take(&mut spec.calendar) {
        spec.structured_calendar.push(parse::calendar(calendar)?);
    }
    #[expect(deprecated, reason = "clients still send it")]
    for calendar in std::mem::take(&mut spec.exclude_calendar) {
        spec.exclude_structured_calendar.push(parse::calendar(calendar)?);
    }
    let mut cron_zone: Option<String> = None;
    for text in std::mem::take(&mut spec.cron_string) {
        let (cron, zone) = parse::cron(&text)?;
        // All must agree, also in that they name none.
        if cron_zone.as_ref().is_some_and(|other| *other != zone) {
            return Err(CONFLICTING_ZONES.to_owned());
        }
        cron_zone = Some(zone);
        match cron {
            parse::Cron::Calendar(calendar) => spec.structured_calendar.push(calendar),
            parse::Cron::Interval(interval) => spec.interval.push(interval),
        }
    }
    if let Some(zone) = cron_zone.filter(|zone| !zone.is_empty()) {
        if !spec.timezone_name.is_empty() && spec.timezone_name != zone || !spec.timezone_data.is_empty() {
            return Err(CONFLICTING_ZONES.to_owned());
        }
        spec.timezone_name = zone;
    }
    spec.structured_calendar.iter().try_for_each(validate::calendar)?;
    spec.interval.iter().try_for_each(validate::interval)?;
    Zone::of(&spec)?;
    Ok(spec)
}

const CONFLICTING_ZONES: &str = "conflicting timezone names";

/// Writes out what ranges leave to defaults, as descriptions show it.
pub fn with_defaults(spec: &mut ScheduleSpec) {
    for calendar in spec.structured_calendar.iter_mut().chain(&mut spec.exclude_structured_calendar) {
        let StructuredCalendarSpec { second, minute, hour, day_of_month, month, year, day_of_week, comment: _ } =
            calendar;
        for ranges in [second, minute, hour, day_of_month, month, year, day_of_week] {
            for range in ranges {
                range.end = range.end.max(range.start);
                if range.step == 0 {
                    range.step = 1;
                }
            }
        }
    }
}

impl Compiled {
    /// Makes a canonical spec ready.
    ///
    /// # Errors
    ///
    /// Its time zone is unknown, or its data are none.
    pub fn new(spec: &ScheduleSpec) -> Result<Compiled, String> {
        let zone = Zone::of(spec)?;
        let compile = |calendars: &[StructuredCalendarSpec]| calendars.iter().map(Calendar::new).collect();
        let interval = |interval: &IntervalSpec| {
            let seconds = |duration: &Option<wkt::Duration>| nanos(duration.as_ref()) / SECOND;
            (seconds(&interval.interval).max(1), seconds(&interval.phase).max(0))
        };
        Ok(Compiled {
            calendars: compile(&spec.structured_calendar),
            excluded: compile(&spec.exclude_structured_calendar),
            intervals: spec.interval.iter().map(interval).collect(),
            zone,
            start: spec.start_time.as_ref().map_or(0, |start| Time::from_proto(start).0.div_euclid(SECOND)),
            end: spec.end_time.as_ref().map(Time::from_proto),
            jitter: nanos(spec.jitter.as_ref()).max(0),
        })
    }

    /// The first time behind `after`; `None` if there is none. `seed` decides the jitter, with the time.
    ///
    /// # Errors
    ///
    /// [`TooManyExclusions`].
    pub fn next(&self, seed: &str, after: Time) -> Result<Option<Due>, TooManyExclusions> {
        let mut after = after.0.div_euclid(SECOND).max(self.start - 1);
        let last = self.last_second();
        for _ in 0..CANDIDATES_MAX {
            let Some(nominal) = self.next_nominal(after).filter(|nominal| *nominal <= last) else { return Ok(None) };
            if !self.is_excluded(nominal) {
                return Ok(Some(self.with_jitter(seed, nominal)));
            }
            after = nominal;
        }
        Err(TooManyExclusions)
    }

    /// The most that a time is put off, nanoseconds.
    pub(super) fn jitter(&self) -> i64 {
        self.jitter
    }

    /// The last second that can be a time.
    fn last_second(&self) -> i64 {
        let of_years = calendar::seconds(*YEARS.end() + 1, 1, 1, 0, 0, 0) - 1;
        self.end.map_or(of_years, |end| end.0.div_euclid(SECOND).min(of_years))
    }

    /// The first second behind `after` that a calendar or an interval names, excluded or not.
    fn next_nominal(&self, after: i64) -> Option<i64> {
        let calendars = self.calendars.iter().filter_map(|calendar| calendar.next(after, &self.zone));
        let intervals = self.intervals.iter().map(|(interval, phase)| {
            // As Temporal computes it, before the epoch as well.
            ((after - phase) / interval + 1) * interval + phase
        });
        calendars.chain(intervals).min()
    }

    fn is_excluded(&self, second: i64) -> bool {
        self.excluded.iter().any(|calendar| calendar.matches(second, &self.zone))
    }

    fn with_jitter(&self, seed: &str, nominal: i64) -> Due {
        // Not beyond the next time.
        let most = match self.next_nominal(nominal) {
            Some(following) if self.jitter > 0 => self.jitter.min((following - nominal).saturating_mul(SECOND)),
            _ => self.jitter,
        };
        let time = Time(nominal.saturating_mul(SECOND));
        Due { nominal: time, actual: Time(time.0.saturating_add(jitter::nanos(seed, nominal, most))) }
    }
}

/// A duration in nanoseconds, saturating; zero where there is none.
fn nanos(duration: Option<&wkt::Duration>) -> i64 {
    let nanos =
        |duration: &wkt::Duration| duration.seconds.saturating_mul(SECOND).saturating_add(i64::from(duration.nanos));
    duration.map_or(0, nanos)
}

/// Calls `visit` for each number in `ranges` that a field can have. Those of exclusions may be anything.
fn each_of(ranges: &[Range], mut visit: impl FnMut(i32)) {
    const LAST: i64 = *YEARS.end() as i64;
    for range in ranges {
        let (first, end) = (i64::from(range.start), i64::from(range.end.max(range.start)));
        let step = if range.step <= 0 { 1 } else { i64::from(range.step) };
        let first = if first < 0 { first.rem_euclid(step) } else { first };
        let mut number = first;
        while number <= end.min(LAST) {
            visit(i32::try_from(number).unwrap_or(i32::MAX));
            number += step;
        }
    }
}

#[cfg(test)]
mod tests;
