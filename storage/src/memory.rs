//! What an engine holds in memory.

use rocksdb::{DB, properties};

/// Memory of an engine, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineMemory {
    /// What was written and is not in tables yet.
    pub memtables: u64,
    /// What was read from tables, with their indexes and filters where those are cached.
    pub block_cache: u64,
    /// What open tables need besides.
    pub table_readers: u64,
}

impl EngineMemory {
    pub(crate) fn of(db: &DB) -> EngineMemory {
        // A database that cannot tell says so when it is used.
        let bytes = |property| db.property_int_value(property).ok().flatten().unwrap_or(0);
        EngineMemory {
            memtables: bytes(properties::SIZE_ALL_MEM_TABLES),
            block_cache: bytes(properties::BLOCK_CACHE_USAGE),
            table_readers: bytes(properties::ESTIMATE_TABLE_READERS_MEM),
        }
    }
}
