//! What the entities of a partition have in hand, and which of them goes on next: kept only where time is skipped, for which both count
//! (`skipped_time`).

use std::collections::{BTreeSet, HashMap};

use everlog_kernel::{Standing, Time};
use everlog_model::EntityRef;

use super::Lead;

/// How the entities stand that have something in hand or wait for a time, whether they are in memory or not.
#[derive(Debug, Default)]
pub(super) struct Standings {
    entities: HashMap<EntityRef, Standing>,
    nexts: BTreeSet<(Time, EntityRef)>,
    steps: usize,
    calls: usize,
}

impl Standings {
    /// Takes note of how an entity stands.
    fn set(&mut self, key: &EntityRef, standing: Standing) {
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

    /// How the partition stands, with the messages that are on their way.
    pub(crate) fn standing(&self) -> Standing {
        let messages = Standing { steps: self.outbox.len(), ..Standing::default() };
        self.standings.as_ref().map_or_else(Standing::default, Standings::total).and(messages)
    }
}
