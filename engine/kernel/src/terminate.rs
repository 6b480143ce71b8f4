//! The end of a run without its workflow being asked.

use everlog_proto::api::common::v1::{Link, Payloads};
use everlog_proto::api::history::v1::history_event::Attributes;
use everlog_proto::api::history::v1::{HistoryEvent, WorkflowExecutionTerminatedEventAttributes};

use crate::txn::Txn;
use crate::workflow_task;

/// Terminates an open run, whoever wants it. A workflow task in a worker's hands fails first, and what happened while it was in
/// progress is in the history before the end.
pub(crate) fn terminate(
    txn: &mut Txn<'_>,
    reason: String,
    details: Option<Payloads>,
    identity: String,
    links: Vec<Link>,
) {
    workflow_task::force_close(txn);
    txn.append_event(HistoryEvent {
        attributes: Some(Attributes::WorkflowExecutionTerminatedEventAttributes(
            WorkflowExecutionTerminatedEventAttributes { reason, details, identity },
        )),
        links,
        ..HistoryEvent::default()
    });
    txn.close();
}
