//! A child hears that its parent has closed.

use everlog_proto::api::common::v1::WorkflowExecution;
use everlog_proto::api::enums::v1::ParentClosePolicy;
use everlog_proto::api::history::v1::WorkflowExecutionCancelRequestedEventAttributes;
use everlog_proto::api::history::v1::history_event::Attributes;

use crate::RunId;
use crate::command::Reply;
use crate::outbox::{OutboxMessage, ParentClosed, child_run_id};
use crate::terminate::terminate;
use crate::txn::Txn;
use crate::workflow_task::{self, SERVER_IDENTITY};

/// Ends the run, or asks it to end, if it is one of the child's: another workflow of the same id has nothing to do with it.
pub(super) fn apply(txn: &mut Txn<'_>, source: WorkflowExecution, origin: RunId, closed: ParentClosed) -> Reply {
    let first_run_id = child_run_id(origin, closed.initiated_event_id);
    if !txn.run.is_open() || txn.run.first_run_id() != first_run_id {
        return Reply::Done;
    }
    match closed.policy() {
        ParentClosePolicy::Terminate => {
            terminate(txn, "by parent close policy".to_owned(), None, SERVER_IDENTITY.to_owned(), Vec::new());
            // The parent would not listen any more.
            drop(txn.take_closing());
        }
        ParentClosePolicy::RequestCancel if !txn.run.state.cancel_requested => {
            txn.record(Attributes::WorkflowExecutionCancelRequestedEventAttributes(
                WorkflowExecutionCancelRequestedEventAttributes {
                    external_initiated_event_id: OutboxMessage::NO_EVENT,
                    external_workflow_execution: Some(source),
                    identity: SERVER_IDENTITY.to_owned(),
                    ..WorkflowExecutionCancelRequestedEventAttributes::default()
                },
            ));
            workflow_task::ensure_scheduled(txn);
        }
        ParentClosePolicy::RequestCancel | ParentClosePolicy::Abandon | ParentClosePolicy::Unspecified => {}
    }
    Reply::Done
}
