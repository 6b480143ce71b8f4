//! GetSystemInfo, GetClusterInfo and ListClusters: what clients ask first.

use everlog_proto::api::operatorservice::v1::{ClusterMetadata, ListClustersRequest, ListClustersResponse};
use everlog_proto::api::version::v1::{ReleaseInfo, VersionInfo};
use everlog_proto::api::workflowservice::v1::{
    GetClusterInfoRequest, GetClusterInfoResponse, GetSystemInfoRequest, GetSystemInfoResponse,
};

use super::call::Call;
use super::errors::Error;
use super::{Frontend, capabilities};

/// The cluster's name: that of a Temporal cluster which has no others beside it.
pub(super) const CLUSTER_NAME: &str = "active";

/// What stores histories and lists.
const STORE_NAME: &str = "everlog";

/// The failover version that a cluster begins with, and by how much it grows, in a cluster that has no others beside it.
const FAILOVER_VERSION_FIRST: i64 = 1;
const FAILOVER_VERSION_STEP: i64 = 10;

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
        cluster_name: CLUSTER_NAME.to_owned(),
        history_shard_count: partitions(frontend),
        persistence_store: STORE_NAME.to_owned(),
        visibility_store: STORE_NAME.to_owned(),
        initial_failover_version: FAILOVER_VERSION_FIRST,
        failover_version_increment: FAILOVER_VERSION_STEP,
    })
}

/// Lists the one cluster that there is.
pub(super) async fn list_clusters(
    frontend: &Frontend,
    _call: Call,
    _request: ListClustersRequest,
) -> Result<ListClustersResponse, Error> {
    let cluster = ClusterMetadata {
        cluster_name: CLUSTER_NAME.to_owned(),
        cluster_id: frontend.cluster_id.clone(),
        address: frontend.addresses.grpc.to_string(),
        http_address: frontend.addresses.http.to_string(),
        initial_failover_version: FAILOVER_VERSION_FIRST,
        history_shard_count: partitions(frontend),
        is_connection_enabled: true,
        is_replication_enabled: false,
    };
    Ok(ListClustersResponse { clusters: vec![cluster], ..ListClustersResponse::default() })
}

/// Partitions stand where Temporal has shards.
fn partitions(frontend: &Frontend) -> i32 {
    i32::try_from(frontend.router.partitions_count()).unwrap_or(i32::MAX)
}
