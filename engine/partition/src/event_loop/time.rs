//! When which run is looked at, and the pages of wake rows that are read ahead of that.

use std::sync::Arc;
use std::time::Duration;

use everlog_kernel::{Command, Time};
use everlog_model::{WorkflowRef, limits};

use super::super::cache::CacheKey;
use super::super::wakes::{self, Wake, WakePage};
use super::{Event, Job, Loop, Work};

impl Loop {
    /// Sees to it that each run of the workflow is woken at its next deadline, unless a wake row will do that in good time.
    pub(super) fn arm(&mut self, key: &CacheKey, address: &WorkflowRef) {
        // Rows that are due not long after the horizon may be in flight when the next page is read: those are kept in memory.
        let near = self.horizon.plus(2 * limits::WAKE_HORIZON);
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
            self.wakes.push(Wake {
                time,
                namespace_id: address.namespace.id,
                workflow_id: Arc::clone(&key.workflow_id),
                run_id: *run_id,
            });
        }
    }

    pub(super) fn until_next_wake(&self) -> Duration {
        let page = Time(self.horizon.0.saturating_sub(i64::try_from(limits::WAKE_HORIZON.as_nanos() / 2).unwrap_or(0)));
        let page = (!self.reading_wakes).then_some(page);
        match self.wakes.next().into_iter().chain(page).chain(self.cache.next_look()).min() {
            // One millisecond late rather than a busy loop: the timer's resolution.
            Some(time) if time > self.now => time.since(self.now).saturating_add(Duration::from_millis(1)),
            Some(_) => Duration::ZERO,
            None => limits::WAKE_HORIZON,
        }
    }

    /// Drops workflows from memory: the idle ones, and more where there are too many.
    pub(super) fn evict(&mut self) {
        self.cache.evict(self.now, self.dependencies.cache_bytes_max, self.committed);
        self.cached_workflows.set(self.cache.len() as f64);
        self.cached_bytes.set(self.cache.bytes() as f64);
    }

    /// Looks at every run that is due, and reads the next page of wake rows in time.
    pub(super) fn wake(&mut self) {
        let half = limits::WAKE_HORIZON / 2;
        if !self.reading_wakes && self.now.plus(half) >= self.horizon {
            let from = everlog_storage::keys::WakeKey::from(self.horizon.0).start;
            self.read_wakes(Some(from));
        }
        for _ in 0..limits::PARTITION_TURN_EVENTS_MAX {
            let Some(wake) = self.wakes.pop_due(self.now) else { return };
            let Some(namespace) = self.dependencies.namespaces.by_id(wake.namespace_id) else { continue };
            let address = WorkflowRef { namespace, workflow_id: Arc::clone(&wake.workflow_id) };
            let key = CacheKey::of(&address);
            if let Some(entry) = self.cache.get_mut(&key)
                && let Some(workflow) = &entry.workflow
            {
                if entry.runs.armed(wake.run_id).is_some_and(|armed| armed <= wake.time) {
                    entry.runs.set_armed(wake.run_id, None);
                }
                let due = workflow.runs.get(&wake.run_id).map(|run| run.next_deadline());
                if let Some(due) = due
                    && due.is_none_or(|due| due > self.now)
                {
                    self.arm(&key, &address);
                    continue;
                }
            }
            // A workflow that left memory is read again, also where only memory knew of what was due: a later deadline of
            // its rows may count on this wake.
            let work = Work::Command { command: Command::FireTimers, reply: None };
            self.admit(Job { address, run_id: Some(wake.run_id), work });
        }
    }

    /// Reads wake rows up to a new horizon, from `start` or from the first one.
    pub(super) fn read_wakes(&mut self, start: Option<bytes::Bytes>) {
        let horizon = self.now.max(self.horizon).plus(limits::WAKE_HORIZON);
        self.horizon = horizon;
        self.read_wake_page(start, horizon);
    }

    fn read_wake_page(&mut self, start: Option<bytes::Bytes>, horizon: Time) {
        self.reading_wakes = true;
        let group = self.group.clone();
        let events = self.events.clone();
        tokio::spawn(async move {
            let page = tokio::task::spawn_blocking(move || wakes::read_page(&group, start, horizon)).await;
            let page = page.unwrap_or_else(|error| Err(error.to_string()));
            if let Some(events) = events.upgrade() {
                let _ = events.send(Event::Wakes(page)).await;
            }
        });
    }

    pub(super) fn add_wakes(&mut self, page: Result<WakePage, String>) {
        match page {
            Ok(page) => {
                for wake in page.wakes {
                    self.wakes.push(wake);
                }
                match page.next {
                    Some(next) => self.read_wake_page(Some(next), page.horizon),
                    None => self.reading_wakes = false,
                }
            }
            Err(error) => {
                tracing::error!(partition = %self.group.id(), error, "wake rows cannot be read");
                self.reading_wakes = false;
                // Everything from the first row on is read again with the next page.
                self.horizon = self.now;
            }
        }
    }
}
