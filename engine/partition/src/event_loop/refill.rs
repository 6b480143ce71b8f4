//! What a new leader does for matching, which forgot the tasks of the old one.

use everlog_model::{WorkflowRef, limits, rows};
use everlog_storage::keys::TaskKey as TaskRowKey;
use everlog_storage::state::Direction;

use super::Loop;

impl Loop {
    /// Offers every task whose row is there, as a new leader: matching forgot those of the old one.
    pub(super) fn refill_matching(&self) {
        let group = self.group.clone();
        let dependencies = self.dependencies.clone();
        tokio::task::spawn_blocking(move || {
            let mut range = TaskRowKey::all();
            loop {
                let page = match group.scan(&range.start..&range.end, Direction::Ascending, limits::TASK_PAGE_ROWS) {
                    Ok(page) => page,
                    Err(error) => {
                        tracing::error!(partition = %group.id(), %error, "task rows cannot be read");
                        return;
                    }
                };
                let Some((last, _)) = page.last() else { return };
                range.start = everlog_storage::keys::after(last);
                for (key, value) in &page {
                    let (namespace_id, workflow_id, task) = match rows::task(key, value) {
                        Ok(task) => task,
                        Err(error) => {
                            tracing::error!(partition = %group.id(), error, "a task row cannot be read");
                            continue;
                        }
                    };
                    let namespace_id = everlog_kernel::NamespaceId(namespace_id);
                    if let Some(namespace) = dependencies.namespaces.by_id(namespace_id) {
                        dependencies.matching.offer(group.id(), WorkflowRef { namespace, workflow_id }, task);
                    }
                }
            }
        });
    }
}
