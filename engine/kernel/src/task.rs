//! Tasks: what a worker is asked to do, where that stands in its queue, and the row that says so.

use std::fmt;

use everlog_proto::api::deployment::v1::WorkerDeploymentVersion;
use prost::Message;

use crate::rows::{ascending, from_ascending};
use crate::{EntityKind, RunId, Time};

/// What kind of worker a task is for. The numbers are for ever: they are in the keys of task rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum TaskKind {
    /// A workflow task.
    Workflow = 1,
    /// An activity task.
    Activity = 2,
}

impl TaskKind {
    /// All kinds.
    pub const ALL: [TaskKind; 2] = [TaskKind::Workflow, TaskKind::Activity];

    /// The kind with this byte.
    pub fn from_byte(byte: u8) -> Option<TaskKind> {
        TaskKind::ALL.into_iter().find(|kind| *kind as u8 == byte)
    }
}

impl fmt::Display for TaskKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TaskKind::Workflow => "workflow",
            TaskKind::Activity => "activity",
        })
    }
}

/// Which task, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TaskKey {
    /// What kind of worker it is for.
    pub kind: TaskKind,
    /// The *normal* queue, also of tasks that are offered to a sticky one first.
    pub task_queue: String,
    /// Where in the queue.
    pub position: TaskPosition,
}

/// Where a task stands in its queue; those that are less come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskPosition {
    /// 1 (first) to 5 (last).
    pub priority: u8,
    /// When it became ready.
    pub scheduled_time: Time,
    /// The run.
    pub run_id: RunId,
    /// The event that scheduled it.
    pub scheduled_event_id: i64,
}

impl TaskPosition {
    /// Before every task.
    pub const FIRST: TaskPosition = TaskPosition {
        priority: 0,
        scheduled_time: Time(i64::MIN),
        run_id: RunId([0; 16]),
        scheduled_event_id: i64::MIN,
    };

    /// Bytes of one in a key.
    const LEN: usize = 1 + 8 + 16 + 8;

    /// Its bytes in a key, which are in its order.
    pub fn to_bytes(&self) -> [u8; TaskPosition::LEN] {
        let mut bytes = [0; TaskPosition::LEN];
        bytes[0] = self.priority;
        bytes[1..9].copy_from_slice(&ascending(self.scheduled_time.0));
        bytes[9..25].copy_from_slice(&self.run_id.0);
        bytes[25..].copy_from_slice(&ascending(self.scheduled_event_id));
        bytes
    }

    /// Reads what [`TaskPosition::to_bytes`] wrote.
    pub fn from_bytes(bytes: &[u8]) -> Option<TaskPosition> {
        let (&priority, rest) = bytes.split_first()?;
        let (time, rest) = rest.split_first_chunk()?;
        let (run_id, rest) = rest.split_first_chunk()?;
        Some(TaskPosition {
            priority,
            scheduled_time: Time(from_ascending(*time)),
            run_id: RunId(*run_id),
            scheduled_event_id: from_ascending(rest.try_into().ok()?),
        })
    }
}

/// A task to be matched with a poller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// Its place, which also identifies it.
    pub key: TaskKey,
    /// Its attempt: a task of an older attempt is void.
    pub attempt: i32,
    /// The sticky queue to try first.
    pub sticky: Option<String>,
    /// The version of the workers that alone may have it; `None` for whichever its queue leads to.
    pub version: Option<Box<WorkerDeploymentVersion>>,
    /// Whose task it is.
    pub entity: EntityKind,
}

/// The value of a task row: what its key does not say.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct TaskRow {
    /// The id of the entity: the workflow id of a workflow.
    #[prost(string, tag = "1")]
    pub entity_id: String,
    /// The attempt that is ready.
    #[prost(int32, tag = "2")]
    pub attempt: i32,
    /// The version of the workers that alone may have it; `None` for whichever its queue leads to.
    #[prost(message, optional, boxed, tag = "3")]
    pub version: Option<Box<WorkerDeploymentVersion>>,
    /// The number of the entity's kind.
    #[prost(uint32, tag = "4")]
    pub entity_kind: u32,
}

impl TaskRow {
    /// The row of a workflow's task, for workers of a version, or of whichever one its queue leads to.
    pub(crate) fn of_workflow(
        workflow_id: &str,
        attempt: i32,
        version: Option<Box<WorkerDeploymentVersion>>,
    ) -> TaskRow {
        let entity_kind = EntityKind::Workflow as u32;
        TaskRow { entity_id: workflow_id.to_owned(), attempt, version, entity_kind }
    }

    /// The row of the task of an activity that is no workflow's.
    pub(crate) fn of_activity(activity_id: &str, attempt: i32) -> TaskRow {
        let entity_kind = EntityKind::Activity as u32;
        TaskRow { entity_id: activity_id.to_owned(), attempt, version: None, entity_kind }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_and_positions_are_what_they_always_were() {
        let bytes = TaskKind::ALL.map(|kind| (kind.to_string(), kind as u8));
        assert_eq!(bytes, [("workflow".to_owned(), 1), ("activity".to_owned(), 2)]);
        assert_eq!(TaskKind::from_byte(2), Some(TaskKind::Activity));
        assert_eq!((TaskKind::from_byte(0), TaskKind::from_byte(3)), (None, None));
        let position = TaskPosition {
            priority: 3,
            scheduled_time: Time(1_000_000_007),
            run_id: RunId([0xab; 16]),
            scheduled_event_id: 5,
        };
        let bytes = position.to_bytes();
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "03800000003b9aca07abababababababababababababababab8000000000000005");
        assert_eq!(TaskPosition::from_bytes(&bytes), Some(position));
        assert_eq!(TaskPosition::from_bytes(&bytes[1..]), None);
        assert_eq!(TaskPosition::from_bytes(&[&bytes[..], &[0]].concat()), None);
    }

    #[test]
    fn bytes_are_in_the_order_of_positions() {
        let numbers = [i64::MIN, -1, 0, 1, i64::MAX];
        let mut positions: Vec<TaskPosition> = Vec::new();
        for (priority, time) in [1, 5].into_iter().flat_map(|priority| numbers.map(|time| (priority, time))) {
            for (run, scheduled_event_id) in [0, 0xff].into_iter().flat_map(|run| numbers.map(|id| (run, id))) {
                let (scheduled_time, run_id) = (Time(time), RunId([run; 16]));
                positions.push(TaskPosition { priority, scheduled_time, run_id, scheduled_event_id });
            }
        }
        assert!(positions.is_sorted());
        assert!(positions.iter().map(TaskPosition::to_bytes).is_sorted());
    }
}
