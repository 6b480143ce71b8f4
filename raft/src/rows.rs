//! The rows of one proposal, encoded once: the same bytes go through openraft, the entry cache, the log and the wire.
//!
//! Term and index of an entry are known only when openraft appends it, after its rows were encoded. So rows are encoded behind
//! some room, and the entry's header is put in there when it is known:
//!
//! ```text
//!   proposed   room ........ | rows
//!   appended       header    | rows          the entry's final bytes; nothing was moved
//! ```

use std::fmt;

use bytes::{Buf, Bytes, BytesMut};
use everlog_storage::state::RowBatch;

use crate::chain::EntryStamp;

/// Room for the longest header of an entry; see [`encoding`](crate::encoding).
pub(crate) const HEADER_ROOM: usize = 56;

/// The encoded [`RowBatch`] of a proposal and what it says about itself. Copies share the bytes.
#[derive(Clone)]
pub(crate) struct EncodedRows {
    pub(crate) stamp: EntryStamp,
    /// What is in front of the rows: room, or the entry's header.
    front: usize,
    bytes: Bytes,
}

impl EncodedRows {
    /// Encodes a batch whose encoded length is known to be `encoded_len`.
    pub(crate) fn encode(stamp: EntryStamp, batch: &RowBatch, encoded_len: usize) -> EncodedRows {
        let mut bytes = BytesMut::with_capacity(HEADER_ROOM + encoded_len);
        bytes.resize(HEADER_ROOM, 0);
        batch.encode_to(&mut bytes);
        debug_assert_eq!(bytes.len(), HEADER_ROOM + encoded_len, "otherwise the bytes are moved to fit");
        EncodedRows { stamp, front: HEADER_ROOM, bytes: bytes.freeze() }
    }

    /// The rows of an entry, with its first `header` bytes in front of them.
    pub(crate) fn of_entry(stamp: EntryStamp, header: usize, entry: Bytes) -> EncodedRows {
        EncodedRows { stamp, front: header, bytes: entry }
    }

    /// The bytes of the batch alone.
    pub(crate) fn rows(&self) -> Bytes {
        self.bytes.slice(self.front..)
    }

    /// Length of the batch in bytes.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() - self.front
    }

    /// The same rows behind `header`, and all of it. Nothing is moved if nobody shares the bytes, or if the header is there.
    pub(crate) fn with_header(self, header: &[u8]) -> (EncodedRows, Bytes) {
        let EncodedRows { stamp, front, bytes } = self;
        let entry = if bytes[..front] == *header {
            bytes
        } else {
            match bytes.try_into_mut() {
                Ok(mut bytes) if header.len() <= front => {
                    bytes[front - header.len()..front].copy_from_slice(header);
                    let mut entry = bytes.freeze();
                    entry.advance(front - header.len());
                    entry
                }
                Ok(bytes) => Bytes::from([header, &bytes[front..]].concat()),
                Err(bytes) => Bytes::from([header, &bytes[front..]].concat()),
            }
        };
        (EncodedRows { stamp, front: header.len(), bytes: entry.clone() }, entry)
    }
}

/// What is in front of the rows is not part of what they are.
impl PartialEq for EncodedRows {
    fn eq(&self, other: &EncodedRows) -> bool {
        self.stamp == other.stamp && self.bytes[self.front..] == other.bytes[other.front..]
    }
}

impl Eq for EncodedRows {}

impl fmt::Debug for EncodedRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for EncodedRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rows({}, {} bytes)", self.stamp.chain, self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch() -> RowBatch {
        let mut batch = RowBatch::new();
        batch.put(&b"key"[..], &b"value"[..]);
        batch
    }

    fn encoded() -> EncodedRows {
        EncodedRows::encode(EntryStamp::default(), &batch(), batch().encoded_len())
    }

    #[test]
    fn a_header_is_put_in_place() {
        let rows = encoded();
        let place = rows.rows().as_ptr();
        let (rows, entry) = rows.with_header(b"header");
        assert_eq!(entry, [&b"header"[..], &batch().encode()].concat());
        assert_eq!(rows.rows().as_ptr(), place, "nothing was moved");
        assert_eq!(entry.as_ptr(), place.wrapping_sub(6), "the entry is where the rows are");

        // Received from a leader, or read from the log: the header is there already, and the bytes may be shared.
        let shared = entry.clone();
        let (_, again) = EncodedRows::of_entry(rows.stamp, 6, entry).with_header(b"header");
        assert_eq!(again.as_ptr(), shared.as_ptr());
    }

    #[test]
    fn whoever_shares_the_bytes_does_not_see_another_header() {
        let (first, entry) = encoded().with_header(b"one");
        let (second, other) = first.clone().with_header(b"two");
        assert_eq!((&entry[..3], &other[..3]), (&b"one"[..], &b"two"[..]));
        assert_eq!(first, second);
        assert_eq!(second.rows(), batch().encode());

        let (long, entry) = encoded().with_header(&[7; HEADER_ROOM + 1]);
        assert_eq!((long.rows(), entry.len()), (batch().encode(), HEADER_ROOM + 1 + batch().encoded_len()));
    }
}
