//! RegisterNamespace, DescribeNamespace, ListNamespaces, UpdateNamespace, DeprecateNamespace.

use std::sync::Arc;
use std::time::Duration;

use everlog_kernel::time::{positive, to_proto};
use everlog_meta::{BadBinary, MetaError, NamespaceRecord, NewNamespace};
use everlog_proto::api::enums::v1::{ArchivalState, NamespaceState, ReplicationState};
use everlog_proto::api::namespace::v1::{BadBinaries, BadBinaryInfo, NamespaceConfig, NamespaceInfo};
use everlog_proto::api::replication::v1::{ClusterReplicationConfig, NamespaceReplicationConfig};
use everlog_proto::api::workflowservice::v1::{
    DeprecateNamespaceRequest, DeprecateNamespaceResponse, DescribeNamespaceRequest, DescribeNamespaceResponse,
    ListNamespacesRequest, ListNamespacesResponse, RegisterNamespaceRequest, RegisterNamespaceResponse,
    UpdateNamespaceRequest, UpdateNamespaceResponse,
};
use everlog_proto::wkt;

use super::call::Call;
use super::errors::Error;
use super::system::CLUSTER_NAME;
use super::{Frontend, capabilities, unbuilt};

/// Namespaces of a page where the caller sets no size, and at most.
const PAGE_NAMESPACES_DEFAULT: usize = 100;
const PAGE_NAMESPACES_MAX: usize = 1000;

/// Makes a namespace. It can be used as soon as this is answered.
pub(super) async fn register_namespace(
    frontend: &Frontend,
    _call: Call,
    request: RegisterNamespaceRequest,
) -> Result<RegisterNamespaceResponse, Error> {
    frontend.check_room()?;
    check_name(&request.namespace)?;
    frontend.check_namespace_length(&request.namespace)?;
    if request.is_global_namespace {
        return Err(Error::invalid("Cannot register global namespace when not enabled"));
    }
    let retention = retention(frontend, request.workflow_execution_retention_period.as_ref())?;
    if frontend.namespaces.by_name(&request.namespace).is_some() {
        return Err(Error::NamespaceAlreadyExists(request.namespace));
    }
    check_clusters(&request.active_cluster_name, &request.clusters)?;
    let new = NewNamespace {
        name: request.namespace,
        retention,
        description: request.description,
        owner_email: request.owner_email,
        data: request.data.into_iter().collect(),
    };
    frontend.namespaces.register(new).await?;
    Ok(RegisterNamespaceResponse::default())
}

/// Tells about a namespace, by name or id.
pub(super) async fn describe_namespace(
    frontend: &Frontend,
    _call: Call,
    request: DescribeNamespaceRequest,
) -> Result<DescribeNamespaceResponse, Error> {
    let record = by_name_or_id(frontend, &request.namespace, &request.id)?;
    Ok(description(frontend, &record))
}

/// The namespace that a request names in one of two ways.
pub(super) fn by_name_or_id(frontend: &Frontend, name: &str, id: &str) -> Result<Arc<NamespaceRecord>, Error> {
    match (name, id) {
        ("", "") => Err(Error::invalid("Namespace not set on request.")),
        (name, "") => frontend.namespace_in_any_state(name),
        ("", id) => id
            .parse()
            .ok()
            .and_then(|id| frontend.namespaces.record_by_id(id))
            .ok_or_else(|| Error::NamespaceNotFound(id.to_owned())),
        _ => Err(Error::invalid("Only one of namespace name or Id should be set on request.")),
    }
}

/// Lists the namespaces, by name.
pub(super) async fn list_namespaces(
    frontend: &Frontend,
    _call: Call,
    request: ListNamespacesRequest,
) -> Result<ListNamespacesResponse, Error> {
    let after = std::str::from_utf8(&request.next_page_token).map_err(|_| Error::invalid("Invalid NextPageToken."))?;
    let limit = match usize::try_from(request.page_size) {
        Ok(0) => PAGE_NAMESPACES_DEFAULT,
        Ok(size) => size.min(PAGE_NAMESPACES_MAX),
        Err(_) => return Err(Error::invalid("Invalid PageSize.")),
    };
    let include_deleted = request.namespace_filter.is_some_and(|filter| filter.include_deleted);
    let page = frontend.namespaces.list((!after.is_empty()).then_some(after), limit, include_deleted);
    Ok(ListNamespacesResponse {
        namespaces: page.namespaces.iter().map(|record| description(frontend, record)).collect(),
        next_page_token: page.next.unwrap_or_default().into_bytes(),
    })
}

/// Changes a namespace.
pub(super) async fn update_namespace(
    frontend: &Frontend,
    _call: Call,
    request: UpdateNamespaceRequest,
) -> Result<UpdateNamespaceResponse, Error> {
    check_name(&request.namespace)?;
    let namespace = frontend.namespace(&request.namespace)?;
    if request.promote_namespace {
        let name = &request.namespace;
        return Err(Error::invalid(format!(
            "global namespace is not enabled on this cluster, cannot update global namespace or promote local namespace: {name}"
        )));
    }
    let replication = request.replication_config.unwrap_or_default();
    check_replication_state(namespace.state, replication.state())?;
    check_clusters(&replication.active_cluster_name, &replication.clusters)?;
    let config = request.config.unwrap_or_default();
    unbuilt::namespace_config(&config)?;
    let new_retention = match &config.workflow_execution_retention_ttl {
        Some(wanted) => Some(retention(frontend, Some(wanted))?),
        None => None,
    };
    let bad_binaries = config.bad_binaries.unwrap_or_default().binaries;
    let bad_binaries_max = frontend.config(&request.namespace).frontend.bad_binaries_max;
    let info = request.update_info.unwrap_or_default();
    let state = NamespaceState::try_from(info.state).map_err(|_| Error::invalid("Invalid namespace state update."))?;
    let record = frontend
        .namespaces
        .update(&request.namespace, |change| {
            change.set_texts(&info.description, &info.owner_email);
            change.merge_data(&info.data);
            if let Some(retention) = new_retention {
                change.set_retention(retention);
            }
            if !bad_binaries.is_empty() {
                let binaries = bad_binaries.iter().map(|(checksum, bad)| (checksum, (&bad.reason, &bad.operator)));
                change.add_bad_binaries(binaries, bad_binaries_max)?;
            }
            if !request.delete_bad_binary.is_empty() {
                change.remove_bad_binary(&request.delete_bad_binary)?;
            }
            match state {
                NamespaceState::Unspecified => Ok(()),
                state => change.set_state(state),
            }
        })
        .await?;
    let description = description(frontend, &record);
    Ok(UpdateNamespaceResponse {
        namespace_info: description.namespace_info,
        config: description.config,
        replication_config: description.replication_config,
        failover_version: description.failover_version,
        is_global_namespace: description.is_global_namespace,
    })
}

/// Ends the start of new runs in a namespace. Runs go on.
pub(super) async fn deprecate_namespace(
    frontend: &Frontend,
    _call: Call,
    request: DeprecateNamespaceRequest,
) -> Result<DeprecateNamespaceResponse, Error> {
    check_name(&request.namespace)?;
    frontend.namespace(&request.namespace)?;
    frontend.namespaces.update(&request.namespace, |change| change.set_state(NamespaceState::Deprecated)).await?;
    Ok(DeprecateNamespaceResponse::default())
}

fn check_name(name: &str) -> Result<(), Error> {
    if name.is_empty() { Err(Error::invalid("Namespace not set on request.")) } else { Ok(()) }
}

/// There is one cluster, and all namespaces are in it.
fn check_clusters(active: &str, clusters: &[ClusterReplicationConfig]) -> Result<(), Error> {
    let active = Some(active).filter(|name| !name.is_empty());
    let mut named = active.into_iter().chain(clusters.iter().map(|cluster| cluster.cluster_name.as_str()));
    if let Some(other) = named.find(|name| *name != CLUSTER_NAME) {
        return Err(Error::invalid(format!("Invalid cluster name: {other}")));
    }
    if clusters.len() > 1 { Err(Error::invalid("Invalid local namespace clusters")) } else { Ok(()) }
}

/// Only a namespace of several clusters is ever handed over.
fn check_replication_state(state: NamespaceState, wanted: ReplicationState) -> Result<(), Error> {
    match (wanted, state) {
        (ReplicationState::Handover, NamespaceState::Registered) => {
            Err(Error::invalid("Handover can only be set for global namespace"))
        }
        (ReplicationState::Handover, state) => Err(Error::invalid(format!(
            "update ReplicationState is only supported when namespace is in Registered state, current state: {state:?}"
        ))),
        (ReplicationState::Unspecified | ReplicationState::Normal, _) => Ok(()),
    }
}

fn retention(frontend: &Frontend, wanted: Option<&wkt::Duration>) -> Result<Duration, Error> {
    let retention = positive(wanted).ok().flatten();
    retention
        .filter(|retention| *retention >= frontend.config("").frontend.retention_min)
        .ok_or_else(|| Error::from(MetaError::Invalid("A valid retention period is not set on request.".into())))
}

fn bad_binary((checksum, bad): (&String, &BadBinary)) -> (String, BadBinaryInfo) {
    let BadBinary { reason, operator, created } = bad.clone();
    (checksum.clone(), BadBinaryInfo { reason, operator, create_time: Some(created.to_proto()) })
}

fn description(frontend: &Frontend, record: &NamespaceRecord) -> DescribeNamespaceResponse {
    DescribeNamespaceResponse {
        namespace_info: Some(NamespaceInfo {
            name: record.name().to_owned(),
            state: record.state as i32,
            description: record.description.clone(),
            owner_email: record.owner_email.clone(),
            data: record.data.clone().into_iter().collect(),
            id: record.namespace.id.to_string(),
            capabilities: Some(capabilities::namespace(&frontend.config(record.name()))),
            limits: Some(capabilities::limits(&frontend.config(record.name()))),
            supports_schedules: capabilities::SUPPORTS_SCHEDULES,
        }),
        config: Some(NamespaceConfig {
            workflow_execution_retention_ttl: Some(to_proto(record.namespace.retention)),
            bad_binaries: Some(BadBinaries { binaries: record.bad_binaries.iter().map(bad_binary).collect() }),
            history_archival_state: ArchivalState::Disabled as i32,
            visibility_archival_state: ArchivalState::Disabled as i32,
            ..NamespaceConfig::default()
        }),
        replication_config: Some(NamespaceReplicationConfig {
            active_cluster_name: CLUSTER_NAME.to_owned(),
            clusters: vec![ClusterReplicationConfig {
                cluster_name: CLUSTER_NAME.to_owned(),
                ..ClusterReplicationConfig::default()
            }],
            state: ReplicationState::Normal as i32,
        }),
        ..DescribeNamespaceResponse::default()
    }
}
