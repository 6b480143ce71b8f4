//! The partitions that this node leads: each is one Raft group, one loop, and the handle that the rest of the server uses.
//!
//! ```text
//!   frontend ──Partition::execute──▶ loop ──decide──▶ batch ──propose──▶ raft ──applied──▶ reply, effects
//! ```
//!
//! A [`Router`] says where the partition of a workflow is led; a [`Partition`] runs commands on it and reads its runs. Start reading
//! at `lead`, the state machine that decides; `event_loop` runs it, and `owner` rebuilds what dies.

mod backlog;
mod batch;
mod batch_jobs;
mod cache;
mod clock;
mod cluster;
mod deliver;
mod event_loop;
mod expired_runs;
mod faults;
mod history;
mod history_pages;
mod job;
mod journal;
mod lead;
mod load;
mod machine;
mod memory;
mod moving;
mod nexus_calls;
mod operation;
mod outbox;
mod owner;
mod pace;
mod replica;
mod reset;
mod router;
#[cfg(test)]
mod simulation;
mod skipped_time;
mod starts;
mod status;
mod steps;
mod sticky_memory;
mod wakes;

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::Duration;

use everlog_kernel::command::{Reply, Started, UpdateReply, UpdateStatus, WorkflowTaskCompleted, WorkflowTaskStart};
use everlog_kernel::{Command, Context, EntityKind, Limits, Rejection, RunCommand, RunId, Workflow};
use everlog_matching::MatchingHandle;
use everlog_matching::query_waiters::Queries;
use everlog_model::{
    CallError, FormatSource, InForce, NamespaceSource, OperationId, RunView, SlotSource, WorkflowRef, limits,
};
use everlog_proto::api::workflowservice::v1::PollActivityTaskQueueResponse;
use everlog_proto::encoded::{EncodedHistory, PollWorkflowTaskQueueResponse};
use everlog_raft::{Group, GroupSlot};
use everlog_storage::GroupId;
use tokio::sync::{mpsc, oneshot, watch};

pub use backlog::TaskRows;
pub use batch_jobs::{BatchJobs, Running};
pub use cluster::{Cluster, Leaders, OtherNodes};
pub use expired_runs::{ExpiredRun, ExpiredRuns};
pub use faults::RowFaults;
pub use history_pages::{HistoryPage, PageSize};
pub use job::Answer;
pub use moving::{Cursor, Decision, Page, Plan};
pub use nexus_calls::NexusCalls;
pub use outbox::Delivery;
pub use replica::Replica;
pub use router::{Route, Router, Spread, confirm_by_quorum, confirm_leads};
pub use skipped_time::{Hold, SkippedTime, Unbalanced};
pub use starts::StartQuery;
pub use status::Status;

use deliver::Post;
use event_loop::EventLoop;
use job::{Job, Work, command_bytes};
use lead::moves::StepJob;
use load::Readers;
use pace::Pace;
use status::PartitionLoad;

/// What the loops work with.
#[derive(Clone)]
pub struct Dependencies {
    /// Where ready tasks go.
    pub matching: MatchingHandle,
    /// Who waits for answers to queries.
    pub queries: Arc<Queries>,
    /// The batch jobs that run here.
    pub batch_jobs: BatchJobs,
    /// The calls to Nexus services that runs ask for here.
    pub nexus_calls: NexusCalls,
    /// The runs that are to be archived here before they go.
    pub expired_runs: ExpiredRuns,
    /// Namespaces by id.
    pub namespaces: Arc<dyn NamespaceSource>,
    /// Which partition holds which workflow.
    pub slots: Arc<dyn SlotSource>,
    /// The formats that the cluster has.
    pub formats: Arc<dyn FormatSource>,
    /// The other nodes.
    pub cluster: Cluster,
    /// Who tells of rows that cannot be read.
    pub faults: RowFaults,
    /// Limits of the kernel.
    pub limits: Arc<InForce<Limits>>,
    /// Memory for workflows, bytes a partition.
    pub cache_bytes_max: usize,
    /// The time of a server that skips it, for tests.
    pub skipped_time: Option<Arc<SkippedTime>>,
}

/// The partitions of a node. Cheap to clone: clones share them. They end with the last one.
#[derive(Clone)]
pub struct Partitions(Arc<Hosted>);

/// What partitions are run with, and those that are.
struct Hosted {
    node: Arc<everlog_raft::Node>,
    dependencies: Dependencies,
    readers: Readers,
    pace: Arc<Pace>,
    carrier: Arc<Post>,
    /// Changed whenever a partition comes or goes.
    partitions: watch::Sender<Arc<[Arc<Partition>]>>,
}

impl Partitions {
    /// Those of `node`: none yet.
    ///
    /// # Errors
    ///
    /// When the reading threads cannot be started.
    pub fn new(node: &Arc<everlog_raft::Node>, dependencies: Dependencies) -> std::io::Result<Partitions> {
        let carrier = Arc::new(Post::new(&dependencies));
        let partitions = Partitions(Arc::new(Hosted {
            node: Arc::clone(node),
            dependencies,
            readers: Readers::start(limits::READER_THREADS)?,
            pace: Pace::new(),
            carrier: Arc::clone(&carrier),
            partitions: watch::Sender::new(Arc::default()),
        }));
        carrier.set_partitions(partitions.downgrade());
        Ok(partitions)
    }

    /// Starts a partition on a group of the node. It goes on from what an earlier one of that group has left.
    pub fn add(&self, group: GroupSlot) {
        let Hosted { node, dependencies, readers, pace, carrier, partitions } = &*self.0;
        let (sender, jobs) = mpsc::channel(limits::PARTITION_EVENTS_MAX);
        let (stop, stop_receiver) = mpsc::channel(1);
        let (steps, steps_receiver) = mpsc::channel(limits::MOVE_ORDERS_MAX);
        let (status, status_receiver) = watch::channel(Status::Following);
        let bytes_max = dependencies.cache_bytes_max + limits::PARTITION_WORK_BYTES_MAX;
        let load = Arc::new(PartitionLoad::new(bytes_max));
        let event_loop = EventLoop {
            dependencies: dependencies.clone(),
            readers: readers.clone(),
            carrier: Arc::<Post>::clone(carrier),
            pace: Arc::clone(pace),
            jobs,
            steps: steps_receiver,
            stop: stop_receiver,
            load: Arc::clone(&load),
            status,
            stopped: None,
            turn: VecDeque::new(),
            step_turn: VecDeque::new(),
            poisons: Vec::new(),
            in_hand: Vec::new(),
            unknown: None,
        };
        tokio::spawn(owner::run(event_loop, Arc::clone(&group), Arc::clone(node)));
        let id = group.read().id();
        let partition = Arc::new(Partition { id, group, jobs: sender, steps, stop, load, status: status_receiver });
        partitions.send_modify(|all| *all = all.iter().cloned().chain([partition]).collect());
    }

    /// Takes a partition away, and stops it once what is in flight is durable. Whoever has its handle still is told that it is stopping.
    pub async fn remove(&self, id: GroupId) {
        let mut removed = None;
        self.0.partitions.send_modify(|all| {
            removed = all.iter().find(|partition| partition.id == id).cloned();
            *all = all.iter().filter(|partition| partition.id != id).cloned().collect();
        });
        if let Some(partition) = removed {
            partition.stop().await;
        }
    }

    /// The partition of a group, if it is here.
    pub fn get(&self, id: GroupId) -> Option<Arc<Partition>> {
        self.0.partitions.borrow().iter().find(|partition| partition.id == id).cloned()
    }

    /// All that are here at the moment.
    pub fn all(&self) -> Arc<[Arc<Partition>]> {
        Arc::clone(&self.0.partitions.borrow())
    }

    /// All that are here, to hear of those that come and go.
    pub fn watch(&self) -> watch::Receiver<Arc<[Arc<Partition>]>> {
        self.0.partitions.subscribe()
    }

    fn downgrade(&self) -> WeakPartitions {
        WeakPartitions(Arc::downgrade(&self.0))
    }
}

/// The partitions of a node, for whoever must not keep them.
struct WeakPartitions(Weak<Hosted>);

impl WeakPartitions {
    /// The partition of a group, if it is here.
    fn get(&self, id: GroupId) -> Option<Arc<Partition>> {
        Partitions(self.0.upgrade()?).get(id)
    }
}

/// The handle to one partition. Cheap to clone.
#[derive(Clone)]
pub struct Partition {
    id: GroupId,
    group: GroupSlot,
    jobs: mpsc::Sender<Job>,
    steps: mpsc::Sender<StepJob>,
    stop: mpsc::Sender<oneshot::Sender<()>>,
    load: Arc<PartitionLoad>,
    status: watch::Receiver<Status>,
}

impl Partition {
    /// The Raft group, for reads of rows. Not to be kept: it is another one after it has died and was opened again.
    pub fn group(&self) -> Group {
        self.group.read().clone()
    }

    /// Whether it serves here.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// The lead that there is now, to hear of its end.
    pub fn lead(&self) -> LeadWatch {
        let mut status = self.status.clone();
        status.mark_unchanged();
        LeadWatch(status)
    }

    /// Stops the loop once what is in flight is durable.
    pub async fn stop(&self) {
        let (done, stopped) = oneshot::channel();
        if self.stop.send(done).await.is_ok() {
            // An error says that the loop has ended, too.
            let _ = stopped.await;
        }
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
        command: impl Into<Command>,
    ) -> Result<Reply, CallError> {
        Ok(self.call(address, run_id, command.into()).await?.reply)
    }

    async fn call(&self, address: WorkflowRef, run_id: Option<RunId>, command: Command) -> Result<Answer, CallError> {
        let (reply, answer) = oneshot::channel();
        let bytes = command_bytes(&command);
        self.send(address, run_id, Work::Command { command, reply: Some(reply) }, bytes).await?;
        answer.await.map_err(|_| self.dropped())?
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
        let work = Work::Inspect(Box::new(move |outcome| {
            let result = match outcome {
                Ok((workflow, context)) => view(workflow, context).map_err(CallError::from),
                Err(error) => Err(error),
            };
            // The result leaves only when what it was computed from is durable.
            Box::new(move |durable| {
                let _ = reply.send(durable.and(result));
            })
        }));
        self.send(address, run_id, work, job::VIEW_BYTES).await?;
        answer.await.map_err(|_| self.dropped())?
    }

    /// Carries out a command about an update. Returns how far that has come, once it is durable, and what becomes of it from then on.
    ///
    /// # Errors
    ///
    /// As [`Partition::execute`].
    pub async fn follow_update(
        &self,
        address: WorkflowRef,
        run_id: Option<RunId>,
        command: Command,
    ) -> Result<FollowedUpdate, CallError> {
        /// An update is accepted, and it ends.
        const STEPS_MAX: usize = 2;
        let (reply, answer) = oneshot::channel();
        let (news, steps) = mpsc::channel(STEPS_MAX);
        let bytes = command_bytes(&command);
        self.send(address, run_id, Work::FollowUpdate { command, reply, news }, bytes).await?;
        let answer = answer.await.map_err(|_| self.dropped())??;
        match answer.reply {
            Reply::Update(now) => Ok(FollowedUpdate { now, steps }),
            reply => Err(CallError::Failed(format!("unexpected reply to an update: {reply:?}"))),
        }
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
        self.view_of(EntityKind::Workflow, address, run_id, seen, wait).await
    }

    /// The same of a run of another entity, whose transitions are counted where a workflow's events are.
    ///
    /// # Errors
    ///
    /// As [`Partition::view`].
    pub async fn view_of(
        &self,
        kind: EntityKind,
        address: WorkflowRef,
        run_id: Option<RunId>,
        seen: Option<i64>,
        wait: Duration,
    ) -> Result<RunView, CallError> {
        let (reply, mut answer) = mpsc::channel(2);
        let mut lead = self.lead();
        self.send(address, run_id, Work::Watch { kind, seen, reply }, job::VIEW_BYTES).await?;
        // The first answer is what is known now; a second one comes when the wait is over early.
        let now = answer.recv().await.ok_or_else(|| self.dropped())??;
        let fresh = seen.is_none_or(|seen| now.next_event_id > seen) || !now.is_open;
        if fresh {
            return Ok(now);
        }
        let until = tokio::time::Instant::now() + wait;
        match tokio::time::timeout_at(until, answer.recv()).await {
            Ok(Some(later)) => later,
            // Nobody will tell: the lead is lost, or too many wait for this run, and the caller asks again later.
            Ok(None) => tokio::select! {
                () = lead.lost() => Err(CallError::NotDone("the partition is led anew".to_owned())),
                () = tokio::time::sleep_until(until) => Ok(now),
            },
            Err(_) => Ok(now),
        }
    }

    /// Reads stored events `[from, to)` of a run, as many as a page may have.
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
        size: PageSize,
    ) -> Result<HistoryPage, CallError> {
        let page = history_pages::read(self.group(), address.clone(), run_id, from, to, size).await;
        self.unless_moved(address, page).await
    }

    /// Reads the last of the stored events before `to`, as many as a page may have.
    ///
    /// # Errors
    ///
    /// As [`Partition::read_history`].
    pub async fn read_history_back(
        &self,
        address: &WorkflowRef,
        run_id: RunId,
        to: i64,
        size: PageSize,
    ) -> Result<HistoryPage, CallError> {
        let page = history_pages::read_back(self.group(), address.clone(), run_id, to, size).await;
        self.unless_moved(address, page).await
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
        command: RunCommand,
    ) -> Result<StartedWorkflowTask, CallError> {
        let answer = self.call(address.clone(), Some(run_id), command.into()).await?;
        match answer.reply {
            Reply::WorkflowTaskStarted(start) | Reply::QueryTask(start) => {
                self.with_history(&address, *start, answer.history).await
            }
            reply => Err(CallError::Failed(format!("unexpected reply to the start of a task: {reply:?}"))),
        }
    }

    /// Starts a workflow, or finds the run that is there; the first workflow task comes back if the caller asked for it.
    ///
    /// # Errors
    ///
    /// As [`Partition::execute`].
    pub async fn start_workflow(
        &self,
        address: WorkflowRef,
        command: Command,
    ) -> Result<(Started, Option<StartedWorkflowTask>), CallError> {
        let answer = self.call(address.clone(), None, command).await?;
        match answer.reply {
            Reply::Started(mut started) => {
                let first_task = match started.first_task.take() {
                    Some(start) => Some(self.with_history(&address, *start, answer.history).await?),
                    None => None,
                };
                Ok((started, first_task))
            }
            reply => Err(CallError::Failed(format!("unexpected reply to a start: {reply:?}"))),
        }
    }

    /// Completes a workflow task; the next one comes back, and the activities that were scheduled, if the worker asked for them.
    ///
    /// # Errors
    ///
    /// As [`Partition::execute`].
    pub async fn complete_workflow_task(
        &self,
        address: WorkflowRef,
        run_id: RunId,
        command: RunCommand,
    ) -> Result<CompletedWorkflowTask, CallError> {
        let answer = self.call(address.clone(), Some(run_id), command.into()).await?;
        match answer.reply {
            Reply::WorkflowTaskCompleted(WorkflowTaskCompleted { next, activities, reset_history_event_id }) => {
                let next = match next {
                    Some(start) => Some(self.with_history(&address, *start, answer.history).await?),
                    None => None,
                };
                Ok(CompletedWorkflowTask { next, activities, reset_history_event_id })
            }
            reply => Err(CallError::Failed(format!("unexpected reply to a completed task: {reply:?}"))),
        }
    }

    async fn with_history(
        &self,
        address: &WorkflowRef,
        start: WorkflowTaskStart,
        source: Option<history::HistorySource>,
    ) -> Result<StartedWorkflowTask, CallError> {
        let (mut batches, next_page_from) = match source {
            Some(source) => {
                let page = source.read(&self.group(), address).await;
                self.unless_moved(address, page).await?
            }
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

    /// Sends a job of about `bytes` once there is room for it.
    async fn send(
        &self,
        address: WorkflowRef,
        run_id: Option<RunId>,
        work: Work,
        bytes: usize,
    ) -> Result<(), CallError> {
        // Mostly there is room: then the call carries no timer with it.
        if let Some(charge) = self.load.try_admit(bytes)
            && let Ok(place) = self.jobs.try_reserve()
        {
            place.send(Job { address, run_id, work, operation: OperationId::current(), charge });
            return Ok(());
        }
        Box::pin(self.send_when_there_is_room(address, run_id, work, bytes)).await
    }

    async fn send_when_there_is_room(
        &self,
        address: WorkflowRef,
        run_id: Option<RunId>,
        work: Work,
        bytes: usize,
    ) -> Result<(), CallError> {
        let admitted = async {
            let charge = self.load.admit(bytes).await;
            self.jobs.send(Job { address, run_id, work, operation: OperationId::current(), charge }).await
        };
        match tokio::time::timeout(limits::PARTITION_ADMISSION_WAIT_MAX, admitted).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(CallError::NotDone("the partition is stopping".to_owned())),
            Err(_) => Err(CallError::Overloaded(format!("partition {} is overloaded", self.id))),
        }
    }

    /// What a caller is told whose job was dropped without an answer: it made the partition panic, or the partition has stopped.
    fn dropped(&self) -> CallError {
        if self.jobs.is_closed() {
            CallError::Unavailable("the partition is stopping".to_owned())
        } else {
            CallError::Failed("the command failed; see the server's log".to_owned())
        }
    }
}

/// Tells when the lead of a partition that was there is lost, and what only it knew with it.
#[derive(Clone, Debug)]
pub struct LeadWatch(watch::Receiver<Status>);

impl LeadWatch {
    /// Resolves when the lead is lost, or has been since this was made. Cancel safe.
    pub async fn lost(&mut self) {
        // Every lead that begins or ends is a change. An error says that the partition has stopped.
        let _ = self.0.changed().await;
    }
}

/// What a worker gets for a completed workflow task.
#[derive(Clone, Debug)]
pub struct CompletedWorkflowTask {
    /// The next workflow task of the same run.
    pub next: Option<StartedWorkflowTask>,
    /// Activities that the task has scheduled.
    pub activities: Vec<PollActivityTaskQueueResponse>,
    /// Set if the task left no trace: the worker's history goes on behind this event.
    pub reset_history_event_id: Option<i64>,
}

/// An update that a caller follows.
#[derive(Debug)]
pub struct FollowedUpdate {
    /// How far it has come.
    pub now: UpdateReply,
    steps: mpsc::Receiver<Result<UpdateStatus, CallError>>,
}

impl FollowedUpdate {
    /// Waits until it has come further. `None` if nobody will tell: the lead is lost, and the update with it unless it was accepted.
    /// Cancel safe.
    pub async fn next(&mut self) -> Option<Result<UpdateStatus, CallError>> {
        self.steps.recv().await
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
