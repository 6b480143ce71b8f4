//! Rows and batches of rows as a disk may give them back: they are read, or said to be corrupt.
//!
//! An input is a list of rows, each a kind, a length of two bytes, and the row.

use bytes::Bytes;
use everlog_kernel::command::{StartActivityTask, StartWorkflowTask};
use everlog_kernel::rows::Suffix;
use everlog_kernel::state::{Current, Run};
use everlog_kernel::transition::TaskRow;
use everlog_kernel::{
    Command, Context, Ids, Limits, Namespace, NamespaceId, Reply, RowKey, RunCommand, RunId, RunRow, RunRowKind, Time,
    Workflow, decide, token,
};
use everlog_proto::api::command::v1::Command as WorkflowCommand;
use everlog_proto::api::command::v1::command::Attributes;
use everlog_proto::api::command::v1::{ScheduleActivityTaskCommandAttributes, StartTimerCommandAttributes};
use everlog_proto::api::common::v1::{ActivityType, Payload, Payloads, WorkflowExecution, WorkflowType};
use everlog_proto::api::enums::v1::CommandType;
use everlog_proto::api::taskqueue::v1::{StickyExecutionAttributes, TaskQueue};
use everlog_proto::api::workflowservice::v1::{
    RespondWorkflowTaskCompletedRequest, SignalWorkflowExecutionRequest, StartWorkflowExecutionRequest,
};
use everlog_proto::wkt::Duration;
use everlog_storage::state::RowBatch;

use super::{Target, kind_of};
use crate::mutate;
use everlog_random::Random;

/// Kinds of rows in an input.
const INFO: u8 = 0;
const STATE: u8 = 1;
const ACTIVITY: u8 = 2;
const TIMER: u8 = 3;
const BUFFERED_EVENT: u8 = 4;
const SIGNAL_REQUEST: u8 = 5;
const CURRENT: u8 = 6;
const TASK: u8 = 7;
const BATCH: u8 = 8;
const WORKFLOW_TASK_START: u8 = 9;
const KINDS: u8 = 10;

pub(super) struct Rows;

impl Target for Rows {
    fn name(&self) -> &'static str {
        "rows"
    }

    /// The rows of a run that waits for much.
    fn seeds(&mut self) -> Result<Vec<Vec<u8>>, String> {
        let rows = Story::new().rows()?;
        let mut batch = RowBatch::new();
        batch.put(&b"key"[..], &b"value"[..]);
        batch.delete(&b"another"[..]);
        batch.delete_range(&b"a"[..], &b"b"[..]);
        let batch = (BATCH, batch.encode());
        let one_by_one = rows.iter().chain([&batch]).map(|row| written(std::slice::from_ref(row)));
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
            2 => rows[at].0 = random.any() as u8 % KINDS,
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
        for (kind, bytes) in read(input) {
            let number = run.len() as u64;
            let row = match kind {
                INFO => (RunRowKind::Info, Suffix::Nothing),
                STATE => (RunRowKind::State, Suffix::Nothing),
                ACTIVITY => (RunRowKind::Activity, Suffix::Signed(number.cast_signed())),
                TIMER => (RunRowKind::Timer, Suffix::Signed(number.cast_signed())),
                BUFFERED_EVENT => (RunRowKind::BufferedEvent, Suffix::Unsigned(number)),
                WORKFLOW_TASK_START => (RunRowKind::WorkflowTaskStart, Suffix::Nothing),
                SIGNAL_REQUEST => {
                    (RunRowKind::SignalRequest, Suffix::Text(String::from_utf8_lossy(&bytes).into_owned()))
                }
                CURRENT => {
                    outcomes.push_str(if Current::from_row(&bytes).is_ok() { "current " } else { "corrupt current " });
                    continue;
                }
                TASK => {
                    outcomes.push_str(if TaskRow::from_row(&bytes).is_ok() { "task " } else { "corrupt task " });
                    continue;
                }
                _ => {
                    outcomes.push_str(&batch(&bytes)?);
                    continue;
                }
            };
            let (kind, suffix) = row;
            run.push((RunRow { kind, suffix }, bytes));
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

fn written(rows: &[(u8, Bytes)]) -> Vec<u8> {
    let mut input = Vec::new();
    for (kind, row) in rows {
        let length = u16::try_from(row.len()).unwrap_or(u16::MAX);
        input.push(*kind);
        input.extend_from_slice(&length.to_le_bytes());
        input.extend_from_slice(&row[..usize::from(length)]);
    }
    input
}

fn read(mut input: &[u8]) -> Vec<(u8, Bytes)> {
    let mut rows = Vec::new();
    while let [kind, low, high, rest @ ..] = input {
        let length = usize::from(u16::from_le_bytes([*low, *high])).min(rest.len());
        let (row, behind) = rest.split_at(length);
        rows.push((kind % KINDS, Bytes::copy_from_slice(row)));
        input = behind;
    }
    rows
}

/// A run that has an activity, a timer, a signal that waits and a workflow task that was started.
struct Story {
    workflow: Workflow,
    ids: Ids,
    now: Time,
    limits: Limits,
    namespace: Namespace,
    rows: Vec<(u8, Bytes)>,
}

impl Story {
    fn new() -> Story {
        Story {
            workflow: Workflow::new("fuzz".to_owned()),
            ids: Ids::new(1),
            now: Time(1_700_000_000_000_000_000),
            limits: Limits::default(),
            namespace: Namespace {
                id: NamespaceId([7; 16]),
                name: "default".to_owned(),
                retention: std::time::Duration::from_secs(24 * 3600),
            },
            rows: Vec::new(),
        }
    }

    fn decide(&mut self, command: impl Into<Command>) -> Result<Reply, String> {
        let command = command.into();
        self.now = self.now.plus(std::time::Duration::from_millis(700));
        let mut context =
            Context { now: self.now, namespace: &self.namespace, limits: &self.limits, ids: &mut self.ids };
        let name = command.name();
        let failed = |rejection| format!("{name} is refused: {rejection}");
        let transition = decide(&mut self.workflow, None, command, &mut context).map_err(failed)?;
        for (key, value) in transition.rows {
            let Some(value) = value else { continue };
            let kind = match key {
                RowKey::Run(_, row) => match (row.kind, row.suffix) {
                    (RunRowKind::Info, _) => INFO,
                    (RunRowKind::State, _) => STATE,
                    (RunRowKind::Activity, _) => ACTIVITY,
                    (RunRowKind::Timer, _) => TIMER,
                    (RunRowKind::BufferedEvent, _) => BUFFERED_EVENT,
                    (RunRowKind::WorkflowTaskStart, _) => WORKFLOW_TASK_START,
                    (RunRowKind::SignalRequest, Suffix::Text(request_id)) => {
                        self.rows.push((SIGNAL_REQUEST, Bytes::from(request_id)));
                        continue;
                    }
                    _ => continue,
                },
                RowKey::Current => CURRENT,
                RowKey::Task(_) => TASK,
                _ => continue,
            };
            self.rows.push((kind, value));
        }
        transition.reply.map_err(failed)
    }

    fn rows(mut self) -> Result<Vec<(u8, Bytes)>, String> {
        let queue = |name: &str| Some(TaskQueue { name: name.to_owned(), ..TaskQueue::default() });
        let request = StartWorkflowExecutionRequest {
            namespace: "default".to_owned(),
            workflow_id: "fuzz".to_owned(),
            workflow_type: Some(WorkflowType { name: "Fuzz".to_owned() }),
            task_queue: queue("fuzz"),
            input: payloads(),
            request_id: "start".to_owned(),
            ..Default::default()
        };
        self.decide(Command::start(request, &self.limits).map_err(|rejection| rejection.to_string())?)?;
        let started = self.start_workflow_task(2)?;
        let timer = StartTimerCommandAttributes { timer_id: "t".to_owned(), start_to_fire_timeout: seconds(60) };
        let activity = ScheduleActivityTaskCommandAttributes {
            activity_id: "a".to_owned(),
            activity_type: Some(ActivityType { name: "Fuzz".to_owned() }),
            task_queue: queue("fuzz"),
            input: payloads(),
            start_to_close_timeout: seconds(10),
            ..Default::default()
        };
        let request = RespondWorkflowTaskCompletedRequest {
            commands: vec![
                WorkflowCommand {
                    command_type: CommandType::StartTimer as i32,
                    attributes: Some(Attributes::StartTimerCommandAttributes(timer)),
                    ..Default::default()
                },
                WorkflowCommand {
                    command_type: CommandType::ScheduleActivityTask as i32,
                    attributes: Some(Attributes::ScheduleActivityTaskCommandAttributes(activity)),
                    ..Default::default()
                },
            ],
            sticky_attributes: Some(StickyExecutionAttributes {
                worker_task_queue: queue("sticky"),
                schedule_to_start_timeout: seconds(5),
            }),
            ..Default::default()
        };
        self.decide(RunCommand::CompleteWorkflowTask(started, Box::new(request)))?;
        let activity = self.workflow.current_run().and_then(|run| run.activities.keys().next().copied());
        self.decide(RunCommand::StartActivityTask(StartActivityTask {
            scheduled_event_id: activity.ok_or("no activity is pending")?,
            attempt: 1,
            identity: "fuzz".to_owned(),
            request_id: "activity".to_owned(),
        }))?;
        self.signal("first")?;
        let scheduled = self.workflow.current_run().and_then(|run| run.state.workflow_task.as_ref());
        let scheduled = scheduled.map(|task| task.scheduled_event_id).ok_or("no workflow task is pending")?;
        self.start_workflow_task(scheduled)?;
        self.signal("second")?;
        self.decide(RunCommand::SaveWorkflowTaskStart)?;
        Ok(self.rows)
    }

    fn start_workflow_task(&mut self, scheduled_event_id: i64) -> Result<token::WorkflowTaskToken, String> {
        let start = StartWorkflowTask {
            scheduled_event_id,
            attempt: 1,
            task_queue: "fuzz".to_owned(),
            identity: "fuzz".to_owned(),
            request_id: format!("task {scheduled_event_id}"),
        };
        match self.decide(RunCommand::StartWorkflowTask(start))? {
            Reply::WorkflowTaskStarted(started) => started.token.ok_or_else(|| "a task has no token".to_owned()),
            _ => Err("a workflow task is not started".to_owned()),
        }
    }

    fn signal(&mut self, request_id: &str) -> Result<(), String> {
        let execution = WorkflowExecution { workflow_id: "fuzz".to_owned(), run_id: String::new() };
        let request = SignalWorkflowExecutionRequest {
            workflow_execution: Some(execution),
            signal_name: "signal".to_owned(),
            input: payloads(),
            request_id: request_id.to_owned(),
            ..Default::default()
        };
        self.decide(RunCommand::SignalWorkflow(Box::new(request))).map(|_| ())
    }
}

fn seconds(seconds: i64) -> Option<Duration> {
    Some(Duration { seconds, nanos: 0 })
}

fn payloads() -> Option<Payloads> {
    let metadata = [("encoding".to_owned(), b"json/plain".to_vec())].into();
    Some(Payloads { payloads: vec![Payload { metadata, data: b"{}".to_vec(), ..Default::default() }] })
}
