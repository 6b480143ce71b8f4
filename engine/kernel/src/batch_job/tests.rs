//! What batch jobs do, command by command.

use std::collections::BTreeSet;
use std::time::Duration;

use everlog_proto::api::batch::v1::{BatchOperationInfo, BatchOperationTermination};
use everlog_proto::api::common::v1::WorkflowExecution;
use everlog_proto::api::enums::v1::{BatchOperationState as State, BatchOperationType};
use everlog_proto::api::workflowservice::v1::DescribeBatchOperationResponse;
use everlog_proto::api::workflowservice::v1::start_batch_operation_request::Operation;
use prost::Message;

use super::*;
use crate::command::Reply;
use crate::rows::{RowKey, RunRowKind};
use crate::state::Current;
use crate::transition::{Effect, Transition, VisibilityKey};
use crate::{Context, Ids, Limits, Namespace, NamespaceId, Rejection, Time};

const RETENTION: u64 = 100;

/// A batch job, the time in seconds, and what its rows and effects have made known.
struct World {
    job: BatchJob,
    now: u64,
    rows: BatchJobRows,
    current: Option<RunId>,
    wakes: BTreeSet<i64>,
    listed: Vec<(VisibilityKey, BatchOperationInfo)>,
    is_worked_on: bool,
    ids: Ids,
}

/// What is read of a visibility record.
#[derive(Clone, PartialEq, Message)]
struct Listed {
    #[prost(message, optional, tag = "201")]
    batch_job: Option<BatchOperationInfo>,
}

fn request() -> StartBatchOperationRequest {
    let operation = BatchOperationTermination { identity: "me".into(), ..BatchOperationTermination::default() };
    StartBatchOperationRequest {
        job_id: "job".into(),
        visibility_query: "WorkflowType = 'T'".into(),
        reason: "why".into(),
        operation: Some(Operation::TerminationOperation(operation)),
        ..StartBatchOperationRequest::default()
    }
}

fn page(workflow_ids: &[&str], next: &str) -> Page {
    let execution = |id: &&str| WorkflowExecution { workflow_id: (*id).to_owned(), run_id: String::new() };
    Page {
        number: 0,
        executions: workflow_ids.iter().map(execution).collect(),
        next: next.into(),
        is_last: next.is_empty(),
    }
}

impl World {
    fn new() -> World {
        World {
            job: BatchJob::new("job"),
            now: 1_000,
            rows: BatchJobRows::default(),
            current: None,
            wakes: BTreeSet::new(),
            listed: Vec::new(),
            is_worked_on: false,
            ids: Ids::new(7),
        }
    }

    fn started() -> World {
        let mut world = World::new();
        assert!(matches!(world.ask(BatchJobCommand::Start(Box::new(request()))), Ok(Reply::Done)));
        world
    }

    /// Decides a command on what the rows say, and on what is in memory. Both must come to the same.
    fn ask(&mut self, command: BatchJobCommand) -> Result<Reply, Rejection> {
        let (mut read, mut ids) = (self.read(), self.ids.clone());
        let of_rows = self.decide(&mut read, &mut ids, command.clone());
        let (mut job, mut ids) = (std::mem::take(&mut self.job), self.ids.clone());
        let decided = self.decide(&mut job, &mut ids, command);
        assert_eq!(format!("{decided:?}"), format!("{of_rows:?}"));
        (self.job, self.ids) = (job, ids);
        let Transition { reply, rows, effects } = decided?;
        for (key, value) in rows {
            match key {
                RowKey::Current => self.current = value.map(|row| Current::from_row(&row).unwrap().run_id),
                RowKey::Wake(time, _) if value.is_some() => assert!(self.wakes.insert(time.0)),
                RowKey::Wake(time, _) => assert!(self.wakes.remove(&time.0), "a wake that is there"),
                RowKey::Run(_, row) if row.kind == RunRowKind::BatchJob => self.rows.asked = value,
                RowKey::Run(_, row) if row.kind == RunRowKind::BatchJobProgress => self.rows.progress = value,
                RowKey::WholeRun(_) => self.rows = BatchJobRows::default(),
                RowKey::Visibility(key) => {
                    self.listed.retain(|(listed, _)| *listed != key);
                    let listed = value.map(|row| Listed::decode(row).unwrap().batch_job.unwrap());
                    self.listed.extend(listed.map(|info| (key, info)));
                }
                key => panic!("{key:?}"),
            }
        }
        for effect in effects {
            let Effect::BatchJob { is_running, .. } = effect else { panic!("{effect:?}") };
            self.is_worked_on = is_running;
        }
        if self.job.exists() {
            assert_eq!((self.wakes.len(), self.listed.len()), (1, 1), "it is woken, and listed once");
        } else {
            assert!(self.wakes.is_empty() && self.listed.is_empty() && self.current.is_none(), "nothing is left");
        }
        reply
    }

    fn read(&self) -> BatchJob {
        match self.current {
            Some(run_id) => BatchJob::from_rows("job", run_id, self.rows.clone()).unwrap(),
            None => BatchJob::new("job"),
        }
    }

    fn decide(&self, job: &mut BatchJob, ids: &mut Ids, command: BatchJobCommand) -> Result<Transition, Rejection> {
        let retention = Duration::from_secs(RETENTION);
        let namespace =
            Namespace { id: NamespaceId([1; 16]), name: "default".into(), retention, ..Namespace::default() };
        let now = Time(0).plus(Duration::from_secs(self.now));
        decide(job, command, &mut Context { now, latest: now, namespace: &namespace, limits: &Limits::default(), ids })
    }

    fn describe(&mut self) -> DescribeBatchOperationResponse {
        match self.ask(BatchJobCommand::Describe) {
            Ok(Reply::BatchJob(described)) => *described,
            other => panic!("{other:?}"),
        }
    }

    fn state_and_counts(&mut self) -> (State, [i64; 3]) {
        let described = self.describe();
        let [(_, listed)] = &self.listed[..] else { panic!("it is listed once") };
        assert_eq!((listed.state, listed.close_time), (described.state, described.close_time));
        let counts =
            [described.total_operation_count, described.complete_operation_count, described.failure_operation_count];
        (described.state(), counts)
    }

    fn work(&mut self, command: BatchJobCommand) -> Option<Work> {
        match self.ask(command) {
            Ok(Reply::BatchWork(work)) => work.map(|work| *work),
            other => panic!("{other:?}"),
        }
    }

    fn resume(&mut self) -> Option<Work> {
        self.work(BatchJobCommand::Resume(self.current.unwrap_or_default()))
    }

    /// A page is done, and is said to be so twice.
    fn advance(&mut self, page: i64, [succeeded, failed]: [i64; 2], total: Option<i64>, next: Next) -> Option<Work> {
        let run_id = self.current.unwrap();
        let step = || {
            let next = next.clone();
            BatchJobCommand::Advance(Box::new(Advance { run_id, page, succeeded, failed, total, next }))
        };
        let work = self.work(step());
        let before = self.state_and_counts();
        assert_eq!(self.work(step()), work);
        assert_eq!(self.state_and_counts(), before, "a page counts once");
        work
    }

    fn stop(&mut self) -> Result<Reply, Rejection> {
        let request = StopBatchOperationRequest {
            reason: "enough".into(),
            identity: "other".into(),
            ..StopBatchOperationRequest::default()
        };
        self.ask(BatchJobCommand::Stop(Box::new(request)))
    }
}

#[test]
fn a_job_goes_page_by_page_to_its_end() {
    let mut world = World::started();
    assert!(world.is_worked_on);
    assert_eq!(world.state_and_counts(), (State::Running, [0, 0, 0]));
    let first = world.resume().unwrap();
    assert_eq!((first.request.clone(), first.page), (request(), Page::default()));

    let work = world.advance(0, [0, 0], Some(3), Next::Page(page(&["a", "b"], "more"))).unwrap();
    assert_eq!(work.page, Page { number: 1, ..page(&["a", "b"], "more") });
    assert_eq!(world.state_and_counts(), (State::Running, [3, 0, 0]));
    assert_eq!(world.resume(), Some(work), "whoever goes on has the same page");

    let work = world.advance(1, [1, 1], None, Next::Page(page(&["c"], ""))).unwrap();
    assert_eq!(work.page, Page { number: 2, ..page(&["c"], "") });
    assert_eq!(world.state_and_counts(), (State::Running, [3, 1, 1]));

    world.now += 5;
    // One of them has gone since they were counted.
    assert_eq!(world.advance(2, [0, 0], None, Next::Completed), None);
    assert!(!world.is_worked_on);
    assert_eq!(world.state_and_counts(), (State::Completed, [2, 1, 1]));
    assert_eq!(world.resume(), None);

    let described = world.describe();
    assert_eq!(described.operation_type(), BatchOperationType::TerminateWorkflow);
    assert_eq!((&*described.job_id, &*described.identity, &*described.reason), ("job", "me", "why"));
    assert_eq!(described.query, "WorkflowType = 'T'");
    let seconds = |time: Option<everlog_proto::wkt::Timestamp>| time.map(|time| time.seconds);
    assert_eq!((seconds(described.start_time), seconds(described.close_time)), (Some(1_000), Some(1_005)));
}

#[test]
fn a_job_that_is_stopped_keeps_what_it_has_counted() {
    let mut world = World::started();
    world.advance(0, [0, 0], Some(9), Next::Page(page(&["a"], "more")));
    world.advance(1, [1, 0], None, Next::Page(page(&["b"], "more")));
    assert!(matches!(world.stop(), Ok(Reply::Done)));
    assert!(!world.is_worked_on);
    assert_eq!(world.state_and_counts(), (State::Failed, [9, 1, 0]));
    assert_eq!(world.describe().reason, "why", "Temporal shows why it was started");
    // What was on its way then is not counted.
    assert_eq!(world.advance(2, [1, 0], None, Next::Completed), None);
    assert_eq!(world.state_and_counts(), (State::Failed, [9, 1, 0]));
    assert_eq!(world.stop().unwrap_err(), Rejection::workflow_completed());
}

#[test]
fn a_job_whose_list_cannot_be_read_fails() {
    let mut world = World::started();
    assert_eq!(world.advance(0, [0, 0], None, Next::Failed("invalid query".into())), None);
    assert_eq!(world.state_and_counts(), (State::Failed, [0, 0, 0]));
    assert!(!world.is_worked_on);
}

#[test]
fn an_id_is_taken_until_the_job_is_forgotten() {
    let mut world = World::started();
    let again = || BatchJobCommand::Start(Box::new(request()));
    let told = |world: &mut World| match world.ask(again()) {
        Err(Rejection::AlreadyStarted { message, run_id, .. }) => message.replace(&run_id, "RUN"),
        other => panic!("{other:?}"),
    };
    assert_eq!(told(&mut world), "Workflow execution is already running. WorkflowId: job, RunId: RUN.");
    world.stop().unwrap();
    assert_eq!(
        told(&mut world),
        "Workflow execution already finished. WorkflowId: job, RunId: RUN. \
         Workflow Id reuse policy: reject duplicate workflow Id."
    );
    world.now += RETENTION;
    world.ask(BatchJobCommand::Wake).unwrap();
    assert!(!world.job.exists());
    assert!(matches!(world.ask(again()), Ok(Reply::Done)));
}

#[test]
fn a_new_lead_hears_of_a_job_that_runs() {
    let mut world = World::started();
    world.is_worked_on = false;
    assert!(world.wakes.first().is_some_and(|wake| *wake <= Time(0).plus(Duration::from_secs(world.now)).0));
    world.ask(BatchJobCommand::Wake).unwrap();
    assert!(world.is_worked_on);
    assert_eq!(world.job.next_look(), None, "who leads already has heard of it");
}

#[test]
fn a_closed_job_is_kept_for_the_retention() {
    let mut world = World::started();
    world.stop().unwrap();
    let (_, look) = world.job.next_look().unwrap();
    assert_eq!(look, Time(0).plus(Duration::from_secs(1_000 + RETENTION)));
    world.now += RETENTION - 1;
    world.ask(BatchJobCommand::Wake).unwrap();
    assert!(world.job.exists());
    world.now += 1;
    world.ask(BatchJobCommand::Wake).unwrap();
    assert!(!world.job.exists());
    assert_eq!(world.ask(BatchJobCommand::Describe).unwrap_err(), Rejection::workflow_not_found());
}

#[test]
fn a_deleted_job_is_worked_on_no_more() {
    let mut world = World::started();
    let run_id = world.current.unwrap();
    world.ask(BatchJobCommand::Delete).unwrap();
    assert!(!world.is_worked_on);
    let step = Advance { run_id, page: 0, succeeded: 1, failed: 0, total: None, next: Next::Completed };
    assert_eq!(world.work(BatchJobCommand::Advance(Box::new(step))), None);
    assert_eq!(world.stop().unwrap_err(), Rejection::workflow_not_found());
}

#[test]
fn work_on_an_earlier_job_of_the_same_id_does_not_count() {
    let mut world = World::started();
    let earlier = world.current.unwrap();
    world.ask(BatchJobCommand::Delete).unwrap();
    world.ask(BatchJobCommand::Start(Box::new(request()))).unwrap();
    let step = Advance { run_id: earlier, page: 0, succeeded: 1, failed: 0, total: Some(1), next: Next::Completed };
    assert_eq!(world.work(BatchJobCommand::Advance(Box::new(step))), None);
    assert_eq!(world.work(BatchJobCommand::Resume(earlier)), None);
    assert_eq!(world.state_and_counts(), (State::Running, [0, 0, 0]));
}
