//! A timer that a workflow has started.

use serde::{Deserialize, Serialize};

use crate::Time;

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
