//! Tasks are started where their workflow is led, which need not be where their queue is at home.

use everlog_kernel::command::{Reply, StartActivityTask, StartWorkflowTask};
use everlog_kernel::{ActivityExecutionCommand, Command, EntityKind, Rejection, RunCommand, RunId, token};
use everlog_matching::query_waiters::Queries;
use everlog_model::{CallError, WorkflowRef};
use everlog_proto::api::workflowservice::v1::PollActivityTaskQueueResponse;

use super::router::{Route, Router};
use super::{Partition, StartedWorkflowTask};

/// A poller for a query that waits at the node that leads its workflow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartQuery {
    /// The number under which its caller waits.
    pub query_id: u64,
    /// The queue that was polled, sticky or normal.
    pub task_queue: String,
}

impl Partition {
    /// Starts an activity task for a poller: the poll response. `kind` says whose activity it is.
    ///
    /// # Errors
    ///
    /// As [`Partition::execute`]; a refusal says that the task is not there any more.
    pub async fn start_activity_task(
        &self,
        kind: EntityKind,
        workflow: WorkflowRef,
        run_id: RunId,
        start: StartActivityTask,
    ) -> Result<Box<PollActivityTaskQueueResponse>, CallError> {
        let command = RunCommand::StartActivityTask(start);
        let command = match kind {
            EntityKind::Activity => ActivityExecutionCommand::OfWorker(Box::new(command)).into(),
            _ => Command::from(command),
        };
        match self.execute(workflow, Some(run_id), command).await? {
            Reply::ActivityTaskStarted(response) => Ok(response),
            reply => Err(CallError::Failed(format!("unexpected reply to the start of an activity: {reply:?}"))),
        }
    }

    /// Starts a query of one of `queries` for a poller: the poll response, with the token for the answer and without the query.
    ///
    /// # Errors
    ///
    /// As [`Partition::execute`]; a refusal says that nobody waits for the answer any more.
    pub async fn start_query(
        &self,
        queries: &Queries,
        workflow: WorkflowRef,
        run_id: RunId,
        start: StartQuery,
    ) -> Result<StartedWorkflowTask, CallError> {
        let StartQuery { query_id, task_queue } = start;
        let given_up = || CallError::Rejected(Rejection::NotFound("nobody waits for the query any more".into()));
        if !queries.is_waiting(query_id) {
            return Err(given_up());
        }
        let started = self.start_workflow_task(workflow, run_id, RunCommand::StartQueryTask { task_queue }).await;
        match started {
            Ok(mut started) => {
                let token = queries.hand_out(query_id, run_id).ok_or_else(given_up)?;
                started.response.message.task_token = token::encode(&token);
                Ok(started)
            }
            Err(CallError::Rejected(rejection)) => {
                queries.answer(query_id, Err(rejection.clone()));
                Err(CallError::Rejected(rejection))
            }
            Err(error) => Err(error),
        }
    }
}

/// What the home of a queue asks for once a poller is at hand. A refusal says that the task is not there any more; with any other error it
/// is ready as before, or was started and nobody has it.
impl Router {
    /// Starts a workflow task.
    ///
    /// # Errors
    ///
    /// As [`Partition::start_workflow_task`]; [`CallError::NotDone`] if no node is known to lead the workflow.
    pub async fn start_workflow_task(
        &self,
        workflow: WorkflowRef,
        run_id: RunId,
        start: StartWorkflowTask,
    ) -> Result<StartedWorkflowTask, CallError> {
        match self.way(&workflow) {
            Route::Here(partition) => {
                partition.start_workflow_task(workflow, run_id, RunCommand::StartWorkflowTask(start)).await
            }
            Route::There(node) => self.others().start_workflow_task(node, workflow, run_id, start).await,
            Route::Nowhere => Err(Router::nowhere()),
        }
    }

    /// Starts an activity task.
    ///
    /// # Errors
    ///
    /// As [`Partition::start_activity_task`]; [`CallError::NotDone`] if no node is known to lead the workflow.
    pub async fn start_activity_task(
        &self,
        kind: EntityKind,
        workflow: WorkflowRef,
        run_id: RunId,
        start: StartActivityTask,
    ) -> Result<Box<PollActivityTaskQueueResponse>, CallError> {
        match self.way(&workflow) {
            Route::Here(partition) => partition.start_activity_task(kind, workflow, run_id, start).await,
            Route::There(node) => self.others().start_activity_task(node, kind, workflow, run_id, start).await,
            Route::Nowhere => Err(Router::nowhere()),
        }
    }

    /// Starts a query, whose caller is among `queries` if its workflow is led here.
    ///
    /// # Errors
    ///
    /// As [`Partition::start_query`]; [`CallError::NotDone`] if no node is known to lead the workflow.
    pub async fn start_query(
        &self,
        queries: &Queries,
        workflow: WorkflowRef,
        run_id: RunId,
        start: StartQuery,
    ) -> Result<StartedWorkflowTask, CallError> {
        match self.way(&workflow) {
            Route::Here(partition) => partition.start_query(queries, workflow, run_id, start).await,
            Route::There(node) => self.others().start_query(node, workflow, run_id, start).await,
            Route::Nowhere => Err(Router::nowhere()),
        }
    }
}
