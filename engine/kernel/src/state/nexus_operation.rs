//! An operation of a Nexus service that a workflow waits for.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use everlog_proto::api::enums::v1::{NexusOperationCancellationState as CancelState, TimeoutType};
use everlog_proto::api::failure::v1::Failure;
use everlog_proto::api::history::v1::NexusOperationScheduledEventAttributes;
use everlog_proto::wkt;
use prost::Message;

use super::row::{decode, encode, required};
use super::{CorruptRow, PendingValue};
use crate::rows::RunRowKind;
use crate::{Time, nexus, time};

/// An operation between its NexusOperationScheduled event and its end. Attempts to call it leave no events.
#[derive(Clone, Debug, PartialEq)]
pub struct NexusOperation {
    /// Its NexusOperationScheduled event.
    pub scheduled_event_id: i64,
    /// When that was.
    pub scheduled_time: Time,
    /// The event's attributes. The input is not kept once the operation has started: nobody asks for it any more.
    pub scheduled: NexusOperationScheduledEventAttributes,
    /// How often it was called in vain, and once more when it has started.
    pub attempt: i32,
    /// When it is called next, or again if nothing is heard of the call that goes on; `None` once it has started.
    pub call_at: Option<Time>,
    /// Whether a call has failed and the next one waits.
    pub is_backing_off: bool,
    /// When the last call ended.
    pub last_attempt_end: Option<Time>,
    /// Why it failed.
    pub last_failure: Option<Box<Failure>>,
    /// When it has started.
    pub started_time: Option<Time>,
    /// What the service knows it by, once it has started.
    pub operation_token: String,
    /// That the workflow wants it canceled.
    pub cancel: Option<NexusCancel>,
}

/// A request to cancel an operation.
#[derive(Clone, Debug, PartialEq)]
pub struct NexusCancel {
    /// Its NexusOperationCancelRequested event.
    pub requested_event_id: i64,
    /// When the service could be asked first: that the operation is started is known.
    pub requested_time: Option<Time>,
    /// How far it has come; unspecified until the operation has started.
    pub state: CancelState,
    /// How often the service was asked.
    pub attempt: i32,
    /// When the service is asked next, as in [`NexusOperation::call_at`].
    pub call_at: Option<Time>,
    /// When it was asked last.
    pub last_attempt_end: Option<Time>,
    /// Why that has failed.
    pub last_failure: Option<Box<Failure>>,
}

impl NexusCancel {
    /// Before the operation has started.
    pub(crate) fn requested(event_id: i64) -> NexusCancel {
        NexusCancel {
            requested_event_id: event_id,
            requested_time: None,
            state: CancelState::Unspecified,
            attempt: 0,
            call_at: None,
            last_attempt_end: None,
            last_failure: None,
        }
    }

    /// Whether the service has taken it, or never will.
    pub fn is_over(&self) -> bool {
        matches!(self.state, CancelState::Succeeded | CancelState::Failed)
    }

    /// The operation has started, and the service is to be asked.
    fn begin(&mut self, now: Time) {
        if self.state == CancelState::Unspecified {
            self.requested_time = Some(now);
            self.state = CancelState::Scheduled;
            self.call_at = Some(now.plus(nexus::CALL_LOST_AFTER));
        }
    }

    /// It is known what became of it.
    pub(crate) fn end(&mut self, state: CancelState, failure: Option<&Failure>) {
        self.state = state;
        self.call_at = None;
        self.last_failure = failure.cloned().map(Box::new);
    }
}

impl NexusOperation {
    /// The operation that a NexusOperationScheduled event schedules.
    pub(crate) fn scheduled(
        event_id: i64,
        time: Time,
        attributes: NexusOperationScheduledEventAttributes,
    ) -> NexusOperation {
        NexusOperation {
            scheduled_event_id: event_id,
            scheduled_time: time,
            scheduled: attributes,
            attempt: 0,
            call_at: Some(time.plus(nexus::CALL_LOST_AFTER)),
            is_backing_off: false,
            last_attempt_end: None,
            last_failure: None,
            started_time: None,
            operation_token: String::new(),
            cancel: None,
        }
    }

    /// Whether it goes on by itself.
    pub fn is_started(&self) -> bool {
        self.started_time.is_some()
    }

    /// It goes on by itself from here on.
    pub(crate) fn start(&mut self, now: Time, operation_token: &str) {
        if self.is_started() {
            return;
        }
        self.attempt += 1;
        self.last_attempt_end = Some(now);
        self.last_failure = None;
        self.is_backing_off = false;
        self.call_at = None;
        self.started_time = Some(now);
        operation_token.clone_into(&mut self.operation_token);
        self.scheduled.input = None;
        if let Some(cancel) = &mut self.cancel {
            cancel.begin(now);
        }
    }

    /// The workflow wants it canceled.
    pub(crate) fn request_cancel(&mut self, event_id: i64, now: Time) {
        let mut cancel = NexusCancel::requested(event_id);
        if self.is_started() {
            cancel.begin(now);
        }
        self.cancel = Some(cancel);
    }

    /// How long one of its timeouts is; `None` for "not limited".
    pub(crate) fn timeout(
        &self,
        given: impl Fn(&NexusOperationScheduledEventAttributes) -> Option<&wkt::Duration>,
    ) -> Option<Duration> {
        time::positive(given(&self.scheduled)).ok().flatten()
    }

    /// When it must have ended.
    pub fn schedule_to_close_deadline(&self) -> Option<Time> {
        let timeout = self.timeout(|scheduled| scheduled.schedule_to_close_timeout.as_ref())?;
        Some(self.scheduled_time.plus(timeout))
    }

    /// When it must have started; `None` once it has.
    pub fn schedule_to_start_deadline(&self) -> Option<Time> {
        let timeout = self.timeout(|scheduled| scheduled.schedule_to_start_timeout.as_ref())?;
        (!self.is_started()).then(|| self.scheduled_time.plus(timeout))
    }

    /// When it must have ended, counted from its start.
    pub fn start_to_close_deadline(&self) -> Option<Time> {
        let timeout = self.timeout(|scheduled| scheduled.start_to_close_timeout.as_ref())?;
        Some(self.started_time?.plus(timeout))
    }

    /// Its timeouts with their times.
    pub(crate) fn timeouts(&self) -> impl Iterator<Item = (Time, TimeoutType)> + use<> {
        [
            (self.schedule_to_close_deadline(), TimeoutType::ScheduleToClose),
            (self.schedule_to_start_deadline(), TimeoutType::ScheduleToStart),
            (self.start_to_close_deadline(), TimeoutType::StartToClose),
        ]
        .into_iter()
        .filter_map(|(deadline, kind)| Some((deadline?, kind)))
    }

    /// The next time at which something is to be done about it.
    pub fn next_deadline(&self) -> Option<Time> {
        let cancel = self.cancel.as_ref().and_then(|cancel| cancel.call_at);
        self.timeouts().map(|(deadline, _)| deadline).chain(self.call_at).chain(cancel).min()
    }
}

/// The value of an operation's row. Its key has the scheduled event.
#[derive(Message)]
struct NexusOperationRow {
    #[prost(sfixed64, optional, tag = "1")]
    scheduled_time: Option<i64>,
    /// `NexusOperationScheduledEventAttributes`.
    #[prost(bytes = "bytes", optional, tag = "2")]
    scheduled: Option<Bytes>,
    #[prost(int32, tag = "3")]
    attempt: i32,
    #[prost(sfixed64, optional, tag = "4")]
    call_at: Option<i64>,
    #[prost(bool, tag = "5")]
    is_backing_off: bool,
    #[prost(sfixed64, optional, tag = "6")]
    last_attempt_end: Option<i64>,
    /// `Failure`.
    #[prost(bytes = "bytes", optional, tag = "7")]
    last_failure: Option<Bytes>,
    #[prost(sfixed64, optional, tag = "8")]
    started_time: Option<i64>,
    #[prost(string, tag = "9")]
    operation_token: String,
    #[prost(message, optional, tag = "10")]
    cancel: Option<CancelRow>,
}

#[derive(Message)]
struct CancelRow {
    #[prost(int64, tag = "1")]
    requested_event_id: i64,
    #[prost(sfixed64, optional, tag = "2")]
    requested_time: Option<i64>,
    #[prost(enumeration = "CancelState", tag = "3")]
    state: i32,
    #[prost(int32, tag = "4")]
    attempt: i32,
    #[prost(sfixed64, optional, tag = "5")]
    call_at: Option<i64>,
    #[prost(sfixed64, optional, tag = "6")]
    last_attempt_end: Option<i64>,
    /// `Failure`.
    #[prost(bytes = "bytes", optional, tag = "7")]
    last_failure: Option<Bytes>,
}

fn failure_to_row(failure: Option<&Failure>) -> Option<Bytes> {
    failure.map(encode)
}

fn failure_from_row(row: Option<&Bytes>) -> Result<Option<Box<Failure>>, CorruptRow> {
    Ok(row.map(|bytes| decode(bytes)).transpose()?.map(Box::new))
}

impl PendingValue for Arc<NexusOperation> {
    type Key = i64;
    const KIND: RunRowKind = RunRowKind::NexusOperation;

    fn to_row(&self) -> Bytes {
        encode(&NexusOperationRow {
            scheduled_time: Some(self.scheduled_time.0),
            scheduled: Some(encode(&self.scheduled)),
            attempt: self.attempt,
            call_at: self.call_at.map(|time| time.0),
            is_backing_off: self.is_backing_off,
            last_attempt_end: self.last_attempt_end.map(|time| time.0),
            last_failure: failure_to_row(self.last_failure.as_deref()),
            started_time: self.started_time.map(|time| time.0),
            operation_token: self.operation_token.clone(),
            cancel: self.cancel.as_ref().map(|cancel| CancelRow {
                requested_event_id: cancel.requested_event_id,
                requested_time: cancel.requested_time.map(|time| time.0),
                state: cancel.state as i32,
                attempt: cancel.attempt,
                call_at: cancel.call_at.map(|time| time.0),
                last_attempt_end: cancel.last_attempt_end.map(|time| time.0),
                last_failure: failure_to_row(cancel.last_failure.as_deref()),
            }),
        })
    }

    fn from_row(scheduled_event_id: &i64, row: Bytes) -> Result<Arc<NexusOperation>, CorruptRow> {
        let row: NexusOperationRow = decode(&row)?;
        let cancel = |row: CancelRow| {
            Ok::<_, CorruptRow>(NexusCancel {
                requested_event_id: row.requested_event_id,
                requested_time: row.requested_time.map(Time),
                state: row.state(),
                attempt: row.attempt,
                call_at: row.call_at.map(Time),
                last_attempt_end: row.last_attempt_end.map(Time),
                last_failure: failure_from_row(row.last_failure.as_ref())?,
            })
        };
        Ok(Arc::new(NexusOperation {
            scheduled_event_id: *scheduled_event_id,
            scheduled_time: Time(required(row.scheduled_time, "time")?),
            scheduled: decode(&required(row.scheduled, "attributes")?)?,
            attempt: row.attempt,
            call_at: row.call_at.map(Time),
            is_backing_off: row.is_backing_off,
            last_attempt_end: row.last_attempt_end.map(Time),
            last_failure: failure_from_row(row.last_failure.as_ref())?,
            started_time: row.started_time.map(Time),
            operation_token: row.operation_token,
            cancel: row.cancel.map(cancel).transpose()?,
        }))
    }

    fn memory_bytes(&self) -> usize {
        let failure = |failure: Option<&Failure>| failure.map_or(0, |it| size_of::<Failure>() + it.encoded_len());
        size_of::<NexusOperation>()
            // Decoded, with its fields in allocations of their own, a message takes about that much more.
            + 256 + self.scheduled.encoded_len()
            + self.operation_token.len()
            + failure(self.last_failure.as_deref())
            + self.cancel.as_ref().map_or(0, |cancel| failure(cancel.last_failure.as_deref()))
    }
}
