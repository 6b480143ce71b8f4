//! The tasks that matching does not hold in memory: pages of task rows.

use std::sync::Arc;

use everlog_kernel::Namespace;
use everlog_kernel::transition::{Task, TaskPosition};
use everlog_matching::Backlog;
use everlog_model::{NamespaceSource, QueueId, WorkflowRef, limits, rows};
use everlog_raft::GroupSlots;
use everlog_storage::GroupId;
use everlog_storage::state::Direction;
use futures::FutureExt;
use futures::future::BoxFuture;

use super::faults::RowFaults;
use super::load::Rows;

/// The task rows of the partitions of this node.
pub struct TaskRows {
    groups: GroupSlots,
    namespaces: Arc<dyn NamespaceSource>,
    faults: RowFaults,
}

impl TaskRows {
    /// The rows of `groups`, whose leads hear of those that cannot be read through `faults`.
    pub fn new(groups: GroupSlots, namespaces: Arc<dyn NamespaceSource>, faults: RowFaults) -> TaskRows {
        TaskRows { groups, namespaces, faults }
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
        let group = self.groups.get(partition);
        let namespace = self.namespaces.by_id(queue.namespace_id);
        let faults = self.faults.clone();
        async move {
            let group = group.ok_or_else(|| format!("partition {partition} is not here"))?;
            let namespace =
                namespace.ok_or_else(|| format!("namespace {} is not known here yet", queue.namespace_id))?;
            let limit = limit.min(limits::TASK_PAGE_ROWS);
            let page =
                everlog_storage::blocking::spawn(move || read_page(&group, &namespace, &queue, after.as_ref(), limit));
            let page = page.await.map_err(|error| error.to_string())?;
            page.inspect_err(|error| faults.report(partition, format!("task rows cannot be read: {error}")))
        }
        .boxed()
    }
}

/// Reads up to `limit` tasks of a queue behind `after`.
fn read_page(
    rows: &impl Rows,
    namespace: &Arc<Namespace>,
    queue: &QueueId,
    after: Option<&TaskPosition>,
    limit: usize,
) -> Result<Vec<(WorkflowRef, Task)>, String> {
    let range = rows::task_range(queue, after);
    let found = rows.scan(range, Direction::Ascending, limit).map_err(|error| error.to_string())?;
    let task = |(key, value): &(bytes::Bytes, bytes::Bytes)| {
        let (entity, task) = rows::task(key, value)?;
        Ok((entity.into_address(Arc::clone(namespace)), task))
    };
    found.iter().map(task).collect()
}
