//! Worker Deployments: operators say which version of a worker gets new workflows, and see how versions stand.
//!
//! A deployment is part of the metadata, and what a change does is decided by the kernel (`kernel/src/deployment`), where the metadata is led.
//! Here is what must be asked before of others: whether anybody polls for a version (`queues`), and how many workflows are pinned to one
//! (`drain`). Workers make versions known by polling (`register`).

mod drain;
mod queues;
mod register;

pub(super) use drain::drain;
pub(super) use register::{Register, poll_version, version_of};

use std::sync::Arc;

use everlog_kernel::deployment::{
    Deployment, SetCurrent, SetRamping, UNVERSIONED, Unwatched, check_build_id, check_deployment_name,
    old_version_name, version_of_name,
};
use everlog_kernel::{Deployments, Rejection};
use everlog_meta::NamespaceRecord;
use everlog_model::limits;
use everlog_proto::api::deployment::v1::WorkerDeploymentVersion;
use everlog_proto::api::enums::v1::ResourceExhaustedCause;
use everlog_proto::api::workflowservice::v1 as api;

use super::call::{Call, own_request_id};
use super::errors::Error;
use super::{Frontend, visibility};

/// The deployment that a request names, as the namespace has it.
struct Named {
    namespace: Arc<NamespaceRecord>,
    id_bytes_max: usize,
}

impl Named {
    fn new(frontend: &Frontend, namespace: &str) -> Result<Named, Error> {
        let record = frontend.namespace(namespace)?;
        Ok(Named { namespace: record, id_bytes_max: frontend.config(namespace).limits.id_bytes_max })
    }

    fn deployments(&self, frontend: &Frontend) -> Arc<Deployments> {
        frontend.namespaces.deployments(self.namespace.namespace.id)
    }

    fn check_name(&self, name: &str) -> Result<(), Error> {
        Ok(check_deployment_name(name, self.id_bytes_max)?)
    }

    fn check_version(&self, version: &WorkerDeploymentVersion) -> Result<(), Error> {
        self.check_name(&version.deployment_name)?;
        Ok(check_build_id(&version.build_id, self.id_bytes_max)?)
    }
}

/// The version of a request that names it in one of two ways.
fn named_version(text: &str) -> Result<WorkerDeploymentVersion, Error> {
    let named = version_of_name(text).ok().flatten();
    named.ok_or_else(|| {
        Error::invalid(format!("invalid version string {text:?}, expected format is \"<deployment_name>.<build_id>\""))
    })
}

fn no_deployment(name: &str) -> Rejection {
    let message = format!("no Worker Deployment found with name '{name}'; does your Worker Deployment have pollers?");
    Rejection::NotFound(message.into())
}

/// What Temporal says where it looks for the workflow that a deployment is there.
fn no_workflow(id: &str) -> Rejection {
    Rejection::NotFound(format!("workflow not found for ID: temporal-sys-worker-deployment{id}").into())
}

/// Refuses a deployment too many.
fn check_count(known: &Deployments) -> Result<(), Rejection> {
    let most = limits::DEPLOYMENTS_MAX;
    if known.len() < most {
        return Ok(());
    }
    Err(Rejection::ResourceExhausted {
        cause: ResourceExhaustedCause::WorkerDeploymentLimits,
        message: format!("reached maximum deployments in namespace ({most})").into(),
    })
}

/// Tells all of a deployment.
pub(super) async fn describe_worker_deployment(
    frontend: &Frontend,
    _call: Call,
    request: api::DescribeWorkerDeploymentRequest,
) -> Result<api::DescribeWorkerDeploymentResponse, Error> {
    let named = Named::new(frontend, &request.namespace)?;
    named.check_name(&request.deployment_name)?;
    let deployments = named.deployments(frontend);
    let found = deployments.get(&request.deployment_name);
    let deployment = found.ok_or_else(|| no_deployment(&request.deployment_name))?;
    Ok(api::DescribeWorkerDeploymentResponse {
        conflict_token: deployment.conflict_token.clone(),
        worker_deployment_info: Some(deployment.describe()),
    })
}

/// Tells all of a version.
pub(super) async fn describe_worker_deployment_version(
    frontend: &Frontend,
    _call: Call,
    request: api::DescribeWorkerDeploymentVersionRequest,
) -> Result<api::DescribeWorkerDeploymentVersionResponse, Error> {
    let named = Named::new(frontend, &request.namespace)?;
    #[expect(deprecated, reason = "older clients name it so")]
    let text = match (request.version.as_str(), &request.deployment_version) {
        ("", None) => return Err(Error::invalid("deployment version cannot be empty")),
        ("", Some(version)) => old_version_name(Some(version)),
        (text, _) => text.to_owned(),
    };
    let version = named_version(&text)?;
    named.check_version(&version)?;
    let deployments = named.deployments(frontend);
    let deployment = deployments.get(&version.deployment_name);
    let info = deployment.and_then(|deployment| deployment.describe_version(&version.build_id));
    let info = info.ok_or_else(|| Error::not_found("Worker Deployment Version not found"))?;
    let namespace_id = named.namespace.namespace.id;
    let queues = queues::describe(frontend, namespace_id, &version, &info, request.report_task_queue_stats).await?;
    Ok(api::DescribeWorkerDeploymentVersionResponse {
        worker_deployment_version_info: Some(info),
        version_task_queues: queues,
    })
}

/// Lists the deployments of a namespace, newest first.
pub(super) async fn list_worker_deployments(
    frontend: &Frontend,
    _call: Call,
    request: api::ListWorkerDeploymentsRequest,
) -> Result<api::ListWorkerDeploymentsResponse, Error> {
    let named = Named::new(frontend, &request.namespace)?;
    let size = visibility::page_size(frontend, &request.namespace, request.page_size);
    let after = match request.next_page_token.as_slice() {
        [] => None,
        token => Some(std::str::from_utf8(token).map_err(|_| Error::invalid("Invalid NextPageToken."))?),
    };
    let deployments = named.deployments(frontend);
    let mut all: Vec<&Arc<Deployment>> = deployments.iter().collect();
    all.sort_by_key(|deployment| (std::cmp::Reverse(deployment.created), deployment.name.clone()));
    let from = match after {
        None => 0,
        Some(name) => all.iter().position(|deployment| deployment.name == name).map_or(all.len(), |at| at + 1),
    };
    let to = all.len().min(from.saturating_add(usize::try_from(size).unwrap_or(usize::MAX)));
    let next = (to < all.len()).then(|| all[to - 1].name.clone().into_bytes());
    Ok(api::ListWorkerDeploymentsResponse {
        worker_deployments: all[from..to].iter().map(|deployment| deployment.summarize()).collect(),
        next_page_token: next.unwrap_or_default(),
    })
}

/// The version that is to be the current or ramping one, as older clients write it.
fn wanted_version(named: &Named, name: &str, text: &str, allows_no_pollers: bool) -> Result<(), Error> {
    let version = match text {
        "" => None,
        text => version_of_name(text).map_err(|wrong| Error::invalid(format!("invalid version string: {wrong}")))?,
    };
    if let Some(version) = &version
        && version.deployment_name != name
    {
        let message = format!("invalid version string '{text}' does not match deployment name '{name}'");
        return Err(Error::invalid(message));
    }
    named.check_name(name)?;
    if let Some(version) = version.filter(|_| allows_no_pollers) {
        check_build_id(&version.build_id, named.id_bytes_max)?;
    }
    Ok(())
}

/// The deployment that a change is for: it is made if it is not there, where the change allows that.
fn changed<'d>(
    deployment: &'d mut Option<Deployment>,
    known: &Deployments,
    name: &str,
    may_be_new: bool,
    now: everlog_kernel::Time,
) -> Result<&'d mut Deployment, Rejection> {
    if deployment.is_none() {
        if !may_be_new {
            return Err(no_deployment(name));
        }
        check_count(known)?;
    }
    Ok(deployment.get_or_insert_with(|| Deployment::new(name, now)))
}

/// Makes a version the one that gets new workflows.
#[expect(deprecated, reason = "older clients name versions by texts")]
pub(super) async fn set_worker_deployment_current_version(
    frontend: &Frontend,
    _call: Call,
    request: api::SetWorkerDeploymentCurrentVersionRequest,
) -> Result<api::SetWorkerDeploymentCurrentVersionResponse, Error> {
    let named = Named::new(frontend, &request.namespace)?;
    let name = request.deployment_name.as_str();
    if name.is_empty() {
        return Err(Error::invalid("deployment name cannot be empty"));
    }
    let text = match (request.version.as_str(), request.build_id.as_str()) {
        ("", "") => UNVERSIONED.to_owned(),
        ("", build_id) => format!("{name}.{build_id}"),
        (text, _) => text.to_owned(),
    };
    wanted_version(&named, name, &text, request.allow_no_pollers)?;
    let namespace_id = named.namespace.namespace.id;
    if !request.ignore_missing_task_queues {
        let deployments = named.deployments(frontend);
        queues::check_queues(frontend, namespace_id, &deployments, name, &text, "current").await?;
    }
    let set = SetCurrent {
        version: text,
        identity: request.identity,
        conflict_token: request.conflict_token,
        allows_no_pollers: request.allow_no_pollers,
    };
    let unwatched = queues::unwatched(frontend, namespace_id, name).await;
    let change = |deployment: &mut Option<Deployment>, known: &Deployments, now| {
        let deployment = changed(deployment, known, name, set.allows_no_pollers, now)?;
        let before = deployment.set_current(&set, limits::DEPLOYMENT_VERSIONS_MAX, &unwatched, now)?;
        Ok((before, deployment.conflict_token.clone()))
    };
    let (before, conflict_token) = frontend.namespaces.change_deployment(namespace_id, name, change).await?;
    Ok(api::SetWorkerDeploymentCurrentVersionResponse {
        conflict_token,
        previous_deployment_version: version_of_name(&before).ok().flatten(),
        previous_version: before,
    })
}

/// Makes a version the one that gets a share of new workflows.
#[expect(deprecated, reason = "older clients name versions by texts")]
pub(super) async fn set_worker_deployment_ramping_version(
    frontend: &Frontend,
    _call: Call,
    request: api::SetWorkerDeploymentRampingVersionRequest,
) -> Result<api::SetWorkerDeploymentRampingVersionResponse, Error> {
    let named = Named::new(frontend, &request.namespace)?;
    let (name, percentage) = (request.deployment_name.as_str(), request.percentage);
    let text = match (request.version.as_str(), request.build_id.as_str()) {
        ("", "") if percentage > 0.0 => UNVERSIONED.to_owned(),
        ("", "") => String::new(),
        ("", build_id) => format!("{name}.{build_id}"),
        // SDKs for Go end a ramp so.
        (UNVERSIONED, "") if percentage == 0.0 => String::new(),
        (text, _) => text.to_owned(),
    };
    if !(0.0..=100.0).contains(&percentage) {
        return Err(Error::invalid("Percentage must be between 0 and 100 (inclusive)"));
    }
    wanted_version(&named, name, &text, request.allow_no_pollers)?;
    let namespace_id = named.namespace.namespace.id;
    let deployments = named.deployments(frontend);
    let is_new = deployments.get(name).is_none_or(|deployment| deployment.routing.ramping_version != text);
    if !request.ignore_missing_task_queues && is_new && !text.is_empty() {
        queues::check_queues(frontend, namespace_id, &deployments, name, &text, "ramping").await?;
    }
    let set = SetRamping {
        version: text,
        percentage,
        identity: request.identity,
        conflict_token: request.conflict_token,
        allows_no_pollers: request.allow_no_pollers,
    };
    let unwatched = queues::unwatched(frontend, namespace_id, name).await;
    let change = |deployment: &mut Option<Deployment>, known: &Deployments, now| {
        let deployment = changed(deployment, known, name, set.allows_no_pollers, now)?;
        let before = deployment.set_ramping(&set, limits::DEPLOYMENT_VERSIONS_MAX, &unwatched, now)?;
        Ok((before, deployment.conflict_token.clone()))
    };
    let (before, conflict_token) = frontend.namespaces.change_deployment(namespace_id, name, change).await?;
    let (previous_version, previous_percentage) = before;
    Ok(api::SetWorkerDeploymentRampingVersionResponse {
        conflict_token,
        previous_deployment_version: version_of_name(&previous_version).ok().flatten(),
        previous_version,
        previous_percentage,
    })
}

/// Creates a deployment before anybody polls for it.
pub(super) async fn create_worker_deployment(
    frontend: &Frontend,
    _call: Call,
    request: api::CreateWorkerDeploymentRequest,
) -> Result<api::CreateWorkerDeploymentResponse, Error> {
    let named = Named::new(frontend, &request.namespace)?;
    let name = request.deployment_name.as_str();
    if name.is_empty() {
        return Err(Error::invalid("deployment name cannot be empty"));
    }
    named.check_name(name)?;
    let request_id = request_id(request.request_id);
    let change = |deployment: &mut Option<Deployment>, known: &Deployments, now| {
        if let Some(known) = deployment.as_ref() {
            if known.create_request_id == request_id {
                return Ok(known.conflict_token.clone());
            }
            let how = if known.create_request_id.is_empty() { " (auto-created from worker polls)" } else { "" };
            return Err(Rejection::AlreadyExists(
                format!("Worker Deployment with name {name:?} already exists{how}").into(),
            ));
        }
        check_count(known)?;
        let new = deployment.insert(Deployment::new(name, now));
        new.create_request_id.clone_from(&request_id);
        new.last_modifier_identity.clone_from(&request.identity);
        Ok(new.conflict_token.clone())
    };
    let namespace_id = named.namespace.namespace.id;
    let conflict_token = frontend.namespaces.change_deployment(namespace_id, name, change).await?;
    Ok(api::CreateWorkerDeploymentResponse { conflict_token })
}

fn request_id(given: String) -> String {
    if given.is_empty() { own_request_id() } else { given }
}

/// The version of a request that must name both of its parts.
fn whole_version(version: Option<WorkerDeploymentVersion>) -> Result<WorkerDeploymentVersion, Error> {
    let version = version.unwrap_or_default();
    if version.deployment_name.is_empty() {
        return Err(Error::invalid("deployment name cannot be empty"));
    }
    if version.build_id.is_empty() {
        return Err(Error::invalid("build ID cannot be empty"));
    }
    Ok(version)
}

/// Nothing here starts workers.
fn no_compute() -> Error {
    Error::Rejected(Rejection::Unimplemented("compute_config is not supported by this server".into()))
}

/// Creates a version before anybody polls for it.
pub(super) async fn create_worker_deployment_version(
    frontend: &Frontend,
    _call: Call,
    request: api::CreateWorkerDeploymentVersionRequest,
) -> Result<api::CreateWorkerDeploymentVersionResponse, Error> {
    let named = Named::new(frontend, &request.namespace)?;
    let version = whole_version(request.deployment_version)?;
    named.check_version(&version)?;
    if request.compute_config.is_some() {
        return Err(no_compute());
    }
    let (name, identity, request_id) = (&version.deployment_name, request.identity, request_id(request.request_id));
    let namespace_id = named.namespace.namespace.id;
    let unwatched = queues::unwatched(frontend, namespace_id, name).await;
    let change = |deployment: &mut Option<Deployment>, _: &Deployments, now| {
        let deployment = deployment.as_mut().ok_or_else(|| no_deployment(name))?;
        let by = (identity.as_str(), request_id.as_str());
        deployment.create_version(&version.build_id, by, limits::DEPLOYMENT_VERSIONS_MAX, &unwatched, now)
    };
    frontend.namespaces.change_deployment(namespace_id, name, change).await?;
    Ok(api::CreateWorkerDeploymentVersionResponse {})
}

/// Workers are started by others here.
pub(super) async fn update_worker_deployment_version_compute_config(
    frontend: &Frontend,
    _call: Call,
    request: api::UpdateWorkerDeploymentVersionComputeConfigRequest,
) -> Result<api::UpdateWorkerDeploymentVersionComputeConfigResponse, Error> {
    let named = Named::new(frontend, &request.namespace)?;
    let version = whole_version(request.deployment_version)?;
    let deployments = named.deployments(frontend);
    let known = deployments.get(&version.deployment_name);
    if known.is_none_or(|deployment| !deployment.versions.contains_key(&version.build_id)) {
        let (name, build_id) = (&version.deployment_name, &version.build_id);
        return Err(Error::not_found(format!("build ID '{build_id}' not found in Worker Deployment '{name}'")));
    }
    Err(no_compute())
}

/// The same.
pub(super) async fn validate_worker_deployment_version_compute_config(
    frontend: &Frontend,
    _call: Call,
    request: api::ValidateWorkerDeploymentVersionComputeConfigRequest,
) -> Result<api::ValidateWorkerDeploymentVersionComputeConfigResponse, Error> {
    frontend.namespace(&request.namespace)?;
    if request.compute_config_scaling_groups.is_empty() {
        return Err(Error::invalid(
            "No prior compute config found, which means nothing can be removed and something needs to be added to be valid",
        ));
    }
    Err(no_compute())
}

/// Says who alone may change which version is current.
#[expect(deprecated, reason = "older clients read it")]
pub(super) async fn set_worker_deployment_manager(
    frontend: &Frontend,
    _call: Call,
    request: api::SetWorkerDeploymentManagerRequest,
) -> Result<api::SetWorkerDeploymentManagerResponse, Error> {
    use api::set_worker_deployment_manager_request::NewManagerIdentity as New;
    let named = Named::new(frontend, &request.namespace)?;
    if request.identity.is_empty() {
        return Err(Error::invalid("Identity is required"));
    }
    let manager = match request.new_manager_identity {
        Some(New::Self_(true)) => request.identity.clone(),
        Some(New::ManagerIdentity(manager)) => manager,
        Some(New::Self_(false)) | None => String::new(),
    };
    let name = request.deployment_name.as_str();
    named.check_name(name)?;
    let (identity, token) = (request.identity, request.conflict_token);
    let change = |deployment: &mut Option<Deployment>, _: &Deployments, now| {
        let deployment = deployment.as_mut().ok_or_else(|| no_workflow(&format!(":{name}")))?;
        let before = deployment.set_manager(&manager, &identity, &token, now)?;
        Ok((before, deployment.conflict_token.clone()))
    };
    let namespace_id = named.namespace.namespace.id;
    let (previous_manager_identity, conflict_token) =
        frontend.namespaces.change_deployment(namespace_id, name, change).await?;
    Ok(api::SetWorkerDeploymentManagerResponse { conflict_token, previous_manager_identity })
}

/// Deletes a deployment without versions.
pub(super) async fn delete_worker_deployment(
    frontend: &Frontend,
    _call: Call,
    request: api::DeleteWorkerDeploymentRequest,
) -> Result<api::DeleteWorkerDeploymentResponse, Error> {
    let named = Named::new(frontend, &request.namespace)?;
    let name = request.deployment_name.as_str();
    named.check_name(name)?;
    let change = |deployment: &mut Option<Deployment>, _: &Deployments, _| {
        deployment.as_ref().map_or(Ok(()), Deployment::check_empty)?;
        *deployment = None;
        Ok(())
    };
    frontend.namespaces.change_deployment(named.namespace.namespace.id, name, change).await?;
    Ok(api::DeleteWorkerDeploymentResponse {})
}

/// Deletes a version that nobody needs.
pub(super) async fn delete_worker_deployment_version(
    frontend: &Frontend,
    _call: Call,
    request: api::DeleteWorkerDeploymentVersionRequest,
) -> Result<api::DeleteWorkerDeploymentVersionResponse, Error> {
    let named = Named::new(frontend, &request.namespace)?;
    #[expect(deprecated, reason = "older clients name it so")]
    let text = request.deployment_version.as_ref().map_or(request.version, |version| old_version_name(Some(version)));
    let version = named_version(&text)?;
    named.check_name(&version.deployment_name)?;
    let (name, build_id) = (version.deployment_name.as_str(), version.build_id.as_str());
    let (identity, skips_drainage) = (request.identity, request.skip_drainage);
    let namespace_id = named.namespace.namespace.id;
    if let Some(()) = frontend.namespaces.changed_before().await? {
        return Ok(api::DeleteWorkerDeploymentVersionResponse {});
    }
    let deployments = named.deployments(frontend);
    let deployment = deployments.get(name).ok_or_else(|| no_workflow(&format!(":{name}")))?;
    deployment.check_deletion(build_id, &identity, skips_drainage)?;
    if queues::is_polled(frontend, namespace_id, deployment, build_id).await? {
        return Err(deployment.has_pollers(build_id).into());
    }
    let change = |deployment: &mut Option<Deployment>, _: &Deployments, _| {
        let Some(deployment) = deployment.as_mut() else { return Ok(()) };
        deployment.delete_version(build_id, &identity, skips_drainage)
    };
    frontend.namespaces.change_deployment(namespace_id, name, change).await?;
    Ok(api::DeleteWorkerDeploymentVersionResponse {})
}

/// Changes what owners keep with a version.
pub(super) async fn update_worker_deployment_version_metadata(
    frontend: &Frontend,
    _call: Call,
    request: api::UpdateWorkerDeploymentVersionMetadataRequest,
) -> Result<api::UpdateWorkerDeploymentVersionMetadataResponse, Error> {
    let named = Named::new(frontend, &request.namespace)?;
    if request.upsert_entries.is_empty() && request.remove_entries.is_empty() {
        let message = "At least one of remove_entries or upsert_entries must be provided";
        return Err(Error::invalid(message));
    }
    #[expect(deprecated, reason = "older clients name it so")]
    let version = match request.deployment_version {
        Some(version) => version,
        None => version_of_name(&request.version).ok().flatten().unwrap_or_default(),
    };
    let (name, build_id) = (version.deployment_name.as_str(), version.build_id.as_str());
    let bytes_max = frontend.config(&request.namespace).limits.blob_bytes_max;
    let (upsert, remove, identity) = (request.upsert_entries, request.remove_entries, request.identity);
    let change = |deployment: &mut Option<Deployment>, _: &Deployments, _| {
        let unknown = || no_workflow(&format!("-version:{name}:{build_id}"));
        let deployment = deployment.as_mut().ok_or_else(unknown)?;
        if !deployment.versions.contains_key(build_id) {
            return Err(unknown());
        }
        let changed = deployment.update_metadata(build_id, &upsert, &remove, &identity)?;
        if changed.to_row().len() > bytes_max {
            return Err(Rejection::invalid("Blob data size exceeds limit."));
        }
        Ok(changed)
    };
    let namespace_id = named.namespace.namespace.id;
    let version = frontend.namespaces.change_deployment(namespace_id, name, change).await?;
    Ok(api::UpdateWorkerDeploymentVersionMetadataResponse { metadata: version.shown_metadata() })
}

/// The versions that are neither current nor ramping, of all deployments of a namespace.
fn idle_versions(deployments: &Deployments) -> Vec<(Arc<Deployment>, String)> {
    let of = |deployment: &Arc<Deployment>| {
        let idle = deployment.versions.keys().filter(|id| !deployment.is_current(id) && !deployment.is_ramping(id));
        idle.map(|id| (Arc::clone(deployment), id.clone())).collect::<Vec<_>>()
    };
    deployments.iter().flat_map(of).collect()
}

/// What goes to make place where there are as many versions as may be.
type Goes = Unwatched;
