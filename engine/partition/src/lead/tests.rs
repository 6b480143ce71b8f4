//! Bounds of a lead that the simulation does not reach: large requests, timers beside a load that never ends, callers that ask for
//! workflows that are not there.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use everlog_kernel::{Command, Limits, Namespace, NamespaceId, RunId, Time};
use everlog_model::{CallError, FormatVersion, Moves, NamespaceSource, WorkflowRef, limits};
use everlog_proto::api::common::v1::{Payload, Payloads, WorkflowType};
use everlog_proto::api::taskqueue::v1::TaskQueue;
use everlog_proto::api::workflowservice::v1::StartWorkflowExecutionRequest;
use everlog_raft::{Hlc, LeadEpoch};
use everlog_storage::GroupId;
use everlog_storage::keys::{EntityKey, KeyRange, WakeKey};
use everlog_storage::state::{Direction, Row, RowBatch, StateError};
use tokio::sync::oneshot;

use super::{Action, Applied, Lead, LeadSettings, Poison};
use crate::clock::{PartitionClock, Reading};
use crate::job::{Answer, Charge, Job, Work};
use crate::load::Rows;
use crate::wakes::{self, WakePage};

struct OneNamespace(Arc<Namespace>);

impl NamespaceSource for OneNamespace {
    fn by_id(&self, id: NamespaceId) -> Option<Arc<Namespace>> {
        (id == self.0.id).then(|| Arc::clone(&self.0))
    }
}

/// A lead without a log behind it: every batch is durable when the test says so.
struct Bench {
    lead: Lead,
    namespace: Arc<Namespace>,
    start: Instant,
    passed: Duration,
}

type Waiting = oneshot::Receiver<Result<Answer, CallError>>;

impl Bench {
    fn new(cache_bytes_max: usize) -> Bench {
        let namespace = Namespace {
            id: NamespaceId([7; 16]),
            name: "n".to_owned(),
            retention: Duration::from_secs(86_400),
            ..Namespace::default()
        };
        let namespace = Arc::new(namespace);
        let start = Instant::now();
        let settings = LeadSettings {
            namespaces: Arc::new(OneNamespace(Arc::clone(&namespace))),
            limits: Arc::default(),
            cache_bytes_max,
            skips_time: false,
            format: FormatVersion::NEWEST,
        };
        let clock = PartitionClock::start(Hlc(0), reading(start, Duration::ZERO));
        let epoch = LeadEpoch { term: 1, opening: 1 };
        let (may_exist, contains) = (Box::new(|_: &[u8]| false), Box::new(|_| false));
        let applied = Applied { moves: Moves::default(), may_exist, contains };
        let mut lead = Lead::new(GroupId(1), epoch, clock, settings, applied, 1, start);
        let horizon = lead.time();
        lead.add_wakes(Ok(WakePage { wakes: Vec::new(), next: None, horizon }));
        Bench { lead, namespace, start, passed: Duration::ZERO }
    }

    fn pass(&mut self, time: Duration) {
        self.passed += time;
        self.lead.tick(reading(self.start, self.passed));
    }

    fn start_job(&self, workflow_id: &str, input_bytes: usize, delay_s: i64) -> (Job, Waiting) {
        let payload = Payload { data: vec![7; input_bytes], ..Payload::default() };
        let request = StartWorkflowExecutionRequest {
            workflow_id: workflow_id.to_owned(),
            workflow_type: Some(WorkflowType { name: "T".to_owned() }),
            task_queue: Some(TaskQueue { name: "q".to_owned(), ..TaskQueue::default() }),
            request_id: workflow_id.to_owned(),
            input: Some(Payloads { payloads: vec![payload] }),
            workflow_start_delay: Some(everlog_proto::wkt::Duration { seconds: delay_s, nanos: 0 }),
            ..StartWorkflowExecutionRequest::default()
        };
        let (reply, waiting) = oneshot::channel();
        let command = Command::start(request, &Limits::default()).unwrap();
        let work = Work::Command { command, reply: Some(reply) };
        (self.job(workflow_id, work), waiting)
    }

    fn job(&self, workflow_id: &str, work: Work) -> Job {
        let address = WorkflowRef { namespace: Arc::clone(&self.namespace), workflow_id: workflow_id.into() };
        Job { address, run_id: None, work, operation: None, charge: Charge::default() }
    }

    /// Ends the turn; the batches that are proposed are durable at once.
    fn end_turn(&mut self) -> Vec<RowBatch> {
        self.lead.end_turn(|_| Duration::ZERO);
        let mut batches = Vec::new();
        for action in self.lead.actions() {
            if let Action::Propose { rows, .. } = action {
                batches.push(rows);
                self.lead.settle();
            }
        }
        self.lead.answers();
        batches
    }
}

fn reading(start: Instant, passed: Duration) -> Reading {
    Reading { instant: start + passed, wall: Time(1_700_000_000_000_000_000).plus(passed), skipped: Duration::ZERO }
}

#[test]
fn large_requests_in_one_turn_become_many_entries() {
    const INPUT_BYTES: usize = 1024 * 1024;
    const STARTS: usize = 100;
    let mut bench = Bench::new(usize::MAX);
    let mut jobs: Vec<_> = (0..STARTS).map(|number| bench.start_job(&format!("w{number}"), INPUT_BYTES, 0).0).collect();
    let mut batches = Vec::new();
    while !jobs.is_empty() {
        while bench.lead.accepts()
            && let Some(job) = jobs.pop()
        {
            bench.lead.take(job);
        }
        let held = bench.lead.held_bytes();
        batches.extend(bench.end_turn());
        assert!(held > INPUT_BYTES, "what is held is counted");
    }
    assert!(batches.len() >= STARTS * INPUT_BYTES / (limits::PARTITION_BATCH_BYTES_MAX + 2 * INPUT_BYTES));
    let largest = batches.iter().map(RowBatch::encoded_len).max().unwrap();
    assert!(largest < limits::PARTITION_BATCH_BYTES_MAX + 2 * INPUT_BYTES, "{largest}");
}

#[test]
fn what_is_due_happens_in_every_turn_beside_a_load_that_never_ends() {
    let mut bench = Bench::new(usize::MAX);
    for number in 0..2 * limits::PARTITION_TURN_WAKES_MAX {
        let (job, _) = bench.start_job(&format!("delayed{number}"), 1, 5);
        bench.lead.take(job);
    }
    bench.end_turn();
    bench.pass(Duration::from_secs(6));
    let mut turns = 0;
    let mut number = 0;
    let next = |bench: &Bench| bench.lead.until_next_wake();
    while next(&bench).is_zero() {
        for _ in 0..100 {
            number += 1;
            let (job, _) = bench.start_job(&format!("load{number}"), 1, 0);
            bench.lead.take(job);
        }
        assert!(!bench.end_turn().is_empty());
        turns += 1;
        assert!(turns <= 10, "timers wait for the load to end");
    }
    assert!(turns >= 2, "a turn looks at a bounded number");
}

#[test]
fn workflows_that_do_not_exist_are_counted_and_leave() {
    const BYTES_MAX: usize = 100_000;
    let mut bench = Bench::new(BYTES_MAX);
    for number in 0..20_000 {
        let look = Work::Inspect(Box::new(|_| Box::new(|_| {})));
        let job = bench.job(&format!("nobody{number}"), look);
        bench.lead.take(job);
        if number % 100 == 0 {
            bench.end_turn();
            assert!(bench.lead.held_bytes() <= BYTES_MAX, "{}", bench.lead.held_bytes());
        }
    }
    bench.pass(limits::WORKFLOW_CLOSED_IDLE_MAX + Duration::from_secs(1));
    for _ in 0..20 {
        bench.end_turn();
    }
    assert_eq!(bench.lead.held_bytes(), 0);
}

#[test]
fn runs_that_do_not_exist_are_not_remembered_for_ever() {
    let mut bench = Bench::new(usize::MAX);
    let (job, _) = bench.start_job("w", 1, 0);
    bench.lead.take(job);
    bench.end_turn();
    let before = bench.lead.held_bytes();
    for number in 0..10_000_u128 {
        let look = Work::Inspect(Box::new(|_| Box::new(|_| {})));
        let job = Job { run_id: Some(RunId::from(number)), ..bench.job("w", look) };
        bench.lead.take(job);
        let load = bench.lead.actions().into_iter().find_map(|action| match action {
            Action::Load(request) => Some(request),
            _ => None,
        });
        let request = load.expect("an unknown run is looked for");
        let found = Ok(crate::load::Found::Workflow(everlog_kernel::Workflow::new("w")));
        bench.lead.loaded(crate::load::Loaded {
            entity: request.entity,
            born: request.born,
            with_current: false,
            asked: request.runs,
            found,
            search: None,
        });
        bench.end_turn();
    }
    assert!(bench.lead.held_bytes() <= 2 * before, "{} after {before}", bench.lead.held_bytes());
}

#[test]
fn no_more_than_so_many_workflows_are_read_at_a_time() {
    let namespace = Bench::new(1).namespace;
    let mut bench = Bench::new(usize::MAX);
    bench.lead.applied.may_exist = Box::new(|_| true);
    let mut loads = 0;
    while bench.lead.accepts() {
        let look = Work::Inspect(Box::new(|_| Box::new(|_| {})));
        let job = bench.job(&format!("cold{loads}"), look);
        bench.lead.take(job);
        loads += 1;
    }
    assert_eq!(loads, limits::PARTITION_LOADS_MAX);
    let entity = WorkflowRef { namespace, workflow_id: "cold0".into() }.entity();
    let found = Ok(crate::load::Found::Workflow(everlog_kernel::Workflow::new("cold0")));
    let loaded = crate::load::Loaded { entity, born: 1, with_current: true, asked: Vec::new(), found, search: None };
    bench.lead.loaded(loaded);
    assert!(bench.lead.accepts());
}

#[test]
fn a_job_that_made_the_kernel_panic_is_refused_for_a_while() {
    let mut bench = Bench::new(usize::MAX);
    let look = Work::Inspect(Box::new(|_| panic!("poison")));
    let job = bench.job("w", look);
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| bench.lead.take(job)));
    assert!(panicked.is_err());
    let running = bench.lead.running().expect("it is known what was running").clone();
    assert_eq!((running.name, &*running.key.id), ("Inspect", "w"));

    let mut next = Bench::new(usize::MAX);
    next.lead.refuse_poison(vec![Poison::new(&running, next.lead.time())]);
    let refused = |bench: &mut Bench, workflow_id: &str| {
        let (sender, told) = std::sync::mpsc::channel();
        let look = Work::Inspect(Box::new(move |outcome| {
            let _ = sender.send(matches!(outcome, Err(CallError::Failed(_))));
            Box::new(|_| {})
        }));
        let job = bench.job(workflow_id, look);
        bench.lead.take(job);
        told.recv().unwrap()
    };
    assert!(refused(&mut next, "w"));
    assert!(!refused(&mut next, "other"));
    next.pass(limits::POISON_REFUSED + Duration::from_secs(1));
    assert!(!refused(&mut next, "w"), "it is tried again after a while");
}

/// Rows that are the same whatever is asked for.
struct TheseRows(Vec<Row>);

impl Rows for TheseRows {
    fn get(&self, _: &[u8]) -> Result<Option<Bytes>, StateError> {
        Ok(None)
    }

    fn scan(&self, _: KeyRange, _: Direction, _: usize) -> Result<Vec<Row>, StateError> {
        Ok(self.0.clone())
    }
}

#[test]
fn rows_of_an_entity_of_an_unknown_kind_end_the_lead() {
    const UNKNOWN: &str = "an entity of an unknown kind, 9";
    let mut bench = Bench::new(usize::MAX);
    let entity = EntityKey::new(9, [7; 16], "entity");
    let wake = WakeKey::new(1, &entity, [1; 16]).encode();
    let page = wakes::read_page(&TheseRows(vec![(wake, Bytes::new())]), None, Time(2));
    assert_eq!(page.as_ref().err().map(String::as_str), Some(UNKNOWN));
    bench.lead.add_wakes(page);
    let failure = |action| if let Action::Fail(error) = action { Some(error) } else { None };
    let failures: Vec<_> = bench.lead.actions().into_iter().filter_map(failure).collect();
    assert_eq!(failures, [format!("wake rows cannot be read: {UNKNOWN}")]);
}
