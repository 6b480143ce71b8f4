//! The runs whose retention is over here and that are to be archived before they go: whoever archives takes them from here.
//!
//! A run that is lost on the way, or for which there is no room, is asked for again by itself: see [`everlog_kernel::archive`]. One that
//! waits, or is being archived, is not taken a second time.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use everlog_kernel::{NamespaceId, RunId};
use everlog_model::{WorkflowRef, limits};
use parking_lot::Mutex;
use tokio::sync::Notify;

/// The runs that wait to be archived. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct ExpiredRuns(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    runs: Mutex<Runs>,
    more: Notify,
}

#[derive(Debug, Default)]
struct Runs {
    waiting: VecDeque<(WorkflowRef, RunId)>,
    /// Those that wait, and those that are being archived.
    known: HashSet<(NamespaceId, RunId)>,
}

impl ExpiredRuns {
    /// A run is to be archived.
    pub(crate) fn ask(&self, address: WorkflowRef, run_id: RunId) {
        let mut runs = self.0.runs.lock();
        if runs.waiting.len() >= limits::ARCHIVE_WAITING_MAX || !runs.known.insert((address.namespace.id, run_id)) {
            return;
        }
        runs.waiting.push_back((address, run_id));
        drop(runs);
        self.0.more.notify_one();
    }

    /// The next run to be archived. For one caller only.
    pub async fn next(&self) -> ExpiredRun {
        loop {
            let next = self.0.runs.lock().waiting.pop_front();
            if let Some((address, run_id)) = next {
                return ExpiredRun { address, run_id, runs: self.clone() };
            }
            self.0.more.notified().await;
        }
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.0.runs.lock().waiting.len()
    }
}

/// A run that is being archived. Once this is dropped it may be asked for again.
#[derive(Debug)]
pub struct ExpiredRun {
    /// Its workflow.
    pub address: WorkflowRef,
    /// Which one it is.
    pub run_id: RunId,
    runs: ExpiredRuns,
}

impl Drop for ExpiredRun {
    fn drop(&mut self) {
        self.runs.0.runs.lock().known.remove(&(self.address.namespace.id, self.run_id));
    }
}

#[cfg(test)]
mod tests {
    use everlog_kernel::Namespace;

    use super::*;

    fn ask(runs: &ExpiredRuns, number: u32) {
        let namespace = Arc::new(Namespace { id: NamespaceId([1; 16]), ..Namespace::default() });
        let mut run_id = [0; 16];
        run_id[..4].copy_from_slice(&number.to_be_bytes());
        runs.ask(WorkflowRef { namespace, workflow_id: "w".into() }, RunId(run_id));
    }

    #[tokio::test]
    async fn a_run_waits_or_is_archived_once() {
        let runs = ExpiredRuns::default();
        ask(&runs, 1);
        ask(&runs, 1);
        assert_eq!(runs.waiting(), 1);
        let first = runs.next().await;
        ask(&runs, 1);
        assert_eq!(runs.waiting(), 0, "it is being archived");
        drop(first);
        ask(&runs, 1);
        assert_eq!(runs.waiting(), 1, "that was in vain");
    }

    #[tokio::test]
    async fn as_many_wait_as_there_is_room_for() {
        let runs = ExpiredRuns::default();
        for number in 0..=u32::try_from(limits::ARCHIVE_WAITING_MAX).unwrap() {
            ask(&runs, number);
        }
        assert_eq!(runs.waiting(), limits::ARCHIVE_WAITING_MAX);
        let _first = runs.next().await;
        ask(&runs, u32::MAX);
        assert_eq!(runs.waiting(), limits::ARCHIVE_WAITING_MAX, "what was taken makes room");
    }
}
