//! Between the kernel's rows and the key space of storage.

use std::sync::Arc;

use bytes::Bytes;
use everlog_kernel::transition::{Task, TaskKey, TaskKind, TaskRow};
use everlog_kernel::{RowKey, RunId, Time};
use everlog_storage::keys::{self, KeyRange, RunKey, WakeKey, WorkflowKey};
use everlog_storage::state::RowChange;

use crate::{QueueId, WorkflowRef};

/// The change that a row of a transition makes.
pub fn change(address: &WorkflowRef, key: RowKey, value: Option<Bytes>) -> RowChange {
    let workflow = workflow_key(address);
    let key = match key {
        RowKey::Current => workflow.current(),
        RowKey::Info(run_id) => workflow.run(&run_id.0).info(),
        RowKey::State(run_id) => workflow.run(&run_id.0).state(),
        RowKey::History(run_id, first_event_id) => workflow.run(&run_id.0).history(first_event_id),
        RowKey::Activity(run_id, scheduled_event_id) => workflow.run(&run_id.0).activity(scheduled_event_id),
        RowKey::Timer(run_id, started_event_id) => workflow.run(&run_id.0).timer(started_event_id),
        RowKey::BufferedEvent(run_id, sequence) => workflow.run(&run_id.0).buffered_event(sequence),
        RowKey::SignalRequest(run_id, request_id) => workflow.run(&run_id.0).signal_request(&request_id),
        RowKey::Task(key) => task_key(address, key).encode(),
        RowKey::Wake(time, run_id) => WakeKey::new(time.0, &workflow, run_id.0).encode(),
        RowKey::Visibility(key) => keys::VisibilityKey {
            namespace: address.namespace.id.0,
            close_time_ns: (key.close_time != Time::MAX).then_some(key.close_time.0),
            start_time_ns: key.start_time.0,
            run_id: key.run_id.0,
        }
        .encode(),
        RowKey::Run(run_id) => {
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
    run.history(from)..run.history(to)
}

/// The first event of the history row under `key`.
pub fn history_first_event(key: &[u8]) -> Option<i64> {
    match keys::RunRow::decode(key) {
        Ok((_, keys::RunRow::History { first_event_id })) => Some(first_event_id),
        _ => None,
    }
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
