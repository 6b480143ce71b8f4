//! Links of responses: to the event that a request has led to.

use everlog_kernel::RunId;
use everlog_meta::NamespaceRecord;
use everlog_proto::api::common::v1::link::workflow_event::{EventReference, Reference, RequestIdReference};
use everlog_proto::api::common::v1::{Link, link};
use everlog_proto::api::enums::v1::EventType;

/// To the event that a run began with.
pub(super) fn to_start(namespace: &NamespaceRecord, workflow_id: String, run_id: RunId) -> Link {
    let reference = EventReference { event_id: 1, event_type: EventType::WorkflowExecutionStarted as i32 };
    to_event(namespace, workflow_id, run_id, Reference::EventRef(reference))
}

/// To the event of a signal. That may be buffered and without a number yet, so it goes by the id of the request.
pub(super) fn to_signal(namespace: &NamespaceRecord, workflow_id: String, run_id: RunId, request_id: String) -> Link {
    let reference = RequestIdReference { request_id, event_type: EventType::WorkflowExecutionSignaled as i32 };
    to_event(namespace, workflow_id, run_id, Reference::RequestIdRef(reference))
}

/// To the event that says that an update was accepted, by the id of its request.
pub(super) fn to_update(namespace: &NamespaceRecord, workflow_id: String, run_id: RunId, request_id: String) -> Link {
    let reference = RequestIdReference { request_id, event_type: EventType::WorkflowExecutionUpdateAccepted as i32 };
    to_event(namespace, workflow_id, run_id, Reference::RequestIdRef(reference))
}

/// To a run, for a reason.
pub(super) fn to_workflow(namespace: &NamespaceRecord, workflow_id: String, run_id: RunId, reason: &str) -> Link {
    Link {
        variant: Some(link::Variant::Workflow(link::Workflow {
            namespace: namespace.name().to_owned(),
            workflow_id,
            run_id: run_id.to_string(),
            reason: reason.to_owned(),
        })),
    }
}

/// To the event that attaches a request to start the workflow to an open run; by the id of the request for the same reason.
pub(super) fn to_attached(namespace: &NamespaceRecord, workflow_id: String, run_id: RunId, request_id: String) -> Link {
    let event_type = EventType::WorkflowExecutionOptionsUpdated as i32;
    to_event(namespace, workflow_id, run_id, Reference::RequestIdRef(RequestIdReference { request_id, event_type }))
}

fn to_event(namespace: &NamespaceRecord, workflow_id: String, run_id: RunId, reference: Reference) -> Link {
    Link {
        variant: Some(link::Variant::WorkflowEvent(link::WorkflowEvent {
            namespace: namespace.name().to_owned(),
            workflow_id,
            run_id: run_id.to_string(),
            reference: Some(reference),
        })),
    }
}
