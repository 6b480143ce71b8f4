//! Keys of the entity table: everything about one id, run by run. An entity is a workflow, or another state machine beside workflows.
//!
//! What kinds of entities there are is not known here, nor what rows a run has: a row has a kind, one byte, and a suffix, any bytes, and
//! lies in their order.

use std::ops::Range;

use bytes::Bytes;

use super::order::{KeyReader, KeyWriter, string_len};
use super::slot::Place;
use super::{KeyError, KeyRange, NamespaceId, RunId, SLOTS, prefix_range, slot, table};

/// The run id under which the pointer to the current run lies: before all runs.
const NO_RUN: RunId = [0; 16];

/// The kind of the pointer to the current run. All others belong to whoever writes the rows: the kernel has the table of them.
const CURRENT: u8 = 0;

/// An id in a namespace, and the keys of its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntityKey<'a> {
    /// Its slot and its kind.
    pub place: Place,
    /// The namespace.
    pub namespace: NamespaceId,
    /// The id, the workflow id of a workflow.
    pub id: &'a str,
}

impl<'a> EntityKey<'a> {
    /// The keys of an entity of a kind, below [`ENTITY_KINDS`](super::ENTITY_KINDS), in the slot that its id hashes to.
    pub fn new(kind: u8, namespace: NamespaceId, id: &'a str) -> EntityKey<'a> {
        EntityKey { place: Place::new(slot(&namespace, id), kind), namespace, id }
    }

    /// The pointer to the current run.
    pub fn current(&self) -> Bytes {
        self.start(1).raw(&NO_RUN).u8(CURRENT).finish()
    }

    /// The rows of one run.
    pub fn run(&self, run_id: &RunId) -> RunKey<'a> {
        RunKey { entity: *self, run_id: *run_id }
    }

    /// All rows of the entity: the pointer to the current run, then the runs.
    pub fn range(&self) -> KeyRange {
        let prefix = self.start(0).finish();
        prefix_range(&prefix)
    }

    /// Writes what all keys of the entity begin with, with space for a run id and `more` bytes.
    fn start(&self, more: usize) -> KeyWriter {
        let bytes = 1 + 2 + 16 + string_len(self.id) + 16 + more;
        KeyWriter::new(table::ENTITY, bytes).place(self.place).raw(&self.namespace).string(self.id)
    }
}

/// One run of an entity, and the keys of its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunKey<'a> {
    /// The entity.
    pub entity: EntityKey<'a>,
    /// The run.
    pub run_id: RunId,
}

impl RunKey<'_> {
    /// The row of a kind with a suffix: what [`decode_run_row`] reads.
    pub fn row(&self, kind: u8, suffix: &[u8]) -> Bytes {
        self.start(kind, suffix.len()).raw(suffix).finish()
    }

    /// All rows of the run.
    pub fn range(&self) -> KeyRange {
        let prefix = self.entity.start(0).raw(&self.run_id).finish();
        prefix_range(&prefix)
    }

    /// All rows of a kind, in the order of their suffixes.
    pub fn kind(&self, kind: u8) -> KeyRange {
        let prefix = self.start(kind, 0).finish();
        prefix_range(&prefix)
    }

    /// All rows of a kind and of those behind it.
    pub fn kinds_from(&self, kind: u8) -> KeyRange {
        self.start(kind, 0).finish()..self.range().end
    }

    fn start(&self, kind: u8, more: usize) -> KeyWriter {
        self.entity.start(1 + more).raw(&self.run_id).u8(kind)
    }
}

/// The run, the kind and the suffix of a row's key. The pointer to the current run ([`EntityKey::current`]) is of kind 0 and
/// of run 0, and is met in a scan of a whole entity.
pub fn decode_run_row(key: &[u8]) -> Result<(RunId, u8, &[u8]), KeyError> {
    let read = || {
        let mut reader = KeyReader::new(table::ENTITY, key)?;
        reader.place()?;
        reader.array::<16>()?;
        reader.string()?;
        Some((reader.array()?, reader.u8()?, reader.raw_rest()))
    };
    read().ok_or_else(|| KeyError::new("entity", key))
}

/// Whose row of the entity table lies under `key`: the place, the namespace, the id, and the run, which is all zeros for the pointer to
/// the current one.
pub fn decode_entity_row(key: &[u8]) -> Result<(Place, NamespaceId, String, RunId), KeyError> {
    let read = || {
        let mut reader = KeyReader::new(table::ENTITY, key)?;
        Some((reader.place()?, reader.array()?, reader.string()?, reader.array()?))
    };
    read().ok_or_else(|| KeyError::new("entity", key))
}

/// The same without the id, which costs nothing.
pub fn decode_entity_place(key: &[u8]) -> Result<(Place, NamespaceId), KeyError> {
    let read = || {
        let mut reader = KeyReader::new(table::ENTITY, key)?;
        Some((reader.place()?, reader.array()?))
    };
    read().ok_or_else(|| KeyError::new("entity", key))
}

/// All entities of a namespace in a place.
pub fn place_range(place: Place, namespace: &NamespaceId) -> KeyRange {
    prefix_range(&KeyWriter::new(table::ENTITY, 1 + 2 + 16).place(place).raw(namespace).finish())
}

/// All entities in a range of slots: what moves when slots move to another partition.
pub fn slot_range(slots: Range<u16>) -> KeyRange {
    let bound = |slot| match slot {
        SLOTS.. => prefix_range(&[table::ENTITY]).end,
        slot => KeyWriter::new(table::ENTITY, 3).place(Place::new(slot, 0)).finish(),
    };
    bound(slots.start)..bound(slots.end)
}
