//! Cron schedules of workflows: what may be written, and how long a run waits for its turn.
//!
//! | written | its times |
//! |---|---|
//! | `30 9 * * mon-fri` | the minutes whose minute, hour, day of month, month and day of week match: see [`fields`] |
//! | `@hourly`, `@daily`, `@midnight`, `@weekly`, `@monthly`, `@yearly`, `@annually` | the first minute of each |
//! | `@every 90m` | that long after the time before, in whole seconds |
//!
//! `CRON_TZ=Europe/Berlin` or `TZ=...` and a space may stand in front of all of them; the fields are then matched with the clocks
//! there, as they are shown: a time that is skipped in spring has no turn, and one that comes twice in autumn has two. Without
//! it they are those of UTC. All this is as a Temporal server has it.

mod fields;

use std::time::Duration;

use chrono::{DateTime, Datelike, NaiveDate, NaiveTime, TimeDelta, TimeZone, Timelike, Utc};
use chrono_tz::Tz;

use self::fields::{Calendar, Day};
use crate::{Rejection, Time, go_duration};

const SECOND: i64 = 1_000_000_000;
const MINUTE_SECONDS: i64 = 60;
const HOUR_SECONDS: i64 = 3600;
/// How far ahead a time is looked for.
const YEARS_MAX: i32 = 5;

/// When the runs of a workflow begin.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Cron {
    /// In steps of whole seconds from the time before.
    Every(Duration),
    /// At the minutes that match, by the clocks of a place.
    At(Box<Calendar>, Tz),
}

/// What is wrong with a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadCron {
    /// It cannot be read.
    #[error("invalid CronSchedule.")]
    Unreadable,
    /// It is for times that there are not, like the 30th of February.
    #[error("invalid CronSchedule, no time can be found to satisfy the schedule")]
    Never,
}

impl From<BadCron> for Rejection {
    fn from(bad: BadCron) -> Rejection {
        Rejection::invalid(bad.to_string())
    }
}

/// Refuses a schedule that no run can follow. An empty one is none.
pub(crate) fn validate(schedule: &str) -> Result<(), BadCron> {
    if schedule.is_empty() { Ok(()) } else { Cron::parse(schedule).map(|_| ()) }
}

impl Cron {
    /// What is written.
    pub(crate) fn parse(schedule: &str) -> Result<Cron, BadCron> {
        let (zone, rest) = zone(schedule).ok_or(BadCron::Unreadable)?;
        if let Some(interval) = rest.strip_prefix("@every ") {
            let interval = go_duration::parse(interval).map_err(|_| BadCron::Unreadable)?;
            let seconds = u64::try_from(interval / SECOND).unwrap_or(0);
            return Ok(Cron::Every(Duration::from_secs(seconds.max(1))));
        }
        let fields = if rest.starts_with('@') { descriptor(rest).ok_or(BadCron::Unreadable)? } else { rest };
        let calendar = Calendar::parse(fields).ok_or(BadCron::Unreadable)?;
        if !calendar.has_days() {
            return Err(BadCron::Never);
        }
        Ok(Cron::At(Box::new(calendar), zone))
    }

    /// How long to wait at `now` for the first turn behind `last` that has not passed, in whole seconds; `None` if there is no
    /// such turn within five years. A `last` that is still to come (the run did not wait for it) does not count.
    pub(crate) fn backoff(&self, last: Time, now: Time) -> Option<Duration> {
        let last = last.min(now);
        let next = match self {
            Cron::Every(interval) => every(*interval, last, now)?,
            Cron::At(calendar, zone) => next_match(calendar, *zone, last.max(Time(now.0.saturating_sub(1))))?,
        };
        Some(Duration::from_secs(next.since(now).as_nanos().div_ceil(SECOND as u128) as u64))
    }
}

/// The place whose clocks count, and what is written behind it.
fn zone(schedule: &str) -> Option<(Tz, &str)> {
    let named = schedule.strip_prefix("TZ=").or_else(|| schedule.strip_prefix("CRON_TZ="));
    let Some(named) = named else { return Some((Tz::UTC, schedule)) };
    let (name, rest) = named.split_once(' ')?;
    // The clocks of the server are nobody's.
    let zone = if name.is_empty() || name == "Local" { Tz::UTC } else { name.parse().ok()? };
    Some((zone, rest.trim()))
}

/// The fields that a word stands for.
fn descriptor(word: &str) -> Option<&'static str> {
    Some(match word {
        "@yearly" | "@annually" => "0 0 1 1 *",
        "@monthly" => "0 0 1 * *",
        "@weekly" => "0 0 * * 0",
        "@daily" | "@midnight" => "0 0 * * *",
        "@hourly" => "0 * * * *",
        _ => return None,
    })
}

/// The first of the times in steps of `interval` from `last`, each on a whole second, that is not before `now`.
fn every(interval: Duration, last: Time, now: Time) -> Option<Time> {
    let interval = i64::try_from(interval.as_nanos()).ok()?;
    let first = last.0.div_euclid(SECOND).checked_mul(SECOND)?.checked_add(interval)?;
    let missed = now.0.saturating_sub(first).max(0);
    let steps = missed / interval + i64::from(missed % interval > 0);
    Some(Time(first.checked_add(steps.checked_mul(interval)?)?))
}

/// The first whole minute behind `after` that matches.
fn next_match(calendar: &Calendar, zone: Tz, after: Time) -> Option<Time> {
    let local = DateTime::<Utc>::from_timestamp_nanos(after.0).with_timezone(&zone);
    let first = local.timestamp() + MINUTE_SECONDS - i64::from(local.second());
    let today = at(zone, first)?.date_naive();
    let mut date = today;
    while date.year() <= today.year() + YEARS_MAX {
        if calendar.has_day(day(date)) {
            let from = if date == today { Some(first) } else { beginning(zone, date) };
            if let Some(found) = from.and_then(|from| first_match_of_day(calendar, zone, date, from)) {
                return found.checked_mul(SECOND).map(Time);
            }
        }
        date = date.succ_opt()?;
    }
    None
}

/// The first matching minute of `date`, from the whole minute `from` on, in Unix seconds.
fn first_match_of_day(calendar: &Calendar, zone: Tz, date: NaiveDate, from: i64) -> Option<i64> {
    let mut second = from;
    loop {
        let local = at(zone, second)?;
        if local.date_naive() != date {
            return None;
        }
        if !calendar.has_hour(local.hour()) {
            second += HOUR_SECONDS - i64::from(local.minute()) * MINUTE_SECONDS - i64::from(local.second());
        } else if !calendar.has_minute(local.minute()) {
            second += MINUTE_SECONDS;
        } else {
            return Some(second);
        }
    }
}

/// When the day begins, in Unix seconds: not at midnight where clocks skip that. `None` for a day that a place has skipped.
fn beginning(zone: Tz, date: NaiveDate) -> Option<i64> {
    const STEP_MINUTES: i64 = 15;
    let midnight = date.and_time(NaiveTime::MIN);
    (0..24 * 60 / STEP_MINUTES).find_map(|step| {
        let shown = midnight.checked_add_signed(TimeDelta::minutes(step * STEP_MINUTES))?;
        Some(zone.from_local_datetime(&shown).earliest()?.timestamp())
    })
}

fn at(zone: Tz, second: i64) -> Option<DateTime<Tz>> {
    zone.timestamp_opt(second, 0).single()
}

fn day(date: NaiveDate) -> Day {
    Day { month: date.month(), of_month: date.day(), of_week: date.weekday().num_days_from_sunday() }
}

#[cfg(test)]
mod tests;
