//! ScheduleActivityTask.

use everlog_proto::api::command::v1::ScheduleActivityTaskCommandAttributes;
use everlog_proto::api::enums::v1::WorkflowTaskFailedCause;
use everlog_proto::api::history::v1::ActivityTaskScheduledEventAttributes;
use everlog_proto::api::history::v1::history_event::Attributes;

use super::{CommandContext, Invalid};
use crate::activity_timeouts::Timeouts;
use crate::txn::Txn;
use crate::{retry, validation};

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

    let given = Timeouts {
        schedule_to_close: attributes.schedule_to_close_timeout,
        schedule_to_start: attributes.schedule_to_start_timeout,
        start_to_close: attributes.start_to_close_timeout,
        heartbeat: attributes.heartbeat_timeout,
    };
    let timeouts = given.completed(txn.run.info.started.run_timeout(), &attributes.activity_id, type_name)?;
    Ok(ActivityTaskScheduledEventAttributes {
        activity_id: attributes.activity_id,
        activity_type: attributes.activity_type,
        task_queue: Some(task_queue),
        header: attributes.header,
        input: attributes.input,
        schedule_to_close_timeout: timeouts.schedule_to_close,
        schedule_to_start_timeout: timeouts.schedule_to_start,
        start_to_close_timeout: timeouts.start_to_close,
        heartbeat_timeout: timeouts.heartbeat,
        workflow_task_completed_event_id: completed_event_id,
        retry_policy: Some(retry_policy),
        use_workflow_build_id: attributes.use_workflow_build_id,
        priority: attributes.priority,
    })
}
