//! Workload 8: a page of the list, a page of a filtered list, a filtered count, and one with a filter that was never asked for before,
//! over many closed workflows of ten types. The filtered answers are checked: right type, right number. Servers whose visibility
//! lags get time to catch up first.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Context, Outcome, WORKFLOW_PATIENCE};
use crate::check::{Acknowledged, Expected, ReadBack, read_back};
use crate::client::Client;
use crate::error::BenchError;
use crate::load::{Extent, closed_loop};
use crate::program::Program;

/// Workflow types that the workflows are spread over; a filter names one.
const TYPES: u64 = 10;
const PAGE: i32 = 100;
/// Calls of each kind, for so many workflows in all.
const CALLS_MAX: u64 = 1_000;
/// How long a lagging visibility store may take to show all workflows.
const CATCH_UP_MAX: Duration = Duration::from_secs(120);

pub(super) async fn run(context: &Context) -> Result<Vec<Outcome>, BenchError> {
    let workflows = context.count().div_ceil(TYPES) * TYPES;
    let written = write_workflows(context, workflows).await?;
    let lag = wait_until_visible(context, workflows).await?;
    let calls = Extent::Count(CALLS_MAX.min(workflows));
    let mut outcomes = Vec::new();
    for (part, call) in
        [("list", Call::List), ("filtered", Call::Filtered), ("count", Call::Count), ("count-new", Call::CountNew)]
    {
        let (client, prefix, each) = (context.client.clone(), context.prefix.clone(), workflows / TYPES);
        let one = move |number: u64| {
            let (client, prefix) = (client.clone(), prefix.clone());
            async move { call.send(&client, number, &type_name(&prefix, number), workflows, each).await }
        };
        let meter = context.meter().await?;
        context.progress.phase(part, CALLS_MAX.min(workflows));
        let load = closed_loop(context.concurrency, calls, &context.progress, one).await?;
        outcomes.push(Outcome {
            part,
            unit: "call",
            units: load.latency.total(),
            usage: meter.stop().await?,
            latency: Some(load.latency),
            read_back: written.clone(),
            extra: BTreeMap::from([("visible_after_s", lag.as_secs_f64()), ("closed_workflows", workflows as f64)]),
        });
    }
    Ok(outcomes)
}

#[derive(Clone, Copy)]
enum Call {
    List,
    Filtered,
    Count,
    /// One that a server which remembers counts cannot have made yet.
    CountNew,
}

impl Call {
    async fn send(
        self,
        client: &Client,
        number: u64,
        workflow_type: &str,
        workflows: u64,
        each: u64,
    ) -> Result<(), BenchError> {
        let query = format!("WorkflowType = '{workflow_type}' AND ExecutionStatus = 'Completed'");
        match self {
            Call::List => {
                let page = client.list("", PAGE).await?;
                same("workflows on a page", page.len() as u64, workflows.min(PAGE as u64))
            }
            Call::Filtered => {
                let page = client.list(&query, PAGE).await?;
                same("workflows on a filtered page", page.len() as u64, each.min(PAGE as u64))?;
                let right =
                    page.iter().filter(|one| one.r#type.as_ref().is_some_and(|found| found.name == workflow_type));
                same("workflows of the right type", right.count(), page.len())
            }
            Call::Count => same("workflows counted", client.count(&query).await?, each),
            Call::CountNew => {
                let query = format!("{query} AND HistoryLength < {}", 1_000_000 + number);
                same("workflows counted by a new filter", client.count(&query).await?, each)
            }
        }
    }
}

fn type_name(prefix: &str, number: u64) -> String {
    format!("{prefix}-type-{}", number % TYPES)
}

async fn write_workflows(context: &Context, workflows: u64) -> Result<ReadBack, BenchError> {
    let worker = Arc::new(context.worker());
    let program = Program::Sequential { count: 0 };
    let (client, queue, prefix) = (context.client.clone(), context.task_queue(), context.prefix.clone());
    let write = {
        let (worker, program) = (worker.clone(), program.clone());
        move |number: u64| {
            let (client, worker, program, queue) = (client.clone(), worker.clone(), program.clone(), queue.clone());
            let (id, workflow_type) = (format!("{prefix}-{number}"), type_name(&prefix, number));
            async move {
                let completion = worker.completion(&id);
                let execution = client.start(id, &workflow_type, &queue, &program).await?;
                worker.wait(&execution.workflow_id, completion, WORKFLOW_PATIENCE).await?;
                Ok(execution)
            }
        }
    };
    context.progress.phase("closing workflows", workflows);
    let load = closed_loop(context.concurrency.max(16), Extent::Count(workflows), &context.progress, write).await?;
    let expected = Expected::Ran(program);
    let acknowledged = load.done.into_iter().map(|execution| Acknowledged { execution, expected: expected.clone() });
    read_back(&context.client, acknowledged.collect(), &context.progress).await
}

/// Waits until every workflow is counted, and answers how long that took.
async fn wait_until_visible(context: &Context, workflows: u64) -> Result<Duration, BenchError> {
    let began = Instant::now();
    let mut shown = 0;
    while began.elapsed() < CATCH_UP_MAX {
        shown = 0;
        for number in 0..TYPES {
            let query =
                format!("WorkflowType = '{}' AND ExecutionStatus = 'Completed'", type_name(&context.prefix, number));
            shown += context.client.count(&query).await?;
        }
        if shown == workflows {
            return Ok(began.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Err(BenchError::Check(format!("{shown} of {workflows} closed workflows are visible after {CATCH_UP_MAX:?}")))
}

fn same<T: PartialEq + std::fmt::Display>(what: &str, found: T, expected: T) -> Result<(), BenchError> {
    if found == expected { Ok(()) } else { Err(BenchError::Check(format!("{what}: {found} instead of {expected}"))) }
}
