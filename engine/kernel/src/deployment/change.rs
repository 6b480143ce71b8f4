//! What changes of a deployment do. Each is decided whole or refused, with Temporal's texts: `service/worker/workerdeployment`.

use std::collections::HashMap;
use std::sync::Arc;

use everlog_proto::api::common::v1::Payload;
use everlog_proto::api::deployment::v1::VersionDrainageInfo;
use everlog_proto::api::enums::v1::{
    ResourceExhaustedCause, VersionDrainageStatus as Drainage, WorkerDeploymentVersionStatus as Status,
};

use super::state::conflict_token;
use super::{
    Deployment, DeploymentVersion, UNVERSIONED, VersionQueue, old_version_name, version_name, version_of_name,
};
use crate::{Rejection, Time};

/// A version that may go to make place for another: it stands in none's way, and nobody polls for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unwatched(pub Option<String>);

/// A version is to become the current one.
#[derive(Clone, Debug)]
pub struct SetCurrent {
    /// The version, or [`UNVERSIONED`].
    pub version: String,
    /// Who wants it.
    pub identity: String,
    /// What the deployment must not have changed since, if the caller says so.
    pub conflict_token: Vec<u8>,
    /// Whether the version need not be there.
    pub allows_no_pollers: bool,
}

/// A version is to become the ramping one.
#[derive(Clone, Debug)]
pub struct SetRamping {
    /// The version, [`UNVERSIONED`], or nothing to end the ramp.
    pub version: String,
    /// To which share, percent.
    pub percentage: f32,
    /// Who wants it.
    pub identity: String,
    /// What the deployment must not have changed since, if the caller says so.
    pub conflict_token: Vec<u8>,
    /// Whether the version need not be there.
    pub allows_no_pollers: bool,
}

fn failed(message: impl Into<std::borrow::Cow<'static, str>>) -> Rejection {
    Rejection::FailedPrecondition(message.into())
}

fn exhausted(message: String) -> Rejection {
    Rejection::ResourceExhausted { cause: ResourceExhaustedCause::WorkerDeploymentLimits, message: message.into() }
}

/// The build id in a version's name; `None` for workers without a version.
fn build_id_of(version: &str) -> Option<String> {
    version_of_name(version).ok().flatten().map(|version| version.build_id)
}

impl Deployment {
    fn check_manager(&self, identity: &str) -> Result<(), Rejection> {
        if self.manager_identity.is_empty() || self.manager_identity == identity {
            return Ok(());
        }
        Err(failed(format!(
            "ManagerIdentity '{}' is set and does not match user identity '{identity}'; to proceed, set your own identity as \
             the ManagerIdentity, remove the ManagerIdentity, or wait for the other client to do so",
            self.manager_identity
        )))
    }

    fn check_token(&self, token: &[u8]) -> Result<(), Rejection> {
        if token.is_empty() || token == self.conflict_token {
            return Ok(());
        }
        Err(failed("conflict token mismatch"))
    }

    fn not_found(&self, version: &str) -> Rejection {
        let build_id = build_id_of(version).unwrap_or_default();
        Rejection::NotFound(format!("build ID '{build_id}' not found in Worker Deployment '{}'", self.name).into())
    }

    fn version_mut(&mut self, build_id: &str) -> Option<&mut DeploymentVersion> {
        self.versions.get_mut(build_id).map(Arc::make_mut)
    }

    fn touch(&mut self, identity: &str, now: Time) {
        self.conflict_token = conflict_token(now);
        identity.clone_into(&mut self.last_modifier_identity);
    }

    /// Adds a version that is not there. Where there are as many as may be, an `unwatched` one goes.
    fn add(
        &mut self,
        build_id: &str,
        status: Status,
        versions_max: usize,
        unwatched: &Unwatched,
        now: Time,
    ) -> Result<&mut DeploymentVersion, Rejection> {
        if self.versions.len() >= versions_max {
            let goes = unwatched.0.as_ref().filter(|goes| self.deletable().any(|(id, _)| id == goes.as_str()));
            let Some(goes) = goes else {
                return Err(exhausted(format!(
                    "cannot add version {} since maximum number of versions ({versions_max}) have been registered in the \
                     deployment",
                    old_version_name(Some(&self.version(build_id)))
                )));
            };
            self.versions.remove(goes);
        }
        let version = Arc::new(DeploymentVersion::new(now, status));
        Ok(Arc::make_mut(self.versions.entry(build_id.to_owned()).or_insert(version)))
    }

    /// The versions that may go if nobody polls for them, oldest first.
    pub fn deletable(&self) -> impl Iterator<Item = (&str, &Arc<DeploymentVersion>)> {
        let is_draining = |version: &DeploymentVersion| {
            version.drainage.is_some_and(|drainage| drainage.status() == Drainage::Draining)
        };
        let mut found: Vec<_> = self
            .versions
            .iter()
            .filter(|(id, version)| !self.is_current(id) && !self.is_ramping(id) && !is_draining(version))
            .map(|(id, version)| (id.as_str(), version))
            .collect();
        found.sort_by_key(|(_, version)| version.created);
        found.into_iter()
    }

    /// A worker of a version polls a task queue.
    ///
    /// # Errors
    ///
    /// `ResourceExhausted` if there are too many versions, or queues of this one.
    pub fn register(
        &mut self,
        build_id: &str,
        queue: VersionQueue,
        (versions_max, queues_max): (usize, usize),
        unwatched: &Unwatched,
        now: Time,
    ) -> Result<(), Rejection> {
        if !self.versions.contains_key(build_id) {
            self.add(build_id, Status::Inactive, versions_max, unwatched, now)?;
        }
        let Some(version) = self.version_mut(build_id) else { return Ok(()) };
        let is_new = !version.task_queues.iter().any(|known| known.name == queue.name);
        let names =
            version.task_queues.iter().map(|known| known.name.as_str()).collect::<std::collections::BTreeSet<_>>();
        if is_new && names.len() >= queues_max {
            return Err(exhausted(format!(
                "cannot add task queue {} since maximum number of task queues ({queues_max}) have been registered in deployment",
                queue.name
            )));
        }
        version.task_queues.insert(queue);
        if version.status == Status::Created {
            version.status = Status::Inactive;
        }
        Ok(())
    }

    /// Adds a version that nobody has polled for yet.
    ///
    /// # Errors
    ///
    /// `AlreadyExists`, unless the same request has added it, and `ResourceExhausted`.
    pub fn create_version(
        &mut self,
        build_id: &str,
        (identity, request_id): (&str, &str),
        versions_max: usize,
        unwatched: &Unwatched,
        now: Time,
    ) -> Result<(), Rejection> {
        if let Some(known) = self.versions.get(build_id) {
            if known.create_request_id == request_id {
                return Ok(());
            }
            let name = old_version_name(Some(&self.version(build_id)));
            return Err(Rejection::AlreadyExists(format!("Worker Deployment Version {name:?} already exists").into()));
        }
        let version = self.add(build_id, Status::Created, versions_max, unwatched, now)?;
        request_id.clone_into(&mut version.create_request_id);
        identity.clone_into(&mut version.last_modifier_identity);
        Ok(())
    }

    /// Whether a change of the current version changes nothing, and whether it may be made.
    fn check_current(&self, set: &SetCurrent) -> Result<bool, Rejection> {
        if self.current_name() == set.version && self.last_modifier_identity == set.identity {
            return Ok(false);
        }
        self.check_token(&set.conflict_token)?;
        let build_id = build_id_of(&set.version);
        let is_there = build_id.as_ref().is_none_or(|build_id| self.versions.contains_key(build_id));
        if !is_there && !set.allows_no_pollers {
            return Err(self.not_found(&set.version));
        }
        self.check_manager(&set.identity).map(|()| true)
    }

    /// Makes a version the current one. Returns the one before it.
    ///
    /// # Errors
    ///
    /// `NotFound`, `FailedPrecondition` or `ResourceExhausted`.
    #[expect(deprecated, reason = "older clients read the texts")]
    pub fn set_current(
        &mut self,
        set: &SetCurrent,
        versions_max: usize,
        unwatched: &Unwatched,
        now: Time,
    ) -> Result<String, Rejection> {
        let before = self.current_name();
        if !self.check_current(set)? {
            return Ok(before);
        }
        let build_id = build_id_of(&set.version);
        if let Some(build_id) = &build_id
            && !self.versions.contains_key(build_id)
        {
            self.add(build_id, Status::Inactive, versions_max, unwatched, now)?;
        }
        if before != set.version {
            let time = Some(now.to_proto());
            let name = build_id.as_ref().map(|build_id| self.version(build_id));
            let routing = &mut self.routing;
            routing.current_deployment_version = name;
            routing.current_version.clone_from(&set.version);
            routing.current_version_changed_time = time;
            routing.revision_number += 1;
            if routing.ramping_version == set.version {
                routing.ramping_deployment_version = None;
                routing.ramping_version.clear();
                routing.ramping_version_percentage = 0.0;
                routing.ramping_version_changed_time = time;
                routing.ramping_version_percentage_changed_time = time;
            }
            if let Some(before) = build_id_of(&before) {
                self.deactivate(&before, now);
            }
            if let Some(build_id) = &build_id {
                self.activate(build_id, now);
            }
        }
        self.touch(&set.identity, now);
        Ok(before)
    }

    /// Makes a version the ramping one, changes its share, or ends the ramp. Returns the one before it, and its share.
    ///
    /// # Errors
    ///
    /// `NotFound`, `FailedPrecondition` or `ResourceExhausted`.
    #[expect(deprecated, reason = "older clients read the texts")]
    pub fn set_ramping(
        &mut self,
        set: &SetRamping,
        versions_max: usize,
        unwatched: &Unwatched,
        now: Time,
    ) -> Result<(String, f32), Rejection> {
        let before = (self.routing.ramping_version.clone(), self.routing.ramping_version_percentage);
        let is_same = before.0 == set.version && before.1.total_cmp(&set.percentage).is_eq();
        if is_same && self.last_modifier_identity == set.identity {
            return Ok(before);
        }
        self.check_token(&set.conflict_token)?;
        if set.version == self.current_name() && !(set.version == UNVERSIONED && set.percentage == 0.0) {
            return Err(failed(format!("requested ramping version {} is already current", set.version)));
        }
        let build_id = build_id_of(&set.version);
        let is_there = build_id.as_ref().is_none_or(|build_id| self.versions.contains_key(build_id));
        if !is_there && !set.allows_no_pollers {
            return Err(self.not_found(&set.version));
        }
        self.check_manager(&set.identity)?;
        if let Some(build_id) = build_id.as_ref().filter(|_| !is_there) {
            self.add(build_id, Status::Inactive, versions_max, unwatched, now)?;
        }
        if !is_same {
            let time = Some(now.to_proto());
            let name = build_id.as_ref().map(|build_id| self.version(build_id));
            let routing = &mut self.routing;
            if before.0 != set.version {
                routing.ramping_version_changed_time = time;
            }
            routing.ramping_deployment_version = name;
            routing.ramping_version.clone_from(&set.version);
            routing.ramping_version_percentage = set.percentage;
            routing.ramping_version_percentage_changed_time = time;
            routing.revision_number += 1;
            if before.0 != set.version
                && let Some(before) = build_id_of(&before.0)
            {
                self.deactivate(&before, now);
            }
            if let Some(build_id) = &build_id {
                self.ramp(build_id, set.percentage, now);
            }
        }
        self.touch(&set.identity, now);
        Ok(before)
    }

    /// The current version as it was written first.
    #[expect(deprecated, reason = "it is the name that callers and tokens know")]
    fn current_name(&self) -> String {
        self.routing.current_version.clone()
    }

    fn activate(&mut self, build_id: &str, now: Time) {
        let Some(version) = self.version_mut(build_id) else { return };
        version.status = Status::Current;
        (version.current_since, version.last_current, version.routing_updated) = (Some(now), Some(now), Some(now));
        (version.ramping_since, version.ramp_percentage) = (None, 0.0);
        version.became_active(now);
    }

    fn ramp(&mut self, build_id: &str, percentage: f32, now: Time) {
        let Some(version) = self.version_mut(build_id) else { return };
        version.status = Status::Ramping;
        version.ramping_since = version.ramping_since.or(Some(now));
        version.ramp_percentage = percentage;
        version.routing_updated = Some(now);
        version.became_active(now);
    }

    fn deactivate(&mut self, build_id: &str, now: Time) {
        let Some(version) = self.version_mut(build_id) else { return };
        version.status = Status::Draining;
        (version.current_since, version.ramping_since, version.ramp_percentage) = (None, None, 0.0);
        (version.routing_updated, version.last_deactivation) = (Some(now), Some(now));
        version.drainage = Some(drainage(Drainage::Draining, now, now));
    }

    /// Says who alone may change which version is current. Returns who was it before.
    ///
    /// # Errors
    ///
    /// `FailedPrecondition`.
    pub fn set_manager(&mut self, manager: &str, identity: &str, token: &[u8], now: Time) -> Result<String, Rejection> {
        let before = self.manager_identity.clone();
        if before == manager && self.last_modifier_identity == identity {
            return Ok(before);
        }
        self.check_token(token)?;
        manager.clone_into(&mut self.manager_identity);
        self.touch(identity, now);
        Ok(before)
    }

    /// Whether a version may be deleted if nobody polls for it. One that is not there is deleted already.
    ///
    /// # Errors
    ///
    /// `FailedPrecondition`.
    pub fn check_deletion(&self, build_id: &str, identity: &str, skips_drainage: bool) -> Result<(), Rejection> {
        let Some(version) = self.versions.get(build_id) else { return Ok(()) };
        let refuse = |why: &str| {
            let name = version_name(&self.version(build_id));
            Err(failed(format!("version '{name}' cannot be deleted since it {why}")))
        };
        if self.is_current(build_id) || self.is_ramping(build_id) {
            return refuse("is current or ramping");
        }
        self.check_manager(identity)?;
        let is_draining = version.drainage.is_some_and(|drainage| drainage.status() == Drainage::Draining);
        if is_draining && !skips_drainage {
            return refuse("is draining");
        }
        Ok(())
    }

    /// The refusal to delete a version that somebody polls for.
    pub fn has_pollers(&self, build_id: &str) -> Rejection {
        let name = version_name(&self.version(build_id));
        failed(format!("version '{name}' cannot be deleted since it has active pollers"))
    }

    /// Deletes a version.
    ///
    /// # Errors
    ///
    /// As [`Deployment::check_deletion`].
    pub fn delete_version(&mut self, build_id: &str, identity: &str, skips_drainage: bool) -> Result<(), Rejection> {
        self.check_deletion(build_id, identity, skips_drainage)?;
        if self.versions.remove(build_id).is_some() {
            identity.clone_into(&mut self.last_modifier_identity);
        }
        Ok(())
    }

    /// Whether the deployment may be deleted.
    ///
    /// # Errors
    ///
    /// `FailedPrecondition`.
    pub fn check_empty(&self) -> Result<(), Rejection> {
        if self.versions.is_empty() {
            return Ok(());
        }
        Err(failed("deployment has versions, can't be deleted"))
    }

    /// Changes what owners keep with a version.
    ///
    /// # Errors
    ///
    /// `NotFound`.
    pub fn update_metadata(
        &mut self,
        build_id: &str,
        upsert: &HashMap<String, Payload>,
        remove: &[String],
        identity: &str,
    ) -> Result<Arc<DeploymentVersion>, Rejection> {
        let version = self.versions.get_mut(build_id);
        let version = version.ok_or_else(|| Rejection::NotFound("Worker Deployment Version not found".into()))?;
        let changed = Arc::make_mut(version);
        changed.metadata.extend(upsert.iter().map(|(key, payload)| (key.clone(), payload.clone())));
        remove.iter().for_each(|key| {
            changed.metadata.remove(key);
        });
        identity.clone_into(&mut changed.last_modifier_identity);
        Ok(Arc::clone(version))
    }

    /// Takes in how many open workflows are pinned to a version. One that is neither current nor ramping drains for as long as there are
    /// any, also if it had drained before, or never was either.
    pub fn drain(&mut self, build_id: &str, pinned: u64, now: Time) {
        if self.is_current(build_id) || self.is_ramping(build_id) {
            return;
        }
        let Some(version) = self.version_mut(build_id) else { return };
        let status = if pinned > 0 { Drainage::Draining } else { Drainage::Drained };
        let changed = match version.drainage {
            // Nothing was ever pinned to it.
            None if pinned == 0 => return,
            Some(known) if known.status() == status => known.last_changed_time.as_ref().map_or(now, Time::from_proto),
            _ => now,
        };
        version.drainage = Some(drainage(status, changed, now));
        version.status = if pinned > 0 { Status::Draining } else { Status::Drained };
    }
}

fn drainage(status: Drainage, changed: Time, checked: Time) -> VersionDrainageInfo {
    VersionDrainageInfo {
        status: status.into(),
        last_changed_time: Some(changed.to_proto()),
        last_checked_time: Some(checked.to_proto()),
    }
}

impl DeploymentVersion {
    fn became_active(&mut self, now: Time) {
        self.first_activation.get_or_insert(now);
        (self.drainage, self.last_deactivation) = (None, None);
    }
}
