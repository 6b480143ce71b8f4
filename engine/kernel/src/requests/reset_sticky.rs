//! ResetStickyTaskQueue: the worker that has the run cached is forgotten.

use crate::command::Reply;
use crate::transition::{Effect, Task};
use crate::txn::Txn;
use crate::{EntityKind, Rejection};

/// Forgets the sticky queue. A task that waits there is offered to the normal queue as well; one start of the two is refused.
pub(crate) fn apply(txn: &mut Txn<'_>) -> Result<Reply, Rejection> {
    if !txn.run.is_open() {
        return Err(Rejection::workflow_completed());
    }
    txn.run.sticky = None;
    let waiting = txn.run.state.workflow_task.as_mut().filter(|task| task.started.is_none() && task.offered_sticky);
    if let Some(task) = waiting {
        task.offered_sticky = false;
        let attempt = task.attempt;
        let key = txn.run.workflow_task_key();
        let version = txn.run.task_version().cloned().map(Box::new);
        let (entity, weight) = (EntityKind::Workflow, txn.run.weight_of(None));
        let task = key.map(|key| Task { key, attempt, sticky: None, version, entity, weight });
        txn.effects.extend(task.map(Effect::OfferTask));
    }
    Ok(Reply::Done)
}
