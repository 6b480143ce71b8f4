//! ScheduleActivityTask.

use std::time::Duration;

use everlog_proto::api::command::v1::ScheduleActivityTaskCommandAttributes;
use everlog_proto::api::enums::v1::WorkflowTaskFailedCause;
use everlog_proto::api::history::v1::ActivityTaskScheduledEventAttributes;
use everlog_proto::api::history::v1::history_event::Attributes;
use everlog_proto::wkt;

use super::{CommandContext, Invalid};
use crate::txn::Txn;
use crate::{retry, time, validation};

/// Schedules an activity, which is offered to workers once this workflow task's completion is durable; or handed to this worker with
/// the answer to that, if it asks for it.
pub(crate) fn apply(
    txn: &mut Txn<'_>,
    command: &mut CommandContext,
    attributes: ScheduleActivityTaskCommandAttributes,
) -> Result<(), Invalid> {
    const CAUSE: WorkflowTaskFailedCause = WorkflowTaskFailedCause::BadScheduleActivityAttributes;
    let is_eager = attributes.request_eager_execution && txn.ctx.limits.has_eager_activities;
    let scheduled =
        normalized(txn, attributes, command.completed_event_id).map_err(|message| Invalid::new(CAUSE, message))?;
    super::check_size(
        txn,
        scheduled.input.as_ref(),
        CAUSE,
        "ScheduleActivityTaskCommandAttributes.Input exceeds size limit.",
    )?;
    let limits = txn.ctx.limits;
    let pending = txn.run.activities.len();
    if pending >= limits.pending_activities_max {
        return Err(Invalid::new(
            WorkflowTaskFailedCause::PendingActivitiesLimitExceeded,
            format!(
                "the number of pending activities, {pending}, has reached the per-workflow limit of {}",
                limits.pending_activities_max
            ),
        ));
    }
    if txn.run.activities.by_name(&scheduled.activity_id).is_some() {
        return Err(Invalid::new(
            WorkflowTaskFailedCause::ScheduleActivityDuplicateId,
            format!(
                "invalid history builder state for action: add-activitytask-scheduled-event, ActivityID: {}",
                scheduled.activity_id
            ),
        ));
    }
    let scheduled_event_id = command.append(txn, Attributes::ActivityTaskScheduledEventAttributes(scheduled));
    if is_eager {
        txn.eager_activities.push(scheduled_event_id);
    }
    Ok(())
}

/// The event of a valid command, with everything filled in that the command leaves open; or what is wrong with it.
#[expect(deprecated, reason = "workers say whether the activity goes where their build id is")]
fn normalized(
    txn: &Txn<'_>,
    attributes: ScheduleActivityTaskCommandAttributes,
    completed_event_id: i64,
) -> Result<ActivityTaskScheduledEventAttributes, String> {
    let limit = txn.ctx.limits.id_bytes_max;
    let task_queue = validation::task_queue(attributes.task_queue, limit)?;
    if attributes.activity_id.is_empty() {
        return Err("activityId is not set".into());
    }
    let type_name = attributes.activity_type.as_ref().map_or("", |activity_type| &activity_type.name);
    if type_name.is_empty() {
        return Err("activityType is not set".into());
    }
    let retry_policy = retry::with_defaults(attributes.retry_policy.unwrap_or_default());
    retry::validate(&retry_policy).map_err(|rejection| rejection.to_string())?;
    for (name, value) in [("activityId", attributes.activity_id.as_str()), ("activityType", type_name)] {
        if value.len() > limit {
            return Err(format!("{name} exceeds length limit. Length={} Limit={limit}", value.len()));
        }
    }
    validation::priority(attributes.priority.as_ref()).map_err(|message| format!("invalid priorities: {message}"))?;

    let run_timeout = txn.run.info.started.run_timeout();
    let timeouts = Timeouts {
        schedule_to_close: given(attributes.schedule_to_close_timeout, "ScheduleToCloseTimeout")?,
        schedule_to_start: given(attributes.schedule_to_start_timeout, "ScheduleToStartTimeout")?,
        start_to_close: given(attributes.start_to_close_timeout, "StartToCloseTimeout")?,
        heartbeat: given(attributes.heartbeat_timeout, "HeartbeatTimeout")?,
    };
    let timeouts = timeouts.deduced(run_timeout).ok_or_else(|| {
        format!(
            "a valid StartToCloseTimeout or ScheduleToCloseTimeout must be set on the activity. \
             ActivityId={} ActivityType={type_name}",
            attributes.activity_id
        )
    })?;
    // A timeout that does not limit anything is written as zero: some SDKs expect the fields to be there.
    let written = |timeout: Option<Duration>| Some(time::to_proto(timeout.unwrap_or_default()));
    Ok(ActivityTaskScheduledEventAttributes {
        activity_id: attributes.activity_id,
        activity_type: attributes.activity_type,
        task_queue: Some(task_queue),
        header: attributes.header,
        input: attributes.input,
        schedule_to_close_timeout: written(timeouts.schedule_to_close),
        schedule_to_start_timeout: written(timeouts.schedule_to_start),
        start_to_close_timeout: written(timeouts.start_to_close),
        heartbeat_timeout: written(timeouts.heartbeat),
        workflow_task_completed_event_id: completed_event_id,
        retry_policy: Some(retry_policy),
        use_workflow_build_id: attributes.use_workflow_build_id,
        priority: attributes.priority,
    })
}

fn given(timeout: Option<wkt::Duration>, name: &str) -> Result<Option<Duration>, String> {
    time::positive(timeout.as_ref()).map_err(|wrong| format!("invalid {name}: {wrong}"))
}

/// An activity's timeouts; `None` for "not limited".
#[derive(Clone, Copy, Debug, PartialEq)]
struct Timeouts {
    schedule_to_close: Option<Duration>,
    schedule_to_start: Option<Duration>,
    start_to_close: Option<Duration>,
    heartbeat: Option<Duration>,
}

impl Timeouts {
    /// Fills in those that were not given, and cuts all to what the others and the run allow. `None` if neither the start nor
    /// the schedule has a time to close.
    fn deduced(mut self, run_timeout: Option<Duration>) -> Option<Timeouts> {
        if let Some(schedule_to_close) = self.schedule_to_close {
            self.schedule_to_start = shorter(self.schedule_to_start, Some(schedule_to_close));
            self.start_to_close = shorter(self.start_to_close, Some(schedule_to_close));
        } else if self.start_to_close.is_some() {
            self.schedule_to_close = run_timeout;
            self.schedule_to_start = self.schedule_to_start.or(run_timeout);
        } else {
            return None;
        }
        if run_timeout.is_some() {
            self.schedule_to_close = shorter(self.schedule_to_close, run_timeout);
            self.schedule_to_start = shorter(self.schedule_to_start, run_timeout);
            self.start_to_close = shorter(self.start_to_close, run_timeout);
        }
        // No heartbeat timeout stays none.
        self.heartbeat = self.heartbeat.and_then(|heartbeat| shorter(Some(heartbeat), self.start_to_close));
        Some(self)
    }
}

/// The tighter of two limits.
fn shorter(a: Option<Duration>, b: Option<Duration>) -> Option<Duration> {
    a.into_iter().chain(b).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_deduced_from_each_other() {
        // (schedule-to-close, schedule-to-start, start-to-close, heartbeat), run timeout, expected; 0 for none.
        let cases = [
            ([0, 0, 5, 0], 0, Some([0, 0, 5, 0])),
            ([0, 0, 5, 0], 60, Some([60, 60, 5, 0])),
            ([0, 3, 5, 0], 60, Some([60, 3, 5, 0])),
            ([9, 0, 0, 0], 0, Some([9, 9, 9, 0])),
            ([9, 20, 20, 30], 0, Some([9, 9, 9, 9])),
            ([9, 2, 3, 1], 0, Some([9, 2, 3, 1])),
            ([90, 80, 70, 65], 60, Some([60, 60, 60, 60])),
            ([0, 0, 70, 20], 60, Some([60, 60, 60, 20])),
            ([0, 4, 0, 4], 60, None),
        ];
        let timeouts = |[schedule_to_close, schedule_to_start, start_to_close, heartbeat]: [u64; 4]| {
            let some = |secs: u64| (secs > 0).then(|| Duration::from_secs(secs));
            Timeouts {
                schedule_to_close: some(schedule_to_close),
                schedule_to_start: some(schedule_to_start),
                start_to_close: some(start_to_close),
                heartbeat: some(heartbeat),
            }
        };
        for (given, run_timeout, expected) in cases {
            let run_timeout = (run_timeout > 0).then(|| Duration::from_secs(run_timeout));
            assert_eq!(timeouts(given).deduced(run_timeout), expected.map(timeouts), "{given:?} in {run_timeout:?}");
        }
    }
}
