//! Figures of a cluster for `tests/bench/RESULTS.md`: what a failure, a new node and two more replicas cost.
//!
//! ```text
//! cargo run --release -p everlog-cluster-tests -- --everlog-bin target/release/everlog --figures
//! ```
//!
//! Times depend on the machine; nothing here passes or fails because of one.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use everlog_proto::api::common::v1::{Payload, Payloads, WorkflowType};
use everlog_proto::api::workflowservice::v1::StartWorkflowExecutionRequest;
use everlog_random::Random;
use futures::{StreamExt, TryStreamExt, stream};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::client::{Client, Seen, payloads, queue, run};
use crate::failure::{Failure, ensure};
use crate::faults::Injected;
use crate::harness::{Cluster, Link, Node, SERVE_TIME_MAX};
use crate::load::Pipelines;
use crate::program::Program;
use crate::record::Recorder;
use crate::say;
use crate::storm::{times, under_load};
use crate::worker::Workers;

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    pub(crate) seed: u64,
    /// How often a node is killed.
    pub(crate) kills: usize,
    /// What the cluster holds when a node joins and when one is lost.
    pub(crate) megabytes: u64,
}

/// How long a node rests before its processor time is taken, and for how long that is.
const REST: Duration = Duration::from_secs(10);
const IDLE_TIME: Duration = Duration::from_secs(20);
/// Half of what goes to and fro between regions that are far from each other.
const FAR: Duration = Duration::from_millis(50);
/// How long workflows run of which bytes are counted, and how many at a time.
const TRAFFIC_TIME: Duration = Duration::from_secs(20);
const TRAFFIC_LANES: usize = 8;
/// What a workflow brings with it that fills the disks, and how many are started at a time.
const FILL_BYTES: usize = 512 << 10;
const FILLED_AT_A_TIME: usize = 8;
/// How often a caller writes whose latency is measured, and for how long while nothing else happens.
const WRITE_INTERVAL: Duration = Duration::from_millis(20);
const QUIET_TIME: Duration = Duration::from_secs(10);
/// How long a caller insists.
const INSIST_TIME_MAX: Duration = Duration::from_secs(60);

/// Measures everything, and prints it as it is known.
pub(crate) async fn figures(binary: &Path, directory: &Path, options: Options) -> Result<(), Failure> {
    for count in [3, 7] {
        idle(binary, &directory.join(format!("idle-{count}")), count).await?;
    }
    traffic(binary, &directory.join("traffic"), options).await?;
    failovers(binary, &directory.join("near"), Duration::ZERO, options).await?;
    failovers(binary, &directory.join("far"), FAR, Options { kills: options.kills.div_ceil(2), ..options }).await?;
    growth_and_loss(binary, &directory.join("growth"), options).await
}

/// What nodes take of a processor that have nothing to do.
async fn idle(binary: &Path, directory: &Path, count: usize) -> Result<(), Failure> {
    let cluster = Cluster::new(binary, directory, count).await?;
    cluster.start().await?;
    tokio::time::sleep(REST).await;
    let before = processor_times(&cluster)?;
    tokio::time::sleep(IDLE_TIME).await;
    let after = processor_times(&cluster)?;
    let shares = after.iter().zip(&before).map(|(after, before)| share(after.saturating_sub(*before), IDLE_TIME));
    let shares: Vec<f64> = shares.collect();
    let most = shares.iter().copied().fold(0.0, f64::max);
    let mean = shares.iter().sum::<f64>() / shares.len() as f64;
    say(&format!("{count} nodes that have nothing to do: {mean:.2} % of a core each, at most {most:.2} %"));
    cluster.stop().await
}

/// What goes over the wires between nodes for a workflow, and what processors do for it.
async fn traffic(binary: &Path, directory: &Path, options: Options) -> Result<(), Failure> {
    let cluster = Cluster::new(binary, directory, 3).await?;
    cluster.start().await?;
    let seen = Arc::new(Seen::default());
    let client = Arc::new(Client::new(&cluster.addresses(), "default", &seen)?);
    let recorder = Arc::new(Recorder::new());
    let workers = Workers::start(&client, &recorder, "figures", &[0, 1, 2], TRAFFIC_LANES);
    let pipelines = Pipelines {
        client,
        recorder,
        task_queue: "figures".to_owned(),
        acknowledged: Arc::default(),
        started: Arc::default(),
    };
    let (stop, stopped) = watch::channel(false);
    tokio::time::sleep(REST).await;
    let (bytes, time) = (cluster.links.carried(), processor_times(&cluster)?);
    let lanes = pipelines.start(TRAFFIC_LANES, options.seed, &stopped);
    tokio::time::sleep(TRAFFIC_TIME).await;
    stop.send_replace(true);
    for ended in lanes.join_all().await {
        ended?;
    }
    let bytes = cluster.links.carried() - bytes;
    let after = processor_times(&cluster)?;
    let time: Duration = after.iter().zip(&time).map(|(after, before)| after.saturating_sub(*before)).sum();
    drop(workers);
    let workflows = pipelines.acknowledged.lock().len();
    ensure(workflows > 0, || "no workflow has completed".to_owned())?;
    say(&format!(
        "3 nodes, workflows with two activities, a timer and three signals: {:.1} kB between the nodes and {:.2} ms of \
         processors for each of {workflows}",
        bytes as f64 / 1000.0 / workflows as f64,
        time.as_secs_f64() * 1000.0 / workflows as f64,
    ));
    cluster.stop().await
}

/// How long callers wait after a node is killed.
async fn failovers(binary: &Path, directory: &Path, delay: Duration, options: Options) -> Result<(), Failure> {
    let cluster = Cluster::new(binary, directory, 3).await?;
    cluster.start().await?;
    for (from, to) in (0..cluster.nodes.len()).flat_map(|from| (0..cluster.nodes.len()).map(move |to| (from, to))) {
        cluster.links.set(from, to, Link { delay, ..Link::default() });
    }
    // Leads that were lost as everything became slower are found anew.
    tokio::time::sleep(REST).await;
    cluster.until_settled(0, &[]).await?;
    let (seen, mut random) = (Arc::new(Seen::default()), Random::new(options.seed));
    let mut waits = (Vec::new(), Vec::new());
    under_load(&cluster, &seen, options.seed, &[0, 1, 2], async |probes| {
        for _ in 0..options.kills {
            tokio::time::sleep(Duration::from_millis(2000 + random.below_u64(2000))).await;
            let victim = random.below(cluster.nodes.len());
            cluster.nodes[victim].kill().await?;
            let written = probes.write(Instant::now(), victim).await?;
            waits.0.extend(written.iter().max());
            waits.1.extend(written);
            cluster.nodes[victim].spawn().await?;
            cluster.nodes[victim].wait_serving(SERVE_TIME_MAX).await?;
        }
        Ok(Injected::default())
    })
    .await?;
    say(&format!(
        "kill -9 under load, {} times, nodes {:?} from each other: until every workflow could be written to again {}; each \
         workflow {}",
        options.kills,
        2 * delay,
        times(&waits.0),
        times(&waits.1),
    ));
    cluster.stop().await
}

/// How long it takes until a new node has its share, and until one that is lost is made up for.
async fn growth_and_loss(binary: &Path, directory: &Path, options: Options) -> Result<(), Failure> {
    let cluster = Cluster::with_others(binary, directory, 3, 4).await?;
    cluster.start().await?;
    let client = Arc::new(Client::new(&cluster.addresses()[..3], "default", &Arc::default())?);
    let began = Instant::now();
    fill(&client, options).await?;
    let per_second = options.megabytes as f64 / began.elapsed().as_secs_f64();
    say(&format!("{} MB in workflows' inputs, written at {per_second:.0} MB/s", options.megabytes));
    let writer = Writer::start(&client).await?;
    tokio::time::sleep(QUIET_TIME).await;
    say(&format!("    a caller's write meanwhile, with nothing else: {}", writer.latencies()));
    let began = Instant::now();
    cluster.add(3, 0).await?;
    cluster.until_settled(0, &[]).await?;
    say(&format!("a fourth node has its share of them after {:?}", began.elapsed()));
    say(&format!("    a caller's write meanwhile: {}", writer.latencies()));
    cluster.nodes[3].kill().await?;
    let began = Instant::now();
    cluster.until_settled(0, &[3]).await?;
    say(&format!(
        "a lost node is made up for after {:?}, of which nobody does anything for the first 10 s",
        began.elapsed()
    ));
    say(&format!("    a caller's write meanwhile: {}", writer.latencies()));
    writer.stop().await?;
    cluster.lose(3);
    cluster.stop().await
}

/// Starts workflows that no worker takes, with inputs that cannot be made smaller.
async fn fill(client: &Arc<Client>, options: Options) -> Result<(), Failure> {
    let count = (options.megabytes << 20).div_ceil(FILL_BYTES as u64);
    let start = async |number: u64| {
        let mut random = Random::new(options.seed ^ number);
        let data: Vec<u8> = (0..FILL_BYTES / 8).flat_map(|_| random.any().to_le_bytes()).collect();
        let id = format!("fill-{number}");
        let request = StartWorkflowExecutionRequest {
            workflow_id: id.clone(),
            workflow_type: Some(WorkflowType { name: "fill".to_owned() }),
            task_queue: Some(queue("nobody")),
            input: Some(Payloads { payloads: vec![Payload { data, ..Payload::default() }] }),
            request_id: id,
            ..StartWorkflowExecutionRequest::default()
        };
        let first = number as usize % client.nodes();
        client.insist(first, INSIST_TIME_MAX, async |node| client.start(node, request.clone()).await).await.map(drop)
    };
    stream::iter(0..count).map(Ok).try_for_each_concurrent(FILLED_AT_A_TIME, start).await
}

/// A caller that writes again and again.
struct Writer {
    latencies: Arc<parking_lot::Mutex<Vec<Duration>>>,
    stop: watch::Sender<bool>,
    running: tokio::task::JoinHandle<Result<(), Failure>>,
}

impl Writer {
    async fn start(client: &Arc<Client>) -> Result<Writer, Failure> {
        let request = StartWorkflowExecutionRequest {
            workflow_id: "writer".to_owned(),
            workflow_type: Some(WorkflowType { name: "writer".to_owned() }),
            task_queue: Some(queue("nobody")),
            input: Some(payloads(&Program::Register)),
            request_id: "writer".to_owned(),
            ..StartWorkflowExecutionRequest::default()
        };
        let run_id =
            client.insist(0, INSIST_TIME_MAX, async |node| client.start(node, request.clone()).await).await?.run_id;
        let (latencies, (stop, stopped)) = (Arc::<parking_lot::Mutex<Vec<_>>>::default(), watch::channel(false));
        let (client, noted) = (Arc::clone(client), Arc::clone(&latencies));
        let running = tokio::task::spawn_local(async move {
            let mut number = 0;
            while !*stopped.borrow() {
                number += 1;
                let (began, request_id) = (Instant::now(), format!("write-{number}"));
                let first = number as usize % client.nodes();
                let write = async |node| {
                    client.signal(node, run("writer", &run_id), "write", number, Some(request_id.clone())).await
                };
                client.insist(first, INSIST_TIME_MAX, write).await?;
                noted.lock().push(began.elapsed());
                tokio::time::sleep(WRITE_INTERVAL).await;
            }
            Ok(())
        });
        Ok(Writer { latencies, stop, running })
    }

    /// Of the writes since the last call, for people.
    fn latencies(&self) -> String {
        times(&std::mem::take(&mut *self.latencies.lock()))
    }

    async fn stop(self) -> Result<(), Failure> {
        self.stop.send_replace(true);
        self.running.await.map_err(|error| Failure(error.to_string()))?
    }
}

/// What each node has taken of processors so far.
fn processor_times(cluster: &Cluster) -> Result<Vec<Duration>, Failure> {
    cluster.members().into_iter().map(|node| processor_time(&cluster.nodes[node])).collect()
}

/// By the clock of the process.
fn processor_time(node: &Node) -> Result<Duration, Failure> {
    let clock = nix::time::clock_getcpuclockid(node.process_id()).and_then(nix::time::ClockId::now);
    clock.map(Duration::from).map_err(|error| Failure(format!("node {}: {error}", node.number())))
}

fn share(time: Duration, of: Duration) -> f64 {
    100.0 * time.as_secs_f64() / of.as_secs_f64()
}
