//! A scan through one partition's visibility rows, step by step.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use everlog_storage::keys::{KeyRange, after};
use everlog_storage::state::{Row, StateError};
use tokio::sync::Semaphore;

use super::{Filter, Record, VisibilityError};
use crate::limits;

/// Reads up to a number of rows of a range, in order. Blocks.
pub(super) type ReadRows = Arc<dyn Fn(&KeyRange, usize) -> Result<Vec<Row>, StateError> + Send + Sync>;

/// Steps at a time, of all lists and counts of this process.
static STEPS: Semaphore = Semaphore::const_new(limits::VISIBILITY_SCANS_MAX);

/// The rows of one partition that are still to be examined.
pub(super) struct Scan {
    read: ReadRows,
    /// In order; the first one shrinks as it is read.
    ranges: VecDeque<KeyRange>,
    filter: Arc<Option<Filter>>,
}

impl Scan {
    pub(super) fn new(read: ReadRows, ranges: Vec<KeyRange>, filter: Arc<Option<Filter>>) -> Scan {
        Scan { read, ranges: ranges.into(), filter }
    }

    /// No row before this key is left to be examined; `None` if none is left at all.
    pub(super) fn frontier(&self) -> Option<&Bytes> {
        self.ranges.front().map(|range| &range.start)
    }

    /// Whether every row matches.
    pub(super) fn takes_all(&self) -> bool {
        self.filter.is_none()
    }

    /// Examines up to `rows_max` rows and hands those that match, in order, to `sift`, on a thread for blocking work.
    ///
    /// Returns what `sift` made of them.
    pub(super) async fn step<T: Send + 'static>(
        &mut self,
        rows_max: usize,
        sift: impl FnOnce(&mut dyn Iterator<Item = (Row, i64)>) -> T + Send + 'static,
    ) -> Result<T, VisibilityError> {
        let range = self.ranges.front().cloned().unwrap_or_default();
        let (read, filter) = (self.read.clone(), self.filter.clone());
        let _step = STEPS.acquire().await.map_err(|_| internal("scans have been shut down"))?;
        let blocking = tokio::task::spawn_blocking(move || {
            let rows = read(&range, rows_max).map_err(|error| internal(error.to_string()))?;
            let last = rows.last().map(|(key, _)| key.clone()).filter(|_| rows.len() >= rows_max);
            let mut corrupt = None;
            let mut matching = rows.into_iter().filter_map(|row| match examine(&row.1, &filter) {
                Some(status) => status.map(|status| (row, status)),
                None => {
                    corrupt = Some(row.0);
                    None
                }
            });
            let sifted = sift(&mut matching);
            match corrupt {
                None => Ok((sifted, last)),
                Some(key) => Err(internal(format!("the visibility row {key:02x?} is no record"))),
            }
        });
        let (sifted, last) = blocking.await.map_err(|error| internal(error.to_string()))??;
        match (last, self.ranges.front_mut()) {
            (Some(last), Some(range)) => range.start = after(&last),
            _ => drop(self.ranges.pop_front()),
        }
        Ok(sifted)
    }
}

/// The record's status if it matches; the outer `None` is for what is no record.
fn examine(encoded: &[u8], filter: &Option<Filter>) -> Option<Option<i64>> {
    let record = Record::parse(encoded)?;
    let matches = filter.as_ref().is_none_or(|filter| filter.matches(&record));
    Some(matches.then_some(record.status))
}

fn internal(problem: impl Into<String>) -> VisibilityError {
    VisibilityError::Internal(problem.into())
}
