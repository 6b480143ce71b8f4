//! Where a request has to go: to a partition of this node, or to the node that leads it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use everlog_kernel::command::Reply;
use everlog_kernel::outbox::OutboxMessage;
use everlog_kernel::{Command, NamespaceId, RunId};
use everlog_model::{
    CallError, NamespaceSource, NodeId, QueueId, Share, SlotSet, SlotSource, WorkflowRef, limits, slot_of,
};
use everlog_raft::{Group, ReadConsistency};
use everlog_storage::GroupId;
use futures::future::try_join_all;

use super::cluster::{Cluster, OtherNodes};
use super::outbox::Delivery;
use super::{Partition, Partitions, Status, deliver};

/// The way of a request.
#[derive(Clone)]
pub enum Route {
    /// It is answered here.
    Here(Arc<Partition>),
    /// That node answers it.
    There(NodeId),
    /// No node is known that would.
    Nowhere,
}

/// Where what concerns many workflows is to be asked.
#[derive(Default)]
pub struct Spread {
    /// The partitions that are led here, with the slots that are looked for in each if the namespace is moving.
    pub here: Vec<(Group, Option<SlotSet>)>,
    /// The other nodes, with what they lead.
    pub there: BTreeMap<NodeId, Vec<Share>>,
}

impl Spread {
    /// Makes sure that what is here is led here: see [`confirm_leads`].
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn confirm(&self) -> Result<(), CallError> {
        let here: Vec<_> = self.here.iter().map(|(group, _)| group.clone()).collect();
        confirm_leads(&here).await
    }
}

/// Finds the way of each request. Cheap to clone.
#[derive(Clone)]
pub struct Router {
    slots: Arc<dyn SlotSource>,
    cluster: Cluster,
    partitions: Partitions,
}

impl Router {
    /// Routes to `partitions`, which are those of this node, and to the nodes that lead the others.
    pub fn new(partitions: Partitions, slots: Arc<dyn SlotSource>, cluster: Cluster) -> Router {
        Router { slots, cluster, partitions }
    }

    /// The way to a workflow, or to any other entity of that id.
    pub fn workflow(&self, namespace_id: NamespaceId, id: &str) -> Route {
        self.slot(namespace_id, slot_of(namespace_id, id))
    }

    /// The way to the home of a task queue.
    pub fn queue(&self, queue: &QueueId) -> Route {
        self.slot(queue.namespace_id, queue.slot())
    }

    /// The way to whatever of a namespace has that hash slot.
    pub fn slot(&self, namespace_id: NamespaceId, slot: u16) -> Route {
        let partition = self.slots.partition_of(namespace_id, slot);
        partition.map_or(Route::Nowhere, |partition| self.route(partition))
    }

    pub(crate) fn way(&self, workflow: &WorkflowRef) -> Route {
        self.slot(workflow.namespace.id, workflow.slot())
    }

    /// The way to whoever leads a partition.
    pub fn route(&self, partition: GroupId) -> Route {
        if let Some(node) = self.cluster.leaders.leads_elsewhere(partition) {
            return Route::There(node);
        }
        self.partitions.get(partition).map_or(Route::Nowhere, Route::Here)
    }

    pub(crate) fn others(&self) -> &dyn OtherNodes {
        &*self.cluster.others
    }

    /// Whether another node leads the workflow.
    pub fn is_elsewhere(&self, workflow: &WorkflowRef) -> bool {
        matches!(self.way(workflow), Route::There(_))
    }

    /// The partition of a workflow, which must be led here: whatever comes this far was routed.
    ///
    /// # Errors
    ///
    /// [`CallError::NotDone`] if another node leads it by now, or none.
    pub fn partition_of(&self, workflow: &WorkflowRef) -> Result<Arc<Partition>, CallError> {
        led_here(self.way(workflow))
    }

    /// The group of a partition, which must be led here.
    ///
    /// # Errors
    ///
    /// As [`Router::partition_of`].
    pub fn group(&self, partition: GroupId) -> Result<Group, CallError> {
        Ok(led_here(self.route(partition))?.group())
    }

    /// The replica of a partition that this node has, whoever leads it.
    pub fn replica(&self, partition: GroupId) -> Option<Group> {
        self.partitions.get(partition).map(|partition| partition.group())
    }

    /// The replica that this node has of the partition with a slot of a namespace, whoever leads it.
    pub fn replica_with(&self, namespace_id: NamespaceId, slot: u16) -> Option<Group> {
        self.replica(self.slots.partition_of(namespace_id, slot)?)
    }

    /// The partitions that a namespace, or a workflow of it, may have something in, and which slots are looked for in each.
    pub fn holders(&self, namespace_id: NamespaceId, workflow: Option<&WorkflowRef>) -> Vec<Share> {
        let only = |workflow: &WorkflowRef| {
            let partition = self.slots.partition_of(namespace_id, workflow.slot())?;
            Some(Share { partition, slots: Some([workflow.slot()].into_iter().collect()) })
        };
        match workflow {
            Some(workflow) => only(workflow).into_iter().collect(),
            None => self.slots.shares_of(namespace_id),
        }
    }

    /// What is told when no node is known to lead a partition.
    pub(crate) fn nowhere() -> CallError {
        CallError::NotDone("no node is known to lead the partition".to_owned())
    }

    /// Carries out a command: see [`Partition::execute`].
    ///
    /// # Errors
    ///
    /// As there, and those of [`Router::partition_of`].
    pub async fn execute(
        &self,
        workflow: WorkflowRef,
        run_id: Option<RunId>,
        command: impl Into<Command>,
    ) -> Result<Reply, CallError> {
        self.partition_of(&workflow)?.execute(workflow, run_id, command).await
    }

    /// Takes in a message that another node has sent to a workflow.
    pub async fn receive(&self, namespaces: &dyn NamespaceSource, message: &OutboxMessage) -> Delivery {
        let Some(target) = deliver::target(namespaces, message) else { return Delivery::Again };
        match self.partition_of(&target) {
            Ok(partition) => deliver::to(&partition, target, message).await,
            Err(_) => Delivery::Again,
        }
    }

    /// Where a workflow of a namespace is, or all of them are.
    ///
    /// # Errors
    ///
    /// [`CallError::NotDone`] if no node is known to lead one of the partitions.
    pub fn spread(&self, namespace_id: NamespaceId, workflow: Option<&WorkflowRef>) -> Result<Spread, CallError> {
        let shares = self.holders(namespace_id, workflow);
        let mut spread = Spread { here: Vec::new(), there: BTreeMap::new() };
        for share in shares {
            match self.route(share.partition) {
                Route::Here(partition) => spread.here.push((partition.group(), share.slots)),
                Route::There(node) => spread.there.entry(node).or_default().push(share),
                Route::Nowhere => return Err(Router::nowhere()),
            }
        }
        let found_none = spread.here.is_empty() && spread.there.is_empty();
        if found_none { Err(Router::nowhere()) } else { Ok(spread) }
    }

    /// The partitions of this node.
    pub fn partitions(&self) -> &Partitions {
        &self.partitions
    }

    /// The partitions of this node that a namespace may have something in, with its slots that each of them has if it is moving.
    pub fn partitions_of(&self, namespace_id: NamespaceId) -> Vec<(Arc<Partition>, Option<SlotSet>)> {
        let here = |share: Share| Some((self.partitions.get(share.partition)?, share.slots));
        self.slots.shares_of(namespace_id).into_iter().filter_map(here).collect()
    }

    /// The node that is known to lead a partition; `me` is this one.
    pub fn leader(&self, partition: GroupId, me: NodeId) -> Option<NodeId> {
        match self.route(partition) {
            Route::Here(partition) => (*partition.status.borrow() == Status::Serving).then_some(me),
            Route::There(node) => Some(node),
            Route::Nowhere => None,
        }
    }

    /// How many partitions there are, here and elsewhere, for namespaces that choose no others.
    pub fn partitions_count(&self) -> usize {
        self.slots.default_partitions().len()
    }
}

/// Makes sure that these groups are led here, so that everything that was acknowledged is in the rows that are read afterwards.
///
/// # Errors
///
/// [`CallError::NotDone`] if one of them is not, or nobody confirms it.
pub async fn confirm_leads(groups: &[Group]) -> Result<(), CallError> {
    // Mostly the lease says so, which costs nothing.
    confirm(groups.iter().filter(|group| !group.lease_valid(Instant::now()))).await
}

/// The same without trust in leases: a majority is asked.
///
/// # Errors
///
/// As [`confirm_leads`].
pub async fn confirm_by_quorum(groups: &[Group]) -> Result<(), CallError> {
    confirm(groups.iter()).await
}

async fn confirm<'a>(groups: impl Iterator<Item = &'a Group>) -> Result<(), CallError> {
    let confirmed = try_join_all(groups.map(|group| group.read_barrier(ReadConsistency::Linearizable)));
    // A leader that nobody answers would wait for ever.
    match tokio::time::timeout(limits::LEAD_CONFIRM_TIME_MAX, confirmed).await {
        Ok(confirmed) => confirmed.map(drop).map_err(|error| CallError::NotDone(error.to_string())),
        Err(_) => Err(CallError::NotDone("no majority confirms who leads".to_owned())),
    }
}

fn led_here(route: Route) -> Result<Arc<Partition>, CallError> {
    match route {
        Route::Here(partition) => Ok(partition),
        Route::There(node) => Err(CallError::NotDone(format!("node {node} leads the partition"))),
        Route::Nowhere => Err(Router::nowhere()),
    }
}
