//! Keys of what belongs to no workflow: the metadata of the cluster, and what a partition knows about itself.

use bytes::Bytes;

use super::order::KeyWriter;
use super::{KeyError, KeyRange, prefix_range, table};

/// The kinds of metadata rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum MetaKind {
    /// A namespace under its id.
    Namespace = 1,
    /// Everything else, under a name that says what it is.
    Other = 3,
}

/// The metadata row of a kind and name. Only the meta group has such rows.
pub fn meta_row(kind: MetaKind, name: &[u8]) -> Bytes {
    KeyWriter::new(table::META, 2 + name.len()).u8(kind as u8).raw(name).finish()
}

/// All metadata rows of a kind, by name.
pub fn meta_range(kind: MetaKind) -> KeyRange {
    prefix_range(&[table::META, kind as u8])
}

/// A row of which each partition has one.
pub fn partition_row(name: &str) -> Bytes {
    KeyWriter::new(table::PARTITION, 1 + name.len()).raw(name.as_bytes()).finish()
}

/// The rows of a partition whose names begin with `prefix`, by name.
pub fn partition_rows(prefix: &str) -> KeyRange {
    prefix_range(&partition_row(prefix))
}

/// The name of such a row.
pub fn decode_partition_row(key: &[u8]) -> Result<&str, KeyError> {
    let name = key.split_first().filter(|(first, _)| **first == table::PARTITION);
    let name = name.and_then(|(_, name)| std::str::from_utf8(name).ok());
    name.ok_or_else(|| KeyError::new("partition", key))
}
