//! Who waits for the answers to queries.
//!
//! A query has a number while its caller waits. The answer comes in one of two ways. With the completion of a workflow task it
//! comes from the run itself, which answers its own queries by number. From a worker that was given the query by itself it comes
//! with a token: the token must carry the secret that was made when the query was handed out, and name its namespace, workflow and
//! run. So nobody can answer a query that they were not given, and a token from before a restart answers nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use everlog_kernel::token::QueryTaskToken;
use everlog_kernel::{Rejection, RunId};
use everlog_model::{FastMap, WorkflowRef};
use everlog_proto::api::common::v1::Payloads;
use parking_lot::Mutex;
use tokio::sync::oneshot;

/// An answer to a query.
pub type Answer = Result<Option<Payloads>, Rejection>;

/// The queries of this node that wait for an answer.
pub struct Queries {
    /// Begins anywhere: queues know queries of all nodes by their numbers.
    last_id: AtomicU64,
    waiting: Mutex<FastMap<u64, Waiter>>,
}

struct Waiter {
    workflow: WorkflowRef,
    /// What a worker that was given the query must present. Made when it is handed out first.
    handed_out: Option<HandedOut>,
    answer: oneshot::Sender<Answer>,
}

#[derive(Clone, Copy)]
struct HandedOut {
    run_id: RunId,
    secret: u128,
}

/// A query that waits. Dropped, it waits no more.
pub struct WaitingQuery {
    /// Its number.
    pub id: u64,
    answer: oneshot::Receiver<Answer>,
    queries: Arc<Queries>,
}

impl Default for Queries {
    fn default() -> Queries {
        Queries { last_id: AtomicU64::new(random() as u64), waiting: Mutex::default() }
    }
}

impl Queries {
    /// Nobody waits yet.
    pub fn new() -> Queries {
        Queries::default()
    }

    /// Gives a query of a workflow a number to wait under.
    pub fn register(self: &Arc<Self>, workflow: WorkflowRef) -> WaitingQuery {
        let id = self.last_id.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        self.waiting.lock().insert(id, Waiter { workflow, handed_out: None, answer: sender });
        WaitingQuery { id, answer, queries: Arc::clone(self) }
    }

    /// The token for a worker that is given the query by itself; `None` if nobody waits for the answer any more.
    pub fn hand_out(&self, query_id: u64, run_id: RunId) -> Option<QueryTaskToken> {
        let mut waiting = self.waiting.lock();
        let waiter = waiting.get_mut(&query_id)?;
        // A query whose first worker never got it is handed out again: both tokens are right.
        let handed_out = waiter.handed_out.filter(|before| before.run_id == run_id);
        let handed_out =
            *waiter.handed_out.insert(handed_out.unwrap_or_else(|| HandedOut { run_id, secret: random() }));
        Some(QueryTaskToken {
            namespace_id: waiter.workflow.namespace.id,
            workflow_id: waiter.workflow.workflow_id.to_string(),
            run_id,
            query_id,
            secret: handed_out.secret,
        })
    }

    /// Answers a query by its number, if its caller still waits.
    pub fn answer(&self, query_id: u64, answer: Answer) {
        let waiter = self.waiting.lock().remove(&query_id);
        if let Some(waiter) = waiter {
            // A caller that goes away at this moment does not care.
            let _ = waiter.answer.send(answer);
        }
    }

    /// Answers the query that a token was made for. False if it is none of those that wait: nothing happens then.
    pub fn answer_by_token(&self, token: &QueryTaskToken, answer: Answer) -> bool {
        let waiter = {
            let mut waiting = self.waiting.lock();
            if !waiting.get(&token.query_id).is_some_and(|waiter| waiter.accepts(token)) {
                return false;
            }
            waiting.remove(&token.query_id)
        };
        waiter.is_some_and(|waiter| waiter.answer.send(answer).is_ok())
    }

    /// Whether the query that a token was made for still waits.
    pub fn is_waiting_for(&self, token: &QueryTaskToken) -> bool {
        self.waiting.lock().get(&token.query_id).is_some_and(|waiter| waiter.accepts(token))
    }

    /// Whether somebody waits under that number.
    pub fn is_waiting(&self, query_id: u64) -> bool {
        self.waiting.lock().contains_key(&query_id)
    }
}

impl Waiter {
    fn accepts(&self, token: &QueryTaskToken) -> bool {
        self.handed_out.is_some_and(|handed_out| handed_out.secret == token.secret && handed_out.run_id == token.run_id)
            && self.workflow.namespace.id == token.namespace_id
            && *self.workflow.workflow_id == *token.workflow_id
    }
}

/// A number that nobody can guess.
fn random() -> u128 {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the system has random numbers once it has started");
    u128::from_ne_bytes(bytes)
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
    use std::time::Duration;

    use everlog_kernel::{Namespace, NamespaceId};

    use super::*;

    const RUN: RunId = RunId([3; 16]);

    fn workflow() -> WorkflowRef {
        let namespace = Namespace {
            id: NamespaceId([1; 16]),
            name: "default".to_owned(),
            retention: Duration::ZERO,
            ..Namespace::default()
        };
        WorkflowRef { namespace: Arc::new(namespace), workflow_id: "w".into() }
    }

    #[tokio::test]
    async fn an_answer_reaches_the_one_who_waits() {
        let queries = Arc::new(Queries::new());
        let (mut first, second) = (queries.register(workflow()), queries.register(workflow()));
        assert_ne!(first.id, second.id);
        queries.answer(first.id, Ok(None));
        queries.answer(first.id, Err(Rejection::workflow_not_found()));
        assert_eq!(first.answered().await, Ok(None));
    }

    #[test]
    fn nobody_waits_after_giving_up() {
        let queries = Arc::new(Queries::new());
        let query = queries.register(workflow());
        let id = query.id;
        assert!(queries.is_waiting(id));
        drop(query);
        assert!(!queries.is_waiting(id));
        assert_eq!(queries.hand_out(id, RUN), None);
        queries.answer(id, Ok(None));
    }

    #[tokio::test]
    async fn only_the_token_that_was_handed_out_answers() {
        let queries = Arc::new(Queries::new());
        let mut query = queries.register(workflow());
        let counted = QueryTaskToken {
            namespace_id: NamespaceId([1; 16]),
            workflow_id: "w".to_owned(),
            run_id: RUN,
            query_id: query.id,
            secret: 0,
        };
        assert!(!queries.answer_by_token(&counted, Ok(None)), "it was handed to nobody");
        let token = queries.hand_out(query.id, RUN).unwrap();
        let wrong = [
            counted,
            QueryTaskToken { namespace_id: NamespaceId([2; 16]), ..token.clone() },
            QueryTaskToken { workflow_id: "v".to_owned(), ..token.clone() },
            QueryTaskToken { run_id: RunId([4; 16]), ..token.clone() },
            QueryTaskToken { query_id: token.query_id + 1, ..token.clone() },
            QueryTaskToken { secret: token.secret ^ 1, ..token.clone() },
        ];
        for token in wrong {
            assert!(!queries.answer_by_token(&token, Err(Rejection::workflow_not_found())), "{token:?}");
        }
        assert_eq!(queries.hand_out(query.id, RUN).as_ref(), Some(&token), "handed out again it is the same");
        assert!(queries.answer_by_token(&token, Ok(None)));
        assert!(!queries.answer_by_token(&token, Ok(None)), "it was answered");
        assert_eq!(query.answered().await, Ok(None));
    }
}
