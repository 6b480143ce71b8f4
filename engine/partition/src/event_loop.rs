//! Runs the leads of one partition: everything about clocks, channels and the Raft group that [`Lead`] itself must not know.
//!
//! ```text
//!              elected in term t                 opening entry applied
//!   FOLLOWING ───────────────────▶ OPENING(t, n) ─────────────────────▶ LEADING(t, n)
//!       ▲  ▲                        │  refused or lost: wait, n+1           │
//!       │  └────────────────────────┴───────────────────────────────────────┤ a batch is refused or lost: drop the lead
//!       └───────────────────────────────────────────────────────────────────┘ not the leader any more: drop the lead; newer formats: n+1
//! ```
//!
//! A lead begins with an entry of its own. Once that is applied, whatever earlier leads had in flight is in the rows or never will
//! be, so rows are read only from then on. Jobs that arrive meanwhile wait in their channel.

use std::any::Any;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use everlog_kernel::{Rejection, Time};
use everlog_matching::{Message, Source};
use everlog_model::{CallError, EntityRef, limits};
use everlog_raft::group::ProposalOutcome;
use everlog_raft::{ChainPosition, EntryStamp, Group, LeadEpoch, Leadership, ReadConsistency, StopReason};
use everlog_storage::state::RowBatch;
use futures::StreamExt;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Sleep;

use super::Dependencies;
use super::clock::{PartitionClock, Reading};
use super::deliver::Carrier;
use super::job::Job;
use super::lead::moves::StepJob;
use super::lead::{Action, Applied, Lead, LeadSettings, Outgoing, Poison};
use super::load::{Read, ReadFor, ReadRows, Readers};
use super::outbox::Parcel;
use super::pace::Pace;
use super::skipped_time::{Hold, SkippedTime};
use super::status::{PartitionLoad, Status};
use super::steps;

/// Where a partition's jobs come from and its status goes to. Outlives leads, and groups that die.
pub(crate) struct EventLoop {
    pub(crate) dependencies: Dependencies,
    pub(crate) readers: Readers,
    pub(crate) carrier: Arc<dyn Carrier>,
    pub(crate) pace: Arc<Pace>,
    pub(crate) jobs: mpsc::Receiver<Job>,
    /// What is to be done about slots that move.
    pub(crate) steps: mpsc::Receiver<StepJob>,
    pub(crate) stop: mpsc::Receiver<oneshot::Sender<()>>,
    pub(crate) load: Arc<PartitionLoad>,
    pub(crate) status: watch::Sender<Status>,
    /// Told once the loop has stopped.
    pub(crate) stopped: Option<oneshot::Sender<()>>,
    /// Jobs that were taken from the channel and not done yet.
    pub(crate) turn: VecDeque<Job>,
    /// The same of steps, each with how many jobs that came before it are to be taken first: whoever has looked for a slot here must be
    /// turned away before the partition forgets that it has gone.
    pub(crate) step_turn: VecDeque<(usize, StepJob)>,
    pub(crate) poisons: Vec<Poison>,
    /// Where time is skipped: what the last lead had in hand.
    pub(crate) in_hand: Vec<EntityRef>,
    /// Keeps time from being skipped until the lead knows how everything stands.
    pub(crate) unknown: Option<Hold>,
}

/// Why the loop ended.
#[derive(Debug)]
pub(crate) enum End {
    /// It was told to.
    Stopped,
    /// The Raft group has died.
    GroupStopped(String),
    /// The Raft group was closed because its rows are to be replaced, which happens when it is opened again.
    Seeding,
}

/// Why a lead ended.
#[derive(Debug)]
enum LeadEnd {
    /// Leadership has changed, or may have.
    LeadershipChanged,
    /// A batch or the opening entry was refused or lost; the term may be the same.
    Lost(String),
    /// The kernel panicked.
    Panicked,
    /// The cluster has newer formats than the lead knows: the next one does.
    Outgrown,
    /// The partition's own rows cannot be read.
    Failed(String),
    Loop(End),
}

/// How long to wait before leading again.
#[derive(Debug, Default)]
struct BackOff(u32);

impl BackOff {
    /// The next wait, between `first` and `longest`.
    fn next(&mut self, first: Duration, longest: Duration) -> Duration {
        let wait = first.saturating_mul(1 << self.0.min(16)).min(longest);
        self.0 += 1;
        wait
    }
}

impl EventLoop {
    /// Leads whenever `group` says so, until the loop is told to stop or the group has died.
    pub(crate) async fn run(&mut self, group: &Group) -> End {
        let mut leadership = group.leadership();
        let (mut lost, mut failed) = (BackOff::default(), BackOff::default());
        let mut opening = (0, 0);
        loop {
            let now = *leadership.borrow_and_update();
            let end = match now {
                Leadership::Leader { term } => {
                    opening = if opening.0 == term { (term, opening.1 + 1) } else { (term, 1) };
                    let epoch = LeadEpoch { term, opening: opening.1 };
                    self.lead(group, epoch, &mut leadership, &mut lost).await
                }
                Leadership::Follower => {
                    self.status.send_replace(Status::Following);
                    self.follow(group, &mut leadership).await
                }
                Leadership::Stopped { reason } => {
                    let reason = match reason {
                        StopReason::Shutdown => return End::Stopped,
                        StopReason::Seeding => return End::Seeding,
                        StopReason::EngineFailed => "an engine has failed",
                        StopReason::Died => "its Raft core has died",
                    };
                    LeadEnd::Loop(End::GroupStopped(reason.to_owned()))
                }
            };
            let partition = group.id();
            let wait = match end {
                LeadEnd::Loop(end) => return end,
                LeadEnd::LeadershipChanged | LeadEnd::Outgrown => Duration::ZERO,
                LeadEnd::Lost(error) => {
                    tracing::warn!(%partition, error, "a batch was lost: leading anew");
                    self.status.send_replace(Status::NotServing(error));
                    lost.next(limits::LEAD_AGAIN_WAIT.0, limits::LEAD_AGAIN_WAIT.1)
                }
                LeadEnd::Panicked => {
                    self.status.send_replace(Status::NotServing("a command made the partition fail".to_owned()));
                    failed.next(limits::LEAD_AGAIN_WAIT.0, limits::FAILED_LEAD_WAIT_MAX)
                }
                LeadEnd::Failed(error) => {
                    tracing::error!(%partition, error, "the partition does not serve");
                    self.status.send_replace(Status::NotServing(error));
                    failed.next(Duration::from_secs(1), limits::FAILED_LEAD_WAIT_MAX)
                }
            };
            if let Some(end) = self.pause(group, wait, &mut leadership).await {
                return end;
            }
        }
    }

    /// Waits before leading again. Jobs wait in their channel meanwhile if that is soon, and are refused if not.
    async fn pause(
        &mut self,
        group: &Group,
        wait: Duration,
        leadership: &mut watch::Receiver<Leadership>,
    ) -> Option<End> {
        if wait.is_zero() {
            return None;
        }
        let refuses = wait >= Duration::from_secs(1);
        let over = tokio::time::sleep(wait);
        tokio::pin!(over);
        loop {
            tokio::select! {
                () = &mut over => return None,
                changed = leadership.changed() => match changed {
                    Ok(()) => return None,
                    Err(_) => return Some(End::GroupStopped("its supervisor is gone".to_owned())),
                },
                stopped = self.stop.recv() => {
                    self.stopped = stopped;
                    return Some(End::Stopped);
                }
                job = self.jobs.recv(), if refuses => match job {
                    Some(job) => job.refuse(&self.not_serving(group)),
                    None => return Some(End::Stopped),
                },
            }
        }
    }

    /// Refuses everything until leadership changes.
    async fn follow(&mut self, group: &Group, leadership: &mut watch::Receiver<Leadership>) -> LeadEnd {
        for job in std::mem::take(&mut self.turn) {
            job.refuse(&self.not_serving(group));
        }
        for (_, job) in std::mem::take(&mut self.step_turn) {
            job.refuse(&self.not_serving(group));
        }
        loop {
            tokio::select! {
                changed = leadership.changed() => {
                    return match changed {
                        Ok(()) => LeadEnd::LeadershipChanged,
                        Err(_) => LeadEnd::Loop(End::GroupStopped("its supervisor is gone".to_owned())),
                    };
                }
                stopped = self.stop.recv() => {
                    self.stopped = stopped;
                    return LeadEnd::Loop(End::Stopped);
                }
                job = self.jobs.recv() => match job {
                    Some(job) => job.refuse(&self.not_serving(group)),
                    None => return LeadEnd::Loop(End::Stopped),
                },
                job = self.steps.recv() => match job {
                    Some(job) => job.refuse(&self.not_serving(group)),
                    None => return LeadEnd::Loop(End::Stopped),
                },
            }
        }
    }

    /// Refuses jobs for `wait`, while there is no group. Returns true if the loop was told to stop.
    pub(crate) async fn pause_stopped(&mut self, wait: Duration) -> bool {
        let reason = self.status.borrow().reason().unwrap_or("not started").to_owned();
        let error = CallError::NotDone(format!("the partition does not serve: {reason}"));
        self.turn.drain(..).for_each(|job| job.refuse(&error));
        let over = tokio::time::sleep(wait);
        tokio::pin!(over);
        loop {
            tokio::select! {
                () = &mut over => return false,
                stopped = self.stop.recv() => {
                    self.stopped = stopped;
                    return true;
                }
                job = self.jobs.recv() => match job {
                    Some(job) => job.refuse(&error),
                    None => return true,
                },
            }
        }
    }

    fn not_serving(&self, group: &Group) -> CallError {
        let reason = self.status.borrow().reason().map_or_else(String::new, |reason| format!(": {reason}"));
        CallError::NotDone(format!("partition {} has no leader here at the moment{reason}", group.id()))
    }

    async fn lead(
        &mut self,
        group: &Group,
        epoch: LeadEpoch,
        leadership: &mut watch::Receiver<Leadership>,
        lost: &mut BackOff,
    ) -> LeadEnd {
        self.hold_time();
        match self.open(group, epoch, leadership).await {
            None => {}
            Some(end) => return end,
        }
        let rows = group.clone();
        let moves = everlog_storage::blocking::spawn(move || steps::read_moves(&rows)).await;
        let moves = match moves.map_err(|error| error.to_string()).flatten() {
            Ok(moves) => moves,
            Err(error) => return LeadEnd::Failed(format!("rows about moves cannot be read: {error}")),
        };
        *lost = BackOff::default();
        tracing::info!(partition = %group.id(), %epoch, "leading");
        self.status.send_replace(Status::Serving);
        let reading = self.read_clocks();
        let clock = PartitionClock::start(group.applied_chain().hlc, reading);
        let settings = LeadSettings {
            namespaces: Arc::clone(&self.dependencies.namespaces),
            limits: Arc::clone(&self.dependencies.limits),
            cache_bytes_max: self.dependencies.cache_bytes_max,
            skips_time: self.dependencies.skipped_time.is_some(),
            format: self.dependencies.formats.format(),
        };
        let format = settings.format;
        let rows = group.clone();
        let chain = group.clone();
        let applied = Applied {
            moves,
            may_exist: Box::new(move |key| rows.may_exist(key)),
            contains: Box::new(move |position| chain.was_applied(position)),
        };
        let mut lead = Lead::new(group.id(), epoch, clock, settings, applied, system_seed(), reading.instant);
        lead.refuse_poison(self.poisons.clone());
        lead.take_over(std::mem::take(&mut self.in_hand));
        let (reply, reads) = mpsc::unbounded_channel();
        self.dependencies.matching.send(Message::Opened(source(group, epoch)));
        self.dependencies.batch_jobs.opened(source(group, epoch));
        let mut leading = Leading {
            group,
            epoch,
            reads,
            reader: ReadFor { group: group.clone(), epoch, reply },
            carrier: Arc::clone(&self.carrier),
            in_flight: VecDeque::new(),
            sleep: Box::pin(tokio::time::sleep(Duration::ZERO)),
            jumps: self.dependencies.skipped_time.as_ref().map(|time| time.jumps()),
            outgrown: Some(self.dependencies.formats.until_newer_format(format)),
        };
        self.dependencies.faults.listen(group.id(), &leading.reader);
        let end = self.turns(&mut lead, &mut leading, leadership).await;
        // What this lead had in hand is in hand until the next one has seen for itself, unless there is none here.
        self.hold_time();
        self.in_hand = lead.in_hand();
        if let Some(time) = &self.dependencies.skipped_time {
            time.forget(group.id());
        }
        self.dependencies.matching.send(Message::Closed(source(group, epoch)));
        self.dependencies.batch_jobs.closed(source(group, epoch));
        let error = CallError::Unavailable(format!("partition {} has lost its leadership", group.id()));
        match catch_unwind(AssertUnwindSafe(|| lead.abandon(&error))) {
            Ok(actions) => actions.into_iter().for_each(|action| leading.release(&self.dependencies, action)),
            Err(_) => tracing::error!(partition = %group.id(), "a lead could not be ended in good order"),
        }
        self.load.set_held(0);
        tracing::info!(partition = %group.id(), %epoch, "no longer leading");
        end
    }

    /// Has time pass as it always does until a lead knows how everything stands.
    fn hold_time(&mut self) {
        if let Some(time) = &self.dependencies.skipped_time
            && self.unknown.is_none()
        {
            self.unknown = Some(time.hold());
        }
    }

    /// Opens an epoch: proposes its first entry and waits until that is applied.
    async fn open(
        &mut self,
        group: &Group,
        epoch: LeadEpoch,
        leadership: &mut watch::Receiver<Leadership>,
    ) -> Option<LeadEnd> {
        let hlc = PartitionClock::start(group.applied_chain().hlc, self.read_clocks()).next_hlc();
        let stamp = EntryStamp { chain: ChainPosition { epoch, sequence: 0 }, hlc };
        let outcome = match group.propose(stamp, RowBatch::default()) {
            Ok(outcome) => outcome,
            Err(error) => return Some(LeadEnd::Lost(error.to_string())),
        };
        tokio::select! {
            outcome = outcome => match outcome {
                Ok(Ok(_)) => None,
                Ok(Err(error)) => Some(LeadEnd::Lost(error.to_string())),
                Err(_) => Some(LeadEnd::Lost("the group has stopped".to_owned())),
            },
            changed = leadership.changed() => match changed {
                Ok(()) => Some(LeadEnd::LeadershipChanged),
                Err(_) => Some(LeadEnd::Loop(End::GroupStopped("its supervisor is gone".to_owned()))),
            },
            stopped = self.stop.recv() => {
                self.stopped = stopped;
                Some(LeadEnd::Loop(End::Stopped))
            }
        }
    }

    /// Takes what comes, turn by turn, until the lead ends.
    async fn turns(
        &mut self,
        lead: &mut Lead,
        leading: &mut Leading<'_>,
        leadership: &mut watch::Receiver<Leadership>,
    ) -> LeadEnd {
        let mut jobs = Vec::with_capacity(limits::PARTITION_TURN_EVENTS_MAX);
        let mut reads = Vec::new();
        let mut settled = false;
        loop {
            if let Err(end) = self.step(lead, leading, &mut reads, settled) {
                return end;
            }
            if let Err(end) = leading.carry_out(lead, &self.dependencies, &self.readers) {
                return end;
            }
            if lead.is_finished() {
                let is_outgrown = leading.outgrown.is_none() && self.stopped.is_none();
                return if is_outgrown { LeadEnd::Outgrown } else { LeadEnd::Loop(End::Stopped) };
            }
            self.load.set_held(lead.held_bytes());
            settled = false;
            let pace = &self.pace;
            let departure = lead.until_departure(|since| pace.patience(since, Instant::now()));
            leading.sleep_at_most(lead.until_next_wake().min(departure.unwrap_or(Duration::MAX)));
            let accepts = lead.accepts();
            tokio::select! {
                biased;
                outcome = front_outcome(&mut leading.in_flight) => match outcome {
                    Ok(()) => settled = true,
                    Err(error) => return LeadEnd::Lost(error),
                },
                changed = leadership.changed() => {
                    if changed.is_err() {
                        return LeadEnd::Loop(End::GroupStopped("its supervisor is gone".to_owned()));
                    }
                    let leads = Leadership::Leader { term: leading.epoch.term };
                    if *leadership.borrow_and_update() != leads {
                        return LeadEnd::LeadershipChanged;
                    }
                }
                stopped = self.stop.recv(), if self.stopped.is_none() => {
                    self.stopped = stopped;
                    lead.stop();
                }
                _ = leading.reads.recv_many(&mut reads, limits::PARTITION_TURN_EVENTS_MAX) => {}
                () = std::future::ready(()), if accepts && !self.turn.is_empty() => {}
                count = self.jobs.recv_many(&mut jobs, limits::PARTITION_TURN_EVENTS_MAX),
                    if accepts && self.turn.is_empty() =>
                {
                    if count == 0 {
                        return LeadEnd::Loop(End::Stopped);
                    }
                    self.turn.extend(jobs.drain(..));
                }
                job = self.steps.recv(), if accepts && self.step_turn.is_empty() => match job {
                    Some(job) => self.step_turn.push_back((self.turn.len() + self.jobs.len(), job)),
                    None => return LeadEnd::Loop(End::Stopped),
                },
                () = &mut leading.sleep => {}
                () = jump(&mut leading.jumps) => {}
                () = grown(&mut leading.outgrown) => {
                    // What is under way is as it was begun; what comes is told to try again, and finds the next lead.
                    leading.outgrown = None;
                    lead.stop();
                }
            }
        }
    }

    /// One step of the lead. A panic in it ends the lead, and what was running is refused for a while.
    fn step(
        &mut self,
        lead: &mut Lead,
        leading: &mut Leading<'_>,
        reads: &mut Vec<Read>,
        settled: bool,
    ) -> Result<(), LeadEnd> {
        let partition = leading.group.id();
        // Time does not jump amid a turn.
        let skipped_time = self.dependencies.skipped_time.clone();
        let _hold = skipped_time.as_ref().map(SkippedTime::hold);
        let reading = self.read_clocks();
        let (pace, turn, step_turn) = (&self.pace, &mut self.turn, &mut self.step_turn);
        let stepped = catch_unwind(AssertUnwindSafe(|| {
            lead.tick(reading);
            if settled {
                lead.settle();
            }
            reads.drain(..).for_each(|read| lead.read(read));
            while lead.accepts()
                && let Some(job) = turn.pop_front()
            {
                lead.take(job);
                step_turn.iter_mut().for_each(|(before, _)| *before = before.saturating_sub(1));
            }
            while lead.accepts()
                && step_turn.front().is_some_and(|(before, _)| *before == 0)
                && let Some((_, job)) = step_turn.pop_front()
            {
                lead.take_step(job);
            }
            lead.end_turn(|since| pace.patience(since, Instant::now()));
            if let Some(time) = &skipped_time {
                time.stands(partition, lead.standing());
            }
        }));
        if lead.knows_standings() {
            self.unknown = None;
        }
        stepped.map_err(|panic| self.panicked(lead, leading, &*panic))
    }

    fn read_clocks(&self) -> Reading {
        if let Some(time) = &self.dependencies.skipped_time {
            return time.read();
        }
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Reading { instant: Instant::now(), wall: Time::default().plus(since_epoch), skipped: Duration::ZERO }
    }

    fn panicked(&mut self, lead: &Lead, leading: &Leading<'_>, panic: &(dyn Any + Send)) -> LeadEnd {
        metrics::counter!("everlog_partition_panics_total", "partition" => leading.group.id().to_string()).increment(1);
        let message = panic
            .downcast_ref::<&str>()
            .copied()
            .or(panic.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("not a text");
        let partition = leading.group.id();
        match lead.running() {
            Some(running) => {
                tracing::error!(
                    %partition,
                    command = running.name,
                    namespace_id = %running.key.namespace_id,
                    workflow_id = &*running.key.id,
                    run_id = running.run_id.map(tracing::field::display),
                    message,
                    "a command made the partition panic; it is refused for a while, and the partition leads anew"
                );
                self.poisons.push(Poison::new(running, lead.time()));
                let surplus = self.poisons.len().saturating_sub(limits::POISONS_MAX);
                self.poisons.drain(..surplus);
            }
            None => tracing::error!(%partition, message, "the partition panicked; it leads anew"),
        }
        LeadEnd::Panicked
    }
}

/// What belongs to one lead besides [`Lead`].
struct Leading<'a> {
    group: &'a Group,
    epoch: LeadEpoch,
    reads: mpsc::UnboundedReceiver<Read>,
    reader: ReadFor,
    carrier: Arc<dyn Carrier>,
    /// Outcomes of the batches in flight, in order.
    in_flight: VecDeque<ProposalOutcome>,
    sleep: Pin<Box<Sleep>>,
    /// Tells that time has jumped, where it is skipped.
    jumps: Option<watch::Receiver<()>>,
    /// Resolves when the cluster has newer formats than when the lead began; none once it has.
    outgrown: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Leading<'_> {
    fn source(&self) -> Source {
        source(self.group, self.epoch)
    }

    /// Does what the lead wants done.
    fn carry_out(&mut self, lead: &mut Lead, dependencies: &Dependencies, readers: &Readers) -> Result<(), LeadEnd> {
        let mut actions = lead.actions();
        for action in actions.drain(..) {
            match action {
                Action::Propose { stamp, rows } => match self.group.propose(stamp, rows) {
                    Ok(outcome) => self.in_flight.push_back(outcome),
                    Err(error) => return Err(LeadEnd::Lost(error.to_string())),
                },
                Action::Load(request) => readers.load(self.reader.clone(), request),
                Action::ReadWakes { start, horizon } => self.reader.clone().read_wakes(start, horizon),
                Action::ReadOutbox { start } => self.reader.clone().read_outbox(start),
                Action::ReadJournal { start } => self.reader.clone().read_journal(start),
                Action::ReadDeletions { step, after, is_part } => {
                    self.reader.clone().read_deletions(step, after, is_part);
                }
                Action::Deliver(parcels) => self.deliver(parcels),
                Action::Fail(error) => return Err(LeadEnd::Failed(error)),
                action @ (Action::Release(_) | Action::Withhold(..)) => self.release(dependencies, action),
            }
        }
        lead.reuse(actions);
        let answers = lead.answers();
        if !answers.is_empty() {
            self.answer(answers, dependencies);
        }
        Ok(())
    }

    /// Tells answers that rest on the lead alone: at once while the lease holds, else once a quorum has confirmed it.
    fn answer(&self, answers: Vec<Outgoing>, dependencies: &Dependencies) {
        let source = self.source();
        if self.group.lease_valid(Instant::now()) {
            answers.into_iter().for_each(|answer| answer.release(source, dependencies));
            return;
        }
        let (group, dependencies) = (self.group.clone(), dependencies.clone());
        tokio::spawn(async move {
            match group.read_barrier(ReadConsistency::Linearizable).await {
                Ok(()) => answers.into_iter().for_each(|answer| answer.release(source, &dependencies)),
                Err(error) => {
                    let error = CallError::Unavailable(error.to_string());
                    answers.into_iter().for_each(|answer| answer.withhold(&error, &dependencies));
                }
            }
        });
    }

    fn release(&self, dependencies: &Dependencies, action: Action) {
        match action {
            Action::Release(outgoing) => outgoing.release(self.source(), dependencies),
            Action::Withhold(outgoing, error) => outgoing.withhold(&error, dependencies),
            Action::Propose { .. }
            | Action::Load(_)
            | Action::ReadWakes { .. }
            | Action::ReadOutbox { .. }
            | Action::ReadJournal { .. }
            | Action::ReadDeletions { .. }
            | Action::Deliver(_)
            | Action::Fail(_) => {}
        }
    }

    /// Sends messages on their way, beside the loop. The lead hears how each of them fared.
    fn deliver(&self, parcels: Vec<Parcel>) {
        let (mut deliveries, reader) = (self.carrier.deliver(parcels), self.reader.clone());
        tokio::spawn(async move {
            while let Some((key, delivery)) = deliveries.next().await {
                reader.answer(ReadRows::Delivered(key, delivery));
            }
        });
    }

    /// Sees to it that the sleep is over in `wait` at the latest. It may end earlier, which costs one turn: to move it at each turn
    /// costs more.
    fn sleep_at_most(&mut self, wait: Duration) {
        let until = tokio::time::Instant::now() + wait.min(limits::WAKE_HORIZON);
        if self.sleep.is_elapsed() || until < self.sleep.deadline() {
            self.sleep.as_mut().reset(until);
        }
    }
}

impl Outgoing {
    /// Lets it leave.
    fn release(self, source: Source, dependencies: &Dependencies) {
        match self {
            // Callers that went away do not care.
            Outgoing::Reply(reply, answer) => drop(reply.send(answer)),
            Outgoing::Tell(tell) => tell(Ok(())),
            Outgoing::View(reply, view) => drop(reply.try_send(view)),
            Outgoing::Task(workflow, task) => dependencies.matching.send(Message::Task { source, workflow, task }),
            Outgoing::Query(workflow, query) => dependencies.matching.send(Message::Query { workflow, query }),
            Outgoing::QueryAnswer { query_id, answer } => dependencies.queries.answer(query_id, answer),
            Outgoing::NexusCall(address, call) => dependencies.nexus_calls.ask(address, call),
            Outgoing::Archive(address, run_id) => dependencies.expired_runs.ask(address, run_id),
            Outgoing::BatchJob(address, run_id, is_running) => {
                dependencies.batch_jobs.tell(source, run_id, address, is_running);
            }
            Outgoing::News(news, status) => drop(news.try_send(status)),
            Outgoing::Step(reply, result) => drop(reply.send(result)),
            Outgoing::TasksCame => dependencies.matching.send(Message::Missed(source)),
            Outgoing::Left { namespace_id, slots } => dependencies.batch_jobs.left(source, namespace_id, &slots),
        }
    }

    /// Tells whoever waits for it that it is not to be had.
    fn withhold(self, error: &CallError, dependencies: &Dependencies) {
        match self {
            Outgoing::Reply(reply, _) => drop(reply.send(Err(error.clone()))),
            Outgoing::Tell(tell) => tell(Err(error.clone())),
            Outgoing::View(reply, _) => drop(reply.try_send(Err(error.clone()))),
            Outgoing::Step(reply, _) => drop(reply.send(Err(error.clone()))),
            // The channel closes with the lead, and the caller asks the next one.
            Outgoing::News(..) | Outgoing::Left { .. } => {}
            // Its row, if it gets one, is found by the next lead; a run asks again for a call, and to be archived.
            Outgoing::Task(..)
            | Outgoing::TasksCame
            | Outgoing::BatchJob(..)
            | Outgoing::NexusCall(..)
            | Outgoing::Archive(..) => {}
            Outgoing::Query(_, query) => {
                dependencies.queries.answer(query.query_id, Err(Rejection::Unavailable(error.to_string().into())));
            }
            Outgoing::QueryAnswer { query_id, .. } => {
                dependencies.queries.answer(query_id, Err(Rejection::Unavailable(error.to_string().into())));
            }
        }
    }
}

/// How matching knows a lead.
fn source(group: &Group, epoch: LeadEpoch) -> Source {
    Source { partition: group.id(), lead: (u128::from(epoch.term) << 32) | u128::from(epoch.opening) }
}

/// The outcome of the oldest batch in flight; never, if there is none.
async fn front_outcome(in_flight: &mut VecDeque<ProposalOutcome>) -> Result<(), String> {
    let Some(front) = in_flight.front_mut() else { return std::future::pending().await };
    let outcome = front.await;
    in_flight.pop_front();
    match outcome {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("the group has stopped".to_owned()),
    }
}

/// Waits until time jumps; for ever, if it does not.
async fn jump(jumps: &mut Option<watch::Receiver<()>>) {
    let Some(jumps) = jumps else { return std::future::pending().await };
    if jumps.changed().await.is_err() {
        std::future::pending().await
    }
}

/// Waits until the cluster has newer formats; for ever, if that is known already.
async fn grown(outgrown: &mut Option<Pin<Box<dyn Future<Output = ()> + Send>>>) {
    match outgrown {
        Some(outgrown) => outgrown.await,
        None => std::future::pending().await,
    }
}

fn system_seed() -> u128 {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the system has a random source");
    u128::from_le_bytes(bytes)
}
