//! Between the kernel's rows and the key space of storage.

use bytes::Bytes;
use everlog_kernel::transition::{Task, TaskKey, TaskKind, TaskPosition, TaskRow, VisibilityKey};
use everlog_kernel::{EntityKind, NamespaceId, RowKey, RunId, RunRow, RunRowKind, Weight};
use everlog_storage::keys::{self, EntityKey, KeyRange, RunKey, TaskQueueKey, WakeKey};
use everlog_storage::state::RowChange;

use crate::{EntityRef, QueueId, WorkflowRef};

/// The change that a row of a transition makes.
pub fn change(rows: &EntityKey<'_>, key: RowKey, value: Option<Bytes>) -> RowChange {
    let key = match key {
        RowKey::Current => rows.current(),
        RowKey::Run(run_id, row) => run_row(&rows.run(&run_id.0), &row),
        RowKey::Task(key) => {
            let queue = task_queue_key(NamespaceId(rows.namespace), key.kind, &key.task_queue);
            key.position.with_bytes(|position| queue.task(position))
        }
        RowKey::Wake(time, run_id) => WakeKey::new(time.0, rows, run_id.0).encode(),
        RowKey::Visibility(key) => {
            let kind = EntityKind::from_byte(rows.place.kind()).unwrap_or_default();
            visibility_key(listed_under(NamespaceId(rows.namespace), kind), &key)
        }
        RowKey::WholeRun(run_id) => {
            let range = rows.run(&run_id.0).range();
            return RowChange::DeleteRange { start: range.start, end: range.end };
        }
        RowKey::HistoryFrom(run_id, first) => {
            let run = rows.run(&run_id.0);
            let start = run_row(&run, &RunRow::history(first));
            return RowChange::DeleteRange { start, end: run.kind(RunRowKind::History as u8).end };
        }
    };
    match value {
        Some(value) => RowChange::Put { key, value },
        None => RowChange::Delete { key },
    }
}

/// The history rows of a run whose first event is one of `[from, to)`.
pub fn history_range(address: &WorkflowRef, run_id: RunId, from: i64, to: i64) -> KeyRange {
    let entity = address.entity();
    let run = entity.key().run(&run_id.0);
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

/// Under which id the entities of a kind lie in the lists of a namespace: those of workflows under its own, so that lists of one kind never
/// meet another.
pub fn listed_under(namespace: NamespaceId, kind: EntityKind) -> NamespaceId {
    /// Random: no namespace has the id of another one's lists.
    const SALT: u128 = 0x9d1f_6a2e_5b84_4c37_a1c6_7e03_d95b_82f4;
    match kind {
        EntityKind::Workflow => namespace,
        kind => NamespaceId::from(u128::from(namespace) ^ SALT.wrapping_mul(2 * kind as u128 - 1)),
    }
}

/// The key of what lists show of a run.
pub fn visibility_key(namespace: NamespaceId, key: &VisibilityKey) -> Bytes {
    keys::visibility_row(&namespace.0, &key.to_bytes())
}

fn task_queue_key(namespace: NamespaceId, kind: TaskKind, task_queue: &str) -> TaskQueueKey<'_> {
    TaskQueueKey { namespace: namespace.0, kind: kind as u8, task_queue }
}

/// The task rows of a queue behind `after`. Those of all versions lie in one line.
pub fn task_range(queue: &QueueId, after: Option<&TaskPosition>) -> KeyRange {
    let key = task_queue_key(queue.namespace_id, queue.kind, &queue.name);
    match after {
        None => key.range(),
        Some(after) => after.with_bytes(|after| key.range_after(after)),
    }
}

/// The entity and the task that a task row stands for.
pub fn task(key: &[u8], value: &[u8]) -> Result<(EntityRef, Task), String> {
    let (namespace, kind, task_queue, position) = keys::decode_task(key).map_err(|error| error.to_string())?;
    let kind = TaskKind::from_byte(kind).ok_or_else(|| format!("a task of an unknown kind, {kind}"))?;
    let position = TaskPosition::from_bytes(position).ok_or("a task without a position")?;
    let row = TaskRow::from_row(value).map_err(|error| error.to_string())?;
    let TaskRow { entity_id, attempt, version, entity_kind, weight } = row;
    let entity = EntityRef::decode(entity_kind, namespace, entity_id)?;
    let key = TaskKey { kind, task_queue, position };
    let task = Task { key, attempt, sticky: None, version, entity: entity.kind, weight: Weight(weight) };
    Ok((entity, task))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use everlog_kernel::{Lane, Namespace, Time};

    use super::*;

    const RUN: RunId = RunId([0xab; 16]);

    fn workflow() -> WorkflowRef {
        let id = NamespaceId(*b"namespace-is-16b");
        let namespace = Namespace { id, name: "default".to_owned(), retention: Duration::ZERO, ..Namespace::default() };
        WorkflowRef { namespace: Arc::new(namespace), workflow_id: "order-1".into() }
    }

    fn put(key: RowKey, value: &'static [u8]) -> (Bytes, Bytes) {
        match change(&workflow().entity().key(), key, Some(Bytes::from_static(value))) {
            RowChange::Put { key, value } => (key, value),
            other => panic!("{other:?}"),
        }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn task_row() -> RowKey {
        let position = TaskPosition {
            lane: Lane::NONE,
            priority: 3,
            scheduled_time: Time(1_000_000_007),
            run_id: RUN,
            scheduled_event_id: 5,
        };
        RowKey::Task(TaskKey { kind: TaskKind::Activity, task_queue: "queue".to_owned(), position })
    }

    #[test]
    fn keys_are_what_they_always_were() {
        let visibility = VisibilityKey { close_time: Time::MAX, start_time: Time(1_000), run_id: RUN };
        let closed = VisibilityKey { close_time: Time(2_000), ..visibility };
        for (row, golden) in [
            (
                task_row(),
                "036e616d6573706163652d69732d313662027175657565000103800000003b9aca07\
                 abababababababababababababababab8000000000000005",
            ),
            (
                RowKey::Visibility(visibility),
                "046e616d6573706163652d69732d31366200000000000000007ffffffffffffc17abababababababababababababababab",
            ),
            (
                RowKey::Visibility(closed),
                "046e616d6573706163652d69732d3136627ffffffffffff82f7ffffffffffffc17abababababababababababababababab",
            ),
        ] {
            assert_eq!(hex(&put(row, b"").0), golden);
        }
    }

    #[test]
    fn the_end_of_a_history_is_a_range_of_history_rows() {
        let entity = workflow().entity();
        let RowChange::DeleteRange { start, end } = change(&entity.key(), RowKey::HistoryFrom(RUN, 5), None) else {
            panic!("a range")
        };
        let run = entity.key().run(&RUN.0);
        let is_in = |row: RunRow| (start.clone()..end.clone()).contains(&run_row(&run, &row));
        assert!(is_in(RunRow::history(5)) && is_in(RunRow::history(i64::MAX)));
        assert!(!is_in(RunRow::history(4)));
        for kind in RunRowKind::ALL.iter().filter(|kind| **kind != RunRowKind::History) {
            assert!(!is_in(RunRow::only(*kind)), "{}", kind.name());
        }
    }

    #[test]
    fn tasks_are_read_as_they_were_written() {
        let RowKey::Task(expected) = task_row() else { panic!("a task") };
        // The workflow's id, the second attempt, and a weight of 2.5.
        let (key, value) = put(task_row(), b"\x0a\x07order-1\x10\x02\x28\xc4\x13");
        let (entity, found) = task(&key, &value).unwrap();
        assert_eq!(entity, workflow().entity());
        let (workflows, weight) = (EntityKind::Workflow, Weight(2_500));
        let task = Task { key: expected.clone(), attempt: 2, sticky: None, version: None, entity: workflows, weight };
        assert_eq!(found, task);
        let queue = QueueId::new(entity.namespace_id, TaskKind::Activity, "queue");
        assert!(task_range(&queue, None).contains(&key));
        assert!(!task_range(&queue, Some(&expected.position)).contains(&key));
        assert_eq!(queue.task(expected.position), expected);
    }

    #[test]
    fn tasks_that_cannot_be_read_say_why() {
        let (key, value) = put(task_row(), b"\x0a\x07order-1\x10\x02");
        let mut unknown = key.to_vec();
        unknown[17] = 9;
        assert_eq!(task(&unknown, &value).unwrap_err(), "a task of an unknown kind, 9");
        assert_eq!(task(&key[..key.len() - 1], &value).unwrap_err(), "a task without a position");
        assert!(task(&key, b"").is_err() && task(b"\x01", &value).is_err());
        let another_kind = [&value[..], b"\x20\x07"].concat();
        assert_eq!(task(&key, &another_kind).unwrap_err(), "an entity of an unknown kind, 7");
    }
}
