//! The maps that calls look things up in.

use std::hash::BuildHasher;

use everlog_storage::blocking;
use foldhash::SharedSeed;
use foldhash::fast::{FoldHasher, SeedableRandomState};

/// A map that is fast to look up in: `SipHash` costs a call of matching a twentieth of its time. Each map has a seed of its own, so
/// that nobody can choose keys that meet; whoever iterates must not rely on the order.
pub type FastMap<K, V> = std::collections::HashMap<K, V, FastState>;

/// Hashes of one map. Its seed comes from the standard library's: foldhash's own is made of addresses, which no simulation can repeat.
#[derive(Clone, Debug)]
pub struct FastState(SeedableRandomState);

impl Default for FastState {
    fn default() -> FastState {
        let seed = std::hash::RandomState::new().hash_one(0);
        let shared = if blocking::is_simulated() { SharedSeed::global_fixed() } else { SharedSeed::global_random() };
        FastState(SeedableRandomState::with_seed(seed, shared))
    }
}

impl BuildHasher for FastState {
    type Hasher = FoldHasher<'static>;

    fn build_hasher(&self) -> FoldHasher<'static> {
        self.0.build_hasher()
    }
}
