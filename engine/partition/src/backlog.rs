//! The tasks that matching does not hold in memory: pages of task rows.

use std::sync::Arc;

use everlog_kernel::transition::{Task, TaskPosition};
use everlog_matching::Backlog;
use everlog_model::{NamespaceSource, QueueId, WorkflowRef, limits, rows};
use everlog_raft::GroupSlot;
use everlog_storage::GroupId;
use everlog_storage::state::Direction;
use futures::FutureExt;
use futures::future::BoxFuture;

use super::Router;

/// The task rows of the partitions of this node.
pub struct TaskRows {
    groups: Vec<GroupSlot>,
    namespaces: Arc<dyn NamespaceSource>,
}

impl TaskRows {
    /// The rows of `groups`.
    pub fn new(groups: Vec<GroupSlot>, namespaces: Arc<dyn NamespaceSource>) -> TaskRows {
        TaskRows { groups, namespaces }
    }

    /// The rows of a node's partitions.
    pub fn of(router: &Router, namespaces: Arc<dyn NamespaceSource>) -> TaskRows {
        TaskRows::new(router.group_slots(), namespaces)
    }
}

impl Backlog for TaskRows {
    fn ready_tasks(
        &self,
        partition: GroupId,
        queue: QueueId,
        after: Option<TaskPosition>,
        limit: usize,
    ) -> BoxFuture<'static, Result<Vec<(WorkflowRef, Task)>, String>> {
        let group = self.groups.iter().map(|group| group.read().clone()).find(|group| group.id() == partition);
        let namespace = self.namespaces.by_id(queue.namespace_id);
        async move {
            let group = group.ok_or_else(|| format!("partition {partition} is not here"))?;
            let namespace =
                namespace.ok_or_else(|| format!("namespace {} is not known here yet", queue.namespace_id))?;
            tokio::task::spawn_blocking(move || {
                let range = rows::task_range(&queue, after.as_ref());
                let found = group
                    .scan(&range.start..&range.end, Direction::Ascending, limit.min(limits::TASK_PAGE_ROWS))
                    .map_err(|error| error.to_string())?;
                found
                    .iter()
                    .map(|(key, value)| {
                        let (entity, task) = rows::task(key, value)?;
                        Ok((entity.into_workflow(Arc::clone(&namespace)), task))
                    })
                    .collect()
            })
            .await
            .map_err(|error| error.to_string())?
        }
        .boxed()
    }
}
