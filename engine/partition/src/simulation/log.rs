//! A partition's log: what is proposed is late, refused, cut off or lost, and applied in order; and who leads.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use everlog_matching::{Message, Source};
use everlog_model::{CallError, FormatVersion};
use everlog_raft::chain::{Chain, ChainStep};
use everlog_raft::{ChainPosition, EntryStamp, LeadEpoch};
use everlog_storage::GroupId;
use everlog_storage::state::{RowBatch, StateEngine};

use super::Sabotage;
use super::world::{Event, OneNamespace, TwinRows, World, nanos};
use crate::clock::PartitionClock;
use crate::job::Job;
use crate::lead::{Applied, Lead, LeadSettings};
use crate::steps::read_moves;

/// A partition: its group's log and, while this node leads, its lead.
pub(super) struct Partition {
    pub(super) group: GroupId,
    pub(super) log: Vec<(EntryStamp, RowBatch)>,
    /// The chain as of each applied index.
    chains: Vec<Chain>,
    committed: usize,
    /// How often the end of the log was cut off.
    cuts: u64,
    /// When the last entry will be durable.
    durable_at: u64,
    /// Until when nothing becomes durable.
    stalled_until: u64,
    /// When proposals are refused although the node leads.
    refuses: Range<u64>,
    term: u64,
    opening: u32,
    opening_at: Option<usize>,
    pub(super) leading: Option<Leading>,
    pub(super) jobs: VecDeque<Job>,
    pub(super) turn_at: Option<u64>,
    /// When the lead's clock was last moved on.
    pub(super) ticked_at: u64,
    /// Since when the wall clock has been far ahead of it.
    pub(super) wall_ahead_since: Option<u64>,
}

/// A lead, and what the loop around it knows.
pub(super) struct Leading {
    pub(super) lead: Lead,
    pub(super) epoch: LeadEpoch,
    pub(super) in_flight: VecDeque<Flight>,
}

/// A batch whose outcome the lead has not heard of.
pub(super) struct Flight {
    /// Where it stands in the log; `None` if it was refused.
    index: Option<usize>,
    pub(super) outcome: Option<bool>,
}

impl Partition {
    pub(super) fn new(group: GroupId) -> Partition {
        Partition {
            group,
            log: Vec::new(),
            chains: vec![Chain::default()],
            committed: 0,
            cuts: 0,
            durable_at: 0,
            stalled_until: 0,
            refuses: 0..0,
            term: 1,
            opening: 0,
            opening_at: None,
            leading: None,
            jobs: VecDeque::new(),
            turn_at: None,
            ticked_at: 0,
            wall_ahead_since: None,
        }
    }

    fn chain(&self) -> &Chain {
        self.chains.last().expect("there is one of the beginning")
    }

    fn epoch(&self) -> LeadEpoch {
        LeadEpoch { term: self.term, opening: self.opening }
    }
}

impl World {
    /// Hands a batch of the lead to the log.
    pub(super) fn propose(&mut self, partition: usize, stamp: EntryStamp, rows: RowBatch) {
        let index = self.append(partition, stamp, rows);
        let early = self.sabotage == Some(Sabotage::AnsweredTooEarly);
        let outcome = if early { Some(true) } else { index.is_none().then_some(false) };
        let Some(leading) = &mut self.partitions[partition].leading else { return };
        self.two_in_flight += u64::from(!leading.in_flight.is_empty());
        leading.in_flight.push_back(Flight { index, outcome });
    }

    /// Puts an entry into the log; `None` if it is refused, as a leader does whose lease has run out for a moment.
    fn append(&mut self, partition: usize, stamp: EntryStamp, rows: RowBatch) -> Option<usize> {
        let refuses = self.partitions[partition].refuses.contains(&self.now);
        if self.faults && (refuses || self.random.percent(1)) {
            return None;
        }
        let longest = if self.faults && self.random.percent(2) { 2000 } else { 4 };
        let delay = self.delay(Duration::from_millis(longest));
        let (now, log) = (self.now, &mut self.partitions[partition]);
        log.log.push((stamp, rows));
        log.durable_at = log.durable_at.max(now + nanos(delay));
        let (index, cut) = (log.log.len(), log.cuts);
        let delay = Duration::from_nanos(log.durable_at - now);
        self.after(delay, Event::Commit { partition, index, cut });
        Some(index)
    }

    /// Nothing becomes durable for a while, and meanwhile the lease runs out: what is proposed then is refused, though the node leads on
    /// when the stall is over. Clients are not kept from sending.
    pub(super) fn stall(&mut self, partition: usize) {
        let long = Duration::from_millis(100) + self.delay(Duration::from_millis(1500));
        let lease = self.delay(long);
        let until = self.now + nanos(long);
        let log = &mut self.partitions[partition];
        log.stalled_until = until;
        log.refuses = self.now + nanos(lease)..until;
        for _ in 0..2 + self.random.below(4) {
            let share = self.random.below(1000) as f64 / 1000.0;
            self.after(long.mul_f64(share), Event::Burst(partition));
        }
    }

    /// Entries up to `index` are durable, unless the log stalls or they were cut off.
    pub(super) fn durable(&mut self, partition: usize, index: usize, cut: u64) {
        let (cuts, stalled_until) = (self.partitions[partition].cuts, self.partitions[partition].stalled_until);
        if cut != cuts {
            return;
        }
        if stalled_until > self.now {
            let delay = Duration::from_nanos(stalled_until - self.now);
            return self.after(delay, Event::Commit { partition, index, cut });
        }
        self.commit(partition, index);
    }

    fn commit(&mut self, partition: usize, index: usize) {
        let log = &mut self.partitions[partition];
        log.committed = log.committed.max(index);
        while self.partitions[partition].chains.len() <= self.partitions[partition].committed {
            self.apply_next(partition);
        }
        self.turn_soon(partition, Duration::ZERO);
    }

    fn apply_next(&mut self, partition: usize) {
        let log = &mut self.partitions[partition];
        let applied = log.chains.len();
        let (stamp, rows) = &log.log[applied - 1];
        let mut chain = log.chain().clone();
        let mut step = chain.step(stamp);
        if self.sabotage == Some(Sabotage::ChainUnchecked) {
            step = ChainStep::Applied;
        }
        let rows: &[RowBatch] = if step == ChainStep::Applied { std::slice::from_ref(rows) } else { &[] };
        self.disk.commit(log.group, &applied.to_be_bytes(), rows).expect("the twin is up");
        log.chains.push(chain);
        let in_flight = log.leading.iter_mut().flat_map(|leading| &mut leading.in_flight);
        if let Some(flight) = in_flight.into_iter().find(|flight| flight.index == Some(applied)) {
            flight.outcome = Some(step == ChainStep::Applied);
        }
        if log.opening_at == Some(applied) {
            log.opening_at = None;
            if step == ChainStep::Applied { self.begin(partition) } else { self.again(partition) }
        }
    }

    /// Proposes to open an epoch.
    pub(super) fn open(&mut self, partition: usize, term: u64) {
        let reading = self.reading();
        let log = &mut self.partitions[partition];
        if term != log.term || log.leading.is_some() {
            return;
        }
        log.opening += 1;
        log.opening_at = None;
        let hlc = PartitionClock::start(log.chain().end().hlc, reading).next_hlc();
        let stamp = EntryStamp { chain: ChainPosition { epoch: log.epoch(), sequence: 0 }, hlc };
        match self.append(partition, stamp, RowBatch::default()) {
            Some(_) if self.sabotage == Some(Sabotage::OpenedTooEarly) => self.begin(partition),
            Some(index) => self.partitions[partition].opening_at = Some(index),
            None => self.again(partition),
        }
    }

    /// Opens another epoch of the term soon.
    pub(super) fn again(&mut self, partition: usize) {
        let delay = self.delay(Duration::from_millis(250));
        self.after(delay, Event::Open { partition, term: self.partitions[partition].term });
    }

    /// The opening is applied: leads.
    fn begin(&mut self, partition: usize) {
        let reading = self.reading();
        let settings = LeadSettings {
            namespaces: Arc::new(OneNamespace(Arc::clone(&self.namespace))),
            limits: Arc::default(),
            cache_bytes_max: if self.random.percent(20) { 4096 } else { 1 << 20 },
            skips_time: false,
            format: FormatVersion::NEWEST,
        };
        let seed = (u128::from(self.random.any()) << 64) | u128::from(self.random.any());
        let log = &mut self.partitions[partition];
        let (group, epoch, end) = (log.group, log.epoch(), log.chain().end().hlc);
        let clock = PartitionClock::start(end, reading);
        let disk = Arc::clone(&self.disk);
        let chain = log.chain().clone();
        let applied = Applied {
            moves: read_moves(&TwinRows(&disk, group)).expect("the twin is up"),
            may_exist: Box::new(move |key| disk.may_exist(group, key)),
            contains: Box::new(move |position| chain.was_applied(position)),
        };
        let lead = Lead::new(group, epoch, clock, settings, applied, seed, reading.instant);
        assert!(end.0 <= lead.time().0.unsigned_abs(), "time begins behind the newest entry");
        log.leading = Some(Leading { lead, epoch, in_flight: VecDeque::new() });
        log.ticked_at = self.now;
        log.wall_ahead_since = None;
        self.matching.receive(Message::Opened(source(group, epoch)));
        self.turn_soon(partition, Duration::ZERO);
    }

    /// Ends the lead as a node does that goes on running.
    pub(super) fn end_lead(&mut self, partition: usize) {
        let log = &mut self.partitions[partition];
        let Some(leading) = log.leading.take() else { return };
        let source = source(log.group, leading.epoch);
        self.matching.receive(Message::Closed(source));
        let error = CallError::Unavailable("the lead is lost".to_owned());
        for action in leading.lead.abandon(&error) {
            self.release(source, action);
        }
    }

    /// Another leader cuts off what is not durable, and may keep some of it.
    pub(super) fn cut(&mut self, partition: usize) {
        let log = &mut self.partitions[partition];
        let pending = log.log.len() - log.committed;
        let kept = log.committed + self.random.below(pending + 1);
        log.log.truncate(kept);
        log.cuts += 1;
        log.opening_at = None;
        log.durable_at = self.now;
        log.stalled_until = self.now;
        log.term += 1;
        log.opening = 0;
        let (committed, term) = (log.committed, log.term);
        if kept > committed {
            self.commit(partition, kept);
        }
        let delay = self.delay(Duration::from_millis(500));
        self.after(delay, Event::Open { partition, term });
    }

    /// Goes on from what is on disk after the process was killed.
    pub(super) fn recover(&mut self, partition: usize) {
        let log = &mut self.partitions[partition];
        log.leading = None;
        log.jobs.clear();
        log.opening_at = None;
        let applied = self.disk.applied(log.group).expect("the twin is up");
        let applied = applied.map_or(0, |bytes| usize::from_be_bytes((&*bytes).try_into().expect("eight bytes")));
        log.chains.truncate(applied + 1);
        let committed = log.committed;
        self.commit(partition, committed);
        self.cut(partition);
    }
}

/// How matching knows a lead.
pub(super) fn source(partition: GroupId, epoch: LeadEpoch) -> Source {
    Source { partition, lead: (u128::from(epoch.term) << 32) | u128::from(epoch.opening) }
}
