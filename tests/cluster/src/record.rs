//! What all callers were told, by workflow id, for the checker.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use everlog_proto::api::enums::v1::WorkflowExecutionStatus;
use parking_lot::Mutex;

use crate::checker::{Call, Operation, Outcome, RunNumber, Status};

/// Operations of a workflow id, and the numbers of its runs.
#[derive(Default)]
struct History {
    operations: Vec<Operation>,
    runs: HashMap<String, RunNumber>,
}

/// An operation that has begun.
pub(crate) struct Begun {
    workflow_id: String,
    place: usize,
}

/// Takes operations from everywhere.
pub(crate) struct Recorder {
    began: Instant,
    histories: Mutex<BTreeMap<String, History>>,
    next: AtomicU32,
}

impl Recorder {
    pub(crate) fn new() -> Recorder {
        Recorder { began: Instant::now(), histories: Mutex::default(), next: AtomicU32::new(1) }
    }

    /// A number that nobody else has: for requests and signals.
    pub(crate) fn next(&self) -> u32 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// The time by the recorder's clock, in microseconds.
    pub(crate) fn now(&self) -> u64 {
        self.began.elapsed().as_micros() as u64
    }

    /// The number of a run of a workflow.
    pub(crate) fn run(&self, workflow_id: &str, run_id: &str) -> RunNumber {
        let mut histories = self.histories.lock();
        let runs = &mut histories.entry(workflow_id.to_owned()).or_default().runs;
        let next = runs.len() as RunNumber + 1;
        *runs.entry(run_id.to_owned()).or_insert(next)
    }

    /// Takes an operation that was called at `called_at` and has just ended.
    pub(crate) fn note(&self, workflow_id: &str, by: String, called_at: u64, call: Call, outcome: Outcome) {
        let operation = Operation { called_at, returned_at: self.now(), by, call, outcome };
        self.histories.lock().entry(workflow_id.to_owned()).or_default().operations.push(operation);
    }

    /// Takes an operation that begins now, which nobody may hear the end of.
    pub(crate) fn begin(&self, workflow_id: &str, by: String, call: Call) -> Begun {
        let now = self.now();
        let operation = Operation { called_at: now, returned_at: now, by, call, outcome: Outcome::Unknown };
        let mut histories = self.histories.lock();
        let operations = &mut histories.entry(workflow_id.to_owned()).or_default().operations;
        operations.push(operation);
        Begun { workflow_id: workflow_id.to_owned(), place: operations.len() - 1 }
    }

    /// What became of an operation.
    pub(crate) fn end(&self, Begun { workflow_id, place }: Begun, outcome: Outcome) {
        let now = self.now();
        if let Some(history) = self.histories.lock().get_mut(&workflow_id) {
            let operation = &mut history.operations[place];
            (operation.returned_at, operation.outcome) = (now, outcome);
        }
    }

    /// How many operations of a workflow id there are.
    pub(crate) fn count(&self, workflow_id: &str) -> usize {
        self.histories.lock().get(workflow_id).map_or(0, |history| history.operations.len())
    }

    /// All operations, by workflow id.
    pub(crate) fn operations(&self) -> Vec<(String, Vec<Operation>)> {
        let histories = self.histories.lock();
        histories.iter().map(|(id, history)| (id.clone(), history.operations.clone())).collect()
    }
}

/// A status as the checker has it.
pub(crate) fn status_of(status: WorkflowExecutionStatus) -> Status {
    match status {
        WorkflowExecutionStatus::Running => Status::Running,
        WorkflowExecutionStatus::Completed => Status::Completed,
        WorkflowExecutionStatus::Terminated => Status::Terminated,
        _ => Status::Other,
    }
}
