//! A timer that a workflow has started.

use bytes::Bytes;
use prost::Message;

use super::row::{decode, encode, required};
use super::{CorruptRow, PendingValue};
use crate::Time;
use crate::rows::RunRowKind;

/// A pending user timer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserTimer {
    /// The workflow's name for it.
    pub timer_id: String,
    /// Its TimerStarted event.
    pub started_event_id: i64,
    /// When it fires: the event's time plus its duration. Never earlier.
    pub expiry_time: Time,
}

/// The value of a timer's row. Its key has the started event.
#[derive(Message)]
struct TimerRow {
    #[prost(string, tag = "1")]
    timer_id: String,
    #[prost(sfixed64, optional, tag = "2")]
    expiry_time: Option<i64>,
}

impl PendingValue for UserTimer {
    type Key = i64;
    const KIND: RunRowKind = RunRowKind::Timer;

    fn name(&self) -> Option<&str> {
        Some(&self.timer_id)
    }

    fn to_row(&self) -> Bytes {
        encode(&TimerRow { timer_id: self.timer_id.clone(), expiry_time: Some(self.expiry_time.0) })
    }

    fn from_row(started_event_id: &i64, row: Bytes) -> Result<UserTimer, CorruptRow> {
        let row: TimerRow = decode(&row)?;
        let expiry_time = Time(required(row.expiry_time, "expiry time")?);
        Ok(UserTimer { timer_id: row.timer_id, started_event_id: *started_event_id, expiry_time })
    }

    fn memory_bytes(&self) -> usize {
        size_of::<UserTimer>() + self.timer_id.len()
    }
}
