//! The calls to Nexus services that runs ask for whose partitions are led here: whoever makes calls takes them from here.
//!
//! A call that is lost on the way, or for which there is no room, is asked for again by its run: see [`everlog_kernel::nexus`].

use std::collections::VecDeque;
use std::sync::Arc;

use everlog_kernel::nexus::{NexusCall, NexusRequest};
use everlog_model::{WorkflowRef, limits};
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::Notify;

/// The calls that wait to be made. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct NexusCalls(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    waiting: Mutex<Waiting>,
    more: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    calls: VecDeque<(WorkflowRef, Box<NexusCall>)>,
    bytes: usize,
}

impl NexusCalls {
    /// A run asks for a call.
    pub(crate) fn ask(&self, address: WorkflowRef, call: Box<NexusCall>) {
        let mut waiting = self.0.waiting.lock();
        let bytes = waiting.bytes + bytes_of(&call);
        if bytes > limits::NEXUS_CALL_BYTES_MAX {
            tracing::debug!(workflow = &*address.workflow_id, "a call to a Nexus service has to wait for room");
            return;
        }
        waiting.bytes = bytes;
        waiting.calls.push_back((address, call));
        drop(waiting);
        self.0.more.notify_one();
    }

    /// The next call to be made, and the workflow that asks for it. For one caller only.
    pub async fn next(&self) -> (WorkflowRef, Box<NexusCall>) {
        loop {
            {
                let mut waiting = self.0.waiting.lock();
                if let Some((address, call)) = waiting.calls.pop_front() {
                    waiting.bytes -= bytes_of(&call);
                    return (address, call);
                }
            }
            self.0.more.notified().await;
        }
    }
}

/// About what a call takes in memory.
fn bytes_of(call: &NexusCall) -> usize {
    let input = match &call.request {
        NexusRequest::Start { input } => input.as_ref().map_or(0, Message::encoded_len),
        NexusRequest::Cancel { operation_token } => operation_token.len(),
    };
    let header: usize = call.header.iter().map(|(name, value)| name.len() + value.len()).sum();
    size_of::<NexusCall>() + call.service.len() + call.operation.len() + call.endpoint.len() + header + input
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::time::Duration;

    use everlog_kernel::{Namespace, NamespaceId, RunId};
    use everlog_proto::api::common::v1::Payload;

    use super::*;

    fn call(attempt: i32, bytes: usize) -> (WorkflowRef, Box<NexusCall>) {
        let namespace = Namespace {
            id: NamespaceId([1; 16]),
            name: "default".to_owned(),
            retention: Duration::ZERO,
            ..Namespace::default()
        };
        let address = WorkflowRef { namespace: Arc::new(namespace), workflow_id: "w".into() };
        let input = Some(Payload { data: vec![0; bytes], ..Payload::default() });
        let call = NexusCall {
            run_id: RunId([2; 16]),
            scheduled_event_id: 5,
            attempt,
            request: NexusRequest::Start { input },
            endpoint: "e".to_owned(),
            endpoint_id: String::new(),
            service: "s".to_owned(),
            operation: "o".to_owned(),
            request_id: "r".to_owned(),
            header: HashMap::new(),
            time_max: Duration::from_secs(1),
            operation_time_max: None,
        };
        (address, Box::new(call))
    }

    #[tokio::test]
    async fn calls_are_made_in_order_and_bounded_in_bytes() {
        let calls = NexusCalls::default();
        let ask = |attempt, bytes| {
            let (address, call) = call(attempt, bytes);
            calls.ask(address, call);
        };
        ask(1, 10);
        ask(2, limits::NEXUS_CALL_BYTES_MAX);
        ask(3, 10);
        assert_eq!(calls.next().await.1.attempt, 1);
        assert_eq!(calls.next().await.1.attempt, 3, "there was no room for the second");
        ask(4, limits::NEXUS_CALL_BYTES_MAX / 2);
        assert_eq!(calls.next().await.1.attempt, 4, "what was taken makes room");
    }
}
