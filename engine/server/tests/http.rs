//! The HTTP API on a real node: what tests/http does not show, since a Temporal server answers it in another way or not at all.

#![allow(clippy::unwrap_used)] // a test fails by panicking, also in its helpers

mod harness;

use std::time::Duration;

use everlog_config::DynamicConfig;
use everlog_proto::api::workflowservice::v1::{
    GetSystemInfoResponse, SignalWorkflowExecutionRequest, StartWorkflowExecutionResponse,
};
use harness::{Server, payloads, poll};
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const ANSWER_WAIT_MAX: Duration = Duration::from_secs(20);

/// Status line, headers and body of an answer.
struct Answer {
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn status(&self) -> u16 {
        self.head.split(' ').nth(1).unwrap().parse().unwrap()
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

/// Sends a request as it is and reads until the connection ends.
async fn ask(server: &Server, head: &str, body: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(server.addresses.http).await.unwrap();
    let length = body.len();
    let head = format!("{head}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    // The server may answer, and close, before it has heard all.
    let _ = stream.write_all(body).await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(ANSWER_WAIT_MAX, stream.read_to_end(&mut answer)).await.unwrap();
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
    let body = answer.split_off(end + 4);
    Answer { head: String::from_utf8(answer).unwrap().to_lowercase(), body }
}

async fn get(server: &Server, path: &str) -> Answer {
    ask(server, &format!("GET {path} HTTP/1.1\r\nhost: localhost"), b"").await
}

async fn post(server: &Server, path: &str, json: &str) -> Answer {
    ask(server, &format!("POST {path} HTTP/1.1\r\nhost: localhost"), json.as_bytes()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_starts_a_workflow_that_a_worker_takes() {
    let server = Server::start().await;
    let json = r#"{"workflowType": {"name": "type"}, "taskQueue": {"name": "queue"}, "input": [{"b": 1,  "a": 1.50}]}"#;
    let started = post(&server, "/namespaces/default/workflows/order%2F42", json).await;
    assert_eq!(started.status(), 200, "{}", started.text());
    let task = poll(&mut server.client().await).await;
    assert_eq!(task.workflow_execution.unwrap().workflow_id, "order/42");
    let history = get(&server, "/namespaces/default/workflows/order%2F42/history?pretty").await;
    assert!(history.text().contains(r#""b": 1,"#), "{}", history.text());
    assert!(history.text().contains(r#""a": 1.50"#), "{}", history.text());
    assert!(history.head.contains("content-type: application/json+pretty"), "{}", history.head);
    let doubled = get(&server, "/api/v1/namespaces/default/workflows/order%252F42").await;
    assert!(doubled.text().contains(r#""workflowId":"order/42""#), "{}", doubled.text());
    server.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_are_statuses_with_details() {
    let server = Server::start().await;
    let unknown = get(&server, "/namespaces/nope/workflows").await;
    assert_eq!(unknown.status(), 404);
    assert_eq!(
        unknown.text(),
        r#"{"code":5,"message":"Namespace nope is not found.","details":[{"@type":"type.googleapis.com/temporal.api.errordetails.v1.NamespaceNotFoundFailure","namespace":"nope"}]}"#
    );
    for (path, status, text) in [
        ("/nothing", 404, r#"{"code":5,"message":"Not Found"}"#),
        ("/namespaces/default/../default/workflows", 404, r#"{"code":5,"message":"Not Found"}"#),
        ("/namespaces/default/workflows/%00%ff%2e%2e%2f", 404, r#"{"code":5,"message":"workflow not found"#),
        ("/namespaces/default/workflows?pageSize=x", 400, r#"strconv.ParseInt: parsing \"x\": invalid syntax"#),
        ("/namespaces/default/workflows?pageSize=%", 400, "parsing"),
        ("/namespaces/default/workflows?maximum.page.size=1&=&&x", 200, ""),
    ] {
        let answer = get(&server, path).await;
        assert_eq!(answer.status(), status, "{path}: {}", answer.text());
        assert!(answer.text().contains(text), "{path}: {}", answer.text());
    }
    let late = ask(&server, "GET /cluster HTTP/1.1\r\nhost: localhost\r\ngrpc-timeout: 0n", b"").await;
    assert_eq!(late.status(), 504, "{}", late.text());
    let not_utf8 = ask(&server, "POST /namespaces/default/workflows/w HTTP/1.1\r\nhost: localhost", b"{\"a\xff").await;
    assert_eq!(not_utf8.status(), 400);
    server.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_go_in_and_out_as_they_are_encoded() {
    let server = Server::start().await;
    let json = r#"{"workflowType": {"name": "type"}, "taskQueue": {"name": "queue"}}"#;
    let head = "POST /namespaces/default/workflows/w HTTP/1.1\r\nhost: localhost\r\naccept: application/x-protobuf";
    let started = ask(&server, head, json.as_bytes()).await;
    assert!(started.head.contains("content-type: application/x-protobuf"), "{}", started.head);
    assert!(StartWorkflowExecutionResponse::decode(started.body.as_slice()).unwrap().started);
    let signal =
        SignalWorkflowExecutionRequest { input: payloads("\u{1}"), ..SignalWorkflowExecutionRequest::default() };
    let head = "POST /namespaces/default/workflows/w/signal/go HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/x-protobuf";
    let signalled = ask(&server, head, &signal.encode_to_vec()).await;
    assert_eq!(signalled.status(), 200, "{}", signalled.text());
    let garbage = ask(&server, head, b"\xff\xff").await;
    assert_eq!(garbage.status(), 400, "{}", garbage.text());
    let info =
        ask(&server, "GET /system-info HTTP/1.1\r\nhost: localhost\r\naccept: application/x-protobuf", b"").await;
    assert!(GetSystemInfoResponse::decode(info.body.as_slice()).unwrap().capabilities.is_some());
    server.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_answers_are_compressed_and_large_requests_are_refused() {
    let server = Server::start().await;
    let value = "x".repeat(100_000);
    let json = format!(r#"{{"workflowType": {{"name": "t"}}, "taskQueue": {{"name": "q"}}, "input": ["{value}"]}}"#);
    assert_eq!(post(&server, "/namespaces/default/workflows/w", &json).await.status(), 200);
    let head = "GET /namespaces/default/workflows/w/history HTTP/1.1\r\nhost: localhost\r\naccept-encoding: br, gzip";
    let history = ask(&server, head, b"").await;
    assert!(history.head.contains("content-encoding: gzip"), "{}", history.head);
    assert!(history.body.len() < 10_000, "{} bytes", history.body.len());
    let plain = get(&server, "/namespaces/default/workflows/w/history").await;
    assert!(plain.text().contains(&value));
    let too_large = format!(r#"{{"input": ["{}"]}}"#, "x".repeat(5 << 20));
    let refused = post(&server, "/namespaces/default/workflows/large", &too_large).await;
    assert_eq!(refused.status(), 429, "{}", refused.text());
    assert!(refused.text().contains("received message larger than max"), "{}", refused.text());
    assert_eq!(get(&server, "/cluster").await.status(), 200);
    server.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_that_are_not_allowed_are_refused() {
    let mut config = DynamicConfig::default();
    config.frontend.http_hosts = vec!["*.internal".to_owned(), "localhost".to_owned()];
    let server = Server::with(1, config).await;
    let status = async |host: &str| {
        let answer = ask(&server, &format!("GET /cluster HTTP/1.1\r\nhost: {host}"), b"").await;
        (answer.status(), answer.text().contains("Host not allowed"))
    };
    assert_eq!(status("localhost").await, (200, false));
    assert_eq!(status("a.Internal").await, (200, false));
    assert_eq!(status("internal").await, (403, true));
    assert_eq!(status("localhost:80").await, (403, true));
    assert_eq!(status("evil.example").await, (403, true));
    server.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_do_not_arrive_keep_nobody_out() {
    let server = Server::start().await;
    let mut slow = Vec::new();
    for _ in 0..40 {
        let mut stream = TcpStream::connect(server.addresses.http).await.unwrap();
        let head =
            "POST /namespaces/default/workflows/w HTTP/1.1\r\nhost: localhost\r\ncontent-length: 4000000\r\n\r\n{";
        stream.write_all(head.as_bytes()).await.unwrap();
        slow.push(stream);
    }
    for _ in 0..10 {
        assert_eq!(get(&server, "/cluster").await.status(), 200);
    }
    assert!(get(&server, "/health").await.text().contains("SERVING"));
    drop(slow);
    server.stopped().await;
}
