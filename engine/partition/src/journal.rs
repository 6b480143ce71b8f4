//! What was done lately for calls that have no id of their own, so that it is not done twice.
//!
//! ```text
//!   take ──known?──▶ the answer of the first time
//!     │ no
//!     └──▶ decide ──did something──▶ record ──with the batch──▶ a row ──after a minute──▶ deleted by a later batch
//! ```
//!
//! A batch has one row at most, with the steps of all its commands. The next lead reads them all before it takes a call that may be made
//! again. Refusals are not recorded: they did nothing, and are decided again.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use everlog_kernel::RunId;
use everlog_kernel::command::Reply;
use everlog_model::{OperationId, SlotSet, limits};
use everlog_proto::api::activity::v1::ActivityOptions;
use everlog_proto::api::workflow::v1::WorkflowExecutionOptions;
use everlog_storage::keys::JournalKey;
use everlog_storage::state::RowChange;
use prost::Message;

use super::job::Job;
use super::load::Rows;
use super::operation::Step;

/// About what a step takes in memory, without what its reply holds, bytes.
const STEP_BYTES: usize = 160;

/// The journal of a lead.
#[derive(Default)]
pub(crate) struct Journal {
    done: HashMap<Step, Done>,
    /// The rows that there are, oldest first, and the steps in each.
    rows: VecDeque<(JournalKey, Vec<Step>)>,
    /// Steps of the batch that forms.
    forming: Vec<Step>,
    /// Jobs that wait until the rows are read.
    waiting: Vec<Job>,
    is_read: bool,
    bytes: usize,
}

/// What a step came to.
struct Done {
    reply: Recorded,
    /// The hash slot of the entity.
    slot: u16,
    /// The batch that it is in; 0 if that is durable.
    sequence: u64,
}

impl Done {
    /// Its memory, bytes.
    fn bytes(&self) -> usize {
        STEP_BYTES + self.reply.bytes()
    }
}

impl Journal {
    /// Whether a job that may have been done before can be told apart from one that was not.
    pub(crate) fn is_read(&self) -> bool {
        self.is_read
    }

    /// Keeps a job until the rows are read.
    pub(crate) fn wait(&mut self, job: Job) {
        self.waiting.push(job);
    }

    /// What a step came to that was done already, and the batch that this is in.
    pub(crate) fn find(&self, step: &Step) -> Option<(Reply, u64)> {
        self.done.get(step).map(|done| (done.reply.to_reply(), done.sequence))
    }

    /// Records that a step was done in the batch that forms, `sequence`.
    pub(crate) fn record(&mut self, step: Step, slot: u16, sequence: u64, reply: &Reply) {
        if let Some(reply) = Recorded::of(reply) {
            self.add_done(step, slot, sequence, reply);
        }
    }

    fn add_done(&mut self, step: Step, slot: u16, sequence: u64, reply: Recorded) {
        let done = Done { reply, slot, sequence };
        self.bytes += done.bytes();
        self.done.insert(step, done);
        self.forming.push(step);
    }

    /// What was done for entities of some slots, as a row. Those of all namespaces: a step names none, and nobody else has its operation.
    pub(crate) fn of_slots(&self, slots: &SlotSet) -> Bytes {
        let done = self.done.iter().filter(|(_, done)| slots.contains(done.slot));
        let mut steps: Vec<StepRow> = done.map(|(step, done)| done.reply.to_row(*step, done.slot)).collect();
        // A page is the same each time it is read.
        steps.sort_by(|left, right| (&left.operation, left.what).cmp(&(&right.operation, right.what)));
        JournalRow { steps }.encode_to_vec().into()
    }

    /// Takes in such a row from another partition, with the batch that forms, `sequence`.
    pub(crate) fn take_in(&mut self, row: Bytes, sequence: u64) -> Result<(), String> {
        let row = JournalRow::decode(row).map_err(|error| error.to_string())?;
        for (step, slot, reply) in row.read()? {
            if !self.done.contains_key(&step) {
                self.add_done(step, slot, sequence, reply);
            }
        }
        Ok(())
    }

    /// The changes that go with the batch that leaves at `time_ns`: the row of what was done in it, and of old rows that they go.
    pub(crate) fn take_changes(&mut self, time_ns: u64) -> Vec<RowChange> {
        let kept = u64::try_from(limits::JOURNAL_KEPT.as_nanos()).unwrap_or(u64::MAX);
        let old = time_ns.saturating_sub(kept);
        let mut changes = Vec::new();
        while changes.len() < limits::JOURNAL_ROWS_DELETED_MAX
            && self.rows.front().is_some_and(|(key, _)| key.time_ns < old)
            && let Some((key, steps)) = self.rows.pop_front()
        {
            for done in steps.iter().filter_map(|step| self.done.remove(step)) {
                self.bytes = self.bytes.saturating_sub(done.bytes());
            }
            changes.push(RowChange::Delete { key: key.encode() });
        }
        if !self.forming.is_empty() {
            let key = JournalKey { time_ns };
            let forming = std::mem::take(&mut self.forming);
            let row = |step: &Step| {
                let done = self.done.get(step)?;
                Some(done.reply.to_row(*step, done.slot))
            };
            let value = JournalRow { steps: forming.iter().filter_map(row).collect() }.encode_to_vec();
            changes.push(RowChange::Put { key: key.encode(), value: value.into() });
            self.rows.push_back((key, forming));
        }
        changes
    }

    /// Takes in a page of rows that earlier leads have left. Returns the jobs that waited for the last one.
    pub(crate) fn add(&mut self, page: JournalPage) -> Vec<Job> {
        for (key, steps) in page.rows {
            let names = steps.iter().map(|(step, ..)| *step).collect();
            for (step, slot, reply) in steps {
                let done = Done { reply, slot, sequence: 0 };
                self.bytes += done.bytes();
                self.done.insert(step, done);
            }
            self.rows.push_back((key, names));
        }
        self.is_read = page.next.is_none();
        if self.is_read { std::mem::take(&mut self.waiting) } else { Vec::new() }
    }

    /// The jobs that wait, of a lead that ends.
    pub(crate) fn take_waiting(&mut self) -> Vec<Job> {
        std::mem::take(&mut self.waiting)
    }

    /// Bytes in memory.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

/// A step that was read, with the slot of its entity and its reply.
type Read = (Step, u16, Recorded);

/// A page of the journal's rows.
pub(crate) struct JournalPage {
    rows: Vec<(JournalKey, Vec<Read>)>,
    /// Where the next page starts, if there is one.
    pub(crate) next: Option<Bytes>,
}

impl JournalPage {
    /// The only page, of a journal without rows.
    #[cfg(test)]
    pub(crate) fn empty() -> JournalPage {
        JournalPage { rows: Vec::new(), next: None }
    }
}

/// Reads a page of rows from `start`, or from the first one. Blocks.
pub(crate) fn read_page(rows: &impl Rows, start: Option<Bytes>) -> Result<JournalPage, String> {
    let (found, next) = rows.page(JournalKey::all(), start, limits::JOURNAL_PAGE_ROWS)?;
    let row = |(key, value): (Bytes, Bytes)| {
        let key = JournalKey::decode(&key).map_err(|error| error.to_string())?;
        let row = JournalRow::decode(value).map_err(|error| error.to_string())?;
        Ok((key, row.read()?))
    };
    Ok(JournalPage { rows: found.into_iter().map(row).collect::<Result<_, String>>()?, next })
}

/// A reply that can be given again.
#[derive(Clone, Debug, PartialEq)]
enum Recorded {
    Done,
    Signaled(RunId),
    Reset(RunId),
    ScheduleToken(Vec<u8>),
    ActivityOptions(Box<ActivityOptions>),
    WorkflowOptions(Box<WorkflowExecutionOptions>),
    ActivityExecutionStarted(RunId, bool),
}

/// The value of a row. For ever: rows are on disks.
#[derive(Clone, PartialEq, Message)]
struct JournalRow {
    #[prost(message, repeated, tag = "1")]
    steps: Vec<StepRow>,
}

impl JournalRow {
    /// Its steps, with the slots of their entities.
    fn read(self) -> Result<Vec<Read>, String> {
        let read = |row: StepRow| {
            let slot = u16::try_from(row.slot).ok()?;
            Recorded::read(row).map(|(step, reply)| (step, slot, reply))
        };
        self.steps.into_iter().map(|step| read(step).ok_or("a step that cannot be read".to_owned())).collect()
    }
}

/// A step, and its reply.
#[derive(Clone, PartialEq, Message)]
struct StepRow {
    #[prost(bytes = "bytes", tag = "1")]
    operation: Bytes,
    #[prost(fixed64, tag = "2")]
    what: u64,
    /// The hash slot of the entity, with which the step moves.
    #[prost(uint32, tag = "3")]
    slot: u32,
    /// Which reply; see [`Recorded::to_row`].
    #[prost(uint32, tag = "4")]
    kind: u32,
    #[prost(bytes = "bytes", tag = "5")]
    run_id: Bytes,
    #[prost(bytes = "bytes", tag = "6")]
    content: Bytes,
    #[prost(bool, tag = "7")]
    is_new: bool,
}

impl Recorded {
    /// `None` for replies to calls that have an id or a token of their own, to polls, and to questions.
    fn of(reply: &Reply) -> Option<Recorded> {
        match reply {
            Reply::Done => Some(Recorded::Done),
            Reply::Signaled(run_id) => Some(Recorded::Signaled(*run_id)),
            Reply::Reset(run_id) => Some(Recorded::Reset(*run_id)),
            Reply::ScheduleToken(token) => Some(Recorded::ScheduleToken(token.clone())),
            Reply::ActivityOptions(options) => Some(Recorded::ActivityOptions(options.clone())),
            Reply::WorkflowOptions(options) => Some(Recorded::WorkflowOptions(options.clone())),
            Reply::ActivityExecutionStarted(run_id, is_new) => {
                Some(Recorded::ActivityExecutionStarted(*run_id, *is_new))
            }
            Reply::Started(_)
            | Reply::HistoryGrew
            | Reply::WorkflowTaskStarted(_)
            | Reply::WorkflowTaskCompleted(_)
            | Reply::ActivityTaskStarted(_)
            | Reply::Heartbeat(_)
            | Reply::Query(_)
            | Reply::Update(_)
            | Reply::QueryTask(_)
            | Reply::Schedule(..)
            | Reply::BatchJob(_)
            | Reply::BatchWork(_)
            | Reply::ActivityExecution(..) => None,
        }
    }

    fn to_reply(&self) -> Reply {
        match self.clone() {
            Recorded::Done => Reply::Done,
            Recorded::Signaled(run_id) => Reply::Signaled(run_id),
            Recorded::Reset(run_id) => Reply::Reset(run_id),
            Recorded::ScheduleToken(token) => Reply::ScheduleToken(token),
            Recorded::ActivityOptions(options) => Reply::ActivityOptions(options),
            Recorded::WorkflowOptions(options) => Reply::WorkflowOptions(options),
            Recorded::ActivityExecutionStarted(run_id, is_new) => Reply::ActivityExecutionStarted(run_id, is_new),
        }
    }

    fn to_row(&self, step: Step, slot: u16) -> StepRow {
        let row = StepRow {
            operation: Bytes::copy_from_slice(&step.operation.to_bytes()),
            what: step.what,
            slot: slot.into(),
            ..StepRow::default()
        };
        let of_run = |kind, run_id: &RunId| StepRow { kind, run_id: Bytes::copy_from_slice(&run_id.0), ..row.clone() };
        let with = |kind, content: Vec<u8>| StepRow { kind, content: content.into(), ..row.clone() };
        match self {
            Recorded::Done => StepRow { kind: 1, ..row },
            Recorded::Signaled(run_id) => of_run(2, run_id),
            Recorded::Reset(run_id) => of_run(3, run_id),
            Recorded::ScheduleToken(token) => with(4, token.clone()),
            Recorded::ActivityOptions(options) => with(5, options.encode_to_vec()),
            Recorded::WorkflowOptions(options) => with(6, options.encode_to_vec()),
            Recorded::ActivityExecutionStarted(run_id, is_new) => StepRow { is_new: *is_new, ..of_run(7, run_id) },
        }
    }

    /// `None` if it is none, or of a later version.
    fn read(row: StepRow) -> Option<(Step, Recorded)> {
        let operation = OperationId::from_bytes(row.operation[..].try_into().ok()?);
        let run_id = || Some(RunId(row.run_id[..].try_into().ok()?));
        let reply = match row.kind {
            1 => Recorded::Done,
            2 => Recorded::Signaled(run_id()?),
            3 => Recorded::Reset(run_id()?),
            4 => Recorded::ScheduleToken(row.content.to_vec()),
            5 => Recorded::ActivityOptions(Box::new(Message::decode(row.content).ok()?)),
            6 => Recorded::WorkflowOptions(Box::new(Message::decode(row.content).ok()?)),
            7 => Recorded::ActivityExecutionStarted(run_id()?, row.is_new),
            _ => return None,
        };
        Some((Step { operation, what: row.what }, reply))
    }

    /// What it holds beside itself, bytes.
    fn bytes(&self) -> usize {
        match self {
            Recorded::ScheduleToken(token) => token.len(),
            Recorded::ActivityOptions(options) => options.encoded_len(),
            Recorded::WorkflowOptions(options) => options.encoded_len(),
            Recorded::Done | Recorded::Signaled(_) | Recorded::Reset(_) | Recorded::ActivityExecutionStarted(..) => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(number: u8) -> Step {
        Step { operation: OperationId::from_bytes([number; 16]), what: 0x0102_0304_0506_0708 }
    }

    #[test]
    fn a_step_is_what_it_was_when_it_is_read() {
        let run_id = RunId([9; 16]);
        let replies = [
            Recorded::Done,
            Recorded::Signaled(run_id),
            Recorded::Reset(run_id),
            Recorded::ScheduleToken(vec![1, 2]),
            Recorded::ActivityOptions(Box::new(ActivityOptions { task_queue: None, ..ActivityOptions::default() })),
            Recorded::WorkflowOptions(Box::default()),
            Recorded::ActivityExecutionStarted(run_id, true),
        ];
        for reply in replies {
            let row = reply.to_row(step(7), 12);
            assert_eq!(Recorded::read(row.clone()), Some((step(7), reply.clone())));
            assert_eq!(Recorded::of(&reply.to_reply()), Some(reply));
            assert_eq!(Recorded::read(StepRow { kind: 99, ..row.clone() }), None);
            assert_eq!(Recorded::read(StepRow { operation: Bytes::new(), ..row }), None);
        }
        assert_eq!(
            Recorded::read(StepRow { run_id: Bytes::new(), ..Recorded::Signaled(run_id).to_row(step(7), 1) }),
            None
        );
    }

    #[test]
    fn rows_are_what_they_always_were() {
        let steps = vec![Recorded::Done.to_row(step(1), 3), Recorded::Signaled(RunId([9; 16])).to_row(step(2), 4095)];
        let hex: String = JournalRow { steps }.encode_to_vec().iter().map(|byte| format!("{byte:02x}")).collect();
        let done = "0a1f0a1001010101010101010101010101010101110807060504030201180320 01".replace(' ', "");
        let signaled = "0a320a1002020202020202020202020202020202110807060504030201 18ff1f2002 2a1009090909090909090909090909090909";
        assert_eq!(hex, format!("{done}{}", signaled.replace(' ', "")));
    }

    #[test]
    fn old_rows_go_a_few_with_each_batch_and_memory_with_them() {
        let second = 1_000_000_000;
        let mut journal = Journal::default();
        journal.add(JournalPage::empty());
        for number in 1..=6 {
            journal.record(step(number), 1, number.into(), &Reply::Done);
            assert_eq!(journal.take_changes(u64::from(number) * second).len(), 1, "its row");
        }
        assert!(journal.take_changes(61 * second).is_empty(), "none is older than a minute");
        assert!(journal.find(&step(1)).is_some() && journal.bytes() > 0);
        let deleted = journal.take_changes(100 * second);
        assert_eq!(deleted[0], RowChange::Delete { key: JournalKey { time_ns: second }.encode() });
        assert_eq!((deleted.len(), journal.take_changes(100 * second).len()), (limits::JOURNAL_ROWS_DELETED_MAX, 2));
        assert!((1..=6).all(|number| journal.find(&step(number)).is_none()));
        assert_eq!(journal.bytes(), 0);
    }
}
