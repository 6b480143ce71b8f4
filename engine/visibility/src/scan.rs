//! A scan through one partition's visibility rows, step by step.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use everlog_kernel::NamespaceId;
use everlog_model::{SlotSet, limits, slot_of};
use everlog_storage::Watch;
use everlog_storage::keys::{KeyRange, after};
use everlog_storage::state::{StateError, Visitor};
use tokio::sync::Semaphore;

use super::tallies::Tallies;
use super::{Filter, Record, VisibilityError};

/// What reads the lists and counts of a node: some steps at a time, and with what it remembers.
pub struct Reader {
    /// A permit for each step at a time, of all lists and counts.
    steps: Semaphore,
    pub(super) tallies: Tallies,
}

impl Default for Reader {
    fn default() -> Reader {
        Reader { steps: Semaphore::new(limits::VISIBILITY_SCANS_MAX), tallies: Tallies::default() }
    }
}

impl Reader {
    /// Runs one step of a list or count on a thread for blocking work, when its turn comes.
    pub(super) async fn step<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, VisibilityError> + Send + 'static,
    ) -> Result<T, VisibilityError> {
        let _step = self.steps.acquire().await.map_err(|_| internal("scans have been shut down"))?;
        everlog_storage::blocking::spawn(work).await.map_err(|error| internal(error.to_string()))?
    }
}

/// Shows the rows of a range, in order, until the visitor breaks. Blocks.
type VisitRows = dyn Fn(&KeyRange, Visitor<'_>) -> Result<(), StateError> + Send + Sync;

/// Access to the rows of a partition.
#[derive(Clone)]
pub(super) struct Rows {
    /// Reads them.
    pub(super) visit: Arc<VisitRows>,
    /// Watches a range for changes.
    pub(super) watch: Arc<dyn Fn(&KeyRange) -> Watch + Send + Sync>,
}

/// Which runs are shown of a partition that has rows of others, too: those in some slots of a namespace.
#[derive(Clone)]
pub(super) struct Shown {
    pub(super) namespace_id: NamespaceId,
    pub(super) slots: SlotSet,
}

impl Shown {
    fn has(&self, record: &Record<'_>) -> bool {
        self.slots.contains(slot_of(self.namespace_id, record.workflow_id()))
    }
}

/// The rows of one partition that are still to be examined.
pub(super) struct Scan {
    pub(super) rows: Rows,
    /// All, if none.
    shown: Option<Shown>,
    /// In order; the first one shrinks as it is read.
    ranges: VecDeque<KeyRange>,
    filter: Arc<Option<Filter>>,
    last_field: u32,
}

impl Scan {
    pub(super) fn new(rows: Rows, ranges: Vec<KeyRange>, filter: Arc<Option<Filter>>) -> Scan {
        let last_field = (*filter).as_ref().map_or(0, Filter::last_field);
        Scan { rows, shown: None, ranges: ranges.into(), filter, last_field }
    }

    /// The same, of these runs alone.
    pub(super) fn of(self, shown: Option<Shown>) -> Scan {
        Scan { shown, ..self }
    }

    /// What is left of the range being examined, or the next one; `None` at the end. No row before it is left to be examined.
    pub(super) fn next_range(&self) -> Option<&KeyRange> {
        self.ranges.front()
    }

    /// How many rows to examine before others have the thread.
    pub(super) fn step_rows(&self) -> usize {
        let comparisons = (*self.filter).as_ref().map_or(0, Filter::comparisons);
        (limits::VISIBILITY_SCAN_ROWS / (1 + comparisons / limits::VISIBILITY_STEP_COMPARISONS)).max(1)
    }

    /// Examines rows of the next range, `rows_max` at most, and shows key, record and status of those that match to `take`, in order,
    /// until it breaks. Blocks. Returns how many rows were examined.
    pub(super) fn examine(
        &mut self,
        rows_max: usize,
        mut take: impl FnMut(&[u8], &[u8], i64) -> ControlFlow<()>,
    ) -> Result<usize, VisibilityError> {
        let Some(mut range) = self.ranges.pop_front() else { return Ok(0) };
        let mut examined = 0;
        let mut stopped_at: Option<Bytes> = None;
        let mut corrupt = None;
        let mut examine = |key: &[u8], encoded: &[u8]| {
            let Some(record) = Record::parse_until(encoded, self.last_field) else {
                corrupt = Some(Bytes::copy_from_slice(key));
                return ControlFlow::Break(());
            };
            examined += 1;
            let is_shown = self.shown.as_ref().is_none_or(|shown| shown.has(&record));
            let matches = is_shown && (*self.filter).as_ref().is_none_or(|filter| filter.matches(&record));
            let taken = if matches { take(key, encoded, record.status) } else { ControlFlow::Continue(()) };
            if taken.is_continue() && examined < rows_max {
                return ControlFlow::Continue(());
            }
            stopped_at = Some(after(key));
            ControlFlow::Break(())
        };
        (self.rows.visit)(&range, &mut examine).map_err(|error| internal(error.to_string()))?;
        if let Some(key) = corrupt {
            return Err(internal(format!("the visibility row {key:02x?} is no record")));
        }
        if let Some(next) = stopped_at {
            range.start = next;
            self.ranges.push_front(range);
        }
        Ok(examined)
    }
}

fn internal(problem: impl Into<String>) -> VisibilityError {
    VisibilityError::Internal(problem.into())
}
