//! What a request says about its caller: deadline and client.

use std::time::Duration;

use everlog_model::OperationId;
use http::{HeaderMap, HeaderName};
use tokio::time::Instant;
use tonic::metadata::MetadataMap;

use super::errors::Error;
use super::reads::AskedReads;

/// A poll must have at least this long, as in Temporal.
const POLL_TIME_MIN: Duration = Duration::from_secs(2);

/// An empty answer leaves this long before the caller's deadline, so that it arrives.
const ANSWER_TIME: Duration = Duration::from_secs(1);

/// Clients that show to people what they read; the others replay it.
const CLIENTS_FOR_PEOPLE: [&str; 2] = ["temporal-cli", "temporal-ui"];

// Names that are ready to be looked for: those given as text are checked and hashed byte by byte each time.
static GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
static CLIENT_NAME: HeaderName = HeaderName::from_static("client-name");
static CLIENT_VERSION: HeaderName = HeaderName::from_static("client-version");
static SUPPORTED_FEATURES: HeaderName = HeaderName::from_static("supported-features");

/// Facts about a request that stand in its headers.
#[derive(Clone, Debug, Default)]
pub(super) struct Call {
    /// When the caller gives up, if it says so.
    pub(super) deadline: Option<Instant>,
    /// Whether the client shows to people what it reads: `client-name` says so.
    pub(super) is_for_people: bool,
    /// The client's SDK: its name and its version, as far as it tells.
    pub(super) sdk: (String, String),
    /// Whether the client follows a chain of runs by the run ids in close events.
    pub(super) follows_next_run_id: bool,
    /// How what it reads is to be answered.
    pub(super) reads: AskedReads,
}

impl Call {
    /// Reads the headers of a request that arrived at `now`.
    pub(super) fn new(metadata: &MetadataMap, now: Instant) -> Call {
        let headers: &HeaderMap = metadata.as_ref();
        let text = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("");
        Call {
            deadline: parse_timeout(text(&GRPC_TIMEOUT)).and_then(|timeout| now.checked_add(timeout)),
            sdk: (text(&CLIENT_NAME).to_owned(), text(&CLIENT_VERSION).to_owned()),
            is_for_people: CLIENTS_FOR_PEOPLE.contains(&text(&CLIENT_NAME)),
            follows_next_run_id: text(&SUPPORTED_FEATURES)
                .split(',')
                .any(|feature| feature.trim() == "follows-next-run-id"),
            reads: AskedReads::of(headers),
        }
    }

    /// Until when a worker's poll is held: not longer than `wait_max`, and answered in time.
    ///
    /// # Errors
    ///
    /// As Temporal refuses polls without a deadline and with too short ones.
    pub(super) fn poll_until(&self, wait_max: Duration) -> Result<Instant, Error> {
        let deadline = self.deadline.ok_or_else(|| Error::invalid("Context timeout is not set."))?;
        if deadline.saturating_duration_since(Instant::now()) < POLL_TIME_MIN {
            return Err(Error::failed_precondition("Context timeout is too short."));
        }
        Ok(self.wait_until(wait_max))
    }

    /// Until when to wait for something, at most `wait_max`, so that the answer still arrives in time. May be now.
    pub(super) fn wait_until(&self, wait_max: Duration) -> Instant {
        let now = Instant::now();
        let answer_by = self.deadline.map(|deadline| deadline.checked_sub(ANSWER_TIME).unwrap_or(now).max(now));
        answer_by.map_or(now + wait_max, |answer_by| answer_by.min(now + wait_max))
    }
}

/// The id of a request that has none: another one for each call, the same however often the called node makes that.
pub(super) fn own_request_id() -> String {
    let of_call = |operation: OperationId| uuid::Builder::from_random_bytes(operation.to_bytes()).into_uuid();
    OperationId::current().map_or_else(uuid::Uuid::new_v4, of_call).to_string()
}

/// The value of a `grpc-timeout` header: up to eight digits and a unit.
pub(super) fn parse_timeout(text: &str) -> Option<Duration> {
    let split = text.len().checked_sub(1).filter(|at| (1..=8).contains(at) && text.is_char_boundary(*at))?;
    let (digits, unit) = text.split_at(split);
    let number: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read() {
        let cases = [
            ("70S", Some(Duration::from_secs(70))),
            ("69999m", Some(Duration::from_millis(69_999))),
            ("1H", Some(Duration::from_secs(3600))),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3600))),
            ("5u", Some(Duration::from_micros(5))),
            ("", None),
            ("S", None),
            ("123456789S", None),
            ("-1S", None),
            ("1x", None),
            ("1ü", None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_timeout(text), expected, "{text:?}");
        }
    }

    fn call(timeout: &str) -> Call {
        let mut metadata = MetadataMap::new();
        if !timeout.is_empty() {
            metadata.insert("grpc-timeout", timeout.parse().unwrap());
        }
        metadata.insert("supported-features", "a,follows-next-run-id".parse().unwrap());
        Call::new(&metadata, Instant::now())
    }

    #[tokio::test(start_paused = true)]
    async fn waits_end_in_time() {
        let seconds = Duration::from_secs;
        let wait =
            |timeout, wait_max| call(timeout).wait_until(seconds(wait_max)).saturating_duration_since(Instant::now());
        assert_eq!(wait("70S", 60), seconds(60));
        assert_eq!(wait("30S", 60), seconds(29));
        assert_eq!(wait("500m", 60), Duration::ZERO);
        assert_eq!(wait("", 20), seconds(20));
        assert!(call("70S").follows_next_run_id);
    }

    #[tokio::test(start_paused = true)]
    async fn polls_need_a_deadline_that_is_long_enough() {
        let wait_max = Duration::from_secs(60);
        assert_eq!(call("").poll_until(wait_max), Err(Error::invalid("Context timeout is not set.")));
        assert_eq!(
            call("1500m").poll_until(wait_max),
            Err(Error::failed_precondition("Context timeout is too short."))
        );
        assert_eq!(call("3S").poll_until(wait_max), Ok(Instant::now() + Duration::from_secs(2)));
    }
}
