//! A batch: the rows of many commands on their way to the log as one entry, and what waits for them.

use std::collections::HashMap;
use std::time::Instant;

use bytes::Bytes;
use everlog_storage::state::{RowBatch, RowChange};

use super::lead::Outgoing;

/// Rows that become one log entry, and what waits for it.
#[derive(Default)]
pub(crate) struct Batch {
    changes: Vec<RowChange>,
    /// Where in `changes` a key stands, so that a later change replaces an earlier one.
    positions: HashMap<Bytes, usize, foldhash::fast::RandomState>,
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
            RowChange::Put { key, value } => (key.clone(), key.len() + value.len()),
            RowChange::Delete { key } => (key.clone(), key.len()),
            RowChange::DeleteRange { start, end } => {
                // Changes before it must stay before it, those behind it behind it.
                self.bytes += start.len() + end.len();
                self.positions.clear();
                self.changes.push(change);
                return;
            }
        };
        self.bytes += bytes;
        match self.positions.get(&key) {
            Some(position) => self.changes[*position] = change,
            None => {
                self.positions.insert(key, self.changes.len());
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
