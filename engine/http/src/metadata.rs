//! What of an HTTP request's headers becomes metadata of the call: as grpc-gateway does it for Temporal.

use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use base64::{DecodeError, Engine};
use http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderName, HeaderValue, TE, TRANSFER_ENCODING};
use http::{HeaderMap, header};
use tonic::Status;

/// A header whose name begins so is metadata by the rest of its name.
const METADATA: &str = "grpc-metadata-";

/// Values of metadata whose name ends so are bytes in base64.
const BINARY: &str = "-bin";

const CLIENT_NAME: HeaderName = HeaderName::from_static("client-name");
const CLIENT_VERSION: HeaderName = HeaderName::from_static("client-version");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const AUTHORIZATION_EXTRAS: HeaderName = HeaderName::from_static("authorization-extras");
const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// Headers that are metadata by their own names.
const HANDED_ON: [HeaderName; 5] = [AUTHORIZATION, AUTHORIZATION_EXTRAS, CLIENT_NAME, CLIENT_VERSION, FORWARDED_FOR];

/// Headers that belong to a request, and are no metadata.
const OF_REQUESTS: [HeaderName; 7] =
    [CONTENT_LENGTH, CONTENT_TYPE, HOST, TE, TRANSFER_ENCODING, header::CONNECTION, header::UPGRADE];

/// Who calls if nobody says so: as with Temporal.
const DEFAULT_CLIENT_NAME: HeaderValue = HeaderValue::from_static("temporal-server-http");

/// How long a caller has that does not say so: less than the half minute after which many HTTP clients and proxies give up.
const DEFAULT_TIMEOUT: HeaderValue = HeaderValue::from_static("25S");

/// Units of timeouts in nanoseconds, the smallest one first.
static UNITS: [(u8, i128); 6] = [
    (b'n', 1),
    (b'u', 1_000),
    (b'm', 1_000_000),
    (b'S', 1_000_000_000),
    (b'M', 60_000_000_000),
    (b'H', 3_600_000_000_000),
];

/// A timeout has no more digits in gRPC.
const TIMEOUT_MAX: i128 = 99_999_999;

/// Puts the metadata of a call into its headers. What a header says by its own name counts more than what one with the prefix says: who has
/// called, for one, is known here.
///
/// # Errors
///
/// A value is none.
pub(crate) fn hand_on(headers: &HeaderMap, into: &mut HeaderMap) -> Result<(), Status> {
    for (name, value) in headers {
        let Some(key) = name.as_str().strip_prefix(METADATA) else { continue };
        let Ok(key) = HeaderName::try_from(key) else { continue };
        if OF_REQUESTS.contains(&key) || key.as_str().starts_with("grpc-") {
            continue;
        }
        if key.as_str().ends_with(BINARY) {
            check_binary(name, value)?;
        }
        into.append(key, value.clone());
    }
    for name in HANDED_ON {
        if let Some(value) = headers.get(&name) {
            into.insert(name, value.clone());
        }
    }
    into.entry(CLIENT_NAME).or_insert(DEFAULT_CLIENT_NAME);
    into.insert(TIMEOUT, headers.get(&TIMEOUT).map_or(Ok(DEFAULT_TIMEOUT), timeout)?);
    Ok(())
}

fn check_binary(name: &HeaderName, value: &HeaderValue) -> Result<(), Status> {
    let bytes = value.as_bytes();
    let decoded = if bytes.len().is_multiple_of(4) { STANDARD.decode(bytes) } else { STANDARD_NO_PAD.decode(bytes) };
    decoded.map(drop).map_err(|error| {
        let at = match error {
            DecodeError::InvalidByte(at, _) | DecodeError::InvalidLastSymbol(at, _) => at,
            DecodeError::InvalidLength(_) | DecodeError::InvalidPadding => bytes.len(),
        };
        let name = canonical(name);
        Status::invalid_argument(format!("invalid binary header {name}: illegal base64 data at input byte {at}"))
    })
}

/// A name as Go writes it: `Grpc-Metadata-Key-Bin`.
fn canonical(name: &HeaderName) -> String {
    let mut begins = true;
    let letters = name.as_str().chars().map(|letter| {
        let written = if begins { letter.to_ascii_uppercase() } else { letter };
        begins = letter == '-';
        written
    });
    letters.collect()
}

/// A timeout in the form that gRPC has; one in the past has no time left.
fn timeout(value: &HeaderValue) -> Result<HeaderValue, Status> {
    let text = value.to_str().unwrap_or_default();
    let nanoseconds = || {
        let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
        let (_, unit) = UNITS.iter().find(|(letter, _)| [*letter] == *unit.as_bytes())?;
        Some(i128::from(number.parse::<i64>().ok()?).saturating_mul(*unit).max(0))
    };
    let invalid = || Status::invalid_argument(format!("invalid grpc-timeout: {text}"));
    let nanoseconds = nanoseconds().ok_or_else(invalid)?;
    if nanoseconds == 0 {
        return Err(Status::deadline_exceeded("context deadline exceeded"));
    }
    let mut written = UNITS.iter().map(|(letter, unit)| ((nanoseconds + unit - 1) / unit, char::from(*letter)));
    let (number, letter) = written.find(|(number, _)| *number <= TIMEOUT_MAX).unwrap_or((TIMEOUT_MAX, 'H'));
    HeaderValue::try_from(format!("{number}{letter}")).map_err(|_| invalid())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        headers
    }

    fn handed_on(pairs: &[(&'static str, &'static str)]) -> Result<Vec<String>, String> {
        let mut into = HeaderMap::new();
        hand_on(&headers(pairs), &mut into).map_err(|status| status.message().to_owned())?;
        let mut lines: Vec<_> =
            into.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        lines.sort();
        Ok(lines)
    }

    #[test]
    fn headers_with_the_prefix_are_metadata_and_few_others_are() {
        let lines = handed_on(&[
            ("accept", "x"),
            ("cookie", "x"),
            ("authorization", "Bearer t"),
            ("grpc-metadata-caller-type", "api"),
            ("grpc-metadata-key", "1"),
            ("grpc-metadata-key", "2"),
            ("grpc-metadata-data-bin", "YQ"),
            ("grpc-metadata-", "x"),
            ("grpc-metadata-content-length", "1000"),
            ("grpc-metadata-te", "x"),
            ("grpc-metadata-grpc-timeout", "1H"),
            ("grpc-metadata-x-forwarded-for", "192.0.2.1"),
            ("x-forwarded-for", "203.0.113.1"),
            ("grpc-metadata-client-name", "temporal-go"),
        ]);
        let expected = [
            "authorization: Bearer t",
            "caller-type: api",
            "client-name: temporal-go",
            "data-bin: YQ",
            "grpc-timeout: 25S",
            "key: 1",
            "key: 2",
            "x-forwarded-for: 203.0.113.1",
        ];
        assert_eq!(lines.unwrap(), expected);
        assert_eq!(handed_on(&[]).unwrap(), ["client-name: temporal-server-http", "grpc-timeout: 25S"]);
    }

    #[test]
    fn bytes_are_in_base64_with_or_without_padding() {
        for (value, at) in [("YQ==", None), ("YQ", None), ("", None), ("!!!", Some(0)), ("YQ!", Some(2))] {
            let expected = at.map(|at| {
                format!("invalid binary header Grpc-Metadata-Foo-Bin: illegal base64 data at input byte {at}")
            });
            assert_eq!(handed_on(&[("grpc-metadata-foo-bin", value)]).err(), expected, "{value}");
        }
    }

    #[test]
    fn a_timeout_is_any_number_of_a_unit() {
        let of = |value| timeout(&HeaderValue::from_static(value)).map_err(|status| status.message().to_owned());
        for (said, expected) in [
            ("1H", "60M"),
            ("25S", "25000000u"),
            ("1500m", "1500000u"),
            ("999999999999S", "99999999H"),
            ("9223372036854775807H", "99999999H"),
            ("100000001n", "100001u"),
        ] {
            let written = of(said).unwrap();
            let (number, unit) = expected.split_at(expected.len() - 1);
            assert!(written.len() <= 9, "{written:?}");
            let nanoseconds = |text: &str| {
                let (number, unit) = text.split_at(text.len() - 1);
                let unit = UNITS.iter().find(|(letter, _)| [*letter] == *unit.as_bytes()).unwrap().1;
                number.parse::<i128>().unwrap() * unit
            };
            assert_eq!(nanoseconds(written.to_str().unwrap()), nanoseconds(&format!("{number}{unit}")), "{said}");
        }
        for past in ["-1S", "0n"] {
            assert_eq!(of(past), Err("context deadline exceeded".to_owned()));
        }
        for none in ["5", "S", "xx", "1s", "1.5S", "", "99999999999999999999S"] {
            assert_eq!(of(none), Err(format!("invalid grpc-timeout: {none}")));
        }
    }
}
