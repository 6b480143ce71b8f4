//! Keys of the visibility table: the runs of a namespace, newest first.

use bytes::Bytes;

use super::order::{KeyReader, KeyWriter};
use super::{KeyError, KeyRange, NamespaceId, RunId, prefix_range, table};

/// The close time under which open runs lie: later than any, so that they come first.
const OPEN: i64 = i64::MAX;

/// A run as listings see it. It has one row, which moves when the run closes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct VisibilityKey {
    /// The namespace.
    pub namespace: NamespaceId,
    /// When the run closed, in nanoseconds since the Unix epoch; `None` while it is open.
    pub close_time_ns: Option<i64>,
    /// When it started, in nanoseconds since the Unix epoch.
    pub start_time_ns: i64,
    /// The run.
    pub run_id: RunId,
}

impl VisibilityKey {
    /// The key.
    pub fn encode(&self) -> Bytes {
        KeyWriter::new(table::VISIBILITY, 1 + 16 + 8 + 8 + 16)
            .raw(&self.namespace)
            .i64_descending(self.close_time_ns.unwrap_or(OPEN))
            .i64_descending(self.start_time_ns)
            .raw(&self.run_id)
            .finish()
    }

    /// Reads what [`VisibilityKey::encode`] wrote.
    pub fn decode(key: &[u8]) -> Result<VisibilityKey, KeyError> {
        VisibilityKey::read(key).ok_or_else(|| KeyError::new("visibility", key))
    }

    fn read(key: &[u8]) -> Option<VisibilityKey> {
        let mut reader = KeyReader::new(table::VISIBILITY, key)?;
        let visibility = VisibilityKey {
            namespace: reader.array()?,
            close_time_ns: Some(reader.i64_descending()?).filter(|time| *time != OPEN),
            start_time_ns: reader.i64_descending()?,
            run_id: reader.array()?,
        };
        reader.end(visibility)
    }

    /// All runs of a namespace: open ones by start time, then closed ones by close time, newest first.
    pub fn range(namespace: &NamespaceId) -> KeyRange {
        let prefix = KeyWriter::new(table::VISIBILITY, 17).raw(namespace).finish();
        prefix_range(&prefix)
    }

    /// The open runs of a namespace.
    pub fn open(namespace: &NamespaceId) -> KeyRange {
        prefix_range(&close_time_prefix(namespace, OPEN))
    }

    /// The closed runs of a namespace.
    pub fn closed(namespace: &NamespaceId) -> KeyRange {
        VisibilityKey::open(namespace).end..VisibilityKey::range(namespace).end
    }

    /// The runs of a namespace that closed at `close_time_ns` or earlier.
    pub fn closed_until(namespace: &NamespaceId, close_time_ns: i64) -> KeyRange {
        let newest = close_time_ns.min(OPEN - 1);
        close_time_prefix(namespace, newest)..VisibilityKey::range(namespace).end
    }
}

fn close_time_prefix(namespace: &NamespaceId, close_time_ns: i64) -> Bytes {
    KeyWriter::new(table::VISIBILITY, 25).raw(namespace).i64_descending(close_time_ns).finish()
}
