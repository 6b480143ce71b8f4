//! The rows of an activity: what was asked for, its attempts, how far it has come; its task and its wake, and what lists show.

use bytes::Bytes;
use prost::Message;

use super::SCHEDULED_EVENT_ID;
use super::state::{ActivityExecutions, Asked, Execution, Progress, Status};
use crate::command::Reply;
use crate::rows::{RowKey, Rows, RunRow, RunRowKind, Suffix};
use crate::state::row::{decode, required};
use crate::state::{Activity, CorruptRow, Current};
use crate::task::{TaskKey, TaskKind, TaskPosition, TaskRow};
use crate::transition::{Effect, Task, Transition, VisibilityKey};
use crate::visibility::ActivityRecord;
use crate::{Context, EntityKind, Rejection, RunId, Time, Weight};

/// The values of the rows of an activity, as far as they are there.
#[derive(Clone, Debug, Default)]
pub struct ActivityExecutionRows {
    /// Of [`RunRowKind::ActivityExecution`].
    pub asked: Option<Bytes>,
    /// Of [`RunRowKind::Activity`], of [`SCHEDULED_EVENT_ID`].
    pub activity: Option<Bytes>,
    /// Of [`RunRowKind::ActivityExecutionProgress`].
    pub progress: Option<Bytes>,
}

impl ActivityExecutionRows {
    /// The row of its attempts.
    pub fn activity_row() -> RunRow {
        RunRow { kind: RunRowKind::Activity, suffix: Suffix::Signed(SCHEDULED_EVENT_ID) }
    }
}

impl ActivityExecutions {
    /// From rows: of runs that are there, and which one is the current one.
    ///
    /// # Errors
    ///
    /// A row cannot be read.
    pub fn from_rows(
        id: impl Into<String>,
        current: Option<RunId>,
        runs: Vec<(RunId, ActivityExecutionRows)>,
    ) -> Result<ActivityExecutions, CorruptRow> {
        let read = |(run_id, rows)| Ok((run_id, Box::new(Execution::from_rows(run_id, rows)?)));
        let runs = runs.into_iter().map(read).collect::<Result<_, CorruptRow>>()?;
        Ok(ActivityExecutions { id: id.into(), current, runs })
    }
}

impl Asked {
    pub(super) fn from_row(value: &[u8]) -> Result<Asked, CorruptRow> {
        let row: Asked = decode(value)?;
        required(Some(&row.request_id).filter(|request_id| !request_id.is_empty()), "request id")?;
        Ok(row)
    }
}

impl Progress {
    pub(super) fn from_row(value: &[u8]) -> Result<Progress, CorruptRow> {
        let row: Progress = decode(value)?;
        let status = Status::try_from(row.status).ok().filter(|status| *status != Status::Unspecified);
        let status = required(status, "status")?;
        required(Some(status.is_open() == row.closed.is_none()).filter(|agree| *agree), "close time")?;
        Ok(row)
    }
}

impl Execution {
    fn from_rows(run_id: RunId, rows: ActivityExecutionRows) -> Result<Execution, CorruptRow> {
        let asked = Asked::from_row(&required(rows.asked, "activity execution")?)?;
        let activity = Activity::from_row(SCHEDULED_EVENT_ID, &required(rows.activity, "activity")?)?;
        let progress = Progress::from_row(&required(rows.progress, "progress")?)?;
        let mut run = Execution { run_id, asked, activity, progress, task_row: None, listed: None };
        run.task_row = run.wanted_task();
        run.listed = Some(run.to_be_listed());
        Ok(run)
    }

    /// Where its current attempt stands in its queue.
    pub(super) fn task_key(&self) -> TaskKey {
        TaskKey {
            kind: TaskKind::Activity,
            task_queue: self.activity.task_queue().to_owned(),
            position: TaskPosition {
                lane: self.activity.lane,
                priority: self.activity.priority,
                scheduled_time: self.activity.attempt_scheduled_time,
                run_id: self.run_id,
                scheduled_event_id: SCHEDULED_EVENT_ID,
            },
        }
    }

    fn wanted_task(&self) -> Option<(TaskKey, i32)> {
        let is_ready = self.status() == Status::Scheduled && self.activity.is_ready();
        is_ready.then(|| (self.task_key(), self.activity.attempt))
    }

    /// Carries out a change, which must have changed nothing if it is refused. It counts as a transition, whether it changes anything or
    /// not, in Temporal as well.
    pub(super) fn change(
        &mut self,
        id: &str,
        ctx: &Context<'_>,
        then: impl FnOnce(&mut Execution, &Context<'_>) -> Result<Reply, Rejection>,
    ) -> Result<Transition, Rejection> {
        let reply = then(self, ctx)?;
        self.progress.transition_count += 1;
        Ok(self.changed(id, ctx, reply))
    }

    /// It has begun.
    pub(super) fn began(&mut self, id: &str, ctx: &Context<'_>) -> Transition {
        let current = Current { run_id: self.run_id }.to_row();
        let rows = vec![
            (RowKey::Current, Some(current)),
            self.row(RunRow::only(RunRowKind::ActivityExecution), self.asked.encode_to_vec().into()),
        ];
        let reply = Ok(Reply::ActivityExecutionStarted(self.run_id, true));
        self.written(id, ctx, Transition { reply, rows, effects: Vec::new() })
    }

    /// What follows from a change: the rows that are no more what they were, and the task that is ready.
    pub(super) fn changed(&mut self, id: &str, ctx: &Context<'_>, reply: Reply) -> Transition {
        self.written(id, ctx, Transition::reply(reply))
    }

    fn written(&mut self, id: &str, ctx: &Context<'_>, mut transition: Transition) -> Transition {
        self.write_task(id, &mut transition);
        self.write_wake(ctx, &mut transition.rows);
        let listed = Some(self.to_be_listed());
        if listed != self.listed {
            let open = VisibilityKey { close_time: Time::MAX, ..self.visibility_key() };
            if self.progress.closed.is_some() {
                transition.rows.push((RowKey::Visibility(open), None));
            }
            transition.rows.push(self.list_row(id));
            self.listed = listed;
        }
        let rows = [
            self.row(ActivityExecutionRows::activity_row(), self.activity.to_row()),
            self.row(RunRow::only(RunRowKind::ActivityExecutionProgress), self.progress.encode_to_vec().into()),
        ];
        transition.rows.extend(rows);
        transition
    }

    fn write_task(&mut self, id: &str, transition: &mut Transition) {
        let wanted = self.wanted_task();
        if wanted == self.task_row {
            return;
        }
        if let Some((key, _)) = self.task_row.take()
            && wanted.as_ref().is_none_or(|(wanted, _)| *wanted != key)
        {
            transition.rows.push((RowKey::Task(key), None));
        }
        if let Some((key, attempt)) = &wanted {
            let weight = Weight::of_priority(self.activity.given_priority());
            let row = TaskRow::of_activity(id, *attempt, weight).to_row();
            transition.rows.push((RowKey::Task(key.clone()), Some(row)));
            transition.effects.push(Effect::OfferTask(Task {
                key: key.clone(),
                attempt: *attempt,
                sticky: None,
                version: None,
                entity: EntityKind::Activity,
                weight,
            }));
        }
        self.task_row = wanted;
    }

    /// Keeps one wake row, never later than what is due next: as of a run of a workflow.
    fn write_wake(&mut self, ctx: &Context<'_>, rows: &mut Rows) {
        let written = self.progress.wake_at.map(Time);
        let wanted = match self.progress.closed {
            Some(closed) => Some(Time(closed).plus(ctx.namespace.retention)),
            None => self.next_look(),
        };
        let keep = match (written, wanted) {
            (Some(written), _) if written <= ctx.now => false,
            (Some(written), Some(wanted)) if self.progress.closed.is_none() => written <= wanted,
            (Some(written), wanted) => self.progress.closed.is_none() || wanted == Some(written),
            (None, wanted) => wanted.is_none(),
        };
        if keep {
            return;
        }
        rows.extend(written.map(|time| (RowKey::Wake(time, self.run_id), None)));
        rows.extend(wanted.map(|time| (RowKey::Wake(time, self.run_id), Some(Bytes::new()))));
        self.progress.wake_at = wanted.map(|time| time.0);
    }

    /// The keys of its rows in other tables.
    pub(crate) fn secondary_rows(&self) -> impl Iterator<Item = RowKey> {
        let task = self.task_row.iter().map(|(key, _)| RowKey::Task(key.clone()));
        let wake = self.progress.wake_at.map(|at| RowKey::Wake(Time(at), self.run_id));
        std::iter::once(RowKey::Visibility(self.visibility_key())).chain(task).chain(wake)
    }

    /// Deletes all rows; also the one that says which is the current one, if this is.
    pub(super) fn delete_rows(&self, is_current: bool, rows: &mut Rows) {
        rows.extend(self.secondary_rows().map(|row| (row, None)));
        rows.push((RowKey::WholeRun(self.run_id), None));
        if is_current {
            rows.push((RowKey::Current, None));
        }
    }

    fn row(&self, row: RunRow, value: Bytes) -> (RowKey, Option<Bytes>) {
        (RowKey::Run(self.run_id, row), Some(value))
    }

    fn visibility_key(&self) -> VisibilityKey {
        let close_time = self.progress.closed.map_or(Time::MAX, Time);
        VisibilityKey { close_time, start_time: self.activity.scheduled_time, run_id: self.run_id }
    }

    fn list_row(&self, id: &str) -> (RowKey, Option<Bytes>) {
        let record = ActivityRecord {
            id,
            run_id: self.run_id,
            activity_type: self.activity.activity_type(),
            scheduled: self.activity.scheduled_time,
            due: self.first_due(),
            closed: self.progress.closed.map(Time),
            status: self.status().listed(),
            search_attributes: self.asked.search_attributes.as_ref(),
            task_queue: self.activity.task_queue(),
            transition_count: self.progress.transition_count,
        };
        (RowKey::Visibility(self.visibility_key()), Some(record.to_record().encode_to_vec().into()))
    }
}
