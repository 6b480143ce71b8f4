//! Refusals: the caller's fault, or a rule. A rejection changes nothing.

use std::borrow::Cow;

use everlog_proto::api::enums::v1::ResourceExhaustedCause;
use everlog_proto::api::failure::v1::Failure;

/// Why a command was refused. Each kind maps to exactly one gRPC status and error detail, in the frontend's table.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Rejection {
    /// The request can never succeed as it is.
    #[error("{0}")]
    InvalidArgument(Cow<'static, str>),
    /// The workflow, run, task or activity is not there, or is closed.
    #[error("{0}")]
    NotFound(Cow<'static, str>),
    /// A run that stands in the way of a start.
    #[error("{message}")]
    AlreadyStarted {
        /// What Temporal says.
        message: String,
        /// The request id that the standing run was started with.
        start_request_id: String,
        /// The standing run.
        run_id: String,
        /// The first run of its chain.
        first_execution_run_id: String,
    },
    /// An activity that stands in the way of a start.
    #[error("activity execution already started")]
    ActivityAlreadyStarted {
        /// The request id that it was started with.
        start_request_id: String,
        /// Its run.
        run_id: String,
    },
    /// What is to be created is there already.
    #[error("{0}")]
    AlreadyExists(Cow<'static, str>),
    /// The run belongs to another chain than the one that was named.
    #[error("workflow execution not found")]
    OtherChain,
    /// The workflow cannot serve the request in its present state.
    #[error("{0}")]
    WorkflowNotReady(Cow<'static, str>),
    /// A precondition does not hold.
    #[error("{0}")]
    FailedPrecondition(Cow<'static, str>),
    /// A limit was reached; try later.
    #[error("{message}")]
    ResourceExhausted {
        /// Which limit.
        cause: ResourceExhaustedCause,
        /// What Temporal says.
        message: Cow<'static, str>,
    },
    /// The worker's query handler failed.
    #[error("{message}")]
    QueryFailed {
        /// The failure's message.
        message: String,
        /// The failure, for the caller to decode.
        failure: Option<Box<Failure>>,
    },
    /// This build does not do that.
    #[error("{0}")]
    Unimplemented(Cow<'static, str>),
    /// The update that came with a start cannot be taken; the start could have been.
    #[error("{0}")]
    OfUpdate(Box<Rejection>),
    /// Retry: the state that was asked for is gone or moving.
    #[error("{0}")]
    Unavailable(Cow<'static, str>),
}

impl Rejection {
    /// There is no such workflow or run.
    pub fn workflow_not_found() -> Rejection {
        Rejection::NotFound("workflow execution not found".into())
    }

    /// The run is closed.
    pub fn workflow_completed() -> Rejection {
        Rejection::NotFound("workflow execution already completed".into())
    }

    /// The run is about to close: what comes now is for later, or for the next run.
    pub fn workflow_closing() -> Rejection {
        Rejection::ResourceExhausted {
            cause: ResourceExhaustedCause::BusyWorkflow,
            message: "workflow operation can not be applied because workflow is closing".into(),
        }
    }

    /// The run has closed before its workflow accepted the update.
    pub fn update_aborted() -> Rejection {
        Rejection::NotFound("workflow update was aborted by closing workflow".into())
    }

    /// The workflow task that a token names is no longer the started one.
    pub fn workflow_task_not_found() -> Rejection {
        Rejection::NotFound("Workflow task not found.".into())
    }

    /// The activity that a token or an id names is not there.
    pub fn activity_not_found() -> Rejection {
        Rejection::NotFound("invalid activityID or activity already timed out or invoking workflow is completed".into())
    }

    /// There is no such activity among those that are no workflow's.
    pub fn activity_execution_not_found(activity_id: &str) -> Rejection {
        Rejection::NotFound(format!("activity not found for ID: {activity_id}").into())
    }

    /// No pending activity is the one, or of the type, that an operator names.
    pub fn no_such_activity() -> Rejection {
        Rejection::NotFound(
            "Can't find pending activity with such ID. Invalid activityID or activity already completed".into(),
        )
    }

    /// An invalid argument with a fixed text.
    pub fn invalid(message: impl Into<Cow<'static, str>>) -> Rejection {
        Rejection::InvalidArgument(message.into())
    }
}
