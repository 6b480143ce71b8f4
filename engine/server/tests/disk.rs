//! A disk that is nearly full.

#![allow(clippy::unwrap_used)] // a test fails by panicking, also in its helpers

mod harness;

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use everlog_proto::api::common::v1::{Payload, Payloads};
use harness::process::{ANY_PORTS, Process, everlog};
use harness::requests::{complete, describe, poll_workflow, respond, signal, terminate};
use harness::wire::told;
use harness::{Client, Server, start_request, within};
use tonic::{Code, Status};

const MIB: u64 = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(30);

/// Everything that a client may and may not do while there is no room.
async fn while_short(client: &mut Client, task_token: Vec<u8>) {
    let refused = |status: Status| {
        let line = told(&status);
        assert!(line.starts_with("ResourceExhausted: the disk has no room for new work"), "{line}");
        assert!(line.contains("cause: PersistenceStorageLimit") || line.contains("cause: 7"), "{line}");
    };
    refused(client.start_workflow_execution(start_request("new")).await.unwrap_err());
    refused(client.signal_workflow_execution(signal("worked on", "request")).await.unwrap_err());
    client.describe_workflow_execution(describe("worked on")).await.unwrap();
    client.respond_workflow_task_completed(respond(task_token, vec![complete("done")])).await.unwrap();
    client.terminate_workflow_execution(terminate("waiting")).await.unwrap();
}

async fn begin(client: &mut Client) -> Vec<u8> {
    client.start_workflow_execution(start_request("worked on")).await.unwrap();
    let polled = client.poll_workflow_task_queue(within(PATIENCE, poll_workflow("queue"))).await.unwrap().into_inner();
    client.start_workflow_execution(start_request("waiting")).await.unwrap();
    polled.task_token
}

#[tokio::test(flavor = "multi_thread")]
async fn without_room_nothing_new_begins_and_what_was_begun_ends() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let task_token = begin(&mut client).await;
    server.disk.note(0, MIB, false);
    while_short(&mut client, task_token).await;
    server.disk.note(2 * MIB, MIB, false);
    client.start_workflow_execution(start_request("after")).await.unwrap();
    server.stopped().await;
}

/// A file system in memory, while it is mounted.
struct Small<'a>(&'a Path);

impl<'a> Small<'a> {
    /// None without the right to mount.
    fn mount(path: &'a Path, bytes: u64) -> Option<Small<'a>> {
        let size = format!("size={bytes}");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(path).output();
        mounted.is_ok_and(|output| output.status.success()).then_some(Small(path))
    }
}

impl Drop for Small<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fills_up_refuses_and_serves_again_once_there_is_room() {
    let directory = tempfile::tempdir().unwrap();
    let Some(_mounted) = Small::mount(directory.path(), 512 * MIB) else {
        // The refusals themselves are tested above.
        return;
    };
    let mut command = everlog();
    command.arg("dev").args(ANY_PORTS).arg("--data-dir").arg(directory.path().join("data"));
    command.args(["--disk-free-bytes-min", &(128 * MIB).to_string(), "--disk-free-percent-min", "100"]);
    let server = Process::start(command).await;
    let mut client = server.client().await;
    let task_token = begin(&mut client).await;

    let ballast = directory.path().join("ballast");
    fill(&ballast, directory.path(), 64 * MIB);
    until(async || server.get("metrics", "/metrics").await.contains("everlog_disk_short 1")).await;
    while_short(&mut client, task_token).await;

    std::fs::remove_file(&ballast).unwrap();
    until(async || server.get("metrics", "/metrics").await.contains("everlog_disk_short 0")).await;
    client.start_workflow_execution(start_request("after")).await.unwrap();
    server.stop().await;
}

/// With the settings that everybody has, and requests as large as they may be.
#[tokio::test(flavor = "multi_thread")]
async fn a_small_disk_is_not_filled_to_the_end() {
    let directory = tempfile::tempdir().unwrap();
    let Some(_mounted) = Small::mount(directory.path(), 512 * MIB) else { return };
    let mut command = everlog();
    command.arg("dev").args(ANY_PORTS).arg("--data-dir").arg(directory.path().join("data"));
    let server = Process::start(command).await;
    let mut client = server.client().await;
    let mut random = everlog_random::Random::new(1);
    let mut refused = None;
    for number in 0..600 {
        let mut request = start_request(&format!("large-{number}"));
        let payload = Payload { data: random.bytes(MIB as usize), ..Payload::default() };
        request.input = Some(Payloads { payloads: vec![payload] });
        if let Err(status) = client.start_workflow_execution(request).await {
            refused = Some((number, status));
            break;
        }
    }
    let (begun, status) = refused.unwrap();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert!(begun > 50, "{begun} were begun");
    client.describe_workflow_execution(describe("large-0")).await.unwrap();
    client.terminate_workflow_execution(terminate("large-0")).await.unwrap();
    server.stop().await;
}

/// Somebody else takes all that is left.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_on_a_full_disk_stops_and_has_everything_when_there_is_room() {
    let directory = tempfile::tempdir().unwrap();
    let Some(_mounted) = Small::mount(directory.path(), 256 * MIB) else { return };
    let data = directory.path().join("data");
    let mut server = Process::dev(&data).await;
    let mut client = server.client().await;
    for number in 0..20 {
        client.start_workflow_execution(start_request(&format!("w-{number}"))).await.unwrap();
    }
    let ballast = directory.path().join("ballast");
    let mut file = File::create(&ballast).unwrap();
    while file.write_all(&[0; 4096]).is_ok() {}
    drop(file);
    server.signal("TERM");
    assert_eq!(server.ended().await.code(), Some(1));
    std::fs::remove_file(&ballast).unwrap();
    let server = Process::dev(&data).await;
    let mut client = server.client().await;
    for number in 0..20 {
        client.describe_workflow_execution(describe(&format!("w-{number}"))).await.unwrap();
    }
    server.stop().await;
}

/// Writes to `file` until only so many bytes are free in `directory`.
fn fill(file: &Path, directory: &Path, free: u64) {
    let mut file = File::create(file).unwrap();
    while nix::sys::statvfs::statvfs(directory).unwrap().blocks_available() * 4096 > free {
        file.write_all(&vec![0; MIB as usize]).unwrap();
    }
}

async fn until(holds: impl AsyncFn() -> bool) {
    let begin = Instant::now();
    while !holds().await {
        assert!(begin.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
