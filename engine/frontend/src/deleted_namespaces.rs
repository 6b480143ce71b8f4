//! What becomes of namespaces that are deleted: their workflows go bit by bit, and last their rows.
//!
//! Every node deletes what it leads, a page of runs a partition at a time, so that other work goes on meanwhile. The node that leads the
//! metadata looks whether anything is left anywhere, and deletes the namespace's row once nothing has been for some time: until then
//! messages to its workflows and wakes of them may be on their way, and they must find the namespace. All of this follows from the
//! namespaces' rows, so it goes on after a restart.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use everlog_kernel::{
    ActivityExecutionCommand, BatchJobCommand, Command, NamespaceId, RunCommand, ScheduleCommand, Time,
};
use everlog_meta::NamespaceRecord;
use everlog_model::{CallError, SlotSet, limits};
use everlog_partition::{Partition, confirm_leads};
use everlog_visibility::{self as visibility, Ask, Query, Reader, Record, Whose};
use futures::future::join_all;
use tokio::time::Instant;

use super::Frontend;
use super::address;
use super::errors::Error;
use super::visibility::Runs;

/// Deletes what is in deleted namespaces, until it is aborted.
pub(super) async fn reclaim(frontend: Arc<Frontend>) {
    let mut empty_since: HashMap<NamespaceId, Instant> = HashMap::new();
    loop {
        let deleted = frontend.namespaces.deleted();
        empty_since.retain(|id, _| deleted.iter().any(|record| record.namespace.id == *id));
        let mut has_more = false;
        for record in &deleted {
            let found = delete_here(&frontend, record).await;
            has_more |= found > 0;
            if found == 0 && frontend.namespaces.is_led_here() {
                forget_if_empty(&frontend, record, &mut empty_since).await;
            }
        }
        let wait = if has_more { limits::RECLAIM_PAUSE } else { limits::RECLAIM_INTERVAL };
        tokio::time::sleep(wait).await;
    }
}

/// Deletes a page of the namespace's schedules, batch jobs and runs in every partition that is led here. Returns how many were found.
async fn delete_here(frontend: &Frontend, record: &NamespaceRecord) -> usize {
    let everything = &everything();
    let partitions = frontend.router.partitions_of(record.namespace.id);
    let page = async |(partition, slots): &(Arc<Partition>, Option<SlotSet>)| {
        let mut found = 0;
        for ask in everything {
            found += delete_page(&frontend.reader, partition, slots, record, ask).await?;
        }
        Ok::<_, CallError>(found)
    };
    let mut found = 0;
    for page in join_all(partitions.iter().map(page)).await {
        match page {
            Ok(runs) => found += runs,
            // Another node leads it, or it does not answer now. Whoever leads it looks again.
            Err(error) => tracing::debug!(%error, namespace = record.name(), "runs of a deleted namespace are left"),
        }
    }
    found
}

async fn delete_page(
    reader: &Reader,
    partition: &Partition,
    slots: &Option<SlotSet>,
    record: &NamespaceRecord,
    ask: &Ask,
) -> Result<usize, CallError> {
    let unavailable = |error: visibility::VisibilityError| CallError::Unavailable(error.to_string());
    let lists = ask.lists(&record.namespace);
    confirm_leads(&[partition.group()]).await?;
    let parts = vec![(partition.group(), slots.clone())];
    let whose = Whose { namespace_id: record.namespace.id, parts };
    let page = visibility::list(reader, whose, &lists, Query::default(), None, limits::RECLAIM_PAGE_RUNS);
    let (runs, _) = page.await.map_err(unavailable)?.into_records();
    let deletions = runs.iter().filter_map(|run| {
        let run = Record::parse(run)?;
        let address = address(record, run.workflow_id());
        let (run_id, command): (_, Command) = match ask {
            Ask::Schedules(_) => (None, ScheduleCommand::Delete.into()),
            Ask::BatchJobs(_) => (None, BatchJobCommand::Delete.into()),
            Ask::Activities(_) => (Some(run.run_id().parse().ok()?), ActivityExecutionCommand::Delete.into()),
            _ => (Some(run.run_id().parse().ok()?), RunCommand::DeleteWorkflow.into()),
        };
        Some(partition.execute(address, run_id, command))
    });
    for deleted in join_all(deletions).await {
        match deleted {
            // It may have gone by itself meanwhile.
            Ok(_) | Err(CallError::Rejected(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(runs.len())
}

/// What is in a namespace. First what does something to workflows, so that it does no more.
fn everything() -> [Ask; 4] {
    let all = String::new;
    [Ask::Schedules(all()), Ask::BatchJobs(all()), Ask::Activities(all()), Ask::Query(all())]
}

/// Deletes the namespace's row if nothing has been left in it for long enough, on whichever node.
async fn forget_if_empty(
    frontend: &Frontend,
    record: &NamespaceRecord,
    empty_since: &mut HashMap<NamespaceId, Instant>,
) {
    let id = record.namespace.id;
    if !matches!(is_empty(frontend, record).await, Ok(true)) {
        empty_since.remove(&id);
        return;
    }
    let since = *empty_since.entry(id).or_insert_with(Instant::now);
    if since.elapsed() < limits::NAMESPACE_KEPT_EMPTY || !is_time_over(record) {
        return;
    }
    match frontend.namespaces.forget(id).await {
        Ok(()) => tracing::info!(namespace = record.name(), "a deleted namespace is gone"),
        Err(error) => tracing::warn!(%error, namespace = record.name(), "a deleted namespace cannot be forgotten now"),
    }
}

async fn is_empty(frontend: &Frontend, record: &NamespaceRecord) -> Result<bool, Error> {
    for ask in everything() {
        let page = Runs::new(frontend, record, ask)?.list(None, 1).await?;
        if !page.runs.is_empty() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether the namespace's delay is over.
fn is_time_over(record: &NamespaceRecord) -> bool {
    record.deletion.is_some_and(|deletion| now() >= deletion.asked.plus(deletion.delay))
}

fn now() -> Time {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    Time(i64::try_from(since_epoch.as_nanos()).unwrap_or(i64::MAX))
}
