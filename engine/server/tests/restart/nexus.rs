//! Operations of Nexus services over kills.

use everlog_proto::api::command::v1::command::Attributes as CommandAttributes;
use everlog_proto::api::command::v1::{Command, ScheduleNexusOperationCommandAttributes};
use everlog_proto::api::common::v1::{Callback, callback};
use everlog_proto::api::enums::v1::{CallbackState, CommandType};
use everlog_proto::api::history::v1::history_event::Attributes;
use everlog_proto::api::nexus::v1::{
    EndpointSpec, EndpointTarget, Request, Response, StartOperationRequest, StartOperationResponse, endpoint_target,
    request, response, start_operation_response,
};
use everlog_proto::api::operatorservice::v1::CreateNexusEndpointRequest;
use everlog_proto::api::workflowservice::v1::{
    PollNexusTaskQueueRequest, PollNexusTaskQueueResponse, RespondNexusTaskCompletedRequest,
};
use everlog_proto::clients::OperatorServiceClient;
use tonic::transport::Channel;

use super::{LONG, events};
use crate::harness::process::Process;
use crate::harness::requests::{NAMESPACE, complete, describe, respond};
use crate::harness::{Client, poll, start_request, task_queue, within};

/// An endpoint that leads to the queue `nexus`.
async fn create_endpoint(process: &Process) {
    let worker = endpoint_target::Worker { namespace: NAMESPACE.to_owned(), task_queue: "nexus".to_owned() };
    let target = EndpointTarget { variant: Some(endpoint_target::Variant::Worker(worker)) };
    let spec = EndpointSpec { name: "endpoint".to_owned(), target: Some(target), ..EndpointSpec::default() };
    let url = format!("http://{}", process.address("grpc"));
    let channel = Channel::from_shared(url).unwrap().connect().await.unwrap();
    let request = CreateNexusEndpointRequest { spec: Some(spec) };
    OperatorServiceClient::new(channel).create_nexus_endpoint(request).await.unwrap();
}

fn schedule() -> Command {
    let attributes = ScheduleNexusOperationCommandAttributes {
        endpoint: "endpoint".to_owned(),
        service: "service".to_owned(),
        operation: "operation".to_owned(),
        ..ScheduleNexusOperationCommandAttributes::default()
    };
    Command {
        command_type: CommandType::ScheduleNexusOperation.into(),
        attributes: Some(CommandAttributes::ScheduleNexusOperationCommandAttributes(attributes)),
        ..Command::default()
    }
}

/// Waits for the request to start an operation.
async fn asked(client: &mut Client) -> (Vec<u8>, StartOperationRequest) {
    loop {
        let poll = PollNexusTaskQueueRequest {
            namespace: NAMESPACE.to_owned(),
            task_queue: task_queue("nexus"),
            ..PollNexusTaskQueueRequest::default()
        };
        let task = client.poll_nexus_task_queue(within(LONG, poll)).await.unwrap().into_inner();
        let PollNexusTaskQueueResponse { task_token, request, .. } = task;
        if let Some(Request { variant: Some(request::Variant::StartOperation(start)), .. }) = request {
            return (task_token, start);
        }
    }
}

#[tokio::test]
async fn an_operation_is_called_and_ends_over_kills() {
    let data = tempfile::tempdir().unwrap();
    let mut process = Process::dev(data.path()).await;
    create_endpoint(&process).await;
    let mut client = process.client().await;
    client.start_workflow_execution(start_request("caller")).await.unwrap();
    let task = poll(&mut client).await;
    client.respond_workflow_task_completed(respond(task.task_token, vec![schedule()])).await.unwrap();
    let (_lost, first) = asked(&mut client).await;
    process.kill().await;

    // The call is made anew, as the same one.
    process = Process::dev(data.path()).await;
    client = process.client().await;
    let (task_token, start) = asked(&mut client).await;
    assert_eq!((&start.request_id, &start.links), (&first.request_id, &first.links));
    let nexus = callback::Nexus { url: start.callback, header: start.callback_header };
    let callback = Callback { variant: Some(callback::Variant::Nexus(nexus)), links: Vec::new() };
    let handler = everlog_proto::api::workflowservice::v1::StartWorkflowExecutionRequest {
        completion_callbacks: vec![callback],
        request_id: start.request_id,
        ..start_request("handler")
    };
    client.start_workflow_execution(handler).await.unwrap();
    let goes_on = start_operation_response::Async { operation_token: "token".to_owned(), ..Default::default() };
    let variant = Some(start_operation_response::Variant::AsyncSuccess(goes_on));
    let variant = Some(response::Variant::StartOperation(StartOperationResponse { variant }));
    let answer = RespondNexusTaskCompletedRequest {
        namespace: NAMESPACE.to_owned(),
        task_token,
        response: Some(Response { variant }),
        ..RespondNexusTaskCompletedRequest::default()
    };
    client.respond_nexus_task_completed(answer).await.unwrap();
    loop {
        let task = poll(&mut client).await;
        let is_handler = task.workflow_execution.unwrap().workflow_id == "handler";
        let commands = if is_handler { vec![complete("done")] } else { Vec::new() };
        client.respond_workflow_task_completed(respond(task.task_token, commands)).await.unwrap();
        if is_handler {
            break;
        }
    }
    process.kill().await;

    // What was acknowledged is heard of.
    process = Process::dev(data.path()).await;
    client = process.client().await;
    let ends = |attributes: &Attributes| matches!(attributes, Attributes::NexusOperationCompletedEventAttributes(_));
    loop {
        let events = events(&mut client, "caller").await;
        let ended = events.iter().filter_map(|event| event.attributes.as_ref()).filter(|event| ends(event)).count();
        assert!(ended <= 1, "an operation ends once");
        let described = client.describe_workflow_execution(describe("handler")).await.unwrap().into_inner();
        let [callback] = &described.callbacks[..] else { panic!("one callback") };
        if ended == 1 && callback.state() == CallbackState::Succeeded {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    process.stop().await;
}
