//! Durations as Go writes them: `90s`, `1h30m`, `1.5s`, with `d` for days.

/// Units with their nanoseconds.
const UNITS: [(&str, f64); 9] = [
    ("ns", 1.0),
    ("us", 1e3),
    ("µs", 1e3),
    ("μs", 1e3),
    ("ms", 1e6),
    ("s", 1e9),
    ("m", 60e9),
    ("h", 3600e9),
    ("d", 86_400e9),
];

/// The nanoseconds of a duration without a sign. `None` if the text is none. Beyond 104 days they are not exact.
pub fn parse_go_duration(text: &str) -> Option<f64> {
    let mut rest = text;
    let mut total = 0.0;
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, behind) = rest.split_at(number_end);
        let unit_end = behind.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(unit_end);
        let (_, nanos) = UNITS.iter().find(|(name, _)| *name == unit)?;
        total += number.parse::<f64>().ok()? * nanos;
        rest = behind;
    }
    (!text.is_empty()).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_sums_of_numbers_with_units() {
        for (text, nanos) in [
            ("1h30m", Some(5400e9)),
            ("1.5s", Some(1.5e9)),
            ("250ms", Some(0.25e9)),
            ("5µs", Some(5e3)),
            ("2d", Some(172_800e9)),
            ("", None),
            ("10", None),
            ("s", None),
            ("10x", None),
            ("-1s", None),
            ("1 s", None),
            ("1..5s", None),
        ] {
            assert_eq!(parse_go_duration(text), nanos, "{text:?}");
        }
    }
}
