//! An operator pauses activities. (Temporal: `pauseactivity/api.go`.)

use everlog_proto::api::workflowservice::v1::PauseActivityRequest;
use everlog_proto::api::workflowservice::v1::pause_activity_request::Activity as Named;

use crate::Rejection;
use crate::activity_operations::{self, Which};
use crate::command::Reply;
use crate::state::Pause;
use crate::txn::Txn;

/// Has no attempt of the activities handed out. An attempt that a worker has goes on; the worker is told with its heartbeats, and no
/// timeout counts. An activity is paused once: a repeat is known by its request id.
pub(crate) fn apply(txn: &mut Txn<'_>, request: PauseActivityRequest) -> Result<Reply, Rejection> {
    let PauseActivityRequest { activity, identity, reason, request_id, .. } = request;
    let which = activity.as_ref().map(|activity| match activity {
        Named::Id(id) => Which::Id(id),
        Named::Type(activity_type) => Which::Type(activity_type),
    });
    let meant = activity_operations::find(&txn.run, which)?;
    let pause_of = |id: &i64| txn.run.activities.get(id).and_then(|activity| activity.pause.as_deref());
    if meant.iter().filter_map(pause_of).any(|pause| pause.request_id != request_id) {
        return Err(Rejection::FailedPrecondition("activity is already paused".into()));
    }
    let new: Vec<i64> = meant.iter().copied().filter(|id| pause_of(id).is_none()).collect();
    // Each of them has its words in a row of its own.
    let bytes = reason.len() + identity.len() + request_id.len();
    if bytes.saturating_mul(new.len()) > txn.ctx.limits.blob_bytes_max {
        return Err(Rejection::invalid("reason exceeds length limit"));
    }
    let pause = Pause { time: txn.now(), identity, reason, request_id };
    for id in new {
        if let Some(activity) = txn.activity_mut(id) {
            activity.pause = Some(Box::new(pause.clone()));
        }
    }
    activity_operations::tell_what_is_paused(txn);
    Ok(Reply::Done)
}
