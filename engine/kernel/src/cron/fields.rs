//! The five fields of a schedule, `minute hour day-of-month month day-of-week`, and which days and minutes match them.
//!
//! | a field | matches |
//! |---|---|
//! | `*`, `?` | everything |
//! | `5`, `jan`, `sun` | that; months and days of the week have names, and Sunday is 0 |
//! | `5-10` | those from the one to the other |
//! | `*/15`, `5-50/15`, `5/15` | every 15th of those; behind a single number, of those from there on |
//! | `1,5-10` | what is in the list |
//!
//! Where both kinds of days are given, either is enough. One that is `*` or `?` is not given.

/// The minutes that a schedule is for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Calendar {
    minutes: Field,
    hours: Field,
    days_of_month: Field,
    months: Field,
    days_of_week: Field,
}

/// A day, as far as schedules look at it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Day {
    /// From 1.
    pub(super) month: u32,
    /// From 1.
    pub(super) of_month: u32,
    /// From 0, Sunday.
    pub(super) of_week: u32,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Field {
    /// The bit of each number that matches.
    bits: u64,
    /// Whether all match because none is given.
    is_star: bool,
}

struct Bounds {
    least: u32,
    most: u32,
    /// The names of the numbers, from the least on.
    names: &'static [&'static str],
}

const MINUTES: Bounds = Bounds { least: 0, most: 59, names: &[] };
const HOURS: Bounds = Bounds { least: 0, most: 23, names: &[] };
const DAYS_OF_MONTH: Bounds = Bounds { least: 1, most: 31, names: &[] };
const MONTHS: Bounds = Bounds {
    least: 1,
    most: 12,
    names: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
};
const DAYS_OF_WEEK: Bounds = Bounds { least: 0, most: 6, names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"] };
/// The days of each month, in a leap year.
const MONTH_DAYS_MAX: [u32; 12] = [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];

impl Calendar {
    pub(super) fn parse(text: &str) -> Option<Calendar> {
        let mut fields = text.split_whitespace();
        let mut next = |bounds| Field::parse(fields.next()?, bounds);
        let calendar = Calendar {
            minutes: next(&MINUTES)?,
            hours: next(&HOURS)?,
            days_of_month: next(&DAYS_OF_MONTH)?,
            months: next(&MONTHS)?,
            days_of_week: next(&DAYS_OF_WEEK)?,
        };
        fields.next().is_none().then_some(calendar)
    }

    /// Whether any minute matches.
    pub(super) fn has_days(&self) -> bool {
        let dates = (1..=12).zip(MONTH_DAYS_MAX).flat_map(|(month, days)| (1..=days).map(move |day| (month, day)));
        let mut days = dates.flat_map(|(month, of_month)| (0..7).map(move |of_week| Day { month, of_month, of_week }));
        self.minutes.bits != 0 && self.hours.bits != 0 && days.any(|day| self.has_day(day))
    }

    pub(super) fn has_day(&self, day: Day) -> bool {
        let of_month = self.days_of_month.has(day.of_month);
        let of_week = self.days_of_week.has(day.of_week);
        let either = !self.days_of_month.is_star && !self.days_of_week.is_star;
        self.months.has(day.month) && if either { of_month || of_week } else { of_month && of_week }
    }

    pub(super) fn has_hour(&self, hour: u32) -> bool {
        self.hours.has(hour)
    }

    pub(super) fn has_minute(&self, minute: u32) -> bool {
        self.minutes.has(minute)
    }
}

impl Field {
    fn parse(text: &str, bounds: &Bounds) -> Option<Field> {
        let mut field = Field { bits: 0, is_star: false };
        for range in text.split(',').filter(|range| !range.is_empty()) {
            let range = Field::parse_range(range, bounds)?;
            field.bits |= range.bits;
            field.is_star |= range.is_star;
        }
        Some(field)
    }

    fn parse_range(text: &str, bounds: &Bounds) -> Option<Field> {
        let (range, step) = text.split_once('/').map_or((text, None), |(range, step)| (range, Some(step)));
        let (first, last) = range.split_once('-').map_or((range, None), |(first, last)| (first, Some(last)));
        let step_by = step.map_or(Some(1), number).filter(|step| *step > 0)?;
        let is_star = first == "*" || first == "?";
        let (from, to) = if is_star {
            // What is written behind a hyphen then does not count.
            last.is_none_or(|last| !last.contains('-')).then_some((bounds.least, bounds.most))?
        } else {
            let from = bounds.number(first)?;
            let to = match last {
                Some(last) => bounds.number(last)?,
                None if step.is_some() => bounds.most,
                None => from,
            };
            (from, to)
        };
        if from < bounds.least || to > bounds.most || from > to {
            return None;
        }
        let bits = (from..=to).step_by(step_by as usize).fold(0, |bits, number| bits | 1 << number);
        Some(Field { bits, is_star: is_star && step_by == 1 })
    }

    fn has(self, number: u32) -> bool {
        self.bits & 1 << number != 0
    }
}

impl Bounds {
    fn number(&self, text: &str) -> Option<u32> {
        let named = self.names.iter().position(|name| name.eq_ignore_ascii_case(text));
        named.map_or_else(|| number(text), |position| Some(self.least + position as u32))
    }
}

fn number(text: &str) -> Option<u32> {
    text.parse().ok()
}
