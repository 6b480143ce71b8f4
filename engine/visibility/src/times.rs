//! Times and durations as they are written in queries and search attributes.

use chrono::DateTime;
use everlog_kernel::Time;
use everlog_model::parse_go_duration;
use everlog_proto::wkt::Timestamp;

const NANOS_PER_SECOND: i128 = 1_000_000_000;

/// A time that a query or a search attribute names: of any year of four digits, where [`Time`] ends in 1677 and 2262.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(i128);

impl Moment {
    pub(super) fn from_proto(timestamp: &Timestamp) -> Moment {
        Moment(i128::from(timestamp.seconds) * NANOS_PER_SECOND + i128::from(timestamp.nanos))
    }

    /// The first or last time that there is for what lies beyond: no run starts or closes there.
    pub(super) fn clamped(self) -> Time {
        let beyond = if self.0 < 0 { i64::MIN } else { i64::MAX };
        Time(i64::try_from(self.0).unwrap_or(beyond))
    }
}

impl From<Time> for Moment {
    fn from(time: Time) -> Moment {
        Moment(time.0.into())
    }
}

/// Reads an RFC 3339 time with up to nanoseconds. `None` if it is none.
pub(super) fn parse_time(text: &str) -> Option<Moment> {
    let is_separated = matches!(text.as_bytes().get(10), Some(b'T' | b't'));
    let time = DateTime::parse_from_rfc3339(text).ok().filter(|_| is_separated)?;
    Some(Moment(i128::from(time.timestamp()) * NANOS_PER_SECOND + i128::from(time.timestamp_subsec_nanos())))
}

/// Reads a duration in nanoseconds: as Go writes them (`1h30m`, with `d` for days), as `hh:mm:ss`, or a number of nanoseconds.
pub(super) fn parse_duration(text: &str) -> Option<i64> {
    if let Ok(nanos) = text.parse::<i64>() {
        return Some(nanos);
    }
    let (sign, rest) = match text.as_bytes().first()? {
        b'-' => (-1.0, &text[1..]),
        b'+' => (1.0, &text[1..]),
        _ => (1.0, text),
    };
    let nanos = if rest.contains(':') { clock_nanos(rest)? } else { parse_go_duration(rest)? };
    // Beyond 104 days a double is no longer exact to the nanosecond, which no filter asks for.
    let nanos = sign * nanos;
    (nanos.abs() < i64::MAX as f64).then_some(nanos.round() as i64)
}

fn clock_nanos(text: &str) -> Option<f64> {
    let mut parts = text.split(':');
    let (hours, minutes, seconds) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    let (hours, minutes, seconds) = (decimal(hours)?, decimal(minutes)?, decimal(seconds)?);
    let in_range = hours.fract() == 0.0 && minutes.fract() == 0.0 && minutes < 60.0 && seconds < 60.0;
    in_range.then_some((hours * 3600.0 + minutes * 60.0 + seconds) * 1e9)
}

/// An unsigned decimal number without exponent.
fn decimal(text: &str) -> Option<f64> {
    let is_decimal = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    if is_decimal { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        let seconds = |text| parse_time(text).map(|time| time.0 as f64 / 1e9);
        for (text, expected) in [
            ("1970-01-01T00:00:00Z", Some(0.0)),
            ("2024-02-29T12:30:15.5Z", Some(1_709_209_815.5)),
            ("2024-01-01T00:00:00+02:00", Some(1_704_060_000.0)),
            ("2024-01-01T00:00:00-00:30", Some(1_704_069_000.0)),
            ("1969-12-31T23:59:59Z", Some(-1.0)),
            ("2000-03-01T00:00:00Z", Some(951_868_800.0)),
            ("2023-02-29T00:00:00Z", None),
            ("2024-13-01T00:00:00Z", None),
            ("2024-01-01T24:00:00Z", None),
            ("2024-01-01", None),
            ("2024-01-01 00:00:00", None),
            ("2024-01-01T00:00:00", None),
            ("2024-01-01T00:00:00.Z", None),
            ("2024-01-01T00:00:00+2:00", None),
            ("2024-01-01T00:00:0é", None),
            ("", None),
        ] {
            assert_eq!(seconds(text), expected, "{text}");
        }
        assert_eq!(parse_time("1970-01-01T00:00:00.1234567899Z"), Some(Time(123_456_789).into()));
        let mut previous = None;
        for (text, seconds, clamped) in [
            ("0001-01-01T00:00:00Z", -62_135_596_800, i64::MIN),
            ("1600-01-01T00:00:00Z", -11_676_096_000, i64::MIN),
            ("2262-04-12T00:00:00Z", 9_223_372_800, i64::MAX),
            ("9999-12-31T23:59:59Z", 253_402_300_799, i64::MAX),
        ] {
            let time = parse_time(text);
            assert_eq!(time, Some(Moment(seconds * NANOS_PER_SECOND)), "{text}");
            assert_eq!(time.map(|time| time.clamped().0), Some(clamped), "{text}");
            assert!(previous < time, "{text}");
            previous = time;
        }
    }

    #[test]
    fn durations() {
        for (text, expected) in [
            ("1h30m", Some(5_400_000_000_000)),
            ("-1h", Some(-3_600_000_000_000)),
            ("1.5s", Some(1_500_000_000)),
            ("1d", Some(86_400_000_000_000)),
            ("5µs", Some(5_000)),
            ("01:30:00", Some(5_400_000_000_000)),
            ("1:2:3", Some(3_723_000_000_000)),
            ("25:00:00", Some(90_000_000_000_000)),
            ("00:00:00.0001", Some(100_000)),
            ("100", Some(100)),
            ("-7", Some(-7)),
            ("", None),
            ("foo", None),
            ("1", Some(1)),
            ("1x", None),
            ("h", None),
            ("1:2", None),
            ("00:61:00", None),
            ("999999999999h", None),
        ] {
            assert_eq!(parse_duration(text), expected, "{text}");
        }
    }
}
