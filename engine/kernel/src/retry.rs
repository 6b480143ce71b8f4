//! Retry policies: their defaults, which failures they retry, and when the next attempt is due. For activities and runs alike.
//!
//! No jitter: the time of the next attempt follows from the policy alone. (Temporal: `common/retrypolicy`, `workflow/retry.go`.)

use std::time::Duration;

use everlog_proto::api::common::v1::RetryPolicy;
use everlog_proto::api::enums::v1::{RetryState, TimeoutType};
use everlog_proto::api::failure::v1::failure::FailureInfo;
use everlog_proto::api::failure::v1::{ApplicationFailureInfo, Failure, ServerFailureInfo, TimeoutFailureInfo};
use prost::Message;

use crate::time::{self, DURATION_MAX};
use crate::{Rejection, Time};

/// The first interval where a policy sets none.
const INITIAL_INTERVAL: Duration = Duration::from_secs(1);
/// The longest interval, in first intervals, where a policy sets none.
const MAXIMUM_INTERVAL_COEFFICIENT: u32 = 100;
/// How much longer each interval is than the one before, where a policy sets nothing.
const BACKOFF_COEFFICIENT: f64 = 2.0;
/// `limit.mutableStateActivityFailureSize.error`, bytes: the most that is kept of a failure that is retried.
const LAST_FAILURE_BYTES_MAX: usize = 4096;
/// In front of a timeout type in a policy's list of errors that are not retried.
const TIMEOUT_ERROR_TYPE_PREFIX: &str = "TemporalTimeout:";

/// The policy with everything filled in that it leaves open.
pub(crate) fn with_defaults(mut policy: RetryPolicy) -> RetryPolicy {
    let initial = match time::positive(policy.initial_interval.as_ref()) {
        Ok(None) => {
            policy.initial_interval = Some(time::to_proto(INITIAL_INTERVAL));
            INITIAL_INTERVAL
        }
        Ok(Some(initial)) => initial,
        Err(_) => return policy, // `validate` refuses it
    };
    if time::positive(policy.maximum_interval.as_ref()) == Ok(None) {
        let maximum = initial.saturating_mul(MAXIMUM_INTERVAL_COEFFICIENT).min(DURATION_MAX);
        policy.maximum_interval = Some(time::to_proto(maximum));
    }
    if policy.backoff_coefficient == 0.0 {
        policy.backoff_coefficient = BACKOFF_COEFFICIENT;
    }
    policy
}

/// Says what is wrong with a policy. One that allows a single attempt is not looked at: it retries nothing.
pub(crate) fn validate(policy: &RetryPolicy) -> Result<(), Rejection> {
    if policy.maximum_attempts == 1 {
        return Ok(());
    }
    let interval = |interval, name| {
        time::positive(interval)
            .map_err(|wrong| Rejection::invalid(format!("invalid {name} set on retry policy: {wrong}")))
    };
    let initial = interval(policy.initial_interval.as_ref(), "InitialInterval")?;
    if policy.backoff_coefficient.is_nan() || policy.backoff_coefficient < 1.0 {
        return Err(Rejection::invalid("BackoffCoefficient cannot be less than 1 on retry policy."));
    }
    let maximum = interval(policy.maximum_interval.as_ref(), "MaximumInterval")?;
    if maximum.is_some_and(|maximum| maximum < initial.unwrap_or_default()) {
        return Err(Rejection::invalid("MaximumInterval cannot be less than InitialInterval on retry policy."));
    }
    if policy.maximum_attempts < 0 {
        return Err(Rejection::invalid("MaximumAttempts cannot be negative on retry policy."));
    }
    for error_type in &policy.non_retryable_error_types {
        if let Some(timeout) = error_type.strip_prefix(TIMEOUT_ERROR_TYPE_PREFIX)
            && !["StartToClose", "ScheduleToStart", "ScheduleToClose", "Heartbeat"].contains(&timeout)
        {
            return Err(Rejection::invalid(format!("Invalid timeout type value: {timeout}.")));
        }
    }
    Ok(())
}

/// Whether the failure is one that the policy retries.
pub(crate) fn is_retryable(failure: &Failure, non_retryable_error_types: &[String]) -> bool {
    let excluded = |error_type: &str| non_retryable_error_types.iter().any(|excluded| excluded == error_type);
    match &failure.failure_info {
        Some(FailureInfo::TerminatedFailureInfo(_) | FailureInfo::CanceledFailureInfo(_)) => false,
        Some(FailureInfo::TimeoutFailureInfo(info)) => match info.timeout_type() {
            TimeoutType::StartToClose | TimeoutType::Heartbeat => {
                !excluded(&format!("{TIMEOUT_ERROR_TYPE_PREFIX}{}", timeout_name(info.timeout_type())))
            }
            _ => false,
        },
        Some(FailureInfo::ServerFailureInfo(info)) => !info.non_retryable,
        Some(FailureInfo::ApplicationFailureInfo(info)) => !info.non_retryable && !excluded(&info.r#type),
        _ => true,
    }
}

/// The delay that stands for "at once": no delay at all stands for "never".
const AT_ONCE: Duration = Duration::from_nanos(1);

/// The delay before the next attempt that the failure itself asks for. Below zero is at once, as in Temporal.
pub(crate) fn requested_delay(failure: &Failure) -> Option<Duration> {
    match &failure.failure_info {
        Some(FailureInfo::ApplicationFailureInfo(info)) => {
            let delay = info.next_retry_delay.as_ref()?;
            Some(time::positive(Some(delay)).map_or(AT_ONCE, Option::unwrap_or_default))
        }
        _ => None,
    }
}

/// How long to wait before the attempt behind `attempt`, or why there is none.
///
/// `requested` replaces the policy's interval, even where it is longer than the policy's longest. `expiration` is when all
/// attempts must have ended: an attempt that could only begin later is none.
pub(crate) fn next_interval(
    policy: &RetryPolicy,
    attempt: i32,
    requested: Option<Duration>,
    now: Time,
    expiration: Option<Time>,
) -> Result<Duration, RetryState> {
    let attempt = attempt.max(1);
    if policy.maximum_attempts > 0 && attempt >= policy.maximum_attempts {
        return Err(RetryState::MaximumAttemptsReached);
    }
    let interval = match requested {
        Some(requested) => requested,
        None => self::interval(policy, attempt),
    };
    // Temporal takes "at once" for "never", too: a loop without a pause would be nobody's wish.
    if interval.is_zero() || expiration.is_some_and(|expiration| now.plus(interval) > expiration) {
        return Err(RetryState::Timeout);
    }
    Ok(interval)
}

/// How long a policy waits behind an attempt; zero if it says nothing of it.
pub(crate) fn interval(policy: &RetryPolicy, attempt: i32) -> Duration {
    let duration = |field: Option<&_>| time::positive(field).ok().flatten();
    let initial = duration(policy.initial_interval.as_ref()).unwrap_or_default();
    let interval = exponential(initial, policy.backoff_coefficient, attempt);
    duration(policy.maximum_interval.as_ref())
        .map_or(interval, |maximum| if interval.is_zero() { maximum } else { interval.min(maximum) })
}

/// `initial * coefficient^(attempt - 1)`.
fn exponential(initial: Duration, coefficient: f64, attempt: i32) -> Duration {
    let nanos = initial.as_nanos() as f64 * coefficient.powi(attempt - 1);
    if nanos < DURATION_MAX.as_nanos() as f64 { Duration::from_nanos(nanos as u64) } else { DURATION_MAX }
}

/// How Temporal writes a timeout type in texts.
pub(crate) fn timeout_name(timeout_type: TimeoutType) -> &'static str {
    match timeout_type {
        TimeoutType::Unspecified => "Unspecified",
        TimeoutType::StartToClose => "StartToClose",
        TimeoutType::ScheduleToStart => "ScheduleToStart",
        TimeoutType::ScheduleToClose => "ScheduleToClose",
        TimeoutType::Heartbeat => "Heartbeat",
    }
}

/// A failure of the server's own making: a timeout.
pub(crate) fn timeout_failure(message: String, timeout_type: TimeoutType) -> Failure {
    let info = TimeoutFailureInfo { timeout_type: timeout_type as i32, last_heartbeat_details: None };
    Failure {
        message,
        source: "Server".into(),
        failure_info: Some(FailureInfo::TimeoutFailureInfo(info)),
        ..Failure::default()
    }
}

/// A failure of the server's own making: a limit.
pub(crate) fn server_failure(message: &str, non_retryable: bool) -> Failure {
    Failure {
        message: message.into(),
        failure_info: Some(FailureInfo::ServerFailureInfo(ServerFailureInfo { non_retryable })),
        ..Failure::default()
    }
}

/// What is kept of a failure that is retried: all of it, or its beginning inside of a failure that says so.
pub(crate) fn last_failure(failure: Failure) -> Failure {
    if failure.encoded_len() <= LAST_FAILURE_BYTES_MAX {
        return failure;
    }
    too_large(&failure, LAST_FAILURE_BYTES_MAX, false)
}

/// Stands for a failure that is larger than allowed, with the first `bytes_max` bytes of it as the cause.
pub(crate) fn too_large(failure: &Failure, bytes_max: usize, non_retryable: bool) -> Failure {
    const DEPTH_MAX: usize = 20;
    let mut left = bytes_max;
    Failure {
        cause: Some(Box::new(truncated(failure, &mut left, DEPTH_MAX))),
        ..server_failure("Failure exceeds size limit.", non_retryable)
    }
}

/// The texts of a failure and its causes as far as `left` bytes go, the most important first.
fn truncated(failure: &Failure, left: &mut usize, depth: usize) -> Failure {
    let mut take = |text: &str| {
        let end = (0..=text.len().min(*left)).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        // Each text costs a few bytes of tag and length besides.
        *left = left.saturating_sub(end + if end == 0 { 0 } else { 4 });
        text[..end].to_owned()
    };
    let failure_info = match &failure.failure_info {
        Some(FailureInfo::ApplicationFailureInfo(info)) => {
            Some(FailureInfo::ApplicationFailureInfo(ApplicationFailureInfo {
                r#type: take(&info.r#type),
                non_retryable: info.non_retryable,
                ..ApplicationFailureInfo::default()
            }))
        }
        Some(FailureInfo::ServerFailureInfo(info)) => Some(FailureInfo::ServerFailureInfo(*info)),
        _ => None,
    };
    let mut kept = Failure {
        failure_info,
        source: take(&failure.source),
        message: take(&failure.message),
        stack_trace: take(&failure.stack_trace),
        ..Failure::default()
    };
    if let Some(cause) = &failure.cause
        && *left > 4
        && depth > 0
    {
        kept.cause = Some(Box::new(truncated(cause, left, depth - 1)));
    }
    kept
}

#[cfg(test)]
mod tests {
    use everlog_proto::api::failure::v1::CanceledFailureInfo;

    use super::*;

    fn policy(initial_ms: u64, coefficient: f64, maximum_ms: u64, attempts: i32) -> RetryPolicy {
        RetryPolicy {
            initial_interval: Some(time::to_proto(Duration::from_millis(initial_ms))),
            backoff_coefficient: coefficient,
            maximum_interval: Some(time::to_proto(Duration::from_millis(maximum_ms))),
            maximum_attempts: attempts,
            non_retryable_error_types: Vec::new(),
        }
    }

    fn application(error_type: &str, non_retryable: bool) -> Failure {
        let info = ApplicationFailureInfo { r#type: error_type.into(), non_retryable, ..Default::default() };
        Failure { failure_info: Some(FailureInfo::ApplicationFailureInfo(info)), ..Failure::default() }
    }

    #[test]
    fn defaults() {
        let policy = with_defaults(RetryPolicy::default());
        assert_eq!(policy.initial_interval, Some(time::to_proto(Duration::from_secs(1))));
        assert_eq!(policy.maximum_interval, Some(time::to_proto(Duration::from_secs(100))));
        assert_eq!((policy.backoff_coefficient, policy.maximum_attempts), (2.0, 0));
    }

    #[test]
    fn intervals() {
        let second = 1_000_000_000;
        // (policy, attempt, requested, expiration, expected)
        let cases = [
            (policy(1000, 2.0, 100_000, 0), 1, None, None, Ok(1000)),
            (policy(1000, 2.0, 100_000, 0), 3, None, None, Ok(4000)),
            (policy(1000, 2.0, 100_000, 0), 40, None, None, Ok(100_000)),
            (policy(1000, 1.5, 100_000, 0), 2, None, None, Ok(1500)),
            (policy(1000, 10.0, 0, 0), 100, None, None, Ok(100 * 365 * 24 * 3_600_000)),
            (policy(1000, 2.0, 100_000, 3), 2, None, None, Ok(2000)),
            (policy(1000, 2.0, 100_000, 3), 3, None, None, Err(RetryState::MaximumAttemptsReached)),
            (policy(1000, 2.0, 100_000, 1), 1, None, None, Err(RetryState::MaximumAttemptsReached)),
            (policy(1000, 2.0, 2000, 0), 1, Some(7000), None, Ok(7000)),
            (policy(1000, 2.0, 2000, 0), 1, Some(0), None, Err(RetryState::Timeout)),
            (policy(1000, 2.0, 100_000, 0), 1, None, Some(second), Ok(1000)),
            (policy(1000, 2.0, 100_000, 0), 2, None, Some(second), Err(RetryState::Timeout)),
        ];
        for (policy, attempt, requested_ms, expiration, expected_ms) in cases {
            let interval =
                next_interval(&policy, attempt, requested_ms.map(Duration::from_millis), Time(0), expiration.map(Time));
            assert_eq!(interval, expected_ms.map(Duration::from_millis), "attempt {attempt} of {policy:?}");
        }
    }

    #[test]
    fn what_is_retried() {
        let timeout = |timeout_type| timeout_failure(String::new(), timeout_type);
        let canceled = Failure {
            failure_info: Some(FailureInfo::CanceledFailureInfo(CanceledFailureInfo::default())),
            ..Failure::default()
        };
        let cases = [
            (application("T", false), &[][..], true),
            (application("T", true), &[], false),
            (application("T", false), &["T"], false),
            (application("T", false), &["S"], true),
            (Failure::default(), &["T"], true),
            (server_failure("", false), &[], true),
            (server_failure("", true), &[], false),
            (canceled, &[], false),
            (timeout(TimeoutType::StartToClose), &[], true),
            (timeout(TimeoutType::StartToClose), &["TemporalTimeout:StartToClose"], false),
            (timeout(TimeoutType::Heartbeat), &["TemporalTimeout:StartToClose"], true),
            (timeout(TimeoutType::Heartbeat), &["TemporalTimeout:Heartbeat"], false),
            (timeout(TimeoutType::ScheduleToStart), &[], false),
            (timeout(TimeoutType::ScheduleToClose), &[], false),
        ];
        for (failure, excluded, expected) in cases {
            let excluded: Vec<String> = excluded.iter().map(|error_type| (*error_type).to_owned()).collect();
            assert_eq!(is_retryable(&failure, &excluded), expected, "{failure:?} without {excluded:?}");
        }
    }

    #[test]
    fn refusals() {
        let with_error_type = |error_type: &str| RetryPolicy {
            non_retryable_error_types: vec![error_type.into()],
            ..policy(1000, 2.0, 1000, 0)
        };
        let cases = [
            (policy(1000, 2.0, 1000, 0), None),
            (policy(1000, 0.5, 10, 1), None),
            (policy(1000, 0.5, 1000, 0), Some("BackoffCoefficient cannot be less than 1 on retry policy.")),
            (policy(1000, f64::NAN, 1000, 0), Some("BackoffCoefficient cannot be less than 1 on retry policy.")),
            (policy(1000, 2.0, 999, 0), Some("MaximumInterval cannot be less than InitialInterval on retry policy.")),
            (policy(1000, 2.0, 1000, -1), Some("MaximumAttempts cannot be negative on retry policy.")),
            (with_error_type("TemporalTimeout:Heartbeat"), None),
            (with_error_type("TemporalTimeout:Never"), Some("Invalid timeout type value: Never.")),
        ];
        for (policy, expected) in cases {
            let refusal = validate(&policy).err().map(|rejection| rejection.to_string());
            assert_eq!(refusal.as_deref(), expected, "{policy:?}");
        }
    }

    #[test]
    fn a_large_failure_is_cut() {
        let failure = Failure {
            message: "ä".repeat(3000),
            stack_trace: "s".repeat(3000),
            cause: Some(Box::new(application("T", true))),
            ..application("Outer", false)
        };
        let kept = last_failure(failure);
        assert_eq!(kept.message, "Failure exceeds size limit.");
        let cause = kept.cause.as_deref().expect("the beginning of the failure");
        assert_eq!((cause.message.len(), cause.stack_trace.len()), (4096 - 5 - 4 - 1, 0));
        assert!(kept.encoded_len() < LAST_FAILURE_BYTES_MAX + 100);
        let small = application("T", false);
        assert_eq!(last_failure(small.clone()), small);
    }
}
