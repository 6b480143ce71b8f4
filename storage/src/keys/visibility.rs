//! Keys of the visibility table: the runs of a namespace, newest first.
//!
//! Where a run stands is not known here: a position is any bytes.

use bytes::Bytes;

use super::order::KeyWriter;
use super::{KeyRange, NamespaceId, prefix_range, table};

/// The row of a run at a position.
pub fn visibility_row(namespace: &NamespaceId, position: &[u8]) -> Bytes {
    KeyWriter::new(table::VISIBILITY, 1 + 16 + position.len()).raw(namespace).raw(position).finish()
}

/// All runs of a namespace.
pub fn visibility_range(namespace: &NamespaceId) -> KeyRange {
    let prefix = visibility_row(namespace, &[]);
    prefix_range(&prefix)
}
