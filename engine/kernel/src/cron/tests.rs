//! What a Temporal server did with the same schedules.

use super::*;

fn time(text: &str) -> Time {
    let time = DateTime::parse_from_rfc3339(text).expect("a time");
    Time(time.timestamp_nanos_opt().expect("a time of our age"))
}

fn shown(time: Time) -> String {
    DateTime::<Utc>::from_timestamp_nanos(time.0).format("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// The first turn behind `now`, for a workflow that starts then.
fn next(schedule: &str, now: &str) -> String {
    let now = time(now);
    match Cron::parse(schedule) {
        Err(bad) => bad.to_string(),
        Ok(cron) => cron.backoff(now, now).map_or("never".to_owned(), |backoff| shown(now.plus(backoff))),
    }
}

#[test]
fn what_may_be_written() {
    const NOW: &str = "2026-11-27T01:56:48Z";
    const UNREADABLE: &str = "invalid CronSchedule.";
    const NEVER: &str = "invalid CronSchedule, no time can be found to satisfy the schedule";
    let cases = [
        ("@every 2s", "2026-11-27T01:56:50Z"),
        ("@every 1.5s", "2026-11-27T01:56:49Z"),
        ("@every -5s", "2026-11-27T01:56:49Z"),
        ("@every 500ms", "2026-11-27T01:56:49Z"),
        ("@every 0", "2026-11-27T01:56:49Z"),
        ("@every 1h30m", "2026-11-27T03:26:48Z"),
        ("@every", UNREADABLE),
        ("@every ", UNREADABLE),
        ("@every  1h", UNREADABLE),
        ("@daily", "2026-11-28T00:00:00Z"),
        ("@Daily", UNREADABLE),
        ("@midnight", "2026-11-28T00:00:00Z"),
        ("@hourly", "2026-11-27T02:00:00Z"),
        ("@weekly", "2026-11-29T00:00:00Z"),
        ("@monthly", "2026-12-01T00:00:00Z"),
        ("@yearly", "2027-01-01T00:00:00Z"),
        ("@annually", "2027-01-01T00:00:00Z"),
        ("@reboot", UNREADABLE),
        ("* * * * *", "2026-11-27T01:57:00Z"),
        (" * * * * * ", "2026-11-27T01:57:00Z"),
        ("* * * * * *", UNREADABLE),
        ("* * * *", UNREADABLE),
        ("*/2 * * * *", "2026-11-27T01:58:00Z"),
        ("5/20 * * * *", "2026-11-27T02:05:00Z"),
        ("5-10/20 * * * *", "2026-11-27T02:05:00Z"),
        ("*-5 * * * *", "2026-11-27T01:57:00Z"),
        ("*/0 * * * *", UNREADABLE),
        ("0 0 1 * mon", "2026-11-30T00:00:00Z"),
        ("0 0 */2 * mon", "2026-11-29T00:00:00Z"),
        ("0 0 ? * mon", "2026-11-30T00:00:00Z"),
        ("0 0 1 1 0", "2027-01-01T00:00:00Z"),
        ("0 0 * * 7", UNREADABLE),
        ("0 0 * * sun-sat", "2026-11-28T00:00:00Z"),
        ("0 0 * * SAT-SUN", UNREADABLE),
        ("0 0 * JAN *", "2027-01-01T00:00:00Z"),
        ("0 0 * january *", UNREADABLE),
        ("0 0 29 2 *", "2028-02-29T00:00:00Z"),
        ("0 0 30 2 *", NEVER),
        ("0 0 31 2,4,6,9,11 *", NEVER),
        (", * * * *", NEVER),
        ("60 * * * *", UNREADABLE),
        (",5 * * * *", "2026-11-27T02:05:00Z"),
        ("5, * * * *", "2026-11-27T02:05:00Z"),
        ("+5 * * * *", "2026-11-27T02:05:00Z"),
        ("-5 * * * *", UNREADABLE),
        ("5-5 * * * *", "2026-11-27T02:05:00Z"),
        ("5-4 * * * *", UNREADABLE),
        ("5-6-7 * * * *", UNREADABLE),
        ("5/2/3 * * * *", UNREADABLE),
        ("a * * * *", UNREADABLE),
        ("0x5 * * * *", UNREADABLE),
        ("CRON_TZ=America/New_York 0 12 * * *", "2026-11-27T17:00:00Z"),
        ("TZ=America/New_York 0 12 * * *", "2026-11-27T17:00:00Z"),
        ("TZ=Europe/Berlin @daily", "2026-11-27T23:00:00Z"),
        ("CRON_TZ=America/New_York  @every 2s", "2026-11-27T01:56:50Z"),
        ("TZ=UTC 0 12 * * *", "2026-11-27T12:00:00Z"),
        ("TZ= 0 12 * * *", "2026-11-27T12:00:00Z"),
        ("TZ=Local 0 12 * * *", "2026-11-27T12:00:00Z"),
        ("TZ=EST 0 12 * * *", "2026-11-27T17:00:00Z"),
        ("TZ=EST5EDT 0 12 * * *", "2026-11-27T17:00:00Z"),
        ("TZ=Etc/GMT+5 0 12 * * *", "2026-11-27T17:00:00Z"),
        ("TZ=US/Pacific 0 12 * * *", "2026-11-27T20:00:00Z"),
        ("TZ=Mars/Base 0 12 * * *", UNREADABLE),
        ("TZ=america/new_york 0 12 * * *", UNREADABLE),
        ("TZ=GMT+5 0 12 * * *", UNREADABLE),
        ("tz=UTC 0 12 * * *", UNREADABLE),
        ("every day", UNREADABLE),
        // There it is an internal error.
        ("TZ=America/New_York", UNREADABLE),
    ];
    for (schedule, expected) in cases {
        assert_eq!(next(schedule, NOW), expected, "{schedule}");
    }
}

#[test]
fn a_turn_is_awaited_in_whole_seconds() {
    let half_past = Time(time("2026-11-27T01:56:48Z").0 + SECOND / 2);
    let cases = [("@every 2s", 2), ("* * * * *", 12), ("@every 1h", 3600), ("57 1 * * *", 12)];
    for (schedule, expected) in cases {
        let cron = Cron::parse(schedule).expect("a schedule");
        assert_eq!(cron.backoff(half_past, half_past), Some(Duration::from_secs(expected)), "{schedule}");
    }
}

#[test]
fn turns_that_have_passed_are_left_out() {
    // (schedule, the turn before, now, the next turn)
    let cases = [
        ("@every 10s", "2026-11-27T00:00:00Z", "2026-11-27T00:00:01Z", "2026-11-27T00:00:10Z"),
        ("@every 10s", "2026-11-27T00:00:00Z", "2026-11-27T00:00:10Z", "2026-11-27T00:00:10Z"),
        ("@every 10s", "2026-11-27T00:00:00Z", "2026-11-27T00:00:31Z", "2026-11-27T00:00:40Z"),
        ("@every 1s", "2020-01-01T00:00:00Z", "2026-11-27T00:00:31Z", "2026-11-27T00:00:31Z"),
        ("0 * * * *", "2026-11-27T00:00:00Z", "2026-11-27T00:00:00Z", "2026-11-27T01:00:00Z"),
        ("0 * * * *", "2026-11-27T00:00:00Z", "2026-11-27T03:00:00Z", "2026-11-27T03:00:00Z"),
        ("0 * * * *", "2026-11-27T00:00:00Z", "2026-11-27T03:00:01Z", "2026-11-27T04:00:00Z"),
        // A run that has not waited for its turn, because it was canceled, leaves that to the next one.
        ("0 * * * *", "2026-11-27T04:00:00Z", "2026-11-27T03:10:00Z", "2026-11-27T04:00:00Z"),
        ("@every 1h", "2026-11-27T04:00:00Z", "2026-11-27T03:10:00Z", "2026-11-27T04:10:00Z"),
    ];
    for (schedule, last, now, expected) in cases {
        let backoff = Cron::parse(schedule).expect("a schedule").backoff(time(last), time(now)).expect("a turn");
        assert_eq!(shown(time(now).plus(backoff)), expected, "{schedule} at {now}");
    }
}

#[test]
fn clocks_that_are_changed() {
    let cases = [
        // In New York clocks go from 2:00 to 3:00 on 2026-03-08, and from 2:00 back to 1:00 on 2026-11-01.
        ("TZ=America/New_York 0 1 * * *", "2026-03-08T05:00:00Z", "2026-03-08T06:00:00Z"),
        ("TZ=America/New_York 30 2 * * *", "2026-03-08T05:00:00Z", "2026-03-09T06:30:00Z"),
        ("TZ=America/New_York 0 3 * * *", "2026-03-08T05:00:00Z", "2026-03-08T07:00:00Z"),
        ("TZ=America/New_York 0 * * * *", "2026-03-08T06:30:00Z", "2026-03-08T07:00:00Z"),
        ("TZ=America/New_York 30 1 * * *", "2026-11-01T04:00:00Z", "2026-11-01T05:30:00Z"),
        ("TZ=America/New_York 30 1 * * *", "2026-11-01T05:30:00Z", "2026-11-01T06:30:00Z"),
        ("TZ=America/New_York 30 1 * * *", "2026-11-01T06:30:00Z", "2026-11-02T06:30:00Z"),
        ("TZ=America/New_York 0 2 * * *", "2026-11-01T04:00:00Z", "2026-11-01T07:00:00Z"),
        // In Havana they skip midnight of 2026-03-08, and show it twice on 2026-11-01.
        ("TZ=America/Havana 0 0 * * *", "2026-03-07T12:00:00Z", "2026-03-09T04:00:00Z"),
        ("TZ=America/Havana 0 1 * * *", "2026-03-07T12:00:00Z", "2026-03-08T05:00:00Z"),
        ("TZ=America/Havana 0 0 * * *", "2026-11-01T04:00:00Z", "2026-11-01T05:00:00Z"),
        // On Lord Howe Island they are changed by half an hour: from 2:00 to 2:30 on 2026-10-04.
        ("TZ=Australia/Lord_Howe 0 2 * * *", "2026-10-03T12:00:00Z", "2026-10-04T15:00:00Z"),
        ("TZ=Australia/Lord_Howe 30 2 * * *", "2026-10-03T12:00:00Z", "2026-10-03T15:30:00Z"),
        ("TZ=Asia/Kathmandu 0 12 * * *", "2026-10-03T12:00:00Z", "2026-10-04T06:15:00Z"),
    ];
    for (schedule, now, expected) in cases {
        assert_eq!(next(schedule, now), expected, "{schedule} at {now}");
    }
}

#[test]
fn a_day_that_a_place_skipped() {
    assert_eq!(next("TZ=Pacific/Apia 0 12 30 12 *", "2011-12-29T12:00:00Z"), "2012-12-29T22:00:00Z");
}

#[test]
fn times_at_the_ends_are_no_trouble() {
    for schedule in ["@every 1s", "@every 2562047h", "0 0 29 2 *", "TZ=Europe/Berlin 0 0 1 1 *"] {
        let cron = Cron::parse(schedule).expect("a schedule");
        for now in [Time(i64::MIN), Time(0), Time::MAX] {
            let _ = cron.backoff(now, now);
            let _ = cron.backoff(Time(i64::MIN), now);
            let _ = cron.backoff(Time::MAX, now);
        }
    }
}
