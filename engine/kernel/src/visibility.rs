//! What lists show of a run.

use bytes::Bytes;
use everlog_proto::api::batch::v1::BatchOperationInfo;
use everlog_proto::api::common::v1::{Memo, SearchAttributes, WorkflowExecution, WorkflowType};
use everlog_proto::api::enums::v1::WorkflowExecutionStatus;
use everlog_proto::wkt;
use prost::Message;

use crate::payload_map::PayloadMap;
use crate::rows::{ascending, from_ascending};
use crate::{Run, RunId, Time, time};

/// Where a run stands in the lists: open runs first, then by close time and start time, newest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct VisibilityKey {
    /// When it closed, or [`Time::MAX`].
    pub close_time: Time,
    /// When it was started.
    pub start_time: Time,
    /// The run.
    pub run_id: RunId,
}

impl VisibilityKey {
    /// Bytes of one, without the namespace.
    const LEN: usize = 8 + 8 + 16;

    /// Its bytes in a key, which are in the order of lists.
    pub fn to_bytes(&self) -> [u8; VisibilityKey::LEN] {
        let mut bytes = [0; VisibilityKey::LEN];
        // The inverse of a number descends where the number ascends.
        bytes[..8].copy_from_slice(&ascending(!self.close_time.0));
        bytes[8..16].copy_from_slice(&ascending(!self.start_time.0));
        bytes[16..].copy_from_slice(&self.run_id.0);
        bytes
    }

    /// Reads what [`VisibilityKey::to_bytes`] wrote.
    pub fn from_bytes(bytes: &[u8]) -> Option<VisibilityKey> {
        let (close, rest) = bytes.split_first_chunk()?;
        let (start, run_id) = rest.split_first_chunk()?;
        Some(VisibilityKey {
            close_time: Time(!from_ascending(*close)),
            start_time: Time(!from_ascending(*start)),
            run_id: RunId(run_id.try_into().ok()?),
        })
    }
}

/// `WorkflowExecutionInfo`, as far as it is filled in. Stored as it is encoded here, and listed without being decoded.
///
/// Messages that come from the run's first event stay encoded. On the wire an embedded message is a field of bytes, so they are
/// handed on without being looked at, and their maps keep the order in which they were encoded first.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Record {
    #[prost(message, optional, tag = "1")]
    execution: Option<WorkflowExecution>,
    #[prost(bytes = "bytes", optional, tag = "2")]
    workflow_type: Option<Bytes>,
    #[prost(message, optional, tag = "3")]
    start_time: Option<wkt::Timestamp>,
    #[prost(message, optional, tag = "4")]
    close_time: Option<wkt::Timestamp>,
    #[prost(int32, tag = "5")]
    status: i32,
    #[prost(int64, tag = "6")]
    history_length: i64,
    #[prost(bytes = "bytes", tag = "7")]
    parent_namespace_id: Bytes,
    #[prost(bytes = "bytes", optional, tag = "8")]
    parent_execution: Option<Bytes>,
    #[prost(message, optional, tag = "9")]
    execution_time: Option<wkt::Timestamp>,
    #[prost(bytes = "bytes", optional, tag = "10")]
    memo: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "11")]
    search_attributes: Option<Bytes>,
    #[prost(string, tag = "13")]
    task_queue: String,
    #[prost(int64, tag = "14")]
    state_transition_count: i64,
    #[prost(int64, tag = "15")]
    history_size_bytes: i64,
    #[prost(message, optional, tag = "17")]
    execution_duration: Option<wkt::Duration>,
    #[prost(bytes = "bytes", optional, tag = "18")]
    root_execution: Option<Bytes>,
    #[prost(bytes = "bytes", tag = "21")]
    first_run_id: Bytes,
    #[prost(bytes = "bytes", optional, tag = "24")]
    priority: Option<Bytes>,
    /// `ScheduleListInfo`, of a schedule: no field of Temporal's.
    #[prost(bytes = "bytes", optional, tag = "200")]
    schedule: Option<Bytes>,
    /// `BatchOperationInfo`, of a batch job: the same.
    #[prost(bytes = "bytes", optional, tag = "201")]
    batch_job: Option<Bytes>,
}

/// The record of a schedule: it looks like that of the workflow that it is with Temporal, but for its id.
pub(crate) fn schedule_record(
    id: &str,
    run_id: RunId,
    created: Time,
    is_paused: bool,
    memo: Option<&Memo>,
    search_attributes: Option<&SearchAttributes>,
    listed: Bytes,
) -> Record {
    let encoded = search_attributes.map(|attributes| attributes.encode_to_vec().into());
    let mut attributes = PayloadMap::of(encoded.as_ref());
    attributes.set_bool("TemporalSchedulePaused", is_paused);
    let name = "temporal-sys-scheduler-workflow".to_owned();
    Record {
        execution: Some(WorkflowExecution { workflow_id: id.to_owned(), run_id: run_id.to_string() }),
        workflow_type: Some(WorkflowType { name }.encode_to_vec().into()),
        start_time: Some(created.to_proto()),
        execution_time: Some(created.to_proto()),
        status: WorkflowExecutionStatus::Running.into(),
        memo: memo.map(|memo| memo.encode_to_vec().into()),
        search_attributes: Some(attributes.encode_to_vec().into()),
        task_queue: "temporal-sys-per-ns-tq".to_owned(),
        schedule: Some(listed),
        ..Record::default()
    }
}

/// The record of a batch job: what lists show of it, and what they find it by.
pub(crate) fn batch_job_record(id: &str, run_id: RunId, status: i32, info: &BatchOperationInfo) -> Record {
    Record {
        execution: Some(WorkflowExecution { workflow_id: id.to_owned(), run_id: run_id.to_string() }),
        start_time: info.start_time,
        execution_time: info.start_time,
        close_time: info.close_time,
        status,
        batch_job: Some(info.encode_to_vec().into()),
        ..Record::default()
    }
}

/// The record of an activity that is no workflow's: its id stands where a workflow's does, and so does its type.
pub(crate) struct ActivityRecord<'a> {
    pub(crate) id: &'a str,
    pub(crate) run_id: RunId,
    pub(crate) activity_type: &'a str,
    pub(crate) scheduled: Time,
    /// When the first attempt is due.
    pub(crate) due: Time,
    pub(crate) closed: Option<Time>,
    pub(crate) status: WorkflowExecutionStatus,
    pub(crate) search_attributes: Option<&'a SearchAttributes>,
    pub(crate) task_queue: &'a str,
    pub(crate) transition_count: i64,
}

impl ActivityRecord<'_> {
    pub(crate) fn to_record(&self) -> Record {
        let name = self.activity_type.to_owned();
        Record {
            execution: Some(WorkflowExecution { workflow_id: self.id.to_owned(), run_id: self.run_id.to_string() }),
            workflow_type: Some(WorkflowType { name }.encode_to_vec().into()),
            start_time: Some(self.scheduled.to_proto()),
            close_time: self.closed.map(Time::to_proto),
            status: self.status.into(),
            execution_time: Some(self.due.to_proto()),
            search_attributes: self.search_attributes.map(|attributes| attributes.encode_to_vec().into()),
            task_queue: self.task_queue.to_owned(),
            state_transition_count: self.transition_count,
            execution_duration: self.closed.map(|closed| time::to_proto(closed.since(self.scheduled))),
            ..Record::default()
        }
    }
}

/// What [`Record`] takes from `WorkflowExecutionStartedEventAttributes`.
#[derive(Clone, PartialEq, Message)]
struct Shown {
    #[prost(bytes = "bytes", optional, tag = "1")]
    workflow_type: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "3")]
    parent_workflow_execution: Option<Bytes>,
    #[prost(bytes = "bytes", tag = "16")]
    first_execution_run_id: Bytes,
    #[prost(bytes = "bytes", optional, tag = "22")]
    memo: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "23")]
    search_attributes: Option<Bytes>,
    #[prost(bytes = "bytes", tag = "27")]
    parent_workflow_namespace_id: Bytes,
    #[prost(bytes = "bytes", optional, tag = "31")]
    root_workflow_execution: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "35")]
    priority: Option<Bytes>,
}

/// The record of a run as it is now.
pub(crate) fn record(run: &Run, workflow_id: &str) -> Record {
    let info = &run.info;
    let closed = run.state.close_time;
    let shown = Shown::decode(info.started.encoded().clone()).expect("the attributes that are kept of a run are valid");
    Record {
        execution: Some(WorkflowExecution { workflow_id: workflow_id.to_owned(), run_id: run.id.to_string() }),
        workflow_type: shown.workflow_type,
        start_time: Some(info.start_time.to_proto()),
        execution_time: Some(info.execution_time.to_proto()),
        close_time: closed.map(|time| time.to_proto()),
        execution_duration: closed.map(|time| time::to_proto(time.since(info.execution_time))),
        status: run.state.status,
        history_length: run.state.next_event_id - 1,
        history_size_bytes: i64::try_from(run.state.history_bytes).unwrap_or(i64::MAX),
        state_transition_count: run.state.transition_count,
        parent_namespace_id: shown.parent_workflow_namespace_id,
        parent_execution: shown.parent_workflow_execution,
        root_execution: shown.root_workflow_execution,
        memo: shown.memo,
        search_attributes: shown.search_attributes,
        task_queue: run.task_queue().to_owned(),
        first_run_id: shown.first_execution_run_id,
        priority: info.given_priority.as_deref().map(|given| given.encode_to_vec().into()).or(shown.priority),
        schedule: None,
        batch_job: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(close: i64, start: i64, run: u8) -> VisibilityKey {
        VisibilityKey { close_time: Time(close), start_time: Time(start), run_id: RunId([run; 16]) }
    }

    #[test]
    fn keys_are_what_they_always_were() {
        for (key, golden) in [
            (key(i64::MAX, 1_000, 0xab), "00000000000000007ffffffffffffc17abababababababababababababababab"),
            (key(2_000, 1_000, 0xab), "7ffffffffffff82f7ffffffffffffc17abababababababababababababababab"),
        ] {
            let bytes = key.to_bytes();
            assert_eq!(bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>(), golden);
            assert_eq!(VisibilityKey::from_bytes(&bytes), Some(key));
            assert_eq!(VisibilityKey::from_bytes(&bytes[1..]), None);
        }
    }

    #[test]
    fn the_newest_come_first() {
        let newest_first = [i64::MAX, i64::MAX - 1, 1, 0, -1, i64::MIN];
        let starts = |close| newest_first.map(|start| [key(close, start, 0), key(close, start, 0xff)]);
        let keys: Vec<_> = newest_first.into_iter().flat_map(starts).flatten().collect();
        assert!(keys.iter().map(VisibilityKey::to_bytes).is_sorted());
    }
}
