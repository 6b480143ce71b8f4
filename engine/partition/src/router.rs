//! Where a request has to go: to a partition of this node, or to the node that leads it.

use std::sync::Arc;

use everlog_kernel::command::Reply;
use everlog_kernel::{Command, NamespaceId, RunCommand, RunId};
use everlog_model::{CallError, NodeId, OneNode, QueueId, SlotSource, WorkflowRef};
use everlog_raft::Group;
use everlog_storage::{GroupId, keys};

use super::{Partition, StartedWorkflowTask};

/// Who leads which partition.
pub trait Leaders: Send + Sync + 'static {
    /// The other node that leads the partition, as far as is known; `None` if it is this one, or nobody is known to.
    fn leads_elsewhere(&self, partition: GroupId) -> Option<NodeId>;
}

impl Leaders for OneNode {
    fn leads_elsewhere(&self, _partition: GroupId) -> Option<NodeId> {
        None
    }
}

/// The way of a request.
#[derive(Clone, Copy)]
pub enum Route<'a> {
    /// It is answered here.
    Here(&'a Partition),
    /// That node answers it.
    There(NodeId),
    /// No node is known that would.
    Nowhere,
}

/// Finds the way of each request. Cheap to clone.
#[derive(Clone)]
pub struct Router {
    slots: Arc<dyn SlotSource>,
    leaders: Arc<dyn Leaders>,
    partitions: Arc<[Partition]>,
}

impl Router {
    /// Routes to `partitions`, which are those of this node, and to the nodes that lead the others.
    pub fn new(partitions: Vec<Partition>, slots: Arc<dyn SlotSource>, leaders: Arc<dyn Leaders>) -> Router {
        Router { slots, leaders, partitions: partitions.into() }
    }

    /// The way to a workflow, or to any other entity of that id.
    pub fn workflow(&self, namespace_id: NamespaceId, id: &str) -> Route<'_> {
        self.slot(keys::slot(&namespace_id.0, id))
    }

    /// The way to the home of a task queue.
    pub fn queue(&self, queue: &QueueId) -> Route<'_> {
        self.slot(keys::slot(&queue.namespace_id.0, &queue.name))
    }

    fn slot(&self, slot: u16) -> Route<'_> {
        let Some(partition) = self.slots.partition_of(slot) else { return Route::Nowhere };
        if let Some(node) = self.leaders.leads_elsewhere(partition) {
            return Route::There(node);
        }
        self.partitions.iter().find(|here| here.id == partition).map_or(Route::Nowhere, Route::Here)
    }

    /// The partition of a workflow, which must be led here: whatever comes this far was routed.
    ///
    /// # Errors
    ///
    /// [`CallError::Unavailable`] if another node leads it by now, or none.
    pub fn partition_of(&self, workflow: &WorkflowRef) -> Result<&Partition, CallError> {
        match self.slot(workflow.slot()) {
            Route::Here(partition) => Ok(partition),
            Route::There(node) => {
                Err(CallError::Unavailable(format!("node {node} leads the partition of the workflow")))
            }
            Route::Nowhere => {
                Err(CallError::Unavailable("no node is known to lead the workflow's partition".to_owned()))
            }
        }
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

    /// Starts a workflow task that the home of its queue has handed to a poller: see [`Partition::start_workflow_task`].
    ///
    /// # Errors
    ///
    /// As there, and those of [`Router::partition_of`].
    pub async fn start_workflow_task(
        &self,
        workflow: WorkflowRef,
        run_id: RunId,
        command: RunCommand,
    ) -> Result<StartedWorkflowTask, CallError> {
        self.partition_of(&workflow)?.start_workflow_task(workflow, run_id, command).await
    }

    /// The Raft groups here that hold a workflow, or all of them.
    pub fn groups(&self, workflow: Option<&WorkflowRef>) -> Vec<Group> {
        match workflow.map(|workflow| self.slot(workflow.slot())) {
            Some(Route::Here(partition)) => vec![partition.group()],
            Some(Route::There(_) | Route::Nowhere) => Vec::new(),
            None => self.partitions().map(Partition::group).collect(),
        }
    }

    /// The partitions of this node.
    pub fn partitions(&self) -> impl Iterator<Item = &Partition> {
        self.partitions.iter()
    }
}
