//! Slots of a namespace that move from one partition to another: what each of the two has in rows about it.
//!
//! A *step* takes a few slots from one partition to another. Both have a row about it under its id, and what the rows say of a slot is
//! what counts, whatever tables of slots say elsewhere:
//!
//! ```text
//!   source   (no row) ──freeze──▶ Frozen ──release──▶ Gone ──its rows are deleted──▶ Gone, clean ──forget──▶ (no row)
//!                                   └──unfreeze, once the target has refused──▶ (no row)
//!   target   (no row) ──begin──▶ Importing ──activate──▶ Owned ──forget──▶ (no row)
//!                                   └──refuse──▶ Refused ──its rows are deleted──▶ Refused, clean ──forget──▶ (no row)
//! ```
//!
//! The entry that writes Owned decides: until then anybody may give the step up, and from then on nobody can. A slot may come back with a
//! later step; the step with the highest id that names a slot says what holds of it. Ids are never given out twice, those of a namespace
//! ascend, and a partition remembers the last one of each namespace that it was told to forget: an order that comes late does nothing.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use everlog_kernel::NamespaceId;
use everlog_storage::GroupId;
use everlog_storage::keys::{self, KeyRange};
use everlog_storage::state::{Row, RowChange};
use prost::Message;

use crate::SlotSet;

/// Names a step. Later steps of a namespace have greater ones, and no two steps have the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StepId(pub u64);

impl fmt::Display for StepId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Its id.
    pub id: StepId,
    /// Whose slots.
    pub namespace_id: NamespaceId,
    /// Which slots.
    pub slots: SlotSet,
    /// The partition that has them.
    pub from: GroupId,
    /// The partition that gets them.
    pub to: GroupId,
}

impl Step {
    /// Whether it takes a slot of a namespace with it.
    pub fn has(&self, namespace_id: NamespaceId, slot: u16) -> bool {
        self.namespace_id == namespace_id && self.slots.contains(slot)
    }

    fn meets(&self, other: &Step) -> bool {
        self.namespace_id == other.namespace_id && self.slots.intersects(&other.slots)
    }
}

/// How far a step has come in a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepState {
    /// Of the source: nothing changes any more in its slots.
    Frozen,
    /// Of the source: the slots are the target's.
    Gone {
        /// Whether their rows are deleted.
        is_clean: bool,
    },
    /// Of the target: rows come in.
    Importing {
        /// Whether all have.
        is_complete: bool,
    },
    /// Of the target: it has the slots.
    Owned,
    /// Of the target: it will never have the slots by this step.
    Refused {
        /// Whether the rows that had come are deleted.
        is_clean: bool,
    },
}

impl StepState {
    /// Whether the partition has the slots and serves them.
    pub fn is_open(self) -> bool {
        self == StepState::Owned
    }

    /// Whether rows are to be deleted.
    pub fn is_to_be_cleaned(self) -> bool {
        matches!(self, StepState::Gone { is_clean: false } | StepState::Refused { is_clean: false })
    }

    /// Whether nothing will happen to it any more but that it is forgotten.
    pub fn is_over(self) -> bool {
        match self {
            StepState::Frozen | StepState::Importing { .. } => false,
            StepState::Owned => true,
            StepState::Gone { is_clean } | StepState::Refused { is_clean } => is_clean,
        }
    }

    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            StepState::Frozen => "frozen",
            StepState::Gone { .. } => "gone",
            StepState::Importing { .. } => "importing",
            StepState::Owned => "owned",
            StepState::Refused { .. } => "refused",
        }
    }
}

/// What a partition's row says of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepRecord {
    /// The step.
    pub step: Step,
    /// How far it has come.
    pub state: StepState,
}

/// The names of the rows of steps, and of those that say which steps of a namespace are over.
const STEP: &str = "move/";
const FORGOTTEN: &str = "moved/";

/// The value of the row of a step. For ever: rows are on disks.
#[derive(Clone, PartialEq, Message)]
struct StepRow {
    #[prost(uint32, tag = "1")]
    state: u32,
    #[prost(bytes = "bytes", tag = "2")]
    namespace_id: Bytes,
    #[prost(bytes = "bytes", tag = "3")]
    slots: Bytes,
    #[prost(uint32, tag = "4")]
    from: u32,
    #[prost(uint32, tag = "5")]
    to: u32,
    /// All rows have come, or are deleted.
    #[prost(bool, tag = "6")]
    is_done: bool,
}

/// The value of the row of a namespace whose steps are over.
#[derive(Clone, PartialEq, Message)]
struct ForgottenRow {
    #[prost(uint64, tag = "1")]
    step: u64,
}

impl StepRecord {
    /// Its row.
    pub fn to_row(&self) -> (Bytes, Bytes) {
        let (state, is_done) = match self.state {
            StepState::Frozen => (1, false),
            StepState::Gone { is_clean } => (2, is_clean),
            StepState::Importing { is_complete } => (3, is_complete),
            StepState::Owned => (4, false),
            StepState::Refused { is_clean } => (5, is_clean),
        };
        let row = StepRow {
            state,
            namespace_id: Bytes::copy_from_slice(&self.step.namespace_id.0),
            slots: self.step.slots.encode().into(),
            from: self.step.from.0,
            to: self.step.to.0,
            is_done,
        };
        (step_key(self.step.id), row.encode_to_vec().into())
    }

    fn from_row(id: StepId, value: &[u8]) -> Option<StepRecord> {
        let row = StepRow::decode(value).ok()?;
        let state = match row.state {
            1 => StepState::Frozen,
            2 => StepState::Gone { is_clean: row.is_done },
            3 => StepState::Importing { is_complete: row.is_done },
            4 => StepState::Owned,
            5 => StepState::Refused { is_clean: row.is_done },
            _ => return None,
        };
        let step = Step {
            id,
            namespace_id: NamespaceId(row.namespace_id[..].try_into().ok()?),
            slots: SlotSet::decode(&row.slots)?,
            from: GroupId(row.from),
            to: GroupId(row.to),
        };
        Some(StepRecord { step, state })
    }
}

fn step_key(id: StepId) -> Bytes {
    keys::partition_row(&format!("{STEP}{:016x}", id.0))
}

fn forgotten_row(namespace_id: NamespaceId, id: StepId) -> (Bytes, Bytes) {
    let key = keys::partition_row(&format!("{FORGOTTEN}{:032x}", u128::from(namespace_id)));
    (key, ForgottenRow { step: id.0 }.encode_to_vec().into())
}

/// What a partition has in rows about moves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Moves {
    steps: BTreeMap<StepId, StepRecord>,
    /// The last step of each namespace that is over and forgotten.
    forgotten: BTreeMap<NamespaceId, StepId>,
}

impl Moves {
    /// Where its rows are.
    pub fn ranges() -> [KeyRange; 2] {
        [keys::partition_rows(STEP), keys::partition_rows(FORGOTTEN)]
    }

    /// Reads the rows that `scan` finds in a range.
    ///
    /// # Errors
    ///
    /// Says that they cannot be read, or which of them.
    pub fn read<E: fmt::Display>(scan: impl Fn(KeyRange) -> Result<Vec<Row>, E>) -> Result<Moves, String> {
        let mut moves = Moves::default();
        for row in Moves::ranges().map(scan) {
            for (key, value) in row.map_err(|error| error.to_string())? {
                moves.add(&key, &value).ok_or_else(|| format!("a row about a move cannot be read: {key:?}"))?;
            }
        }
        Ok(moves)
    }

    fn add(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        let name = keys::decode_partition_row(key).ok()?;
        if let Some(id) = name.strip_prefix(STEP) {
            let id = StepId(u64::from_str_radix(id, 16).ok()?);
            self.steps.insert(id, StepRecord::from_row(id, value)?);
            return Some(());
        }
        let namespace_id = u128::from_str_radix(name.strip_prefix(FORGOTTEN)?, 16).ok()?;
        let row = ForgottenRow::decode(value).ok()?;
        self.forgotten.insert(NamespaceId::from(namespace_id), StepId(row.step));
        Some(())
    }

    /// Whether it has nothing of any step.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// A step.
    pub fn get(&self, id: StepId) -> Option<&StepRecord> {
        self.steps.get(&id)
    }

    /// All steps, by id.
    pub fn iter(&self) -> impl Iterator<Item = &StepRecord> {
        self.steps.values()
    }

    /// Another step that has a slot of this one and is not over: only one at a time may do something to a slot.
    pub fn hinders(&self, step: &Step) -> Option<&StepRecord> {
        self.steps
            .values()
            .find(|record| record.step.id != step.id && record.step.meets(step) && !record.state.is_over())
    }

    /// Whether a step is over here, or must not begin: it was forgotten.
    pub fn is_forgotten(&self, step: &Step) -> bool {
        self.forgotten.get(&step.namespace_id).is_some_and(|last| step.id <= *last)
    }

    /// What holds of a slot of a namespace: what the last step says that has it. `None` if none has it, and tables of slots are right.
    pub fn state_of(&self, namespace_id: NamespaceId, slot: u16) -> Option<StepState> {
        self.last_with(namespace_id, slot).map(|record| record.state)
    }

    /// The last step that has a slot.
    pub fn last_with(&self, namespace_id: NamespaceId, slot: u16) -> Option<&StepRecord> {
        // Mostly there is nothing, at any time very few.
        self.steps.values().rev().find(|record| record.step.has(namespace_id, slot))
    }

    /// Whether the partition does nothing for a slot: its step is under way, or the slot is not here.
    pub fn is_closed(&self, namespace_id: NamespaceId, slot: u16) -> bool {
        self.state_of(namespace_id, slot).is_some_and(|state| !state.is_open())
    }

    /// Puts a step where it has come to. Returns the changes of rows.
    pub fn put(&mut self, step: Step, state: StepState) -> Vec<RowChange> {
        let record = StepRecord { step, state };
        let (key, value) = record.to_row();
        let id = record.step.id;
        let mut changes = vec![RowChange::Put { key, value }];
        if state == StepState::Owned {
            changes.extend(self.outdate(&record.step));
        }
        self.steps.insert(id, record);
        changes
    }

    /// What older steps say of the slots of this one is over, lest it counts again when this one is forgotten.
    fn outdate(&mut self, step: &Step) -> Vec<RowChange> {
        let mut changes = Vec::new();
        for record in self.steps.values_mut().filter(|record| record.step.id < step.id && record.step.meets(step)) {
            record.step.slots = record.step.slots.difference(&step.slots);
            let (key, value) = record.to_row();
            if record.step.slots.is_empty() {
                changes.push(RowChange::Delete { key });
            } else {
                changes.push(RowChange::Put { key, value });
            }
        }
        self.steps.retain(|_, record| !record.step.slots.is_empty());
        changes
    }

    /// Forgets a step for good. Returns the changes of rows.
    pub fn forget(&mut self, step: &Step) -> Vec<RowChange> {
        let mut changes = Vec::new();
        if self.steps.remove(&step.id).is_some() {
            changes.push(RowChange::Delete { key: step_key(step.id) });
        }
        if !self.is_forgotten(step) {
            self.forgotten.insert(step.namespace_id, step.id);
            let (key, value) = forgotten_row(step.namespace_id, step.id);
            changes.push(RowChange::Put { key, value });
        }
        changes
    }

    /// Whether a list or a count of a namespace may be made from the rows that these were read with, by a caller that looks for the slots
    /// `here` in this partition, and for all others elsewhere.
    ///
    /// # Errors
    ///
    /// The caller's table is behind, or ahead: it is to look again.
    pub fn check_asker(&self, namespace_id: NamespaceId, here: &SlotSet) -> Result<(), AskerIsBehind> {
        let steps = self.steps.values().filter(|record| record.step.namespace_id == namespace_id);
        let concerned = steps.flat_map(|record| record.step.slots.intersection(here).iter().collect::<Vec<_>>());
        let mut closed = concerned.into_iter().filter(|slot| self.is_closed(namespace_id, *slot));
        match closed.next() {
            Some(slot) => Err(AskerIsBehind { slot }),
            None => Ok(()),
        }
    }

    /// Whether a list or a count by such a caller may have to leave rows out: there are rows of slots that it looks for elsewhere. Those are the
    /// rows whose slots are not in `here`.
    pub fn hides(&self, namespace_id: NamespaceId, here: &SlotSet) -> bool {
        let mut steps = self.steps.values().filter(|record| record.step.namespace_id == namespace_id);
        steps.any(|record| !record.step.slots.difference(here).is_empty())
    }
}

/// Whoever asks a partition for what it has believes something else of its slots than the partition knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("slot {slot} of the namespace is on its way from one partition to another")]
pub struct AskerIsBehind {
    /// One of the slots.
    pub slot: u16,
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMESPACE: NamespaceId = NamespaceId([0xab; 16]);

    fn step(id: u64, slots: impl IntoIterator<Item = u16>) -> Step {
        let slots = SlotSet::from_iter(slots);
        Step { id: StepId(id), namespace_id: NAMESPACE, slots, from: GroupId(3), to: GroupId(300) }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Rows as changes leave them.
    fn apply(rows: &mut BTreeMap<Bytes, Bytes>, changes: Vec<RowChange>) {
        for change in changes {
            match change {
                RowChange::Put { key, value } => drop(rows.insert(key, value)),
                RowChange::Delete { key } => drop(rows.remove(&key)),
                RowChange::DeleteRange { .. } => panic!("no ranges"),
            }
        }
    }

    fn read(rows: &BTreeMap<Bytes, Bytes>) -> Moves {
        let scan = |range: KeyRange| Ok::<_, String>(rows.range(range).map(|(k, v)| (k.clone(), v.clone())).collect());
        Moves::read(scan).unwrap()
    }

    #[test]
    fn rows_are_what_they_always_were() {
        let states = [
            (StepState::Frozen, "0801"),
            (StepState::Gone { is_clean: false }, "0802"),
            (StepState::Gone { is_clean: true }, "0802"),
            (StepState::Importing { is_complete: false }, "0803"),
            (StepState::Importing { is_complete: true }, "0803"),
            (StepState::Owned, "0804"),
            (StepState::Refused { is_clean: false }, "0805"),
            (StepState::Refused { is_clean: true }, "0805"),
        ];
        for (state, begin) in states {
            let (key, value) = StepRecord { step: step(0x1f, [1, 2]), state }.to_row();
            assert_eq!(hex(&key), "076d6f76652f30303030303030303030303030303166");
            let is_done = matches!(
                state,
                StepState::Gone { is_clean: true }
                    | StepState::Importing { is_complete: true }
                    | StepState::Refused { is_clean: true }
            );
            let done = if is_done { "3001" } else { "" };
            let namespace = "ab".repeat(16);
            assert_eq!(hex(&value), format!("{begin}1210{namespace}1a03010102200328ac02{done}"));
        }
        let (key, value) = forgotten_row(NAMESPACE, StepId(300));
        assert_eq!(hex(&key), format!("076d6f7665642f{}", "6162".repeat(16)));
        assert_eq!(hex(&value), "08ac02");
    }

    #[test]
    fn rows_are_read_as_they_were_written() {
        let (mut moves, mut rows) = (Moves::default(), BTreeMap::new());
        apply(&mut rows, moves.put(step(1, [1]), StepState::Frozen));
        apply(&mut rows, moves.put(step(2, [2]), StepState::Importing { is_complete: true }));
        apply(&mut rows, moves.put(step(3, [3]), StepState::Refused { is_clean: false }));
        assert_eq!(read(&rows), moves);
        apply(&mut rows, moves.forget(&step(3, [3])));
        assert_eq!(read(&rows), moves);
        assert_eq!(rows.len(), 3, "two steps, and that the third one is over");
        rows.insert(step_key(StepId(9)), Bytes::from_static(b"\x08\x09"));
        let scan = |range: KeyRange| Ok::<_, String>(rows.range(range).map(|(k, v)| (k.clone(), v.clone())).collect());
        assert!(Moves::read(scan).unwrap_err().starts_with("a row about a move cannot be read"));
    }

    #[test]
    fn the_last_step_says_what_holds_and_nothing_of_older_ones_comes_back() {
        let (mut moves, mut rows) = (Moves::default(), BTreeMap::new());
        apply(&mut rows, moves.put(step(1, [1, 2]), StepState::Gone { is_clean: true }));
        assert!(moves.is_closed(NAMESPACE, 1) && !moves.is_closed(NAMESPACE, 3));
        assert!(!moves.is_closed(NamespaceId([1; 16]), 1), "that of another namespace");
        apply(&mut rows, moves.put(step(5, [1]), StepState::Importing { is_complete: false }));
        assert_eq!(moves.state_of(NAMESPACE, 1), Some(StepState::Importing { is_complete: false }));
        apply(&mut rows, moves.put(step(5, [1]), StepState::Owned));
        assert!(!moves.is_closed(NAMESPACE, 1) && moves.is_closed(NAMESPACE, 2));
        apply(&mut rows, moves.forget(&step(5, [1])));
        assert!(!moves.is_closed(NAMESPACE, 1) && moves.is_closed(NAMESPACE, 2));
        assert_eq!(read(&rows), moves);
        apply(&mut rows, moves.put(step(6, [2]), StepState::Owned));
        assert_eq!(moves.iter().count(), 1, "nothing is left of the first one");
        assert_eq!(read(&rows), moves);
    }

    #[test]
    fn a_slot_has_one_step_at_a_time_and_what_is_forgotten_does_not_begin_again() {
        let mut moves = Moves::default();
        moves.put(step(1, [1, 2]), StepState::Gone { is_clean: false });
        assert!(moves.hinders(&step(2, [2])).is_some() && moves.hinders(&step(2, [3])).is_none());
        assert!(moves.hinders(&step(1, [1, 2])).is_none(), "it does not hinder itself");
        moves.put(step(1, [1, 2]), StepState::Gone { is_clean: true });
        assert!(moves.hinders(&step(2, [2])).is_none());
        moves.forget(&step(3, [3]));
        assert!([1, 2, 3].map(|id| moves.is_forgotten(&step(id, []))).into_iter().all(|forgotten| forgotten));
        assert!(!moves.is_forgotten(&step(4, [])));
        assert!(moves.forget(&step(2, [])).is_empty(), "that was known");
    }

    #[test]
    fn askers_look_where_slots_are() {
        let set = |slots: &[u16]| SlotSet::from_iter(slots.iter().copied());
        let mut source = Moves::default();
        assert_eq!(source.check_asker(NAMESPACE, &SlotSet::all()), Ok(()));
        assert!(!source.hides(NAMESPACE, &SlotSet::all()));
        source.put(step(1, [7]), StepState::Frozen);
        assert_eq!(source.check_asker(NAMESPACE, &SlotSet::all()), Err(AskerIsBehind { slot: 7 }));
        assert_eq!(source.check_asker(NamespaceId::default(), &SlotSet::all()), Ok(()));
        let without = SlotSet::all().difference(&set(&[7]));
        assert_eq!(source.check_asker(NAMESPACE, &without), Ok(()));
        assert!(source.hides(NAMESPACE, &without) && !source.hides(NAMESPACE, &SlotSet::all()));

        let mut target = Moves::default();
        target.put(step(1, [7]), StepState::Importing { is_complete: true });
        assert_eq!(target.check_asker(NAMESPACE, &set(&[7])), Err(AskerIsBehind { slot: 7 }));
        assert!(target.check_asker(NAMESPACE, &set(&[])).is_ok() && target.hides(NAMESPACE, &set(&[])));
        target.put(step(1, [7]), StepState::Owned);
        assert_eq!(target.check_asker(NAMESPACE, &set(&[7])), Ok(()));
        assert!(target.hides(NAMESPACE, &set(&[])), "the caller finds it at the source, which says that it is gone");
    }
}
