use everlog_proto::api::common::v1::WorkflowExecution;
use everlog_proto::api::enums::v1::{ParentClosePolicy, RetryState, WorkflowExecutionStatus};
use everlog_proto::api::failure::v1::Failure;
use everlog_proto::api::history::v1::StartChildWorkflowExecutionInitiatedEventAttributes;

use super::*;

fn message() -> OutboxMessage {
    let signal = SignalExternalWorkflowExecutionCommandAttributes {
        signal_name: "paid".into(),
        ..SignalExternalWorkflowExecutionCommandAttributes::default()
    };
    OutboxMessage {
        namespace_id: NamespaceId([7; 16]),
        source_workflow_id: "order-1".into(),
        source_run_id: RunId([0xab; 16]),
        origin_run_id: None,
        event_id: 5,
        sent: Time(0x0102_0304),
        target_workflow_id: "stock".into(),
        target_run_id: None,
        body: MessageBody::SignalExternal(signal),
    }
}

#[test]
fn a_message_is_read_as_it_was_written() {
    let row = message().to_row();
    let hex: String = row.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(
        hex,
        "0a10070707070707070707070707070707071207 6f726465722d31 1a10abababababababababababababababab2005 \
         2a0573746f636b 3a061a0470616964 490403020100000000"
            .replace(' ', "")
    );
    let cancel = RequestCancelExternalWorkflowExecutionCommandAttributes::default();
    let to_a_run =
        OutboxMessage { target_run_id: Some(RunId([3; 16])), body: MessageBody::CancelExternal(cancel), ..message() };
    let of_another_run = OutboxMessage { origin_run_id: Some(RunId([4; 16])), ..message() };
    assert_ne!(of_another_run.id(), message().id());
    assert_eq!(of_another_run.id(), OutboxMessage { source_run_id: RunId([4; 16]), ..message() }.id());
    for message in [message(), to_a_run, of_another_run] {
        let row = message.to_row();
        assert_eq!(OutboxMessage::from_row(&row).unwrap(), message);
        for damaged in [&row[..row.len() - 1], &[&row[..], b"\xff"].concat(), b""] {
            assert!(OutboxMessage::from_row(damaged).is_err());
        }
    }
}

#[test]
fn messages_between_parents_and_children_are_read_as_they_were_written() {
    let initiated = StartChildWorkflowExecutionInitiatedEventAttributes {
        workflow_id: "stock".into(),
        ..StartChildWorkflowExecutionInitiatedEventAttributes::default()
    };
    let root = WorkflowExecution { workflow_id: "root".into(), run_id: String::new() };
    let start = StartChild { initiated, root: Some(root), ..StartChild::default() };
    let closed = ChildClosed {
        initiated_event_id: 5,
        status: WorkflowExecutionStatus::Failed.into(),
        failure: Some(Failure { message: "no".into(), ..Failure::default() }),
        retry_state: RetryState::MaximumAttemptsReached.into(),
        ..ChildClosed::default()
    };
    let parent = ParentClosed { initiated_event_id: 5, policy: ParentClosePolicy::Terminate.into() };
    let cases = [
        (MessageBody::StartChild(Box::new(start)), "5211 0a07 120573746f636b 1206 0a04726f6f74"),
        (MessageBody::ChildClosed(Box::new(closed)), "5a0c 0805 1003 2204 0a026e6f 2804"),
        (MessageBody::ParentClosed(parent), "6204 0805 1001"),
    ];
    for (body, expected) in cases {
        let message = OutboxMessage { body, ..message() };
        let row = message.to_row();
        let behind: String =
            row[row.len() - (expected.replace(' ', "").len() / 2)..].iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(behind, expected.replace(' ', ""));
        assert_eq!(OutboxMessage::from_row(&row).unwrap(), message);
    }
    let unknown = MessageBody::ChildClosed(Box::new(ChildClosed { initiated_event_id: 5, ..ChildClosed::default() }));
    assert!(OutboxMessage::from_row(&OutboxMessage { body: unknown, ..message() }.to_row()).is_err());
}

#[test]
fn a_child_is_told_from_others_and_from_messages() {
    let (parent, other) = (RunId([0xab; 16]), RunId([1; 16]));
    let child = child_run_id(parent, 5);
    assert_eq!(child.to_string(), "abababab-abab-739e-be41-96213d72e1e1");
    assert_eq!(start_request_id(parent, 5), "abababab-abab-abab-abab-abababababab:5:0");
    assert!(![child_run_id(parent, 6), child_run_id(other, 5)].contains(&child));
    assert_ne!(child.to_string(), message_id(parent, 5));
}

#[test]
fn a_message_is_for_the_run_that_has_it_or_the_current_one_if_none_has() {
    let run = |number: u8, start: i64| {
        let previous = Some(PreviousRun { run_id: RunId([number - 1; 16]), until: Time(start) });
        let info = crate::state::RunInfo { previous, ..Default::default() };
        (RunId([number; 16]), Box::new(crate::Run::new(RunId([number; 16]), info)))
    };
    let current = Some(crate::state::Current { run_id: RunId([3; 16]) });
    let runs = [run(1, 10), run(2, 20), run(3, 30)].into();
    let mut workflow = Workflow { current, runs, ..Workflow::new("stock") };
    let recipient =
        |workflow: &Workflow, sent: i64| workflow.recipient(&OutboxMessage { sent: Time(sent), ..message() });
    let run = |number: u8| Recipient::Run(RunId([number; 16]));
    for sent in [11, 20, 25, 30, 31] {
        assert_eq!(recipient(&workflow, sent), run(3), "{sent}");
    }
    // The run that was current at 10 may be the one before.
    let unless = |number: u8| Recipient::CurrentUnless { from: RunId([number; 16]) };
    assert_eq!(recipient(&workflow, 10), unless(0));
    let taken = workflow.runs.get_mut(&RunId([2; 16])).unwrap();
    taken.signal_requests.insert(message().id(), crate::state::SignalRequest);
    assert_eq!([5, 10, 11, 20, 30].map(|sent| recipient(&workflow, sent)), [run(2); 5]);
    assert_eq!(recipient(&workflow, 31), run(3), "an earlier run cannot have it");
    workflow.runs.remove(&RunId([2; 16]));
    assert_eq!(recipient(&workflow, 30), unless(2));
    assert_eq!(recipient(&workflow, 31), run(3));
    workflow.current = None;
    assert_eq!(recipient(&workflow, 30), Recipient::Nobody);
}

#[test]
fn ids_tell_messages_apart_and_are_always_the_same() {
    let id = message().id();
    assert_eq!(id, OutboxMessage::from_row(&message().to_row()).unwrap().id());
    assert_ne!(id, OutboxMessage { event_id: 6, ..message() }.id());
    assert_ne!(id, OutboxMessage { source_run_id: RunId([1; 16]), ..message() }.id());
}

#[test]
fn a_run_that_closes_is_told_from_the_one_that_had_started_the_child() {
    let parent = ParentClosed { initiated_event_id: 5, policy: ParentClosePolicy::RequestCancel.into() };
    let closed = OutboxMessage { body: MessageBody::ParentClosed(parent), ..message() };
    let id = closed.id();
    assert_eq!(OutboxMessage { origin_run_id: Some(RunId([4; 16])), ..closed.clone() }.id(), id);
    assert_ne!(OutboxMessage { source_run_id: RunId([4; 16]), ..closed }.id(), id);
}
