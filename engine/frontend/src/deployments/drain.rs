//! Whether workflows are left that are pinned to a version that is neither current nor ramping.
//!
//! The node that leads the metadata counts them, in all partitions, and takes in what has changed. Counts are exact, and remembered as long as
//! no run changes (`visibility/tallies.rs`), so they are asked for often while a version drains. One that has drained, or never was current, is
//! looked at as well: an override may pin a workflow to it.

use std::collections::HashMap;
use std::sync::Arc;

use everlog_kernel::deployment::{Deployment, version_name};
use everlog_kernel::{Deployments, NamespaceId};
use everlog_model::limits;
use everlog_proto::api::enums::v1::VersionDrainageStatus;
use everlog_proto::wkt;
use everlog_visibility::Ask;
use tokio::time::Instant;

use super::super::Frontend;
use super::super::visibility::Runs;
use super::idle_versions;

/// Keeps the drainage of versions up to date, until it is aborted.
pub(crate) async fn drain(frontend: Arc<Frontend>) {
    let mut looked: HashMap<(NamespaceId, String, String), Instant> = HashMap::new();
    loop {
        tokio::time::sleep(limits::DRAINAGE_INTERVAL).await;
        if !frontend.namespaces.is_led_here() {
            looked.clear();
            continue;
        }
        let before = std::mem::take(&mut looked);
        for (namespace_id, deployments) in frontend.namespaces.all_deployments() {
            for (deployment, build_id) in idle_versions(&deployments) {
                let key = (namespace_id, deployment.name.clone(), build_id);
                let is_draining = deployment.versions.get(&key.2).is_some_and(|version| {
                    version.drainage.is_some_and(|drainage| drainage.status() == VersionDrainageStatus::Draining)
                });
                let interval = if is_draining { limits::DRAINAGE_INTERVAL } else { limits::DRAINED_INTERVAL };
                // What is not there any more is forgotten.
                let at = match before.get(&key).filter(|at| at.elapsed() < interval) {
                    Some(at) => *at,
                    None => {
                        look(&frontend, namespace_id, &deployment, &key.2).await;
                        Instant::now()
                    }
                };
                looked.insert(key, at);
            }
        }
    }
}

/// Counts what is pinned to a version, and takes in what follows.
async fn look(frontend: &Frontend, namespace_id: NamespaceId, deployment: &Deployment, build_id: &str) {
    let Some(pinned) = count(frontend, namespace_id, deployment, build_id).await else { return };
    let is_known = deployment.versions.get(build_id).is_some_and(|version| {
        let status = version.drainage.map(|drainage| drainage.status());
        let checked = version.drainage.and_then(|drainage| drainage.last_checked_time);
        match pinned {
            // Nothing was ever pinned to it, or nothing has changed since it had drained.
            0 => matches!(status, None | Some(VersionDrainageStatus::Drained)),
            // That it still drains is written now and then.
            _ => {
                let now = wkt::Timestamp::from(std::time::SystemTime::now()).seconds;
                let is_fresh = |time: wkt::Timestamp| now - time.seconds < limits::DRAINAGE_TOLD_SECONDS;
                status == Some(VersionDrainageStatus::Draining) && checked.is_some_and(is_fresh)
            }
        }
    });
    if is_known {
        return;
    }
    let change = |deployment: &mut Option<Deployment>, _: &Deployments, now| {
        if let Some(deployment) = deployment {
            deployment.drain(build_id, pinned, now);
        }
        Ok(())
    };
    if let Err(error) = frontend.namespaces.change_deployment(namespace_id, &deployment.name, change).await {
        tracing::debug!(%error, deployment = deployment.name, "the drainage of a version is not known just now");
    }
}

/// The open workflows that are pinned to a version; `None` if they cannot be counted now.
async fn count(frontend: &Frontend, namespace_id: NamespaceId, deployment: &Deployment, build_id: &str) -> Option<u64> {
    let record = frontend.namespaces.record_by_id(namespace_id)?;
    let version = version_name(&deployment.version(build_id)).replace('\'', "''");
    let query = format!(
        "TemporalWorkerDeploymentVersion = '{version}' AND TemporalWorkflowVersioningBehavior = 'Pinned' AND \
         ExecutionStatus = 'Running'"
    );
    let counted = Runs::new(frontend, &record, Ask::Query(query)).ok()?.count().await.ok()?;
    Some(counted.values().map(|count| u64::try_from(*count).unwrap_or(0)).sum())
}
