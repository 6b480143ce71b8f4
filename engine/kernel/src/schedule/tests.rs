//! What schedules do, command by command.

use std::time::Duration;

use everlog_proto::api::common::v1::{Payload, Payloads, WorkflowType};
use everlog_proto::api::enums::v1::{ScheduleOverlapPolicy as Policy, WorkflowExecutionStatus as Status};
use everlog_proto::api::failure::v1::Failure;
use everlog_proto::api::schedule::v1::schedule_action::Action;
use everlog_proto::api::schedule::v1::{
    BackfillRequest, IntervalSpec, Schedule as Definition, ScheduleAction, ScheduleInfo, SchedulePatch,
    SchedulePolicies, ScheduleSpec, ScheduleState, TriggerImmediatelyRequest,
};
use everlog_proto::api::workflow::v1::NewWorkflowExecutionInfo;
use everlog_proto::wkt;

use super::*;
use crate::command::Reply;
use crate::outbox::{EndScheduled, MessageBody, ScheduledClosed};
use crate::rows::{RowKey, RunRowKind};
use crate::transition::{Effect, Transition};
use crate::{Context, Ids, Limits, Namespace, NamespaceId, Rejection, Time};

const HOUR: i64 = 3600;
/// A whole hour.
const BEGIN: i64 = 1_790_000_000 / HOUR * HOUR;

/// A schedule, the time, and the messages that it has sent.
struct World {
    schedule: Schedule,
    now: i64,
    sent: Vec<OutboxMessage>,
    wakes: std::collections::BTreeSet<i64>,
    rows: ScheduleRows,
    ids: Ids,
}

/// What must be the same however a schedule came into memory. Maps in messages have no order.
fn shape(decided: &Result<Transition, Rejection>) -> String {
    match decided {
        Ok(Transition { reply, rows, effects }) => format!("{reply:?} {rows:?} {}", effects.len()),
        Err(rejection) => format!("{rejection:?}"),
    }
}

fn seconds(seconds: i64) -> Option<wkt::Duration> {
    Some(wkt::Duration { seconds, nanos: 0 })
}

fn hourly() -> Definition {
    let start = NewWorkflowExecutionInfo {
        workflow_id: "w".into(),
        workflow_type: Some(WorkflowType { name: "t".into() }),
        ..NewWorkflowExecutionInfo::default()
    };
    Definition {
        spec: Some(ScheduleSpec {
            interval: vec![IntervalSpec { interval: seconds(HOUR), phase: None }],
            ..ScheduleSpec::default()
        }),
        action: Some(ScheduleAction { action: Some(Action::StartWorkflow(start)) }),
        ..Definition::default()
    }
}

fn with(policy: Policy) -> Definition {
    let policies = SchedulePolicies { overlap_policy: policy.into(), ..SchedulePolicies::default() };
    Definition { policies: Some(policies), ..hourly() }
}

impl World {
    fn new(definition: Definition) -> World {
        World::patched(definition, None)
    }

    fn patched(definition: Definition, initial_patch: Option<SchedulePatch>) -> World {
        let mut world = World {
            schedule: Schedule::new("s"),
            now: BEGIN + 60,
            sent: Vec::new(),
            wakes: Default::default(),
            rows: ScheduleRows::default(),
            ids: Ids::new(7),
        };
        let request = CreateScheduleRequest {
            schedule: Some(definition),
            request_id: "create".into(),
            initial_patch,
            ..CreateScheduleRequest::default()
        };
        world.ask(ScheduleCommand::Create(Box::new(request))).unwrap();
        world
    }

    /// Decides a command, twice: the second time on what the rows say. Both must come to the same.
    fn ask(&mut self, command: ScheduleCommand) -> Result<Reply, Rejection> {
        let again = self.read();
        let ids = self.ids.clone();
        let transition = self.decide(command.clone());
        if let Some(mut again) = again {
            std::mem::swap(&mut self.schedule, &mut again);
            self.ids = ids;
            let repeated = self.decide(command);
            assert_eq!(shape(&repeated), shape(&transition));
        }
        let Transition { reply, rows, effects } = transition?;
        for (key, value) in rows {
            match key {
                RowKey::Wake(time, _) if value.is_some() => drop(self.wakes.insert(time.0)),
                RowKey::Wake(time, _) => assert!(self.wakes.remove(&time.0), "a wake that is there"),
                RowKey::Run(_, row) => match row.kind {
                    RunRowKind::Schedule => self.rows.made_of = value,
                    RunRowKind::ScheduleProgress => self.rows.progress = value,
                    RunRowKind::ScheduleCarried => self.rows.carried = value,
                    kind => panic!("a row of {}", kind.name()),
                },
                RowKey::WholeRun(_) => self.rows = ScheduleRows::default(),
                RowKey::HistoryFrom(..) => panic!("a schedule has no history"),
                RowKey::Current | RowKey::Visibility(_) | RowKey::Task(_) => {}
            }
        }
        for effect in effects {
            let Effect::Send(message) = effect else { panic!("{effect:?}") };
            assert_eq!(OutboxMessage::from_row(&message.to_row()).unwrap(), *message);
            self.sent.push(*message);
        }
        match self.schedule.next_look() {
            Some((_, look)) => assert!(self.wakes.first().is_some_and(|wake| *wake <= look.0), "it is woken in time"),
            None => assert!(self.wakes.len() <= 1),
        }
        reply
    }

    fn read(&self) -> Option<Schedule> {
        let (run_id, _) = self.schedule.next_look()?;
        self.rows.progress.as_ref()?;
        Some(Schedule::from_rows("s", run_id, self.rows.clone()).unwrap())
    }

    fn decide(&mut self, command: ScheduleCommand) -> Result<Transition, Rejection> {
        let namespace = Namespace {
            id: NamespaceId([1; 16]),
            name: "default".into(),
            retention: Duration::ZERO,
            ..Namespace::default()
        };
        let limits = Limits::default();
        let now = Time(self.now * 1_000_000_000);
        let mut context = Context { now, latest: now, namespace: &namespace, limits: &limits, ids: &mut self.ids };
        decide(&mut self.schedule, command, &mut context)
    }

    /// Goes on to a time, and wakes the schedule whenever it wants to be.
    fn go_to(&mut self, second: i64) {
        for _ in 0..10_000 {
            match self.schedule.next_look() {
                Some((_, look)) if look.0 <= second * 1_000_000_000 => {
                    self.now = self.now.max((look.0 + 999_999_999) / 1_000_000_000);
                    self.ask(ScheduleCommand::Wake).unwrap();
                }
                _ => {
                    self.now = second;
                    return;
                }
            }
        }
        panic!("it wakes without end");
    }

    fn patch(&mut self, patch: SchedulePatch) {
        let request = PatchScheduleRequest { patch: Some(patch), ..PatchScheduleRequest::default() };
        self.ask(ScheduleCommand::Patch(Box::new(request))).unwrap();
    }

    fn trigger(&mut self, policy: Policy) {
        let trigger = TriggerImmediatelyRequest { overlap_policy: policy.into(), scheduled_time: None };
        self.patch(SchedulePatch { trigger_immediately: Some(trigger), ..SchedulePatch::default() });
    }

    /// Starts that were sent, as the hours behind the beginning that their ids name, settled with `outcome`.
    fn arrive_as(&mut self, outcome: Outcome) -> Vec<String> {
        let mut starts = Vec::new();
        for message in std::mem::take(&mut self.sent) {
            let MessageBody::StartScheduled(_) = &message.body else {
                self.sent.push(message);
                continue;
            };
            starts.push(message.target_workflow_id.clone());
            let settle =
                || ScheduleCommand::Settle { run_id: message.source_run_id, number: message.event_id, outcome };
            self.ask(settle()).unwrap();
            let before = self.info();
            self.ask(settle()).unwrap();
            assert_eq!(self.info(), before, "it is settled once");
        }
        starts
    }

    fn arrive(&mut self) -> usize {
        self.arrive_as(Outcome::Delivered).len()
    }

    /// How running workflows were asked to end: whether they are terminated.
    fn ends(&mut self) -> Vec<bool> {
        let is_end = |message: &OutboxMessage| match &message.body {
            MessageBody::EndScheduled(EndScheduled { terminates, .. }) => Some(*terminates),
            _ => None,
        };
        let ends = self.sent.iter().filter_map(is_end).collect();
        self.sent.retain(|message| is_end(message).is_none());
        ends
    }

    fn close(&mut self, status: Status) {
        let running = self.info().running_workflows.remove(0);
        self.close_run(&running.workflow_id, &running.run_id, status);
    }

    fn close_run(&mut self, workflow_id: &str, run_id: &str, status: Status) {
        let payload = Payload { data: b"7".into(), ..Payload::default() };
        let closed = ScheduledClosed {
            first_run_id: run_id.to_owned(),
            status: status.into(),
            result: (status == Status::Completed).then(|| Payloads { payloads: vec![payload] }),
            failure: (status == Status::Failed).then(|| Failure { message: "broken".into(), ..Failure::default() }),
        };
        let message = OutboxMessage {
            namespace_id: NamespaceId([1; 16]),
            source_workflow_id: workflow_id.to_owned(),
            source_run_id: RunId([9; 16]),
            origin_run_id: None,
            event_id: 5,
            sent: Time(self.now * 1_000_000_000),
            target_workflow_id: "s".into(),
            target_run_id: None,
            body: MessageBody::ScheduledClosed(Box::new(closed)),
        };
        for _ in 0..2 {
            self.ask(ScheduleCommand::Hear(Box::new(message.clone()))).unwrap();
        }
    }

    fn described(&mut self) -> everlog_proto::api::workflowservice::v1::DescribeScheduleResponse {
        match self.ask(ScheduleCommand::Describe) {
            Ok(Reply::Schedule(described, _)) => *described,
            other => panic!("{other:?}"),
        }
    }

    fn info(&mut self) -> ScheduleInfo {
        self.described().info.unwrap()
    }

    fn state(&mut self) -> ScheduleState {
        self.described().schedule.unwrap().state.unwrap()
    }
}

fn hour(number: i64) -> i64 {
    BEGIN + number * HOUR
}

#[test]
fn each_time_has_its_workflow() {
    let mut world = World::new(hourly());
    world.go_to(hour(1));
    let starts = world.arrive_as(Outcome::Delivered);
    assert_eq!(starts.len(), 1);
    assert!(starts[0].starts_with("w-20") && starts[0].ends_with("00:00Z"), "{starts:?}");
    let info = world.info();
    assert_eq!((info.action_count, info.running_workflows.len(), info.recent_actions.len()), (1, 1, 1));
    assert_eq!(info.recent_actions[0].start_workflow_status(), Status::Running);
    world.close(Status::Completed);
    let info = world.info();
    assert_eq!((info.running_workflows.len(), info.recent_actions[0].start_workflow_status()), (0, Status::Completed));
    assert_eq!(info.future_action_times.len(), 10);
    assert_eq!(info.future_action_times[0].seconds, hour(2));
    world.go_to(hour(2));
    let MessageBody::StartScheduled(start) = &world.sent[0].body else { panic!() };
    let request = start.request.as_ref().unwrap();
    assert!(request.last_completion_result.is_some() && request.continued_failure.is_none());
    assert_eq!(request.identity, "temporal-scheduler-default-s");
    let attributes = &request.search_attributes.as_ref().unwrap().indexed_fields;
    assert_eq!(attributes["TemporalScheduledById"].data, b"\"s\"");
}

#[test]
fn an_id_is_kept_where_the_policies_say_so() {
    let policies = SchedulePolicies { keep_original_workflow_id: true, ..SchedulePolicies::default() };
    let mut world = World::new(Definition { policies: Some(policies), ..hourly() });
    world.go_to(hour(1));
    assert_eq!(world.arrive_as(Outcome::Delivered), ["w"]);
}

/// What is started at the first hour runs on; what of three more, and what happens when it ends.
#[test]
fn overlap_policies() {
    for (policy, started, skipped, buffered, ends, after) in [
        (Policy::Skip, 0, 3, 0, vec![], 0),
        (Policy::BufferOne, 0, 2, 1, vec![], 1),
        (Policy::BufferAll, 0, 0, 3, vec![], 1),
        (Policy::CancelOther, 0, 0, 3, vec![false], 1),
        (Policy::TerminateOther, 0, 0, 3, vec![true], 1),
        (Policy::AllowAll, 3, 0, 0, vec![], 0),
    ] {
        let mut world = World::new(with(policy));
        world.go_to(hour(1));
        assert_eq!(world.arrive(), 1, "{policy:?}");
        world.go_to(hour(4));
        assert_eq!(world.ends(), ends, "{policy:?}: once, however often");
        assert_eq!(world.arrive(), started, "{policy:?}");
        let info = world.info();
        assert_eq!((info.overlap_skipped, info.buffer_size), (skipped, buffered), "{policy:?}");
        if policy == Policy::AllowAll {
            assert_eq!(info.running_workflows, [], "they are not waited for");
            continue;
        }
        world.close(Status::Completed);
        assert_eq!(world.arrive(), after, "{policy:?}");
    }
}

#[test]
fn a_start_that_something_stands_in_the_way_of_is_no_action() {
    let mut world = World::new(hourly());
    world.go_to(hour(1));
    world.arrive_as(Outcome::AlreadyExists);
    let info = world.info();
    assert_eq!((info.action_count, info.running_workflows.len()), (0, 0));
    world.go_to(hour(2));
    assert_eq!(world.arrive(), 1);
}

#[test]
fn an_end_that_comes_first_proves_the_start() {
    let mut world = World::new(hourly());
    world.go_to(hour(1));
    let (workflow_id, run_id) = (world.sent[0].target_workflow_id.clone(), world.sent[0].target_run_id.unwrap());
    world.close_run(&workflow_id, &run_id.to_string(), Status::Terminated);
    let info = world.info();
    assert_eq!((info.action_count, info.running_workflows.len()), (1, 0));
    assert_eq!(info.recent_actions[0].start_workflow_status(), Status::Terminated);
    world.arrive();
    assert_eq!(world.info(), info);
}

#[test]
fn pauses_and_limits() {
    let state = ScheduleState { limited_actions: true, remaining_actions: 2, ..ScheduleState::default() };
    let mut world = World::new(Definition { state: Some(state), ..with(Policy::AllowAll) });
    assert_eq!(world.info().future_action_times.len(), 2);
    world.patch(SchedulePatch { pause: "not now".into(), ..SchedulePatch::default() });
    world.go_to(hour(3));
    assert_eq!((world.arrive(), world.state().notes), (0, "not now".into()));
    assert_eq!(world.info().future_action_times[0].seconds, hour(4), "what passes is not made up for");
    world.patch(SchedulePatch { unpause: "go on".into(), ..SchedulePatch::default() });
    world.go_to(hour(9));
    assert_eq!((world.arrive(), world.state().remaining_actions), (2, 0));
    assert_eq!(world.info().future_action_times, []);
    world.trigger(Policy::Unspecified);
    assert_eq!((world.arrive(), world.state().remaining_actions), (1, 0), "what is asked for is not limited");
    assert_eq!(world.described().conflict_token, token(5));
    world.go_to(world.now + 7 * 24 * HOUR);
    assert!(!world.schedule.exists(), "it has nothing more to do");
}

#[test]
fn pauses_on_failure() {
    let policies = SchedulePolicies { pause_on_failure: true, ..SchedulePolicies::default() };
    for (status, notes) in [
        (Status::Failed, Some("paused due to workflow failure: ID: broken")),
        (Status::TimedOut, Some("paused due to workflow timeout: ID")),
        (Status::Canceled, None),
        (Status::Terminated, None),
        (Status::Completed, None),
    ] {
        let mut world = World::new(Definition { policies: Some(policies), ..hourly() });
        world.go_to(hour(1));
        let id = world.sent[0].target_workflow_id.clone();
        world.arrive();
        world.close(status);
        let expected = notes.map(|notes| notes.replace("ID", &id)).unwrap_or_default();
        assert_eq!((world.state().paused, world.state().notes), (notes.is_some(), expected), "{status:?}");
    }
}

#[test]
fn what_was_missed_is_made_up_for_within_the_window() {
    let policies = SchedulePolicies {
        overlap_policy: Policy::AllowAll.into(),
        catchup_window: seconds(2 * HOUR),
        ..SchedulePolicies::default()
    };
    let mut world = World::new(Definition { policies: Some(policies), ..hourly() });
    // Nobody has woken it for ten hours.
    world.now = hour(10) + 1;
    world.ask(ScheduleCommand::Wake).unwrap();
    assert_eq!((world.arrive(), world.info().missed_catchup_window), (2, 8));
    world.go_to(hour(11));
    assert_eq!((world.arrive(), world.info().missed_catchup_window), (1, 8), "counted once");
}

#[test]
fn long_absences_are_made_up_for_bit_by_bit() {
    let mut world = World::new(with(Policy::BufferAll));
    world.now = hour(2000);
    world.go_to(hour(2000));
    let info = world.info();
    assert_eq!((info.buffer_size, info.buffer_dropped), (1000, 999));
    assert_eq!(world.arrive(), 1);
}

#[test]
fn backfills() {
    let mut world = World::new(hourly());
    let at = |hour: i64| Some(wkt::Timestamp { seconds: self::hour(hour), nanos: 0 });
    let backfill = BackfillRequest { start_time: at(-30), end_time: at(-1), overlap_policy: Policy::AllowAll.into() };
    world.patch(SchedulePatch { backfill_request: vec![backfill], ..SchedulePatch::default() });
    assert_eq!(world.arrive(), 10, "ten at a time");
    world.go_to(world.now + 5);
    assert_eq!(world.arrive(), 20, "both ends count");
    let info = world.info();
    assert_eq!((info.action_count, info.recent_actions.len()), (30, 10));
    assert_eq!(info.recent_actions[9].schedule_time, at(-1));
    world.go_to(hour(1));
    assert_eq!(world.arrive(), 1, "it goes on as before");
}

#[test]
fn requests_count_once_and_tokens_must_be_the_newest() {
    let trigger = TriggerImmediatelyRequest::default();
    let patch = SchedulePatch { trigger_immediately: Some(trigger), ..SchedulePatch::default() };
    let mut world = World::patched(with(Policy::AllowAll), Some(patch.clone()));
    assert_eq!(world.arrive(), 1, "the patch that it is created with");
    let create = |request_id: &str| {
        let request_id = request_id.to_owned();
        ScheduleCommand::Create(Box::new(CreateScheduleRequest { request_id, ..CreateScheduleRequest::default() }))
    };
    assert!(matches!(world.ask(create("create")), Ok(Reply::ScheduleToken(first)) if first == token(1)));
    let Err(Rejection::AlreadyStarted { message, .. }) = world.ask(create("other")) else { panic!() };
    assert_eq!(message, "schedule \"s\" is already registered");
    for request_id in ["a", "a", "b"] {
        let request_id = request_id.to_owned();
        let patch = Some(patch.clone());
        let request = PatchScheduleRequest { patch, request_id, ..PatchScheduleRequest::default() };
        world.ask(ScheduleCommand::Patch(Box::new(request))).unwrap();
    }
    assert_eq!(world.arrive(), 2);
    for (conflict_token, updates) in [(token(5), false), (token(1), true), (token(1), false), (Vec::new(), true)] {
        let before = world.described();
        let schedule = Some(with(Policy::BufferOne));
        let request = UpdateScheduleRequest { schedule, conflict_token, ..UpdateScheduleRequest::default() };
        world.now += 1;
        world.ask(ScheduleCommand::Update(Box::new(request))).unwrap();
        assert_eq!(world.described() != before, updates);
    }
    world.ask(ScheduleCommand::Delete).unwrap();
    assert!(world.wakes.is_empty() && world.ask(ScheduleCommand::Describe).is_err());
}

#[test]
fn an_update_does_not_act_for_times_before_it() {
    let mut world = World::new(hourly());
    world.go_to(hour(1) - 60);
    let mut definition = hourly();
    definition.spec.as_mut().unwrap().interval[0].interval = seconds(600);
    let request = UpdateScheduleRequest { schedule: Some(definition), ..UpdateScheduleRequest::default() };
    world.ask(ScheduleCommand::Update(Box::new(request))).unwrap();
    assert_eq!(world.arrive(), 0);
    assert_eq!(world.info().future_action_times[0].seconds, hour(1));
    world.go_to(hour(1));
    assert_eq!(world.arrive(), 1);
}

/// What an idle schedule takes, in its rows and in lists.
#[test]
fn an_idle_schedule_is_small() {
    let mut world = World::new(hourly());
    let progress = world.rows.progress.clone().unwrap().len();
    let made_of = world.rows.made_of.clone().unwrap().len();
    let listed = world.decide(ScheduleCommand::Wake).unwrap().rows;
    let listed = listed.iter().find_map(|(key, value)| match key {
        RowKey::Visibility(_) => value.as_ref(),
        _ => None,
    });
    let bytes = progress + made_of + listed.unwrap().len();
    assert!(bytes < 700, "{progress} + {made_of} + {}", listed.unwrap().len());
}
