//! How versions are named, in the two ways that there are, and what may be in a name.
//!
//! Texts are Temporal's: `common/worker_versioning`.

use everlog_proto::api::deployment::v1::WorkerDeploymentVersion;
use everlog_proto::api::enums::v1::VersioningBehavior;
use everlog_proto::api::workflow::v1::VersioningOverride;
use everlog_proto::api::workflow::v1::versioning_override::{
    OneTimeOverride, Override, PinnedOverride, PinnedOverrideBehavior,
};

use super::Deployments;
use crate::Rejection;
use crate::task::TaskKind;

/// How workers without a version are named where a version is.
pub const UNVERSIONED: &str = "__unversioned__";

/// What Temporal leaves room for in the ids of its workflows for versions, bytes.
const ID_PREFIX_BYTES: usize = "temporal-sys-worker-deployment-version:".len();

/// A version as it is written now: `name:build`.
pub fn version_name(version: &WorkerDeploymentVersion) -> String {
    format!("{}:{}", version.deployment_name, version.build_id)
}

/// A version as it was written first, or [`UNVERSIONED`].
pub fn old_version_name(version: Option<&WorkerDeploymentVersion>) -> String {
    version
        .map_or_else(|| UNVERSIONED.to_owned(), |version| format!("{}.{}", version.deployment_name, version.build_id))
}

/// The version that a text names as it was written first; `None` for [`UNVERSIONED`]. As it is written now, a version is read if its build id
/// has a dot in it: so does Temporal.
///
/// # Errors
///
/// Says what is wrong with it.
pub fn version_of_name(text: &str) -> Result<Option<WorkerDeploymentVersion>, String> {
    if text == UNVERSIONED {
        return Ok(None);
    }
    let (name, build_id) = match (text.find('.'), text.find(':')) {
        (None, None) => return Err(format!("expected delimiter ':' or '.' not found in version string {text}")),
        (None, Some(_)) => (text, ""),
        (Some(dot), colon) => {
            let at = colon.map_or(dot, |colon| colon.min(dot));
            (&text[..at], &text[at + 1..])
        }
    };
    if name.is_empty() {
        return Err(format!("deployment name is empty in version string {text}"));
    }
    if build_id.is_empty() {
        return Err(format!("build id is empty in version string {text}"));
    }
    Ok(Some(WorkerDeploymentVersion { deployment_name: name.to_owned(), build_id: build_id.to_owned() }))
}

fn check_field(field: &str, value: &str, id_bytes_max: usize) -> Result<(), Rejection> {
    if value.is_empty() {
        return Err(Rejection::invalid(format!("{field} cannot be empty")));
    }
    if value.len() > id_bytes_max.saturating_sub(ID_PREFIX_BYTES) / 2 {
        return Err(Rejection::invalid(format!("size of {field} larger than the maximum allowed")));
    }
    Ok(())
}

fn check_beginning(field: &str, value: &str) -> Result<(), Rejection> {
    if value.starts_with("__") {
        return Err(Rejection::invalid(format!("{field} cannot start with '__'")));
    }
    Ok(())
}

/// Refuses a name that no deployment can have.
///
/// # Errors
///
/// `InvalidArgument`.
pub fn check_deployment_name(name: &str, id_bytes_max: usize) -> Result<(), Rejection> {
    const FIELD: &str = "WorkerDeploymentName";
    check_field(FIELD, name, id_bytes_max)?;
    for delimiter in ['.', ':'] {
        if name.contains(delimiter) {
            return Err(Rejection::invalid(format!("worker deployment name cannot contain '{delimiter}'")));
        }
    }
    check_beginning(FIELD, name)
}

/// Refuses a build id that no version can have.
///
/// # Errors
///
/// `InvalidArgument`.
pub fn check_build_id(build_id: &str, id_bytes_max: usize) -> Result<(), Rejection> {
    const FIELD: &str = "BuildID";
    check_field(FIELD, build_id, id_bytes_max)?;
    check_beginning(FIELD, build_id)
}

/// Both.
///
/// # Errors
///
/// `InvalidArgument`.
pub fn check_version(version: &WorkerDeploymentVersion, id_bytes_max: usize) -> Result<(), Rejection> {
    check_deployment_name(&version.deployment_name, id_bytes_max)?;
    check_build_id(&version.build_id, id_bytes_max)
}

/// Looks at the form of an override.
///
/// # Errors
///
/// `InvalidArgument`.
#[expect(deprecated, reason = "older clients say it in these fields")]
pub fn check_override(given: Option<&VersioningOverride>) -> Result<(), Rejection> {
    let Some(given) = given else { return Ok(()) };
    let refuse = |text: &'static str| Err(Rejection::invalid(text));
    match &given.r#override {
        Some(Override::AutoUpgrade(true)) => return Ok(()),
        Some(Override::AutoUpgrade(false)) => return refuse("auto-upgrade override must be true"),
        Some(Override::Pinned(pinned)) => {
            if pinned.version.is_none() {
                return refuse("must provide version if override is pinned.");
            }
            if pinned.behavior() == PinnedOverrideBehavior::Unspecified {
                return refuse("must specify pinned override behavior if override is pinned.");
            }
            return Ok(());
        }
        Some(Override::OneTime(OneTimeOverride { target_deployment_version: None })) => {
            return refuse("must provide target deployment version if override is one-time.");
        }
        Some(Override::OneTime(_)) => return Ok(()),
        None => {}
    }
    let (deployment, pinned) = (given.deployment.as_ref(), given.pinned_version.as_str());
    match given.behavior() {
        VersioningBehavior::Pinned => match deployment {
            Some(deployment) if deployment.build_id.is_empty() => refuse("deployment build ID cannot be empty"),
            Some(deployment) if deployment.series_name.is_empty() => refuse("deployment series name cannot be empty"),
            Some(_) => Ok(()),
            None if !pinned.is_empty() => {
                let named = version_of_name(pinned)
                    .map_err(|wrong| Rejection::invalid(format!("invalid version string {pinned:?}: {wrong}")))?;
                named.map(|_| ()).ok_or_else(|| {
                    Rejection::invalid(format!(
                        "invalid version string {pinned:?}, expected format is \"<deployment_name>.<build_id>\""
                    ))
                })
            }
            None => refuse("must provide deployment (deprecated) or pinned version if behavior is 'PINNED'"),
        },
        VersioningBehavior::AutoUpgrade if deployment.is_some() => {
            refuse("only provide deployment if behavior is 'PINNED'")
        }
        VersioningBehavior::AutoUpgrade if !pinned.is_empty() => {
            refuse("only provide pinned version if behavior is 'PINNED'")
        }
        VersioningBehavior::AutoUpgrade => Ok(()),
        VersioningBehavior::Unspecified => refuse("override behavior is required"),
    }
}

/// The same override in the newest of the forms that there have been. The override must be well-formed.
#[expect(deprecated, reason = "older clients say it in these fields")]
pub(crate) fn normal_override(given: &VersioningOverride) -> VersioningOverride {
    let pinned = |version| {
        Override::Pinned(PinnedOverride { behavior: PinnedOverrideBehavior::Pinned.into(), version: Some(version) })
    };
    let form = given.r#override.clone().or_else(|| match given.behavior() {
        VersioningBehavior::AutoUpgrade => Some(Override::AutoUpgrade(true)),
        VersioningBehavior::Pinned => match &given.deployment {
            Some(deployment) => Some(pinned(WorkerDeploymentVersion {
                deployment_name: deployment.series_name.clone(),
                build_id: deployment.build_id.clone(),
            })),
            None => version_of_name(&given.pinned_version).ok().flatten().map(pinned),
        },
        VersioningBehavior::Unspecified => None,
    });
    VersioningOverride { r#override: form, ..VersioningOverride::default() }
}

/// Refuses an override to a version that has never polled the workflow's task queue: nobody would ever have its tasks.
///
/// # Errors
///
/// `FailedPrecondition`.
pub(crate) fn check_reach(
    given: Option<&VersioningOverride>,
    queue: &str,
    deployments: &Deployments,
) -> Result<(), Rejection> {
    let Some(target) = given.and_then(override_target) else { return Ok(()) };
    if deployments.is_in_version(TaskKind::Workflow, queue, &target) {
        return Ok(());
    }
    let name = version_name(&target);
    let message = format!("Pinned version '{name}' is not present in task queue '{queue}' of type 'Workflow'");
    Err(Rejection::FailedPrecondition(message.into()))
}

/// The version that an override names, if it names one.
pub fn override_target(given: &VersioningOverride) -> Option<WorkerDeploymentVersion> {
    match normal_override(given).r#override? {
        Override::Pinned(pinned) => pinned.version,
        Override::OneTime(one_time) => one_time.target_deployment_version,
        Override::AutoUpgrade(_) => None,
    }
}
