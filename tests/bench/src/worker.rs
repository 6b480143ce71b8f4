//! A minimal worker: poll loops that answer workflow tasks with commands straight from [`RunState`], and complete activities
//! at once. It replays nothing and runs no user code, so that what is measured is the server.
//!
//! Like the SDKs it advertises a sticky queue, asks for the next workflow task with each completion, and understands the
//! partial histories that sticky tasks carry: a cached state is used only if the task continues where that state ended,
//! otherwise the whole history is fetched.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use everlog_proto::api::enums::v1::{EventType, QueryResultType, TaskQueueKind};
use everlog_proto::api::history::v1::HistoryEvent;
use everlog_proto::api::query::v1::WorkflowQueryResult;
use everlog_proto::api::taskqueue::v1::{StickyExecutionAttributes, TaskQueue};
use everlog_proto::api::workflowservice::v1 as service;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tonic::Code;

use crate::client::{Client, Execution, normal_queue, transient, wire_duration};
use crate::error::BenchError;
use crate::histogram::Histogram;
use crate::program::{RunState, closes};

/// How long a sticky task waits for this worker before any worker may have it; the SDKs' default.
const STICKY_TIMEOUT: Duration = Duration::from_secs(5);
/// Runs whose state is kept; the oldest goes first.
const CACHED_RUNS_MAX: usize = 20_000;
/// Workflow tasks that one completion may hand on in a row before the loop polls again.
const TASKS_IN_A_ROW_MAX: u32 = 1_000;
/// Pause after a poll that failed.
const POLL_BACKOFF: Duration = Duration::from_millis(50);
/// Polls of one loop that may fail in a row: a server that restarts comes back well before.
const POLL_FAILURES_MAX: u32 = 600;

/// Which queues are polled, and by how many loops.
#[derive(Clone)]
pub(crate) struct WorkerOptions {
    /// Queue for workflow and activity tasks.
    pub(crate) task_queue: String,
    /// Loops for workflow tasks; with stickiness, as many again on the sticky queue.
    pub(crate) workflow_pollers: usize,
    /// Loops for activity tasks.
    pub(crate) activity_pollers: usize,
    /// Whether runs stick to this worker.
    pub(crate) sticky: bool,
}

/// What a worker did.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct WorkerCounts {
    /// Workflow tasks completed.
    pub(crate) workflow_tasks: u64,
    /// Histories fetched because no cached state fitted.
    pub(crate) histories_fetched: u64,
    /// Tasks whose completion the server no longer wanted.
    pub(crate) tasks_dropped: u64,
}

/// A running worker; dropping it ends its loops.
pub(crate) struct Worker {
    shared: Arc<Shared>,
    /// Held for its drop, which ends them.
    _loops: JoinSet<()>,
}

struct Shared {
    client: Arc<Client>,
    options: WorkerOptions,
    cache: Mutex<RunCache>,
    completions: Mutex<HashMap<String, oneshot::Sender<Instant>>>,
    failure: Mutex<Option<String>>,
    timer_lag: Mutex<Histogram>,
    workflow_tasks: AtomicU64,
    histories_fetched: AtomicU64,
    tasks_dropped: AtomicU64,
}

impl Worker {
    pub(crate) fn start(client: Arc<Client>, options: WorkerOptions) -> Self {
        let shared = Arc::new(Shared {
            client,
            options: options.clone(),
            cache: Mutex::new(RunCache::default()),
            completions: Mutex::new(HashMap::new()),
            failure: Mutex::new(None),
            timer_lag: Mutex::new(Histogram::new()),
            workflow_tasks: AtomicU64::new(0),
            histories_fetched: AtomicU64::new(0),
            tasks_dropped: AtomicU64::new(0),
        });
        let mut loops = JoinSet::new();
        for _ in 0..options.workflow_pollers {
            loops.spawn(poll_workflow_tasks(shared.clone(), normal_queue(&options.task_queue)));
            if options.sticky {
                loops.spawn(poll_workflow_tasks(shared.clone(), sticky_queue(&options.task_queue)));
            }
        }
        for _ in 0..options.activity_pollers {
            loops.spawn(poll_activity_tasks(shared.clone()));
        }
        Worker { shared, _loops: loops }
    }

    /// Told when the server has acknowledged the end of `workflow_id`. Ask before the workflow is started.
    pub(crate) fn completion(&self, workflow_id: &str) -> oneshot::Receiver<Instant> {
        let (sender, receiver) = oneshot::channel();
        lock(&self.shared.completions).insert(workflow_id.to_owned(), sender);
        receiver
    }

    /// Waits for a completion, at most `limit`; names the worker's own failure if it had one.
    pub(crate) async fn wait(
        &self,
        workflow_id: &str,
        completion: oneshot::Receiver<Instant>,
        limit: Duration,
    ) -> Result<Instant, BenchError> {
        match tokio::time::timeout(limit, completion).await {
            Ok(Ok(at)) => Ok(at),
            _ => {
                lock(&self.shared.completions).remove(workflow_id);
                let failure = lock(&self.shared.failure).clone();
                let cause = failure.map(|failure| format!("; its worker: {failure}")).unwrap_or_default();
                Err(BenchError::Limit(format!("{workflow_id} did not complete in {} s{cause}", limit.as_secs())))
            }
        }
    }

    /// By how much timers were late when a task told this worker of them, since this was last asked. By the clock of this machine, and
    /// from when they were to fire: timers that were started too late for that seem late.
    pub(crate) fn take_timer_lag(&self) -> Histogram {
        std::mem::replace(&mut lock(&self.shared.timer_lag), Histogram::new())
    }

    pub(crate) fn counts(&self) -> WorkerCounts {
        WorkerCounts {
            workflow_tasks: self.shared.workflow_tasks.load(Ordering::Relaxed),
            histories_fetched: self.shared.histories_fetched.load(Ordering::Relaxed),
            tasks_dropped: self.shared.tasks_dropped.load(Ordering::Relaxed),
        }
    }
}

impl Shared {
    /// Notes the first thing that went wrong, for the message of whoever waits in vain.
    fn note(&self, failure: String) {
        lock(&self.failure).get_or_insert(failure);
    }

    async fn workflow_task(&self, mut task: service::PollWorkflowTaskQueueResponse) -> Result<(), BenchError> {
        for _ in 0..TASKS_IN_A_ROW_MAX {
            let execution = execution_of(&task);
            let state = self.state_for(&mut task, &execution).await?;
            if task.query.is_some() {
                return self.answer_query(task, &state).await;
            }
            let commands = state.decide(&self.options.task_queue, SystemTime::now());
            let closing = commands.iter().any(closes);
            let answers = task.queries.drain().map(|(id, _)| {
                let answer = Some(state.answer());
                (
                    id,
                    WorkflowQueryResult { result_type: QueryResultType::Answered as i32, answer, ..Default::default() },
                )
            });
            let request = service::RespondWorkflowTaskCompletedRequest {
                query_results: answers.collect(),
                task_token: std::mem::take(&mut task.task_token),
                commands,
                sticky_attributes: self.options.sticky.then(|| StickyExecutionAttributes {
                    worker_task_queue: Some(sticky_queue(&self.options.task_queue)),
                    schedule_to_start_timeout: Some(wire_duration(STICKY_TIMEOUT)),
                }),
                return_new_workflow_task: true,
                ..Default::default()
            };
            let response = match self.client.complete_workflow_task(request).await {
                Ok(response) => response,
                Err(error) => {
                    lock(&self.cache).remove(&execution.run_id);
                    self.unless_dropped(error)?;
                    return if closing { self.confirm_closed(&execution).await } else { Ok(()) };
                }
            };
            self.workflow_tasks.fetch_add(1, Ordering::Relaxed);
            if closing {
                lock(&self.cache).remove(&execution.run_id);
                self.tell_completed(&execution);
                return Ok(());
            }
            if self.options.sticky {
                lock(&self.cache)
                    .insert(execution.run_id, CachedRun { state, started_event_id: task.started_event_id });
            }
            match response.workflow_task {
                Some(next) if !next.task_token.is_empty() => task = next,
                _ => return Ok(()),
            }
        }
        Err(BenchError::Limit(format!("{TASKS_IN_A_ROW_MAX} workflow tasks in a row without a poll")))
    }

    fn tell_completed(&self, execution: &Execution) {
        if let Some(waiting) = lock(&self.completions).remove(&execution.workflow_id) {
            let _ = waiting.send(Instant::now()); // nobody waits any more: fine
        }
    }

    /// A completion whose first attempt was not answered in time may have counted, although its second is told that the task
    /// is gone. The history knows.
    async fn confirm_closed(&self, execution: &Execution) -> Result<(), BenchError> {
        let events = self.client.history(execution).await?;
        if events.last().is_some_and(|event| event.event_type() == EventType::WorkflowExecutionCompleted) {
            self.tell_completed(execution);
        }
        Ok(())
    }

    /// The state at the task: cached plus the task's events, or from the whole history.
    async fn state_for(
        &self,
        task: &mut service::PollWorkflowTaskQueueResponse,
        execution: &Execution,
    ) -> Result<RunState, BenchError> {
        let mut events = task.history.take().map(|history| history.events).unwrap_or_default();
        if !task.next_page_token.is_empty() {
            let token = std::mem::take(&mut task.next_page_token);
            events.extend(self.client.history_from(execution, token).await?);
        }
        if events.first().is_some_and(|event| event.event_id == 1) {
            let state = fold(&events)?;
            self.note_timers(&state, &events, task);
            return Ok(state);
        }
        let cached = lock(&self.cache).get(&execution.run_id).cloned();
        if let Some(CachedRun { mut state, started_event_id }) = cached
            && started_event_id == task.previous_started_event_id
        {
            events.iter().filter(|event| event.event_id > started_event_id).for_each(|event| state.observe(event));
            self.note_timers(&state, &events, task);
            return Ok(state);
        }
        self.histories_fetched.fetch_add(1, Ordering::Relaxed);
        let mut events = self.client.history(execution).await?;
        if task.query.is_none() {
            // What came after the task began belongs to the next task.
            events.retain(|event| event.event_id <= task.started_event_id);
        }
        let state = fold(&events)?;
        self.note_timers(&state, &events, task);
        Ok(state)
    }

    /// Notes how late the timers are that this task is the first to tell of.
    fn note_timers(&self, state: &RunState, events: &[HistoryEvent], task: &service::PollWorkflowTaskQueueResponse) {
        let Some(due) = state.timers_due().filter(|_| task.query.is_none()) else { return };
        let is_new = |event: &&HistoryEvent| {
            event.event_type() == EventType::TimerFired && event.event_id > task.previous_started_event_id
        };
        let fired = events.iter().filter(is_new).count();
        if fired > 0 {
            let late = SystemTime::now().duration_since(due).unwrap_or_default();
            let mut timer_lag = lock(&self.timer_lag);
            (0..fired).for_each(|_| timer_lag.record(late));
        }
    }

    async fn answer_query(
        &self,
        task: service::PollWorkflowTaskQueueResponse,
        state: &RunState,
    ) -> Result<(), BenchError> {
        let request = service::RespondQueryTaskCompletedRequest {
            task_token: task.task_token,
            completed_type: QueryResultType::Answered as i32,
            query_result: Some(state.answer()),
            ..Default::default()
        };
        self.client.complete_query_task(request).await.or_else(|error| self.unless_dropped(error))
    }

    async fn activity_task(&self, task: service::PollActivityTaskQueueResponse) -> Result<(), BenchError> {
        match self.client.complete_activity_task(task.task_token).await {
            Ok(()) => Ok(()),
            Err(error) => self.unless_dropped(error),
        }
    }

    /// A task that timed out, or a close that raced with a new event, comes again: SDKs drop it silently, so does this.
    fn unless_dropped(&self, error: BenchError) -> Result<(), BenchError> {
        match &error {
            BenchError::Rpc { status, .. } if matches!(status.code(), Code::NotFound | Code::InvalidArgument) => {
                self.tasks_dropped.fetch_add(1, Ordering::Relaxed);
                self.note(error.to_string());
                Ok(())
            }
            _ => Err(error),
        }
    }
}

async fn poll_workflow_tasks(shared: Arc<Shared>, queue: TaskQueue) {
    let mut failures = 0;
    while failures < POLL_FAILURES_MAX {
        match shared.client.poll_workflow_task(queue.clone()).await {
            Ok(task) if task.task_token.is_empty() => failures = 0,
            Ok(task) => {
                failures = 0;
                if let Err(error) = shared.workflow_task(task).await {
                    shared.note(error.to_string());
                }
            }
            Err(status) => {
                failures += 1;
                pause(&shared, "PollWorkflowTaskQueue", status).await;
            }
        }
    }
}

async fn poll_activity_tasks(shared: Arc<Shared>) {
    let queue = normal_queue(&shared.options.task_queue);
    let mut failures = 0;
    while failures < POLL_FAILURES_MAX {
        match shared.client.poll_activity_task(queue.clone()).await {
            Ok(task) if task.task_token.is_empty() => failures = 0,
            Ok(task) => {
                failures = 0;
                if let Err(error) = shared.activity_task(task).await {
                    shared.note(error.to_string());
                }
            }
            Err(status) => {
                failures += 1;
                pause(&shared, "PollActivityTaskQueue", status).await;
            }
        }
    }
}

async fn pause(shared: &Shared, call: &'static str, status: tonic::Status) {
    if !transient(&status) {
        shared.note(BenchError::rpc(call, status).to_string());
    }
    tokio::time::sleep(POLL_BACKOFF).await;
}

fn execution_of(task: &service::PollWorkflowTaskQueueResponse) -> Execution {
    let execution = task.workflow_execution.clone().unwrap_or_default();
    Execution { workflow_id: execution.workflow_id, run_id: execution.run_id }
}

fn fold(events: &[HistoryEvent]) -> Result<RunState, BenchError> {
    let state = events.first().and_then(RunState::at_start);
    let mut state = state.ok_or_else(|| BenchError::Check("a history does not begin with a program".to_owned()))?;
    events.iter().for_each(|event| state.observe(event));
    Ok(state)
}

fn sticky_queue(task_queue: &str) -> TaskQueue {
    TaskQueue {
        name: format!("{task_queue}-sticky"),
        kind: TaskQueueKind::Sticky as i32,
        normal_name: task_queue.to_owned(),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().expect("no code panics while it holds this lock")
}

#[derive(Clone)]
struct CachedRun {
    state: RunState,
    /// The task that the state was left by; the next task must continue there.
    started_event_id: i64,
}

/// States by run id, bounded; the run that was inserted first goes first.
#[derive(Default)]
struct RunCache {
    runs: HashMap<String, CachedRun>,
    order: VecDeque<String>,
}

impl RunCache {
    fn get(&self, run_id: &str) -> Option<&CachedRun> {
        self.runs.get(run_id)
    }

    fn insert(&mut self, run_id: String, run: CachedRun) {
        if self.runs.insert(run_id.clone(), run).is_none() {
            self.order.push_back(run_id);
        }
        while self.order.len() > CACHED_RUNS_MAX {
            // Ids of runs that have closed since are still in the order; dropping those evicts nothing.
            if let Some(oldest) = self.order.pop_front() {
                self.runs.remove(&oldest);
            }
        }
    }

    fn remove(&mut self, run_id: &str) {
        self.runs.remove(run_id);
    }
}
