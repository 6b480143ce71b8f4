//! The rows of one group on their way to another node: read from a view that does not change, and cut into chunks that are checked one by
//! one and as a whole.
//!
//! ```text
//!   chunk = 01 │ crc32c u32 │ rows u32 │ length u32 │ body        numbers LE; the crc is of all behind it
//!   body  = an LZ4 block of `length` bytes once unpacked, or those bytes themselves if they do not become fewer
//!         = for each row: shared │ rest │ value │ rest of the key │ value
//! ```
//!
//! The first three of a row are lengths (`varint`): a key begins with the first `shared` bytes of the one before it in the chunk. Keys ascend, in
//! a chunk and from chunk to chunk. [`Totals`] say what all chunks together hold; a receiver that has counted the same has all rows.

use std::ops::ControlFlow;

use bytes::Bytes;

use crate::lz4;
use crate::state::{Row, StateError, StateSnapshot};
use crate::varint::{self, VarintError};

const VERSION: u8 = 1;
/// Version, crc, number of rows, length of the body.
const HEADER_BYTES: usize = 1 + 4 + 4 + 4;
/// Bytes of keys and values after which a chunk is closed.
const CHUNK_BYTES: usize = 1 << 20;
/// Longest body that is read. A chunk goes beyond its size by one row, and no row comes near that.
const BODY_BYTES_MAX: usize = 64 << 20;

/// What was sent, or received.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Rows.
    pub rows: u64,
    /// Sum of a hash of each row, modulo 2^64: the same for the same rows, in whatever chunks they come.
    pub sum: u64,
}

impl Totals {
    /// Adds what `other` counted.
    pub fn add(&mut self, other: Totals) {
        self.rows += other.rows;
        self.sum = self.sum.wrapping_add(other.sum);
    }

    fn count(&mut self, key: &[u8], value: &[u8]) {
        self.rows += 1;
        self.sum = self.sum.wrapping_add(row_hash(key, value));
    }
}

/// Some rows of a group, in order.
#[derive(Clone, Debug)]
pub struct Chunk {
    /// The chunk as it is sent.
    pub bytes: Bytes,
    /// The last key in it; the next chunk begins behind it.
    pub last_key: Bytes,
    /// What is in it.
    pub totals: Totals,
}

/// A chunk is not what was sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("rows of a group: {0}")]
pub struct ChunkError(&'static str);

/// The rows of `view` behind `after` (from the first one on, if `None`), about 1 MiB of them; `None` when there are no more. Blocks on the
/// disk.
pub fn next_chunk(view: &dyn StateSnapshot, after: Option<&[u8]>) -> Result<Option<Chunk>, StateError> {
    let mut body = Vec::new();
    let mut last_key = Vec::new();
    let mut totals = Totals::default();
    view.visit(after, &mut |key, value| {
        let shared = if totals.rows == 0 { 0 } else { shared_prefix(&last_key, key) };
        let rest = &key[shared..];
        for length in [shared, rest.len(), value.len()] {
            varint::put(&mut body, length);
        }
        body.extend_from_slice(rest);
        body.extend_from_slice(value);
        totals.count(key, value);
        last_key.clear();
        last_key.extend_from_slice(key);
        if body.len() < CHUNK_BYTES { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    if totals.rows == 0 {
        return Ok(None);
    }
    let bytes = encode(&body, totals.rows)?;
    Ok(Some(Chunk { bytes, last_key: Bytes::from(last_key), totals }))
}

fn encode(body: &[u8], rows: u64) -> Result<Bytes, StateError> {
    let (Ok(rows), Ok(length)) = (u32::try_from(rows), u32::try_from(body.len())) else {
        return Err(StateError(format!("a row of {} bytes cannot be sent", body.len())));
    };
    let mut bytes = Vec::with_capacity(HEADER_BYTES + body.len());
    bytes.push(VERSION);
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&rows.to_le_bytes());
    bytes.extend_from_slice(&length.to_le_bytes());
    if !lz4::compress(body, &mut bytes, body.len().saturating_sub(1)) {
        bytes.extend_from_slice(body);
    }
    let crc = crc32c::crc32c(&bytes[5..]);
    bytes[1..5].copy_from_slice(&crc.to_le_bytes());
    Ok(Bytes::from(bytes))
}

/// The rows of a chunk, and what to count for them. Refuses whatever is not exactly as it was sent.
pub fn read_chunk(bytes: &[u8]) -> Result<(Vec<Row>, Totals), ChunkError> {
    let (header, body) = bytes.split_at_checked(HEADER_BYTES).ok_or(ChunkError("a chunk is cut off"))?;
    if header[0] != VERSION {
        return Err(ChunkError("a chunk of another version"));
    }
    let number = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    if number(1) != crc32c::crc32c(&bytes[5..]) {
        return Err(ChunkError("a chunk is damaged"));
    }
    let (count, length) = (number(5) as usize, number(9) as usize);
    if length > BODY_BYTES_MAX {
        return Err(ChunkError("a chunk is too large"));
    }
    let body = match body.len() == length {
        true => Bytes::copy_from_slice(body),
        false => Bytes::from(lz4::decompress(body, length).ok_or(ChunkError("a chunk cannot be unpacked"))?),
    };
    // Each row takes three bytes at least.
    let mut rows = Vec::with_capacity(count.min(length / 3));
    let mut totals = Totals::default();
    let mut key = Vec::new();
    let mut at = 0;
    while at < body.len() {
        let shared = read_length(&body, &mut at)?;
        let rest = read_length(&body, &mut at)?;
        let value = read_length(&body, &mut at)?;
        let end = at.checked_add(rest).and_then(|end| end.checked_add(value));
        if shared > key.len() || end.is_none_or(|end| end > body.len()) {
            return Err(ChunkError("a row is longer than its chunk"));
        }
        let new = &body[at..at + rest];
        // Up to there it is the same as the one before.
        if !rows.is_empty() && *new <= key[shared..] {
            return Err(ChunkError("rows are not in order"));
        }
        key.truncate(shared);
        key.extend_from_slice(new);
        let value = body.slice(at + rest..at + rest + value);
        at += rest + value.len();
        totals.count(&key, &value);
        rows.push((Bytes::copy_from_slice(&key), value));
    }
    if rows.len() != count {
        return Err(ChunkError("a chunk does not have the rows that it says"));
    }
    Ok((rows, totals))
}

fn shared_prefix(one: &[u8], other: &[u8]) -> usize {
    one.iter().zip(other).take_while(|(one, other)| one == other).count()
}

fn row_hash(key: &[u8], value: &[u8]) -> u64 {
    let mut hash = u64::from(crc32c::crc32c(key)) << 32 | u64::from(crc32c::crc32c(value));
    // Spread out, or two rows that change places could go unnoticed.
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

fn read_length(bytes: &[u8], at: &mut usize) -> Result<usize, ChunkError> {
    match varint::read(bytes, at) {
        Ok(length) if length <= BODY_BYTES_MAX => Ok(length),
        Ok(_) | Err(VarintError::TooLarge) => Err(ChunkError("a row is longer than any")),
        Err(VarintError::Cut) => Err(ChunkError("a row is cut off")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::GroupId;
    use crate::state::{RowBatch, StateEngine};
    use crate::twin::CrashState;

    const GROUP: GroupId = GroupId(1);

    fn view(rows: &[(&[u8], &[u8])]) -> Box<dyn StateSnapshot> {
        let state = CrashState::new(1);
        let mut batch = RowBatch::new();
        for (key, value) in rows {
            batch.put(Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
        }
        state.commit(GROUP, b"position", &[batch]).unwrap();
        state.snapshot(GROUP).unwrap()
    }

    #[test]
    fn bytes_stay_what_they_are() {
        let chunk = next_chunk(view(&[(b"\x02key1", b"v"), (b"\x02key22", b"")]).as_ref(), None).unwrap().unwrap();
        let body = b"\x00\x05\x01\x02key1v\x04\x02\x0022";
        let crc = [0x99, 0xb1, 0xe7, 0x8d];
        assert_eq!(chunk.bytes, [&[1][..], &crc, &[2, 0, 0, 0, 14, 0, 0, 0], body].concat());
        assert_eq!(
            (&chunk.last_key[..], chunk.totals),
            (&b"\x02key22"[..], Totals { rows: 2, sum: 0x55db_8bf6_e32a_72f0 })
        );
        // What becomes smaller is packed.
        let packed = next_chunk(view(&[(b"\x02", &[7; 100])]).as_ref(), None).unwrap().unwrap();
        assert_eq!(packed.bytes[5..13], [1, 0, 0, 0, 104, 0, 0, 0]);
        assert!(packed.bytes.len() < 40);
        assert_eq!(read_chunk(&packed.bytes).unwrap().0, [(Bytes::from_static(b"\x02"), Bytes::from(vec![7; 100]))]);
    }

    #[test]
    fn chunks_hold_all_rows_and_count_them() {
        let rows: Vec<(Vec<u8>, Vec<u8>)> = (0..6_000_u32)
            .map(|i| ([&[2], &i.to_be_bytes()[..]].concat(), vec![i as u8; i as usize % 1_500]))
            .collect();
        let borrowed: Vec<(&[u8], &[u8])> = rows.iter().map(|(key, value)| (&key[..], &value[..])).collect();
        let view = view(&borrowed);
        let (mut sent, mut received, mut all) = (Totals::default(), Totals::default(), Vec::new());
        let mut after: Option<Bytes> = None;
        let mut chunks = 0;
        while let Some(chunk) = next_chunk(view.as_ref(), after.as_deref()).unwrap() {
            let (rows, totals) = read_chunk(&chunk.bytes).unwrap();
            assert_eq!((totals, &rows.last().unwrap().0), (chunk.totals, &chunk.last_key));
            sent.add(chunk.totals);
            received.add(totals);
            all.extend(rows.into_iter().map(|(key, value)| (key.to_vec(), value.to_vec())));
            after = Some(chunk.last_key);
            chunks += 1;
        }
        assert!(chunks > 3);
        assert_eq!((sent.rows, sent), (6_000, received));
        assert_eq!(all, rows);
    }

    #[test]
    fn damaged_and_cut_chunks_are_refused() {
        let chunk = next_chunk(view(&[(b"\x02a", b"value"), (b"\x02b", b"other")]).as_ref(), None).unwrap().unwrap();
        for length in 0..chunk.bytes.len() {
            assert!(read_chunk(&chunk.bytes[..length]).is_err(), "cut to {length}");
        }
        for at in 0..chunk.bytes.len() {
            let mut damaged = chunk.bytes.to_vec();
            damaged[at] ^= 0x10;
            assert!(read_chunk(&damaged).is_err(), "damaged at {at}");
        }
        // With a crc that is right.
        for (why, body, rows) in [
            ("rows are not in order", &b"\x00\x01\x00b\x00\x01\x00a"[..], 2),
            ("a chunk does not have the rows that it says", b"\x00\x01\x00b", 2),
            ("a row is longer than its chunk", b"\x00\x09\x00b", 1),
            ("a row is longer than its chunk", b"\x01\x01\x00b", 1),
            ("a row is cut off", b"\x00\x01", 1),
            ("a row is longer than any", b"\xff\xff\xff\xff\xff\xff\x01", 1),
        ] {
            assert_eq!(read_chunk(&encode(body, rows).unwrap()), Err(ChunkError(why)));
        }
    }
}
