//! A run from its rows.

use std::sync::Arc;

use bytes::Bytes;

use super::row::Workers;
use super::{Branch, Run, RunInfo, RunState, WorkflowTaskStarted};
use crate::RunId;
use crate::rows::{RunRow, RunRowKind};

/// A row does not decode: the disk lies, or a later version wrote it.
#[derive(Clone, Debug, thiserror::Error)]
#[error("corrupt row: {0}")]
pub struct CorruptRow(pub String);

impl Run {
    /// Puts a run together from all its rows but the history. `None` if it has no state row: there is no such run.
    pub fn from_rows(id: RunId, rows: impl IntoIterator<Item = (RunRow, Bytes)>) -> Result<Option<Run>, CorruptRow> {
        let mut run = Run::new(id, RunInfo::default());
        let mut state: Option<RunState> = None;
        let (mut start, mut workers) = (None, None);
        for (RunRow { kind, suffix }, value) in rows {
            match kind {
                RunRowKind::Info => run.info = Arc::new(RunInfo::from_row(&value)?),
                RunRowKind::State => state = Some(RunState::from_row(&value)?),
                RunRowKind::Workers => workers = Some(Workers::from_row(&value)?),
                RunRowKind::Branch => run.branch = Some(Arc::new(Branch::from_row(&value)?)),
                RunRowKind::WorkflowTaskStart => start = Some(WorkflowTaskStarted::from_row(&value)?),
                kind => {
                    let pending = run.pending_mut().into_iter().find(|pending| pending.kind() == kind);
                    let unexpected = || CorruptRow(format!("a row of kind {} among those of a run", kind.name()));
                    pending.ok_or_else(unexpected)?.load_row(&suffix, value)?;
                }
            }
        }
        let Some(state) = state else { return Ok(None) };
        run.state = state;
        if let Some(workers) = workers {
            run.load_workers(workers);
        }
        if start.is_some() {
            let task = run.state.workflow_task.as_mut();
            task.ok_or_else(|| CorruptRow("the start of no workflow task".into()))?.started = start;
            run.workflow_task_start_row = true;
        }
        run.rows_version = run.task_version().cloned().map(Box::new);
        run.admit_reapplied();
        run.workflow_task_row = run.wanted_workflow_task_row();
        if !run.is_open() {
            run.forget_activity_task_rows();
        }
        Ok(Some(run))
    }
}
