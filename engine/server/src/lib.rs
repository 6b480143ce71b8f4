//! The Everlog server: the frontend that clients call, the partitions that decide, matching between the two.
//!
//! Start reading at [`node`] for how a node is put together, then [`partition`] for where decisions are made, [`matching`] for
//! how tasks meet workers, and [`frontend`] for the gRPC services.

pub mod frontend;
pub mod limits;
pub mod matching;
pub mod memory;
pub mod meta;
pub mod node;
pub mod partition;
pub mod rows;
pub mod settings;
pub mod telemetry;
pub mod visibility;
