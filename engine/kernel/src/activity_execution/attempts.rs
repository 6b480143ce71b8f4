//! Attempts: what workers say of them, what follows one that has failed, and what is due.

use std::time::Duration;

use everlog_proto::api::common::v1::Payloads;
use everlog_proto::api::enums::v1::{RetryState, TimeoutType};
use everlog_proto::api::failure::v1::failure::FailureInfo;
use everlog_proto::api::failure::v1::{Failure, TimeoutFailureInfo};
use everlog_proto::api::workflowservice::v1::PollActivityTaskQueueResponse;
use prost::Message;

use super::SCHEDULED_EVENT_ID;
use super::state::{Completed, Execution, Outcome, Status};
use crate::activity_task::retried_by;
use crate::activity_timeouts::Timeout;
use crate::command::{ActivityRef, Heartbeat, Reply, StartActivityTask};
use crate::requests::fail_activity;
use crate::requests::start_activity_task::told_of_attempt;
use crate::state::ActivityStarted;
use crate::token::ActivityTaskToken;
use crate::transition::Transition;
use crate::{Context, EntityKind, Rejection, RunCommand, Time, retry, time};

impl Execution {
    /// What a worker says.
    pub(super) fn hear(&mut self, id: &str, command: RunCommand, ctx: &Context<'_>) -> Result<Transition, Rejection> {
        match command {
            RunCommand::StartActivityTask(start) => {
                if self.is_started_by(&start) {
                    return Ok(Transition::reply(self.attempt(ctx)));
                }
                self.change(id, ctx, |run, ctx| run.start_attempt(start, ctx))
            }
            RunCommand::HeartbeatActivity { activity, details, identity } => {
                self.change(id, ctx, |run, ctx| run.heartbeat(&activity, details, identity, ctx))
            }
            RunCommand::CompleteActivity { activity, result, identity, .. } => {
                self.change(id, ctx, |run, ctx| run.complete(&activity, result, identity, ctx))
            }
            RunCommand::FailActivity { activity, failure, last_heartbeat_details, identity, .. } => {
                fail_activity::check_kind(&activity, failure.as_deref())?;
                self.change(id, ctx, |run, ctx| {
                    run.find(&activity)?;
                    run.take_last_heartbeat(last_heartbeat_details, ctx);
                    run.fail(failure.map(|failure| *failure), identity, ctx);
                    Ok(Reply::Done)
                })
            }
            RunCommand::CancelActivity { activity, details, identity, .. } => {
                self.change(id, ctx, |run, ctx| run.obey_cancel(&activity, details, identity, ctx))
            }
            // It is none of an activity.
            _ => Err(Rejection::activity_execution_not_found(id)),
        }
    }

    // ---- Starts --------------------------------------------------------------------------------------------------------

    /// Whether the attempt is started by this very poll.
    fn is_started_by(&self, start: &StartActivityTask) -> bool {
        self.activity.started.as_ref().is_some_and(|started| started.request_id == start.request_id)
    }

    fn start_attempt(&mut self, start: StartActivityTask, ctx: &Context<'_>) -> Result<Reply, Rejection> {
        let is_ready = self.status() == Status::Scheduled && self.activity.offered;
        let is_it =
            self.activity.attempt == start.attempt && start.key.as_ref().is_none_or(|key| **key == self.task_key());
        if !is_ready || !is_it {
            return Err(Rejection::activity_not_found());
        }
        let StartActivityTask { identity, request_id, sdk, .. } = start;
        self.set_status(Status::Started);
        self.activity.last_worker_identity.clone_from(&identity);
        self.activity.started = Some(ActivityStarted { time: ctx.now, identity, request_id });
        self.progress.last_started = Some(ctx.now.0);
        self.progress.first_started.get_or_insert(ctx.now.0);
        (self.progress.sdk_name, self.progress.sdk_version) = sdk;
        Ok(self.attempt(ctx))
    }

    /// What the worker gets of the attempt that it has started.
    fn attempt(&self, ctx: &Context<'_>) -> Reply {
        let activity = &self.activity;
        let token = ActivityTaskToken {
            namespace_id: ctx.namespace.id,
            workflow_id: activity.activity_id().to_owned(),
            run_id: self.run_id,
            scheduled_event_id: SCHEDULED_EVENT_ID,
            attempt: activity.attempt,
            started_time: activity.started.as_ref().map_or(ctx.now, |started| started.time),
            entity: EntityKind::Activity,
        };
        let options = activity.options();
        Reply::ActivityTaskStarted(Box::new(PollActivityTaskQueueResponse {
            // Temporal has it, and leaves it empty.
            workflow_execution: Some(Default::default()),
            schedule_to_close_timeout: options.schedule_to_close_timeout,
            start_to_close_timeout: options.start_to_close_timeout,
            heartbeat_timeout: options.heartbeat_timeout,
            priority: options.priority,
            activity_run_id: self.run_id.to_string(),
            ..told_of_attempt(activity, &token, ctx.namespace)
        }))
    }

    // ---- Answers -------------------------------------------------------------------------------------------------------

    /// Finds the attempt that a worker speaks of, which goes on.
    fn find(&self, activity: &ActivityRef) -> Result<(), Rejection> {
        let is_it = match activity {
            ActivityRef::Id(_) => true,
            ActivityRef::Token(token) => {
                let started = self.activity.started.as_ref();
                token.attempt == self.activity.attempt
                    && started.is_some_and(|started| started.time == token.started_time)
            }
        };
        if is_it && self.status().is_in_progress() {
            return Ok(());
        }
        Err(Rejection::activity_execution_not_found(self.activity.activity_id()))
    }

    fn heartbeat(
        &mut self,
        activity: &ActivityRef,
        details: Option<Payloads>,
        identity: String,
        ctx: &Context<'_>,
    ) -> Result<Reply, Rejection> {
        self.find(activity)?;
        if is_too_large(details.as_ref(), ctx) {
            let failure = retry::server_failure("Heartbeat details exceed size limit.", true);
            self.fail(Some(failure), identity, ctx);
            return Ok(Reply::Heartbeat(Heartbeat { cancel_requested: true, ..Heartbeat::default() }));
        }
        self.note_heartbeat(details, ctx);
        Ok(Reply::Heartbeat(Heartbeat {
            cancel_requested: self.status() == Status::CancelRequested,
            activity_paused: self.status() == Status::PauseRequested,
            activity_reset: self.status() == Status::ResetRequested,
        }))
    }

    fn note_heartbeat(&mut self, details: Option<Payloads>, ctx: &Context<'_>) {
        self.activity.heartbeat_details = details;
        self.activity.last_heartbeat = Some(ctx.now);
        self.progress.heartbeat_count += 1;
    }

    fn take_last_heartbeat(&mut self, details: Option<Payloads>, ctx: &Context<'_>) {
        if details.is_some() && !is_too_large(details.as_ref(), ctx) {
            self.note_heartbeat(details, ctx);
        }
    }

    /// By id, one can be completed that no worker has.
    fn complete(
        &mut self,
        activity: &ActivityRef,
        result: Option<Payloads>,
        identity: String,
        ctx: &Context<'_>,
    ) -> Result<Reply, Rejection> {
        if is_too_large(result.as_ref(), ctx) {
            self.find(activity)?;
            let failure = retry::server_failure("Complete result exceeds size limit.", true);
            self.fail(Some(failure), identity, ctx);
            return Ok(Reply::Done);
        }
        if matches!(activity, ActivityRef::Token(_)) {
            self.find(activity)?;
        } else if !self.status().is_open() {
            return Err(self.invalid_transition());
        }
        if !self.status().is_in_progress() {
            self.progress.last_started = Some(ctx.now.0);
            self.progress.first_started.get_or_insert(ctx.now.0);
        }
        self.activity.last_attempt_end = Some(ctx.now);
        self.activity.last_worker_identity = identity;
        let outcome = Outcome { completed: Some(Completed { result }), ..Outcome::default() };
        self.close(Status::Completed, outcome, ctx);
        Ok(Reply::Done)
    }

    fn obey_cancel(
        &mut self,
        activity: &ActivityRef,
        details: Option<Payloads>,
        identity: String,
        ctx: &Context<'_>,
    ) -> Result<Reply, Rejection> {
        self.find(activity)?;
        if is_too_large(details.as_ref(), ctx) {
            let failure = retry::server_failure("Cancel details exceed size limit.", true);
            self.fail(Some(failure), identity, ctx);
            return Ok(Reply::Done);
        }
        if self.status() != Status::CancelRequested {
            return Err(Rejection::invalid(
                "unable to mark activity as canceled without activity being request canceled first",
            ));
        }
        self.cancel(details, ctx);
        Ok(Reply::Done)
    }

    /// The attempt has failed: another one follows, or it ends.
    fn fail(&mut self, failure: Option<Failure>, identity: String, ctx: &Context<'_>) {
        let given = failure.is_some();
        let failure = fail_activity::cut(failure.unwrap_or_default(), ctx.limits.blob_bytes_max);
        let requested = match &failure.failure_info {
            Some(FailureInfo::ApplicationFailureInfo(info)) => {
                time::positive(info.next_retry_delay.as_ref()).ok().flatten()
            }
            _ => None,
        };
        let Some(reason) = self.follow(&failure, requested, ctx.now) else { return };
        self.activity.last_worker_identity = identity;
        let told = || Failure { message: "activity task failed without failure details".to_owned(), ..failure.clone() };
        self.end_attempt(if given { failure.clone() } else { told() }, ctx.now);
        self.close(Status::Failed, Outcome { retry_state: reason.into(), ..Outcome::default() }, ctx);
    }

    /// Notes why the last attempt has failed. Nothing of that is cut off: it is the outcome.
    fn end_attempt(&mut self, failure: Failure, now: Time) {
        self.activity.last_failure = Some(Box::new(failure));
        self.activity.last_attempt_end = Some(now);
        self.progress.retry_interval = None;
        self.progress.interval_is_requested = false;
    }

    /// What follows an attempt that has failed or timed out: another one, or (`Some`) none, for that reason.
    fn follow(&mut self, failure: &Failure, requested: Option<Duration>, now: Time) -> Option<RetryState> {
        if self.status() == Status::ResetRequested {
            self.begin_anew(failure, now);
            return None;
        }
        let is_cancel_requested = self.status() == Status::CancelRequested;
        let attempt = self.activity.attempt;
        let next = retried_by(&self.activity, failure, is_cancel_requested)
            .and_then(|policy| retry::next_interval(policy, attempt, requested, now, self.expiration()));
        let interval = match next {
            Ok(interval) => interval,
            Err(reason) => return Some(reason),
        };
        self.activity.attempt_failed(failure, now);
        self.progress.retry_interval = Some(time::to_proto(interval));
        self.progress.interval_is_requested = requested.is_some();
        match self.status() {
            Status::PauseRequested => self.set_status(Status::Paused),
            _ => self.schedule(now.plus(interval), now),
        }
        None
    }

    /// A reset has waited for the end of this attempt.
    fn begin_anew(&mut self, failure: &Failure, now: Time) {
        if std::mem::take(&mut self.progress.reset_restores_options) {
            self.restore_options();
        }
        if std::mem::take(&mut self.progress.reset_clears_heartbeat) {
            self.activity.forget_heartbeat();
        }
        self.activity.attempt_failed(failure, now);
        self.activity.attempt = 1;
        self.progress.retry_interval = None;
        self.progress.interval_is_requested = false;
        if std::mem::take(&mut self.progress.reset_pauses) {
            self.set_status(Status::Paused);
        } else {
            self.schedule(self.not_before_first(now), now);
        }
    }

    // ---- What is due ---------------------------------------------------------------------------------------------------

    /// Does all that is due. Nothing fires early, and a call for nothing is fine.
    pub(super) fn wake(&mut self, id: &str, ctx: &Context<'_>) -> Transition {
        let (mut timed_out, was_offered) = (false, self.activity.offered);
        if self.status().is_open() {
            let mut due: Vec<(Time, Timeout)> =
                self.timeouts().into_iter().flatten().filter(|(deadline, _)| *deadline <= ctx.now).collect();
            due.sort_unstable();
            let attempt = (self.activity.attempt, self.progress.last_started);
            for (_, timeout) in due {
                // An earlier one may have ended it, or the attempt.
                let is_same = attempt == (self.activity.attempt, self.progress.last_started);
                if self.status().is_open() && (is_same || timeout == Timeout::ScheduleToClose) {
                    self.time_out(timeout.to_proto(), ctx);
                    timed_out = true;
                }
            }
        }
        if self.status() == Status::Scheduled && self.activity.attempt_scheduled_time <= ctx.now {
            self.activity.offered = true;
        }
        if timed_out {
            self.progress.transition_count += 1;
        }
        // A wake row that has served must go, or move on, even if nothing else has changed.
        let has_served = self.progress.wake_at.is_some_and(|time| Time(time) <= ctx.now);
        if timed_out || self.activity.offered != was_offered || has_served {
            return self.changed(id, ctx, Reply::Done);
        }
        Transition::reply(Reply::Done)
    }

    fn timeouts(&self) -> [Option<(Time, Timeout)>; 4] {
        let activity = &self.activity;
        [
            activity.start_to_close_deadline().map(|time| (time, Timeout::StartToClose)),
            activity.schedule_to_start_deadline().map(|time| (time, Timeout::ScheduleToStart)),
            self.expiration().map(|time| (time, Timeout::ScheduleToClose)),
            activity.heartbeat_deadline().map(|time| (time, Timeout::Heartbeat)),
        ]
    }

    fn time_out(&mut self, timeout_type: TimeoutType, ctx: &Context<'_>) {
        let text = format!("activity {} timeout", retry::timeout_name(timeout_type));
        let before = self.activity.last_failure.clone();
        let (retry_state, failure) = match timeout_type {
            TimeoutType::StartToClose | TimeoutType::Heartbeat => {
                let attempt = failure(text.clone(), timeout_type, None, None);
                let Some(reason) = self.follow(&attempt, None, ctx.now) else { return };
                let details = self.activity.heartbeat_details.clone();
                self.end_attempt(failure(text, timeout_type, before.clone(), details.clone()), ctx.now);
                // There would be a next attempt, had it the time to end: what is over is the time of the activity as a whole.
                let over = "Not enough time to schedule next retry before activity ScheduleToClose timeout, \
                            giving up retrying";
                let is_over = reason == RetryState::Timeout;
                let instead = is_over.then(|| failure(over.to_owned(), TimeoutType::ScheduleToClose, before, details));
                (reason, instead)
            }
            _ => {
                let is_cancel_requested =
                    timeout_type == TimeoutType::ScheduleToClose && self.status() == Status::CancelRequested;
                let reason = if is_cancel_requested { RetryState::CancelRequested } else { RetryState::Timeout };
                let details = self.activity.heartbeat_details.clone();
                (reason, Some(failure(text, timeout_type, before, details)))
            }
        };
        let outcome = Outcome { failure, retry_state: retry_state.into(), ..Outcome::default() };
        self.close(Status::TimedOut, outcome, ctx);
    }
}

/// That a time is over, with why the attempt before has failed, and what was heard last.
fn failure(
    message: String,
    timeout_type: TimeoutType,
    cause: Option<Box<Failure>>,
    last_heartbeat_details: Option<Payloads>,
) -> Failure {
    let info = TimeoutFailureInfo { timeout_type: timeout_type.into(), last_heartbeat_details };
    Failure { message, cause, failure_info: Some(FailureInfo::TimeoutFailureInfo(info)), ..Failure::default() }
}

fn is_too_large(payloads: Option<&Payloads>, ctx: &Context<'_>) -> bool {
    payloads.map_or(0, Message::encoded_len) > ctx.limits.blob_bytes_max
}
