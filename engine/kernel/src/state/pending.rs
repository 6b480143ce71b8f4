//! What a run waits for, kind by kind: activities, timers, events that wait, request ids that were seen.
//!
//! Each kind is a map of its own, and each value a row of its own, so that a wide workflow costs no more a step than a narrow
//! one. A [`Pending`] remembers which of its values were touched since the rows were last written, finds values by the name that
//! the workflow gave them, and counts their bytes. [`crate::txn::Txn::finish`] asks for the rows.
//!
//! To add a kind (updates, ...):
//!
//! 1. a line in the table of [`crate::rows::RunRowKind`]: byte, name in scripts, form of the suffix;
//! 2. a type that implements [`PendingValue`];
//! 3. a field of [`super::Run`], named once more in `pending_kinds!` below it.
//!
//! Storage, loading, memory accounting, the wiping of closed runs and the printer of the scripts follow from these.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use bytes::Bytes;
use everlog_proto::api::history::v1::HistoryEvent;

use super::CorruptRow;
use crate::RunId;
use crate::rows::{RowKey, RunRow, RunRowKind, Suffix, SuffixKey};

/// Rough size of an entry of a map without what its key and value own, bytes.
const ENTRY_BYTES: usize = 64;

/// A kind of thing that a run waits for.
pub trait PendingValue: Clone + Debug + PartialEq {
    /// What tells one from another: the suffix of its row's key.
    type Key: SuffixKey;
    /// The kind of its row.
    const KIND: RunRowKind;

    /// The name by which the workflow knows it, if it gives names. Unique among those that are pending.
    fn name(&self) -> Option<&str> {
        None
    }

    /// The value of its row.
    fn to_row(&self) -> Bytes;

    /// From the value of its row.
    ///
    /// # Errors
    ///
    /// [`CorruptRow`] if the value is none of this kind.
    fn from_row(key: &Self::Key, row: Bytes) -> Result<Self, CorruptRow>;

    /// Rough size in memory, bytes, without its key.
    fn memory_bytes(&self) -> usize;
}

/// The pending values of one kind. Empty, it takes a pointer; a clone shares everything until one of the two changes.
#[derive(Clone, Debug)]
pub struct Pending<V: PendingValue>(Option<Arc<Values<V>>>);

#[derive(Clone, Debug)]
struct Values<V: PendingValue> {
    entries: BTreeMap<V::Key, Entry<V>>,
    /// Derived: keys by name.
    names: BTreeMap<Box<str>, V::Key>,
    /// Derived: what the entries take, bytes.
    bytes: usize,
    /// What was touched since the rows were written.
    touched: BTreeMap<V::Key, Touched<V>>,
}

#[derive(Clone, Debug)]
struct Entry<V> {
    value: V,
    bytes: usize,
}

/// What has happened to a value since the rows were written.
#[derive(Clone, Debug)]
pub(crate) struct Touched<V> {
    /// Whether there is a row of it.
    pub(crate) has_row: bool,
    /// Whether its bytes are to be counted anew.
    is_uncounted: bool,
    /// The value as it was when it was removed; `None` if it is there.
    pub(crate) removed: Option<V>,
}

impl<V> Touched<V> {
    /// A value that was there when the rows were written.
    const WITH_ROW: Touched<V> = Touched { has_row: true, is_uncounted: false, removed: None };
}

impl<V: PendingValue> Default for Pending<V> {
    fn default() -> Pending<V> {
        Pending(None)
    }
}

impl<V: PendingValue> Default for Values<V> {
    fn default() -> Values<V> {
        Values { entries: BTreeMap::new(), names: BTreeMap::new(), bytes: 0, touched: BTreeMap::new() }
    }
}

/// The same values are pending, whatever has been written of them.
impl<V: PendingValue> PartialEq for Pending<V> {
    fn eq(&self, other: &Pending<V>) -> bool {
        self.iter().eq(other.iter())
    }
}

impl<V: PendingValue> Pending<V> {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |values| values.entries.len())
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All, in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&V::Key, &V)> {
        self.0.iter().flat_map(|values| values.entries.iter().map(|(key, entry)| (key, &entry.value)))
    }

    /// All values, in the order of their keys.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }

    /// All keys, in order.
    pub fn keys(&self) -> impl Iterator<Item = &V::Key> {
        self.iter().map(|(key, _)| key)
    }

    /// The value under `key`.
    pub fn get(&self, key: &V::Key) -> Option<&V> {
        self.0.as_ref()?.entries.get(key).map(|entry| &entry.value)
    }

    /// Whether there is a value under `key`.
    pub fn contains<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        V::Key: Borrow<Q>,
    {
        self.0.as_ref().is_some_and(|values| values.entries.contains_key(key))
    }

    /// The key of the value with this name.
    pub fn by_name(&self, name: &str) -> Option<&V::Key> {
        self.0.as_ref()?.names.get(name)
    }

    /// Rough size in memory, bytes.
    pub fn memory_bytes(&self) -> usize {
        self.0.as_ref().map_or(0, |values| size_of::<Values<V>>() + values.bytes)
    }

    fn values_mut(&mut self) -> Option<&mut Values<V>> {
        self.0.as_mut().map(Arc::make_mut)
    }

    /// Puts a value in that gets a row.
    pub(crate) fn insert(&mut self, key: V::Key, value: V) {
        let values = Arc::make_mut(self.0.get_or_insert_default());
        let has_row = values.insert(key.clone(), value);
        let touched = Touched { has_row, is_uncounted: false, removed: None };
        values.touched.entry(key).or_insert(touched).removed = None;
    }

    /// Puts a value in that was read from its row.
    fn load(&mut self, key: V::Key, value: V) {
        Arc::make_mut(self.0.get_or_insert_default()).insert(key, value);
    }

    /// A value, to be changed and written. Its name must stay.
    pub(crate) fn get_mut(&mut self, key: &V::Key) -> Option<&mut V> {
        let values = self.values_mut()?;
        let entry = values.entries.get_mut(key)?;
        values.touched.entry(key.clone()).or_insert(Touched::WITH_ROW).is_uncounted = true;
        Some(&mut entry.value)
    }

    /// A value, to be changed in memory alone for now. Its name must stay.
    pub(crate) fn get_mut_unsaved(&mut self, key: &V::Key) -> Option<&mut V> {
        let values = self.values_mut()?;
        if let Some(touched) = values.touched.get_mut(key) {
            touched.is_uncounted = true;
        }
        values.entries.get_mut(key).map(|entry| &mut entry.value)
    }

    /// Has the row of a value written, if the value is there.
    pub(crate) fn touch(&mut self, key: &V::Key) {
        let _ = self.get_mut(key);
    }

    /// Takes a value out, and its row with it. Returns whether it was there.
    pub(crate) fn remove(&mut self, key: &V::Key) -> bool {
        if !self.contains(key) {
            return false;
        }
        let Some(values) = self.values_mut() else { return false };
        let Some(entry) = values.entries.remove(key) else { return false };
        values.bytes = values.bytes.saturating_sub(entry.bytes);
        if let Some(name) = entry.value.name() {
            values.names.remove(name);
        }
        values.touched.entry(key.clone()).or_insert(Touched::WITH_ROW).removed = Some(entry.value);
        true
    }

    /// Takes out all values for which `is_over` holds, and their rows with them.
    pub(crate) fn remove_all(&mut self, is_over: impl Fn(&V) -> bool) {
        let keys: Vec<_> = self.iter().filter(|(_, value)| is_over(value)).map(|(key, _)| key.clone()).collect();
        for key in keys {
            self.remove(&key);
        }
    }

    /// What was touched since this was last asked for. Has the new sizes counted.
    pub(crate) fn take_touched(&mut self) -> BTreeMap<V::Key, Touched<V>> {
        let Some(shared) = &self.0 else { return BTreeMap::new() };
        if shared.touched.is_empty() {
            return BTreeMap::new();
        }
        let Some(values) = self.values_mut() else { return BTreeMap::new() };
        let touched = std::mem::take(&mut values.touched);
        for (key, touched) in &touched {
            values.counted(key, touched);
        }
        if values.entries.is_empty() {
            self.0 = None;
        }
        touched
    }

    /// The key of the row of a value of run `run_id`.
    pub(crate) fn row_key(run_id: RunId, key: V::Key) -> RowKey {
        RowKey::Run(run_id, RunRow { kind: V::KIND, suffix: key.into_suffix() })
    }
}

impl Pending<Arc<HistoryEvent>> {
    /// Takes all events out, in the order in which they came.
    pub(crate) fn take_all(&mut self) -> Vec<Arc<HistoryEvent>> {
        let Some(values) = self.values_mut() else { return Vec::new() };
        values.bytes = 0;
        let touched = &mut values.touched;
        let entries = std::mem::take(&mut values.entries).into_iter();
        let taken = entries.map(|(sequence, entry)| {
            touched.entry(sequence).or_insert(Touched::WITH_ROW);
            entry.value
        });
        taken.collect()
    }
}

impl<V: PendingValue> Values<V> {
    /// Puts a value in; returns whether there was one under its key.
    fn insert(&mut self, key: V::Key, value: V) -> bool {
        if let Some(name) = value.name() {
            self.names.insert(name.into(), key.clone());
        }
        let bytes = size_of_entry(&key, &value);
        let replaced = self.entries.insert(key, Entry { value, bytes });
        self.bytes = self.bytes.saturating_sub(replaced.as_ref().map_or(0, |entry| entry.bytes)) + bytes;
        replaced.is_some()
    }

    /// A value that was touched, if it is still there, with its bytes as they are now.
    fn counted(&mut self, key: &V::Key, touched: &Touched<V>) -> Option<&V> {
        let entry = self.entries.get_mut(key)?;
        if touched.is_uncounted {
            let bytes = size_of_entry(key, &entry.value);
            self.bytes = self.bytes.saturating_sub(entry.bytes) + bytes;
            entry.bytes = bytes;
        }
        Some(&entry.value)
    }
}

fn size_of_entry<V: PendingValue>(key: &V::Key, value: &V) -> usize {
    let name = value.name().map_or(0, |name| ENTRY_BYTES + name.len());
    ENTRY_BYTES + key.heap_bytes() + value.memory_bytes() + name
}

/// A [`Pending`] whatever its kind.
pub(crate) trait PendingRows {
    /// The kind of its rows.
    fn kind(&self) -> RunRowKind;

    /// Puts a value in that was read from its row.
    fn load_row(&mut self, suffix: &Suffix, row: Bytes) -> Result<(), CorruptRow>;

    /// Adds the rows of what was touched since the rows were written.
    fn write_rows(&mut self, run_id: RunId, rows: &mut Vec<(RowKey, Option<Bytes>)>);

    /// Takes everything out.
    fn clear(&mut self);

    /// Rough size in memory, bytes.
    fn size(&self) -> usize;

    /// Whether something was touched since the rows were written.
    fn is_touched(&self) -> bool;
}

impl<V: PendingValue> PendingRows for Pending<V> {
    fn kind(&self) -> RunRowKind {
        V::KIND
    }

    fn load_row(&mut self, suffix: &Suffix, row: Bytes) -> Result<(), CorruptRow> {
        let key = V::Key::from_suffix(suffix)
            .ok_or_else(|| CorruptRow(format!("{suffix:?} as the key of a row of kind {}", V::KIND.name())))?;
        let value = V::from_row(&key, row)?;
        self.load(key, value);
        Ok(())
    }

    fn write_rows(&mut self, run_id: RunId, rows: &mut Vec<(RowKey, Option<Bytes>)>) {
        if !self.is_touched() {
            return;
        }
        let Some(values) = self.values_mut() else { return };
        for (key, touched) in std::mem::take(&mut values.touched) {
            match values.counted(&key, &touched) {
                Some(value) => {
                    let row = value.to_row();
                    rows.push((Self::row_key(run_id, key), Some(row)));
                }
                None if touched.has_row => rows.push((Self::row_key(run_id, key), None)),
                None => {}
            }
        }
        if values.entries.is_empty() {
            self.0 = None;
        }
    }

    fn clear(&mut self) {
        self.remove_all(|_| true);
    }

    fn size(&self) -> usize {
        self.memory_bytes()
    }

    fn is_touched(&self) -> bool {
        self.0.as_ref().is_some_and(|values| !values.touched.is_empty())
    }
}
