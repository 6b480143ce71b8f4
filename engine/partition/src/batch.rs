//! A batch: the rows of many commands on their way to the log as one entry, and what waits for them.

use std::hash::BuildHasher;
use std::time::Instant;

use bytes::Bytes;
use everlog_storage::state::{RowBatch, RowChange};
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use super::lead::Outgoing;

/// Rows that become one log entry, and what waits for it.
#[derive(Default)]
pub(crate) struct Batch {
    changes: Vec<RowChange>,
    /// Where in `changes` a key stands, so that a later change replaces an earlier one. Found by the keys there: a map would need a
    /// second handle on each.
    positions: HashTable<usize>,
    hasher: foldhash::fast::RandomState,
    bytes: usize,
    /// The commands that have put rows in.
    commands: usize,
    /// When the first of them did.
    since: Option<Instant>,
    /// Replies and effects, in order.
    pub(crate) waiting: Vec<Outgoing>,
}

impl Batch {
    /// Adds a change. The last change of a key is what stays.
    pub(crate) fn push(&mut self, change: RowChange) {
        let (key, bytes) = match &change {
            RowChange::Put { key, value } => (key, key.len() + value.len()),
            RowChange::Delete { key } => (key, key.len()),
            RowChange::DeleteRange { start, end } => {
                // Changes before it must stay before it, those behind it behind it.
                self.bytes += start.len() + end.len();
                self.positions.clear();
                self.changes.push(change);
                return;
            }
        };
        self.bytes += bytes;
        let (changes, hasher) = (&self.changes, &self.hasher);
        let hash_of = |position: &usize| changes.get(*position).and_then(key_of).map_or(0, |key| hasher.hash_one(key));
        let is_same = |position: &usize| changes.get(*position).and_then(key_of) == Some(key);
        match self.positions.entry(hasher.hash_one(key), is_same, hash_of) {
            Entry::Occupied(position) => self.changes[*position.get()] = change,
            Entry::Vacant(vacant) => {
                vacant.insert(self.changes.len());
                self.changes.push(change);
            }
        }
    }

    /// Counts a command whose rows were added `now`.
    pub(crate) fn count_command(&mut self, now: Instant) {
        self.commands += 1;
        self.since.get_or_insert(now);
    }

    /// How many commands have put rows in.
    pub(crate) fn commands(&self) -> usize {
        self.commands
    }

    /// When the first of them did.
    pub(crate) fn since(&self) -> Option<Instant> {
        self.since
    }

    /// Whether there is anything to write.
    pub(crate) fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Bytes of keys and values, counting replaced ones.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes the rows for the log, and what waits for them. The batch is empty then, with room for as much again.
    pub(crate) fn take(&mut self) -> (RowBatch, Vec<Outgoing>) {
        self.positions.clear();
        self.bytes = 0;
        self.commands = 0;
        self.since = None;
        let (changes, waiting) = (Vec::with_capacity(self.changes.len()), Vec::with_capacity(self.waiting.len()));
        let changes = std::mem::replace(&mut self.changes, changes);
        (RowBatch { changes }, std::mem::replace(&mut self.waiting, waiting))
    }
}

fn key_of(change: &RowChange) -> Option<&Bytes> {
    match change {
        RowChange::Put { key, .. } | RowChange::Delete { key } => Some(key),
        RowChange::DeleteRange { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &'static str, value: &'static str) -> RowChange {
        RowChange::Put { key: Bytes::from(key), value: Bytes::from(value) }
    }

    #[test]
    fn the_last_change_of_a_key_stays_and_ranges_keep_their_place() {
        let mut batch = Batch::default();
        batch.push(put("a", "1"));
        batch.push(put("b", "1"));
        batch.push(put("a", "2"));
        let range = RowChange::DeleteRange { start: Bytes::from("a"), end: Bytes::from("z") };
        batch.push(range.clone());
        batch.push(put("b", "3"));
        let (rows, _) = batch.take();
        assert_eq!(rows.changes, [put("a", "2"), put("b", "1"), range, put("b", "3")]);
    }
}
