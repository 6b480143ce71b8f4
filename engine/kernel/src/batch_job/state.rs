//! What a batch job knows.

use everlog_proto::api::common::v1::WorkflowExecution;
use everlog_proto::api::workflowservice::v1::StartBatchOperationRequest;
use prost::Message;

use super::Work;
use crate::{RunId, Standing, Time};

/// A batch job, or the place of one that is not there.
#[derive(Clone, Debug, Default)]
pub struct BatchJob {
    /// Its id.
    pub id: String,
    pub(crate) live: Option<Box<Live>>,
}

/// A batch job that is there.
#[derive(Clone, Debug)]
pub(crate) struct Live {
    /// Tells it apart from others that had its id before.
    pub(super) run_id: RunId,
    pub(super) asked: Asked,
    pub(super) progress: Progress,
}

/// What was asked for. Written once.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Asked {
    #[prost(message, optional, tag = "1")]
    pub(super) request: Option<StartBatchOperationRequest>,
    /// Names the request that has started it.
    #[prost(string, tag = "2")]
    pub(super) request_id: String,
}

/// How far it has come. Written with every change.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Progress {
    #[prost(sfixed64, tag = "1")]
    pub(super) started: i64,
    #[prost(sfixed64, optional, tag = "2")]
    pub(super) closed: Option<i64>,
    #[prost(enumeration = "Status", tag = "3")]
    pub(super) status: i32,
    /// How many workflows there were when it began.
    #[prost(int64, tag = "4")]
    pub(super) total: i64,
    #[prost(int64, tag = "5")]
    pub(super) succeeded: i64,
    #[prost(int64, tag = "6")]
    pub(super) failed: i64,
    /// What is being worked on; empty once it is closed.
    #[prost(message, optional, tag = "7")]
    pub(super) page: Option<Page>,
    /// Why it was stopped, or has failed.
    #[prost(string, tag = "8")]
    pub(super) why: String,
    /// Who has stopped it.
    #[prost(string, tag = "9")]
    pub(super) stopped_by: String,
    /// The wake row that is written.
    #[prost(sfixed64, optional, tag = "10")]
    pub(super) wake_at: Option<i64>,
}

/// Workflows that are worked on together.
#[derive(Clone, PartialEq, Message)]
pub struct Page {
    /// 0 for the place before the first page: nothing has been read yet.
    #[prost(int64, tag = "1")]
    pub number: i64,
    /// The workflows.
    #[prost(message, repeated, tag = "2")]
    pub executions: Vec<WorkflowExecution>,
    /// Where the next page begins.
    #[prost(bytes = "vec", tag = "3")]
    pub next: Vec<u8>,
    /// Whether there is none.
    #[prost(bool, tag = "4")]
    pub is_last: bool,
}

/// What a job is doing, by the numbers of `WorkflowExecutionStatus`: a query for the jobs that run asks for those of the same status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub(super) enum Status {
    Unspecified = 0,
    Running = 1,
    Completed = 2,
    Failed = 3,
    Stopped = 5,
}

impl BatchJob {
    /// The place of a batch job.
    pub fn new(id: impl Into<String>) -> BatchJob {
        BatchJob { id: id.into(), live: None }
    }

    /// Whether it is there.
    pub fn exists(&self) -> bool {
        self.live.is_some()
    }

    /// When it is to be deleted, and under which run id its wake stands. One that runs needs no look from who leads it already.
    pub fn next_look(&self) -> Option<(RunId, Time)> {
        let live = self.live.as_ref().filter(|live| !live.is_running())?;
        Some((live.run_id, Time(live.progress.wake_at?)))
    }

    /// How it stands: it is a step of the server for as long as it runs.
    pub fn standing(&self) -> Standing {
        let is_running = self.live.as_ref().is_some_and(|live| live.is_running());
        Standing { steps: usize::from(is_running), ..Standing::default() }
    }

    /// Rough size in memory, bytes.
    pub fn memory_bytes(&self) -> usize {
        let live = self.live.as_ref().map_or(0, |live| {
            // Decoded.
            size_of::<Live>() + 2 * (live.asked.encoded_len() + live.progress.encoded_len())
        });
        self.id.len() + live
    }
}

impl Live {
    pub(super) fn is_running(&self) -> bool {
        self.progress.closed.is_none()
    }

    /// What is to be done now; nothing, if it is closed or another one is meant.
    pub(super) fn work(&self, run_id: RunId) -> Option<Box<Work>> {
        if !self.is_running() || run_id != self.run_id {
            return None;
        }
        Some(Box::new(Work {
            run_id,
            started: Time(self.progress.started),
            request: self.asked.request.clone().unwrap_or_default(),
            page: self.progress.page.clone().unwrap_or_default(),
        }))
    }
}
