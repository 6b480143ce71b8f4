//! Groups with three replicas on production engines: who leads, what is acknowledged stays, whoever was away catches up.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests, too")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::{Lead, lead, put};
use everlog_raft::{Group, GroupReplica, Leadership, Node, NodeInfo, NodeOptions, REPLICA_ID_MIN, ReadConsistency};
use everlog_storage::state::{Direction, RowBatch};
use everlog_storage::{GroupId, LogOptions, NodeId, RocksState, SegmentLog, StateOptions};
use everlog_transport::twin::TwinNetwork;
use everlog_transport::{Abilities, Identity, KnownNode, Links as _, Mesh, MeshOptions, Timing, Transport};
use tokio::net::TcpListener;

const GROUP: GroupId = GroupId(3);
const PATIENCE: Duration = Duration::from_secs(60);
const NODES: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];

fn replica(node: NodeId) -> u64 {
    REPLICA_ID_MIN + u64::from(node.0)
}

fn voters() -> BTreeMap<u64, NodeId> {
    NODES.into_iter().map(|node| (replica(node), node)).collect()
}

/// A node of a cluster that is connected by a twin of a network.
struct Member {
    id: NodeId,
    node: Node,
    group: Group,
    engines: Engines,
}

/// What must be let go of before a node can be started again on it.
struct Engines(Arc<SegmentLog>, Arc<RocksState>);

impl Engines {
    async fn until_free(self) {
        let free = async {
            while Arc::strong_count(&self.0) > 1 || Arc::strong_count(&self.1) > 1 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, free).await.expect("nobody holds the engines");
    }
}

struct TestCluster {
    dir: tempfile::TempDir,
    network: TwinNetwork,
    members: BTreeMap<NodeId, Member>,
}

fn open(dir: &std::path::Path, id: NodeId, transport: Arc<dyn Transport>) -> (Node, Engines) {
    let path: PathBuf = dir.join(id.to_string());
    let log = SegmentLog::open(&path.join("log"), LogOptions::default()).unwrap();
    let state = RocksState::open(&path.join("state"), StateOptions::default()).unwrap();
    let options = NodeOptions { node: NodeInfo::of(id), ..NodeOptions::default() };
    let engines = Engines(Arc::new(log), Arc::new(state));
    let (log, state) = (Arc::clone(&engines.0), Arc::clone(&engines.1));
    (Node::with_peers(options, log, state, Some(transport)), engines)
}

impl TestCluster {
    async fn start() -> TestCluster {
        let mut cluster =
            TestCluster { dir: tempfile::tempdir().unwrap(), network: TwinNetwork::new(), members: BTreeMap::new() };
        for node in NODES {
            cluster.start_node(node).await;
        }
        cluster.members[&NODES[1]].group.found(&voters()).await.unwrap();
        cluster
    }

    async fn start_node(&mut self, id: NodeId) {
        let (node, engines) = open(self.dir.path(), id, self.network.transport(id));
        let group =
            node.create_replica(GroupReplica { group: GROUP, group_epoch: 1, replica: replica(id) }).await.unwrap();
        self.network.join(id, Arc::new(node.receiver()));
        self.members.insert(id, Member { id, node, group, engines });
    }

    /// Ends a node as if it had been killed.
    async fn kill(&mut self, id: NodeId) {
        self.network.leave(id);
        let Member { node, group, engines, .. } = self.members.remove(&id).unwrap();
        node.halt().await;
        drop((node, group));
        engines.until_free().await;
    }

    /// Whoever leads of those that are here.
    async fn leader(&self) -> &Member {
        tokio::time::timeout(PATIENCE, async {
            loop {
                let leads = |member: &&Member| matches!(*member.group.leadership().borrow(), Leadership::Leader { .. });
                if let Some(leader) = self.members.values().find(leads) {
                    return leader;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await
        .expect("somebody leads")
    }

    /// Waits until all have the same rows.
    async fn until_equal(&self) -> Vec<(Bytes, Bytes)> {
        let rows = |member: &Member| {
            let range = &b""[..]..&b"\xff"[..];
            (member.group.applied_chain(), member.group.scan(range, Direction::Ascending, 100_000).unwrap())
        };
        let equal = async {
            loop {
                let mut all = self.members.values().map(rows);
                let first = all.next().unwrap();
                if all.all(|other| other == first) {
                    return first.1;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, equal).await.expect("all have the same rows")
    }

    async fn shutdown(self) {
        for member in self.members.into_values() {
            self.network.leave(member.id);
            member.node.shutdown().await.unwrap();
        }
    }
}

async fn write_some(lead: &mut Lead, prefix: &str, count: usize) {
    let outcomes: Vec<_> =
        (0..count).map(|i| lead.propose(put(&format!("{prefix}{i:05}"), "value")).unwrap()).collect();
    for outcome in outcomes {
        outcome.await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn three_replicas_have_the_same_rows_and_know_who_leads() {
    let cluster = TestCluster::start().await;
    let leader = cluster.leader().await;
    let mut leads = lead(&leader.group).await;
    write_some(&mut leads, "a", 500).await;
    assert_eq!(cluster.until_equal().await.len(), 500);
    for member in cluster.members.values() {
        assert_eq!(member.group.leader(), Some(leader.id));
        assert!(member.group.is_founded());
        // Founding it once more, by another one, changes nothing.
        member.group.found(&voters()).await.unwrap();
    }
    leader.group.read_barrier(ReadConsistency::Linearizable).await.unwrap();
    leader.group.read_barrier(ReadConsistency::Lease).await.unwrap();
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_one_leads_when_the_leader_dies_and_it_catches_up_when_it_is_back() {
    let mut cluster = TestCluster::start().await;
    let mut written = 0;
    for round in 0..3 {
        let leader = cluster.leader().await;
        let id = leader.id;
        let mut leads = lead(&leader.group).await;
        write_some(&mut leads, &format!("{round}-"), 200).await;
        written += 200;
        drop(leads);
        cluster.kill(id).await;
        let next = cluster.leader().await;
        assert_ne!(next.id, id);
        let mut leads = lead(&next.group).await;
        write_some(&mut leads, &format!("{round}+"), 200).await;
        written += 200;
        drop(leads);
        cluster.start_node(id).await;
        assert_eq!(cluster.until_equal().await.len(), written);
    }
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_cut_off_acknowledges_nothing_and_follows_when_it_is_back() {
    let cluster = TestCluster::start().await;
    let old = cluster.leader().await;
    let mut leads = lead(&old.group).await;
    write_some(&mut leads, "before", 10).await;
    for other in NODES.into_iter().filter(|node| *node != old.id) {
        cluster.network.cut(old.id, other);
        cluster.network.cut(other, old.id);
    }
    let lost: Vec<_> = (0..5).map(|i| leads.propose(put(&format!("lost{i}"), "value")).unwrap()).collect();
    let others: Vec<_> = cluster.members.values().filter(|member| member.id != old.id).collect();
    let next = tokio::time::timeout(PATIENCE, async {
        loop {
            let leads = |member: &&&Member| matches!(*member.group.leadership().borrow(), Leadership::Leader { .. });
            match others.iter().find(leads) {
                Some(next) => return *next,
                None => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    })
    .await
    .expect("one of the others leads");
    let mut after = lead(&next.group).await;
    write_some(&mut after, "after", 10).await;
    assert!(!old.group.lease_valid(std::time::Instant::now()), "its lease ended before another one could lead");

    cluster.network.mend();
    for outcome in lost {
        let outcome = tokio::time::timeout(PATIENCE, outcome).await.expect("it is told").unwrap();
        assert!(outcome.is_err(), "{outcome:?}");
    }
    let rows = cluster.until_equal().await;
    assert_eq!(rows.len(), 20);
    assert!(rows.iter().all(|(key, _)| !key.starts_with(b"lost")));
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_confirms_reads_believes_no_lease() {
    let cluster = TestCluster::start().await;
    let leader = cluster.leader().await;
    write_some(&mut lead(&leader.group).await, "a", 1).await;
    let barrier = async || {
        let read = leader.group.read_barrier(ReadConsistency::Lease);
        tokio::time::timeout(Duration::from_secs(1), read).await
    };
    leader.group.confirm_reads(true);
    assert!(!leader.group.lease_valid(std::time::Instant::now()));
    assert!(matches!(barrier().await, Ok(Ok(()))), "a quorum answers");
    for other in NODES.into_iter().filter(|node| *node != leader.id) {
        cluster.network.cut(other, leader.id);
    }
    // Within its lease, which it had a moment ago.
    assert!(!matches!(barrier().await, Ok(Ok(()))), "nobody answers");
    cluster.network.mend();
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lead_is_handed_over() {
    let cluster = TestCluster::start().await;
    let old = cluster.leader().await;
    let mut leads = lead(&old.group).await;
    write_some(&mut leads, "a", 10).await;
    cluster.until_equal().await;
    let to = NODES.into_iter().find(|node| *node != old.id).unwrap();
    old.group.transfer(to).await;
    assert!(!old.group.lease_valid(std::time::Instant::now()), "others may elect another one from here on");
    let next = &cluster.members[&to];
    let mut leads = tokio::time::timeout(PATIENCE, lead(&next.group)).await.expect("it leads");
    write_some(&mut leads, "b", 10).await;
    assert_eq!(cluster.until_equal().await.len(), 20);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_majority_that_is_gone_takes_the_lead_with_it() {
    let mut cluster = TestCluster::start().await;
    let id = cluster.leader().await.id;
    for other in NODES.into_iter().filter(|node| *node != id) {
        cluster.kill(other).await;
    }
    let left = &cluster.members[&id].group;
    let confirmed =
        tokio::time::timeout(Duration::from_secs(5), left.read_barrier(ReadConsistency::Linearizable)).await;
    assert!(!matches!(confirmed, Ok(Ok(()))), "nobody can have confirmed that it leads");
    assert!(!left.lease_valid(std::time::Instant::now()));
    let mut leadership = left.leadership();
    let given_up = leadership.wait_for(|now| *now == Leadership::Follower);
    drop(tokio::time::timeout(PATIENCE, given_up).await.expect("it does not go on as if it led").unwrap());
    // One of the others is enough for it to go on.
    let other = NODES.into_iter().find(|node| *node != id).unwrap();
    cluster.start_node(other).await;
    let leader = cluster.leader().await;
    let mut leads = lead(&leader.group).await;
    write_some(&mut leads, "a", 10).await;
    drop(leads);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_find_each_other_over_tcp() {
    let dir = tempfile::tempdir().unwrap();
    let cluster_id = uuid::Uuid::from_u128(5);
    let mut meshes = Vec::new();
    let mut known = Vec::new();
    for id in NODES {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let directory_id = uuid::Uuid::from_u128(u128::from(id.0));
        known.push(KnownNode { node_id: id.0, start_count: 1, address: address.clone() });
        meshes.push(Mesh::start(
            MeshOptions {
                directory_id,
                address,
                timing: Timing::default(),
                tls: None,
                abilities: Abilities::default(),
            },
            listener,
        ));
    }
    let mut groups = Vec::new();
    let mut nodes = Vec::new();
    for (id, mesh) in NODES.into_iter().zip(&meshes) {
        let (node, _engines) = open(dir.path(), id, Arc::new(mesh.clone()));
        let identity = GroupReplica { group: GROUP, group_epoch: 1, replica: replica(id) };
        groups.push(node.create_replica(identity).await.unwrap());
        let me = Identity { cluster_id, node_id: id, start_count: 1 };
        mesh.join(me, known.clone(), Arc::new(node.receiver()));
        nodes.push(node);
    }
    groups[0].found(&voters()).await.unwrap();
    let leader = tokio::time::timeout(PATIENCE, async {
        loop {
            let leads = |group: &&Group| matches!(*group.leadership().borrow(), Leadership::Leader { .. });
            match groups.iter().find(leads) {
                Some(leader) => return leader.clone(),
                None => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    })
    .await
    .expect("somebody leads");
    let mut leads = lead(&leader).await;
    write_some(&mut leads, "a", 2000).await;
    let all_applied = async {
        while groups.iter().any(|group| group.applied_chain() != leader.applied_chain()) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, all_applied).await.expect("all have the same rows");
    for (node, mesh) in nodes.into_iter().zip(meshes) {
        mesh.shutdown().await;
        node.shutdown().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_left_goes_on_alone_with_all_it_has() {
    let mut cluster = TestCluster::start().await;
    let first = cluster.leader().await;
    let survivor = first.id;
    let mut leads = lead(&first.group).await;
    write_some(&mut leads, "kept", 300).await;
    let others: Vec<_> = NODES.into_iter().filter(|node| *node != survivor).collect();
    for other in &others {
        cluster.network.cut(survivor, *other);
    }
    // It gets into its log, most likely, though nobody will ever acknowledge it.
    let unacknowledged = leads.propose(put("unacknowledged", "value")).unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    drop((leads, unacknowledged));
    for node in NODES {
        cluster.kill(node).await;
    }

    // Cut off after each of its steps, it begins again.
    let identity = GroupReplica { group: GROUP, group_epoch: 1, replica: replica(survivor) + (1 << 40) };
    let mut in_its_log = None;
    for is_last in [false, false, true] {
        let (node, engines) = open(cluster.dir.path(), survivor, cluster.network.transport(survivor));
        let remains = node.remains(GROUP).await.unwrap().unwrap();
        let was = if in_its_log.is_none() { replica(survivor) } else { identity.replica };
        assert_eq!(remains.replica.replica, was);
        assert!(remains.last.1 >= 300 && remains.last_at.0 > 0, "{:?}", remains.last);
        in_its_log.get_or_insert(node.tail(GROUP).await.unwrap().contains(&put("unacknowledged", "value")));
        node.apply_all(GROUP).await.unwrap();
        assert!(node.tail(GROUP).await.unwrap().is_empty());
        node.go_on_alone(identity, survivor, put("extra", "value")).await.unwrap();
        let remains = node.remains(GROUP).await.unwrap().unwrap();
        assert_eq!(remains.voters, [BTreeSet::from([survivor])]);
        assert_eq!(node.remains(GroupId(99)).await.unwrap(), None);
        if is_last {
            node.shutdown().await.unwrap();
        } else {
            node.halt().await;
        }
        drop(node);
        engines.until_free().await;
    }

    let (node, _engines) = open(cluster.dir.path(), survivor, cluster.network.transport(survivor));
    assert!(node.open_group(GroupReplica { replica: replica(survivor), ..identity }).await.is_err());
    let group = node.open_group(identity).await.unwrap();
    node.remains(GROUP).await.unwrap_err();
    node.go_on_alone(identity, survivor, RowBatch::default()).await.unwrap_err();
    let mut leads = tokio::time::timeout(PATIENCE, lead(&group)).await.expect("it leads alone");
    write_some(&mut leads, "after", 10).await;
    let rows = group.scan(&b""[..]..&b"\xff"[..], Direction::Ascending, 1000).unwrap();
    let count = |prefix: &[u8]| rows.iter().filter(|(key, _)| key.starts_with(prefix)).count();
    assert_eq!((count(b"kept"), count(b"extra"), count(b"after")), (300, 1, 10));
    assert_eq!(Some(count(b"unacknowledged") == 1), in_its_log, "what it had is there, acknowledged or not");
    node.shutdown().await.unwrap();
}
