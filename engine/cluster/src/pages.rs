//! Pages of tasks that wait in rows, wherever these are led.

use std::sync::Arc;

use bytes::Bytes;
use everlog_kernel::NamespaceId;
use everlog_kernel::transition::{Task, TaskPosition};
use everlog_matching::Backlog;
use everlog_model::{NamespaceSource, QueueId, SlotSource, WorkflowRef};
use everlog_storage::GroupId;
use futures::FutureExt;
use futures::future::BoxFuture;

use crate::Nodes;
use crate::wire::task_from_wire;

/// The task rows of all partitions. Those of another node are asked of the lead that has announced itself last, and of no other: an
/// earlier one does not have what the later one has offered.
pub struct Pages {
    nodes: Arc<Nodes>,
    namespaces: Arc<dyn NamespaceSource>,
    slots: Arc<dyn SlotSource>,
}

impl Pages {
    /// The rows of this node and of the others.
    pub fn new(nodes: Arc<Nodes>, namespaces: Arc<dyn NamespaceSource>, slots: Arc<dyn SlotSource>) -> Pages {
        Pages { nodes, namespaces, slots }
    }

    /// Whether a partition surely has nothing of a namespace.
    fn is_of_another_pool(&self, partition: GroupId, namespace_id: NamespaceId) -> bool {
        let partitions = self.slots.partitions_of(namespace_id);
        !partitions.is_empty() && !partitions.contains(&partition)
    }
}

impl Backlog for Pages {
    fn ready_tasks(
        &self,
        partition: GroupId,
        queue: QueueId,
        after: Option<TaskPosition>,
        limit: usize,
    ) -> BoxFuture<'static, Result<Vec<(WorkflowRef, Task)>, String>> {
        let Some((node, lead)) = self.nodes.book.elsewhere(partition) else {
            return self.nodes.rows.ready_tasks(partition, queue, after, limit);
        };
        if self.is_of_another_pool(partition, queue.namespace_id) {
            return std::future::ready(Ok(Vec::new())).boxed();
        }
        let after = after.map_or(Bytes::new(), |after| after.with_bytes(Bytes::copy_from_slice));
        let page = self.nodes.task_page(node, lead, &queue, after, limit);
        let namespaces = Arc::clone(&self.namespaces);
        async move {
            let tasks = page.await.map_err(|status| format!("node {node}: {}", status.message()))?;
            let unknown = || format!("namespace {} is not known here yet", queue.namespace_id);
            let task = |task| match task_from_wire(task, &*namespaces) {
                Ok(task) => task.ok_or_else(unknown),
                Err(status) => Err(status.message().to_owned()),
            };
            tasks.into_iter().map(task).collect()
        }
        .boxed()
    }
}
