//! Reading histories: from rows, and for the part that is not applied yet from the loop's memory.
//!
//! A history row holds the events of one transition as an encoded `History`, under the id of its first event. Events are cut
//! out of rows at their frames, without decoding them.

use std::collections::VecDeque;

use bytes::{Buf, Bytes};
use everlog_kernel::{Rejection, RunId};
use everlog_model::{CallError, WorkflowRef, limits, rows};
use everlog_raft::Group;
use everlog_storage::state::Direction;

use super::load::Rows;

/// A stretch of a run's history.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HistoryPage {
    /// Encoded `History` messages with consecutive events.
    pub batches: Vec<Bytes>,
    /// The event after the last one in `batches`.
    pub next_event_id: i64,
}

/// Where the history of a workflow task is: rows up to an event, memory from there on.
#[derive(Clone, Debug)]
pub(crate) struct HistorySource {
    run_id: RunId,
    from: i64,
    to: i64,
    /// First event that `tail` has; rows have those before it.
    tail_from: i64,
    tail: Vec<Bytes>,
}

/// The newest rows of a run's history, in memory: all that are not applied yet, and some that are.
#[derive(Debug, Default)]
pub(crate) struct HistoryTail {
    rows: VecDeque<TailRow>,
    bytes: usize,
}

#[derive(Debug)]
struct TailRow {
    first_event_id: i64,
    events: Bytes,
    /// The batch that carries the row.
    batch: u64,
}

impl HistoryTail {
    /// Adds a row that goes with `batch`.
    pub(crate) fn push(&mut self, first_event_id: i64, events: Bytes, batch: u64) {
        self.bytes += events.len();
        self.rows.push_back(TailRow { first_event_id, events, batch });
    }

    /// Drops the oldest rows that are applied (`batch` and those before it are), as far as the bound on memory wants.
    pub(crate) fn trim(&mut self, batch: u64) {
        while self.bytes > limits::RUN_HISTORY_TAIL_BYTES_MAX {
            match self.rows.front() {
                Some(row) if row.batch <= batch => {
                    self.bytes -= row.events.len();
                    self.rows.pop_front();
                }
                _ => return,
            }
        }
    }

    /// Bytes in memory.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Where events `[from, to)` of `run_id` are.
    pub(crate) fn source(&self, run_id: RunId, from: i64, to: i64) -> HistorySource {
        let tail_from = self.rows.front().map_or(to, |row| row.first_event_id).min(to);
        let needed = self.rows.iter().rev().take_while(|row| row.first_event_id >= from).count();
        // The row in front of the first one that starts at or behind `from` may hold `from` inside.
        let skip = (self.rows.len() - needed).saturating_sub(1);
        let tail = self.rows.iter().skip(skip);
        let tail_start = self.rows.get(skip).map_or(tail_from, |row| row.first_event_id);
        let tail_from = if from >= tail_start { tail_start } else { tail_from };
        HistorySource { run_id, from, to, tail_from, tail: tail.map(|row| row.events.clone()).collect() }
    }
}

impl HistorySource {
    /// The first page, and where the next one starts.
    pub(crate) async fn read(
        self,
        group: &Group,
        address: &WorkflowRef,
    ) -> Result<(Vec<Bytes>, Option<i64>), CallError> {
        let limit = i64::try_from(limits::HISTORY_PAGE_EVENTS_MAX).unwrap_or(i64::MAX);
        let mut batches = Vec::new();
        let mut next = self.from;
        if self.from < self.tail_from {
            let rows_to = self.tail_from.min(self.to);
            let page =
                read(group.clone(), address.clone(), self.run_id, self.from, rows_to, limits::HISTORY_PAGE_EVENTS_MAX)
                    .await?;
            next = page.next_event_id;
            batches = page.batches;
            if next < rows_to {
                return Ok((batches, Some(next)));
            }
        }
        let mut first = self.tail_from;
        for events in self.tail {
            if next >= self.to {
                break;
            }
            if next - self.from >= limit {
                return Ok((batches, Some(next)));
            }
            let count = count_events(&events);
            if first + count > next {
                let part = slice_events(&events, next - first, self.to - first);
                next = (first + count).min(self.to);
                batches.push(part);
            }
            first += count;
        }
        Ok((batches, None))
    }
}

/// Reads stored events `[from, to)`, whole rows at a time until at least `events_max` are there.
pub(crate) async fn read(
    group: Group,
    address: WorkflowRef,
    run_id: RunId,
    from: i64,
    to: i64,
    events_max: usize,
) -> Result<HistoryPage, CallError> {
    if from >= to {
        return Ok(HistoryPage { batches: Vec::new(), next_event_id: from });
    }
    tokio::task::spawn_blocking(move || read_blocking(&group, &address, run_id, from, to, events_max))
        .await
        .map_err(|error| CallError::Failed(format!("reading history: {error}")))?
}

pub(crate) fn read_blocking(
    group: &impl Rows,
    address: &WorkflowRef,
    run_id: RunId,
    from: i64,
    to: i64,
    events_max: usize,
) -> Result<HistoryPage, CallError> {
    const ROWS: usize = 64;
    let failed = |error: everlog_storage::state::StateError| CallError::Unavailable(error.to_string());
    let corrupt = || CallError::Corrupt(format!("the history of run {run_id} is not readable"));
    // The first event stays as long as the run does: without it, retention has deleted the run since the caller saw it.
    let missing = || match group.scan(rows::history_range(address, run_id, 1, 2), Direction::Ascending, 1) {
        Ok(found) if found.is_empty() => Rejection::workflow_not_found().into(),
        Ok(_) => corrupt(),
        Err(error) => failed(error),
    };
    let mut start = from;
    if from > 1 {
        // The row that holds `from` may start before it.
        let range = rows::history_range(address, run_id, 1, from + 1);
        let found = group.scan(range, Direction::Descending, 1).map_err(failed)?;
        let (key, _) = found.first().ok_or_else(missing)?;
        start = rows::history_first_event(key).ok_or_else(corrupt)?;
    }
    let mut page = HistoryPage { batches: Vec::new(), next_event_id: from };
    let events_max = i64::try_from(events_max).unwrap_or(i64::MAX);
    loop {
        let range = rows::history_range(address, run_id, start, to);
        let found = group.scan(range, Direction::Ascending, ROWS).map_err(failed)?;
        if found.is_empty() {
            return Err(missing());
        }
        for (key, events) in found {
            let first = rows::history_first_event(&key).ok_or_else(corrupt)?;
            let count = count_events(&events);
            if first > page.next_event_id {
                return Err(corrupt());
            }
            page.batches.push(slice_events(&events, page.next_event_id - first, to - first));
            page.next_event_id = (first + count).min(to);
            start = first + count;
            if page.next_event_id >= to || page.next_event_id - from >= events_max {
                return Ok(page);
            }
        }
    }
}

/// How many events an encoded `History` has.
pub(crate) fn count_events(events: &Bytes) -> i64 {
    let mut rest = events.clone();
    let mut count = 0;
    while skip_event(&mut rest).is_some() {
        count += 1;
    }
    count
}

/// Events number `from` (0 is the first) up to but without number `to` of an encoded `History`.
pub(crate) fn slice_events(events: &Bytes, from: i64, to: i64) -> Bytes {
    let mut rest = events.clone();
    let mut number = 0;
    while number < from && skip_event(&mut rest).is_some() {
        number += 1;
    }
    let start = events.len() - rest.len();
    while number < to && skip_event(&mut rest).is_some() {
        number += 1;
    }
    events.slice(start..events.len() - rest.len())
}

/// Takes one event off the front: a field header, a length, and the event.
fn skip_event(rest: &mut Bytes) -> Option<Bytes> {
    if !rest.has_remaining() {
        return None;
    }
    prost::encoding::decode_varint(rest).ok()?;
    let len = usize::try_from(prost::encoding::decode_varint(rest).ok()?).ok()?;
    (len <= rest.len()).then(|| rest.split_to(len))
}

#[cfg(test)]
mod tests {
    use everlog_proto::api::history::v1::{History, HistoryEvent};
    use prost::Message;

    use super::*;

    fn encode(ids: std::ops::Range<i64>) -> Bytes {
        let events = ids.map(|event_id| HistoryEvent { event_id, ..Default::default() }).collect();
        History { events }.encode_to_vec().into()
    }

    fn ids(events: &Bytes) -> Vec<i64> {
        History::decode(events.clone()).unwrap().events.iter().map(|event| event.event_id).collect()
    }

    #[test]
    fn events_are_cut_at_their_frames() {
        let events = encode(1..300);
        assert_eq!(count_events(&events), 299);
        assert_eq!(ids(&slice_events(&events, 0, 2)), [1, 2]);
        assert_eq!(ids(&slice_events(&events, 297, 1000)), [298, 299]);
        assert!(ids(&slice_events(&events, 5, 5)).is_empty());
        assert_eq!(ids(&slice_events(&events, 0, 1)), [1]);
    }

    #[test]
    fn a_tail_knows_what_rows_must_give() {
        let mut tail = HistoryTail::default();
        tail.push(5, encode(5..8), 1);
        tail.push(8, encode(8..9), 2);
        tail.push(9, encode(9..12), 3);
        let run = RunId::default();
        let source = tail.source(run, 10, 12);
        assert_eq!((source.tail_from, source.tail.len()), (9, 1));
        let source = tail.source(run, 6, 12);
        assert_eq!((source.tail_from, source.tail.len()), (5, 3));
        let source = tail.source(run, 2, 12);
        assert_eq!((source.tail_from, source.tail.len()), (5, 3));
        let source = tail.source(run, 8, 12);
        assert!(source.tail_from <= 8 && source.tail.len() >= 2);
        let source = HistoryTail::default().source(run, 2, 12);
        assert_eq!((source.tail_from, source.tail.len()), (12, 0));
    }
}
