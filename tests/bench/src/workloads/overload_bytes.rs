//! Workload 18: more at once than a server can have in memory. 1,500 starts of 2 MiB, describes of workflows that do not exist from 16
//! connections, and a signal to each of 100,000 workflows that are not in memory, all at the same time, each sent once.
//!
//! A server may refuse what is too much; what it must do is tell which, keep what it acknowledged, not grow beyond its bound, and
//! serve afterwards. So the outcomes are counted by status code and cause, the acknowledged ones are read back, those that were refused
//! for overload are looked for, and workflows run to their end behind the storm. The figure is the peak of the resident memory above
//! that at rest.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use everlog_proto::RpcStatus;
use everlog_proto::api::enums::v1::ResourceExhaustedCause;
use everlog_proto::api::errordetails::v1::ResourceExhaustedFailure;
use prost::Message;
use tokio::task::JoinSet;
use tonic::{Code, Status};

use super::idle::open_idle_workflows;
use super::sequential_activities::start_and_wait;
use super::{Context, Outcome};
use crate::check::{Acknowledged, Expected, ReadBack, read_back};
use crate::client::{Client, Connection, Execution};
use crate::error::BenchError;
use crate::histogram::Histogram;
use crate::load::{Extent, closed_loop};
use crate::measure::{Target, Usage, forget_rss_peak, rss_bytes, rss_peak_bytes};
use crate::program::Program;

/// Starts for every 100,000 signals, and at least.
const STARTS: u64 = 1_500;
const STARTS_MIN: u64 = 16;
/// What a start carries: with its metadata just below the 2 MiB that Temporal allows.
const INPUT_BYTES: usize = (2 << 20) - 1024;
/// Connections of each kind of request.
const CONNECTIONS: usize = 16;
/// Describes in flight on each.
const DESCRIBES: usize = 4;
/// How long a request may take.
const REQUEST_MAX: Duration = Duration::from_secs(60);
/// How long a server that this program has not started, and so cannot restart, is left alone for workflows to leave its memory ...
const COLD_AFTER: Duration = Duration::from_secs(60);
/// ... if there are so many of them that it matters.
const COLD_UNITS_MIN: u64 = 10_000;
/// How long a restarted server may take to serve.
const RESTART_MAX: Duration = Duration::from_secs(60);
/// Workflows that must run to their end behind the storm.
const SERVED_AFTERWARDS: u64 = 100;
/// Readers of what was refused.
const READERS: usize = 16;

pub(super) async fn run(context: &Context) -> Result<Vec<Outcome>, BenchError> {
    let receivers: Vec<Execution> =
        open_idle_workflows(context).await?.done.into_iter().map(|opened| opened.execution).collect();
    forget_workflows(context, receivers.len() as u64).await?;
    let storm = Storm {
        context,
        starts: (receivers.len() as u64 * STARTS / 100_000).max(STARTS_MIN),
        receivers: Arc::new(receivers),
    };
    let pid = context.target().pid;
    let rest = pid.map(rss_bytes).transpose()?.flatten();
    // Only the owner of a process may do this; without it there is no peak.
    let peaks = pid.filter(|pid| forget_rss_peak(*pid).is_ok());
    let meter = context.meter().await?;
    let (starts, signals, describes) = storm.rage().await?;
    let usage = meter.stop().await?;
    let peak = peaks.map(rss_peak_bytes).transpose()?.flatten();

    let serving = Instant::now();
    let served = serve_afterwards(context).await?;
    let serving = serving.elapsed();
    let mut extra = BTreeMap::from([("served_afterwards_s", serving.as_secs_f64())]);
    if let (Some(rest), Some(peak)) = (rest, peak) {
        extra.insert("rss_bytes_at_rest", rest as f64);
        extra.insert("rss_bytes_peak", peak as f64);
        extra.insert("rss_bytes_peak_above_rest", peak.saturating_sub(rest) as f64);
    }
    extra.insert("refused_starts_that_exist", done_anyway(&context.client, &starts.refused, 0).await? as f64);
    extra.insert("refused_signals_that_exist", done_anyway(&context.client, &signals.refused, 1).await? as f64);
    let units = starts.answered() + signals.answered() + describes.answered();
    let elapsed = usage.elapsed;
    let whole = Outcome {
        part: "",
        unit: "request",
        units,
        usage,
        latency: None,
        read_back: read_back(&context.client, served, &context.progress).await?,
        extra,
    };
    let mut outcomes = vec![whole];
    for (part, kind) in [("starts", starts), ("signals", signals), ("describes", describes)] {
        outcomes.push(kind.outcome(context, part, elapsed).await?);
    }
    Ok(outcomes)
}

/// Makes the server forget what it has in memory: by a restart, or by time.
async fn forget_workflows(context: &Context, workflows: u64) -> Result<(), BenchError> {
    context.progress.phase("letting workflows get cold", 0);
    let Some(server) = context.server.as_ref() else {
        if workflows >= COLD_UNITS_MIN {
            tokio::time::sleep(COLD_AFTER).await;
        }
        return Ok(());
    };
    let mut server = server.lock().await;
    if !server.kind().durable() {
        return Ok(());
    }
    server.restart().await?;
    let strace = context.target().strace;
    *context.target.lock().expect("never poisoned: nothing panics under it") = Target { strace, ..server.target() };
    Client::connect(server.address(), "default", RESTART_MAX).await.map(|_| ())
}

/// Workflows with an activity run to their end.
async fn serve_afterwards(context: &Context) -> Result<Vec<Acknowledged>, BenchError> {
    context.progress.phase("workflows behind the storm", SERVED_AFTERWARDS);
    let queue = format!("{}-afterwards", context.prefix);
    let worker = Arc::new(context.worker_on(queue.clone(), super::POLLERS.0, true));
    let (client, prefix) = (context.client.clone(), context.prefix.clone());
    let program = Program::Sequential { count: 1 };
    let run = {
        let program = program.clone();
        move |number: u64| {
            let (client, worker, program, queue) = (client.clone(), worker.clone(), program.clone(), queue.clone());
            let id = format!("{prefix}-afterwards-{number}");
            async move { start_and_wait(&client, &worker, id, &queue, program).await }
        }
    };
    let load = closed_loop(context.concurrency, Extent::Count(SERVED_AFTERWARDS), &context.progress, run).await?;
    let ran = |execution| Acknowledged { execution, expected: Expected::Ran(program.clone()) };
    Ok(load.done.into_iter().map(ran).collect())
}

/// How many of what the server refused for overload it has done nevertheless: workflows that exist, or have more than so many signals.
async fn done_anyway(client: &Arc<Client>, refused: &[Execution], signals_sent: u32) -> Result<u64, BenchError> {
    let refused = Arc::new(refused.to_vec());
    let mut readers = JoinSet::new();
    for reader in 0..READERS {
        let (client, refused) = (client.clone(), refused.clone());
        readers.spawn(async move {
            let mut done = 0;
            for execution in refused.iter().skip(reader).step_by(READERS) {
                match client.history(execution).await {
                    Ok(_) if signals_sent == 0 => done += 1,
                    Ok(events) => {
                        let signalled = Expected::Signalled(signals_sent);
                        done += u64::from(crate::check::check(&events, &signalled).is_ok());
                    }
                    Err(BenchError::Rpc { status, .. }) if status.code() == Code::NotFound => {}
                    Err(error) => return Err(error),
                }
            }
            Ok::<u64, BenchError>(done)
        });
    }
    let mut total = 0;
    while let Some(reader) = readers.join_next().await {
        total += reader.map_err(|panic| BenchError::Setup(panic.to_string()))??;
    }
    Ok(total)
}

struct Storm<'a> {
    context: &'a Context,
    starts: u64,
    receivers: Arc<Vec<Execution>>,
}

impl Storm<'_> {
    /// All of it at once. Describes go on until the others are answered.
    async fn rage(&self) -> Result<(Kind, Kind, Kind), BenchError> {
        let Storm { context, starts, receivers } = self;
        context.progress.phase("requests", starts + receivers.len() as u64);
        let over = Arc::new(AtomicBool::new(false));
        let mut describing = JoinSet::new();
        for (number, connection) in self.connections()?.into_iter().enumerate() {
            for lane in 0..DESCRIBES {
                let (connection, over) = (connection.clone(), over.clone());
                let prefix = format!("{}-unknown-{number}-{lane}", context.prefix);
                describing.spawn(async move {
                    let mut kind = Kind::default();
                    for unknown in 0u64.. {
                        if over.load(Ordering::Relaxed) {
                            break;
                        }
                        let began = Instant::now();
                        let answer = connection.describe(format!("{prefix}-{unknown}"), REQUEST_MAX).await;
                        kind.count(began.elapsed(), answer.as_ref().err());
                    }
                    kind
                });
            }
        }
        let (start_connections, signal_connections) = (self.connections()?, self.connections()?);
        let mut starting = JoinSet::new();
        let input = Arc::new(noise(INPUT_BYTES));
        for number in 0..*starts {
            let connection = start_connections[number as usize % CONNECTIONS].clone();
            let (input, progress) = (input.clone(), context.progress.clone());
            let (id, queue) = (format!("{}-start-{number}", context.prefix), format!("{}-nobody", context.prefix));
            starting.spawn(async move {
                let began = Instant::now();
                let answer = connection.start(&id, &queue, input.to_vec(), REQUEST_MAX).await;
                progress.step();
                let asked = Execution { workflow_id: id, run_id: String::new() };
                (began.elapsed(), asked, answer)
            });
        }
        let mut signalling = JoinSet::new();
        for number in 0..receivers.len() {
            let connection = signal_connections[number % CONNECTIONS].clone();
            let (receivers, progress) = (receivers.clone(), context.progress.clone());
            signalling.spawn(async move {
                let receiver = receivers[number].clone();
                let began = Instant::now();
                let request_id = format!("{}-signal", receiver.workflow_id);
                let answer = connection.signal(&receiver, request_id, REQUEST_MAX).await.map(|()| receiver.clone());
                progress.step();
                (began.elapsed(), receiver, answer)
            });
        }
        let starts = Kind::of(starting, Expected::UnstartedWith(INPUT_BYTES)).await?;
        let signals = Kind::of(signalling, Expected::Signalled(1)).await?;
        over.store(true, Ordering::Relaxed);
        let mut describes = Kind::default();
        while let Some(lane) = describing.join_next().await {
            describes.add(lane.map_err(|panic| BenchError::Setup(panic.to_string()))?);
        }
        Ok((starts, signals, describes))
    }

    fn connections(&self) -> Result<Vec<Connection>, BenchError> {
        (0..CONNECTIONS).map(|_| self.context.client.connection(&self.context.address)).collect()
    }
}

/// What became of the requests of one kind.
#[derive(Default)]
struct Kind {
    latency: Option<Histogram>,
    outcomes: BTreeMap<&'static str, u64>,
    acknowledged: Vec<Acknowledged>,
    /// Refused for overload.
    refused: Vec<Execution>,
}

impl Kind {
    async fn of(
        mut requests: JoinSet<(Duration, Execution, Result<Execution, Status>)>,
        expected: Expected,
    ) -> Result<Kind, BenchError> {
        let mut kind = Kind::default();
        while let Some(request) = requests.join_next().await {
            let (latency, asked, answer) = request.map_err(|panic| BenchError::Setup(panic.to_string()))?;
            kind.count(latency, answer.as_ref().err());
            match answer {
                Ok(execution) => {
                    kind.acknowledged.push(Acknowledged { execution, expected: expected.clone() });
                }
                Err(status) if status.code() == Code::ResourceExhausted => kind.refused.push(asked),
                Err(_) => {}
            }
        }
        Ok(kind)
    }

    fn count(&mut self, latency: Duration, refusal: Option<&Status>) {
        self.latency.get_or_insert_with(Histogram::new).record(latency);
        *self.outcomes.entry(refusal.map_or("ok", outcome)).or_default() += 1;
    }

    fn add(&mut self, other: Kind) {
        if let Some(latency) = &other.latency {
            self.latency.get_or_insert_with(Histogram::new).merge(latency);
        }
        for (outcome, count) in other.outcomes {
            *self.outcomes.entry(outcome).or_default() += count;
        }
    }

    fn answered(&self) -> u64 {
        self.outcomes.values().sum()
    }

    async fn outcome(self, context: &Context, part: &'static str, elapsed: Duration) -> Result<Outcome, BenchError> {
        Ok(Outcome {
            part,
            unit: "request",
            units: self.answered(),
            // What the server used cannot be told apart.
            usage: Usage { elapsed, ..Usage::default() },
            read_back: match self.acknowledged.is_empty() {
                true => ReadBack::default(),
                false => read_back(&context.client, self.acknowledged, &context.progress).await?,
            },
            latency: self.latency,
            extra: self.outcomes.into_iter().map(|(outcome, count)| (outcome, count as f64)).collect(),
        })
    }
}

/// The name of a refusal: its code and, where something is exhausted, the cause.
fn outcome(status: &Status) -> &'static str {
    match status.code() {
        Code::ResourceExhausted => match cause(status) {
            Some(ResourceExhaustedCause::SystemOverloaded) => "resource_exhausted/system_overloaded",
            Some(ResourceExhaustedCause::BusyWorkflow) => "resource_exhausted/busy_workflow",
            Some(ResourceExhaustedCause::RpsLimit) => "resource_exhausted/rps_limit",
            Some(ResourceExhaustedCause::ConcurrentLimit) => "resource_exhausted/concurrent_limit",
            Some(ResourceExhaustedCause::PersistenceLimit) => "resource_exhausted/persistence_limit",
            Some(ResourceExhaustedCause::Unspecified) | None => "resource_exhausted/no_cause",
            Some(_) => "resource_exhausted/other",
        },
        Code::Unavailable => "unavailable",
        Code::DeadlineExceeded => "deadline_exceeded",
        // What this side gives up by itself.
        Code::Cancelled => "cancelled",
        Code::NotFound => "not_found",
        Code::Internal => "internal",
        Code::Unknown => "unknown",
        _ => "other",
    }
}

/// The cause in the details of a status.
fn cause(status: &Status) -> Option<ResourceExhaustedCause> {
    let details = RpcStatus::decode(status.details()).ok()?.details;
    let detail = details.iter().find(|detail| detail.type_url.ends_with("ResourceExhaustedFailure"))?;
    ResourceExhaustedCause::try_from(ResourceExhaustedFailure::decode(detail.value.as_slice()).ok()?.cause).ok()
}

/// Bytes that no compression makes smaller, the same every time.
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(next).flatten().take(bytes).collect()
}

#[cfg(test)]
mod tests {
    use everlog_proto::wkt::Any;

    use super::*;

    #[test]
    fn a_refusal_is_named_by_its_cause() {
        let failure = ResourceExhaustedFailure { cause: ResourceExhaustedCause::SystemOverloaded as i32, scope: 0 };
        let type_url = "type.googleapis.com/temporal.api.errordetails.v1.ResourceExhaustedFailure".to_owned();
        let details = vec![Any { type_url, value: failure.encode_to_vec() }];
        let details = RpcStatus { details, ..RpcStatus::default() }.encode_to_vec();
        let told = Status::with_details(Code::ResourceExhausted, "busy", details.into());
        assert_eq!(outcome(&told), "resource_exhausted/system_overloaded");
        assert_eq!(outcome(&Status::resource_exhausted("busy")), "resource_exhausted/no_cause");
        assert_eq!(outcome(&Status::unavailable("gone")), "unavailable");
    }
}
