//! The messages of a node's groups to their peers, and those that come from them.
//!
//! ```text
//!   openraft ──▶ PeerConnection ──call──▶ Transport ▶ ... ▶ RaftReceiver ──checks──▶ openraft of the addressed replica
//! ```
//!
//! A message names its group with its epoch, and both replicas. Whoever receives it looks at that before openraft sees it: a message for
//! another replica than the one that is here changes nothing.

mod adapter;
mod receive;
mod seeding;
mod wire;

pub(crate) use adapter::GroupNetwork;
pub use receive::RaftReceiver;
pub(crate) use seeding::SeedHost;

/// The kinds of calls that are Raft's own.
pub mod kind {
    /// Entries, on the bulk lane: the calls of a stream are taken in order.
    pub const APPEND: u8 = 16;
    /// An append without entries, on the fast lane.
    pub const HEARTBEAT: u8 = 17;
    /// A candidate asks for a vote.
    pub const VOTE: u8 = 18;
    /// Somebody asks whether it would get one.
    pub const PRE_VOTE: u8 = 19;
    /// A leader hands its lead over.
    pub const TRANSFER: u8 = 20;
    /// A leader has a replica seed itself, on the bulk lane; the answer comes when that is done.
    pub const SEED: u8 = 21;
    /// A replica asks for the next rows of its seed, on the bulk lane.
    pub const SEED_ROWS: u8 = 22;
    /// The last of them.
    pub const LAST: u8 = 31;
}
