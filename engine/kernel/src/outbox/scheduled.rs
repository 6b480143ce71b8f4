//! What schedules and the workflows that they start say to each other.
//!
//! ```text
//!   schedule ── StartScheduled ──▶ workflow             settled: it was started, or something is in its way
//!   schedule ◀── ScheduledClosed ── the chain's last run
//!   schedule ── EndScheduled ──▶ the chain's current run
//! ```
//!
//! The schedule chooses the id of the first run, so that a start that is repeated finds what it has led to, and the end of a chain that is
//! told before the start is settled proves the start.

use everlog_proto::api::common::v1::Payloads;
use everlog_proto::api::enums::v1::WorkflowExecutionStatus;
use everlog_proto::api::failure::v1::Failure;
use everlog_proto::api::history::v1::history_event::Attributes;
use everlog_proto::api::workflowservice::v1::StartWorkflowExecutionRequest;
use prost::Message;

/// Asks for a workflow to be started. The run has the id that the message is for.
#[derive(Clone, PartialEq, Message)]
pub struct StartScheduled {
    /// What is to be started.
    #[prost(message, optional, tag = "1")]
    pub request: Option<StartWorkflowExecutionRequest>,
}

/// Ends a chain of runs, or asks it to end.
#[derive(Clone, PartialEq, Message)]
pub struct EndScheduled {
    /// The first run of the chain; another one has nothing to do with it.
    #[prost(string, tag = "1")]
    pub first_run_id: String,
    /// Whether it is terminated; asked to cancel otherwise.
    #[prost(bool, tag = "2")]
    pub terminates: bool,
    /// Why.
    #[prost(string, tag = "3")]
    pub reason: String,
    /// Who wants it.
    #[prost(string, tag = "4")]
    pub identity: String,
}

/// Tells that the last run of a chain has closed.
#[derive(Clone, PartialEq, Message)]
pub struct ScheduledClosed {
    /// The first run of the chain.
    #[prost(string, tag = "1")]
    pub first_run_id: String,
    /// How it has ended.
    #[prost(enumeration = "WorkflowExecutionStatus", tag = "2")]
    pub status: i32,
    /// The result of one that has completed.
    #[prost(message, optional, tag = "3")]
    pub result: Option<Payloads>,
    /// Why it has failed.
    #[prost(message, optional, tag = "4")]
    pub failure: Option<Failure>,
}

impl ScheduledClosed {
    /// What a schedule is told of the closing event of a chain's last run.
    pub(crate) fn by(first_run_id: String, status: i32, closing: Attributes) -> ScheduledClosed {
        let closed = ScheduledClosed { first_run_id, status, ..ScheduledClosed::default() };
        match closing {
            Attributes::WorkflowExecutionCompletedEventAttributes(a) => ScheduledClosed { result: a.result, ..closed },
            Attributes::WorkflowExecutionFailedEventAttributes(a) => ScheduledClosed { failure: a.failure, ..closed },
            _ => closed,
        }
    }
}
