//! Requests that are no calls, or no good ones, whatever their messages say; and the services beside Temporal's.

use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use tonic::Status;
use tower::Service;

use super::*;

const GRPC: &str = "application/grpc";

/// A POST with this content type, further headers, path and body.
struct Raw {
    method: Method,
    content_type: &'static str,
    headers: Vec<(&'static str, &'static str)>,
    path: &'static str,
    body: &'static [u8],
}

/// A good request of a method that needs nothing.
fn good() -> Raw {
    Raw {
        method: Method::POST,
        content_type: GRPC,
        headers: Vec::new(),
        path: "/temporal.api.workflowservice.v1.WorkflowService/GetSystemInfo",
        body: &[0; 5],
    }
}

/// The HTTP status and what gRPC says.
async fn answer(channel: &Channel, raw: Raw) -> String {
    let mut request = Request::builder().method(raw.method).uri(raw.path);
    request = request.header(CONTENT_TYPE, raw.content_type).header("te", "trailers");
    for (name, value) in raw.headers {
        request = request.header(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    let body = tonic::body::Body::new(Full::new(Bytes::from_static(raw.body)));
    let mut channel = channel.clone();
    std::future::poll_fn(|context| channel.poll_ready(context)).await.unwrap();
    // Other servers may end the connection, or say nothing.
    let response = match tokio::time::timeout(LONG, channel.call(request.body(body).unwrap())).await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => return error.to_string(),
        Err(_) => return "nothing".to_owned(),
    };
    let (head, body) = response.into_parts();
    let body = body.collect().await.unwrap();
    let status = Status::from_header_map(&head.headers)
        .or_else(|| body.trailers().and_then(Status::from_header_map))
        .map_or_else(|| "no status".to_owned(), |status| told(&status));
    // Why it cannot be decompressed is said in the words of whatever was to do it.
    let known = "failed to decompress the message";
    let status = status.find(known).map_or(status.clone(), |at| status[..at + known.len()].to_owned());
    format!("{} {status}", head.status.as_u16())
}

#[tokio::test]
async fn what_is_no_call_is_refused_in_the_words_of_grpc_go() {
    let target = Target::start().await;
    let encoding = |name| vec![("grpc-encoding", name)];
    let timeout = |text| vec![("grpc-timeout", text)];
    let requests = [
        ("good", good()),
        ("another format", Raw { content_type: "application/grpc+proto", ..good() }),
        ("two messages", Raw { body: &[0; 10], ..good() }),
        ("no message", Raw { body: &[], ..good() }),
        ("half a prefix", Raw { body: &[0; 2], ..good() }),
        ("half a message", Raw { body: &[0, 0, 0, 0, 5, 1], ..good() }),
        ("compressed somehow", Raw { body: &[1, 0, 0, 0, 0], ..good() }),
        ("neither compressed nor not", Raw { body: &[2, 0, 0, 0, 0], ..good() }),
        ("not gzip", Raw { body: &[1, 0, 0, 0, 3, 1, 2, 3], headers: encoding("gzip"), ..good() }),
        ("not compressed, with identity", Raw { headers: encoding("identity"), ..good() }),
        ("not compressed, with snappy", Raw { headers: encoding("snappy"), ..good() }),
        ("JSON", Raw { content_type: "application/json", ..good() }),
        ("PUT", Raw { method: Method::PUT, ..good() }),
        ("a timeout without a unit", Raw { headers: timeout("abc"), ..good() }),
        ("a long timeout", Raw { headers: timeout("123456789S"), ..good() }),
        ("a timeout below zero", Raw { headers: timeout("-1S"), ..good() }),
        ("no path", Raw { path: "/", ..good() }),
        ("half a path", Raw { path: "/foo", ..good() }),
        ("a long path", Raw { path: "/a/b/c", ..good() }),
    ];
    let mut table = Vec::new();
    for (name, raw) in requests {
        table.push((name.to_owned(), answer(&target.channel, raw).await));
    }
    target.check(table, NO_CALLS).await;
}

const NO_CALLS: &[(&str, &str)] = &[
    ("good", "200 Ok: "),
    ("another format", "200 Ok: "),
    ("two messages", "200 Ok: "),
    ("no message", "200 Unknown: EOF"),
    ("half a prefix", "200 Unknown: EOF"),
    ("half a message", "200 Unknown: unexpected EOF"),
    ("compressed somehow", "200 Internal: grpc: compressed flag set with identity or empty encoding"),
    ("neither compressed nor not", "200 Internal: grpc: received unexpected payload format 2"),
    ("not gzip", "200 Internal: grpc: failed to decompress the message"),
    ("not compressed, with identity", "200 Ok: "),
    (
        "not compressed, with snappy",
        "200 Unimplemented: grpc: Decompressor is not installed for grpc-encoding \"snappy\"",
    ),
    ("JSON", "415 InvalidArgument: invalid gRPC request content-type \"application/json\""),
    ("PUT", "405 Internal: Received a HEADERS frame with :method \"PUT\" which should be POST"),
    (
        "a timeout without a unit",
        "400 Internal: malformed grpc-timeout: transport: timeout unit is not recognized: \"abc\"",
    ),
    ("a long timeout", "400 Internal: malformed grpc-timeout: transport: timeout string is too long: \"123456789S\""),
    ("a timeout below zero", "400 Internal: malformed grpc-timeout: strconv.ParseUint: parsing \"-1\": invalid syntax"),
    ("no path", "200 Unimplemented: malformed method name: \"/\""),
    ("half a path", "200 Unimplemented: malformed method name: \"/foo\""),
    ("a long path", "200 Unimplemented: unknown service a/b"),
];

#[tokio::test]
async fn health_and_reflection_are_served() {
    let server = Server::start().await;
    let channel = server.channel().await;
    let health = call(&channel, "grpc.health.v1.Health", "Check", Bytes::new(), Some(LONG)).await.unwrap();
    assert_eq!(health.as_ref(), [8, 1], "SERVING");
    // ListServices, and in the answer the name of the workflow service.
    let list = Bytes::from_static(&[0x3a, 0]);
    for service in ["grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"] {
        let answer = call(&channel, service, "ServerReflectionInfo", list.clone(), Some(LONG)).await.unwrap();
        assert!(String::from_utf8_lossy(&answer).contains(WORKFLOW_SERVICE), "{service}");
    }
    server.stopped().await;
}
