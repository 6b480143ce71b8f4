//! What a run has of versions from the run before it, or from its parent.
//!
//! A pinned version goes along to queues that are in it: to children, and over continue-as-new unless the workflow wants to be upgraded by
//! that; over a retry only if the run has it from another run itself; over a turn of a schedule never. So does an override that pins. A run
//! that is upgraded by itself tells from which version it comes, so that no other run of the chain goes back behind that.
//! (Temporal: `mutable_state_impl.go`, `retry.go`, `transfer_queue_active_task_executor.go`.)

use everlog_proto::api::deployment::v1::{InheritedAutoUpgradeInfo, WorkerDeploymentVersion};
use everlog_proto::api::enums::v1::{ContinueAsNewVersioningBehavior, VersioningBehavior};
use everlog_proto::api::history::v1::{DeclinedTargetVersionUpgrade, WorkflowExecutionStartedEventAttributes};
use everlog_proto::api::workflow::v1::VersioningOverride;
use everlog_proto::api::workflow::v1::versioning_override::Override;
use prost::Message;

use crate::task::TaskKind;
use crate::txn::Txn;

/// What the next run's first event says of versions.
#[derive(Clone, PartialEq, Message)]
pub struct Inherited {
    /// The override.
    #[prost(message, optional, tag = "1")]
    pub versioning_override: Option<VersioningOverride>,
    /// The version that it is pinned to.
    #[prost(message, optional, tag = "2")]
    pub pinned_version: Option<WorkerDeploymentVersion>,
    /// Where it comes from.
    #[prost(message, optional, tag = "3")]
    pub auto_upgrade: Option<InheritedAutoUpgradeInfo>,
    /// What it need not be told of.
    #[prost(message, optional, tag = "4")]
    pub declined: Option<DeclinedTargetVersionUpgrade>,
}

impl Inherited {
    /// Puts it into a first event.
    pub(crate) fn apply(self, started: &mut WorkflowExecutionStartedEventAttributes) {
        started.versioning_override = self.versioning_override;
        started.inherited_pinned_version = self.pinned_version;
        started.inherited_auto_upgrade_info = self.auto_upgrade;
        started.declined_target_version_upgrade = self.declined;
    }
}

fn is_in_version(txn: &Txn<'_>, queue: &str, version: &WorkerDeploymentVersion) -> bool {
    // The run itself shows it.
    queue == txn.run.task_queue() || txn.ctx.namespace.deployments.is_in_version(TaskKind::Workflow, queue, version)
}

/// The override, if it is one of those that are handed on, and if the queue is in its version.
fn handed_on(txn: &Txn<'_>, queue: &str, is_kind: fn(&Override) -> bool) -> Option<VersioningOverride> {
    let versioning = txn.run.versioning()?;
    let target = versioning.override_target()?;
    let is_handed_on = versioning.given().is_some_and(is_kind) && is_in_version(txn, queue, target);
    is_handed_on.then(|| versioning.info.versioning_override.clone()).flatten()
}

fn auto_upgrade(
    txn: &Txn<'_>,
    queue: &str,
    behavior: ContinueAsNewVersioningBehavior,
) -> Option<InheritedAutoUpgradeInfo> {
    let source = txn.run.version()?;
    let revision = txn.run.versioning()?.info.revision_number;
    (revision != 0 && is_in_version(txn, queue, source)).then(|| InheritedAutoUpgradeInfo {
        source_deployment_version: Some(source.clone()),
        source_deployment_revision_number: revision,
        continue_as_new_initial_versioning_behavior: behavior.into(),
    })
}

/// For a child on `queue` that has no override of its own.
pub(crate) fn of_child(txn: &Txn<'_>, queue: &str) -> Inherited {
    let pinned = txn.run.pinned_version().filter(|version| is_in_version(txn, queue, version)).cloned();
    let upgrades = txn.run.versioning_behavior() == VersioningBehavior::AutoUpgrade;
    Inherited {
        versioning_override: handed_on(txn, queue, |_| true),
        auto_upgrade: (upgrades && pinned.is_none())
            .then(|| auto_upgrade(txn, queue, ContinueAsNewVersioningBehavior::Unspecified))
            .flatten(),
        pinned_version: pinned,
        declined: None,
    }
}

/// For the run on `queue` that this one continues as, where the workflow says how that is to begin.
pub(crate) fn of_next(txn: &Txn<'_>, queue: &str, initial: ContinueAsNewVersioningBehavior) -> Inherited {
    let keeps = initial == ContinueAsNewVersioningBehavior::Unspecified;
    let pinned = txn.run.pinned_version();
    let inherited = pinned.filter(|version| keeps && is_in_version(txn, queue, version)).cloned();
    let upgrades = txn.run.versioning_behavior() == VersioningBehavior::AutoUpgrade || (pinned.is_some() && !keeps);
    let versioning = txn.run.versioning();
    let told = versioning.and_then(|versioning| versioning.notified.clone().or_else(|| versioning.declined.clone()));
    Inherited {
        versioning_override: handed_on(txn, queue, |given| matches!(given, Override::Pinned(_))),
        auto_upgrade: (upgrades && inherited.is_none()).then(|| auto_upgrade(txn, queue, initial)).flatten(),
        declined: told.filter(|_| inherited.is_some()),
        pinned_version: inherited,
    }
}

/// For the run that begins as this one began, with `started`: a retry, or the next turn of a schedule.
pub(crate) fn of_same(txn: &Txn<'_>, started: &WorkflowExecutionStartedEventAttributes, is_retry: bool) -> Inherited {
    let queue = txn.run.task_queue();
    let had = started.inherited_pinned_version.is_some();
    let pinned = txn.run.pinned_version().filter(|_| is_retry && had).cloned();
    let upgrades = is_retry && txn.run.versioning_behavior() == VersioningBehavior::AutoUpgrade;
    let initial = txn.run.versioning().map(|versioning| versioning.info.continue_as_new_initial_versioning_behavior());
    Inherited {
        versioning_override: handed_on(txn, queue, |given| matches!(given, Override::Pinned(_))),
        auto_upgrade: upgrades.then(|| auto_upgrade(txn, queue, initial.unwrap_or_default())).flatten(),
        pinned_version: pinned,
        declined: started.declined_target_version_upgrade.clone(),
    }
}
