//! The end of a run without its workflow being asked.

use everlog_proto::api::common::v1::{Link, Payloads};
use everlog_proto::api::history::v1::history_event::Attributes;
use everlog_proto::api::history::v1::{HistoryEvent, WorkflowExecutionTerminatedEventAttributes};
use everlog_proto::api::workflowservice::v1::TerminateWorkflowExecutionRequest;

use crate::command::Reply;
use crate::txn::Txn;
use crate::{Rejection, validation, workflow_task};

/// Terminates an open run.
pub(crate) fn apply(txn: &mut Txn<'_>, request: TerminateWorkflowExecutionRequest) -> Result<Reply, Rejection> {
    if !txn.run.is_open() {
        return Err(Rejection::workflow_completed());
    }
    super::check_chain(&txn.run, &request.first_execution_run_id)?;
    validation::links(&request.links, txn.ctx.limits).map_err(Rejection::invalid)?;
    let or = |given: String, default: &str| if given.is_empty() { default.to_owned() } else { given };
    let reason = or(request.reason, "terminated by user via frontend");
    let identity = or(request.identity, "frontend-service");
    terminate(txn, reason, request.details, identity, request.links);
    Ok(Reply::Done)
}

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
