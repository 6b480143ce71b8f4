//! Which workers have completed workflow tasks of a run: the points that its chain can be reset to, and the search attributes that name
//! those workers.
//!
//! With each completion comes the checksum of the worker's binary, or its build id. The first completion by a worker that the chain has
//! not seen is a point to reset to, so that what a bad worker has done can be taken back. A chain hands its points on from run to run.
//! How many there are at most, and how large the attributes, is configuration, which no event tells: [`Run::limit_workers`] sees to it
//! when an event has just been written.

use std::sync::Arc;

use bytes::Bytes;
use everlog_proto::api::enums::v1::VersioningBehavior;
use everlog_proto::api::history::v1::{HistoryEvent, WorkflowTaskCompletedEventAttributes};
use everlog_proto::api::workflow::v1::{ResetPointInfo, ResetPoints};

use super::apply::event_time;
use super::row::Workers;
use super::{LastWorker, Run, Versioning};
use crate::deployment::version_name;
use crate::payload_map::PayloadMap;
use crate::{Limits, RunId, Time};

/// The search attribute that names the workers of a run by their build ids.
const BUILD_IDS: &str = "BuildIds";

/// The same by the checksums of their binaries.
const BINARY_CHECKSUMS: &str = "BinaryChecksums";

/// Those that are lists.
pub(super) const WORKER_ATTRIBUTES: [&str; 3] = [BUILD_IDS, BINARY_CHECKSUMS, USED_VERSIONS];

/// The search attribute that names the deployment of the last worker.
const WORKER_DEPLOYMENT: &str = "TemporalWorkerDeployment";

/// The one that names the version that the run is on.
const WORKER_DEPLOYMENT_VERSION: &str = "TemporalWorkerDeploymentVersion";

/// The one that tells how the run goes on with versions.
const VERSIONING_BEHAVIOR: &str = "TemporalWorkflowVersioningBehavior";

/// The one that names all versions that have completed workflow tasks of the run.
const USED_VERSIONS: &str = "TemporalUsedWorkerDeploymentVersions";

/// All search attributes that tell of workers.
const NAMES_OF_WORKERS: [&str; 6] =
    [BUILD_IDS, BINARY_CHECKSUMS, WORKER_DEPLOYMENT, WORKER_DEPLOYMENT_VERSION, VERSIONING_BEHAVIOR, USED_VERSIONS];

/// What [`BUILD_IDS`] begins with where no worker has a version.
const UNVERSIONED: &str = "unversioned";

/// What stands in it in front of the version that a run is pinned to.
const PINNED: &str = "pinned:";

/// A point that a chain of runs can be reset to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResetPoint {
    /// The run.
    pub run_id: RunId,
    /// Its WorkflowTaskCompleted event.
    pub completed_event_id: i64,
    /// When that was.
    pub create_time: Time,
    /// When the run is gone; not known while it is the chain's last one.
    pub expire_time: Option<Time>,
    /// Whether nothing was on its way then to other workflows, and no child was open.
    pub is_resettable: bool,
    /// The binary of the worker; empty if it does not say.
    pub binary_checksum: Box<str>,
    /// The build id of the worker; empty if it has none.
    pub build_id: Box<str>,
}

impl ResetPoint {
    /// As descriptions have it.
    fn to_proto(&self) -> ResetPointInfo {
        ResetPointInfo {
            build_id: self.build_id.to_string(),
            #[expect(deprecated, reason = "old workers are known by it")]
            binary_checksum: self.binary_checksum.to_string(),
            run_id: self.run_id.to_string(),
            first_workflow_task_completed_id: self.completed_event_id,
            create_time: Some(self.create_time.to_proto()),
            expire_time: self.expire_time.map(|time| time.to_proto()),
            resettable: self.is_resettable,
        }
    }

    /// From an event; `None` if what it names is no run.
    fn from_proto(info: &ResetPointInfo) -> Option<ResetPoint> {
        Some(ResetPoint {
            run_id: info.run_id.parse().ok()?,
            completed_event_id: info.first_workflow_task_completed_id,
            create_time: info.create_time.as_ref().map_or(Time(0), Time::from_proto),
            expire_time: info.expire_time.as_ref().map(Time::from_proto),
            is_resettable: info.resettable,
            #[expect(deprecated, reason = "old workers are known by it")]
            binary_checksum: info.binary_checksum.as_str().into(),
            build_id: info.build_id.as_str().into(),
        })
    }

    /// Rough size in memory, bytes.
    pub(super) fn memory_bytes(&self) -> usize {
        size_of::<ResetPoint>() + self.binary_checksum.len() + self.build_id.len()
    }
}

/// The points that a first event hands on.
pub(super) fn from_event(points: Option<&ResetPoints>) -> Vec<ResetPoint> {
    points.iter().flat_map(|points| &points.points).filter_map(ResetPoint::from_proto).collect()
}

impl Run {
    /// What is known of the run's workers.
    pub(crate) fn workers(&self) -> Workers {
        let search_attributes = PayloadMap::of(self.info.started.properties().search_attributes.as_ref());
        Workers {
            reset_points: self.info.reset_points.clone(),
            last_worker: self.info.last_worker.clone(),
            search_attributes: search_attributes.only(&NAMES_OF_WORKERS),
            versioning: self.info.versioning.clone(),
        }
    }

    /// Takes in what a row knows of the run's workers.
    pub(super) fn load_workers(&mut self, workers: Workers) {
        let Workers { reset_points, last_worker, search_attributes, versioning } = workers;
        let info = Arc::make_mut(&mut self.info);
        (info.reset_points, info.last_worker, info.versioning) = (reset_points, last_worker, versioning);
        self.change_worker_attributes(|attributes| {
            let before = attributes.clone();
            attributes.replace(&NAMES_OF_WORKERS, &search_attributes);
            *attributes != before
        });
        self.workers_changed = false;
    }

    /// Changes the search attributes that name the run's workers, which have a row of their own. `change` says whether it has changed
    /// anything.
    fn change_worker_attributes(&mut self, change: impl FnOnce(&mut PayloadMap) -> bool) {
        let (info_changed, mut is_changed) = (self.info_changed, false);
        self.change_search_attributes(|attributes| {
            is_changed = change(attributes);
            is_changed
        });
        self.info_changed = info_changed;
        self.workers_changed |= is_changed;
    }

    /// The points that the run's chain can be reset to.
    pub fn reset_points(&self) -> ResetPoints {
        ResetPoints { points: self.info.reset_points.iter().map(ResetPoint::to_proto).collect() }
    }

    /// The same for a run that continues this one from `now` on: those of this run are gone when that is, at `gone`.
    pub(crate) fn reset_points_handed_on(&self, now: Time, gone: Time) -> ResetPoints {
        let is_there = |point: &&ResetPoint| point.expire_time.is_none_or(|time| time >= now);
        let handed_on = |point: &ResetPoint| match point.run_id == self.id {
            true => ResetPoint { expire_time: Some(gone), ..point.clone() }.to_proto(),
            false => point.to_proto(),
        };
        ResetPoints { points: self.info.reset_points.iter().filter(is_there).map(handed_on).collect() }
    }

    /// A worker has completed a workflow task.
    pub(super) fn completed_by_worker(
        &mut self,
        event: &HistoryEvent,
        attributes: &WorkflowTaskCompletedEventAttributes,
    ) {
        #[expect(deprecated, reason = "old workers are known by these fields")]
        let (checksum, stamp, deployment) =
            (&attributes.binary_checksum, attributes.worker_version.as_ref(), attributes.deployment.as_ref());
        let stamped = stamp.map_or("", |stamp| &stamp.build_id);
        let deployed = attributes.deployment_version.as_ref().map(|version| version.build_id.as_str());
        let build_id = deployed.or(deployment.map(|deployment| deployment.build_id.as_str())).unwrap_or(stamped);
        let points = &self.info.reset_points;
        let is_known = points.iter().any(|point| *point.binary_checksum == **checksum && *point.build_id == *build_id);
        if !is_known {
            let point = ResetPoint {
                run_id: self.id,
                completed_event_id: event.event_id,
                create_time: event_time(event),
                expire_time: None,
                is_resettable: self.children.is_empty()
                    && self.external_signals.is_empty()
                    && self.external_cancels.is_empty(),
                binary_checksum: checksum.as_str().into(),
                build_id: build_id.into(),
            };
            self.workers_changed = true;
            Arc::make_mut(&mut self.info).reset_points.push(point);
        }
        let worker = stamp.map(|_| match stamped {
            "" => UNVERSIONED.to_owned(),
            build_id => format!("{UNVERSIONED}:{build_id}"),
        });
        let deployment = attributes.worker_deployment_name.as_str();
        let last = &self.info.last_worker;
        if last.version_stamp.as_ref() != stamp || last.deployment_name != deployment {
            self.workers_changed = true;
            Arc::make_mut(&mut self.info).last_worker =
                LastWorker { version_stamp: stamp.cloned(), deployment_name: deployment.to_owned() };
        }
        self.name_version(worker);
        if let Some(version) = attributes.deployment_version.as_ref().map(version_name) {
            self.change_worker_attributes(|attributes| {
                let mut used = attributes.keywords(USED_VERSIONS);
                if used.contains(&version) {
                    return false;
                }
                used.push(version);
                attributes.set_keywords(USED_VERSIONS, &used);
                true
            });
        }
        if !is_known && !checksum.is_empty() {
            self.name_binaries();
        }
    }

    /// Names the run's version where lists find it, and a worker that has completed a workflow task.
    pub(super) fn name_version(&mut self, worker: Option<String>) {
        let versioning = self.info.versioning.as_deref();
        let (behavior, version) = versioning.map_or((VersioningBehavior::Unspecified, None), Versioning::listed);
        let deployment =
            version.map_or(&self.info.last_worker.deployment_name, |version| &version.deployment_name).clone();
        let version = version.map(version_name).unwrap_or_default();
        self.change_worker_attributes(|attributes| {
            let known = attributes.keywords(BUILD_IDS);
            let now = with_worker(&known, worker, behavior, &version);
            let mut is_changed = known != now;
            if is_changed {
                attributes.set_keywords(BUILD_IDS, &now);
            }
            let told = match behavior {
                VersioningBehavior::Unspecified => "",
                VersioningBehavior::Pinned => "Pinned",
                VersioningBehavior::AutoUpgrade => "AutoUpgrade",
            };
            for (name, value) in
                [(WORKER_DEPLOYMENT, &*deployment), (WORKER_DEPLOYMENT_VERSION, &version), (VERSIONING_BEHAVIOR, told)]
            {
                is_changed |= attributes.set_or_remove_keyword(name, value);
            }
            is_changed
        });
    }

    fn name_binaries(&mut self) {
        let checksums = self.info.reset_points.iter().map(|point| point.binary_checksum.to_string());
        let checksums: Vec<String> = checksums.filter(|checksum| !checksum.is_empty()).collect();
        self.change_worker_attributes(|attributes| {
            let is_changed = attributes.keywords(BINARY_CHECKSUMS) != checksums;
            if is_changed {
                attributes.set_keywords(BINARY_CHECKSUMS, &checksums);
            }
            is_changed
        });
    }

    /// Keeps no more points, and no longer a list of workers, than limits allow: the newest ones.
    pub(crate) fn limit_workers(&mut self, limits: &Limits) {
        let excess = self.info.reset_points.len().saturating_sub(limits.reset_points_max);
        if excess > 0 {
            self.workers_changed = true;
            Arc::make_mut(&mut self.info).reset_points.drain(..excess);
            if self.info.reset_points.last().is_some_and(|point| !point.binary_checksum.is_empty()) {
                self.name_binaries();
            }
        }
        self.change_worker_attributes(|attributes| {
            if attributes.value_bytes(BUILD_IDS) <= limits.search_attribute_bytes_max {
                return false;
            }
            let mut build_ids = attributes.keywords(BUILD_IDS);
            let is_first = |build_id: &str| build_id == UNVERSIONED || build_id.starts_with(PINNED);
            while !build_ids.is_empty() && attributes.value_bytes(BUILD_IDS) > limits.search_attribute_bytes_max {
                // What says that there are no versions stays as long as anything.
                build_ids.remove(usize::from(build_ids.len() > 1 && is_first(&build_ids[0])));
                attributes.set_keywords(BUILD_IDS, &build_ids);
            }
            true
        });
    }
}

/// The names of a run's workers with that of the one that has completed a workflow task; in front stands that they have no versions, or to
/// which one the run is pinned.
fn with_worker(known: &[String], worker: Option<String>, behavior: VersioningBehavior, version: &str) -> Vec<String> {
    let is_new = |worker: &String| !known.contains(worker);
    let first = match behavior {
        VersioningBehavior::Unspecified => Some(UNVERSIONED.to_owned()),
        VersioningBehavior::Pinned => Some(format!("{PINNED}{version}")),
        VersioningBehavior::AutoUpgrade => None,
    };
    let others = known.iter().filter(|worker| *worker != UNVERSIONED && !worker.starts_with(PINNED)).cloned();
    first.into_iter().chain(others).chain(worker.filter(is_new)).collect()
}

impl PayloadMap {
    /// Bytes of a value.
    fn value_bytes(&self, key: &str) -> usize {
        self.data(key).as_ref().map_or(0, Bytes::len)
    }
}
