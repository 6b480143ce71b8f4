//! Durations as Go writes them: `1h30m`, `1.5s`, `250ms`.

/// Nanoseconds of each unit.
const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// One beyond the longest duration, nanoseconds.
const TOO_LONG: u64 = 1 << 63;

/// The nanoseconds of a duration.
///
/// # Errors
///
/// What Go says of a text that is none.
pub(crate) fn parse(text: &str) -> Result<i64, String> {
    let invalid = || format!("time: invalid duration {text:?}");
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    if unsigned == "0" {
        return Ok(0);
    }
    if unsigned.is_empty() {
        return Err(invalid());
    }
    let mut rest = unsigned;
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let (whole, behind) = digits(rest);
        let (fraction, behind) = behind.strip_prefix('.').map_or(("", behind), digits);
        if whole.is_empty() && fraction.is_empty() {
            return Err(invalid());
        }
        let end = behind.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(end);
        if unit.is_empty() {
            return Err(format!("time: missing unit in duration {text:?}"));
        }
        let known = UNITS.iter().find(|(name, _)| *name == unit);
        let (_, nanos) = known.ok_or_else(|| format!("time: unknown unit {unit:?} in duration {text:?}"))?;
        let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| invalid())? };
        let part = whole.checked_mul(*nanos).and_then(|part| part.checked_add(fraction_of(fraction, *nanos)));
        total = part.and_then(|part| total.checked_add(part)).filter(|sum| *sum <= TOO_LONG).ok_or_else(invalid)?;
        rest = behind;
    }
    if text.starts_with('-') {
        return Ok(0_i64.wrapping_sub_unsigned(total));
    }
    i64::try_from(total).map_err(|_| invalid())
}

/// What digits behind a point are of a unit.
fn fraction_of(digits: &str, nanos: u64) -> u64 {
    // More digits are below a nanosecond.
    let digits = &digits[..digits.len().min(15)];
    let Ok(number) = digits.parse::<u64>() else { return 0 };
    let scaled = u128::from(number) * u128::from(nanos) / 10_u128.pow(digits.len() as u32);
    u64::try_from(scaled).unwrap_or(u64::MAX)
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
            ("-2s", Some(-2000)),
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
            let parsed = parse(text).ok().map(|nanos| nanos / 1_000_000);
            assert_eq!(parsed, expected_ms, "{text}");
        }
    }

    #[test]
    fn what_go_says() {
        for (text, expected) in [
            ("", "time: invalid duration \"\""),
            ("5", "time: missing unit in duration \"5\""),
            ("5x", "time: unknown unit \"x\" in duration \"5x\""),
            ("x", "time: invalid duration \"x\""),
        ] {
            assert_eq!(parse(text), Err(expected.to_owned()));
        }
    }
}
