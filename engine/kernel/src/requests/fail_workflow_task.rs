//! RespondWorkflowTaskFailed: a worker could not process a workflow task.

use everlog_proto::api::history::v1::WorkflowTaskFailedEventAttributes;
use everlog_proto::api::workflowservice::v1::RespondWorkflowTaskFailedRequest;
use prost::Message;

use crate::command::Reply;
use crate::token::WorkflowTaskToken;
use crate::txn::Txn;
use crate::workflow_task::Named;
use crate::{Rejection, retry, workflow_task};

/// Records the failure, and schedules the next attempt at once: that workers fail every attempt is kept in bounds by the SDKs,
/// which report the first failure only and let later attempts time out.
pub(crate) fn apply(
    txn: &mut Txn<'_>,
    token: &WorkflowTaskToken,
    request: RespondWorkflowTaskFailedRequest,
) -> Result<Reply, Rejection> {
    if !txn.run.is_open() {
        return Err(Rejection::workflow_completed());
    }
    match workflow_task::find(txn, token)? {
        // The other worker may succeed.
        Named::GivenAway => return Err(Rejection::workflow_task_not_found()),
        named => workflow_task::started(txn, named, token, &request.identity)?,
    };
    let bytes_max = txn.ctx.limits.blob_bytes_max;
    let failure = request.failure.map(|failure| {
        if failure.encoded_len() > bytes_max { retry::too_large(&failure, bytes_max / 4, true) } else { failure }
    });
    #[expect(deprecated, reason = "old workers send these, and old tools show them")]
    let attributes = WorkflowTaskFailedEventAttributes {
        cause: request.cause,
        failure,
        identity: request.identity,
        binary_checksum: request.binary_checksum,
        ..WorkflowTaskFailedEventAttributes::default()
    };
    workflow_task::fail(txn, attributes);
    Ok(Reply::Done)
}
