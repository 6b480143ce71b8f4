//! What is named by a request: a workflow or a task queue, each within a namespace.

use std::sync::Arc;

use everlog_kernel::transition::{TaskKey, TaskKind, TaskPosition};
use everlog_kernel::{EntityKind, Namespace, NamespaceId};
use everlog_proto::api::deployment::v1::WorkerDeploymentVersion;

use crate::{EntityRef, slot_of};

/// A workflow, wherever it lives.
#[derive(Clone, Debug)]
pub struct WorkflowRef {
    /// Its namespace.
    pub namespace: Arc<Namespace>,
    /// Its id.
    pub workflow_id: Arc<str>,
}

impl WorkflowRef {
    /// The entity that it is.
    pub fn entity(&self) -> EntityRef {
        self.entity_of(EntityKind::Workflow)
    }

    /// The entity of another kind that has this id.
    pub fn entity_of(&self, kind: EntityKind) -> EntityRef {
        EntityRef { kind, namespace_id: self.namespace.id, id: Arc::clone(&self.workflow_id) }
    }

    /// The hash slot.
    pub fn slot(&self) -> u16 {
        slot_of(self.namespace.id, &self.workflow_id)
    }
}

/// A task queue.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct QueueId {
    /// Its namespace.
    pub namespace_id: NamespaceId,
    /// For which kind of worker.
    pub kind: TaskKind,
    /// Its name.
    pub name: String,
    /// The version of the workers. Tasks and polls of each are kept apart; their rows are not.
    pub version: Option<Box<WorkerDeploymentVersion>>,
}

impl QueueId {
    /// The queue of workers without a version, or of all together where that makes no difference.
    pub fn new(namespace_id: NamespaceId, kind: TaskKind, name: impl Into<String>) -> QueueId {
        QueueId { namespace_id, kind, name: name.into(), version: None }
    }

    /// The hash slot of its home.
    pub fn slot(&self) -> u16 {
        slot_of(self.namespace_id, &self.name)
    }

    /// The task at a position.
    pub fn task(&self, position: TaskPosition) -> TaskKey {
        TaskKey { kind: self.kind, task_queue: self.name.clone(), position }
    }
}

/// The namespace of a workflow, for commands that a partition gives itself.
pub trait NamespaceSource: Send + Sync + 'static {
    /// The namespace with an id, if there is one.
    fn by_id(&self, id: NamespaceId) -> Option<Arc<Namespace>>;
}
