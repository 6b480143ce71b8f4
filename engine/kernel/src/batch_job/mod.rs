//! Batch jobs: one operation on many workflows.
//!
//! A batch job is an entity of its own beside workflows, in the partition that its id hashes to. It knows what is to be done and how far that
//! has come. The work itself is calls to workflows, which may live anywhere, so it is done outside, by the node that leads the job's partition
//! (`engine/frontend/src/batch_jobs`):
//!
//! ```text
//!   Start ──▶ page 0 ──Advance(next page)──▶ page 1 ──Advance──▶ … ──Advance(none)──▶ completed ──retention──▶ gone
//!              │                              │ │                                        ▲
//!              │     Wake of the next lead,   │ ├──Advance(why not)──▶ failed ───────────┤
//!              └──── Resume: the same page ◀──┘ └──Stop──────────────▶ stopped ──────────┘
//! ```
//!
//! The page that is being worked on is in the rows, with the place in the list behind it. So a page that is interrupted is done again from its
//! beginning, by whoever leads then, and counts once; what was done before to a workflow of it is known there by an id that follows from the
//! job's. A step is one entry of the log a page.
//!
//! What is answered, and in which words, is what Temporal's workflow of service/worker/batcher/workflow.go makes of it.

mod decide;
mod rows;
mod show;
mod state;

pub use decide::decide;
pub use rows::BatchJobRows;
pub use state::{BatchJob, Page};

use everlog_proto::api::workflowservice::v1::{StartBatchOperationRequest, StopBatchOperationRequest};

use crate::{RunId, Time};

/// A command to a batch job.
#[derive(Clone, Debug)]
pub enum BatchJobCommand {
    /// Begins it. Answered by [`crate::Reply::Done`].
    Start(Box<StartBatchOperationRequest>),
    /// Ends it before its time. Answered by [`crate::Reply::Done`].
    Stop(Box<StopBatchOperationRequest>),
    /// Asks what is known of it. Answered by [`crate::Reply::BatchJob`].
    Describe,
    /// Somebody is about to work on it. Answered by [`crate::Reply::BatchWork`].
    Resume(RunId),
    /// A page is done. Answered by [`crate::Reply::BatchWork`], however often it comes: with what is to be done now.
    Advance(Box<Advance>),
    /// It is due: somebody has to work on it, or its time is over. Answered by [`crate::Reply::Done`].
    Wake,
    /// Deletes it, with all its rows. Answered by [`crate::Reply::Done`].
    Delete,
}

/// What is to be done for a job.
#[derive(Clone, Debug, PartialEq)]
pub struct Work {
    /// Which job it is, of all that had its id.
    pub run_id: RunId,
    /// When it was started.
    pub started: Time,
    /// What was asked for.
    pub request: StartBatchOperationRequest,
    /// The page that is to be worked on.
    pub page: Page,
}

/// What became of a page, and what comes next.
#[derive(Clone, Debug, PartialEq)]
pub struct Advance {
    /// Which job it is, of all that had its id.
    pub run_id: RunId,
    /// The page's number.
    pub page: i64,
    /// Workflows to which it was done, or that were not there.
    pub succeeded: i64,
    /// Workflows to which it could not be done.
    pub failed: i64,
    /// How many there are, told before the first of them.
    pub total: Option<i64>,
    /// What comes next.
    pub next: Next,
}

/// What comes after a page.
#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    /// Another one; it is given a number.
    Page(Page),
    /// Nothing: that was the last one.
    Completed,
    /// Nothing, because the list cannot be read.
    Failed(String),
}

impl BatchJobCommand {
    /// What it is called in logs.
    pub fn name(&self) -> &'static str {
        match self {
            BatchJobCommand::Start(_) => "StartBatchJob",
            BatchJobCommand::Stop(_) => "StopBatchJob",
            BatchJobCommand::Describe => "DescribeBatchJob",
            BatchJobCommand::Resume(_) => "ResumeBatchJob",
            BatchJobCommand::Advance(_) => "AdvanceBatchJob",
            BatchJobCommand::Wake => "WakeBatchJob",
            BatchJobCommand::Delete => "DeleteBatchJob",
        }
    }

    /// About what its payloads take, bytes.
    pub fn payload_bytes(&self) -> usize {
        use prost::Message;
        match self {
            BatchJobCommand::Start(request) => request.encoded_len(),
            BatchJobCommand::Stop(request) => request.encoded_len(),
            BatchJobCommand::Advance(advance) => match &advance.next {
                Next::Page(page) => page.encoded_len(),
                Next::Failed(why) => why.len(),
                Next::Completed => 0,
            },
            BatchJobCommand::Describe
            | BatchJobCommand::Resume(_)
            | BatchJobCommand::Wake
            | BatchJobCommand::Delete => 0,
        }
    }
}

#[cfg(test)]
pub(crate) mod golden;
#[cfg(test)]
mod tests;
