//! Keys of the workflow table: everything about one workflow id, run by run.
//!
//! What rows a run has is not known here: a row has a kind, one byte, and a suffix, any bytes, and lies in their order.

use std::ops::Range;

use bytes::Bytes;

use super::order::{KeyReader, KeyWriter, string_len};
use super::{KeyError, KeyRange, NamespaceId, RunId, prefix_range, slot, table};

/// The run id under which the pointer to the current run lies: before all runs.
const NO_RUN: RunId = [0; 16];

/// The kind of the pointer to the current run. All others belong to whoever writes the rows: the kernel has the table of them.
const CURRENT: u8 = 0;

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
        self.start(1).raw(&NO_RUN).u8(CURRENT).finish()
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
    /// The row of a kind with a suffix: what [`decode_run_row`] reads.
    pub fn row(&self, kind: u8, suffix: &[u8]) -> Bytes {
        self.start(kind, suffix.len()).raw(suffix).finish()
    }

    /// All rows of the run.
    pub fn range(&self) -> KeyRange {
        let prefix = self.workflow.start(0).raw(&self.run_id).finish();
        prefix_range(&prefix)
    }

    /// All rows of a kind, in the order of their suffixes.
    pub fn kind(&self, kind: u8) -> KeyRange {
        let prefix = self.start(kind, 0).finish();
        prefix_range(&prefix)
    }

    /// All rows of a kind and of those behind it.
    pub fn kinds_from(&self, kind: u8) -> KeyRange {
        self.start(kind, 0).finish()..self.range().end
    }

    fn start(&self, kind: u8, more: usize) -> KeyWriter {
        self.workflow.start(1 + more).raw(&self.run_id).u8(kind)
    }
}

/// The run, the kind and the suffix of a row's key. The pointer to the current run ([`WorkflowKey::current`]) is of kind 0 and
/// of run 0, and is met in a scan of a whole workflow.
pub fn decode_run_row(key: &[u8]) -> Result<(RunId, u8, &[u8]), KeyError> {
    let read = || {
        let mut reader = KeyReader::new(table::WORKFLOW, key)?;
        reader.u16()?;
        reader.array::<16>()?;
        reader.string()?;
        Some((reader.array()?, reader.u8()?, reader.raw_rest()))
    };
    read().ok_or_else(|| KeyError::new("workflow", key))
}

/// All workflows in a range of slots: what moves when slots move to another partition.
pub fn slot_range(slots: Range<u16>) -> KeyRange {
    let bound = |slot| KeyWriter::new(table::WORKFLOW, 3).u16(slot).finish();
    bound(slots.start)..bound(slots.end)
}
