//! What the entities of a partition have in hand, and which of them goes on next: kept only where time is skipped, for which both count
//! (`skipped_time`).

use std::collections::{BTreeSet, HashMap, HashSet};

use everlog_kernel::{
    ActivityExecutionCommand, BatchJobCommand, Command, EntityKind, RunCommand, ScheduleCommand, Standing, Time,
};
use everlog_model::EntityRef;

use super::Lead;
use crate::job::{Charge, Job, Work};

/// How the entities stand that have something in hand or wait for a time, whether they are in memory or not.
#[derive(Debug, Default)]
pub(super) struct Standings {
    entities: HashMap<EntityRef, Standing>,
    nexts: BTreeSet<(Time, EntityRef)>,
    steps: usize,
    calls: usize,
    /// Those that an earlier lead knew, as long as this one does not know how they stand.
    unknown: HashSet<EntityRef>,
    /// Those of them that are still to be asked for.
    unread: Vec<EntityRef>,
}

impl Standings {
    /// Takes note of how an entity stands.
    fn set(&mut self, key: &EntityRef, standing: Standing) {
        self.unknown.remove(key);
        let before = if standing == Standing::default() {
            self.entities.remove(key)
        } else {
            self.entities.insert(key.clone(), standing)
        };
        let before = before.unwrap_or_default();
        self.steps = self.steps + standing.steps - before.steps;
        self.calls = self.calls + standing.calls - before.calls;
        if before.next != standing.next {
            if let Some(next) = before.next {
                self.nexts.remove(&(next, key.clone()));
            }
            self.nexts.extend(standing.next.map(|next| (next, key.clone())));
        }
    }

    /// Forgets entities.
    pub(super) fn forget(&mut self, has: impl Fn(&EntityRef) -> bool) {
        let left: Vec<EntityRef> = self.entities.keys().filter(|key| has(key)).cloned().collect();
        left.iter().for_each(|key| self.set(key, Standing::default()));
        self.unknown.retain(|key| !has(key));
        self.unread.retain(|key| !has(key));
    }

    fn total(&self) -> Standing {
        let next = self.nexts.first().map(|(next, _)| *next);
        Standing { steps: self.steps, calls: self.calls, next }
    }
}

impl Lead {
    /// Takes note of how an entity stands after it was changed.
    pub(super) fn note_standing(&mut self, key: &EntityRef) {
        let Some(standings) = &mut self.standings else { return };
        let Some(entry) = self.cache.get_mut(key) else { return };
        let workflow = entry.workflow.as_ref().map(|workflow| workflow.standing());
        let machine = entry.machine.as_ref().map(|machine| machine.standing());
        standings.set(key, workflow.unwrap_or_default().and(machine.unwrap_or_default()));
    }

    /// What the next lead in this process is to look at before time may be skipped: what has something in hand, and what may have changed in
    /// batches that were lost.
    pub(crate) fn in_hand(&self) -> Vec<EntityRef> {
        let Some(standings) = &self.standings else { return Vec::new() };
        let known: HashSet<&EntityRef> =
            standings.entities.keys().chain(&standings.unknown).chain(self.cache.keys()).collect();
        known.into_iter().cloned().collect()
    }

    /// Takes over what the lead before this one in the same process had in hand.
    pub(crate) fn take_over(&mut self, in_hand: Vec<EntityRef>) {
        if let Some(standings) = &mut self.standings {
            standings.unknown = in_hand.iter().cloned().collect();
            standings.unread = in_hand;
        }
    }

    /// Whether it is known of everything how it stands. Until then time must not be skipped.
    pub(crate) fn knows_standings(&self) -> bool {
        let is_known = |standings: &Standings| standings.unknown.is_empty();
        !self.outbox.reading && !self.wakes.reading && self.standings.as_ref().is_none_or(is_known)
    }

    /// Has some of what was taken over read.
    pub(super) fn look_at_what_was_taken_over(&mut self) {
        while self.accepts()
            && let Some(key) = self.standings.as_mut().and_then(|standings| standings.unread.pop())
        {
            let Some(namespace) = self.settings.namespaces.by_id(key.namespace_id) else {
                // It was deleted with all that was in it.
                self.note_gone(&key);
                continue;
            };
            let command: Command = match key.kind {
                EntityKind::Workflow => RunCommand::FireTimers.into(),
                EntityKind::Schedule => ScheduleCommand::Wake.into(),
                EntityKind::BatchJob => BatchJobCommand::Wake.into(),
                EntityKind::Activity => ActivityExecutionCommand::Wake.into(),
            };
            if self.poison(&key, command.name()).is_some() {
                self.note_gone(&key);
                continue;
            }
            let (address, work) = (key.into_address(namespace), Work::Command { command, reply: None });
            self.take(Job { address, run_id: None, work, operation: None, charge: Charge::default() });
        }
    }

    fn note_gone(&mut self, key: &EntityRef) {
        if let Some(standings) = &mut self.standings {
            standings.set(key, Standing::default());
        }
    }

    /// Takes note of how an entity stands that was taken over, after it was looked at.
    pub(super) fn note_taken_over(&mut self, key: &EntityRef) {
        if self.standings.as_ref().is_some_and(|standings| standings.unknown.contains(key)) {
            self.note_standing(key);
        }
    }

    /// How the partition stands, with the messages that are on their way.
    pub(crate) fn standing(&self) -> Standing {
        let messages = Standing { steps: self.outbox.len(), ..Standing::default() };
        self.standings.as_ref().map_or_else(Standing::default, Standings::total).and(messages)
    }
}
