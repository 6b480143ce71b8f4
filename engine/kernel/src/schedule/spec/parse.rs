//! Calendars in text, and cron strings.
//!
//! | written | its values |
//! |---|---|
//! | `*` | all |
//! | `5` | this one |
//! | `1-5` | from the first to the second |
//! | `1-5/2`, `*/2` | every second one of these |
//! | `3/5` | every fifth one from the third on |
//! | `1,4-6` | those of each part |
//!
//! Months and days of the week may be named, by three and two letters at least. A cron string has five fields, six with a year, seven
//! with seconds in front as well; or is `@hourly` and the like, or `@every 5m/30s`: an interval and its phase. `CRON_TZ=Europe/Berlin`
//! or `TZ=...` may stand in front of it, and a comment behind `#`.

use everlog_proto::api::schedule::v1::{CalendarSpec, IntervalSpec, Range, StructuredCalendarSpec};
use everlog_proto::wkt;

use super::{SECOND, YEARS};
use crate::go_duration;

/// What a cron string stands for.
pub(super) enum Cron {
    Calendar(StructuredCalendarSpec),
    Interval(IntervalSpec),
}

/// A field of a calendar.
struct Field {
    name: &'static str,
    /// What it is if nothing is written.
    default: &'static str,
    min: i32,
    max: i32,
    names: Names,
}

/// Words for values.
#[derive(Clone, Copy, PartialEq)]
enum Names {
    None,
    /// None; all are written as no range.
    Years,
    Months,
    Weekdays,
}

const MONTHS: [&str; 12] = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
];
const WEEKDAYS: [&str; 7] = ["sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday"];

/// A calendar in text, structured. All that is wrong with it is told.
pub(super) fn calendar(calendar: CalendarSpec) -> Result<StructuredCalendarSpec, String> {
    let CalendarSpec { second, minute, hour, day_of_month, month, year, day_of_week, comment } = calendar;
    let mut wrong = Vec::new();
    let mut read = |text: &str, name, default, min, max, names| {
        let field = Field { name, default, min, max, names };
        field.ranges(text).unwrap_or_else(|error| {
            wrong.push(error);
            Vec::new()
        })
    };
    let structured = StructuredCalendarSpec {
        second: read(&second, "Second", "0", 0, 59, Names::None),
        minute: read(&minute, "Minute", "0", 0, 59, Names::None),
        hour: read(&hour, "Hour", "0", 0, 23, Names::None),
        day_of_week: read(&day_of_week, "DayOfWeek", "*", 0, 7, Names::Weekdays),
        day_of_month: read(&day_of_month, "DayOfMonth", "*", 1, 31, Names::None),
        month: read(&month, "Month", "*", 1, 12, Names::Months),
        year: read(&year, "Year", "*", *YEARS.start(), *YEARS.end(), Names::Years),
        comment,
    };
    if wrong.is_empty() { Ok(structured) } else { Err(wrong.join(", ")) }
}

/// A cron string, and the time zone that it names (empty: none).
pub(super) fn cron(text: &str) -> Result<(Cron, String), String> {
    let text = text.trim();
    let (zone, rest) = if text.starts_with("TZ=") || text.starts_with("CRON_TZ=") {
        let (named, rest) = text.split_once(' ').ok_or("CronString has time zone but missing fields")?;
        (named.split_once('=').map_or("", |(_, zone)| zone), rest)
    } else {
        ("", text)
    };
    let (rest, comment) = rest.split_once('#').unwrap_or((rest, ""));
    let (rest, comment) = (rest.trim(), comment.trim());
    if rest.starts_with("@every") {
        // Temporal forgets the time zone here.
        return Ok((Cron::Interval(interval(rest)?), String::new()));
    }
    let fields: Vec<&str> = descriptor(rest).split_whitespace().collect();
    let text = |at: usize| fields[at].to_owned();
    let from_minute = |at: usize| CalendarSpec {
        minute: text(at),
        hour: text(at + 1),
        day_of_month: text(at + 2),
        month: text(at + 3),
        day_of_week: text(at + 4),
        comment: comment.to_owned(),
        ..CalendarSpec::default()
    };
    let spec = match fields.len() {
        5 => from_minute(0),
        6 => CalendarSpec { year: text(5), ..from_minute(0) },
        7 => CalendarSpec { second: text(0), year: text(6), ..from_minute(1) },
        _ => return Err("CronString does not have 5-7 fields".to_owned()),
    };
    Ok((Cron::Calendar(calendar(spec)?), zone.to_owned()))
}

/// The fields that a word stands for.
fn descriptor(word: &str) -> &str {
    match word {
        "@yearly" | "@annually" => "0 0 1 1 *",
        "@monthly" => "0 0 1 * *",
        "@weekly" => "0 0 * * 0",
        "@daily" | "@midnight" => "0 0 * * *",
        "@hourly" => "0 * * * *",
        other => other,
    }
}

/// What stands behind `@every`.
fn interval(text: &str) -> Result<IntervalSpec, String> {
    let (_, text) = text.split_once(' ').ok_or("CronString does not have interval after @every")?;
    let (interval, phase) = text.split_once('/').unwrap_or((text, ""));
    let interval = Some(duration(interval)?);
    let phase = if phase.is_empty() { None } else { Some(duration(phase)?) };
    Ok(IntervalSpec { interval, phase })
}

/// A duration as Go writes it, or in days.
fn duration(text: &str) -> Result<wkt::Duration, String> {
    let nanos = go_duration::parse(&without_days(text))?;
    Ok(wkt::Duration { seconds: nanos / SECOND, nanos: i32::try_from(nanos % SECOND).unwrap_or(0) })
}

/// The text with days written as hours.
fn without_days(text: &str) -> String {
    let mut rest = text;
    let mut written = String::new();
    while let Some(start) = rest.find(|c: char| c.is_ascii_digit() || c == '.') {
        let number = &rest[start..];
        let length = number.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(number.len());
        let (digits, behind) = number.split_at(length);
        written.push_str(&rest[..start]);
        match (digits.parse::<f64>(), behind.strip_prefix('d')) {
            (Ok(days), Some(behind)) => {
                written.push_str(&format!("{:.6}h", 24.0 * days));
                rest = behind;
            }
            _ => {
                written.push_str(digits);
                rest = behind;
            }
        }
    }
    written + rest
}

impl Field {
    fn ranges(&self, text: &str) -> Result<Vec<Range>, String> {
        let text = Some(text.trim()).filter(|text| !text.is_empty()).unwrap_or(self.default);
        if text == "*" && self.names == Names::Years {
            return Ok(Vec::new());
        }
        let mut ranges = Vec::new();
        for part in text.split(',') {
            self.part(part, &mut ranges)?;
        }
        Ok(ranges)
    }

    fn part(&self, part: &str, ranges: &mut Vec<Range>) -> Result<(), String> {
        let Field { name, min, max, .. } = *self;
        let (values, step) = match part.split_once('/') {
            Some((_, step)) if step.contains('/') => return Err(format!("{name} has too many slashes")),
            Some((_, "")) => return Err(format!("{name} missing step value")),
            Some((values, step)) => match integer(step)? {
                step @ 1.. => (values, Some(step)),
                _ => return Err(format!("{name} has invalid Step")),
            },
            None => (part, None),
        };
        let (start, mut end) = match values.split_once('-') {
            _ if values == "*" => (min, max),
            Some((_, end)) if end.contains('-') => return Err(format!("{name} has too many dashes")),
            Some((start, end)) => {
                let of_bounds = |_| format!("{name} Start is not in range [{min}-{max}]");
                let start = self.value(start, min).map_err(of_bounds)?;
                let of_bounds = |_| format!("{name} End is before Start or not in range [{min}-{max}]");
                (start, self.value(end, start).map_err(of_bounds)?)
            }
            None => {
                let of_bounds = |_| format!("{name} is not in range [{min}-{max}]");
                let start = self.value(values, min).map_err(of_bounds)?;
                // A value with a step goes on to the end.
                (start, if step.is_some() { max } else { start })
            }
        };
        let step = step.unwrap_or(1);
        // Sunday may be 7, which becomes 0: in a range of its own, unless the range has both, or does not hit it.
        if self.names == Names::Weekdays && end == 7 {
            if i64::from(7 - start) % step == 0 && (step > 1 || start > 1) {
                ranges.push(Range::default());
                if start == 7 {
                    return Ok(());
                }
            }
            end = 6;
        }
        // What is the default is left out.
        let end = if start == end { 0 } else { end };
        let step = if step == 1 { 0 } else { step as i32 };
        ranges.push(Range { start, end, step });
        Ok(())
    }

    /// A value from `min` on.
    fn value(&self, text: &str, min: i32) -> Result<i32, String> {
        let names: &[&str] = match self.names {
            Names::Months if text.len() >= 3 => &MONTHS,
            Names::Weekdays if text.len() >= 2 => &WEEKDAYS,
            _ => &[],
        };
        let lower = text.to_lowercase();
        let value = match names.iter().position(|name| name.starts_with(&lower)) {
            Some(position) => position as i64 + i64::from(self.names == Names::Months),
            None => integer(text)?,
        };
        let value = i32::try_from(value).ok().filter(|value| (min..=self.max).contains(value));
        value.ok_or_else(|| "out of range".to_owned())
    }
}

/// An integer as Go reads it.
fn integer(text: &str) -> Result<i64, String> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!("strconv.Atoi: parsing {text:?}: invalid syntax"));
    }
    text.parse().map_err(|_| format!("strconv.Atoi: parsing {text:?}: value out of range"))
}
