//! Replicas of a group move from node to node while it is written to, and nodes crash and lead in turn.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests, too")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use common::{lead, put};
use everlog_raft::{
    Group, GroupReplica, GroupReplicas, GroupSlot, Leadership, Node, NodeInfo, NodeOptions, REPLICA_ID_MIN, StopReason,
};
use everlog_random::Random;
use everlog_storage::state::{Direction, Row, StateEngine};
use everlog_storage::twin::{CrashLog, CrashState};
use everlog_storage::{GroupId, NodeId};
use everlog_transport::twin::TwinNetwork;
use parking_lot::RwLock;
use tokio::task::JoinHandle;

const GROUP: GroupId = GroupId(3);
const NODES: u32 = 5;
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// A replica on a node, by how many the group has had.
fn replica(node: NodeId, generation: u64) -> u64 {
    REPLICA_ID_MIN + (generation << 16) + u64::from(node.0)
}

fn identity(replica: u64) -> GroupReplica {
    GroupReplica { group: GROUP, group_epoch: 1, replica }
}

struct Process {
    node: Arc<Node>,
    disk: (Arc<CrashLog>, Arc<CrashState>),
    /// The replica that is here, and whoever opens it again.
    here: Option<(u64, GroupSlot, JoinHandle<()>)>,
}

impl Process {
    fn group(&self) -> Option<Group> {
        self.here.as_ref().map(|(_, slot, _)| slot.read().clone())
    }

    fn rows(&self) -> Vec<Row> {
        self.group()
            .map_or(Vec::new(), |group| group.scan(b"".as_slice()..b"\xff", Direction::Ascending, 100_000).unwrap())
    }

    async fn open(&mut self, replica: u64) {
        let group = self.node.create_replica(identity(replica)).await.unwrap();
        let slot: GroupSlot = Arc::new(RwLock::new(group));
        let (node, kept) = (self.node.clone(), slot.clone());
        let keeper = tokio::spawn(async move {
            loop {
                let mut leadership = kept.read().leadership();
                let stopped =
                    leadership.wait_for(|now| matches!(now, Leadership::Stopped { .. })).await.map(|now| *now);
                if stopped.ok() != Some(Leadership::Stopped { reason: StopReason::Seeding }) {
                    return;
                }
                let Ok(group) = node.reopen_group(GROUP).await else { return };
                *kept.write() = group;
            }
        });
        self.here = Some((replica, slot, keeper));
    }
}

struct Cluster {
    network: TwinNetwork,
    processes: BTreeMap<NodeId, Process>,
    wanted: GroupReplicas,
    generation: u64,
    written: usize,
}

impl Cluster {
    async fn start(voters: &[u32]) -> Cluster {
        let cluster = Cluster::unfounded(voters).await;
        cluster.found_by(NodeId(voters[0])).await;
        cluster
    }

    /// Nodes with replicas of a group that nobody has founded.
    async fn unfounded(voters: &[u32]) -> Cluster {
        let mut cluster = Cluster {
            network: TwinNetwork::new(),
            processes: BTreeMap::new(),
            wanted: GroupReplicas::default(),
            generation: 0,
            written: 0,
        };
        cluster.wanted.voters = voters.iter().map(|node| (replica(NodeId(*node), 0), NodeId(*node))).collect();
        for node in (1..=NODES).map(NodeId) {
            let disk = (Arc::new(CrashLog::new(1)), Arc::new(CrashState::new(1)));
            cluster.boot(node, disk, voters.contains(&node.0).then(|| replica(node, 0))).await;
        }
        cluster
    }

    async fn found_by(&self, node: NodeId) {
        self.processes[&node].group().unwrap().found(&self.wanted.voters).await.unwrap();
    }

    async fn boot(&mut self, id: NodeId, disk: (Arc<CrashLog>, Arc<CrashState>), replica: Option<u64>) {
        let options =
            NodeOptions { node: NodeInfo::of(id), log_tail_bytes: 0, log_tail_bytes_min: 0, ..NodeOptions::default() };
        let transport = self.network.transport(id);
        let node = Arc::new(Node::with_peers(options, disk.0.clone(), disk.1.clone(), Some(transport)));
        let mut process = Process { node, disk, here: None };
        if let Some(replica) = replica {
            process.open(replica).await;
        }
        self.network.join(id, Arc::new(process.node.receiver()));
        self.processes.insert(id, process);
    }

    /// A process dies, and another one finds on its disk what was synced.
    async fn crash(&mut self, id: NodeId) {
        self.network.leave(id);
        let Process { node, disk, here } = self.processes.remove(&id).unwrap();
        node.halt().await;
        let replica = match here {
            Some((replica, _, keeper)) => {
                keeper.await.unwrap();
                Some(replica)
            }
            None => None,
        };
        drop(node);
        self.boot(id, (Arc::new(disk.0.crash()), Arc::new(disk.1.crash())), replica).await;
    }

    async fn leader(&self) -> (NodeId, Group) {
        let leads = |group: &Group| matches!(*group.leadership().borrow(), Leadership::Leader { .. });
        let found = async {
            loop {
                let groups = self.processes.iter().filter_map(|(node, process)| Some((*node, process.group()?)));
                if let Some(found) = groups.into_iter().find(|(_, group)| leads(group)) {
                    return found;
                }
                tokio::time::sleep(LOOK_INTERVAL).await;
            }
        };
        tokio::time::timeout(PATIENCE, found).await.expect("somebody leads")
    }

    /// Writes rows one after the other, each until it is acknowledged.
    async fn write(&mut self, count: usize) {
        for _ in 0..count {
            let key = format!("k{:06}", self.written);
            let write = async {
                loop {
                    let (_, group) = self.leader().await;
                    let opened = tokio::time::timeout(Duration::from_secs(1), lead(&group)).await;
                    let Ok(mut lead) = opened else { continue };
                    let Ok(outcome) = lead.propose(put(&key, "x")) else { continue };
                    let outcome = tokio::time::timeout(Duration::from_secs(1), outcome).await;
                    if matches!(outcome, Ok(Ok(Ok(_)))) {
                        return;
                    }
                }
            };
            tokio::time::timeout(PATIENCE, write).await.expect("it can be written to");
            self.written += 1;
        }
    }

    /// From now on the group is to have these replicas; those that stay keep their ids.
    async fn want(&mut self, voters: &BTreeSet<u32>, learners: &BTreeSet<u32>) {
        let before: BTreeMap<NodeId, u64> =
            self.wanted.voters.iter().chain(&self.wanted.learners).map(|(replica, node)| (*node, *replica)).collect();
        let mut wanted = GroupReplicas::default();
        for (node, is_voter) in
            voters.iter().map(|node| (*node, true)).chain(learners.iter().map(|node| (*node, false)))
        {
            let node = NodeId(node);
            let id = match before.get(&node) {
                Some(replica) => *replica,
                None => {
                    self.generation += 1;
                    let id = replica(node, self.generation);
                    self.processes.get_mut(&node).unwrap().open(id).await;
                    id
                }
            };
            if is_voter { &mut wanted.voters } else { &mut wanted.learners }.insert(id, node);
        }
        self.wanted = wanted;
    }

    async fn step(&self) -> bool {
        let (_, leader) = self.leader().await;
        // One that has just lost the lead fails, and another one goes on.
        let step = tokio::time::timeout(Duration::from_secs(2), leader.bring_to(&self.wanted)).await;
        matches!(step, Ok(Ok(true)))
    }

    /// Has the group what it should have, and removes what is over.
    async fn finish(&mut self) {
        let settled = async {
            while !self.step().await {
                tokio::time::sleep(LOOK_INTERVAL).await;
            }
        };
        tokio::time::timeout(PATIENCE, settled).await.expect("the group has its replicas");
        for process in self.processes.values_mut() {
            let is_over = |id: &u64| !self.wanted.voters.contains_key(id) && !self.wanted.learners.contains_key(id);
            if process.here.as_ref().is_some_and(|(id, ..)| is_over(id)) {
                let (_, _, keeper) = process.here.take().unwrap();
                process.node.discard_group(GROUP).await.unwrap();
                keeper.await.unwrap();
                assert_eq!(process.node.replica_here(GROUP).await.unwrap(), None);
                assert_eq!(process.disk.1.applied(GROUP).unwrap(), None);
                process.node.discard_group(GROUP).await.expect("once more changes nothing");
            }
        }
    }

    /// Waits until all replicas have all rows that were acknowledged.
    async fn until_equal(&self) {
        let has_all = |process: &Process| process.here.is_none() || process.rows().len() == self.written;
        let equal = async {
            while !self.processes.values().all(has_all) {
                tokio::time::sleep(LOOK_INTERVAL).await;
            }
        };
        let counts = || self.processes.values().map(|process| process.rows().len()).collect::<Vec<_>>();
        if tokio::time::timeout(PATIENCE, equal).await.is_err() {
            panic!("{} rows were written, the replicas have {:?}", self.written, counts());
        }
    }

    async fn shutdown(self) {
        for (id, process) in self.processes {
            self.network.leave(id);
            process.node.shutdown().await.unwrap();
        }
    }
}

fn nodes(all: &[u32]) -> BTreeSet<u32> {
    all.iter().copied().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_of_one_moves_to_another_node_and_grows() {
    let mut cluster = Cluster::start(&[1]).await;
    cluster.write(20).await;
    cluster.want(&nodes(&[2]), &nodes(&[])).await;
    cluster.finish().await;
    assert_eq!(cluster.leader().await.0, NodeId(2));
    cluster.write(20).await;
    cluster.want(&nodes(&[2, 3, 4]), &nodes(&[5])).await;
    cluster.finish().await;
    cluster.write(20).await;
    cluster.until_equal().await;
    let (_, leader) = cluster.leader().await;
    let voters = leader.status().replicas.into_iter().filter(|(_, is_voter)| *is_voter).count();
    assert_eq!((voters, leader.status().replicas.len()), (3, 4), "one of them only learns");
    // A voter and the one that learns change places; nothing is copied.
    cluster.want(&nodes(&[2, 3, 5]), &nodes(&[4])).await;
    cluster.finish().await;
    cluster.write(5).await;
    cluster.until_equal().await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_to_leave_hands_the_lead_over_first() {
    let mut cluster = Cluster::start(&[1, 2, 3]).await;
    cluster.write(10).await;
    let (leads, _) = cluster.leader().await;
    let others: BTreeSet<_> = (1..=4).filter(|node| *node != leads.0).collect();
    cluster.want(&others, &nodes(&[])).await;
    cluster.finish().await;
    assert!(others.contains(&cluster.leader().await.0.0));
    cluster.write(10).await;
    cluster.until_equal().await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_voter_is_not_given_up_for_one_that_is_not_there() {
    let mut cluster = Cluster::start(&[1, 2, 3]).await;
    cluster.write(10).await;
    cluster.network.leave(NodeId(4));
    cluster.want(&nodes(&[1, 2, 4]), &nodes(&[])).await;
    for _ in 0..50 {
        assert!(!cluster.step().await);
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
    let (_, leader) = cluster.leader().await;
    let voters: BTreeSet<_> =
        leader.status().replicas.into_iter().filter(|(_, is_voter)| *is_voter).map(|(node, _)| node.0).collect();
    assert_eq!(voters, nodes(&[1, 2, 3]));
    let receiver = Arc::new(cluster.processes[&NodeId(4)].node.receiver());
    cluster.network.join(NodeId(4), receiver);
    cluster.finish().await;
    cluster.until_equal().await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn founders_that_crash_or_come_late_found_one_group() {
    for late in (1..=3).map(NodeId) {
        let mut cluster = Cluster::unfounded(&[1, 2, 3]).await;
        cluster.network.leave(late);
        for node in (1..=3).map(NodeId).filter(|node| *node != late) {
            cluster.found_by(node).await;
            cluster.crash(node).await;
            cluster.found_by(node).await;
        }
        cluster.write(10).await;
        // It knows of nothing that there is, and founds the group once more.
        cluster.found_by(late).await;
        cluster.crash(late).await;
        cluster.write(10).await;
        cluster.until_equal().await;
        // With it and one of the others there is all that was acknowledged.
        let (leader, _) = cluster.leader().await;
        if leader != late {
            cluster.network.leave(leader);
            let Process { node, .. } = &cluster.processes[&leader];
            node.halt().await;
            cluster.processes.remove(&leader);
            cluster.write(5).await;
            cluster.until_equal().await;
        }
        cluster.shutdown().await;
    }
}

/// How many moves there are: `EVERLOG_MOVES` for more.
const MOVES: usize = 25;

#[tokio::test(flavor = "multi_thread")]
async fn random_moves_with_crashes_lose_nothing() {
    let moves = std::env::var("EVERLOG_MOVES").map_or(MOVES, |moves| moves.parse().unwrap());
    let mut random = Random::new(3);
    let mut cluster = Cluster::start(&[1, 2, 3]).await;
    for _ in 0..moves {
        let mut all: Vec<u32> = (1..=NODES).collect();
        while all.len() > 3 {
            all.swap_remove(random.below(all.len()));
        }
        cluster.write(3).await;
        cluster.want(&nodes(&all), &nodes(&[])).await;
        for _ in 0..random.below(6) {
            match random.below(4) {
                0 => cluster.crash(NodeId(1 + random.below(NODES as usize) as u32)).await,
                1 => {
                    let (_, leader) = cluster.leader().await;
                    leader.transfer(NodeId(*random.of(&all))).await;
                }
                2 => cluster.write(2).await,
                _ => drop(cluster.step().await),
            }
        }
        cluster.finish().await;
    }
    cluster.write(3).await;
    cluster.until_equal().await;
    assert!(cluster.generation > 5, "replicas have moved");
    cluster.shutdown().await;
}
