//! What a workflow that an operation has led to tells the workflow that waits for the operation.
//!
//! ```text
//!   caller ── call, with a callback ──▶ service ── start, with the callback ──▶ workflow
//!   caller ◀───────────────── NexusCompleted ──────────────────────────────────── its end
//! ```
//!
//! The callback names the operation by a token. Nobody but the server makes tokens, and one that was is as good as the request id in it.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE;
use bytes::Bytes;
use everlog_proto::api::common::v1::{Link, Payload};
use everlog_proto::api::failure::v1::Failure;
use everlog_proto::wkt;
use prost::Message;

use crate::nexus::NexusEnd;
use crate::{NamespaceId, RunId};

/// The URL that stands for the server itself.
pub const SYSTEM_CALLBACK: &str = "temporal://system";

/// The header of a callback that has the token, in lower case.
pub const TOKEN_HEADER: &str = "temporal-callback-token";

/// The header of a callback that has what the service knows the operation by, in lower case.
pub const OPERATION_TOKEN_HEADER: &str = "nexus-operation-token";

/// Which operation a callback is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallbackToken {
    /// Of the workflow that waits.
    pub namespace_id: NamespaceId,
    /// The workflow.
    pub workflow_id: String,
    /// Its run.
    pub run_id: RunId,
    /// The operation.
    pub scheduled_event_id: i64,
    /// Names the operation, too: another one may have that event id after a reset.
    pub request_id: String,
}

#[derive(Message)]
struct TokenMessage {
    #[prost(bytes = "bytes", tag = "1")]
    namespace_id: Bytes,
    #[prost(string, tag = "2")]
    workflow_id: String,
    #[prost(bytes = "bytes", tag = "3")]
    run_id: Bytes,
    #[prost(int64, tag = "4")]
    scheduled_event_id: i64,
    #[prost(string, tag = "5")]
    request_id: String,
}

impl CallbackToken {
    /// As a header has it.
    pub fn encode(&self) -> String {
        let message = TokenMessage {
            namespace_id: Bytes::copy_from_slice(&self.namespace_id.0),
            workflow_id: self.workflow_id.clone(),
            run_id: Bytes::copy_from_slice(&self.run_id.0),
            scheduled_event_id: self.scheduled_event_id,
            request_id: self.request_id.clone(),
        };
        URL_SAFE.encode(message.encode_to_vec())
    }

    /// From a header; `None` if it is no token of this server.
    pub fn decode(token: &str) -> Option<CallbackToken> {
        let message = TokenMessage::decode(URL_SAFE.decode(token).ok()?.as_slice()).ok()?;
        Some(CallbackToken {
            namespace_id: NamespaceId(message.namespace_id[..].try_into().ok()?),
            workflow_id: Some(message.workflow_id).filter(|id| !id.is_empty())?,
            run_id: RunId(message.run_id[..].try_into().ok()?),
            scheduled_event_id: message.scheduled_event_id,
            request_id: Some(message.request_id).filter(|id| !id.is_empty())?,
        })
    }
}

/// Tells that an operation has ended.
#[derive(Clone, PartialEq, Message)]
pub struct NexusCompleted {
    /// The namespace of the workflow that waits.
    #[prost(bytes = "bytes", tag = "1")]
    pub namespace_id: Bytes,
    /// The operation.
    #[prost(int64, tag = "2")]
    pub scheduled_event_id: i64,
    /// Names it, too.
    #[prost(string, tag = "3")]
    pub request_id: String,
    /// What the service knows it by.
    #[prost(string, tag = "4")]
    pub operation_token: String,
    /// When it has started.
    #[prost(message, optional, tag = "5")]
    pub start_time: Option<wkt::Timestamp>,
    /// What has to do with its start.
    #[prost(message, repeated, tag = "6")]
    pub links: Vec<Link>,
    /// Its result, if it has none of the following.
    #[prost(message, optional, tag = "7")]
    pub result: Option<Payload>,
    /// Why it has none.
    #[prost(message, optional, tag = "8")]
    pub failure: Option<Failure>,
    /// Whether that is because it was canceled.
    #[prost(bool, tag = "9")]
    pub is_canceled: bool,
}

impl NexusCompleted {
    /// How it has ended.
    pub(crate) fn into_end(self) -> NexusEnd {
        match self.failure {
            None => NexusEnd::Completed(self.result),
            Some(failure) if self.is_canceled => NexusEnd::Canceled(Box::new(failure)),
            Some(failure) => NexusEnd::Failed(Box::new(failure)),
        }
    }
}
