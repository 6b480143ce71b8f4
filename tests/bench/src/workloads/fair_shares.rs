//! Workload 19: ten fairness keys of equal weight, of which one has nine tenths of the backlog, and that in front of the others. What
//! counts is in which order workers get the tasks: how many of the first ones are of the large key, and how many tasks it takes until
//! all others are done.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use everlog_proto::api::common::v1::Priority;
use everlog_proto::api::workflowservice::v1::RespondWorkflowTaskCompletedRequest;
use tokio::sync::Mutex;

use super::{Context, Outcome};
use crate::check::{Acknowledged, Expected, read_back};
use crate::client::normal_queue;
use crate::error::BenchError;
use crate::load::{Extent, closed_loop};
use crate::program::Program;

/// Keys, the first of which has nine tenths of the tasks.
const KEYS: u64 = 10;

pub(super) async fn run(context: &Context) -> Result<Vec<Outcome>, BenchError> {
    let count = context.count().max(10 * KEYS);
    let large = count * 9 / 10;
    let key = move |number: u64| if number < large { 0 } else { 1 + number % (KEYS - 1) };
    let start = {
        let (client, queue, prefix) = (context.client.clone(), context.task_queue(), context.prefix.clone());
        move |number: u64| {
            let (client, queue, id) = (client.clone(), queue.clone(), format!("{prefix}-run-{number}"));
            let priority = Priority { fairness_key: format!("key-{}", key(number)), ..Priority::default() };
            async move { client.start_with(id, "bench", &queue, &Program::Idle, Some(priority)).await }
        }
    };
    context.progress.phase("starts", count);
    let load = closed_loop(context.concurrency, Extent::Count(count), &context.progress, start).await?;

    let order = Arc::new(Mutex::new(Vec::<u64>::new()));
    let taken = Arc::new(AtomicU64::new(0));
    let work = {
        let (client, queue, prefix) =
            (context.client.clone(), context.task_queue(), format!("{}-run-", context.prefix));
        let (order, taken) = (order.clone(), taken.clone());
        move |_: u64| {
            let (client, queue, prefix) = (client.clone(), normal_queue(&queue), prefix.clone());
            let (order, taken) = (order.clone(), taken.clone());
            async move {
                loop {
                    let Ok(task) = client.poll_workflow_task(queue.clone()).await else { continue };
                    let execution = task.workflow_execution.unwrap_or_default();
                    let number = execution.workflow_id.strip_prefix(&prefix).and_then(|number| number.parse().ok());
                    let Some(number) = number else { continue };
                    order.lock().await.push(key(number));
                    taken.fetch_add(1, Ordering::Relaxed);
                    let done =
                        RespondWorkflowTaskCompletedRequest { task_token: task.task_token, ..Default::default() };
                    return client.complete_workflow_task(done).await;
                }
            }
        }
    };
    let meter = context.meter().await?;
    context.progress.phase("tasks", count);
    let tasks = closed_loop(context.concurrency, Extent::Count(count), &context.progress, work).await?;
    let usage = meter.stop().await?;

    let order = std::mem::take(&mut *order.lock().await);
    // While all have tasks, a tenth is each one's.
    let contended = ((count - large) / 2).max(1) as usize;
    let of_large = order.iter().take(contended).filter(|key| **key == 0).count();
    let others_done = order.iter().rposition(|key| *key != 0).map_or(0, |last| last + 1);
    let acknowledged =
        load.done.into_iter().map(|execution| Acknowledged { execution, expected: Expected::Ran(Program::Idle) });
    Ok(vec![Outcome {
        part: "",
        unit: "task",
        units: taken.load(Ordering::Relaxed),
        usage,
        latency: Some(tasks.latency),
        read_back: read_back(&context.client, acknowledged.collect(), &context.progress).await?,
        extra: BTreeMap::from([
            ("large_key_share_while_all_wait", of_large as f64 / contended as f64),
            ("share_of_tasks_until_others_are_done", others_done as f64 / count as f64),
        ]),
    }])
}
