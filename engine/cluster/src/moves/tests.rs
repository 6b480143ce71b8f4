//! The driver against partitions that keep count of who has which slot. It is stopped at every message of a move, before or behind what that does, with
//! every message twice and some late; another driver goes on each time.

use std::sync::atomic::{AtomicUsize, Ordering};

use everlog_meta::{
    ClusterFormat, DEFAULT_PLACEMENT, Founder, GroupRow, NewNamespace, Placement, Pool, Topology, TopologyChange,
};
use everlog_model::{FormatVersion, NodeId, SlotTable, StepId};
use everlog_raft::{GroupReplica, Node, NodeOptions};
use everlog_storage::keys::SLOTS;
use everlog_storage::twin::{CrashLog, CrashState};
use futures::FutureExt;
use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

use super::*;

const NAME: &str = "orders";

/// Slots whose rows a page has.
const PAGE_SLOTS: usize = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Frozen,
    Gone,
    Importing,
    Owned,
    Refused,
}

/// A partition of the twin.
#[derive(Default)]
struct Part {
    /// The slots that it has, frozen or not.
    has: SlotSet,
    /// What there is in them: a number for each that has anything.
    rows: BTreeMap<u16, u64>,
    steps: BTreeMap<StepId, (Step, State)>,
    forgotten: StepId,
}

impl Part {
    fn serves(&self, slot: u16) -> bool {
        let frozen = |(step, state): &(Step, State)| *state == State::Frozen && step.slots.contains(slot);
        self.has.contains(slot) && !self.steps.values().any(frozen)
    }

    fn done(
        &mut self,
        action: MoveAction,
        step: Step,
        request: &MoveStepRequest,
    ) -> Result<MoveStepResponse, CallError> {
        let nothing = MoveStepResponse::default();
        let wrong = |why: &str| Err(CallError::Failed(why.to_owned()));
        let state = self.steps.get(&step.id).map(|(_, state)| *state);
        if action == MoveAction::Plan {
            let mut rows = 0;
            let fits = |slot: &u16| {
                rows += u64::from(self.rows.contains_key(slot));
                rows <= 8
            };
            return Ok(MoveStepResponse {
                slots: step.slots.iter().take_while(fits).collect::<SlotSet>().encode().into(),
                ..nothing
            });
        }
        if step.id <= self.forgotten && action != MoveAction::Forget {
            return wrong("forgotten");
        }
        let id = step.id;
        let put = |part: &mut Part, state| drop(part.steps.insert(id, (step.clone(), state)));
        match (action, state) {
            (MoveAction::BeginImport, None | Some(State::Importing)) => put(self, State::Importing),
            (MoveAction::Freeze, None) if step.slots.difference(&self.has).is_empty() => put(self, State::Frozen),
            (MoveAction::Freeze, Some(State::Frozen)) => {}
            (MoveAction::Export, Some(State::Frozen)) => {
                let after = request.after.first_chunk().map(|slot| u16::from_be_bytes(*slot));
                let left = step.slots.iter().filter(|slot| after.is_none_or(|after| *slot > after));
                let rows = left.filter_map(|slot| Some((slot, *self.rows.get(&slot)?)));
                let rows: Vec<_> = rows.take(PAGE_SLOTS + 1).collect();
                let page: Vec<u8> = rows
                    .iter()
                    .take(PAGE_SLOTS)
                    .flat_map(|(slot, value)| [&slot.to_be_bytes()[..], &value.to_be_bytes()[..]].concat())
                    .collect();
                let next = rows.get(PAGE_SLOTS).map(|_| rows[PAGE_SLOTS - 1].0.to_be_bytes().to_vec());
                return Ok(MoveStepResponse { page: page.into(), next: next.unwrap_or_default().into(), ..nothing });
            }
            (MoveAction::Import, Some(State::Importing)) => {
                for row in request.page.chunks(10) {
                    let (slot, value) = row.split_at(2);
                    let slot = u16::from_be_bytes(slot.try_into().unwrap());
                    self.rows.insert(slot, u64::from_be_bytes(value.try_into().unwrap()));
                }
            }
            (MoveAction::Activate, Some(State::Importing)) => {
                self.has = self.has.union(&step.slots);
                put(self, State::Owned);
                return Ok(MoveStepResponse { is_owned: true, ..nothing });
            }
            (MoveAction::Refuse, None | Some(State::Importing)) => {
                self.rows.retain(|slot, _| !step.slots.contains(*slot));
                put(self, State::Refused);
            }
            (MoveAction::Activate | MoveAction::Refuse, Some(State::Owned)) => {
                return Ok(MoveStepResponse { is_owned: true, ..nothing });
            }
            (MoveAction::Activate | MoveAction::Refuse, Some(State::Refused)) => {}
            (MoveAction::Unfreeze, None | Some(State::Frozen)) => drop(self.steps.remove(&id)),
            (MoveAction::Release, Some(State::Frozen)) => {
                self.has = self.has.difference(&step.slots);
                self.rows.retain(|slot, _| !step.slots.contains(*slot));
                put(self, State::Gone);
            }
            (MoveAction::Release, Some(State::Gone)) => {}
            (MoveAction::IsReleased, Some(State::Gone | State::Refused)) => {
                return Ok(MoveStepResponse { is_released: true, ..nothing });
            }
            (MoveAction::Forget, Some(State::Frozen | State::Importing)) => return wrong("it is not over"),
            (MoveAction::Forget, _) => {
                self.steps.remove(&id);
                self.forgotten = self.forgotten.max(id);
            }
            (action, state) => return wrong(&format!("{action:?} of step {id} that is {state:?}")),
        }
        Ok(nothing)
    }
}

/// Where a driver stops.
#[derive(Clone, Copy, Debug, Default)]
struct Stop {
    /// At which message; never, if none.
    at: Option<usize>,
    /// Whether what the message is about is done.
    is_done: bool,
}

struct Twin {
    parts: Mutex<BTreeMap<GroupId, Part>>,
    asked: AtomicUsize,
    stop: Mutex<Stop>,
    stopped: Notify,
    late: Mutex<Vec<MoveStepRequest>>,
    /// Fails the first so many pages that come in.
    bad_imports: AtomicUsize,
    namespaces: Arc<Namespaces>,
}

impl Twin {
    fn done(&self, request: &MoveStepRequest) -> Result<MoveStepResponse, CallError> {
        let namespace_id = NamespaceId(request.namespace_id[..].try_into().unwrap());
        let slots = SlotSet::decode(&request.slots).unwrap();
        let (id, from, to) = (StepId(request.step_id), GroupId(request.from), GroupId(request.to));
        let step = Step { id, namespace_id, slots, from, to };
        if request.action() != MoveAction::Plan && !self.namespaces.knows_step(namespace_id, id) {
            return Err(CallError::Failed("it is over".to_owned()));
        }
        let slots = step.slots.clone();
        let mut parts = self.parts.lock();
        let answer = parts.get_mut(&GroupId(request.partition)).unwrap().done(request.action(), step, request);
        for slot in slots.iter().step_by(5) {
            let serving = parts.values().filter(|part| part.serves(slot)).count();
            assert!(serving <= 1, "slot {slot} is served by {serving} after {request:?}");
        }
        answer
    }
}

impl StepPartitions for Twin {
    fn ask(&self, request: MoveStepRequest) -> BoxFuture<'_, Result<MoveStepResponse, CallError>> {
        async move {
            let number = self.asked.fetch_add(1, Ordering::Relaxed);
            let stop = *self.stop.lock();
            if request.action() == MoveAction::Import
                && self
                    .bad_imports
                    .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
                    .is_ok()
            {
                return Err(CallError::Failed("no".to_owned()));
            }
            if stop.at == Some(number) {
                if stop.is_done {
                    let _ = self.done(&request);
                }
                self.late.lock().push(request);
                self.stopped.notify_one();
                return std::future::pending().await;
            }
            // Twice: what the second one is told holds as well.
            let first = self.done(&request);
            let second = self.done(&request);
            assert_eq!(first.is_ok(), second.is_ok(), "{request:?}: {first:?}, {second:?}");
            second
        }
        .boxed()
    }

    fn have_all_seen(&self) -> BoxFuture<'_, bool> {
        async { true }.boxed()
    }
}

/// A cluster with two partitions and a placement of its own that has eight, and a namespace with something in a few slots.
struct World {
    node: Node,
    namespaces: Arc<Namespaces>,
    id: NamespaceId,
    twin: Arc<Twin>,
    rows: BTreeMap<u16, u64>,
}

fn place(_: &Topology, pool: &Pool) -> Result<Vec<(GroupId, GroupRow)>, String> {
    let founder = Founder { node: NodeId(1), disk: 0 };
    Ok(pool.partitions().into_iter().map(|group| (group, GroupRow::new(vec![founder]))).collect())
}

impl World {
    async fn new() -> World {
        let (log, state) = (Arc::new(CrashLog::new(1)), Arc::new(CrashState::new(1)));
        let node = Node::new(NodeOptions::default(), log, state);
        let group = node.create_group(GroupReplica::founding(GroupId(0))).await.unwrap();
        let namespaces = Namespaces::open(Arc::new(RwLock::new(group)), None).await.unwrap();
        let format = TopologyChange::Format(ClusterFormat::of(FormatVersion::NEWEST));
        let slots = SlotTable::even(&[GroupId(1), GroupId(2)]).unwrap();
        namespaces.slots_or_set(slots, &[format]).await.unwrap();
        let eu = TopologyChange::Placement(Placement { name: "eu".to_owned(), ..Placement::default() });
        namespaces.change_topology(|_| Ok((vec![eu.clone()], ()))).await.unwrap();
        let record = namespaces.register(NewNamespace { name: NAME.to_owned(), ..NewNamespace::default() });
        let id = record.await.unwrap().namespace.id;
        let rows: BTreeMap<u16, u64> = (0..SLOTS).step_by(97).map(|slot| (slot, u64::from(slot) + 7)).collect();
        let part = |slots: std::ops::Range<u16>| Part {
            has: slots.clone().collect(),
            rows: rows.range(slots).map(|(slot, row)| (*slot, *row)).collect(),
            ..Part::default()
        };
        let mut parts = BTreeMap::from([(GroupId(1), part(0..2048)), (GroupId(2), part(2048..SLOTS))]);
        parts.extend((3..=10).map(|group| (GroupId(group), Part::default())));
        let twin = Arc::new(Twin {
            parts: Mutex::new(parts),
            asked: AtomicUsize::new(0),
            stop: Mutex::default(),
            stopped: Notify::new(),
            late: Mutex::default(),
            bad_imports: AtomicUsize::new(0),
            namespaces: Arc::clone(&namespaces),
        });
        World { node, namespaces, id, twin, rows }
    }

    async fn to(&self, placement: &str) -> Result<(), MetaError> {
        self.namespaces.update(NAME, |change| change.set_placement(placement, &place)).await.map(drop)
    }

    fn driver(&self) -> Arc<Moves> {
        Moves::new(Arc::clone(&self.namespaces), Arc::clone(&self.twin) as _)
    }

    /// Drives until the namespace does not move any more.
    async fn arrives(&self) {
        let arrived = async {
            loop {
                let moves = self.namespaces.moves();
                if moves.is_empty() {
                    return;
                }
                self.namespaces.until_other_moves(&moves).await;
            }
        };
        tokio::select! {
            () = self.driver().drive() => {}
            arrived = tokio::time::timeout(Duration::from_secs(60), arrived) => arrived.unwrap(),
        }
    }

    /// Each slot is where the metadata say, with what was in it, and nowhere else.
    fn check(&self) {
        use everlog_model::SlotSource;
        let parts = self.twin.parts.lock();
        for slot in 0..SLOTS {
            let owner = self.namespaces.partition_of(self.id, slot).unwrap();
            for (group, part) in parts.iter() {
                assert_eq!(part.serves(slot), *group == owner, "slot {slot} in {group}");
                let row = self.rows.get(&slot).filter(|_| *group == owner);
                assert_eq!(part.rows.get(&slot), row, "slot {slot} in {group}");
            }
        }
        let under_way = |(_, state): &(Step, State)| matches!(state, State::Frozen | State::Importing);
        assert!(!parts.values().any(|part| part.steps.values().any(under_way)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_moves_and_comes_back_whenever_its_driver_is_stopped() {
    let world = World::new().await;
    let mut placements = ["eu", DEFAULT_PLACEMENT].into_iter().cycle();
    let mut stops = 0;
    for number in 0.. {
        let mut was_stopped = false;
        for is_done in [false, true] {
            world.twin.asked.store(0, Ordering::Relaxed);
            // Most of the messages of a move are as those of its first steps.
            *world.twin.stop.lock() = Stop { at: Some(number), is_done };
            world.to(placements.next().unwrap()).await.unwrap();
            let stopped = tokio::select! {
                () = world.arrives() => false,
                () = world.twin.stopped.notified() => true,
            };
            was_stopped |= stopped;
            stops += usize::from(stopped);
            *world.twin.stop.lock() = Stop::default();
            world.arrives().await;
            world.check();
            // What the driver had said that was stopped arrives only now.
            for late in world.twin.late.lock().drain(..) {
                let _ = world.twin.done(&late);
            }
            world.check();
        }
        // Far more than the messages of one step of each kind.
        if !was_stopped || number == 26 {
            break;
        }
    }
    assert!(stops > 40, "{stops}");
    world.node.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_is_reversed_in_the_middle_and_is_not_diverted() {
    let world = World::new().await;
    let us = TopologyChange::Placement(Placement { name: "us".to_owned(), ..Placement::default() });
    world.namespaces.change_topology(|_| Ok((vec![us.clone()], ()))).await.unwrap();
    *world.twin.stop.lock() = Stop { at: Some(30), is_done: true };
    world.to("eu").await.unwrap();
    tokio::select! {
        () = world.arrives() => panic!("it was to be stopped"),
        () = world.twin.stopped.notified() => {}
    }
    let text = world.namespaces.move_text(world.id).unwrap();
    assert!(text.starts_with("to eu: ") && text != "to eu: 0 %", "{text}");
    let diverted = world.to("us").await.unwrap_err();
    assert!(matches!(&diverted, MetaError::Protected(why) if why.contains("moves to eu")), "{diverted:?}");
    let unknown = world.to("moon").await.unwrap_err();
    assert_eq!(unknown.to_string(), "there is no placement \"moon\"");
    *world.twin.stop.lock() = Stop::default();
    world.to(DEFAULT_PLACEMENT).await.unwrap();
    world.arrives().await;
    world.check();
    assert_eq!(world.namespaces.placement_in(world.namespaces.record_by_id(world.id).unwrap().pool), DEFAULT_PLACEMENT);
    world.node.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_fails_is_given_up_and_what_is_over_is_forgotten() {
    let world = World::new().await;
    world.twin.bad_imports.store(1, Ordering::Relaxed);
    world.to("eu").await.unwrap();
    world.arrives().await;
    world.check();
    let steps = |world: &World| world.twin.parts.lock().values().map(|part| part.steps.len()).sum::<usize>();
    let past = world.namespaces.past_steps();
    assert!(past.len() > 8, "{}", past.len());
    let refused = |part: &Part| part.steps.values().filter(|(_, state)| *state == State::Refused).count();
    assert_eq!(world.twin.parts.lock().values().map(refused).sum::<usize>(), 1);
    let driver = world.driver();
    driver.forget_old(now()).await.unwrap();
    assert_eq!((world.namespaces.past_steps().len(), steps(&world) > past.len()), (past.len(), true), "too early");
    let later = Time(now().0 + 120_000_000_000);
    driver.forget_old(later).await.unwrap();
    assert_eq!((world.namespaces.past_steps().len(), steps(&world)), (0, 0));
    world.check();
    world.node.shutdown().await.unwrap();
}
