//! A request to cancel a workflow, which the workflow may obey, and when, as it likes.

use everlog_proto::api::history::v1::history_event::Attributes;
use everlog_proto::api::history::v1::{HistoryEvent, WorkflowExecutionCancelRequestedEventAttributes};
use everlog_proto::api::workflowservice::v1::RequestCancelWorkflowExecutionRequest;

use crate::command::Reply;
use crate::txn::Txn;
use crate::{Rejection, validation, workflow_task};

/// Records the request. Once is enough: later ones, and those to a closed run, succeed and change nothing. It ends the delay of
/// the run's first workflow task.
pub(crate) fn apply(txn: &mut Txn<'_>, request: RequestCancelWorkflowExecutionRequest) -> Result<Reply, Rejection> {
    if !txn.run.is_open() {
        return Ok(Reply::Done);
    }
    super::check_chain(&txn.run, &request.first_execution_run_id)?;
    validation::check_links(&request.links, txn.ctx.limits)?;
    if txn.run.state.cancel_requested {
        return Ok(Reply::Done);
    }
    txn.record_event(HistoryEvent {
        attributes: Some(Attributes::WorkflowExecutionCancelRequestedEventAttributes(
            WorkflowExecutionCancelRequestedEventAttributes {
                cause: request.reason,
                identity: request.identity,
                ..WorkflowExecutionCancelRequestedEventAttributes::default()
            },
        )),
        links: request.links,
        ..HistoryEvent::default()
    });
    workflow_task::ensure_scheduled(txn);
    Ok(Reply::Done)
}
