//! Slots that move from partition to partition, and whoever drives that: it is killed at any point, and knows then what the cluster's metadata
//! say and nothing else. Orders are late, doubled and lost, and so are their answers.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use everlog_kernel::{EntityKind, NamespaceId, RunId, Time};
use everlog_model::{CallError, EntityRef, SlotSet, Step, StepId, slot_of};
use everlog_storage::keys::{self, OutboxKey, WakeKey};
use everlog_storage::state::Direction;
use tokio::sync::oneshot;

use super::Sabotage;
use super::clients::{WORKFLOWS, prefix_of, workflow_id};
use super::world::{Event, TwinRows, World};
use crate::lead::moves::{StepCommand, StepJob, StepReply};
use crate::load::Rows;
use crate::moving::{self, Cursor, Page};

/// How long the driver waits for an answer until it asks again.
const PATIENCE: Duration = Duration::from_millis(400);

/// How often it asks in vain until it gives the step up, as long as it may.
const TRIES: u32 = 8;

/// What happens to the driver.
pub(super) enum MoveEvent {
    /// It looks what there is to do.
    Look { life: u64 },
    /// An order arrives.
    Order { partition: usize, job: Box<StepJob> },
    /// It is killed, and another one begins.
    Die,
}

/// How far the driver is with the step that is under way. In its memory, and in nobody else's.
#[derive(Clone, Debug, PartialEq)]
enum Stage {
    Plan,
    Begin,
    Freeze,
    Export(Option<Cursor>),
    Import(Page),
    Activate,
    Flip,
    Release,
    AwaitRelease,
    ForgetTarget,
    ForgetSource,
    Refuse,
    Unfreeze,
    AwaitRefused,
    ForgetRefused,
}

/// The metadata of moves, and the driver.
pub(super) struct Moving {
    // The metadata.
    /// Where each slot is that anything is in.
    homes: BTreeMap<u16, usize>,
    steps: u64,
    /// The step that is under way, and whether its slots are the target's already.
    step: Option<Step>,
    is_flipped: bool,
    /// Whether everybody has heard of that; only then partitions are told to forget the step.
    is_known: bool,

    // The driver.
    life: u64,
    stage: Stage,
    planned_at: Time,
    frozen_at: Time,
    tries: u32,
    waiting: Option<(u64, oneshot::Receiver<Result<StepReply, CallError>>)>,
    /// Pages that were read before the step was frozen, by a faulty driver.
    early: Vec<Page>,
    pub(super) moved: u64,
}

impl Moving {
    pub(super) fn new(namespace_id: NamespaceId, partitions: usize) -> Moving {
        let mut homes = BTreeMap::new();
        for partition in 0..partitions {
            for id in ids(partition) {
                let before = homes.insert(slot_of(namespace_id, &id), partition);
                assert_eq!(before, None, "each id has a slot of its own");
            }
        }
        Moving {
            homes,
            steps: 0,
            step: None,
            is_flipped: false,
            is_known: false,
            life: 0,
            stage: Stage::Plan,
            planned_at: Time(0),
            frozen_at: Time(0),
            tries: 0,
            waiting: None,
            early: Vec::new(),
            moved: 0,
        }
    }

    /// Whether no step is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.step.is_none()
    }
}

/// The ids of everything that begins in a partition.
fn ids(partition: usize) -> impl Iterator<Item = String> {
    (0..WORKFLOWS).map(move |number| workflow_id(partition, number)).chain([format!("{partition}-schedule")])
}

fn partition_of(group: everlog_storage::GroupId) -> usize {
    group.0 as usize - 1
}

impl World {
    /// Where an entity is, by the metadata. Somebody may not have heard yet of slots that have just moved.
    pub(super) fn home_of(&mut self, id: &str) -> usize {
        let slot = slot_of(self.namespace.id, id);
        let home = self.moving.homes.get(&slot).copied().unwrap_or_else(|| prefix_of(id));
        let is_new = self.moving.is_flipped && !self.moving.is_known;
        match &self.moving.step {
            Some(step) if is_new && step.slots.contains(slot) && self.random.percent(20) => partition_of(step.from),
            _ => home,
        }
    }

    /// Where an entity is.
    pub(super) fn true_home_of(&self, id: &str) -> usize {
        let slot = slot_of(self.namespace.id, id);
        self.moving.homes.get(&slot).copied().unwrap_or_else(|| prefix_of(id))
    }

    pub(super) fn begin_to_move(&mut self) {
        self.look_soon(Duration::from_millis(200));
        let delay = self.delay(Duration::from_secs(2));
        self.after(delay, Event::Move(MoveEvent::Die));
    }

    pub(super) fn move_event(&mut self, event: MoveEvent) {
        match event {
            MoveEvent::Look { life } if life == self.moving.life => self.drive(),
            MoveEvent::Look { .. } => {}
            MoveEvent::Order { partition, job } => {
                let log = &self.partitions[partition];
                if log.leading.is_some() && !log.jobs.is_empty() {
                    // What has come before it is taken first.
                    return self.after(Duration::from_micros(100), Event::Move(MoveEvent::Order { partition, job }));
                }
                match &mut self.partitions[partition].leading {
                    Some(leading) => leading.lead.take_step(*job),
                    None => job.refuse(&CallError::NotDone("it is not led".to_owned())),
                }
                self.turn_soon(partition, Duration::ZERO);
            }
            MoveEvent::Die => {
                if self.faults {
                    let delay = self.delay(Duration::from_secs(2));
                    self.after(delay, Event::Move(MoveEvent::Die));
                    self.revive();
                }
            }
        }
    }

    /// Another driver begins. It goes on, or gives the step up; both are safe, whatever the one before has done.
    fn revive(&mut self) {
        let gives_up = self.random.percent(50);
        let moving = &mut self.moving;
        moving.life += 1;
        moving.waiting = None;
        moving.tries = 0;
        moving.early.clear();
        moving.stage = match (&moving.step, moving.is_flipped) {
            (None, _) => Stage::Plan,
            (Some(_), true) => Stage::Release,
            (Some(_), false) if gives_up => Stage::Refuse,
            (Some(_), false) => Stage::Begin,
        };
        self.look_soon(Duration::from_millis(1));
    }

    fn look_soon(&mut self, longest: Duration) {
        let (delay, life) = (self.delay(longest), self.moving.life);
        self.after(delay, Event::Move(MoveEvent::Look { life }));
    }

    /// Takes the answer to the last order, or gives an order.
    fn drive(&mut self) {
        let Some((asked_at, waiting)) = &mut self.moving.waiting else { return self.act() };
        match waiting.try_recv() {
            Err(oneshot::error::TryRecvError::Empty) => {
                let waits = self.now - *asked_at < u64::try_from(PATIENCE.as_nanos()).expect("a short time");
                if waits {
                    return self.look_soon(Duration::from_millis(4));
                }
                self.in_vain();
            }
            Err(oneshot::error::TryRecvError::Closed) => self.in_vain(),
            Ok(Ok(reply)) => {
                self.moving.waiting = None;
                self.moving.tries = 0;
                self.answered(reply);
            }
            Ok(Err(_)) => self.in_vain(),
        }
        self.look_soon(Duration::from_millis(3));
    }

    /// An order had no answer, or was not carried out.
    fn in_vain(&mut self) {
        let moving = &mut self.moving;
        moving.waiting = None;
        moving.tries += 1;
        let may_give_up = matches!(
            moving.stage,
            Stage::Begin | Stage::Freeze | Stage::Export(_) | Stage::Import(_) | Stage::Activate
        );
        if may_give_up && moving.tries > TRIES {
            moving.tries = 0;
            moving.early.clear();
            moving.stage = match self.sabotage {
                Some(Sabotage::UnfrozenUnrefused) => Stage::Unfreeze,
                _ => Stage::Refuse,
            };
        } else if matches!(moving.stage, Stage::Import(_)) && self.random.percent(20) {
            self.moving.stage = Stage::Export(None);
        }
    }

    fn order(&mut self, partition: usize, command: StepCommand) {
        let (reply, waiting) = oneshot::channel();
        let longest = if self.faults && self.random.percent(5) { 3000 } else { 1 };
        // Calls that look for the slots at their old place arrive before everybody has forgotten that they have moved.
        let least = if self.moving.stage == Stage::ForgetSource { Duration::from_millis(1) } else { Duration::ZERO };
        let delay = least + self.delay(Duration::from_millis(longest));
        let job = Box::new(StepJob { command, reply });
        self.after(delay, Event::Move(MoveEvent::Order { partition, job }));
        self.moving.waiting = Some((self.now, waiting));
    }

    /// Gives the order that comes next.
    fn act(&mut self) {
        let Some(step) = self.moving.step.clone() else { return self.begin_step() };
        let (source, target) = (partition_of(step.from), partition_of(step.to));
        match self.moving.stage.clone() {
            Stage::Plan => self.order(source, StepCommand::TellTime),
            Stage::Begin => self.order(target, StepCommand::BeginImport(step, self.moving.planned_at)),
            Stage::Freeze => self.order(source, StepCommand::Freeze(step)),
            Stage::Export(after) => {
                self.order(source, StepCommand::Export { step, with_journal: after.is_none() });
            }
            Stage::Import(page) => self.order(target, StepCommand::Import(step, Box::new(page))),
            Stage::Activate => self.order(target, StepCommand::Activate(step, self.moving.frozen_at)),
            Stage::Flip => {
                let homes = &mut self.moving.homes;
                homes.iter_mut().filter(|(slot, _)| step.slots.contains(**slot)).for_each(|(_, home)| *home = target);
                self.moving.is_flipped = true;
                self.moving.moved += 1;
                self.moving.stage = Stage::Release;
            }
            Stage::Release => self.order(source, StepCommand::Release(step)),
            Stage::AwaitRelease => self.order(source, StepCommand::TellWhetherClean(step)),
            Stage::ForgetTarget => self.order(target, StepCommand::Forget(step)),
            Stage::ForgetSource => self.order(source, StepCommand::Forget(step)),
            Stage::Refuse => self.order(target, StepCommand::Refuse(step)),
            Stage::Unfreeze => self.order(source, StepCommand::Unfreeze(step)),
            Stage::AwaitRefused => self.order(target, StepCommand::TellWhetherClean(step)),
            Stage::ForgetRefused => self.order(target, StepCommand::Forget(step)),
        }
        self.look_soon(Duration::from_millis(4));
    }

    /// Begins a step: some slots of a partition go to another one, with some that nothing is in.
    fn begin_step(&mut self) {
        if !self.faults {
            return;
        }
        let (from, other) = (self.random.below(self.partitions.len()), self.random.below(self.partitions.len() - 1));
        let to = if other < from { other } else { other + 1 };
        let there: Vec<u16> =
            self.moving.homes.iter().filter(|(_, home)| **home == from).map(|(slot, _)| *slot).collect();
        let mut slots: SlotSet = there.into_iter().filter(|_| self.random.percent(60)).collect();
        let unused = self.random.below(usize::from(keys::SLOTS)) as u16;
        if !self.moving.homes.contains_key(&unused) {
            slots.insert(unused);
        }
        self.moving.steps += 1;
        let (from, to) = (self.partitions[from].group, self.partitions[to].group);
        let id = StepId(self.moving.steps);
        self.moving.step = Some(Step { id, namespace_id: self.namespace.id, slots, from, to });
        (self.moving.is_flipped, self.moving.is_known) = (false, false);
        self.moving.stage = Stage::Plan;
        self.look_soon(Duration::from_millis(1));
    }

    fn answered(&mut self, reply: StepReply) {
        let Some(step) = self.moving.step.clone() else { return };
        let next = match (self.moving.stage.clone(), reply) {
            (Stage::Plan, StepReply::Time(time)) => {
                self.moving.planned_at = time;
                Stage::Begin
            }
            (Stage::Begin, StepReply::Done) => {
                if self.sabotage == Some(Sabotage::CopiedUnfrozen) {
                    self.copy_early(&step);
                }
                Stage::Freeze
            }
            (Stage::Freeze, StepReply::Time(time)) => {
                self.moving.frozen_at = time;
                match self.moving.early.is_empty() {
                    true => Stage::Export(None),
                    false => Stage::Import(self.moving.early.remove(0)),
                }
            }
            (Stage::Export(after), StepReply::Journal(journal)) => {
                let rows = TwinRows(&self.disk, step.from);
                let bytes_max = 1 + self.random.below(20_000);
                // The disk of a node that was killed has rows again when that leads.
                let Ok(mut page) = moving::export(&rows, &step, after.as_ref(), bytes_max) else {
                    return self.in_vain();
                };
                page.set_journal(journal);
                match self.sabotage {
                    Some(Sabotage::PagesForgotten) => page.end_here(),
                    Some(Sabotage::MessagesForgotten) => page.drop_messages(),
                    _ => {}
                }
                Stage::Import(page)
            }
            (Stage::Import(page), StepReply::Done) => match page.next() {
                _ if !self.moving.early.is_empty() => Stage::Import(self.moving.early.remove(0)),
                Some(next) => Stage::Export(Some(next)),
                None => Stage::Activate,
            },
            (Stage::Activate | Stage::Refuse, StepReply::Decided(true)) => Stage::Flip,
            (Stage::Activate | Stage::Refuse, StepReply::Decided(false)) => Stage::Unfreeze,
            (Stage::Release, StepReply::Done) => Stage::AwaitRelease,
            (Stage::AwaitRelease, StepReply::IsClean(true)) => {
                self.moving.is_known = true;
                Stage::ForgetTarget
            }
            (Stage::ForgetTarget, StepReply::Done) => Stage::ForgetSource,
            (Stage::Unfreeze, StepReply::Done) if self.sabotage == Some(Sabotage::UnfrozenUnrefused) => {
                self.moving.step = None;
                Stage::Plan
            }
            (Stage::Unfreeze, StepReply::Done) => Stage::AwaitRefused,
            (Stage::AwaitRefused, StepReply::IsClean(true)) => Stage::ForgetRefused,
            (Stage::ForgetSource | Stage::ForgetRefused, StepReply::Done) => {
                self.moving.step = None;
                Stage::Plan
            }
            (stage @ (Stage::AwaitRelease | Stage::AwaitRefused), StepReply::IsClean(false)) => stage,
            (stage, reply) => panic!("{reply:?} in {stage:?}"),
        };
        self.moving.stage = next;
    }

    /// Reads all pages while the source goes on.
    fn copy_early(&mut self, step: &Step) {
        let rows = TwinRows(&self.disk, step.from);
        let mut after = None;
        let mut pages = Vec::new();
        while let Ok(page) = moving::export(&rows, step, after.as_ref(), 20_000) {
            after = page.next();
            pages.push(page);
            if after.is_none() {
                break;
            }
        }
        self.moving.early = pages;
    }

    // ---- What must hold at the end ---------------------------------------------------------------------------------------------

    /// Everything is where the metadata say, and nowhere else; and what follows from the rows of entities is there, and no more.
    pub(super) fn check_moves(&self) {
        assert!(self.moving.is_idle(), "a step is under way");
        for (number, partition) in self.partitions.iter().enumerate() {
            let rows = TwinRows(&self.disk, partition.group);
            let scan = |range| rows.scan(range, Direction::Ascending, usize::MAX).expect("rows are readable");
            assert_eq!(scan(keys::partition_rows("move/")), [], "a step is not forgotten");
            let mut wanted = BTreeSet::new();
            let mut runs: BTreeSet<(EntityRef, RunId)> = BTreeSet::new();
            for (key, _) in scan(keys::slot_range(0..keys::SLOTS)) {
                let (place, namespace, id, run_id) = keys::decode_entity_row(&key).expect("a row of an entity");
                assert_eq!(self.true_home_of(&id), number, "{id} is in a partition that is not its own");
                let kind = EntityKind::from_byte(place.kind()).expect("a kind");
                if run_id != [0; 16] {
                    let entity = EntityRef { kind, namespace_id: NamespaceId(namespace), id: id.into() };
                    runs.insert((entity, RunId(run_id)));
                }
            }
            for (entity, run_id) in runs {
                let follow = moving::read_secondary_rows(&rows, &entity, run_id).expect("rows are there that follow");
                wanted.extend(follow.into_iter().map(|(key, _)| key));
            }
            let lists = [EntityKind::Workflow, EntityKind::Schedule];
            let listed = lists.map(|kind| everlog_model::rows::listed_under(self.namespace.id, kind));
            let listed = listed.map(|namespace| keys::visibility_range(&namespace.0));
            let ranges = [WakeKey::all(), keys::all_tasks()].into_iter().chain(listed);
            let found: BTreeSet<Bytes> = ranges.flat_map(scan).map(|(key, _)| key).collect();
            let more: Vec<_> = found.difference(&wanted).collect();
            let less: Vec<_> = wanted.difference(&found).collect();
            assert!(more.is_empty() && less.is_empty(), "rows that follow from none {more:?}, or are lacking {less:?}");
            assert_eq!(scan(OutboxKey::all()), [], "a message has not arrived");
        }
    }
}
