//! What is wrong with a spec, in Temporal's words.

use everlog_proto::api::schedule::v1::{IntervalSpec, Range, ScheduleSpec, StructuredCalendarSpec};
use everlog_proto::wkt;

use super::{SECOND, YEARS, nanos};

/// Bytes of a comment.
const COMMENT_BYTES_MAX: usize = 200;

/// Looks at the form of durations.
pub(super) fn durations(spec: &ScheduleSpec) -> Result<(), String> {
    for interval in &spec.interval {
        for (name, duration) in [("interval", &interval.interval), ("phase", &interval.phase)] {
            if let Some(wrong) = duration.as_ref().and_then(malformed) {
                return Err(format!("{name} is not a valid duration: proto: {wrong}"));
            }
        }
    }
    Ok(())
}

/// What protobuf says of a duration that is none.
fn malformed(duration: &wkt::Duration) -> Option<String> {
    /// About 10,000 years.
    const SECONDS_MAX: i64 = 315_576_000_000;
    let wkt::Duration { seconds, nanos } = *duration;
    let wrong = match () {
        () if seconds < -SECONDS_MAX => "exceeds -10000 years",
        () if seconds > SECONDS_MAX => "exceeds +10000 years",
        () if i64::from(nanos).abs() >= SECOND => "has out-of-range nanos",
        () if seconds.signum() * i64::from(nanos.signum()) < 0 => "has seconds and nanos with different signs",
        () => return None,
    };
    let fields = [("seconds", seconds), ("nanos", i64::from(nanos))];
    let fields = fields.iter().filter(|(_, value)| *value != 0).map(|(name, value)| format!("{name}:{value}"));
    Some(format!("duration ({}) {wrong}", fields.collect::<Vec<_>>().join(" ")))
}

/// Looks at an interval.
pub(super) fn interval(spec: &IntervalSpec) -> Result<(), String> {
    let (interval, phase) = (nanos(spec.interval.as_ref()), nanos(spec.phase.as_ref()));
    if interval < SECOND {
        return Err("interval is too small".to_owned());
    }
    if phase < 0 {
        return Err("phase is negative".to_owned());
    }
    if phase >= interval {
        return Err("phase cannot be greater than Interval".to_owned());
    }
    Ok(())
}

/// Looks at a calendar.
pub(super) fn calendar(spec: &StructuredCalendarSpec) -> Result<(), String> {
    let mut wrong = Vec::new();
    let mut check = |ranges: &[Range], name: &str, min: i32, max: i32| {
        for range in ranges {
            if range.start < min || range.start > max {
                wrong.push(format!("{name} Start is not in range [{min}-{max}]"));
            }
            if range.end != 0 && (range.end < range.start || range.end > max) {
                wrong.push(format!("{name} End is before Start or not in range [{min}-{max}]"));
            }
            if range.step < 0 {
                wrong.push(format!("{name} has invalid Step"));
            }
        }
    };
    check(&spec.second, "Second", 0, 59);
    check(&spec.minute, "Minute", 0, 59);
    check(&spec.hour, "Hour", 0, 23);
    check(&spec.day_of_month, "DayOfMonth", 1, 31);
    check(&spec.month, "Month", 1, 12);
    check(&spec.year, "Year", *YEARS.start(), *YEARS.end());
    check(&spec.day_of_week, "DayOfWeek", 0, 6);
    if spec.comment.len() > COMMENT_BYTES_MAX {
        wrong.push("comment is too long".to_owned());
    }
    if wrong.is_empty() { Ok(()) } else { Err(format!("invalid calendar spec: {}", wrong.join(", "))) }
}
