//! Connections: how many there may be, and how long a silent one lasts.

#![allow(clippy::unwrap_used)] // a test fails by panicking, also in its helpers

mod harness;

use std::path::Path;
use std::time::Duration;

use harness::process::{ANY_PORTS, Process, everlog};
use harness::requests::signal;
use harness::{payloads, start_request};
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

/// `everlog server` whose connections may be silent for a second.
async fn impatient(directory: &Path) -> Process {
    let file = directory.join("everlog.toml");
    let settings = "ephemeral = true\n[listen]\nport = 0\nhttp_port = 0\nmetrics_port = 0\nhandshake_timeout = \"1s\"";
    std::fs::write(&file, settings).unwrap();
    let mut command = everlog();
    command.arg("server").arg("--config").arg(&file);
    Process::start(command).await
}

/// Asks for an answer of which little fits between server and client.
async fn ask_for_much(server: &Process, run_id: &str) -> TcpStream {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(64 << 10).unwrap();
    let mut stream = socket.connect(server.address("http")).await.unwrap();
    let path = format!("/api/v1/namespaces/default/workflows/large/run/{run_id}/history.json");
    let head = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

/// A figure of the metrics.
async fn figure(server: &Process, name: &str) -> f64 {
    let metrics = server.get("metrics", "/metrics").await;
    let line = metrics.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name}: {metrics}"));
    line.trim().parse().unwrap()
}

#[tokio::test]
async fn who_reads_slowly_gets_all_of_his_answer_and_who_does_not_read_loses_his_place() {
    let directory = tempfile::tempdir().unwrap();
    let server = impatient(directory.path()).await;
    let mut client = server.client().await;
    let started = client.start_workflow_execution(start_request("large")).await.unwrap().into_inner();
    // More than the system takes by itself for somebody who does not read.
    for number in 0..8 {
        let mut signal = signal("large", &number.to_string());
        signal.input = payloads(&"x".repeat(1900 << 10));
        client.signal_workflow_execution(signal).await.unwrap();
    }
    let mut stalled = ask_for_much(&server, &started.run_id).await;
    let mut slow = ask_for_much(&server, &started.run_id).await;
    // It takes several times as long as somebody may be silent.
    let (mut read, mut taken) = (Vec::new(), vec![0; 200 << 10]);
    loop {
        let mut filled = 0;
        while filled < taken.len() {
            match slow.read(&mut taken[filled..]).await.unwrap() {
                0 => break,
                bytes => filled += bytes,
            }
        }
        read.extend(&taken[..filled]);
        if filled < taken.len() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(40)).await;
    }
    assert!(read.len() > 8 * (1900 << 10) && read.ends_with(b"]\r\n0\r\n\r\n"), "{} bytes have come", read.len());

    // The other one has been gone for long: what is left of its answer is what was on the way.
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(20), stalled.read_to_end(&mut rest)).await;
    assert!(ended.is_ok() && rest.len() < read.len(), "{ended:?} {} of {} bytes", rest.len(), read.len());
    // So has the slow one, once it had all.
    for look in 0.. {
        if figure(&server, "everlog_connections{listener=\"http\"}").await == 0.0 {
            break;
        }
        assert!(look < 400, "connections stay that nobody reads from");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    server.stop().await;
}

#[tokio::test]
async fn a_request_that_drips_in_is_not_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let server = impatient(directory.path()).await;
    let mut stream = TcpStream::connect(server.address("http")).await.unwrap();
    stream.write_all(b"GET /cluster HTTP/1.1\r\n").await.unwrap();
    let mut bytes = 0;
    // Each of them comes in time.
    while tokio::time::timeout(Duration::from_millis(100), stream.read(&mut [0])).await.is_err() {
        // An error is as good as an end.
        bytes += usize::from(stream.write_all(b"x").await.is_ok());
        assert!(bytes < 300, "the head of a request is waited for");
    }
    server.stop().await;
}
