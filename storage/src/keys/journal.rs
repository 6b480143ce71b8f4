//! Keys of the journal: what was done lately for calls that have no id of their own, by when it was done.

use bytes::Bytes;

use super::order::{KeyReader, KeyWriter};
use super::{KeyError, KeyRange, prefix_range, table};

/// The row of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct JournalKey {
    /// The hybrid time of the batch, in nanoseconds since the Unix epoch: each batch of a partition has another.
    pub time_ns: u64,
}

impl JournalKey {
    /// The key.
    pub fn encode(&self) -> Bytes {
        KeyWriter::new(table::JOURNAL, 1 + 8).raw(&self.time_ns.to_be_bytes()).finish()
    }

    /// Reads what [`JournalKey::encode`] wrote.
    pub fn decode(key: &[u8]) -> Result<JournalKey, KeyError> {
        JournalKey::read(key).ok_or_else(|| KeyError::new("journal", key))
    }

    fn read(key: &[u8]) -> Option<JournalKey> {
        let mut reader = KeyReader::new(table::JOURNAL, key)?;
        let journal = JournalKey { time_ns: u64::from_be_bytes(reader.array()?) };
        reader.end(journal)
    }

    /// All rows, oldest first.
    pub fn all() -> KeyRange {
        prefix_range(&[table::JOURNAL])
    }
}
