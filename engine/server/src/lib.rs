//! The Everlog server: what the crates of the engine are put together to, and the settings that they are given.
//!
//! Start reading at [`node`] for how a node is put together, then `everlog-partition` for where decisions are made,
//! `everlog-matching` for how tasks meet workers, and `everlog-frontend` for the gRPC services.

mod alone;
pub mod descriptors;
pub mod disk;
pub mod enrolment;
mod growth;
pub mod membership;
pub mod memory;
pub mod node;
mod offline;
pub mod recovery;
mod replicas;
pub mod settings;
pub mod telemetry;
