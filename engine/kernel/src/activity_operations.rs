//! What operators do to pending activities: which of them a request names, and what pausing, resetting and other options have in common.
//!
//! None of it leaves an event, in Temporal as well: history tells what the workflow asked for and what came of it. That activities are
//! paused is told by a search attribute.
//!
//! An activity that is scheduled anew stands elsewhere in its queue, so a task that was handed out before is void: it names the place where
//! it stood ([`crate::command::StartActivityTask::key`]).

use std::collections::BTreeSet;
use std::time::Duration;

use everlog_proto::wkt;

use crate::state::{Activity, Run};
use crate::txn::Txn;
use crate::{Context, Rejection, Time, time};

/// The search attribute that tells which types of activities are paused.
pub(crate) const PAUSE_INFO: &str = "TemporalPauseInfo";

/// Which pending activities a request is about.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Which<'r> {
    /// The one with this id.
    Id(&'r str),
    /// Those of a type.
    Type(&'r str),
    /// All.
    All,
}

/// The activities of an open run that a request is about, by their scheduled events. Refused if there are none.
pub(crate) fn find(run: &Run, which: Option<Which<'_>>) -> Result<Vec<i64>, Rejection> {
    if !run.is_open() {
        return Err(Rejection::workflow_completed());
    }
    let is_meant = |activity: &Activity| match which {
        Some(Which::Id(id)) => activity.activity_id() == id,
        Some(Which::Type(activity_type)) => activity.activity_type() == activity_type,
        Some(Which::All) => true,
        None => false,
    };
    let meant: Vec<i64> = match which {
        // There may be many.
        Some(Which::Id(id)) => run.activities.by_name(id).copied().into_iter().collect(),
        _ => run.activities.iter().filter(|(_, activity)| is_meant(activity)).map(|(id, _)| *id).collect(),
    };
    if meant.is_empty() { Err(Rejection::no_such_activity()) } else { Ok(meant) }
}

/// When an activity begins that may do so at any time within `jitter` from now. A jitter below zero is none.
pub(crate) fn within(txn: &mut Txn<'_>, jitter: Option<&wkt::Duration>) -> Time {
    jittered(&mut txn.ctx, jitter)
}

/// The same outside of a workflow.
pub(crate) fn jittered(ctx: &mut Context<'_>, jitter: Option<&wkt::Duration>) -> Time {
    let now = ctx.now;
    let Ok(Some(jitter)) = time::positive(jitter) else { return now };
    let nanos = ctx.ids.seed() % jitter.as_nanos();
    now.plus(Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)))
}

/// Has the attempt of an activity that no worker has offered at `time`. Why an attempt before it failed is not known any more.
pub(crate) fn schedule_anew(txn: &mut Txn<'_>, scheduled_event_id: i64, time: Time) {
    let now = txn.now();
    let Some(activity) = txn.run.activities.get(&scheduled_event_id) else { return };
    let standing = activity.standing_in(txn.run.given_priority());
    if standing != activity.standing() || activity.task_row_time.is_some_and(|written| written != time) {
        txn.take_back_activity_task(scheduled_event_id);
    }
    let Some(activity) = txn.activity_mut(scheduled_event_id) else { return };
    (activity.priority, activity.lane) = standing;
    activity.attempt_scheduled_time = time;
    activity.offered = time <= now;
    activity.last_failure = None;
    activity.begin_attempt();
}

/// Has a search attribute tell which types of activities are paused. To be called whenever one is paused or goes on: not when one ends, in
/// Temporal either.
pub(crate) fn tell_what_is_paused(txn: &mut Txn<'_>) {
    let paused = txn.run.activities.values().filter(|activity| activity.pause.is_some());
    let types: BTreeSet<&str> = paused.map(|activity| activity.activity_type()).collect();
    let told: Vec<String> =
        types.into_iter().map(|activity_type| format!("property:activityType={activity_type}")).collect();
    txn.run.change_search_attributes(|attributes| {
        if told.is_empty() {
            return attributes.remove(PAUSE_INFO);
        }
        let is_changed = attributes.keywords(PAUSE_INFO) != told;
        if is_changed {
            attributes.set_keywords(PAUSE_INFO, &told);
        }
        is_changed
    });
}
