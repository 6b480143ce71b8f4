//! The other nodes of the cluster, as far as partitions have to do with them.

use std::sync::Arc;

use everlog_kernel::command::{StartActivityTask, StartWorkflowTask};
use everlog_kernel::outbox::OutboxMessage;
use everlog_kernel::{EntityKind, RunId};
use everlog_model::{CallError, NodeId, OneNode, WorkflowRef};
use everlog_proto::api::workflowservice::v1::PollActivityTaskQueueResponse;
use everlog_storage::GroupId;
use futures::FutureExt;
use futures::future::BoxFuture;

use super::outbox::Delivery;
use super::starts::StartQuery;
use super::{Router, StartedWorkflowTask};

/// Who leads which partition.
pub trait Leaders: Send + Sync + 'static {
    /// The other node that leads the partition, as far as is known; `None` if it is this one, or nobody is known to.
    fn leads_elsewhere(&self, partition: GroupId) -> Option<NodeId>;
}

/// What other nodes do with the workflows that they lead. Each answer comes within a bounded time; a node that does not lead the
/// workflow does not pass anything on.
pub trait OtherNodes: Send + Sync + 'static {
    /// See [`Router::start_workflow_task`].
    fn start_workflow_task(
        &self,
        node: NodeId,
        workflow: WorkflowRef,
        run_id: RunId,
        start: StartWorkflowTask,
    ) -> BoxFuture<'static, Result<StartedWorkflowTask, CallError>>;

    /// See [`Router::start_activity_task`].
    fn start_activity_task(
        &self,
        node: NodeId,
        kind: EntityKind,
        workflow: WorkflowRef,
        run_id: RunId,
        start: StartActivityTask,
    ) -> BoxFuture<'static, Result<Box<PollActivityTaskQueueResponse>, CallError>>;

    /// See [`Router::start_query`].
    fn start_query(
        &self,
        node: NodeId,
        workflow: WorkflowRef,
        run_id: RunId,
        start: StartQuery,
    ) -> BoxFuture<'static, Result<StartedWorkflowTask, CallError>>;

    /// Delivers messages, and tells how each of them fared, in their order. What is left out may have arrived or not.
    fn deliver(&self, node: NodeId, messages: Vec<Arc<OutboxMessage>>) -> BoxFuture<'static, Vec<Delivery>>;
}

/// The nodes of a cluster. Cheap to clone.
#[derive(Clone)]
pub struct Cluster {
    /// Who leads which partition.
    pub leaders: Arc<dyn Leaders>,
    /// What the others do.
    pub others: Arc<dyn OtherNodes>,
}

impl Cluster {
    /// A cluster of one node, which leads everything.
    pub fn of_one() -> Cluster {
        Cluster { leaders: Arc::new(OneNode), others: Arc::new(OneNode) }
    }
}

impl Leaders for OneNode {
    fn leads_elsewhere(&self, _partition: GroupId) -> Option<NodeId> {
        None
    }
}

impl OtherNodes for OneNode {
    fn start_workflow_task(
        &self,
        _node: NodeId,
        _workflow: WorkflowRef,
        _run_id: RunId,
        _start: StartWorkflowTask,
    ) -> BoxFuture<'static, Result<StartedWorkflowTask, CallError>> {
        std::future::ready(Err(Router::nowhere())).boxed()
    }

    fn start_activity_task(
        &self,
        _node: NodeId,
        _kind: EntityKind,
        _workflow: WorkflowRef,
        _run_id: RunId,
        _start: StartActivityTask,
    ) -> BoxFuture<'static, Result<Box<PollActivityTaskQueueResponse>, CallError>> {
        std::future::ready(Err(Router::nowhere())).boxed()
    }

    fn start_query(
        &self,
        _node: NodeId,
        _workflow: WorkflowRef,
        _run_id: RunId,
        _start: StartQuery,
    ) -> BoxFuture<'static, Result<StartedWorkflowTask, CallError>> {
        std::future::ready(Err(Router::nowhere())).boxed()
    }

    fn deliver(&self, _node: NodeId, _messages: Vec<Arc<OutboxMessage>>) -> BoxFuture<'static, Vec<Delivery>> {
        std::future::ready(Vec::new()).boxed()
    }
}
