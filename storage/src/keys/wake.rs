//! Keys of the wake table: which run wants to be woken, and when.

use bytes::Bytes;

use super::order::{KeyReader, KeyWriter, string_len};
use super::slot::Place;
use super::{EntityKey, KeyError, KeyRange, NamespaceId, RunId, prefix_range, table};

/// A wake row: at `fire_time_ns` the run has something to do.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WakeKey {
    /// When, in nanoseconds since the Unix epoch.
    pub fire_time_ns: i64,
    /// The entity's slot and kind.
    pub place: Place,
    /// The namespace.
    pub namespace: NamespaceId,
    /// The entity's id.
    pub id: String,
    /// The run.
    pub run_id: RunId,
}

impl WakeKey {
    /// The wake of a run at a time.
    pub fn new(fire_time_ns: i64, entity: &EntityKey<'_>, run_id: RunId) -> WakeKey {
        WakeKey { fire_time_ns, place: entity.place, namespace: entity.namespace, id: entity.id.to_owned(), run_id }
    }

    /// The key.
    pub fn encode(&self) -> Bytes {
        let bytes = 1 + 8 + 2 + 16 + string_len(&self.id) + 16;
        KeyWriter::new(table::WAKE, bytes)
            .i64(self.fire_time_ns)
            .place(self.place)
            .raw(&self.namespace)
            .string(&self.id)
            .raw(&self.run_id)
            .finish()
    }

    /// Reads what [`WakeKey::encode`] wrote.
    pub fn decode(key: &[u8]) -> Result<WakeKey, KeyError> {
        WakeKey::read(key).ok_or_else(|| KeyError::new("wake", key))
    }

    fn read(key: &[u8]) -> Option<WakeKey> {
        let mut reader = KeyReader::new(table::WAKE, key)?;
        let wake = WakeKey {
            fire_time_ns: reader.i64()?,
            place: reader.place()?,
            namespace: reader.array()?,
            id: reader.string()?,
            run_id: reader.array()?,
        };
        reader.end(wake)
    }

    /// All wakes, soonest first.
    pub fn all() -> KeyRange {
        prefix_range(&[table::WAKE])
    }

    /// The wakes due at `fire_time_ns` or earlier.
    pub fn until(fire_time_ns: i64) -> KeyRange {
        let end = match fire_time_ns.checked_add(1) {
            Some(first_later) => KeyWriter::new(table::WAKE, 9).i64(first_later).finish(),
            None => WakeKey::all().end,
        };
        WakeKey::all().start..end
    }

    /// The wakes due at `fire_time_ns` or later.
    pub fn from(fire_time_ns: i64) -> KeyRange {
        KeyWriter::new(table::WAKE, 9).i64(fire_time_ns).finish()..WakeKey::all().end
    }
}
