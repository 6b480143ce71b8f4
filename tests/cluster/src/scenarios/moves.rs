//! A namespace that moves from one placement to another under load.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use everlog_proto::api::namespace::v1::UpdateNamespaceInfo;
use everlog_proto::api::workflowservice::v1 as service;
use everlog_proto::cluster::{
    DescribeClusterRequest, GroupKind, ListNamespacePlacesRequest, NamespacePlace, Placement,
};
use tokio::time::Instant;

use super::{PATIENCE, Stage};
use crate::client::{Client, Seen, is_transient};
use crate::failure::{Failure, ensure};
use crate::faults::Injected;
use crate::harness::{Cluster, SERVE_TIME_MAX};
use crate::say;
use crate::storm::under_load;

const SEED: u64 = 17;
const NAMESPACE: &str = "default";
const NODES: usize = 3;
/// How often it moves there and back while all nodes are there.
const MOVES: usize = 4;
/// How long a move may take.
const MOVE_TIME_MAX: Duration = Duration::from_secs(120);
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// How long callers go on between two moves.
const REST: Duration = Duration::from_millis(500);

/// A namespace with workflows, queues and timers in use moves to another placement and back, and no call fails. Then the nodes that lead the metadata,
/// a partition that it leaves and one that it comes to are killed while it moves. What callers are told meanwhile is whole.
pub(crate) async fn moves_under_load(stage: &Stage) -> Result<(), Failure> {
    let cluster = Cluster::new(&stage.binary, &stage.directory.join("moves"), NODES).await?;
    cluster.start().await?;
    let seen = Arc::new(Seen::default());
    let client = Client::new(&cluster.addresses(), NAMESPACE, &seen)?;
    let result = async {
        let eu = Placement { name: "eu".to_owned(), replicas: 3, ..Placement::default() };
        cluster.place(1, Placement { spread: 1, ..eu }).await?;
        // The first time its partitions are made. Nobody waits for them.
        moved(&cluster, &client, 0, "eu").await?;
        moved(&cluster, &client, 0, "default").await?;
        under_load(&cluster, &seen, SEED, &[0, 1, 2], async |_| {
            to_and_fro(&cluster, &client, &seen).await?;
            killed(&cluster, &client).await?;
            Ok(Injected::default())
        })
        .await?;
        cluster.stop().await
    };
    result.await.inspect_err(|_| say(&cluster.logs()))
}

async fn to_and_fro(cluster: &Cluster, client: &Client, seen: &Seen) -> Result<(), Failure> {
    for round in 0..MOVES {
        tokio::time::sleep(REST).await;
        let to = ["eu", "default"][round % 2];
        let took = moved(cluster, client, round % NODES, to).await?;
        say(&format!("    moved to {to} in {took:?}; calls that failed so far: {:?}", seen.errors()));
    }
    ensure(seen.errors().is_empty(), || format!("calls failed: {:?}", seen.errors()))
}

/// Kills a node while the namespace moves, once for each part that a node has in that.
async fn killed(cluster: &Cluster, client: &Client) -> Result<(), Failure> {
    for (round, part) in
        ["the metadata", "a partition that it leaves", "a partition that it comes to"].iter().enumerate()
    {
        let to = ["eu", "default"][round % 2];
        let from = place(cluster, 0).await?.group_ids;
        ask(client, 0, to).await?;
        // Until something has moved.
        let moving = until(cluster, |place| place.r#move.as_ref().is_none_or(|moves| moves.percent > 0)).await?;
        let group = match round {
            0 => 0,
            1 => from[0],
            _ => *moving.group_ids.iter().find(|group| !from.contains(group)).unwrap_or(&from[0]),
        };
        let victim = leader(cluster, group).await?;
        say(&format!("    node {} is killed, which leads {part} (group {group}), at {:?}", victim + 1, moving.r#move));
        cluster.nodes[victim].kill().await?;
        let began = Instant::now();
        let by = (victim + 1) % NODES;
        arrived(cluster, by, to).await?;
        say(&format!("    it has moved to {to} {:?} later", began.elapsed()));
        cluster.nodes[victim].spawn().await?;
        cluster.nodes[victim].wait_serving(SERVE_TIME_MAX).await?;
        cluster.until_settled(by, &[]).await?;
    }
    Ok(())
}

/// The number of the node that leads a group, from 0 on.
async fn leader(cluster: &Cluster, group: u32) -> Result<usize, Failure> {
    let began = Instant::now();
    loop {
        let shown = cluster.operator(0)?.describe_cluster(DescribeClusterRequest {}).await?.into_inner();
        let of = |kind: GroupKind, id: u32| (kind == GroupKind::Metadata) == (group == 0) && id == group;
        let found = shown.groups.iter().find(|one| of(one.kind(), one.group_id)).map_or(0, |one| one.leader);
        if found > 0 {
            return Ok(found as usize - 1);
        }
        ensure(began.elapsed() < PATIENCE, || format!("nobody leads group {group}"))?;
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// Has the namespace move, and waits until it is there. Returns how long that took.
pub(super) async fn moved(cluster: &Cluster, client: &Client, node: usize, to: &str) -> Result<Duration, Failure> {
    let began = Instant::now();
    ask(client, node, to).await?;
    arrived(cluster, node, to).await?;
    Ok(began.elapsed())
}

async fn arrived(cluster: &Cluster, by: usize, to: &str) -> Result<(), Failure> {
    let began = Instant::now();
    loop {
        let shown = place(cluster, by).await;
        if let Ok(shown) = &shown
            && shown.r#move.is_none()
            && shown.placement == to
        {
            return Ok(());
        }
        ensure(began.elapsed() < MOVE_TIME_MAX, || format!("it does not come to {to}: {shown:?}"))?;
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

async fn until(cluster: &Cluster, is_so: impl Fn(&NamespacePlace) -> bool) -> Result<NamespacePlace, Failure> {
    let began = Instant::now();
    loop {
        let shown = place(cluster, 0).await?;
        if is_so(&shown) {
            return Ok(shown);
        }
        ensure(began.elapsed() < MOVE_TIME_MAX, || format!("it does not move: {shown:?}"))?;
    }
}

async fn place(cluster: &Cluster, by: usize) -> Result<NamespacePlace, Failure> {
    let listed = cluster.operator(by)?.list_namespace_places(ListNamespacePlacesRequest {}).await?.into_inner();
    let mut named = listed.namespaces.into_iter().filter(|namespace| namespace.name == NAMESPACE);
    named.next().ok_or_else(|| Failure::new("the namespace is not shown"))
}

/// Asks for a move. Whoever leads the metadata may be gone.
async fn ask(client: &Client, node: usize, to: &str) -> Result<(), Failure> {
    let info = UpdateNamespaceInfo {
        data: HashMap::from([("everlog.placement".to_owned(), to.to_owned())]),
        ..UpdateNamespaceInfo::default()
    };
    let request = service::UpdateNamespaceRequest {
        namespace: NAMESPACE.to_owned(),
        update_info: Some(info),
        ..service::UpdateNamespaceRequest::default()
    };
    let began = Instant::now();
    loop {
        let updated = client
            .call(node, "UpdateNamespace", request.clone(), PATIENCE, async |stub, request| {
                stub.update_namespace(request).await
            })
            .await;
        match updated {
            Err(status) if is_transient(&status) && began.elapsed() < PATIENCE => tokio::time::sleep(REST).await,
            updated => return Ok(updated.map(drop)?),
        }
    }
}
