//! An operator changes how activities are attempted. (Temporal: `updateactivityoptions/api.go`.)

use everlog_proto::api::activity::v1::ActivityOptions;
use everlog_proto::api::common::v1::RetryPolicy;
use everlog_proto::api::taskqueue::v1::TaskQueue;
use everlog_proto::api::workflowservice::v1::UpdateActivityOptionsRequest;
use everlog_proto::api::workflowservice::v1::update_activity_options_request::Activity as Named;
use everlog_proto::wkt;

use crate::activity_operations::{self, Which};
use crate::activity_timeouts::Timeouts;
use crate::command::Reply;
use crate::field_mask::{self, FieldMask, PRIORITY_FIELDS};
use crate::state::Activity;
use crate::txn::Txn;
use crate::{Limits, Rejection, Time, retry, time, validation};

/// Gives the activities other options, or those back that the workflow has asked for. An attempt that goes on has other timeouts from now
/// on; one that waits to be offered, or for a worker, does so by its new options. Answered with the options of the last of them.
pub(crate) fn apply(txn: &mut Txn<'_>, request: UpdateActivityOptionsRequest) -> Result<Reply, Rejection> {
    let which = request.activity.as_ref().map(|activity| match activity {
        Named::Id(id) => Which::Id(id),
        Named::Type(activity_type) => Which::Type(activity_type),
        Named::MatchAll(_) => Which::All,
    });
    let activity = |id: &i64| txn.run.activities.get(id);
    let changes: Vec<(i64, ActivityOptions)> = if request.restore_original {
        let meant = activity_operations::find(&txn.run, which)?;
        meant.iter().filter_map(|id| Some((*id, activity(id)?.original_options()))).collect()
    } else {
        let (meant, given, mask) = check(txn, which, &request)?;
        let change = |id| Some(changed(activity(&id)?, &given, &mask, txn.ctx.limits).map(|options| (id, options)));
        meant.into_iter().filter_map(change).collect::<Result<_, _>>()?
    };
    let shown = changes.last().map(|(_, options)| options.clone()).unwrap_or_default();
    for (id, options) in changes {
        give(txn, id, options);
    }
    Ok(Reply::ActivityOptions(Box::new(shown)))
}

/// Paths of options that can be changed.
const PATHS: [&str; 15] = [
    "taskQueue.name",
    "scheduleToCloseTimeout",
    "scheduleToStartTimeout",
    "startToCloseTimeout",
    "heartbeatTimeout",
    "priority",
    "priority.priorityKey",
    "priority.fairnessKey",
    "priority.fairnessWeight",
    "retryPolicy",
    "retryPolicy.initialInterval",
    "retryPolicy.backoffCoefficient",
    "retryPolicy.maximumInterval",
    "retryPolicy.maximumAttempts",
    "startDelay",
];

/// Looks at options by themselves, as far as they are to be changed, and fills in what a whole retry policy leaves open.
///
/// # Errors
///
/// What is wrong with them.
pub fn check_activity_options(
    options: Option<ActivityOptions>,
    mask: Option<&wkt::FieldMask>,
    limits: &Limits,
) -> Result<ActivityOptions, Rejection> {
    let mut options = options.ok_or_else(|| Rejection::invalid("ActivityOptions are not provided"))?;
    let paths = mask.ok_or_else(|| Rejection::invalid("UpdateMask is not provided"))?;
    if paths.paths.is_empty() {
        return Err(Rejection::invalid("UpdateMask must specify at least one path"));
    }
    let mask = FieldMask::new(paths);
    let is_known = |path: &&String| PATHS.contains(&field_mask::in_json(path).as_str());
    if let Some(path) = paths.paths.iter().find(|path| !is_known(path)) {
        return Err(Rejection::invalid(format!("unsupported update_mask path: {path:?}")));
    }
    if mask.has("taskQueue.name") {
        validation::task_queue(options.task_queue.clone(), limits.id_bytes_max).map_err(Rejection::invalid)?;
    }
    for (path, name, timeout) in [
        ("scheduleToCloseTimeout", "ScheduleToCloseTimeout", &options.schedule_to_close_timeout),
        ("scheduleToStartTimeout", "ScheduleToStartTimeout", &options.schedule_to_start_timeout),
        ("startToCloseTimeout", "StartToCloseTimeout", &options.start_to_close_timeout),
        ("heartbeatTimeout", "HeartbeatTimeout", &options.heartbeat_timeout),
    ] {
        if mask.has(path) {
            let wrong = |wrong| Rejection::invalid(format!("invalid {name}: {wrong}"));
            time::positive(timeout.as_ref()).map_err(wrong)?;
        }
    }
    if mask.has("priority") || mask.inside("priority").next().is_some() {
        validation::check_priority(options.priority.as_ref())?;
    }
    if mask.has("retryPolicy") {
        let policy = retry::with_defaults(options.retry_policy.take().unwrap_or_default());
        retry::validate(&policy)?;
        options.retry_policy = Some(policy);
    }
    let policy = options.retry_policy.clone().unwrap_or_default();
    for field in mask.inside("retryPolicy") {
        check_policy_field(&policy, field)?;
    }
    Ok(options)
}

/// Looks at a field of a retry policy by itself.
fn check_policy_field(policy: &RetryPolicy, field: &str) -> Result<(), Rejection> {
    let interval = |interval: &Option<wkt::Duration>, name| {
        time::positive(interval.as_ref())
            .map_err(|wrong| Rejection::invalid(format!("invalid {name} set on retry policy: {wrong}")))
    };
    match field {
        "initialInterval" => interval(&policy.initial_interval, "InitialInterval").map(drop),
        "maximumInterval" => interval(&policy.maximum_interval, "MaximumInterval").map(drop),
        "backoffCoefficient" if policy.backoff_coefficient.is_nan() || policy.backoff_coefficient < 1.0 => {
            Err(Rejection::invalid("BackoffCoefficient cannot be less than 1 on retry policy."))
        }
        "maximumAttempts" if policy.maximum_attempts < 0 => {
            Err(Rejection::invalid("MaximumAttempts cannot be negative on retry policy."))
        }
        _ => Ok(()),
    }
}

/// What is to be changed of which activities.
fn check(
    txn: &Txn<'_>,
    which: Option<Which<'_>>,
    request: &UpdateActivityOptionsRequest,
) -> Result<(Vec<i64>, ActivityOptions, FieldMask), Rejection> {
    if !txn.run.is_open() {
        return Err(Rejection::workflow_completed());
    }
    let given = request.activity_options.clone();
    let given = given.ok_or_else(|| Rejection::invalid("ActivityOptions are not provided"))?;
    let meant = activity_operations::find(&txn.run, which);
    match (&request.update_mask, which) {
        (Some(mask), _) => Ok((meant?, given, FieldMask::new(mask))),
        // An id is looked for once the rest is there.
        (None, Some(Which::Id(_))) => Err(Rejection::invalid("UpdateMask is not provided")),
        (None, _) => meant.and(Err(Rejection::invalid("UpdateMask is not provided"))),
    }
}

/// The options of an activity with what is changed of them, and what follows from that; or what is wrong with it.
fn changed(
    activity: &Activity,
    given: &ActivityOptions,
    mask: &FieldMask,
    limits: &Limits,
) -> Result<ActivityOptions, Rejection> {
    let mut options = activity.options();
    if let Some(policy) = &mut options.retry_policy {
        policy.non_retryable_error_types.clear();
    }
    merged(options, activity, given, mask, limits)
}

/// Options with what is changed of them, and what follows from that; or what is wrong with it.
pub(crate) fn merged(
    mut options: ActivityOptions,
    activity: &Activity,
    given: &ActivityOptions,
    mask: &FieldMask,
    limits: &Limits,
) -> Result<ActivityOptions, Rejection> {
    merge(&mut options, given, mask)?;
    if mask.inside("retryPolicy").next().is_some() {
        retry::validate(&options.retry_policy.clone().unwrap_or_default())?;
    }
    let task_queue =
        validation::task_queue(options.task_queue.take(), limits.id_bytes_max).map_err(Rejection::invalid)?;
    let timeouts = Timeouts {
        schedule_to_close: options.schedule_to_close_timeout,
        schedule_to_start: options.schedule_to_start_timeout,
        start_to_close: options.start_to_close_timeout,
        heartbeat: options.heartbeat_timeout,
    };
    // The run's timeout does not count here, in Temporal either.
    let timeouts =
        timeouts.completed(None, activity.activity_id(), activity.activity_type()).map_err(Rejection::invalid)?;
    Ok(ActivityOptions {
        task_queue: Some(task_queue),
        schedule_to_close_timeout: timeouts.schedule_to_close,
        schedule_to_start_timeout: timeouts.schedule_to_start,
        start_to_close_timeout: timeouts.start_to_close,
        heartbeat_timeout: timeouts.heartbeat,
        ..options
    })
}

/// Puts the fields of `given` into `options` that the mask names. Paths that are not known do nothing.
fn merge(options: &mut ActivityOptions, given: &ActivityOptions, mask: &FieldMask) -> Result<(), Rejection> {
    if mask.has("taskQueue.name") {
        let queue = given.task_queue.as_ref().ok_or_else(|| Rejection::invalid("TaskQueue is not provided"))?;
        options.task_queue = Some(TaskQueue { name: queue.name.clone(), ..TaskQueue::default() });
    }
    if mask.has("scheduleToCloseTimeout") {
        options.schedule_to_close_timeout = given.schedule_to_close_timeout;
    }
    if mask.has("scheduleToStartTimeout") {
        options.schedule_to_start_timeout = given.schedule_to_start_timeout;
    }
    if mask.has("startToCloseTimeout") {
        options.start_to_close_timeout = given.start_to_close_timeout;
    }
    if mask.has("heartbeatTimeout") {
        options.heartbeat_timeout = given.heartbeat_timeout;
    }
    if mask.has("priority") {
        options.priority = given.priority.clone();
    }
    for field in mask.inside("priority").filter(|field| PRIORITY_FIELDS.contains(field)) {
        let given = given.priority.as_ref().ok_or_else(|| Rejection::invalid("Priority is not provided"))?;
        field_mask::merge_priority(&mut options.priority, field, given);
    }
    if mask.has("retryPolicy") {
        options.retry_policy = Some(policy_of(given)?.clone());
    }
    for field in mask.inside("retryPolicy") {
        let policy = options.retry_policy.get_or_insert_default();
        match field {
            "initialInterval" => policy.initial_interval = policy_of(given)?.initial_interval,
            "backoffCoefficient" => policy.backoff_coefficient = policy_of(given)?.backoff_coefficient,
            "maximumInterval" => policy.maximum_interval = policy_of(given)?.maximum_interval,
            "maximumAttempts" => policy.maximum_attempts = policy_of(given)?.maximum_attempts,
            _ => {}
        }
    }
    if mask.has("startDelay") {
        options.start_delay = given.start_delay;
    }
    Ok(())
}

fn policy_of(given: &ActivityOptions) -> Result<&RetryPolicy, Rejection> {
    given.retry_policy.as_ref().ok_or_else(|| Rejection::invalid("RetryPolicy is not provided"))
}

/// Has an activity attempted by these options from here on.
fn give(txn: &mut Txn<'_>, scheduled_event_id: i64, options: ActivityOptions) {
    let Some(activity) = txn.run.activities.get(&scheduled_event_id) else { return };
    let goes_elsewhere = options.task_queue.as_ref().is_some_and(|queue| queue.name != activity.task_queue());
    if goes_elsewhere {
        txn.take_back_activity_task(scheduled_event_id);
    }
    let Some(activity) = txn.activity_mut(scheduled_event_id) else { return };
    activity.set_options(options);
    if activity.started.is_none() {
        let next = next_time(activity);
        activity_operations::schedule_anew(txn, scheduled_event_id, next);
    }
}

/// When the current attempt is to be offered, which no worker has: by the retry policy, whatever the last failure had asked for.
fn next_time(activity: &Activity) -> Time {
    let (Some(policy), Some(ended)) = (activity.retry_policy(), activity.last_attempt_end) else {
        return activity.attempt_scheduled_time;
    };
    if activity.attempt <= 1 {
        return activity.attempt_scheduled_time;
    }
    let interval = retry::interval(policy, activity.attempt);
    if interval.is_zero() { activity.attempt_scheduled_time } else { ended.plus(interval) }
}
