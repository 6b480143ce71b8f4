//! What an operator sees and steers: every node answers for the whole cluster.
//!
//! ```text
//!   ClusterService (api) ──▶ Operations ──report──▶ this node, and each other one (internal service): its groups, its disk
//!                                 ├─ merge: one view, made of what each says of itself, or the leaders of it
//!                                 └─ steer ──▶ Leads of the node that it is for
//! ```

mod api;
mod formats;
mod joining;
mod leads;
mod merge;
mod namespaces;
mod placements;

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use everlog_meta::{Membership, MetaError, Namespaces, NodeLabels, Placement, PoolId, Sharing};
use everlog_model::{NodeId, OperationId, limits};
use everlog_proto::cluster::{self as api_types, DescribeClusterResponse, Group, GroupKind, Node, NodeState, Replica};
use everlog_proto::internal::{
    Empty, LabelledNode, LeavingNode, NewDisk, NewNode, NodeReport, SettledGroup, SteerRequest, WaitingNode,
};
use everlog_storage::GroupId;
use futures::future::join_all;
use tokio::time::Instant;
use tonic::{Code, Status};

pub use api::ClusterApi;
pub use leads::{Leads, Voters, leads};
pub use placements::check_placement;

use crate::{Formats, Nodes, Picture, Places, Wanted};

/// How long another node may take to answer what an operator asks.
const REPORT_TIME_MAX: Duration = Duration::from_secs(1);

/// Entries of the metadata that a node which is ready may have yet to apply.
const METADATA_LAG_MAX: u64 = 100;

/// The group of the metadata.
const METADATA: GroupId = GroupId(0);

/// What a node says of itself that does not change while it runs.
#[derive(Clone, Debug)]
pub struct About {
    /// Its id.
    pub node: NodeId,
    /// Its release.
    pub version: String,
    /// How often it was started.
    pub start_count: u32,
    /// Its cluster.
    pub cluster_id: String,
    /// The name of that; empty if it is alone.
    pub cluster_name: String,
    /// Where others dial it; empty if there are none.
    pub address: String,
}

/// What a node's data takes, bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct DiskFigures {
    /// The Raft log.
    pub log_bytes: u64,
    /// The rows.
    pub rows_bytes: u64,
    /// What the disk has left.
    pub free_bytes: u64,
    /// What it holds.
    pub total_bytes: u64,
}

/// The parts of [`Operations`].
pub struct OperationsParts {
    /// What the node says of itself.
    pub about: About,
    /// Its leads.
    pub leads: Arc<Leads>,
    /// The other nodes, if there are any.
    pub nodes: Option<Arc<Nodes>>,
    /// Where the others are, as far as it knows.
    pub addresses: Box<dyn Fn() -> BTreeMap<NodeId, String> + Send + Sync>,
    /// Looks at the disk; may block on it.
    pub disk: Arc<dyn Fn() -> DiskFigures + Send + Sync>,
    /// The metadata.
    pub namespaces: Arc<Namespaces>,
    /// How the cluster should be, if there are other nodes.
    pub places: Option<Arc<Places>>,
    /// The data directories that nodes wait with here for a place, and where these nodes are dialled.
    pub waiting: Box<dyn Fn() -> Vec<(uuid::Uuid, String)> + Send + Sync>,
    /// How long certificates are valid that it makes for nodes.
    pub certificate_lifetime: Duration,
    /// What it reads, and what it knows of the others.
    pub formats: Arc<Formats>,
}

/// A cluster as one of its nodes sees and steers it.
pub struct Operations {
    parts: OperationsParts,
    client_address: OnceLock<String>,
}

impl Operations {
    /// Seen from the node with these parts.
    pub fn new(parts: OperationsParts) -> Arc<Operations> {
        Arc::new(Operations { parts, client_address: OnceLock::new() })
    }

    /// Names where the node listens to clients.
    pub fn serves_at(&self, address: String) {
        // It is named once.
        let _ = self.client_address.set(address);
    }

    /// The leads of this node.
    pub fn leads(&self) -> &Arc<Leads> {
        &self.parts.leads
    }

    fn me(&self) -> NodeId {
        self.parts.about.node
    }

    /// Whether calls can be answered here: there is somebody who leads each group, and the metadata is there.
    ///
    /// # Errors
    ///
    /// Why they cannot, one line.
    pub fn readiness(&self) -> Result<(), String> {
        let topology = self.parts.namespaces.topology();
        // Nobody has anything in a group that is being founded.
        let is_founded = |group: &GroupId| topology.groups.get(group).is_none_or(|row| row.founding.is_empty());
        for group in self.leads().groups() {
            let id = group.id();
            if !is_founded(&id) {
                continue;
            }
            let Some(leader) = group.leader() else { return Err(format!("nobody is known to lead group {id}")) };
            if !self.leads().is_reachable(leader) {
                return Err(format!("node {leader}, which leads group {id}, cannot be reached"));
            }
            let waiting = group.status().last_index.saturating_sub(group.applied_index());
            if id == METADATA && waiting > METADATA_LAG_MAX {
                return Err(format!("{waiting} changes of the metadata are not applied yet"));
            }
        }
        Ok(())
    }

    /// What this node says of itself, and of its groups.
    pub(crate) async fn report(&self) -> NodeReport {
        let About { node, version, start_count, address, .. } = self.parts.about.clone();
        let disk = Arc::clone(&self.parts.disk);
        // A panic in there is logged by its thread; nothing is known of the disk then.
        let disk = everlog_storage::blocking::spawn(move || disk()).await.unwrap_or_default();
        let groups: Vec<_> = self.leads().groups().iter().map(|group| self.group(group)).collect();
        let is_draining = self.leads().is_draining();
        let node = Node {
            node_id: node.0,
            address,
            client_address: self.client_address.get().cloned().unwrap_or_default(),
            state: if is_draining { NodeState::Draining } else { NodeState::Up } as i32,
            version,
            start_count,
            log_bytes: disk.log_bytes,
            rows_bytes: disk.rows_bytes,
            disk_free_bytes: disk.free_bytes,
            disk_total_bytes: disk.total_bytes,
            // What all nodes say of groups is counted where it is put together.
            ..Node::default()
        };
        let waiting = (self.parts.waiting)().into_iter().map(|(directory_id, address)| WaitingNode {
            directory_id: Bytes::copy_from_slice(directory_id.as_bytes()),
            address,
        });
        NodeReport { node: Some(node), groups, waiting: waiting.collect() }
    }

    /// Where a node is dialled that waits with a data directory for a place, at whichever node it does.
    pub(super) async fn waiting(&self, directory_id: uuid::Uuid) -> Option<String> {
        let here = (self.parts.waiting)().into_iter().find(|(waiting, _)| *waiting == directory_id);
        if let Some((_, address)) = here {
            return Some(address);
        }
        let reports = join_all(self.asked_reports()).await;
        let mut all = reports.into_iter().filter_map(|(_, report)| report.ok()).flat_map(|report| report.waiting);
        all.find(|waiting| waiting.directory_id[..] == directory_id.as_bytes()[..]).map(|waiting| waiting.address)
    }

    /// Asks all other nodes what they say of themselves.
    fn asked_reports(&self) -> impl Iterator<Item = impl Future<Output = (NodeId, Result<NodeReport, Status>)>> {
        self.parts.nodes.iter().flat_map(|nodes| {
            let asked = move |node| async move { (node, nodes.report(node, REPORT_TIME_MAX).await) };
            nodes.peers().nodes().into_iter().map(asked)
        })
    }

    /// A group as its replica here sees it. Only whoever leads says who does.
    fn group(&self, group: &everlog_raft::Group) -> Group {
        let me = self.me();
        let leads = leads::leads(group);
        let status = group.status();
        let voters = self.leads().voters(group.id());
        let replica = |(node, is_voter): &(NodeId, bool)| {
            let is_here = *node == me;
            Replica {
                node_id: node.0,
                is_voter: *is_voter,
                applied_index: is_here.then(|| group.applied_index()),
                behind_entries: if is_here { None } else { leads.then(|| group.lag(*node)).flatten() },
                should_vote: voters.contains(node),
            }
        };
        Group {
            group_id: group.id().0,
            kind: if group.id() == METADATA { GroupKind::Metadata } else { GroupKind::Partition } as i32,
            leader: if leads { me.0 } else { 0 },
            preferred_leader: voters.first().map_or(0, |node| node.0),
            term: status.term,
            last_index: status.last_index,
            replicas: status.replicas.iter().map(replica).collect(),
            // What should be is said where all is put together.
            wanted_node_ids: Vec::new(),
        }
    }

    /// The whole cluster.
    pub(crate) async fn describe(&self) -> DescribeClusterResponse {
        let (mine, others) = tokio::join!(self.report(), join_all(self.asked_reports()));
        let addresses = (self.parts.addresses)();
        let unreachable = |node: NodeId, status: Status| NodeReport {
            node: Some(Node {
                node_id: node.0,
                address: addresses.get(&node).cloned().unwrap_or_default(),
                state: NodeState::Unreachable as i32,
                problem: status.message().to_owned(),
                ..Node::default()
            }),
            ..NodeReport::default()
        };
        let others = others.into_iter().map(|(node, report)| report.unwrap_or_else(|status| unreachable(node, status)));
        let (mut nodes, mut groups) = merge::merge(std::iter::once(mine).chain(others));
        if let Some(places) = &self.parts.places {
            let picture = places.picture();
            for node in &mut nodes {
                let row = picture.nodes.get(&NodeId(node.node_id));
                node.is_leaving = row.is_some_and(|row| row.membership == Membership::Leaving);
                let NodeLabels { region, zone, others } = picture.labels(NodeId(node.node_id)).clone();
                (node.region, node.zone, node.labels) = (region, zone, others.into_iter().collect());
            }
            for group in &mut groups {
                let row = picture.groups.get(&GroupId(group.group_id)).filter(|row| !row.is_settled);
                let wanted = row.iter().flat_map(|row| &row.replicas).map(|placed| placed.node.0);
                group.wanted_node_ids = wanted.collect();
            }
        }
        let format = self.show_formats(&mut nodes);
        let pools = self.parts.places.as_ref().map(|places| pools(&places.picture())).unwrap_or_default();
        let About { cluster_id, cluster_name, node, .. } = self.parts.about.clone();
        DescribeClusterResponse {
            cluster_id,
            cluster_name,
            answered_by: node.0,
            nodes,
            groups,
            pools,
            format: Some(format),
        }
    }

    /// The nodes that should have replicas of a group, this one aside.
    pub fn others_with(&self, group: GroupId) -> Vec<NodeId> {
        let row = self.parts.places.as_ref().and_then(|places| places.picture().groups.remove(&group));
        let placed = row.into_iter().flat_map(|row| row.replicas);
        placed.map(|placed| placed.node).filter(|node| *node != self.me()).collect()
    }

    /// Where a node of each region listens to clients, as far as nodes answer.
    pub async fn client_addresses(&self) -> BTreeMap<String, String> {
        let topology = self.parts.namespaces.topology();
        let address = |node: Node| {
            let region = topology.region_of(NodeId(node.node_id)).filter(|_| !node.client_address.is_empty())?;
            Some((region.to_owned(), node.client_address))
        };
        self.describe().await.nodes.into_iter().filter_map(address).collect()
    }

    /// Does what this node is told to.
    pub(crate) async fn steered(&self, request: SteerRequest) -> Result<(), Status> {
        let operation = match &request.operation[..] {
            [] => None,
            id => Some(OperationId::from_bytes(id.try_into().map_err(|error| invalid("operation", &error))?)),
        };
        // The futures of whoever calls would be nested too deeply for the compiler.
        let carried_out = Box::pin(self.carry_out(request));
        match operation {
            Some(operation) => operation.scope(carried_out).await,
            None => carried_out.await,
        }
    }

    async fn carry_out(&self, request: SteerRequest) -> Result<(), Status> {
        let notes = joining::notes(&request)?;
        let SteerRequest { is_draining, kept, released, transfers, new_disk, new_node, leaving, settled, .. } = request;
        let SteerRequest { labels, placements, deleted_placement, formats, finalize, .. } = request;
        let leads = self.leads();
        if let Some(is_draining) = is_draining {
            leads.drain(is_draining);
        }
        leads.keep(kept.into_iter().map(GroupId), true);
        leads.keep(released.into_iter().map(GroupId), false);
        for transfer in transfers {
            leads.transfer(GroupId(transfer.group), NodeId(transfer.to_node)).await;
        }
        let placements: Vec<_> = placements
            .iter()
            .map(|row| Placement::decode(row))
            .collect::<Result<_, _>>()
            .map_err(|error| refused(&error))?;
        let wanted = [
            new_node.map(joins).transpose()?,
            leaving.map(leaves),
            settled.map(is_settled),
            labels.map(are_labels),
            (!placements.is_empty()).then_some(Wanted::Placements(placements)),
            (!deleted_placement.is_empty()).then_some(Wanted::NoPlacement(deleted_placement)),
        ];
        for wanted in wanted {
            if let Some((wanted, places)) = wanted.zip(self.parts.places.as_ref()) {
                places.change(&wanted).await.map_err(|error| refused(&error))?;
            }
        }
        for note in notes {
            self.places()?.note(&note, joining::now_ms()).await.map_err(|error| refused(&error))?;
        }
        self.carry_out_formats(formats, finalize).await?;
        let Some(NewDisk { node, directory_id }) = new_disk else { return Ok(()) };
        let directory_id = uuid::Uuid::from_slice(&directory_id).map_err(|error| invalid("new_disk", &error))?;
        let replaced = self.parts.namespaces.replace_disk(NodeId(node), directory_id).await;
        replaced.map(drop).map_err(|error| refused(&error))
    }

    /// Has a data directory take the place of a node's disk, on whichever node leads the metadata. Returns how many disks of that node are lost.
    async fn replace_disk(&self, node: NodeId, directory_id: uuid::Uuid) -> Result<u32, Status> {
        let namespaces = &self.parts.namespaces;
        let new_disk = NewDisk { node: node.0, directory_id: directory_id.as_bytes().to_vec().into() };
        self.change(SteerRequest { new_disk: Some(new_disk), ..SteerRequest::default() }).await?;
        let topology = namespaces.topology();
        let disk = topology.disks.get(&node).filter(|disk| disk.directory_id == directory_id);
        disk.map(|disk| disk.number).ok_or_else(|| Status::aborted("another disk has taken the place of this one"))
    }

    /// Has the metadata changed by whichever node leads them, once, whoever leads meanwhile. All nodes that can be reached have seen it, too, when this
    /// returns.
    async fn change(&self, request: SteerRequest) -> Result<(), Status> {
        let operation = Bytes::copy_from_slice(&OperationId::random().to_bytes());
        let request = SteerRequest { operation, ..request };
        let until = Instant::now() + limits::FORWARD_WAIT_MAX;
        let mut pause = limits::FORWARD_AGAIN_WAIT.0;
        loop {
            match self.try_change(request.clone()).await {
                Err(status) if status.code() == Code::Unavailable && Instant::now() + pause < until => {}
                changed => return changed,
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(limits::FORWARD_AGAIN_WAIT.1);
        }
    }

    async fn try_change(&self, request: SteerRequest) -> Result<(), Status> {
        let namespaces = &self.parts.namespaces;
        self.steer(namespaces.leader().unwrap_or(self.me()), request).await?;
        if let Some(nodes) = &self.parts.nodes {
            let seen = namespaces.catch_up_with(async |leader| nodes.metadata_position(leader).await).await;
            seen.map_err(crate::wire::status_from_error)?;
            nodes.await_metadata(namespaces.seen()).await;
        }
        Ok(())
    }

    /// Tells whoever leads the metadata that a group has the replicas it should have, by that version of them.
    ///
    /// # Errors
    ///
    /// When it was not told. It may be told again.
    pub async fn settled(&self, group: GroupId, version: u64) -> Result<(), Status> {
        let settled = SettledGroup { group: group.0, version };
        let leader = self.parts.namespaces.leader().unwrap_or(self.me());
        self.steer(leader, SteerRequest { settled: Some(settled), ..SteerRequest::default() }).await
    }

    /// Tells whoever leads the metadata where and what this node is.
    ///
    /// # Errors
    ///
    /// When it was not told. It may be told again.
    pub async fn labelled(&self, labels: NodeLabels) -> Result<(), Status> {
        let NodeLabels { region, zone, others: labels } = labels;
        let labels = LabelledNode { node: self.me().0, region, zone, labels };
        let leader = self.parts.namespaces.leader().unwrap_or(self.me());
        self.steer(leader, SteerRequest { labels: Some(labels), ..SteerRequest::default() }).await
    }

    /// Has a node do something.
    async fn steer(&self, node: NodeId, request: SteerRequest) -> Result<(), Status> {
        if node == self.me() {
            return self.steered(request).await;
        }
        match &self.parts.nodes {
            Some(nodes) => nodes.steer(node, request).await.map(|Empty {}| ()),
            None => Err(Status::not_found(format!("there is no node {node}"))),
        }
    }
}

/// The pools of a cluster, by id.
fn pools(picture: &Picture) -> Vec<api_types::Pool> {
    let mut all: BTreeMap<PoolId, api_types::Pool> = BTreeMap::new();
    for partition in picture.partitions() {
        let pool = picture.pool_of(partition);
        let placement = picture.placement_of(partition);
        let shown = all.entry(pool.map_or(PoolId::DEFAULT, |(id, _)| id)).or_insert_with(|| api_types::Pool {
            pool_id: pool.map_or(0, |(id, _)| id.0),
            placement: placement.name.clone(),
            failover_group: match pool.map(|(_, pool)| &pool.sharing) {
                Some(Sharing::FailoverGroup(name)) => name.clone(),
                _ => String::new(),
            },
            fails_over: pool.is_some_and(|(_, pool)| pool.sharing != Sharing::Placement),
            leaders: placement.leaders.clone(),
            replicas: placement.replicas,
            group_ids: Vec::new(),
        });
        shown.group_ids.push(partition.0);
    }
    all.into_values().collect()
}

fn joins(node: NewNode) -> Result<Wanted, Status> {
    let NewNode { directory_id, address, node } = node;
    let directory_id = uuid::Uuid::from_slice(&directory_id).map_err(|error| invalid("new_node", &error))?;
    Ok(Wanted::Joins { directory_id, address, node: (node > 0).then_some(NodeId(node)) })
}

fn leaves(LeavingNode { node, stays }: LeavingNode) -> Wanted {
    if stays { Wanted::Stays(NodeId(node)) } else { Wanted::Leaves(NodeId(node)) }
}

fn are_labels(LabelledNode { node, region, zone, labels: others }: LabelledNode) -> Wanted {
    Wanted::Labels(NodeId(node), NodeLabels { region, zone, others })
}

fn is_settled(SettledGroup { group, version }: SettledGroup) -> Wanted {
    Wanted::Settled(GroupId(group), version)
}

/// Why the metadata were not changed.
fn refused(error: &MetaError) -> Status {
    match error {
        MetaError::Invalid(why) => Status::failed_precondition(why.clone().into_owned()),
        error => Status::unavailable(error.to_string()),
    }
}

fn invalid(field: &str, why: &dyn std::fmt::Display) -> Status {
    Status::invalid_argument(format!("{field}: {why}"))
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
