//! Batches: the rows of many commands become one entry of the log; what the commands lead to waits until it is applied.
//!
//! While batches are in flight (a small, fixed number) the next one forms, so batches grow with the load and a lone command waits for
//! one fsync.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use everlog_kernel::RunId;
use everlog_model::{CallError, EntityRef, RunView, limits};
use everlog_raft::EntryStamp;

use super::super::batch::Batch;
use super::{Action, Lead, Outgoing};

/// The batches of a lead. Sequence numbers count from 1; the opening entry is 0.
pub(super) struct Batches {
    /// What the next batch will hold.
    pub(super) forming: Batch,
    /// Its sequence number.
    pub(super) sequence: u64,
    /// Every batch up to this one is durable and applied.
    pub(super) committed: u64,
    /// Workflows that the forming batch has rows of.
    pub(super) touched: Vec<EntityRef>,
    /// What watchers are told once the forming batch is applied.
    pub(super) views: HashMap<(EntityRef, RunId), RunView>,
    in_flight: VecDeque<InFlight>,
    /// Commands in the batch that was proposed last.
    last_commands: usize,
    batch_rows: metrics::Histogram,
}

/// A batch on its way.
struct InFlight {
    sequence: u64,
    bytes: usize,
    waiting: Vec<Outgoing>,
    touched: Vec<EntityRef>,
    views: HashMap<(EntityRef, RunId), RunView>,
}

impl Default for Batches {
    fn default() -> Batches {
        Batches {
            forming: Batch::default(),
            sequence: 1,
            committed: 0,
            touched: Vec::new(),
            views: HashMap::new(),
            in_flight: VecDeque::new(),
            last_commands: 0,
            batch_rows: metrics::histogram!("everlog_batch_rows"),
        }
    }
}

impl Batches {
    /// Whether the forming batch takes another command.
    pub(super) fn has_room(&self) -> bool {
        self.forming.bytes() < limits::PARTITION_BATCH_BYTES_MAX
    }

    /// Bytes of rows that are not applied.
    pub(super) fn bytes(&self) -> usize {
        self.forming.bytes() + self.in_flight.iter().map(|batch| batch.bytes).sum::<usize>()
    }

    /// Whether there is nothing that is not applied.
    pub(super) fn is_idle(&self) -> bool {
        self.in_flight.is_empty() && self.forming.is_empty()
    }

    /// Everything that waits for a batch.
    pub(super) fn take_waiting(&mut self) -> Vec<Outgoing> {
        let mut waiting = Vec::new();
        for batch in self.in_flight.drain(..) {
            waiting.extend(batch.waiting);
        }
        waiting.append(&mut self.forming.waiting);
        waiting
    }

    /// How long the forming batch is to wait for more commands; `None` if there is nothing to propose, or no room in flight.
    ///
    /// On a node with CPU to spare, a batch waits only for a free slot in flight. Where one does wait, it leaves with the other
    /// partitions' batches, or once it is as large as the one before: whoever was answered by that one is back then.
    fn patience(&self, linger: impl Fn(Instant) -> Duration) -> Option<Duration> {
        let since = self.forming.since().filter(|_| !self.forming.is_empty())?;
        let full = self.forming.commands() >= self.last_commands.max(limits::PARTITION_BATCH_COMMANDS_FULL)
            || !self.has_room();
        match self.in_flight.len() {
            0 if full => Some(Duration::ZERO),
            0 => Some(linger(since)),
            in_flight if full && in_flight < limits::PARTITION_BATCHES_IN_FLIGHT_MAX => Some(Duration::ZERO),
            _ => None,
        }
    }
}

impl Lead {
    /// How long until the forming batch is to be proposed, if time alone decides that.
    pub(crate) fn until_departure(&self, linger: impl Fn(Instant) -> Duration) -> Option<Duration> {
        self.batches.patience(linger)
    }

    /// Proposes the forming batch if it need not wait.
    pub(super) fn propose(&mut self, linger: impl Fn(Instant) -> Duration) {
        if self.batches.patience(linger) != Some(Duration::ZERO) {
            return;
        }
        let hlc = self.clock.next_hlc();
        let stamp = EntryStamp { chain: self.chain(self.batches.sequence), hlc };
        for change in self.journal.take_changes(hlc.0) {
            self.batches.forming.push(change);
        }
        let batches = &mut self.batches;
        batches.last_commands = batches.forming.commands();
        let bytes = batches.forming.bytes();
        let (rows, waiting) = batches.forming.take();
        batches.batch_rows.record(rows.changes.len() as f64);
        let touched = std::mem::take(&mut batches.touched);
        let views = std::mem::take(&mut batches.views);
        batches.in_flight.push_back(InFlight { sequence: batches.sequence, bytes, waiting, touched, views });
        batches.sequence += 1;
        self.actions.push(Action::Propose { stamp, rows });
    }

    /// The oldest batch in flight is durable and applied.
    pub(crate) fn settle(&mut self) {
        let Some(batch) = self.batches.in_flight.pop_front() else { return };
        self.batches.committed = batch.sequence;
        self.outbox.settle(batch.sequence);
        self.actions.extend(batch.waiting.into_iter().map(Action::Release));
        for (key, view) in batch.views {
            self.notify(&key, &view);
        }
        let now = self.now();
        for key in batch.touched {
            let Some(entry) = self.cache.get_mut(&key) else { continue };
            entry.runs.trim_tails(self.batches.committed);
            entry.forget_closed_runs(self.batches.committed);
            self.cache.recount_durable(&key, now);
        }
    }

    /// Lets `outgoing` leave once batch `sequence` is durable: with this turn's answers, if it is.
    pub(super) fn when_durable(&mut self, sequence: u64, outgoing: Outgoing) {
        if sequence <= self.batches.committed {
            self.answers.push(outgoing);
        } else if sequence == self.batches.sequence {
            self.batches.forming.waiting.push(outgoing);
        } else if let Some(batch) = self.batches.in_flight.iter_mut().find(|batch| batch.sequence == sequence) {
            batch.waiting.push(outgoing);
        } else {
            debug_assert!(false, "batch {sequence} is neither committed nor on its way");
            let error = CallError::Unavailable(format!("partition {} has lost a batch", self.partition));
            self.actions.push(Action::Withhold(outgoing, error));
        }
    }
}
