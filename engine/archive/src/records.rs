//! What lists show of archived runs: an object each, named so that a list of names begins with the run that closed last.
//!
//! ```text
//!   <namespace id>/visibility/2026-11-28/03599999999999-<run id>.pb
//!                             │          └ nanoseconds from the end of the run to that of the day
//!                             └ day of its end
//! ```
//!
//! An object is a record as the lists of the server have it, an encoded `WorkflowExecutionInfo`.

use std::collections::VecDeque;
use std::ops::RangeInclusive;

use bytes::Bytes;
use chrono::{DateTime, NaiveDate};
use everlog_kernel::{NamespaceId, RunId, Time};
use futures::{StreamExt, TryStreamExt};

use super::{ArchiveError, Place};

const DAY_NS: i64 = 86_400_000_000_000;

/// Names of a day that are held at a time, where they come in order.
const NAMES_MAX: usize = 1000;

const FORMAT: &str = "%Y-%m-%d";

/// Where a list of records goes on: behind one of them. Its text is for clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordPosition {
    day: String,
    name: String,
}

impl RecordPosition {
    /// The place of a run that closed at a time.
    fn of(close_time: Time, run_id: RunId) -> RecordPosition {
        let left = DAY_NS - 1 - close_time.0.rem_euclid(DAY_NS);
        RecordPosition { day: day_of(close_time.0), name: format!("{left:014}-{run_id}.pb") }
    }

    /// Reads a position's text; `None` if it is none.
    pub fn parse(text: &[u8]) -> Option<RecordPosition> {
        let (day, name) = std::str::from_utf8(text).ok()?.split_once('/')?;
        (is_day(day) && is_name(name)).then(|| RecordPosition { day: day.to_owned(), name: name.to_owned() })
    }

    /// Its text.
    pub fn to_text(&self) -> String {
        format!("{}/{}", self.day, self.name)
    }
}

fn day_of(time: i64) -> String {
    DateTime::from_timestamp_nanos(time).format(FORMAT).to_string()
}

fn is_day(text: &str) -> bool {
    text.len() == 10 && NaiveDate::parse_from_str(text, FORMAT).is_ok()
}

fn is_name(text: &str) -> bool {
    let parts = text.strip_suffix(".pb").and_then(|name| name.split_once('-'));
    parts.is_some_and(|(left, run_id)| {
        left.len() == 14 && left.bytes().all(|byte| byte.is_ascii_digit()) && run_id.parse::<RunId>().is_ok()
    })
}

/// Archives what lists show of a run.
///
/// # Errors
///
/// [`ArchiveError::Unavailable`] if the store does not take it.
pub async fn put_record(
    place: &Place,
    namespace_id: NamespaceId,
    close_time: Time,
    run_id: RunId,
    record: Bytes,
) -> Result<(), ArchiveError> {
    let RecordPosition { day, name } = RecordPosition::of(close_time, run_id);
    let path = place.path([&*namespace_id.to_string(), "visibility", &*day, &*name]);
    place.put(&path, record).await
}

/// The archived records of a namespace that are still to be looked at, those that closed last first.
pub struct Records {
    place: Place,
    namespace_id: String,
    /// Those to come, the latest first.
    days: VecDeque<String>,
    /// The day that is being read.
    day: String,
    /// Names of that day which were not read yet.
    names: VecDeque<String>,
    /// The last name that was taken, of that day.
    behind: Option<String>,
    /// Whether the day has more names than are held.
    has_more: bool,
    /// Objects that are read at a time.
    reads_max: usize,
}

impl Records {
    /// Looks at runs that closed at these times, nanoseconds, behind a position if there is one.
    ///
    /// # Errors
    ///
    /// [`ArchiveError::Unavailable`] if the store does not tell.
    pub async fn open(
        place: Place,
        namespace_id: NamespaceId,
        close_times: &RangeInclusive<i64>,
        after: Option<RecordPosition>,
        reads_max: usize,
    ) -> Result<Records, ArchiveError> {
        let namespace_id = namespace_id.to_string();
        let (first, last) = (day_of(*close_times.start()), day_of(*close_times.end()));
        let mut days = place.list_parts(&place.path([&*namespace_id, "visibility"])).await?;
        days.retain(|day| is_day(day) && (&first..=&last).contains(&day));
        if let Some(after) = &after {
            days.retain(|day| *day <= after.day);
        }
        days.sort_unstable_by(|one, other| other.cmp(one));
        let mut records = Records {
            place,
            namespace_id,
            days: days.into(),
            day: String::new(),
            names: VecDeque::new(),
            behind: None,
            has_more: false,
            reads_max,
        };
        if let Some(RecordPosition { day, name }) = after
            && records.days.front() == Some(&day)
        {
            records.days.pop_front();
            (records.day, records.behind, records.has_more) = (day, Some(name), true);
        }
        Ok(records)
    }

    /// The next records, `count_max` at most; none at the end.
    ///
    /// # Errors
    ///
    /// [`ArchiveError::Unavailable`] if the store does not give them.
    pub async fn next(&mut self, count_max: usize) -> Result<Vec<(RecordPosition, Bytes)>, ArchiveError> {
        loop {
            while self.names.is_empty() {
                if !self.has_more {
                    let Some(day) = self.days.pop_front() else { return Ok(Vec::new()) };
                    (self.day, self.behind) = (day, None);
                }
                self.list().await?;
            }
            let names: Vec<String> = self.names.drain(..count_max.max(1).min(self.names.len())).collect();
            self.behind = names.last().cloned();
            let reads = names.into_iter().map(|name| {
                let path = self.place.path([&*self.namespace_id, "visibility", &*self.day, &*name]);
                let (place, position) = (&self.place, RecordPosition { day: self.day.clone(), name });
                async move { Ok::<_, ArchiveError>(place.get(&path).await?.map(|record| (position, record))) }
            });
            let reads = futures::stream::iter(reads).buffered(self.reads_max);
            // One that is gone meanwhile is passed over: whoever owns the archive may delete from it.
            let found: Vec<_> = reads.try_filter_map(|found| async { Ok(found) }).try_collect().await?;
            if !found.is_empty() {
                return Ok(found);
            }
        }
    }

    /// Looks for names of the day.
    async fn list(&mut self) -> Result<(), ArchiveError> {
        let prefix = self.place.path([&*self.namespace_id, "visibility", &*self.day]);
        let behind = self.behind.as_deref().map(|name| prefix.clone().join(name));
        let count_max = if self.place.lists_in_order { NAMES_MAX } else { usize::MAX };
        let mut names = self.place.list_names(&prefix, behind.as_ref(), count_max).await?;
        self.has_more = names.len() >= count_max;
        if let Some(last) = names.last().filter(|_| self.has_more) {
            self.behind = Some(last.clone());
        }
        names.retain(|name| is_name(name));
        names.sort_unstable();
        self.names = names.into();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Archive, ArchiveOptions, FileOptions};
    use super::*;

    const NAMESPACE: NamespaceId = NamespaceId([1; 16]);
    const EVER: RangeInclusive<i64> = i64::MIN..=i64::MAX;

    #[test]
    fn names_are_what_they_always_were() {
        let run_id = RunId([0xab; 16]);
        for (close_time, expected) in [
            (0, "1970-01-01/86399999999999-abababab-abab-abab-abab-abababababab.pb"),
            (-1, "1969-12-31/00000000000000-abababab-abab-abab-abab-abababababab.pb"),
            (1_795_867_200_000_000_001, "2026-11-28/43199999999998-abababab-abab-abab-abab-abababababab.pb"),
        ] {
            let position = RecordPosition::of(Time(close_time), run_id);
            assert_eq!(position.to_text(), expected);
            assert_eq!(RecordPosition::parse(expected.as_bytes()), Some(position));
        }
        for text in [
            "",
            "x",
            "2026-11-28/",
            "2026-13-28/86399999999999-abababab-abab-abab-abab-abababababab.pb",
            "2026-11-28/8639999999999-abababab-abab-abab-abab-abababababab.pb",
            "../86399999999999-abababab-abab-abab-abab-abababababab.pb",
            "2026-11-28/86399999999999-ab/../../x.pb",
        ] {
            assert_eq!(RecordPosition::parse(text.as_bytes()), None, "{text}");
        }
    }

    async fn place(directory: &tempfile::TempDir) -> Place {
        let options = ArchiveOptions { file: Some(FileOptions::default()), ..ArchiveOptions::default() };
        let uri = format!("file://{}", directory.path().display());
        Archive::new(options).place(&uri).await.unwrap()
    }

    /// All records behind a position, read so many at a time.
    async fn all(place: &Place, times: RangeInclusive<i64>, after: Option<RecordPosition>, count: usize) -> Vec<u8> {
        let mut records = Records::open(place.clone(), NAMESPACE, &times, after, 3).await.unwrap();
        let mut all = Vec::new();
        loop {
            let page = records.next(count).await.unwrap();
            if page.is_empty() {
                return all;
            }
            all.extend(page.into_iter().map(|(_, record)| record[0]));
        }
    }

    #[tokio::test]
    async fn those_that_closed_last_come_first() {
        let directory = tempfile::tempdir().unwrap();
        for lists_in_order in [false, true] {
            let mut place = place(&directory).await;
            place.lists_in_order = lists_in_order;
            assert!(all(&place, EVER, None, 5).await.is_empty() || lists_in_order);
            for number in 0..20_u8 {
                // Seven a day.
                let close_time = Time(i64::from(number) * DAY_NS / 7);
                let record = Bytes::copy_from_slice(&[number]);
                put_record(&place, NAMESPACE, close_time, RunId([number; 16]), record).await.unwrap();
            }
            let expected: Vec<u8> = (0..20).rev().collect();
            for count in [1, 2, 7, 100] {
                assert_eq!(all(&place, EVER, None, count).await, expected, "{count} at a time");
            }
            for behind in 0..20_u8 {
                let position = RecordPosition::of(Time(i64::from(behind) * DAY_NS / 7), RunId([behind; 16]));
                let expected: Vec<u8> = (0..behind).rev().collect();
                assert_eq!(all(&place, EVER, Some(position), 3).await, expected, "behind {behind}");
            }
            let second_day = DAY_NS..=2 * DAY_NS - 1;
            assert_eq!(all(&place, second_day, None, 100).await, (7..14).rev().collect::<Vec<u8>>());
        }
    }

    #[tokio::test]
    async fn what_is_no_record_is_passed_over() {
        let directory = tempfile::tempdir().unwrap();
        let place = place(&directory).await;
        put_record(&place, NAMESPACE, Time(5), RunId([1; 16]), Bytes::from_static(b"a")).await.unwrap();
        let day = directory.path().join(NAMESPACE.to_string()).join("visibility/1970-01-01");
        std::fs::write(day.join("readme.txt"), "x").unwrap();
        std::fs::create_dir_all(day.parent().unwrap().join("other")).unwrap();
        assert_eq!(all(&place, EVER, None, 5).await, b"a");
    }
}
