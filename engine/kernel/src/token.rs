//! Task tokens: opaque to clients, checked in full by the server.
//!
//! A token is a version byte and the bincode encoding of its struct. The namespace is inside, so that a token cannot be used
//! in another one.

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{NamespaceId, RunId, Time};

/// Format of the tokens below.
const VERSION: u8 = 1;

/// Names one started workflow task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkflowTaskToken {
    /// Namespace.
    pub namespace_id: NamespaceId,
    /// Workflow.
    pub workflow_id: String,
    /// Run.
    pub run_id: RunId,
    /// Id of the WorkflowTaskScheduled event (virtual for transient tasks).
    pub scheduled_event_id: i64,
    /// Id of the WorkflowTaskStarted event (virtual until the task is completed).
    pub started_event_id: i64,
    /// When it was started.
    pub started_time: Time,
    /// Attempt, from 1.
    pub attempt: i32,
}

/// Names one started activity attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActivityTaskToken {
    /// Namespace.
    pub namespace_id: NamespaceId,
    /// Workflow.
    pub workflow_id: String,
    /// Run.
    pub run_id: RunId,
    /// Id of the ActivityTaskScheduled event.
    pub scheduled_event_id: i64,
    /// Attempt, from 1.
    pub attempt: i32,
}

/// Names one query that was handed to a worker by itself. It lives in the node that took it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueryTaskToken {
    /// Namespace.
    pub namespace_id: NamespaceId,
    /// Number of the query at the frontend that waits for the answer.
    pub query_id: u64,
}

/// The token's bytes.
pub fn encode<T: Serialize>(token: &T) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    bincode::serde::encode_into_std_write(token, &mut bytes, bincode::config::standard())
        .expect("a token is encoded into memory");
    bytes
}

/// The token that `bytes` encode, or `None` if they are not one of that kind.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let (version, body) = bytes.split_first()?;
    let (token, len) = bincode::serde::decode_from_slice(body, bincode::config::standard()).ok()?;
    (*version == VERSION && len == body.len()).then_some(token)
}
