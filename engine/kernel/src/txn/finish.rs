//! Which rows follow from what a handler did.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;

use super::{NewRun, Txn};
use crate::command::Reply;
use crate::rows::{RowKey, Rows, RunRow, RunRowKind};
use crate::state::row::Workers;
use crate::state::{Activity, Pending, Run};
use crate::transition::{Effect, Task, TaskRow, Transition, VisibilityKey};
use crate::{EntityKind, Rejection, Time, visibility, workflow_task};

impl Txn<'_> {
    /// Ends the change: the run as it is now, and the rows and effects that follow from what was done.
    pub(crate) fn finish(mut self, reply: Result<Reply, Rejection>) -> (Box<Run>, Transition, Option<NewRun>) {
        let mut rows = Vec::new();
        if (self.changed || self.saved) && !self.keep_speculative {
            workflow_task::make_normal(&mut self);
        }
        if self.changed {
            self.run.state.transition_count += 1;
        } else if self.counted {
            self.run.unwritten_transitions += 1;
        }
        if self.changed || self.saved {
            self.run.state.transition_count += std::mem::take(&mut self.run.unwritten_transitions);
            self.run.workers_changed |= std::mem::take(&mut self.run.unwritten_version);
            // As many as most transitions have.
            rows.reserve(8);
            self.finish_history(&mut rows);
            self.offer_activities_anew();
            self.finish_activities(&mut rows);
            self.finish_workflow_task(&mut rows);
            self.finish_version();
            self.finish_workflow_task_start(&mut rows);
            self.finish_pending(&mut rows);
            self.finish_branch(&mut rows);
            self.finish_info(&mut rows);
            self.finish_wake(&mut rows);
            self.finish_visibility(&mut rows);
            let row = RunRow::only(RunRowKind::State);
            rows.push((RowKey::Run(self.run.id, row), Some(self.run.state.to_row())));
        }
        (self.run, Transition { reply, rows, effects: self.effects }, self.successor)
    }

    fn finish_history(&mut self, rows: &mut Rows) {
        if !self.history.is_empty() {
            let events = Bytes::from(std::mem::take(&mut self.history));
            rows.push((RowKey::Run(self.run.id, RunRow::history(self.history_first)), Some(events)));
        }
    }

    /// The rows of activities, and with them those of their tasks.
    fn finish_activities(&mut self, rows: &mut Rows) {
        let run_id = self.run.id;
        rows.extend(std::mem::take(&mut self.moved_tasks).into_iter().map(|key| (key, None)));
        for (id, touched) in self.run.activities.take_touched() {
            self.run.unsaved_activities.remove(&id);
            let key = Pending::<Arc<Activity>>::row_key(run_id, id);
            if let Some(activity) = touched.removed {
                if touched.has_row {
                    rows.push((key, None));
                }
                if let Some(time) = activity.task_row_time {
                    rows.push((RowKey::Task(self.run.activity_task_key(&activity, time)), None));
                }
                continue;
            }
            let Some(activity) = self.run.activities.get(&id).cloned() else { continue };
            let is_wanted = self.run.is_open() && activity.is_ready();
            let wanted = is_wanted.then_some(activity.attempt_scheduled_time);
            if wanted != activity.task_row_time {
                if let Some(time) = activity.task_row_time {
                    rows.push((RowKey::Task(self.run.activity_task_key(&activity, time)), None));
                }
                if let Some(time) = wanted {
                    let key = self.run.activity_task_key(&activity, time);
                    let version = self.run.task_version().cloned().map(Box::new);
                    let weight = self.run.weight_of(activity.given_priority());
                    let row = TaskRow::of_workflow(self.workflow_id, activity.attempt, version.clone(), weight);
                    rows.push((RowKey::Task(key.clone()), Some(row.to_row())));
                    self.effects.push(Effect::OfferTask(Task {
                        key,
                        attempt: activity.attempt,
                        sticky: None,
                        version,
                        entity: EntityKind::Workflow,
                        weight,
                    }));
                }
            }
            rows.push((key, Some(activity.to_row())));
            let unchanged = wanted == activity.task_row_time;
            drop(activity);
            if !unchanged && let Some(activity) = self.run.activities.get_mut_unsaved(&id) {
                Arc::make_mut(activity).task_row_time = wanted;
            }
        }
        if self.run.unsaved_activities.is_empty() {
            self.run.flush_at = None;
        }
    }

    /// Where tasks are for another version than their rows say, or may have been turned away, they are offered once more.
    fn offer_activities_anew(&mut self) {
        if self.run.has_wanted_version() {
            return;
        }
        let offered = self.run.activities.iter().filter(|(_, activity)| activity.task_row_time.is_some());
        for id in offered.map(|(id, _)| *id).collect::<Vec<_>>() {
            // The row is written again where it is. It goes if a worker has the task, which is written now.
            if let Some(activity) = self.run.activities.get_mut(&id)
                && activity.is_ready()
            {
                Arc::make_mut(activity).task_row_time = None;
            }
        }
    }

    fn finish_version(&mut self) {
        if !self.run.has_wanted_version() {
            self.run.rows_version = self.run.task_version().cloned().map(Box::new);
            self.run.offers_anew = false;
        }
    }

    fn finish_workflow_task(&mut self, rows: &mut Rows) {
        if self.run.has_wanted_workflow_task_row() {
            return;
        }
        let wanted = self.run.wanted_workflow_task_row();
        let wanted_key = wanted.as_ref().map(|(key, _)| key);
        if let Some((key, _)) = self.run.workflow_task_row.take()
            && wanted_key != Some(&key)
        {
            rows.push((RowKey::Task(key), None));
        }
        if let Some((key, attempt)) = &wanted {
            let version = self.run.task_version().cloned().map(Box::new);
            let weight = self.run.weight_of(None);
            let row = TaskRow::of_workflow(self.workflow_id, *attempt, version.clone(), weight);
            rows.push((RowKey::Task(key.clone()), Some(row.to_row())));
            if !self.run.workflow_task_started() {
                let sticky = self.run.sticky.as_ref().map(|sticky| sticky.task_queue.clone());
                self.effects.push(Effect::OfferTask(Task {
                    key: key.clone(),
                    attempt: *attempt,
                    sticky,
                    version,
                    entity: EntityKind::Workflow,
                    weight,
                }));
            }
        }
        self.run.workflow_task_row = wanted;
    }

    /// The row of the start of the workflow task in progress. A task that ends soon never has one.
    fn finish_workflow_task_start(&mut self, rows: &mut Rows) {
        let task = self.run.state.workflow_task.as_ref();
        let saved = task.and_then(|task| task.started.as_ref()).filter(|started| started.is_saved());
        if saved.is_some() == self.run.workflow_task_start_row {
            return;
        }
        let row = RowKey::Run(self.run.id, RunRow::only(RunRowKind::WorkflowTaskStart));
        rows.push((row, saved.map(|started| started.to_row())));
        self.run.workflow_task_start_row = saved.is_some();
    }

    /// The rows of everything else that is pending.
    fn finish_pending(&mut self, rows: &mut Rows) {
        let run_id = self.run.id;
        for pending in self.run.pending_mut() {
            pending.write_rows(run_id, rows);
        }
    }

    fn finish_branch(&mut self, rows: &mut Rows) {
        if let Some(branch) = self.run.branch.as_ref().filter(|_| self.created) {
            let row = RunRow::only(RunRowKind::Branch);
            rows.push((RowKey::Run(self.run.id, row), Some(branch.to_row())));
        }
    }

    fn finish_info(&mut self, rows: &mut Rows) {
        if self.run.info_changed {
            let row = RunRow::only(RunRowKind::Info);
            rows.push((RowKey::Run(self.run.id, row), Some(self.run.info.to_row())));
        }
        if self.run.workers_changed || self.run.info_changed {
            let workers = self.run.workers();
            // A workflow may have changed search attributes that tell of its workers.
            if self.run.workers_changed || workers != Workers::default() {
                let row = RunRow::only(RunRowKind::Workers);
                rows.push((RowKey::Run(self.run.id, row), Some(workers.to_row())));
            }
        }
    }

    /// Keeps one wake row a run, never later than its next deadline. A deadline that moves away leaves the row where it is: the
    /// run then wakes for nothing, once, which is rarer than deadlines that move.
    fn finish_wake(&mut self, rows: &mut Rows) {
        let run_id = self.run.id;
        let wanted = self.run.next_durable_deadline();
        let keep = match (self.run.state.wake_at, wanted) {
            (Some(written), _) if written <= self.ctx.now => false,
            (Some(_), None) => self.run.is_open(),
            (Some(written), Some(wanted)) => written <= wanted && self.run.is_open(),
            (None, None) => true,
            (None, Some(_)) => false,
        };
        if keep {
            return;
        }
        if let Some(written) = self.run.state.wake_at {
            rows.push((RowKey::Wake(written, run_id), None));
        }
        if let Some(wanted) = wanted {
            rows.push((RowKey::Wake(wanted, run_id), Some(Bytes::new())));
        }
        self.run.state.wake_at = wanted;
    }

    fn finish_visibility(&mut self, rows: &mut Rows) {
        let closed = self.has_closed();
        let info_changed = std::mem::take(&mut self.run.info_changed);
        if !(std::mem::take(&mut self.run.workers_changed) | info_changed) && !closed {
            return;
        }
        let open_key =
            VisibilityKey { close_time: Time::MAX, start_time: self.run.info.start_time, run_id: self.run.id };
        if closed && !self.created {
            rows.push((RowKey::Visibility(open_key), None));
        }
        let key = VisibilityKey { close_time: self.run.state.close_time.unwrap_or(Time::MAX), ..open_key };
        let record = visibility::record(&self.run, self.workflow_id);
        rows.push((RowKey::Visibility(key), Some(Bytes::from(record.encode_to_vec()))));
    }
}
