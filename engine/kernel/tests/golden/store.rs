//! The rows that were written: what a new leader would find.

use std::collections::BTreeMap;

use bytes::Bytes;
use everlog_kernel::state::{Branch, Current};
use everlog_kernel::{RowKey, Run, RunId, RunRow, RunRowKind, Workflow};
use everlog_proto::api::history::v1::{History, HistoryEvent};
use prost::Message;

/// Rows by key, in an order that is the same in every run of a test.
#[derive(Clone, Default)]
pub(crate) struct Store {
    rows: BTreeMap<String, (RowKey, Bytes)>,
}

impl Store {
    /// Applies a transition's rows.
    pub(crate) fn apply(&mut self, rows: &[(RowKey, Option<Bytes>)]) {
        for (key, value) in rows {
            match (key, value) {
                (RowKey::WholeRun(run_id), None) => self.rows.retain(|_, (key, _)| run_of(key) != Some(*run_id)),
                (RowKey::HistoryFrom(run_id, from), None) => {
                    let is_in = |row: &RunRow| row.first_event_id().is_some_and(|first| first >= *from);
                    self.rows
                        .retain(|_, (key, _)| !matches!(key, RowKey::Run(run, row) if run == run_id && is_in(row)));
                }
                (RowKey::WholeRun(_) | RowKey::HistoryFrom(..), Some(_)) => panic!("ranges are only ever deleted"),
                (key, Some(value)) => {
                    self.rows.insert(format!("{key:?}"), (key.clone(), value.clone()));
                }
                (key, None) => {
                    self.rows.remove(&format!("{key:?}"));
                }
            }
        }
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &RowKey> {
        self.rows.values().map(|(key, _)| key)
    }

    /// The events of a run, wherever they are stored.
    pub(crate) fn history(&self, run_id: RunId) -> Vec<HistoryEvent> {
        let branch = RowKey::Run(run_id, RunRow::only(RunRowKind::Branch));
        let branch = self.rows.get(&format!("{branch:?}")).map(|(_, row)| Branch::from_row(row).expect("a branch"));
        let mut events = Vec::new();
        for ancestor in branch.iter().flat_map(|branch| &branch.ancestors) {
            let from = events.len() as i64 + 1;
            let own = self.own_history(ancestor.run_id);
            events.extend(own.into_iter().filter(|event| (from..ancestor.until).contains(&event.event_id)));
        }
        events.extend(self.own_history(run_id));
        events
    }

    /// The rows of a run that is only remains: kinds and suffixes of its own.
    pub(crate) fn run_rows(&self, run_id: RunId) -> Vec<&RunRow> {
        let rows = self.rows.values().filter_map(|(key, _)| match key {
            RowKey::Run(run, row) if *run == run_id => Some(row),
            _ => None,
        });
        rows.collect()
    }

    /// The events in a run's own rows.
    pub(crate) fn own_history(&self, run_id: RunId) -> Vec<HistoryEvent> {
        let mut batches: Vec<(i64, &Bytes)> = Vec::new();
        for (key, value) in self.rows.values() {
            if let RowKey::Run(run, row) = key
                && let Some(first) = row.first_event_id()
                && *run == run_id
            {
                batches.push((first, value));
            }
        }
        batches.sort_unstable_by_key(|(first, _)| *first);
        let mut events = Vec::new();
        for (first, bytes) in batches {
            let batch = History::decode(bytes.clone()).expect("a history row is an encoded History").events;
            assert_eq!(
                batch.first().map(|event| event.event_id),
                Some(first),
                "a batch is stored under its first event"
            );
            events.extend(batch);
        }
        events
    }

    /// The workflow as a new leader loads it.
    pub(crate) fn load(&self, workflow_id: &str) -> Workflow {
        let mut workflow = Workflow::new(workflow_id);
        let mut runs: BTreeMap<RunId, Vec<(RunRow, Bytes)>> = BTreeMap::new();
        for (key, value) in self.rows.values() {
            let value = value.clone();
            match key {
                RowKey::Current => {
                    workflow.current = Some(Current::from_row(&value).expect("the kernel wrote it"));
                }
                RowKey::Run(_, RunRow { kind: RunRowKind::History, .. }) => {}
                RowKey::Run(run_id, row) => runs.entry(*run_id).or_default().push((row.clone(), value)),
                _ => {}
            }
        }
        for (id, rows) in runs {
            let run = Run::from_rows(id, rows).expect("the kernel wrote it").expect("every run has a state row");
            workflow.runs.insert(id, Box::new(run));
        }
        workflow
    }
}

/// The run whose range a row lies in; `None` for rows of the partition's indexes.
fn run_of(key: &RowKey) -> Option<RunId> {
    match key {
        RowKey::Run(run, _) | RowKey::WholeRun(run) | RowKey::HistoryFrom(run, _) => Some(*run),
        RowKey::Current | RowKey::Task(_) | RowKey::Wake(..) | RowKey::Visibility(_) => None,
    }
}
