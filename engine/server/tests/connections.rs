//! Connections: how many there may be, and how long a silent one lasts.

#![allow(clippy::unwrap_used)] // a test fails by panicking, also in its helpers

mod harness;

use std::path::Path;
use std::time::Duration;

use harness::process::{ANY_PORTS, Process, everlog};
use harness::start_request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Descriptors of the server, soft and hard; more silent connections than there is room for.
const DESCRIPTORS: usize = 256;
const SILENT: usize = 400;

/// `everlog dev` with few descriptors.
async fn with_few_descriptors(data: &Path) -> Process {
    let mut command = std::process::Command::new("sh");
    command.arg("-c").arg(format!("ulimit -n {DESCRIPTORS}; exec \"$@\"")).arg("sh").arg(everlog().get_program());
    command.arg("dev").args(ANY_PORTS).arg("--data-dir").arg(data);
    Process::start(command).await
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_leave_the_others_their_descriptors() {
    let data = tempfile::tempdir().unwrap();
    let server = with_few_descriptors(data.path()).await;
    let mut client = server.client().await;
    client.start_workflow_execution(start_request("before")).await.unwrap();

    let mut silent = Vec::new();
    for _ in 0..SILENT {
        silent.push(TcpStream::connect(server.address("grpc")).await.unwrap());
    }
    // Those for which there is no room are closed, and not left waiting at the door: the ones that have been silent for longest.
    for stream in &mut silent[..SILENT - DESCRIPTORS] {
        let closed = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut Vec::new())).await;
        assert!(closed.is_ok());
    }
    let cpu_before = server.cpu_time();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let cpu = server.cpu_time() - cpu_before;
    assert!(cpu < Duration::from_millis(500), "{cpu:?} of CPU in a second in which nothing happens");

    for number in 0..50 {
        client.start_workflow_execution(start_request(&format!("meanwhile-{number}"))).await.unwrap();
    }
    assert!(server.get("http", "/health").await.starts_with("HTTP/1.1 200"));
    let metrics = server.get("metrics", "/metrics").await;
    let refused = metrics.lines().find(|line| line.starts_with("everlog_connections_refused_total{listener=\"grpc\"}"));
    assert!(refused.is_some_and(|line| !line.ends_with(" 0")), "{metrics}");

    // A new client finds a place at once, although they are still there.
    let mut another = server.client().await;
    another.start_workflow_execution(start_request("after")).await.unwrap();
    drop(silent);
    server.stop().await;
}

#[tokio::test]
async fn a_connection_that_never_speaks_is_closed_and_one_that_has_spoken_stays() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("everlog.toml");
    let settings =
        "ephemeral = true\n[listen]\nport = 0\nhttp_port = 0\nmetrics_port = 0\nhandshake_timeout = \"300ms\"";
    std::fs::write(&file, settings).unwrap();
    let mut command = everlog();
    command.arg("server").arg("--config").arg(&file);
    let server = Process::start(command).await;
    let mut client = server.client().await;
    client.start_workflow_execution(start_request("before")).await.unwrap();
    for listener in ["grpc", "http", "metrics"] {
        let mut silent = TcpStream::connect(server.address(listener)).await.unwrap();
        let closed = tokio::time::timeout(Duration::from_secs(10), silent.read_to_end(&mut Vec::new())).await;
        assert!(closed.is_ok(), "{listener}");
    }
    // Who waits for an answer need not speak; who has stopped in the middle of a request must.
    let mut half = TcpStream::connect(server.address("http")).await.unwrap();
    half.write_all(b"GET /cluster HTTP/1.1\r\nhost").await.unwrap();
    let mut waiting = TcpStream::connect(server.address("http")).await.unwrap();
    let path = "/namespaces/default/workflows/before/history?waitNewEvent=true&historyEventFilterType=CloseEvent";
    let head = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\ngrpc-timeout: 2S\r\nconnection: close\r\n\r\n");
    waiting.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(Duration::from_secs(20), waiting.read_to_end(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    let closed = tokio::time::timeout(Duration::from_secs(10), half.read_to_end(&mut Vec::new())).await;
    assert!(closed.is_ok());
    client.start_workflow_execution(start_request("after")).await.unwrap();
    server.stop().await;
}
