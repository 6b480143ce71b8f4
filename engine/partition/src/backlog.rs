//! The tasks that matching does not hold in memory: pages of task rows.

use std::sync::Arc;

use everlog_kernel::Namespace;
use everlog_kernel::transition::{Task, TaskPosition};
use everlog_matching::Backlog;
use everlog_model::{NamespaceSource, QueueId, WorkflowRef, limits, rows};
use everlog_raft::GroupSlots;
use everlog_storage::state::Direction;
use everlog_storage::{GroupId, keys};
use futures::FutureExt;
use futures::future::BoxFuture;

use super::faults::RowFaults;
use super::load::Rows;
use super::steps::read_moves;

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

/// Reads up to `limit` tasks of a queue behind `after`. Those of slots that are on their way from here, or to here, are not to be started here
/// and are left out.
pub(crate) fn read_page(
    rows: &impl Rows,
    namespace: &Arc<Namespace>,
    queue: &QueueId,
    after: Option<&TaskPosition>,
    limit: usize,
) -> Result<Vec<(WorkflowRef, Task)>, String> {
    let mut range = rows::task_range(queue, after);
    loop {
        let found = rows.scan(range.clone(), Direction::Ascending, limit).map_err(|error| error.to_string())?;
        // An empty list says that there are no more.
        let Some((last, _)) = found.last() else { return Ok(Vec::new()) };
        let task = |(key, value): &(bytes::Bytes, bytes::Bytes)| {
            let (entity, task) = rows::task(key, value)?;
            Ok((entity.into_address(Arc::clone(namespace)), task))
        };
        let mut tasks = found.iter().map(task).collect::<Result<Vec<_>, String>>()?;
        let moves = read_moves(rows)?;
        tasks.retain(|(address, _)| moves.is_empty() || !moves.is_closed(namespace.id, address.slot()));
        if !tasks.is_empty() {
            return Ok(tasks);
        }
        range.start = keys::after(last);
    }
}
