//! Workload 10: the server is killed with idle workflows on disk and started again. The time counts from the start of the new
//! process to the first acknowledged start of a workflow; then every workflow of before is read back.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::idle::open_idle_workflows;
use super::{Context, Outcome};
use crate::check::read_back;
use crate::client::Client;
use crate::error::BenchError;
use crate::histogram::Histogram;
use crate::measure::{Meter, Target};
use crate::program::Program;

/// How long the restarted server may take.
const RECOVERY_MAX: Duration = Duration::from_secs(120);

pub(super) async fn run(context: &Context) -> Result<Vec<Outcome>, BenchError> {
    let server = context.server.as_ref();
    let server =
        server.ok_or_else(|| BenchError::Skipped("only a server started by this program is killed".to_owned()))?;
    let mut server = server.lock().await;
    if !server.kind().durable() {
        return Err(BenchError::Skipped("a server without a disk has nothing to come back with".to_owned()));
    }
    let load = open_idle_workflows(context).await?;
    let units = load.done.len() as u64;
    context.progress.phase("recovering", 0);
    server.kill().await?;
    let began = Instant::now();
    server.start_again().await?;
    let target = Target { strace: false, ..server.target() };
    *context.target.lock().expect("never poisoned: nothing panics under it") = target.clone();
    // Metrics may not be served yet while the server recovers; what it used until the first start is read from /proc.
    let meter = Meter::start(Target { metrics: None, probe_dir: Default::default(), ..target }).await?;
    let client = Client::connect(server.address(), "default", RECOVERY_MAX).await?;
    client.start(format!("{}-first", context.prefix), "bench", "nobody", &Program::Idle).await?;
    let recovery = began.elapsed();
    let usage = meter.stop().await?;
    let mut latency = Histogram::new();
    latency.record(recovery);
    Ok(vec![Outcome {
        part: "",
        unit: "recovery",
        units: 1,
        usage,
        latency: Some(latency),
        read_back: read_back(&context.client, load.done, &context.progress).await?,
        extra: BTreeMap::from([("recovery_s", recovery.as_secs_f64()), ("open_workflows", units as f64)]),
    }])
}
