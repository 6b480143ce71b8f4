//! The children that a run has started and has not seen the end of.

use bytes::Bytes;
use everlog_proto::api::common::v1::{Header, WorkflowType};
use everlog_proto::api::enums::v1::ParentClosePolicy;
use prost::Message;

use super::row::{decode, encode};
use super::{CorruptRow, PendingValue};
use crate::rows::RunRowKind;

/// A child, by the event with which its start was initiated. A run that has closed keeps those that are to hear of that, until they
/// are told.
#[derive(Clone, Debug, PartialEq)]
pub struct PendingChild {
    /// Its workflow id.
    pub workflow_id: String,
    /// The name of its type.
    pub workflow_type: String,
    /// What becomes of it when the run closes.
    pub parent_close_policy: ParentClosePolicy,
    /// What the workflow wants back if the child cannot be started.
    pub control: String,
    /// What the event has that tells of its start; nothing once that is there.
    pub header: Option<Header>,
    /// That event; `None` if there is none, and 0 while it waits for its place in the history.
    pub started_event_id: Option<i64>,
}

/// The value of its row.
#[derive(Message)]
struct ChildRow {
    #[prost(string, tag = "1")]
    workflow_id: String,
    #[prost(string, tag = "2")]
    workflow_type: String,
    #[prost(enumeration = "ParentClosePolicy", tag = "3")]
    parent_close_policy: i32,
    #[prost(string, tag = "4")]
    control: String,
    #[prost(message, optional, tag = "5")]
    header: Option<Header>,
    #[prost(int64, optional, tag = "6")]
    started_event_id: Option<i64>,
}

impl PendingChild {
    /// The type, as events have it.
    pub(crate) fn workflow_type(&self) -> Option<WorkflowType> {
        Some(WorkflowType { name: self.workflow_type.clone() })
    }
}

impl PendingValue for PendingChild {
    type Key = i64;
    const KIND: RunRowKind = RunRowKind::Child;

    fn to_row(&self) -> Bytes {
        let PendingChild { workflow_id, workflow_type, parent_close_policy, control, header, started_event_id } =
            self.clone();
        let parent_close_policy = parent_close_policy.into();
        encode(&ChildRow { workflow_id, workflow_type, parent_close_policy, control, header, started_event_id })
    }

    fn from_row(_: &i64, row: Bytes) -> Result<PendingChild, CorruptRow> {
        let row: ChildRow = decode(&row)?;
        let parent_close_policy = row.parent_close_policy();
        let ChildRow { workflow_id, workflow_type, control, header, started_event_id, .. } = row;
        if workflow_id.is_empty() {
            return Err(CorruptRow("a child without an id".into()));
        }
        Ok(PendingChild { workflow_id, workflow_type, parent_close_policy, control, header, started_event_id })
    }

    fn memory_bytes(&self) -> usize {
        size_of::<PendingChild>()
            + self.workflow_id.len()
            + self.workflow_type.len()
            + self.control.len()
            + self.header.as_ref().map_or(0, Message::encoded_len)
    }
}
