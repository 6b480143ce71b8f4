//! Who waits for the answers to queries.
//!
//! A query has a number while its caller waits. The answer comes with a workflow task's completion or from a worker that was
//! given the query by itself; an answer to a number that nobody waits under is dropped.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use everlog_kernel::Rejection;
use everlog_proto::api::common::v1::Payloads;
use parking_lot::Mutex;
use tokio::sync::oneshot;

/// An answer to a query.
pub type Answer = Result<Option<Payloads>, Rejection>;

/// The queries of this node that wait for an answer.
#[derive(Default)]
pub struct Queries {
    next_id: AtomicU64,
    waiting: Mutex<HashMap<u64, oneshot::Sender<Answer>>>,
}

/// A query that waits. Dropped, it waits no more.
pub struct WaitingQuery {
    /// Its number.
    pub id: u64,
    answer: oneshot::Receiver<Answer>,
    queries: Arc<Queries>,
}

impl Queries {
    /// Nobody waits yet.
    pub fn new() -> Queries {
        Queries::default()
    }

    /// Gives a query a number to wait under.
    pub fn register(self: &Arc<Self>) -> WaitingQuery {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed) + 1;
        let (sender, answer) = oneshot::channel();
        self.waiting.lock().insert(id, sender);
        WaitingQuery { id, answer, queries: Arc::clone(self) }
    }

    /// Answers a query, if its caller still waits.
    pub fn answer(&self, query_id: u64, answer: Answer) {
        let waiting = self.waiting.lock().remove(&query_id);
        if let Some(sender) = waiting {
            // A caller that goes away at this moment does not care.
            let _ = sender.send(answer);
        }
    }

    /// Whether somebody waits under that number.
    pub fn is_waiting(&self, query_id: u64) -> bool {
        self.waiting.lock().contains_key(&query_id)
    }
}

impl WaitingQuery {
    /// Waits for the answer. Cancel safe.
    pub async fn answered(&mut self) -> Answer {
        match (&mut self.answer).await {
            Ok(answer) => answer,
            Err(_) => Err(Rejection::Unavailable("query was dropped, please retry".into())),
        }
    }
}

impl Drop for WaitingQuery {
    fn drop(&mut self) {
        self.queries.waiting.lock().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_answer_reaches_the_one_who_waits() {
        let queries = Arc::new(Queries::new());
        let (mut first, second) = (queries.register(), queries.register());
        assert_ne!(first.id, second.id);
        queries.answer(first.id, Ok(None));
        queries.answer(first.id, Err(Rejection::workflow_not_found()));
        assert_eq!(first.answered().await, Ok(None));
    }

    #[test]
    fn nobody_waits_after_giving_up() {
        let queries = Arc::new(Queries::new());
        let query = queries.register();
        let id = query.id;
        assert!(queries.is_waiting(id));
        drop(query);
        assert!(!queries.is_waiting(id));
        queries.answer(id, Ok(None));
    }
}
