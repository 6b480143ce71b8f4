//! Workload 3: starts alone. No worker polls, so each unit is one acknowledged StartWorkflowExecution.

use std::collections::BTreeMap;

use super::{Context, Outcome};
use crate::check::{Acknowledged, Expected, read_back};
use crate::error::BenchError;
use crate::load::{Extent, closed_loop};
use crate::program::Program;

const WARM_UP: u64 = 16;

pub(super) async fn run(context: &Context) -> Result<Vec<Outcome>, BenchError> {
    let start = |phase: &str| {
        let (client, queue, prefix) =
            (context.client.clone(), context.task_queue(), format!("{}-{phase}", context.prefix));
        move |number: u64| {
            let (client, queue, id) = (client.clone(), queue.clone(), format!("{prefix}-{number}"));
            async move { client.start(id, "bench", &queue, &Program::Idle).await }
        }
    };
    context.progress.phase("warming up", WARM_UP);
    closed_loop(context.concurrency, Extent::Count(WARM_UP), &context.progress, start("warm")).await?;
    let refused = context.client.refused();
    let meter = context.meter().await?;
    context.progress.phase("starts", context.count());
    let load = closed_loop(context.concurrency, context.extent, &context.progress, start("run")).await?;
    let usage = meter.stop().await?;
    let acknowledged =
        load.done.into_iter().map(|execution| Acknowledged { execution, expected: Expected::Unstarted }).collect();
    Ok(vec![Outcome {
        part: "",
        unit: "start",
        units: load.latency.total(),
        usage,
        latency: Some(load.latency),
        read_back: read_back(&context.client, acknowledged, &context.progress).await?,
        extra: BTreeMap::from([("requests_refused", (context.client.refused() - refused) as f64)]),
    }])
}
