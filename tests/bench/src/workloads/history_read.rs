//! Workload 7: whole reads of a history of 1,001 events, page by page as a replaying worker does it. Every read is checked.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::sequential_activities::start_and_wait;
use super::{Context, Outcome};
use crate::check::{Expected, ReadBack, check};
use crate::error::BenchError;
use crate::load::{Extent, closed_loop};
use crate::program::Program;

/// 166 activities one after the other give 5 + 6 × 166 = 1,001 events.
const ACTIVITIES: u32 = 166;
/// Different workflows to read, so that not one cached history is all that is served.
const WORKFLOWS: u64 = 4;

pub(super) async fn run(context: &Context) -> Result<Vec<Outcome>, BenchError> {
    let program = Program::Sequential { count: ACTIVITIES };
    let worker = Arc::new(context.worker());
    let write = {
        let (client, worker, program) = (context.client.clone(), worker.clone(), program.clone());
        let (queue, prefix) = (context.task_queue(), context.prefix.clone());
        move |number: u64| {
            let (client, worker, program) = (client.clone(), worker.clone(), program.clone());
            let (queue, id) = (queue.clone(), format!("{prefix}-{number}"));
            async move { start_and_wait(&client, &worker, id, &queue, program).await }
        }
    };
    context.progress.phase("writing histories", WORKFLOWS);
    let written = Extent::Count(WORKFLOWS);
    let executions = closed_loop(WORKFLOWS as usize, written, &context.progress, write).await?.done;
    drop(worker);
    let (client, executions, expected) = (context.client.clone(), Arc::new(executions), Expected::Ran(program));
    let read = move |number: u64| {
        let (client, executions, expected) = (client.clone(), executions.clone(), expected.clone());
        async move {
            let execution = &executions[(number % WORKFLOWS) as usize];
            let events = client.history(execution).await?;
            let wrong = |reason| BenchError::Check(format!("{}: {reason}", execution.workflow_id));
            check(&events, &expected).map(|read| read.events).map_err(wrong)
        }
    };
    let meter = context.meter().await?;
    context.progress.phase("reads", context.count());
    let load = closed_loop(context.concurrency, context.extent, &context.progress, read).await?;
    let usage = meter.stop().await?;
    let read_back = ReadBack { workflows: WORKFLOWS, events: load.done.iter().sum(), ..Default::default() };
    Ok(vec![Outcome {
        part: "",
        unit: "read",
        units: load.latency.total(),
        usage,
        latency: Some(load.latency),
        read_back,
        extra: BTreeMap::new(),
    }])
}
