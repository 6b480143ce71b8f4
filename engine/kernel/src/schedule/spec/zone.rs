//! The clocks of a place, by a database that is part of the program.

use std::str::FromStr;

use chrono::{DateTime, Offset, TimeZone};
use chrono_tz::Tz;

/// A place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Zone(Tz);

impl Zone {
    /// The place with a name; that of the server, which is nobody's, has the clocks of UTC.
    pub(super) fn load(name: &str) -> Result<Zone, String> {
        if matches!(name, "" | "UTC" | "Local") {
            return Ok(Zone(Tz::UTC));
        }
        if name.split(['/', '\\']).any(|part| part == "..") || name.starts_with(['/', '\\']) {
            return Err("time: invalid location name".to_owned());
        }
        Tz::from_str(name).map(Zone).map_err(|_| format!("unknown time zone {name}"))
    }

    /// How far the clocks are ahead of UTC's at a second.
    pub(super) fn offset(&self, second: i64) -> i64 {
        let Some(time) = DateTime::from_timestamp(second, 0) else { return 0 };
        i64::from(self.0.offset_from_utc_datetime(&time.naive_utc()).fix().local_minus_utc())
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
