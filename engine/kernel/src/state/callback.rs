//! Who is to be told that a run has closed.

use bytes::Bytes;
use everlog_proto::api::common::v1::Callback;
use everlog_proto::api::enums::v1::CallbackState;
use everlog_proto::api::failure::v1::Failure;
use prost::Message;

use super::row::{decode, encode, required};
use super::{CorruptRow, PendingValue};
use crate::Time;
use crate::rows::RunRowKind;

/// A callback that came with the request to start a run, or with another one that was attached to the run. Known by the id of that
/// request and its place in it. It is kept for as long as the run is.
#[derive(Clone, Debug, PartialEq)]
pub struct CompletionCallback {
    /// Who is called, and with what.
    pub callback: Callback,
    /// Since when.
    pub registered: Time,
    /// How far it has come.
    pub state: CallbackState,
    /// How often it was called.
    pub attempt: i32,
    /// When that was last.
    pub last_attempt_end: Option<Time>,
    /// Why it has failed.
    pub last_failure: Option<Box<Failure>>,
}

impl CompletionCallback {
    /// One that waits for the run to close.
    pub(crate) fn new(callback: Callback, registered: Time) -> CompletionCallback {
        CompletionCallback {
            callback,
            registered,
            state: CallbackState::Standby,
            attempt: 0,
            last_attempt_end: None,
            last_failure: None,
        }
    }
}

/// The value of a callback's row. Its key has the request id.
#[derive(Message)]
struct CallbackRow {
    #[prost(message, optional, tag = "1")]
    callback: Option<Callback>,
    #[prost(sfixed64, optional, tag = "2")]
    registered: Option<i64>,
    #[prost(enumeration = "CallbackState", tag = "3")]
    state: i32,
    #[prost(int32, tag = "4")]
    attempt: i32,
    #[prost(sfixed64, optional, tag = "5")]
    last_attempt_end: Option<i64>,
    #[prost(message, optional, tag = "6")]
    last_failure: Option<Failure>,
}

impl PendingValue for CompletionCallback {
    type Key = String;
    const KIND: RunRowKind = RunRowKind::Callback;

    fn to_row(&self) -> Bytes {
        encode(&CallbackRow {
            callback: Some(self.callback.clone()),
            registered: Some(self.registered.0),
            state: self.state as i32,
            attempt: self.attempt,
            last_attempt_end: self.last_attempt_end.map(|time| time.0),
            last_failure: self.last_failure.as_deref().cloned(),
        })
    }

    fn from_row(_: &String, row: Bytes) -> Result<CompletionCallback, CorruptRow> {
        let row: CallbackRow = decode(&row)?;
        Ok(CompletionCallback {
            state: row.state(),
            callback: required(row.callback, "callback")?,
            registered: Time(required(row.registered, "time")?),
            attempt: row.attempt,
            last_attempt_end: row.last_attempt_end.map(Time),
            last_failure: row.last_failure.map(Box::new),
        })
    }

    fn memory_bytes(&self) -> usize {
        size_of::<CompletionCallback>()
            + 256
            + self.callback.encoded_len()
            + self.last_failure.as_ref().map_or(0, |failure| size_of::<Failure>() + failure.encoded_len())
    }
}
