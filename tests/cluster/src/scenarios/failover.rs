//! Namespaces that fail over from region to region under load.

use std::sync::Arc;
use std::time::Duration;

use everlog_proto::api::replication::v1::{ClusterReplicationConfig, NamespaceReplicationConfig};
use everlog_proto::api::workflowservice::v1 as service;
use tokio::time::Instant;

use super::{PATIENCE, Stage};
use crate::client::{Client, Seen, duration};
use crate::failure::{Failure, ensure};
use crate::faults::Injected;
use crate::harness::{Cluster, SERVE_TIME_MAX};
use crate::say;
use crate::storm::under_load_in;

const SEED: u64 = 13;
const NAMESPACE: &str = "shop";
/// The regions of the nodes.
const REGIONS: [&str; 3] = ["a", "b", "c"];
/// How often another region is made the active one while all nodes are there.
const FAILOVERS: usize = 20;
/// How long a planned failover may take.
const FAILOVER_TIME_MAX: Duration = Duration::from_secs(5);
/// How long callers go on between two failovers.
const REST: Duration = Duration::from_millis(300);

/// A global namespace becomes active in one region after the other, and no call fails. Then the active region is lost, and another one is made
/// the active one. What callers are told meanwhile is whole.
pub(crate) async fn fail_over(stage: &Stage) -> Result<(), Failure> {
    let directory = stage.directory.join("failover");
    let cluster = Cluster::new(&stage.binary, &directory, REGIONS.len()).await?;
    for (node, region) in cluster.nodes.iter().zip(REGIONS) {
        node.configure(&format!("region = \"{region}\"\n"))?;
    }
    cluster.start().await?;
    let seen = Arc::new(Seen::default());
    let client = Client::new(&cluster.addresses(), NAMESPACE, &seen)?;
    // What is refused before it can be is no failure.
    let early = Client::new(&cluster.addresses(), NAMESPACE, &Arc::default())?;
    let result = async {
        let founded = cluster.partitions(1).await?;
        register(&early).await?;
        cluster.until_led_in(1, &founded, "a").await?;
        under_load_in(NAMESPACE, &cluster, &seen, SEED, &[0, 1, 2], async |_| {
            to_and_fro(&cluster, &client, &founded, &seen).await?;
            lost_region(&cluster, &client, &founded).await?;
            Ok(Injected::default())
        })
        .await?;
        cluster.stop().await
    };
    result.await.inspect_err(|_| say(&cluster.logs()))
}

async fn to_and_fro(cluster: &Cluster, client: &Client, founded: &[u32], seen: &Seen) -> Result<(), Failure> {
    say(&format!("    {FAILOVERS} failovers to and fro"));
    let mut took = Vec::new();
    let mut version = 1;
    for round in 0..FAILOVERS {
        let active = ["b", "a", "c"][round % 3];
        let began = Instant::now();
        let answer = activate(client, round % REGIONS.len(), active).await?;
        took.push(began.elapsed());
        ensure(answer.failover_version > version, || format!("{active}: version {}", answer.failover_version))?;
        version = answer.failover_version;
        cluster.until_led_in((round + 1) % REGIONS.len(), founded, active).await?;
        tokio::time::sleep(REST).await;
    }
    took.sort_unstable();
    let errors = seen.errors();
    say(&format!(
        "    a failover took {:?}, the longest {:?}; calls that failed: {errors:?}",
        took[FAILOVERS / 2],
        took[FAILOVERS - 1]
    ));
    ensure(took[FAILOVERS - 1] < FAILOVER_TIME_MAX, || format!("a failover took {:?}", took[FAILOVERS - 1]))?;
    ensure(errors.is_empty(), || format!("calls failed: {errors:?}"))
}

async fn lost_region(cluster: &Cluster, client: &Client, founded: &[u32]) -> Result<(), Failure> {
    say("    the active region is lost, and another one is the active one from then on");
    activate(client, 0, "a").await?;
    cluster.until_led_in(1, founded, "a").await?;
    cluster.nodes[0].kill().await?;
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        // Whoever led the metadata may be gone, too.
        if activate(client, 1, "c").await.is_ok() {
            break;
        }
        tokio::time::sleep(REST).await;
    }
    cluster.until_led_in(1, founded, "c").await?;
    let shown = describe(client, 2).await?.replication_config.unwrap_or_default();
    ensure(shown.active_cluster_name == "c", || format!("{shown:?}"))?;
    cluster.nodes[0].spawn().await?;
    cluster.nodes[0].wait_serving(SERVE_TIME_MAX).await?;
    activate(client, 1, "a").await?;
    cluster.until_led_in(1, founded, "a").await
}

async fn register(client: &Client) -> Result<(), Failure> {
    let cluster = |name: &&str| ClusterReplicationConfig { cluster_name: (*name).to_owned(), ..Default::default() };
    let request = service::RegisterNamespaceRequest {
        namespace: NAMESPACE.to_owned(),
        workflow_execution_retention_period: Some(duration(Duration::from_secs(24 * 3600))),
        is_global_namespace: true,
        clusters: REGIONS.iter().map(cluster).collect(),
        active_cluster_name: "a".to_owned(),
        ..Default::default()
    };
    let began = Instant::now();
    loop {
        let registered = client
            .call(1, "RegisterNamespace", request.clone(), PATIENCE, async |stub, request| {
                stub.register_namespace(request).await
            })
            .await;
        match registered {
            // All regions have a number once the last node has said where it is.
            Err(status) if status.code() == tonic::Code::InvalidArgument && began.elapsed() < PATIENCE => {
                tokio::time::sleep(REST).await;
            }
            registered => return Ok(registered.map(drop)?),
        }
    }
}

async fn activate(client: &Client, node: usize, region: &str) -> Result<service::UpdateNamespaceResponse, Failure> {
    let request = service::UpdateNamespaceRequest {
        namespace: NAMESPACE.to_owned(),
        replication_config: Some(NamespaceReplicationConfig {
            active_cluster_name: region.to_owned(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let updated = client
        .call(node, "UpdateNamespace", request, PATIENCE, async |stub, request| stub.update_namespace(request).await);
    Ok(updated.await?)
}

async fn describe(client: &Client, node: usize) -> Result<service::DescribeNamespaceResponse, Failure> {
    let request = service::DescribeNamespaceRequest { namespace: NAMESPACE.to_owned(), ..Default::default() };
    let described = client.call(node, "DescribeNamespace", request, PATIENCE, async |stub, request| {
        stub.describe_namespace(request).await
    });
    Ok(described.await?)
}
