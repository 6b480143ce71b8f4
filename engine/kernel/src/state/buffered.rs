//! What waits or is remembered besides activities and timers.

use std::sync::Arc;

use bytes::Bytes;
use everlog_proto::api::history::v1::HistoryEvent;
use prost::Message;

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
