//! The row of what a run was started with.

use bytes::Bytes;
use everlog_proto::api::common::v1::Priority;
use everlog_proto::api::sdk::v1::UserMetadata;
use prost::Message;

use super::{decode, encode, required};
use crate::proto::Encoded;
use crate::state::{CorruptRow, FirstEvent, LastWorker, OriginalProperties, PreviousRun, RunInfo};
use crate::{RunId, Time};

#[derive(Message)]
struct InfoRow {
    #[prost(sfixed64, optional, tag = "1")]
    start_time: Option<i64>,
    /// If it is another one than `start_time`.
    #[prost(sfixed64, optional, tag = "2")]
    execution_time: Option<i64>,
    /// `WorkflowExecutionStartedEventAttributes`.
    #[prost(bytes = "bytes", optional, tag = "3")]
    started: Option<Bytes>,
    #[prost(string, tag = "4")]
    start_request_id: String,
    #[prost(message, optional, tag = "5")]
    original_properties: Option<PropertiesRow>,
    /// `UserMetadata`.
    #[prost(bytes = "bytes", optional, tag = "6")]
    user_metadata: Option<Bytes>,
    #[prost(sfixed64, optional, tag = "7")]
    run_expiration: Option<i64>,
    #[prost(sfixed64, optional, tag = "8")]
    execution_expiration: Option<i64>,
    #[prost(message, optional, tag = "9")]
    previous: Option<PreviousRow>,
    #[prost(string, tag = "10")]
    scheduled_by: String,
    /// If it is another one than `start_time`.
    #[prost(sfixed64, optional, tag = "11")]
    original_start_time: Option<i64>,
    /// `Priority`, if it is another one than the first event's.
    #[prost(bytes = "bytes", optional, tag = "12")]
    given_priority: Option<Bytes>,
}

#[derive(Message)]
struct PreviousRow {
    #[prost(bytes = "bytes", tag = "1")]
    run_id: Bytes,
    #[prost(sfixed64, tag = "2")]
    until: i64,
}

#[derive(Message)]
struct PropertiesRow {
    /// `Memo`.
    #[prost(bytes = "bytes", optional, tag = "1")]
    memo: Option<Bytes>,
    /// `SearchAttributes`.
    #[prost(bytes = "bytes", optional, tag = "2")]
    search_attributes: Option<Bytes>,
}

impl RunInfo {
    /// The value of its row.
    pub(crate) fn to_row(&self) -> Bytes {
        let execution_time = self.execution_time;
        encode(&InfoRow {
            start_time: Some(self.start_time.0),
            execution_time: (execution_time != self.start_time).then_some(execution_time.0),
            original_start_time: self.original_start_time.map(|time| time.0),
            started: Some(self.started.encoded().clone()),
            start_request_id: self.start_request_id.clone(),
            original_properties: self.original_properties.as_deref().map(OriginalProperties::to_row),
            user_metadata: self.user_metadata.as_deref().map(encode),
            run_expiration: self.run_expiration.map(|time| time.0),
            execution_expiration: self.execution_expiration.map(|time| time.0),
            previous: self.previous.map(PreviousRun::to_row),
            scheduled_by: self.scheduled_by.as_deref().unwrap_or_default().to_owned(),
            given_priority: self.given_priority.as_deref().map(encode),
        })
    }

    /// From the value of its row.
    ///
    /// # Errors
    ///
    /// [`CorruptRow`] if it is none.
    pub fn from_row(value: &[u8]) -> Result<RunInfo, CorruptRow> {
        let row: InfoRow = decode(value)?;
        let start_time = Time(required(row.start_time, "start time")?);
        let user_metadata = row.user_metadata.map(UserMetadata::decode).transpose()?;
        Ok(RunInfo {
            start_time,
            execution_time: row.execution_time.map_or(start_time, Time),
            original_start_time: row.original_start_time.map(Time),
            started: FirstEvent::decode_from(required(row.started, "first event")?)?,
            original_properties: row.original_properties.map(OriginalProperties::from_row).transpose()?.map(Box::new),
            user_metadata: user_metadata.map(Box::new),
            given_priority: row.given_priority.map(Priority::decode).transpose()?.map(Box::new),
            start_request_id: row.start_request_id,
            run_expiration: row.run_expiration.map(Time),
            execution_expiration: row.execution_expiration.map(Time),
            previous: row.previous.map(PreviousRun::from_row).transpose()?,
            scheduled_by: (!row.scheduled_by.is_empty()).then(|| row.scheduled_by.into()),
            // What is known of workers has a row of its own.
            reset_points: Vec::new(),
            last_worker: LastWorker::default(),
            versioning: None,
        })
    }
}

impl PreviousRun {
    fn to_row(self) -> PreviousRow {
        PreviousRow { run_id: Bytes::copy_from_slice(&self.run_id.0), until: self.until.0 }
    }

    fn from_row(row: PreviousRow) -> Result<PreviousRun, CorruptRow> {
        let run_id = RunId(required(row.run_id[..].try_into().ok(), "previous run")?);
        Ok(PreviousRun { run_id, until: Time(row.until) })
    }
}

impl OriginalProperties {
    fn to_row(&self) -> PropertiesRow {
        PropertiesRow {
            memo: self.memo.as_ref().map(|memo| memo.bytes().clone()),
            search_attributes: self.search_attributes.as_ref().map(|attributes| attributes.bytes().clone()),
        }
    }

    fn from_row(row: PropertiesRow) -> Result<OriginalProperties, CorruptRow> {
        Ok(OriginalProperties {
            memo: row.memo.map(Encoded::check).transpose()?,
            search_attributes: row.search_attributes.map(Encoded::check).transpose()?,
        })
    }
}
