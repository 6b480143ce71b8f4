//! What is on a node's disk, and nothing else: the key space, the shared Raft log, the rows of every partition.
//!
//! Two engines make up a node's disk. The *log* engine ([`log`]) holds the Raft log, vote and committed index of every
//! group behind one writer, so that the fsync is shared by the node. The *state* engine ([`state`]) holds the rows of every
//! group without a write-ahead log of its own: a crash replays the Raft log from the applied index that was flushed last.
//!
//! This crate knows bytes. It does not know what an entry or a row means (that is the business of `raft` and of the
//! engine), and it is the only crate that names rocksdb.
//!
//! Start reading at [`keys`] for the layout of the key space, then [`log`] and [`state`] for the two contracts. Each contract
//! has two implementations: one on a disk ([`segment_log`], and [`rocks_state`] on RocksDB) and one in memory that can crash ([`twin`]).
//! [`directory`] is where they lie on a disk.

pub mod blocking;
pub mod directory;
pub mod export;
pub mod keys;
pub mod log;
mod lz4;
mod memory;
pub mod rocks_state;
mod row_batch;
pub mod segment_log;
pub mod state;
pub mod twin;
mod varint;
mod watch;

pub use directory::{DataDirectory, DirectoryError, NodeIdentity};
pub use memory::EngineMemory;
pub use rocks_state::{RocksState, StateOptions};
pub use segment_log::{LogOptions, SegmentLog};
pub use watch::{ChangedRows, Follow, Wake, Watch};

/// A Raft group: the meta group is 0, partitions count from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct GroupId(pub u32);

impl std::fmt::Display for GroupId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A node of the cluster. Numbers begin with 1 and are never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u32);

impl std::fmt::Display for NodeId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}
