//! What comes in at the gRPC port need not be a client: random bytes, requests that were changed on their way, connections that say nothing
//! or stop in the middle of a frame, readers that never read. Afterwards the server serves, its memory is within bounds, and what is
//! stored is as it was.
//!
//! `EVERLOG_HOSTILE_SECONDS` says for how long bytes are thrown at the server, `SEED` which.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // a test fails by panicking, also in its helpers

mod harness;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use everlog_proto::api::history::v1::History;
use everlog_proto::api::workflowservice::v1::{
    GetSystemInfoRequest, GetWorkflowExecutionHistoryRequest, StartWorkflowExecutionRequest,
};
use everlog_random::Random;
use harness::process::Process;
use harness::requests::{complete, describe, event_ids, history, list, poll_activity, poll_workflow, respond, signal};
use harness::{Client, payloads, poll, start_request, task_queue, within};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

const MIB: usize = 1 << 20;

/// Nothing that a client of good faith asks for takes longer, on whatever machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a client of HTTP/2 says first.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The settings that follow it: none.
const EMPTY_SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

/// A server with a workflow that nobody touches.
struct Target {
    server: Process,
    before: History,
    rest_bytes: usize,
    _data: tempfile::TempDir,
}

impl Target {
    async fn start() -> Target {
        let data = tempfile::tempdir().unwrap();
        let server = Process::dev(data.path()).await;
        let mut client = server.client().await;
        let untouched =
            StartWorkflowExecutionRequest { task_queue: task_queue("unpolled"), ..start_request("untouched") };
        client.start_workflow_execution(untouched).await.unwrap();
        client.signal_workflow_execution(signal("untouched", "1")).await.unwrap();
        let before = read(&mut client, "untouched").await;
        let rest_bytes = server.memory("VmRSS:");
        Target { server, before, rest_bytes, _data: data }
    }

    fn address(&self) -> SocketAddr {
        self.server.address("grpc")
    }

    /// What it has taken at most beyond what it took at rest, bytes.
    fn grown_bytes(&self) -> usize {
        self.server.memory("VmHWM:").saturating_sub(self.rest_bytes)
    }

    /// Checks that it serves new clients, that nothing has changed, and that nothing panicked.
    async fn checked(self) {
        let mut client = self.server.client().await;
        client.start_workflow_execution(within(PATIENCE, start_request("afterwards"))).await.unwrap();
        loop {
            // Changed requests may have started others.
            let task = poll(&mut client).await;
            let id = task.workflow_execution.unwrap().workflow_id;
            client.respond_workflow_task_completed(respond(task.task_token, vec![complete("done")])).await.unwrap();
            if id == "afterwards" {
                break;
            }
        }
        assert_eq!(read(&mut client, "untouched").await, self.before);
        drop(client);
        let logs = self.server.stop_for_logs().await;
        assert!(!logs.contains("panicked"), "{logs}");
    }
}

async fn read(client: &mut Client, workflow_id: &str) -> History {
    let answer =
        client.get_workflow_execution_history(within(PATIENCE, history(workflow_id, Vec::new()))).await.unwrap();
    answer.into_inner().history.unwrap()
}

fn number_from(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|number| number.parse().ok()).unwrap_or(otherwise)
}

/// What a client says on its connection, byte for byte, when it makes some calls.
async fn recorded(server: SocketAddr, endpoint: fn(Endpoint) -> Endpoint, calls: impl AsyncFnOnce(Channel)) -> Vec<u8> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let said: Arc<Mutex<Vec<u8>>> = Arc::default();
    let saying = Arc::clone(&said);
    let passing_on = tokio::spawn(async move {
        let (mut client, _) = listener.accept().await.unwrap();
        let mut server = TcpStream::connect(server).await.unwrap();
        let (mut from_client, mut to_client) = client.split();
        let (mut from_server, mut to_server) = server.split();
        let there = async {
            let mut bytes = vec![0; 64 << 10];
            while let Ok(read @ 1..) = from_client.read(&mut bytes).await {
                saying.lock().extend_from_slice(&bytes[..read]);
                to_server.write_all(&bytes[..read]).await.unwrap();
            }
        };
        tokio::select! {
            () = there => {}
            _ = tokio::io::copy(&mut from_server, &mut to_client) => {}
        }
    });
    let channel = endpoint(Channel::from_shared(url).unwrap()).connect().await.unwrap();
    calls(channel).await;
    passing_on.abort();
    let said = said.lock().clone();
    assert!(said.starts_with(PREFACE));
    said
}

/// Calls of many kinds.
async fn usual_calls(channel: Channel) {
    let mut client = Client::new(channel);
    client.get_system_info(GetSystemInfoRequest {}).await.unwrap();
    let start = StartWorkflowExecutionRequest { input: payloads(&"x".repeat(20_000)), ..start_request("other") };
    client.start_workflow_execution(start).await.unwrap();
    client.signal_workflow_execution(signal("other", "1")).await.unwrap();
    client.describe_workflow_execution(describe("other")).await.unwrap();
    client.get_workflow_execution_history(history("other", Vec::new())).await.unwrap();
    client.list_workflow_executions(list("WorkflowId = 'other'")).await.unwrap();
    let task = client.poll_workflow_task_queue(within(PATIENCE, poll_workflow("queue"))).await.unwrap().into_inner();
    let follow = GetWorkflowExecutionHistoryRequest { wait_new_event: true, ..history("other", Vec::new()) };
    client.get_workflow_execution_history(within(Duration::from_secs(2), follow)).await.unwrap();
    client.respond_workflow_task_completed(respond(task.task_token, vec![complete("done")])).await.unwrap();
    let nothing = client.poll_activity_task_queue(within(Duration::from_millis(2100), poll_activity("queue"))).await;
    nothing.unwrap();
}

/// Changes bytes in some places.
fn mutate(random: &mut Random, bytes: &mut Vec<u8>) {
    for _ in 0..=random.below(4) {
        let at = PREFACE.len() + random.below(bytes.len() - PREFACE.len());
        let end = bytes.len().min(at + 1 + random.below(100));
        match random.below(6) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.any() as u8,
            2 => drop(bytes.drain(at..end)),
            3 => {
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
            }
            4 => {
                let noise = random.up_to_bytes(50);
                bytes.splice(at..at, noise);
            }
            _ => bytes.truncate(at.max(PREFACE.len() + 1)),
        }
    }
}

/// Throws bytes at a listener until the time is over.
async fn throw(target: SocketAddr, valid: Arc<Vec<u8>>, mut random: Random, until: Instant) -> usize {
    let mut thrown = 0;
    while Instant::now() < until {
        let bytes = match random.below(4) {
            0 => random.up_to_bytes(4000),
            1 => [PREFACE, &random.up_to_bytes(4000)].concat(),
            _ => {
                let mut bytes = valid.to_vec();
                mutate(&mut random, &mut bytes);
                bytes
            }
        };
        // Refused at the door, closed in the middle: all of it is right.
        let Ok(mut stream) = TcpStream::connect(target).await else { continue };
        if stream.write_all(&bytes).await.is_ok() {
            let wait = Duration::from_millis(random.below_u64(30));
            let _ = tokio::time::timeout(wait, stream.read_to_end(&mut Vec::new())).await;
        }
        thrown += 1;
    }
    thrown
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_are_no_requests_hurt_nobody() {
    /// What a debug build grows by at most, with the workflows that changed requests start.
    const GROWTH_BYTES_MAX: usize = 256 * MIB;
    const AT_ONCE: u64 = 16;
    let seconds = number_from("EVERLOG_HOSTILE_SECONDS", 5);
    let seed = number_from("SEED", 1);
    println!("SEED={seed} EVERLOG_HOSTILE_SECONDS={seconds}");
    let target = Target::start().await;
    let mut client = target.server.client().await;
    let valid = Arc::new(recorded(target.address(), |endpoint| endpoint, usual_calls).await);
    let until = Instant::now() + Duration::from_secs(seconds);
    let mut throwing = JoinSet::new();
    for number in 0..AT_ONCE {
        throwing.spawn(throw(target.address(), Arc::clone(&valid), Random::new(seed * 1000 + number), until));
    }
    for (number, listener) in ["http", "metrics"].into_iter().enumerate() {
        let random = Random::new(seed * 1000 + AT_ONCE + number as u64);
        throwing.spawn(throw(target.server.address(listener), Arc::clone(&valid), random, until));
    }
    // Who was connected before is served all the while.
    let mut served = 0;
    while Instant::now() < until {
        client.describe_workflow_execution(within(PATIENCE, describe("untouched"))).await.unwrap();
        served += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let thrown: usize = throwing.join_all().await.into_iter().sum();
    println!("{thrown} connections, {served} calls, {} MiB more", target.grown_bytes() / MIB);
    assert!(thrown > 100, "{thrown}");
    assert!(target.grown_bytes() < GROWTH_BYTES_MAX, "{} MiB", target.grown_bytes() / MIB);
    assert!(target.server.get("http", "/health").await.starts_with("HTTP/1.1 200"));
    assert!(target.server.get("metrics", "/metrics").await.starts_with("HTTP/1.1 200"));
    target.checked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_say_nothing_take_little_and_keep_nobody_out() {
    const CONNECTIONS: usize = 20_000;
    const OPENING: usize = 64;
    const GROWTH_BYTES_MAX: usize = 96 * MIB;
    let target = Target::start().await;
    let mut silent = JoinSet::new();
    let mut served = 0;
    for number in 0..CONNECTIONS / OPENING {
        let opening = (0..OPENING).map(|_| TcpStream::connect(target.address()));
        for stream in futures::future::join_all(opening).await {
            // Each is there until the server ends it.
            let mut stream = stream.unwrap();
            silent.spawn(async move { stream.read_to_end(&mut Vec::new()).await });
        }
        while silent.try_join_next().is_some() {}
        if number % 16 == 0 {
            // A client that comes meanwhile.
            let mut client = target.server.client().await;
            client.describe_workflow_execution(within(PATIENCE, describe("untouched"))).await.unwrap();
            served += 1;
        }
    }
    println!("{} are left, {served} clients, {} MiB more", silent.len(), target.grown_bytes() / MIB);
    assert!(target.grown_bytes() < GROWTH_BYTES_MAX, "{} MiB", target.grown_bytes() / MIB);
    target.checked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_stop_in_the_middle_of_a_frame_take_little_and_keep_nobody_out() {
    const STOPPED: usize = 1000;
    const GROWTH_BYTES_MAX: usize = 256 * MIB;
    let target = Target::start().await;
    let valid = recorded(target.address(), |endpoint| endpoint, usual_calls).await;
    let mut random = Random::new(number_from("SEED", 1));
    let mut stopped = Vec::new();
    for number in 0..STOPPED {
        // The first ones in the preface and the settings, and some with nothing behind those.
        let end = if number < 60 { number + 1 } else { random.below(valid.len()) };
        let mut stream = TcpStream::connect(target.address()).await.unwrap();
        let said = if number % 50 == 0 { [PREFACE, EMPTY_SETTINGS].concat() } else { valid[..end].to_vec() };
        stream.write_all(&said).await.unwrap();
        stopped.push(stream);
    }
    let mut client = target.server.client().await;
    for number in 0..50 {
        client.start_workflow_execution(within(PATIENCE, start_request(&format!("meanwhile-{number}")))).await.unwrap();
    }
    println!("{} MiB more", target.grown_bytes() / MIB);
    assert!(target.grown_bytes() < GROWTH_BYTES_MAX, "{} MiB", target.grown_bytes() / MIB);
    drop(stopped);
    target.checked().await;
}

/// Large flow control windows: the server may send all it has.
fn with_large_windows(endpoint: Endpoint) -> Endpoint {
    endpoint.initial_stream_window_size(i32::MAX as u32).initial_connection_window_size(i32::MAX as u32)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_that_never_read_fill_no_memory_and_keep_nobody_out() {
    const CONNECTIONS: usize = 20;
    const PAGES: usize = 40;
    const LONG_POLLS: usize = 500;
    const INPUT_BYTES: usize = 2 * MIB - 1024;
    /// Of 1,600 MiB that they ask for.
    const GROWTH_BYTES_MAX: usize = 640 * MIB;
    let target = Target::start().await;
    let mut client = target.server.client().await;
    let large = StartWorkflowExecutionRequest { input: payloads(&"x".repeat(INPUT_BYTES)), ..start_request("large") };
    client.start_workflow_execution(within(PATIENCE, large)).await.unwrap();
    client.start_workflow_execution(start_request("followed")).await.unwrap();

    let pages = recorded(target.address(), with_large_windows, async |channel| {
        let read = |_| async {
            let mut client = Client::new(channel.clone()).max_decoding_message_size(4 * MIB);
            client.get_workflow_execution_history(within(PATIENCE, history("large", Vec::new()))).await.unwrap();
        };
        futures::future::join_all((0..PAGES).map(read)).await;
    });
    let pages = pages.await;
    let token = {
        let follow = GetWorkflowExecutionHistoryRequest { wait_new_event: true, ..history("followed", Vec::new()) };
        client.get_workflow_execution_history(within(PATIENCE, follow)).await.unwrap().into_inner().next_page_token
    };
    let long_polls = recorded(target.address(), with_large_windows, async |channel| {
        for _ in 0..LONG_POLLS {
            let mut client = Client::new(channel.clone());
            let token = token.clone();
            tokio::spawn(async move {
                let follow = GetWorkflowExecutionHistoryRequest { wait_new_event: true, ..history("followed", token) };
                // Never answered: its connection goes away.
                let _ = client.get_workflow_execution_history(within(PATIENCE, follow)).await;
            });
        }
        // An answer to a later request comes after they were sent.
        Client::new(channel).get_system_info(GetSystemInfoRequest {}).await.unwrap();
    });
    let long_polls = long_polls.await;

    let mut unread = Vec::new();
    for number in 0..2 * CONNECTIONS {
        let mut stream = TcpStream::connect(target.address()).await.unwrap();
        stream.write_all(if number % 2 == 0 { &pages } else { &long_polls }).await.unwrap();
        unread.push(stream);
    }
    for number in 0..50 {
        client.signal_workflow_execution(within(PATIENCE, signal("followed", &number.to_string()))).await.unwrap();
        client.start_workflow_execution(within(PATIENCE, start_request(&format!("meanwhile-{number}")))).await.unwrap();
    }
    println!("{} MiB more", target.grown_bytes() / MIB);
    assert!(target.grown_bytes() < GROWTH_BYTES_MAX, "{} MiB", target.grown_bytes() / MIB);

    // Once they are gone there is room for large answers again.
    drop(unread);
    let begin = Instant::now();
    loop {
        match client.get_workflow_execution_history(within(PATIENCE, history("large", Vec::new()))).await {
            Ok(page) => break assert_eq!(event_ids(&page.into_inner()), [1, 2]),
            Err(status) => assert_eq!(status.code(), Code::ResourceExhausted),
        }
        assert!(begin.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    target.checked().await;
}
