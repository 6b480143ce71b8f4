//! A workflow's state: its runs, what they were started with, and what they wait for.
//!
//! Everything here has one of three lives: *rows*, which are replicated; *derived* maps, rebuilt on load; and *leader memory*
//! (`#[serde(skip)]` and the fields of [`Run`] marked so), which a change of leader may lose because nobody was promised it: a
//! started workflow task, the sticky queue, buffered queries.

mod activity;
mod first_event;
mod load;
mod run;
mod timer;
mod workflow_task;

pub use activity::{Activity, ActivityStarted};
pub use first_event::FirstEvent;
pub(crate) use first_event::Properties;
pub use load::{CorruptRow, RunRow};
pub use run::{OriginalProperties, Run, RunInfo, RunState, Sticky};
pub use timer::UserTimer;
pub use workflow_task::{BufferedQuery, WorkflowTask, WorkflowTaskStarted};

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Current {
    /// The run.
    pub run_id: RunId,
}

impl Workflow {
    /// A workflow without runs.
    pub fn new(id: impl Into<String>) -> Workflow {
        Workflow { id: id.into(), ..Workflow::default() }
    }

    /// A run by its id, or the current one (if it is there and loaded).
    pub fn run(&self, run_id: Option<RunId>) -> Option<&Run> {
        let run_id = run_id.or(self.current.as_ref().map(|current| current.run_id))?;
        self.runs.get(&run_id).map(|run| &**run)
    }

    /// The current run, if there is one (and it is loaded).
    pub fn current_run(&self) -> Option<&Run> {
        self.run(None)
    }
}

/// Format of every bincode row of the kernel; the first byte of each. Rows are only ever extended by raising it.
const ROW_VERSION: u8 = 1;

/// What a row may claim to hold, bytes: far more than any row does. Without a limit, a few damaged bytes could ask for any amount of
/// memory, and end the process instead of being told as damage.
const ROW_DECODED_BYTES_MAX: usize = 64 << 20;

/// A row's value.
pub(crate) fn encode_row<T: Serialize>(value: &T) -> Bytes {
    let mut bytes = Vec::with_capacity(128);
    bytes.push(ROW_VERSION);
    bincode::serde::encode_into_std_write(value, &mut bytes, bincode::config::standard())
        .expect("a row is encoded into memory");
    Bytes::from(bytes)
}

/// The value that a row holds.
pub(crate) fn decode_row<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CorruptRow> {
    let (version, body) = bytes.split_first().ok_or_else(|| CorruptRow("an empty row".into()))?;
    if *version != ROW_VERSION {
        return Err(CorruptRow(format!("a row of format {version}; this build reads {ROW_VERSION}")));
    }
    let config = bincode::config::standard().with_limit::<ROW_DECODED_BYTES_MAX>();
    let (value, len) =
        bincode::serde::decode_from_slice(body, config).map_err(|error| CorruptRow(error.to_string()))?;
    if len != body.len() {
        return Err(CorruptRow("bytes behind the end of a row".into()));
    }
    Ok(value)
}
