//! Which of the fixed hash slots an entity belongs to, and how a key says it.

use super::NamespaceId;

/// Number of hash slots. For ever: it is part of every entity's key.
pub const SLOTS: u16 = 4096;

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

/// The slot of an entity, below [`SLOTS`]: of its id, whatever its kind.
///
/// FNV-1a (64 bits) over the namespace id and the id, with MurmurHash3's finaliser on top because FNV's low bits alone
/// are poor for ids that differ in their last digit only. Clients never see it, nodes of all versions agree on it: it cannot
/// change.
pub fn slot(namespace: &NamespaceId, id: &str) -> u16 {
    (stable_hash(namespace.iter().chain(id.as_bytes())) % u64::from(SLOTS)) as u16
}

/// FNV-1a, finalised as [`slot`] has it: nodes of all versions agree on it. Whoever chooses the bytes can make them meet.
pub fn stable_hash<'a>(bytes: impl IntoIterator<Item = &'a u8>) -> u64 {
    let hash = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(FNV_PRIME);
    finalise(bytes.into_iter().fold(FNV_OFFSET, hash))
}

fn finalise(mut hash: u64) -> u64 {
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

/// Number of kinds of entities that keys have room for.
pub const ENTITY_KINDS: u8 = 16;

/// A slot and a kind of entity, as keys have them: twelve bits of the slot, then four of the kind. So the slots stay ranges, and
/// the kind takes no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place(u16);

impl Place {
    /// The place of entities of a kind in a slot.
    pub fn new(slot: u16, kind: u8) -> Place {
        assert!(slot < SLOTS && kind < ENTITY_KINDS, "slot {slot} and kind {kind} are within their bounds");
        Place(slot * u16::from(ENTITY_KINDS) + u16::from(kind))
    }

    /// The slot.
    pub fn slot(self) -> u16 {
        self.0 / u16::from(ENTITY_KINDS)
    }

    /// The kind.
    pub fn kind(self) -> u8 {
        (self.0 % u16::from(ENTITY_KINDS)) as u8
    }

    /// The place behind this one: of the next kind, or of the next slot.
    pub fn next(self) -> Option<Place> {
        self.0.checked_add(1).map(Place)
    }

    pub(super) fn to_bytes(self) -> [u8; 2] {
        self.0.to_be_bytes()
    }

    pub(super) fn from_bytes(bytes: [u8; 2]) -> Place {
        Place(u16::from_be_bytes(bytes))
    }
}
