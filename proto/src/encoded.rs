//! Responses that carry parts which are encoded already.
//!
//! Histories and visibility records are stored as the bytes that go over the wire. The types here put those bytes into a
//! response without decoding them: a protobuf message may be encoded as the concatenation of two encodings of which the first
//! lacks a field and the second has only that field. On the wire they equal the messages of the same names in
//! [`crate::api::workflowservice::v1`].

use bytes::{Buf, BufMut, Bytes};
use prost::DecodeError;
use prost::Message;
use prost::encoding::{DecodeContext, WireType, encode_key, encode_varint, encoded_len_varint, key_len};

use crate::api::workflowservice::v1 as plain;

/// An encoded `temporal.api.history.v1.History`: the concatenation of the encodings of its batches.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EncodedHistory {
    /// Encodings of `History` messages with consecutive events.
    pub batches: Vec<Bytes>,
}

impl EncodedHistory {
    fn encoded_len(&self) -> usize {
        self.batches.iter().map(Bytes::len).sum()
    }
}

fn field_len(tag: u32, len: usize) -> usize {
    key_len(tag) + encoded_len_varint(len as u64) + len
}

fn encode_parts(tag: u32, parts: &[Bytes], buf: &mut impl BufMut) {
    encode_key(tag, WireType::LengthDelimited, buf);
    encode_varint(parts.iter().map(Bytes::len).sum::<usize>() as u64, buf);
    for part in parts {
        buf.put_slice(part);
    }
}

/// `PollWorkflowTaskQueueResponse` with an encoded history.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PollWorkflowTaskQueueResponse {
    /// Everything but the history.
    pub message: plain::PollWorkflowTaskQueueResponse,
    /// The history; `None` leaves the field out.
    pub history: Option<EncodedHistory>,
}

/// `GetWorkflowExecutionHistoryResponse` with an encoded history.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GetWorkflowExecutionHistoryResponse {
    /// Everything but the history.
    pub message: plain::GetWorkflowExecutionHistoryResponse,
    /// The history; `None` leaves the field out.
    pub history: Option<EncodedHistory>,
}

/// `RespondWorkflowTaskCompletedResponse` with a workflow task whose history is encoded.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RespondWorkflowTaskCompletedResponse {
    /// Everything but the workflow task.
    pub message: plain::RespondWorkflowTaskCompletedResponse,
    /// The next workflow task of the same run, if it was asked for.
    pub workflow_task: Option<PollWorkflowTaskQueueResponse>,
}

/// `ListWorkflowExecutionsResponse` with encoded executions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ListWorkflowExecutionsResponse {
    /// Everything but the executions.
    pub message: plain::ListWorkflowExecutionsResponse,
    /// Encodings of `temporal.api.workflow.v1.WorkflowExecutionInfo`, one an execution.
    pub executions: Vec<Bytes>,
}

/// Implements [`Message`] by encoding the plain message and then the encoded fields behind it. Decoding fills the plain
/// message only; a server never decodes its own responses.
macro_rules! encoded_message {
    ($name:ident, $len:expr, $encode:expr) => {
        impl Message for $name {
            fn encode_raw(&self, buf: &mut impl BufMut) {
                self.message.encode_raw(buf);
                let encode: fn(&Self, &mut _) = $encode;
                encode(self, buf);
            }

            fn merge_field(
                &mut self,
                tag: u32,
                wire_type: WireType,
                buf: &mut impl Buf,
                context: DecodeContext,
            ) -> Result<(), DecodeError> {
                self.message.merge_field(tag, wire_type, buf, context)
            }

            fn encoded_len(&self) -> usize {
                let len: fn(&Self) -> usize = $len;
                self.message.encoded_len() + len(self)
            }

            fn clear(&mut self) {
                *self = Self::default();
            }
        }
    };
}

/// Field number of `history` in both messages that have one.
mod tag {
    pub(super) const POLL_HISTORY: u32 = 8;
    pub(super) const GET_HISTORY: u32 = 1;
    pub(super) const WORKFLOW_TASK: u32 = 1;
    pub(super) const EXECUTIONS: u32 = 1;
}

encoded_message!(
    PollWorkflowTaskQueueResponse,
    |this| this.history.as_ref().map_or(0, |history| field_len(tag::POLL_HISTORY, history.encoded_len())),
    |this, buf| {
        if let Some(history) = &this.history {
            encode_parts(tag::POLL_HISTORY, &history.batches, buf);
        }
    }
);

encoded_message!(
    GetWorkflowExecutionHistoryResponse,
    |this| this.history.as_ref().map_or(0, |history| field_len(tag::GET_HISTORY, history.encoded_len())),
    |this, buf| {
        if let Some(history) = &this.history {
            encode_parts(tag::GET_HISTORY, &history.batches, buf);
        }
    }
);

encoded_message!(
    RespondWorkflowTaskCompletedResponse,
    |this| this.workflow_task.as_ref().map_or(0, |task| field_len(tag::WORKFLOW_TASK, task.encoded_len())),
    |this, buf| {
        if let Some(task) = &this.workflow_task {
            encode_key(tag::WORKFLOW_TASK, WireType::LengthDelimited, buf);
            encode_varint(task.encoded_len() as u64, buf);
            task.encode_raw(buf);
        }
    }
);

encoded_message!(
    ListWorkflowExecutionsResponse,
    |this| this.executions.iter().map(|execution| field_len(tag::EXECUTIONS, execution.len())).sum(),
    |this, buf| {
        for execution in &this.executions {
            encode_parts(tag::EXECUTIONS, std::slice::from_ref(execution), buf);
        }
    }
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::common::v1::WorkflowExecution;
    use crate::api::history::v1::{History, HistoryEvent};
    use crate::api::workflow::v1::WorkflowExecutionInfo;

    fn history(ids: std::ops::Range<i64>) -> History {
        History { events: ids.map(|event_id| HistoryEvent { event_id, ..Default::default() }).collect() }
    }

    #[test]
    fn batches_concatenate_to_one_history() {
        let encoded = EncodedHistory {
            batches: vec![history(1..3).encode_to_vec().into(), history(3..200).encode_to_vec().into()],
        };
        let poll = PollWorkflowTaskQueueResponse {
            message: plain::PollWorkflowTaskQueueResponse { attempt: 7, ..Default::default() },
            history: Some(encoded.clone()),
        };
        let decoded = plain::PollWorkflowTaskQueueResponse::decode(poll.encode_to_vec().as_slice()).unwrap();
        assert_eq!((decoded.attempt, decoded.history), (7, Some(history(1..200))));

        let respond = RespondWorkflowTaskCompletedResponse {
            message: plain::RespondWorkflowTaskCompletedResponse { reset_history_event_id: 5, ..Default::default() },
            workflow_task: Some(poll),
        };
        let decoded = plain::RespondWorkflowTaskCompletedResponse::decode(respond.encode_to_vec().as_slice()).unwrap();
        assert_eq!(decoded.workflow_task.unwrap().history, Some(history(1..200)));

        let get = GetWorkflowExecutionHistoryResponse { history: Some(encoded), ..Default::default() };
        let decoded = plain::GetWorkflowExecutionHistoryResponse::decode(get.encode_to_vec().as_slice()).unwrap();
        assert_eq!(decoded.history, Some(history(1..200)));
    }

    #[test]
    fn an_empty_history_is_present_and_an_absent_one_is_not() {
        let empty =
            GetWorkflowExecutionHistoryResponse { history: Some(EncodedHistory::default()), ..Default::default() };
        let decoded = plain::GetWorkflowExecutionHistoryResponse::decode(empty.encode_to_vec().as_slice()).unwrap();
        assert_eq!(decoded.history, Some(History::default()));
        assert!(GetWorkflowExecutionHistoryResponse::default().encode_to_vec().is_empty());
    }

    #[test]
    fn executions_are_listed_in_order() {
        let info = |id: &str| WorkflowExecutionInfo {
            execution: Some(WorkflowExecution { workflow_id: id.to_owned(), run_id: String::new() }),
            ..Default::default()
        };
        let list = ListWorkflowExecutionsResponse {
            message: plain::ListWorkflowExecutionsResponse { next_page_token: vec![1], ..Default::default() },
            executions: vec![info("a").encode_to_vec().into(), info("b").encode_to_vec().into()],
        };
        let decoded = plain::ListWorkflowExecutionsResponse::decode(list.encode_to_vec().as_slice()).unwrap();
        assert_eq!(decoded.executions, vec![info("a"), info("b")]);
        assert_eq!(decoded.next_page_token, vec![1]);
    }
}
