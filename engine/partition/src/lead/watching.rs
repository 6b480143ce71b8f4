//! Who waits for a run's history to grow: long polls, told once the rows are durable.

use everlog_kernel::{Rejection, RunId};
use everlog_model::{CallError, EntityRef, RunView, limits};

use super::super::job::ViewTo;
use super::{Action, Lead, Outgoing};

/// Who waits for a run's history to grow.
pub(super) struct Watcher {
    seen: i64,
    reply: ViewTo,
}

impl Watcher {
    pub(super) fn into_reply(self) -> ViewTo {
        self.reply
    }
}

impl Lead {
    pub(super) fn watch(&mut self, key: &EntityRef, run_id: Option<RunId>, seen: Option<i64>, reply: ViewTo) {
        let Some(entry) = self.cache.get_mut(key) else { return };
        let last_batch = entry.last_batch;
        let run = entry.workflow.as_ref().and_then(|workflow| workflow.run(run_id)).map(view);
        let run = run.or_else(|| entry.machine.as_ref()?.view(run_id));
        let first = run.ok_or_else(|| CallError::Rejected(Rejection::workflow_not_found()));
        if let (Some(seen), Ok(first)) = (seen, &first)
            && first.is_open
            && first.next_event_id <= seen
        {
            let watchers = self.watchers.entry((key.clone(), first.run_id)).or_default();
            watchers.retain(|watcher| !watcher.reply.is_closed());
            // One too many is not kept: its channel closes, and its caller is told what is known now.
            if watchers.len() < limits::RUN_WATCHERS_MAX {
                watchers.push(Watcher { seen, reply: reply.clone() });
            }
        }
        self.when_durable(last_batch, Outgoing::View(reply, first));
    }

    pub(super) fn notify(&mut self, key: &(EntityRef, RunId), view: &RunView) {
        let Some(watchers) = self.watchers.get_mut(key) else { return };
        let actions = &mut self.actions;
        watchers.retain(|watcher| {
            if view.is_open && view.next_event_id <= watcher.seen {
                return !watcher.reply.is_closed();
            }
            actions.push(Action::Release(Outgoing::View(watcher.reply.clone(), Ok(view.clone()))));
            false
        });
        if watchers.is_empty() {
            self.watchers.remove(key);
        }
    }

    /// Forgets watchers that have gone, of all runs: long polls that were given up.
    pub(super) fn sweep_watchers(&mut self) {
        self.watchers.retain(|_, watchers| {
            watchers.retain(|watcher| !watcher.reply.is_closed());
            !watchers.is_empty()
        });
    }
}

/// What is known of a run.
pub(crate) fn view(run: &everlog_kernel::Run) -> RunView {
    let task = run.state.workflow_task.as_ref();
    let started = task.and_then(|task| task.started.as_ref());
    RunView {
        run_id: run.id,
        next_event_id: run.state.next_event_id,
        is_open: run.is_open(),
        tail: started.map(|started| started.tail.clone()).unwrap_or_default(),
        // Of a speculative task nothing is to be written.
        tail_is_saved: started.is_some_and(|started| started.is_saved())
            || task.is_some_and(|task| task.is_speculative),
        transient: everlog_kernel::transient_events(run),
    }
}
