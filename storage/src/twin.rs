//! Both engines in memory, with crashes.
//!
//! A twin keeps apart what is durable and what is not yet. `crash` is the power failure: it returns the engine that a restarted node
//! would find. Fsyncs can be delayed and made to fail. There are no threads and no clocks in here, so a test that is deterministic
//! itself stays so.
//!
//! The contract tests of this crate hold the twins and the RocksDB engines to the same behaviour.

mod disk;
mod log;
mod state;

pub use disk::{CrashDisk, SyncKind};
pub use log::CrashLog;
#[cfg(test)]
pub(crate) use log::{GroupLog, apply as apply_record};
pub use state::CrashState;

/// The next number of a SplitMix64 sequence: all the randomness that a twin needs, and the same on every machine.
pub(crate) fn next_random(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut value = *seed;
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// A number from 0 to `max`, both included.
fn random_upto(seed: &mut u64, max: usize) -> usize {
    (next_random(seed) % (max as u64 + 1)) as usize
}
