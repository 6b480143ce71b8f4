//! An operator has the attempts of activities counted anew. (Temporal: `resetactivity/api.go`.)

use everlog_proto::api::activity::v1::ActivityOptions;
use everlog_proto::api::workflowservice::v1::ResetActivityRequest;
use everlog_proto::api::workflowservice::v1::reset_activity_request::Activity as Named;

use crate::Rejection;
use crate::activity_operations::{self, Which};
use crate::command::Reply;
use crate::txn::Txn;

/// Offers those that no worker has, at once or within a jitter, as at their first attempts, also if they were paused, unless that is to
/// stay. A first attempt that goes on is told with its heartbeats; of a later one nobody wants to hear any more.
pub(crate) fn apply(txn: &mut Txn<'_>, request: ResetActivityRequest) -> Result<Reply, Rejection> {
    let which = request.activity.as_ref().map(|activity| match activity {
        Named::Id(id) => Which::Id(id),
        Named::Type(activity_type) => Which::Type(activity_type),
        Named::MatchAll(_) => Which::All,
    });
    for id in activity_operations::find(&txn.run, which)? {
        // Its row tells of the attempt, and its place of the queue.
        txn.take_back_activity_task(id);
        let now = txn.now();
        let Some(activity) = txn.activity_mut(id) else { continue };
        activity.count_anew(now);
        activity.is_reset = true;
        activity.forgets_heartbeat |= request.reset_heartbeat;
        if request.restore_original_options {
            // Temporal leaves the priority as it is.
            let priority = activity.given_priority().cloned();
            activity.set_options(ActivityOptions { priority, ..activity.original_options() });
        }
        if !request.keep_paused {
            activity.pause = None;
        }
        if activity.started.is_none() && activity.pause.is_none() {
            let time = activity_operations::within(txn, request.jitter.as_ref());
            activity_operations::schedule_anew(txn, id, time);
        }
    }
    activity_operations::tell_what_is_paused(txn);
    Ok(Reply::Done)
}
