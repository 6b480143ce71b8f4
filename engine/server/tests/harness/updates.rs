//! Updates, and what workers answer to them.

use everlog_proto::api::enums::v1::UpdateWorkflowExecutionLifecycleStage as Stage;
use everlog_proto::api::failure::v1::Failure;
use everlog_proto::api::protocol::v1::Message as ProtocolMessage;
use everlog_proto::api::update::v1::{
    Acceptance, Input, Meta, Outcome, Rejection, Request, Response, WaitPolicy, outcome,
};
use everlog_proto::api::workflowservice::v1::respond_workflow_task_completed_request::Capabilities;
use everlog_proto::api::workflowservice::v1::{UpdateWorkflowExecutionRequest, UpdateWorkflowExecutionResponse};
use everlog_proto::wkt::Any;
use prost::{Message, Name};
use tokio::task::JoinHandle;
use tonic::Status;

use super::{Client, execution, payloads, within};

/// Sends an update to a workflow, and waits for its outcome in the background.
pub(crate) fn update(
    client: &Client,
    namespace: &str,
    workflow_id: &str,
    update_id: &str,
) -> JoinHandle<Result<UpdateWorkflowExecutionResponse, Status>> {
    let request = UpdateWorkflowExecutionRequest {
        namespace: namespace.to_owned(),
        workflow_execution: execution(workflow_id),
        wait_policy: Some(WaitPolicy { lifecycle_stage: Stage::Completed as i32 }),
        request: Some(Request {
            meta: Some(Meta { update_id: update_id.to_owned(), ..Meta::default() }),
            input: Some(Input { name: "update".to_owned(), ..Input::default() }),
            ..Request::default()
        }),
        ..UpdateWorkflowExecutionRequest::default()
    };
    let mut client = client.clone();
    let patience = std::time::Duration::from_secs(20);
    tokio::spawn(async move { Ok(client.update_workflow_execution(within(patience, request)).await?.into_inner()) })
}

/// What workers say that can forget events which were not written after all.
pub(crate) fn able() -> Option<Capabilities> {
    Some(Capabilities { discard_speculative_workflow_task_with_events: true })
}

/// What a worker says that accepts the update of a message and completes it.
pub(crate) fn completed(request: &ProtocolMessage, result: &str) -> Vec<ProtocolMessage> {
    let acceptance = Acceptance {
        accepted_request_message_id: request.id.clone(),
        accepted_request_sequencing_event_id: 1,
        ..Acceptance::default()
    };
    let response = Response {
        meta: Some(Meta { update_id: request.protocol_instance_id.clone(), ..Meta::default() }),
        outcome: Some(Outcome { value: payloads(result).map(outcome::Value::Success) }),
    };
    vec![answer(request, "accept", &acceptance), answer(request, "complete", &response)]
}

/// What a worker says that rejects it.
pub(crate) fn rejected(request: &ProtocolMessage) -> Vec<ProtocolMessage> {
    let failure = Some(Failure { message: "no".to_owned(), ..Failure::default() });
    vec![answer(request, "reject", &Rejection { failure, ..Rejection::default() })]
}

fn answer<M: Message + Name>(request: &ProtocolMessage, what: &str, body: &M) -> ProtocolMessage {
    let id = &request.protocol_instance_id;
    ProtocolMessage {
        id: format!("{id}/{what}"),
        protocol_instance_id: id.clone(),
        body: Some(Any { type_url: format!("type.googleapis.com/{}", M::full_name()), value: body.encode_to_vec() }),
        ..ProtocolMessage::default()
    }
}
