//! What a run was started with: its first event, encoded, with the few fields at hand that most transitions look at.
//!
//! Decoded, the attributes take about 2 kB a run, most of it for fields that nobody asks for before the run ends. So they are
//! kept as the bytes that the run's row has, and decoded where something rare wants more: a successor, a description, a change
//! of memo or search attributes.

use std::time::Duration;

use bytes::Bytes;
use everlog_proto::api::common::v1::Priority;
use everlog_proto::api::history::v1::WorkflowExecutionStartedEventAttributes;
use prost::Message;
use prost::encoding::{DecodeContext, decode_key, skip_field};

use crate::{RunId, time};

/// The attributes of a run's WorkflowExecutionStarted event, as far as they are kept. See [`super::RunInfo::started`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FirstEvent {
    encoded: Bytes,
    task_queue: Box<str>,
    workflow_type: Box<str>,
    first_run_id: Option<RunId>,
    priority: Option<Box<Priority>>,
    run_timeout: Option<Duration>,
    workflow_task_timeout: Option<Duration>,
    has_retry_policy: bool,
    has_parent: bool,
    has_cron_schedule: bool,
}

/// The fields of the attributes that a workflow can change later, each an encoded message.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Properties {
    /// A `Memo`.
    #[prost(bytes = "bytes", optional, tag = "22")]
    pub(crate) memo: Option<Bytes>,
    /// `SearchAttributes`.
    #[prost(bytes = "bytes", optional, tag = "23")]
    pub(crate) search_attributes: Option<Bytes>,
}

impl Properties {
    /// Their field numbers, between which there are no others.
    const TAGS: std::ops::RangeInclusive<u32> = 22..=23;
}

impl FirstEvent {
    /// Keeps `attributes`.
    pub(crate) fn new(attributes: &WorkflowExecutionStartedEventAttributes) -> FirstEvent {
        FirstEvent::from_parts(attributes.encode_to_vec().into(), attributes)
    }

    /// Keeps what is wanted at hand of `started`; reset points are kept elsewhere. Payloads are large, and only needed again if another run begins with them; they
    /// are not even copied otherwise.
    pub(crate) fn kept(started: &mut WorkflowExecutionStartedEventAttributes) -> FirstEvent {
        let (continued_failure, points) = (started.continued_failure.take(), started.prev_auto_reset_points.take());
        // They have rows of their own.
        let callbacks = std::mem::take(&mut started.completion_callbacks);
        let kept = if started.retry_policy.is_some() || !started.cron_schedule.is_empty() {
            FirstEvent::new(started)
        } else {
            let payloads = (started.input.take(), started.header.take(), started.last_completion_result.take());
            let kept = FirstEvent::new(started);
            (started.input, started.header, started.last_completion_result) = payloads;
            kept
        };
        (started.continued_failure, started.prev_auto_reset_points) = (continued_failure, points);
        started.completion_callbacks = callbacks;
        kept
    }

    /// Keeps what `encoded` holds.
    pub(super) fn decode_from(encoded: Bytes) -> Result<FirstEvent, prost::DecodeError> {
        let attributes = WorkflowExecutionStartedEventAttributes::decode(encoded.clone())?;
        Ok(FirstEvent::from_parts(encoded, &attributes))
    }

    fn from_parts(encoded: Bytes, attributes: &WorkflowExecutionStartedEventAttributes) -> FirstEvent {
        let timeout = |given| time::positive(given).ok().flatten();
        FirstEvent {
            encoded,
            task_queue: attributes.task_queue.as_ref().map_or("", |queue| &queue.name).into(),
            workflow_type: attributes.workflow_type.as_ref().map_or("", |workflow_type| &workflow_type.name).into(),
            first_run_id: attributes.first_execution_run_id.parse().ok(),
            priority: attributes.priority.clone().map(Box::new),
            run_timeout: timeout(attributes.workflow_run_timeout.as_ref()),
            workflow_task_timeout: timeout(attributes.workflow_task_timeout.as_ref()),
            has_retry_policy: attributes.retry_policy.is_some(),
            has_parent: attributes.parent_workflow_execution.is_some(),
            has_cron_schedule: !attributes.cron_schedule.is_empty(),
        }
    }

    /// All that is kept of the attributes. Takes about a microsecond.
    pub fn decode(&self) -> WorkflowExecutionStartedEventAttributes {
        WorkflowExecutionStartedEventAttributes::decode(self.encoded.clone())
            .expect("these bytes were encoded here, or were decoded when they were read")
    }

    /// Memo and search attributes.
    pub(crate) fn properties(&self) -> Properties {
        Properties::decode(self.encoded.clone()).expect("whatever decodes as a whole decodes in part")
    }

    /// The same with other memo and search attributes.
    pub(crate) fn with_properties(&self, properties: &Properties) -> FirstEvent {
        // Fields lie in the order of their numbers.
        let before = self.fields_until(|tag| tag >= *Properties::TAGS.start());
        let behind = self.fields_until(|tag| tag > *Properties::TAGS.end());
        let encoded = [&self.encoded[..before], &properties.encode_to_vec(), &self.encoded[behind..]].concat();
        FirstEvent { encoded: encoded.into(), ..self.clone() }
    }

    /// Bytes in front of the first field for which `is_behind` holds.
    fn fields_until(&self, is_behind: impl Fn(u32) -> bool) -> usize {
        let mut rest = self.encoded.clone();
        while !rest.is_empty() {
            let position = self.encoded.len() - rest.len();
            let (tag, wire_type) = decode_key(&mut rest).expect("the fields of a message that was decoded before");
            if is_behind(tag) {
                return position;
            }
            skip_field(wire_type, tag, &mut rest, DecodeContext::default()).expect("as above");
        }
        self.encoded.len()
    }

    /// The attributes, encoded.
    pub(crate) fn encoded(&self) -> &Bytes {
        &self.encoded
    }

    /// The run's normal task queue.
    pub fn task_queue(&self) -> &str {
        &self.task_queue
    }

    /// The workflow type's name.
    pub fn workflow_type(&self) -> &str {
        &self.workflow_type
    }

    /// The first run of the chain.
    pub(crate) fn first_run_id(&self) -> Option<RunId> {
        self.first_run_id
    }

    /// The priority that was given.
    pub(crate) fn priority(&self) -> Option<&Priority> {
        self.priority.as_deref()
    }

    /// How long the run may take; `None` for "not limited".
    pub(crate) fn run_timeout(&self) -> Option<Duration> {
        self.run_timeout
    }

    /// How long its workflow tasks may take.
    pub(crate) fn workflow_task_timeout(&self) -> Option<Duration> {
        self.workflow_task_timeout
    }

    /// Whether the run has a retry policy.
    pub(crate) fn has_retry_policy(&self) -> bool {
        self.has_retry_policy
    }

    /// Whether the run is a child of another one.
    pub(crate) fn has_parent(&self) -> bool {
        self.has_parent
    }

    /// Whether the run is followed by another when its cron schedule says so.
    pub(crate) fn has_cron_schedule(&self) -> bool {
        self.has_cron_schedule
    }

    /// Whether another run may begin with the same event: by a retry, or by its cron schedule.
    pub(crate) fn may_begin_again(&self) -> bool {
        self.has_retry_policy || self.has_cron_schedule
    }

    /// Bytes on the heap.
    pub(super) fn heap_bytes(&self) -> usize {
        let priority = self.priority.as_ref().map_or(0, |priority| size_of::<Priority>() + priority.fairness_key.len());
        self.encoded.len() + self.task_queue.len() + self.workflow_type.len() + priority
    }
}

#[cfg(test)]
mod tests {
    use everlog_proto::api::common::v1::{Memo, Payload, WorkflowType};
    use everlog_proto::api::taskqueue::v1::TaskQueue;
    use everlog_proto::wkt;

    use super::*;

    fn attributes() -> WorkflowExecutionStartedEventAttributes {
        WorkflowExecutionStartedEventAttributes {
            workflow_type: Some(WorkflowType { name: "type".into() }),
            task_queue: Some(TaskQueue { name: "queue".into(), ..TaskQueue::default() }),
            first_execution_run_id: RunId([7; 16]).to_string(),
            workflow_task_timeout: Some(wkt::Duration { seconds: 5, nanos: 0 }),
            priority: Some(Priority { priority_key: 2, ..Priority::default() }),
            identity: "starter".into(),
            workflow_id: "a field behind the properties".into(),
            ..WorkflowExecutionStartedEventAttributes::default()
        }
    }

    #[test]
    fn what_is_at_hand_is_what_is_encoded() {
        let event = FirstEvent::new(&attributes());
        assert_eq!(event.decode(), attributes());
        assert_eq!((event.task_queue(), event.workflow_type()), ("queue", "type"));
        assert_eq!(event.first_run_id(), Some(RunId([7; 16])));
        assert_eq!(event.priority().map(|priority| priority.priority_key), Some(2));
        assert_eq!((event.run_timeout(), event.workflow_task_timeout()), (None, Some(Duration::from_secs(5))));
        let none = FirstEvent::new(&WorkflowExecutionStartedEventAttributes::default());
        assert_eq!((none.task_queue(), none.first_run_id(), none.priority()), ("", None, None));
    }

    #[test]
    fn properties_are_replaced_in_their_place() {
        let memo = |text: &str| Memo { fields: [(text.to_owned(), Payload::default())].into() };
        let first = FirstEvent::new(&attributes());
        assert_eq!(first.properties(), Properties::default());
        let mut expected = attributes();
        let mut changed = first.clone();
        for text in ["one", "another"] {
            let properties = Properties { memo: Some(memo(text).encode_to_vec().into()), ..changed.properties() };
            changed = changed.with_properties(&properties);
            expected.memo = Some(memo(text));
            assert_eq!(changed, FirstEvent::new(&expected));
            assert_eq!(changed.properties(), properties);
        }
        assert_eq!(changed.with_properties(&Properties::default()), first);
    }

    #[test]
    fn what_is_read_is_what_was_encoded() {
        let event = FirstEvent::new(&attributes());
        assert_eq!(FirstEvent::decode_from(event.encoded().clone()), Ok(event));
        assert!(FirstEvent::decode_from(Bytes::from_static(b"\xff")).is_err());
    }
}
