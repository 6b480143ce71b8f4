//! Carries messages to the partitions of their targets. That is all that has to know where these are.
//!
//! ```text
//!   lead ──parcels──▶ Post ──led here──▶ the target's partition
//!                       └──led elsewhere──▶ OtherNodes: all for a node in one call ──▶ Router::receive there
//! ```

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use everlog_kernel::outbox::{OutboxMessage, Outcome};
use everlog_kernel::{Command, EntityKind, RunCommand, ScheduleCommand};
use everlog_model::{CallError, NamespaceSource, NodeId, SlotSource, WorkflowRef};
use everlog_storage::keys::OutboxKey;
use futures::StreamExt;
use futures::stream::{self, BoxStream, FuturesUnordered};

use super::cluster::Cluster;
use super::outbox::{Delivery, Parcel};
use super::{Dependencies, Partition, WeakPartitions};

/// Carries messages to their targets.
pub(crate) trait Carrier: Send + Sync + 'static {
    /// Delivers each message once, and tells how that went in whatever order they end. A message that is left out counts as on its
    /// way until the lead is lost.
    fn deliver(&self, parcels: Vec<Parcel>) -> BoxStream<'static, (OutboxKey, Delivery)>;
}

/// Carries messages between the partitions of this node, and to other nodes.
pub(crate) struct Post {
    namespaces: Arc<dyn NamespaceSource>,
    slots: Arc<dyn SlotSource>,
    cluster: Cluster,
    /// Weak, because the partitions have this.
    partitions: OnceLock<WeakPartitions>,
}

/// Where a message has to go.
enum Way {
    Here(Arc<Partition>, WorkflowRef),
    There(NodeId),
    /// Nobody knows at the moment.
    Nowhere,
}

impl Post {
    /// Between partitions that are yet to be named.
    pub(crate) fn new(dependencies: &Dependencies) -> Post {
        let Dependencies { namespaces, slots, cluster, .. } = dependencies;
        Post {
            namespaces: Arc::clone(namespaces),
            slots: Arc::clone(slots),
            cluster: cluster.clone(),
            partitions: OnceLock::new(),
        }
    }

    /// Names the partitions.
    pub(crate) fn set_partitions(&self, partitions: WeakPartitions) {
        // They are named once.
        let _ = self.partitions.set(partitions);
    }

    fn way(&self, message: &OutboxMessage) -> Way {
        let Some(address) = target(&*self.namespaces, message) else { return Way::Nowhere };
        let Some(id) = self.slots.partition_of(address.namespace.id, address.slot()) else { return Way::Nowhere };
        if let Some(node) = self.cluster.leaders.leads_elsewhere(id) {
            return Way::There(node);
        }
        let here = self.partitions.get().and_then(|partitions| partitions.get(id));
        here.map_or(Way::Nowhere, |partition| Way::Here(partition, address))
    }
}

impl Carrier for Post {
    fn deliver(&self, parcels: Vec<Parcel>) -> BoxStream<'static, (OutboxKey, Delivery)> {
        let here = FuturesUnordered::new();
        let mut there: HashMap<NodeId, Vec<Parcel>> = HashMap::new();
        let mut nowhere = Vec::new();
        for Parcel { key, message } in parcels {
            match self.way(&message) {
                Way::Here(partition, address) => {
                    here.push(async move { (key, to(&partition, address, &message).await) });
                }
                Way::There(node) => there.entry(node).or_default().push(Parcel { key, message }),
                Way::Nowhere => nowhere.push((key, Delivery::Again)),
            }
        }
        let here = stream::iter(nowhere).chain(here);
        if there.is_empty() {
            return here.boxed();
        }
        let there: FuturesUnordered<_> = there.into_iter().map(|(node, parcels)| self.send(node, parcels)).collect();
        stream::select(here, there.flat_map(stream::iter)).boxed()
    }
}

impl Post {
    /// Sends messages to another node. Those of which it says nothing are sent again.
    fn send(
        &self,
        node: NodeId,
        parcels: Vec<Parcel>,
    ) -> impl Future<Output = Vec<(OutboxKey, Delivery)>> + Send + use<> {
        let (keys, messages): (Vec<_>, _) = parcels.into_iter().map(|parcel| (parcel.key, parcel.message)).unzip();
        let sent = self.cluster.others.deliver(node, messages);
        async move {
            let deliveries = sent.await.into_iter().chain(std::iter::repeat(Delivery::Again));
            keys.into_iter().zip(deliveries).collect()
        }
    }
}

/// The workflow that a message is for, if its namespace is known here.
pub(crate) fn target(namespaces: &dyn NamespaceSource, message: &OutboxMessage) -> Option<WorkflowRef> {
    let namespace = namespaces.by_id(message.target_namespace_id())?;
    Some(WorkflowRef { namespace, workflow_id: message.target_workflow_id.as_str().into() })
}

/// The command with which a message's target takes it.
pub(crate) fn receipt(message: &OutboxMessage) -> Command {
    let message = Box::new(message.clone());
    match message.body.target_kind() {
        // No message is for a batch job.
        EntityKind::Workflow | EntityKind::BatchJob | EntityKind::Activity => {
            RunCommand::ReceiveMessage(message).into()
        }
        EntityKind::Schedule => ScheduleCommand::Hear(message).into(),
    }
}

/// Delivers a message to its target in `partition`.
pub(crate) async fn to(partition: &Partition, target: WorkflowRef, message: &OutboxMessage) -> Delivery {
    match partition.execute(target, message.target_run_id, receipt(message)).await {
        Ok(_) => Delivery::Settled(Outcome::Delivered),
        Err(CallError::Rejected(rejection)) => {
            Outcome::of_rejection(&rejection).map_or(Delivery::Again, Delivery::Settled)
        }
        Err(_) => Delivery::Again,
    }
}
