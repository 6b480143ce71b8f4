//! Failures of Nexus services: which may be tried again, and how old workers say them.
//! (Temporal: `common/nexus/failure.go`.)

use std::collections::BTreeMap;

use everlog_proto::api::common::v1::{Payload, Payloads};
use everlog_proto::api::enums::v1::NexusHandlerErrorRetryBehavior as RetryBehavior;
use everlog_proto::api::failure::v1::failure::FailureInfo;
use everlog_proto::api::failure::v1::{ApplicationFailureInfo, Failure, NexusHandlerFailureInfo};
use everlog_proto::api::nexus::v1 as nexus;
use serde_json::Value;

/// The kinds of failures of a handler after which it makes no sense to try again.
const NOT_RETRIED: [&str; 6] =
    ["BAD_REQUEST", "UNAUTHENTICATED", "UNAUTHORIZED", "NOT_FOUND", "CONFLICT", "NOT_IMPLEMENTED"];

/// What the server itself says of a call.
pub(super) fn handler_failure(kind: &str, message: impl Into<String>) -> Failure {
    of_handler(kind.to_owned(), RetryBehavior::Unspecified, message.into(), None)
}

fn of_handler(kind: String, retry_behavior: RetryBehavior, message: String, cause: Option<Failure>) -> Failure {
    let info = NexusHandlerFailureInfo { r#type: kind, retry_behavior: retry_behavior as i32 };
    Failure {
        message,
        cause: cause.map(Box::new),
        failure_info: Some(FailureInfo::NexusHandlerFailureInfo(info)),
        ..Failure::default()
    }
}

/// Whether a call that has failed so is to be made again.
pub(super) fn is_retryable(failure: &Failure) -> bool {
    let Some(FailureInfo::NexusHandlerFailureInfo(info)) = &failure.failure_info else { return true };
    match info.retry_behavior() {
        RetryBehavior::Retryable => true,
        RetryBehavior::NonRetryable => false,
        RetryBehavior::Unspecified => !NOT_RETRIED.contains(&info.r#type.as_str()),
    }
}

/// A failure of a handler as it travels: what has made it is not told, but for its causes.
pub(super) fn travelled(failure: Failure) -> Failure {
    Failure { source: String::new(), ..failure }
}

/// What old workers say of a handler that has failed.
pub(super) fn from_handler_error(error: nexus::HandlerError) -> Failure {
    let retry_behavior = error.retry_behavior();
    of_handler(error.error_type, retry_behavior, String::new(), error.failure.map(from_nexus))
}

/// A failure in the form that all services of Nexus know: one of another kind is an application's, with what is not known of it as details.
pub(super) fn from_nexus(failure: nexus::Failure) -> Failure {
    let nexus::Failure { message, metadata, details, stack_trace, cause } = failure;
    let failure =
        Failure { message, stack_trace, cause: cause.map(|cause| Box::new(from_nexus(*cause))), ..Failure::default() };
    if metadata.is_empty() && details.is_empty() {
        return failure;
    }
    let metadata = (!metadata.is_empty()).then(|| serde_json::json!(BTreeMap::from_iter(metadata)));
    let details = serde_json::from_slice::<Value>(&details).ok();
    // In the order in which Go writes them.
    let rest = [("metadata", metadata), ("details", details)];
    let rest: Vec<_> = rest.iter().filter_map(|(name, told)| Some(format!("\"{name}\":{}", told.as_ref()?))).collect();
    let payload = Payload {
        metadata: [("encoding".to_owned(), b"json/plain".to_vec())].into(),
        data: format!("{{{}}}", rest.join(",")).into_bytes(),
        ..Payload::default()
    };
    let info = ApplicationFailureInfo {
        r#type: "NexusFailure".to_owned(),
        details: Some(Payloads { payloads: vec![payload] }),
        ..ApplicationFailureInfo::default()
    };
    Failure { failure_info: Some(FailureInfo::ApplicationFailureInfo(info)), ..failure }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_of_a_failure_says_whether_to_try_again_unless_the_handler_does() {
        for (kind, retried) in [("INTERNAL", true), ("UPSTREAM_TIMEOUT", true), ("NOT_FOUND", false), ("new", true)] {
            assert_eq!(is_retryable(&handler_failure(kind, "m")), retried, "{kind}");
        }
        let says = |kind: &str, behavior| of_handler(kind.to_owned(), behavior, String::new(), None);
        assert!(is_retryable(&says("NOT_FOUND", RetryBehavior::Retryable)));
        assert!(!is_retryable(&says("INTERNAL", RetryBehavior::NonRetryable)));
        assert!(is_retryable(&Failure::default()));
    }

    #[test]
    fn what_is_not_known_of_a_failure_is_kept_as_details() {
        let failure = nexus::Failure {
            message: "m".to_owned(),
            metadata: [("k".to_owned(), "v".to_owned())].into(),
            details: br#"{"a":1}"#.to_vec(),
            ..nexus::Failure::default()
        };
        let failure = from_nexus(failure);
        let Some(FailureInfo::ApplicationFailureInfo(info)) = failure.failure_info else { panic!() };
        let payload = &info.details.unwrap().payloads[0];
        assert_eq!(&*payload.data, br#"{"metadata":{"k":"v"},"details":{"a":1}}"#);
        assert_eq!((failure.message.as_str(), info.r#type.as_str()), ("m", "NexusFailure"));
        assert_eq!(from_nexus(nexus::Failure::default()), Failure::default());
    }
}
