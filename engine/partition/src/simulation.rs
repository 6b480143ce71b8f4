//! A partition under one seed: the production [`Lead`], kernel and rows on a log, a disk and a clock that fail as the seed says.
//!
//! ```text
//!   clients, workers ──jobs──▶ Lead ──batches──▶ log: late, refused within the term, lost, cut off by another leader
//!         ▲                     ▲                  │ committed
//!         └──answers, tasks─────┤                  ▼ chain (everlog_raft), rows (a twin that drops unsynced writes)
//!                               └──reads: late, of an earlier lead
//! ```
//!
//! What must hold afterwards: the events of a run have contiguous ids and agree with its state row; at most one run of a workflow is
//! open; what was acknowledged is there, once; no timer fires early; an activity that may be attempted once is handed out once.
//!
//! `EVERLOG_SIMULATION_SEEDS=FIRST..LAST` runs those seeds instead of the ones of the gate, and `EVERLOG_SIMULATION_MINUTES=60` runs new
//! ones for so long. A failing seed is printed; it belongs into [`KEPT`].

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use everlog_kernel::command::{ActivityRef, Reply, StartActivityTask, StartWorkflowTask};
use everlog_kernel::token::{self, ActivityTaskToken, WorkflowTaskToken};
use everlog_kernel::transition::{Task, TaskKind};
use everlog_kernel::{Command, Limits, Namespace, NamespaceId, RunCommand, RunId, Time};
use everlog_model::{CallError, NamespaceSource, WorkflowRef, limits};
use everlog_proto::api::command::v1::command::Attributes;
use everlog_proto::api::command::v1::{
    Command as WorkflowCommand, CompleteWorkflowExecutionCommandAttributes,
    ContinueAsNewWorkflowExecutionCommandAttributes, ScheduleActivityTaskCommandAttributes,
    StartTimerCommandAttributes,
};
use everlog_proto::api::common::v1::{ActivityType, RetryPolicy, WorkflowType};
use everlog_proto::api::enums::v1::{CommandType, WorkflowIdConflictPolicy};
use everlog_proto::api::history::v1::history_event::Attributes as EventAttributes;
use everlog_proto::api::history::v1::{History, HistoryEvent};
use everlog_proto::api::taskqueue::v1::TaskQueue;
use everlog_proto::api::workflowservice::v1::{
    RespondWorkflowTaskCompletedRequest, SignalWorkflowExecutionRequest, StartWorkflowExecutionRequest,
    TerminateWorkflowExecutionRequest,
};
use everlog_raft::chain::{Chain, ChainStep};
use everlog_raft::{ChainPosition, EntryStamp, LeadEpoch};
use everlog_storage::GroupId;
use everlog_storage::keys::{self, KeyRange};
use everlog_storage::state::{Direction, Row, RowBatch, StateEngine, StateError};
use everlog_storage::twin::CrashState;
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::oneshot;

use super::clock::{PartitionClock, Reading};
use super::job::{Answer, Charge, Job, Work};
use super::lead::{Action, Lead, LeadSettings, Outgoing};
use super::load::{LoadRequest, Read, ReadRows, Rows, serve};
use super::{history, wakes};

/// Seeds of the gate.
const SEEDS: u64 = 2000;

/// Seeds that found faults once, with the fault.
const KEPT: &[(u64, &str)] = &[];

/// Workflow ids: few, so that commands meet.
const WORKFLOWS: usize = 4;

/// How long clients go on and faults happen.
const STORY: Duration = Duration::from_secs(10);

/// How long it takes at most until all is quiet then.
const QUIET: Duration = Duration::from_secs(90);

const GROUP: GroupId = GroupId(1);

/// The wall clock at the beginning.
const WALL_START: i64 = 1_700_000_000_000_000_000;

/// SplitMix64 (Steele, Lea and Flood, 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end.max(1) as u64).expect("below end")
    }

    fn percent(&mut self, chance: usize) -> bool {
        self.below(100) < chance
    }

    /// Between none and `max`, short more often than long.
    fn delay(&mut self, max: Duration) -> Duration {
        let share = self.below(1000) as f64 / 1000.0;
        max.mul_f64(share * share)
    }
}

/// What happens at some time.
enum Event {
    Turn,
    /// The log's entries up to this one are durable; of an incarnation of the log's end.
    Commit {
        index: usize,
        cut: u64,
    },
    Read {
        epoch: LeadEpoch,
        what: Wanted,
    },
    ReadDone(Read),
    Open {
        term: u64,
    },
    Fault,
    Client,
    Worker,
    CompleteTask(WorkflowTaskToken),
    EndActivity(ActivityTaskToken, bool),
}

enum Wanted {
    Workflow(LoadRequest),
    Wakes { start: Option<bytes::Bytes>, horizon: Time },
}

/// A batch whose outcome the lead has not heard of.
struct Flight {
    /// Where it stands in the log; `None` if it was refused.
    index: Option<usize>,
    outcome: Option<bool>,
}

/// What a client or a worker waits for.
enum Asked {
    Start,
    Signal(String),
    Other,
    StartTask(WorkflowRef, Task),
    StartActivity(WorkflowRef, Task),
}

struct Call {
    asked: Asked,
    answer: oneshot::Receiver<Result<Answer, CallError>>,
}

struct OneNamespace(Arc<Namespace>);

impl NamespaceSource for OneNamespace {
    fn by_id(&self, id: NamespaceId) -> Option<Arc<Namespace>> {
        (id == self.0.id).then(|| Arc::clone(&self.0))
    }
}

struct TwinRows<'a>(&'a CrashState);

impl Rows for TwinRows<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<bytes::Bytes>, StateError> {
        self.0.get(GROUP, key)
    }

    fn scan(&self, range: KeyRange, direction: Direction, limit: usize) -> Result<Vec<Row>, StateError> {
        self.0.scan(GROUP, &range.start..&range.end, direction, limit)
    }
}

struct World {
    random: Random,
    /// Nanoseconds since the beginning.
    now: u64,
    epoch: Instant,
    /// What the wall clock is off by.
    wall_offset: i64,
    agenda: BTreeMap<(u64, u64), Event>,
    order: u64,
    faults: bool,

    // The partition.
    state: Arc<CrashState>,
    /// The chain as of each applied index.
    chains: Vec<Chain>,
    log: Vec<(EntryStamp, RowBatch)>,
    committed: usize,
    /// How often the end of the log was cut off.
    cuts: u64,
    /// When the last entry will be durable.
    durable_at: u64,
    term: u64,
    opening: u32,
    opening_at: Option<usize>,
    lead: Option<(Lead, LeadEpoch)>,
    in_flight: VecDeque<Flight>,
    jobs: VecDeque<Job>,
    turn_at: Option<u64>,
    /// When the lead's clock was last moved on.
    ticked_at: u64,
    /// When the wall clock was last set.
    wall_set_at: u64,

    // Clients, workers, and what they know.
    namespace: Arc<Namespace>,
    calls: Vec<Call>,
    tasks: Vec<(WorkflowRef, Task)>,
    numbers: u64,
    signals: BTreeMap<String, bool>,
    started: Vec<RunId>,
    once: HashMap<(RunId, i64), u32>,
    completed_tasks: u64,
}

impl World {
    fn new(seed: u64) -> World {
        let namespace = Arc::new(Namespace {
            id: NamespaceId([7; 16]),
            name: "sim".to_owned(),
            retention: Duration::from_secs(86_400),
        });
        World {
            random: Random(seed),
            now: 0,
            epoch: Instant::now(),
            wall_offset: 0,
            agenda: BTreeMap::new(),
            order: 0,
            faults: true,
            state: Arc::new(CrashState::new(seed)),
            chains: vec![Chain::default()],
            log: Vec::new(),
            committed: 0,
            cuts: 0,
            durable_at: 0,
            term: 1,
            opening: 0,
            opening_at: None,
            lead: None,
            in_flight: VecDeque::new(),
            jobs: VecDeque::new(),
            turn_at: None,
            ticked_at: 0,
            wall_set_at: 0,
            namespace,
            calls: Vec::new(),
            tasks: Vec::new(),
            numbers: 0,
            signals: BTreeMap::new(),
            started: Vec::new(),
            once: HashMap::new(),
            completed_tasks: 0,
        }
    }

    fn run(&mut self) {
        self.after(Duration::ZERO, Event::Open { term: 1 });
        self.after(Duration::from_millis(1), Event::Client);
        self.after(Duration::from_millis(1), Event::Worker);
        self.after(Duration::from_millis(50), Event::Fault);
        let quiet_at = nanos(STORY);
        let end = nanos(STORY + QUIET);
        while let Some(((at, _), event)) = self.agenda.pop_first() {
            if at > end {
                break;
            }
            self.faults &= at < quiet_at;
            self.now = at;
            self.happen(event);
            self.hear();
        }
        self.check();
    }

    fn after(&mut self, delay: Duration, event: Event) {
        self.order += 1;
        self.agenda.insert((self.now + nanos(delay), self.order), event);
    }

    fn turn_soon(&mut self, delay: Duration) {
        let at = self.now + nanos(delay);
        if self.turn_at.is_none_or(|turn| turn > at || turn < self.now) {
            self.turn_at = Some(at);
            self.after(delay, Event::Turn);
        }
    }

    fn reading(&self) -> Reading {
        let wall = WALL_START + i64::try_from(self.now).unwrap_or(0) + self.wall_offset;
        Reading { instant: self.epoch + Duration::from_nanos(self.now), wall: Time(wall) }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Turn => {
                self.turn_at = None;
                self.turn();
            }
            Event::Commit { index, cut } if cut == self.cuts => self.commit(index),
            Event::Commit { .. } => {}
            Event::Read { epoch, what } => self.read(epoch, what),
            Event::ReadDone(read) => {
                if let Some((lead, _)) = &mut self.lead {
                    lead.read(read);
                    self.turn_soon(Duration::ZERO);
                }
            }
            Event::Open { term } if term == self.term && self.lead.is_none() => self.open(),
            Event::Open { .. } => {}
            Event::Fault => self.fault(),
            Event::Client => self.client(),
            Event::Worker => self.worker(),
            Event::CompleteTask(token) => self.complete_task(token),
            Event::EndActivity(token, succeeds) => self.end_activity(token, succeeds),
        }
    }

    // ---- Log and leadership ------------------------------------------------------------------------------------------

    /// Puts an entry into the log; `None` if it is refused, as a leader does whose lease has run out for a moment.
    fn append(&mut self, stamp: EntryStamp, rows: RowBatch) -> Option<usize> {
        if self.faults && self.random.percent(3) {
            return None;
        }
        self.log.push((stamp, rows));
        let index = self.log.len();
        let stall = if self.faults && self.random.percent(2) { 2000 } else { 4 };
        let delay = self.random.delay(Duration::from_millis(stall));
        self.durable_at = self.durable_at.max(self.now + nanos(delay));
        let delay = Duration::from_nanos(self.durable_at - self.now);
        self.after(delay, Event::Commit { index, cut: self.cuts });
        Some(index)
    }

    fn commit(&mut self, index: usize) {
        self.committed = self.committed.max(index);
        while self.chains.len() <= self.committed {
            let applied = self.chains.len();
            let (stamp, rows) = &self.log[applied - 1];
            let mut chain = self.chains[applied - 1].clone();
            let step = chain.step(stamp);
            let rows: &[RowBatch] = if step == ChainStep::Applied { std::slice::from_ref(rows) } else { &[] };
            self.state.commit(GROUP, &applied.to_be_bytes(), rows).expect("the twin is up");
            self.chains.push(chain);
            if let Some(flight) = self.in_flight.iter_mut().find(|flight| flight.index == Some(applied)) {
                flight.outcome = Some(step == ChainStep::Applied);
            }
            if self.opening_at == Some(applied) {
                self.opening_at = None;
                if step == ChainStep::Applied { self.begin() } else { self.again() }
            }
        }
        self.turn_soon(Duration::ZERO);
    }

    fn chain(&self) -> &Chain {
        self.chains.last().expect("there is one of the beginning")
    }

    fn open(&mut self) {
        self.opening += 1;
        self.opening_at = None;
        let hlc = PartitionClock::start(self.chain().end().hlc, self.reading()).next_hlc();
        let epoch = LeadEpoch { term: self.term, opening: self.opening };
        let stamp = EntryStamp { chain: ChainPosition { epoch, sequence: 0 }, hlc };
        match self.append(stamp, RowBatch::default()) {
            Some(index) => self.opening_at = Some(index),
            None => self.again(),
        }
    }

    fn again(&mut self) {
        let delay = self.random.delay(Duration::from_millis(250));
        self.after(delay, Event::Open { term: self.term });
    }

    /// The opening is applied: leads.
    fn begin(&mut self) {
        let epoch = LeadEpoch { term: self.term, opening: self.opening };
        let reading = self.reading();
        let clock = PartitionClock::start(self.chain().end().hlc, reading);
        let settings = LeadSettings {
            namespaces: Arc::new(OneNamespace(Arc::clone(&self.namespace))),
            limits: Arc::new(Limits::default()),
            cache_bytes_max: if self.random.percent(20) { 4096 } else { 1 << 20 },
        };
        let state = Arc::clone(&self.state);
        let may_exist = Box::new(move |key: &[u8]| state.may_exist(GROUP, key));
        let seed = (u128::from(self.random.next()) << 64) | u128::from(self.random.next());
        self.lead = Some((Lead::new(GROUP, epoch, clock, settings, may_exist, seed, reading.instant), epoch));
        self.in_flight.clear();
        self.ticked_at = self.now;
        assert!(self.chain().end().hlc.0 <= self.lead.as_ref().map_or(0, |(lead, _)| lead.time().0.unsigned_abs()));
        // Matching forgot the tasks of the lead before; every task row is offered.
        self.tasks.clear();
        let all = keys::all_tasks();
        let rows = TwinRows(&self.state).scan(all, Direction::Ascending, usize::MAX).expect("task rows are readable");
        for (key, value) in rows {
            let (_, workflow_id, task) = everlog_model::rows::task(&key, &value).expect("a task row is readable");
            self.tasks.push((WorkflowRef { namespace: Arc::clone(&self.namespace), workflow_id }, task));
        }
        self.turn_soon(Duration::ZERO);
    }

    /// Ends the lead as a node does that goes on running.
    fn end_lead(&mut self) {
        let Some((lead, _)) = self.lead.take() else { return };
        self.in_flight.clear();
        let error = CallError::Unavailable("the lead is lost".to_owned());
        for action in lead.abandon(&error) {
            self.release(action);
        }
    }

    /// Another leader cuts off what is not durable, and may keep some of it.
    fn cut(&mut self) {
        let pending = self.log.len() - self.committed;
        let kept = self.committed + self.random.below(pending + 1);
        self.log.truncate(kept);
        self.cuts += 1;
        self.opening_at = None;
        self.durable_at = self.now;
        self.term += 1;
        self.opening = 0;
        if kept > self.committed {
            self.commit(kept);
        }
        let delay = self.random.delay(Duration::from_millis(500));
        self.after(delay, Event::Open { term: self.term });
    }

    fn fault(&mut self) {
        let delay = self.random.delay(Duration::from_secs(4));
        if !self.faults {
            self.wall_offset = 0;
            return;
        }
        self.after(delay, Event::Fault);
        match self.random.below(8) {
            0 | 1 => {
                self.end_lead();
                self.cut();
            }
            2 | 3 => self.restart(),
            4 => self.state.flush().expect("the twin is up"),
            5 => {
                let hours = self.random.below(3) as i64 - 1;
                self.wall_set_at = self.now;
                self.wall_offset = hours * 3_600_000_000_000 + self.random.below(1000) as i64;
            }
            _ => self.wall_offset = 0,
        }
    }

    /// The process is killed: memory is gone, and so are the rows that were not flushed.
    fn restart(&mut self) {
        self.lead = None;
        self.in_flight.clear();
        self.jobs.clear();
        self.tasks.clear();
        self.state = Arc::new(self.state.crash_anywhere());
        let applied = self.state.applied(GROUP).expect("the twin is up");
        let applied = applied.map_or(0, |bytes| usize::from_be_bytes((&*bytes).try_into().expect("eight bytes")));
        self.chains.truncate(applied + 1);
        let committed = self.committed;
        self.commit(committed);
        self.cut();
    }

    // ---- The loop ----------------------------------------------------------------------------------------------------

    fn turn(&mut self) {
        let reading = self.reading();
        let Some((lead, epoch)) = &mut self.lead else { return };
        let epoch = *epoch;
        let before = lead.time();
        lead.tick(reading);
        let elapsed = self.now - std::mem::replace(&mut self.ticked_at, self.now);
        let believed = self.now - self.wall_set_at >= nanos(limits::CLOCK_STEP_WAIT);
        let fastest = Duration::from_nanos(elapsed + elapsed / 9 + 1000);
        assert!(believed || lead.time().since(before) <= fastest, "time passes too fast: timers fire early");
        assert!(lead.time() >= before, "time goes back");
        match self.in_flight.front().and_then(|flight| flight.outcome) {
            Some(true) => {
                self.in_flight.pop_front();
                lead.settle();
            }
            Some(false) => {
                self.end_lead();
                return self.again();
            }
            None => {}
        }
        while lead.accepts()
            && let Some(job) = self.jobs.pop_front()
        {
            lead.take(job);
        }
        lead.end_turn(|_| Duration::ZERO);
        let (actions, answers) = (lead.actions(), lead.answers());
        let wake = lead.until_next_wake();
        let mut failed = false;
        for action in actions {
            match action {
                Action::Propose { stamp, rows } => {
                    let index = self.append(stamp, rows);
                    let outcome = index.is_none().then_some(false);
                    self.in_flight.push_back(Flight { index, outcome });
                }
                Action::Load(request) => self.ask(epoch, Wanted::Workflow(request)),
                Action::ReadWakes { start, horizon } => self.ask(epoch, Wanted::Wakes { start, horizon }),
                Action::Fail(_) => failed = true,
                action => self.release(action),
            }
        }
        if failed {
            self.end_lead();
            return self.again();
        }
        for answer in answers {
            self.release(Action::Release(answer));
        }
        let ready = self.in_flight.front().is_some_and(|flight| flight.outcome.is_some());
        self.turn_soon(if ready { Duration::ZERO } else { wake.max(Duration::from_micros(100)) });
    }

    fn ask(&mut self, epoch: LeadEpoch, what: Wanted) {
        let longest = if self.random.percent(5) { 3000 } else { 3 };
        let delay = self.random.delay(Duration::from_millis(longest));
        self.after(delay, Event::Read { epoch, what });
    }

    fn read(&mut self, epoch: LeadEpoch, what: Wanted) {
        let rows = TwinRows(&self.state);
        let rows = match what {
            Wanted::Workflow(request) => ReadRows::Workflow(Box::new(serve(&rows, request))),
            Wanted::Wakes { .. } if self.faults && self.random.percent(20) => {
                ReadRows::Wakes(Err("the disk does not answer".to_owned()))
            }
            Wanted::Wakes { start, horizon } => ReadRows::Wakes(wakes::read_page(&rows, start, horizon)),
        };
        let longest = if self.random.percent(5) { 3000 } else { 2 };
        let delay = self.random.delay(Duration::from_millis(longest));
        self.after(delay, Event::ReadDone(Read { epoch, rows }));
    }

    fn release(&mut self, action: Action) {
        match action {
            Action::Release(Outgoing::Reply(reply, answer)) => drop(reply.send(answer)),
            Action::Withhold(Outgoing::Reply(reply, _), error) => drop(reply.send(Err(error))),
            Action::Release(Outgoing::Task(address, task)) => {
                let known = |(_, other): &(WorkflowRef, Task)| other.key == task.key && other.attempt >= task.attempt;
                if !self.tasks.iter().any(known) {
                    self.tasks.push((address, task));
                }
            }
            _ => {}
        }
    }

    // ---- Clients and workers -----------------------------------------------------------------------------------------

    fn send(&mut self, workflow_id: &str, run_id: Option<RunId>, command: impl Into<Command>, asked: Asked) {
        let address = WorkflowRef { namespace: Arc::clone(&self.namespace), workflow_id: workflow_id.into() };
        let (reply, answer) = oneshot::channel();
        let work = Work::Command { command: command.into(), reply: Some(reply) };
        self.jobs.push_back(Job { address, run_id, work, charge: Charge::default() });
        self.calls.push(Call { asked, answer });
        self.turn_soon(Duration::from_micros(50));
    }

    fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    fn client(&mut self) {
        if !self.faults {
            return;
        }
        let delay = self.random.delay(Duration::from_millis(600));
        self.after(delay, Event::Client);
        // Now and then many at once, so that batches are full and several are in flight.
        let requests = if self.random.percent(15) { 40 } else { 1 };
        for _ in 0..requests {
            self.request();
        }
    }

    fn request(&mut self) {
        let workflow_id = format!("w{}", self.random.below(WORKFLOWS));
        let number = self.number();
        match self.random.below(10) {
            0..=3 => {
                let conflict = if self.random.percent(30) {
                    WorkflowIdConflictPolicy::TerminateExisting
                } else {
                    WorkflowIdConflictPolicy::Fail
                };
                let request = StartWorkflowExecutionRequest {
                    workflow_id: workflow_id.clone(),
                    workflow_type: Some(WorkflowType { name: "T".to_owned() }),
                    task_queue: Some(TaskQueue { name: "q".to_owned(), ..TaskQueue::default() }),
                    request_id: format!("start-{number}"),
                    workflow_id_conflict_policy: conflict as i32,
                    ..StartWorkflowExecutionRequest::default()
                };
                let command = Command::start(request, &Limits::default()).expect("the request is valid");
                self.send(&workflow_id, None, command, Asked::Start);
            }
            4..=8 => {
                let name = format!("signal-{number}");
                let request = SignalWorkflowExecutionRequest {
                    signal_name: name.clone(),
                    request_id: name.clone(),
                    ..SignalWorkflowExecutionRequest::default()
                };
                self.signals.insert(name.clone(), false);
                self.send(&workflow_id, None, RunCommand::SignalWorkflow(Box::new(request)), Asked::Signal(name));
            }
            _ => {
                let request = TerminateWorkflowExecutionRequest::default();
                if self.random.percent(30) {
                    self.send(&workflow_id, None, RunCommand::TerminateWorkflow(Box::new(request)), Asked::Other);
                }
            }
        }
    }

    fn worker(&mut self) {
        let delay = self.random.delay(Duration::from_millis(100)) + Duration::from_millis(1);
        self.after(delay, Event::Worker);
        if self.tasks.is_empty() {
            return;
        }
        let index = self.random.below(self.tasks.len());
        let (address, task) = self.tasks.swap_remove(index);
        let request_id = format!("poll-{}", self.number());
        let (scheduled_event_id, attempt) = (task.key.position.scheduled_event_id, task.attempt);
        let identity = "worker".to_owned();
        let run_id = Some(task.key.position.run_id);
        let workflow_id = Arc::clone(&address.workflow_id);
        if task.key.kind == TaskKind::Workflow {
            let task_queue = task.sticky.clone().unwrap_or_else(|| task.key.task_queue.clone());
            let start = StartWorkflowTask { scheduled_event_id, attempt, task_queue, identity, request_id };
            self.send(&workflow_id, run_id, RunCommand::StartWorkflowTask(start), Asked::StartTask(address, task));
        } else {
            let start = StartActivityTask { scheduled_event_id, attempt, identity, request_id };
            self.send(&workflow_id, run_id, RunCommand::StartActivityTask(start), Asked::StartActivity(address, task));
        }
    }

    fn complete_task(&mut self, token: WorkflowTaskToken) {
        let mut commands = Vec::new();
        for _ in 0..self.random.below(3) {
            let number = self.number();
            let attributes = if self.random.percent(50) {
                let after = 1 + self.random.below(10) as i64;
                (
                    CommandType::StartTimer,
                    Attributes::StartTimerCommandAttributes(StartTimerCommandAttributes {
                        timer_id: format!("timer-{number}"),
                        start_to_fire_timeout: Some(seconds(after)),
                    }),
                )
            } else {
                let once = self.random.percent(50);
                let attributes = ScheduleActivityTaskCommandAttributes {
                    activity_id: format!("{}-{number}", if once { "once" } else { "often" }),
                    activity_type: Some(ActivityType { name: "A".to_owned() }),
                    task_queue: Some(TaskQueue { name: "aq".to_owned(), ..TaskQueue::default() }),
                    start_to_close_timeout: Some(seconds(5)),
                    schedule_to_close_timeout: Some(seconds(20)),
                    retry_policy: Some(RetryPolicy {
                        maximum_attempts: if once { 1 } else { 3 },
                        initial_interval: Some(seconds(1)),
                        backoff_coefficient: 2.0,
                        ..RetryPolicy::default()
                    }),
                    ..ScheduleActivityTaskCommandAttributes::default()
                };
                (CommandType::ScheduleActivityTask, Attributes::ScheduleActivityTaskCommandAttributes(attributes))
            };
            commands.push(attributes);
        }
        // Workflows end more often once clients have gone.
        if self.random.percent(if self.faults { 8 } else { 60 }) {
            commands.push((
                CommandType::CompleteWorkflowExecution,
                Attributes::CompleteWorkflowExecutionCommandAttributes(
                    CompleteWorkflowExecutionCommandAttributes::default(),
                ),
            ));
        } else if self.faults && self.random.percent(4) {
            commands.push((
                CommandType::ContinueAsNewWorkflowExecution,
                Attributes::ContinueAsNewWorkflowExecutionCommandAttributes(
                    ContinueAsNewWorkflowExecutionCommandAttributes {
                        workflow_type: Some(WorkflowType { name: "T".to_owned() }),
                        task_queue: Some(TaskQueue { name: "q".to_owned(), ..TaskQueue::default() }),
                        ..ContinueAsNewWorkflowExecutionCommandAttributes::default()
                    },
                ),
            ));
        }
        let commands = commands
            .into_iter()
            .map(|(command_type, attributes)| WorkflowCommand {
                command_type: command_type as i32,
                attributes: Some(attributes),
                ..WorkflowCommand::default()
            })
            .collect();
        let request =
            RespondWorkflowTaskCompletedRequest { commands, ..RespondWorkflowTaskCompletedRequest::default() };
        let (workflow_id, run_id) = (token.workflow_id.clone(), token.run_id);
        self.send(&workflow_id, Some(run_id), RunCommand::CompleteWorkflowTask(token, Box::new(request)), Asked::Other);
    }

    fn end_activity(&mut self, token: ActivityTaskToken, succeeds: bool) {
        let (workflow_id, run_id) = (token.workflow_id.clone(), token.run_id);
        let activity = ActivityRef::Token(token);
        let identity = "worker".to_owned();
        let command = if succeeds {
            RunCommand::CompleteActivity { activity, result: None, identity }
        } else {
            RunCommand::FailActivity { activity, failure: None, last_heartbeat_details: None, identity }
        };
        self.send(&workflow_id, Some(run_id), command, Asked::Other);
    }

    /// Clients and workers take the answers that are there.
    fn hear(&mut self) {
        let mut index = 0;
        while index < self.calls.len() {
            let answer = match self.calls[index].answer.try_recv() {
                Ok(answer) => Some(answer),
                Err(oneshot::error::TryRecvError::Closed) => None,
                Err(oneshot::error::TryRecvError::Empty) => {
                    index += 1;
                    continue;
                }
            };
            let call = self.calls.swap_remove(index);
            self.told(call.asked, answer);
        }
    }

    fn told(&mut self, asked: Asked, answer: Option<Result<Answer, CallError>>) {
        match (asked, answer) {
            (Asked::Start, Some(Ok(Answer { reply: Reply::Started(started), .. }))) => {
                self.started.push(started.run_id);
            }
            (Asked::Signal(name), Some(Ok(_))) => {
                self.signals.insert(name, true);
            }
            (Asked::StartTask(address, task), Some(answer)) => match answer {
                Ok(Answer { reply: Reply::WorkflowTaskStarted(start), .. }) => {
                    let token: WorkflowTaskToken = token::decode(&start.response.task_token).expect("a token");
                    self.completed_tasks += 1;
                    let delay = self.random.delay(Duration::from_millis(200));
                    if self.random.percent(95) {
                        self.after(delay, Event::CompleteTask(token));
                    }
                }
                Ok(_) | Err(CallError::Rejected(_)) => {}
                Err(_) => self.tasks.push((address, task)),
            },
            (Asked::StartActivity(address, task), Some(answer)) => match answer {
                Ok(Answer { reply: Reply::ActivityTaskStarted(response), .. }) => {
                    let token: ActivityTaskToken = token::decode(&response.task_token).expect("a token");
                    if response.activity_id.starts_with("once") {
                        let handed_out = self.once.entry((token.run_id, token.scheduled_event_id)).or_default();
                        *handed_out += 1;
                        assert_eq!(*handed_out, 1, "{} was handed out again", response.activity_id);
                    }
                    let delay = self.random.delay(Duration::from_secs(3));
                    let succeeds = self.random.percent(70);
                    if self.random.percent(90) {
                        self.after(delay, Event::EndActivity(token, succeeds));
                    }
                }
                Ok(_) | Err(CallError::Rejected(_)) => {}
                Err(_) => self.tasks.push((address, task)),
            },
            _ => {}
        }
    }

    // ---- Afterwards --------------------------------------------------------------------------------------------------

    fn check(&mut self) {
        assert!(self.lead.is_some(), "nobody leads in the end");
        assert!(self.in_flight.is_empty() && self.jobs.is_empty(), "something is still under way");
        let mut signals: HashMap<String, u32> = HashMap::new();
        let mut found = HashSet::new();
        let time = self.lead.as_ref().map(|(lead, _)| lead.time()).expect("it was looked at above");
        let rows = TwinRows(&self.state);
        for number in 0..WORKFLOWS {
            let workflow_id: Arc<str> = format!("w{number}").into();
            let address = WorkflowRef { namespace: Arc::clone(&self.namespace), workflow_id };
            let runs = runs(&rows, &address).into_iter().collect();
            let loaded = serve(&rows, LoadRequest { address: address.clone(), runs, with_current: true });
            let workflow = loaded.workflow.expect("rows are readable");
            let open = workflow.runs.values().filter(|run| run.is_open()).count();
            assert!(open <= 1, "{open} runs of {} are open", address.workflow_id);
            for (run_id, run) in &workflow.runs {
                found.insert(*run_id);
                let overdue = run.next_durable_deadline().filter(|due| due.plus(Duration::from_secs(5)) < time);
                assert!(overdue.is_none() || !run.is_open(), "run {run_id} was forgotten by time");
                let next = run.state.next_event_id;
                let events = events(&rows, &address, *run_id, next);
                check_history(&events, next);
                for event in &events {
                    if let Some(EventAttributes::WorkflowExecutionSignaledEventAttributes(signaled)) = &event.attributes
                    {
                        *signals.entry(signaled.signal_name.clone()).or_default() += 1;
                    }
                }
                for event in run.buffered.values() {
                    if let Some(EventAttributes::WorkflowExecutionSignaledEventAttributes(signaled)) = &event.attributes
                    {
                        *signals.entry(signaled.signal_name.clone()).or_default() += 1;
                    }
                }
            }
        }
        for run_id in &self.started {
            assert!(found.contains(run_id), "run {run_id} was acknowledged and is not there");
        }
        for (name, acknowledged) in &self.signals {
            let count = signals.get(name).copied().unwrap_or(0);
            assert!(count <= 1, "{name} is there {count} times");
            assert!(count == 1 || !acknowledged, "{name} was acknowledged and is not there");
        }
    }
}

/// Every run of a workflow that has rows.
fn runs(rows: &TwinRows<'_>, address: &WorkflowRef) -> BTreeSet<RunId> {
    let range = everlog_model::rows::workflow_key(address).range();
    let found = rows.scan(range, Direction::Ascending, usize::MAX).expect("rows are readable");
    let runs = found.iter().map(|(key, _)| RunId(keys::decode_run_row(key).expect("a row of a workflow").0));
    runs.filter(|run_id| *run_id != RunId::default()).collect()
}

fn events(rows: &TwinRows<'_>, address: &WorkflowRef, run_id: RunId, next: i64) -> Vec<HistoryEvent> {
    let page = history::read_blocking(rows, address, run_id, 1, next, usize::MAX).expect("the history is readable");
    page.batches.into_iter().flat_map(|batch| History::decode(batch).expect("events").events).collect()
}

fn check_history(events: &[HistoryEvent], next_event_id: i64) {
    let ids: Vec<i64> = events.iter().map(|event| event.event_id).collect();
    let expected: Vec<i64> = (1..next_event_id).collect();
    assert_eq!(ids, expected, "the ids of a history");
    let mut timers = HashMap::new();
    let mut last = None;
    for (index, event) in events.iter().enumerate() {
        let time = event.event_time.as_ref().map(Time::from_proto).expect("an event has a time");
        match event.attributes.as_ref().expect("an event has attributes") {
            EventAttributes::TimerStartedEventAttributes(started) => {
                let after = started.start_to_fire_timeout.expect("a timer has a duration").seconds;
                timers.insert(event.event_id, time.plus(Duration::from_secs(after.unsigned_abs())));
            }
            EventAttributes::TimerFiredEventAttributes(fired) => {
                let due = timers.remove(&fired.started_event_id).expect("a timer fires once, after its start");
                assert!(time >= due, "a timer fired early");
            }
            EventAttributes::WorkflowTaskStartedEventAttributes(_) => {
                let next = events.get(index + 1).and_then(|event| event.attributes.as_ref());
                assert!(
                    matches!(
                        next,
                        Some(
                            EventAttributes::WorkflowTaskCompletedEventAttributes(_)
                                | EventAttributes::WorkflowTaskFailedEventAttributes(_)
                                | EventAttributes::WorkflowTaskTimedOutEventAttributes(_)
                                | EventAttributes::WorkflowExecutionTerminatedEventAttributes(_)
                                | EventAttributes::WorkflowExecutionTimedOutEventAttributes(_)
                        ) | None
                    ),
                    "event {} stands between a workflow task's start and its end",
                    event.event_id + 1
                );
            }
            _ => {}
        }
        last = Some(event);
    }
    assert!(last.is_some(), "a run has events");
}

fn seconds(seconds: i64) -> everlog_proto::wkt::Duration {
    everlog_proto::wkt::Duration { seconds, nanos: 0 }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).expect("a short time")
}

/// Runs a seed; what went wrong, if anything did.
fn run(seed: u64) -> Result<u64, String> {
    let mut world = World::new(seed);
    let ran = catch_unwind(AssertUnwindSafe(|| world.run()));
    ran.map(|()| world.completed_tasks).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
    })
}

#[test]
fn invariants_hold_whatever_log_disk_clock_and_readers_do() {
    let begun = Instant::now();
    let minutes = std::env::var("EVERLOG_SIMULATION_MINUTES").ok().map(|minutes| minutes.parse().expect("minutes"));
    let until = minutes.map(|minutes: u64| begun + Duration::from_secs(60 * minutes));
    let seeds: Vec<u64> = match std::env::var("EVERLOG_SIMULATION_SEEDS") {
        Ok(seeds) => {
            let (first, last) = seeds.split_once("..").expect("FIRST..LAST");
            (first.parse().expect("a seed")..last.parse().expect("a seed")).collect()
        }
        Err(_) => KEPT.iter().map(|(seed, _)| *seed).chain(0..SEEDS).collect(),
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let (next, tasks) = (AtomicU64::new(0), AtomicU64::new(0));
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let seed = match (until, seeds.get(usize::try_from(number).expect("a small number"))) {
                        (None, Some(seed)) => *seed,
                        (Some(until), _) if Instant::now() < until => SEEDS + number,
                        _ => return,
                    };
                    match run(seed) {
                        Ok(completed) => drop(tasks.fetch_add(completed, Ordering::Relaxed)),
                        Err(error) => failed.lock().push((seed, error)),
                    }
                }
            });
        }
    });
    let mut failed = failed.into_inner();
    failed.sort();
    assert!(failed.is_empty(), "{} seeds failed, the first: {:?}", failed.len(), &failed[..failed.len().min(3)]);
    assert!(tasks.into_inner() > 0, "nothing happened");
}
