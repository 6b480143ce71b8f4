//! What activities do, command by command: each is decided on memory and on rows.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use everlog_proto::api::activity::v1::{ActivityExecutionInfo, activity_execution_outcome::Value};
use everlog_proto::api::common::v1::{ActivityType, Payload, Payloads, RetryPolicy};
use everlog_proto::api::enums::v1::{
    ActivityExecutionStatus as Shown, ActivityIdConflictPolicy, ActivityIdReusePolicy, PendingActivityState, RetryState,
};
use everlog_proto::api::failure::v1::failure::FailureInfo;
use everlog_proto::api::failure::v1::{ApplicationFailureInfo, Failure};
use everlog_proto::api::taskqueue::v1::TaskQueue;
use everlog_proto::api::workflowservice::v1::{
    DescribeActivityExecutionResponse, PollActivityTaskQueueResponse, StartActivityExecutionRequest,
};

use super::*;
use crate::command::{ActivityRef, Heartbeat, Reply, StartActivityTask};
use crate::rows::{RowKey, RunRowKind};
use crate::state::Current;
use crate::task::{TaskKey, TaskRow};
use crate::token;
use crate::transition::{Effect, Task, Transition, VisibilityKey};
use crate::{Context, EntityKind, Ids, Limits, Namespace, NamespaceId, Rejection, RunId, Time, time};
use ActivityExecutionCommand as C;

const RETENTION: u64 = 100;

/// An id with the rows of its activities, and a clock in seconds.
struct World {
    executions: ActivityExecutions,
    now: u64,
    rows: BTreeMap<RunId, ActivityExecutionRows>,
    current: Option<RunId>,
    wakes: BTreeSet<(i64, RunId)>,
    tasks: Vec<(TaskKey, i32)>,
    listed: Vec<VisibilityKey>,
    offered: Vec<Task>,
    ids: Ids,
}

fn seconds(seconds: u64) -> Option<everlog_proto::wkt::Duration> {
    Some(time::to_proto(Duration::from_secs(seconds)))
}

fn request() -> StartActivityExecutionRequest {
    StartActivityExecutionRequest {
        activity_id: "a".into(),
        activity_type: Some(ActivityType { name: "T".into() }),
        task_queue: Some(TaskQueue { name: "q".into(), ..TaskQueue::default() }),
        schedule_to_close_timeout: seconds(60),
        start_to_close_timeout: seconds(10),
        request_id: "first".into(),
        ..StartActivityExecutionRequest::default()
    }
}

fn payloads(data: &str) -> Option<Payloads> {
    Some(Payloads { payloads: vec![Payload { data: data.into(), ..Payload::default() }] })
}

fn application_failure(message: &str) -> Option<Box<Failure>> {
    let info = FailureInfo::ApplicationFailureInfo(ApplicationFailureInfo::default());
    Some(Box::new(Failure { message: message.into(), failure_info: Some(info), ..Failure::default() }))
}

impl World {
    fn new() -> World {
        World {
            executions: ActivityExecutions::new("a"),
            now: 1_000,
            rows: BTreeMap::new(),
            current: None,
            wakes: BTreeSet::new(),
            tasks: Vec::new(),
            listed: Vec::new(),
            offered: Vec::new(),
            ids: Ids::new(7),
        }
    }

    fn started(request: StartActivityExecutionRequest) -> World {
        let mut world = World::new();
        assert!(matches!(world.start(request), Ok((_, true))));
        world
    }

    fn start(&mut self, request: StartActivityExecutionRequest) -> Result<(RunId, bool), Rejection> {
        match self.ask(C::Start(Box::new(ValidActivityStart::new(request, &Limits::default())?)))? {
            Reply::ActivityExecutionStarted(run_id, started) => Ok((run_id, started)),
            other => panic!("{other:?}"),
        }
    }

    fn ask(&mut self, command: C) -> Result<Reply, Rejection> {
        self.ask_of(None, command)
    }

    fn ask_of(&mut self, run_id: Option<RunId>, command: C) -> Result<Reply, Rejection> {
        let (mut read, mut ids) = (self.read(), self.ids.clone());
        let of_rows = self.decide(&mut read, &mut ids, run_id, command.clone());
        let (mut executions, mut ids) = (std::mem::take(&mut self.executions), self.ids.clone());
        let decided = self.decide(&mut executions, &mut ids, run_id, command);
        assert_eq!(format!("{decided:?}"), format!("{of_rows:?}"), "memory says what the rows say");
        (self.executions, self.ids) = (executions, ids);
        let Transition { reply, rows, effects } = decided?;
        for (key, value) in rows {
            match key {
                RowKey::Current => self.current = value.map(|row| Current::from_row(&row).unwrap().run_id),
                RowKey::Wake(time, run_id) if value.is_some() => assert!(self.wakes.insert((time.0, run_id))),
                RowKey::Wake(time, run_id) => assert!(self.wakes.remove(&(time.0, run_id)), "a wake that is there"),
                RowKey::Run(run_id, row) => {
                    let rows = self.rows.entry(run_id).or_default();
                    match row.kind {
                        RunRowKind::ActivityExecution => rows.asked = value,
                        RunRowKind::Activity => rows.activity = value,
                        RunRowKind::ActivityExecutionProgress => rows.progress = value,
                        kind => panic!("{kind:?}"),
                    }
                }
                RowKey::WholeRun(run_id) => drop(self.rows.remove(&run_id)),
                RowKey::Task(key) => {
                    self.tasks.retain(|(found, _)| *found != key);
                    let attempt = value.map(|row| TaskRow::from_row(&row).unwrap().attempt);
                    self.tasks.extend(attempt.map(|attempt| (key, attempt)));
                }
                RowKey::Visibility(key) => {
                    self.listed.retain(|listed| *listed != key);
                    self.listed.extend(value.map(|_| key));
                }
                key => panic!("{key:?}"),
            }
        }
        for effect in effects {
            let Effect::OfferTask(task) = effect else { panic!("{effect:?}") };
            assert_eq!(task.entity, EntityKind::Activity);
            assert!(self.tasks.contains(&(task.key.clone(), task.attempt)), "what is offered has its row");
            self.offered.push(task);
        }
        assert_eq!(self.listed.len(), self.rows.len(), "each is listed once");
        assert_eq!(self.tasks.len(), self.executions.runs.values().filter(|run| run.task_row.is_some()).count());
        reply
    }

    fn read(&self) -> ActivityExecutions {
        ActivityExecutions::from_rows("a", self.current, self.rows.clone().into_iter().collect()).unwrap()
    }

    fn decide(
        &self,
        executions: &mut ActivityExecutions,
        ids: &mut Ids,
        run_id: Option<RunId>,
        command: C,
    ) -> Result<Transition, Rejection> {
        let retention = Duration::from_secs(RETENTION);
        let namespace =
            Namespace { id: NamespaceId([1; 16]), name: "default".into(), retention, ..Namespace::default() };
        let now = Time(0).plus(Duration::from_secs(self.now));
        let mut ctx = Context { now, latest: now, namespace: &namespace, limits: &Limits::default(), ids };
        decide(executions, run_id, command, &mut ctx)
    }

    /// Lets time pass, and everything happen that is due by then, when it is.
    fn pass(&mut self, seconds: u64) {
        let until = self.now + seconds;
        while let Some((due, run_id)) = self.wakes.first().copied() {
            let due = due.unsigned_abs().div_ceil(1_000_000_000);
            if due > until {
                break;
            }
            self.now = self.now.max(due);
            self.ask_of(Some(run_id), C::Wake).unwrap();
        }
        self.now = until;
    }

    /// A worker takes the task that was offered last.
    fn take(&mut self) -> PollActivityTaskQueueResponse {
        let task = self.offered.last().cloned().expect("a task is offered");
        let start = StartActivityTask {
            scheduled_event_id: task.key.position.scheduled_event_id,
            attempt: task.attempt,
            key: Some(Box::new(task.key)),
            identity: "worker".into(),
            request_id: format!("poll {}", self.now),
            sdk: ("sdk".into(), "1".into()),
            deployment_version: None,
        };
        match self.ask(C::OfWorker(Box::new(RunCommand::StartActivityTask(start)))) {
            Ok(Reply::ActivityTaskStarted(response)) => *response,
            other => panic!("{other:?}"),
        }
    }

    fn is_ready(&self) -> bool {
        !self.tasks.is_empty()
    }

    fn complete(&mut self, activity: ActivityRef) -> Result<Reply, Rejection> {
        let (result, identity) = (payloads("done"), "worker".to_owned());
        self.ask(C::OfWorker(Box::new(RunCommand::CompleteActivity {
            activity,
            result,
            identity,
            worker_version: None,
        })))
    }

    fn fail(&mut self, activity: ActivityRef, message: &str) -> Result<Reply, Rejection> {
        let failure = application_failure(message);
        let (identity, worker_version) = ("worker".to_owned(), None);
        let last_heartbeat_details = None;
        let command = RunCommand::FailActivity { activity, failure, last_heartbeat_details, identity, worker_version };
        self.ask(C::OfWorker(Box::new(command)))
    }

    fn heartbeat(&mut self, activity: ActivityRef) -> Heartbeat {
        let (details, identity) = (payloads("busy"), "worker".to_owned());
        match self.ask(C::OfWorker(Box::new(RunCommand::HeartbeatActivity { activity, details, identity }))) {
            Ok(Reply::Heartbeat(heartbeat)) => heartbeat,
            other => panic!("{other:?}"),
        }
    }

    fn describe(&mut self) -> DescribeActivityExecutionResponse {
        let request = DescribeActivityExecutionRequest {
            include_outcome: true,
            include_last_failure: true,
            ..Default::default()
        };
        match self.ask(C::Describe(Box::new(request))) {
            Ok(Reply::ActivityExecution(described, _)) => *described,
            other => panic!("{other:?}"),
        }
    }

    fn info(&mut self) -> ActivityExecutionInfo {
        self.describe().info.unwrap()
    }

    fn state(&mut self) -> (Shown, PendingActivityState) {
        let info = self.info();
        (info.status(), info.run_state())
    }

    /// Why it has failed, and why there was no other attempt.
    fn failure(&mut self) -> (String, RetryState) {
        let outcome = self.describe().outcome.expect("it has ended");
        let retry_state = outcome.retry_state();
        match outcome.value {
            Some(Value::Failure(failure)) => (failure.message, retry_state),
            other => panic!("{other:?}"),
        }
    }
}

fn by_token(task: &PollActivityTaskQueueResponse) -> ActivityRef {
    ActivityRef::Token(token::decode(&task.task_token).unwrap())
}

fn by_id() -> ActivityRef {
    ActivityRef::Id("a".into())
}

const RUNNING: Shown = Shown::Running;

#[test]
fn one_is_attempted_and_completed() {
    let mut world = World::started(request());
    assert_eq!(world.state(), (RUNNING, PendingActivityState::Scheduled));
    let task = world.take();
    assert!(!world.is_ready());
    assert_eq!((&*task.activity_run_id, task.attempt), (&*world.current.unwrap().to_string(), 1));
    assert_eq!(world.state(), (RUNNING, PendingActivityState::Started));
    world.now += 2;
    world.complete(by_token(&task)).unwrap();
    let described = world.describe();
    assert!(
        matches!(described.outcome.unwrap().value, Some(Value::Result(result)) if Some(&result) == payloads("done").as_ref())
    );
    assert_eq!(described.info.unwrap().execution_duration, seconds(2));
    let again = world.complete(by_token(&task)).unwrap_err();
    assert_eq!(again, Rejection::activity_execution_not_found("a"));
    let again = world.complete(by_id()).unwrap_err();
    assert_eq!(again.to_string(), "invalid transition from Completed");
    world.pass(RETENTION - 1);
    assert_eq!(world.rows.len(), 1);
    world.pass(1);
    assert!(world.rows.is_empty() && world.current.is_none() && world.wakes.is_empty() && !world.executions.exists());
}

#[test]
fn one_is_attempted_again_until_its_time_is_over() {
    let mut world = World::started(request());
    let mut waits = Vec::new();
    while !matches!(world.state().0, Shown::Failed) {
        let task = world.take();
        let before = world.now;
        world.fail(by_token(&task), "no").unwrap();
        while world.state().0 == RUNNING && !world.is_ready() {
            world.pass(1);
        }
        waits.push(world.now - before);
    }
    assert_eq!(waits, [1, 2, 4, 8, 16, 0], "another one could begin after its time only");
    assert_eq!(world.failure(), ("no".to_owned(), RetryState::Timeout));
}

#[test]
fn attempts_time_out() {
    let policy = RetryPolicy { maximum_attempts: 2, ..RetryPolicy::default() };
    let mut world = World::started(StartActivityExecutionRequest { retry_policy: Some(policy), ..request() });
    let first = world.take();
    world.pass(9);
    world.heartbeat(by_token(&first));
    world.pass(2);
    assert!(world.is_ready(), "the next attempt waits for a worker");
    assert_eq!(world.complete(by_token(&first)).unwrap_err(), Rejection::activity_execution_not_found("a"));
    let second = world.take();
    assert_eq!(second.heartbeat_details, payloads("busy"));
    world.pass(10);
    assert_eq!(world.state().0, Shown::TimedOut);
    assert_eq!(world.failure(), ("activity StartToClose timeout".to_owned(), RetryState::MaximumAttemptsReached));
}

#[test]
fn nobody_takes_it_or_its_time_is_over() {
    let never_taken = StartActivityExecutionRequest { schedule_to_start_timeout: seconds(5), ..request() };
    let mut world = World::started(never_taken);
    world.pass(5);
    assert_eq!(world.failure(), ("activity ScheduleToStart timeout".to_owned(), RetryState::Timeout));
    let mut world = World::started(request());
    world.pass(60);
    // By then no attempt could have been begun any more, either; which of the two is looked at first.
    assert_eq!(world.failure().1, RetryState::Timeout);
    let heartbeats = StartActivityExecutionRequest { heartbeat_timeout: seconds(3), ..request() };
    let mut world = World::started(heartbeats);
    let task = world.take();
    world.pass(2);
    world.heartbeat(by_token(&task));
    world.pass(2);
    assert_eq!(world.state().1, PendingActivityState::Started);
    world.pass(1);
    assert_eq!(world.info().last_failure.unwrap().message, "activity Heartbeat timeout");
}

#[test]
fn a_first_attempt_can_be_put_off() {
    let mut world = World::started(StartActivityExecutionRequest { start_delay: seconds(30), ..request() });
    assert!(!world.is_ready());
    world.pass(29);
    assert!(!world.is_ready());
    world.pass(1);
    assert!(world.is_ready());
    world.pass(59);
    assert_eq!(world.state().0, RUNNING, "its time begins then");
    world.pass(1);
    assert_eq!(world.state().0, Shown::TimedOut);
}

#[test]
fn an_id_is_used_again_as_its_policies_say() {
    let again = |request_id: &str| StartActivityExecutionRequest { request_id: request_id.into(), ..request() };
    let mut world = World::started(request());
    let first = world.current.unwrap();
    assert_eq!(world.start(again("first")), Ok((first, false)), "a repeat");
    let Err(Rejection::ActivityAlreadyStarted { start_request_id, run_id }) = world.start(again("second")) else {
        panic!("one goes on");
    };
    assert_eq!((&*start_request_id, run_id), ("first", first.to_string()));
    let mut uses = again("second");
    uses.set_id_conflict_policy(ActivityIdConflictPolicy::UseExisting);
    assert_eq!(world.start(uses), Ok((first, false)));
    let task = world.take();
    world.complete(by_token(&task)).unwrap();
    let mut only_failed = again("second");
    only_failed.set_id_reuse_policy(ActivityIdReusePolicy::AllowDuplicateFailedOnly);
    assert!(world.start(only_failed.clone()).is_err(), "it was completed");
    let (second, started) = world.start(again("second")).unwrap();
    assert!(started && second != first && world.rows.len() == 2);
    world.ask(C::Terminate(Box::default())).unwrap();
    only_failed.request_id = "third".into();
    assert!(world.start(only_failed).unwrap().1, "that one was not");
    world.ask(C::Terminate(Box::default())).unwrap();
    let mut never = again("fourth");
    never.set_id_reuse_policy(ActivityIdReusePolicy::RejectDuplicate);
    assert!(world.start(never.clone()).is_err());
    world.ask_of(Some(second), C::Delete).unwrap();
    assert_eq!(world.rows.len(), 2);
    world.ask(C::Delete).unwrap();
    assert!(world.start(never).unwrap().1, "the last one is forgotten");
}

#[test]
fn one_is_canceled_at_once_or_when_its_worker_says_so() {
    let cancel = |request_id: &str| {
        let request_id = request_id.to_owned();
        C::RequestCancel(Box::new(RequestCancelActivityExecutionRequest {
            request_id,
            reason: "<why>".into(),
            identity: "me".into(),
            ..Default::default()
        }))
    };
    let mut world = World::started(request());
    world.ask(cancel("c")).unwrap();
    assert_eq!(world.state().0, Shown::Canceled);
    let Some(Value::Failure(failure)) = world.describe().outcome.unwrap().value else { panic!("it has failed") };
    let Some(FailureInfo::CanceledFailureInfo(info)) = failure.failure_info else { panic!("it was canceled") };
    assert_eq!(info.details.unwrap().payloads[0].data, br#""\u003cwhy\u003e""#);

    let mut world = World::started(request());
    let task = world.take();
    let obeys = || {
        let (activity, identity) = (by_token(&task), String::new());
        C::OfWorker(Box::new(RunCommand::CancelActivity { activity, details: None, identity, worker_version: None }))
    };
    assert!(matches!(world.ask(obeys()), Err(Rejection::InvalidArgument(_))), "nobody has asked for it");
    world.ask(cancel("c")).unwrap();
    assert!(matches!(world.ask(cancel("c")), Ok(Reply::Done)));
    assert_eq!(world.ask(cancel("d")).unwrap_err().to_string(), "cancellation already requested with request ID c");
    assert!(world.heartbeat(by_token(&task)).cancel_requested);
    world.ask(obeys()).unwrap();
    assert_eq!(world.state().0, Shown::Canceled);
    assert_eq!(world.ask(cancel("e")).unwrap_err().to_string(), "activity is in terminal state Canceled");
}

#[test]
fn one_that_is_paused_waits_and_still_times_out() {
    let pause = || C::Pause(Box::new(PauseActivityExecutionRequest { request_id: "p".into(), ..Default::default() }));
    let unpause = || C::Unpause(Box::default());
    let mut world = World::started(request());
    world.ask(pause()).unwrap();
    assert!(!world.is_ready());
    assert_eq!(world.state(), (Shown::Paused, PendingActivityState::Paused));
    world.ask(unpause()).unwrap();
    assert!(world.is_ready());
    let task = world.take();
    world
        .ask(C::Pause(Box::new(PauseActivityExecutionRequest { request_id: "q".into(), ..Default::default() })))
        .unwrap();
    assert_eq!(world.state(), (RUNNING, PendingActivityState::PauseRequested));
    assert!(world.heartbeat(by_token(&task)).activity_paused);
    world.fail(by_token(&task), "no").unwrap();
    assert_eq!(world.state(), (Shown::Paused, PendingActivityState::Paused));
    world.pass(30);
    assert!(!world.is_ready());
    world.pass(30);
    assert_eq!(world.state().0, Shown::TimedOut);
}

#[test]
fn attempts_are_counted_anew() {
    let reset = || C::Reset(Box::new(ResetActivityExecutionRequest { reset_heartbeat: true, ..Default::default() }));
    let mut world = World::started(request());
    let task = world.take();
    world.fail(by_token(&task), "no").unwrap();
    assert!(!world.is_ready());
    world.ask(reset()).unwrap();
    assert!(world.is_ready(), "it backs off no more");
    let task = world.take();
    assert_eq!(task.attempt, 1);
    world.heartbeat(by_token(&task));
    world.ask(reset()).unwrap();
    assert!(world.heartbeat(by_token(&task)).activity_reset);
    assert!(world.ask(reset()).unwrap_err().to_string().contains("pending reset"));
    world.fail(by_token(&task), "no").unwrap();
    let task = world.take();
    assert_eq!((task.attempt, task.heartbeat_details.clone()), (1, None));
    world.complete(by_token(&task)).unwrap();
    assert_eq!(world.ask(reset()).unwrap_err().to_string(), "activity execution is not running");
}

#[test]
fn options_are_changed_and_given_back() {
    let update = |paths: &[&str], options| {
        C::UpdateOptions(Box::new(UpdateActivityExecutionOptionsRequest {
            activity_options: Some(options),
            update_mask: Some(everlog_proto::wkt::FieldMask { paths: paths.iter().map(|p| (*p).to_owned()).collect() }),
            ..Default::default()
        }))
    };
    let mut world = World::started(request());
    let elsewhere = everlog_proto::api::activity::v1::ActivityOptions {
        task_queue: Some(TaskQueue { name: "r".into(), ..TaskQueue::default() }),
        start_to_close_timeout: seconds(20),
        ..Default::default()
    };
    world.ask(update(&["task_queue.name", "start_to_close_timeout"], elsewhere.clone())).unwrap();
    assert_eq!(world.tasks[0].0.task_queue, "r");
    assert_eq!(world.take().start_to_close_timeout, seconds(20));
    let restore = UpdateActivityExecutionOptionsRequest { restore_original: true, ..Default::default() };
    world.ask(C::UpdateOptions(Box::new(restore))).unwrap();
    assert_eq!((world.info().task_queue, world.info().start_to_close_timeout), ("q".into(), seconds(10)));
    assert!(
        world.ask(update(&["start_delay"], elsewhere)).unwrap_err().to_string().contains("already been dispatched")
    );
    world.pass(10);
    assert!(world.state().0 == RUNNING && world.info().attempt == 2, "the attempt has timed out by its old option");
}

#[test]
fn one_that_no_worker_has_can_be_completed_by_its_id_alone() {
    let mut world = World::started(request());
    assert!(world.fail(by_id(), "no").is_err());
    world.complete(by_id()).unwrap();
    assert_eq!(world.state().0, Shown::Completed);
    assert!(!world.is_ready());
}

#[test]
fn an_activity_that_is_ended_from_outside_is_so_once() {
    let terminate = |request_id: &str| {
        C::Terminate(Box::new(TerminateActivityExecutionRequest {
            request_id: request_id.into(),
            reason: "enough".into(),
            ..Default::default()
        }))
    };
    let mut world = World::started(request());
    let task = world.take();
    world.ask(terminate("t")).unwrap();
    assert_eq!(world.failure().0, "enough");
    assert!(world.ask(terminate("t")).is_ok());
    assert_eq!(world.ask(terminate("u")).unwrap_err().to_string(), "already terminated with request ID t");
    assert_eq!(world.complete(by_token(&task)).unwrap_err(), Rejection::activity_execution_not_found("a"));
}
