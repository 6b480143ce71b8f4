//! The loop around a lead, as `event_loop` has it.

use std::time::Duration;

use everlog_kernel::Time;
use everlog_matching::{Message, Source};
use everlog_model::{Step, limits};
use everlog_raft::LeadEpoch;

use super::Sabotage;
use super::log::{Leading, source};
use super::world::{Event, TwinRows, World, nanos};
use crate::journal::{self, JournalPage};
use crate::lead::{Action, Outgoing};
use crate::load::{Found, LoadRequest, Read, ReadRows, serve};
use crate::moving::{self, Cursor};
use crate::outbox;
use crate::wakes::{self, WakePage};

/// What a lead wants to have read.
pub(super) enum Wanted {
    Workflow(LoadRequest),
    Wakes { start: Option<bytes::Bytes>, horizon: Time },
    Outbox { start: Option<bytes::Bytes> },
    Journal { start: Option<bytes::Bytes> },
    Deletions { step: Step, after: Option<Cursor>, is_part: bool },
}

impl World {
    pub(super) fn turn_soon(&mut self, partition: usize, delay: Duration) {
        let at = self.now + nanos(delay);
        let turn_at = &mut self.partitions[partition].turn_at;
        if turn_at.is_none_or(|turn| turn > at || turn < self.now) {
            *turn_at = Some(at);
            self.after(delay, Event::Turn(partition));
        }
    }

    pub(super) fn turn(&mut self, partition: usize) {
        self.partitions[partition].turn_at = None;
        if !self.tick(partition) || !self.step(partition) {
            return;
        }
        let log = &mut self.partitions[partition];
        let Some(leading) = &mut log.leading else { return };
        let epoch = leading.epoch;
        let source = source(log.group, epoch);
        let (actions, answers) = (leading.lead.actions(), leading.lead.answers());
        let wake = leading.lead.until_next_wake();
        for action in actions {
            match action {
                Action::Propose { stamp, rows } => self.propose(partition, stamp, rows),
                Action::Load(request) => self.ask(partition, epoch, Wanted::Workflow(request)),
                Action::ReadWakes { start, horizon } => {
                    self.ask(partition, epoch, Wanted::Wakes { start, horizon });
                }
                Action::ReadJournal { start } => self.ask(partition, epoch, Wanted::Journal { start }),
                Action::ReadDeletions { step, after, is_part } => {
                    self.ask(partition, epoch, Wanted::Deletions { step, after, is_part });
                }
                Action::ReadOutbox { start } => self.ask(partition, epoch, Wanted::Outbox { start }),
                Action::Deliver(parcels) => {
                    parcels.into_iter().for_each(|parcel| self.deliver(partition, epoch, parcel))
                }
                Action::Fail(_) => return self.lose(partition),
                action => self.release(source, action),
            }
        }
        for answer in answers {
            self.release(source, Action::Release(answer));
        }
        let leading = self.partitions[partition].leading.as_ref();
        let front = leading.and_then(|leading| leading.in_flight.front());
        let ready = front.is_some_and(|flight| flight.outcome.is_some());
        self.turn_soon(partition, if ready { Duration::ZERO } else { wake.max(Duration::from_micros(100)) });
    }

    /// Moves the lead's time on, if there is one.
    fn tick(&mut self, partition: usize) -> bool {
        let (reading, now) = (self.reading(), self.now);
        let partition = &mut self.partitions[partition];
        let Some(Leading { lead, .. }) = &mut partition.leading else { return false };
        let before = lead.time();
        lead.tick(reading);
        let elapsed = now - std::mem::replace(&mut partition.ticked_at, now);
        let ahead = reading.wall.since(before.plus(Duration::from_nanos(elapsed)));
        if ahead < limits::CLOCK_STEP_MIN {
            partition.wall_ahead_since = None;
        } else {
            partition.wall_ahead_since.get_or_insert(now);
        }
        let waited = partition.wall_ahead_since.map_or(0, |since| now - since);
        let believed = waited >= nanos(limits::CLOCK_STEP_WAIT);
        let fastest = Duration::from_nanos(elapsed + elapsed / 9 + 1000);
        assert!(believed || lead.time().since(before) <= fastest, "time passes too fast: timers fire early");
        assert!(lead.time() >= before, "time goes back");
        true
    }

    /// Takes the outcome of the oldest batch, and jobs. Returns false when the lead is lost.
    fn step(&mut self, partition: usize) -> bool {
        let log = &mut self.partitions[partition];
        let Some(Leading { lead, in_flight, .. }) = &mut log.leading else { return false };
        match in_flight.front().and_then(|flight| flight.outcome) {
            Some(true) => {
                in_flight.pop_front();
                lead.settle();
            }
            Some(false) => {
                self.lose(partition);
                return false;
            }
            None => {}
        }
        while lead.accepts()
            && let Some(job) = log.jobs.pop_front()
        {
            lead.take(job);
        }
        lead.end_turn(|_| Duration::ZERO);
        true
    }

    /// The lead is lost to itself: another epoch of the same term is opened.
    fn lose(&mut self, partition: usize) {
        self.end_lead(partition);
        self.again(partition);
    }

    fn ask(&mut self, partition: usize, epoch: LeadEpoch, what: Wanted) {
        let longest = if self.random.percent(5) { 3000 } else { 3 };
        let delay = self.delay(Duration::from_millis(longest));
        self.after(delay, Event::Read { partition, epoch, what });
    }

    /// Reads rows as they are now; they arrive later.
    pub(super) fn read(&mut self, partition: usize, epoch: LeadEpoch, what: Wanted) {
        let fails = self.faults && self.random.percent(20);
        let longest = if self.random.percent(5) { 3000 } else { 2 };
        let delay = self.delay(Duration::from_millis(longest));
        let rows = TwinRows(&self.disk, self.partitions[partition].group);
        let rows = match what {
            Wanted::Workflow(request) => {
                let mut loaded = serve(&rows, request);
                if let Some((_, found)) = &mut loaded.search {
                    *found &= self.sabotage != Some(Sabotage::EarlierRunsForgotten);
                }
                if let Ok(Found::Workflow(workflow)) = &mut loaded.found
                    && self.sabotage == Some(Sabotage::FirstRunsForgotten)
                {
                    let current = workflow.current.as_ref().map(|current| current.run_id);
                    workflow.runs.retain(|run_id, _| current == Some(*run_id));
                }
                ReadRows::Workflow(Box::new(loaded))
            }
            Wanted::Wakes { horizon, .. } if fails && self.sabotage == Some(Sabotage::OverdueForgotten) => {
                ReadRows::Wakes(Ok(WakePage { wakes: Vec::new(), next: None, horizon }))
            }
            Wanted::Wakes { .. } if fails => ReadRows::Wakes(Err("the disk does not answer".to_owned())),
            Wanted::Outbox { .. } if fails => ReadRows::Outbox(Err("the disk does not answer".to_owned())),
            Wanted::Outbox { start } => ReadRows::Outbox(outbox::read_page(&rows, start)),
            Wanted::Journal { .. } if fails => ReadRows::Journal(Err("the disk does not answer".to_owned())),
            Wanted::Journal { .. } if self.sabotage == Some(Sabotage::JournalForgotten) => {
                ReadRows::Journal(Ok(JournalPage::empty()))
            }
            Wanted::Journal { start } => ReadRows::Journal(journal::read_page(&rows, start)),
            Wanted::Deletions { step, .. } if fails => {
                ReadRows::Deletions(step.id, Err("the disk does not answer".to_owned()))
            }
            Wanted::Deletions { step, after, is_part } => {
                ReadRows::Deletions(step.id, moving::deletions(&rows, &step, after.as_ref(), is_part))
            }
            Wanted::Wakes { start, horizon } => ReadRows::Wakes(wakes::read_page(&rows, start, horizon)),
        };
        self.after(delay, Event::ReadDone { partition, read: Read { epoch, rows } });
    }

    pub(super) fn read_done(&mut self, partition: usize, mut read: Read) {
        let Some(leading) = &mut self.partitions[partition].leading else { return };
        if self.sabotage == Some(Sabotage::ReadsOfAnyLead) {
            read.epoch = leading.epoch;
        }
        leading.lead.read(read);
        self.turn_soon(partition, Duration::ZERO);
    }

    pub(super) fn release(&self, source: Source, action: Action) {
        match action {
            Action::Release(Outgoing::Reply(reply, answer)) => drop(reply.send(answer)),
            Action::Withhold(Outgoing::Reply(reply, _), error) => drop(reply.send(Err(error))),
            Action::Release(Outgoing::Step(reply, answer)) => drop(reply.send(answer)),
            Action::Withhold(Outgoing::Step(reply, _), error) => drop(reply.send(Err(error))),
            Action::Release(Outgoing::TasksCame) => self.matching.receive(Message::Missed(source)),
            Action::Release(Outgoing::Tell(tell)) => tell(Ok(())),
            Action::Withhold(Outgoing::Tell(tell), error) => tell(Err(error)),
            Action::Release(Outgoing::Task(workflow, task)) => {
                self.matching.receive(Message::Task { source, workflow, task });
            }
            _ => {}
        }
    }
}
