//! A partition's rows as a replica of this node has them, whoever leads it: for reads that may be a little old.
//!
//! Nothing of a lead's memory is seen: neither what is not applied yet, nor a workflow task in a worker's hands whose start is not written. Who may read here, and how
//! old the rows are then, is for the caller to know.

use bytes::Bytes;
use everlog_kernel::{EntityKind, Rejection, RunId, Workflow};
use everlog_model::{CallError, EntityRef, Moves, RunView, SlotSet, WorkflowRef};
use everlog_raft::Group;
use everlog_storage::blocking;
use everlog_storage::keys::{self, KeyRange};
use everlog_storage::state::{Direction, Row, RowsView, StateError};

use super::history_pages::{self, HistoryPage, PageSize};
use super::lead::view_of_run;
use super::load::{Rows, load_workflow};

/// A replica that is read.
#[derive(Clone)]
pub struct Replica {
    group: Group,
}

/// Rows as they are at one moment: those of a lead change for nobody else, but a replica applies entries at any time.
struct Moment(Box<dyn RowsView>);

impl Rows for Moment {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StateError> {
        let found = self.scan(Bytes::copy_from_slice(key)..keys::after(key), Direction::Ascending, 1)?;
        Ok(found.into_iter().next().map(|(_, value)| value))
    }

    /// All scans of a workflow's state are ascending.
    fn scan(&self, range: KeyRange, _: Direction, limit: usize) -> Result<Vec<Row>, StateError> {
        self.0.rows(&range.start[..]..&range.end[..], limit)
    }
}

impl Replica {
    /// The replica of a group.
    pub fn new(group: Group) -> Replica {
        Replica { group }
    }

    /// Looks at a workflow with its current run, and the run that is named.
    ///
    /// # Errors
    ///
    /// The rejection that `look` returns, and [`CallError::NotDone`] if its slot is not in this partition, by what the rows say.
    pub async fn inspect<T: Send + 'static>(
        &self,
        address: &WorkflowRef,
        run_id: Option<RunId>,
        look: impl FnOnce(&Workflow) -> Result<T, Rejection> + Send + 'static,
    ) -> Result<T, CallError> {
        let (group, address) = (self.group.clone(), address.clone());
        let read = blocking::spawn(move || {
            let workflow = read(&group, &address, run_id)?;
            look(&workflow).map_err(CallError::from)
        });
        read.await.map_err(|error| CallError::Failed(format!("reading a workflow: {error}")))?
    }

    /// What is known of a run that has closed; none if it has not, or is not there.
    ///
    /// # Errors
    ///
    /// As [`Replica::inspect`].
    pub async fn closed(&self, address: &WorkflowRef, run_id: Option<RunId>) -> Result<Option<RunView>, CallError> {
        self.inspect(address, run_id, move |workflow| {
            Ok(workflow.run(run_id).filter(|run| !run.is_open()).map(view_of_run))
        })
        .await
    }

    /// Reads stored events `[from, to)` of a run that has closed: they do not change any more.
    ///
    /// # Errors
    ///
    /// [`CallError::Unavailable`] when the rows cannot be read, NotFound when they are gone by now.
    pub async fn read_history(
        &self,
        address: &WorkflowRef,
        run_id: RunId,
        from: i64,
        to: i64,
        size: PageSize,
    ) -> Result<HistoryPage, CallError> {
        history_pages::read(self.group.clone(), address.clone(), run_id, from, to, size).await
    }

    /// Reads the last of the stored events before `to` of such a run.
    ///
    /// # Errors
    ///
    /// As [`Replica::read_history`].
    pub async fn read_history_back(
        &self,
        address: &WorkflowRef,
        run_id: RunId,
        to: i64,
        size: PageSize,
    ) -> Result<HistoryPage, CallError> {
        history_pages::read_back(self.group.clone(), address.clone(), run_id, to, size).await
    }
}

fn read(group: &Group, address: &WorkflowRef, run_id: Option<RunId>) -> Result<Workflow, CallError> {
    let entity = EntityRef { kind: EntityKind::Workflow, ..address.entity() };
    let ranges: Vec<_> = [entity.key().range()].into_iter().chain(Moves::ranges()).collect();
    let moment = Moment(group.view(&ranges).map_err(|error| CallError::Unavailable(error.to_string()))?);
    let moves =
        Moves::read(|range| moment.scan(range, Direction::Ascending, usize::MAX)).map_err(CallError::Corrupt)?;
    let here = SlotSet::from_iter([address.slot()]);
    let is_here = moves.check_asker(address.namespace.id, &here);
    is_here.map_err(|behind| CallError::NotDone(behind.to_string()))?;
    let runs: Vec<_> = run_id.into_iter().collect();
    load_workflow(&moment, &entity, &runs, true).map_err(CallError::Corrupt)
}
