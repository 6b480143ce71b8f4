//! The row of what is known of a run's workers.
//!
//! It is apart from what the run was started with, which may be large, because it comes with the first workflow task that is completed.

use bytes::Bytes;
use everlog_proto::api::common::v1::WorkerVersionStamp;
use everlog_proto::api::history::v1::DeclinedTargetVersionUpgrade;
use everlog_proto::api::workflow::v1::WorkflowExecutionVersioningInfo;
use prost::Message;

use super::{decode, encode, required};
use crate::payload_map::PayloadMap;
use crate::state::{CorruptRow, LastWorker, ResetPoint, Versioning};
use crate::{RunId, Time};

/// What is known of a run's workers.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Workers {
    /// Where the chain can be reset to, oldest first.
    pub(crate) reset_points: Vec<ResetPoint>,
    /// The worker that has completed the last workflow task.
    pub(crate) last_worker: LastWorker,
    /// The search attributes that name workers.
    pub(crate) search_attributes: PayloadMap,
    /// The run's version.
    pub(crate) versioning: Option<Box<Versioning>>,
}

#[derive(Message)]
struct WorkersRow {
    #[prost(message, repeated, tag = "1")]
    reset_points: Vec<ResetPointRow>,
    /// `WorkerVersionStamp`.
    #[prost(bytes = "bytes", optional, tag = "2")]
    last_version_stamp: Option<Bytes>,
    #[prost(string, tag = "3")]
    last_deployment_name: String,
    /// `SearchAttributes`.
    #[prost(message, optional, tag = "4")]
    search_attributes: Option<PayloadMap>,
    #[prost(message, optional, tag = "5")]
    versioning: Option<WorkflowExecutionVersioningInfo>,
    #[prost(message, optional, tag = "6")]
    notified: Option<DeclinedTargetVersionUpgrade>,
    #[prost(message, optional, tag = "7")]
    declined: Option<DeclinedTargetVersionUpgrade>,
}

#[derive(Message)]
struct ResetPointRow {
    #[prost(bytes = "bytes", tag = "1")]
    run_id: Bytes,
    #[prost(int64, tag = "2")]
    completed_event_id: i64,
    #[prost(sfixed64, tag = "3")]
    create_time: i64,
    #[prost(sfixed64, optional, tag = "4")]
    expire_time: Option<i64>,
    #[prost(bool, tag = "5")]
    is_resettable: bool,
    #[prost(string, tag = "6")]
    binary_checksum: String,
    #[prost(string, tag = "7")]
    build_id: String,
}

impl Workers {
    /// The value of its row.
    pub(crate) fn to_row(&self) -> Bytes {
        let Versioning { info, notified, declined } = self.versioning.as_deref().cloned().unwrap_or_default();
        encode(&WorkersRow {
            versioning: self.versioning.is_some().then_some(info),
            notified,
            declined,
            reset_points: self.reset_points.iter().map(ResetPoint::to_row).collect(),
            last_version_stamp: self.last_worker.version_stamp.as_ref().map(encode),
            last_deployment_name: self.last_worker.deployment_name.clone(),
            search_attributes: Some(self.search_attributes.clone()),
        })
    }

    /// From the value of its row.
    pub(crate) fn from_row(value: &[u8]) -> Result<Workers, CorruptRow> {
        let row: WorkersRow = decode(value)?;
        Ok(Workers {
            reset_points: row.reset_points.into_iter().map(ResetPoint::from_row).collect::<Result<_, _>>()?,
            last_worker: LastWorker {
                version_stamp: row.last_version_stamp.map(WorkerVersionStamp::decode).transpose()?,
                deployment_name: row.last_deployment_name,
            },
            search_attributes: required(row.search_attributes, "search attributes")?,
            versioning: row
                .versioning
                .map(|info| Box::new(Versioning { info, notified: row.notified, declined: row.declined })),
        })
    }
}

impl ResetPoint {
    fn to_row(&self) -> ResetPointRow {
        ResetPointRow {
            run_id: Bytes::copy_from_slice(&self.run_id.0),
            completed_event_id: self.completed_event_id,
            create_time: self.create_time.0,
            expire_time: self.expire_time.map(|time| time.0),
            is_resettable: self.is_resettable,
            binary_checksum: self.binary_checksum.to_string(),
            build_id: self.build_id.to_string(),
        }
    }

    fn from_row(row: ResetPointRow) -> Result<ResetPoint, CorruptRow> {
        Ok(ResetPoint {
            run_id: RunId(required(row.run_id[..].try_into().ok(), "run to reset")?),
            completed_event_id: row.completed_event_id,
            create_time: Time(row.create_time),
            expire_time: row.expire_time.map(Time),
            is_resettable: row.is_resettable,
            binary_checksum: row.binary_checksum.into(),
            build_id: row.build_id.into(),
        })
    }
}
