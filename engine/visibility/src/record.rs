//! Records read from their encoded bytes, only as far as a filter asks.

use everlog_kernel::Time;

/// Field numbers of `WorkflowExecutionInfo`.
pub(super) mod field {
    pub(in super::super) const EXECUTION: u32 = 1;
    pub(in super::super) const WORKFLOW_TYPE: u32 = 2;
    pub(in super::super) const START_TIME: u32 = 3;
    pub(in super::super) const CLOSE_TIME: u32 = 4;
    pub(in super::super) const STATUS: u32 = 5;
    pub(in super::super) const HISTORY_LENGTH: u32 = 6;
    pub(in super::super) const PARENT_NAMESPACE_ID: u32 = 7;
    pub(in super::super) const PARENT_EXECUTION: u32 = 8;
    pub(in super::super) const EXECUTION_TIME: u32 = 9;
    pub(in super::super) const MEMO: u32 = 10;
    pub(in super::super) const SEARCH_ATTRIBUTES: u32 = 11;
    pub(in super::super) const TASK_QUEUE: u32 = 13;
    pub(in super::super) const STATE_TRANSITION_COUNT: u32 = 14;
    pub(in super::super) const HISTORY_SIZE_BYTES: u32 = 15;
    pub(in super::super) const EXECUTION_DURATION: u32 = 17;
    pub(in super::super) const ROOT_EXECUTION: u32 = 18;
    pub(in super::super) const FIRST_RUN_ID: u32 = 21;
    pub(in super::super) const PRIORITY: u32 = 24;
}

/// An encoded `WorkflowExecutionInfo`, taken apart one level deep. Where a field is there more than once, the last one counts;
/// [`everlog_kernel`] never writes such a record.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Record<'a> {
    execution: Option<&'a [u8]>,
    workflow_type: Option<&'a [u8]>,
    start_time: Option<&'a [u8]>,
    close_time: Option<&'a [u8]>,
    execution_time: Option<&'a [u8]>,
    execution_duration: Option<&'a [u8]>,
    parent_execution: Option<&'a [u8]>,
    root_execution: Option<&'a [u8]>,
    search_attributes: Option<&'a [u8]>,
    /// The task queue.
    pub task_queue: &'a str,
    /// The status, a `WorkflowExecutionStatus`.
    pub status: i64,
    /// Events.
    pub history_length: i64,
    /// Transitions.
    pub state_transition_count: i64,
    /// Bytes.
    pub history_size_bytes: i64,
}

impl<'a> Record<'a> {
    /// Takes a record apart. `None` if it is none.
    pub fn parse(encoded: &'a [u8]) -> Option<Record<'a>> {
        Record::parse_until(encoded, u32::MAX)
    }

    /// Takes a record apart up to the field `last`, and up to the status in any case: fields lie in the order of their numbers, since
    /// that is how [`everlog_kernel`] writes them. What lies behind is left out, and not looked at.
    pub(super) fn parse_until(encoded: &'a [u8], last: u32) -> Option<Record<'a>> {
        let last = last.max(field::STATUS);
        let mut record = Record::default();
        let mut rest = encoded;
        while !rest.is_empty() {
            let (number, value) = next_field(&mut rest)?;
            if number > last {
                break;
            }
            match (number, value) {
                (field::EXECUTION, Wire::Bytes(bytes)) => record.execution = Some(bytes),
                (field::WORKFLOW_TYPE, Wire::Bytes(bytes)) => record.workflow_type = Some(bytes),
                (field::START_TIME, Wire::Bytes(bytes)) => record.start_time = Some(bytes),
                (field::CLOSE_TIME, Wire::Bytes(bytes)) => record.close_time = Some(bytes),
                (field::STATUS, Wire::Varint(number)) => record.status = number as i64,
                (field::HISTORY_LENGTH, Wire::Varint(number)) => record.history_length = number as i64,
                (field::PARENT_EXECUTION, Wire::Bytes(bytes)) => record.parent_execution = Some(bytes),
                (field::EXECUTION_TIME, Wire::Bytes(bytes)) => record.execution_time = Some(bytes),
                (field::SEARCH_ATTRIBUTES, Wire::Bytes(bytes)) => record.search_attributes = Some(bytes),
                (field::TASK_QUEUE, Wire::Bytes(bytes)) => record.task_queue = std::str::from_utf8(bytes).ok()?,
                (field::STATE_TRANSITION_COUNT, Wire::Varint(number)) => record.state_transition_count = number as i64,
                (field::HISTORY_SIZE_BYTES, Wire::Varint(number)) => record.history_size_bytes = number as i64,
                (field::EXECUTION_DURATION, Wire::Bytes(bytes)) => record.execution_duration = Some(bytes),
                (field::ROOT_EXECUTION, Wire::Bytes(bytes)) => record.root_execution = Some(bytes),
                _ => {}
            }
        }
        Some(record)
    }

    /// A record of which nothing but the status is known.
    pub(super) fn of_status(status: i64) -> Record<'static> {
        Record { status, ..Record::default() }
    }

    /// Whether the run is open.
    pub fn is_open(&self) -> bool {
        self.close_time.is_none()
    }

    /// The workflow id.
    pub fn workflow_id(&self) -> &'a str {
        text(self.execution, 1)
    }

    /// The run id.
    pub fn run_id(&self) -> &'a str {
        text(self.execution, 2)
    }

    /// The name of the workflow type.
    pub fn workflow_type(&self) -> &'a str {
        text(self.workflow_type, 1)
    }

    /// When the run was started.
    pub fn start_time(&self) -> Option<Time> {
        self.start_time.map(nanos).map(Time)
    }

    /// When the run closed.
    pub fn close_time(&self) -> Option<Time> {
        self.close_time.map(nanos).map(Time)
    }

    /// When the first workflow task was due.
    pub fn execution_time(&self) -> Option<Time> {
        self.execution_time.map(nanos).map(Time)
    }

    /// From execution time to close time, nanoseconds.
    pub fn execution_duration(&self) -> Option<i64> {
        self.execution_duration.map(nanos)
    }

    /// Workflow id and run id of the parent.
    pub fn parent(&self) -> Option<(&'a str, &'a str)> {
        self.parent_execution.map(|parent| (text(Some(parent), 1), text(Some(parent), 2)))
    }

    /// Workflow id and run id of the root: the run's own, if it has none.
    pub fn root(&self) -> (&'a str, &'a str) {
        let root = self.root_execution.or(self.execution);
        (text(root, 1), text(root, 2))
    }

    /// The data of a search attribute's payload: JSON.
    pub fn search_attribute(&self, name: &str) -> Option<&'a [u8]> {
        let mut rest = self.search_attributes?;
        while !rest.is_empty() {
            let (1, Wire::Bytes(entry)) = next_field(&mut rest)? else { continue };
            if text(Some(entry), 1) == name {
                return Some(find(find(entry, 2)?, 2).unwrap_or_default());
            }
        }
        None
    }
}

/// A field's value as it lies on the wire.
pub(super) enum Wire<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    Fixed,
}

/// Takes the next field off an encoded message.
#[inline]
pub(super) fn next_field<'a>(rest: &mut &'a [u8]) -> Option<(u32, Wire<'a>)> {
    let key = varint(rest)?;
    let wire = match key & 7 {
        0 => Wire::Varint(varint(rest)?),
        1 => take(rest, 8).map(|_| Wire::Fixed)?,
        2 => {
            let length = usize::try_from(varint(rest)?).ok()?;
            Wire::Bytes(take(rest, length)?)
        }
        5 => take(rest, 4).map(|_| Wire::Fixed)?,
        _ => return None,
    };
    Some((u32::try_from(key >> 3).ok()?, wire))
}

#[inline]
fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(length)?;
    *rest = left;
    Some(taken)
}

#[inline]
fn varint(rest: &mut &[u8]) -> Option<u64> {
    match *rest {
        // Keys, lengths and most numbers.
        [byte @ ..0x80, behind @ ..] => {
            *rest = behind;
            Some(u64::from(*byte))
        }
        _ => long_varint(rest),
    }
}

fn long_varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, behind) = rest.split_first()?;
        *rest = behind;
        value |= u64::from(byte & 0x7f) << shift;
        if *byte < 0x80 {
            return Some(value);
        }
    }
    None
}

/// The bytes of a field of an encoded message.
fn find(message: &[u8], number: u32) -> Option<&[u8]> {
    let mut rest = message;
    let mut found = None;
    while !rest.is_empty() {
        if let (field, Wire::Bytes(bytes)) = next_field(&mut rest)?
            && field == number
        {
            found = Some(bytes);
        }
    }
    found
}

fn text(message: Option<&[u8]>, number: u32) -> &str {
    message.and_then(|message| find(message, number)).and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or("")
}

/// A `Timestamp` or `Duration` in nanoseconds, saturating.
fn nanos(message: &[u8]) -> i64 {
    let (mut seconds, mut nanos) = (0_i64, 0_i64);
    let mut rest = message;
    while let Some((number, Wire::Varint(value))) = next_field(&mut rest) {
        match number {
            1 => seconds = value as i64,
            2 => nanos = value as i64,
            _ => {}
        }
    }
    seconds.saturating_mul(1_000_000_000).saturating_add(nanos)
}

#[cfg(test)]
mod tests {
    use everlog_proto::api::common::v1::{Memo, Payload, SearchAttributes, WorkflowExecution, WorkflowType};
    use everlog_proto::api::workflow::v1::WorkflowExecutionInfo;
    use everlog_proto::wkt;
    use prost::Message;

    use super::*;

    #[test]
    fn a_record_reads_as_its_message() {
        let execution =
            |id: &str| Some(WorkflowExecution { workflow_id: id.to_owned(), run_id: format!("run of {id}") });
        let payload = |data: &str| Payload { data: data.as_bytes().to_vec(), ..Payload::default() };
        let info = WorkflowExecutionInfo {
            execution: execution("me"),
            r#type: Some(WorkflowType { name: "type".to_owned() }),
            start_time: Some(wkt::Timestamp { seconds: 5, nanos: 6 }),
            close_time: Some(wkt::Timestamp { seconds: -5, nanos: 6 }),
            execution_time: Some(wkt::Timestamp { seconds: 7, nanos: 0 }),
            execution_duration: Some(wkt::Duration { seconds: 1, nanos: 1 }),
            status: 5,
            history_length: 300,
            history_size_bytes: -1,
            state_transition_count: 2,
            parent_execution: execution("parent"),
            task_queue: "queue".to_owned(),
            memo: Some(Memo { fields: [("a".to_owned(), payload("x"))].into() }),
            search_attributes: Some(SearchAttributes {
                indexed_fields: [("b".to_owned(), payload("2")), ("a".to_owned(), payload("1"))].into(),
            }),
            ..WorkflowExecutionInfo::default()
        };
        let encoded = info.encode_to_vec();
        let record = Record::parse(&encoded).unwrap();
        assert_eq!((record.workflow_id(), record.run_id()), ("me", "run of me"));
        assert_eq!((record.workflow_type(), record.task_queue), ("type", "queue"));
        assert_eq!(record.start_time(), Some(Time(5_000_000_006)));
        assert_eq!(record.close_time(), Some(Time(-4_999_999_994)));
        assert_eq!(record.execution_time(), Some(Time(7_000_000_000)));
        assert_eq!(record.execution_duration(), Some(1_000_000_001));
        assert_eq!((record.status, record.history_length), (5, 300));
        assert_eq!((record.history_size_bytes, record.state_transition_count), (-1, 2));
        assert_eq!(record.parent(), Some(("parent", "run of parent")));
        assert_eq!(record.root(), ("me", "run of me"));
        assert_eq!(record.search_attribute("a"), Some(&b"1"[..]));
        assert_eq!(record.search_attribute("b"), Some(&b"2"[..]));
        assert_eq!(record.search_attribute("c"), None);
        assert!(!record.is_open());
    }

    #[test]
    fn what_is_no_record_is_refused() {
        assert_eq!(Record::parse(&[]), Some(Record::default()));
        for garbage in [&[0x0a][..], &[0x0a, 5, 1], &[0xff; 12], &[0x0b, 0], &[0x29, 1]] {
            assert_eq!(Record::parse(garbage), None, "{garbage:?}");
        }
    }
}
