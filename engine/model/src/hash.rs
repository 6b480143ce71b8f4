//! The maps that calls look things up in.

/// A map that is fast to look up in: `SipHash` costs a call of matching a twentieth of its time. Each map has a seed of its own, so
/// that nobody can choose keys that meet; whoever iterates must not rely on the order.
pub type FastMap<K, V> = std::collections::HashMap<K, V, foldhash::fast::RandomState>;
