//! The one entry: a command is carried out, and what it did becomes a transition.

use everlog_proto::api::workflowservice::v1::StartBatchOperationRequest;

use super::state::{Asked, BatchJob, Live, Page, Progress, Status};
use super::{Advance, BatchJobCommand, Next};
use crate::command::Reply;
use crate::transition::{Effect, Transition};
use crate::{Context, Rejection, Time};

/// Decides `command` on the state of `job`, which is changed *ahead* of the log: the caller drops it if the rows are not committed. On an
/// error nothing is changed.
///
/// # Errors
///
/// A [`Rejection`] says why the command cannot be carried out.
pub fn decide(job: &mut BatchJob, command: BatchJobCommand, ctx: &mut Context<'_>) -> Result<Transition, Rejection> {
    let id = &job.id;
    match command {
        BatchJobCommand::Start(request) => {
            if let Some(live) = &job.live {
                return Err(already_there(id, live));
            }
            let live = start(*request, ctx);
            let transition = live.began(id);
            job.live = Some(Box::new(live));
            Ok(transition)
        }
        BatchJobCommand::Stop(request) => {
            let live = job.live.as_mut().ok_or_else(not_found)?;
            if !live.is_running() {
                return Err(Rejection::workflow_completed());
            }
            live.progress.why = request.reason;
            live.progress.stopped_by = request.identity;
            Ok(live.close(id, Status::Stopped, ctx))
        }
        BatchJobCommand::Describe => {
            let live = job.live.as_ref().ok_or_else(not_found)?;
            Ok(Transition::reply(Reply::BatchJob(Box::new(live.describe(id)))))
        }
        BatchJobCommand::Resume(run_id) => {
            Ok(Transition::reply(Reply::BatchWork(job.live.as_ref().and_then(|live| live.work(run_id)))))
        }
        BatchJobCommand::Advance(step) => {
            let run_id = step.run_id;
            let mut transition = match &mut job.live {
                Some(live) => live.advance(id, *step, ctx),
                None => Transition::reply(Reply::Done),
            };
            transition.reply = Ok(Reply::BatchWork(job.live.as_ref().and_then(|live| live.work(run_id))));
            Ok(transition)
        }
        BatchJobCommand::Wake => {
            let live = job.live.as_ref().ok_or_else(not_found)?;
            let mut transition = Transition::reply(Reply::Done);
            if live.is_running() {
                transition.effects.push(live.is_to_be_worked_on());
            } else if live.progress.wake_at.is_some_and(|wake_at| wake_at <= ctx.now.0) {
                live.delete_rows(&mut transition.rows);
                job.live = None;
            }
            Ok(transition)
        }
        BatchJobCommand::Delete => {
            let live = job.live.take().ok_or_else(not_found)?;
            let mut transition = Transition::reply(Reply::Done);
            live.delete_rows(&mut transition.rows);
            transition.effects.push(Effect::BatchJob { run_id: live.run_id, is_running: false });
            Ok(transition)
        }
    }
}

fn not_found() -> Rejection {
    Rejection::workflow_not_found()
}

/// What Temporal says of the workflow that the job is there.
fn already_there(id: &str, live: &Live) -> Rejection {
    let run_id = live.run_id;
    let message = if live.is_running() {
        format!("Workflow execution is already running. WorkflowId: {id}, RunId: {run_id}.")
    } else {
        format!(
            "Workflow execution already finished. WorkflowId: {id}, RunId: {run_id}. \
             Workflow Id reuse policy: reject duplicate workflow Id."
        )
    };
    Rejection::AlreadyStarted {
        message,
        start_request_id: live.asked.request_id.clone(),
        run_id: run_id.to_string(),
        first_execution_run_id: run_id.to_string(),
    }
}

fn start(request: StartBatchOperationRequest, ctx: &mut Context<'_>) -> Live {
    let asked = Asked { request: Some(request), request_id: ctx.ids.request_id() };
    let progress = Progress {
        started: ctx.now.0,
        status: Status::Running.into(),
        page: Some(Page::default()),
        // Due at once: whoever leads the partition next finds it among what is due.
        wake_at: Some(ctx.now.0),
        ..Progress::default()
    };
    Live { run_id: ctx.ids.run_id(ctx.now), asked, progress }
}

impl Live {
    /// Counts a page, unless that has been done, and goes on to the next one.
    fn advance(&mut self, id: &str, step: Advance, ctx: &Context<'_>) -> Transition {
        let page = self.progress.page.as_ref().map(|page| page.number);
        if !self.is_running() || self.run_id != step.run_id || page != Some(step.page) {
            return Transition::reply(Reply::Done);
        }
        let progress = &mut self.progress;
        progress.succeeded += step.succeeded;
        progress.failed += step.failed;
        progress.total = step.total.unwrap_or(progress.total);
        match step.next {
            Next::Page(next) => {
                progress.page = Some(Page { number: step.page + 1, ..next });
                self.went_on()
            }
            Next::Completed => self.close(id, Status::Completed, ctx),
            Next::Failed(why) => {
                progress.why = why;
                self.close(id, Status::Failed, ctx)
            }
        }
    }

    /// Ends it. It is kept for the retention of its namespace.
    fn close(&mut self, id: &str, status: Status, ctx: &Context<'_>) -> Transition {
        // Not before its start, wherever the clock has gone.
        let closed = Time(ctx.now.0.max(self.progress.started));
        self.progress.status = status.into();
        self.progress.closed = Some(closed.0);
        self.progress.page = None;
        let wake_at = self.progress.wake_at.replace(closed.plus(ctx.namespace.retention).0);
        self.closed(id, wake_at)
    }

    pub(super) fn is_to_be_worked_on(&self) -> Effect {
        Effect::BatchJob { run_id: self.run_id, is_running: true }
    }
}
