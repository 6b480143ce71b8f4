//! What the task queues of a version tell, wherever they are at home.

use everlog_kernel::deployment::{Deployment, Unwatched, VersionQueue, version_name, version_of_name};
use everlog_kernel::transition::TaskKind;
use everlog_kernel::{Deployments, NamespaceId};
use everlog_matching::QueueStats;
use everlog_model::{QueueId, limits};
use everlog_partition::Route;
use everlog_proto::api::deployment::v1::{WorkerDeploymentVersion, WorkerDeploymentVersionInfo};
use everlog_proto::api::enums::v1::TaskQueueType;
use everlog_proto::api::workflowservice::v1::describe_worker_deployment_version_response::VersionTaskQueue;
use futures::future::try_join_all;

use super::super::Frontend;
use super::super::errors::Error;
use super::super::task_queues::stats;

/// Whether anyone has polled a queue of a version of late, and how it stands. Nobody keeps tasks of Nexus.
async fn state(
    frontend: &Frontend,
    namespace_id: NamespaceId,
    version: &WorkerDeploymentVersion,
    queue: &VersionQueue,
) -> Result<(bool, QueueStats), Error> {
    let Some(kind) = task_kind(queue) else { return Ok((false, QueueStats::default())) };
    let version = Some(Box::new(version.clone()));
    let id = QueueId { version, ..QueueId::new(namespace_id, kind, queue.name.as_str()) };
    let window = limits::POLLER_REMEMBERED;
    match (frontend.router.queue(&id), &frontend.nodes) {
        (Route::There(node), Some(nodes)) => Ok(nodes.queue_state(node, &id, window).await?),
        _ => {
            let matching = frontend.matching.local();
            Ok((matching.has_recent_poller(&id, window), matching.describe(&id).await.stats))
        }
    }
}

/// Whether anyone has polled for a version in the last minutes.
pub(super) async fn is_polled(
    frontend: &Frontend,
    namespace_id: NamespaceId,
    deployment: &Deployment,
    build_id: &str,
) -> Result<bool, Error> {
    let Some(version) = deployment.versions.get(build_id) else { return Ok(false) };
    let name = deployment.version(build_id);
    let asked = version.task_queues.iter().map(|queue| state(frontend, namespace_id, &name, queue));
    Ok(try_join_all(asked).await?.iter().any(|(is_polled, _)| *is_polled))
}

/// A version that may go to make place for another, if place is needed.
pub(super) async fn unwatched(frontend: &Frontend, namespace_id: NamespaceId, name: &str) -> Unwatched {
    let deployments = frontend.namespaces.deployments(namespace_id);
    let Some(deployment) = deployments.get(name) else { return Unwatched::default() };
    if deployment.versions.len() < limits::DEPLOYMENT_VERSIONS_MAX {
        return Unwatched::default();
    }
    for (build_id, _) in deployment.deletable() {
        if matches!(is_polled(frontend, namespace_id, deployment, build_id).await, Ok(false)) {
            return Unwatched(Some(build_id.to_owned()));
        }
    }
    Unwatched::default()
}

/// The kind of tasks that a queue has; none for one of Nexus.
pub(super) fn task_kind(queue: &VersionQueue) -> Option<TaskKind> {
    match TaskQueueType::try_from(queue.kind) {
        Ok(TaskQueueType::Workflow) => Some(TaskKind::Workflow),
        Ok(TaskQueueType::Activity) => Some(TaskKind::Activity),
        _ => None,
    }
}

/// Refuses to make a version the `role` one that lacks a queue of the current one which is in use.
pub(super) async fn check_queues(
    frontend: &Frontend,
    namespace_id: NamespaceId,
    deployments: &Deployments,
    name: &str,
    wanted: &str,
    role: &str,
) -> Result<(), Error> {
    match misses_queues(frontend, namespace_id, deployments, name, wanted).await? {
        None => Ok(()),
        Some(version) => Err(Error::failed_precondition(format!(
            "proposed {role} version '{version}' is missing active task queues from the current version; these would become \
             unversioned if it is set as the {role} version"
        ))),
    }
}

/// The version, if it lacks a queue of the current one that is in use: its tasks would be for workers without a version.
async fn misses_queues(
    frontend: &Frontend,
    namespace_id: NamespaceId,
    deployments: &Deployments,
    name: &str,
    wanted: &str,
) -> Result<Option<String>, Error> {
    let Some(wanted) = version_of_name(wanted).ok().flatten() else { return Ok(None) };
    let Some(deployment) = deployments.get(name) else { return Ok(None) };
    let Some(current) = &deployment.routing.current_deployment_version else { return Ok(None) };
    let (Some(has), Some(is)) = (deployment.versions.get(&wanted.build_id), deployment.versions.get(&current.build_id))
    else {
        return Ok(None);
    };
    for queue in is.task_queues.difference(&has.task_queues) {
        let kind = task_kind(queue).unwrap_or(TaskKind::Workflow);
        let leads = deployments.queue(kind, &queue.name).and_then(|routing| routing.current.version.clone());
        if leads.as_ref() != Some(current) {
            // Another deployment has it now.
            continue;
        }
        let (_, stats) = state(frontend, namespace_id, current, queue).await?;
        if stats.backlog > 0 || stats.add_rate > 0.0 {
            return Ok(Some(version_name(&wanted)));
        }
    }
    Ok(None)
}

/// The queues of a version, and how they stand if that is asked for.
pub(super) async fn describe(
    frontend: &Frontend,
    namespace_id: NamespaceId,
    version: &WorkerDeploymentVersion,
    info: &WorkerDeploymentVersionInfo,
    with_stats: bool,
) -> Result<Vec<VersionTaskQueue>, Error> {
    let described = info.task_queue_infos.iter().map(|queue| async move {
        let named = VersionTaskQueue { name: queue.name.clone(), r#type: queue.r#type, ..VersionTaskQueue::default() };
        if !with_stats {
            return Ok::<_, Error>(named);
        }
        let queue = VersionQueue { kind: queue.r#type, name: queue.name.clone() };
        let (_, found) = state(frontend, namespace_id, version, &queue).await?;
        Ok(VersionTaskQueue { stats: Some(stats(&found)), ..named })
    });
    try_join_all(described).await
}
