//! What the words of a script's commands mean: `key=value` arguments as strings, durations, payloads and enum values.

use std::error::Error;
use std::time::Duration;

use everlog_proto::api::common::v1::{Payload, Payloads};
use everlog_proto::wkt;
use goldenscript::Argument;

/// The arguments of one command. Each is taken once; what is left over at the end is an error.
pub(crate) struct Arguments<'a> {
    rest: Vec<&'a Argument>,
}

pub(crate) type Outcome<T> = Result<T, Box<dyn Error>>;

impl<'a> Arguments<'a> {
    pub(crate) fn new(command: &'a goldenscript::Command) -> Arguments<'a> {
        Arguments { rest: command.args.iter().collect() }
    }

    /// Of a command that no script has written.
    pub(crate) fn of(arguments: &'a [Argument]) -> Arguments<'a> {
        Arguments { rest: arguments.iter().collect() }
    }

    /// The next argument without a key.
    pub(crate) fn positional(&mut self) -> Option<&'a str> {
        let index = self.rest.iter().position(|argument| matches!(argument, Argument::Positional(_)))?;
        match self.rest.remove(index) {
            Argument::Positional(value) => Some(value),
            _ => None,
        }
    }

    /// The same where there must be one.
    pub(crate) fn expected(&mut self, what: &str) -> Outcome<&'a str> {
        self.positional().ok_or_else(|| format!("expected {what}").into())
    }

    pub(crate) fn text(&mut self, key: &str) -> Option<&'a str> {
        let index =
            self.rest.iter().position(|argument| matches!(argument, Argument::KeyValue(name, _) if name == key))?;
        match self.rest.remove(index) {
            Argument::KeyValue(_, value) => Some(value),
            _ => None,
        }
    }

    /// Whether a key is given.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.rest.iter().any(|argument| matches!(argument, Argument::KeyValue(name, _) if name == key))
    }

    pub(crate) fn string(&mut self, key: &str, default: &str) -> String {
        self.text(key).unwrap_or(default).to_owned()
    }

    pub(crate) fn number<N: std::str::FromStr>(&mut self, key: &str) -> Outcome<Option<N>>
    where
        N::Err: Error + 'static,
    {
        Ok(self.text(key).map(str::parse).transpose()?)
    }

    /// A flag: `key=true`.
    pub(crate) fn flag(&mut self, key: &str) -> Outcome<bool> {
        Ok(self.number(key)?.unwrap_or(false))
    }

    pub(crate) fn duration(&mut self, key: &str) -> Outcome<Option<wkt::Duration>> {
        let parse = |text: &str| match text.strip_prefix('-') {
            Some(text) => {
                let wkt::Duration { seconds, nanos } = proto_duration(parse_duration(text)?);
                Ok(wkt::Duration { seconds: -seconds, nanos: -nanos })
            }
            None => Ok(proto_duration(parse_duration(text)?)),
        };
        self.text(key).map(parse).transpose()
    }

    pub(crate) fn payloads(&mut self, key: &str) -> Option<Payloads> {
        self.text(key).map(payloads)
    }

    /// Every argument whose key starts with `prefix`: `memo-a=1`.
    pub(crate) fn prefixed(&mut self, prefix: &str) -> Vec<(String, String)> {
        let mut found = Vec::new();
        self.rest.retain(|argument| match argument {
            Argument::KeyValue(key, value) => match key.strip_prefix(prefix) {
                Some(name) => {
                    found.push((name.to_owned(), value.clone()));
                    false
                }
                None => true,
            },
            _ => true,
        });
        found
    }

    /// An enum value by its name in `from_str_name`: `prefix` + the argument in capitals, `-` as `_`.
    pub(crate) fn enumeration<E: Into<i32>>(
        &mut self,
        key: &str,
        prefix: &str,
        from_name: impl Fn(&str) -> Option<E>,
    ) -> Outcome<i32> {
        let Some(text) = self.text(key) else { return Ok(0) };
        let name = format!("{prefix}{}", text.to_uppercase().replace('-', "_"));
        Ok(from_name(&name).ok_or_else(|| format!("no {key} '{name}'"))?.into())
    }

    pub(crate) fn end(self) -> Outcome<()> {
        match self.rest.first() {
            Some(argument) => Err(format!("unexpected argument '{argument}'").into()),
            None => Ok(()),
        }
    }
}

/// One JSON payload.
pub(crate) fn payload(text: &str) -> Payload {
    match text {
        "null" => Payload { metadata: [("encoding".to_owned(), b"binary/null".to_vec())].into(), ..Payload::default() },
        text => Payload {
            metadata: [("encoding".to_owned(), b"json/plain".to_vec())].into(),
            data: text.as_bytes().to_vec(),
            ..Payload::default()
        },
    }
}

/// `*N` stands for a payload of N bytes.
pub(crate) fn payloads(text: &str) -> Payloads {
    match text.strip_prefix('*').and_then(|count| count.parse().ok()) {
        Some(count) => Payloads { payloads: vec![payload(&"x".repeat(count))] },
        None => Payloads { payloads: vec![payload(text)] },
    }
}

/// `5s`, `250ms`, `2m`, `1h`, and with a `-` in front a negative one (of seconds).
pub(crate) fn parse_duration(text: &str) -> Outcome<Duration> {
    let split = text.find(|c: char| c.is_ascii_alphabetic()).ok_or_else(|| format!("a duration has a unit: {text}"))?;
    let (number, unit) = text.split_at(split);
    let seconds: f64 = number.parse()?;
    let unit = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        other => return Err(format!("unknown unit {other}").into()),
    };
    Ok(Duration::try_from_secs_f64(seconds * unit)?)
}

pub(crate) fn proto_duration(duration: Duration) -> wkt::Duration {
    wkt::Duration {
        seconds: i64::try_from(duration.as_secs()).expect("scripts use short durations"),
        nanos: i32::try_from(duration.subsec_nanos()).expect("below 10^9"),
    }
}
