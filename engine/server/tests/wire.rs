//! The error contract: what a caller is told when a request cannot be carried out.
//!
//! The texts are Temporal's: SDKs, the CLI and users' code look at codes, details and some of the messages.
//! With `TEMPORAL_ADDRESS=host:port` the tables are printed as that server answers them, and nothing is asserted.

#![recursion_limit = "256"] // a server's future is deep
#![allow(clippy::unwrap_used, clippy::print_stdout)] // a test fails by panicking, also in its helpers

#[path = "wire/fields.rs"]
mod fields;
#[path = "wire/framing.rs"]
mod framing;
mod harness;
#[path = "wire/refusals.rs"]
mod refusals;

use std::time::Duration;

use bytes::Bytes;
use everlog_config::DynamicConfig;
use everlog_proto::api::common::v1::WorkflowExecution;
use everlog_proto::api::enums::v1::{QueryRejectCondition, QueryResultType};
use everlog_proto::api::failure::v1::Failure;
use everlog_proto::api::query::v1::WorkflowQuery;
use everlog_proto::api::workflowservice::v1::*;
use harness::requests::{
    NAMESPACE, activity_done, complete, describe, history, list, poll_activity, poll_workflow, respond,
    schedule_activity, seconds, signal, terminate,
};
use harness::wire::{OPERATOR_SERVICE, WORKFLOW_SERVICE, call, methods, told};
use harness::{Client, Server, execution, payloads, poll, start_request, task_queue, within};
use prost::Message;
use prost_types_plain::field_descriptor_proto::Type;
use tonic::Code;
use tonic::transport::Channel;

const LONG: Duration = Duration::from_secs(30);

/// The server that is asked.
struct Target {
    channel: Channel,
    /// `None` if it is somebody else's.
    own: Option<Server>,
}

impl Target {
    async fn start() -> Target {
        if let Ok(address) = std::env::var("TEMPORAL_ADDRESS") {
            let channel = Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
            return Target { channel, own: None };
        }
        let own = Server::start().await;
        Target { channel: own.channel().await, own: Some(own) }
    }

    fn client(&self) -> Client {
        Client::new(self.channel.clone())
    }

    /// Compares what was told with the table, all at once.
    async fn check(self, told: Vec<(String, String)>, expected: &[(&str, &str)]) {
        let Some(own) = self.own else {
            for (name, told) in told {
                println!("{name}\n    {told}");
            }
            return;
        };
        own.stopped().await;
        let told: Vec<(&str, &str)> = told.iter().map(|(name, told)| (name.as_str(), told.as_str())).collect();
        let mut wrong = String::new();
        for (index, told) in told.iter().enumerate() {
            let expected = expected.get(index).copied().unwrap_or(("nothing", ""));
            if *told != expected {
                wrong.push_str(&format!(
                    "{}\n    {}\n  instead of {}\n    {}\n",
                    told.0, told.1, expected.0, expected.1
                ));
            }
        }
        assert!(wrong.is_empty(), "\n{wrong}");
        assert_eq!(told.len(), expected.len());
    }
}

/// Run ids differ from run to run.
fn without_ids(text: String, run_ids: &[&str]) -> String {
    run_ids.iter().fold(text, |text, run_id| text.replace(run_id, "RUN"))
}

fn query(workflow_id: &str) -> QueryWorkflowRequest {
    QueryWorkflowRequest {
        namespace: NAMESPACE.to_owned(),
        execution: execution(workflow_id),
        query: Some(WorkflowQuery { query_type: "state".to_owned(), ..WorkflowQuery::default() }),
        ..QueryWorkflowRequest::default()
    }
}

#[tokio::test]
async fn limits_of_a_run_are_told_with_their_cause() {
    let mut config = DynamicConfig::default();
    config.limits.signals_max = 1;
    config.limits.buffered_queries_max = 0;
    let server = Server::with(1, config).await;
    let mut client = server.client().await;
    client.start_workflow_execution(start_request("w")).await.unwrap();
    client.signal_workflow_execution(signal("w", "1")).await.unwrap();
    let status = client.signal_workflow_execution(signal("w", "2")).await.unwrap_err();
    assert_eq!(told(&status), "InvalidArgument: exceeded workflow execution limit for signal events");
    let task = poll(&mut client).await;
    let status = client.query_workflow(within(LONG, query("w"))).await.unwrap_err();
    assert_eq!(
        told(&status),
        "ResourceExhausted: consistent query buffer is full, this may be caused by too many queries and workflow not able \
         to process query fast enough [ResourceExhaustedFailure { cause: BusyWorkflow, scope: Namespace }]"
    );
    assert_eq!(status.metadata().get("x-resource-exhausted-cause").unwrap(), "BusyWorkflow");
    assert_eq!(status.metadata().get("x-resource-exhausted-scope").unwrap(), "Namespace");
    client.respond_workflow_task_completed(respond(task.task_token, vec![complete("done")])).await.unwrap();
    server.stopped().await;
}

#[tokio::test]
async fn a_deprecated_namespace_takes_no_new_runs() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let register = RegisterNamespaceRequest {
        namespace: "old".to_owned(),
        workflow_execution_retention_period: seconds(86_400),
        ..RegisterNamespaceRequest::default()
    };
    client.register_namespace(register).await.unwrap();
    let deprecate = DeprecateNamespaceRequest { namespace: "old".to_owned(), ..DeprecateNamespaceRequest::default() };
    client.deprecate_namespace(deprecate).await.unwrap();
    let request = StartWorkflowExecutionRequest { namespace: "old".to_owned(), ..start_request("w") };
    let refused = client.start_workflow_execution(request).await.unwrap_err();
    assert_eq!(
        told(&refused),
        "FailedPrecondition: Namespace has invalid state: Deprecated. Must be Registered. \
         [NamespaceInvalidStateFailure { namespace: \"old\", state: Deprecated, allowed_states: [Registered] }]"
    );
    server.stopped().await;
}

#[tokio::test]
async fn what_is_not_served_is_unimplemented_in_the_words_of_grpc_go() {
    let server = Server::start().await;
    let channel = server.channel().await;
    for (service, method) in [
        (WORKFLOW_SERVICE, "NoSuchMethod"),
        (OPERATOR_SERVICE, "AddOrUpdateRemoteCluster"),
        (OPERATOR_SERVICE, "NoSuchMethod"),
    ] {
        let status = call(&channel, service, method, Bytes::new(), Some(LONG)).await.unwrap_err();
        assert_eq!(told(&status), format!("Unimplemented: unknown method {method} for service {service}"));
    }
    let status = call(&channel, "no.such.Service", "Method", Bytes::new(), Some(LONG)).await.unwrap_err();
    assert_eq!(told(&status), "Unimplemented: unknown service no.such.Service");
    server.stopped().await;
}

#[tokio::test]
async fn a_request_that_is_too_large_is_refused_and_the_connection_lives() {
    let server = Server::start().await;
    let channel = server.channel().await;
    let large = StartWorkflowExecutionRequest { input: payloads(&"x".repeat(5 << 20)), ..start_request("w") };
    let large = Bytes::from(large.encode_to_vec());
    let bytes = large.len();
    let status = call(&channel, WORKFLOW_SERVICE, "StartWorkflowExecution", large, Some(LONG)).await.unwrap_err();
    let expected = format!("ResourceExhausted: grpc: received message larger than max ({bytes} vs. 4194304)");
    assert_eq!(told(&status), expected);
    let blob = StartWorkflowExecutionRequest { input: payloads(&"x".repeat(3 << 20)), ..start_request("w") };
    let mut client = Client::new(channel);
    let status = client.start_workflow_execution(blob).await.unwrap_err();
    assert_eq!(told(&status), "InvalidArgument: Blob data size exceeds limit.");
    client.start_workflow_execution(start_request("w")).await.unwrap();
    server.stopped().await;
}

/// Every method with nothing in its request but a namespace that is not there.
#[tokio::test]
async fn every_method_refuses_a_namespace_that_is_not_there() {
    let target = Target::start().await;
    let mut table = Vec::new();
    for (service, method, input) in methods() {
        let Some(namespace) =
            input.field.iter().find(|field| field.name() == "namespace" && field.r#type() == Type::String)
        else {
            continue;
        };
        let mut request = Vec::new();
        prost::encoding::string::encode(u32::try_from(namespace.number()).unwrap(), &"none".to_owned(), &mut request);
        let answer = call(&target.channel, service, &method, request.into(), Some(LONG)).await;
        let told = match answer {
            Ok(_) => "Ok".to_owned(),
            Err(status) if status.code() == Code::Unimplemented => continue,
            Err(status) => told(&status),
        };
        let usual = "NotFound: Namespace none is not found. [NamespaceNotFoundFailure { namespace: \"none\" }]";
        if told != usual {
            table.push((method, told));
        }
    }
    target.check(table, OTHER_THAN_NAMESPACE_NOT_FOUND).await;
}

const OTHER_THAN_NAMESPACE_NOT_FOUND: &[(&str, &str)] =
    &[("RegisterNamespace", "InvalidArgument: A valid retention period is not set on request.")];
