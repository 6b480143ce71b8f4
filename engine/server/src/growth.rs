//! A node that was alone becomes the first of a cluster, with all it has. Others are added to it then.
//!
//! Its groups have a replica whose id is that of every lone node's. Before it may have others beside it, it gets the id that it would have, had it
//! founded its cluster: offline, at the first start with a `[cluster]`, group by group. What says that it is a cluster is written last, so whoever
//! was cut off begins again.

use everlog_cluster::replica_id;
use everlog_model::NodeId;
use everlog_raft::GroupReplica;
use everlog_storage::GroupId;
use everlog_storage::directory::{DataDirectory, Founding, FoundingMember};
use everlog_storage::state::RowBatch;

use crate::node::{META_GROUP, NodeError};
use crate::offline::Offline;

/// The first node.
const ME: NodeId = NodeId(1);

/// Refuses a data directory of a node without others that cannot become the first of a cluster.
///
/// # Errors
///
/// [`NodeError::Cluster`] if the settings want more nodes than there are, or the directory was never used to its end.
pub(crate) fn check(directory: &DataDirectory, initial_nodes: u32) -> Result<(), NodeError> {
    let path = directory.path().display();
    if initial_nodes != 1 {
        return Err(NodeError::Cluster(format!(
            "data directory {path} is that of a single node: with initial_nodes = 1 it becomes the first of a cluster, and others are added then"
        )));
    }
    match directory.identity()? {
        Some(identity) if identity.is_bootstrapped && identity.node_id == ME.0 => Ok(()),
        _ => Err(NodeError::Cluster(format!(
            "data directory {path} is that of a single node that has never served: start it without [cluster] first"
        ))),
    }
}

/// Makes a cluster of one node of such a directory.
///
/// # Errors
///
/// When the disk fails.
pub(crate) async fn found_with_one(
    directory: &DataDirectory,
    name: &str,
    advertise: &str,
    election_timeout_ms: u32,
) -> Result<(), NodeError> {
    let offline = Offline::open(directory)?;
    // The first partitions are those that the node was founded with; the metadata name those that were made since.
    let later = offline.topology().await?.groups;
    let raft = offline.raft;
    let mut partitions = META_GROUP.0;
    while !later.contains_key(&GroupId(partitions + 1)) && raft.replica_here(GroupId(partitions + 1)).await?.is_some() {
        partitions += 1;
    }
    for group in (META_GROUP.0..=partitions).map(GroupId).chain(later.into_keys()) {
        match raft.remains(group).await? {
            // It is made by whoever it is to be founded with, at the next start.
            None => {}
            Some(remains) if remains.voters.is_empty() => raft.discard_group(group).await?,
            Some(_) => {
                let replica = GroupReplica { group, group_epoch: 1, replica: replica_id(ME, 0, 0) };
                raft.go_on_alone(replica, ME, RowBatch::default()).await?;
            }
        }
    }
    raft.shutdown().await?;
    let member = FoundingMember { directory_id: directory.id(), address: advertise.to_owned(), disk: 0 };
    directory.found(&Founding {
        cluster_id: directory.id(),
        name: name.to_owned(),
        proposer: directory.id(),
        attempt: 1,
        partitions,
        election_timeout_ms,
        members: vec![member],
        former: Vec::new(),
        joined: None,
    })?;
    tracing::info!(name, partitions, "this node is the first of a cluster now");
    Ok(())
}
