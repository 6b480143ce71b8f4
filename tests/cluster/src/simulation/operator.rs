//! Whoever gives lost nodes new disks, adds nodes and removes them: by the calls that `everlog cluster` makes, as often as it takes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use everlog_proto::cluster::{AddNodeRequest, ClusterServiceClient, RemoveNodeRequest, ReplaceDiskRequest};
use everlog_storage::NodeId;
use parking_lot::Mutex;
use tonic::{Code, Status};

use super::world::{Way, World};

/// How long the operator waits until an order is tried again.
const AGAIN: Duration = Duration::from_millis(300);

/// How long a call may take.
const CALL_TIME_MAX: Duration = Duration::from_secs(10);

/// What is to be done.
#[derive(Clone, Debug)]
pub(super) enum Order {
    /// A disk takes the place of the one that a node has lost.
    Replace { node: NodeId, directory_id: uuid::Uuid },
    /// A machine becomes a node.
    Add { node: NodeId, directory_id: uuid::Uuid },
    /// A node is to leave, if enough others stay.
    Remove { node: NodeId },
}

/// What the operator was told and has not done yet, in this order.
#[derive(Debug, Default)]
pub(super) struct Operator(Mutex<VecDeque<Order>>);

impl Operator {
    pub(super) fn is_told(&self, order: Order) {
        self.0.lock().push_back(order);
    }

    pub(super) fn is_idle(&self) -> bool {
        self.0.lock().is_empty()
    }

    /// Does what it is told, one thing after the other, for as long as it is polled.
    pub(super) async fn operate(world: Arc<World>) {
        let mut asked = 0;
        loop {
            tokio::time::sleep(AGAIN).await;
            let Some(order) = world.operator().0.lock().front().cloned() else { continue };
            asked = (asked + 1) % world.machines.len();
            let way = Way { world: Arc::clone(&world), machine: asked };
            let done = tokio::time::timeout(CALL_TIME_MAX, order.carry_out(way)).await;
            tracing::info!(?order, ?done, "the operator");
            if done.is_ok_and(|done| order.is_over(done)) {
                world.operator().0.lock().pop_front();
            }
        }
    }
}

impl Order {
    async fn carry_out(&self, way: Way) -> Result<(), Status> {
        let mut cluster = ClusterServiceClient::new(way);
        match self.clone() {
            Order::Replace { node, directory_id } => {
                let request = ReplaceDiskRequest { node_id: node.0, directory_id: directory_id.to_string() };
                cluster.replace_disk(request).await.map(drop)
            }
            Order::Add { node, directory_id } => {
                let request = AddNodeRequest { node_id: node.0, directory_id: directory_id.to_string() };
                cluster.add_node(request).await.map(drop)
            }
            Order::Remove { node } => {
                cluster.remove_node(RemoveNodeRequest { node_id: node.0, undo: false }).await.map(drop)
            }
        }
    }

    /// Whether nothing more is to be done. A node that cannot be removed stays.
    fn is_over(&self, done: Result<(), Status>) -> bool {
        let is_refused = |status: Status| matches!(status.code(), Code::FailedPrecondition | Code::NotFound);
        done.map_or_else(|status| matches!(self, Order::Remove { .. }) && is_refused(status), |()| true)
    }
}
