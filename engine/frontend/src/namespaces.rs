//! RegisterNamespace, DescribeNamespace, ListNamespaces, UpdateNamespace, DeprecateNamespace.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use everlog_archive::PartOptions;
use everlog_kernel::time::{positive, to_proto};
use everlog_meta::{
    Archival, ArchivalWish, BadBinary, Failover, MetaError, NamespaceRecord, NewNamespace, Pool, PoolId, Replication,
    ReplicationChange, Topology, WantedPool,
};
use everlog_proto::api::enums::v1::{ArchivalState, NamespaceState, ReplicationState};
use everlog_proto::api::namespace::v1::{BadBinaries, BadBinaryInfo, NamespaceConfig, NamespaceInfo};
use everlog_proto::api::replication::v1::{ClusterReplicationConfig, FailoverStatus, NamespaceReplicationConfig};
use everlog_proto::api::workflowservice::v1::{
    DeprecateNamespaceRequest, DeprecateNamespaceResponse, DescribeNamespaceRequest, DescribeNamespaceResponse,
    ListNamespacesRequest, ListNamespacesResponse, RegisterNamespaceRequest, RegisterNamespaceResponse,
    UpdateNamespaceRequest, UpdateNamespaceResponse,
};
use everlog_proto::wkt;

use super::call::Call;
use super::errors::Error;
use super::{Frontend, capabilities, unbuilt};

/// The key of a namespace's data that names its placement.
const PLACEMENT: &str = "everlog.placement";

/// The key of a global namespace's data that names the failover group which it shares with others.
const FAILOVER_GROUP: &str = "everlog.failover_group";

/// The key of a namespace's data that shows which regions should lead, the best one first.
const LEADERS: &str = "everlog.leaders";

/// The key of a namespace's data that shows where it moves and how far it is, while it does.
const MOVE: &str = "everlog.move";

/// How long a global namespace keeps closed runs at least, as in Temporal.
const GLOBAL_RETENTION_MIN: Duration = Duration::from_secs(24 * 3600);

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
    let regions = frontend.regions();
    if request.is_global_namespace && !regions.are_named() {
        return Err(Error::invalid("Cannot register global namespace when not enabled"));
    }
    let retention_min = if request.is_global_namespace { GLOBAL_RETENTION_MIN } else { Duration::ZERO };
    let retention = retention(frontend, request.workflow_execution_retention_period.as_ref(), retention_min)?;
    let before: Option<Arc<NamespaceRecord>> = frontend.namespaces.changed_before().await?;
    if let Some(registered) = before {
        frontend.pools.until_led(registered.pool).await;
        return Ok(RegisterNamespaceResponse::default());
    }
    if frontend.namespaces.by_name(&request.namespace).is_some() {
        return Err(Error::NamespaceAlreadyExists(request.namespace));
    }
    let wanted = change_of(&request.active_cluster_name, &request.clusters, ReplicationState::Unspecified);
    let placement = request.data.get(PLACEMENT).cloned();
    let (replication, pool) = if request.is_global_namespace {
        let active = wanted.active.unwrap_or_else(|| frontend.pools.region_here());
        let replication = Replication::new(&regions, &active, wanted.regions)?;
        let failover_group = request.data.get(FAILOVER_GROUP).cloned();
        let pool = WantedPool::ToFailOver { placement, failover_group, regions: replication.active_first() };
        (Some(replication), pool)
    } else {
        let pool = placement.map_or(WantedPool::Default, WantedPool::OfPlacement);
        let home = frontend.namespaces.home_of(&pool);
        everlog_meta::check_local(&regions, &home, &wanted, NamespaceState::Registered)?;
        (None, pool)
    };
    let (histories, lists) = (frontend.history_archive(), frontend.visibility_archive());
    let of_history = wish(&histories, request.history_archival_state, &request.history_archival_uri)?;
    let of_visibility = wish(&lists, request.visibility_archival_state, &request.visibility_archival_uri)?;
    let history_archival = first_archival(frontend, &histories, of_history).await?;
    let visibility_archival = first_archival(frontend, &lists, of_visibility).await?;
    let new = NewNamespace {
        name: request.namespace,
        retention,
        description: request.description,
        owner_email: request.owner_email,
        data: request.data.into_iter().collect(),
        replication,
        history_archival,
        visibility_archival,
    };
    frontend.pools.register(&pool, new).await?;
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
    let before: Option<Arc<NamespaceRecord>> = frontend.namespaces.changed_before().await?;
    if let Some(updated) = before {
        let fails_over = !request.replication_config.unwrap_or_default().active_cluster_name.is_empty();
        return Ok(updated_to(frontend, &updated, fails_over).await);
    }
    let namespace = frontend.namespace(&request.namespace)?;
    let is_promoted = request.promote_namespace && namespace.replication.is_none();
    if is_promoted && !frontend.regions().are_named() {
        return Err(not_promoted(&request.namespace));
    }
    let replication = request.replication_config.unwrap_or_default();
    let replication = change_of(&replication.active_cluster_name, &replication.clusters, replication.state());
    if namespace.replication.is_none() && !is_promoted {
        let home = frontend.namespaces.topology().home_of(namespace.pool);
        everlog_meta::check_local(&frontend.regions(), &home, &replication, namespace.state)?;
    }
    let has_config = request.config.is_some();
    let config = request.config.unwrap_or_default();
    unbuilt::namespace_config(&config)?;
    let (histories, lists) = (frontend.history_archive(), frontend.visibility_archive());
    let of_history = wish(&histories, config.history_archival_state, &config.history_archival_uri)?;
    let of_visibility = wish(&lists, config.visibility_archival_state, &config.visibility_archival_uri)?;
    let (of_history, of_visibility) = (of_history.filter(|_| has_config), of_visibility.filter(|_| has_config));
    let has_same_archival = !changes(frontend, &namespace.history_archival, of_history.as_ref()).await?
        & !changes(frontend, &namespace.visibility_archival, of_visibility.as_ref()).await?;
    let new_retention = match &config.workflow_execution_retention_ttl {
        Some(wanted) => {
            let is_global = namespace.replication.is_some();
            Some(retention(frontend, Some(wanted), if is_global { GLOBAL_RETENTION_MIN } else { Duration::ZERO })?)
        }
        None => None,
    };
    let bad_binaries = config.bad_binaries.unwrap_or_default().binaries;
    let bad_binaries_max = frontend.config(&request.namespace).frontend.bad_binaries_max;
    let info = request.update_info.unwrap_or_default();
    if !is_promoted {
        check_failover_group(&namespace, &info.data)?;
    }
    let placement = info.data.get(PLACEMENT);
    let failover_group = info.data.get(FAILOVER_GROUP);
    let place = |topology: &Topology, pool: &Pool| frontend.pools.place(topology, pool);
    let state = NamespaceState::try_from(info.state).map_err(|_| Error::invalid("Invalid namespace state update."))?;
    // As Temporal counts it: bad binaries that are added change nothing.
    let has_same_state = [NamespaceState::Unspecified, namespace.state].contains(&state);
    let has_same_texts = info.description.is_empty() && info.owner_email.is_empty() && info.data.is_empty();
    let is_same_but_active = has_same_state
        && has_same_texts
        && new_retention.is_none()
        && has_same_archival
        && request.delete_bad_binary.is_empty()
        && replication.regions.is_empty()
        && replication.state == ReplicationState::Unspecified;
    let record = frontend
        .namespaces
        .update(&request.namespace, |change| {
            if is_promoted && !change.is_global() {
                change.promote(&replication, placement.cloned(), failover_group.cloned(), &place)?;
            } else {
                change.set_replication(&replication)?;
                if let Some(placement) = placement {
                    change.set_placement(placement, &place)?;
                }
            }
            if change.is_global() && !is_promoted && replication.active.is_some() && !is_same_but_active {
                let message = "Cannot set active cluster to current cluster when other parameters are set.";
                return Err(MetaError::Invalid(message.into()));
            }
            change.set_texts(&info.description, &info.owner_email);
            change.merge_data(&info.data);
            if let Some(retention) = new_retention {
                change.set_retention(retention);
            }
            change.set_archival(of_history.as_ref(), of_visibility.as_ref())?;
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
    Ok(updated_to(frontend, &record, replication.active.is_some() && !is_promoted).await)
}

/// What is said of a namespace that was updated, once it is led where it is active, as far as that takes not too long.
async fn updated_to(frontend: &Frontend, record: &NamespaceRecord, fails_over: bool) -> UpdateNamespaceResponse {
    // One that moves is not led yet where it will be.
    let is_there = frontend.namespaces.move_of(record.namespace.id).is_none();
    if let (Some(now), true) = (&record.replication, fails_over && is_there) {
        frontend.pools.until_led_in(record.pool, &now.active).await;
    }
    let description = description(frontend, record);
    UpdateNamespaceResponse {
        namespace_info: description.namespace_info,
        config: description.config,
        replication_config: description.replication_config,
        failover_version: description.failover_version,
        is_global_namespace: description.is_global_namespace,
    }
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

/// Refuses data that name another failover group than a namespace has.
fn check_failover_group(record: &NamespaceRecord, data: &HashMap<String, String>) -> Result<(), Error> {
    let known = record.data.get(FAILOVER_GROUP);
    if data.get(FAILOVER_GROUP).is_none_or(|wanted| Some(wanted) == known) {
        return Ok(());
    }
    Err(Error::failed_precondition(format!(
        "namespace {} cannot be moved to another failover group: register another one there",
        record.name()
    )))
}

fn check_name(name: &str) -> Result<(), Error> {
    if name.is_empty() { Err(Error::invalid("Namespace not set on request.")) } else { Ok(()) }
}

/// What a request says of where a namespace is to be.
fn change_of(active: &str, clusters: &[ClusterReplicationConfig], state: ReplicationState) -> ReplicationChange {
    ReplicationChange {
        active: Some(active).filter(|name| !name.is_empty()).map(str::to_owned),
        regions: clusters.iter().map(|cluster| cluster.cluster_name.clone()).collect(),
        state,
    }
}

/// Why a local namespace does not become a global one where nodes name no regions.
fn not_promoted(name: &str) -> Error {
    Error::invalid(format!(
        "global namespace is not enabled on this cluster, cannot update global namespace or promote local namespace: {name}"
    ))
}

/// What a request wants of archival; nothing is made of it where the server has none.
fn wish(part: &PartOptions, state: i32, uri: &str) -> Result<Option<ArchivalWish>, Error> {
    if !part.is_enabled {
        return Ok(None);
    }
    let unknown = "Encountered current state and event that cannot be handled (should be impossible)";
    let state = ArchivalState::try_from(state).map_err(|_| Error::invalid(unknown))?;
    Ok(Some(ArchivalWish { state, uri: uri.to_owned(), default_uri: part.default_uri.clone() }))
}

/// What is archived of a new namespace: what the server does by default, if its request does not say.
async fn first_archival(
    frontend: &Frontend,
    part: &PartOptions,
    wish: Option<ArchivalWish>,
) -> Result<Archival, Error> {
    let Some(mut wish) = wish else { return Ok(Archival::default()) };
    if wish.state == ArchivalState::Unspecified {
        wish.state = if part.is_default { ArchivalState::Enabled } else { ArchivalState::Disabled };
    }
    let archival = Archival::default().next(&wish)?;
    check_uri(frontend, &archival).await?;
    Ok(archival)
}

/// Whether a wish changes what is archived of a namespace. One that cannot be is an error, and so is a URI that cannot be archived to any more.
async fn changes(frontend: &Frontend, before: &Archival, wish: Option<&ArchivalWish>) -> Result<bool, Error> {
    let Some(wish) = wish else { return Ok(false) };
    let next = before.next(wish)?;
    check_uri(frontend, &next).await?;
    Ok(next != *before)
}

async fn check_uri(frontend: &Frontend, archival: &Archival) -> Result<(), Error> {
    if archival.uri.is_empty() {
        return Ok(());
    }
    Ok(frontend.archive.check_uri(&archival.uri).await?)
}

fn retention(frontend: &Frontend, wanted: Option<&wkt::Duration>, min: Duration) -> Result<Duration, Error> {
    let retention = positive(wanted).ok().flatten();
    retention
        .filter(|retention| *retention >= frontend.config("").frontend.retention_min.max(min))
        .ok_or_else(|| Error::from(MetaError::Invalid("A valid retention period is not set on request.".into())))
}

fn bad_binary((checksum, bad): (&String, &BadBinary)) -> (String, BadBinaryInfo) {
    let BadBinary { reason, operator, created } = bad.clone();
    (checksum.clone(), BadBinaryInfo { reason, operator, create_time: Some(created.to_proto()) })
}

fn description(frontend: &Frontend, record: &NamespaceRecord) -> DescribeNamespaceResponse {
    let (topology, replication) = (frontend.namespaces.topology(), record.replication.as_ref());
    DescribeNamespaceResponse {
        namespace_info: Some(NamespaceInfo {
            name: record.name().to_owned(),
            state: record.state as i32,
            description: record.description.clone(),
            owner_email: record.owner_email.clone(),
            data: data(frontend, &topology, record),
            id: record.namespace.id.to_string(),
            capabilities: Some(capabilities::namespace(&frontend.config(record.name()))),
            limits: Some(capabilities::limits(&frontend.config(record.name()))),
            supports_schedules: capabilities::SUPPORTS_SCHEDULES,
        }),
        config: Some(NamespaceConfig {
            workflow_execution_retention_ttl: Some(to_proto(record.namespace.retention)),
            bad_binaries: Some(BadBinaries { binaries: record.bad_binaries.iter().map(bad_binary).collect() }),
            history_archival_state: record.history_archival.state() as i32,
            history_archival_uri: record.history_archival.uri.clone(),
            visibility_archival_state: record.visibility_archival.state() as i32,
            visibility_archival_uri: record.visibility_archival.uri.clone(),
            ..NamespaceConfig::default()
        }),
        replication_config: Some(replication_config(&topology, record)),
        failover_version: replication.map_or(0, |replication| replication.failover_version),
        is_global_namespace: replication.is_some(),
        failover_history: replication
            .map_or(Vec::new(), |replication| replication.history.iter().map(failover_status).collect()),
        ..DescribeNamespaceResponse::default()
    }
}

fn failover_status(failover: &Failover) -> FailoverStatus {
    FailoverStatus { failover_time: Some(failover.at.to_proto()), failover_version: failover.version }
}

fn replication_config(topology: &Topology, record: &NamespaceRecord) -> NamespaceReplicationConfig {
    let cluster =
        |name: &String| ClusterReplicationConfig { cluster_name: name.clone(), ..ClusterReplicationConfig::default() };
    match &record.replication {
        Some(Replication { active, regions, is_handed_over, .. }) => NamespaceReplicationConfig {
            active_cluster_name: active.clone(),
            clusters: regions.iter().map(cluster).collect(),
            state: if *is_handed_over { ReplicationState::Handover } else { ReplicationState::Normal } as i32,
        },
        None => {
            let home = topology.home_of(record.pool);
            NamespaceReplicationConfig {
                clusters: vec![cluster(&home)],
                active_cluster_name: home,
                state: ReplicationState::Normal as i32,
            }
        }
    }
}

/// What is kept with a namespace, and where it is, or is to be, if it has chosen that.
fn data(frontend: &Frontend, topology: &Topology, record: &NamespaceRecord) -> HashMap<String, String> {
    let mut data: HashMap<_, _> = record.data.clone().into_iter().collect();
    let id = record.namespace.id;
    let pool = frontend.namespaces.move_of(id).map_or(record.pool, |moving| moving.target(record));
    if pool != PoolId::DEFAULT || data.contains_key(PLACEMENT) {
        data.insert(PLACEMENT.to_owned(), topology.placement_in(pool).to_owned());
    }
    match topology.pools.get(&pool) {
        Some(pool) if !pool.leaders.is_empty() => data.insert(LEADERS.to_owned(), pool.leaders.join(",")),
        _ => data.remove(LEADERS),
    };
    match frontend.namespaces.move_text(id) {
        Some(text) => data.insert(MOVE.to_owned(), text),
        None => data.remove(MOVE),
    };
    data
}
