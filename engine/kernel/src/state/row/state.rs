//! The row that is written with every transition of a run.

use bytes::Bytes;
use everlog_proto::api::enums::v1::WorkflowExecutionStatus;
use everlog_proto::wkt;
use prost::Message;

use super::{decode, encode, required};
use crate::state::{CorruptRow, RunState, WorkflowTask, WorkflowTaskProblem};
use crate::{Lane, RunId, Time, time};

#[derive(Message)]
struct StateRow {
    #[prost(enumeration = "WorkflowExecutionStatus", tag = "1")]
    status: i32,
    #[prost(int64, tag = "2")]
    next_event_id: i64,
    #[prost(uint64, tag = "3")]
    history_bytes: u64,
    #[prost(int64, tag = "4")]
    transition_count: i64,
    #[prost(message, optional, tag = "5")]
    workflow_task: Option<WorkflowTaskRow>,
    #[prost(int64, tag = "6")]
    last_completed_started_event_id: i64,
    #[prost(int32, tag = "7")]
    next_workflow_task_attempt: i32,
    #[prost(bool, tag = "8")]
    had_workflow_task: bool,
    #[prost(uint32, tag = "9")]
    signal_count: u32,
    #[prost(uint64, tag = "10")]
    next_buffered: u64,
    #[prost(sfixed64, optional, tag = "11")]
    wake_at: Option<i64>,
    #[prost(bool, tag = "16")]
    cancel_requested: bool,
    #[prost(bool, tag = "17")]
    close_attempted: bool,
    #[prost(sfixed64, optional, tag = "18")]
    close_time: Option<i64>,
    #[prost(sfixed64, optional, tag = "19")]
    delete_time: Option<i64>,
    #[prost(int32, tag = "20")]
    workflow_task_problems: i32,
    /// A `WorkflowTaskFailedCause`.
    #[prost(int32, optional, tag = "21")]
    last_failed_cause: Option<i32>,
    /// A `TimeoutType`.
    #[prost(int32, optional, tag = "22")]
    last_timeout_type: Option<i32>,
    #[prost(bytes = "bytes", optional, tag = "23")]
    reset_run_id: Option<Bytes>,
    #[prost(bool, tag = "24")]
    is_remains: bool,
    #[prost(bool, tag = "25")]
    deletion_asked: bool,
}

#[derive(Message)]
struct WorkflowTaskRow {
    #[prost(int64, tag = "1")]
    scheduled_event_id: i64,
    #[prost(sfixed64, optional, tag = "2")]
    scheduled_time: Option<i64>,
    /// If it is another one than `scheduled_time`.
    #[prost(sfixed64, optional, tag = "3")]
    original_scheduled_time: Option<i64>,
    #[prost(int32, tag = "4")]
    attempt: i32,
    #[prost(message, optional, tag = "5")]
    start_to_close_timeout: Option<wkt::Duration>,
    /// 0 without one: rows from before there were any are right.
    #[prost(fixed64, tag = "6")]
    lane: u64,
}

impl RunState {
    /// The value of its row.
    pub(crate) fn to_row(&self) -> Bytes {
        encode(&StateRow {
            status: self.status,
            next_event_id: self.next_event_id,
            history_bytes: self.history_bytes,
            transition_count: self.transition_count,
            workflow_task: self.workflow_task.as_ref().filter(|task| !task.is_speculative).map(WorkflowTask::to_row),
            last_completed_started_event_id: self.last_completed_started_event_id,
            next_workflow_task_attempt: self.next_workflow_task_attempt,
            had_workflow_task: self.had_workflow_task,
            signal_count: self.signal_count,
            next_buffered: self.next_buffered,
            wake_at: self.wake_at.map(|time| time.0),
            cancel_requested: self.cancel_requested,
            close_attempted: self.close_attempted,
            close_time: self.close_time.map(|time| time.0),
            delete_time: self.delete_time.map(|time| time.0),
            workflow_task_problems: self.workflow_task_problems,
            last_failed_cause: match self.last_workflow_task_problem {
                Some(WorkflowTaskProblem::Failed(cause)) => Some(cause),
                _ => None,
            },
            last_timeout_type: match self.last_workflow_task_problem {
                Some(WorkflowTaskProblem::TimedOut(timeout_type)) => Some(timeout_type),
                _ => None,
            },
            reset_run_id: self.reset_run_id.map(|run_id| Bytes::copy_from_slice(&run_id.0)),
            is_remains: self.is_remains,
            deletion_asked: self.deletion_asked,
        })
    }

    /// From the value of its row.
    pub(crate) fn from_row(value: &[u8]) -> Result<RunState, CorruptRow> {
        let row: StateRow = decode(value)?;
        if row.status() == WorkflowExecutionStatus::Unspecified || row.next_event_id < 1 {
            return Err(CorruptRow("a state without a status or events".into()));
        }
        Ok(RunState {
            status: row.status,
            next_event_id: row.next_event_id,
            history_bytes: row.history_bytes,
            transition_count: row.transition_count,
            workflow_task: row.workflow_task.map(WorkflowTask::from_row).transpose()?,
            last_completed_started_event_id: row.last_completed_started_event_id,
            next_workflow_task_attempt: row.next_workflow_task_attempt,
            had_workflow_task: row.had_workflow_task,
            cancel_requested: row.cancel_requested,
            close_attempted: row.close_attempted,
            workflow_task_problems: row.workflow_task_problems,
            last_workflow_task_problem: row
                .last_failed_cause
                .map(WorkflowTaskProblem::Failed)
                .or(row.last_timeout_type.map(WorkflowTaskProblem::TimedOut)),
            signal_count: row.signal_count,
            next_buffered: row.next_buffered,
            close_time: row.close_time.map(Time),
            delete_time: row.delete_time.map(Time),
            wake_at: row.wake_at.map(Time),
            reset_run_id: row.reset_run_id.map(run_id).transpose()?,
            is_remains: row.is_remains,
            deletion_asked: row.deletion_asked,
        })
    }
}

fn run_id(bytes: Bytes) -> Result<RunId, CorruptRow> {
    Ok(RunId(required(bytes[..].try_into().ok(), "run after a reset")?))
}

impl WorkflowTask {
    fn to_row(&self) -> WorkflowTaskRow {
        let original = self.original_scheduled_time;
        WorkflowTaskRow {
            scheduled_event_id: self.scheduled_event_id,
            scheduled_time: Some(self.scheduled_time.0),
            original_scheduled_time: (original != self.scheduled_time).then_some(original.0),
            attempt: self.attempt,
            start_to_close_timeout: Some(time::to_proto(self.start_to_close_timeout)),
            lane: self.lane.0,
        }
    }

    fn from_row(row: WorkflowTaskRow) -> Result<WorkflowTask, CorruptRow> {
        let scheduled_time = Time(required(row.scheduled_time, "scheduled time")?);
        let timeout = time::positive(row.start_to_close_timeout.as_ref())
            .map_err(|wrong| CorruptRow(format!("a timeout: {wrong}")))?;
        Ok(WorkflowTask {
            scheduled_event_id: row.scheduled_event_id,
            scheduled_time,
            original_scheduled_time: row.original_scheduled_time.map_or(scheduled_time, Time),
            attempt: row.attempt,
            start_to_close_timeout: required(timeout, "timeout")?,
            started: None,
            offered_sticky: false,
            is_speculative: false,
            lane: Lane(row.lane),
        })
    }
}
