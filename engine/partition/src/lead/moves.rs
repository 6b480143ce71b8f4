//! Slots that move to another partition, or come from one: what this partition does of it, as [`everlog_model::Step`] describes.
//!
//! From the moment at which a step is frozen nothing is done for its slots here: jobs are refused as not done, so that whoever carries them
//! tries again, wakes and messages are set aside, and what is in memory of its entities leaves it, as with the end of a lead. That
//! is sound at once, before the entry is durable: whatever was decided before stands before it in the chain or in it, and if it is lost
//! the lead is, too. The same holds of slots whose rows come in, until the entry that makes them this partition's.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use everlog_kernel::transition::Task;
use everlog_kernel::{NamespaceId, RunId, Time};
use everlog_model::{CallError, EntityRef, Gated, Moves, Step, StepId, StepRecord, StepState, limits, rows, slot_of};
use everlog_storage::keys::{OutboxKey, WakeKey};
use everlog_storage::state::RowChange;
use tokio::sync::oneshot;

use super::super::job::{Job, Work};
use super::super::moving::{Cursor, Deletions, Page};
use super::super::outbox::Parcel;
use super::super::wakes::Wake;
use super::{Action, Lead, Outgoing};

/// Something to do about a step.
pub(crate) struct StepJob {
    pub(crate) command: StepCommand,
    pub(crate) reply: StepReplyTo,
}

impl StepJob {
    /// Answers that it is not done.
    pub(crate) fn refuse(self, error: &CallError) {
        // A driver that went away does not care.
        let _ = self.reply.send(Err(error.clone()));
    }
}

/// Who waits for the reply.
pub(crate) type StepReplyTo = oneshot::Sender<Result<StepReply, CallError>>;

/// What to do about a step. All but the first few may come again, and late.
pub(crate) enum StepCommand {
    /// Tell the partition's time, if it leads.
    TellTime,
    /// Tell what there is of steps.
    TellSteps,
    /// Tell whether the rows of a step that is gone or refused are deleted.
    TellWhetherClean(Step),
    /// Be ready for rows, of a source whose time that is.
    BeginImport(Step, Time),
    /// Change nothing any more.
    Freeze(Step),
    /// Let the rows be read; also what the journal knows of the slots, if that is wanted.
    Export { step: Step, with_journal: bool },
    /// Take rows in.
    Import(Step, Box<Page>),
    /// Have the slots, of a source that was frozen at a time.
    Activate(Step, Time),
    /// Never have the slots by this step.
    Refuse(Step),
    /// Have the slots again: the target has refused.
    Unfreeze(Step),
    /// Have the slots no more: the target has them.
    Release(Step),
    /// Forget the step, which is over.
    Forget(Step),
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StepReply {
    Done,
    Time(Time),
    Steps(Vec<StepRecord>),
    IsClean(bool),
    Journal(Bytes),
    /// What the target's rows say for good: whether it has the slots.
    Decided(bool),
}

/// The steps that a lead knows.
#[derive(Default)]
pub(super) struct Moving {
    moves: Moves,
    kept: BTreeMap<StepId, Kept>,
}

/// What a lead has in memory of a step besides its row.
#[derive(Default)]
struct Kept {
    /// The last batch with something of it.
    sequence: u64,
    /// What was due meanwhile, or will be soon.
    wakes: BTreeSet<Wake>,
    /// Messages that are not sent meanwhile, with the bytes of their rows.
    parcels: BTreeMap<OutboxKey, (Parcel, usize)>,
    /// Tasks that came in, by the keys of their rows; all of them, if this lead has taken in every page.
    tasks: BTreeMap<Bytes, (EntityRef, Task)>,
    has_every_task: bool,
    /// Up to where its rows are deleted, and whether the next ones are being read.
    cleaned: Option<Cursor>,
    is_reading: bool,
    /// When it is tried again to read them.
    clean_at: Time,
}

impl Moving {
    /// With what rows say.
    pub(super) fn new(moves: Moves) -> Moving {
        Moving { moves, kept: BTreeMap::new() }
    }

    fn sequence(&self, id: StepId) -> u64 {
        self.kept.get(&id).map_or(0, |kept| kept.sequence)
    }

    /// The step because of which nothing is done for an entity.
    fn closing(&self, namespace_id: NamespaceId, slot: impl FnOnce() -> u16) -> Option<&StepRecord> {
        if self.moves.is_empty() {
            return None;
        }
        self.moves.last_with(namespace_id, slot()).filter(|record| !record.state.is_open())
    }

    /// Where things of an entity are set aside whose slot may open again.
    fn aside(&mut self, namespace_id: NamespaceId, slot: impl FnOnce() -> u16) -> Aside<'_> {
        let Some(record) = self.closing(namespace_id, slot) else { return Aside::Open };
        let (id, state) = (record.step.id, record.state);
        match state {
            StepState::Frozen | StepState::Importing { .. } => Aside::Kept(self.kept.entry(id).or_default()),
            StepState::Gone { .. } | StepState::Refused { .. } | StepState::Owned => Aside::Nowhere,
        }
    }
}

enum Aside<'a> {
    /// The slot is served here.
    Open,
    Kept(&'a mut Kept),
    /// It is another partition's.
    Nowhere,
}

/// The reply, and the batch that has to be durable before it is given.
type Outcome = Result<(u64, StepReply), CallError>;

fn not_done(why: impl Into<String>) -> CallError {
    CallError::NotDone(why.into())
}

fn moves_away() -> CallError {
    not_done("its slot moves to another partition")
}

fn failed(step: &Step, why: &str) -> CallError {
    CallError::Failed(format!("step {} {why}", step.id))
}

impl Lead {
    /// Does something about a step.
    pub(crate) fn take_step(&mut self, job: StepJob) {
        let StepJob { command, reply } = job;
        let outcome = if self.stopping {
            Err(not_done(format!("partition {} is stopping", self.partition)))
        } else {
            self.step_command(command)
        };
        match outcome {
            Ok((sequence, answer)) => self.when_durable(sequence, Outgoing::Step(reply, Ok(answer))),
            Err(error) => self.answers.push(Outgoing::Step(reply, Err(error))),
        }
    }

    fn step_command(&mut self, command: StepCommand) -> Outcome {
        if self.outbox.reading || !self.journal.is_read() {
            return Err(not_done(format!("partition {} begins to be led", self.partition)));
        }
        match command {
            StepCommand::TellTime => Ok((0, StepReply::Time(self.clock.latest()))),
            StepCommand::TellSteps => {
                let sequence = self.moving.kept.values().map(|kept| kept.sequence).max().unwrap_or(0);
                Ok((sequence, StepReply::Steps(self.moving.moves.iter().cloned().collect())))
            }
            StepCommand::TellWhetherClean(step) => {
                let state = self.moving.moves.get(step.id).map(|record| record.state);
                let is_clean = state.is_none_or(|state| state.is_over() && !state.is_open());
                Ok((self.moving.sequence(step.id), StepReply::IsClean(is_clean)))
            }
            StepCommand::BeginImport(step, time) => self.begin_import(step, time),
            StepCommand::Freeze(step) => self.freeze(step),
            StepCommand::Export { step, with_journal } => self.export(&step, with_journal),
            StepCommand::Import(step, page) => self.import(&step, &page),
            StepCommand::Activate(step, time) => self.activate(&step, time),
            StepCommand::Refuse(step) => self.refuse(&step),
            StepCommand::Unfreeze(step) => self.unfreeze(&step),
            StepCommand::Release(step) => self.release(&step),
            StepCommand::Forget(step) => self.forget(&step),
        }
    }

    /// What holds of a step, and the batch with which it does.
    fn step_state(&self, step: &Step) -> (Option<StepState>, u64) {
        let state = self.moving.moves.get(step.id).map(|record| record.state);
        (state, self.moving.sequence(step.id))
    }

    /// Whether everything that this lead has done about a step is durable.
    fn is_settled(&self, step: &Step) -> bool {
        self.moving.sequence(step.id) <= self.batches.committed
    }

    fn put_step(&mut self, step: Step, state: StepState) -> u64 {
        let id = step.id;
        tracing::debug!(partition = %self.partition, step = %id, state = state.name(), "a step of a move");
        let changes = self.moving.moves.put(step, state);
        self.change_step(id, changes)
    }

    fn change_step(&mut self, id: StepId, changes: Vec<RowChange>) -> u64 {
        if !changes.is_empty() {
            self.batches.forming.count_command(self.instant);
            self.moving.kept.entry(id).or_default().sequence = self.batches.sequence;
        }
        changes.into_iter().for_each(|change| self.batches.forming.push(change));
        self.moving.sequence(id)
    }

    /// Refuses to begin a step that must not.
    fn check_new(&self, step: &Step) -> Result<(), CallError> {
        self.settings.format.allows(Gated::SlotMoves).map_err(|why| not_done(why.to_string()))?;
        if self.moving.moves.is_forgotten(step) {
            return Err(failed(step, "is over"));
        }
        match self.moving.moves.hinders(step) {
            Some(other) => {
                let (other, state) = (other.step.id, other.state.name());
                Err(not_done(format!("step {other}, {state} here, has slots of step {}", step.id)))
            }
            None => Ok(()),
        }
    }

    // ---- The source --------------------------------------------------------------------------------------------------------

    fn freeze(&mut self, step: Step) -> Outcome {
        match self.step_state(&step) {
            (Some(StepState::Frozen), sequence) => return Ok((sequence, StepReply::Time(self.clock.latest()))),
            (Some(_), _) => return Err(failed(&step, "is not to be frozen any more")),
            (None, _) => self.check_new(&step)?,
        }
        if step.slots.iter().any(|slot| self.moving.moves.is_closed(step.namespace_id, slot)) {
            return Err(failed(&step, "has slots that are not here"));
        }
        self.leave_memory(&step);
        let sequence = self.put_step(step, StepState::Frozen);
        Ok((sequence, StepReply::Time(self.clock.latest())))
    }

    /// The rows themselves are read beside the loop: they do not change.
    fn export(&mut self, step: &Step, with_journal: bool) -> Outcome {
        let (state, sequence) = self.step_state(step);
        if state != Some(StepState::Frozen) {
            return Err(failed(step, "is not frozen"));
        }
        if !self.is_settled(step) {
            return Err(not_done(format!("step {} is not frozen yet", step.id)));
        }
        let journal = if with_journal { self.journal.of_slots(&step.slots) } else { Bytes::new() };
        Ok((sequence, StepReply::Journal(journal)))
    }

    fn unfreeze(&mut self, step: &Step) -> Outcome {
        match self.step_state(step) {
            // Whatever was on its way is in the rows, so that they may be read again.
            (Some(StepState::Frozen), _) if self.is_settled(step) => {}
            (Some(StepState::Frozen), _) => return Err(not_done(format!("step {} is not frozen yet", step.id))),
            (Some(_), _) => return Err(failed(step, "is not to be unfrozen")),
            (None, _) => {
                let changes = self.moving.moves.forget(step);
                return Ok((self.change_step(step.id, changes), StepReply::Done));
            }
        }
        let changes = self.moving.moves.forget(step);
        let sequence = self.change_step(step.id, changes);
        if let Some(kept) = self.moving.kept.get_mut(&step.id) {
            let (wakes, parcels) = (std::mem::take(&mut kept.wakes), std::mem::take(&mut kept.parcels));
            self.restore(wakes, parcels);
        }
        self.when_durable(sequence, Outgoing::TasksCame);
        Ok((sequence, StepReply::Done))
    }

    fn release(&mut self, step: &Step) -> Outcome {
        match self.step_state(step) {
            (Some(StepState::Frozen), _) if self.is_settled(step) => {}
            (Some(StepState::Frozen), _) => return Err(not_done(format!("step {} is not frozen yet", step.id))),
            (Some(StepState::Gone { .. }), sequence) => return Ok((sequence, StepReply::Done)),
            (None, sequence) if self.moving.moves.is_forgotten(step) => return Ok((sequence, StepReply::Done)),
            (Some(_) | None, _) => return Err(failed(step, "is not frozen")),
        }
        self.moving.kept.remove(&step.id);
        Ok((self.put_step(step.clone(), StepState::Gone { is_clean: false }), StepReply::Done))
    }

    // ---- The target --------------------------------------------------------------------------------------------------------

    fn begin_import(&mut self, step: Step, time: Time) -> Outcome {
        match self.step_state(&step) {
            (Some(StepState::Importing { .. }), sequence) => return Ok((sequence, StepReply::Done)),
            (Some(_), _) => return Err(failed(&step, "is not to be imported any more")),
            (None, _) => self.check_new(&step)?,
        }
        // It goes beyond that by itself, and no faster than time passes: a timer must not fire early because slots have come.
        if time.since(self.clock.now()) > limits::MOVE_CLOCK_WAIT_MAX {
            let ahead = time.since(self.clock.now());
            return Err(not_done(format!("the clock of partition {} is {ahead:?} ahead of this one's", step.from)));
        }
        let is_here = |slot| self.moving.moves.state_of(step.namespace_id, slot) == Some(StepState::Owned);
        if step.slots.iter().any(is_here) {
            return Err(failed(&step, "has slots that are here already"));
        }
        self.leave_memory(&step);
        let id = step.id;
        let sequence = self.put_step(step, StepState::Importing { is_complete: false });
        self.moving.kept.entry(id).or_default().has_every_task = true;
        Ok((sequence, StepReply::Done))
    }

    fn import(&mut self, step: &Step, page: &Page) -> Outcome {
        let is_complete = match self.step_state(step) {
            (Some(StepState::Importing { is_complete }), _) => is_complete,
            (Some(StepState::Owned), sequence) => return Ok((sequence, StepReply::Done)),
            (Some(_) | None, _) => return Err(failed(step, "is not to be imported")),
        };
        let unreadable = |error: String| failed(step, &format!("has a page that cannot be taken in: {error}"));
        let rows = page.rows_of(step).map_err(unreadable)?;
        let messages = page.messages_of(step).map_err(unreadable)?;
        // Rows that are due later are read when they are due soon.
        let near = self.wakes.horizon.plus(2 * limits::WAKE_HORIZON);
        let (mut wakes, mut tasks) = (Vec::new(), Vec::new());
        for (key, value) in &rows {
            match key.first() {
                Some(2) => {
                    let key = WakeKey::decode(key).map_err(|error| unreadable(error.to_string()))?;
                    let entity =
                        EntityRef::decode(key.place.kind().into(), key.namespace, key.id).map_err(unreadable)?;
                    let wake = Wake { time: Time(key.fire_time_ns), entity, run_id: RunId(key.run_id) };
                    wakes.extend(Some(wake).filter(|wake| wake.time <= near));
                }
                Some(3) => tasks.push((key.clone(), rows::task(key, value).map_err(unreadable)?)),
                _ => {}
            }
        }
        self.journal.take_in(page.journal(), self.batches.sequence).map_err(unreadable)?;
        for (key, value) in rows {
            self.batches.forming.push(RowChange::Put { key, value });
        }
        let mut parcels = Vec::new();
        for (key, message, bytes) in messages {
            // Another namespace may have sent one from this slot at the same time.
            let key = self.outbox.free_key(key, step.namespace_id);
            self.batches.forming.push(RowChange::Put { key: key.encode(), value: message.to_row() });
            parcels.push((key, (Parcel { key, message: Arc::new(message) }, bytes)));
        }
        let kept = self.moving.kept.entry(step.id).or_default();
        kept.wakes.extend(wakes);
        kept.tasks.extend(tasks);
        kept.parcels.extend(parcels);
        let is_complete = is_complete || page.next().is_none();
        Ok((self.put_step(step.clone(), StepState::Importing { is_complete }), StepReply::Done))
    }

    fn activate(&mut self, step: &Step, time: Time) -> Outcome {
        match self.step_state(step) {
            (Some(StepState::Owned), sequence) => return Ok((sequence, StepReply::Decided(true))),
            (Some(StepState::Refused { .. }), sequence) => return Ok((sequence, StepReply::Decided(false))),
            (Some(StepState::Importing { is_complete: true }), _) if self.is_settled(step) => {}
            (Some(StepState::Importing { is_complete: true }), _) => {
                return Err(not_done(format!("step {} has rows on their way", step.id)));
            }
            (Some(_) | None, _) => return Err(failed(step, "has not had all of its rows")),
        }
        if self.clock.now() <= time {
            return Err(not_done(format!("the clock of partition {} is ahead of this one's", step.from)));
        }
        let kept = self.moving.kept.remove(&step.id).unwrap_or_default();
        let sequence = self.put_step(step.clone(), StepState::Owned);
        self.restore(kept.wakes, kept.parcels);
        match self.settings.namespaces.by_id(step.namespace_id).filter(|_| kept.has_every_task) {
            Some(namespace) => {
                for (entity, task) in kept.tasks.into_values() {
                    let address = entity.into_address(Arc::clone(&namespace));
                    self.when_durable(sequence, Outgoing::Task(address, task));
                }
            }
            None => self.when_durable(sequence, Outgoing::TasksCame),
        }
        Ok((sequence, StepReply::Decided(true)))
    }

    fn refuse(&mut self, step: &Step) -> Outcome {
        let is_clean = match self.step_state(step) {
            (Some(StepState::Owned), sequence) => return Ok((sequence, StepReply::Decided(true))),
            (Some(StepState::Refused { .. }), sequence) => return Ok((sequence, StepReply::Decided(false))),
            (Some(StepState::Importing { .. }), _) => false,
            // It was refused and that is over: whoever has flipped the metadata asks this no more.
            (None, sequence) if self.moving.moves.is_forgotten(step) => {
                return Ok((sequence, StepReply::Decided(false)));
            }
            (None, _) => true,
            (Some(_), _) => return Err(failed(step, "is not to be refused")),
        };
        self.moving.kept.remove(&step.id);
        Ok((self.put_step(step.clone(), StepState::Refused { is_clean }), StepReply::Decided(false)))
    }

    // ---- Both --------------------------------------------------------------------------------------------------------------

    fn forget(&mut self, step: &Step) -> Outcome {
        if let (Some(state), _) = self.step_state(step)
            && !state.is_over()
        {
            return Err(not_done(format!("step {} is {} here, and not over", step.id, state.name())));
        }
        let changes = self.moving.moves.forget(step);
        let sequence = self.change_step(step.id, changes);
        Ok((sequence, StepReply::Done))
    }

    /// Why nothing is done for an entity here, if that is so.
    pub(super) fn is_closed(&self, key: &EntityRef) -> bool {
        self.moving.closing(key.namespace_id, || slot_of(key.namespace_id, &key.id)).is_some()
    }

    /// Refuses a job for a slot that moves. A task that is to be started is offered again, and started wherever its slot is then.
    pub(super) fn turn_away(job: Job) {
        job.refuse(&moves_away());
    }

    /// Sets a wake aside whose entity is closed. Gives it back, if it is not.
    pub(super) fn set_wake_aside(&mut self, wake: Wake) -> Option<Wake> {
        let (namespace_id, id) = (wake.entity.namespace_id, Arc::clone(&wake.entity.id));
        match self.moving.aside(namespace_id, || slot_of(namespace_id, &id)) {
            Aside::Open => return Some(wake),
            Aside::Kept(kept) => drop(kept.wakes.insert(wake)),
            Aside::Nowhere => {}
        }
        None
    }

    /// The same with messages that earlier leads have left.
    pub(super) fn set_parcels_aside(&mut self, parcels: &mut Vec<(Parcel, usize)>) {
        if self.moving.moves.is_empty() {
            return;
        }
        for (parcel, bytes) in std::mem::take(parcels) {
            match self.moving.aside(parcel.message.namespace_id, || parcel.key.slot) {
                Aside::Open => parcels.push((parcel, bytes)),
                Aside::Kept(kept) => drop(kept.parcels.insert(parcel.key, (parcel, bytes))),
                Aside::Nowhere => {}
            }
        }
    }

    fn restore(&mut self, wakes: BTreeSet<Wake>, parcels: BTreeMap<OutboxKey, (Parcel, usize)>) {
        wakes.into_iter().for_each(|wake| self.wakes.push(wake));
        self.outbox.add_page(parcels.into_values().collect());
    }

    /// What only memory knows of a step's entities goes, and whoever waits for them hears that, as at the end of a lead.
    fn leave_memory(&mut self, step: &Step) {
        let has = |key: &EntityRef| {
            key.namespace_id == step.namespace_id && step.slots.contains(slot_of(key.namespace_id, &key.id))
        };
        // A look at what was due that has not come to anything is taken again, should the slots stay.
        let (now, mut wakes) = (self.clock.now(), Vec::new());
        for entry in self.cache.take_out(has) {
            let runs = entry.workflow.iter().flat_map(|workflow| workflow.runs.values());
            for query in runs.flat_map(|run| &run.queries) {
                let answer = Outgoing::QueryAnswer { query_id: query.query_id, answer: Ok(None) };
                self.actions.push(Action::Withhold(answer, moves_away()));
            }
            for job in entry.waiting {
                if let (Work::Command { reply: None, .. }, Some(run_id)) = (&job.work, job.run_id) {
                    wakes.push(Wake { time: now, entity: job.entity(), run_id });
                }
                Lead::turn_away(job);
            }
        }
        let actions = &mut self.actions;
        self.watchers.retain(|(key, _), watchers| {
            let stays = !has(key);
            if !stays {
                let replies = watchers.drain(..).map(|watcher| watcher.into_reply());
                actions.extend(replies.map(|reply| Action::Release(Outgoing::View(reply, Err(moves_away())))));
            }
            stays
        });
        // Their channels close, and they ask again.
        self.followers.retain(|(key, _), _| !has(key));
        if let Some(standings) = &mut self.standings {
            standings.forget(has);
        }
        self.actions
            .push(Action::Release(Outgoing::Left { namespace_id: step.namespace_id, slots: step.slots.clone() }));
        let left = self.outbox.take_out(|key, message| step.has(message.namespace_id, key.slot));
        let kept = self.moving.kept.entry(step.id).or_default();
        kept.parcels.extend(left.into_iter().map(|(parcel, bytes)| (parcel.key, (parcel, bytes))));
        kept.wakes.extend(wakes);
    }

    /// Deletes rows of slots that are another partition's, a few with each batch.
    pub(super) fn clean(&mut self) {
        if self.moving.moves.is_empty() || !self.accepts() {
            return;
        }
        let Some(record) = self.moving.moves.iter().find(|record| record.state.is_to_be_cleaned()) else { return };
        let is_part = matches!(record.state, StepState::Refused { .. });
        let now = self.clock.now();
        let kept = self.moving.kept.entry(record.step.id).or_default();
        if kept.is_reading || kept.sequence > self.batches.committed || kept.clean_at > now {
            return;
        }
        kept.is_reading = true;
        let after = kept.cleaned.clone();
        self.actions.push(Action::ReadDeletions { step: record.step.clone(), after, is_part });
    }

    /// Takes in which rows are to be deleted.
    pub(crate) fn add_deletions(&mut self, id: StepId, deletions: Result<Deletions, String>) {
        let now = self.clock.now();
        let Some(record) = self.moving.moves.get(id).filter(|record| record.state.is_to_be_cleaned()) else { return };
        let (step, state) = (record.step.clone(), record.state);
        let kept = self.moving.kept.entry(id).or_default();
        kept.is_reading = false;
        let deletions = match deletions {
            Ok(deletions) => deletions,
            Err(error) => {
                tracing::error!(partition = %self.partition, step = %id, error, "rows of slots that have moved cannot be deleted");
                kept.clean_at = now.plus(limits::MOVE_CLEAN_AGAIN_WAIT);
                return;
            }
        };
        kept.cleaned = deletions.next.clone();
        let _durable_later = self.change_step(id, deletions.changes);
        if deletions.next.is_none() {
            let state = match state {
                StepState::Refused { .. } => StepState::Refused { is_clean: true },
                _ => StepState::Gone { is_clean: true },
            };
            let _durable_later = self.put_step(step, state);
        }
    }
}
