//! The rows of a schedule: what it is made of, how far it has come, what it hands on; its wake, and what lists show.

use bytes::Bytes;
use prost::Message;

use super::decide::Change;
use super::encoded;
use super::state::{Carried, Live, MadeOf, Progress, Schedule};
use crate::command::Reply;
use crate::rows::{RowKey, Rows, RunRow, RunRowKind};
use crate::state::row::{decode, required};
use crate::state::{CorruptRow, Current};
use crate::transition::{Transition, VisibilityKey};
use crate::{RunId, Time, visibility};

/// The rows of a schedule, as they are read.
#[derive(Clone, Debug, Default)]
pub struct ScheduleRows {
    /// That of [`RunRowKind::Schedule`].
    pub made_of: Option<Bytes>,
    /// That of [`RunRowKind::ScheduleProgress`].
    pub progress: Option<Bytes>,
    /// That of [`RunRowKind::ScheduleCarried`], if there is one.
    pub carried: Option<Bytes>,
}

impl Schedule {
    /// Puts a schedule together from its rows.
    ///
    /// # Errors
    ///
    /// [`CorruptRow`] if one is missing or cannot be read.
    pub fn from_rows(id: impl Into<String>, run_id: RunId, rows: ScheduleRows) -> Result<Schedule, CorruptRow> {
        let made_of = MadeOf::from_row(&required(rows.made_of, "schedule")?)?;
        let progress = Progress::from_row(&required(rows.progress, "schedule's progress")?)?;
        let carried = rows.carried.map(|row| Carried::from_row(&row)).transpose()?.unwrap_or_default();
        let mut live = Live { run_id, made_of, progress, carried, compiled: None };
        live.compile();
        Ok(Schedule { id: id.into(), live: Some(Box::new(live)) })
    }
}

impl MadeOf {
    pub(super) fn from_row(value: &[u8]) -> Result<MadeOf, CorruptRow> {
        let row: MadeOf = decode(value)?;
        required(row.definition.as_ref(), "definition")?;
        Ok(row)
    }
}

impl Progress {
    pub(super) fn from_row(value: &[u8]) -> Result<Progress, CorruptRow> {
        let row: Progress = decode(value)?;
        required((row.conflict_token != 0).then_some(()), "conflict token")?;
        Ok(row)
    }
}

impl Carried {
    pub(super) fn from_row(value: &[u8]) -> Result<Carried, CorruptRow> {
        let row: Carried = decode(value)?;
        required(row.since, "time")?;
        Ok(row)
    }
}

impl Live {
    /// The keys of its rows in other tables.
    pub(crate) fn secondary_rows(&self) -> impl Iterator<Item = RowKey> {
        let wake = self.progress.wake_at.map(|at| RowKey::Wake(Time(at), self.run_id));
        std::iter::once(RowKey::Visibility(self.visibility_key())).chain(wake)
    }

    /// Deletes all there is of it.
    pub(super) fn delete_rows(&self, rows: &mut Rows) {
        rows.extend(self.secondary_rows().map(|row| (row, None)));
        rows.push((RowKey::WholeRun(self.run_id), None));
        rows.push((RowKey::Current, None));
    }

    fn visibility_key(&self) -> VisibilityKey {
        VisibilityKey { close_time: Time::MAX, start_time: Time(self.progress.created), run_id: self.run_id }
    }
}

impl Change<'_, '_> {
    /// Ends the change: the schedule as it is now, and the rows and effects that follow from what was done.
    pub(super) fn finish(mut self) -> (Option<Box<Live>>, Transition) {
        let mut rows = Vec::new();
        if self.is_over {
            self.live.delete_rows(&mut rows);
            return (None, Transition { reply: Ok(Reply::Done), rows, effects: self.effects });
        }
        self.finish_wake(&mut rows);
        let run_id = self.live.run_id;
        let row = |kind, value| (RowKey::Run(run_id, RunRow::only(kind)), Some(value));
        if self.is_new {
            rows.push((RowKey::Current, Some(Current { run_id }.to_row())));
        }
        if self.made_of_changed {
            rows.push(row(RunRowKind::Schedule, encoded(&self.live.made_of)));
        }
        if self.carried_changed {
            rows.push(row(RunRowKind::ScheduleCarried, encoded(&self.live.carried)));
        }
        rows.push(row(RunRowKind::ScheduleProgress, encoded(&self.live.progress)));
        let listed = self.live.listed(self.id, self.ctx);
        let record = visibility::schedule_record(
            self.id,
            run_id,
            Time(self.live.progress.created),
            self.live.is_paused(),
            self.live.made_of.memo.as_ref(),
            self.live.made_of.search_attributes.as_ref(),
            encoded(&listed),
        );
        rows.push((RowKey::Visibility(self.live.visibility_key()), Some(record.encode_to_vec().into())));
        (Some(self.live), Transition { reply: Ok(Reply::Done), rows, effects: self.effects })
    }

    /// Keeps one wake row, never later than the next look. A look that moves away leaves the row where it is.
    fn finish_wake(&mut self, rows: &mut Rows) {
        let (now, run_id) = (self.ctx.now.0, self.live.run_id);
        let progress = &mut self.live.progress;
        let keep = match (progress.wake_at, progress.next_look) {
            (Some(written), Some(wanted)) => written > now && written <= wanted,
            (Some(written), None) => written > now,
            (None, wanted) => wanted.is_none(),
        };
        if keep {
            return;
        }
        if let Some(written) = progress.wake_at {
            rows.push((RowKey::Wake(Time(written), run_id), None));
        }
        if let Some(wanted) = progress.next_look {
            rows.push((RowKey::Wake(Time(wanted), run_id), Some(Bytes::new())));
        }
        progress.wake_at = progress.next_look;
    }
}
