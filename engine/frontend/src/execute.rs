//! Commands to partitions, with errors as callers know them.

use everlog_kernel::command::Reply;
use everlog_kernel::{Command, Rejection, RunId};
use everlog_model::{CallError, WorkflowRef};

use super::errors::Error;
use super::{Frontend, Services};

impl Services {
    /// Carries out a command.
    pub(super) async fn execute(
        &self,
        address: WorkflowRef,
        run_id: Option<RunId>,
        command: impl Into<Command>,
    ) -> Result<Reply, Error> {
        self.router.execute(address.clone(), run_id, command).await.map_err(|error| explain(error, &address, run_id))
    }
}

impl Frontend {
    /// Carries out a command whose reply says nothing.
    pub(super) async fn execute_done(
        &self,
        address: WorkflowRef,
        run_id: Option<RunId>,
        command: impl Into<Command>,
    ) -> Result<(), Error> {
        match self.execute(address, run_id, command).await? {
            Reply::Done => Ok(()),
            reply => Err(unexpected(&reply)),
        }
    }
}

/// Says which workflow was not found: the kernel does not know what the caller named.
pub(super) fn explain(error: CallError, address: &WorkflowRef, run_id: Option<RunId>) -> Error {
    let CallError::Rejected(rejection) = error else { return error.into() };
    if rejection != Rejection::workflow_not_found() {
        return rejection.into();
    }
    let workflow_id = &address.workflow_id;
    Error::not_found(match run_id {
        Some(run_id) => {
            format!("workflow execution not found for workflow ID \"{workflow_id}\" and run ID \"{run_id}\"")
        }
        None => format!("workflow not found for ID: {workflow_id}"),
    })
}

/// The kernel answered something else than it promises: a bug, which must not take the server down.
pub(super) fn unexpected(reply: &Reply) -> Error {
    tracing::error!(?reply, "unexpected reply to a command");
    Error::Internal("unexpected reply to a command".to_owned())
}
