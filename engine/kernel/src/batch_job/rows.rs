//! The rows of a batch job: what was asked for, how far it has come; its wake, and what lists show.

use bytes::Bytes;
use everlog_proto::api::batch::v1::BatchOperationInfo;
use prost::Message;

use super::state::{Asked, BatchJob, Live, Progress, Status};
use crate::command::Reply;
use crate::rows::{RowKey, Rows, RunRow, RunRowKind};
use crate::state::row::{decode, required};
use crate::state::{CorruptRow, Current};
use crate::transition::{Effect, Transition, VisibilityKey};
use crate::{RunId, Time, visibility};

/// The rows of a batch job, as they are read.
#[derive(Clone, Debug, Default)]
pub struct BatchJobRows {
    /// That of [`RunRowKind::BatchJob`].
    pub asked: Option<Bytes>,
    /// That of [`RunRowKind::BatchJobProgress`].
    pub progress: Option<Bytes>,
}

impl BatchJob {
    /// Puts a batch job together from its rows.
    ///
    /// # Errors
    ///
    /// [`CorruptRow`] if one is missing or cannot be read.
    pub fn from_rows(id: impl Into<String>, run_id: RunId, rows: BatchJobRows) -> Result<BatchJob, CorruptRow> {
        let asked = Asked::from_row(&required(rows.asked, "batch job")?)?;
        let progress = Progress::from_row(&required(rows.progress, "batch job's progress")?)?;
        Ok(BatchJob { id: id.into(), live: Some(Box::new(Live { run_id, asked, progress })) })
    }
}

impl Asked {
    pub(super) fn from_row(value: &[u8]) -> Result<Asked, CorruptRow> {
        let row: Asked = decode(value)?;
        required(row.request.as_ref(), "request")?;
        Ok(row)
    }
}

impl Progress {
    pub(super) fn from_row(value: &[u8]) -> Result<Progress, CorruptRow> {
        let row: Progress = decode(value)?;
        required(Status::try_from(row.status).ok().filter(|status| *status != Status::Unspecified), "status")?;
        required(row.closed.map(drop).or(row.page.as_ref().map(drop)), "page")?;
        Ok(row)
    }
}

impl Live {
    /// It was started.
    pub(super) fn began(&self, id: &str) -> Transition {
        let mut rows = vec![
            (RowKey::Current, Some(Current { run_id: self.run_id }.to_row())),
            self.row(RunRowKind::BatchJob, &self.asked),
            self.row(RunRowKind::BatchJobProgress, &self.progress),
            self.listed(id),
        ];
        rows.extend(self.progress.wake_at.map(|at| (self.wake(at), Some(Bytes::new()))));
        Transition { reply: Ok(Reply::Done), rows, effects: vec![self.is_to_be_worked_on()] }
    }

    /// It works on another page.
    pub(super) fn went_on(&self) -> Transition {
        let rows = vec![self.row(RunRowKind::BatchJobProgress, &self.progress)];
        Transition { reply: Ok(Reply::Done), rows, effects: Vec::new() }
    }

    /// It has ended; before, its wake was at `woken_at`.
    pub(super) fn closed(&self, id: &str, woken_at: Option<i64>) -> Transition {
        let as_open = VisibilityKey { close_time: Time::MAX, ..self.visibility_key() };
        let mut rows = vec![
            self.row(RunRowKind::BatchJobProgress, &self.progress),
            (RowKey::Visibility(as_open), None),
            self.listed(id),
        ];
        rows.extend(woken_at.map(|at| (self.wake(at), None)));
        rows.extend(self.progress.wake_at.map(|at| (self.wake(at), Some(Bytes::new()))));
        let effects = vec![Effect::BatchJob { run_id: self.run_id, is_running: false }];
        Transition { reply: Ok(Reply::Done), rows, effects }
    }

    /// The keys of its rows in other tables.
    pub(crate) fn secondary_rows(&self) -> impl Iterator<Item = RowKey> {
        let wake = self.progress.wake_at.map(|at| self.wake(at));
        std::iter::once(RowKey::Visibility(self.visibility_key())).chain(wake)
    }

    /// Deletes all there is of it.
    pub(super) fn delete_rows(&self, rows: &mut Rows) {
        rows.extend(self.secondary_rows().map(|row| (row, None)));
        rows.push((RowKey::WholeRun(self.run_id), None));
        rows.push((RowKey::Current, None));
    }

    fn row(&self, kind: RunRowKind, value: &impl Message) -> (RowKey, Option<Bytes>) {
        (RowKey::Run(self.run_id, RunRow::only(kind)), Some(value.encode_to_vec().into()))
    }

    fn wake(&self, at: i64) -> RowKey {
        RowKey::Wake(Time(at), self.run_id)
    }

    fn visibility_key(&self) -> VisibilityKey {
        let close_time = self.progress.closed.map_or(Time::MAX, Time);
        VisibilityKey { close_time, start_time: Time(self.progress.started), run_id: self.run_id }
    }

    fn listed(&self, id: &str) -> (RowKey, Option<Bytes>) {
        let info = BatchOperationInfo {
            job_id: id.to_owned(),
            state: self.state().into(),
            start_time: Some(Time(self.progress.started).to_proto()),
            close_time: self.progress.closed.map(|closed| Time(closed).to_proto()),
            operation_type: self.operation_type().into(),
        };
        let record = visibility::batch_job_record(id, self.run_id, self.progress.status, &info);
        (RowKey::Visibility(self.visibility_key()), Some(record.encode_to_vec().into()))
    }
}
