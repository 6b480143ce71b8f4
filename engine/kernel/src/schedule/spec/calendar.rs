//! A calendar: the seconds at which the clocks of a place show a year, month, day, weekday, hour, minute and second of given ones.

use everlog_proto::api::schedule::v1::StructuredCalendarSpec;

use super::zone::Zone;
use super::{YEARS, each_of};

const MINUTE: i64 = 60;
const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;

/// A calendar. Each set of numbers is a word of bits.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Calendar {
    second: u64,
    minute: u64,
    hour: u64,
    day_of_month: u64,
    month: u64,
    /// All, if there are none.
    years: Option<Box<[i32]>>,
    day_of_week: u64,
}

/// What clocks show.
#[derive(Clone, Copy)]
struct Shown {
    year: i32,
    /// From 1.
    month: i32,
    /// From 1.
    day: i32,
    hour: i32,
    minute: i32,
    second: i32,
}

impl Calendar {
    pub(super) fn new(spec: &StructuredCalendarSpec) -> Calendar {
        let bits = |ranges| {
            let mut bits: u64 = 0;
            each_of(ranges, |number| bits |= 1_u64.checked_shl(number.unsigned_abs()).unwrap_or(0));
            bits
        };
        let mut years = Vec::new();
        each_of(&spec.year, |year| years.push(year));
        Calendar {
            second: bits(&spec.second),
            minute: bits(&spec.minute),
            hour: bits(&spec.hour),
            day_of_month: bits(&spec.day_of_month),
            month: bits(&spec.month),
            years: (!spec.year.is_empty()).then(|| years.into()),
            day_of_week: bits(&spec.day_of_week),
        }
    }

    /// Whether a second is one of those.
    pub(super) fn matches(&self, second: i64, zone: &Zone) -> bool {
        let local = second + zone.offset(second);
        let shown = shown(local);
        self.has_year(shown.year)
            && has(self.month, shown.month)
            && has(self.day_of_month, shown.day)
            && has(self.day_of_week, weekday(local))
            && has(self.hour, shown.hour)
            && has(self.minute, shown.minute)
            && has(self.second, shown.second)
    }

    fn has_year(&self, year: i32) -> bool {
        self.years.as_ref().is_none_or(|years| years.contains(&year))
    }

    /// The first second of those behind `after`.
    ///
    /// The fields are advanced from the outermost on that does not match. An hour that clocks show twice is gone through twice;
    /// one that they skip does not match.
    pub(super) fn next(&self, after: i64, zone: &Zone) -> Option<i64> {
        let mut at = shown(after + zone.offset(after));
        // Whether this is the second time that the clocks show this hour.
        let mut again = shown(after - HOUR + zone.offset(after - HOUR)).hour == at.hour;
        at.second += 1;
        loop {
            again = at.carry(zone, again);
            if at.year > *YEARS.end() {
                return None;
            }
            let whole = at;
            if !self.has_year(at.year) {
                at = Shown { year: at.year + 1, month: 1, day: 1, hour: 0, minute: 0, second: 0 };
            } else if !has(self.month, at.month) {
                at = Shown { month: at.month + 1, day: 1, hour: 0, minute: 0, second: 0, ..at };
            } else if !has(self.day_of_month, at.day) || !has(self.day_of_week, weekday(at.second_by(zone).1)) {
                at = Shown { day: at.day + 1, hour: 0, minute: 0, second: 0, ..at };
            } else if !has(self.hour, at.hour) {
                at = Shown { hour: at.hour + 1, minute: 0, second: 0, ..at };
            } else if !has(self.minute, at.minute) {
                at = Shown { minute: at.minute + 1, second: 0, ..at };
                // The hour is the same, so it counts as before.
                continue;
            } else if !has(self.second, at.second) {
                at.second += 1;
                continue;
            } else {
                let (second, local) = at.second_by(zone);
                if shown(local).hour == at.hour {
                    return Some(second + if again { HOUR } else { 0 });
                }
                // Clocks skip it.
                at = Shown { hour: at.hour + 1, minute: 0, second: 0, ..whole };
                continue;
            }
            again = false;
        }
    }
}

impl Shown {
    /// Carries what is too much of a field over to the next one. `again` tells whether the hour is one that clocks show for the second
    /// time, and the answer whether the new one is.
    fn carry(&mut self, zone: &Zone, mut again: bool) -> bool {
        if self.second >= 60 {
            (self.minute, self.second) = (self.minute + 1, 0);
        }
        if self.minute >= 60 {
            let hour = |hour: i32| Shown { hour, minute: 0, second: 0, ..*self }.second_by(zone).0;
            let is_long = hour(self.hour + 1) - hour(self.hour) > HOUR;
            if is_long && !again {
                again = true;
            } else {
                self.hour += 1;
                again = false;
            }
            self.minute = 0;
        }
        if self.hour >= 24 {
            (self.day, self.hour) = (self.day + 1, 0);
        }
        if self.month <= 12 && self.day > days_in_month(self.month, self.year) {
            (self.month, self.day) = (self.month + 1, 1);
        }
        if self.month > 12 {
            (self.year, self.month) = (self.year + 1, 1);
        }
        again
    }

    /// The second at which clocks show this, and what UTC's would show when those do then.
    fn second_by(&self, zone: &Zone) -> (i64, i64) {
        let shown = seconds(self.year, self.month, self.day, self.hour, self.minute, self.second);
        let second = zone.second_of(shown);
        (second, second + zone.offset(second))
    }
}

fn has(bits: u64, number: i32) -> bool {
    bits >> number & 1 == 1
}

/// What clocks show `local` seconds after they showed the Unix epoch.
fn shown(local: i64) -> Shown {
    let (days, of_day) = (local.div_euclid(DAY), local.rem_euclid(DAY));
    let (year, month, day) = date(days);
    let field = |number: i64| i32::try_from(number).unwrap_or(0);
    Shown {
        year,
        month,
        day,
        hour: field(of_day / HOUR),
        minute: field(of_day % HOUR / MINUTE),
        second: field(of_day % MINUTE),
    }
}

/// From 0, Sunday.
fn weekday(local: i64) -> i32 {
    // The epoch was a Thursday.
    i32::try_from((local.div_euclid(DAY) + 4).rem_euclid(7)).unwrap_or(0)
}

/// The date that many days after the epoch (Hinnant, "chrono-compatible low-level date algorithms").
fn date(days: i64) -> (i32, i32, i32) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let day_of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let field = |number: i64| i32::try_from(number).unwrap_or(i32::MAX);
    (field(year), field(month), field(day))
}

/// Seconds from the epoch to what UTC's clocks show. An hour may be 24.
pub(super) fn seconds(year: i32, month: i32, day: i32, hour: i32, minute: i32, second: i32) -> i64 {
    let year = i64::from(year) - i64::from(month <= 2);
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let month = i64::from(month);
    let day_of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + i64::from(day) - 1;
    let of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let days = era * 146_097 + of_era - 719_468;
    days * DAY + i64::from(hour) * HOUR + i64::from(minute) * MINUTE + i64::from(second)
}

fn days_in_month(month: i32, year: i32) -> i32 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}
