//! Activities that are no workflow's: started, attempted and ended on their own ("standalone").
//!
//! An activity is an entity of its own beside workflows, in the partition that its id hashes to. An id may have been used before: each time
//! it is another run, and the last one is the current one. What an attempt is, how a worker speaks of it and when it is followed by another
//! is the same as of a workflow's activity ([`crate::state::Activity`]); whether it goes on is told by a status:
//!
//! ```text
//!                  ┌────────────────────── fails, and is attempted again ─────────────────────┐
//!                  ▼                                                                          │
//!   Start ──▶ Scheduled ──StartTask──▶ Started ──Pause──▶ PauseRequested ──fails──▶ Paused    │
//!                 │ ▲ └───Pause──▶ Paused │ └───Reset──▶ ResetRequested ──fails──▶ Scheduled ─┘
//!                 │ └──Unpause, Reset──┘  │                                     or Paused
//!                 └──RequestCancel──▶ CancelRequested ──▶ Canceled (at once, if no attempt goes on)
//!
//!   any of them ──▶ Completed, Failed, TimedOut, Terminated ──retention──▶ gone
//! ```
//!
//! Unlike a workflow's activity, one that is paused still times out, and a reset waits for the attempt that goes on. Every change is in the
//! rows before anybody hears of it, also that an attempt was started. What is answered, and in which words, is what Temporal's
//! chasm/lib/activity makes of it.

mod attempts;
mod decide;
mod operators;
mod rows;
mod show;
mod start;
mod state;

pub use decide::decide;
pub use rows::ActivityExecutionRows;
pub use start::ValidActivityStart;
pub use state::ActivityExecutions;

/// The number of the activity in its own rows and tasks, where a workflow's have the event that has scheduled them.
pub const SCHEDULED_EVENT_ID: i64 = 1;

use everlog_proto::api::workflowservice::v1::{
    DescribeActivityExecutionRequest, PauseActivityExecutionRequest, RequestCancelActivityExecutionRequest,
    ResetActivityExecutionRequest, TerminateActivityExecutionRequest, UnpauseActivityExecutionRequest,
    UpdateActivityExecutionOptionsRequest,
};

use crate::RunCommand;

/// A command to the activity of an id; all but a start go to the run that is named, or to the current one.
#[derive(Clone, Debug)]
pub enum ActivityExecutionCommand {
    /// Starts one. Answered by [`crate::command::Reply::ActivityExecutionStarted`].
    Start(Box<ValidActivityStart>),
    /// Asks what is known of it. Answered by [`crate::command::Reply::ActivityExecution`].
    Describe(Box<DescribeActivityExecutionRequest>),
    /// What a worker says of an attempt, or that one is at hand: as of a workflow's activity, and answered like that.
    OfWorker(Box<RunCommand>),
    /// Answered by [`crate::command::Reply::Done`].
    RequestCancel(Box<RequestCancelActivityExecutionRequest>),
    /// Answered by [`crate::command::Reply::Done`].
    Terminate(Box<TerminateActivityExecutionRequest>),
    /// Answered by [`crate::command::Reply::Done`].
    Pause(Box<PauseActivityExecutionRequest>),
    /// Answered by [`crate::command::Reply::Done`].
    Unpause(Box<UnpauseActivityExecutionRequest>),
    /// Answered by [`crate::command::Reply::Done`].
    Reset(Box<ResetActivityExecutionRequest>),
    /// Answered by [`crate::command::Reply::ActivityOptions`].
    UpdateOptions(Box<UpdateActivityExecutionOptionsRequest>),
    /// Ends it, if it has not, and forgets it. Answered by [`crate::command::Reply::Done`].
    Delete,
    /// Something of it may be due. Answered by [`crate::command::Reply::Done`].
    Wake,
}

impl ActivityExecutionCommand {
    /// What it is called in logs.
    pub fn name(&self) -> &'static str {
        match self {
            ActivityExecutionCommand::Start(_) => "StartActivityExecution",
            ActivityExecutionCommand::Describe(_) => "DescribeActivityExecution",
            ActivityExecutionCommand::OfWorker(command) => command.name(),
            ActivityExecutionCommand::RequestCancel(_) => "RequestCancelActivityExecution",
            ActivityExecutionCommand::Terminate(_) => "TerminateActivityExecution",
            ActivityExecutionCommand::Pause(_) => "PauseActivityExecution",
            ActivityExecutionCommand::Unpause(_) => "UnpauseActivityExecution",
            ActivityExecutionCommand::Reset(_) => "ResetActivityExecution",
            ActivityExecutionCommand::UpdateOptions(_) => "UpdateActivityExecutionOptions",
            ActivityExecutionCommand::Delete => "DeleteActivityExecution",
            ActivityExecutionCommand::Wake => "WakeActivityExecution",
        }
    }

    /// What a worker says, if it is that.
    pub fn of_worker(&self) -> Option<&RunCommand> {
        match self {
            ActivityExecutionCommand::OfWorker(command) => Some(command),
            _ => None,
        }
    }

    /// About what its payloads take, bytes; not of what a worker says.
    pub fn payload_bytes(&self) -> usize {
        match self {
            ActivityExecutionCommand::Start(start) => start.payload_bytes(),
            ActivityExecutionCommand::RequestCancel(request) => request.reason.len(),
            ActivityExecutionCommand::Terminate(request) => request.reason.len(),
            ActivityExecutionCommand::Pause(request) => request.reason.len(),
            _ => 0,
        }
    }
}

#[cfg(test)]
pub(crate) mod golden;
#[cfg(test)]
mod tests;
