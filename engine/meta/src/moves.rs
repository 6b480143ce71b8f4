//! Namespaces that move from their pool of partitions to another one: rows say how far, and what is done next follows from them alone.
//!
//! ```text
//!   no row ──move_to──▶ move/<namespace> {other pool, slots that are there, step under way}
//!                          │  ▲
//!            begin_step ───┘  └── step_moved: its slots are in the other pool ── step_over: the partition that had them has nothing of them any more
//!                          │
//!                          └── all slots are there: the namespace is in that pool, the row is gone
//! ```
//!
//! A slot of such a namespace is in the other pool if the row says so, and otherwise in the one that the namespace's own row names. To have it come back is
//! to move the slots back that are there; that may be asked for at any time. A step of which nobody knows any more that its partitions have rows about
//! is a row `move-step/<id>`, until these rows are gone, too.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use everlog_kernel::{NamespaceId, Time};
use everlog_model::{Gated, Share, SlotSet, SlotTable, Step, StepId};
use everlog_storage::GroupId;
use everlog_storage::keys::{MetaKind, SLOTS, meta_row};
use everlog_storage::state::RowChange;
use prost::Message;

use super::change::{now, saved};
use super::pools::PoolId;
use super::record::NamespaceRecord;
use super::view::View;
use super::{MetaError, Namespaces};

/// What the clocks of two nodes may be apart.
const CLOCKS_APART_MAX: Duration = Duration::from_secs(10);

/// A namespace that moves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamespaceMove {
    /// The pool that it moves to, or comes back from; its record names the one that it was in when it began.
    pub other: PoolId,
    /// Whether it comes back.
    pub is_back: bool,
    /// The slots that are in the other pool.
    pub moved: SlotSet,
    /// The step under way.
    pub step: Option<MoveStep>,
}

/// A step of a move that is under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MoveStep {
    /// Which slots go from where to where.
    pub step: Step,
    /// Whether they come back from the other pool.
    pub is_back: bool,
    /// Whether they have arrived: routing says so, and the partition that had them is to forget them.
    pub has_moved: bool,
}

/// A step that is over, but for the rows that its partitions have about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PastStep {
    /// What it was about.
    pub step: Step,
    /// Since when.
    pub since: Time,
}

/// What is to move next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NextSlots {
    /// The partition that has them.
    pub from: GroupId,
    /// The one that is to have them.
    pub to: GroupId,
    /// All slots that are to go from one to the other.
    pub slots: SlotSet,
}

#[derive(Clone, PartialEq, Message)]
struct MoveMessage {
    #[prost(uint32, tag = "1")]
    other: u32,
    #[prost(bool, tag = "2")]
    is_back: bool,
    #[prost(bytes = "bytes", tag = "3")]
    moved: Bytes,
    #[prost(message, optional, tag = "4")]
    step: Option<StepMessage>,
}

#[derive(Clone, PartialEq, Message)]
struct StepMessage {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(bytes = "bytes", tag = "2")]
    slots: Bytes,
    #[prost(uint32, tag = "3")]
    from: u32,
    #[prost(uint32, tag = "4")]
    to: u32,
    #[prost(bool, tag = "5")]
    is_back: bool,
    #[prost(bool, tag = "6")]
    has_moved: bool,
}

#[derive(Clone, PartialEq, Message)]
struct PastStepMessage {
    #[prost(bytes = "bytes", tag = "1")]
    namespace_id: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    slots: Bytes,
    #[prost(uint32, tag = "3")]
    from: u32,
    #[prost(uint32, tag = "4")]
    to: u32,
    #[prost(sfixed64, tag = "5")]
    since_ns: i64,
}

#[derive(Clone, PartialEq, Message)]
struct LastStepMessage {
    #[prost(uint64, tag = "1")]
    id: u64,
}

const MOVE: &[u8] = b"move/";
const PAST_STEP: &[u8] = b"move-step/";
const LAST_STEP: &[u8] = b"move-steps";

/// What a row of moves is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MoveKey {
    Move(NamespaceId),
    PastStep(StepId),
    /// The greatest id of a step that was given out.
    LastStep,
}

impl MoveKey {
    /// What the row under `key` is about, if that is one of these rows.
    pub(super) fn of(key: &[u8]) -> Option<Result<MoveKey, MetaError>> {
        let corrupt = |_| MetaError::Corrupt(format!("key {key:?}"));
        let id = |prefix: &[u8]| key.strip_prefix(&*meta_row(MetaKind::Other, prefix));
        let of_namespace = id(MOVE).map(|id| id.try_into().map(|id| MoveKey::Move(NamespaceId(id))).map_err(corrupt));
        let past = || {
            let step = |id: &[u8]| id.try_into().map(|id| MoveKey::PastStep(StepId(u64::from_be_bytes(id))));
            id(PAST_STEP).map(|id| step(id).map_err(corrupt))
        };
        let last = || id(LAST_STEP).filter(|rest| rest.is_empty()).map(|_| Ok(MoveKey::LastStep));
        of_namespace.or_else(past).or_else(last)
    }

    fn row(self) -> Bytes {
        match self {
            MoveKey::Move(NamespaceId(id)) => meta_row(MetaKind::Other, &[MOVE, &id].concat()),
            MoveKey::PastStep(StepId(id)) => meta_row(MetaKind::Other, &[PAST_STEP, &id.to_be_bytes()].concat()),
            MoveKey::LastStep => meta_row(MetaKind::Other, LAST_STEP),
        }
    }
}

impl NamespaceMove {
    /// How many of a hundred slots are where they are to be.
    pub fn percent(&self) -> usize {
        let there = self.moved.len() * 100 / usize::from(SLOTS);
        if self.is_back { 100 - self.moved.len().saturating_mul(100).div_ceil(usize::from(SLOTS)) } else { there }
    }

    /// The pool that all of a namespace is to be in.
    pub fn target(&self, record: &NamespaceRecord) -> PoolId {
        if self.is_back { record.pool } else { self.other }
    }

    /// Whether all slots are where they are to be, and no step is under way.
    fn is_over(&self) -> bool {
        let is_there = if self.is_back { self.moved.is_empty() } else { self.moved == SlotSet::all() };
        is_there && self.step.is_none()
    }

    fn encode(&self) -> Bytes {
        let NamespaceMove { other, is_back, moved, step } = self;
        let step = step.as_ref().map(|MoveStep { step, is_back, has_moved }| StepMessage {
            id: step.id.0,
            slots: step.slots.encode().into(),
            from: step.from.0,
            to: step.to.0,
            is_back: *is_back,
            has_moved: *has_moved,
        });
        MoveMessage { other: other.0, is_back: *is_back, moved: moved.encode().into(), step }.encode_to_vec().into()
    }

    pub(super) fn decode(namespace_id: NamespaceId, value: &[u8]) -> Result<NamespaceMove, MetaError> {
        let corrupt = |why: &dyn std::fmt::Display| MetaError::Corrupt(format!("move of {namespace_id}: {why}"));
        let MoveMessage { other, is_back, moved, step } =
            MoveMessage::decode(value).map_err(|error| corrupt(&error))?;
        let slots = |bytes: &Bytes| SlotSet::decode(bytes).ok_or_else(|| corrupt(&"it does not say which slots"));
        let step = step.map(|message: StepMessage| {
            let StepMessage { id, slots: bytes, from, to, is_back, has_moved } = message;
            let (id, slots, from, to) = (StepId(id), slots(&bytes)?, GroupId(from), GroupId(to));
            Ok(MoveStep { step: Step { id, namespace_id, slots, from, to }, is_back, has_moved })
        });
        Ok(NamespaceMove { other: PoolId(other), is_back, moved: slots(&moved)?, step: step.transpose()? })
    }

    fn put(&self, namespace_id: NamespaceId) -> RowChange {
        RowChange::Put { key: MoveKey::Move(namespace_id).row(), value: self.encode() }
    }

    /// The row of the move of a namespace as it is from now on: none any more once all is where it is to be, and its record says so.
    fn settle(&self, record: &mut NamespaceRecord) -> RowChange {
        let namespace_id = record.namespace.id;
        if !self.is_over() {
            return self.put(namespace_id);
        }
        record.pool = self.target(record);
        record.moved = now();
        RowChange::Delete { key: MoveKey::Move(namespace_id).row() }
    }
}

impl PastStep {
    fn encode(&self) -> Bytes {
        let PastStep { step: Step { id: _, namespace_id, slots, from, to }, since } = self;
        let message = PastStepMessage {
            namespace_id: Bytes::copy_from_slice(&namespace_id.0),
            slots: slots.encode().into(),
            from: from.0,
            to: to.0,
            since_ns: since.0,
        };
        message.encode_to_vec().into()
    }

    pub(super) fn decode(id: StepId, value: &[u8]) -> Result<PastStep, MetaError> {
        let corrupt = |why: &dyn std::fmt::Display| MetaError::Corrupt(format!("step {id} of a move: {why}"));
        let message = PastStepMessage::decode(value).map_err(|error| corrupt(&error))?;
        let PastStepMessage { namespace_id, slots, from, to, since_ns } = message;
        let namespace_id = namespace_id[..].try_into().map_err(|_| corrupt(&"it names no namespace"))?;
        let slots = SlotSet::decode(&slots).ok_or_else(|| corrupt(&"it does not say which slots"))?;
        let step = Step { id, namespace_id: NamespaceId(namespace_id), slots, from: GroupId(from), to: GroupId(to) };
        Ok(PastStep { step, since: Time(since_ns) })
    }

    fn put(&self) -> RowChange {
        RowChange::Put { key: MoveKey::PastStep(self.step.id).row(), value: self.encode() }
    }
}

/// The greatest id of a step that was given out.
pub(super) fn decode_last_step(value: &[u8]) -> Result<StepId, MetaError> {
    let message = LastStepMessage::decode(value);
    message
        .map(|message| StepId(message.id))
        .map_err(|error| MetaError::Corrupt(format!("last step of a move: {error}")))
}

impl View {
    /// Takes in a row, or that it is gone.
    pub(super) fn put_move(&mut self, key: MoveKey, value: Option<&Bytes>) -> Result<(), MetaError> {
        match (key, value) {
            (MoveKey::Move(id), Some(value)) => {
                self.moves.insert(id, Arc::new(NamespaceMove::decode(id, value)?));
            }
            (MoveKey::Move(id), None) => drop(self.moves.remove(&id)),
            (MoveKey::PastStep(id), Some(value)) => {
                self.past_steps.insert(id, Arc::new(PastStep::decode(id, value)?));
            }
            (MoveKey::PastStep(id), None) => drop(self.past_steps.remove(&id)),
            (MoveKey::LastStep, value) => {
                self.last_step = value.map(|value| decode_last_step(value)).transpose()?.unwrap_or_default();
            }
        }
        Ok(())
    }

    /// Which partition of a pool holds which slot, if the pool is known.
    fn slots_in(&self, pool: PoolId) -> Option<&SlotTable> {
        match pool {
            PoolId::DEFAULT => self.slots.as_deref(),
            pool => self.topology.pools.get(&pool).map(|pool| &*pool.slots),
        }
    }

    /// The partition that holds a slot of a namespace, if the namespace and its pools are known.
    pub(super) fn partition_of(&self, namespace_id: NamespaceId, slot: u16) -> Option<GroupId> {
        let pool = self.by_id.get(&namespace_id)?.pool;
        let moving = self.moves.get(&namespace_id).filter(|moving| moving.moved.contains(slot));
        let slots = self.slots_in(moving.map_or(pool, |moving| moving.other))?;
        Some(slots.owner(slot).partition)
    }

    /// Every partition that may have something of a namespace, by id, and which slots of it each has while it moves; none if the namespace or one of
    /// its pools is not known.
    pub(super) fn shares_of(&self, namespace_id: NamespaceId) -> Vec<Share> {
        let Some(record) = self.by_id.get(&namespace_id) else { return Vec::new() };
        let Some(table) = self.slots_in(record.pool) else { return Vec::new() };
        let Some(moving) = self.moves.get(&namespace_id) else {
            return table.partitions().into_iter().map(|partition| Share { partition, slots: None }).collect();
        };
        let Some(other) = self.slots_in(moving.other) else { return Vec::new() };
        let here = shares(table, &SlotSet::all().difference(&moving.moved));
        let mut shares: Vec<_> = here.into_iter().chain(shares(other, &moving.moved)).collect();
        shares.sort_unstable_by_key(|share| share.partition);
        shares
    }

    /// What of a namespace is to move next; nothing if a step is under way, or all is where it is to be.
    fn next_slots(&self, namespace_id: NamespaceId) -> Option<NextSlots> {
        let moving = self.moves.get(&namespace_id).filter(|moving| moving.step.is_none())?;
        let (home, other) = (self.slots_in(self.by_id.get(&namespace_id)?.pool)?, self.slots_in(moving.other)?);
        let (left, from, to) = match moving.is_back {
            true => (moving.moved.clone(), other, home),
            false => (SlotSet::all().difference(&moving.moved), home, other),
        };
        let first = left.iter().next()?;
        let (from_group, to_group) = (from.owner(first).partition, to.owner(first).partition);
        let goes_with_it =
            |slot: &u16| from.owner(*slot).partition == from_group && to.owner(*slot).partition == to_group;
        Some(NextSlots { from: from_group, to: to_group, slots: left.iter().filter(goes_with_it).collect() })
    }

    /// The rows of a namespace whose move has come so far.
    fn move_rows(&self, namespace_id: NamespaceId, moving: &NamespaceMove) -> Vec<RowChange> {
        // Nothing moves of a namespace that is gone.
        let Some(before) = self.by_id.get(&namespace_id) else {
            return vec![RowChange::Delete { key: MoveKey::Move(namespace_id).row() }];
        };
        let mut record = NamespaceRecord::clone(before);
        let mut rows = vec![moving.settle(&mut record)];
        if record != **before {
            rows.extend(saved(record).0);
        }
        rows
    }

    /// Whether a namespace moves, or did until less than `within` before `now`.
    fn moves_within(&self, namespace_id: NamespaceId, within: Duration, now: Time) -> bool {
        let Some(record) = self.by_id.get(&namespace_id).filter(|_| !self.moves.contains_key(&namespace_id)) else {
            return true;
        };
        let within = i64::try_from(within.saturating_add(CLOCKS_APART_MAX).as_nanos()).unwrap_or(i64::MAX);
        record.moved > Time(0) && record.moved.0.saturating_add(within) >= now.0
    }

    /// The row that makes a namespace move to a pool, or come back from where it was to move; none if it does so already, or is there. If there is
    /// nothing left to move, its record says where it is.
    pub(super) fn move_to(&self, record: &mut NamespaceRecord, pool: PoolId) -> Result<Vec<RowChange>, MetaError> {
        let id = record.namespace.id;
        let moving = self.moves.get(&id);
        let next = match moving {
            None if pool == record.pool => return Ok(Vec::new()),
            None => {
                let allowed = self.topology.format.version.allows(Gated::SlotMoves);
                allowed.map_err(|why| MetaError::Protected(why.to_string().into()))?;
                NamespaceMove { other: pool, is_back: false, moved: SlotSet::new(), step: None }
            }
            Some(moving) if pool == record.pool => NamespaceMove { is_back: true, ..NamespaceMove::clone(moving) },
            Some(moving) if pool == moving.other => NamespaceMove { is_back: false, ..NamespaceMove::clone(moving) },
            Some(moving) => {
                let why = format!(
                    "namespace {} moves {} already: wait until it is there, or have it go back to {:?} first",
                    record.name(),
                    self.move_text(record, moving),
                    self.placement_in(if moving.is_back { moving.other } else { record.pool }),
                );
                return Err(MetaError::Protected(why.into()));
            }
        };
        if moving.is_some_and(|moving| **moving == next) {
            return Ok(Vec::new());
        }
        Ok(vec![next.settle(record)])
    }

    /// Where a namespace moves and how far it is: `to eu: 37 %`.
    fn move_text(&self, record: &NamespaceRecord, moving: &NamespaceMove) -> String {
        format!("to {}: {} %", self.placement_in(moving.target(record)), moving.percent())
    }

    fn placement_in(&self, pool: PoolId) -> String {
        self.topology.placement_in(pool).to_owned()
    }
}

/// What each partition of a table has of these slots.
fn shares(table: &SlotTable, slots: &SlotSet) -> Vec<Share> {
    let of = |partition: GroupId| slots.iter().filter(|slot| table.owner(*slot).partition == partition).collect();
    table.partitions().into_iter().map(|partition| Share { partition, slots: Some(of(partition)) }).collect()
}

impl Namespaces {
    /// The namespaces that move, and how far they are.
    pub fn moves(&self) -> Vec<(NamespaceId, Arc<NamespaceMove>)> {
        let view = self.view.borrow();
        view.moves.iter().map(|(id, moving)| (*id, Arc::clone(moving))).collect()
    }

    /// How far a namespace has moved, if it does.
    pub fn move_of(&self, namespace_id: NamespaceId) -> Option<Arc<NamespaceMove>> {
        self.view.borrow().moves.get(&namespace_id).cloned()
    }

    /// Whether a namespace moves, or did in the last time of that length: a replica that is as old as that may not have yet what has come to it, though
    /// the metadata say that it is there.
    pub fn moves_within(&self, namespace_id: NamespaceId, within: Duration) -> bool {
        self.view.borrow().moves_within(namespace_id, within, now())
    }

    /// Where a namespace moves and how far it is, for people: `to eu: 37 %`.
    pub fn move_text(&self, namespace_id: NamespaceId) -> Option<String> {
        let view = self.view.borrow();
        let (record, moving) = (view.by_id.get(&namespace_id)?, view.moves.get(&namespace_id)?);
        Some(view.move_text(record, moving))
    }

    /// The steps that are over, but for what their partitions have about them.
    pub fn past_steps(&self) -> Vec<Arc<PastStep>> {
        self.view.borrow().past_steps.values().cloned().collect()
    }

    /// Whether a step is under way, or was and is not forgotten.
    pub fn knows_step(&self, namespace_id: NamespaceId, id: StepId) -> bool {
        let view = self.view.borrow();
        let under_way = view.moves.get(&namespace_id).and_then(|moving| moving.step.as_ref());
        under_way.is_some_and(|step| step.step.id == id) || view.past_steps.contains_key(&id)
    }

    /// What of a namespace is to move next; nothing if a step is under way, or all is where it is to be.
    pub fn next_slots(&self, namespace_id: NamespaceId) -> Option<NextSlots> {
        self.view.borrow().next_slots(namespace_id)
    }

    /// Waits until other namespaces move than these, or they have come farther.
    pub async fn until_other_moves(&self, known: &[(NamespaceId, Arc<NamespaceMove>)]) {
        let mut view = self.view.clone();
        let is_other = |view: &Arc<View>| {
            view.moves.len() != known.len() || known.iter().any(|(id, moving)| view.moves.get(id) != Some(moving))
        };
        // An error means that the server stops.
        let _ = view.wait_for(is_other).await;
    }

    /// Begins a step, if `slots` are still to go from one partition to the other and no other step of the namespace is under way.
    ///
    /// # Errors
    ///
    /// See [`MetaError`].
    pub async fn begin_step(&self, namespace_id: NamespaceId, next: &NextSlots) -> Result<Option<Step>, MetaError> {
        self.change(|view| {
            let to_go = view.next_slots(namespace_id).filter(|to_go| {
                (to_go.from, to_go.to) == (next.from, next.to)
                    && next.slots.difference(&to_go.slots).is_empty()
                    && !next.slots.is_empty()
            });
            let moving = view.moves.get(&namespace_id).filter(|_| to_go.is_some());
            let Some(moving) = moving else { return Ok((Vec::new(), None)) };
            let id = StepId(view.last_step.0 + 1);
            let step = Step { id, namespace_id, slots: next.slots.clone(), from: next.from, to: next.to };
            let under_way = MoveStep { step: step.clone(), is_back: moving.is_back, has_moved: false };
            let moving = NamespaceMove { step: Some(under_way), ..NamespaceMove::clone(moving) };
            let counted = LastStepMessage { id: id.0 }.encode_to_vec().into();
            let counted = RowChange::Put { key: MoveKey::LastStep.row(), value: counted };
            Ok((vec![moving.put(namespace_id), counted], Some(step)))
        })
        .await
    }

    /// Notes that the slots of a step are where they were to go: from now on they are looked for there.
    ///
    /// # Errors
    ///
    /// See [`MetaError`].
    pub async fn step_moved(&self, namespace_id: NamespaceId, id: StepId) -> Result<(), MetaError> {
        self.change(|view| {
            let moving = view.moves.get(&namespace_id);
            let step = moving.and_then(|moving| moving.step.as_ref()).filter(|step| step.step.id == id);
            let Some((moving, step)) = moving.zip(step).filter(|(_, step)| !step.has_moved) else {
                return Ok((Vec::new(), ()));
            };
            let moved = match step.is_back {
                true => moving.moved.difference(&step.step.slots),
                false => moving.moved.union(&step.step.slots),
            };
            let step = Some(MoveStep { has_moved: true, ..step.clone() });
            let moving = NamespaceMove { moved, step, ..NamespaceMove::clone(moving) };
            Ok((vec![moving.put(namespace_id)], ()))
        })
        .await
    }

    /// Notes that a step is over: its slots have moved and the partition that had them has nothing of them any more, or it was given up and that
    /// partition has them as before. A namespace whose last step it was is in its pool from then on.
    ///
    /// # Errors
    ///
    /// See [`MetaError`].
    pub async fn step_over(&self, namespace_id: NamespaceId, id: StepId) -> Result<(), MetaError> {
        self.change(|view| {
            let moving = view.moves.get(&namespace_id);
            let step = moving.and_then(|moving| moving.step.as_ref()).filter(|step| step.step.id == id);
            let Some((moving, step)) = moving.zip(step) else { return Ok((Vec::new(), ())) };
            let past = PastStep { step: step.step.clone(), since: now() };
            let moving = NamespaceMove { step: None, ..NamespaceMove::clone(moving) };
            let mut rows = view.move_rows(namespace_id, &moving);
            rows.push(past.put());
            Ok((rows, ()))
        })
        .await
    }

    /// Notes that the partitions of these steps have no rows about them any more.
    ///
    /// # Errors
    ///
    /// See [`MetaError`].
    pub async fn forget_steps(&self, ids: &BTreeSet<StepId>) -> Result<(), MetaError> {
        self.change(|view| {
            let known = view.past_steps.keys().filter(|id| ids.contains(id));
            let gone = |id: &StepId| RowChange::Delete { key: MoveKey::PastStep(*id).row() };
            Ok((known.map(gone).collect(), ()))
        })
        .await
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use everlog_model::FormatVersion;

    use super::super::topology::Topology;
    use super::super::{ClusterFormat, Placement, Pool, Sharing};
    use super::*;

    const ID: NamespaceId = NamespaceId([7; 16]);
    const EU: PoolId = PoolId(1);
    const US: PoolId = PoolId(2);

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn table(groups: impl IntoIterator<Item = u32>) -> Arc<SlotTable> {
        Arc::new(SlotTable::even(&groups.into_iter().map(GroupId).collect::<Vec<_>>()).unwrap())
    }

    /// A cluster with two partitions, a pool with three and one with one, and a namespace.
    fn view() -> View {
        let pool = |placement: &str, groups: std::ops::Range<u32>| Pool {
            placement: placement.to_owned(),
            sharing: Sharing::Placement,
            leaders: Vec::new(),
            slots: table(groups),
        };
        let placement = |name: &str| (name.to_owned(), Placement { name: name.to_owned(), ..Placement::default() });
        let topology = Topology {
            placements: ["eu", "us"].map(placement).into(),
            pools: [(EU, pool("eu", 3..6)), (US, pool("us", 6..7))].into(),
            format: ClusterFormat::of(FormatVersion::NEWEST),
            ..Topology::default()
        };
        let mut view = View { slots: Some(table(1..3)), topology: Arc::new(topology), ..View::default() };
        view.by_id.insert(ID, Arc::new(super::super::record::tests::record()));
        view
    }

    fn apply(view: &mut View, rows: Vec<RowChange>) {
        for row in rows {
            let (key, value) = match row {
                RowChange::Put { key, value } => (key, Some(value)),
                RowChange::Delete { key } => (key, None),
                other => panic!("{other:?}"),
            };
            match MoveKey::of(&key) {
                Some(about) => view.put_move(about.unwrap(), value.as_ref()).unwrap(),
                None => {
                    let record = NamespaceRecord::decode(ID, &value.unwrap()).unwrap();
                    view.by_id.insert(ID, Arc::new(record));
                }
            }
        }
    }

    fn move_to(view: &mut View, pool: PoolId) -> Result<(), MetaError> {
        let mut record = NamespaceRecord::clone(&view.by_id[&ID]);
        let mut rows = view.move_to(&mut record, pool)?;
        // As whoever changes a namespace keeps all of its record.
        rows.extend(saved(record).0);
        apply(view, rows);
        Ok(())
    }

    /// A step with all that goes between two partitions, until its slots have moved.
    fn step(view: &mut View) -> MoveStep {
        let step = begun(view);
        let moving = NamespaceMove::clone(&view.moves[&ID]);
        let moved =
            if step.is_back { moving.moved.difference(&step.step.slots) } else { moving.moved.union(&step.step.slots) };
        let step = MoveStep { has_moved: true, ..step };
        let moving = NamespaceMove { moved, step: Some(step.clone()), ..moving };
        apply(view, vec![moving.put(ID)]);
        step
    }

    fn begun(view: &mut View) -> MoveStep {
        let NextSlots { from, to, slots } = view.next_slots(ID).unwrap();
        let moving = NamespaceMove::clone(&view.moves[&ID]);
        let id = StepId(view.last_step.0 + 1);
        view.last_step = id;
        let step = Step { id, namespace_id: ID, slots, from, to };
        let step = MoveStep { step, is_back: moving.is_back, has_moved: false };
        apply(view, vec![NamespaceMove { step: Some(step.clone()), ..moving }.put(ID)]);
        step
    }

    fn over(view: &mut View) {
        let moving = NamespaceMove { step: None, ..NamespaceMove::clone(&view.moves[&ID]) };
        let rows = view.move_rows(ID, &moving);
        apply(view, rows);
    }

    fn groups(view: &View) -> Vec<(u32, Option<usize>)> {
        let shares = view.shares_of(ID).into_iter();
        shares.map(|share| (share.partition.0, share.slots.map(|slots| slots.len()))).collect()
    }

    #[test]
    fn the_row_formats_are_for_ever() {
        let slots: SlotSet = [5, 6, 300].into_iter().collect();
        let step = Step { id: StepId(300), namespace_id: ID, slots, from: GroupId(2), to: GroupId(4) };
        let moving = NamespaceMove {
            other: PoolId(3),
            is_back: true,
            moved: (0..10).collect(),
            step: Some(MoveStep { step: step.clone(), is_back: true, has_moved: true }),
        };
        let bytes = moving.encode();
        assert_eq!(hex(&bytes), "080310011a0301000a221308ac021206010502a5020118022004280130 01".replace(' ', ""));
        assert_eq!(NamespaceMove::decode(ID, &bytes), Ok(moving));
        let past = PastStep { step, since: Time(1) };
        let bytes = past.encode();
        assert_eq!(
            hex(&bytes),
            "0a10070707070707070707070707070707071206010502a50201180220042901000000 00000000".replace(' ', "")
        );
        assert_eq!(PastStep::decode(StepId(300), &bytes), Ok(past));
        for bytes in [&b"\xff"[..], b"\x1a\x01\x05", b"\x22\x03\x12\x01\x05"] {
            assert!(matches!(NamespaceMove::decode(ID, bytes), Err(MetaError::Corrupt(_))), "{bytes:?}");
        }
        assert!(matches!(PastStep::decode(StepId(1), b"\x12\x00"), Err(MetaError::Corrupt(_))));
        for key in [MoveKey::Move(ID), MoveKey::PastStep(StepId(300)), MoveKey::LastStep] {
            assert_eq!(MoveKey::of(&key.row()), Some(Ok(key)));
        }
        assert!(matches!(MoveKey::of(&meta_row(MetaKind::Other, b"move/x")), Some(Err(MetaError::Corrupt(_)))));
        assert_eq!(MoveKey::of(&meta_row(MetaKind::Other, b"pool/x")), None);
    }

    #[test]
    fn a_namespace_does_not_move_before_all_nodes_read_what_says_so() {
        let view = &mut view();
        Arc::make_mut(&mut view.topology).format = ClusterFormat::default();
        let why = move_to(view, EU).unwrap_err();
        assert!(matches!(&why, MetaError::Protected(why) if why.contains("before the cluster has format 2")), "{why}");
        assert!(view.moves.is_empty());
        move_to(view, PoolId::DEFAULT).unwrap();
    }

    #[test]
    fn a_slot_is_where_its_bit_says_until_all_are_there() {
        let view = &mut view();
        assert_eq!(groups(view), [(1, None), (2, None)]);
        move_to(view, EU).unwrap();
        assert_eq!(groups(view), [(1, Some(2048)), (2, Some(2048)), (3, Some(0)), (4, Some(0)), (5, Some(0))]);
        let first = step(view);
        assert_eq!((first.step.from, first.step.to, first.step.slots.len()), (GroupId(1), GroupId(3), 1365));
        assert_eq!(groups(view), [(1, Some(683)), (2, Some(2048)), (3, Some(1365)), (4, Some(0)), (5, Some(0))]);
        assert_eq!((view.partition_of(ID, 0), view.partition_of(ID, 1365)), (Some(GroupId(3)), Some(GroupId(1))));
        assert!(view.next_slots(ID).is_none(), "a step is under way");
        over(view);
        let mut pairs = vec![];
        while view.moves.contains_key(&ID) {
            let MoveStep { step, .. } = step(view);
            pairs.push((step.from.0, step.to.0));
            over(view);
        }
        assert_eq!(pairs, [(1, 4), (2, 4), (2, 5)]);
        assert_eq!((view.by_id[&ID].pool, view.moves.len()), (EU, 0));
        assert_eq!(groups(view), [(3, None), (4, None), (5, None)]);
        assert_eq!(view.partition_of(NamespaceId([9; 16]), 0), None);
        assert!(view.shares_of(NamespaceId([9; 16])).is_empty());
    }

    #[test]
    fn a_move_can_be_reversed_at_any_time_and_is_not_diverted() {
        let view = &mut view();
        move_to(view, EU).unwrap();
        step(view);
        over(view);
        let record = Arc::clone(&view.by_id[&ID]);
        assert_eq!(view.move_text(&record, &view.moves[&ID]), "to eu: 33 %");
        let why = move_to(view, US).unwrap_err().to_string();
        assert_eq!(
            why,
            "namespace orders moves to eu: 33 % already: wait until it is there, or have it go back to \"default\" first"
        );
        // In the middle of a step, too.
        begun(view);
        move_to(view, PoolId::DEFAULT).unwrap();
        assert_eq!(view.move_text(&record, &view.moves[&ID]), "to default: 66 %");
        let under_way = view.moves[&ID].step.clone().unwrap();
        assert!(!under_way.is_back && view.moves[&ID].is_back);
        over(view);
        let back = step(view);
        assert_eq!((back.step.from, back.step.to, back.is_back), (GroupId(3), GroupId(1), true));
        // There again, and back again.
        move_to(view, EU).unwrap();
        move_to(view, PoolId::DEFAULT).unwrap();
        over(view);
        assert_eq!((view.by_id[&ID].pool, view.moves.len()), (PoolId::DEFAULT, 0));
        assert_eq!(groups(view), [(1, None), (2, None)]);
        move_to(view, PoolId::DEFAULT).unwrap();
        assert!(view.moves.is_empty());
        // Reversed before anything has moved, it is over at once.
        move_to(view, US).unwrap();
        move_to(view, PoolId::DEFAULT).unwrap();
        assert!(view.moves.is_empty());
    }

    #[test]
    fn a_move_that_goes_on_when_all_has_arrived_is_over_at_once() {
        let view = &mut view();
        move_to(view, US).unwrap();
        step(view);
        over(view);
        step(view);
        // What is under way arrives, whatever is asked for meanwhile.
        move_to(view, PoolId::DEFAULT).unwrap();
        over(view);
        assert_eq!((view.moves[&ID].moved.len(), view.by_id[&ID].pool), (usize::from(SLOTS), PoolId::DEFAULT));
        move_to(view, US).unwrap();
        assert_eq!((view.by_id[&ID].pool, view.moves.len()), (US, 0));
        assert_eq!(groups(view), [(6, None)]);
    }

    #[test]
    fn replicas_that_may_be_older_than_a_move_are_not_read() {
        let view = &mut view();
        let minute = Duration::from_secs(60);
        let reads_old = |view: &View, now: Time| !view.moves_within(ID, minute, now);
        let later = |seconds: i64| Time(now().0 + seconds * 1_000_000_000);
        assert!(reads_old(view, now()), "it has never moved");
        move_to(view, US).unwrap();
        assert!(!reads_old(view, later(1_000_000)), "it moves");
        for _ in 0..2 {
            step(view);
            over(view);
        }
        assert_eq!((view.by_id[&ID].pool, view.moves.len()), (US, 0));
        assert!(!reads_old(view, now()) && !reads_old(view, later(65)) && reads_old(view, later(75)));
        view.by_id.remove(&ID);
        assert!(!reads_old(view, later(75)), "nothing is known of it");
    }
}
