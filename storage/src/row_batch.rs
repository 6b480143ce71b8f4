//! The encoding of [`RowBatch`]: what Raft replicates and what the log stores.
//!
//! ```text
//! batch  := 01 (version) | varint number of changes | change*
//! change := 00 | bytes key   | bytes value      put
//!         | 01 | bytes key                      delete
//!         | 02 | bytes start | bytes end        delete range
//! bytes  := varint length | that many bytes
//! varint := see `varint`
//! ```
//!
//! The encoding is stable: replicas of different versions exchange it, and logs written by one version are replayed by the
//! next. A golden test guards it. A change of layout takes the next version byte, and `decode` keeps the old one.

use bytes::{BufMut, Bytes, BytesMut};

use crate::state::{RowBatch, RowChange, StateError};
use crate::varint::{self, VarintError};

const VERSION: u8 = 1;
const PUT: u8 = 0;
const DELETE: u8 = 1;
const DELETE_RANGE: u8 = 2;
/// The smallest change is a delete of an empty key: tag and length. Bounds what a corrupt count may make us allocate.
const CHANGE_BYTES_MIN: usize = 2;

impl RowBatch {
    /// An empty batch.
    pub fn new() -> RowBatch {
        RowBatch::default()
    }

    /// Whether the batch changes nothing.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Sets a row.
    pub fn put(&mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.changes.push(RowChange::Put { key: key.into(), value: value.into() });
    }

    /// Removes a row, if it is there.
    pub fn delete(&mut self, key: impl Into<Bytes>) {
        self.changes.push(RowChange::Delete { key: key.into() });
    }

    /// Removes the rows in `[start, end)`. An empty range removes nothing.
    pub fn delete_range(&mut self, start: impl Into<Bytes>, end: impl Into<Bytes>) {
        self.changes.push(RowChange::DeleteRange { start: start.into(), end: end.into() });
    }

    /// Size of [`RowBatch::encode`]'s result, in bytes.
    pub fn encoded_len(&self) -> usize {
        let changes: usize = self.changes.iter().map(change_len).sum();
        1 + varint::len(self.changes.len()) + changes
    }

    /// The batch in its stable encoding (see the module's drawing).
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(self.encoded_len());
        self.encode_to(&mut out);
        out.freeze()
    }

    /// Appends the encoding to `out`, for callers that pack several batches into one buffer.
    pub fn encode_to(&self, out: &mut BytesMut) {
        out.put_u8(VERSION);
        varint::put(out, self.changes.len());
        for change in &self.changes {
            match change {
                RowChange::Put { key, value } => put_change(out, PUT, &[key, value]),
                RowChange::Delete { key } => put_change(out, DELETE, &[key]),
                RowChange::DeleteRange { start, end } => {
                    put_change(out, DELETE_RANGE, &[start, end]);
                }
            }
        }
    }

    /// Reads what [`RowBatch::encode`] wrote. Keys and values are slices of `encoded`, not copies. Fails on anything that
    /// is not exactly one batch.
    pub fn decode(encoded: &Bytes) -> Result<RowBatch, StateError> {
        let mut reader = Reader { encoded, at: 0 };
        let version = reader.byte()?;
        if version != VERSION {
            return Err(corrupt(&format!("version {version}, not {VERSION}")));
        }
        let count = reader.varint()?;
        if count > encoded.len() / CHANGE_BYTES_MIN {
            return Err(corrupt("more changes than bytes"));
        }
        let mut changes = Vec::with_capacity(count);
        for _ in 0..count {
            changes.push(reader.change()?);
        }
        if reader.at != encoded.len() {
            return Err(corrupt("bytes after the last change"));
        }
        Ok(RowBatch { changes })
    }
}

struct Reader<'a> {
    encoded: &'a Bytes,
    at: usize,
}

impl Reader<'_> {
    fn byte(&mut self) -> Result<u8, StateError> {
        let byte = *self.encoded.get(self.at).ok_or_else(cut_short)?;
        self.at += 1;
        Ok(byte)
    }

    fn varint(&mut self) -> Result<usize, StateError> {
        varint::read(self.encoded, &mut self.at).map_err(|error| match error {
            VarintError::Cut => cut_short(),
            VarintError::TooLarge => corrupt("length too large"),
        })
    }

    fn bytes(&mut self) -> Result<Bytes, StateError> {
        let len = self.varint()?;
        let end = self.at.checked_add(len).ok_or_else(cut_short)?;
        if end > self.encoded.len() {
            return Err(cut_short());
        }
        let bytes = self.encoded.slice(self.at..end);
        self.at = end;
        Ok(bytes)
    }

    fn change(&mut self) -> Result<RowChange, StateError> {
        match self.byte()? {
            PUT => Ok(RowChange::Put { key: self.bytes()?, value: self.bytes()? }),
            DELETE => Ok(RowChange::Delete { key: self.bytes()? }),
            DELETE_RANGE => Ok(RowChange::DeleteRange { start: self.bytes()?, end: self.bytes()? }),
            tag => Err(corrupt(&format!("unknown change {tag}"))),
        }
    }
}

fn corrupt(what: &str) -> StateError {
    StateError(format!("corrupt row batch: {what}"))
}

fn cut_short() -> StateError {
    corrupt("cut short")
}

fn change_len(change: &RowChange) -> usize {
    let (first, second) = match change {
        RowChange::Put { key, value } => (key, Some(value)),
        RowChange::Delete { key } => (key, None),
        RowChange::DeleteRange { start, end } => (start, Some(end)),
    };
    1 + framed_len(first) + second.map_or(0, framed_len)
}

fn framed_len(bytes: &Bytes) -> usize {
    varint::len(bytes.len()) + bytes.len()
}

fn put_change(out: &mut BytesMut, tag: u8, parts: &[&Bytes]) {
    out.put_u8(tag);
    for part in parts {
        varint::put(out, part.len());
        out.put_slice(part);
    }
}
