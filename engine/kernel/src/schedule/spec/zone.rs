//! The clocks of a place, by a database that is part of the program or by data of the client's.

use std::str::FromStr;
use std::sync::Arc;

use chrono::{DateTime, Offset, TimeZone};
use chrono_tz::Tz;
use everlog_proto::api::schedule::v1::ScheduleSpec;

use super::zone_data::ZoneData;

/// A place.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Zone {
    Known(Tz),
    Given(Arc<ZoneData>),
}

impl Zone {
    /// The place of a spec: where it has data, its name is nothing but a name.
    pub(super) fn of(spec: &ScheduleSpec) -> Result<Zone, String> {
        match spec.timezone_data.is_empty() {
            true => Zone::load(&spec.timezone_name),
            false => Ok(Zone::Given(Arc::new(ZoneData::read(&spec.timezone_data)?))),
        }
    }

    /// The place with a name; that of the server, which is nobody's, has the clocks of UTC.
    pub(super) fn load(name: &str) -> Result<Zone, String> {
        if matches!(name, "" | "UTC" | "Local") {
            return Ok(Zone::Known(Tz::UTC));
        }
        if name.split(['/', '\\']).any(|part| part == "..") || name.starts_with(['/', '\\']) {
            return Err("time: invalid location name".to_owned());
        }
        Tz::from_str(name).map(Zone::Known).map_err(|_| format!("unknown time zone {name}"))
    }

    /// How far the clocks are ahead of UTC's at a second.
    pub(super) fn offset(&self, second: i64) -> i64 {
        match self {
            Zone::Known(place) => {
                let Some(time) = DateTime::from_timestamp(second, 0) else { return 0 };
                i64::from(place.offset_from_utc_datetime(&time.naive_utc()).fix().local_minus_utc())
            }
            Zone::Given(data) => data.offset(second),
        }
    }

    /// A second at which the clocks show what those of UTC would show at `shown`. One that they skip, or show twice, becomes what
    /// Go's `time.Date` makes of it.
    pub(super) fn second_of(&self, shown: i64) -> i64 {
        match self.offset(shown) {
            0 => shown,
            offset => shown - self.offset(shown - offset),
        }
    }
}
