//! A replica that was away for longer than the log goes back is seeded, and so is one that takes the place of another, whatever happens meanwhile.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests, too")]

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use common::{Lead, lead, put};
use everlog_raft::network::kind;
use everlog_raft::{
    Group, GroupReplica, GroupReplicas, GroupSlot, Leadership, Node, NodeInfo, NodeOptions, REPLICA_ID_MIN, StopReason,
};
use everlog_random::Random;
use everlog_storage::log::LogEngine;
use everlog_storage::state::{Direction, Row, StateEngine};
use everlog_storage::twin::{CrashLog, CrashState};
use everlog_storage::{GroupId, LogOptions, NodeId, RocksState, SegmentLog, StateOptions};
use everlog_transport::twin::TwinNetwork;
use everlog_transport::{ConnectionId, Incoming, Receiver};
use parking_lot::RwLock;
use tokio::sync::watch;
use tokio::task::JoinHandle;

const GROUP: GroupId = GroupId(3);
/// A log without what its group has applied, with room for a few entries.
const LOG_BYTES_MAX: u64 = 100_000;
const PATIENCE: Duration = Duration::from_secs(60);
const NODES: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];

/// The replica of a node that has had so many disks before.
fn replica(node: NodeId, disk: u64) -> GroupReplica {
    GroupReplica { group: GROUP, group_epoch: 1, replica: REPLICA_ID_MIN + 100 * disk + u64::from(node.0) }
}

/// What outlives a process.
#[derive(Clone)]
enum Disk {
    Real(Arc<tempfile::TempDir>),
    Twin(Arc<CrashLog>, Arc<CrashState>),
}

impl Disk {
    fn twin() -> Disk {
        Disk::Twin(Arc::new(CrashLog::new(1)), Arc::new(CrashState::new(1)))
    }

    fn engines(&self) -> (Arc<dyn LogEngine>, Arc<dyn StateEngine>) {
        match self {
            Disk::Real(dir) => {
                let open = |path: &Path| {
                    let log = SegmentLog::open(&path.join("log"), LogOptions::default()).unwrap();
                    let state = RocksState::open(&path.join("state"), StateOptions::default()).unwrap();
                    (Arc::new(log), Arc::new(state))
                };
                let (log, state) = open(dir.path());
                (log, state)
            }
            Disk::Twin(log, state) => (log.clone(), state.clone()),
        }
    }

    /// As a process that starts after a crash finds it.
    fn crash(self) -> Disk {
        match self {
            Disk::Twin(log, state) => Disk::Twin(Arc::new(log.crash()), Arc::new(state.crash())),
            real => real,
        }
    }
}

/// Counts the rows that replicas of other nodes have asked this one for.
struct Spy {
    receiver: everlog_raft::RaftReceiver,
    asked: watch::Sender<usize>,
}

impl Receiver for Spy {
    fn receive(&self, incoming: Incoming) {
        if incoming.kind == kind::SEED_ROWS {
            self.asked.send_modify(|asked| *asked += 1);
        }
        self.receiver.receive(incoming);
    }

    fn disconnected(&self, connection: ConnectionId) {
        self.receiver.disconnected(connection);
    }
}

struct Member {
    node: Arc<Node>,
    slot: GroupSlot,
    /// Opens the group again when it was closed, as whoever hosts groups does.
    keeper: JoinHandle<()>,
    engines: (Arc<dyn LogEngine>, Arc<dyn StateEngine>),
    disk: Disk,
}

impl Member {
    fn group(&self) -> Group {
        self.slot.read().clone()
    }

    fn rows(&self) -> Vec<Row> {
        self.group().scan(b"".as_slice()..b"\xff", Direction::Ascending, 100_000).unwrap()
    }
}

async fn keep_open(node: Arc<Node>, slot: GroupSlot, seeded: Arc<AtomicUsize>) {
    loop {
        let mut leadership = slot.read().leadership();
        let stopped = leadership.wait_for(|now| matches!(now, Leadership::Stopped { .. })).await.map(|now| *now);
        if stopped.ok() != Some(Leadership::Stopped { reason: StopReason::Seeding }) {
            return;
        }
        let Ok(group) = node.reopen_group(GROUP).await else { return };
        *slot.write() = group;
        seeded.fetch_add(1, Ordering::Relaxed);
    }
}

struct Cluster {
    network: TwinNetwork,
    members: BTreeMap<NodeId, Member>,
    /// Disks of nodes that are down.
    disks: BTreeMap<NodeId, Disk>,
    /// How many disks each node has lost.
    lost: BTreeMap<NodeId, u64>,
    asked: watch::Sender<usize>,
    /// How often a replica was opened again with rows of another one.
    seeded: Arc<AtomicUsize>,
    bytes_per_second: u64,
    random: Random,
    written: usize,
}

impl Cluster {
    async fn start(disk: impl Fn() -> Disk, bytes_per_second: u64) -> Cluster {
        let mut cluster = Cluster {
            network: TwinNetwork::new(),
            members: BTreeMap::new(),
            disks: NODES.into_iter().map(|node| (node, disk())).collect(),
            lost: NODES.into_iter().map(|node| (node, 0)).collect(),
            asked: watch::Sender::new(0),
            seeded: Arc::default(),
            bytes_per_second,
            random: Random::new(5),
            written: 0,
        };
        for node in NODES {
            cluster.start_node(node).await;
        }
        cluster.members[&NODES[0]].group().found(&cluster.voters()).await.unwrap();
        cluster
    }

    fn voters(&self) -> BTreeMap<u64, NodeId> {
        self.lost.iter().map(|(node, disk)| (replica(*node, *disk).replica, *node)).collect()
    }

    fn replicas(&self) -> GroupReplicas {
        GroupReplicas { voters: self.voters(), learners: BTreeMap::new() }
    }

    async fn start_node(&mut self, id: NodeId) {
        let disk = self.disks.remove(&id).unwrap();
        let engines = disk.engines();
        let options = NodeOptions {
            node: NodeInfo::of(id),
            log_tail_bytes: 0,
            log_tail_bytes_min: 0,
            seed_bytes_per_second: self.bytes_per_second,
            ..NodeOptions::default()
        };
        let transport = self.network.transport(id);
        let node = Arc::new(Node::with_peers(options, engines.0.clone(), engines.1.clone(), Some(transport)));
        let slot: GroupSlot = Arc::new(RwLock::new(node.create_replica(replica(id, self.lost[&id])).await.unwrap()));
        self.network.join(id, Arc::new(Spy { receiver: node.receiver(), asked: self.asked.clone() }));
        let keeper = tokio::spawn(keep_open(node.clone(), slot.clone(), self.seeded.clone()));
        self.members.insert(id, Member { node, slot, keeper, engines, disk });
    }

    async fn kill(&mut self, id: NodeId) {
        self.network.leave(id);
        let Member { node, slot, keeper, engines, disk } = self.members.remove(&id).unwrap();
        node.halt().await;
        keeper.await.unwrap();
        drop((node, slot));
        // A process that is gone holds nothing.
        let is_real = matches!(disk, Disk::Real(_));
        let free = async {
            while is_real && (Arc::strong_count(&engines.0) > 1 || Arc::strong_count(&engines.1) > 1) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, free).await.expect("nobody holds the engines");
        drop(engines);
        self.disks.insert(id, disk.crash());
    }

    async fn leader(&self) -> NodeId {
        let leads = |member: &Member| matches!(*member.group().leadership().borrow(), Leadership::Leader { .. });
        let found = async {
            loop {
                if let Some((id, _)) = self.members.iter().find(|(_, member)| leads(member)) {
                    return *id;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, found).await.expect("somebody leads")
    }

    /// Writes rows of 4 kB that do not become smaller, all of which are acknowledged.
    async fn write(&mut self, count: usize) {
        let leader = self.leader().await;
        let mut leads: Lead = lead(&self.members[&leader].group()).await;
        let mut outcomes = Vec::new();
        for _ in 0..count {
            let value = Bytes::from(self.random.bytes(4_000));
            outcomes.push(leads.propose(put(&format!("k{:06}", self.written), value)).unwrap());
            self.written += 1;
        }
        for outcome in outcomes {
            outcome.await.unwrap().unwrap();
        }
    }

    /// Has everybody make its rows durable, and give up the log behind them.
    async fn flush(&self) {
        for member in self.members.values() {
            member.node.flush().await.unwrap();
        }
    }

    /// Waits until nobody has the log of what is applied any more.
    async fn until_purged(&self) {
        let has_log = |member: &Member| member.engines.0.entries_bytes(GROUP) > LOG_BYTES_MAX;
        let purged = async {
            self.flush().await;
            while self.members.values().any(has_log) {
                tokio::time::sleep(Duration::from_millis(50)).await;
                self.flush().await;
            }
        };
        tokio::time::timeout(PATIENCE, purged).await.expect("all logs are purged");
    }

    /// A cluster, and a replica of it that was away past the log and is there again.
    async fn with_one_behind(disk: impl Fn() -> Disk, bytes_per_second: u64) -> (Cluster, NodeId) {
        let mut cluster = Cluster::start(disk, bytes_per_second).await;
        let away = cluster.leave_behind().await;
        cluster.start_node(away).await;
        (cluster, away)
    }

    /// One of the followers goes away, and the others write and purge: the leader, too, once it has heard that the follower is not there.
    async fn leave_behind(&mut self) -> NodeId {
        self.write(20).await;
        let leader = self.leader().await;
        let away = NODES.into_iter().find(|node| *node != leader).unwrap();
        self.kill(away).await;
        self.write(1_500).await;
        self.until_purged().await;
        self.write(10).await;
        away
    }

    /// Has whoever leads give the group its replicas, in so many steps at most. Whether it has them.
    async fn bring_to_voters(&self, steps_max: usize) -> bool {
        for _ in 0..steps_max {
            let leader = self.members[&self.leader().await].group();
            // One that has just lost the lead fails, and another one goes on.
            if leader.bring_to(&self.replicas()).await.unwrap_or(false) {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        false
    }

    async fn transfer(&self, from: NodeId, to: NodeId) {
        self.members[&from].group().transfer(to).await;
        tokio::time::timeout(PATIENCE, common::leads(&self.members[&to].group())).await.expect("it leads");
    }

    async fn term(&self) -> u64 {
        common::leads(&self.members[&self.leader().await].group()).await
    }

    async fn until_asked(&self, times: usize) {
        let mut asked = self.asked.subscribe();
        tokio::time::timeout(PATIENCE, asked.wait_for(|asked| *asked >= times)).await.expect("asked").unwrap();
    }

    /// Waits until all have all rows that were acknowledged, and the same ones.
    async fn until_equal(&self) {
        let equal = async {
            loop {
                let all: Vec<_> = self.members.values().map(Member::rows).collect();
                if all.iter().all(|rows| rows.len() == self.written && *rows == all[0]) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let counts = || self.members.values().map(|member| member.rows().len()).collect::<Vec<_>>();
        if tokio::time::timeout(PATIENCE, equal).await.is_err() {
            panic!("{} rows were written, the replicas have {:?}", self.written, counts());
        }
    }

    /// Has a node lead, alone with one of the others, and write.
    async fn has_it_lead(&mut self, node: NodeId) {
        let leader = self.leader().await;
        if leader != node {
            self.transfer(leader, node).await;
        }
        let other = NODES.into_iter().find(|other| *other != node).unwrap();
        self.kill(other).await;
        self.write(10).await;
        self.until_equal().await;
        self.start_node(other).await;
        self.until_equal().await;
    }

    /// A replica is as good as any once all have the same rows.
    async fn ends_well(mut self, node: NodeId) {
        self.until_equal().await;
        self.has_it_lead(node).await;
        self.shutdown().await;
    }

    async fn shutdown(self) {
        for (id, member) in self.members {
            self.network.leave(id);
            member.node.shutdown().await.unwrap();
            member.keeper.await.unwrap();
        }
    }
}

const FAST: u64 = 1 << 30;
/// Slow enough for something to happen meanwhile: a seed of some 6 MB.
const SLOW: u64 = 3 << 20;

async fn is_seeded_and_leads(disk: impl Fn() -> Disk) {
    let (mut cluster, away) = Cluster::with_one_behind(disk, FAST).await;
    cluster.until_equal().await;
    assert!(*cluster.asked.borrow() > 4 && cluster.seeded.load(Ordering::Relaxed) > 0, "it was seeded");
    // Its disk is that of a good replica, whatever it has flushed since.
    cluster.write(5).await;
    cluster.kill(away).await;
    cluster.start_node(away).await;
    cluster.ends_well(away).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_was_away_past_the_log_is_seeded_and_leads() {
    is_seeded_and_leads(Disk::twin).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_is_seeded_on_production_engines() {
    is_seeded_and_leads(|| Disk::Real(Arc::new(tempfile::tempdir().unwrap()))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_go_on_while_a_replica_is_seeded_and_the_log_is_kept_for_it() {
    // On a machine that is busy with other things the lead may change in the middle, and what was kept with it.
    for _ in 0..5 {
        let (mut cluster, _) = Cluster::with_one_behind(Disk::twin, SLOW).await;
        let term = cluster.term().await;
        cluster.until_asked(2).await;
        cluster.write(100).await;
        cluster.flush().await;
        cluster.until_equal().await;
        let seeded = cluster.seeded.load(Ordering::Relaxed);
        let is_led_as_before = cluster.term().await == term;
        cluster.shutdown().await;
        if is_led_as_before {
            assert_eq!(seeded, 1, "it was seeded once, and had the rest from the log");
            return;
        }
    }
    panic!("the lead changes all the time");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_dies_in_the_middle_is_replaced_by_the_next_leader() {
    let (mut cluster, away) = Cluster::with_one_behind(Disk::twin, SLOW).await;
    cluster.until_asked(3).await;
    let source = cluster.leader().await;
    cluster.kill(source).await;
    // The one that is away can vote all the time: its rows are gathered beside a core that runs.
    cluster.write(10).await;
    cluster.until_equal().await;
    cluster.start_node(source).await;
    cluster.ends_well(away).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_hands_over_in_the_middle_leaves_a_good_replica() {
    let (mut cluster, away) = Cluster::with_one_behind(Disk::twin, SLOW).await;
    cluster.until_asked(3).await;
    let old = cluster.leader().await;
    let next = NODES.into_iter().find(|node| *node != old && *node != away).unwrap();
    cluster.transfer(old, next).await;
    cluster.write(10).await;
    cluster.ends_well(away).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_crashes_while_it_is_seeded_is_seeded_again() {
    let (mut cluster, away) = Cluster::with_one_behind(Disk::twin, SLOW).await;
    for times in [1, 4] {
        let before = *cluster.asked.borrow();
        cluster.until_asked(before + times).await;
        cluster.kill(away).await;
        cluster.start_node(away).await;
    }
    cluster.ends_well(away).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_leaves_a_replica_what_it_was_until_there_is_room() {
    let mut cluster = Cluster::start(Disk::twin, FAST).await;
    let away = cluster.leave_behind().await;
    let Some(Disk::Twin(_, state)) = cluster.disks.get(&away).cloned() else { unreachable!("a twin") };
    state.refuse_staged(true);
    cluster.start_node(away).await;
    cluster.until_asked(3).await;
    // The others go on, and it is what it was.
    cluster.write(10).await;
    assert!(cluster.members[&away].rows().len() <= 20);
    state.refuse_staged(false);
    cluster.ends_well(away).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_disk_takes_the_place_of_a_lost_one_whoever_leads_meanwhile() {
    let mut cluster = Cluster::start(Disk::twin, SLOW).await;
    let away = cluster.leave_behind().await;
    // It comes back with nothing: not even what it has voted for.
    cluster.disks.insert(away, Disk::twin());
    cluster.lost.insert(away, 1);
    assert!(!cluster.bring_to_voters(5).await, "a replica that is not there votes for nothing");
    // And that disk is lost before it was of any use.
    cluster.lost.insert(away, 2);
    cluster.start_node(away).await;
    cluster.bring_to_voters(5).await;
    cluster.until_asked(3).await;
    assert!(!cluster.bring_to_voters(1).await, "it has half of the rows");
    // Without a quorum, and with the same leader or another one then.
    let leader = cluster.leader().await;
    cluster.kill(leader).await;
    cluster.start_node(leader).await;
    assert!(cluster.bring_to_voters(2_000).await, "the group has its replicas");
    let group = cluster.members[&cluster.leader().await].group();
    assert_eq!(group.status().replicas.into_iter().collect::<BTreeMap<_, _>>(), NODES.map(|node| (node, true)).into());
    assert!(group.bring_to(&cluster.replicas()).await.unwrap(), "and keeps them");
    cluster.write(10).await;
    cluster.ends_well(away).await;
}
