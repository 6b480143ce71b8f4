//! Updates of a run: those that its workflow has accepted, which are in the history, and those that it has yet to see.

use std::sync::Arc;

use bytes::Bytes;
use everlog_proto::api::update::v1::Request;
use prost::Message;

use super::row::{decode, encode};
use super::{CorruptRow, PendingValue};
use crate::Time;
use crate::rows::RunRowKind;

/// An update that the workflow has accepted, by its id. It is known for as long as the run is, so that a request that is repeated finds
/// the outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcceptedUpdate {
    /// The event that says so.
    pub accepted_event_id: i64,
    /// The event with the outcome, once there is one.
    pub completed_event_id: Option<i64>,
    /// The id of the request that sent it, if it has one.
    pub request_id: String,
}

/// An update that the workflow has not answered. Leader memory: the caller asks again if it is lost.
#[derive(Clone, Debug, PartialEq)]
pub struct AdmittedUpdate {
    /// Its id.
    pub id: String,
    /// What the workflow is sent.
    pub request: Arc<Request>,
    /// Whether a worker was sent it.
    pub is_sent: bool,
    /// When somebody asked for it last.
    pub asked: Time,
}

/// An update that a reset has taken over from the history behind it, by its id. It waits for the workflow as any other that is admitted, but
/// is not forgotten, because it was accepted once. The worker has the request from the event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReappliedUpdate {
    /// That event.
    pub admitted_event_id: i64,
    /// The id of the request that sent it, if it has one.
    pub request_id: String,
}

/// The value of the row of an update that a reset has taken over.
#[derive(Message)]
struct ReappliedRow {
    #[prost(int64, tag = "1")]
    admitted_event_id: i64,
    #[prost(string, tag = "2")]
    request_id: String,
}

impl PendingValue for ReappliedUpdate {
    type Key = String;
    const KIND: RunRowKind = RunRowKind::ReappliedUpdate;

    fn to_row(&self) -> Bytes {
        let ReappliedUpdate { admitted_event_id, request_id } = self.clone();
        encode(&ReappliedRow { admitted_event_id, request_id })
    }

    fn from_row(_: &String, row: Bytes) -> Result<ReappliedUpdate, CorruptRow> {
        let ReappliedRow { admitted_event_id, request_id } = decode(&row)?;
        if admitted_event_id < 1 {
            return Err(CorruptRow("an update that no event admits".into()));
        }
        Ok(ReappliedUpdate { admitted_event_id, request_id })
    }

    fn memory_bytes(&self) -> usize {
        size_of::<ReappliedUpdate>() + self.request_id.len()
    }
}

/// The value of the row of an accepted update.
#[derive(Message)]
struct UpdateRow {
    #[prost(int64, tag = "1")]
    accepted_event_id: i64,
    #[prost(int64, optional, tag = "2")]
    completed_event_id: Option<i64>,
    #[prost(string, tag = "3")]
    request_id: String,
}

impl PendingValue for AcceptedUpdate {
    type Key = String;
    const KIND: RunRowKind = RunRowKind::AcceptedUpdate;

    fn to_row(&self) -> Bytes {
        let AcceptedUpdate { accepted_event_id, completed_event_id, request_id } = self.clone();
        encode(&UpdateRow { accepted_event_id, completed_event_id, request_id })
    }

    fn from_row(_: &String, row: Bytes) -> Result<AcceptedUpdate, CorruptRow> {
        let UpdateRow { accepted_event_id, completed_event_id, request_id } = decode(&row)?;
        if accepted_event_id < 1 {
            return Err(CorruptRow("an update that no event accepts".into()));
        }
        Ok(AcceptedUpdate { accepted_event_id, completed_event_id, request_id })
    }

    fn memory_bytes(&self) -> usize {
        size_of::<AcceptedUpdate>() + self.request_id.len()
    }
}

impl AdmittedUpdate {
    /// Rough size in memory, bytes.
    pub(crate) fn memory_bytes(&self) -> usize {
        size_of::<AdmittedUpdate>() + size_of::<Request>() + self.id.len() + self.request.encoded_len()
    }
}
