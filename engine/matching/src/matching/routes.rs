//! Which of a queue's versions a task is for.
//!
//! A queue that workers of versions poll is several queues here, one for each version and one for workers without any, each with its own
//! polls, sticky lines and tasks. Task rows know only of the version that a workflow is pinned to, so each of these queues reads all rows of
//! that name, and passes over what is for others. Where a queue leads is known on each node from the metadata. When it changes, tasks
//! change their places; those that are still rows are read by whose they are by then.

use std::sync::Arc;

use everlog_kernel::{Deployments, NamespaceId};
use everlog_model::QueueId;
use everlog_proto::api::deployment::v1::WorkerDeploymentVersion;
use tokio::time::Instant;

use super::super::queue::Everything;
use super::Matching;

impl Matching {
    /// Where the queues of a namespace lead from now on.
    pub fn route(&self, namespace_id: NamespaceId, deployments: &Arc<Deployments>) {
        let before = {
            let mut routes = self.routes.write();
            match deployments.is_empty() {
                true => routes.remove(&namespace_id),
                false => routes.insert(namespace_id, Arc::clone(deployments)),
            }
        };
        let before = before.unwrap_or_default();
        let mut moved = Vec::new();
        self.for_each_queue(|queue| {
            let id = queue.id();
            let leads = |deployments: &Deployments| deployments.queue(id.kind, &id.name).cloned();
            if id.namespace_id == namespace_id && leads(&before) != leads(deployments) {
                moved.push((Arc::clone(id), queue.take_all()));
                for partition in self.leads.read().keys() {
                    queue.open_partition(*partition, true);
                }
            }
        });
        for (id, Everything { tasks, queries }) in moved {
            let id = QueueId { version: None, ..QueueId::clone(&id) };
            for (position, task) in tasks {
                let version = self.version_of(&id, task.version.as_deref(), &task.address.workflow_id);
                let id = QueueId { version, ..id.clone() };
                self.with_queue(id, |queue| queue.offer(position, task, Instant::now()));
            }
            for (address, query) in queries {
                self.offer_query(address, query);
            }
        }
    }

    /// The version whose workers get what a workflow has for a queue.
    pub(super) fn version_of(
        &self,
        queue: &QueueId,
        pinned: Option<&WorkerDeploymentVersion>,
        workflow_id: &str,
    ) -> Option<Box<WorkerDeploymentVersion>> {
        let routes = self.routes.read();
        match routes.get(&queue.namespace_id) {
            Some(deployments) => deployments.route(queue.kind, &queue.name, pinned, workflow_id).cloned().map(Box::new),
            // A workflow stays pinned to a version that nobody knows of any more.
            None => Deployments::default().route(queue.kind, &queue.name, pinned, workflow_id).cloned().map(Box::new),
        }
    }

    /// The queues of that name: that of workers without a version, and those of all versions that have polled it.
    pub(super) fn of_all_versions(&self, queue: &QueueId) -> Vec<QueueId> {
        let routes = self.routes.read();
        let routing =
            routes.get(&queue.namespace_id).and_then(|deployments| deployments.queue(queue.kind, &queue.name));
        let versions = routing.into_iter().flat_map(|routing| routing.versions.iter().cloned().map(Box::new).map(Some));
        std::iter::once(None).chain(versions).map(|version| QueueId { version, ..queue.clone() }).collect()
    }
}
