//! Workload 11: queries to one workflow that is idle and in its worker's cache. Every answer is checked.

use std::collections::BTreeMap;

use super::{Context, Outcome};
use crate::check::{Acknowledged, Expected, read_back};
use crate::error::BenchError;
use crate::load::closed_loop;
use crate::program::Program;

pub(super) async fn run(context: &Context) -> Result<Vec<Outcome>, BenchError> {
    let worker = context.worker();
    let id = format!("{}-queried", context.prefix);
    let execution = context.client.start(id, "bench", &context.task_queue(), &Program::Idle).await?;
    context.until("the first workflow task", 1, || worker.counts().workflow_tasks).await?;
    let (client, queried) = (context.client.clone(), execution.clone());
    let query = move |_| {
        let (client, queried) = (client.clone(), queried.clone());
        async move {
            let answer = client.query(&queried).await?;
            if answer == b"0" { Ok(()) } else { Err(BenchError::Check(format!("a query was answered {answer:?}"))) }
        }
    };
    let before = worker.counts();
    let meter = context.meter().await?;
    context.progress.phase("queries", context.count());
    let load = closed_loop(context.concurrency, context.extent, &context.progress, query).await?;
    let usage = meter.stop().await?;
    let fetched = worker.counts().histories_fetched - before.histories_fetched;
    let queried = vec![Acknowledged { execution, expected: Expected::Ran(Program::Idle) }];
    Ok(vec![Outcome {
        part: "",
        unit: "query",
        units: load.latency.total(),
        usage,
        latency: Some(load.latency),
        read_back: read_back(&context.client, queried, &context.progress).await?,
        extra: BTreeMap::from([("histories_fetched", fetched as f64)]),
    }])
}
