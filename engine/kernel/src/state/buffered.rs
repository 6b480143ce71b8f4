//! What waits or is remembered besides activities and timers.

use std::sync::Arc;

use bytes::Bytes;
use everlog_proto::api::history::v1::HistoryEvent;
use prost::Message;

use super::row::{decode, encode, required};
use super::{CorruptRow, PendingValue};
use crate::rows::RunRowKind;

/// An event that waits for the end of the workflow task in progress, by its sequence number.
impl PendingValue for Arc<HistoryEvent> {
    type Key = u64;
    const KIND: RunRowKind = RunRowKind::BufferedEvent;

    fn to_row(&self) -> Bytes {
        Bytes::from(self.encode_to_vec())
    }

    fn from_row(_: &u64, row: Bytes) -> Result<Arc<HistoryEvent>, CorruptRow> {
        Ok(Arc::new(HistoryEvent::decode(row)?))
    }

    fn memory_bytes(&self) -> usize {
        size_of::<HistoryEvent>() + self.encoded_len()
    }
}

/// A signal that was taken, by its request id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignalRequest;

impl PendingValue for SignalRequest {
    type Key = String;
    const KIND: RunRowKind = RunRowKind::SignalRequest;

    fn to_row(&self) -> Bytes {
        Bytes::new()
    }

    fn from_row(_: &String, _: Bytes) -> Result<SignalRequest, CorruptRow> {
        Ok(SignalRequest)
    }

    fn memory_bytes(&self) -> usize {
        0
    }
}

/// A request to start the workflow that came while the run was open and was attached to it, by its id. It is answered with this run when
/// it comes again, also once the run has closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttachedRequest {
    /// The event that says so; `None` while that is buffered.
    pub event_id: Option<i64>,
}

#[derive(Message)]
struct AttachedRow {
    /// 0 while the event is buffered.
    #[prost(int64, optional, tag = "1")]
    event_id: Option<i64>,
}

impl PendingValue for AttachedRequest {
    type Key = String;
    const KIND: RunRowKind = RunRowKind::AttachedRequest;

    fn to_row(&self) -> Bytes {
        encode(&AttachedRow { event_id: Some(self.event_id.unwrap_or(0)) })
    }

    fn from_row(_: &String, row: Bytes) -> Result<AttachedRequest, CorruptRow> {
        let row: AttachedRow = decode(&row)?;
        let event_id = required(row.event_id, "event")?;
        Ok(AttachedRequest { event_id: (event_id > 0).then_some(event_id) })
    }

    fn memory_bytes(&self) -> usize {
        size_of::<AttachedRequest>()
    }
}
