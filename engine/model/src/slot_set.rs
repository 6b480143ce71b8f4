//! Sets of hash slots, as those of a namespace that move from one partition to another.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};
use everlog_storage::keys::SLOTS;

const WORD_BITS: u16 = 64;
const WORDS: usize = (SLOTS / WORD_BITS) as usize;

/// A set of hash slots.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct SlotSet(Box<[u64; WORDS]>);

impl SlotSet {
    /// No slots.
    pub fn none() -> SlotSet {
        SlotSet(Box::new([0; WORDS]))
    }

    /// All slots.
    pub fn all() -> SlotSet {
        SlotSet(Box::new([u64::MAX; WORDS]))
    }

    /// Whether a slot is in it. Numbers beyond the last slot are not.
    pub fn contains(&self, slot: u16) -> bool {
        slot < SLOTS && self.0[usize::from(slot / WORD_BITS)] & bit(slot) != 0
    }

    /// Adds a slot. Numbers beyond the last one are passed over.
    pub fn insert(&mut self, slot: u16) {
        if slot < SLOTS {
            self.0[usize::from(slot / WORD_BITS)] |= bit(slot);
        }
    }

    /// Takes a slot away.
    pub fn remove(&mut self, slot: u16) {
        if slot < SLOTS {
            self.0[usize::from(slot / WORD_BITS)] &= !bit(slot);
        }
    }

    /// How many slots are in it.
    pub fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Whether no slot is in it.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// Its slots, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u16> {
        (0..SLOTS).filter(|slot| self.contains(*slot))
    }

    /// The slots that are in this set, in the other one, or in both.
    #[must_use]
    pub fn union(&self, other: &SlotSet) -> SlotSet {
        self.combined(other, |word, other| word | other)
    }

    /// The slots that are in both sets.
    #[must_use]
    pub fn intersection(&self, other: &SlotSet) -> SlotSet {
        self.combined(other, |word, other| word & other)
    }

    /// The slots that are in this set and not in the other one.
    #[must_use]
    pub fn difference(&self, other: &SlotSet) -> SlotSet {
        self.combined(other, |word, other| word & !other)
    }

    /// Whether a slot is in both sets.
    pub fn intersects(&self, other: &SlotSet) -> bool {
        self.0.iter().zip(other.0.iter()).any(|(word, other)| word & other != 0)
    }

    fn combined(&self, other: &SlotSet, combine: impl Fn(u64, u64) -> u64) -> SlotSet {
        let mut combined = SlotSet::none();
        for ((to, word), other) in combined.0.iter_mut().zip(self.0.iter()).zip(other.0.iter()) {
            *to = combine(*word, *other);
        }
        combined
    }

    /// The set in bytes, the same ones for ever: how many slots from 0 on are not in it, how many then are, and so on until the last one that is, each a
    /// varint.
    pub fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::new();
        let (mut is_in, mut from) = (false, 0);
        for slot in 0..SLOTS {
            if self.contains(slot) != is_in {
                put_varint(&mut bytes, slot - from);
                (is_in, from) = (!is_in, slot);
            }
        }
        if is_in {
            put_varint(&mut bytes, SLOTS - from);
        }
        bytes.freeze()
    }

    /// The set that these are the bytes of.
    pub fn decode(mut bytes: &[u8]) -> Option<SlotSet> {
        let mut set = SlotSet::none();
        let (mut is_in, mut from) = (false, 0_u16);
        while !bytes.is_empty() {
            let count = take_varint(&mut bytes)?;
            let to = from.checked_add(count).filter(|to| *to <= SLOTS && (count > 0 || (from == 0 && !is_in)))?;
            if is_in {
                (from..to).for_each(|slot| set.insert(slot));
            }
            (is_in, from) = (!is_in, to);
        }
        // The last count is of slots that are in it.
        (!is_in).then_some(set)
    }
}

impl Default for SlotSet {
    fn default() -> SlotSet {
        SlotSet::none()
    }
}

impl FromIterator<u16> for SlotSet {
    fn from_iter<T: IntoIterator<Item = u16>>(slots: T) -> SlotSet {
        let mut set = SlotSet::none();
        slots.into_iter().for_each(|slot| set.insert(slot));
        set
    }
}

/// As ranges: `0-4, 7`.
impl fmt::Debug for SlotSet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut ranges = Vec::new();
        let mut begin = None;
        for slot in 0..=SLOTS {
            match (begin, self.contains(slot)) {
                (None, true) => begin = Some(slot),
                (Some(first), false) => {
                    ranges.push(if first + 1 == slot { first.to_string() } else { format!("{first}-{}", slot - 1) });
                    begin = None;
                }
                _ => {}
            }
        }
        write!(formatter, "{{{}}}", ranges.join(", "))
    }
}

fn bit(slot: u16) -> u64 {
    1 << (slot % WORD_BITS)
}

fn put_varint(bytes: &mut BytesMut, number: u16) {
    let mut rest = number;
    while rest >= 0x80 {
        bytes.put_u8((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    bytes.put_u8((rest & 0x7f) as u8);
}

fn take_varint(bytes: &mut &[u8]) -> Option<u16> {
    let (mut number, mut shift) = (0_u32, 0);
    loop {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u32::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return u16::try_from(number).ok();
        }
        shift += 7;
        if shift > 14 {
            return None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn the_bytes_are_for_ever() {
        let ends: SlotSet = [0, 4095].into_iter().collect();
        let few: SlotSet = [5, 6, 300].into_iter().collect();
        for (set, bytes) in [
            (SlotSet::none(), ""),
            (SlotSet::all(), "008020"),
            ((7..=7).collect(), "0701"),
            (ends, "0001fe1f01"),
            (few, "0502a50201"),
        ] {
            assert_eq!(hex(&set.encode()), bytes);
            assert_eq!(SlotSet::decode(&set.encode()), Some(set));
        }
        for bytes in [&b"\x05"[..], b"\x00\x81\x20", b"\x05\x00", b"\x80", b"\x80\x80\x80\x01", b"\x05\x01\x02"] {
            assert_eq!(SlotSet::decode(bytes), None, "{bytes:?}");
        }
        let every_other: SlotSet = (0..SLOTS).step_by(2).collect();
        assert_eq!(SlotSet::decode(&every_other.encode()), Some(every_other));
    }

    #[test]
    fn sets_are_combined_slot_by_slot() {
        let (a, b): (SlotSet, SlotSet) = ((0..100).collect(), (90..200).collect());
        assert_eq!((a.union(&b).len(), a.intersection(&b).len(), a.difference(&b).len()), (200, 10, 90));
        assert!(a.intersects(&b) && !a.difference(&b).intersects(&b));
        assert_eq!(SlotSet::all().len(), usize::from(SLOTS));
        assert_eq!(SlotSet::all().difference(&SlotSet::all()), SlotSet::none());
        let mut set = SlotSet::none();
        set.insert(4096);
        assert!(set.is_empty() && !SlotSet::all().contains(4096));
        set.insert(64);
        assert_eq!(set.iter().collect::<Vec<_>>(), [64]);
        set.remove(64);
        assert!(set.is_empty());
        assert_eq!(format!("{:?}", [1, 2, 3, 9].into_iter().collect::<SlotSet>()), "{1-3, 9}");
    }
}
