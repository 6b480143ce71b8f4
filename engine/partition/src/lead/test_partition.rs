//! A partition for tests: a lead on rows that are durable when the test says so. Leads can be lost, with whatever was on its way.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use everlog_kernel::command::{Objections, Reply, StartWorkflowTask};
use everlog_kernel::token::{self, WorkflowTaskToken};
use everlog_kernel::transition::Task;
use everlog_kernel::{Command, EntityKind, Limits, Namespace, NamespaceId, RunCommand, RunId, Time};
use everlog_model::{CallError, FormatVersion, NamespaceSource, OperationId, RunView, WorkflowRef};
use everlog_proto::api::command::v1::Command as WorkflowCommand;
use everlog_proto::api::common::v1::WorkflowType;
use everlog_proto::api::history::v1::{History, HistoryEvent};
use everlog_proto::api::taskqueue::v1::TaskQueue;
use everlog_proto::api::workflowservice::v1::{
    RespondWorkflowTaskCompletedRequest, SignalWorkflowExecutionRequest, StartWorkflowExecutionRequest,
};
use everlog_raft::chain::{Chain, ChainStep};
use everlog_raft::{ChainPosition, EntryStamp, Hlc, LeadEpoch};
use everlog_storage::GroupId;
use everlog_storage::keys::KeyRange;
use everlog_storage::state::{Direction, Row, RowBatch, StateEngine, StateError};
use everlog_storage::twin::CrashState;
use prost::Message;
use tokio::sync::{mpsc, oneshot};

use super::moves::{StepCommand, StepJob, StepReply};
use super::{Action, Applied, Lead, LeadSettings, Outgoing};
use crate::clock::{PartitionClock, Reading};
use crate::history_pages::{self, PageSize};
use crate::job::{Answer, Charge, Job, Work};
use crate::journal;
use crate::load::{LoadRequest, Rows, serve};
use crate::moving;
use crate::outbox::{self, Parcel};
use crate::steps::read_moves;
use crate::wakes::{self, WakePage};

const GROUP: GroupId = GroupId(1);

struct OneNamespace(Arc<Namespace>);

impl NamespaceSource for OneNamespace {
    fn by_id(&self, id: NamespaceId) -> Option<Arc<Namespace>> {
        (id == self.0.id).then(|| Arc::clone(&self.0))
    }
}

pub(super) struct TwinRows<'a>(pub(super) &'a CrashState);

impl Rows for TwinRows<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<bytes::Bytes>, StateError> {
        self.0.get(GROUP, key)
    }

    fn scan(&self, range: KeyRange, direction: Direction, limit: usize) -> Result<Vec<Row>, StateError> {
        self.0.scan(GROUP, &range.start..&range.end, direction, limit)
    }
}

pub(super) type Waiting = oneshot::Receiver<Result<Answer, CallError>>;

/// A partition whose batches are durable when the test says so, and whose lead can be lost.
pub(super) struct Partition {
    pub(super) state: Arc<CrashState>,
    chain: Chain,
    pub(super) entries: u64,
    pub(super) lead: Lead,
    pub(super) opening: u32,
    in_flight: VecDeque<(EntryStamp, RowBatch)>,
    /// What is to be carried to other partitions.
    pub(super) parcels: Vec<Parcel>,
    pub(super) tasks: Vec<Task>,
    /// What was told of batch jobs: whether each is to be worked on.
    pub(super) batch_jobs: Vec<bool>,
    /// How often matching was told to look for tasks.
    pub(super) tasks_came: usize,
    /// The runs that were to be archived.
    pub(super) to_archive: Vec<RunId>,
    pub(super) namespace: Arc<Namespace>,
    skips_time: bool,
    /// How other partitions know it.
    group: GroupId,
    begun: Instant,
    passed: Duration,
}

impl Partition {
    pub(super) fn new() -> Partition {
        Partition::of(GROUP, false, false)
    }

    /// One that skips time.
    pub(super) fn skipping() -> Partition {
        Partition::of(GROUP, false, true)
    }

    /// One that is not the first.
    pub(super) fn numbered(number: u32) -> Partition {
        Partition::of(GroupId(number), false, false)
    }

    /// One whose namespace archives its runs.
    pub(super) fn archiving() -> Partition {
        Partition::of(GROUP, true, false)
    }

    fn of(group: GroupId, archives: bool, skips_time: bool) -> Partition {
        let namespace = Namespace {
            archives,
            id: NamespaceId([7; 16]),
            name: "n".to_owned(),
            retention: Duration::from_secs(86_400),
            ..Namespace::default()
        };
        let namespace = Arc::new(namespace);
        let state = Arc::new(CrashState::new(1));
        let begun = Instant::now();
        let lead = lead(group, &namespace, &state, &Chain::default(), 1, reading(begun, Duration::ZERO), skips_time);
        let mut partition = Partition {
            state,
            chain: Chain::default(),
            entries: 0,
            lead,
            opening: 0,
            in_flight: VecDeque::new(),
            parcels: Vec::new(),
            tasks: Vec::new(),
            batch_jobs: Vec::new(),
            tasks_came: 0,
            to_archive: Vec::new(),
            namespace,
            skips_time,
            group,
            begun,
            passed: Duration::ZERO,
        };
        partition.lead_anew();
        partition
    }

    /// The lead is lost with everything that is not durable; another one begins.
    pub(super) fn lead_anew(&mut self) {
        self.in_flight.clear();
        self.opening += 1;
        let chain = ChainPosition { epoch: LeadEpoch { term: 1, opening: self.opening }, sequence: 0 };
        self.apply(EntryStamp { chain, hlc: Hlc(0) }, RowBatch::default());
        let reading = reading(self.begun, self.passed);
        self.lead = lead(self.group, &self.namespace, &self.state, &self.chain, self.opening, reading, self.skips_time);
    }

    /// Reads what is due by now, as a lead does when it begins and from time to time.
    pub(super) fn read_wakes(&mut self) {
        let page = wakes::read_page(&TwinRows(&self.state), None, self.lead.time());
        self.lead.add_wakes(page);
        self.pass(Duration::from_millis(1));
    }

    /// Begins to look at what is due, and returns which rows are to be read for that.
    pub(super) fn begin_to_wake(&mut self) -> Vec<LoadRequest> {
        let page = wakes::read_page(&TwinRows(&self.state), None, self.lead.time());
        self.lead.add_wakes(page);
        self.lead.end_turn(|_| Duration::ZERO);
        let loads = self.lead.actions().into_iter().filter_map(|action| match action {
            Action::Load(request) => Some(request),
            _ => None,
        });
        loads.collect()
    }

    /// Reads rows that are to be read.
    pub(super) fn load(&mut self, request: LoadRequest) {
        let loaded = serve(&TwinRows(&self.state), request);
        self.lead.loaded(loaded);
        self.turn();
    }

    fn apply(&mut self, stamp: EntryStamp, rows: RowBatch) {
        assert_eq!(self.chain.step(&stamp), ChainStep::Applied);
        self.entries += 1;
        self.state.commit(GROUP, &self.entries.to_be_bytes(), &[rows]).unwrap();
    }

    pub(super) fn pass(&mut self, time: Duration) {
        self.passed += time;
        self.lead.tick(reading(self.begun, self.passed));
        self.turn();
    }

    /// Ends the turn. What it proposes is on its way, not durable.
    pub(super) fn turn(&mut self) {
        self.lead.end_turn(|_| Duration::ZERO);
        for action in self.lead.actions() {
            match action {
                Action::Propose { stamp, rows } => self.in_flight.push_back((stamp, rows)),
                Action::Load(request) => self.load(request),
                Action::ReadOutbox { start } => {
                    let page = outbox::read_page(&TwinRows(&self.state), start);
                    self.lead.add_outbox(page);
                    self.turn();
                }
                Action::ReadJournal { start } => {
                    let page = journal::read_page(&TwinRows(&self.state), start);
                    self.lead.add_journal(page);
                    self.turn();
                }
                Action::ReadDeletions { step, after, is_part } => {
                    let deletions = moving::deletions(&TwinRows(&self.state), &step, after.as_ref(), is_part);
                    self.lead.add_deletions(step.id, deletions);
                    self.turn();
                }
                Action::Deliver(parcels) => self.parcels.extend(parcels),
                Action::Release(outgoing) => self.release(outgoing),
                _ => {}
            }
        }
        for answer in self.lead.answers() {
            self.release(answer);
        }
    }

    fn release(&mut self, outgoing: Outgoing) {
        match outgoing {
            Outgoing::Reply(reply, answer) => drop(reply.send(answer)),
            Outgoing::View(reply, view) => drop(reply.try_send(view)),
            Outgoing::Task(_, task) => self.tasks.push(task),
            Outgoing::Step(reply, result) => drop(reply.send(result)),
            Outgoing::TasksCame => self.tasks_came += 1,
            Outgoing::Archive(_, run_id) => self.to_archive.push(run_id),
            Outgoing::BatchJob(_, _, is_running) => self.batch_jobs.push(is_running),
            _ => {}
        }
    }

    /// What is on its way becomes durable.
    pub(super) fn commit(&mut self) {
        self.turn();
        while let Some((stamp, rows)) = self.in_flight.pop_front() {
            self.apply(stamp, rows);
            self.lead.settle();
            self.turn();
        }
    }

    fn address(&self, workflow_id: &str) -> WorkflowRef {
        WorkflowRef { namespace: Arc::clone(&self.namespace), workflow_id: workflow_id.into() }
    }

    pub(super) fn take(&mut self, work: Work) {
        self.take_for("w", None, work);
    }

    fn take_for(&mut self, workflow_id: &str, run_id: Option<RunId>, work: Work) {
        let address = self.address(workflow_id);
        self.lead.take(Job { address, run_id, work, operation: None, charge: Charge::default() });
        self.turn();
    }

    /// A command to `w` of a call that may be made again.
    pub(super) fn ask_in(&mut self, operation: OperationId, command: impl Into<Command>) -> Waiting {
        let (reply, waiting) = oneshot::channel();
        let work = Work::Command { command: command.into(), reply: Some(reply) };
        let (address, operation) = (self.address("w"), Some(operation));
        self.lead.take(Job { address, run_id: None, work, operation, charge: Charge::default() });
        self.turn();
        waiting
    }

    /// An order about a step, and its answer, which is durable.
    pub(super) fn order(&mut self, command: StepCommand) -> Result<StepReply, CallError> {
        let mut waiting = self.order_on_its_way(command);
        self.commit();
        waiting.try_recv().expect("an answer")
    }

    /// The same while its rows are on their way.
    pub(super) fn order_on_its_way(&mut self, command: StepCommand) -> oneshot::Receiver<Result<StepReply, CallError>> {
        // A lead that has just begun reads rows first.
        self.turn();
        let (reply, waiting) = oneshot::channel();
        self.lead.take_step(StepJob { command, reply });
        self.turn();
        waiting
    }

    /// How many rows of a range are durable.
    pub(super) fn rows(&self, range: KeyRange) -> usize {
        TwinRows(&self.state).scan(range, Direction::Ascending, usize::MAX).unwrap().len()
    }

    pub(super) fn ask(&mut self, command: impl Into<Command>) -> Waiting {
        self.ask_of("w", None, command)
    }

    pub(super) fn ask_of(&mut self, workflow_id: &str, run_id: Option<RunId>, command: impl Into<Command>) -> Waiting {
        let (reply, waiting) = oneshot::channel();
        self.take_for(workflow_id, run_id, Work::Command { command: command.into(), reply: Some(reply) });
        waiting
    }

    /// The history of the current run of `w`.
    pub(super) fn events(&mut self) -> Vec<HistoryEvent> {
        let RunView { run_id, next_event_id, .. } = self.view();
        let rows = TwinRows(&self.state);
        let page = history_pages::read_blocking(
            &rows,
            &self.address("w"),
            run_id,
            1,
            next_event_id,
            PageSize::events(usize::MAX),
        )
        .unwrap();
        page.batches.into_iter().flat_map(|batch| History::decode(batch).unwrap().events).collect()
    }

    pub(super) fn start(&mut self) {
        let request = StartWorkflowExecutionRequest {
            workflow_id: "w".to_owned(),
            workflow_type: Some(WorkflowType { name: "T".to_owned() }),
            task_queue: Some(TaskQueue { name: "q".to_owned(), ..TaskQueue::default() }),
            request_id: "start".to_owned(),
            ..StartWorkflowExecutionRequest::default()
        };
        let command = Command::start(request, &Limits::default()).unwrap();
        self.ask(command);
    }

    pub(super) fn signal(&mut self) {
        let request = SignalWorkflowExecutionRequest { signal_name: "s".to_owned(), ..Default::default() };
        self.ask(RunCommand::SignalWorkflow(Box::new(request)));
    }

    /// A worker takes the task that was offered last.
    pub(super) fn start_task(&mut self) -> Result<WorkflowTaskToken, CallError> {
        let task = self.tasks.last().expect("a task was offered").clone();
        self.start_this_task(task)
    }

    /// The same for a task that was offered some time.
    pub(super) fn start_this_task(&mut self, task: Task) -> Result<WorkflowTaskToken, CallError> {
        let mut waiting = self.ask(RunCommand::StartWorkflowTask(StartWorkflowTask {
            deployment_version: None,
            scheduled_event_id: task.key.position.scheduled_event_id,
            attempt: task.attempt,
            task_queue: "q".to_owned(),
            identity: "worker".to_owned(),
            request_id: "poll".to_owned(),
            worker_version: None,
        }));
        match waiting.try_recv().expect("a task is handed out at once")?.reply {
            Reply::WorkflowTaskStarted(start) => Ok(token::decode(&start.response.task_token).expect("a token")),
            reply => panic!("{reply:?}"),
        }
    }

    /// Completes a task, and waits until that is durable.
    pub(super) fn complete(
        &mut self,
        token: &WorkflowTaskToken,
        commands: Vec<WorkflowCommand>,
    ) -> Result<(), CallError> {
        let request = RespondWorkflowTaskCompletedRequest { commands, ..Default::default() };
        let mut waiting =
            self.ask(RunCommand::CompleteWorkflowTask(token.clone(), Box::new(request), Objections::default()));
        self.commit();
        waiting.try_recv().expect("an answer").map(|_| ())
    }

    pub(super) fn view(&mut self) -> RunView {
        let (reply, mut view) = mpsc::channel(2);
        self.take(Work::Watch { kind: EntityKind::Workflow, seen: None, reply });
        self.commit();
        view.try_recv().expect("what is known").expect("the run is there")
    }
}

fn lead(
    group: GroupId,
    namespace: &Arc<Namespace>,
    state: &Arc<CrashState>,
    chain: &Chain,
    opening: u32,
    reading: Reading,
    skips_time: bool,
) -> Lead {
    let settings = LeadSettings {
        namespaces: Arc::new(OneNamespace(Arc::clone(namespace))),
        limits: Arc::default(),
        cache_bytes_max: usize::MAX,
        skips_time,
        format: FormatVersion::NEWEST,
    };
    let clock = PartitionClock::start(chain.end().hlc, reading);
    let (rows, chain) = (Arc::clone(state), chain.clone());
    let applied = Applied {
        moves: read_moves(&TwinRows(&rows)).unwrap(),
        may_exist: Box::new(move |key| rows.may_exist(GROUP, key)),
        contains: Box::new(move |position| chain.was_applied(position)),
    };
    let epoch = LeadEpoch { term: 1, opening };
    let mut lead = Lead::new(group, epoch, clock, settings, applied, u128::from(opening), reading.instant);
    let horizon = lead.time();
    lead.add_wakes(Ok(WakePage { wakes: Vec::new(), next: None, horizon }));
    lead
}

fn reading(begun: Instant, passed: Duration) -> Reading {
    Reading { instant: begun + passed, wall: Time(1_700_000_000_000_000_000).plus(passed), skipped: Duration::ZERO }
}
