//! One cluster comes of the nodes, whenever they start.

use std::sync::Arc;
use std::time::Duration;

use everlog_proto::api::workflowservice::v1::GetClusterInfoRequest;
use tonic::Code;

use super::{PATIENCE, Stage};
use crate::client::{Client, Seen};
use crate::failure::{Failure, ensure};
use crate::harness::Cluster;

/// How long nodes are given to do what they must not.
const TEMPTATION: Duration = Duration::from_secs(2);

/// The nodes of the stage start one after the other, the last one first, and serve once all are there.
pub(crate) async fn any_order(stage: &Stage) -> Result<(), Failure> {
    let nodes = &stage.cluster.nodes;
    for at in [2, 0] {
        nodes[at].spawn().await?;
        tokio::time::sleep(TEMPTATION).await;
        ensure(nodes[at].wait_serving(Duration::ZERO).await.is_err(), || "fewer than all nodes serve".to_owned())?;
    }
    // Nobody is kept waiting by a node that waits itself.
    let client = Client::new(&stage.cluster.addresses(), "default", &Arc::<Seen>::default())?;
    let asked = client.call(0, "GetClusterInfo", GetClusterInfoRequest {}, PATIENCE, async |stub, request| {
        stub.get_cluster_info(request).await
    });
    let told = asked.await.map(drop).map_err(|status| status.code());
    ensure(told == Err(Code::Unavailable), || format!("a node that waits for others says {told:?}"))?;
    nodes[1].spawn().await?;
    stage.cluster.wait_serving().await?;
    one_cluster(&stage.cluster, &stage.seen).await
}

/// Nodes that are killed while they look for each other, and started again, form one cluster all the same.
pub(crate) async fn restarted_while_forming(stage: &Stage) -> Result<(), Failure> {
    let cluster = Cluster::new(&stage.binary, &stage.directory.join("forming"), 3).await?;
    let nodes = &cluster.nodes;
    nodes[1].spawn().await?;
    tokio::time::sleep(Duration::from_millis(700)).await;
    nodes[1].kill().await?;
    nodes[2].spawn().await?;
    nodes[1].spawn().await?;
    nodes[0].spawn().await?;
    // About when they give each other their word.
    tokio::time::sleep(Duration::from_millis(1300)).await;
    nodes[0].kill().await?;
    nodes[2].kill().await?;
    nodes[0].spawn().await?;
    nodes[2].spawn().await?;
    cluster.wait_serving().await?;
    one_cluster(&cluster, &stage.seen).await?;
    cluster.stop().await
}

async fn one_cluster(cluster: &Cluster, seen: &Arc<Seen>) -> Result<(), Failure> {
    let client = Client::new(&cluster.addresses(), "default", seen)?;
    let mut ids = Vec::new();
    for node in 0..client.nodes() {
        let info = client.call(node, "GetClusterInfo", GetClusterInfoRequest {}, PATIENCE, async |stub, request| {
            stub.get_cluster_info(request).await
        });
        ids.push(info.await?.cluster_id);
    }
    ensure(!ids[0].is_empty() && ids.iter().all(|id| *id == ids[0]), || format!("different clusters: {ids:?}"))
}
