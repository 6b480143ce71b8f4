//! Who waits for the answers to queries.
//!
//! A query has a number while its caller waits. The answer comes with a workflow task's completion or from a worker that was
//! given the query by itself; an answer to a number that nobody waits under is dropped. Numbers are random: a worker of another
//! namespace, or of a time before a restart, cannot hit one that is in use.

use std::collections::HashMap;
use std::sync::Arc;

use everlog_kernel::{NamespaceId, Rejection};
use everlog_proto::api::common::v1::Payloads;
use parking_lot::Mutex;
use tokio::sync::oneshot;

/// An answer to a query.
pub type Answer = Result<Option<Payloads>, Rejection>;

/// The queries of this node that wait for an answer.
#[derive(Default)]
pub struct Queries {
    waiting: Mutex<HashMap<u64, Waiting>>,
}

struct Waiting {
    namespace_id: NamespaceId,
    sender: oneshot::Sender<Answer>,
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

    /// Gives a query of a namespace a number to wait under.
    pub fn register(self: &Arc<Self>, namespace_id: NamespaceId) -> WaitingQuery {
        // The random part of a UUID, from the system's generator. Two that are equal and wait at a time do not happen.
        let id = uuid::Uuid::new_v4().as_u64_pair().1;
        let (sender, answer) = oneshot::channel();
        self.waiting.lock().insert(id, Waiting { namespace_id, sender });
        WaitingQuery { id, answer, queries: Arc::clone(self) }
    }

    /// Answers a query, if its caller still waits.
    pub fn answer(&self, query_id: u64, answer: Answer) {
        let waiting = self.waiting.lock().remove(&query_id);
        if let Some(waiting) = waiting {
            // A caller that goes away at this moment does not care.
            let _ = waiting.sender.send(answer);
        }
    }

    /// Whether somebody waits under that number.
    pub fn is_waiting(&self, query_id: u64) -> bool {
        self.waiting.lock().contains_key(&query_id)
    }

    /// Whether somebody waits under that number for a workflow of that namespace.
    pub fn is_waiting_in(&self, query_id: u64, namespace_id: NamespaceId) -> bool {
        self.waiting.lock().get(&query_id).is_some_and(|waiting| waiting.namespace_id == namespace_id)
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

    const HERE: NamespaceId = NamespaceId([1; 16]);

    #[tokio::test]
    async fn an_answer_reaches_the_one_who_waits() {
        let queries = Arc::new(Queries::new());
        let (mut first, second) = (queries.register(HERE), queries.register(HERE));
        // One does not tell the other.
        assert!(first.id.abs_diff(second.id) > 1 << 20);
        queries.answer(first.id, Ok(None));
        queries.answer(first.id, Err(Rejection::workflow_not_found()));
        assert_eq!(first.answered().await, Ok(None));
    }

    #[test]
    fn nobody_waits_after_giving_up() {
        let queries = Arc::new(Queries::new());
        let query = queries.register(HERE);
        let id = query.id;
        assert!(queries.is_waiting(id) && queries.is_waiting_in(id, HERE));
        assert!(!queries.is_waiting_in(id, NamespaceId([2; 16])));
        drop(query);
        assert!(!queries.is_waiting(id));
        queries.answer(id, Ok(None));
    }
}
