//! A run from its rows.

use std::sync::Arc;

use bytes::Bytes;

use super::{Current, Run, RunInfo, RunState, decode_row};
use crate::RunId;
use crate::rows::{RunRow, RunRowKind};

/// A row does not decode: the disk lies, or a later version wrote it.
#[derive(Clone, Debug, thiserror::Error)]
#[error("corrupt row: {0}")]
pub struct CorruptRow(pub String);

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
    pub fn from_rows(id: RunId, rows: impl IntoIterator<Item = (RunRow, Bytes)>) -> Result<Option<Run>, CorruptRow> {
        let mut run = Run::new(id, RunInfo::default());
        let mut state: Option<RunState> = None;
        let mut start: Option<Bytes> = None;
        for (RunRow { kind, suffix }, value) in rows {
            match kind {
                RunRowKind::Info => run.info = Arc::new(decode_row(&value)?),
                RunRowKind::State => state = Some(decode_row(&value)?),
                RunRowKind::WorkflowTaskStart => start = Some(value),
                kind => {
                    let pending = run.pending_mut().into_iter().find(|pending| pending.kind() == kind);
                    let unexpected = || CorruptRow(format!("a row of kind {} among those of a run", kind.name()));
                    pending.ok_or_else(unexpected)?.load_row(&suffix, value)?;
                }
            }
        }
        let Some(state) = state else { return Ok(None) };
        run.state = state;
        if let Some(start) = start {
            run.load_workflow_task_start(&start)?;
        }
        run.workflow_task_row = run.wanted_workflow_task_row();
        Ok(Some(run))
    }
}
