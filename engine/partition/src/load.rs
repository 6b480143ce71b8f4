//! Reading workflows from rows, on threads of their own: the loop never touches the disk.

use std::sync::mpsc as std_mpsc;
use std::thread;

use everlog_kernel::activity_execution::ActivityExecutionRows;
use everlog_kernel::batch_job::BatchJobRows;
use everlog_kernel::rows::Suffix;
use everlog_kernel::schedule::ScheduleRows;
use everlog_kernel::state::{Current, Run, RunInfo};
use everlog_kernel::{ActivityExecutions, BatchJob, EntityKind, RunId, RunRow, RunRowKind, Schedule, Time, Workflow};
use everlog_model::{EntityRef, Step, StepId, rows};
use everlog_raft::{Group, LeadEpoch};
use everlog_storage::blocking;
use everlog_storage::keys::{self, KeyRange, OutboxKey};
use everlog_storage::state::{Direction, Row, StateError};
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::journal::{self, JournalPage};
use super::machine::Machine;
use super::moving::{self, Cursor, Deletions};
use super::outbox::{self, Delivery, OutboxPage};
use super::wakes::{self, WakePage};

/// Applied rows of one partition: those of its Raft group, or of the simulation.
pub(crate) trait Rows {
    /// The value of a row.
    fn get(&self, key: &[u8]) -> Result<Option<bytes::Bytes>, StateError>;
    /// Up to `limit` rows of a range.
    fn scan(&self, range: KeyRange, direction: Direction, limit: usize) -> Result<Vec<Row>, StateError>;

    /// A page of up to `limit` rows of a range, from `start` or from the first one, and where the next page starts if there may be one.
    fn page(
        &self,
        range: KeyRange,
        start: Option<bytes::Bytes>,
        limit: usize,
    ) -> Result<(Vec<Row>, Option<bytes::Bytes>), String> {
        let range = start.unwrap_or(range.start)..range.end;
        let rows = self.scan(range, Direction::Ascending, limit).map_err(|error| error.to_string())?;
        let is_full = rows.len() == limit;
        let next = rows.last().filter(|_| is_full).map(|(key, _)| keys::after(key));
        Ok((rows, next))
    }
}

impl Rows for Group {
    fn get(&self, key: &[u8]) -> Result<Option<bytes::Bytes>, StateError> {
        Group::get(self, key)
    }

    fn scan(&self, range: KeyRange, direction: Direction, limit: usize) -> Result<Vec<Row>, StateError> {
        Group::scan(self, &range.start..&range.end, direction, limit)
    }
}

/// What a partition wants to know of an entity.
pub(crate) struct LoadRequest {
    pub(crate) entity: EntityRef,
    /// The birth of the entry in memory that asks.
    pub(crate) born: u64,
    /// Runs besides the current one.
    pub(crate) runs: Vec<RunId>,
    /// Whether the current run is wanted too; not, if the workflow is in memory already.
    pub(crate) with_current: bool,
    /// A message that earlier runs may have taken.
    pub(crate) search: Option<MessageSearch>,
}

/// Asks whether a message was taken by a run or one before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MessageSearch {
    /// [`OutboxMessage::id`](everlog_kernel::outbox::OutboxMessage::id).
    pub(crate) message_id: String,
    /// When it was sent.
    pub(crate) sent: Time,
    /// The newest run that is to be looked at.
    pub(crate) from: RunId,
}

/// What was found.
pub(crate) struct Loaded {
    pub(crate) entity: EntityRef,
    /// [`LoadRequest::born`].
    pub(crate) born: u64,
    pub(crate) with_current: bool,
    /// Runs that were asked for, whether they were found or not.
    pub(crate) asked: Vec<RunId>,
    /// The workflow with the runs that were found, or the state machine, or why it cannot be read.
    pub(crate) found: Result<Found, String>,
    /// A message that was searched for, and whether it was found.
    pub(crate) search: Option<(MessageSearch, bool)>,
}

/// An entity that was read.
pub(crate) enum Found {
    Workflow(Workflow),
    Machine(Machine),
}

/// Rows that were read for a lead. One that arrives under another lead is of another time, and is dropped.
pub(crate) struct Read {
    /// The lead that asked.
    pub(crate) epoch: LeadEpoch,
    pub(crate) rows: ReadRows,
}

/// What was read, or came back.
pub(crate) enum ReadRows {
    Workflow(Box<Loaded>),
    Wakes(Result<WakePage, String>),
    Outbox(Result<OutboxPage, String>),
    Journal(Result<JournalPage, String>),
    /// Others have found a row that cannot be read.
    Fault(String),
    /// A message was carried to its target.
    Delivered(OutboxKey, Delivery),
    /// Which rows of a step are to be deleted.
    Deletions(StepId, Result<Deletions, String>),
}

/// Where reads of one lead go to.
#[derive(Clone)]
pub(crate) struct ReadFor {
    pub(crate) group: Group,
    pub(crate) epoch: LeadEpoch,
    /// Not bounded by itself: a lead has at most [`crate::limits::PARTITION_LOADS_MAX`] loads, a page of wakes and of the outbox, and
    /// [`crate::limits::OUTBOX_SENT_MAX`] messages on the way; and it ends with the first fault.
    pub(crate) reply: mpsc::UnboundedSender<Read>,
}

impl ReadFor {
    pub(crate) fn answer(&self, rows: ReadRows) {
        // A loop that is gone has nobody who waits.
        let _ = self.reply.send(Read { epoch: self.epoch, rows });
    }

    /// Reads a page of the outbox, on a thread for blocking work.
    pub(crate) fn read_outbox(self, start: Option<bytes::Bytes>) {
        blocking::spawn(move || {
            let page = outbox::read_page(&self.group, start);
            self.answer(ReadRows::Outbox(page));
        });
    }

    /// Reads a page of the journal, on a thread for blocking work.
    pub(crate) fn read_journal(self, start: Option<bytes::Bytes>) {
        blocking::spawn(move || {
            let page = journal::read_page(&self.group, start);
            self.answer(ReadRows::Journal(page));
        });
    }

    /// Reads which rows of a step are to be deleted, on a thread for blocking work.
    pub(crate) fn read_deletions(self, step: Step, after: Option<Cursor>, is_part: bool) {
        blocking::spawn(move || {
            let deletions = moving::deletions(&self.group, &step, after.as_ref(), is_part);
            self.answer(ReadRows::Deletions(step.id, deletions));
        });
    }

    /// Reads a page of wake rows, on a thread for blocking work.
    pub(crate) fn read_wakes(self, start: Option<bytes::Bytes>, horizon: Time) {
        blocking::spawn(move || {
            let page = wakes::read_page(&self.group, start, horizon);
            self.answer(ReadRows::Wakes(page));
        });
    }
}

/// The reading threads. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Readers {
    requests: std_mpsc::Sender<(ReadFor, LoadRequest)>,
}

impl Readers {
    /// Starts `threads` threads, which end when the last clone is dropped. In a simulation, whose only thread runs the tasks, none.
    pub(crate) fn start(threads: usize) -> std::io::Result<Readers> {
        let (requests, receiver) = std_mpsc::channel::<(ReadFor, LoadRequest)>();
        let receiver = std::sync::Arc::new(Mutex::new(receiver));
        let threads = if blocking::is_simulated() { 0 } else { threads };
        for number in 0..threads {
            let receiver = std::sync::Arc::clone(&receiver);
            thread::Builder::new().name(format!("reader-{number}")).spawn(move || {
                loop {
                    let request = receiver.lock().recv();
                    let Ok((reader, request)) = request else { return };
                    answer(&reader, request);
                }
            })?;
        }
        Ok(Readers { requests })
    }

    /// Reads a workflow. Requests are bounded by those who ask: each lead has a limited number of loads on the way.
    pub(crate) fn load(&self, reader: ReadFor, request: LoadRequest) {
        if blocking::is_simulated() {
            blocking::spawn(move || answer(&reader, request));
            return;
        }
        // The threads live as long as any sender does, so this cannot fail but in the middle of a shutdown.
        let _ = self.requests.send((reader, request));
    }
}

fn answer(reader: &ReadFor, request: LoadRequest) {
    let rows = ReadRows::Workflow(Box::new(serve(&reader.group, request)));
    reader.answer(rows);
}

/// Reads a workflow. Within one lead nobody else writes its rows, so the ranges need not be read at one moment.
pub(crate) fn serve(group: &impl Rows, request: LoadRequest) -> Loaded {
    let LoadRequest { entity, born, runs, with_current, search } = request;
    let found = match entity.kind {
        EntityKind::Workflow => load_workflow(group, &entity, &runs, with_current).map(Found::Workflow),
        EntityKind::Schedule => {
            load_schedule(group, &entity).map(|schedule| Found::Machine(Machine::Schedule(Box::new(schedule))))
        }
        EntityKind::BatchJob => {
            load_batch_job(group, &entity).map(|job| Found::Machine(Machine::BatchJob(Box::new(job))))
        }
        EntityKind::Activity => load_activities(group, &entity, &runs, with_current)
            .map(|executions| Found::Machine(Machine::Activity(Box::new(executions)))),
    };
    let searched = search.map(|search| was_taken(group, &entity, &search).map(|taken| (search, taken))).transpose();
    let (found, search) = match searched {
        Ok(search) => (found, search),
        Err(error) => (Err(error), None),
    };
    Loaded { entity, born, with_current, asked: runs, found, search }
}

/// Whether a run or one before it, back to the one that was current when the message was sent, has taken the message.
fn was_taken(group: &impl Rows, entity: &EntityRef, search: &MessageSearch) -> Result<bool, String> {
    let row = RunRow { kind: RunRowKind::SignalRequest, suffix: Suffix::Text(search.message_id.clone()) };
    let get = |key: bytes::Bytes| group.get(&key).map_err(|error| error.to_string());
    let mut from = Some(search.from);
    while let Some(run_id) = from {
        let key = entity.key().run(&run_id.0);
        if get(rows::run_row(&key, &row))?.is_some() {
            return Ok(true);
        }
        // A run that is not there was deleted, and those before it were, too.
        let Some(info) = get(rows::only_row(&key, RunRowKind::Info))? else { break };
        let info = RunInfo::from_row(&info).map_err(|error| error.to_string())?;
        from = info.previous.filter(|previous| previous.until >= search.sent).map(|previous| previous.run_id);
    }
    Ok(false)
}

/// Under which run id the rows of an entity stand, if it is there.
fn current_run(group: &impl Rows, entity: &EntityRef) -> Result<Option<RunId>, String> {
    let current = group.get(&entity.key().current()).map_err(|error| error.to_string())?;
    let current = current.map(|row| Current::from_row(&row)).transpose().map_err(|error| error.to_string())?;
    Ok(current.map(|current| current.run_id))
}

pub(crate) fn load_batch_job(group: &impl Rows, entity: &EntityRef) -> Result<BatchJob, String> {
    let Some(run_id) = current_run(group, entity)? else { return Ok(BatchJob::new(&*entity.id)) };
    let key = entity.key().run(&run_id.0);
    let row = |kind| group.get(&rows::only_row(&key, kind)).map_err(|error| error.to_string());
    let rows = BatchJobRows { asked: row(RunRowKind::BatchJob)?, progress: row(RunRowKind::BatchJobProgress)? };
    BatchJob::from_rows(&*entity.id, run_id, rows).map_err(|error| error.to_string())
}

pub(crate) fn load_activities(
    group: &impl Rows,
    entity: &EntityRef,
    runs: &[RunId],
    with_current: bool,
) -> Result<ActivityExecutions, String> {
    let current = if with_current { current_run(group, entity)? } else { None };
    let mut wanted = runs.to_vec();
    wanted.extend(current.filter(|run_id| !runs.contains(run_id)));
    let mut found = Vec::new();
    for run_id in wanted {
        let key = entity.key().run(&run_id.0);
        let get = |key: bytes::Bytes| group.get(&key).map_err(|error| error.to_string());
        let Some(asked) = get(rows::only_row(&key, RunRowKind::ActivityExecution))? else { continue };
        let rows = ActivityExecutionRows {
            asked: Some(asked),
            activity: get(rows::run_row(&key, &ActivityExecutionRows::activity_row()))?,
            progress: get(rows::only_row(&key, RunRowKind::ActivityExecutionProgress))?,
        };
        found.push((run_id, rows));
    }
    ActivityExecutions::from_rows(&*entity.id, current, found).map_err(|error| error.to_string())
}

pub(crate) fn load_schedule(group: &impl Rows, entity: &EntityRef) -> Result<Schedule, String> {
    let Some(run_id) = current_run(group, entity)? else { return Ok(Schedule::new(&*entity.id)) };
    let key = entity.key().run(&run_id.0);
    let row = |kind| group.get(&rows::only_row(&key, kind)).map_err(|error| error.to_string());
    let rows = ScheduleRows {
        made_of: row(RunRowKind::Schedule)?,
        progress: row(RunRowKind::ScheduleProgress)?,
        carried: row(RunRowKind::ScheduleCarried)?,
    };
    Schedule::from_rows(&*entity.id, run_id, rows).map_err(|error| error.to_string())
}

pub(crate) fn load_workflow(
    group: &impl Rows,
    entity: &EntityRef,
    runs: &[RunId],
    with_current: bool,
) -> Result<Workflow, String> {
    let mut workflow = Workflow::new(&*entity.id);
    let mut wanted = runs.to_vec();
    if with_current {
        let key = entity.key().current();
        if let Some(row) = group.get(&key).map_err(|error| error.to_string())? {
            let current = Current::from_row(&row).map_err(|error| error.to_string())?;
            if !wanted.contains(&current.run_id) {
                wanted.push(current.run_id);
            }
            workflow.current = Some(current);
        }
    }
    for run_id in wanted {
        if let Some(run) = load_run(group, entity, run_id)? {
            workflow.runs.insert(run_id, Box::new(run));
        }
    }
    Ok(workflow)
}

pub(crate) fn load_run(group: &impl Rows, entity: &EntityRef, run_id: RunId) -> Result<Option<Run>, String> {
    const ROWS: usize = 1024;
    let key = entity.key().run(&run_id.0);
    let get = |kind| group.get(&rows::only_row(&key, kind)).map_err(|error| error.to_string());
    let Some(state) = get(RunRowKind::State)? else { return Ok(None) };
    let info = get(RunRowKind::Info)?.ok_or("a run without its info row")?;
    let mut found = vec![(RunRow::only(RunRowKind::State), state), (RunRow::only(RunRowKind::Info), info)];
    // Everything behind the history: what is pending.
    let pending = key.kinds_from(RunRowKind::FIRST_PENDING as u8);
    let (mut start, end) = (pending.start, pending.end);
    loop {
        let page =
            group.scan(start.clone()..end.clone(), Direction::Ascending, ROWS).map_err(|error| error.to_string())?;
        let full = page.len() == ROWS;
        if let Some((last, _)) = page.last() {
            start = keys::after(last);
        }
        for (key, value) in page {
            found.push((rows::decode_run_row(&key)?.1, value));
        }
        if !full {
            return Run::from_rows(run_id, found).map_err(|error| error.to_string());
        }
    }
}
