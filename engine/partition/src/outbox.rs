//! The messages of a partition that have not arrived, and which of them may be sent when.
//!
//! ```text
//!   add ──▶ unsettled ──durable──▶ in line ──first of its line──▶ ready ──▶ sent ──▶ arrived ──its row is deleted──▶ gone
//!                                                                   ▲         │
//!                                                                   └─ waits ◀┘ not now: 50 ms, twice as long each time
//! ```
//!
//! A line is what one workflow sends to another: one message at a time, in order. Lines do not wait for each other.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use everlog_kernel::Time;
use everlog_kernel::outbox::{OutboxMessage, Outcome};
use everlog_model::limits;
use everlog_storage::keys::OutboxKey;
use everlog_storage::state::RowChange;

use super::load::Rows;

/// A message on its way, with the key of its row, which names it.
#[derive(Clone, Debug)]
pub(crate) struct Parcel {
    pub(crate) key: OutboxKey,
    pub(crate) message: Arc<OutboxMessage>,
}

/// How an attempt to deliver a message ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// It is known what becomes of it.
    Settled(Outcome),
    /// Nobody knows whether it arrived; it is sent again.
    Again,
}

/// A page of the outbox's rows.
pub(crate) struct OutboxPage {
    /// Messages, and the bytes of their rows.
    pub(crate) parcels: Vec<(Parcel, usize)>,
    /// Where the next page starts, if there is one.
    pub(crate) next: Option<bytes::Bytes>,
}

/// Reads a page of rows from `start`, or from the first one.
pub(crate) fn read_page(rows: &impl Rows, start: Option<bytes::Bytes>) -> Result<OutboxPage, String> {
    let (found, next) = rows.page(OutboxKey::all(), start, limits::OUTBOX_PAGE_ROWS)?;
    let parcel = |(key, value): (bytes::Bytes, bytes::Bytes)| {
        let key = OutboxKey::decode(&key).map_err(|error| error.to_string())?;
        let message = OutboxMessage::from_row(&value).map_err(|error| error.to_string())?;
        Ok((Parcel { key, message: Arc::new(message) }, value.len()))
    };
    Ok(OutboxPage { parcels: found.into_iter().map(parcel).collect::<Result<_, String>>()?, next })
}

/// The outbox. See the module.
#[derive(Default)]
pub(crate) struct Outbox {
    messages: BTreeMap<OutboxKey, Kept>,
    lines: HashMap<Line, VecDeque<OutboxKey>>,
    /// Messages whose rows are not durable, with the batch that they go with.
    unsettled: VecDeque<(u64, OutboxKey)>,
    ready: VecDeque<OutboxKey>,
    waits: BinaryHeap<Reverse<(Time, OutboxKey)>>,
    /// Messages that are sent, and their bytes.
    sent: (usize, usize),
    /// Whether the rows that earlier leads left are being read: until then nothing is sent, lest it overtakes them.
    pub(crate) reading: bool,
    /// The key given out last.
    last: (u64, u16),
    bytes: usize,
    /// When it is looked at next for messages that are overdue.
    look_at: Time,
}

struct Kept {
    message: Arc<OutboxMessage>,
    bytes: usize,
    attempts: u32,
    is_sent: bool,
    is_overdue: bool,
}

/// Messages that have not arrived for a long time.
#[derive(Debug, Default)]
pub(crate) struct Overdue {
    /// How long the oldest message has been in the outbox, whether that is long or not.
    pub(crate) oldest: Duration,
    /// Those that became overdue since the last look: the first of them, and how many.
    pub(crate) first: Option<Arc<OutboxMessage>>,
    pub(crate) count: u64,
}

/// Who sends to whom.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Line {
    namespace_id: everlog_kernel::NamespaceId,
    source: String,
    target: String,
}

impl Line {
    fn of(message: &OutboxMessage) -> Line {
        Line {
            namespace_id: message.namespace_id,
            source: message.source_workflow_id.clone(),
            target: message.target_workflow_id.clone(),
        }
    }
}

impl Outbox {
    /// An outbox whose rows are to be read first.
    pub(crate) fn opening() -> Outbox {
        Outbox { reading: true, ..Outbox::default() }
    }

    /// Takes in a message that is decided `now` and goes with `batch`. Returns its row.
    pub(crate) fn add(&mut self, message: OutboxMessage, slot: u16, now: Time, batch: u64) -> RowChange {
        let time = u64::try_from(now.0).unwrap_or(0);
        self.last = match self.last {
            (last, number) if last >= time => number.checked_add(1).map_or((last + 1, 0), |number| (last, number)),
            _ => (time, 0),
        };
        let key = OutboxKey { slot, time_ns: self.last.0, number: self.last.1 };
        let value = message.to_row();
        self.keep(Parcel { key, message: Arc::new(message) }, value.len());
        self.unsettled.push_back((batch, key));
        RowChange::Put { key: key.encode(), value }
    }

    /// Takes in what earlier leads have left; durable all of it. What this lead has sent since may be among the rows, too.
    pub(crate) fn add_page(&mut self, parcels: Vec<(Parcel, usize)>) {
        for (parcel, bytes) in parcels {
            if !self.messages.contains_key(&parcel.key) {
                let key = parcel.key;
                self.keep(parcel, bytes);
                self.line_up(key);
            }
        }
    }

    fn keep(&mut self, Parcel { key, message }: Parcel, bytes: usize) {
        self.bytes += bytes + size_of::<Kept>();
        self.messages.insert(key, Kept { message, bytes, attempts: 0, is_sent: false, is_overdue: false });
    }

    fn line_up(&mut self, key: OutboxKey) {
        let Some(kept) = self.messages.get(&key) else { return };
        let line = self.lines.entry(Line::of(&kept.message)).or_default();
        line.push_back(key);
        if line.len() == 1 {
            self.ready.push_back(key);
        }
    }

    /// Everything that goes with batches up to `committed` is durable.
    pub(crate) fn settle(&mut self, committed: u64) {
        if self.reading {
            return;
        }
        while let Some((batch, key)) = self.unsettled.front().copied()
            && batch <= committed
        {
            self.unsettled.pop_front();
            self.line_up(key);
        }
    }

    /// What may be sent now: as much as may be on its way at a time.
    pub(crate) fn take(&mut self, now: Time) -> Vec<Parcel> {
        let mut parcels = Vec::new();
        if self.reading {
            return parcels;
        }
        while let Some(Reverse((time, key))) = self.waits.peek().copied()
            && time <= now
        {
            self.waits.pop();
            self.ready.push_back(key);
        }
        while self.sent.0 < limits::OUTBOX_SENT_MAX
            && self.sent.1 < limits::OUTBOX_SENT_BYTES_MAX
            && let Some(key) = self.ready.pop_front()
        {
            // One that was taken out and came back may stand here twice.
            let Some(kept) = self.messages.get_mut(&key).filter(|kept| !kept.is_sent) else { continue };
            kept.is_sent = true;
            self.sent.0 += 1;
            self.sent.1 += kept.bytes;
            parcels.push(Parcel { key, message: Arc::clone(&kept.message) });
        }
        parcels
    }

    /// A message that was sent has come back: it waits for its next attempt. `None` if it is none of those that are sent.
    pub(crate) fn come_back(&mut self, key: OutboxKey, delivery: Delivery, now: Time) -> Option<Arc<OutboxMessage>> {
        let kept = self.messages.get_mut(&key).filter(|kept| kept.is_sent)?;
        kept.is_sent = false;
        self.sent.0 -= 1;
        self.sent.1 -= kept.bytes;
        let (first, longest) = limits::OUTBOX_AGAIN_WAIT;
        // One that has arrived is sent again, too, if what becomes of it cannot be recorded: much later.
        let wait = match delivery {
            Delivery::Again => first.saturating_mul(1 << kept.attempts.min(16)).min(longest),
            Delivery::Settled(_) => limits::OUTBOX_SETTLE_WAIT,
        };
        kept.attempts += 1;
        self.waits.push(Reverse((now.plus(wait), key)));
        Some(Arc::clone(&kept.message))
    }

    /// A message has arrived, and its row is deleted: the next of its line may go.
    pub(crate) fn remove(&mut self, key: OutboxKey) {
        let Some(kept) = self.messages.remove(&key) else { return };
        self.bytes -= kept.bytes + size_of::<Kept>();
        if kept.is_sent {
            self.sent.0 -= 1;
            self.sent.1 -= kept.bytes;
        }
        let line = Line::of(&kept.message);
        let Some(keys) = self.lines.get_mut(&line) else { return };
        keys.retain(|waiting| *waiting != key);
        match keys.front() {
            Some(next) => self.ready.push_back(*next),
            None => drop(self.lines.remove(&line)),
        }
        if self.messages.is_empty() {
            *self = Outbox { last: self.last, reading: self.reading, look_at: self.look_at, ..Outbox::default() };
        }
    }

    /// Takes messages out that are not to be sent from here, with the bytes of their rows. What is told of those that are sent is not heard.
    pub(crate) fn take_out(&mut self, has: impl Fn(&OutboxKey, &OutboxMessage) -> bool) -> Vec<(Parcel, usize)> {
        let left: Vec<OutboxKey> =
            self.messages.iter().filter(|(key, kept)| has(key, &kept.message)).map(|(key, _)| *key).collect();
        let parcel = |key: &OutboxKey| {
            let kept = self.messages.get(key)?;
            Some((Parcel { key: *key, message: Arc::clone(&kept.message) }, kept.bytes))
        };
        let parcels = left.iter().filter_map(parcel).collect();
        left.iter().for_each(|key| self.remove(*key));
        parcels
    }

    /// The key for a message that comes from another partition under `key`: the same, unless a message of another namespace has it here.
    pub(crate) fn free_key(&self, mut key: OutboxKey, namespace_id: everlog_kernel::NamespaceId) -> OutboxKey {
        while self.messages.get(&key).is_some_and(|kept| kept.message.namespace_id != namespace_id) {
            key = match key.number.checked_add(1) {
                Some(number) => OutboxKey { number, ..key },
                None => OutboxKey { time_ns: key.time_ns + 1, number: 0, ..key },
            };
        }
        key
    }

    /// Looks how old the messages are; `None` if it has done so a short while ago. They stay, however old.
    pub(crate) fn look(&mut self, now: Time) -> Option<Overdue> {
        if now < self.look_at {
            return None;
        }
        self.look_at = now.plus(limits::OUTBOX_LOOK_INTERVAL);
        let mut overdue = Overdue::default();
        for (key, kept) in &mut self.messages {
            let age = now.since(Time(i64::try_from(key.time_ns).unwrap_or(i64::MAX)));
            overdue.oldest = overdue.oldest.max(age);
            if age >= limits::OUTBOX_OVERDUE && !kept.is_overdue {
                kept.is_overdue = true;
                overdue.count += 1;
                overdue.first.get_or_insert_with(|| Arc::clone(&kept.message));
            }
        }
        Some(overdue)
    }

    /// How long until a message is to be sent again.
    pub(crate) fn until_next(&self, now: Time) -> Option<Duration> {
        let Reverse((time, _)) = self.waits.peek()?;
        Some(time.since(now))
    }

    /// Bytes in memory.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Messages that have not arrived.
    pub(crate) fn len(&self) -> usize {
        self.messages.len()
    }
}
