//! Faults at random, one after the other and never of more than a minority of the nodes, and how long callers wait after a kill.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use everlog_random::Random;
use futures::future::join_all;
use tokio::time::Instant;

use crate::client::{Client, is_transient, run};
use crate::failure::{Failure, ensure};
use crate::harness::{Cluster, Link, SERVE_TIME_MAX};
use crate::record::Recorder;

/// How long a caller waits for its write after a kill.
const PROBE_TIME_MAX: Duration = Duration::from_secs(30);
/// How long it waits before it tries again.
const PROBE_AGAIN: Duration = Duration::from_millis(10);

/// How long a process may take to notice that it is a member no more.
const END_TIME_MAX: Duration = Duration::from_secs(30);

/// Entries that a replica may lack under load.
const BEHIND_MAX: u64 = 100;

/// What is done to a node, or to the ways from and to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    Kill,
    Pause,
    /// Cut off from all others.
    Isolate,
    /// The others do not hear it.
    Mute,
    /// It does not hear the others.
    Deafen,
    /// Cut off from one other node.
    CutOne,
    /// Everything from and to it takes long.
    Delay,
    /// All nodes are stopped and started, one after the other.
    RollingRestart,
    /// It is killed and loses its disk; an empty one takes the place of that.
    NewDisk,
    /// A new node joins, and this one leaves.
    Succeed,
}

/// How often each fault comes round.
const DECK: [Fault; 14] = [
    Fault::Kill,
    Fault::Kill,
    Fault::Kill,
    Fault::Kill,
    Fault::Pause,
    Fault::Pause,
    Fault::Isolate,
    Fault::Mute,
    Fault::Deafen,
    Fault::CutOne,
    Fault::Delay,
    Fault::RollingRestart,
    Fault::NewDisk,
    Fault::Succeed,
];

/// What was done, and what callers felt.
#[derive(Debug, Default)]
pub(crate) struct Injected {
    pub(crate) faults: BTreeMap<Fault, u32>,
    /// From each kill until every probe was written to again, and by probe.
    pub(crate) failovers: Vec<Duration>,
    pub(crate) failovers_of_probes: Vec<Duration>,
    /// How long nodes took to stop when they were asked to.
    pub(crate) stops: Vec<Duration>,
}

/// Runs that are written to after each kill: enough of them that every partition has some.
pub(crate) struct Probes {
    pub(crate) client: Arc<Client>,
    pub(crate) recorder: Arc<Recorder>,
    /// Workflow ids and run ids.
    pub(crate) runs: Vec<(String, String)>,
}

impl Probes {
    /// Writes to every probe until it is acknowledged, through nodes that live; returns how long that took from `since`, by probe.
    pub(crate) async fn write(&self, since: Instant, dead: usize) -> Result<Vec<Duration>, Failure> {
        let nodes = self.client.nodes();
        let writes = self.runs.iter().enumerate().map(|(at, (id, run_id))| async move {
            let number = self.recorder.next();
            loop {
                let node = self.client.near((dead + 1 + at % (nodes - 1)) % nodes);
                let request_id = Some(format!("probe-{number}"));
                match self.client.signal(node, run(id, run_id), "probe", number, request_id).await {
                    Ok(()) => return Ok(since.elapsed()),
                    Err(status) if is_transient(&status) && since.elapsed() < PROBE_TIME_MAX => {
                        tokio::time::sleep(PROBE_AGAIN).await;
                    }
                    Err(status) => return Err(Failure(format!("{id} cannot be written to after a kill: {status}"))),
                }
            }
        });
        join_all(writes).await.into_iter().collect()
    }
}

/// Injects faults until `until`.
pub(crate) async fn inject(
    cluster: &Cluster,
    probes: &Probes,
    random: &mut Random,
    until: Instant,
) -> Result<Injected, Failure> {
    let mut injected = Injected::default();
    let mut deck = Vec::new();
    while Instant::now() < until {
        if deck.is_empty() {
            deck.extend(DECK);
        }
        let fault = deck.swap_remove(random.below(deck.len()));
        let victim = *random.of(&cluster.members());
        crate::say(&format!("    {fault:?} of node {}", victim + 1));
        one(cluster, probes, random, fault, victim, &mut injected).await?;
        *injected.faults.entry(fault).or_default() += 1;
        pause(random, 1000..3000).await;
        for node in cluster.members().into_iter().map(|node| &cluster.nodes[node]) {
            ensure(node.is_running().await, || format!("node {} has ended by itself", node.number()))?;
        }
    }
    Ok(injected)
}

async fn one(
    cluster: &Cluster,
    probes: &Probes,
    random: &mut Random,
    fault: Fault,
    victim: usize,
    injected: &mut Injected,
) -> Result<(), Failure> {
    let node = &cluster.nodes[victim];
    let others: Vec<usize> = cluster.members().into_iter().filter(|at| *at != victim).collect();
    let cut = Link { is_cut: true, ..Link::default() };
    let set = |link: Link, to: bool, from: bool, others: &[usize]| {
        for other in others {
            if from {
                cluster.links.set(victim, *other, link);
            }
            if to {
                cluster.links.set(*other, victim, link);
            }
        }
    };
    match fault {
        Fault::Kill => {
            node.kill().await?;
            let waits = probes.write(Instant::now(), victim).await?;
            injected.failovers.extend(waits.iter().max());
            injected.failovers_of_probes.extend(waits);
            pause(random, 0..3000).await;
            node.spawn().await?;
            return node.wait_serving(SERVE_TIME_MAX).await;
        }
        Fault::Pause => {
            node.pause()?;
            pause(random, 2000..5000).await;
            return node.resume();
        }
        Fault::RollingRestart => {
            for node in cluster.members().into_iter().map(|node| &cluster.nodes[node]) {
                injected.stops.push(node.stop().await?);
                node.spawn().await?;
                node.wait_serving(SERVE_TIME_MAX).await?;
                pause(random, 500..1500).await;
            }
            return Ok(());
        }
        Fault::NewDisk => {
            node.kill().await?;
            std::fs::remove_dir_all(node.data())?;
            node.spawn().await?;
            cluster.replace_disk(victim).await?;
            return cluster.until_caught_up(victim, BEHIND_MAX).await;
        }
        Fault::Succeed => {
            let by = *random.of(&others);
            let free = (0..cluster.nodes.len()).find(|node| *node != victim && !others.contains(node));
            let Some(free) = free else { return Err(Failure::new("there is no node that is no member")) };
            cluster.add(free, by).await?;
            pause(random, 0..3000).await;
            cluster.remove(victim, by).await?;
            cluster.until_left(victim, by).await?;
            node.wait_ended(END_TIME_MAX).await?;
            std::fs::remove_dir_all(node.data())?;
            return cluster.until_settled(by, &[]).await;
        }
        Fault::Isolate => set(cut, true, true, &others),
        Fault::Mute => set(cut, false, true, &others),
        Fault::Deafen => set(cut, true, false, &others),
        Fault::CutOne => set(cut, true, true, &[*random.of(&others)]),
        Fault::Delay => {
            let delay = Duration::from_millis(20 + random.below_u64(60));
            set(Link { delay, ..Link::default() }, true, true, &others);
        }
    }
    pause(random, 1000..5000).await;
    cluster.links.heal();
    Ok(())
}

async fn pause(random: &mut Random, ms: std::ops::Range<u64>) {
    tokio::time::sleep(Duration::from_millis(ms.start + random.below_u64(ms.end - ms.start))).await;
}
