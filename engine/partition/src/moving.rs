//! The rows of a step, a few slots of a namespace that move to another partition: which slots make a step, pages of what they have, and what
//! is to be deleted where they are no more. What is done when is the lead's business (`lead/moves.rs`), in the order that
//! [`everlog_model::Step`] describes.
//!
//! ```text
//!   page     rows of entities as they lie, run by run; behind the last row of a run those of other tables that follow from them: its
//!            wake, its tasks, what lists show. Then messages that have not arrived. What was done for calls without an id goes with the
//!            first page.
//!   deleted  run by run as well, the rows of other tables together with those of the run, so that whoever goes on after a crash finds them
//! ```
//!
//! Nothing changes in the slots of a frozen step, so pages may be read at any time and again: they are the same.

use bytes::Bytes;
use everlog_kernel::outbox::OutboxMessage;
use everlog_kernel::{EntityKind, NamespaceId, RowKey, RunId, Time};
use everlog_model::{EntityRef, SlotSet, Step, limits, rows};
use everlog_storage::keys::{self, KeyRange, OutboxKey, Place};
use everlog_storage::state::{Direction, Row, RowChange};
use prost::Message;

use super::load::{self, Rows};

/// Where a page ends: the last row of the source that it has. The next one goes on behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor(pub Bytes);

/// A page of what the slots of a step have. It is sent as it is encoded as a message.
#[derive(Clone, PartialEq, Message)]
pub struct Page {
    /// Rows to be put, of entities and of what follows from them.
    #[prost(message, repeated, tag = "1")]
    rows: Vec<PageRow>,
    /// Rows of messages.
    #[prost(message, repeated, tag = "2")]
    messages: Vec<PageRow>,
    /// What was done lately for calls without an id, as a row of the journal.
    #[prost(bytes = "bytes", tag = "3")]
    journal: Bytes,
    /// Where the next page begins; nothing, if this is the last one.
    #[prost(bytes = "bytes", tag = "4")]
    next: Bytes,
}

/// A row of a page.
#[derive(Clone, PartialEq, Message)]
struct PageRow {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

impl Page {
    /// Where the next page begins, if there is one.
    pub fn next(&self) -> Option<Cursor> {
        (!self.next.is_empty()).then(|| Cursor(self.next.clone()))
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.messages.is_empty() && self.journal.is_empty()
    }

    /// Bytes of its rows.
    pub fn bytes(&self) -> usize {
        let rows = self.rows.iter().chain(&self.messages);
        rows.map(|row| row.key.len() + row.value.len()).sum::<usize>() + self.journal.len()
    }

    /// What was done lately for calls without an id.
    pub(crate) fn journal(&self) -> Bytes {
        self.journal.clone()
    }

    pub(crate) fn set_journal(&mut self, journal: Bytes) {
        self.journal = journal;
    }

    /// The rows of entities and of what follows from them, if they are such rows and those of entities are of the step.
    pub(crate) fn rows_of(&self, step: &Step) -> Result<Vec<Row>, String> {
        let is_of_step = |row: &PageRow| match row.key.first() {
            Some(1) => keys::decode_entity_place(&row.key)
                .is_ok_and(|(place, namespace)| step.has(NamespaceId(namespace), place.slot())),
            Some(2..=4) => true,
            _ => false,
        };
        match self.rows.iter().find(|row| !is_of_step(row)) {
            Some(row) => Err(format!("a row that is not of step {}: {:?}", step.id, row.key)),
            None => Ok(self.rows.iter().map(|row| (row.key.clone(), row.value.clone())).collect()),
        }
    }

    /// The messages, with the bytes of their rows.
    pub(crate) fn messages_of(&self, step: &Step) -> Result<Vec<(OutboxKey, OutboxMessage, usize)>, String> {
        let read = |row: &PageRow| {
            let key = OutboxKey::decode(&row.key).map_err(|error| error.to_string())?;
            let message = OutboxMessage::from_row(&row.value).map_err(|error| error.to_string())?;
            if !step.has(message.namespace_id, key.slot) {
                return Err(format!("a message that is not of step {}: {key:?}", step.id));
            }
            Ok((key, message, row.value.len()))
        };
        self.messages.iter().map(read).collect()
    }

    /// Makes it the last one, and leaves its messages out: faults that tests put in.
    #[cfg(test)]
    pub(crate) fn end_here(&mut self) {
        self.next = Bytes::new();
    }

    #[cfg(test)]
    pub(crate) fn drop_messages(&mut self) {
        self.messages.clear();
    }

    fn push(&mut self, (key, value): Row) {
        self.rows.push(PageRow { key, value });
    }
}

/// The rows of the slots of a namespace in one table.
struct Walk<'a, R> {
    rows: &'a R,
    namespace_id: NamespaceId,
    slots: &'a SlotSet,
}

/// Rows that are read at a time.
const ROWS: usize = 64;

impl<R: Rows> Walk<'_, R> {
    /// The next rows of entities from `from` on, of one place; none, if there are no more. Whatever lies between is passed over without
    /// being read.
    fn entities(&self, from: Bytes, limit: usize) -> Result<Vec<Row>, String> {
        let end = keys::slot_range(0..keys::SLOTS).end;
        let mut from = from;
        loop {
            let found = scan(self.rows, from.clone()..end.clone(), 1)?;
            let Some((key, _)) = found.first() else { return Ok(Vec::new()) };
            let (place, namespace) = keys::decode_entity_place(key).map_err(|error| error.to_string())?;
            let next = if !self.slots.contains(place.slot()) {
                self.slots.next_from(place.slot()).map(|slot| Place::new(slot, 0))
            } else if namespace > self.namespace_id.0 {
                place.next()
            } else {
                Some(place)
            };
            let Some(next) = next else { return Ok(Vec::new()) };
            let range = keys::place_range(next, &self.namespace_id.0);
            if range.contains(key) {
                return scan(self.rows, from.max(range.start)..range.end, limit);
            }
            from = from.max(range.start);
        }
    }

    /// The next messages from `from` on, of one slot.
    fn messages(&self, from: Bytes, limit: usize) -> Result<Vec<(Row, OutboxMessage)>, String> {
        let end = OutboxKey::all().end;
        let mut from = from;
        loop {
            let found = scan(self.rows, from.clone()..end.clone(), limit)?;
            let Some((last, _)) = found.last().cloned() else { return Ok(Vec::new()) };
            let mut messages = Vec::new();
            for (key, value) in found {
                let slot = OutboxKey::decode(&key).map_err(|error| error.to_string())?.slot;
                if !self.slots.contains(slot) {
                    continue;
                }
                let message = OutboxMessage::from_row(&value).map_err(|error| error.to_string())?;
                if message.namespace_id == self.namespace_id {
                    messages.push(((key, value), message));
                }
            }
            if !messages.is_empty() {
                return Ok(messages);
            }
            // Slots between are passed over.
            let slot = OutboxKey::decode(&last).map_err(|error| error.to_string())?.slot;
            let Some(slot) = self.slots.next_from(slot) else { return Ok(Vec::new()) };
            from = keys::after(&last).max(OutboxKey::of_slot(slot).start);
        }
    }
}

fn scan(rows: &impl Rows, range: KeyRange, limit: usize) -> Result<Vec<Row>, String> {
    rows.scan(range, Direction::Ascending, limit).map_err(|error| error.to_string())
}

/// The run that a row of an entity is of; none, if it only says which one is the current one.
fn run_of(key: &[u8]) -> Result<Option<(EntityRef, RunId)>, String> {
    let (place, namespace, id, run_id) = keys::decode_entity_row(key).map_err(|error| error.to_string())?;
    let entity = EntityRef::decode(place.kind().into(), namespace, id)?;
    Ok(Some((entity, RunId(run_id))).filter(|_| run_id != RunId::default().0))
}

/// The keys of the rows of other tables that follow from those of a run.
fn secondary_rows(rows: &impl Rows, entity: &EntityRef, run_id: RunId) -> Result<Vec<RowKey>, String> {
    let unreadable = |error| format!("run {run_id} of {:?} cannot be read: {error}", entity.id);
    let keys = match entity.kind {
        EntityKind::Workflow => {
            load::load_run(rows, entity, run_id).map_err(unreadable)?.map(|run| run.secondary_rows())
        }
        EntityKind::Schedule => Some(load::load_schedule(rows, entity).map_err(unreadable)?.secondary_rows()),
        EntityKind::BatchJob => Some(load::load_batch_job(rows, entity).map_err(unreadable)?.secondary_rows()),
        EntityKind::Activity => {
            let found = load::load_activities(rows, entity, &[run_id], false).map_err(unreadable)?;
            Some(found.secondary_rows(run_id))
        }
    };
    Ok(keys.unwrap_or_default())
}

/// Those rows as they are.
pub(crate) fn read_secondary_rows(rows: &impl Rows, entity: &EntityRef, run_id: RunId) -> Result<Vec<Row>, String> {
    let mut found = Vec::new();
    for key in secondary_rows(rows, entity, run_id)? {
        let RowChange::Delete { key } = rows::change(&entity.key(), key, None) else { continue };
        let value = rows.get(&key).map_err(|error| error.to_string())?;
        let value = value.ok_or_else(|| format!("run {run_id} of {:?} lacks the row {key:?}", entity.id))?;
        found.push((key, value));
    }
    Ok(found)
}

/// The first slots of a set whose rows have no more than about `bytes_max` together, but one with rows at least. Those that have none
/// come along.
pub(crate) fn plan(
    rows: &impl Rows,
    namespace_id: NamespaceId,
    slots: &SlotSet,
    bytes_max: usize,
) -> Result<SlotSet, String> {
    let walk = Walk { rows, namespace_id, slots };
    let (mut bytes, mut full) = (0, None);
    let mut from = keys::slot_range(0..keys::SLOTS).start;
    // The slot that is being counted.
    let mut counted = None;
    while full.is_none() {
        let found = walk.entities(from, ROWS)?;
        let Some((last, _)) = found.last() else { break };
        let slot = keys::decode_entity_place(last).map_err(|error| error.to_string())?.0.slot();
        bytes += found.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>();
        let is_first = *counted.get_or_insert(slot) == slot;
        if bytes > bytes_max {
            // The first one goes, however large it is: nobody need know how large.
            full = Some(if is_first { slot + 1 } else { slot });
        }
        from = keys::after(last);
    }
    let end = full.unwrap_or(keys::SLOTS);
    Ok(slots.iter().filter(|slot| *slot < end).collect())
}

/// Reads a page behind `after`, or the first one, of about `bytes_max`.
pub(crate) fn export(rows: &impl Rows, step: &Step, after: Option<&Cursor>, bytes_max: usize) -> Result<Page, String> {
    let walk = Walk { rows, namespace_id: step.namespace_id, slots: &step.slots };
    let mut page = Page::default();
    let mut last = after.map(|Cursor(key)| key.clone());
    let is_among_messages = |key: &Bytes| OutboxKey::all().contains(key);
    if !last.as_ref().is_some_and(is_among_messages) {
        // A run whose last row the page before this one ended with may have been its last one.
        let mut open = last.as_deref().map(run_of).transpose()?.flatten();
        let mut has_rows = false;
        loop {
            let start = last.as_deref().map_or_else(|| keys::slot_range(0..keys::SLOTS).start, keys::after);
            let found = walk.entities(start, ROWS)?;
            let is_last = found.is_empty();
            for (key, value) in found {
                let run = run_of(&key)?;
                if run != open {
                    close(rows, open.take(), &mut page)?;
                    open = run;
                }
                // It has one row at least, so that the pages come to an end.
                if has_rows
                    && page.bytes() >= bytes_max
                    && let Some(last) = last
                {
                    page.next = last;
                    return Ok(page);
                }
                has_rows = true;
                last = Some(key.clone());
                page.push((key, value));
            }
            if is_last {
                close(rows, open, &mut page)?;
                break;
            }
        }
        last = None;
    }
    loop {
        let start = last.as_deref().map_or_else(|| OutboxKey::all().start, keys::after);
        let found = walk.messages(start, ROWS)?;
        if found.is_empty() {
            return Ok(page);
        }
        for ((key, value), _) in found {
            last = Some(key.clone());
            page.messages.push(PageRow { key, value });
        }
        if page.bytes() >= bytes_max
            && let Some(last) = last
        {
            page.next = last;
            return Ok(page);
        }
    }
}

/// Adds what follows from a run whose last row is in the page, or in the one before.
fn close(rows: &impl Rows, run: Option<(EntityRef, RunId)>, page: &mut Page) -> Result<(), String> {
    if let Some((entity, run_id)) = run {
        read_secondary_rows(rows, &entity, run_id)?.into_iter().for_each(|row| page.push(row));
    }
    Ok(())
}

/// Rows that are to be deleted.
pub(crate) struct Deletions {
    pub(crate) changes: Vec<RowChange>,
    /// Where the next ones are, if there are any.
    pub(crate) next: Option<Cursor>,
}

/// What is to be deleted of a step behind `after`, a few runs or messages. `is_part` says that rows may be missing, because not all have come:
/// rows of other tables come with the last row of their run.
pub(crate) fn deletions(
    rows: &impl Rows,
    step: &Step,
    after: Option<&Cursor>,
    is_part: bool,
) -> Result<Deletions, String> {
    let walk = Walk { rows, namespace_id: step.namespace_id, slots: &step.slots };
    let mut changes = Vec::new();
    let mut last = after.map(|Cursor(key)| key.clone());
    if !last.as_ref().is_some_and(|key| OutboxKey::all().contains(key)) {
        for _ in 0..limits::MOVE_RUNS_DELETED_MAX {
            let start = last.clone().unwrap_or_else(|| keys::slot_range(0..keys::SLOTS).start);
            let Some((key, _)) = walk.entities(start, 1)?.into_iter().next() else {
                last = Some(OutboxKey::all().start);
                break;
            };
            let Some((entity, run_id)) = run_of(&key)? else {
                last = Some(keys::after(&key));
                changes.push(RowChange::Delete { key });
                continue;
            };
            let secondary = match secondary_rows(rows, &entity, run_id) {
                Err(error) if is_part => {
                    tracing::debug!(error, "a run that came in part is deleted");
                    Vec::new()
                }
                secondary => secondary?,
            };
            changes.extend(secondary.into_iter().map(|key| rows::change(&entity.key(), key, None)));
            let range = entity.key().run(&run_id.0).range();
            last = Some(range.end.clone());
            changes.push(RowChange::DeleteRange { start: range.start, end: range.end });
        }
        return Ok(Deletions { changes, next: last.map(Cursor) });
    }
    let start = last.unwrap_or_else(|| OutboxKey::all().start);
    let found = walk.messages(start, limits::OUTBOX_PAGE_ROWS)?;
    let next = found.last().map(|((key, _), _)| Cursor(keys::after(key)));
    changes.extend(found.into_iter().map(|((key, _), _)| RowChange::Delete { key }));
    Ok(Deletions { changes, next })
}

/// Slots that may make a step, and the time of the partition that has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The slots.
    pub slots: SlotSet,
    /// The partition's time.
    pub time: Time,
}

/// What the rows of a step's target say for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It has the slots.
    Owned,
    /// It will never have them by this step.
    Refused,
}
