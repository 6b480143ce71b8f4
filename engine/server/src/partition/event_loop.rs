//! The partition loop: one task owns a partition's memory, and nothing is locked.
//!
//! It takes what is waiting, decides each command on state that is *ahead* of the log, and collects the rows in one forming
//! batch. While batches are in flight (a small, fixed number) the next one forms, so batches grow with the load and a lone command
//! waits for one fsync. What a command leads to outside (its reply, an activity, the answer to a query) waits in the batch until
//! its rows are durable; only workflow tasks are offered at once, because their answers can only become durable behind them.
//!
//! When leadership or a proposal is lost, everything in memory is dropped and read again from the rows.

mod refill;
mod time;
mod watching;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use everlog_kernel::command::Reply;
use everlog_kernel::transition::{Effect, TaskKind};
use everlog_kernel::{Command, Context, Ids, Limits, Rejection, RowKey, RunId, Time, Transition, Workflow, decide};
use everlog_raft::group::ProposalOutcome;
use everlog_raft::{ChainPosition, EntryStamp, Group, Hlc, LeadEpoch, Leadership};
use everlog_storage::GroupId;
use tokio::sync::{mpsc, oneshot, watch};

use self::watching::{Watcher, view};
use super::batch::{Batch, OnDurable};
use super::cache::{Cache, CacheKey, Entry};
use super::load::{LoadRequest, Loaded, Readers};
use super::pace::Pace;
use super::wakes::{WakePage, Wakes};
use super::{Address, Answer, CallError, NamespaceSource, Partition, RunView, history};
use crate::frontend::queries::Queries;
use crate::matching::Matching;
use crate::{limits, rows};

/// What a loop takes in.
pub(crate) enum Event {
    /// Something to do on a workflow.
    Job(Job),
    /// Rows of a workflow were read.
    Loaded(Box<Loaded>),
    /// Wake rows were read.
    Wakes(Result<WakePage, String>),
    /// The node stops: finish what is in flight, then end.
    Stop(oneshot::Sender<()>),
}

/// Something to do on a workflow.
pub(crate) struct Job {
    pub(crate) address: Address,
    pub(crate) run_id: Option<RunId>,
    pub(crate) work: Work,
}

/// What to do.
pub(crate) enum Work {
    /// Decide a command.
    Command {
        command: Command,
        /// `None` for commands that the partition gives itself.
        reply: Option<oneshot::Sender<Result<Answer, CallError>>>,
    },
    /// Look at the state.
    Inspect(Inspect),
    /// Tell what is known of a run, and once more when its history has grown beyond `seen`.
    Watch { seen: Option<i64>, reply: mpsc::Sender<Result<RunView, CallError>> },
}

/// Looks at a workflow and returns what tells the result, once that is durable.
pub(crate) type Inspect =
    Box<dyn for<'a, 'b> FnOnce(Result<(&'a Workflow, &'a Context<'b>), CallError>) -> OnDurable + Send>;

/// What a loop works with.
#[derive(Clone)]
pub struct Dependencies {
    /// Where ready tasks go.
    pub matching: Arc<Matching>,
    /// Who waits for answers to queries.
    pub queries: Arc<Queries>,
    /// Namespaces by id.
    pub namespaces: Arc<dyn NamespaceSource>,
    /// Limits of the kernel.
    pub limits: Arc<Limits>,
    /// Memory for workflows, bytes a partition.
    pub cache_bytes_max: usize,
}

/// Starts the loops of `groups` and returns their handles.
///
/// # Errors
///
/// When the reading threads cannot be started.
pub fn spawn(groups: Vec<Group>, dependencies: &Dependencies) -> std::io::Result<Vec<Partition>> {
    let readers = Readers::start(limits::READER_THREADS)?;
    let pace = Pace::new();
    let partitions = groups
        .into_iter()
        .map(|group| {
            let (events, receiver) = mpsc::channel(limits::PARTITION_EVENTS_MAX);
            let event_loop =
                Loop::new(group.clone(), dependencies.clone(), readers.clone(), Arc::clone(&pace), events.downgrade());
            tokio::spawn(event_loop.run(receiver));
            Partition { group, events }
        })
        .collect();
    Ok(partitions)
}

impl Partition {
    /// Stops the loop once what is in flight is durable.
    pub async fn stop(&self) {
        let (done, stopped) = oneshot::channel();
        if self.events.send(Event::Stop(done)).await.is_ok() {
            let _ = stopped.await;
        }
    }
}

/// A batch on its way.
struct InFlight {
    sequence: u64,
    outcome: ProposalOutcome,
    waiting: Vec<OnDurable>,
    touched: Vec<CacheKey>,
    views: HashMap<(CacheKey, RunId), RunView>,
}

struct Loop {
    group: Group,
    dependencies: Dependencies,
    readers: Readers,
    events: mpsc::WeakSender<Event>,
    cache: Cache,
    wakes: Wakes,
    /// Wake rows due up to here are in memory.
    horizon: Time,
    reading_wakes: bool,
    forming: Batch,
    pace: Arc<Pace>,
    /// Where the forming batch will stand in the group's chain.
    chain: ChainPosition,
    /// Sequence number of the forming batch.
    sequence: u64,
    /// Every batch up to this one is durable and applied.
    committed: u64,
    touched: Vec<CacheKey>,
    views: HashMap<(CacheKey, RunId), RunView>,
    in_flight: VecDeque<InFlight>,
    /// Commands in the batch that was proposed last.
    last_commands: usize,
    watchers: HashMap<(CacheKey, RunId), Vec<Watcher>>,
    now: Time,
    /// Where the seeds of decisions come from; itself seeded by the system.
    seeds: Ids,
    stopping: Option<oneshot::Sender<()>>,
    batch_rows: metrics::Histogram,
    cached_workflows: metrics::Gauge,
    cached_bytes: metrics::Gauge,
}

/// Why a loop stopped leading.
enum End {
    LeadershipChanged,
    Stopped,
}

impl Loop {
    fn new(
        group: Group,
        dependencies: Dependencies,
        readers: Readers,
        pace: Arc<Pace>,
        events: mpsc::WeakSender<Event>,
    ) -> Loop {
        let partition = group.id().to_string();
        Loop {
            batch_rows: metrics::histogram!("everlog_batch_rows"),
            cached_workflows: metrics::gauge!("everlog_workflows_cached", "partition" => partition.clone()),
            cached_bytes: metrics::gauge!("everlog_workflow_cache_bytes", "partition" => partition),
            group,
            dependencies,
            readers,
            events,
            cache: Cache::default(),
            wakes: Wakes::default(),
            horizon: Time(0),
            reading_wakes: false,
            forming: Batch::default(),
            pace,
            chain: ChainPosition::default(),
            sequence: 1,
            committed: 0,
            touched: Vec::new(),
            views: HashMap::new(),
            in_flight: VecDeque::new(),
            last_commands: 0,
            watchers: HashMap::new(),
            now: Time(0),
            seeds: Ids::new(system_seed()),
            stopping: None,
        }
    }

    async fn run(mut self, mut events: mpsc::Receiver<Event>) {
        let mut leadership = self.group.leadership();
        loop {
            let now = *leadership.borrow_and_update();
            match now {
                Leadership::Leader { term } => {
                    tracing::info!(partition = %self.group.id(), term, "leading");
                    let end = self.lead(term, &mut events, &mut leadership).await;
                    self.drop_everything();
                    if matches!(end, End::Stopped) {
                        break;
                    }
                    tracing::info!(partition = %self.group.id(), term, "no longer leading");
                }
                Leadership::Follower => {
                    if matches!(self.follow(&mut events, &mut leadership).await, End::Stopped) {
                        break;
                    }
                }
                Leadership::Stopped { .. } => break,
            }
        }
        if let Some(done) = self.stopping.take() {
            let _ = done.send(());
        }
    }

    /// Refuses everything until leadership changes.
    async fn follow(
        &mut self,
        events: &mut mpsc::Receiver<Event>,
        leadership: &mut watch::Receiver<Leadership>,
    ) -> End {
        loop {
            tokio::select! {
                changed = leadership.changed() => {
                    return if changed.is_ok() { End::LeadershipChanged } else { End::Stopped };
                }
                event = events.recv() => match event {
                    Some(Event::Job(job)) => refuse(job, &unavailable(self.group.id())),
                    Some(Event::Stop(done)) => {
                        self.stopping = Some(done);
                        return End::Stopped;
                    }
                    Some(Event::Loaded(_) | Event::Wakes(_)) => {}
                    None => return End::Stopped,
                },
            }
        }
    }

    async fn lead(
        &mut self,
        term: u64,
        events: &mut mpsc::Receiver<Event>,
        leadership: &mut watch::Receiver<Leadership>,
    ) -> End {
        self.tick();
        // Beyond whatever this loop or another one has opened in the term.
        let last = self.chain.epoch.max(self.group.applied_chain().position.epoch);
        let epoch = if last.term == term { last.reopened() } else { LeadEpoch { term, opening: 0 } };
        self.chain = epoch.start();
        self.read_wakes(None);
        self.refill_matching();
        let mut turn = Vec::with_capacity(limits::PARTITION_TURN_EVENTS_MAX);
        loop {
            if self.propose().is_err() {
                return End::LeadershipChanged;
            }
            if self.stopping.is_some() && self.in_flight.is_empty() && self.forming.is_empty() {
                return End::Stopped;
            }
            let sleep = self.until_next_wake().min(self.patience().unwrap_or(Duration::MAX));
            let accepting = self.forming.bytes() < limits::PARTITION_BATCH_BYTES_MAX;
            tokio::select! {
                biased;
                outcome = front_outcome(&mut self.in_flight) => {
                    self.tick();
                    if self.commit(outcome).is_err() {
                        return End::LeadershipChanged;
                    }
                }
                changed = leadership.changed() => {
                    if changed.is_err() {
                        return End::Stopped;
                    }
                    if *leadership.borrow_and_update() != (Leadership::Leader { term }) {
                        return End::LeadershipChanged;
                    }
                }
                count = events.recv_many(&mut turn, limits::PARTITION_TURN_EVENTS_MAX), if accepting => {
                    if count == 0 {
                        return End::Stopped;
                    }
                    self.tick();
                    for event in turn.drain(..) {
                        self.take(event);
                    }
                }
                () = tokio::time::sleep(sleep), if accepting => {
                    self.tick();
                    self.wake();
                    self.evict();
                }
            }
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Job(job) if self.stopping.is_some() => refuse(job, &unavailable(self.group.id())),
            Event::Job(job) => self.admit(job),
            Event::Loaded(loaded) => self.loaded(*loaded),
            Event::Wakes(page) => self.add_wakes(page),
            Event::Stop(done) => self.stopping = Some(done),
        }
    }

    /// The clock, which never goes back while this node leads.
    fn tick(&mut self) {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        self.now = self.now.max(Time(i64::try_from(since_epoch.as_nanos()).unwrap_or(i64::MAX)));
    }

    // ---- Batches -----------------------------------------------------------------------------------------------------

    /// How long the forming batch is to wait for more commands; `None` if there is nothing to propose, or no room in flight.
    ///
    /// On a node that has time to spare none waits but for room in flight (see [`Pace`]). Where one does wait, it leaves with the other
    /// partitions' batches, or once it is as large as the one before: whoever was answered by that one is back then.
    fn patience(&self) -> Option<Duration> {
        let since = self.forming.since().filter(|_| !self.forming.is_empty())?;
        let full = self.forming.commands() >= self.last_commands.max(limits::PARTITION_BATCH_COMMANDS_FULL);
        match self.in_flight.len() {
            0 if full => Some(Duration::ZERO),
            0 => Some(self.pace.patience(since, Instant::now())),
            in_flight if full && in_flight < limits::PARTITION_BATCHES_IN_FLIGHT_MAX => Some(Duration::ZERO),
            _ => None,
        }
    }

    fn propose(&mut self) -> Result<(), ()> {
        if self.patience() != Some(Duration::ZERO) {
            return Ok(());
        }
        self.last_commands = self.forming.commands();
        let (rows, waiting) = self.forming.take();
        self.batch_rows.record(rows.changes.len() as f64);
        let sequence = self.sequence;
        self.sequence += 1;
        let stamp = EntryStamp { chain: self.chain, hlc: Hlc(u64::try_from(self.now.0).unwrap_or(0)) };
        match self.group.propose(stamp, rows) {
            Ok(outcome) => {
                self.chain = self.chain.next();
                let touched = std::mem::take(&mut self.touched);
                let views = std::mem::take(&mut self.views);
                self.in_flight.push_back(InFlight { sequence, outcome, waiting, touched, views });
                Ok(())
            }
            Err(error) => {
                tracing::warn!(partition = %self.group.id(), %error, "a proposal was refused");
                fail(waiting, &unavailable(self.group.id()));
                Err(())
            }
        }
    }

    fn commit(&mut self, outcome: Result<u64, String>) -> Result<(), ()> {
        let Some(batch) = self.in_flight.pop_front() else { return Ok(()) };
        if let Err(error) = outcome {
            tracing::warn!(partition = %self.group.id(), %error, "a proposal was lost");
            fail(batch.waiting, &unavailable(self.group.id()));
            return Err(());
        }
        self.committed = batch.sequence;
        for waiting in batch.waiting {
            waiting(Ok(()));
        }
        for (key, view) in batch.views {
            self.notify(&key, &view);
        }
        for key in batch.touched {
            let Some(entry) = self.cache.get_mut(&key) else { continue };
            entry.runs.trim_tails(self.committed);
            entry.forget_closed_runs(self.committed);
            self.cache.settle(key, self.now);
        }
        self.evict();
        Ok(())
    }

    /// Calls `waiting` once batch `sequence` is durable: now, if it is.
    fn when_durable(&mut self, sequence: u64, waiting: OnDurable) {
        if sequence <= self.committed {
            waiting(Ok(()));
        } else if sequence == self.sequence {
            self.forming.waiting.push(waiting);
        } else if let Some(batch) = self.in_flight.iter_mut().find(|batch| batch.sequence == sequence) {
            batch.waiting.push(waiting);
        } else {
            waiting(Err(unavailable(self.group.id())));
        }
    }

    fn drop_everything(&mut self) {
        self.dependencies.matching.forget_partition(self.group.id());
        let error = unavailable(self.group.id());
        for batch in std::mem::take(&mut self.in_flight) {
            fail(batch.waiting, &error);
        }
        fail(self.forming.take().1, &error);
        for job in self.cache.drain() {
            refuse(job, &error);
        }
        self.wakes = Wakes::default();
        self.watchers.clear();
        self.touched.clear();
        self.views.clear();
        // Nothing that an earlier batch left is waited for any more.
        self.committed = self.sequence - 1;
    }

    // ---- Jobs --------------------------------------------------------------------------------------------------------

    /// Does a job, or sets it aside while rows are read.
    fn admit(&mut self, job: Job) {
        let key = CacheKey::of(&job.address);
        let entry = self.cache.entry(&key, self.now);
        let missing = match (&entry.workflow, job.run_id) {
            (None, run_id) => Some(run_id),
            (Some(workflow), Some(run_id))
                if !workflow.runs.contains_key(&run_id) && !entry.absent.contains(&run_id) =>
            {
                Some(Some(run_id))
            }
            _ => None,
        };
        let Some(run_id) = missing else { return self.execute(&key, job) };
        let with_current = entry.workflow.is_none();
        let first = entry.waiting.is_empty();
        if with_current
            && first
            && run_id.is_none()
            && !self.group.may_exist(&rows::workflow_key(&job.address).current())
        {
            // Most workflows that are started were never there, and memory says so.
            entry.workflow = Some(Workflow::new(&*key.workflow_id));
            return self.execute(&key, job);
        }
        let new_run = run_id.filter(|run_id| entry.loading.insert(*run_id));
        let address = job.address.clone();
        entry.waiting.push(job);
        if with_current && !first {
            // The workflow is being read; runs that are still missing then are asked for when it is there.
            if let Some(run_id) = new_run {
                entry.loading.remove(&run_id);
            }
            return;
        }
        if with_current || new_run.is_some() {
            self.readers.load(LoadRequest {
                group: self.group.clone(),
                address,
                runs: new_run.into_iter().collect(),
                with_current,
                reply: self.events.clone(),
            });
        }
    }

    fn loaded(&mut self, loaded: Loaded) {
        let key = CacheKey::of(&loaded.address);
        let Some(entry) = self.cache.get_mut(&key) else { return };
        let found = match loaded.workflow {
            Ok(found) => found,
            Err(error) => {
                tracing::error!(
                    partition = %self.group.id(), namespace = %loaded.address.namespace.name,
                    workflow_id = %loaded.address.workflow_id, error, "a workflow cannot be read"
                );
                let entry = self.cache.remove(&key);
                let error = CallError::Unavailable(format!("the workflow cannot be read: {error}"));
                entry.into_iter().flat_map(|entry| entry.waiting).for_each(|job| refuse(job, &error));
                return;
            }
        };
        for run_id in loaded.asked {
            entry.loading.remove(&run_id);
            if !found.runs.contains_key(&run_id) {
                entry.absent.insert(run_id);
            }
        }
        if entry.workflow.is_none() && !loaded.with_current {
            return;
        }
        let waiting = std::mem::take(&mut entry.waiting);
        self.cache.add_runs(&key, found);
        for job in waiting {
            self.admit(job);
        }
    }

    fn execute(&mut self, key: &CacheKey, job: Job) {
        let Job { address, run_id, work } = job;
        match work {
            Work::Command { command, reply } => self.command(key, &address, run_id, command, reply),
            Work::Inspect(inspect) => {
                let mut ids = Ids::new(self.seeds.seed());
                let Some(entry) = self.cache.get_mut(key) else { return };
                let Some(workflow) = &entry.workflow else { return };
                let last_batch = entry.last_batch;
                let context = Context {
                    now: self.now,
                    namespace: &address.namespace,
                    limits: &self.dependencies.limits,
                    ids: &mut ids,
                };
                let tell = inspect(Ok((workflow, &context)));
                self.when_durable(last_batch, tell);
            }
            Work::Watch { seen, reply } => self.watch(key, run_id, seen, reply),
        }
    }

    fn command(
        &mut self,
        key: &CacheKey,
        address: &Address,
        run_id: Option<RunId>,
        command: Command,
        reply: Option<oneshot::Sender<Result<Answer, CallError>>>,
    ) {
        let starts_task = matches!(
            command,
            Command::StartWorkflowTask(_) | Command::StartActivityTask(_) | Command::StartQueryTask { .. }
        );
        let is_workflow_task = matches!(command, Command::StartWorkflowTask(_));
        if starts_task && reply.as_ref().is_some_and(oneshot::Sender::is_closed) {
            // The poller is gone, and its lease has offered the task again.
            return;
        }
        let Some(entry) = self.cache.get_mut(key) else { return };
        let Some(workflow) = &mut entry.workflow else { return };
        let mut ids = Ids::new(self.seeds.seed());
        let mut context =
            Context { now: self.now, namespace: &address.namespace, limits: &self.dependencies.limits, ids: &mut ids };
        let name = command.name();
        let decided = decide(workflow, run_id, command, &mut context);
        let run = run_id.or(workflow.current.as_ref().map(|current| current.run_id));
        tracing::debug!(
            command = name,
            namespace = address.namespace.name,
            workflow_id = &*address.workflow_id,
            run_id = run.map(tracing::field::display),
            rejection = decided.as_ref().err().map(tracing::field::display),
            "decided"
        );
        let (result, wrote) = match decided {
            Ok(transition) => self.carry_out(key, address, transition),
            Err(rejection) => (Err(CallError::Rejected(rejection)), false),
        };
        let Some(entry) = self.cache.get_mut(key) else { return };
        let answer = result.map(|reply| {
            let history = history_of(&reply, run_id, entry);
            Answer { reply, history }
        });
        let last_batch = entry.last_batch;
        self.arm(key, address);
        let Some(reply) = reply else { return };
        let wait = if starts_task && (is_workflow_task || !wrote) { 0 } else { last_batch };
        self.when_durable(
            wait,
            Box::new(move |durable| {
                let _ = reply.send(durable.and(answer));
            }),
        );
    }

    /// Puts a transition's rows into the forming batch and its effects where they belong. Returns the reply, and whether there
    /// were rows.
    fn carry_out(
        &mut self,
        key: &CacheKey,
        address: &Address,
        transition: Transition,
    ) -> (Result<Reply, CallError>, bool) {
        let Transition { reply, rows, effects } = transition;
        let wrote = !rows.is_empty();
        let sequence = self.sequence;
        if let Some(entry) = self.cache.get_mut(key) {
            if wrote {
                self.forming.count_command();
            }
            if wrote && entry.last_batch != sequence {
                entry.last_batch = sequence;
                self.touched.push(key.clone());
            }
            for (row, value) in rows {
                match (&row, &value) {
                    (RowKey::History(run_id, first), Some(events)) => {
                        entry.runs.tail_mut(*run_id).push(*first, events.clone(), sequence);
                    }
                    (RowKey::Run(run_id), None) => {
                        entry.remove_run(*run_id);
                    }
                    _ => {}
                }
                self.forming.push(rows::change(address, row, value));
            }
            if wrote && !self.watchers.is_empty() {
                for (run_id, run) in entry.workflow.iter().flat_map(|workflow| &workflow.runs) {
                    let watched = (key.clone(), *run_id);
                    if self.watchers.contains_key(&watched) {
                        self.views.insert(watched, view(run));
                    }
                }
            }
        }
        let last_batch = self.cache.get_mut(key).map_or(0, |entry| entry.last_batch);
        for effect in effects {
            self.effect(address, effect, last_batch);
        }
        (reply.map_err(CallError::Rejected), wrote)
    }

    fn effect(&mut self, address: &Address, effect: Effect, last_batch: u64) {
        let partition = self.group.id();
        let address = address.clone();
        match effect {
            Effect::OfferTask(task) if task.key.kind == TaskKind::Workflow => {
                self.dependencies.matching.offer(partition, address, task);
            }
            Effect::OfferTask(task) => {
                let matching = Arc::clone(&self.dependencies.matching);
                self.when_durable(
                    last_batch,
                    Box::new(move |durable| {
                        if durable.is_ok() {
                            matching.offer(partition, address, task);
                        }
                    }),
                );
            }
            Effect::OfferQuery(query) => {
                let matching = Arc::clone(&self.dependencies.matching);
                let queries = Arc::clone(&self.dependencies.queries);
                self.when_durable(
                    last_batch,
                    Box::new(move |durable| match durable {
                        Ok(()) => matching.offer_query(address, query),
                        Err(error) => {
                            queries.answer(query.query_id, Err(Rejection::Unavailable(error.to_string().into())))
                        }
                    }),
                );
            }
            Effect::AnswerQuery { query_id, answer } => {
                let queries = Arc::clone(&self.dependencies.queries);
                self.when_durable(
                    last_batch,
                    Box::new(move |durable| {
                        let answer = match durable {
                            Ok(()) => answer,
                            Err(error) => Err(Rejection::Unavailable(error.to_string().into())),
                        };
                        queries.answer(query_id, answer);
                    }),
                );
            }
        }
    }
}

/// The outcome of the oldest batch in flight; never, if there is none.
async fn front_outcome(in_flight: &mut VecDeque<InFlight>) -> Result<u64, String> {
    match in_flight.front_mut() {
        Some(batch) => match (&mut batch.outcome).await {
            Ok(Ok(index)) => Ok(index),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("the group has stopped".to_owned()),
        },
        None => std::future::pending().await,
    }
}

/// Where the history is that goes with a reply.
fn history_of(reply: &Reply, run_id: Option<RunId>, entry: &Entry) -> Option<history::HistorySource> {
    let start = match reply {
        Reply::WorkflowTaskStarted(start) | Reply::QueryTask(start) => start,
        Reply::WorkflowTaskCompleted(completed) => completed.next.as_ref()?,
        _ => return None,
    };
    let run_id = run_id?;
    match entry.runs.tail(run_id) {
        Some(tail) => Some(tail.source(run_id, start.history_from, start.history_to)),
        None => Some(history::HistoryTail::default().source(run_id, start.history_from, start.history_to)),
    }
}

fn system_seed() -> u128 {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the system has a random source");
    u128::from_le_bytes(bytes)
}

fn unavailable(partition: GroupId) -> CallError {
    CallError::Unavailable(format!("partition {partition} has no leader here at the moment"))
}

fn fail(waiting: Vec<OnDurable>, error: &CallError) {
    for waiting in waiting {
        waiting(Err(error.clone()));
    }
}

fn refuse(job: Job, error: &CallError) {
    match job.work {
        Work::Command { reply: Some(reply), .. } => {
            let _ = reply.send(Err(error.clone()));
        }
        Work::Command { reply: None, .. } => {}
        Work::Inspect(inspect) => inspect(Err(error.clone()))(Err(error.clone())),
        Work::Watch { reply, .. } => {
            let _ = reply.try_send(Err(error.clone()));
        }
    }
}
