//! Has namespaces move from one pool of partitions to another, slot by slot, for whichever node leads the metadata.
//!
//! ```text
//!   metadata: step 7, slots 0–90, 3 ──▶ 12          partition 3              partition 12
//!        │                                           │                        │
//!        ├── ready? ─────────────────────────────────┼──────────────────────▶ importing
//!        ├── nothing for these slots any more ─────▶ frozen                   │
//!        ├── pages of rows ────────────────────────▶ reads ─────────────────▶ writes
//!        ├── yours ──────────────────────────────────┼──────────────────────▶ owned: this decides
//!        ├── metadata: looked for there from now on  │                        │
//!        ├── not yours any more ───────────────────▶ gone, deletes its rows   │
//!        └── metadata: the step is over. A minute later, when all nodes have seen that, both forget it
//! ```
//!
//! Nothing is known here but what rows say, those of the metadata and those of the partitions. So any driver may go on at any time, and two at once do no
//! harm: whatever a partition is asked for twice, or late, it does once. What cannot be done is given up: the partition that was to get the slots
//! refuses the step for good, and only then the other one has them as before.

mod partitions;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use everlog_kernel::{NamespaceId, Time};
use everlog_meta::{MetaError, MoveStep, NamespaceMove, Namespaces, NextSlots};
use everlog_model::{CallError, SlotSet, Step};
use everlog_proto::internal::{MoveAction, MoveStepRequest, MoveStepResponse};
use everlog_storage::GroupId;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::time::Instant;

pub use partitions::MovePartitions;

use crate::wire::{bytes_of, metadata_to_wire};

/// Steps at a time, of different namespaces.
const STEPS_MAX: usize = 4;

/// Bytes of rows of a step, but for those of a slot that has more: their callers wait while it is copied.
const STEP_BYTES_MAX: u64 = 1 << 20;

/// What a step may cost the disks and links, beside all else.
const BYTES_PER_SECOND: u64 = 16 << 20;

/// How long a partition may not answer until a step is given up.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(5);

/// How long the rows of a step may take to be deleted until somebody looks what is wrong.
const RELEASE_TIME_MAX: Duration = Duration::from_secs(30);

/// The first and the longest wait before a partition is asked again.
const AGAIN_WAIT: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(200));

/// How long a namespace is left alone whose last step failed.
const REST: Duration = Duration::from_secs(1);

/// How often the driver looks at what nobody tells it of.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// How long partitions keep what they know of a step that is over: what was on its way then must not begin it again.
const FORGET_AFTER: Duration = Duration::from_secs(60);

/// How often it looks whether there are such.
const FORGET_INTERVAL: Duration = Duration::from_secs(5);

/// Steps that are forgotten at a time.
const FORGET_MAX: usize = 256;

/// The partitions that have a part in steps, wherever they are led.
pub trait StepPartitions: Send + Sync + 'static {
    /// Has a partition do its part. An error says that it may have been done, or not.
    fn ask(&self, request: MoveStepRequest) -> BoxFuture<'_, Result<MoveStepResponse, CallError>>;

    /// Whether all nodes that may ever lead a partition have seen what this one has of the metadata.
    fn have_all_seen(&self) -> BoxFuture<'_, bool>;
}

/// The driver of moves.
pub struct Moves {
    namespaces: Arc<Namespaces>,
    partitions: Arc<dyn StepPartitions>,
}

/// What came of a step, or of the attempt at one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// Its slots have moved.
    Moved,
    /// They are where they were.
    GivenUp,
    /// There is nothing to move.
    Nothing,
}

/// Why a step does not go on now.
#[derive(Debug, thiserror::Error)]
enum StepError {
    #[error(transparent)]
    Metadata(#[from] MetaError),
    #[error("partition {0}: {1}")]
    Partition(GroupId, CallError),
}

impl Moves {
    /// Drives the moves that these metadata name.
    pub fn new(namespaces: Arc<Namespaces>, partitions: Arc<dyn StepPartitions>) -> Arc<Moves> {
        metrics::describe_counter!("everlog_moves_steps_total", "Steps of namespaces that move, by outcome.");
        metrics::describe_counter!(
            "everlog_moves_bytes_total",
            metrics::Unit::Bytes,
            "Bytes of rows that went from one partition to another."
        );
        metrics::describe_histogram!(
            "everlog_moves_frozen_seconds",
            metrics::Unit::Seconds,
            "How long slots of namespaces that move were frozen."
        );
        metrics::describe_gauge!("everlog_moves_running", "Namespaces that move, where the metadata are led.");
        Arc::new(Moves { namespaces, partitions })
    }

    /// Drives them for as long as it is polled, whenever the metadata are led here.
    pub async fn drive(self: Arc<Self>) {
        tokio::join!(self.move_namespaces(), self.forget_steps());
    }

    async fn move_namespaces(&self) {
        let mut running = FuturesUnordered::new();
        let mut busy = BTreeSet::new();
        let mut resting = BTreeMap::new();
        let mut last = None;
        let mut known = BTreeSet::new();
        loop {
            let moves = self.namespaces.moves();
            let is_led_here = self.namespaces.is_led_here();
            self.tell(&moves, &mut known, is_led_here);
            resting.retain(|_, until| *until > Instant::now());
            let is_ready = |id: &NamespaceId| is_led_here && !busy.contains(id) && !resting.contains_key(id);
            let ready: BTreeSet<_> = moves.iter().map(|(id, _)| *id).filter(is_ready).collect();
            // In turns: none waits until another one is done.
            let behind = ready.iter().filter(|id| last.is_some_and(|last| **id > last));
            let before = ready.iter().filter(|id| last.is_none_or(|last| **id <= last));
            for id in behind.chain(before).take(STEPS_MAX.saturating_sub(busy.len())).copied().collect::<Vec<_>>() {
                busy.insert(id);
                last = Some(id);
                running.push(async move { (id, self.advance(id).await) });
            }
            tokio::select! {
                Some((id, outcome)) = running.next() => {
                    busy.remove(&id);
                    let has_failed = match outcome {
                        Ok(Outcome::Moved | Outcome::Nothing) => false,
                        Ok(Outcome::GivenUp) => true,
                        Err(error) => {
                            tracing::info!(namespace = %id, %error, "a step of a namespace that moves has to wait");
                            true
                        }
                    };
                    if has_failed {
                        resting.insert(id, Instant::now() + REST);
                    }
                }
                () = self.namespaces.until_other_moves(&moves) => {}
                // Another node may begin to lead the metadata, and rests come to an end.
                () = tokio::time::sleep(LOOK_INTERVAL), if !moves.is_empty() => {}
            }
        }
    }

    /// Tells people which namespaces move.
    fn tell(&self, moves: &[(NamespaceId, Arc<NamespaceMove>)], known: &mut BTreeSet<NamespaceId>, is_led_here: bool) {
        let count = if is_led_here { u32::try_from(moves.len()).unwrap_or(u32::MAX) } else { 0 };
        metrics::gauge!("everlog_moves_running").set(f64::from(count));
        let now: BTreeSet<_> = moves.iter().map(|(id, _)| *id).collect();
        let name = |id: NamespaceId| {
            self.namespaces.record_by_id(id).map_or(id.to_string(), |record| record.name().to_owned())
        };
        for id in now.difference(known).filter(|_| is_led_here) {
            let move_text = self.namespaces.move_text(*id).unwrap_or_default();
            tracing::info!(namespace = name(*id), move_text, "a namespace moves");
        }
        for id in known.difference(&now).filter(|_| is_led_here) {
            tracing::info!(namespace = name(*id), "a namespace has moved");
        }
        *known = now;
    }

    /// Does the step of a namespace that is under way, or the next one, to its end.
    async fn advance(&self, namespace_id: NamespaceId) -> Result<Outcome, StepError> {
        // Whoever leads only since a moment may have to see yet what its predecessor did.
        self.namespaces.catch_up().await?;
        let Some(moving) = self.namespaces.move_of(namespace_id) else { return Ok(Outcome::Nothing) };
        let under_way = match moving.step.clone() {
            Some(under_way) => under_way,
            None => match self.begin(namespace_id).await? {
                Some(step) => MoveStep { step, is_back: moving.is_back, has_moved: false },
                None => return Ok(Outcome::Nothing),
            },
        };
        let step = &under_way.step;
        if !under_way.has_moved {
            let begun = Instant::now();
            let copied = self.copy(step).await;
            let (is_owned, bytes) = match copied {
                Ok(copied) => copied,
                Err(error) => {
                    tracing::info!(step = %step.id, namespace = %namespace_id, %error, "a step of a move is given up if it can be");
                    (self.ask(step.to, request(MoveAction::Refuse, step)).await?.is_owned, 0)
                }
            };
            if !is_owned {
                self.ask(step.from, request(MoveAction::Unfreeze, step)).await?;
                self.namespaces.step_over(namespace_id, step.id).await?;
                metrics::counter!("everlog_moves_steps_total", "outcome" => "given_up").increment(1);
                return Ok(Outcome::GivenUp);
            }
            self.namespaces.step_moved(namespace_id, step.id).await?;
            metrics::counter!("everlog_moves_bytes_total").increment(bytes);
            // Others have the disks, too.
            let pause = Duration::from_micros(bytes.saturating_mul(1_000_000) / BYTES_PER_SECOND);
            tokio::time::sleep(pause.saturating_sub(begun.elapsed())).await;
        }
        self.release(step).await?;
        self.namespaces.step_over(namespace_id, step.id).await?;
        metrics::counter!("everlog_moves_steps_total", "outcome" => "moved").increment(1);
        Ok(Outcome::Moved)
    }

    /// Has the metadata say which slots go next.
    async fn begin(&self, namespace_id: NamespaceId) -> Result<Option<Step>, StepError> {
        let Some(next) = self.namespaces.next_slots(namespace_id) else { return Ok(None) };
        let NextSlots { from, to, slots } = next;
        let plan = MoveStepRequest { bytes_max: STEP_BYTES_MAX, ..plan(namespace_id, from, to, &slots) };
        let planned = self.ask(from, plan).await?;
        let slots = SlotSet::decode(&planned.slots).ok_or_else(|| unreadable(from, "slots"))?;
        Ok(self.namespaces.begin_step(namespace_id, &NextSlots { from, to, slots }).await?)
    }

    /// Has the slots of a step go over. Returns whether they have, once that is decided, and how many bytes of rows they have.
    async fn copy(&self, step: &Step) -> Result<(bool, u64), StepError> {
        let time_ns = self.ask(step.from, plan(step.namespace_id, step.from, step.to, &step.slots)).await?.time_ns;
        // First the one that waits, so that the other is frozen the shorter.
        let begin = MoveStepRequest { time_ns, ..request(MoveAction::BeginImport, step) };
        self.ask(step.to, begin).await?;
        let frozen = Instant::now();
        let time_ns = self.ask(step.from, request(MoveAction::Freeze, step)).await?.time_ns;
        let (mut after, mut bytes) = (Bytes::new(), 0);
        loop {
            let export = MoveStepRequest { after, ..request(MoveAction::Export, step) };
            let MoveStepResponse { page, next, .. } = self.ask(step.from, export).await?;
            bytes += u64::try_from(page.len()).unwrap_or(0);
            self.ask(step.to, MoveStepRequest { page, ..request(MoveAction::Import, step) }).await?;
            if next.is_empty() {
                break;
            }
            after = next;
        }
        let activate = MoveStepRequest { time_ns, ..request(MoveAction::Activate, step) };
        let is_owned = self.ask(step.to, activate).await?.is_owned;
        metrics::histogram!("everlog_moves_frozen_seconds").record(frozen.elapsed().as_secs_f64());
        Ok((is_owned, bytes))
    }

    /// Has the partition that had the slots of a step delete what it has of them, and waits until it has.
    async fn release(&self, step: &Step) -> Result<(), StepError> {
        self.ask(step.from, request(MoveAction::Release, step)).await?;
        let (mut pause, until) = (AGAIN_WAIT.0, Instant::now() + RELEASE_TIME_MAX);
        while !self.ask(step.from, request(MoveAction::IsReleased, step)).await?.is_released {
            if Instant::now() > until || !self.namespaces.is_led_here() {
                let why = CallError::Unavailable("it has not deleted the rows of the slots yet".to_owned());
                return Err(StepError::Partition(step.from, why));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(AGAIN_WAIT.1);
        }
        Ok(())
    }

    /// Asks a partition until it answers, but not for long.
    async fn ask(&self, partition: GroupId, mut request: MoveStepRequest) -> Result<MoveStepResponse, StepError> {
        request.partition = partition.0;
        let (mut pause, until) = (AGAIN_WAIT.0, Instant::now() + ANSWER_TIME_MAX);
        let mut last = CallError::Unavailable("it does not answer".to_owned());
        loop {
            request.seen = Some(metadata_to_wire(self.namespaces.seen()));
            match tokio::time::timeout_at(until, self.partitions.ask(request.clone())).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(CallError::NotDone(why) | CallError::Unavailable(why) | CallError::Overloaded(why))) => {
                    last = CallError::Unavailable(why);
                }
                Ok(Err(error)) => return Err(StepError::Partition(partition, error)),
                Err(_) => return Err(StepError::Partition(partition, last)),
            }
            // Whoever leads the metadata by now goes on.
            if Instant::now() + pause > until || !self.namespaces.is_led_here() {
                return Err(StepError::Partition(partition, last));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(AGAIN_WAIT.1);
        }
    }

    /// Has partitions forget the steps that are over, once all nodes know where the slots are.
    async fn forget_steps(&self) {
        loop {
            tokio::time::sleep(FORGET_INTERVAL).await;
            if self.namespaces.is_led_here()
                && let Err(error) = self.forget_old(now()).await
            {
                tracing::debug!(%error, "steps of moves are kept for longer");
            }
        }
    }

    async fn forget_old(&self, now: Time) -> Result<(), StepError> {
        let forget_after = i64::try_from(FORGET_AFTER.as_nanos()).unwrap_or(i64::MAX);
        let past = self.namespaces.past_steps();
        let old = past.iter().filter(|past| past.since.0.saturating_add(forget_after) <= now.0);
        // The oldest first.
        let old: Vec<_> = old.take(FORGET_MAX).collect();
        if old.is_empty() || !self.partitions.have_all_seen().await {
            return Ok(());
        }
        let mut forgotten = BTreeSet::new();
        for past in old {
            let step = &past.step;
            let both = [step.from, step.to].map(|partition| self.ask(partition, request(MoveAction::Forget, step)));
            if let Err(error) = futures::future::try_join_all(both).await {
                tracing::debug!(step = %step.id, %error, "a step of a move is not forgotten yet");
                continue;
            }
            forgotten.insert(step.id);
        }
        Ok(self.namespaces.forget_steps(&forgotten).await?)
    }
}

fn unreadable(partition: GroupId, what: &str) -> StepError {
    StepError::Partition(partition, CallError::Failed(format!("its answer has no {what}")))
}

/// Asks which of these slots make a step. Without bytes it says of one slot with rows at most.
fn plan(namespace_id: NamespaceId, from: GroupId, to: GroupId, slots: &SlotSet) -> MoveStepRequest {
    MoveStepRequest {
        action: MoveAction::Plan as i32,
        namespace_id: bytes_of(namespace_id.0),
        slots: slots.encode().into(),
        from: from.0,
        to: to.0,
        ..MoveStepRequest::default()
    }
}

fn request(action: MoveAction, step: &Step) -> MoveStepRequest {
    MoveStepRequest {
        action: action as i32,
        step_id: step.id.0,
        ..plan(step.namespace_id, step.from, step.to, &step.slots)
    }
}

fn now() -> Time {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Time(i64::try_from(since_epoch.as_nanos()).unwrap_or(i64::MAX))
}
