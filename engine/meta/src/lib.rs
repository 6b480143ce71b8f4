//! The metadata of the cluster: namespaces with their search attributes and worker deployments, settings of task queues, Nexus endpoints, pools of
//! partitions and who moves from one to another, which partition holds which hash slot, which nodes there are, where replicas should be, and which nodes have them.
//!
//! They are rows of the meta group, written through its log like everything else. Every node with a replica keeps a view of the rows
//! that are applied there. A change is answered once the view has it, so that whoever made it sees it at once.

mod archival;
mod change;
mod delete;
mod deployments;
mod elsewhere;
mod failover;
mod formats;
mod joining;
mod moves;
mod namespaces;
mod nexus_endpoints;
mod operations;
mod owner;
mod placements;
mod pools;
mod record;
mod replication;
mod slots;
mod task_queues;
mod topology;
mod update;
mod view;

pub use archival::{Archival, ArchivalWish};
pub use formats::{ClusterFormat, NodeFormats, ReadyFormat, founded_formats};
pub use joining::{ClusterAuthority, NodeCertificate, TOKENS_MAX, TokenRow, TokenScope, TokenUse};
pub use moves::{MoveStep, NamespaceMove, NextSlots, PastStep};
pub use namespaces::{DEFAULT_RETENTION, Namespaces, NewNamespace, Page, SYSTEM_NAMESPACE};
pub use nexus_endpoints::{EndpointId, EndpointSpec, EndpointTarget, NexusEndpoint};
pub use operations::Answer;
pub use owner::keep_open;
pub use placements::{
    DEFAULT_PLACEMENT, PLACEMENTS_MAX, Placement, REPLICAS_DEFAULT, Reads, STALE_MAX, STALE_MAX_DEFAULT, Spread,
    is_name,
};
pub use pools::{NewGroups, PlaceGroups, Pool, PoolId, Sharing, WantedPool};
pub use record::{BadBinary, Deletion, NamespaceRecord};
pub use replication::{
    FAILOVER_VERSION_STEP, Failover, ONLY_REGION, Regions, Replication, ReplicationChange, check_local,
};
pub use task_queues::ConfiguredQueue;
pub use topology::{Founder, GroupRow, Membership, NodeDisk, NodeLabels, NodeRow, Placed, Topology, TopologyChange};

use std::borrow::Cow;

use everlog_kernel::{NamespaceId, Rejection};
use everlog_storage::NodeId;

/// Why the metadata could not be read or changed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum MetaError {
    /// There is no namespace with that name or id.
    #[error("Namespace {0} is not found.")]
    NotFound(String),
    /// There is one already.
    #[error("Namespace {0:?} already exists")]
    AlreadyExists(String),
    /// There is nothing under that name or id.
    #[error("{0}")]
    Missing(Cow<'static, str>),
    /// Something else has that name.
    #[error("{0}")]
    Taken(Cow<'static, str>),
    /// The change is not allowed.
    #[error("{0}")]
    Invalid(Cow<'static, str>),
    /// What is there stands in the way.
    #[error("{0}")]
    Protected(Cow<'static, str>),
    /// The rules of what is to be changed do not allow it.
    #[error("{0}")]
    Rejected(Rejection),
    /// This node cannot change the metadata now. The change may have been made.
    #[error("the metadata cannot be changed now: {0}")]
    Unavailable(String),
    /// Another node leads the metadata. The change was surely not made.
    #[error("node {0} leads the metadata")]
    LedElsewhere(NodeId),
    /// A row is not readable.
    #[error("the metadata is not readable: {0}")]
    Corrupt(String),
}

/// Whether the value of a namespace's row can be read.
///
/// # Errors
///
/// [`MetaError::Corrupt`] if not.
pub fn check_namespace_row(value: &[u8]) -> Result<(), MetaError> {
    NamespaceRecord::decode(NamespaceId::default(), value).map(|_| ())
}

/// Whether the value of the slot table's row can be read.
///
/// # Errors
///
/// [`MetaError::Corrupt`] if not.
pub fn check_slots_row(value: &[u8]) -> Result<(), MetaError> {
    slots::decode(value).map(|_| ())
}
