//! A request to start an activity, once it is known that nothing is wrong with it, and what it leads to.

use everlog_proto::api::common::v1::{Link, SearchAttributes};
use everlog_proto::api::enums::v1::{ActivityIdConflictPolicy, ActivityIdReusePolicy};
use everlog_proto::api::history::v1::ActivityTaskScheduledEventAttributes;
use everlog_proto::api::sdk::v1::UserMetadata;
use everlog_proto::api::workflowservice::v1::StartActivityExecutionRequest;
use everlog_proto::wkt;
use prost::Message;

use super::SCHEDULED_EVENT_ID;
use super::state::{ActivityExecutions, Asked, Attached, Execution, Progress, Status};
use crate::activity_timeouts::Timeouts;
use crate::command::Reply;
use crate::state::Activity;
use crate::transition::Transition;
use crate::{Context, Limits, Rejection, retry, time, validation};

/// A request to start an activity in which nothing is wrong that can be told without the activity: nothing but
/// [`ValidActivityStart::new`] makes one.
#[derive(Clone, Debug)]
pub struct ValidActivityStart {
    scheduled: ActivityTaskScheduledEventAttributes,
    request_id: String,
    user_metadata: Option<UserMetadata>,
    search_attributes: Option<SearchAttributes>,
    links: Vec<Link>,
    start_delay: Option<wkt::Duration>,
    reuse: ActivityIdReusePolicy,
    conflict: ActivityIdConflictPolicy,
    /// The links are for an activity that is there already, too.
    attaches_links: bool,
}

impl ValidActivityStart {
    /// Looks at a request. Texts and order are Temporal's.
    ///
    /// # Errors
    ///
    /// What is wrong with it, or what of it is not supported.
    pub fn new(request: StartActivityExecutionRequest, limits: &Limits) -> Result<ValidActivityStart, Rejection> {
        time::positive(request.start_delay.as_ref())
            .map_err(|wrong| Rejection::invalid(format!("invalid StartDelay: {wrong}")))?;
        let task_queue = validation::task_queue(request.task_queue.clone(), limits.id_bytes_max);
        let task_queue = task_queue.map_err(Rejection::invalid)?;
        let type_name = request.activity_type.as_ref().map_or("", |activity_type| &activity_type.name);
        if request.activity_id.is_empty() {
            return Err(Rejection::invalid("activityId is not set"));
        }
        if type_name.is_empty() {
            return Err(Rejection::invalid("activityType is not set"));
        }
        let retry_policy = retry::with_defaults(request.retry_policy.clone().unwrap_or_default());
        retry::validate(&retry_policy)?;
        check_length("activityId", &request.activity_id, limits)?;
        check_length("activityType", type_name, limits)?;
        validation::priority(request.priority.as_ref())
            .map_err(|wrong| Rejection::invalid(format!("invalid priorities: {wrong}")))?;
        let timeouts = Timeouts {
            schedule_to_close: request.schedule_to_close_timeout,
            schedule_to_start: request.schedule_to_start_timeout,
            start_to_close: request.start_to_close_timeout,
            heartbeat: request.heartbeat_timeout,
        };
        let timeouts = timeouts.completed(None, &request.activity_id, type_name).map_err(Rejection::invalid)?;
        check_length("request ID", &request.request_id, limits)?;
        check_length("identity", &request.identity, limits)?;
        check_sizes(&request, limits)?;
        if !request.completion_callbacks.is_empty() {
            return Err(Rejection::invalid("completion callbacks are not enabled for this namespace"));
        }
        validation::check_links(&request.links, limits)?;
        let on_conflict = request.on_conflict_options.unwrap_or_default();
        if on_conflict.attach_completion_callbacks && !on_conflict.attach_request_id {
            return Err(Rejection::invalid(
                "on_conflict_options: attach_completion_callbacks requires attach_request_id to be set",
            ));
        }
        if on_conflict.attach_request_id && request.links.is_empty() {
            return Err(Rejection::invalid(
                "on_conflict_options: attach_request_id requires at least one completion callback or link",
            ));
        }
        let reuse = ActivityIdReusePolicy::try_from(request.id_reuse_policy)
            .map_err(|_| Rejection::invalid(format!("unsupported ID reuse policy: {}", request.id_reuse_policy)))?;
        let conflict = ActivityIdConflictPolicy::try_from(request.id_conflict_policy).map_err(|_| {
            Rejection::invalid(format!("unsupported ID conflict policy: {}", request.id_conflict_policy))
        })?;
        Ok(ValidActivityStart {
            scheduled: ActivityTaskScheduledEventAttributes {
                activity_id: request.activity_id,
                activity_type: request.activity_type,
                task_queue: Some(task_queue),
                header: request.header,
                input: request.input,
                schedule_to_close_timeout: timeouts.schedule_to_close,
                schedule_to_start_timeout: timeouts.schedule_to_start,
                start_to_close_timeout: timeouts.start_to_close,
                heartbeat_timeout: timeouts.heartbeat,
                retry_policy: Some(retry_policy),
                priority: request.priority,
                ..ActivityTaskScheduledEventAttributes::default()
            },
            request_id: request.request_id,
            user_metadata: request.user_metadata,
            search_attributes: request.search_attributes,
            links: request.links,
            start_delay: request.start_delay,
            reuse,
            conflict,
            attaches_links: on_conflict.attach_links,
        })
    }

    /// About what its payloads take, bytes.
    pub fn payload_bytes(&self) -> usize {
        self.scheduled.encoded_len() + self.user_metadata.as_ref().map_or(0, Message::encoded_len)
    }
}

fn check_length(what: &str, text: &str, limits: &Limits) -> Result<(), Rejection> {
    let (length, limit) = (text.len(), limits.id_bytes_max);
    if length > limit {
        return Err(Rejection::invalid(format!("{what} exceeds length limit. Length={length} Limit={limit}")));
    }
    Ok(())
}

fn check_sizes(request: &StartActivityExecutionRequest, limits: &Limits) -> Result<(), Rejection> {
    /// `limit.userMetadataSummarySize` and `limit.userMetadataDetailsSize`, bytes.
    const SUMMARY_BYTES_MAX: usize = 400;
    const DETAILS_BYTES_MAX: usize = 20_000;
    if request.input.as_ref().map_or(0, Message::encoded_len) > limits.blob_bytes_max {
        return Err(Rejection::invalid("input exceeds length limit"));
    }
    let metadata = request.user_metadata.as_ref();
    let summary = metadata.and_then(|metadata| metadata.summary.as_ref());
    let details = metadata.and_then(|metadata| metadata.details.as_ref());
    for (what, payload, limit) in [("summary", summary, SUMMARY_BYTES_MAX), ("details", details, DETAILS_BYTES_MAX)] {
        let length = payload.map_or(0, Message::encoded_len);
        if length > limit {
            return Err(Rejection::invalid(format!(
                "user_metadata.{what} exceeds size limit. Length={length} Limit={limit}"
            )));
        }
    }
    Ok(())
}

/// Starts an activity, or finds the one that is there.
pub(super) fn start(
    executions: &mut ActivityExecutions,
    start: ValidActivityStart,
    ctx: &mut Context<'_>,
) -> Result<Transition, Rejection> {
    let current = executions.current.and_then(|run_id| executions.runs.get_mut(&run_id));
    if let Some(current) = current {
        // A repeat is told of what the first request led to.
        let is_repeat = !start.request_id.is_empty() && current.asked.request_id == start.request_id;
        if is_repeat || (current.status().is_open() && start.conflict == ActivityIdConflictPolicy::UseExisting) {
            return find(current, &executions.id, start, is_repeat, ctx);
        }
        let may_follow = !current.status().is_open()
            && match start.reuse {
                ActivityIdReusePolicy::Unspecified | ActivityIdReusePolicy::AllowDuplicate => true,
                ActivityIdReusePolicy::AllowDuplicateFailedOnly => current.status() != Status::Completed,
                ActivityIdReusePolicy::RejectDuplicate => false,
            };
        if !may_follow {
            return Err(Rejection::ActivityAlreadyStarted {
                start_request_id: current.asked.request_id.clone(),
                run_id: current.run_id.to_string(),
            });
        }
    }
    let mut run = begin(start, ctx);
    let run_id = run.run_id;
    let transition = run.began(&executions.id, ctx);
    executions.current = Some(run_id);
    executions.runs.insert(run_id, Box::new(run));
    Ok(transition)
}

/// The activity that a request finds, to which it may attach its links.
fn find(
    run: &mut Execution,
    id: &str,
    start: ValidActivityStart,
    is_repeat: bool,
    ctx: &Context<'_>,
) -> Result<Transition, Rejection> {
    /// `limit.maxLinksPerComponent`.
    const LINKS_MAX: usize = 2000;
    let reply = Reply::ActivityExecutionStarted(run.run_id, false);
    let is_attached = run.progress.attached.iter().any(|attached| attached.request_id == start.request_id);
    if is_repeat || !start.attaches_links || start.links.is_empty() || is_attached {
        return Ok(Transition::reply(reply));
    }
    let already = run.links().len();
    if already + start.links.len() > LINKS_MAX {
        return Err(Rejection::FailedPrecondition(
            format!("cannot attach more than {LINKS_MAX} links to an activity ({already} links already attached)")
                .into(),
        ));
    }
    run.change(id, ctx, |run, _| {
        run.progress.attached.push(Attached { request_id: start.request_id, links: start.links });
        Ok(reply)
    })
}

fn begin(start: ValidActivityStart, ctx: &mut Context<'_>) -> Execution {
    let now = ctx.now;
    let request_id = if start.request_id.is_empty() { ctx.ids.request_id() } else { start.request_id };
    let run_id = ctx.ids.run_id(now);
    let activity = Activity::scheduled(SCHEDULED_EVENT_ID, now, start.scheduled, None);
    let mut run = Execution {
        run_id,
        asked: Asked {
            request_id,
            user_metadata: start.user_metadata,
            search_attributes: start.search_attributes,
            links: start.links,
            start_delay: start.start_delay,
        },
        activity,
        progress: Progress { start_delay: start.start_delay, transition_count: 1, ..Progress::default() },
        task_row: None,
        listed: None,
    };
    run.schedule(run.first_due(), now);
    run
}
