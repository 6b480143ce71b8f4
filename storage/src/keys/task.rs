//! Keys of the task table: tasks that are ready for workers, in the order in which they are handed out.
//!
//! What kinds of tasks there are and where one stands in its queue is not known here: a kind is a byte, a position any bytes, and
//! tasks lie in their order.

use bytes::Bytes;

use super::order::{KeyReader, KeyWriter, string_len};
use super::{KeyError, KeyRange, NamespaceId, after, prefix_range, table};

/// A task queue of a namespace, and the keys of its tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskQueueKey<'a> {
    /// The namespace.
    pub namespace: NamespaceId,
    /// The kind of its tasks: tasks of two kinds in queues of one name are in two queues.
    pub kind: u8,
    /// The task queue's name.
    pub task_queue: &'a str,
}

impl TaskQueueKey<'_> {
    /// The task at a position: what [`decode_task`] reads.
    pub fn task(&self, position: &[u8]) -> Bytes {
        self.start(position.len()).raw(position).finish()
    }

    /// All tasks of the queue, in the order in which they are handed out.
    pub fn range(&self) -> KeyRange {
        let prefix = self.start(0).finish();
        prefix_range(&prefix)
    }

    /// The tasks of the queue behind the one at a position, whether that is there or not.
    pub fn range_after(&self, position: &[u8]) -> KeyRange {
        after(&self.task(position))..self.range().end
    }

    fn start(&self, more: usize) -> KeyWriter {
        let bytes = 1 + 16 + 1 + string_len(self.task_queue) + more;
        KeyWriter::new(table::TASK, bytes).raw(&self.namespace).u8(self.kind).string(self.task_queue)
    }
}

/// The namespace, kind, task queue and position in the key of a task.
pub fn decode_task(key: &[u8]) -> Result<(NamespaceId, u8, String, &[u8]), KeyError> {
    let read = || {
        let mut reader = KeyReader::new(table::TASK, key)?;
        Some((reader.array()?, reader.u8()?, reader.string()?, reader.raw_rest()))
    };
    read().ok_or_else(|| KeyError::new("task", key))
}

/// All tasks of all queues: from this a new leader refills matching.
pub fn all_tasks() -> KeyRange {
    prefix_range(&[table::TASK])
}
