//! The row of an activity. Its key has the scheduled event.

use bytes::Bytes;
use everlog_proto::api::activity::v1::ActivityOptions;
use everlog_proto::api::common::v1::Payloads;
use everlog_proto::api::deployment::v1::WorkerDeploymentVersion;
use everlog_proto::api::failure::v1::Failure;
use everlog_proto::api::history::v1::ActivityTaskScheduledEventAttributes;
use prost::Message;

use super::{decode, encode, required};
use crate::state::{Activity, ActivityStarted, CorruptRow, Pause};
use crate::{Lane, Time};

#[derive(Message)]
struct ActivityRow {
    #[prost(sfixed64, optional, tag = "1")]
    scheduled_time: Option<i64>,
    /// `ActivityTaskScheduledEventAttributes`.
    #[prost(bytes = "bytes", optional, tag = "2")]
    scheduled: Option<Bytes>,
    #[prost(uint32, tag = "3")]
    priority: u32,
    #[prost(int32, tag = "4")]
    attempt: i32,
    /// If it is another one than `scheduled_time`.
    #[prost(sfixed64, optional, tag = "5")]
    attempt_scheduled_time: Option<i64>,
    #[prost(bool, tag = "6")]
    offered: bool,
    #[prost(message, optional, tag = "7")]
    started: Option<StartedRow>,
    #[prost(int64, optional, tag = "8")]
    cancel_requested_event_id: Option<i64>,
    /// `Payloads`.
    #[prost(bytes = "bytes", optional, tag = "9")]
    heartbeat_details: Option<Bytes>,
    /// `Failure`.
    #[prost(bytes = "bytes", optional, tag = "10")]
    last_failure: Option<Bytes>,
    #[prost(string, tag = "11")]
    last_worker_identity: String,
    #[prost(sfixed64, optional, tag = "12")]
    last_attempt_end: Option<i64>,
    /// If no attempt is started, or if it came in before that.
    #[prost(sfixed64, optional, tag = "13")]
    last_heartbeat: Option<i64>,
    #[prost(sfixed64, optional, tag = "14")]
    last_failure_reported: Option<i64>,
    #[prost(message, optional, tag = "15")]
    pause: Option<PauseRow>,
    /// `ActivityOptions`, if they are not those of the event.
    #[prost(bytes = "bytes", optional, tag = "16")]
    changed_options: Option<Bytes>,
    #[prost(bool, tag = "17")]
    is_reset: bool,
    #[prost(bool, tag = "18")]
    forgets_heartbeat: bool,
    #[prost(sfixed64, optional, tag = "19")]
    attempts_from: Option<i64>,
    #[prost(message, optional, boxed, tag = "20")]
    last_version: Option<Box<WorkerDeploymentVersion>>,
    /// 0 without one: rows from before there were any are right.
    #[prost(fixed64, tag = "21")]
    lane: u64,
}

#[derive(Message)]
struct PauseRow {
    #[prost(sfixed64, optional, tag = "1")]
    time: Option<i64>,
    #[prost(string, tag = "2")]
    identity: String,
    #[prost(string, tag = "3")]
    reason: String,
    #[prost(string, tag = "4")]
    request_id: String,
}

#[derive(Message)]
struct StartedRow {
    #[prost(sfixed64, optional, tag = "1")]
    time: Option<i64>,
    #[prost(string, tag = "2")]
    identity: String,
    #[prost(string, tag = "3")]
    request_id: String,
    #[prost(sfixed64, optional, tag = "4")]
    last_heartbeat: Option<i64>,
}

impl Activity {
    /// The value of its row.
    pub(crate) fn to_row(&self) -> Bytes {
        let attempt_time = self.attempt_scheduled_time;
        let is_earlier = |heartbeat: &Time| self.started.as_ref().is_none_or(|started| *heartbeat < started.time);
        let (earlier, of_attempt) = match self.last_heartbeat {
            Some(heartbeat) if is_earlier(&heartbeat) => (Some(heartbeat.0), None),
            heartbeat => (None, heartbeat),
        };
        encode(&ActivityRow {
            scheduled_time: Some(self.scheduled_time.0),
            scheduled: Some(encode(&self.scheduled)),
            priority: self.priority.into(),
            attempt: self.attempt,
            attempt_scheduled_time: (attempt_time != self.scheduled_time).then_some(attempt_time.0),
            offered: self.offered,
            started: self.started.as_ref().map(|started| started.to_row(of_attempt)),
            cancel_requested_event_id: self.cancel_requested_event_id,
            heartbeat_details: self.heartbeat_details.as_ref().map(encode),
            last_failure: self.last_failure.as_deref().map(encode),
            last_worker_identity: self.last_worker_identity.clone(),
            last_attempt_end: self.last_attempt_end.map(|time| time.0),
            last_heartbeat: earlier,
            last_failure_reported: self.last_failure_reported.map(|time| time.0),
            pause: self.pause.as_deref().map(Pause::to_row),
            changed_options: self.changed_options.as_deref().map(encode),
            is_reset: self.is_reset,
            forgets_heartbeat: self.forgets_heartbeat,
            attempts_from: self.attempts_from.map(|time| time.0),
            last_version: self.last_version.clone(),
            lane: self.lane.0,
        })
    }

    /// From the value of its row.
    pub(crate) fn from_row(scheduled_event_id: i64, value: &[u8]) -> Result<Activity, CorruptRow> {
        let row: ActivityRow = decode(value)?;
        let scheduled_time = Time(required(row.scheduled_time, "scheduled time")?);
        let attempt_scheduled_time = row.attempt_scheduled_time.map_or(scheduled_time, Time);
        let last_heartbeat = row.started.as_ref().and_then(|started| started.last_heartbeat).or(row.last_heartbeat);
        let started = row.started.map(ActivityStarted::from_row).transpose()?;
        let pause = row.pause.map(Pause::from_row).transpose()?.map(Box::new);
        let has_task_row = row.offered && started.is_none() && pause.is_none();
        Ok(Activity {
            scheduled_event_id,
            scheduled_time,
            scheduled: ActivityTaskScheduledEventAttributes::decode(required(row.scheduled, "scheduled event")?)?,
            changed_options: row.changed_options.map(ActivityOptions::decode).transpose()?.map(Box::new),
            pause,
            is_reset: row.is_reset,
            forgets_heartbeat: row.forgets_heartbeat,
            attempts_from: row.attempts_from.map(Time),
            priority: u8::try_from(row.priority).map_err(|_| CorruptRow("a priority that is none".into()))?,
            lane: Lane(row.lane),
            attempt: row.attempt,
            attempt_scheduled_time,
            offered: row.offered,
            started,
            cancel_requested_event_id: row.cancel_requested_event_id,
            heartbeat_details: row.heartbeat_details.map(Payloads::decode).transpose()?,
            last_heartbeat: last_heartbeat.map(Time),
            last_failure: row.last_failure.map(Failure::decode).transpose()?.map(Box::new),
            last_worker_identity: row.last_worker_identity,
            last_version: row.last_version,
            last_attempt_end: row.last_attempt_end.map(Time),
            last_failure_reported: row.last_failure_reported.map(Time),
            task_row_time: has_task_row.then_some(attempt_scheduled_time),
        })
    }
}

impl Pause {
    fn to_row(&self) -> PauseRow {
        PauseRow {
            time: Some(self.time.0),
            identity: self.identity.clone(),
            reason: self.reason.clone(),
            request_id: self.request_id.clone(),
        }
    }

    fn from_row(row: PauseRow) -> Result<Pause, CorruptRow> {
        Ok(Pause {
            time: Time(required(row.time, "pause")?),
            identity: row.identity,
            reason: row.reason,
            request_id: row.request_id,
        })
    }
}

impl ActivityStarted {
    fn to_row(&self, last_heartbeat: Option<Time>) -> StartedRow {
        StartedRow {
            time: Some(self.time.0),
            identity: self.identity.clone(),
            request_id: self.request_id.clone(),
            last_heartbeat: last_heartbeat.map(|time| time.0),
        }
    }

    fn from_row(row: StartedRow) -> Result<ActivityStarted, CorruptRow> {
        Ok(ActivityStarted {
            time: Time(required(row.time, "start")?),
            identity: row.identity,
            request_id: row.request_id,
        })
    }
}
