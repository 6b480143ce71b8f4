//! The key space: where each row of a partition lies, and why it lies there.
//!
//! Keys are relative to a group; the state engine puts the group id (u32, big-endian) before each, so that a partition is one
//! contiguous range. The first byte is the table:
//!
//! ```text
//! 01 entity      place u16 | namespace 16 | id esc | run id 16 | kind u8 | suffix
//!                  run id 0…0:  00 current run
//!                  run id:      01… what the kernel's table of rows says (engine/kernel/src/rows.rs)
//! 02 wake        fire time i64 | place u16 | namespace 16 | id esc | run id 16
//! 03 task        namespace 16 | kind u8 | task queue esc | position (priority u8 | scheduled time i64 | run id 16
//!                  | scheduled event id i64, says engine/kernel/src/task.rs)
//! 04 visibility  namespace 16 | position (~close time i64 | ~start time i64 | run id 16, says engine/kernel/src/visibility.rs)
//! 05 outbox      slot u16 | time u64 | number u16
//! 06 meta        kind u8 | name, raw to the end of the key
//! 07 partition   name, raw to the end of the key
//! 08 journal     hybrid time u64
//! ```
//!
//! - An entity is a workflow or a state machine of its own beside workflows. Its place is its slot, 12 bits, then its kind, 4 bits,
//!   which is 0 of workflows (the kernel has the list of kinds, `EntityKind`).
//! - All rows of an entity are one range, all of a run one range within it, all of a slot (what moves between partitions) one
//!   range around it, whatever the kinds.
//! - Wakes lie in the order in which they are due, tasks in the order in which they are handed out, visibility rows newest
//!   first: open runs, then by close time. Each is read by an ascending scan from the front.
//!
//! Encodings keep the order of what they encode. Integers are big-endian, signed ones with the sign bit flipped, `~` with all bits
//! inverted (descending). Strings marked `esc` have 00 escaped as `00 ff` and end with `00 01`, so that no string is a prefix of another and
//! a shorter one sorts first. Times are nanoseconds since the Unix epoch.
//!
//! The layout is for ever: rows are on disks. Golden bytes guard it (`tests/golden/keys.txt`).

mod entity;
mod journal;
mod meta;
mod order;
mod outbox;
mod slot;
mod task;
mod visibility;
mod wake;

pub use entity::{EntityKey, RunKey, decode_entity_place, decode_entity_row, decode_run_row, place_range, slot_range};
pub use journal::JournalKey;
pub use meta::{MetaKind, decode_partition_row, meta_range, meta_row, partition_row, partition_rows};
pub use outbox::OutboxKey;
pub use slot::{ENTITY_KINDS, Place, SLOTS, slot, stable_hash};
pub use task::{TaskQueueKey, all_tasks, decode_task};
pub use visibility::{visibility_range, visibility_row};
pub use wake::WakeKey;

use std::ops::Range;

use bytes::Bytes;

/// A namespace id, as its 16 bytes.
pub type NamespaceId = [u8; 16];

/// A run id, as its 16 bytes. All zeros is no run.
pub type RunId = [u8; 16];

/// A half-open range of keys, as [`crate::state::StateEngine::scan`] takes it.
pub type KeyRange = Range<Bytes>;

/// The first byte of a key.
mod table {
    pub(super) const ENTITY: u8 = 1;
    pub(super) const WAKE: u8 = 2;
    pub(super) const TASK: u8 = 3;
    pub(super) const VISIBILITY: u8 = 4;
    pub(super) const OUTBOX: u8 = 5;
    pub(super) const META: u8 = 6;
    pub(super) const PARTITION: u8 = 7;
    pub(super) const JOURNAL: u8 = 8;
}

/// A key that is not of the kind that it was taken for: corruption, or a row written by a later version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a {expected} key: {key}")]
pub struct KeyError {
    expected: &'static str,
    key: String,
}

impl KeyError {
    fn new(expected: &'static str, key: &[u8]) -> KeyError {
        KeyError { expected, key: key.iter().map(|byte| format!("{byte:02x}")).collect() }
    }
}

/// The range of all keys that begin with `prefix`.
pub fn prefix_range(prefix: &[u8]) -> KeyRange {
    Bytes::copy_from_slice(prefix)..prefix_successor(prefix)
}

/// The first key beyond all keys that begin with `prefix`.
///
/// A prefix of nothing but FF has none; the answer is then the end of the tables, `ff`, since no row begins with that byte.
pub fn prefix_successor(prefix: &[u8]) -> Bytes {
    let kept = prefix.iter().rposition(|byte| *byte != 0xff);
    let Some(last) = kept else {
        return Bytes::from_static(&[0xff]);
    };
    let mut successor = prefix[..=last].to_vec();
    successor[last] += 1;
    Bytes::from(successor)
}

/// The first key after `key`: where a scan goes on whose last row was `key`.
pub fn after(key: &[u8]) -> Bytes {
    Bytes::from([key, &[0]].concat())
}
