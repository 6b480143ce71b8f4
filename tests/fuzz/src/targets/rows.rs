//! Rows and batches of rows as a disk may give them back: they are read, or said to be corrupt.
//!
//! An input is a list of rows, each a kind, a length of two bytes, and the row.

mod story;

use bytes::Bytes;
use everlog_kernel::activity_execution::ActivityExecutionRows;
use everlog_kernel::batch_job::BatchJobRows;
use everlog_kernel::outbox::OutboxMessage;
use everlog_kernel::rows::Suffix;
use everlog_kernel::schedule::ScheduleRows;
use everlog_kernel::state::{Current, Run};
use everlog_kernel::transition::TaskRow;
use everlog_kernel::{ActivityExecutions, BatchJob, RunId, RunRow, RunRowKind, Schedule};
use everlog_model::rows as keys_of_rows;
use everlog_proto::api::history::v1::History;
use everlog_random::Random;
use everlog_storage::keys::{OutboxKey, WakeKey};
use everlog_storage::state::RowBatch;
use everlog_visibility::Record;
use prost::Message;

use super::{Target, kind_of};
use everlog_random::mutate;
use story::Story;

/// What a row of an input is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A row of a run.
    Run(RunRowKind),
    Current,
    Task,
    /// A batch of rows, as a log entry has it.
    Batch,
    /// A message to another workflow.
    Outbox,
    Visibility,
    /// Any key.
    Key,
    /// A namespace.
    Namespace,
    /// The slot table.
    Slots,
    /// What Raft keeps in the log and beside the rows.
    Log,
}

/// Kinds by their number in inputs, which the corpus knows: new ones come last.
const KINDS: [Kind; 35] = [
    Kind::Run(RunRowKind::Info),
    Kind::Run(RunRowKind::State),
    Kind::Run(RunRowKind::Activity),
    Kind::Run(RunRowKind::Timer),
    Kind::Run(RunRowKind::BufferedEvent),
    Kind::Run(RunRowKind::SignalRequest),
    Kind::Current,
    Kind::Task,
    Kind::Batch,
    Kind::Run(RunRowKind::WorkflowTaskStart),
    Kind::Run(RunRowKind::ExternalSignal),
    Kind::Run(RunRowKind::ExternalCancel),
    Kind::Run(RunRowKind::History),
    Kind::Outbox,
    Kind::Visibility,
    Kind::Key,
    Kind::Namespace,
    Kind::Slots,
    Kind::Log,
    Kind::Run(RunRowKind::Child),
    Kind::Run(RunRowKind::AttachedRequest),
    Kind::Run(RunRowKind::AcceptedUpdate),
    Kind::Run(RunRowKind::Workers),
    Kind::Run(RunRowKind::Schedule),
    Kind::Run(RunRowKind::ScheduleProgress),
    Kind::Run(RunRowKind::ScheduleCarried),
    Kind::Run(RunRowKind::Branch),
    Kind::Run(RunRowKind::HistoryHold),
    Kind::Run(RunRowKind::ReappliedUpdate),
    Kind::Run(RunRowKind::BatchJob),
    Kind::Run(RunRowKind::BatchJobProgress),
    Kind::Run(RunRowKind::ActivityExecution),
    Kind::Run(RunRowKind::ActivityExecutionProgress),
    Kind::Run(RunRowKind::NexusOperation),
    Kind::Run(RunRowKind::Callback),
];

/// Rows that no run writes, as they are on disks: a namespace, a slot table, and what Raft keeps.
const OTHERS: [(Kind, &[u8]); 9] = [
    (Kind::Namespace, b"\x0a\x06orders\x10\x80\x80\xbc\x8a\xc9\xd2\x13\x18\x02\x22\x01d\x2a\x0do@example.com"),
    (Kind::Slots, b"\x0a\x07\x08\xd5\x0a\x10\x01\x18\x01\x0a\x07\x08\xd5\x0a\x10\x02\x18\x01\x0a\x08\x08\xd6\x0a\x10\xac\x02\x18\x01"),
    (Kind::Log, b"\x02\x03\xfb\x2c\x01\x00"),
    (Kind::Log, b"\x02\x03\x04\x01\x03\x01\x02\x07rows"),
    (Kind::Log, b"\x02\x00\x00\x02\x01\x01\x07\x01\x07\x07\x03a:1\x02eu\x01b"),
    (Kind::Log, b"\x01\x09\x07\x01"),
    (Kind::Log, b"\x01\x02\xfa"),
    (Kind::Log, b"\x01\x02\xfd\x00\x00\x00\x00\x01\x00\x00\x00"),
    (
        Kind::Log,
        b"\x02\x02\x05\x02\x01\x04\x09\x02\x01\x00\x08\x02\x00\x03\x01\x01\x01\x01\x01\x07\x01\x07\x07\x03a:1\x02eu\x01b",
    ),
];

pub(super) struct Rows;

impl Target for Rows {
    fn name(&self) -> &'static str {
        "rows"
    }

    /// The rows of a run that waits for much, and rows of the other kinds.
    fn seeds(&mut self) -> Result<Vec<Vec<u8>>, String> {
        let rows = Story::new().rows()?;
        let mut batch = RowBatch::new();
        batch.put(&b"key"[..], &b"value"[..]);
        batch.delete(&b"another"[..]);
        batch.delete_range(&b"a"[..], &b"b"[..]);
        let message = OutboxKey { slot: 7, time_ns: 1 << 60, number: 1 };
        let mut others = vec![(Kind::Batch, batch.encode()), (Kind::Key, message.encode())];
        others.extend(OTHERS.map(|(kind, row)| (kind, Bytes::from_static(row))));
        let seeded = |kind: &Kind| rows.iter().chain(&others).any(|(seeded, _)| seeded == kind);
        let runs = RunRowKind::ALL.iter().map(|kind| Kind::Run(*kind));
        if let Some(kind) = runs.chain(KINDS).find(|kind| !seeded(kind) || !KINDS.contains(kind)) {
            return Err(format!("{kind:?} has no seed, or no number"));
        }
        let one_by_one = rows.iter().chain(&others).map(|row| written(std::slice::from_ref(row)));
        Ok(one_by_one.chain([written(&rows)]).collect())
    }

    fn change(&mut self, random: &mut Random, input: &mut Vec<u8>, other: &[u8]) {
        let mut rows = read(input);
        if rows.is_empty() || random.one_in(10) {
            return mutate::bytes(random, input, other);
        }
        let at = random.below(rows.len());
        match random.below(6) {
            0 => rows.extend(read(other)),
            1 => drop(rows.remove(at)),
            2 => rows[at].0 = *random.of(&KINDS),
            _ => {
                let mut row = rows[at].1.to_vec();
                // Rows are protobuf, and hold it; a batch is none.
                if random.one_in(2) {
                    mutate::message(random, &mut row, other);
                } else {
                    mutate::bytes(random, &mut row, other);
                }
                rows[at].1 = row.into();
            }
        }
        *input = written(&rows);
    }

    fn run(&mut self, input: &[u8]) -> Result<String, String> {
        let mut outcomes = String::new();
        let mut run = Vec::new();
        let (mut schedule, mut batch_job) = (ScheduleRows::default(), BatchJobRows::default());
        let mut activity = ActivityExecutionRows::default();
        for (kind, bytes) in read(input) {
            let number = run.len() as u64;
            let Kind::Run(kind) = kind else {
                outcomes.push_str(&lone(kind, &bytes)?);
                continue;
            };
            if kind == RunRowKind::Activity {
                activity.activity = Some(bytes.clone());
            }
            let suffix = match kind {
                RunRowKind::Info
                | RunRowKind::State
                | RunRowKind::WorkflowTaskStart
                | RunRowKind::Workers
                | RunRowKind::Branch => Suffix::Nothing,
                RunRowKind::BufferedEvent => Suffix::Unsigned(number),
                RunRowKind::SignalRequest | RunRowKind::AttachedRequest => {
                    Suffix::Text(String::from_utf8_lossy(&bytes).into_owned())
                }
                RunRowKind::AcceptedUpdate
                | RunRowKind::HistoryHold
                | RunRowKind::ReappliedUpdate
                | RunRowKind::Callback => Suffix::Text(number.to_string()),
                RunRowKind::Activity
                | RunRowKind::Timer
                | RunRowKind::ExternalSignal
                | RunRowKind::ExternalCancel
                | RunRowKind::NexusOperation
                | RunRowKind::Child => Suffix::Signed(number.cast_signed()),
                RunRowKind::Schedule => {
                    schedule.made_of = Some(bytes);
                    continue;
                }
                RunRowKind::ScheduleProgress => {
                    schedule.progress = Some(bytes);
                    continue;
                }
                RunRowKind::ScheduleCarried => {
                    schedule.carried = Some(bytes);
                    continue;
                }
                RunRowKind::BatchJob => {
                    batch_job.asked = Some(bytes);
                    continue;
                }
                RunRowKind::BatchJobProgress => {
                    batch_job.progress = Some(bytes);
                    continue;
                }
                RunRowKind::ActivityExecution => {
                    activity.asked = Some(bytes);
                    continue;
                }
                RunRowKind::ActivityExecutionProgress => {
                    activity.progress = Some(bytes);
                    continue;
                }
                RunRowKind::History => {
                    outcomes.push_str(if History::decode(bytes).is_ok() { "history " } else { "corrupt history " });
                    continue;
                }
            };
            run.push((RunRow { kind, suffix }, bytes));
        }
        if schedule.made_of.is_some() || schedule.progress.is_some() {
            outcomes.push_str(&match Schedule::from_rows("fuzz", RunId([9; 16]), schedule) {
                Ok(schedule) => format!("schedule of 2^{} bytes ", schedule.memory_bytes().max(1).ilog2()),
                Err(corrupt) => kind_of(&corrupt.to_string()),
            });
        }
        if batch_job.asked.is_some() || batch_job.progress.is_some() {
            outcomes.push_str(&match BatchJob::from_rows("fuzz", RunId([9; 16]), batch_job) {
                Ok(job) => format!("batch job of 2^{} bytes ", job.memory_bytes().max(1).ilog2()),
                Err(corrupt) => kind_of(&corrupt.to_string()),
            });
        }
        if activity.asked.is_some() || activity.progress.is_some() {
            let run_id = RunId([9; 16]);
            outcomes.push_str(&match ActivityExecutions::from_rows("fuzz", Some(run_id), vec![(run_id, activity)]) {
                Ok(executions) => format!("activity of 2^{} bytes ", executions.memory_bytes().max(1).ilog2()),
                Err(corrupt) => kind_of(&corrupt.to_string()),
            });
        }
        match Run::from_rows(RunId([9; 16]), run) {
            Ok(Some(run)) => {
                // As the cache does with every run that was read.
                let bytes = run.memory_bytes();
                outcomes.push_str(&format!("run of 2^{} bytes", bytes.max(1).ilog2()));
            }
            Ok(None) => outcomes.push_str("no run"),
            Err(corrupt) => outcomes.push_str(&kind_of(&corrupt.to_string())),
        }
        Ok(outcomes)
    }
}

/// What comes of a row by itself.
fn lone(kind: Kind, bytes: &Bytes) -> Result<String, String> {
    let said = |what: &str, is_read: bool| Ok(format!("{}{what} ", if is_read { "" } else { "corrupt " }));
    match kind {
        Kind::Current => said("current", Current::from_row(bytes).is_ok()),
        Kind::Task => said("task", TaskRow::from_row(bytes).is_ok()),
        Kind::Visibility => said("record", Record::parse(bytes).is_some()),
        Kind::Namespace => said("namespace", everlog_meta::check_namespace_row(bytes).is_ok()),
        Kind::Slots => said("slots", everlog_meta::check_slots_row(bytes).is_ok()),
        Kind::Outbox => match OutboxMessage::from_row(bytes) {
            // It is sent as it was read.
            Ok(message) if OutboxMessage::from_row(&message.to_row()).is_ok_and(|again| again == message) => {
                Ok(format!("message to {} ", if message.target_run_id.is_some() { "a run" } else { "a workflow" }))
            }
            Ok(_) => Err("a message changes".to_owned()),
            Err(corrupt) => Ok(kind_of(&corrupt.to_string())),
        },
        Kind::Key => Ok(key(bytes)),
        Kind::Log => Ok(everlog_raft::readable_as(bytes).join(" ")),
        Kind::Batch | Kind::Run(_) => batch(bytes),
    }
}

/// What a key is read as. A task's has a row behind it.
fn key(bytes: &Bytes) -> String {
    let task = keys_of_rows::task(bytes, b"\x0a\x07order-1\x10\x02");
    let read = [
        ("outbox key", OutboxKey::decode(bytes).is_ok()),
        ("wake key", WakeKey::decode(bytes).is_ok()),
        ("run key", keys_of_rows::decode_run_row(bytes).is_ok()),
        ("history key", keys_of_rows::history_first_event(bytes).is_some()),
        ("task key", task.is_ok()),
    ];
    let read = read.into_iter().filter(|(_, is_read)| *is_read).map(|(name, _)| name);
    let why = task.err().map(|error| kind_of(&error)).unwrap_or_default();
    format!("{} {why} ", read.collect::<Vec<_>>().join(" "))
}

/// A batch that is read is written as it was.
fn batch(bytes: &Bytes) -> Result<String, String> {
    let Ok(batch) = RowBatch::decode(bytes) else { return Ok("corrupt batch ".to_owned()) };
    let again = RowBatch::decode(&batch.encode()).map_err(|error| format!("a batch cannot be read again: {error}"))?;
    if again == batch {
        Ok(format!("batch of {} ", batch.changes.len().min(9)))
    } else {
        Err("a batch changes".to_owned())
    }
}

fn written(rows: &[(Kind, Bytes)]) -> Vec<u8> {
    let mut input = Vec::new();
    for (kind, row) in rows {
        let length = u16::try_from(row.len()).unwrap_or(u16::MAX);
        let number = KINDS.iter().position(|known| known == kind).unwrap_or_default();
        input.push(number as u8);
        input.extend_from_slice(&length.to_le_bytes());
        input.extend_from_slice(&row[..usize::from(length)]);
    }
    input
}

fn read(mut input: &[u8]) -> Vec<(Kind, Bytes)> {
    let mut rows = Vec::new();
    while let [kind, low, high, rest @ ..] = input {
        let length = usize::from(u16::from_le_bytes([*low, *high])).min(rest.len());
        let (row, behind) = rest.split_at(length);
        rows.push((KINDS[usize::from(*kind) % KINDS.len()], Bytes::copy_from_slice(row)));
        input = behind;
    }
    rows
}
