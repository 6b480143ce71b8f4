//! What callers are shown of deployments.

use std::sync::Arc;

use everlog_proto::api::deployment::v1::worker_deployment_info::WorkerDeploymentVersionSummary;
use everlog_proto::api::deployment::v1::worker_deployment_version_info::VersionTaskQueueInfo;
use everlog_proto::api::deployment::v1::{
    VersionDrainageInfo, VersionMetadata, WorkerDeploymentInfo, WorkerDeploymentVersionInfo,
};
use everlog_proto::api::enums::v1::RoutingConfigUpdateState;
use everlog_proto::api::workflowservice::v1::list_worker_deployments_response::WorkerDeploymentSummary;
use everlog_proto::wkt::Timestamp;

use super::{Deployment, DeploymentVersion, old_version_name};
use crate::Time;

fn shown(time: Option<Time>) -> Option<Timestamp> {
    time.map(|time| time.to_proto())
}

/// A version in a few words.
#[expect(deprecated, reason = "older clients read the text")]
pub fn summary(deployment: &Deployment, build_id: &str, version: &DeploymentVersion) -> WorkerDeploymentVersionSummary {
    let name = deployment.version(build_id);
    // Temporal notes when a version became current in the place of its drainage.
    let erased = version.current_since.filter(|_| version.drainage.is_none()).map(|since| VersionDrainageInfo {
        status: 0,
        last_changed_time: shown(Some(since)),
        last_checked_time: shown(Some(since)),
    });
    WorkerDeploymentVersionSummary {
        version: old_version_name(Some(&name)),
        status: version.status.into(),
        deployment_version: Some(name),
        create_time: shown(Some(version.created)),
        drainage_status: version.drainage.map_or(0, |drainage| drainage.status),
        drainage_info: version.drainage.or(erased),
        current_since_time: shown(version.current_since),
        ramping_since_time: shown(version.ramping_since),
        routing_update_time: shown(version.routing_updated),
        first_activation_time: shown(version.first_activation),
        last_current_time: shown(version.last_current),
        last_deactivation_time: shown(version.last_deactivation),
        ..WorkerDeploymentVersionSummary::default()
    }
}

/// The version that was created last, in a few words.
pub fn latest_summary(deployment: &Deployment) -> Option<WorkerDeploymentVersionSummary> {
    let (build_id, version) = deployment.versions.iter().max_by_key(|(_, version)| version.created)?;
    Some(summary(deployment, build_id, version))
}

impl Deployment {
    /// All of it.
    pub fn describe(&self) -> WorkerDeploymentInfo {
        let mut versions: Vec<_> = self.versions.iter().collect();
        versions.sort_by_key(|(_, version)| std::cmp::Reverse(version.created));
        WorkerDeploymentInfo {
            name: self.name.clone(),
            version_summaries: versions.into_iter().map(|(id, version)| summary(self, id, version)).collect(),
            create_time: shown(Some(self.created)),
            routing_config: Some(self.routing.clone()),
            last_modifier_identity: self.last_modifier_identity.clone(),
            manager_identity: self.manager_identity.clone(),
            // A change is answered once every node has seen it.
            routing_config_update_state: RoutingConfigUpdateState::Completed.into(),
        }
    }

    /// In a few words.
    pub fn summarize(&self) -> WorkerDeploymentSummary {
        let of = |is_it: &dyn Fn(&str) -> bool| {
            let found = self.versions.iter().find(|(id, _)| is_it(id));
            found.map(|(id, version)| summary(self, id, version))
        };
        WorkerDeploymentSummary {
            name: self.name.clone(),
            create_time: shown(Some(self.created)),
            routing_config: Some(self.routing.clone()),
            latest_version_summary: latest_summary(self),
            current_version_summary: of(&|id| self.is_current(id)),
            ramping_version_summary: of(&|id| self.is_ramping(id)),
        }
    }

    /// All of a version.
    #[expect(deprecated, reason = "older clients read the text")]
    pub fn describe_version(&self, build_id: &str) -> Option<WorkerDeploymentVersionInfo> {
        let version: &Arc<DeploymentVersion> = self.versions.get(build_id)?;
        let name = self.version(build_id);
        let queue = |queue: &super::VersionQueue| VersionTaskQueueInfo { name: queue.name.clone(), r#type: queue.kind };
        Some(WorkerDeploymentVersionInfo {
            version: old_version_name(Some(&name)),
            status: version.status.into(),
            deployment_version: Some(name),
            create_time: shown(Some(version.created)),
            routing_changed_time: shown(version.routing_updated),
            current_since_time: shown(version.current_since),
            ramping_since_time: shown(version.ramping_since),
            ramp_percentage: version.ramp_percentage,
            task_queue_infos: version.task_queues.iter().map(queue).collect(),
            drainage_info: version.drainage,
            metadata: version.shown_metadata(),
            last_modifier_identity: version.last_modifier_identity.clone(),
            ..WorkerDeploymentVersionInfo::default()
        })
    }
}

impl DeploymentVersion {
    /// Whatever its owners keep with it.
    pub fn shown_metadata(&self) -> Option<VersionMetadata> {
        let entries = self.metadata.iter().map(|(key, payload)| (key.clone(), payload.clone())).collect();
        (!self.metadata.is_empty()).then_some(VersionMetadata { entries })
    }
}
