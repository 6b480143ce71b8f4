//! Tasks: what a worker is asked to do, where that stands in its queue, and the row that says so.

use std::fmt;

use everlog_proto::api::deployment::v1::WorkerDeploymentVersion;
use prost::Message;

use crate::rows::{ascending, from_ascending};
use crate::{EntityKind, Lane, RunId, Time, Weight};

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

/// Where a task stands in its queue; of one lane, those that are less come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskPosition {
    /// The lane of its fairness key, which is for matching to choose.
    pub lane: Lane,
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
        lane: Lane::NONE,
        priority: 0,
        scheduled_time: Time(i64::MIN),
        run_id: RunId([0; 16]),
        scheduled_event_id: i64::MIN,
    };

    /// Bytes of a lane in a key, in front of the others. A task without a fairness key has none.
    const LANE_LEN: usize = 1 + 8;

    /// Bytes of one without a lane.
    const LEN: usize = 1 + 8 + 16 + 8;

    /// In front of a lane, where a priority stands otherwise.
    const LANE_MARK: u8 = 0x80;

    /// Before every task of a lane.
    pub fn first_of(lane: Lane) -> TaskPosition {
        TaskPosition { lane, ..TaskPosition::FIRST }
    }

    /// Behind every task of a lane.
    pub fn end_of(lane: Lane) -> TaskPosition {
        TaskPosition {
            lane,
            priority: TaskPosition::LANE_MARK - 1,
            scheduled_time: Time(i64::MAX),
            run_id: RunId([0xff; 16]),
            scheduled_event_id: i64::MAX,
        }
    }

    /// Gives its bytes in a key, which are in its order.
    pub fn with_bytes<T>(&self, give: impl FnOnce(&[u8]) -> T) -> T {
        let mut bytes = [0; TaskPosition::LANE_LEN + TaskPosition::LEN];
        let (lane, rest) = bytes.split_at_mut(TaskPosition::LANE_LEN);
        lane[0] = TaskPosition::LANE_MARK;
        lane[1..].copy_from_slice(&self.lane.0.to_be_bytes());
        rest[0] = self.priority;
        rest[1..9].copy_from_slice(&ascending(self.scheduled_time.0));
        rest[9..25].copy_from_slice(&self.run_id.0);
        rest[25..].copy_from_slice(&ascending(self.scheduled_event_id));
        match self.lane {
            Lane::NONE => give(&bytes[TaskPosition::LANE_LEN..]),
            _ => give(&bytes),
        }
    }

    /// Reads what [`TaskPosition::with_bytes`] gave.
    pub fn from_bytes(bytes: &[u8]) -> Option<TaskPosition> {
        let (lane, bytes) = match bytes.strip_prefix(&[TaskPosition::LANE_MARK]) {
            None => (Lane::NONE, bytes),
            Some(bytes) => {
                let (lane, bytes) = bytes.split_first_chunk()?;
                // There is one way to write a task without one.
                (Some(Lane(u64::from_be_bytes(*lane))).filter(|lane| *lane != Lane::NONE)?, bytes)
            }
        };
        let (&priority, rest) = bytes.split_first().filter(|(priority, _)| **priority < TaskPosition::LANE_MARK)?;
        let (time, rest) = rest.split_first_chunk()?;
        let (run_id, rest) = rest.split_first_chunk()?;
        Some(TaskPosition {
            lane,
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
    /// How much its lane weighs, if the task says so.
    pub weight: Weight,
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
    /// How much its lane weighs, in thousandths, if the task says so.
    #[prost(uint32, tag = "5")]
    pub weight: u32,
}

impl TaskRow {
    /// The row of a workflow's task, for workers of a version, or of whichever one its queue leads to.
    pub(crate) fn of_workflow(
        workflow_id: &str,
        attempt: i32,
        version: Option<Box<WorkerDeploymentVersion>>,
        weight: Weight,
    ) -> TaskRow {
        let entity_kind = EntityKind::Workflow as u32;
        TaskRow { entity_id: workflow_id.to_owned(), attempt, version, entity_kind, weight: weight.0 }
    }

    /// The row of the task of an activity that is no workflow's.
    pub(crate) fn of_activity(activity_id: &str, attempt: i32, weight: Weight) -> TaskRow {
        let entity_kind = EntityKind::Activity as u32;
        TaskRow { entity_id: activity_id.to_owned(), attempt, version: None, entity_kind, weight: weight.0 }
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
        let unfair = TaskPosition {
            lane: Lane::NONE,
            priority: 3,
            scheduled_time: Time(1_000_000_007),
            run_id: RunId([0xab; 16]),
            scheduled_event_id: 5,
        };
        let golden = "03800000003b9aca07abababababababababababababababab8000000000000005";
        let of_a_lane = TaskPosition { lane: Lane(0x0102), ..unfair };
        for (position, golden) in [(unfair, golden.to_owned()), (of_a_lane, format!("800000000000000102{golden}"))] {
            let bytes = position.with_bytes(<[u8]>::to_vec);
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(hex, golden);
            assert_eq!(TaskPosition::from_bytes(&bytes), Some(position));
            assert_eq!(TaskPosition::from_bytes(&bytes[1..]), None);
            assert_eq!(TaskPosition::from_bytes(&[&bytes[..], &[0]].concat()), None);
            // No lane at all, written as if it were one, and a lane in a lane.
            let twice = [&[0x80, 0, 0, 0, 0, 0, 0, 0, 0], &bytes[..]].concat();
            assert_eq!(TaskPosition::from_bytes(&twice), None);
        }
    }

    #[test]
    fn bytes_are_in_the_order_of_positions() {
        let numbers = [i64::MIN, -1, 0, 1, i64::MAX];
        let mut positions: Vec<TaskPosition> = Vec::new();
        for lane in [0, 1, 0x80, u64::MAX].map(Lane) {
            positions.push(TaskPosition::first_of(lane));
            for (priority, time) in [1, 5].into_iter().flat_map(|priority| numbers.map(|time| (priority, time))) {
                for (run, scheduled_event_id) in [0, 0xff].into_iter().flat_map(|run| numbers.map(|id| (run, id))) {
                    let (scheduled_time, run_id) = (Time(time), RunId([run; 16]));
                    positions.push(TaskPosition { lane, priority, scheduled_time, run_id, scheduled_event_id });
                }
            }
            positions.push(TaskPosition::end_of(lane));
        }
        assert!(positions.is_sorted());
        assert!(positions.iter().map(|position| position.with_bytes(<[u8]>::to_vec)).is_sorted());
    }
}
