//! When which run is looked at, and the pages of wake rows that are read ahead of that.

use std::time::Duration;

use everlog_kernel::time::DURATION_MAX;
use everlog_kernel::{
    ActivityExecutionCommand, BatchJobCommand, Command, EntityKind, RunCommand, ScheduleCommand, Time,
};
use everlog_model::{EntityRef, limits};

use super::super::job::{Charge, Job, Work};
use super::super::machine::Machine;
use super::super::wakes::{Wake, WakePage};
use super::{Action, Lead};

impl Lead {
    /// Sees to it that each run of the workflow is woken at its next deadline, unless a wake row will do that in good time.
    pub(super) fn schedule_wakes(&mut self, key: &EntityRef) {
        self.note_standing(key);
        // Rows that are due not long after the horizon may be in flight when the next page is read: those are kept in memory.
        let near = self.wakes.horizon.plus(2 * limits::WAKE_HORIZON);
        let Some(entry) = self.cache.get_mut(key) else { return };
        let Some(workflow) = &entry.workflow else { return };
        for (run_id, run) in &workflow.runs {
            let Some(time) = run.next_deadline() else { continue };
            if time > near && run.next_durable_deadline() == Some(time) {
                continue;
            }
            if entry.runs.armed(*run_id).is_some_and(|armed| armed <= time) {
                continue;
            }
            entry.runs.set_armed(*run_id, Some(time));
            self.wakes.push(Wake { time, entity: key.clone(), run_id: *run_id });
        }
    }

    /// The same of a state machine.
    pub(super) fn schedule_look(&mut self, key: &EntityRef) {
        self.note_standing(key);
        let near = self.wakes.horizon.plus(2 * limits::WAKE_HORIZON);
        let Some(entry) = self.cache.get_mut(key) else { return };
        for (run_id, time) in entry.machine.iter().flat_map(Machine::looks) {
            if time > near || entry.runs.armed(run_id).is_some_and(|armed| armed <= time) {
                continue;
            }
            entry.runs.set_armed(run_id, Some(time));
            self.wakes.push(Wake { time, entity: key.clone(), run_id });
        }
    }

    /// How long until [`Lead::end_turn`] has something to do that time brings about.
    pub(crate) fn until_next_wake(&self) -> Duration {
        let half = i64::try_from(limits::WAKE_HORIZON.as_nanos() / 2).unwrap_or(0);
        let page = Time(self.wakes.horizon.0.saturating_sub(half));
        let page = (!self.wakes.reading).then_some(page);
        let wake = self.wakes.next().filter(|_| self.accepts());
        match wake.into_iter().chain(page).chain(self.cache.next_look()).min() {
            // One millisecond late rather than a busy loop: the timer's resolution.
            Some(time) if time > self.now() => time.since(self.now()).saturating_add(Duration::from_millis(1)),
            Some(_) => Duration::ZERO,
            None => limits::WAKE_HORIZON,
        }
        .min(self.outbox.until_next(self.now()).unwrap_or(limits::WAKE_HORIZON))
    }

    /// Drops workflows from memory: the idle ones, and more where there are too many.
    pub(super) fn evict(&mut self) {
        let now = self.now();
        if self.cache.next_look().is_none_or(|look| look > now) && self.cache.bytes() <= self.settings.cache_bytes_max {
            return;
        }
        self.cache.evict(now, self.settings.cache_bytes_max, self.batches.committed);
        self.cached_workflows.set(self.cache.len() as f64);
        self.cached_bytes.set(self.cache.bytes() as f64);
    }

    /// Looks at runs that are due, a bounded number of them, and reads the next page of wake rows in time.
    pub(super) fn wake(&mut self) {
        let half = limits::WAKE_HORIZON / 2;
        if !self.wakes.reading && self.now().plus(half) >= self.wakes.horizon {
            let from = everlog_storage::keys::WakeKey::from(self.wakes.horizon.0).start;
            self.sweep_watchers();
            self.sweep_followers();
            self.read_wakes(Some(from));
        }
        for _ in 0..limits::PARTITION_TURN_WAKES_MAX {
            if !self.accepts() {
                return;
            }
            let now = self.now();
            let Some(wake) = self.wakes.pop_due(now) else { return };
            let Some(wake) = self.set_wake_aside(wake) else { continue };
            let Some(namespace) = self.settings.namespaces.by_id(wake.entity.namespace_id) else {
                // This node's view of the namespaces lags behind the row: it is looked at again, never dropped.
                self.wakes.push(Wake { time: now.plus(limits::NAMESPACE_WAIT), ..wake });
                continue;
            };
            let key = wake.entity.clone();
            let address = key.clone().into_address(namespace);
            if let Some(entry) = self.cache.get_mut(&key)
                && let Some(workflow) = &entry.workflow
            {
                if entry.runs.armed(wake.run_id).is_some_and(|armed| armed <= wake.time) {
                    entry.runs.set_armed(wake.run_id, None);
                }
                let due = workflow.runs.get(&wake.run_id).map(|run| run.next_deadline());
                if let Some(due) = due
                    && due.is_none_or(|due| due > now)
                {
                    self.schedule_wakes(&key);
                    continue;
                }
            }
            if let Some(entry) = self.cache.get_mut(&key).filter(|entry| entry.machine.is_some())
                && entry.runs.armed(wake.run_id).is_some_and(|armed| armed <= wake.time)
            {
                entry.runs.set_armed(wake.run_id, None);
            }
            let command: Command = match key.kind {
                EntityKind::Workflow => RunCommand::FireTimers.into(),
                EntityKind::Schedule => ScheduleCommand::Wake.into(),
                EntityKind::BatchJob => BatchJobCommand::Wake.into(),
                EntityKind::Activity => ActivityExecutionCommand::Wake.into(),
            };
            if let Some(poison) = self.poison(&key, command.name()) {
                let until = poison.until;
                self.wakes.push(Wake { time: until, ..wake });
                continue;
            }
            self.timer_lag.record(now.since(wake.time).as_secs_f64());
            // A workflow that left memory is read again, also where only memory knew of what was due: a later deadline of
            // its rows may count on this wake.
            let work = Work::Command { command, reply: None };
            self.take(Job { address, run_id: Some(wake.run_id), work, operation: None, charge: Charge::default() });
        }
    }

    /// Reads wake rows up to a new horizon, from `start` or from the first one.
    pub(super) fn read_wakes(&mut self, start: Option<bytes::Bytes>) {
        // Where time is skipped nobody knows how soon the next page would be wanted: there it has everything.
        let ahead = if self.settings.skips_time { DURATION_MAX } else { limits::WAKE_HORIZON };
        let horizon = self.now().max(self.wakes.horizon).plus(ahead);
        self.wakes.horizon = horizon;
        self.wakes.reading = true;
        self.actions.push(Action::ReadWakes { start, horizon });
    }

    /// Takes in wake rows that were read.
    pub(crate) fn add_wakes(&mut self, page: Result<WakePage, String>) {
        match page {
            Ok(page) => {
                for wake in page.wakes {
                    self.wakes.push(wake);
                }
                match page.next {
                    Some(next) => {
                        self.actions.push(Action::ReadWakes { start: Some(next), horizon: page.horizon });
                    }
                    None => self.wakes.reading = false,
                }
            }
            // Going on would lose what is due without a trace.
            Err(error) => self.actions.push(Action::Fail(format!("wake rows cannot be read: {error}"))),
        }
    }
}
