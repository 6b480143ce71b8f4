//! A run from its rows.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use everlog_proto::api::history::v1::HistoryEvent;
use prost::Message;

use super::{Activity, Current, Run, RunInfo, RunState, UserTimer, decode_row};
use crate::RunId;

/// A row does not decode: the disk lies, or another version wrote it.
#[derive(Clone, Debug, thiserror::Error)]
#[error("corrupt row: {0}")]
pub struct CorruptRow(pub String);

/// A row of a run, as storage found it.
#[derive(Clone, Debug)]
pub enum RunRow {
    /// [`crate::RowKey::Info`].
    Info(Bytes),
    /// [`crate::RowKey::State`].
    State(Bytes),
    /// [`crate::RowKey::Activity`].
    Activity(Bytes),
    /// [`crate::RowKey::Timer`].
    Timer(Bytes),
    /// [`crate::RowKey::BufferedEvent`] with its sequence number.
    BufferedEvent(u64, Bytes),
    /// [`crate::RowKey::SignalRequest`].
    SignalRequest(String),
}

impl Current {
    /// From the value of the workflow's `Current` row.
    pub fn from_row(bytes: &[u8]) -> Result<Current, CorruptRow> {
        decode_row(bytes)
    }
}

impl super::super::transition::TaskRow {
    /// From the value of a task row.
    pub fn from_row(bytes: &[u8]) -> Result<Self, CorruptRow> {
        decode_row(bytes)
    }
}

impl Run {
    /// Puts a run together from all its rows but the history. `None` if it has no state row: there is no such run.
    pub fn from_rows(id: RunId, rows: impl IntoIterator<Item = RunRow>) -> Result<Option<Run>, CorruptRow> {
        let mut run = Run::new(id, RunInfo::default());
        let mut state: Option<RunState> = None;
        let mut signal_requests = BTreeSet::new();
        for row in rows {
            match row {
                RunRow::Info(bytes) => run.info = Arc::new(decode_row(&bytes)?),
                RunRow::State(bytes) => state = Some(decode_row(&bytes)?),
                RunRow::Activity(bytes) => {
                    let mut activity: Activity = decode_row(&bytes)?;
                    let ready = activity.offered && activity.started.is_none();
                    activity.task_row_time = ready.then_some(activity.attempt_scheduled_time);
                    run.activity_ids.insert(activity.activity_id().to_owned(), activity.scheduled_event_id);
                    run.activities.insert(activity.scheduled_event_id, Arc::new(activity));
                }
                RunRow::Timer(bytes) => {
                    let timer: UserTimer = decode_row(&bytes)?;
                    run.timer_ids.insert(timer.timer_id.clone(), timer.started_event_id);
                    run.timers.insert(timer.started_event_id, timer);
                }
                RunRow::BufferedEvent(sequence, bytes) => {
                    let event = HistoryEvent::decode(bytes).map_err(|error| CorruptRow(error.to_string()))?;
                    run.buffered.insert(sequence, Arc::new(event));
                }
                RunRow::SignalRequest(request_id) => {
                    signal_requests.insert(request_id);
                }
            }
        }
        run.signal_requests = Arc::new(signal_requests);
        Ok(state.map(|state| {
            run.state = state;
            let attempt = run.state.workflow_task.as_ref().map_or(0, |task| task.attempt);
            run.workflow_task_row = run.workflow_task_key().map(|key| (key, attempt));
            run
        }))
    }
}
