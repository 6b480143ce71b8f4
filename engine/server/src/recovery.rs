//! What is left of a cluster is made a cluster again, after a majority of some group was lost for ever. With all of its nodes stopped.
//!
//! ```text
//!   each node that is left: collect ──▶ what it has of each group ─┐
//!                                                                  ├─▶ plan: for each group the replica that goes on alone
//!   whoever runs the cluster: which nodes are lost for ever ───────┘          │
//!   each node that is left: apply ◀────────────────────────────────────────────┘
//! ```
//!
//! What is left becomes another cluster, with an id of its own, in which the lost nodes are removed ones. So nothing that a lost node still
//! says is heard, should it ever come back. The metadata always go on from one node alone, with the entries that say so; a group that has a
//! majority stays as it is, and loses its lost replicas as it would lose those of a node that was removed; of any other the replica that has
//! most goes on alone, and all of its other replicas are discarded. Once the nodes run, groups get new replicas by themselves.

mod plan;

use std::path::Path;
use std::time::Duration;

use everlog_cluster::{Picture, generation_of};
use everlog_meta::{GroupRow, Membership, NodeRow, Placed, TopologyChange};
use everlog_model::NodeId;
use everlog_raft::{GroupReplica, Leadership, Remains, ReplicaId};
use everlog_storage::GroupId;
use everlog_storage::directory::{DataDirectory, DirectoryError, Founding, FoundingMember, Joined};
use everlog_storage::state::RowBatch;
use serde::{Deserialize, Serialize};

pub use plan::{Allowed, Outcome, PlannedGroup, RecoveryPlan, Survivor, plan};

use crate::node::META_GROUP;
use crate::offline::Offline;

/// The form of what is collected and planned.
pub const FORMAT: u32 = 1;

/// How long a group that begins anew may take to elect its only replica.
const LEAD_TIME_MAX: Duration = Duration::from_secs(60);

/// Why something cannot be done; one line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct RecoveryError(pub String);

/// What a node that is left has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Collected {
    /// See [`FORMAT`].
    pub format: u32,
    /// The name of its cluster.
    pub cluster: String,
    /// The id of that.
    pub cluster_id: uuid::Uuid,
    /// The node.
    pub node: u32,
    /// Its data directory.
    pub directory_id: uuid::Uuid,
    /// How many disks it has lost before this one.
    pub disk: u32,
    /// The nodes of the cluster, as far as it knows.
    pub members: Vec<Member>,
    /// The groups of the cluster, as far as it knows, with the last generation of replicas that was given out.
    pub groups: Vec<KnownGroup>,
    /// What it has of them.
    pub replicas: Vec<Left>,
}

/// A node of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// Its id.
    pub node: u32,
    /// Where it was dialled.
    pub address: String,
}

/// A group that there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KnownGroup {
    /// Its id.
    pub group: u32,
    /// The last generation of its replicas.
    pub last_generation: u32,
}

/// A replica that is left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Left {
    /// Its group.
    pub group: u32,
    /// Its id.
    pub replica: ReplicaId,
    /// The nodes that vote, as far as it knows: in each of the sets a majority is needed.
    pub voters: Vec<Vec<u32>>,
    /// Term of its last entry.
    pub term: u64,
    /// Index of its last entry.
    pub index: u64,
    /// When its last entry was decided, nanoseconds since 1970.
    pub last_at: u64,
}

/// A data directory whose node is stopped.
struct Stopped {
    directory: DataDirectory,
    founding: Founding,
    me: NodeId,
    disk: u32,
    offline: Offline,
}

impl Stopped {
    fn open(path: &Path) -> Result<Stopped, RecoveryError> {
        if !path.join("FORMAT").is_file() {
            return Err(RecoveryError(format!("{} is no data directory of everlog", path.display())));
        }
        let directory = DataDirectory::open(path)?;
        let shown = path.display();
        let founding = directory.founded()?.ok_or_else(|| {
            RecoveryError(format!("data directory {shown} is that of a single node, which has no other nodes to lose"))
        })?;
        let (me, disk) = founding.node(directory.id()).ok_or_else(|| {
            RecoveryError(format!("data directory {shown} is that of no node of cluster {:?}", founding.name))
        })?;
        let offline = Offline::open(&directory).map_err(failed)?;
        Ok(Stopped { directory, founding, me: NodeId(me), disk, offline })
    }

    fn raft(&self) -> &everlog_raft::Node {
        &self.offline.raft
    }

    async fn left(&self, group: GroupId) -> Result<Option<Left>, RecoveryError> {
        let remains = self.raft().remains(group).await.map_err(failed)?;
        Ok(remains.map(|remains| left(group, &remains)))
    }

    async fn close(self) -> Result<(), RecoveryError> {
        self.raft().shutdown().await.map_err(failed)
    }
}

fn left(group: GroupId, remains: &Remains) -> Left {
    let voters = remains.voters.iter().map(|voters| voters.iter().map(|node| node.0).collect()).collect();
    let (term, index) = remains.last;
    Left { group: group.0, replica: remains.replica.replica, voters, term, index, last_at: remains.last_at.0 }
}

/// What the node of a data directory has. Its process must not run. Changes nothing.
///
/// # Errors
///
/// One line: the directory is none of a node of several, is in use, or cannot be read.
pub async fn collect(path: &Path) -> Result<Collected, RecoveryError> {
    let stopped = Stopped::open(path)?;
    stopped.directory.check_whole()?;
    let picture = Picture::new(&stopped.founding, &stopped.offline.topology().await.map_err(failed)?);
    let members = picture.members().map(|(node, row)| Member { node: node.0, address: row.address.clone() }).collect();
    let known =
        |(group, row): (&GroupId, &GroupRow)| KnownGroup { group: group.0, last_generation: row.last_generation };
    let groups: Vec<_> = picture.groups.iter().map(known).collect();
    let mut replicas = Vec::new();
    for known in &groups {
        replicas.extend(stopped.left(GroupId(known.group)).await?);
    }
    let collected = Collected {
        format: FORMAT,
        cluster: stopped.founding.name.clone(),
        cluster_id: stopped.founding.cluster_id,
        node: stopped.me.0,
        directory_id: stopped.directory.id(),
        disk: stopped.disk,
        members,
        groups,
        replicas,
    };
    stopped.close().await?;
    Ok(collected)
}

/// Makes the data directory of a node that is left part of the cluster that a plan makes of it. May be repeated if it was cut off. Returns what was
/// done, a line each.
///
/// # Errors
///
/// One line: the plan is not for this directory, the node has run since it was collected, or the disk fails.
pub async fn apply(path: &Path, plan: &RecoveryPlan) -> Result<Vec<String>, RecoveryError> {
    let stopped = Stopped::open(path)?;
    let survivor = plan.survivors.iter().find(|survivor| survivor.directory_id == stopped.directory.id());
    let survivor = survivor.ok_or_else(|| {
        RecoveryError(format!("the plan knows nothing of data directory {}: it was not collected", path.display()))
    })?;
    let begun = stopped.directory.recovering()?;
    if begun.is_none() && stopped.founding.cluster_id == plan.new_cluster_id {
        stopped.close().await?;
        return Ok(vec![format!("node {} is recovered already: nothing was changed", survivor.node)]);
    }
    if begun.is_some_and(|begun| begun != plan.new_cluster_id) {
        return Err(RecoveryError("another plan was begun with here: go on with that one".to_owned()));
    }
    if begun.is_none() {
        check_unchanged(&stopped, plan, survivor).await?;
        stopped.directory.begin_recovery(plan.new_cluster_id)?;
    }
    let mut done = Vec::new();
    for planned in &plan.groups {
        // The metadata come last: they say what became of the others.
        if planned.group != META_GROUP.0 {
            done.extend(apply_to_group(&stopped, planned).await?);
        }
    }
    let leads_metadata = plan.metadata_node() == Some(survivor.node);
    if leads_metadata {
        stopped.raft().apply_all(META_GROUP).await.map_err(failed)?;
        let topology = stopped.offline.topology().await.map_err(failed)?;
        let rows = changes(plan, &Picture::new(&stopped.founding, &topology))?;
        let rows = RowBatch { changes: rows.iter().map(TopologyChange::row).collect() };
        let replica = stopped.raft().replica_here(META_GROUP).await.map_err(failed)?;
        let replica = replica.ok_or_else(|| RecoveryError("the metadata are not here".to_owned()))?;
        stopped.raft().go_on_alone(replica, stopped.me, rows).await.map_err(failed)?;
        done.push("the metadata go on from here".to_owned());
    } else {
        stopped.raft().discard_group(META_GROUP).await.map_err(failed)?;
    }
    let founding = founding(&stopped, plan, leads_metadata);
    let Stopped { directory, offline, .. } = stopped;
    offline.raft.shutdown().await.map_err(failed)?;
    directory.finish_recovery(&founding, leads_metadata)?;
    Ok(done)
}

/// Refuses a node that has written since it was collected.
async fn check_unchanged(stopped: &Stopped, plan: &RecoveryPlan, survivor: &Survivor) -> Result<(), RecoveryError> {
    if stopped.founding.cluster_id != plan.cluster_id {
        return Err(RecoveryError(format!(
            "the data directory is of cluster {}, the plan is for {}",
            stopped.founding.cluster_id, plan.cluster_id
        )));
    }
    for planned in &plan.groups {
        let now = stopped.left(GroupId(planned.group)).await?;
        if now.as_ref() != survivor.replicas.iter().find(|left| left.group == planned.group) {
            return Err(RecoveryError(format!(
                "node {} has run since it was collected (group {} is another): collect and plan again",
                survivor.node, planned.group
            )));
        }
    }
    Ok(())
}

/// Does to a partition here what is planned.
async fn apply_to_group(stopped: &Stopped, planned: &PlannedGroup) -> Result<Option<String>, RecoveryError> {
    let group = GroupId(planned.group);
    match &planned.outcome {
        Outcome::Stays { .. } => Ok(None),
        Outcome::Alone { node, replica, .. } if NodeId(*node) == stopped.me => {
            let replica = GroupReplica { group, group_epoch: 1, replica: *replica };
            stopped.raft().go_on_alone(replica, stopped.me, RowBatch::default()).await.map_err(failed)?;
            Ok(Some(format!("group {group} goes on from here")))
        }
        Outcome::Anew { node, replica } if NodeId(*node) == stopped.me => {
            begin_anew(stopped, GroupReplica { group, group_epoch: 1, replica: *replica }).await?;
            Ok(Some(format!("group {group} begins anew here, empty")))
        }
        Outcome::Alone { .. } | Outcome::Anew { .. } => {
            let had = stopped.raft().replica_here(group).await.map_err(failed)?.is_some();
            stopped.raft().discard_group(group).await.map_err(failed)?;
            Ok(had.then(|| format!("the replica of group {group} is discarded: it goes on from another node")))
        }
    }
}

async fn begin_anew(stopped: &Stopped, replica: GroupReplica) -> Result<(), RecoveryError> {
    let here = stopped.raft().replica_here(replica.group).await.map_err(failed)?;
    if here.is_some_and(|here| here != replica) {
        stopped.raft().discard_group(replica.group).await.map_err(failed)?;
    }
    let group = stopped.raft().create_replica(replica).await.map_err(failed)?;
    if !group.is_founded() {
        group.found(&[(replica.replica, stopped.me)].into()).await.map_err(failed)?;
    }
    let mut leadership = group.leadership();
    let led = leadership.wait_for(|now| matches!(now, Leadership::Leader { .. }));
    match tokio::time::timeout(LEAD_TIME_MAX, led).await {
        Ok(Ok(_)) => Ok(()),
        _ => Err(RecoveryError(format!("group {} does not begin", replica.group))),
    }
}

/// What the metadata are to say from now on.
fn changes(plan: &RecoveryPlan, picture: &Picture) -> Result<Vec<TopologyChange>, RecoveryError> {
    let mut changes = Vec::new();
    for node in plan.lost.iter().map(|node| NodeId(*node)) {
        if let Some(row) = picture.nodes.get(&node) {
            changes.push(TopologyChange::Node(node, NodeRow { membership: Membership::Removed, ..row.clone() }));
        }
    }
    for planned in &plan.groups {
        let group = GroupId(planned.group);
        let (node, replica) = match planned.outcome {
            Outcome::Stays { .. } => continue,
            Outcome::Alone { node, replica, .. } | Outcome::Anew { node, replica } => (NodeId(node), replica),
        };
        let row = picture.groups.get(&group);
        let row = row.ok_or_else(|| RecoveryError(format!("the metadata know no group {group}")))?;
        let generation = generation_of(replica)
            .ok_or_else(|| RecoveryError(format!("group {group}: {replica} is the id of no replica of a cluster")))?;
        let row = GroupRow {
            version: row.version + 1,
            last_generation: row.last_generation.max(generation),
            replicas: vec![Placed { node, generation, is_voter: true }],
            leaving: Vec::new(),
            is_settled: true,
            founding: Vec::new(),
        };
        changes.push(TopologyChange::Group(group, row));
    }
    Ok(changes)
}

/// What the node knows of its cluster from now on. One without metadata waits for them, as a node does that joins: it must not found anything.
fn founding(stopped: &Stopped, plan: &RecoveryPlan, leads_metadata: bool) -> Founding {
    let former = stopped.founding.former.iter().copied().chain([plan.cluster_id]).collect();
    let known = Founding { cluster_id: plan.new_cluster_id, former, ..stopped.founding.clone() };
    if leads_metadata {
        return known;
    }
    let others = plan.survivors.iter().filter(|survivor| NodeId(survivor.node) != stopped.me);
    let me = plan.survivors.iter().find(|survivor| NodeId(survivor.node) == stopped.me);
    let member = FoundingMember {
        directory_id: stopped.directory.id(),
        address: me.map(|me| me.address.clone()).unwrap_or_default(),
        disk: stopped.disk,
    };
    let others = others.map(|other| (other.node, other.address.clone())).collect();
    Founding { joined: Some(Joined { node_id: stopped.me.0, member, others }), ..known }
}

fn failed(error: impl std::fmt::Display) -> RecoveryError {
    RecoveryError(error.to_string())
}

impl From<DirectoryError> for RecoveryError {
    fn from(error: DirectoryError) -> RecoveryError {
        failed(error)
    }
}
