//! Slots that move between two partitions whose leads are lost at any point, by orders that come late and again.

use std::time::Duration;

use bytes::Bytes;
use everlog_kernel::command::{Objections, Reply};
use everlog_kernel::transition::TaskKind;
use everlog_kernel::{
    ActivityExecutionCommand, BatchJobCommand, EntityKind, Limits, NamespaceId, RunCommand, ScheduleCommand, Time,
    ValidActivityStart,
};
use everlog_model::{CallError, FormatVersion, SlotSet, Step, StepId, StepState, rows};
use everlog_proto::api::command::v1::command::Attributes;
use everlog_proto::api::command::v1::{
    Command as WorkflowCommand, ScheduleActivityTaskCommandAttributes,
    SignalExternalWorkflowExecutionCommandAttributes, StartTimerCommandAttributes,
};
use everlog_proto::api::common::v1::{ActivityType, WorkflowExecution, WorkflowType};
use everlog_proto::api::enums::v1::{CommandType, EventType};
use everlog_proto::api::schedule::v1::schedule_action::Action;
use everlog_proto::api::schedule::v1::{IntervalSpec, Schedule, ScheduleAction, ScheduleSpec};
use everlog_proto::api::taskqueue::v1::TaskQueue;
use everlog_proto::api::workflow::v1::NewWorkflowExecutionInfo;
use everlog_proto::api::workflowservice::v1::{
    CreateScheduleRequest, RespondWorkflowTaskCompletedRequest, SignalWorkflowExecutionRequest,
    StartActivityExecutionRequest,
};
use everlog_proto::wkt;
use everlog_storage::GroupId;
use everlog_storage::keys::{self, OutboxKey, WakeKey};
use everlog_storage::state::{Direction, Row};
use prost::Message;
use tokio::sync::mpsc;

use super::moves::{StepCommand, StepReply};
use super::test_partition::{Partition, TwinRows};
use crate::job::Work;
use crate::load::Rows;
use crate::moving::{self, Page};
use everlog_model::OperationId;

const NAMESPACE: NamespaceId = NamespaceId([7; 16]);

fn step_of(id: u64, slots: SlotSet, from: u32, to: u32) -> Step {
    Step { id: StepId(id), namespace_id: NAMESPACE, slots, from: GroupId(from), to: GroupId(to) }
}

/// All slots from the first partition to the second one.
fn step(id: u64) -> Step {
    step_of(id, SlotSet::all(), 1, 2)
}

/// Everything that moves: rows of entities, wakes, tasks, what lists show, messages.
fn everything(partition: &Partition) -> Vec<Row> {
    let lists = EntityKind::ALL.map(|kind| keys::visibility_range(&rows::listed_under(NAMESPACE, kind).0));
    let ranges = [keys::slot_range(0..keys::SLOTS), WakeKey::all(), keys::all_tasks(), OutboxKey::all()];
    let scan = |range| TwinRows(&partition.state).scan(range, Direction::Ascending, usize::MAX).unwrap();
    let mut found: Vec<Row> = ranges.into_iter().chain(lists).flat_map(scan).collect();
    found.sort();
    found
}

fn command(command_type: CommandType, attributes: Attributes) -> WorkflowCommand {
    WorkflowCommand { command_type: command_type as i32, attributes: Some(attributes), ..WorkflowCommand::default() }
}

fn seconds(seconds: i64) -> Option<wkt::Duration> {
    Some(wkt::Duration { seconds, nanos: 0 })
}

fn task_queue() -> Option<TaskQueue> {
    Some(TaskQueue { name: "q".to_owned(), ..TaskQueue::default() })
}

/// A partition with a workflow that waits for a timer, an activity and a message, and with one of each other kind of entity.
fn full() -> Partition {
    let mut partition = Partition::new();
    partition.start();
    partition.commit();
    let token = partition.start_task().unwrap();
    let timer = StartTimerCommandAttributes { timer_id: "t".to_owned(), start_to_fire_timeout: seconds(30) };
    let activity = ScheduleActivityTaskCommandAttributes {
        activity_id: "a".to_owned(),
        activity_type: Some(ActivityType { name: "A".to_owned() }),
        task_queue: task_queue(),
        start_to_close_timeout: seconds(60),
        ..ScheduleActivityTaskCommandAttributes::default()
    };
    let execution = WorkflowExecution { workflow_id: "other".to_owned(), run_id: String::new() };
    let signal = SignalExternalWorkflowExecutionCommandAttributes {
        execution: Some(execution),
        signal_name: "s".to_owned(),
        ..SignalExternalWorkflowExecutionCommandAttributes::default()
    };
    let commands = vec![
        command(CommandType::StartTimer, Attributes::StartTimerCommandAttributes(timer)),
        command(CommandType::ScheduleActivityTask, Attributes::ScheduleActivityTaskCommandAttributes(activity)),
        command(
            CommandType::SignalExternalWorkflowExecution,
            Attributes::SignalExternalWorkflowExecutionCommandAttributes(signal),
        ),
    ];
    partition.complete(&token, commands).unwrap();
    // A workflow task that is pending.
    partition.signal();
    partition.ask(BatchJobCommand::Start(Box::default()));
    let start = NewWorkflowExecutionInfo {
        workflow_id: "scheduled".to_owned(),
        workflow_type: Some(WorkflowType { name: "T".to_owned() }),
        task_queue: task_queue(),
        ..NewWorkflowExecutionInfo::default()
    };
    let every = IntervalSpec { interval: seconds(3600), phase: None };
    let schedule = Schedule {
        spec: Some(ScheduleSpec { interval: vec![every], ..ScheduleSpec::default() }),
        action: Some(ScheduleAction { action: Some(Action::StartWorkflow(start)) }),
        ..Schedule::default()
    };
    let create = CreateScheduleRequest {
        schedule: Some(schedule),
        request_id: "schedule".to_owned(),
        ..CreateScheduleRequest::default()
    };
    partition.ask(ScheduleCommand::Create(Box::new(create)));
    let request = StartActivityExecutionRequest {
        activity_id: "w".to_owned(),
        activity_type: Some(ActivityType { name: "T".to_owned() }),
        task_queue: task_queue(),
        start_to_close_timeout: seconds(60),
        request_id: "activity".to_owned(),
        ..Default::default()
    };
    let start = ValidActivityStart::new(request, &Limits::default()).unwrap();
    partition.ask(ActivityExecutionCommand::Start(Box::new(start)));
    partition.commit();
    let kinds: Vec<u8> =
        everything(&partition).iter().filter(|(key, _)| key[0] == 1).map(|(key, _)| key[2] & 15).collect();
    assert!((0..4).all(|kind| kinds.contains(&kind)), "each kind of entity is there: {kinds:?}");
    partition
}

fn time(reply: Result<StepReply, CallError>) -> Time {
    match reply.unwrap() {
        StepReply::Time(time) => time,
        reply => panic!("{reply:?}"),
    }
}

/// Copies a frozen step, in pages of about so many bytes. Returns how many there were.
fn copy(source: &mut Partition, target: &mut Partition, step: &Step, bytes_max: usize) -> usize {
    let (mut after, mut pages) = (None, 0);
    loop {
        let with_journal = after.is_none();
        let StepReply::Journal(journal) =
            source.order(StepCommand::Export { step: step.clone(), with_journal }).unwrap()
        else {
            panic!("a journal")
        };
        let mut page = moving::export(&TwinRows(&source.state), step, after.as_ref(), bytes_max).unwrap();
        page.set_journal(journal);
        // As it is sent.
        let page = Page::decode(&*page.encode_to_vec()).unwrap();
        after = page.next();
        pages += 1;
        assert_eq!(target.order(StepCommand::Import(step.clone(), Box::new(page))).unwrap(), StepReply::Done);
        if after.is_none() {
            return pages;
        }
    }
}

/// Everything up to the activation.
fn prepare(source: &mut Partition, target: &mut Partition, step: &Step, bytes_max: usize) -> Time {
    let planned = time(source.order(StepCommand::TellTime));
    target.order(StepCommand::BeginImport(step.clone(), planned)).unwrap();
    let frozen = time(source.order(StepCommand::Freeze(step.clone())));
    copy(source, target, step, bytes_max);
    while target.lead.time() <= frozen {
        target.pass(Duration::from_millis(50));
    }
    frozen
}

/// A whole step.
fn carry_over(source: &mut Partition, target: &mut Partition, step: &Step) {
    let frozen = prepare(source, target, step, 1 << 20);
    let decided = target.order(StepCommand::Activate(step.clone(), frozen)).unwrap();
    assert_eq!(decided, StepReply::Decided(true));
    source.order(StepCommand::Release(step.clone())).unwrap();
    assert_eq!(source.order(StepCommand::TellWhetherClean(step.clone())).unwrap(), StepReply::IsClean(true));
    target.order(StepCommand::Forget(step.clone())).unwrap();
    source.order(StepCommand::Forget(step.clone())).unwrap();
}

fn is_not_done<T>(result: &Result<T, CallError>) -> bool {
    matches!(result, Err(CallError::NotDone(_)))
}

fn is_failed<T>(result: &Result<T, CallError>) -> bool {
    matches!(result, Err(CallError::Failed(_)))
}

fn signal() -> RunCommand {
    let request = SignalWorkflowExecutionRequest { signal_name: "s".to_owned(), ..Default::default() };
    RunCommand::SignalWorkflow(Box::new(request))
}

#[test]
fn everything_moves_and_nothing_stays_behind() {
    for bytes_max in [1, 700, 1 << 20] {
        let (mut source, mut target) = (full(), Partition::numbered(2));
        let before = everything(&source);
        let frozen = prepare(&mut source, &mut target, &step(1), bytes_max);
        assert_eq!(everything(&source), before, "nothing changes any more");
        assert_eq!(everything(&target), before);
        assert!(target.tasks.is_empty() && target.parcels.is_empty() && target.batch_jobs.is_empty());
        assert!(is_not_done(&target.ask(signal()).try_recv().unwrap()), "it is not there yet");

        target.order(StepCommand::Activate(step(1), frozen)).unwrap();
        assert_eq!(everything(&target).len(), before.len());
        let tasks = before.iter().filter(|(key, _)| key[0] == 3).count();
        assert_eq!((target.tasks.len(), target.tasks_came, tasks), (3, 0, 3), "a workflow task and two activities");
        assert_eq!(target.parcels.len(), 1, "the message is sent from there");

        source.order(StepCommand::Release(step(1))).unwrap();
        source.commit();
        assert_eq!(everything(&source), []);
        assert_eq!(source.order(StepCommand::TellWhetherClean(step(1))).unwrap(), StepReply::IsClean(true));
        assert!(is_not_done(&source.ask(signal()).try_recv().unwrap()), "it is elsewhere");

        // It goes on there: a timer fires, a batch job is worked on.
        target.pass(Duration::from_secs(31));
        target.commit();
        let fired = target.events().iter().filter(|event| event.event_type == EventType::TimerFired as i32).count();
        assert_eq!((fired, target.batch_jobs.clone()), (1, vec![true]));
    }
}

#[test]
fn a_lead_begins_no_step_that_its_formats_do_not_have() {
    let (mut source, mut target) = (full(), Partition::numbered(2));
    let before = everything(&source);
    for partition in [&mut source, &mut target] {
        partition.lead.settings.format = FormatVersion::FIRST;
    }
    let planned = source.lead.time();
    assert!(is_not_done(&target.order(StepCommand::BeginImport(step(1), planned))));
    assert!(is_not_done(&source.order(StepCommand::Freeze(step(1)))));
    assert_eq!(source.order(StepCommand::TellSteps).unwrap(), StepReply::Steps(Vec::new()));
    assert_eq!(everything(&source), before);
    // The next leads do, and end what was begun by whatever lead.
    source.lead_anew();
    target.lead_anew();
    let frozen = prepare(&mut source, &mut target, &step(1), 1 << 20);
    target.lead.settings.format = FormatVersion::FIRST;
    let decided = target.order(StepCommand::Activate(step(1), frozen)).unwrap();
    assert_eq!(decided, StepReply::Decided(true));
}

#[test]
fn nothing_is_done_for_frozen_slots_and_those_who_wait_are_told() {
    let mut partition = full();
    let view = partition.view();
    let (reply, mut told) = mpsc::channel(2);
    let seen = Some(view.next_event_id);
    partition.take(Work::Watch { kind: EntityKind::Workflow, seen, reply });
    assert!(told.try_recv().unwrap().is_ok());
    let rows = everything(&partition);
    let slot = everlog_model::slot_of(NAMESPACE, "w");
    let of_w = step_of(1, SlotSet::from_iter([slot]), 1, 2);
    let mut freezing = partition.order_on_its_way(StepCommand::Freeze(of_w.clone()));
    assert!(freezing.try_recv().is_err(), "it is not durable");
    assert!(is_not_done(&told.try_recv().expect("whoever waits is told")));
    // From the moment at which it was decided.
    assert!(is_not_done(&partition.ask(signal()).try_recv().unwrap()));
    assert!(is_not_done(&partition.order(StepCommand::Unfreeze(of_w.clone()))), "something may be on its way");
    assert!(freezing.try_recv().unwrap().is_ok());
    let task = partition.tasks.iter().rfind(|task| task.key.kind == TaskKind::Workflow).unwrap().clone();
    let started = partition.start_this_task(task.clone());
    assert!(is_not_done(&started), "its task is offered again: {started:?}");
    partition.pass(Duration::from_secs(31));
    partition.commit();
    assert_eq!(everything(&partition), rows);
    // Others go on.
    assert_ne!(everlog_model::slot_of(NAMESPACE, "v"), slot);
    let mut other = partition.ask_of("v", None, signal());
    partition.commit();
    assert!(matches!(other.try_recv().unwrap(), Err(CallError::Rejected(_))), "there is no such workflow");

    partition.order(StepCommand::Unfreeze(of_w.clone())).unwrap();
    assert_eq!(partition.tasks_came, 1, "its tasks are offered again");
    partition.pass(Duration::from_millis(1));
    partition.commit();
    let fired = partition.events().iter().filter(|event| event.event_type == EventType::TimerFired as i32).count();
    assert_eq!(fired, 1, "what was due is made up for");
    assert!(partition.start_this_task(task).is_ok());
    let late = partition.order(StepCommand::Freeze(of_w));
    assert!(is_failed(&late), "an order that comes late does nothing: {late:?}");
}

#[test]
fn what_was_begun_when_slots_froze_is_done_when_they_stay() {
    let mut partition = full();
    partition.lead_anew();
    partition.pass(Duration::from_secs(31));
    let loads = partition.begin_to_wake();
    assert!(!loads.is_empty(), "a timer is due, for which the workflow is read");
    partition.order(StepCommand::Freeze(step(1))).unwrap();
    loads.into_iter().for_each(|request| partition.load(request));
    partition.commit();
    partition.order(StepCommand::Unfreeze(step(1))).unwrap();
    partition.pass(Duration::from_millis(1));
    partition.commit();
    let fired = partition.events().iter().filter(|event| event.event_type == EventType::TimerFired as i32).count();
    assert_eq!(fired, 1, "its wake is not forgotten");
}

#[test]
fn messages_are_put_off_and_sent_in_their_order() {
    let mut partition = full();
    let sent: Vec<OutboxKey> = partition.parcels.drain(..).map(|parcel| parcel.key).collect();
    assert_eq!(sent.len(), 1);
    partition.order(StepCommand::Freeze(step(1))).unwrap();
    // Its answer comes too late: the message will be sent again, and is known again by whoever gets it.
    let outcome = crate::outbox::Delivery::Settled(everlog_kernel::outbox::Outcome::Delivered);
    partition.lead.delivered(sent[0], outcome);
    partition.pass(Duration::from_secs(60));
    partition.lead_anew();
    partition.pass(Duration::from_secs(60));
    assert!(partition.parcels.is_empty(), "the next lead does not send it either");
    partition.order(StepCommand::Unfreeze(step(1))).unwrap();
    partition.pass(Duration::from_millis(1));
    assert_eq!(partition.parcels.drain(..).map(|parcel| parcel.key).collect::<Vec<_>>(), sent);
    partition.lead.delivered(sent[0], outcome);
    partition.commit();
    assert_eq!(partition.rows(OutboxKey::all()), 0);
}

#[test]
fn leads_may_be_lost_and_orders_repeated_at_any_point() {
    for lost in 0..9 {
        let (mut source, mut target) = (full(), Partition::numbered(2));
        let before = everything(&source);
        let mut point = 0;
        // Each order comes twice; at one point both leads are lost between.
        let mut twice = |partition: &mut Partition, command: &dyn Fn() -> StepCommand| {
            let first = partition.order(command()).unwrap();
            if point == lost {
                partition.lead_anew();
                partition.read_wakes();
            }
            point += 1;
            let second = partition.order(command()).unwrap();
            assert!(first == second || matches!(second, StepReply::Time(_)), "{first:?}, then {second:?}");
            second
        };
        let StepReply::Time(planned) = twice(&mut source, &|| StepCommand::TellTime) else { panic!("a time") };
        twice(&mut target, &|| StepCommand::BeginImport(step(1), planned));
        let StepReply::Time(frozen) = twice(&mut source, &|| StepCommand::Freeze(step(1))) else { panic!("a time") };
        copy(&mut source, &mut target, &step(1), 900);
        if lost == 8 {
            target.lead_anew();
            target.read_wakes();
        }
        copy(&mut source, &mut target, &step(1), 1500);
        target.pass(Duration::from_millis(50));
        assert_eq!(everything(&target), before);
        twice(&mut target, &|| StepCommand::Activate(step(1), frozen));
        twice(&mut source, &|| StepCommand::Release(step(1)));
        source.commit();
        assert_eq!(everything(&source), []);
        twice(&mut target, &|| StepCommand::Forget(step(1)));
        twice(&mut source, &|| StepCommand::Forget(step(1)));
        assert_eq!(source.rows(keys::partition_rows("move/")) + target.rows(keys::partition_rows("move/")), 0);
        assert!(!target.tasks.is_empty() || target.tasks_came > 0, "somebody was told of the tasks");
        target.pass(Duration::from_secs(31));
        target.read_wakes();
        target.commit();
        let fired = target.events().iter().filter(|event| event.event_type == EventType::TimerFired as i32).count();
        assert_eq!(fired, 1, "lost at point {lost}");
        // What comes late does nothing any more.
        assert!(is_failed(&source.order(StepCommand::Freeze(step(1)))));
        assert!(is_failed(&target.order(StepCommand::BeginImport(step(1), planned))));
        assert!(is_failed(&target.order(StepCommand::Import(step(1), Box::default()))));
        assert!(is_failed(&target.order(StepCommand::Activate(step(1), frozen))));
        assert_eq!(source.order(StepCommand::Release(step(1))).unwrap(), StepReply::Done);
    }
}

#[test]
fn a_freeze_that_was_lost_is_none() {
    let mut partition = full();
    let mut freezing = partition.order_on_its_way(StepCommand::Freeze(step(1)));
    partition.lead_anew();
    assert!(!matches!(freezing.try_recv(), Ok(Ok(_))));
    assert!(is_failed(&partition.order(StepCommand::Export { step: step(1), with_journal: true })));
    let mut signaled = partition.ask(signal());
    partition.commit();
    assert!(signaled.try_recv().unwrap().is_ok());
}

#[test]
fn what_is_refused_can_be_given_back_and_tried_again() {
    for bytes_max in [1, 700, 1 << 20] {
        let (mut source, mut target) = (full(), Partition::numbered(2));
        let before = everything(&source);
        let frozen = prepare(&mut source, &mut target, &step(1), bytes_max);
        assert_eq!(target.order(StepCommand::Refuse(step(1))).unwrap(), StepReply::Decided(false));
        let late = target.order(StepCommand::Activate(step(1), frozen)).unwrap();
        assert_eq!(late, StepReply::Decided(false));
        assert!(is_failed(&target.order(StepCommand::Import(step(1), Box::default()))));
        target.commit();
        assert_eq!(everything(&target), [], "what had come is deleted");
        assert_eq!(target.order(StepCommand::TellWhetherClean(step(1))).unwrap(), StepReply::IsClean(true));
        source.order(StepCommand::Unfreeze(step(1))).unwrap();
        assert_eq!(everything(&source), before);
        target.order(StepCommand::Forget(step(1))).unwrap();
        carry_over(&mut source, &mut target, &step(2));
        assert_eq!(everything(&source), []);
    }
    // Refused before it has begun: it does not begin.
    let mut target = Partition::numbered(2);
    assert_eq!(target.order(StepCommand::Refuse(step(1))).unwrap(), StepReply::Decided(false));
    assert!(is_failed(&target.order(StepCommand::BeginImport(step(1), Time(0)))));
}

#[test]
fn what_came_in_part_is_deleted_as_a_whole() {
    let (mut source, mut target) = (full(), Partition::numbered(2));
    target.order(StepCommand::BeginImport(step(1), Time(0))).unwrap();
    source.order(StepCommand::Freeze(step(1))).unwrap();
    let pages = {
        let mut other = Partition::numbered(2);
        other.order(StepCommand::BeginImport(step(1), Time(0))).unwrap();
        copy(&mut source, &mut other, &step(1), 1)
    };
    assert!(pages > 10);
    for taken in 1..pages as u64 {
        let of = step(taken);
        let mut target = Partition::numbered(2);
        target.order(StepCommand::BeginImport(of.clone(), Time(0))).unwrap();
        let mut after = None;
        for _ in 0..taken {
            let page = moving::export(&TwinRows(&source.state), &of, after.as_ref(), 1).unwrap();
            after = page.next();
            target.order(StepCommand::Import(of.clone(), Box::new(page))).unwrap();
        }
        assert!(is_failed(&target.order(StepCommand::Activate(of.clone(), Time(0)))), "pages are missing");
        target.lead_anew();
        target.order(StepCommand::Refuse(of.clone())).unwrap();
        target.commit();
        assert_eq!(everything(&target), [], "after {taken} pages of {pages}");
    }
}

#[test]
fn slots_come_back() {
    let (mut one, mut two) = (full(), Partition::numbered(2));
    let mut id = 0;
    for _ in 0..3 {
        id += 1;
        carry_over(&mut one, &mut two, &step_of(id, SlotSet::all(), 1, 2));
        assert_eq!(everything(&one), []);
        let mut signaled = two.ask(signal());
        two.commit();
        assert!(signaled.try_recv().unwrap().is_ok());
        id += 1;
        carry_over(&mut two, &mut one, &step_of(id, SlotSet::all(), 2, 1));
        assert_eq!(everything(&two), []);
        let mut signaled = one.ask(signal());
        one.commit();
        assert!(signaled.try_recv().unwrap().is_ok());
    }
    // Also if the first step was not forgotten.
    let there = step_of(id + 1, SlotSet::all(), 1, 2);
    let frozen = prepare(&mut one, &mut two, &there, 1 << 20);
    two.order(StepCommand::Activate(there.clone(), frozen)).unwrap();
    let back = step_of(id + 2, SlotSet::all(), 2, 1);
    assert!(is_not_done(&one.order(StepCommand::BeginImport(back.clone(), Time(0)))), "its rows are not deleted");
    one.order(StepCommand::Release(there)).unwrap();
    one.commit();
    let frozen = prepare(&mut two, &mut one, &back, 1 << 20);
    one.order(StepCommand::Activate(back, frozen)).unwrap();
    let mut signaled = one.ask(signal());
    one.commit();
    assert!(signaled.try_recv().unwrap().is_ok());
    let StepReply::Steps(steps) = one.order(StepCommand::TellSteps).unwrap() else { panic!("steps") };
    assert_eq!(steps.iter().map(|record| record.state).collect::<Vec<_>>(), [StepState::Owned]);
}

#[test]
fn tokens_of_another_partition_prove_nothing() {
    let (mut one, mut two) = (Partition::new(), Partition::numbered(2));
    one.start();
    one.commit();
    // The other one has a chain with the same places.
    for _ in 0..5 {
        two.ask_of("v", None, signal());
        two.order(StepCommand::Forget(step_of(1, SlotSet::new(), 1, 2))).unwrap();
    }
    let token = one.start_task().unwrap();
    one.commit();
    let proven = one.lead.is_whole(token.history_position);
    assert!(proven && !two.lead.is_whole(token.history_position));
    carry_over(&mut one, &mut two, &step(2));
    let refused = two.complete(&token, Vec::new());
    assert!(matches!(refused, Err(CallError::Rejected(_))), "its start was lost: {refused:?}");
    let again = two.start_task().unwrap();
    two.complete(&again, Vec::new()).unwrap();
}

#[test]
fn calls_without_an_id_are_known_again_where_their_slot_has_gone() {
    let (mut source, mut target) = (full(), Partition::numbered(2));
    let call = OperationId::from_bytes([3; 16]);
    let signals = |partition: &mut Partition| {
        let events = partition.events();
        events.iter().filter(|event| event.event_type == EventType::WorkflowExecutionSignaled as i32).count()
    };
    source.ask_in(call, signal());
    source.commit();
    let before = signals(&mut source);
    carry_over(&mut source, &mut target, &step(1));
    let mut again = target.ask_in(call, signal());
    target.commit();
    assert!(matches!(again.try_recv().unwrap().map(|answer| answer.reply), Ok(Reply::Done | Reply::Signaled(_))));
    assert_eq!(signals(&mut target), before);
    target.lead_anew();
    target.ask_in(call, signal());
    target.commit();
    assert_eq!(signals(&mut target), before, "the next lead knows it, too");
}

#[test]
fn the_clock_of_the_target_is_not_behind() {
    let (mut source, mut target) = (full(), Partition::numbered(2));
    source.pass(Duration::from_millis(200));
    let planned = time(source.order(StepCommand::TellTime));
    target.order(StepCommand::BeginImport(step(1), planned)).unwrap();
    let frozen = time(source.order(StepCommand::Freeze(step(1))));
    copy(&mut source, &mut target, &step(1), 1 << 20);
    assert!(is_not_done(&target.order(StepCommand::Activate(step(1), frozen))), "it waits for its clock");
    target.pass(Duration::from_millis(201));
    target.order(StepCommand::Activate(step(1), frozen)).unwrap();
    let mut late = Partition::numbered(3);
    source.pass(Duration::from_secs(10));
    let planned = time(source.order(StepCommand::TellTime));
    let refused = late.order(StepCommand::BeginImport(step(2), planned));
    assert!(is_not_done(&refused), "for seconds it does not, and nothing is frozen: {refused:?}");
}

#[test]
fn steps_are_planned_by_the_bytes_of_their_slots() {
    let mut partition = Partition::new();
    let start = |partition: &mut Partition, id: &str| {
        let request = everlog_proto::api::workflowservice::v1::StartWorkflowExecutionRequest {
            workflow_id: id.to_owned(),
            workflow_type: Some(WorkflowType { name: "T".to_owned() }),
            task_queue: task_queue(),
            request_id: "start".to_owned(),
            ..Default::default()
        };
        let command = everlog_kernel::Command::start(request, &Limits::default()).unwrap();
        partition.ask_of(id, None, command);
    };
    (0..50).for_each(|number| start(&mut partition, &format!("w-{number}")));
    partition.commit();
    let rows = TwinRows(&partition.state);
    let used: SlotSet = (0..50).map(|number| everlog_model::slot_of(NAMESPACE, &format!("w-{number}"))).collect();
    let plan = |slots: &SlotSet, bytes_max| moving::plan(&rows, NAMESPACE, slots, bytes_max).unwrap();
    assert_eq!(plan(&SlotSet::all(), usize::MAX), SlotSet::all());
    let first = plan(&SlotSet::all(), 1);
    assert_eq!(first.intersection(&used).len(), 1, "one goes, however large it is");
    assert!(first.contains(0), "and all before it that are empty");
    let some = plan(&SlotSet::all(), 5_000);
    assert!((2..40).contains(&some.intersection(&used).len()), "{some}");
    let (mut left, mut steps) = (SlotSet::all(), 0);
    while !left.is_empty() {
        let next = plan(&left, 5_000);
        assert!(!next.is_empty());
        left = left.difference(&next);
        steps += 1;
    }
    assert!((3..50).contains(&steps), "{steps} steps");
    assert_eq!(moving::plan(&rows, NamespaceId([8; 16]), &used, 1).unwrap(), used, "another namespace has nothing");
}

#[test]
fn pages_are_what_they_always_were() {
    let source = Partition::new();
    let mut page = moving::export(&TwinRows(&source.state), &step(1), None, 1).unwrap();
    assert!(page.is_empty() && page.next().is_none());
    page.set_journal(Bytes::from_static(b"j"));
    let hex: String = page.encode_to_vec().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, "1a016a");
}

#[test]
fn an_answer_to_a_task_of_before_is_taken_where_its_start_is_written() {
    // A second answer that the worker gives again and again has a row, so its task goes on where its slot is.
    let (mut source, mut target) = (Partition::new(), Partition::numbered(2));
    source.start();
    source.commit();
    let token = source.start_task().unwrap();
    source.ask(RunCommand::SaveWorkflowTaskStart);
    source.commit();
    carry_over(&mut source, &mut target, &step(1));
    let request = RespondWorkflowTaskCompletedRequest::default();
    let mut completed = target.ask(RunCommand::CompleteWorkflowTask(token, Box::new(request), Objections::default()));
    target.commit();
    assert!(completed.try_recv().unwrap().is_ok());
}
