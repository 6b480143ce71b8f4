//! GetSystemInfo, GetClusterInfo and ListClusters: what clients ask first.

use std::collections::BTreeMap;

use everlog_meta::FAILOVER_VERSION_STEP;
use everlog_proto::api::operatorservice::v1::{ClusterMetadata, ListClustersRequest, ListClustersResponse};
use everlog_proto::api::version::v1::{ReleaseInfo, VersionInfo};
use everlog_proto::api::workflowservice::v1::{
    GetClusterInfoRequest, GetClusterInfoResponse, GetSystemInfoRequest, GetSystemInfoResponse,
};

use super::call::Call;
use super::errors::Error;
use super::{Frontend, capabilities};

/// What stores histories and lists.
const STORE_NAME: &str = "everlog";

/// Clients that are served, with their versions: Temporal's table, which the Web UI and the command line look at.
const SUPPORTED_CLIENTS: [(&str, &str); 8] = [
    ("Nexus-go-sdk", "<2.0.0"),
    ("temporal-cli", "<2.0.0"),
    ("temporal-go", "<2.0.0"),
    ("temporal-java", "<2.0.0"),
    ("temporal-php", "<2.0.0"),
    ("temporal-server", "<2.0.0"),
    ("temporal-typescript", "<2.0.0"),
    ("temporal-ui", "<3.0.0"),
];

/// Tells what the server can do.
pub(super) async fn get_system_info(
    _frontend: &Frontend,
    _call: Call,
    _request: GetSystemInfoRequest,
) -> Result<GetSystemInfoResponse, Error> {
    Ok(GetSystemInfoResponse {
        server_version: capabilities::SERVER_VERSION.to_owned(),
        capabilities: Some(capabilities::system()),
    })
}

/// Tells what the server is.
pub(super) async fn get_cluster_info(
    frontend: &Frontend,
    _call: Call,
    _request: GetClusterInfoRequest,
) -> Result<GetClusterInfoResponse, Error> {
    let cluster_name = frontend.pools.region_here();
    let release = ReleaseInfo {
        version: capabilities::SERVER_VERSION.to_owned(),
        notes: format!("Everlog {}", env!("CARGO_PKG_VERSION")),
        ..ReleaseInfo::default()
    };
    Ok(GetClusterInfoResponse {
        supported_clients: SUPPORTED_CLIENTS.map(|(name, versions)| (name.to_owned(), versions.to_owned())).into(),
        server_version: capabilities::SERVER_VERSION.to_owned(),
        cluster_id: frontend.cluster_id.clone(),
        version_info: Some(VersionInfo {
            current: Some(release.clone()),
            recommended: Some(release),
            ..VersionInfo::default()
        }),
        history_shard_count: partitions(frontend),
        persistence_store: STORE_NAME.to_owned(),
        visibility_store: STORE_NAME.to_owned(),
        initial_failover_version: frontend.regions().initial_version(&cluster_name).unwrap_or_default(),
        cluster_name,
        failover_version_increment: FAILOVER_VERSION_STEP,
    })
}

/// Lists the regions, which stand where Temporal has clusters; without any, the one cluster that there is.
pub(super) async fn list_clusters(
    frontend: &Frontend,
    _call: Call,
    _request: ListClustersRequest,
) -> Result<ListClustersResponse, Error> {
    let (regions, here) = (frontend.regions(), frontend.pools.region_here());
    let mut addresses =
        if regions.are_named() { frontend.operations.client_addresses().await } else { BTreeMap::new() };
    addresses.insert(here.clone(), frontend.addresses.grpc.to_string());
    let cluster = |name: &str| ClusterMetadata {
        cluster_name: name.to_owned(),
        cluster_id: match regions.are_named() {
            true => format!("{}-{name}", frontend.cluster_id),
            false => frontend.cluster_id.clone(),
        },
        address: addresses.get(name).cloned().unwrap_or_default(),
        http_address: if name == here { frontend.addresses.http.to_string() } else { String::new() },
        initial_failover_version: regions.initial_version(name).unwrap_or_default(),
        history_shard_count: partitions(frontend),
        is_connection_enabled: true,
        is_replication_enabled: regions.are_named(),
    };
    Ok(ListClustersResponse { clusters: regions.names().map(cluster).collect(), ..ListClustersResponse::default() })
}

/// Partitions stand where Temporal has shards.
fn partitions(frontend: &Frontend) -> i32 {
    i32::try_from(frontend.router.partitions_count()).unwrap_or(i32::MAX)
}
