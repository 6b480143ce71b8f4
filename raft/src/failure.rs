//! The first failure of an engine, on its way to whoever ends the process.

use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;

use crate::node::NodeError;

/// Where log stores and state machines report that an engine failed. Shared by everything on a node.
///
/// A failed fsync is never retried: what the disk holds is unknown from then on, so the process must end and recover.
#[derive(Clone)]
pub(crate) struct FailureReport(Arc<Inner>);

struct Inner {
    first: watch::Sender<Option<NodeError>>,
    closing: AtomicBool,
}

impl FailureReport {
    pub(crate) fn new() -> FailureReport {
        FailureReport(Arc::new(Inner { first: watch::Sender::new(None), closing: AtomicBool::new(false) }))
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
