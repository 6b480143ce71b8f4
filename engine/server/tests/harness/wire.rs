//! Calls with any bytes as a request, and statuses as one line of text.

use std::time::Duration;

use bytes::Bytes;
use everlog_proto::api::errordetails::v1 as details;
use everlog_proto::wkt::Any;
use everlog_proto::{RawCodec, RpcStatus};
use prost::{Message, Name};
use prost_types_plain::{DescriptorProto, FileDescriptorProto, FileDescriptorSet};
use tonic::transport::Channel;
use tonic::{Request, Status};

pub(crate) const WORKFLOW_SERVICE: &str = "temporal.api.workflowservice.v1.WorkflowService";
pub(crate) const OPERATOR_SERVICE: &str = "temporal.api.operatorservice.v1.OperatorService";

/// What is served, as its descriptors say.
pub(crate) fn descriptors() -> FileDescriptorSet {
    FileDescriptorSet::decode(everlog_proto::DESCRIPTORS).unwrap()
}

/// Every method of the two services, with the message that it takes.
pub(crate) fn methods() -> Vec<(&'static str, String, DescriptorProto)> {
    let files = descriptors().file;
    let mut found = Vec::new();
    for file in &files {
        for service in &file.service {
            let name = match service.name() {
                "WorkflowService" => WORKFLOW_SERVICE,
                "OperatorService" => OPERATOR_SERVICE,
                _ => continue,
            };
            for method in &service.method {
                let input = message(&files, method.input_type()).expect("the set is complete");
                found.push((name, method.name().to_owned(), input.clone()));
            }
        }
    }
    assert!(found.len() > 100);
    found
}

/// The message with a full name (`.package.Outer.Inner`).
pub(crate) fn message<'a>(files: &'a [FileDescriptorProto], name: &str) -> Option<&'a DescriptorProto> {
    files.iter().find_map(|file| {
        let inner = name.strip_prefix('.')?.strip_prefix(file.package())?.strip_prefix('.')?;
        let mut names = inner.split('.');
        let first = names.next()?;
        let mut found = file.message_type.iter().find(|message| message.name() == first)?;
        for name in names {
            found = found.nested_type.iter().find(|message| message.name() == name)?;
        }
        Some(found)
    })
}

/// Calls a method of `service` with `request` as the bytes of its message.
pub(crate) async fn call(
    channel: &Channel,
    service: &str,
    method: &str,
    request: Bytes,
    timeout: Option<Duration>,
) -> Result<Bytes, Status> {
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    grpc.ready().await.map_err(|error| Status::unknown(error.to_string()))?;
    let mut request = Request::new(request);
    if let Some(timeout) = timeout {
        request.set_timeout(timeout);
    }
    let path = format!("/{service}/{method}").parse().unwrap();
    Ok(grpc.unary(request, path, RawCodec).await?.into_inner())
}

/// A status as `Code: message [detail]`.
pub(crate) fn told(status: &Status) -> String {
    let mut line = format!("{:?}: {}", status.code(), status.message());
    if status.details().is_empty() {
        return line;
    }
    let rpc = RpcStatus::decode(status.details()).unwrap();
    assert_eq!((rpc.code, rpc.message.as_str()), (status.code() as i32, status.message()));
    for detail in &rpc.details {
        line.push_str(&format!(" [{}]", shown(detail)));
    }
    line
}

fn shown(detail: &Any) -> String {
    macro_rules! decode {
        ($($message:ident),*) => {$(
            if detail.type_url == format!("type.googleapis.com/{}", details::$message::full_name()) {
                return format!("{:?}", details::$message::decode(detail.value.as_slice()).unwrap());
            }
        )*};
    }
    decode!(
        NotFoundFailure,
        NamespaceNotFoundFailure,
        NamespaceAlreadyExistsFailure,
        NamespaceInvalidStateFailure,
        WorkflowExecutionAlreadyStartedFailure,
        WorkflowNotReadyFailure,
        QueryFailedFailure,
        ResourceExhaustedFailure,
        PermissionDeniedFailure
    );
    detail.type_url.clone()
}
