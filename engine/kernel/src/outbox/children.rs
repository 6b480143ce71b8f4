//! What parents and children say to each other.
//!
//! ```text
//!   parent ── StartChild ──▶ child                    the parent hears: started, or why not, when the message is settled
//!   parent ◀── ChildClosed ── the chain's last run
//!   parent ── ParentClosed ──▶ child's chain          according to the child's parent close policy
//! ```
//!
//! Messages from parent to child stay in order, so that the child is there before it is told of anything. The two directions know
//! nothing of each other: the end of a child may arrive before it is settled that it was started. It says that as well, so the
//! parent records the start first, and later has nothing more to record ([`child_run_id`] tells it which run that was).

use bytes::Bytes;
use everlog_proto::api::common::v1::{Payloads, Priority, WorkflowExecution};
use everlog_proto::api::enums::v1::{ParentClosePolicy, RetryState, WorkflowExecutionStatus};
use everlog_proto::api::failure::v1::Failure;
use everlog_proto::api::history::v1::StartChildWorkflowExecutionInitiatedEventAttributes;
use everlog_proto::api::history::v1::history_event::Attributes;
use everlog_proto::api::sdk::v1::UserMetadata;
use prost::Message;

use crate::inheritance::Inherited;
use crate::{Ids, RunId};

/// The first run of the child whose start a run has initiated with an event. It follows from these two, so that a start that is
/// repeated finds the run that it has led to, whatever has become of that.
pub fn child_run_id(parent_run_id: RunId, initiated_event_id: i64) -> RunId {
    let mut ids = Ids::new(super::seed(parent_run_id, initiated_event_id));
    // The first id is that of the message.
    let _ = ids.request_id();
    ids.run_id_after(parent_run_id)
}

/// What the request id of such a start is, as Temporal forms it: run, event, and the event's version.
pub(crate) fn start_request_id(parent_run_id: RunId, initiated_event_id: i64) -> String {
    format!("{parent_run_id}:{initiated_event_id}:0")
}

/// Asks for a child to be started.
#[derive(Clone, PartialEq, Message)]
pub struct StartChild {
    /// What the parent's event says.
    #[prost(message, required, tag = "1")]
    pub initiated: StartChildWorkflowExecutionInitiatedEventAttributes,
    /// The workflow that has no parent, at the top of the family.
    #[prost(message, optional, tag = "2")]
    pub root: Option<WorkflowExecution>,
    /// The child's priority, with what it has from its parent.
    #[prost(message, optional, tag = "3")]
    pub priority: Option<Priority>,
    /// Summary and details of the command.
    #[prost(message, optional, tag = "4")]
    pub user_metadata: Option<UserMetadata>,
    /// What it has of versions.
    #[prost(message, optional, tag = "5")]
    pub versioning: Option<Inherited>,
}

/// Tells that a child's last run has closed.
#[derive(Clone, PartialEq, Message)]
pub struct ChildClosed {
    /// The parent's event with which the child began.
    #[prost(int64, tag = "1")]
    pub initiated_event_id: i64,
    /// How it has ended.
    #[prost(enumeration = "WorkflowExecutionStatus", tag = "2")]
    pub status: i32,
    /// The result of one that has completed, the details of one that was canceled.
    #[prost(message, optional, tag = "3")]
    pub payloads: Option<Payloads>,
    /// Why it has failed.
    #[prost(message, optional, tag = "4")]
    pub failure: Option<Failure>,
    /// Why one that failed or timed out is not tried again.
    #[prost(enumeration = "RetryState", tag = "5")]
    pub retry_state: i32,
    /// The first run of its chain. Empty in messages of older versions.
    #[prost(string, tag = "6")]
    pub first_run_id: String,
}

/// Tells that a parent's run has closed.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct ParentClosed {
    /// The parent's event with which the child began.
    #[prost(int64, tag = "1")]
    pub initiated_event_id: i64,
    /// What is to become of the child.
    #[prost(enumeration = "ParentClosePolicy", tag = "2")]
    pub policy: i32,
}

impl ChildClosed {
    /// What a parent is told of the closing event of a child's last run. `None` if it is no such event.
    pub(crate) fn by(initiated_event_id: i64, first_run_id: RunId, closing: Attributes) -> Option<ChildClosed> {
        use WorkflowExecutionStatus as Status;
        let closed = |status: Status| ChildClosed {
            initiated_event_id,
            status: status.into(),
            first_run_id: first_run_id.to_string(),
            ..ChildClosed::default()
        };
        Some(match closing {
            Attributes::WorkflowExecutionCompletedEventAttributes(a) => {
                ChildClosed { payloads: a.result, ..closed(Status::Completed) }
            }
            Attributes::WorkflowExecutionFailedEventAttributes(a) => {
                ChildClosed { failure: a.failure, retry_state: a.retry_state, ..closed(Status::Failed) }
            }
            Attributes::WorkflowExecutionCanceledEventAttributes(a) => {
                ChildClosed { payloads: a.details, ..closed(Status::Canceled) }
            }
            Attributes::WorkflowExecutionTimedOutEventAttributes(a) => {
                ChildClosed { retry_state: a.retry_state, ..closed(Status::TimedOut) }
            }
            Attributes::WorkflowExecutionTerminatedEventAttributes(_) => closed(Status::Terminated),
            _ => return None,
        })
    }

    /// Whether it says something that can be recorded.
    pub(super) fn is_end(&self) -> bool {
        use WorkflowExecutionStatus as Status;
        matches!(
            self.status(),
            Status::Completed | Status::Failed | Status::Canceled | Status::TimedOut | Status::Terminated
        )
    }
}

/// A message of one of these kinds, as it lies in a row.
pub(super) fn encoded(message: &impl Message) -> Option<Bytes> {
    Some(message.encode_to_vec().into())
}
