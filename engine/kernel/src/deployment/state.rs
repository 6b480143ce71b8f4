//! What is known of a deployment.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use everlog_proto::api::common::v1::Payload;
use everlog_proto::api::deployment::v1::{RoutingConfig, VersionDrainageInfo, WorkerDeploymentVersion};
use everlog_proto::api::enums::v1::WorkerDeploymentVersionStatus as Status;

use super::UNVERSIONED;
use crate::Time;

/// A deployment with its versions.
#[derive(Clone, Debug, PartialEq)]
pub struct Deployment {
    /// Its name.
    pub name: String,
    /// When it was created.
    pub created: Time,
    /// Which version is current, and which is ramping.
    pub routing: RoutingConfig,
    /// Who alone may change that, if anybody has said so.
    pub manager_identity: String,
    /// Who has changed it last.
    pub last_modifier_identity: String,
    /// Another one after each change.
    pub conflict_token: Vec<u8>,
    /// The request that has created it; empty if a poll has.
    pub create_request_id: String,
    /// Its versions by build id.
    pub versions: BTreeMap<String, Arc<DeploymentVersion>>,
}

/// A version of a deployment.
#[derive(Clone, Debug, PartialEq)]
pub struct DeploymentVersion {
    /// When it was created.
    pub created: Time,
    /// How it stands.
    pub status: Status,
    /// When that was changed last by an operator.
    pub routing_updated: Option<Time>,
    /// Since when it is current.
    pub current_since: Option<Time>,
    /// Since when it is ramping.
    pub ramping_since: Option<Time>,
    /// To which share it is ramping, percent.
    pub ramp_percentage: f32,
    /// When it became current or ramping first.
    pub first_activation: Option<Time>,
    /// When it became current last.
    pub last_current: Option<Time>,
    /// When it ceased to be either.
    pub last_deactivation: Option<Time>,
    /// Whether workflows are left that are pinned to it, once it was current or ramping.
    pub drainage: Option<VersionDrainageInfo>,
    /// The task queues that its workers have polled.
    pub task_queues: BTreeSet<VersionQueue>,
    /// Whatever its owners keep with it.
    pub metadata: BTreeMap<String, Payload>,
    /// Who has changed it last.
    pub last_modifier_identity: String,
    /// The request that has created it; empty if a poll has.
    pub create_request_id: String,
}

/// A task queue that workers of a version have polled.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct VersionQueue {
    /// A `TaskQueueType`.
    pub kind: i32,
    /// Its name.
    pub name: String,
}

impl Deployment {
    /// One without versions.
    #[expect(deprecated, reason = "older clients read the texts")]
    pub fn new(name: &str, now: Time) -> Deployment {
        Deployment {
            name: name.to_owned(),
            created: now,
            routing: RoutingConfig { current_version: UNVERSIONED.to_owned(), ..RoutingConfig::default() },
            manager_identity: String::new(),
            last_modifier_identity: String::new(),
            conflict_token: conflict_token(now),
            create_request_id: String::new(),
            versions: BTreeMap::new(),
        }
    }

    /// The full name of a version.
    pub fn version(&self, build_id: &str) -> WorkerDeploymentVersion {
        WorkerDeploymentVersion { deployment_name: self.name.clone(), build_id: build_id.to_owned() }
    }

    /// Whether a version is the current one.
    pub fn is_current(&self, build_id: &str) -> bool {
        self.routing.current_deployment_version.as_ref().is_some_and(|current| current.build_id == build_id)
    }

    /// Whether it is the ramping one.
    pub fn is_ramping(&self, build_id: &str) -> bool {
        self.routing.ramping_deployment_version.as_ref().is_some_and(|ramping| ramping.build_id == build_id)
    }
}

impl DeploymentVersion {
    /// One that nobody has polled for.
    pub(super) fn new(now: Time, status: Status) -> DeploymentVersion {
        DeploymentVersion {
            created: now,
            status,
            routing_updated: None,
            current_since: None,
            ramping_since: None,
            ramp_percentage: 0.0,
            first_activation: None,
            last_current: None,
            last_deactivation: None,
            drainage: None,
            task_queues: BTreeSet::new(),
            metadata: BTreeMap::new(),
            last_modifier_identity: String::new(),
            create_request_id: String::new(),
        }
    }

    /// Whether its workers have polled a queue.
    pub fn has_queue(&self, kind: i32, name: &str) -> bool {
        // The set is small, and a look into it would need a name of its own.
        self.task_queues.iter().any(|queue| queue.kind == kind && queue.name == name)
    }
}

/// A token that no other change has: changes of a deployment come one by one, and the metadata's clock moves on between them.
pub(super) fn conflict_token(now: Time) -> Vec<u8> {
    now.0.to_be_bytes().to_vec()
}
