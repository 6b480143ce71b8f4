//! Encodings that keep the order of what they encode, and the readers that undo them.

use bytes::Bytes;

use super::slot::Place;

const ESCAPED: u8 = 0x00;
const ESCAPED_ZERO: u8 = 0xff;
const STRING_END: u8 = 0x01;

/// Builds a key, part by part.
pub(super) struct KeyWriter(Vec<u8>);

impl KeyWriter {
    /// `bytes` is the expected length; exact is best, since the key then needs no second allocation.
    pub(super) fn new(table: u8, bytes: usize) -> KeyWriter {
        let mut key = Vec::with_capacity(bytes);
        key.push(table);
        KeyWriter(key)
    }

    pub(super) fn raw(mut self, bytes: &[u8]) -> KeyWriter {
        self.0.extend_from_slice(bytes);
        self
    }

    pub(super) fn u8(self, value: u8) -> KeyWriter {
        self.raw(&[value])
    }

    pub(super) fn place(self, place: Place) -> KeyWriter {
        self.raw(&place.to_bytes())
    }

    pub(super) fn u64(self, value: u64) -> KeyWriter {
        self.raw(&value.to_be_bytes())
    }

    pub(super) fn i64(self, value: i64) -> KeyWriter {
        self.u64(ascending(value))
    }

    pub(super) fn string(mut self, value: &str) -> KeyWriter {
        if value.as_bytes().contains(&ESCAPED) {
            for byte in value.bytes() {
                self.0.push(byte);
                if byte == ESCAPED {
                    self.0.push(ESCAPED_ZERO);
                }
            }
        } else {
            // Almost all are like this.
            self.0.extend_from_slice(value.as_bytes());
        }
        self.0.extend_from_slice(&[ESCAPED, STRING_END]);
        self
    }

    pub(super) fn finish(self) -> Bytes {
        Bytes::from(self.0)
    }
}

/// Length of `value` as [`KeyWriter::string`] writes it, if it holds no zero bytes (and if it does: a lower bound).
pub(super) fn string_len(value: &str) -> usize {
    value.len() + 2
}

/// Maps the order of signed integers to that of unsigned ones.
fn ascending(value: i64) -> u64 {
    value as u64 ^ (1 << 63)
}

/// Takes a key apart. `None` means that the key is not what it was taken for.
pub(super) struct KeyReader<'a>(&'a [u8]);

impl<'a> KeyReader<'a> {
    pub(super) fn new(table: u8, key: &'a [u8]) -> Option<KeyReader<'a>> {
        let (first, rest) = key.split_first()?;
        (*first == table).then_some(KeyReader(rest))
    }

    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*array)
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    pub(super) fn place(&mut self) -> Option<Place> {
        self.array().map(Place::from_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    pub(super) fn i64(&mut self) -> Option<i64> {
        self.u64().map(|value| (value ^ (1 << 63)) as i64)
    }

    pub(super) fn string(&mut self) -> Option<String> {
        let mut value = Vec::new();
        loop {
            let zero = self.0.iter().position(|byte| *byte == ESCAPED)?;
            value.extend_from_slice(&self.0[..zero]);
            let escape = *self.0.get(zero + 1)?;
            self.0 = &self.0[zero + 2..];
            match escape {
                ESCAPED_ZERO => value.push(0),
                STRING_END => return String::from_utf8(value).ok(),
                _ => return None,
            }
        }
    }

    /// The rest of the key.
    pub(super) fn raw_rest(self) -> &'a [u8] {
        self.0
    }

    /// `value`, if nothing is left.
    pub(super) fn end<T>(self, value: T) -> Option<T> {
        self.0.is_empty().then_some(value)
    }
}
