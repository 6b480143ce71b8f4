//! What the next lead of a partition takes from the one before: a held workflow task, if the history that its worker was given is
//! there; nothing that was shown and is not.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use everlog_kernel::command::{Reply, StartWorkflowTask};
use everlog_kernel::token::{self, WorkflowTaskToken};
use everlog_kernel::transition::Task;
use everlog_kernel::{Command, Limits, Namespace, NamespaceId, Rejection, RunCommand, Time};
use everlog_model::{CallError, NamespaceSource, RunView, WorkflowRef};
use everlog_proto::api::command::v1::command::Attributes;
use everlog_proto::api::command::v1::{Command as WorkflowCommand, StartTimerCommandAttributes};
use everlog_proto::api::common::v1::WorkflowType;
use everlog_proto::api::enums::v1::CommandType;
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
use tokio::sync::{mpsc, oneshot};

use super::{Action, Applied, Lead, LeadSettings, Outgoing};
use crate::clock::{PartitionClock, Reading};
use crate::job::{Answer, Charge, Job, Work};
use crate::load::{Rows, serve};
use crate::wakes::WakePage;

const GROUP: GroupId = GroupId(1);

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

type Waiting = oneshot::Receiver<Result<Answer, CallError>>;

/// A partition whose batches are durable when the test says so, and whose lead can be lost.
struct Partition {
    state: Arc<CrashState>,
    chain: Chain,
    entries: u64,
    lead: Lead,
    opening: u32,
    in_flight: VecDeque<(EntryStamp, RowBatch)>,
    tasks: Vec<Task>,
    namespace: Arc<Namespace>,
    begun: Instant,
    passed: Duration,
}

impl Partition {
    fn new() -> Partition {
        let namespace =
            Namespace { id: NamespaceId([7; 16]), name: "n".to_owned(), retention: Duration::from_secs(86_400) };
        let namespace = Arc::new(namespace);
        let state = Arc::new(CrashState::new(1));
        let begun = Instant::now();
        let lead = lead(&namespace, &state, &Chain::default(), 1, reading(begun, Duration::ZERO));
        let mut partition = Partition {
            state,
            chain: Chain::default(),
            entries: 0,
            lead,
            opening: 0,
            in_flight: VecDeque::new(),
            tasks: Vec::new(),
            namespace,
            begun,
            passed: Duration::ZERO,
        };
        partition.lead_anew();
        partition
    }

    /// The lead is lost with everything that is not durable; another one begins.
    fn lead_anew(&mut self) {
        self.in_flight.clear();
        self.opening += 1;
        let chain = ChainPosition { epoch: LeadEpoch { term: 1, opening: self.opening }, sequence: 0 };
        self.apply(EntryStamp { chain, hlc: Hlc(0) }, RowBatch::default());
        let reading = reading(self.begun, self.passed);
        self.lead = lead(&self.namespace, &self.state, &self.chain, self.opening, reading);
    }

    fn apply(&mut self, stamp: EntryStamp, rows: RowBatch) {
        assert_eq!(self.chain.step(&stamp), ChainStep::Applied);
        self.entries += 1;
        self.state.commit(GROUP, &self.entries.to_be_bytes(), &[rows]).unwrap();
    }

    fn pass(&mut self, time: Duration) {
        self.passed += time;
        self.lead.tick(reading(self.begun, self.passed));
        self.turn();
    }

    /// Ends the turn. What it proposes is on its way, not durable.
    fn turn(&mut self) {
        self.lead.end_turn(|_| Duration::ZERO);
        for action in self.lead.actions() {
            match action {
                Action::Propose { stamp, rows } => self.in_flight.push_back((stamp, rows)),
                Action::Load(request) => {
                    let loaded = serve(&TwinRows(&self.state), request);
                    self.lead.loaded(loaded);
                    self.turn();
                }
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
            _ => {}
        }
    }

    /// What is on its way becomes durable.
    fn commit(&mut self) {
        self.turn();
        while let Some((stamp, rows)) = self.in_flight.pop_front() {
            self.apply(stamp, rows);
            self.lead.settle();
            self.turn();
        }
    }

    fn take(&mut self, work: Work) {
        let address = WorkflowRef { namespace: Arc::clone(&self.namespace), workflow_id: "w".into() };
        self.lead.take(Job { address, run_id: None, work, charge: Charge::default() });
        self.turn();
    }

    fn ask(&mut self, command: impl Into<Command>) -> Waiting {
        let (reply, waiting) = oneshot::channel();
        self.take(Work::Command { command: command.into(), reply: Some(reply) });
        waiting
    }

    fn start(&mut self) {
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

    fn signal(&mut self) {
        let request = SignalWorkflowExecutionRequest { signal_name: "s".to_owned(), ..Default::default() };
        self.ask(RunCommand::SignalWorkflow(Box::new(request)));
    }

    /// A worker takes the task that was offered last.
    fn start_task(&mut self) -> Result<WorkflowTaskToken, CallError> {
        let task = self.tasks.last().expect("a task was offered").clone();
        let mut waiting = self.ask(RunCommand::StartWorkflowTask(StartWorkflowTask {
            scheduled_event_id: task.key.position.scheduled_event_id,
            attempt: task.attempt,
            task_queue: "q".to_owned(),
            identity: "worker".to_owned(),
            request_id: "poll".to_owned(),
        }));
        match waiting.try_recv().expect("a task is handed out at once")?.reply {
            Reply::WorkflowTaskStarted(start) => Ok(token::decode(&start.response.task_token).expect("a token")),
            reply => panic!("{reply:?}"),
        }
    }

    /// Completes a task, and waits until that is durable.
    fn complete(&mut self, token: &WorkflowTaskToken, commands: Vec<WorkflowCommand>) -> Result<(), CallError> {
        let request = RespondWorkflowTaskCompletedRequest { commands, ..Default::default() };
        let mut waiting = self.ask(RunCommand::CompleteWorkflowTask(token.clone(), Box::new(request)));
        self.commit();
        waiting.try_recv().expect("an answer").map(|_| ())
    }

    fn view(&mut self) -> RunView {
        let (reply, mut view) = mpsc::channel(2);
        self.take(Work::Watch { seen: None, reply });
        self.commit();
        view.try_recv().expect("what is known").expect("the run is there")
    }
}

fn lead(namespace: &Arc<Namespace>, state: &Arc<CrashState>, chain: &Chain, opening: u32, reading: Reading) -> Lead {
    let settings = LeadSettings {
        namespaces: Arc::new(OneNamespace(Arc::clone(namespace))),
        limits: Arc::default(),
        cache_bytes_max: usize::MAX,
    };
    let (rows, chain) = (Arc::clone(state), chain.clone());
    let applied = Applied {
        may_exist: Box::new(move |key| rows.may_exist(GROUP, key)),
        contains: Box::new(move |position| chain.was_applied(position)),
    };
    let clock = PartitionClock::start(Hlc(0), reading);
    let epoch = LeadEpoch { term: 1, opening };
    let mut lead = Lead::new(GROUP, epoch, clock, settings, applied, u128::from(opening), reading.instant);
    let horizon = lead.time();
    lead.add_wakes(Ok(WakePage { wakes: Vec::new(), next: None, horizon }));
    lead
}

fn reading(begun: Instant, passed: Duration) -> Reading {
    Reading { instant: begun + passed, wall: Time(1_700_000_000_000_000_000).plus(passed) }
}

fn start_timer() -> WorkflowCommand {
    WorkflowCommand {
        command_type: CommandType::StartTimer as i32,
        attributes: Some(Attributes::StartTimerCommandAttributes(StartTimerCommandAttributes {
            timer_id: "t".to_owned(),
            start_to_fire_timeout: Some(everlog_proto::wkt::Duration { seconds: 60, nanos: 0 }),
        })),
        ..WorkflowCommand::default()
    }
}

fn is_not_found(result: &Result<(), CallError>) -> bool {
    matches!(result, Err(CallError::Rejected(Rejection::NotFound(_))))
}

#[test]
fn a_completion_is_taken_by_the_next_lead_once() {
    let mut partition = Partition::new();
    partition.start();
    partition.commit();
    let token = partition.start_task().unwrap();
    partition.lead_anew();
    assert!(partition.complete(&token, vec![start_timer()]).is_ok());
    assert!(is_not_found(&partition.complete(&token, Vec::new())));
    let view = partition.view();
    assert_eq!((view.next_event_id, view.tail.len()), (6, 0));
}

#[test]
fn a_task_from_a_history_that_was_lost_is_not_completed_on_another() {
    let mut partition = Partition::new();
    partition.start();
    let token = partition.start_task().unwrap();
    partition.complete(&token, vec![start_timer()]).unwrap();
    // This signal is lost with its lead. The one that takes its place has the same id, and so has the task.
    partition.signal();
    let lost = partition.start_task().unwrap();
    partition.lead_anew();
    partition.pass(Duration::from_millis(1));
    partition.signal();
    partition.commit();
    assert!(is_not_found(&partition.complete(&lost, Vec::new())));
    let token = partition.start_task().unwrap();
    assert_eq!((token.scheduled_event_id, token.attempt), (lost.scheduled_event_id, lost.attempt));
    assert!(is_not_found(&partition.complete(&lost, Vec::new())));
    assert!(partition.complete(&token, Vec::new()).is_ok());
}

#[test]
fn a_start_that_lasts_or_is_shown_is_written() {
    for shown in [false, true] {
        let mut partition = Partition::new();
        partition.start();
        partition.commit();
        let token = partition.start_task().unwrap();
        let entries = partition.entries;
        assert!(!partition.view().tail_is_saved);
        assert_eq!(partition.entries, entries, "a start that is short costs nothing");
        if shown {
            partition.ask(RunCommand::SaveWorkflowTaskStart);
        } else {
            partition.pass(Duration::from_millis(600));
        }
        partition.commit();
        assert_eq!(partition.entries, entries + 1);
        let before = partition.view();
        assert!(before.tail_is_saved);
        partition.lead_anew();
        partition.signal();
        partition.commit();
        assert_eq!(partition.view(), before);
        assert!(partition.start_task().is_err(), "nobody else is given the task");
        assert!(partition.complete(&token, Vec::new()).is_ok());
        assert_eq!(partition.view().next_event_id, before.next_event_id + 4);
    }
}

#[test]
fn a_query_is_put_on_a_history_that_is_durable() {
    let mut partition = Partition::new();
    partition.start();
    partition.commit();
    let token = partition.start_task().unwrap();
    let request = RespondWorkflowTaskCompletedRequest { commands: vec![start_timer()], ..Default::default() };
    partition.ask(RunCommand::CompleteWorkflowTask(token, Box::new(request)));
    let mut waiting = partition.ask(RunCommand::StartQueryTask { task_queue: "q".to_owned() });
    assert!(waiting.try_recv().is_err(), "the worker would be shown what a crash takes back");
    partition.commit();
    assert!(waiting.try_recv().unwrap().is_ok());
}
