//! Pages of histories, from rows, forwards and backwards.
//!
//! Pages never split a *batch*: what Temporal's server writes at once. A batch ends with the transition, and behind each
//! WorkflowTaskStarted. The row of a transition is therefore one batch or several; and it begins in the middle of one where a workflow
//! task was started together with its scheduling, because starts are written with what ends them:
//!
//! ```text
//!   rows       Started Scheduled │ Started Completed Scheduled      │ Started Completed
//!   batches    Started Scheduled │ Started │ Completed Scheduled (  │ ) Started │ Completed      (a task given to the worker inline)
//! ```
//!
//! A run that began with a reset has only the events behind that in its own rows; the others lie with its ancestors ([`Branch`]).

use bytes::{Buf, Bytes};
use everlog_kernel::state::Branch;
use everlog_kernel::{Rejection, RunId, RunRowKind, is_inline_poll};
use everlog_model::{CallError, WorkflowRef, limits, rows};
use everlog_proto::api::enums::v1::EventType;
use everlog_proto::api::history::v1::HistoryEvent;
use everlog_proto::api::history::v1::history_event::Attributes;
use everlog_raft::Group;
use everlog_storage::state::{Direction, StateError};
use prost::Message;

use super::load::Rows;

/// Rows that are read at a time.
const ROWS: usize = 64;

/// A stretch of a run's history.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HistoryPage {
    /// Encoded `History` messages with consecutive events; of a page that was read backwards too they stand in the order of the history.
    pub batches: Vec<Bytes>,
    /// Where the next page begins: the event after the last one here, or of a page that was read backwards, the first one here.
    pub next_event_id: i64,
}

/// How long a page gets. It has at least one batch.
#[derive(Clone, Copy, Debug)]
pub struct PageSize {
    /// Batches at most.
    pub batches_max: usize,
    /// No batch begins in a page that has so many events.
    pub events_max: usize,
}

impl PageSize {
    /// Any number of events, but not more bytes than a page may have.
    pub fn batches(batches_max: usize) -> PageSize {
        PageSize { batches_max, events_max: usize::MAX }
    }

    /// At least so many events, if there are.
    pub(crate) fn events(events_max: usize) -> PageSize {
        PageSize { batches_max: usize::MAX, events_max }
    }
}

/// Reads stored events `[from, to)`.
pub(crate) async fn read(
    group: Group,
    address: WorkflowRef,
    run_id: RunId,
    from: i64,
    to: i64,
    size: PageSize,
) -> Result<HistoryPage, CallError> {
    if from >= to {
        return Ok(HistoryPage { batches: Vec::new(), next_event_id: from });
    }
    blocking(move || read_blocking(&group, &address, run_id, from, to, size)).await
}

/// Reads the last of the stored events before `to`.
pub(crate) async fn read_back(
    group: Group,
    address: WorkflowRef,
    run_id: RunId,
    to: i64,
    size: PageSize,
) -> Result<HistoryPage, CallError> {
    if to <= 1 {
        return Ok(HistoryPage { batches: Vec::new(), next_event_id: 1 });
    }
    blocking(move || Reading { group: &group, address: &address, run_id }.back(to, size)).await
}

async fn blocking(
    read: impl FnOnce() -> Result<HistoryPage, CallError> + Send + 'static,
) -> Result<HistoryPage, CallError> {
    let page = everlog_storage::blocking::spawn(read).await;
    page.map_err(|error| CallError::Failed(format!("reading history: {error}")))?
}

pub(crate) fn read_blocking(
    group: &impl Rows,
    address: &WorkflowRef,
    run_id: RunId,
    from: i64,
    to: i64,
    size: PageSize,
) -> Result<HistoryPage, CallError> {
    Reading { group, address, run_id }.forth(from, to, size)
}

/// Whether a stored event of a run is the first one of a batch.
pub(crate) fn begins_batch(
    group: &impl Rows,
    address: &WorkflowRef,
    run_id: RunId,
    event_id: i64,
) -> Result<bool, CallError> {
    Reading { group, address, run_id }.begins_batch(event_id)
}

struct Reading<'a, G> {
    group: &'a G,
    address: &'a WorkflowRef,
    run_id: RunId,
}

/// How far a stretch of history has filled a page.
enum Filled {
    /// The page is full.
    Page,
    /// The stretch has ended.
    Stretch,
    /// Rows are missing.
    Hole,
}

impl<G: Rows> Reading<'_, G> {
    fn forth(&self, from: i64, to: i64, size: PageSize) -> Result<HistoryPage, CallError> {
        let mut page = Filling::new(size);
        let mut next = from;
        let mut branch = None;
        loop {
            let (run_id, end) = stretch(branch.as_ref(), next).unwrap_or((self.run_id, i64::MAX));
            match self.fill(&mut page, run_id, &mut next, end.min(to))? {
                Filled::Page => return Ok(page.finish(next)),
                Filled::Stretch if next >= to => return Ok(page.finish(next)),
                Filled::Stretch => {}
                // Most runs have all of their history, so only now it is looked where else it may be.
                Filled::Hole if branch.is_none() => {
                    branch = self.branch()?;
                    if branch.is_none() {
                        return Err(self.missing());
                    }
                }
                Filled::Hole => return Err(self.missing_in_branch()),
            }
        }
    }

    /// Fills a page with the events of a run from `next` to `end`.
    fn fill(&self, page: &mut Filling, run_id: RunId, next: &mut i64, end: i64) -> Result<Filled, CallError> {
        let mut start = *next;
        if start > 1 {
            // The row that holds `next` may start before it.
            let found = self.rows(run_id, 1, *next + 1, Direction::Descending, 1)?;
            let Some((first, _)) = found.first() else { return Ok(Filled::Hole) };
            start = *first;
        }
        loop {
            let found = self.rows(run_id, start, end, Direction::Ascending, ROWS)?;
            if found.is_empty() {
                return Ok(Filled::Hole);
            }
            for (first, events) in found {
                if first > *next {
                    return Ok(Filled::Hole);
                }
                for piece in pieces(&events, first, *next, end) {
                    if !piece.goes_on && page.is_full() {
                        return Ok(Filled::Page);
                    }
                    *next = piece.next_event_id();
                    page.add(piece);
                }
                start = first + count_events(&events);
                if *next >= end {
                    return Ok(Filled::Stretch);
                }
            }
        }
    }

    fn back(&self, to: i64, size: PageSize) -> Result<HistoryPage, CallError> {
        let mut page = Filling::new(size);
        let mut next = to;
        let mut branch = None;
        loop {
            let (run_id, _) = stretch(branch.as_ref(), next - 1).unwrap_or((self.run_id, i64::MAX));
            let found = self.rows(run_id, 1, next, Direction::Descending, ROWS)?;
            if found.is_empty() {
                if branch.is_some() {
                    return Err(self.missing_in_branch());
                }
                branch = self.branch()?;
                if branch.is_none() {
                    return Err(self.missing());
                }
                continue;
            }
            for (first, events) in found {
                if first + count_events(&events) < next {
                    return Err(self.corrupt());
                }
                for piece in pieces(&events, first, first, next).into_iter().rev() {
                    next = piece.first;
                    let begins_batch = !piece.goes_on;
                    page.add(piece);
                    if begins_batch && page.is_full() || next <= 1 {
                        page.pieces.reverse();
                        return Ok(page.finish(next));
                    }
                }
            }
        }
    }

    /// Whether a stored event is the first one of a batch.
    fn begins_batch(&self, event_id: i64) -> Result<bool, CallError> {
        let row_of = |run_id: RunId| self.rows(run_id, 1, event_id + 1, Direction::Descending, 1);
        let mut found = row_of(self.run_id)?;
        if found.is_empty()
            && let Some((run_id, _)) = stretch(self.branch()?.as_ref(), event_id)
        {
            found = row_of(run_id)?;
        }
        let (first, events) = found.first().ok_or_else(|| self.missing())?;
        Ok(pieces(events, *first, *first, event_id + 1).iter().any(|piece| piece.first == event_id && !piece.goes_on))
    }

    /// What the run goes on from, if it began with a reset.
    fn branch(&self) -> Result<Option<Branch>, CallError> {
        let entity = self.address.entity();
        let key = rows::only_row(&entity.key().run(&self.run_id.0), RunRowKind::Branch);
        let row = self.group.get(&key).map_err(unreadable)?;
        row.map(|row| Branch::from_row(&row)).transpose().map_err(|_| self.corrupt())
    }

    /// Rows of a run whose first event is one of `[from, to)`, with the id of that event.
    fn rows(
        &self,
        run_id: RunId,
        from: i64,
        to: i64,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<(i64, Bytes)>, CallError> {
        let range = rows::history_range(self.address, run_id, from, to);
        let found = self.group.scan(range, direction, limit).map_err(unreadable)?;
        let row = |(key, events): (Bytes, Bytes)| Some((rows::history_first_event(&key)?, events));
        found.into_iter().map(row).collect::<Option<_>>().ok_or_else(|| self.corrupt())
    }

    /// What it means that there are no rows. The first event stays as long as the run does: without it, retention has deleted the run
    /// since the caller saw it.
    fn missing(&self) -> CallError {
        match self.rows(self.run_id, 1, 2, Direction::Ascending, 1) {
            Ok(found) if found.is_empty() => Rejection::workflow_not_found().into(),
            Ok(_) => self.corrupt(),
            Err(error) => error,
        }
    }

    /// The same of a run that began with a reset: what it goes on from stays as long as the run does.
    fn missing_in_branch(&self) -> CallError {
        match self.branch() {
            Ok(None) => Rejection::workflow_not_found().into(),
            Ok(Some(_)) => self.corrupt(),
            Err(error) => error,
        }
    }

    fn corrupt(&self) -> CallError {
        CallError::Corrupt(format!("the history of run {} is not readable", self.run_id))
    }
}

/// The run in whose rows an event lies, and where its stretch of the history ends, if that is an ancestor.
fn stretch(branch: Option<&Branch>, event_id: i64) -> Option<(RunId, i64)> {
    let ancestor = branch?.ancestors.iter().find(|ancestor| event_id < ancestor.until)?;
    Some((ancestor.run_id, ancestor.until))
}

fn unreadable(error: StateError) -> CallError {
    CallError::Unavailable(error.to_string())
}

/// A page that is being filled.
struct Filling {
    size: PageSize,
    pieces: Vec<Bytes>,
    batches: usize,
    events: usize,
    bytes: usize,
}

impl Filling {
    fn new(size: PageSize) -> Filling {
        Filling { size, pieces: Vec::new(), batches: 0, events: 0, bytes: 0 }
    }

    fn add(&mut self, piece: Piece) {
        self.batches += usize::from(!piece.goes_on);
        self.events += piece.count;
        self.bytes += piece.events.len();
        self.pieces.push(piece.events);
    }

    fn is_full(&self) -> bool {
        self.batches >= self.size.batches_max
            || self.events >= self.size.events_max
            || self.bytes >= limits::HISTORY_PAGE_BYTES_MAX
    }

    fn finish(self, next_event_id: i64) -> HistoryPage {
        HistoryPage { batches: self.pieces, next_event_id }
    }
}

/// Events of a row that belong to one batch.
struct Piece {
    /// The id of the first one.
    first: i64,
    count: usize,
    /// Encoded as a `History`.
    events: Bytes,
    /// Whether the batch began in the row before.
    goes_on: bool,
}

impl Piece {
    fn next_event_id(&self) -> i64 {
        self.first + self.count as i64
    }
}

/// The pieces of a row, whose first event is `first`, without the events before `from` and from `to` on.
fn pieces(row: &Bytes, first: i64, from: i64, to: i64) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut rest = row.clone();
    let mut id = first;
    // Where the piece begins, and with which event.
    let mut begun: Option<(usize, i64)> = None;
    let mut goes_on = false;
    loop {
        let at = row.len() - rest.len();
        let event = if id < to { skip_event(&mut rest) } else { None };
        let is_start = event.as_ref().is_some_and(|event| event_type(event) == EventType::WorkflowTaskStarted as u64);
        if event.is_some() && id >= from && begun.is_none() {
            begun = Some((at, id));
            goes_on = id == first && is_start && event.as_ref().is_some_and(is_started_inline);
        }
        let end = if event.is_some() { row.len() - rest.len() } else { at };
        id += i64::from(event.is_some());
        if (is_start || event.is_none())
            && let Some((start, first)) = begun.take()
        {
            let count = usize::try_from(id - first).unwrap_or(0);
            pieces.push(Piece { first, count, events: row.slice(start..end), goes_on });
            goes_on = false;
        }
        if event.is_none() {
            return pieces;
        }
    }
}

/// The type of an encoded event.
fn event_type(event: &Bytes) -> u64 {
    const EVENT_TYPE: u64 = 3;
    let mut rest = &event[..];
    let mut field = || -> Option<(u64, u64)> {
        let key = prost::encoding::decode_varint(&mut rest).ok()?;
        let value = prost::encoding::decode_varint(&mut rest).ok()?;
        if key & 7 == 2 {
            rest = rest.get(usize::try_from(value).ok()?..)?;
        }
        Some((key >> 3, value))
    };
    // Id, time and type stand in front.
    while let Some((number, value)) = field() {
        if number == EVENT_TYPE {
            return value;
        }
    }
    EventType::Unspecified as u64
}

/// Whether an encoded WorkflowTaskStarted was written with the event before it: the worker that completed a task got the next one.
fn is_started_inline(event: &Bytes) -> bool {
    match HistoryEvent::decode(event.clone()).map(|event| event.attributes) {
        Ok(Some(Attributes::WorkflowTaskStartedEventAttributes(started))) => is_inline_poll(&started.request_id),
        _ => false,
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
    use everlog_proto::api::history::v1::{History, WorkflowTaskStartedEventAttributes};
    use everlog_storage::keys::KeyRange;
    use everlog_storage::state::Row;

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

    /// A row: `s` is a task that was started by a poll, `i` one that was started inline, anything else another event.
    fn row(first: i64, events: &str) -> Bytes {
        let event = |(event_id, kind): (i64, char)| {
            let request_id = if kind == 'i' { "request-from-RespondWorkflowTaskCompleted" } else { "poll" };
            let attributes =
                WorkflowTaskStartedEventAttributes { request_id: request_id.to_owned(), ..Default::default() };
            let is_start = matches!(kind, 's' | 'i');
            HistoryEvent {
                event_id,
                event_time: Some(everlog_proto::wkt::Timestamp { seconds: 1 << 40, nanos: 7 }),
                event_type: if is_start { EventType::WorkflowTaskStarted } else { EventType::MarkerRecorded } as i32,
                attributes: is_start.then_some(Attributes::WorkflowTaskStartedEventAttributes(attributes)),
                ..HistoryEvent::default()
            }
        };
        History { events: (first..).zip(events.chars()).map(event).collect() }.encode_to_vec().into()
    }

    #[test]
    fn batches_end_behind_the_start_of_a_task_and_go_on_where_it_was_inline() {
        let cut = |events: &str, from, to| {
            let pieces = pieces(&row(5, events), 5, from, to);
            let cut = pieces.iter().map(|piece| {
                assert_eq!(ids(&piece.events)[0], piece.first);
                (ids(&piece.events), piece.goes_on)
            });
            cut.collect::<Vec<_>>()
        };
        assert_eq!(cut("abc", 0, 100), [(vec![5, 6, 7], false)]);
        assert_eq!(cut("sab", 0, 100), [(vec![5], false), (vec![6, 7], false)]);
        assert_eq!(cut("iab", 0, 100), [(vec![5], true), (vec![6, 7], false)]);
        assert_eq!(cut("asb", 0, 100), [(vec![5, 6], false), (vec![7], false)]);
        assert_eq!(cut("ai", 0, 100), [(vec![5, 6], false)]);
        assert_eq!(cut("iabc", 6, 8), [(vec![6, 7], false)]);
        assert_eq!(cut("sab", 0, 6), [(vec![5], false)]);
        assert!(cut("sab", 8, 100).is_empty());
    }

    /// Rows in memory, by what they are encoded from.
    struct Stored(Vec<(Bytes, Bytes)>);

    impl Rows for Stored {
        fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StateError> {
            Ok(self.0.iter().find(|(found, _)| found == key).map(|(_, value)| value.clone()))
        }

        fn scan(&self, range: KeyRange, direction: Direction, limit: usize) -> Result<Vec<Row>, StateError> {
            let mut found: Vec<_> = self.0.iter().filter(|(key, _)| range.contains(key)).cloned().collect();
            if direction == Direction::Descending {
                found.reverse();
            }
            found.truncate(limit);
            Ok(found)
        }
    }

    fn address() -> WorkflowRef {
        let namespace = everlog_kernel::Namespace {
            id: Default::default(),
            name: "n".to_owned(),
            retention: Default::default(),
            ..everlog_kernel::Namespace::default()
        };
        WorkflowRef { namespace: namespace.into(), workflow_id: "w".into() }
    }

    fn stored(history: &[&str]) -> Stored {
        let mut first = 1;
        let rows = history.iter().map(|events| {
            let run_rows = rows::history_range(&address(), RunId::default(), first, first + 1);
            let row = (run_rows.start, row(first, events));
            first += events.len() as i64;
            row
        });
        Stored(rows.collect())
    }

    #[test]
    fn pages_are_the_same_batches_forwards_and_backwards() {
        // Started Scheduled | Started | Completed Scheduled (inline) Started | Completed | ...
        let rows = stored(&["ab", "scd", "iefg", "h", "sj"]);
        let (address, run_id) = (address(), RunId::default());
        let reading = Reading { group: &rows, address: &address, run_id };
        let spans = |page: &HistoryPage| {
            let ids: Vec<i64> = page.batches.iter().flat_map(ids).collect();
            (ids[0], ids[ids.len() - 1])
        };
        let batches = [(1, 2), (3, 3), (4, 6), (7, 9), (10, 10), (11, 11), (12, 12)];
        for size in 1..=8 {
            let expected: Vec<_> = batches.chunks(size).map(|page| (page[0].0, page[page.len() - 1].1)).collect();
            let (mut found, mut next) = (Vec::new(), 1);
            while next < 13 {
                let page = reading.forth(next, 13, PageSize::batches(size)).unwrap();
                next = page.next_event_id;
                found.push(spans(&page));
            }
            assert_eq!(found, expected, "{size} forwards");
            let from_end: Vec<_> = batches.rchunks(size).map(|page| (page[0].0, page[page.len() - 1].1)).collect();
            let (mut found, mut next) = (Vec::new(), 13);
            while next > 1 {
                let page = reading.back(next, PageSize::batches(size)).unwrap();
                next = page.next_event_id;
                found.push(spans(&page));
            }
            assert_eq!(found, from_end, "{size} backwards");
        }
        let page = reading.forth(5, 12, PageSize::events(3)).unwrap();
        assert_eq!((spans(&page), page.next_event_id), ((5, 9), 10));
    }

    /// Run 0 has events 1 to 12, run 1 goes on from it before event 4, run 2 from that before event 6: as kernel tests tell how.
    fn branched() -> Stored {
        let mut rows = stored(&["ab", "scd", "iefg", "h", "sj"]).0;
        let mut own = |run: u8, first: i64, events: &str, branch: &str| {
            let run_id = RunId([run; 16]);
            rows.push((rows::history_range(&address(), run_id, first, first + 1).start, row(first, events)));
            let bytes = (0..branch.len() / 2).map(|at| u8::from_str_radix(&branch[2 * at..2 * at + 2], 16).unwrap());
            let entity = address().entity();
            let key = rows::only_row(&entity.key().run(&run_id.0), RunRowKind::Branch);
            rows.push((key, bytes.collect::<Vec<_>>().into()));
        };
        let id = |run: u8| format!("{run:02x}").repeat(16);
        let ancestor = |run: u8, until: u8| format!("12140a10{}10{until:02x}", id(run));
        own(1, 4, "abc", &format!("0a10{}{}", id(0), ancestor(0, 4)));
        own(2, 6, "xyz", &format!("0a10{}{}{}", id(1), ancestor(0, 4), ancestor(1, 6)));
        rows.sort();
        Stored(rows)
    }

    #[test]
    fn a_run_that_goes_on_from_another_has_its_events() {
        let (rows, address) = (branched(), address());
        for (run, to) in [(1, 7), (2, 9)] {
            let reading = Reading { group: &rows, address: &address, run_id: RunId([run; 16]) };
            for from in 1..to {
                for size in 1..=4 {
                    let (mut found, mut next) = (Vec::new(), from);
                    while next < to {
                        let page = reading.forth(next, to, PageSize::batches(size)).unwrap();
                        next = page.next_event_id;
                        found.extend(page.batches.iter().flat_map(ids));
                    }
                    assert_eq!(found, (from..to).collect::<Vec<_>>(), "run {run} from {from}, {size} forwards");
                    let (mut found, mut next) = (Vec::new(), to);
                    while next > 1 {
                        let page = reading.back(next, PageSize::batches(size)).unwrap();
                        next = page.next_event_id;
                        found.splice(0..0, page.batches.iter().flat_map(ids));
                    }
                    assert_eq!(found, (1..to).collect::<Vec<_>>(), "run {run}, {size} backwards");
                }
            }
        }
        let begins = |run: u8, event_id| {
            let reading = Reading { group: &rows, address: &address, run_id: RunId([run; 16]) };
            reading.begins_batch(event_id).unwrap()
        };
        assert_eq!(
            [1, 2, 3, 4, 5, 6, 7].map(|event_id| begins(2, event_id)),
            [true, false, true, true, false, true, false]
        );
        // What an ancestor had is gone, or the run is.
        let mut holes = branched();
        holes.0.retain(|(key, _)| rows::history_first_event(key) != Some(3));
        let reading = Reading { group: &holes, address: &address, run_id: RunId([2; 16]) };
        assert!(matches!(reading.forth(1, 9, PageSize::events(100)), Err(CallError::Corrupt(_))));
        let reading = Reading { group: &rows, address: &address, run_id: RunId([3; 16]) };
        assert!(matches!(
            reading.forth(1, 9, PageSize::events(100)),
            Err(CallError::Corrupt(_) | CallError::Rejected(_))
        ));
    }

    #[test]
    fn holes_and_missing_rows_are_told() {
        let (address, run_id) = (address(), RunId::default());
        let mut rows = stored(&["ab", "sc", "d"]);
        rows.0.remove(1);
        let reading = Reading { group: &rows, address: &address, run_id };
        assert!(matches!(reading.forth(1, 6, PageSize::events(100)), Err(CallError::Corrupt(_))));
        assert!(matches!(reading.back(6, PageSize::events(100)), Err(CallError::Corrupt(_))));
        let none = Stored(Vec::new());
        let reading = Reading { group: &none, address: &address, run_id };
        assert!(matches!(reading.forth(1, 6, PageSize::events(100)), Err(CallError::Rejected(_))));
        assert!(matches!(reading.back(6, PageSize::events(100)), Err(CallError::Rejected(_))));
    }
}
