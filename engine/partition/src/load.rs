//! Reading workflows from rows, on threads of their own: the loop never touches the disk.

use std::sync::mpsc as std_mpsc;
use std::thread;

use everlog_kernel::state::{Current, Run, RunRow};
use everlog_kernel::{RunId, Workflow};
use everlog_model::{WorkflowRef, rows};
use everlog_raft::Group;
use everlog_storage::keys;
use everlog_storage::state::Direction;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::event_loop::Event;

/// What a partition wants to know of a workflow.
pub(crate) struct LoadRequest {
    pub(crate) group: Group,
    pub(crate) address: WorkflowRef,
    /// Runs besides the current one.
    pub(crate) runs: Vec<RunId>,
    /// Whether the current run is wanted too; not, if the workflow is in memory already.
    pub(crate) with_current: bool,
    pub(crate) reply: mpsc::WeakSender<Event>,
}

/// What was found.
pub(crate) struct Loaded {
    pub(crate) address: WorkflowRef,
    pub(crate) with_current: bool,
    /// Runs that were asked for, whether they were found or not.
    pub(crate) asked: Vec<RunId>,
    /// The workflow with the runs that were found, or why it cannot be read.
    pub(crate) workflow: Result<Workflow, String>,
}

/// The reading threads. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Readers {
    requests: std_mpsc::Sender<LoadRequest>,
}

impl Readers {
    /// Starts `threads` threads, which end when the last clone is dropped.
    pub(crate) fn start(threads: usize) -> std::io::Result<Readers> {
        let (requests, receiver) = std_mpsc::channel::<LoadRequest>();
        let receiver = std::sync::Arc::new(Mutex::new(receiver));
        for number in 0..threads {
            let receiver = std::sync::Arc::clone(&receiver);
            thread::Builder::new().name(format!("reader-{number}")).spawn(move || {
                loop {
                    let request = receiver.lock().recv();
                    let Ok(request) = request else { return };
                    serve(request);
                }
            })?;
        }
        Ok(Readers { requests })
    }

    /// Asks for a workflow. The answer comes as [`Event::Loaded`]. Callers are bounded: a partition asks once a workflow.
    pub(crate) fn load(&self, request: LoadRequest) {
        // The threads live as long as any sender does, so this cannot fail but in the middle of a shutdown.
        let _ = self.requests.send(request);
    }
}

fn serve(request: LoadRequest) {
    let LoadRequest { group, address, runs, with_current, reply } = request;
    let workflow = load(&group, &address, &runs, with_current);
    let loaded = Loaded { address, with_current, asked: runs, workflow };
    if let Some(reply) = reply.upgrade() {
        // The loop takes events as long as it lives; if it is gone, so are those who wait.
        let _ = reply.blocking_send(Event::Loaded(Box::new(loaded)));
    }
}

fn load(group: &Group, address: &WorkflowRef, runs: &[RunId], with_current: bool) -> Result<Workflow, String> {
    let mut workflow = Workflow::new(&*address.workflow_id);
    let mut wanted = runs.to_vec();
    if with_current {
        let key = rows::workflow_key(address).current();
        if let Some(row) = group.get(&key).map_err(|error| error.to_string())? {
            let current = Current::from_row(&row).map_err(|error| error.to_string())?;
            if !wanted.contains(&current.run_id) {
                wanted.push(current.run_id);
            }
            workflow.current = Some(current);
        }
    }
    for run_id in wanted {
        if let Some(run) = load_run(group, address, run_id)? {
            workflow.runs.insert(run_id, Box::new(run));
        }
    }
    Ok(workflow)
}

fn load_run(group: &Group, address: &WorkflowRef, run_id: RunId) -> Result<Option<Run>, String> {
    const ROWS: usize = 1024;
    let key = rows::run_key(address, run_id);
    let Some(state) = group.get(&key.state()).map_err(|error| error.to_string())? else { return Ok(None) };
    let info = group.get(&key.info()).map_err(|error| error.to_string())?.ok_or("a run without its info row")?;
    let mut found = vec![RunRow::State(state), RunRow::Info(info)];
    // Everything behind the history: what is pending.
    let mut start = key.activities().start;
    let end = key.range().end;
    loop {
        let page = group.scan(&start..&end, Direction::Ascending, ROWS).map_err(|error| error.to_string())?;
        let full = page.len() == ROWS;
        if let Some((last, _)) = page.last() {
            start = keys::after(last);
        }
        for (key, value) in page {
            let (_, row) = keys::RunRow::decode(&key).map_err(|error| error.to_string())?;
            found.push(match row {
                keys::RunRow::Activity { .. } => RunRow::Activity(value),
                keys::RunRow::Timer { .. } => RunRow::Timer(value),
                keys::RunRow::BufferedEvent { sequence } => RunRow::BufferedEvent(sequence, value),
                keys::RunRow::SignalRequest { request_id } => RunRow::SignalRequest(request_id),
                other => return Err(format!("an unexpected row among those that are pending: {other:?}")),
            });
        }
        if !full {
            return Run::from_rows(run_id, found).map_err(|error| error.to_string());
        }
    }
}
