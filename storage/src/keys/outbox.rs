//! Keys of the outbox: messages that have not arrived, by the slot of their source and the time at which they were sent.

use bytes::Bytes;

use super::order::{KeyReader, KeyWriter};
use super::{KeyError, KeyRange, prefix_range, table};

/// The row of a message. Those of one workflow are in the order in which they were sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OutboxKey {
    /// The slot of the workflow that sends it.
    pub slot: u16,
    /// When, by the partition's clock, in nanoseconds since the Unix epoch.
    pub time_ns: u64,
    /// Tells messages of the same time apart.
    pub number: u16,
}

impl OutboxKey {
    /// The key.
    pub fn encode(&self) -> Bytes {
        KeyWriter::new(table::OUTBOX, 1 + 2 + 8 + 2)
            .raw(&self.slot.to_be_bytes())
            .raw(&self.time_ns.to_be_bytes())
            .raw(&self.number.to_be_bytes())
            .finish()
    }

    /// Reads what [`OutboxKey::encode`] wrote.
    pub fn decode(key: &[u8]) -> Result<OutboxKey, KeyError> {
        OutboxKey::read(key).ok_or_else(|| KeyError::new("outbox", key))
    }

    fn read(key: &[u8]) -> Option<OutboxKey> {
        let mut reader = KeyReader::new(table::OUTBOX, key)?;
        let outbox = OutboxKey {
            slot: u16::from_be_bytes(reader.array()?),
            time_ns: u64::from_be_bytes(reader.array()?),
            number: u16::from_be_bytes(reader.array()?),
        };
        reader.end(outbox)
    }

    /// The messages whose sources are in a slot.
    pub fn of_slot(slot: u16) -> KeyRange {
        prefix_range(&KeyWriter::new(table::OUTBOX, 1 + 2).raw(&slot.to_be_bytes()).finish())
    }

    /// All messages.
    pub fn all() -> KeyRange {
        prefix_range(&[table::OUTBOX])
    }
}
