//! Durations as Temporal's configuration writes them: `90s`, `1h30m`, `1.5s`.

use std::time::Duration;

/// Units, the longer name before the one that it starts with.
const UNITS: [(&str, f64); 7] =
    [("ns", 1e-9), ("us", 1e-6), ("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0), ("d", 86_400.0)];

/// The duration that a text such as `1h30m` names; `None` if it is not one. A plain number is seconds.
pub fn parse_duration(text: &str) -> Option<Duration> {
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let mut rest = text;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let (unit, scale) = UNITS.iter().find(|(unit, _)| {
            rest.strip_prefix(unit).is_some_and(|after| after.chars().next().is_none_or(|c| c.is_ascii_digit()))
        })?;
        rest = &rest[unit.len()..];
        seconds += number * scale;
    }
    if text.is_empty() { None } else { Duration::try_from_secs_f64(seconds).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read() {
        let cases = [
            ("10", Some(Duration::from_secs(10))),
            ("10s", Some(Duration::from_secs(10))),
            ("1h30m", Some(Duration::from_secs(5400))),
            ("1.5s", Some(Duration::from_millis(1500))),
            ("250ms", Some(Duration::from_millis(250))),
            ("2d", Some(Duration::from_secs(172_800))),
            ("0", Some(Duration::ZERO)),
            ("", None),
            ("s", None),
            ("10x", None),
            ("-1s", None),
            ("1 s", None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_duration(text), expected, "{text:?}");
        }
    }
}
