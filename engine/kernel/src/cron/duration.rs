//! Durations as Go writes them: `1h30m`, `1.5s`, `250ms`.

use std::time::Duration;

/// Nanoseconds of each unit.
const UNITS: [(&str, u128); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// The duration that is written; zero if it is negative. `None` if it is none, or longer than 292 years.
pub(super) fn parse(text: &str) -> Option<Duration> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    if unsigned == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = unsigned;
    let mut total: u128 = 0;
    loop {
        let (part, behind) = part(rest)?;
        total = total.checked_add(part).filter(|total| *total <= i64::MAX as u128)?;
        rest = behind;
        if rest.is_empty() {
            break;
        }
    }
    let total = if text.starts_with('-') { 0 } else { total };
    u64::try_from(total).ok().map(Duration::from_nanos)
}

/// The nanoseconds of the number with a unit that `text` begins with, and what is behind it.
fn part(text: &str) -> Option<(u128, &str)> {
    let (whole, rest) = digits(text);
    let (fraction, rest) = rest.strip_prefix('.').map_or(("", rest), digits);
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let end = rest.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(rest.len());
    let (unit, rest) = rest.split_at(end);
    let (_, nanos) = UNITS.iter().find(|(name, _)| *name == unit)?;
    let whole = if whole.is_empty() { 0 } else { u128::from(whole.parse::<u64>().ok()?) };
    // More digits are below a nanosecond.
    let fraction = &fraction[..fraction.len().min(15)];
    let fraction_nanos = match fraction.is_empty() {
        true => 0,
        false => u128::from(fraction.parse::<u64>().ok()?) * nanos / 10u128.pow(fraction.len() as u32),
    };
    Some((whole * nanos + fraction_nanos, rest))
}

fn digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_go_reads() {
        let cases = [
            ("1h30m", Some(5_400_000)),
            ("1.5s", Some(1500)),
            (".5h", Some(1_800_000)),
            ("1.h", Some(3_600_000)),
            ("+2s", Some(2000)),
            ("-2s", Some(0)),
            ("0", Some(0)),
            ("250ms", Some(250)),
            ("3000µs", Some(3)),
            ("1s1s", Some(2000)),
            ("0.1234567890123456789s", Some(123)),
            ("2562047h", Some(2_562_047 * 3_600_000)),
            ("2562048h", None),
            ("99999999999999999999h", None),
            ("", None),
            ("+", None),
            (".s", None),
            ("5", None),
            ("s", None),
            ("1 h", None),
            (" 1h", None),
            ("1d", None),
            ("1H", None),
        ];
        for (text, expected_ms) in cases {
            let parsed = parse(text).map(|duration| duration.as_millis());
            assert_eq!(parsed, expected_ms, "{text}");
        }
    }
}
