//! The timeouts of an activity: what follows from those that are given, and when they are over.

use std::time::Duration;

use everlog_proto::api::enums::v1::TimeoutType;
use everlog_proto::wkt;

use crate::state::Activity;
use crate::{Time, time};

/// An activity's timeouts, as messages have them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Timeouts {
    pub(crate) schedule_to_close: Option<wkt::Duration>,
    pub(crate) schedule_to_start: Option<wkt::Duration>,
    pub(crate) start_to_close: Option<wkt::Duration>,
    pub(crate) heartbeat: Option<wkt::Duration>,
}

impl Timeouts {
    /// With those filled in that were not given, and all cut to what the others and the run allow; or what is wrong with them, of an
    /// activity of that name and type.
    pub(crate) fn completed(
        self,
        run_timeout: Option<Duration>,
        activity_id: &str,
        activity_type: &str,
    ) -> Result<Timeouts, String> {
        let given = Durations {
            schedule_to_close: given(self.schedule_to_close, "ScheduleToCloseTimeout")?,
            schedule_to_start: given(self.schedule_to_start, "ScheduleToStartTimeout")?,
            start_to_close: given(self.start_to_close, "StartToCloseTimeout")?,
            heartbeat: given(self.heartbeat, "HeartbeatTimeout")?,
        };
        let limits = given.deduced(run_timeout).ok_or_else(|| {
            format!(
                "a valid StartToCloseTimeout or ScheduleToCloseTimeout must be set on the activity. \
                 ActivityId={activity_id} ActivityType={activity_type}"
            )
        })?;
        // A timeout that does not limit anything is written as zero: some SDKs expect the fields to be there.
        let written = |timeout: Option<Duration>| Some(time::to_proto(timeout.unwrap_or_default()));
        Ok(Timeouts {
            schedule_to_close: written(limits.schedule_to_close),
            schedule_to_start: written(limits.schedule_to_start),
            start_to_close: written(limits.start_to_close),
            heartbeat: written(limits.heartbeat),
        })
    }
}

fn given(timeout: Option<wkt::Duration>, name: &str) -> Result<Option<Duration>, String> {
    time::positive(timeout.as_ref()).map_err(|wrong| format!("invalid {name}: {wrong}"))
}

/// The same as they count; `None` for "not limited".
#[derive(Clone, Copy, Debug, PartialEq)]
struct Durations {
    schedule_to_close: Option<Duration>,
    schedule_to_start: Option<Duration>,
    start_to_close: Option<Duration>,
    heartbeat: Option<Duration>,
}

impl Durations {
    /// Fills in those that were not given, and cuts all to what the others and the run allow. `None` if neither the start nor
    /// the schedule has a time to close.
    fn deduced(mut self, run_timeout: Option<Duration>) -> Option<Durations> {
        if let Some(schedule_to_close) = self.schedule_to_close {
            self.schedule_to_start = shorter(self.schedule_to_start, Some(schedule_to_close));
            self.start_to_close = shorter(self.start_to_close, Some(schedule_to_close));
        } else if self.start_to_close.is_some() {
            self.schedule_to_close = run_timeout;
            self.schedule_to_start = self.schedule_to_start.or(run_timeout);
        } else {
            return None;
        }
        if run_timeout.is_some() {
            self.schedule_to_close = shorter(self.schedule_to_close, run_timeout);
            self.schedule_to_start = shorter(self.schedule_to_start, run_timeout);
            self.start_to_close = shorter(self.start_to_close, run_timeout);
        }
        // No heartbeat timeout stays none.
        self.heartbeat = self.heartbeat.and_then(|heartbeat| shorter(Some(heartbeat), self.start_to_close));
        Some(self)
    }
}

/// The tighter of two limits.
fn shorter(a: Option<Duration>, b: Option<Duration>) -> Option<Duration> {
    a.into_iter().chain(b).min()
}

/// A timeout of an activity. The order is that in which timeouts of the same moment are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timeout {
    StartToClose,
    ScheduleToStart,
    ScheduleToClose,
    Heartbeat,
}

impl Timeout {
    pub(crate) fn to_proto(self) -> TimeoutType {
        match self {
            Timeout::StartToClose => TimeoutType::StartToClose,
            Timeout::ScheduleToStart => TimeoutType::ScheduleToStart,
            Timeout::ScheduleToClose => TimeoutType::ScheduleToClose,
            Timeout::Heartbeat => TimeoutType::Heartbeat,
        }
    }

    /// The timeouts of an activity with their times.
    pub(crate) fn of(activity: &Activity) -> impl Iterator<Item = (Time, Timeout)> {
        [
            (activity.start_to_close_deadline(), Timeout::StartToClose),
            (activity.schedule_to_start_deadline(), Timeout::ScheduleToStart),
            (activity.schedule_to_close_deadline(), Timeout::ScheduleToClose),
            (activity.heartbeat_deadline(), Timeout::Heartbeat),
        ]
        .into_iter()
        .filter_map(|(deadline, timeout)| Some((deadline?, timeout)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_deduced_from_each_other() {
        // (schedule-to-close, schedule-to-start, start-to-close, heartbeat), run timeout, expected; 0 for none.
        let cases = [
            ([0, 0, 5, 0], 0, Some([0, 0, 5, 0])),
            ([0, 0, 5, 0], 60, Some([60, 60, 5, 0])),
            ([0, 3, 5, 0], 60, Some([60, 3, 5, 0])),
            ([9, 0, 0, 0], 0, Some([9, 9, 9, 0])),
            ([9, 20, 20, 30], 0, Some([9, 9, 9, 9])),
            ([9, 2, 3, 1], 0, Some([9, 2, 3, 1])),
            ([90, 80, 70, 65], 60, Some([60, 60, 60, 60])),
            ([0, 0, 70, 20], 60, Some([60, 60, 60, 20])),
            ([0, 4, 0, 4], 60, None),
        ];
        let timeouts = |[schedule_to_close, schedule_to_start, start_to_close, heartbeat]: [u64; 4]| {
            let some = |secs: u64| (secs > 0).then(|| Duration::from_secs(secs));
            Durations {
                schedule_to_close: some(schedule_to_close),
                schedule_to_start: some(schedule_to_start),
                start_to_close: some(start_to_close),
                heartbeat: some(heartbeat),
            }
        };
        for (given, run_timeout, expected) in cases {
            let run_timeout = (run_timeout > 0).then(|| Duration::from_secs(run_timeout));
            assert_eq!(timeouts(given).deduced(run_timeout), expected.map(timeouts), "{given:?} in {run_timeout:?}");
        }
    }
}
