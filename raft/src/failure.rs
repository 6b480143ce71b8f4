//! The first failure of an engine, on its way to whoever ends the process.

use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use everlog_storage::state::StateError;
use tokio::sync::watch;

use crate::node::NodeError;

/// How long to wait before a write that found no space is tried again.
const ROOM_RETRY_INTERVAL: Duration = Duration::from_millis(200);

/// Where log stores and state machines report that an engine failed. Shared by everything on a node.
///
/// A failed fsync is never retried: what the disk holds is unknown from then on, so the process must end and recover.
#[derive(Clone)]
pub(crate) struct FailureReport(Arc<Inner>);

struct Inner {
    first: watch::Sender<Option<NodeError>>,
    closing: AtomicBool,
    /// Nobody waits for room any more.
    stopping: AtomicBool,
    /// Somebody waits for room.
    is_short: AtomicBool,
}

impl FailureReport {
    pub(crate) fn new() -> FailureReport {
        FailureReport(Arc::new(Inner {
            first: watch::Sender::new(None),
            closing: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            is_short: AtomicBool::new(false),
        }))
    }

    /// Reports a failure; the first one counts.
    pub(crate) fn report(&self, failure: impl Display) {
        if self.0.closing.load(Ordering::Acquire) {
            return;
        }
        let first = self.0.first.send_if_modified(|first| {
            let is_first = first.is_none();
            if is_first {
                *first = Some(NodeError(failure.to_string()));
            }
            is_first
        });
        if first {
            tracing::error!(%failure, "storage failed, the node must stop");
        }
    }

    /// Whether a write that failed may be tried again, which is so for want of space as long as the node is not being stopped. Takes a
    /// moment: what waits here is in the log, and nothing is lost.
    pub(crate) async fn waits_for_room(&self, error: &StateError) -> bool {
        if !error.is_exhausted() || self.0.stopping.load(Ordering::Acquire) {
            return false;
        }
        if !self.0.is_short.swap(true, Ordering::AcqRel) {
            tracing::error!(%error, "the rows wait for room on the disk");
        }
        tokio::time::sleep(ROOM_RETRY_INTERVAL).await;
        true
    }

    /// A write that may have waited was done.
    pub(crate) fn has_room(&self) {
        if self.0.is_short.load(Ordering::Acquire) && self.0.is_short.swap(false, Ordering::AcqRel) {
            tracing::info!("the rows have room again");
        }
    }

    /// The node is being stopped: what waits for room gives up.
    pub(crate) fn stop_waiting(&self) {
        self.0.stopping.store(true, Ordering::Release);
    }

    /// The first failure, if there was one.
    pub(crate) fn first(&self) -> Option<NodeError> {
        self.0.first.borrow().clone()
    }

    /// Stops listening: the engines are being closed, and what fails now was not acknowledged.
    pub(crate) fn close(&self) {
        self.0.closing.store(true, Ordering::Release);
    }

    /// Resolves with the first failure; never, if there is none.
    pub(crate) async fn wait(&self) -> NodeError {
        let mut first = self.0.first.subscribe();
        loop {
            if let Some(failure) = first.borrow_and_update().clone() {
                return failure;
            }
            first.changed().await.expect("self keeps the sender");
        }
    }
}
