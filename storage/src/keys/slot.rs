//! Which of the fixed hash slots a workflow belongs to.

use super::NamespaceId;

/// Number of hash slots. For ever: it is part of every workflow's key.
pub const SLOTS: u16 = 4096;

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

/// The slot of a workflow, below [`SLOTS`].
///
/// FNV-1a (64 bits) over the namespace id and the workflow id, with MurmurHash3's finaliser on top because FNV's low bits alone
/// are poor for ids that differ in their last digit only. Clients never see it, nodes of all versions agree on it: it cannot
/// change.
pub fn slot(namespace: &NamespaceId, workflow_id: &str) -> u16 {
    let bytes = namespace.iter().chain(workflow_id.as_bytes());
    let hash = bytes.fold(FNV_OFFSET, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(FNV_PRIME));
    (finalise(hash) % u64::from(SLOTS)) as u16
}

fn finalise(mut hash: u64) -> u64 {
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}
