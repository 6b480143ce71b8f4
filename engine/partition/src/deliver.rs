//! Carries messages to the partitions of their targets. That is all that has to know where these are.

use std::sync::{Arc, OnceLock};

use everlog_kernel::RunCommand;
use everlog_kernel::outbox::{OutboxMessage, Outcome};
use everlog_model::{CallError, NamespaceSource, SlotSource, WorkflowRef};
use everlog_storage::keys::OutboxKey;
use futures::StreamExt;
use futures::stream::{BoxStream, FuturesUnordered};

use super::outbox::{Delivery, Parcel};
use super::{Dependencies, Partition, WeakPartition};

/// Carries messages to their targets.
pub(crate) trait Carrier: Send + Sync + 'static {
    /// Delivers each message once, and tells how that went in whatever order they end. A message that is left out counts as on its
    /// way until the lead is lost.
    fn deliver(&self, parcels: Vec<Parcel>) -> BoxStream<'static, (OutboxKey, Delivery)>;
}

/// Carries messages between the partitions of this node.
pub(crate) struct Here {
    namespaces: Arc<dyn NamespaceSource>,
    slots: Arc<dyn SlotSource>,
    /// Weak: a partition ends when its last handle is dropped. Set once all are there.
    partitions: OnceLock<Vec<WeakPartition>>,
}

impl Here {
    /// Between partitions that are yet to be named.
    pub(crate) fn new(dependencies: &Dependencies) -> Here {
        let Dependencies { namespaces, slots, .. } = dependencies;
        Here { namespaces: Arc::clone(namespaces), slots: Arc::clone(slots), partitions: OnceLock::new() }
    }

    /// Names the partitions.
    pub(crate) fn set_partitions(&self, partitions: &[Partition]) {
        // They are named once.
        let _ = self.partitions.set(partitions.iter().map(Partition::downgrade).collect());
    }

    fn target(&self, message: &OutboxMessage) -> Option<(Partition, WorkflowRef)> {
        let namespace = self.namespaces.by_id(message.namespace_id)?;
        let address = WorkflowRef { namespace, workflow_id: message.target_workflow_id.as_str().into() };
        let id = self.slots.partition_of(address.slot())?;
        let partition = self.partitions.get()?.iter().find(|partition| partition.id == id)?;
        Some((partition.upgrade()?, address))
    }
}

impl Carrier for Here {
    fn deliver(&self, parcels: Vec<Parcel>) -> BoxStream<'static, (OutboxKey, Delivery)> {
        let deliveries = parcels.into_iter().map(|Parcel { key, message }| {
            let target = self.target(&message);
            async move {
                match target {
                    Some((partition, address)) => (key, deliver(&partition, address, &message).await),
                    None => (key, Delivery::Again),
                }
            }
        });
        deliveries.collect::<FuturesUnordered<_>>().boxed()
    }
}

async fn deliver(partition: &Partition, address: WorkflowRef, message: &OutboxMessage) -> Delivery {
    let command = RunCommand::ReceiveMessage(Box::new(message.clone()));
    match partition.execute(address, message.target_run_id, command).await {
        Ok(_) => Delivery::Settled(Outcome::Delivered),
        Err(CallError::Rejected(rejection)) => {
            Outcome::of_rejection(&rejection).map_or(Delivery::Again, Delivery::Settled)
        }
        Err(_) => Delivery::Again,
    }
}
