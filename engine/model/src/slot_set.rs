//! A set of hash slots, as the rows and messages of moves have it.

use std::fmt;

use everlog_storage::keys::SLOTS;

const WORDS: usize = SLOTS as usize / 64;

/// A set of hash slots: a bit for each.
///
/// ```text
/// encoded   01 | lengths of runs of slots, LEB128: not in it, in it, not in it, …     a few runs, which most sets have
///           02 | 512 bytes, the lowest slot in the lowest bit of the first            where that is shorter
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct SlotSet(Box<[u64; WORDS]>);

impl Default for SlotSet {
    fn default() -> SlotSet {
        SlotSet(Box::new([0; WORDS]))
    }
}

impl SlotSet {
    /// The set of no slot.
    pub fn new() -> SlotSet {
        SlotSet::default()
    }

    /// The set of all slots.
    pub fn all() -> SlotSet {
        SlotSet(Box::new([u64::MAX; WORDS]))
    }

    /// Adds a slot. Numbers beyond the last slot are none.
    pub fn insert(&mut self, slot: u16) {
        if let Some(word) = self.0.get_mut(usize::from(slot / 64)) {
            *word |= 1 << (slot % 64);
        }
    }

    /// Takes a slot out.
    pub fn remove(&mut self, slot: u16) {
        if let Some(word) = self.0.get_mut(usize::from(slot / 64)) {
            *word &= !(1 << (slot % 64));
        }
    }

    /// Whether a slot is in it.
    pub fn contains(&self, slot: u16) -> bool {
        self.0.get(usize::from(slot / 64)).is_some_and(|word| word & (1 << (slot % 64)) != 0)
    }

    /// Whether no slot is in it.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// How many slots are in it.
    pub fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// The slots in it, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u16> {
        (0..SLOTS).filter(|slot| self.contains(*slot))
    }

    /// The first slot in it that is `from` or behind that.
    pub fn next_from(&self, from: u16) -> Option<u16> {
        let first = usize::from(from / 64);
        let mask = u64::MAX.checked_shl(u32::from(from % 64)).unwrap_or(0);
        let words = self.0.iter().enumerate().skip(first);
        let found = words.map(|(at, word)| (at, if at == first { word & mask } else { *word }));
        let (at, word) = found.into_iter().find(|(_, word)| *word != 0)?;
        u16::try_from(at * 64 + word.trailing_zeros() as usize).ok()
    }

    /// Whether a slot is in both.
    pub fn intersects(&self, other: &SlotSet) -> bool {
        self.0.iter().zip(&*other.0).any(|(mine, theirs)| mine & theirs != 0)
    }

    /// The slots in both.
    pub fn intersection(&self, other: &SlotSet) -> SlotSet {
        self.with(other, |mine, theirs| mine & theirs)
    }

    /// The slots in either.
    pub fn union(&self, other: &SlotSet) -> SlotSet {
        self.with(other, |mine, theirs| mine | theirs)
    }

    /// The slots in this one that are not in the other one.
    pub fn difference(&self, other: &SlotSet) -> SlotSet {
        self.with(other, |mine, theirs| mine & !theirs)
    }

    fn with(&self, other: &SlotSet, of: impl Fn(u64, u64) -> u64) -> SlotSet {
        let mut set = self.clone();
        set.0.iter_mut().zip(&*other.0).for_each(|(mine, theirs)| *mine = of(*mine, *theirs));
        set
    }

    /// Its bytes, the shorter of the two forms.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![RUNS];
        let (mut from, mut is_in) = (0, false);
        while from < SLOTS {
            let end = (from..SLOTS).find(|slot| self.contains(*slot) != is_in).unwrap_or(SLOTS);
            // The slots behind the last run are not in it.
            if end < SLOTS || is_in {
                write_leb128(&mut bytes, end - from);
            }
            (from, is_in) = (end, !is_in);
        }
        if bytes.len() <= WORDS * 8 {
            return bytes;
        }
        std::iter::once(BITS).chain(self.0.iter().flat_map(|word| word.to_le_bytes())).collect()
    }

    /// Reads what [`SlotSet::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Option<SlotSet> {
        let (form, mut rest) = bytes.split_first()?;
        let mut set = SlotSet::new();
        match *form {
            RUNS => {
                let (mut from, mut is_in) = (0_u16, false);
                while !rest.is_empty() {
                    let end = from.checked_add(read_leb128(&mut rest)?).filter(|end| *end <= SLOTS)?;
                    if is_in {
                        (from..end).for_each(|slot| set.insert(slot));
                    }
                    (from, is_in) = (end, !is_in);
                }
            }
            BITS if rest.len() == WORDS * 8 => {
                for (word, bytes) in set.0.iter_mut().zip(rest.as_chunks::<8>().0) {
                    *word = u64::from_le_bytes(*bytes);
                }
            }
            _ => return None,
        }
        Some(set)
    }
}

const RUNS: u8 = 1;
const BITS: u8 = 2;

fn write_leb128(bytes: &mut Vec<u8>, mut number: u16) {
    while number >= 0x80 {
        bytes.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn read_leb128(bytes: &mut &[u8]) -> Option<u16> {
    let mut number = 0_u32;
    for shift in [0, 7, 14] {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u32::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return u16::try_from(number).ok();
        }
    }
    None
}

impl FromIterator<u16> for SlotSet {
    fn from_iter<T: IntoIterator<Item = u16>>(slots: T) -> SlotSet {
        let mut set = SlotSet::new();
        slots.into_iter().for_each(|slot| set.insert(slot));
        set
    }
}

/// As ranges: `0-3 17 4000-4095`.
impl fmt::Display for SlotSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut from = self.next_from(0);
        let mut space = "";
        while let Some(first) = from {
            let end = (first..SLOTS).find(|slot| !self.contains(*slot)).unwrap_or(SLOTS);
            match end - first {
                1 => write!(f, "{space}{first}")?,
                _ => write!(f, "{space}{first}-{}", end - 1)?,
            }
            space = " ";
            from = self.next_from(end);
        }
        Ok(())
    }
}

impl fmt::Debug for SlotSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{self}}}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(set: &SlotSet) -> String {
        set.encode().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn sets_are_written_as_they_always_were() {
        let cases = [
            (SlotSet::new(), "01"),
            (SlotSet::all(), "01008020"),
            (SlotSet::from_iter([0]), "010001"),
            (SlotSet::from_iter([3, 4, 5, 4095]), "010303f91f01"),
        ];
        for (set, golden) in cases {
            assert_eq!(hex(&set), golden, "{set}");
            assert_eq!(SlotSet::decode(&set.encode()), Some(set));
        }
        let every_second = SlotSet::from_iter((0..SLOTS).step_by(2));
        assert_eq!(hex(&every_second), format!("02{}", "55".repeat(512)));
        assert_eq!(SlotSet::decode(&every_second.encode()), Some(every_second));
    }

    #[test]
    fn what_is_no_set_is_refused() {
        for bytes in [&b""[..], &[0], &[3], &[2, 1], &[1, 0x80], &[1, 0xff, 0xff, 0xff, 1], &[1, 0x81, 0x20]] {
            assert_eq!(SlotSet::decode(bytes), None, "{bytes:?}");
        }
    }

    #[test]
    fn sets_are_asked_and_joined() {
        let left = SlotSet::from_iter([1, 2, 64, 4095]);
        let right = SlotSet::from_iter([2, 63, 4095]);
        assert_eq!((left.len(), left.is_empty(), SlotSet::new().is_empty()), (4, false, true));
        assert_eq!(left.to_string(), "1-2 64 4095");
        assert_eq!(left.intersection(&right).to_string(), "2 4095");
        assert_eq!(left.union(&right).to_string(), "1-2 63-64 4095");
        assert_eq!(left.difference(&right).to_string(), "1 64");
        assert!(left.intersects(&right) && !left.intersects(&SlotSet::from_iter([3])));
        let nexts = [0, 2, 3, 64, 65, 4095].map(|from| left.next_from(from));
        assert_eq!(nexts, [Some(1), Some(2), Some(64), Some(64), Some(4095), Some(4095)]);
        assert_eq!((left.next_from(4096), right.next_from(u16::MAX)), (None, None));
        let mut set = left.clone();
        set.remove(64);
        set.insert(4096);
        assert_eq!(set.iter().collect::<Vec<_>>(), [1, 2, 4095]);
    }
}
