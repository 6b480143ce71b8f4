//! What a new leader does for matching, which forgot the tasks of the old one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use everlog_kernel::NamespaceId;
use everlog_kernel::transition::Task;
use everlog_model::{WorkflowRef, limits, rows};
use everlog_raft::Group;
use everlog_storage::keys::TaskKey as TaskRowKey;
use everlog_storage::state::Direction;

use super::Dependencies;
use super::load::Rows;

/// The refilling of matching by one lead; dropped, it ends.
pub(crate) struct Refill(Arc<AtomicBool>);

impl Drop for Refill {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Offers every task whose row is there, page by page, on a thread for blocking work.
pub(crate) fn start(group: Group, dependencies: Dependencies) -> Refill {
    let over = Arc::new(AtomicBool::new(false));
    let refill = Refill(Arc::clone(&over));
    tokio::task::spawn_blocking(move || {
        let mut wait = Duration::from_millis(100);
        let mut start = TaskRowKey::all().start;
        while !over.load(Ordering::Relaxed) {
            match page(&group, &dependencies, &start) {
                Ok(Some(next)) => start = next,
                Ok(None) => return,
                Err(error) => {
                    // A task that is not offered is not done: it is tried again for as long as the lead lasts.
                    tracing::error!(partition = %group.id(), error, "task rows cannot be read");
                    std::thread::sleep(wait);
                    wait = (2 * wait).min(limits::FAILED_LEAD_WAIT_MAX);
                }
            }
        }
    });
    refill
}

/// Offers a page of tasks. Returns where the next one starts, if there is one.
fn page(group: &Group, dependencies: &Dependencies, start: &bytes::Bytes) -> Result<Option<bytes::Bytes>, String> {
    let (tasks, next) = read_page(group, start)?;
    for (namespace_id, workflow_id, task) in tasks {
        let namespace = dependencies
            .namespaces
            .by_id(namespace_id)
            .ok_or_else(|| format!("namespace {namespace_id} of a task is not known here yet"))?;
        dependencies.matching.offer(group.id(), WorkflowRef { namespace, workflow_id }, task);
    }
    Ok(next)
}

/// A page of task rows from `start` on, and where the next one starts, if there is one.
#[expect(clippy::type_complexity, reason = "a page is taken apart where it is asked for")]
pub(crate) fn read_page(
    rows: &impl Rows,
    start: &bytes::Bytes,
) -> Result<(Vec<(NamespaceId, Arc<str>, Task)>, Option<bytes::Bytes>), String> {
    let range = start.clone()..TaskRowKey::all().end;
    let found = rows.scan(range, Direction::Ascending, limits::TASK_PAGE_ROWS).map_err(|error| error.to_string())?;
    let next = found.last().map(|(last, _)| everlog_storage::keys::after(last));
    let tasks = found.iter().map(|(key, value)| {
        let (namespace_id, workflow_id, task) = rows::task(key, value)?;
        Ok((NamespaceId(namespace_id), workflow_id, task))
    });
    Ok((tasks.collect::<Result<_, String>>()?, next))
}
