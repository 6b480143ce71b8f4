//! What lists show of a record.
//!
//! Records are what a description begins with and have more than Temporal's lists show: sizes are shown once a run has closed, the
//! chain's first run and the priority never. On the other hand every entry of a list has a root, a memo and search attributes, be they empty.

use bytes::Bytes;

use super::record::{Record, Wire, field, next_field};

/// Fields that entries of lists never have.
const NEVER: [u32; 3] = [field::PARENT_NAMESPACE_ID, field::FIRST_RUN_ID, field::PRIORITY];

/// Fields that they have once the run has closed.
const OF_CLOSED: [u32; 3] = [field::HISTORY_LENGTH, field::STATE_TRANSITION_COUNT, field::HISTORY_SIZE_BYTES];

/// A stored record as an entry of a list. What is no record is handed on as it is, for its reader to refuse.
pub fn entry(record: Bytes) -> Bytes {
    written(&record).map_or(record, Bytes::from)
}

fn written(record: &[u8]) -> Option<Vec<u8>> {
    let is_open = Record::parse_until(record, field::CLOSE_TIME)?.is_open();
    let mut entry = Vec::with_capacity(record.len() + 96);
    let (mut execution, mut memo, mut attributes, mut root) = (&[][..], false, false, false);
    let mut rest = record;
    while !rest.is_empty() {
        let before = rest;
        let (number, value) = next_field(&mut rest)?;
        if NEVER.contains(&number) || (is_open && OF_CLOSED.contains(&number)) {
            continue;
        }
        entry.extend_from_slice(&before[..before.len() - rest.len()]);
        match (number, value) {
            (field::EXECUTION, Wire::Bytes(bytes)) => execution = bytes,
            (field::MEMO, _) => memo = true,
            (field::SEARCH_ATTRIBUTES, _) => attributes = true,
            (field::ROOT_EXECUTION, _) => root = true,
            _ => {}
        }
    }
    // A run without a parent is its own root.
    for (number, is_there, value) in [
        (field::MEMO, memo, &[][..]),
        (field::SEARCH_ATTRIBUTES, attributes, &[][..]),
        (field::ROOT_EXECUTION, root, execution),
    ] {
        if !is_there {
            prost::encoding::encode_key(number, prost::encoding::WireType::LengthDelimited, &mut entry);
            prost::encoding::encode_varint(value.len() as u64, &mut entry);
            entry.extend_from_slice(value);
        }
    }
    Some(entry)
}

#[cfg(test)]
mod tests {
    use everlog_proto::api::common::v1::{Memo, Payload, Priority, SearchAttributes, WorkflowExecution};
    use everlog_proto::api::workflow::v1::WorkflowExecutionInfo;
    use everlog_proto::wkt;
    use prost::Message;

    use super::*;

    fn execution(id: &str) -> Option<WorkflowExecution> {
        Some(WorkflowExecution { workflow_id: id.to_owned(), run_id: format!("run of {id}") })
    }

    fn stored(close_time: Option<wkt::Timestamp>) -> WorkflowExecutionInfo {
        WorkflowExecutionInfo {
            execution: execution("me"),
            start_time: Some(wkt::Timestamp { seconds: 5, nanos: 6 }),
            close_time,
            status: 1,
            history_length: 5,
            history_size_bytes: 500,
            state_transition_count: 3,
            parent_namespace_id: "namespace".to_owned(),
            task_queue: "queue".to_owned(),
            first_run_id: "first".to_owned(),
            priority: Some(Priority { priority_key: 1, ..Priority::default() }),
            ..WorkflowExecutionInfo::default()
        }
    }

    fn listed(info: &WorkflowExecutionInfo) -> WorkflowExecutionInfo {
        WorkflowExecutionInfo::decode(entry(info.encode_to_vec().into())).unwrap()
    }

    #[test]
    fn an_open_run_has_no_sizes_and_is_its_own_root() {
        let expected = WorkflowExecutionInfo {
            history_length: 0,
            history_size_bytes: 0,
            state_transition_count: 0,
            parent_namespace_id: String::new(),
            first_run_id: String::new(),
            priority: None,
            memo: Some(Memo::default()),
            search_attributes: Some(SearchAttributes::default()),
            root_execution: execution("me"),
            ..stored(None)
        };
        assert_eq!(listed(&stored(None)), expected);
    }

    #[test]
    fn a_closed_run_keeps_what_it_has() {
        let payload = Payload { data: b"1".to_vec(), ..Payload::default() };
        let closed = WorkflowExecutionInfo {
            memo: Some(Memo { fields: [("m".to_owned(), payload.clone())].into() }),
            search_attributes: Some(SearchAttributes { indexed_fields: [("a".to_owned(), payload)].into() }),
            root_execution: execution("root"),
            parent_execution: execution("parent"),
            ..stored(Some(wkt::Timestamp { seconds: 7, nanos: 0 }))
        };
        let expected = WorkflowExecutionInfo {
            parent_namespace_id: String::new(),
            first_run_id: String::new(),
            priority: None,
            ..closed.clone()
        };
        assert_eq!(listed(&closed), expected);
    }

    #[test]
    fn what_is_no_record_stays_what_it_is() {
        let garbage = Bytes::from_static(&[0x0a, 5, 1]);
        assert_eq!(entry(garbage.clone()), garbage);
    }
}
