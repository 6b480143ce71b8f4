//! Fields of requests whose meaning is not there yet. They are refused: nothing that is not built is accepted in silence.
//!
//! Where Temporal can have a feature turned off, the answer is the one that it gives then. What a start asks for in vain is in the kernel's
//! `valid_start.rs`, because schedules and children start workflows too; methods as a whole are in `turned_off.rs`. Every field of every
//! request is in a list, with what becomes of it: `engine/server/tests/wire/fields.txt`.

use everlog_config::DynamicConfig;
use everlog_kernel::Rejection;
use everlog_kernel::deployment::check_version;
use everlog_proto::api::common::v1::{WorkerVersionCapabilities, WorkerVersionStamp};
use everlog_proto::api::deployment::v1::{WorkerDeploymentOptions, WorkerDeploymentVersion};
use everlog_proto::api::enums::v1::{TaskQueueKind, VersioningBehavior, WorkerVersioningMode};
use everlog_proto::api::namespace::v1::NamespaceConfig;
use everlog_proto::api::taskqueue::v1::TaskQueue;
use everlog_proto::api::workflowservice::v1::RespondWorkflowTaskCompletedRequest;

use super::errors::Error;

const VERSIONED_WORKERS: &str = "Worker versioning in workflow progress APIs is disabled on this namespace.";

fn unimplemented(message: &'static str) -> Error {
    Error::Rejected(Rejection::Unimplemented(message.into()))
}

/// What a worker says of its version, in one of the ways that there have been.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct WorkerVersion<'a> {
    uses_versioning: bool,
    build_id: &'a str,
    options: Option<&'a WorkerDeploymentOptions>,
}

impl<'a> WorkerVersion<'a> {
    /// As polls say it.
    pub(super) fn of_poll(
        capabilities: Option<&'a WorkerVersionCapabilities>,
        options: Option<&'a WorkerDeploymentOptions>,
    ) -> WorkerVersion<'a> {
        WorkerVersion {
            uses_versioning: capabilities.is_some_and(|capabilities| capabilities.use_versioning),
            build_id: capabilities.map_or("", |capabilities| &capabilities.build_id),
            options,
        }
    }

    /// As answers to tasks say it.
    pub(super) fn of_answer(
        stamp: Option<&'a WorkerVersionStamp>,
        options: Option<&'a WorkerDeploymentOptions>,
    ) -> WorkerVersion<'a> {
        WorkerVersion {
            uses_versioning: stamp.is_some_and(|stamp| stamp.use_versioning),
            build_id: stamp.map_or("", |stamp| &stamp.build_id),
            options,
        }
    }

    /// Refuses a worker that is to get tasks by its build id alone, and a version that none can be. `queue` is where it polls, or will.
    pub(super) fn check(self, queue: Option<&TaskQueue>, config: &DynamicConfig) -> Result<(), Error> {
        if self.uses_versioning {
            return Err(Error::PermissionDenied(VERSIONED_WORKERS));
        }
        let is_nameless = |queue: &TaskQueue| queue.kind() == TaskQueueKind::Sticky && queue.normal_name.is_empty();
        if queue.is_some_and(is_nameless) && self.options.is_some() {
            return Err(Error::invalid(
                "NormalName must be set on sticky queue when UseVersioning is true or DeploymentOptions are set.",
            ));
        }
        if self.build_id.len() > config.frontend.build_id_bytes_max {
            let message = "Build ID exceeds configured limit.workerBuildIdSize, use a shorter build ID.";
            return Err(Error::invalid(message));
        }
        let is_versioned = |options: &&WorkerDeploymentOptions| is_versioned(options);
        self.options.filter(is_versioned).map_or(Ok(()), |options| check_deployment(options, config))
    }
}

fn is_versioned(options: &WorkerDeploymentOptions) -> bool {
    options.worker_versioning_mode() == WorkerVersioningMode::Versioned
}

/// Refuses a version that cannot be.
fn check_deployment(options: &WorkerDeploymentOptions, config: &DynamicConfig) -> Result<(), Error> {
    let (name, build_id) = (&options.deployment_name, &options.build_id);
    if name.is_empty() || build_id.is_empty() {
        return Err(Error::invalid("Deployment name and build id must be set together."));
    }
    let version = WorkerDeploymentVersion { deployment_name: name.clone(), build_id: build_id.clone() };
    Ok(check_version(&version, config.limits.id_bytes_max)?)
}

/// Refuses a start by a worker that wants the first workflow task as a version that cannot be.
pub(super) fn eager_version(options: Option<&WorkerDeploymentOptions>, config: &DynamicConfig) -> Result<(), Error> {
    WorkerVersion::of_answer(None, options).check(None, config)
}

/// Refuses an answer to a workflow task that says how the workflow goes with versions, by a worker without one.
pub(super) fn completion(request: &RespondWorkflowTaskCompletedRequest) -> Result<(), Error> {
    let is_versioned = request.deployment_options.as_ref().is_some_and(is_versioned);
    #[expect(deprecated, reason = "old workers are versioned by it")]
    let has_deployment = request.deployment.is_some();
    match request.versioning_behavior() {
        VersioningBehavior::Unspecified => {}
        _ if has_deployment || is_versioned => {}
        _ => {
            return Err(Error::invalid(
                "versioning behavior cannot be specified without deployment options being set with versioned mode",
            ));
        }
    }
    Ok(())
}

/// Refuses settings of a namespace that would do nothing.
pub(super) fn namespace_config(config: &NamespaceConfig) -> Result<(), Error> {
    if config.custom_search_attribute_aliases.is_empty() {
        return Ok(());
    }
    Err(unimplemented("config.custom_search_attribute_aliases are not supported by this server"))
}
