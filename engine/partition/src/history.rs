//! The histories of workflow tasks: from rows (`history_pages.rs`), and for the part that is not applied yet from the loop's memory.
//!
//! A history row holds the events of one transition as an encoded `History`, under the id of its first event. Events are cut
//! out of rows at their frames, without decoding them.

use std::collections::VecDeque;

use bytes::Bytes;
use everlog_kernel::RunId;
use everlog_model::{CallError, WorkflowRef, limits};
use everlog_raft::Group;

use super::history_pages::{PageSize, count_events, read, slice_events};

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

    /// The events from `from` on, if all of them are here.
    pub(crate) fn since(&self, from: i64) -> Option<Vec<Bytes>> {
        if self.rows.front().is_none_or(|row| row.first_event_id > from) {
            return None;
        }
        let behind = self.rows.iter().filter(|row| row.first_event_id + count_events(&row.events) > from);
        let events = behind.map(|row| slice_events(&row.events, (from - row.first_event_id).max(0), i64::MAX));
        Some(events.collect())
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
            let size = PageSize::events(limits::HISTORY_PAGE_EVENTS_MAX);
            let page = read(group.clone(), address.clone(), self.run_id, self.from, rows_to, size).await?;
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

#[cfg(test)]
mod tests {
    use everlog_proto::api::history::v1::{History, HistoryEvent};
    use prost::Message;

    use super::*;

    fn encode(ids: std::ops::Range<i64>) -> Bytes {
        let events = ids.map(|event_id| HistoryEvent { event_id, ..Default::default() }).collect();
        History { events }.encode_to_vec().into()
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
        let since = |from| {
            let ids = |events: &Bytes| History::decode(events.clone()).unwrap().events[0].event_id;
            tail.since(from).map(|rows| rows.iter().map(ids).collect::<Vec<_>>())
        };
        assert_eq!((since(4), since(5), since(7)), (None, Some(vec![5, 8, 9]), Some(vec![7, 8, 9])));
        assert_eq!((since(9), since(12)), (Some(vec![9]), Some(vec![])));
    }
}
