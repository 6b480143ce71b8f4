//! Points in time and durations, and their protobuf forms.

use std::time::Duration;

use everlog_proto::wkt;
use serde::{Deserialize, Serialize};

/// Nanoseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Time(pub i64);

/// Longer durations are cut to this (Temporal caps at about 100 years).
pub const DURATION_MAX: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

impl Time {
    /// Later than every time that occurs.
    pub const MAX: Time = Time(i64::MAX);

    /// This time plus `duration`, at most [`Time::MAX`].
    pub fn plus(self, duration: Duration) -> Time {
        Time(self.0.saturating_add(i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)))
    }

    /// How long after `earlier` this is; zero if it is not after it.
    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0).max(0).unsigned_abs())
    }

    /// The protobuf form.
    pub fn to_proto(self) -> wkt::Timestamp {
        wkt::Timestamp {
            seconds: self.0.div_euclid(1_000_000_000),
            nanos: i32::try_from(self.0.rem_euclid(1_000_000_000)).expect("a remainder below 10^9 fits"),
        }
    }

    /// From the protobuf form, saturating.
    pub fn from_proto(timestamp: &wkt::Timestamp) -> Time {
        Time(timestamp.seconds.saturating_mul(1_000_000_000).saturating_add(i64::from(timestamp.nanos)))
    }
}

/// A protobuf duration that the caller left out, or set to zero, is `None`; one that is below zero, or no duration, is an error.
pub fn positive(duration: Option<&wkt::Duration>) -> Result<Option<Duration>, NotPositive> {
    let Some(duration) = duration else { return Ok(None) };
    if duration.seconds.signum() * i64::from(duration.nanos.signum()) < 0 {
        return Err(NotPositive::OfTwoSigns);
    }
    if duration.seconds < 0 || duration.nanos < 0 {
        return Err(NotPositive::Negative);
    }
    let value = Duration::new(duration.seconds.unsigned_abs(), 0)
        .saturating_add(Duration::from_nanos(u64::from(duration.nanos.unsigned_abs())))
        .min(DURATION_MAX);
    Ok((!value.is_zero()).then_some(value))
}

/// What is wrong with a duration, in Temporal's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotPositive {
    /// It is below zero.
    #[error("negative duration")]
    Negative,
    /// Its seconds and nanoseconds point to different sides of zero.
    #[error("duration has seconds and nanos with different signs")]
    OfTwoSigns,
}

/// The protobuf form of a duration.
pub fn to_proto(duration: Duration) -> wkt::Duration {
    wkt::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).expect("a remainder below 10^9 fits"),
    }
}
