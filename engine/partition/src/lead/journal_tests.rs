//! Calls that have no id of their own, and are made again.

use std::time::Duration;

use everlog_kernel::{Rejection, RunCommand};
use everlog_model::{CallError, OperationId};
use everlog_proto::api::enums::v1::EventType;
use everlog_proto::api::workflowservice::v1::{SignalWorkflowExecutionRequest, TerminateWorkflowExecutionRequest};
use everlog_storage::keys::JournalKey;

use super::test_partition::{Partition, Waiting};

fn call(number: u8) -> OperationId {
    OperationId::from_bytes([number; 16])
}

fn signal(partition: &mut Partition, of: OperationId) -> Waiting {
    let request = SignalWorkflowExecutionRequest { signal_name: "s".to_owned(), ..Default::default() };
    partition.ask_in(of, RunCommand::SignalWorkflow(Box::new(request)))
}

fn terminate(partition: &mut Partition, of: OperationId) -> Waiting {
    partition.ask_in(of, RunCommand::TerminateWorkflow(Box::<TerminateWorkflowExecutionRequest>::default()))
}

fn signals(partition: &mut Partition) -> usize {
    let is_signal = |event_type: i32| event_type == EventType::WorkflowExecutionSignaled as i32;
    partition.events().iter().filter(|event| is_signal(event.event_type)).count()
}

fn started() -> Partition {
    let mut partition = Partition::new();
    partition.start();
    partition.commit();
    partition
}

#[test]
fn what_is_on_its_way_is_not_done_again() {
    let mut partition = started();
    let mut first = signal(&mut partition, call(1));
    let mut again = signal(&mut partition, call(1));
    assert!(again.try_recv().is_err(), "it is not durable");
    partition.commit();
    assert!(first.try_recv().unwrap().is_ok() && again.try_recv().unwrap().is_ok());
    // Neither is what is durable, and another call is another one.
    let mut late = signal(&mut partition, call(1));
    assert!(late.try_recv().unwrap().is_ok());
    signal(&mut partition, call(2));
    assert_eq!(signals(&mut partition), 2);
}

#[test]
fn the_next_lead_knows_what_was_done_and_what_was_lost() {
    let mut partition = started();
    signal(&mut partition, call(1));
    partition.commit();
    let mut lost = signal(&mut partition, call(2));
    partition.lead_anew();
    assert!(lost.try_recv().is_err());
    // It may not say before it has read what was done.
    let mut first = signal(&mut partition, call(1));
    let mut second = signal(&mut partition, call(2));
    partition.commit();
    assert!(first.try_recv().unwrap().is_ok() && second.try_recv().unwrap().is_ok());
    assert_eq!(signals(&mut partition), 2);
}

#[test]
fn a_termination_that_was_done_is_not_answered_as_one_too_many() {
    let mut partition = started();
    terminate(&mut partition, call(1));
    partition.commit();
    partition.lead_anew();
    let mut again = terminate(&mut partition, call(1));
    let mut other = terminate(&mut partition, call(2));
    partition.commit();
    assert!(again.try_recv().unwrap().is_ok());
    let refused = other.try_recv().unwrap();
    assert!(matches!(refused, Err(CallError::Rejected(Rejection::NotFound(_)))), "{refused:?}");
}

#[test]
fn a_refusal_is_decided_again() {
    let mut partition = Partition::new();
    let mut early = signal(&mut partition, call(1));
    partition.commit();
    assert!(early.try_recv().unwrap().is_err());
    partition.start();
    partition.commit();
    let mut again = signal(&mut partition, call(1));
    partition.commit();
    assert!(again.try_recv().unwrap().is_ok());
    assert_eq!(signals(&mut partition), 1);
}

#[test]
fn rows_are_there_for_a_minute_and_calls_with_an_id_have_none() {
    let mut partition = started();
    assert_eq!(partition.rows(JournalKey::all()), 0);
    signal(&mut partition, call(1));
    partition.commit();
    assert_eq!(partition.rows(JournalKey::all()), 1);
    partition.lead_anew();
    partition.pass(Duration::from_secs(59));
    signal(&mut partition, call(3));
    partition.commit();
    assert_eq!(partition.rows(JournalKey::all()), 2);
    partition.pass(Duration::from_secs(2));
    partition.signal();
    partition.commit();
    assert_eq!(partition.rows(JournalKey::all()), 1);
}
