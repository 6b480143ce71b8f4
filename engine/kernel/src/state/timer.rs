//! A timer that a workflow has started.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{CorruptRow, PendingValue, decode_row, encode_row};
use crate::Time;
use crate::rows::RunRowKind;

/// A pending user timer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserTimer {
    /// The workflow's name for it.
    pub timer_id: String,
    /// Its TimerStarted event.
    pub started_event_id: i64,
    /// When it fires: the event's time plus its duration. Never earlier.
    pub expiry_time: Time,
}

impl PendingValue for UserTimer {
    type Key = i64;
    const KIND: RunRowKind = RunRowKind::Timer;

    fn name(&self) -> Option<&str> {
        Some(&self.timer_id)
    }

    fn to_row(&self) -> Bytes {
        encode_row(self)
    }

    fn from_row(_: &i64, row: Bytes) -> Result<UserTimer, CorruptRow> {
        decode_row(&row)
    }

    fn memory_bytes(&self) -> usize {
        size_of::<UserTimer>() + self.timer_id.len()
    }
}
