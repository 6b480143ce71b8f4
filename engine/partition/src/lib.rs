//! The partitions that this node leads: each is one Raft group, one loop, and the handle that the rest of the server uses.
//!
//! ```text
//!   frontend ──Partition::execute──▶ loop ──decide──▶ batch ──propose──▶ raft ──applied──▶ reply, effects
//! ```
//!
//! [`Partitions`] finds the partition of a workflow; a [`Partition`] runs commands on it and reads its runs. What the loop does
//! in which order is told in `event_loop`.

mod batch;
mod cache;
mod event_loop;
mod history;
mod load;
mod memory;
mod pace;
mod sticky_memory;
mod wakes;

use std::sync::Arc;
use std::time::Duration;

use everlog_kernel::command::{Reply, WorkflowTaskStart};
use everlog_kernel::{Command, Context, Rejection, RunId, Workflow};
use everlog_model::{CallError, RunView, WorkflowRef, limits};
use everlog_proto::encoded::{EncodedHistory, PollWorkflowTaskQueueResponse};
use everlog_raft::Group;
use tokio::sync::{mpsc, oneshot};

pub use event_loop::{Dependencies, spawn};
pub use history::HistoryPage;

/// Every partition, by hash slot.
#[derive(Clone)]
pub struct Partitions {
    partitions: Arc<[Partition]>,
}

impl Partitions {
    /// Spreads the slots over `partitions` evenly; there must be at least one.
    pub fn new(partitions: Vec<Partition>) -> Partitions {
        assert!(!partitions.is_empty(), "a node has at least one partition");
        Partitions { partitions: partitions.into() }
    }

    /// The partition of a workflow.
    pub fn of(&self, address: &WorkflowRef) -> &Partition {
        &self.partitions[usize::from(address.slot()) % self.partitions.len()]
    }

    /// The Raft groups that hold a workflow, or all of them.
    pub fn groups(&self, workflow: Option<&WorkflowRef>) -> Vec<Group> {
        match workflow {
            Some(workflow) => vec![self.of(workflow).group.clone()],
            None => self.iter().map(|partition| partition.group.clone()).collect(),
        }
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Partition> {
        self.partitions.iter()
    }
}

/// The handle to one partition. Cheap to clone.
#[derive(Clone)]
pub struct Partition {
    group: Group,
    events: mpsc::Sender<event_loop::Event>,
}

/// The reply to a command that starts a workflow task for a worker, with its history.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The reply.
    pub reply: Reply,
    /// Where the history of the workflow task in the reply is, if there is one.
    pub(crate) history: Option<history::HistorySource>,
}

impl Partition {
    /// The Raft group, for reads of rows.
    pub fn group(&self) -> &Group {
        &self.group
    }

    /// Carries out a command on a workflow, or on the run that `run_id` names. Returns once its outcome is durable.
    ///
    /// # Errors
    ///
    /// [`CallError::Rejected`] when the command is refused; the other kinds when its outcome is unknown or it was not tried.
    pub async fn execute(
        &self,
        address: WorkflowRef,
        run_id: Option<RunId>,
        command: Command,
    ) -> Result<Reply, CallError> {
        Ok(self.call(address, run_id, command).await?.reply)
    }

    async fn call(&self, address: WorkflowRef, run_id: Option<RunId>, command: Command) -> Result<Answer, CallError> {
        let (reply, answer) = oneshot::channel();
        let job = event_loop::Job { address, run_id, work: event_loop::Work::Command { command, reply: Some(reply) } };
        self.send(job).await?;
        answer.await.map_err(|_| gone())?
    }

    /// Looks at a workflow's state once everything that `view` can see is durable.
    ///
    /// # Errors
    ///
    /// As [`Partition::execute`]; the rejection is the one that `view` returns.
    pub async fn inspect<T: Send + 'static>(
        &self,
        address: WorkflowRef,
        run_id: Option<RunId>,
        view: impl FnOnce(&Workflow, &Context<'_>) -> Result<T, Rejection> + Send + 'static,
    ) -> Result<T, CallError> {
        let (reply, answer) = oneshot::channel();
        let work = event_loop::Work::Inspect(Box::new(move |outcome| {
            let result = match outcome {
                Ok((workflow, context)) => view(workflow, context).map_err(CallError::from),
                Err(error) => Err(error),
            };
            // The result leaves only when what it was computed from is durable.
            Box::new(move |durable| {
                let _ = reply.send(durable.and(result));
            })
        }));
        self.send(event_loop::Job { address, run_id, work }).await?;
        answer.await.map_err(|_| gone())?
    }

    /// What is known of a run. With `seen` set, waits until its history has grown beyond that event id or it has closed, but
    /// not longer than `wait`.
    ///
    /// # Errors
    ///
    /// As [`Partition::execute`]; NotFound when there is no such run.
    pub async fn view(
        &self,
        address: WorkflowRef,
        run_id: Option<RunId>,
        seen: Option<i64>,
        wait: Duration,
    ) -> Result<RunView, CallError> {
        let (reply, mut answer) = mpsc::channel(2);
        let work = event_loop::Work::Watch { seen, reply };
        self.send(event_loop::Job { address, run_id, work }).await?;
        // The first answer is what is known now; a second one comes when the wait is over early.
        let now = answer.recv().await.ok_or_else(gone)??;
        let fresh = seen.is_none_or(|seen| now.next_event_id > seen) || !now.is_open;
        if fresh {
            return Ok(now);
        }
        match tokio::time::timeout(wait, answer.recv()).await {
            Ok(Some(later)) => later,
            Ok(None) => Err(gone()),
            Err(_) => Ok(now),
        }
    }

    /// Reads stored events `[from, to)` of a run, whole rows at a time, until at least `events_max` events are there.
    ///
    /// # Errors
    ///
    /// [`CallError::Unavailable`] when the rows cannot be read.
    pub async fn read_history(
        &self,
        address: &WorkflowRef,
        run_id: RunId,
        from: i64,
        to: i64,
        events_max: usize,
    ) -> Result<HistoryPage, CallError> {
        history::read(self.group.clone(), address.clone(), run_id, from, to, events_max).await
    }

    /// Starts a workflow task for a poller: the poll response, with up to a page of history and the event id that the next page
    /// starts at, if there is one.
    ///
    /// # Errors
    ///
    /// As [`Partition::execute`]; NotFound when the task is not there any more.
    pub async fn start_workflow_task(
        &self,
        address: WorkflowRef,
        run_id: RunId,
        command: Command,
    ) -> Result<StartedWorkflowTask, CallError> {
        let answer = self.call(address.clone(), Some(run_id), command).await?;
        match answer.reply {
            Reply::WorkflowTaskStarted(start) | Reply::QueryTask(start) => {
                self.with_history(&address, *start, answer.history).await
            }
            reply => Err(CallError::Unavailable(format!("unexpected reply to the start of a task: {reply:?}"))),
        }
    }

    /// Completes a workflow task; the next one comes back if the worker asked for it and there is one.
    ///
    /// # Errors
    ///
    /// As [`Partition::execute`].
    pub async fn complete_workflow_task(
        &self,
        address: WorkflowRef,
        run_id: RunId,
        command: Command,
    ) -> Result<Option<StartedWorkflowTask>, CallError> {
        let answer = self.call(address.clone(), Some(run_id), command).await?;
        match answer.reply {
            Reply::WorkflowTaskCompleted(completed) => match completed.next {
                Some(start) => Ok(Some(self.with_history(&address, *start, answer.history).await?)),
                None => Ok(None),
            },
            reply => Err(CallError::Unavailable(format!("unexpected reply to a completed task: {reply:?}"))),
        }
    }

    async fn with_history(
        &self,
        address: &WorkflowRef,
        start: WorkflowTaskStart,
        source: Option<history::HistorySource>,
    ) -> Result<StartedWorkflowTask, CallError> {
        let (mut batches, next_page_from) = match source {
            Some(source) => source.read(&self.group, address).await?,
            None => (Vec::new(), None),
        };
        // The events of the task itself stand behind the whole history, so they go with the last page.
        if next_page_from.is_none() && !start.tail.is_empty() {
            batches.push(start.tail.clone());
        }
        let response =
            PollWorkflowTaskQueueResponse { message: start.response, history: Some(EncodedHistory { batches }) };
        Ok(StartedWorkflowTask { response, next_page_from, history_to: start.history_to })
    }

    async fn send(&self, job: event_loop::Job) -> Result<(), CallError> {
        match tokio::time::timeout(limits::PARTITION_ADMISSION_WAIT_MAX, self.events.send(event_loop::Event::Job(job)))
            .await
        {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(gone()),
            Err(_) => Err(CallError::Overloaded(format!("partition {} is overloaded", self.group.id()))),
        }
    }
}

/// A workflow task for a worker.
#[derive(Clone, Debug)]
pub struct StartedWorkflowTask {
    /// The poll response. Its `next_page_token` is for the caller to fill in.
    pub response: PollWorkflowTaskQueueResponse,
    /// The event that the next page of history starts at, if this is not the last page.
    pub next_page_from: Option<i64>,
    /// The first event id that the stored history did not have when the task was started.
    pub history_to: i64,
}

fn gone() -> CallError {
    CallError::Unavailable("the partition is stopping or has lost its leadership".to_owned())
}
