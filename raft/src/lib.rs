//! Many openraft groups on one node.
//!
//! A [`Node`] hosts groups over the two engines of the storage crate; a [`Group`] takes row batches, replicates them, applies
//! them and says who leads. This crate knows rows, not workflows, and it is the only one that names openraft.
//!
//! ```text
//!   Group::propose ──▶ openraft core ──▶ log_store (entry cache) ──▶ LogEngine, one fsync for all groups
//!                           │ committed
//!                           ▼
//!                     state_machine ──▶ StateEngine, rows and applied position in one write
//!                           │ applied
//!                           ▼
//!                     the proposal resolves          flusher: flush rows, then purge the log behind them
//! ```
//!
//! Start reading at [`group`], the handle that the engine works with, then [`node`].

pub mod chain;
pub mod group;
pub mod network;
pub mod node;
pub mod options;
pub mod types;

mod encoding;
mod entry_cache;
mod failure;
mod flusher;
mod hold_off;
mod log_store;
mod pins;
mod progress;
mod rows;
pub mod sabotage;
mod seed;
mod snapshot;
mod state_machine;
mod supervisor;

#[cfg(test)]
mod openraft_suite;

pub use chain::{AppliedChain, ChainPosition, EntryStamp, Hlc, LeadEpoch};
pub use encoding::readable_as;
pub use group::{
    Group, GroupReplicas, GroupSlot, GroupSlots, Leadership, ProposalOutcome, ProposeError, ReadConsistency, ReadError,
    StopReason,
};
pub use network::RaftReceiver;
pub use node::{Node, NodeError, Remains};
pub use options::NodeOptions;
pub use pins::LogPin;
pub use types::{FOUNDING_REPLICA, GroupReplica, NodeInfo, REPLICA_ID_MIN, ReplicaId};
