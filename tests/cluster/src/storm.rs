//! Load on a cluster whose nodes and links fail at random, and what is left of it afterwards.

use std::sync::Arc;
use std::time::Duration;

use everlog_proto::api::common::v1::WorkflowType;
use everlog_proto::api::workflowservice::v1::StartWorkflowExecutionRequest;
use everlog_random::Random;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::checker::{Call, Outcome, STEPS_MAX, Verdict, check, check_with_repeats};
use crate::client::{Client, Seen, payloads, queue, run};
use crate::failure::{Failure, ensure};
use crate::faults::{Injected, Probes, inject};
use crate::harness::Cluster;
use crate::load::{Pipelines, Registers};
use crate::program::{Program, signals};
use crate::record::Recorder;
use crate::say;
use crate::worker::{Done, Workers};

/// Workflow ids that are shared at a time, and workflows that have one caller each.
const GROUPS: usize = 3;
const LANES: usize = 4;
/// Enough that hardly a partition has none.
const PROBES: usize = 16;
/// Loops of workers at each node.
const LOOPS: usize = 3;
/// How long callers may go on after the last fault.
const QUIET_TIME_MAX: Duration = Duration::from_secs(150);
/// How long a test waits for something that only a node which has just started delays.
const INSIST_TIME_MAX: Duration = Duration::from_secs(30);

/// What is wanted of a run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    pub(crate) seed: u64,
    /// How long faults are injected.
    pub(crate) time: Duration,
}

/// Runs everything on a cluster that serves while nodes and links fail at random, and checks it.
pub(crate) async fn storm(cluster: &Cluster, seen: &Arc<Seen>, options: Options) -> Result<(), Failure> {
    let mut random = Random::new(options.seed);
    let all = cluster.members();
    under_load(cluster, seen, options.seed, &all, async |probes| {
        inject(cluster, probes, &mut random, Instant::now() + options.time).await
    })
    .await
}

/// Runs load on a cluster that serves, with workers at these nodes, while something is done to it, and checks it.
pub(crate) async fn under_load(
    cluster: &Cluster,
    seen: &Arc<Seen>,
    seed: u64,
    workers_at: &[usize],
    disturb: impl AsyncFnOnce(&Probes) -> Result<Injected, Failure>,
) -> Result<(), Failure> {
    under_load_in("default", cluster, seen, seed, workers_at, disturb).await
}

/// The same in a namespace.
pub(crate) async fn under_load_in(
    namespace: &str,
    cluster: &Cluster,
    seen: &Arc<Seen>,
    seed: u64,
    workers_at: &[usize],
    disturb: impl AsyncFnOnce(&Probes) -> Result<Injected, Failure>,
) -> Result<(), Failure> {
    let client = Arc::new(Client::new(&cluster.addresses(), namespace, seen)?);
    let recorder = Arc::new(Recorder::new());
    let workers = Workers::start(&client, &recorder, "storm", workers_at, LOOPS);
    let probes = probes(&client, &recorder).await?;
    let registers =
        Registers { client: Arc::clone(&client), recorder: Arc::clone(&recorder), task_queue: "storm".to_owned() };
    let pipelines = Pipelines {
        client: Arc::clone(&client),
        recorder: Arc::clone(&recorder),
        task_queue: "storm".to_owned(),
        acknowledged: Arc::default(),
        started: Arc::default(),
    };
    let (stop, stopped) = watch::channel(false);
    let callers = registers.start(GROUPS, seed, &stopped);
    let lanes = pipelines.start(LANES, seed, &stopped);
    let injected = disturb(&probes).await?;
    cluster.heal().await?;
    stop.send_replace(true);
    say("    all is healed: what is in progress must end");
    let quiet = async {
        callers.join_all().await;
        ended(lanes).await
    };
    let ended = tokio::time::timeout(QUIET_TIME_MAX, quiet).await;
    ended.map_err(|_| Failure::new("callers do not come to an end"))??;
    registers.finish().await?;
    let probed = read_probes(&probes).await?;
    let done = std::mem::take(&mut *workers.done.lock());
    drop(workers);
    let found = pipelines.read_back(&done).await?;
    let operations = recorder.operations();
    let verdicts = tokio::task::spawn_blocking(move || verdicts(&operations));
    let Checked { acknowledged, unknown, refused, ids, repeated, wrong } =
        verdicts.await.map_err(|error| Failure(error.to_string()))?;
    report(&injected, seen, &done);
    say(&format!(
        "    checked: {} acknowledged operations of {} workflows with their own callers, {acknowledged} of {ids} shared \
         workflow ids ({refused} refused, {unknown} unknown), {probed} writes after kills",
        found.checked,
        pipelines.acknowledged.lock().len(),
    ));
    say(&format!(
        "    lost: {}, duplicates: {}, workflows that failed: {}, workflow ids that cannot be explained: {}",
        found.lost.len(),
        found.doubled.len(),
        found.failed.len(),
        wrong.len()
    ));
    if !repeated.is_empty() {
        say(&format!(
            "    explained only by a call that servers made twice, around a change of the current run: {repeated:?}"
        ));
    }
    let bad: Vec<_> = [found.lost, found.doubled, found.failed, wrong, done.wrong, seen.surprises()].concat();
    ensure(bad.is_empty(), || bad.join("\n"))?;
    ensure(found.checked > 0 && acknowledged > 0, || "nothing was acknowledged at all".to_owned())
}

async fn ended(mut lanes: JoinSet<Result<(), Failure>>) -> Result<(), Failure> {
    while let Some(lane) = lanes.join_next().await {
        lane.map_err(|error| Failure(error.to_string()))??;
    }
    Ok(())
}

/// Starts workflows that no worker takes.
async fn probes(client: &Arc<Client>, recorder: &Arc<Recorder>) -> Result<Probes, Failure> {
    let mut runs = Vec::new();
    for number in 0..PROBES {
        let id = format!("probe-{number}");
        let request = StartWorkflowExecutionRequest {
            workflow_id: id.clone(),
            workflow_type: Some(WorkflowType { name: "probe".to_owned() }),
            task_queue: Some(queue("nobody")),
            input: Some(payloads(&Program::Register)),
            request_id: format!("{id}-start"),
            ..Default::default()
        };
        let started = client.insist(number, INSIST_TIME_MAX, async |node| client.start(node, request.clone()).await);
        runs.push((id, started.await?.run_id));
    }
    Ok(Probes { client: Arc::clone(client), recorder: Arc::clone(recorder), runs })
}

/// Each probe's signals are there once and in order, as one caller has sent them. Returns how many there are.
async fn read_probes(probes: &Probes) -> Result<usize, Failure> {
    let mut counts = Vec::new();
    for (id, run_id) in &probes.runs {
        let client = &probes.client;
        let read = client.insist(0, INSIST_TIME_MAX, async |node| client.history(node, run(id, run_id)).await);
        let numbers: Vec<u32> = signals(&read.await?).into_iter().map(|(number, _)| number).collect();
        ensure(numbers.is_sorted_by(|a, b| a < b), || format!("{id}: signals twice or out of order: {numbers:?}"))?;
        counts.push(numbers.len());
    }
    let first = counts.first().copied().unwrap_or(0);
    ensure(counts.iter().all(|count| *count == first), || format!("acknowledged signals are lost: {counts:?}"))?;
    Ok(counts.iter().sum())
}

/// What the checker says.
pub(crate) struct Checked {
    pub(crate) acknowledged: usize,
    unknown: usize,
    refused: usize,
    ids: usize,
    /// Ids that are explained by calls which were made twice.
    repeated: Vec<String>,
    pub(crate) wrong: Vec<String>,
}

pub(crate) fn verdicts(histories: &[(String, Vec<crate::checker::Operation>)]) -> Checked {
    let of = |is: fn(&Outcome) -> bool| {
        histories.iter().flat_map(|(_, operations)| operations).filter(|operation| is(&operation.outcome)).count()
    };
    let unknown = of(|outcome| *outcome == Outcome::Unknown);
    let refused = of(|outcome| matches!(outcome, Outcome::Refused(_)));
    let all = of(|_| true);
    let (mut repeated, mut wrong) = (Vec::new(), Vec::new());
    for (id, operations) in histories {
        match check(operations, STEPS_MAX) {
            Verdict::Linearizable => {}
            Verdict::Impossible(why) => match check_with_repeats(operations, STEPS_MAX) {
                Verdict::Linearizable => repeated.push(id.clone()),
                Verdict::Impossible(_) => wrong.push(format!("{id}: what callers were told makes no sense:\n{why}")),
                Verdict::TooLong(_) => wrong.push(format!(
                    "{id}: what callers were told makes no sense, unless calls were made twice, of which the checker gave up:\n{why}"
                )),
            },
            Verdict::TooLong(why) => wrong.push(format!("{id}: the checker gave up: {why}")),
        }
    }
    let shared = histories
        .iter()
        .filter(|(_, operations)| operations.iter().any(|operation| matches!(operation.call, Call::Start { .. })));
    Checked { acknowledged: all - unknown - refused, unknown, refused, ids: shared.count(), repeated, wrong }
}

fn report(injected: &Injected, seen: &Seen, done: &Done) {
    let faults: Vec<_> = injected.faults.iter().map(|(fault, count)| format!("{count} {fault:?}")).collect();
    let total: u32 = injected.faults.values().sum();
    say(&format!("    faults injected: {total} ({})", faults.join(", ")));
    say(&format!(
        "    from a kill until all of {PROBES} workflows were written to again: {}",
        times(&injected.failovers)
    ));
    say(&format!("    the same of each workflow: {}", times(&injected.failovers_of_probes)));
    say(&format!("    nodes that were asked to stop took: {}", times(&injected.stops)));
    let errors: Vec<_> =
        seen.errors().into_iter().map(|((method, code), count)| format!("{count} {method} {code}")).collect();
    say(&format!(
        "    errors that callers saw: {}",
        if errors.is_empty() { "none".to_owned() } else { errors.join(", ") }
    ));
    let tasks: Vec<_> = done.tasks.iter().map(|(node, count)| format!("{count} at node {}", node + 1)).collect();
    say(&format!("    workflow tasks: {}; activities: {}", tasks.join(", "), done.handed_out.len()));
}

/// The median, the 99th percentile and the longest.
pub(crate) fn times(all: &[Duration]) -> String {
    let mut sorted = all.to_vec();
    sorted.sort_unstable();
    let at = |share: usize| sorted.get((sorted.len() * share / 100).min(sorted.len().saturating_sub(1)));
    match (at(50), at(99), sorted.last()) {
        (Some(p50), Some(p99), Some(max)) => {
            let s = Duration::as_secs_f64;
            format!("p50 {:.2} s, p99 {:.2} s, max {:.2} s ({} times)", s(p50), s(p99), s(max), sorted.len())
        }
        _ => "never".to_owned(),
    }
}
