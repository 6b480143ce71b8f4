//! A time zone as a client gives it: a compiled file of the tz database (TZif, RFC 8536).
//!
//! ```text
//!   TZif v1:   header │ transitions, 32 bits │ zones │ …
//!   TZif v2+:  header │ (the same, passed over) │ header │ transitions, 64 bits │ zones │ … │ \n rule for later years \n
//! ```
//!
//! What is refused, and what holds before the first transition, is as with Go's `time.LoadLocationFromTZData`, which Temporal reads such data with.

use chrono::{Datelike, NaiveDate};

/// What Temporal says to all that is no such file.
const MALFORMED: &str = "malformed time zone information";

const DAY: i64 = 86_400;

/// The largest offset that the rule for later years may name, hours.
const RULE_HOURS_MAX: i64 = 24 * 7;

/// The clocks of a place.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ZoneData {
    zones: Box<[Clocks]>,
    /// When which zone begins to hold, in order.
    transitions: Box<[(i64, u8)]>,
    /// From the last transition on.
    rule: Option<Rule>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Clocks {
    /// Seconds ahead of UTC.
    offset: i64,
    is_summer: bool,
}

impl ZoneData {
    /// Reads a file.
    pub(super) fn read(data: &[u8]) -> Result<ZoneData, String> {
        read(data).ok_or_else(|| MALFORMED.to_owned())
    }

    /// How far the clocks are ahead of UTC's at a second.
    pub(super) fn offset(&self, second: i64) -> i64 {
        let begun = self.transitions.partition_point(|(when, _)| *when <= second);
        if begun == self.transitions.len()
            && let Some(offset) = self.rule.as_ref().and_then(|rule| rule.offset(second))
        {
            return offset;
        }
        let zone = begun.checked_sub(1).map_or_else(|| self.first(), |index| usize::from(self.transitions[index].1));
        self.zones[zone].offset
    }

    /// The zone before the first transition: the first one if none leads to it, or else one that is not of summer.
    fn first(&self) -> usize {
        let Some((_, after)) = self.transitions.first() else { return 0 };
        if self.transitions.iter().all(|(_, zone)| *zone != 0) {
            return 0;
        }
        let after = usize::from(*after);
        let before = |zone: &usize| !self.zones[*zone].is_summer;
        let of_earlier = if self.zones[after].is_summer { (0..after).rev().find(before) } else { None };
        of_earlier.or_else(|| (0..self.zones.len()).find(before)).unwrap_or(0)
    }
}

/// Bytes from the front of what is left.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self) -> Option<usize> {
        usize::try_from(u32::from_be_bytes(self.take(4)?.try_into().ok()?)).ok()
    }
}

/// How much there is of what, in the order of the header.
struct Counts {
    utc_marks: usize,
    standard_marks: usize,
    leap_seconds: usize,
    transitions: usize,
    zones: usize,
    name_bytes: usize,
}

impl Counts {
    fn read(bytes: &mut Bytes<'_>) -> Option<Counts> {
        Some(Counts {
            utc_marks: bytes.number()?,
            standard_marks: bytes.number()?,
            leap_seconds: bytes.number()?,
            transitions: bytes.number()?,
            zones: bytes.number()?,
            name_bytes: bytes.number()?,
        })
    }
}

fn read(data: &[u8]) -> Option<ZoneData> {
    let mut bytes = Bytes(data.strip_prefix(b"TZif")?);
    let version = bytes.take(16)?[0];
    let mut counts = Counts::read(&mut bytes)?;
    let mut time_bytes = 4;
    match version {
        0 => {}
        b'2' | b'3' => {
            let Counts { utc_marks, standard_marks, leap_seconds, transitions, zones, name_bytes } = counts;
            // None of these overflows: each has 32 bits.
            bytes
                .take(5 * transitions + 6 * zones + name_bytes + 8 * leap_seconds + standard_marks + utc_marks + 20)?;
            counts = Counts::read(&mut bytes)?;
            time_bytes = 8;
        }
        _ => return None,
    }
    let times = bytes.take(counts.transitions * time_bytes)?;
    let indexes = bytes.take(counts.transitions)?;
    let zones = bytes.take(counts.zones * 6)?;
    bytes.take(counts.name_bytes)?;
    bytes.take(counts.leap_seconds * (time_bytes + 4) + counts.standard_marks + counts.utc_marks)?;

    let zones: Box<[Clocks]> =
        zones.chunks_exact(6).map(|zone| clocks(zone, counts.name_bytes)).collect::<Option<_>>()?;
    if zones.is_empty() || indexes.iter().any(|zone| usize::from(*zone) >= zones.len()) {
        return None;
    }
    let transitions = times.chunks_exact(time_bytes).map(time).zip(indexes.iter().copied()).collect();
    // A rule that is none is left out, as an empty one is.
    let rule = bytes.0.strip_prefix(b"\n").and_then(|rest| rest.strip_suffix(b"\n")).and_then(Rule::read);
    Some(ZoneData { zones, transitions, rule })
}

fn clocks(zone: &[u8], name_bytes: usize) -> Option<Clocks> {
    let [a, b, c, d, is_summer, name] = *zone else { return None };
    let is_named = usize::from(name) < name_bytes;
    is_named.then(|| Clocks { offset: i64::from(i32::from_be_bytes([a, b, c, d])), is_summer: is_summer != 0 })
}

fn time(bytes: &[u8]) -> i64 {
    match <[u8; 8]>::try_from(bytes) {
        Ok(bytes) => i64::from_be_bytes(bytes),
        Err(_) => bytes.try_into().map_or(0, |bytes| i64::from(i32::from_be_bytes(bytes))),
    }
}

/// What holds after the last transition, in the form of the environment variable `TZ`.
#[derive(Clone, Debug, PartialEq)]
struct Rule {
    offset: i64,
    summer: Option<Summer>,
}

#[derive(Clone, Debug, PartialEq)]
struct Summer {
    offset: i64,
    begins: YearTime,
    ends: YearTime,
}

/// A time of each year, by the clocks that hold until then.
#[derive(Clone, Copy, Debug, PartialEq)]
struct YearTime {
    day: YearDay,
    /// Seconds after midnight.
    time: i64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum YearDay {
    /// From 1 on; the 29th of February has no number.
    Julian(i64),
    /// From 0 on.
    OfYear(i64),
    /// Of a month, the week (5: the last one) and the day, Sunday first.
    OfWeek { month: u32, week: i64, day: i64 },
}

impl Rule {
    fn read(text: &[u8]) -> Option<Rule> {
        let mut text = Text(std::str::from_utf8(text).ok()?);
        text.name()?;
        let offset = -text.offset()?;
        if text.0.is_empty() || text.0.starts_with(',') {
            return Some(Rule { offset, summer: None });
        }
        text.name()?;
        let is_told = !text.0.is_empty() && !text.0.starts_with(',');
        let of_summer = if is_told { -text.offset()? } else { offset + 3600 };
        if text.0.is_empty() {
            // The rule of the United States, which systems take where none is given.
            text = Text(",M3.2.0,M11.1.0");
        }
        let begins = text.after([',', ';'])?.year_time()?;
        let ends = text.after([','])?.year_time()?;
        let summer = Some(Summer { offset: of_summer, begins, ends });
        text.0.is_empty().then_some(Rule { offset, summer })
    }

    /// Seconds ahead of UTC.
    fn offset(&self, second: i64) -> Option<i64> {
        let Some(summer) = &self.summer else { return Some(self.offset) };
        let date = chrono::DateTime::from_timestamp(second, 0)?.date_naive();
        let of_year = i64::from(date.ordinal0()) * DAY + second.rem_euclid(DAY);
        let begins = summer.begins.second_of(date.year())? - self.offset;
        let ends = summer.ends.second_of(date.year())? - summer.offset;
        // In the south summer goes over the end of the year.
        let is_summer =
            if begins <= ends { (begins..ends).contains(&of_year) } else { !(ends..begins).contains(&of_year) };
        Some(if is_summer { summer.offset } else { self.offset })
    }
}

impl YearTime {
    /// Seconds after the beginning of the year.
    fn second_of(&self, year: i32) -> Option<i64> {
        let day = match self.day {
            YearDay::Julian(day) => day - 1 + i64::from(day >= 60 && NaiveDate::from_ymd_opt(year, 2, 29).is_some()),
            YearDay::OfYear(day) => day,
            YearDay::OfWeek { month, week, day } => {
                let first = NaiveDate::from_ymd_opt(year, month, 1)?;
                let days = first.checked_add_months(chrono::Months::new(1))?.signed_duration_since(first).num_days();
                let to_day = (day - i64::from(first.weekday().num_days_from_sunday())).rem_euclid(7);
                let weeks = (week - 1).min((days - 1 - to_day) / 7);
                i64::from(first.ordinal0()) + to_day + 7 * weeks
            }
        };
        Some(day * DAY + self.time)
    }
}

/// The rule as far as it is not read yet.
struct Text<'a>(&'a str);

impl Text<'_> {
    /// What stands behind one of these.
    fn after<const N: usize>(&mut self, separators: [char; N]) -> Option<&mut Self> {
        self.0 = self.0.strip_prefix(separators)?;
        Some(self)
    }

    fn name(&mut self) -> Option<()> {
        if let Some(quoted) = self.0.strip_prefix('<') {
            self.0 = quoted.split_once('>')?.1;
            return Some(());
        }
        let end = self.0.find(|letter: char| letter.is_ascii_digit() || matches!(letter, ',' | '-' | '+'));
        let end = end.unwrap_or(self.0.len());
        self.0 = &self.0[end..];
        (end >= 3).then_some(())
    }

    /// Hours, and minutes and seconds if they are told, in seconds.
    fn offset(&mut self) -> Option<i64> {
        let sign = if self.after(['-']).is_some() { -1 } else { 1 };
        if sign == 1 {
            self.after(['+']);
        }
        let mut seconds = self.number(0, RULE_HOURS_MAX)? * 3600;
        for unit in [60, 1] {
            if self.after([':']).is_none() {
                break;
            }
            seconds += self.number(0, 59)? * unit;
        }
        Some(sign * seconds)
    }

    fn year_time(&mut self) -> Option<YearTime> {
        let day = if self.after(['J']).is_some() {
            YearDay::Julian(self.number(1, 365)?)
        } else if self.after(['M']).is_some() {
            let month = u32::try_from(self.number(1, 12)?).ok()?;
            let week = self.after(['.'])?.number(1, 5)?;
            YearDay::OfWeek { month, week, day: self.after(['.'])?.number(0, 6)? }
        } else {
            YearDay::OfYear(self.number(0, 365)?)
        };
        let time = if self.after(['/']).is_some() { self.offset()? } else { 2 * 3600 };
        Some(YearTime { day, time })
    }

    fn number(&mut self, min: i64, max: i64) -> Option<i64> {
        let end = self.0.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(self.0.len());
        let (digits, rest) = self.0.split_at(end);
        self.0 = rest;
        digits.parse().ok().filter(|number| (min..=max).contains(number))
    }
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use chrono::{DateTime, Offset, TimeZone};
    use chrono_tz::Tz;

    use super::*;

    /// A file of a version: transitions with the zone that they lead to, zones, and the rule.
    fn file(version: u8, transitions: &[(i64, u8)], zones: &[(i32, bool)], rule: &str) -> Vec<u8> {
        let header = |counts: [usize; 6]| {
            let mut header = b"TZif".to_vec();
            header.push(version);
            header.extend([0; 15]);
            counts.into_iter().for_each(|count| header.extend((count as u32).to_be_bytes()));
            header
        };
        let body = |bytes: usize| {
            let mut body = header([0, 0, 0, transitions.len(), zones.len(), 4]);
            transitions.iter().for_each(|(when, _)| body.extend(&when.to_be_bytes()[8 - bytes..]));
            body.extend(transitions.iter().map(|(_, zone)| *zone));
            for (offset, is_summer) in zones {
                body.extend(offset.to_be_bytes());
                body.extend([u8::from(*is_summer), 0]);
            }
            body.extend(b"LMT\0");
            body
        };
        if version == 0 {
            return body(4);
        }
        // The first part may be empty.
        let mut file = header([0, 0, 0, 0, 1, 1]);
        file.extend([0; 7]);
        file.extend(body(8));
        file.extend(format!("\n{rule}\n").bytes());
        file
    }

    fn offset(zone: &[u8], second: i64) -> i64 {
        ZoneData::read(zone).unwrap().offset(second)
    }

    #[test]
    fn a_rule_holds_for_all_years_to_come_as_in_the_places_that_have_it() {
        let places = [
            ("Europe/Berlin", "CET-1CEST,M3.5.0,M10.5.0/3"),
            ("America/New_York", "EST5EDT,M3.2.0,M11.1.0"),
            ("America/New_York", "EST5EDT"),
            ("Australia/Lord_Howe", "<+1030>-10:30<+11>-11,M10.1.0,M4.1.0"),
            ("America/Santiago", "<-04>4<-03>,M9.1.6/24,M4.1.6/24"),
            ("America/Nuuk", "<-02>2<-01>,M3.5.0/-1,M10.5.0/0"),
            ("Asia/Kathmandu", "<+0545>-5:45"),
            ("Asia/Kolkata", "IST-5:30"),
        ];
        for (name, rule) in places {
            let (place, zone) = (Tz::from_str(name).unwrap(), file(b'2', &[], &[(0, false)], rule));
            let zone = ZoneData::read(&zone).unwrap();
            // Every half an hour of some years, one of them a leap year.
            for second in (1_735_689_600_i64..1_861_920_000).step_by(1800) {
                let time = DateTime::from_timestamp(second, 0).unwrap().naive_utc();
                let expected = i64::from(place.offset_from_utc_datetime(&time).fix().local_minus_utc());
                assert_eq!(zone.offset(second), expected, "{name} {rule} at {time}");
            }
        }
    }

    #[test]
    fn days_of_a_rule_may_be_counted_from_the_first_of_the_year() {
        let zone = |rule| file(b'3', &[], &[(0, false)], rule);
        let at = |text: &str| DateTime::parse_from_rfc3339(text).unwrap().timestamp();
        // J60 is the first of March in each year, 59 only where February has 28 days.
        let (julian, of_year) = (zone("AAA0BBB,J60/0,J300/0"), zone("AAA0BBB,59/0,300/0"));
        assert_eq!(offset(&julian, at("2024-02-29T12:00:00Z")), 0);
        assert_eq!(offset(&of_year, at("2024-02-29T12:00:00Z")), 3600);
        for zone in [&julian, &of_year] {
            assert_eq!(offset(zone, at("2025-02-28T23:59:59Z")), 0);
            assert_eq!(offset(zone, at("2025-03-01T00:00:00Z")), 3600);
        }
    }

    #[test]
    fn transitions_count_until_the_last_one_and_a_rule_behind_it() {
        for version in [0, b'2', b'3'] {
            let zone = file(version, &[(100, 1), (200, 2)], &[(60, false), (120, true), (180, false)], "AAA-1");
            let last = if version == 0 { 180 } else { 3600 };
            assert_eq!([99, 100, 199, 200].map(|second| offset(&zone, second)), [60, 120, 120, last], "{version}");
            assert_eq!([i64::MIN, i64::MAX].map(|second| offset(&zone, second)), [60, last]);
        }
        // What is no rule is left out.
        for rule in ["", "AA-1", "AAA", "AAA-1BBB,M3", "AAA-1BBB,M3.5.0,M13.5.0", "AAA169", "AAA0BBB,J0,J1"] {
            let zone = file(b'2', &[(100, 1)], &[(60, false), (120, true)], rule);
            assert_eq!(offset(&zone, 200), 120, "{rule}");
        }
    }

    #[test]
    fn before_the_first_transition_a_zone_holds_that_is_not_of_summer() {
        let first = |transitions: &[(i64, u8)], zones: &[(i32, bool)]| offset(&file(0, transitions, zones, ""), 0);
        assert_eq!(first(&[(100, 1)], &[(60, true), (120, false)]), 60, "none leads to the first one");
        assert_eq!(first(&[(100, 2), (200, 0)], &[(60, true), (120, false), (180, true)]), 120);
        assert_eq!(first(&[(100, 0)], &[(60, true), (120, true), (180, false)]), 180);
        assert_eq!(first(&[(100, 0)], &[(60, true)]), 60);
        assert_eq!(first(&[], &[(60, true)]), 60);
    }

    #[test]
    fn what_is_no_such_file_is_refused() {
        let whole = file(b'2', &[(100, 1)], &[(60, false), (120, true)], "AAA-1");
        assert!(ZoneData::read(&whole).is_ok());
        // Cut off anywhere before the rule.
        let body = whole.len() - "\nAAA-1\n".len();
        for length in 0..body {
            assert_eq!(ZoneData::read(&whole[..length]), Err(MALFORMED.to_owned()), "{length}");
        }
        assert!((body..=whole.len()).all(|length| ZoneData::read(&whole[..length]).is_ok()));
        let mut huge = whole.clone();
        huge[20..44].fill(0xff);
        let cases = [
            file(b'1', &[], &[(0, false)], ""),
            file(b'4', &[], &[(0, false)], ""),
            file(0, &[], &[], ""),
            file(0, &[(1, 1)], &[(0, false)], ""),
            b"TZif".to_vec(),
            huge,
        ];
        for case in cases {
            assert_eq!(ZoneData::read(&case), Err(MALFORMED.to_owned()), "{case:?}");
        }
    }
}
