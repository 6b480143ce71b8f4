//! Runs that are archived before they go: they are asked for once and again, whoever leads, until they are deleted.

use std::time::Duration;

use everlog_kernel::{RunCommand, RunId};
use everlog_proto::api::workflowservice::v1::TerminateWorkflowExecutionRequest;

use super::test_partition::Partition;

/// With what it may be put off by.
const RETENTION: Duration = Duration::from_secs(86_400 + 1800);

/// A partition with a closed run whose retention is over.
fn expired() -> (Partition, RunId) {
    let mut partition = Partition::archiving();
    partition.start();
    let request = TerminateWorkflowExecutionRequest::default();
    partition.ask(RunCommand::TerminateWorkflow(Box::new(request)));
    partition.commit();
    let run_id = partition.view().run_id;
    partition.pass(RETENTION - Duration::from_secs(1800 + 1));
    partition.read_wakes();
    assert_eq!(partition.to_archive, [], "its retention is not over");
    partition.pass(Duration::from_secs(1801));
    partition.read_wakes();
    (partition, run_id)
}

#[test]
fn a_run_is_asked_for_until_it_is_deleted_and_that_writes_nothing() {
    let (mut partition, run_id) = expired();
    let entries = partition.entries;
    assert_eq!(partition.to_archive, [run_id]);
    for (pause, times) in [(1, 1), (5, 1), (600, 2), (600, 3), (1, 3), (600, 4), (600, 5)] {
        partition.pass(Duration::from_secs(pause));
        assert_eq!(partition.to_archive.len(), times, "after {pause} s more");
    }
    assert_eq!(partition.entries, entries);
    assert_eq!(partition.view().run_id, run_id, "it is still there");

    let mut deleted = partition.ask_of("w", Some(run_id), RunCommand::DeleteWorkflow);
    partition.commit();
    assert!(deleted.try_recv().expect("an answer").is_ok());
    let asked = partition.to_archive.len();
    partition.pass(Duration::from_secs(1200));
    partition.read_wakes();
    assert_eq!(partition.to_archive.len(), asked);
}

#[test]
fn each_lead_asks_for_it_anew() {
    let (mut partition, run_id) = expired();
    for leads in 2..5 {
        partition.lead_anew();
        partition.read_wakes();
        assert_eq!(partition.to_archive, vec![run_id; leads]);
    }
}

#[test]
fn what_comes_to_an_expired_run_does_not_delete_it() {
    let (mut partition, run_id) = expired();
    let request = TerminateWorkflowExecutionRequest::default();
    partition.ask_of("w", Some(run_id), RunCommand::TerminateWorkflow(Box::new(request)));
    partition.ask_of("w", Some(run_id), RunCommand::FireTimers);
    partition.commit();
    assert_eq!(partition.view().run_id, run_id);
}
