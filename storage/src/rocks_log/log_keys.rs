//! The keys of the log engine's RocksDB.
//!
//! ```text
//! group u32 | 00                vote         encoded vote
//! group u32 | 01                committed    encoded log id
//! group u32 | 02                purged       index u64 | encoded log id
//! group u32 | 03 | index u64    entry        encoded entry
//! group u32 | ff                             end of the group, never a row
//! ```
//!
//! Integers are big-endian: a group is one range, and its entries are in the order of their indexes.

use std::ops::Range;

use crate::GroupId;

const VOTE: u8 = 0;
const COMMITTED: u8 = 1;
const PURGED: u8 = 2;
const ENTRY: u8 = 3;
const GROUP_END: u8 = 0xff;

const ENTRY_KEY_BYTES: usize = 13;

pub(super) fn vote(group: GroupId) -> [u8; 5] {
    single(group, VOTE)
}

pub(super) fn committed(group: GroupId) -> [u8; 5] {
    single(group, COMMITTED)
}

pub(super) fn purged(group: GroupId) -> [u8; 5] {
    single(group, PURGED)
}

pub(super) fn entry(group: GroupId, index: u64) -> [u8; ENTRY_KEY_BYTES] {
    let mut key = [0; ENTRY_KEY_BYTES];
    key[..5].copy_from_slice(&single(group, ENTRY));
    key[5..].copy_from_slice(&index.to_be_bytes());
    key
}

/// The index in an entry's key; `None` for a key of another kind.
pub(super) fn entry_index(key: &[u8]) -> Option<u64> {
    let (prefix, index) = key.split_at_checked(5)?;
    let index: [u8; 8] = index.try_into().ok()?;
    (prefix[4] == ENTRY).then(|| u64::from_be_bytes(index))
}

/// First key beyond the entries of `group`.
pub(super) fn entries_end(group: GroupId) -> [u8; 5] {
    single(group, ENTRY + 1)
}

/// All rows of `group`.
pub(super) fn group_range(group: GroupId) -> Range<[u8; 5]> {
    single(group, VOTE)..single(group, GROUP_END)
}

fn single(group: GroupId, kind: u8) -> [u8; 5] {
    let [a, b, c, d] = group.0.to_be_bytes();
    [a, b, c, d, kind]
}
