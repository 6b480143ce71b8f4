//! Durations as Temporal's configuration writes them: `90s`, `1h30m`, `1.5s`.

use std::time::Duration;

use everlog_model::parse_go_duration;

/// The duration that a text such as `1h30m` names; `None` if it is not one. A plain number is seconds.
pub fn parse_duration(text: &str) -> Option<Duration> {
    match text.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => Duration::try_from_secs_f64(parse_go_duration(text)? / 1e9).ok(),
    }
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
