//! Schedules: workflows that are started at times that a spec gives.
//!
//! A schedule is an entity of its own beside workflows, in the partition that its id hashes to. [`spec`] says when it is due, in pure
//! arithmetic; [`decide`] is what it does about that. Everything else it leaves to messages, because the workflows that it starts may live
//! in other partitions (see [`crate::outbox`]):
//!
//! ```text
//!   Wake ──▶ what is due is buffered ──overlap policy──▶ starting ── StartScheduled ──▶ workflow
//!                                                          │ settled
//!                                                          ▼
//!                  Hear ◀── ScheduledClosed ── the last run of the chain          running ── EndScheduled ──▶ workflow
//! ```
//!
//! What it does, and in which order, is what Temporal's service/worker/scheduler/workflow.go does.

mod actions;
mod advance;
mod check;
mod decide;
mod hear;
mod overlap;
mod rows;
mod show;
pub mod spec;
mod state;

pub use check::check_action;
pub use decide::decide;
pub use rows::ScheduleRows;
pub use state::{Schedule, jitter_seed};

use bytes::Bytes;
use everlog_proto::api::workflowservice::v1::{CreateScheduleRequest, PatchScheduleRequest, UpdateScheduleRequest};

use crate::RunId;
use crate::outbox::{OutboxMessage, Outcome};

/// A command to a schedule.
#[derive(Clone, Debug)]
pub enum ScheduleCommand {
    /// Creates it; its spec is canonical. Answered by [`crate::Reply::ScheduleToken`].
    Create(Box<CreateScheduleRequest>),
    /// Replaces what it is made of; its spec is canonical. Answered by [`crate::Reply::Done`].
    Update(Box<UpdateScheduleRequest>),
    /// Has it act now, act for a time that has passed, or pause. Answered by [`crate::Reply::Done`].
    Patch(Box<PatchScheduleRequest>),
    /// Deletes it, with all its rows. Workflows that it has started go on. Answered by [`crate::Reply::Done`].
    Delete,
    /// Asks what is known of it. Answered by [`crate::Reply::Schedule`].
    Describe,
    /// It is due. Answered by [`crate::Reply::Done`].
    Wake,
    /// A workflow that it has started tells that it has ended. Answered by [`crate::Reply::Done`], however often it comes.
    Hear(Box<OutboxMessage>),
    /// It is known what became of a message that it has sent. Answered by [`crate::Reply::Done`], however often it comes.
    Settle {
        /// Which schedule of that id has sent it.
        run_id: RunId,
        /// The number of the message.
        number: i64,
        /// What became of it.
        outcome: Outcome,
    },
}

impl ScheduleCommand {
    /// What it is called in logs.
    pub fn name(&self) -> &'static str {
        match self {
            ScheduleCommand::Create(_) => "CreateSchedule",
            ScheduleCommand::Update(_) => "UpdateSchedule",
            ScheduleCommand::Patch(_) => "PatchSchedule",
            ScheduleCommand::Delete => "DeleteSchedule",
            ScheduleCommand::Describe => "DescribeSchedule",
            ScheduleCommand::Wake => "WakeSchedule",
            ScheduleCommand::Hear(_) => "HearOfScheduled",
            ScheduleCommand::Settle { .. } => "SettleScheduled",
        }
    }

    /// About what its payloads take, bytes.
    pub fn payload_bytes(&self) -> usize {
        use prost::Message;
        match self {
            ScheduleCommand::Create(request) => request.encoded_len(),
            ScheduleCommand::Update(request) => request.encoded_len(),
            ScheduleCommand::Patch(request) => request.encoded_len(),
            ScheduleCommand::Hear(message) => message.payload_bytes(),
            ScheduleCommand::Delete
            | ScheduleCommand::Describe
            | ScheduleCommand::Wake
            | ScheduleCommand::Settle { .. } => 0,
        }
    }
}

/// A conflict token as clients have it: eight bytes, big-endian.
pub(crate) fn token(number: i64) -> Vec<u8> {
    number.to_be_bytes().to_vec()
}

/// A message as it lies in a row.
fn encoded(message: &impl prost::Message) -> Bytes {
    message.encode_to_vec().into()
}

#[cfg(test)]
pub(crate) mod golden;
#[cfg(test)]
mod tests;
