//! How a run goes with the versions of its workers.
//!
//! ```text
//!   what counts:   transition, else override, else what the worker of the last completed workflow task has said
//!
//!   pinned ───────▶ its tasks go to that version alone
//!   auto-upgrade ─▶ its tasks go to where the queue leads; where that is another version than the run's, the first workflow task that is
//!                   started there begins a transition, in which no activity begins, and which ends with that version's answer
//!   unversioned ──▶ the same
//! ```
//!
//! (Temporal: `mutable_state_impl.go`, `GetEffectiveDeployment` and what is around it.)

use std::sync::Arc;

use everlog_proto::api::deployment::v1::WorkerDeploymentVersion;
use everlog_proto::api::enums::v1::{ContinueAsNewVersioningBehavior, VersioningBehavior};
use everlog_proto::api::history::v1::{
    DeclinedTargetVersionUpgrade, WorkflowExecutionOptionsUpdatedEventAttributes,
    WorkflowExecutionStartedEventAttributes, WorkflowTaskCompletedEventAttributes,
};
use everlog_proto::api::workflow::v1::versioning_override::{Override, PinnedOverrideBehavior};
use everlog_proto::api::workflow::v1::{
    DeploymentVersionTransition, VersioningOverride, WorkflowExecutionVersioningInfo,
};

use super::Run;
use crate::deployment::{RAMPING, normal_override, version_of_name};

/// What is known of a run's version. Runs of workers without versions have none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Versioning {
    /// What callers are shown. Its override is in the newest form.
    pub info: WorkflowExecutionVersioningInfo,
    /// The version that the workflow was told that it should be on.
    pub notified: Option<DeclinedTargetVersionUpgrade>,
    /// The version that a run before this one was told of, and did not go to.
    pub declined: Option<DeclinedTargetVersionUpgrade>,
}

/// A task that needs no version has the same as nothing.
type Version = Option<WorkerDeploymentVersion>;

impl Versioning {
    /// How the run's tasks are routed.
    pub fn behavior(&self) -> VersioningBehavior {
        if self.info.version_transition.is_some() {
            return VersioningBehavior::AutoUpgrade;
        }
        match self.info.versioning_override.as_ref().and_then(|given| given.r#override.as_ref()) {
            Some(given) => behavior_of(given),
            None => self.info.behavior(),
        }
    }

    /// The version that the run is on, or on its way to.
    pub fn version(&self) -> Option<&WorkerDeploymentVersion> {
        if let Some(transition) = &self.info.version_transition {
            return transition.deployment_version.as_ref();
        }
        if let Some(target) = self.override_target() {
            return Some(target);
        }
        (self.behavior() != VersioningBehavior::Unspecified).then_some(self.info.deployment_version.as_ref()).flatten()
    }

    /// The override, in the newest form.
    pub(crate) fn given(&self) -> Option<&Override> {
        self.info.versioning_override.as_ref()?.r#override.as_ref()
    }

    /// The version that the override names.
    pub(crate) fn override_target(&self) -> Option<&WorkerDeploymentVersion> {
        match self.given()? {
            Override::Pinned(pinned) if pinned.behavior() == PinnedOverrideBehavior::Pinned => pinned.version.as_ref(),
            Override::OneTime(one_time) => one_time.target_deployment_version.as_ref(),
            Override::Pinned(_) | Override::AutoUpgrade(_) => None,
        }
    }

    /// What search attributes tell, transitions aside: behavior and version.
    pub(super) fn listed(&self) -> (VersioningBehavior, Option<&WorkerDeploymentVersion>) {
        let behavior = self.given().map_or(self.info.behavior(), behavior_of);
        (behavior, self.override_target().or(self.info.deployment_version.as_ref()))
    }

    fn start(started: &WorkflowExecutionStartedEventAttributes) -> Option<Versioning> {
        let mut versioning = Versioning::default();
        let info = &mut versioning.info;
        info.versioning_override = started.versioning_override.as_ref().map(normal_override);
        if let Some(version) = &started.inherited_pinned_version {
            info.deployment_version = Some(version.clone());
            info.behavior = VersioningBehavior::Pinned.into();
            if !started.continued_execution_run_id.is_empty() {
                versioning.declined = started.declined_target_version_upgrade.clone();
            }
        }
        let info = &mut versioning.info;
        if let Some(inherited) = &started.inherited_auto_upgrade_info {
            info.revision_number = inherited.source_deployment_revision_number;
            info.deployment_version.clone_from(&inherited.source_deployment_version);
            // Until the first workflow task says otherwise.
            info.behavior = VersioningBehavior::AutoUpgrade.into();
            info.continue_as_new_initial_versioning_behavior = inherited.continue_as_new_initial_versioning_behavior;
        }
        (versioning != Versioning::default()).then_some(versioning)
    }
}

fn behavior_of(given: &Override) -> VersioningBehavior {
    match given {
        Override::AutoUpgrade(_) => VersioningBehavior::AutoUpgrade,
        Override::Pinned(_) | Override::OneTime(_) => VersioningBehavior::Pinned,
    }
}

/// The version of the worker that has completed a workflow task.
#[expect(deprecated, reason = "old events tell it in other fields")]
fn version_of(completed: &WorkflowTaskCompletedEventAttributes) -> Version {
    if completed.deployment_version.is_some() {
        return completed.deployment_version.clone();
    }
    let named = version_of_name(&completed.worker_deployment_version).ok().flatten();
    named.or_else(|| {
        let deployment = completed.deployment.as_ref().filter(|deployment| !deployment.series_name.is_empty())?;
        Some(WorkerDeploymentVersion {
            deployment_name: deployment.series_name.clone(),
            build_id: deployment.build_id.clone(),
        })
    })
}

impl Run {
    /// What is known of the run's version.
    pub fn versioning(&self) -> Option<&Versioning> {
        self.info.versioning.as_deref()
    }

    /// How the run's tasks are routed.
    pub fn versioning_behavior(&self) -> VersioningBehavior {
        self.versioning().map_or(VersioningBehavior::Unspecified, Versioning::behavior)
    }

    /// The version that the run is on, or on its way to.
    pub fn version(&self) -> Option<&WorkerDeploymentVersion> {
        self.versioning().and_then(Versioning::version)
    }

    /// The version that alone may have the run's tasks, if it is pinned.
    pub fn pinned_version(&self) -> Option<&WorkerDeploymentVersion> {
        let is_pinned = self.versioning_behavior() == VersioningBehavior::Pinned;
        self.version().filter(|_| is_pinned)
    }

    /// The version that tasks of the run name: the one that it is pinned to, or the ramping one if its first workflow task is to go there, as
    /// the run before has wanted.
    pub(crate) fn task_version(&self) -> Option<&WorkerDeploymentVersion> {
        let initial =
            || self.versioning().map(|versioning| versioning.info.continue_as_new_initial_versioning_behavior());
        let is_first = self.state.last_completed_started_event_id == 0;
        self.pinned_version().or_else(|| {
            (is_first && initial() == Some(ContinueAsNewVersioningBehavior::UseRampingVersion)).then_some(&RAMPING)
        })
    }

    /// Whether the run is on its way to another version.
    pub fn is_in_transition(&self) -> bool {
        self.versioning().is_some_and(|versioning| versioning.info.version_transition.is_some())
    }

    /// Gives the run another version, which is written.
    pub(crate) fn set_versioning(&mut self, versioning: Option<Versioning>) {
        if self.versioning() != versioning.as_ref() {
            Arc::make_mut(&mut self.info).versioning = versioning.map(Box::new);
            self.workers_changed = true;
        }
    }

    /// What the first event says of it.
    pub(super) fn begin_versioning(&mut self, started: &WorkflowExecutionStartedEventAttributes) {
        if let Some(versioning) = Versioning::start(started) {
            self.set_versioning(Some(versioning));
            if self.versioning_behavior() != VersioningBehavior::Unspecified {
                self.name_version(None);
            }
        }
    }

    /// Begins a transition to the version of the worker that has just been given a task. It is in memory until something else is written.
    pub(crate) fn start_transition(&mut self, version: Version, revision: i64) {
        let workers_changed = self.workers_changed;
        let mut versioning = self.versioning().cloned().unwrap_or_default();
        versioning.info.version_transition =
            Some(DeploymentVersionTransition { deployment_version: version, ..DeploymentVersionTransition::default() });
        versioning.info.revision_number = revision;
        self.set_versioning(Some(versioning));
        self.unwritten_version = true;
        self.workers_changed = workers_changed;
        // Who has the run cached is of the version before.
        self.sticky = None;
    }

    /// Remembers which version the workflow is told of, in memory until something else is written.
    pub(crate) fn set_told_versions(
        &mut self,
        notified: Option<DeclinedTargetVersionUpgrade>,
        declined: Option<DeclinedTargetVersionUpgrade>,
    ) {
        let Some(versioning) = self.versioning() else { return };
        if versioning.notified == notified && versioning.declined == declined {
            return;
        }
        let workers_changed = self.workers_changed;
        let versioning = Versioning { notified, declined, ..versioning.clone() };
        self.set_versioning(Some(versioning));
        self.unwritten_version = true;
        self.workers_changed = workers_changed;
    }

    /// A worker has completed a workflow task: the run is on its version, and goes on as that says.
    pub(super) fn completed_on_version(&mut self, completed: &WorkflowTaskCompletedEventAttributes) {
        let (behavior, version) = (completed.versioning_behavior(), version_of(completed));
        if self.versioning().is_none() && behavior == VersioningBehavior::Unspecified {
            return;
        }
        let mut after = self.versioning().cloned().unwrap_or_default();
        let transition = after.info.version_transition.as_ref();
        let has_arrived = transition.is_some_and(|transition| transition.deployment_version == version);
        if has_arrived {
            after.info.version_transition = None;
        }
        let before = (after.behavior(), after.version().cloned());
        after.info.behavior = behavior.into();
        after.info.deployment_version = version.clone().filter(|_| behavior != VersioningBehavior::Unspecified);
        if let Some(Override::OneTime(one_time)) = after.given()
            && one_time.target_deployment_version == version
        {
            after.info.versioning_override = None;
        }
        // Activities may have been turned away meanwhile.
        self.offers_anew |= has_arrived || before != (after.behavior(), after.version().cloned());
        self.set_versioning(Some(after));
    }

    /// An operator has set an override, or has taken it away. It counts at once.
    pub(super) fn override_version(&mut self, updated: &WorkflowExecutionOptionsUpdatedEventAttributes) {
        let given = match (&updated.versioning_override, updated.unset_versioning_override) {
            (_, true) => None,
            (Some(given), false) => Some(normal_override(given)),
            (None, false) => return,
        };
        if self.versioning().is_none() && given.is_none() {
            return;
        }
        self.set_override(given);
    }

    fn set_override(&mut self, given: Option<VersioningOverride>) {
        let mut after = self.versioning().cloned().unwrap_or_default();
        let before = (after.behavior(), after.version().cloned());
        after.info.versioning_override = given;
        let is_moved = before != (after.behavior(), after.version().cloned());
        if is_moved {
            after.info.version_transition = None;
            self.sticky = None;
            self.offers_anew = true;
        }
        self.set_versioning(Some(after));
        if is_moved {
            self.name_version(None);
        }
    }
}
