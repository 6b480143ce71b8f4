//! Task tokens: opaque to clients, checked in full by the server.
//!
//! A token is a version byte and the bincode encoding of its struct. The namespace is inside, so that a token cannot be used
//! in another one.

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{EntityKind, NamespaceId, RunId, Time};

/// Format of the tokens below.
const VERSION: u8 = 5;

/// What a token may claim to hold, bytes: far more than the longest ids. Without a limit, a few bytes could ask for any amount
/// of memory.
const DECODED_BYTES_MAX: usize = 1 << 20;

/// Names one started workflow task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkflowTaskToken {
    /// Namespace.
    #[serde(with = "as_number")]
    pub namespace_id: NamespaceId,
    /// Workflow.
    pub workflow_id: String,
    /// Run.
    #[serde(with = "as_number")]
    pub run_id: RunId,
    /// Id of the WorkflowTaskScheduled event (virtual for transient tasks).
    pub scheduled_event_id: i64,
    /// Id of the WorkflowTaskStarted event (virtual until the task is completed).
    pub started_event_id: i64,
    /// When it was started.
    pub started_time: Time,
    /// Attempt, from 1.
    pub attempt: i32,
    /// Where the history ends that the worker was given. Filled in by whoever hands the task out.
    pub history_position: HistoryPosition,
    /// Not in the token, but found out by whoever passes it on: that history is whole, whatever leads there have been since. So the
    /// task was started even if nobody remembers.
    #[serde(skip)]
    pub is_proven: bool,
}

/// A place in the chain of a partition's batches, by lead and number, as the log has them. The kernel only carries it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "WirePosition", into = "WirePosition")]
pub struct HistoryPosition {
    /// The partition: its workflows may move to another one, whose chain has other places. 0 in tokens from before that.
    pub partition: u32,
    /// Term of the lead.
    pub term: u64,
    /// Its opening within the term.
    pub opening: u32,
    /// Number of the batch within the lead.
    pub sequence: u64,
}

/// A [`HistoryPosition`] as tokens have it: the partition stands in the upper half of the term, which no term reaches. So tokens from before
/// are read as they were written, and nodes from before take one of a partition for one of a term that they do not know.
#[derive(Serialize, Deserialize)]
struct WirePosition {
    term: u64,
    opening: u32,
    sequence: u64,
}

impl From<WirePosition> for HistoryPosition {
    fn from(WirePosition { term, opening, sequence }: WirePosition) -> HistoryPosition {
        HistoryPosition { partition: (term >> 32) as u32, term: term & u64::from(u32::MAX), opening, sequence }
    }
}

impl From<HistoryPosition> for WirePosition {
    fn from(HistoryPosition { partition, term, opening, sequence }: HistoryPosition) -> WirePosition {
        WirePosition { term: (u64::from(partition) << 32) | (term & u64::from(u32::MAX)), opening, sequence }
    }
}

/// Names one started activity attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActivityTaskToken {
    /// Namespace.
    #[serde(with = "as_number")]
    pub namespace_id: NamespaceId,
    /// Workflow.
    pub workflow_id: String,
    /// Run.
    #[serde(with = "as_number")]
    pub run_id: RunId,
    /// Id of the ActivityTaskScheduled event.
    pub scheduled_event_id: i64,
    /// Attempt, from 1.
    pub attempt: i32,
    /// When it was started. Workers tell tasks apart by their tokens, and an attempt whose start was forgotten by a node that was killed is
    /// started again.
    pub started_time: Time,
    /// Whose activity it is.
    pub entity: EntityKind,
}

/// What a caller has seen of an activity that is no workflow's, and waits to see more of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActivityWatchToken {
    /// Its run.
    #[serde(with = "as_number")]
    pub run_id: RunId,
    /// How many transitions it had then.
    pub transition_count: i64,
}

/// Names one query that was handed to a worker by itself. It lives in the node that took it, as long as its caller waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueryTaskToken {
    /// Namespace.
    #[serde(with = "as_number")]
    pub namespace_id: NamespaceId,
    /// Workflow.
    pub workflow_id: String,
    /// Run.
    #[serde(with = "as_number")]
    pub run_id: RunId,
    /// Number of the query at the frontend that waits for the answer.
    pub query_id: u64,
    /// Random: proves that the worker was given the query.
    pub secret: u128,
}

/// Names one request to a Nexus service that was handed to a worker. It lives at the home of its queue, as long as its caller waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NexusTaskToken {
    /// Namespace.
    #[serde(with = "as_number")]
    pub namespace_id: NamespaceId,
    /// The queue.
    pub task_queue: String,
    /// Random: names the request, and proves that the worker was given it.
    pub id: u128,
}

/// Ids as one number each: their bytes would be written one by one, and a token is made and read for every task.
mod as_number {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<T: Copy + Into<u128>, S: Serializer>(id: &T, serializer: S) -> Result<S::Ok, S::Error> {
        (*id).into().serialize(serializer)
    }

    pub(super) fn deserialize<'de, T: From<u128>, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
        u128::deserialize(deserializer).map(T::from)
    }
}

/// The token's bytes.
pub fn encode<T: Serialize>(token: &T) -> Vec<u8> {
    // Room for everything but a long workflow id.
    let mut bytes = Vec::with_capacity(96);
    bytes.push(VERSION);
    bincode::serde::encode_into_std_write(token, &mut bytes, bincode::config::standard())
        .expect("a token is encoded into memory");
    bytes
}

/// The token that `bytes` encode, or `None` if they are not one of that kind.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let (version, body) = bytes.split_first()?;
    let config = bincode::config::standard().with_limit::<DECODED_BYTES_MAX>();
    let (token, len) = bincode::serde::decode_from_slice(body, config).ok()?;
    (*version == VERSION && len == body.len()).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn activity(workflow_id: &str) -> ActivityTaskToken {
        ActivityTaskToken {
            namespace_id: NamespaceId([1; 16]),
            workflow_id: workflow_id.to_owned(),
            run_id: RunId([2; 16]),
            scheduled_event_id: 5,
            attempt: 1,
            started_time: Time(7),
            entity: EntityKind::Workflow,
        }
    }

    #[test]
    fn a_token_is_read_as_it_was_written() {
        let token = activity(&"w".repeat(10_000));
        assert_eq!(decode(&encode(&token)), Some(token));
    }

    #[test]
    fn tokens_say_which_partition_they_are_of_and_those_from_before_do_not() {
        let position = HistoryPosition { partition: 7, term: 3, opening: 2, sequence: 9 };
        assert_eq!(decode(&encode(&position)), Some(position));
        #[derive(Serialize)]
        struct Before(u64, u32, u64);
        let before = decode::<HistoryPosition>(&encode(&Before(3, 2, 9)));
        assert_eq!(before, Some(HistoryPosition { partition: 0, ..position }));
    }

    #[test]
    fn a_token_that_claims_more_memory_than_there_is_is_refused() {
        // A number of sixteen bytes follows: the namespace.
        let mut bytes = vec![VERSION, 254];
        bytes.extend([1; 16]);
        // The workflow id's length: an eight-byte number follows.
        bytes.push(253);
        bytes.extend([0x70; 8]);
        bytes.extend([b'w'; 100]);
        assert_eq!(decode::<ActivityTaskToken>(&bytes), None);
    }
}
