//! Which version of the workers gets a task.
//!
//! A task of a workflow that is pinned goes to that version. Every other one goes to where its queue leads: the ramping version for as many
//! workflows as its percentage says, the current one for the others, workers without a version if there is none. Which workflows ramp is
//! decided by a hash of the workflow's id, so it is the same for all its tasks, and those that have ramped stay when the percentage grows.
//! Temporal decides by another hash.

use std::collections::BTreeMap;
use std::sync::Arc;

use everlog_proto::api::deployment::v1::{RoutingConfig, WorkerDeploymentVersion};
use everlog_proto::api::enums::v1::TaskQueueType;
use everlog_proto::wkt::Timestamp;

use super::{Deployment, VersionQueue};
use crate::task::TaskKind;

/// The deployments of a namespace, and where its task queues lead.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Deployments {
    by_name: BTreeMap<String, Arc<Deployment>>,
    /// Those that some version has polled, by kind and name.
    queues: BTreeMap<i32, BTreeMap<String, QueueRouting>>,
}

/// Percentages are numbers.
impl Eq for Deployments {}

/// Where a task queue leads.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QueueRouting {
    /// The versions that have polled it.
    pub versions: Vec<WorkerDeploymentVersion>,
    /// What most tasks are for.
    pub current: Target,
    /// What a share of them is for; meaningful if that share is not zero.
    pub ramping: Target,
    /// The share, percent.
    pub ramp_percentage: f32,
}

/// In the place of a version: the ramping one, for as long as there is one, and otherwise whichever the queue leads to. No version is named so.
pub(crate) static RAMPING: WorkerDeploymentVersion =
    WorkerDeploymentVersion { deployment_name: String::new(), build_id: String::new() };

/// A version, and since when.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Target {
    /// The version; `None` for workers without one.
    pub version: Option<WorkerDeploymentVersion>,
    /// The revision of the routing that says so.
    pub revision: i64,
    /// When it said so first.
    pub changed: Option<Timestamp>,
}

impl QueueRouting {
    /// Which workers get what is not pinned of a workflow.
    pub fn target(&self, workflow_id: &str) -> &Target {
        let ramps = self.ramp_percentage >= 100.0
            || (self.ramp_percentage > 0.0 && ramp_threshold(workflow_id) <= f64::from(self.ramp_percentage));
        if ramps { &self.ramping } else { &self.current }
    }

    /// Whether a version has polled the queue.
    pub fn has(&self, version: &WorkerDeploymentVersion) -> bool {
        self.versions.contains(version)
    }

    /// When this was changed last.
    pub fn changed(&self) -> Option<Timestamp> {
        let times = [self.current.changed, self.ramping.changed];
        times.into_iter().flatten().max_by_key(|time| (time.seconds, time.nanos))
    }
}

/// From which percentage on a workflow is among those that ramp. For ever: workflows would change sides.
fn ramp_threshold(workflow_id: &str) -> f64 {
    const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;
    let mut hash = workflow_id.bytes().fold(FNV_OFFSET, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(FNV_PRIME));
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^= hash >> 33;
    100.0 * f64::from((hash >> 32) as u32) / (f64::from(u32::MAX) + 1.0)
}

/// The kind of a queue with tasks of a kind.
fn queue_kind(kind: TaskKind) -> i32 {
    match kind {
        TaskKind::Workflow => TaskQueueType::Workflow.into(),
        TaskKind::Activity => TaskQueueType::Activity.into(),
    }
}

impl Deployments {
    /// What follows from these deployments.
    pub fn new(deployments: impl IntoIterator<Item = Arc<Deployment>>) -> Deployments {
        let by_name: BTreeMap<_, _> =
            deployments.into_iter().map(|deployment| (deployment.name.clone(), deployment)).collect();
        let mut queues: BTreeMap<i32, BTreeMap<String, QueueRouting>> = BTreeMap::new();
        for deployment in by_name.values() {
            for (build_id, version) in &deployment.versions {
                for queue in &version.task_queues {
                    let of_kind = queues.entry(queue.kind).or_default();
                    let routing = of_kind.entry(queue.name.clone()).or_default();
                    routing.versions.push(deployment.version(build_id));
                }
            }
        }
        let mut deployments = Deployments { by_name, queues: BTreeMap::new() };
        for (kind, of_kind) in &mut queues {
            for (name, routing) in of_kind {
                deployments.lead(&VersionQueue { kind: *kind, name: name.clone() }, routing);
            }
        }
        deployments.queues = queues;
        deployments
    }

    /// Fills in where a queue leads: of several deployments that it is in, the one that has said so last; one that has a version for it
    /// counts more than one that leads to workers without a version. A version that has never polled the queue does not count.
    fn lead(&self, queue: &VersionQueue, routing: &mut QueueRouting) {
        let mine: Vec<&RoutingConfig> = self
            .by_name
            .values()
            .filter(|deployment| deployment.versions.values().any(|version| version.has_queue(queue.kind, &queue.name)))
            .map(|deployment| &deployment.routing)
            .collect();
        let latest = |time: fn(&RoutingConfig) -> Option<Timestamp>,
                      version: fn(&RoutingConfig) -> Option<&WorkerDeploymentVersion>| {
            let changed =
                |config: &&&RoutingConfig| time(config).map_or((i64::MIN, 0), |time| (time.seconds, time.nanos));
            let has_time = |config: &&&RoutingConfig| time(config).is_some();
            let versioned = mine
                .iter()
                .filter(has_time)
                .filter(|config| version(config).is_some_and(|version| routing.has(version)))
                .max_by_key(changed);
            versioned
                .or_else(|| mine.iter().filter(has_time).filter(|config| version(config).is_none()).max_by_key(changed))
        };
        let current =
            latest(|config| config.current_version_changed_time, |config| config.current_deployment_version.as_ref());
        let ramping = latest(
            |config| config.ramping_version_percentage_changed_time,
            |config| config.ramping_deployment_version.as_ref(),
        );
        let (current, ramping) = (current.copied().cloned(), ramping.copied().cloned());
        if let Some(config) = current {
            routing.current = Target {
                version: config.current_deployment_version,
                revision: config.revision_number,
                changed: config.current_version_changed_time,
            };
        }
        if let Some(config) = ramping {
            routing.ramp_percentage = config.ramping_version_percentage;
            routing.ramping = Target {
                version: config.ramping_deployment_version,
                revision: config.revision_number,
                changed: config.ramping_version_percentage_changed_time,
            };
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// The deployment with a name.
    pub fn get(&self, name: &str) -> Option<&Arc<Deployment>> {
        self.by_name.get(name)
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Deployment>> {
        self.by_name.values()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Where a queue leads, if any version has polled it.
    pub fn queue(&self, kind: TaskKind, name: &str) -> Option<&QueueRouting> {
        self.queues.get(&queue_kind(kind))?.get(name)
    }

    /// Which workers get what is not pinned of a workflow.
    pub fn target(&self, kind: TaskKind, queue: &str, workflow_id: &str) -> Target {
        self.queue(kind, queue).map(|routing| routing.target(workflow_id).clone()).unwrap_or_default()
    }

    /// Whether workers of a version have polled a queue.
    pub fn is_in_version(&self, kind: TaskKind, queue: &str, version: &WorkerDeploymentVersion) -> bool {
        self.queue(kind, queue).is_some_and(|routing| routing.has(version))
    }

    /// The version of the workers that get a task; `None` for workers without one. `pinned` is the version that the task names.
    ///
    /// An activity of a pinned workflow goes to that version only if its queue is in it. Otherwise it is an activity of its own, and goes
    /// where its queue leads. The first task of a workflow that wants to try the ramping version goes there.
    pub fn route<'a>(
        &'a self,
        kind: TaskKind,
        queue: &str,
        pinned: Option<&'a WorkerDeploymentVersion>,
        workflow_id: &str,
    ) -> Option<&'a WorkerDeploymentVersion> {
        let routing = self.queue(kind, queue);
        if pinned == Some(&RAMPING) {
            let routing = routing?;
            return routing.ramping.version.as_ref().or(routing.target(workflow_id).version.as_ref());
        }
        if let Some(version) = pinned
            && (kind == TaskKind::Workflow || routing.is_some_and(|routing| routing.has(version)))
        {
            return Some(version);
        }
        routing?.target(workflow_id).version.as_ref()
    }
}
