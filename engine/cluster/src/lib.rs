//! What the nodes of a cluster ask of each other besides what clients ask of them: one small service, `everlog.internal.v1`.
//!
//! ```text
//!                    a partition's lead                             the home of a queue
//!   offer            tasks, queries ──Offers──────────────────────▶ Service ──▶ Matching
//!   announce         which leads there are ──Offers───────────────▶ Service ──▶ LeadBook: what was lost? ──▶ Matching
//!   task page        TaskRows ◀── Service ◀─────────────────────────Pages ◀── Matching
//!   start task       Partition ◀── Service ◀────────────────────────Nodes ◀── Router ◀── a poll
//!   deliver          the target's Partition ◀── Service ◀── Nodes ◀── the source's lead
//!   report, steer    Operations, Leads ◀── Service ◀── Nodes ◀── an operator at any node
//!   register worker  the metadata's lead ◀── Service ◀── Nodes ◀── the first poll of a version at a queue
//!   move step        Partition ◀── Service ◀── Nodes ◀── Moves, where the metadata is led
//!   visibility page  Lists ◀── Service ◀── Nodes ◀── a list or count at any node
//! ```
//!
//! [`Peers`] carry these, and the calls of clients to the nodes that lead: [`TransportPeers`] do it over the transport of Raft's messages.
//! [`Formation`] is how the nodes found their cluster. No message here needs to arrive, and none that arrives twice does harm: the truth is in rows, and only what a lead
//! starts reaches a worker.

mod book;
mod calls;
mod formation;
mod formats;
mod freshness;
mod homes;
mod leaders;
mod moves;
mod nodes;
mod offers;
mod operations;
mod pages;
mod peers;
mod placing;
mod pools;
mod remote;
mod scattered;
mod service;
mod wire;

pub use calls::{NodeReceiver, TransportPeers};
pub use formation::{Admission, Admissions, Enrolled, Enrolling, Enrolments, Formation, FormationOptions};
pub use formats::{Feature, Formats, abilities};
pub use freshness::ReadBound;
pub use homes::follow as follow_homes;
pub use leaders::GroupLeaders;
pub use moves::{MovePartitions, Moves, StepPartitions};
pub use nodes::{AskedRuns, Nodes};
pub use offers::Offers;
pub use operations::{
    About, ClusterApi, DiskFigures, Leads, Operations, OperationsParts, Voters, check_placement, leads,
};
pub use pages::Pages;
pub use peers::{Entry, NOT_DONE, Peers, is_not_done, not_done};
pub use placing::{
    EnrolledBy, Enrolment, Health, Moved, Note, Picture, Places, REPLICAS, Wanted, generation_of, replica_id,
};
pub use pools::{Pools, PoolsParts};
pub use scattered::{ReadHere, ReadThere, Scattered};
pub use service::{Registrar, Service, ServiceParts};
