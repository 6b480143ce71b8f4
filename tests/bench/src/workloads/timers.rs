//! Workload 6: timers that are all due at the same instant, ten to a workflow. What is measured is the firing, from just
//! before that instant to the end of the last workflow. Lateness comes from the server's own event times; a timer that fired
//! early fails the run.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{Context, Outcome, WORKFLOW_PATIENCE};
use crate::check::{Acknowledged, Expected, read_back};
use crate::error::BenchError;
use crate::load::{Extent, closed_loop};
use crate::program::Program;

const PER_WORKFLOW: u64 = 10;
/// Workflows a second that any server is given time to prepare; slower ones show up as timers that started late.
const PREPARED_PER_SECOND: u64 = 150;
/// Time to prepare beyond that.
const LEAD_MIN: Duration = Duration::from_secs(3);

pub(super) async fn run(context: &Context) -> Result<Vec<Outcome>, BenchError> {
    let workflows = context.count().div_ceil(PER_WORKFLOW);
    let lead = LEAD_MIN + Duration::from_secs(workflows / PREPARED_PER_SECOND);
    let due = SystemTime::now() + lead;
    let due_unix_ms = due.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
    let program = Program::Timers { count: PER_WORKFLOW as u32, due_unix_ms };
    let worker = Arc::new(context.worker());
    let prepare = {
        let (client, worker, program) = (context.client.clone(), worker.clone(), program.clone());
        let (queue, prefix) = (context.task_queue(), context.prefix.clone());
        move |number: u64| {
            let (client, worker, program) = (client.clone(), worker.clone(), program.clone());
            let (queue, id) = (queue.clone(), format!("{prefix}-{number}"));
            async move {
                let completion = worker.completion(&id);
                let execution = client.start(id, "bench", &queue, &program).await?;
                Ok((execution, completion))
            }
        }
    };
    context.progress.phase("preparing", workflows);
    let load = closed_loop(context.concurrency.max(8), Extent::Count(workflows), &context.progress, prepare).await?;
    context.until("timers' first workflow tasks", workflows, || worker.counts().workflow_tasks).await?;
    let left = due.duration_since(SystemTime::now()).unwrap_or_default();
    tokio::time::sleep(left.saturating_sub(Duration::from_secs(1))).await;
    let before = worker.counts();
    let meter = context.meter().await?;
    context.progress.phase("workflows with fired timers", workflows);
    let mut acknowledged = Vec::with_capacity(load.done.len());
    for (execution, completion) in load.done {
        worker.wait(&execution.workflow_id, completion, lead + WORKFLOW_PATIENCE).await?;
        acknowledged.push(Acknowledged { execution, expected: Expected::Ran(program.clone()) });
        context.progress.step();
    }
    let all_closed = SystemTime::now().duration_since(due).unwrap_or_default();
    let usage = meter.stop().await?;
    let after = worker.counts();
    let read_back = read_back(&context.client, acknowledged, &context.progress).await?;
    let timers = workflows * PER_WORKFLOW;
    Ok(vec![Outcome {
        part: "",
        unit: "timer",
        units: timers,
        usage,
        latency: read_back.timer_lateness.clone(),
        extra: BTreeMap::from([
            ("all_closed_after_due_s", all_closed.as_secs_f64()),
            ("prepared_late", f64::from(u8::from(left.is_zero()))),
            ("workflow_tasks_per_unit", (after.workflow_tasks - before.workflow_tasks) as f64 / timers as f64),
        ]),
        read_back,
    }])
}
