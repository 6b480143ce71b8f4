//! An operator has activities go on that were paused. (Temporal: `unpauseactivity/api.go`.)

use everlog_proto::api::workflowservice::v1::UnpauseActivityRequest;
use everlog_proto::api::workflowservice::v1::unpause_activity_request::Activity as Named;

use crate::Rejection;
use crate::activity_operations::{self, Which};
use crate::command::Reply;
use crate::txn::Txn;

/// Offers those that no worker has, at once or within a jitter, also if a retry would still have backed off. Timeouts count again, from
/// where they would have counted without the pause. Activities that are not paused stay as they are.
pub(crate) fn apply(txn: &mut Txn<'_>, request: UnpauseActivityRequest) -> Result<Reply, Rejection> {
    let which = request.activity.as_ref().map(|activity| match activity {
        Named::Id(id) => Which::Id(id),
        Named::Type(activity_type) => Which::Type(activity_type),
        Named::UnpauseAll(_) => Which::All,
    });
    for id in activity_operations::find(&txn.run, which)? {
        if txn.run.activities.get(&id).is_none_or(|activity| activity.pause.is_none()) {
            continue;
        }
        let now = txn.now();
        let Some(activity) = txn.activity_mut(id) else { continue };
        activity.pause = None;
        if request.reset_attempts {
            activity.count_anew(now);
        }
        if request.reset_heartbeat {
            activity.forget_heartbeat();
        }
        if activity.started.is_none() {
            let time = activity_operations::within(txn, request.jitter.as_ref());
            activity_operations::schedule_anew(txn, id, time);
        }
    }
    activity_operations::tell_what_is_paused(txn);
    Ok(Reply::Done)
}
