//! The one entry: a command is carried out, and what it did becomes a transition.

use super::state::{ActivityExecutions, Cancel, Execution, Outcome, Status};
use super::{ActivityExecutionCommand, start};
use crate::activity_task::text_payloads;
use crate::command::Reply;
use crate::transition::Transition;
use crate::{Context, Rejection, RunId, Time};
use everlog_proto::api::common::v1::Payloads;
use everlog_proto::api::failure::v1::failure::FailureInfo;
use everlog_proto::api::failure::v1::{CanceledFailureInfo, Failure, TerminatedFailureInfo};
use everlog_proto::api::workflowservice::v1::{
    RequestCancelActivityExecutionRequest, TerminateActivityExecutionRequest,
};

/// Decides a command on the activities of an id. `run_id` is the run that the command names, or `None` for the current one; it must be
/// in memory if it exists. The state is changed *ahead* of the log, as by [`crate::decide()`].
///
/// # Errors
///
/// A [`Rejection`] says why the command cannot be carried out; nothing is changed then.
pub fn decide(
    executions: &mut ActivityExecutions,
    run_id: Option<RunId>,
    command: ActivityExecutionCommand,
    ctx: &mut Context<'_>,
) -> Result<Transition, Rejection> {
    use ActivityExecutionCommand as C;
    if let C::Start(request) = command {
        return start::start(executions, *request, ctx);
    }
    let not_found = || Rejection::activity_execution_not_found(&executions.id);
    let run_id = run_id.or(executions.current).ok_or_else(not_found)?;
    let id = &executions.id;
    let run = executions.runs.get_mut(&run_id).ok_or_else(|| Rejection::activity_execution_not_found(id))?;
    match command {
        C::Start(_) => Err(not_found()),
        C::Describe(request) => {
            let described = Box::new(run.describe(id, &request, ctx.now));
            Ok(Transition::reply(Reply::ActivityExecution(described, run.progress.transition_count)))
        }
        C::OfWorker(command) => run.hear(id, *command, ctx),
        C::RequestCancel(request) => run.change(id, ctx, |run, ctx| run.request_cancel(*request, ctx)),
        C::Terminate(request) => run.change(id, ctx, |run, ctx| run.terminate(*request, ctx)),
        C::Pause(request) => run.change(id, ctx, |run, ctx| run.pause(*request, ctx)),
        C::Unpause(request) => run.operate(id, ctx, |run, ctx| run.unpause(*request, ctx)),
        C::Reset(request) => run.operate(id, ctx, |run, ctx| run.reset(*request, ctx)),
        C::UpdateOptions(request) => run.change(id, ctx, |run, ctx| run.update_options(*request, ctx)),
        C::Wake => {
            if run.is_forgotten(ctx.now) {
                return Ok(delete(executions, run_id));
            }
            Ok(run.wake(id, ctx))
        }
        C::Delete => Ok(delete(executions, run_id)),
    }
}

/// Forgets one. Another one that has its id is the current one no more: an id whose last activity was deleted is free.
fn delete(executions: &mut ActivityExecutions, run_id: RunId) -> Transition {
    let mut transition = Transition::reply(Reply::Done);
    let Some(run) = executions.runs.remove(&run_id) else { return transition };
    run.delete_rows(executions.current == Some(run_id), &mut transition.rows);
    if executions.current == Some(run_id) {
        executions.current = None;
    }
    transition
}

impl Execution {
    /// Asks it to cancel. With no attempt in hand, it is at once.
    fn request_cancel(
        &mut self,
        request: RequestCancelActivityExecutionRequest,
        ctx: &Context<'_>,
    ) -> Result<Reply, Rejection> {
        let before = self.progress.cancel.as_ref().map_or("", |cancel| &cancel.request_id);
        if !request.request_id.is_empty() && before == request.request_id {
            return Ok(Reply::Done);
        }
        self.check_open()?;
        if self.status() == Status::CancelRequested {
            let message = format!("cancellation already requested with request ID {before}");
            return Err(Rejection::FailedPrecondition(message.into()));
        }
        let RequestCancelActivityExecutionRequest { request_id, identity, reason, .. } = request;
        let is_in_progress = self.status().is_in_progress();
        let details = text_payloads(&reason);
        self.progress.cancel = Some(Cancel { request_id, identity, reason });
        self.progress.reset_restores_options = false;
        self.progress.reset_clears_heartbeat = false;
        self.set_status(Status::CancelRequested);
        if !is_in_progress {
            self.cancel(Some(details), ctx);
        }
        Ok(Reply::Done)
    }

    /// It has obeyed a request to cancel.
    pub(super) fn cancel(&mut self, details: Option<Payloads>, ctx: &Context<'_>) {
        let identity = self.progress.cancel.as_ref().map(|cancel| cancel.identity.clone()).unwrap_or_default();
        let info = CanceledFailureInfo { details, identity };
        let failure = Failure {
            message: "Activity canceled".to_owned(),
            failure_info: Some(FailureInfo::CanceledFailureInfo(info)),
            ..Failure::default()
        };
        self.close(Status::Canceled, Outcome { failure: Some(failure), ..Outcome::default() }, ctx);
    }

    fn terminate(&mut self, request: TerminateActivityExecutionRequest, ctx: &Context<'_>) -> Result<Reply, Rejection> {
        let status = self.status();
        if status == Status::Terminated {
            let before = &self.progress.terminate_request_id;
            if *before == request.request_id {
                return Ok(Reply::Done);
            }
            return Err(Rejection::FailedPrecondition(format!("already terminated with request ID {before}").into()));
        }
        if !status.is_open() {
            return Err(self.invalid_transition());
        }
        let info = TerminatedFailureInfo { identity: request.identity };
        let failure = Failure {
            message: request.reason,
            failure_info: Some(FailureInfo::TerminatedFailureInfo(info)),
            ..Failure::default()
        };
        self.progress.terminate_request_id = request.request_id;
        self.close(Status::Terminated, Outcome { failure: Some(failure), ..Outcome::default() }, ctx);
        Ok(Reply::Done)
    }

    /// Ends it, with what has come of it.
    pub(super) fn close(&mut self, status: Status, outcome: Outcome, ctx: &Context<'_>) {
        // Not before its start, wherever the clock has gone.
        let closed = ctx.now.max(self.activity.scheduled_time);
        self.set_status(status);
        self.progress.closed = Some(closed.0);
        self.progress.outcome = Some(outcome);
        self.activity.offered = false;
        self.activity.started = None;
    }

    /// Whether it was kept for long enough.
    fn is_forgotten(&self, now: Time) -> bool {
        !self.status().is_open() && self.progress.wake_at.is_some_and(|time| Time(time) <= now)
    }

    pub(super) fn check_open(&self) -> Result<(), Rejection> {
        if self.status().is_open() {
            return Ok(());
        }
        let message = format!("activity is in terminal state {}", self.status());
        Err(Rejection::FailedPrecondition(message.into()))
    }

    pub(super) fn invalid_transition(&self) -> Rejection {
        Rejection::FailedPrecondition(format!("invalid transition from {}", self.status()).into())
    }
}
