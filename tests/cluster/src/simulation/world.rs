//! The cluster, who uses it, and what fails.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use everlog_cluster::Picture;
use everlog_meta::Membership;
use everlog_raft::{Group, Leadership};
use everlog_random::Random;
use everlog_storage::directory::{Founding, FoundingMember};
use everlog_storage::{GroupId, NodeId};
use everlog_transport::twin::TwinNetwork;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::body::Body;
use tower::Service;
use tower::util::BoxCloneSyncService;

use super::disk::{self, Disk};
use super::node::{ELECTION_TIMEOUT, Hall, META_GROUP, PARTITIONS, Process, Start, address};
use super::operator::{Operator, Order};
use super::watch::{Seen, rows_of};
use super::{Sabotage, system};
use crate::checker::Outcome;
use crate::client::{Broken, Client};
use crate::load::Registers;
use crate::record::Recorder;
use crate::storm::verdicts;
use crate::worker::Workers;

/// How long a cluster may take to be founded, and to come to rest after the last fault.
const FOUNDED_TIME_MAX: Duration = Duration::from_secs(30);
const REST_TIME_MAX: Duration = Duration::from_secs(120);

/// How long nodes and links fail.
const STORY: Duration = Duration::from_secs(8);

/// How often it is looked who leads, and how often at all rows, in such looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(25);
const ROWS_LOOKS: u64 = 16;

/// Workflow ids that are used at a time.
const IDS: usize = 2;
/// Workers of each kind at each node.
const WORKERS: usize = 1;
const TASK_QUEUE: &str = "simulation";

/// What a seed came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Story {
    /// Operations of callers that were answered, and those that were not.
    pub(super) acknowledged: u64,
    pub(super) unknown: u64,
    pub(super) faults: u64,
    /// Terms of all groups that had a leader.
    pub(super) terms: u64,
    pub(super) milliseconds: u64,
    /// What tells it from all others: when which task was polled, and what callers were told.
    trace: u64,
}

/// One story in so many is about votes.
const VOTES_ONE_IN: u64 = 8;

/// Kinds of faults.
const KINDS: usize = 13;

/// Machines that the cluster is founded without, and that may join.
const SPARES: usize = 2;

/// A machine that a node runs on.
pub(super) struct Machine {
    pub(super) node: NodeId,
    disk: Arc<Mutex<Disk>>,
    pub(super) process: Mutex<Option<Process>>,
    /// Whether it is one of the cluster's, or waits to be.
    is_used: AtomicBool,
}

pub(super) struct World {
    pub(super) machines: Vec<Machine>,
    founders: usize,
    network: TwinNetwork,
    founding: Founding,
    hall: Arc<Hall>,
    operator: Operator,
    sabotage: Option<Sabotage>,
    random: Mutex<Random>,
    seen: Mutex<Seen>,
    faults: Mutex<BTreeMap<&'static str, u64>>,
    /// Processes so far.
    started: AtomicU64,
    /// Whether the story is about voters that fail as they vote, and nothing else.
    is_about_votes: bool,
}

impl World {
    /// Tells the story of a seed; an error is what went wrong.
    pub(super) async fn tell(seed: u64, sabotage: Option<Sabotage>) -> Result<Story, String> {
        let mut random = Random::new(seed);
        let nodes = if random.one_in(4) { 5 } else { 3 };
        let is_about_votes = seed % VOTES_ONE_IN == VOTES_ONE_IN / 2;
        let world = Arc::new(World { is_about_votes, ..World::new(nodes, random, sabotage) });
        for machine in &world.machines[..nodes] {
            world.start(machine);
        }
        let looking = tokio::spawn(Arc::clone(&world).look());
        let operating = tokio::spawn(Operator::operate(Arc::clone(&world)));
        world.until("the cluster is not founded", FOUNDED_TIME_MAX, || world.serves()).await?;
        let (client, recorder) = (world.client(), Arc::new(Recorder::new()));
        let all: Vec<_> = (0..nodes).collect();
        let workers = Workers::start(&client, &recorder, TASK_QUEUE, &all, WORKERS);
        let registers = Registers { client, recorder: Arc::clone(&recorder), task_queue: TASK_QUEUE.to_owned() };
        let (stop, stopped) = watch::channel(false);
        let callers = registers.start(IDS, seed, &stopped);
        world.fail().await;
        world.heal();
        stop.send_replace(true);
        let rest = async {
            callers.join_all().await;
            registers.finish().await
        };
        match tokio::time::timeout(REST_TIME_MAX, rest).await {
            Ok(finished) => finished.map_err(|failure| world.with_wrong(&failure.to_string()))?,
            Err(_) => return Err(world.with_wrong("callers do not come to an end")),
        }
        world.until("not all replicas become equal", REST_TIME_MAX, || world.is_settled()).await?;
        let done = std::mem::take(&mut *workers.done.lock());
        drop(workers);
        looking.abort();
        operating.abort();
        let operations = recorder.operations();
        let checked = verdicts(&operations);
        let wrong = [std::mem::take(&mut world.seen.lock().wrong), checked.wrong, done.wrong].concat();
        if !wrong.is_empty() {
            return Err(wrong.join("\n"));
        }
        for (_, operations) in &operations {
            for operation in operations {
                system::note(operation.returned_at);
                system::note(match operation.outcome {
                    Outcome::Unknown => 0,
                    Outcome::Refused(_) => 1,
                    _ => 2,
                });
            }
        }
        for (machine, group) in world.replicas() {
            system::note(rows_of(&*machine.disk.lock().state, group).map_or(0, |(_, sum)| sum));
        }
        let unknown = operations.iter().flat_map(|(_, all)| all).filter(|one| one.outcome == Outcome::Unknown).count();
        let story = Story {
            acknowledged: checked.acknowledged as u64,
            unknown: unknown as u64,
            faults: world.faults.lock().values().sum(),
            terms: world.seen.lock().terms(),
            milliseconds: system::now() / 1_000_000,
            trace: system::trace(),
        };
        for machine in &world.machines {
            world.kill(machine);
        }
        Ok(story)
    }

    fn new(nodes: usize, mut random: Random, sabotage: Option<Sabotage>) -> World {
        let network = TwinNetwork::new();
        // Links are as near as a rack, a city or a continent away, and now and then a message takes much longer.
        let usual_us = *random.of(&[300, 2_000, 20_000]);
        let late_one_in = *random.of(&[20, 200, 2_000]);
        let delays = Mutex::new(Random::new(random.any()));
        network.delay(move |_, _| {
            let mut random = delays.lock();
            let late = if random.one_in(late_one_in) { random.below_u64(200_000) } else { 0 };
            Duration::from_micros(random.below_u64(usual_us) + late)
        });
        let machines = (1..=nodes + SPARES).map(|node| {
            // As far off as clocks of machines are, and a little more.
            system::set_drift(node, random.below(401) as i64 - 200);
            system::step_wall_clock(node, random.below(501) as i64 - 250);
            Machine {
                node: NodeId(node as u32),
                disk: Arc::new(Mutex::new(Disk::new())),
                process: Mutex::new(None),
                is_used: AtomicBool::new(node <= nodes),
            }
        });
        let machines: Vec<_> = machines.collect();
        let member = |machine: &Machine| FoundingMember {
            directory_id: machine.disk.lock().directory_id,
            address: address(machine.node),
            disk: 0,
        };
        let members: Vec<_> = machines[..nodes].iter().map(member).collect();
        let founding = Founding {
            cluster_id: uuid::Uuid::from_u64_pair(random.any(), random.any()),
            name: "simulation".to_owned(),
            proposer: members[0].directory_id,
            attempt: 1,
            partitions: PARTITIONS,
            election_timeout_ms: ELECTION_TIMEOUT.as_millis() as u32,
            members,
            joined: None,
            former: Vec::new(),
        };
        for machine in &machines[..nodes] {
            machine.disk.lock().founding = Some(founding.clone());
        }
        let hall = Arc::new(Hall::default());
        hall.found(founding.clone());
        World {
            machines,
            founders: nodes,
            network,
            founding,
            hall,
            operator: Operator::default(),
            sabotage,
            random: Mutex::new(random),
            seen: Mutex::default(),
            faults: Mutex::default(),
            started: AtomicU64::default(),
            is_about_votes: false,
        }
    }

    fn start(&self, machine: &Machine) {
        let mut process = machine.process.lock();
        if process.is_none() && machine.is_used.load(Ordering::Relaxed) {
            *process = Some(Process::start(Start {
                number: self.started.fetch_add(1, Ordering::Relaxed),
                node: machine.node,
                network: self.network.clone(),
                disk: Arc::clone(&machine.disk),
                hall: Arc::clone(&self.hall),
                sabotage: self.sabotage,
            }));
        }
    }

    fn kill(&self, machine: &Machine) -> bool {
        let Some(process) = machine.process.lock().take() else { return false };
        if process.is_removed.load(Ordering::Relaxed) {
            machine.is_used.store(false, Ordering::Relaxed);
        }
        self.network.leave(machine.node);
        self.hall.leave(machine.node);
        machine.disk.lock().crash();
        process.kill(machine.node);
        true
    }

    pub(super) fn operator(&self) -> &Operator {
        &self.operator
    }

    fn client(self: &Arc<World>) -> Arc<Client> {
        let way = |machine| BoxCloneSyncService::new(Way { world: Arc::clone(self), machine });
        Arc::new(Client::over((0..self.machines.len()).map(way).collect(), "default", &Arc::default()))
    }

    fn serves(&self) -> bool {
        self.machines[..self.founders]
            .iter()
            .all(|machine| machine.process.lock().as_ref().is_some_and(|one| one.entry.lock().is_some()))
    }

    /// The cluster as it should be: what the node says that has seen most of the metadata.
    fn picture(&self) -> Picture {
        let seen = self.machines.iter().filter_map(|machine| {
            let process = machine.process.lock();
            let namespaces = process.as_ref()?.namespaces.lock().clone()?;
            Some((namespaces.seen(), namespaces.topology()))
        });
        let latest = seen.max_by_key(|(position, _)| *position).map(|(_, topology)| topology).unwrap_or_default();
        Picture::new(&self.founding, &latest)
    }

    /// The replicas that there should be, by the machines that have them.
    fn replicas(&self) -> Vec<(&Machine, GroupId)> {
        let picture = self.picture();
        let placed =
            picture.groups.iter().flat_map(|(group, row)| row.replicas.iter().map(|placed| (placed.node, *group)));
        placed.map(|(node, group)| (&self.machines[node.0 as usize - 1], group)).collect()
    }

    /// Whether nothing is on its way from one node to another, and no disk is being replaced.
    fn is_at_rest(&self) -> bool {
        let picture = self.picture();
        let has_disk = |machine: &Machine| {
            let row = picture.nodes.get(&machine.node).filter(|row| row.membership != Membership::Removed);
            row.is_none_or(|row| row.directory_id == machine.disk.lock().directory_id)
        };
        let stays = picture.nodes.values().all(|row| row.membership != Membership::Leaving);
        self.operator.is_idle()
            && stays
            && picture.groups.values().all(|row| row.is_settled)
            && self.machines.iter().all(has_disk)
            && picture.groups.keys().all(|group| self.has_replicas(*group, &picture))
    }

    /// Whether whoever leads a group has it as it should be.
    fn has_replicas(&self, group: GroupId, picture: &Picture) -> bool {
        let wanted = picture.replicas_of(group);
        let led = self.groups().into_iter().find(|(_, known)| known.id() == group && leads(known));
        led.is_some_and(|(_, group)| group.has_replicas(&wanted))
    }

    /// The groups that are open, by the nodes that have them open.
    fn groups(&self) -> Vec<(NodeId, Group)> {
        let open = self.machines.iter().filter_map(|machine| {
            let groups = machine.process.lock().as_ref()?.raft.groups();
            Some(groups.into_iter().map(|group| (machine.node, group)))
        });
        open.flatten().collect()
    }

    /// Whether all groups have the replicas that they should have, and these the same rows.
    fn is_settled(&self) -> bool {
        let mut rows: BTreeMap<GroupId, Vec<_>> = BTreeMap::new();
        for (machine, group) in self.replicas() {
            rows.entry(group).or_default().push(rows_of(&*machine.disk.lock().state, group));
        }
        let is_equal = |all: &Vec<Option<_>>| all[0].is_some() && all.iter().all(|other| *other == all[0]);
        self.is_at_rest() && rows.values().all(is_equal)
    }

    async fn until(&self, otherwise: &str, time_max: Duration, holds: impl Fn() -> bool) -> Result<(), String> {
        let until = Instant::now() + time_max;
        while !holds() {
            if Instant::now() > until {
                return Err(self.with_wrong(otherwise));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// What went wrong, with what was seen before.
    fn with_wrong(&self, what: &str) -> String {
        let mut all = std::mem::take(&mut self.seen.lock().wrong);
        all.push(what.to_owned());
        all.push(self.describe());
        all.join("\n")
    }

    /// For people: where the groups are.
    fn describe(&self) -> String {
        let picture = self.picture();
        let mut lines = vec![format!("faults: {:?}; wanted: {picture:?}; {:?}", self.faults.lock(), self.operator)];
        for machine in &self.machines {
            let process = machine.process.lock();
            let Some(process) = process.as_ref() else {
                lines.push(format!("node {} does not run", machine.node));
                continue;
            };
            if process.entry.lock().is_none() {
                lines.push(format!("node {} does not serve", machine.node));
            }
            for group in process.raft.groups() {
                let (leadership, status) = (*group.leadership().borrow(), group.status());
                lines.push(format!(
                    "node {}: group {}: {leadership:?}, leader {:?}, {status:?}, applied {}, purged {:?}",
                    machine.node,
                    group.id(),
                    group.leader(),
                    group.applied_index(),
                    group.purged_index()
                ));
            }
        }
        lines.join("\n")
    }

    async fn look(self: Arc<World>) {
        for number in 0.. {
            tokio::time::sleep(LOOK_INTERVAL).await;
            let mut seen = self.seen.lock();
            let processes: Vec<_> =
                self.machines.iter().map(|machine| (machine.node, machine.process.lock())).collect();
            let alive = processes.iter().filter_map(|(node, process)| Some((*node, process.as_ref()?)));
            seen.look_at_leaders(alive);
            drop(processes);
            if number % ROWS_LOOKS == 0 {
                for machine in &self.machines {
                    for group in (META_GROUP.0..=PARTITIONS).map(GroupId) {
                        seen.look_at_rows(machine.node, &*machine.disk.lock().state, group);
                    }
                }
            }
        }
    }

    /// Has things fail, for a while.
    async fn fail(self: &Arc<World>) {
        let until = Instant::now() + STORY;
        let mut going_on = JoinSet::new();
        // Some stories have few kinds of faults, so that these are found in combinations that are rare otherwise.
        let kinds: Vec<usize> = (0..KINDS).filter(|_| !self.random.lock().one_in(3)).collect();
        while Instant::now() < until {
            let (pause, kind) = {
                let mut random = self.random.lock();
                let kind = if kinds.is_empty() { 0 } else { *random.of(&kinds) };
                (Duration::from_millis(50 + random.below_u64(700)), kind)
            };
            tokio::time::sleep(pause).await;
            if self.is_about_votes {
                self.fail_as_it_votes().await;
                continue;
            }
            let world = Arc::clone(self);
            going_on.spawn(async move { world.fault(kind).await });
        }
        // What they undo is undone by whoever heals.
        going_on.shutdown().await;
    }

    async fn fault(&self, kind: usize) {
        let (machine, other, time) = {
            let mut random = self.random.lock();
            let machine = random.below(self.machines.len());
            let other = (machine + 1 + random.below(self.machines.len() - 1)) % self.machines.len();
            (&self.machines[machine], &self.machines[other], Duration::from_millis(100 + random.below_u64(2_500)))
        };
        let (node, place) = (machine.node, machine.node.0 as usize);
        tracing::info!(kind, %node, other = %other.node, ?time, "a fault");
        let name = match kind {
            0 | 1 => {
                if self.kill(machine) {
                    tokio::time::sleep(time).await;
                    self.start(machine);
                }
                "killed"
            }
            2 => {
                // All at once, as when the power goes.
                for machine in &self.machines {
                    self.kill(machine);
                }
                tokio::time::sleep(time / 4).await;
                self.machines.iter().for_each(|machine| self.start(machine));
                "all killed"
            }
            3 => {
                self.isolate(node, true);
                tokio::time::sleep(time).await;
                self.isolate(node, false);
                "isolated"
            }
            4 => {
                self.network.cut(node, other.node);
                tokio::time::sleep(time).await;
                self.network.join_ends(node, other.node);
                "cut one way"
            }
            5 => {
                for _ in 0..4 {
                    self.isolate(node, true);
                    tokio::time::sleep(time / 8).await;
                    self.isolate(node, false);
                    tokio::time::sleep(time / 8).await;
                }
                "flapping"
            }
            6 => {
                let lost_one_in = *self.random.lock().of(&[10, 50]);
                let losses = Mutex::new(Random::new(self.random.lock().any()));
                self.network.lose(move |_, _| losses.lock().one_in(lost_one_in));
                tokio::time::sleep(time).await;
                self.network.lose(|_, _| false);
                "losses"
            }
            7 => {
                let sync_ms_max = *self.random.lock().of(&[30, 200, 800]);
                disk::slow_down(place, Some(sync_ms_max));
                tokio::time::sleep(time).await;
                disk::slow_down(place, None);
                "slow disk"
            }
            8 => {
                let by_ms = *self.random.lock().of(&[-3_600_000, -250, 250, 3_600_000]);
                system::step_wall_clock(place, by_ms);
                "clock step"
            }
            9 => {
                self.transfer(machine.node).await;
                "transfer"
            }
            10 => {
                if !self.lose_disk(machine, time).await {
                    return;
                }
                "lost disk"
            }
            11 => {
                let Some(spare) = self.machines.iter().find(|machine| self.is_new(machine)) else { return };
                spare.is_used.store(true, Ordering::Relaxed);
                self.start(spare);
                let directory_id = spare.disk.lock().directory_id;
                self.operator.is_told(Order::Add { node: spare.node, directory_id });
                "joins"
            }
            _ => {
                self.operator.is_told(Order::Remove { node });
                "leaves"
            }
        };
        *self.faults.lock().entry(name).or_default() += 1;
    }

    /// A leader is cut off, and a node fails just as it votes for another one. Then it is there again, and the one that it voted for is not: whoever
    /// leads next has been voted for by a node that must remember how it has voted.
    async fn fail_as_it_votes(&self) {
        let led = self.groups().into_iter().find(|(_, group)| leads(group));
        let Some((leader, _)) = led else { return };
        let machines = self.machines.iter().filter(|machine| machine.node != leader);
        let before: Vec<_> = machines.map(|machine| (machine, disk::votes(machine.node.0 as usize))).collect();
        let has_voted = |other: Option<NodeId>| {
            let voted = |(machine, votes): &&(&Machine, u64)| {
                Some(machine.node) != other && disk::votes(machine.node.0 as usize) > *votes
            };
            before.iter().find(voted).map(|(machine, _)| *machine)
        };
        self.isolate(leader, true);
        let until = Instant::now() + 6 * ELECTION_TIMEOUT;
        let (mut candidate, mut voter) = (None, None);
        while voter.is_none() && Instant::now() < until {
            tokio::time::sleep(Duration::from_micros(200)).await;
            candidate = candidate.or_else(|| has_voted(None));
            voter = candidate.and_then(|candidate: &Machine| has_voted(Some(candidate.node)));
        }
        if let (Some(candidate), Some(voter)) = (candidate, voter) {
            let (after, pause) = {
                let mut random = self.random.lock();
                (Duration::from_micros(random.below_u64(25_000)), Duration::from_millis(random.below_u64(300)))
            };
            tokio::time::sleep(after).await;
            self.kill(voter);
            self.isolate(leader, false);
            self.isolate(candidate.node, true);
            tokio::time::sleep(pause).await;
            self.start(voter);
            tokio::time::sleep(6 * ELECTION_TIMEOUT).await;
            self.isolate(candidate.node, false);
            *self.faults.lock().entry("killed as it voted").or_default() += 1;
        } else {
            self.isolate(leader, false);
        }
    }

    /// Whether a node hears and is heard.
    fn isolate(&self, node: NodeId, is_isolated: bool) {
        for other in self.machines.iter().map(|machine| machine.node).filter(|other| *other != node) {
            for (from, to) in [(node, other), (other, node)] {
                if is_isolated {
                    self.network.cut(from, to);
                } else {
                    self.network.join_ends(from, to);
                }
            }
        }
    }

    /// Whether a machine was never one of the cluster's.
    fn is_new(&self, machine: &Machine) -> bool {
        !machine.is_used.load(Ordering::Relaxed) && machine.disk.lock().founding.is_none()
    }

    /// Has some group be led by a node.
    async fn transfer(&self, to: NodeId) {
        let elsewhere = self.groups().into_iter().filter(|(node, group)| *node != to && leads(group));
        let led: Vec<_> = elsewhere.map(|(_, group)| group).collect();
        if led.is_empty() {
            return;
        }
        let group = self.random.lock().of(&led).clone();
        group.transfer(to).await;
    }

    /// A node loses its disk, and gets another one. One at a time, and only once the groups have done without the one before: a majority must be
    /// left of each.
    async fn lose_disk(&self, machine: &Machine, time: Duration) -> bool {
        let is_member = machine.disk.lock().founding.is_some();
        if !is_member || !self.is_at_rest() || !self.kill(machine) {
            return false;
        }
        let directory_id = {
            let mut disk = machine.disk.lock();
            // An engine that nobody has any more must not be written to, either.
            disk.crash();
            let new = Disk::new();
            *disk = match self.sabotage {
                Some(Sabotage::ReusedReplicaId) => Disk {
                    directory_id: disk.directory_id,
                    founding: disk.founding.clone(),
                    starts: disk.starts,
                    ..new
                },
                _ => new,
            };
            disk.founding.is_none().then_some(disk.directory_id)
        };
        if let Some(directory_id) = directory_id {
            self.operator.is_told(Order::Replace { node: machine.node, directory_id });
        }
        tokio::time::sleep(time / 2).await;
        self.start(machine);
        true
    }

    /// Everything works again.
    fn heal(&self) {
        self.network.mend();
        self.network.lose(|_, _| false);
        for machine in &self.machines {
            disk::slow_down(machine.node.0 as usize, None);
            self.start(machine);
        }
    }
}

fn leads(group: &Group) -> bool {
    matches!(*group.leadership().borrow(), Leadership::Leader { .. })
}

/// The way of clients to a node.
#[derive(Clone)]
pub(super) struct Way {
    pub(super) world: Arc<World>,
    pub(super) machine: usize,
}

impl Service<http::Request<Body>> for Way {
    type Response = http::Response<Body>;
    type Error = Broken;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let machine = &self.world.machines[self.machine];
        let process = machine.process.lock();
        let serving = process.as_ref().and_then(|one| Some((one.entry.lock().clone()?, one.killed.subscribe())));
        let place = machine.node.0 as usize;
        Box::pin(async move {
            let Some((entry, mut killed)) = serving else {
                return Err(Broken(io::Error::from(io::ErrorKind::ConnectionRefused).into()));
            };
            // Ends when the client goes away.
            let mut call = JoinSet::new();
            system::on_node(place, || call.spawn(async move { entry.call(request).await }));
            let lost = || Broken(io::Error::from(io::ErrorKind::ConnectionReset).into());
            tokio::select! {
                biased;
                _ = killed.wait_for(|killed| *killed) => Err(lost()),
                answer = call.join_next() => match answer {
                    Some(Ok(response)) => Ok(response),
                    _ => Err(lost()),
                },
            }
        })
    }
}
