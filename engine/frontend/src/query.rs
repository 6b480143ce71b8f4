//! QueryWorkflow, and workers' answers to queries that they were given by themselves.
//!
//! The kernel decides whether a query goes along with the next workflow task or to a worker by itself; here is only waited
//! for the answer, and given up in time.

use std::time::Duration;

use everlog_kernel::command::{QueryReply, Reply};
use everlog_kernel::token::QueryTaskToken;
use everlog_kernel::transition::TaskKind;
use everlog_kernel::{Rejection, RunCommand, RunId};
use everlog_matching::Message;
use everlog_matching::query_waiters::WaitingQuery;
use everlog_model::{QueueId, WorkflowRef};
use everlog_partition::{LeadWatch, Route, SkippedTime};
use everlog_proto::api::common::v1::Payloads;
use everlog_proto::api::enums::v1::QueryResultType;
use everlog_proto::api::query::v1::QueryRejected;
use everlog_proto::api::workflowservice::v1::{
    QueryWorkflowRequest, QueryWorkflowResponse, RespondQueryTaskCompletedRequest, RespondQueryTaskCompletedResponse,
};
use tokio::time::Instant;

use super::call::Call;
use super::errors::Error;
use super::execute::unexpected;
use super::{Frontend, Services, address, validate};

/// How long a caller that sets no deadline waits.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// How long before the caller's deadline it is found out whether a worker was there at all.
const LAST_LOOK: Duration = Duration::from_secs(1);

/// An answer leaves this long before the caller's deadline.
const ANSWER_TIME: Duration = Duration::from_millis(50);

/// Asks a workflow.
pub(super) async fn query_workflow(
    frontend: &Frontend,
    call: Call,
    request: QueryWorkflowRequest,
) -> Result<QueryWorkflowResponse, Error> {
    let namespace = frontend.namespace(&request.namespace)?;
    let (workflow_id, run_id) = validate::execution(request.execution.as_ref())?;
    let query = request.query.ok_or_else(|| Error::invalid("WorkflowQuery is not set on request."))?;
    if query.query_type.is_empty() {
        return Err(Error::invalid("QueryType is not set on request."));
    }
    validate::payloads(query.query_args.as_ref(), &frontend.config(&request.namespace))?;
    let address = address(&namespace, workflow_id);
    let deadline = call.deadline.unwrap_or_else(|| Instant::now() + WAIT_MAX);
    // It takes a worker's time, as a task does.
    let _hold = frontend.skipped_time.as_ref().map(SkippedTime::hold);

    loop {
        let lead = frontend.router.partition_of(&address)?.lead();
        let waiting = frontend.queries.register(address.clone());
        let command = RunCommand::QueryWorkflow {
            query_id: waiting.id,
            query: Box::new(query.clone()),
            reject_condition: request.query_reject_condition,
        };
        let mut asked = Asked { services: frontend.services.clone(), address: address.clone(), run_id, waiting };
        let sticky_timeout = match frontend.execute(address.clone(), run_id, command).await? {
            Reply::Query(QueryReply::Rejected(status)) => {
                return Ok(QueryWorkflowResponse {
                    query_rejected: Some(QueryRejected { status: status as i32 }),
                    ..QueryWorkflowResponse::default()
                });
            }
            Reply::Query(QueryReply::Asked { sticky_timeout }) => sticky_timeout,
            reply => return Err(unexpected(&reply)),
        };
        if let Some(query_result) = asked.answer(frontend, deadline, lead, sticky_timeout).await? {
            return Ok(QueryWorkflowResponse { query_result, ..QueryWorkflowResponse::default() });
        }
        // Its worker hangs, or has dropped it: another one is asked, and what the first one still says comes too late.
        drop(asked);
        frontend.execute_done(address.clone(), run_id, RunCommand::ResetStickyTaskQueue).await?;
    }
}

/// A query that was asked. Dropped, it is taken back: from matching and from the run.
struct Asked {
    services: Services,
    address: WorkflowRef,
    run_id: Option<RunId>,
    waiting: WaitingQuery,
}

impl Asked {
    /// Waits for the answer; `None` if the worker of the sticky queue does not give one in its time. A query is known to the lead that took it,
    /// and to nobody else.
    async fn answer(
        &mut self,
        frontend: &Frontend,
        deadline: Instant,
        mut lead: LeadWatch,
        sticky_timeout: Option<Duration>,
    ) -> Result<Option<Option<Payloads>>, Error> {
        let lost = || Error::NotDone("the partition is led anew".to_owned());
        let answer_by = deadline.checked_sub(ANSWER_TIME).unwrap_or(deadline);
        let last_look = deadline.checked_sub(LAST_LOOK).unwrap_or(deadline).min(answer_by);
        let sticky_until = sticky_timeout.map(|timeout| Instant::now() + timeout).filter(|until| *until < last_look);
        tokio::select! {
            answer = self.waiting.answered() => return answer.map(Some).map_err(again),
            () = frontend.drained() => return Err(Error::Unavailable("the server is stopping".to_owned())),
            () = lead.lost() => return Err(lost()),
            () = tokio::time::sleep_until(sticky_until.unwrap_or(last_look)) => {}
        }
        if sticky_until.is_some() {
            return Ok(None);
        }
        if !self.has_worker().await {
            let message = "no poller seen for task queue recently, worker may be down";
            return Err(Error::failed_precondition(message));
        }
        tokio::select! {
            answer = self.waiting.answered() => answer.map(Some).map_err(again),
            () = lead.lost() => Err(lost()),
            () = tokio::time::sleep_until(answer_by) => {
                Err(Error::DeadlineExceeded("query timed out before a worker could process it"))
            }
        }
    }

    /// Whether a worker could have taken the query: someone polled its queue, or a workflow task is on its way.
    async fn has_worker(&self) -> bool {
        let run_id = self.run_id;
        let Ok(partition) = self.services.router.partition_of(&self.address) else { return true };
        let view = partition.inspect(self.address.clone(), run_id, move |workflow, _| {
            let run = workflow.run(run_id);
            let run = run.ok_or_else(Rejection::workflow_not_found)?;
            Ok((run.task_queue().to_owned(), run.is_open() && run.state.workflow_task.is_some()))
        });
        match view.await {
            Ok((name, has_workflow_task)) => {
                let namespace_id = self.address.namespace.id;
                let queue = QueueId::new(namespace_id, TaskKind::Workflow, name);
                let window = self.services.config.of(&self.address.namespace.name).frontend.query_poller_window;
                has_workflow_task || self.services.has_recent_poller(&queue, window).await
            }
            Err(_) => true,
        }
    }
}

impl Services {
    /// Whether anyone polled a queue, wherever that is at home, in the last `within`.
    async fn has_recent_poller(&self, queue: &QueueId, within: Duration) -> bool {
        match (self.router.queue(queue), &self.nodes) {
            (Route::There(node), Some(nodes)) => Box::pin(nodes.has_recent_poller(node, queue, within)).await,
            _ => self.matching.local().has_recent_poller(queue, within),
        }
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        let query_id = self.waiting.id;
        if !self.services.queries.is_waiting(query_id) {
            return;
        }
        self.services.matching.send(Message::WithdrawQuery { query_id });
        let (services, address, run_id) = (self.services.clone(), self.address.clone(), self.run_id);
        // Without a runtime the server is gone, and the query with it.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                // A run that is gone has no query to forget.
                let _ = services.execute(address, run_id, RunCommand::AbandonQuery { query_id }).await;
            });
        }
    }
}

/// A worker answers a query that it was given by itself.
pub(super) async fn respond_query_task_completed(
    frontend: &Frontend,
    _call: Call,
    mut request: RespondQueryTaskCompletedRequest,
) -> Result<RespondQueryTaskCompletedResponse, Error> {
    let token: QueryTaskToken = frontend.decode_token(&request.namespace, &request.task_token)?;
    let namespace = frontend.token_namespace(&request.namespace, token.namespace_id)?;
    let not_found = || Error::not_found("query task not found, or already expired");
    if !frontend.queries.is_waiting_for(&token) {
        return Err(not_found());
    }
    validate::cut_causes(&mut request.failure);
    let answer = match request.completed_type() {
        QueryResultType::Answered
            if validate::payloads(request.query_result.as_ref(), &frontend.config(namespace.name())).is_err() =>
        {
            Err(Rejection::QueryFailed { message: "query result size exceeds limit".to_owned(), failure: None })
        }
        QueryResultType::Answered => Ok(request.query_result),
        QueryResultType::Failed => {
            Err(Rejection::QueryFailed { message: request.error_message, failure: request.failure.map(Box::new) })
        }
        QueryResultType::Unspecified => {
            return Err(Error::invalid("query entered invalid state, this should be impossible"));
        }
    };
    if !frontend.queries.answer_by_token(&token, answer) {
        return Err(not_found());
    }
    Ok(RespondQueryTaskCompletedResponse::default())
}

/// A run whose slot moves to another partition gives its queries back: they are asked there.
fn again(rejection: Rejection) -> Error {
    match rejection {
        Rejection::Unavailable(message) => Error::NotDone(message.into_owned()),
        rejection => Error::from(rejection),
    }
}
