//! Between the kernel's rows and the key space of storage.

use std::sync::Arc;

use bytes::Bytes;
use everlog_kernel::transition::{Task, TaskKey, TaskKind, TaskRow};
use everlog_kernel::{RowKey, RunId, RunRow, RunRowKind, Time};
use everlog_storage::keys::{self, KeyRange, RunKey, WakeKey, WorkflowKey};
use everlog_storage::state::RowChange;

use crate::{QueueId, WorkflowRef};

/// The change that a row of a transition makes.
pub fn change(address: &WorkflowRef, key: RowKey, value: Option<Bytes>) -> RowChange {
    let workflow = workflow_key(address);
    let key = match key {
        RowKey::Current => workflow.current(),
        RowKey::Run(run_id, row) => run_row(&workflow.run(&run_id.0), &row),
        RowKey::Task(key) => task_key(address, key).encode(),
        RowKey::Wake(time, run_id) => WakeKey::new(time.0, &workflow, run_id.0).encode(),
        RowKey::Visibility(key) => keys::VisibilityKey {
            namespace: address.namespace.id.0,
            close_time_ns: (key.close_time != Time::MAX).then_some(key.close_time.0),
            start_time_ns: key.start_time.0,
            run_id: key.run_id.0,
        }
        .encode(),
        RowKey::WholeRun(run_id) => {
            let range = workflow.run(&run_id.0).range();
            return RowChange::DeleteRange { start: range.start, end: range.end };
        }
    };
    match value {
        Some(value) => RowChange::Put { key, value },
        None => RowChange::Delete { key },
    }
}

/// The keys of a workflow.
pub fn workflow_key(address: &WorkflowRef) -> WorkflowKey<'_> {
    WorkflowKey::new(address.namespace.id.0, &address.workflow_id)
}

/// The keys of a run.
pub fn run_key(address: &WorkflowRef, run_id: RunId) -> RunKey<'_> {
    workflow_key(address).run(&run_id.0)
}

/// The history rows of a run whose first event is one of `[from, to)`.
pub fn history_range(address: &WorkflowRef, run_id: RunId, from: i64, to: i64) -> KeyRange {
    let run = run_key(address, run_id);
    run_row(&run, &RunRow::history(from))..run_row(&run, &RunRow::history(to))
}

/// The key of a row of a run.
pub fn run_row(run: &RunKey<'_>, row: &RunRow) -> Bytes {
    row.suffix.with_bytes(|suffix| run.row(row.kind as u8, suffix))
}

/// The key of a row of which the run has one.
pub fn only_row(run: &RunKey<'_>, kind: RunRowKind) -> Bytes {
    run.row(kind as u8, &[])
}

/// Which row of which run lies under `key`.
pub fn decode_run_row(key: &[u8]) -> Result<(RunId, RunRow), String> {
    let (run_id, kind, suffix) = keys::decode_run_row(key).map_err(|error| error.to_string())?;
    let row = RunRow::decode(kind, suffix).ok_or_else(|| format!("a row of an unknown kind, {kind}"))?;
    Ok((RunId(run_id), row))
}

/// The first event of the history row under `key`.
pub fn history_first_event(key: &[u8]) -> Option<i64> {
    decode_run_row(key).ok()?.1.first_event_id()
}

fn task_kind(kind: TaskKind) -> keys::TaskKind {
    match kind {
        TaskKind::Workflow => keys::TaskKind::Workflow,
        TaskKind::Activity => keys::TaskKind::Activity,
    }
}

fn task_key(address: &WorkflowRef, key: TaskKey) -> keys::TaskKey {
    keys::TaskKey {
        queue: keys::TaskQueueKey {
            namespace: address.namespace.id.0,
            kind: task_kind(key.kind),
            task_queue: key.task_queue,
        },
        priority: key.priority,
        scheduled_time_ns: key.scheduled_time.0,
        run_id: key.run_id.0,
        scheduled_event_id: key.scheduled_event_id,
    }
}

/// The task rows of a queue behind `after`.
pub fn task_range(queue: &QueueId, after: Option<&TaskKey>) -> KeyRange {
    let key = keys::TaskQueueKey {
        namespace: queue.namespace_id.0,
        kind: task_kind(queue.kind),
        task_queue: queue.name.clone(),
    };
    match after {
        None => key.range(),
        Some(after) => key.range_after(&keys::TaskKey {
            queue: key.clone(),
            priority: after.priority,
            scheduled_time_ns: after.scheduled_time.0,
            run_id: after.run_id.0,
            scheduled_event_id: after.scheduled_event_id,
        }),
    }
}

/// The namespace id and the task that a task row stands for.
pub fn task(key: &[u8], value: &[u8]) -> Result<([u8; 16], Arc<str>, Task), String> {
    let key = keys::TaskKey::decode(key).map_err(|error| error.to_string())?;
    let row = TaskRow::from_row(value).map_err(|error| error.to_string())?;
    let kind = match key.queue.kind {
        keys::TaskKind::Workflow => TaskKind::Workflow,
        keys::TaskKind::Activity => TaskKind::Activity,
    };
    let task = Task {
        key: TaskKey {
            kind,
            task_queue: key.queue.task_queue,
            priority: key.priority,
            scheduled_time: Time(key.scheduled_time_ns),
            run_id: RunId(key.run_id),
            scheduled_event_id: key.scheduled_event_id,
        },
        attempt: row.attempt,
        sticky: None,
    };
    Ok((key.queue.namespace, row.workflow_id.into(), task))
}
