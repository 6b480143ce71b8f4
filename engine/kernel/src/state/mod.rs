//! A workflow's state: its runs, what they were started with, and what they wait for.
//!
//! Everything here has one of three lives: *rows*, which are replicated; *derived* maps, rebuilt on load; and *leader memory*
//! (fields that say so), which a change of leader may lose because nobody was promised it: the start of a workflow task that is not
//! written, the sticky queue, buffered queries, updates that the workflow has not answered.
//!
//! It follows from the run's events: `apply.rs` says how, and what does not.

mod activity;
mod apply;
mod branch;
mod buffered;
mod callback;
mod child;
mod external;
mod first_event;
mod follows;
mod load;
mod nexus_operation;
mod pending;
mod reset_points;
pub(crate) mod row;
mod run;
mod timer;
mod update;
mod versioning;
mod workflow_task;

pub use activity::{Activity, ActivityStarted, Pause};
pub use apply::HistoryError;
pub use branch::{Ancestor, Branch, HistoryHold};
pub use buffered::{AttachedRequest, SignalRequest};
pub use callback::CompletionCallback;
pub use child::PendingChild;
pub use external::{ExternalCancel, ExternalSignal, ExternalTarget};
pub use first_event::FirstEvent;
pub(crate) use first_event::Properties;
pub use follows::Deviation;
pub use load::CorruptRow;
pub use nexus_operation::{NexusCancel, NexusOperation};
pub(crate) use pending::PendingRows;
pub use pending::{Pending, PendingValue};
pub use reset_points::ResetPoint;
pub use run::{LastWorker, OriginalProperties, PreviousRun, Run, RunInfo, RunState, Sticky, WorkflowTaskProblem};
pub use timer::UserTimer;
pub use update::{AcceptedUpdate, AdmittedUpdate, ReappliedUpdate};
pub use versioning::Versioning;
pub use workflow_task::{BufferedQuery, WorkflowTask, WorkflowTaskStarted};

use std::collections::BTreeMap;

use crate::RunId;

/// A workflow: the pointer to its current run, and those of its runs that are in memory.
///
/// The caller loads the current run, and the run that a command names, before it asks for a decision.
#[derive(Clone, Debug, Default)]
pub struct Workflow {
    /// The workflow id.
    pub id: String,
    /// The current run: the last one started. `None` if there is none, or none any more.
    pub current: Option<Current>,
    /// Runs in memory. Boxed: most workflows have one run, and a node of the map has room for eleven.
    pub runs: BTreeMap<RunId, Box<Run>>,
}

/// The row that names a workflow's current run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Current {
    /// The run.
    pub run_id: RunId,
}

impl Workflow {
    /// A workflow without runs.
    pub fn new(id: impl Into<String>) -> Workflow {
        Workflow { id: id.into(), ..Workflow::default() }
    }

    /// A run by its id, or the current one (if it is there and loaded). The remains of one that was deleted are none.
    pub fn run(&self, run_id: Option<RunId>) -> Option<&Run> {
        let run_id = run_id.or(self.current.as_ref().map(|current| current.run_id))?;
        self.runs.get(&run_id).map(|run| &**run).filter(|run| !run.state.is_remains)
    }

    /// The current run, if there is one (and it is loaded).
    pub fn current_run(&self) -> Option<&Run> {
        self.run(None)
    }
}
