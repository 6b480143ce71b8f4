//! Keys of the task table: tasks that are ready for workers, in the order in which they are handed out.

use bytes::Bytes;

use super::order::{KeyReader, KeyWriter, string_len};
use super::{KeyError, KeyRange, NamespaceId, RunId, after, prefix_range, table};

/// What a worker does with a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum TaskKind {
    /// Workflow task.
    Workflow = 1,
    /// Activity task.
    Activity = 2,
}

impl TaskKind {
    fn from_u8(kind: u8) -> Option<TaskKind> {
        [TaskKind::Workflow, TaskKind::Activity].into_iter().find(|known| *known as u8 == kind)
    }
}

/// A task queue of a namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskQueueKey {
    /// The namespace.
    pub namespace: NamespaceId,
    /// Workflow and activity tasks of one name are two queues.
    pub kind: TaskKind,
    /// The task queue's name.
    pub task_queue: String,
}

impl TaskQueueKey {
    /// All tasks of the queue, in the order in which they are handed out.
    pub fn range(&self) -> KeyRange {
        let prefix = self.start(0).finish();
        prefix_range(&prefix)
    }

    /// The tasks of the queue behind `position`, the key of a task (there or gone).
    pub fn range_after(&self, position: &TaskKey) -> KeyRange {
        after(&position.encode())..self.range().end
    }

    fn start(&self, more: usize) -> KeyWriter {
        let bytes = 1 + 16 + 1 + string_len(&self.task_queue) + more;
        KeyWriter::new(table::TASK, bytes).raw(&self.namespace).u8(self.kind as u8).string(&self.task_queue)
    }
}

/// A task that waits for a worker.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskKey {
    /// Where it waits.
    pub queue: TaskQueueKey,
    /// Lower is sooner.
    pub priority: u8,
    /// Since when it may run, in nanoseconds since the Unix epoch.
    pub scheduled_time_ns: i64,
    /// The run that it belongs to.
    pub run_id: RunId,
    /// Id of the event that scheduled it.
    pub scheduled_event_id: i64,
}

impl TaskKey {
    /// The key.
    pub fn encode(&self) -> Bytes {
        self.queue
            .start(1 + 8 + 16 + 8)
            .u8(self.priority)
            .i64(self.scheduled_time_ns)
            .raw(&self.run_id)
            .i64(self.scheduled_event_id)
            .finish()
    }

    /// Reads what [`TaskKey::encode`] wrote.
    pub fn decode(key: &[u8]) -> Result<TaskKey, KeyError> {
        TaskKey::read(key).ok_or_else(|| KeyError::new("task", key))
    }

    fn read(key: &[u8]) -> Option<TaskKey> {
        let mut reader = KeyReader::new(table::TASK, key)?;
        let task = TaskKey {
            queue: TaskQueueKey {
                namespace: reader.array()?,
                kind: TaskKind::from_u8(reader.u8()?)?,
                task_queue: reader.string()?,
            },
            priority: reader.u8()?,
            scheduled_time_ns: reader.i64()?,
            run_id: reader.array()?,
            scheduled_event_id: reader.i64()?,
        };
        reader.end(task)
    }

    /// All tasks of all queues: from this a new leader refills matching.
    pub fn all() -> KeyRange {
        prefix_range(&[table::TASK])
    }
}
