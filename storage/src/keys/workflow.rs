//! Keys of the workflow table: everything about one workflow id, run by run.

use std::ops::Range;

use bytes::Bytes;

use super::order::{KeyReader, KeyWriter, string_len};
use super::{KeyError, KeyRange, NamespaceId, RunId, after, prefix_range, slot, table};

/// The run id under which the pointer to the current run lies: before all runs.
const NO_RUN: RunId = [0; 16];

mod kind {
    pub(super) const CURRENT: u8 = 0;
    pub(super) const INFO: u8 = 1;
    pub(super) const STATE: u8 = 2;
    pub(super) const HISTORY: u8 = 3;
    pub(super) const ACTIVITY: u8 = 4;
    pub(super) const TIMER: u8 = 5;
    pub(super) const BUFFERED_EVENT: u8 = 6;
    pub(super) const SIGNAL_REQUEST: u8 = 7;
}

/// A workflow id in a namespace, and the keys of its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkflowKey<'a> {
    /// [`slot()`] of the other two.
    pub slot: u16,
    /// The namespace.
    pub namespace: NamespaceId,
    /// The workflow id.
    pub workflow_id: &'a str,
}

impl<'a> WorkflowKey<'a> {
    /// The keys of a workflow, in the slot that its id hashes to.
    pub fn new(namespace: NamespaceId, workflow_id: &'a str) -> WorkflowKey<'a> {
        WorkflowKey { slot: slot(&namespace, workflow_id), namespace, workflow_id }
    }

    /// The pointer to the current run.
    pub fn current(&self) -> Bytes {
        self.start(1).raw(&NO_RUN).u8(kind::CURRENT).finish()
    }

    /// The rows of one run.
    pub fn run(&self, run_id: &RunId) -> RunKey<'a> {
        RunKey { workflow: *self, run_id: *run_id }
    }

    /// All rows of the workflow: the pointer to the current run, then the runs.
    pub fn range(&self) -> KeyRange {
        let prefix = self.start(0).finish();
        prefix_range(&prefix)
    }

    /// Writes what all keys of the workflow begin with, with space for a run id and `more` bytes.
    fn start(&self, more: usize) -> KeyWriter {
        let bytes = 1 + 2 + 16 + string_len(self.workflow_id) + 16 + more;
        KeyWriter::new(table::WORKFLOW, bytes).u16(self.slot).raw(&self.namespace).string(self.workflow_id)
    }
}

/// One run of a workflow, and the keys of its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunKey<'a> {
    /// The workflow.
    pub workflow: WorkflowKey<'a>,
    /// The run.
    pub run_id: RunId,
}

impl RunKey<'_> {
    /// What does not change while the run lives.
    pub fn info(&self) -> Bytes {
        self.row(RunRow::Info)
    }

    /// The run's mutable state.
    pub fn state(&self) -> Bytes {
        self.row(RunRow::State)
    }

    /// The batch of history events that begins with `first_event_id`.
    pub fn history(&self, first_event_id: i64) -> Bytes {
        self.row(RunRow::History { first_event_id })
    }

    /// A pending activity.
    pub fn activity(&self, scheduled_event_id: i64) -> Bytes {
        self.row(RunRow::Activity { scheduled_event_id })
    }

    /// A pending timer.
    pub fn timer(&self, started_event_id: i64) -> Bytes {
        self.row(RunRow::Timer { started_event_id })
    }

    /// An event that waits for the end of a workflow task.
    pub fn buffered_event(&self, sequence: u64) -> Bytes {
        self.row(RunRow::BufferedEvent { sequence })
    }

    /// The request id of a signal that was accepted.
    pub fn signal_request(&self, request_id: &str) -> Bytes {
        self.row(RunRow::SignalRequest { request_id: request_id.to_owned() })
    }

    /// The key of any row of the run: what [`RunRow::decode`] reads.
    pub fn row(&self, row: RunRow) -> Bytes {
        match row {
            RunRow::Current => self.start(kind::CURRENT, 0).finish(),
            RunRow::Info => self.start(kind::INFO, 0).finish(),
            RunRow::State => self.start(kind::STATE, 0).finish(),
            RunRow::History { first_event_id } => self.start(kind::HISTORY, 8).i64(first_event_id).finish(),
            RunRow::Activity { scheduled_event_id } => self.start(kind::ACTIVITY, 8).i64(scheduled_event_id).finish(),
            RunRow::Timer { started_event_id } => self.start(kind::TIMER, 8).i64(started_event_id).finish(),
            RunRow::BufferedEvent { sequence } => self.start(kind::BUFFERED_EVENT, 8).u64(sequence).finish(),
            RunRow::SignalRequest { request_id } => {
                self.start(kind::SIGNAL_REQUEST, request_id.len()).raw(request_id.as_bytes()).finish()
            }
        }
    }

    /// All rows of the run.
    pub fn range(&self) -> KeyRange {
        let prefix = self.workflow.start(0).raw(&self.run_id).finish();
        prefix_range(&prefix)
    }

    /// All batches of history events.
    pub fn histories(&self) -> KeyRange {
        self.kind_range(kind::HISTORY)
    }

    /// The batches of history events that begin with `first_event_id` or later.
    pub fn history_from(&self, first_event_id: i64) -> KeyRange {
        self.history(first_event_id)..self.histories().end
    }

    /// The batches of history events that begin with `event_id` or earlier. The last of them holds that event, if any does:
    /// scan descending, limit 1.
    pub fn history_upto(&self, event_id: i64) -> KeyRange {
        self.histories().start..after(&self.history(event_id))
    }

    /// All pending activities.
    pub fn activities(&self) -> KeyRange {
        self.kind_range(kind::ACTIVITY)
    }

    /// All pending timers.
    pub fn timers(&self) -> KeyRange {
        self.kind_range(kind::TIMER)
    }

    /// All buffered events.
    pub fn buffered_events(&self) -> KeyRange {
        self.kind_range(kind::BUFFERED_EVENT)
    }

    /// All request ids of signals.
    pub fn signal_requests(&self) -> KeyRange {
        self.kind_range(kind::SIGNAL_REQUEST)
    }

    fn kind_range(&self, kind: u8) -> KeyRange {
        let prefix = self.start(kind, 0).finish();
        prefix_range(&prefix)
    }

    fn start(&self, kind: u8, more: usize) -> KeyWriter {
        self.workflow.start(1 + more).raw(&self.run_id).u8(kind)
    }
}

/// What a row of the workflow table is, with the suffix of its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunRow {
    /// The pointer to the current run ([`WorkflowKey::current`]). Not a row of any run, but met in a scan of a whole workflow.
    Current,
    /// See [`RunKey::info`].
    Info,
    /// See [`RunKey::state`].
    State,
    /// See [`RunKey::history`].
    History {
        /// Id of the first event in the batch.
        first_event_id: i64,
    },
    /// See [`RunKey::activity`].
    Activity {
        /// Id of the event that scheduled it.
        scheduled_event_id: i64,
    },
    /// See [`RunKey::timer`].
    Timer {
        /// Id of the event that started it.
        started_event_id: i64,
    },
    /// See [`RunKey::buffered_event`].
    BufferedEvent {
        /// Position in the buffer.
        sequence: u64,
    },
    /// See [`RunKey::signal_request`].
    SignalRequest {
        /// The client's request id.
        request_id: String,
    },
}

impl RunRow {
    /// Tells what the row under `key` is, and of which run.
    pub fn decode(key: &[u8]) -> Result<(RunId, RunRow), KeyError> {
        RunRow::read(key).ok_or_else(|| KeyError::new("workflow", key))
    }

    fn read(key: &[u8]) -> Option<(RunId, RunRow)> {
        let mut reader = KeyReader::new(table::WORKFLOW, key)?;
        reader.u16()?;
        reader.array::<16>()?;
        reader.string()?;
        let run_id = reader.array()?;
        let row = match reader.u8()? {
            kind::CURRENT => RunRow::Current,
            kind::INFO => RunRow::Info,
            kind::STATE => RunRow::State,
            kind::HISTORY => RunRow::History { first_event_id: reader.i64()? },
            kind::ACTIVITY => RunRow::Activity { scheduled_event_id: reader.i64()? },
            kind::TIMER => RunRow::Timer { started_event_id: reader.i64()? },
            kind::BUFFERED_EVENT => RunRow::BufferedEvent { sequence: reader.u64()? },
            kind::SIGNAL_REQUEST => {
                let request_id = reader.rest()?.to_owned();
                return Some((run_id, RunRow::SignalRequest { request_id }));
            }
            _ => return None,
        };
        reader.end((run_id, row))
    }
}

/// All workflows in a range of slots: what moves when slots move to another partition.
pub fn slot_range(slots: Range<u16>) -> KeyRange {
    let bound = |slot| KeyWriter::new(table::WORKFLOW, 3).u16(slot).finish();
    bound(slots.start)..bound(slots.end)
}
