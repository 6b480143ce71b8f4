//! What holds of any spec. What holds of given ones is recorded: `tests/schedule_specs`.

use everlog_proto::api::schedule::v1::CalendarSpec;
use everlog_random::Random;

use super::*;

const ZONES: [&str; 6] =
    ["", "America/New_York", "Europe/Berlin", "Australia/Lord_Howe", "America/Havana", "Asia/Kathmandu"];

fn field(random: &mut Random, min: usize, max: usize) -> String {
    let any = |random: &mut Random| min + random.below(max - min + 1);
    match random.below(5) {
        0 => String::new(),
        1 => "*".to_owned(),
        2 => any(random).to_string(),
        3 => format!("{}/{}", any(random), 1 + random.below(9)),
        _ => {
            let (a, b) = (any(random), any(random));
            format!("{}-{},{}", a.min(b), a.max(b), any(random))
        }
    }
}

fn calendar(random: &mut Random) -> CalendarSpec {
    CalendarSpec {
        second: field(random, 0, 59),
        minute: field(random, 0, 59),
        hour: field(random, 0, 23),
        day_of_month: field(random, 1, 31),
        month: field(random, 1, 12),
        day_of_week: field(random, 0, 7),
        ..CalendarSpec::default()
    }
}

#[expect(deprecated, reason = "clients still send it")]
fn spec(random: &mut Random) -> ScheduleSpec {
    let calendars = |random: &mut Random, most| (0..random.below(most)).map(|_| calendar(random)).collect();
    let seconds = |seconds: usize| Some(wkt::Duration { seconds: seconds as i64, nanos: 0 });
    let interval = |random: &mut Random| {
        let interval = 1 + random.below(100_000);
        IntervalSpec { interval: seconds(interval), phase: seconds(random.below(interval)) }
    };
    ScheduleSpec {
        calendar: calendars(random, 3),
        exclude_calendar: calendars(random, 2),
        interval: (0..random.below(3)).map(|_| interval(random)).collect(),
        jitter: if random.one_in(2) { seconds(random.below(10_000)) } else { None },
        timezone_name: (*random.of(&ZONES)).to_owned(),
        ..ScheduleSpec::default()
    }
}

/// Beginning near a day on which clocks are changed somewhere.
fn moment(random: &mut Random) -> i64 {
    let days = [(2026, 3, 8), (2026, 11, 1), (2026, 3, 29), (2026, 10, 25), (2026, 4, 5), (2026, 10, 4), (2028, 2, 29)];
    let (year, month, day) = *random.of(&days);
    calendar::seconds(year, month, day, 0, 0, 0) + random.below(200_000) as i64 - 100_000
}

#[test]
fn the_next_time_is_the_first_that_matches() {
    for seed in 0..3_000 {
        let mut random = Random::new(seed);
        let zone = Zone::load(random.of::<&str>(&ZONES)).unwrap();
        let calendar = Calendar::new(&parse::calendar(calendar(&mut random)).unwrap());
        let after = moment(&mut random);
        let found = calendar.next(after, &zone);
        assert!(found.is_none_or(|found| found > after), "seed {seed}: {found:?}");
        // Where clocks are put back by half an hour, Temporal is not quite right, and so is this.
        if zone == Zone::load("Australia/Lord_Howe").unwrap() {
            continue;
        }
        let matches = |found| calendar.matches(found, &zone);
        assert!(found.is_none_or(matches), "seed {seed}: {found:?}");
        let until = found.unwrap_or(i64::MAX).min(after + 20_000);
        let missed = (after + 1..until).find(|second| calendar.matches(*second, &zone));
        assert_eq!(missed, None, "seed {seed}: before {found:?}");
    }
}

#[test]
fn what_is_canonical_stays_as_it_is() {
    for seed in 0..1_000 {
        let canonical = canonical(spec(&mut Random::new(seed))).unwrap();
        assert_eq!(super::canonical(canonical.clone()), Ok(canonical.clone()));
        let mut shown = canonical.clone();
        with_defaults(&mut shown);
        assert_eq!(Compiled::new(&shown), Compiled::new(&canonical), "defaults mean what was left out");
    }
}

#[test]
fn times_go_on_and_jitter_stays_before_the_next_one() {
    for seed in 0..1_000 {
        let mut random = Random::new(seed);
        let spec = canonical(spec(&mut random)).unwrap();
        let compiled = Compiled::new(&spec).unwrap();
        let mut at = Time(moment(&mut random) * SECOND);
        let seed = format!("01234567-0123-0123-0123-0123456789ab-{seed}");
        for _ in 0..20 {
            let Ok(Some(due)) = compiled.next(&seed, at) else { break };
            assert_eq!(compiled.next(&seed, at), Ok(Some(due)), "the same whenever it is asked for");
            assert!(due.actual > at && due.actual >= due.nominal);
            let second = due.nominal.0 / SECOND;
            assert!(!compiled.is_excluded(second));
            let following = compiled.next_nominal(second).map_or(i64::MAX, |following| following * SECOND);
            assert!(due.actual.0 <= following);
            at = due.actual;
        }
    }
}

#[test]
fn exclusions_of_any_numbers_are_looked_at_quickly() {
    let ranges = vec![Range { start: i32::MIN, end: i32::MAX, step: 0 }, Range { start: 5, end: i32::MAX, step: -3 }];
    let calendar = StructuredCalendarSpec { second: ranges.clone(), year: ranges, ..StructuredCalendarSpec::default() };
    let spec = ScheduleSpec { exclude_structured_calendar: vec![calendar], ..ScheduleSpec::default() };
    assert!(Compiled::new(&canonical(spec).unwrap()).is_ok());
}
