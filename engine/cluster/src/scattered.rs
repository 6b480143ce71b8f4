//! Asks for what partitions have, where others than their leaders may answer, or not all of them need to.

use std::time::Duration;

use everlog_model::{CallError, NodeId, Share, SlotSet};
use everlog_partition::{Route, Router, confirm_by_quorum, confirm_leads};
use everlog_raft::Group;
use everlog_storage::GroupId;
use futures::FutureExt;
use futures::future::{BoxFuture, try_join_all};

use crate::{Nodes, Operations, ReadBound};

/// How long a node may take to answer while there are others that can be asked.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(1);

/// Whom to ask for the rows of partitions.
#[derive(Clone, Copy)]
pub struct Scattered<'a> {
    /// The way to the partitions of this node.
    pub router: &'a Router,
    /// The other nodes.
    pub nodes: &'a Nodes,
    /// Knows which nodes have replicas of what.
    pub operations: &'a Operations,
    /// Who may answer.
    pub bound: ReadBound,
    /// Is told of partitions that nobody can answer for, if they may be left out.
    pub leave_out: Option<&'a (dyn Fn(GroupId) + Sync)>,
}

/// Reads a replica of this node, which has these slots of a namespace that moves.
pub type ReadHere<'a, T, E> = &'a (dyn Fn((Group, Option<SlotSet>)) -> BoxFuture<'a, Result<T, E>> + Sync);

/// Has another node read a replica that it has.
pub type ReadThere<'a, T> = &'a (dyn Fn(NodeId, Share) -> BoxFuture<'a, Result<T, CallError>> + Sync);

impl<'a> Scattered<'a> {
    /// The answers of all these partitions. Each is asked of the replica `here` if that may answer, then of the node that leads it, then of the others that
    /// have it.
    ///
    /// # Errors
    ///
    /// What `here` says, or why nobody can answer for one of them.
    pub fn gather<T: Send + 'a, E: From<CallError> + Send + 'a>(
        self,
        shares: Vec<Share>,
        here: ReadHere<'a, T, E>,
        there: ReadThere<'a, T>,
    ) -> BoxFuture<'a, Result<Vec<T>, E>> {
        let answers = shares.into_iter().map(move |share| async move {
            if let Some(group) = self.readable_here(share.partition).await {
                return here((group, share.slots)).await.map(Some);
            }
            let partition = share.partition;
            match (self.answer_there(share, there).await, self.leave_out) {
                (Ok(answer), _) => Ok(Some(answer)),
                (Err(error), Some(leave_out)) if passes(&error) => {
                    leave_out(partition);
                    Ok(None)
                }
                (Err(error), _) => Err(E::from(error)),
            }
        });
        let answers = try_join_all(answers);
        async move { Ok(answers.await?.into_iter().flatten().collect()) }.boxed()
    }

    /// The replica of a partition that this node has, if it may answer.
    async fn readable_here(&self, partition: GroupId) -> Option<Group> {
        let group = self.router.replica(partition)?;
        let groups = [group.clone()];
        let is_led_here = || matches!(self.router.route(partition), Route::Here(_));
        let may = match self.bound {
            ReadBound::Stale(bound) if self.nodes.may_read(&group, bound) => true,
            ReadBound::Stale(_) | ReadBound::Lease => is_led_here() && confirm_leads(&groups).await.is_ok(),
            ReadBound::Quorum => is_led_here() && confirm_by_quorum(&groups).await.is_ok(),
        };
        may.then_some(group)
    }

    async fn answer_there<T>(&self, share: Share, there: ReadThere<'a, T>) -> Result<T, CallError> {
        let partition = share.partition;
        let mut others = match self.router.route(partition) {
            Route::There(node) => vec![node],
            Route::Here(_) | Route::Nowhere => Vec::new(),
        };
        let is_stale = matches!(self.bound, ReadBound::Stale(_));
        if is_stale {
            let with_it = self.operations.others_with(partition);
            let new: Vec<_> = with_it.into_iter().filter(|node| !others.contains(node)).collect();
            others.extend(new);
        }
        let mut failed = CallError::NotDone(format!("nobody can answer for partition {partition}"));
        for node in others {
            let call = there(node, share.clone());
            let answered = if is_stale || self.leave_out.is_some() {
                let late = || CallError::Unavailable(format!("node {node} does not answer in time"));
                tokio::time::timeout(ANSWER_TIME_MAX, call).await.unwrap_or_else(|_| Err(late()))
            } else {
                call.await
            };
            match answered {
                Err(error) if passes(&error) => failed = error,
                answered => return answered,
            }
        }
        Err(failed)
    }
}

/// Whether another node, or a later moment, may have an answer.
fn passes(error: &CallError) -> bool {
    matches!(error, CallError::Unavailable(_) | CallError::NotDone(_) | CallError::Overloaded(_))
}
