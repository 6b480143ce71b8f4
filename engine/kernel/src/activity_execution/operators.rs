//! What operators do to an activity: pause it, have it go on, have its attempts counted anew, change how it is attempted.

use everlog_proto::api::activity::v1::ActivityOptions;
use everlog_proto::api::workflowservice::v1::{
    PauseActivityExecutionRequest, ResetActivityExecutionRequest, UnpauseActivityExecutionRequest,
    UpdateActivityExecutionOptionsRequest,
};

use super::state::{Execution, Status};
use crate::activity_operations;
use crate::command::Reply;
use crate::field_mask::FieldMask;
use crate::requests::update_activity_options::merged;
use crate::transition::Transition;
use crate::{Context, Rejection, Time, retry, time, validation};

impl Execution {
    /// As [`Execution::change`], with what gives out random numbers.
    pub(super) fn operate(
        &mut self,
        id: &str,
        ctx: &mut Context<'_>,
        then: impl FnOnce(&mut Execution, &mut Context<'_>) -> Result<Reply, Rejection>,
    ) -> Result<Transition, Rejection> {
        let reply = then(self, ctx)?;
        self.progress.transition_count += 1;
        Ok(self.changed(id, ctx, reply))
    }

    /// An attempt that goes on is told so with its next heartbeat.
    pub(super) fn pause(
        &mut self,
        request: PauseActivityExecutionRequest,
        _ctx: &Context<'_>,
    ) -> Result<Reply, Rejection> {
        if !request.request_id.is_empty() && self.progress.pause_request_id == request.request_id {
            return Ok(Reply::Done);
        }
        match self.status() {
            Status::Scheduled => {
                self.activity.offered = false;
                self.set_status(Status::Paused);
            }
            Status::Started => self.set_status(Status::PauseRequested),
            status => {
                let message = format!("activity is in non-pausable state {status}");
                return Err(Rejection::FailedPrecondition(message.into()));
            }
        }
        self.progress.pause_request_id = request.request_id;
        Ok(Reply::Done)
    }

    pub(super) fn unpause(
        &mut self,
        request: UnpauseActivityExecutionRequest,
        ctx: &mut Context<'_>,
    ) -> Result<Reply, Rejection> {
        if !request.request_id.is_empty() && self.progress.unpause_request_id == request.request_id {
            return Ok(Reply::Done);
        }
        self.check_open()?;
        match self.status() {
            Status::Paused => {
                let time = self.not_before_first(activity_operations::jittered(ctx, request.jitter.as_ref()));
                // A retry that backs off still does.
                self.schedule(self.retry_due().map_or(time, |due| due.max(time)), ctx.now);
            }
            Status::PauseRequested => self.set_status(Status::Started),
            status => {
                let message = format!("activity is in non-unpausable state {status}");
                return Err(Rejection::FailedPrecondition(message.into()));
            }
        }
        self.progress.unpause_request_id = request.request_id;
        Ok(Reply::Done)
    }

    pub(super) fn reset(
        &mut self,
        request: ResetActivityExecutionRequest,
        ctx: &mut Context<'_>,
    ) -> Result<Reply, Rejection> {
        if !request.request_id.is_empty() && self.progress.reset_request_id == request.request_id {
            return Ok(Reply::Done);
        }
        match self.status() {
            Status::CancelRequested => {
                return Err(Rejection::FailedPrecondition(
                    "cannot reset an activity with a pending cancellation".into(),
                ));
            }
            Status::ResetRequested => {
                return Err(Rejection::FailedPrecondition("cannot reset an activity with a pending reset".into()));
            }
            // It waits for the end of the attempt.
            status @ (Status::Started | Status::PauseRequested) => {
                self.progress.reset_restores_options = request.restore_original_options;
                self.progress.reset_clears_heartbeat = request.reset_heartbeat;
                self.progress.reset_pauses = request.keep_paused && status == Status::PauseRequested;
                self.set_status(Status::ResetRequested);
            }
            status @ (Status::Paused | Status::Scheduled) => {
                if request.restore_original_options {
                    self.restore_options();
                }
                self.activity.attempt = 1;
                self.progress.retry_interval = None;
                self.progress.interval_is_requested = false;
                if request.reset_heartbeat {
                    self.activity.forget_heartbeat();
                }
                if status == Status::Scheduled || !request.keep_paused {
                    let time = activity_operations::jittered(ctx, request.jitter.as_ref());
                    self.schedule(self.not_before_first(time), ctx.now);
                }
            }
            _ => return Err(Rejection::FailedPrecondition("activity execution is not running".into())),
        }
        self.progress.reset_request_id = request.request_id;
        Ok(Reply::Done)
    }

    pub(super) fn update_options(
        &mut self,
        request: UpdateActivityExecutionOptionsRequest,
        ctx: &Context<'_>,
    ) -> Result<Reply, Rejection> {
        if !request.request_id.is_empty() && self.progress.update_request_id == request.request_id {
            return Ok(self.told_options());
        }
        let status = self.status();
        if !status.is_open() || matches!(status, Status::CancelRequested | Status::ResetRequested) {
            let message = format!("Cannot update options for activity in state {status}");
            return Err(Rejection::FailedPrecondition(message.into()));
        }
        let mask = FieldMask::new(&request.update_mask.clone().unwrap_or_default());
        if request.restore_original {
            self.restore_options();
        } else {
            let given = request.activity_options.clone().unwrap_or_default();
            self.check_start_delay(&given, &mask, ctx.now)?;
            let current = ActivityOptions { start_delay: self.progress.start_delay, ..self.activity.options() };
            let options = merged(current, &self.activity, &given, &mask, ctx.limits)?;
            self.give(options);
        }
        self.recalculate_interval(request.restore_original || has_policy(&mask));
        if status == Status::Scheduled {
            let due = self.retry_due().unwrap_or_else(|| self.not_before_first(ctx.now));
            self.schedule(due, ctx.now);
        }
        self.progress.update_request_id = request.request_id;
        Ok(self.told_options())
    }

    /// The first attempt cannot be put off once it was handed out.
    fn check_start_delay(&self, given: &ActivityOptions, mask: &FieldMask, now: Time) -> Result<(), Rejection> {
        if !mask.has("startDelay") {
            return Ok(());
        }
        time::positive(given.start_delay.as_ref())
            .map_err(|wrong| Rejection::invalid(format!("invalid StartDelay: {wrong}")))?;
        let is_put_off = self.first_due() > now;
        let is_held = self.progress.first_started.is_none() && self.status() == Status::Paused;
        if is_put_off || is_held {
            return Ok(());
        }
        Err(Rejection::FailedPrecondition(
            "cannot update start_delay: the first activity attempt has already been dispatched".into(),
        ))
    }

    /// How long a retry backs off follows from the policy, unless the worker has said it.
    fn recalculate_interval(&mut self, is_policy_changed: bool) {
        let waits = matches!(self.status(), Status::Scheduled | Status::Paused);
        if !is_policy_changed || !waits || self.progress.interval_is_requested || self.progress.retry_interval.is_none()
        {
            return;
        }
        let interval = self.activity.retry_policy().map(|policy| retry::interval(policy, self.activity.attempt - 1));
        self.progress.retry_interval = interval.map(time::to_proto);
    }

    fn give(&mut self, options: ActivityOptions) {
        self.progress.start_delay = options.start_delay;
        let options = ActivityOptions { start_delay: None, ..options };
        self.activity.changed_options = Some(Box::new(options));
    }

    /// Gives it the options that were asked for. Its first attempt is put off no more than it was.
    pub(super) fn restore_options(&mut self) {
        self.activity.changed_options = None;
        if self.progress.first_started.is_none() {
            self.progress.start_delay = self.asked.start_delay;
        }
    }

    fn told_options(&self) -> Reply {
        let options = ActivityOptions {
            task_queue: Some(validation::normal_queue(self.activity.task_queue())),
            start_delay: self.progress.start_delay,
            ..self.activity.options()
        };
        Reply::ActivityOptions(Box::new(options))
    }
}

fn has_policy(mask: &FieldMask) -> bool {
    mask.has("retryPolicy") || mask.inside("retryPolicy").next().is_some()
}
