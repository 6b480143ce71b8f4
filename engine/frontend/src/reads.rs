//! How a call's reads are answered: as its namespace's placement says, or as the call itself says by a header.
//!
//! | header | |
//! |---|---|
//! | `everlog-read` | `lease`, `linearizable` or `stale` |
//! | `everlog-partial` | `true`: a list or count leaves out partitions that nobody can answer for, and names them in `everlog-missing-partitions` |

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use everlog_cluster::{Nodes, ReadBound};
use everlog_kernel::NamespaceId;
use everlog_meta::{NamespaceRecord, Namespaces, Reads, STALE_MAX_DEFAULT};
use everlog_model::{GroupId, WorkflowRef};
use everlog_partition::{Replica, Router};
use http::{HeaderMap, HeaderName, HeaderValue};
use parking_lot::Mutex;
use tonic::Response;

use super::Frontend;
use super::errors::Error;

static READ: HeaderName = HeaderName::from_static("everlog-read");
static PARTIAL: HeaderName = HeaderName::from_static("everlog-partial");
const MISSING: &str = "everlog-missing-partitions";

/// What a call says of its reads.
#[derive(Clone, Debug, Default)]
pub(super) struct AskedReads {
    how: Option<Box<str>>,
    /// Partitions that are left out, if that is allowed.
    pub(super) missing: Option<Missing>,
}

/// Partitions that an answer leaves out.
#[derive(Clone, Debug, Default)]
pub(super) struct Missing(Arc<Mutex<BTreeSet<GroupId>>>);

impl AskedReads {
    /// Reads the headers of a call.
    pub(super) fn of(headers: &HeaderMap) -> AskedReads {
        let text = |name: &HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
        AskedReads {
            how: text(&READ).map(Box::from),
            missing: text(&PARTIAL).filter(|partial| *partial == "true").map(|_| Missing::default()),
        }
    }

    /// How what is asked of a namespace is answered.
    pub(super) fn bound(&self, namespaces: &Namespaces, namespace: &NamespaceRecord) -> Result<ReadBound, Error> {
        let (reads, stale_max) = namespaces.reads_in(namespace.pool);
        match (self.how.as_deref(), reads) {
            (None, Reads::Stale) => Ok(ReadBound::Stale(stale_max)),
            // The groups themselves know that they ask each time.
            (None, Reads::Lease | Reads::Linearizable) | (Some("lease"), _) => Ok(ReadBound::Lease),
            (Some("linearizable"), _) => Ok(ReadBound::Quorum),
            (Some("stale"), Reads::Stale) => Ok(ReadBound::Stale(stale_max)),
            (Some("stale"), _) => Ok(ReadBound::Stale(STALE_MAX_DEFAULT)),
            (Some(other), _) => {
                Err(Error::invalid(format!("everlog-read: {other:?}, and lease, linearizable or stale is allowed")))
            }
        }
    }

    /// The replica of a workflow that this node may read for a call; none if whoever leads it is to answer.
    pub(super) fn replica(
        &self,
        frontend: &Frontend,
        namespace: &NamespaceRecord,
        address: &WorkflowRef,
    ) -> Result<Option<Replica>, Error> {
        let bound = self.bound(&frontend.namespaces, namespace)?;
        let (ReadBound::Stale(age), Some(nodes)) = (bound, &frontend.nodes) else { return Ok(None) };
        let slot = (address.namespace.id, address.slot());
        Ok(readable_replica(&frontend.router, nodes, &frontend.namespaces, slot, age))
    }
}

/// Whether a call only looks at one workflow, so that a replica may answer it.
pub(super) fn reads_replicas(method: &str) -> bool {
    let looks = ["DescribeWorkflowExecution", "GetWorkflowExecutionHistory", "GetWorkflowExecutionHistoryReverse"];
    looks.contains(&method)
}

/// The replica that this node has of a workflow's partition, if it has all that was acknowledged `age` ago, and all of the workflow is in it.
pub(super) fn readable_replica(
    router: &Router,
    nodes: &Nodes,
    namespaces: &Namespaces,
    (namespace_id, slot): (NamespaceId, u16),
    age: Duration,
) -> Option<Replica> {
    let group = router.replica_with(namespace_id, slot)?;
    // In this order: what replicas have of slots may be older than that they are there, as long as a move is not older than the replicas may be.
    (!namespaces.moves_within(namespace_id, age) && nodes.may_read(&group, age)).then(|| Replica::new(group))
}

/// Whether a call wants a majority to be asked before its answer.
pub(super) fn asks_quorum(headers: &HeaderMap) -> bool {
    headers.get(&READ).is_some_and(|how| how == "linearizable")
}

impl Missing {
    pub(super) fn add(&self, partition: GroupId) {
        self.0.lock().insert(partition);
    }

    /// Names what an answer leaves out.
    pub(super) fn tell<T>(&self, response: &mut Response<T>) {
        let missing: Vec<_> = self.0.lock().iter().map(|partition| partition.0.to_string()).collect();
        if let Some(named) = HeaderValue::from_str(&missing.join(",")).ok().filter(|named| !named.is_empty()) {
            response.metadata_mut().as_mut().insert(MISSING, named);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_that_are_left_out_are_named_in_order() {
        let missing = Missing::default();
        let mut response = Response::new(());
        missing.tell(&mut response);
        assert!(response.metadata().get(MISSING).is_none());
        [7, 3, 7].into_iter().for_each(|partition| missing.add(GroupId(partition)));
        missing.tell(&mut response);
        assert_eq!(response.metadata().get(MISSING).unwrap(), "3,7");
    }
}
