//! Messages between two partitions that lose, repeat and delay them, and lose their leads: each message counts once, in order.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use everlog_kernel::RunCommand;
use everlog_kernel::command::Objections;
use everlog_kernel::outbox::{MessageBody, OutboxMessage, Outcome};
use everlog_model::CallError;
use everlog_proto::api::command::v1::command::Attributes;
use everlog_proto::api::command::v1::{
    Command as WorkflowCommand, ContinueAsNewWorkflowExecutionCommandAttributes,
    RequestCancelExternalWorkflowExecutionCommandAttributes, SignalExternalWorkflowExecutionCommandAttributes,
};
use everlog_proto::api::common::v1::WorkflowExecution;
use everlog_proto::api::enums::v1::CommandType;
use everlog_proto::api::history::v1::history_event::Attributes as EventAttributes;
use everlog_storage::keys::OutboxKey;
use everlog_storage::state::Direction;
use metrics::{Key, KeyName, Metadata, SharedString, Unit};
use parking_lot::Mutex;

use super::test_partition::{Partition, TwinRows, Waiting};
use crate::load::Rows;
use crate::outbox::{Delivery, Parcel};

/// SplitMix64 (Steele, Lea and Flood, 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % end.max(1) as u64).expect("below end")
    }

    fn percent(&mut self, chance: usize) -> bool {
        self.below(100) < chance
    }
}

fn signal(name: usize, workflow_id: &str) -> WorkflowCommand {
    let execution = WorkflowExecution { workflow_id: workflow_id.to_owned(), run_id: String::new() };
    let attributes = SignalExternalWorkflowExecutionCommandAttributes {
        execution: Some(execution),
        signal_name: name.to_string(),
        ..SignalExternalWorkflowExecutionCommandAttributes::default()
    };
    WorkflowCommand {
        command_type: CommandType::SignalExternalWorkflowExecution as i32,
        attributes: Some(Attributes::SignalExternalWorkflowExecutionCommandAttributes(attributes)),
        ..WorkflowCommand::default()
    }
}

/// A workflow `s`, and another one, `w`, that it sends signals to. (In each partition's own world the workflow that matters is `w`.)
struct World {
    random: Random,
    source: Partition,
    target: Partition,
    /// Messages on the way, of an opening of the source's lead.
    messages: Vec<(u32, Parcel)>,
    /// Messages that the target has taken, and will answer.
    taken: Vec<(u32, OutboxKey, Waiting)>,
    answers: Vec<(u32, OutboxKey, Delivery)>,
    sent: usize,
    acknowledged: Vec<usize>,
}

impl World {
    fn new(seed: u64) -> World {
        let (mut source, mut target) = (Partition::new(), Partition::new());
        source.start();
        source.commit();
        target.start();
        target.commit();
        let (messages, taken, answers) = (Vec::new(), Vec::new(), Vec::new());
        World { random: Random(seed), source, target, messages, taken, answers, sent: 0, acknowledged: Vec::new() }
    }

    /// The source completes a workflow task with some signals.
    fn send(&mut self) {
        self.source.signal();
        // Which of them is the one that is pending only the leads know that are lost.
        let offered: Vec<_> = self.source.tasks.iter().rev().take(20).cloned().collect();
        let Some(token) = offered.into_iter().find_map(|task| self.source.start_this_task(task).ok()) else { return };
        let names: Vec<usize> = (0..self.random.below(4)).map(|number| self.sent + number).collect();
        self.sent += names.len();
        let to = |name: &usize| signal(*name, if name % 10 == 7 { "nobody" } else { "other" });
        if self.source.complete(&token, names.iter().map(to).collect()).is_ok() {
            self.acknowledged.extend(names);
        }
    }

    /// A message arrives: nowhere, or once or more often.
    fn carry(&mut self, faults: bool) {
        let opening = self.source.opening;
        self.messages.extend(self.source.parcels.drain(..).map(|parcel| (opening, parcel)));
        if self.messages.is_empty() {
            return;
        }
        let at = self.random.below(self.messages.len());
        let (opening, parcel) = self.messages[at].clone();
        if !(faults && self.random.percent(20)) {
            self.messages.swap_remove(at);
        }
        if faults && self.random.percent(20) {
            self.answers.push((opening, parcel.key, Delivery::Again));
            return;
        }
        let message = (*parcel.message).clone();
        let workflow_id = if message.target_workflow_id == "nobody" { "nobody" } else { "w" };
        // In its own world the target is called as the source is.
        let message = everlog_kernel::outbox::OutboxMessage { source_workflow_id: "s".to_owned(), ..message };
        let waiting = self.target.ask_of(workflow_id, None, RunCommand::ReceiveMessage(Box::new(message)));
        self.taken.push((opening, parcel.key, waiting));
    }

    /// The target's answers go on their way, and one arrives.
    fn answer(&mut self, faults: bool) {
        let mut index = 0;
        while index < self.taken.len() {
            use tokio::sync::oneshot::error::TryRecvError;
            let (opening, key, waiting) = &mut self.taken[index];
            let delivery = match waiting.try_recv() {
                Err(TryRecvError::Empty) => {
                    index += 1;
                    continue;
                }
                Ok(Ok(_)) => Delivery::Settled(Outcome::Delivered),
                Ok(Err(CallError::Rejected(rejection))) => {
                    Outcome::of_rejection(&rejection).map_or(Delivery::Again, Delivery::Settled)
                }
                Ok(Err(_)) | Err(TryRecvError::Closed) => Delivery::Again,
            };
            let answer = (*opening, *key, delivery);
            self.taken.swap_remove(index);
            self.answers.push(answer);
        }
        if self.answers.is_empty() {
            return;
        }
        let at = self.random.below(self.answers.len());
        let (opening, key, delivery) = self.answers[at];
        if !(faults && self.random.percent(20)) {
            self.answers.swap_remove(at);
        }
        if opening == self.source.opening {
            let lost = faults && self.random.percent(20);
            self.source.lead.delivered(key, if lost { Delivery::Again } else { delivery });
            self.source.turn();
        }
    }

    fn step(&mut self) {
        match self.random.below(20) {
            0 | 1 => self.send(),
            2..=7 => self.carry(true),
            8..=12 => self.answer(true),
            13 => self.source.commit(),
            14 | 15 => self.target.commit(),
            16 => self.source.lead_anew(),
            17 => {
                self.target.lead_anew();
                self.taken.iter_mut().for_each(|(_, _, waiting)| waiting.close());
            }
            _ => {
                let time = Duration::from_millis(10 << self.random.below(8));
                self.source.pass(time);
                self.target.pass(time);
            }
        }
    }

    /// Nothing goes wrong any more: everything arrives.
    fn calm_down(&mut self) {
        for _ in 0..2000 {
            self.source.pass(Duration::from_secs(1));
            self.source.commit();
            self.carry(false);
            self.target.commit();
            self.answer(false);
            let rows = TwinRows(&self.source.state).scan(OutboxKey::all(), Direction::Ascending, 1).unwrap();
            if rows.is_empty() && self.messages.is_empty() && self.taken.is_empty() && self.answers.is_empty() {
                return;
            }
        }
        panic!("messages do not arrive");
    }

    fn check(&mut self) {
        let mut initiated = Vec::new();
        let mut ends = Vec::new();
        for event in self.source.events() {
            match event.attributes.unwrap() {
                EventAttributes::SignalExternalWorkflowExecutionInitiatedEventAttributes(a) => {
                    initiated.push((event.event_id, a.signal_name.parse::<usize>().unwrap()));
                }
                EventAttributes::ExternalWorkflowExecutionSignaledEventAttributes(a) => {
                    ends.push((a.initiated_event_id, true));
                }
                EventAttributes::SignalExternalWorkflowExecutionFailedEventAttributes(a) => {
                    ends.push((a.initiated_event_id, false));
                }
                _ => {}
            }
        }
        let expected = initiated.iter().map(|(event_id, name)| (*event_id, name % 10 != 7));
        ends.sort_unstable();
        assert_eq!(ends, expected.collect::<Vec<_>>(), "the source hears of each message once");
        let there: Vec<usize> = initiated.iter().map(|(_, name)| *name).collect();
        assert!(self.acknowledged.iter().all(|name| there.contains(name)), "what was acknowledged is sent");
        let arrived = self.target.events().into_iter().filter_map(|event| match event.attributes? {
            EventAttributes::WorkflowExecutionSignaledEventAttributes(a) => a.signal_name.parse::<usize>().ok(),
            _ => None,
        });
        let wanted = there.into_iter().filter(|name| name % 10 != 7);
        assert_eq!(arrived.collect::<Vec<_>>(), wanted.collect::<Vec<_>>(), "each arrives once, in order");
    }
}

#[test]
fn each_message_counts_once_and_in_order_whatever_is_lost() {
    let mut sent = 0;
    for seed in 0..150 {
        let mut world = World::new(seed);
        for _ in 0..300 {
            world.step();
        }
        world.calm_down();
        world.check();
        sent += world.acknowledged.len();
    }
    assert!(sent > 1000, "{sent}");
}

/// A signal, or a request to cancel, that another workflow has sent at the target's time with an event.
fn message(target: &Partition, event_id: i64, signal_name: Option<&str>) -> OutboxMessage {
    let body = match signal_name {
        Some(name) => MessageBody::SignalExternal(SignalExternalWorkflowExecutionCommandAttributes {
            signal_name: name.to_owned(),
            ..SignalExternalWorkflowExecutionCommandAttributes::default()
        }),
        None => MessageBody::CancelExternal(RequestCancelExternalWorkflowExecutionCommandAttributes::default()),
    };
    OutboxMessage {
        namespace_id: everlog_kernel::NamespaceId([7; 16]),
        source_workflow_id: "s".to_owned(),
        source_run_id: everlog_kernel::RunId([5; 16]),
        origin_run_id: None,
        event_id,
        sent: target.lead.time(),
        target_workflow_id: "w".to_owned(),
        target_run_id: None,
        body,
    }
}

fn continue_as_new(target: &mut Partition) {
    let token = target.start_task().unwrap();
    let attributes = ContinueAsNewWorkflowExecutionCommandAttributes::default();
    let command = WorkflowCommand {
        command_type: CommandType::ContinueAsNewWorkflowExecution as i32,
        attributes: Some(Attributes::ContinueAsNewWorkflowExecutionCommandAttributes(attributes)),
        ..WorkflowCommand::default()
    };
    target.complete(&token, vec![command]).unwrap();
    target.pass(Duration::from_secs(2));
    target.commit();
}

/// Names of signals, and requests to cancel, in the history of the current run.
fn taken(target: &mut Partition) -> Vec<String> {
    let name = |event: everlog_proto::api::history::v1::HistoryEvent| match event.attributes? {
        EventAttributes::WorkflowExecutionSignaledEventAttributes(a) => Some(a.signal_name),
        EventAttributes::WorkflowExecutionCancelRequestedEventAttributes(_) => Some("cancel".to_owned()),
        _ => None,
    };
    target.events().into_iter().filter_map(name).collect()
}

#[test]
fn what_an_earlier_run_has_taken_the_current_one_does_not_take_again() {
    for is_remembered in [false, true] {
        let mut target = Partition::new();
        target.start();
        target.commit();
        let messages = [(1, Some("first")), (2, None), (3, Some("second"))];
        let messages = messages.map(|(event, signal)| message(&target, event, signal));
        let receive = |target: &mut Partition, message: &OutboxMessage| {
            let mut waiting = target.ask(RunCommand::ReceiveMessage(Box::new(message.clone())));
            target.commit();
            waiting.try_recv().expect("an answer")
        };
        for message in &messages[..2] {
            receive(&mut target, message).unwrap();
        }
        assert_eq!(taken(&mut target), ["first", "cancel"]);
        // Their answers are lost, and the workflow goes on twice: the second time nothing of the first run is in memory.
        for _ in 0..2 {
            continue_as_new(&mut target);
            if !is_remembered {
                target.lead_anew();
            }
            for message in &messages[..2] {
                receive(&mut target, message).unwrap();
            }
            assert!(taken(&mut target).is_empty());
        }
        // One that nobody has taken is as old.
        receive(&mut target, &messages[2]).unwrap();
        receive(&mut target, &messages[2]).unwrap();
        assert_eq!(taken(&mut target), ["second"]);
    }
}

#[test]
fn a_message_that_does_not_arrive_for_a_day_is_told_of_and_sent_on() {
    let mut source = Partition::new();
    source.start();
    let token = source.start_task().unwrap();
    source.complete(&token, vec![signal(1, "other")]).unwrap();
    source.commit();
    let key = source.parcels[0].key;
    let mut outbox = crate::outbox::read_page(&TwinRows(&source.state), None).map(|page| {
        let mut outbox = crate::outbox::Outbox::default();
        outbox.add_page(page.parcels);
        outbox
    });
    let outbox = outbox.as_mut().unwrap();
    let sent = everlog_kernel::Time(i64::try_from(key.time_ns).unwrap());
    let look = |outbox: &mut crate::outbox::Outbox, hours: u64, seconds: u64| {
        let overdue = outbox.look(sent.plus(Duration::from_secs(3600 * hours + seconds)));
        overdue.map(|overdue| (overdue.oldest.as_secs(), overdue.count, overdue.first.is_some()))
    };
    assert_eq!(look(outbox, 1, 0), Some((3600, 0, false)));
    assert_eq!(look(outbox, 1, 59), None, "it looks once a minute");
    assert_eq!(look(outbox, 23, 3599), Some((86_399, 0, false)));
    assert_eq!(look(outbox, 24, 59), Some((86_459, 1, true)));
    assert_eq!(look(outbox, 25, 0), Some((90_000, 0, false)), "it is told of once");
    assert_eq!(outbox.len(), 1);

    // The lead goes on sending it.
    let recorded = Arc::new(Recorded::default());
    metrics::with_local_recorder(&*recorded, || {
        source.lead_anew();
        source.turn();
        for _ in 0..30 {
            source.parcels.clear();
            source.lead.delivered(key, Delivery::Again);
            source.pass(Duration::from_secs(3600));
            assert_eq!(source.parcels.len(), 1);
        }
        assert!(recorded.value("everlog_outbox_oldest_seconds") >= 29.0 * 3600.0);
        assert_eq!(recorded.value("everlog_outbox_overdue_total"), 1.0);
        source.lead.delivered(key, Delivery::Settled(Outcome::Delivered));
        source.commit();
        source.pass(Duration::from_secs(3600));
        assert_eq!(recorded.value("everlog_outbox_oldest_seconds"), 0.0);
    });
    assert!(crate::outbox::read_page(&TwinRows(&source.state), None).unwrap().parcels.is_empty());
}

/// Gauges and counters by name.
#[derive(Default)]
struct Recorded(Mutex<HashMap<String, Arc<AtomicU64>>>);

impl Recorded {
    fn cell(&self, name: &str) -> Arc<AtomicU64> {
        Arc::clone(self.0.lock().entry(name.to_owned()).or_default())
    }

    fn value(&self, name: &str) -> f64 {
        let bits = self.cell(name).load(Ordering::Relaxed);
        if name.ends_with("_total") { bits as f64 } else { f64::from_bits(bits) }
    }
}

impl metrics::Recorder for Recorded {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> metrics::Counter {
        metrics::Counter::from_arc(self.cell(key.name()))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> metrics::Gauge {
        metrics::Gauge::from_arc(self.cell(key.name()))
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> metrics::Histogram {
        metrics::Histogram::noop()
    }
}

#[test]
fn nothing_is_sent_before_its_row_is_there() {
    let mut source = Partition::new();
    source.start();
    let token = source.start_task().unwrap();
    source.commit();
    let request = everlog_proto::api::workflowservice::v1::RespondWorkflowTaskCompletedRequest {
        commands: vec![signal(1, "other"), signal(2, "other"), signal(3, "third")],
        ..Default::default()
    };
    source.ask(RunCommand::CompleteWorkflowTask(token, Box::new(request), Objections::default()));
    assert!(source.parcels.is_empty());
    source.commit();
    // The second one to the same workflow waits for the first.
    let names = |parcels: &[Parcel]| parcels.iter().map(|parcel| parcel.message.event_id).collect::<Vec<_>>();
    assert_eq!(names(&source.parcels), [5, 7]);
    let first = source.parcels[0].key;
    source.parcels.clear();
    // It is sent again after 50 ms, then after 100 ms.
    for wait_ms in [50, 100] {
        source.lead.delivered(first, Delivery::Again);
        source.pass(Duration::from_millis(wait_ms - 1));
        assert!(source.parcels.is_empty());
        source.pass(Duration::from_millis(1));
        assert_eq!(names(&source.parcels), [5]);
        source.parcels.clear();
    }
    source.lead.delivered(first, Delivery::Settled(Outcome::Delivered));
    source.turn();
    assert_eq!(names(&source.parcels), [6]);
    // The next lead sends what is left: the acknowledgement of the first one is lost with this one.
    source.parcels.clear();
    source.lead_anew();
    source.turn();
    assert_eq!(names(&source.parcels), [5, 7]);
}

#[test]
fn a_run_with_too_many_messages_on_their_way_is_given_no_workflow_task() {
    let mut source = Partition::new();
    source.start();
    let token = source.start_task().unwrap();
    source.complete(&token, (0..=1000).map(|name| signal(name, "other")).collect()).unwrap();
    source.signal();
    source.commit();
    assert!(matches!(source.start_task(), Err(CallError::Unavailable(_))));
    let first = source.parcels[0].key;
    source.lead.delivered(first, Delivery::Settled(Outcome::Delivered));
    source.commit();
    assert!(source.start_task().is_ok());
}
