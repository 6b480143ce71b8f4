//! What it means to lead a partition: one object with an identity, which is dropped whole when the lead is lost.
//!
//! ```text
//!            tick(reading)            take(job), read(rows), settle()
//!                 │                                   │
//!                 ▼                                   ▼
//!   clock ──▶ ┌ Lead: epoch ────────────────────────────────────────────────┐
//!             │ cache      workflows, ahead of the log                      │
//!             │ batches    forming ─▶ in flight ─▶ committed                │ ──actions()──▶ propose, load, read, send
//!             │ wakes      which run to look at when                        │
//!             │ outbox     messages to other workflows                      │
//!             │ watchers   who waits for a history to grow                  │ ──answers()──▶ told if the lease holds
//!             └─────────────────────────────────────────────────────────────┘
//! ```
//!
//! It is a state machine without clock, runtime or I/O: time is handed in, what it wants done comes out as [`Action`]s, and the
//! channels in them are only data to it. `event_loop` runs it for real; the simulation runs many of them under one seed.
//!
//! Everything in memory is *ahead* of the log: a command is decided on what the commands before it leave, committed or not. That is
//! sound because each batch carries the lead's [`LeadEpoch`] and the next sequence number, and the state machine applies a batch only
//! as the successor of the one before it (`everlog_raft::chain`). A batch that is lost takes all later ones with it.

#[cfg(test)]
mod archive_tests;
mod batches;
#[cfg(test)]
mod handover_tests;
mod jobs;
#[cfg(test)]
mod journal_tests;
mod machines;
#[cfg(test)]
mod message_tests;
mod messages;
#[cfg(test)]
mod move_tests;
pub(crate) mod moves;
mod standings;
#[cfg(test)]
mod test_partition;
#[cfg(test)]
mod tests;
mod time;
mod updates;
mod watching;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use everlog_kernel::command::UpdateStatus;
use everlog_kernel::nexus::NexusCall;
use everlog_kernel::token::HistoryPosition;
use everlog_kernel::transition::{QueryTask, Task};
use everlog_kernel::{Ids, Limits, NamespaceId, Rejection, RunId, Time};
use everlog_model::{
    CallError, EntityRef, FormatVersion, InForce, Moves, NamespaceSource, RunView, SlotSet, Step as MoveStep,
    WorkflowRef, limits,
};
use everlog_proto::api::common::v1::Payloads;
use everlog_raft::{ChainPosition, EntryStamp, LeadEpoch};
use everlog_storage::GroupId;
use everlog_storage::state::RowBatch;

use self::batches::Batches;
use self::messages::OutboxMetrics;
use self::moves::{Moving, StepReply, StepReplyTo};
use self::standings::Standings;
use self::updates::Follower;
use self::watching::Watcher;
pub(crate) use self::watching::view as view_of_run;
use super::cache::Cache;
use super::clock::{PartitionClock, Reading};
use super::job::{Answer, NewsTo, ReplyTo, Tell, ViewTo};
use super::journal::{Journal, JournalPage};
use super::load::{LoadRequest, Read, ReadRows};
use super::moving::Cursor;
use super::operation::Step;
use super::outbox::{Outbox, Parcel};
use super::wakes::Wakes;

/// What a lead works with.
#[derive(Clone)]
pub(crate) struct LeadSettings {
    /// Namespaces by id.
    pub(crate) namespaces: Arc<dyn NamespaceSource>,
    /// Limits of the kernel.
    pub(crate) limits: Arc<InForce<Limits>>,
    /// Memory for workflows, bytes.
    pub(crate) cache_bytes_max: usize,
    /// Whether time is skipped.
    pub(crate) skips_time: bool,
    /// The formats that the cluster had when the lead began: it writes nothing that these do not have.
    pub(crate) format: FormatVersion,
}

/// What is applied, told from memory.
pub(crate) struct Applied {
    /// What rows say of slots that move, since the entry that opened the epoch.
    pub(crate) moves: Moves,
    /// Whether a row may exist; `false` is certain.
    pub(crate) may_exist: MayExist,
    /// Whether the batch at a position of the chain counts; of the last few epochs before this one.
    pub(crate) contains: Contains,
}

type MayExist = Box<dyn Fn(&[u8]) -> bool + Send>;
type Contains = Box<dyn Fn(ChainPosition) -> bool + Send>;

/// Something that a lead wants done.
pub(crate) enum Action {
    /// Hand a batch to the log.
    Propose { stamp: EntryStamp, rows: RowBatch },
    /// Read a workflow; [`Lead::loaded`] takes the answer.
    Load(LoadRequest),
    /// Read wake rows from `start`, or the first one, up to `horizon`; [`Lead::add_wakes`] takes the answer.
    ReadWakes { start: Option<bytes::Bytes>, horizon: Time },
    /// Read rows of the outbox from `start`, or the first one; [`Lead::add_outbox`] takes the answer.
    ReadOutbox { start: Option<bytes::Bytes> },
    /// Read rows of the journal from `start`, or the first one; [`Lead::add_journal`] takes the answer.
    ReadJournal { start: Option<bytes::Bytes> },
    /// Read which rows of slots are to be deleted that are another partition's; [`Lead::add_deletions`] takes the answer.
    ReadDeletions { step: MoveStep, after: Option<Cursor>, is_part: bool },
    /// Carry messages to their targets; [`Lead::delivered`] takes the answers, one by one.
    Deliver(Vec<Parcel>),
    /// Let something leave the partition: it is durable, or need not be.
    Release(Outgoing),
    /// Tell those who wait that what they wait for is not to be had.
    Withhold(Outgoing, CallError),
    /// Stop leading: the partition's own rows cannot be read.
    Fail(String),
}

/// Something that leaves the partition once what it rests on is durable.
pub(crate) enum Outgoing {
    /// The answer to a command.
    Reply(ReplyTo, Result<Answer, CallError>),
    /// The result of an inspection.
    Tell(Tell),
    /// What is known of a run.
    View(ViewTo, Result<RunView, CallError>),
    /// A task that is ready.
    Task(WorkflowRef, Task),
    /// A query for a worker.
    Query(WorkflowRef, QueryTask),
    /// The answer to a query.
    QueryAnswer { query_id: u64, answer: Result<Option<Payloads>, Rejection> },
    /// A call to a Nexus service.
    NexusCall(WorkflowRef, Box<NexusCall>),
    /// A run that is to be archived.
    Archive(WorkflowRef, RunId),
    /// Whether a batch job is to be worked on.
    BatchJob(WorkflowRef, RunId, bool),
    /// How far an update has come.
    News(NewsTo, Result<UpdateStatus, CallError>),
    /// What came of something that was to be done about a step of a move.
    Step(StepReplyTo, Result<StepReply, CallError>),
    /// There are task rows that nobody was told of.
    TasksCame,
    /// Slots of a namespace are closed here: what others keep of their entities for this partition goes.
    Left { namespace_id: NamespaceId, slots: SlotSet },
}

/// What is being decided, for the log if it panics.
#[derive(Clone, Debug)]
pub(crate) struct Running {
    /// What the job is called.
    pub(crate) name: &'static str,
    /// The workflow.
    pub(crate) key: EntityRef,
    /// The run that was named.
    pub(crate) run_id: Option<RunId>,
}

/// A job that made the kernel panic. It is refused for a while: to try it again and again would help nobody, and others would suffer.
#[derive(Clone, Debug)]
pub(crate) struct Poison {
    name: &'static str,
    key: EntityRef,
    until: Time,
}

impl Poison {
    /// What panicked at `now`.
    pub(crate) fn new(running: &Running, now: Time) -> Poison {
        Poison { name: running.name, key: running.key.clone(), until: now.plus(limits::POISON_REFUSED) }
    }

    fn error(&self) -> CallError {
        CallError::Failed(format!("{} failed on workflow {}; see the server's log", self.name, self.key.id))
    }
}

/// A lead. See the module.
pub(crate) struct Lead {
    partition: GroupId,
    epoch: LeadEpoch,
    settings: LeadSettings,
    applied: Applied,
    clock: PartitionClock,
    /// The machine's monotonic clock at the last tick.
    instant: Instant,
    cache: Cache,
    batches: Batches,
    wakes: Wakes,
    outbox: Outbox,
    journal: Journal,
    moving: Moving,
    watchers: HashMap<(EntityRef, RunId), Vec<Watcher>>,
    followers: HashMap<(EntityRef, RunId), Vec<Follower>>,
    /// How its entities stand, where time is skipped.
    standings: Option<Standings>,
    /// Where the seeds of decisions come from.
    seeds: Ids,
    /// Reads of workflows that were asked for and not answered.
    loads: usize,
    stopping: bool,
    running: Option<Running>,
    /// The step that is being decided, if it is to be done once.
    step: Option<Step>,
    poisons: Vec<Poison>,
    actions: Vec<Action>,
    answers: Vec<Outgoing>,
    timer_lag: metrics::Histogram,
    outbox_metrics: OutboxMetrics,
    cached_workflows: metrics::Gauge,
    cached_bytes: metrics::Gauge,
}

impl Lead {
    /// Begins to lead in `epoch`, whose opening entry has been applied. `seed` decides the ids that are given out.
    pub(crate) fn new(
        partition: GroupId,
        epoch: LeadEpoch,
        clock: PartitionClock,
        settings: LeadSettings,
        mut applied: Applied,
        seed: u128,
        instant: Instant,
    ) -> Lead {
        let moves = std::mem::take(&mut applied.moves);
        let label = partition.to_string();
        let standings = settings.skips_time.then(Standings::default);
        let mut lead = Lead {
            partition,
            epoch,
            standings,
            settings,
            applied,
            clock,
            instant,
            cache: Cache::default(),
            batches: Batches::default(),
            wakes: Wakes::default(),
            outbox: Outbox::opening(),
            journal: Journal::default(),
            moving: Moving::new(moves),
            watchers: HashMap::new(),
            followers: HashMap::new(),
            seeds: Ids::new(seed),
            loads: 0,
            stopping: false,
            running: None,
            step: None,
            poisons: Vec::new(),
            actions: Vec::new(),
            answers: Vec::new(),
            timer_lag: metrics::histogram!("everlog_timer_lag_seconds"),
            outbox_metrics: OutboxMetrics::new(&label),
            cached_workflows: metrics::gauge!("everlog_workflows_cached", "partition" => label.clone()),
            cached_bytes: metrics::gauge!("everlog_workflow_cache_bytes", "partition" => label),
        };
        lead.read_wakes(None);
        lead.actions.push(Action::ReadOutbox { start: None });
        lead.actions.push(Action::ReadJournal { start: None });
        lead
    }

    /// Moves time on.
    pub(crate) fn tick(&mut self, reading: Reading) {
        self.instant = reading.instant;
        self.clock.tick(reading);
    }

    /// The partition's time at the last tick.
    pub(crate) fn time(&self) -> Time {
        self.clock.now()
    }

    fn now(&self) -> Time {
        self.clock.now()
    }

    /// Ends a turn: looks at what is due, drops from memory what is too much, and proposes what has gathered if it need not wait.
    /// `linger` tells how long a batch that was begun at an instant is to wait for company.
    pub(crate) fn end_turn(&mut self, linger: impl Fn(Instant) -> std::time::Duration) {
        self.look_at_what_was_taken_over();
        self.wake();
        self.deliver();
        self.clean();
        self.evict();
        self.propose(linger);
    }

    /// Takes in rows that were read, unless another lead asked for them: they are of another time then.
    pub(crate) fn read(&mut self, read: Read) {
        if read.epoch != self.epoch {
            return;
        }
        match read.rows {
            ReadRows::Workflow(loaded) => self.loaded(*loaded),
            ReadRows::Wakes(page) => self.add_wakes(page),
            ReadRows::Outbox(page) => self.add_outbox(page),
            ReadRows::Journal(page) => self.add_journal(page),
            ReadRows::Fault(error) => self.actions.push(Action::Fail(error)),
            ReadRows::Delivered(key, delivery) => self.delivered(key, delivery),
            ReadRows::Deletions(step, deletions) => self.add_deletions(step, deletions),
        }
    }

    /// What is to be done, in order.
    pub(crate) fn actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    /// Gives an emptied list of actions back, so that its memory serves again.
    pub(crate) fn reuse(&mut self, mut actions: Vec<Action>) {
        if self.actions.is_empty() {
            actions.clear();
            self.actions = actions;
        }
    }

    /// What may be told now if this is still the leader, which only its lease says: nothing here has waited for a quorum.
    pub(crate) fn answers(&mut self) -> Vec<Outgoing> {
        std::mem::take(&mut self.answers)
    }

    /// Whether jobs are taken: not while a batch is full or too many workflows are being read.
    pub(crate) fn accepts(&self) -> bool {
        self.batches.has_room() && self.loads < limits::PARTITION_LOADS_MAX
    }

    /// Bytes in memory: workflows, messages, and batches that form or are in flight.
    pub(crate) fn held_bytes(&self) -> usize {
        self.cache.bytes() + self.batches.bytes() + self.outbox.bytes() + self.journal.bytes()
    }

    /// Refuses jobs from here on; what is under way goes on.
    pub(crate) fn stop(&mut self) {
        self.stopping = true;
    }

    /// Whether a lead that was stopped has nothing under way any more.
    pub(crate) fn is_finished(&self) -> bool {
        self.stopping && self.batches.is_idle()
    }

    /// What is being decided; set only inside a call.
    pub(crate) fn running(&self) -> Option<&Running> {
        self.running.as_ref()
    }

    /// Refuses jobs that made an earlier lead panic.
    pub(crate) fn refuse_poison(&mut self, poisons: Vec<Poison>) {
        self.poisons = poisons;
    }

    fn poison(&mut self, key: &EntityRef, name: &str) -> Option<&Poison> {
        if self.poisons.is_empty() {
            return None;
        }
        let now = self.now();
        self.poisons.retain(|poison| poison.until > now);
        self.poisons.iter().find(|poison| poison.name == name && poison.key == *key)
    }

    /// Ends the lead: everybody who waits is told `error`.
    pub(crate) fn abandon(mut self, error: &CallError) -> Vec<Action> {
        let waiting = self.batches.take_waiting();
        let answers = std::mem::take(&mut self.answers);
        let withheld = waiting.into_iter().chain(answers).map(|outgoing| Action::Withhold(outgoing, error.clone()));
        // Proposals and reads that were not carried out yet are not.
        let mut actions: Vec<Action> = std::mem::take(&mut self.actions)
            .into_iter()
            .filter(|action| matches!(action, Action::Release(_) | Action::Withhold(..)))
            .collect();
        actions.extend(withheld);
        // They waited to be decided.
        let not_done = CallError::NotDone(error.to_string());
        for job in self.cache.drain().into_iter().chain(self.journal.take_waiting()) {
            job.refuse(&not_done);
        }
        self.outbox_metrics.clear();
        actions
    }

    /// Takes in rows of the journal that were read.
    pub(crate) fn add_journal(&mut self, page: Result<JournalPage, String>) {
        match page {
            Ok(page) => {
                let next = page.next.clone();
                self.actions.extend(next.map(|next| Action::ReadJournal { start: Some(next) }));
                for job in self.journal.add(page) {
                    self.take(job);
                }
            }
            // Going on might do something twice.
            Err(error) => self.actions.push(Action::Fail(format!("rows of the journal cannot be read: {error}"))),
        }
    }

    fn chain(&self, sequence: u64) -> ChainPosition {
        ChainPosition { epoch: self.epoch, sequence }
    }

    /// Whether everything up to a place that a token names is in the history that this lead goes on with. What this lead itself has
    /// handed out is: whatever comes stands behind it in the same chain. A place of another partition's chain says nothing here.
    fn is_whole(&self, position: HistoryPosition) -> bool {
        let HistoryPosition { partition, term, opening, sequence } = position;
        if partition != self.partition.0 && partition != 0 {
            return false;
        }
        let epoch = LeadEpoch { term, opening };
        epoch == self.epoch || (self.applied.contains)(ChainPosition { epoch, sequence })
    }

    /// The place of a batch of this lead, for a token.
    fn history_position(&self, sequence: u64) -> HistoryPosition {
        let LeadEpoch { term, opening } = self.epoch;
        HistoryPosition { partition: self.partition.0, term, opening, sequence }
    }
}
