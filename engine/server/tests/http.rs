//! The HTTP API on a real node: what tests/http does not show, since a Temporal server answers it in another way or not at all.

#![allow(clippy::unwrap_used)] // a test fails by panicking, also in its helpers

mod harness;

use std::time::Duration;

use everlog_config::{DynamicConfig, HttpAccess, Listen};
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
    // The server may answer, and close, before it has heard all.
    let _ = stream.write_all(head.as_bytes()).await;
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
        ("/namespaces/default/workflows?pageSize=%", 400, r#"invalid URL escape \"%\""#),
        ("/namespaces/default/workflows?maximum.page.size=1&=&&x", 200, ""),
        ("/namespaces/default/workflows/w/../../../../cluster", 404, "Not Found"),
        ("//cluster", 404, "Not Found"),
        ("/cluster/", 404, "Not Found"),
        ("/%63luster", 404, "Not Found"),
        ("/cluster%2Fnamespaces", 404, "Not Found"),
        ("/api/v1/../../cluster", 404, "Not Found"),
        ("/api/v1", 404, "Not Found"),
        ("/api/v1/swagger.json/", 404, "Not Found"),
        ("/namespaces//workflows", 400, "Namespace is empty."),
        ("/namespaces/%2e%2e/workflows", 404, "Namespace .. is not found."),
        ("/namespaces/default/workflows/%", 404, "workflow not found for ID: %"),
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
    assert!(refused.head.contains("\r\nretry-after: 1"), "{}", refused.head);
    assert_eq!(get(&server, "/cluster").await.status(), 200);
    server.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documents_are_sent_compressed_to_who_takes_it() {
    let server = Server::start().await;
    let head = "GET /swagger.json HTTP/1.1\r\nhost: localhost\r\naccept-encoding: gzip";
    let compressed = ask(&server, head, b"").await;
    assert_eq!(compressed.status(), 200);
    assert!(compressed.head.contains("content-encoding: gzip"), "{}", compressed.head);
    let plain = get(&server, "/api/v1/swagger.json").await;
    assert!(plain.text().contains(r#""/namespaces/{namespace}/workflows/{workflowId}": {"#));
    assert!(compressed.body.len() * 4 < plain.body.len(), "{} bytes", compressed.body.len());
    assert!(get(&server, "/openapi.yaml").await.text().contains("  /namespaces/{namespace}/workflows/{workflowId}:\n"));
    server.stopped().await;
}

/// A body that was sent in parts, whose lengths stand between them.
fn joined(answer: &Answer) -> String {
    assert!(answer.head.contains("transfer-encoding: chunked"), "{}", answer.head);
    let (mut rest, mut joined) = (answer.text(), String::new());
    while let Some((length, behind)) = rest.split_once("\r\n") {
        let (part, behind) = behind.split_at(usize::from_str_radix(length, 16).unwrap());
        joined.push_str(part);
        rest = behind.strip_prefix("\r\n").unwrap();
    }
    joined
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_the_web_ui_get_settings_and_whole_histories() {
    let mut config = DynamicConfig::default();
    config.frontend.history_page_events_max = 2;
    let server = Server::with(1, config).await;
    let json = r#"{"workflowType": {"name": "type"}, "taskQueue": {"name": "queue"}}"#;
    let started = post(&server, "/namespaces/default/workflows/a%2Fb", json).await;
    let run_id = started.text().split('"').nth(3).unwrap().to_owned();
    for number in 0..5 {
        let input = format!(r#"{{"input": [{number}]}}"#);
        let signalled = post(&server, "/namespaces/default/workflows/a%2Fb/signal/go", &input).await;
        assert_eq!(signalled.status(), 200);
    }
    let history =
        get(&server, &format!("/api/v1/namespaces/default/workflows/a%252Fb/run/{run_id}/history.json")).await;
    assert_eq!(history.status(), 200);
    let history = joined(&history);
    let events: Vec<_> =
        history.strip_prefix('[').unwrap().strip_suffix(']').unwrap().trim_end().split("\n,").collect();
    assert_eq!(events.len(), 7, "{history}");
    for (at, event) in events.iter().enumerate() {
        assert!(event.starts_with(&format!(r#"{{"event_id":{}"#, at + 1)), "{event}");
        assert!(event.contains(r#""event_time":{"seconds":"#), "{event}");
    }
    assert!(events[6].contains(r#""event_type":26"#), "{history}");
    assert!(
        events[6].contains(r#""Attributes":{"WorkflowExecutionSignaledEventAttributes":{"signal_name":"go""#),
        "{history}"
    );
    let head = format!(
        "GET /api/v1/namespaces/default/workflows/a%252Fb/run/{run_id}/history.json HTTP/1.1\r\nhost: localhost\r\naccept-encoding: gzip"
    );
    assert!(ask(&server, &head, b"").await.head.contains("content-encoding: gzip"));
    let unknown = get(&server, "/api/v1/namespaces/default/workflows/nobody/run//history.json").await;
    assert_eq!(unknown.status(), 200);
    let problem = r#"[{"error":"rpc error: code = NotFound desc = workflow not found for ID: nobody"}"#;
    assert_eq!(joined(&unknown), format!("{problem}\n]"));
    let settings = get(&server, "/api/v1/settings").await;
    assert!(settings.text().contains(r#""WorkflowTerminateDisabled":false"#), "{}", settings.text());
    assert!(settings.text().contains(r#""Auth":{"Enabled":false,"#), "{}", settings.text());
    server.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn long_polls_end_before_their_callers_give_up() {
    let server = Server::start().await;
    let json = r#"{"workflowType": {"name": "type"}, "taskQueue": {"name": "queue"}}"#;
    assert_eq!(post(&server, "/namespaces/default/workflows/w", json).await.status(), 200);
    let path = "/namespaces/default/workflows/w/history?waitNewEvent=true&historyEventFilterType=2";
    let waited = ask(&server, &format!("GET {path} HTTP/1.1\r\nhost: localhost\r\ngrpc-timeout: 2S"), b"").await;
    assert_eq!(waited.status(), 200, "{}", waited.text());
    assert!(waited.text().contains("nextPageToken"), "{}", waited.text());
    server.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_other_origins_are_not_let_in() {
    let server = Server::start().await;
    let origin = "host: localhost\r\norigin: https://elsewhere.example";
    let asked = format!("OPTIONS /cluster HTTP/1.1\r\n{origin}\r\naccess-control-request-method: POST");
    let asked = ask(&server, &asked, b"").await;
    assert_eq!(asked.status(), 501, "{}", asked.text());
    let read = ask(&server, &format!("GET /cluster HTTP/1.1\r\n{origin}"), b"").await;
    assert_eq!(read.status(), 200);
    let json = br#"{"workflowType": {"name": "type"}, "taskQueue": {"name": "queue"}}"#;
    let start = "POST /namespaces/default/workflows/w HTTP/1.1";
    // What a form sends needs nobody's leave, and is not taken as JSON for all that.
    let form = format!("{start}\r\n{origin}\r\ncontent-type: text/plain");
    let started = ask(&server, &form, json).await;
    assert_eq!((started.status(), started.text()), (403, r#"{"code":7,"message":"Origin not allowed"}"#));
    for answer in [asked, read, started] {
        assert!(!answer.head.contains("access-control"), "{}", answer.head);
    }
    assert_eq!(get(&server, "/namespaces/default/workflows/w").await.status(), 404);
    // `curl -d` says the same of what it sends, and is no page.
    let curl = format!("{start}\r\nhost: localhost\r\ncontent-type: application/x-www-form-urlencoded");
    assert_eq!(ask(&server, &curl, json).await.status(), 200);
    server.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_an_origin_that_is_listed_call_as_everybody_does() {
    let http = HttpAccess { origins: vec!["https://ui.example.com".parse().unwrap()], ..HttpAccess::default() };
    let server = Server::listening(Listen { http, ..Listen::default() }).await;
    let page = |verb: &str, origin: &str, more: &str| {
        let path = "/namespaces/default/workflows/w";
        format!("{verb} {path} HTTP/1.1\r\nhost: localhost\r\norigin: {origin}\r\n{more}")
    };
    let (ui, json) = ("https://ui.example.com", "content-type: application/json");
    let asked = page("OPTIONS", ui, "access-control-request-method: POST\r\naccess-control-request-headers: x");
    let asked = ask(&server, &asked, b"").await;
    assert_eq!(asked.status(), 204);
    assert!(asked.head.contains("access-control-allow-origin: https://ui.example.com\r\n"), "{}", asked.head);
    assert!(asked.head.contains("access-control-allow-methods: get, post, delete\r\n"), "{}", asked.head);
    let start = br#"{"workflowType": {"name": "type"}, "taskQueue": {"name": "queue"}}"#;
    let started = ask(&server, &page("POST", ui, json), start).await;
    assert_eq!(started.status(), 200, "{}", started.text());
    assert!(started.head.contains("access-control-allow-origin: https://ui.example.com\r\n"), "{}", started.head);
    // Errors can be read, too.
    let again = br#"{"workflowType": {"name": "type"}, "taskQueue": {"name": "queue"}, "workflowIdReusePolicy": 3}"#;
    let failed = ask(&server, &page("POST", ui, json), again).await;
    assert_eq!(failed.status(), 409, "{}", failed.text());
    assert!(failed.head.contains("access-control-allow-origin: https://ui.example.com\r\n"), "{}", failed.head);
    for origin in ["https://ui.example.com.evil.example", "http://ui.example.com", "null"] {
        let refused = ask(&server, &page("POST", origin, json), start).await;
        assert_eq!(refused.status(), 403, "{origin}");
        assert!(!refused.head.contains("access-control"), "{origin}: {}", refused.head);
        assert!(refused.head.contains("vary: origin\r\n"), "{origin}: {}", refused.head);
    }
    server.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_compressed_as_their_callers_take_it() {
    let server = Server::start().await;
    let plain = get(&server, "/openapi.yaml").await;
    let asked = |takes: &str| format!("GET /openapi.yaml HTTP/1.1\r\nhost: localhost\r\naccept-encoding: {takes}");
    let zstd = ask(&server, &asked("gzip, br, zstd"), b"").await;
    assert!(zstd.head.contains("content-encoding: zstd\r\n"), "{}", zstd.head);
    assert_eq!(zstd.body[..4], 0xfd2f_b528_u32.to_le_bytes());
    let gzip = ask(&server, &asked("gzip, br, zstd;q=0.5"), b"").await;
    assert!(gzip.head.contains("content-encoding: gzip\r\n"), "{}", gzip.head);
    assert_eq!(gzip.body[..2], [0x1f, 0x8b]);
    for compressed in [&zstd, &gzip] {
        assert!(compressed.body.len() < plain.body.len() / 3);
    }
    server.stopped().await;
}

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// The next frame: its kind, its stream and what is in it.
async fn next_frame(stream: &mut TcpStream) -> Option<(u8, u32, Vec<u8>)> {
    let mut head = [0; 9];
    let read = tokio::time::timeout(ANSWER_WAIT_MAX, stream.read_exact(&mut head)).await.unwrap();
    read.ok()?;
    let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
    stream.read_exact(&mut payload).await.ok()?;
    Some((head[3], u32::from_be_bytes([head[5], head[6], head[7], head[8]]), payload))
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const GO_AWAY: u8 = 7;
const END_STREAM_AND_HEADERS: u8 = 5;

/// GET of `/cluster` from `a`, in the terms of HPACK.
fn get_cluster() -> Vec<u8> {
    // :method GET and :scheme http of the table; :path and :authority by the table's names.
    let mut block = vec![0x82, 0x86, 0x04, 8];
    block.extend(b"/cluster");
    block.extend([0x01, 1, b'a']);
    block
}

#[tokio::test(flavor = "multi_thread")]
async fn http_2_is_spoken_in_the_clear_and_not_for_long_to_who_resets_all_he_asks() {
    let server = Server::start().await;
    let mut stream = TcpStream::connect(server.addresses.http).await.unwrap();
    let begin = [PREFACE, &frame(SETTINGS, 0, 0, &[]), &frame(HEADERS, END_STREAM_AND_HEADERS, 1, &get_cluster())];
    stream.write_all(&begin.concat()).await.unwrap();
    let answer = loop {
        let (kind, of, payload) = next_frame(&mut stream).await.unwrap();
        if kind == HEADERS && of == 1 {
            break payload;
        }
    };
    // :status 200 of the table.
    assert_eq!(answer[0], 0x88);

    let mut resets = Vec::new();
    for stream in (3..20_003).step_by(2) {
        resets.extend(frame(HEADERS, END_STREAM_AND_HEADERS, stream, &get_cluster()));
        resets.extend(frame(RESET, 0, stream, &8_u32.to_be_bytes()));
    }
    // The server ends the connection before it has heard all.
    let _ = stream.write_all(&resets).await;
    let why = loop {
        match next_frame(&mut stream).await {
            Some((GO_AWAY, _, payload)) => break Some(payload[7]),
            Some(_) => {}
            // What it has not read has taken its last word from the wire.
            None => break None,
        }
    };
    const ENHANCE_YOUR_CALM: u8 = 11;
    assert!(why.is_none_or(|why| why == ENHANCE_YOUR_CALM), "{why:?}");
    assert_eq!(get(&server, "/cluster").await.status(), 200);
    server.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_of_requests_are_bounded_and_answered_in_their_order() {
    let server = Server::start().await;
    let huge = format!("GET /cluster HTTP/1.1\r\nhost: a\r\nx: {}", "x".repeat(100 << 10));
    assert_eq!(ask(&server, &huge, b"").await.status(), 431);
    let many = format!("GET /cluster HTTP/1.1\r\nhost: a{}", "\r\nx: y".repeat(200));
    assert_eq!(ask(&server, &many, b"").await.status(), 431);
    let long = format!("GET /{} HTTP/1.1\r\nhost: a", "x".repeat(100 << 10));
    let status = ask(&server, &long, b"").await.status();
    assert!([414, 431].contains(&status), "{status}");
    let pipelined = "GET /cluster HTTP/1.1\r\nhost: a\r\n\r\nGET /nowhere HTTP/1.1\r\nhost: a\r\n\r\nGET /health HTTP/1.1\r\nhost: a";
    let answers = ask(&server, pipelined, b"").await;
    let text = format!("{}{}", answers.head, answers.text());
    let at = |status: &str| text.to_lowercase().find(&format!("http/1.1 {status}")).unwrap();
    assert!(at("200") < at("404") && text.ends_with(r#"{"status":"SERVING"}"#), "{text}");
    for path in ["/cluster/../health", "//cluster", "/cluster/", "/%63luster/..", "/namespaces//workflows", "*"] {
        let status = get(&server, path).await.status();
        assert!([400, 404, 501].contains(&status), "{path}: {status}");
    }
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
