//! What a call to a partition ends with.

use bytes::Bytes;
use everlog_kernel::{Rejection, RunId};

/// Why a call to a partition gave no reply.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CallError {
    /// The command was refused.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// As [`CallError::Unavailable`], but nothing was done: another node may lead the partition by now.
    #[error("{0}")]
    NotDone(String),
    /// The partition cannot answer now; the caller may try again. The command may have been carried out.
    #[error("{0}")]
    Unavailable(String),
    /// Too much is waiting already.
    #[error("{0}")]
    Overloaded(String),
    /// The server failed on this very command; to try again will not help.
    #[error("{0}")]
    Failed(String),
    /// What is stored cannot be read.
    #[error("{0}")]
    Corrupt(String),
}

/// What is known of a run, as far as it is durable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunView {
    /// The run.
    pub run_id: RunId,
    /// The first event id that the history does not have yet.
    pub next_event_id: i64,
    /// Whether the run is open.
    pub is_open: bool,
    /// Encoded events behind the stored history: those of the workflow task that a worker has in hand, as it was sent them.
    pub tail: Bytes,
    /// Whether that task's start is written, so that these events stay what they are.
    pub tail_is_saved: bool,
    /// Of a pending transient task, the events that others are shown in their place; they may never be stored.
    pub transient: Option<Bytes>,
}
