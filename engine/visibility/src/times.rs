//! Times and durations as they are written in queries and search attributes.

use everlog_kernel::Time;

/// Reads an RFC 3339 time with up to nanoseconds. `None` if it is none, or lies beyond what [`Time`] can hold.
pub(super) fn parse_time(text: &str) -> Option<Time> {
    let date_and_time = text.get(..19)?;
    let rest = text.get(19..)?;
    let bytes = date_and_time.as_bytes();
    let separators = [(4, b'-'), (7, b'-'), (13, b':'), (16, b':')];
    if separators.iter().any(|(at, separator)| bytes[*at] != *separator) || !matches!(bytes[10], b'T' | b't') {
        return None;
    }
    let number = |range: std::ops::Range<usize>| digits(&date_and_time[range]);
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    let in_range = (1..=12).contains(&month)
        && (1..=days_in_month(year, month)).contains(&day)
        && hour <= 23
        && minute <= 59
        && second <= 59;
    if !in_range {
        return None;
    }
    let (nanos, zone) = split_fraction(rest)?;
    let seconds = days_since_epoch(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - offset(zone)?;
    seconds.checked_mul(1_000_000_000)?.checked_add(nanos).map(Time)
}

/// Splits `.123Z` into nanoseconds and zone.
fn split_fraction(text: &str) -> Option<(i64, &str)> {
    let Some(fraction) = text.strip_prefix('.') else { return Some((0, text)) };
    let end = fraction.find(|c: char| !c.is_ascii_digit())?;
    Some((nanos_of_fraction(&fraction[..end])?, &fraction[end..]))
}

/// `5` is half a second's worth; digits beyond nanoseconds are cut.
fn nanos_of_fraction(digits_text: &str) -> Option<i64> {
    let kept = digits_text.get(..digits_text.len().min(9))?;
    let scale = 10_i64.pow(9 - u32::try_from(kept.len()).ok()?);
    digits(kept).map(|value| value * scale)
}

/// Seconds east of Greenwich.
fn offset(zone: &str) -> Option<i64> {
    if matches!(zone, "Z" | "z") {
        return Some(0);
    }
    let sign = match zone.as_bytes().first()? {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let (hours, minutes) = zone.get(1..)?.split_once(':')?;
    let (hours, minutes) = (two_digits(hours)?, two_digits(minutes)?);
    (hours <= 23 && minutes <= 59).then_some(sign * (hours * 3600 + minutes * 60))
}

fn two_digits(text: &str) -> Option<i64> {
    if text.len() == 2 { digits(text) } else { None }
}

fn digits(text: &str) -> Option<i64> {
    let only_digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if only_digits { text.parse().ok() } else { None }
}

fn days_in_month(year: i64, month: i64) -> i64 {
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        2 => 28 + i64::from(is_leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01 in the Gregorian calendar. Years are counted from March, so that the leap day comes last.
fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    // Months alternate in length so regularly that a line through them rounds to their starts.
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    year * 365 + leap_days + day_of_year - 719_468
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
    let nanos = if rest.contains(':') { clock_nanos(rest)? } else { unit_nanos(rest)? };
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

fn unit_nanos(mut text: &str) -> Option<f64> {
    if text.is_empty() {
        return None;
    }
    let mut total = 0.0;
    while !text.is_empty() {
        let unit_start = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, rest) = text.split_at(unit_start);
        let unit_end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let (unit, rest) = rest.split_at(unit_end);
        let nanos = match unit {
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            "d" => 86_400e9,
            _ => return None,
        };
        total += decimal(number)? * nanos;
        text = rest;
    }
    Some(total)
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
            ("9999-01-01T00:00:00Z", None),
            ("2024-01-01T00:00:0é", None),
            ("", None),
        ] {
            assert_eq!(seconds(text), expected, "{text}");
        }
        assert_eq!(parse_time("1970-01-01T00:00:00.1234567899Z"), Some(Time(123_456_789)));
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
