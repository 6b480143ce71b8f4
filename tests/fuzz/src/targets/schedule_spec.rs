//! Specs of schedules: refused in words, or due at times that go on, and never looked for without end.

use everlog_kernel::Time;
use everlog_kernel::schedule::spec::{self, Compiled};
use everlog_proto::api::schedule::v1::{CalendarSpec, IntervalSpec, Range, ScheduleSpec, StructuredCalendarSpec};
use everlog_proto::wkt::{Duration, Timestamp};
use everlog_random::{Random, mutate};
use prost::Message;

use super::{Target, kind_of};

/// Words of cron strings and calendars, which random bytes do not hit.
const WORDS: [&str; 24] = [
    "*",
    "*/",
    "-",
    ",",
    "/",
    " ",
    "7",
    "59",
    "2000",
    "2100",
    "sun",
    "mon-fri",
    "jan",
    "@every ",
    "@hourly",
    "1h30m",
    "1d/",
    "CRON_TZ=",
    "TZ=",
    "Europe/Berlin ",
    "#",
    "..",
    "99999999999999999999",
    "-1",
];

/// Cron strings, also of those that are refused.
const CRONS: [&str; 14] = [
    "0 12 * * mon-fri",
    "*/20 1,2 3-5/2 feb 0-7 2026-2100/3",
    "5 0 0 29 2 * *",
    "@every 1h30m/5m # often",
    "@every 1.5d",
    "CRON_TZ=America/New_York 30 2 * * sun",
    "TZ=Australia/Lord_Howe @hourly",
    "@yearly",
    "@every",
    "@never",
    "1 2 3",
    "60 * * * *",
    "1/0 * * * 1-2-3",
    "TZ=../x * * * * *",
];

/// A zone as a file of the tz database: two transitions, two kinds of clocks, and a rule for later years.
fn zone() -> Vec<u8> {
    let header = |counts: [u8; 6]| {
        let counts = counts.into_iter().flat_map(|count| [0, 0, 0, count]);
        b"TZif2".iter().copied().chain([0; 15]).chain(counts).collect::<Vec<u8>>()
    };
    let mut file = header([0, 0, 0, 0, 1, 1]);
    file.extend([0; 7]);
    file.extend(header([0, 0, 0, 2, 2, 8]));
    [1_700_000_000_i64, 1_710_000_000].into_iter().for_each(|when| file.extend(when.to_be_bytes()));
    file.extend([1, 0]);
    for (offset, is_summer, name) in [(3600_i32, 0, 0), (7200, 1, 4)] {
        file.extend(offset.to_be_bytes());
        file.extend([is_summer, name]);
    }
    file.extend(b"CET\0CES\0\nCET-1CEST,M3.5.0,J300/3\n");
    file
}

/// When times are looked for first: before clocks are put forward in many places.
const MOMENT: Time = Time(1_774_742_400_000_000_000);

pub(super) struct Specs;

impl Target for Specs {
    fn name(&self) -> &'static str {
        "schedule-spec"
    }

    fn seeds(&mut self) -> Result<Vec<Vec<u8>>, String> {
        let range = |start, end, step| Range { start, end, step };
        let structured = StructuredCalendarSpec {
            second: vec![range(0, 0, 0)],
            minute: vec![range(0, 59, 7)],
            hour: vec![range(1, 3, 1)],
            day_of_month: vec![range(1, 31, 0)],
            month: vec![range(1, 12, 0)],
            year: vec![range(2000, 2100, 1)],
            day_of_week: vec![range(0, 6, 0)],
            comment: "structured".to_owned(),
        };
        let seconds = |seconds| Some(Duration { seconds, nanos: 0 });
        let full = ScheduleSpec {
            structured_calendar: vec![structured.clone()],
            calendar: vec![CalendarSpec { hour: "*/3".to_owned(), ..CalendarSpec::default() }],
            interval: vec![IntervalSpec { interval: seconds(5400), phase: seconds(60) }],
            exclude_structured_calendar: vec![structured],
            start_time: Some(Timestamp { seconds: 1_000_000_000, nanos: 5 }),
            end_time: Some(Timestamp { seconds: 4_000_000_000, nanos: 5 }),
            jitter: seconds(600),
            timezone_name: "Europe/Berlin".to_owned(),
            ..ScheduleSpec::default()
        };
        let cron =
            |text: &str| ScheduleSpec { cron_string: vec![text.to_owned()], ..ScheduleSpec::default() }.encode_to_vec();
        let given = ScheduleSpec { timezone_name: String::new(), timezone_data: zone(), ..full.clone() };
        Ok(CRONS.iter().map(|text| cron(text)).chain([full, given].map(|spec| spec.encode_to_vec())).collect())
    }

    fn change(&mut self, random: &mut Random, input: &mut Vec<u8>, other: &[u8]) {
        if random.one_in(2)
            && let Ok(mut spec) = ScheduleSpec::decode(&input[..])
            && let Some(text) = spec.cron_string.first_mut()
        {
            let letters: Vec<char> = text.chars().collect();
            let at = random.below(letters.len() + 1);
            let end = (at + random.below(4)).min(letters.len());
            let word = random.of(&WORDS).chars();
            *text = letters[..at].iter().copied().chain(word).chain(letters[end..].iter().copied()).collect();
            *input = spec.encode_to_vec();
            return;
        }
        mutate::message(random, input, other);
    }

    fn run(&mut self, input: &[u8]) -> Result<String, String> {
        let Ok(given) = ScheduleSpec::decode(input) else { return Ok("no spec".to_owned()) };
        let canonical = match spec::canonical(given) {
            Ok(canonical) => canonical,
            Err(why) => return Ok(kind_of(&why).chars().take(60).collect()),
        };
        if spec::canonical(canonical.clone()).as_ref() != Ok(&canonical) {
            return Err("what is canonical changes".to_owned());
        }
        let compiled = Compiled::new(&canonical)?;
        let mut at = MOMENT;
        let mut times = 0;
        while times < 20 {
            match compiled.next("01234567-0123-0123-0123-0123456789ab-fuzz", at) {
                Ok(Some(due)) if due.actual <= at || due.nominal > due.actual => {
                    return Err(format!("{due:?} stands behind {at:?}"));
                }
                Ok(Some(due)) => at = due.actual,
                Ok(None) => break,
                Err(why) => return Ok(why.to_string()),
            }
            times += 1;
        }
        let (calendars, intervals) = (canonical.structured_calendar.len(), canonical.interval.len());
        Ok(format!("{} calendars, {} intervals: {times} times", calendars.min(3), intervals.min(3)))
    }
}
