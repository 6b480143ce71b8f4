//! Workers make their versions known by polling.
//!
//! Each node knows from the metadata which versions poll which queues, so only the first poll of a version at a queue costs anything: the
//! node that leads the metadata takes it in, and the poll waits until this node has seen that.

use std::sync::Arc;

use everlog_cluster::{Nodes, Registrar};
use everlog_kernel::deployment::{Deployment, VersionQueue};
use everlog_kernel::transition::TaskKind;
use everlog_kernel::{Deployments, NamespaceId, Rejection};
use everlog_matching::Poll;
use everlog_meta::{MetaError, Namespaces};
use everlog_model::{CallError, limits};
use everlog_proto::api::deployment::v1::{WorkerDeploymentOptions, WorkerDeploymentVersion};
use everlog_proto::api::enums::v1::{ResourceExhaustedCause, TaskQueueType, WorkerVersioningMode};
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::OnceCell;

use super::super::Frontend;
use super::super::errors::Error;
use super::{Goes, check_count, queues};

/// The version of a worker that is to get its tasks by it.
pub(crate) fn version_of(options: Option<&WorkerDeploymentOptions>) -> Option<WorkerDeploymentVersion> {
    let options = options.filter(|options| options.worker_versioning_mode() == WorkerVersioningMode::Versioned)?;
    Some(WorkerDeploymentVersion {
        deployment_name: options.deployment_name.clone(),
        build_id: options.build_id.clone(),
    })
}

/// The version of a worker that polls.
pub(crate) fn poll_version(poll: &Poll) -> Option<WorkerDeploymentVersion> {
    poll.queue.version.as_deref().cloned()
}

fn knows(deployments: &Deployments, version: &WorkerDeploymentVersion, queue: &VersionQueue) -> bool {
    let deployment = deployments.get(&version.deployment_name);
    let known = deployment.and_then(|deployment| deployment.versions.get(&version.build_id));
    known.is_some_and(|known| known.has_queue(queue.kind, &queue.name))
}

impl Frontend {
    /// Has it known that a version polls a queue.
    pub(crate) async fn register_poll(
        &self,
        namespace_id: NamespaceId,
        version: Option<&WorkerDeploymentVersion>,
        kind: TaskQueueType,
        queue: &str,
    ) -> Result<(), Error> {
        let Some(version) = version else { return Ok(()) };
        let queue = VersionQueue { kind: kind.into(), name: queue.to_owned() };
        if knows(&self.namespaces.deployments(namespace_id), version, &queue) {
            return Ok(());
        }
        // Many polls of a new version come at once.
        let _turn = self.registering.lock().await;
        let known = self.namespaces.deployments(namespace_id);
        if knows(&known, version, &queue) {
            return Ok(());
        }
        let task_kind = queues::task_kind(&queue).unwrap_or(TaskKind::Workflow);
        let count = known.queue(task_kind, &queue.name).map_or(0, |routing| routing.versions.len());
        if count >= limits::QUEUE_VERSIONS_MAX {
            let most = limits::QUEUE_VERSIONS_MAX;
            return Err(Error::Rejected(Rejection::ResourceExhausted {
                cause: ResourceExhaustedCause::WorkerDeploymentLimits,
                message: format!("exceeding maximum number of Deployment Versions in this task queue (limit = {most})")
                    .into(),
            }));
        }
        let registered = match (self.namespaces.leader(), &self.nodes) {
            (Some(leader), Some(nodes)) => {
                let position = nodes.register_worker(leader, namespace_id, version.clone(), queue).await;
                match position {
                    Ok(position) => {
                        self.namespaces.until_seen(position).await;
                        Ok(())
                    }
                    Err(error) => Err(error),
                }
            }
            _ => register(self, namespace_id, version.clone(), queue).await,
        };
        match registered {
            Ok(()) => Ok(()),
            Err(CallError::Rejected(refused)) => Err(refused.into()),
            Err(error) => {
                tracing::warn!(%error, "a worker's version cannot be made known now");
                Err(Error::Unavailable(
                    "task queue is not ready to process polls from this deployment version, try again shortly"
                        .to_owned(),
                ))
            }
        }
    }
}

/// Takes in that a version polls a queue, if this node leads the metadata.
async fn register(
    frontend: &Frontend,
    namespace_id: NamespaceId,
    version: WorkerDeploymentVersion,
    queue: VersionQueue,
) -> Result<(), CallError> {
    let name = version.deployment_name.as_str();
    let unwatched: Goes = queues::unwatched(frontend, namespace_id, name).await;
    let bounds = (limits::DEPLOYMENT_VERSIONS_MAX, limits::DEPLOYMENT_VERSION_QUEUES_MAX);
    let change = |deployment: &mut Option<Deployment>, known: &Deployments, now| {
        if deployment.is_none() {
            check_count(known)?;
        }
        let deployment = deployment.get_or_insert_with(|| Deployment::new(name, now));
        deployment.register(&version.build_id, queue.clone(), bounds, &unwatched, now)
    };
    let changed = frontend.namespaces.change_deployment(namespace_id, name, change).await;
    changed.map_err(|error| match error {
        MetaError::Rejected(rejection) => CallError::Rejected(rejection),
        MetaError::LedElsewhere(_) => CallError::NotDone(error.to_string()),
        error => CallError::Unavailable(error.to_string()),
    })?;
    if let Some(nodes) = &frontend.nodes {
        announce(nodes, &frontend.namespaces).await;
    }
    Ok(())
}

/// A worker's first poll may be followed by one elsewhere.
async fn announce(nodes: &Nodes, namespaces: &Namespaces) {
    nodes.await_metadata(namespaces.seen()).await;
}

/// What other nodes hand in here, once the frontend is there.
#[derive(Clone, Default)]
pub(crate) struct Register(Arc<OnceCell<Arc<Frontend>>>);

impl Register {
    /// From here on it is taken in.
    pub(crate) fn attach(&self, frontend: &Arc<Frontend>) {
        // It is attached once.
        let _ = self.0.set(Arc::clone(frontend));
    }
}

impl Registrar for Register {
    fn register(
        &self,
        namespace_id: NamespaceId,
        version: WorkerDeploymentVersion,
        queue: VersionQueue,
    ) -> BoxFuture<'_, Result<(), CallError>> {
        async move {
            let early = || CallError::NotDone("the called node does not serve yet".to_owned());
            let frontend = self.0.get().ok_or_else(early)?;
            register(frontend, namespace_id, version, queue).await
        }
        .boxed()
    }
}
